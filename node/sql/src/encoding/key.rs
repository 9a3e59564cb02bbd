//! One column of a key.

use crdb_keys::encoding as prim;

use super::decimal;
use crate::datum::Datum;
use crate::error::{Result, SqlError, SqlState};
use crate::types::SqlType;

const DECIMAL_ASC: u8 = 0x18;
const DECIMAL_DESC: u8 = 0x19;
const INTERVAL_ASC: u8 = 0x1a;
const INTERVAL_DESC: u8 = 0x1b;
const INTERVAL_BYTES: usize = 16;

/// Whether values of a type may stand in a key.
pub(crate) fn is_key_type(ty: SqlType) -> bool {
    !matches!(ty, SqlType::Jsonb | SqlType::Array(_) | SqlType::Unknown | SqlType::Void)
}

/// Whether a key does not hold values of a type exactly.
pub(super) fn is_composite(ty: SqlType) -> bool {
    matches!(ty, SqlType::Numeric | SqlType::Float4 | SqlType::Float8 | SqlType::Interval)
}

/// The error of a key that does not decode.
pub(super) fn corrupt(why: impl std::fmt::Display) -> SqlError {
    SqlError::new(SqlState::DATA_CORRUPTED, format!("a stored row is damaged: {why}"))
}

/// Appends a value of a key column.
pub(crate) fn encode_key_datum(out: &mut Vec<u8>, value: &Datum, descending: bool) {
    let int = |out: &mut Vec<u8>, v: i64| {
        if descending { prim::encode_int_desc(out, v) } else { prim::encode_int_asc(out, v) }
    };
    let bytes = |out: &mut Vec<u8>, v: &[u8]| {
        if descending { prim::encode_bytes_desc(out, v) } else { prim::encode_bytes_asc(out, v) }
    };
    match value {
        Datum::Null if descending => prim::encode_null_desc(out),
        Datum::Null => prim::encode_null_asc(out),
        Datum::Bool(v) => int(out, i64::from(*v)),
        Datum::Int(v) | Datum::Time(v) | Datum::Timestamp(v) | Datum::TimestampTz(v) => {
            int(out, *v)
        }
        Datum::Oid(v) => int(out, i64::from(*v)),
        Datum::Date(v) => int(out, i64::from(*v)),
        Datum::Float(v) if descending => prim::encode_float_desc(out, *v),
        Datum::Float(v) => prim::encode_float_asc(out, *v),
        Datum::Text(v) => bytes(out, v.as_bytes()),
        Datum::Bytes(v) => bytes(out, v),
        Datum::Uuid(v) => bytes(out, v),
        Datum::Decimal(v) => {
            out.push(if descending { DECIMAL_DESC } else { DECIMAL_ASC });
            let start = out.len();
            decimal::encode(out, v);
            flip(out, start, descending);
        }
        Datum::Interval(v) => {
            out.push(if descending { INTERVAL_DESC } else { INTERVAL_ASC });
            let start = out.len();
            decimal::encode_interval(out, *v);
            flip(out, start, descending);
        }
        // Refused as key columns by CREATE TABLE; a spelling of their own keeps this total.
        Datum::Json(_) | Datum::Array(_) => {
            bytes(out, format!("{value:?}").as_bytes());
        }
    }
}

fn flip(out: &mut [u8], start: usize, descending: bool) {
    if descending {
        for byte in out.iter_mut().skip(start) {
            *byte = !*byte;
        }
    }
}

/// Reads a value of a key column. A composite one comes back as NULL: its exact value is in the
/// row's value.
pub(super) fn decode_key_datum(input: &mut &[u8], ty: SqlType, descending: bool) -> Result<Datum> {
    if prim::decode_null(input) {
        return Ok(Datum::Null);
    }
    let mut int = || {
        if descending { prim::decode_int_desc(input) } else { prim::decode_int_asc(input) }
            .map_err(corrupt)
    };
    Ok(match ty {
        SqlType::Bool => Datum::Bool(int()? != 0),
        SqlType::Int2 | SqlType::Int4 | SqlType::Int8 => Datum::Int(int()?),
        SqlType::Time => Datum::Time(int()?),
        SqlType::Timestamp => Datum::Timestamp(int()?),
        SqlType::TimestampTz => Datum::TimestampTz(int()?),
        SqlType::Oid | SqlType::Regclass | SqlType::Regtype | SqlType::Regnamespace => {
            Datum::Oid(u32::try_from(int()?).map_err(corrupt)?)
        }
        SqlType::Date => Datum::Date(i32::try_from(int()?).map_err(corrupt)?),
        SqlType::Float4 | SqlType::Float8 => {
            if descending { prim::decode_float_desc(input) } else { prim::decode_float_asc(input) }
                .map_err(corrupt)?;
            Datum::Null
        }
        SqlType::Text | SqlType::Varchar | SqlType::Bpchar | SqlType::Name | SqlType::QChar => {
            let text = String::from_utf8(decode_bytes(input, descending)?).map_err(corrupt)?;
            Datum::text(text)
        }
        SqlType::Bytea => Datum::Bytes(decode_bytes(input, descending)?.into()),
        SqlType::Uuid => Datum::Uuid(
            decode_bytes(input, descending)?
                .try_into()
                .map_err(|_| corrupt("a uuid is not 16 bytes"))?,
        ),
        SqlType::Numeric => {
            let rest = skip_tag(input, DECIMAL_ASC, DECIMAL_DESC, descending)?;
            let length = decimal::length(rest, descending).ok_or_else(|| corrupt("a decimal"))?;
            *input = rest.get(length..).unwrap_or_default();
            Datum::Null
        }
        SqlType::Interval => {
            let rest = skip_tag(input, INTERVAL_ASC, INTERVAL_DESC, descending)?;
            *input = rest.get(INTERVAL_BYTES..).ok_or_else(|| corrupt("an interval"))?;
            Datum::Null
        }
        SqlType::Jsonb | SqlType::Array(_) | SqlType::Unknown | SqlType::Void => {
            return Err(corrupt(format!("type {ty} in a key")));
        }
    })
}

fn decode_bytes(input: &mut &[u8], descending: bool) -> Result<Vec<u8>> {
    if descending { prim::decode_bytes_desc(input) } else { prim::decode_bytes_asc(input) }
        .map_err(corrupt)
}

fn skip_tag<'a>(input: &mut &'a [u8], asc: u8, desc: u8, descending: bool) -> Result<&'a [u8]> {
    input
        .strip_prefix(&[if descending { desc } else { asc }])
        .ok_or_else(|| corrupt("a key column has the tag of another type"))
}
