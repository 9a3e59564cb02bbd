//! A cluster forms, serves at any node, and goes on without any one of them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use crdb_proto::admin::Liveness;
use tokio::time::Instant;

use crate::cluster::{Node, TestCluster, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_a_cluster_and_any_of_them_serves() -> Result<()> {
    let mut cluster = TestCluster::start(3).await?;
    cluster.wait_replicated(3).await?;
    let status = cluster.node(2)?.status().await?;
    ensure!(status.initialized && status.answered_by == 2, "{status:?}");
    for (n, row) in (1_u32..).zip(&status.nodes) {
        let node = row.descriptor.as_ref().context("a row has no descriptor")?;
        let expected = cluster.node(n.try_into()?)?.address();
        ensure!(node.node_id == n && node.address == expected, "{node:?}, not {expected}");
        ensure!(row.liveness() == Liveness::Live, "{row:?}");
    }
    ensure!(status.nodes.len() == 3, "{status:?}");

    let one = cluster.node(1)?.connect().await?;
    within(one.batch_execute("CREATE TABLE t (id INT PRIMARY KEY, v STRING)")).await?;
    let two = cluster.node(2)?.connect().await?;
    within(two.batch_execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")).await?;
    let three = cluster.node(3)?.connect().await?;
    let row = within(three.query_one("SELECT v FROM t WHERE id = 2", &[])).await?;
    ensure!(row.get::<_, &str>(0) == "b");
    for n in 1..=3 {
        let node = cluster.node(n)?;
        ensure!(node.http_get("/health").await? == (200, "{}".to_owned()));
        ensure!(node.http_get("/health?ready=1").await?.0 == 200);
        let (_, metrics) = node.http_get("/_status/vars").await?;
        ensure!(metrics.contains("\nliveness_livenodes 3\n"), "{metrics}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survives_the_kill_of_any_one_node() -> Result<()> {
    let mut cluster = TestCluster::start(3).await?;
    cluster.wait_replicated(3).await?;
    cluster.node(1)?.execute_retrying("CREATE TABLE t (id INT PRIMARY KEY)").await?;
    let mut expected: i64 = 0;
    for victim in 1..=3 {
        cluster.node(victim)?.kill();
        let killed = Instant::now();
        for n in (1..=3).filter(|n| *n != victim) {
            // The statement may be ambiguous once; the same row again is then a duplicate.
            let sql = format!("UPSERT INTO t VALUES ({expected})");
            cluster.node(n)?.execute_retrying(&sql).await?;
            expected += 1;
            let gap = killed.elapsed();
            ensure!(gap < Duration::from_secs(15), "writes resumed only after {gap:?}");
        }
        cluster.node(victim)?.start()?;
        let client = cluster.node(victim)?.connect().await?;
        let row = within(client.query_one("SELECT count(*) FROM t", &[])).await?;
        ensure!(row.get::<_, i64>(0) == expected, "node {victim} sees {row:?}, not {expected}");
        cluster.wait_replicated(3).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_serves_and_keeps_its_rows_over_a_restart() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut node = Node::new(dir.path(), "single", "start-single-node", &[])?;
    node.start()?;
    let client = node.connect().await?;
    within(client.batch_execute("CREATE TABLE t (id INT PRIMARY KEY)")).await?;
    within(client.batch_execute("INSERT INTO t VALUES (1), (2), (3)")).await?;
    node.kill();
    node.start()?;
    let client = node.connect().await?;
    let row = within(client.query_one("SELECT count(*) FROM t", &[])).await?;
    ensure!(row.get::<_, i64>(0) == 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains_and_the_others_go_on_at_once() -> Result<()> {
    let mut cluster = TestCluster::start(3).await?;
    cluster.wait_replicated(3).await?;
    cluster.node(2)?.execute_retrying("CREATE TABLE t (id INT PRIMARY KEY)").await?;
    cluster.node(1)?.terminate()?;
    let status = cluster.node(1)?.exit(Duration::from_secs(20)).await?;
    ensure!(status.success(), "{status}: {}", cluster.node(1)?.output());
    let stopped = Instant::now();
    cluster.node(2)?.execute_retrying("UPSERT INTO t VALUES (1)").await?;
    let gap = stopped.elapsed();
    ensure!(gap < Duration::from_secs(3), "the leases had not moved: {gap:?}");
    ensure!(cluster.node(1)?.output().contains("server drained and shutdown completed"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_stopped_at_once_end_within_ten_seconds() -> Result<()> {
    let mut cluster = TestCluster::start(3).await?;
    cluster.wait_replicated(3).await?;
    for node in &cluster.nodes {
        node.terminate()?;
    }
    let began = Instant::now();
    for node in &mut cluster.nodes {
        let status = node.exit(Duration::from_secs(20)).await?;
        ensure!(status.success(), "{status}: {}", node.output());
    }
    ensure!(began.elapsed() < Duration::from_secs(12), "it took {:?}", began.elapsed());
    Ok(())
}
