//! One run: a workload, a nemesis, a time, a verdict.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::cluster::{self, Cluster};
use crate::driver::{Clients, Shared};
use crate::history::{Call, to_json_lines};
use crate::nemesis::{Deeds, Faults, Nemesis, Pace};
use crate::postgres::{self, Postgres};
use crate::report::{RunReport, Tally, kinds, reasons, too_little, verdict_name};
use crate::session::Isolation;
use crate::verdict::{Validity, Verdict};
use crate::workload::Workload;
use crate::workloads::{
    as_of::AsOf, bank::Bank, comments::Comments, g2::G2, list_append::ListAppend,
    long_fork::LongFork, monotonic::Monotonic, register::Register, sequential::Sequential,
    sets::Sets,
};

/// What calls are made to.
#[derive(Debug)]
pub enum Target {
    /// Three nodes of ours.
    Cluster(Cluster),
    /// A PostgreSQL, to see what the checkers say to it.
    Postgres(Postgres),
}

impl Target {
    fn ports(&self) -> Vec<u16> {
        match self {
            Target::Cluster(cluster) => cluster.ports(),
            Target::Postgres(postgres) => vec![postgres.port(); 3],
        }
    }

    fn login(&self, isolation: Isolation) -> String {
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

/// The workloads by name.
pub const NAMES: [&str; 10] = [
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
];

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
        _ => anyhow::bail!("there is no workload {name}: there are {}", NAMES.join(", ")),
    }
}

async fn run_one<W: Workload>(target: &mut Target, plan: &Plan) -> Result<RunReport> {
    let clients = Clients {
        ports: target.ports(),
        login: target.login(plan.isolation),
        count: plan.clients,
        call_timeout: Duration::from_secs(10),
        isolation: plan.isolation,
        seed: plan.seed,
    };
    // A cluster serves several runs, each with tables of its own.
    let prefix = format!("r{}_{}_", std::process::id(), plan.seed);
    let shared = Shared::new(W::new(&prefix), clients);
    shared.set_up().await.with_context(|| format!("set up {}", W::NAME))?;
    let began = Instant::now();
    let deadline = began + plan.time;
    let ended = AtomicBool::new(false);
    let (calls, deeds) = tokio::join!(
        until_ended(&shared, plan, deadline, &ended),
        suffer(&shared, target, plan, deadline, &ended)
    );
    let (mut calls, deeds) = (calls?, deeds?);
    let seconds = began.elapsed().as_secs_f64();
    let mut verdict = Verdict::valid();
    match shared.last_reads().await {
        Ok(last) => calls.extend(last),
        Err(error) => verdict.unknown(format!("{error:#}")),
    }
    if let Target::Cluster(cluster) = target {
        cluster.complaints().into_iter().for_each(|complaint| verdict.find(complaint));
    }
    Ok(conclude(&shared.workload, plan, seconds, &calls, &deeds, verdict))
}

/// Lets the clients call until the deadline, or until they have made their calls.
async fn until_ended<W: Workload>(
    shared: &Arc<Shared<W>>,
    plan: &Plan,
    deadline: Instant,
    ended: &AtomicBool,
) -> Result<Vec<Call<W::Op>>> {
    let mut running = shared.start(plan.most_calls);
    let mut calls = Vec::new();
    let mut stopped = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(deadline), if !stopped => {
                shared.stop();
                stopped = true;
            }
            joined = running.join_next() => match joined {
                Some(client) => calls.extend(client.context("a client")?),
                None => break,
            },
        }
    }
    ended.store(true, Ordering::Release);
    Ok(calls)
}

async fn suffer<W: Workload>(
    shared: &Arc<Shared<W>>,
    target: &mut Target,
    plan: &Plan,
    deadline: Instant,
    ended: &AtomicBool,
) -> Result<Deeds> {
    let Target::Cluster(cluster) = target else { return Ok(Deeds::default()) };
    let tables = shared.workload.tables();
    let rng = StdRng::seed_from_u64(plan.seed);
    let nemesis = Nemesis::new(cluster, &shared.order, tables, rng, plan.pace.clone());
    nemesis.run(&plan.nemesis, deadline, ended).await
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
