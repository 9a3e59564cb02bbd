//! Function calls: plain functions, aggregates, functions that yield rows.

use crdb_sqlfront::ast;

use super::types::common_type;
use super::{Analyzer, Place, Scope};
use crate::cast::CastContext;
use crate::datum::Datum;
use crate::error::{Result, SqlError, SqlState};
use crate::expr::{AggCall, Expr, FuncRef, SrfKind, Typed};
use crate::func::agg::{self, AggKind};
use crate::func::resolve;
use crate::plan::SortKey;
use crate::types::{SqlType, TypeSpec};

/// Functions that only window clauses give a meaning.
const WINDOW_ONLY: &[&str] = &[
    "row_number",
    "rank",
    "dense_rank",
    "percent_rank",
    "cume_dist",
    "ntile",
    "lag",
    "lead",
    "first_value",
    "last_value",
    "nth_value",
];

/// The lower-case name of a function, without the schema of the system.
pub(super) fn function_name(name: &ast::ObjectName) -> String {
    let parts: Vec<&str> = name.parts.iter().map(|p| p.value.as_str()).collect();
    match parts.as_slice() {
        ["pg_catalog", rest @ ..] => rest.join("."),
        all => all.join("."),
    }
}

impl Analyzer<'_> {
    pub(super) fn function_call(
        &mut self,
        scope: &mut Scope,
        call: &ast::FunctionCall,
        place: Place,
    ) -> Result<Typed> {
        let name = function_name(&call.name);
        let pos = call.name.pos();
        if call.over.is_some() || WINDOW_ONLY.contains(&name.as_str()) {
            return Err(SqlError::unsupported("window functions").with_position(pos.0).with_hint(
                "Aggregates with GROUP BY are available; windows come with a later version.",
            ));
        }
        if !call.within_group.is_empty() {
            return Err(SqlError::unsupported("WITHIN GROUP").with_position(pos.0));
        }
        if agg::is_aggregate(&name) {
            return self.aggregate(scope, call, &name, place).map_err(|e| at(e, pos));
        }
        if call.distinct || !call.order_by.is_empty() || call.filter.is_some() {
            return Err(SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("{name} is not an aggregate function"),
            )
            .with_position(pos.0));
        }
        let ast::FunctionArgs::List(args) = &call.args else {
            return Err(SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("{name}(*) specified, but {name} is not an aggregate function"),
            )
            .with_position(pos.0));
        };
        let args = self.exprs(scope, args, place)?;
        if let Some(kind) = srf_kind(&name) {
            let (kind, args, ty) = self.srf_args(&name, kind, args).map_err(|e| at(e, pos))?;
            return Ok(Typed::new(Expr::Srf(kind, args), ty));
        }
        self.call_function(&name, args).map_err(|e| at(e, pos))
    }

    /// Resolves and builds the call of a plain function.
    pub(super) fn call_function(&mut self, name: &str, args: Vec<Typed>) -> Result<Typed> {
        match name {
            "coalesce" | "ifnull" => return self.coalesce(name, args),
            "nullif" => return self.nullif(args),
            "if" => return self.if_function(args),
            "pg_typeof" => {
                let ty = args.first().map_or(SqlType::Unknown, Typed::ty);
                return Ok(Typed::new(Expr::Const(Datum::Oid(ty.oid())), SqlType::Regtype));
            }
            _ => {}
        }
        let types: Vec<SqlType> = args.iter().map(Typed::ty).collect();
        let resolved = resolve(name, &types)?;
        let args = args
            .into_iter()
            .zip(&resolved.args)
            .map(|(arg, ty)| self.coerce(arg, TypeSpec::plain(*ty), CastContext::Assignment))
            .collect::<Result<_>>()?;
        Ok(Typed::new(Expr::Call(FuncRef(resolved.entry), args), resolved.result))
    }

    fn coalesce(&mut self, name: &str, args: Vec<Typed>) -> Result<Typed> {
        if args.is_empty() {
            return Err(SqlError::syntax(format!("{name} needs an argument")));
        }
        let types: Vec<SqlType> = args.iter().map(Typed::ty).collect();
        let ty = common_type("COALESCE", &types)?;
        let args = args.into_iter().map(|a| self.coerce_implicit(a, ty)).collect::<Result<_>>()?;
        Ok(Typed::new(Expr::Coalesce(args), ty))
    }

    fn nullif(&mut self, args: Vec<Typed>) -> Result<Typed> {
        let Ok([l, r]) = <[Typed; 2]>::try_from(args) else {
            return Err(SqlError::new(SqlState::UNDEFINED_FUNCTION, "nullif takes two arguments"));
        };
        let ty = l.ty();
        let (left, right) = self.comparable(l.clone(), r, "=", ast::Pos::UNKNOWN)?;
        let ty = if ty == SqlType::Unknown { SqlType::Text } else { ty };
        let value = self.coerce_implicit(l, ty)?;
        let equal = Expr::Compare(crate::expr::CmpOp::Eq, Box::new(left), Box::new(right));
        let branches = vec![(equal, Expr::Const(Datum::Null))];
        Ok(Typed::new(Expr::Case { branches, otherwise: Box::new(value) }, ty))
    }

    fn if_function(&mut self, args: Vec<Typed>) -> Result<Typed> {
        let Ok([condition, then, otherwise]) = <[Typed; 3]>::try_from(args) else {
            return Err(SqlError::new(SqlState::UNDEFINED_FUNCTION, "if takes three arguments"));
        };
        let ty = common_type("IF", &[then.ty(), otherwise.ty()])?;
        let condition = self.coerce_implicit(condition, SqlType::Bool)?;
        let then = self.coerce_implicit(then, ty)?;
        let otherwise = Box::new(self.coerce_implicit(otherwise, ty)?);
        Ok(Typed::new(Expr::Case { branches: vec![(condition, then)], otherwise }, ty))
    }

    fn aggregate(
        &mut self,
        scope: &mut Scope,
        call: &ast::FunctionCall,
        name: &str,
        place: Place,
    ) -> Result<Typed> {
        if self.in_aggregate {
            return Err(SqlError::new(
                SqlState::GROUPING_ERROR,
                "aggregate function calls cannot be nested",
            ));
        }
        if let Place::Plain(clause) = place {
            return Err(SqlError::new(
                SqlState::GROUPING_ERROR,
                format!("aggregate functions are not allowed in {clause}"),
            ));
        }
        self.in_aggregate = true;
        let result = self.aggregate_inner(scope, call, name, place);
        self.in_aggregate = false;
        result
    }

    fn aggregate_inner(
        &mut self,
        scope: &mut Scope,
        call: &ast::FunctionCall,
        name: &str,
        place: Place,
    ) -> Result<Typed> {
        let filter = match &call.filter {
            Some(filter) => Some(self.condition(scope, filter, place, "FILTER")?),
            None => None,
        };
        let ast::FunctionArgs::List(args) = &call.args else {
            if name != "count" {
                return Err(undefined(name, &[]));
            }
            let agg = AggCall {
                kind: AggKind::CountRows,
                args: Vec::new(),
                arg_type: SqlType::Int8,
                result: SqlType::Int8,
                distinct: false,
                filter,
                order_by: Vec::new(),
            };
            return Ok(Typed::new(Expr::Aggregate(Box::new(agg)), SqlType::Int8));
        };
        let args = self.exprs(scope, args, place)?;
        let types: Vec<SqlType> = args.iter().map(Typed::ty).collect();
        let (kind, takes, result) =
            agg::resolve(name, &types).ok_or_else(|| undefined(name, &types))?;
        let arg_type = takes.first().copied().unwrap_or(SqlType::Unknown);
        let args = args
            .into_iter()
            .zip(&takes)
            .map(|(arg, ty)| self.coerce(arg, TypeSpec::plain(*ty), CastContext::Assignment))
            .collect::<Result<_>>()?;
        let mut order_by = Vec::new();
        for key in &call.order_by {
            let typed = self.expr(scope, &key.expr, place)?;
            order_by.push(SortKey {
                expr: typed.expr,
                descending: key.descending,
                nulls_first: key.nulls_first.unwrap_or(!key.descending),
            });
        }
        let agg =
            AggCall { kind, args, arg_type, result, distinct: call.distinct, filter, order_by };
        Ok(Typed::new(Expr::Aggregate(Box::new(agg)), result))
    }

    /// Types and converts the arguments of a function that yields rows.
    pub(super) fn srf_args(
        &mut self,
        name: &str,
        kind: SrfKind,
        args: Vec<Typed>,
    ) -> Result<(SrfKind, Vec<Expr>, SqlType)> {
        let types: Vec<SqlType> = args.iter().map(Typed::ty).collect();
        let no = || undefined(name, &types);
        let (kind, takes, result): (SrfKind, Vec<SqlType>, SqlType) = match kind {
            SrfKind::Series => {
                let first = common_type("generate_series", types.get(..2).ok_or_else(no)?)?;
                match (first, types.len()) {
                    (t, 2 | 3) if t.is_int() || t == SqlType::Text => {
                        (kind, vec![SqlType::Int8; types.len()], SqlType::Int8)
                    }
                    (SqlType::Numeric, 2 | 3) => {
                        (SrfKind::SeriesNumeric, vec![first; types.len()], first)
                    }
                    (SqlType::Timestamp | SqlType::Date, 3) => (
                        SrfKind::SeriesTimestamp,
                        vec![SqlType::Timestamp, SqlType::Timestamp, SqlType::Interval],
                        SqlType::Timestamp,
                    ),
                    (SqlType::TimestampTz, 3) => {
                        (SrfKind::SeriesTimestampTz, vec![first, first, SqlType::Interval], first)
                    }
                    _ => return Err(no()),
                }
            }
            SrfKind::Unnest => match types.as_slice() {
                [SqlType::Array(elem)] => (kind, types.clone(), **elem),
                _ => return Err(no()),
            },
            SrfKind::Subscripts => match types.as_slice() {
                [array @ SqlType::Array(_), _] => {
                    (kind, vec![*array, SqlType::Int8], SqlType::Int8)
                }
                _ => return Err(no()),
            },
            SrfKind::RegexpSplit => match types.len() {
                2 => (kind, vec![SqlType::Text; 2], SqlType::Text),
                _ => return Err(no()),
            },
            SrfKind::JsonElements => (kind, vec![SqlType::Jsonb], SqlType::Jsonb),
            SrfKind::JsonElementsText | SrfKind::JsonKeys => {
                (kind, vec![SqlType::Jsonb], SqlType::Text)
            }
            _ => return Err(no()),
        };
        if takes.len() != args.len() {
            return Err(no());
        }
        let args = args
            .into_iter()
            .zip(takes)
            .map(|(arg, ty)| self.coerce(arg, TypeSpec::plain(ty), CastContext::Assignment))
            .collect::<Result<_>>()?;
        Ok((kind, args, result))
    }
}

fn at(error: SqlError, pos: ast::Pos) -> SqlError {
    if error.fields().position.is_some() { error } else { error.with_position(pos.0) }
}

fn undefined(name: &str, types: &[SqlType]) -> SqlError {
    let shown: Vec<String> = types.iter().map(|t| t.format_name()).collect();
    SqlError::new(
        SqlState::UNDEFINED_FUNCTION,
        format!("function {name}({}) does not exist", shown.join(", ")),
    )
    .with_hint(
        "No function matches the given name and argument types. You might need to add explicit type \
         casts.",
    )
}

/// Which functions yield rows.
pub(super) fn srf_kind(name: &str) -> Option<SrfKind> {
    Some(match name {
        "generate_series" => SrfKind::Series,
        "unnest" => SrfKind::Unnest,
        "generate_subscripts" => SrfKind::Subscripts,
        "regexp_split_to_table" => SrfKind::RegexpSplit,
        "jsonb_array_elements" | "json_array_elements" => SrfKind::JsonElements,
        "jsonb_array_elements_text" | "json_array_elements_text" => SrfKind::JsonElementsText,
        "jsonb_object_keys" | "json_object_keys" => SrfKind::JsonKeys,
        _ => return None,
    })
}
