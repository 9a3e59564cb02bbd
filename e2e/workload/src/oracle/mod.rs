//! An oracle for whole statements: streams of random transactions, run against a database and against
//! a simple model of one, which have to agree after each.
//!
//! What it is not: a checker of histories. A stream owns its table, so that its transactions come one
//! after the other and there is one right answer to each; what concurrent transactions may see of each
//! other is for the other workloads to say. Beside the streams a reader at any node sees each of
//! their states whole, and none that is older than what was acknowledged.
//!
//! ```text
//! generate   transactions by seed, sizes across the bounds     statement   what is asked, and its SQL
//! model      what they answer and leave                        compare     what differs
//! stream     runs them, learns what became of them, compares
//! ```
//!
//! Invariants:
//! 1. What is run depends on the seed and on what the table holds, on nothing else.
//! 2. A transaction fails as a whole, and only for a reason that a fault explains; one of unknown
//!    outcome is there as a whole or not at all.
//! 3. A run in which too few transactions ended, or none had a statement of some kind, is no evidence.

mod compare;
mod generate;
mod model;
mod statement;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::driver::Clients;
use crate::history::Order;
use crate::nemesis::Deeds;
use crate::report::{self, RunReport, too_little, verdict_name};
use crate::run::{Course, Plan, Target, arrange, suffer};
use crate::session::{Failure, Row, Session, Style};
use crate::verdict::Verdict;
use crate::workload;

use compare::States;
use generate::{NUMBERS, Script};
use statement::Dialect;
use stream::Stream;

/// What people call it.
pub const NAME: &str = "oracle";

/// Streams at once, at most.
const STREAMS: usize = 4;
/// What rows and bytes of large statements are divided by where the bounds are small.
const SMALL_PART: usize = 16;
/// A transaction here is worth so many calls of another workload.
const WORTH: u64 = 10;

/// SQLSTATEs that a run may meet.
struct SqlState;

impl SqlState {
    /// The transaction is to be run again.
    const RESTART: &str = "40001";
    /// Its outcome is unknown.
    const UNKNOWN: &str = "40003";
    /// What nodes say that are killed, cut off or paused, or that are too small: no range, no node, no
    /// time, no memory, no agreement on a table.
    const FAULTY: [&str; 7] = ["57P01", "57P03", "57014", "58000", "08006", "53200", "55P03"];
}

/// What a run did.
#[derive(Debug, Default)]
struct Tally {
    /// Transactions that ended as they should, by commit or otherwise.
    ended: u64,
    committed: u64,
    statements: u64,
    bytes: usize,
    rows_compared: u64,
    observations: u64,
    restarts: u64,
    splits: u64,
    /// Failures, those of readers among them.
    failures: Vec<String>,
    failed: u64,
    unknown: u64,
    /// The kinds of statements in transactions that committed.
    kinds: BTreeSet<&'static str>,
}

impl Tally {
    fn count(&mut self, script: &Script, committed: bool) {
        self.statements += script.steps.len() as u64;
        if committed {
            self.committed += 1;
            self.bytes += script.bytes;
            self.kinds.extend(script.steps.iter().map(|step| step.statement.kind()));
        }
    }
}

/// What the tasks of a run share.
#[derive(Debug)]
struct Shared {
    ports: Vec<u16>,
    clients: Clients,
    dialect: Dialect,
    /// Whether statements may fail because of faults, or of bounds.
    is_harsh: bool,
    /// What rows and bytes of large statements are divided by.
    part: usize,
    stop: AtomicBool,
    tally: Mutex<Tally>,
    findings: Mutex<Vec<(String, Vec<String>)>>,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn find(&self, finding: String, log: &[String]) {
        self.findings.lock().push((finding, log.to_vec()));
        // What comes after it means nothing.
        self.stop.store(true, Ordering::Release);
    }

    /// Whether a fault explains a failure, or another transaction does.
    fn allows(&self, failure: &Failure) -> bool {
        match failure.state() {
            Some(SqlState::RESTART | SqlState::UNKNOWN) => true,
            Some(state) => self.is_harsh && SqlState::FAULTY.contains(&state),
            None => self.is_harsh,
        }
    }

    async fn connect(&self, node: usize, style: Style) -> Result<Session, Failure> {
        let port = self.ports.get(node).copied().unwrap_or_default();
        Session::connect(&self.clients.login, port, style, self.clients.isolation).await
    }

    /// Reads at a node.
    async fn ask(&self, node: usize, sql: &str) -> Result<Vec<Row>, Failure> {
        self.connect(node, Style::Simple).await?.rows_of_text(sql).await
    }
}

/// Runs the oracle.
///
/// # Errors
///
/// The database could not be set up; a verdict is no error.
pub async fn run(target: &mut Target, plan: &Plan) -> Result<RunReport> {
    let clients = Clients {
        ports: target.ports(),
        login: target.login(plan.isolation),
        count: plan.clients,
        call_timeout: Duration::from_secs(120),
        isolation: plan.isolation,
        seed: plan.seed,
    };
    let on_cluster = matches!(target, Target::Cluster(_));
    let has_small_bounds =
        matches!(target, Target::Cluster(cluster) if !cluster.limits().is_empty());
    let shared = Arc::new(Shared {
        ports: target.ports(),
        clients,
        dialect: if on_cluster { Dialect::Crdb } else { Dialect::Postgres },
        is_harsh: has_small_bounds || !(plan.nemesis.is_none() || plan.nemesis.are_brief()),
        part: if has_small_bounds { SMALL_PART } else { 1 },
        stop: AtomicBool::new(false),
        tally: Mutex::default(),
        findings: Mutex::default(),
    });
    let mut verdict = Verdict::valid();
    let (mut streams, mut states, mut tables) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..plan.clients.clamp(1, STREAMS) {
        let name = format!("r{}_{}_oracle{n}", std::process::id(), plan.seed);
        let seen = Arc::new(States::default());
        let seed = plan.seed.wrapping_mul(1000).wrapping_add(n as u64);
        let stream = Stream::new(Arc::clone(&shared), Arc::clone(&seen), &name, seed);
        let columns = stream.keys().columns();
        shared.clients.set_up(&[format!("CREATE TABLE {name} ({columns})")]).await?;
        tables.push(workload::Table { name, columns, keys: 0..NUMBERS });
        streams.push(stream);
        states.push(seen);
    }
    if let Target::Cluster(cluster) = target {
        verdict.note(arrange(cluster, &tables, plan.seed).await?);
    } else {
        // A TRUNCATE of PostgreSQL is seen by readers that began before it.
        states.clear();
    }
    let (began, course, order) = (Instant::now(), Course::new(plan), Order::default());
    let suffering = suffer(&order, tables, target, plan, &course);
    let (ended, deeds) =
        tokio::join!(until_ended(&shared, streams, states, plan, &course), suffering);
    let (deeds, seconds) = (deeds?, began.elapsed().as_secs_f64());
    ended?;
    if let Target::Cluster(cluster) = target {
        cluster.complaints().into_iter().for_each(|complaint| verdict.find(complaint));
    }
    Ok(sum_up(&shared, plan, seconds, deeds, verdict))
}

/// Lets the streams run until the run is over, or something was found.
async fn until_ended(
    shared: &Arc<Shared>,
    streams: Vec<Stream>,
    states: Vec<Arc<States>>,
    plan: &Plan,
    course: &Course,
) -> Result<()> {
    let mut running = JoinSet::new();
    for stream in streams {
        running.spawn(stream.run());
    }
    for (n, states) in (0..).zip(states) {
        running.spawn(stream::observe(Arc::clone(shared), states, plan.seed.wrapping_add(n)));
    }
    let shows_enough = || {
        let tally = shared.tally.lock();
        let kinds = kinds(&tally).values().all(|committed| *committed);
        kinds && tally.ended >= plan.least_calls / WORTH
    };
    let over = course.is_over(shows_enough);
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over, if !shared.is_over() => shared.stop.store(true, Ordering::Release),
            joined = running.join_next() => match joined {
                Some(stream) => stream.context("a stream")?,
                None => break,
            },
        }
    }
    course.ended.store(true, Ordering::Release);
    Ok(())
}

/// The kinds of statements, and whether a transaction with one committed.
fn kinds(tally: &Tally) -> BTreeMap<String, bool> {
    let kind = |kind: &&'static str| ((*kind).to_owned(), tally.kinds.contains(kind));
    statement::KINDS.iter().map(kind).collect()
}

fn sum_up(
    shared: &Shared,
    plan: &Plan,
    seconds: f64,
    deeds: Deeds,
    mut verdict: Verdict,
) -> RunReport {
    let tally = std::mem::take(&mut *shared.tally.lock());
    let findings = std::mem::take(&mut *shared.findings.lock());
    let mut history = None;
    for (finding, log) in &findings {
        verdict.find(finding);
        if !log.is_empty() {
            history = keep(plan, log);
        }
    }
    let calls = report::Tally {
        attempted: tally.ended + tally.failed + tally.unknown,
        ok: tally.ended,
        fail: tally.failed,
        info: tally.unknown,
    };
    let interrupted = STREAMS as u64 * deeds.done.values().sum::<u64>();
    if let Some(why) = too_little(calls, plan.least_calls / WORTH, interrupted, &kinds(&tally)) {
        verdict.unknown(why);
    }
    if !plan.nemesis.is_none() && deeds.done.is_empty() {
        verdict.unknown(format!("no fault took effect: {:?}", deeds.refused));
    }
    verdict.note(format!(
        "{} statements, {} commits of {} MiB, {} rows compared, {} readings beside, {} \
         transactions run again, {} splits",
        tally.statements,
        tally.committed,
        tally.bytes >> 20,
        tally.rows_compared,
        tally.observations,
        tally.restarts,
        tally.splits
    ));
    RunReport {
        workload: NAME.to_owned(),
        nemesis: plan.nemesis.to_string(),
        seconds,
        calls,
        ok_during_faults: 0,
        faults: deeds.done,
        refused: deeds.refused,
        failures: report::reasons_of(tally.failures.iter().map(String::as_str)),
        verdict: verdict_name(&verdict).to_owned(),
        findings: verdict.findings,
        notes: verdict.notes,
        checker_ms: 0,
        seed: plan.seed,
        history,
    }
}

/// Writes what was run on a table that somebody has to look at.
fn keep(plan: &Plan, log: &[String]) -> Option<String> {
    let path = plan.keep.join(format!("{NAME}-{}-{}.sql", plan.nemesis, plan.seed));
    std::fs::create_dir_all(&plan.keep).ok()?;
    std::fs::write(&path, log.join("\n")).ok()?;
    Some(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::compare::{Seen, differences};
    use super::generate::Generator;
    use super::model::Table;
    use super::statement::Keys;

    /// What a database shows after a transaction that took it from one table to another, if it writes
    /// no more than so many bytes of it.
    fn lossy(before: &Table, after: &Table, most: usize) -> Vec<Seen> {
        let mut rows = before.rows().clone();
        rows.retain(|k, _| after.rows().contains_key(k));
        let mut written = 0;
        for (k, row) in after.rows().iter().filter(|(k, row)| before.rows().get(k) != Some(row)) {
            written += row.v.len();
            if written <= most {
                rows.insert(*k, row.clone());
            }
        }
        let seen = rows.into_iter().map(|(k, row)| {
            let (t, v) = (Keys::Long.text(k), row.v.to_string());
            Seen { k, t, n: row.n, v }
        });
        seen.collect()
    }

    /// How many of so many transactions do not show what the model does.
    fn found(most: usize) -> usize {
        let (mut generator, mut table) = (Generator::new(5, Keys::Long, true), Table::default());
        let mut found = 0;
        for _ in 0..200 {
            let after = generator.next(&table).after;
            let seen = lossy(&table, &after, most);
            found += usize::from(differences(&after, Keys::Long, &seen).is_some());
            table = after;
        }
        found
    }

    #[test]
    fn a_database_that_loses_the_end_of_large_transactions_is_rejected() {
        assert_eq!(found(usize::MAX), 0);
        assert!(found(4 << 20) > 5);
    }
}
