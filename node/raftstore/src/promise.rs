//! The promise of a voter not to help depose the leader it acknowledged.
//!
//! A leader serves reads from its own disk while a quorum has promised not to elect another. The
//! promise lives here, as a deadline on a clock that does not stop, and not in the consensus
//! library, which forgets its leader whenever a higher term arrives. It filters votes before the
//! library sees them and keeps the replica itself from campaigning.
//!
//! With the deadline goes a bound: no lease that rests on this promise serves a timestamp at or
//! above it. A voter hands its bound to the candidate it votes for, and the next lease starts
//! above all of them, so that timestamps served by two leases never overlap even when clocks
//! differ.
//!
//! Invariants:
//! 1. Neither a term nor a change of role clears deadline or bound.
//! 2. The bound only grows, and its term with it. Labelling an old bound with a later term is the
//!    careful direction: it is excluded later.
//! 3. A held vote request is kept, the newest of each candidate; nothing is lost but time.

use std::collections::BTreeMap;

use crdb_keys::{StoreId, Timestamp};
use raft::eraftpb::Message;

use crate::config::{Mono, StoreConfig, Timing, nanos};

/// Deadline and bound of one replica, and the vote requests that wait for the deadline.
#[derive(Debug, Default)]
pub(crate) struct Promise {
    deadline: Mono,
    bound: Timestamp,
    bound_term: u64,
    held: BTreeMap<u64, (StoreId, Message)>,
}

impl Promise {
    /// The promise of a replica after a start: it may have supported anybody until `bound`, and
    /// votes nobody before `deadline`.
    pub(crate) fn after_start(deadline: Mono, bound: Timestamp, term: u64) -> Self {
        Self { deadline, bound, bound_term: term, held: BTreeMap::new() }
    }

    /// Extends the promise to the leader of `term`, whose message was sent at `sent_at` and is
    /// being acknowledged at `now`.
    pub(crate) fn support(&mut self, now: Mono, sent_at: Timestamp, term: u64, timing: &Timing) {
        self.deadline = self.deadline.max(now.after(timing.promise_duration()));
        self.record_bound(sent_at, term, timing);
    }

    /// Records that this replica, as the leader of `term`, sent `sent_at`: its own vote counts in
    /// the quorum that its lease rests on.
    pub(crate) fn record_bound(&mut self, sent_at: Timestamp, term: u64, timing: &Timing) {
        self.bound = self.bound.max(sent_at.add_nanos(nanos(timing.lease_duration())));
        self.bound_term = self.bound_term.max(term);
    }

    /// Bound and term to hand to a candidate with a vote.
    pub(crate) fn bound(&self) -> (Timestamp, u64) {
        (self.bound, self.bound_term)
    }

    /// Whether the replica may neither vote nor campaign at `now`.
    pub(crate) fn is_active(&self, now: Mono) -> bool {
        now < self.deadline
    }

    /// When the promise ends.
    pub(crate) fn deadline(&self) -> Mono {
        self.deadline
    }

    /// Keeps a vote request of `candidate` until the promise ends.
    pub(crate) fn hold(&mut self, from: StoreId, request: Message) {
        let newest = self.held.get(&request.from).map_or(0, |(_, held)| held.term);
        if request.term >= newest {
            self.held.insert(request.from, (from, request));
        }
    }

    /// Whether vote requests wait.
    pub(crate) fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// The vote requests that waited, by candidate.
    pub(crate) fn take_held(&mut self) -> Vec<(StoreId, Message)> {
        std::mem::take(&mut self.held).into_values().collect()
    }

    /// Forgets what was promised: only the planted bug does.
    pub(crate) fn clear_for_planted_bug(&mut self) {
        *self = Self { held: std::mem::take(&mut self.held), ..Self::default() };
    }
}

/// The bound that covers every promise given before a crash: what the store acknowledged is below
/// the wall stamp it had persisted, plus the longest time a stamp is used, plus the offset by
/// which the acknowledged clock may have led, plus the length of a lease.
pub(crate) fn bound_after_restart(
    now: Timestamp,
    stamp: Timestamp,
    max_offset_nanos: u64,
    config: &StoreConfig,
) -> Timestamp {
    now.max(stamp.add_nanos(nanos(STAMP_VALIDITY)))
        .add_nanos(nanos(config.timing.lease_duration()))
        .add_nanos(max_offset_nanos)
}

/// Below this a sole voter serves while `stamp` is its wall stamp on disk. After a restart it need
/// wait no longer than until then, and not for the promises that it gave nobody but itself.
pub(crate) fn sole_voter_bound(stamp: Timestamp) -> Timestamp {
    stamp.add_nanos(nanos(STAMP_VALIDITY))
}

/// How long a persisted wall stamp covers acknowledgements.
pub(crate) const STAMP_VALIDITY: std::time::Duration = std::time::Duration::from_millis(500);
/// How old a wall stamp may get before a new one is persisted.
pub(crate) const STAMP_INTERVAL: std::time::Duration = std::time::Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use raft::eraftpb::MessageType;

    use super::*;

    fn request(from: u64, term: u64) -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgRequestVote);
        message.from = from;
        message.term = term;
        message
    }

    #[test]
    fn the_deadline_and_the_bound_only_grow() {
        let timing = Timing::default();
        let mut promise = Promise::default();
        promise.support(Mono(0), Timestamp::new(5_000_000_000, 3), 4, &timing);
        assert!(promise.is_active(Mono(899_999_999)));
        assert!(!promise.is_active(Mono(900_000_000)));
        assert_eq!(promise.bound(), (Timestamp::new(5_800_000_000, 3), 4));
        // A later leader with a slower clock.
        promise.support(Mono(100_000_000), Timestamp::new(4_900_000_000, 0), 6, &timing);
        assert_eq!(promise.deadline(), Mono(1_000_000_000));
        assert_eq!(promise.bound(), (Timestamp::new(5_800_000_000, 3), 6));
    }

    #[test]
    fn the_newest_request_of_each_candidate_is_held() {
        let mut promise = Promise::default();
        for (from, term) in [(2, 5), (3, 5), (2, 7), (3, 4)] {
            promise.hold(StoreId(1), request(from, term));
        }
        let held: Vec<_> =
            promise.take_held().into_iter().map(|(_, held)| (held.from, held.term)).collect();
        assert_eq!(held, [(2, 7), (3, 5)]);
        assert!(!promise.has_held());
    }

    #[test]
    fn the_bound_after_a_restart_covers_every_acknowledgement_under_the_stamp() {
        let config = StoreConfig::new(crdb_keys::NodeId(1), StoreId(1), 7);
        let (stamp, offset) = (Timestamp::new(10_000_000_000, 0), 500_000_000);
        // The last acknowledgement the stamp allows, of a leader whose clock leads by the offset.
        let sent_at = stamp.add_nanos(nanos(STAMP_VALIDITY)).add_nanos(offset);
        let mut promise = Promise::default();
        promise.record_bound(sent_at, 1, &config.timing);
        // The wall clock was set back meanwhile.
        let bound = bound_after_restart(Timestamp::new(9_000_000_000, 0), stamp, offset, &config);
        assert!(bound >= promise.bound().0);
    }
}
