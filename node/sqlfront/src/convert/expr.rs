//! Expressions.

use sqlparser::ast as sp;

use super::{Converter, Result, too_deep};
use crate::MAX_DEPTH;
use crate::ast::{
    BinaryOp, CaseBranch, Expr, IsTest, LikeKind, Literal, Pos, Quantified, Quantifier, Subscript,
    UnaryOp,
};

impl Converter<'_> {
    /// Converts an expression.
    pub(crate) fn expr(&mut self, expr: sp::Expr) -> Result<Expr> {
        self.deeper(|this| this.expr_inner(expr))
    }

    fn boxed(&mut self, expr: sp::Expr) -> Result<Box<Expr>> {
        self.expr(expr).map(Box::new)
    }

    /// Converts a list of expressions.
    pub(crate) fn exprs(&mut self, exprs: Vec<sp::Expr>) -> Result<Vec<Expr>> {
        exprs.into_iter().map(|expr| self.expr(expr)).collect()
    }

    /// Converts an optional expression.
    pub(crate) fn opt_expr(&mut self, expr: Option<sp::Expr>) -> Result<Option<Expr>> {
        expr.map(|expr| self.expr(expr)).transpose()
    }

    fn expr_inner(&mut self, expr: sp::Expr) -> Result<Expr> {
        use sp::Expr as E;
        match expr {
            E::Identifier(ident) => self.identifier(ident),
            E::CompoundIdentifier(parts) => Ok(Expr::Column(self.column_ref(parts)?)),
            E::Value(value) => self.value(value),
            E::Nested(inner) => self.expr(*inner),
            E::BinaryOp { left, op, right } => self.binary(*left, op, *right),
            E::UnaryOp { op, expr } => self.unary(op, *expr),
            E::IsNull(expr) => self.is(*expr, IsTest::Null, false),
            E::IsNotNull(expr) => self.is(*expr, IsTest::Null, true),
            E::IsTrue(expr) => self.is(*expr, IsTest::True, false),
            E::IsNotTrue(expr) => self.is(*expr, IsTest::True, true),
            E::IsFalse(expr) => self.is(*expr, IsTest::False, false),
            E::IsNotFalse(expr) => self.is(*expr, IsTest::False, true),
            E::IsUnknown(expr) => self.is(*expr, IsTest::Unknown, false),
            E::IsNotUnknown(expr) => self.is(*expr, IsTest::Unknown, true),
            E::IsDistinctFrom(left, right) => self.is_distinct(*left, *right, false),
            E::IsNotDistinctFrom(left, right) => self.is_distinct(*left, *right, true),
            E::InList { expr, list, negated } => {
                let expr = self.boxed(*expr)?;
                let pos = expr.pos();
                let list = self.exprs(list)?;
                self.absent(list.is_empty(), ")")?;
                Ok(Expr::InList { expr, list, negated, pos })
            }
            E::InSubquery { expr, subquery, negated } => {
                let expr = self.boxed(*expr)?;
                let pos = expr.pos();
                Ok(Expr::InSubquery { expr, query: self.boxed_query(*subquery)?, negated, pos })
            }
            E::Between { expr, negated, low, high } => {
                let expr = self.boxed(*expr)?;
                let pos = expr.pos();
                let (low, high) = (self.boxed(*low)?, self.boxed(*high)?);
                Ok(Expr::Between { expr, low, high, negated, pos })
            }
            E::Like { negated, any: false, expr, pattern, escape_char } => {
                self.like(LikeKind::Like, negated, *expr, *pattern, escape_char)
            }
            E::ILike { negated, any: false, expr, pattern, escape_char } => {
                self.like(LikeKind::ILike, negated, *expr, *pattern, escape_char)
            }
            E::SimilarTo { negated, expr, pattern, escape_char } => {
                self.like(LikeKind::SimilarTo, negated, *expr, *pattern, escape_char)
            }
            E::AnyOp { left, compare_op, right, is_some: _ } => {
                self.quantified(*left, compare_op, *right, false)
            }
            E::AllOp { left, compare_op, right } => {
                self.quantified(*left, compare_op, *right, true)
            }
            E::Cast { kind, expr, data_type, format } => {
                self.absent(format.is_some(), "FORMAT")?;
                match kind {
                    sp::CastKind::Cast | sp::CastKind::DoubleColon => {}
                    sp::CastKind::TryCast | sp::CastKind::SafeCast => {
                        return self.syntax("(", Pos::UNKNOWN);
                    }
                }
                self.cast(*expr, data_type)
            }
            E::Subquery(query) => {
                let query = self.boxed_query(*query)?;
                let pos = query.pos;
                Ok(Expr::Subquery(query, pos))
            }
            E::Exists { subquery, negated } => {
                let query = self.boxed_query(*subquery)?;
                let pos = query.pos;
                Ok(Expr::Exists { query, negated, pos })
            }
            E::Tuple(items) => self.row(items),
            E::Array(sp::Array { elem, named }) => {
                self.absent(!named && self.depth <= 1, "[")?;
                let items = self.exprs(elem)?;
                let pos = items.first().map_or(self.last_pos, Expr::pos);
                Ok(Expr::Array(items, pos))
            }
            other => self.special(other),
        }
    }

    /// The rarer forms.
    fn special(&mut self, expr: sp::Expr) -> Result<Expr> {
        use sp::Expr as E;
        match expr {
            E::Case { case_token, end_token: _, operand, conditions, else_result } => {
                let pos = self.source.span_pos(case_token.0.span);
                self.last_pos = pos;
                let operand = operand.map(|operand| self.boxed(*operand)).transpose()?;
                let mut branches = Vec::with_capacity(conditions.len());
                for arm in conditions {
                    let when = self.expr(arm.condition)?;
                    branches.push(CaseBranch { when, then: self.expr(arm.result)? });
                }
                let otherwise = else_result.map(|result| self.boxed(*result)).transpose()?;
                Ok(Expr::Case { operand, branches, otherwise, pos })
            }
            E::TypedString(sp::TypedString { data_type, value, uses_odbc_syntax }) => {
                self.absent(uses_odbc_syntax, "{")?;
                let expr = Box::new(self.value(value)?);
                let pos = expr.pos();
                Ok(Expr::Cast { expr, ty: self.type_name(data_type)?, pos })
            }
            E::Interval(interval) => self.interval(interval),
            E::Collate { expr, collation } => {
                let expr = self.boxed(*expr)?;
                let pos = expr.pos();
                Ok(Expr::Collate { expr, collation: self.object_name(collation)?, pos })
            }
            E::AtTimeZone { timestamp, time_zone } => {
                let expr = self.boxed(*timestamp)?;
                let pos = expr.pos();
                Ok(Expr::AtTimeZone { expr, zone: self.boxed(*time_zone)?, pos })
            }
            E::CompoundFieldAccess { root, access_chain } => self.access_chain(*root, access_chain),
            E::GroupingSets(_) => self.unsupported("GROUPING SETS"),
            E::Cube(_) => self.unsupported("CUBE"),
            E::Rollup(_) => self.unsupported("ROLLUP"),
            E::IsNormalized { .. } => self.unsupported("IS NORMALIZED"),
            E::IsJson { .. } => self.unsupported("IS JSON"),
            E::Wildcard(token) => {
                let pos = self.source.span_pos(token.0.span);
                self.syntax("*", pos)
            }
            E::QualifiedWildcard(_, token) => {
                let pos = self.source.span_pos(token.0.span);
                self.syntax("*", pos)
            }
            other => self.function_form(other),
        }
    }

    /// `DEFAULT` is a word that no column can have unquoted.
    fn identifier(&mut self, ident: sp::Ident) -> Result<Expr> {
        if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default") {
            return Ok(Expr::Default(self.ident(ident)?.pos));
        }
        let ident = self.name(ident)?;
        Ok(Expr::Column(crate::ast::ColumnRef { parts: vec![ident] }))
    }

    /// `(a, b)` as a value.
    pub(crate) fn row(&mut self, items: Vec<sp::Expr>) -> Result<Expr> {
        let items = self.exprs(items)?;
        let pos = items.first().map_or(self.last_pos, Expr::pos);
        Ok(Expr::Row(items, pos))
    }

    fn is(&mut self, expr: sp::Expr, test: IsTest, negated: bool) -> Result<Expr> {
        Ok(Expr::Is { expr: self.boxed(expr)?, test, negated })
    }

    fn is_distinct(&mut self, left: sp::Expr, right: sp::Expr, negated: bool) -> Result<Expr> {
        let left = self.boxed(left)?;
        let pos = left.pos();
        Ok(Expr::IsDistinctFrom { left, right: self.boxed(right)?, negated, pos })
    }

    fn like(
        &mut self,
        kind: LikeKind,
        negated: bool,
        expr: sp::Expr,
        pattern: sp::Expr,
        escape: Option<Box<sp::Expr>>,
    ) -> Result<Expr> {
        let expr = self.boxed(expr)?;
        let pos = expr.pos();
        let pattern = self.boxed(pattern)?;
        let escape = escape.map(|escape| self.boxed(*escape)).transpose()?;
        Ok(Expr::Like { expr, pattern, kind, escape, negated, pos })
    }

    fn quantified(
        &mut self,
        left: sp::Expr,
        op: sp::BinaryOperator,
        right: sp::Expr,
        all: bool,
    ) -> Result<Expr> {
        let left = self.expr(left)?;
        let pos = left.pos();
        let op = self.binary_op(op)?;
        let over = match right {
            sp::Expr::Subquery(query) => Quantifier::Query(self.boxed_query(*query)?),
            other => Quantifier::Array(self.expr(other)?),
        };
        Ok(Expr::Quantified(Box::new(Quantified { left, op, over, all, pos })))
    }

    pub(crate) fn cast(&mut self, expr: sp::Expr, ty: sp::DataType) -> Result<Expr> {
        let expr = self.boxed(expr)?;
        let pos = expr.pos();
        Ok(Expr::Cast { expr, ty: self.type_name(ty)?, pos })
    }

    fn unary(&mut self, op: sp::UnaryOperator, expr: sp::Expr) -> Result<Expr> {
        let op = match op {
            sp::UnaryOperator::Not => UnaryOp::Not,
            sp::UnaryOperator::Minus => UnaryOp::Minus,
            sp::UnaryOperator::Plus => UnaryOp::Plus,
            sp::UnaryOperator::BitwiseNot => UnaryOp::BitNot,
            sp::UnaryOperator::PGSquareRoot => UnaryOp::SquareRoot,
            sp::UnaryOperator::PGCubeRoot => UnaryOp::CubeRoot,
            sp::UnaryOperator::PGAbs => UnaryOp::Abs,
            other => return self.unsupported(&format!("operator {other}")),
        };
        // The library lets `^`, AT TIME ZONE and COLLATE bind tighter than a sign; in PostgreSQL
        // the sign binds tighter than all three.
        if matches!(op, UnaryOp::Minus | UnaryOp::Plus) {
            match expr {
                sp::Expr::BinaryOp { left, op: sp::BinaryOperator::PGExp, right } => {
                    let left = self.unary_inner(op, *left)?;
                    let pos = left.pos();
                    let right = self.boxed(*right)?;
                    return Ok(Expr::Binary {
                        left: Box::new(left),
                        op: BinaryOp::Power,
                        right,
                        pos,
                    });
                }
                sp::Expr::AtTimeZone { timestamp, time_zone } => {
                    let expr = Box::new(self.unary_inner(op, *timestamp)?);
                    let pos = expr.pos();
                    return Ok(Expr::AtTimeZone { expr, zone: self.boxed(*time_zone)?, pos });
                }
                expr => return self.unary_inner(op, expr),
            }
        }
        self.unary_inner(op, expr)
    }

    fn unary_inner(&mut self, op: UnaryOp, expr: sp::Expr) -> Result<Expr> {
        let expr = self.boxed(expr)?;
        let pos = expr.pos();
        Ok(Expr::Unary { op, expr, pos })
    }

    /// Walks a left-leaning chain of operators without recursion, then joins the operands again:
    /// chains of AND and of OR as balanced trees, others to the left, as they came.
    fn binary(&mut self, left: sp::Expr, op: sp::BinaryOperator, right: sp::Expr) -> Result<Expr> {
        let mut chain = vec![(op, right)];
        let mut leftmost = left;
        while let sp::Expr::BinaryOp { left, op, right } = leftmost {
            chain.push((op, *right));
            leftmost = *left;
        }
        let mut tree = Chain::start(self.expr(leftmost)?);
        for (op, right) in chain.into_iter().rev() {
            let op = self.binary_op(op)?;
            let right = self.expr(right)?;
            tree.push(op, right);
            if self.depth + tree.height() > MAX_DEPTH {
                return Err(too_deep(self.last_pos));
            }
        }
        Ok(tree.finish())
    }

    fn access_chain(&mut self, root: sp::Expr, chain: Vec<sp::AccessExpr>) -> Result<Expr> {
        let mut expr = match root {
            // `t.a[1]` arrives as the identifier `t`, then `.a`, then `[1]`.
            sp::Expr::Identifier(ident) => Expr::Column(self.column_ref(vec![ident])?),
            root => self.expr(root)?,
        };
        let mut steps = 0;
        for access in chain {
            steps += 1;
            if self.depth + steps > MAX_DEPTH {
                return Err(too_deep(self.last_pos));
            }
            expr = match access {
                sp::AccessExpr::Dot(sp::Expr::Identifier(field)) => {
                    let field = self.ident(field)?;
                    match expr {
                        Expr::Column(mut column) => {
                            column.parts.push(field);
                            Expr::Column(column)
                        }
                        expr => Expr::Field { expr: Box::new(expr), field },
                    }
                }
                sp::AccessExpr::Dot(_) => return self.syntax(".", Pos::UNKNOWN),
                sp::AccessExpr::Subscript(sp::Subscript::Index { index }) => {
                    let subscript = Box::new(Subscript::Index(self.expr(index)?));
                    Expr::Subscript { expr: Box::new(expr), subscript }
                }
                sp::AccessExpr::Subscript(sp::Subscript::Slice {
                    lower_bound,
                    upper_bound,
                    stride,
                }) => {
                    self.absent(stride.is_some(), ":")?;
                    let from = self.opt_expr(lower_bound)?;
                    let subscript = Box::new(Subscript::Slice(from, self.opt_expr(upper_bound)?));
                    Expr::Subscript { expr: Box::new(expr), subscript }
                }
            };
        }
        Ok(expr)
    }

    fn interval(&mut self, interval: sp::Interval) -> Result<Expr> {
        let sp::Interval {
            value,
            leading_field,
            leading_precision,
            last_field,
            fractional_seconds_precision,
        } = interval;
        let value = self.expr(*value)?;
        if !matches!(value, Expr::Literal(Literal::String(_), _)) {
            let pos = value.pos();
            return self.syntax("INTERVAL", pos);
        }
        let modifiers = match (leading_field, last_field) {
            (None, _) => match leading_precision {
                None => crate::ast::TypeModifiers::None,
                Some(digits) => crate::ast::TypeModifiers::FractionalSeconds(digits),
            },
            (Some(first), None) => crate::ast::TypeModifiers::IntervalFields(
                first.to_string().to_lowercase(),
                leading_precision,
            ),
            (Some(first), Some(last)) => crate::ast::TypeModifiers::IntervalFields(
                format!("{first} to {last}").to_lowercase(),
                fractional_seconds_precision,
            ),
        };
        let pos = value.pos();
        let name = crate::ast::ObjectName::unqualified(crate::ast::Ident {
            value: "interval".to_owned(),
            quoted: false,
            pos,
        });
        let ty = crate::ast::TypeName { name, modifiers, array_depth: 0, pos };
        Ok(Expr::Cast { expr: Box::new(value), ty, pos })
    }

    /// Converts an operator.
    pub(crate) fn binary_op(&mut self, op: sp::BinaryOperator) -> Result<BinaryOp> {
        use sp::BinaryOperator as B;
        Ok(match op {
            B::And => BinaryOp::And,
            B::Or => BinaryOp::Or,
            B::Eq => BinaryOp::Eq,
            B::NotEq => BinaryOp::NotEq,
            B::Lt => BinaryOp::Lt,
            B::LtEq => BinaryOp::LtEq,
            B::Gt => BinaryOp::Gt,
            B::GtEq => BinaryOp::GtEq,
            B::Plus => BinaryOp::Plus,
            B::Minus => BinaryOp::Minus,
            B::Multiply => BinaryOp::Multiply,
            B::Divide => BinaryOp::Divide,
            B::Modulo => BinaryOp::Modulo,
            B::PGExp => BinaryOp::Power,
            B::StringConcat => BinaryOp::Concat,
            B::BitwiseAnd => BinaryOp::BitAnd,
            B::BitwiseOr => BinaryOp::BitOr,
            B::PGBitwiseXor => BinaryOp::BitXor,
            B::PGBitwiseShiftLeft => BinaryOp::ShiftLeft,
            B::PGBitwiseShiftRight => BinaryOp::ShiftRight,
            B::PGRegexMatch => BinaryOp::RegexMatch,
            B::PGRegexIMatch => BinaryOp::RegexIMatch,
            B::PGRegexNotMatch => BinaryOp::RegexNotMatch,
            B::PGRegexNotIMatch => BinaryOp::RegexNotIMatch,
            B::Arrow => BinaryOp::JsonGet,
            B::LongArrow => BinaryOp::JsonGetText,
            B::HashArrow => BinaryOp::JsonGetPath,
            B::HashLongArrow => BinaryOp::JsonGetPathText,
            B::AtArrow => BinaryOp::Contains,
            B::ArrowAt => BinaryOp::ContainedBy,
            B::PGOverlap => BinaryOp::Overlaps,
            B::PGCustomBinaryOperator(parts) => self.named_operator(&parts)?,
            B::Custom(spelling) => operator_by_spelling(&spelling),
            B::PGLikeMatch
            | B::PGILikeMatch
            | B::PGNotLikeMatch
            | B::PGNotILikeMatch
            | B::PGStartsWith
            | B::AtAt
            | B::AtQuestion
            | B::HashMinus
            | B::Question
            | B::QuestionAnd
            | B::QuestionPipe => BinaryOp::Other(op.to_string()),
            B::Overlaps => return self.unsupported("OVERLAPS"),
            other => return self.syntax(&other.to_string(), Pos::UNKNOWN),
        })
    }

    /// `OPERATOR(pg_catalog.~)`.
    fn named_operator(&mut self, parts: &[String]) -> Result<BinaryOp> {
        match parts {
            [spelling] => Ok(operator_by_spelling(spelling)),
            [schema, spelling] if schema.eq_ignore_ascii_case("pg_catalog") => {
                Ok(operator_by_spelling(spelling))
            }
            _ => self.unsupported("operators outside pg_catalog"),
        }
    }
}

/// Operands joined so far, left to right.
struct Chain {
    /// The closed part to the left and its height.
    left: Expr,
    height: usize,
    /// Operands of the AND or OR chain that is still growing, `left` among them as first.
    open: Option<(BinaryOp, Vec<(Pos, Expr)>)>,
}

impl Chain {
    fn start(first: Expr) -> Chain {
        Chain { left: first, height: 1, open: None }
    }

    fn height(&self) -> usize {
        let open = self.open.as_ref().map_or(0, |(_, operands)| operands.len());
        self.height + (usize::BITS - open.leading_zeros()) as usize
    }

    fn push(&mut self, op: BinaryOp, right: Expr) {
        let pos = right.pos();
        match &mut self.open {
            Some((open_op, operands)) if *open_op == op => operands.push((pos, right)),
            _ => {
                self.close();
                if matches!(op, BinaryOp::And | BinaryOp::Or) {
                    self.open = Some((op, vec![(pos, right)]));
                } else {
                    self.join(op, right, pos);
                }
            }
        }
    }

    fn join(&mut self, op: BinaryOp, right: Expr, pos: Pos) {
        let placeholder = Expr::Literal(Literal::Null, Pos::UNKNOWN);
        let left = Box::new(std::mem::replace(&mut self.left, placeholder));
        self.left = Expr::Binary { left, op, right: Box::new(right), pos };
        self.height += 1;
    }

    fn close(&mut self) {
        let height = self.height();
        if let Some((op, operands)) = self.open.take() {
            let placeholder = Expr::Literal(Literal::Null, Pos::UNKNOWN);
            let first = std::mem::replace(&mut self.left, placeholder);
            let mut all = vec![(first.pos(), first)];
            all.extend(operands);
            self.left = balanced(&op, all);
            self.height = height;
        }
    }

    fn finish(mut self) -> Expr {
        self.close();
        self.left
    }
}

/// Joins operands of an associative operator pairwise, keeping their order.
fn balanced(op: &BinaryOp, mut operands: Vec<(Pos, Expr)>) -> Expr {
    while operands.len() > 1 {
        let mut joined = Vec::with_capacity(operands.len().div_ceil(2));
        let mut rest = operands.into_iter();
        while let Some((left_pos, left)) = rest.next() {
            match rest.next() {
                None => joined.push((left_pos, left)),
                Some((pos, right)) => {
                    let (left, right) = (Box::new(left), Box::new(right));
                    joined.push((left_pos, Expr::Binary { left, op: op.clone(), right, pos }));
                }
            }
        }
        operands = joined;
    }
    operands.pop().map_or(Expr::Literal(Literal::Null, Pos::UNKNOWN), |(_, expr)| expr)
}

/// Recognises an operator by its spelling.
fn operator_by_spelling(spelling: &str) -> BinaryOp {
    const KNOWN: [BinaryOp; 29] = [
        BinaryOp::Eq,
        BinaryOp::NotEq,
        BinaryOp::Lt,
        BinaryOp::LtEq,
        BinaryOp::Gt,
        BinaryOp::GtEq,
        BinaryOp::Plus,
        BinaryOp::Minus,
        BinaryOp::Multiply,
        BinaryOp::Divide,
        BinaryOp::Modulo,
        BinaryOp::Power,
        BinaryOp::Concat,
        BinaryOp::BitAnd,
        BinaryOp::BitOr,
        BinaryOp::BitXor,
        BinaryOp::ShiftLeft,
        BinaryOp::ShiftRight,
        BinaryOp::RegexMatch,
        BinaryOp::RegexIMatch,
        BinaryOp::RegexNotMatch,
        BinaryOp::RegexNotIMatch,
        BinaryOp::JsonGet,
        BinaryOp::JsonGetText,
        BinaryOp::JsonGetPath,
        BinaryOp::JsonGetPathText,
        BinaryOp::Contains,
        BinaryOp::ContainedBy,
        BinaryOp::Overlaps,
    ];
    KNOWN
        .into_iter()
        .find(|op| op.as_str() == spelling)
        .unwrap_or_else(|| BinaryOp::Other(spelling.to_owned()))
}
