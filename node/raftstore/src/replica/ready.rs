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
                for piece in pieces(message, ctx.config.limits.batch_bytes_max) {
                    let sent =
                        self.envelope(&piece).map_err(|error| fatal(self.store_id, error))?;
                    ctx.outbox.message(to, sent);
                }
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

/// Cuts an append, into which raft merges all that a replica that comes back has missed, into
/// several of about `bytes_max` bytes each. One entry goes whatever its size.
fn pieces(mut message: Message, bytes_max: usize) -> Vec<Message> {
    let size = |entry: &Entry| entry.data.len() + entry.context.len();
    let total: usize = message.get_entries().iter().map(size).sum();
    if message.get_msg_type() != MessageType::MsgAppend || total <= bytes_max {
        return vec![message];
    }
    let entries = message.take_entries();
    let mut pieces = vec![message];
    let mut bytes = 0;
    for entry in entries {
        let Some(last) = pieces.last_mut() else { break };
        let before = last.get_entries().last().map(|entry| (entry.index, entry.term));
        if let Some((index, log_term)) = before
            && bytes + size(&entry) > bytes_max
        {
            let mut next = last.clone();
            next.clear_entries();
            (next.index, next.log_term) = (index, log_term);
            pieces.push(next);
            bytes = 0;
        }
        bytes += size(&entry);
        if let Some(last) = pieces.last_mut() {
            last.mut_entries().push(entry);
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_append_is_cut_between_entries() {
        let mut append = Message { index: 6, log_term: 2, commit: 9, ..Message::default() };
        append.set_msg_type(MessageType::MsgAppend);
        for (index, term, bytes) in [(7, 2, 40), (8, 3, 40), (9, 3, 500), (10, 4, 10), (11, 4, 10)]
        {
            let data = vec![0; bytes].into();
            append.mut_entries().push(Entry { index, term, data, ..Entry::default() });
        }
        let shape = |bytes_max| {
            pieces(append.clone(), bytes_max)
                .into_iter()
                .map(|piece| {
                    assert_eq!((piece.get_msg_type(), piece.commit), (MessageType::MsgAppend, 9));
                    let entries: Vec<_> = piece.get_entries().iter().map(|e| e.index).collect();
                    (piece.index, piece.log_term, entries)
                })
                .collect::<Vec<_>>()
        };
        let cut = [(6, 2, vec![7, 8]), (8, 3, vec![9]), (9, 3, vec![10, 11])];
        assert_eq!(shape(100), cut);
        assert_eq!(shape(600), [(6, 2, vec![7, 8, 9, 10, 11])]);
        let single = [
            (6, 2, vec![7]),
            (7, 2, vec![8]),
            (8, 3, vec![9]),
            (9, 3, vec![10]),
            (10, 4, vec![11]),
        ];
        assert_eq!(shape(1), single);
    }
}
