//! Numbers.

use bigdecimal::RoundingMode;

use super::t::{FLOAT, INT, NUM};
use super::{Arg, Builtin, Ret, decimal_at, float_at, int_at};
use crate::cast::int_overflow;
use crate::datum::{Datum, Decimal};
use crate::error::{Result, SqlError, SqlState};
use crate::types::SqlType as S;

fn float(value: f64) -> Result<Datum> {
    Ok(Datum::Float(value))
}

fn dec(value: Decimal) -> Result<Datum> {
    Ok(Datum::decimal(value))
}

fn finite(value: f64, from: f64) -> Result<Datum> {
    if value.is_infinite() && from.is_finite() {
        return Err(SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, "value out of range: overflow"));
    }
    float(value)
}

fn logarithm(x: f64, f: fn(f64) -> f64) -> Result<Datum> {
    if x == 0.0 {
        return Err(SqlError::new(SqlState::LOG_ARGUMENT, "cannot take logarithm of zero"));
    }
    if x < 0.0 {
        return Err(SqlError::new(
            SqlState::LOG_ARGUMENT,
            "cannot take logarithm of a negative number",
        ));
    }
    float(f(x))
}

pub(super) fn power(x: f64, y: f64) -> Result<Datum> {
    if x == 0.0 && y < 0.0 {
        return Err(SqlError::new(
            SqlState::POWER_ARGUMENT,
            "zero raised to a negative power is undefined",
        ));
    }
    if x < 0.0 && y.fract() != 0.0 && y.is_finite() {
        return Err(SqlError::new(
            SqlState::POWER_ARGUMENT,
            "a negative number raised to a non-integer power yields a complex result",
        ));
    }
    finite(x.powf(y), x + y)
}

pub(super) fn sqrt(x: f64) -> Result<Datum> {
    if x < 0.0 {
        return Err(SqlError::new(
            SqlState::POWER_ARGUMENT,
            "cannot take square root of a negative number",
        ));
    }
    float(x.sqrt())
}

/// A power of decimals: exact for whole exponents, else through floats.
pub(super) fn decimal_power(x: &Decimal, y: &Decimal) -> Result<Datum> {
    let whole = match y {
        Decimal::Finite(d) if d.is_integer() => y.to_i64().filter(|n| (0..=1000).contains(n)),
        _ => None,
    };
    let Some(n) = whole else {
        let Datum::Float(result) = power(x.to_f64(), y.to_f64())? else {
            return Err(SqlError::internal("a power is not a number"));
        };
        return dec(Decimal::from_f64(result)?);
    };
    let mut result = Decimal::from(1i64);
    for _ in 0..n {
        result = result.mul(x)?;
    }
    // PostgreSQL shows at least 16 digits after the point.
    dec(if result.scale() < 16 { result.round(16) } else { result })
}

/// A square root of a decimal with 15 digits after the point at least.
fn decimal_sqrt(x: &Decimal) -> Result<Datum> {
    match x {
        Decimal::Finite(d) => {
            let root = d.sqrt().ok_or_else(|| {
                SqlError::new(
                    SqlState::POWER_ARGUMENT,
                    "cannot take square root of a negative number",
                )
            })?;
            dec(Decimal::Finite(root).round(15.max(x.scale())))
        }
        Decimal::NegInfinity => sqrt(-1.0),
        other => dec(other.clone()),
    }
}

fn gcd(mut a: i64, mut b: i64) -> Result<i64> {
    while b != 0 {
        (a, b) = (b, a.wrapping_rem(b));
    }
    a.checked_abs().ok_or_else(|| int_overflow(S::Int8))
}

/// Which of `count` equal parts between two bounds holds a number; the bounds may fall.
fn width_bucket(x: f64, low: f64, high: f64, count: i64) -> Result<Datum> {
    let wrong = |what: &str| Err(SqlError::new(SqlState::WIDTH_BUCKET_ARGUMENT, what));
    if !(1..i64::from(i32::MAX)).contains(&count) {
        return wrong("count must be greater than zero and less than 2147483647");
    }
    if x.is_nan() || low.is_nan() || high.is_nan() {
        return wrong("operand, lower bound, and upper bound cannot be NaN");
    }
    if low.is_infinite() || high.is_infinite() {
        return wrong("lower and upper bounds must be finite");
    }
    if low.total_cmp(&high).is_eq() {
        return wrong("lower bound cannot equal upper bound");
    }
    let (before, after) = if low < high { (x < low, x >= high) } else { (x > low, x <= high) };
    if before {
        return Ok(Datum::Int(0));
    }
    if after {
        return Ok(Datum::Int(count + 1));
    }
    // Halves, since the width of the bounds may be more than a float holds.
    let part = (x / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
    #[expect(clippy::cast_possible_truncation, reason = "lies between 0 and count")]
    let bucket = (part * crate::cast::int_to_float(count)).floor() as i64;
    Ok(Datum::Int(bucket.min(count - 1) + 1))
}

pub(super) const TABLE: &[Builtin] = &[
    Builtin::new("abs", &[INT], S::Int8, |_, a| {
        Ok(Datum::Int(int_at(a, 0).checked_abs().ok_or_else(|| int_overflow(S::Int8))?))
    }),
    Builtin::new("abs", &[NUM], S::Numeric, |_, a| dec(decimal_at(a, 0).abs())),
    Builtin::new("abs", &[FLOAT], S::Float8, |_, a| float(float_at(a, 0).abs())),
    Builtin::new("sign", &[NUM], S::Numeric, |_, a| {
        dec(Decimal::from(decimal_at(a, 0).as_ref().cmp(&Decimal::zero()) as i64))
    }),
    Builtin::new("sign", &[FLOAT], S::Float8, |_, a| {
        let x = float_at(a, 0);
        float(if x == 0.0 { 0.0 } else { x.signum() })
    }),
    Builtin::new("ceil", &[NUM], S::Numeric, |_, a| {
        dec(decimal_at(a, 0).with_mode(0, RoundingMode::Ceiling))
    }),
    Builtin::new("ceil", &[FLOAT], S::Float8, |_, a| float(float_at(a, 0).ceil())),
    Builtin::new("ceiling", &[NUM], S::Numeric, |_, a| {
        dec(decimal_at(a, 0).with_mode(0, RoundingMode::Ceiling))
    }),
    Builtin::new("ceiling", &[FLOAT], S::Float8, |_, a| float(float_at(a, 0).ceil())),
    Builtin::new("floor", &[NUM], S::Numeric, |_, a| {
        dec(decimal_at(a, 0).with_mode(0, RoundingMode::Floor))
    }),
    Builtin::new("floor", &[FLOAT], S::Float8, |_, a| float(float_at(a, 0).floor())),
    Builtin::new("round", &[NUM], S::Numeric, |_, a| dec(decimal_at(a, 0).round(0))),
    Builtin::new("round", &[FLOAT], S::Float8, |_, a| float(float_at(a, 0).round_ties_even())),
    Builtin::new("round", &[NUM, INT], S::Numeric, |_, a| {
        dec(decimal_at(a, 0).round(int_at(a, 1).clamp(-2000, 2000)))
    }),
    Builtin::new("trunc", &[NUM], S::Numeric, |_, a| {
        dec(decimal_at(a, 0).with_mode(0, RoundingMode::Down))
    }),
    Builtin::new("trunc", &[FLOAT], S::Float8, |_, a| float(float_at(a, 0).trunc())),
    Builtin::new("trunc", &[NUM, INT], S::Numeric, |_, a| {
        dec(decimal_at(a, 0).with_mode(int_at(a, 1).clamp(-2000, 2000), RoundingMode::Down))
    }),
    Builtin::new("sqrt", &[FLOAT], S::Float8, |_, a| sqrt(float_at(a, 0))),
    Builtin::new("sqrt", &[NUM], S::Numeric, |_, a| decimal_sqrt(&decimal_at(a, 0))),
    Builtin::new("cbrt", &[FLOAT], S::Float8, |_, a| float(float_at(a, 0).cbrt())),
    Builtin::new("exp", &[FLOAT], S::Float8, |_, a| finite(float_at(a, 0).exp(), float_at(a, 0))),
    Builtin::new("ln", &[FLOAT], S::Float8, |_, a| logarithm(float_at(a, 0), f64::ln)),
    Builtin::new("log", &[FLOAT], S::Float8, |_, a| logarithm(float_at(a, 0), f64::log10)),
    Builtin::new("log10", &[FLOAT], S::Float8, |_, a| logarithm(float_at(a, 0), f64::log10)),
    Builtin::new("power", &[FLOAT, FLOAT], S::Float8, |_, a| power(float_at(a, 0), float_at(a, 1))),
    Builtin::new("power", &[NUM, NUM], S::Numeric, |_, a| {
        decimal_power(&decimal_at(a, 0), &decimal_at(a, 1))
    }),
    Builtin::new("pow", &[FLOAT, FLOAT], S::Float8, |_, a| power(float_at(a, 0), float_at(a, 1))),
    Builtin::new("pow", &[NUM, NUM], S::Numeric, |_, a| {
        decimal_power(&decimal_at(a, 0), &decimal_at(a, 1))
    }),
    Builtin::new("mod", &[INT, INT], S::Int8, |_, a| {
        if int_at(a, 1) == 0 {
            return Err(SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero"));
        }
        Ok(Datum::Int(int_at(a, 0).wrapping_rem(int_at(a, 1))))
    }),
    Builtin::new("mod", &[NUM, NUM], S::Numeric, |_, a| {
        dec(decimal_at(a, 0).rem(&decimal_at(a, 1))?)
    }),
    Builtin::new("div", &[NUM, NUM], S::Numeric, |_, a| {
        dec(decimal_at(a, 0).div(&decimal_at(a, 1))?.with_mode(0, RoundingMode::Down))
    }),
    Builtin::new("gcd", &[INT, INT], S::Int8, |_, a| {
        Ok(Datum::Int(gcd(int_at(a, 0), int_at(a, 1))?))
    }),
    Builtin::new("lcm", &[INT, INT], S::Int8, |_, a| {
        let (x, y) = (int_at(a, 0), int_at(a, 1));
        if x == 0 || y == 0 {
            return Ok(Datum::Int(0));
        }
        let value = (x / gcd(x, y)?).checked_mul(y).and_then(i64::checked_abs);
        Ok(Datum::Int(value.ok_or_else(|| int_overflow(S::Int8))?))
    }),
    Builtin::new("pi", &[], S::Float8, |_, _| float(std::f64::consts::PI)),
    Builtin::new("degrees", &[FLOAT], S::Float8, |_, a| float(float_at(a, 0).to_degrees())),
    Builtin::new("radians", &[FLOAT], S::Float8, |_, a| float(float_at(a, 0).to_radians())),
    Builtin::new("sin", &[FLOAT], S::Float8, |_, a| float(float_at(a, 0).sin())),
    Builtin::new("cos", &[FLOAT], S::Float8, |_, a| float(float_at(a, 0).cos())),
    Builtin::new("tan", &[FLOAT], S::Float8, |_, a| float(float_at(a, 0).tan())),
    Builtin::new("asin", &[FLOAT], S::Float8, |_, a| float(float_at(a, 0).asin())),
    Builtin::new("acos", &[FLOAT], S::Float8, |_, a| float(float_at(a, 0).acos())),
    Builtin::new("atan", &[FLOAT], S::Float8, |_, a| float(float_at(a, 0).atan())),
    Builtin::new("atan2", &[FLOAT, FLOAT], S::Float8, |_, a| {
        float(float_at(a, 0).atan2(float_at(a, 1)))
    }),
    Builtin::new("width_bucket", &[FLOAT, FLOAT, FLOAT, INT], S::Int8, |_, a| {
        width_bucket(float_at(a, 0), float_at(a, 1), float_at(a, 2), int_at(a, 3))
    }),
    Builtin::new("random", &[], S::Float8, |c, _| float(c.info.node.random_f64())).volatile(),
    Builtin::new("greatest", &[Arg::Elem], S::Text, |_, a| {
        Ok(a.iter().filter(|v| !v.is_null()).max().cloned().unwrap_or_default())
    })
    .variadic()
    .lenient()
    .returns(Ret::Elem),
    Builtin::new("least", &[Arg::Elem], S::Text, |_, a| {
        Ok(a.iter().filter(|v| !v.is_null()).min().cloned().unwrap_or_default())
    })
    .variadic()
    .lenient()
    .returns(Ret::Elem),
];
