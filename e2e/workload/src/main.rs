//! `crdb-workload`: runs workloads under nemeses and reports; `cargo xtask soak` calls it.
#![expect(clippy::print_stdout, reason = "the report is the purpose of this program")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use crdb_workload::cluster::{Cluster, ClusterOptions, drawn_limits, test_features};
use crdb_workload::nemesis::{Faults, Pace};
use crdb_workload::planted::{HUNTS, hunt};
use crdb_workload::postgres::Postgres;
use crdb_workload::process::binary;
use crdb_workload::report::{AsTable, RunReport, head};
use crdb_workload::run::{NAMES, Plan, Target, any_level, run};
use crdb_workload::session::Isolation;
use crdb_workload::workload::Workload as _;
use crdb_workload::workloads::as_of::AsOf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum On {
    /// Three nodes of crdb: `CRDB_BIN`, or the one beside this program
    Crdb,
    /// PostgreSQL, as a control of the checkers
    Postgres,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    Serializable,
    ReadCommitted,
    /// Drawn for each run, of those at which what the workload promises holds
    Any,
}

/// Runs workloads against a cluster under faults, and checks what clients saw.
#[derive(Debug, Parser)]
#[command(name = "crdb-workload", version)]
struct Args {
    /// Workloads, or `all`
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "all")]
    workload: Vec<String>,
    /// Nemeses, `all`, or several at a time as `leases+skew`
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "none")]
    nemesis: Vec<String>,
    /// For how long clients call, in each run: 30, or as long as `--transactions` need, at most an hour
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// End a run after so many calls that succeeded; one that does not get there is no evidence
    #[arg(long, value_name = "N")]
    transactions: Option<u64>,
    /// Clients at once
    #[arg(long, value_name = "N", default_value_t = 30)]
    clients: usize,
    /// Where all randomness comes from; otherwise drawn, and printed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// What is called
    #[arg(long, value_enum, default_value = "crdb")]
    on: On,
    /// The isolation level that transactions ask for
    #[arg(long, value_enum, default_value = "serializable")]
    level: Level,
    /// Bounds of the nodes, as `crate.name=number,...`; otherwise those of production, or drawn, by seed
    #[arg(long, value_name = "LIMITS")]
    limits: Option<String>,
    /// Plant a bug; the crdb has to be built with the feature planted-bugs
    #[arg(long, value_name = "NAME")]
    planted_bug: Option<String>,
    /// Look for each bug that can be planted; the crdb has to be built with both features
    #[arg(long)]
    find_planted: bool,
    /// Rounds after which a planted bug counts as not found
    #[arg(long, value_name = "N", default_value_t = 10)]
    rounds: u64,
    /// Expect that each run finds an anomaly
    #[arg(long)]
    expect_anomalies: bool,
    /// Where reports, and the histories of failed runs, are written
    #[arg(long, value_name = "DIR", default_value = "workload-reports")]
    out: PathBuf,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    match perform(Args::parse()).await {
        Ok(code) => code,
        // A typing error needs no backtrace.
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn perform(args: Args) -> Result<ExitCode> {
    let mut workloads = chosen(&args.workload, &NAMES)?;
    // PostgreSQL does not read the past.
    workloads.retain(|name| args.on == On::Crdb || name != AsOf::NAME);
    // Clocks that can be set, if there are any.
    let test_clock = args.on == On::Crdb && test_features(&binary()?)?.contains("test-clock");
    let nemeses = nemeses(&args.nemesis, test_clock)?;
    let seed = args.seed.map_or_else(drawn_seed, Ok)?;
    println!("seed {seed}");
    if args.find_planted {
        return find_planted(&args, seed).await;
    }
    let mut reports = Vec::new();
    println!("{}", head());
    for (m, nemesis) in (0..).zip(nemeses) {
        for (n, workload) in (0..).zip(&workloads) {
            // What is drawn of it is not the same for a workload under each nemesis.
            let seed = seed.wrapping_add(n + 101 * m);
            // A cluster of its own: a failure leaves nothing to the next run.
            let mut target = start(&args, test_clock, seed).await?;
            let plan = plan(&args, workload, nemesis.clone(), seed);
            let report = run(workload, &mut target, &plan).await?;
            tell(&report);
            reports.push(report);
        }
    }
    if reports.len() > 1 {
        println!("\n{}", AsTable(&reports));
    }
    let path = write(&args, &reports)?;
    println!("report: {}", path.display());
    let as_expected = reports.iter().filter(|report| {
        if args.expect_anomalies { report.is_invalid() } else { report.is_valid() }
    });
    let passed = as_expected.count();
    println!("{passed} passed, {} failed", reports.len() - passed);
    Ok(if passed == reports.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn find_planted(args: &Args, seed: u64) -> Result<ExitCode> {
    let mut missed = 0;
    let chosen = |bug: &str| args.planted_bug.as_ref().is_none_or(|wanted| wanted == bug);
    let hunts: Vec<_> = HUNTS.iter().filter(|hunt| chosen(hunt.bug)).collect();
    ensure!(!hunts.is_empty(), "there is no such bug to look for");
    let total = hunts.len();
    for looked_for in hunts {
        let seconds = args.seconds().min(20);
        let hunted = hunt(looked_for, seconds, args.rounds, seed, args.out.clone()).await?;
        println!("{hunted}");
        missed += usize::from(hunted.finding.is_none());
    }
    println!("{} passed, {missed} failed", total - missed);
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn plan(args: &Args, workload: &str, nemesis: Faults, seed: u64) -> Plan {
    let short = args.seconds() < 20 || nemesis.are_brief();
    let pace = if short { Pace::short() } else { Pace::long() };
    Plan {
        nemesis,
        time: Duration::from_secs(args.seconds()),
        patience: Duration::from_secs(if args.transactions.is_some() { 0 } else { 60 }),
        most_calls: args.transactions.unwrap_or(u64::MAX),
        least_calls: args.transactions.unwrap_or((args.seconds() * 5).max(50)),
        clients: args.clients,
        isolation: match args.level {
            Level::Serializable => Isolation::Serializable,
            Level::ReadCommitted => Isolation::ReadCommitted,
            Level::Any => any_level(workload, seed),
        },
        pace,
        seed,
        keep: args.out.clone(),
    }
}

async fn start(args: &Args, test_clock: bool, seed: u64) -> Result<Target> {
    let options = ClusterOptions {
        limits: match &args.limits {
            _ if args.on == On::Postgres => None,
            Some(limits) => Some(limits.clone()),
            None => drawn_limits(&binary()?, seed)?,
        },
        test_clock,
        planted_bug: args.planted_bug.clone(),
        ..ClusterOptions::default()
    };
    Ok(match args.on {
        On::Crdb => Target::Cluster(Cluster::start(&options).await.context("start the cluster")?),
        On::Postgres => Target::Postgres(Postgres::start(0).await?),
    })
}

impl Args {
    fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.transactions.is_some() { 3600 } else { 30 })
    }
}

fn nemeses(wanted: &[String], has_clocks: bool) -> Result<Vec<Faults>> {
    let all = wanted.iter().any(|name| name == "all");
    let names = if all { Faults::names() } else { wanted.to_vec() };
    let mut nemeses: Vec<Faults> = Vec::new();
    for name in names {
        let faults: Faults = name.parse()?;
        if has_clocks || !faults.needs_clocks() {
            nemeses.push(faults);
        } else {
            // One that was asked for by its name is no choice of ours to leave out.
            ensure!(all, "{name} needs a crdb that is built with --features test-clock");
            println!("left out: {name}, which needs a crdb built with --features test-clock");
        }
    }
    Ok(nemeses)
}

fn chosen(wanted: &[String], known: &[&str]) -> Result<Vec<String>> {
    if wanted.iter().any(|name| name == "all") {
        return Ok(known.iter().map(ToString::to_string).collect());
    }
    for name in wanted {
        ensure!(known.contains(&name.as_str()), "{name} is none of {}", known.join(", "));
    }
    Ok(wanted.to_vec())
}

fn drawn_seed() -> Result<u64> {
    let mut bytes = [0; 4];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u64::from(u32::from_le_bytes(bytes)))
}

fn tell(report: &RunReport) {
    println!("{report}");
    if !report.faults.is_empty() {
        println!("    faults {:?}, {} ok during them", report.faults, report.ok_during_faults);
    }
    let refused = report.refused.iter().map(|(kind, why)| format!("refused {kind}: {why}"));
    let failures = report.failures.iter().map(|(why, n)| format!("{n} x {why}"));
    for line in report.findings.iter().chain(&report.notes).cloned().chain(refused).chain(failures)
    {
        println!("    {line}");
    }
    if let Some(history) = &report.history {
        println!("    history: {history}");
    }
}

fn write(args: &Args, reports: &[RunReport]) -> Result<PathBuf> {
    std::fs::create_dir_all(&args.out)?;
    let seed = reports.first().map(|report| report.seed).unwrap_or_default();
    let path = args.out.join(format!("report-{seed}.json"));
    let commit = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit = commit.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    let json = serde_json::json!({
        "commit": commit.unwrap_or_default(),
        "clients": args.clients,
        "planted_bug": args.planted_bug,
        "runs": reports,
    });
    std::fs::write(&path, serde_json::to_string_pretty(&json)?)?;
    Ok(path)
}
