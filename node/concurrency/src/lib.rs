//! Keeps requests and transactions on the same keys of one range apart.
//!
//! ```text
//! request ─▶ latches ─▶ lock table ─▶ timestamps: above the timestamp cache and what is closed
//!            for the     queues, for     ─▶ evaluation ─▶ reads into the timestamp cache,
//!            evaluation  the time of                      locks into the lock table
//!                        a transaction
//! ```
//!
//! What it is: the rules, each as a small type that knows neither threads nor clocks, and, where
//! requests wait, a wrapper with wakers. What it is not: no I/O, no replication, no deadlines; it
//! never blocks a thread, and it never asks how a transaction is doing: who waits does.
//!
//! | type | decides |
//! |---|---|
//! | [`LatchTable`], [`Latches`] | who may evaluate beside whom |
//! | [`LockTable`], [`Locks`] | which transaction has a key, and who waits for it |
//! | [`TimestampCache`] | how low a transaction may write |
//! | [`WriteTracker`] | up to where nobody writes any more |
//! | [`TxnWaits`] | which transactions wait for each other: one a store, not one a range |
//!
//! What each remembers is bounded, see [`Limits`].

mod latch_table;
mod latches;
mod limits;
mod lock_table;
mod locks;
mod timestamp_cache;
mod txn_waits;
mod write_tracker;

pub use latch_table::{LatchTable, Ticket};
pub use latches::{LatchGuard, Latches};
pub use limits::Limits;
pub use lock_table::{LockRequest, LockTable, LockTicket, LockUse, LockWait};
pub use locks::{LockGuard, Locks, Sequenced};
pub use timestamp_cache::{PointRead, ReadSummary, ReaderId, SpanRead, TimestampCache};
pub use txn_waits::TxnWaits;
pub use write_tracker::{WriteGuard, WriteTracker};
