//! Independent single writes, and readers of small groups of them.
//!
//! Checked: of two reads of a group, one has seen all that the other has: no reader sees write A
//! without B while another sees B without A. And a read misses no acknowledged write.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use rand::Rng as _;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::history::Call;
use crate::session::{Failure, Session};
use crate::verdict::Verdict;
use crate::workload::{Padding, Table, Workload};

/// Keys of a group, each in a table of its own.
const GROUP: i64 = 3;

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Writes the only row of a key.
    Write(i64),
    /// Reads the keys of a group in one transaction: which of them have a row.
    Read(i64, Vec<bool>),
}

/// The workload.
#[derive(Debug)]
pub struct LongFork {
    prefix: String,
    next: AtomicI64,
    padding: Padding,
}

impl Workload for LongFork {
    type Op = Op;
    const NAME: &'static str = "long-fork";

    fn new(prefix: &str) -> Self {
        let (next, padding) = (AtomicI64::new(0), Padding::default());
        LongFork { prefix: format!("{prefix}long_fork"), next, padding }
    }

    fn tables(&self) -> Vec<Table> {
        let columns = "k INT8 PRIMARY KEY, pad TEXT";
        let table = |n| Table { name: self.table(n), columns, keys: 0..3_000 };
        (0..GROUP).map(table).collect()
    }

    fn next(&self, rng: &mut StdRng) -> Op {
        if rng.random_bool(0.4) {
            return Op::Write(self.next.fetch_add(1, Ordering::Relaxed));
        }
        let newest = self.next.load(Ordering::Relaxed);
        Op::Read((newest - rng.random_range(0..6)).max(0) / GROUP, Vec::new())
    }

    fn is_read(op: &Op) -> bool {
        matches!(op, Op::Read(..))
    }

    async fn perform(&self, session: &mut Session, op: Op) -> Result<Op, Failure> {
        match op {
            Op::Write(key) => {
                let table = self.table(key % GROUP);
                let sql = format!("INSERT INTO {table} (k, pad) VALUES ($1, $2)");
                session.execute(&sql, &[key.into(), self.padding.of(key)]).await?;
                Ok(Op::Write(key))
            }
            Op::Read(group, _) => {
                session.begin().await?;
                let mut seen = Vec::new();
                for n in 0..GROUP {
                    let sql = format!("SELECT k FROM {} WHERE k = $1", self.table(n));
                    let rows = session.rows(&sql, &[(group * GROUP + n).into()]).await?;
                    seen.push(!rows.is_empty());
                }
                session.commit().await?;
                Ok(Op::Read(group, seen))
            }
        }
    }

    fn last(&self) -> Vec<Op> {
        let groups = self.next.load(Ordering::Relaxed) / GROUP;
        (0..=groups).rev().take(50).map(|group| Op::Read(group, Vec::new())).collect()
    }

    fn check(&self, calls: &[Call<Op>]) -> Verdict {
        check(calls)
    }
}

impl LongFork {
    fn table(&self, n: i64) -> String {
        format!("{}{n}", self.prefix)
    }
}

fn check(calls: &[Call<Op>]) -> Verdict {
    let mut verdict = Verdict::valid();
    let mut writes = BTreeMap::new();
    let mut groups: BTreeMap<i64, BTreeMap<&[bool], u64>> = BTreeMap::new();
    for call in calls {
        match &call.op {
            Op::Write(key) => {
                writes.insert(*key, call);
            }
            Op::Read(group, seen) if call.is_ok() => {
                groups.entry(*group).or_default().entry(seen.as_slice()).or_insert(call.invoked);
            }
            Op::Read(..) => {}
        }
    }
    for call in calls.iter().filter(|call| call.is_ok()) {
        let Op::Read(group, seen) = &call.op else { continue };
        for (seen, key) in seen.iter().zip(group * GROUP..) {
            let write = writes.get(&key);
            if !seen && write.is_some_and(|write| write.precedes(call)) {
                verdict.find(format!("key {key} was acknowledged before a read missed it"));
            }
            if *seen && !write.is_some_and(|write| write.may_have_happened()) {
                verdict.find(format!("key {key} was refused or never written and is there"));
            }
        }
    }
    for (group, reads) in &groups {
        for (n, (a, first)) in reads.iter().enumerate() {
            for (b, second) in reads.iter().skip(n + 1) {
                if forked(a, b) {
                    verdict.find(format!(
                        "group {group}: call {first} saw {a:?} and call {second} saw {b:?}"
                    ));
                }
            }
        }
    }
    verdict
}

/// Whether each of two reads saw something that the other did not.
fn forked(a: &[bool], b: &[bool]) -> bool {
    let more = |a: &[bool], b: &[bool]| a.iter().zip(b).any(|(a, b)| *a && !*b);
    more(a, b) && more(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::by_hand::ByHand;

    fn read(seen: [bool; 3]) -> Op {
        Op::Read(0, seen.to_vec())
    }

    fn of(history: ByHand<Op>) -> Verdict {
        check(&history.calls())
    }

    #[test]
    fn a_right_history_is_accepted() {
        let history = ByHand::new()
            .ok(Op::Write(0))
            .ok(Op::Write(1))
            .ok(read([true, false, false]))
            .ok(read([true, true, false]))
            .overlapping(3);
        let verdict = of(history);
        assert!(verdict.is_valid(), "{verdict:?}");
    }

    #[test]
    fn a_fork_is_found() {
        let history = ByHand::new()
            .ok(Op::Write(0))
            .ok(Op::Write(1))
            .ok(read([true, false, false]))
            .ok(read([false, true, false]))
            .overlapping(4);
        assert!(!of(history).is_valid());
    }

    #[test]
    fn a_stale_read_and_a_refused_row_are_found() {
        assert!(!of(ByHand::new().ok(Op::Write(0)).ok(read([false; 3]))).is_valid());
        let refused = ByHand::new().fail(Op::Write(0)).ok(read([true, false, false]));
        assert!(!of(refused).is_valid());
    }
}
