//! Reads, writes and compare-and-swaps of single keys, each key on its own linearizable.
//!
//! Written values are unique for each key. A key is used for a while only: the search for an order
//! takes longer the more calls it has.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use rand::Rng as _;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::history::Call;
use crate::linearizable::{self, Action, Answer, Step};
use crate::session::{Failure, Session};
use crate::verdict::Verdict;
use crate::workload::{Padding, Table, Workload};

/// Keys in use at a time.
const ACTIVE: i64 = 10;
/// Calls of a key.
const CALLS: i64 = 120;
/// Keys that exist.
const KEYS: i64 = 2_000;
/// Steps after which the search for an order is given up.
const BUDGET: u64 = 3_000_000;

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Reads a key.
    Read {
        /// The key.
        key: i64,
        /// What it held.
        value: i64,
    },
    /// Writes a key, blindly.
    Write {
        /// The key.
        key: i64,
        /// What it holds now.
        value: i64,
    },
    /// Reads a key in a transaction, and writes it if it holds what the client guessed; otherwise
    /// this is a read.
    Swap {
        /// The key.
        key: i64,
        /// What it held.
        old: i64,
        /// What it holds now, if it was written.
        new: i64,
        /// Whether it was.
        written: bool,
    },
}

/// The workload.
#[derive(Debug)]
pub struct Register {
    table: String,
    calls: AtomicI64,
    next: AtomicI64,
    padding: Padding,
}

impl Workload for Register {
    type Op = Op;
    const NAME: &'static str = "register";

    fn new(prefix: &str) -> Self {
        let (calls, next) = (AtomicI64::new(0), AtomicI64::new(1));
        Register { table: format!("{prefix}register"), calls, next, padding: Padding::default() }
    }

    fn tables(&self) -> Vec<Table> {
        let columns = "k INT8 PRIMARY KEY, v INT8 NOT NULL, pad TEXT";
        vec![Table { name: self.table.clone(), columns, keys: 0..ACTIVE * 10 }]
    }

    fn preload(&self) -> Vec<String> {
        vec![format!(
            "INSERT INTO {} (k, v) SELECT g, 0 FROM generate_series(0, {}) AS s(g)",
            self.table,
            KEYS - 1
        )]
    }

    fn next(&self, rng: &mut StdRng) -> Op {
        let generation = self.calls.fetch_add(1, Ordering::Relaxed) / (CALLS * ACTIVE);
        let key = (generation * ACTIVE + rng.random_range(0..ACTIVE)) % KEYS;
        let fresh = || self.next.fetch_add(1, Ordering::Relaxed);
        match rng.random_range(0..10) {
            0..=4 => Op::Read { key, value: 0 },
            5..=7 => Op::Write { key, value: fresh() },
            _ => Op::Swap { key, old: 0, new: fresh(), written: rng.random_bool(0.8) },
        }
    }

    fn is_read(op: &Op) -> bool {
        matches!(op, Op::Read { .. } | Op::Swap { written: false, .. })
    }

    async fn perform(&self, session: &mut Session, op: Op) -> Result<Op, Failure> {
        match op {
            Op::Read { key, .. } => Ok(Op::Read { key, value: self.read(session, key).await? }),
            Op::Write { key, value } => {
                self.write(session, key, value).await?;
                Ok(Op::Write { key, value })
            }
            Op::Swap { key, new, written, .. } => {
                session.begin().await?;
                let old = self.read(session, key).await?;
                if written {
                    self.write(session, key, new).await?;
                }
                session.commit().await?;
                Ok(Op::Swap { key, old, new, written })
            }
        }
    }

    fn last(&self) -> Vec<Op> {
        let generation = self.calls.load(Ordering::Relaxed) / (CALLS * ACTIVE);
        let keys = 0..((generation + 1) * ACTIVE).min(KEYS);
        keys.map(|key| Op::Read { key, value: 0 }).collect()
    }

    fn check(&self, calls: &[Call<Op>]) -> Verdict {
        check(calls)
    }
}

impl Register {
    async fn read(&self, session: &mut Session, key: i64) -> Result<i64, Failure> {
        let sql = format!("SELECT v FROM {} WHERE k = $1", self.table);
        match session.rows(&sql, &[key.into()]).await?.first() {
            Some(row) => row.int(0),
            None => Err(Failure::Fail(format!("key {key} is not there"))),
        }
    }

    async fn write(&self, session: &mut Session, key: i64, value: i64) -> Result<(), Failure> {
        let sql = format!("UPDATE {} SET v = $2, pad = $3 WHERE k = $1", self.table);
        let row = [key.into(), value.into(), self.padding.of(value)];
        match session.execute(&sql, &row).await? {
            1 => Ok(()),
            n => Err(Failure::Info(format!("UPDATE of key {key} changed {n} rows"))),
        }
    }
}

fn check(calls: &[Call<Op>]) -> Verdict {
    let mut verdict = Verdict::valid();
    let mut keys: BTreeMap<i64, Vec<Step>> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.may_have_happened()) {
        let (key, action) = match call.op {
            Op::Read { key, value } => (key, Action::Read(value)),
            Op::Write { key, value } => (key, Action::Write(value)),
            Op::Swap { key, old, written: false, .. } => (key, Action::Read(old)),
            // What it found is unknown with its outcome.
            Op::Swap { key, new, .. } if !call.is_ok() => (key, Action::Write(new)),
            Op::Swap { key, old, new, .. } => (key, Action::Swap(old, new)),
        };
        let completed = call.is_ok().then_some(call.completed);
        keys.entry(key).or_default().push(Step { action, invoked: call.invoked, completed });
    }
    for (key, steps) in &keys {
        match linearizable::check(0, steps, BUDGET) {
            Answer::Linearizable => {}
            Answer::Not(longest) => verdict.find(format!(
                "key {key} is not linearizable: of {} calls at most {longest} fit",
                steps.len()
            )),
            Answer::GivenUp(steps) => {
                verdict.unknown(format!("key {key}: no order found in {steps} steps"));
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::by_hand::ByHand;

    fn read(value: i64) -> Op {
        Op::Read { key: 7, value }
    }

    fn write(value: i64) -> Op {
        Op::Write { key: 7, value }
    }

    fn of(history: ByHand<Op>) -> Verdict {
        check(&history.calls())
    }

    #[test]
    fn a_right_history_is_accepted() {
        let history = ByHand::new()
            .ok(read(0))
            .ok(write(1))
            .ok(Op::Swap { key: 7, old: 1, new: 2, written: true })
            .ok(Op::Swap { key: 7, old: 2, new: 3, written: false })
            .info(write(4))
            .fail(write(5))
            .ok(read(2))
            .ok(read(4))
            .ok(Op::Read { key: 8, value: 0 });
        let verdict = of(history);
        assert!(verdict.is_valid(), "{verdict:?}");
    }

    #[test]
    fn a_stale_read_is_found() {
        assert!(!of(ByHand::new().ok(write(1)).ok(write(2)).ok(read(1))).is_valid());
    }

    #[test]
    fn an_effect_of_a_failure_is_found() {
        assert!(!of(ByHand::new().fail(write(1)).ok(read(1))).is_valid());
    }

    #[test]
    fn a_lost_update_is_found() {
        let swap = |new| Op::Swap { key: 7, old: 0, new, written: true };
        assert!(!of(ByHand::new().ok(swap(1)).ok(swap(2)).overlapping(2)).is_valid());
    }
}
