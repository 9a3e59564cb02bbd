//! Scalar expressions.

use crdb_sqlfront::ast::{self, BinaryOp, Literal, UnaryOp};

use super::types::{common_type, type_spec};
use super::{Analyzer, Place, Scope};
use crate::cast::CastContext;
use crate::datum::{Datum, Decimal};
use crate::error::{Result, SqlError, SqlState};
use crate::expr::{BinaryFn, CmpOp, Expr, FuncRef, Typed, like};
use crate::func::{Arg, Builtin, op, str_at};
use crate::types::{SqlType, TypeSpec};

static LIKE: Builtin = Builtin::new("like", &[Arg::T(SqlType::Text); 3], SqlType::Bool, |_, a| {
    Ok(Datum::Bool(like::like(str_at(a, 0), str_at(a, 1), str_at(a, 2).chars().next(), false)?))
});
static ILIKE: Builtin =
    Builtin::new("ilike", &[Arg::T(SqlType::Text); 3], SqlType::Bool, |_, a| {
        Ok(Datum::Bool(like::like(str_at(a, 0), str_at(a, 1), str_at(a, 2).chars().next(), true)?))
    });
static SIMILAR: Builtin =
    Builtin::new("similar_to", &[Arg::T(SqlType::Text); 3], SqlType::Bool, |_, a| {
        Ok(Datum::Bool(like::similar(str_at(a, 0), str_at(a, 1), str_at(a, 2).chars().next())?))
    });
static BIT_NOT: Builtin =
    Builtin::new("~", &[Arg::T(SqlType::Int8)], SqlType::Int8, |_, a| match a.first() {
        Some(Datum::Int(v)) => Ok(Datum::Int(!v)),
        _ => Ok(Datum::Null),
    });

macro_rules! negations {
    ($($name:ident, $ty:ident;)*) => {
        $(static $name: Builtin = Builtin::new("-", &[Arg::T(SqlType::$ty)], SqlType::$ty, |_, a| {
            op::negate(SqlType::$ty, a.first().unwrap_or(&Datum::Null))
        });)*

        fn negation(ty: SqlType) -> Option<&'static Builtin> {
            match ty {
                $(SqlType::$ty => Some(&$name),)*
                _ => None,
            }
        }
    };
}

negations! {
    NEG_INT2, Int2;
    NEG_INT4, Int4;
    NEG_INT8, Int8;
    NEG_FLOAT4, Float4;
    NEG_FLOAT8, Float8;
    NEG_NUMERIC, Numeric;
    NEG_INTERVAL, Interval;
}

pub(super) fn comparison(op: &BinaryOp) -> Option<CmpOp> {
    Some(match op {
        BinaryOp::Eq => CmpOp::Eq,
        BinaryOp::NotEq => CmpOp::NotEq,
        BinaryOp::Lt => CmpOp::Lt,
        BinaryOp::LtEq => CmpOp::LtEq,
        BinaryOp::Gt => CmpOp::Gt,
        BinaryOp::GtEq => CmpOp::GtEq,
        _ => return None,
    })
}

/// The static spelling of an operator of the library.
fn operator_name(op: &BinaryOp) -> Option<&'static str> {
    Some(match op {
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
        BinaryOp::Other(other) if other == "?" => "?",
        _ => return None,
    })
}

fn no_operator(name: &str, left: SqlType, right: SqlType, pos: ast::Pos) -> SqlError {
    SqlError::new(
        SqlState::UNDEFINED_FUNCTION,
        format!("operator does not exist: {left} {name} {right}"),
    )
    .with_hint(
        "No operator matches the given name and argument types. You might need to add explicit type \
         casts.",
    )
    .with_position(pos.0)
}

impl Analyzer<'_> {
    /// Analyzes an expression.
    pub(super) fn expr(&mut self, scope: &mut Scope, e: &ast::Expr, place: Place) -> Result<Typed> {
        let typed = crate::stack::deep(|| self.expr_inner(scope, e, place))?;
        Ok(self.fold(typed))
    }

    /// Computes what is constant. An error stays for the time the value is asked for.
    fn fold(&self, typed: Typed) -> Typed {
        let simple = matches!(
            typed.expr,
            Expr::Binary(..)
                | Expr::Compare(..)
                | Expr::Call(..)
                | Expr::Cast { .. }
                | Expr::Array { .. }
        );
        if !simple || !typed.expr.is_constant() {
            return typed;
        }
        let ctx = crate::expr::EvalCtx { info: self.info, params: &[], outer: &[], slots: &[] };
        match typed.expr.eval(&ctx, &[]) {
            Ok(value) => Typed { expr: Expr::Const(value), spec: typed.spec },
            Err(_) => typed,
        }
    }

    fn expr_inner(&mut self, scope: &mut Scope, e: &ast::Expr, place: Place) -> Result<Typed> {
        match e {
            ast::Expr::Literal(literal, pos) => literal_value(literal, *pos),
            ast::Expr::Column(reference) => self.column_or_function(scope, reference),
            ast::Expr::Placeholder(number, pos) => self.param(*number, *pos),
            ast::Expr::Default(pos) => {
                Err(SqlError::syntax("DEFAULT is not allowed in this context").with_position(pos.0))
            }
            ast::Expr::Unary { op, expr, pos } => self.unary(scope, *op, expr, *pos, place),
            ast::Expr::Binary { left, op, right, pos } => {
                self.binary(scope, left, op, right, *pos, place)
            }
            ast::Expr::Is { expr, test, negated } => {
                self.is_test(scope, expr, *test, *negated, place)
            }
            ast::Expr::IsDistinctFrom { left, right, negated, pos } => {
                let l = self.expr(scope, left, place)?;
                let r = self.expr(scope, right, place)?;
                let (left, right) = self.comparable(l, r, "IS DISTINCT FROM", *pos)?;
                Ok(boolean(Expr::Distinct {
                    left: Box::new(left),
                    right: Box::new(right),
                    negated: *negated,
                }))
            }
            ast::Expr::InList { expr, list, negated, pos } => {
                self.in_list(scope, expr, list, *negated, *pos, place)
            }
            ast::Expr::Between { expr, low, high, negated, pos } => {
                let value = self.expr(scope, expr, place)?;
                let low = self.expr(scope, low, place)?;
                let high = self.expr(scope, high, place)?;
                let from = self.compare(CmpOp::GtEq, value.clone(), low, *pos)?;
                let to = self.compare(CmpOp::LtEq, value, high, *pos)?;
                let both = Expr::And(Box::new(from), Box::new(to));
                Ok(boolean(if *negated { Expr::Not(Box::new(both)) } else { both }))
            }
            ast::Expr::Like { expr, pattern, kind, escape, negated, .. } => {
                self.like(scope, (expr, pattern, escape.as_deref()), *kind, *negated, place)
            }
            ast::Expr::Case { operand, branches, otherwise, pos } => {
                self.case(scope, operand.as_deref(), branches, otherwise.as_deref(), *pos, place)
            }
            ast::Expr::Cast { expr, ty, .. } => {
                let spec = type_spec(ty)?;
                let typed = self.expr(scope, expr, place)?;
                let expr = self.coerce(typed, spec, CastContext::Explicit)?;
                Ok(Typed { expr, spec })
            }
            ast::Expr::Collate { expr, collation, pos } => {
                let name = collation.last().value.to_ascii_lowercase();
                if !matches!(name.as_str(), "default" | "c" | "posix") {
                    return Err(
                        SqlError::unsupported(format!("collation \"{name}\"")).with_position(pos.0)
                    );
                }
                self.expr(scope, expr, place)
            }
            ast::Expr::AtTimeZone { expr, zone, .. } => self.at_time_zone(scope, expr, zone, place),
            ast::Expr::Array(..) | ast::Expr::Subscript { .. } => self.array_expr(scope, e, place),
            ast::Expr::Function(call) => self.function_call(scope, call, place),
            ast::Expr::Row(_, pos) => Err(SqlError::unsupported("row values in this place")
                .with_position(pos.0)
                .with_hint("Rows can be compared with rows and listed in IN.")),
            ast::Expr::Field { .. } => {
                Err(SqlError::unsupported("fields of composite values").with_position(e.pos().0))
            }
            ast::Expr::InSubquery { .. }
            | ast::Expr::Quantified(_)
            | ast::Expr::Subquery(..)
            | ast::Expr::Exists { .. }
            | ast::Expr::ArraySubquery(..) => self.subquery_expr(scope, e, place),
        }
    }

    fn array_expr(&mut self, scope: &mut Scope, e: &ast::Expr, place: Place) -> Result<Typed> {
        match e {
            ast::Expr::Array(items, _) => {
                let items = self.exprs(scope, items, place)?;
                if items.is_empty() {
                    let empty = Expr::Array { elem: SqlType::Text, items: Vec::new() };
                    return Ok(Typed::new(empty, SqlType::Array(&SqlType::Text)));
                }
                let types: Vec<SqlType> = items.iter().map(Typed::ty).collect();
                let elem = common_type("ARRAY", &types)?;
                let array = elem.array_of().ok_or_else(|| {
                    SqlError::unsupported("multi-dimensional arrays").with_position(e.pos().0)
                })?;
                let items = items
                    .into_iter()
                    .map(|i| self.coerce_implicit(i, elem))
                    .collect::<Result<_>>()?;
                Ok(Typed::new(Expr::Array { elem, items }, array))
            }
            ast::Expr::Subscript { expr, subscript } => {
                let array = self.expr(scope, expr, place)?;
                let ast::Subscript::Index(index) = subscript.as_ref() else {
                    return Err(SqlError::unsupported("array slices").with_position(e.pos().0));
                };
                let index = self.expr(scope, index, place)?;
                let SqlType::Array(elem) = array.ty() else {
                    return Err(SqlError::new(
                        SqlState::DATATYPE_MISMATCH,
                        format!("cannot subscript type {} because it is not an array", array.ty()),
                    )
                    .with_position(e.pos().0));
                };
                let index = self.coerce_implicit(index, SqlType::Int8)?;
                Ok(Typed::new(Expr::Subscript(Box::new(array.expr), Box::new(index)), *elem))
            }
            _ => Err(SqlError::internal("not an array expression")),
        }
    }

    fn at_time_zone(
        &mut self,
        scope: &mut Scope,
        expr: &ast::Expr,
        zone: &ast::Expr,
        place: Place,
    ) -> Result<Typed> {
        let zone = self.expr(scope, zone, place)?;
        let time = self.expr(scope, expr, place)?;
        let time = match time.ty() {
            SqlType::Unknown | SqlType::Date => {
                Typed::new(self.coerce_implicit(time, SqlType::TimestampTz)?, SqlType::TimestampTz)
            }
            _ => time,
        };
        self.call_function("timezone", vec![zone, time])
    }

    pub(super) fn exprs(
        &mut self,
        scope: &mut Scope,
        items: &[ast::Expr],
        place: Place,
    ) -> Result<Vec<Typed>> {
        items.iter().map(|item| self.expr(scope, item, place)).collect()
    }

    /// An expression that has to be a condition.
    pub(super) fn condition(
        &mut self,
        scope: &mut Scope,
        e: &ast::Expr,
        place: Place,
        clause: &str,
    ) -> Result<Expr> {
        let typed = self.expr(scope, e, place)?;
        let ty = typed.ty();
        if !matches!(ty, SqlType::Bool | SqlType::Unknown) {
            return Err(SqlError::new(
                SqlState::DATATYPE_MISMATCH,
                format!("argument of {clause} must be type boolean, not type {ty}"),
            )
            .with_position(e.pos().0));
        }
        self.coerce_implicit(typed, SqlType::Bool)
    }

    fn column_or_function(
        &mut self,
        scope: &mut Scope,
        reference: &ast::ColumnRef,
    ) -> Result<Typed> {
        self.resolve_column(scope, reference)
    }

    fn unary(
        &mut self,
        scope: &mut Scope,
        op: UnaryOp,
        e: &ast::Expr,
        pos: ast::Pos,
        place: Place,
    ) -> Result<Typed> {
        if op == UnaryOp::Not {
            let condition = self.condition(scope, e, place, "NOT")?;
            return Ok(boolean(Expr::Not(Box::new(condition))));
        }
        // The smallest int8 is a literal only together with its sign.
        if let (UnaryOp::Minus, ast::Expr::Literal(Literal::Number(digits), _)) = (op, e) {
            return number_literal(&format!("-{digits}"), pos);
        }
        let typed = self.expr(scope, e, place)?;
        let ty = typed.ty();
        let undefined = || {
            SqlError::new(
                SqlState::UNDEFINED_FUNCTION,
                format!("operator does not exist: {} {ty}", unary_name(op)),
            )
            .with_position(pos.0)
        };
        match op {
            UnaryOp::Plus if ty.is_number() || ty == SqlType::Interval => Ok(typed),
            UnaryOp::Minus => {
                let (ty, typed) = if ty == SqlType::Unknown {
                    let expr = self.coerce_implicit(typed, SqlType::Float8)?;
                    (SqlType::Float8, Typed::new(expr, SqlType::Float8))
                } else {
                    (ty, typed)
                };
                let entry = negation(ty).ok_or_else(undefined)?;
                Ok(Typed::new(Expr::Call(FuncRef(entry), vec![typed.expr]), ty))
            }
            UnaryOp::BitNot if ty.is_int() => {
                Ok(Typed::new(Expr::Call(FuncRef(&BIT_NOT), vec![typed.expr]), ty))
            }
            UnaryOp::Abs => self.call_function("abs", vec![typed]),
            UnaryOp::SquareRoot => self.call_function("sqrt", vec![typed]),
            UnaryOp::CubeRoot => self.call_function("cbrt", vec![typed]),
            _ => Err(undefined()),
        }
    }

    fn binary(
        &mut self,
        scope: &mut Scope,
        left: &ast::Expr,
        op: &BinaryOp,
        right: &ast::Expr,
        pos: ast::Pos,
        place: Place,
    ) -> Result<Typed> {
        if matches!(op, BinaryOp::And | BinaryOp::Or) {
            let name = op.as_str();
            let l = Box::new(self.condition(scope, left, place, name)?);
            let r = Box::new(self.condition(scope, right, place, name)?);
            return Ok(boolean(if *op == BinaryOp::And {
                Expr::And(l, r)
            } else {
                Expr::Or(l, r)
            }));
        }
        if let (ast::Expr::Row(l, _), ast::Expr::Row(r, _), Some(cmp)) =
            (left, right, comparison(op))
        {
            return self.compare_rows(scope, l, r, cmp, pos, place).map(boolean);
        }
        let l = self.expr(scope, left, place)?;
        let r = self.expr(scope, right, place)?;
        if let Some(cmp) = comparison(op) {
            return self.compare(cmp, l, r, pos).map(boolean);
        }
        let (lt, rt) = (l.ty(), r.ty());
        let missing = || no_operator(op.as_str(), lt, rt, pos);
        let name = operator_name(op).ok_or_else(missing)?;
        let found = op::binary(name, lt, rt).ok_or_else(missing)?;
        self.apply_binary(found, l, r)
    }

    fn apply_binary(&mut self, found: BinaryFn, l: Typed, r: Typed) -> Result<Typed> {
        // Concatenation takes the text form of anything.
        let context =
            if found.name == "||" { CastContext::Explicit } else { CastContext::Assignment };
        let left = self.coerce(l, TypeSpec::plain(found.left), context)?;
        let right = self.coerce(r, TypeSpec::plain(found.right), context)?;
        Ok(Typed::new(Expr::Binary(found, Box::new(left), Box::new(right)), found.result))
    }

    /// Both sides in the type in which they are compared.
    pub(super) fn comparable(
        &mut self,
        l: Typed,
        r: Typed,
        name: &str,
        pos: ast::Pos,
    ) -> Result<(Expr, Expr)> {
        let (lt, rt) = (l.ty(), r.ty());
        let ty = op::comparison_type(lt, rt).ok_or_else(|| no_operator(name, lt, rt, pos))?;
        let left = self.coerce(l, TypeSpec::plain(ty), CastContext::Assignment);
        let right = self.coerce(r, TypeSpec::plain(ty), CastContext::Assignment);
        match (left, right) {
            (Ok(l), Ok(r)) => Ok((l, r)),
            (Err(e), _) | (_, Err(e)) => Err(e.with_position(pos.0)),
        }
    }

    pub(super) fn compare(&mut self, op: CmpOp, l: Typed, r: Typed, pos: ast::Pos) -> Result<Expr> {
        let (l, r) = self.comparable(l, r, op.as_str(), pos)?;
        Ok(Expr::Compare(op, Box::new(l), Box::new(r)))
    }

    /// `(a, b) op (c, d)` as conditions on the columns.
    fn compare_rows(
        &mut self,
        scope: &mut Scope,
        left: &[ast::Expr],
        right: &[ast::Expr],
        op: CmpOp,
        pos: ast::Pos,
        place: Place,
    ) -> Result<Expr> {
        if left.len() != right.len() || left.is_empty() {
            return Err(SqlError::syntax("unequal number of entries in row expressions")
                .with_position(pos.0));
        }
        let left = self.exprs(scope, left, place)?;
        let right = self.exprs(scope, right, place)?;
        let pairs: Vec<(Typed, Typed)> = left.into_iter().zip(right).collect();
        if matches!(op, CmpOp::Eq | CmpOp::NotEq) {
            let mut all = Vec::new();
            for (l, r) in pairs {
                all.push(self.compare(CmpOp::Eq, l, r, pos)?);
            }
            let equal = Expr::all_of(all).unwrap_or(Expr::Const(Datum::Bool(true)));
            return Ok(if op == CmpOp::Eq { equal } else { Expr::Not(Box::new(equal)) });
        }
        // a < c OR (a = c AND (b < d OR ..))
        let strict = match op {
            CmpOp::LtEq => CmpOp::Lt,
            CmpOp::GtEq => CmpOp::Gt,
            other => other,
        };
        let last = pairs.len() - 1;
        let mut result = None;
        for (i, (l, r)) in pairs.into_iter().enumerate().rev() {
            let here =
                self.compare(if i == last { op } else { strict }, l.clone(), r.clone(), pos)?;
            result = Some(match result {
                None => here,
                Some(rest) => {
                    let equal = self.compare(CmpOp::Eq, l, r, pos)?;
                    let tail = Expr::And(Box::new(equal), Box::new(rest));
                    Expr::Or(Box::new(here), Box::new(tail))
                }
            });
        }
        result.ok_or_else(|| SqlError::internal("an empty row comparison"))
    }

    fn is_test(
        &mut self,
        scope: &mut Scope,
        e: &ast::Expr,
        test: ast::IsTest,
        negated: bool,
        place: Place,
    ) -> Result<Typed> {
        if test == ast::IsTest::Null {
            let typed = self.expr(scope, e, place)?;
            let expr = if typed.ty() == SqlType::Unknown {
                self.coerce_implicit(typed, SqlType::Text)?
            } else {
                typed.expr
            };
            return Ok(boolean(Expr::IsNull(Box::new(expr), negated)));
        }
        let expr = Box::new(self.condition(scope, e, place, "IS")?);
        Ok(boolean(match test {
            ast::IsTest::True => Expr::IsBool { expr, value: true, negated },
            ast::IsTest::False => Expr::IsBool { expr, value: false, negated },
            _ => Expr::IsNull(expr, negated),
        }))
    }

    fn in_list(
        &mut self,
        scope: &mut Scope,
        e: &ast::Expr,
        list: &[ast::Expr],
        negated: bool,
        pos: ast::Pos,
        place: Place,
    ) -> Result<Typed> {
        if let ast::Expr::Row(left, _) = e {
            let mut any: Option<Expr> = None;
            for item in list {
                let ast::Expr::Row(right, _) = item else {
                    return Err(SqlError::syntax("a row can only be in a list of rows")
                        .with_position(pos.0));
                };
                let equal = self.compare_rows(scope, left, right, CmpOp::Eq, pos, place)?;
                any = Some(match any {
                    None => equal,
                    Some(old) => Expr::Or(Box::new(old), Box::new(equal)),
                });
            }
            let any = any.unwrap_or(Expr::Const(Datum::Bool(false)));
            return Ok(boolean(if negated { Expr::Not(Box::new(any)) } else { any }));
        }
        let value = self.expr(scope, e, place)?;
        let items = self.exprs(scope, list, place)?;
        let mut ty = value.ty();
        for item in &items {
            ty = op::comparison_type(ty, item.ty())
                .ok_or_else(|| no_operator("=", value.ty(), item.ty(), pos))?;
        }
        let to = TypeSpec::plain(ty);
        let expr = self.coerce(value, to, CastContext::Assignment)?;
        let list = items
            .into_iter()
            .map(|item| self.coerce(item, to, CastContext::Assignment))
            .collect::<Result<_>>()?;
        Ok(boolean(Expr::InList { expr: Box::new(expr), list, negated }))
    }

    fn like(
        &mut self,
        scope: &mut Scope,
        (e, pattern, escape): (&ast::Expr, &ast::Expr, Option<&ast::Expr>),
        kind: ast::LikeKind,
        negated: bool,
        place: Place,
    ) -> Result<Typed> {
        let mut args = vec![self.expr(scope, e, place)?, self.expr(scope, pattern, place)?];
        args.push(match escape {
            Some(escape) => self.expr(scope, escape, place)?,
            None => Typed::new(Expr::Const(Datum::text("\\")), SqlType::Text),
        });
        for arg in &args {
            if !arg.ty().is_string() && arg.ty() != SqlType::Unknown {
                return Err(no_operator("~~", arg.ty(), SqlType::Text, e.pos()));
            }
        }
        let args = args
            .into_iter()
            .map(|a| self.coerce_implicit(a, SqlType::Text))
            .collect::<Result<_>>()?;
        let entry = match kind {
            ast::LikeKind::Like => &LIKE,
            ast::LikeKind::ILike => &ILIKE,
            ast::LikeKind::SimilarTo => &SIMILAR,
        };
        let call = Expr::Call(FuncRef(entry), args);
        Ok(boolean(if negated { Expr::Not(Box::new(call)) } else { call }))
    }

    fn case(
        &mut self,
        scope: &mut Scope,
        operand: Option<&ast::Expr>,
        branches: &[ast::CaseBranch],
        otherwise: Option<&ast::Expr>,
        pos: ast::Pos,
        place: Place,
    ) -> Result<Typed> {
        let operand = operand.map(|o| self.expr(scope, o, place)).transpose()?;
        let mut conditions = Vec::new();
        let mut results = Vec::new();
        for branch in branches {
            conditions.push(match &operand {
                None => self.condition(scope, &branch.when, place, "CASE/WHEN")?,
                Some(operand) => {
                    let when = self.expr(scope, &branch.when, place)?;
                    self.compare(CmpOp::Eq, operand.clone(), when, pos)?
                }
            });
            results.push(self.expr(scope, &branch.then, place)?);
        }
        results.push(match otherwise {
            Some(e) => self.expr(scope, e, place)?,
            None => Typed::new(Expr::Const(Datum::Null), SqlType::Unknown),
        });
        let types: Vec<SqlType> = results.iter().map(Typed::ty).collect();
        let ty = common_type("CASE", &types)?;
        let mut results =
            results.into_iter().map(|r| self.coerce_implicit(r, ty)).collect::<Result<Vec<_>>>()?;
        let otherwise = Box::new(results.pop().unwrap_or(Expr::Const(Datum::Null)));
        let branches = conditions.into_iter().zip(results).collect();
        Ok(Typed::new(Expr::Case { branches, otherwise }, ty))
    }
}

pub(super) fn boolean(expr: Expr) -> Typed {
    Typed::new(expr, SqlType::Bool)
}

fn unary_name(op: UnaryOp) -> &'static str {
    match op {
        UnaryOp::Not => "NOT",
        UnaryOp::Minus => "-",
        UnaryOp::Plus => "+",
        UnaryOp::BitNot => "~",
        UnaryOp::SquareRoot => "|/",
        UnaryOp::CubeRoot => "||/",
        UnaryOp::Abs => "@",
    }
}

fn number_literal(digits: &str, pos: ast::Pos) -> Result<Typed> {
    let whole = digits.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if let (true, Ok(value)) = (whole, digits.parse::<i64>()) {
        return Ok(Typed::new(Expr::Const(Datum::Int(value)), SqlType::Int8));
    }
    let value = Decimal::parse(digits).map_err(|e| e.with_position(pos.0))?;
    Ok(Typed::new(Expr::Const(Datum::decimal(value)), SqlType::Numeric))
}

fn literal_value(literal: &Literal, pos: ast::Pos) -> Result<Typed> {
    Ok(match literal {
        Literal::Null => Typed::new(Expr::Const(Datum::Null), SqlType::Unknown),
        Literal::Bool(b) => boolean(Expr::Const(Datum::Bool(*b))),
        Literal::Number(digits) => number_literal(digits, pos)?,
        Literal::String(s) => Typed::new(Expr::Const(Datum::text(s.as_str())), SqlType::Unknown),
        Literal::Bytes(b) => {
            Typed::new(Expr::Const(Datum::Bytes(b.as_slice().into())), SqlType::Bytea)
        }
        Literal::BitString(_) => {
            return Err(SqlError::unsupported("bit strings").with_position(pos.0));
        }
    })
}
