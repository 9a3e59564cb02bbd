//! Joins: a hash table over the right side, or every pair where nothing is equal.

use std::collections::HashMap;

use super::ExecCtx;
use super::op::{Made, Op};
use crate::datum::{Datum, Row};
use crate::error::Result;
use crate::expr::{EvalCtx, Expr};
use crate::plan::{Join, JoinKind};

/// A join that runs.
pub(crate) struct JoinOp<'p> {
    join: &'p Join,
    left: Op<'p>,
    right: Op<'p>,
    built: Option<Built>,
    /// Rows of the left side that were read and not joined yet.
    pending: std::vec::IntoIter<Row>,
    left_done: bool,
}

/// The right side.
struct Built {
    rows: Vec<Row>,
    table: HashMap<Row, Vec<usize>>,
    /// Which rows found a partner, where that matters.
    matched: Vec<bool>,
}

impl<'p> JoinOp<'p> {
    pub(super) fn new(join: &'p Join) -> Self {
        Self {
            join,
            left: Op::new(&join.left),
            right: Op::new(&join.right),
            built: None,
            pending: Vec::new().into_iter(),
            left_done: false,
        }
    }

    pub(super) async fn next(&mut self, ctx: &mut ExecCtx<'_>) -> Result<Option<Vec<Row>>> {
        if self.left_done {
            return Ok(None);
        }
        if self.built.is_none() {
            self.built = Some(self.build(ctx).await?);
        }
        let keeps_left = matches!(self.join.kind, JoinKind::Left | JoinKind::Full);
        let Some(built) = &mut self.built else { return Ok(None) };
        if built.rows.is_empty() && !keeps_left {
            self.left_done = true;
            return Ok(None);
        }
        if self.pending.len() == 0
            && let Some(rows) = self.left.next(ctx).await?
        {
            self.pending = rows.into_iter();
        } else if self.pending.len() == 0 {
            self.left_done = true;
            if !matches!(self.join.kind, JoinKind::Right | JoinKind::Full) {
                return Ok(None);
            }
            let lonely = built.rows.iter().zip(&built.matched).filter(|(_, matched)| !**matched);
            let out = lonely.map(|(row, _)| {
                let mut pair = vec![Datum::Null; self.join.left_width];
                pair.extend_from_slice(row);
                pair
            });
            return Ok(Some(out.collect()));
        }
        // A batch of the left side may have very many partners: only some rows at once.
        let mut out = Made::new(ctx);
        while !out.is_full()
            && let Some(left) = self.pending.next()
        {
            ctx.cancel.check()?;
            probe(&ctx.eval(), self.join, built, left, keeps_left, &mut out)?;
        }
        Ok(Some(out.rows))
    }

    async fn build(&mut self, ctx: &mut ExecCtx<'_>) -> Result<Built> {
        let rows = self.right.drain(ctx).await?;
        let mut table: HashMap<Row, Vec<usize>> = HashMap::new();
        if !self.join.keys.is_empty() {
            for (i, row) in rows.iter().enumerate() {
                let key = keys(&ctx.eval(), self.join.keys.iter().map(|(_, r)| r), row)?;
                if let Some(key) = key {
                    ctx.hold_row(&key)?;
                    table.entry(key).or_default().push(i);
                }
            }
        }
        let matched = vec![false; rows.len()];
        Ok(Built { rows, table, matched })
    }
}

/// The values that have to be equal; none when one is NULL.
fn keys<'e>(
    eval: &EvalCtx<'_>,
    exprs: impl Iterator<Item = &'e Expr>,
    row: &[Datum],
) -> Result<Option<Row>> {
    let mut out = Vec::new();
    for e in exprs {
        let value = e.eval(eval, row)?;
        if value.is_null() {
            return Ok(None);
        }
        out.push(value);
    }
    Ok(Some(out))
}

fn probe(
    eval: &EvalCtx<'_>,
    join: &Join,
    built: &mut Built,
    left: Row,
    keeps_left: bool,
    out: &mut Made,
) -> Result<()> {
    let mut found = false;
    let mut pair_with = |at: usize, out: &mut Made| -> Result<()> {
        let Some(right) = built.rows.get(at) else { return Ok(()) };
        let mut pair = Vec::with_capacity(left.len() + right.len());
        pair.extend_from_slice(&left);
        pair.extend_from_slice(right);
        if let Some(condition) = &join.condition
            && !condition.eval_bool(eval, &pair)?
        {
            return Ok(());
        }
        found = true;
        if let Some(matched) = built.matched.get_mut(at) {
            *matched = true;
        }
        out.push(pair)
    };
    if join.keys.is_empty() {
        for at in 0..built.rows.len() {
            pair_with(at, out)?;
        }
    } else if let Some(key) = keys(eval, join.keys.iter().map(|(l, _)| l), &left)? {
        for at in built.table.get(&key).into_iter().flatten() {
            pair_with(*at, out)?;
        }
    }
    if keeps_left && !found {
        let mut pair = left;
        pair.resize(join.left_width + join.right_width, Datum::Null);
        out.push(pair)?;
    }
    Ok(())
}
