//! Counters that clients advance: read the highest value, insert the next.
//!
//! Checked for each counter: committed values are 1, 2, 3 and so on, none twice; what was acknowledged
//! is there in the end and what failed is not; an addition that began after another was acknowledged
//! got a higher value. Rows have keys of their own, so only isolation, no constraint, prevents a value
//! from coming twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use rand::Rng as _;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::history::Call;
use crate::session::{Failure, Session};
use crate::verdict::Verdict;
use crate::workload::{Padding, Table, Workload};

/// Counters in use at a time.
const ACTIVE: i64 = 4;
/// Attempts to advance a counter.
const ATTEMPTS: i64 = 60;

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Advances a counter.
    Add {
        /// The counter.
        counter: i64,
        /// The key of the row.
        id: i64,
        /// The value it got.
        value: i64,
    },
    /// Reads the rows of a counter: key and value.
    Read(i64, Vec<(i64, i64)>),
}

/// The workload.
#[derive(Debug)]
pub struct Monotonic {
    table: String,
    attempts: AtomicI64,
    padding: Padding,
}

impl Workload for Monotonic {
    type Op = Op;
    const NAME: &'static str = "monotonic";

    fn new(prefix: &str) -> Self {
        let (attempts, padding) = (AtomicI64::new(0), Padding::default());
        Monotonic { table: format!("{prefix}monotonic"), attempts, padding }
    }

    fn tables(&self) -> Vec<Table> {
        let columns = "counter INT8, id INT8, v INT8 NOT NULL, pad TEXT, PRIMARY KEY (counter, id)";
        vec![Table { name: self.table.clone(), columns, keys: 0..ACTIVE * 10 }]
    }

    fn next(&self, rng: &mut StdRng) -> Op {
        // A row's key is random within its counter, so that neighbours are written in no order.
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let generation = attempt / (ATTEMPTS * ACTIVE);
        let counter = generation * ACTIVE + rng.random_range(0..ACTIVE);
        let id = rng.random_range(0..1_000_000) * 1_000_000 + attempt;
        Op::Add { counter, id, value: 0 }
    }

    fn is_read(op: &Op) -> bool {
        matches!(op, Op::Read(..))
    }

    async fn perform(&self, session: &mut Session, op: Op) -> Result<Op, Failure> {
        match op {
            Op::Add { counter, id, .. } => {
                session.begin().await?;
                let sql =
                    format!("SELECT coalesce(max(v), 0) FROM {} WHERE counter = $1", self.table);
                let rows = session.rows(&sql, &[counter.into()]).await?;
                let highest = match rows.first() {
                    Some(row) => row.int(0)?,
                    None => return Err(Failure::Fail("max() has no row".to_owned())),
                };
                let value = highest + 1;
                let columns = "counter, id, v, pad";
                let sql = format!("INSERT INTO {} ({columns}) VALUES ($1, $2, $3, $4)", self.table);
                let row = [counter.into(), id.into(), value.into(), self.padding.of(id)];
                session.execute(&sql, &row).await?;
                session.commit().await?;
                Ok(Op::Add { counter, id, value })
            }
            Op::Read(counter, _) => {
                let sql = format!("SELECT id, v FROM {} WHERE counter = $1", self.table);
                let mut seen = Vec::new();
                for row in session.rows(&sql, &[counter.into()]).await? {
                    seen.push((row.int(0)?, row.int(1)?));
                }
                Ok(Op::Read(counter, seen))
            }
        }
    }

    fn last(&self) -> Vec<Op> {
        let generation = self.attempts.load(Ordering::Relaxed) / (ATTEMPTS * ACTIVE);
        (0..(generation + 1) * ACTIVE).map(|counter| Op::Read(counter, Vec::new())).collect()
    }

    fn check(&self, calls: &[Call<Op>]) -> Verdict {
        check(calls)
    }
}

fn check(calls: &[Call<Op>]) -> Verdict {
    let mut verdict = Verdict::valid();
    // By counter: (invoked, completed, value) of what was acknowledged, and the fate of each row.
    let mut added: BTreeMap<i64, Vec<(u64, u64, i64)>> = BTreeMap::new();
    let mut rows: BTreeMap<i64, &Call<Op>> = BTreeMap::new();
    for call in calls {
        let Op::Add { counter, id, value } = call.op else { continue };
        rows.insert(id, call);
        if call.is_ok() {
            added.entry(counter).or_default().push((call.invoked, call.completed, value));
        }
    }
    for (counter, list) in &mut added {
        in_real_time(&mut verdict, *counter, list);
    }
    for call in calls.iter().filter(|call| call.is_ok()) {
        let Op::Read(counter, seen) = &call.op else { continue };
        counted(&mut verdict, *counter, seen);
        for (id, value) in seen {
            match rows.get(id) {
                None => verdict.find(format!("row {id} was never added")),
                Some(add) if !add.may_have_happened() => {
                    verdict.find(format!("row {id} with {value} was refused and is there"));
                }
                Some(add) => {
                    let Op::Add { value: told, .. } = add.op else { continue };
                    if add.is_ok() && told != *value {
                        verdict.find(format!("row {id} holds {value}, written was {told}"));
                    }
                }
            }
        }
        let ids: Vec<i64> = seen.iter().map(|(id, _)| *id).collect();
        for (id, add) in &rows {
            let Op::Add { counter: of, value, .. } = add.op else { continue };
            if of == *counter && add.precedes(call) && !ids.contains(id) {
                verdict.find(format!("counter {counter}: acknowledged {value} is missing"));
            }
        }
    }
    verdict
}

/// Values have to count from 1.
fn counted(verdict: &mut Verdict, counter: i64, seen: &[(i64, i64)]) {
    let mut values: Vec<i64> = seen.iter().map(|(_, value)| *value).collect();
    values.sort_unstable();
    if values.iter().zip(1_i64..).any(|(value, expected)| *value != expected) {
        verdict.find(format!("counter {counter} has {values:?}"));
    }
}

fn in_real_time(verdict: &mut Verdict, counter: i64, list: &mut [(u64, u64, i64)]) {
    // The highest value acknowledged so far, going by invocation.
    list.sort_unstable();
    let mut ended: Vec<(u64, i64)> = list.iter().map(|(_, end, value)| (*end, *value)).collect();
    ended.sort_unstable();
    let mut ended = ended.into_iter().peekable();
    let mut highest = 0;
    for (invoked, _, value) in list {
        while let Some((_, earlier)) = ended.next_if(|(end, _)| end < invoked) {
            highest = highest.max(earlier);
        }
        if *value <= highest {
            verdict.find(format!(
                "counter {counter}: call {invoked} got {value} after {highest} was acknowledged"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::by_hand::ByHand;

    fn add(id: i64, value: i64) -> Op {
        Op::Add { counter: 0, id, value }
    }

    fn of(history: ByHand<Op>) -> Verdict {
        check(&history.calls())
    }

    #[test]
    fn a_right_history_is_accepted() {
        let history = ByHand::new()
            .ok(add(1, 1))
            .ok(add(2, 3))
            .info(add(3, 0))
            .fail(add(4, 0))
            .overlapping(3)
            .ok(add(5, 4))
            .ok(Op::Read(0, vec![(1, 1), (2, 3), (3, 2), (5, 4)]));
        let verdict = of(history);
        assert!(verdict.is_valid(), "{verdict:?}");
    }

    #[test]
    fn a_value_twice_is_found() {
        let read = Op::Read(0, vec![(1, 1), (2, 1)]);
        assert!(!of(ByHand::new().ok(add(1, 1)).ok(add(2, 1)).overlapping(2).ok(read)).is_valid());
    }

    #[test]
    fn a_value_that_steps_back_in_real_time_is_found() {
        assert!(!of(ByHand::new().ok(add(1, 2)).ok(add(2, 1))).is_valid());
    }

    #[test]
    fn a_gap_is_found() {
        assert!(!of(ByHand::new().info(add(1, 0)).ok(Op::Read(0, vec![(1, 2)]))).is_valid());
    }

    #[test]
    fn a_lost_row_and_a_refused_row_are_found() {
        assert!(!of(ByHand::new().ok(add(1, 1)).ok(Op::Read(0, vec![]))).is_valid());
        assert!(!of(ByHand::new().fail(add(1, 0)).ok(Op::Read(0, vec![(1, 1)]))).is_valid());
    }
}
