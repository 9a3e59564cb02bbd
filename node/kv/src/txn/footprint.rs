//! Where a transaction left something at the leaseholders: locks and intents.
//!
//! Keys with intents are known one by one up to a bound of bytes. Beyond it neighbours are merged into
//! few spans ([`Footprint::condense`]), of which it is no longer known how many intents there should
//! be: a read over them asks the record whether the transaction was aborted ([`Footprint::is_vague`]).
//!
//! Invariants:
//! 1. A place is noted before the request that leaves something there is sent, so that whatever
//!    becomes of the request is cleaned up.
//! 2. An intent counts as laid only while it certainly is, unless somebody aborted the transaction:
//!    one that is not found again says so.
//! 3. Its size is bounded, whatever the transaction writes; what is merged is too wide, never too
//!    narrow.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use crdb_keys::encoding::next_key;
use crdb_proto::kv::{
    ReleaseLocksRequest, Request, RevertIntentRequest, SequencedWrite, Span, request,
};

use crate::Limits;

/// Bytes that the map takes for a key beside the key.
const OVERHEAD: usize = 64;

/// Locks and intents of one transaction; see the page of the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Footprint {
    /// Start and end of spans with unreplicated locks; an empty end is the single key.
    locked: Vec<(Bytes, Bytes)>,
    /// Keys where intents may be.
    intents: BTreeMap<Bytes, Writes>,
    /// Bytes that `intents` takes.
    bytes: usize,
    /// Where more intents may be, in order, apart from each other.
    wide: Vec<Wide>,
}

/// The writes to a key that were sent.
#[derive(Debug, Clone, Copy)]
struct Writes {
    /// Sequence of the latest.
    latest: u32,
    /// Sequence of the first that is certain to be there.
    laid: Option<u32>,
}

/// A span with intents that are not known one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wide {
    start: Bytes,
    /// Exclusive.
    end: Bytes,
    /// Sequence of the latest write in it.
    latest: u32,
}

impl Wide {
    fn key(key: &Bytes, latest: u32) -> Self {
        Self { start: key.clone(), end: next_key(key).into(), latest }
    }

    fn holds_one_key(&self) -> bool {
        *self.end == *next_key(&self.start)
    }
}

impl Footprint {
    pub(crate) fn is_empty(&self) -> bool {
        self.locked.is_empty() && !self.has_intents()
    }

    pub(crate) fn has_intents(&self) -> bool {
        !self.intents.is_empty() || !self.wide.is_empty()
    }

    /// Notes that keys of a span are about to be locked.
    pub(crate) fn lock(&mut self, start: Bytes, end: Bytes, limits: &Limits) {
        if self.locked.last().is_some_and(|last| *last == (start.clone(), end.clone())) {
            return;
        }
        self.locked.push((start, end));
        if self.locked.len() > limits.locked_spans {
            self.condense_locked();
        }
    }

    fn condense_locked(&mut self) {
        self.locked.sort();
        let spans = std::mem::take(&mut self.locked);
        self.locked = spans
            .chunks(2)
            .filter_map(|pair| {
                let (start, _) = pair.first()?;
                let ends = pair.iter().map(|(start, end)| match end.is_empty() {
                    true => Bytes::from(next_key(start)),
                    false => end.clone(),
                });
                Some((start.clone(), ends.max()?))
            })
            .collect();
    }

    /// Notes that an intent is about to be laid.
    pub(crate) fn intent(&mut self, key: Bytes, sequence: u32) {
        let new = Writes { latest: sequence, laid: None };
        let bytes = key.len() + OVERHEAD;
        let known = self.intents.len();
        self.intents.entry(key).and_modify(|writes| writes.latest = sequence).or_insert(new);
        if self.intents.len() > known {
            self.bytes += bytes;
        }
    }

    /// Merges the keys with intents into spans, if they take more room than they may.
    pub(crate) fn condense(&mut self, limits: &Limits) {
        if self.bytes > limits.footprint_bytes {
            self.wide = merged(self.all(), limits);
            self.intents.clear();
            self.bytes = 0;
        }
    }

    /// All keys and spans where intents may be, in order.
    fn all(&self) -> Vec<Wide> {
        let keys = self.intents.iter().map(|(key, writes)| Wide::key(key, writes.latest));
        let mut all: Vec<Wide> = self.wide.iter().cloned().chain(keys).collect();
        all.sort_by(|a, b| a.start.cmp(&b.start));
        // A key within a span is no place of its own.
        let mut apart: Vec<Wide> = Vec::with_capacity(all.len());
        for place in all {
            match apart.last_mut() {
                Some(last) if place.start < last.end => {
                    last.end = last.end.clone().max(place.end);
                    last.latest = last.latest.max(place.latest);
                }
                _ => apart.push(place),
            }
        }
        apart
    }

    /// Whether intents may be in a span, or at a key if its end is empty, that are not known one by
    /// one.
    pub(crate) fn is_vague(&self, start: &Bytes, end: &Bytes) -> bool {
        let first = self.wide.partition_point(|wide| wide.end <= *start);
        self.wide.get(first).is_some_and(|wide| match end.is_empty() {
            true => wide.start <= *start,
            false => wide.start < *end,
        })
    }

    /// Notes that an intent was laid with a sequence.
    pub(crate) fn laid(&mut self, key: &[u8], sequence: u32) {
        if let Some(writes) = self.intents.get_mut(key) {
            writes.laid.get_or_insert(sequence);
        }
    }

    /// Whether an intent is at a key.
    pub(crate) fn is_laid(&self, key: &[u8]) -> bool {
        self.intents.get(key).is_some_and(|writes| writes.laid.is_some())
    }

    /// How many intents are in a span.
    pub(crate) fn count_laid(&self, start: &[u8], end: &[u8]) -> u64 {
        if self.intents.is_empty() || start >= end {
            return 0;
        }
        let span = (Bound::Included(start), Bound::Excluded(end));
        let writes = self.intents.range::<[u8], _>(span);
        writes.filter(|(_, writes)| writes.laid.is_some()).count() as u64
    }

    /// What takes back the intents laid above a sequence; they count as laid at it from now on.
    pub(crate) fn revert_to(&mut self, sequence: u32) -> Vec<Request> {
        let revert = |start: &Bytes, end: Bytes| Request {
            kind: Some(request::Kind::RevertIntent(RevertIntentRequest {
                start: start.clone(),
                end,
                to_sequence: sequence,
            })),
        };
        let mut requests = Vec::new();
        for (key, writes) in &mut self.intents {
            if writes.latest > sequence {
                writes.latest = sequence;
                writes.laid.take_if(|first| *first > sequence);
                requests.push(revert(key, Bytes::new()));
            }
        }
        for wide in &mut self.wide {
            if wide.latest > sequence {
                wide.latest = sequence;
                requests.push(revert(&wide.start, wide.end.clone()));
            }
        }
        requests
    }

    /// Where intents may be, as a record says it, and in which they are resolved: few enough for
    /// one, wider if there are many.
    pub(crate) fn intent_spans(&self, limits: &Limits) -> Vec<Span> {
        let spans = merged(self.all(), limits).into_iter().map(|wide| Span {
            end: if wide.holds_one_key() { Bytes::new() } else { wide.end },
            start: wide.start,
        });
        spans.collect()
    }

    /// Gives the unreplicated locks up. `ended` says that requests which lock or write may still be
    /// on their way: then it is told wherever they may come to.
    pub(crate) fn releases(&self, txn_id: &Bytes, ended: bool, limits: &Limits) -> Vec<Request> {
        let intents = if ended { self.intent_spans(limits) } else { Vec::new() };
        let intents = intents.into_iter().map(|span| (span.start, span.end));
        let release = |(start, end): (Bytes, Bytes)| {
            let release = ReleaseLocksRequest { start, end, txn_id: txn_id.clone(), ended };
            Request { kind: Some(request::Kind::ReleaseLocks(release)) }
        };
        self.locked.iter().cloned().chain(intents).map(release).collect()
    }
}

/// Merges neighbours until they are as few, and take as few bytes, as a record may list.
fn merged(places: Vec<Wide>, limits: &Limits) -> Vec<Wide> {
    let mut together = places.len().div_ceil(limits.recorded_spans).max(1);
    loop {
        let spans = places.chunks(together).filter_map(|neighbours| match neighbours {
            [first, .., last] => Some(Wide {
                start: first.start.clone(),
                end: last.end.clone(),
                latest: neighbours.iter().map(|place| place.latest).max()?,
            }),
            one => one.first().cloned(),
        });
        let spans: Vec<Wide> = spans.collect();
        let bytes: usize = spans.iter().map(|span| span.start.len() + span.end.len()).sum();
        if bytes <= limits.recorded_bytes || spans.len() <= 1 {
            return spans;
        }
        together *= 2;
    }
}

/// What a STAGING record says of the writes sent with it.
pub(crate) fn in_flight(keys: impl Iterator<Item = Bytes>, sequence: u32) -> Vec<SequencedWrite> {
    keys.map(|key| SequencedWrite { key, sequence }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid(keys: usize) -> Footprint {
        let mut footprint = Footprint::default();
        for n in 0..keys {
            footprint.intent(format!("k{n:06}").into(), 1);
        }
        footprint
    }

    #[test]
    fn a_record_lists_every_intent_in_few_spans() {
        let limits = Limits::default();
        assert_eq!(laid(0).intent_spans(&limits), []);
        assert!(laid(1000).intent_spans(&limits).iter().all(|span| span.end.is_empty()));
        let many = laid(2500);
        let spans = many.intent_spans(&limits);
        assert_eq!(spans.len(), 834);
        let covers = |key: &Bytes| {
            spans.iter().any(|span| {
                span.start == *key || (!span.end.is_empty() && span.start < *key && *key < span.end)
            })
        };
        assert!(many.intents.keys().all(covers));
    }

    #[test]
    fn only_what_is_above_a_savepoint_is_reverted_and_once() {
        let mut footprint = laid(1);
        footprint.intent("z".into(), 5);
        assert_eq!(footprint.revert_to(3).len(), 1);
        assert_eq!(footprint.revert_to(3).len(), 0);
        assert_eq!(footprint.intent_spans(&Limits::default()).len(), 2);
    }

    #[test]
    fn intents_count_from_when_they_are_there_until_they_are_taken_back() {
        let mut footprint = laid(2);
        assert_eq!(footprint.count_laid(b"k", b"l"), 0);
        footprint.laid(b"k000000", 1);
        footprint.intent("k000000".into(), 5);
        footprint.laid(b"k000000", 5);
        footprint.intent("k000001".into(), 5);
        footprint.laid(b"k000001", 5);
        assert_eq!(footprint.count_laid(b"k", b"l"), 2);
        assert_eq!(footprint.count_laid(b"k000001", b"l"), 1);
        assert_eq!(footprint.count_laid(b"l", b"k"), 0);
        footprint.revert_to(3);
        assert!(footprint.is_laid(b"k000000") && !footprint.is_laid(b"k000001"));
        footprint.revert_to(0);
        assert_eq!(footprint.count_laid(b"k", b"l"), 0);
    }

    #[test]
    fn many_locks_are_released_by_fewer_and_wider_spans() {
        let mut footprint = Footprint::default();
        for most in [1, 2, 512] {
            let limits = Limits { locked_spans: most, ..Limits::default() };
            for n in 0..1000 {
                footprint.lock(format!("k{n:06}").into(), Bytes::new(), &limits);
            }
            let releases = footprint.releases(&Bytes::new(), false, &limits);
            assert!(releases.len() <= most, "{}", releases.len());
        }
    }

    #[test]
    fn a_large_footprint_takes_little_room_and_leaves_no_intent_out() {
        let limits = Limits { footprint_bytes: 1000, recorded_spans: 7, ..Limits::default() };
        let mut footprint = Footprint::default();
        for n in 0..500_u32 {
            let key = Bytes::from(format!("k{:06}", n * 7919 % 500));
            footprint.intent(key.clone(), n);
            footprint.laid(&key, n);
            footprint.condense(&limits);
            assert!(footprint.bytes <= 1000 && footprint.wide.len() <= 7, "{footprint:?}");
            assert!(footprint.is_vague(&key, &Bytes::new()) || footprint.is_laid(&key));
        }
        let spans = footprint.intent_spans(&limits);
        assert!(spans.len() <= 7, "{spans:?}");
        for n in 0..500 {
            let key = Bytes::from(format!("k{n:06}"));
            let holds = |span: &Span| span.start <= key && (key < span.end || span.start == key);
            assert!(spans.iter().any(holds), "{key:?} in {spans:?}");
        }
        assert!(!footprint.is_vague(&"l".into(), &"m".into()));
        assert!(!footprint.is_vague(&"j".into(), &Bytes::new()));
        // Going back goes over all of it, once.
        assert!(!footprint.revert_to(100).is_empty());
        assert_eq!(footprint.revert_to(100), []);
    }

    #[test]
    fn few_long_keys_are_merged_as_well() {
        let limits = Limits { recorded_bytes: 5000, ..Limits::default() };
        let mut footprint = Footprint::default();
        for n in 0..20 {
            footprint.intent(format!("{n:01000}").into(), 1);
        }
        let spans = footprint.intent_spans(&limits);
        let bytes: usize = spans.iter().map(|span| span.start.len() + span.end.len()).sum();
        assert!(bytes <= 5100 && spans.len() > 1, "{} spans, {bytes} bytes", spans.len());
    }
}
