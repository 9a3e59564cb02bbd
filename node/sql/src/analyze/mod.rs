//! From the syntax tree to typed plans: names, types, operators, aggregates.
//!
//! A query is analyzed against a stack of scopes: its own, and those of the queries around it. A
//! column that is found further out makes every subquery in between correlated.

mod call;
mod expr;
mod from;
mod locking;
mod query;
mod select;
mod subquery;
mod table;
mod types;
mod write;

use std::collections::HashMap;
use std::sync::Arc;

use crdb_sqlfront::ast;

pub(crate) use table::{new_table, with_primary_key};
use types::coerce;

use crate::catalog::ddl::{TableName, undefined_table};
use crate::catalog::{CatalogData, DescState, TableDesc};
use crate::datum::Datum;
use crate::error::{Result, SqlError, SqlState};
use crate::expr::{EvalCtx, Expr, Typed};
use crate::func::system_names::{CRDB_INTERNAL, INFORMATION_SCHEMA, PG_CATALOG, PUBLIC};
use crate::plan::{Plan, SlotPlan, StatementPlan};
use crate::session::{Column, SessionInfo};
use crate::types::{SqlType, TypeSpec};
use crate::vtable::VirtualTable;

/// The state that says: the table is being truncated, wait for the next version. Never leaves the
/// session.
pub(crate) const OFFLINE: SqlState = SqlState("CRDBW");

/// A column that expressions may name.
#[derive(Clone, Debug)]
pub(crate) struct ScopeColumn {
    /// Alias of its table; none for one without.
    table: Option<String>,
    /// Database and schema of its table, for longer qualifications.
    schema: Option<(String, String)>,
    name: String,
    spec: TypeSpec,
    /// Left out by `*`.
    hidden: bool,
    /// Merged into another by USING: found only with its table's name.
    merged: bool,
    origin: (u32, i16),
    used: bool,
}

impl ScopeColumn {
    fn new(table: Option<String>, name: String, spec: TypeSpec) -> Self {
        Self {
            table,
            schema: None,
            name,
            spec,
            hidden: false,
            merged: false,
            origin: (0, 0),
            used: false,
        }
    }
}

/// The columns of a FROM clause, in the order of the row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    columns: Vec<ScopeColumn>,
}

/// A query around the one that is analyzed.
struct Frame {
    scope: Scope,
    /// Whether the subquery reads anything from outside.
    correlated: bool,
    /// Columns of this scope that it reads.
    columns: Vec<usize>,
}

/// A query that was analyzed.
#[derive(Clone, Debug)]
pub(crate) struct Relation {
    pub(crate) plan: Plan,
    pub(crate) columns: Vec<Column>,
}

/// A statement that was analyzed.
pub(crate) struct Analyzed {
    pub(crate) plan: StatementPlan,
    pub(crate) columns: Option<Vec<Column>>,
    pub(crate) params: Vec<SqlType>,
}

/// Where an expression stands, for what may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Select list, HAVING and ORDER BY: aggregates allowed.
    Grouped(&'static str),
    /// Anything else, by its name in messages.
    Plain(&'static str),
}

/// What a name in FROM means.
enum Named {
    Table(Arc<TableDesc>, String),
    Virtual(&'static VirtualTable),
    Cte(Relation),
}

/// Analyzes one statement.
pub(crate) struct Analyzer<'a> {
    info: &'a SessionInfo,
    snapshot: &'a CatalogData,
    params: Vec<Option<SqlType>>,
    frames: Vec<Frame>,
    ctes: Vec<HashMap<String, Relation>>,
    slots: Vec<SlotPlan>,
    /// Set inside the arguments of an aggregate.
    in_aggregate: bool,
    /// A query has FOR UPDATE or one of its relatives.
    locks: bool,
}

impl<'a> Analyzer<'a> {
    fn new(info: &'a SessionInfo, snapshot: &'a CatalogData, params: Vec<Option<SqlType>>) -> Self {
        Self {
            info,
            snapshot,
            params,
            frames: Vec::new(),
            ctes: Vec::new(),
            slots: Vec::new(),
            in_aggregate: false,
            locks: false,
        }
    }
}

/// Analyzes a statement whose parameters have the types in `param_types` where given.
pub(crate) fn analyze(
    info: &SessionInfo,
    snapshot: &CatalogData,
    statement: &ast::Statement,
    placeholders: usize,
    param_types: &[Option<SqlType>],
) -> Result<Analyzed> {
    let mut params = param_types.to_vec();
    params.resize(placeholders.max(params.len()), None);
    let mut analyzer = Analyzer::new(info, snapshot, params);
    let (plan, columns) = analyzer.statement(statement)?;
    let params = analyzer
        .params
        .iter()
        .enumerate()
        .map(|(i, ty)| {
            ty.ok_or_else(|| {
                SqlError::new(
                    SqlState::INDETERMINATE_DATATYPE,
                    format!("could not determine data type of parameter ${}", i + 1),
                )
            })
        })
        .collect::<Result<_>>()?;
    Ok(Analyzed { plan, columns, params })
}

/// The value of an expression without columns and subqueries, converted as for a column.
pub(crate) fn constant(
    info: &SessionInfo,
    catalog: &CatalogData,
    e: &ast::Expr,
    spec: TypeSpec,
) -> Result<Datum> {
    let mut analyzer = Analyzer::new(info, catalog, Vec::new());
    let typed = analyzer.expr(&mut Scope::default(), e, Place::Plain("constants"))?;
    let expr = analyzer
        .coerce(typed, spec, crate::cast::CastContext::Assignment)
        .map_err(|error| error.with_position(e.pos().0))?;
    if expr.any(&mut |part| matches!(part, Expr::Subquery(_) | Expr::Srf(..))) {
        return Err(SqlError::unsupported("a subquery here").with_position(e.pos().0));
    }
    expr.eval(&EvalCtx { info, params: &[], outer: &[], slots: &[] }, &[])
}

/// The value of an expression that reads nothing, as its own type.
pub(crate) fn free_constant(
    info: &SessionInfo,
    catalog: &CatalogData,
    e: &ast::Expr,
    place: &'static str,
) -> Result<Datum> {
    let mut analyzer = Analyzer::new(info, catalog, Vec::new());
    let typed = analyzer.expr(&mut Scope::default(), e, Place::Plain(place))?;
    let mut expr = typed.expr;
    analyzer.attach(Plan::one_row(), 0, &mut [&mut expr])?;
    if !analyzer.slots.is_empty() {
        return Err(
            SqlError::unsupported(format!("a subquery in {place}")).with_position(e.pos().0)
        );
    }
    expr.eval(&EvalCtx { info, params: &[], outer: &[], slots: &[] }, &[])
}

impl Analyzer<'_> {
    fn statement(
        &mut self,
        statement: &ast::Statement,
    ) -> Result<(StatementPlan, Option<Vec<Column>>)> {
        match statement {
            ast::Statement::Query(query) => {
                let relation = self.top_query(query)?;
                let columns = relation.columns;
                let plan = StatementPlan::Query(self.finish(relation.plan));
                Ok((plan, Some(columns)))
            }
            ast::Statement::Insert(insert) => self.insert(insert),
            ast::Statement::Update(update) => self.update(update),
            ast::Statement::Delete(delete) => self.delete(delete),
            ast::Statement::Explain(explain) => {
                if explain.analyze {
                    return Err(SqlError::unsupported("EXPLAIN ANALYZE")
                        .with_hint("Use EXPLAIN without ANALYZE."));
                }
                let (plan, _) = self.statement(&explain.statement)?;
                let columns = vec![Column::new("info", SqlType::Text)];
                Ok((StatementPlan::Explain(plan.explain()), Some(columns)))
            }
            _ => Ok((StatementPlan::Utility, None)),
        }
    }

    /// The plan with the subqueries found so far.
    fn finish(&mut self, root: Plan) -> crate::plan::QueryPlan {
        crate::plan::QueryPlan { slots: std::mem::take(&mut self.slots), root, locks: self.locks }
    }

    /// A table of a statement that writes.
    fn writable_table(&self, name: &ast::ObjectName) -> Result<(Arc<TableDesc>, String)> {
        match self.lookup(name)? {
            Named::Table(table, database) => Ok((table, database)),
            Named::Virtual(table) => Err(SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("\"{}\" is a virtual table and cannot be changed", table.name),
            )),
            Named::Cte(_) => Err(SqlError::new(
                SqlState::UNDEFINED_TABLE,
                format!(
                    "relation \"{}\" cannot be the target of a modifying statement",
                    name.last().value
                ),
            )),
        }
    }

    fn lookup(&self, name: &ast::ObjectName) -> Result<Named> {
        if let [only] = name.parts.as_slice() {
            let cte = self.ctes.iter().rev().find_map(|frame| frame.get(&only.value));
            if let Some(relation) = cte {
                return Ok(Named::Cte(relation.clone()));
            }
        }
        lookup_table(self.info, self.snapshot, name)
    }

    /// Finds a column by name and qualification.
    fn resolve_column(&mut self, scope: &mut Scope, reference: &ast::ColumnRef) -> Result<Typed> {
        if let Some(at) = find_column(scope, reference)?
            && let Some(column) = scope.columns.get_mut(at)
        {
            column.used = true;
            return Ok(Typed { expr: Expr::Column(at), spec: column.spec });
        }
        let depth = self.frames.len();
        for index in (0..depth).rev() {
            let Some(frame) = self.frames.get_mut(index) else { break };
            let Some(at) = find_column(&frame.scope, reference)? else { continue };
            let Some(column) = frame.scope.columns.get_mut(at) else { break };
            column.used = true;
            let spec = column.spec;
            if !frame.columns.contains(&at) {
                frame.columns.push(at);
            }
            for frame in self.frames.iter_mut().skip(index) {
                frame.correlated = true;
            }
            return Ok(Typed { expr: Expr::Outer { level: depth - index, column: at }, spec });
        }
        Err(undefined_column(scope, reference))
    }

    /// The type of a parameter as it is known by now.
    fn param(&mut self, number: u16, pos: ast::Pos) -> Result<Typed> {
        let index = usize::from(number).checked_sub(1);
        let known = index.and_then(|i| self.params.get(i)).copied();
        match (index, known) {
            (Some(i), Some(ty)) => Ok(Typed::new(Expr::Param(i), ty.unwrap_or(SqlType::Unknown))),
            _ => Err(SqlError::new(
                SqlState::UNDEFINED_PARAMETER,
                format!("there is no parameter ${number}"),
            )
            .with_position(pos.0)),
        }
    }

    /// Converts to a type for a purpose.
    fn coerce(
        &mut self,
        typed: Typed,
        to: TypeSpec,
        context: crate::cast::CastContext,
    ) -> Result<Expr> {
        coerce(&mut self.params, &self.info.format, typed, to, context)
    }

    fn coerce_implicit(&mut self, typed: Typed, to: SqlType) -> Result<Expr> {
        self.coerce(typed, TypeSpec::plain(to), crate::cast::CastContext::Implicit)
    }
}

/// Splits a name into database, schema and object.
pub(crate) fn qualify<'n>(
    info: &SessionInfo,
    snapshot: &CatalogData,
    name: &'n ast::ObjectName,
) -> Result<(String, Option<&'n str>, &'n str)> {
    let current = info.database.clone();
    match name.parts.as_slice() {
        [object] => Ok((current, None, &object.value)),
        [first, object] => {
            let known = [PUBLIC, PG_CATALOG, INFORMATION_SCHEMA, CRDB_INTERNAL, "pg_temp"];
            if known.contains(&first.value.as_str()) || snapshot.database(&first.value).is_none() {
                Ok((current, Some(&first.value), &object.value))
            } else {
                Ok((first.value.clone(), Some(PUBLIC), &object.value))
            }
        }
        [database, schema, object] => {
            Ok((database.value.clone(), Some(&schema.value), &object.value))
        }
        _ => Err(SqlError::syntax("improper qualified name (too many dotted names)")),
    }
}

/// A name as messages show it.
pub(crate) fn shown(name: &ast::ObjectName) -> String {
    name.parts.iter().map(|p| p.value.as_str()).collect::<Vec<_>>().join(".")
}

/// Where a table of that name is or would be.
pub(crate) fn table_name(
    info: &SessionInfo,
    snapshot: &CatalogData,
    name: &ast::ObjectName,
) -> Result<TableName> {
    let (database, schema, object) = qualify(info, snapshot, name)?;
    let Some(found) = snapshot.database(&database) else {
        return Err(SqlError::new(
            SqlState::INVALID_CATALOG_NAME,
            format!("database \"{database}\" does not exist"),
        ));
    };
    match schema {
        None | Some(PUBLIC) => {}
        Some(PG_CATALOG | INFORMATION_SCHEMA | CRDB_INTERNAL) => {
            return Err(SqlError::new(
                SqlState::INSUFFICIENT_PRIVILEGE,
                format!("schema \"{}\" cannot be changed", schema.unwrap_or_default()),
            ));
        }
        Some(other) => {
            return Err(SqlError::new(
                SqlState::INVALID_SCHEMA_NAME,
                format!("unknown schema \"{other}\""),
            ));
        }
    }
    Ok(TableName { database: found.id, name: object.to_owned(), shown: shown(name) })
}

fn lookup_table(
    info: &SessionInfo,
    snapshot: &CatalogData,
    name: &ast::ObjectName,
) -> Result<Named> {
    let (database, schema, object) = qualify(info, snapshot, name)?;
    let missing = || undefined_table(&shown(name)).with_position(name.pos().0);
    // Unqualified names find the system's tables first, as in PostgreSQL.
    if schema.is_none_or(|s| s != PUBLIC)
        && let Some(table) = crate::vtable::find(schema, object)
    {
        return Ok(Named::Virtual(table));
    }
    if schema.is_some_and(|s| s != PUBLIC) {
        return Err(missing());
    }
    let found = snapshot.database(&database).ok_or_else(missing)?;
    if schema.is_none() && !info.search_path().any(|s| s == PUBLIC) {
        return Err(missing());
    }
    let table = snapshot.table(found.id, object).ok_or_else(missing)?;
    match table.state {
        DescState::Public => Ok(Named::Table(Arc::clone(table), database)),
        DescState::Dropping => Err(missing()),
        DescState::Offline => Err(SqlError::new(OFFLINE, "the table is being truncated")),
    }
}

/// A user's table by name.
pub(crate) fn user_table(
    info: &SessionInfo,
    snapshot: &CatalogData,
    name: &ast::ObjectName,
) -> Result<Arc<TableDesc>> {
    match lookup_table(info, snapshot, name)? {
        Named::Table(table, _) => Ok(table),
        _ => Err(SqlError::new(
            SqlState::WRONG_OBJECT_TYPE,
            format!("\"{}\" is not a table", shown(name)),
        )),
    }
}

fn find_column(scope: &Scope, reference: &ast::ColumnRef) -> Result<Option<usize>> {
    let name = reference.column();
    let mut found = None;
    for (at, column) in scope.columns.iter().enumerate() {
        if column.name != name.value || !qualifier_matches(column, reference.qualifier()) {
            continue;
        }
        if column.merged && reference.qualifier().is_empty() {
            continue;
        }
        if found.is_some() {
            return Err(SqlError::new(
                SqlState::AMBIGUOUS_COLUMN,
                format!("column reference \"{}\" is ambiguous", name.value),
            )
            .with_position(reference.pos().0));
        }
        found = Some(at);
    }
    Ok(found)
}

fn qualifier_matches(column: &ScopeColumn, qualifier: &[ast::Ident]) -> bool {
    let table = |ident: &ast::Ident| column.table.as_ref() == Some(&ident.value);
    match qualifier {
        [] => true,
        [t] => table(t),
        [s, t] => {
            table(t)
                && column.schema.as_ref().is_some_and(|(db, sch)| *sch == s.value || *db == s.value)
        }
        [d, s, t] => {
            table(t)
                && column.schema.as_ref().is_some_and(|(db, sch)| *sch == s.value && *db == d.value)
        }
        _ => false,
    }
}

fn undefined_column(scope: &Scope, reference: &ast::ColumnRef) -> SqlError {
    let name = &reference.column().value;
    let pos = reference.pos().0;
    let Some(table) = reference.qualifier().last() else {
        return SqlError::new(
            SqlState::UNDEFINED_COLUMN,
            format!("column \"{name}\" does not exist"),
        )
        .with_position(pos);
    };
    let known = scope.columns.iter().any(|c| c.table.as_ref() == Some(&table.value));
    if known {
        SqlError::new(
            SqlState::UNDEFINED_COLUMN,
            format!("column {}.{name} does not exist", table.value),
        )
        .with_position(pos)
    } else {
        SqlError::new(
            SqlState::UNDEFINED_TABLE,
            format!("missing FROM-clause entry for table \"{}\"", table.value),
        )
        .with_position(pos)
    }
}
