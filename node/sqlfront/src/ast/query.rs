//! Queries: SELECT, VALUES, set operations and what stands in FROM.

use super::{Expr, FunctionCall, Ident, ObjectName, Pos, TypeName, WindowSpec};

/// A query with its outer clauses.
#[derive(Clone, Debug)]
pub struct Query {
    /// `WITH ...`.
    pub with: Option<With>,
    /// What produces the rows.
    pub body: QueryBody,
    /// `ORDER BY`.
    pub order_by: Vec<OrderBy>,
    /// `LIMIT` or `FETCH FIRST`.
    pub limit: Option<Expr>,
    /// `OFFSET`.
    pub offset: Option<Expr>,
    /// `FOR UPDATE` and its relatives, in the order written.
    pub locking: Vec<Locking>,
    /// `AS OF SYSTEM TIME expr`.
    pub as_of: Option<Expr>,
    /// Where the query starts.
    pub pos: Pos,
}

/// What produces the rows of a query.
#[derive(Clone, Debug)]
pub enum QueryBody {
    /// `SELECT ...`.
    Select(Box<Select>),
    /// `VALUES ...`.
    Values(Values),
    /// `left UNION | INTERSECT | EXCEPT [ALL] right`.
    SetOp {
        /// The operation.
        op: SetOp,
        /// Whether `ALL` was written.
        all: bool,
        /// The left input.
        left: Box<QueryBody>,
        /// The right input.
        right: Box<QueryBody>,
        /// Where the right input starts.
        pos: Pos,
    },
    /// A parenthesised query with clauses of its own.
    Query(Box<Query>),
}

/// A set operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOp {
    /// `UNION`.
    Union,
    /// `INTERSECT`.
    Intersect,
    /// `EXCEPT`.
    Except,
}

/// `VALUES (..), (..)`.
#[derive(Clone, Debug)]
pub struct Values {
    /// The rows, never empty; the analyzer checks that they have one length.
    pub rows: Vec<Vec<Expr>>,
}

/// `SELECT ... FROM ... WHERE ...`.
#[derive(Clone, Debug)]
pub struct Select {
    /// `DISTINCT`.
    pub distinct: Distinct,
    /// The select list; may be empty as in PostgreSQL.
    pub items: Vec<SelectItem>,
    /// `FROM`, a cross product of its members.
    pub from: Vec<TableExpr>,
    /// `WHERE`.
    pub filter: Option<Expr>,
    /// `GROUP BY`.
    pub group_by: Vec<Expr>,
    /// `HAVING`.
    pub having: Option<Expr>,
    /// `WINDOW w AS (...)`.
    pub windows: Vec<(Ident, WindowSpec)>,
    /// Where `SELECT` stands.
    pub pos: Pos,
}

/// Duplicate elimination of a select list.
#[derive(Clone, Debug)]
pub enum Distinct {
    /// Keep all rows.
    All,
    /// `DISTINCT`.
    Distinct,
    /// `DISTINCT ON (...)`.
    On(Vec<Expr>),
}

/// A member of a select list or of RETURNING.
#[derive(Clone, Debug)]
pub enum SelectItem {
    /// `expr [AS alias]`.
    Expr {
        /// The expression.
        expr: Expr,
        /// Its output name, if given.
        alias: Option<Ident>,
    },
    /// `*`.
    Wildcard(Pos),
    /// `t.*`.
    QualifiedWildcard(ObjectName),
    /// `(expr).*`.
    ExprWildcard(Expr),
}

/// One sort key.
#[derive(Clone, Debug)]
pub struct OrderBy {
    /// The key; a bare number or output name keeps its special meaning for the analyzer.
    pub expr: Expr,
    /// `DESC`.
    pub descending: bool,
    /// `NULLS FIRST` (true) or `NULLS LAST` (false), if written.
    pub nulls_first: Option<bool>,
}

/// `WITH [RECURSIVE] ...`.
#[derive(Clone, Debug)]
pub struct With {
    /// Whether `RECURSIVE` was written.
    pub recursive: bool,
    /// The named queries, in order.
    pub ctes: Vec<Cte>,
    /// Where `WITH` stands.
    pub pos: Pos,
}

/// One named query of a WITH.
#[derive(Clone, Debug)]
pub struct Cte {
    /// Its name and column names.
    pub alias: TableAlias,
    /// `MATERIALIZED` (true) or `NOT MATERIALIZED` (false), if written.
    pub materialized: Option<bool>,
    /// What it is: a query, or an INSERT/UPDATE/DELETE with RETURNING.
    pub statement: Box<super::Statement>,
}

/// A member of FROM.
#[derive(Clone, Debug)]
pub enum TableExpr {
    /// A table, view or CTE by name.
    Table(TableRef),
    /// `(SELECT ...) alias`.
    Subquery {
        /// The query.
        query: Box<Query>,
        /// Its alias.
        alias: Option<TableAlias>,
        /// `LATERAL`.
        lateral: bool,
        /// `WITH ORDINALITY`.
        ordinality: bool,
        /// Where it starts.
        pos: Pos,
    },
    /// `f(...) alias`.
    Function(Box<TableFunction>),
    /// `[SHOW ...] alias`.
    Show(Box<ShowSource>),
    /// `left JOIN right`.
    Join(Box<Join>),
}

/// The rows of a SHOW as a member of FROM.
#[derive(Clone, Debug)]
pub struct ShowSource {
    /// The SHOW.
    pub show: super::Show,
    /// The alias.
    pub alias: Option<TableAlias>,
    /// `WITH ORDINALITY`.
    pub ordinality: bool,
    /// Where it starts.
    pub pos: Pos,
}

/// A table by name.
#[derive(Clone, Debug)]
pub struct TableRef {
    /// The name.
    pub name: ObjectName,
    /// The alias.
    pub alias: Option<TableAlias>,
    /// `@index` or `@{FORCE_INDEX=index}`.
    pub index_hint: Option<Ident>,
    /// `WITH ORDINALITY`.
    pub ordinality: bool,
}

/// A table function.
#[derive(Clone, Debug)]
pub struct TableFunction {
    /// The call.
    pub call: FunctionCall,
    /// Its alias.
    pub alias: Option<TableAlias>,
    /// Column definitions of `f(...) AS t(a int, b text)`.
    pub column_types: Vec<(Ident, TypeName)>,
    /// `LATERAL`, which changes nothing for functions.
    pub lateral: bool,
    /// `WITH ORDINALITY`.
    pub ordinality: bool,
}

/// An alias with optional column names.
#[derive(Clone, Debug)]
pub struct TableAlias {
    /// The name.
    pub name: Ident,
    /// The column names, perhaps fewer than columns.
    pub columns: Vec<Ident>,
}

/// A join.
#[derive(Clone, Debug)]
pub struct Join {
    /// The left input.
    pub left: TableExpr,
    /// The right input.
    pub right: TableExpr,
    /// Which join.
    pub kind: JoinKind,
    /// Its condition.
    pub constraint: JoinConstraint,
    /// Where the right input starts.
    pub pos: Pos,
}

/// Which join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// `[INNER] JOIN`.
    Inner,
    /// `LEFT [OUTER] JOIN`.
    Left,
    /// `RIGHT [OUTER] JOIN`.
    Right,
    /// `FULL [OUTER] JOIN`.
    Full,
    /// `CROSS JOIN`; its constraint is always [`JoinConstraint::None`].
    Cross,
}

/// The condition of a join.
#[derive(Clone, Debug)]
pub enum JoinConstraint {
    /// `ON expr`.
    On(Expr),
    /// `USING (a, b)`.
    Using(Vec<Ident>),
    /// `NATURAL`.
    Natural,
    /// None, as of a cross join.
    None,
}

/// `FOR UPDATE [OF t, ...] [NOWAIT | SKIP LOCKED]` and its relatives.
#[derive(Clone, Debug)]
pub struct Locking {
    /// How strong the locks are.
    pub strength: LockStrength,
    /// The tables of FROM whose rows are locked, by alias; empty for all of them.
    pub of: Vec<ObjectName>,
    /// What to do about a row that somebody else has locked.
    pub wait: LockWait,
    /// Where the clause starts.
    pub pos: Pos,
}

/// What a locking clause does about a row that somebody else has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWait {
    /// Wait for it.
    Block,
    /// `NOWAIT`: fail.
    NoWait,
    /// `SKIP LOCKED`: leave the row out.
    SkipLocked,
}

/// The strength of a locking clause, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockStrength {
    /// `FOR KEY SHARE`.
    KeyShare,
    /// `FOR SHARE`.
    Share,
    /// `FOR NO KEY UPDATE`.
    NoKeyUpdate,
    /// `FOR UPDATE`.
    Update,
}
