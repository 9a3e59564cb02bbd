//! Pairs of transactions that each look for any row of a pair and insert one if there is none.
//!
//! Checked: of each pair one commits at most: the other would have seen its row (anomaly G2 of
//! Adya, write skew over predicates). One row of the pair is in one table, the other in another.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use rand::rngs::StdRng;
use serde::Serialize;

use crate::history::Call;
use crate::session::{Failure, Session};
use crate::verdict::Verdict;
use crate::workload::{Table, Workload};

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Inserts a row of a pair unless one is there.
    Insert {
        /// The pair.
        pair: i64,
        /// The key of the row; even ones go into the first table.
        id: i64,
    },
    /// Reads the rows of a pair.
    Read(i64, Vec<i64>),
}

/// The workload.
#[derive(Debug)]
pub struct G2 {
    prefix: String,
    next: AtomicI64,
}

impl Workload for G2 {
    type Op = Op;
    const NAME: &'static str = "g2";

    fn new(prefix: &str) -> Self {
        G2 { prefix: format!("{prefix}g2_"), next: AtomicI64::new(0) }
    }

    fn tables(&self) -> Vec<Table> {
        let columns = "pair INT8, id INT8, v INT8 NOT NULL, PRIMARY KEY (pair, id)";
        let table = |n| Table { name: self.table(n), columns, keys: 0..1_000 };
        (0..2).map(table).collect()
    }

    fn next(&self, _rng: &mut StdRng) -> Op {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        Op::Insert { pair: id / 2, id }
    }

    fn is_read(op: &Op) -> bool {
        matches!(op, Op::Read(..))
    }

    async fn perform(&self, session: &mut Session, op: Op) -> Result<Op, Failure> {
        match op {
            Op::Insert { pair, id } => {
                session.begin().await?;
                if !self.rows(session, pair).await?.is_empty() {
                    session.rollback().await?;
                    return Err(Failure::Fail("the other one is there".to_owned()));
                }
                let table = self.table(id % 2);
                let sql = format!("INSERT INTO {table} (pair, id, v) VALUES ($1, $2, 30)");
                session.execute(&sql, &[pair.into(), id.into()]).await?;
                session.commit().await?;
                Ok(Op::Insert { pair, id })
            }
            Op::Read(pair, _) => Ok(Op::Read(pair, self.rows(session, pair).await?)),
        }
    }

    fn last(&self) -> Vec<Op> {
        let pairs = self.next.load(Ordering::Relaxed) / 2;
        (0..=pairs).rev().take(100).map(|pair| Op::Read(pair, Vec::new())).collect()
    }

    fn check(&self, calls: &[Call<Op>]) -> Verdict {
        check(calls)
    }
}

impl G2 {
    fn table(&self, n: i64) -> String {
        format!("{}{n}", self.prefix)
    }

    async fn rows(&self, session: &mut Session, pair: i64) -> Result<Vec<i64>, Failure> {
        let mut ids = Vec::new();
        for n in 0..2 {
            let sql = format!("SELECT id FROM {} WHERE pair = $1 AND v % 3 = 0", self.table(n));
            for row in session.rows(&sql, &[pair.into()]).await? {
                ids.push(row.int(0)?);
            }
        }
        Ok(ids)
    }
}

fn check(calls: &[Call<Op>]) -> Verdict {
    let mut verdict = Verdict::valid();
    let mut pairs: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    let mut rows = BTreeMap::new();
    for call in calls {
        let Op::Insert { pair, id } = call.op else { continue };
        rows.insert(id, call);
        if call.is_ok() {
            pairs.entry(pair).or_default().push(id);
        }
    }
    for (pair, ids) in pairs.iter().filter(|(_, ids)| ids.len() > 1) {
        verdict.find(format!("both of pair {pair} committed: {ids:?}"));
    }
    for call in calls.iter().filter(|call| call.is_ok()) {
        let Op::Read(pair, seen) = &call.op else { continue };
        if seen.len() > 1 {
            verdict.find(format!("both rows of pair {pair} are there: {seen:?}"));
        }
        for id in seen {
            if !rows.get(id).is_some_and(|insert| insert.may_have_happened()) {
                verdict.find(format!("row {id} was refused or never inserted and is there"));
            }
        }
        for id in pairs.get(pair).into_iter().flatten() {
            let due = rows.get(id).is_some_and(|insert| insert.precedes(call));
            if due && !seen.contains(id) {
                verdict.find(format!("row {id} of pair {pair} was acknowledged and is missing"));
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::by_hand::ByHand;

    fn insert(id: i64) -> Op {
        Op::Insert { pair: 0, id }
    }

    fn of(history: ByHand<Op>) -> Verdict {
        check(&history.calls())
    }

    #[test]
    fn a_right_history_is_accepted() {
        let history = ByHand::new().ok(insert(0)).fail(insert(1)).overlapping(2);
        let verdict = of(history.ok(Op::Read(0, vec![0])).info(insert(3)));
        assert!(verdict.is_valid(), "{verdict:?}");
    }

    #[test]
    fn two_commits_of_a_pair_are_found() {
        assert!(!of(ByHand::new().ok(insert(0)).ok(insert(1)).overlapping(2)).is_valid());
        let unknown = ByHand::new().ok(insert(0)).info(insert(1)).ok(Op::Read(0, vec![0, 1]));
        assert!(!of(unknown).is_valid());
    }

    #[test]
    fn a_lost_row_and_a_refused_row_are_found() {
        assert!(!of(ByHand::new().ok(insert(0)).ok(Op::Read(0, vec![]))).is_valid());
        assert!(!of(ByHand::new().fail(insert(0)).ok(Op::Read(0, vec![0]))).is_valid());
    }
}
