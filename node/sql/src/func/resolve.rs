//! Which entry of the library a call means, by PostgreSQL's rules.

use super::{Arg, Builtin, Ret, candidates};
use crate::cast::{CastContext, cast_context};
use crate::error::{Result, SqlError, SqlState};
use crate::types::{Category, SqlType};

/// A resolved call: the entry, what each argument becomes, and the type of the result.
pub(crate) struct Resolved {
    pub(crate) entry: &'static Builtin,
    pub(crate) args: Vec<SqlType>,
    pub(crate) result: SqlType,
}

/// How well an entry fits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    exact: usize,
    preferred: usize,
    strings: usize,
}

fn implicit(from: SqlType, to: SqlType) -> bool {
    from == to || cast_context(from, to) == Some(CastContext::Implicit)
}

/// The common element type of the polymorphic arguments.
fn element_type(entry: &Builtin, given: &[SqlType]) -> Option<SqlType> {
    let mut found: Option<SqlType> = None;
    for (i, ty) in given.iter().enumerate() {
        let elem = match (arg_at(entry, i)?, ty) {
            (_, SqlType::Unknown) => continue,
            (Arg::Elem, ty) => *ty,
            (Arg::Arr, SqlType::Array(elem)) => **elem,
            (Arg::Arr, _) => return None,
            _ => continue,
        };
        found = Some(match found {
            None => elem,
            Some(old) if implicit(elem, old) => old,
            Some(old) if implicit(old, elem) => elem,
            Some(_) => return None,
        });
    }
    Some(found.unwrap_or(SqlType::Text))
}

fn arg_at(entry: &Builtin, i: usize) -> Option<Arg> {
    entry.args.get(i).or(if entry.variadic { entry.args.last() } else { None }).copied()
}

fn fits(entry: &'static Builtin, given: &[SqlType]) -> Option<(Score, Resolved)> {
    let required = if entry.variadic { entry.args.len() - 1 } else { entry.args.len() };
    if given.len() < required || (!entry.variadic && given.len() > required) {
        return None;
    }
    let elem = element_type(entry, given)?;
    let mut score = Score { exact: 0, preferred: 0, strings: 0 };
    let mut args = Vec::with_capacity(given.len());
    for (i, ty) in given.iter().enumerate() {
        let wanted = match arg_at(entry, i)? {
            Arg::T(wanted) => wanted,
            Arg::Any if *ty == SqlType::Unknown => SqlType::Text,
            Arg::Any => *ty,
            Arg::Elem => elem,
            Arg::Arr => elem.array_of()?,
        };
        if *ty == SqlType::Unknown {
            score.strings += usize::from(wanted.category() == Category::String);
        } else if wanted == *ty {
            score.exact += 1;
        } else if !implicit(*ty, wanted) {
            return None;
        }
        score.preferred += usize::from(wanted.is_preferred() && wanted != *ty);
        args.push(wanted);
    }
    let result = match entry.ret {
        Ret::T(ty) => ty,
        Ret::Elem => elem,
        Ret::Arr => elem.array_of()?,
    };
    Some((score, Resolved { entry, args, result }))
}

/// Finds the entry for a call.
pub(crate) fn resolve(name: &str, given: &[SqlType]) -> Result<Resolved> {
    let mut best: Option<(Score, Resolved)> = None;
    let mut tie = false;
    for entry in candidates(name) {
        let Some((score, resolved)) = fits(entry, given) else { continue };
        match &best {
            Some((old, _)) if *old > score => {}
            Some((old, _)) if *old == score => tie = true,
            _ => {
                best = Some((score, resolved));
                tie = false;
            }
        }
    }
    let shown: Vec<String> = given.iter().map(|ty| ty.format_name()).collect();
    match best {
        Some((score, _)) if tie && score.exact < given.len() => Err(SqlError::new(
            SqlState::AMBIGUOUS_FUNCTION,
            format!("function {name}({}) is not unique", shown.join(", ")),
        )
        .with_hint("Could not choose a best candidate function. You might need to add explicit type casts.")),
        Some((_, resolved)) => Ok(resolved),
        None => Err(SqlError::new(
            SqlState::UNDEFINED_FUNCTION,
            format!("function {name}({}) does not exist", shown.join(", ")),
        )
        .with_hint(
            "No function matches the given name and argument types. You might need to add explicit \
             type casts.",
        )),
    }
}
