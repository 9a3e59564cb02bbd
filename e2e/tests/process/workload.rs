//! The checking workloads for a few seconds each, on one cluster that suffers a mix of faults.
//! `cargo xtask soak` runs them for longer, under each nemesis.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use crdb_workload::cluster::{Cluster, ClusterOptions};
use crdb_workload::nemesis::Pace;
use crdb_workload::report::AsTable;
use crdb_workload::run::{NAMES, Plan, Target, run};
use crdb_workload::session::Isolation;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_see_what_is_promised_under_a_mix_of_faults() -> Result<()> {
    // Histories of failures stay beside what cargo builds.
    let keep = Path::new(env!("CARGO_TARGET_TMPDIR")).join("workload");
    let seed = u64::from(rand::random::<u32>());
    println!("seed {seed}");
    let cluster = Cluster::start(&ClusterOptions::default()).await.context("start the cluster")?;
    let mut target = Target::Cluster(cluster);
    let mut reports = Vec::new();
    for (n, workload) in (0..).zip(NAMES) {
        let plan = Plan {
            nemesis: "mix".parse()?,
            time: Duration::from_secs(3),
            // Until each kind of call succeeded and a fault took effect, on a slow machine.
            patience: Duration::from_secs(60),
            most_calls: u64::MAX,
            least_calls: 10,
            clients: 12,
            isolation: Isolation::Serializable,
            pace: Pace::short(),
            seed: seed + n,
            keep: keep.clone(),
        };
        let report = run(workload, &mut target, &plan).await.context(workload)?;
        println!("{report:#?}");
        reports.push(report);
    }
    let table = AsTable(&reports).to_string();
    println!("{table}");
    ensure!(reports.iter().all(|report| report.is_valid()), "{table}");
    Ok(())
}
