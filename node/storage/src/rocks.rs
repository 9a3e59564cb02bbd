//! The engine on disk: one RocksDB with a column family for each [`Family`].
//!
//! Every write goes through the write-ahead log, whose files are recycled so that a sync
//! overwrites blocks the file system already knows and stays clear of its journal.
//!
//! Invariants:
//! 1. The filter of the state family sees a key without its 12 bytes of version, so one look-up
//!    answers for all versions of a user key. Scans over more than one user key never ask it.
//! 2. After a failed write or sync the handle refuses writes until the process is gone.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBPinnableSlice, DBRawIterator, FlushOptions, LogLevel, Options, ReadOptions, SliceTransform,
    Snapshot, WriteOptions,
};

use crate::{
    Engine, Error, Family, Reader, Sync, WriteBatch, batch::Op, engine::Visitor, mvcc::VERSION_LEN,
};

const MIB: usize = 1 << 20;

/// What of the engine a node may set.
#[derive(Clone, Debug)]
pub struct RocksOptions {
    /// Bytes of the cache that all families share.
    pub cache_bytes: usize,
    /// Threads that flush and compact.
    pub background_jobs: i32,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self { cache_bytes: 128 * MIB, background_jobs: 2 }
    }
}

/// A store on disk. Clones share it; it closes with the last of them and of its snapshots.
#[derive(Clone)]
pub struct RocksEngine {
    inner: Arc<Inner>,
}

struct Inner {
    db: DB,
    path: PathBuf,
    poisoned: OnceLock<String>,
}

/// A frozen state of a [`RocksEngine`], which it keeps open.
pub struct RocksSnapshot {
    // Dropped before `inner`, which it refers to.
    snapshot: Snapshot<'static>,
    inner: Arc<Inner>,
}

impl RocksEngine {
    /// Opens the store at `path`, or makes an empty one there.
    pub fn open(path: &Path, options: &RocksOptions) -> Result<Self, Error> {
        // The charge 0 lets the cache find the size of its entries by itself.
        let cache = Cache::new_hyper_clock_cache(options.cache_bytes.max(MIB), 0);
        let families = Family::ALL.map(|family| {
            ColumnFamilyDescriptor::new(family.name(), family_options(family, &cache))
        });
        // RocksDB opens the family called default whether it is used or not.
        let default = ColumnFamilyDescriptor::new("default", Options::default());
        let all = families.into_iter().chain([default]);
        let db = DB::open_cf_descriptors(&db_options(options), path, all)
            .map_err(|error| open_error(path, error.as_ref()))?;
        let inner = Inner { db, path: path.to_owned(), poisoned: OnceLock::new() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The directory of the store.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Bytes of the files that are in use, without the write-ahead log.
    pub fn disk_bytes(&self) -> Result<u64, Error> {
        let mut total = 0;
        for family in Family::ALL {
            let family = self.inner.family(family);
            for property in ["rocksdb.live-sst-files-size", "rocksdb.cur-size-all-mem-tables"] {
                let value = self.inner.db.property_int_value_cf(family, property);
                total += value.map_err(read_error)?.unwrap_or(0);
            }
        }
        Ok(total)
    }
}

fn open_error(path: &Path, message: &str) -> Error {
    let path = path.to_owned();
    // The lock file is the only thing RocksDB locks; the message is all that tells the cases apart.
    if message.contains("lock hold by current process") || message.contains("While lock file") {
        Error::Locked { path }
    } else {
        Error::Open { path, message: message.to_owned() }
    }
}

fn db_options(options: &RocksOptions) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_max_background_jobs(options.background_jobs);
    db.set_recycle_log_file_num(4);
    // Low enough that the families which change little are flushed, and files come free to be
    // recycled, before a store has written its first gigabyte.
    db.set_max_total_wal_size(160 * MIB as u64);
    db.set_wal_bytes_per_sync(0);
    db.set_bytes_per_sync(MIB as u64);
    db.set_db_write_buffer_size(256 * MIB);
    db.set_keep_log_file_num(4);
    db.set_max_log_file_size(16 * MIB);
    db.set_log_level(LogLevel::Warn);
    // Neither statistics in the log nor a history of them: nobody reads them there.
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db
}

fn family_options(family: Family, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);

    let mut cf = Options::default();
    cf.set_compression_type(DBCompressionType::Lz4);
    cf.set_level_compaction_dynamic_level_bytes(true);
    match family {
        Family::Raft => {
            // Entries are written, read back rarely, and deleted soon: most die in memory.
            cf.set_write_buffer_size(32 * MIB);
            cf.set_max_write_buffer_number(3);
        }
        Family::State => {
            cf.set_write_buffer_size(64 * MIB);
            cf.set_max_write_buffer_number(4);
            cf.set_bottommost_compression_type(DBCompressionType::Zstd);
            cf.set_prefix_extractor(SliceTransform::create(
                "crdb.user_key",
                without_version,
                Some(has_version),
            ));
            cf.set_memtable_prefix_bloom_ratio(0.05);
            table.set_bloom_filter(10.0, false);
            table.set_whole_key_filtering(false);
        }
        Family::Lock | Family::Local => {
            cf.set_write_buffer_size(16 * MIB);
            cf.set_max_write_buffer_number(2);
            table.set_bloom_filter(10.0, false);
        }
    }
    if family == Family::Lock {
        cf.set_level_zero_file_num_compaction_trigger(1);
    }
    cf.set_block_based_table_factory(&table);
    cf
}

fn without_version(key: &[u8]) -> &[u8] {
    key.split_last_chunk::<VERSION_LEN>().map_or(key, |(user, _)| user)
}

fn has_version(key: &[u8]) -> bool {
    key.len() >= VERSION_LEN
}

impl Inner {
    fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("open creates every family")
    }

    fn poison(&self, error: &rocksdb::Error) -> Error {
        let message = self.poisoned.get_or_init(|| error.to_string());
        tracing::error!(store = %self.path.display(), %message, "write failed, store is closed");
        Error::Poisoned { message: message.clone() }
    }

    fn check_poison(&self) -> Result<(), Error> {
        match self.poisoned.get() {
            Some(message) => Err(Error::Poisoned { message: message.clone() }),
            None => Ok(()),
        }
    }

    fn encode(&self, batch: &WriteBatch) -> rocksdb::WriteBatch {
        let mut out = rocksdb::WriteBatch::with_capacity_bytes(batch.byte_size() + 64);
        for op in batch.ops() {
            match op {
                Op::Put { family, key, value } => out.put_cf(self.family(*family), key, value),
                Op::Delete { family, key } => out.delete_cf(self.family(*family), key),
                Op::DeleteRange { family, start, end } if start < end => {
                    out.delete_range_cf(self.family(*family), start, end);
                }
                Op::DeleteRange { .. } => {}
            }
        }
        out
    }
}

impl Engine for RocksEngine {
    type Snapshot = RocksSnapshot;

    fn snapshot(&self) -> RocksSnapshot {
        let inner = Arc::clone(&self.inner);
        let snapshot: Snapshot<'_> = inner.db.snapshot();
        #[expect(unsafe_code, reason = "a snapshot that owns its store needs a self-reference")]
        // SAFETY: the snapshot refers to the `DB` inside `inner`. It is on the heap behind the
        // `Arc`, so it does not move, and the field order of `RocksSnapshot` drops the snapshot
        // before this clone of the `Arc`. The longer lifetime never leaves this module.
        let snapshot = unsafe { std::mem::transmute::<Snapshot<'_>, Snapshot<'static>>(snapshot) };
        RocksSnapshot { snapshot, inner }
    }

    fn write(&self, batch: &WriteBatch, sync: Sync) -> Result<(), Error> {
        self.inner.check_poison()?;
        let mut options = WriteOptions::default();
        options.set_sync(sync == Sync::Yes);
        let encoded = self.inner.encode(batch);
        // A batch without operations is not written, and so not synced either.
        let result = match (encoded.is_empty(), sync) {
            (false, _) => self.inner.db.write_opt(encoded, &options),
            (true, Sync::Yes) => self.inner.db.flush_wal(true),
            (true, Sync::No) => Ok(()),
        };
        result.map_err(|error| self.inner.poison(&error))
    }

    fn approximate_size(&self, family: Family, start: &[u8], end: &[u8]) -> Result<u64, Error> {
        let ranges = [rocksdb::Range::new(start, end)];
        let sizes = self.inner.db.get_approximate_sizes_cf(self.inner.family(family), &ranges);
        Ok(sizes.first().copied().unwrap_or(0))
    }

    fn flush(&self) -> Result<(), Error> {
        self.inner.check_poison()?;
        let families = Family::ALL.map(|family| self.inner.family(family));
        let result = self.inner.db.flush_cfs_opt(&families.each_ref(), &FlushOptions::default());
        result.map_err(|error| self.inner.poison(&error))
    }
}

/// What the store and its snapshots have in common: a value and an iterator of a family.
trait Source {
    fn inner(&self) -> &Inner;
    fn value(
        &self,
        cf: &ColumnFamily,
        key: &[u8],
    ) -> Result<Option<DBPinnableSlice<'_>>, rocksdb::Error>;
    fn iterator(&self, cf: &ColumnFamily, options: ReadOptions) -> DBRawIterator<'_>;
}

impl Source for RocksEngine {
    fn inner(&self) -> &Inner {
        &self.inner
    }

    fn value(
        &self,
        cf: &ColumnFamily,
        key: &[u8],
    ) -> Result<Option<DBPinnableSlice<'_>>, rocksdb::Error> {
        self.inner.db.get_pinned_cf(cf, key)
    }

    fn iterator(&self, cf: &ColumnFamily, options: ReadOptions) -> DBRawIterator<'_> {
        self.inner.db.raw_iterator_cf_opt(cf, options)
    }
}

impl Source for RocksSnapshot {
    fn inner(&self) -> &Inner {
        &self.inner
    }

    fn value(
        &self,
        cf: &ColumnFamily,
        key: &[u8],
    ) -> Result<Option<DBPinnableSlice<'_>>, rocksdb::Error> {
        self.snapshot.get_pinned_cf(cf, key)
    }

    fn iterator(&self, cf: &ColumnFamily, options: ReadOptions) -> DBRawIterator<'_> {
        self.snapshot.raw_iterator_cf_opt(cf, options)
    }
}

impl<S: Source> Reader for S {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let value = self.value(self.inner().family(family), key).map_err(read_error)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        family: Family,
        start: &[u8],
        end: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), Error> {
        let Some(mut iterator) = bounded(self, family, start, end) else { return Ok(()) };
        iterator.seek(start);
        while let Some((key, value)) = iterator.item() {
            if let ControlFlow::Break(()) = visit(key, value)? {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(read_error)
    }

    fn scan_reverse(
        &self,
        family: Family,
        start: &[u8],
        end: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), Error> {
        let Some(mut iterator) = bounded(self, family, start, end) else { return Ok(()) };
        iterator.seek_to_last();
        while let Some((key, value)) = iterator.item() {
            if let ControlFlow::Break(()) = visit(key, value)? {
                return Ok(());
            }
            iterator.prev();
        }
        iterator.status().map_err(read_error)
    }

    fn first_version(&self, start: &[u8], end: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        debug_assert_eq!(without_version(start), without_version(end), "one user key");
        let mut options = ReadOptions::default();
        options.set_prefix_same_as_start(true);
        options.set_iterate_upper_bound(end);
        let mut iterator = self.iterator(self.inner().family(Family::State), options);
        iterator.seek(start);
        match iterator.item() {
            Some((key, value)) => {
                Ok(Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))))
            }
            None => iterator.status().map(|()| None).map_err(read_error),
        }
    }
}

fn bounded<'a>(
    source: &'a impl Source,
    family: Family,
    start: &[u8],
    end: &[u8],
) -> Option<DBRawIterator<'a>> {
    // Bounds that are reversed would be refused by the iterator.
    if start >= end {
        return None;
    }
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(start);
    options.set_iterate_upper_bound(end);
    options.set_total_order_seek(true);
    Some(source.iterator(source.inner().family(family), options))
}

fn read_error(error: rocksdb::Error) -> Error {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => {
            Error::corrupt("a file of the store", error.into_string())
        }
        _ => Error::Read { message: error.into_string() },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn open(path: &Path) -> Result<RocksEngine, Error> {
        RocksEngine::open(path, &RocksOptions { cache_bytes: 8 * MIB, background_jobs: 1 })
    }

    fn one(key: &str, value: &str) -> WriteBatch {
        let mut batch = WriteBatch::new();
        batch.put(Family::State, key.to_owned(), value.to_owned());
        batch
    }

    #[test]
    fn a_store_is_found_again_and_only_once_open() {
        let directory = tempfile::TempDir::new().unwrap();
        let engine = open(directory.path()).unwrap();
        engine.write(&one("a", "1"), Sync::Yes).unwrap();
        let error = open(directory.path()).err().unwrap();
        assert!(matches!(error, Error::Locked { .. }), "{error}");
        // A snapshot keeps the store open; without it the lock is gone.
        let snapshot = engine.snapshot();
        drop(engine);
        assert!(open(directory.path()).is_err());
        assert_eq!(snapshot.get(Family::State, b"a").unwrap().unwrap(), "1");
        drop(snapshot);
        let engine = open(directory.path()).unwrap();
        assert_eq!(engine.get(Family::State, b"a").unwrap().unwrap(), "1");
        assert!(engine.disk_bytes().unwrap() > 0);
    }

    #[test]
    fn damaged_files_are_reported() {
        let directory = tempfile::TempDir::new().unwrap();
        let engine = open(directory.path()).unwrap();
        for at in 0..100 {
            engine.write(&one(&format!("key-{at:04}"), &"x".repeat(200)), Sync::No).unwrap();
        }
        engine.flush().unwrap();
        drop(engine);
        let table = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|extension| extension == "sst"))
            .unwrap();
        let mut bytes = fs::read(&table).unwrap();
        bytes[20..60].fill(0xa5);
        fs::write(&table, bytes).unwrap();
        let engine = open(directory.path()).unwrap();
        let mut rows = 0;
        let error = engine
            .scan(Family::State, b"", b"z", &mut |_, _| {
                rows += 1;
                Ok(ControlFlow::Continue(()))
            })
            .unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error} after {rows} rows");
        drop(engine);

        fs::write(directory.path().join("CURRENT"), "nonsense").unwrap();
        let error = open(directory.path()).err().unwrap();
        assert!(matches!(error, Error::Open { .. }), "{error}");
        assert!(error.to_string().contains(&*directory.path().to_string_lossy()), "{error}");
    }
}
