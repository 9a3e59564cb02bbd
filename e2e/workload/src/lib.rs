//! Checking workloads: clients that call a real cluster through SQL while it suffers, and checkers
//! that say whether what they saw is what the database promises.
//!
//! What it promises: every transaction is serializable, each key is linearizable while clocks stay
//! within the bound, nothing acknowledged is lost, no read is stale, an outcome that nobody knows is
//! reported as such. Order in real time across keys is not promised.
//!
//! ```text
//! workloads  what is asked, and the checker of its history
//! oracle     whole statements of all sizes, and the model that says what they do
//! driver     clients: one call after the other, no hidden retry  <- session, history
//! nemesis    kills, pauses, cuts, clocks, splits, leases         <- cluster, links
//! run        both together, then the verdict                     <- report
//! ```
//!
//! Invariants:
//! 1. A checker is a pure function of a history, and has a test with a bad history that it rejects.
//! 2. A run that shows too little is not valid but unknown, and fails.
//! 3. All randomness comes from the seed in the report; what the processes make of it does not.

pub mod cluster;
pub mod driver;
pub mod history;
pub mod linearizable;
pub mod links;
pub mod nemesis;
pub mod oracle;
pub mod planted;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod report;
pub mod run;
pub mod session;
pub mod verdict;
pub mod workload;
pub mod workloads;
