//! `cargo xtask soak`: long runs of the checks, with optimised programs; no part of any test run.

use anyhow::Result;
use clap::Args;

use crate::workspace::{Profile, Workspace};
use crate::{machine, passed};

/// What is soaked, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// Minutes of each run of a workload under a nemesis
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    minutes: f64,
    /// Workloads, comma-separated
    #[arg(long, value_name = "NAME,...", default_value = "all")]
    workload: String,
    /// Nemeses, comma-separated; several at a time as `leases+skew`
    #[arg(long, value_name = "NAME,...", default_value = "all")]
    nemesis: String,
    /// End a run after so many calls that succeeded
    #[arg(long, value_name = "N")]
    calls: Option<u64>,
    /// Clients at once
    #[arg(long, value_name = "N", default_value_t = 30)]
    clients: u32,
    /// Where the randomness of the workloads comes from
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Plant each bug in turn; each has to be found
    #[arg(long)]
    planted: bool,
    /// Run the workloads against PostgreSQL: at SERIALIZABLE all have to be valid, at READ COMMITTED
    /// those that can tell have to find anomalies
    #[arg(long, conflicts_with = "planted")]
    control: bool,
    /// Run the simulation instead
    #[arg(long, conflicts_with_all = ["planted", "control"])]
    sim: bool,
    /// How many seeds of the simulation
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    seeds: u64,
    /// The first seed of the simulation
    #[arg(long, value_name = "N", default_value_t = 0)]
    from: u64,
}

/// Workloads whose anomalies READ COMMITTED shows within seconds.
const TELLING: &str = "bank,register,monotonic,long-fork,g2,list-append";

pub(crate) fn run(workspace: &Workspace, soak: &Soak) -> Result<()> {
    if soak.sim {
        return crate::sim(workspace, Profile::Release, soak.seeds, soak.from);
    }
    machine::ready_to_build(workspace.progress())?;
    let workspace = workspace.with_rocksdb()?;
    passed(workspace.cargo("build --release --package crdb-workload"))?;
    let programs = workspace.programs(Profile::Release);
    let workload = |args: &str| {
        let seconds = (soak.minutes * 60.0).ceil();
        let command = crdb_kind::Cmd::new(programs.join("crdb-workload"))
            .env("CRDB_BIN", programs.join("crdb").display())
            .arg(format_args!("--seconds={seconds}"))
            .arg(format_args!("--clients={}", soak.clients))
            .arg(format_args!("--out={}", programs.join("soak").display()))
            .words(args);
        let command = match soak.calls {
            Some(calls) => command.arg(format_args!("--calls={calls}")),
            None => command,
        };
        match soak.seed {
            Some(seed) => command.arg(format_args!("--seed={seed}")),
            None => command,
        }
    };
    if soak.control {
        let workloads = &soak.workload;
        passed(workload(&format!("--on postgres --workload {workloads}")))?;
        let weak = format!("--level read-committed --expect-anomalies --workload {TELLING}");
        return passed(workload(&format!("--on postgres {weak}")));
    }
    // The features are those of the program alone; nothing else is built with it.
    passed(workspace.cargo("build --release --package crdb --features test-clock,planted-bugs"))?;
    if soak.planted {
        return passed(workload("--find-planted"));
    }
    let (workloads, nemeses) = (&soak.workload, &soak.nemesis);
    passed(workload(&format!("--test-clock --workload {workloads} --nemesis {nemeses}")))
}
