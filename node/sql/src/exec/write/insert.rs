//! INSERT and UPSERT.

use std::collections::{HashMap, HashSet};

use crdb_keys::Key;

use super::{
    Seen, WriteOutcome, assigned, check_not_null, duplicate, insert_rows, lock_keys, returned,
};
use crate::catalog::TableDesc;
use crate::datum::{Datum, Row};
use crate::encoding::RowDecoder;
use crate::error::{Result, SqlError, SqlState};
use crate::exec::{ExecCtx, Op};
use crate::plan::{Conflict, InsertPlan, Plan};

/// INSERT and UPSERT.
pub(crate) async fn run_insert(ctx: &mut ExecCtx<'_>, plan: &InsertPlan) -> Result<WriteOutcome> {
    if comes_in_pieces(plan) {
        return insert_pieces(ctx, plan).await;
    }
    let input = ctx.run_query(&plan.query).await?;
    let alone = ctx.txn.alone;
    insert_input(ctx, plan, input, alone, &mut Seen::default()).await
}

/// Whether rows can be inserted while the query still runs: it does not read their table, so nobody
/// sees them before the end.
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
            Plan::LateralJoin(join) => apart(&join.left, table) && apart(&join.right, table),
            Plan::SetOp { left, right, .. } => apart(left, table) && apart(right, table),
            Plan::Apply { input, items } => {
                apart(input, table) && items.iter().all(|item| apart(&item.plan, table))
            }
            Plan::Show(_) => false,
        }
    }
    !matches!(plan.query.root, Plan::Values(_)) && apart(&plan.query.root, plan.table.id)
}

/// Inserts the rows of a query as they come, so that they need not be held together. Each is looked
/// up, unless they are few.
async fn insert_pieces(ctx: &mut ExecCtx<'_>, plan: &InsertPlan) -> Result<WriteOutcome> {
    ctx.run_slots(&plan.query).await?;
    let mut query = Op::new(&plan.query.root);
    let mut seen = Seen::default();
    let first = query.next(ctx).await?.unwrap_or_default();
    let mut piece = query.next(ctx).await?;
    let alone = ctx.txn.alone && piece.is_none();
    let mut outcome = insert_input(ctx, plan, first, alone, &mut seen).await?;
    while let Some(input) = piece {
        let WriteOutcome { count, rows, .. } =
            insert_input(ctx, plan, input, false, &mut seen).await?;
        outcome.count += count;
        outcome.rows.extend(rows);
        // What was looked up, or drawn for it, the commit does not find to exist.
        outcome.unproven.clear();
        piece = query.next(ctx).await?;
    }
    Ok(outcome)
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
        let key = ctx.row_key(table, &row)?;
        rows.push((key, row));
    }
    Ok(rows)
}

/// Inserts rows. `alone` says that they are all there is in the transaction, whose commit finds out
/// about keys that exist; `seen` has the keys of the statement's rows before that must not come
/// again.
async fn insert_input(
    ctx: &mut ExecCtx<'_>,
    plan: &InsertPlan,
    input: Vec<Row>,
    alone: bool,
    seen: &mut Seen,
) -> Result<WriteOutcome> {
    let table = &plan.table;
    let rows = new_rows(ctx, plan, input)?;
    let drawn = drawn_key(plan);
    let look = !alone && !drawn;
    // Rows that the commit may find to exist, and only by it.
    let mut unproven = Vec::new();
    let mut proven = Vec::new();
    match &plan.conflict {
        Conflict::Fail => unproven = insert_new(ctx, table, rows, look).await?,
        // Should the number ever name a row that exists, that row must stay.
        Conflict::Upsert if drawn => unproven = insert_new(ctx, table, rows, look).await?,
        Conflict::Upsert => proven = upsert(ctx, plan, rows, seen).await?,
        Conflict::DoNothing | Conflict::DoUpdate { .. } => {
            let resolved = insert_or_update(ctx, plan, rows, alone, seen).await?;
            (proven, unproven) = (resolved.rows, resolved.moved);
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

/// The next rows to look up, no more than one request should find.
fn next_chunk(
    ctx: &mut ExecCtx<'_>,
    rows: &mut std::vec::IntoIter<(Key, Row)>,
) -> Option<Vec<(Key, Row)>> {
    let most = ctx.next_lookup();
    let chunk: Vec<(Key, Row)> = rows.take(most).collect();
    (!chunk.is_empty()).then_some(chunk)
}

/// The rows that exist, by key. All keys are locked.
async fn existing(
    ctx: &mut ExecCtx<'_>,
    table: &TableDesc,
    chunk: &[(Key, Row)],
) -> Result<HashMap<Key, Row>> {
    let wanted = vec![true; table.columns.len()];
    let decoder = RowDecoder::new(table, &wanted);
    let keys: Vec<Key> = chunk.iter().map(|(key, _)| key.clone()).collect();
    let mut found = HashMap::new();
    for (value, key) in lock_keys(ctx, table, &keys).await?.into_iter().zip(keys) {
        if let Some(value) = value {
            let row = decoder.decode(&key, &value)?;
            found.insert(key, row);
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
    seen: &mut Seen,
) -> Result<Vec<Row>> {
    let table = &plan.table;
    for (key, _) in &rows {
        if !seen.first_time(ctx, key)? {
            return Err(twice("UPSERT"));
        }
    }
    // Columns that are not named keep the value of the row that exists.
    let all_named =
        plan.sources.iter().enumerate().all(|(i, s)| s.is_some() || table.is_key_column(i));
    let mut out = Vec::with_capacity(rows.len());
    let mut rows = rows.into_iter();
    while let Some(chunk) = next_chunk(ctx, &mut rows) {
        let mut found =
            if all_named { HashMap::new() } else { existing(ctx, table, &chunk).await? };
        for (key, mut row) in chunk {
            if let Some(old) = found.remove(&key) {
                for ((slot, old), source) in row.iter_mut().zip(old).zip(&plan.sources) {
                    if source.is_none() {
                        *slot = old;
                    }
                }
            }
            let value = ctx.row_value(table, &key, &row)?;
            ctx.txn.put(key, value).await?;
            out.push(row);
        }
    }
    Ok(out)
}

/// What ON CONFLICT wrote.
#[derive(Default)]
struct Resolved {
    /// All rows.
    rows: Vec<Row>,
    /// Those of them that were moved to a new key.
    moved: Vec<Row>,
}

async fn insert_or_update(
    ctx: &mut ExecCtx<'_>,
    plan: &InsertPlan,
    rows: Vec<(Key, Row)>,
    alone: bool,
    seen: &mut Seen,
) -> Result<Resolved> {
    let table = &plan.table;
    let mut out = Resolved::default();
    let mut rows = rows.into_iter();
    while let Some(chunk) = next_chunk(ctx, &mut rows) {
        let mut found = existing(ctx, table, &chunk).await?;
        for (key, row) in chunk {
            let again = !seen.first_time(ctx, &key)?;
            match (&plan.conflict, found.remove(&key)) {
                (Conflict::DoUpdate { .. }, _) if again => {
                    return Err(twice("ON CONFLICT DO UPDATE"));
                }
                (_, _) if again => {}
                (_, None) => {
                    insert_rows(ctx, table, std::slice::from_ref(&row), false).await?;
                    out.rows.push(row);
                }
                (Conflict::DoUpdate { sets, filter }, Some(old)) => {
                    let mut pair = old.clone();
                    pair.extend(row);
                    if let Some(filter) = filter
                        && !filter.eval_bool(&ctx.eval(), &pair)?
                    {
                        continue;
                    }
                    let new = assigned(ctx, table, sets, &old, &pair)?;
                    change(ctx, table, key, new, alone, seen, &mut out).await?;
                }
                _ => {}
            }
        }
    }
    Ok(out)
}

/// Writes the new values of a row that exists.
async fn change(
    ctx: &mut ExecCtx<'_>,
    table: &TableDesc,
    key: Key,
    new: Row,
    alone: bool,
    seen: &mut Seen,
    out: &mut Resolved,
) -> Result<()> {
    let new_key = ctx.row_key(table, &new)?;
    if new_key == key {
        let value = ctx.row_value(table, &key, &new)?;
        ctx.txn.put(key, value).await?;
    } else {
        ctx.txn.delete(key).await?;
        insert_rows(ctx, table, std::slice::from_ref(&new), !alone).await?;
        seen.first_time(ctx, &new_key)?;
        out.moved.push(new.clone());
    }
    out.rows.push(new);
    Ok(())
}
