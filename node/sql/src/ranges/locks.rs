//! `crdb_internal.cluster_locks`: who holds which key, and who waits for it.

use bytes::Bytes;
use crdb_keys::encoding::next_key;
use crdb_keys::{Span, Timestamp, layout};
use crdb_proto::kv::{self, Isolation, LockInfo, LockStrength, request, response};

use super::columns::{Object, micros};
use super::{RangeInfo, load, pretty};
use crate::catalog::CatalogData;
use crate::datum::{Datum, Interval, Row};
use crate::error::{Result, SqlError};
use crate::func::system_names::PUBLIC;
use crate::kv::{Batch, sql};
use crate::node::SqlNode;
use crate::session::SessionInfo;
use crate::types::SqlType as S;

/// The columns.
pub(crate) const COLUMNS: [(&str, S); 16] = [
    ("range_id", S::Int8),
    ("table_id", S::Int8),
    ("database_name", S::Text),
    ("schema_name", S::Text),
    ("table_name", S::Text),
    ("index_name", S::Text),
    ("lock_key", S::Bytea),
    ("lock_key_pretty", S::Text),
    ("txn_id", S::Uuid),
    ("ts", S::Timestamp),
    ("lock_strength", S::Text),
    ("durability", S::Text),
    ("granted", S::Bool),
    ("contended", S::Bool),
    ("duration", S::Interval),
    ("isolation_level", S::Text),
];

/// The rows: for each lock its holder, then those who wait for it.
pub(crate) async fn rows(info: &SessionInfo) -> Result<Vec<Row>> {
    let catalog = info.format.catalog.as_ref();
    let catalog = catalog.ok_or_else(|| SqlError::internal("locks without a catalog"))?;
    let all = Span::new(layout::KEY_MIN, layout::KEY_MAX);
    let ranges = load(&info.node, &all, false).await?;
    let mut out = Vec::new();
    for range in ranges.iter().filter(|range| range.status.is_some()) {
        for lock in locks_of(&info.node, range).await? {
            lock_rows(catalog, &lock, &mut out);
        }
    }
    Ok(out)
}

/// The locks of a range, asked for by and by: not all of one moment.
async fn locks_of(node: &SqlNode, range: &RangeInfo) -> Result<Vec<LockInfo>> {
    let mut out = Vec::new();
    let mut start = range.start().clone();
    let mut max_locks = node.limits.locks_asked;
    let mut before = 0;
    while start < *range.end() {
        let mut batch = Batch::new();
        batch.push(request::Kind::QueryLocks(kv::QueryLocksRequest {
            start: start.clone(),
            end: range.end().clone(),
            max_locks,
        }));
        let reply = sql(node.kv.send(batch, None, None).await)?;
        let Some(response::Kind::QueryLocks(mut found)) =
            reply.responses.into_iter().next().and_then(|response| response.kind)
        else {
            return Err(SqlError::internal("a range gave an answer of another kind"));
        };
        match next_page(&mut found.locks, before) {
            Next::End => return Ok(out),
            Next::From(next) => start = next,
            Next::Larger => {
                before = found.locks.len();
                max_locks = max_locks.saturating_mul(2);
                continue;
            }
        }
        before = 0;
        out.append(&mut found.locks);
    }
    Ok(out)
}

/// What is asked for after a page.
enum Next {
    /// There are no more.
    End,
    From(Bytes),
    /// The same again, in a larger page.
    Larger,
}

/// What follows a page, which may have ended anywhere: a range has bounds of its own. A key may have
/// several holders, and its last ones be cut off: it is left to the next page; if it is alone in
/// this one, to a larger one, unless that has no more than the page `before`.
fn next_page(locks: &mut Vec<LockInfo>, before: usize) -> Next {
    let Some(last) = locks.last().map(|lock| lock.key.clone()) else { return Next::End };
    if locks.first().is_some_and(|first| first.key < last) {
        locks.retain(|lock| lock.key != last);
        return Next::From(last);
    }
    if locks.len() > before { Next::Larger } else { Next::From(next_key(&last).into()) }
}

fn text(value: &str) -> Datum {
    Datum::text(value)
}

fn duration(nanos: u64) -> Datum {
    let micros = i64::try_from(nanos / 1000).unwrap_or(i64::MAX);
    Datum::Interval(Interval { months: 0, days: 0, micros })
}

fn strength(strength: LockStrength) -> Datum {
    text(match strength {
        LockStrength::LockNone => "None",
        LockStrength::LockShared => "Shared",
        LockStrength::LockExclusive => "Exclusive",
    })
}

/// The table that a key belongs to.
fn object(catalog: &CatalogData, key: &[u8]) -> Option<Object> {
    let (table, _, _) = layout::parse_table_key(key)?;
    let table = catalog.table_by_id(table)?;
    let database = catalog.databases().find(|database| database.id == table.database)?;
    Some(Object::new(&database.name, table))
}

fn lock_rows(catalog: &CatalogData, lock: &LockInfo, out: &mut Vec<Row>) {
    let contended = !lock.waiters.is_empty();
    let key = lock_key(catalog, lock);
    let mut row = |txn: Option<&kv::TxnMeta>, of: LockStrength, granted: bool, nanos: u64| {
        let mut row = key.clone();
        row.extend(transaction(txn));
        let durability = if lock.replicated { "Replicated" } else { "Unreplicated" };
        row.extend([
            strength(of),
            text(durability),
            Datum::Bool(granted),
            Datum::Bool(contended),
            duration(nanos),
            text(match txn.map(kv::TxnMeta::isolation) {
                Some(Isolation::ReadCommitted) => "READ COMMITTED",
                _ => "SERIALIZABLE",
            }),
        ]);
        out.push(row);
    };
    if lock.holder.is_some() {
        row(lock.holder.as_ref(), lock.strength(), true, lock.held_nanos);
    }
    for waiter in &lock.waiters {
        row(waiter.txn.as_ref(), waiter.strength(), false, waiter.waiting_nanos);
    }
}

/// The columns up to the key.
fn lock_key(catalog: &CatalogData, lock: &LockInfo) -> Row {
    let object = object(catalog, &lock.key);
    let id = i64::try_from(lock.range_id).unwrap_or(i64::MAX);
    let named = match &object {
        None => vec![Datum::Null; 5],
        Some(object) => vec![
            Datum::Int(i64::try_from(object.table.id).unwrap_or(i64::MAX)),
            text(&object.database),
            text(PUBLIC),
            text(&object.table.name),
            text(&object.table.key_name),
        ],
    };
    let mut row = vec![Datum::Int(id)];
    row.extend(named);
    row.extend([Datum::Bytes((*lock.key).into()), Datum::text(pretty(&lock.key))]);
    row
}

/// The id of a transaction and its timestamp; NULL for a request outside of any.
fn transaction(txn: Option<&kv::TxnMeta>) -> [Datum; 2] {
    let Some(txn) = txn else { return [Datum::Null, Datum::Null] };
    let id = <[u8; 16]>::try_from(&*txn.id).map_or(Datum::Null, Datum::Uuid);
    let at = txn.write_timestamp.or(txn.min_timestamp).map(Timestamp::from);
    [id, at.map_or(Datum::Null, micros)]
}
