//! Typed scalar expressions and their evaluation.
//!
//! The analyzer builds them: every operand already has the type its operator wants, so evaluation
//! only computes. They read columns of one input row by position, rows of enclosing queries by
//! level, parameters, and the results of subqueries that ran before (slots).

mod eval;
pub(crate) mod like;
mod walk;

use std::sync::Arc;

pub(crate) use eval::{EvalCtx, SlotRows, SlotValue, quantified};

use crate::datum::Datum;
use crate::error::Result;
use crate::func::Builtin;
use crate::func::agg::AggKind;
use crate::plan::{Plan, SortKey};
use crate::types::{SqlType, TypeSpec};

/// One of the six comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CmpOp {
    Eq,
    NotEq,
    Lt,
    LtEq,
    Gt,
    GtEq,
}

impl CmpOp {
    /// Whether an order of the operands satisfies the comparison.
    pub(crate) fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Eq => order.is_eq(),
            Self::NotEq => order.is_ne(),
            Self::Lt => order.is_lt(),
            Self::LtEq => order.is_le(),
            Self::Gt => order.is_gt(),
            Self::GtEq => order.is_ge(),
        }
    }

    /// The comparison with its operands swapped.
    pub(crate) fn swapped(self) -> Self {
        match self {
            Self::Lt => Self::Gt,
            Self::LtEq => Self::GtEq,
            Self::Gt => Self::Lt,
            Self::GtEq => Self::LtEq,
            same => same,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::NotEq => "<>",
            Self::Lt => "<",
            Self::LtEq => "<=",
            Self::Gt => ">",
            Self::GtEq => ">=",
        }
    }
}

/// A strict operator of two operands: NULL in, NULL out.
#[derive(Clone, Copy)]
pub(crate) struct BinaryFn {
    /// Spelling.
    pub(crate) name: &'static str,
    /// Type of the left operand.
    pub(crate) left: SqlType,
    /// Type of the right operand.
    pub(crate) right: SqlType,
    /// Type of the result.
    pub(crate) result: SqlType,
    /// What it computes.
    pub(crate) f: fn(&EvalCtx<'_>, &Datum, &Datum) -> Result<Datum>,
}

impl PartialEq for BinaryFn {
    fn eq(&self, other: &Self) -> bool {
        (self.name, self.left, self.right) == (other.name, other.left, other.right)
    }
}

impl std::fmt::Debug for BinaryFn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A reference to a function of the library; equal when it is the same entry.
#[derive(Clone, Copy)]
pub(crate) struct FuncRef(pub(crate) &'static Builtin);

impl PartialEq for FuncRef {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl std::fmt::Debug for FuncRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name)
    }
}

/// A call of an aggregate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AggCall {
    pub(crate) kind: AggKind,
    /// Arguments; empty for `count(*)`.
    pub(crate) args: Vec<Expr>,
    /// Type of the first argument.
    pub(crate) arg_type: SqlType,
    pub(crate) result: SqlType,
    pub(crate) distinct: bool,
    pub(crate) filter: Option<Expr>,
    pub(crate) order_by: Vec<SortKey>,
}

/// A function that yields rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SrfKind {
    /// `generate_series` of integers.
    Series,
    /// `generate_series` of decimals.
    SeriesNumeric,
    /// `generate_series` of timestamps by an interval.
    SeriesTimestamp,
    /// The same of instants.
    SeriesTimestampTz,
    /// `unnest`.
    Unnest,
    /// `generate_subscripts`.
    Subscripts,
    /// `regexp_split_to_table`.
    RegexpSplit,
    /// `jsonb_array_elements`.
    JsonElements,
    /// `jsonb_array_elements_text`.
    JsonElementsText,
    /// `jsonb_object_keys`.
    JsonKeys,
}

/// What a subquery in an expression yields.
#[derive(Clone, Debug)]
pub(crate) enum SubqueryKind {
    /// The value of its only column in its only row.
    Scalar,
    /// Whether it has a row.
    Exists,
    /// Its only column as an array over a type.
    Array(SqlType),
    /// `left op ANY (..)` or ALL; `columns` left operands for a row.
    Quantified { left: Vec<Expr>, op: CmpOp, all: bool },
}

/// A subquery in an expression, until the planner takes it out.
#[derive(Clone, Debug)]
pub(crate) struct SubqueryExpr {
    pub(crate) kind: SubqueryKind,
    pub(crate) plan: Arc<Plan>,
    /// Whether it reads rows of an enclosing query.
    pub(crate) correlated: bool,
    /// Columns of the directly enclosing query that it reads.
    pub(crate) outer_columns: Vec<usize>,
}

impl PartialEq for SubqueryExpr {
    fn eq(&self, other: &Self) -> bool {
        // Two subqueries are the same only when they are one.
        Arc::ptr_eq(&self.plan, &other.plan)
    }
}

/// A typed scalar expression.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expr {
    Const(Datum),
    /// A column of the input row.
    Column(usize),
    /// A column of the row of an enclosing query, 1 for the nearest.
    Outer {
        level: usize,
        column: usize,
    },
    Param(usize),
    /// The value of a subquery that ran before.
    Slot(usize),
    Binary(BinaryFn, Box<Expr>, Box<Expr>),
    Compare(CmpOp, Box<Expr>, Box<Expr>),
    Call(FuncRef, Vec<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    IsNull(Box<Expr>, bool),
    /// `IS [NOT] TRUE` (value true) or FALSE.
    IsBool {
        expr: Box<Expr>,
        value: bool,
        negated: bool,
    },
    /// `IS [NOT] DISTINCT FROM`.
    Distinct {
        left: Box<Expr>,
        right: Box<Expr>,
        negated: bool,
    },
    InList {
        expr: Box<Expr>,
        list: Vec<Expr>,
        negated: bool,
    },
    /// Membership in the rows of a subquery that ran before.
    InSlot {
        left: Vec<Expr>,
        slot: usize,
        op: CmpOp,
        all: bool,
    },
    /// `left op ANY (array)` or ALL.
    Quantified {
        left: Box<Expr>,
        op: CmpOp,
        array: Box<Expr>,
        all: bool,
    },
    Case {
        branches: Vec<(Expr, Expr)>,
        otherwise: Box<Expr>,
    },
    Coalesce(Vec<Expr>),
    Cast {
        expr: Box<Expr>,
        from: SqlType,
        to: TypeSpec,
        explicit: bool,
    },
    Array {
        elem: SqlType,
        items: Vec<Expr>,
    },
    /// `array[index]`.
    Subscript(Box<Expr>, Box<Expr>),
    /// A function that yields rows; before planning only.
    Srf(SrfKind, Vec<Expr>),
    /// Before grouping only.
    Aggregate(Box<AggCall>),
    /// Before planning only.
    Subquery(Box<SubqueryExpr>),
}

/// An expression with its type.
#[derive(Clone, Debug)]
pub(crate) struct Typed {
    pub(crate) expr: Expr,
    pub(crate) spec: TypeSpec,
}

impl Typed {
    pub(crate) fn new(expr: Expr, ty: SqlType) -> Self {
        Self { expr, spec: TypeSpec::plain(ty) }
    }

    pub(crate) fn ty(&self) -> SqlType {
        self.spec.ty
    }
}
