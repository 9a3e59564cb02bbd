//! Commands on their way into the log.
//!
//! A proposal is remembered with the index and term of its entry. An entry applied at that index
//! decides: of the same term, it is the proposal; of another, the proposal was overwritten and
//! never takes effect. Nothing is proposed twice.

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
        let lease = &self.applied.lease;
        let fits = self.leadership.as_ref().is_some_and(|led| {
            !led.is_transferring()
                && lease.term == led.term
                && lease.end().is_none()
                && lease.sequence == proposal.lease_sequence
        });
        let Proposal { lease_sequence, effect, held, slot, .. } = proposal;
        if !fits {
            slot.complete(ProposalResult::NotLeaseholder);
            return;
        }
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
        kind: Kind,
    ) -> Option<Command> {
        let closed = self.close(ctx).map(Into::into);
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
