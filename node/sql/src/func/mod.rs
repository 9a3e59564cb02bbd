//! The function library: what functions exist, for which types, and what they compute.

pub(crate) mod agg;
mod json;
mod math;
pub(crate) mod op;
mod resolve;
mod string;
mod system;
pub(crate) mod system_names;
#[cfg(test)]
mod tests;
mod time;
mod to_char;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

pub(crate) use resolve::resolve;
pub(crate) use system::relation_name;

use crate::cast;
use crate::datum::{ArrayValue, Datum, Decimal};
use crate::error::{Result, SqlError, SqlState};
use crate::expr::EvalCtx;
use crate::types::SqlType;

/// What an argument accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    /// One type.
    T(SqlType),
    /// Anything, as it is.
    Any,
    /// One type for all arguments marked so.
    Elem,
    /// An array over that type.
    Arr,
}

/// What a function yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ret {
    T(SqlType),
    /// The type of the arguments marked `Elem`.
    Elem,
    /// An array over it.
    Arr,
}

/// One entry of the library.
pub(crate) struct Builtin {
    pub(crate) name: &'static str,
    pub(crate) args: &'static [Arg],
    /// Whether the last argument may be repeated or left out.
    pub(crate) variadic: bool,
    pub(crate) ret: Ret,
    /// NULL in, NULL out.
    pub(crate) strict: bool,
    /// May differ from row to row.
    pub(crate) volatile: bool,
    /// May differ from statement to statement.
    pub(crate) stable: bool,
    pub(crate) f: fn(&EvalCtx<'_>, &[Datum]) -> Result<Datum>,
}

impl Builtin {
    pub(crate) const fn new(
        name: &'static str,
        args: &'static [Arg],
        ret: SqlType,
        f: fn(&EvalCtx<'_>, &[Datum]) -> Result<Datum>,
    ) -> Self {
        Self {
            name,
            args,
            variadic: false,
            ret: Ret::T(ret),
            strict: true,
            volatile: false,
            stable: false,
            f,
        }
    }

    pub(crate) const fn lenient(mut self) -> Self {
        self.strict = false;
        self
    }

    pub(crate) const fn variadic(mut self) -> Self {
        self.variadic = true;
        self
    }

    pub(crate) const fn volatile(mut self) -> Self {
        self.volatile = true;
        self
    }

    pub(crate) const fn stable(mut self) -> Self {
        self.stable = true;
        self
    }

    pub(crate) const fn returns(mut self, ret: Ret) -> Self {
        self.ret = ret;
        self
    }
}

/// Short names of argument types, for the tables.
pub(crate) mod t {
    use super::Arg;
    use crate::types::SqlType as S;

    pub(crate) const TEXT: Arg = Arg::T(S::Text);
    pub(crate) const INT: Arg = Arg::T(S::Int8);
    pub(crate) const FLOAT: Arg = Arg::T(S::Float8);
    pub(crate) const NUM: Arg = Arg::T(S::Numeric);
    pub(crate) const BOOL: Arg = Arg::T(S::Bool);
    pub(crate) const BYTES: Arg = Arg::T(S::Bytea);
    pub(crate) const TS: Arg = Arg::T(S::Timestamp);
    pub(crate) const TSTZ: Arg = Arg::T(S::TimestampTz);
    pub(crate) const DATE: Arg = Arg::T(S::Date);
    pub(crate) const TIME: Arg = Arg::T(S::Time);
    pub(crate) const INTERVAL: Arg = Arg::T(S::Interval);
    pub(crate) const JSON: Arg = Arg::T(S::Jsonb);
    pub(crate) const OID: Arg = Arg::T(S::Oid);
}

static BY_NAME: LazyLock<HashMap<&'static str, Vec<&'static Builtin>>> = LazyLock::new(|| {
    let mut map: HashMap<&'static str, Vec<&'static Builtin>> = HashMap::new();
    for table in [string::TABLE, math::TABLE, time::TABLE, system::TABLE, json::TABLE] {
        for entry in table {
            map.entry(entry.name).or_default().push(entry);
        }
    }
    map
});

/// The entries of a name.
pub(crate) fn candidates(name: &str) -> &'static [&'static Builtin] {
    BY_NAME.get(name).map_or(&[], Vec::as_slice)
}

/// The string at a position; the resolver saw to the type, strictness to NULL.
pub(crate) fn str_at(args: &[Datum], i: usize) -> &str {
    args.get(i).and_then(Datum::as_str).unwrap_or_default()
}

pub(crate) fn int_at(args: &[Datum], i: usize) -> i64 {
    match args.get(i) {
        Some(Datum::Int(v)) => *v,
        Some(Datum::Oid(v)) => i64::from(*v),
        _ => 0,
    }
}

pub(crate) fn float_at(args: &[Datum], i: usize) -> f64 {
    match args.get(i) {
        Some(Datum::Float(v)) => *v,
        _ => 0.0,
    }
}

pub(crate) fn decimal_at(args: &[Datum], i: usize) -> Arc<Decimal> {
    match args.get(i) {
        Some(Datum::Decimal(v)) => Arc::clone(v),
        _ => Arc::new(Decimal::zero()),
    }
}

pub(crate) fn bytes_at(args: &[Datum], i: usize) -> &[u8] {
    match args.get(i) {
        Some(Datum::Bytes(v)) => v,
        _ => &[],
    }
}

pub(crate) fn bool_at(args: &[Datum], i: usize) -> bool {
    args.get(i).and_then(Datum::as_bool).unwrap_or(false)
}

pub(crate) fn array_at(args: &[Datum], i: usize) -> Option<&Arc<ArrayValue>> {
    match args.get(i) {
        Some(Datum::Array(v)) => Some(v),
        _ => None,
    }
}

/// The length of something in memory as an SQL integer.
pub(crate) fn length(n: usize) -> Datum {
    Datum::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Converts a value, with the catalog's names for `regclass`.
pub(crate) fn cast_datum(
    ctx: &EvalCtx<'_>,
    value: &Datum,
    from: SqlType,
    to: SqlType,
) -> Result<Datum> {
    match (value, to) {
        (Datum::Text(name), SqlType::Regclass) if name.trim().parse::<u32>().is_err() => {
            let oid = system::relation_oid(ctx, name).ok_or_else(|| {
                SqlError::new(
                    SqlState::UNDEFINED_TABLE,
                    format!("relation \"{name}\" does not exist"),
                )
            })?;
            Ok(Datum::Oid(oid))
        }
        _ => cast::cast(value, from, to, &ctx.info.format),
    }
}
