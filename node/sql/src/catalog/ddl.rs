//! Schema changes: each a chain of catalog versions, every link one conditional batch.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crdb_keys::{Key, NodeId, Timestamp, layout};
use crdb_kv::SendError;
use crdb_liveness::LivenessRecord;

use super::bootstrap::ROOT;
use super::desc::{DatabaseDesc, DescState, DroppedSpan, TableDesc};
use super::{Catalog, Snapshot};
use crate::error::{Result, SqlError, SqlState};
use crate::kv::{Batch, retry_error, sql, to_sql_error};
use crate::node::SqlNode;

/// One link of the chain, computed against one snapshot.
pub(crate) struct Change {
    /// Keys to write, or with none to delete.
    pub(crate) writes: Vec<(Key, Option<Bytes>)>,
    /// The next free id afterwards.
    pub(crate) next_id: u64,
}

/// What a change decides when it sees a snapshot.
pub(crate) enum Decision<T> {
    /// Publish, and return the value.
    Publish(Change, T),
    /// Nothing to change.
    Done(T),
    /// Another change of the same object is under way; look again later.
    Wait,
}

impl Change {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        Self { writes: Vec::new(), next_id: snapshot.record.next_id }
    }

    pub(crate) fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    pub(super) fn put_table(&mut self, table: &TableDesc) {
        self.writes.push((layout::descriptor_key(table.id), Some(table.encode())));
    }

    fn put_database(&mut self, database: &DatabaseDesc) {
        self.writes.push((layout::descriptor_key(database.id), Some(database.encode())));
    }

    fn name(&mut self, parent: u64, name: &str, id: Option<u64>) {
        let value = id.map(|id| Bytes::copy_from_slice(&id.to_be_bytes()));
        self.writes.push((layout::namespace_key(parent, name), value));
    }

    pub(super) fn drop_rows(&mut self, table: u64, index: Option<u64>, now: u64) {
        let entry = DroppedSpan { id: self.take_id(), table, index, dropped_nanos: now };
        self.writes.push((layout::dropped_span_key(entry.id), Some(entry.encode())));
    }
}

/// The error of a change that waits for a node.
fn wait_timeout(version: u64, nodes: &[NodeId]) -> SqlError {
    let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    SqlError::new(
        SqlState::LOCK_NOT_AVAILABLE,
        format!(
            "schema change is waiting for {} to adopt catalog version {version}",
            names.join(", ")
        ),
    )
    .with_hint(
        "A statement of that node still uses the version before, or the node is slow. The schema \
         change goes on in the background once the node has adopted the version.",
    )
}

/// The error of a change that waits for another one.
fn busy_object() -> SqlError {
    SqlError::new(
        SqlState::LOCK_NOT_AVAILABLE,
        "another schema change of the same object is under way",
    )
    .with_hint("Repeat the statement when that one has ended.")
}

impl Catalog {
    /// Computes a change against the newest snapshot and publishes it, again if another change came
    /// first. Returns the value and the version at which it holds.
    pub(crate) async fn change<T>(
        &self,
        mark: u64,
        mut decide: impl FnMut(&Snapshot, u64) -> Result<Decision<T>>,
    ) -> Result<(T, u64)> {
        let started = self.clock.wall_nanos();
        let mut tries = 0;
        while tries < self.limits.schema_change_tries {
            self.adopt_latest().await?;
            let snapshot = self.pin().await?;
            let now = self.clock.wall_nanos();
            let (change, value) = match decide(&snapshot, now)? {
                Decision::Done(value) => return Ok((value, snapshot.version())),
                Decision::Wait => {
                    drop(snapshot);
                    if self.since(started) > self.limits.schema_change_wait {
                        return Err(busy_object());
                    }
                    self.pause().await;
                    continue;
                }
                Decision::Publish(change, value) => (change, value),
            };
            let version = snapshot.version() + 1;
            if self.publish(snapshot, change, mark).await? {
                self.adopt_latest().await?;
                return Ok((value, version));
            }
            tries += 1;
        }
        Err(retry_error("too many concurrent schema changes"))
    }

    /// Writes a change unless the catalog moved on. An answer that is lost is settled by reading the
    /// record again: it names the changes that took effect.
    async fn publish(&self, snapshot: Arc<Snapshot>, change: Change, mark: u64) -> Result<bool> {
        self.check_size(&change)?;
        let record = snapshot.record.successor(mark, change.next_id).encode();
        let mut unknown = None;
        for _ in 0..self.limits.schema_change_sends {
            let mut batch = Batch::new();
            batch.conditional_put(
                layout::catalog_version_key(),
                record.clone(),
                Some(snapshot.record_bytes.clone()),
            );
            for (key, value) in &change.writes {
                match value {
                    Some(value) => batch.put(key.clone(), value.clone()),
                    None => batch.delete(key.clone()),
                }
            }
            match self.kv.send(batch, None, Some(snapshot.deadline())).await {
                Ok(_) => return Ok(true),
                Err(SendError::ConditionFailed { actual, .. }) => {
                    let found =
                        actual.map(|bytes| super::VersionRecord::decode(&bytes)).transpose()?;
                    return match found {
                        Some(found) if found.recent.contains(&mark) => Ok(true),
                        // Too many changes have passed to tell.
                        Some(found)
                            if unknown.is_some() && found.version > snapshot.version() + 60 =>
                        {
                            Err(to_sql_error(SendError::Ambiguous {
                                message: "the schema change may have taken effect".to_owned(),
                            }))
                        }
                        _ => Ok(false),
                    };
                }
                // Sending the same conditional batch again settles it: either the first one took
                // effect and its mark is found, or this one does, and never both.
                Err(error @ SendError::Ambiguous { .. }) => unknown = Some(error),
                Err(error) => match unknown {
                    None => return Err(to_sql_error(error)),
                    Some(_) => self.pause().await,
                },
            }
        }
        Err(to_sql_error(unknown.unwrap_or(SendError::Ambiguous {
            message: "the schema change may have taken effect".to_owned(),
        })))
    }

    /// One step of a schema change is one command.
    fn check_size(&self, change: &Change) -> Result<()> {
        let size = |(key, value): &(Key, Option<Bytes>)| {
            key.len() + value.as_ref().map_or(0, |value| value.len())
        };
        let bytes: usize = change.writes.iter().map(size).sum();
        let most = self.limits.schema_change_bytes;
        if bytes <= most {
            return Ok(());
        }
        let message = format!(
            "the descriptors that the schema change writes are {bytes} bytes, more than the limit \
             of {most}"
        );
        Err(SqlError::new(SqlState::PROGRAM_LIMIT, message)
            .with_hint("Change fewer tables at once, or shorten their defaults."))
    }

    fn since(&self, started: u64) -> Duration {
        Duration::from_nanos(self.clock.wall_nanos().saturating_sub(started))
    }

    async fn pause(&self) {
        self.timer.sleep(self.limits.schema_change_pause).await;
    }

    /// Waits until no node can act by a catalog older than `version`. A node whose record lapsed
    /// counts out once the record is older than any clock may disagree about.
    pub(crate) async fn wait_for_version(&self, version: u64) -> Result<()> {
        let started = self.clock.wall_nanos();
        loop {
            let mut batch = Batch::new();
            batch.scan(&layout::liveness_span(), 0, 0, false);
            let rows = sql(self.kv.send(batch, None, None).await)?.page(0)?.whole()?;
            let now = self.clock.now();
            let offset = u64::try_from(self.clock.max_offset().as_nanos()).unwrap_or(u64::MAX);
            let mut behind = Vec::new();
            for row in rows {
                let record = LivenessRecord::decode(&row.value).map_err(|error| {
                    SqlError::new(SqlState::OBJECT_NOT_IN_STATE, error.to_string())
                })?;
                let lapsed: Timestamp = record.expiration.add_nanos(offset);
                if now <= lapsed && record.min_catalog_version_in_use < version {
                    behind.push(record.node);
                }
            }
            if behind.is_empty() {
                return Ok(());
            }
            if self.since(started) > self.limits.schema_change_wait {
                return Err(wait_timeout(version, &behind));
            }
            self.pause().await;
        }
    }
}

/// A new table, before it has ids and a version.
pub(crate) struct NewTable {
    pub(crate) database: u64,
    pub(crate) if_not_exists: bool,
    /// Descriptor without id and version.
    pub(crate) desc: TableDesc,
}

/// A table named by a statement: database id, name and how messages call it.
#[derive(Clone, Debug)]
pub(crate) struct TableName {
    pub(crate) database: u64,
    pub(crate) name: String,
    pub(crate) shown: String,
}

pub(crate) fn undefined_table(shown: &str) -> SqlError {
    SqlError::new(SqlState::UNDEFINED_TABLE, format!("relation \"{shown}\" does not exist"))
}

impl SqlNode {
    pub(super) async fn wait(&self, version: u64) -> Result<()> {
        self.catalog().wait_for_version(version).await
    }

    /// CREATE DATABASE; false when it exists and may.
    pub(crate) async fn create_database(&self, name: &str, if_not_exists: bool) -> Result<bool> {
        let (created, version) = self
            .catalog()
            .change(self.random_u64(), |snapshot, now| {
                if let Some(found) = snapshot.database_any(name) {
                    return match (found.state, if_not_exists) {
                        (DescState::Public, true) => Ok(Decision::Done(false)),
                        (DescState::Public, false) => Err(SqlError::new(
                            SqlState::DUPLICATE_DATABASE,
                            format!("database \"{name}\" already exists"),
                        )),
                        _ => Ok(Decision::Wait),
                    };
                }
                let mut change = Change::new(snapshot);
                let desc = DatabaseDesc {
                    id: change.take_id(),
                    name: name.to_owned(),
                    state: DescState::Public,
                    modified: snapshot.version() + 1,
                    modified_nanos: now,
                };
                change.name(ROOT, name, Some(desc.id));
                change.put_database(&desc);
                Ok(Decision::Publish(change, true))
            })
            .await?;
        self.wait(version).await?;
        Ok(created)
    }

    /// CREATE TABLE; none when it exists and may, else the new id.
    pub(crate) async fn create_table(&self, new: &NewTable) -> Result<Option<u64>> {
        let (created, version) = self
            .catalog()
            .change(self.random_u64(), |snapshot, now| {
                let database = snapshot.databases().find(|d| d.id == new.database);
                if database.is_none() {
                    return Err(SqlError::new(
                        SqlState::INVALID_CATALOG_NAME,
                        "the database was dropped meanwhile",
                    ));
                }
                if let Some(found) = snapshot.table(new.database, &new.desc.name) {
                    return match (found.state, new.if_not_exists) {
                        (DescState::Dropping, _) => Ok(Decision::Wait),
                        (_, true) => Ok(Decision::Done(None)),
                        (_, false) => Err(SqlError::new(
                            SqlState::DUPLICATE_TABLE,
                            format!("relation \"{}\" already exists", new.desc.name),
                        )),
                    };
                }
                let mut change = Change::new(snapshot);
                let mut desc = new.desc.clone();
                desc.id = change.take_id();
                desc.modified = snapshot.version() + 1;
                desc.modified_nanos = now;
                change.name(new.database, &desc.name, Some(desc.id));
                change.put_table(&desc);
                Ok(Decision::Publish(change, Some(desc.id)))
            })
            .await?;
        self.wait(version).await?;
        Ok(created)
    }

    /// DROP TABLE of several tables at once; the names that did not exist and need not.
    pub(crate) async fn drop_tables(
        &self,
        names: &[TableName],
        if_exists: bool,
    ) -> Result<Vec<String>> {
        let ((ids, missing), _) = self
            .catalog()
            .change(self.random_u64(), |snapshot, now| {
                let mut change = Change::new(snapshot);
                let (mut ids, mut missing) = (Vec::new(), Vec::new());
                for name in names {
                    match snapshot.table(name.database, &name.name) {
                        Some(table) if table.state == DescState::Offline => {
                            return Ok(Decision::Wait);
                        }
                        Some(table) if table.state == DescState::Public => {
                            if ids.contains(&table.id) {
                                continue;
                            }
                            ids.push(table.id);
                            change.put_table(&mark_table(
                                table,
                                DescState::Dropping,
                                snapshot,
                                now,
                            ));
                        }
                        _ if if_exists => missing.push(name.shown.clone()),
                        _ => return Err(undefined_table(&name.shown)),
                    }
                }
                if ids.is_empty() {
                    return Ok(Decision::Done((ids, missing)));
                }
                Ok(Decision::Publish(change, (ids, missing)))
            })
            .await?;
        self.finish_tables(&ids).await?;
        Ok(missing)
    }

    /// DROP DATABASE with its tables.
    pub(crate) async fn drop_database(
        &self,
        name: &str,
        if_exists: bool,
        restrict: bool,
    ) -> Result<bool> {
        let (found, _) = self
            .catalog()
            .change(self.random_u64(), |snapshot, now| {
                let Some(database) = snapshot.database(name) else {
                    if if_exists {
                        return Ok(Decision::Done(None));
                    }
                    return Err(SqlError::new(
                        SqlState::INVALID_CATALOG_NAME,
                        format!("database \"{name}\" does not exist"),
                    ));
                };
                let mut change = Change::new(snapshot);
                let mut ids = Vec::new();
                for table in snapshot.all_tables(database.id) {
                    if table.state == DescState::Offline {
                        return Ok(Decision::Wait);
                    }
                    if restrict && table.state == DescState::Public {
                        return Err(SqlError::new(
                            SqlState("2BP01"),
                            format!("database \"{name}\" is not empty and RESTRICT was specified"),
                        ));
                    }
                    ids.push(table.id);
                    if table.state == DescState::Public {
                        change.put_table(&mark_table(table, DescState::Dropping, snapshot, now));
                    }
                }
                change.put_database(&DatabaseDesc {
                    state: DescState::Dropping,
                    modified: snapshot.version() + 1,
                    modified_nanos: now,
                    ..DatabaseDesc::clone(database)
                });
                Ok(Decision::Publish(change, Some((database.id, ids))))
            })
            .await?;
        let Some((id, tables)) = found else { return Ok(false) };
        self.finish_tables(&tables).await?;
        self.finish_database(id).await?;
        Ok(true)
    }

    /// TRUNCATE of several tables at once.
    pub(crate) async fn truncate_tables(&self, names: &[TableName]) -> Result<()> {
        let (ids, _) = self
            .catalog()
            .change(self.random_u64(), |snapshot, now| {
                let mut change = Change::new(snapshot);
                let mut ids = Vec::new();
                for name in names {
                    match snapshot.table(name.database, &name.name) {
                        Some(table) if table.state == DescState::Offline => {
                            return Ok(Decision::Wait);
                        }
                        Some(table) if table.state == DescState::Public => {
                            if !ids.contains(&table.id) {
                                ids.push(table.id);
                                change.put_table(&mark_table(
                                    table,
                                    DescState::Offline,
                                    snapshot,
                                    now,
                                ));
                            }
                        }
                        _ => return Err(undefined_table(&name.shown)),
                    }
                }
                Ok(Decision::Publish(change, ids))
            })
            .await?;
        self.finish_tables(&ids).await
    }

    /// The second step of DROP and TRUNCATE. Any node may take it, several at once too.
    pub(crate) async fn finish_tables(&self, ids: &[u64]) -> Result<()> {
        let started = {
            self.catalog().adopt_latest().await?;
            let snapshot = self.catalog().pin().await?;
            let tables = ids.iter().filter_map(|id| snapshot.table_by_id(*id));
            tables.filter(|t| t.state != DescState::Public).map(|t| t.modified).max()
        };
        let Some(started) = started else { return Ok(()) };
        self.wait(started).await?;
        self.catalog()
            .change(self.random_u64(), |snapshot, now| {
                let mut change = Change::new(snapshot);
                for table in ids.iter().filter_map(|id| snapshot.table_by_id(*id)) {
                    // A later change of the same table is not this one's to finish.
                    if table.modified > started {
                        continue;
                    }
                    match table.state {
                        DescState::Public => {}
                        // Its rows are being copied, not truncated.
                        DescState::Offline if table.rewriting.is_some() => {}
                        DescState::Offline => {
                            change.drop_rows(table.id, Some(table.index_id), now);
                            let mut next = mark_table(table, DescState::Public, snapshot, now);
                            next.index_id = next.take_index_id();
                            change.put_table(&next);
                        }
                        DescState::Dropping => {
                            change.drop_rows(table.id, None, now);
                            change.name(table.database, &table.name, None);
                            change.writes.push((layout::descriptor_key(table.id), None));
                        }
                    }
                }
                if change.writes.is_empty() {
                    return Ok(Decision::Done(()));
                }
                Ok(Decision::Publish(change, ()))
            })
            .await?;
        Ok(())
    }

    /// The second step of DROP DATABASE, after that of its tables.
    pub(crate) async fn finish_database(&self, id: u64) -> Result<()> {
        let started = {
            let snapshot = self.catalog().pin().await?;
            snapshot.unfinished_databases().find(|d| d.id == id).map(|d| d.modified)
        };
        let Some(started) = started else { return Ok(()) };
        self.wait(started).await?;
        self.catalog()
            .change(self.random_u64(), |snapshot, _| {
                let Some(database) = snapshot.unfinished_databases().find(|d| d.id == id) else {
                    return Ok(Decision::Done(()));
                };
                if snapshot.all_tables(id).next().is_some() {
                    return Ok(Decision::Wait);
                }
                let mut change = Change::new(snapshot);
                change.name(ROOT, &database.name, None);
                change.writes.push((layout::descriptor_key(id), None));
                Ok(Decision::Publish(change, ()))
            })
            .await?;
        Ok(())
    }
}

pub(super) fn mark_table(
    table: &TableDesc,
    state: DescState,
    snapshot: &Snapshot,
    now: u64,
) -> TableDesc {
    TableDesc { state, modified: snapshot.version() + 1, modified_nanos: now, ..table.clone() }
}
