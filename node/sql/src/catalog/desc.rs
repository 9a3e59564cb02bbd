//! Descriptors of databases and tables, and their stored form.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::error::{Result, SqlError, SqlState};
use crate::types::{SqlType, TypeSpec};

/// First byte of every stored descriptor.
const FORMAT: u8 = 1;

/// Where a table or database is in a schema change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescState {
    /// Usable.
    Public,
    /// Every access waits for the next version: a TRUNCATE or a new primary key is under way.
    Offline,
    /// Gone for every statement, its name still taken: a DROP is under way.
    Dropping,
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseDesc {
    /// Id.
    pub id: u64,
    /// Name.
    pub name: String,
    /// Its state.
    pub state: DescState,
    /// Catalog version that wrote this descriptor.
    pub modified: u64,
    /// Wall time of that version.
    pub modified_nanos: u64,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnDesc {
    /// Id, rising, never reused within the table.
    pub id: u32,
    /// Name.
    pub name: String,
    /// Type.
    pub spec: TypeSpec,
    /// Whether NULL may be stored.
    pub nullable: bool,
    /// Default expression, as SQL.
    pub default: Option<String>,
    /// Whether `*` leaves it out.
    pub hidden: bool,
}

/// A column of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    /// Position in the table's list of columns.
    pub column: usize,
    /// Whether the key sorts it largest first.
    pub descending: bool,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDesc {
    /// Id.
    pub id: u64,
    /// Id of its database.
    pub database: u64,
    /// Name.
    pub name: String,
    /// Columns in order of creation.
    pub columns: Vec<ColumnDesc>,
    /// Columns of the primary key.
    pub key: Vec<KeyColumn>,
    /// Name of the primary key's constraint.
    pub key_name: String,
    /// Id of the primary index; a new one after each TRUNCATE.
    pub index_id: u64,
    /// The next free id of an index.
    pub next_index_id: u64,
    /// While the table is offline: the index that its rows are copied to, for a new primary key.
    pub rewriting: Option<u64>,
    /// Its state.
    pub state: DescState,
    /// Catalog version that wrote this descriptor.
    pub modified: u64,
    /// Wall time of that version.
    pub modified_nanos: u64,
}

impl TableDesc {
    /// Position of a column by name.
    #[must_use]
    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }

    /// Whether the column at a position belongs to the primary key.
    #[must_use]
    pub fn is_key_column(&self, column: usize) -> bool {
        self.key.iter().any(|k| k.column == column)
    }

    /// Takes the id of a new index.
    pub(crate) fn take_index_id(&mut self) -> u64 {
        let id = self.next_index_id;
        self.next_index_id += 1;
        id
    }

    /// The id that `pg_class` shows.
    #[must_use]
    pub fn oid(&self) -> u32 {
        u32::try_from(self.id).unwrap_or(u32::MAX)
    }
}

/// Rows of a dropped or truncated index that still have to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedSpan {
    /// Id of the entry.
    pub id: u64,
    /// Table the rows belonged to.
    pub table: u64,
    /// Index the rows belonged to; none for all of the table.
    pub index: Option<u64>,
    /// Wall time at which the rows became garbage.
    pub dropped_nanos: u64,
}

/// The record that serialises all changes of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionRecord {
    /// The version.
    pub version: u64,
    /// The next free descriptor id.
    pub next_id: u64,
    /// Marks of the newest changes, to tell whether an ambiguous one took effect.
    pub recent: Vec<u64>,
}

/// How many marks a [`VersionRecord`] keeps.
const RECENT: usize = 64;

impl VersionRecord {
    /// The record after a change with a mark.
    #[must_use]
    pub fn successor(&self, mark: u64, next_id: u64) -> Self {
        let mut recent = self.recent.clone();
        recent.push(mark);
        let excess = recent.len().saturating_sub(RECENT);
        recent.drain(..excess);
        Self { version: self.version + 1, next_id, recent }
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode(&WireVersion {
            version: self.version,
            next_id: self.next_id,
            recent: self.recent.clone(),
        })
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let wire: WireVersion = decode(bytes, "catalog version")?;
        Ok(Self { version: wire.version, next_id: wire.next_id, recent: wire.recent })
    }
}

#[derive(Clone, PartialEq, Message)]
struct WireVersion {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(uint64, tag = "2")]
    next_id: u64,
    #[prost(fixed64, repeated, tag = "3")]
    recent: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct WireDescriptor {
    #[prost(message, optional, tag = "1")]
    database: Option<WireDatabase>,
    #[prost(message, optional, tag = "2")]
    table: Option<WireTable>,
    #[prost(uint32, tag = "3")]
    state: u32,
    #[prost(uint64, tag = "4")]
    modified: u64,
    #[prost(uint64, tag = "5")]
    modified_nanos: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WireDatabase {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireTable {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    database: u64,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(message, repeated, tag = "4")]
    columns: Vec<WireColumn>,
    #[prost(message, repeated, tag = "5")]
    key: Vec<WireKeyColumn>,
    #[prost(string, tag = "6")]
    key_name: String,
    #[prost(uint64, tag = "7")]
    index_id: u64,
    /// Absent in descriptors of the first version: the one after `index_id`.
    #[prost(uint64, optional, tag = "8")]
    next_index_id: Option<u64>,
    #[prost(uint64, optional, tag = "9")]
    rewriting: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct WireColumn {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint32, tag = "3")]
    type_oid: u32,
    #[prost(sint32, tag = "4")]
    typmod: i32,
    #[prost(bool, tag = "5")]
    nullable: bool,
    #[prost(string, optional, tag = "6")]
    default: Option<String>,
    #[prost(bool, tag = "7")]
    hidden: bool,
}

#[derive(Clone, PartialEq, Message)]
struct WireKeyColumn {
    #[prost(uint32, tag = "1")]
    column_id: u32,
    #[prost(bool, tag = "2")]
    descending: bool,
}

#[derive(Clone, PartialEq, Message)]
struct WireDropped {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    table: u64,
    #[prost(uint64, optional, tag = "3")]
    index: Option<u64>,
    #[prost(uint64, tag = "4")]
    dropped_nanos: u64,
}

fn encode(message: &impl Message) -> Bytes {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(FORMAT);
    bytes.extend(message.encode_to_vec());
    bytes.into()
}

fn damaged(what: &str, why: impl std::fmt::Display) -> SqlError {
    SqlError::new(SqlState::DATA_CORRUPTED, format!("stored {what} is damaged: {why}"))
}

fn decode<M: Message + Default>(bytes: &[u8], what: &str) -> Result<M> {
    match bytes.split_first() {
        None => Err(damaged(what, "it is empty")),
        Some((&FORMAT, rest)) => M::decode(rest).map_err(|error| damaged(what, error)),
        Some((format, _)) => Err(SqlError::new(
            SqlState::OBJECT_NOT_IN_STATE,
            format!("stored {what} has format {format}, this version reads format {FORMAT}"),
        )
        .with_hint("Upgrade this node.")),
    }
}

fn state_number(state: DescState) -> u32 {
    match state {
        DescState::Public => 0,
        DescState::Offline => 1,
        DescState::Dropping => 2,
    }
}

fn state_of(number: u32) -> Result<DescState> {
    Ok(match number {
        0 => DescState::Public,
        1 => DescState::Offline,
        2 => DescState::Dropping,
        other => return Err(damaged("descriptor", format!("unknown state {other}"))),
    })
}

/// A descriptor of any kind.
#[derive(Clone, Debug)]
pub enum Descriptor {
    /// Of a database.
    Database(Arc<DatabaseDesc>),
    /// Of a table.
    Table(Arc<TableDesc>),
}

impl Descriptor {
    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let wire: WireDescriptor = decode(bytes, "descriptor")?;
        let state = state_of(wire.state)?;
        match (wire.database, wire.table) {
            (Some(db), None) => Ok(Self::Database(Arc::new(DatabaseDesc {
                id: db.id,
                name: db.name,
                state,
                modified: wire.modified,
                modified_nanos: wire.modified_nanos,
            }))),
            (None, Some(table)) => {
                let mut columns = Vec::with_capacity(table.columns.len());
                for column in table.columns {
                    let ty = SqlType::from_oid(column.type_oid).ok_or_else(|| {
                        damaged("descriptor", format!("unknown type {}", column.type_oid))
                    })?;
                    columns.push(ColumnDesc {
                        id: column.id,
                        name: column.name,
                        spec: TypeSpec { ty, typmod: column.typmod },
                        nullable: column.nullable,
                        default: column.default,
                        hidden: column.hidden,
                    });
                }
                let mut key = Vec::with_capacity(table.key.len());
                for part in table.key {
                    let column = columns
                        .iter()
                        .position(|c| c.id == part.column_id)
                        .ok_or_else(|| damaged("descriptor", "a key column does not exist"))?;
                    key.push(KeyColumn { column, descending: part.descending });
                }
                Ok(Self::Table(Arc::new(TableDesc {
                    id: table.id,
                    database: table.database,
                    name: table.name,
                    columns,
                    key,
                    key_name: table.key_name,
                    index_id: table.index_id,
                    next_index_id: table.next_index_id.unwrap_or(table.index_id + 1),
                    rewriting: table.rewriting,
                    state,
                    modified: wire.modified,
                    modified_nanos: wire.modified_nanos,
                })))
            }
            _ => Err(damaged("descriptor", "it is of no known kind")),
        }
    }
}

impl DatabaseDesc {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode(&WireDescriptor {
            database: Some(WireDatabase { id: self.id, name: self.name.clone() }),
            table: None,
            state: state_number(self.state),
            modified: self.modified,
            modified_nanos: self.modified_nanos,
        })
    }
}

impl TableDesc {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let columns = self.columns.iter().map(|c| WireColumn {
            id: c.id,
            name: c.name.clone(),
            type_oid: c.spec.ty.oid(),
            typmod: c.spec.typmod,
            nullable: c.nullable,
            default: c.default.clone(),
            hidden: c.hidden,
        });
        let key = self.key.iter().map(|k| WireKeyColumn {
            column_id: self.columns.get(k.column).map_or(0, |c| c.id),
            descending: k.descending,
        });
        encode(&WireDescriptor {
            database: None,
            table: Some(WireTable {
                id: self.id,
                database: self.database,
                name: self.name.clone(),
                columns: columns.collect(),
                key: key.collect(),
                key_name: self.key_name.clone(),
                index_id: self.index_id,
                next_index_id: Some(self.next_index_id),
                rewriting: self.rewriting,
            }),
            state: state_number(self.state),
            modified: self.modified,
            modified_nanos: self.modified_nanos,
        })
    }
}

impl DroppedSpan {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode(&WireDropped {
            id: self.id,
            table: self.table,
            index: self.index,
            dropped_nanos: self.dropped_nanos,
        })
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let wire: WireDropped = decode(bytes, "list of dropped spans")?;
        Ok(Self {
            id: wire.id,
            table: wire.table,
            index: wire.index,
            dropped_nanos: wire.dropped_nanos,
        })
    }

    /// The keys to delete.
    #[must_use]
    pub fn span(&self) -> crdb_keys::Span {
        match self.index {
            Some(index) => crdb_keys::layout::index_span(self.table, index),
            None => crdb_keys::layout::table_span(self.table),
        }
    }
}
