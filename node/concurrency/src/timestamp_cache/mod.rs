//! Up to which timestamp each key of one range was read.
//!
//! A read at a timestamp promises that nobody writes at or below it any more. Writes whose
//! timestamp is not the clock's present, those of transactions, ask the cache how low they may be.
//!
//! ```text
//! read a at 7 by t1, a..c at 5 ─▶ ┌ points: a hash of the key ─▶ 7, t1
//!                                 └ spans:  a ─▶ 5, c ─▶ nothing
//! write of t1 to a  ─▶ not below 7: its own read is not in its way
//! write of t2 to a  ─▶ above 7                    (equal is not enough: the read came first)
//! write of t2 to d  ─▶ above the low-water mark: the start of the lease, or what was forgotten
//! ```
//!
//! What it is: an upper bound. It may answer too much, never too little. Keys are kept as hashes,
//! so two of them may share an entry, and the answer for a span counts all points that were read.
//! That is what makes an insertion cheap and the size known. What it is not: it knows no lease;
//! who gets one sets the mark.
//!
//! Two generations bound the size: when the current one is full it becomes the old one, and the
//! largest timestamp of the one before becomes the low-water mark.
//!
//! Invariants:
//! 1. (I3) What [`TimestampCache::floor`] answers for a key is above every read that was added for
//!    it by others, and not below the own ones.
//! 2. If two read at the same timestamp, it counts as the read of neither: both writes go above it.
//! 3. The answer for a key never sinks, until the cache is reset.
//! 4. There are at most two generations of [`Limits::read_points_max`] points and
//!    [`Limits::read_spans_max`] bounds of spans, beside those of the span added last.

mod summary;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasherDefault, Hasher},
    ops::Bound,
};

use bytes::Bytes;
use crdb_keys::{Key, Span, Timestamp};

pub use self::summary::{PointRead, ReadSummary, SpanRead};
use crate::Limits;

/// The transaction that read, by the 16 bytes of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReaderId([u8; 16]);

impl ReaderId {
    /// The reader with the id of a transaction; `None` if it is not of 16 bytes.
    #[must_use]
    pub fn new(txn_id: &[u8]) -> Option<Self> {
        txn_id.try_into().ok().map(Self)
    }
}

/// The latest read of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    timestamp: Timestamp,
    /// The transaction that read; `None` if several did, or none.
    reader: Option<ReaderId>,
}

impl Mark {
    fn raise(&mut self, read: Self) {
        if read.timestamp > self.timestamp {
            *self = read;
        } else if read.timestamp == self.timestamp && read.reader != self.reader {
            self.reader = None;
        }
    }

    /// The lowest timestamp of a write of `own`.
    fn floor(&self, own: Option<ReaderId>) -> Timestamp {
        // Reads by others below the own one are forgotten, yet a write is not below either.
        if own.is_some() && self.reader == own { self.timestamp } else { self.timestamp.next() }
    }
}

#[derive(Default)]
struct HashOfKey(u64);

impl Hasher for HashOfKey {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        // Only ever given a u64, which is a hash already.
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// The hash under which a key is kept. Part of the summary that stores exchange: it must not
/// change. Not meant to withstand who looks for collisions; these only make answers too high.
fn hash(key: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word).wrapping_mul(u128::from(ODD));
        let bytes = product.to_le_bytes();
        let (low, high) = bytes.split_at(8);
        word_of(low) ^ word_of(high)
    };
    let mut result = mix(ODD, key.len() as u64);
    let (words, rest) = key.as_chunks::<8>();
    for word in words {
        result = mix(result.rotate_left(23), u64::from_le_bytes(*word));
    }
    mix(result.rotate_left(23), word_of(rest)).wrapping_mul(ODD)
}

/// Whether a span holds one key: given as that, or as the span up to the next possible key.
fn is_one_key(span: &Span) -> bool {
    span.is_point() || matches!(span.end.strip_prefix(&span.start[..]), Some([0]))
}

/// Up to eight bytes as a number.
fn word_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

#[derive(Debug, Default)]
struct Generation {
    points: HashMap<u64, Mark, BuildHasherDefault<HashOfKey>>,
    /// The latest of all points.
    latest_point: Mark,
    /// From each key up to the next one: the latest read of a span.
    spans: BTreeMap<Key, Mark>,
    /// The latest of all.
    latest: Mark,
}

impl Generation {
    fn add_point(&mut self, hash: u64, read: Mark) {
        self.points.entry(hash).or_default().raise(read);
        self.latest_point.raise(read);
        self.latest.raise(read);
    }

    fn add_span(&mut self, start: &[u8], end: &[u8], read: Mark) {
        self.cut(start);
        self.cut(end);
        let mut before = self.before(start);
        let mut equal = Vec::new();
        let inside = (Bound::Included(start), Bound::Included(end));
        for (key, mark) in self.spans.range_mut::<[u8], _>(inside) {
            if **key != *end {
                mark.raise(read);
            }
            if *mark == before {
                equal.push(key.clone());
            }
            before = *mark;
        }
        for key in &equal {
            self.spans.remove(key);
        }
        self.latest.raise(read);
    }

    /// Makes `key` a bound.
    fn cut(&mut self, key: &[u8]) {
        if !self.spans.contains_key(key) {
            let mark = self.at(key);
            self.spans.insert(Bytes::copy_from_slice(key), mark);
        }
    }

    /// The latest read of a span that holds `key`.
    fn at(&self, key: &[u8]) -> Mark {
        let up_to = (Bound::Unbounded, Bound::Included(key));
        self.spans.range::<[u8], _>(up_to).next_back().map(|(_, mark)| *mark).unwrap_or_default()
    }

    fn before(&self, key: &[u8]) -> Mark {
        let below = (Bound::Unbounded, Bound::Excluded(key));
        self.spans.range::<[u8], _>(below).next_back().map(|(_, mark)| *mark).unwrap_or_default()
    }

    fn key_floor(&self, key: &[u8], hash: u64, own: Option<ReaderId>) -> Timestamp {
        let point = self.points.get(&hash).map(|mark| mark.floor(own)).unwrap_or_default();
        if self.spans.is_empty() { point } else { point.max(self.at(key).floor(own)) }
    }

    fn span_floor(&self, span: &Span, own: Option<ReaderId>) -> Timestamp {
        if span.start >= span.end {
            return Timestamp::ZERO;
        }
        let floor = self.latest_point.floor(own).max(self.at(&span.start).floor(own));
        let inside = (Bound::Excluded(span.start.as_ref()), Bound::Excluded(span.end.as_ref()));
        let marks = self.spans.range::<[u8], _>(inside);
        marks.map(|(_, mark)| mark.floor(own)).fold(floor, Timestamp::max)
    }
}

/// The reads of one range.
#[derive(Debug)]
pub struct TimestampCache {
    /// Everything may have been read up to here; at that very timestamp by this reader alone, if one
    /// is named: what a transaction read must not keep it from writing once it is forgotten.
    low_water: Mark,
    current: Generation,
    old: Generation,
    limits: Limits,
}

impl Default for TimestampCache {
    fn default() -> Self {
        Self::new(&Limits::default())
    }
}

impl TimestampCache {
    /// A cache in which nothing counts as read.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            low_water: Mark::default(),
            current: Generation::default(),
            old: Generation::default(),
            limits: *limits,
        }
    }

    /// Notes that `reader` read `span` at `timestamp`.
    pub fn add(&mut self, span: &Span, timestamp: Timestamp, reader: Option<ReaderId>) {
        let read = Mark { timestamp, reader };
        if timestamp <= self.low_water.timestamp {
            self.low_water.raise(read);
            return;
        }
        if is_one_key(span) {
            self.current.add_point(hash(&span.start), read);
        } else if span.start < span.end {
            self.current.add_span(&span.start, &span.end, read);
        }
        self.rotate_if_full();
    }

    /// The lowest timestamp at which `own`, or a write outside of any transaction, may write to
    /// `span`: above the reads of others, not below its own.
    #[must_use]
    pub fn floor(&self, span: &Span, own: Option<ReaderId>) -> Timestamp {
        if span.is_point() {
            return self.floor_of_key(&span.start, own);
        }
        let low_water = self.low_water.floor(own);
        low_water.max(self.current.span_floor(span, own)).max(self.old.span_floor(span, own))
    }

    /// What [`Self::floor`] answers for one key.
    #[must_use]
    pub fn floor_of_key(&self, key: &[u8], own: Option<ReaderId>) -> Timestamp {
        let hash = hash(key);
        let low_water = self.low_water.floor(own);
        let current = self.current.key_floor(key, hash, own);
        low_water.max(current).max(self.old.key_floor(key, hash, own))
    }

    /// Forgets all reads: everything counts as read up to `low_water`. For a new lease, below
    /// whose start all reads of the leases before lie.
    pub fn reset(&mut self, low_water: Timestamp) {
        let low_water = Mark { timestamp: low_water, reader: None };
        *self = Self { low_water, ..Self::new(&self.limits) };
    }

    /// Everything may have been read up to here.
    #[must_use]
    pub fn low_water(&self) -> Timestamp {
        self.low_water.timestamp
    }

    fn rotate_if_full(&mut self) {
        let (points, spans) = (self.current.points.len(), self.current.spans.len());
        if points <= self.limits.read_points_max && spans <= self.limits.read_spans_max {
            return;
        }
        self.low_water.raise(self.old.latest);
        self.old = std::mem::take(&mut self.current);
    }
}
