//! Grouping by hash.

use std::collections::HashMap;

use super::ExecCtx;
use super::op::{Op, sort};
use crate::datum::{Datum, Row};
use crate::error::Result;
use crate::expr::{AggCall, EvalCtx, Expr};
use crate::func::agg::Accumulator;

/// A grouping that runs.
pub(crate) struct AggregateOp<'p> {
    input: Op<'p>,
    groups: &'p [Expr],
    aggs: &'p [AggCall],
}

/// One group: running aggregates, and the rows of those that want an order.
struct Group {
    states: Vec<Accumulator>,
    ordered: Vec<Vec<Row>>,
}

impl<'p> AggregateOp<'p> {
    pub(super) fn new(input: Op<'p>, groups: &'p [Expr], aggs: &'p [AggCall]) -> Self {
        Self { input, groups, aggs }
    }

    fn group(&self) -> Group {
        let states = self
            .aggs
            .iter()
            .map(|a| Accumulator::new(a.kind, a.arg_type, a.result, a.distinct))
            .collect();
        Group { states, ordered: vec![Vec::new(); self.aggs.len()] }
    }

    /// The rows of all groups: the group's values, then its aggregates.
    pub(super) async fn run(&mut self, ctx: &mut ExecCtx<'_>) -> Result<Vec<Row>> {
        // In the order in which groups are first seen.
        let mut index: HashMap<Row, usize> = HashMap::new();
        let mut groups: Vec<(Row, Group)> = Vec::new();
        if self.groups.is_empty() {
            groups.push((Vec::new(), self.group()));
        }
        while let Some(rows) = self.input.next(ctx).await? {
            ctx.cancel.check()?;
            let mut grown = 0;
            {
                let eval = ctx.eval();
                for row in rows {
                    let at = if self.groups.is_empty() {
                        0
                    } else {
                        let key: Row = self
                            .groups
                            .iter()
                            .map(|e| e.eval(&eval, &row))
                            .collect::<Result<_>>()?;
                        match index.get(&key) {
                            Some(at) => *at,
                            None => {
                                grown += 2 * super::row_memory(&key) + 200 * self.aggs.len();
                                index.insert(key.clone(), groups.len());
                                groups.push((key, self.group()));
                                groups.len() - 1
                            }
                        }
                    };
                    if let Some((_, group)) = groups.get_mut(at) {
                        grown += add_row(&eval, self.aggs, group, row)?;
                    }
                    if grown > ctx.limits.memory_bytes {
                        return Err(super::out_of_memory(ctx.limits.memory_bytes));
                    }
                }
            }
            ctx.hold(grown)?;
        }
        let eval = ctx.eval();
        let mut out = Vec::with_capacity(groups.len());
        for (mut row, group) in groups {
            let states = group.states.into_iter().zip(group.ordered).zip(self.aggs);
            for ((mut state, mut rows), agg) in states {
                sort(&eval, &mut rows, &agg.order_by)?;
                for input in rows {
                    state.add(&eval, &arguments(&eval, agg, &input)?)?;
                }
                row.push(state.finish()?);
            }
            out.push(row);
        }
        Ok(out)
    }
}

fn arguments(eval: &EvalCtx<'_>, agg: &AggCall, row: &[Datum]) -> Result<Row> {
    agg.args.iter().map(|e| e.eval(eval, row)).collect()
}

fn add_row(eval: &EvalCtx<'_>, aggs: &[AggCall], group: &mut Group, row: Row) -> Result<usize> {
    let mut grown = 0;
    for ((agg, state), ordered) in aggs.iter().zip(&mut group.states).zip(&mut group.ordered) {
        if let Some(filter) = &agg.filter
            && !filter.eval_bool(eval, &row)?
        {
            continue;
        }
        if agg.order_by.is_empty() {
            grown += match agg.args.as_slice() {
                [] => state.add(eval, &[])?,
                [only] => state.add(eval, std::slice::from_ref(&*only.eval_ref(eval, &row)?))?,
                _ => state.add(eval, &arguments(eval, agg, &row)?)?,
            };
        } else {
            grown += super::row_memory(&row);
            ordered.push(row.clone());
        }
    }
    Ok(grown)
}
