//! No acknowledged row is lost, and none is written twice, whatever is killed when.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinSet;

use crate::cluster::{TestCluster, connect, within};

/// Rounds of kills; a soak asks for more.
fn rounds() -> u32 {
    std::env::var("CRDB_SOAK_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

/// Inserts rows with numbers of its own through one node until told to stop; returns those that
/// were acknowledged.
async fn write(port: u16, first: i64, stop: Arc<AtomicBool>) -> Vec<i64> {
    let mut acknowledged = Vec::new();
    let mut id = first;
    while !stop.load(Ordering::Acquire) {
        let Ok(client) = connect(port).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !stop.load(Ordering::Acquire) {
            id += 1;
            let sql = format!("INSERT INTO t (id) VALUES ({id})");
            match within(client.batch_execute(&sql)).await {
                Ok(()) => acknowledged.push(id),
                // Its fate may be unknown: the number is not used again.
                Err(_) => break,
            }
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_acknowledged_rows_over_the_kill_of_all_nodes() -> Result<()> {
    let seed = std::env::var("CRDB_SEED").ok().and_then(|s| s.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("CRDB_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = TestCluster::start(3).await?;
    cluster.wait_replicated(3).await?;
    // Without a primary key of its own, so that a row written twice shows.
    cluster.node(1)?.execute_retrying("CREATE TABLE t (id INT)").await?;
    let mut acknowledged = BTreeSet::new();
    for round in 0..rounds() {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for writer in 0..6 {
            let node = cluster.nodes.get(writer % 3).context("no such node")?;
            let first = i64::from(round) * 100_000_000 + i64::try_from(writer)? * 10_000_000;
            writers.spawn(write(node.port, first, Arc::clone(&stop)));
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(500..2500))).await;
        for node in &mut cluster.nodes {
            node.kill();
        }
        stop.store(true, Ordering::Release);
        let mut new = 0;
        while let Some(ids) = writers.join_next().await {
            let ids = ids?;
            new += ids.len();
            acknowledged.extend(ids);
        }
        println!("round {round}: {new} rows acknowledged");
        for node in &mut cluster.nodes {
            node.start()?;
        }
        for node in &cluster.nodes {
            check(node.port, &acknowledged, node).await?;
        }
        ensure!(new > 0, "nothing was written in round {round}");
    }
    Ok(())
}

async fn check(port: u16, acknowledged: &BTreeSet<i64>, node: &crate::cluster::Node) -> Result<()> {
    node.connect().await?;
    let client = connect(port).await?;
    let rows = within(client.query("SELECT id FROM t", &[])).await?;
    let mut seen = BTreeSet::new();
    for row in &rows {
        let id: i64 = row.get(0);
        ensure!(seen.insert(id), "row {id} is there twice");
    }
    let missing: Vec<_> = acknowledged.difference(&seen).take(10).collect();
    ensure!(missing.is_empty(), "acknowledged and missing: {missing:?}\n{}", node.output());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_acknowledged_rows_while_nodes_are_killed_in_turn() -> Result<()> {
    let mut cluster = TestCluster::start(3).await?;
    cluster.wait_replicated(3).await?;
    cluster.node(1)?.execute_retrying("CREATE TABLE t (id INT)").await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..3 {
        let node = cluster.nodes.get(writer).context("no such node")?;
        let first = i64::try_from(writer)? * 10_000_000;
        writers.spawn(write(node.port, first, Arc::clone(&stop)));
    }
    for victim in 1..=3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        cluster.node(victim)?.kill();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cluster.node(victim)?.start()?;
        cluster.node(victim)?.connect().await?;
        cluster.wait_replicated(3).await?;
    }
    stop.store(true, Ordering::Release);
    let mut acknowledged = BTreeSet::new();
    while let Some(ids) = writers.join_next().await {
        acknowledged.extend(ids?);
    }
    println!("{} rows acknowledged", acknowledged.len());
    for node in &cluster.nodes {
        check(node.port, &acknowledged, node).await?;
    }
    Ok(())
}
