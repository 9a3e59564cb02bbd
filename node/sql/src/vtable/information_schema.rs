//! `information_schema`.

use super::{Rows, VirtualTable, int, tables, text};
use crate::catalog::ColumnDesc;
use crate::datum::{Datum, Row};
use crate::error::Result;
use crate::func::system_names::{CRDB_INTERNAL, INFORMATION_SCHEMA, PG_CATALOG, PUBLIC};
use crate::session::SessionInfo;
use crate::types::SqlType as S;

pub(super) const TABLES: &[VirtualTable] = &[
    VirtualTable {
        schema: INFORMATION_SCHEMA,
        name: "schemata",
        oid: 13_001,
        columns: &[("catalog_name", S::Name), ("schema_name", S::Name), ("schema_owner", S::Name)],
        rows: Rows::Computed(|info| {
            Ok([CRDB_INTERNAL, PG_CATALOG, PUBLIC, INFORMATION_SCHEMA]
                .into_iter()
                .map(|s| vec![text(info.database.as_str()), text(s), text("root")])
                .collect())
        }),
    },
    VirtualTable {
        schema: INFORMATION_SCHEMA,
        name: "tables",
        oid: 13_002,
        columns: &[
            ("table_catalog", S::Name),
            ("table_schema", S::Name),
            ("table_name", S::Name),
            ("table_type", S::Text),
            ("is_insertable_into", S::Text),
        ],
        rows: Rows::Computed(all_tables),
    },
    VirtualTable {
        schema: INFORMATION_SCHEMA,
        name: "columns",
        oid: 13_003,
        columns: &[
            ("table_catalog", S::Name),
            ("table_schema", S::Name),
            ("table_name", S::Name),
            ("column_name", S::Name),
            ("ordinal_position", S::Int4),
            ("column_default", S::Text),
            ("is_nullable", S::Text),
            ("data_type", S::Text),
            ("character_maximum_length", S::Int4),
            ("numeric_precision", S::Int4),
            ("numeric_scale", S::Int4),
            ("udt_name", S::Name),
            ("is_hidden", S::Text),
            ("crdb_sql_type", S::Text),
        ],
        rows: Rows::Computed(columns),
    },
    VirtualTable {
        schema: INFORMATION_SCHEMA,
        name: "table_constraints",
        oid: 13_004,
        columns: &[
            ("constraint_catalog", S::Name),
            ("constraint_schema", S::Name),
            ("constraint_name", S::Name),
            ("table_catalog", S::Name),
            ("table_schema", S::Name),
            ("table_name", S::Name),
            ("constraint_type", S::Text),
        ],
        rows: Rows::Computed(|info| {
            let database = info.database.as_str();
            let rows = tables(info).1;
            Ok(rows
                .iter()
                .map(|t| {
                    vec![
                        text(database),
                        text(PUBLIC),
                        text(t.key_name.as_str()),
                        text(database),
                        text(PUBLIC),
                        text(t.name.as_str()),
                        text("PRIMARY KEY"),
                    ]
                })
                .collect())
        }),
    },
    VirtualTable {
        schema: INFORMATION_SCHEMA,
        name: "key_column_usage",
        oid: 13_005,
        columns: &[
            ("constraint_name", S::Name),
            ("table_catalog", S::Name),
            ("table_schema", S::Name),
            ("table_name", S::Name),
            ("column_name", S::Name),
            ("ordinal_position", S::Int4),
        ],
        rows: Rows::Computed(key_columns),
    },
];

fn all_tables(info: &SessionInfo) -> Result<Vec<Row>> {
    let row = |schema: &str, name: &str, kind: &str, insertable: &str| {
        vec![text(info.database.as_str()), text(schema), text(name), text(kind), text(insertable)]
    };
    let user = tables(info).1;
    let user = user.iter().map(|t| row(PUBLIC, &t.name, "BASE TABLE", "YES"));
    Ok(user.chain(super::all().map(|t| row(t.schema, t.name, "SYSTEM VIEW", "NO"))).collect())
}

fn column(info: &SessionInfo, schema: &str, table: &str, at: usize, c: &ColumnDesc) -> Row {
    let yes = |b: bool| text(if b { "YES" } else { "NO" });
    let ty = c.spec.ty;
    let (precision, scale) = match (c.spec.precision_scale(), ty) {
        (Some((p, s)), _) => (int(p), int(s)),
        (None, S::Int2) => (int(16), int(0)),
        (None, S::Int4) => (int(32), int(0)),
        (None, S::Int8) => (int(64), int(0)),
        _ => (Datum::Null, Datum::Null),
    };
    vec![
        text(info.database.as_str()),
        text(schema),
        text(table),
        text(c.name.as_str()),
        int(at + 1),
        c.default.as_deref().map_or(Datum::Null, text),
        yes(c.nullable),
        text(if matches!(ty, S::Array(_)) { "ARRAY".to_owned() } else { ty.format_name() }),
        c.spec.max_chars().map_or(Datum::Null, int),
        precision,
        scale,
        text(ty.pg_name()),
        yes(c.hidden),
        text(c.spec.crdb_name()),
    ]
}

fn columns(info: &SessionInfo) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for t in tables(info).1 {
        for (i, c) in t.columns.iter().enumerate() {
            rows.push(column(info, PUBLIC, &t.name, i, c));
        }
    }
    for t in super::all() {
        for (i, (name, ty)) in t.columns.iter().enumerate() {
            let c = ColumnDesc {
                id: 0,
                name: (*name).to_owned(),
                spec: crate::types::TypeSpec::plain(*ty),
                nullable: true,
                default: None,
                hidden: false,
            };
            rows.push(column(info, t.schema, t.name, i, &c));
        }
    }
    Ok(rows)
}

fn key_columns(info: &SessionInfo) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for t in tables(info).1 {
        for (i, k) in t.key.iter().enumerate() {
            let Some(c) = t.columns.get(k.column) else { continue };
            rows.push(vec![
                text(t.key_name.as_str()),
                text(info.database.as_str()),
                text(PUBLIC),
                text(t.name.as_str()),
                text(c.name.as_str()),
                int(i + 1),
            ]);
        }
    }
    Ok(rows)
}
