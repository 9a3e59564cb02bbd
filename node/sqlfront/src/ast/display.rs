//! SQL text of expressions and queries: every compound operand stands in parentheses, so the text
//! needs no knowledge of precedence to be read back.

use std::fmt::{self, Display, Formatter, Write as _};

use super::{
    BinaryOp, ColumnRef, Distinct, Expr, FunctionArgs, FunctionCall, Ident, IsTest, Join,
    JoinConstraint, JoinKind, LikeKind, Literal, LockStrength, LockWait, Locking, ObjectName,
    OrderBy, Quantifier, Query, QueryBody, Select, SelectItem, SetOp, Subscript, TableAlias,
    TableExpr, TypeModifiers, TypeName, UnaryOp, WindowClause, WindowSpec,
};
use crate::convert::is_reserved;

/// Writes members with a separator between them.
pub(super) fn list<T: Display>(
    f: &mut Formatter<'_>,
    items: impl IntoIterator<Item = T>,
) -> fmt::Result {
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            f.write_str(", ")?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

impl Display for Ident {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut chars = self.value.chars();
        let plain = chars.next().is_some_and(|first| first.is_ascii_lowercase() || first == '_')
            && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && !is_reserved(&self.value);
        if plain && !(self.quoted && self.value == "char") {
            return f.write_str(&self.value);
        }
        write!(f, "\"{}\"", self.value.replace('"', "\"\""))
    }
}

fn dotted(f: &mut Formatter<'_>, parts: &[Ident]) -> fmt::Result {
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            f.write_char('.')?;
        }
        part.fmt(f)?;
    }
    Ok(())
}

impl Display for ObjectName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        dotted(f, &self.parts)
    }
}

impl Display for ColumnRef {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        dotted(f, &self.parts)
    }
}

impl Display for Literal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Literal::Null => f.write_str("NULL"),
            Literal::Bool(true) => f.write_str("true"),
            Literal::Bool(false) => f.write_str("false"),
            Literal::Number(text) => f.write_str(text),
            Literal::String(text) => string(f, text),
            Literal::Bytes(bytes) => {
                f.write_str("x'")?;
                for byte in bytes {
                    write!(f, "{byte:02x}")?;
                }
                f.write_char('\'')
            }
            Literal::BitString(digits) => write!(f, "B'{digits}'"),
        }
    }
}

/// Writes a string constant; control characters need the escaping form.
fn string(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    if !text.chars().any(char::is_control) {
        return write!(f, "'{}'", text.replace('\'', "''"));
    }
    f.write_str("e'")?;
    for character in text.chars() {
        match character {
            '\'' => f.write_str("\\'")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            control if control.is_control() => write!(f, "\\u{:04X}", u32::from(control))?,
            other => f.write_char(other)?,
        }
    }
    f.write_char('\'')
}

impl Display for TypeName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)?;
        match &self.modifiers {
            TypeModifiers::None => {}
            TypeModifiers::Length(length) => write!(f, "({length})")?,
            TypeModifiers::Precision(precision, None) => write!(f, "({precision})")?,
            TypeModifiers::Precision(precision, Some(scale)) => write!(f, "({precision},{scale})")?,
            TypeModifiers::FractionalSeconds(digits) => write!(f, "({digits})")?,
            TypeModifiers::IntervalFields(fields, None) => write!(f, " {fields}")?,
            TypeModifiers::IntervalFields(fields, Some(digits)) => {
                write!(f, " {fields}({digits})")?
            }
        }
        for _ in 0..self.array_depth {
            f.write_str("[]")?;
        }
        Ok(())
    }
}

/// An operand: in parentheses unless it is read as one piece anyway.
struct Operand<'a>(&'a Expr);

impl Display for Operand<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Expr::Literal(..)
            | Expr::Column(_)
            | Expr::Placeholder(..)
            | Expr::Default(_)
            | Expr::Case { .. }
            | Expr::Function(_)
            | Expr::Subquery(..)
            | Expr::Exists { negated: false, .. }
            | Expr::Array(..)
            | Expr::ArraySubquery(..)
            | Expr::Row(..)
            | Expr::Subscript { .. }
            | Expr::Cast { .. } => self.0.fmt(f),
            other => write!(f, "({other})"),
        }
    }
}

fn not(negated: bool) -> &'static str {
    if negated { "NOT " } else { "" }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Literal(literal, _) => literal.fmt(f),
            Expr::Column(column) => column.fmt(f),
            Expr::Placeholder(number, _) => write!(f, "${number}"),
            Expr::Default(_) => f.write_str("DEFAULT"),
            Expr::Unary { op, expr, .. } => write!(f, "{op}{}", Operand(expr)),
            Expr::Binary { left, op, right, .. } => {
                write!(f, "{} {op} {}", Operand(left), Operand(right))
            }
            Expr::Is { expr, test, negated } => {
                let test = match test {
                    IsTest::Null => "NULL",
                    IsTest::True => "TRUE",
                    IsTest::False => "FALSE",
                    IsTest::Unknown => "UNKNOWN",
                };
                write!(f, "{} IS {}{test}", Operand(expr), not(*negated))
            }
            Expr::IsDistinctFrom { left, right, negated, .. } => {
                let (left, right) = (Operand(left), Operand(right));
                write!(f, "{left} IS {}DISTINCT FROM {right}", not(*negated))
            }
            Expr::InList { expr, list: items, negated, .. } => {
                write!(f, "{} {}IN (", Operand(expr), not(*negated))?;
                list(f, items)?;
                f.write_char(')')
            }
            Expr::InSubquery { expr, query, negated, .. } => {
                write!(f, "{} {}IN ({query})", Operand(expr), not(*negated))
            }
            Expr::Between { expr, low, high, negated, .. } => {
                let (low, high) = (Operand(low), Operand(high));
                write!(f, "{} {}BETWEEN {low} AND {high}", Operand(expr), not(*negated))
            }
            Expr::Like { expr, pattern, kind, escape, negated, .. } => {
                let kind = match kind {
                    LikeKind::Like => "LIKE",
                    LikeKind::ILike => "ILIKE",
                    LikeKind::SimilarTo => "SIMILAR TO",
                };
                write!(f, "{} {}{kind} {}", Operand(expr), not(*negated), Operand(pattern))?;
                match escape {
                    None => Ok(()),
                    Some(escape) => write!(f, " ESCAPE {}", Operand(escape)),
                }
            }
            other => other.fmt_rarer(f),
        }
    }
}

impl Expr {
    fn fmt_rarer(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Quantified(quantified) => {
                let word = if quantified.all { "ALL" } else { "ANY" };
                write!(f, "{} {} {word} (", Operand(&quantified.left), quantified.op)?;
                match &quantified.over {
                    Quantifier::Array(array) => write!(f, "{array})"),
                    Quantifier::Query(query) => write!(f, "{query})"),
                }
            }
            Expr::Case { operand, branches, otherwise, .. } => {
                f.write_str("CASE")?;
                if let Some(operand) = operand {
                    write!(f, " {}", Operand(operand))?;
                }
                for branch in branches {
                    write!(f, " WHEN {} THEN {}", branch.when, branch.then)?;
                }
                if let Some(otherwise) = otherwise {
                    write!(f, " ELSE {otherwise}")?;
                }
                f.write_str(" END")
            }
            Expr::Cast { expr, ty, .. } => match expr.as_ref() {
                // A signed number would read as the sign of the cast.
                Expr::Literal(..) | Expr::Column(_) | Expr::Placeholder(..) => {
                    write!(f, "{expr}::{ty}")
                }
                expr => write!(f, "CAST({expr} AS {ty})"),
            },
            Expr::Collate { expr, collation, .. } => {
                write!(f, "{} COLLATE {collation}", Operand(expr))
            }
            Expr::AtTimeZone { expr, zone, .. } => {
                write!(f, "{} AT TIME ZONE {}", Operand(expr), Operand(zone))
            }
            Expr::Function(call) => call.fmt(f),
            Expr::Subquery(query, _) => write!(f, "({query})"),
            Expr::Exists { query, negated, .. } => write!(f, "{}EXISTS ({query})", not(*negated)),
            Expr::Array(items, _) => {
                f.write_str("ARRAY[")?;
                list(f, items)?;
                f.write_char(']')
            }
            Expr::ArraySubquery(query, _) => write!(f, "ARRAY({query})"),
            Expr::Row(items, _) => {
                f.write_str("ROW(")?;
                list(f, items)?;
                f.write_char(')')
            }
            Expr::Subscript { expr, subscript } => {
                match expr.as_ref() {
                    Expr::Column(column) => column.fmt(f)?,
                    other => write!(f, "({other})")?,
                }
                match subscript.as_ref() {
                    Subscript::Index(index) => write!(f, "[{index}]"),
                    Subscript::Slice(from, to) => {
                        f.write_char('[')?;
                        if let Some(from) = from {
                            from.fmt(f)?;
                        }
                        f.write_char(':')?;
                        if let Some(to) = to {
                            to.fmt(f)?;
                        }
                        f.write_char(']')
                    }
                }
            }
            Expr::Field { expr, field } => write!(f, "({expr}).{field}"),
            _ => Ok(()),
        }
    }
}

impl Display for UnaryOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UnaryOp::Not => "NOT ",
            UnaryOp::Minus => "-",
            UnaryOp::Plus => "+",
            UnaryOp::BitNot => "~",
            UnaryOp::SquareRoot => "|/ ",
            UnaryOp::CubeRoot => "||/ ",
            UnaryOp::Abs => "@ ",
        })
    }
}

impl Display for BinaryOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Display for FunctionCall {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        if self.bare {
            // Written without parentheses the word is a keyword, and must not be quoted.
            return f.write_str(&name.last().value);
        }
        match name.parts.as_slice() {
            // Some functions are reserved words that may only be called.
            [only] if !only.quoted => f.write_str(&only.value)?,
            _ => name.fmt(f)?,
        }
        match &self.args {
            FunctionArgs::Star => f.write_str("(*")?,
            FunctionArgs::List(items) => {
                f.write_str(if self.distinct { "(DISTINCT " } else { "(" })?;
                list(f, items)?;
            }
        }
        if !self.order_by.is_empty() {
            f.write_str(" ORDER BY ")?;
            list(f, &self.order_by)?;
        }
        f.write_char(')')?;
        if !self.within_group.is_empty() {
            f.write_str(" WITHIN GROUP (ORDER BY ")?;
            list(f, &self.within_group)?;
            f.write_char(')')?;
        }
        if let Some(filter) = &self.filter {
            write!(f, " FILTER (WHERE {filter})")?;
        }
        match &self.over {
            None => Ok(()),
            Some(WindowClause::Named(name)) => write!(f, " OVER {name}"),
            Some(WindowClause::Spec(spec)) => write!(f, " OVER ({spec})"),
        }
    }
}

impl Display for WindowSpec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        if let Some(base) = &self.base {
            write!(f, "{base}")?;
            gap = " ";
        }
        if !self.partition_by.is_empty() {
            write!(f, "{gap}PARTITION BY ")?;
            list(f, &self.partition_by)?;
            gap = " ";
        }
        if !self.order_by.is_empty() {
            write!(f, "{gap}ORDER BY ")?;
            list(f, &self.order_by)?;
            gap = " ";
        }
        match &self.frame {
            None => Ok(()),
            Some(frame) => write!(f, "{gap}{frame}"),
        }
    }
}

impl Display for OrderBy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)?;
        if self.descending {
            f.write_str(" DESC")?;
        }
        f.write_str(match self.nulls_first {
            None => "",
            Some(true) => " NULLS FIRST",
            Some(false) => " NULLS LAST",
        })
    }
}

impl Display for Query {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(with) = &self.with {
            write!(f, "{with} ")?;
        }
        self.body.fmt(f)?;
        if !self.order_by.is_empty() {
            f.write_str(" ORDER BY ")?;
            list(f, &self.order_by)?;
        }
        if let Some(limit) = &self.limit {
            write!(f, " LIMIT {limit}")?;
        }
        if let Some(offset) = &self.offset {
            write!(f, " OFFSET {offset}")?;
        }
        for clause in &self.locking {
            write!(f, " {clause}")?;
        }
        match &self.as_of {
            None => Ok(()),
            Some(as_of) => write!(f, " AS OF SYSTEM TIME {as_of}"),
        }
    }
}

impl Display for Locking {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self.strength {
            LockStrength::KeyShare => "FOR KEY SHARE",
            LockStrength::Share => "FOR SHARE",
            LockStrength::NoKeyUpdate => "FOR NO KEY UPDATE",
            LockStrength::Update => "FOR UPDATE",
        })?;
        if !self.of.is_empty() {
            f.write_str(" OF ")?;
            list(f, &self.of)?;
        }
        f.write_str(match self.wait {
            LockWait::Block => "",
            LockWait::NoWait => " NOWAIT",
            LockWait::SkipLocked => " SKIP LOCKED",
        })
    }
}

impl Display for QueryBody {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            QueryBody::Select(select) => select.fmt(f),
            QueryBody::Query(query) => write!(f, "({query})"),
            QueryBody::SetOp { op, all, left, right, .. } => {
                let op = match op {
                    SetOp::Union => "UNION",
                    SetOp::Intersect => "INTERSECT",
                    SetOp::Except => "EXCEPT",
                };
                let all = if *all { " ALL" } else { "" };
                match right.as_ref() {
                    QueryBody::SetOp { .. } => write!(f, "{left} {op}{all} ({right})"),
                    right => write!(f, "{left} {op}{all} {right}"),
                }
            }
            QueryBody::Values(values) => {
                f.write_str("VALUES ")?;
                for (at, row) in values.rows.iter().enumerate() {
                    f.write_str(if at > 0 { ", (" } else { "(" })?;
                    list(f, row)?;
                    f.write_char(')')?;
                }
                Ok(())
            }
        }
    }
}

impl Display for Select {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("SELECT")?;
        match &self.distinct {
            Distinct::All => {}
            Distinct::Distinct => f.write_str(" DISTINCT")?,
            Distinct::On(keys) => {
                f.write_str(" DISTINCT ON (")?;
                list(f, keys)?;
                f.write_char(')')?;
            }
        }
        if !self.items.is_empty() {
            f.write_char(' ')?;
            list(f, &self.items)?;
        }
        if !self.from.is_empty() {
            f.write_str(" FROM ")?;
            list(f, &self.from)?;
        }
        if let Some(filter) = &self.filter {
            write!(f, " WHERE {filter}")?;
        }
        if !self.group_by.is_empty() {
            f.write_str(" GROUP BY ")?;
            list(f, &self.group_by)?;
        }
        if let Some(having) = &self.having {
            write!(f, " HAVING {having}")?;
        }
        for (at, (name, spec)) in self.windows.iter().enumerate() {
            write!(f, "{} {name} AS ({spec})", if at > 0 { "," } else { " WINDOW" })?;
        }
        Ok(())
    }
}

impl Display for SelectItem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            SelectItem::Expr { expr, alias: None } => expr.fmt(f),
            SelectItem::Expr { expr, alias: Some(alias) } => write!(f, "{expr} AS {alias}"),
            SelectItem::Wildcard(_) => f.write_char('*'),
            SelectItem::QualifiedWildcard(name) => write!(f, "{name}.*"),
            SelectItem::ExprWildcard(expr) => write!(f, "({expr}).*"),
        }
    }
}

impl Display for TableAlias {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)?;
        if self.columns.is_empty() {
            return Ok(());
        }
        f.write_str(" (")?;
        list(f, &self.columns)?;
        f.write_char(')')
    }
}

fn aliased(f: &mut Formatter<'_>, ordinality: bool, alias: Option<&TableAlias>) -> fmt::Result {
    if ordinality {
        f.write_str(" WITH ORDINALITY")?;
    }
    match alias {
        None => Ok(()),
        Some(alias) => write!(f, " AS {alias}"),
    }
}

impl Display for TableExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            TableExpr::Table(table) => table.fmt(f),
            TableExpr::Subquery { query, alias, lateral, ordinality, .. } => {
                write!(f, "{}({query})", if *lateral { "LATERAL " } else { "" })?;
                aliased(f, *ordinality, alias.as_ref())
            }
            TableExpr::Function(function) => {
                let lateral = if function.lateral { "LATERAL " } else { "" };
                write!(f, "{lateral}{}", function.call)?;
                if function.column_types.is_empty() {
                    return aliased(f, function.ordinality, function.alias.as_ref());
                }
                f.write_str(" AS ")?;
                if let Some(alias) = &function.alias {
                    alias.name.fmt(f)?;
                }
                for (at, (name, ty)) in function.column_types.iter().enumerate() {
                    write!(f, "{}{name} {ty}", if at > 0 { ", " } else { " (" })?;
                }
                f.write_char(')')
            }
            TableExpr::Show(source) => {
                write!(f, "[{}]", source.show)?;
                aliased(f, source.ordinality, source.alias.as_ref())
            }
            TableExpr::Join(join) => write!(f, "({join})"),
        }
    }
}

impl Display for super::TableRef {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)?;
        if let Some(hint) = &self.index_hint {
            write!(f, "@{hint}")?;
        }
        aliased(f, self.ordinality, self.alias.as_ref())
    }
}

impl Display for Join {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            JoinKind::Inner => "JOIN",
            JoinKind::Left => "LEFT JOIN",
            JoinKind::Right => "RIGHT JOIN",
            JoinKind::Full => "FULL JOIN",
            JoinKind::Cross => "CROSS JOIN",
        };
        let (left, right) = (&self.left, &self.right);
        match &self.constraint {
            JoinConstraint::On(on) => write!(f, "{left} {kind} {right} ON {on}"),
            JoinConstraint::Using(columns) => {
                write!(f, "{left} {kind} {right} USING (")?;
                list(f, columns)?;
                f.write_char(')')
            }
            JoinConstraint::Natural => write!(f, "{left} NATURAL {kind} {right}"),
            JoinConstraint::None => write!(f, "{left} {kind} {right}"),
        }
    }
}
