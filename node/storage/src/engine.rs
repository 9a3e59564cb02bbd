//! The contract between the replicas and the disk.
//!
//! Two engines keep it: RocksDB in a node, and one in memory for tests and the simulator, which
//! can lose what was not synced. The same scripts run against both.
//!
//! Durability: a write is atomic. A write with [`Sync::Yes`] returns when it and every write
//! before it survives a crash of the machine; without, a crash keeps some prefix of the writes
//! since the last sync. A write or sync that fails poisons the engine for good, because what
//! reached the disk is then unknown: it is never repeated.

use std::{fmt, ops::ControlFlow};

use bytes::Bytes;

use crate::{Error, WriteBatch};

/// A separate key space of the store, tuned for what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Raft log entries, hard states and truncation marks.
    Raft,
    /// Versions of the users' keys, see [`crate::mvcc`].
    State,
    /// Locks of transactions.
    Lock,
    /// Applied states, descriptors, tombstones, the store's own values.
    Local,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 4] = [Self::Raft, Self::State, Self::Lock, Self::Local];

    /// The family's name on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::State => "state",
            Self::Lock => "lock",
            Self::Local => "local",
        }
    }

    /// The family's number in encoded batches and snapshots; never changed.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Raft => 0,
            Self::State => 1,
            Self::Lock => 2,
            Self::Local => 3,
        }
    }

    /// The family with number `code`.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.code() == code)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a write waits until it survives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Wait.
    Yes,
    /// Do not wait.
    No,
}

/// Called with each key and value of a scan; `Break` ends it, an error ends it and is returned.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Error> + 'a;

/// Reads of one consistent state.
pub trait Reader {
    /// The value of `key`.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Visits the keys from `start` up to, not including, `end`, smallest first.
    fn scan(
        &self,
        family: Family,
        start: &[u8],
        end: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), Error>;

    /// Visits the keys from `start` up to, not including, `end`, largest first.
    fn scan_reverse(
        &self,
        family: Family,
        start: &[u8],
        end: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), Error>;

    /// The newest version at or behind `start` of the one user key that `start` and `end` both
    /// belong to: the first entry of [`Family::State`] from `start` up to, not including, `end`.
    /// All but their last 12 bytes must be equal; engines use it to ask a filter first.
    fn first_version(&self, start: &[u8], end: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error>;
}

/// A store of keys in families. Clones share one store.
pub trait Engine: Reader + Clone + Send + std::marker::Sync + 'static {
    /// A state frozen when it was taken; keeps its own hold of the store.
    type Snapshot: Reader + Send + std::marker::Sync + 'static;

    /// Freezes the present state for reading.
    fn snapshot(&self) -> Self::Snapshot;

    /// Applies `batch` as a whole. Any error is [`Error::Poisoned`], and so is that of every later
    /// write: the caller stops.
    fn write(&self, batch: &WriteBatch, sync: Sync) -> Result<(), Error>;

    /// About how many bytes the keys from `start` to `end` take on disk and in memory.
    fn approximate_size(&self, family: Family, start: &[u8], end: &[u8]) -> Result<u64, Error>;

    /// Moves what is in memory into sorted files.
    fn flush(&self) -> Result<(), Error>;
}
