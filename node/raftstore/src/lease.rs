//! Leases: who may serve a range, until when, and up to which timestamp.
//!
//! The leaseholder is the raft leader. A [`Lease`] record, replicated as the first command of its
//! term, fixes from which timestamp on the leader serves; a [`LeaseTracker`] derives from the
//! acknowledgements of its heartbeats until when; the [`LeaseCell`] carries the result to the
//! threads that evaluate requests.
//!
//! ```text
//! leader      M0,T0 ──heartbeat seq 7──▶ voter: promises until now + 0.9 E, bound T0 + 0.8 E
//!             ◀──────── LeaseAck seq 7 ──
//! serves until M0 + 0.8 E, timestamps below T0 + 0.8 E   (quorum-th newest pair)
//! ```
//!
//! Invariants:
//! 1. An acknowledgement counts for the heartbeat it echoes, in the term and the process that
//!    sent it, and for nothing newer.
//! 2. The start of a lease lies above the start and the end of the lease before it and above every
//!    bound under which the lease before may have served.
//! 3. The cell is empty before anybody can learn that the leader is none any more.

use std::collections::BTreeMap;

use crdb_keys::{ReplicaId, Timestamp};
use crdb_proto::kv;
use parking_lot::Mutex;

use crate::config::{Mono, Timing, nanos};

/// The right to serve a range, as replicated.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Lease {
    /// Counts the leases of the range.
    #[prost(uint64, tag = "1")]
    pub(crate) sequence: u64,
    /// Raft term of the leader that holds it.
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    /// The holder.
    #[prost(uint64, tag = "3")]
    pub(crate) replica_id: u64,
    /// Every timestamp served under the lease is above.
    #[prost(message, optional, tag = "4")]
    start: Option<kv::Timestamp>,
    /// Set once the holder gave the lease up: no timestamp at or above it was served.
    #[prost(message, optional, tag = "5")]
    end: Option<kv::Timestamp>,
}

/// A promise under which the lease before may have served.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Bound {
    /// No timestamp at or above it was served on the strength of the promise.
    #[prost(message, optional, tag = "1")]
    bound: Option<kv::Timestamp>,
    /// Term of the leader the promise was given to.
    #[prost(uint64, tag = "2")]
    term: u64,
}

impl Bound {
    pub(crate) fn new((bound, term): (Timestamp, u64)) -> Self {
        Self { bound: Some(bound.into()), term }
    }

    pub(crate) fn timestamp(&self) -> Timestamp {
        self.bound.map(Into::into).unwrap_or_default()
    }
}

impl Lease {
    pub(crate) fn start(&self) -> Timestamp {
        self.start.map(Into::into).unwrap_or_default()
    }

    pub(crate) fn end(&self) -> Option<Timestamp> {
        self.end.map(Into::into)
    }

    /// The lease that follows this one, for the leader of `term`, which proposed it at `now` with
    /// the `bounds` of its voters and its own.
    pub(crate) fn successor(
        &self,
        term: u64,
        replica_id: ReplicaId,
        now: Timestamp,
        bounds: &[Bound],
    ) -> Self {
        let mut floor = self.start().max(now);
        if let Some(end) = self.end() {
            floor = floor.max(end);
        }
        for bound in bounds {
            // Promises to leaders before the previous lease are below its start already; those to
            // its own holder ended when it gave the lease up.
            let settled = bound.term < self.term || (bound.term == self.term && self.end.is_some());
            if !settled {
                floor = floor.max(bound.timestamp());
            }
        }
        Self {
            sequence: self.sequence + 1,
            term,
            replica_id: replica_id.get(),
            start: Some(floor.next().into()),
            end: None,
        }
    }

    /// The lease of a new range that was part of another, whose holder served nothing of it at or
    /// above `end`. Nobody holds it, and no promise to anybody before `term` counts.
    pub(crate) fn of_split(term: u64, start: Timestamp, end: Timestamp) -> Self {
        Self { sequence: 0, term, replica_id: 0, start: Some(start.into()), end: Some(end.into()) }
    }

    /// This lease, given up at `end`.
    pub(crate) fn ended(&self, end: Timestamp) -> Self {
        Self { end: Some(end.into()), ..self.clone() }
    }
}

/// When a heartbeat that was echoed had been sent, on both clocks of the leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SentAt {
    pub(crate) mono: Mono,
    pub(crate) timestamp: Timestamp,
}

/// The acknowledgements a leader has collected in its term.
#[derive(Debug, Default)]
pub(crate) struct LeaseTracker {
    acks: BTreeMap<u64, SentAt>,
}

impl LeaseTracker {
    /// Forgets everything, for a new term.
    pub(crate) fn clear(&mut self) {
        self.acks.clear();
    }

    /// Counts an acknowledgement of `replica` for what was sent at `sent`.
    pub(crate) fn credit(&mut self, replica: u64, sent: SentAt) {
        let ack = self.acks.entry(replica).or_default();
        *ack =
            SentAt { mono: ack.mono.max(sent.mono), timestamp: ack.timestamp.max(sent.timestamp) };
    }

    /// The newest instant that a majority of each set of `voters` has acknowledged, the leader
    /// `own` counting with `own_sent`.
    pub(crate) fn quorum<'a>(
        &self,
        own: u64,
        own_sent: SentAt,
        voters: impl IntoIterator<Item = &'a [u64]>,
    ) -> Option<SentAt> {
        let mut result: Option<SentAt> = None;
        for set in voters {
            if set.is_empty() {
                continue;
            }
            let mut monos = Vec::with_capacity(set.len());
            let mut timestamps = Vec::with_capacity(set.len());
            for replica in set {
                let sent = if *replica == own {
                    own_sent
                } else {
                    self.acks.get(replica).copied().unwrap_or_default()
                };
                monos.push(sent.mono);
                timestamps.push(sent.timestamp);
            }
            monos.sort_unstable();
            timestamps.sort_unstable();
            // A majority of n is n/2 + 1; ascending, the value it reaches stands at (n-1)/2.
            let at = (set.len() - 1) / 2;
            let sent = SentAt {
                mono: monos.get(at).copied().unwrap_or_default(),
                timestamp: timestamps.get(at).copied().unwrap_or_default(),
            };
            result = Some(result.map_or(sent, |least| SentAt {
                mono: least.mono.min(sent.mono),
                timestamp: least.timestamp.min(sent.timestamp),
            }));
        }
        result.filter(|sent| sent.mono > Mono::default())
    }
}

/// What a leaseholder may do right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Serving {
    /// Sequence of its lease; commands carry it.
    pub(crate) sequence: u64,
    /// Raft term of its lease.
    pub(crate) term: u64,
    /// Timestamps served are above.
    pub(crate) start: Timestamp,
    /// It serves until then.
    pub(crate) expires: Mono,
    /// Timestamps served are below.
    pub(crate) bound: Timestamp,
}

impl Serving {
    /// The right to serve that follows from `lease` and a quorum's acknowledgement.
    pub(crate) fn new(lease: &Lease, quorum: SentAt, timing: &Timing) -> Self {
        Self {
            sequence: lease.sequence,
            term: lease.term,
            start: lease.start(),
            expires: quorum.mono.after(timing.lease_duration()),
            bound: quorum.timestamp.add_nanos(nanos(timing.lease_duration())),
        }
    }

    /// Whether `timestamp` may be served at `now`.
    pub(crate) fn covers(&self, now: Mono, timestamp: Timestamp) -> bool {
        now < self.expires && self.start < timestamp && timestamp < self.bound
    }
}

/// Carries the right to serve from the scheduler to the threads that evaluate.
#[derive(Debug, Default)]
pub(crate) struct LeaseCell {
    serving: Mutex<Option<Serving>>,
}

impl LeaseCell {
    /// What may be served.
    pub(crate) fn get(&self) -> Option<Serving> {
        *self.serving.lock()
    }

    /// Replaces what may be served.
    pub(crate) fn set(&self, serving: Option<Serving>) {
        *self.serving.lock() = serving;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::new(seconds * 1_000_000_000, 0)
    }

    fn sent(seconds: u64) -> SentAt {
        SentAt { mono: Mono(seconds * 1_000_000_000), timestamp: at(seconds) }
    }

    #[test]
    fn a_lease_starts_above_the_bounds_of_its_predecessor() {
        let first = Lease::default().successor(5, ReplicaId(1), at(10), &[]);
        assert_eq!((first.sequence, first.start()), (1, at(10).next()));
        // Promises to term 5 count, those to term 4 were settled by the first lease.
        let bounds = [Bound::new((at(12), 5)), Bound::new((at(99), 4))];
        let second = first.successor(7, ReplicaId(2), at(11), &bounds);
        assert_eq!((second.sequence, second.start()), (2, at(12).next()));
        // Once ended, the promises to its own term are settled as well, later ones are not.
        let ended = second.ended(at(13));
        let bounds = [Bound::new((at(20), 7)), Bound::new((at(14), 8))];
        let third = ended.successor(9, ReplicaId(3), at(13), &bounds);
        assert_eq!(third.start(), at(14).next());
        assert_eq!(third.end(), None);
    }

    #[test]
    fn a_lease_rests_on_a_majority_of_each_configuration() {
        let mut tracker = LeaseTracker::default();
        let voters: &[u64] = &[1, 2, 3];
        assert_eq!(tracker.quorum(1, sent(9), [voters]), None);
        tracker.credit(2, sent(5));
        assert_eq!(tracker.quorum(1, sent(9), [voters]), Some(sent(5)));
        tracker.credit(3, sent(7));
        // Late and doubled acknowledgements change nothing.
        tracker.credit(3, sent(4));
        assert_eq!(tracker.quorum(1, sent(9), [voters]), Some(sent(7)));
        // Joint: the majority of the other set is 1 and 4, and 4 is silent.
        let joint: &[u64] = &[1, 4];
        assert_eq!(tracker.quorum(1, sent(9), [voters, joint]), None);
        tracker.credit(4, sent(6));
        assert_eq!(tracker.quorum(1, sent(9), [voters, joint]), Some(sent(6)));
        // A sole voter rests on itself.
        assert_eq!(tracker.quorum(1, sent(9), [&[1_u64][..], &[]]), Some(sent(9)));
    }

    #[test]
    fn a_leaseholder_serves_between_start_and_bound_until_it_expires() {
        let lease = Lease::default().successor(5, ReplicaId(1), at(10), &[]);
        let serving = Serving::new(&lease, sent(20), &Timing::default());
        assert!(serving.covers(Mono(20_799_999_999), at(20)));
        assert!(!serving.covers(Mono(20_800_000_000), at(20)));
        assert!(!serving.covers(Mono(20_000_000_000), lease.start()));
        assert!(!serving.covers(Mono(20_000_000_000), Timestamp::new(20_800_000_000, 0)));
    }
}
