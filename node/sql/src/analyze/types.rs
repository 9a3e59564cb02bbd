//! Types of names, common types and conversions.

use crdb_sqlfront::ast;

use crate::cast::{CastContext, cast_context};
use crate::datum::{Datum, FormatSettings};
use crate::error::{Result, SqlError, SqlState};
use crate::expr::{Expr, Typed};
use crate::plan::cast_expr;
use crate::types::{Category, SqlType, TypeSpec};

/// The type a name in the statement means.
pub(crate) fn type_spec(name: &ast::TypeName) -> Result<TypeSpec> {
    let last = name.name.last();
    let unknown = || {
        SqlError::new(
            SqlState::UNDEFINED_OBJECT,
            format!("type \"{}\" does not exist", super::shown(&name.name)),
        )
        .with_position(name.pos.0)
    };
    let ty = if last.quoted && last.value == "char" {
        SqlType::QChar
    } else {
        match last.value.as_str() {
            known @ ("timetz" | "bit" | "varbit" | "inet" | "geometry" | "geography"
            | "tsvector" | "tsquery" | "money" | "xml" | "box2d" | "cidr" | "macaddr"
            | "point") => {
                return Err(SqlError::unsupported(format!("type {known}"))
                    .with_position(name.pos.0)
                    .with_hint("Store such values as STRING or BYTES for now."));
            }
            other => SqlType::from_name(other).ok_or_else(unknown)?,
        }
    };
    let mut spec = TypeSpec::plain(ty);
    match name.modifiers {
        ast::TypeModifiers::None => {}
        ast::TypeModifiers::Length(length) if ty.is_string() => {
            let length = i32::try_from(length).ok().filter(|n| (1..=10_485_760).contains(n));
            let length = length.ok_or_else(|| {
                SqlError::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!("length for type {ty} must be between 1 and 10485760"),
                )
            })?;
            spec = TypeSpec::with_length(ty, length);
        }
        ast::TypeModifiers::Precision(precision, scale) if ty == SqlType::Numeric => {
            let range = |what: &str| {
                SqlError::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!("NUMERIC {what} must be between 0 and 1000"),
                )
            };
            let precision = i32::try_from(precision).ok().filter(|p| (1..=1000).contains(p));
            let precision = precision.ok_or_else(|| range("precision"))?;
            let scale =
                i32::try_from(scale.unwrap_or(0)).ok().filter(|s| (0..=precision).contains(s));
            spec = TypeSpec::numeric(precision, scale.ok_or_else(|| range("scale"))?);
        }
        // Six fractional digits are kept whatever is asked for, up to six.
        ast::TypeModifiers::FractionalSeconds(6) => {}
        ast::TypeModifiers::Length(_)
        | ast::TypeModifiers::Precision(..)
        | ast::TypeModifiers::FractionalSeconds(_)
        | ast::TypeModifiers::IntervalFields(..) => {
            return Err(SqlError::unsupported(format!("a modifier of type {ty}"))
                .with_position(name.pos.0)
                .with_hint("Leave the modifier out."));
        }
    }
    match name.array_depth {
        0 => Ok(spec),
        1 => spec.ty.array_of().map(TypeSpec::plain).ok_or_else(unknown),
        _ => Err(SqlError::unsupported("multi-dimensional arrays").with_position(name.pos.0)),
    }
}

/// Whether a literal's meaning depends on the session or the time.
fn session_dependent(ty: SqlType, text: &str) -> bool {
    match ty {
        SqlType::TimestampTz | SqlType::Regclass => true,
        SqlType::Date | SqlType::Time | SqlType::Timestamp => {
            !text.trim_start().starts_with(|c: char| c.is_ascii_digit())
        }
        SqlType::Array(elem) => session_dependent(*elem, ""),
        _ => false,
    }
}

/// Whether values of the two types are the same in memory.
fn same_in_memory(from: SqlType, to: SqlType) -> bool {
    let plain = |ty: SqlType| matches!(ty, SqlType::Text | SqlType::Varchar | SqlType::Name);
    match (from, to) {
        (SqlType::Int2 | SqlType::Int4, SqlType::Int4 | SqlType::Int8) => true,
        (SqlType::Name | SqlType::Varchar | SqlType::Text, SqlType::Text | SqlType::Varchar) => {
            plain(from) && plain(to)
        }
        (SqlType::QChar, SqlType::Text) => true,
        (from, to) => from.is_oid() && to.is_oid(),
    }
}

/// Converts an expression to a type, as far as the context allows it.
pub(crate) fn coerce(
    params: &mut [Option<SqlType>],
    format: &FormatSettings,
    typed: Typed,
    to: TypeSpec,
    context: CastContext,
) -> Result<Expr> {
    let explicit = context == CastContext::Explicit;
    let from = typed.ty();
    let with_typmod = |expr: Expr| {
        if to.typmod < 0 || typed.spec == to {
            expr
        } else {
            Expr::Cast { expr: Box::new(expr), from: to.ty, to, explicit }
        }
    };
    if from == SqlType::Unknown {
        match &typed.expr {
            Expr::Param(i) => {
                let slot =
                    params.get_mut(*i).ok_or_else(|| SqlError::internal("no such parameter"))?;
                match *slot {
                    None => *slot = Some(to.ty),
                    Some(known) if known == to.ty => {}
                    // Another use of the same parameter told its type first.
                    Some(known) => {
                        let again = Typed::new(typed.expr.clone(), known);
                        return coerce(params, format, again, to, context);
                    }
                }
                return Ok(with_typmod(typed.expr));
            }
            Expr::Const(Datum::Null) => return Ok(Expr::Const(Datum::Null)),
            Expr::Const(Datum::Text(text)) if !session_dependent(to.ty, text) => {
                let value = Datum::decode_text(to.ty, text, format)?;
                return Ok(with_typmod(Expr::Const(value)));
            }
            _ if to.ty == SqlType::Text => return Ok(with_typmod(typed.expr)),
            _ => return Ok(cast_expr(typed.expr, from, to, explicit)),
        }
    }
    if from == to.ty || same_in_memory(from, to.ty) {
        return Ok(with_typmod(typed.expr));
    }
    match cast_context(from, to.ty) {
        Some(allowed) if allowed <= context => {}
        Some(_) | None if explicit => return Err(crate::cast::no_cast(from, to.ty)),
        _ => {
            return Err(SqlError::new(
                SqlState::DATATYPE_MISMATCH,
                format!("expression of type {from} cannot be used as {}", to.ty),
            )
            .with_hint("You will need to rewrite or cast the expression."));
        }
    }
    if let Expr::Const(value) = &typed.expr {
        // Numbers of another width: known now, and an index can use them.
        if from.is_number() && to.ty.is_number() {
            let value = crate::cast::cast(value, from, to.ty, format)?;
            return Ok(with_typmod(Expr::Const(value)));
        }
    }
    Ok(cast_expr(typed.expr, from, to, explicit))
}

/// The type that all of several expressions can have, as UNION, CASE, COALESCE and IN want it.
pub(super) fn common_type(what: &str, types: &[SqlType]) -> Result<SqlType> {
    let mut best = SqlType::Unknown;
    for ty in types.iter().copied().filter(|ty| *ty != SqlType::Unknown) {
        if best == SqlType::Unknown || best == ty {
            best = ty;
            continue;
        }
        if best.category() != ty.category() {
            return Err(SqlError::new(
                SqlState::DATATYPE_MISMATCH,
                format!("{what} types {best} and {ty} cannot be matched"),
            ));
        }
        let forward = cast_context(best, ty) == Some(CastContext::Implicit);
        let backward = cast_context(ty, best) == Some(CastContext::Implicit);
        match (forward, backward) {
            (true, false) => best = ty,
            (true, true) if ty.is_preferred() && !best.is_preferred() => best = ty,
            (false, false) if best.category() != Category::Numeric => {
                return Err(SqlError::new(
                    SqlState::DATATYPE_MISMATCH,
                    format!("{what} could not convert type {ty} to {best}"),
                ));
            }
            _ => {}
        }
    }
    Ok(if best == SqlType::Unknown { SqlType::Text } else { best })
}
