//! The evaluation of one request, on the thread of its caller.
//!
//! ```text
//! find replica ─ lease? ─ latch ─▶ AfterLatch ─ timestamps, lease ─▶ AfterLeaseCheck ─ snapshot
//!   ─▶ AfterSnapshot ─ evaluate ─┬─ no effect ─▶ BeforeReply ─ lease again ─▶ Done
//!                                └─ effect ─▶ BeforePropose ─▶ Propose ─ applied ─▶ Done
//! ```
//!
//! A state machine, polled like a future but told the time, so that the simulator can interleave
//! evaluations at each arrow. Production calls [`Evaluation::poll`] in a loop, with a fresh clock
//! reading each time.
//!
//! Timestamps. A read without one gets the clock's present once its latches are held, a write
//! always; a read that names one moves the clock past it first. So every write is above every
//! timestamp this leaseholder ever served, and the lease bounds keep it above those that others
//! served: no cache of read timestamps is needed.
//!
//! Invariants:
//! 1. A response that read data is given only if the lease held when the snapshot was taken and
//!    still holds after it.
//! 2. Latches are held from before the timestamps are chosen until the response, or, once
//!    proposed, by the store until the command is applied or can no longer be.
//! 3. Nothing later than the batch's deadline is served or written.
//! 4. An evaluation that was proposed ends in success, in the certainty that it had no effect, or
//!    as ambiguous.

use std::{sync::Arc, task::Waker};

use crdb_keys::{RangeId, Span, Timestamp};
use crdb_proto::kv::{self, BatchRequest, BatchResponse, Response, error::Kind as ErrorKind};
use crdb_storage::{
    Engine,
    evaluate::{self, Access, At, EvalArgs, EvalError},
};

use crate::{
    admin,
    command::Kind as CommandKind,
    config::{Mono, PlantedBug},
    handle::{Completion, CompletionSlot, LatchGuard, ReplicaHandle, StoreHandle},
    io::{Effect, Proposal, ProposalResult},
    lease::Serving,
};

/// Where an evaluation lets others run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YieldPoint {
    /// The latches are held.
    AfterLatch,
    /// Timestamps are chosen and the lease covers them.
    AfterLeaseCheck,
    /// The data is frozen.
    AfterSnapshot,
    /// The outcome of a request without effect is known, the lease must be looked at again.
    BeforeReply,
    /// The effect of a write is known.
    BeforePropose,
}

/// What an evaluation needs next.
#[derive(Debug)]
pub enum Progress {
    /// Poll again, now or later.
    Yield(YieldPoint),
    /// Other requests hold the latches; the waker is woken.
    WaitLatch,
    /// The replica leads and has no lease at the moment; the waker is woken.
    WaitLease,
    /// Hand this to the store as [`Input::Propose`](crate::Input::Propose), then poll again.
    Propose(Proposal),
    /// The proposal is on its way; the waker is woken.
    WaitProposal,
    /// The response.
    Done(Box<BatchResponse>),
}

enum Stage<E: Engine> {
    Start,
    Latching(LatchGuard),
    Latched(LatchGuard),
    Checked(LatchGuard, Chosen),
    Snapshotted(LatchGuard, Chosen, E::Snapshot),
    Replying(LatchGuard, Chosen, Result<Vec<Response>, kv::Error>),
    Proposing(LatchGuard, Chosen, Effect, Vec<Response>),
    Proposed(Arc<CompletionSlot>, Chosen, Vec<Response>),
    Finished,
}

/// Timestamps of a request and the lease they were chosen under.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    read: Timestamp,
    write: Timestamp,
    lease_sequence: u64,
}

/// The evaluation of one batch. Dropping it releases its latches; what was proposed goes on.
pub struct Evaluation<E: Engine> {
    store: StoreHandle<E>,
    request: BatchRequest,
    writes: bool,
    spans: Vec<(Span, Access)>,
    replica: Option<Arc<ReplicaHandle>>,
    give_up: Mono,
    stage: Stage<E>,
}

impl<E: Engine> std::fmt::Debug for Evaluation<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let range = self.replica.as_ref().map(|replica| replica.range_id);
        f.debug_struct("Evaluation").field("range", &range).finish_non_exhaustive()
    }
}

impl<E: Engine> Evaluation<E> {
    pub(crate) fn new(store: StoreHandle<E>, request: BatchRequest, now: Mono) -> Self {
        let writes = !evaluate::is_read_only(&request);
        let spans = evaluate::latch_spans(&request);
        let give_up = now.after(store.shared.config.lease_wait_max);
        Self { store, request, writes, spans, replica: None, give_up, stage: Stage::Start }
    }

    /// Whether the effect of the request may come about although the evaluation is dropped.
    #[must_use]
    pub fn is_proposed(&self) -> bool {
        matches!(self.stage, Stage::Proposed(..))
    }

    /// Range of the request, once found.
    #[must_use]
    pub fn range_id(&self) -> Option<RangeId> {
        self.replica.as_ref().map(|replica| replica.range_id)
    }

    /// Gives the request up and says what that means: ambiguous if it was proposed.
    #[must_use]
    pub fn abandon(self, why: &str) -> BatchResponse {
        let kind = if self.is_proposed() {
            ErrorKind::Ambiguous(kv::Ambiguous {})
        } else {
            ErrorKind::Unavailable(kv::Unavailable {})
        };
        self.failure(why.to_owned(), kind)
    }

    /// Goes on until the next point of interest. `now` must have been read after the last return.
    pub fn poll(&mut self, now: Mono, waker: &Waker) -> Progress {
        match std::mem::replace(&mut self.stage, Stage::Finished) {
            Stage::Start => self.start(now, waker),
            Stage::Latching(guard) => {
                if guard.is_granted(waker) {
                    self.stage = Stage::Latched(guard);
                    Progress::Yield(YieldPoint::AfterLatch)
                } else {
                    self.stage = Stage::Latching(guard);
                    Progress::WaitLatch
                }
            }
            Stage::Latched(guard) => self.choose(guard, now, waker),
            Stage::Checked(guard, chosen) => {
                let snapshot = self.store.shared.engine.snapshot();
                self.stage = Stage::Snapshotted(guard, chosen, snapshot);
                Progress::Yield(YieldPoint::AfterSnapshot)
            }
            Stage::Snapshotted(guard, chosen, snapshot) => self.run(guard, chosen, &snapshot),
            Stage::Replying(guard, chosen, outcome) => {
                self.recheck(guard, chosen, outcome, now, waker)
            }
            Stage::Proposing(guard, chosen, effect, responses) => {
                self.propose(guard, chosen, effect, responses)
            }
            Stage::Proposed(slot, chosen, responses) => {
                let Some(result) = slot.poll(waker) else {
                    self.stage = Stage::Proposed(slot, chosen, responses);
                    return Progress::WaitProposal;
                };
                self.conclude(result, chosen, responses)
            }
            Stage::Finished => done(self.failure(
                "the evaluation was polled after its end".into(),
                ErrorKind::Invalid(kv::Invalid {}),
            )),
        }
    }

    fn start(&mut self, now: Mono, waker: &Waker) -> Progress {
        if let Err(response) = self.accept_clock() {
            return Progress::Done(response);
        }
        let replica = match self.find_replica() {
            Ok(replica) => replica,
            Err(response) => return Progress::Done(response),
        };
        self.replica = Some(Arc::clone(&replica));
        if self.serving(&replica).is_none() {
            return self.no_lease(&replica, now, waker);
        }
        let guard = match admin::of(&self.request) {
            Some(request) => admin::latch(request, &replica.latches),
            None => replica.latches.acquire(&self.spans),
        };
        if guard.is_granted(waker) {
            self.stage = Stage::Latched(guard);
            Progress::Yield(YieldPoint::AfterLatch)
        } else {
            self.stage = Stage::Latching(guard);
            Progress::WaitLatch
        }
    }

    /// Moves the clock past what the sender knows.
    fn accept_clock(&self) -> Result<(), Box<BatchResponse>> {
        let Some(header) = &self.request.header else { return Ok(()) };
        for timestamp in [header.now, header.read_timestamp].into_iter().flatten() {
            if let Err(error) = self.store.shared.clock.update(timestamp.into()) {
                let invalid = ErrorKind::Invalid(kv::Invalid {});
                return Err(Box::new(self.failure(error.to_string(), invalid)));
            }
        }
        Ok(())
    }

    fn find_replica(&self) -> Result<Arc<ReplicaHandle>, Box<BatchResponse>> {
        let header = self.request.header.as_ref();
        let range = RangeId(header.map_or(0, |header| header.range_id));
        if self.store.is_stopped() {
            return Err(Box::new(self.failure(
                format!("{} is stopping", self.store.shared.config.store_id),
                ErrorKind::Unavailable(kv::Unavailable {}),
            )));
        }
        let first = self.spans.iter().map(|(span, _)| &span.start).min();
        let here = if range == RangeId(0) {
            first.and_then(|first| self.store.find_by_key(first))
        } else {
            self.store.find(range)
        };
        let Some(here) = here.filter(|replica| !replica.is_removed()) else {
            let descriptors = first.and_then(|first| self.store.descriptor_of(first));
            let descriptors = descriptors.iter().map(|descriptor| (**descriptor).clone()).collect();
            return Err(Box::new(self.failure(
                format!("{range} has no replica on {}", self.store.shared.config.store_id),
                ErrorKind::RangeMismatch(kv::RangeMismatch { descriptors }),
            )));
        };
        match evaluate::out_of_bounds(&self.request, &here.descriptor()) {
            Some(error) => Err(Box::new(self.misrouted(error))),
            None => Ok(here),
        }
    }

    /// Sends the caller elsewhere, with all that is known here about its keys.
    fn misrouted(&self, mut error: kv::Error) -> BatchResponse {
        let keys = self.spans.iter().map(|(span, _)| span.start.clone());
        admin::add_known(&self.store, keys, &mut error);
        BatchResponse { error: Some(error), ..self.empty_response() }
    }

    fn serving(&self, replica: &ReplicaHandle) -> Option<Serving> {
        #[cfg(feature = "planted-bugs")]
        if self.store.shared.config.has(PlantedBug::SkipLeaseCheck) {
            return *replica.served_last.lock();
        }
        replica.lease.get()
    }

    /// Whether `serving` allows this request at `chosen`.
    fn covers(&self, serving: &Serving, now: Mono, chosen: &Chosen) -> bool {
        if self.store.shared.config.has(PlantedBug::SkipLeaseCheck) {
            return true;
        }
        // A read at a timestamp of the caller's choice may lie below the start of the lease: all
        // that was written there is applied here, and nothing will be written there any more.
        let read_ok = self.read_timestamp().is_some() || serving.start < chosen.read;
        let write_ok = !self.writes || serving.covers(now, chosen.write);
        now < serving.expires && chosen.read < serving.bound && read_ok && write_ok
    }

    fn read_timestamp(&self) -> Option<Timestamp> {
        let header = self.request.header.as_ref()?;
        header.read_timestamp.map(Timestamp::from).filter(|timestamp| !timestamp.is_zero())
    }

    fn choose(&mut self, guard: LatchGuard, now: Mono, waker: &Waker) -> Progress {
        let Some(replica) = self.replica.clone() else {
            return self.start(now, waker);
        };
        // The range may have split while this request waited for its latches.
        if let Some(error) = evaluate::out_of_bounds(&self.request, &replica.descriptor()) {
            return done(self.misrouted(error));
        }
        let clock = &self.store.shared.clock;
        let read = self.read_timestamp().unwrap_or_else(|| clock.now());
        let write = if self.writes { clock.now() } else { Timestamp::ZERO };
        let serving = self.serving(&replica);
        let chosen =
            Chosen { read, write, lease_sequence: serving.map_or(0, |serving| serving.sequence) };
        let covered = serving.filter(|serving| self.covers(serving, now, &chosen)).is_some();
        if !covered {
            drop(guard);
            return self.no_lease(&replica, now, waker);
        }
        self.stage = Stage::Checked(guard, chosen);
        Progress::Yield(YieldPoint::AfterLeaseCheck)
    }

    /// What to do at a replica that may not serve: wait if it leads, send the caller away if not.
    fn no_lease(&mut self, replica: &ReplicaHandle, now: Mono, waker: &Waker) -> Progress {
        let role = replica.role();
        if !role.is_leader || role.transferring || replica.is_removed() {
            return done(self.not_leaseholder(replica));
        }
        if now >= self.give_up {
            return done(self.failure(
                format!("{} has no lease: its leader cannot reach a quorum", replica.range_id),
                ErrorKind::Unavailable(kv::Unavailable {}),
            ));
        }
        replica.wait_for_lease(waker);
        self.stage = Stage::Start;
        Progress::WaitLease
    }

    fn run(&mut self, guard: LatchGuard, chosen: Chosen, snapshot: &E::Snapshot) -> Progress {
        if let Some((request, replica)) = admin::of(&self.request).zip(self.replica.clone()) {
            let at = (chosen.write, chosen.lease_sequence);
            let outcome = admin::evaluate(&self.store, &replica, snapshot, request, at);
            return self.run_admin(guard, chosen, outcome);
        }
        let at = At { read: chosen.read, write: chosen.write };
        match evaluate::evaluate(snapshot, &self.request, &EvalArgs::alone(at, chosen.write)) {
            Ok(evaluated) if !evaluated.batch.is_empty() => {
                // Encoded here, on the caller's thread: the scheduler has other ranges to serve.
                let effect = Effect::Command(CommandKind::Write(evaluated.batch.encode()));
                self.stage = Stage::Proposing(guard, chosen, effect, evaluated.responses);
                Progress::Yield(YieldPoint::BeforePropose)
            }
            Ok(evaluated) => self.reply_later(guard, chosen, Ok(evaluated.responses)),
            Err(EvalError::Kv(error)) => self.reply_later(guard, chosen, Err(*error)),
            Err(EvalError::Intents(intents)) => {
                let (key, holder) = intents.into_iter().next().unwrap_or_default();
                let conflict = kv::LockConflict { key, holder: Some(holder), timed_out: false };
                done(self.failure(
                    "a key is locked by another transaction".into(),
                    ErrorKind::LockConflict(conflict),
                ))
            }
            Err(EvalError::WriteTooOld { newest, .. }) => {
                // Not expected while the lease bounds hold, yet harmless: try above that version.
                self.store.shared.clock.forward(newest);
                self.stage = Stage::Latched(guard);
                Progress::Yield(YieldPoint::AfterLatch)
            }
            Err(EvalError::Storage(error)) => {
                done(self.failure(error.to_string(), ErrorKind::Unavailable(kv::Unavailable {})))
            }
        }
    }

    fn run_admin(
        &mut self,
        guard: LatchGuard,
        chosen: Chosen,
        outcome: admin::Outcome,
    ) -> Progress {
        let response = |kind: Box<kv::response::Kind>| vec![Response { kind: Some(*kind) }];
        match outcome {
            admin::Outcome::Propose(effect, kind) => {
                self.stage = Stage::Proposing(guard, chosen, effect, response(kind));
                Progress::Yield(YieldPoint::BeforePropose)
            }
            admin::Outcome::Reply(outcome) => {
                self.reply_later(guard, chosen, outcome.map(response).map_err(|error| *error))
            }
        }
    }

    fn reply_later(
        &mut self,
        guard: LatchGuard,
        chosen: Chosen,
        outcome: Result<Vec<Response>, kv::Error>,
    ) -> Progress {
        self.stage = Stage::Replying(guard, chosen, outcome);
        Progress::Yield(YieldPoint::BeforeReply)
    }

    fn recheck(
        &mut self,
        guard: LatchGuard,
        chosen: Chosen,
        outcome: Result<Vec<Response>, kv::Error>,
        now: Mono,
        waker: &Waker,
    ) -> Progress {
        let Some(replica) = self.replica.clone() else {
            return self.start(now, waker);
        };
        let valid = self.serving(&replica).is_some_and(|serving| {
            serving.sequence == chosen.lease_sequence && self.covers(&serving, now, &chosen)
        });
        drop(guard);
        if !valid {
            return self.no_lease(&replica, now, waker);
        }
        done(match outcome {
            Ok(responses) => self.success(&chosen, responses, false),
            Err(error) => BatchResponse { error: Some(error), ..self.empty_response() },
        })
    }

    fn propose(
        &mut self,
        guard: LatchGuard,
        chosen: Chosen,
        effect: Effect,
        responses: Vec<Response>,
    ) -> Progress {
        let slot = Arc::new(CompletionSlot::default());
        let proposal = Proposal {
            range_id: self.range_id().unwrap_or_default(),
            lease_sequence: chosen.lease_sequence,
            effect,
            latch: Some(guard),
            slot: Completion::new(&slot),
        };
        self.stage = Stage::Proposed(slot, chosen, responses);
        Progress::Propose(proposal)
    }

    fn conclude(
        &self,
        result: ProposalResult,
        chosen: Chosen,
        responses: Vec<Response>,
    ) -> Progress {
        done(match (result, &self.replica) {
            (ProposalResult::Applied, _) => self.success(&chosen, responses, true),
            (ProposalResult::NotLeaseholder, Some(replica)) => self.not_leaseholder(replica),
            (ProposalResult::Refused | ProposalResult::NotLeaseholder, _) => self.failure(
                "the range takes no more writes at the moment".into(),
                ErrorKind::Unavailable(kv::Unavailable {}),
            ),
            (ProposalResult::Failed(why), _) => {
                self.failure(why.into(), ErrorKind::Unavailable(kv::Unavailable {}))
            }
            (ProposalResult::Ambiguous, _) => self.failure(
                "the command was proposed and its fate is unknown".into(),
                ErrorKind::Ambiguous(kv::Ambiguous {}),
            ),
        })
    }

    fn not_leaseholder(&self, replica: &ReplicaHandle) -> BatchResponse {
        let leaseholder = replica.leader_hint().filter(|_| !replica.role().is_leader);
        self.failure(
            format!(
                "{} does not hold the lease of {}",
                self.store.shared.config.store_id, replica.range_id
            ),
            ErrorKind::NotLeaseholder(kv::NotLeaseholder {
                leaseholder,
                descriptor: Some((*replica.descriptor()).clone()),
            }),
        )
    }

    fn empty_response(&self) -> BatchResponse {
        BatchResponse {
            now: Some(self.store.shared.clock.now().into()),
            ..BatchResponse::default()
        }
    }

    fn success(&self, chosen: &Chosen, responses: Vec<Response>, wrote: bool) -> BatchResponse {
        BatchResponse {
            read_timestamp: Some(chosen.read.into()),
            write_timestamp: wrote.then(|| chosen.write.into()),
            responses,
            ..self.empty_response()
        }
    }

    fn failure(&self, message: String, kind: ErrorKind) -> BatchResponse {
        BatchResponse {
            error: Some(kv::Error { message, kind: Some(kind) }),
            ..self.empty_response()
        }
    }
}

fn done(response: BatchResponse) -> Progress {
    Progress::Done(Box::new(response))
}
