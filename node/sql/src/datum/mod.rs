//! SQL values: how they compare, and their text and binary forms.
//!
//! A [`Datum`] does not carry its exact type: an `int2` and an `int8` are both [`Datum::Int`]. The
//! type travels beside it, in column lists and typed expressions.

mod array;
mod binary;
pub(crate) mod civil;
pub(crate) mod datetime;
mod decimal;
mod interval;
pub(crate) mod json;
mod text;

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use jiff::tz::TimeZone;

pub use decimal::Decimal;
pub(crate) use decimal::pow10;
pub use interval::Interval;
pub(crate) use text::{format_float, parse_bool, push_hex};

use crate::catalog::CatalogData;
use crate::types::SqlType;

/// A row of values.
pub type Row = Vec<Datum>;

/// A one-dimensional array; its lower bound is 1.
#[derive(Clone, Debug)]
pub struct ArrayValue {
    /// Type of the elements.
    pub elem: SqlType,
    /// The elements.
    pub items: Vec<Datum>,
}

/// One SQL value.
#[derive(Clone, Debug, Default)]
pub enum Datum {
    /// NULL of any type.
    #[default]
    Null,
    /// `bool`.
    Bool(bool),
    /// `int2`, `int4` and `int8`.
    Int(i64),
    /// `float4` and `float8`.
    Float(f64),
    /// `numeric`.
    Decimal(Arc<Decimal>),
    /// Every character string, and literals of unknown type.
    Text(Arc<str>),
    /// `bytea`.
    Bytes(Arc<[u8]>),
    /// `date`: days since 1970-01-01.
    Date(i32),
    /// `time`: microseconds since midnight.
    Time(i64),
    /// `timestamp`: microseconds since 1970-01-01 of a local time.
    Timestamp(i64),
    /// `timestamptz`: microseconds since 1970-01-01 UTC.
    TimestampTz(i64),
    /// `interval`.
    Interval(Interval),
    /// `uuid`.
    Uuid([u8; 16]),
    /// `jsonb`.
    Json(Arc<serde_json::Value>),
    /// `oid`, `regclass` and `regtype`.
    Oid(u32),
    /// An array.
    Array(Arc<ArrayValue>),
}

/// What the text form of a value depends on besides the value.
#[derive(Clone, Debug)]
pub struct FormatSettings {
    /// Zone in which `timestamptz` is shown and read.
    pub zone: TimeZone,
    /// `extra_float_digits`: below 1 floats are cut to 15 (6) digits plus this.
    pub extra_float_digits: i32,
    /// Microseconds since 1970-01-01 UTC that `'now'` means.
    pub now_micros: i64,
    /// Names of relations, for `regclass`.
    pub(crate) catalog: Option<Arc<CatalogData>>,
}

impl Default for FormatSettings {
    fn default() -> Self {
        Self { zone: TimeZone::UTC, extra_float_digits: 1, now_micros: 0, catalog: None }
    }
}

impl FormatSettings {
    /// The local time of `now_micros`, as microseconds since 1970-01-01.
    pub(crate) fn local_now(&self) -> i64 {
        self.now_micros
            + i64::from(datetime::offset_seconds(&self.zone, self.now_micros)) * civil::SECOND
    }
}

impl Datum {
    /// A text value.
    pub fn text(value: impl Into<Arc<str>>) -> Self {
        Self::Text(value.into())
    }

    /// A numeric value.
    #[must_use]
    pub fn decimal(value: Decimal) -> Self {
        Self::Decimal(Arc::new(value))
    }

    /// A JSON value.
    #[must_use]
    pub fn json(value: serde_json::Value) -> Self {
        Self::Json(Arc::new(value))
    }

    /// An array.
    #[must_use]
    pub fn array(elem: SqlType, items: Vec<Self>) -> Self {
        Self::Array(Arc::new(ArrayValue { elem, items }))
    }

    /// Whether this is NULL.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The boolean; none for NULL.
    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The string; none for anything else.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(s) => Some(s),
            _ => None,
        }
    }

    /// Bytes this value occupies, for the memory account.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Text(s) => s.len() + 16,
                Self::Bytes(b) => b.len() + 16,
                Self::Decimal(_) => 80,
                Self::Json(v) => json::memory(v),
                Self::Array(a) => 40 + a.items.iter().map(Self::memory).sum::<usize>(),
                _ => 0,
            }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Int(_) | Self::Oid(_) => 2,
            Self::Float(_) => 3,
            Self::Decimal(_) => 4,
            Self::Text(_) => 5,
            Self::Bytes(_) => 6,
            Self::Date(_) => 7,
            Self::Time(_) => 8,
            Self::Timestamp(_) => 9,
            Self::TimestampTz(_) => 10,
            Self::Interval(_) => 11,
            Self::Uuid(_) => 12,
            Self::Json(_) => 13,
            Self::Array(_) => 14,
        }
    }
}

/// Order of floats with NaN first and both zeros equal.
pub(crate) fn compare_floats(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        _ => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
    }
}

impl PartialEq for Datum {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Datum {}

impl PartialOrd for Datum {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Datum {
    /// The order of ORDER BY: NULL first, NaN before numbers, text by bytes.
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Oid(a), Self::Oid(b)) => a.cmp(b),
            (Self::Oid(a), Self::Int(b)) => i64::from(*a).cmp(b),
            (Self::Int(a), Self::Oid(b)) => a.cmp(&i64::from(*b)),
            (Self::Float(a), Self::Float(b)) => compare_floats(*a, *b),
            (Self::Decimal(a), Self::Decimal(b)) => a.cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Bytes(a), Self::Bytes(b)) => a.cmp(b),
            (Self::Date(a), Self::Date(b)) => a.cmp(b),
            (Self::Time(a), Self::Time(b))
            | (Self::Timestamp(a), Self::Timestamp(b))
            | (Self::TimestampTz(a), Self::TimestampTz(b)) => a.cmp(b),
            (Self::Interval(a), Self::Interval(b)) => a.cmp(b),
            (Self::Uuid(a), Self::Uuid(b)) => a.cmp(b),
            (Self::Json(a), Self::Json(b)) => json::compare(a, b),
            (Self::Array(a), Self::Array(b)) => a.items.cmp(&b.items),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}

impl Hash for Datum {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rank().hash(state);
        match self {
            Self::Null => {}
            Self::Bool(v) => v.hash(state),
            Self::Int(v) => v.hash(state),
            Self::Oid(v) => i64::from(*v).hash(state),
            Self::Float(v) if v.is_nan() => 0u8.hash(state),
            Self::Float(v) => (v + 0.0).to_bits().hash(state),
            Self::Decimal(d) => match d.as_ref() {
                Decimal::Finite(d) => d.normalized().hash(state),
                other => other.to_string().hash(state),
            },
            Self::Text(v) => v.hash(state),
            Self::Bytes(v) => v.hash(state),
            Self::Date(v) => v.hash(state),
            Self::Time(v) | Self::Timestamp(v) | Self::TimestampTz(v) => v.hash(state),
            Self::Interval(v) => v.comparable().hash(state),
            Self::Uuid(v) => v.hash(state),
            Self::Json(v) => json::to_text(v).hash(state),
            Self::Array(v) => v.items.hash(state),
        }
    }
}
