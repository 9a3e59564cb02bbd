//! What others see of transactions: their locks, and what is kept because they may read it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use crdb_proto::admin::NodeStatus;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::cluster::{PATIENCE, TestCluster, connect, rows, within};

/// Asks again until the rows are those expected.
async fn until(client: &Client, sql: &str, expected: &[&str]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let rows = rows(client, sql).await?;
        if rows == expected {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{sql}: {rows:?}, not {expected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_lock_and_its_waiter_are_shown_by_another_node() -> Result<()> {
    let mut cluster = TestCluster::start(3).await?;
    cluster.wait_replicated(3).await?;
    let holder = cluster.node(1)?.connect().await?;
    within(holder.batch_execute("CREATE TABLE t (k INT PRIMARY KEY, v INT)")).await?;
    within(holder.batch_execute("INSERT INTO t VALUES (1, 0), (2, 0)")).await?;
    within(holder.batch_execute("BEGIN; UPDATE t SET v = v + 1 WHERE k = 1")).await?;

    let port = cluster.node(2)?.port;
    let mut waiter = JoinSet::new();
    waiter.spawn(async move {
        let client = connect(port).await?;
        within(client.batch_execute("UPDATE t SET v = v + 10 WHERE k = 1")).await
    });
    let observer = cluster.node(3)?.connect().await?;
    let locks = "SELECT granted, contended, lock_strength, isolation_level \
                 FROM crdb_internal.cluster_locks WHERE table_name = 't' ORDER BY granted DESC";
    let both = ["t t Exclusive SERIALIZABLE", "f t Exclusive SERIALIZABLE"];
    until(&observer, locks, &both).await?;
    let transactions = "SELECT count(DISTINCT txn_id), count(DISTINCT lock_key_pretty) \
                        FROM crdb_internal.cluster_locks WHERE table_name = 't'";
    let seen = rows(&observer, transactions).await?;
    ensure!(seen == ["2 1"], "two transactions at one key, not {seen:?}");

    within(holder.batch_execute("COMMIT")).await?;
    waiter.join_next().await.context("the waiter is gone")???;
    until(&observer, locks, &[]).await?;
    let row = rows(&observer, "SELECT v FROM t WHERE k = 1").await?;
    ensure!(row == ["11"], "{row:?}");
    Ok(())
}

/// Waits until every node knows that a transaction of the node at `port` reads at `read`, nanoseconds since
/// the Unix epoch and a fraction that counts what happened within one.
async fn until_protected(cluster: &TestCluster, port: u16, read: &str) -> Result<()> {
    let read: u64 = read.split('.').next().unwrap_or(read).parse()?;
    let deadline = Instant::now() + PATIENCE;
    for node in &cluster.nodes {
        loop {
            let status = node.status().await?;
            let is_reader = |node: &&NodeStatus| {
                let own = format!("127.0.0.1:{port}");
                node.descriptor.as_ref().is_some_and(|descriptor| descriptor.sql_address == own)
            };
            let reader = status.nodes.iter().find(is_reader);
            let oldest = reader.and_then(|reader| reader.oldest_read);
            if oldest.is_some_and(|oldest| oldest.wall_nanos <= read) {
                break;
            }
            ensure!(Instant::now() < deadline, "{}: {oldest:?}, not {read}", node.address());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// Longer than versions are kept and ranges take to close what is past, by far.
const HELD: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_versions_are_collected_when_no_open_transaction_reads_them() -> Result<()> {
    let mut cluster = TestCluster::start(3).await?;
    cluster.wait_replicated(3).await?;
    let writer = cluster.node(1)?.connect().await?;
    within(writer.batch_execute("CREATE TABLE t (k INT PRIMARY KEY, v INT)")).await?;
    within(writer.batch_execute("INSERT INTO t VALUES (1, 0)")).await?;
    let before = rows(&writer, "SELECT cluster_logical_timestamp()").await?.concat();
    within(writer.batch_execute("UPDATE t SET v = 1")).await?;
    let as_of = format!("AS OF SYSTEM TIME {before}");

    let port = cluster.node(2)?.port;
    let reader = Arc::new(cluster.node(2)?.connect().await?);
    within(reader.batch_execute(&format!("BEGIN {as_of}"))).await?;
    ensure!(rows(&reader, "SELECT v FROM t").await? == ["0"]);
    // Before anything is collected, its node has told the others.
    until_protected(&cluster, port, &before).await?;
    within(writer.batch_execute("SET CLUSTER SETTING kv.gc.ttl = '1s'")).await?;
    let set = Instant::now();
    while set.elapsed() < HELD {
        within(writer.batch_execute("UPDATE t SET v = v + 1")).await?;
        let seen = rows(&reader, "SELECT v FROM t").await?;
        ensure!(seen == ["0"], "after {:?}: {seen:?}", set.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let old = format!("SELECT v FROM t {as_of}");
    let third = cluster.node(3)?.connect().await?;
    ensure!(rows(&third, &old).await? == ["0"], "others are protected by the same");

    within(reader.batch_execute("COMMIT")).await?;
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        within(writer.batch_execute("UPDATE t SET v = v + 1")).await?;
        match third.simple_query(&old).await {
            Err(error) => break error,
            Ok(_) => ensure!(Instant::now() < deadline, "nothing was collected"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let refused = refused.as_db_error().context("no answer of the server")?.message().to_owned();
    ensure!(refused.contains("below") && refused.contains("all that is kept"), "{refused}");
    let newest = rows(&writer, "SELECT v FROM t").await?;
    for n in 1..=3 {
        let client = cluster.node(n)?.connect().await?;
        ensure!(rows(&client, "SELECT v FROM t").await? == newest, "node {n}");
        let gone = client.simple_query(&old).await;
        ensure!(gone.is_err(), "node {n} reads what was collected: {gone:?}");
    }
    Ok(())
}
