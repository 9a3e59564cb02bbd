//! Why a batch had no effect, or that its effect is unknown, by what the caller does about it.

use crdb_keys::Timestamp;
use crdb_proto::kv;

/// Outcome of a batch that did not succeed.
///
/// Every variant but [`SendError::Ambiguous`] promises that the batch wrote nothing and never will;
/// of a batch that went to several ranges in parts, that this is so of at least one part, and that
/// the fate of no part is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// A validated span changed after the read: run the statement again from its first read.
    #[error("a key that the statement read was written again at {newer}")]
    ReadConflict {
        /// Key with the newer version.
        key: Vec<u8>,
        /// Timestamp of that version.
        newer: Timestamp,
    },
    /// A conditional put found another value: report a duplicate, or read again.
    #[error("request {index} of the batch expected another value at its key")]
    ConditionFailed {
        /// Index of the request in the batch.
        index: u32,
        /// Key of the request.
        key: Vec<u8>,
        /// Value found; `None` when the key does not exist.
        actual: Option<Vec<u8>>,
    },
    /// The batch would have been served or committed after its deadline: renew it and run again.
    #[error("the batch would commit at {would_be}, after its deadline {deadline}")]
    DeadlineExceeded {
        /// Deadline of the batch.
        deadline: Timestamp,
        /// Timestamp it would have had.
        would_be: Timestamp,
    },
    /// The batch may or may not have been applied (SQLSTATE 40003): report, never retry.
    #[error("result is ambiguous: {message}")]
    Ambiguous {
        /// What happened.
        message: String,
    },
    /// No replica could serve the batch in time; nothing was written. Trying later is safe.
    #[error("{message}")]
    Unavailable {
        /// Which range, and why.
        message: String,
    },
    /// The keys lie in more than one range, which one batch cannot write (SQLSTATE 0A000).
    #[error("{message}")]
    CrossRange {
        /// Which ranges.
        message: String,
    },
    /// A version may have been acknowledged before the reader began: read at or above it.
    #[error("a value at {existing} is within the uncertainty interval of the read")]
    ReadUncertain {
        /// Key of the version.
        key: Vec<u8>,
        /// Its timestamp.
        existing: Timestamp,
    },
    /// A locking read met a version above its read timestamp: read at or above it.
    #[error("a key that was to be locked was written at {existing}, above the read")]
    WriteTooOld {
        /// Key of the version.
        key: Vec<u8>,
        /// Its timestamp.
        existing: Timestamp,
    },
    /// Somebody else's lock was not waited for.
    #[error("could not obtain a lock on a key")]
    LockConflict {
        /// The key.
        key: Vec<u8>,
        /// Whether the lock was waited for as long as was allowed.
        timed_out: bool,
    },
    /// The transaction cannot commit at its timestamp.
    #[error("the transaction would have to commit at {needed}")]
    TxnRetry {
        /// Where it could commit, once its reads are refreshed.
        needed: Timestamp,
    },
    /// The transaction was aborted by another one.
    #[error("the transaction was aborted: {reason}")]
    TxnAborted {
        /// Such as `ABORT_REASON_PUSHER_ABORTED`.
        reason: String,
    },
    /// The read timestamp is below what the range keeps.
    #[error("the timestamp of the read is below {threshold}, which is all that is kept")]
    ReadBelowThreshold {
        /// Reads at or above it are served.
        threshold: Timestamp,
    },
    /// What has to be written together does not fit one command (SQLSTATE 54000).
    #[error("what is written together takes {bytes} bytes, more than the {limit} of one command")]
    TooLarge {
        /// The key at which the bound was passed.
        key: Vec<u8>,
        /// Bytes up to there.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
    /// The batch itself is wrong; repeating it does not help.
    #[error("{message}")]
    Invalid {
        /// What is wrong with it.
        message: String,
    },
}

impl SendError {
    /// Maps an error a range answered to what the caller does, unless the sender handles it itself
    /// (`NotLeaseholder`, `RangeMismatch`): those come back as `Unavailable`.
    pub fn from_range(error: kv::Error) -> Self {
        use kv::error::Kind;
        let message = error.message;
        match error.kind {
            Some(Kind::ReadConflict(e)) => Self::ReadConflict {
                key: e.key.into(),
                newer: e.newer.map(Into::into).unwrap_or_default(),
            },
            Some(Kind::ConditionFailed(e)) => Self::ConditionFailed {
                index: e.index,
                key: e.key.into(),
                actual: e.actual.map(Into::into),
            },
            Some(Kind::DeadlineExceeded(e)) => Self::DeadlineExceeded {
                deadline: e.deadline.map(Into::into).unwrap_or_default(),
                would_be: e.would_be.map(Into::into).unwrap_or_default(),
            },
            Some(Kind::ReadUncertain(e)) => Self::ReadUncertain {
                key: e.key.into(),
                existing: e.existing.map(Into::into).unwrap_or_default(),
            },
            Some(Kind::WriteTooOld(e)) => Self::WriteTooOld {
                key: e.key.into(),
                existing: e.existing.map(Into::into).unwrap_or_default(),
            },
            Some(Kind::LockConflict(e)) => {
                Self::LockConflict { key: e.key.into(), timed_out: e.timed_out }
            }
            Some(Kind::TxnRetry(e)) => {
                Self::TxnRetry { needed: e.needed.map(Into::into).unwrap_or_default() }
            }
            Some(Kind::TxnAborted(e)) => Self::TxnAborted { reason: e.reason },
            Some(Kind::ReadBelowThreshold(e)) => Self::ReadBelowThreshold {
                threshold: e.threshold.map(Into::into).unwrap_or_default(),
            },
            Some(Kind::TooLarge(e)) => {
                Self::TooLarge { key: e.key.into(), bytes: e.bytes, limit: e.limit }
            }
            Some(Kind::Ambiguous(_)) => Self::Ambiguous { message },
            Some(Kind::Invalid(_)) => Self::Invalid { message },
            Some(Kind::NotLeaseholder(_) | Kind::RangeMismatch(_) | Kind::Unavailable(_))
            | None => Self::Unavailable { message },
        }
    }
}
