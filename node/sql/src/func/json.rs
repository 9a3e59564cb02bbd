//! JSONB.

use serde_json::Value;

use super::t::{JSON, TEXT};
use super::{Arg, Builtin, length, str_at};
use crate::datum::{Datum, json};
use crate::error::{Result, SqlError, SqlState};
use crate::expr::EvalCtx;
use crate::types::SqlType as S;

/// A value as JSON.
pub(super) fn to_json(ctx: &EvalCtx<'_>, value: &Datum) -> Result<Value> {
    Ok(match value {
        Datum::Null => Value::Null,
        Datum::Bool(b) => Value::Bool(*b),
        Datum::Int(i) => Value::from(*i),
        Datum::Oid(i) => Value::from(*i),
        Datum::Json(v) => v.as_ref().clone(),
        Datum::Float(_) | Datum::Decimal(_) => {
            let shown = value.to_text(S::Float8, &ctx.info.format);
            serde_json::from_str(&shown).unwrap_or(Value::String(shown))
        }
        Datum::Array(a) => {
            Value::Array(a.items.iter().map(|i| to_json(ctx, i)).collect::<Result<_>>()?)
        }
        other => Value::String(other.to_text(S::Text, &ctx.info.format)),
    })
}

fn json_at(args: &[Datum], i: usize) -> &Value {
    match args.get(i) {
        Some(Datum::Json(v)) => v,
        _ => &Value::Null,
    }
}

fn build_object(ctx: &EvalCtx<'_>, args: &[Datum]) -> Result<Datum> {
    let (pairs, rest) = args.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            "argument list must have even number of elements",
        ));
    }
    let mut map = serde_json::Map::new();
    for [key, value] in pairs {
        if key.is_null() {
            return Err(SqlError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                "argument 1: key must not be null",
            ));
        }
        map.insert(key.to_text(S::Text, &ctx.info.format), to_json(ctx, value)?);
    }
    Ok(Datum::json(Value::Object(map)))
}

pub(super) const TABLE: &[Builtin] = &[
    Builtin::new("jsonb_typeof", &[JSON], S::Text, |_, a| {
        Ok(Datum::text(match json_at(a, 0) {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        }))
    }),
    Builtin::new("jsonb_array_length", &[JSON], S::Int8, |_, a| match json_at(a, 0) {
        Value::Array(items) => Ok(length(items.len())),
        _ => Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            "cannot get array length of a non-array",
        )),
    }),
    Builtin::new("jsonb_pretty", &[JSON], S::Text, |_, a| {
        Ok(Datum::text(serde_json::to_string_pretty(json_at(a, 0)).unwrap_or_default()))
    }),
    Builtin::new("to_jsonb", &[Arg::Any], S::Jsonb, |c, a| {
        Ok(Datum::json(to_json(c, a.first().unwrap_or(&Datum::Null))?))
    }),
    Builtin::new("to_json", &[Arg::Any], S::Jsonb, |c, a| {
        Ok(Datum::json(to_json(c, a.first().unwrap_or(&Datum::Null))?))
    }),
    Builtin::new("jsonb_build_object", &[Arg::Any], S::Jsonb, build_object).variadic().lenient(),
    Builtin::new("json_build_object", &[Arg::Any], S::Jsonb, build_object).variadic().lenient(),
    Builtin::new("jsonb_build_array", &[Arg::Any], S::Jsonb, |c, a| {
        let items = a.iter().map(|v| to_json(c, v)).collect::<Result<_>>()?;
        Ok(Datum::json(Value::Array(items)))
    })
    .variadic()
    .lenient(),
    Builtin::new("jsonb_exists", &[JSON, TEXT], S::Bool, |_, a| {
        Ok(Datum::Bool(match json_at(a, 0) {
            Value::Object(map) => map.contains_key(str_at(a, 1)),
            Value::Array(items) => items.iter().any(|i| i.as_str() == Some(str_at(a, 1))),
            _ => false,
        }))
    }),
];

/// `json -> key` or `json -> index`.
pub(super) fn get(value: &Value, key: &Datum) -> Option<Value> {
    match (value, key) {
        (Value::Object(map), Datum::Text(key)) => map.get(key.as_ref()).cloned(),
        (Value::Array(items), Datum::Int(index)) => {
            let at = if *index < 0 {
                items.len().checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?
            } else {
                usize::try_from(*index).ok()?
            };
            items.get(at).cloned()
        }
        _ => None,
    }
}

/// The text that `->>` yields.
pub(super) fn as_text(value: Value) -> Datum {
    match value {
        Value::Null => Datum::Null,
        Value::String(s) => Datum::text(s),
        other => Datum::text(json::to_text(&other)),
    }
}

/// `a @> b`.
pub(super) fn contains(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            b.iter().all(|(k, v)| a.get(k).is_some_and(|found| contains(found, v)))
        }
        (Value::Array(a), Value::Array(b)) => b.iter().all(|v| a.iter().any(|i| contains(i, v))),
        (Value::Array(a), scalar) => a.contains(scalar),
        (a, b) => a == b,
    }
}
