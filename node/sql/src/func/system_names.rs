//! The schemas of every database and their object ids.

/// The one schema of user tables.
pub(crate) const PUBLIC: &str = "public";
/// PostgreSQL's catalog.
pub(crate) const PG_CATALOG: &str = "pg_catalog";
/// The catalog of the SQL standard.
pub(crate) const INFORMATION_SCHEMA: &str = "information_schema";
/// Object id of `public`.
pub(crate) const PUBLIC_OID: u32 = 2200;
/// Object id of `pg_catalog`.
pub(crate) const PG_CATALOG_OID: u32 = 11;
/// Object id of `information_schema`.
pub(crate) const INFORMATION_SCHEMA_OID: u32 = 13_000;
