//! INSERT, UPSERT, UPDATE and DELETE.

use std::sync::Arc;

use crdb_sqlfront::ast;

use super::from::table_scan;
use super::{Analyzer, Place, Relation, Scope};
use crate::cast::CastContext;
use crate::catalog::{ColumnDesc, TableDesc};
use crate::datum::Datum;
use crate::error::{Result, SqlError, SqlState};
use crate::expr::{Expr, Typed};
use crate::plan::{
    Conflict, DeletePlan, InsertPlan, Plan, QueryPlan, RowLock, StatementPlan, UpdatePlan,
    use_columns,
};
use crate::session::Column;
use crate::types::{SqlType, TypeSpec};

type Output = (StatementPlan, Option<Vec<Column>>);
/// Expressions and columns of RETURNING, if there is one.
type Returning = (Option<Vec<Expr>>, Option<Vec<Column>>);

fn undefined_column(table: &TableDesc, name: &ast::Ident) -> SqlError {
    SqlError::new(
        SqlState::UNDEFINED_COLUMN,
        format!("column \"{}\" of relation \"{}\" does not exist", name.value, table.name),
    )
    .with_position(name.pos.0)
}

/// The column a statement names as a target.
fn target(table: &TableDesc, name: &ast::Ident) -> Result<usize> {
    table.column_index(&name.value).ok_or_else(|| undefined_column(table, name))
}

fn wrong_type(column: &ColumnDesc, found: SqlType) -> SqlError {
    SqlError::new(
        SqlState::DATATYPE_MISMATCH,
        format!(
            "column \"{}\" is of type {} but expression is of type {found}",
            column.name, column.spec.ty
        ),
    )
    .with_column(&column.name)
    .with_hint("You will need to rewrite or cast the expression.")
}

impl Analyzer<'_> {
    /// Converts a value to a column's type, as storing it does.
    fn assign(&mut self, typed: Typed, column: &ColumnDesc) -> Result<Expr> {
        let found = typed.ty();
        self.coerce(typed, column.spec, CastContext::Assignment).map_err(|e| {
            if e.code == SqlState::DATATYPE_MISMATCH { wrong_type(column, found) } else { e }
        })
    }

    /// The default of a column; NULL without one.
    fn default_expr(&mut self, column: &ColumnDesc) -> Result<Option<Expr>> {
        let Some(text) = &column.default else { return Ok(None) };
        let parsed = crdb_sqlfront::parse_expression(text).map_err(|error| {
            SqlError::new(
                SqlState::DATA_CORRUPTED,
                format!(
                    "the default of column \"{}\" does not parse: {}",
                    column.name, error.message
                ),
            )
        })?;
        let typed =
            self.expr(&mut Scope::default(), &parsed, Place::Plain("DEFAULT expressions"))?;
        Ok(Some(self.assign(typed, column)?))
    }

    pub(super) fn insert(&mut self, insert: &ast::Insert) -> Result<Output> {
        let scoped = self.with(insert.with.as_ref())?;
        let result = self.insert_inner(insert);
        if scoped {
            self.ctes.pop();
        }
        result
    }

    fn insert_inner(&mut self, insert: &ast::Insert) -> Result<Output> {
        let (table, database) = self.writable_table(&insert.table)?;
        let mut targets = Vec::new();
        for name in &insert.columns {
            let at = target(&table, name)?;
            if targets.contains(&at) {
                return Err(SqlError::new(
                    SqlState::DUPLICATE_COLUMN,
                    format!("column \"{}\" specified more than once", name.value),
                )
                .with_position(name.pos.0));
            }
            targets.push(at);
        }
        if insert.columns.is_empty() {
            targets = (0..table.columns.len())
                .filter(|i| table.columns.get(*i).is_some_and(|c| !c.hidden))
                .collect();
        }
        let named = !insert.columns.is_empty();
        let (query, targets) = self.insert_source(&table, &insert.source, targets, named)?;
        let mut sources = vec![None; table.columns.len()];
        for (i, at) in targets.iter().enumerate() {
            if let Some(source) = sources.get_mut(*at) {
                *source = Some(i);
            }
        }
        let mut defaults = Vec::with_capacity(table.columns.len());
        for (column, source) in table.columns.iter().zip(&sources) {
            defaults.push(if source.is_some() { None } else { self.default_expr(column)? });
        }
        let conflict = self.conflict(insert, &table, &database)?;
        let (returning, columns) = if insert.returning.is_empty() {
            (None, None)
        } else {
            let (_, mut scope) = table_scan(self.info.node.limits.points, &table, &database);
            rename_scope(&mut scope, insert.alias.as_ref());
            let (exprs, columns) = self.returning(&mut scope, &insert.returning)?;
            (Some(exprs), Some(columns))
        };
        let query = self.finish(query);
        let plan = InsertPlan { table, query, sources, defaults, conflict, returning };
        Ok((StatementPlan::Insert(Box::new(plan)), columns))
    }

    /// The rows to insert, each value converted to its column's type.
    fn insert_source(
        &mut self,
        table: &Arc<TableDesc>,
        source: &ast::InsertSource,
        mut targets: Vec<usize>,
        named: bool,
    ) -> Result<(Plan, Vec<usize>)> {
        let query = match source {
            ast::InsertSource::DefaultValues => return Ok((Plan::one_row(), Vec::new())),
            ast::InsertSource::Query(query) => query,
        };
        let bare_values = query.with.is_none()
            && query.order_by.is_empty()
            && query.limit.is_none()
            && query.offset.is_none();
        if let (ast::QueryBody::Values(values), true) = (&query.body, bare_values) {
            let width = values.rows.first().map_or(0, Vec::len);
            check_width(width, &mut targets, named)?;
            let mut rows = Vec::with_capacity(values.rows.len());
            for row in &values.rows {
                if row.len() != width {
                    return Err(SqlError::syntax("VALUES lists must all be the same length"));
                }
                rows.push(self.insert_row(table, row, &targets)?);
            }
            let mut all: Vec<&mut Expr> = rows.iter_mut().flatten().collect();
            self.attach(Plan::one_row(), 0, &mut all)?;
            return Ok((Plan::Values(rows), targets));
        }
        let relation = self.query(query)?;
        check_width(relation.columns.len(), &mut targets, named)?;
        let Relation { plan, columns } = relation;
        let mut exprs = Vec::new();
        let mut plain = true;
        for (i, (at, column)) in targets.iter().zip(&columns).enumerate() {
            let Some(desc) = table.columns.get(*at) else { continue };
            let spec = TypeSpec { ty: column.ty, typmod: column.typmod };
            let typed = Typed { expr: Expr::Column(i), spec };
            let expr = self.assign(typed, desc)?;
            plain = plain && expr == Expr::Column(i);
            exprs.push(expr);
        }
        let plan = if plain { plan } else { Plan::Project { input: Box::new(plan), exprs } };
        Ok((plan, targets))
    }

    fn insert_row(
        &mut self,
        table: &TableDesc,
        row: &[ast::Expr],
        targets: &[usize],
    ) -> Result<Vec<Expr>> {
        let mut out = Vec::with_capacity(row.len());
        for (e, at) in row.iter().zip(targets) {
            let Some(column) = table.columns.get(*at) else { continue };
            out.push(if matches!(e, ast::Expr::Default(_)) {
                self.default_expr(column)?.unwrap_or(Expr::Const(Datum::Null))
            } else {
                let typed = self.expr(&mut Scope::default(), e, Place::Plain("VALUES"))?;
                self.assign(typed, column).map_err(|error| {
                    if error.fields().position.is_some() {
                        error
                    } else {
                        error.with_position(e.pos().0)
                    }
                })?
            });
        }
        Ok(out)
    }

    fn conflict(
        &mut self,
        insert: &ast::Insert,
        table: &Arc<TableDesc>,
        database: &str,
    ) -> Result<Conflict> {
        if insert.upsert {
            return Ok(Conflict::Upsert);
        }
        let Some(on) = &insert.on_conflict else { return Ok(Conflict::Fail) };
        match &on.target {
            Some(ast::ConflictTarget::Columns(names)) => {
                let mut columns = Vec::new();
                for name in names {
                    columns.push(target(table, name)?);
                }
                let mut key: Vec<usize> = table.key.iter().map(|k| k.column).collect();
                key.sort_unstable();
                columns.sort_unstable();
                if key != columns {
                    return Err(SqlError::new(
                        SqlState::INVALID_COLUMN_REFERENCE,
                        "there is no unique or exclusion constraint matching the ON CONFLICT \
                         specification",
                    )
                    .with_position(on.pos.0));
                }
            }
            Some(ast::ConflictTarget::Constraint(name)) if name.last().value == table.key_name => {}
            Some(ast::ConflictTarget::Constraint(name)) => {
                return Err(SqlError::new(
                    SqlState::UNDEFINED_OBJECT,
                    format!(
                        "constraint \"{}\" for table \"{}\" does not exist",
                        name.last().value,
                        table.name
                    ),
                ));
            }
            None => {}
        }
        let Some(assignments) = &on.update else { return Ok(Conflict::DoNothing) };
        let (_, mut scope) = table_scan(self.info.node.limits.points, table, database);
        rename_scope(&mut scope, insert.alias.as_ref());
        let (_, mut new) = table_scan(self.info.node.limits.points, table, database);
        rename_scope(&mut new, Some(&ast::Ident::synthetic("excluded")));
        for column in &mut new.columns {
            // Unqualified names mean the old row.
            column.merged = true;
        }
        scope.columns.extend(new.columns);
        let sets = self.assignments(table, &mut scope, assignments)?;
        let filter = match &on.filter {
            Some(e) => Some(self.condition(&mut scope, e, Place::Plain("WHERE"), "WHERE")?),
            None => None,
        };
        let mut sets = sets;
        let mut exprs: Vec<&mut Expr> = sets.iter_mut().map(|(_, e)| e).collect();
        let mut filter = filter;
        exprs.extend(filter.as_mut());
        let (_, grown) = self.attach(Plan::one_row(), scope.columns.len(), &mut exprs)?;
        if grown > 0 {
            return Err(SqlError::unsupported("a correlated subquery in ON CONFLICT"));
        }
        Ok(Conflict::DoUpdate { sets, filter })
    }

    fn assignments(
        &mut self,
        table: &TableDesc,
        scope: &mut Scope,
        assignments: &[ast::Assignment],
    ) -> Result<Vec<(usize, Expr)>> {
        let mut sets: Vec<(usize, Expr)> = Vec::new();
        let mut add = |this: &mut Self, scope: &mut Scope, name: &ast::Ident, value: &ast::Expr| {
            let at = target(table, name)?;
            if sets.iter().any(|(s, _)| *s == at) {
                return Err(SqlError::new(
                    SqlState::SYNTAX_ERROR,
                    format!("multiple assignments to same column \"{}\"", name.value),
                )
                .with_position(name.pos.0));
            }
            let column = table.columns.get(at).ok_or_else(|| undefined_column(table, name))?;
            let expr = if matches!(value, ast::Expr::Default(_)) {
                this.default_expr(column)?.unwrap_or(Expr::Const(Datum::Null))
            } else {
                let typed = this.expr(scope, value, Place::Plain("UPDATE"))?;
                this.assign(typed, column)?
            };
            sets.push((at, expr));
            Ok(())
        };
        for assignment in assignments {
            match (&assignment.target, &assignment.value) {
                (ast::AssignmentTarget::Column(name), value) => add(self, scope, name, value)?,
                (ast::AssignmentTarget::Columns(names), ast::Expr::Row(values, pos)) => {
                    if names.len() != values.len() {
                        return Err(SqlError::syntax(
                            "number of columns does not match number of values",
                        )
                        .with_position(pos.0));
                    }
                    for (name, value) in names.iter().zip(values) {
                        add(self, scope, name, value)?;
                    }
                }
                (ast::AssignmentTarget::Columns(names), value) => {
                    if let [name] = names.as_slice() {
                        add(self, scope, name, value)?;
                    } else {
                        return Err(SqlError::unsupported(
                            "assignment of a subquery to several columns",
                        ));
                    }
                }
            }
        }
        Ok(sets)
    }

    /// The rows of a table that a statement changes: the whole row first, then those of `extra`.
    fn changed_rows(
        &mut self,
        target: &ast::TableRef,
        extra: &[ast::TableExpr],
    ) -> Result<(Arc<TableDesc>, Plan, Scope)> {
        let (table, database) = self.writable_table(&target.name)?;
        let (mut plan, mut scope) = table_scan(self.info.node.limits.points, &table, &database);
        if let Plan::Scan(scan) = &mut plan {
            scan.lock = Some(RowLock::WRITE);
        }
        if let Some(alias) = &target.alias {
            rename_scope(&mut scope, Some(&alias.name));
        }
        for column in &mut scope.columns {
            column.used = true;
        }
        if extra.is_empty() {
            return Ok((table, plan, scope));
        }
        let (right, right_scope) = self.from(extra)?;
        let join = crate::plan::Join {
            kind: crate::plan::JoinKind::Inner,
            left: plan,
            right,
            left_width: scope.columns.len(),
            right_width: right_scope.columns.len(),
            keys: Vec::new(),
            condition: None,
        };
        scope.columns.extend(right_scope.columns);
        Ok((table, Plan::Join(Box::new(join)), scope))
    }

    fn restrict(
        &mut self,
        plan: Plan,
        scope: &mut Scope,
        filter: Option<&ast::Expr>,
    ) -> Result<Plan> {
        let Some(filter) = filter else { return Ok(plan) };
        let condition = self.condition(scope, filter, Place::Plain("WHERE"), "WHERE")?;
        self.filter_plan(plan, scope.columns.len(), condition)
    }

    fn ordered(
        &mut self,
        mut plan: Plan,
        scope: &mut Scope,
        order_by: &[ast::OrderBy],
        limit: Option<&ast::Expr>,
    ) -> Result<Plan> {
        if !order_by.is_empty() {
            let mut keys = Vec::new();
            for key in order_by {
                let typed = self.expr(scope, &key.expr, Place::Plain("ORDER BY"))?;
                keys.push(super::query::sort_key(key, typed.expr));
            }
            plan = Plan::Sort { input: Box::new(plan), keys };
        }
        if let Some(limit) = limit {
            let limit = self.row_count(limit, "LIMIT")?;
            super::query::push_limit(&mut plan, &limit);
            plan = Plan::Limit { input: Box::new(plan), limit: Some(limit), offset: None };
        }
        Ok(plan)
    }

    pub(super) fn update(&mut self, update: &ast::Update) -> Result<Output> {
        let scoped = self.with(update.with.as_ref())?;
        let (table, plan, mut scope) = self.changed_rows(&update.table, &update.from)?;
        let plan = self.restrict(plan, &mut scope, update.filter.as_ref())?;
        let mut sets = self.assignments(&table, &mut scope, &update.assignments)?;
        let plan = self.ordered(plan, &mut scope, &update.order_by, update.limit.as_ref())?;
        let mut exprs: Vec<&mut Expr> = sets.iter_mut().map(|(_, e)| e).collect();
        let (mut plan, _) = self.attach(plan, scope.columns.len(), &mut exprs)?;
        let (returning, columns) = self.write_returning(&mut scope, &update.returning)?;
        use_all(&mut plan, &scope);
        if scoped {
            self.ctes.pop();
        }
        let query = self.finish(plan);
        let plan = UpdatePlan { table, query, sets, returning };
        Ok((StatementPlan::Update(Box::new(plan)), columns))
    }

    pub(super) fn delete(&mut self, delete: &ast::Delete) -> Result<Output> {
        let scoped = self.with(delete.with.as_ref())?;
        let (table, plan, mut scope) = self.changed_rows(&delete.table, &delete.using)?;
        let plan = self.restrict(plan, &mut scope, delete.filter.as_ref())?;
        let mut plan = self.ordered(plan, &mut scope, &delete.order_by, delete.limit.as_ref())?;
        let (returning, columns) = self.write_returning(&mut scope, &delete.returning)?;
        use_all(&mut plan, &scope);
        if scoped {
            self.ctes.pop();
        }
        let query: QueryPlan = self.finish(plan);
        let plan = DeletePlan { table, query, returning };
        Ok((StatementPlan::Delete(Box::new(plan)), columns))
    }

    fn write_returning(
        &mut self,
        scope: &mut Scope,
        list: &[ast::SelectItem],
    ) -> Result<Returning> {
        if list.is_empty() {
            return Ok((None, None));
        }
        let (exprs, columns) = self.returning(scope, list)?;
        Ok((Some(exprs), Some(columns)))
    }
}

fn check_width(found: usize, targets: &mut Vec<usize>, named: bool) -> Result<()> {
    if found > targets.len() {
        return Err(SqlError::syntax("INSERT has more expressions than target columns"));
    }
    if found < targets.len() {
        if named {
            return Err(SqlError::syntax("INSERT has more target columns than expressions"));
        }
        // Without names the last columns get their defaults.
        targets.truncate(found);
    }
    Ok(())
}

fn rename_scope(scope: &mut Scope, alias: Option<&ast::Ident>) {
    if let Some(alias) = alias {
        for column in &mut scope.columns {
            column.table = Some(alias.value.clone());
            column.schema = None;
        }
    }
}

/// Statements that write read their rows whole.
fn use_all(plan: &mut Plan, scope: &Scope) {
    match plan {
        Plan::Limit { input, .. }
        | Plan::Sort { input, .. }
        | Plan::Project { input, .. }
        | Plan::Filter { input, .. }
        | Plan::Apply { input, .. } => use_all(input, scope),
        other => use_columns(other, &vec![true; scope.columns.len()]),
    }
}
