//! Schema changes race with writes from every gateway.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::{TestCluster, connect, within};

/// When a statement was sent and when its success came back.
type Span = (Instant, Instant);

/// Inserts rows through one node until told to stop; returns those acknowledged, and when.
async fn write(port: u16, first: i64, stop: Arc<AtomicBool>) -> BTreeMap<i64, Span> {
    let mut acknowledged = BTreeMap::new();
    let mut id = first;
    while !stop.load(Ordering::Acquire) {
        let Ok(client) = connect(port).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !stop.load(Ordering::Acquire) {
            id += 1;
            let began = Instant::now();
            match within(client.batch_execute(&format!("INSERT INTO t VALUES ({id})"))).await {
                Ok(()) => {
                    acknowledged.insert(id, (began, Instant::now()));
                }
                Err(_) if client.is_closed() => break,
                // The table is offline or gone for a moment.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
    acknowledged
}

/// Runs `change` several times among writers and checks every acknowledged row against its span.
async fn race(change: &[&str]) -> Result<()> {
    let mut cluster = TestCluster::start(3).await?;
    cluster.wait_replicated(3).await?;
    cluster.node(1)?.execute_retrying("CREATE TABLE t (id INT PRIMARY KEY)").await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..6 {
        let node = cluster.nodes.get(writer % 3).context("no such node")?;
        let first = i64::try_from(writer)? * 10_000_000;
        writers.spawn(write(node.port, first, Arc::clone(&stop)));
    }
    let mut last: Option<Span> = None;
    for round in 1..=4 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let client = cluster.node(round % 3 + 1)?.connect().await?;
        let began = Instant::now();
        for sql in change {
            within(client.batch_execute(sql)).await.with_context(|| (*sql).to_owned())?;
        }
        last = Some((began, Instant::now()));
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    stop.store(true, Ordering::Release);
    let mut acknowledged = BTreeMap::new();
    while let Some(ids) = writers.join_next().await {
        acknowledged.extend(ids?);
    }
    let (began, ended) = last.context("nothing was changed")?;
    for n in 1..=3 {
        let client = cluster.node(n)?.connect().await?;
        let rows = within(client.query("SELECT id FROM t", &[])).await?;
        let seen: std::collections::BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        let (mut before, mut after) = (0, 0);
        for (id, (sent, answered)) in &acknowledged {
            if *answered < began {
                before += 1;
                ensure!(!seen.contains(id), "node {n}: row {id} came back after {change:?}");
            } else if *sent > ended {
                after += 1;
                ensure!(seen.contains(id), "node {n}: row {id}, written after {change:?}, is lost");
            }
        }
        let seen = seen.len();
        ensure!(before > 0 && after > 0, "the writers did not run: {before}, {after}, {seen}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncate_racing_inserts_loses_and_revives_nothing() -> Result<()> {
    race(&["TRUNCATE TABLE t"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_and_create_racing_inserts_loses_and_revives_nothing() -> Result<()> {
    race(&["DROP TABLE t", "CREATE TABLE t (id INT PRIMARY KEY)"]).await
}
