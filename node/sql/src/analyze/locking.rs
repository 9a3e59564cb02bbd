//! FOR UPDATE and its relatives: which scans of a query lock the rows they yield.

use crdb_sqlfront::ast::{self, LockStrength};

use crate::error::{Result, SqlError, SqlState};
use crate::plan::{LockWait, Plan, RowLock};

fn spelling(strength: LockStrength) -> &'static str {
    match strength {
        LockStrength::Update => "FOR UPDATE",
        LockStrength::NoKeyUpdate => "FOR NO KEY UPDATE",
        LockStrength::Share => "FOR SHARE",
        LockStrength::KeyShare => "FOR KEY SHARE",
    }
}

fn refused(clause: &ast::Locking, what: &str) -> SqlError {
    let message = format!("{} is not allowed with {what}", spelling(clause.strength));
    SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message).with_position(clause.pos.0)
}

/// Makes the scans of a query's FROM clause take the locks that its locking clauses ask for.
pub(super) fn lock_rows(query: &ast::Query, plan: &mut Plan) -> Result<()> {
    for clause in &query.locking {
        check(query, clause)?;
        let lock = RowLock {
            exclusive: clause.strength >= LockStrength::NoKeyUpdate,
            wait: match clause.wait {
                ast::LockWait::Block => LockWait::Block,
                ast::LockWait::NoWait => LockWait::Fail,
                ast::LockWait::SkipLocked => LockWait::Skip,
            },
        };
        if clause.of.is_empty() {
            if let Some(what) = mark(plan, None, lock).merged {
                return Err(refused(clause, what));
            }
            continue;
        }
        for name in &clause.of {
            let found = mark(plan, Some(&name.last().value), lock);
            match found.merged {
                _ if found.scan => {}
                Some(what) => return Err(refused(clause, what)),
                None => {
                    return Err(SqlError::new(
                        SqlState::UNDEFINED_TABLE,
                        format!(
                            "relation \"{}\" in {} clause not found in FROM clause",
                            name.last().value,
                            spelling(clause.strength)
                        ),
                    )
                    .with_position(name.pos().0));
                }
            }
        }
    }
    Ok(())
}

/// Rows that were merged or computed are no rows of a table any more.
fn check(query: &ast::Query, clause: &ast::Locking) -> Result<()> {
    match &query.body {
        ast::QueryBody::Select(select) => {
            if !matches!(select.distinct, ast::Distinct::All) {
                return Err(refused(clause, "DISTINCT clause"));
            }
            if !select.group_by.is_empty() {
                return Err(refused(clause, "GROUP BY clause"));
            }
            if select.having.is_some() {
                return Err(refused(clause, "HAVING clause"));
            }
            Ok(())
        }
        ast::QueryBody::SetOp { .. } => Err(refused(clause, "UNION/INTERSECT/EXCEPT")),
        ast::QueryBody::Values(_) => Err(refused(clause, "VALUES")),
        ast::QueryBody::Query(_) => Ok(()),
    }
}

/// What was met on the way to the tables.
#[derive(Clone, Copy, Default)]
struct Found {
    /// A scan that locks its rows now.
    scan: bool,
    /// Rows that are no rows of a table any more, and what made them so.
    merged: Option<&'static str>,
}

impl Found {
    fn merged(what: &'static str) -> Self {
        Self { scan: false, merged: Some(what) }
    }

    fn and(self, other: Self) -> Self {
        Self { scan: self.scan || other.scan, merged: self.merged.or(other.merged) }
    }
}

fn mark(plan: &mut Plan, name: Option<&str>, lock: RowLock) -> Found {
    match plan {
        Plan::Scan(scan) if name.is_none_or(|name| scan.alias == name) => {
            scan.lock = Some(lock.and(scan.lock));
            Found { scan: true, merged: None }
        }
        Plan::Filter { input, .. }
        | Plan::Project { input, .. }
        | Plan::ProjectSet { input, .. }
        | Plan::Ordinality(input)
        | Plan::Sort { input, .. }
        | Plan::Limit { input, .. }
        | Plan::Apply { input, .. } => mark(input, name, lock),
        Plan::Join(join) => mark(&mut join.left, name, lock).and(mark(&mut join.right, name, lock)),
        Plan::LateralJoin(join) => {
            mark(&mut join.left, name, lock).and(mark(&mut join.right, name, lock))
        }
        Plan::Aggregate { .. } => Found::merged("aggregate functions"),
        Plan::Distinct { .. } => Found::merged("DISTINCT clause"),
        Plan::SetOp { .. } => Found::merged("UNION/INTERSECT/EXCEPT"),
        Plan::Scan(_) | Plan::Values(_) | Plan::Virtual(_) | Plan::Show(_) => Found::default(),
    }
}
