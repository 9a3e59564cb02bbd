//! Transactions at the gateway.
//!
//! [`TxnClient`] is one per node; [`Txn`] is one transaction, driven by one session.
//!
//! What it is: the half of the protocol that the client's node runs: it buffers writes, notes what
//! was read, finds a timestamp at which both hold, commits, and cleans up. What it is not: it keeps
//! no lock and no record; the leaseholders do, and what they answer decides. Nor does it run a
//! statement again: it says when that is to be done.
//!
//! ```text
//!  session        Txn                       leaseholders                        in the background
//!  ───────        ───                       ────────────                        ─────────────────
//!  begin          id, uncertainty limit
//!  read ────────▶ own writes over ────────▶ first read: picks T, the others
//!                 the answer                at T; locks what will be written
//!                 Refresher: spans at T ◀── newer value: refresh to it, again   heartbeat each 1 s
//!  put, insert ─▶ WriteBuffer                                                   while it holds
//!  savepoint ───▶ WriteBuffer keeps                                             locks or intents
//!  (buffer full)  flush ──────────────────▶ intents, raised above reads of
//!                                           others: write timestamp grows
//!  commit ──────▶ Committer:
//!   nothing written ──────────────────────────────────────────────────────────▶ ReleaseLocks
//!   one range ────[Validate, writes]──────▶ versions at once           1 round
//!    blocked ─────[locks on the writes]───▶ waits; then the same again
//!   reads elsewhere ─[writes at T]────────▶ versions at T              1 round  ReleaseLocks
//!   several ranges ─[intents]─────────────▶ ┐ all at or below the
//!                 ─[intents, STAGING]─────▶ ┘ staged timestamp         1 round  COMMITTED record
//!                  one was raised: refresh,                                     ResolveIntent
//!                  COMMITTED record ──────▶                            2 rounds RemoveTxnRecord
//!  ◀── committed
//! ```
//!
//! Each part is a type of its own: `buffer` (own writes), `refresh` (what was read), `footprint`
//! (locks and intents left at leaseholders), `committer` (the steps of a commit), all pure;
//! `commit`, `ending` and `heartbeat` send what they say.
//!
//! Isolation. SERIALIZABLE: everything read is validated up to the commit timestamp. READ
//! COMMITTED: each statement is one snapshot of its own; what was locked, from the statement that
//! locked it, is validated at the commit, so that no update is lost although unreplicated locks may
//! be; what was read without a lock is not.
//!
//! Invariants:
//! 1. All that one statement reads (under SERIALIZABLE: all that the transaction reads) is one
//!    snapshot, the commit's under SERIALIZABLE.
//! 2. A batch that may have committed the transaction is never sent again; if its fate cannot be
//!    learned from the record, the client hears so.
//! 3. `Ok` of a commit is said only when the commit is durable: versions in one range, or a STAGING
//!    record with all its intents at or below its timestamp, or a COMMITTED record.
//! 4. A transaction that was reported as not committed never commits: its record, if one was or may
//!    have been written, says ABORTED for as long as it matters.
//! 5. No intent is resolved as committed before the COMMITTED record is durable.
//! 6. Whatever it leaves at a leaseholder is noted before it is sent.
//! 7. A transaction that was aborted returns nothing that it read past its own writes: the intents
//!    that it sent before are found again by each read over them, or the read fails.
//! 8. A transaction runs again under a new id; there is nothing of the old one to confuse it with.

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
    AsOf, CommitInfo, CommitKind, CommitOutcome, ReadOptions, RetryCause, SavepointId, TxnError,
    TxnOptions,
};
