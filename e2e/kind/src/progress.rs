//! What the person at the terminal sees: one line when a step begins, one when it ends, each with
//! the time since the start.

use std::fmt::Display;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Reads the monotonic clock. The only place of this crate that does.
#[expect(clippy::disallowed_methods, reason = "a program for people at a terminal: process edge")]
pub fn now() -> Instant {
    Instant::now()
}

/// Prints steps with their times to stderr. Clones share the start time, so steps of two threads
/// may be reported side by side.
#[derive(Clone, Debug)]
pub struct Progress {
    started: Arc<Instant>,
}

impl Default for Progress {
    fn default() -> Self {
        Progress::new()
    }
}

impl Progress {
    /// Starts the clock.
    pub fn new() -> Self {
        Progress { started: Arc::new(now()) }
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        now().duration_since(*self.started)
    }

    /// Prints a line.
    pub fn note(&self, line: impl Display) {
        // A closed stderr must not end the work.
        drop(writeln!(std::io::stderr().lock(), "[{:>7.1}s] {line}", self.elapsed().as_secs_f64()));
    }

    /// Runs a step and says how long it took or that it failed.
    pub fn step<T>(&self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = now();
        self.note(format_args!("{title} ..."));
        let outcome = work();
        let took = now().duration_since(begun).as_secs_f64();
        match &outcome {
            Ok(_) => self.note(format_args!("{title}: done in {took:.1} s")),
            Err(_) => self.note(format_args!("{title}: FAILED after {took:.1} s")),
        }
        outcome
    }
}
