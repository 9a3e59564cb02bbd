//! A process writes rows one after the other into several tables; a reader looks for the last first.
//!
//! Checked: who sees a row sees, later, the rows that the same process wrote before it.

use std::sync::atomic::{AtomicI64, Ordering};

use rand::Rng as _;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::history::Call;
use crate::session::{Failure, Isolation, Session};
use crate::verdict::Verdict;
use crate::workload::{Padding, Table, Workload};

/// How many rows make a chain, each in a table of its own.
const LINKS: usize = 4;

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Writes a chain, link by link.
    Write(i64),
    /// Reads a chain, the last link first: which links were there, by their place.
    Read(i64, Vec<bool>),
}

/// The workload.
#[derive(Debug)]
pub struct Sequential {
    prefix: String,
    next: AtomicI64,
    padding: Padding,
}

impl Workload for Sequential {
    type Op = Op;
    const NAME: &'static str = "sequential";

    // A statement sees what was acknowledged before it at either level.
    fn holds_at(_: Isolation) -> bool {
        true
    }

    fn new(prefix: &str) -> Self {
        let (next, padding) = (AtomicI64::new(0), Padding::default());
        Sequential { prefix: format!("{prefix}sequential"), next, padding }
    }

    fn tables(&self) -> Vec<Table> {
        let columns = "k INT8 PRIMARY KEY, pad TEXT";
        let table = |link| Table { name: self.table(link), columns, keys: 0..3_000 };
        (0..LINKS).map(table).collect()
    }

    fn next(&self, rng: &mut StdRng) -> Op {
        if rng.random_bool(0.4) {
            return Op::Write(self.next.fetch_add(1, Ordering::Relaxed));
        }
        // A chain that is just being written, most likely.
        let newest = self.next.load(Ordering::Relaxed);
        Op::Read((newest - rng.random_range(1..12)).max(0), Vec::new())
    }

    fn is_read(op: &Op) -> bool {
        matches!(op, Op::Read(..))
    }

    async fn perform(&self, session: &mut Session, op: Op) -> Result<Op, Failure> {
        match op {
            Op::Write(chain) => {
                for (link, number) in (0..LINKS).zip(chain * LINKS as i64..) {
                    let sql = format!("INSERT INTO {} (k, pad) VALUES ($1, $2)", self.table(link));
                    let row = [chain.into(), self.padding.of(number)];
                    let outcome = session.execute(&sql, &row).await;
                    // The links before are there.
                    outcome.map_err(|failure| match failure {
                        Failure::Fail(why) if link > 0 => Failure::Info(why),
                        other => other,
                    })?;
                }
                Ok(Op::Write(chain))
            }
            Op::Read(chain, _) => {
                let mut seen = vec![false; LINKS];
                for (link, seen) in seen.iter_mut().enumerate().rev() {
                    let sql = format!("SELECT k FROM {} WHERE k = $1", self.table(link));
                    *seen = !session.rows(&sql, &[chain.into()]).await?.is_empty();
                }
                Ok(Op::Read(chain, seen))
            }
        }
    }

    fn last(&self) -> Vec<Op> {
        let chains = self.next.load(Ordering::Relaxed);
        (0..chains).rev().take(50).map(|chain| Op::Read(chain, Vec::new())).collect()
    }

    fn check(&self, calls: &[Call<Op>]) -> Verdict {
        check(calls)
    }
}

impl Sequential {
    fn table(&self, link: usize) -> String {
        format!("{}{link}", self.prefix)
    }
}

fn check(calls: &[Call<Op>]) -> Verdict {
    let mut verdict = Verdict::valid();
    let mut written = std::collections::BTreeMap::new();
    for call in calls.iter().filter(|call| call.is_ok()) {
        if let Op::Write(chain) = call.op {
            written.insert(chain, call.completed);
        }
    }
    for call in calls.iter().filter(|call| call.is_ok()) {
        let Op::Read(chain, seen) = &call.op else { continue };
        let last = seen.iter().rposition(|seen| *seen);
        let first_missing = seen.iter().position(|seen| !*seen);
        if let (Some(last), Some(missing)) = (last, first_missing)
            && missing < last
        {
            verdict.find(format!("chain {chain}: link {last} was seen, later not {missing}"));
        }
        let due = written.get(chain).is_some_and(|completed| *completed < call.invoked);
        if due && first_missing.is_some() {
            verdict.find(format!("chain {chain} was acknowledged, later seen as {seen:?}"));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::by_hand::ByHand;

    fn of(history: ByHand<Op>) -> Verdict {
        check(&history.calls())
    }

    #[test]
    fn a_right_history_is_accepted() {
        let history = ByHand::new()
            .ok(Op::Write(0))
            .ok(Op::Read(0, vec![true; 4]))
            .ok(Op::Write(1))
            .ok(Op::Read(1, vec![true, true, false, false]))
            .overlapping(2)
            .ok(Op::Read(2, vec![false; 4]));
        let verdict = of(history);
        assert!(verdict.is_valid(), "{verdict:?}");
    }

    #[test]
    fn a_later_link_without_an_earlier_one_is_found() {
        let history =
            ByHand::new().info(Op::Write(0)).ok(Op::Read(0, vec![true, false, true, false]));
        assert!(!of(history).is_valid());
    }

    #[test]
    fn a_stale_read_is_found() {
        let history = ByHand::new().ok(Op::Write(0)).ok(Op::Read(0, vec![true, true, true, false]));
        assert!(!of(history).is_valid());
    }
}
