//! The evaluation of one request, on the thread of its caller.
//!
//! ```text
//! find replica ─ lease? ─ latch ─▶ AfterLatch ─ lock table ─▶ AfterLocks ─ timestamps, lease
//!      ▲                             ▲             │ in the way: queue up, give the latches up
//!      │                             └─ WaitLock ◀─┘◀──────────────────────────┐
//!      │                                                                       │
//!      │ ─▶ AfterLeaseCheck ─ snapshot ─▶ AfterSnapshot ─ evaluate ─┬─ intents of others
//!      │                                                           │
//!      │      reads into the timestamp cache, then ┌────────────────┤
//!      │                                           │                │
//!      │                                no effect ─┤                ├─ effect
//!      │                                           ▼                ▼
//!      └── lease lost ────── lease again ◀── BeforeReply     BeforePropose
//!                                 │                                 │ unreplicated locks
//!            unreplicated locks,  │                                 ▼
//!            what was released    ▼                              Propose ─ applied: locks go,
//!                               Done ◀───────────────────────────── then latches
//! ```
//!
//! A state machine, polled like a future but told the time, so that the simulator can interleave
//! evaluations at each arrow. Production calls [`Evaluation::poll`] in a loop, with a fresh clock
//! reading each time.
//!
//! Timestamps. A read without one gets the clock's present once its latches are held and nothing
//! is in its way; a read that names one moves the clock past it first, and so does every timestamp
//! a batch speaks of. A write outside of a transaction, or one that commits at once, gets the
//! clock's present: it is above every timestamp this leaseholder ever served, and the lease bounds
//! keep it above those that others served. An intent, and a commit at a given timestamp, may be
//! lower: they go above what the timestamp cache and the write tracker say, or fail. Everything up to
//! the start of the lease counts as read, unless the lease before handed its reads on.
//!
//! ```text
//!          (lease start)    closed         reads of others       clock
//! ───────────────┼─────────────┼────────────────┼──────────────────┼────▶
//! intent              at txn.write_timestamp, raised above all three
//! one-phase, no txn                                                 at the present, above all
//! ```
//!
//! Waiting for locks. [`Progress::WaitLock`] says whom for. The driver polls again when woken; it
//! does so now and then in any case, hears who is in the way by then, and finds out whether the
//! holder is alive. Nothing here does.
//!
//! Invariants:
//! 1. A response that read data is given only if the lease held when the snapshot was taken and
//!    still holds after it. (I1, I2) What is proposed carries the sequence of the lease under which
//!    it was evaluated.
//! 2. (I4) Latches are held from before the lock table is asked until the response, or, once
//!    proposed, by the store until the command is applied or can no longer be. A request waits for
//!    locks without latches, and then starts again.
//! 3. (I3) What a response read is in the timestamp cache before its latches go; what is written is
//!    above the reads of others there, under this lease or those before, and above what is closed.
//! 4. (I5) An intent is written only where the lock table and the state, both under the latch, have
//!    no other transaction's.
//! 5. Nothing later than the batch's deadline is served or written: the evaluation of the state
//!    looks at the timestamps it ends with.
//! 6. An evaluation that was proposed ends in success, in the certainty that it had no effect, or
//!    as ambiguous.
//! 7. Dropped before that, it leaves its place in every queue and nothing of it happens.
//! 8. What an applied command does to the lock table happens whether anybody waits for it or not,
//!    before its latches go.

mod answer;
mod held;
mod locking;
mod timestamps;
mod wants;

use std::{sync::Arc, task::Waker};

use crdb_concurrency::{LockGuard, LockWait};
use crdb_keys::{Key, RangeId, Span, Timestamp};
use crdb_proto::kv::{
    self, BatchHeader, BatchRequest, BatchResponse, Response, TxnMeta, error::Kind as ErrorKind,
};
use crdb_storage::{
    Engine,
    evaluate::{self, Access, EvalError, Evaluated},
};

pub(crate) use self::held::Held;
use self::{
    held::{Hold, LockChanges},
    wants::Writes,
};
use crate::{
    admin,
    config::{Mono, PlantedBug},
    follower, gc,
    handle::{Completion, CompletionSlot, LatchGuard, ReplicaHandle, StoreHandle},
    io::{Effect, Proposal},
    lease::Serving,
};

/// Where an evaluation lets others run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YieldPoint {
    /// The latches are held.
    AfterLatch,
    /// Nothing known to the lock table is in the way.
    AfterLocks,
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
    /// A transaction holds a key; the waker is woken when it does no more. To be polled again by
    /// [`Evaluation::lock_deadline`] at the latest.
    WaitLock(Box<LockWait>),
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
    Queued(LockGuard),
    Unlocked(LatchGuard),
    Checked(Hold, Chosen),
    Snapshotted(Hold, Chosen, E::Snapshot),
    Replying(Hold, Chosen, Outcome),
    Proposing(Hold, Chosen, Effect, (Vec<Response>, LockChanges)),
    Proposed(Arc<CompletionSlot>, Chosen, Vec<Response>),
    Finished,
}

/// What comes of a request that has no effect on the state.
struct Outcome {
    result: Result<Vec<Response>, Box<kv::Error>>,
    changes: LockChanges,
}

/// Timestamps of a request and the lease they were chosen under.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    read: Timestamp,
    /// The highest timestamp that is written, for the lease to cover.
    write: Timestamp,
    /// What the response says about it.
    wrote: Option<Timestamp>,
    lease_sequence: u64,
}

impl Chosen {
    /// What was read at `read` without a lease.
    fn reading(read: Timestamp) -> Self {
        Self { read, write: Timestamp::ZERO, wrote: None, lease_sequence: 0 }
    }
}

/// The evaluation of one batch. Dropping it releases its latches and its place in the queue of a
/// lock; what was proposed goes on.
pub struct Evaluation<E: Engine> {
    store: StoreHandle<E>,
    request: BatchRequest,
    writes: bool,
    versions: Writes,
    spans: Vec<(Span, Access)>,
    replica: Option<Arc<ReplicaHandle>>,
    /// The descriptor that holds all keys of the request.
    descriptor: Option<Arc<kv::RangeDescriptor>>,
    give_up: Mono,
    /// Its place before those who wait for the same locks, once it has waited for some.
    place: Option<LockGuard>,
    /// The key whose lock is waited for, and when that ends without it.
    lock_deadline: Option<(Key, Mono)>,
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
        let versions = Writes::of(&request);
        let spans = evaluate::latch_spans(&request);
        let give_up = now.after(store.shared.config.limits.lease_wait);
        Self {
            store,
            request,
            writes,
            versions,
            spans,
            replica: None,
            descriptor: None,
            give_up,
            place: None,
            lock_deadline: None,
            stage: Stage::Start,
        }
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

    /// The transaction of the request.
    fn txn(&self) -> Option<&TxnMeta> {
        self.header()?.txn.as_ref()
    }

    /// When the wait for the lock of a key ends without it, if the request says so and waits.
    #[must_use]
    pub fn lock_deadline(&self) -> Option<Mono> {
        self.lock_deadline.as_ref().map(|(_, deadline)| *deadline)
    }

    /// Begins again, after an end without effect that may be another one now.
    pub fn again(&mut self, now: Mono) {
        self.give_up = now.after(self.store.shared.config.limits.lease_wait);
        self.lock_deadline = None;
        self.stage = Stage::Start;
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
        let progress = self.advance(now, waker);
        if matches!(progress, Progress::Done(_)) {
            // The driver may keep the evaluation for a while.
            self.place = None;
        }
        progress
    }

    fn advance(&mut self, now: Mono, waker: &Waker) -> Progress {
        match std::mem::replace(&mut self.stage, Stage::Finished) {
            Stage::Start => self.start(now, waker),
            Stage::Latching(latch) => self.latch(latch, waker),
            Stage::Latched(latch) => self.lock(latch, now, waker),
            Stage::Queued(place) => self.queue(place, now, waker),
            Stage::Unlocked(latch) => self.choose(latch, now, waker),
            Stage::Checked(hold, chosen) => {
                let snapshot = self.store.shared.engine.snapshot();
                self.stage = Stage::Snapshotted(hold, chosen, snapshot);
                Progress::Yield(YieldPoint::AfterSnapshot)
            }
            Stage::Snapshotted(hold, chosen, snapshot) => {
                self.run(hold, chosen, &snapshot, now, waker)
            }
            Stage::Replying(hold, chosen, outcome) => self.reply(hold, chosen, outcome, now, waker),
            Stage::Proposing(hold, chosen, effect, result) => {
                self.propose(hold, chosen, effect, result, now, waker)
            }
            Stage::Proposed(slot, chosen, mut responses) => {
                let Some(result) = slot.poll(waker) else {
                    self.stage = Stage::Proposed(slot, chosen, responses);
                    return Progress::WaitProposal;
                };
                if let Some(replica) = &self.replica {
                    answer::complete(&self.store, replica, &self.request, &mut responses, now);
                }
                done(self.conclude(result, &chosen, responses))
            }
            Stage::Finished => done(self.invalid("the evaluation was polled after its end")),
        }
    }

    fn header(&self) -> Option<&BatchHeader> {
        self.request.header.as_ref()
    }

    fn start(&mut self, now: Mono, waker: &Waker) -> Progress {
        if let Err(response) = self.accept() {
            return Progress::Done(response);
        }
        let replica = match self.find_replica() {
            Ok(replica) => replica,
            Err(response) => return Progress::Done(response),
        };
        if let Err(response) = self.check_bounds(&replica) {
            return Progress::Done(response);
        }
        self.replica = Some(Arc::clone(&replica));
        if self.serving(&replica).is_none() {
            return self.no_lease(&replica, now, waker);
        }
        let latch = match admin::of(&self.request) {
            Some(request) => Some(admin::latch(request, &replica.latches)),
            None => replica.latches.try_acquire(&self.spans),
        };
        match latch {
            Some(latch) => self.latch(latch, waker),
            None => done(self.crowded(replica.latches.waits_max())),
        }
    }

    fn latch(&mut self, latch: LatchGuard, waker: &Waker) -> Progress {
        if latch.is_granted(waker) {
            self.stage = Stage::Latched(latch);
            Progress::Yield(YieldPoint::AfterLatch)
        } else {
            self.stage = Stage::Latching(latch);
            Progress::WaitLatch
        }
    }

    fn find_replica(&self) -> Result<Arc<ReplicaHandle>, Box<BatchResponse>> {
        let range = RangeId(self.header().map_or(0, |header| header.range_id));
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
        Ok(here)
    }

    /// Checks that the range holds all keys of the request, unless that was done for its
    /// descriptor before.
    fn check_bounds(&mut self, replica: &ReplicaHandle) -> Result<(), Box<BatchResponse>> {
        let descriptor = replica.descriptor();
        if self.descriptor.as_ref().is_some_and(|known| Arc::ptr_eq(known, &descriptor)) {
            return Ok(());
        }
        if let Some(error) = evaluate::out_of_bounds(&self.request, &descriptor) {
            return Err(Box::new(self.misrouted(error)));
        }
        self.descriptor = Some(descriptor);
        Ok(())
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
        // So may intents: nobody read there, as far as the lease before handed that on, and else
        // everything up to the start counts as read.
        let write_ok = match self.versions {
            _ if !self.writes => true,
            Writes::AtLeast(_) => chosen.write < serving.bound,
            Writes::Nothing | Writes::Present => serving.covers(now, chosen.write),
        };
        now < serving.expires && chosen.read < serving.bound && read_ok && write_ok
    }

    /// Whether the lease under which `chosen` was chosen allows it now.
    fn still_covers(&self, replica: &ReplicaHandle, now: Mono, chosen: &Chosen) -> bool {
        self.serving(replica).is_some_and(|serving| {
            serving.sequence == chosen.lease_sequence && self.covers(&serving, now, chosen)
        })
    }

    /// What to do at a replica that may not serve: wait if it leads, send the caller away if not.
    fn no_lease(&mut self, replica: &ReplicaHandle, now: Mono, waker: &Waker) -> Progress {
        if let Some((read, answer)) = follower::read(&self.store, replica, &self.request) {
            return done(match answer {
                Ok(responses) => self.success(&Chosen::reading(read), responses),
                Err(error) => BatchResponse { error: Some(*error), ..self.empty_response() },
            });
        }
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

    fn run(
        &mut self,
        hold: Hold,
        chosen: Chosen,
        snapshot: &E::Snapshot,
        now: Mono,
        waker: &Waker,
    ) -> Progress {
        let Some(replica) = self.replica.clone() else {
            return self.start(now, waker);
        };
        if let Some(request) = admin::of(&self.request) {
            let at = (chosen.write, chosen.lease_sequence);
            let outcome = admin::evaluate(&self.store, &replica, snapshot, request, at, now);
            return self.run_admin(hold, chosen, outcome);
        }
        if let Some(error) = gc::check(&replica, &self.request) {
            return self.reply_later(hold, chosen, Err(error), LockChanges::default());
        }
        let limits = &self.store.shared.config.limits;
        if answer::is_about_locks(&self.request) {
            return match answer::about_locks(&self.request, snapshot, limits.locks_shown_max) {
                Ok(found) => self.reply_later(hold, chosen, Ok(found), LockChanges::default()),
                Err(error) => self.broken(&error),
            };
        }
        match self.evaluate(&replica, &hold, &chosen, snapshot) {
            Ok(evaluated) => self.take(&replica, hold, chosen, evaluated, now, waker),
            Err(EvalError::Kv(error)) => {
                let changes = LockChanges::despite(&error, &self.request);
                self.reply_later(hold, chosen, Err(error), changes)
            }
            Err(EvalError::Intents(intents)) => self.meet(&replica, hold, intents, now, waker),
            Err(EvalError::WriteTooOld { newest, .. }) => {
                // Not expected while the lease bounds hold, yet harmless: try above that version.
                self.store.shared.clock.forward(newest);
                self.stage = Stage::Unlocked(hold.latch);
                Progress::Yield(YieldPoint::AfterLocks)
            }
            Err(EvalError::Storage(error)) => self.broken(&error),
        }
    }

    /// The state could not be read.
    fn broken(&self, error: &crdb_storage::Error) -> Progress {
        done(self.failure(error.to_string(), ErrorKind::Unavailable(kv::Unavailable {})))
    }

    /// Goes on with what the evaluation gave.
    fn take(
        &mut self,
        replica: &ReplicaHandle,
        hold: Hold,
        chosen: Chosen,
        evaluated: Evaluated,
        now: Mono,
        waker: &Waker,
    ) -> Progress {
        let chosen = self.raise(chosen, &evaluated);
        if !self.still_covers(replica, now, &chosen) {
            drop(hold);
            return self.no_lease(replica, now, waker);
        }
        self.record_reads(replica, &evaluated.reads);
        if let Some(moved) = evaluated.moved {
            let clock = &self.store.shared.clock;
            replica.certainty.noted(moved, chosen.lease_sequence, clock);
        }
        let Evaluated { responses, batch, locks, resolved, released, .. } = evaluated;
        let changes = LockChanges { locks, resolved, released };
        if batch.is_empty() {
            return self.reply_later(hold, chosen, Ok(responses), changes);
        }
        // Encoded here, on the caller's thread: the scheduler has other ranges to serve.
        let encoded = batch.encode();
        let (bytes, max) = (encoded.len(), self.store.shared.config.limits.command_bytes_max);
        if bytes > max {
            let why = format!("a batch writes {bytes} bytes at once, the most is {max}");
            return done(self.invalid(&why));
        }
        let effect = Effect::Command(gc::command(&self.request, encoded));
        self.stage = Stage::Proposing(hold, chosen, effect, (responses, changes));
        Progress::Yield(YieldPoint::BeforePropose)
    }

    fn run_admin(&mut self, hold: Hold, chosen: Chosen, outcome: admin::Outcome) -> Progress {
        let response = |kind: Box<kv::response::Kind>| vec![Response { kind: Some(*kind) }];
        let unchanged = LockChanges::default();
        match outcome {
            admin::Outcome::Propose(effect, kind) => {
                let chosen = Chosen { wrote: Some(chosen.write), ..chosen };
                self.stage = Stage::Proposing(hold, chosen, effect, (response(kind), unchanged));
                Progress::Yield(YieldPoint::BeforePropose)
            }
            admin::Outcome::Reply(outcome) => {
                self.reply_later(hold, chosen, outcome.map(response), unchanged)
            }
        }
    }

    fn reply_later(
        &mut self,
        hold: Hold,
        chosen: Chosen,
        result: Result<Vec<Response>, Box<kv::Error>>,
        changes: LockChanges,
    ) -> Progress {
        self.stage = Stage::Replying(hold, chosen, Outcome { result, changes });
        Progress::Yield(YieldPoint::BeforeReply)
    }

    fn reply(
        &mut self,
        hold: Hold,
        chosen: Chosen,
        outcome: Outcome,
        now: Mono,
        waker: &Waker,
    ) -> Progress {
        let Some(replica) = self.replica.clone() else {
            return self.start(now, waker);
        };
        if !self.still_covers(&replica, now, &chosen) {
            drop(hold);
            return self.no_lease(&replica, now, waker);
        }
        let Outcome { result, changes } = outcome;
        let hold = match self.acquire(&replica, hold, &changes, now, waker) {
            Ok(hold) => hold,
            Err(progress) => return *progress,
        };
        changes.release(&replica);
        let mut responses = match result {
            Ok(responses) => responses,
            Err(error) => {
                return done(BatchResponse { error: Some(*error), ..self.empty_response() });
            }
        };
        answer::complete(&self.store, &replica, &self.request, &mut responses, now);
        drop(hold);
        done(self.success(&chosen, responses))
    }

    fn propose(
        &mut self,
        hold: Hold,
        chosen: Chosen,
        effect: Effect,
        (responses, changes): (Vec<Response>, LockChanges),
        now: Mono,
        waker: &Waker,
    ) -> Progress {
        let Some(replica) = self.replica.clone() else {
            return self.start(now, waker);
        };
        let hold = match self.acquire(&replica, hold, &changes, now, waker) {
            Ok(hold) => hold,
            Err(progress) => return *progress,
        };
        let slot = Arc::new(CompletionSlot::default());
        let place = self.place.take();
        let proposal = Proposal {
            range_id: replica.range_id,
            lease_sequence: chosen.lease_sequence,
            effect,
            held: Some(Box::new(Held { replica, changes, place, hold })),
            slot: Completion::new(&slot),
        };
        self.stage = Stage::Proposed(slot, chosen, responses);
        Progress::Propose(proposal)
    }
}

fn done(response: BatchResponse) -> Progress {
    Progress::Done(Box::new(response))
}
