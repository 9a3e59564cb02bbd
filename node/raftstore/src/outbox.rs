//! What leaves for other stores at the end of a step, one batch a store.
//!
//! Each batch carries a sequence number, and the outbox remembers for a while when each was built.
//! A lease acknowledgement names the batch it answers, so a late, doubled or reordered one can
//! never count for more than it proves.

use std::collections::{BTreeMap, VecDeque};

use crdb_keys::{RangeId, StoreId};
use crdb_proto::peer::{
    ClosedTimestamp, LeaseAck, RaftBatch, RaftMessage, RangeHeartbeat, ReplicaGone, ReplicaProbe,
};

use crate::lease::SentAt;

/// How long a batch may be acknowledged.
const RING_NANOS: u64 = 2_000_000_000;

#[derive(Debug, Default)]
struct Peer {
    sequence: u64,
    ring: VecDeque<(u64, SentAt)>,
    batch: RaftBatch,
}

/// Collects messages by receiver.
#[derive(Debug)]
pub(crate) struct Outbox {
    incarnation: u64,
    peers: BTreeMap<StoreId, Peer>,
}

impl Outbox {
    pub(crate) fn new(incarnation: u64) -> Self {
        Self { incarnation, peers: BTreeMap::new() }
    }

    fn batch(&mut self, to: StoreId) -> &mut RaftBatch {
        &mut self.peers.entry(to).or_default().batch
    }

    pub(crate) fn message(&mut self, to: StoreId, message: RaftMessage) {
        self.batch(to).messages.push(message);
    }

    pub(crate) fn heartbeat(&mut self, to: StoreId, heartbeat: RangeHeartbeat) {
        self.batch(to).heartbeats.push(heartbeat);
    }

    pub(crate) fn heartbeat_response(&mut self, to: StoreId, response: RangeHeartbeat) {
        self.batch(to).heartbeat_responses.push(response);
    }

    pub(crate) fn lease_ack(&mut self, to: StoreId, ack: LeaseAck) {
        self.batch(to).lease_acks.push(ack);
    }

    pub(crate) fn closed(&mut self, to: StoreId, closed: ClosedTimestamp) {
        self.batch(to).closed.push(closed);
    }

    pub(crate) fn probe(&mut self, to: StoreId, range: RangeId, replica_id: u64) {
        self.batch(to).probes.push(ReplicaProbe { range_id: range.get(), replica_id });
    }

    pub(crate) fn gone(&mut self, to: StoreId, gone: ReplicaGone) {
        self.batch(to).gone.push(gone);
    }

    /// Takes what was collected, as batches sent at `sent`.
    pub(crate) fn flush(&mut self, sent: SentAt) -> Vec<(StoreId, RaftBatch)> {
        let incarnation = self.incarnation;
        let mut batches = Vec::new();
        for (to, peer) in &mut self.peers {
            if is_empty(&peer.batch) {
                continue;
            }
            peer.sequence += 1;
            let oldest = sent.mono.0.saturating_sub(RING_NANOS);
            while peer.ring.front().is_some_and(|(_, sent)| sent.mono.0 < oldest) {
                peer.ring.pop_front();
            }
            peer.ring.push_back((peer.sequence, sent));
            let mut batch = std::mem::take(&mut peer.batch);
            batch.incarnation = incarnation;
            batch.sequence = peer.sequence;
            batch.sent_at = Some(sent.timestamp.into());
            batches.push((*to, batch));
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

fn is_empty(batch: &RaftBatch) -> bool {
    batch.messages.is_empty()
        && batch.heartbeats.is_empty()
        && batch.heartbeat_responses.is_empty()
        && batch.lease_acks.is_empty()
        && batch.probes.is_empty()
        && batch.gone.is_empty()
        && batch.closed.is_empty()
}
