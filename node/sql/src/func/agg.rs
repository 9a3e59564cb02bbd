//! Aggregates.

use std::collections::HashSet;

use super::json;
use super::op::int_as_float;
use crate::datum::{Datum, Decimal, Interval, Row};
use crate::error::Result;
use crate::expr::EvalCtx;
use crate::types::SqlType as S;

/// Which aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AggKind {
    CountRows,
    Count,
    Sum,
    Avg,
    Min,
    Max,
    BoolAnd,
    BoolOr,
    StringAgg,
    ArrayAgg,
    JsonAgg,
    BitAnd,
    BitOr,
    StddevSamp,
    StddevPop,
    VarSamp,
    VarPop,
    /// The value of a column that is the same in the whole group.
    AnyNotNull,
}

/// Whether a name is an aggregate's.
pub(crate) fn is_aggregate(name: &str) -> bool {
    kind_of(name).is_some()
}

fn kind_of(name: &str) -> Option<AggKind> {
    Some(match name {
        "count" => AggKind::Count,
        "sum" => AggKind::Sum,
        "avg" => AggKind::Avg,
        "min" => AggKind::Min,
        "max" => AggKind::Max,
        "bool_and" | "every" => AggKind::BoolAnd,
        "bool_or" => AggKind::BoolOr,
        "string_agg" => AggKind::StringAgg,
        "array_agg" => AggKind::ArrayAgg,
        "jsonb_agg" | "json_agg" => AggKind::JsonAgg,
        "bit_and" => AggKind::BitAnd,
        "bit_or" => AggKind::BitOr,
        "stddev" | "stddev_samp" => AggKind::StddevSamp,
        "stddev_pop" => AggKind::StddevPop,
        "variance" | "var_samp" => AggKind::VarSamp,
        "var_pop" => AggKind::VarPop,
        _ => return None,
    })
}

/// The aggregate of a name for arguments of given types: its kind, what the arguments become and
/// the type of its result.
pub(crate) fn resolve(name: &str, args: &[S]) -> Option<(AggKind, Vec<S>, S)> {
    let kind = kind_of(name)?;
    let arg = match (kind, args) {
        (AggKind::StringAgg, [value, _]) => *value,
        (AggKind::StringAgg, _) => return None,
        (_, [arg]) => *arg,
        _ => return None,
    };
    let known = if arg == S::Unknown { S::Text } else { arg };
    let (takes, result) = match kind {
        AggKind::Count => (known, S::Int8),
        AggKind::Sum => match arg {
            S::Int2 | S::Int4 => (arg, S::Int8),
            S::Int8 => (arg, S::Numeric),
            S::Numeric | S::Float8 | S::Float4 | S::Interval => (arg, arg),
            _ => return None,
        },
        AggKind::Avg => match arg {
            t if t.is_int() => (arg, S::Numeric),
            S::Numeric | S::Interval => (arg, arg),
            S::Float4 | S::Float8 => (arg, S::Float8),
            _ => return None,
        },
        AggKind::Min | AggKind::Max => match known {
            S::Bool | S::Jsonb | S::Void => return None,
            t => (t, t),
        },
        AggKind::BoolAnd | AggKind::BoolOr => match arg {
            S::Bool | S::Unknown => (S::Bool, S::Bool),
            _ => return None,
        },
        AggKind::StringAgg => match arg {
            S::Bytea => return None,
            _ => return Some((kind, vec![S::Text, S::Text], S::Text)),
        },
        AggKind::ArrayAgg => (known, known.array_of()?),
        AggKind::JsonAgg => (known, S::Jsonb),
        AggKind::BitAnd | AggKind::BitOr => {
            if !arg.is_int() {
                return None;
            }
            (arg, arg)
        }
        AggKind::StddevSamp | AggKind::StddevPop | AggKind::VarSamp | AggKind::VarPop => {
            match arg {
                S::Float4 | S::Float8 => (arg, S::Float8),
                t if t.is_number() => (arg, S::Numeric),
                _ => return None,
            }
        }
        AggKind::CountRows | AggKind::AnyNotNull => return None,
    };
    Some((kind, vec![takes], result))
}

/// The running state of one aggregate in one group.
#[derive(Debug)]
pub(crate) struct Accumulator {
    kind: AggKind,
    arg: S,
    result: S,
    count: i64,
    int_sum: i128,
    float_sum: f64,
    square_sum: f64,
    decimal: Option<Decimal>,
    decimal_squares: Option<Decimal>,
    interval: Interval,
    value: Datum,
    text: String,
    items: Vec<Datum>,
    seen: Option<HashSet<Row>>,
}

impl Accumulator {
    pub(crate) fn new(kind: AggKind, arg: S, result: S, distinct: bool) -> Self {
        Self {
            kind,
            arg,
            result,
            count: 0,
            int_sum: 0,
            float_sum: 0.0,
            square_sum: 0.0,
            decimal: None,
            decimal_squares: None,
            interval: Interval::default(),
            value: Datum::Null,
            text: String::new(),
            items: Vec::new(),
            seen: distinct.then(HashSet::new),
        }
    }

    /// Takes the arguments of one row. Returns the bytes the state grew by.
    pub(crate) fn add(&mut self, ctx: &EvalCtx<'_>, args: &[Datum]) -> Result<usize> {
        let mut grown = 0;
        if let Some(seen) = &mut self.seen {
            if !seen.insert(args.to_vec()) {
                return Ok(0);
            }
            grown += args.iter().map(Datum::memory).sum::<usize>();
        }
        let value = args.first().unwrap_or(&Datum::Null);
        if self.kind == AggKind::CountRows {
            self.count += 1;
            return Ok(grown);
        }
        match self.kind {
            AggKind::ArrayAgg => {
                self.items.push(value.clone());
                return Ok(grown + value.memory());
            }
            AggKind::JsonAgg => {
                self.items.push(Datum::json(json::to_json(ctx, value)?));
                return Ok(grown + value.memory());
            }
            _ if value.is_null() => return Ok(grown),
            _ => {}
        }
        self.count += 1;
        match self.kind {
            AggKind::Sum | AggKind::Avg => self.add_sum(value)?,
            AggKind::Min => {
                if self.value.is_null() || *value < self.value {
                    self.value = value.clone();
                }
            }
            AggKind::Max => {
                if self.value.is_null() || *value > self.value {
                    self.value = value.clone();
                }
            }
            AggKind::BoolAnd | AggKind::BoolOr => {
                let (old, new) = (self.value.as_bool(), value.as_bool() == Some(true));
                self.value = Datum::Bool(match (self.kind, old) {
                    (_, None) => new,
                    (AggKind::BoolAnd, Some(old)) => old && new,
                    (_, Some(old)) => old || new,
                });
            }
            AggKind::StringAgg => {
                if self.count > 1 {
                    let separator = args.get(1).and_then(Datum::as_str).unwrap_or("");
                    self.text.push_str(separator);
                    grown += separator.len();
                }
                self.text.push_str(value.as_str().unwrap_or(""));
                grown += value.memory();
            }
            AggKind::BitAnd | AggKind::BitOr => {
                if let Datum::Int(new) = value {
                    self.value = Datum::Int(match (&self.value, self.kind) {
                        (Datum::Int(old), AggKind::BitAnd) => old & new,
                        (Datum::Int(old), _) => old | new,
                        _ => *new,
                    });
                }
            }
            AggKind::StddevSamp | AggKind::StddevPop | AggKind::VarSamp | AggKind::VarPop => {
                self.add_square(value)?;
            }
            AggKind::AnyNotNull => self.value = value.clone(),
            AggKind::Count | AggKind::CountRows | AggKind::ArrayAgg | AggKind::JsonAgg => {}
        }
        Ok(grown)
    }

    fn add_sum(&mut self, value: &Datum) -> Result<()> {
        match value {
            Datum::Int(v) => self.int_sum += i128::from(*v),
            Datum::Float(v) => self.float_sum += v,
            Datum::Decimal(v) => {
                self.decimal = Some(match self.decimal.take() {
                    None => v.as_ref().clone(),
                    Some(sum) => sum.add(v)?,
                });
            }
            Datum::Interval(v) => self.interval = self.interval.checked_add(*v)?,
            _ => {}
        }
        Ok(())
    }

    fn add_square(&mut self, value: &Datum) -> Result<()> {
        let decimal = match value {
            Datum::Int(v) => Decimal::from(*v),
            Datum::Decimal(v) => v.as_ref().clone(),
            other => {
                let x = int_as_float(other);
                self.float_sum += x;
                self.square_sum += x * x;
                return Ok(());
            }
        };
        let zero = Decimal::zero();
        let squares =
            self.decimal_squares.as_ref().unwrap_or(&zero).add(&decimal.mul(&decimal)?)?;
        self.decimal = Some(self.decimal.as_ref().unwrap_or(&zero).add(&decimal)?);
        self.decimal_squares = Some(squares);
        Ok(())
    }

    /// The result of the group.
    pub(crate) fn finish(self) -> Result<Datum> {
        Ok(match self.kind {
            AggKind::CountRows | AggKind::Count => Datum::Int(self.count),
            AggKind::ArrayAgg if self.items.is_empty() => Datum::Null,
            AggKind::ArrayAgg => {
                let elem = match self.result {
                    S::Array(elem) => *elem,
                    other => other,
                };
                Datum::array(elem, self.items)
            }
            AggKind::JsonAgg if self.items.is_empty() => Datum::Null,
            AggKind::JsonAgg => Datum::json(
                self.items
                    .into_iter()
                    .map(|d| match d {
                        Datum::Json(v) => v.as_ref().clone(),
                        _ => serde_json::Value::Null,
                    })
                    .collect(),
            ),
            _ if self.count == 0 => Datum::Null,
            AggKind::Sum => match self.arg {
                S::Int2 | S::Int4 => Datum::Int(
                    i64::try_from(self.int_sum).map_err(|_| crate::cast::int_overflow(S::Int8))?,
                ),
                S::Int8 => Datum::decimal(Decimal::from(self.int_sum)),
                S::Numeric => Datum::decimal(self.decimal.unwrap_or_else(Decimal::zero)),
                S::Interval => Datum::Interval(self.interval),
                S::Float4 => Datum::Float(crate::cast::round_float4(self.float_sum)),
                _ => Datum::Float(self.float_sum),
            },
            AggKind::Avg => match self.arg {
                S::Interval => Datum::Interval(
                    self.interval.scaled(1.0 / int_as_float(&Datum::Int(self.count)))?,
                ),
                S::Float4 | S::Float8 => {
                    Datum::Float(self.float_sum / int_as_float(&Datum::Int(self.count)))
                }
                _ => {
                    let sum = self.decimal.unwrap_or_else(|| Decimal::from(self.int_sum));
                    Datum::decimal(sum.div(&Decimal::from(self.count))?)
                }
            },
            AggKind::StringAgg => Datum::text(self.text),
            AggKind::StddevSamp | AggKind::StddevPop | AggKind::VarSamp | AggKind::VarPop => {
                self.spread()?
            }
            _ => self.value,
        })
    }

    fn spread(self) -> Result<Datum> {
        let sample = matches!(self.kind, AggKind::StddevSamp | AggKind::VarSamp);
        let root = matches!(self.kind, AggKind::StddevSamp | AggKind::StddevPop);
        let divisor = if sample { self.count - 1 } else { self.count };
        if divisor == 0 {
            return Ok(Datum::Null);
        }
        match (self.decimal, self.decimal_squares) {
            (Some(sum), Some(squares)) => {
                let n = Decimal::from(self.count);
                let spread = squares.sub(&sum.mul(&sum)?.div(&n)?)?.div(&Decimal::from(divisor))?;
                if !root {
                    return Ok(Datum::decimal(spread));
                }
                Ok(Datum::decimal(match spread {
                    Decimal::Finite(d) => Decimal::Finite(d.sqrt().unwrap_or_default()).round(16),
                    other => other,
                }))
            }
            _ => {
                let n = int_as_float(&Datum::Int(self.count));
                let divisor = int_as_float(&Datum::Int(divisor));
                let spread =
                    ((self.square_sum - self.float_sum * self.float_sum / n) / divisor).max(0.0);
                Ok(Datum::Float(if root { spread.sqrt() } else { spread }))
            }
        }
    }
}
