//! The schemas of every database and their object ids.

/// The one schema of user tables.
pub(crate) const PUBLIC: &str = "public";
/// PostgreSQL's catalog.
pub(crate) const PG_CATALOG: &str = "pg_catalog";
/// The catalog of the SQL standard.
pub(crate) const INFORMATION_SCHEMA: &str = "information_schema";
/// What only CockroachDB shows of itself.
pub(crate) const CRDB_INTERNAL: &str = "crdb_internal";
/// Object id of `public`.
pub(crate) const PUBLIC_OID: u32 = 2200;
/// Object id of `pg_catalog`.
pub(crate) const PG_CATALOG_OID: u32 = 11;
/// Object id of `information_schema`.
pub(crate) const INFORMATION_SCHEMA_OID: u32 = 13_000;
/// Object id of `crdb_internal`.
pub(crate) const CRDB_INTERNAL_OID: u32 = 14_000;

const SCHEMAS: [(u32, &str); 4] = [
    (CRDB_INTERNAL_OID, CRDB_INTERNAL),
    (PG_CATALOG_OID, PG_CATALOG),
    (PUBLIC_OID, PUBLIC),
    (INFORMATION_SCHEMA_OID, INFORMATION_SCHEMA),
];

/// The name of a schema.
pub(crate) fn schema_name(oid: u32) -> Option<&'static str> {
    SCHEMAS.iter().find(|(id, _)| *id == oid).map(|(_, name)| *name)
}

/// The object id of a schema.
pub(crate) fn schema_oid(name: &str) -> Option<u32> {
    SCHEMAS.iter().find(|(_, known)| *known == name).map(|(oid, _)| *oid)
}
