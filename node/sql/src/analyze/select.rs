//! SELECT: FROM, WHERE, GROUP BY, HAVING, the select list, DISTINCT and ORDER BY.

use crdb_sqlfront::ast;

use super::call::function_name;
use super::query::{output_position, sort_key};
use super::{Analyzer, Place, Relation, Scope};
use crate::error::{Result, SqlError, SqlState};
use crate::expr::{AggCall, Expr, Typed};
use crate::func::agg::AggKind;
use crate::plan::{Plan, SortKey, push_filter, use_columns};
use crate::session::Column;
use crate::types::SqlType;

/// One column of the select list.
struct Item {
    typed: Typed,
    column: Column,
}

/// The rows an expression list is computed from, as it is built up.
struct Stage {
    plan: Plan,
    width: usize,
}

const SELECT: Place = Place::Grouped("SELECT");

impl Analyzer<'_> {
    pub(super) fn select(
        &mut self,
        select: &ast::Select,
        order_by: &[ast::OrderBy],
    ) -> Result<Relation> {
        if !select.windows.is_empty() {
            return Err(SqlError::unsupported("WINDOW").with_position(select.pos.0));
        }
        let (plan, mut scope) = self.from(&select.from)?;
        let mut stage = Stage { plan, width: scope.columns.len() };
        if let Some(filter) = &select.filter {
            let condition = self.condition(&mut scope, filter, Place::Plain("WHERE"), "WHERE")?;
            stage = self.filter(stage, condition)?;
        }
        let mut items = self.select_items(&mut scope, &select.items)?;
        let mut groups = self.group_by(&mut scope, &select.group_by, &items)?;
        let mut having = match &select.having {
            Some(e) => Some(self.condition(&mut scope, e, Place::Grouped("HAVING"), "HAVING")?),
            None => None,
        };
        let mut sort = self.order_by(&mut scope, order_by, &items, &select.distinct)?;
        let mut on = match &select.distinct {
            ast::Distinct::On(exprs) => Some(self.distinct_on(&mut scope, exprs, &items)?),
            _ => None,
        };
        {
            let mut exprs: Vec<&mut Expr> = items.iter_mut().map(|i| &mut i.typed.expr).collect();
            exprs.extend(having.as_mut());
            exprs.extend(sort.iter_mut().map(|k| &mut k.expr));
            exprs.extend(on.iter_mut().flatten());
            let grouped = !groups.is_empty()
                || having_forces(select)
                || exprs.iter().any(|e| e.any(&mut |p| matches!(p, Expr::Aggregate(_))));
            if grouped {
                stage = self.aggregate_stage(stage, &scope, &mut groups, exprs)?;
            }
        }
        if let Some(condition) = having {
            let mut condition = condition;
            let (plan, grown) = self.attach(stage.plan, stage.width, &mut [&mut condition])?;
            stage.plan = cut(plan.filter(Some(condition)), stage.width, grown);
        }
        let used: Vec<bool> = scope.columns.iter().map(|c| c.used).collect();
        mark_used(&mut stage.plan, &used);
        self.project(stage, items, sort, on, matches!(select.distinct, ast::Distinct::Distinct))
    }

    /// Keeps the rows that satisfy a condition.
    pub(super) fn filter_plan(
        &mut self,
        plan: Plan,
        width: usize,
        condition: Expr,
    ) -> Result<Plan> {
        Ok(self.filter(Stage { plan, width }, condition)?.plan)
    }

    fn filter(&mut self, stage: Stage, condition: Expr) -> Result<Stage> {
        let mut parts = Vec::new();
        condition.conjuncts(&mut parts);
        let correlated = |e: &Expr| e.any(&mut |p| matches!(p, Expr::Subquery(s) if s.correlated));
        let (mut late, mut early): (Vec<Expr>, Vec<Expr>) = parts.into_iter().partition(correlated);
        let mut exprs: Vec<&mut Expr> = early.iter_mut().collect();
        self.attach(Plan::one_row(), stage.width, &mut exprs)?;
        let mut plan = push_filter(stage.plan, early);
        if !late.is_empty() {
            let mut exprs: Vec<&mut Expr> = late.iter_mut().collect();
            let (applied, grown) = self.attach(plan, stage.width, &mut exprs)?;
            plan = cut(applied.filter(Expr::all_of(late)), stage.width, grown);
        }
        Ok(Stage { plan, width: stage.width })
    }

    fn select_items(&mut self, scope: &mut Scope, list: &[ast::SelectItem]) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        for item in list {
            match item {
                ast::SelectItem::Expr { expr, alias } => {
                    let typed = self.expr(scope, expr, SELECT)?;
                    let name =
                        alias.as_ref().map_or_else(|| output_name(expr), |a| a.value.clone());
                    items.push(make_item(scope, typed, name));
                }
                ast::SelectItem::Wildcard(pos) => {
                    if scope.columns.is_empty() {
                        return Err(SqlError::syntax(
                            "SELECT * with no tables specified is not valid",
                        )
                        .with_position(pos.0));
                    }
                    expand(scope, &mut items, |c| !c.hidden);
                }
                ast::SelectItem::QualifiedWildcard(name) => {
                    let before = items.len();
                    let table = &name.last().value;
                    // Columns that USING hid are shown under their table's name.
                    expand(scope, &mut items, |c| {
                        c.table.as_ref() == Some(table) && (!c.hidden || c.merged)
                    });
                    if items.len() == before {
                        return Err(SqlError::new(
                            SqlState::UNDEFINED_TABLE,
                            format!("missing FROM-clause entry for table \"{table}\""),
                        )
                        .with_position(name.pos().0));
                    }
                }
                ast::SelectItem::ExprWildcard(e) => {
                    return Err(SqlError::unsupported("(expr).*").with_position(e.pos().0));
                }
            }
        }
        Ok(items)
    }

    /// RETURNING: expressions over the columns of a scope.
    pub(super) fn returning(
        &mut self,
        scope: &mut Scope,
        list: &[ast::SelectItem],
    ) -> Result<(Vec<Expr>, Vec<Column>)> {
        let items = self.select_items(scope, list)?;
        let (mut exprs, mut columns) = (Vec::new(), Vec::new());
        for mut item in items {
            if item.column.ty == SqlType::Unknown {
                item.typed.expr = self.coerce_implicit(item.typed.clone(), SqlType::Text)?;
                item.column.ty = SqlType::Text;
            }
            let has = |f: &mut dyn FnMut(&Expr) -> bool| item.typed.expr.any(f);
            if has(&mut |e| matches!(e, Expr::Aggregate(_))) {
                return Err(SqlError::new(
                    SqlState::GROUPING_ERROR,
                    "aggregate functions are not allowed in RETURNING",
                ));
            }
            if has(&mut |e| matches!(e, Expr::Subquery(_) | Expr::Srf(..))) {
                return Err(SqlError::unsupported("subqueries in RETURNING"));
            }
            exprs.push(item.typed.expr);
            columns.push(item.column);
        }
        Ok((exprs, columns))
    }

    fn group_by(
        &mut self,
        scope: &mut Scope,
        list: &[ast::Expr],
        items: &[Item],
    ) -> Result<Vec<Expr>> {
        let mut groups = Vec::new();
        for e in list {
            // A column of the tables wins over an output name, a number means an output column.
            let by_number = matches!(e, ast::Expr::Literal(ast::Literal::Number(_), _));
            let columns: Vec<Column> = items.iter().map(|i| i.column.clone()).collect();
            let typed = if by_number {
                None
            } else {
                match self.expr(scope, e, Place::Plain("GROUP BY")) {
                    Ok(typed) => Some(typed),
                    Err(error) if error.code == SqlState::UNDEFINED_COLUMN => {
                        if output_position(e, &columns)?.is_none() {
                            return Err(error);
                        }
                        None
                    }
                    Err(error) => return Err(error),
                }
            };
            let typed = match typed {
                Some(typed) => typed,
                None => {
                    let at = output_position(e, &columns)?;
                    let item = at.and_then(|at| items.get(at));
                    item.map(|i| i.typed.clone()).ok_or_else(|| {
                        SqlError::internal("a GROUP BY item names no output column")
                    })?
                }
            };
            if typed.expr.any(&mut |p| matches!(p, Expr::Aggregate(_))) {
                return Err(SqlError::new(
                    SqlState::GROUPING_ERROR,
                    "aggregate functions are not allowed in GROUP BY",
                )
                .with_position(e.pos().0));
            }
            groups.push(typed.expr);
        }
        Ok(groups)
    }

    fn order_by(
        &mut self,
        scope: &mut Scope,
        order_by: &[ast::OrderBy],
        items: &[Item],
        distinct: &ast::Distinct,
    ) -> Result<Vec<SortKey>> {
        let columns: Vec<Column> = items.iter().map(|i| i.column.clone()).collect();
        let mut keys = Vec::new();
        for key in order_by {
            let expr = match output_position(&key.expr, &columns)?.and_then(|at| items.get(at)) {
                Some(item) => {
                    check_one_meaning(&key.expr, items, item)?;
                    item.typed.expr.clone()
                }
                None => {
                    let typed = self.expr(scope, &key.expr, Place::Grouped("ORDER BY"))?;
                    let listed = items.iter().any(|i| i.typed.expr == typed.expr);
                    if matches!(distinct, ast::Distinct::Distinct) && !listed {
                        return Err(SqlError::new(
                            SqlState::INVALID_COLUMN_REFERENCE,
                            "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
                        )
                        .with_position(key.expr.pos().0));
                    }
                    typed.expr
                }
            };
            keys.push(sort_key(key, expr));
        }
        Ok(keys)
    }

    fn distinct_on(
        &mut self,
        scope: &mut Scope,
        exprs: &[ast::Expr],
        items: &[Item],
    ) -> Result<Vec<Expr>> {
        let columns: Vec<Column> = items.iter().map(|i| i.column.clone()).collect();
        let mut on = Vec::new();
        for e in exprs {
            on.push(match output_position(e, &columns)?.and_then(|at| items.get(at)) {
                Some(item) => item.typed.expr.clone(),
                None => self.expr(scope, e, SELECT)?.expr,
            });
        }
        Ok(on)
    }

    /// Groups the rows; what follows reads groups and aggregates.
    fn aggregate_stage(
        &mut self,
        stage: Stage,
        scope: &Scope,
        groups: &mut Vec<Expr>,
        mut exprs: Vec<&mut Expr>,
    ) -> Result<Stage> {
        let mut plan = stage.plan;
        // Correlated subqueries may only read grouped columns; so their value is the same in a group
        // and can be computed before grouping, as one more key.
        let mut lifted: Vec<Expr> = Vec::new();
        for e in &mut exprs {
            lift_correlated(e, groups, scope, &mut lifted)?;
        }
        let mut all: Vec<&mut Expr> = lifted.iter_mut().collect();
        all.extend(groups.iter_mut());
        let (applied, _) = self.attach(plan, stage.width, &mut all)?;
        plan = applied;
        // What stands for a lifted subquery is a column behind the groups.
        let own_groups = groups.len();
        groups.append(&mut lifted);
        let mut aggs: Vec<AggCall> = Vec::new();
        let mut dependent: Vec<Expr> = Vec::new();
        let key_columns = grouped_by_key(&plan, groups);
        for e in &mut exprs {
            e.rewrite_down(&mut |part| {
                if let Expr::Param(n) = part
                    && *n >= LIFTED
                {
                    *part = Expr::Column(own_groups + (*n - LIFTED));
                    return Ok(true);
                }
                if let Some(at) = groups.iter().position(|g| g == part) {
                    *part = Expr::Column(at);
                    return Ok(true);
                }
                match part {
                    Expr::Aggregate(call) => {
                        let at = aggs.iter().position(|a| *a == **call).unwrap_or_else(|| {
                            aggs.push((**call).clone());
                            aggs.len() - 1
                        });
                        *part = Expr::Column(AGGREGATE + at);
                        Ok(true)
                    }
                    // All of the key is grouped: any other column has one value in the group.
                    Expr::Column(c) if key_columns => {
                        let c = Expr::Column(*c);
                        let at = dependent.iter().position(|d| *d == c).unwrap_or_else(|| {
                            dependent.push(c);
                            dependent.len() - 1
                        });
                        *part = Expr::Column(DEPENDENT + at);
                        Ok(true)
                    }
                    Expr::Column(c) => Err(ungrouped(scope, *c)),
                    _ => Ok(false),
                }
            })?;
        }
        let base = groups.len();
        let first_dependent = base + aggs.len();
        for e in &mut exprs {
            e.rewrite(&mut |part| {
                if let Expr::Column(c) = part {
                    if *c >= DEPENDENT {
                        *c = *c - DEPENDENT + first_dependent;
                    } else if *c >= AGGREGATE {
                        *c = *c - AGGREGATE + base;
                    }
                }
                Ok(())
            })?;
        }
        aggs.extend(dependent.into_iter().map(|column| AggCall {
            kind: AggKind::AnyNotNull,
            args: vec![column],
            arg_type: SqlType::Text,
            result: SqlType::Text,
            distinct: false,
            filter: None,
            order_by: Vec::new(),
        }));
        self.attach_to_aggregates(&mut aggs, stage.width)?;
        let width = base + aggs.len();
        let groups = std::mem::take(groups);
        Ok(Stage { plan: Plan::Aggregate { input: Box::new(plan), groups, aggs }, width })
    }

    /// Takes the subqueries out of the arguments of aggregates.
    fn attach_to_aggregates(&mut self, aggs: &mut [AggCall], width: usize) -> Result<()> {
        for agg in aggs {
            let mut parts: Vec<&mut Expr> = agg.args.iter_mut().collect();
            parts.extend(agg.filter.as_mut());
            let (_, grown) = self.attach(Plan::one_row(), width, &mut parts)?;
            if grown > 0 {
                return Err(SqlError::unsupported("a correlated subquery inside an aggregate"));
            }
        }
        Ok(())
    }

    /// The select list, DISTINCT and ORDER BY over the rows of a stage.
    fn project(
        &mut self,
        stage: Stage,
        mut items: Vec<Item>,
        sort: Vec<SortKey>,
        on: Option<Vec<Expr>>,
        distinct: bool,
    ) -> Result<Relation> {
        let mut exprs: Vec<Expr> = items.iter().map(|i| i.typed.expr.clone()).collect();
        let visible = exprs.len();
        let mut place = |e: Expr| {
            exprs.iter().position(|x| *x == e).unwrap_or_else(|| {
                exprs.push(e);
                exprs.len() - 1
            })
        };
        let keys: Vec<SortKey> =
            sort.into_iter().map(|k| SortKey { expr: Expr::Column(place(k.expr)), ..k }).collect();
        let on = on.map(|on| on.into_iter().map(|e| Expr::Column(place(e))).collect::<Vec<_>>());
        let mut refs: Vec<&mut Expr> = exprs.iter_mut().collect();
        let (mut plan, grown) = self.attach(stage.plan, stage.width, &mut refs)?;
        let mut calls = Vec::new();
        for e in &mut exprs {
            e.rewrite(&mut |part| {
                if let Expr::Srf(kind, args) = part {
                    calls.push((*kind, std::mem::take(args)));
                    *part = Expr::Column(stage.width + grown + calls.len() - 1);
                }
                Ok(())
            })?;
        }
        if !calls.is_empty() {
            plan = Plan::ProjectSet { input: Box::new(plan), calls };
        }
        let total = exprs.len();
        // An order that the scan has already needs no sort.
        let ordered = on.is_none() && !distinct && order_by_scan(&mut plan, &exprs, &keys);
        plan = Plan::Project { input: Box::new(plan), exprs };
        if distinct {
            plan = Plan::Distinct { input: Box::new(plan), on: None };
        }
        if !keys.is_empty() && !ordered {
            plan = Plan::Sort { input: Box::new(plan), keys };
        }
        if on.is_some() {
            plan = Plan::Distinct { input: Box::new(plan), on };
        }
        if total > visible {
            let exprs = (0..visible).map(Expr::Column).collect();
            plan = Plan::Project { input: Box::new(plan), exprs };
        }
        let columns = items.drain(..).map(|i| i.column).collect();
        Ok(Relation { plan, columns })
    }
}

/// Stand-ins for columns whose place is known only after all expressions were seen.
const AGGREGATE: usize = 1 << 20;
const DEPENDENT: usize = 1 << 24;
/// Stand-ins for lifted subqueries, as parameters no statement has.
const LIFTED: usize = 1 << 20;

/// Fails when a name of ORDER BY means several columns of the result that differ.
fn check_one_meaning(e: &ast::Expr, items: &[Item], chosen: &Item) -> Result<()> {
    let ast::Expr::Column(reference) = e else { return Ok(()) };
    let name = &reference.column().value;
    let differs = |i: &Item| i.column.name == *name && i.typed.expr != chosen.typed.expr;
    if !items.iter().any(differs) {
        return Ok(());
    }
    let message = format!("ORDER BY \"{name}\" is ambiguous");
    Err(SqlError::new(SqlState::AMBIGUOUS_COLUMN, message).with_position(reference.pos().0))
}

/// HAVING or an empty GROUP BY () makes one group.
fn having_forces(select: &ast::Select) -> bool {
    select.having.is_some()
}

/// Cuts what Apply appended off again.
fn cut(plan: Plan, width: usize, grown: usize) -> Plan {
    if grown == 0 {
        return plan;
    }
    Plan::Project { input: Box::new(plan), exprs: (0..width).map(Expr::Column).collect() }
}

fn ungrouped(scope: &Scope, column: usize) -> SqlError {
    let name = scope.columns.get(column).map_or_else(String::new, |c| match &c.table {
        Some(table) => format!("{table}.{}", c.name),
        None => c.name.clone(),
    });
    SqlError::new(
        SqlState::GROUPING_ERROR,
        format!(
            "column \"{name}\" must appear in the GROUP BY clause or be used in an aggregate function"
        ),
    )
}

fn lift_correlated(
    e: &mut Expr,
    groups: &[Expr],
    scope: &Scope,
    lifted: &mut Vec<Expr>,
) -> Result<()> {
    e.rewrite_down(&mut |part| {
        if matches!(part, Expr::Aggregate(_)) {
            return Ok(true);
        }
        let Expr::Subquery(sub) = part else { return Ok(false) };
        if !sub.correlated {
            return Ok(false);
        }
        for column in &sub.outer_columns {
            if !groups.contains(&Expr::Column(*column)) {
                return Err(ungrouped(scope, *column));
            }
        }
        if sub.outer_columns.is_empty() {
            return Err(SqlError::unsupported(
                "a subquery of a grouped query that reads only further enclosing queries",
            ));
        }
        let stand_in = Expr::Param(LIFTED + lifted.len());
        lifted.push(std::mem::replace(part, stand_in));
        Ok(true)
    })
}

/// Whether the groups hold the whole primary key of the only table.
fn grouped_by_key(plan: &Plan, groups: &[Expr]) -> bool {
    match plan {
        Plan::Scan(scan) => scan.table.key.iter().all(|k| groups.contains(&Expr::Column(k.column))),
        Plan::Filter { input, .. } | Plan::Apply { input, .. } => grouped_by_key(input, groups),
        _ => false,
    }
}

/// Hands the columns that are used down to the FROM clause.
fn mark_used(plan: &mut Plan, used: &[bool]) {
    match plan {
        Plan::Aggregate { input, .. }
        | Plan::Project { input, .. }
        | Plan::Filter { input, .. } => {
            // The projections on this path only cut off what Apply appended, or are a join's own,
            // whose inputs were told when it was built.
            mark_used(input, used);
        }
        other => use_columns(other, used),
    }
}

/// Whether the rows come in the wanted order by themselves: the keys are the columns of the primary
/// key behind those fixed to one value. Turns the scan around where that helps.
fn order_by_scan(plan: &mut Plan, exprs: &[Expr], keys: &[SortKey]) -> bool {
    if keys.is_empty() {
        return false;
    }
    let Plan::Scan(scan) = plan else { return false };
    let mut columns = Vec::new();
    for key in keys {
        let Expr::Column(at) = key.expr else { return false };
        let Some(Expr::Column(column)) = exprs.get(at) else { return false };
        columns.push((*column, key.descending, key.nulls_first));
    }
    let fixed = scan.constraint.equal_columns();
    let is_fixed = |column: usize| scan.table.key.iter().take(fixed).any(|k| k.column == column);
    let mut parts = scan.table.key.iter().skip(fixed);
    let mut reverse = None;
    for (column, descending, nulls_first) in columns {
        if is_fixed(column) {
            continue;
        }
        // Behind the whole key there are no two rows left to order.
        let Some(part) = parts.next() else { break };
        if part.column != column || nulls_first == descending {
            return false;
        }
        let turned = part.descending != descending;
        if *reverse.get_or_insert(turned) != turned {
            return false;
        }
    }
    scan.reverse = reverse.unwrap_or(false);
    true
}

fn make_item(scope: &Scope, typed: Typed, name: String) -> Item {
    let mut column = Column::new(name, typed.ty());
    column.typmod = typed.spec.typmod;
    if let Expr::Column(at) = &typed.expr
        && let Some(source) = scope.columns.get(*at)
    {
        (column.table_oid, column.attribute) = source.origin;
    }
    Item { typed, column }
}

fn expand(scope: &mut Scope, items: &mut Vec<Item>, wanted: impl Fn(&super::ScopeColumn) -> bool) {
    let mut found = Vec::new();
    for (at, column) in scope.columns.iter_mut().enumerate() {
        if wanted(column) {
            column.used = true;
            found.push((at, column.name.clone(), column.spec));
        }
    }
    for (at, name, spec) in found {
        items.push(make_item(scope, Typed { expr: Expr::Column(at), spec }, name));
    }
}

/// The name of an output column without an alias, as PostgreSQL chooses it.
fn output_name(e: &ast::Expr) -> String {
    match e {
        ast::Expr::Column(reference) => reference.column().value.clone(),
        ast::Expr::Function(call) => {
            let name = function_name(&call.name);
            name.rsplit('.').next().unwrap_or(&name).to_owned()
        }
        ast::Expr::Cast { expr, ty, .. } => match output_name(expr) {
            unnamed if unnamed == "?column?" => ty.name.last().value.clone(),
            name => name,
        },
        ast::Expr::Case { otherwise, .. } => match otherwise.as_deref().map(output_name) {
            Some(name) if name != "?column?" => name,
            _ => "case".to_owned(),
        },
        ast::Expr::Array(..) | ast::Expr::ArraySubquery(..) => "array".to_owned(),
        ast::Expr::Exists { .. } => "exists".to_owned(),
        ast::Expr::Literal(ast::Literal::Bool(_), _) => "bool".to_owned(),
        ast::Expr::Collate { expr, .. } | ast::Expr::Subscript { expr, .. } => output_name(expr),
        ast::Expr::AtTimeZone { .. } => "timezone".to_owned(),
        ast::Expr::Row(..) => "row".to_owned(),
        ast::Expr::Subquery(query, _) => match &query.body {
            ast::QueryBody::Select(select) => match select.items.first() {
                Some(ast::SelectItem::Expr { alias: Some(alias), .. }) => alias.value.clone(),
                Some(ast::SelectItem::Expr { expr, alias: None }) => output_name(expr),
                _ => "?column?".to_owned(),
            },
            _ => "?column?".to_owned(),
        },
        _ => "?column?".to_owned(),
    }
}
