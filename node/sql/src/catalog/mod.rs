//! The catalog: databases and tables, their versions, and how they change under running statements.
//!
//! What it is: a cached snapshot of all descriptors at one catalog version, the account of which
//! versions statements of this node still use, the versions of the past that are read (`past`), and the
//! schema changes (`ddl`). What it is not: it
//! does not watch anything by itself; the server calls [`Catalog::adopt_latest`] every 250 ms and
//! writes [`Catalog::min_version_in_use`] into the node's liveness record.
//!
//! A schema change is a chain of catalog versions. The next version of a descriptor is published
//! only when every node that may still act uses the version of the step before or a later one:
//!
//! ```text
//! CREATE    v+1 public, wait                        (visible everywhere when it returns)
//! DROP      v+1 dropping, wait; v+2 removed, rows on the garbage list
//! TRUNCATE  v+1 offline, wait;  v+2 new index, public, old rows on the garbage list
//! ADD PRIMARY KEY  see `rekey`
//! ```
//!
//! Invariants:
//! 1. One key, the version record, is written by every change, conditionally on its old value: all
//!    changes of the catalog are in one order.
//! 2. A statement pins one snapshot from its first look-up to its last batch; the oldest pinned
//!    version is what the node reports.
//! 3. A snapshot may be used only under the liveness record it was read under: its deadline is that
//!    record's expiration, and once a record has lapsed the snapshot's deadline never moves again. A
//!    node that was counted out thus cannot write by an outdated catalog after it came back.
//! 4. While a table is offline no statement touches its rows; so no row of the old index is written
//!    after, and none is lost or comes back by, the switch to the new index.

mod bootstrap;
pub(crate) mod ddl;
mod desc;
mod gc;
mod past;
mod rekey;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use crdb_keys::hlc::Clock;
use crdb_keys::{Timestamp, layout};
use parking_lot::Mutex;

pub use bootstrap::{DEFAULT_DATABASE, FIRST_USER_ID, bootstrap};
pub use desc::{
    ColumnDesc, DatabaseDesc, DescState, Descriptor, DroppedSpan, KeyColumn, TableDesc,
    VersionRecord,
};

use crate::error::{Result, SqlError, SqlState};
use crate::kv::{Batch, Kv, Reply, sql};
use crate::limits::Limits;
use crate::node::Timer;

/// All descriptors at one catalog version.
#[derive(Debug)]
pub struct CatalogData {
    /// The record that the version was read from.
    pub record: VersionRecord,
    /// Its stored bytes, what a change is conditional on.
    pub(crate) record_bytes: Bytes,
    databases: BTreeMap<String, Arc<DatabaseDesc>>,
    tables: HashMap<u64, Arc<TableDesc>>,
    names: BTreeMap<(u64, String), u64>,
}

/// Until when snapshots of one uninterrupted liveness record may be used, in nanoseconds.
type LeaseCell = Arc<AtomicU64>;

/// The catalog at one version, as statements use it. As long as it is held the node reports its
/// version as in use.
#[derive(Debug)]
pub struct Snapshot {
    data: Arc<CatalogData>,
    lease: LeaseCell,
}

struct State {
    current: Option<Arc<Snapshot>>,
    older: Vec<(u64, Weak<Snapshot>)>,
    lease: LeaseCell,
}

/// The catalog as a node knows it.
pub struct Catalog {
    pub(crate) kv: Kv,
    pub(crate) clock: Clock,
    pub(crate) timer: Arc<dyn Timer>,
    pub(crate) limits: Limits,
    state: Mutex<State>,
    past: past::Past,
}

impl CatalogData {
    /// The version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.record.version
    }

    /// Databases by name, those under a DROP left out.
    pub fn databases(&self) -> impl Iterator<Item = &Arc<DatabaseDesc>> {
        self.databases.values().filter(|d| d.state == DescState::Public)
    }

    /// A database by name.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<&Arc<DatabaseDesc>> {
        self.databases.get(name).filter(|d| d.state == DescState::Public)
    }

    /// A database by name, whatever its state.
    pub(crate) fn database_any(&self, name: &str) -> Option<&Arc<DatabaseDesc>> {
        self.databases.get(name)
    }

    /// A table by database and name, whatever its state.
    #[must_use]
    pub fn table(&self, database: u64, name: &str) -> Option<&Arc<TableDesc>> {
        self.tables.get(self.names.get(&(database, name.to_owned()))?)
    }

    /// A table by id, whatever its state.
    #[must_use]
    pub fn table_by_id(&self, id: u64) -> Option<&Arc<TableDesc>> {
        self.tables.get(&id)
    }

    /// Tables of a database by name, those under a DROP left out.
    pub fn tables(&self, database: u64) -> impl Iterator<Item = &Arc<TableDesc>> {
        self.all_tables(database).filter(|t| t.state != DescState::Dropping)
    }

    pub(crate) fn all_tables(&self, database: u64) -> impl Iterator<Item = &Arc<TableDesc>> {
        self.names
            .range((database, String::new())..)
            .take_while(move |((db, _), _)| *db == database)
            .filter_map(|(_, id)| self.tables.get(id))
    }

    /// Reads all of it.
    fn batch() -> Batch {
        let mut batch = Batch::new();
        batch.get(layout::catalog_version_key());
        for span in [layout::descriptor_span(), layout::namespace_span()] {
            batch.scan(&span, 0, 0, false);
        }
        batch
    }

    /// What [`Self::batch`] found; none where there is no catalog.
    fn decode(reply: &mut Reply) -> Result<Option<Arc<Self>>> {
        let Some(record_bytes) = reply.value(0)? else { return Ok(None) };
        let mut data = Self {
            record: VersionRecord::decode(&record_bytes)?,
            record_bytes,
            databases: BTreeMap::new(),
            tables: HashMap::new(),
            names: BTreeMap::new(),
        };
        for row in reply.page(1)?.whole()? {
            match Descriptor::decode(&row.value)? {
                Descriptor::Database(db) => {
                    data.databases.insert(db.name.clone(), db);
                }
                Descriptor::Table(table) => {
                    data.tables.insert(table.id, table);
                }
            }
        }
        for row in reply.page(2)?.whole()? {
            if let Some((parent @ 1.., name)) = layout::parse_namespace_key(&row.key) {
                let id = <[u8; 8]>::try_from(row.value.as_ref()).map(u64::from_be_bytes);
                let id = id.map_err(|_| {
                    SqlError::new(
                        SqlState::DATA_CORRUPTED,
                        format!("stored name {name} is damaged"),
                    )
                })?;
                data.names.insert((parent, name.to_owned()), id);
            }
        }
        Ok(Some(Arc::new(data)))
    }

    pub(crate) fn unfinished(&self) -> impl Iterator<Item = &Arc<TableDesc>> {
        self.tables.values().filter(|t| t.state != DescState::Public)
    }

    pub(crate) fn unfinished_databases(&self) -> impl Iterator<Item = &Arc<DatabaseDesc>> {
        self.databases.values().filter(|d| d.state != DescState::Public)
    }
}

impl Snapshot {
    /// The descriptors alone, which do not count as in use.
    pub(crate) fn data(&self) -> Arc<CatalogData> {
        Arc::clone(&self.data)
    }

    /// What its deadline is read from; it moves on while the node's liveness record is renewed.
    pub(crate) fn lease(&self) -> &Arc<AtomicU64> {
        &self.lease
    }

    /// The time after which nothing may be read or written by this snapshot.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        Timestamp::new(self.lease.load(Ordering::Acquire), 0)
    }
}

impl std::ops::Deref for Snapshot {
    type Target = CatalogData;

    fn deref(&self) -> &CatalogData {
        &self.data
    }
}

impl Catalog {
    pub(crate) fn new(kv: Kv, clock: Clock, timer: Arc<dyn Timer>, limits: Limits) -> Self {
        let state = State { current: None, older: Vec::new(), lease: LeaseCell::default() };
        let past = past::Past::new(limits.past_versions);
        Self { kv, clock, timer, limits, state: Mutex::new(state), past }
    }

    /// See [`crate::SqlNode::set_liveness_expiration`].
    pub(crate) fn set_liveness_expiration(&self, expiration: Timestamp) {
        let mut state = self.state.lock();
        let now = self.clock.now().wall_nanos;
        let until = state.lease.load(Ordering::Acquire);
        if now < until {
            state.lease.fetch_max(expiration.wall_nanos, Ordering::AcqRel);
        } else {
            // The record lapsed: others may have gone on without this node. What was read under
            // the old record keeps its deadline, and the catalog is read again before use.
            state.lease = Arc::new(AtomicU64::new(expiration.wall_nanos));
        }
    }

    /// The oldest version that a statement of this node uses or may start with; 0 before the first
    /// adoption. Belongs into the node's liveness record.
    #[must_use]
    pub fn min_version_in_use(&self) -> u64 {
        let mut state = self.state.lock();
        state.older.retain(|(_, snapshot)| snapshot.strong_count() > 0);
        let current = state.current.as_ref().map_or(0, |s| s.version());
        state.older.iter().map(|(version, _)| *version).fold(current, u64::min)
    }

    /// The newest version this node knows; 0 before the first adoption.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.state.lock().current.as_ref().map_or(0, |s| s.version())
    }

    /// The snapshot a statement runs on. Hold it until the statement's last batch has returned.
    pub async fn pin(&self) -> Result<Arc<Snapshot>> {
        if let Some(snapshot) = self.usable() {
            return Ok(snapshot);
        }
        self.adopt_latest().await?;
        self.usable().ok_or_else(|| {
            SqlError::new(SqlState::CANNOT_CONNECT_NOW, "this node has no valid liveness record")
                .with_hint("Repeat the statement when the node has joined its cluster again.")
        })
    }

    /// The current snapshot if it was read under the present liveness record.
    fn usable(&self) -> Option<Arc<Snapshot>> {
        let state = self.state.lock();
        let current = state.current.as_ref()?;
        let valid = Arc::ptr_eq(&current.lease, &state.lease)
            && self.clock.wall_nanos() < state.lease.load(Ordering::Acquire);
        valid.then(|| Arc::clone(current))
    }

    /// Reads the catalog if it changed and makes it the one that new statements use. True when this
    /// node's version rose: then its liveness record is best written at once.
    pub async fn adopt_latest(&self) -> Result<bool> {
        let (lease, known) = {
            let state = self.state.lock();
            (Arc::clone(&state.lease), state.current.as_ref().map(|s| Arc::clone(&s.data)))
        };
        let data = self.read(known).await?;
        let version = data.version();
        let mut state = self.state.lock();
        let before = state.current.as_ref().map_or(0, |s| s.version());
        let newer_lease = state.current.as_ref().is_none_or(|s| !Arc::ptr_eq(&s.lease, &lease));
        // A lease that was replaced while the catalog was read does not vouch for what was read.
        if version < before
            || (version == before && !newer_lease)
            || !Arc::ptr_eq(&lease, &state.lease)
        {
            return Ok(false);
        }
        let old = state.current.replace(Arc::new(Snapshot { data, lease }));
        if let Some(old) = old {
            state.older.retain(|(_, snapshot)| snapshot.strong_count() > 0);
            state.older.push((old.version(), Arc::downgrade(&old)));
        }
        Ok(version > before)
    }

    /// The catalog at its newest version; `known` if nothing changed.
    async fn read(&self, known: Option<Arc<CatalogData>>) -> Result<Arc<CatalogData>> {
        let missing = || {
            SqlError::new(SqlState::OBJECT_NOT_IN_STATE, "the cluster has no catalog")
                .with_hint("The cluster is not initialized; run `crdb init`.")
        };
        if let Some(known) = known {
            let mut batch = Batch::new();
            batch.get(layout::catalog_version_key());
            let (mut reply, at) = sql(self.kv.send_timed(batch, None, None).await)?;
            if reply.value(0)?.ok_or_else(missing)? == known.record_bytes {
                if let Some(at) = at {
                    self.past.confirm(&known, at);
                }
                return Ok(known);
            }
        }
        let mut reply = sql(self.kv.send(CatalogData::batch(), None, None).await)?;
        CatalogData::decode(&mut reply)?.ok_or_else(missing)
    }
}
