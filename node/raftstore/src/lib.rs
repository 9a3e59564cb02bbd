//! The replicated store: ranges, their raft logs, their leases, and the evaluation of requests.
//!
//! What it is: everything between a [`BatchRequest`](crdb_proto::kv::BatchRequest) at the store
//! that holds the range and the engine's bytes on every replica. What it is not: it opens no
//! socket, starts no thread, reads no clock by itself and draws no random number but from its
//! seed; the server drives it, and the simulator drives the same code.
//!
//! Two ways in:
//!
//! * [`Store`] belongs to one thread, the scheduler: [`Store::begin`] and [`Store::finish`] take
//!   in messages, proposals and the time, and give back messages to send. One log batch and one
//!   sync serve all ranges.
//! * [`StoreHandle`] is shared: [`StoreHandle::evaluate`] runs a request on the caller's thread as
//!   an [`Evaluation`], which reads under the range's lease and hands writes over as a
//!   [`Proposal`].
//!
//! ```text
//! caller:    evaluate ─ latch ─ locks ─ lease ─ snapshot ─ effect ─▶ Proposal ┐  ┌▶ response
//! scheduler:                              Input::Propose ◀────────────────────┘  │
//!            begin: propose, step, tick ─ Readys ─▶ appends to followers         │
//!            finish: sync ─▶ acks ─ committed ─ apply, locks and latches go ────▶┘
//! ```
//!
//! The leaseholder of a range is its raft leader; the rules of leases are in the modules `lease`
//! and `promise`, what one leaseholder hands to the next in `handover`. A range splits by a command
//! of its own (`admin`, `replica::split`). What is settled is closed (`closed`), so that any replica
//! serves it (`follower`), and collected when nobody may read it any more (`gc`). Only this crate names the consensus library, and none of its types is public.
//!
//! Invariants:
//! 1. An acknowledged write is in the synced logs of a majority.
//! 2. A command takes effect under the lease it was evaluated under, once, or never.
//! 3. No two stores serve a range at overlapping timestamps, and no read misses a write that was
//!    acknowledged before it began.
//! 4. No write appears at or below a closed timestamp, and no read is served below the threshold of
//!    garbage collection.
//! 5. Same inputs, same clock readings, same seed: same outputs.

mod admin;
mod certainty;
mod closed;
mod command;
mod config;
mod early_votes;
mod evaluate;
mod follower;
mod gc;
mod handle;
mod handover;
mod intake;
mod io;
mod lease;
mod limits;
mod log;
mod logger;
mod open;
mod outbox;
mod promise;
mod range_stats;
mod record;
mod replica;
mod settings;
mod snapshot;
mod store;

pub use config::{Mono, PlantedBug, StoreConfig, Timing};
pub use crdb_concurrency::LockWait;
pub use evaluate::{Evaluation, Progress, YieldPoint};
pub use handle::{LeaseView, RangeStatus, StoreCounts, StoreHandle};
pub use io::{
    DescriptorChange, Input, Outputs, Proposal, ProposalResult, ReceivedSnapshot, ReplicaChange,
    SnapshotSend, StoreError,
};
pub use limits::Limits;
pub use settings::StoreSettings;
pub use snapshot::SnapshotStream;
pub use store::Store;
