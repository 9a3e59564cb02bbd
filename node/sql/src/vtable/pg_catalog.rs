//! `pg_catalog`.

use std::sync::Arc;

use super::{Rows, VirtualTable, int, tables, text};
use crate::catalog::TableDesc;
use crate::datum::{Datum, Row};
use crate::error::Result;
use crate::func::system_names::{
    CRDB_INTERNAL, CRDB_INTERNAL_OID, INFORMATION_SCHEMA, INFORMATION_SCHEMA_OID, PG_CATALOG,
    PG_CATALOG_OID, PUBLIC, PUBLIC_OID, schema_oid,
};
use crate::names::quote_ident;
use crate::session::{SessionInfo, key_list};
use crate::types::{Category, SqlType as S};

/// Object id of the only role.
const ROOT: u32 = 10;
/// Indexes get the id of their table with this bit.
const INDEX_BIT: u32 = 1 << 30;

pub(super) const fn table(
    oid: u32,
    name: &'static str,
    columns: &'static [(&'static str, S)],
    rows: fn(&SessionInfo) -> Result<Vec<Row>>,
) -> VirtualTable {
    VirtualTable { schema: PG_CATALOG, name, oid, columns, rows: Rows::Computed(rows) }
}

fn oid(value: u32) -> Datum {
    Datum::Oid(value)
}

fn index_oid(table: &TableDesc) -> u32 {
    table.oid() | INDEX_BIT
}

fn char1(c: &str) -> Datum {
    text(c)
}

pub(super) const TABLES: &[VirtualTable] = &[
    table(
        1259,
        "pg_class",
        &[
            ("oid", S::Oid),
            ("relname", S::Name),
            ("relnamespace", S::Oid),
            ("reltype", S::Oid),
            ("relowner", S::Oid),
            ("relam", S::Oid),
            ("reltablespace", S::Oid),
            ("relpages", S::Int4),
            ("reltuples", S::Float4),
            ("relhasindex", S::Bool),
            ("relisshared", S::Bool),
            ("relpersistence", S::QChar),
            ("relkind", S::QChar),
            ("relnatts", S::Int2),
            ("relchecks", S::Int2),
            ("relhasrules", S::Bool),
            ("relhastriggers", S::Bool),
            ("relrowsecurity", S::Bool),
            ("relforcerowsecurity", S::Bool),
            ("relispartition", S::Bool),
            ("relreplident", S::QChar),
            ("reloptions", S::Array(&S::Text)),
            ("relpartbound", S::Text),
            ("reloftype", S::Oid),
            ("reltoastrelid", S::Oid),
            ("relfilenode", S::Oid),
            ("relhassubclass", S::Bool),
            ("relacl", S::Array(&S::Text)),
        ],
        classes,
    ),
    table(
        2615,
        "pg_namespace",
        &[
            ("oid", S::Oid),
            ("nspname", S::Name),
            ("nspowner", S::Oid),
            ("nspacl", S::Array(&S::Text)),
        ],
        |_| {
            Ok([
                (PG_CATALOG_OID, PG_CATALOG),
                (PUBLIC_OID, PUBLIC),
                (INFORMATION_SCHEMA_OID, INFORMATION_SCHEMA),
                (CRDB_INTERNAL_OID, CRDB_INTERNAL),
            ]
            .into_iter()
            .map(|(id, name)| vec![oid(id), text(name), oid(ROOT), Datum::Null])
            .collect())
        },
    ),
    table(
        1249,
        "pg_attribute",
        &[
            ("attrelid", S::Oid),
            ("attname", S::Name),
            ("atttypid", S::Oid),
            ("attstattarget", S::Int4),
            ("attlen", S::Int2),
            ("attnum", S::Int2),
            ("attndims", S::Int4),
            ("atttypmod", S::Int4),
            ("attnotnull", S::Bool),
            ("atthasdef", S::Bool),
            ("attidentity", S::QChar),
            ("attgenerated", S::QChar),
            ("attisdropped", S::Bool),
            ("attishidden", S::Bool),
            ("attcollation", S::Oid),
            ("attislocal", S::Bool),
            ("attinhcount", S::Int4),
            ("attacl", S::Array(&S::Text)),
            ("attoptions", S::Array(&S::Text)),
            ("attstorage", S::QChar),
        ],
        attributes,
    ),
    table(
        1247,
        "pg_type",
        &[
            ("oid", S::Oid),
            ("typname", S::Name),
            ("typnamespace", S::Oid),
            ("typowner", S::Oid),
            ("typlen", S::Int2),
            ("typbyval", S::Bool),
            ("typtype", S::QChar),
            ("typcategory", S::QChar),
            ("typispreferred", S::Bool),
            ("typisdefined", S::Bool),
            ("typdelim", S::QChar),
            ("typrelid", S::Oid),
            ("typelem", S::Oid),
            ("typarray", S::Oid),
            ("typnotnull", S::Bool),
            ("typbasetype", S::Oid),
            ("typtypmod", S::Int4),
            ("typcollation", S::Oid),
        ],
        types,
    ),
    table(
        1262,
        "pg_database",
        &[
            ("oid", S::Oid),
            ("datname", S::Name),
            ("datdba", S::Oid),
            ("encoding", S::Int4),
            ("datcollate", S::Name),
            ("datctype", S::Name),
            ("datistemplate", S::Bool),
            ("datallowconn", S::Bool),
            ("datconnlimit", S::Int4),
            ("datacl", S::Array(&S::Text)),
        ],
        |info| {
            let databases = info.format.catalog.iter().flat_map(|c| c.databases());
            Ok(databases
                .map(|d| {
                    vec![
                        oid(u32::try_from(d.id).unwrap_or(u32::MAX)),
                        text(d.name.as_str()),
                        oid(ROOT),
                        int(6),
                        text("en_US.utf8"),
                        text("en_US.utf8"),
                        Datum::Bool(false),
                        Datum::Bool(true),
                        int(-1),
                        Datum::Null,
                    ]
                })
                .collect())
        },
    ),
    table(
        2604,
        "pg_attrdef",
        &[("oid", S::Oid), ("adrelid", S::Oid), ("adnum", S::Int2), ("adbin", S::Text)],
        |info| {
            let mut rows = Vec::new();
            for t in tables(info).1 {
                for (i, c) in t.columns.iter().enumerate() {
                    if let Some(default) = &c.default {
                        let number = u32::try_from(i + 1).unwrap_or(0);
                        let id = t.oid().wrapping_mul(2048).wrapping_add(number);
                        rows.push(vec![oid(id), oid(t.oid()), int(i + 1), text(default.as_str())]);
                    }
                }
            }
            Ok(rows)
        },
    ),
    table(
        2610,
        "pg_index",
        &[
            ("indexrelid", S::Oid),
            ("indrelid", S::Oid),
            ("indnatts", S::Int2),
            ("indnkeyatts", S::Int2),
            ("indisunique", S::Bool),
            ("indisprimary", S::Bool),
            ("indisexclusion", S::Bool),
            ("indimmediate", S::Bool),
            ("indisclustered", S::Bool),
            ("indisvalid", S::Bool),
            ("indisreplident", S::Bool),
            ("indkey", S::Array(&S::Int2)),
            ("indoption", S::Array(&S::Int2)),
            ("indexprs", S::Text),
            ("indpred", S::Text),
            ("indcheckxmin", S::Bool),
            ("indisready", S::Bool),
            ("indislive", S::Bool),
        ],
        indexes,
    ),
    table(
        2606,
        "pg_constraint",
        &[
            ("oid", S::Oid),
            ("conname", S::Name),
            ("connamespace", S::Oid),
            ("contype", S::QChar),
            ("condeferrable", S::Bool),
            ("condeferred", S::Bool),
            ("convalidated", S::Bool),
            ("conrelid", S::Oid),
            ("conindid", S::Oid),
            ("confrelid", S::Oid),
            ("conkey", S::Array(&S::Int2)),
            ("confkey", S::Array(&S::Int2)),
            ("contypid", S::Oid),
            ("conparentid", S::Oid),
            ("confupdtype", S::QChar),
            ("confdeltype", S::QChar),
            ("confmatchtype", S::QChar),
            ("conislocal", S::Bool),
            ("coninhcount", S::Int4),
            ("connoinherit", S::Bool),
            ("conbin", S::Text),
        ],
        constraints,
    ),
    table(
        12_000,
        "pg_tables",
        &[
            ("schemaname", S::Name),
            ("tablename", S::Name),
            ("tableowner", S::Name),
            ("tablespace", S::Name),
            ("hasindexes", S::Bool),
            ("hasrules", S::Bool),
            ("hastriggers", S::Bool),
            ("rowsecurity", S::Bool),
        ],
        |info| {
            let tables = tables(info).1;
            Ok(tables
                .iter()
                .map(|t| {
                    vec![
                        text(PUBLIC),
                        text(t.name.as_str()),
                        text("root"),
                        Datum::Null,
                        Datum::Bool(true),
                        Datum::Bool(false),
                        Datum::Bool(false),
                        Datum::Bool(false),
                    ]
                })
                .collect())
        },
    ),
    table(
        12_001,
        "pg_roles",
        &[
            ("oid", S::Oid),
            ("rolname", S::Name),
            ("rolsuper", S::Bool),
            ("rolcreaterole", S::Bool),
            ("rolcreatedb", S::Bool),
            ("rolcanlogin", S::Bool),
            ("rolinherit", S::Bool),
            ("rolreplication", S::Bool),
            ("rolbypassrls", S::Bool),
            ("rolconnlimit", S::Int4),
            ("rolvaliduntil", S::TimestampTz),
        ],
        |_| {
            let (yes, no) = (|| Datum::Bool(true), || Datum::Bool(false));
            let mut row = vec![oid(ROOT), text("root"), yes(), yes(), yes(), yes(), yes()];
            row.extend([no(), no(), int(-1), Datum::Null]);
            Ok(vec![row])
        },
    ),
    table(
        12_002,
        "pg_settings",
        &[("name", S::Text), ("setting", S::Text), ("category", S::Text), ("short_desc", S::Text)],
        |info| {
            let all = info.vars.all();
            Ok(all.map(|(n, v)| vec![text(n), text(v), text("Session"), text("")]).collect())
        },
    ),
    table(2601, "pg_am", &[("oid", S::Oid), ("amname", S::Name), ("amtype", S::QChar)], |_| {
        Ok(vec![vec![oid(2631), text("prefix"), char1("i")]])
    }),
    table(
        12_003,
        "pg_indexes",
        &[
            ("schemaname", S::Name),
            ("tablename", S::Name),
            ("indexname", S::Name),
            ("tablespace", S::Name),
            ("indexdef", S::Text),
        ],
        |info| {
            let tables = tables(info).1;
            let rows = tables.iter().map(|t| {
                let definition = index_definition(&info.database, t);
                let (name, key) = (t.name.as_str(), t.key_name.as_str());
                vec![text(PUBLIC), text(name), text(key), Datum::Null, text(definition)]
            });
            Ok(rows.collect())
        },
    ),
    table(
        3456,
        "pg_collation",
        &[("oid", S::Oid), ("collname", S::Name), ("collnamespace", S::Oid)],
        |_| Ok(vec![vec![oid(100), text("default"), oid(PG_CATALOG_OID)]]),
    ),
];

/// The table whose primary index has an object id.
pub(crate) fn indexed_table(info: &SessionInfo, index: u32) -> Option<Arc<TableDesc>> {
    tables(info).1.into_iter().find(|t| index_oid(t) == index)
}

/// The statement that would create a table's primary index.
pub(crate) fn index_definition(database: &str, table: &TableDesc) -> String {
    format!(
        "CREATE UNIQUE INDEX {} ON {}.{PUBLIC}.{} USING btree ({})",
        quote_ident(&table.key_name),
        quote_ident(database),
        quote_ident(&table.name),
        key_list(table)
    )
}

fn class(id: u32, name: &str, namespace: u32, kind: &str, columns: usize, indexed: bool) -> Row {
    let no = || Datum::Bool(false);
    vec![
        oid(id),
        text(name),
        oid(namespace),
        oid(0),
        oid(ROOT),
        oid(if kind == "i" { 2631 } else { 0 }),
        oid(0),
        Datum::Null,
        Datum::Float(-1.0),
        Datum::Bool(indexed),
        no(),
        char1("p"),
        char1(kind),
        int(columns),
        int(0),
        no(),
        no(),
        no(),
        no(),
        no(),
        char1("d"),
        Datum::Null,
        Datum::Null,
        oid(0),
        oid(0),
        oid(0),
        no(),
        Datum::Null,
    ]
}

fn classes(info: &SessionInfo) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for t in tables(info).1 {
        rows.push(class(t.oid(), &t.name, PUBLIC_OID, "r", t.columns.len(), true));
        rows.push(class(index_oid(&t), &t.key_name, PUBLIC_OID, "i", t.key.len(), false));
    }
    for t in super::all() {
        let namespace = schema_oid(t.schema).unwrap_or(INFORMATION_SCHEMA_OID);
        rows.push(class(t.oid, t.name, namespace, "v", t.columns.len(), false));
    }
    Ok(rows)
}

fn attributes(info: &SessionInfo) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut push = |table: u32,
                    at: usize,
                    name: &str,
                    ty: S,
                    typmod: i32,
                    not_null: bool,
                    def: bool,
                    hidden: bool| {
        rows.push(vec![
            oid(table),
            text(name),
            oid(ty.oid()),
            int(-1),
            int(ty.typlen()),
            int(at + 1),
            int(i64::from(matches!(ty, S::Array(_)))),
            int(typmod),
            Datum::Bool(not_null),
            Datum::Bool(def),
            char1(""),
            char1(""),
            Datum::Bool(false),
            Datum::Bool(hidden),
            oid(if ty.is_string() { 100 } else { 0 }),
            Datum::Bool(true),
            int(0),
            Datum::Null,
            Datum::Null,
            char1(if ty.typlen() < 0 { "x" } else { "p" }),
        ]);
    };
    for t in tables(info).1 {
        for (i, c) in t.columns.iter().enumerate() {
            let spec = c.spec;
            push(
                t.oid(),
                i,
                &c.name,
                spec.ty,
                spec.typmod,
                !c.nullable,
                c.default.is_some(),
                c.hidden,
            );
        }
        for (i, k) in t.key.iter().enumerate() {
            if let Some(c) = t.columns.get(k.column) {
                push(index_oid(&t), i, &c.name, c.spec.ty, c.spec.typmod, false, false, false);
            }
        }
    }
    for t in super::all() {
        for (i, (name, ty)) in t.columns.iter().enumerate() {
            push(t.oid, i, name, *ty, -1, false, false, false);
        }
    }
    Ok(rows)
}

fn types(_: &SessionInfo) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for scalar in S::scalars() {
        for ty in [Some(*scalar), scalar.array_of()].into_iter().flatten() {
            let category = match ty.category() {
                Category::Unknown => "X",
                Category::Boolean => "B",
                Category::Numeric => "N",
                Category::String => "S",
                Category::DateTime => "D",
                Category::Timespan => "T",
                Category::Array => "A",
                Category::User => "U",
            };
            let elem = match ty {
                S::Array(elem) => elem.oid(),
                _ => 0,
            };
            rows.push(vec![
                oid(ty.oid()),
                text(ty.pg_name()),
                oid(PG_CATALOG_OID),
                oid(ROOT),
                int(ty.typlen()),
                Datum::Bool((1..=8).contains(&ty.typlen())),
                char1(if matches!(ty, S::Unknown | S::Void) { "p" } else { "b" }),
                char1(category),
                Datum::Bool(ty.is_preferred()),
                Datum::Bool(true),
                char1(","),
                oid(0),
                oid(elem),
                oid(ty.array_oid()),
                Datum::Bool(false),
                oid(0),
                int(-1),
                oid(if ty.is_string() { 100 } else { 0 }),
            ]);
        }
    }
    Ok(rows)
}

fn key_numbers(table: &TableDesc) -> Datum {
    Datum::array(S::Int2, table.key.iter().map(|k| int(k.column + 1)).collect())
}

fn indexes(info: &SessionInfo) -> Result<Vec<Row>> {
    let (yes, no) = (|| Datum::Bool(true), || Datum::Bool(false));
    let tables = tables(info).1;
    let rows = tables.iter().map(|t| {
        let options = t.key.iter().map(|k| int(if k.descending { 3 } else { 0 })).collect();
        vec![
            oid(index_oid(t)),
            oid(t.oid()),
            int(t.key.len()),
            int(t.key.len()),
            yes(),
            yes(),
            no(),
            yes(),
            no(),
            yes(),
            no(),
            key_numbers(t),
            Datum::array(S::Int2, options),
            Datum::Null,
            Datum::Null,
            no(),
            yes(),
            yes(),
        ]
    });
    Ok(rows.collect())
}

fn constraints(info: &SessionInfo) -> Result<Vec<Row>> {
    let tables = tables(info).1;
    let rows = tables.iter().map(|t| {
        vec![
            oid(index_oid(t)),
            text(t.key_name.as_str()),
            oid(PUBLIC_OID),
            char1("p"),
            Datum::Bool(false),
            Datum::Bool(false),
            Datum::Bool(true),
            oid(t.oid()),
            oid(index_oid(t)),
            oid(0),
            key_numbers(t),
            Datum::Null,
            oid(0),
            oid(0),
            char1(" "),
            char1(" "),
            char1(" "),
            Datum::Bool(true),
            int(0),
            Datum::Bool(true),
            Datum::Null,
        ]
    });
    Ok(rows.collect())
}
