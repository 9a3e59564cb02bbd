//! Where ranges are believed to be.
//!
//! Every entry is a hint: a range's own replicated state is the truth, and a wrong entry costs one
//! round trip. Invariants: entries never overlap; a descriptor never replaces a newer generation
//! of the same range.

use std::collections::BTreeMap;

use bytes::Bytes;
use crdb_keys::NodeId;
use crdb_proto::kv::RangeDescriptor;
use parking_lot::RwLock;

/// What is believed about one range.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedRange {
    /// Span and replicas.
    pub descriptor: RangeDescriptor,
    /// Node that answered for the range last, if any.
    pub leaseholder: Option<NodeId>,
}

/// Descriptors and leaseholders by start key.
#[derive(Debug, Default)]
pub struct RangeCache {
    ranges: RwLock<BTreeMap<Bytes, CachedRange>>,
}

impl RangeCache {
    /// The range believed to hold `key`.
    pub fn lookup(&self, key: &[u8]) -> Option<CachedRange> {
        let ranges = self.ranges.read();
        let (_, range) = ranges
            .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)))
            .next_back()?;
        (*key < *range.descriptor.end_key).then(|| range.clone())
    }

    /// The range believed to hold the keys right before `end`.
    pub fn lookup_before(&self, end: &[u8]) -> Option<CachedRange> {
        let ranges = self.ranges.read();
        let (_, range) = ranges
            .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Excluded(end)))
            .next_back()?;
        (*end <= *range.descriptor.end_key).then(|| range.clone())
    }

    /// Learns a descriptor; returns whether the cache changed.
    pub fn insert(&self, descriptor: RangeDescriptor) -> bool {
        if descriptor.range_id == 0 || descriptor.start_key >= descriptor.end_key {
            return false;
        }
        let mut ranges = self.ranges.write();
        let overlapping: Vec<Bytes> = ranges
            .iter()
            .filter(|(_, r)| {
                r.descriptor.start_key < descriptor.end_key
                    && descriptor.start_key < r.descriptor.end_key
            })
            .map(|(start, _)| start.clone())
            .collect();
        let mut leaseholder = None;
        for start in &overlapping {
            let Some(old) = ranges.get(start) else { continue };
            if old.descriptor.range_id == descriptor.range_id {
                if old.descriptor.generation >= descriptor.generation {
                    return false;
                }
                leaseholder = old.leaseholder.filter(|node| holds_replica(&descriptor, *node));
            } else if old.descriptor.generation > descriptor.generation {
                return false;
            }
        }
        for start in overlapping {
            ranges.remove(&start);
        }
        ranges.insert(descriptor.start_key.clone(), CachedRange { descriptor, leaseholder });
        true
    }

    /// Remembers who serves a range, or that this is unknown.
    pub fn set_leaseholder(&self, range_id: u64, start_key: &[u8], leaseholder: Option<NodeId>) {
        // Most calls confirm what is known: look before taking the lock that excludes readers.
        let known = self.ranges.read().get(start_key).map(|r| r.leaseholder);
        if known.is_none_or(|known| known == leaseholder) {
            return;
        }
        if let Some(range) = self.ranges.write().get_mut(start_key)
            && range.descriptor.range_id == range_id
        {
            range.leaseholder = leaseholder;
        }
    }

    /// Forgets the range that holds `key`.
    pub fn evict(&self, key: &[u8]) {
        if let Some(range) = self.lookup(key) {
            self.ranges.write().remove(&range.descriptor.start_key);
        }
    }

    /// Every descriptor known, ordered by start key.
    pub fn descriptors(&self) -> Vec<RangeDescriptor> {
        self.ranges.read().values().map(|r| r.descriptor.clone()).collect()
    }
}

/// Whether `node` has a replica of the range.
pub(crate) fn holds_replica(descriptor: &RangeDescriptor, node: NodeId) -> bool {
    descriptor.replicas.iter().any(|r| r.node_id == node.get())
}
