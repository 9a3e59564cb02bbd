//! The lease of a leader: gaining it, keeping it, giving it to another replica.
//!
//! Transfer, step by step:
//! 1. the lease cell is cleared, so that nothing new is served, and the whole range is latched, so
//!    that what is being written is decided;
//! 2. at T, the clock's present, "lease ended at T" goes through the log: the next lease starts
//!    above T and need not wait for the bounds of promises to this one;
//! 3. raft hands leadership to the target, whose votes are forced and pass every promise;
//! 4. if that has not happened within [`Limits::transfer_wait`], this replica steps down and campaigns itself, by
//!    force as well: it never serves again in a term whose lease it ended.

use std::{collections::BTreeMap, task::Waker};

use crdb_keys::{ReplicaId, StoreId};
use crdb_storage::Engine;
use prost::Message as _;
use raft::{
    SnapshotStatus,
    eraftpb::{Message, MessageType},
};

use super::{Ctx, Replica, apply::Effects};
use crate::{
    command::{AcquireLease, Command, EndLease, Kind},
    config::{Mono, PlantedBug},
    handle::{Completion, LatchGuard},
    io::ProposalResult,
    lease::{Bound, Serving},
    limits::Limits,
    promise,
};

#[derive(Debug)]
enum Stage {
    /// Waiting for the latch on the whole range.
    Latching,
    /// The end of the lease is in the log.
    Ending,
    /// The lease has ended; leadership moves.
    Moving,
}

#[derive(Debug)]
struct Transfer {
    target: Option<StoreId>,
    stage: Stage,
    since: Mono,
    /// Held until leadership is lost, so that those who wait behind it find a new leader.
    guard: LatchGuard,
}

/// What a replica keeps while it leads.
#[derive(Debug)]
pub(crate) struct Leadership {
    pub(crate) term: u64,
    /// The largest lease index given to a command.
    pub(crate) lease_index: u64,
    /// Since when the leader has had no valid lease.
    lapsed_since: Option<Mono>,
    transfer: Option<Transfer>,
    /// Snapshots under way, by replica.
    snapshots: BTreeMap<u64, Mono>,
    /// Index of the last truncation proposed.
    pub(crate) truncation: u64,
}

impl Leadership {
    pub(crate) fn is_transferring(&self) -> bool {
        self.transfer.is_some()
    }

    pub(crate) fn note_snapshot(&mut self, replica: u64, now: Mono) {
        self.snapshots.insert(replica, now);
    }

    pub(crate) fn has_snapshots(&self) -> bool {
        !self.snapshots.is_empty()
    }
}

impl<E: Engine> Replica<E> {
    /// Begins to lead: proposes the lease right behind raft's own empty entry.
    pub(super) fn gain_leadership(&mut self, ctx: &mut Ctx<'_, E>) {
        let term = self.raw.raft.term;
        tracing::info!(range = %self.range_id, replica = %self.replica_id, term, "became leader");
        self.tracker.clear();
        self.failed_campaigns = 0;
        self.jitter = 0;
        self.leadership = Some(Leadership {
            term,
            lease_index: self.applied.lease_index,
            lapsed_since: Some(ctx.now),
            transfer: None,
            snapshots: BTreeMap::new(),
            truncation: 0,
        });
        self.show_role();
        let mut bounds: Vec<Bound> = Vec::new();
        if self.votes_term == term {
            bounds.extend(self.votes.values().cloned());
        }
        if !ctx.config.has(PlantedBug::LeaseForgetsOwnBound) {
            bounds.push(Bound::new(self.promise.bound()));
        }
        let acquire =
            AcquireLease { replica_id: self.replica_id.get(), now: ctx.clock.now().into(), bounds };
        let command = Command { kind: Some(Kind::AcquireLease(acquire)), ..Command::default() };
        if let Err(error) = self.raw.propose(Vec::new(), command.encode_to_vec()) {
            // Raft takes a small proposal from a new leader; if not, another one must lead.
            tracing::warn!(range = %self.range_id, %error, "the lease could not be proposed");
            self.raw.raft.become_follower(term, 0);
            self.lose_leadership();
        }
    }

    /// Ends leading: nothing is served from here on.
    pub(super) fn lose_leadership(&mut self) {
        if let Some(led) = self.leadership.take() {
            tracing::info!(
                range = %self.range_id, replica = %self.replica_id, term = led.term, "leads no more"
            );
            self.handle.set_serving(None);
            self.tracker.clear();
            self.show_role();
            self.refuse_waiting();
            // The latch of a transfer goes with `led`: who waited behind it finds the lease gone.
        }
    }

    /// Records, as the leader, the bound of the support that the leader gives itself.
    pub(super) fn support_self(&mut self, ctx: &Ctx<'_, E>) {
        if !ctx.config.has(PlantedBug::LeaseForgetsOwnBound) {
            let term = self.raw.raft.term;
            self.promise.record_bound(ctx.sent.timestamp, term, &ctx.config.timing);
        }
    }

    /// Works out until when the leader may serve, and lets the evaluations know.
    pub(crate) fn renew(&mut self, ctx: &mut Ctx<'_, E>) {
        let Some(led) = &self.leadership else { return };
        let own = self.replica_id.get();
        let lease = &self.applied.lease;
        let conf = &self.applied.conf;
        let voter = conf.voters.contains(&own) || conf.voters_outgoing.contains(&own);
        let holds = voter
            && led.transfer.is_none()
            && lease.term == led.term
            && lease.replica_id == own
            && lease.end().is_none();
        let quorum = ctx.stamp.filter(|_| holds).and_then(|_| {
            self.tracker.quorum(own, ctx.sent, [&conf.voters[..], &conf.voters_outgoing[..]])
        });
        let mut serving = quorum
            .map(|quorum| Serving::new(&self.applied.lease, quorum, &ctx.config.timing))
            .filter(|serving| ctx.now < serving.expires);
        if let (Some(serving), Some(stamp), true) = (&mut serving, ctx.stamp, self.is_sole_voter())
        {
            // Nobody else keeps a bound of what a sole voter serves; its stamp does.
            serving.bound = serving.bound.min(promise::sole_voter_bound(stamp));
        }
        if serving.is_some() {
            self.support_self(ctx);
        }
        if let Some(led) = &mut self.leadership {
            led.lapsed_since = match serving {
                Some(_) => None,
                None => led.lapsed_since.or(Some(ctx.now)),
            };
        }
        self.handle.set_serving(serving);
    }

    /// Looks after a leader once a tick: pings while the lease has lapsed, steps down after E
    /// without one, forgets lost snapshots.
    pub(super) fn tick_leader(&mut self, ctx: &mut Ctx<'_, E>) {
        let Some(led) = &mut self.leadership else { return };
        let lost: Vec<u64> = led
            .snapshots
            .iter()
            .filter(|(_, since)| ctx.now.since(**since) > ctx.config.limits.snapshot_wait)
            .map(|(replica, _)| *replica)
            .collect();
        let lapsed = led.lapsed_since.map(|since| ctx.now.since(since));
        let moving = led.transfer.is_some();
        for replica in lost {
            self.report_snapshot(ctx, replica, false);
        }
        match lapsed {
            Some(lapsed) if lapsed > ctx.config.timing.election_timeout() && !moving => {
                tracing::info!(range = %self.range_id, "steps down: no lease for an election timeout");
                let term = self.raw.raft.term;
                self.raw.raft.become_follower(term, 0);
                self.after_raft(ctx);
            }
            Some(_) => {
                self.raw.ping();
                self.after_raft(ctx);
                self.handle.wake_lease_waiters();
            }
            None => {}
        }
    }

    /// Takes in the end of a snapshot's way.
    pub(crate) fn report_snapshot(&mut self, ctx: &mut Ctx<'_, E>, replica: u64, accepted: bool) {
        let Some(led) = &mut self.leadership else { return };
        led.snapshots.remove(&replica);
        let status = if accepted { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(replica, status);
        self.after_raft(ctx);
    }

    /// Begins to give the lease away, if this replica has it.
    pub(crate) fn transfer_lease(&mut self, ctx: &mut Ctx<'_, E>, target: Option<StoreId>) {
        let Some(led) = &mut self.leadership else { return };
        let lease = &self.applied.lease;
        if led.transfer.is_some() || lease.term != led.term || lease.end().is_some() {
            return;
        }
        self.handle.set_serving(None);
        led.lapsed_since = led.lapsed_since.or(Some(ctx.now));
        let guard = self.handle.latches.acquire_all();
        led.transfer = Some(Transfer { target, stage: Stage::Latching, since: ctx.now, guard });
        self.refuse_waiting();
        self.show_role();
        self.handle.wake_lease_waiters();
        self.advance_transfer(ctx);
    }

    /// Begins to give the lease to the store `target`, and tells `slot` when it is elsewhere, or
    /// that it stays.
    pub(super) fn transfer_for(&mut self, ctx: &mut Ctx<'_, E>, target: StoreId, slot: Completion) {
        let there = self.transfer_target(ctx, Some(target));
        if !there.is_some_and(|replica| self.is_responsive(ctx, replica.get())) {
            let why = "the lease stays: the node it is for was not heard from lately";
            return slot.complete(ProposalResult::Failed(why));
        }
        self.transfer_waiters.push((slot, ctx.now.after(ctx.config.limits.transfer_answer)));
        self.transfer_lease(ctx, Some(target));
    }

    /// Tells those who wait for a transfer what the applied lease says about it.
    pub(super) fn settle_transfer(&mut self, effects: &Effects) {
        let lease = &self.applied.lease;
        if !effects.lease_changed || lease.end().is_some() || self.transfer_waiters.is_empty() {
            return;
        }
        let elsewhere = lease.replica_id != self.replica_id.get();
        let result = if elsewhere {
            ProposalResult::Applied
        } else {
            ProposalResult::Failed("the lease stays: the node it is for did not take it in time")
        };
        self.answer_transfer(result);
    }

    fn answer_transfer(&mut self, result: ProposalResult) {
        for (slot, _) in self.transfer_waiters.drain(..) {
            slot.complete(result);
        }
    }

    /// Lets go of those who have waited long enough for a transfer.
    pub(super) fn expire_transfer_waiters(&mut self, now: Mono) {
        let expired = |(_, until): &mut (Completion, Mono)| *until <= now;
        for (slot, _) in self.transfer_waiters.extract_if(.., expired) {
            slot.complete(ProposalResult::Failed(
                "the lease was given up, and nobody is known to have taken it yet",
            ));
        }
    }

    /// Takes a transfer as far as it goes now.
    pub(crate) fn advance_transfer(&mut self, ctx: &mut Ctx<'_, E>) {
        let Some(transfer) = self.leadership.as_ref().and_then(|led| led.transfer.as_ref()) else {
            return;
        };
        match transfer.stage {
            Stage::Latching if transfer.guard.is_granted(Waker::noop()) => self.end_lease(ctx),
            Stage::Latching
                if ctx.now.since(transfer.since) > ctx.config.limits.transfer_latch_wait =>
            {
                self.give_up_transfer("writes under way were not decided in time");
            }
            Stage::Latching => {}
            Stage::Ending if self.applied.lease.end().is_some() => self.move_leadership(ctx),
            Stage::Ending => {}
            Stage::Moving if ctx.now.since(transfer.since) > ctx.config.limits.transfer_wait => {
                self.reelect_self(ctx);
            }
            Stage::Moving => {}
        }
    }

    /// When a transfer wants to be looked at again.
    pub(crate) fn transfer_deadline(&self, limits: &Limits) -> Option<Mono> {
        let transfer = self.leadership.as_ref()?.transfer.as_ref()?;
        Some(transfer.since.after(limits.transfer_wait))
    }

    fn end_lease(&mut self, ctx: &mut Ctx<'_, E>) {
        let sequence = self.applied.lease.sequence;
        let end = ctx.clock.now();
        let handover = self.handle.hand_over(None, &ctx.config.limits, ctx.now);
        let end = EndLease { end: end.into(), handover };
        match self.propose_command(ctx, sequence, Kind::EndLease(end)) {
            Some(pending) => {
                // Nobody waits for it; it is watched through the applied lease.
                pending.complete(ProposalResult::Applied);
                if let Some(transfer) =
                    self.leadership.as_mut().and_then(|led| led.transfer.as_mut())
                {
                    transfer.stage = Stage::Ending;
                    transfer.since = ctx.now;
                }
            }
            None => self.give_up_transfer("raft refused the end of the lease"),
        }
    }

    fn give_up_transfer(&mut self, why: &str) {
        tracing::info!(range = %self.range_id, why, "keeps the lease");
        if let Some(led) = &mut self.leadership {
            led.transfer = None;
        }
        self.answer_transfer(ProposalResult::Failed(
            "the lease stays: writes under way were not decided in time",
        ));
        self.show_role();
    }

    fn move_leadership(&mut self, ctx: &mut Ctx<'_, E>) {
        let Some(transfer) = self.leadership.as_mut().and_then(|led| led.transfer.as_mut()) else {
            return;
        };
        transfer.stage = Stage::Moving;
        transfer.since = ctx.now;
        let target = transfer.target;
        if let Some(replica) = self.transfer_target(ctx, target) {
            tracing::info!(range = %self.range_id, to = %replica, "transfers leadership");
            self.raw.transfer_leader(replica.get());
            self.after_raft(ctx);
        }
    }

    /// The voter to hand leadership to: the one on `target`, or the one with most of the log.
    fn transfer_target(&self, ctx: &Ctx<'_, E>, target: Option<StoreId>) -> Option<ReplicaId> {
        let own = self.replica_id.get();
        self.applied
            .conf
            .voters
            .iter()
            .filter(|voter| **voter != own)
            .filter(|voter| target.is_none() || self.addresses.get(voter) == target.as_ref())
            .filter_map(|voter| Some((voter, self.raw.raft.prs().get(*voter)?)))
            .max_by_key(|(voter, progress)| {
                (self.is_responsive(ctx, **voter), progress.matched, std::cmp::Reverse(**voter))
            })
            .map(|(voter, _)| ReplicaId(*voter))
    }

    /// Whether somebody could take the lease.
    pub(crate) fn has_transfer_target(&self, ctx: &Ctx<'_, E>) -> bool {
        self.applied
            .conf
            .voters
            .iter()
            .any(|voter| *voter != self.replica_id.get() && self.is_responsive(ctx, *voter))
    }

    /// The transfer did not happen: leads in a new term instead.
    fn reelect_self(&mut self, ctx: &mut Ctx<'_, E>) {
        tracing::info!(range = %self.range_id, "the transfer did not happen, campaigns again");
        let term = self.raw.raft.term;
        self.raw.raft.become_follower(term, 0);
        self.after_raft(ctx);
        let mut timeout = Message::default();
        timeout.set_msg_type(MessageType::MsgTimeoutNow);
        timeout.from = self.replica_id.get();
        timeout.to = self.replica_id.get();
        self.note_campaign();
        if let Err(error) = self.raw.raft.step(timeout) {
            tracing::debug!(range = %self.range_id, %error, "raft refused to campaign");
        }
        self.after_raft(ctx);
    }

    /// Leads at once if no other voter is needed.
    pub(crate) fn campaign_if_sole(&mut self, ctx: &mut Ctx<'_, E>) {
        if self.is_initialized() && self.is_sole_voter() && !self.is_leader() {
            if let Err(error) = self.raw.campaign() {
                tracing::warn!(range = %self.range_id, %error, "raft refused to campaign");
            }
            self.after_raft(ctx);
        }
    }
}
