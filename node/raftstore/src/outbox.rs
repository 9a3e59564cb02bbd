//! What leaves for other stores at the end of a step, in batches of a bounded size: one that no
//! connection takes would be lost with all that is in it, again and again.
//!
//! Each batch carries a sequence number, and the outbox remembers for a while when each was built.
//! A lease acknowledgement names the batch it answers, so a late, doubled or reordered one can
//! never count for more than it proves.

use std::collections::{BTreeMap, VecDeque};

use crdb_keys::{RangeId, StoreId};
use crdb_proto::peer::{
    ClosedTimestamp, LeaseAck, RaftBatch, RaftMessage, RangeHeartbeat, ReplicaGone, ReplicaProbe,
};

use prost::Message as _;

use crate::{config::nanos, lease::SentAt, limits::Limits};

/// About the bytes of what has the same size each time.
const FIXED_BYTES: usize = 40;

#[derive(Debug, Default)]
struct Peer {
    sequence: u64,
    ring: VecDeque<(u64, SentAt)>,
    /// Batches that are full.
    full: Vec<RaftBatch>,
    /// The one that is being filled, and about its bytes.
    batch: RaftBatch,
    bytes: usize,
}

/// Collects messages by receiver.
#[derive(Debug)]
pub(crate) struct Outbox {
    incarnation: u64,
    bytes_max: usize,
    /// How long a batch may be acknowledged.
    ring_nanos: u64,
    peers: BTreeMap<StoreId, Peer>,
}

impl Outbox {
    pub(crate) fn new(incarnation: u64, limits: &Limits) -> Self {
        let ring_nanos = nanos(limits.acknowledge_within);
        let bytes_max = limits.batch_bytes_max;
        Self { incarnation, bytes_max, ring_nanos, peers: BTreeMap::new() }
    }

    /// The batch that takes something of about `bytes` bytes.
    fn batch(&mut self, to: StoreId, bytes: usize) -> &mut RaftBatch {
        let peer = self.peers.entry(to).or_default();
        if peer.bytes > 0 && peer.bytes + bytes > self.bytes_max {
            peer.full.push(std::mem::take(&mut peer.batch));
            peer.bytes = 0;
        }
        peer.bytes += bytes;
        &mut peer.batch
    }

    pub(crate) fn message(&mut self, to: StoreId, message: RaftMessage) {
        let descriptor = message.descriptor.as_ref().map_or(0, prost::Message::encoded_len);
        let bytes = message.message.len() + descriptor + FIXED_BYTES;
        self.batch(to, bytes).messages.push(message);
    }

    pub(crate) fn heartbeat(&mut self, to: StoreId, heartbeat: RangeHeartbeat) {
        self.batch(to, FIXED_BYTES).heartbeats.push(heartbeat);
    }

    pub(crate) fn heartbeat_response(&mut self, to: StoreId, response: RangeHeartbeat) {
        self.batch(to, FIXED_BYTES).heartbeat_responses.push(response);
    }

    pub(crate) fn lease_ack(&mut self, to: StoreId, ack: LeaseAck) {
        self.batch(to, FIXED_BYTES).lease_acks.push(ack);
    }

    pub(crate) fn closed(&mut self, to: StoreId, closed: ClosedTimestamp) {
        self.batch(to, FIXED_BYTES).closed.push(closed);
    }

    pub(crate) fn probe(&mut self, to: StoreId, range: RangeId, replica_id: u64) {
        let probe = ReplicaProbe { range_id: range.get(), replica_id };
        self.batch(to, FIXED_BYTES).probes.push(probe);
    }

    pub(crate) fn gone(&mut self, to: StoreId, gone: ReplicaGone) {
        let bytes = gone.encoded_len();
        self.batch(to, bytes).gone.push(gone);
    }

    /// Takes what was collected, as batches sent at `sent`, those to a store in the order in which
    /// they were filled.
    pub(crate) fn flush(&mut self, sent: SentAt) -> Vec<(StoreId, RaftBatch)> {
        let oldest = sent.mono.0.saturating_sub(self.ring_nanos);
        let mut batches = Vec::new();
        for (to, peer) in &mut self.peers {
            while peer.ring.front().is_some_and(|(_, sent)| sent.mono.0 < oldest) {
                peer.ring.pop_front();
            }
            let last = std::mem::take(&mut peer.batch);
            let last = Some(last).filter(|_| std::mem::take(&mut peer.bytes) > 0);
            for mut batch in std::mem::take(&mut peer.full).into_iter().chain(last) {
                peer.sequence += 1;
                peer.ring.push_back((peer.sequence, sent));
                batch.incarnation = self.incarnation;
                batch.sequence = peer.sequence;
                batch.sent_at = Some(sent.timestamp.into());
                batches.push((*to, batch));
            }
        }
        batches
    }

    /// When batch `sequence` to `to` was sent, if that is not too long ago.
    pub(crate) fn sent(&self, to: StoreId, sequence: u64) -> Option<SentAt> {
        let ring = &self.peers.get(&to)?.ring;
        let at = ring.binary_search_by_key(&sequence, |(sequence, _)| *sequence).ok()?;
        ring.get(at).map(|(_, sent)| *sent)
    }

    /// When the newest batch to `to` was sent: only the planted bug asks.
    pub(crate) fn newest_sent(&self, to: StoreId) -> Option<SentAt> {
        self.peers.get(&to)?.ring.back().map(|(_, sent)| *sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> RaftMessage {
        RaftMessage { message: vec![0; bytes].into(), ..RaftMessage::default() }
    }

    #[test]
    fn batches_are_cut_at_their_size_and_each_can_be_acknowledged() {
        let limits = Limits { batch_bytes_max: 1_000, ..Limits::default() };
        let (mut outbox, to) = (Outbox::new(7, &limits), StoreId(2));
        let sent = SentAt { mono: crate::Mono(5), timestamp: crdb_keys::Timestamp::new(9, 0) };
        assert!(outbox.flush(sent).is_empty());
        for bytes in [400, 400, 400, 5_000, 10] {
            outbox.message(to, message(bytes));
        }
        for _ in 0..30 {
            outbox.heartbeat(to, RangeHeartbeat::default());
        }
        let batches = outbox.flush(sent);
        let shape: Vec<_> = batches
            .iter()
            .map(|(_, batch)| {
                let sizes: Vec<_> = batch.messages.iter().map(|m| m.message.len()).collect();
                (batch.sequence, sizes, batch.heartbeats.len())
            })
            .collect();
        // What is larger than a batch goes alone.
        let wanted = [
            (1, vec![400, 400], 0),
            (2, vec![400], 0),
            (3, vec![5_000], 0),
            (4, vec![10], 23),
            (5, vec![], 7),
        ];
        assert_eq!(shape, wanted);
        assert!(batches.iter().all(|(_, batch)| batch.incarnation == 7));
        assert!((1..=5).all(|sequence| outbox.sent(to, sequence).is_some()));
        assert!(outbox.flush(sent).is_empty());
    }
}
