//! Counters of the transactions of a node.

use std::sync::atomic::{AtomicU64, Ordering};

use super::types::{CommitInfo, CommitKind, RetryCause, TxnError};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the node started; see [`TxnCounts`].
        #[derive(Debug, Default)]
        pub(crate) struct TxnMetrics {
            $(pub(crate) $name: AtomicU64,)*
        }

        /// What the transactions of a node did since it started.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct TxnCounts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl TxnMetrics {
            /// The counts now, each by itself.
            pub(crate) fn snapshot(&self) -> TxnCounts {
                TxnCounts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Begun.
    begun,
    /// Committed without a write.
    commits_read_only,
    /// Committed in one batch.
    commits_one_phase,
    /// Committed by intents and a STAGING record at once.
    commits_parallel,
    /// Committed by a COMMITTED record that the client waited for.
    commits_explicit,
    /// Rolled back.
    rollbacks,
    /// Rounds of consensus that clients waited for in commits.
    commit_rounds,
    /// Batches of intents sent before the commit.
    flushes,
    /// Refreshes of what was read that succeeded.
    refreshes_ok,
    /// Refreshes that found a change.
    refreshes_failed,
    /// Restarts because a key had a newer version.
    retries_write_too_old,
    /// Restarts because something read had changed.
    retries_serializable,
    /// Restarts because of a value that might have been acknowledged before the begin.
    retries_uncertainty,
    /// Restarts because another transaction aborted it.
    retries_aborted,
    /// Commits of which nobody can tell whether they happened.
    ambiguous,
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl TxnMetrics {
    pub(crate) fn committed(&self, info: &CommitInfo) {
        add(
            match info.kind {
                CommitKind::ReadOnly => &self.commits_read_only,
                CommitKind::OnePhase => &self.commits_one_phase,
                CommitKind::Parallel => &self.commits_parallel,
                CommitKind::Explicit => &self.commits_explicit,
            },
            1,
        );
        add(&self.commit_rounds, u64::from(info.rounds));
    }

    /// Counts an error that goes to the caller.
    pub(crate) fn failed(&self, error: &TxnError) {
        match error {
            TxnError::Retry { cause } => add(
                match cause {
                    RetryCause::WriteTooOld => &self.retries_write_too_old,
                    RetryCause::Serializable => &self.retries_serializable,
                    RetryCause::Uncertainty => &self.retries_uncertainty,
                    RetryCause::Aborted(_) => &self.retries_aborted,
                },
                1,
            ),
            TxnError::Ambiguous { .. } => add(&self.ambiguous, 1),
            _ => {}
        }
    }
}
