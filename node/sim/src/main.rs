//! `crdb-sim`: runs seeds of the simulator and says which of them fail.
#![expect(clippy::print_stdout, reason = "the report is the purpose of this program")]

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use crdb_sim::{Bug, Options, Outcome, run};

/// Runs clusters of stores under seeds, in simulated time, and checks what they promise.
#[derive(Debug, Parser)]
#[command(name = "crdb-sim", version)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Start no further seed after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    time_box: Option<u64>,
    /// Plant a bug, to see it found.
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// Plant each bug in turn and stop at the first seed that finds it; each must be found.
    #[arg(long, conflicts_with = "bug")]
    planted: bool,
    /// Print what happens.
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let bug = match args.bug.as_deref().map(parse_bug).transpose() {
        Ok(bug) => bug,
        Err(message) => {
            println!("error: {message}");
            return ExitCode::from(4);
        }
    };
    let clock = Stopwatch::start();
    let found =
        if args.planted { find_planted(&args, &clock) } else { run_seeds(&args, bug, &clock) };
    if found { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse_bug(name: &str) -> Result<Bug, String> {
    let known = Bug::all().find(|bug| bug.to_string() == name);
    known.ok_or_else(|| {
        let names: Vec<String> = Bug::all().map(|bug| bug.to_string()).collect();
        format!("there is no bug {name:?}; there are {}", names.join(", "))
    })
}

fn run_seeds(args: &Args, bug: Option<Bug>, clock: &Stopwatch) -> bool {
    let options = Options { bug, trace: args.trace };
    let (mut passed, mut failed, mut total) = (0_u64, Vec::new(), crdb_sim::Stats::default());
    for seed in args.from..args.from.saturating_add(args.seeds) {
        if args.time_box.is_some_and(|limit| clock.elapsed() > Duration::from_secs(limit)) {
            println!("time is up after {} seeds", seed - args.from);
            break;
        }
        let outcome = run(seed, options);
        add(&mut total, &outcome);
        match &outcome.failure {
            None => passed += 1,
            Some(why) => {
                println!("seed {seed} FAILED {why}");
                failed.push(seed);
            }
        }
    }
    println!(
        "{} events, {} reads, {} writes, {} unknown, {} refused, {} faults, {} crashes, {} leases, \
         {} snapshots, {} follower reads; transactions: {} committed, {} failed, {} unknown; {:.1} s",
        total.events,
        total.reads,
        total.writes,
        total.ambiguous,
        total.refused,
        total.faults,
        total.crashes,
        total.leases,
        total.snapshots,
        total.follower_reads,
        total.txns_committed,
        total.txns_failed,
        total.txns_unknown,
        clock.elapsed().as_secs_f64()
    );
    if !failed.is_empty() {
        println!("failed seeds: {failed:?}; run one with --from SEED --seeds 1 --trace");
    }
    println!("{passed} passed, {} failed", failed.len());
    failed.is_empty()
}

fn add(total: &mut crdb_sim::Stats, outcome: &Outcome) {
    let stats = &outcome.stats;
    total.events += stats.events;
    total.reads += stats.reads;
    total.writes += stats.writes;
    total.ambiguous += stats.ambiguous;
    total.refused += stats.refused;
    total.faults += stats.faults;
    total.crashes += stats.crashes;
    total.leases += stats.leases;
    total.snapshots += stats.snapshots;
    total.follower_reads += stats.follower_reads;
    total.txns_committed += stats.txns_committed;
    total.txns_failed += stats.txns_failed;
    total.txns_unknown += stats.txns_unknown;
}

fn find_planted(args: &Args, clock: &Stopwatch) -> bool {
    let mut missed = 0;
    for bug in Bug::all() {
        let options = Options { bug: Some(bug), trace: false };
        let before = clock.elapsed();
        let mut seeds = args.from..args.from.saturating_add(args.seeds);
        let found = seeds.find_map(|seed| {
            let outcome = run(seed, options);
            outcome.failure.map(|why| (seed, why))
        });
        let took = (clock.elapsed() - before).as_secs_f64();
        match found {
            Some((seed, why)) => {
                let why = why.lines().next().unwrap_or_default();
                println!(
                    "{bug}: found by seed {seed}, after {} seeds and {took:.1} s: {why}",
                    seed - args.from + 1
                );
            }
            None => {
                missed += 1;
                println!("{bug}: NOT FOUND in {} seeds, {took:.1} s", args.seeds);
            }
        }
    }
    println!("{} passed, {missed} failed", Bug::all().count() - missed);
    missed == 0
}

/// Real time, for the report and the time box; no run sees it.
struct Stopwatch(std::time::Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "the edge of the process")]
    fn start() -> Self {
        Self(std::time::Instant::now())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
