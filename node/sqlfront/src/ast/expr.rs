//! Scalar expressions.

use super::{ColumnRef, ObjectName, OrderBy, Pos, Query};

/// A scalar expression.
#[derive(Clone, Debug)]
pub enum Expr {
    /// A constant.
    Literal(Literal, Pos),
    /// A column, perhaps qualified.
    Column(ColumnRef),
    /// `$n`, numbered from 1.
    Placeholder(u16, Pos),
    /// The word `DEFAULT` where a value is expected (INSERT rows, SET of an UPDATE).
    Default(Pos),
    /// A prefix operator.
    Unary {
        /// The operator.
        op: UnaryOp,
        /// Its operand.
        expr: Box<Expr>,
        /// Where the expression starts.
        pos: Pos,
    },
    /// An infix operator, `AND` and `OR` included.
    Binary {
        /// The left operand.
        left: Box<Expr>,
        /// The operator.
        op: BinaryOp,
        /// The right operand.
        right: Box<Expr>,
        /// Where the operator stands.
        pos: Pos,
    },
    /// `expr IS [NOT] NULL | TRUE | FALSE | UNKNOWN`.
    Is {
        /// The tested expression.
        expr: Box<Expr>,
        /// What it is tested for.
        test: IsTest,
        /// Whether `NOT` was written.
        negated: bool,
    },
    /// `left IS [NOT] DISTINCT FROM right`.
    IsDistinctFrom {
        /// The left operand.
        left: Box<Expr>,
        /// The right operand.
        right: Box<Expr>,
        /// Whether `NOT` was written.
        negated: bool,
        /// Where the expression starts.
        pos: Pos,
    },
    /// `expr [NOT] IN (a, b, ...)`.
    InList {
        /// The tested expression.
        expr: Box<Expr>,
        /// The list, never empty.
        list: Vec<Expr>,
        /// Whether `NOT` was written.
        negated: bool,
        /// Where the expression starts.
        pos: Pos,
    },
    /// `expr [NOT] IN (SELECT ...)`.
    InSubquery {
        /// The tested expression.
        expr: Box<Expr>,
        /// The subquery.
        query: Box<Query>,
        /// Whether `NOT` was written.
        negated: bool,
        /// Where the expression starts.
        pos: Pos,
    },
    /// `expr [NOT] BETWEEN low AND high`.
    Between {
        /// The tested expression.
        expr: Box<Expr>,
        /// The lower bound.
        low: Box<Expr>,
        /// The upper bound.
        high: Box<Expr>,
        /// Whether `NOT` was written.
        negated: bool,
        /// Where the expression starts.
        pos: Pos,
    },
    /// `expr [NOT] LIKE | ILIKE | SIMILAR TO pattern [ESCAPE e]`.
    Like {
        /// The matched expression.
        expr: Box<Expr>,
        /// The pattern.
        pattern: Box<Expr>,
        /// Which matcher.
        kind: LikeKind,
        /// The escape clause.
        escape: Option<Box<Expr>>,
        /// Whether `NOT` was written.
        negated: bool,
        /// Where the expression starts.
        pos: Pos,
    },
    /// `left op ANY | ALL (array or subquery)`.
    Quantified(Box<Quantified>),
    /// `CASE ... END`.
    Case {
        /// The operand of the short form.
        operand: Option<Box<Expr>>,
        /// The `WHEN ... THEN ...` arms, never empty.
        branches: Vec<CaseBranch>,
        /// The `ELSE` arm.
        otherwise: Option<Box<Expr>>,
        /// Where `CASE` stands.
        pos: Pos,
    },
    /// `CAST(expr AS ty)`, `expr::ty`, `expr:::ty`, and typed literals such as `DATE '2024-01-01'`.
    Cast {
        /// The converted expression.
        expr: Box<Expr>,
        /// The target type.
        ty: TypeName,
        /// Where the expression starts.
        pos: Pos,
    },
    /// `expr COLLATE name`.
    Collate {
        /// The expression.
        expr: Box<Expr>,
        /// The collation.
        collation: ObjectName,
        /// Where the expression starts.
        pos: Pos,
    },
    /// `expr AT TIME ZONE zone`.
    AtTimeZone {
        /// The time stamp.
        expr: Box<Expr>,
        /// The zone.
        zone: Box<Expr>,
        /// Where the expression starts.
        pos: Pos,
    },
    /// A function call; also `EXTRACT`, `SUBSTRING`, `TRIM`, `POSITION`, `OVERLAY`, `COALESCE`,
    /// `CURRENT_TIMESTAMP` and their like, as calls with plain arguments.
    Function(Box<FunctionCall>),
    /// `(SELECT ...)` as a value.
    Subquery(Box<Query>, Pos),
    /// `[NOT] EXISTS (SELECT ...)`.
    Exists {
        /// The subquery.
        query: Box<Query>,
        /// Whether `NOT` was written.
        negated: bool,
        /// Where the expression starts.
        pos: Pos,
    },
    /// `ARRAY[a, b, ...]`.
    Array(Vec<Expr>, Pos),
    /// `ARRAY(SELECT ...)`.
    ArraySubquery(Box<Query>, Pos),
    /// `(a, b, ...)` or `ROW(a, ...)`.
    Row(Vec<Expr>, Pos),
    /// `expr[i]` or `expr[i:j]`.
    Subscript {
        /// The array (or JSON) expression.
        expr: Box<Expr>,
        /// What is taken from it.
        subscript: Box<Subscript>,
    },
    /// `(expr).field`.
    Field {
        /// The composite expression.
        expr: Box<Expr>,
        /// The field's name.
        field: super::Ident,
    },
}

impl Expr {
    /// Returns where the expression starts, as far as is known.
    pub fn pos(&self) -> Pos {
        match self {
            Expr::Literal(_, pos)
            | Expr::Placeholder(_, pos)
            | Expr::Default(pos)
            | Expr::Unary { pos, .. }
            | Expr::Binary { pos, .. }
            | Expr::IsDistinctFrom { pos, .. }
            | Expr::InList { pos, .. }
            | Expr::InSubquery { pos, .. }
            | Expr::Between { pos, .. }
            | Expr::Like { pos, .. }
            | Expr::Case { pos, .. }
            | Expr::Cast { pos, .. }
            | Expr::Collate { pos, .. }
            | Expr::AtTimeZone { pos, .. }
            | Expr::Subquery(_, pos)
            | Expr::Exists { pos, .. }
            | Expr::Array(_, pos)
            | Expr::ArraySubquery(_, pos)
            | Expr::Row(_, pos) => *pos,
            Expr::Column(column) => column.pos(),
            Expr::Function(call) => call.name.pos(),
            Expr::Quantified(quantified) => quantified.pos,
            Expr::Is { expr, .. } | Expr::Subscript { expr, .. } | Expr::Field { expr, .. } => {
                expr.pos()
            }
        }
    }
}

/// A constant as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Literal {
    /// `NULL`.
    Null,
    /// `TRUE` or `FALSE`.
    Bool(bool),
    /// A number without sign, as written: `1`, `1.50`, `1e-7`.
    Number(String),
    /// A string, escapes resolved; its type is still unknown.
    String(String),
    /// `b'...'` or `x'...'`: bytes.
    Bytes(Vec<u8>),
    /// `B'0101'`: bits.
    BitString(String),
}

/// A prefix operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOp {
    /// `NOT`.
    Not,
    /// `-`.
    Minus,
    /// `+`.
    Plus,
    /// `~`.
    BitNot,
    /// `|/`.
    SquareRoot,
    /// `||/`.
    CubeRoot,
    /// `@`.
    Abs,
}

/// An infix operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant's SQL spelling is given by as_str")]
pub enum BinaryOp {
    And,
    Or,
    Eq,
    NotEq,
    Lt,
    LtEq,
    Gt,
    GtEq,
    Plus,
    Minus,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
    Concat,
    BitAnd,
    BitOr,
    BitXor,
    ShiftLeft,
    ShiftRight,
    RegexMatch,
    RegexIMatch,
    RegexNotMatch,
    RegexNotIMatch,
    JsonGet,
    JsonGetText,
    JsonGetPath,
    JsonGetPathText,
    Contains,
    ContainedBy,
    Overlaps,
    /// Any other operator, by its spelling.
    Other(String),
}

impl BinaryOp {
    /// Returns the operator as SQL spells it.
    pub fn as_str(&self) -> &str {
        match self {
            BinaryOp::And => "AND",
            BinaryOp::Or => "OR",
            BinaryOp::Eq => "=",
            BinaryOp::NotEq => "<>",
            BinaryOp::Lt => "<",
            BinaryOp::LtEq => "<=",
            BinaryOp::Gt => ">",
            BinaryOp::GtEq => ">=",
            BinaryOp::Plus => "+",
            BinaryOp::Minus => "-",
            BinaryOp::Multiply => "*",
            BinaryOp::Divide => "/",
            BinaryOp::FloorDivide => "//",
            BinaryOp::Modulo => "%",
            BinaryOp::Power => "^",
            BinaryOp::Concat => "||",
            BinaryOp::BitAnd => "&",
            BinaryOp::BitOr => "|",
            BinaryOp::BitXor => "#",
            BinaryOp::ShiftLeft => "<<",
            BinaryOp::ShiftRight => ">>",
            BinaryOp::RegexMatch => "~",
            BinaryOp::RegexIMatch => "~*",
            BinaryOp::RegexNotMatch => "!~",
            BinaryOp::RegexNotIMatch => "!~*",
            BinaryOp::JsonGet => "->",
            BinaryOp::JsonGetText => "->>",
            BinaryOp::JsonGetPath => "#>",
            BinaryOp::JsonGetPathText => "#>>",
            BinaryOp::Contains => "@>",
            BinaryOp::ContainedBy => "<@",
            BinaryOp::Overlaps => "&&",
            BinaryOp::Other(spelling) => spelling,
        }
    }

    /// Whether this is one of the six comparisons.
    pub fn is_comparison(&self) -> bool {
        matches!(
            self,
            BinaryOp::Eq
                | BinaryOp::NotEq
                | BinaryOp::Lt
                | BinaryOp::LtEq
                | BinaryOp::Gt
                | BinaryOp::GtEq
        )
    }
}

/// What `IS` tests for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsTest {
    /// `IS NULL`.
    Null,
    /// `IS TRUE`.
    True,
    /// `IS FALSE`.
    False,
    /// `IS UNKNOWN`.
    Unknown,
}

/// Which pattern matcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LikeKind {
    /// `LIKE`.
    Like,
    /// `ILIKE`.
    ILike,
    /// `SIMILAR TO`.
    SimilarTo,
}

/// One arm of a `CASE`.
#[derive(Clone, Debug)]
pub struct CaseBranch {
    /// After `WHEN`.
    pub when: Expr,
    /// After `THEN`.
    pub then: Expr,
}

/// A comparison with `ANY`/`SOME` or `ALL`.
#[derive(Clone, Debug)]
pub struct Quantified {
    /// The left operand.
    pub left: Expr,
    /// The operator.
    pub op: BinaryOp,
    /// Which quantifier, and over what.
    pub over: Quantifier,
    /// `true` for ALL, `false` for ANY and SOME.
    pub all: bool,
    /// Where the expression starts.
    pub pos: Pos,
}

/// What a quantified comparison ranges over.
#[derive(Clone, Debug)]
pub enum Quantifier {
    /// An array expression.
    Array(Expr),
    /// The rows of a subquery.
    Query(Box<Query>),
}

/// A subscript.
#[derive(Clone, Debug)]
pub enum Subscript {
    /// `[i]`.
    Index(Expr),
    /// `[i:j]`, either end open.
    Slice(Option<Expr>, Option<Expr>),
}

/// A function call.
#[derive(Clone, Debug)]
pub struct FunctionCall {
    /// The function's name.
    pub name: ObjectName,
    /// Its arguments.
    pub args: FunctionArgs,
    /// Whether `DISTINCT` stands before the arguments.
    pub distinct: bool,
    /// `ORDER BY` inside the parentheses.
    pub order_by: Vec<OrderBy>,
    /// `WITHIN GROUP (ORDER BY ...)`.
    pub within_group: Vec<OrderBy>,
    /// `FILTER (WHERE ...)`.
    pub filter: Option<Expr>,
    /// `OVER ...`: makes it a window function.
    pub over: Option<WindowClause>,
    /// Whether the call was written without parentheses, as `CURRENT_DATE` is.
    pub bare: bool,
}

/// The arguments of a call.
#[derive(Clone, Debug)]
pub enum FunctionArgs {
    /// `f(*)`.
    Star,
    /// `f(a, b)`.
    List(Vec<Expr>),
}

/// The window of a window function.
#[derive(Clone, Debug)]
pub enum WindowClause {
    /// `OVER w`.
    Named(super::Ident),
    /// `OVER (...)`.
    Spec(WindowSpec),
}

/// `(PARTITION BY ... ORDER BY ... frame)`.
#[derive(Clone, Debug)]
pub struct WindowSpec {
    /// The window it refines.
    pub base: Option<super::Ident>,
    /// The partitioning expressions.
    pub partition_by: Vec<Expr>,
    /// The order inside a partition.
    pub order_by: Vec<OrderBy>,
    /// The frame clause, as written.
    pub frame: Option<String>,
}

/// A type as written: `VARCHAR(20)`, `NUMERIC(10,2)`, `INT8[]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeName {
    /// The canonical lower-case name (`int8`, `text`, `timestamptz`, `"char"`, ...), or the user's.
    pub name: ObjectName,
    /// Its modifiers.
    pub modifiers: TypeModifiers,
    /// How many `[]` follow.
    pub array_depth: u8,
    /// Where the type stands.
    pub pos: Pos,
}

/// The modifiers of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeModifiers {
    /// None.
    None,
    /// A length: `varchar(20)`, `char(1)`, `bit(3)`.
    Length(u64),
    /// `numeric(p)` or `numeric(p, s)`.
    Precision(u64, Option<i64>),
    /// Fractional digits of a time type: `timestamp(3)`.
    FractionalSeconds(u64),
    /// `interval year to month`, with optional fractional digits of the seconds.
    IntervalFields(String, Option<u64>),
}
