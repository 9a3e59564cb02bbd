//! Operators: which types they take and what they compute.

use std::sync::Arc;

use serde_json::Value;

use super::{json, math, time};
use crate::cast::{check_int, int_overflow, int_to_float, round_float4};
use crate::datum::civil::DAY;
use crate::datum::datetime::{DATE_INFINITY, DATE_NEG_INFINITY};
use crate::datum::{Datum, Decimal, Interval};
use crate::error::{Result, SqlError, SqlState};
use crate::expr::{BinaryFn, EvalCtx, like};
use crate::types::{Category, SqlType as S};

type Op = fn(&EvalCtx<'_>, &Datum, &Datum) -> Result<Datum>;

fn mismatch() -> SqlError {
    SqlError::internal("an operator got operands of other types than it was resolved for")
}

fn division_by_zero() -> SqlError {
    SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero")
}

fn int_op(ty: S, l: &Datum, r: &Datum, f: fn(i64, i64) -> Option<i64>) -> Result<Datum> {
    match (l, r) {
        (Datum::Int(a), Datum::Int(b)) => {
            let value = f(*a, *b).ok_or_else(|| int_overflow(ty))?;
            Ok(Datum::Int(check_int(value, ty)?))
        }
        _ => Err(mismatch()),
    }
}

fn float_op(l: &Datum, r: &Datum, f: fn(f64, f64) -> f64) -> Result<Datum> {
    match (l, r) {
        (Datum::Float(a), Datum::Float(b)) => {
            let value = f(*a, *b);
            if value.is_infinite() && a.is_finite() && b.is_finite() {
                return Err(SqlError::new(
                    SqlState::NUMERIC_OUT_OF_RANGE,
                    "value out of range: overflow",
                ));
            }
            Ok(Datum::Float(value))
        }
        _ => Err(mismatch()),
    }
}

fn dec_op(l: &Datum, r: &Datum, f: fn(&Decimal, &Decimal) -> Result<Decimal>) -> Result<Datum> {
    match (l, r) {
        (Datum::Decimal(a), Datum::Decimal(b)) => Ok(Datum::decimal(f(a, b)?)),
        _ => Err(mismatch()),
    }
}

macro_rules! int_ops {
    ($f:expr) => {
        [
            |_: &EvalCtx<'_>, l: &Datum, r: &Datum| int_op(S::Int2, l, r, $f),
            |_: &EvalCtx<'_>, l: &Datum, r: &Datum| int_op(S::Int4, l, r, $f),
            |_: &EvalCtx<'_>, l: &Datum, r: &Datum| int_op(S::Int8, l, r, $f),
        ]
    };
}

fn pick(ty: S, ops: [Op; 3]) -> Op {
    let [two, four, eight] = ops;
    match ty {
        S::Int2 => two,
        S::Int4 => four,
        _ => eight,
    }
}

fn zero_checked(l: &Datum, r: &Datum) -> Result<()> {
    match (l, r) {
        (Datum::Int(_), Datum::Int(0)) => Err(division_by_zero()),
        (Datum::Float(_), Datum::Float(b)) if *b == 0.0 => Err(division_by_zero()),
        _ => Ok(()),
    }
}

/// The wider of two numeric types.
fn common_number(l: S, r: S) -> S {
    fn rank(ty: S) -> u8 {
        match ty {
            S::Int2 => 0,
            S::Int4 => 1,
            S::Int8 => 2,
            S::Numeric => 3,
            S::Float4 => 4,
            _ => 5,
        }
    }
    // A float4 beside anything but a float4 becomes a float8.
    match (l.is_float(), r.is_float()) {
        (true, true) if l == r => l,
        (true, _) | (_, true) => S::Float8,
        _ if rank(l) >= rank(r) => l,
        _ => r,
    }
}

fn arithmetic(name: &'static str, ty: S) -> Option<BinaryFn> {
    let f: Op = match (name, ty) {
        ("+", t) if t.is_int() => pick(ty, int_ops!(i64::checked_add)),
        ("-", t) if t.is_int() => pick(ty, int_ops!(i64::checked_sub)),
        ("*", t) if t.is_int() => pick(ty, int_ops!(i64::checked_mul)),
        ("/" | "//", t) if t.is_int() => match ty {
            S::Int2 => |_, l, r| {
                zero_checked(l, r)?;
                int_op(S::Int2, l, r, i64::checked_div)
            },
            S::Int4 => |_, l, r| {
                zero_checked(l, r)?;
                int_op(S::Int4, l, r, i64::checked_div)
            },
            _ => |_, l, r| {
                zero_checked(l, r)?;
                int_op(S::Int8, l, r, i64::checked_div)
            },
        },
        ("%", t) if t.is_int() => |_, l, r| {
            zero_checked(l, r)?;
            int_op(S::Int8, l, r, |a, b| Some(a.wrapping_rem(b)))
        },
        ("&", t) if t.is_int() => |_, l, r| int_op(S::Int8, l, r, |a, b| Some(a & b)),
        ("|", t) if t.is_int() => |_, l, r| int_op(S::Int8, l, r, |a, b| Some(a | b)),
        ("#", t) if t.is_int() => |_, l, r| int_op(S::Int8, l, r, |a, b| Some(a ^ b)),
        ("+", S::Numeric) => |_, l, r| dec_op(l, r, Decimal::add),
        ("-", S::Numeric) => |_, l, r| dec_op(l, r, Decimal::sub),
        ("*", S::Numeric) => |_, l, r| dec_op(l, r, Decimal::mul),
        ("/", S::Numeric) => |_, l, r| dec_op(l, r, Decimal::div),
        ("//", S::Numeric) => |_, l, r| {
            dec_op(l, r, |a, b| Ok(a.div(b)?.with_mode(0, bigdecimal::RoundingMode::Down)))
        },
        ("%", S::Numeric) => |_, l, r| dec_op(l, r, Decimal::rem),
        ("^", S::Numeric) => |_, l, r| match (l, r) {
            (Datum::Decimal(a), Datum::Decimal(b)) => math::decimal_power(a, b),
            _ => Err(mismatch()),
        },
        ("+", S::Float8) => |_, l, r| float_op(l, r, |a, b| a + b),
        ("-", S::Float8) => |_, l, r| float_op(l, r, |a, b| a - b),
        ("*", S::Float8) => |_, l, r| float_op(l, r, |a, b| a * b),
        ("/", S::Float8) => |_, l, r| {
            zero_checked(l, r)?;
            float_op(l, r, |a, b| a / b)
        },
        ("//", S::Float8) => |_, l, r| {
            zero_checked(l, r)?;
            float_op(l, r, |a, b| (a / b).trunc())
        },
        ("%", S::Float8) => |_, l, r| {
            zero_checked(l, r)?;
            float_op(l, r, |a, b| a % b)
        },
        ("^", S::Float8) => |_, l, r| match (l, r) {
            (Datum::Float(a), Datum::Float(b)) => math::power(*a, *b),
            _ => Err(mismatch()),
        },
        ("+", S::Float4) => |_, l, r| float_op(l, r, |a, b| round_float4(a + b)),
        ("-", S::Float4) => |_, l, r| float_op(l, r, |a, b| round_float4(a - b)),
        ("*", S::Float4) => |_, l, r| float_op(l, r, |a, b| round_float4(a * b)),
        ("/", S::Float4) => |_, l, r| {
            zero_checked(l, r)?;
            float_op(l, r, |a, b| round_float4(a / b))
        },
        _ => return None,
    };
    Some(BinaryFn { name, left: ty, right: ty, result: ty, f })
}

fn days(value: &Datum) -> Result<i64> {
    match value {
        Datum::Date(DATE_INFINITY | DATE_NEG_INFINITY) => Err(SqlError::new(
            SqlState::DATETIME_OVERFLOW,
            "cannot do arithmetic on infinite dates",
        )),
        Datum::Date(d) => Ok(i64::from(*d)),
        _ => Err(mismatch()),
    }
}

fn to_date(days: i64) -> Result<Datum> {
    i32::try_from(days)
        .ok()
        .filter(|d| (crate::datum::civil::MIN_DATE..=crate::datum::civil::MAX_DATE).contains(d))
        .map(Datum::Date)
        .ok_or_else(|| SqlError::new(SqlState::DATETIME_OVERFLOW, "date out of range"))
}

fn add_to_time(ctx: &EvalCtx<'_>, l: &Datum, interval: Interval) -> Result<Datum> {
    Ok(match l {
        Datum::Timestamp(t) => Datum::Timestamp(time::add_interval(*t, interval)?),
        Datum::TimestampTz(t) => Datum::TimestampTz(time::add_interval_tz(ctx, *t, interval)?),
        Datum::Time(t) => Datum::Time((t + interval.micros % DAY).rem_euclid(DAY)),
        Datum::Date(_) => {
            Datum::Timestamp(time::add_interval(days(l)?.saturating_mul(DAY), interval)?)
        }
        _ => return Err(mismatch()),
    })
}

fn plus_interval(ctx: &EvalCtx<'_>, l: &Datum, r: &Datum) -> Result<Datum> {
    match (l, r) {
        (Datum::Interval(a), Datum::Interval(b)) => Ok(Datum::Interval(a.checked_add(*b)?)),
        (l, Datum::Interval(i)) | (Datum::Interval(i), l) => add_to_time(ctx, l, *i),
        _ => Err(mismatch()),
    }
}

fn minus_interval(ctx: &EvalCtx<'_>, l: &Datum, r: &Datum) -> Result<Datum> {
    match r {
        Datum::Interval(i) => plus_interval(ctx, l, &Datum::Interval(i.checked_neg()?)),
        _ => Err(mismatch()),
    }
}

fn minus_instant(_: &EvalCtx<'_>, l: &Datum, r: &Datum) -> Result<Datum> {
    match (l, r) {
        (Datum::Timestamp(a), Datum::Timestamp(b))
        | (Datum::TimestampTz(a), Datum::TimestampTz(b)) => {
            Ok(Datum::Interval(time::difference(*a, *b)?))
        }
        (Datum::Time(a), Datum::Time(b)) => {
            Ok(Datum::Interval(Interval { micros: a - b, ..Interval::default() }))
        }
        (Datum::Date(_), Datum::Date(_)) => Ok(Datum::Int(days(l)? - days(r)?)),
        _ => Err(mismatch()),
    }
}

fn scale_interval(_: &EvalCtx<'_>, l: &Datum, r: &Datum) -> Result<Datum> {
    match (l, r) {
        (Datum::Interval(i), Datum::Float(f)) | (Datum::Float(f), Datum::Interval(i)) => {
            Ok(Datum::Interval(i.scaled(*f)?))
        }
        _ => Err(mismatch()),
    }
}

/// Arithmetic on dates and times.
fn temporal(name: &'static str, l: S, r: S) -> Option<BinaryFn> {
    let make = |left, right, result, f: Op| Some(BinaryFn { name, left, right, result, f });
    match (name, l, r) {
        ("+", S::Interval, S::Interval) => make(l, r, S::Interval, plus_interval),
        ("-", S::Interval, S::Interval) => make(l, r, S::Interval, minus_interval),
        ("+", S::Timestamp | S::TimestampTz | S::Time, S::Interval) => make(l, r, l, plus_interval),
        ("+", S::Interval, S::Timestamp | S::TimestampTz | S::Time) => make(l, r, r, plus_interval),
        ("-", S::Timestamp | S::TimestampTz | S::Time, S::Interval) => {
            make(l, r, l, minus_interval)
        }
        ("+", S::Date, S::Interval) => make(l, r, S::Timestamp, plus_interval),
        ("+", S::Interval, S::Date) => make(l, r, S::Timestamp, plus_interval),
        ("-", S::Date, S::Interval) => make(l, r, S::Timestamp, minus_interval),
        ("+", S::Date, r) if r.is_int() => make(l, S::Int8, S::Date, |_, l, r| match r {
            Datum::Int(n) => to_date(days(l)?.saturating_add(*n)),
            _ => Err(mismatch()),
        }),
        ("+", l, S::Date) if l.is_int() => make(S::Int8, r, S::Date, |_, l, r| match l {
            Datum::Int(n) => to_date(days(r)?.saturating_add(*n)),
            _ => Err(mismatch()),
        }),
        ("-", S::Date, r) if r.is_int() => make(l, S::Int8, S::Date, |_, l, r| match r {
            Datum::Int(n) => to_date(days(l)?.saturating_sub(*n)),
            _ => Err(mismatch()),
        }),
        ("-", S::Date, S::Date) => make(l, r, S::Int8, minus_instant),
        ("-", S::Timestamp, S::Timestamp) | ("-", S::TimestampTz, S::TimestampTz) => {
            make(l, r, S::Interval, minus_instant)
        }
        ("-", S::Time, S::Time) => make(l, r, S::Interval, minus_instant),
        ("-", S::TimestampTz, S::Timestamp | S::Date) => {
            make(S::TimestampTz, S::TimestampTz, S::Interval, minus_instant)
        }
        ("-", S::Timestamp | S::Date, S::TimestampTz) => {
            make(S::TimestampTz, S::TimestampTz, S::Interval, minus_instant)
        }
        ("-", S::Timestamp, S::Date) | ("-", S::Date, S::Timestamp) => {
            make(S::Timestamp, S::Timestamp, S::Interval, minus_instant)
        }
        ("+", S::Date, S::Time) => make(l, r, S::Timestamp, |_, l, r| match r {
            Datum::Time(t) => {
                let micros = days(l)?.checked_mul(DAY).and_then(|day| day.checked_add(*t));
                let micros = micros.and_then(crate::datum::datetime::check_timestamp);
                micros.map(Datum::Timestamp).ok_or_else(time::out_of_range)
            }
            _ => Err(mismatch()),
        }),
        ("*", S::Interval, r) if r.is_number() => make(l, S::Float8, S::Interval, scale_interval),
        ("*", l, S::Interval) if l.is_number() => make(S::Float8, r, S::Interval, scale_interval),
        ("/", S::Interval, r) if r.is_number() => {
            make(l, S::Float8, S::Interval, |_, l, r| match (l, r) {
                (_, Datum::Float(f)) if *f == 0.0 => Err(division_by_zero()),
                (Datum::Interval(i), Datum::Float(f)) => Ok(Datum::Interval(i.scaled(1.0 / f)?)),
                _ => Err(mismatch()),
            })
        }
        _ => None,
    }
}

fn matches(l: &Datum, r: &Datum, insensitive: bool, negated: bool) -> Result<Datum> {
    match (l, r) {
        (Datum::Text(text), Datum::Text(pattern)) => {
            Ok(Datum::Bool(like::regex(pattern, insensitive)?.is_match(text) != negated))
        }
        _ => Err(mismatch()),
    }
}

fn concat(name: &'static str, l: S, r: S) -> Option<BinaryFn> {
    let text: Op = |_, l, r| match (l, r) {
        (Datum::Text(a), Datum::Text(b)) => Ok(Datum::text(format!("{a}{b}"))),
        _ => Err(mismatch()),
    };
    let (left, right, result, f): (S, S, S, Op) = match (l, r) {
        (S::Array(a), S::Array(b)) if a == b => (l, r, l, |_, l, r| match (l, r) {
            (Datum::Array(a), Datum::Array(b)) => {
                Ok(Datum::array(a.elem, a.items.iter().chain(&b.items).cloned().collect()))
            }
            _ => Err(mismatch()),
        }),
        (S::Array(_), S::Unknown) => return concat(name, l, l),
        (S::Unknown, S::Array(_)) => return concat(name, r, r),
        (S::Array(elem), _) => (l, *elem, l, |_, l, r| match l {
            Datum::Array(a) => {
                let mut items = a.items.clone();
                items.push(r.clone());
                Ok(Datum::array(a.elem, items))
            }
            _ => Err(mismatch()),
        }),
        (_, S::Array(elem)) => (*elem, r, r, |_, l, r| match r {
            Datum::Array(a) => {
                let mut items = vec![l.clone()];
                items.extend(a.items.iter().cloned());
                Ok(Datum::array(a.elem, items))
            }
            _ => Err(mismatch()),
        }),
        (S::Bytea, S::Bytea | S::Unknown) | (S::Unknown, S::Bytea) => {
            (S::Bytea, S::Bytea, S::Bytea, |_, l, r| match (l, r) {
                (Datum::Bytes(a), Datum::Bytes(b)) => {
                    Ok(Datum::Bytes(Arc::from([a.as_ref(), b.as_ref()].concat())))
                }
                _ => Err(mismatch()),
            })
        }
        (S::Jsonb, S::Jsonb | S::Unknown) | (S::Unknown, S::Jsonb) => {
            (S::Jsonb, S::Jsonb, S::Jsonb, |_, l, r| match (l, r) {
                (Datum::Json(a), Datum::Json(b)) => Ok(Datum::json(json_concat(a, b))),
                _ => Err(mismatch()),
            })
        }
        // Text beside anything: the other side as text.
        (l, r) if l.is_string() || r.is_string() || (l == S::Unknown && r == S::Unknown) => {
            (S::Text, S::Text, S::Text, text)
        }
        (S::Unknown, _) | (_, S::Unknown) => (S::Text, S::Text, S::Text, text),
        _ => return None,
    };
    Some(BinaryFn { name, left, right, result, f })
}

fn json_concat(a: &Value, b: &Value) -> Value {
    let items = |v: &Value| match v {
        Value::Array(items) => items.clone(),
        other => vec![other.clone()],
    };
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let mut map = a.clone();
            map.extend(b.iter().map(|(k, v)| (k.clone(), v.clone())));
            Value::Object(map)
        }
        (a, b) => Value::Array(items(a).into_iter().chain(items(b)).collect()),
    }
}

fn json_path<'a>(value: &'a Value, path: &Datum) -> Option<&'a Value> {
    let Datum::Array(path) = path else { return None };
    path.items.iter().try_fold(value, |v, step| {
        let step = step.as_str()?;
        match v {
            Value::Object(map) => map.get(step),
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            _ => None,
        }
    })
}

fn json_op(name: &'static str, l: S, r: S) -> Option<BinaryFn> {
    if l != S::Jsonb && !(name == "<@" && r == S::Jsonb) {
        return None;
    }
    let key = if r.is_int() { S::Int8 } else { S::Text };
    let path = S::Array(&S::Text);
    let (right, result, f): (S, S, Op) = match name {
        "->" => (key, S::Jsonb, |_, l, r| match l {
            Datum::Json(v) => Ok(json::get(v, r).map_or(Datum::Null, Datum::json)),
            _ => Err(mismatch()),
        }),
        "->>" => (key, S::Text, |_, l, r| match l {
            Datum::Json(v) => Ok(json::get(v, r).map_or(Datum::Null, json::as_text)),
            _ => Err(mismatch()),
        }),
        "#>" => (path, S::Jsonb, |_, l, r| match l {
            Datum::Json(v) => Ok(json_path(v, r).map_or(Datum::Null, |v| Datum::json(v.clone()))),
            _ => Err(mismatch()),
        }),
        "#>>" => (path, S::Text, |_, l, r| match l {
            Datum::Json(v) => Ok(json_path(v, r).map_or(Datum::Null, |v| json::as_text(v.clone()))),
            _ => Err(mismatch()),
        }),
        "@>" => (S::Jsonb, S::Bool, |_, l, r| match (l, r) {
            (Datum::Json(a), Datum::Json(b)) => Ok(Datum::Bool(json::contains(a, b))),
            _ => Err(mismatch()),
        }),
        "<@" => (S::Jsonb, S::Bool, |_, l, r| match (l, r) {
            (Datum::Json(a), Datum::Json(b)) => Ok(Datum::Bool(json::contains(b, a))),
            _ => Err(mismatch()),
        }),
        "?" => (S::Text, S::Bool, |_, l, r| match (l, r) {
            (Datum::Json(v), Datum::Text(key)) => Ok(Datum::Bool(match v.as_ref() {
                Value::Object(map) => map.contains_key(key.as_ref()),
                Value::Array(items) => items.iter().any(|i| i.as_str() == Some(key)),
                _ => false,
            })),
            _ => Err(mismatch()),
        }),
        "-" => (key, S::Jsonb, |_, l, r| match (l, r) {
            (Datum::Json(v), r) => Ok(Datum::json(json_remove(v, r))),
            _ => Err(mismatch()),
        }),
        _ => return None,
    };
    Some(BinaryFn { name, left: S::Jsonb, right, result, f })
}

fn json_remove(value: &Value, key: &Datum) -> Value {
    let mut value = value.clone();
    match (&mut value, key) {
        (Value::Object(map), Datum::Text(key)) => {
            map.remove(key.as_ref());
        }
        (Value::Array(items), Datum::Text(key)) => {
            items.retain(|i| i.as_str() != Some(key));
        }
        (Value::Array(items), Datum::Int(at)) => {
            if let Some(at) = usize::try_from(*at).ok().filter(|at| *at < items.len()) {
                items.remove(at);
            }
        }
        _ => {}
    }
    value
}

fn array_op(name: &'static str, l: S, r: S) -> Option<BinaryFn> {
    let ty = match (l, r) {
        (S::Array(_), S::Unknown) => l,
        (S::Unknown, S::Array(_)) => r,
        (S::Array(_), S::Array(_)) if l == r => l,
        _ => return None,
    };
    let f: Op = match name {
        "@>" => |_, l, r| array_test(l, r, |a, b| b.iter().all(|x| a.contains(x))),
        "<@" => |_, l, r| array_test(l, r, |a, b| a.iter().all(|x| b.contains(x))),
        "&&" => |_, l, r| array_test(l, r, |a, b| a.iter().any(|x| b.contains(x))),
        _ => return None,
    };
    Some(BinaryFn { name, left: ty, right: ty, result: S::Bool, f })
}

fn array_test(l: &Datum, r: &Datum, f: fn(&[Datum], &[Datum]) -> bool) -> Result<Datum> {
    match (l, r) {
        (Datum::Array(a), Datum::Array(b)) => Ok(Datum::Bool(f(&a.items, &b.items))),
        _ => Err(mismatch()),
    }
}

fn regex_op(name: &'static str) -> Option<BinaryFn> {
    let f: Op = match name {
        "~" => |_, l, r| matches(l, r, false, false),
        "~*" => |_, l, r| matches(l, r, true, false),
        "!~" => |_, l, r| matches(l, r, false, true),
        "!~*" => |_, l, r| matches(l, r, true, true),
        _ => return None,
    };
    Some(BinaryFn { name, left: S::Text, right: S::Text, result: S::Bool, f })
}

fn shift(name: &'static str, l: S) -> Option<BinaryFn> {
    let f: Op = match name {
        "<<" => {
            |_, l, r| int_op(S::Int8, l, r, |a, b| u32::try_from(b).ok().map(|b| a.wrapping_shl(b)))
        }
        ">>" => {
            |_, l, r| int_op(S::Int8, l, r, |a, b| u32::try_from(b).ok().map(|b| a.wrapping_shr(b)))
        }
        _ => return None,
    };
    Some(BinaryFn { name, left: l, right: S::Int8, result: l, f })
}

/// The operator `name` for operands of two types; none when there is none.
pub(crate) fn binary(name: &'static str, l: S, r: S) -> Option<BinaryFn> {
    if name == "||" {
        return concat(name, l, r);
    }
    if name.contains('~') {
        let textual = |ty: S| ty.is_string() || ty == S::Unknown;
        return if textual(l) && textual(r) { regex_op(name) } else { None };
    }
    if let Some(op) = json_op(name, l, r).or_else(|| array_op(name, l, r)) {
        return Some(op);
    }
    let number = |ty: S| ty.is_number();
    match (l, r) {
        (l, r) if number(l) && number(r) => match name {
            "<<" | ">>" if l.is_int() && r.is_int() => shift(name, l),
            "^" if l != S::Numeric && r != S::Numeric => arithmetic(name, S::Float8),
            "^" => arithmetic(name, common_number(l, r)),
            _ => arithmetic(name, common_number(l, r)),
        },
        // A literal beside a typed operand: first as the same type, then as an interval.
        (S::Unknown, t) if number(t) => binary(name, t, t),
        (t, S::Unknown) if number(t) => binary(name, t, t),
        (S::Unknown, S::Unknown) => arithmetic(name, S::Float8),
        (S::Unknown, t) => temporal(name, t, t).or_else(|| temporal(name, S::Interval, t)),
        (t, S::Unknown) => temporal(name, t, t).or_else(|| temporal(name, t, S::Interval)),
        (l, r) => temporal(name, l, r),
    }
}

/// The type in which two operands are compared; none when they cannot be.
pub(crate) fn comparison_type(l: S, r: S) -> Option<S> {
    use Category as C;
    let bare = |ty: S| match ty {
        // char(n) compares without its padding; all strings compare as text.
        S::Bpchar | S::Varchar | S::Name | S::QChar => S::Text,
        other => other,
    };
    match (l, r) {
        (S::Unknown, S::Unknown) => Some(S::Text),
        (S::Unknown, t) | (t, S::Unknown) => Some(if t == S::Bpchar { S::Text } else { t }),
        (l, r) if l == r => Some(if l == S::Bpchar { S::Text } else { l }),
        (l, r) if l.is_oid() && r.is_oid() => Some(S::Oid),
        (l, r) if (l.is_oid() && r.is_int()) || (l.is_int() && r.is_oid()) => Some(S::Oid),
        (l, r) if l.is_number() && r.is_number() => Some(common_number(l, r)),
        (l, r) if l.is_string() && r.is_string() => Some(bare(l)),
        (l, r) if l.category() == C::DateTime && r.category() == C::DateTime => match (l, r) {
            (S::Time, _) | (_, S::Time) => None,
            (S::TimestampTz, _) | (_, S::TimestampTz) => Some(S::TimestampTz),
            _ => Some(S::Timestamp),
        },
        (S::Array(a), S::Array(b)) => comparison_type(*a, *b)?.array_of(),
        (S::Regclass, r) if r.is_string() => Some(S::Regclass),
        (l, S::Regclass) if l.is_string() => Some(S::Regclass),
        _ => None,
    }
}

/// `-x`.
pub(crate) fn negate(ty: S, value: &Datum) -> Result<Datum> {
    Ok(match value {
        Datum::Null => Datum::Null,
        Datum::Int(v) => {
            Datum::Int(check_int(v.checked_neg().ok_or_else(|| int_overflow(ty))?, ty)?)
        }
        Datum::Float(v) => Datum::Float(-v),
        Datum::Decimal(v) => Datum::decimal(v.neg()),
        Datum::Interval(v) => Datum::Interval(v.checked_neg()?),
        _ => return Err(mismatch()),
    })
}

/// Sum of a running total, for aggregates.
pub(crate) fn int_as_float(value: &Datum) -> f64 {
    match value {
        Datum::Int(v) => int_to_float(*v),
        Datum::Float(v) => *v,
        _ => 0.0,
    }
}
