//! The catalog as it was: what statements of the past are analyzed by.
//!
//! What it is: a few catalog versions, each with the span of time in which it is known to have been
//! the newest one. What it is not: it does not decide which time is read at (`session::as_of`), and
//! nothing of it counts as in use: what was true at a timestamp stays true.
//!
//! ```text
//! poll of the present ── the record is the same at ts ──▶ widen its span up to ts
//! read at ts ─┬─ ts within a span ──────────────────────▶ that version, nothing is read
//!             ├─ the record at ts is of a known version ▶ widen its span to ts
//!             └─ else ──────────────────────────────────▶ read all descriptors at ts
//! ```
//!
//! Invariants:
//! 1. Versions only rise: what was the newest version at two timestamps was so all the time between.
//! 2. A table that was being truncated, or got a new primary key, had its old rows until the step
//!    that brought it back: at that time it is read as before. Such a version gets a number of its
//!    own, so that no statement of the present takes a plan that was made for it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crdb_keys::{Timestamp, layout};
use crdb_kv::AsOf;
use parking_lot::Mutex;

use super::{Catalog, CatalogData, DescState, LeaseCell, Snapshot, TableDesc};
use crate::error::{Result, SqlError, SqlState};
use crate::kv::Batch;

/// Marks a version in which something is readable that was offline when it was the present.
const AS_READ_LATER: u64 = 1 << 63;

struct Known {
    snapshot: Arc<Snapshot>,
    from: Timestamp,
    until: Timestamp,
}

/// What a node knows of former versions.
pub(super) struct Past {
    /// The one used last comes last.
    known: Mutex<Vec<Known>>,
    /// How many are kept.
    most: usize,
    /// The past may be read for ever.
    lease: LeaseCell,
}

impl Past {
    /// Nothing is known; `most` versions are kept.
    pub(super) fn new(most: usize) -> Self {
        Self { known: Mutex::default(), most, lease: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    /// The version that was the newest at `at`, if that is known.
    fn find(&self, at: Timestamp) -> Option<Arc<Snapshot>> {
        let mut known = self.known.lock();
        let place = known.iter().rposition(|k| k.from <= at && at <= k.until)?;
        let found = known.remove(place);
        let snapshot = Arc::clone(&found.snapshot);
        known.push(found);
        Some(snapshot)
    }

    /// The version of a stored record, if it is known.
    fn of_record(&self, record: &[u8]) -> Option<Arc<CatalogData>> {
        let known = self.known.lock();
        known.iter().find(|k| k.snapshot.record_bytes == record).map(|k| k.snapshot.data())
    }

    /// Takes note that a version was the newest at `at`.
    pub(super) fn confirm(&self, data: &Arc<CatalogData>, at: Timestamp) -> Arc<Snapshot> {
        let mut known = self.known.lock();
        if let Some(found) = known.iter_mut().find(|k| k.snapshot.record_bytes == data.record_bytes)
        {
            found.from = found.from.min(at);
            found.until = found.until.max(at);
            return Arc::clone(&found.snapshot);
        }
        let snapshot =
            Arc::new(Snapshot { data: as_read_later(data), lease: Arc::clone(&self.lease) });
        let gone = (known.len() >= self.most).then(|| known.remove(0));
        known.push(Known { snapshot: Arc::clone(&snapshot), from: at, until: at });
        drop(known);
        drop(gone);
        snapshot
    }
}

/// A version with the tables that were offline in it.
fn as_read_later(data: &Arc<CatalogData>) -> Arc<CatalogData> {
    if data.tables.values().all(|table| table.state != DescState::Offline) {
        return Arc::clone(data);
    }
    let mut record = data.record.clone();
    record.version |= AS_READ_LATER;
    let tables = data.tables.iter().map(|(id, table)| {
        let table = match table.state {
            DescState::Offline => {
                Arc::new(TableDesc { state: DescState::Public, ..TableDesc::clone(table) })
            }
            DescState::Public | DescState::Dropping => Arc::clone(table),
        };
        (*id, table)
    });
    Arc::new(CatalogData {
        record,
        record_bytes: data.record_bytes.clone(),
        databases: data.databases.clone(),
        tables: tables.collect(),
        names: data.names.clone(),
    })
}

impl Catalog {
    /// The catalog at a time in the past.
    pub(crate) async fn at(&self, as_of: AsOf) -> Result<Arc<Snapshot>> {
        if let Some(snapshot) = self.past.find(as_of.timestamp) {
            return Ok(snapshot);
        }
        let missing = || {
            SqlError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                "AS OF SYSTEM TIME: the cluster did not exist at that time",
            )
        };
        let mut batch = Batch::new();
        batch.get(layout::catalog_version_key());
        let record = self.kv.read_past(batch, as_of).await?.value(0)?.ok_or_else(missing)?;
        let present = self.state.lock().current.as_ref().map(|s| s.data());
        let present = present.filter(|data| data.record_bytes == record);
        let data = match present.or_else(|| self.past.of_record(&record)) {
            Some(data) => data,
            None => {
                let mut reply = self.kv.read_past(CatalogData::batch(), as_of).await?;
                CatalogData::decode(&mut reply)?.ok_or_else(missing)?
            }
        };
        Ok(self.past.confirm(&data, as_of.timestamp))
    }

    /// The number of the version that was the newest at a time in the past, if that is known.
    pub(crate) fn version_at(&self, at: Timestamp) -> Option<u64> {
        self.past.find(at).map(|snapshot| snapshot.version())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use bytes::Bytes;

    use super::*;
    use crate::catalog::VersionRecord;

    fn version(version: u64, states: &[DescState]) -> Arc<CatalogData> {
        let tables = (1..).zip(states).map(|(id, state)| {
            let table = TableDesc {
                id,
                database: 1,
                name: format!("t{id}"),
                columns: Vec::new(),
                key: Vec::new(),
                key_name: String::new(),
                index_id: 1,
                next_index_id: 2,
                rewriting: None,
                state: *state,
                modified: version,
                modified_nanos: 0,
            };
            (id, Arc::new(table))
        });
        Arc::new(CatalogData {
            record: VersionRecord { version, next_id: 100, recent: Vec::new() },
            record_bytes: Bytes::copy_from_slice(&version.to_be_bytes()),
            databases: BTreeMap::new(),
            tables: tables.collect::<HashMap<_, _>>(),
            names: BTreeMap::new(),
        })
    }

    fn at(nanos: u64) -> Timestamp {
        Timestamp::new(nanos, 0)
    }

    fn found(past: &Past, nanos: u64) -> Option<u64> {
        past.find(at(nanos)).map(|snapshot| snapshot.version())
    }

    #[test]
    fn only_what_lies_between_two_sightings_is_known() {
        let past = Past::new(8);
        let (first, second) = (version(1, &[]), version(2, &[]));
        past.confirm(&first, at(10));
        past.confirm(&second, at(30));
        assert_eq!(
            [9, 10, 11, 29, 30, 31].map(|t| found(&past, t)),
            [None, Some(1), None, None, Some(2), None]
        );
        past.confirm(&first, at(20));
        past.confirm(&second, at(25));
        assert_eq!(
            [15, 20, 21, 24, 25, 30].map(|t| found(&past, t)),
            [Some(1), Some(1), None, None, Some(2), Some(2)]
        );
    }

    #[test]
    fn versions_kept_are_bounded_and_those_in_use_stay() {
        let past = Past::new(8);
        for number in 1..=100 {
            past.confirm(&version(number, &[]), at(10 * number));
            assert_eq!(found(&past, 10), Some(1), "after {number}");
        }
        assert_eq!(past.known.lock().len(), 8);
        assert_eq!(found(&past, 500), None);
        assert_eq!(found(&past, 1000), Some(100));
    }

    #[test]
    fn what_was_offline_is_readable_under_a_number_of_its_own() {
        let past = Past::new(8);
        let data = version(7, &[DescState::Public, DescState::Offline, DescState::Dropping]);
        let snapshot = past.confirm(&data, at(10));
        let states = [1, 2, 3].map(|id| snapshot.table_by_id(id).map(|table| table.state));
        assert_eq!(
            states,
            [Some(DescState::Public), Some(DescState::Public), Some(DescState::Dropping)]
        );
        assert_ne!(snapshot.version(), data.version());
        // It is found again by what is stored.
        let again = past.of_record(&data.record_bytes).map(|found| found.version());
        assert_eq!(again, Some(snapshot.version()));
        assert!(Arc::ptr_eq(&past.confirm(&data, at(20)), &snapshot));
        assert_eq!(past.confirm(&version(8, &[DescState::Public]), at(30)).version(), 8);
    }
}
