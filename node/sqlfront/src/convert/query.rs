//! Queries and what stands in FROM.

use sqlparser::ast as sp;

use super::{Converter, Result};
use crate::ast::{
    Cte, Distinct, Expr, FunctionCall, Join, JoinConstraint, JoinKind, Locking, ObjectName,
    OrderBy, Pos, Query, QueryBody, Select, SelectItem, SetOp, ShowSource, Statement, TableAlias,
    TableExpr, TableFunction, TableRef, Values, With,
};

impl Converter<'_> {
    /// Converts a query.
    pub(crate) fn query(&mut self, query: sp::Query) -> Result<Query> {
        self.deeper(|this| this.query_inner(query))
    }

    pub(super) fn boxed_query(&mut self, query: sp::Query) -> Result<Box<Query>> {
        self.query(query).map(Box::new)
    }

    fn query_inner(&mut self, query: sp::Query) -> Result<Query> {
        let sp::Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        self.absent(for_clause.is_some(), "FOR")?;
        self.absent(settings.is_some(), "SETTINGS")?;
        self.absent(format_clause.is_some(), "FORMAT")?;
        self.absent(!pipe_operators.is_empty(), "|>")?;
        let with = with.map(|with| self.with(with)).transpose()?;
        let body = self.query_body(*body)?;
        let pos = with.as_ref().map_or_else(|| body_pos(&body), |with| with.pos);
        let order_by = self.order_by(order_by)?;
        let (mut limit, offset) = self.limit(limit_clause)?;
        if let Some(fetch) = fetch {
            if fetch.with_ties || fetch.percent {
                return self.unsupported("FETCH FIRST WITH TIES");
            }
            self.absent(limit.is_some(), "FETCH")?;
            limit = Some(match fetch.quantity {
                Some(quantity) => self.expr(quantity)?,
                None => Expr::Literal(crate::ast::Literal::Number("1".to_owned()), self.last_pos),
            });
        }
        let locking = self.locking(&locks)?;
        Ok(Query { with, body, order_by, limit, offset, locking, as_of: None, pos })
    }

    /// Converts a WITH clause.
    fn with(&mut self, with: sp::With) -> Result<With> {
        let pos = self.source.span_pos(with.with_token.0.span);
        self.last_pos = pos;
        let mut ctes = Vec::with_capacity(with.cte_tables.len());
        for cte in with.cte_tables {
            let sp::Cte { alias, query, from, materialized, closing_paren_token: _ } = cte;
            self.absent(from.is_some(), "FROM")?;
            let materialized =
                materialized.map(|choice| matches!(choice, sp::CteAsMaterialized::Materialized));
            let (alias, _) = self.table_alias(alias)?;
            let statement = Box::new(self.deeper(|this| this.query_statement(*query))?);
            ctes.push(Cte { alias, materialized, statement });
        }
        Ok(With { recursive: with.recursive, ctes, pos })
    }

    /// Converts a query that may be an INSERT, UPDATE or DELETE behind a WITH.
    pub(crate) fn query_statement(&mut self, mut query: sp::Query) -> Result<Statement> {
        match *query.body {
            sp::SetExpr::Insert(statement)
            | sp::SetExpr::Update(statement)
            | sp::SetExpr::Delete(statement) => {
                let with = query.with.take().map(|with| self.with(with)).transpose()?;
                self.data_change(statement, with)
            }
            body => {
                query.body = Box::new(body);
                Ok(Statement::Query(self.boxed_query(query)?))
            }
        }
    }

    fn query_body(&mut self, body: sp::SetExpr) -> Result<QueryBody> {
        match body {
            sp::SetExpr::Select(select) => {
                Ok(QueryBody::Select(Box::new(self.deeper(|this| this.select(*select))?)))
            }
            sp::SetExpr::Query(query) => Ok(QueryBody::Query(self.boxed_query(*query)?)),
            sp::SetExpr::Values(values) => {
                self.absent(values.explicit_row, "ROW")?;
                self.absent(values.value_keyword, "VALUE")?;
                let mut rows = Vec::with_capacity(values.rows.len());
                for row in values.rows {
                    rows.push(self.exprs(row.content)?);
                }
                Ok(QueryBody::Values(Values { rows }))
            }
            sp::SetExpr::SetOperation { op, set_quantifier, left, right } => {
                self.set_operation(op, set_quantifier, *left, *right)
            }
            sp::SetExpr::Insert(_) | sp::SetExpr::Update(_) | sp::SetExpr::Delete(_) => {
                self.unsupported("INSERT, UPDATE or DELETE inside a query")
            }
            sp::SetExpr::Merge(_) => self.unsupported("MERGE"),
            sp::SetExpr::Table(_) => self.unsupported("TABLE inside a query"),
        }
    }

    /// Walks a left-leaning chain of set operations without recursion.
    fn set_operation(
        &mut self,
        op: sp::SetOperator,
        quantifier: sp::SetQuantifier,
        left: sp::SetExpr,
        right: sp::SetExpr,
    ) -> Result<QueryBody> {
        let mut chain = vec![(op, quantifier, right)];
        let mut leftmost = left;
        while let sp::SetExpr::SetOperation { op, set_quantifier, left, right } = leftmost {
            chain.push((op, set_quantifier, *right));
            leftmost = *left;
        }
        if self.depth + chain.len() > crate::MAX_DEPTH {
            return Err(super::too_deep(self.last_pos));
        }
        let mut body = self.query_body(leftmost)?;
        for (op, quantifier, right) in chain.into_iter().rev() {
            let op = match op {
                sp::SetOperator::Union => SetOp::Union,
                sp::SetOperator::Except => SetOp::Except,
                sp::SetOperator::Intersect => SetOp::Intersect,
                sp::SetOperator::Minus => return self.syntax("MINUS", Pos::UNKNOWN),
            };
            let all = match quantifier {
                sp::SetQuantifier::All => true,
                sp::SetQuantifier::Distinct | sp::SetQuantifier::None => false,
                _ => return self.syntax("BY", Pos::UNKNOWN),
            };
            let right = Box::new(self.deeper(|this| this.query_body(right))?);
            let pos = body_pos(&right);
            body = QueryBody::SetOp { op, all, left: Box::new(body), right, pos };
        }
        Ok(body)
    }

    fn select(&mut self, select: sp::Select) -> Result<Select> {
        let sp::Select {
            select_token,
            optimizer_hints: _,
            distinct,
            select_modifiers,
            top,
            top_before_distinct: _,
            projection,
            exclude,
            into,
            from,
            lateral_views,
            prewhere,
            selection,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having,
            named_window,
            qualify,
            window_before_qualify: _,
            value_table_mode,
            flavor,
        } = select;
        let pos = self.source.span_pos(select_token.0.span);
        self.last_pos = pos;
        self.absent(select_modifiers.is_some(), "SELECT")?;
        self.absent(top.is_some(), "TOP")?;
        self.absent(exclude.is_some(), "EXCLUDE")?;
        self.absent(!lateral_views.is_empty(), "LATERAL")?;
        self.absent(prewhere.is_some(), "PREWHERE")?;
        self.absent(!connect_by.is_empty(), "CONNECT")?;
        self.absent(!cluster_by.is_empty(), "CLUSTER")?;
        self.absent(!distribute_by.is_empty(), "DISTRIBUTE")?;
        self.absent(!sort_by.is_empty(), "SORT")?;
        self.absent(qualify.is_some(), "QUALIFY")?;
        self.absent(value_table_mode.is_some(), "AS")?;
        self.absent(!matches!(flavor, sp::SelectFlavor::Standard), "FROM")?;
        if into.is_some() {
            return self.unsupported("SELECT INTO");
        }
        let distinct = match distinct {
            None | Some(sp::Distinct::All) => Distinct::All,
            Some(sp::Distinct::Distinct) => Distinct::Distinct,
            Some(sp::Distinct::On(keys)) => Distinct::On(self.exprs(keys)?),
        };
        let items = self.select_items(projection)?;
        let from = self.from(from)?;
        let filter = self.opt_expr(selection)?;
        let group_by = match group_by {
            sp::GroupByExpr::Expressions(keys, modifiers) => {
                self.absent(!modifiers.is_empty(), "WITH")?;
                self.exprs(keys)?
            }
            sp::GroupByExpr::All(_) => return self.syntax("ALL", Pos::UNKNOWN),
        };
        let having = self.opt_expr(having)?;
        let mut windows = Vec::with_capacity(named_window.len());
        for sp::NamedWindowDefinition(name, definition) in named_window {
            let name = self.ident(name)?;
            match definition {
                sp::NamedWindowExpr::WindowSpec(spec) => {
                    windows.push((name, self.window_spec(spec)?));
                }
                sp::NamedWindowExpr::NamedWindow(other) => {
                    let other = self.ident(other)?;
                    return self.syntax(&other.value, other.pos);
                }
            }
        }
        Ok(Select { distinct, items, from, filter, group_by, having, windows, pos })
    }

    /// Converts a select list or a RETURNING list.
    pub(super) fn select_items(&mut self, items: Vec<sp::SelectItem>) -> Result<Vec<SelectItem>> {
        items.into_iter().map(|item| self.select_item(item)).collect()
    }

    fn select_item(&mut self, item: sp::SelectItem) -> Result<SelectItem> {
        match item {
            sp::SelectItem::UnnamedExpr(expr) => {
                Ok(SelectItem::Expr { expr: self.expr(expr)?, alias: None })
            }
            sp::SelectItem::ExprWithAlias { expr, alias } => {
                let expr = self.expr(expr)?;
                Ok(SelectItem::Expr { expr, alias: Some(self.ident(alias)?) })
            }
            sp::SelectItem::ExprWithAliases { .. } => self.syntax("(", Pos::UNKNOWN),
            sp::SelectItem::Wildcard(options) => {
                let pos = self.plain_wildcard(options)?;
                Ok(SelectItem::Wildcard(pos))
            }
            sp::SelectItem::QualifiedWildcard(kind, options) => {
                self.plain_wildcard(options)?;
                match kind {
                    sp::SelectItemQualifiedWildcardKind::ObjectName(name) => {
                        Ok(SelectItem::QualifiedWildcard(self.object_name(name)?))
                    }
                    sp::SelectItemQualifiedWildcardKind::Expr(expr) => {
                        Ok(SelectItem::ExprWildcard(self.expr(expr)?))
                    }
                }
            }
        }
    }

    fn plain_wildcard(&mut self, options: sp::WildcardAdditionalOptions) -> Result<Pos> {
        let sp::WildcardAdditionalOptions {
            wildcard_token,
            opt_ilike,
            opt_exclude,
            opt_except,
            opt_replace,
            opt_rename,
            opt_alias,
        } = options;
        let pos = self.source.span_pos(wildcard_token.0.span);
        self.last_pos = pos;
        self.absent(opt_ilike.is_some(), "ILIKE")?;
        self.absent(opt_exclude.is_some(), "EXCLUDE")?;
        self.absent(opt_except.is_some(), "EXCEPT")?;
        self.absent(opt_replace.is_some(), "REPLACE")?;
        self.absent(opt_rename.is_some(), "RENAME")?;
        self.absent(opt_alias.is_some(), "AS")?;
        Ok(pos)
    }

    fn order_by(&mut self, order_by: Option<sp::OrderBy>) -> Result<Vec<OrderBy>> {
        match order_by {
            None => Ok(Vec::new()),
            Some(sp::OrderBy { kind: sp::OrderByKind::Expressions(keys), interpolate: None }) => {
                self.order_by_exprs(keys)
            }
            Some(_) => self.syntax("ALL", Pos::UNKNOWN),
        }
    }

    /// Converts sort keys.
    pub(super) fn order_by_exprs(&mut self, keys: Vec<sp::OrderByExpr>) -> Result<Vec<OrderBy>> {
        let mut converted = Vec::with_capacity(keys.len());
        for sp::OrderByExpr { expr, options, with_fill } in keys {
            self.absent(with_fill.is_some(), "WITH")?;
            let expr = self.expr(expr)?;
            let descending = match options.sort {
                None | Some(sp::OrderBySort::Asc) => false,
                Some(sp::OrderBySort::Desc) => true,
                Some(sp::OrderBySort::Using(_)) => return self.unsupported("ORDER BY USING"),
            };
            converted.push(OrderBy { expr, descending, nulls_first: options.nulls_first });
        }
        Ok(converted)
    }

    fn limit(&mut self, clause: Option<sp::LimitClause>) -> Result<(Option<Expr>, Option<Expr>)> {
        match clause {
            None => Ok((None, None)),
            Some(sp::LimitClause::LimitOffset { limit, offset, limit_by }) => {
                self.absent(!limit_by.is_empty(), "BY")?;
                let limit = self.opt_expr(limit)?;
                let offset = offset.map(|offset| self.expr(offset.value)).transpose()?;
                Ok((limit, offset))
            }
            Some(sp::LimitClause::OffsetCommaLimit { .. }) => self.syntax(",", Pos::UNKNOWN),
        }
    }

    /// The locking clauses that the pre-pass lifted out; it left each one's number behind.
    fn locking(&self, locks: &[sp::LockClause]) -> Result<Vec<Locking>> {
        let lifted = |lock: &sp::LockClause| {
            let number = lock.of.as_ref()?.0.first()?.as_ident()?.value.parse::<usize>().ok()?;
            self.locking.get(number).cloned()
        };
        let clauses: Option<Vec<Locking>> = locks.iter().map(lifted).collect();
        clauses.map_or_else(|| self.malformed("a locking clause"), Ok)
    }

    /// Converts a FROM list.
    pub(super) fn from(&mut self, tables: Vec<sp::TableWithJoins>) -> Result<Vec<TableExpr>> {
        tables.into_iter().map(|table| self.joined(table)).collect()
    }

    fn joined(&mut self, table: sp::TableWithJoins) -> Result<TableExpr> {
        let sp::TableWithJoins { relation, joins } = table;
        if self.depth + joins.len() > crate::MAX_DEPTH {
            return Err(super::too_deep(self.last_pos));
        }
        let mut left = self.table_factor(relation)?;
        for sp::Join { relation, global, join_operator } in joins {
            self.absent(global, "GLOBAL")?;
            let right = self.table_factor(relation)?;
            let pos = self.last_pos;
            let (kind, constraint) = self.join_operator(join_operator)?;
            left = TableExpr::Join(Box::new(Join { left, right, kind, constraint, pos }));
        }
        Ok(left)
    }

    fn join_operator(&mut self, operator: sp::JoinOperator) -> Result<(JoinKind, JoinConstraint)> {
        use sp::JoinOperator as J;
        let (kind, constraint) = match operator {
            J::Join(constraint) | J::Inner(constraint) => (JoinKind::Inner, constraint),
            J::Left(constraint) | J::LeftOuter(constraint) => (JoinKind::Left, constraint),
            J::Right(constraint) | J::RightOuter(constraint) => (JoinKind::Right, constraint),
            J::FullOuter(constraint) => (JoinKind::Full, constraint),
            J::CrossJoin(sp::JoinConstraint::None) => {
                return Ok((JoinKind::Cross, JoinConstraint::None));
            }
            J::CrossJoin(_) => return self.syntax("ON", Pos::UNKNOWN),
            _ => return self.syntax("JOIN", Pos::UNKNOWN),
        };
        let constraint = match constraint {
            sp::JoinConstraint::On(expr) => JoinConstraint::On(self.expr(expr)?),
            sp::JoinConstraint::Using(names) => {
                let mut columns = Vec::with_capacity(names.len());
                for name in names {
                    columns.push(self.column_name(name)?);
                }
                JoinConstraint::Using(columns)
            }
            sp::JoinConstraint::Natural => JoinConstraint::Natural,
            sp::JoinConstraint::None => {
                return self.malformed("JOIN needs ON or USING");
            }
        };
        Ok((kind, constraint))
    }

    fn table_factor(&mut self, factor: sp::TableFactor) -> Result<TableExpr> {
        self.deeper(|this| this.table_factor_inner(factor))
    }

    fn table_factor_inner(&mut self, factor: sp::TableFactor) -> Result<TableExpr> {
        use sp::TableFactor as F;
        match factor {
            F::Table { .. } => self.table(factor),
            F::Derived { lateral, subquery, alias, sample } => {
                if sample.is_some() {
                    return self.unsupported("TABLESAMPLE");
                }
                let query = self.boxed_query(*subquery)?;
                let pos = query.pos;
                let alias = self.opt_table_alias(alias)?;
                Ok(TableExpr::Subquery { query, alias, lateral, ordinality: false, pos })
            }
            F::Function { lateral, name, args, with_ordinality, alias } => {
                let name = self.object_name(name)?;
                let args = self.function_args(args)?;
                self.table_function(name, args, alias, lateral, with_ordinality)
            }
            F::UNNEST { alias, array_exprs, with_offset, with_offset_alias, with_ordinality } => {
                self.absent(with_offset || with_offset_alias.is_some(), "OFFSET")?;
                let args = crate::ast::FunctionArgs::List(self.exprs(array_exprs)?);
                let name = ObjectName::unqualified(crate::ast::Ident {
                    value: "unnest".to_owned(),
                    quoted: false,
                    pos: self.last_pos,
                });
                self.table_function(name, args, alias, false, with_ordinality)
            }
            F::NestedJoin { table_with_joins, alias } => {
                if alias.is_some() {
                    return self.unsupported("an alias on a parenthesised join");
                }
                self.joined(*table_with_joins)
            }
            F::JsonTable { .. } => self.unsupported("JSON_TABLE"),
            F::XmlTable { .. } => self.unsupported("XMLTABLE"),
            _ => self.malformed("this is no member of FROM"),
        }
    }

    fn table_function(
        &mut self,
        name: ObjectName,
        args: crate::ast::FunctionArgs,
        alias: Option<sp::TableAlias>,
        lateral: bool,
        ordinality: bool,
    ) -> Result<TableExpr> {
        let (alias, column_types) = match alias {
            None => (None, Vec::new()),
            Some(alias) => {
                let (alias, types) = self.table_alias(alias)?;
                (Some(alias), types)
            }
        };
        let call = FunctionCall {
            name,
            args,
            distinct: false,
            order_by: Vec::new(),
            within_group: Vec::new(),
            filter: None,
            over: None,
            bare: false,
        };
        let function = TableFunction { call, alias, column_types, lateral, ordinality };
        Ok(TableExpr::Function(Box::new(function)))
    }

    fn table(&mut self, factor: sp::TableFactor) -> Result<TableExpr> {
        let sp::TableFactor::Table {
            name,
            alias,
            args,
            with_hints,
            version,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
        } = factor
        else {
            return self.malformed("this is no member of FROM");
        };
        self.absent(!with_hints.is_empty(), "WITH")?;
        self.absent(version.is_some(), "FOR")?;
        self.absent(!partitions.is_empty(), "PARTITION")?;
        self.absent(json_path.is_some(), ":")?;
        self.absent(!index_hints.is_empty(), "INDEX")?;
        if sample.is_some() {
            return self.unsupported("TABLESAMPLE");
        }
        let hint = name.0.last().and_then(|part| match part {
            sp::ObjectNamePart::Identifier(ident) => self.index_hints.remove(&ident.span.start),
            sp::ObjectNamePart::Function(_) => None,
        });
        if let Some(sp::ObjectNamePart::Identifier(ident)) = name.0.first()
            && let Some(show) = self.shows.remove(&ident.span.start)
        {
            let pos = self.source.span_pos(ident.span);
            self.absent(name.0.len() > 1 || args.is_some() || hint.is_some(), "]")?;
            let alias = self.opt_table_alias(alias)?;
            let source = ShowSource { show, alias, ordinality: with_ordinality, pos };
            return Ok(TableExpr::Show(Box::new(source)));
        }
        let name = if args.is_some() { self.object_name(name)? } else { self.table_name(name)? };
        if let Some(args) = args {
            self.absent(args.settings.is_some(), "SETTINGS")?;
            let args = self.function_args(args.args)?;
            return self.table_function(name, args, alias, false, with_ordinality);
        }
        let alias = self.opt_table_alias(alias)?;
        Ok(TableExpr::Table(TableRef {
            name,
            alias,
            index_hint: hint,
            ordinality: with_ordinality,
        }))
    }

    fn opt_table_alias(&mut self, alias: Option<sp::TableAlias>) -> Result<Option<TableAlias>> {
        match alias {
            None => Ok(None),
            Some(alias) => {
                let (alias, types) = self.table_alias(alias)?;
                self.absent(!types.is_empty(), &alias.name.value)?;
                Ok(Some(alias))
            }
        }
    }

    /// Converts an alias; the second part holds columns that came with a type.
    fn table_alias(
        &mut self,
        alias: sp::TableAlias,
    ) -> Result<(TableAlias, Vec<(crate::ast::Ident, crate::ast::TypeName)>)> {
        let sp::TableAlias { explicit: _, name, columns, at } = alias;
        self.absent(at.is_some(), "AT")?;
        let name = self.name(name)?;
        let mut names = Vec::with_capacity(columns.len());
        let mut types = Vec::new();
        for sp::TableAliasColumnDef { name, data_type } in columns {
            let column = self.ident(name)?;
            if let Some(ty) = data_type {
                types.push((column.clone(), self.type_name(ty)?));
            }
            names.push(column);
        }
        Ok((TableAlias { name, columns: names }, types))
    }
}

/// Where a query body starts.
fn body_pos(body: &QueryBody) -> Pos {
    match body {
        QueryBody::Select(select) => select.pos,
        QueryBody::Values(values) => {
            values.rows.first().and_then(|row| row.first()).map_or(Pos::UNKNOWN, Expr::pos)
        }
        QueryBody::SetOp { left, .. } => body_pos(left),
        QueryBody::Query(query) => query.pos,
    }
}
