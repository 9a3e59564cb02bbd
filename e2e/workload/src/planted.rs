//! Bugs planted on purpose, and the workload under which each has to be found: the proof that a run
//! without findings means something.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use crate::cluster::{Cluster, ClusterOptions};
use crate::nemesis::Pace;
use crate::run::{Plan, Target, run};
use crate::session::Isolation;

/// A bug, and how it is looked for: the workload and the nemesis.
pub const HUNTS: [(&str, &str, &str); 6] = [
    ("skip-uncertainty-restart", "comments", "splits+leases+skew"),
    ("skip-refresh", "monotonic", "none"),
    ("skip-tscache-on-transfer", "list-append", "splits+leases+skew"),
    ("staging-is-aborted", "bank", "splits"),
    ("retry-ambiguous", "sets", "kill"),
    ("follower-read-above-closed", "as-of", "partition"),
];

/// What became of a hunt.
#[derive(Debug)]
pub struct Hunted {
    bug: &'static str,
    workload: &'static str,
    nemesis: &'static str,
    took: Duration,
    rounds: u64,
    /// What showed the bug; `None` if nothing did.
    pub finding: Option<String>,
}

impl fmt::Display for Hunted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = self
            .finding
            .as_deref()
            .map_or("NOT FOUND", |finding| finding.lines().next().unwrap_or_default());
        write!(
            f,
            "{:<28} {:<12} {:<18} {:>6.0} s {:>3} rounds  {found}",
            self.bug,
            self.workload,
            self.nemesis,
            self.took.as_secs_f64(),
            self.rounds
        )
    }
}

/// Runs rounds of a hunt, each of `seconds` on a cluster of its own, until one finds the bug or
/// there were `most` of them.
///
/// # Errors
///
/// A cluster does not start.
pub async fn hunt(
    (bug, workload, nemesis): (&'static str, &'static str, &'static str),
    seconds: u64,
    most: u64,
    seed: u64,
    keep: PathBuf,
) -> Result<Hunted> {
    let began = Instant::now();
    let mut hunted =
        Hunted { bug, workload, nemesis, took: Duration::ZERO, rounds: 0, finding: None };
    while hunted.rounds < most && hunted.finding.is_none() {
        let options = ClusterOptions { test_clock: true, planted_bug: Some(bug.to_owned()) };
        let cluster =
            Cluster::start(&options).await.with_context(|| format!("start with {bug}"))?;
        let plan = Plan {
            nemesis: nemesis.parse()?,
            time: Duration::from_secs(seconds),
            most_calls: u64::MAX,
            least_calls: 1,
            clients: 30,
            isolation: Isolation::Serializable,
            pace: Pace {
                rest: 200..600,
                hold: if nemesis == "partition" { 7000..9000 } else { 300..1500 },
            },
            seed: seed.wrapping_add(hunted.rounds),
            keep: keep.clone(),
        };
        let report = run(workload, &mut Target::Cluster(cluster), &plan).await?;
        hunted.rounds += 1;
        if report.is_invalid() {
            hunted.finding = report.findings.into_iter().next();
        }
    }
    hunted.took = began.elapsed();
    Ok(hunted)
}
