//! Which timestamps writes under way have, so that a range can promise not to write below one.
//!
//! A closed timestamp is a promise: no version appears at or below it any more. It may not reach
//! a write that has its timestamp and is not applied yet, and writes that begin later must go
//! above it.
//!
//! ```text
//! begin(5) ─▶ 5      close(8) ─▶ 4, just below the write under way
//! begin(3) ─▶ 4+     above what is closed
//! end of both        close(8) ─▶ 8
//! begin(6) ─▶ 8+
//! ```
//!
//! Invariants:
//! 1. (I12) A write that begins gets a timestamp above everything that was closed before.
//! 2. What is closed is below every write under way, and never sinks.

use std::{collections::BTreeMap, sync::Arc};

use crdb_keys::Timestamp;
use parking_lot::Mutex;

/// The writes of one range that have a timestamp and are not applied yet.
#[derive(Debug, Default)]
pub struct WriteTracker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: Timestamp,
    under_way: BTreeMap<Timestamp, u32>,
}

impl WriteTracker {
    /// Begins a write at or above `lowest`; the guard tells its timestamp and, when dropped, ends
    /// it. A write may be done above the timestamp it has here, not below.
    #[must_use]
    pub fn begin(self: &Arc<Self>, lowest: Timestamp) -> WriteGuard {
        let state = &mut *self.state.lock();
        let timestamp = lowest.max(state.closed.next());
        *state.under_way.entry(timestamp).or_insert(0) += 1;
        WriteGuard { tracker: Arc::clone(self), timestamp }
    }

    /// Closes as much as can be up to `target`, and answers up to where it is closed.
    #[must_use]
    pub fn close(&self, target: Timestamp) -> Timestamp {
        let state = &mut *self.state.lock();
        let below_writes = state.under_way.first_key_value().map(|(first, _)| first.prev());
        let reachable = below_writes.map_or(target, |below| below.min(target));
        state.closed = state.closed.max(reachable);
        state.closed
    }

    /// Counts everything up to `closed` as closed: another leaseholder promised it.
    pub fn forward(&self, closed: Timestamp) {
        let state = &mut *self.state.lock();
        state.closed = state.closed.max(closed);
    }

    /// Up to where it is closed.
    #[must_use]
    pub fn closed(&self) -> Timestamp {
        self.state.lock().closed
    }
}

/// A write under way.
#[derive(Debug)]
pub struct WriteGuard {
    tracker: Arc<WriteTracker>,
    timestamp: Timestamp,
}

impl WriteGuard {
    /// The lowest timestamp of the write.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        let state = &mut *self.tracker.state.lock();
        if let Some(count) = state.under_way.get_mut(&self.timestamp) {
            *count -= 1;
            if *count == 0 {
                state.under_way.remove(&self.timestamp);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{error::Error, fmt::Write as _, path::Path};

    use goldenscript::Command;
    use proptest::prelude::*;
    use test_each_file::test_each_path;

    use super::*;

    test_each_path! { in "node/concurrency/src/testscripts/write_tracker" as scripts => run_script }

    fn run_script(path: &Path) {
        goldenscript::run(&mut Script::default(), path).expect("script failed");
    }

    /// `begin NAME TS`, `end NAME`, `close TS`, `forward TS`.
    #[derive(Default)]
    struct Script {
        tracker: Arc<WriteTracker>,
        writes: BTreeMap<String, WriteGuard>,
    }

    fn show(timestamp: Timestamp) -> String {
        match timestamp.logical {
            0 => timestamp.wall_nanos.to_string(),
            u32::MAX => format!("just below {}", timestamp.wall_nanos + 1),
            above => format!("{}+{above}", timestamp.wall_nanos),
        }
    }

    impl goldenscript::Runner for Script {
        type Command = Command;

        fn run(
            &mut self,
            command: &Command,
            _context: &goldenscript::Context,
        ) -> Result<String, Box<dyn Error>> {
            let mut out = String::new();
            let mut args = command.consume_args();
            let mut next = || args.next_pos().ok_or("an argument is missing");
            match command.name.as_str() {
                "begin" => {
                    let name = next()?.to_owned();
                    let write = self.tracker.begin(Timestamp::new(next()?.parse()?, 0));
                    writeln!(out, "{name} at {}", show(write.timestamp()))?;
                    self.writes.insert(name, write);
                }
                "forward" => self.tracker.forward(Timestamp::new(next()?.parse()?, 0)),
                "end" => drop(self.writes.remove(next()?).ok_or("no such write")?),
                "close" => {
                    let closed = self.tracker.close(Timestamp::new(next()?.parse()?, 0));
                    writeln!(out, "closed {}", show(closed))?;
                }
                other => return Err(format!("no such command: {other}").into()),
            }
            args.reject_next()?;
            Ok(out)
        }
    }

    proptest! {
        #[test]
        fn no_write_is_at_or_below_what_was_closed_before(
            steps in prop::collection::vec((0..3_u8, 0..20_u64), 1..60),
        ) {
            let tracker = Arc::new(WriteTracker::default());
            let mut under_way: Vec<WriteGuard> = Vec::new();
            let mut closed = Timestamp::ZERO;
            for (step, number) in steps {
                let at = Timestamp::new(number, 0);
                match step {
                    0 => {
                        let write = tracker.begin(at);
                        prop_assert!(write.timestamp() > closed && write.timestamp() >= at);
                        under_way.push(write);
                    }
                    1 if !under_way.is_empty() => {
                        let index = usize::try_from(number).unwrap() % under_way.len();
                        under_way.swap_remove(index);
                    }
                    _ => {
                        let now = tracker.close(at);
                        prop_assert!(now >= closed && (now <= at || now == closed));
                        closed = now;
                        // As far as it can be: up to the target, or just below a write.
                        let first = under_way.iter().map(WriteGuard::timestamp).min();
                        prop_assert!(closed >= at || first == Some(closed.next()));
                    }
                }
                prop_assert!(under_way.iter().all(|write| write.timestamp() > closed));
            }
            under_way.clear();
            prop_assert!(tracker.state.lock().under_way.is_empty());
        }
    }
}
