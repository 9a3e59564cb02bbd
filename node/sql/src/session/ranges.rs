//! Statements about ranges: SPLIT AT, UNSPLIT, RELOCATE LEASE, and the row of SHOW RANGE FOR ROW.
//!
//! Each split, merge or transfer is a request of its own to its range; a statement that fails half
//! way has done the first ones. All of them may be repeated.

use std::sync::Arc;

use crdb_keys::{Key, Timestamp, layout};
use crdb_kv::SendError;
use crdb_proto::kv::{self, request, response};
use crdb_sqlfront::Parsed;
use crdb_sqlfront::ast::{self, Statement};

use super::{CancelFlag, Column, ExecResult, Session, SessionInfo};
use crate::analyze::constant;
use crate::cast::{CastContext, cast, cast_context};
use crate::catalog::{CatalogData, TableDesc};
use crate::datum::{Datum, Row};
use crate::encoding::encode_key_datum;
use crate::error::{Result, SqlError, SqlState};
use crate::kv::{Batch, sql};
use crate::node::SqlNode;
use crate::ranges::columns::{Object, enforced_until, micros};
use crate::ranges::list::{row_range, table_of};
use crate::ranges::{load, pretty, status};
use crate::types::{SqlType as S, TypeSpec};

/// The nanoseconds at which a split that holds for ever ends.
const FOR_EVER: u64 = i64::MAX.unsigned_abs();

/// The columns of the statements of this module; none for other statements.
pub(super) fn columns(statement: &Statement) -> Option<Vec<Column>> {
    let list: &[(&str, S)] = match statement {
        Statement::SplitAt(_) => {
            &[("key", S::Bytea), ("pretty", S::Text), ("split_enforced_until", S::Timestamp)]
        }
        Statement::UnsplitAt(_) => &[("key", S::Bytea), ("pretty", S::Text)],
        Statement::RelocateLease(_) => {
            &[("range_id", S::Int8), ("pretty", S::Text), ("result", S::Text)]
        }
        _ => return None,
    };
    Some(list.iter().map(|(name, ty)| Column::new(*name, *ty)).collect())
}

/// The row of SHOW RANGE ... FOR ROW.
pub(super) async fn range_of_row(
    info: &SessionInfo,
    catalog: &CatalogData,
    of: &ast::TableOrIndex,
    values: &[ast::Expr],
) -> Result<Vec<Row>> {
    let object = table_of(info, catalog, of)?;
    let key = &object.table.key;
    if values.len() != key.len() {
        return Err(SqlError::syntax(format!(
            "expected {} values for the key of \"{}\", got {}",
            key.len(),
            object.table.name,
            values.len()
        )));
    }
    let mut row = Vec::with_capacity(values.len());
    for (value, part) in values.iter().zip(key) {
        let column = object.table.columns.get(part.column);
        let spec = column.map_or(TypeSpec::plain(S::Text), |column| column.spec);
        row.push(constant(info, catalog, value, spec)?);
    }
    let key = split_key(&object.table, &row);
    row_range(info, &object, key).await
}

/// The first key of the rows whose key begins with some values.
fn split_key(table: &TableDesc, values: &[Datum]) -> Key {
    let mut key = layout::index_prefix(table.id, table.index_id);
    for (value, part) in values.iter().zip(&table.key) {
        encode_key_datum(&mut key, value, part.descending);
    }
    key.into()
}

fn bytes(key: &[u8]) -> Datum {
    Datum::Bytes(key.into())
}

impl Session {
    /// Carries out SPLIT AT, UNSPLIT and RELOCATE LEASE.
    pub(super) async fn change_ranges(
        &mut self,
        statement: &Statement,
        cancel: &CancelFlag,
    ) -> Result<ExecResult> {
        let (tag, rows) = match statement {
            Statement::SplitAt(split) => ("ALTER TABLE", self.split_at(split, cancel).await?),
            Statement::UnsplitAt(unsplit) => ("ALTER TABLE", self.unsplit(unsplit, cancel).await?),
            Statement::RelocateLease(relocate) => {
                ("ALTER RANGE", self.relocate_lease(relocate, cancel).await?)
            }
            _ => return Err(SqlError::internal("not a statement about ranges")),
        };
        Ok(ExecResult {
            columns: columns(statement).map(Arc::from),
            tag: format!("{tag} {}", rows.len()),
            rows,
            ..ExecResult::default()
        })
    }

    /// Runs a query that is a part of a statement, as a transaction of its own.
    pub(super) async fn rows_of(
        &mut self,
        query: &ast::Query,
        cancel: &CancelFlag,
    ) -> Result<(Arc<[Column]>, Vec<Row>)> {
        let statement = Statement::Query(Box::new(query.clone()));
        let parsed = Parsed { text: statement.to_string(), statement, placeholders: 0 };
        let prepared = self.try_prepare(&Arc::new(parsed), &[]).await?;
        let columns = prepared.columns.clone().unwrap_or_default();
        let result = Box::pin(self.run_alone(&prepared, &[], cancel, None)).await?;
        Ok((columns, result.rows))
    }

    async fn object(&mut self, of: &ast::TableOrIndex) -> Result<Object> {
        let snapshot = self.begin_statement().await?;
        table_of(&self.info, &snapshot, of)
    }

    /// The keys that the rows of a query name.
    async fn keys_of(
        &mut self,
        object: &Object,
        query: &ast::Query,
        what: &str,
        cancel: &CancelFlag,
    ) -> Result<Vec<Key>> {
        let (columns, rows) = self.rows_of(query, cancel).await?;
        if columns.len() > object.table.key.len() {
            return Err(SqlError::syntax(format!("too many columns in {what} data")));
        }
        let mut types = Vec::new();
        for (part, column) in object.table.key.iter().zip(columns.iter()) {
            let Some(wanted) = object.table.columns.get(part.column) else { continue };
            let from = if column.ty == S::Text { S::Unknown } else { column.ty };
            let context = cast_context(from, wanted.spec.ty);
            if context.is_none_or(|context| context > CastContext::Assignment) {
                return Err(SqlError::new(
                    SqlState::DATATYPE_MISMATCH,
                    format!(
                        "{what} data column \"{}\" must be of type {}, not type {}",
                        wanted.name, wanted.spec.ty, column.ty
                    ),
                ));
            }
            types.push((column.ty, wanted.spec.ty));
        }
        let format = self.format_settings();
        let mut keys = Vec::with_capacity(rows.len());
        for row in rows {
            let mut values = Vec::with_capacity(row.len());
            for (value, (from, to)) in row.iter().zip(&types) {
                values.push(cast(value, *from, *to, format)?);
            }
            keys.push(split_key(&object.table, &values));
        }
        Ok(keys)
    }

    async fn split_at(&mut self, split: &ast::SplitAt, cancel: &CancelFlag) -> Result<Vec<Row>> {
        let object = self.object(&split.of).await?;
        let until = match &split.expiration {
            None => Timestamp::new(FOR_EVER, 0),
            Some(at) => self.expiration(at).await?,
        };
        let keys = self.keys_of(&object, &split.rows, "SPLIT AT", cancel).await?;
        let node = Arc::clone(&self.info.node);
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            cancel.check()?;
            check_split_key(&node, &object, &key)?;
            let right = split_range(&node, &key, until).await?;
            let enforced = right.sticky_until.map_or_else(|| micros(until), |at| micros(at.into()));
            rows.push(vec![bytes(&key), Datum::text(pretty(&key)), enforced]);
        }
        Ok(rows)
    }

    /// The time of WITH EXPIRATION.
    async fn expiration(&mut self, at: &ast::Expr) -> Result<Timestamp> {
        let snapshot = self.begin_statement().await?;
        let spec = TypeSpec::plain(S::TimestampTz);
        let value = constant(&self.info, &snapshot, at, spec)?;
        let now = self.info.format.now_micros;
        match value {
            Datum::TimestampTz(at) if at > now => {
                let nanos = u64::try_from(at).unwrap_or(0).saturating_mul(1000).min(FOR_EVER);
                Ok(Timestamp::new(nanos, 0))
            }
            Datum::TimestampTz(_) => Err(SqlError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                "SPLIT AT: expiration time should be greater than or equal to current time",
            )),
            _ => Err(SqlError::new(
                SqlState::NULL_NOT_ALLOWED,
                "SPLIT AT: the expiration time is NULL",
            )),
        }
    }

    async fn unsplit(&mut self, unsplit: &ast::UnsplitAt, cancel: &CancelFlag) -> Result<Vec<Row>> {
        let object = self.object(&unsplit.of).await?;
        let node = Arc::clone(&self.info.node);
        let keys = match &unsplit.rows {
            Some(query) => self.keys_of(&object, query, "UNSPLIT AT", cancel).await?,
            None => {
                let span = &object.index_span;
                let ranges = load(&node, span, false).await?;
                let split = ranges.iter().filter(|range| {
                    span.contains_key(range.start()) && !enforced_until(range).is_null()
                });
                split.map(|range| range.start().clone()).collect()
            }
        };
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            cancel.check()?;
            let mut batch = Batch::new();
            batch.push(request::Kind::Unsplit(kv::UnsplitRequest { key: key.clone() }));
            match node.kv.send(batch, None, None).await {
                // All that was named is a key; that of a range that was there a moment ago is gone.
                Err(SendError::Invalid { .. }) if unsplit.rows.is_none() => continue,
                Err(SendError::Invalid { .. }) => return Err(no_range_starts(&key)),
                answer => drop(sql(answer)?),
            }
            rows.push(vec![bytes(&key), Datum::text(pretty(&key))]);
        }
        Ok(rows)
    }

    async fn relocate_lease(
        &mut self,
        relocate: &ast::RelocateLease,
        cancel: &CancelFlag,
    ) -> Result<Vec<Row>> {
        let to = self.number(&relocate.to, "the store").await?;
        let to = u32::try_from(to).map_err(|_| {
            SqlError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("no store has the number {to}"),
            )
        })?;
        let wanted: Vec<i64> = match &relocate.ranges {
            ast::RangeNumbers::One(one) => vec![self.number(one, "the range").await?],
            ast::RangeNumbers::Query(query) => {
                let (_, rows) = self.rows_of(query, cancel).await?;
                let number = |row: Row| match row.into_iter().next() {
                    Some(Datum::Int(number)) => Ok(number),
                    _ => Err(SqlError::syntax("RELOCATE LEASE takes numbers of ranges")),
                };
                rows.into_iter().map(number).collect::<Result<_>>()?
            }
        };
        let node = Arc::clone(&self.info.node);
        let all = crdb_keys::Span::new(layout::KEY_MIN, layout::KEY_MAX);
        let ranges = load(&node, &all, false).await?;
        let mut rows = Vec::with_capacity(wanted.len());
        for number in wanted {
            cancel.check()?;
            let range = ranges.iter().find(|range| {
                u64::try_from(number).is_ok_and(|number| range.descriptor.range_id == number)
            });
            let (shown, result) = match range {
                None => (String::new(), format!("r{number} was not found")),
                Some(range) => {
                    let shown = pretty(range.start());
                    (shown, transfer_lease(&node, range.start().clone(), to).await?)
                }
            };
            rows.push(vec![Datum::Int(number), Datum::text(shown), Datum::text(result)]);
        }
        Ok(rows)
    }

    async fn number(&mut self, value: &ast::Expr, what: &str) -> Result<i64> {
        let snapshot = self.begin_statement().await?;
        match constant(&self.info, &snapshot, value, TypeSpec::plain(S::Int8))? {
            Datum::Int(number) => Ok(number),
            _ => Err(SqlError::new(
                SqlState::NULL_NOT_ALLOWED,
                format!("the number of {what} is NULL"),
            )),
        }
    }
}

/// Any key that a row may have can be split at, and no longer one.
fn check_split_key(node: &SqlNode, object: &Object, key: &Key) -> Result<()> {
    let most = node.limits.key_bytes;
    if key.len() <= most {
        return Ok(());
    }
    let (table, bytes) = (&object.table.name, key.len());
    Err(SqlError::new(
        SqlState::PROGRAM_LIMIT,
        format!(
            "SPLIT AT: a key of table \"{table}\" is {bytes} bytes, more than the limit of {most}"
        ),
    )
    .with_table(table))
}

/// Makes a range start at a key; returns its descriptor.
async fn split_range(node: &SqlNode, key: &Key, until: Timestamp) -> Result<kv::RangeDescriptor> {
    let mut batch = Batch::new();
    batch.push(request::Kind::Increment(kv::IncrementRequest {
        key: layout::range_id_counter(),
        delta: 1,
    }));
    let reply = sql(node.kv.send(batch, None, None).await)?;
    let Some(response::Kind::Increment(counter)) = first(reply.responses) else {
        return Err(SqlError::internal("a counter gave an answer of another kind"));
    };
    let new_range_id = u64::try_from(counter.value)
        .map_err(|_| SqlError::internal("the counter of ranges is negative"))?;
    let mut batch = Batch::new();
    batch.push(request::Kind::Split(kv::SplitRequest {
        key: key.clone(),
        new_range_id,
        sticky_until: Some(until.into()),
    }));
    let reply = sql(node.kv.send(batch, None, None).await)?;
    match first(reply.responses) {
        Some(response::Kind::Split(kv::SplitResponse { right: Some(right) })) => Ok(right),
        _ => Err(SqlError::internal("a split gave an answer of another kind")),
    }
}

fn first(responses: Vec<kv::Response>) -> Option<response::Kind> {
    responses.into_iter().next()?.kind
}

/// Gives the lease of the range at a key to a node; says how that went.
async fn transfer_lease(node: &SqlNode, key: Key, to_node: u32) -> Result<String> {
    let mut batch = Batch::new();
    batch
        .push(request::Kind::TransferLease(kv::TransferLeaseRequest { key: key.clone(), to_node }));
    match node.kv.send(batch, None, None).await {
        Ok(_) => Ok("ok".to_owned()),
        Err(error) => {
            // Asked again, an answer that was lost may turn out well.
            let now = status(node, key, false).await;
            let done = now.is_ok_and(|range| range.leaseholder() == Some(to_node));
            Ok(if done { "ok".to_owned() } else { error.to_string() })
        }
    }
}

/// The error of a key that a range was to start at.
fn no_range_starts(key: &[u8]) -> SqlError {
    let message = format!("UNSPLIT AT: {} is not the start of a range", pretty(key));
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
        .with_hint("SHOW RANGES FROM TABLE ... WITH KEYS lists where ranges start.")
}
