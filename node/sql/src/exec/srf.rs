//! Functions that yield rows.

use std::task::Poll;

use super::ExecCtx;
use super::op::{Made, Op};
use crate::datum::{Datum, Decimal, Row, json};
use crate::error::{Result, SqlError, SqlState};
use crate::expr::{Expr, SrfKind, like};
use crate::func::op;
use crate::types::SqlType;

/// Appends to each row the rows of the calls. A series of integers alone comes piece by piece,
/// however long it is.
pub(crate) struct ProjectSetOp<'p> {
    input: Op<'p>,
    calls: &'p [(SrfKind, Vec<Expr>)],
    /// Rows that no call was made for.
    rows: std::vec::IntoIter<Row>,
    series: Option<Series>,
}

/// What is left of a series of integers.
struct Series {
    row: Row,
    next: Option<i64>,
    to: i64,
    step: i64,
}

impl<'p> ProjectSetOp<'p> {
    pub(super) fn new(input: Op<'p>, calls: &'p [(SrfKind, Vec<Expr>)]) -> Self {
        Self { input, calls, rows: Vec::new().into_iter(), series: None }
    }

    pub(super) async fn next(&mut self, ctx: &mut ExecCtx<'_>) -> Result<Option<Vec<Row>>> {
        ctx.cancel.check()?;
        if self.series.is_some() {
            // It may go on for long, and waits for nothing that others could run beside.
            let mut again = false;
            std::future::poll_fn(|cx| match std::mem::replace(&mut again, true) {
                true => Poll::Ready(()),
                false => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            })
            .await;
        }
        let mut out = Made::new(ctx);
        while !out.is_full() {
            if let Some(series) = &mut self.series {
                match series.next() {
                    Some(row) => out.push(row)?,
                    None => self.series = None,
                }
            } else if let Some(row) = self.rows.next() {
                match self.calls {
                    [(SrfKind::Series, args)] => self.series = Series::new(ctx, row, args)?,
                    calls => {
                        let before = ctx.memory;
                        for row in project_set(ctx, &row, calls)? {
                            out.push(row)?;
                        }
                        ctx.memory = before;
                    }
                }
            } else if let Some(rows) = self.input.next(ctx).await? {
                self.rows = rows.into_iter();
            } else {
                break;
            }
        }
        Ok((!out.rows.is_empty()).then_some(out.rows))
    }
}

impl Series {
    /// None if an argument is NULL.
    fn new(ctx: &ExecCtx<'_>, row: Row, args: &[Expr]) -> Result<Option<Self>> {
        let args = args.iter().map(|e| e.eval(&ctx.eval(), &row)).collect::<Result<Vec<_>>>()?;
        let (from, to, step) = match args.as_slice() {
            [Datum::Int(from), Datum::Int(to)] => (*from, *to, 1),
            [Datum::Int(_), Datum::Int(_), Datum::Int(0)] => return Err(zero_step()),
            [Datum::Int(from), Datum::Int(to), Datum::Int(step)] => (*from, *to, *step),
            _ => return Ok(None),
        };
        Ok(Some(Self { row, next: Some(from), to, step }))
    }

    fn next(&mut self) -> Option<Row> {
        let (to, up) = (self.to, self.step > 0);
        let value = self.next.filter(|v| if up { *v <= to } else { *v >= to })?;
        self.next = value.checked_add(self.step);
        let mut row = Vec::with_capacity(self.row.len() + 1);
        row.extend_from_slice(&self.row);
        row.push(Datum::Int(value));
        Some(row)
    }
}

/// Appends to a row the rows of the calls, side by side; the shorter ones end in NULL.
fn project_set(
    ctx: &mut ExecCtx<'_>,
    row: &Row,
    calls: &[(SrfKind, Vec<Expr>)],
) -> Result<Vec<Row>> {
    let mut columns = Vec::with_capacity(calls.len());
    for (kind, args) in calls {
        let args = args.iter().map(|e| e.eval(&ctx.eval(), row)).collect::<Result<Vec<Datum>>>()?;
        let values = call(ctx, *kind, &args)?;
        ctx.hold(values.len().saturating_mul(size_of::<Datum>()))?;
        columns.push(values);
    }
    let height = columns.iter().map(Vec::len).max().unwrap_or(0);
    let mut columns: Vec<_> = columns.into_iter().map(Vec::into_iter).collect();
    let mut out = Vec::with_capacity(height);
    for _ in 0..height {
        let mut next = Vec::with_capacity(row.len() + columns.len());
        next.extend_from_slice(row);
        next.extend(columns.iter_mut().map(|c| c.next().unwrap_or_default()));
        out.push(next);
    }
    Ok(out)
}

fn zero_step() -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, "step size cannot equal zero")
}

/// Holds memory for rows before they exist.
fn reserve(ctx: &mut ExecCtx<'_>, count: usize) -> Result<()> {
    ctx.hold(count.saturating_mul(size_of::<Datum>()))
}

fn call(ctx: &mut ExecCtx<'_>, kind: SrfKind, args: &[Datum]) -> Result<Vec<Datum>> {
    if args.iter().any(Datum::is_null) {
        return Ok(Vec::new());
    }
    match (kind, args) {
        (SrfKind::Series, [Datum::Int(from), Datum::Int(to), rest @ ..]) => {
            let step = match rest {
                [Datum::Int(step)] => *step,
                _ => 1,
            };
            series(ctx, *from, *to, step)
        }
        (SrfKind::SeriesNumeric, [Datum::Decimal(from), Datum::Decimal(to), rest @ ..]) => {
            let step = match rest {
                [Datum::Decimal(step)] => step.as_ref().clone(),
                _ => Decimal::from(1i64),
            };
            let zero = Decimal::zero();
            if step == zero {
                return Err(zero_step());
            }
            let mut out = Vec::new();
            let mut at = from.as_ref().clone();
            while (step > zero && at <= **to) || (step < zero && at >= **to) {
                reserve(ctx, 4)?;
                out.push(Datum::decimal(at.clone()));
                at = at.add(&step)?;
            }
            Ok(out)
        }
        (SrfKind::SeriesTimestamp | SrfKind::SeriesTimestampTz, [from, to, step]) => {
            series_time(ctx, from, to, step)
        }
        (SrfKind::Unnest, [Datum::Array(array)]) => Ok(array.items.clone()),
        (SrfKind::Subscripts, [Datum::Array(array), Datum::Int(1)]) => {
            Ok((1..=array.items.len()).map(|i| Datum::Int(i64::try_from(i).unwrap_or(0))).collect())
        }
        (SrfKind::RegexpSplit, [Datum::Text(text), Datum::Text(pattern)]) => {
            Ok(like::regex(pattern, false)?.split(text).map(Datum::text).collect())
        }
        (SrfKind::JsonElements, [Datum::Json(value)]) => match value.as_ref() {
            serde_json::Value::Array(items) => Ok(items.iter().cloned().map(Datum::json).collect()),
            _ => Err(not_json("an array")),
        },
        (SrfKind::JsonElementsText, [Datum::Json(value)]) => match value.as_ref() {
            serde_json::Value::Array(items) => Ok(items
                .iter()
                .map(|item| match item {
                    serde_json::Value::Null => Datum::Null,
                    serde_json::Value::String(s) => Datum::text(s.as_str()),
                    other => Datum::text(json::to_text(other)),
                })
                .collect()),
            _ => Err(not_json("an array")),
        },
        (SrfKind::JsonKeys, [Datum::Json(value)]) => match value.as_ref() {
            serde_json::Value::Object(map) => {
                Ok(map.keys().map(|k| Datum::text(k.as_str())).collect())
            }
            _ => Err(not_json("an object")),
        },
        _ => Ok(Vec::new()),
    }
}

fn not_json(wanted: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, format!("the JSON value is not {wanted}"))
}

fn series(ctx: &mut ExecCtx<'_>, from: i64, to: i64, step: i64) -> Result<Vec<Datum>> {
    if step == 0 {
        return Err(zero_step());
    }
    let distance = i128::from(to) - i128::from(from);
    let count = distance / i128::from(step) + 1;
    if (distance > 0) != (step > 0) && distance != 0 {
        return Ok(Vec::new());
    }
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    reserve(ctx, count)?;
    let mut out = Vec::with_capacity(count);
    let mut at = Some(from);
    while let Some(value) = at.filter(|v| if step > 0 { *v <= to } else { *v >= to }) {
        out.push(Datum::Int(value));
        at = value.checked_add(step);
    }
    Ok(out)
}

fn series_time(
    ctx: &mut ExecCtx<'_>,
    from: &Datum,
    to: &Datum,
    step: &Datum,
) -> Result<Vec<Datum>> {
    let Datum::Interval(interval) = step else { return Ok(Vec::new()) };
    let forward = match interval.comparable() {
        0 => return Err(zero_step()),
        n => n > 0,
    };
    let ty = match from {
        Datum::TimestampTz(_) => SqlType::TimestampTz,
        _ => SqlType::Timestamp,
    };
    let plus = op::binary("+", ty, SqlType::Interval)
        .ok_or_else(|| SqlError::internal("times cannot be moved"))?;
    let mut out = Vec::new();
    let mut at = from.clone();
    while if forward { at <= *to } else { at >= *to } {
        reserve(ctx, 1)?;
        out.push(at.clone());
        at = (plus.f)(&ctx.eval(), &at, step)?;
    }
    Ok(out)
}
