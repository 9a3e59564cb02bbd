//! A range splits: the replica of the range makes that of the new one.
//!
//! ```text
//! evaluation   whole range latched ─ T = clock ─▶ Split{left, right, T}
//! apply        left: narrower descriptor        ┐ one batch, synced
//!              right: descriptor, empty log,    │
//!                     applied state, hard state ┘
//! then         the store makes the right replica, steps the votes that came early,
//!              and campaigns if the left lease is here; the latch goes
//! ```
//!
//! The keys stay where they are. The right side begins with a lease that ended at T: nobody holds
//! it, its first leaseholder starts above T, and no promise given to the left side matters, since
//! its holder served nothing of the right side from T on.
//!
//! A replica of the right side that comes into being another way before this store has applied the
//! split would lie over its left neighbour. So a store makes no replica, and takes no snapshot, of
//! a range that overlaps one it holds; what it is sent for the right side meanwhile is dropped, but
//! for votes, which are held. A store that was taken out of the right side before it applied the
//! split finds its tombstone, or a newer replica, and clears the keys instead.
//!
//! Invariants:
//! 1. A split takes effect only on the generation it was evaluated for, so that the replicas of
//!    the right side are those of the left.
//! 2. A hard state that the right side has here already is not overwritten by an older one.

use crdb_keys::{RangeId, layout::RangeLocal};
use crdb_proto::kv::RangeDescriptor;
use crdb_storage::{Engine, WriteBatch};

use super::{Ctx, Replica, apply::Effects};
use crate::{
    command::Split,
    io::ProposalResult,
    lease::Lease,
    promise::Promise,
    record::{
        self, AppliedState, HardState, INITIAL_INDEX, INITIAL_TERM, RecordError, ReplicaRecord,
        Tombstone,
    },
    snapshot,
};

/// Why a command about the descriptor did not take effect.
pub(super) const MOVED_ON: &str = "the range or its replicas changed at the same time, try again";

impl<E: Engine> Replica<E> {
    /// Adds a split to `batch`.
    pub(super) fn apply_split(
        &mut self,
        split: Split,
        batch: &mut WriteBatch,
        effects: &mut Effects,
    ) -> Result<ProposalResult, RecordError> {
        if !self.is_next_generation(&split.left) {
            return Ok(ProposalResult::Failed(MOVED_ON));
        }
        if self.makes_right(&split.right)? {
            self.write_right(&split, batch)?;
            effects.created.push(split.right);
        } else {
            tracing::info!(
                range = %self.range_id, right = split.right.range_id,
                "splits, and the right side is no longer here"
            );
            snapshot::clear_data(batch, &split.right);
        }
        self.replace_descriptor(split.left, batch, effects);
        Ok(ProposalResult::Applied)
    }

    /// Adds a new descriptor with the same span and replicas to `batch`.
    pub(super) fn apply_describe(
        &mut self,
        descriptor: RangeDescriptor,
        batch: &mut WriteBatch,
        effects: &mut Effects,
    ) -> ProposalResult {
        if !self.is_next_generation(&descriptor) {
            return ProposalResult::Failed(MOVED_ON);
        }
        self.replace_descriptor(descriptor, batch, effects);
        ProposalResult::Applied
    }

    pub(super) fn replace_descriptor(
        &mut self,
        descriptor: RangeDescriptor,
        batch: &mut WriteBatch,
        effects: &mut Effects,
    ) {
        record::write(batch, self.range_id, RangeLocal::Descriptor, &descriptor);
        self.learn_descriptor(descriptor.clone());
        effects.descriptor = Some(descriptor);
    }

    pub(super) fn is_next_generation(&self, descriptor: &RangeDescriptor) -> bool {
        let generation = self.descriptor.as_ref().map_or(0, |descriptor| descriptor.generation);
        descriptor.generation == generation + 1
    }

    /// Whether this store still has the right side's replica to make.
    fn makes_right(&self, right: &RangeDescriptor) -> Result<bool, RecordError> {
        let (engine, range) = (self.raw.store().engine(), RangeId(right.range_id));
        let own = self.replica_id.get();
        let tombstone: Option<Tombstone> = record::read(engine, range, RangeLocal::Tombstone)?;
        let here: Option<ReplicaRecord> = record::read(engine, range, RangeLocal::Replica)?;
        if record::read::<RangeDescriptor>(engine, range, RangeLocal::Descriptor)?.is_some() {
            return Err(RecordError::corrupt(
                format!("{range}"),
                format!("it holds keys that {} has not given away", self.range_id),
            ));
        }
        let buried = tombstone.is_some_and(|tombstone| own < tombstone.next_replica_id);
        Ok(!buried && here.is_none_or(|here| here.replica_id <= own))
    }

    fn write_right(&self, split: &Split, batch: &mut WriteBatch) -> Result<(), RecordError> {
        let range = RangeId(split.right.range_id);
        let start = self.applied.lease.start();
        let applied = AppliedState {
            index: INITIAL_INDEX,
            term: INITIAL_TERM,
            lease_index: 0,
            lease: Lease::of_split(INITIAL_TERM, start, split.at.into()),
            conf: self.applied.conf.clone(),
            closed: self.applied.closed,
            gc_threshold: self.applied.gc_threshold,
            handover: Some(split.handover.clone()),
        };
        // A replica that was waiting for its first snapshot may have voted.
        let voted: Option<HardState> =
            record::read(self.raw.store().engine(), range, RangeLocal::HardState)?;
        record::write_initial(batch, &split.right, self.replica_id.get(), &applied, voted);
        Ok(())
    }

    /// Whether the lease in force is that of this replica: it is the one to bring the right side
    /// of a split to life.
    pub(crate) fn leads_by_lease(&self) -> bool {
        let lease = &self.applied.lease;
        lease.replica_id == self.replica_id.get()
            && lease.end().is_none()
            && self.leadership.as_ref().is_some_and(|led| led.term == lease.term)
    }

    /// Campaigns without waiting for a timeout, in a range that nobody has led.
    pub(crate) fn campaign_first(&mut self, ctx: &mut Ctx<'_, E>) {
        if self.is_leader() || !self.may_elect(ctx.now) {
            return;
        }
        self.note_campaign();
        if let Err(error) = self.raw.campaign() {
            tracing::debug!(range = %self.range_id, %error, "raft refused to campaign");
        }
        self.after_raft(ctx);
    }

    /// What this replica promised, for the one that takes its place.
    pub(crate) fn into_promise(mut self) -> Promise {
        self.shut_down();
        std::mem::take(&mut self.promise)
    }
}
