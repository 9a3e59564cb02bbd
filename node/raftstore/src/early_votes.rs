//! Votes for ranges that are not here yet.
//!
//! When a range splits, the store that leads it campaigns for the right side at once, and its
//! request may come before this store has applied the split. A vote lost costs an election
//! timeout, so it waits here as long; then the candidate has asked again.

use std::collections::BTreeMap;

use crdb_keys::RangeId;
use raft::eraftpb::Message;

use crate::{config::Mono, limits::Limits, replica::BatchMeta};

/// The newest vote request of each candidate, by range.
#[derive(Debug)]
pub(crate) struct EarlyVotes {
    ranges_max: usize,
    candidates_max: usize,
    ranges: BTreeMap<RangeId, (Mono, Vec<(BatchMeta, Message)>)>,
}

impl EarlyVotes {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            ranges_max: limits.early_vote_ranges_max,
            candidates_max: limits.early_vote_candidates_max,
            ranges: BTreeMap::new(),
        }
    }

    /// Keeps `request` until `until`.
    pub(crate) fn hold(&mut self, until: Mono, range: RangeId, meta: BatchMeta, request: Message) {
        if self.ranges.len() >= self.ranges_max && !self.ranges.contains_key(&range) {
            return;
        }
        let (deadline, held) = self.ranges.entry(range).or_insert((until, Vec::new()));
        *deadline = until;
        if let Some(place) = held.iter_mut().find(|(_, held)| held.from == request.from) {
            if place.1.term <= request.term {
                *place = (meta, request);
            }
        } else if held.len() < self.candidates_max {
            held.push((meta, request));
        }
    }

    /// The requests held for `range`.
    pub(crate) fn take(&mut self, range: RangeId) -> Vec<(BatchMeta, Message)> {
        self.ranges.remove(&range).map(|(_, held)| held).unwrap_or_default()
    }

    /// Drops what has waited long enough.
    pub(crate) fn expire(&mut self, now: Mono) {
        self.ranges.retain(|_, (deadline, _)| now < *deadline);
    }
}

#[cfg(test)]
mod tests {
    use crdb_keys::{StoreId, Timestamp};
    use raft::eraftpb::MessageType;

    use super::*;

    #[test]
    fn the_newest_request_of_each_candidate_is_held_for_a_while() {
        let meta = BatchMeta {
            from: StoreId(1),
            incarnation: 1,
            sequence: 1,
            sent_at: Timestamp::ZERO,
            creditable: true,
        };
        let request = |from, term| {
            let mut request = Message { from, term, ..Message::default() };
            request.set_msg_type(MessageType::MsgRequestVote);
            request
        };
        let mut votes = EarlyVotes::new(&Limits::default());
        for (from, term) in [(1, 6), (2, 6), (1, 7), (2, 5)] {
            votes.hold(Mono(10), RangeId(9), meta, request(from, term));
        }
        votes.hold(Mono(5), RangeId(8), meta, request(1, 6));
        votes.expire(Mono(5));
        assert!(votes.take(RangeId(8)).is_empty());
        let held: Vec<_> =
            votes.take(RangeId(9)).iter().map(|(_, held)| (held.from, held.term)).collect();
        assert_eq!(held, [(1, 7), (2, 6)]);
        assert!(votes.take(RangeId(9)).is_empty());
    }
}
