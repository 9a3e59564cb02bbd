//! The operators without a file of their own, and how all are pulled.

use std::cmp::Ordering;
use std::collections::HashSet;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::aggregate::AggregateOp;
use super::join::JoinOp;
use super::lateral::LateralOp;
use super::scan::ScanOp;
use super::srf::ProjectSetOp;
use super::{ExecCtx, column_array, scalar};
use crate::datum::{Datum, Row};
use crate::error::{Result, SqlError, SqlState};
use crate::expr::{EvalCtx, Expr, SlotRows, SubqueryKind, quantified};
use crate::limits::Limits;
use crate::plan::{ApplyItem, Plan, SortKey};

/// An operator that runs.
pub(crate) enum Op<'p> {
    Values {
        rows: std::slice::Iter<'p, Vec<Expr>>,
    },
    /// Rows that are computed already, or will be by an operator that needs all its input first.
    Rows(std::vec::IntoIter<Row>),
    Virtual(&'static crate::vtable::VirtualTable),
    Show(&'p crdb_sqlfront::ast::Show),
    Scan(Box<ScanOp<'p>>),
    Filter {
        input: Box<Op<'p>>,
        predicate: &'p Expr,
    },
    Project {
        input: Box<Op<'p>>,
        exprs: &'p [Expr],
        /// Rows of the input that were not projected yet.
        pending: std::vec::IntoIter<Row>,
    },
    ProjectSet(Box<ProjectSetOp<'p>>),
    Ordinality {
        input: Box<Op<'p>>,
        next: i64,
    },
    Join(Box<JoinOp<'p>>),
    Lateral(Box<LateralOp<'p>>),
    Aggregate(Box<AggregateOp<'p>>),
    Sort {
        input: Box<Op<'p>>,
        keys: &'p [SortKey],
    },
    Limit(Box<LimitOp<'p>>),
    Distinct {
        input: Box<Op<'p>>,
        on: Option<&'p [Expr]>,
        seen: HashSet<Row>,
    },
    Combine(Box<super::setop::SetOperation<'p>>),
    Apply {
        input: Box<Op<'p>>,
        items: &'p [ApplyItem],
        /// Rows of the input that no subquery was run for yet.
        pending: std::vec::IntoIter<Row>,
    },
}

/// LIMIT and OFFSET.
pub(crate) struct LimitOp<'p> {
    input: Op<'p>,
    limit: Option<&'p Expr>,
    offset: Option<&'p Expr>,
    /// Rows still to skip and to pass, once known.
    left: Option<(u64, u64)>,
}

impl<'p> Op<'p> {
    /// Readies a plan to run.
    pub(crate) fn new(plan: &'p Plan) -> Self {
        crate::stack::deep(|| Self::ready(plan))
    }

    fn ready(plan: &'p Plan) -> Self {
        let boxed = |plan: &'p Plan| Box::new(Self::new(plan));
        match plan {
            Plan::Values(rows) => Self::Values { rows: rows.iter() },
            Plan::Scan(scan) => Self::Scan(Box::new(ScanOp::new(scan))),
            Plan::Virtual(table) => Self::Virtual(table),
            Plan::Show(show) => Self::Show(show),
            Plan::Filter { input, predicate } => Self::Filter { input: boxed(input), predicate },
            Plan::Project { input, exprs } => {
                Self::Project { input: boxed(input), exprs, pending: Vec::new().into_iter() }
            }
            Plan::ProjectSet { input, calls } => {
                Self::ProjectSet(Box::new(ProjectSetOp::new(Self::new(input), calls)))
            }
            Plan::Ordinality(input) => Self::Ordinality { input: boxed(input), next: 1 },
            Plan::Join(join) => Self::Join(Box::new(JoinOp::new(join))),
            Plan::LateralJoin(join) => Self::Lateral(Box::new(LateralOp::new(join))),
            Plan::Aggregate { input, groups, aggs } => {
                Self::Aggregate(Box::new(AggregateOp::new(Self::new(input), groups, aggs)))
            }
            Plan::Sort { input, keys } => Self::Sort { input: boxed(input), keys },
            Plan::Limit { input, limit, offset } => Self::Limit(Box::new(LimitOp {
                input: Self::new(input),
                limit: limit.as_ref(),
                offset: offset.as_ref(),
                left: None,
            })),
            Plan::Distinct { input, on } => {
                Self::Distinct { input: boxed(input), on: on.as_deref(), seen: HashSet::new() }
            }
            Plan::SetOp { kind, all, left, right } => Self::Combine(Box::new(
                super::setop::SetOperation::new(*kind, *all, Self::new(left), Self::new(right)),
            )),
            Plan::Apply { input, items } => {
                Self::Apply { input: boxed(input), items, pending: Vec::new().into_iter() }
            }
        }
    }

    /// The next rows; none at the end. A batch may be empty.
    pub(crate) fn next<'s>(
        &'s mut self,
        ctx: &'s mut ExecCtx<'_>,
    ) -> BoxFuture<'s, Result<Option<Vec<Row>>>> {
        let mut pull = self.pull(ctx).boxed();
        // Operators nest as deep as queries do.
        std::future::poll_fn(move |cx| crate::stack::deep(|| pull.as_mut().poll(cx))).boxed()
    }

    /// Goes on with rows that are all there; returns an empty batch.
    fn become_rows(&mut self, rows: Vec<Row>) -> Option<Vec<Row>> {
        *self = Self::Rows(rows.into_iter());
        Some(Vec::new())
    }

    async fn pull(&mut self, ctx: &mut ExecCtx<'_>) -> Result<Option<Vec<Row>>> {
        match self {
            Self::Values { rows } => values(ctx, rows),
            Self::Rows(rows) => {
                let out: Vec<Row> = rows.by_ref().take(ctx.limits.batch_rows).collect();
                Ok((!out.is_empty()).then_some(out))
            }
            Self::Virtual(table) => {
                let rows = table.rows(ctx.info).await?;
                Ok(self.become_rows(rows))
            }
            Self::Show(show) => {
                let rows = crate::session::show_rows(ctx.info, show).await?;
                Ok(self.become_rows(rows))
            }
            Self::Scan(scan) => scan.next(ctx).await,
            Self::Filter { input, predicate } => {
                let Some(mut rows) = input.next(ctx).await? else { return Ok(None) };
                ctx.cancel.check()?;
                keep(&ctx.eval(), &mut rows, predicate)?;
                Ok(Some(rows))
            }
            Self::Project { input, exprs, pending } => {
                if pending.len() == 0 {
                    let Some(rows) = input.next(ctx).await? else { return Ok(None) };
                    *pending = rows.into_iter();
                }
                project(ctx, pending, exprs).map(Some)
            }
            Self::ProjectSet(set) => set.next(ctx).await,
            Self::Ordinality { input, next } => {
                let Some(mut rows) = input.next(ctx).await? else { return Ok(None) };
                for row in &mut rows {
                    row.push(Datum::Int(*next));
                    *next += 1;
                }
                Ok(Some(rows))
            }
            Self::Join(join) => join.next(ctx).await,
            Self::Lateral(join) => join.next(ctx).await,
            Self::Aggregate(aggregate) => {
                let rows = aggregate.run(ctx).await?;
                Ok(self.become_rows(rows))
            }
            Self::Sort { input, keys } => {
                let mut rows = input.drain(ctx).await?;
                sort(&ctx.eval(), &mut rows, keys)?;
                Ok(self.become_rows(rows))
            }
            Self::Limit(limit) => limit.next(ctx).await,
            Self::Distinct { input, on, seen } => {
                let Some(rows) = input.next(ctx).await? else { return Ok(None) };
                distinct(ctx, rows, *on, seen).map(Some)
            }
            Self::Combine(setop) => setop.next(ctx).await,
            Self::Apply { input, items, pending } => {
                if pending.len() == 0 {
                    let Some(rows) = input.next(ctx).await? else { return Ok(None) };
                    *pending = rows.into_iter();
                }
                let mut out = Made::new(ctx);
                while !out.is_full()
                    && let Some(row) = pending.next()
                {
                    ctx.cancel.check()?;
                    out.push(apply(ctx, row, items).await?)?;
                }
                Ok(Some(out.rows))
            }
        }
    }

    /// All rows.
    pub(crate) fn drain<'s>(
        &'s mut self,
        ctx: &'s mut ExecCtx<'_>,
    ) -> BoxFuture<'s, Result<Vec<Row>>> {
        async move {
            let mut all: Vec<Row> = Vec::new();
            while let Some(rows) = self.next(ctx).await? {
                ctx.cancel.check()?;
                for row in &rows {
                    ctx.hold_row(row)?;
                }
                if all.is_empty() {
                    all = rows;
                } else {
                    all.extend(rows);
                }
            }
            Ok(all)
        }
        .boxed()
    }
}

/// Keeps the first of the rows that are equal.
fn distinct(
    ctx: &mut ExecCtx<'_>,
    rows: Vec<Row>,
    on: Option<&[Expr]>,
    seen: &mut HashSet<Row>,
) -> Result<Vec<Row>> {
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let key = match on {
            None => row.clone(),
            Some(on) => on.iter().map(|e| e.eval(&ctx.eval(), &row)).collect::<Result<_>>()?,
        };
        let bytes = super::row_memory(&key);
        if seen.insert(key) {
            ctx.hold(bytes)?;
            out.push(row);
        }
    }
    Ok(out)
}

/// Keeps the rows that satisfy a predicate.
pub(super) fn keep(eval: &EvalCtx<'_>, rows: &mut Vec<Row>, predicate: &Expr) -> Result<()> {
    let mut failed = None;
    rows.retain(|row| {
        failed.is_none()
            && predicate.eval_bool(eval, row).unwrap_or_else(|error| {
                failed = Some(error);
                false
            })
    });
    failed.map_or(Ok(()), Err)
}

/// The rows that an operator makes for one batch. They are not held for the statement; a batch has
/// no more than it should, in rows and in bytes, but for its last row.
pub(super) struct Made {
    pub(super) rows: Vec<Row>,
    bytes: usize,
    limits: Limits,
}

impl Made {
    pub(super) fn new(ctx: &ExecCtx<'_>) -> Self {
        Self { rows: Vec::new(), bytes: 0, limits: ctx.limits }
    }

    /// Adds a row; one that alone takes all memory of the statement is an error.
    pub(super) fn push(&mut self, row: Row) -> Result<()> {
        let bytes = super::row_memory(&row);
        if bytes > self.limits.memory_bytes {
            return Err(super::out_of_memory(self.limits.memory_bytes));
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.rows.push(row);
        Ok(())
    }

    /// Whether the batch goes on before another row is made.
    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= self.limits.batch_rows || self.bytes >= self.limits.batch_bytes
    }
}

/// The next rows with the expressions in place of their columns.
pub(super) fn project(
    ctx: &ExecCtx<'_>,
    rows: &mut std::vec::IntoIter<Row>,
    exprs: &[Expr],
) -> Result<Vec<Row>> {
    let identity = exprs.iter().enumerate().all(|(i, e)| matches!(e, Expr::Column(c) if *c == i));
    if identity {
        let cut = |mut row: Row| {
            row.truncate(exprs.len());
            row
        };
        return Ok(rows.map(cut).collect());
    }
    let eval = &ctx.eval();
    let mut out = Made::new(ctx);
    while !out.is_full()
        && let Some(row) = rows.next()
    {
        out.push(exprs.iter().map(|e| e.eval(eval, &row)).collect::<Result<_>>()?)?;
    }
    Ok(out.rows)
}

/// Order of two values by a key.
pub(super) fn compare_key(key: &SortKey, a: &Datum, b: &Datum) -> Ordering {
    match (a.is_null(), b.is_null()) {
        (true, true) => Ordering::Equal,
        (true, false) if key.nulls_first => Ordering::Less,
        (true, false) => Ordering::Greater,
        (false, true) if key.nulls_first => Ordering::Greater,
        (false, true) => Ordering::Less,
        _ if key.descending => b.cmp(a),
        _ => a.cmp(b),
    }
}

/// Sorts rows by keys, those that are equal in the order they came.
pub(super) fn sort(eval: &EvalCtx<'_>, rows: &mut Vec<Row>, keys: &[SortKey]) -> Result<()> {
    let mut keyed: Vec<(Vec<Datum>, Row)> = Vec::with_capacity(rows.len());
    for row in std::mem::take(rows) {
        let values = keys.iter().map(|k| k.expr.eval(eval, &row)).collect::<Result<_>>()?;
        keyed.push((values, row));
    }
    keyed.sort_by(|(a, _), (b, _)| {
        keys.iter()
            .zip(a.iter().zip(b))
            .map(|(key, (a, b))| compare_key(key, a, b))
            .find(|o| o.is_ne())
            .unwrap_or(Ordering::Equal)
    });
    rows.extend(keyed.into_iter().map(|(_, row)| row));
    Ok(())
}

/// Appends the results of correlated subqueries to a row.
async fn apply(ctx: &mut ExecCtx<'_>, row: Row, items: &[ApplyItem]) -> Result<Row> {
    let mut results = Vec::with_capacity(items.len());
    ctx.outer.push(row);
    let mut failed = None;
    for item in items {
        let before = ctx.memory;
        match Op::new(&item.plan).drain(ctx).await {
            Ok(rows) => match subquery_value(ctx, item, rows, &results) {
                Ok(value) => results.push(value),
                Err(error) => failed = Some(error),
            },
            Err(error) => failed = Some(error),
        }
        ctx.memory = before;
        if failed.is_some() {
            break;
        }
    }
    let mut row = ctx.outer.pop().unwrap_or_default();
    if let Some(error) = failed {
        return Err(error);
    }
    row.append(&mut results);
    Ok(row)
}

fn subquery_value(
    ctx: &ExecCtx<'_>,
    item: &ApplyItem,
    rows: Vec<Row>,
    before: &[Datum],
) -> Result<Datum> {
    match &item.kind {
        SubqueryKind::Scalar => scalar(rows),
        SubqueryKind::Exists => Ok(Datum::Bool(!rows.is_empty())),
        SubqueryKind::Array(elem) => Ok(column_array(*elem, rows)),
        SubqueryKind::Quantified { left, op, all } => {
            // The left side reads the row itself, not the rows around it.
            let (row, outer) = ctx
                .outer
                .split_last()
                .ok_or_else(|| SqlError::internal("a subquery runs without its row"))?;
            let eval = EvalCtx { info: ctx.info, params: ctx.params, outer, slots: &ctx.slots };
            let mut extended = row.clone();
            extended.extend_from_slice(before);
            let left =
                left.iter().map(|e| e.eval(&eval, &extended)).collect::<Result<Vec<Datum>>>()?;
            let result = quantified(*op, *all, &left, &SlotRows::new(rows));
            Ok(result.map_or(Datum::Null, Datum::Bool))
        }
    }
}

impl LimitOp<'_> {
    async fn next(&mut self, ctx: &mut ExecCtx<'_>) -> Result<Option<Vec<Row>>> {
        let (skip, pass) = match self.left {
            Some(left) => left,
            None => {
                let skip = row_count(ctx, self.offset, SqlState::INVALID_OFFSET, "OFFSET")?;
                let pass = row_count(ctx, self.limit, SqlState::INVALID_LIMIT, "LIMIT")?;
                (skip.unwrap_or(0), pass.unwrap_or(u64::MAX))
            }
        };
        if pass == 0 {
            self.left = Some((skip, 0));
            return Ok(None);
        }
        let Some(mut rows) = self.input.next(ctx).await? else { return Ok(None) };
        let have = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        let skipped = skip.min(have);
        rows.drain(..usize::try_from(skipped).unwrap_or(usize::MAX));
        rows.truncate(usize::try_from(pass).unwrap_or(usize::MAX));
        let passed = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        self.left = Some((skip - skipped, pass - passed));
        Ok(Some(rows))
    }
}

/// The value of LIMIT or OFFSET; none for NULL.
pub(super) fn row_count(
    ctx: &ExecCtx<'_>,
    e: Option<&Expr>,
    code: SqlState,
    clause: &str,
) -> Result<Option<u64>> {
    let Some(e) = e else { return Ok(None) };
    match e.eval(&ctx.eval(), &[])? {
        Datum::Int(n) => u64::try_from(n)
            .map(Some)
            .map_err(|_| SqlError::new(code, format!("{clause} must not be negative"))),
        _ => Ok(None),
    }
}

/// The next rows of a list of values.
fn values(
    ctx: &mut ExecCtx<'_>,
    rows: &mut std::slice::Iter<'_, Vec<Expr>>,
) -> Result<Option<Vec<Row>>> {
    let eval = ctx.eval();
    let mut out = Made::new(ctx);
    while !out.is_full()
        && let Some(exprs) = rows.next()
    {
        out.push(exprs.iter().map(|e| e.eval(&eval, &[])).collect::<Result<_>>()?)?;
    }
    Ok((!out.rows.is_empty()).then_some(out.rows))
}
