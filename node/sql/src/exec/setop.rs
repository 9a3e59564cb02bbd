//! UNION, INTERSECT and EXCEPT.

use std::collections::HashMap;

use super::ExecCtx;
use super::op::Op;
use crate::datum::Row;
use crate::error::Result;
use crate::plan::SetKind;

/// A set operation that runs.
pub(crate) struct SetOperation<'p> {
    kind: SetKind,
    all: bool,
    left: Op<'p>,
    right: Op<'p>,
    left_done: bool,
    /// UNION: rows that came out. Else: how often each row of the right side is left to match.
    counts: Option<HashMap<Row, usize>>,
    /// Rows that came out, for the distinct forms of INTERSECT and EXCEPT.
    seen: HashMap<Row, usize>,
}

impl<'p> SetOperation<'p> {
    pub(super) fn new(kind: SetKind, all: bool, left: Op<'p>, right: Op<'p>) -> Self {
        Self { kind, all, left, right, left_done: false, counts: None, seen: HashMap::new() }
    }

    pub(super) async fn next(&mut self, ctx: &mut ExecCtx<'_>) -> Result<Option<Vec<Row>>> {
        if self.kind == SetKind::Union {
            return self.next_union(ctx).await;
        }
        if self.counts.is_none() {
            let mut counts: HashMap<Row, usize> = HashMap::new();
            for row in self.right.drain(ctx).await? {
                *counts.entry(row).or_default() += 1;
            }
            self.counts = Some(counts);
        }
        let Some(rows) = self.left.next(ctx).await? else { return Ok(None) };
        ctx.cancel.check()?;
        let Some(counts) = &mut self.counts else { return Ok(None) };
        let mut out = Vec::new();
        for row in rows {
            let keep = match counts.get_mut(&row) {
                Some(count) if *count > 0 => {
                    if self.all {
                        *count -= 1;
                    }
                    self.kind == SetKind::Intersect
                }
                _ => self.kind == SetKind::Except,
            };
            if keep && (self.all || first_time(ctx, &mut self.seen, &row)?) {
                out.push(row);
            }
        }
        Ok(Some(out))
    }

    async fn next_union(&mut self, ctx: &mut ExecCtx<'_>) -> Result<Option<Vec<Row>>> {
        let mut rows = None;
        if !self.left_done {
            rows = self.left.next(ctx).await?;
            self.left_done = rows.is_none();
        }
        if self.left_done {
            rows = self.right.next(ctx).await?;
        }
        let Some(rows) = rows else { return Ok(None) };
        if self.all {
            return Ok(Some(rows));
        }
        let mut out = Vec::with_capacity(rows.len());
        for row in rows {
            if first_time(ctx, &mut self.seen, &row)? {
                out.push(row);
            }
        }
        Ok(Some(out))
    }
}

fn first_time(ctx: &mut ExecCtx<'_>, seen: &mut HashMap<Row, usize>, row: &Row) -> Result<bool> {
    if seen.contains_key(row) {
        return Ok(false);
    }
    ctx.hold_row(row)?;
    seen.insert(row.clone(), 1);
    Ok(true)
}
