//! Conversions between types: which exist, when they apply unasked, and how they are done.

use std::sync::Arc;

use crate::datum::civil::{Civil, DAY, SECOND};
use crate::datum::datetime::{
    self, DATE_INFINITY, DATE_NEG_INFINITY, TS_INFINITY, TS_NEG_INFINITY,
};
use crate::datum::{ArrayValue, Datum, Decimal, FormatSettings, Interval};
use crate::error::{Result, SqlError, SqlState};
use crate::types::{SqlType, TypeSpec};

/// When a cast may be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CastContext {
    /// Anywhere, unasked.
    Implicit,
    /// When a value is stored in a column.
    Assignment,
    /// When the statement asks for it.
    Explicit,
}

/// The weakest context in which `from` converts to `to`; none when it never does.
pub(crate) fn cast_context(from: SqlType, to: SqlType) -> Option<CastContext> {
    use CastContext::{Assignment, Explicit, Implicit};
    use SqlType as T;
    if from == to || from == T::Unknown {
        return Some(Implicit);
    }
    if let (T::Array(from), T::Array(to)) = (from, to) {
        return cast_context(*from, *to);
    }
    Some(match (from, to) {
        (T::Int2, T::Int4 | T::Int8) | (T::Int4, T::Int8) => Implicit,
        (T::Int8 | T::Int4, T::Int2) | (T::Int8, T::Int4) => Assignment,
        (T::Int2 | T::Int4 | T::Int8, T::Numeric | T::Float4 | T::Float8) => Implicit,
        (T::Numeric, T::Float4 | T::Float8) | (T::Float4, T::Float8) => Implicit,
        (T::Float8, T::Float4) => Assignment,
        (T::Numeric | T::Float4 | T::Float8, T::Int2 | T::Int4 | T::Int8) => Assignment,
        (T::Float4 | T::Float8, T::Numeric) => Assignment,
        (T::Int2 | T::Int4 | T::Int8, T::Oid | T::Regclass | T::Regtype | T::Regnamespace) => {
            Implicit
        }
        (T::Oid | T::Regclass | T::Regtype | T::Regnamespace, T::Int8) => Implicit,
        (T::Oid | T::Regclass | T::Regtype | T::Regnamespace, T::Int4) => Assignment,
        (T::Regclass | T::Regtype | T::Regnamespace, T::Oid)
        | (T::Oid, T::Regclass | T::Regtype | T::Regnamespace) => Implicit,
        (T::Int4 | T::Int8 | T::Int2, T::Bool) | (T::Bool, T::Int4 | T::Int8 | T::Int2) => Explicit,
        (T::Text | T::Varchar | T::Bpchar | T::Name, T::Text | T::Varchar | T::Bpchar) => Implicit,
        (T::Text | T::Varchar, T::Name) => Implicit,
        (T::QChar, T::Text) => Implicit,
        (T::Text | T::Varchar | T::Bpchar | T::Name, T::QChar) => Assignment,
        (T::QChar, T::Varchar | T::Bpchar) => Assignment,
        (T::Date, T::Timestamp | T::TimestampTz) | (T::Timestamp, T::TimestampTz) => Implicit,
        (T::Timestamp | T::TimestampTz, T::Date | T::Time) | (T::TimestampTz, T::Timestamp) => {
            Assignment
        }
        (T::Time, T::Interval) => Implicit,
        (T::Interval, T::Time) => Assignment,
        (T::Text | T::Varchar, T::Regclass) => Implicit,
        (T::Jsonb, T::Bool | T::Int2 | T::Int4 | T::Int8 | T::Float4 | T::Float8 | T::Numeric) => {
            Explicit
        }
        (T::Void, _) | (_, T::Void | T::Unknown) => return None,
        // Everything has a text form, and text is read as anything when asked.
        (_, to) if to.is_string() && to != T::QChar => Assignment,
        (from, _) if from.is_string() => Explicit,
        _ => return None,
    })
}

/// The value if it fits an integer type.
pub(crate) fn check_int(value: i64, ty: SqlType) -> Result<i64> {
    let fits = match ty {
        SqlType::Int2 => i16::try_from(value).is_ok(),
        SqlType::Int4 => i32::try_from(value).is_ok(),
        _ => true,
    };
    if fits { Ok(value) } else { Err(int_overflow(ty)) }
}

/// The error of an integer that does not fit.
pub(crate) fn int_overflow(ty: SqlType) -> SqlError {
    SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, format!("{ty} out of range"))
}

/// A float rounded to single precision.
#[expect(clippy::cast_possible_truncation, reason = "rounding to single precision is the purpose")]
pub(crate) fn round_float4(value: f64) -> f64 {
    f64::from(value as f32)
}

#[expect(clippy::cast_precision_loss, reason = "int to float casts round")]
pub(crate) fn int_to_float(value: i64) -> f64 {
    value as f64
}

fn float_to_int(value: f64, ty: SqlType) -> Result<i64> {
    let rounded = value.round_ties_even();
    // 2^63 is the first float that does not fit.
    if !(-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&rounded) {
        return Err(int_overflow(ty));
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
    check_int(rounded as i64, ty)
}

fn to_float4(value: f64) -> Result<f64> {
    let rounded = round_float4(value);
    if rounded.is_infinite() && value.is_finite() {
        return Err(SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, "value out of range: overflow"));
    }
    Ok(rounded)
}

/// Converts a value between types for which [`cast_context`] knows a cast.
pub(crate) fn cast(
    value: &Datum,
    from: SqlType,
    to: SqlType,
    fmt: &FormatSettings,
) -> Result<Datum> {
    use SqlType as T;
    if value.is_null() || from == to {
        return Ok(value.clone());
    }
    Ok(match (value, to) {
        (Datum::Int(v), T::Int2 | T::Int4 | T::Int8) => Datum::Int(check_int(*v, to)?),
        (Datum::Int(v), T::Float8) => Datum::Float(int_to_float(*v)),
        (Datum::Int(v), T::Float4) => Datum::Float(round_float4(int_to_float(*v))),
        (Datum::Int(v), T::Numeric) => Datum::decimal(Decimal::from(*v)),
        (Datum::Int(v), T::Oid | T::Regclass | T::Regtype | T::Regnamespace) => Datum::Oid(
            u32::try_from(*v)
                .map_err(|_| SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, "OID out of range"))?,
        ),
        (Datum::Int(v), T::Bool) => Datum::Bool(*v != 0),
        (Datum::Bool(v), T::Int2 | T::Int4 | T::Int8) => Datum::Int(i64::from(*v)),
        (Datum::Bool(v), to) if to.is_string() => Datum::text(if *v { "true" } else { "false" }),
        (Datum::Float(v), T::Int2 | T::Int4 | T::Int8) => Datum::Int(float_to_int(*v, to)?),
        (Datum::Float(v), T::Float8) => Datum::Float(*v),
        (Datum::Float(v), T::Float4) => Datum::Float(to_float4(*v)?),
        (Datum::Float(v), T::Numeric) => Datum::decimal(if from == T::Float4 {
            Decimal::parse(&crate::datum::format_float(*v, true, 1))?
        } else {
            Decimal::from_f64(*v)?
        }),
        (Datum::Decimal(d), T::Int2 | T::Int4 | T::Int8) => {
            Datum::Int(check_int(d.to_i64().ok_or_else(|| int_overflow(to))?, to)?)
        }
        (Datum::Decimal(d), T::Float8 | T::Float4) => {
            let float = d.to_f64();
            if float.is_infinite() && matches!(d.as_ref(), Decimal::Finite(_)) {
                return Err(SqlError::new(
                    SqlState::NUMERIC_OUT_OF_RANGE,
                    format!("\"{d}\" is out of range for type {to}"),
                ));
            }
            Datum::Float(if to == T::Float4 { to_float4(float)? } else { float })
        }
        (Datum::Oid(v), T::Int8 | T::Int4) => Datum::Int(check_int(i64::from(*v), to)?),
        (Datum::Oid(v), T::Oid | T::Regclass | T::Regtype | T::Regnamespace) => Datum::Oid(*v),
        (Datum::Text(s), T::Text | T::Varchar | T::Unknown) => {
            // A char(n) loses its padding on the way to other strings.
            if from == T::Bpchar { Datum::text(s.trim_end_matches(' ')) } else { value.clone() }
        }
        (Datum::Text(_), T::Bpchar) => value.clone(),
        (Datum::Text(s), T::Bytea) if from != T::Unknown => Datum::Bytes(Arc::from(s.as_bytes())),
        (Datum::Text(s), _) => Datum::decode_text(to, s, fmt)?,
        (
            Datum::Json(v),
            T::Bool | T::Int2 | T::Int4 | T::Int8 | T::Float4 | T::Float8 | T::Numeric,
        ) => cast_json(v, to, fmt)?,
        (Datum::Array(a), T::Array(elem)) => {
            let items =
                a.items.iter().map(|i| cast(i, a.elem, *elem, fmt)).collect::<Result<_>>()?;
            Datum::Array(Arc::new(ArrayValue { elem: *elem, items }))
        }
        (_, T::Date | T::Time | T::Timestamp | T::TimestampTz | T::Interval) => {
            cast_time(value, from, to, fmt)?
        }
        (_, to) if to.is_string() => Datum::decode_text(to, &value.to_text(from, fmt), fmt)?,
        _ => return Err(no_cast(from, to)),
    })
}

/// The error of a cast that does not exist.
pub(crate) fn no_cast(from: SqlType, to: SqlType) -> SqlError {
    SqlError::new(SqlState::CANNOT_COERCE, format!("cannot cast type {from} to {to}"))
}

fn cast_json(value: &serde_json::Value, to: SqlType, fmt: &FormatSettings) -> Result<Datum> {
    use serde_json::Value;
    let mismatch = |found: &str| {
        SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("cannot cast jsonb {found} to type {to}"),
        )
    };
    match (value, to) {
        (Value::Null, _) => Ok(Datum::Null),
        (Value::Bool(b), SqlType::Bool) => Ok(Datum::Bool(*b)),
        (Value::Number(n), to) if to.is_number() => {
            let decimal = Datum::decimal(Decimal::parse(&n.to_string())?);
            cast(&decimal, SqlType::Numeric, to, fmt)
        }
        (Value::Bool(_), _) => Err(mismatch("boolean")),
        (Value::Number(_), _) => Err(mismatch("numeric")),
        (Value::String(_), _) => Err(mismatch("string")),
        (Value::Array(_), _) => Err(mismatch("array")),
        (Value::Object(_), _) => Err(mismatch("object")),
    }
}

fn date_micros(days: i32) -> Result<i64> {
    match days {
        DATE_INFINITY => Ok(TS_INFINITY),
        DATE_NEG_INFINITY => Ok(TS_NEG_INFINITY),
        days => datetime::check_timestamp(i64::from(days).saturating_mul(DAY)).ok_or_else(|| {
            SqlError::new(SqlState::DATETIME_OVERFLOW, "date out of range for timestamp")
        }),
    }
}

fn micros_date(micros: i64) -> Datum {
    Datum::Date(match micros {
        TS_INFINITY => DATE_INFINITY,
        TS_NEG_INFINITY => DATE_NEG_INFINITY,
        micros => i32::try_from(micros.div_euclid(DAY)).unwrap_or(DATE_INFINITY),
    })
}

/// The local time of a UTC instant in the session's zone.
pub(crate) fn to_local(micros: i64, fmt: &FormatSettings) -> i64 {
    match micros {
        TS_INFINITY | TS_NEG_INFINITY => micros,
        m => m.saturating_add(i64::from(datetime::offset_seconds(&fmt.zone, m)) * SECOND),
    }
}

/// The UTC instant of a local time in the session's zone.
pub(crate) fn from_local(micros: i64, fmt: &FormatSettings) -> i64 {
    match micros {
        TS_INFINITY | TS_NEG_INFINITY => micros,
        m => datetime::local_to_utc(&fmt.zone, m),
    }
}

fn cast_time(value: &Datum, from: SqlType, to: SqlType, fmt: &FormatSettings) -> Result<Datum> {
    use SqlType as T;
    Ok(match (value, to) {
        (Datum::Date(d), T::Timestamp) => Datum::Timestamp(date_micros(*d)?),
        (Datum::Date(d), T::TimestampTz) => Datum::TimestampTz(from_local(date_micros(*d)?, fmt)),
        (Datum::Timestamp(m), T::TimestampTz) => Datum::TimestampTz(from_local(*m, fmt)),
        (Datum::TimestampTz(m), T::Timestamp) => Datum::Timestamp(to_local(*m, fmt)),
        (Datum::Timestamp(m), T::Date) => micros_date(*m),
        (Datum::TimestampTz(m), T::Date) => micros_date(to_local(*m, fmt)),
        (Datum::Timestamp(m), T::Time) => Datum::Time(Civil::from_micros(*m).micros),
        (Datum::TimestampTz(m), T::Time) => {
            Datum::Time(Civil::from_micros(to_local(*m, fmt)).micros)
        }
        (Datum::Time(m), T::Interval) => {
            Datum::Interval(Interval { micros: *m, ..Interval::default() })
        }
        (Datum::Interval(i), T::Time) => Datum::Time(i.micros.rem_euclid(DAY)),
        _ => return Err(no_cast(from, to)),
    })
}

/// Applies a type's modifier: cuts (when asked for by a cast) or refuses what is too long, rounds
/// numerics, pads `char(n)`.
pub(crate) fn apply_typmod(value: Datum, spec: TypeSpec, explicit: bool) -> Result<Datum> {
    if spec.typmod < 0 || value.is_null() {
        return Ok(value);
    }
    if let (Some((precision, scale)), Datum::Decimal(d)) = (spec.precision_scale(), &value) {
        return Ok(Datum::decimal(d.fit(precision, scale)?));
    }
    let (Some(limit), Datum::Text(text)) = (spec.max_chars(), &value) else {
        return Ok(value);
    };
    let length = text.chars().count();
    if length > limit {
        let cut = text.char_indices().nth(limit).map_or(text.len(), |(at, _)| at);
        let (kept, rest) = text.split_at_checked(cut).unwrap_or((text, ""));
        // Only spaces may be lost without being asked.
        if !explicit && !rest.chars().all(|c| c == ' ') {
            return Err(SqlError::new(
                SqlState::STRING_TRUNCATION,
                format!("value too long for type {}", spec.format_name()),
            ));
        }
        return Ok(Datum::text(kept));
    }
    if spec.ty == SqlType::Bpchar && length < limit {
        return Ok(Datum::text(format!("{text}{}", " ".repeat(limit - length))));
    }
    Ok(value)
}
