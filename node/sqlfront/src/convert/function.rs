//! Function calls and the SQL forms that are calls in disguise.

use sqlparser::ast as sp;

use super::{Converter, Result};
use crate::ast::{
    Expr, FunctionArgs, FunctionCall, Ident, Literal, ObjectName, OrderBy, Pos, WindowClause,
    WindowSpec,
};

impl Converter<'_> {
    /// Converts the forms that are function calls with a syntax of their own.
    pub(crate) fn function_form(&mut self, expr: sp::Expr) -> Result<Expr> {
        use sp::Expr as E;
        let pos = self.last_pos;
        match expr {
            E::Function(function) => self.function(function),
            E::Extract { field, syntax: sp::ExtractSyntax::From, expr } => {
                let field = field.to_string().trim_matches('\'').to_lowercase();
                let field = Expr::Literal(Literal::String(field), pos);
                let from = self.expr(*expr)?;
                Ok(call("extract", vec![field, from], pos))
            }
            E::Ceil {
                expr,
                field: sp::CeilFloorKind::DateTimeField(sp::DateTimeField::NoDateTime),
            } => {
                let arg = self.expr(*expr)?;
                Ok(call("ceil", vec![arg], pos))
            }
            E::Floor {
                expr,
                field: sp::CeilFloorKind::DateTimeField(sp::DateTimeField::NoDateTime),
            } => {
                let arg = self.expr(*expr)?;
                Ok(call("floor", vec![arg], pos))
            }
            E::Position { expr, r#in } => {
                let needle = self.expr(*expr)?;
                let haystack = self.expr(*r#in)?;
                Ok(call("position", vec![haystack, needle], pos))
            }
            E::Substring { expr, substring_from, substring_for, special: _, shorthand } => {
                let mut args = vec![self.expr(*expr)?];
                match (substring_from, substring_for) {
                    (Some(from), length) => {
                        args.push(self.expr(*from)?);
                        if let Some(length) = length {
                            args.push(self.expr(*length)?);
                        }
                    }
                    (None, Some(length)) => {
                        args.push(Expr::Literal(Literal::Number("1".to_owned()), pos));
                        args.push(self.expr(*length)?);
                    }
                    (None, None) => {}
                }
                Ok(call(if shorthand { "substr" } else { "substring" }, args, pos))
            }
            E::Trim { trim_where, trim_what, expr, trim_characters } => {
                let name = match trim_where {
                    None | Some(sp::TrimWhereField::Both) => "btrim",
                    Some(sp::TrimWhereField::Leading) => "ltrim",
                    Some(sp::TrimWhereField::Trailing) => "rtrim",
                };
                let mut args = vec![self.expr(*expr)?];
                if let Some(what) = trim_what {
                    args.push(self.expr(*what)?);
                }
                args.extend(self.exprs(trim_characters.unwrap_or_default())?);
                Ok(call(name, args, pos))
            }
            E::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
                let mut args =
                    vec![self.expr(*expr)?, self.expr(*overlay_what)?, self.expr(*overlay_from)?];
                if let Some(length) = overlay_for {
                    args.push(self.expr(*length)?);
                }
                Ok(call("overlay", args, pos))
            }
            other => {
                let text: String = other.to_string().chars().take(40).collect();
                self.syntax(&text, Pos::UNKNOWN)
            }
        }
    }

    /// Converts a function call.
    pub(crate) fn function(&mut self, function: sp::Function) -> Result<Expr> {
        let sp::Function {
            name,
            uses_odbc_syntax,
            parameters,
            args,
            within_group,
            filter,
            null_treatment,
            over,
        } = function;
        self.absent(uses_odbc_syntax, "{")?;
        self.absent(!matches!(parameters, sp::FunctionArguments::None), "(")?;
        let name = self.object_name(name)?;
        let pos = name.pos();
        let (args, distinct, order_by, bare) = match args {
            sp::FunctionArguments::None => {
                (FunctionArgs::List(Vec::new()), false, Vec::new(), true)
            }
            sp::FunctionArguments::Subquery(query) => {
                let query = self.boxed_query(*query)?;
                if name.parts.len() == 1 && name.last().value == "array" && !name.last().quoted {
                    return Ok(Expr::ArraySubquery(query, pos));
                }
                let argument = Expr::Subquery(query, pos);
                (FunctionArgs::List(vec![argument]), false, Vec::new(), false)
            }
            sp::FunctionArguments::List(list) => {
                let (args, distinct, order_by) = self.argument_list(list)?;
                (args, distinct, order_by, false)
            }
        };
        if null_treatment.is_some() {
            return self.unsupported("IGNORE NULLS and RESPECT NULLS");
        }
        if let (FunctionArgs::List(items), [only]) = (&args, name.parts.as_slice())
            && only.value == "row"
            && !only.quoted
            && !bare
        {
            return Ok(Expr::Row(items.clone(), pos));
        }
        let within_group = self.order_by_exprs(within_group)?;
        let filter = filter.map(|filter| self.expr(*filter)).transpose()?;
        let over = over.map(|over| self.window(over)).transpose()?;
        let call =
            FunctionCall { name, args, distinct, order_by, within_group, filter, over, bare };
        Ok(Expr::Function(Box::new(call)))
    }

    fn argument_list(
        &mut self,
        list: sp::FunctionArgumentList,
    ) -> Result<(FunctionArgs, bool, Vec<OrderBy>)> {
        let sp::FunctionArgumentList { duplicate_treatment, args, clauses } = list;
        let mut order_by = Vec::new();
        for clause in clauses {
            match clause {
                sp::FunctionArgumentClause::OrderBy(keys) => {
                    order_by = self.order_by_exprs(keys)?;
                }
                other => return self.syntax(&other.to_string(), Pos::UNKNOWN),
            }
        }
        let distinct = matches!(duplicate_treatment, Some(sp::DuplicateTreatment::Distinct));
        Ok((self.function_args(args)?, distinct, order_by))
    }

    /// Converts the arguments of a call.
    pub(crate) fn function_args(&mut self, args: Vec<sp::FunctionArg>) -> Result<FunctionArgs> {
        let star = args.len() == 1;
        let mut items = Vec::with_capacity(args.len());
        for arg in args {
            match arg {
                sp::FunctionArg::Unnamed(sp::FunctionArgExpr::Expr(expr)) => {
                    items.push(self.expr(expr)?);
                }
                sp::FunctionArg::Unnamed(sp::FunctionArgExpr::Wildcard) if star => {
                    return Ok(FunctionArgs::Star);
                }
                sp::FunctionArg::Named { .. } | sp::FunctionArg::ExprNamed { .. } => {
                    return self.unsupported("named function arguments");
                }
                sp::FunctionArg::Unnamed(sp::FunctionArgExpr::QualifiedWildcard(_)) => {
                    return self.unsupported("whole-row function arguments");
                }
                sp::FunctionArg::Unnamed(
                    sp::FunctionArgExpr::Wildcard | sp::FunctionArgExpr::WildcardWithOptions(_),
                ) => return self.syntax("*", Pos::UNKNOWN),
            }
        }
        Ok(FunctionArgs::List(items))
    }

    fn window(&mut self, over: sp::WindowType) -> Result<WindowClause> {
        match over {
            sp::WindowType::NamedWindow(name) => Ok(WindowClause::Named(self.ident(name)?)),
            sp::WindowType::WindowSpec(spec) => Ok(WindowClause::Spec(self.window_spec(spec)?)),
        }
    }

    /// Converts a window definition.
    pub(crate) fn window_spec(&mut self, spec: sp::WindowSpec) -> Result<WindowSpec> {
        let sp::WindowSpec { window_name, partition_by, order_by, window_frame } = spec;
        Ok(WindowSpec {
            base: window_name.map(|name| self.ident(name)).transpose()?,
            partition_by: self.exprs(partition_by)?,
            order_by: self.order_by_exprs(order_by)?,
            frame: window_frame.map(|frame| match frame.end_bound {
                None => format!("{} {}", frame.units, frame.start_bound),
                Some(end) => format!("{} BETWEEN {} AND {end}", frame.units, frame.start_bound),
            }),
        })
    }
}

/// Makes a plain call.
fn call(name: &str, args: Vec<Expr>, pos: Pos) -> Expr {
    let ident = Ident { value: name.to_owned(), quoted: false, pos };
    Expr::Function(Box::new(FunctionCall {
        name: ObjectName::unqualified(ident),
        args: FunctionArgs::List(args),
        distinct: false,
        order_by: Vec::new(),
        within_group: Vec::new(),
        filter: None,
        over: None,
        bare: false,
    }))
}
