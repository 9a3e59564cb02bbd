//! Random transactions that append unique elements to lists and read lists, judged by `adya`.
//!
//! The dependencies of the transactions are inferred from the lists that were read; a history is
//! serializable if they have no cycle. Whether it is strictly serializable is told as information.
//!
//! Some appends are taken back by a savepoint before the transaction goes on, some of them after they
//! were cancelled while they waited. Nobody may ever read them.
//!
//! Lists are few, so that most transactions conflict. An append locks its list until the transaction
//! ends: most transactions take their locks in one order, because a deadlock stops all who wait for
//! its lists until it is found, and a run would show little else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use adya::{History, Opts, Valid};
use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::StdRng;
use serde::{Serialize, Serializer};
use serde_json::json;

use crate::history::{Call, to_json_lines};
use crate::session::{Failure, Row, Session};
use crate::verdict::Verdict;
use crate::workload::{Padding, Table, Workload};

/// Lists in use at a time.
const ACTIVE: usize = 10;
/// Elements of a list; then the next one takes its place.
const SIZE: i64 = 40;
/// Over so many tables the lists are spread.
const TABLES: i64 = 3;

/// What no list ever holds but for a moment.
const OVERWRITTEN: i64 = 0;
/// The share of appends that are taken back.
const TAKEN_BACK: f64 = 0.15;
/// The share of transactions that take locks in any order.
const DISORDERLY: f64 = 0.02;
/// How long the search for cycles may take, in each component of the graph of dependencies.
const SEARCH: Duration = Duration::from_secs(60);

/// A step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Appends an element to a list.
    Append(i64, i64),
    /// Reads a list; `None` until it was read.
    Read(i64, Option<Vec<i64>>),
    /// Appends an element to a list, and takes it back.
    TakenBack(i64, i64),
}

impl Step {
    fn list(&self) -> i64 {
        match self {
            Step::Append(list, _) | Step::Read(list, _) | Step::TakenBack(list, _) => *list,
        }
    }

    fn locks(&self) -> bool {
        !matches!(self, Step::Read(..))
    }
}

/// As the checker reads it.
impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Step::Append(list, element) => json!(["append", list, element]),
            // For who reads a history that was kept: the checker is not shown it.
            Step::TakenBack(list, element) => json!(["taken back", list, element]),
            Step::Read(list, seen) => json!(["r", list, seen]),
        }
        .serialize(serializer)
    }
}

/// A transaction.
pub type Op = Vec<Step>;

/// The workload.
#[derive(Debug)]
pub struct ListAppend {
    prefix: String,
    state: Mutex<Lists>,
    padding: Padding,
}

/// Which lists are in use, and the next element of each.
#[derive(Debug)]
struct Lists {
    active: Vec<(i64, i64)>,
    next: i64,
}

impl Workload for ListAppend {
    type Op = Op;
    const NAME: &'static str = "list-append";

    fn new(prefix: &str) -> Self {
        let active: Vec<(i64, i64)> = (0_i64..).take(ACTIVE).map(|list| (list, 1)).collect();
        let next = active.len() as i64;
        ListAppend {
            prefix: format!("{prefix}list_append"),
            state: Mutex::new(Lists { active, next }),
            padding: Padding::default(),
        }
    }

    fn tables(&self) -> Vec<Table> {
        let columns = "k INT8 PRIMARY KEY, v TEXT NOT NULL, pad TEXT";
        let table = |n| Table { name: self.table(n), columns, keys: 0..200 };
        (0..TABLES).map(table).collect()
    }

    fn next(&self, rng: &mut StdRng) -> Op {
        let mut lists = self.state.lock();
        let mut steps: Op = (0..rng.random_range(1..=5)).map(|_| lists.step(rng)).collect();
        drop(lists);
        if !rng.random_bool(DISORDERLY) {
            order_appends(&mut steps);
        }
        steps
    }

    fn is_read(op: &Op) -> bool {
        op.iter().all(|step| matches!(step, Step::Read(..)))
    }

    async fn perform(&self, session: &mut Session, op: Op) -> Result<Op, Failure> {
        // A single step is a statement on its own.
        let transaction = op.len() > 1 || op.iter().any(|s| matches!(s, Step::TakenBack(..)));
        if transaction {
            session.begin().await?;
        }
        let mut done = Vec::with_capacity(op.len());
        for step in op {
            done.push(self.step(session, step).await?);
        }
        if transaction {
            session.commit().await?;
        }
        Ok(done)
    }

    fn last(&self) -> Vec<Op> {
        let lists = self.state.lock();
        // The newest lists in one transaction; older ones were read again and again.
        let first = (lists.next - 3 * ACTIVE as i64).max(0);
        vec![(first..lists.next).map(|list| Step::Read(list, None)).collect()]
    }

    fn check(&self, calls: &[Call<Op>]) -> Verdict {
        check(calls)
    }
}

/// Lets the appends change places so that their lists ascend; reads stay where they are.
fn order_appends(steps: &mut [Step]) {
    let mut appends: Vec<Step> = steps.iter().filter(|step| step.locks()).cloned().collect();
    appends.sort_by_key(Step::list);
    for (place, append) in steps.iter_mut().filter(|step| step.locks()).zip(appends) {
        *place = append;
    }
}

impl Lists {
    fn step(&mut self, rng: &mut StdRng) -> Step {
        let place = rng.random_range(0..self.active.len());
        let Some((list, next)) = self.active.get_mut(place) else { return Step::Read(0, None) };
        if rng.random_bool(0.5) {
            return Step::Read(*list, None);
        }
        let step = match rng.random_bool(TAKEN_BACK) {
            true => Step::TakenBack(*list, *next),
            false => Step::Append(*list, *next),
        };
        *next += 1;
        if *next > SIZE {
            (*list, *next) = (self.next, 1);
            self.next += 1;
        }
        step
    }
}

impl ListAppend {
    fn table(&self, list: i64) -> String {
        format!("{}{}", self.prefix, list % TABLES)
    }

    async fn step(&self, session: &mut Session, step: Step) -> Result<Step, Failure> {
        match step {
            Step::Read(list, _) => {
                let sql = format!("SELECT v FROM {} WHERE k = $1", self.table(list));
                let rows = session.rows(&sql, &[list.into()]).await?;
                let seen = rows.first().map(elements).transpose()?;
                Ok(Step::Read(list, Some(seen.unwrap_or_default())))
            }
            Step::Append(list, element) => {
                self.append(session, list, element).await?;
                Ok(step)
            }
            Step::TakenBack(list, element) => {
                session.rows_of_text("SAVEPOINT s").await?;
                let outcome = if element % 2 == 0 {
                    self.overwrite(session, list, element).await
                } else {
                    self.append(session, list, element).await
                };
                // Where that failed, going back to the savepoint helps, or says that it does not.
                match outcome {
                    Ok(()) | Err(Failure::Fail(_)) => {}
                    Err(unknown) => return Err(unknown),
                }
                session.rows_of_text("ROLLBACK TO SAVEPOINT s").await?;
                session.rows_of_text("RELEASE SAVEPOINT s").await?;
                Ok(step)
            }
        }
    }

    /// Replaces a list and another one without a look at them, unless that has to wait for long. In
    /// one statement, so that the first is sent before the transaction commits where little is
    /// buffered. PostgreSQL, where it is an error, is none the worse for it.
    async fn overwrite(
        &self,
        session: &mut Session,
        list: i64,
        element: i64,
    ) -> Result<(), Failure> {
        session.rows_of_text("SET LOCAL statement_timeout = '15ms'").await?;
        let (table, other) = (self.table(list), list + TABLES);
        let sql = format!(
            "UPSERT INTO {table} (k, v, pad) VALUES ({list}, '{element}', NULL), \
             ({other}, '{OVERWRITTEN}', NULL)"
        );
        session.rows_of_text(&sql).await?;
        Ok(())
    }

    async fn append(&self, session: &mut Session, list: i64, element: i64) -> Result<(), Failure> {
        let table = self.table(list);
        let sql = format!(
            "INSERT INTO {table} (k, v, pad) VALUES ($1, $2, $3) ON CONFLICT (k) \
             DO UPDATE SET v = {table}.v || ',' || excluded.v, pad = excluded.pad"
        );
        let text = element.to_string();
        let pad = self.padding.of(list * SIZE + element);
        session.execute(&sql, &[list.into(), text.as_str().into(), pad]).await?;
        Ok(())
    }
}

fn elements(row: &Row) -> Result<Vec<i64>, Failure> {
    let text = row.text(0);
    let parsed: Result<Vec<i64>, _> = text.split(',').map(str::parse).collect();
    parsed.map_err(|_| Failure::Info(format!("a list holds {text:?}")))
}

fn check(calls: &[Call<Op>]) -> Verdict {
    let stays = |op: &Op| -> Op {
        op.iter().filter(|step| !matches!(step, Step::TakenBack(..))).cloned().collect()
    };
    let visible: Vec<Call<Op>> = calls
        .iter()
        .map(|call| Call { asked: stays(&call.asked), op: stays(&call.op), ..call.clone() })
        .filter(|call| !call.op.is_empty())
        .collect();
    let mut verdict = judge(&to_json_lines(&visible, &[]));
    find_taken_back(calls, &mut verdict);
    verdict
}

/// Finds reads of what was taken back, within its transaction or outside.
fn find_taken_back(calls: &[Call<Op>], verdict: &mut Verdict) {
    let taken_back: BTreeSet<(i64, i64)> = calls
        .iter()
        .flat_map(|call| &call.asked)
        .filter_map(|step| match step {
            Step::TakenBack(list, element) => Some((*list, *element)),
            _ => None,
        })
        .collect();
    for step in calls.iter().filter(|call| call.is_ok()).flat_map(|call| &call.op) {
        let Step::Read(list, Some(seen)) = step else { continue };
        let taken_back = |seen: &i64| *seen == OVERWRITTEN || taken_back.contains(&(*list, *seen));
        if let Some(element) = seen.iter().copied().find(taken_back) {
            verdict.find(format!("list {list} was read with {element}, which was taken back"));
            return;
        }
    }
}

fn judge(lines: &str) -> Verdict {
    let mut verdict = Verdict::valid();
    let history = match History::from_json(lines) {
        Ok(history) => history,
        Err(error) => {
            verdict.unknown(error);
            return verdict;
        }
    };
    let opts =
        |model: &str| Opts { models: vec![model.to_owned()], timeout: SEARCH, ..Opts::default() };
    let report = adya::check(&history, adya::Workload::ListAppend, &opts("serializable"));
    let anomalies: BTreeMap<&String, usize> =
        report.anomalies.iter().map(|(kind, found)| (kind, found.len())).collect();
    match report.valid {
        Valid::True => {}
        Valid::Unknown => verdict.unknown(format!("{anomalies:?}")),
        Valid::False => {
            verdict.find(format!("{anomalies:?}; not {}", report.not.join(", ")));
            for found in report.anomalies.values().filter_map(|found| found.first()) {
                verdict.find(format!("{}: {}", found.kind, found.explanation));
            }
        }
    }
    if report.valid != Valid::False {
        let strict =
            adya::check(&history, adya::Workload::ListAppend, &opts("strict-serializable"));
        let kinds: Vec<&str> = strict.anomaly_types.iter().map(String::as_str).collect();
        verdict.note(match strict.valid {
            Valid::True => "also strictly serializable".to_owned(),
            _ => format!("strictly serializable: no ({})", kinds.join(", ")),
        });
    }
    verdict
}

#[cfg(test)]
mod tests {
    use adya::sim::{Isolation, SimOpts, run};
    use rand::SeedableRng as _;

    use super::*;
    use crate::history::by_hand::ByHand;
    use crate::verdict::Validity;

    fn append(list: i64, element: i64) -> Step {
        Step::Append(list, element)
    }

    fn read(list: i64, seen: &[i64]) -> Step {
        Step::Read(list, Some(seen.to_vec()))
    }

    fn of(history: ByHand<Op>) -> Verdict {
        check(&history.calls())
    }

    #[test]
    fn a_right_history_is_accepted() {
        let history = ByHand::new()
            .ok(vec![append(0, 1), read(1, &[])])
            .fail(vec![append(0, 2)])
            .info(vec![append(0, 3)])
            .ok(vec![read(0, &[1, 3]), append(1, 1)])
            .ok(vec![read(0, &[1, 3]), read(1, &[1])]);
        let verdict = of(history);
        assert!(verdict.is_valid(), "{verdict:?}");
        assert_eq!(verdict.notes, ["also strictly serializable"]);
    }

    #[test]
    fn write_skew_is_found() {
        let history = ByHand::new()
            .ok(vec![read(0, &[]), append(1, 1)])
            .ok(vec![read(1, &[]), append(0, 1)])
            .overlapping(2)
            .ok(vec![read(0, &[1]), read(1, &[1])]);
        assert_eq!(of(history).validity, Validity::Invalid);
    }

    #[test]
    fn a_read_of_a_failed_append_is_found() {
        let history = ByHand::new().fail(vec![append(0, 1)]).ok(vec![read(0, &[1])]);
        assert_eq!(of(history).validity, Validity::Invalid);
    }

    #[test]
    fn a_read_of_what_was_taken_back_is_found() {
        let taken_back = || Step::TakenBack(0, 2);
        let right = ByHand::new()
            .ok(vec![append(0, 1), taken_back(), read(0, &[1])])
            .ok(vec![taken_back()])
            .ok(vec![read(0, &[1])]);
        let verdict = of(right);
        assert!(verdict.is_valid(), "{verdict:?}");
        let wrong = ByHand::new()
            .ok(vec![append(0, 1), taken_back()])
            .ok(vec![append(0, 3)])
            .ok(vec![read(0, &[1, 2, 3])]);
        assert_eq!(of(wrong).validity, Validity::Invalid);
    }

    #[test]
    fn a_lost_append_is_found() {
        let history = ByHand::new()
            .ok(vec![append(0, 1)])
            .ok(vec![append(0, 2)])
            .ok(vec![read(0, &[1, 2])])
            .ok(vec![read(0, &[2])]);
        assert_eq!(of(history).validity, Validity::Invalid);
    }

    #[test]
    fn a_history_that_shows_nothing_is_not_called_valid() {
        assert_eq!(of(ByHand::new()).validity, Validity::Unknown);
    }

    fn simulated(isolation: Isolation, seed: u64) -> Verdict {
        judge(&run(&SimOpts { isolation, txns: 1500, seed, ..SimOpts::default() }))
    }

    #[test]
    fn levels_that_are_too_weak_are_told_from_one_that_is_not() {
        let mut skewed = 0;
        for seed in 0..3 {
            let serializable = simulated(Isolation::Serializable, seed);
            assert!(serializable.is_valid(), "seed {seed}: {serializable:?}");
            for weak in
                [Isolation::ReadUncommitted, Isolation::ReadCommitted, Isolation::LostUpdate]
            {
                let verdict = simulated(weak, seed);
                assert_eq!(verdict.validity, Validity::Invalid, "seed {seed}, {weak:?}");
            }
            let snapshot = simulated(Isolation::SnapshotIsolation, seed);
            skewed += u32::from(snapshot.validity == Validity::Invalid);
        }
        assert!(skewed > 0, "no seed shows write skew under snapshot isolation");
    }

    #[test]
    fn twenty_thousand_transactions_are_judged() {
        // As contended as a real run, with transactions of unknown outcome.
        let opts = SimOpts {
            isolation: Isolation::Serializable,
            processes: 30,
            txns: 20_000,
            info_rate: 0.02,
            seed: 1,
            ..SimOpts::default()
        };
        let verdict = judge(&run(&opts));
        assert!(verdict.is_valid(), "{verdict:?}");
    }

    #[test]
    fn appends_are_ordered_and_reads_stay() {
        let mut steps = vec![append(2, 1), read(0, &[]), append(1, 1), append(2, 2)];
        order_appends(&mut steps);
        assert_eq!(steps, [append(1, 1), read(0, &[]), append(2, 1), append(2, 2)]);
    }

    #[test]
    fn elements_are_unique_and_lists_are_retired() {
        let workload = ListAppend::new("");
        let mut rng = StdRng::seed_from_u64(3);
        let mut seen = std::collections::BTreeSet::new();
        for step in (0..1000).flat_map(|_| workload.next(&mut rng)) {
            if let Step::Append(list, element) | Step::TakenBack(list, element) = step {
                assert!(seen.insert((list, element)));
                assert!(element <= SIZE);
            }
        }
        assert!(workload.last().concat().len() >= ACTIVE);
    }
}
