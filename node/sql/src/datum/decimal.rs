//! NUMERIC: decimals of any size, NaN and the infinities.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use bigdecimal::num_bigint::{BigInt, Sign};
use bigdecimal::{BigDecimal, RoundingMode, Signed, ToPrimitive, Zero};

use crate::error::{Result, SqlError, SqlState};

/// A value of type NUMERIC.
#[derive(Clone, Debug)]
pub enum Decimal {
    /// Below every number.
    NegInfinity,
    /// A number; its scale is the count of digits shown after the point.
    Finite(BigDecimal),
    /// Above every number.
    PosInfinity,
    /// Not a number; equal to itself and sorted below every number, as in CockroachDB.
    NaN,
}

/// Most digits after the point that a division keeps at least, as PostgreSQL does.
const MIN_SIGNIFICANT_DIGITS: i64 = 20;
/// Most digits before or after the point.
const MAX_SCALE: i64 = 16_383;
const MAX_DIGITS: u64 = 147_455;

fn overflow() -> SqlError {
    SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, "value overflows numeric format")
}

impl Decimal {
    /// Zero.
    #[must_use]
    pub fn zero() -> Self {
        Self::Finite(BigDecimal::zero())
    }

    fn checked(value: BigDecimal) -> Result<Self> {
        let scale = value.fractional_digit_count();
        if scale > MAX_SCALE {
            return Ok(Self::Finite(value.with_scale_round(MAX_SCALE, RoundingMode::HalfUp)));
        }
        // A negative scale means trailing zeros before the point: make them plain.
        let value = if scale < 0 {
            if scale < -131_072 {
                return Err(overflow());
            }
            value.with_scale(0)
        } else {
            value
        };
        if value.digits() > MAX_DIGITS {
            return Err(overflow());
        }
        Ok(Self::Finite(value))
    }

    /// The nearest decimal of a float, by its shortest decimal form.
    pub fn from_f64(value: f64) -> Result<Self> {
        if value.is_nan() {
            Ok(Self::NaN)
        } else if value.is_infinite() {
            Ok(if value > 0.0 { Self::PosInfinity } else { Self::NegInfinity })
        } else {
            // 15 significant digits, as PostgreSQL's cast from float8.
            Self::parse(&format!("{value:.14e}")).map(|d| match d {
                Self::Finite(d) => {
                    let plain = d.normalized();
                    let scale = plain.fractional_digit_count().max(0);
                    Self::Finite(plain.with_scale(scale))
                }
                other => other,
            })
        }
    }

    /// The nearest float.
    #[must_use]
    pub fn to_f64(&self) -> f64 {
        match self {
            Self::NaN => f64::NAN,
            Self::PosInfinity => f64::INFINITY,
            Self::NegInfinity => f64::NEG_INFINITY,
            Self::Finite(d) => {
                f64::from_str(&d.to_string()).ok().or_else(|| d.to_f64()).unwrap_or(f64::NAN)
            }
        }
    }

    /// The nearest integer, halves away from zero.
    #[must_use]
    pub fn to_i64(&self) -> Option<i64> {
        match self {
            Self::Finite(d) => d.with_scale_round(0, RoundingMode::HalfUp).to_i64(),
            _ => None,
        }
    }

    /// Reads a literal.
    pub fn parse(text: &str) -> Result<Self> {
        let trimmed = text.trim();
        let invalid = || {
            SqlError::new(
                SqlState::INVALID_TEXT,
                format!("invalid input syntax for type numeric: \"{text}\""),
            )
        };
        match trimmed.to_ascii_lowercase().as_str() {
            "nan" => return Ok(Self::NaN),
            "infinity" | "inf" | "+infinity" | "+inf" => return Ok(Self::PosInfinity),
            "-infinity" | "-inf" => return Ok(Self::NegInfinity),
            _ => {}
        }
        let (mantissa, exponent) = match trimmed.split_once(['e', 'E']) {
            Some((m, e)) => (m, e.parse::<i64>().map_err(|_| invalid())?),
            None => (trimmed, 0),
        };
        let digits = mantissa.strip_prefix(['+', '-']).unwrap_or(mantissa);
        if digits.is_empty()
            || digits == "."
            || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
            || digits.bytes().filter(|b| *b == b'.').count() > 1
        {
            return Err(invalid());
        }
        if exponent.unsigned_abs() > 150_000 {
            return Err(overflow());
        }
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let scale = i64::try_from(fraction.len()).map_err(|_| overflow())? - exponent;
        let int = BigInt::from_str(&format!("{whole}{fraction}")).map_err(|_| invalid())?;
        Self::checked(BigDecimal::new(int, scale))
    }

    fn sign(&self) -> i32 {
        match self {
            Self::NaN => 1,
            Self::PosInfinity => 1,
            Self::NegInfinity => -1,
            Self::Finite(d) if d.is_zero() => 0,
            Self::Finite(d) if d.is_negative() => -1,
            Self::Finite(_) => 1,
        }
    }

    fn infinity(sign: i32) -> Self {
        match sign {
            0 => Self::NaN,
            s if s > 0 => Self::PosInfinity,
            _ => Self::NegInfinity,
        }
    }

    /// Digits after the point.
    #[must_use]
    pub fn scale(&self) -> i64 {
        match self {
            Self::Finite(d) => d.fractional_digit_count().max(0),
            _ => 0,
        }
    }

    /// Sum.
    pub fn add(&self, other: &Self) -> Result<Self> {
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => Self::checked(a + b),
            (Self::NaN, _) | (_, Self::NaN) => Ok(Self::NaN),
            (Self::Finite(_), x) | (x, Self::Finite(_)) => Ok(x.clone()),
            (a, b) if a.sign() == b.sign() => Ok(a.clone()),
            _ => Ok(Self::NaN),
        }
    }

    /// The number with its sign turned.
    #[must_use]
    pub fn neg(&self) -> Self {
        match self {
            Self::Finite(d) => Self::Finite(-d.clone()),
            Self::NaN => Self::NaN,
            Self::PosInfinity => Self::NegInfinity,
            Self::NegInfinity => Self::PosInfinity,
        }
    }

    /// The number without its sign.
    #[must_use]
    pub fn abs(&self) -> Self {
        if self.sign() < 0 { self.neg() } else { self.clone() }
    }

    /// Difference.
    pub fn sub(&self, other: &Self) -> Result<Self> {
        self.add(&other.neg())
    }

    /// Product.
    pub fn mul(&self, other: &Self) -> Result<Self> {
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => Self::checked(a * b),
            (Self::NaN, _) | (_, Self::NaN) => Ok(Self::NaN),
            (a, b) => Ok(Self::infinity(a.sign() * b.sign())),
        }
    }

    /// Quotient, with as many digits as PostgreSQL shows at least.
    pub fn div(&self, other: &Self) -> Result<Self> {
        if other.sign() == 0 && !matches!(self, Self::NaN) {
            return Err(SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero"));
        }
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => {
                let scale = division_scale(a, b);
                let (an, asc) = a.as_bigint_and_exponent();
                let (bn, bsc) = b.as_bigint_and_exponent();
                // (an / 10^asc) / (bn / 10^bsc) at one digit more than shown, then rounded.
                let shift = scale + 1 + bsc - asc;
                let (num, den) =
                    if shift >= 0 { (an * pow10(shift), bn) } else { (an, bn * pow10(-shift)) };
                let quotient = num / den;
                let value = BigDecimal::new(quotient, scale + 1);
                Self::checked(value.with_scale_round(scale, RoundingMode::HalfUp))
            }
            (Self::NaN, _) | (_, Self::NaN) => Ok(Self::NaN),
            (Self::Finite(_), _) => Ok(Self::zero()),
            (a, Self::Finite(b)) => {
                Ok(Self::infinity(a.sign() * if b.is_negative() { -1 } else { 1 }))
            }
            _ => Ok(Self::NaN),
        }
    }

    /// Remainder, with the sign of the dividend.
    pub fn rem(&self, other: &Self) -> Result<Self> {
        if other.sign() == 0 && !matches!(self, Self::NaN) {
            return Err(SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero"));
        }
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => Self::checked(a % b),
            (Self::Finite(_), Self::PosInfinity | Self::NegInfinity) => Ok(self.clone()),
            _ => Ok(Self::NaN),
        }
    }

    /// Rounds to `scale` digits after the point, halves away from zero.
    #[must_use]
    pub fn round(&self, scale: i64) -> Self {
        self.with_mode(scale, RoundingMode::HalfUp)
    }

    /// Rounds to `scale` digits by a mode; a negative scale clears digits before the point.
    #[must_use]
    pub fn with_mode(&self, scale: i64, mode: RoundingMode) -> Self {
        match self {
            Self::Finite(d) => {
                let rounded = d.with_scale_round(scale, mode);
                Self::Finite(if scale < 0 { rounded.with_scale(0) } else { rounded })
            }
            other => other.clone(),
        }
    }

    /// Rounds to the scale of `numeric(precision, scale)`; an error when it does not fit.
    pub fn fit(&self, precision: i32, scale: i32) -> Result<Self> {
        let error = || {
            SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, "numeric field overflow").with_detail(
                format!(
                    "A field with precision {precision}, scale {scale} must round to an absolute \
                     value less than {}{}.",
                    if precision - scale > 0 { "10^" } else { "" },
                    if precision - scale > 0 {
                        (precision - scale).to_string()
                    } else {
                        "1".into()
                    },
                ),
            )
        };
        match self {
            Self::Finite(_) => {
                let rounded = self.round(i64::from(scale));
                if let Self::Finite(d) = &rounded {
                    let limit = BigDecimal::new(pow10(i64::from(precision)), i64::from(scale));
                    if d.abs() >= limit {
                        return Err(error());
                    }
                }
                Ok(rounded)
            }
            Self::NaN => Ok(Self::NaN),
            _ => Err(error()),
        }
    }
}

/// Ten to the power of `exponent`, which is not negative.
pub(crate) fn pow10(exponent: i64) -> BigInt {
    BigInt::from(10u8).pow(u32::try_from(exponent).unwrap_or(0))
}

/// How many digits after the point a quotient gets (PostgreSQL's select_div_scale).
fn division_scale(a: &BigDecimal, b: &BigDecimal) -> i64 {
    fn weight_and_first(d: &BigDecimal) -> (i64, i64) {
        let (int, scale) = d.as_bigint_and_exponent();
        if int.is_zero() {
            return (0, 0);
        }
        let digits = int.abs().to_string();
        let before = i64::try_from(digits.len()).unwrap_or(0) - scale;
        // Base-10000 weight of the first digit group.
        let weight = (before - 1).div_euclid(4);
        let in_first = before - weight * 4;
        let first = digits
            .bytes()
            .chain(std::iter::repeat(b'0'))
            .take(usize::try_from(in_first).unwrap_or(0))
            .fold(0i64, |acc, b| acc * 10 + i64::from(b - b'0'));
        (weight, first)
    }
    let (wa, fa) = weight_and_first(a);
    let (wb, fb) = weight_and_first(b);
    let mut weight = wa - wb;
    if fa <= fb {
        weight -= 1;
    }
    let scale = MIN_SIGNIFICANT_DIGITS - 4 - weight * 4;
    scale.max(a.fractional_digit_count()).max(b.fractional_digit_count()).clamp(0, 1000)
}

impl From<i64> for Decimal {
    fn from(value: i64) -> Self {
        Self::Finite(BigDecimal::from(value))
    }
}

impl From<i128> for Decimal {
    fn from(value: i128) -> Self {
        Self::Finite(BigDecimal::from(value))
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        fn rank(d: &Decimal) -> u8 {
            match d {
                Decimal::NaN => 0,
                Decimal::NegInfinity => 1,
                Decimal::Finite(_) => 2,
                Decimal::PosInfinity => 3,
            }
        }
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => a.cmp(b),
            (a, b) => rank(a).cmp(&rank(b)),
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = match self {
            Self::NaN => return f.write_str("NaN"),
            Self::PosInfinity => return f.write_str("Infinity"),
            Self::NegInfinity => return f.write_str("-Infinity"),
            Self::Finite(d) => d,
        };
        let (int, scale) = value.as_bigint_and_exponent();
        if int.sign() == Sign::Minus {
            f.write_str("-")?;
        }
        let digits = int.abs().to_string();
        let Ok(scale) = usize::try_from(scale) else {
            f.write_str(&digits)?;
            return f.write_str(&"0".repeat(usize::try_from(-scale).unwrap_or(0)));
        };
        if scale == 0 {
            return f.write_str(&digits);
        }
        if digits.len() > scale {
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            write!(f, "{whole}.{fraction}")
        } else {
            write!(f, "0.{}{digits}", "0".repeat(scale - digits.len()))
        }
    }
}
