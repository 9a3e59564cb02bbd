//! Rules: conditions move to where their rows come from, joins find their equal expressions, scans
//! read only the columns that are used.

use super::{Constraint, Join, JoinKind, Plan};
use crate::expr::{CmpOp, Expr};

/// Applies conditions to a plan as deep as possible.
pub(crate) fn push_filter(plan: Plan, mut conditions: Vec<Expr>) -> Plan {
    if conditions.is_empty() {
        return plan;
    }
    match plan {
        Plan::Scan(mut scan) => {
            conditions.extend(scan.filter.take());
            if scan.constraint.is_full() {
                scan.constraint = Constraint::extract(&scan.table, scan.points, &mut conditions);
            }
            scan.filter = Expr::all_of(conditions);
            Plan::Scan(scan)
        }
        Plan::Filter { input, predicate } => {
            predicate.conjuncts(&mut conditions);
            push_filter(*input, conditions)
        }
        Plan::Join(join) => push_into_join(*join, conditions),
        Plan::LateralJoin(mut join) => {
            let width = join.left_width;
            let (left, above): (Vec<Expr>, Vec<Expr>) = conditions
                .into_iter()
                .partition(|condition| !volatile(condition) && !sides(condition, width).1);
            join.left = push_filter(join.left, left);
            Plan::LateralJoin(join).filter(Expr::all_of(above))
        }
        other => other.filter(Expr::all_of(conditions)),
    }
}

/// Which sides of a join a condition reads: left, right.
fn sides(condition: &Expr, left_width: usize) -> (bool, bool) {
    let mut columns = Vec::new();
    condition.columns(&mut columns);
    (columns.iter().any(|c| *c < left_width), columns.iter().any(|c| *c >= left_width))
}

fn volatile(condition: &Expr) -> bool {
    condition.any(&mut |e| matches!(e, Expr::Call(f, _) if f.0.volatile))
}

fn push_into_join(mut join: Join, conditions: Vec<Expr>) -> Plan {
    let offset = isize::try_from(join.left_width).unwrap_or(isize::MAX);
    let (mut left, mut right, mut above) = (Vec::new(), Vec::new(), Vec::new());
    let mut inner = Vec::new();
    for mut condition in conditions {
        let (l, r) = sides(&condition, join.left_width);
        match (l, r, join.kind) {
            _ if volatile(&condition) => above.push(condition),
            (_, false, JoinKind::Inner | JoinKind::Left) => left.push(condition),
            (false, true, JoinKind::Inner | JoinKind::Right) => {
                condition.shift(-offset);
                right.push(condition);
            }
            (true, true, JoinKind::Inner) => inner.push(condition),
            _ => above.push(condition),
        }
    }
    inner.extend(join.condition.take());
    join.left = push_filter(join.left, left);
    join.right = push_filter(join.right, right);
    let join = with_condition(join, inner);
    Plan::Join(Box::new(join)).filter(Expr::all_of(above))
}

/// Gives a join the conditions that decide which rows are partners.
pub(crate) fn with_condition(mut join: Join, conditions: Vec<Expr>) -> Join {
    let offset = isize::try_from(join.left_width).unwrap_or(isize::MAX);
    let mut rest: Vec<Expr> = join.condition.take().into_iter().collect();
    let mut parts = Vec::new();
    for condition in conditions {
        condition.conjuncts(&mut parts);
    }
    for condition in parts {
        if let Expr::Compare(CmpOp::Eq, a, b) = &condition {
            let (sa, sb) = (sides(a, join.left_width), sides(b, join.left_width));
            let pair = match (sa, sb) {
                ((true, false), (false, true)) => Some((a, b)),
                ((false, true), (true, false)) => Some((b, a)),
                _ => None,
            };
            if let Some((l, r)) = pair.filter(|_| !volatile(&condition)) {
                let (l, mut r) = (l.as_ref().clone(), r.as_ref().clone());
                r.shift(-offset);
                join.keys.push((l, r));
                continue;
            }
        }
        // A condition on the side that may come out empty selects its partners.
        let (l, r) = sides(&condition, join.left_width);
        match (l, r, join.kind) {
            _ if volatile(&condition) => rest.push(condition),
            (false, true, JoinKind::Inner | JoinKind::Left) => {
                let mut condition = condition;
                condition.shift(-offset);
                join.right = push_filter(join.right, vec![condition]);
            }
            (true, false, JoinKind::Inner | JoinKind::Right) => {
                join.left = push_filter(join.left, vec![condition]);
            }
            _ => rest.push(condition),
        }
    }
    join.condition = Expr::all_of(rest);
    join
}

/// Tells the scans of a FROM clause which of their columns are used. Returns the width.
pub(crate) fn use_columns(plan: &mut Plan, used: &[bool]) {
    match plan {
        Plan::Scan(scan) => {
            for (needed, used) in scan.needed.iter_mut().zip(used) {
                *needed |= *used;
            }
            let mut columns = Vec::new();
            if let Some(filter) = &scan.filter {
                filter.columns(&mut columns);
            }
            for column in columns {
                if let Some(needed) = scan.needed.get_mut(column) {
                    *needed = true;
                }
            }
        }
        Plan::Filter { input, .. } | Plan::Apply { input, .. } => use_columns(input, used),
        // The right side is a whole query or function, which reads what it needs.
        Plan::LateralJoin(join) => {
            use_columns(&mut join.left, used.get(..join.left_width).unwrap_or(used));
        }
        Plan::Join(join) => {
            let (left, right) = used.split_at_checked(join.left_width).unwrap_or((used, &[]));
            use_columns(&mut join.left, left);
            use_columns(&mut join.right, right);
        }
        _ => {}
    }
}
