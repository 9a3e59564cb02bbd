//! What time does to a replica.

use crdb_keys::StoreId;
use crdb_storage::Engine;
use raft::StateRole;

use super::{Ctx, Leadership, Replica};
use crate::{command::Kind, handle::RangeStatus};

impl<E: Engine> Replica<E> {
    /// One tick of the store, the `count`-th.
    pub(crate) fn tick(&mut self, ctx: &mut Ctx<'_, E>, count: u64) {
        if self.is_leader() {
            self.raw.tick();
            self.after_raft(ctx);
            self.tick_leader(ctx);
            self.propose_waiting(ctx);
            let due = count.is_multiple_of(ctx.config.limits.queue_ticks);
            if self.is_leader() && (due || self.is_log_long(ctx)) {
                self.maybe_truncate(ctx);
            }
            if self.is_leader() && due {
                self.run_replicate_queue(ctx);
            }
            // In a joint configuration the old voters are needed too: who left now might be all of
            // them.
            if ctx.draining && !self.applied.conf.is_joint() && self.has_transfer_target(ctx) {
                self.transfer_lease(ctx, None);
            }
        } else {
            self.tick_follower(ctx);
        }
        self.expire_transfer_waiters(ctx.now);
        self.refresh_status(ctx);
    }

    /// Ticks a replica that does not lead, but never into a campaign that its promise forbids.
    fn tick_follower(&mut self, ctx: &mut Ctx<'_, E>) {
        let raft = &self.raw.raft;
        let due = raft.election_elapsed + 1 >= raft.randomized_election_timeout();
        if due && !self.may_elect(ctx.now) {
            return;
        }
        if due && raft.promotable() {
            self.note_campaign();
        }
        self.raw.tick();
        self.after_raft(ctx);
        if self.raw.raft.leader_id == 0 {
            self.silent_ticks += 1;
        }
        // A learner never campaigns and so never forgets its leader: that it hears nothing is all
        // it can know of its removal.
        let raft = &self.raw.raft;
        let unheard = if raft.promotable() { 0 } else { raft.election_elapsed };
        let unheard = u32::try_from(unheard).unwrap_or(u32::MAX).max(self.silent_ticks);
        if unheard > 0 && unheard.is_multiple_of(ctx.config.limits.probe_ticks) {
            self.probe(ctx);
        }
    }

    /// Asks the other replicas whether this one was removed. A removed learner hears nothing any
    /// more, not even that.
    fn probe(&mut self, ctx: &mut Ctx<'_, E>) {
        let stores: std::collections::BTreeSet<StoreId> =
            self.addresses.values().copied().filter(|store| *store != self.store_id).collect();
        for store in stores {
            ctx.outbox.probe(store, self.range_id, self.replica_id.get());
        }
    }

    /// Whether one command may not be enough to cut the log to its size.
    fn is_log_long(&self, ctx: &Ctx<'_, E>) -> bool {
        self.raw.store().bytes() >= ctx.config.limits.log_bytes_max
    }

    /// Proposes to cut the log when enough of it is applied everywhere, or when it is too long to
    /// be kept for those that are away, or much too long for one that is here and lags: cut off, it
    /// would need the whole range.
    fn maybe_truncate(&mut self, ctx: &mut Ctx<'_, E>) {
        let bytes = self.raw.store().bytes();
        let limits = ctx.config.limits;
        let Some(led) = &self.leadership else { return };
        // The receiver of a snapshot needs the log behind it.
        if bytes < limits.log_bytes_stale || led.has_snapshots() || led.is_transferring() {
            return;
        }
        let applied = self.applied.index;
        let replicas = self.raw.raft.prs().iter();
        let needed = replicas.filter(|(replica, _)| {
            let lag_max =
                if self.is_responsive(ctx, **replica) { limits.log_bytes_lag_max } else { 0 };
            bytes < limits.log_bytes_max.max(lag_max)
        });
        let slowest = needed.map(|(_, progress)| progress.matched).min();
        let truncated = self.raw.store().truncated_index();
        let index = slowest.unwrap_or(applied).min(applied);
        let index = index.min(truncated.saturating_add(limits.truncated_entries_max));
        let lease = &self.applied.lease;
        let current = lease.term == led.term && lease.end().is_none();
        if !current || index <= truncated.max(led.truncation) {
            return;
        }
        let sequence = lease.sequence;
        if self.propose_command(ctx, sequence, Kind::Truncate(index)).is_some()
            && let Some(led) = &mut self.leadership
        {
            led.truncation = index;
        }
    }

    /// Writes down what status commands show.
    pub(crate) fn refresh_status(&mut self, ctx: &Ctx<'_, E>) {
        let Some(descriptor) = &self.descriptor else { return };
        let raft = &self.raw.raft;
        let is_leader = raft.state == StateRole::Leader;
        let is_leaseholder = self.handle.lease.get().is_some();
        let voters = &self.applied.conf.voters;
        let live = voters.iter().filter(|voter| self.is_responsive(ctx, **voter)).count();
        let wanted = crdb_allocator::replica_target(descriptor, ctx.stores).max(voters.len());
        self.handle.set_status(RangeStatus {
            descriptor: descriptor.clone(),
            replica_id: self.replica_id,
            term: raft.term,
            is_leader,
            is_leaseholder,
            transferring: self.leadership.as_ref().is_some_and(Leadership::is_transferring),
            leader: self.addresses.get(&raft.leader_id).copied(),
            applied_index: self.applied.index,
            last_index: self.raw.store().last_index(),
            log_bytes: self.raw.store().bytes(),
            under_replicated: is_leader && (live < wanted || self.applied.conf.is_joint()),
            unavailable: if is_leader { !is_leaseholder } else { raft.leader_id == 0 },
            live_voters: if is_leader { live } else { 0 },
        });
    }
}
