//! What goes into a transaction and what comes out of it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use crdb_keys::Timestamp;
use crdb_proto::kv::{Isolation, TxnPriority, WaitPolicy};

use crate::SendError;

/// How a transaction behaves, fixed when it begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TxnOptions {
    /// What it may observe of others.
    pub isolation: Isolation,
    /// Who gives way when two transactions are in each other's way.
    pub priority: TxnPriority,
    /// Writes and locking reads are refused.
    pub read_only: bool,
    /// Reads the past; implies `read_only`.
    pub as_of: Option<AsOf>,
    /// One statement that commits by itself: nothing of it was seen by the client yet.
    pub implicit: bool,
}

/// A timestamp in the past that a transaction reads at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsOf {
    /// All reads are served at this timestamp.
    pub timestamp: Timestamp,
    /// Any replica that has everything up to the timestamp may serve.
    pub nearest: bool,
}

/// How one call of [`super::Txn::read`] treats the locks of others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Wait, fail with [`TxnError::LockConflict`], or leave the rows out.
    pub wait_policy: WaitPolicy,
    /// How long to wait for each lock; zero: for ever.
    pub lock_timeout: Duration,
}

/// A point of a transaction that [`super::Txn::rollback_to`] goes back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SavepointId(pub(crate) u32);

/// The way a transaction committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitKind {
    /// Nothing was written.
    ReadOnly,
    /// One batch in one range, without intents and record.
    OnePhase,
    /// Intents and a STAGING record at once.
    Parallel,
    /// A COMMITTED record after the intents.
    Explicit,
}

/// How a transaction committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitInfo {
    /// Timestamp of its versions; of its reads if it wrote nothing, unset if it did nothing.
    pub timestamp: Option<Timestamp>,
    /// The way it took.
    pub kind: CommitKind,
    /// Rounds of consensus, one after the other, that [`super::Txn::commit`] waited for.
    pub rounds: u32,
}

/// What came of one call of [`super::Txn::try_commit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It is committed.
    Committed(CommitInfo),
    /// Somebody has a lock on what is written. Nothing has changed, the transaction goes on.
    Blocked,
}

/// Why a transaction has to run again from its start.
///
/// Its text is the word that clients look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryCause {
    /// A key that was to be locked or written has a newer version.
    WriteTooOld,
    /// Something that was read changed before the commit.
    Serializable,
    /// A value may have been acknowledged before the transaction began.
    Uncertainty,
    /// Another transaction aborted it; the reason as the range gave it.
    Aborted(String),
}

impl fmt::Display for RetryCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WriteTooOld => "RETRY_WRITE_TOO_OLD",
            Self::Serializable => "RETRY_SERIALIZABLE",
            Self::Uncertainty => "ReadWithinUncertaintyIntervalError",
            Self::Aborted(reason) => reason,
        })
    }
}

/// Why a call of a transaction failed, by what the caller does about it.
///
/// Every variant but [`TxnError::Ambiguous`] promises that the transaction is not committed and
/// will not be, unless a later call commits it. [`TxnError::may_continue`] tells whether there can
/// be a later call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TxnError {
    /// Run the transaction again from its start, as a new one (SQLSTATE 40001). Under READ
    /// COMMITTED going back to the start of the statement is enough, unless the cause is
    /// [`RetryCause::Aborted`].
    #[error("restart transaction: {cause}")]
    Retry {
        /// Why.
        cause: RetryCause,
    },
    /// A key that was inserted exists (SQLSTATE 23505).
    #[error("a key that was inserted exists already")]
    Duplicate {
        /// The key.
        key: Bytes,
        /// Its value.
        actual: Bytes,
    },
    /// Somebody else's lock was not waited for (SQLSTATE 55P03).
    #[error("could not obtain a lock on a key")]
    LockConflict {
        /// The key.
        key: Bytes,
        /// Whether it was waited for as long as was allowed.
        timed_out: bool,
    },
    /// The transaction would read or commit after its deadline.
    #[error("the transaction would go on at {would_be}, after its deadline {deadline}")]
    Deadline {
        /// The deadline set.
        deadline: Timestamp,
        /// Timestamp it would have needed.
        would_be: Timestamp,
    },
    /// The transaction may or may not be committed (SQLSTATE 40003): report, never retry.
    #[error("result is ambiguous: {message}")]
    Ambiguous {
        /// What happened.
        message: String,
    },
    /// A range could not be reached in time.
    #[error("{message}")]
    Unavailable {
        /// Which range, and why.
        message: String,
    },
    /// A request was dropped before its answer came, so that what the transaction has written is not
    /// known: run it again from its start (SQLSTATE 40001).
    #[error("{what} was given up halfway")]
    GivenUp {
        /// Which request.
        what: &'static str,
    },
    /// The timestamp of the read is below what is kept.
    #[error("the timestamp of the read is below {threshold}, which is all that is kept")]
    ReadBelowThreshold {
        /// Reads at or above it are served.
        threshold: Timestamp,
    },
    /// More is buffered than may be: nothing was added; call [`super::Txn::flush`] and try again.
    #[error("the write buffer of the transaction is full")]
    BufferFull,
    /// What has to be written together, a row with what savepoints may go back to, does not fit one
    /// command (SQLSTATE 54000).
    #[error("what is written together takes {bytes} bytes, more than the {limit} of one command")]
    TooLarge {
        /// The key at which the bound was passed.
        key: Bytes,
        /// Bytes up to there.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
    /// The call makes no sense, or asks for what is not supported yet.
    #[error("{message}")]
    Invalid {
        /// What is wrong with it.
        message: String,
    },
}

impl TxnError {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into() }
    }

    /// Whether the transaction may go on after going back to a savepoint. Otherwise all that is
    /// left is to roll it back (or, if ambiguous, to leave it alone).
    #[must_use]
    pub fn may_continue(&self) -> bool {
        let aborted = matches!(self, Self::Retry { cause: RetryCause::Aborted(_) });
        !aborted && !matches!(self, Self::Ambiguous { .. } | Self::GivenUp { .. })
    }
}

impl From<SendError> for TxnError {
    fn from(error: SendError) -> Self {
        let retry = |cause| Self::Retry { cause };
        match error {
            SendError::ReadConflict { .. } | SendError::TxnRetry { .. } => {
                retry(RetryCause::Serializable)
            }
            SendError::ReadUncertain { .. } => retry(RetryCause::Uncertainty),
            SendError::WriteTooOld { .. } => retry(RetryCause::WriteTooOld),
            SendError::TxnAborted { reason } => retry(RetryCause::Aborted(reason)),
            // Absent: the transaction was written to by itself in a way that it did not expect.
            SendError::ConditionFailed { key, actual, .. } => {
                Self::Duplicate { key: key.into(), actual: actual.unwrap_or_default().into() }
            }
            SendError::LockConflict { key, timed_out } => {
                Self::LockConflict { key: key.into(), timed_out }
            }
            SendError::DeadlineExceeded { deadline, would_be } => {
                Self::Deadline { deadline, would_be }
            }
            SendError::Ambiguous { message } => Self::Ambiguous { message },
            SendError::Unavailable { message } => Self::Unavailable { message },
            SendError::ReadBelowThreshold { threshold } => Self::ReadBelowThreshold { threshold },
            SendError::TooLarge { key, bytes, limit } => {
                Self::TooLarge { key: key.into(), bytes, limit }
            }
            SendError::CrossRange { message } | SendError::Invalid { message } => {
                Self::Invalid { message }
            }
        }
    }
}
