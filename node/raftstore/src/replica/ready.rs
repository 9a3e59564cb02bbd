//! What raft wants written and sent.
//!
//! `collect` runs in the first half of a step: it adds entries and hard state to the store's log
//! batch and sends what a leader may send before its own disk has them. `advance` runs in the
//! second half, once the batch is durable: it sends votes and acknowledgements and returns what is
//! committed.

use crdb_proto::peer::{RaftMessage, RangeHeartbeat};
use crdb_storage::{Engine, WriteBatch};
use protobuf::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};

use super::{Ctx, Replica, fatal};
use crate::{
    config::PlantedBug,
    io::{SnapshotSend, StoreError},
    record::{HardState, RecordError},
    snapshot::{self, Incoming},
};

impl<E: Engine> Replica<E> {
    /// Takes what raft has ready; returns whether the batch must be synced for it.
    pub(crate) fn collect(
        &mut self,
        ctx: &mut Ctx<'_, E>,
        batch: &mut WriteBatch,
    ) -> Result<bool, StoreError> {
        if self.ready.is_some() || !self.raw.has_ready() {
            return Ok(false);
        }
        let mut ready = self.raw.ready();
        if !ready.snapshot().is_empty() {
            self.ingest(ready.snapshot().clone(), batch)?;
        }
        let store_id = self.store_id;
        let log = self.raw.mut_store();
        log.append(ready.entries(), batch).map_err(|error| fatal(store_id, error))?;
        if let Some(state) = ready.hs() {
            log.set_hard_state(HardState::from_raft(state), batch);
        }
        for message in ready.take_messages() {
            self.send(ctx, message)?;
        }
        if ctx.config.has(PlantedBug::AckBeforeSync) {
            for message in ready.take_persisted_messages() {
                self.send(ctx, message)?;
            }
        }
        let sync = ready.must_sync();
        self.ready = Some(ready);
        Ok(sync)
    }

    /// Adds a snapshot that raft accepted to the log batch.
    fn ingest(
        &mut self,
        accepted: raft::eraftpb::Snapshot,
        batch: &mut WriteBatch,
    ) -> Result<(), StoreError> {
        let index = accepted.get_metadata().index;
        let incoming = self.incoming.take().filter(|incoming| incoming.applied.index == index);
        let Some(incoming) = incoming else {
            return Err(StoreError::Raft {
                store: self.store_id,
                range_id: self.range_id,
                detail: format!("raft accepted a snapshot at {index} whose data is not here"),
            });
        };
        let applied = &incoming.applied;
        self.handle.history.suspend();
        self.handle.history.raise_threshold(incoming.applied.gc_threshold());
        // After a split that this replica did not apply itself, its neighbour's keys are no longer
        // its own to hold.
        if let Some(old) = &self.descriptor
            && (old.start_key < incoming.descriptor.start_key
                || old.end_key > incoming.descriptor.end_key)
        {
            snapshot::clear_data(batch, old);
        }
        self.raw.mut_store().restore(applied.index, applied.term, applied.conf.clone(), batch);
        let kept = Incoming {
            message: Message::default(),
            descriptor: incoming.descriptor.clone(),
            applied: incoming.applied.clone(),
            entries: Vec::new(),
        };
        incoming.write(batch, self.replica_id);
        self.ingesting = Some((index, kept));
        Ok(())
    }

    /// Goes on after the log batch is durable; returns the committed entries.
    pub(crate) fn advance(&mut self, ctx: &mut Ctx<'_, E>) -> Result<Vec<Entry>, StoreError> {
        let Some(mut ready) = self.ready.take() else { return Ok(Vec::new()) };
        let persisted = ready.take_persisted_messages();
        let mut committed = ready.take_committed_entries();
        for message in persisted {
            self.send(ctx, message)?;
        }
        let mut light = self.raw.advance_append(ready);
        for message in light.take_messages() {
            self.send(ctx, message)?;
        }
        committed.extend(light.take_committed_entries());
        if let Some((index, incoming)) = self.ingesting.take() {
            self.adopt(index, incoming, ctx);
        }
        Ok(committed)
    }

    /// Takes over the state of a snapshot that is now on disk.
    fn adopt(&mut self, index: u64, incoming: Incoming, ctx: &mut Ctx<'_, E>) {
        let Incoming { descriptor, applied, .. } = incoming;
        tracing::info!(range = %self.range_id, replica = %self.replica_id, index, "took over a snapshot");
        self.applied = applied;
        let at = (self.applied.index, self.applied.term);
        self.raw.mut_store().set_applied(at, &self.applied.conf);
        self.raw.advance_apply_to(index);
        // What this replica had proposed as a leader before is decided within the snapshot, and
        // it cannot tell which way.
        self.pending.clear();
        let first = !self.is_initialized();
        self.set_descriptor(descriptor);
        if first {
            ctx.handle.insert(std::sync::Arc::clone(&self.handle));
        }
        self.publish_closed();
        self.after_raft(ctx);
        self.refresh_status(ctx);
    }

    /// Puts a message into the outbox of the store it is for.
    fn send(&mut self, ctx: &mut Ctx<'_, E>, message: Message) -> Result<(), StoreError> {
        let Some(to) = self.addresses.get(&message.to).copied() else {
            tracing::debug!(range = %self.range_id, to = message.to, "no address for a replica");
            return Ok(());
        };
        let kind = message.get_msg_type();
        if self.is_leader() {
            // Acknowledgements of this message prolong the lease, in which this replica's own
            // support counts as well.
            self.support_self(ctx);
        }
        match kind {
            MessageType::MsgHeartbeat
                if message.context.is_empty() && !self.may_be_unknown(&message) =>
            {
                ctx.outbox.heartbeat(to, self.heartbeat(&message));
            }
            MessageType::MsgHeartbeatResponse if message.context.is_empty() => {
                ctx.outbox.heartbeat_response(to, self.heartbeat(&message));
            }
            MessageType::MsgSnapshot => self.send_snapshot(ctx, to, message)?,
            _ => {
                let sent = self.envelope(&message).map_err(|error| fatal(self.store_id, error))?;
                ctx.outbox.message(to, sent);
            }
        }
        Ok(())
    }

    fn heartbeat(&self, message: &Message) -> RangeHeartbeat {
        RangeHeartbeat {
            range_id: self.range_id.get(),
            from_replica: message.from,
            to_replica: message.to,
            term: message.term,
            commit: message.commit,
        }
    }

    fn envelope(&self, message: &Message) -> Result<RaftMessage, RecordError> {
        let encoded = message
            .write_to_bytes()
            .map_err(|error| RecordError::corrupt("a raft message", error.to_string()))?;
        let granted =
            message.get_msg_type() == MessageType::MsgRequestVoteResponse && !message.reject;
        let (bound, bound_term) = self.promise.bound();
        let unknown = self.may_be_unknown(message);
        Ok(RaftMessage {
            range_id: self.range_id.get(),
            from_replica: message.from,
            to_replica: message.to,
            message: encoded.into(),
            descriptor: self.descriptor.as_ref().filter(|_| unknown).cloned(),
            vote_bound: granted.then(|| bound.into()),
            vote_bound_term: if granted { bound_term } else { 0 },
        })
    }

    /// Whether the receiver may not have the range yet and needs the descriptor to create its
    /// replica: it has acknowledged nothing. Heartbeats carry it as well, because raft sends a
    /// silent replica one append and then waits for it to answer a heartbeat.
    fn may_be_unknown(&self, message: &Message) -> bool {
        matches!(message.get_msg_type(), MessageType::MsgAppend | MessageType::MsgHeartbeat)
            && self.raw.raft.prs().get(message.to).is_some_and(|progress| progress.matched == 0)
    }

    fn send_snapshot(
        &mut self,
        ctx: &mut Ctx<'_, E>,
        to: crdb_keys::StoreId,
        message: Message,
    ) -> Result<(), StoreError> {
        let to_replica = message.to;
        let engine = &ctx.handle.shared.engine;
        let chunk = ctx.config.limits.snapshot_chunk_bytes;
        let (header, stream) = snapshot::begin(engine, self.range_id, message, chunk)
            .map_err(|error| fatal(self.store_id, error))?;
        if let Some(led) = &mut self.leadership {
            led.note_snapshot(to_replica, ctx.now);
        }
        ctx.outputs.snapshots.push(SnapshotSend {
            to,
            range_id: self.range_id,
            to_replica: crdb_keys::ReplicaId(to_replica),
            header,
            stream,
        });
        Ok(())
    }
}
