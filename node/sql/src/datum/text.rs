//! Text forms of values.

use std::fmt::Write as _;
use std::sync::Arc;

use super::{Datum, Decimal, FormatSettings, Interval, array, datetime, json};
use crate::error::{Result, SqlError, SqlState};
use crate::func::system_names::{schema_name, schema_oid};
use crate::types::SqlType;

/// An error for text that is not a literal of its type.
fn invalid(ty: SqlType, text: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_TEXT, format!("invalid input syntax for type {ty}: \"{text}\""))
}

fn out_of_range(ty: SqlType, text: &str) -> SqlError {
    SqlError::new(
        SqlState::NUMERIC_OUT_OF_RANGE,
        format!("value \"{text}\" is out of range for type {ty}"),
    )
}

impl Datum {
    /// Appends the text form of a value of type `ty`; nothing for NULL.
    pub fn encode_text(&self, ty: SqlType, settings: &FormatSettings, out: &mut String) {
        // Writing to a string cannot fail, so the results of write! are dropped below.
        match self {
            Self::Null => {}
            Self::Bool(b) => out.push(if *b { 't' } else { 'f' }),
            Self::Int(v) => push_int(out, *v),
            Self::Oid(v) => push_oid(out, *v, ty, settings),
            Self::Float(v) => {
                out.push_str(&format_float(*v, ty == SqlType::Float4, settings.extra_float_digits));
            }
            Self::Decimal(d) => push_display(out, d),
            Self::Text(s) => out.push_str(s),
            Self::Bytes(b) => {
                out.push_str("\\x");
                push_hex(out, b);
            }
            Self::Date(d) => datetime::format_date(out, *d),
            Self::Time(t) => datetime::format_time(out, *t),
            Self::Timestamp(t) => datetime::format_timestamp(out, *t, None),
            Self::TimestampTz(t) => datetime::format_timestamp(out, *t, Some(&settings.zone)),
            Self::Interval(i) => push_display(out, i),
            Self::Uuid(u) => push_display(out, &uuid::Uuid::from_bytes(*u).hyphenated()),
            Self::Json(v) => out.push_str(&json::to_text(v)),
            Self::Array(a) => {
                out.push('{');
                let mut item_text = String::new();
                for (i, item) in a.items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    item_text.clear();
                    item.encode_text(a.elem, settings, &mut item_text);
                    array::push_element(out, (!item.is_null()).then_some(item_text.as_str()));
                }
                out.push('}');
            }
        }
    }

    /// The text form of a value that is not NULL.
    #[must_use]
    pub fn to_text(&self, ty: SqlType, settings: &FormatSettings) -> String {
        let mut out = String::new();
        self.encode_text(ty, settings, &mut out);
        out
    }

    /// Reads the text form of a value of type `ty`.
    pub fn decode_text(ty: SqlType, text: &str, settings: &FormatSettings) -> Result<Self> {
        Ok(match ty {
            SqlType::Unknown | SqlType::Text | SqlType::Varchar | SqlType::Bpchar => {
                if text.contains('\0') {
                    return Err(SqlError::new(
                        SqlState::INVALID_BYTE_SEQUENCE,
                        "invalid byte sequence for encoding \"UTF8\": 0x00",
                    ));
                }
                Self::text(text)
            }
            SqlType::Name => Self::text(cut_name(text)),
            SqlType::QChar => Self::text(text.chars().next().map(String::from).unwrap_or_default()),
            SqlType::Bool => Self::Bool(parse_bool(text).ok_or_else(|| invalid(ty, text))?),
            SqlType::Int2 | SqlType::Int4 | SqlType::Int8 => Self::Int(parse_int(ty, text)?),
            SqlType::Float4 | SqlType::Float8 => Self::Float(parse_float(ty, text)?),
            SqlType::Numeric => Self::decimal(Decimal::parse(text)?),
            SqlType::Bytea => Self::Bytes(Arc::from(parse_bytea(text)?)),
            SqlType::Date => Self::Date(datetime::parse_date(text, settings.local_now())?),
            SqlType::Time => Self::Time(datetime::parse_time(text, settings.local_now())?),
            SqlType::Timestamp => Self::Timestamp(datetime::parse_timestamp(
                text,
                None,
                settings.now_micros,
                settings.local_now(),
            )?),
            SqlType::TimestampTz => Self::TimestampTz(datetime::parse_timestamp(
                text,
                Some(&settings.zone),
                settings.now_micros,
                settings.local_now(),
            )?),
            SqlType::Interval => Self::Interval(Interval::parse(text)?),
            SqlType::Uuid => Self::Uuid(
                *uuid::Uuid::try_parse(text.trim()).map_err(|_| invalid(ty, text))?.as_bytes(),
            ),
            SqlType::Jsonb => Self::json(json::parse(text)?),
            SqlType::Oid | SqlType::Regclass => {
                Self::Oid(text.trim().parse::<u32>().map_err(|_| invalid(SqlType::Oid, text))?)
            }
            SqlType::Regtype => match text.trim().parse::<u32>() {
                Ok(oid) => Self::Oid(oid),
                Err(_) => Self::Oid(
                    SqlType::from_name(&text.trim().to_ascii_lowercase())
                        .ok_or_else(|| {
                            SqlError::new(
                                SqlState::UNDEFINED_OBJECT,
                                format!("type \"{text}\" does not exist"),
                            )
                        })?
                        .oid(),
                ),
            },
            SqlType::Regnamespace => match text.trim().parse::<u32>() {
                Ok(oid) => Self::Oid(oid),
                Err(_) => Self::Oid(schema_oid(text.trim()).ok_or_else(|| {
                    SqlError::new(
                        SqlState::INVALID_SCHEMA_NAME,
                        format!("schema \"{text}\" does not exist"),
                    )
                })?),
            },
            SqlType::Void => Self::Null,
            SqlType::Array(elem) => {
                let items = array::split(text)?
                    .into_iter()
                    .map(|item| match item {
                        None => Ok(Self::Null),
                        Some(item) => Self::decode_text(*elem, &item, settings),
                    })
                    .collect::<Result<Vec<_>>>()?;
                Self::array(*elem, items)
            }
        })
    }
}

/// A name cut to 63 bytes at a character border.
fn cut_name(text: &str) -> &str {
    let at = (0..=63).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    if text.len() <= 63 { text } else { text.get(..at).unwrap_or(text) }
}

fn push_display(out: &mut String, value: &impl std::fmt::Display) {
    write!(out, "{value}").expect("writing to a string cannot fail");
}

/// Appends an object id, or the name that a `reg` type shows.
fn push_oid(out: &mut String, oid: u32, ty: SqlType, settings: &FormatSettings) {
    let name = match ty {
        SqlType::Regtype => SqlType::from_oid(oid).map(SqlType::format_name),
        SqlType::Regclass => crate::func::relation_name(settings.catalog.as_deref(), oid),
        SqlType::Regnamespace => schema_name(oid).map(ToOwned::to_owned),
        _ => None,
    };
    match name {
        Some(name) => out.push_str(&name),
        None => push_int(out, i64::from(oid)),
    }
}

fn push_int(out: &mut String, value: i64) {
    push_display(out, &value);
}

/// Appends bytes as lower-case hex.
pub(crate) fn push_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            out.push(DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0').into());
        }
    }
}

/// Reads one of the spellings of a boolean.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    let lower = text.trim().to_ascii_lowercase();
    let is_prefix = |word: &str| !lower.is_empty() && word.starts_with(&lower);
    if is_prefix("true") || is_prefix("yes") || lower == "on" || lower == "1" {
        Some(true)
    } else if is_prefix("false")
        || is_prefix("no")
        || lower == "off"
        || lower == "of"
        || lower == "0"
    {
        Some(false)
    } else {
        None
    }
}

fn parse_int(ty: SqlType, text: &str) -> Result<i64> {
    let trimmed = text.trim();
    let body = trimmed.strip_prefix('+').unwrap_or(trimmed);
    let value = match body.parse::<i64>() {
        Ok(value) => value,
        Err(error) => {
            return Err(match error.kind() {
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
                    out_of_range(ty, text)
                }
                _ => invalid(ty, text),
            });
        }
    };
    crate::cast::check_int(value, ty).map_err(|_| out_of_range(ty, text))
}

fn parse_float(ty: SqlType, text: &str) -> Result<f64> {
    let trimmed = text.trim();
    let lower = trimmed.to_ascii_lowercase();
    let value = match lower.as_str() {
        "infinity" | "inf" | "+infinity" | "+inf" => return Ok(f64::INFINITY),
        "-infinity" | "-inf" => return Ok(f64::NEG_INFINITY),
        "nan" => return Ok(f64::NAN),
        _ if lower.contains(['n', 'i']) => return Err(invalid(ty, text)),
        _ => trimmed.parse::<f64>().map_err(|_| invalid(ty, text))?,
    };
    let value = if ty == SqlType::Float4 { crate::cast::round_float4(value) } else { value };
    let all_zero = trimmed
        .split(['e', 'E'])
        .next()
        .is_some_and(|mantissa| !mantissa.bytes().any(|b| (b'1'..=b'9').contains(&b)));
    if value.is_infinite() || (value == 0.0 && !all_zero) {
        return Err(SqlError::new(
            SqlState::NUMERIC_OUT_OF_RANGE,
            format!("\"{text}\" is out of range for type {ty}"),
        ));
    }
    Ok(value)
}

/// Reads `\x` hex or the escape form of bytea.
fn parse_bytea(text: &str) -> Result<Vec<u8>> {
    let bad = || SqlError::new(SqlState::INVALID_TEXT, "invalid input syntax for type bytea");
    if let Some(hex) = text.strip_prefix("\\x").or_else(|| text.strip_prefix("\\X")) {
        let digits: Vec<u8> = hex
            .bytes()
            .filter(|b| !b.is_ascii_whitespace())
            .map(|b| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or_else(bad))
            .collect::<Result<_>>()?;
        let (pairs, rest) = digits.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(SqlError::new(
                SqlState::INVALID_TEXT,
                "invalid hexadecimal data: odd number of digits",
            ));
        }
        return Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'\\' {
            out.push(b);
            continue;
        }
        match bytes.next().ok_or_else(bad)? {
            b'\\' => out.push(b'\\'),
            a @ b'0'..=b'3' => {
                let mut octal = || match bytes.next() {
                    Some(d @ b'0'..=b'7') => Ok(d - b'0'),
                    _ => Err(bad()),
                };
                let (b, c) = (octal()?, octal()?);
                out.push((a - b'0') << 6 | b << 3 | c);
            }
            _ => return Err(bad()),
        }
    }
    Ok(out)
}

/// The text form of a float: shortest digits that read back, or cut by `extra` below 1.
pub(crate) fn format_float(value: f64, single: bool, extra: i32) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    let base_digits = if single { 6 } else { 15 };
    #[expect(clippy::cast_possible_truncation, reason = "the value was rounded to f32 when read")]
    let scientific = if extra < 1 {
        let digits = usize::try_from((base_digits + extra).max(1)).unwrap_or(1);
        format!("{value:.*e}", digits - 1)
    } else if single {
        format!("{:e}", value as f32)
    } else {
        format!("{value:e}")
    };
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let mantissa = if mantissa.contains('.') {
        mantissa.trim_end_matches('0').trim_end_matches('.')
    } else {
        mantissa
    };
    if !(-4..base_digits).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let digits: String = digits.chars().filter(|c| *c != '.').collect();
    if exponent < 0 {
        let zeros = "0".repeat(usize::try_from(-exponent - 1).unwrap_or(0));
        return format!("{sign}0.{zeros}{digits}");
    }
    let whole = usize::try_from(exponent + 1).unwrap_or(1);
    if digits.len() <= whole {
        return format!("{sign}{digits}{}", "0".repeat(whole - digits.len()));
    }
    let (whole, fraction) = digits.split_at(whole);
    format!("{sign}{whole}.{fraction}")
}
