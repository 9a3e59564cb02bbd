//! Transactions at the gateway.
//!
//! [`TxnClient`] is one per node; [`Txn`] is one transaction, driven by one session.
//!
//! What it is: the half of the protocol that the client's node runs: it buffers writes, notes what
//! was read, finds a timestamp at which both hold, and commits. What it is not: it keeps no lock
//! and no record; the leaseholders do, and what they answer decides.
//!
//! ```text
//! begin ─ read at T ─────── put, insert, delete ─ commit
//!          │  T from the          │                  ├─ nothing written ─▶ done
//!          │  first leaseholder   └▶ WriteBuffer     └─ one range ───────▶ [Validate, writes]
//!          └▶ Refresher
//! ```
//!
//! Invariants:
//! 1. All that one statement reads (under SERIALIZABLE: all that the transaction reads) is one
//!    snapshot, the commit's under SERIALIZABLE.
//! 2. A batch that may have committed the transaction is never sent again.
//! 3. `Ok` of a commit is said only when the commit is durable.

mod background;
pub(crate) mod buffer;
mod client;
mod commit;
pub(crate) mod committer;
mod coordinator;
mod ending;
mod footprint;
mod heartbeat;
mod metrics;
mod open_reads;
pub(crate) mod refresh;
#[cfg(test)]
mod tests;
mod types;

pub use client::{Sleep, TxnClient, TxnClientConfig};
pub use coordinator::Txn;
pub use metrics::TxnCounts;
pub use types::{
    AsOf, CommitInfo, CommitKind, ReadOptions, RetryCause, SavepointId, TxnError, TxnOptions,
};
