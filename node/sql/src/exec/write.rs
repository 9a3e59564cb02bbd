//! Statements that write: rows become one batch that fails when anything read has changed.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use crdb_keys::{Key, Span};
use crdb_kv::SendError;

use super::{CONFLICT, ExecCtx, batch_error};
use crate::catalog::TableDesc;
use crate::datum::{Datum, Row};
use crate::encoding::{RowDecoder, encode_row_key, encode_row_value};
use crate::error::{Result, SqlError, SqlState};
use crate::expr::Expr;
use crate::kv::Batch;
use crate::plan::{Conflict, DeletePlan, InsertPlan, UpdatePlan};

/// What a statement that writes did.
pub(crate) struct WriteOutcome {
    /// Rows written.
    pub(crate) count: usize,
    /// Rows of RETURNING.
    pub(crate) rows: Vec<Row>,
}

/// The writes of a statement, in order.
#[derive(Default)]
struct Writes {
    batch: Batch,
    keys: usize,
    bytes: usize,
}

impl Writes {
    fn account(&mut self, ctx: &ExecCtx<'_>, bytes: usize) -> Result<()> {
        self.keys += 1;
        self.bytes += bytes;
        if self.keys > ctx.limits.write_keys || self.bytes > ctx.limits.write_bytes {
            return Err(SqlError::new(
                SqlState::PROGRAM_LIMIT,
                format!(
                    "a statement can write at most {} rows and {} bytes",
                    ctx.limits.write_keys, ctx.limits.write_bytes
                ),
            )
            .with_hint("Split the statement, for example by ranges of the primary key."));
        }
        Ok(())
    }

    /// A row that must be new.
    fn insert(&mut self, ctx: &ExecCtx<'_>, key: Key, value: Bytes) -> Result<()> {
        self.account(ctx, key.len() + value.len())?;
        self.batch.conditional_put(key, value, None);
        Ok(())
    }

    fn put(&mut self, ctx: &ExecCtx<'_>, key: Key, value: Bytes) -> Result<()> {
        self.account(ctx, key.len() + value.len())?;
        self.batch.put(key, value);
        Ok(())
    }

    fn delete(&mut self, ctx: &ExecCtx<'_>, key: Key) -> Result<()> {
        self.account(ctx, key.len())?;
        self.batch.delete(key);
        Ok(())
    }

    /// Sends all writes together with the proof that what was read still holds. `rows` are those
    /// written, for the error of one that exists.
    async fn commit(
        self,
        ctx: &mut ExecCtx<'_>,
        table: &TableDesc,
        rows: impl IntoIterator<Item = &Row>,
    ) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        ctx.cancel.check()?;
        let spans = merge(ctx.txn.spans.take().unwrap_or_default());
        let batch = match ctx.txn.read_at {
            // First: what was read on a wrong assumption must not look like a duplicate.
            Some(since) if !spans.is_empty() => {
                let mut batch = Batch::new();
                batch.validate(&spans, since);
                batch.append(self.batch);
                batch
            }
            _ => self.batch,
        };
        // From here on the fate of the statement is the batch's.
        let guard = ctx.write_flag.raise();
        let result = ctx.txn.kv.send(batch, None, Some(ctx.txn.deadline)).await;
        drop(guard);
        match result {
            Ok(_) => Ok(()),
            Err(SendError::ConditionFailed { key, .. }) => {
                match rows.into_iter().find(|row| encode_row_key(table, row) == key) {
                    Some(row) => Err(duplicate(ctx, table, row)),
                    None => Err(SqlError::new(CONFLICT, "a row read was written to")),
                }
            }
            Err(error) => Err(batch_error(error)),
        }
    }
}

/// Sorted spans without overlap.
fn merge(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort();
    let mut out: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match out.last_mut() {
            Some(last) if *last == span => {}
            Some(last) if !last.is_point() && !span.is_point() && span.start <= last.end => {
                last.end = last.end.clone().max(span.end);
            }
            Some(last) if span.is_point() && last.contains_key(&span.start) => {}
            _ => out.push(span),
        }
    }
    out
}

/// The error of a key that exists.
fn duplicate(ctx: &ExecCtx<'_>, table: &TableDesc, row: &[Datum]) -> SqlError {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for part in &table.key {
        if let (Some(column), Some(value)) = (table.columns.get(part.column), row.get(part.column))
        {
            names.push(column.name.clone());
            values.push(shown(ctx, value, column.spec.ty));
        }
    }
    SqlError::new(
        SqlState::UNIQUE_VIOLATION,
        format!("duplicate key value violates unique constraint \"{}\"", table.key_name),
    )
    .with_detail(format!("Key ({})=({}) already exists.", names.join(", "), values.join(", ")))
    .with_table(&table.name)
    .with_constraint(&table.key_name)
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

/// INSERT and UPSERT.
pub(crate) async fn run_insert(ctx: &mut ExecCtx<'_>, plan: &InsertPlan) -> Result<WriteOutcome> {
    let table = &plan.table;
    let input = ctx.run_query(&plan.query).await?;
    let mut rows = Vec::with_capacity(input.len());
    let in_place = plan.sources.iter().enumerate().all(|(at, from)| *from == Some(at));
    for mut source in input {
        let row = if in_place {
            source
        } else {
            let mut row = Vec::with_capacity(table.columns.len());
            for (from, default) in plan.sources.iter().zip(&plan.defaults) {
                row.push(match (from, default) {
                    (Some(at), _) => source.get_mut(*at).map(std::mem::take).unwrap_or_default(),
                    (None, Some(default)) => default.eval(&ctx.eval(), &[])?,
                    (None, None) => Datum::Null,
                });
            }
            row
        };
        check_not_null(ctx, table, &row)?;
        let key = encode_row_key(table, &row);
        rows.push((key, row));
    }
    let (writes, written) = match &plan.conflict {
        Conflict::Fail => insert_new(ctx, table, rows)?,
        Conflict::Upsert => upsert(ctx, plan, rows).await?,
        Conflict::DoNothing | Conflict::DoUpdate { .. } => {
            insert_or_update(ctx, plan, rows).await?
        }
    };
    let count = written.len();
    // Before the commit: what fails here must not have written.
    let rows = returned(ctx, &written, plan.returning.as_deref())?;
    writes.commit(ctx, table, &written).await?;
    Ok(WriteOutcome { count, rows })
}

fn insert_new(
    ctx: &ExecCtx<'_>,
    table: &TableDesc,
    rows: Vec<(Key, Row)>,
) -> Result<(Writes, Vec<Row>)> {
    let mut writes = Writes::default();
    let several = rows.len() > 1;
    let mut seen: HashSet<Key> = HashSet::new();
    let mut out = Vec::with_capacity(rows.len());
    for (key, row) in rows {
        if several && !seen.insert(key.clone()) {
            return Err(duplicate(ctx, table, &row));
        }
        let value = encode_row_value(table, &row);
        writes.insert(ctx, key, value)?;
        out.push(row);
    }
    Ok((writes, out))
}

/// The rows that exist, by key.
async fn existing(
    ctx: &mut ExecCtx<'_>,
    table: &TableDesc,
    rows: &[(Key, Row)],
) -> Result<HashMap<Key, Row>> {
    let wanted = vec![true; table.columns.len()];
    let decoder = RowDecoder::new(table, &wanted);
    let mut found = HashMap::new();
    for chunk in rows.chunks(512) {
        let mut batch = Batch::new();
        for (key, _) in chunk {
            batch.get(key.clone());
            ctx.txn.track_point(key);
        }
        let mut reply = ctx.txn.read(batch).await?;
        for (i, (key, _)) in chunk.iter().enumerate() {
            if let Some(value) = reply.value(i) {
                found.insert(key.clone(), decoder.decode(key, &value)?);
            }
        }
    }
    Ok(found)
}

fn twice(command: &str) -> SqlError {
    SqlError::new(
        SqlState::CARDINALITY,
        format!("{command} command cannot affect row a second time"),
    )
    .with_hint("Ensure that no rows proposed for insertion within the same command have duplicate constrained values.")
}

async fn upsert(
    ctx: &mut ExecCtx<'_>,
    plan: &InsertPlan,
    rows: Vec<(Key, Row)>,
) -> Result<(Writes, Vec<Row>)> {
    let table = &plan.table;
    // A number that was just drawn names no row that exists; should it ever, that row must stay.
    let drawn = |column: usize| {
        table.columns.get(column).is_some_and(|c| c.hidden)
            && plan.sources.get(column).is_none_or(Option::is_none)
    };
    if table.key.iter().any(|k| drawn(k.column)) {
        return insert_new(ctx, table, rows);
    }
    let distinct: HashSet<&Key> = rows.iter().map(|(key, _)| key).collect();
    if distinct.len() != rows.len() {
        return Err(twice("UPSERT"));
    }
    // Columns that are not named keep the value of the row that exists.
    let all_named =
        plan.sources.iter().enumerate().all(|(i, s)| s.is_some() || table.is_key_column(i));
    let mut found = if all_named { HashMap::new() } else { existing(ctx, table, &rows).await? };
    let mut writes = Writes::default();
    let mut out = Vec::with_capacity(rows.len());
    for (key, mut row) in rows {
        if let Some(old) = found.remove(&key) {
            for ((slot, old), source) in row.iter_mut().zip(old).zip(&plan.sources) {
                if source.is_none() {
                    *slot = old;
                }
            }
        }
        let value = encode_row_value(table, &row);
        writes.put(ctx, key, value)?;
        out.push(row);
    }
    Ok((writes, out))
}

async fn insert_or_update(
    ctx: &mut ExecCtx<'_>,
    plan: &InsertPlan,
    rows: Vec<(Key, Row)>,
) -> Result<(Writes, Vec<Row>)> {
    let table = &plan.table;
    let found = existing(ctx, table, &rows).await?;
    let mut writes = Writes::default();
    let mut touched: HashSet<Key> = HashSet::new();
    let mut out = Vec::new();
    for (key, row) in rows {
        let again = !touched.insert(key.clone());
        match (&plan.conflict, found.get(&key)) {
            (Conflict::DoUpdate { .. }, _) if again => return Err(twice("ON CONFLICT DO UPDATE")),
            (_, _) if again => {}
            (_, None) => {
                let value = encode_row_value(table, &row);
                writes.insert(ctx, key, value)?;
                out.push(row);
            }
            (Conflict::DoUpdate { sets, filter }, Some(old)) => {
                let mut pair = old.clone();
                pair.extend(row);
                if let Some(filter) = filter
                    && !filter.eval_bool(&ctx.eval(), &pair)?
                {
                    continue;
                }
                let new = assigned(ctx, table, sets, old, &pair)?;
                let new_key = encode_row_key(table, &new);
                let value = encode_row_value(table, &new);
                if new_key == key {
                    writes.put(ctx, key, value)?;
                } else {
                    writes.delete(ctx, key)?;
                    writes.insert(ctx, new_key, value)?;
                }
                out.push(new);
            }
            _ => {}
        }
    }
    Ok((writes, out))
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

/// UPDATE.
pub(crate) async fn run_update(ctx: &mut ExecCtx<'_>, plan: &UpdatePlan) -> Result<WriteOutcome> {
    let table = &plan.table;
    let width = table.columns.len();
    let input = ctx.run_query(&plan.query).await?;
    let mut changed: Vec<(Key, Key, Row)> = Vec::with_capacity(input.len());
    let mut out = Vec::with_capacity(input.len());
    let mut old_keys: HashSet<Key> = HashSet::new();
    for row in input {
        let old = row.get(..width).unwrap_or(&row);
        let old_key = encode_row_key(table, old);
        // A row that a join yields several times is changed once.
        if !old_keys.insert(old_key.clone()) {
            continue;
        }
        let new = assigned(ctx, table, &plan.sets, old, &row)?;
        let new_key = encode_row_key(table, &new);
        if plan.returning.is_some() {
            let mut full = new.clone();
            full.extend_from_slice(row.get(width..).unwrap_or_default());
            out.push(full);
        }
        changed.push((old_key, new_key, new));
    }
    let count = changed.len();
    let mut writes = Writes::default();
    let new_keys: HashSet<&Key> = changed.iter().map(|(_, new, _)| new).collect();
    for (old_key, _, _) in &changed {
        if !new_keys.contains(old_key) {
            writes.delete(ctx, old_key.clone())?;
        }
    }
    let mut seen: HashSet<Key> = HashSet::new();
    for (_, new_key, new) in &changed {
        if !seen.insert(new_key.clone()) {
            return Err(duplicate(ctx, table, new));
        }
        let value = encode_row_value(table, new);
        if old_keys.contains(new_key) {
            writes.put(ctx, new_key.clone(), value)?;
        } else {
            writes.insert(ctx, new_key.clone(), value)?;
        }
    }
    let rows = returned(ctx, &out, plan.returning.as_deref())?;
    writes.commit(ctx, table, changed.iter().map(|(_, _, new)| new)).await?;
    Ok(WriteOutcome { count, rows })
}

/// DELETE.
pub(crate) async fn run_delete(ctx: &mut ExecCtx<'_>, plan: &DeletePlan) -> Result<WriteOutcome> {
    let table = &plan.table;
    let width = table.columns.len();
    let input = ctx.run_query(&plan.query).await?;
    let mut writes = Writes::default();
    let mut keys: HashSet<Key> = HashSet::new();
    let mut out = Vec::with_capacity(input.len());
    for row in input {
        let key = encode_row_key(table, row.get(..width).unwrap_or(&row));
        if keys.insert(key.clone()) {
            writes.delete(ctx, key)?;
            out.push(row);
        }
    }
    let count = out.len();
    let rows = returned(ctx, &out, plan.returning.as_deref())?;
    // A deletion meets no row that exists.
    writes.commit(ctx, table, []).await?;
    Ok(WriteOutcome { count, rows })
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
