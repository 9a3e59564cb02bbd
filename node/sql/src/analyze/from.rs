//! FROM: tables, subqueries, functions and joins.

use std::sync::Arc;

use crdb_sqlfront::ast;

use super::call::{function_name, srf_kind};
use super::{Analyzer, Frame, Named, Place, Relation, Scope, ScopeColumn};
use crate::catalog::TableDesc;
use crate::error::{Result, SqlError, SqlState};
use crate::expr::{CmpOp, Expr, Typed};
use crate::func::system_names::PUBLIC;
use crate::plan::{Constraint, Join, JoinKind, LateralJoin, Plan, Scan, with_condition};
use crate::types::{SqlType, TypeSpec};

impl Analyzer<'_> {
    /// The cross product of the members of a FROM clause.
    pub(super) fn from(&mut self, members: &[ast::TableExpr]) -> Result<(Plan, Scope)> {
        let mut result: Option<(Plan, Scope)> = None;
        for member in members {
            result = Some(match result {
                None => self.table_expr(member)?,
                Some((left, mut left_scope)) => {
                    let right = self.right_side(&mut left_scope, member)?;
                    check_aliases(&left_scope, &right.scope)?;
                    cross(left, left_scope, right)
                }
            });
        }
        Ok(result.unwrap_or_else(|| (Plan::one_row(), Scope::default())))
    }

    fn table_expr(&mut self, e: &ast::TableExpr) -> Result<(Plan, Scope)> {
        crate::stack::deep(|| self.table_expr_inner(e))
    }

    /// A member of FROM behind others, which it may read if it is LATERAL or a function.
    fn right_side(&mut self, left: &mut Scope, member: &ast::TableExpr) -> Result<Right> {
        let lateral = match member {
            ast::TableExpr::Subquery { lateral, .. } => *lateral,
            ast::TableExpr::Function(_) => true,
            _ => false,
        };
        if !lateral {
            let (plan, scope) = self.table_expr(member)?;
            return Ok(Right { plan, scope, correlated: false });
        }
        let scope = std::mem::take(left);
        self.frames.push(Frame { scope, correlated: false, columns: Vec::new() });
        let found = self.table_expr(member);
        let frame = self.frames.pop().ok_or_else(|| SqlError::internal("no frame to leave"))?;
        *left = frame.scope;
        let (plan, scope) = found?;
        Ok(Right { plan, scope, correlated: frame.correlated })
    }

    fn table_expr_inner(&mut self, e: &ast::TableExpr) -> Result<(Plan, Scope)> {
        match e {
            ast::TableExpr::Table(table) => {
                if table.index_hint.is_some() {
                    return Err(SqlError::unsupported("index hints")
                        .with_position(table.name.pos().0)
                        .with_hint("Only the primary index exists; leave the hint out."));
                }
                let (plan, scope) = self.named_table(&table.name, table.alias.as_ref())?;
                Ok(with_ordinality(plan, scope, table.ordinality, table.alias.as_ref()))
            }
            ast::TableExpr::Subquery { query, alias, ordinality, .. } => {
                let mut relation = self.query(query)?;
                super::query::settle_unknown(&mut self.params, &mut relation)?;
                let (plan, mut scope) = relation_scope(relation, None);
                let (plan, s) = with_ordinality(plan, scope, *ordinality, None);
                scope = s;
                if let Some(alias) = alias {
                    apply_alias(&mut scope, alias)?;
                }
                Ok((plan, scope))
            }
            ast::TableExpr::Function(function) => self.table_function(function),
            ast::TableExpr::Show(source) => self.show_source(source),
            ast::TableExpr::Join(join) => self.join(join),
        }
    }

    fn named_table(
        &mut self,
        name: &ast::ObjectName,
        alias: Option<&ast::TableAlias>,
    ) -> Result<(Plan, Scope)> {
        let (mut plan, mut scope) = match self.lookup(name)? {
            Named::Table(table, database) => {
                table_scan(self.info.node.limits.points, &table, &database)
            }
            Named::Virtual(table) => {
                let columns = table.columns.iter().map(|(column, ty)| {
                    let mut c = ScopeColumn::new(
                        Some(table.name.to_owned()),
                        (*column).to_owned(),
                        TypeSpec::plain(*ty),
                    );
                    c.schema = Some((self.info.database.clone(), table.schema.to_owned()));
                    c
                });
                (Plan::Virtual(table), Scope { columns: columns.collect() })
            }
            Named::Cte(relation) => relation_scope(relation, Some(name.last().value.clone())),
        };
        if let Some(alias) = alias {
            apply_alias(&mut scope, alias)?;
            if let Plan::Scan(scan) = &mut plan {
                scan.alias.clone_from(&alias.name.value);
            }
        }
        Ok((plan, scope))
    }

    /// The rows of a SHOW.
    fn show_source(&mut self, source: &ast::ShowSource) -> Result<(Plan, Scope)> {
        let columns = crate::session::show_columns(&source.show)?;
        let named = columns.into_iter().map(|column| {
            ScopeColumn::new(None, column.name, TypeSpec { ty: column.ty, typmod: column.typmod })
        });
        let scope = Scope { columns: named.collect() };
        let plan = Plan::Show(Arc::new(source.show.clone()));
        let (plan, mut scope) =
            with_ordinality(plan, scope, source.ordinality, source.alias.as_ref());
        if let Some(alias) = &source.alias {
            apply_alias(&mut scope, alias)?;
        }
        Ok((plan, scope))
    }

    fn table_function(&mut self, function: &ast::TableFunction) -> Result<(Plan, Scope)> {
        let name = function_name(&function.call.name);
        let pos = function.call.name.pos();
        let ast::FunctionArgs::List(args) = &function.call.args else {
            return Err(SqlError::syntax("a table function takes no *").with_position(pos.0));
        };
        if !function.column_types.is_empty() {
            return Err(
                SqlError::unsupported("column definitions of table functions").with_position(pos.0)
            );
        }
        let mut scope = Scope::default();
        let args = self.exprs(&mut scope, args, Place::Plain("functions in FROM"))?;
        let alias_name = function.alias.as_ref().map_or(name.clone(), |a| a.name.value.clone());
        let (plan, spec) = match srf_kind(&name) {
            Some(kind) => {
                let (kind, args, ty) =
                    self.srf_args(&name, kind, args).map_err(|e| e.with_position(pos.0))?;
                let input = Box::new(Plan::one_row());
                (Plan::ProjectSet { input, calls: vec![(kind, args)] }, TypeSpec::plain(ty))
            }
            None => {
                let call = self.call_function(&name, args).map_err(|e| e.with_position(pos.0))?;
                (Plan::Values(vec![vec![call.expr]]), call.spec)
            }
        };
        // The only column is called as the alias, or as the function.
        scope.columns.push(ScopeColumn::new(Some(alias_name.clone()), alias_name, spec));
        let (plan, mut scope) =
            with_ordinality(plan, scope, function.ordinality, function.alias.as_ref());
        if let Some(alias) = &function.alias {
            apply_alias(&mut scope, alias)?;
        }
        Ok((plan, scope))
    }

    fn join(&mut self, join: &ast::Join) -> Result<(Plan, Scope)> {
        let (left, mut left_scope) = self.table_expr(&join.left)?;
        let right = self.right_side(&mut left_scope, &join.right)?;
        check_aliases(&left_scope, &right.scope)?;
        if right.correlated {
            return self.lateral_join(join, left, left_scope, right);
        }
        let Right { plan: right, scope: right_scope, .. } = right;
        let kind = match join.kind {
            ast::JoinKind::Inner | ast::JoinKind::Cross => JoinKind::Inner,
            ast::JoinKind::Left => JoinKind::Left,
            ast::JoinKind::Right => JoinKind::Right,
            ast::JoinKind::Full => JoinKind::Full,
        };
        let shared: Option<Vec<String>> = match &join.constraint {
            ast::JoinConstraint::Using(names) => {
                Some(names.iter().map(|n| n.value.clone()).collect())
            }
            ast::JoinConstraint::Natural => Some(
                left_scope
                    .columns
                    .iter()
                    .filter(|l| !l.hidden && !l.merged)
                    .filter(|l| right_scope.columns.iter().any(|r| r.name == l.name && !r.hidden))
                    .map(|l| l.name.clone())
                    .collect(),
            ),
            ast::JoinConstraint::On(_) | ast::JoinConstraint::None => None,
        };
        let left_width = left_scope.columns.len();
        let right_width = right_scope.columns.len();
        let mut scope = Scope { columns: left_scope.columns };
        scope.columns.extend(right_scope.columns);
        let node =
            Join { kind, left, right, left_width, right_width, keys: Vec::new(), condition: None };
        if let Some(shared) = shared {
            return self.join_using(node, scope, &shared, join.pos);
        }
        let ast::JoinConstraint::On(condition) = &join.constraint else {
            return Ok((Plan::Join(Box::new(node)), scope));
        };
        let mut condition =
            self.condition(&mut scope, condition, Place::Plain("JOIN conditions"), "JOIN/ON")?;
        let width = left_width + right_width;
        let correlated = condition.any(&mut |e| matches!(e, Expr::Subquery(s) if s.correlated));
        if correlated {
            if kind != JoinKind::Inner {
                return Err(SqlError::unsupported("a correlated subquery in an outer join's ON")
                    .with_position(join.pos.0));
            }
            let plan = Plan::Join(Box::new(node));
            let (plan, _) = self.attach(plan, width, &mut [&mut condition])?;
            let plan = plan.filter(Some(condition));
            let exprs = (0..width).map(Expr::Column).collect();
            mark_all(&mut scope);
            return Ok((Plan::Project { input: Box::new(plan), exprs }, scope));
        }
        let (_, _) = self.attach(Plan::one_row(), width, &mut [&mut condition])?;
        let node = with_condition(node, vec![condition]);
        Ok((Plan::Join(Box::new(node)), scope))
    }

    /// A join whose right side reads the left one.
    fn lateral_join(
        &mut self,
        join: &ast::Join,
        left: Plan,
        left_scope: Scope,
        right: Right,
    ) -> Result<(Plan, Scope)> {
        let keeps_left = match join.kind {
            ast::JoinKind::Inner | ast::JoinKind::Cross => false,
            ast::JoinKind::Left => true,
            ast::JoinKind::Right | ast::JoinKind::Full => {
                return Err(SqlError::new(
                    SqlState::INVALID_COLUMN_REFERENCE,
                    "invalid reference to FROM-clause entry on the left of a LATERAL",
                )
                .with_detail(
                    "The combining JOIN type must be INNER or LEFT for a LATERAL reference.",
                )
                .with_position(join.pos.0));
            }
        };
        let (plan, mut scope) = cross(left, left_scope, right);
        let Plan::LateralJoin(mut node) = plan else {
            return Err(SqlError::internal("a lateral join became another"));
        };
        node.keeps_left = keeps_left;
        let condition = match &join.constraint {
            ast::JoinConstraint::None => return Ok((Plan::LateralJoin(node), scope)),
            ast::JoinConstraint::On(condition) => condition,
            ast::JoinConstraint::Using(_) | ast::JoinConstraint::Natural => {
                return Err(SqlError::unsupported("LATERAL with USING or NATURAL")
                    .with_position(join.pos.0));
            }
        };
        let mut condition =
            self.condition(&mut scope, condition, Place::Plain("JOIN conditions"), "JOIN/ON")?;
        let correlated =
            condition.any(&mut |part| matches!(part, Expr::Subquery(sub) if sub.correlated));
        if correlated {
            return Err(SqlError::unsupported(
                "a correlated subquery in the condition of a LATERAL",
            )
            .with_position(join.pos.0));
        }
        let width = node.left_width + node.right_width;
        self.attach(Plan::one_row(), width, &mut [&mut condition])?;
        node.condition = Some(condition);
        Ok((Plan::LateralJoin(node), scope))
    }

    /// USING and NATURAL: the shared columns are compared and come out once, first.
    fn join_using(
        &mut self,
        node: Join,
        mut scope: Scope,
        names: &[String],
        pos: ast::Pos,
    ) -> Result<(Plan, Scope)> {
        let kind = node.kind;
        let (left_width, right_width) = (node.left_width, node.right_width);
        let mut conditions = Vec::new();
        let mut merged = Vec::new();
        for name in names {
            let side = |columns: &[ScopeColumn], offset: usize, which: &str| {
                let mut hits =
                    columns.iter().enumerate().filter(|(_, c)| c.name == *name && !c.merged);
                match (hits.next(), hits.next()) {
                    (Some((at, _)), None) => Ok(offset + at),
                    (Some(_), Some(_)) => Err(SqlError::new(
                        SqlState::AMBIGUOUS_COLUMN,
                        format!("common column name \"{name}\" appears more than once in {which} table"),
                    )
                    .with_position(pos.0)),
                    (None, _) => Err(SqlError::new(
                        SqlState::UNDEFINED_COLUMN,
                        format!("column \"{name}\" specified in USING clause does not exist in {which} table"),
                    )
                    .with_position(pos.0)),
                }
            };
            let (l, r) = scope.columns.split_at_checked(left_width).unwrap_or((&[], &[]));
            let (at_l, at_r) = (side(l, 0, "left")?, side(r, left_width, "right")?);
            let typed = |scope: &mut Scope, at: usize| {
                let column = scope.columns.get_mut(at);
                column.map(|c| {
                    c.used = true;
                    Typed { expr: Expr::Column(at), spec: c.spec }
                })
            };
            let (Some(l), Some(r)) = (typed(&mut scope, at_l), typed(&mut scope, at_r)) else {
                return Err(SqlError::internal("a shared column is gone"));
            };
            conditions.push(self.compare(CmpOp::Eq, l.clone(), r.clone(), pos)?);
            let value = match kind {
                JoinKind::Inner | JoinKind::Left => l.expr.clone(),
                JoinKind::Right => r.expr.clone(),
                JoinKind::Full => Expr::Coalesce(vec![l.expr.clone(), r.expr.clone()]),
            };
            merged.push((name.clone(), l.spec, value, at_l, at_r));
        }
        let plan = Plan::Join(Box::new(with_condition(node, conditions)));
        // The merged columns come first; the originals stay for qualified names.
        let mut exprs: Vec<Expr> = merged.iter().map(|(_, _, value, ..)| value.clone()).collect();
        exprs.extend((0..left_width + right_width).map(Expr::Column));
        let mut columns: Vec<ScopeColumn> = merged
            .iter()
            .map(|(name, spec, ..)| ScopeColumn::new(None, name.clone(), *spec))
            .collect();
        for (at, mut column) in scope.columns.into_iter().enumerate() {
            if merged.iter().any(|(_, _, _, l, r)| at == *l || at == *r) {
                column.merged = true;
                column.hidden = true;
            }
            columns.push(column);
        }
        let mut plan = plan;
        crate::plan::use_columns(&mut plan, &vec![true; left_width + right_width]);
        Ok((Plan::Project { input: Box::new(plan), exprs }, Scope { columns }))
    }
}

/// A scan of all of a table with its scope; `points` is a bound of the scan.
pub(super) fn table_scan(points: usize, table: &Arc<TableDesc>, database: &str) -> (Plan, Scope) {
    let columns = table.columns.iter().enumerate().map(|(i, column)| {
        let mut c = ScopeColumn::new(Some(table.name.clone()), column.name.clone(), column.spec);
        c.schema = Some((database.to_owned(), PUBLIC.to_owned()));
        c.hidden = column.hidden;
        c.origin = (table.oid(), i16::try_from(i + 1).unwrap_or(0));
        c
    });
    let scan = Scan {
        table: Arc::clone(table),
        alias: table.name.clone(),
        points,
        lock: None,
        needed: vec![false; table.columns.len()],
        constraint: Constraint::default(),
        filter: None,
        reverse: false,
        limit: None,
    };
    (Plan::Scan(Box::new(scan)), Scope { columns: columns.collect() })
}

fn relation_scope(relation: Relation, table: Option<String>) -> (Plan, Scope) {
    let columns = relation.columns.into_iter().map(|column| {
        let spec = TypeSpec { ty: column.ty, typmod: column.typmod };
        ScopeColumn::new(table.clone(), column.name, spec)
    });
    (relation.plan, Scope { columns: columns.collect() })
}

fn with_ordinality(
    plan: Plan,
    mut scope: Scope,
    wanted: bool,
    alias: Option<&ast::TableAlias>,
) -> (Plan, Scope) {
    if !wanted {
        return (plan, scope);
    }
    mark_all(&mut scope);
    let mut plan = plan;
    let width = scope.columns.len();
    crate::plan::use_columns(&mut plan, &vec![true; width]);
    let table = alias
        .map(|a| a.name.value.clone())
        .or_else(|| scope.columns.first().and_then(|c| c.table.clone()));
    let spec = TypeSpec::plain(SqlType::Int8);
    scope.columns.push(ScopeColumn::new(table, "ordinality".to_owned(), spec));
    (Plan::Ordinality(Box::new(plan)), scope)
}

fn mark_all(scope: &mut Scope) {
    for column in &mut scope.columns {
        column.used = true;
    }
}

fn apply_alias(scope: &mut Scope, alias: &ast::TableAlias) -> Result<()> {
    let mut names = alias.columns.iter();
    for column in &mut scope.columns {
        column.table = Some(alias.name.value.clone());
        column.schema = None;
        if !column.hidden
            && let Some(name) = names.next()
        {
            column.name.clone_from(&name.value);
        }
    }
    if names.next().is_some() {
        return Err(SqlError::new(
            SqlState::INVALID_COLUMN_REFERENCE,
            format!(
                "table \"{}\" has fewer columns than {} names were given",
                alias.name.value,
                alias.columns.len()
            ),
        )
        .with_position(alias.name.pos.0));
    }
    Ok(())
}

fn check_aliases(left: &Scope, right: &Scope) -> Result<()> {
    for r in &right.columns {
        let Some(table) = &r.table else { continue };
        let twice = left.columns.iter().any(|l| {
            l.table.as_ref() == Some(table)
                && (l.schema.is_none() || r.schema.is_none() || l.schema == r.schema)
        });
        if twice {
            return Err(SqlError::new(
                SqlState::DUPLICATE_ALIAS,
                format!("table name \"{table}\" specified more than once"),
            ));
        }
    }
    Ok(())
}

/// The right side of a join, and whether it reads the left one or what is around the query.
struct Right {
    plan: Plan,
    scope: Scope,
    correlated: bool,
}

fn cross(left: Plan, left_scope: Scope, right: Right) -> (Plan, Scope) {
    let left_width = left_scope.columns.len();
    let right_width = right.scope.columns.len();
    let plan = if right.correlated {
        Plan::LateralJoin(Box::new(LateralJoin {
            left,
            right: right.plan,
            left_width,
            right_width,
            keeps_left: false,
            condition: None,
        }))
    } else {
        Plan::Join(Box::new(Join {
            kind: JoinKind::Inner,
            left,
            right: right.plan,
            left_width,
            right_width,
            keys: Vec::new(),
            condition: None,
        }))
    };
    let mut scope = left_scope;
    scope.columns.extend(right.scope.columns);
    (plan, scope)
}
