//! Elements added, and read as of times in the past, through any node: also by followers.
//!
//! Times are exact, or bounds that leave the time to the server; such a read may be served by any
//! replica that has enough, however close to the present the bound is.
//!
//! Checked: reads of a set as of one timestamp all see the same; a later timestamp sees no less; what
//! was acknowledged before a timestamp is seen there, and what was asked for only after it is not,
//! save for the largest difference that clocks may have. The server reads as of the time that was
//! asked for, or no earlier than the bound.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::history::Call;
use crate::session::{Failure, Isolation, Session};
use crate::verdict::Verdict;
use crate::workload::{Padding, Table, Workload};

/// A set gets the elements of a second.
const SET_NS: i64 = 1_000_000_000;
/// Timestamps are multiples of this, so that many reads are as of the same one.
const GRID_NS: i64 = 250_000_000;
/// Clocks differ by this at most.
const MAX_OFFSET_NS: i64 = 500_000_000;

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Adds an element.
    Add {
        /// The set.
        set: i64,
        /// The element.
        element: i64,
        /// The clock of this machine before it was sent.
        from: i64,
        /// And after the answer came.
        until: i64,
    },
    /// Reads a set as of a time.
    Read {
        /// The set.
        set: i64,
        /// The time that was asked for.
        asked: i64,
        /// The time that the server chose.
        at: i64,
        /// Whether the server may choose a later one.
        bounded: bool,
        /// What was there.
        seen: BTreeSet<i64>,
    },
}

/// The workload.
#[derive(Debug)]
pub struct AsOf {
    table: String,
    next: AtomicI64,
    padding: Padding,
}

fn now() -> i64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

impl Workload for AsOf {
    type Op = Op;
    const NAME: &'static str = "as-of";

    // A statement sees what was acknowledged before it at either level.
    fn holds_at(_: Isolation) -> bool {
        true
    }

    /// A client at a node that cannot write reads on soon: what it reads may be stale.
    const CALL_TIMEOUT: Duration = Duration::from_secs(2);

    fn new(prefix: &str) -> Self {
        let (next, padding) = (AtomicI64::new(0), Padding::default());
        AsOf { table: format!("{prefix}as_of"), next, padding }
    }

    fn tables(&self) -> Vec<Table> {
        let columns = "bucket INT8, element INT8, pad TEXT, PRIMARY KEY (bucket, element)";
        vec![Table { name: self.table.clone(), columns, keys: now() / SET_NS..now() / SET_NS + 60 }]
    }

    fn next(&self, rng: &mut StdRng) -> Op {
        if rng.random_bool(0.4) {
            // What is older than about five seconds, any replica may answer; what is younger, any
            // that has it. The set was filled at that time, or shortly before.
            let bounded = rng.random_bool(0.5);
            let back = if bounded { rng.random_range(0..4) } else { rng.random_range(1..30) };
            let at = (now() - back * GRID_NS) / GRID_NS * GRID_NS;
            let set = at / SET_NS - rng.random_range(0..3);
            return Op::Read { set, asked: at, at, bounded, seen: BTreeSet::new() };
        }
        let element = self.next.fetch_add(1, Ordering::Relaxed);
        Op::Add { set: now() / SET_NS, element, from: 0, until: 0 }
    }

    fn is_read(op: &Op) -> bool {
        matches!(op, Op::Read { .. })
    }

    async fn perform(&self, session: &mut Session, op: Op) -> Result<Op, Failure> {
        match op {
            Op::Add { set, element, .. } => {
                let from = now();
                let columns = "bucket, element, pad";
                let sql = format!("INSERT INTO {} ({columns}) VALUES ($1, $2, $3)", self.table);
                let row = [set.into(), element.into(), self.padding.of(element)];
                session.execute(&sql, &row).await?;
                Ok(Op::Add { set, element, from, until: now() })
            }
            Op::Read { set, asked, bounded, .. } => {
                let time = format!("{asked}.0000000000");
                let time = if bounded { format!("with_min_timestamp({time})") } else { time };
                let sql = format!(
                    "SELECT element, cluster_logical_timestamp() FROM {} AS OF SYSTEM TIME {time} \
                     WHERE bucket = {set}",
                    self.table
                );
                // A set that was empty later was empty at the time asked for, too.
                let (mut seen, mut at) = (BTreeSet::new(), asked);
                for row in session.rows_of_text(&sql).await? {
                    seen.insert(row.int(0)?);
                    at = nanos(row.text(1))?;
                }
                Ok(Op::Read { set, asked, at, bounded, seen })
            }
        }
    }

    fn last(&self) -> Vec<Op> {
        let at = now() / GRID_NS * GRID_NS - GRID_NS;
        let newest = at / SET_NS;
        let seen = BTreeSet::new;
        let read = |set| Op::Read { set, asked: at, at, bounded: false, seen: seen() };
        (newest - 20..=newest).map(read).collect()
    }

    fn check(&self, calls: &[Call<Op>]) -> Verdict {
        check(calls)
    }
}

/// The nanoseconds of a timestamp as `cluster_logical_timestamp()` shows it.
fn nanos(timestamp: &str) -> Result<i64, Failure> {
    let wall = timestamp.split('.').next().unwrap_or_default();
    wall.parse().map_err(|_| Failure::Info(format!("{timestamp:?} is no timestamp")))
}

/// By set and timestamp: what the first read saw, and its call.
type First<'a> = BTreeMap<(i64, i64), (&'a BTreeSet<i64>, &'a Call<Op>)>;

fn check(calls: &[Call<Op>]) -> Verdict {
    let mut verdict = Verdict::valid();
    let mut added: BTreeMap<i64, Vec<(i64, i64, i64)>> = BTreeMap::new();
    let mut refused = BTreeSet::new();
    let mut reads = First::new();
    for call in calls {
        match &call.op {
            Op::Add { set, element, from, until } if call.is_ok() => {
                added.entry(*set).or_default().push((*element, *from, *until));
            }
            Op::Add { element, .. } if !call.may_have_happened() => {
                refused.insert(*element);
            }
            Op::Read { set, asked, at, bounded, seen } if call.is_ok() => {
                if at < asked || !bounded && at != asked {
                    verdict
                        .find(format!("set {set} was asked for as of {asked}, served as of {at}"));
                }
                let (first, other) = reads.entry((*set, *at)).or_insert((seen, call));
                if *first != seen {
                    verdict.find(format!(
                        "set {set} as of {at}: node {} saw {}, node {} saw {}, different are {:?}",
                        other.node + 1,
                        first.len(),
                        call.node + 1,
                        seen.len(),
                        first.symmetric_difference(seen).take(5).collect::<Vec<_>>()
                    ));
                }
            }
            _ => {}
        }
    }
    let mut before: Option<(i64, i64, &BTreeSet<i64>)> = None;
    for ((set, at), (seen, call)) in &reads {
        if let Some((_, earlier, less)) = before.filter(|(of, ..)| of == set)
            && let Some(lost) = less.difference(seen).next()
        {
            verdict.find(format!("{lost} was in set {set} as of {earlier} and not as of {at}"));
        }
        before = Some((*set, *at, seen));
        if let Some(element) = seen.intersection(&refused).next() {
            verdict.find(format!("{element} was refused and is in set {set} as of {at}"));
        }
        for (element, from, until) in added.get(set).into_iter().flatten() {
            let there = seen.contains(element);
            if !there && *until + MAX_OFFSET_NS < *at {
                verdict.find(format!(
                    "{element} was acknowledged {} ms before {at} and node {} does not see it in set \
                     {set} as of then",
                    (*at - *until) / 1_000_000,
                    call.node + 1
                ));
            }
            if there && *at + MAX_OFFSET_NS < *from {
                verdict.find(format!("{element} is in set {set} as of {at}, before it was added"));
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::by_hand::ByHand;

    const SECOND: i64 = 1_000_000_000;

    fn add(element: i64, second: i64) -> Op {
        Op::Add { set: 0, element, from: second * SECOND, until: second * SECOND + 1 }
    }

    fn read(second: i64, seen: &[i64]) -> Op {
        served(second, second, false, seen)
    }

    fn served(asked: i64, at: i64, bounded: bool, seen: &[i64]) -> Op {
        let (asked, at) = (asked * SECOND, at * SECOND);
        Op::Read { set: 0, asked, at, bounded, seen: seen.iter().copied().collect() }
    }

    fn of(history: ByHand<Op>) -> Verdict {
        check(&history.calls())
    }

    #[test]
    fn a_right_history_is_accepted() {
        let history = ByHand::new()
            .ok(add(1, 10))
            .info(add(2, 0))
            .fail(add(3, 0))
            .ok(read(9, &[]))
            .ok(read(11, &[1]))
            .ok(read(11, &[1]))
            .ok(read(12, &[1, 2]));
        let verdict = of(history);
        assert!(verdict.is_valid(), "{verdict:?}");
    }

    #[test]
    fn a_follower_that_serves_too_early_is_found() {
        assert!(!of(ByHand::new().ok(add(1, 10)).ok(read(11, &[]))).is_valid());
        let two = ByHand::new().info(add(1, 0)).ok(read(11, &[])).ok(read(11, &[1]));
        assert!(!of(two).is_valid());
    }

    #[test]
    fn a_time_that_was_not_asked_for_is_found() {
        assert!(of(ByHand::new().ok(served(10, 11, true, &[]))).is_valid());
        assert!(!of(ByHand::new().ok(served(10, 9, true, &[]))).is_valid());
        assert!(!of(ByHand::new().ok(served(10, 11, false, &[]))).is_valid());
    }

    #[test]
    fn what_vanishes_comes_too_early_or_was_refused_is_found() {
        let vanishes = ByHand::new().info(add(1, 0)).ok(read(11, &[1])).ok(read(12, &[]));
        assert!(!of(vanishes).is_valid());
        assert!(!of(ByHand::new().ok(add(1, 10)).ok(read(9, &[1]))).is_valid());
        assert!(!of(ByHand::new().fail(add(1, 10)).ok(read(11, &[1]))).is_valid());
    }
}
