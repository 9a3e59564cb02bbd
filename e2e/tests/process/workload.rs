//! The checking workloads for a few seconds each, on one cluster that suffers each kind of fault, and
//! what a node does whose clock is off. `cargo xtask soak` runs them for longer, each under each.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use crdb_workload::cluster::{Cluster, ClusterOptions, drawn_limits};
use crdb_workload::nemesis::{Faults, Pace};
use crdb_workload::oracle;
use crdb_workload::process::{PATIENCE, binary};
use crdb_workload::report::AsTable;
use crdb_workload::run::{NAMES, Plan, Target, any_level, run};
use crdb_workload::session::Isolation;
use tokio::time::Instant;

/// Nodes with clocks that can be set, and with bounds of a seed.
async fn with_clocks(seed: u64) -> Result<Cluster> {
    let program = std::env::var_os("CRDB_TEST_CLOCK_BIN").map(PathBuf::from).context(
        "CRDB_TEST_CLOCK_BIN is to name a crdb built with --features test-clock, as \
         `cargo xtask test process` does",
    )?;
    let limits = drawn_limits(&program, seed)?;
    let (program, test_clock) = (Some(program), true);
    let options = ClusterOptions { program, test_clock, limits, ..ClusterOptions::default() };
    Cluster::start(&options).await.context("start the cluster")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_see_what_is_promised_under_each_kind_of_fault() -> Result<()> {
    // Histories of failures stay beside what cargo builds.
    let keep = Path::new(env!("CARGO_TARGET_TMPDIR")).join("workload");
    let seed = u64::from(rand::random::<u32>());
    println!("seed {seed}");
    // There are as many workloads as kinds, and one more; which meet is a matter of the seed.
    let faults: Vec<String> = Faults::names().into_iter().filter(|name| name != "none").collect();
    ensure!(faults.len() <= NAMES.len(), "not each kind of fault would be there");
    let first = usize::try_from(seed)?;
    let mut target = Target::Cluster(with_clocks(seed).await?);
    let mut reports = Vec::new();
    let histories = NAMES.into_iter().filter(|name| *name != oracle::NAME);
    for (n, workload) in histories.enumerate() {
        let nemesis = faults.get((first + n) % faults.len()).context("no faults")?;
        let plan = Plan {
            nemesis: nemesis.parse()?,
            time: Duration::from_secs(3),
            // Until each kind of call succeeded and a fault took effect, on a slow machine.
            patience: Duration::from_secs(60),
            most_calls: u64::MAX,
            least_calls: 10,
            clients: 12,
            isolation: any_level(workload, seed + n as u64),
            pace: Pace::short(),
            seed: seed + n as u64,
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_of_all_sizes_do_what_a_simple_model_does() -> Result<()> {
    let seed = u64::from(rand::random::<u32>());
    println!("seed {seed}");
    let limits = drawn_limits(&binary()?, seed)?;
    let options = ClusterOptions { limits, ..ClusterOptions::default() };
    let mut target = Target::Cluster(Cluster::start(&options).await?);
    let plan = Plan {
        nemesis: "splits+leases".parse()?,
        time: Duration::from_secs(45),
        // Until each kind of statement committed, on a slow machine, with bounds that make it slower.
        patience: Duration::from_secs(180),
        most_calls: u64::MAX,
        least_calls: 200,
        clients: 3,
        isolation: Isolation::Serializable,
        pace: Pace::short(),
        seed,
        keep: Path::new(env!("CARGO_TARGET_TMPDIR")).join("workload"),
    };
    let report = run(oracle::NAME, &mut target, &plan).await?;
    println!("{report:#?}");
    ensure!(report.is_valid(), "{}: {}", report.verdict, report.findings.join("\n"));
    Ok(())
}

/// The mean offset of the clocks of the others that a node shows, in milliseconds.
async fn mean_offset(cluster: &Cluster, n: usize) -> Result<f64> {
    let node = cluster.nodes().get(n).context("no such node")?;
    let (_, text) = node.http_get("/_status/vars").await?;
    let line = text.lines().find_map(|line| line.strip_prefix("clock_offset_meannanos "));
    Ok(line.context("no clock_offset_meannanos")?.parse::<f64>()? / 1e6)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_leaves_the_others_stops_itself_and_says_so() -> Result<()> {
    let mut cluster = with_clocks(0).await?;
    let node = cluster.nodes().first().context("no node")?;
    node.execute_retrying("CREATE TABLE t (k INT PRIMARY KEY)").await?;
    // Within the bound it is shown, and no more: the others are late by this node's clock.
    cluster.set_clock(2, 200_000_000)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let offset = mean_offset(&cluster, 2).await?;
        if (-300.0..-100.0).contains(&offset) {
            break;
        }
        ensure!(Instant::now() < deadline, "the others seem to be off by {offset} ms");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Beyond four fifths of --max-offset, 500 ms, it must not serve.
    cluster.set_clock(2, 450_000_000)?;
    let (status, text) = cluster.ended(2).await?;
    ensure!(!status.success(), "it ends with {status}:\n{text}");
    let why = "the clock of this node is more than 400ms off those of 2 of the 2 other nodes";
    ensure!(text.contains(why), "{text}");
    for node in cluster.nodes().iter().take(2) {
        node.execute_retrying("UPSERT INTO t VALUES (1)").await?;
    }
    Ok(())
}
