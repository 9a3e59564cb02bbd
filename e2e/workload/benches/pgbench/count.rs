//! How many commands and synced writes of the log a transaction of each kind takes, all nodes
//! together: one client, one transaction after the other, less what idle nodes do meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result};
use crdb_workload::process::TestCluster;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::server::Servers;

/// Transactions of each kind.
const TIMES: u32 = 300;
/// How long idle nodes are watched.
const IDLE: Duration = Duration::from_secs(10);

/// The kinds: a name and the statements, of which each `?` is replaced by the number of the round.
const KINDS: &[(&str, &[&str])] = &[
    (
        "single-range autocommit write",
        &["UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1 + ?"],
    ),
    ("single-range autocommit insert", &["INSERT INTO counted VALUES (?, 'x')"]),
    (
        "multi-range implicit write",
        &["UPDATE counted_split SET v = v || 'y' WHERE k IN (100 + ?, 10100 + ?)"],
    ),
    (
        "two-statement transaction, one range",
        &[
            "BEGIN",
            "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1000 + ?",
            "UPDATE pgbench_accounts SET abalance = abalance - 1 WHERE aid = 2000 + ?",
            "COMMIT",
        ],
    ),
    (
        "two-statement transaction, two ranges",
        &[
            "BEGIN",
            "UPDATE counted_split SET v = v || 'y' WHERE k = 1000 + ?",
            "UPDATE counted_split SET v = v || 'y' WHERE k = 11000 + ?",
            "COMMIT",
        ],
    ),
    (
        "TPC-B",
        &[
            "BEGIN",
            "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 3000 + ?",
            "SELECT abalance FROM pgbench_accounts WHERE aid = 3000 + ?",
            "UPDATE pgbench_tellers SET tbalance = tbalance + 1 WHERE tid = 1",
            "UPDATE pgbench_branches SET bbalance = bbalance + 1 WHERE bid = 1",
            "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) \
             VALUES (1, 1, 3000 + ?, 1, CURRENT_TIMESTAMP)",
            "COMMIT",
        ],
    ),
    ("read of one row", &["SELECT abalance FROM pgbench_accounts WHERE aid = 1 + ?"]),
    (
        "read-only transaction, two ranges",
        &[
            "BEGIN",
            "SELECT v FROM counted_split WHERE k = 1 + ?",
            "SELECT v FROM counted_split WHERE k = 10001 + ?",
            "COMMIT",
        ],
    ),
];

/// What the nodes did so far.
#[derive(Clone, Copy, Debug)]
struct Counters {
    commands: f64,
    syncs: f64,
    at: Instant,
}

impl Counters {
    async fn read(cluster: &TestCluster) -> Result<Counters> {
        let (mut commands, mut syncs) = (0.0, 0.0);
        for node in &cluster.nodes {
            let (_, text) = node.http_get("/metrics").await?;
            let value = |name: &str| -> Result<f64> {
                let lines = text.lines().filter_map(|line| line.split_once(' '));
                let found = lines.clone().find(|(key, _)| *key == name);
                let (_, value) = found.with_context(|| format!("there is no metric {name}"))?;
                Ok(value.parse()?)
            };
            commands += value("raft_commandsproposed")?;
            syncs += value("raft_log_syncs")?;
        }
        Ok(Counters { commands, syncs, at: Instant::now() })
    }

    /// Commands, syncs and seconds since.
    async fn since(self, cluster: &TestCluster) -> Result<(f64, f64, f64)> {
        let now = Counters::read(cluster).await?;
        let took = now.at.duration_since(self.at).as_secs_f64();
        Ok((now.commands - self.commands, now.syncs - self.syncs, took))
    }
}

/// Prints the table.
pub(crate) async fn all(servers: &Servers) -> Result<()> {
    let Some(cluster) = servers.cluster() else { return Ok(()) };
    let port = cluster.nodes.first().context("no nodes")?.port;
    let (client, _tasks) = servers.connect(port).await?;
    for sql in [
        "CREATE TABLE counted (k INT8 PRIMARY KEY, v TEXT)",
        "CREATE TABLE counted_split (k INT8 PRIMARY KEY, v TEXT)",
        "INSERT INTO counted_split SELECT g, 'x' FROM generate_series(0, 19999) AS s(g)",
        "ALTER TABLE counted_split SPLIT AT VALUES (10000)",
    ] {
        client.batch_execute(sql).await.with_context(|| sql.to_owned())?;
    }
    let before = Counters::read(cluster).await?;
    tokio::time::sleep(IDLE).await;
    let (commands, syncs, took) = before.since(cluster).await?;
    let idle = (commands / took, syncs / took);
    println!("idle: {:.2} commands and {:.2} syncs per second", idle.0, idle.1);
    println!(
        "{:<38} {:>8} {:>12} {:>9} {:>9}",
        "one client, one after the other", "commands", "syncs, three", "p50 ms", "p99 ms"
    );
    for (name, statements) in KINDS {
        // A failure leaves its connection within a transaction.
        let (client, _tasks) = servers.connect(port).await?;
        let before = Counters::read(cluster).await?;
        let mut times = match run(&client, statements).await {
            Ok(times) => times,
            Err(error) => {
                println!("{name:<38} failed: {error:#}");
                continue;
            }
        };
        // What a commit leaves to be done after the answer belongs to it.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (commands, syncs, took) = before.since(cluster).await?;
        times.sort_unstable();
        let at = |percent: usize| {
            let time = times.get((times.len() - 1) * percent / 100).copied().unwrap_or_default();
            time.as_secs_f64() * 1000.0
        };
        let each = |count: f64, idle: f64| (count - idle * took) / f64::from(TIMES);
        println!(
            "{name:<38} {:>8.2} {:>12.2} {:>9.2} {:>9.2}",
            each(commands, idle.0),
            each(syncs, idle.1),
            at(50),
            at(99)
        );
    }
    Ok(())
}

async fn run(client: &Client, statements: &[&str]) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for n in 0..TIMES {
        let began = Instant::now();
        for statement in statements {
            let sql = statement.replace('?', &n.to_string());
            client.batch_execute(&sql).await.with_context(|| sql.clone())?;
        }
        times.push(began.elapsed());
    }
    Ok(times)
}
