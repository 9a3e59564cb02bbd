//! What clients asked and what came back, in an order that agrees with real time.
//!
//! Invariants:
//! 1. A number for the invocation is drawn before the first byte is sent, one for the completion
//!    after the last byte came: if a call completed before another was invoked, its completion has
//!    the lower number. Nothing else may be concluded from the numbers.
//! 2. A process does one call after the other, and none after one of unknown outcome.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It took effect, between its invocation and its completion.
    Ok,
    /// It has no effect, never.
    Fail,
    /// Nobody knows: it may take effect at any time after its invocation.
    Info,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Fail => "fail",
            Outcome::Info => "info",
        }
    }
}

/// One call of one process.
#[derive(Clone, Debug)]
pub struct Call<O> {
    /// Who called.
    pub process: u64,
    /// The node that was asked, from 0.
    pub node: usize,
    /// The number of the invocation.
    pub invoked: u64,
    /// The number of the completion.
    pub completed: u64,
    /// Nanoseconds since the start of the run, of both.
    pub times: (u64, u64),
    /// How it ended.
    pub outcome: Outcome,
    /// What was asked.
    pub asked: O,
    /// The same, with the answers if the outcome is `Ok`.
    pub op: O,
    /// Why the outcome is not `Ok`.
    pub error: Option<String>,
}

impl<O> Call<O> {
    /// Whether it took effect.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }

    /// Whether it may have taken effect.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        self.outcome != Outcome::Fail
    }

    /// Whether it ended before `other` began.
    #[must_use]
    pub fn precedes<P>(&self, other: &Call<P>) -> bool {
        self.is_ok() && self.completed < other.invoked
    }
}

/// A fault, as it was injected or healed.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The number at which it was done.
    pub number: u64,
    /// Nanoseconds since the start of the run.
    pub time: u64,
    /// What was done.
    pub text: String,
}

/// Draws the numbers of a run.
#[derive(Debug)]
pub struct Order {
    next: AtomicU64,
    began: Instant,
}

impl Default for Order {
    fn default() -> Self {
        Self { next: AtomicU64::new(0), began: Instant::now() }
    }
}

impl Order {
    /// The next number, and the nanoseconds since the start.
    pub fn stamp(&self) -> (u64, u64) {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        (number, u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// The history as JSON lines: an event a line, by number, with the faults among them.
#[must_use]
pub fn to_json_lines<O: Serialize>(calls: &[Call<O>], faults: &[Fault]) -> String {
    let mut lines = Vec::with_capacity(calls.len() * 2 + faults.len());
    for call in calls {
        let event = |number: u64, time: u64, kind: &str, op: &O, error: Option<&str>| {
            let mut event = json!({
                "index": number, "time": time, "type": kind, "process": call.process,
                "node": call.node + 1, "value": op,
            });
            if let (Some(error), Some(object)) = (error, event.as_object_mut()) {
                object.insert("error".to_owned(), json!(error));
            }
            event
        };
        lines.push((call.invoked, event(call.invoked, call.times.0, "invoke", &call.asked, None)));
        let name = call.outcome.name();
        let error = call.error.as_deref();
        lines.push((call.completed, event(call.completed, call.times.1, name, &call.op, error)));
    }
    for fault in faults {
        let event = json!({
            "index": fault.number, "time": fault.time, "type": "info", "process": "nemesis",
            "value": &fault.text,
        });
        lines.push((fault.number, event));
    }
    lines.sort_by_key(|(number, _)| *number);
    let mut text = String::new();
    for (_, line) in lines {
        // Writing to a string cannot fail.
        writeln!(text, "{line}").unwrap_or_default();
    }
    text
}

/// Histories by hand, for the tests of checkers.
#[cfg(test)]
pub(crate) mod by_hand {
    use super::{Call, Outcome};

    /// Collects calls that each end before the next begins, unless they are said to overlap.
    pub(crate) struct ByHand<O> {
        calls: Vec<Call<O>>,
        next: u64,
    }

    impl<O: Clone> ByHand<O> {
        pub(crate) fn new() -> Self {
            Self { calls: Vec::new(), next: 0 }
        }

        fn push(mut self, outcome: Outcome, op: O) -> Self {
            let (invoked, completed) = (self.next, self.next + 1);
            self.next += 2;
            self.calls.push(Call {
                process: invoked,
                node: 0,
                invoked,
                completed,
                times: (invoked, completed),
                outcome,
                asked: op.clone(),
                op,
                error: None,
            });
            self
        }

        pub(crate) fn ok(self, op: O) -> Self {
            self.push(Outcome::Ok, op)
        }

        pub(crate) fn fail(self, op: O) -> Self {
            self.push(Outcome::Fail, op)
        }

        pub(crate) fn info(self, op: O) -> Self {
            self.push(Outcome::Info, op)
        }

        /// The last `n` calls all began before the first of them ended.
        pub(crate) fn overlapping(mut self, n: usize) -> Self {
            let from = self.calls.len() - n;
            let base = self.calls[from].invoked;
            for (call, number) in self.calls[from..].iter_mut().zip(base..) {
                call.invoked = number;
                call.completed = number + n as u64;
            }
            self
        }

        pub(crate) fn calls(self) -> Vec<Call<O>> {
            self.calls
        }
    }
}
