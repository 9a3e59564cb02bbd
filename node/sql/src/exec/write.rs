//! Statements that write: rows become writes in the buffer of their transaction.
//!
//! Whether a new key exists already is found out by a read that locks it, also if it is absent, and
//! the statement fails at once. Two cases save the read: a statement that is alone in its
//! transaction, since the commit that follows says the same, and a key with a number that was just
//! drawn for it. Either way the write itself says that the key must be absent.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use crdb_keys::Key;
use crdb_proto::kv::LockStrength;

use super::{ExecCtx, Op};
use crate::catalog::TableDesc;
use crate::datum::{Datum, Row};
use crate::encoding::{RowDecoder, encode_row_key, encode_row_value};
use crate::error::{Result, SqlError, SqlState};
use crate::expr::Expr;
use crate::kv::{Batch, CONFLICT};
use crate::plan::{Conflict, DeletePlan, InsertPlan, Plan, QueryPlan, RowLock, UpdatePlan};

/// What a statement that writes did.
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
    let mut keys: Vec<Key> = rows.iter().map(|row| encode_row_key(table, row)).collect();
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
        let value = encode_row_value(table, row);
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
    if comes_in_pieces(plan) {
        return insert_pieces(ctx, plan).await;
    }
    let input = ctx.run_query(&plan.query).await?;
    insert_input(ctx, plan, input).await
}

/// Whether rows can be inserted while the query still runs: nobody sees them before the end, the
/// query least of all.
fn comes_in_pieces(plan: &InsertPlan) -> bool {
    fn apart(plan: &Plan, table: u64) -> bool {
        match plan {
            Plan::Scan(scan) => scan.table.id != table,
            Plan::Values(_) | Plan::Virtual(_) => true,
            Plan::Filter { input, .. }
            | Plan::Project { input, .. }
            | Plan::ProjectSet { input, .. }
            | Plan::Ordinality(input)
            | Plan::Aggregate { input, .. }
            | Plan::Distinct { input, .. }
            | Plan::Sort { input, .. }
            | Plan::Limit { input, .. } => apart(input, table),
            Plan::Join(join) => apart(&join.left, table) && apart(&join.right, table),
            Plan::Show(_) | Plan::LateralJoin(_) | Plan::SetOp { .. } | Plan::Apply { .. } => false,
        }
    }
    matches!(plan.conflict, Conflict::Fail)
        && plan.returning.is_none()
        && !matches!(plan.query.root, Plan::Values(_))
        && apart(&plan.query.root, plan.table.id)
}

/// Inserts the rows of a query as they come, so that they need not be held together. Each is looked
/// up, unless they are few.
async fn insert_pieces(ctx: &mut ExecCtx<'_>, plan: &InsertPlan) -> Result<WriteOutcome> {
    ctx.run_slots(&plan.query).await?;
    let mut query = Op::new(&plan.query.root);
    let first = query.next(ctx).await?.unwrap_or_default();
    let Some(mut piece) = query.next(ctx).await? else {
        return insert_input(ctx, plan, first).await;
    };
    let look = !drawn_key(plan);
    let rows = new_rows(ctx, plan, first)?;
    let mut count = insert_new(ctx, &plan.table, rows, look).await?.len();
    loop {
        let rows = new_rows(ctx, plan, piece)?;
        count += insert_new(ctx, &plan.table, rows, look).await?.len();
        match query.next(ctx).await? {
            Some(next) => piece = next,
            None => return Ok(WriteOutcome { count, rows: Vec::new(), unproven: Vec::new() }),
        }
    }
}

/// The rows of a table with their keys, made of what the query yields.
fn new_rows(ctx: &ExecCtx<'_>, plan: &InsertPlan, input: Vec<Row>) -> Result<Vec<(Key, Row)>> {
    let table = &plan.table;
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
    Ok(rows)
}

async fn insert_input(
    ctx: &mut ExecCtx<'_>,
    plan: &InsertPlan,
    input: Vec<Row>,
) -> Result<WriteOutcome> {
    let table = &plan.table;
    let rows = new_rows(ctx, plan, input)?;
    let drawn = drawn_key(plan);
    let look = !ctx.txn.alone && !drawn;
    // Rows that the commit may find to exist, and only by it.
    let mut unproven = Vec::new();
    let mut proven = Vec::new();
    match &plan.conflict {
        Conflict::Fail => unproven = insert_new(ctx, table, rows, look).await?,
        // Should the number ever name a row that exists, that row must stay.
        Conflict::Upsert if drawn => unproven = insert_new(ctx, table, rows, look).await?,
        Conflict::Upsert => proven = upsert(ctx, plan, rows).await?,
        Conflict::DoNothing | Conflict::DoUpdate { .. } => {
            (proven, unproven) = insert_or_update(ctx, plan, rows).await?;
        }
    }
    let written = if proven.is_empty() { &unproven } else { &proven };
    let count = written.len();
    let rows = returned(ctx, written, plan.returning.as_deref())?;
    Ok(WriteOutcome { count, rows, unproven })
}

/// Whether a column of the key gets a number that was just drawn, and names no row that exists.
fn drawn_key(plan: &InsertPlan) -> bool {
    let drawn = |column: usize| {
        let default = plan.table.columns.get(column).and_then(|c| c.default.as_deref());
        matches!(default, Some("unique_rowid()" | "gen_random_uuid()"))
            && plan.sources.get(column).is_none_or(Option::is_none)
    };
    plan.table.key.iter().any(|k| drawn(k.column))
}

async fn insert_new(
    ctx: &mut ExecCtx<'_>,
    table: &TableDesc,
    rows: Vec<(Key, Row)>,
    look: bool,
) -> Result<Vec<Row>> {
    if rows.len() > 1 {
        let mut seen: HashSet<&Key> = HashSet::with_capacity(rows.len());
        for (key, row) in &rows {
            if !seen.insert(key) {
                return Err(duplicate(ctx, table, row));
            }
        }
    }
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    insert_rows(ctx, table, &rows, look).await?;
    Ok(rows)
}

/// The rows that exist, by key. All keys are locked.
async fn existing(
    ctx: &mut ExecCtx<'_>,
    table: &TableDesc,
    rows: &[(Key, Row)],
) -> Result<HashMap<Key, Row>> {
    let wanted = vec![true; table.columns.len()];
    let decoder = RowDecoder::new(table, &wanted);
    let keys: Vec<Key> = rows.iter().map(|(key, _)| key.clone()).collect();
    let mut found = HashMap::new();
    let mut left = keys.as_slice();
    while !left.is_empty() {
        let (asked, rest) = left.split_at(ctx.next_lookup().min(left.len()));
        for (key, value) in asked.iter().zip(lock_keys(ctx, table, asked).await?) {
            if let Some(value) = value {
                let row = decoder.decode(key, &value)?;
                ctx.hold_row(&row)?;
                found.insert(key.clone(), row);
            }
        }
        left = rest;
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
) -> Result<Vec<Row>> {
    let table = &plan.table;
    let distinct: HashSet<&Key> = rows.iter().map(|(key, _)| key).collect();
    if distinct.len() != rows.len() {
        return Err(twice("UPSERT"));
    }
    // Columns that are not named keep the value of the row that exists.
    let all_named =
        plan.sources.iter().enumerate().all(|(i, s)| s.is_some() || table.is_key_column(i));
    let mut found = if all_named { HashMap::new() } else { existing(ctx, table, &rows).await? };
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
        ctx.txn.put(key, value).await?;
        out.push(row);
    }
    Ok(out)
}

/// Returns the rows written, and those of them that were moved to a new key.
async fn insert_or_update(
    ctx: &mut ExecCtx<'_>,
    plan: &InsertPlan,
    rows: Vec<(Key, Row)>,
) -> Result<(Vec<Row>, Vec<Row>)> {
    let table = &plan.table;
    let found = existing(ctx, table, &rows).await?;
    let mut touched: HashSet<Key> = HashSet::new();
    let (mut out, mut moved) = (Vec::new(), Vec::new());
    for (key, row) in rows {
        let again = !touched.insert(key.clone());
        match (&plan.conflict, found.get(&key)) {
            (Conflict::DoUpdate { .. }, _) if again => return Err(twice("ON CONFLICT DO UPDATE")),
            (_, _) if again => {}
            (_, None) => {
                insert_rows(ctx, table, std::slice::from_ref(&row), false).await?;
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
                if encode_row_key(table, &new) == key {
                    let value = encode_row_value(table, &new);
                    ctx.txn.put(key, value).await?;
                } else {
                    ctx.txn.delete(key).await?;
                    let look = !ctx.txn.alone;
                    insert_rows(ctx, table, std::slice::from_ref(&new), look).await?;
                    moved.push(new.clone());
                }
                out.push(new);
            }
            _ => {}
        }
    }
    Ok((out, moved))
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
    let new_keys: HashSet<&Key> = changed.iter().map(|(_, new, _)| new).collect();
    for (old_key, _, _) in &changed {
        if !new_keys.contains(old_key) {
            ctx.txn.delete(old_key.clone()).await?;
        }
    }
    if new_keys.len() != changed.len() {
        let mut seen: HashSet<&Key> = HashSet::new();
        if let Some((.., row)) = changed.iter().find(|(_, new_key, _)| !seen.insert(new_key)) {
            return Err(duplicate(ctx, table, row));
        }
    }
    let mut moved: Vec<Row> = Vec::new();
    for (_, new_key, new) in changed {
        if old_keys.contains(&new_key) {
            let value = encode_row_value(table, &new);
            ctx.txn.put(new_key, value).await?;
        } else {
            moved.push(new);
        }
    }
    insert_rows(ctx, table, &moved, false).await?;
    let rows = returned(ctx, &out, plan.returning.as_deref())?;
    Ok(WriteOutcome { count, rows, unproven: moved })
}

/// DELETE.
pub(crate) async fn run_delete(ctx: &mut ExecCtx<'_>, plan: &DeletePlan) -> Result<WriteOutcome> {
    if plan.returning.is_none() && goes_once(ctx, &plan.query)? {
        return delete_pieces(ctx, plan).await;
    }
    let table = &plan.table;
    let width = table.columns.len();
    let input = ctx.run_query(&plan.query).await?;
    let mut keys: HashSet<Key> = HashSet::new();
    let mut out = Vec::with_capacity(input.len());
    for row in input {
        let key = encode_row_key(table, row.get(..width).unwrap_or(&row));
        if keys.insert(key.clone()) {
            ctx.txn.delete(key).await?;
            out.push(row);
        }
    }
    let count = out.len();
    let rows = returned(ctx, &out, plan.returning.as_deref())?;
    Ok(WriteOutcome { count, rows, unproven: Vec::new() })
}

/// Whether a query goes over one table from end to end, and so never meets what was done to the rows
/// it has yielded.
fn goes_once(ctx: &ExecCtx<'_>, query: &QueryPlan) -> Result<bool> {
    let mut plan = &query.root;
    while let Plan::Filter { input, .. } | Plan::Limit { input, .. } = plan {
        plan = input;
    }
    match plan {
        // One row is quicker fetched without operators.
        Plan::Scan(scan) if query.slots.is_empty() => Ok(scan.point(&ctx.eval())?.is_none()),
        _ => Ok(false),
    }
}

/// Deletes rows as they are found, so that they need not be held together.
async fn delete_pieces(ctx: &mut ExecCtx<'_>, plan: &DeletePlan) -> Result<WriteOutcome> {
    let table = &plan.table;
    let mut query = Op::new(&plan.query.root);
    let mut count = 0;
    while let Some(rows) = query.next(ctx).await? {
        ctx.cancel.check()?;
        count += rows.len();
        for row in rows {
            let key = encode_row_key(table, row.get(..table.columns.len()).unwrap_or(&row));
            ctx.txn.delete(key).await?;
        }
    }
    Ok(WriteOutcome { count, rows: Vec::new(), unproven: Vec::new() })
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
