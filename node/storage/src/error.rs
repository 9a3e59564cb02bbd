//! What can go wrong below the replicas.

use std::path::PathBuf;

/// Why the storage engine did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store could not be opened.
    #[error("cannot open the store at {}: {message}", .path.display())]
    Open {
        /// Directory of the store.
        path: PathBuf,
        /// What the engine said.
        message: String,
    },
    /// Another process has the store open.
    #[error(
        "the store at {} is locked by another process; stop that process or use another --store",
        .path.display()
    )]
    Locked {
        /// Directory of the store.
        path: PathBuf,
    },
    /// A write or sync failed, now or earlier. What reached the disk is unknown, so the store
    /// takes no more writes and the process must end; a restart recovers from the log.
    #[error("the store takes no more writes after a failed write or sync: {message}")]
    Poisoned {
        /// What the engine said about the write that failed first.
        message: String,
    },
    /// A read failed.
    #[error("cannot read from the store: {message}")]
    Read {
        /// What the engine said.
        message: String,
    },
    /// Bytes read back are not what was ever written.
    #[error("the store holds corrupt data: {what}: {detail}")]
    Corrupt {
        /// What was being read.
        what: &'static str,
        /// In which way it is wrong.
        detail: String,
    },
}

impl Error {
    /// Corrupt bytes where `what` was expected.
    pub fn corrupt(what: &'static str, detail: impl Into<String>) -> Self {
        Self::Corrupt { what, detail: detail.into() }
    }
}
