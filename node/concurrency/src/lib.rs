//! Keeps requests on the same keys of one range apart.
//!
//! What it is: latches, held for the short time of one evaluation. What it is not: no locks of
//! transactions, no deadlines, no I/O, and it never blocks a thread.
//!
//! [`LatchTable`] decides, [`Latches`] shares one among threads, tasks or the simulator.

mod latch_table;
mod latches;

pub use latch_table::{LatchTable, Ticket};
pub use latches::{LatchGuard, Latches};
