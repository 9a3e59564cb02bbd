//! A cluster of stores in one thread, under a seed: the same replication, lease and evaluation
//! code that a node runs, on disks that lose unsynced writes, clocks that differ and a network that
//! delays, drops, doubles and reorders.
//!
//! What it is: a search for histories that break a promise of the database. What it is not: no
//! sockets, no threads, no SQL.
//!
//! ```text
//! world: event heap by (time, seeded tie)
//!   ├─ node: Store::begin ─ disk delay ─ Store::finish, evaluations polled at each yield point
//!   │    └─ gateway: DistSender over the network, as tasks of a small executor
//!   ├─ network: links with cuts, delays, losses          ├─ nemesis: what goes wrong, and when
//!   ├─ clients: put, get, compare-and-set on few keys    └─ checks: history, oracle, txn::check
//!   └─ clients of transactions: programs over several keys, cut short at any point
//! ```
//!
//! A run has parts: the cluster forms, faults happen while clients work, everything heals, one last
//! transaction locks and writes every key. In the end it must serve again, and these must hold:
//!
//! 1. Each acknowledged write is in the final state at its timestamp, on every replica, once; each
//!    write reported as failed is not.
//! 2. Each key's history is linearizable; writes with an unknown outcome may or may not be in it.
//! 3. No two stores hold the lease of a range at the same moment, and the timestamps that two
//!    leases served do not overlap.
//! 4. Each read, also one at a timestamp of its own choice, agrees with the final state at its
//!    timestamp: nothing was written below it afterwards.
//! 5. The replicas of a range are equal whenever they have applied the same commands: data, lease
//!    and configuration.
//! 6. Transactions are serializable in the order of their timestamps, all or nothing, and see what
//!    was known before they began; nothing of those that were left alone stays in the way.
//! 7. The same seed gives the same run.

mod client;
mod event;
mod exec;
mod gateway;
mod history;
mod nemesis;
mod network;
mod node;
mod oracle;
mod plan;
mod rng;
mod serve;
mod txn;
mod verdict;
mod watch;
mod world;

pub use plan::{Bug, Options};
pub use world::{Outcome, Stats, run};
