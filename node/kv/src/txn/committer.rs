//! Decides how a transaction commits, one step after the other.
//!
//! What it is: the pure part of a commit: told what became of the last step, it names the next.
//! What it is not: it sends nothing and holds no keys.
//!
//! ```text
//!            no intents                                        ┌─────▶ Done(OnePhase)
//! start ─┬──────────────▶ OnePhase ─ several ranges ─┬─ spans ─▶ OnePhase(exact) ─┐
//!        │                                           └─ none ──┐                  │ several ranges
//!        │ intents                                             ▼                  ▼
//!        └───────────────────────────────────────────────▶  Stage ◀──────────────┘
//!                                                             │
//!                  ┌─ all at or below the staged timestamp ───┤
//!                  ▼                                          ▼ some above
//!           Done(Parallel)                 Refresh ─▶ Commit ─▶ Done(Explicit)
//! ```
//!
//! Before every step that fixes a timestamp, what was read is refreshed to it. When that has to be
//! and the timestamp is well in the past, it is refreshed to the present: what asks for a timestamp
//! in the past is what ranges have closed, and that moves on while the refresh is under way, so a
//! commit that went no further than asked would be asked again each time. A step whose fate is
//! unknown is followed by `Learn`, never by itself; a one-phase commit leaves nothing to learn
//! from. So is whatever ends a commit behind a `Stage` that failed after another one did: the first
//! may have laid the very intents that the second could not, while the record of the second is there.
//! All of it is found then, and whoever finds it finishes the commit.
//!
//! Invariants:
//! 1. `Done` follows only a step that made the commit durable at a timestamp at which all reads
//!    hold.
//! 2. No step that may have committed is repeated.
//! 3. After `Fail` nothing the transaction sent can commit it, once its record says ABORTED if one
//!    was written.

use crdb_keys::Timestamp;

use super::coordinator::aborted;
use super::types::{CommitKind, RetryCause, TxnError};
use crate::SendError;

/// How far behind the present a timestamp may lie that is refreshed to, in nanoseconds.
const LAG_MAX: u64 = 500_000_000;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send all writes with `one_phase`, after the validations, or at exactly the write timestamp.
    OnePhase { exact: bool },
    /// Validate what was read up to the timestamp, which becomes the write timestamp.
    Refresh(Timestamp),
    /// Send the writes as intents and the STAGING record at once.
    Stage,
    /// Write the COMMITTED record at the write timestamp.
    Commit,
    /// Find out from the record what became of the last step.
    Learn,
    /// It is committed.
    Done(CommitKind, Timestamp),
    /// It is not committed, or nobody knows.
    Fail(TxnError),
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// One-phase commit or COMMITTED record, at this timestamp.
    Committed(Timestamp),
    /// Instead of a `Stage`, which would have listed too much, all writes were laid as intents, the
    /// highest at this timestamp.
    Flushed(Timestamp),
    /// STAGING record at `staged`; the highest of the intents is at `highest`.
    Staged { staged: Timestamp, highest: Timestamp },
    /// Whether what was read is the same at the later timestamp.
    Refreshed(bool),
    /// That could not be found out.
    NotRefreshed(TxnError),
    /// The step failed.
    Failed(SendError),
    /// What the record said: committed at a timestamp, or not; `None` if it could not be asked.
    Learned(Option<Option<Timestamp>>),
}

/// The commit of one transaction; see the page of the module.
#[derive(Debug, Clone)]
pub(crate) struct Committer {
    /// Something was read that has to hold at the commit.
    has_spans: bool,
    /// All of it holds at this timestamp.
    held_at: Timestamp,
    write_timestamp: Timestamp,
    /// The gateway's clock at the last event.
    present: Timestamp,
    deadline: Option<Timestamp>,
    last: Step,
    /// What follows a refresh.
    then: Option<Step>,
    moves: usize,
    /// Times it moves to a later timestamp before its caller is asked to start over.
    max_moves: usize,
    /// A `Stage` without a record may have laid intents.
    may_be_laid: bool,
    /// Since then a `Stage` failed, and all that its record lists may be there.
    may_be_committed: bool,
    /// Why the commit failed, unless the record says that it did not.
    failure: Option<TxnError>,
}

impl Committer {
    /// The commit of a transaction that wrote at `write_timestamp` so far, and its first step.
    /// `held_at` is where all it read is known to hold; unset if it read nothing.
    pub(crate) fn start(
        has_intents: bool,
        held_at: Option<Timestamp>,
        write_timestamp: Timestamp,
        present: Timestamp,
        deadline: Option<Timestamp>,
        max_moves: usize,
    ) -> (Self, Step) {
        let mut committer = Self {
            has_spans: held_at.is_some(),
            held_at: held_at.unwrap_or(Timestamp::MAX),
            write_timestamp,
            present,
            deadline,
            last: Step::Learn,
            then: None,
            moves: 0,
            max_moves,
            may_be_laid: false,
            may_be_committed: false,
            failure: None,
        };
        let first = if has_intents {
            committer.at_timestamp(Step::Stage)
        } else {
            Step::OnePhase { exact: false }
        };
        committer.last = first.clone();
        (committer, first)
    }

    /// Tells it the present, and the time after which it must not commit.
    pub(crate) fn tell(&mut self, present: Timestamp, deadline: Option<Timestamp>) {
        self.present = present;
        self.deadline = deadline;
    }

    /// The timestamp that the steps named so far write at.
    pub(crate) fn write_timestamp(&self) -> Timestamp {
        self.write_timestamp
    }

    /// The next step, after what became of the last one.
    pub(crate) fn next(&mut self, event: Event) -> Step {
        if self.last == Step::Stage {
            self.may_be_committed = matches!(event, Event::Failed(_)) && self.may_be_laid;
        }
        let step = match self.decide(event) {
            Step::Fail(failure) if self.may_be_committed && self.last != Step::Learn => {
                self.failure = Some(failure);
                Step::Learn
            }
            step => step,
        };
        self.last = step.clone();
        step
    }

    /// `step`, once what was read holds at the write timestamp.
    fn at_timestamp(&mut self, step: Step) -> Step {
        let lags = self.write_timestamp.add_nanos(LAG_MAX) < self.present;
        let in_time = self.deadline.is_none_or(|deadline| self.present <= deadline);
        if self.held_at < self.write_timestamp && lags && in_time {
            self.write_timestamp = self.present;
        }
        if let Some(deadline) = self.deadline
            && self.write_timestamp > deadline
        {
            let would_be = self.write_timestamp;
            return Step::Fail(TxnError::Deadline { deadline, would_be });
        }
        if self.held_at >= self.write_timestamp {
            return step;
        }
        self.then = Some(step);
        Step::Refresh(self.write_timestamp)
    }

    /// `step` again at a later timestamp.
    fn raise(&mut self, needed: Timestamp, step: Step) -> Step {
        self.moves += 1;
        if self.moves > self.max_moves {
            return Step::Fail(TxnError::Retry { cause: RetryCause::Serializable });
        }
        self.write_timestamp = self.write_timestamp.max(needed);
        self.at_timestamp(step)
    }

    fn decide(&mut self, event: Event) -> Step {
        match (self.last.clone(), event) {
            (Step::OnePhase { .. }, Event::Committed(at)) => Step::Done(CommitKind::OnePhase, at),
            (Step::OnePhase { exact: false }, Event::Failed(SendError::CrossRange { .. }))
                if self.has_spans =>
            {
                self.at_timestamp(Step::OnePhase { exact: true })
            }
            (Step::OnePhase { .. }, Event::Failed(SendError::CrossRange { .. })) => {
                self.at_timestamp(Step::Stage)
            }
            (Step::OnePhase { exact: true }, Event::Failed(SendError::TxnRetry { needed })) => {
                self.raise(needed, Step::OnePhase { exact: true })
            }
            (Step::Stage, Event::Flushed(at)) => {
                self.write_timestamp = self.write_timestamp.max(at);
                self.at_timestamp(Step::Stage)
            }
            (Step::Stage, Event::Staged { staged, highest }) if highest <= staged => {
                Step::Done(CommitKind::Parallel, staged)
            }
            (Step::Stage, Event::Staged { highest, .. }) => self.raise(highest, Step::Commit),
            (Step::Stage, Event::Failed(SendError::TxnRetry { needed })) => {
                self.may_be_laid = true;
                self.raise(needed, Step::Stage)
            }
            (Step::Commit, Event::Committed(at)) => Step::Done(CommitKind::Explicit, at),
            (Step::Commit, Event::Failed(SendError::TxnRetry { needed })) => {
                self.raise(needed, Step::Commit)
            }
            (Step::Stage | Step::Commit, Event::Failed(SendError::Ambiguous { .. })) => Step::Learn,
            (Step::Refresh(to), Event::Refreshed(true)) => {
                self.held_at = self.held_at.max(to);
                self.then.take().unwrap_or(Step::Learn)
            }
            (Step::Refresh(_), Event::Refreshed(false)) => {
                Step::Fail(TxnError::Retry { cause: RetryCause::Serializable })
            }
            (Step::Refresh(_), Event::NotRefreshed(error)) => Step::Fail(error),
            (Step::Learn, Event::Learned(Some(Some(at)))) => Step::Done(CommitKind::Explicit, at),
            (Step::Learn, Event::Learned(Some(None))) => {
                Step::Fail(self.failure.take().unwrap_or_else(aborted))
            }
            (Step::Learn, _) => Step::Fail(TxnError::Ambiguous {
                message: "the record of the transaction could not be asked what became of it"
                    .to_owned(),
            }),
            (_, Event::Failed(error)) => Step::Fail(error.into()),
            (step, event) => {
                Step::Fail(TxnError::invalid(format!("{event:?} does not follow {step:?}")))
            }
        }
    }
}
