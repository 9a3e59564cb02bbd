//! Which versions of a range cannot be of before a transaction began at this node.
//!
//! A version above a read may have been acknowledged before the reader began, at a node whose clock
//! is ahead; so a read has to look up to its uncertainty limit, the reader's clock at its begin plus
//! the largest offset. Where the gateway of the reader is the leaseholder, both have one clock, and
//! most of that is not in doubt. What this is not: it says nothing of intents, whose transaction may
//! have committed at a timestamp that no clock here has reached; all up to the limit are in the way.
//!
//! ```text
//!            read        observed: this clock, as the reader began         uncertainty limit
//! ─────────────┼───────────────────┼───────────────────────────────────────────────┼──────▶
//! visible      │     in doubt      │ of later, unless moved there or older than the │ of later
//!              │                   │ lease: then in doubt                           │
//! ```
//!
//! Why. Let a version at `v` be acknowledged before the reader began. Either that was before the
//! first look under the present lease: then some clock had reached `v`, and `v` is at most that of
//! this node at the first look, plus the largest offset. Or all of it happened under this lease,
//! here: the clock of this node was moved past the timestamp of each write, as version or intent,
//! before anything was acknowledged, so `v` is at most what the reader observed; unless the version
//! was an intent below `v` and committed higher than it was laid: then `v` was noted here before the
//! version could be read. So `v` is at most the largest of the three.
//!
//! Invariants:
//! 1. What [`Certainty::noted`] is told is told under the latches of the key, before it is applied.
//! 2. (I2) A version above what [`Certainty::above`] answers was not acknowledged before the reader
//!    began, as long as clocks are within the largest offset.

use crdb_keys::{Timestamp, hlc::Clock};
use parking_lot::Mutex;

/// What is in doubt in one range whoever reads it.
#[derive(Debug, Default)]
pub(crate) struct Certainty {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Sequence of the lease that `doubted` is about. No lease has zero.
    lease: u64,
    /// Up to here nothing is certain.
    doubted: Timestamp,
}

impl State {
    fn under(&mut self, lease: u64, clock: &Clock) {
        if self.lease != lease {
            let nanos = u64::try_from(clock.max_offset().as_nanos()).unwrap_or(u64::MAX);
            self.lease = lease;
            self.doubted = self.doubted.max(clock.now().add_nanos(nanos));
        }
    }
}

impl Certainty {
    /// Above what a version cannot be of before a reader that `observed` this clock as it began.
    pub(crate) fn above(&self, observed: Timestamp, lease: u64, clock: &Clock) -> Timestamp {
        let mut state = self.state.lock();
        state.under(lease, clock);
        state.doubted.max(observed)
    }

    /// An intent becomes a version at `committed`, above where it was laid.
    pub(crate) fn noted(&self, committed: Timestamp, lease: u64, clock: &Clock) {
        let mut state = self.state.lock();
        state.under(lease, clock);
        state.doubted = state.doubted.max(committed);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use crdb_keys::hlc::ManualClock;

    use super::*;

    fn at(nanos: u64) -> Timestamp {
        Timestamp::new(nanos, 0)
    }

    #[test]
    fn what_is_older_than_the_lease_or_was_moved_is_in_doubt() {
        let wall = Arc::new(ManualClock::new(1_000));
        let clock = Clock::new(Arc::clone(&wall) as _, Duration::from_nanos(500));
        let certainty = Certainty::default();
        let first = certainty.above(at(900), 3, &clock);
        assert!(first >= at(1_500) && first < at(1_501), "{first}");
        wall.set(2_000);
        assert_eq!(certainty.above(at(1_900), 3, &clock), at(1_900));
        certainty.noted(at(2_300), 3, &clock);
        assert_eq!(certainty.above(at(1_900), 3, &clock), at(2_300));
        assert_eq!(certainty.above(at(2_400), 3, &clock), at(2_400));
        // The lease comes back after another one had it.
        wall.set(3_000);
        let again = certainty.above(at(2_900), 5, &clock);
        assert!(again >= at(3_500) && again < at(3_501), "{again}");
        // Also if the first thing that happens under it is a commit.
        let fresh = Certainty::default();
        fresh.noted(at(2_800), 5, &clock);
        assert!(fresh.above(at(2_900), 5, &clock) >= at(3_500));
    }
}
