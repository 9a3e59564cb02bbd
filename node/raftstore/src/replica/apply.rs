//! Committed entries take effect.
//!
//! `apply` adds the effects of entries to the store's apply batch; `applied` runs once the batch
//! is written, shows them to the evaluations and answers who waits. The batch is not synced: after
//! a crash the log gives the same entries again, and the applied index in the same batch tells
//! which.
//!
//! Whether a command takes effect depends on the replicated state alone, so every replica decides
//! alike.

use bytes::Bytes;
use crdb_keys::{ReplicaId, Timestamp, layout::RangeLocal};
use crdb_proto::kv::RangeDescriptor;
use crdb_storage::{Engine, WriteBatch};
use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType};

use super::{Ctx, Pending, Replica, fatal};
use crate::{
    command::{Command, Kind},
    handover::{Handed, Handover},
    io::{DescriptorChange, ProposalResult, StoreError},
    record::{self, ConfState, RecordError},
};

/// What applying entries leaves to do once the batch is written.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    decided: Vec<(Pending, ProposalResult)>,
    pub(super) descriptor: Option<RangeDescriptor>,
    /// New ranges that split off, whose replicas here are to be made.
    pub(crate) created: Vec<RangeDescriptor>,
    pub(super) lease_changed: bool,
    /// What the lease that began takes over.
    handover: Option<Handover>,
    index: u64,
}

impl Effects {
    /// Whether the span or the replicas of the range changed.
    pub(crate) fn changes_descriptor(&self) -> bool {
        self.descriptor.is_some()
    }
}

impl<E: Engine> Replica<E> {
    /// Adds the effects of `entries` to `batch`.
    pub(crate) fn apply(
        &mut self,
        entries: Vec<Entry>,
        batch: &mut WriteBatch,
    ) -> Result<Option<Effects>, StoreError> {
        if entries.is_empty() {
            return Ok(None);
        }
        let mut effects = Effects::default();
        for entry in entries {
            let (index, term) = (entry.index, entry.term);
            if index != self.applied.index + 1 {
                return Err(self
                    .bug(format!("entry {index} is to be applied behind {}", self.applied.index)));
            }
            let outcome = self
                .apply_entry(entry, batch, &mut effects)
                .map_err(|error| fatal(self.store_id, error))?;
            self.applied.index = index;
            self.applied.term = term;
            effects.decided.extend(self.decide(index, term, outcome));
        }
        effects.index = self.applied.index;
        record::write(batch, self.range_id, RangeLocal::AppliedState, &self.applied);
        Ok(Some(effects))
    }

    fn bug(&self, detail: String) -> StoreError {
        StoreError::Raft { store: self.store_id, range_id: self.range_id, detail }
    }

    fn apply_entry(
        &mut self,
        entry: Entry,
        batch: &mut WriteBatch,
        effects: &mut Effects,
    ) -> Result<ProposalResult, RecordError> {
        match entry.get_entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => Ok(ProposalResult::Refused),
            EntryType::EntryNormal => {
                let command = self.decode(&entry, entry.data.clone())?;
                self.apply_command(&entry, command, batch, effects)
            }
            EntryType::EntryConfChangeV2 | EntryType::EntryConfChange => {
                self.apply_conf_change(&entry, batch, effects)
            }
        }
    }

    fn decode(&self, entry: &Entry, data: Bytes) -> Result<Command, RecordError> {
        Command::decode(data).map_err(|error| {
            RecordError::corrupt(
                format!("entry {} of {}", entry.index, self.range_id),
                error.to_string(),
            )
        })
    }

    /// Whether `command` was evaluated under the lease in force, and is not applied yet.
    fn is_fenced_off(&self, entry: &Entry, command: &Command) -> bool {
        let lease = &self.applied.lease;
        command.lease_sequence != lease.sequence
            || entry.term != lease.term
            || lease.end().is_some()
            || command.lease_index <= self.applied.lease_index
    }

    fn apply_command(
        &mut self,
        entry: &Entry,
        command: Command,
        batch: &mut WriteBatch,
        effects: &mut Effects,
    ) -> Result<ProposalResult, RecordError> {
        if let Some(Kind::AcquireLease(acquire)) = &command.kind {
            if entry.term > self.applied.lease.term {
                let replica = ReplicaId(acquire.replica_id);
                self.applied.lease = self.applied.lease.successor(
                    entry.term,
                    replica,
                    acquire.now(),
                    &acquire.bounds,
                );
                effects.lease_changed = true;
                effects.handover = self.applied.handover.take();
                effects.decided.extend(self.supersede(self.applied.lease.sequence));
            }
            return Ok(ProposalResult::Applied);
        }
        if self.is_fenced_off(entry, &command) {
            tracing::debug!(
                range = %self.range_id, index = entry.index, lease = command.lease_sequence,
                "a command came after its lease"
            );
            return Ok(ProposalResult::NotLeaseholder);
        }
        self.applied.lease_index = command.lease_index;
        self.applied.closed = latest(self.applied.closed, command.closed);
        match command.kind {
            Some(Kind::Write(effect)) => batch.append(WriteBatch::decode(effect)?),
            Some(Kind::EndLease(end)) => {
                self.applied.lease = self.applied.lease.ended(end.end.into());
                self.applied.closed = latest(self.applied.closed, Some(end.handover.closed));
                self.applied.handover = Some(end.handover);
                effects.lease_changed = true;
            }
            Some(Kind::Truncate(index)) => {
                let index = index.min(entry.index.saturating_sub(1));
                self.raw.mut_store().truncate(index, batch)?;
            }
            Some(Kind::Split(split)) => return self.apply_split(*split, batch, effects),
            Some(Kind::Gc(gc)) => {
                self.applied.gc_threshold = latest(self.applied.gc_threshold, Some(gc.threshold));
                // Before the versions go, so that nobody misses them unawares.
                self.handle.history.raise_threshold(gc.threshold.into());
                batch.append(WriteBatch::decode(gc.batch)?);
            }
            Some(Kind::Describe(descriptor)) => {
                return Ok(self.apply_describe(descriptor, batch, effects));
            }
            Some(Kind::ChangeReplicas(_) | Kind::AcquireLease(_)) | None => {
                return Err(RecordError::corrupt(
                    format!("entry {} of {}", entry.index, self.range_id),
                    "its command is of a kind this version does not know",
                ));
            }
        }
        Ok(ProposalResult::Applied)
    }

    fn apply_conf_change(
        &mut self,
        entry: &Entry,
        batch: &mut WriteBatch,
        effects: &mut Effects,
    ) -> Result<ProposalResult, RecordError> {
        let corrupt = |detail: String| {
            RecordError::corrupt(format!("entry {} of {}", entry.index, self.range_id), detail)
        };
        let change = ConfChangeV2::parse_from_bytes(&entry.data)
            .map_err(|error| corrupt(error.to_string()))?;
        let command = self.decode(entry, entry.context.clone())?;
        let Some(Kind::ChangeReplicas(descriptor)) = &command.kind else {
            return Err(corrupt("a change of the configuration without a descriptor".into()));
        };
        if self.is_fenced_off(entry, &command) || !self.is_next_generation(descriptor) {
            return Ok(ProposalResult::NotLeaseholder);
        }
        let conf = self
            .raw
            .apply_conf_change(&change)
            .map_err(|error| corrupt(format!("raft does not take the change: {error}")))?;
        self.applied.lease_index = command.lease_index;
        self.applied.closed = latest(self.applied.closed, command.closed);
        self.applied.conf = ConfState::from_raft(&conf);
        self.replace_descriptor(descriptor.clone(), batch, effects);
        Ok(ProposalResult::Applied)
    }

    /// Goes on when the applied lease changed: another began, or the present one ended.
    fn turn_lease(&self, ctx: &Ctx<'_, E>, handover: Option<&Handover>) {
        let lease = &self.applied.lease;
        if lease.replica_id != self.replica_id.get() {
            self.handle.set_serving(None);
        } else if lease.end().is_none() {
            let (now, config) = (ctx.now, ctx.config);
            let handed = handover.map(|handover| Handed { handover, now, config });
            self.handle.begin_lease(lease.sequence, lease.start(), handed);
        }
    }

    /// Goes on after the apply batch was written.
    pub(crate) fn applied(&mut self, ctx: &mut Ctx<'_, E>, effects: Effects) {
        let applied = (effects.index, self.applied.term);
        self.raw.mut_store().set_applied(applied, &self.applied.conf);
        self.raw.advance_apply_to(effects.index);
        if effects.lease_changed {
            self.turn_lease(ctx, effects.handover.as_ref());
        }
        // The others need not wait for the next heartbeat: a new range has to be made everywhere
        // before it can serve.
        if self.is_leader() && (effects.lease_changed || effects.changes_descriptor()) {
            self.raw.ping();
        }
        // The keys given away first: what is closed now was written elsewhere, there.
        if let Some(descriptor) = &effects.descriptor {
            self.handle.set_descriptor(descriptor.clone());
        }
        self.publish_closed();
        self.settle_transfer(&effects);
        if let Some(descriptor) = effects.descriptor {
            let own = self.replica_id.get();
            if !descriptor.replicas.iter().any(|replica| replica.replica_id == own) {
                self.removed = Some(descriptor.clone());
            }
            ctx.outputs.descriptors.push(DescriptorChange { leader: self.is_leader(), descriptor });
            // Until a joint configuration is left, the range needs the old voters as well.
            if self.is_leader() && self.applied.conf.is_joint() {
                self.run_replicate_queue(ctx);
            }
        } else if effects.lease_changed && self.leads_by_lease() {
            // The leaseholder before may have died before it had written the meta entry.
            let descriptor = self.descriptor.clone();
            ctx.outputs
                .descriptors
                .extend(descriptor.map(|descriptor| DescriptorChange { descriptor, leader: true }));
        }
        self.after_raft(ctx);
        // Latches and answers last: who is woken must find everything in place.
        for (pending, result) in effects.decided {
            pending.complete(result);
        }
        self.propose_waiting(ctx);
    }
}

fn latest(
    one: Option<crdb_proto::kv::Timestamp>,
    other: Option<crdb_proto::kv::Timestamp>,
) -> Option<crdb_proto::kv::Timestamp> {
    let newest = one.map(Timestamp::from).max(other.map(Timestamp::from));
    newest.map(Into::into)
}
