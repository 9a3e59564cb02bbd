//! Walking and rewriting expressions.

use super::{Expr, SubqueryKind};
use crate::error::Result;
use crate::types::SqlType;

/// The type itself, or that of an array's elements.
fn element(ty: SqlType) -> SqlType {
    match ty {
        SqlType::Array(elem) => *elem,
        ty => ty,
    }
}

impl Expr {
    /// Calls `f` for every direct part.
    fn each_part<'a>(&'a self, f: &mut dyn FnMut(&'a Self)) {
        match self {
            Self::Const(_)
            | Self::Column(_)
            | Self::Outer { .. }
            | Self::Param(_)
            | Self::Slot(_) => {}
            Self::Binary(_, l, r)
            | Self::Compare(_, l, r)
            | Self::And(l, r)
            | Self::Or(l, r)
            | Self::Subscript(l, r)
            | Self::Distinct { left: l, right: r, .. }
            | Self::Quantified { left: l, array: r, .. } => {
                f(l);
                f(r);
            }
            Self::Not(e)
            | Self::IsNull(e, _)
            | Self::IsBool { expr: e, .. }
            | Self::Cast { expr: e, .. } => f(e),
            Self::Call(_, items)
            | Self::Srf(_, items)
            | Self::Coalesce(items)
            | Self::Array { items, .. }
            | Self::InSlot { left: items, .. } => items.iter().for_each(f),
            Self::InList { expr, list, .. } => {
                f(expr);
                list.iter().for_each(f);
            }
            Self::Case { branches, otherwise } => {
                for (when, then) in branches {
                    f(when);
                    f(then);
                }
                f(otherwise);
            }
            Self::Aggregate(call) => {
                call.args.iter().for_each(&mut *f);
                call.filter.iter().for_each(&mut *f);
                call.order_by.iter().for_each(|k| f(&k.expr));
            }
            Self::Subquery(sub) => {
                if let SubqueryKind::Quantified { left, .. } = &sub.kind {
                    left.iter().for_each(f);
                }
            }
        }
    }

    fn each_part_mut(&mut self, f: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<()> {
        match self {
            Self::Const(_)
            | Self::Column(_)
            | Self::Outer { .. }
            | Self::Param(_)
            | Self::Slot(_) => Ok(()),
            Self::Binary(_, l, r)
            | Self::Compare(_, l, r)
            | Self::And(l, r)
            | Self::Or(l, r)
            | Self::Subscript(l, r)
            | Self::Distinct { left: l, right: r, .. }
            | Self::Quantified { left: l, array: r, .. } => {
                f(l)?;
                f(r)
            }
            Self::Not(e)
            | Self::IsNull(e, _)
            | Self::IsBool { expr: e, .. }
            | Self::Cast { expr: e, .. } => f(e),
            Self::Call(_, items)
            | Self::Srf(_, items)
            | Self::Coalesce(items)
            | Self::Array { items, .. }
            | Self::InSlot { left: items, .. } => items.iter_mut().try_for_each(f),
            Self::InList { expr, list, .. } => {
                f(expr)?;
                list.iter_mut().try_for_each(f)
            }
            Self::Case { branches, otherwise } => {
                for (when, then) in branches {
                    f(when)?;
                    f(then)?;
                }
                f(otherwise)
            }
            Self::Aggregate(call) => {
                call.args.iter_mut().try_for_each(&mut *f)?;
                call.filter.iter_mut().try_for_each(&mut *f)?;
                call.order_by.iter_mut().try_for_each(|k| f(&mut k.expr))
            }
            Self::Subquery(sub) => match &mut sub.kind {
                SubqueryKind::Quantified { left, .. } => left.iter_mut().try_for_each(f),
                _ => Ok(()),
            },
        }
    }

    /// Whether this or any part satisfies `f`.
    pub(crate) fn any(&self, f: &mut dyn FnMut(&Self) -> bool) -> bool {
        if f(self) {
            return true;
        }
        let mut found = false;
        self.each_part(&mut |part| found = found || crate::stack::deep(|| part.any(f)));
        found
    }

    /// Rewrites bottom-up, parts first.
    pub(crate) fn rewrite(&mut self, f: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.each_part_mut(&mut |part| crate::stack::deep(|| part.rewrite(f)))?;
        f(self)
    }

    /// Rewrites top-down; parts of what `f` replaced (true) are left alone.
    pub(crate) fn rewrite_down(
        &mut self,
        f: &mut dyn FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        if f(self)? {
            return Ok(());
        }
        self.each_part_mut(&mut |part| crate::stack::deep(|| part.rewrite_down(f)))
    }

    /// The columns of the input row that are read, those of subqueries included.
    pub(crate) fn columns(&self, out: &mut Vec<usize>) {
        match self {
            Self::Column(i) => out.push(*i),
            Self::Subquery(sub) => out.extend(&sub.outer_columns),
            _ => {}
        }
        self.each_part(&mut |part| crate::stack::deep(|| part.columns(out)));
    }

    /// Moves all columns by an offset.
    pub(crate) fn shift(&mut self, by: isize) {
        let result = self.rewrite(&mut |e| {
            if let Self::Column(i) = e {
                *i = i.saturating_add_signed(by);
            }
            Ok(())
        });
        debug_assert!(result.is_ok(), "moving columns cannot fail");
    }

    /// Whether the value is the same for every input row: no column, nothing volatile.
    pub(crate) fn is_row_independent(&self) -> bool {
        !self.any(&mut |e| match e {
            Self::Column(_) | Self::Aggregate(_) | Self::Subquery(_) | Self::Srf(..) => true,
            Self::Call(f, _) => f.0.volatile,
            _ => false,
        })
    }

    /// Whether the value is known when the statement is analyzed.
    pub(crate) fn is_constant(&self) -> bool {
        !self.any(&mut |e| match e {
            Self::Column(_)
            | Self::Aggregate(_)
            | Self::Subquery(_)
            | Self::Srf(..)
            | Self::Outer { .. }
            | Self::Param(_)
            | Self::Slot(_)
            | Self::InSlot { .. } => true,
            Self::Call(f, _) => f.0.volatile || f.0.stable,
            // Text forms of times depend on the session, and some texts on the time.
            Self::Cast { from, to, .. } => {
                let (from, to) = (element(*from), element(to.ty));
                from.category() != to.category() && !from.is_number() || to.is_oid()
            }
            _ => false,
        })
    }

    /// Splits at AND.
    pub(crate) fn conjuncts(self, out: &mut Vec<Self>) {
        match self {
            Self::And(l, r) => {
                l.conjuncts(out);
                r.conjuncts(out);
            }
            other => out.push(other),
        }
    }

    /// Joins with AND; none for no conditions.
    pub(crate) fn all_of(items: impl IntoIterator<Item = Self>) -> Option<Self> {
        items.into_iter().reduce(|l, r| Self::And(Box::new(l), Box::new(r)))
    }
}
