//! What a store does with each input: finds the replica, creates or destroys one, counts
//! acknowledgements.
//!
//! A replica is created when a message for it arrives with a descriptor that lists it, and
//! destroyed when it applied its own removal or a peer proves it with a later descriptor. A
//! tombstone keeps an older replica of the range from coming back by a late message: an id is
//! never used twice, so whoever was removed cannot vote again.

use crdb_keys::{RangeId, ReplicaId, StoreId, Timestamp, layout::RangeLocal};
use crdb_proto::{
    kv::RangeDescriptor,
    peer::{LeaseAck, RaftBatch, RaftMessage, ReplicaGone, ReplicaProbe},
};
use crdb_storage::{Engine, Family};
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use crate::{
    config::{Mono, PlantedBug},
    io::{DescriptorChange, Input, ReceivedSnapshot, StoreError},
    lease::Bound,
    promise::Promise,
    record::{self, ReplicaRecord, Tombstone},
    replica::{BatchMeta, Refusal, Replica, fatal, is_vote_request},
    snapshot::{self, Incoming},
    store::Store,
};

impl<E: Engine> Store<E> {
    /// Takes one input in.
    pub(crate) fn take_in(&mut self, now: Mono, input: Input) -> Result<(), StoreError> {
        match input {
            Input::Raft { from, batch } => self.take_batch(now, from, batch)?,
            Input::Propose(proposal) => {
                let range = proposal.range_id;
                self.dirty.insert(range);
                let mut proposal = Some(proposal);
                self.with(now, range, |replica, ctx| {
                    if let Some(proposal) = proposal.take() {
                        replica.propose(ctx, proposal);
                    }
                });
                if let Some(proposal) = proposal {
                    // The replica is gone since; the command never reached a log.
                    proposal.slot.complete(crate::ProposalResult::NotLeaseholder);
                }
            }
            Input::Snapshot(received) => self.take_snapshot(now, *received)?,
            Input::SnapshotReport { range_id, to_replica, accepted } => {
                self.on_range(now, range_id, |replica, ctx| {
                    replica.report_snapshot(ctx, to_replica.get(), accepted);
                });
            }
            Input::Unreachable(store) => {
                let ranges: Vec<RangeId> = self.replicas.keys().copied().collect();
                for range in ranges {
                    self.on_range(now, range, |replica, ctx| {
                        replica.report_unreachable(ctx, store);
                    });
                }
            }
            Input::Stores(stores) => self.stores = stores,
            Input::TransferLease { range_id, target } => {
                self.on_range(now, range_id, |replica, ctx| replica.transfer_lease(ctx, target));
            }
            Input::ChangeReplicas { range_id, change } => {
                self.on_range(now, range_id, |replica, ctx| replica.change_replicas(ctx, &change));
            }
            Input::Drain(draining) => self.draining = draining,
        }
        Ok(())
    }

    fn on_range(
        &mut self,
        now: Mono,
        range: RangeId,
        work: impl FnOnce(&mut Replica<E>, &mut crate::replica::Ctx<'_, E>),
    ) {
        self.dirty.insert(range);
        self.with(now, range, work);
    }

    fn take_batch(&mut self, now: Mono, from: StoreId, batch: RaftBatch) -> Result<(), StoreError> {
        let sent_at = batch.sent_at.map(Timestamp::from).unwrap_or_default();
        let creditable = self.creditable(&batch);
        if let Err(error) = self.clock().update(sent_at) {
            tracing::warn!(%from, %error, "a peer's clock is off");
        }
        let meta = BatchMeta {
            from,
            incarnation: batch.incarnation,
            sequence: batch.sequence,
            sent_at,
            creditable,
        };
        for message in batch.messages {
            self.take_message(now, &meta, message)?;
        }
        let kinds = [
            (batch.heartbeats, MessageType::MsgHeartbeat),
            (batch.heartbeat_responses, MessageType::MsgHeartbeatResponse),
        ];
        for (heartbeats, kind) in kinds {
            for heartbeat in heartbeats {
                let range = RangeId(heartbeat.range_id);
                if !self.is_addressed(range, heartbeat.to_replica) {
                    continue;
                }
                self.dirty.insert(range);
                let result = self.with(now, range, |replica, ctx| {
                    replica.receive_heartbeat(ctx, &meta, &heartbeat, kind)
                });
                note_refusal(range, from, result)?;
            }
        }
        for ack in &batch.lease_acks {
            self.take_lease_ack(now, from, ack);
        }
        for probe in &batch.probes {
            self.take_probe(from, probe);
        }
        for closed in &batch.closed {
            self.with(now, RangeId(closed.range_id), |replica, _| replica.receive_closed(closed));
        }
        for gone in batch.gone {
            self.take_gone(gone);
        }
        Ok(())
    }

    /// Whether `range` has a replica here with the id `replica`.
    fn is_addressed(&self, range: RangeId, replica: u64) -> bool {
        self.replicas.get(&range).is_some_and(|here| here.replica_id.get() == replica)
    }

    fn take_message(
        &mut self,
        now: Mono,
        meta: &BatchMeta,
        envelope: RaftMessage,
    ) -> Result<(), StoreError> {
        let range = RangeId(envelope.range_id);
        let message = match Message::parse_from_bytes(&envelope.message) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(%range, from = %meta.from, %error, "a raft message is damaged");
                return Ok(());
            }
        };
        if message.to != envelope.to_replica || message.from != envelope.from_replica {
            tracing::warn!(%range, from = %meta.from, "a raft message contradicts its envelope");
            return Ok(());
        }
        let to = ReplicaId(envelope.to_replica);
        if self.sender_is_gone(range, message.from) {
            self.tell_gone(meta.from, range, message.from);
            return Ok(());
        }
        if !self.admit(range, to, envelope.descriptor)? {
            if !self.replicas.contains_key(&range) && is_vote_request(message.get_msg_type()) {
                let until = now.after(self.config().timing.election_timeout());
                self.early_votes.hold(until, range, *meta, message);
            }
            return Ok(());
        }
        let bound =
            envelope.vote_bound.map(|bound| Bound::new((bound.into(), envelope.vote_bound_term)));
        self.dirty.insert(range);
        let result =
            self.with(now, range, |replica, ctx| replica.receive(ctx, meta, message, bound));
        note_refusal(range, meta.from, result)
    }

    /// Whether the replica here may take a message for `to`; creates it if the message came with
    /// a descriptor that lists it.
    fn admit(
        &mut self,
        range: RangeId,
        to: ReplicaId,
        descriptor: Option<RangeDescriptor>,
    ) -> Result<bool, StoreError> {
        if let Some(here) = self.replicas.get(&range) {
            if here.replica_id == to {
                return Ok(true);
            }
            if here.replica_id > to {
                return Ok(false);
            }
        }
        let store = self.config().store_id;
        let Some(descriptor) = descriptor.filter(|descriptor| lists(descriptor, store, to)) else {
            return Ok(false);
        };
        if self.replicas.contains_key(&range) {
            // This store was removed and added again while it was away.
            if !self.take_removal(range, &descriptor) {
                return Ok(false);
            }
            self.destroy(range);
        }
        if self.overlaps(range, &descriptor) {
            // The split that made it is not applied here yet.
            return Ok(false);
        }
        self.create(range, to)
    }

    /// Makes an empty replica, unless a tombstone forbids it.
    fn create(&mut self, range: RangeId, to: ReplicaId) -> Result<bool, StoreError> {
        let store = self.config().store_id;
        let tombstone: Option<Tombstone> =
            record::read(&self.handle.shared.engine, range, RangeLocal::Tombstone)
                .map_err(|error| fatal(store, error))?;
        let floor = tombstone.map_or(0, |tombstone| tombstone.next_replica_id);
        let buried = self.buried.get(&range).copied().unwrap_or_default();
        if to.get() < floor.max(buried) {
            return Ok(false);
        }
        // The state of an earlier replica may still be on its way out in the log batch, which the
        // engine does not show yet; one message later is soon enough.
        if self.buried.contains_key(&range) {
            return Ok(false);
        }
        tracing::info!(%range, replica = %to, "creates a replica");
        record::write(
            &mut self.log_batch,
            range,
            RangeLocal::Replica,
            &ReplicaRecord { replica_id: to.get() },
        );
        let deadline = self.hold_until();
        let bound = self.restart_bound;
        let replica = Replica::load(&self.handle, range, to, |term, _| {
            Promise::after_start(deadline, bound, term)
        })?;
        self.replicas.insert(range, replica);
        self.dirty.insert(range);
        Ok(true)
    }

    /// Makes the replica of the range `right` that split off from `left`; its state is on disk.
    pub(crate) fn create_right(
        &mut self,
        now: Mono,
        left: RangeId,
        right: &RangeDescriptor,
    ) -> Result<(), StoreError> {
        let range = RangeId(right.range_id);
        let Some(replica_id) = self.replicas.get(&left).map(|left| left.replica_id) else {
            return Ok(());
        };
        tracing::info!(range = %left, right = %range, "splits");
        // A replica that was waiting for its first snapshot may have made a promise.
        let promise = self.replicas.remove(&range).map(Replica::into_promise).unwrap_or_default();
        let replica = Replica::load(&self.handle, range, replica_id, |_, _| promise)?;
        self.replicas.insert(range, replica);
        self.dirty.insert(range);
        let first = self.with(now, left, |left, _| left.leads_by_lease()) == Some(true);
        self.with(now, range, |replica, ctx| {
            replica.refresh_status(ctx);
            ctx.outputs
                .descriptors
                .push(DescriptorChange { descriptor: right.clone(), leader: first });
            if first {
                replica.campaign_first(ctx);
            }
        });
        for (meta, vote) in self.early_votes.take(range) {
            if vote.to == replica_id.get() {
                let result =
                    self.with(now, range, |replica, ctx| replica.receive(ctx, &meta, vote, None));
                note_refusal(range, meta.from, result)?;
            }
        }
        Ok(())
    }

    /// Until when replicas of this process hold votes, because they may have promised before.
    pub(crate) fn hold_until(&self) -> Mono {
        if self.restart_bound.is_zero() || self.config().has(PlantedBug::VoteAfterRestart) {
            return Mono::default();
        }
        self.opened_at.after(self.config().timing.election_timeout())
    }

    fn take_snapshot(&mut self, now: Mono, received: ReceivedSnapshot) -> Result<(), StoreError> {
        let ReceivedSnapshot { from, header, entries } = received;
        let range = RangeId(header.range_id);
        let to = ReplicaId(header.to_replica);
        let descriptor = header.descriptor.clone();
        let incoming = match Incoming::decode(header, entries) {
            Ok(incoming) => incoming,
            Err(why) => {
                tracing::warn!(%range, %from, why, "refuses a snapshot");
                return Ok(());
            }
        };
        if incoming.message.term == 0 || self.overlaps(range, &incoming.descriptor) {
            tracing::warn!(%range, %from, "refuses a snapshot over another range");
            return Ok(());
        }
        if self.admit(range, to, descriptor)? {
            self.on_range(now, range, |replica, ctx| {
                replica.receive_snapshot(ctx, from, incoming);
            });
        }
        Ok(())
    }

    /// Whether a range other than `range` here holds keys of `descriptor`.
    fn overlaps(&self, range: RangeId, descriptor: &RangeDescriptor) -> bool {
        let mut others = self.replicas.iter().filter(|(id, _)| **id != range);
        others.any(|(_, replica)| replica.overlaps(descriptor))
    }

    fn take_lease_ack(&mut self, now: Mono, from: StoreId, ack: &LeaseAck) {
        let range = RangeId(ack.range_id);
        if ack.incarnation != self.config().incarnation || !self.is_addressed(range, ack.to_replica)
        {
            return;
        }
        let Some(sent) = self.outbox.sent(from, ack.sequence) else { return };
        let newest = self.outbox.newest_sent(from);
        self.on_range(now, range, |replica, ctx| replica.credit(ctx, ack, sent, newest));
    }

    /// Whether the replica `from` of `range` was removed, as far as is applied here.
    fn sender_is_gone(&self, range: RangeId, from: u64) -> bool {
        let here = self.replicas.get(&range).and_then(Replica::descriptor);
        here.is_some_and(|descriptor| {
            from < descriptor.next_replica_id
                && !descriptor.replicas.iter().any(|replica| replica.replica_id == from)
        })
    }

    fn tell_gone(&mut self, to: StoreId, range: RangeId, replica_id: u64) {
        let descriptor = self.replicas.get(&range).and_then(Replica::descriptor).cloned();
        self.outbox.gone(to, ReplicaGone { range_id: range.get(), replica_id, descriptor });
    }

    fn take_probe(&mut self, from: StoreId, probe: &ReplicaProbe) {
        let range = RangeId(probe.range_id);
        if self.sender_is_gone(range, probe.replica_id) {
            self.tell_gone(from, range, probe.replica_id);
        }
    }

    fn take_gone(&mut self, gone: ReplicaGone) {
        let range = RangeId(gone.range_id);
        let Some(descriptor) = gone.descriptor else { return };
        if self.is_addressed(range, gone.replica_id) && self.take_removal(range, &descriptor) {
            self.destroy(range);
        }
    }

    /// Whether `descriptor`, applied by a peer, proves that the replica here was removed.
    fn take_removal(&self, range: RangeId, descriptor: &RangeDescriptor) -> bool {
        let Some(here) = self.replicas.get(&range) else { return false };
        let id = here.replica_id.get();
        let known = here.descriptor().map_or(0, |descriptor| descriptor.generation);
        descriptor.range_id == range.get()
            && descriptor.generation > known
            && descriptor.next_replica_id > id
            && !descriptor.replicas.iter().any(|replica| replica.replica_id == id)
    }

    /// Destroys the replicas that applied their own removal.
    pub(crate) fn destroy_removed(&mut self) {
        let removed: Vec<RangeId> = self
            .replicas
            .iter()
            .filter(|(_, replica)| replica.removed().is_some())
            .map(|(range, _)| *range)
            .collect();
        for range in removed {
            self.destroy(range);
        }
    }

    /// Removes a replica and all it holds, leaving a tombstone.
    fn destroy(&mut self, range: RangeId) {
        let Some(mut replica) = self.replicas.remove(&range) else { return };
        tracing::info!(%range, replica = %replica.replica_id, "destroys a replica");
        replica.shut_down();
        self.handle.remove(range);
        self.dirty.remove(&range);
        let batch = &mut self.log_batch;
        if let Some(descriptor) = replica.descriptor() {
            snapshot::clear_data(batch, descriptor);
        }
        let all = crdb_keys::layout::range_local_span(range);
        for family in [Family::Raft, Family::Local] {
            batch.delete_range(family, all.start.clone(), all.end.clone());
        }
        let next_replica_id = replica.replica_id.get() + 1;
        record::write(batch, range, RangeLocal::Tombstone, &Tombstone { next_replica_id });
        self.sync_needed = true;
        self.buried.insert(range, next_replica_id);
    }
}

/// Whether `descriptor` has the replica `replica` on `store`.
fn lists(descriptor: &RangeDescriptor, store: StoreId, replica: ReplicaId) -> bool {
    descriptor
        .replicas
        .iter()
        .any(|listed| listed.store_id == store.get() && listed.replica_id == replica.get())
}

/// Drops a malformed message with a warning; passes on what must stop the store.
fn note_refusal(
    range: RangeId,
    from: StoreId,
    result: Option<Result<(), Refusal>>,
) -> Result<(), StoreError> {
    match result {
        Some(Err(Refusal::Malformed(why))) => {
            tracing::warn!(%range, %from, why, "refuses a raft message");
            Ok(())
        }
        Some(Err(Refusal::Fatal(error))) => Err(error),
        Some(Ok(())) | None => Ok(()),
    }
}
