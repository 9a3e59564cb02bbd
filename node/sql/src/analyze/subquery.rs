//! Subqueries in expressions, and how they leave them: those that read nothing from outside run once
//! before the statement's rows (slots), the others run for each row (Apply).

use std::sync::Arc;

use crdb_sqlfront::ast;

use super::expr::{boolean, comparison};
use super::{Analyzer, Frame, Place, Relation, Scope};
use crate::datum::Datum;
use crate::error::{Result, SqlError, SqlState};
use crate::expr::{CmpOp, Expr, SubqueryExpr, SubqueryKind, Typed};
use crate::plan::{ApplyItem, Plan, SlotKind, SlotPlan};
use crate::types::SqlType;

/// A subquery with what it reads of the queries around it.
struct Nested {
    relation: Relation,
    correlated: bool,
    outer_columns: Vec<usize>,
}

impl Analyzer<'_> {
    fn nested(&mut self, scope: &mut Scope, query: &ast::Query) -> Result<Nested> {
        self.frames.push(Frame {
            scope: std::mem::take(scope),
            correlated: false,
            columns: Vec::new(),
        });
        let in_aggregate = std::mem::take(&mut self.in_aggregate);
        let result = self.query(query);
        self.in_aggregate = in_aggregate;
        let frame = self.frames.pop().ok_or_else(|| SqlError::internal("no frame to leave"))?;
        *scope = frame.scope;
        let mut relation = result?;
        super::query::settle_unknown(&mut self.params, &mut relation)?;
        Ok(Nested { relation, correlated: frame.correlated, outer_columns: frame.columns })
    }

    pub(super) fn subquery_expr(
        &mut self,
        scope: &mut Scope,
        e: &ast::Expr,
        place: Place,
    ) -> Result<Typed> {
        match e {
            ast::Expr::Exists { query, negated, .. } => {
                let nested = self.nested(scope, query)?;
                let exists = wrap(nested, SubqueryKind::Exists);
                Ok(boolean(if *negated { Expr::Not(Box::new(exists)) } else { exists }))
            }
            ast::Expr::Subquery(query, pos) => {
                let nested = self.nested(scope, query)?;
                let column = single_column(&nested, *pos)?;
                Ok(Typed::new(wrap(nested, SubqueryKind::Scalar), column))
            }
            ast::Expr::ArraySubquery(query, pos) => {
                let nested = self.nested(scope, query)?;
                let elem = single_column(&nested, *pos)?;
                let array = elem.array_of().ok_or_else(|| {
                    SqlError::unsupported("multi-dimensional arrays").with_position(pos.0)
                })?;
                Ok(Typed::new(wrap(nested, SubqueryKind::Array(elem)), array))
            }
            ast::Expr::InSubquery { expr, query, negated, pos } => {
                let test = self.quantified(scope, expr, CmpOp::Eq, query, false, *pos, place)?;
                Ok(boolean(if *negated { Expr::Not(Box::new(test)) } else { test }))
            }
            ast::Expr::Quantified(quantified) => self.quantified_expr(scope, quantified, place),
            _ => Err(SqlError::internal("not a subquery")),
        }
    }

    fn quantified_expr(
        &mut self,
        scope: &mut Scope,
        q: &ast::Quantified,
        place: Place,
    ) -> Result<Typed> {
        let op = comparison(&q.op).ok_or_else(|| {
            SqlError::unsupported(format!("operator {} with ANY or ALL", q.op.as_str()))
                .with_position(q.pos.0)
        })?;
        match &q.over {
            ast::Quantifier::Query(query) => {
                self.quantified(scope, &q.left, op, query, q.all, q.pos, place).map(boolean)
            }
            ast::Quantifier::Array(array) => {
                let left = self.expr(scope, &q.left, place)?;
                let array = self.expr(scope, array, place)?;
                let not_array = || {
                    SqlError::new(
                        SqlState::WRONG_OBJECT_TYPE,
                        "op ANY/ALL (array) requires array on right side",
                    )
                    .with_position(q.pos.0)
                };
                let elem = match array.ty() {
                    SqlType::Array(elem) => *elem,
                    SqlType::Unknown => left.ty(),
                    _ => return Err(not_array()),
                };
                let ty = crate::func::op::comparison_type(left.ty(), elem).ok_or_else(|| {
                    SqlError::new(
                        SqlState::UNDEFINED_FUNCTION,
                        format!("operator does not exist: {} {} {elem}", left.ty(), op.as_str()),
                    )
                    .with_position(q.pos.0)
                })?;
                let array_ty = ty.array_of().ok_or_else(not_array)?;
                let spec = crate::types::TypeSpec::plain;
                let context = crate::cast::CastContext::Assignment;
                let left = Box::new(self.coerce(left, spec(ty), context)?);
                let array = Box::new(self.coerce(array, spec(array_ty), context)?);
                Ok(boolean(Expr::Quantified { left, op, array, all: q.all }))
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one syntactic form")]
    fn quantified(
        &mut self,
        scope: &mut Scope,
        left: &ast::Expr,
        op: CmpOp,
        query: &ast::Query,
        all: bool,
        pos: ast::Pos,
        place: Place,
    ) -> Result<Expr> {
        let left = match left {
            ast::Expr::Row(items, _) => self.exprs(scope, items, place)?,
            single => vec![self.expr(scope, single, place)?],
        };
        let mut nested = self.nested(scope, query)?;
        if nested.relation.columns.len() != left.len() {
            let what = if nested.relation.columns.len() > left.len() { "many" } else { "few" };
            return Err(
                SqlError::syntax(format!("subquery has too {what} columns")).with_position(pos.0)
            );
        }
        let mut left_exprs = Vec::new();
        let mut casts = Vec::new();
        for (i, (l, column)) in left.into_iter().zip(&nested.relation.columns).enumerate() {
            let right = Typed::new(Expr::Column(i), column.ty);
            let (l, r) = self.comparable(l, right, op.as_str(), pos)?;
            left_exprs.push(l);
            casts.push(r);
        }
        let plain = casts.iter().enumerate().all(|(i, e)| *e == Expr::Column(i));
        if !plain {
            let input = Box::new(nested.relation.plan);
            nested.relation.plan = Plan::Project { input, exprs: casts };
        }
        Ok(wrap(nested, SubqueryKind::Quantified { left: left_exprs, op, all }))
    }

    /// Takes subqueries out of expressions over rows of `width` columns of `plan`; returns the plan
    /// that yields what they became behind the row, and by how much the row grew.
    pub(super) fn attach(
        &mut self,
        plan: Plan,
        width: usize,
        exprs: &mut [&mut Expr],
    ) -> Result<(Plan, usize)> {
        let mut items = Vec::new();
        for e in exprs.iter_mut() {
            e.rewrite(&mut |part| {
                let Expr::Subquery(sub) = part else { return Ok(()) };
                if sub.correlated {
                    items.push(ApplyItem { kind: sub.kind.clone(), plan: Arc::clone(&sub.plan) });
                    *part = Expr::Column(width + items.len() - 1);
                } else {
                    *part = self.slot(sub);
                }
                Ok(())
            })?;
        }
        let grown = items.len();
        if grown == 0 {
            return Ok((plan, 0));
        }
        Ok((Plan::Apply { input: Box::new(plan), items }, grown))
    }

    fn slot(&mut self, sub: &SubqueryExpr) -> Expr {
        let slot = self.slots.len();
        let plan = Arc::clone(&sub.plan);
        let (kind, expr) = match &sub.kind {
            SubqueryKind::Scalar => (SlotKind::Scalar, Expr::Slot(slot)),
            SubqueryKind::Exists => (SlotKind::Exists, Expr::Slot(slot)),
            SubqueryKind::Array(elem) => (SlotKind::Array(*elem), Expr::Slot(slot)),
            SubqueryKind::Quantified { left, op, all } => {
                let expr = Expr::InSlot { left: left.clone(), slot, op: *op, all: *all };
                (SlotKind::Rows, expr)
            }
        };
        self.slots.push(SlotPlan { kind, plan });
        expr
    }
}

fn single_column(nested: &Nested, pos: ast::Pos) -> Result<SqlType> {
    match nested.relation.columns.as_slice() {
        [column] => Ok(column.ty),
        _ => Err(SqlError::syntax("subquery must return only one column").with_position(pos.0)),
    }
}

fn wrap(nested: Nested, kind: SubqueryKind) -> Expr {
    // EXISTS needs no more than one row.
    let plan = match kind {
        SubqueryKind::Exists => Plan::Limit {
            input: Box::new(nested.relation.plan),
            limit: Some(Expr::Const(Datum::Int(1))),
            offset: None,
        },
        _ => nested.relation.plan,
    };
    Expr::Subquery(Box::new(SubqueryExpr {
        kind,
        plan: Arc::new(plan),
        correlated: nested.correlated,
        outer_columns: nested.outer_columns,
    }))
}
