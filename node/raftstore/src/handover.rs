//! What one leaseholder hands to the next: its reads, its locks, what it has closed.
//!
//! ```text
//! old   all latched ─ EndLease{T, handover} ─▶ log
//! new                                          └▶ AcquireLease ─ import ─▶ serves
//! ```
//!
//! Without a handover a new lease must take everything for read up to its start, and whoever
//! writes is pushed above it. With one, writes that began before the transfer keep their
//! timestamps where nobody read above them. Locks are advice: one that is lost costs a retry.
//!
//! Invariants:
//! 1. A handover is used by the first lease that begins after it was made, or by none: one that
//!    does not come with the end of a lease does not exist.
//! 2. Nothing is served between the moment it is made and the end of the lease that makes it.
//! 3. What the old leaseholder closed, the new one does not write below.

use crdb_concurrency::ReadSummary;
use crdb_keys::{Span, Timestamp};
use crdb_proto::kv;
use prost::Message;

use crate::{
    config::{Mono, PlantedBug, StoreConfig},
    handle::ReplicaHandle,
    limits::Limits,
};

/// What a leaseholder leaves to the next.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Handover {
    /// What was read, and up to when everything may have been.
    #[prost(message, required, tag = "1")]
    pub(crate) reads: ReadSummary,
    /// Unreplicated locks.
    #[prost(message, repeated, tag = "2")]
    pub(crate) locks: Vec<kv::LockInfo>,
    /// Nothing is written at or below any more.
    #[prost(message, required, tag = "3")]
    pub(crate) closed: kv::Timestamp,
}

impl ReplicaHandle {
    /// What the next leaseholder of `span`, or of the whole range, must know. The caller has the
    /// latch on the whole range. What is too much for the log is covered by a low-water mark.
    pub(crate) fn hand_over(&self, span: Option<&Span>, limits: &Limits, now: Mono) -> Handover {
        let bytes_max = limits.handover_bytes_max;
        let (reads_max, locks_max) = (limits.handover_reads_max, limits.handover_locks_max);
        Handover {
            reads: self.reads.lock().summary(reads_max, bytes_max),
            locks: self.locks.export(span, locks_max, bytes_max, now.0),
            closed: self.writes.closed().max(self.history.closed()).into(),
        }
    }
}

/// A handover as the store takes it over for whom the next lease begins.
#[derive(Debug)]
pub(crate) struct Handed<'a> {
    pub(crate) handover: &'a Handover,
    pub(crate) now: Mono,
    pub(crate) config: &'a StoreConfig,
}

impl Handed<'_> {
    /// Puts the handover in place of what `replica` knew.
    pub(crate) fn take_over(&self, replica: &ReplicaHandle) {
        replica.writes.forward(self.handover.closed.into());
        let reads = &mut *replica.reads.lock();
        reads.reset(Timestamp::ZERO);
        let forgets = self.config.has(PlantedBug::SkipTscacheOnTransfer)
            || self.config.has(PlantedBug::LeaseForgetsReads);
        if !forgets {
            reads.import(&self.handover.reads);
        }
        replica.locks.import(&self.handover.locks, self.now.0);
    }
}
