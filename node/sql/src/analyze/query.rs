//! Queries: bodies, WITH, set operations, ORDER BY and LIMIT around them.

use std::collections::HashMap;

use crdb_sqlfront::ast;

use super::types::common_type;
use super::{Analyzer, Place, Relation, Scope};
use crate::cast::CastContext;
use crate::error::{Result, SqlError, SqlState};
use crate::expr::{Expr, Typed};
use crate::plan::{Plan, SetKind, SortKey};
use crate::session::Column;
use crate::types::{SqlType, TypeSpec};

/// Gives columns and parameters of unknown type the type text. A parameter that another use gave a
/// type since keeps it, and so does the column that shows it: what a client gets has to be of the
/// type that its description says.
pub(super) fn settle_unknown(
    params: &mut [Option<SqlType>],
    relation: &mut Relation,
) -> Result<()> {
    for (i, column) in relation.columns.iter_mut().enumerate() {
        if column.ty == SqlType::Unknown {
            column.ty = settle_params(params, &relation.plan, i)?;
        }
    }
    Ok(())
}

/// The type of an output column of unknown type: that of the parameter it shows, otherwise text.
fn settle_params(params: &mut [Option<SqlType>], plan: &Plan, column: usize) -> Result<SqlType> {
    let mut settle = |e: Option<&Expr>| match e {
        Some(Expr::Param(i)) => {
            params.get_mut(*i).map_or(SqlType::Text, |slot| *slot.get_or_insert(SqlType::Text))
        }
        _ => SqlType::Text,
    };
    match plan {
        Plan::Project { exprs, .. } => Ok(settle(exprs.get(column))),
        Plan::Values(rows) => {
            let mut types = rows.iter().map(|row| settle(row.get(column)));
            let first = types.next().unwrap_or(SqlType::Text);
            match types.find(|ty| *ty != first) {
                None => Ok(first),
                Some(other) => Err(SqlError::new(
                    SqlState::AMBIGUOUS_PARAMETER,
                    format!("inconsistent types deduced for a parameter: {first} and {other}"),
                )
                .with_hint("Give each use of the parameter the same type with a cast.")),
            }
        }
        Plan::Limit { input, .. } | Plan::Sort { input, .. } | Plan::Distinct { input, .. } => {
            settle_params(params, input, column)
        }
        _ => Ok(SqlType::Text),
    }
}

impl Analyzer<'_> {
    /// A query whose result goes to the client.
    pub(super) fn top_query(&mut self, query: &ast::Query) -> Result<Relation> {
        let mut relation = self.scoped_query(query)?;
        settle_unknown(&mut self.params, &mut relation)?;
        Ok(relation)
    }

    pub(super) fn query(&mut self, query: &ast::Query) -> Result<Relation> {
        if query.as_of.is_some() {
            return Err(SqlError::syntax(
                "AS OF SYSTEM TIME must be provided on a top-level statement",
            )
            .with_position(query.pos.0));
        }
        self.scoped_query(query)
    }

    fn scoped_query(&mut self, query: &ast::Query) -> Result<Relation> {
        let scoped = self.with(query.with.as_ref())?;
        let result = crate::stack::deep(|| self.query_inner(query));
        if scoped {
            self.ctes.pop();
        }
        result
    }

    fn query_inner(&mut self, query: &ast::Query) -> Result<Relation> {
        let mut relation = match &query.body {
            ast::QueryBody::Select(select) => self.select(select, &query.order_by)?,
            body => {
                let relation = self.body(body)?;
                self.order_output(relation, &query.order_by)?
            }
        };
        super::locking::lock_rows(query, &mut relation.plan)?;
        self.locks |= !query.locking.is_empty();
        self.limit(relation, query.limit.as_ref(), query.offset.as_ref())
    }

    /// Makes the named queries of a WITH known. True when a frame was pushed.
    pub(super) fn with(&mut self, with: Option<&ast::With>) -> Result<bool> {
        let Some(with) = with else { return Ok(false) };
        if with.recursive {
            return Err(SqlError::unsupported("WITH RECURSIVE").with_position(with.pos.0));
        }
        self.ctes.push(HashMap::new());
        for cte in &with.ctes {
            let ast::Statement::Query(query) = cte.statement.as_ref() else {
                self.ctes.pop();
                return Err(SqlError::unsupported("INSERT, UPDATE or DELETE in WITH")
                    .with_position(with.pos.0));
            };
            let analyzed = self.query(query).and_then(|mut relation| {
                settle_unknown(&mut self.params, &mut relation)?;
                rename(&mut relation, &cte.alias)?;
                Ok(relation)
            });
            match (analyzed, self.ctes.last_mut()) {
                (Ok(relation), Some(frame)) => {
                    frame.insert(cte.alias.name.value.clone(), relation);
                }
                (Err(error), _) => {
                    self.ctes.pop();
                    return Err(error);
                }
                (Ok(_), None) => return Err(SqlError::internal("no WITH to add to")),
            }
        }
        Ok(true)
    }

    fn body(&mut self, body: &ast::QueryBody) -> Result<Relation> {
        crate::stack::deep(|| self.body_inner(body))
    }

    fn body_inner(&mut self, body: &ast::QueryBody) -> Result<Relation> {
        match body {
            ast::QueryBody::Select(select) => self.select(select, &[]),
            ast::QueryBody::Query(query) => self.query(query),
            ast::QueryBody::Values(values) => self.values(values),
            ast::QueryBody::SetOp { op, all, left, right, pos } => {
                let left = self.body(left)?;
                let right = self.body(right)?;
                self.set_op(*op, *all, left, right, *pos)
            }
        }
    }

    fn values(&mut self, values: &ast::Values) -> Result<Relation> {
        let mut scope = Scope::default();
        let mut rows = Vec::with_capacity(values.rows.len());
        for row in &values.rows {
            rows.push(self.exprs(&mut scope, row, Place::Plain("VALUES"))?);
        }
        let width = rows.first().map_or(0, Vec::len);
        if rows.iter().any(|row| row.len() != width) {
            return Err(SqlError::syntax("VALUES lists must all be the same length"));
        }
        let mut columns = Vec::with_capacity(width);
        for i in 0..width {
            let types: Vec<SqlType> = rows.iter().filter_map(|r| r.get(i)).map(Typed::ty).collect();
            let unknown = types.iter().all(|ty| *ty == SqlType::Unknown);
            let ty = if unknown { SqlType::Unknown } else { common_type("VALUES", &types)? };
            columns.push(Column::new(format!("column{}", i + 1), ty));
        }
        let mut exprs = Vec::with_capacity(rows.len());
        for row in rows {
            let mut out = Vec::with_capacity(width);
            for (typed, column) in row.into_iter().zip(&columns) {
                out.push(match column.ty {
                    SqlType::Unknown => typed.expr,
                    ty => self.coerce_implicit(typed, ty)?,
                });
            }
            exprs.push(out);
        }
        let mut all: Vec<&mut Expr> = exprs.iter_mut().flatten().collect();
        let (_, grown) = self.attach(Plan::one_row(), 0, &mut all)?;
        if grown > 0 {
            return Err(SqlError::unsupported("a correlated subquery in VALUES")
                .with_hint("Write SELECT instead of VALUES."));
        }
        Ok(Relation { plan: Plan::Values(exprs), columns })
    }

    fn set_op(
        &mut self,
        op: ast::SetOp,
        all: bool,
        left: Relation,
        right: Relation,
        pos: ast::Pos,
    ) -> Result<Relation> {
        let (kind, name) = match op {
            ast::SetOp::Union => (SetKind::Union, "UNION"),
            ast::SetOp::Intersect => (SetKind::Intersect, "INTERSECT"),
            ast::SetOp::Except => (SetKind::Except, "EXCEPT"),
        };
        if left.columns.len() != right.columns.len() {
            return Err(SqlError::syntax(format!(
                "each {name} query must have the same number of columns"
            ))
            .with_position(pos.0));
        }
        let mut types = Vec::new();
        for (l, r) in left.columns.iter().zip(&right.columns) {
            types.push(common_type(name, &[l.ty, r.ty]).map_err(|e| e.with_position(pos.0))?);
        }
        let columns = left
            .columns
            .iter()
            .zip(&types)
            .map(|(c, ty)| Column::new(c.name.clone(), *ty))
            .collect();
        let left = Box::new(self.convert(left, &types)?);
        let right = Box::new(self.convert(right, &types)?);
        Ok(Relation { plan: Plan::SetOp { kind, all, left, right }, columns })
    }

    /// A plan whose columns have the given types.
    fn convert(&mut self, mut relation: Relation, types: &[SqlType]) -> Result<Plan> {
        if relation.columns.iter().zip(types).all(|(c, ty)| c.ty == *ty) {
            return Ok(relation.plan);
        }
        for (i, (column, ty)) in relation.columns.iter_mut().zip(types).enumerate() {
            if column.ty == SqlType::Unknown && *ty == SqlType::Text {
                column.ty = settle_params(&mut self.params, &relation.plan, i)?;
            }
        }
        let columns = std::mem::take(&mut relation.columns);
        let mut exprs = Vec::new();
        for (i, (column, ty)) in columns.iter().zip(types).enumerate() {
            let typed = Typed::new(Expr::Column(i), column.ty);
            exprs.push(self.coerce(typed, TypeSpec::plain(*ty), CastContext::Implicit)?);
        }
        Ok(Plan::Project { input: Box::new(relation.plan), exprs })
    }

    /// ORDER BY over the columns of a result.
    fn order_output(&mut self, relation: Relation, order_by: &[ast::OrderBy]) -> Result<Relation> {
        if order_by.is_empty() {
            return Ok(relation);
        }
        let mut keys = Vec::new();
        for key in order_by {
            let Some(at) = output_position(&key.expr, &relation.columns)? else {
                return Err(SqlError::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "ORDER BY on the result of a set operation or VALUES must name an output column",
                )
                .with_position(key.expr.pos().0));
            };
            keys.push(sort_key(key, Expr::Column(at)));
        }
        let plan = Plan::Sort { input: Box::new(relation.plan), keys };
        Ok(Relation { plan, columns: relation.columns })
    }

    fn limit(
        &mut self,
        relation: Relation,
        limit: Option<&ast::Expr>,
        offset: Option<&ast::Expr>,
    ) -> Result<Relation> {
        if limit.is_none() && offset.is_none() {
            return Ok(relation);
        }
        let limit = limit.map(|e| self.row_count(e, "LIMIT")).transpose()?;
        let offset = offset.map(|e| self.row_count(e, "OFFSET")).transpose()?;
        let mut input = relation.plan;
        if let (Some(limit), None) = (&limit, &offset) {
            push_limit(&mut input, limit);
        }
        let plan = Plan::Limit { input: Box::new(input), limit, offset };
        Ok(Relation { plan, columns: relation.columns })
    }

    pub(super) fn row_count(&mut self, e: &ast::Expr, clause: &'static str) -> Result<Expr> {
        let typed = self.expr(&mut Scope::default(), e, Place::Plain(clause))?;
        let ty = typed.ty();
        let mut expr = self
            .coerce(typed, TypeSpec::plain(SqlType::Int8), CastContext::Assignment)
            .map_err(|error| match error.code {
                SqlState::DATATYPE_MISMATCH => SqlError::new(
                    SqlState::DATATYPE_MISMATCH,
                    format!("argument of {clause} must be type bigint, not type {ty}"),
                )
                .with_position(e.pos().0),
                _ => error,
            })?;
        self.attach(Plan::one_row(), 0, &mut [&mut expr])?;
        Ok(expr)
    }
}

/// Tells a scan how many rows are asked of it, where nothing in between drops or reorders rows.
pub(super) fn push_limit(plan: &mut Plan, limit: &Expr) {
    match plan {
        Plan::Project { input, .. } => push_limit(input, limit),
        // A locking scan with a filter stops by itself once it has locked enough.
        Plan::Scan(scan) if scan.filter.is_none() || scan.lock.is_some() => {
            scan.limit = Some(limit.clone());
        }
        _ => {}
    }
}

/// The output column that an ORDER BY or GROUP BY item names by number or by name.
pub(super) fn output_position(e: &ast::Expr, columns: &[Column]) -> Result<Option<usize>> {
    match e {
        ast::Expr::Literal(ast::Literal::Number(digits), pos) => {
            let number: usize = digits.parse().unwrap_or(0);
            if number == 0 || number > columns.len() {
                return Err(SqlError::new(
                    SqlState::INVALID_COLUMN_REFERENCE,
                    format!("position {digits} is not in select list"),
                )
                .with_position(pos.0));
            }
            Ok(Some(number - 1))
        }
        ast::Expr::Column(reference) if reference.qualifier().is_empty() => {
            let name = &reference.column().value;
            let mut hits = columns.iter().enumerate().filter(|(_, c)| c.name == *name);
            Ok(hits.next().map(|(at, _)| at))
        }
        _ => Ok(None),
    }
}

/// A sort key with CockroachDB's default place of NULL: first ascending, last descending.
pub(super) fn sort_key(key: &ast::OrderBy, expr: Expr) -> SortKey {
    SortKey {
        expr,
        descending: key.descending,
        nulls_first: key.nulls_first.unwrap_or(!key.descending),
    }
}

fn rename(relation: &mut Relation, alias: &ast::TableAlias) -> Result<()> {
    if alias.columns.len() > relation.columns.len() {
        return Err(SqlError::new(
            SqlState::INVALID_COLUMN_REFERENCE,
            format!("WITH query \"{}\" has fewer columns than names", alias.name.value),
        )
        .with_position(alias.name.pos.0));
    }
    for (column, name) in relation.columns.iter_mut().zip(&alias.columns) {
        column.name.clone_from(&name.value);
    }
    Ok(())
}
