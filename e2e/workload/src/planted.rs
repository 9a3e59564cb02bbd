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

/// A bug, and how it is looked for.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// The bug, as it is planted.
    pub bug: &'static str,
    /// The workload whose checker finds it.
    pub workload: &'static str,
    /// What makes it likely.
    pub nemesis: &'static str,
    /// Milliseconds between faults, and of a fault.
    pace: [std::ops::Range<u64>; 2],
    clients: usize,
}

const fn hunt_of(
    bug: &'static str,
    workload: &'static str,
    nemesis: &'static str,
    pace: [std::ops::Range<u64>; 2],
    clients: usize,
) -> Hunt {
    Hunt { bug, workload, nemesis, pace, clients }
}

/// One hunt for each bug at least. Every judge of more than one property takes part: that of
/// list-append, and that of registers.
pub const HUNTS: [Hunt; 8] = [
    // A leaseholder whose clock is late hears of later timestamps late, too: what it reads first gives
    // a transaction a timestamp below that of what was acknowledged elsewhere. Few clients, so that
    // little time passes between.
    hunt_of("skip-uncertainty-restart", "comments", "leases+skew+slow", [20..100, 500..2000], 9),
    hunt_of("skip-refresh", "monotonic", "none", [200..600, 300..1500], 30),
    // A lease moves between a read by one of a pair and the write of the other below it.
    hunt_of("skip-tscache-on-transfer", "g2", "leases", [10..60, 10..60], 30),
    hunt_of("staging-is-aborted", "bank", "splits", [200..600, 300..1500], 30),
    hunt_of("retry-ambiguous", "sets", "kill", [200..600, 300..1500], 30),
    // A follower that is cut off lacks what was acknowledged meanwhile.
    hunt_of("follower-read-above-closed", "as-of", "partition", [200..600, 1000..4000], 30),
    hunt_of("skip-refresh", "list-append", "none", [200..600, 300..1500], 30),
    // A value that is written a second time takes back what came in between.
    hunt_of("retry-ambiguous", "register", "kill", [200..600, 300..1500], 30),
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
    looked_for: &Hunt,
    seconds: u64,
    most: u64,
    seed: u64,
    keep: PathBuf,
) -> Result<Hunted> {
    let began = Instant::now();
    let Hunt { bug, workload, nemesis, pace: [rest, hold], clients } = looked_for.clone();
    let mut hunted =
        Hunted { bug, workload, nemesis, took: Duration::ZERO, rounds: 0, finding: None };
    while hunted.rounds < most && hunted.finding.is_none() {
        let options = ClusterOptions {
            test_clock: true,
            planted_bug: Some(bug.to_owned()),
            ..ClusterOptions::default()
        };
        let cluster =
            Cluster::start(&options).await.with_context(|| format!("start with {bug}"))?;
        let plan = Plan {
            nemesis: nemesis.parse()?,
            time: Duration::from_secs(seconds),
            patience: Duration::ZERO,
            most_calls: u64::MAX,
            least_calls: 1,
            clients,
            isolation: Isolation::Serializable,
            pace: Pace { rest: rest.clone(), hold: hold.clone() },
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
