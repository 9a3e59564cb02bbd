//! What a request keeps from others while its effect is on its way, and what goes once it is there.

use std::sync::Arc;

use bytes::Bytes;
use crdb_concurrency::{LockGuard, WriteGuard};
use crdb_keys::{Key, Span};
use crdb_proto::kv::{self, BatchRequest, LockStrength, error::Kind as ErrorKind};

use super::wants;
use crate::{
    handle::{LatchGuard, ReplicaHandle},
    io::ProposalResult,
};

/// What an evaluation holds from the choice of its timestamps on.
#[derive(Debug)]
pub(super) struct Hold {
    /// Keeps closed timestamps below the write. Given up before the latches.
    pub(super) write: Option<WriteGuard>,
    pub(super) latch: LatchGuard,
}

/// What an evaluation changes in the lock table, by its answer or once its effect is applied.
#[derive(Debug, Default)]
pub(super) struct LockChanges {
    /// To be locked for the transaction, before anybody else can come.
    pub(super) locks: Vec<(Key, LockStrength)>,
    /// Transactions, and where they have no intents any more.
    pub(super) resolved: Vec<(Bytes, Span)>,
    /// A transaction that has committed in the range.
    pub(super) released: Option<Bytes>,
}

impl LockChanges {
    /// What a read that failed with `error` changes: if it came too late to lock a row that was
    /// written meanwhile, it gets the lock nevertheless. Its transaction will read again at a later
    /// time, before those who queue behind it, each of which would fail in turn.
    pub(super) fn despite(error: &kv::Error, batch: &BatchRequest) -> Self {
        let Some(ErrorKind::WriteTooOld(old)) = &error.kind else { return Self::default() };
        let lock = wants::lock_of(batch, &old.key).map(|strength| (old.key.clone(), strength));
        Self { locks: lock.into_iter().collect(), ..Self::default() }
    }

    /// Takes what is resolved and released out of the lock table. Also right if that is not
    /// certain: locks are advisory, and intents are met again.
    pub(super) fn release(&self, replica: &ReplicaHandle) {
        for (txn, span) in &self.resolved {
            replica.locks.release(txn, Some(span));
        }
        if let Some(txn) = &self.released {
            replica.locks.release(txn, None);
        }
    }
}

/// What travels with a proposal, so that it happens also if nobody waits for the outcome any more.
/// Dropped, it gives the latches and the place in the queue back and changes no lock.
#[derive(Debug)]
pub(crate) struct Held {
    pub(super) replica: Arc<ReplicaHandle>,
    pub(super) changes: LockChanges,
    pub(super) place: Option<LockGuard>,
    pub(super) hold: Hold,
}

impl Held {
    /// The proposal came to an end: changes the lock table if it took effect, or may have, then
    /// gives the latches back.
    pub(crate) fn complete(self, result: ProposalResult) {
        if matches!(result, ProposalResult::Applied | ProposalResult::Ambiguous) {
            self.changes.release(&self.replica);
        }
        drop(self.place);
        drop(self.hold);
    }
}
