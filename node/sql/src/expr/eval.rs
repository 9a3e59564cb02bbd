//! Evaluation.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use super::{CmpOp, Expr};
use crate::cast;
use crate::datum::{Datum, Row};
use crate::error::{Result, SqlError, SqlState};
use crate::session::SessionInfo;

/// The result of a subquery that ran before the statement's rows.
#[derive(Clone, Debug)]
pub(crate) enum SlotValue {
    /// A single value.
    Value(Datum),
    /// Rows to compare with.
    Rows(Arc<SlotRows>),
}

/// The rows of a subquery for membership tests.
#[derive(Debug, Default)]
pub(crate) struct SlotRows {
    /// All rows.
    pub(crate) rows: Vec<Row>,
    /// The rows without NULL.
    pub(crate) set: HashSet<Row>,
    /// Whether a row has a NULL.
    pub(crate) has_null: bool,
}

impl SlotRows {
    pub(crate) fn new(rows: Vec<Row>) -> Self {
        let has_null = rows.iter().any(|row| row.iter().any(Datum::is_null));
        let complete = rows.iter().filter(|row| !row.iter().any(Datum::is_null));
        let set = complete.cloned().collect();
        Self { rows, set, has_null }
    }
}

/// What an expression reads besides its input row.
pub(crate) struct EvalCtx<'a> {
    /// The session and the statement's time.
    pub(crate) info: &'a SessionInfo,
    /// Values of `$1`, `$2`, ...
    pub(crate) params: &'a [Datum],
    /// Rows of enclosing queries, the nearest last.
    pub(crate) outer: &'a [Row],
    /// Results of subqueries.
    pub(crate) slots: &'a [SlotValue],
}

/// Refuses operands from which too large a value would be built.
fn check_size<'d>(ctx: &EvalCtx<'_>, operands: impl IntoIterator<Item = &'d Datum>) -> Result<()> {
    let most = ctx.info.node.limits.operand_bytes;
    let mut bytes = 0usize;
    for operand in operands {
        bytes = bytes.saturating_add(operand.memory());
    }
    if bytes <= most {
        return Ok(());
    }
    Err(SqlError::new(
        SqlState::PROGRAM_LIMIT,
        format!("a value is built from more than {most} bytes"),
    ))
}

/// Three-valued result as a datum.
fn truth(value: Option<bool>) -> Datum {
    value.map_or(Datum::Null, Datum::Bool)
}

/// Compares two rows or values for equality and the like; none is unknown.
pub(crate) fn compare_rows(op: CmpOp, left: &[Datum], right: &[Datum]) -> Option<bool> {
    let mut unknown = false;
    for (l, r) in left.iter().zip(right) {
        if l.is_null() || r.is_null() {
            if !matches!(op, CmpOp::Eq | CmpOp::NotEq) {
                return None;
            }
            unknown = true;
            continue;
        }
        match l.cmp(r) {
            Ordering::Equal => {}
            // One difference decides (in)equality whatever the NULLs are.
            order => return Some(op.holds(order)),
        }
    }
    if unknown { None } else { Some(op.holds(Ordering::Equal)) }
}

impl Expr {
    /// The value for an input row.
    pub(crate) fn eval(&self, ctx: &EvalCtx<'_>, row: &[Datum]) -> Result<Datum> {
        self.eval_ref(ctx, row).map(Cow::into_owned)
    }

    /// The truth of a condition; NULL counts as false.
    pub(crate) fn eval_bool(&self, ctx: &EvalCtx<'_>, row: &[Datum]) -> Result<bool> {
        Ok(self.eval_ref(ctx, row)?.as_bool() == Some(true))
    }

    /// The value, borrowed where it stands somewhere.
    pub(crate) fn eval_ref<'r>(
        &'r self,
        ctx: &'r EvalCtx<'_>,
        row: &'r [Datum],
    ) -> Result<Cow<'r, Datum>> {
        let missing = |what: &str| SqlError::internal(format!("no {what} where one is read"));
        Ok(match self {
            Self::Const(value) => Cow::Borrowed(value),
            Self::Column(i) => Cow::Borrowed(row.get(*i).ok_or_else(|| missing("column"))?),
            Self::Param(i) => {
                Cow::Borrowed(ctx.params.get(*i).ok_or_else(|| missing("parameter"))?)
            }
            Self::Outer { level, column } => {
                let at = ctx.outer.len().checked_sub(*level).ok_or_else(|| missing("outer row"))?;
                let value = ctx.outer.get(at).and_then(|row| row.get(*column));
                Cow::Borrowed(value.ok_or_else(|| missing("outer column"))?)
            }
            Self::Slot(i) => match ctx.slots.get(*i) {
                Some(SlotValue::Value(value)) => Cow::Borrowed(value),
                _ => return Err(missing("subquery result")),
            },
            _ => Cow::Owned(crate::stack::deep(|| self.compute(ctx, row))?),
        })
    }

    fn compute(&self, ctx: &EvalCtx<'_>, row: &[Datum]) -> Result<Datum> {
        Ok(match self {
            Self::Compare(op, left, right) => {
                let (l, r) = (left.eval_ref(ctx, row)?, right.eval_ref(ctx, row)?);
                if l.is_null() || r.is_null() {
                    return Ok(Datum::Null);
                }
                Datum::Bool(op.holds(l.as_ref().cmp(r.as_ref())))
            }
            Self::Binary(op, left, right) => {
                let (l, r) = (left.eval_ref(ctx, row)?, right.eval_ref(ctx, row)?);
                if l.is_null() || r.is_null() {
                    return Ok(Datum::Null);
                }
                check_size(ctx, [l.as_ref(), r.as_ref()])?;
                (op.f)(ctx, &l, &r)?
            }
            Self::And(left, right) => match left.eval_ref(ctx, row)?.as_bool() {
                Some(false) => Datum::Bool(false),
                l => match (l, right.eval_ref(ctx, row)?.as_bool()) {
                    (_, Some(false)) => Datum::Bool(false),
                    (Some(true), Some(true)) => Datum::Bool(true),
                    _ => Datum::Null,
                },
            },
            Self::Or(left, right) => match left.eval_ref(ctx, row)?.as_bool() {
                Some(true) => Datum::Bool(true),
                l => match (l, right.eval_ref(ctx, row)?.as_bool()) {
                    (_, Some(true)) => Datum::Bool(true),
                    (Some(false), Some(false)) => Datum::Bool(false),
                    _ => Datum::Null,
                },
            },
            Self::Not(expr) => truth(expr.eval_ref(ctx, row)?.as_bool().map(|b| !b)),
            Self::IsNull(expr, negated) => {
                Datum::Bool(expr.eval_ref(ctx, row)?.is_null() != *negated)
            }
            Self::IsBool { expr, value, negated } => {
                Datum::Bool((expr.eval_ref(ctx, row)?.as_bool() == Some(*value)) != *negated)
            }
            Self::Distinct { left, right, negated } => {
                let (l, r) = (left.eval_ref(ctx, row)?, right.eval_ref(ctx, row)?);
                Datum::Bool((l != r) != *negated)
            }
            Self::Call(..) => self.call(ctx, row)?,
            Self::Case { branches, otherwise } => {
                for (when, then) in branches {
                    if when.eval_bool(ctx, row)? {
                        return then.eval(ctx, row);
                    }
                }
                otherwise.eval(ctx, row)?
            }
            Self::Coalesce(items) => {
                for item in items {
                    let value = item.eval_ref(ctx, row)?;
                    if !value.is_null() {
                        return Ok(value.into_owned());
                    }
                }
                Datum::Null
            }
            Self::Cast { expr, from, to, explicit } => {
                let value = expr.eval_ref(ctx, row)?;
                let value = crate::func::cast_datum(ctx, &value, *from, to.ty)?;
                cast::apply_typmod(value, *to, *explicit)?
            }
            Self::Array { elem, items } => {
                let items: Vec<Datum> =
                    items.iter().map(|i| i.eval(ctx, row)).collect::<Result<_>>()?;
                check_size(ctx, &items)?;
                Datum::array(*elem, items)
            }
            _ => return self.compute_rare(ctx, row),
        })
    }

    fn compute_rare(&self, ctx: &EvalCtx<'_>, row: &[Datum]) -> Result<Datum> {
        Ok(match self {
            Self::InList { expr, list, negated } => {
                let value = expr.eval_ref(ctx, row)?;
                if value.is_null() {
                    return Ok(Datum::Null);
                }
                let mut unknown = false;
                for item in list {
                    let item = item.eval_ref(ctx, row)?;
                    if item.is_null() {
                        unknown = true;
                    } else if *item == *value {
                        return Ok(Datum::Bool(!*negated));
                    }
                }
                if unknown { Datum::Null } else { Datum::Bool(*negated) }
            }
            Self::InSlot { left, slot, op, all } => {
                let Some(SlotValue::Rows(rows)) = ctx.slots.get(*slot) else {
                    return Err(SqlError::internal("a subquery has no rows where they are read"));
                };
                let left = left.iter().map(|e| e.eval(ctx, row)).collect::<Result<Vec<Datum>>>()?;
                truth(quantified(*op, *all, &left, rows))
            }
            Self::Quantified { left, op, array, all } => {
                let left = left.eval_ref(ctx, row)?;
                let array = array.eval_ref(ctx, row)?;
                match array.as_ref() {
                    Datum::Array(array) => truth(any_all(
                        *all,
                        array.items.iter().map(|item| {
                            compare_rows(
                                *op,
                                std::slice::from_ref(&*left),
                                std::slice::from_ref(item),
                            )
                        }),
                    )),
                    _ => Datum::Null,
                }
            }
            Self::Subscript(array, index) => {
                match (array.eval_ref(ctx, row)?.as_ref(), index.eval_ref(ctx, row)?.as_ref()) {
                    (Datum::Array(array), Datum::Int(index)) => usize::try_from(*index - 1)
                        .ok()
                        .and_then(|i| array.items.get(i))
                        .cloned()
                        .unwrap_or_default(),
                    _ => Datum::Null,
                }
            }
            Self::Aggregate(_) => {
                return Err(SqlError::new(
                    SqlState::GROUPING_ERROR,
                    "aggregate functions are not allowed here",
                ));
            }
            Self::Subquery(_) => return Err(SqlError::unsupported("a subquery in this place")),
            _ => return Err(SqlError::internal("an expression has no evaluation")),
        })
    }

    fn call(&self, ctx: &EvalCtx<'_>, row: &[Datum]) -> Result<Datum> {
        let Self::Call(func, args) = self else {
            return Err(SqlError::internal("not a call"));
        };
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            let value = arg.eval(ctx, row)?;
            if func.0.strict && value.is_null() {
                return Ok(Datum::Null);
            }
            values.push(value);
        }
        check_size(ctx, &values)?;
        (func.0.f)(ctx, &values)
    }
}

/// Combines the comparisons of ANY (or ALL).
pub(crate) fn any_all(all: bool, results: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut unknown = false;
    for result in results {
        match result {
            Some(r) if r != all => return Some(!all),
            Some(_) => {}
            None => unknown = true,
        }
    }
    if unknown { None } else { Some(all) }
}

/// `left op ANY (rows)` or ALL.
pub(crate) fn quantified(op: CmpOp, all: bool, left: &[Datum], rows: &SlotRows) -> Option<bool> {
    let by_hash = !left.iter().any(Datum::is_null)
        && ((op == CmpOp::Eq && !all) || (op == CmpOp::NotEq && all));
    if by_hash {
        if rows.set.contains(left) {
            return Some(!all);
        }
        if !rows.has_null {
            return Some(all);
        }
    }
    any_all(all, rows.rows.iter().map(|row| compare_rows(op, left, row)))
}
