//! Transfers between accounts in several ranges.
//!
//! Checked: every read sees all accounts, none in debt, with the same sum; and in the end each account
//! that no transfer of unknown outcome touched holds exactly what the transfers made of it, so that a
//! transfer applied twice, or half, is found although the sum is right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};

use rand::Rng as _;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::history::Call;
use crate::session::{Failure, Session, Value};
use crate::verdict::Verdict;
use crate::workload::{Padding, Table, Workload};

const ACCOUNTS: i64 = 12;
const EACH: i64 = 100;

/// Transfers of this amount lock the payer first, all others the account with the lower number: some
/// run into a deadlock, but its resolution is not all that a run shows.
const DISORDERLY: i64 = 1;

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Reads all accounts.
    Read(BTreeMap<i64, i64>),
    /// Moves an amount from the first account to the second; `relative` by adding in the database,
    /// otherwise by writing the new balances.
    Transfer {
        /// The account that pays.
        from: i64,
        /// The account that gets.
        to: i64,
        /// How much.
        amount: i64,
        /// How it is written.
        relative: bool,
    },
}

/// The workload.
#[derive(Debug)]
pub struct Bank {
    table: String,
    updates: AtomicI64,
    padding: Padding,
}

impl Workload for Bank {
    type Op = Op;
    const NAME: &'static str = "bank";

    fn new(prefix: &str) -> Self {
        let (updates, padding) = (AtomicI64::new(0), Padding::default());
        Bank { table: format!("{prefix}bank"), updates, padding }
    }

    fn tables(&self) -> Vec<Table> {
        let columns = "id INT8 PRIMARY KEY, balance INT8 NOT NULL, pad TEXT";
        vec![Table { name: self.table.clone(), columns, keys: 0..ACCOUNTS }]
    }

    fn preload(&self) -> Vec<String> {
        let rows: Vec<String> = (0..ACCOUNTS).map(|id| format!("({id}, {EACH})")).collect();
        vec![format!("INSERT INTO {} (id, balance) VALUES {}", self.table, rows.join(", "))]
    }

    fn next(&self, rng: &mut StdRng) -> Op {
        if rng.random_bool(0.3) {
            return Op::Read(BTreeMap::new());
        }
        let from = rng.random_range(0..ACCOUNTS);
        let to = (from + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
        Op::Transfer { from, to, amount: rng.random_range(1..6), relative: rng.random_bool(0.5) }
    }

    fn is_read(op: &Op) -> bool {
        matches!(op, Op::Read(_))
    }

    async fn perform(&self, session: &mut Session, op: Op) -> Result<Op, Failure> {
        match op {
            Op::Read(_) => {
                let sql = format!("SELECT id, balance FROM {}", self.table);
                let mut balances = BTreeMap::new();
                for row in session.rows(&sql, &[]).await? {
                    balances.insert(row.int(0)?, row.int(1)?);
                }
                Ok(Op::Read(balances))
            }
            Op::Transfer { from, to, amount, relative } => {
                session.begin().await?;
                let payer = self.balance(session, from).await?;
                let payee = self.balance(session, to).await?;
                if payer < amount {
                    session.rollback().await?;
                    return Err(Failure::Fail("not enough".to_owned()));
                }
                let mut changes = [(from, payer, -amount), (to, payee, amount)];
                if amount != DISORDERLY {
                    changes.sort_unstable_by_key(|(id, ..)| *id);
                }
                for (id, balance, change) in changes {
                    if relative {
                        self.update(session, id, "balance + $2", change).await?;
                    } else {
                        self.update(session, id, "$2", balance + change).await?;
                    }
                }
                session.commit().await?;
                Ok(Op::Transfer { from, to, amount, relative })
            }
        }
    }

    fn last(&self) -> Vec<Op> {
        vec![Op::Read(BTreeMap::new())]
    }

    fn check(&self, calls: &[Call<Op>]) -> Verdict {
        check(calls)
    }
}

impl Bank {
    async fn balance(&self, session: &mut Session, id: i64) -> Result<i64, Failure> {
        let sql = format!("SELECT balance FROM {} WHERE id = $1", self.table);
        match session.rows(&sql, &[id.into()]).await?.first() {
            Some(row) => row.int(0),
            None => Err(Failure::Fail(format!("account {id} is not there"))),
        }
    }

    async fn update(
        &self,
        session: &mut Session,
        id: i64,
        balance: &str,
        value: i64,
    ) -> Result<(), Failure> {
        let sql = format!("UPDATE {} SET balance = {balance}, pad = $3 WHERE id = $1", self.table);
        let pad = self.padding.of(self.updates.fetch_add(1, Ordering::Relaxed));
        match session.execute(&sql, &[id.into(), Value::Int(value), pad]).await? {
            1 => Ok(()),
            n => Err(Failure::Fail(format!("UPDATE of account {id} changed {n} rows"))),
        }
    }
}

fn check(calls: &[Call<Op>]) -> Verdict {
    let mut verdict = Verdict::valid();
    let mut balance: BTreeMap<i64, i64> = (0..ACCOUNTS).map(|id| (id, EACH)).collect();
    let mut open = BTreeSet::new();
    let mut last_write = 0;
    for call in calls {
        match &call.op {
            Op::Read(seen) if call.is_ok() => read(&mut verdict, call, seen),
            Op::Transfer { from, to, amount, .. } if call.is_ok() => {
                last_write = last_write.max(call.completed);
                *balance.entry(*from).or_default() -= amount;
                *balance.entry(*to).or_default() += amount;
            }
            Op::Transfer { from, to, .. } if call.may_have_happened() => open.extend([*from, *to]),
            _ => {}
        }
    }
    for call in calls.iter().filter(|call| call.is_ok() && call.invoked > last_write) {
        let Op::Read(seen) = &call.op else { continue };
        for (id, expected) in balance.iter().filter(|(id, _)| !open.contains(id)) {
            let found = seen.get(id);
            if found != Some(expected) {
                verdict.find(format!(
                    "node {} in the end: account {id} holds {found:?}, its transfers make {expected}",
                    call.node + 1
                ));
            }
        }
    }
    verdict
}

fn read(verdict: &mut Verdict, call: &Call<Op>, seen: &BTreeMap<i64, i64>) {
    let sum: i64 = seen.values().sum();
    let whole = i64::try_from(seen.len()) == Ok(ACCOUNTS) && sum == ACCOUNTS * EACH;
    if !whole || seen.values().any(|balance| *balance < 0) {
        verdict.find(format!(
            "call {} read {sum} in {} accounts where {} belong: {seen:?}",
            call.invoked,
            seen.len(),
            ACCOUNTS * EACH
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::by_hand::ByHand;

    fn balances(changes: &[(i64, i64)]) -> Op {
        let mut all: BTreeMap<i64, i64> = (0..ACCOUNTS).map(|id| (id, EACH)).collect();
        for (id, change) in changes {
            *all.entry(*id).or_default() += change;
        }
        Op::Read(all)
    }

    fn transfer(from: i64, to: i64, amount: i64) -> Op {
        Op::Transfer { from, to, amount, relative: false }
    }

    fn of(history: ByHand<Op>) -> Verdict {
        check(&history.calls())
    }

    #[test]
    fn a_right_history_is_accepted() {
        let history = ByHand::new()
            .ok(transfer(0, 1, 5))
            .fail(transfer(0, 1, 7))
            .ok(balances(&[(0, -5), (1, 5)]))
            .info(transfer(2, 3, 1))
            .ok(balances(&[(0, -5), (1, 5), (2, -1), (3, 1)]));
        let verdict = of(history);
        assert!(verdict.is_valid(), "{verdict:?}");
    }

    #[test]
    fn half_a_transfer_is_found() {
        assert!(!of(ByHand::new().ok(balances(&[(0, -5)]))).is_valid());
    }

    #[test]
    fn debt_is_found() {
        assert!(!of(ByHand::new().ok(balances(&[(0, -101), (1, 101)]))).is_valid());
    }

    #[test]
    fn a_transfer_lost_or_doubled_is_found_in_the_end() {
        assert!(!of(ByHand::new().ok(transfer(0, 1, 5)).ok(balances(&[]))).is_valid());
        let doubled = ByHand::new().ok(transfer(0, 1, 5)).ok(balances(&[(0, -10), (1, 10)]));
        assert!(!of(doubled).is_valid());
    }

    #[test]
    fn an_effect_of_a_failure_is_found_in_the_end() {
        let history = ByHand::new().fail(transfer(0, 1, 5)).ok(balances(&[(0, -5), (1, 5)]));
        assert!(!of(history).is_valid());
    }
}
