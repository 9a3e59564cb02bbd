//! Rows written by many processes, read together in one transaction.
//!
//! Looked for: a read that sees a row but not another one that was acknowledged before the first was
//! begun. Serializability does not forbid it, only strict serializability across keys would, which is
//! not promised: the number of such inversions is information, not a verdict. What is checked is
//! that a read misses nothing that was acknowledged before the read itself began.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};

use rand::Rng as _;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::history::Call;
use crate::session::{Failure, Isolation, Session};
use crate::verdict::Verdict;
use crate::workload::{Padding, Table, Workload};

/// Over so many tables the rows of a thread are spread.
const TABLES: i64 = 4;
/// Rows of a thread.
const SIZE: i64 = 80;

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Writes a row.
    Write(i64),
    /// Reads all rows of a thread.
    Read(i64, BTreeSet<i64>),
}

/// The workload.
#[derive(Debug)]
pub struct Comments {
    prefix: String,
    next: AtomicI64,
    /// Counts reads, so that each table is the first of some.
    reads: AtomicI64,
    padding: Padding,
}

fn thread_of(id: i64) -> i64 {
    id / SIZE
}

impl Workload for Comments {
    type Op = Op;
    const NAME: &'static str = "comments";

    // A statement sees what was acknowledged before it at either level.
    fn holds_at(_: Isolation) -> bool {
        true
    }

    fn new(prefix: &str) -> Self {
        Comments {
            prefix: format!("{prefix}comments"),
            next: AtomicI64::new(0),
            reads: AtomicI64::new(0),
            padding: Padding::default(),
        }
    }

    fn tables(&self) -> Vec<Table> {
        let columns = "thread INT8, id INT8, pad TEXT, PRIMARY KEY (thread, id)";
        let table = |n| Table { name: self.table(n), columns, keys: 0..50 };
        (0..TABLES).map(table).collect()
    }

    fn next(&self, rng: &mut StdRng) -> Op {
        if rng.random_bool(0.4) {
            let newest = self.next.load(Ordering::Relaxed);
            return Op::Read(thread_of((newest - rng.random_range(0..10)).max(0)), BTreeSet::new());
        }
        Op::Write(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn is_read(op: &Op) -> bool {
        matches!(op, Op::Read(..))
    }

    async fn perform(&self, session: &mut Session, op: Op) -> Result<Op, Failure> {
        match op {
            Op::Write(id) => {
                let table = self.table(id % TABLES);
                let sql = format!("INSERT INTO {table} (thread, id, pad) VALUES ($1, $2, $3)");
                let row = [thread_of(id).into(), id.into(), self.padding.of(id)];
                session.execute(&sql, &row).await?;
                Ok(Op::Write(id))
            }
            Op::Read(thread, _) => {
                session.begin().await?;
                let mut seen = BTreeSet::new();
                let first = self.reads.fetch_add(1, Ordering::Relaxed);
                for n in (0..TABLES).map(|n| (first + n) % TABLES) {
                    let sql = format!("SELECT id FROM {} WHERE thread = $1", self.table(n));
                    for row in session.rows(&sql, &[thread.into()]).await? {
                        seen.insert(row.int(0)?);
                    }
                }
                session.commit().await?;
                Ok(Op::Read(thread, seen))
            }
        }
    }

    fn last(&self) -> Vec<Op> {
        let newest = thread_of(self.next.load(Ordering::Relaxed));
        (0..=newest).map(|thread| Op::Read(thread, BTreeSet::new())).collect()
    }

    fn check(&self, calls: &[Call<Op>]) -> Verdict {
        check(calls)
    }
}

impl Comments {
    fn table(&self, n: i64) -> String {
        format!("{}{n}", self.prefix)
    }
}

fn check(calls: &[Call<Op>]) -> Verdict {
    let mut verdict = Verdict::valid();
    let mut threads: BTreeMap<i64, Vec<(i64, &Call<Op>)>> = BTreeMap::new();
    for call in calls {
        if let Op::Write(id) = call.op {
            threads.entry(thread_of(id)).or_default().push((id, call));
        }
    }
    let mut inversions = 0;
    for call in calls.iter().filter(|call| call.is_ok()) {
        let Op::Read(thread, seen) = &call.op else { continue };
        let writes = threads.get(thread).map(Vec::as_slice).unwrap_or_default();
        let seen_writes = writes.iter().filter(|(id, _)| seen.contains(id));
        let latest = seen_writes.map(|(_, write)| write.invoked).max().unwrap_or(0);
        for (id, write) in writes.iter().filter(|(id, _)| !seen.contains(id)) {
            if write.precedes(call) {
                verdict.find(format!("row {id} was acknowledged before a read missed it"));
            } else if write.is_ok() && write.completed < latest {
                inversions += 1;
            }
        }
        for id in seen {
            match writes.iter().find(|(written, _)| written == id) {
                Some((_, write)) if write.may_have_happened() => {}
                _ => verdict.find(format!("row {id} was refused or never written and is there")),
            }
        }
    }
    verdict.note(format!("{inversions} inversions in real time across keys"));
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::by_hand::ByHand;

    fn read(seen: &[i64]) -> Op {
        Op::Read(0, seen.iter().copied().collect())
    }

    fn of(history: ByHand<Op>) -> Verdict {
        check(&history.calls())
    }

    #[test]
    fn a_right_history_is_accepted() {
        let history = ByHand::new().ok(Op::Write(1)).ok(Op::Write(2)).ok(read(&[1, 2]));
        let verdict = of(history);
        assert!(verdict.is_valid(), "{verdict:?}");
        assert_eq!(verdict.notes, ["0 inversions in real time across keys"]);
    }

    #[test]
    fn an_inversion_is_counted() {
        let mut calls = ByHand::new().ok(read(&[2])).ok(Op::Write(1)).ok(Op::Write(2)).calls();
        // The read began before both writes and ended after them.
        calls[0].completed = 100;
        let verdict = check(&calls);
        assert!(verdict.is_valid(), "{verdict:?}");
        assert_eq!(verdict.notes, ["1 inversions in real time across keys"]);
    }

    #[test]
    fn a_stale_read_and_a_refused_row_are_found() {
        assert!(!of(ByHand::new().ok(Op::Write(1)).ok(read(&[]))).is_valid());
        assert!(!of(ByHand::new().fail(Op::Write(1)).ok(read(&[1]))).is_valid());
    }
}
