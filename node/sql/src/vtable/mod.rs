//! Virtual tables: `pg_catalog` and `information_schema`, computed from the catalog of the statement,
//! and `crdb_internal`, which also asks ranges and nodes.

mod absent;
mod crdb_internal;
mod information_schema;
mod pg_catalog;

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};

pub(crate) use pg_catalog::{index_definition, indexed_table};

use crate::catalog::{CatalogData, TableDesc};
use crate::datum::{Datum, Row};
use crate::error::Result;
use crate::func::system_names::PG_CATALOG;
use crate::session::SessionInfo;
use crate::types::SqlType;

/// A table whose rows are computed.
pub(crate) struct VirtualTable {
    pub(crate) schema: &'static str,
    pub(crate) name: &'static str,
    pub(crate) oid: u32,
    pub(crate) columns: &'static [(&'static str, SqlType)],
    pub(crate) rows: Rows,
}

/// Where the rows of a virtual table come from.
#[derive(Clone, Copy)]
pub(crate) enum Rows {
    /// The catalog and the session.
    Computed(fn(&SessionInfo) -> Result<Vec<Row>>),
    /// The ranges, or other nodes.
    Fetched(for<'a> fn(&'a SessionInfo) -> BoxFuture<'a, Result<Vec<Row>>>),
}

impl VirtualTable {
    /// The rows, as they are now.
    pub(crate) fn rows<'a>(&self, info: &'a SessionInfo) -> BoxFuture<'a, Result<Vec<Row>>> {
        match self.rows {
            Rows::Computed(rows) => ready(rows(info)).boxed(),
            Rows::Fetched(rows) => rows(info),
        }
    }
}

impl std::fmt::Debug for VirtualTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// All virtual tables.
pub(crate) fn all() -> impl Iterator<Item = &'static VirtualTable> {
    pg_catalog::TABLES
        .iter()
        .chain(absent::TABLES)
        .chain(information_schema::TABLES)
        .chain(crdb_internal::TABLES)
}

/// A virtual table by name; without a schema only those of `pg_catalog`.
pub(crate) fn find(schema: Option<&str>, name: &str) -> Option<&'static VirtualTable> {
    let schema = schema.unwrap_or(PG_CATALOG);
    all().find(|t| t.schema == schema && t.name == name)
}

/// The object id of a virtual table.
pub(crate) fn oid_of(schema: Option<&str>, name: &str) -> Option<u32> {
    find(schema, name).map(|t| t.oid)
}

/// The name of a virtual table by object id.
pub(crate) fn name_of(oid: u32) -> Option<&'static str> {
    all().find(|t| t.oid == oid).map(|t| t.name)
}

/// The catalog and the tables of the current database.
fn tables(info: &SessionInfo) -> (Option<&CatalogData>, Vec<Arc<TableDesc>>) {
    let catalog = info.format.catalog.as_deref();
    let tables = catalog.and_then(|c| {
        let database = c.database(&info.database)?;
        Some(c.tables(database.id).cloned().collect())
    });
    (catalog, tables.unwrap_or_default())
}

fn text(value: impl Into<Arc<str>>) -> Datum {
    Datum::text(value)
}

fn int(value: impl TryInto<i64>) -> Datum {
    Datum::Int(value.try_into().unwrap_or(0))
}
