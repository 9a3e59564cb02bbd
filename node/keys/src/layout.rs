//! Where things live in the key space.
//!
//! What it is: the prefixes and the builders of every key that more than one crate must agree on.
//! What it is not: it does not know which column family a store keeps a key in.
//!
//! Replicated keys, ordered:
//!
//! | prefix | first range | holds |
//! |---|---|---|
//! | `01` | none | keys of one store, never replicated |
//! | `02` | r1 | meta: end key of a range → its descriptor (a hint) |
//! | `03` | r2 | liveness: node id → liveness record |
//! | `04` | r3 | system: counters, node descriptors, settings, catalog |
//! | `05` | r4 | tables: table id, index id, columns |
//!
//! Invariants:
//! 1. The bootstrap ranges partition `02`..`ff` without gap or overlap.
//! 2. The meta entry that covers `key` is the first one behind [`meta_key`] of `key`: a range
//!    holds the keys below its end key, so its own end key already belongs to the next.

use bytes::Bytes;

use crate::{Key, NodeId, RangeId, Span, encoding};

/// First byte of the keys of one store.
pub const LOCAL_PREFIX: u8 = 0x01;
/// First byte of the meta entries.
pub const META_PREFIX: u8 = 0x02;
/// First byte of the liveness records.
pub const LIVENESS_PREFIX: u8 = 0x03;
/// First byte of the system keys.
pub const SYSTEM_PREFIX: u8 = 0x04;
/// First byte of the rows of tables.
pub const TABLE_PREFIX: u8 = 0x05;

/// The first replicated key.
pub const KEY_MIN: Key = Bytes::from_static(&[META_PREFIX]);
/// The key after every replicated key.
pub const KEY_MAX: Key = Bytes::from_static(&[0xff]);

/// The ranges a cluster starts with: number, first key, end key.
#[must_use]
pub fn bootstrap_ranges() -> [(RangeId, Span); 4] {
    [
        (RangeId(1), Span::new(KEY_MIN, Bytes::from_static(&[LIVENESS_PREFIX]))),
        (RangeId(2), liveness_span()),
        (RangeId(3), system_span()),
        (RangeId(4), tables_span()),
    ]
}

// Meta.

/// The key of the meta entry of the range that ends at `end_key`. The value is an encoded
/// `RangeDescriptor`.
#[must_use]
pub fn meta_key(end_key: &[u8]) -> Key {
    join(&[&[META_PREFIX], end_key])
}

/// The span whose first entry describes the range that holds `key`.
#[must_use]
pub fn meta_lookup_span(key: &[u8]) -> Span {
    Span::new(encoding::next_key(&meta_key(key)), Bytes::from_static(&[LIVENESS_PREFIX]))
}

/// All meta entries.
#[must_use]
pub fn meta_span() -> Span {
    Span::new(KEY_MIN, Bytes::from_static(&[LIVENESS_PREFIX]))
}

// Liveness.

/// The liveness record of `node`.
#[must_use]
pub fn liveness_key(node: NodeId) -> Key {
    join(&[&[LIVENESS_PREFIX], &node.get().to_be_bytes()])
}

/// All liveness records.
#[must_use]
pub fn liveness_span() -> Span {
    Span::new(Bytes::from_static(&[LIVENESS_PREFIX]), Bytes::from_static(&[SYSTEM_PREFIX]))
}

/// The node whose liveness record is at `key`.
#[must_use]
pub fn parse_liveness_key(key: &[u8]) -> Option<NodeId> {
    let id = key.strip_prefix(&[LIVENESS_PREFIX])?;
    Some(NodeId(u32::from_be_bytes(id.try_into().ok()?)))
}

// System.

const NODE_ID_COUNTER: &[u8] = b"id/node";
const RANGE_ID_COUNTER: &[u8] = b"id/range";
const DESCRIPTOR_ID_COUNTER: &[u8] = b"id/descriptor";
const NODES: &[u8] = b"node/";
const SETTINGS: &[u8] = b"setting/";
const CATALOG_VERSION: &[u8] = b"catalog/version";
const NAMESPACE: &[u8] = b"catalog/name/";
const DESCRIPTORS: &[u8] = b"catalog/descriptor/";
const DROPPED_SPANS: &[u8] = b"catalog/dropped/";
const CLUSTER: &[u8] = b"cluster/";

/// All system keys.
#[must_use]
pub fn system_span() -> Span {
    Span::new(Bytes::from_static(&[SYSTEM_PREFIX]), Bytes::from_static(&[TABLE_PREFIX]))
}

/// Counter of the node ids given out.
#[must_use]
pub fn node_id_counter() -> Key {
    system(&[NODE_ID_COUNTER])
}

/// Counter of the range ids given out.
#[must_use]
pub fn range_id_counter() -> Key {
    system(&[RANGE_ID_COUNTER])
}

/// Counter of the ids of databases, schemas and tables given out.
#[must_use]
pub fn descriptor_id_counter() -> Key {
    system(&[DESCRIPTOR_ID_COUNTER])
}

/// The descriptor of `node`: addresses, locality, store.
#[must_use]
pub fn node_descriptor_key(node: NodeId) -> Key {
    system(&[NODES, &node.get().to_be_bytes()])
}

/// All node descriptors.
#[must_use]
pub fn node_descriptor_span() -> Span {
    system_prefix_span(NODES)
}

/// The cluster setting `name`.
#[must_use]
pub fn setting_key(name: &str) -> Key {
    system(&[SETTINGS, name.as_bytes()])
}

/// All cluster settings.
#[must_use]
pub fn setting_span() -> Span {
    system_prefix_span(SETTINGS)
}

/// A single cluster-wide value, such as the membership generation.
#[must_use]
pub fn cluster_key(name: &str) -> Key {
    system(&[CLUSTER, name.as_bytes()])
}

/// The version of the whole catalog, raised by each DDL.
#[must_use]
pub fn catalog_version_key() -> Key {
    system(&[CATALOG_VERSION])
}

/// The id of what is called `name` within the descriptor `parent` (0: the cluster itself).
#[must_use]
pub fn namespace_key(parent: u64, name: &str) -> Key {
    let mut key = namespace_prefix(parent);
    key.extend_from_slice(name.as_bytes());
    key.into()
}

/// The names within the descriptor `parent`.
#[must_use]
pub fn namespace_children_span(parent: u64) -> Span {
    prefix_span(&namespace_prefix(parent))
}

/// All names.
#[must_use]
pub fn namespace_span() -> Span {
    system_prefix_span(NAMESPACE)
}

/// Parent and name of a namespace key.
#[must_use]
pub fn parse_namespace_key(key: &[u8]) -> Option<(u64, &str)> {
    let mut rest = key.strip_prefix(&[SYSTEM_PREFIX])?.strip_prefix(NAMESPACE)?;
    let parent = encoding::decode_uvarint(&mut rest).ok()?;
    Some((parent, std::str::from_utf8(rest).ok()?))
}

/// The descriptor `id` of the catalog.
#[must_use]
pub fn descriptor_key(id: u64) -> Key {
    system(&[DESCRIPTORS, &id.to_be_bytes()])
}

/// All descriptors of the catalog.
#[must_use]
pub fn descriptor_span() -> Span {
    system_prefix_span(DESCRIPTORS)
}

/// An entry of the list of dropped spans that wait for deletion; `id` is the dropped table's.
#[must_use]
pub fn dropped_span_key(id: u64) -> Key {
    system(&[DROPPED_SPANS, &id.to_be_bytes()])
}

/// All dropped spans that wait for deletion.
#[must_use]
pub fn dropped_span_span() -> Span {
    system_prefix_span(DROPPED_SPANS)
}

// Tables.

/// All rows of all tables.
#[must_use]
pub fn tables_span() -> Span {
    Span::new(Bytes::from_static(&[TABLE_PREFIX]), KEY_MAX)
}

/// The prefix of all indexes of a table.
#[must_use]
pub fn table_prefix(table: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(16);
    key.push(TABLE_PREFIX);
    encoding::encode_uvarint(&mut key, table);
    key
}

/// The prefix of the rows of one index of a table; columns follow.
#[must_use]
pub fn index_prefix(table: u64, index: u64) -> Vec<u8> {
    let mut key = table_prefix(table);
    encoding::encode_uvarint(&mut key, index);
    key
}

/// All rows of a table.
#[must_use]
pub fn table_span(table: u64) -> Span {
    prefix_span(&table_prefix(table))
}

/// All rows of one index of a table.
#[must_use]
pub fn index_span(table: u64, index: u64) -> Span {
    prefix_span(&index_prefix(table, index))
}

/// Table, index and the bytes of the columns of a row's key.
#[must_use]
pub fn parse_table_key(key: &[u8]) -> Option<(u64, u64, &[u8])> {
    let mut rest = key.strip_prefix(&[TABLE_PREFIX])?;
    let table = encoding::decode_uvarint(&mut rest).ok()?;
    let index = encoding::decode_uvarint(&mut rest).ok()?;
    Some((table, index, rest))
}

/// The keys that start with `prefix`, at most up to [`KEY_MAX`].
#[must_use]
pub fn prefix_span(prefix: &[u8]) -> Span {
    let end = encoding::prefix_end(prefix).map_or(KEY_MAX, Key::from);
    Span::new(Bytes::copy_from_slice(prefix), end)
}

// Keys of one store.

const STORE_LOCAL: u8 = 0x01;
const RANGE_ID_LOCAL: u8 = 0x02;

/// Something one store keeps about its copy of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RangeLocal {
    /// The raft log entry at an index.
    RaftLog(u64),
    /// Term, vote and commit index.
    HardState,
    /// Index and term up to which the log was truncated.
    TruncatedState,
    /// Applied index, lease, last applied lease index, configuration.
    AppliedState,
    /// The range's descriptor.
    Descriptor,
    /// Which replica of this range is here.
    Replica,
    /// Left behind by a removed replica: the smallest replica id that may come back.
    Tombstone,
    /// A snapshot is being written over the replica's state.
    Applying,
}

impl RangeLocal {
    const RAFT_LOG: u8 = 0x01;

    fn tag(self) -> u8 {
        match self {
            Self::RaftLog(_) => Self::RAFT_LOG,
            Self::HardState => 0x02,
            Self::TruncatedState => 0x03,
            Self::AppliedState => 0x04,
            Self::Descriptor => 0x05,
            Self::Replica => 0x06,
            Self::Tombstone => 0x07,
            Self::Applying => 0x08,
        }
    }

    fn from_parts(tag: u8, suffix: &[u8]) -> Option<Self> {
        if tag == Self::RAFT_LOG {
            return Some(Self::RaftLog(u64::from_be_bytes(suffix.try_into().ok()?)));
        }
        let all = [
            Self::HardState,
            Self::TruncatedState,
            Self::AppliedState,
            Self::Descriptor,
            Self::Replica,
            Self::Tombstone,
            Self::Applying,
        ];
        all.into_iter().find(|kind| kind.tag() == tag && suffix.is_empty())
    }
}

/// The key under which a store keeps `what` of `range`.
#[must_use]
pub fn range_local_key(range: RangeId, what: RangeLocal) -> Key {
    let mut key = Vec::with_capacity(19);
    key.extend_from_slice(&[LOCAL_PREFIX, RANGE_ID_LOCAL]);
    key.extend_from_slice(&range.get().to_be_bytes());
    key.push(what.tag());
    if let RangeLocal::RaftLog(index) = what {
        key.extend_from_slice(&index.to_be_bytes());
    }
    key.into()
}

/// The raft log of `range` from index `from` up to, not including, `to`.
#[must_use]
pub fn raft_log_span(range: RangeId, from: u64, to: u64) -> Span {
    Span::new(
        range_local_key(range, RangeLocal::RaftLog(from)),
        range_local_key(range, RangeLocal::RaftLog(to)),
    )
}

/// Everything a store keeps by the number of `range`.
#[must_use]
pub fn range_local_span(range: RangeId) -> Span {
    prefix_span(&join(&[&[LOCAL_PREFIX, RANGE_ID_LOCAL], &range.get().to_be_bytes()]))
}

/// Everything a store keeps by range number.
#[must_use]
pub fn all_range_local_span() -> Span {
    prefix_span(&[LOCAL_PREFIX, RANGE_ID_LOCAL])
}

/// Range and kind of a key built by [`range_local_key`].
#[must_use]
pub fn parse_range_local_key(key: &[u8]) -> Option<(RangeId, RangeLocal)> {
    let rest = key.strip_prefix(&[LOCAL_PREFIX, RANGE_ID_LOCAL])?;
    let (range, rest) = rest.split_first_chunk::<8>()?;
    let (&tag, suffix) = rest.split_first()?;
    Some((RangeId(u64::from_be_bytes(*range)), RangeLocal::from_parts(tag, suffix)?))
}

/// Cluster id, node id and uuid of the store.
#[must_use]
pub fn store_ident_key() -> Key {
    join(&[&[LOCAL_PREFIX, STORE_LOCAL], b"ident"])
}

/// The wall stamp by which a restarted store bounds the promises it gave.
#[must_use]
pub fn store_wall_stamp_key() -> Key {
    join(&[&[LOCAL_PREFIX, STORE_LOCAL], b"wall"])
}

/// Any other value a store keeps about itself.
#[must_use]
pub fn store_local_key(name: &str) -> Key {
    join(&[&[LOCAL_PREFIX, STORE_LOCAL], name.as_bytes()])
}

fn namespace_prefix(parent: u64) -> Vec<u8> {
    let mut key = system(&[NAMESPACE]).to_vec();
    encoding::encode_uvarint(&mut key, parent);
    key
}

fn system(parts: &[&[u8]]) -> Key {
    let mut key = vec![SYSTEM_PREFIX];
    key.extend(parts.iter().copied().flatten());
    key.into()
}

fn system_prefix_span(prefix: &[u8]) -> Span {
    prefix_span(&system(&[prefix]))
}

fn join(parts: &[&[u8]]) -> Key {
    parts.concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootstrap_ranges_partition_the_key_space() {
        let mut at = KEY_MIN;
        for (_, span) in bootstrap_ranges() {
            assert_eq!(span.start, at);
            assert!(span.start < span.end);
            at = span.end;
        }
        assert_eq!(at, KEY_MAX);
    }

    #[test]
    fn the_first_meta_entry_behind_a_key_covers_it() {
        let entries = bootstrap_ranges().map(|(_, span)| meta_key(&span.end));
        for key in [&[0x02][..], &[0x02, 0xff, 0x01], &[0x03], &[0x04, 0x10], &[0x05, 0xfe]] {
            let lookup = meta_lookup_span(key);
            let found = entries.iter().position(|entry| lookup.contains_key(entry)).unwrap();
            let (_, span) = &bootstrap_ranges()[found];
            assert!(span.contains_key(key), "{key:02x?} is not in {span:?}");
        }
        assert!(meta_span().contains_key(&meta_key(&KEY_MAX)));
    }

    #[test]
    fn range_local_keys_parse_back() {
        let range = RangeId(0x1_0203);
        for what in [
            RangeLocal::RaftLog(7),
            RangeLocal::HardState,
            RangeLocal::TruncatedState,
            RangeLocal::AppliedState,
            RangeLocal::Descriptor,
            RangeLocal::Replica,
            RangeLocal::Tombstone,
            RangeLocal::Applying,
        ] {
            let key = range_local_key(range, what);
            assert_eq!(parse_range_local_key(&key), Some((range, what)));
            assert!(range_local_span(range).contains_key(&key));
            assert!(!range_local_span(RangeId(0x1_0202)).contains_key(&key));
            assert_eq!(parse_range_local_key(&key[..key.len() - 1]), None);
        }
        assert_eq!(parse_range_local_key(&store_ident_key()), None);
        let log = raft_log_span(range, 5, u64::MAX);
        assert!(!log.contains_key(&range_local_key(range, RangeLocal::HardState)));
    }

    #[test]
    fn namespace_keys_parse_back() {
        let key = namespace_key(1000, "naïve");
        assert_eq!(parse_namespace_key(&key), Some((1000, "naïve")));
        assert!(namespace_children_span(1000).contains_key(&key));
        assert!(!namespace_children_span(1001).contains_key(&key));
        assert!(system_span().contains_key(&key));
    }

    #[test]
    fn table_keys_parse_back() {
        let mut key = index_prefix(104, 1);
        key.push(0x28);
        assert_eq!(parse_table_key(&key), Some((104, 1, &[0x28][..])));
        assert!(table_span(104).contains_key(&key) && index_span(104, 1).contains_key(&key));
        assert!(!table_span(105).contains_key(&key) && !index_span(104, 2).contains_key(&key));
        assert!(tables_span().contains_key(&table_prefix(u64::MAX)));
    }
}
