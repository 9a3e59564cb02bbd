//! The raft log of one replica on the engine, with the newest entries in memory.
//!
//! Writes are collected into the store's batches, never written here: one batch and one sync serve
//! all ranges. Between collecting and writing, the entries are answered from memory, as the
//! consensus library requires.
//!
//! Invariants:
//! 1. The cache holds a suffix of the log, contiguous up to its last index.
//! 2. An entry at or below the truncated index is never read; its term is kept.
//! 3. `applied` is set only after the engine holds what was applied.

use std::collections::VecDeque;

use crdb_keys::{
    RangeId,
    layout::{RangeLocal, raft_log_span},
};
use crdb_storage::{Engine, Family, WriteBatch};
use protobuf::Message as _;
use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{Entry, Snapshot},
};

use crate::record::{self, ConfState, HardState, RecordError, TruncatedState};

/// The log of one replica.
pub(crate) struct LogStore<E: Engine> {
    engine: E,
    range: RangeId,
    hard_state: HardState,
    conf: ConfState,
    truncated: TruncatedState,
    last: (u64, u64),
    /// Index and term applied, for snapshots.
    applied: (u64, u64),
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    /// Bytes of the entries behind the truncated index.
    bytes: u64,
}

impl<E: Engine> LogStore<E> {
    /// Reads the log of `range` from `engine`. `conf` and `applied` come from the applied state.
    pub(crate) fn load(
        engine: E,
        range: RangeId,
        conf: ConfState,
        applied: (u64, u64),
        cache_bytes_max: usize,
    ) -> Result<Self, RecordError> {
        let mut hard_state: HardState =
            record::read(&engine, range, RangeLocal::HardState)?.unwrap_or_default();
        let truncated: TruncatedState =
            record::read(&engine, range, RangeLocal::TruncatedState)?.unwrap_or_default();
        let mut last = (truncated.index, truncated.term);
        let mut bytes = 0;
        let span = raft_log_span(range, truncated.index + 1, u64::MAX);
        engine.scan(Family::Raft, &span.start, &span.end, &mut |_, value| {
            let entry = decode(value)?;
            if entry.index != last.0 + 1 {
                return Err(crdb_storage::Error::corrupt(
                    "the raft log",
                    format!("entry {} of {range} follows entry {}", entry.index, last.0),
                ));
            }
            last = (entry.index, entry.term);
            bytes += value.len() as u64;
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        // The commit index is written without a sync; what was applied had been committed.
        hard_state.commit = hard_state.commit.max(applied.0);
        if hard_state.commit > last.0 {
            return Err(RecordError::corrupt(
                format!("the raft log of {range}"),
                format!("it ends at {} and {} was committed", last.0, hard_state.commit),
            ));
        }
        Ok(Self {
            engine,
            range,
            hard_state,
            conf,
            truncated,
            last,
            applied,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            bytes,
        })
    }

    /// The engine the log is on.
    pub(crate) fn engine(&self) -> &E {
        &self.engine
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub(crate) fn truncated_index(&self) -> u64 {
        self.truncated.index
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.last.0
    }

    /// Bytes of the entries that are not truncated.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds `state` to `batch`.
    pub(crate) fn set_hard_state(&mut self, state: HardState, batch: &mut WriteBatch) {
        record::write(batch, self.range, RangeLocal::HardState, &state);
        self.hard_state = state;
    }

    /// Adds `entries` to `batch`, in place of what the log held from the first one's index on.
    pub(crate) fn append(
        &mut self,
        entries: &[Entry],
        batch: &mut WriteBatch,
    ) -> Result<(), RecordError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        self.cut_from(first.index)?;
        for stale in last.index + 1..=self.last.0 {
            let (family, key) = record::log_key(self.range, stale);
            batch.delete(family, key);
        }
        for entry in entries {
            let encoded = entry.write_to_bytes().map_err(|error| {
                RecordError::corrupt(
                    format!("entry {} of {}", entry.index, self.range),
                    error.to_string(),
                )
            })?;
            self.bytes += encoded.len() as u64;
            self.cache_bytes += size(entry);
            self.cache.push_back(entry.clone());
            let (family, key) = record::log_key(self.range, entry.index);
            batch.put(family, key, encoded);
        }
        self.last = (last.index, last.term);
        Ok(())
    }

    /// Drops from memory what the entry at `index` and those behind it hold.
    fn cut_from(&mut self, index: u64) -> Result<(), RecordError> {
        for stale in index..=self.last.0 {
            // The exact size of a replaced entry matters little, but the sum must not drift.
            let size = match self.cached(stale) {
                Some(entry) => entry.compute_size().into(),
                None => self.read(stale)?.compute_size().into(),
            };
            self.bytes = self.bytes.saturating_sub(size);
        }
        while self.cache.back().is_some_and(|entry| entry.index >= index) {
            if let Some(entry) = self.cache.pop_back() {
                self.cache_bytes = self.cache_bytes.saturating_sub(size(&entry));
            }
        }
        Ok(())
    }

    /// Adds to `batch` the truncation of the log up to and with `index`, and returns whether there
    /// was anything to truncate. The caller makes sure that `index` is applied.
    pub(crate) fn truncate(
        &mut self,
        index: u64,
        batch: &mut WriteBatch,
    ) -> Result<bool, RecordError> {
        if index <= self.truncated.index || index > self.last.0 {
            return Ok(false);
        }
        let term = self.term_of(index)?;
        for stale in self.truncated.index + 1..=index {
            let entry_size = match self.cached(stale) {
                Some(entry) => entry.compute_size().into(),
                None => self.read(stale)?.compute_size().into(),
            };
            self.bytes = self.bytes.saturating_sub(entry_size);
            let (family, key) = record::log_key(self.range, stale);
            batch.delete(family, key);
        }
        while self.cache.front().is_some_and(|entry| entry.index <= index) {
            self.pop_cached();
        }
        self.truncated = TruncatedState { index, term };
        record::write(batch, self.range, RangeLocal::TruncatedState, &self.truncated);
        Ok(true)
    }

    /// Adds to `batch` the replacement of the whole log by a snapshot at `index` and `term`.
    pub(crate) fn restore(
        &mut self,
        index: u64,
        term: u64,
        conf: ConfState,
        batch: &mut WriteBatch,
    ) {
        for stale in self.truncated.index + 1..=self.last.0 {
            let (family, key) = record::log_key(self.range, stale);
            batch.delete(family, key);
        }
        self.cache.clear();
        self.cache_bytes = 0;
        self.bytes = 0;
        self.truncated = TruncatedState { index, term };
        self.last = (index, term);
        self.conf = conf;
        record::write(batch, self.range, RangeLocal::TruncatedState, &self.truncated);
    }

    /// Notes what the engine now holds as applied, and lets go of cached entries nobody is likely
    /// to ask for.
    pub(crate) fn set_applied(&mut self, applied: (u64, u64), conf: &ConfState) {
        self.applied = applied;
        if self.conf != *conf {
            self.conf = conf.clone();
        }
        while self.cache_bytes > self.cache_bytes_max
            && self.cache.front().is_some_and(|entry| entry.index <= applied.0)
        {
            self.pop_cached();
        }
    }

    fn pop_cached(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes = self.cache_bytes.saturating_sub(size(&entry));
        }
    }

    fn cached(&self, index: u64) -> Option<&Entry> {
        let first = self.cache.front()?.index;
        self.cache.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    fn read(&self, index: u64) -> Result<Entry, RecordError> {
        let (family, key) = record::log_key(self.range, index);
        let bytes = self.engine.get(family, &key)?.ok_or_else(|| {
            RecordError::corrupt(
                format!("the raft log of {}", self.range),
                format!("entry {index} is missing, the log ends at {}", self.last.0),
            )
        })?;
        Ok(decode(&bytes)?)
    }

    fn term_of(&self, index: u64) -> Result<u64, RecordError> {
        if index == self.truncated.index {
            return Ok(self.truncated.term);
        }
        if index == self.last.0 {
            return Ok(self.last.1);
        }
        match self.cached(index) {
            Some(entry) => Ok(entry.term),
            None => Ok(self.read(index)?.term),
        }
    }
}

fn decode(bytes: &[u8]) -> Result<Entry, crdb_storage::Error> {
    Entry::parse_from_bytes(bytes)
        .map_err(|error| crdb_storage::Error::corrupt("a raft log entry", error.to_string()))
}

fn size(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + 48
}

fn to_raft(error: RecordError) -> raft::Error {
    raft::Error::Store(StorageError::Other(Box::new(error)))
}

impl<E: Engine> Storage for LogStore<E> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.to_raft(), self.conf.to_raft()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last.0 + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut entries = Vec::with_capacity(usize::try_from(high - low).unwrap_or(0).min(256));
        let mut total = 0_u64;
        for index in low..high {
            let entry = match self.cached(index) {
                Some(entry) => entry.clone(),
                None => self.read(index).map_err(to_raft)?,
            };
            total += u64::from(entry.compute_size());
            if !entries.is_empty() && total > max_size {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.truncated.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.last.0 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        self.term_of(index).map_err(to_raft)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.0)
    }

    /// Names what a snapshot taken now would hold. The data is read from the engine when the
    /// message leaves, see [`crate::snapshot`].
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.applied.0 < request_index || self.applied.0 == 0 {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = self.applied.0;
        metadata.term = self.applied.1;
        metadata.set_conf_state(self.conf.to_raft());
        Ok(snapshot)
    }
}
