//! UPDATE and DELETE.

use std::collections::HashSet;

use crdb_keys::Key;

use super::{WriteOutcome, assigned, duplicate, insert_rows, returned};
use crate::datum::Row;
use crate::encoding::encode_row_key;
use crate::error::Result;
use crate::exec::{ExecCtx, Op};
use crate::plan::{DeletePlan, Plan, QueryPlan, UpdatePlan};

/// UPDATE.
pub(crate) async fn run_update(ctx: &mut ExecCtx<'_>, plan: &UpdatePlan) -> Result<WriteOutcome> {
    // A row with a new key could be met again.
    let keys_stay = !plan.sets.iter().any(|(column, _)| plan.table.is_key_column(*column));
    if keys_stay && goes_once(ctx, &plan.query)? {
        return update_pieces(ctx, plan).await;
    }
    update_all(ctx, plan).await
}

/// Updates rows as they are found, so that they need not be held together.
async fn update_pieces(ctx: &mut ExecCtx<'_>, plan: &UpdatePlan) -> Result<WriteOutcome> {
    let table = &plan.table;
    let width = table.columns.len();
    ctx.run_slots(&plan.query).await?;
    let mut query = Op::new(&plan.query.root);
    let mut outcome = WriteOutcome::default();
    while let Some(input) = query.next(ctx).await? {
        ctx.cancel.check()?;
        outcome.count += input.len();
        let mut changed = Vec::with_capacity(input.len());
        for row in input {
            let old = row.get(..width).unwrap_or(&row);
            let mut new = assigned(ctx, table, &plan.sets, old, &row)?;
            let key = encode_row_key(table, old);
            let value = ctx.row_value(table, &key, &new)?;
            ctx.txn.put(key, value).await?;
            if plan.returning.is_some() {
                new.extend_from_slice(row.get(width..).unwrap_or_default());
                changed.push(new);
            }
        }
        outcome.rows.extend(returned(ctx, &changed, plan.returning.as_deref())?);
    }
    Ok(outcome)
}

/// Updates rows that were all found before.
async fn update_all(ctx: &mut ExecCtx<'_>, plan: &UpdatePlan) -> Result<WriteOutcome> {
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
        // Beside the row that it is made of, which is held already.
        ctx.hold_row(&new)?;
        let new_key = ctx.row_key(table, &new)?;
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
            let value = ctx.row_value(table, &new_key, &new)?;
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
    if goes_once(ctx, &plan.query)? {
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
    Ok(WriteOutcome { count, rows, ..WriteOutcome::default() })
}

/// Deletes rows as they are found, so that they need not be held together.
async fn delete_pieces(ctx: &mut ExecCtx<'_>, plan: &DeletePlan) -> Result<WriteOutcome> {
    let table = &plan.table;
    ctx.run_slots(&plan.query).await?;
    let mut query = Op::new(&plan.query.root);
    let mut outcome = WriteOutcome::default();
    while let Some(input) = query.next(ctx).await? {
        ctx.cancel.check()?;
        outcome.count += input.len();
        for row in &input {
            let key = encode_row_key(table, row.get(..table.columns.len()).unwrap_or(row));
            ctx.txn.delete(key).await?;
        }
        outcome.rows.extend(returned(ctx, &input, plan.returning.as_deref())?);
    }
    Ok(outcome)
}

/// Whether a query goes over one table from end to end, and so never meets what was done to the rows
/// it has yielded. What else it reads (the subqueries that are run once) it has read before.
fn goes_once(ctx: &ExecCtx<'_>, query: &QueryPlan) -> Result<bool> {
    let mut plan = &query.root;
    while let Plan::Filter { input, .. } | Plan::Limit { input, .. } = plan {
        plan = input;
    }
    match plan {
        // One row is quicker fetched without operators.
        Plan::Scan(scan) if query.slots.is_empty() => Ok(scan.point(&ctx.eval())?.is_none()),
        Plan::Scan(_) => Ok(true),
        _ => Ok(false),
    }
}
