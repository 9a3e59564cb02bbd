//! Pairs of transactions that each look for any row of a pair and insert one if there is none.
//!
//! Checked: of each pair one commits at most: the other would have seen its row (anomaly G2 of
//! Adya, write skew over predicates). One row of the pair is in one table, the other in another. Both
//! of every other pair write a row to a third table as well, so that they commit over several ranges;
//! it is there if and only if the row of the pair is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use rand::rngs::StdRng;
use serde::Serialize;

use crate::history::Call;
use crate::session::{Failure, Session};
use crate::verdict::Verdict;
use crate::workload::{Padding, Table, Workload};

/// The third table.
const ALSO: i64 = 2;

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
    Read {
        /// The pair.
        pair: i64,
        /// Those of the first two tables.
        seen: Vec<i64>,
        /// Those of the third.
        also: Vec<i64>,
    },
}

/// The workload.
#[derive(Debug)]
pub struct G2 {
    prefix: String,
    next: AtomicI64,
    padding: Padding,
}

impl Workload for G2 {
    type Op = Op;
    const NAME: &'static str = "g2";

    fn new(prefix: &str) -> Self {
        let (next, padding) = (AtomicI64::new(0), Padding::default());
        G2 { prefix: format!("{prefix}g2_"), next, padding }
    }

    fn tables(&self) -> Vec<Table> {
        let columns = "pair INT8, id INT8, v INT8 NOT NULL, pad TEXT, PRIMARY KEY (pair, id)";
        let table = |n| Table { name: self.table(n), columns, keys: 0..1_000 };
        (0..3).map(table).collect()
    }

    fn next(&self, _rng: &mut StdRng) -> Op {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        Op::Insert { pair: id / 2, id }
    }

    fn is_read(op: &Op) -> bool {
        matches!(op, Op::Read { .. })
    }

    async fn perform(&self, session: &mut Session, op: Op) -> Result<Op, Failure> {
        match op {
            Op::Insert { pair, id } => {
                session.begin().await?;
                if !self.rows(session, pair, 0..2).await?.concat().is_empty() {
                    session.rollback().await?;
                    return Err(Failure::Fail("the other one is there".to_owned()));
                }
                let also = (pair % 2 == 0).then_some(ALSO);
                for n in [id % 2].into_iter().chain(also) {
                    let table = self.table(n);
                    let columns = "pair, id, v, pad";
                    let sql = format!("INSERT INTO {table} ({columns}) VALUES ($1, $2, 30, $3)");
                    let row = [pair.into(), id.into(), self.padding.of(id * 3 + n)];
                    session.execute(&sql, &row).await?;
                }
                session.commit().await?;
                Ok(Op::Insert { pair, id })
            }
            Op::Read { pair, .. } => {
                session.begin().await?;
                let mut rows = self.rows(session, pair, 0..3).await?;
                session.commit().await?;
                Ok(Op::Read { pair, also: rows.split_off(2).concat(), seen: rows.concat() })
            }
        }
    }

    fn last(&self) -> Vec<Op> {
        let pairs = self.next.load(Ordering::Relaxed) / 2;
        let read = |pair| Op::Read { pair, seen: Vec::new(), also: Vec::new() };
        (0..=pairs).rev().take(100).map(read).collect()
    }

    fn check(&self, calls: &[Call<Op>]) -> Verdict {
        check(calls)
    }
}

impl G2 {
    fn table(&self, n: i64) -> String {
        format!("{}{n}", self.prefix)
    }

    /// The rows of a pair, by tables.
    async fn rows(
        &self,
        session: &mut Session,
        pair: i64,
        tables: std::ops::Range<i64>,
    ) -> Result<Vec<Vec<i64>>, Failure> {
        let mut ids = Vec::new();
        for n in tables {
            let sql = format!("SELECT id FROM {} WHERE pair = $1 AND v % 3 = 0", self.table(n));
            let rows = session.rows(&sql, &[pair.into()]).await?;
            ids.push(rows.iter().map(|row| row.int(0)).collect::<Result<_, _>>()?);
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
        let Op::Read { pair, seen, also } = &call.op else { continue };
        if pair % 2 == 0 && seen != also {
            verdict.find(format!("of pair {pair}, {seen:?} and {also:?} are there"));
        }
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

    fn read(seen: &[i64], also: &[i64]) -> Op {
        Op::Read { pair: 0, seen: seen.to_vec(), also: also.to_vec() }
    }

    fn of(history: ByHand<Op>) -> Verdict {
        check(&history.calls())
    }

    #[test]
    fn a_right_history_is_accepted() {
        let history = ByHand::new().ok(insert(0)).fail(insert(1)).overlapping(2);
        let verdict = of(history.ok(read(&[0], &[0])).info(insert(3)));
        assert!(verdict.is_valid(), "{verdict:?}");
    }

    #[test]
    fn two_commits_of_a_pair_are_found() {
        assert!(!of(ByHand::new().ok(insert(0)).ok(insert(1)).overlapping(2)).is_valid());
        let unknown = ByHand::new().ok(insert(0)).info(insert(1)).ok(read(&[0, 1], &[0, 1]));
        assert!(!of(unknown).is_valid());
    }

    #[test]
    fn a_lost_row_and_a_refused_row_are_found() {
        assert!(!of(ByHand::new().ok(insert(0)).ok(read(&[], &[]))).is_valid());
        assert!(!of(ByHand::new().fail(insert(0)).ok(read(&[0], &[0]))).is_valid());
    }

    #[test]
    fn half_a_transaction_is_found() {
        assert!(!of(ByHand::new().ok(insert(0)).ok(read(&[0], &[]))).is_valid());
        assert!(!of(ByHand::new().info(insert(0)).ok(read(&[], &[0]))).is_valid());
    }
}
