//! The bounds of what a range and its store remember about requests and transactions.
//!
//! Each forgets towards the safe side: a read that is forgotten raises what may be written
//! everywhere, an intent is met again, an unreplicated lock is advice, and who is turned away was
//! not looked at.

use std::time::Duration;

crdb_settings::limits! {
    /// Bounds of latches, locks, reads and waits; all but the last three are for one range.
    pub struct Limits {
        /// Requests that one request may have before it at its latches, beyond which it is turned
        /// away: each notes all that come after it, so that many who want the same key would cost
        /// memory by the square of their number.
        pub latch_waits_max: usize = 2_000, min 16;
        /// Locks known. The oldest is forgotten for a new one.
        pub locks_max: usize = 10_000, min 1;
        /// Requests that may wait for locks, beyond which they are turned away: whoever goes has
        /// all those behind it at its key looked at.
        pub lock_waiters_max: usize = 10_000, min 16;
        /// Transactions known to have ended: those looked at for each lock. The oldest is forgotten
        /// for a new one; a lock that it gets nevertheless is broken by who waits for it.
        pub ended_txns_max: usize = 256, min 1;
        /// How long a transaction is known to have ended. By then its node has told that nobody
        /// waits for its request any more, or its connection has ended, and the request with it.
        pub ended_txn_life: Duration = Duration::from_secs(5), min Duration::from_millis(50);
        /// Keys whose latest read is known one by one, for each of two generations. What is
        /// forgotten counts as a read of everything.
        pub read_points_max: usize = 32_768, min 1;
        /// Bounds of spans whose latest read is known one by one, for each of two generations.
        pub read_spans_max: usize = 2_048, min 1;
        /// Waits of transactions for each other that a store remembers. The one told longest ago
        /// makes room; a deadlock is found later for it.
        pub txn_waits_max: usize = 10_000, min 16;
        /// Transactions that wait for one, as they are remembered and told at a time. Of more, each
        /// answer tells others.
        pub txn_dependents_max: usize = 256, min 2;
        /// How long a wait is believed after it was told: longer than between two pushes.
        pub txn_wait_life: Duration = Duration::from_secs(1), min Duration::from_secs(1);
    }
}

#[cfg(test)]
impl Limits {
    /// Those that a seed draws.
    pub(crate) fn of_seed(mut seed: u64) -> Self {
        Self::draw(&mut |below| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (seed >> 33) % below
        })
    }
}
