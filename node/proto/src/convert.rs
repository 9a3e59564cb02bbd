//! Conversions between wire messages and the types of `crdb-keys`.

use crate::kv;

impl From<crdb_keys::Timestamp> for kv::Timestamp {
    fn from(ts: crdb_keys::Timestamp) -> Self {
        Self { wall_nanos: ts.wall_nanos, logical: ts.logical }
    }
}

impl From<kv::Timestamp> for crdb_keys::Timestamp {
    fn from(ts: kv::Timestamp) -> Self {
        Self { wall_nanos: ts.wall_nanos, logical: ts.logical }
    }
}

impl From<crdb_keys::Span> for kv::Span {
    fn from(span: crdb_keys::Span) -> Self {
        Self { start: span.start, end: span.end }
    }
}

impl From<kv::Span> for crdb_keys::Span {
    fn from(span: kv::Span) -> Self {
        Self { start: span.start, end: span.end }
    }
}
