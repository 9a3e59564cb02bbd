//! Plans: trees of operators over rows, as the executor runs them.

mod constraint;
mod explain;
mod push;

use std::sync::Arc;

pub(crate) use constraint::{Constraint, Point};
pub(crate) use push::{push_filter, use_columns, with_condition};

use crate::catalog::TableDesc;
use crate::error::Result;
use crate::expr::{AggCall, EvalCtx, Expr, SrfKind, SubqueryKind};
use crate::types::{SqlType, TypeSpec};
use crate::vtable::VirtualTable;

/// One key of an order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SortKey {
    pub(crate) expr: Expr,
    pub(crate) descending: bool,
    pub(crate) nulls_first: bool,
}

/// Which rows of a join come out without a partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JoinKind {
    Inner,
    Left,
    Right,
    Full,
}

/// A set operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetKind {
    Union,
    Intersect,
    Except,
}

/// Locks that a scan takes on the rows it yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowLock {
    /// Against all others, or only against those who want to change the row.
    pub(crate) exclusive: bool,
    pub(crate) wait: LockWait,
}

/// What happens to a row that somebody else has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockWait {
    /// It is waited for.
    Block,
    /// The statement fails.
    Fail,
    /// The row is left out.
    Skip,
}

impl RowLock {
    /// What a statement takes on the rows it is about to change.
    pub(crate) const WRITE: Self = Self { exclusive: true, wait: LockWait::Block };

    /// A lock that is as strong as either and waits no longer than either.
    pub(crate) fn and(self, other: Option<Self>) -> Self {
        let Some(other) = other else { return self };
        let wait = match (self.wait, other.wait) {
            (LockWait::Fail, _) | (_, LockWait::Fail) => LockWait::Fail,
            (LockWait::Skip, _) | (_, LockWait::Skip) => LockWait::Skip,
            _ => LockWait::Block,
        };
        Self { exclusive: self.exclusive || other.exclusive, wait }
    }
}

/// A scan of a table's primary index.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    pub(crate) table: Arc<TableDesc>,
    /// What FOR UPDATE OF calls the table.
    pub(crate) alias: String,
    /// Keys that the lists of a condition may name together.
    pub(crate) points: usize,
    pub(crate) lock: Option<RowLock>,
    /// Columns whose values are read; the others come out as NULL.
    pub(crate) needed: Vec<bool>,
    pub(crate) constraint: Constraint,
    /// What is left to test on each row.
    pub(crate) filter: Option<Expr>,
    pub(crate) reverse: bool,
    /// How many rows the operators above take at most.
    pub(crate) limit: Option<Expr>,
}

/// A join.
#[derive(Clone, Debug)]
pub(crate) struct Join {
    pub(crate) kind: JoinKind,
    pub(crate) left: Plan,
    pub(crate) right: Plan,
    pub(crate) left_width: usize,
    pub(crate) right_width: usize,
    /// Equal expressions over the left and over the right row.
    pub(crate) keys: Vec<(Expr, Expr)>,
    /// The rest of the condition, over both rows.
    pub(crate) condition: Option<Expr>,
}

/// A join whose right side reads the row of the left side, one level out.
#[derive(Clone, Debug)]
pub(crate) struct LateralJoin {
    pub(crate) left: Plan,
    pub(crate) right: Plan,
    pub(crate) left_width: usize,
    pub(crate) right_width: usize,
    /// Whether a row without partner comes out, too.
    pub(crate) keeps_left: bool,
    /// Over both rows.
    pub(crate) condition: Option<Expr>,
}

/// A correlated subquery that runs for each row.
#[derive(Clone, Debug)]
pub(crate) struct ApplyItem {
    pub(crate) kind: SubqueryKind,
    pub(crate) plan: Arc<Plan>,
}

/// An operator with its inputs.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    /// Rows of expressions without input.
    Values(Vec<Vec<Expr>>),
    Scan(Box<Scan>),
    /// A table computed from the catalog and the session.
    Virtual(&'static VirtualTable),
    /// The rows of a SHOW.
    Show(Arc<crdb_sqlfront::ast::Show>),
    Filter {
        input: Box<Plan>,
        predicate: Expr,
    },
    Project {
        input: Box<Plan>,
        exprs: Vec<Expr>,
    },
    /// Appends the rows of functions to each input row.
    ProjectSet {
        input: Box<Plan>,
        calls: Vec<(SrfKind, Vec<Expr>)>,
    },
    /// Appends a number to each row.
    Ordinality(Box<Plan>),
    Join(Box<Join>),
    LateralJoin(Box<LateralJoin>),
    Aggregate {
        input: Box<Plan>,
        groups: Vec<Expr>,
        aggs: Vec<AggCall>,
    },
    Sort {
        input: Box<Plan>,
        keys: Vec<SortKey>,
    },
    Limit {
        input: Box<Plan>,
        limit: Option<Expr>,
        offset: Option<Expr>,
    },
    /// Keeps the first of the rows that are equal, or equal in `on`.
    Distinct {
        input: Box<Plan>,
        on: Option<Vec<Expr>>,
    },
    SetOp {
        kind: SetKind,
        all: bool,
        left: Box<Plan>,
        right: Box<Plan>,
    },
    /// Appends a column for each correlated subquery.
    Apply {
        input: Box<Plan>,
        items: Vec<ApplyItem>,
    },
}

/// A subquery that runs once, before the rows of the statement.
#[derive(Clone, Debug)]
pub(crate) struct SlotPlan {
    pub(crate) kind: SlotKind,
    pub(crate) plan: Arc<Plan>,
}

/// What is kept of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotKind {
    Scalar,
    Exists,
    Array(SqlType),
    Rows,
}

/// A query with its subqueries.
#[derive(Clone, Debug)]
pub(crate) struct QueryPlan {
    pub(crate) slots: Vec<SlotPlan>,
    pub(crate) root: Plan,
    /// It was asked to lock rows, with FOR UPDATE or one of its relatives.
    pub(crate) locks: bool,
}

/// What happens when the key of a new row exists.
#[derive(Clone, Debug)]
pub(crate) enum Conflict {
    /// An error.
    Fail,
    /// The row replaces the old one; columns not named keep their value.
    Upsert,
    /// The new row is left out.
    DoNothing,
    /// The old row is changed; expressions over old row ++ new row.
    DoUpdate { sets: Vec<(usize, Expr)>, filter: Option<Expr> },
}

/// INSERT and UPSERT.
#[derive(Clone, Debug)]
pub(crate) struct InsertPlan {
    pub(crate) table: Arc<TableDesc>,
    pub(crate) query: QueryPlan,
    /// For each column of the table: which column of the query fills it.
    pub(crate) sources: Vec<Option<usize>>,
    /// Defaults of the columns that are not filled.
    pub(crate) defaults: Vec<Option<Expr>>,
    pub(crate) conflict: Conflict,
    /// Over the row written.
    pub(crate) returning: Option<Vec<Expr>>,
}

/// UPDATE.
#[derive(Clone, Debug)]
pub(crate) struct UpdatePlan {
    pub(crate) table: Arc<TableDesc>,
    /// Yields the row to change, then whatever the assignments read.
    pub(crate) query: QueryPlan,
    /// Column and its new value, over the query's row.
    pub(crate) sets: Vec<(usize, Expr)>,
    /// Over the new row, then what the query yields behind the old one.
    pub(crate) returning: Option<Vec<Expr>>,
}

/// DELETE.
#[derive(Clone, Debug)]
pub(crate) struct DeletePlan {
    pub(crate) table: Arc<TableDesc>,
    /// Yields the row to delete first.
    pub(crate) query: QueryPlan,
    pub(crate) returning: Option<Vec<Expr>>,
}

/// What a statement does.
#[derive(Clone, Debug)]
pub(crate) enum StatementPlan {
    Query(QueryPlan),
    Insert(Box<InsertPlan>),
    Update(Box<UpdatePlan>),
    Delete(Box<DeletePlan>),
    /// Lines of text that were known when the statement was analyzed.
    Explain(Vec<String>),
    /// Runs from the syntax tree.
    Utility,
}

/// What of a session the analysis of its statements depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PlanSettings {
    pub(crate) database: String,
    pub(crate) search_path: String,
    /// Constants are computed once, and the text forms of some depend on the zone and the digits.
    pub(crate) zone: String,
    pub(crate) extra_float_digits: i32,
}

/// A plan and what it holds for.
#[derive(Clone, Debug)]
pub(crate) struct CachedPlan {
    /// Version of the catalog.
    pub(crate) version: u64,
    pub(crate) settings: Arc<PlanSettings>,
    pub(crate) statement: StatementPlan,
}

impl Scan {
    /// The key of the only row that is read; none when the scan is no look-up of a key, or has a
    /// LIMIT that would have to be looked at.
    pub(crate) fn point(&self, ctx: &EvalCtx<'_>) -> Result<Option<Point>> {
        match self.limit {
            None => self.constraint.point(&self.table, ctx),
            Some(_) => Ok(None),
        }
    }
}

impl Plan {
    /// A single row without columns.
    pub(crate) fn one_row() -> Self {
        Self::Values(vec![Vec::new()])
    }

    pub(crate) fn filter(self, predicate: Option<Expr>) -> Self {
        match predicate {
            None => self,
            Some(predicate) => Self::Filter { input: Box::new(self), predicate },
        }
    }
}

/// Assignment of a column's type to an expression.
pub(crate) fn cast_expr(expr: Expr, from: SqlType, to: TypeSpec, explicit: bool) -> Expr {
    if from == to.ty && to.typmod < 0 {
        return expr;
    }
    Expr::Cast { expr: Box::new(expr), from, to, explicit }
}
