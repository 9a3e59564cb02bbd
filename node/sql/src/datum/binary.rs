//! Binary forms of values, as PostgreSQL's send and receive functions have them.

use std::sync::Arc;

use bigdecimal::BigDecimal;
use bigdecimal::num_bigint::{BigInt, Sign};

use super::civil::{DAY, PG_EPOCH_DAYS};
use super::datetime::{DATE_INFINITY, DATE_NEG_INFINITY, TS_INFINITY, TS_NEG_INFINITY};
use super::{Datum, Decimal, Interval, json, pow10};
use crate::error::{Result, SqlError, SqlState};
use crate::types::SqlType;

const PG_EPOCH_MICROS: i64 = PG_EPOCH_DAYS as i64 * DAY;
const NUMERIC_NEG: u16 = 0x4000;
const NUMERIC_NAN: u16 = 0xC000;
const NUMERIC_PINF: u16 = 0xD000;
const NUMERIC_NINF: u16 = 0xF000;

fn incorrect(ty: SqlType) -> SqlError {
    SqlError::new(
        SqlState::INVALID_BINARY,
        format!("incorrect binary data format for a value of type {ty}"),
    )
}

impl Datum {
    /// Appends the binary form of a value of type `ty`; nothing for NULL.
    #[expect(clippy::cast_possible_truncation, reason = "values lie in the range of their type")]
    pub fn encode_binary(&self, ty: SqlType, out: &mut Vec<u8>) {
        match self {
            Self::Null => {}
            Self::Bool(b) => out.push(u8::from(*b)),
            Self::Int(v) => match ty {
                SqlType::Int2 => out.extend((*v as i16).to_be_bytes()),
                SqlType::Int4 => out.extend((*v as i32).to_be_bytes()),
                _ => out.extend(v.to_be_bytes()),
            },
            Self::Float(v) if ty == SqlType::Float4 => out.extend((*v as f32).to_be_bytes()),
            Self::Float(v) => out.extend(v.to_be_bytes()),
            Self::Decimal(d) => encode_numeric(d, out),
            Self::Text(s) => out.extend_from_slice(s.as_bytes()),
            Self::Bytes(b) => out.extend_from_slice(b),
            Self::Date(DATE_INFINITY) => out.extend(i32::MAX.to_be_bytes()),
            Self::Date(DATE_NEG_INFINITY) => out.extend(i32::MIN.to_be_bytes()),
            Self::Date(d) => out.extend(d.saturating_sub(PG_EPOCH_DAYS).to_be_bytes()),
            Self::Time(t) => out.extend(t.to_be_bytes()),
            Self::Timestamp(t) | Self::TimestampTz(t) => match *t {
                TS_INFINITY | TS_NEG_INFINITY => out.extend(t.to_be_bytes()),
                t => out.extend(t.saturating_sub(PG_EPOCH_MICROS).to_be_bytes()),
            },
            Self::Interval(i) => {
                out.extend(i.micros.to_be_bytes());
                out.extend(i.days.to_be_bytes());
                out.extend(i.months.to_be_bytes());
            }
            Self::Uuid(u) => out.extend_from_slice(u),
            Self::Json(v) => {
                out.push(1);
                out.extend_from_slice(json::to_text(v).as_bytes());
            }
            Self::Oid(v) => out.extend(v.to_be_bytes()),
            Self::Array(a) => {
                let dims = i32::from(!a.items.is_empty());
                let nulls = i32::from(a.items.iter().any(Self::is_null));
                out.extend(dims.to_be_bytes());
                out.extend(nulls.to_be_bytes());
                out.extend(a.elem.oid().to_be_bytes());
                if dims == 0 {
                    return;
                }
                out.extend(i32::try_from(a.items.len()).unwrap_or(i32::MAX).to_be_bytes());
                out.extend(1i32.to_be_bytes());
                for item in &a.items {
                    if item.is_null() {
                        out.extend((-1i32).to_be_bytes());
                        continue;
                    }
                    let mut body = Vec::new();
                    item.encode_binary(a.elem, &mut body);
                    out.extend(i32::try_from(body.len()).unwrap_or(i32::MAX).to_be_bytes());
                    out.extend(body);
                }
            }
        }
    }

    /// Reads the binary form of a value of type `ty`.
    pub fn decode_binary(ty: SqlType, bytes: &[u8]) -> Result<Self> {
        let bad = || incorrect(ty);
        Ok(match ty {
            SqlType::Bool => Self::Bool(fixed::<1>(bytes).ok_or_else(bad)? != [0]),
            SqlType::Int2 => Self::Int(i16::from_be_bytes(fixed(bytes).ok_or_else(bad)?).into()),
            SqlType::Int4 => Self::Int(i32::from_be_bytes(fixed(bytes).ok_or_else(bad)?).into()),
            SqlType::Int8 => Self::Int(i64::from_be_bytes(fixed(bytes).ok_or_else(bad)?)),
            SqlType::Float4 => {
                Self::Float(f32::from_be_bytes(fixed(bytes).ok_or_else(bad)?).into())
            }
            SqlType::Float8 => Self::Float(f64::from_be_bytes(fixed(bytes).ok_or_else(bad)?)),
            SqlType::Numeric => Self::decimal(decode_numeric(bytes).ok_or_else(bad)?),
            SqlType::Unknown
            | SqlType::Text
            | SqlType::Varchar
            | SqlType::Bpchar
            | SqlType::Name
            | SqlType::QChar => Self::text(utf8(bytes)?),
            SqlType::Bytea => Self::Bytes(Arc::from(bytes)),
            SqlType::Date => match i32::from_be_bytes(fixed(bytes).ok_or_else(bad)?) {
                i32::MAX => Self::Date(DATE_INFINITY),
                i32::MIN => Self::Date(DATE_NEG_INFINITY),
                days => Self::Date(days.checked_add(PG_EPOCH_DAYS).ok_or_else(bad)?),
            },
            SqlType::Time => {
                let micros = i64::from_be_bytes(fixed(bytes).ok_or_else(bad)?);
                if !(0..=DAY).contains(&micros) {
                    return Err(SqlError::new(SqlState::DATETIME_OVERFLOW, "time out of range"));
                }
                Self::Time(micros)
            }
            SqlType::Timestamp => Self::Timestamp(decode_timestamp(ty, bytes)?),
            SqlType::TimestampTz => Self::TimestampTz(decode_timestamp(ty, bytes)?),
            SqlType::Interval => {
                let all = fixed::<16>(bytes).ok_or_else(bad)?;
                let (micros, rest) = all.split_first_chunk::<8>().ok_or_else(bad)?;
                let (days, months) = rest.split_first_chunk::<4>().ok_or_else(bad)?;
                Self::Interval(Interval {
                    micros: i64::from_be_bytes(*micros),
                    days: i32::from_be_bytes(*days),
                    months: i32::from_be_bytes(fixed(months).ok_or_else(bad)?),
                })
            }
            SqlType::Uuid => Self::Uuid(fixed(bytes).ok_or_else(bad)?),
            SqlType::Jsonb => {
                let body = bytes.strip_prefix(&[1]).ok_or_else(|| {
                    SqlError::new(SqlState::INVALID_BINARY, "unsupported jsonb version number")
                })?;
                Self::json(json::parse(utf8(body)?)?)
            }
            SqlType::Oid | SqlType::Regclass | SqlType::Regtype | SqlType::Regnamespace => {
                Self::Oid(u32::from_be_bytes(fixed(bytes).ok_or_else(bad)?))
            }
            SqlType::Void => Self::Null,
            SqlType::Array(elem) => decode_array(ty, *elem, bytes)?,
        })
    }
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    let text = std::str::from_utf8(bytes).map_err(|_| {
        SqlError::new(
            SqlState::INVALID_BYTE_SEQUENCE,
            "invalid byte sequence for encoding \"UTF8\"",
        )
    })?;
    if text.contains('\0') {
        return Err(SqlError::new(
            SqlState::INVALID_BYTE_SEQUENCE,
            "invalid byte sequence for encoding \"UTF8\": 0x00",
        ));
    }
    Ok(text)
}

fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

fn decode_timestamp(ty: SqlType, bytes: &[u8]) -> Result<i64> {
    match i64::from_be_bytes(fixed(bytes).ok_or_else(|| incorrect(ty))?) {
        infinite @ (i64::MAX | i64::MIN) => Ok(infinite),
        micros => micros
            .checked_add(PG_EPOCH_MICROS)
            .and_then(super::datetime::check_timestamp)
            .ok_or_else(|| SqlError::new(SqlState::DATETIME_OVERFLOW, "timestamp out of range")),
    }
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(n)?;
    *bytes = tail;
    Some(head)
}

fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    take(bytes, 4).and_then(fixed).map(i32::from_be_bytes)
}

fn decode_array(ty: SqlType, elem: SqlType, bytes: &[u8]) -> Result<Datum> {
    let bad = || incorrect(ty);
    let mut rest = bytes;
    let dims = take_i32(&mut rest).ok_or_else(bad)?;
    take_i32(&mut rest).ok_or_else(bad)?;
    let oid = take(&mut rest, 4).and_then(fixed).map(u32::from_be_bytes).ok_or_else(bad)?;
    // The element type the client names must be ours or read alike.
    if SqlType::from_oid(oid) != Some(elem) {
        return Err(SqlError::new(
            SqlState::DATATYPE_MISMATCH,
            format!("binary data has array element type {oid} instead of expected {}", elem.oid()),
        ));
    }
    match dims {
        0 => return Ok(Datum::array(elem, Vec::new())),
        1 => {}
        _ => return Err(SqlError::unsupported("multi-dimensional arrays")),
    }
    let len = take_i32(&mut rest).ok_or_else(bad)?;
    take_i32(&mut rest).ok_or_else(bad)?;
    let mut items = Vec::new();
    for _ in 0..len {
        let size = take_i32(&mut rest).ok_or_else(bad)?;
        items.push(match usize::try_from(size) {
            Err(_) => Datum::Null,
            Ok(size) => Datum::decode_binary(elem, take(&mut rest, size).ok_or_else(bad)?)?,
        });
    }
    if rest.is_empty() { Ok(Datum::array(elem, items)) } else { Err(bad()) }
}

fn encode_numeric(value: &Decimal, out: &mut Vec<u8>) {
    let header = |out: &mut Vec<u8>, digits: usize, weight: i64, sign: u16, scale: i64| {
        out.extend(u16::try_from(digits).unwrap_or(u16::MAX).to_be_bytes());
        out.extend(i16::try_from(weight).unwrap_or(i16::MAX).to_be_bytes());
        out.extend(sign.to_be_bytes());
        out.extend(u16::try_from(scale).unwrap_or(0).to_be_bytes());
    };
    let value = match value {
        Decimal::NaN => return header(out, 0, 0, NUMERIC_NAN, 0),
        Decimal::PosInfinity => return header(out, 0, 0, NUMERIC_PINF, 0),
        Decimal::NegInfinity => return header(out, 0, 0, NUMERIC_NINF, 0),
        Decimal::Finite(value) => value,
    };
    let (int, scale) = value.as_bigint_and_exponent();
    let (sign, magnitude) = int.into_parts();
    // Digits padded so that groups of four line up with the point.
    let mut digits = magnitude.to_string();
    let shown = scale.max(0);
    if scale < 0 {
        digits.push_str(&"0".repeat(usize::try_from(-scale).unwrap_or(0)));
    }
    let pad = (4 - shown.rem_euclid(4)) % 4;
    digits.push_str(&"0".repeat(usize::try_from(pad).unwrap_or(0)));
    let fraction_groups = (shown + pad) / 4;
    let lead = (4 - digits.len() % 4) % 4;
    digits.insert_str(0, &"0".repeat(lead));
    let mut groups: Vec<u16> = digits
        .as_bytes()
        .chunks(4)
        .map(|chunk| chunk.iter().fold(0u16, |acc, b| acc * 10 + u16::from(b - b'0')))
        .collect();
    let mut weight = i64::try_from(groups.len()).unwrap_or(i64::MAX) - fraction_groups - 1;
    let zeros = groups.iter().take_while(|g| **g == 0).count();
    groups.drain(..zeros);
    weight -= i64::try_from(zeros).unwrap_or(0);
    while groups.last() == Some(&0) {
        groups.pop();
    }
    if groups.is_empty() {
        weight = 0;
    }
    let sign = if sign == Sign::Minus { NUMERIC_NEG } else { 0 };
    header(out, groups.len(), weight, sign, shown);
    for group in groups {
        out.extend(group.to_be_bytes());
    }
}

fn decode_numeric(bytes: &[u8]) -> Option<Decimal> {
    let mut rest = bytes;
    let mut next = || take(&mut rest, 2).and_then(fixed).map(u16::from_be_bytes);
    let count = next()?;
    let weight = i64::from(next()?.cast_signed());
    let sign = next()?;
    let scale = i64::from(next()?);
    match sign {
        NUMERIC_NAN => return Some(Decimal::NaN),
        NUMERIC_PINF => return Some(Decimal::PosInfinity),
        NUMERIC_NINF => return Some(Decimal::NegInfinity),
        0 | NUMERIC_NEG => {}
        _ => return None,
    }
    let mut int = BigInt::from(0);
    for _ in 0..count {
        let group = next()?;
        if group > 9999 {
            return None;
        }
        int = int * 10_000u32 + group;
    }
    if !rest.is_empty() {
        return None;
    }
    if sign == NUMERIC_NEG {
        int = -int;
    }
    // The last group stands for 10000^(weight - count + 1).
    let exponent = 4 * (weight - i64::from(count) + 1);
    let value = if exponent >= 0 {
        BigDecimal::new(int * pow10(exponent), 0)
    } else {
        BigDecimal::new(int, -exponent)
    };
    Some(Decimal::Finite(value.with_scale(scale)))
}
