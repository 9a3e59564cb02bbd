//! The syntax tree that the front parser hands to the analyzer.
//!
//! It is ours from end to end: no type of the parsing library shows through, names are already
//! folded to lower case, spellings that mean the same (`::`, `CAST`, typed literals, `SUBSTRING(a
//! FROM b)` and `substring(a, b)`) have become one node, and statements outside the product's
//! present range are [`Statement::Unsupported`] with the feature's name.
//!
//! What it is not: nothing here is resolved or typed; a name is only a name.
//!
//! Invariants:
//! 1. [`Pos`] counts characters from the start of the whole submitted string, from 1, which is what
//!    the `P` field of an error wants; 0 means unknown.
//! 2. The tree's depth is bounded by [`crate::MAX_DEPTH`], chains of `AND` and of `OR` are balanced,
//!    so recursive passes over it are safe on an ordinary thread stack.
//! 3. `Display` of an expression is SQL that parses to the same expression.

mod admin;
mod display;
mod display_statement;
mod expr;
mod name;
mod query;
mod show;
mod statement;

pub use admin::{
    AddPrimaryKey, Cancel, CancelIds, CancelWhat, Copy, CopyFormat, CopyOptions, CopyWhat,
    RangeNumbers, RelocateLease, SplitAt, TableOrIndex, UnsplitAt,
};
pub use expr::{
    BinaryOp, CaseBranch, Expr, FunctionArgs, FunctionCall, IsTest, LikeKind, Literal, Quantified,
    Quantifier, Subscript, TypeModifiers, TypeName, UnaryOp, WindowClause, WindowSpec,
};
pub use name::{ColumnRef, Ident, ObjectName, Pos};
pub use query::{
    Cte, Distinct, Join, JoinConstraint, JoinKind, LockStrength, LockWait, Locking, OrderBy, Query,
    QueryBody, Select, SelectItem, SetOp, ShowSource, TableAlias, TableExpr, TableFunction,
    TableRef, Values, With,
};
pub use show::{Activity, RangesOf, Show};
pub use statement::{
    Assignment, AssignmentTarget, BeginMode, ColumnDef, ConflictTarget, CreateDatabase,
    CreateTable, Delete, DiscardTarget, DropBehavior, DropDatabase, DropTable, Explain, ForeignKey,
    IndexColumn, Insert, InsertSource, IsolationLevel, Maintenance, OnConflict, SetScope, SetValue,
    Statement, TableConstraint, TransactionModes, Truncate, Unsupported, Update,
};
