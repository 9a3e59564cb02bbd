//! One column of a row's value: a type tag and a payload.

use std::sync::Arc;

use super::key::corrupt;
use crate::datum::{ArrayValue, Datum, Decimal, Interval, json};
use crate::error::Result;
use crate::types::SqlType;

const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const FLOAT: u8 = 4;
const DECIMAL: u8 = 5;
const TEXT: u8 = 6;
const BYTES: u8 = 7;
const DATE: u8 = 8;
const TIME: u8 = 9;
const TIMESTAMP: u8 = 10;
const TIMESTAMPTZ: u8 = 11;
const INTERVAL: u8 = 12;
const UUID: u8 = 13;
const JSON: u8 = 14;
const OID: u8 = 15;
const ARRAY: u8 = 16;
const NULL: u8 = 17;

/// Appends an unsigned number, seven bits a byte, lowest first.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

/// Reads what [`put_varint`] wrote.
pub(super) fn take_varint(input: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first().ok_or_else(|| corrupt("it ends early"))?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(corrupt("a number is too long"))
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

fn take_signed(input: &mut &[u8]) -> Result<i64> {
    let raw = take_varint(input)?;
    Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (head, tail) = input.split_at_checked(length).ok_or_else(|| corrupt("it ends early"))?;
    *input = tail;
    Ok(head)
}

fn take_bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = usize::try_from(take_varint(input)?).map_err(corrupt)?;
    take(input, length)
}

fn take_array<const N: usize>(input: &mut &[u8]) -> Result<[u8; N]> {
    take(input, N)?.try_into().map_err(corrupt)
}

fn take_text<'a>(input: &mut &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(take_bytes(input)?).map_err(corrupt)
}

/// Appends tag and payload of a value.
pub(super) fn put_datum(out: &mut Vec<u8>, value: &Datum) {
    match value {
        Datum::Null => out.push(NULL),
        Datum::Bool(v) => out.push(if *v { TRUE } else { FALSE }),
        Datum::Int(v) => {
            out.push(INT);
            put_signed(out, *v);
        }
        Datum::Float(v) => {
            out.push(FLOAT);
            out.extend(v.to_be_bytes());
        }
        Datum::Decimal(v) => {
            out.push(DECIMAL);
            put_bytes(out, v.to_string().as_bytes());
        }
        Datum::Text(v) => {
            out.push(TEXT);
            put_bytes(out, v.as_bytes());
        }
        Datum::Bytes(v) => {
            out.push(BYTES);
            put_bytes(out, v);
        }
        Datum::Date(v) => {
            out.push(DATE);
            put_signed(out, i64::from(*v));
        }
        Datum::Time(v) => {
            out.push(TIME);
            put_signed(out, *v);
        }
        Datum::Timestamp(v) => {
            out.push(TIMESTAMP);
            put_signed(out, *v);
        }
        Datum::TimestampTz(v) => {
            out.push(TIMESTAMPTZ);
            put_signed(out, *v);
        }
        Datum::Interval(v) => {
            out.push(INTERVAL);
            put_signed(out, i64::from(v.months));
            put_signed(out, i64::from(v.days));
            put_signed(out, v.micros);
        }
        Datum::Uuid(v) => {
            out.push(UUID);
            out.extend_from_slice(v);
        }
        Datum::Json(v) => {
            out.push(JSON);
            put_bytes(out, v.to_string().as_bytes());
        }
        Datum::Oid(v) => {
            out.push(OID);
            put_varint(out, u64::from(*v));
        }
        Datum::Array(v) => {
            out.push(ARRAY);
            put_varint(out, u64::from(v.elem.oid()));
            put_varint(out, v.items.len() as u64);
            for item in &v.items {
                put_datum(out, item);
            }
        }
    }
}

/// Reads tag and payload of a value.
pub(super) fn take_datum(input: &mut &[u8]) -> Result<Datum> {
    let (&tag, rest) = input.split_first().ok_or_else(|| corrupt("it ends early"))?;
    *input = rest;
    Ok(match tag {
        NULL => Datum::Null,
        FALSE => Datum::Bool(false),
        TRUE => Datum::Bool(true),
        INT => Datum::Int(take_signed(input)?),
        FLOAT => Datum::Float(f64::from_be_bytes(take_array(input)?)),
        DECIMAL => Datum::decimal(Decimal::parse(take_text(input)?)?),
        TEXT => Datum::text(take_text(input)?),
        BYTES => Datum::Bytes(Arc::from(take_bytes(input)?)),
        DATE => Datum::Date(i32::try_from(take_signed(input)?).map_err(corrupt)?),
        TIME => Datum::Time(take_signed(input)?),
        TIMESTAMP => Datum::Timestamp(take_signed(input)?),
        TIMESTAMPTZ => Datum::TimestampTz(take_signed(input)?),
        INTERVAL => Datum::Interval(Interval {
            months: i32::try_from(take_signed(input)?).map_err(corrupt)?,
            days: i32::try_from(take_signed(input)?).map_err(corrupt)?,
            micros: take_signed(input)?,
        }),
        UUID => Datum::Uuid(take_array(input)?),
        JSON => Datum::json(json::parse(take_text(input)?)?),
        OID => Datum::Oid(u32::try_from(take_varint(input)?).map_err(corrupt)?),
        ARRAY => {
            let oid = u32::try_from(take_varint(input)?).map_err(corrupt)?;
            let elem = SqlType::from_oid(oid).ok_or_else(|| corrupt("unknown array type"))?;
            let length = take_varint(input)?;
            let mut items = Vec::new();
            for _ in 0..length {
                items.push(take_datum(input)?);
            }
            Datum::Array(Arc::new(ArrayValue { elem, items }))
        }
        other => return Err(corrupt(format!("unknown type tag {other}"))),
    })
}

/// Moves past tag and payload of a value.
pub(super) fn skip_datum(input: &mut &[u8]) -> Result<()> {
    let (&tag, rest) = input.split_first().ok_or_else(|| corrupt("it ends early"))?;
    match tag {
        NULL | FALSE | TRUE => *input = rest,
        FLOAT => *input = rest.get(8..).ok_or_else(|| corrupt("it ends early"))?,
        UUID => *input = rest.get(16..).ok_or_else(|| corrupt("it ends early"))?,
        INT | DATE | TIME | TIMESTAMP | TIMESTAMPTZ | OID => {
            *input = rest;
            take_varint(input)?;
        }
        DECIMAL | TEXT | BYTES | JSON => {
            *input = rest;
            take_bytes(input)?;
        }
        _ => {
            take_datum(input)?;
        }
    }
    Ok(())
}
