//! `cargo xtask soak`: long runs of the checks, with optimised programs; no part of any test run.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::workspace::{Profile, Workspace};
use crate::{machine, passed};

/// What is soaked, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// Minutes of each run of a workload under a nemesis: 1, or as many as `--transactions` need
    #[arg(long, value_name = "N", value_parser = minutes)]
    minutes: Option<Duration>,
    /// Workloads, comma-separated
    #[arg(long, value_name = "NAME,...", default_value = "all")]
    workload: String,
    /// Nemeses, comma-separated; several at a time as `leases+skew`
    #[arg(long, value_name = "NAME,...", default_value = "all")]
    nemesis: String,
    /// End a run after so many calls that succeeded
    #[arg(long, value_name = "N")]
    transactions: Option<u64>,
    /// Where `crdb` and `crdb-workload` lie already: nothing is built. Without the feature test-clock
    /// `all` leaves the nemeses of clocks out, without planted-bugs none can be planted
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
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

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "not a number of minutes".to_owned())?;
    match Duration::try_from_secs_f64(minutes * 60.0) {
        Ok(time) if time.as_secs() > 0 => Ok(time),
        _ => Err("a run takes at least a second, 0.02 minutes".to_owned()),
    }
}

/// Workloads whose anomalies READ COMMITTED shows within seconds.
const TELLING: &str = "bank,register,monotonic,long-fork,g2,list-append";

pub(crate) fn run(workspace: &Workspace, soak: &Soak) -> Result<()> {
    if soak.sim {
        return crate::sim(workspace, Profile::Release, soak.seeds, soak.from);
    }
    let programs = match &soak.programs {
        Some(programs) => programs.clone(),
        None => build(workspace, soak)?,
    };
    let workload = |args: &str| {
        let command = crdb_kind::Cmd::new(programs.join("crdb-workload"))
            .env("CRDB_BIN", programs.join("crdb").display())
            .arg(format_args!("--clients={}", soak.clients))
            .arg(format_args!("--out={}", programs.join("soak").display()))
            .words(args);
        let minute = soak.transactions.is_none().then_some(Duration::from_secs(60));
        let options = [
            ("seconds", soak.minutes.or(minute).map(|time| time.as_secs())),
            ("transactions", soak.transactions),
            ("seed", soak.seed),
        ];
        options.into_iter().fold(command, |command, (name, value)| match value {
            Some(value) => command.arg(format_args!("--{name}={value}")),
            None => command,
        })
    };
    let workloads = &soak.workload;
    if soak.control {
        passed(workload(&format!("--on postgres --workload {workloads}")))?;
        let weak = format!("--level read-committed --expect-anomalies --workload {TELLING}");
        return passed(workload(&format!("--on postgres {weak}")));
    }
    if soak.planted {
        return passed(workload("--find-planted"));
    }
    passed(workload(&format!("--workload {workloads} --nemesis {} --level any", soak.nemesis)))
}

/// Builds what the soak runs, optimised, and says where it lies.
fn build(workspace: &Workspace, soak: &Soak) -> Result<PathBuf> {
    machine::ready_to_build(workspace.progress())?;
    let workspace = workspace.with_rocksdb()?;
    passed(workspace.cargo("build --release --package crdb-workload"))?;
    if !soak.control {
        // The features are those of the program alone; nothing else is built with it.
        let features = "--features test-clock,planted-bugs";
        passed(workspace.cargo(&format!("build --release --package crdb {features}")))?;
    }
    Ok(workspace.programs(Profile::Release))
}
