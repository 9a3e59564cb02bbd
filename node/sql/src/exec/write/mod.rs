//! Statements that write: rows become writes in the buffer of their transaction.
//!
//! Whether a new key exists already is found out by a read that locks it, also if it is absent, and
//! the statement fails at once. Two cases save the read: a statement that is alone in its
//! transaction, since the commit that follows says the same, and a key with a number that was just
//! drawn for it. Either way the write itself says that the key must be absent.
//!
//! Where the query of a statement cannot meet what the statement writes, its rows are written as
//! they come, and none is held. Else all rows are read first, in the statement's memory.

mod change;
mod insert;

use std::collections::HashSet;

use bytes::Bytes;
use crdb_keys::Key;
use crdb_proto::kv::LockStrength;

use super::ExecCtx;
use crate::catalog::TableDesc;
use crate::datum::{Datum, Row};
use crate::encoding::{checked_row_key, checked_row_value, encode_row_key, shown_key};
use crate::error::{Result, SqlError, SqlState};
use crate::expr::Expr;
use crate::kv::{Batch, CONFLICT};
use crate::plan::RowLock;

pub(crate) use change::{run_delete, run_update};
pub(crate) use insert::run_insert;

/// What a statement that writes did.
#[derive(Default)]
pub(crate) struct WriteOutcome {
    /// Rows written.
    pub(crate) count: usize,
    /// Rows of RETURNING.
    pub(crate) rows: Vec<Row>,
    /// Rows whose keys must be new and were not looked up: for the error of one that exists.
    pub(crate) unproven: Vec<Row>,
}

/// Commits the transaction of a statement that is alone in it. `unproven` are rows of the table that
/// must be new.
pub(crate) async fn commit_alone(
    ctx: &mut ExecCtx<'_>,
    table: Option<&TableDesc>,
    unproven: &[Row],
) -> Result<()> {
    match (ctx.txn.commit(ctx.write_flag, ctx.cancel).await?, table) {
        (Err(key), Some(table)) => Err(exists(ctx, table, unproven, &key)),
        _ => Ok(()),
    }
}

/// The error of a key that must be new and exists.
fn exists(ctx: &ExecCtx<'_>, table: &TableDesc, rows: &[Row], key: &Key) -> SqlError {
    match rows.iter().find(|row| encode_row_key(table, row) == *key) {
        Some(row) => duplicate(ctx, table, row),
        // It was absent when it was locked.
        None => SqlError::new(CONFLICT, crdb_kv::RetryCause::Serializable.to_string()),
    }
}

/// Writes rows whose keys must be new; with `look` it looks whether they are.
async fn insert_rows(
    ctx: &mut ExecCtx<'_>,
    table: &TableDesc,
    rows: &[Row],
    look: bool,
) -> Result<()> {
    let mut keys = Vec::with_capacity(rows.len());
    for row in rows {
        keys.push(ctx.row_key(table, row)?);
    }
    let mut unseen = if look { keys.as_slice() } else { &[] };
    while !unseen.is_empty() {
        let (asked, rest) = unseen.split_at(ctx.next_lookup().min(unseen.len()));
        let values = lock_keys(ctx, table, asked).await?;
        if let Some(at) = values.iter().position(Option::is_some) {
            let at = keys.len() - unseen.len() + at;
            let row = rows.get(at).map(Vec::as_slice).unwrap_or_default();
            return Err(duplicate(ctx, table, row));
        }
        unseen = rest;
    }
    for (row, key) in rows.iter().zip(keys.drain(..)) {
        let value = ctx.row_value(table, &key, row)?;
        if let Err(key) = ctx.txn.insert(key, value).await? {
            return Err(exists(ctx, table, rows, &key));
        }
    }
    Ok(())
}

/// Reads keys and locks them, those that are absent too.
async fn lock_keys(
    ctx: &mut ExecCtx<'_>,
    table: &TableDesc,
    keys: &[Key],
) -> Result<Vec<Option<Bytes>>> {
    ctx.cancel.check()?;
    let mut batch = Batch::new();
    for key in keys {
        batch.get_locked(key.clone(), LockStrength::LockExclusive, true);
    }
    let mut reply = ctx.txn.read_locking(batch, Some(RowLock::WRITE), table).await?;
    let mut values = Vec::with_capacity(keys.len());
    for at in 0..keys.len() {
        let value = reply.value(at)?;
        ctx.lookups.found(value.as_ref().map_or(0, Bytes::len));
        values.push(value);
    }
    Ok(values)
}

/// The error of a key that exists.
fn duplicate(ctx: &ExecCtx<'_>, table: &TableDesc, row: &[Datum]) -> SqlError {
    SqlError::new(
        SqlState::UNIQUE_VIOLATION,
        format!("duplicate key value violates unique constraint \"{}\"", table.key_name),
    )
    .with_detail(format!("Key {} already exists.", shown_key(table, row, &ctx.info.format)))
    .with_table(&table.name)
    .with_constraint(&table.key_name)
}

impl ExecCtx<'_> {
    /// The key of a row to be written.
    fn row_key(&self, table: &TableDesc, row: &[Datum]) -> Result<Key> {
        checked_row_key(&self.limits, table, row, &self.info.format)
    }

    /// The value of a row to be written.
    fn row_value(&self, table: &TableDesc, key: &Key, row: &[Datum]) -> Result<Bytes> {
        checked_row_value(&self.limits, table, key, row, &self.info.format)
    }
}

/// Keys that a statement must not meet again.
#[derive(Default)]
struct Seen(HashSet<Key>);

impl Seen {
    /// Whether it is met for the first time. They are held to the end of the statement.
    fn first_time(&mut self, ctx: &mut ExecCtx<'_>, key: &Key) -> Result<bool> {
        let first = self.0.insert(key.clone());
        if first {
            ctx.hold(2 * size_of::<Key>() + key.len())?;
        }
        Ok(first)
    }
}

fn shown(ctx: &ExecCtx<'_>, value: &Datum, ty: crate::types::SqlType) -> String {
    if value.is_null() { "null".to_owned() } else { value.to_text(ty, &ctx.info.format) }
}

fn check_not_null(ctx: &ExecCtx<'_>, table: &TableDesc, row: &[Datum]) -> Result<()> {
    for (column, value) in table.columns.iter().zip(row) {
        if value.is_null() && !column.nullable {
            let visible = table.columns.iter().zip(row).filter(|(c, _)| !c.hidden);
            let values: Vec<String> = visible.map(|(c, v)| shown(ctx, v, c.spec.ty)).collect();
            return Err(SqlError::new(
                SqlState::NOT_NULL_VIOLATION,
                format!("null value in column \"{}\" violates not-null constraint", column.name),
            )
            .with_detail(format!("Failing row contains ({}).", values.join(", ")))
            .with_table(&table.name)
            .with_column(&column.name));
        }
    }
    Ok(())
}

/// A row with new values for some columns.
fn assigned(
    ctx: &ExecCtx<'_>,
    table: &TableDesc,
    sets: &[(usize, Expr)],
    old: &[Datum],
    input: &[Datum],
) -> Result<Row> {
    let mut new = old.to_vec();
    for (column, e) in sets {
        let value = e.eval(&ctx.eval(), input)?;
        if let Some(slot) = new.get_mut(*column) {
            *slot = value;
        }
    }
    check_not_null(ctx, table, &new)?;
    Ok(new)
}

fn returned(ctx: &mut ExecCtx<'_>, rows: &[Row], returning: Option<&[Expr]>) -> Result<Vec<Row>> {
    let Some(exprs) = returning else { return Ok(Vec::new()) };
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let eval = ctx.eval();
        let row: Row = exprs.iter().map(|e| e.eval(&eval, row)).collect::<Result<_>>()?;
        ctx.hold_row(&row)?;
        out.push(row);
    }
    Ok(out)
}
