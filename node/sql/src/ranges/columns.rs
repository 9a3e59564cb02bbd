//! The columns of SHOW RANGES: which there are by its form and options, and what stands in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crdb_keys::{Span, Timestamp, layout};
use crdb_proto::kv::ReplicaType;

use super::RangeInfo;
use super::keys::{self, Bounds, Form};
use crate::catalog::TableDesc;
use crate::datum::{Datum, Decimal};
use crate::func::system_names::PUBLIC;
use crate::types::SqlType as S;

/// A column of SHOW RANGES and its kin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Col {
    StartKey,
    EndKey,
    RawStartKey,
    RawEndKey,
    StartPretty,
    EndPretty,
    RangeId,
    DatabaseName,
    SchemaName,
    TableName,
    TableId,
    TableStartKey,
    TableEndKey,
    RawTableStartKey,
    RawTableEndKey,
    IndexName,
    IndexId,
    IndexStartKey,
    IndexEndKey,
    RawIndexStartKey,
    RawIndexEndKey,
    RangeSizeMb,
    LeaseHolder,
    LeaseHolderLocality,
    Replicas,
    ReplicaLocalities,
    VotingReplicas,
    NonVotingReplicas,
    LearnerReplicas,
    SplitEnforcedUntil,
    RangeSize,
    SpanStats,
}

impl Col {
    /// Its name and type.
    pub(crate) fn header(self) -> (&'static str, S) {
        match self {
            Self::StartKey => ("start_key", S::Text),
            Self::EndKey => ("end_key", S::Text),
            Self::RawStartKey => ("raw_start_key", S::Bytea),
            Self::RawEndKey => ("raw_end_key", S::Bytea),
            Self::StartPretty => ("start_pretty", S::Text),
            Self::EndPretty => ("end_pretty", S::Text),
            Self::RangeId => ("range_id", S::Int8),
            Self::DatabaseName => ("database_name", S::Text),
            Self::SchemaName => ("schema_name", S::Text),
            Self::TableName => ("table_name", S::Text),
            Self::TableId => ("table_id", S::Int8),
            Self::TableStartKey => ("table_start_key", S::Text),
            Self::TableEndKey => ("table_end_key", S::Text),
            Self::RawTableStartKey => ("raw_table_start_key", S::Bytea),
            Self::RawTableEndKey => ("raw_table_end_key", S::Bytea),
            Self::IndexName => ("index_name", S::Text),
            Self::IndexId => ("index_id", S::Int8),
            Self::IndexStartKey => ("index_start_key", S::Text),
            Self::IndexEndKey => ("index_end_key", S::Text),
            Self::RawIndexStartKey => ("raw_index_start_key", S::Bytea),
            Self::RawIndexEndKey => ("raw_index_end_key", S::Bytea),
            Self::RangeSizeMb => ("range_size_mb", S::Numeric),
            Self::LeaseHolder => ("lease_holder", S::Int8),
            Self::LeaseHolderLocality => ("lease_holder_locality", S::Text),
            Self::Replicas => ("replicas", S::Array(&S::Int8)),
            Self::ReplicaLocalities => ("replica_localities", S::Array(&S::Text)),
            Self::VotingReplicas => ("voting_replicas", S::Array(&S::Int8)),
            Self::NonVotingReplicas => ("non_voting_replicas", S::Array(&S::Int8)),
            Self::LearnerReplicas => ("learner_replicas", S::Array(&S::Int8)),
            Self::SplitEnforcedUntil => ("split_enforced_until", S::Timestamp),
            Self::RangeSize => ("range_size", S::Int8),
            Self::SpanStats => ("span_stats", S::Jsonb),
        }
    }
}

/// A table with keys in a range.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) database: String,
    pub(crate) table: Arc<TableDesc>,
    pub(crate) table_span: Span,
    pub(crate) index_span: Span,
}

impl Object {
    pub(crate) fn new(database: &str, table: &Arc<TableDesc>) -> Self {
        Self {
            database: database.to_owned(),
            table: Arc::clone(table),
            table_span: layout::table_span(table.id),
            index_span: layout::index_span(table.id, table.index_id),
        }
    }
}

/// What one row is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub(super) range: &'a RangeInfo,
    pub(super) object: Option<&'a Object>,
    pub(super) form: Form,
    pub(super) localities: &'a BTreeMap<u32, String>,
}

fn text(value: impl Into<Arc<str>>) -> Datum {
    Datum::text(value)
}

fn bytes(value: &[u8]) -> Datum {
    Datum::Bytes(value.into())
}

fn int(value: u64) -> Datum {
    Datum::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

fn ints(values: impl IntoIterator<Item = u32>) -> Datum {
    Datum::array(S::Int8, values.into_iter().map(|value| Datum::Int(value.into())).collect())
}

impl Line<'_> {
    /// The value of a column.
    pub(super) fn cell(&self, column: Col) -> Datum {
        match column {
            Col::StartKey => text(keys::start(self.form, self.range.start(), self.bounds())),
            Col::EndKey => text(keys::end(self.form, self.range.end(), self.bounds())),
            Col::RawStartKey => bytes(self.range.start()),
            Col::RawEndKey => bytes(self.range.end()),
            Col::StartPretty => text(keys::pretty(self.range.start())),
            Col::EndPretty => text(keys::pretty(self.range.end())),
            Col::RangeId => int(self.range.descriptor.range_id),
            Col::RangeSizeMb
            | Col::LeaseHolder
            | Col::LeaseHolderLocality
            | Col::RangeSize
            | Col::SpanStats => self.status_cell(column),
            Col::Replicas
            | Col::ReplicaLocalities
            | Col::VotingReplicas
            | Col::NonVotingReplicas
            | Col::LearnerReplicas
            | Col::SplitEnforcedUntil => self.descriptor_cell(column),
            _ => self.object.map_or(Datum::Null, |object| self.object_cell(object, column)),
        }
    }

    fn bounds(&self) -> Bounds<'_> {
        static NONE: Span = Span { start: bytes::Bytes::new(), end: bytes::Bytes::new() };
        match self.object {
            Some(object) => Bounds { table: &object.table_span, index: &object.index_span },
            None => Bounds { table: &NONE, index: &NONE },
        }
    }

    fn object_cell(&self, object: &Object, column: Col) -> Datum {
        let shown = |key: &[u8]| text(keys::object(self.form, key));
        match column {
            Col::DatabaseName => text(object.database.as_str()),
            Col::SchemaName => text(PUBLIC),
            Col::TableName => text(object.table.name.as_str()),
            Col::TableId => int(object.table.id),
            Col::TableStartKey => shown(&object.table_span.start),
            Col::TableEndKey => shown(&object.table_span.end),
            Col::RawTableStartKey => bytes(&object.table_span.start),
            Col::RawTableEndKey => bytes(&object.table_span.end),
            Col::IndexName => text(object.table.key_name.as_str()),
            Col::IndexId => int(object.table.index_id),
            Col::IndexStartKey => shown(&object.index_span.start),
            Col::IndexEndKey => shown(&object.index_span.end),
            Col::RawIndexStartKey => bytes(&object.index_span.start),
            Col::RawIndexEndKey => bytes(&object.index_span.end),
            _ => Datum::Null,
        }
    }

    /// The nodes of the replicas of some types, in order.
    fn nodes(&self, of: impl Fn(ReplicaType) -> bool) -> Vec<u32> {
        let replicas = self.range.descriptor.replicas.iter();
        let mut nodes: Vec<u32> = replicas
            .filter(|replica| of(replica.r#type()))
            .map(|replica| replica.node_id)
            .collect();
        nodes.sort_unstable();
        nodes
    }

    fn locality(&self, node: u32) -> Datum {
        text(self.localities.get(&node).map_or("", String::as_str))
    }

    fn descriptor_cell(&self, column: Col) -> Datum {
        match column {
            Col::Replicas => ints(self.nodes(|_| true)),
            Col::ReplicaLocalities => {
                let nodes = self.nodes(|_| true);
                Datum::array(S::Text, nodes.into_iter().map(|n| self.locality(n)).collect())
            }
            Col::VotingReplicas => ints(self.nodes(|ty| ty != ReplicaType::Learner)),
            Col::NonVotingReplicas => ints([]),
            Col::LearnerReplicas => ints(self.nodes(|ty| ty == ReplicaType::Learner)),
            _ => enforced_until(self.range),
        }
    }

    fn status_cell(&self, column: Col) -> Datum {
        let Some(status) = &self.range.status else { return Datum::Null };
        let size = status.stats.as_ref().map_or(status.approximate_bytes, |stats| {
            stats.key_bytes.saturating_add(stats.val_bytes)
        });
        match column {
            Col::RangeSizeMb => megabytes(size),
            Col::RangeSize => int(size),
            Col::LeaseHolder => {
                self.range.leaseholder().map_or(Datum::Null, |node| Datum::Int(node.into()))
            }
            Col::LeaseHolderLocality => {
                self.range.leaseholder().map_or(Datum::Null, |node| self.locality(node))
            }
            _ => {
                let stats = status.stats.unwrap_or_default();
                Datum::json(serde_json::json!({
                    "approximate_disk_bytes": status.approximate_bytes,
                    "key_count": stats.key_count,
                    "key_bytes": stats.key_bytes,
                    "val_count": stats.val_count,
                    "val_bytes": stats.val_bytes,
                    "sys_count": 0,
                    "sys_bytes": 0,
                    "live_count": stats.live_count,
                    "live_bytes": stats.live_bytes,
                    "intent_count": stats.intent_count,
                    "intent_bytes": stats.intent_bytes,
                }))
            }
        }
    }
}

/// Until when the split at a range's start holds; NULL when it may be merged.
pub(crate) fn enforced_until(range: &RangeInfo) -> Datum {
    let until = range.descriptor.sticky_until.map(Timestamp::from);
    until.filter(|until| !until.is_zero()).map_or(Datum::Null, micros)
}

/// A timestamp as a value, rounded to microseconds.
pub(crate) fn micros(at: Timestamp) -> Datum {
    let nanos = at.wall_nanos.saturating_add(500);
    Datum::Timestamp(i64::try_from(nanos / 1000).unwrap_or(i64::MAX))
}

fn megabytes(size: u64) -> Datum {
    let text = format!("{}.{:06}", size / 1_000_000, size % 1_000_000);
    Decimal::parse(&text).map_or(Datum::Null, Datum::decimal)
}
