//! Where a transaction left something at the leaseholders: locks and intents.
//!
//! Invariants:
//! 1. A place is noted before the request that leaves something there is sent, so that whatever
//!    becomes of the request is cleaned up.
//! 2. An intent counts as laid only while it certainly is, unless somebody aborted the transaction:
//!    one that is not found again says so.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use crdb_keys::Timestamp;
use crdb_proto::kv::{
    ReleaseLocksRequest, Request, ResolveIntentRequest, RevertIntentRequest, SequencedWrite, Span,
    TxnStatus, request,
};

/// Spans with locks beyond which neighbours are merged.
const MAX_LOCKED: usize = 512;
/// Spans of intents that a record lists.
const MAX_RECORDED: usize = 1000;
/// Requests of one batch that cleans up.
pub(crate) const BATCH: usize = 500;

/// Locks and intents of one transaction; see the page of the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Footprint {
    /// Start and end of spans with unreplicated locks; an empty end is the single key.
    locked: Vec<(Bytes, Bytes)>,
    /// Keys where intents may be.
    intents: BTreeMap<Bytes, Writes>,
}

/// The writes to a key that were sent.
#[derive(Debug, Clone, Copy)]
struct Writes {
    /// Sequence of the latest.
    latest: u32,
    /// Sequence of the first that is certain to be there.
    laid: Option<u32>,
}

impl Footprint {
    pub(crate) fn is_empty(&self) -> bool {
        self.locked.is_empty() && self.intents.is_empty()
    }

    pub(crate) fn has_intents(&self) -> bool {
        !self.intents.is_empty()
    }

    /// Notes that keys of a span are about to be locked.
    pub(crate) fn lock(&mut self, start: Bytes, end: Bytes) {
        if self.locked.last().is_some_and(|last| *last == (start.clone(), end.clone())) {
            return;
        }
        self.locked.push((start, end));
        if self.locked.len() > MAX_LOCKED {
            self.condense();
        }
    }

    fn condense(&mut self) {
        self.locked.sort();
        let spans = std::mem::take(&mut self.locked);
        self.locked = spans
            .chunks(2)
            .filter_map(|pair| {
                let (start, _) = pair.first()?;
                let ends = pair.iter().map(|(start, end)| match end.is_empty() {
                    true => Bytes::from(crdb_keys::encoding::next_key(start)),
                    false => end.clone(),
                });
                Some((start.clone(), ends.max()?))
            })
            .collect();
    }

    /// Notes that an intent is about to be laid.
    pub(crate) fn intent(&mut self, key: Bytes, sequence: u32) {
        let new = Writes { latest: sequence, laid: None };
        self.intents.entry(key).and_modify(|writes| writes.latest = sequence).or_insert(new);
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
        let mut requests = Vec::new();
        for (key, writes) in &mut self.intents {
            if writes.latest > sequence {
                writes.latest = sequence;
                writes.laid.take_if(|first| *first > sequence);
                requests.push(Request {
                    kind: Some(request::Kind::RevertIntent(RevertIntentRequest {
                        start: key.clone(),
                        end: Bytes::new(),
                        to_sequence: sequence,
                    })),
                });
            }
        }
        requests
    }

    /// Where intents may be, as a record says it: few enough for one, wider if there are many.
    pub(crate) fn intent_spans(&self) -> Vec<Span> {
        let keys: Vec<&Bytes> = self.intents.keys().collect();
        let together = keys.len().div_ceil(MAX_RECORDED).max(1);
        let span = |keys: &[&Bytes]| match keys {
            [] => None,
            [key] => Some(Span { start: (*key).clone(), end: Bytes::new() }),
            [first, .., last] => Some(Span {
                start: (*first).clone(),
                end: crdb_keys::encoding::next_key(last).into(),
            }),
        };
        keys.chunks(together).filter_map(span).collect()
    }

    /// Turns the intents into versions at a timestamp, or removes them.
    pub(crate) fn resolutions(&self, txn_id: &Bytes, commit: Option<Timestamp>) -> Vec<Request> {
        let status = match commit {
            Some(_) => TxnStatus::Committed,
            None => TxnStatus::Aborted,
        };
        let resolve = |key: &Bytes| ResolveIntentRequest {
            start: key.clone(),
            end: Bytes::new(),
            txn_id: txn_id.clone(),
            status: status.into(),
            commit_timestamp: commit.map(Into::into),
            max_keys: 0,
        };
        self.intents
            .keys()
            .map(|key| Request { kind: Some(request::Kind::ResolveIntent(resolve(key))) })
            .collect()
    }

    /// Gives the unreplicated locks up. `ended` says that requests which lock or write may still be
    /// on their way: then it is told wherever they may come to.
    pub(crate) fn releases(&self, txn_id: &Bytes, ended: bool) -> Vec<Request> {
        let intents = if ended { self.intent_spans() } else { Vec::new() };
        let intents = intents.into_iter().map(|span| (span.start, span.end));
        let release = |(start, end): (Bytes, Bytes)| {
            let release = ReleaseLocksRequest { start, end, txn_id: txn_id.clone(), ended };
            Request { kind: Some(request::Kind::ReleaseLocks(release)) }
        };
        self.locked.iter().cloned().chain(intents).map(release).collect()
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
        assert_eq!(laid(0).intent_spans(), []);
        assert!(laid(1000).intent_spans().iter().all(|span| span.end.is_empty()));
        let many = laid(2500);
        let spans = many.intent_spans();
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
        assert_eq!(footprint.resolutions(&Bytes::new(), None).len(), 2);
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
        for n in 0..1000 {
            footprint.lock(format!("k{n:06}").into(), Bytes::new());
        }
        let releases = footprint.releases(&Bytes::new(), false);
        assert!(releases.len() <= MAX_LOCKED, "{}", releases.len());
    }
}
