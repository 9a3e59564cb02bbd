//! CREATE TABLE: from columns and constraints to a descriptor.

use crdb_sqlfront::ast;

use super::types::type_spec;
use super::{Analyzer, Place, Scope, table_name};
use crate::cast::CastContext;
use crate::catalog::ddl::NewTable;
use crate::catalog::{CatalogData, ColumnDesc, DescState, KeyColumn, TableDesc};
use crate::encoding::is_key_type;
use crate::error::{Result, SqlError, SqlState};
use crate::expr::Expr;
use crate::session::SessionInfo;
use crate::types::{SqlType, TypeSpec};

const ROW_ID: &str = "rowid";
const HIDDEN_DEFAULT: &str = "unique_rowid()";

/// Whether values are shown as names, which a stored row would not follow.
fn names_object(ty: SqlType) -> bool {
    ty.is_oid() && ty != SqlType::Oid
}

fn unsupported(what: &ast::Unsupported) -> SqlError {
    let error = SqlError::unsupported(&what.feature).with_position(what.pos.0);
    match &what.hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn refuse(constraint: &ast::TableConstraint) -> SqlError {
    let (what, pos) = match constraint {
        ast::TableConstraint::Unique { pos, .. } => ("UNIQUE constraints", pos),
        ast::TableConstraint::Check { pos, .. } => ("CHECK constraints", pos),
        ast::TableConstraint::ForeignKey(fk) => ("FOREIGN KEY constraints", &fk.pos),
        ast::TableConstraint::Index { pos, .. } => ("secondary indexes", pos),
        ast::TableConstraint::PrimaryKey { pos, .. } => ("a second PRIMARY KEY", pos),
    };
    SqlError::unsupported(what)
        .with_position(pos.0)
        .with_hint("Only the primary key is available for now; create the table without it.")
}

/// The descriptor a CREATE TABLE asks for, without ids.
pub(crate) fn new_table(
    info: &SessionInfo,
    snapshot: &CatalogData,
    create: &ast::CreateTable,
) -> Result<NewTable> {
    if let Some(first) = create.unsupported.first() {
        return Err(unsupported(first));
    }
    if create.as_query.is_some() {
        return Err(SqlError::unsupported("CREATE TABLE AS")
            .with_hint("Create the table, then INSERT INTO .. SELECT."));
    }
    let most = info.node.limits.columns;
    if create.columns.len() > most {
        return Err(SqlError::new(
            SqlState::TOO_MANY_COLUMNS,
            format!("tables can have at most {most} columns"),
        ));
    }
    let name = table_name(info, snapshot, &create.name)?;
    let mut columns: Vec<ColumnDesc> = Vec::new();
    for def in &create.columns {
        let column = new_column(info, snapshot, def, columns.len())?;
        if columns.iter().any(|c| c.name == column.name) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{}\" specified more than once", column.name),
            )
            .with_position(def.name.pos.0));
        }
        columns.push(column);
    }
    let (key, key_name) = primary_key(create, &mut columns, &name.name)?;
    Ok(NewTable {
        database: name.database,
        if_not_exists: create.if_not_exists,
        desc: TableDesc {
            id: 0,
            database: name.database,
            name: name.name,
            columns,
            key,
            key_name,
            index_id: 1,
            next_index_id: 2,
            rewriting: None,
            state: DescState::Public,
            modified: 0,
            modified_nanos: 0,
        },
    })
}

fn new_column(
    info: &SessionInfo,
    snapshot: &CatalogData,
    def: &ast::ColumnDef,
    position: usize,
) -> Result<ColumnDesc> {
    if let Some(first) = def.unsupported.first() {
        return Err(unsupported(first));
    }
    if let Some(constraint) = def.constraints.first() {
        return Err(refuse(constraint));
    }
    if let Some(collation) = &def.collation {
        return Err(SqlError::unsupported("collations of columns").with_position(collation.pos().0));
    }
    let spec = type_spec(&def.ty)?;
    if matches!(spec.ty, SqlType::Unknown | SqlType::Void) || names_object(spec.ty) {
        return Err(SqlError::new(
            SqlState::INVALID_TABLE_DEFINITION,
            format!("column \"{}\" cannot be of type {}", def.name.value, spec.ty),
        )
        .with_position(def.name.pos.0));
    }
    let serial = def.ty.name.last().value.contains("serial");
    let id = u32::try_from(position + 1).unwrap_or(u32::MAX);
    // SERIAL numbers need all of an INT8, whichever SERIAL was written.
    let spec = if serial { TypeSpec::plain(SqlType::Int8) } else { spec };
    let default = match (&def.default, serial) {
        (Some(_), true) => {
            return Err(SqlError::syntax(format!(
                "multiple default values specified for column \"{}\"",
                def.name.value
            ))
            .with_position(def.name.pos.0));
        }
        (None, true) => Some("unique_rowid()".to_owned()),
        (Some(e), false) => {
            check_default(info, snapshot, e, spec, &def.name.value)?;
            Some(e.to_string())
        }
        (None, false) => None,
    };
    let not_null = serial || def.primary_key.is_some() || def.nullable == Some(false);
    if def.nullable == Some(true) && def.primary_key.is_some() {
        return Err(SqlError::new(
            SqlState::INVALID_TABLE_DEFINITION,
            format!("conflicting NULL/NOT NULL declarations for column \"{}\"", def.name.value),
        )
        .with_position(def.name.pos.0));
    }
    Ok(ColumnDesc {
        id,
        name: def.name.value.clone(),
        spec,
        nullable: !not_null,
        default,
        hidden: def.hidden,
    })
}

/// Refuses a default that cannot be computed or does not fit its column.
fn check_default(
    info: &SessionInfo,
    snapshot: &CatalogData,
    e: &ast::Expr,
    spec: TypeSpec,
    column: &str,
) -> Result<()> {
    let mut analyzer = Analyzer::new(info, snapshot, Vec::new());
    let typed = analyzer
        .expr(&mut Scope::default(), e, Place::Plain("DEFAULT expressions"))
        .map_err(|error| match error.code {
            SqlState::UNDEFINED_COLUMN => SqlError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                "cannot use column reference in DEFAULT expression",
            )
            .with_position(e.pos().0),
            _ => error,
        })?;
    let found = typed.ty();
    let expr = analyzer.coerce(typed, spec, CastContext::Assignment).map_err(|error| {
        if error.code != SqlState::DATATYPE_MISMATCH {
            return error;
        }
        SqlError::new(
            SqlState::DATATYPE_MISMATCH,
            format!(
                "column \"{column}\" is of type {} but default expression is of type {found}",
                spec.ty
            ),
        )
        .with_hint("You will need to rewrite or cast the expression.")
    })?;
    if expr.any(&mut |part| matches!(part, Expr::Subquery(_) | Expr::Srf(..))) {
        return Err(SqlError::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            "cannot use subquery in DEFAULT expression",
        )
        .with_position(e.pos().0));
    }
    Ok(())
}

fn key_column(columns: &[ColumnDesc], name: &ast::Ident, descending: bool) -> Result<KeyColumn> {
    let column = columns.iter().position(|c| c.name == name.value).ok_or_else(|| {
        SqlError::new(
            SqlState::UNDEFINED_COLUMN,
            format!("column \"{}\" named in key does not exist", name.value),
        )
        .with_position(name.pos.0)
    })?;
    Ok(KeyColumn { column, descending })
}

/// The columns that a PRIMARY KEY names.
fn key_columns(
    columns: &[ColumnDesc],
    parts: &[ast::IndexColumn],
    pos: ast::Pos,
) -> Result<Vec<KeyColumn>> {
    let mut key: Vec<KeyColumn> = Vec::new();
    for part in parts {
        let ast::Expr::Column(reference) = &part.expr else {
            return Err(SqlError::unsupported("expressions in a primary key").with_position(pos.0));
        };
        let column = key_column(columns, reference.column(), part.descending)?;
        if key.iter().any(|k| k.column == column.column) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_COLUMN,
                format!(
                    "column \"{}\" appears twice in primary key constraint",
                    reference.column().value
                ),
            )
            .with_position(pos.0));
        }
        key.push(column);
    }
    Ok(key)
}

/// Makes columns those of a primary key: none is NULL.
fn make_key(columns: &mut [ColumnDesc], key: &[KeyColumn]) -> Result<()> {
    for part in key {
        let Some(column) = columns.get_mut(part.column) else { continue };
        if !is_key_type(column.spec.ty) {
            return Err(SqlError::unsupported(format!(
                "column \"{}\" of type {} in a primary key",
                column.name, column.spec.ty
            )));
        }
        column.nullable = false;
    }
    Ok(())
}

/// A table as ALTER TABLE ... ADD PRIMARY KEY makes it: the hidden key goes, unless it is the new
/// one.
pub(crate) fn with_primary_key(table: &TableDesc, add: &ast::AddPrimaryKey) -> Result<TableDesc> {
    let hidden = |part: &KeyColumn| {
        let column = table.columns.get(part.column)?;
        let ours = column.hidden
            && column.name.starts_with(ROW_ID)
            && column.default.as_deref() == Some(HIDDEN_DEFAULT);
        ours.then_some(part.column)
    };
    let old = match table.key.as_slice() {
        [only] => hidden(only),
        _ => None,
    };
    let Some(old) = old else {
        return Err(SqlError::new(
            SqlState::INVALID_TABLE_DEFINITION,
            format!("multiple primary keys for table \"{}\" are not allowed", table.name),
        )
        .with_position(add.pos.0));
    };
    let mut new = table.clone();
    new.key = key_columns(&new.columns, &add.columns, add.pos)?;
    make_key(&mut new.columns, &new.key)?;
    if !new.is_key_column(old) {
        new.columns.remove(old);
        for part in &mut new.key {
            part.column -= usize::from(part.column > old);
        }
    }
    new.key_name =
        add.name.as_ref().map_or_else(|| format!("{}_pkey", new.name), |name| name.value.clone());
    Ok(new)
}

fn primary_key(
    create: &ast::CreateTable,
    columns: &mut Vec<ColumnDesc>,
    table: &str,
) -> Result<(Vec<KeyColumn>, String)> {
    let mut keys: Vec<(Vec<KeyColumn>, Option<String>)> = Vec::new();
    for (at, def) in create.columns.iter().enumerate() {
        if let Some(name) = &def.primary_key {
            let key = vec![KeyColumn { column: at, descending: false }];
            keys.push((key, name.as_ref().map(|n| n.value.clone())));
        }
    }
    for constraint in &create.constraints {
        let ast::TableConstraint::PrimaryKey { name, columns: parts, pos } = constraint else {
            return Err(refuse(constraint));
        };
        let key = key_columns(columns, parts, *pos)?;
        keys.push((key, name.as_ref().map(|n| n.value.clone())));
    }
    if keys.len() > 1 {
        return Err(SqlError::new(
            SqlState::INVALID_TABLE_DEFINITION,
            format!("multiple primary keys for table \"{table}\" are not allowed"),
        ));
    }
    let default_name = format!("{table}_pkey");
    let Some((key, name)) = keys.pop() else {
        return Ok((vec![hidden_row_id(columns)], default_name));
    };
    make_key(columns, &key)?;
    Ok((key, name.unwrap_or(default_name)))
}

/// Adds the key of a table that has none.
fn hidden_row_id(columns: &mut Vec<ColumnDesc>) -> KeyColumn {
    let mut name = ROW_ID.to_owned();
    let mut number = 1;
    while columns.iter().any(|c| c.name == name) {
        name = format!("{ROW_ID}_{number}");
        number += 1;
    }
    columns.push(ColumnDesc {
        id: u32::try_from(columns.len() + 1).unwrap_or(u32::MAX),
        name,
        spec: TypeSpec::plain(SqlType::Int8),
        nullable: false,
        default: Some(HIDDEN_DEFAULT.to_owned()),
        hidden: true,
    });
    KeyColumn { column: columns.len() - 1, descending: false }
}
