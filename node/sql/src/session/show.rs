//! SHOW: lists of what exists.

use std::sync::Arc;

use crdb_sqlfront::ast;

use super::{Column, SessionInfo, settings};
use crate::activity;
use crate::analyze::{shown, user_table};
use crate::catalog::{CatalogData, TableDesc};
use crate::datum::{Datum, Row};
use crate::error::{Result, SqlError, SqlState};
use crate::func::system_names::{CRDB_INTERNAL, INFORMATION_SCHEMA, PG_CATALOG, PUBLIC};
use crate::names::quote_ident;
use crate::ranges::list::{ranges_columns, ranges_rows, row_columns};
use crate::types::SqlType as S;

/// The schemas that every database has.
const SCHEMAS: [&str; 4] = [CRDB_INTERNAL, INFORMATION_SCHEMA, PG_CATALOG, PUBLIC];

fn columns(list: &[(&str, S)]) -> Vec<Column> {
    list.iter().map(|(name, ty)| Column::new(*name, *ty)).collect()
}

fn text(value: impl Into<Arc<str>>) -> Datum {
    Datum::text(value)
}

/// The columns of a SHOW.
pub(crate) fn show_columns(show: &ast::Show) -> Result<Vec<Column>> {
    Ok(match show {
        ast::Show::Databases => columns(&[
            ("database_name", S::Text),
            ("owner", S::Text),
            ("primary_region", S::Text),
            ("secondary_region", S::Text),
            ("regions", S::Array(&S::Text)),
            ("survival_goal", S::Text),
        ]),
        ast::Show::Schemas { .. } => columns(&[("schema_name", S::Text), ("owner", S::Text)]),
        ast::Show::Tables { .. } => columns(&[
            ("schema_name", S::Text),
            ("table_name", S::Text),
            ("type", S::Text),
            ("owner", S::Text),
            ("estimated_row_count", S::Int8),
            ("locality", S::Text),
        ]),
        ast::Show::Columns { .. } => columns(&[
            ("column_name", S::Text),
            ("data_type", S::Text),
            ("is_nullable", S::Bool),
            ("column_default", S::Text),
            ("generation_expression", S::Text),
            ("indices", S::Array(&S::Text)),
            ("is_hidden", S::Bool),
        ]),
        ast::Show::Indexes { .. } => columns(&[
            ("table_name", S::Text),
            ("index_name", S::Text),
            ("non_unique", S::Bool),
            ("seq_in_index", S::Int8),
            ("column_name", S::Text),
            ("definition", S::Text),
            ("direction", S::Text),
            ("storing", S::Bool),
            ("implicit", S::Bool),
            ("visible", S::Bool),
        ]),
        ast::Show::Constraints { .. } => columns(&[
            ("table_name", S::Text),
            ("constraint_name", S::Text),
            ("constraint_type", S::Text),
            ("details", S::Text),
            ("validated", S::Bool),
        ]),
        ast::Show::CreateTable { .. } => {
            columns(&[("table_name", S::Text), ("create_statement", S::Text)])
        }
        ast::Show::CreateDatabase { .. } => {
            columns(&[("database_name", S::Text), ("create_statement", S::Text)])
        }
        ast::Show::All => columns(&[("variable", S::Text), ("value", S::Text)]),
        ast::Show::Variable { name, .. } => columns(&[(column_of(name), S::Text)]),
        ast::Show::Users => columns(&[
            ("username", S::Text),
            ("options", S::Array(&S::Text)),
            ("member_of", S::Array(&S::Text)),
        ]),
        ast::Show::Ranges { of, options, .. } => ranges_columns(of, options)?,
        ast::Show::RangeForRow { .. } => row_columns(),
        ast::Show::ClusterSetting { name, pos } => {
            vec![settings::column(name).map_err(|error| error.with_position(pos.0))?]
        }
        ast::Show::ClusterSettings { .. } => columns(&settings::COLUMNS),
        ast::Show::Activity { what, .. } => activity::show_columns(*what),
        ast::Show::Locality | ast::Show::Types => {
            return Err(unavailable(show));
        }
    })
}

fn column_of(name: &str) -> &str {
    match name {
        "time zone" => "timezone",
        "transaction isolation level" => "transaction_isolation",
        "transaction priority" => "transaction_priority",
        "transaction status" => "transaction_status",
        other => other,
    }
}

fn unavailable(show: &ast::Show) -> SqlError {
    let what = match show {
        ast::Show::Locality => "SHOW LOCALITY",
        _ => "SHOW TYPES",
    };
    SqlError::unsupported(what).with_hint("It comes with a later version.")
}

/// The rows of a SHOW.
pub(crate) async fn show_rows(info: &SessionInfo, show: &ast::Show) -> Result<Vec<Row>> {
    let catalog = info.format.catalog.clone();
    let catalog = catalog.ok_or_else(|| SqlError::internal("SHOW without a catalog"))?;
    match show {
        ast::Show::Ranges { of, options, .. } => ranges_rows(info, &catalog, of, options).await,
        ast::Show::RangeForRow { of, values, pos } => {
            let rows = super::ranges::range_of_row(info, &catalog, of, values).await;
            rows.map_err(|error| error.with_position(pos.0))
        }
        ast::Show::Activity { what, local, all } => {
            Ok(activity::show_rows(info, *what, *local, *all).await)
        }
        show => catalog_rows(info, &catalog, show),
    }
}

/// The rows of a SHOW that the catalog and the session know.
fn catalog_rows(info: &SessionInfo, snapshot: &CatalogData, show: &ast::Show) -> Result<Vec<Row>> {
    Ok(match show {
        ast::Show::Databases => snapshot
            .databases()
            .map(|db| {
                let owner = if db.name == "system" { "node" } else { "root" };
                vec![
                    text(db.name.as_str()),
                    text(owner),
                    Datum::Null,
                    Datum::Null,
                    Datum::array(S::Text, Vec::new()),
                    Datum::Null,
                ]
            })
            .collect(),
        ast::Show::Schemas { database } => {
            let name = database.as_ref().map_or(info.database.as_str(), |d| &d.value);
            database_id(snapshot, name)?;
            SCHEMAS
                .iter()
                .map(|s| {
                    let owner = if *s == PUBLIC { text("admin") } else { Datum::Null };
                    vec![text(*s), owner]
                })
                .collect()
        }
        ast::Show::Tables { from } => tables(info, snapshot, from.as_ref())?,
        ast::Show::Columns { table } => table_columns(&*user_table(info, snapshot, table)?),
        ast::Show::Indexes { table } => table_indexes(&*user_table(info, snapshot, table)?),
        ast::Show::Constraints { table } => {
            let table = user_table(info, snapshot, table)?;
            vec![vec![
                text(table.name.as_str()),
                text(table.key_name.as_str()),
                text("PRIMARY KEY"),
                text(format!("PRIMARY KEY ({})", key_list(&table))),
                Datum::Bool(true),
            ]]
        }
        ast::Show::CreateTable { table } => {
            let desc = user_table(info, snapshot, table)?;
            vec![vec![text(shown(table)), text(create_table(&desc))]]
        }
        ast::Show::CreateDatabase { database } => {
            database_id(snapshot, &database.value)?;
            let statement = format!("CREATE DATABASE {}", quote_ident(&database.value));
            vec![vec![text(database.value.as_str()), text(statement)]]
        }
        ast::Show::All => {
            let names = info.vars.all().map(|(name, _)| name);
            names
                .map(|name| Ok(vec![text(name), text(info.variable(name)?)]))
                .collect::<Result<_>>()?
        }
        ast::Show::Variable { name, pos } => {
            let value = info.variable(column_of(name)).map_err(|e| e.with_position(pos.0))?;
            vec![vec![text(value)]]
        }
        ast::Show::ClusterSetting { name, .. } => vec![vec![settings::value(info, name)?]],
        ast::Show::ClusterSettings { all } => settings::rows(info, *all),
        ast::Show::Users => {
            let empty = || Datum::array(S::Text, Vec::new());
            vec![vec![text("root"), empty(), Datum::array(S::Text, vec![text("admin")])]]
        }
        other => return Err(unavailable(other)),
    })
}

fn database_id(snapshot: &CatalogData, name: &str) -> Result<u64> {
    snapshot.database(name).map(|d| d.id).ok_or_else(|| {
        SqlError::new(
            SqlState::INVALID_CATALOG_NAME,
            format!("target database or schema does not exist: \"{name}\""),
        )
    })
}

fn tables(
    info: &SessionInfo,
    snapshot: &CatalogData,
    from: Option<&ast::ObjectName>,
) -> Result<Vec<Row>> {
    let (database, schema) = match from.map(|n| n.parts.as_slice()) {
        None | Some([]) => (info.database.as_str(), PUBLIC),
        Some([only]) if SCHEMAS.contains(&only.value.as_str()) => {
            (info.database.as_str(), only.value.as_str())
        }
        Some([only]) => (only.value.as_str(), PUBLIC),
        Some([database, schema, ..]) => (database.value.as_str(), schema.value.as_str()),
    };
    let id = database_id(snapshot, database)?;
    if schema != PUBLIC {
        let listed = crate::vtable::all().filter(|t| t.schema == schema);
        return Ok(listed.map(|t| table_row(schema, t.name, Datum::Null)).collect());
    }
    Ok(snapshot.tables(id).map(|t| table_row(PUBLIC, &t.name, text("root"))).collect())
}

fn table_row(schema: &str, name: &str, owner: Datum) -> Row {
    vec![text(schema), text(name), text("table"), owner, Datum::Null, Datum::Null]
}

fn table_columns(table: &TableDesc) -> Vec<Row> {
    let row = table.columns.iter().map(|column| {
        vec![
            text(column.name.as_str()),
            text(column.spec.crdb_name()),
            Datum::Bool(column.nullable),
            column.default.as_deref().map_or(Datum::Null, text),
            text(""),
            Datum::array(S::Text, vec![text(table.key_name.as_str())]),
            Datum::Bool(column.hidden),
        ]
    });
    row.collect()
}

fn table_indexes(table: &TableDesc) -> Vec<Row> {
    let key = table.key.iter().map(|k| (k.column, if k.descending { "DESC" } else { "ASC" }));
    let stored = (0..table.columns.len()).filter(|c| !table.is_key_column(*c)).map(|c| (c, "N/A"));
    key.chain(stored)
        .enumerate()
        .filter_map(|(i, (column, direction))| {
            let name = &table.columns.get(column)?.name;
            Some(vec![
                text(table.name.as_str()),
                text(table.key_name.as_str()),
                Datum::Bool(false),
                Datum::Int(i64::try_from(i + 1).unwrap_or(0)),
                text(name.as_str()),
                text(name.as_str()),
                text(direction),
                Datum::Bool(direction == "N/A"),
                Datum::Bool(false),
                Datum::Bool(true),
            ])
        })
        .collect()
}

/// The columns of a table's primary key with their directions.
pub(crate) fn key_list(table: &TableDesc) -> String {
    let parts: Vec<String> = table
        .key
        .iter()
        .filter_map(|k| {
            let column = table.columns.get(k.column)?;
            let direction = if k.descending { "DESC" } else { "ASC" };
            Some(format!("{} {direction}", quote_ident(&column.name)))
        })
        .collect();
    parts.join(", ")
}

/// The statement that would create a table.
pub(crate) fn create_table(table: &TableDesc) -> String {
    let mut lines: Vec<String> = Vec::new();
    for column in &table.columns {
        let hidden = if column.hidden { " NOT VISIBLE" } else { "" };
        let null = if column.nullable { "NULL" } else { "NOT NULL" };
        let default = match &column.default {
            Some(default) => format!(" DEFAULT {default}"),
            None => String::new(),
        };
        lines.push(format!(
            "\t{} {}{hidden} {null}{default}",
            quote_ident(&column.name),
            column.spec.crdb_name()
        ));
    }
    lines.push(format!(
        "\tCONSTRAINT {} PRIMARY KEY ({})",
        quote_ident(&table.key_name),
        key_list(table)
    ));
    format!("CREATE TABLE {PUBLIC}.{} (\n{}\n)", quote_ident(&table.name), lines.join(",\n"))
}
