//! Elements added to sets, once each, and read back.
//!
//! Checked: a read sees every element whose addition was acknowledged, or which another read saw,
//! before it began; no read sees an element that failed, that nobody added, or twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};

use rand::Rng as _;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::history::{Call, Outcome};
use crate::session::{Failure, Isolation, Session};
use crate::verdict::Verdict;
use crate::workload::{Padding, Table, Workload};

/// Elements of a set; then the next set is filled.
const SIZE: i64 = 100;

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Adds an element by a statement on its own, or within a transaction that looks first.
    Add {
        /// The element.
        element: i64,
        /// Whether it is done within a transaction.
        transaction: bool,
    },
    /// Reads a set.
    Read(i64, Vec<i64>),
}

/// The workload.
#[derive(Debug)]
pub struct Sets {
    table: String,
    next: AtomicI64,
    padding: Padding,
}

fn set_of(element: i64) -> i64 {
    element / SIZE
}

impl Workload for Sets {
    type Op = Op;
    const NAME: &'static str = "sets";

    // A statement sees what was acknowledged before it at either level.
    fn holds_at(_: Isolation) -> bool {
        true
    }

    fn new(prefix: &str) -> Self {
        let (next, padding) = (AtomicI64::new(0), Padding::default());
        Sets { table: format!("{prefix}sets"), next, padding }
    }

    fn tables(&self) -> Vec<Table> {
        let columns = "bucket INT8, element INT8, pad TEXT, PRIMARY KEY (bucket, element)";
        vec![Table { name: self.table.clone(), columns, keys: 0..50 }]
    }

    fn next(&self, rng: &mut StdRng) -> Op {
        if rng.random_bool(0.3) {
            let newest = set_of(self.next.load(Ordering::Relaxed));
            return Op::Read((newest - rng.random_range(0..2)).max(0), Vec::new());
        }
        let element = self.next.fetch_add(1, Ordering::Relaxed);
        Op::Add { element, transaction: rng.random_bool(0.3) }
    }

    fn is_read(op: &Op) -> bool {
        matches!(op, Op::Read(..))
    }

    async fn perform(&self, session: &mut Session, op: Op) -> Result<Op, Failure> {
        match op {
            Op::Add { element, transaction } => {
                let row = [set_of(element).into(), element.into(), self.padding.of(element)];
                let key = row.get(..2).unwrap_or_default();
                if transaction {
                    session.begin().await?;
                    let sql = format!(
                        "SELECT element FROM {} WHERE bucket = $1 AND element = $2",
                        self.table
                    );
                    if !session.rows(&sql, key).await?.is_empty() {
                        session.rollback().await?;
                        return Err(Failure::Fail("it is there before it was added".to_owned()));
                    }
                }
                let columns = "bucket, element, pad";
                let sql = format!("INSERT INTO {} ({columns}) VALUES ($1, $2, $3)", self.table);
                session.execute(&sql, &row).await?;
                if transaction {
                    session.commit().await?;
                }
                Ok(Op::Add { element, transaction })
            }
            Op::Read(set, _) => {
                let sql = format!("SELECT element FROM {} WHERE bucket = $1", self.table);
                let rows = session.rows(&sql, &[set.into()]).await?;
                let seen: Result<Vec<i64>, Failure> = rows.iter().map(|row| row.int(0)).collect();
                Ok(Op::Read(set, seen?))
            }
        }
    }

    fn last(&self) -> Vec<Op> {
        let newest = set_of(self.next.load(Ordering::Relaxed));
        (0..=newest).map(|set| Op::Read(set, Vec::new())).collect()
    }

    fn check(&self, calls: &[Call<Op>]) -> Verdict {
        check(calls)
    }
}

fn check(calls: &[Call<Op>]) -> Verdict {
    let mut verdict = Verdict::valid();
    let mut added: BTreeMap<i64, Outcome> = BTreeMap::new();
    // From which number on a read of a set has to see an element.
    let mut due: BTreeMap<i64, Vec<(u64, i64)>> = BTreeMap::new();
    for call in calls {
        match &call.op {
            Op::Add { element, .. } => {
                added.insert(*element, call.outcome);
                if call.is_ok() {
                    due.entry(set_of(*element)).or_default().push((call.completed, *element));
                }
            }
            Op::Read(set, seen) if call.is_ok() => {
                let due = due.entry(*set).or_default();
                due.extend(seen.iter().map(|element| (call.completed, *element)));
            }
            Op::Read(..) => {}
        }
    }
    for list in due.values_mut() {
        earliest(list);
    }
    for call in calls.iter().filter(|call| call.is_ok()) {
        let Op::Read(set, seen) = &call.op else { continue };
        let unique: BTreeSet<i64> = seen.iter().copied().collect();
        if unique.len() != seen.len() {
            verdict.find(format!("call {} read an element twice: {seen:?}", call.invoked));
        }
        for element in &unique {
            match added.get(element) {
                Some(Outcome::Ok | Outcome::Info) => {}
                // Still under way when the run ended, or never.
                Some(Outcome::Fail) => {
                    verdict.find(format!("{element} was refused and is in set {set}"));
                }
                None => verdict.find(format!("{element} in set {set} was never added")),
            }
        }
        for (number, element) in due.get(set).into_iter().flatten() {
            if *number < call.invoked && !unique.contains(element) {
                verdict.find(format!(
                    "{element}, there at {number}, is missing in the read of set {set} at node {} \
                     that began at {}",
                    call.node + 1,
                    call.invoked
                ));
            }
        }
    }
    verdict
}

/// Keeps the first number of each element.
fn earliest(list: &mut Vec<(u64, i64)>) {
    let mut first = BTreeMap::new();
    for (number, element) in list.iter() {
        let entry = first.entry(*element).or_insert(*number);
        *entry = (*entry).min(*number);
    }
    *list = first.into_iter().map(|(element, number)| (number, element)).collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::by_hand::ByHand;

    fn add(element: i64) -> Op {
        Op::Add { element, transaction: false }
    }

    fn read(seen: &[i64]) -> Op {
        Op::Read(0, seen.to_vec())
    }

    fn of(history: ByHand<Op>) -> Verdict {
        check(&history.calls())
    }

    #[test]
    fn a_right_history_is_accepted() {
        let history = ByHand::new()
            .ok(add(1))
            .fail(add(2))
            .ok(read(&[1]))
            .info(add(3))
            .info(add(4))
            .ok(read(&[1, 3]))
            .ok(add(5))
            .ok(read(&[1, 3]))
            .overlapping(2)
            .ok(read(&[1, 3, 5]));
        let verdict = of(history);
        assert!(verdict.is_valid(), "{verdict:?}");
    }

    #[test]
    fn a_lost_element_is_found() {
        assert!(!of(ByHand::new().ok(add(1)).ok(read(&[]))).is_valid());
    }

    #[test]
    fn an_element_that_comes_and_goes_is_found() {
        assert!(!of(ByHand::new().info(add(1)).ok(read(&[1])).ok(read(&[]))).is_valid());
    }

    #[test]
    fn an_element_that_failed_is_found() {
        assert!(!of(ByHand::new().fail(add(1)).ok(read(&[1]))).is_valid());
        assert!(!of(ByHand::new().ok(read(&[1]))).is_valid());
    }

    #[test]
    fn an_element_read_twice_is_found() {
        assert!(!of(ByHand::new().ok(add(1)).ok(read(&[1, 1]))).is_valid());
    }
}
