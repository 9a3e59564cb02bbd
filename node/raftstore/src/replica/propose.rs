//! Commands on their way into the log.
//!
//! A proposal is remembered with the index and term of its entry. An entry applied at that index
//! decides: of the same term, it is the proposal; of another, the proposal was overwritten and
//! never takes effect. Nothing is proposed twice.
//!
//! Of a range only so many bytes are on their way. What comes beyond waits, with its latches, in
//! the order in which it came, until some of that is applied: each gets its turn, and none is sent
//! away to come again and again while others pass.

use std::sync::atomic::Ordering;

use crdb_storage::Engine;
use prost::Message as _;

use super::{Ctx, Replica};
use crate::{
    command::{Command, Kind},
    evaluate::Held,
    handle::Completion,
    io::{Effect, Proposal, ProposalResult},
};

/// What a command takes in the log beside its effect, at most.
const ENVELOPE_BYTES: usize = 256;

/// A command in the log, or on its way there, and who waits for it.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) lease_sequence: u64,
    slot: Option<Completion>,
    held: Option<Box<Held>>,
}

impl Pending {
    /// Lets the lock table and those who wait know, and gives the latches back.
    pub(crate) fn complete(mut self, result: ProposalResult) {
        self.finish(result);
    }

    fn finish(&mut self, result: ProposalResult) {
        if let Some(held) = self.held.take() {
            held.complete(result);
        }
        if let Some(slot) = self.slot.take() {
            slot.complete(result);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.finish(ProposalResult::Ambiguous);
    }
}

impl<E: Engine> Replica<E> {
    /// Takes up what an evaluation asks for, or says at once that it never will come about.
    pub(crate) fn propose(&mut self, ctx: &mut Ctx<'_, E>, proposal: Proposal) {
        if !self.fits(&proposal) {
            return proposal.slot.complete(ProposalResult::NotLeaseholder);
        }
        let is_command = matches!(proposal.effect, Effect::Command(_));
        if is_command && !(self.waiting.is_empty() && self.has_room(ctx, proposal.size())) {
            return self.wait_for_turn(ctx, proposal);
        }
        self.propose_now(ctx, proposal);
    }

    /// Whether the lease under which `proposal` was evaluated is in force here.
    fn fits(&self, proposal: &Proposal) -> bool {
        let lease = &self.applied.lease;
        self.leadership.as_ref().is_some_and(|led| {
            !led.is_transferring()
                && lease.term == led.term
                && lease.end().is_none()
                && lease.sequence == proposal.lease_sequence
        })
    }

    /// Whether the log takes another `bytes` bytes: also if nothing is on its way that would make
    /// room.
    fn has_room(&self, ctx: &Ctx<'_, E>, bytes: usize) -> bool {
        let max = usize::try_from(ctx.config.limits.uncommitted_bytes_max).unwrap_or(usize::MAX);
        let under_way = self.raw.raft.uncommitted_size();
        let encoded = bytes.saturating_add(ENVELOPE_BYTES);
        under_way == 0 || self.pending.is_empty() || under_way.saturating_add(encoded) <= max
    }

    fn wait_for_turn(&mut self, ctx: &Ctx<'_, E>, proposal: Proposal) {
        let waiting: usize = self.waiting.iter().map(Proposal::size).sum();
        let max = ctx.config.limits.waiting_bytes_max;
        if !self.waiting.is_empty() && waiting.saturating_add(proposal.size()) > max {
            proposal.slot.complete(ProposalResult::Refused);
        } else {
            self.waiting.push_back(proposal);
        }
    }

    /// Proposes what has waited long enough, because some of what was under way is applied.
    pub(super) fn propose_waiting(&mut self, ctx: &mut Ctx<'_, E>) {
        while let Some(first) = self.waiting.front() {
            let fits = self.fits(first);
            if fits && !self.has_room(ctx, first.size()) {
                break;
            }
            let Some(first) = self.waiting.pop_front() else { break };
            if fits {
                self.propose_now(ctx, first);
            } else {
                first.slot.complete(ProposalResult::NotLeaseholder);
            }
        }
    }

    /// Sends away what waits for its turn: no log has it, and none will.
    pub(super) fn refuse_waiting(&mut self) {
        for proposal in self.waiting.drain(..) {
            proposal.slot.complete(ProposalResult::NotLeaseholder);
        }
    }

    fn propose_now(&mut self, ctx: &mut Ctx<'_, E>, proposal: Proposal) {
        let Proposal { lease_sequence, effect, held, slot, .. } = proposal;
        let kind = match effect {
            Effect::Command(kind) => kind,
            Effect::TransferLease(target) => return self.transfer_for(ctx, target, slot),
        };
        if let Some(pending) = self.propose_command(ctx, lease_sequence, kind) {
            self.pending.push_back(Pending { slot: Some(slot), held, ..pending });
        } else {
            slot.complete(ProposalResult::Refused);
        }
    }

    /// Appends a command to the log; `None` if raft refused it.
    pub(super) fn propose_command(
        &mut self,
        ctx: &mut Ctx<'_, E>,
        lease_sequence: u64,
        kind: Kind,
    ) -> Option<Pending> {
        let command = self.number(ctx, lease_sequence, kind)?;
        let term = self.raw.raft.term;
        if let Err(error) = self.raw.propose(Vec::new(), command.encode_to_vec()) {
            tracing::debug!(range = %self.range_id, %error, "raft refused a proposal");
            return None;
        }
        ctx.handle.shared.done.proposals.fetch_add(1, Ordering::Relaxed);
        let index = self.raw.raft.raft_log.last_index();
        self.after_raft(ctx);
        Some(Pending { index, term, lease_sequence, slot: None, held: None })
    }

    /// Gives a command the next lease index, and closes what can be closed with it.
    pub(super) fn number(
        &mut self,
        ctx: &Ctx<'_, E>,
        lease_sequence: u64,
        mut kind: Kind,
    ) -> Option<Command> {
        let closed = self.close(ctx).map(Into::into);
        if let Kind::Split(split) = &mut kind {
            // What was closed since it was evaluated, and by this very command, is closed for the
            // keys of the right side, too.
            let closed = self.handle.writes.closed().max(self.handle.history.closed());
            split.handover.closed = closed.max(split.handover.closed.into()).into();
        }
        let applied = self.applied.lease_index;
        let led = self.leadership.as_mut()?;
        led.lease_index = led.lease_index.max(applied) + 1;
        Some(Command { lease_sequence, lease_index: led.lease_index, kind: Some(kind), closed })
    }

    /// Takes the proposals that an entry at `index` of `term` decides, with their outcome.
    pub(super) fn decide(
        &mut self,
        index: u64,
        term: u64,
        outcome: ProposalResult,
    ) -> Vec<(Pending, ProposalResult)> {
        let mut decided = Vec::new();
        while let Some(pending) = self.pending.front() {
            if pending.index > index {
                break;
            }
            let own = pending.index == index && pending.term == term;
            let Some(pending) = self.pending.pop_front() else { break };
            let result = if own { outcome } else { ProposalResult::NotLeaseholder };
            decided.push((pending, result));
        }
        decided
    }

    /// Takes the proposals of leases before `sequence`: none of them can take effect any more.
    pub(super) fn supersede(&mut self, sequence: u64) -> Vec<(Pending, ProposalResult)> {
        let (old, current): (Vec<_>, Vec<_>) =
            self.pending.drain(..).partition(|pending| pending.lease_sequence < sequence);
        self.pending.extend(current);
        old.into_iter().map(|pending| (pending, ProposalResult::NotLeaseholder)).collect()
    }
}
