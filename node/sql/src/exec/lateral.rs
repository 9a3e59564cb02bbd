//! Joins whose right side reads the row of the left side: it runs anew for each.

use super::ExecCtx;
use super::op::{Made, Op};
use crate::datum::{Datum, Row};
use crate::error::Result;
use crate::plan::LateralJoin;

/// A lateral join that runs.
pub(crate) struct LateralOp<'p> {
    join: &'p LateralJoin,
    left: Op<'p>,
    /// Rows of the left side that were read and not joined yet.
    pending: std::vec::IntoIter<Row>,
}

impl<'p> LateralOp<'p> {
    pub(super) fn new(join: &'p LateralJoin) -> Self {
        Self { join, left: Op::new(&join.left), pending: Vec::new().into_iter() }
    }

    pub(super) async fn next(&mut self, ctx: &mut ExecCtx<'_>) -> Result<Option<Vec<Row>>> {
        if self.pending.len() == 0 {
            let Some(rows) = self.left.next(ctx).await? else { return Ok(None) };
            self.pending = rows.into_iter();
        }
        let mut out = Made::new(ctx);
        while !out.is_full()
            && let Some(left) = self.pending.next()
        {
            ctx.cancel.check()?;
            let before = ctx.memory;
            ctx.outer.push(left);
            let right = Op::new(&self.join.right).drain(ctx).await;
            let left = ctx.outer.pop().unwrap_or_default();
            ctx.memory = before;
            combine(ctx, self.join, left, right?, &mut out)?;
        }
        Ok(Some(out.rows))
    }
}

/// Joins a row with its partners.
fn combine(
    ctx: &ExecCtx<'_>,
    join: &LateralJoin,
    left: Row,
    right: Vec<Row>,
    out: &mut Made,
) -> Result<()> {
    let eval = ctx.eval();
    let mut found = false;
    for row in right {
        let mut pair = Vec::with_capacity(join.left_width + join.right_width);
        pair.extend_from_slice(&left);
        pair.extend(row);
        if let Some(condition) = &join.condition
            && !condition.eval_bool(&eval, &pair)?
        {
            continue;
        }
        found = true;
        out.push(pair)?;
    }
    if join.keeps_left && !found {
        let mut pair = left;
        pair.resize(join.left_width + join.right_width, Datum::Null);
        out.push(pair)?;
    }
    Ok(())
}
