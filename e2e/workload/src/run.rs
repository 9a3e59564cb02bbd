//! One run: a workload, a nemesis, a time, a verdict.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::cluster::{self, Cluster};
use crate::driver::{Clients, Shared};
use crate::history::{Call, Order, to_json_lines};
use crate::nemesis::{Deeds, Faults, Nemesis, Pace, ranges_of, relocate};
use crate::oracle;
use crate::postgres::{self, Postgres};
use crate::process::PATIENCE;
use crate::report::{RunReport, Tally, kinds, reasons, too_little, verdict_name};
use crate::session::Isolation;
use crate::verdict::{Validity, Verdict};
use crate::workload::{Table, Workload};
use crate::workloads::{
    as_of::AsOf, bank::Bank, comments::Comments, g2::G2, list_append::ListAppend,
    long_fork::LongFork, monotonic::Monotonic, register::Register, sequential::Sequential,
    sets::Sets,
};

/// How often a run whose time is over is looked at.
const POLL: Duration = Duration::from_millis(20);

/// What calls are made to.
#[derive(Debug)]
pub enum Target {
    /// Three nodes of ours.
    Cluster(Cluster),
    /// A PostgreSQL, to see what the checkers say to it.
    Postgres(Postgres),
}

impl Target {
    /// The SQL port of each node, or of each that stands for one.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        match self {
            Target::Cluster(cluster) => cluster.ports(),
            Target::Postgres(postgres) => vec![postgres.port(); 3],
        }
    }

    /// User and database, as of a connection string.
    #[must_use]
    pub fn login(&self, isolation: Isolation) -> String {
        match self {
            Target::Cluster(_) => cluster::LOGIN.to_owned(),
            Target::Postgres(_) => postgres::login(isolation),
        }
    }
}

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The nemesis.
    pub nemesis: Faults,
    /// For how long clients call.
    pub time: Duration,
    /// How much longer they call while the run does not show enough yet: too few calls succeeded, none
    /// of some kind, or no fault took effect.
    pub patience: Duration,
    /// After so many calls that succeeded the clients end, too.
    pub most_calls: u64,
    /// Fewer calls that succeeded are no evidence.
    pub least_calls: u64,
    /// How many clients call at once.
    pub clients: usize,
    /// The level that transactions ask for.
    pub isolation: Isolation,
    /// How long faults last.
    pub pace: Pace,
    /// Where the randomness comes from.
    pub seed: u64,
    /// Where the history of a run that is not valid is kept.
    pub keep: PathBuf,
}

/// How far a run is.
#[derive(Debug)]
pub struct Course {
    /// When its time is over.
    pub deadline: Instant,
    /// When it ends even if it does not show enough.
    pub last: Instant,
    /// Whether any fault took effect.
    pub struck: AtomicBool,
    /// Whether the clients ended.
    pub ended: AtomicBool,
}

impl Course {
    pub(crate) fn new(plan: &Plan) -> Course {
        let deadline = Instant::now() + plan.time;
        let struck = AtomicBool::new(plan.nemesis.is_none());
        Course { deadline, last: deadline + plan.patience, struck, ended: AtomicBool::new(false) }
    }

    /// Whether no more faults are due.
    #[must_use]
    pub fn is_over_for_faults(&self) -> bool {
        let end = if self.struck.load(Ordering::Acquire) { self.deadline } else { self.last };
        Instant::now() >= end || self.ended.load(Ordering::Acquire)
    }

    /// Waits until clients should end.
    pub(crate) async fn is_over(&self, shows_enough: impl Fn() -> bool) {
        tokio::time::sleep_until(self.deadline).await;
        while Instant::now() < self.last && !(self.struck.load(Ordering::Acquire) && shows_enough())
        {
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The workloads by name.
pub const NAMES: [&str; 11] = [
    Bank::NAME,
    Sets::NAME,
    Register::NAME,
    Monotonic::NAME,
    Sequential::NAME,
    Comments::NAME,
    LongFork::NAME,
    G2::NAME,
    AsOf::NAME,
    ListAppend::NAME,
    oracle::NAME,
];

/// Whether what a workload promises holds at an isolation level.
#[must_use]
pub fn holds_at(name: &str, isolation: Isolation) -> bool {
    match name {
        Bank::NAME => Bank::holds_at(isolation),
        Sets::NAME => Sets::holds_at(isolation),
        Register::NAME => Register::holds_at(isolation),
        Monotonic::NAME => Monotonic::holds_at(isolation),
        Sequential::NAME => Sequential::holds_at(isolation),
        Comments::NAME => Comments::holds_at(isolation),
        LongFork::NAME => LongFork::holds_at(isolation),
        G2::NAME => G2::holds_at(isolation),
        AsOf::NAME => AsOf::holds_at(isolation),
        ListAppend::NAME => ListAppend::holds_at(isolation),
        // It draws a level for each transaction.
        name => name == oracle::NAME,
    }
}

/// A level at which what a workload promises holds; which is a matter of the seed.
#[must_use]
pub fn any_level(name: &str, seed: u64) -> Isolation {
    if seed / 2 % 2 == 1 && holds_at(name, Isolation::ReadCommitted) {
        Isolation::ReadCommitted
    } else {
        Isolation::Serializable
    }
}

/// Runs a workload by its name.
///
/// # Errors
///
/// The database could not be set up or did not come back; a verdict is no error.
pub async fn run(name: &str, target: &mut Target, plan: &Plan) -> Result<RunReport> {
    match name {
        Bank::NAME => run_one::<Bank>(target, plan).await,
        Sets::NAME => run_one::<Sets>(target, plan).await,
        Register::NAME => run_one::<Register>(target, plan).await,
        Monotonic::NAME => run_one::<Monotonic>(target, plan).await,
        Sequential::NAME => run_one::<Sequential>(target, plan).await,
        Comments::NAME => run_one::<Comments>(target, plan).await,
        LongFork::NAME => run_one::<LongFork>(target, plan).await,
        G2::NAME => run_one::<G2>(target, plan).await,
        AsOf::NAME => run_one::<AsOf>(target, plan).await,
        ListAppend::NAME => run_one::<ListAppend>(target, plan).await,
        oracle::NAME => oracle::run(target, plan).await,
        _ => anyhow::bail!("there is no workload {name}: there are {}", NAMES.join(", ")),
    }
}

async fn run_one<W: Workload>(target: &mut Target, plan: &Plan) -> Result<RunReport> {
    let clients = Clients {
        ports: target.ports(),
        login: target.login(plan.isolation),
        count: plan.clients,
        call_timeout: W::CALL_TIMEOUT,
        isolation: plan.isolation,
        seed: plan.seed,
    };
    // A cluster serves several runs, each with tables of its own.
    let prefix = format!("r{}_{}_", std::process::id(), plan.seed);
    let shared = Shared::new(W::new(&prefix), clients);
    shared.set_up().await.with_context(|| format!("set up {}", W::NAME))?;
    let mut verdict = Verdict::valid();
    verdict.note(format!("transactions are {}", plan.isolation.sql()));
    let tables = shared.workload.tables();
    if let Target::Cluster(cluster) = target {
        verdict.note(arrange(cluster, &tables, plan.seed).await?);
    }
    let began = Instant::now();
    let course = Course::new(plan);
    let suffering = suffer(&shared.order, tables, target, plan, &course);
    let (calls, deeds) = tokio::join!(until_ended(&shared, plan, &course), suffering);
    let (mut calls, deeds) = (calls?, deeds?);
    let seconds = began.elapsed().as_secs_f64();
    match shared.last_reads().await {
        Ok(last) => calls.extend(last),
        Err(error) => verdict.unknown(format!("{error:#}")),
    }
    if let Target::Cluster(cluster) = target {
        cluster.complaints().into_iter().for_each(|complaint| verdict.find(complaint));
    }
    Ok(conclude(&shared.workload, plan, seconds, &calls, &deeds, verdict))
}

/// Lets the clients call until the run is over, or until they have made their calls.
async fn until_ended<W: Workload>(
    shared: &Arc<Shared<W>>,
    plan: &Plan,
    course: &Course,
) -> Result<Vec<Call<W::Op>>> {
    let mut running = shared.start(plan.most_calls);
    let mut calls = Vec::new();
    let mut stopped = false;
    let over = course.is_over(|| shared.shows_enough(plan.least_calls));
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over, if !stopped => {
                shared.stop();
                stopped = true;
            }
            joined = running.join_next() => match joined {
                Some(client) => calls.extend(client.context("a client")?),
                None => break,
            },
        }
    }
    course.ended.store(true, Ordering::Release);
    Ok(calls)
}

/// Spreads the tables over the nodes and draws how much a transaction buffers; returns how much.
pub(crate) async fn arrange(cluster: &Cluster, tables: &[Table], seed: u64) -> Result<String> {
    spread(cluster, tables).await?;
    let buffer = if seed.is_multiple_of(2) { "4MiB" } else { "1B" };
    let set = format!("SET CLUSTER SETTING kv.transaction.max_buffered_writes = '{buffer}'");
    cluster.nodes().first().context("there are no nodes")?.execute_retrying(&set).await?;
    Ok(format!("writes buffered up to {buffer}, bounds {:?}", cluster.limits()))
}

/// Gives each table ranges of its own, and the nodes their leases in turn: transactions are those of
/// several ranges, and of several leaseholders, from the start.
async fn spread(cluster: &Cluster, tables: &[Table]) -> Result<()> {
    let node = cluster.nodes().first().context("there are no nodes")?;
    let mut to = 0;
    for Table { name, keys, .. } in tables {
        let middle = keys.start.midpoint(keys.end);
        let split = format!("ALTER TABLE {name} SPLIT AT VALUES ({}), ({middle})", keys.start);
        node.execute_retrying(&split).await?;
        // What lies before the first key may be of another table.
        for (range, _) in ranges_of(node.port, name).await?.into_iter().skip(1) {
            let target = to % cluster.size() + 1;
            let deadline = Instant::now() + PATIENCE;
            while let Err(error) = relocate(node.port, &range, target).await {
                ensure!(Instant::now() < deadline, "{error:#}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            to += 1;
        }
    }
    Ok(())
}

/// Lets the nemesis loose on a cluster until the course is over.
pub(crate) async fn suffer(
    order: &Order,
    tables: Vec<Table>,
    target: &mut Target,
    plan: &Plan,
    course: &Course,
) -> Result<Deeds> {
    let Target::Cluster(cluster) = target else { return Ok(Deeds::default()) };
    let rng = StdRng::seed_from_u64(plan.seed);
    let nemesis = Nemesis::new(cluster, order, tables, rng, plan.pace.clone());
    nemesis.run(&plan.nemesis, course).await
}

/// Judges a history and sums the run up.
fn conclude<W: Workload>(
    workload: &W,
    plan: &Plan,
    seconds: f64,
    calls: &[Call<W::Op>],
    deeds: &Deeds,
    before: Verdict,
) -> RunReport {
    let began = Instant::now();
    let mut verdict = workload.check(calls);
    verdict.notes.splice(0..0, before.notes);
    let checker_ms = began.elapsed().as_millis();
    let tally = Tally::of(calls);
    match before.validity {
        Validity::Valid => {}
        Validity::Invalid => before.findings.iter().for_each(|finding| verdict.find(finding)),
        Validity::Unknown => before.findings.iter().for_each(|finding| verdict.unknown(finding)),
    }
    let interrupted = plan.clients as u64 * deeds.done.values().sum::<u64>();
    if let Some(why) = too_little(tally, plan.least_calls, interrupted, &kinds(calls)) {
        verdict.unknown(why);
    }
    if !plan.nemesis.is_none() && deeds.done.is_empty() {
        verdict.unknown(format!("no fault took effect: {:?}", deeds.refused));
    }
    let during = |call: &&Call<W::Op>| {
        let within = |(from, to): &(u64, u64)| *from < call.completed && call.completed < *to;
        call.is_ok() && deeds.spans.iter().any(within)
    };
    let history = if verdict.is_valid() { None } else { keep(plan, W::NAME, calls, deeds) };
    RunReport {
        workload: W::NAME.to_owned(),
        nemesis: plan.nemesis.to_string(),
        seconds,
        calls: tally,
        ok_during_faults: calls.iter().filter(during).count() as u64,
        faults: deeds.done.clone(),
        refused: deeds.refused.clone(),
        failures: reasons(calls),
        verdict: verdict_name(&verdict).to_owned(),
        findings: verdict.findings,
        notes: verdict.notes,
        checker_ms,
        seed: plan.seed,
        history,
    }
}

/// Writes a history that somebody has to look at.
fn keep<O: serde::Serialize>(
    plan: &Plan,
    name: &str,
    calls: &[Call<O>],
    deeds: &Deeds,
) -> Option<String> {
    let path = plan.keep.join(format!("{name}-{}-{}.jsonl", plan.nemesis, plan.seed));
    std::fs::create_dir_all(&plan.keep).ok()?;
    std::fs::write(&path, to_json_lines(calls, &deeds.log)).ok()?;
    Some(path.display().to_string())
}
