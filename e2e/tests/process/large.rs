//! Transactions larger than what one batch, one command or one round of clean-up takes: every row is
//! there once they are acknowledged, whatever is killed, split or moved right after the COMMIT.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use crdb_workload::nemesis::{ranges_of, relocate};
use futures::SinkExt as _;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;

use crate::cluster::{Node, PATIENCE, TestCluster, rows};

/// A large transaction.
#[derive(Clone, Copy, Debug)]
struct Large {
    what: &'static str,
    /// What comes before it, if anything.
    before: Option<&'static str>,
    how: How,
    /// Rows that there are in the end.
    count: usize,
    /// Bytes of each value.
    bytes: usize,
}

/// How it is written; `$t` stands for the table.
#[derive(Clone, Copy, Debug)]
enum How {
    /// By one statement.
    Statement(&'static str),
    /// By COPY FROM STDIN.
    Copy,
    /// By BEGIN, an INSERT for each row, COMMIT.
    SingleRows,
}

const SMALL: &str = "INSERT INTO $t SELECT g, 'small' FROM generate_series(0, 1999) AS g(g)";
const QUARTERS: &str = "ALTER TABLE $t SPLIT AT VALUES (500), (1000), (1500)";

const LARGE: [Large; 7] = [
    Large {
        what: "INSERT",
        before: None,
        how: How::Statement(
            "INSERT INTO $t SELECT g, repeat('x', 20480) FROM generate_series(0, 1999) AS g(g)",
        ),
        count: 2000,
        bytes: 20480,
    },
    Large { what: "COPY", before: None, how: How::Copy, count: 2000, bytes: 20480 },
    Large {
        what: "UPDATE",
        before: Some(SMALL),
        how: How::Statement("UPDATE $t SET v = repeat('x', 20480)"),
        count: 2000,
        bytes: 20480,
    },
    Large {
        what: "UPSERT",
        before: Some(SMALL),
        how: How::Statement(
            "UPSERT INTO $t SELECT g, repeat('x', 20480) FROM generate_series(0, 1999) AS g(g)",
        ),
        count: 2000,
        bytes: 20480,
    },
    Large {
        what: "ON CONFLICT",
        before: Some(SMALL),
        how: How::Statement(
            "INSERT INTO $t SELECT g, repeat('x', 20480) FROM generate_series(0, 1999) AS g(g) \
             ON CONFLICT (k) DO UPDATE SET v = excluded.v",
        ),
        count: 2000,
        bytes: 20480,
    },
    Large { what: "row by row", before: None, how: How::SingleRows, count: 1000, bytes: 20480 },
    Large {
        what: "four ranges",
        before: Some(QUARTERS),
        how: How::Statement(
            "INSERT INTO $t SELECT g, repeat('x', 12288) FROM generate_series(0, 1999) AS g(g)",
        ),
        count: 2000,
        bytes: 12288,
    },
];

/// A statement may take as long as a slow machine takes for a large one.
const LARGE_PATIENCE: Duration = Duration::from_secs(180);

async fn execute(client: &Client, sql: &str) -> Result<u64> {
    let short = || sql.get(..200).unwrap_or(sql).to_owned();
    let ran = timeout(LARGE_PATIENCE, client.execute(sql, &[])).await;
    ran.with_context(|| format!("no answer: {}", short()))?.with_context(short)
}

impl Large {
    async fn prepare(&self, client: &Client, table: &str) -> Result<()> {
        execute(client, &format!("CREATE TABLE {table} (k INT PRIMARY KEY, v STRING)")).await?;
        if let Some(sql) = self.before {
            execute(client, &sql.replace("$t", table)).await?;
        }
        Ok(())
    }

    /// Writes all rows in one transaction and returns once it is acknowledged.
    async fn write(&self, client: &Client, table: &str) -> Result<()> {
        let value = "x".repeat(self.bytes);
        let changed = match self.how {
            How::Statement(sql) => execute(client, &sql.replace("$t", table)).await?,
            How::Copy => {
                let sink = client.copy_in(&format!("COPY {table} FROM STDIN")).await?;
                futures::pin_mut!(sink);
                for k in 0..self.count {
                    sink.send(Bytes::from(format!("{k}\t{value}\n"))).await?;
                }
                timeout(LARGE_PATIENCE, sink.finish()).await.context("no answer")??
            }
            How::SingleRows => {
                let mut changed = 0;
                execute(client, "BEGIN").await?;
                for k in 0..self.count {
                    let sql = format!("INSERT INTO {table} VALUES ({k}, '{value}')");
                    changed += execute(client, &sql).await?;
                }
                execute(client, "COMMIT").await?;
                changed
            }
        };
        ensure!(changed == self.count as u64, "{}: {changed} rows are reported", self.what);
        Ok(())
    }

    /// Reads the rows through each node that runs: all of them, each as it was written.
    async fn check(&self, cluster: &TestCluster, table: &str, when: &str) -> Result<()> {
        let sql = format!("SELECT count(*), sum(length(v)) FROM {table}");
        let expected = format!("{} {}", self.count, self.count * self.bytes);
        for node in cluster.nodes.iter().filter(|node| node.pid().is_ok()) {
            let deadline = Instant::now() + PATIENCE;
            let seen = loop {
                let client = node.connect().await?;
                match rows(&client, &sql).await {
                    Ok(seen) => break seen.concat(),
                    // A range whose leaseholder was killed is without one for a moment.
                    Err(error) => ensure!(Instant::now() < deadline, "{error:#}"),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            ensure!(
                seen == expected,
                "{} {when}, at {}: count and length are {seen}, not {expected}",
                self.what,
                node.address()
            );
        }
        Ok(())
    }
}

/// Writes in each way; then again in some, and all nodes are killed right after the COMMIT.
async fn keeps_large_transactions(size: usize) -> Result<()> {
    let mut cluster = TestCluster::start(size).await?;
    cluster.wait_replicated(size as u64).await?;
    // All are tried: which are wrong says where to look.
    let mut wrong = Vec::new();
    for (n, large) in LARGE.iter().enumerate() {
        let (table, client) = (format!("w{n}"), cluster.node(n % size + 1)?.connect().await?);
        large.prepare(&client, &table).await?;
        large.write(&client, &table).await?;
        wrong.extend(large.check(&cluster, &table, "once acknowledged").await.err());
    }
    let in_turn =
        LARGE.iter().filter(|large| matches!(large.what, "COPY" | "row by row" | "four ranges"));
    for (n, large) in in_turn.enumerate() {
        let (table, client) = (format!("k{n}"), cluster.node(n % size + 1)?.connect().await?);
        large.prepare(&client, &table).await?;
        large.write(&client, &table).await?;
        cluster.nodes.iter_mut().for_each(Node::kill);
        for node in &mut cluster.nodes {
            node.start()?;
        }
        wrong.extend(large.check(&cluster, &table, "after the kill of all nodes").await.err());
    }
    let wrong: Vec<String> = wrong.iter().map(|error| format!("{error:#}")).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_large_transactions_on_one_node() -> Result<()> {
    keeps_large_transactions(1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_large_transactions_on_three_nodes() -> Result<()> {
    keeps_large_transactions(3).await
}

/// What happens to the clean-up behind a COMMIT.
#[derive(Clone, Copy, Debug)]
enum Interruption {
    /// The node that cleans up is killed.
    KillGateway,
    /// The node is killed that has the lease of the range with the record.
    KillLeaseholder,
    /// Ranges are split.
    Split,
    /// Leases move.
    MoveLeases,
}

impl Interruption {
    const ALL: [Interruption; 4] = [
        Interruption::KillGateway,
        Interruption::KillLeaseholder,
        Interruption::Split,
        Interruption::MoveLeases,
    ];

    /// `gateway` is the node, from 1, that committed rows to `table`.
    async fn strike(self, cluster: &mut TestCluster, gateway: usize, table: &str) -> Result<()> {
        let other = gateway % 3 + 1;
        match self {
            Interruption::KillGateway => cluster.node(gateway)?.kill(),
            Interruption::KillLeaseholder => cluster.node(other)?.kill(),
            Interruption::Split => {
                let sql =
                    format!("ALTER TABLE {table} SPLIT AT VALUES (150), (650), (1150), (1650)");
                cluster.node(other)?.execute_retrying(&sql).await?;
            }
            Interruption::MoveLeases => {
                let port = cluster.node(gateway)?.port;
                for (range, _) in ranges_of(port, table).await? {
                    relocate(port, &range, gateway).await?;
                }
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_large_transactions_whose_clean_up_is_interrupted() -> Result<()> {
    let seed = std::env::var("CRDB_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("CRDB_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    // A clean-up of many steps is interrupted between any two of them.
    let requests = [500, 40].choose(&mut random).context("no bounds")?;
    let bytes = [4 << 20, 100_000].choose(&mut random).context("no bounds")?;
    let limits = format!("kv.cleanup_requests={requests},storage.resolve_bytes={bytes}");
    println!("CRDB_LIMITS={limits}");
    let mut cluster = TestCluster::start_with(3, Some(&limits)).await?;
    cluster.wait_replicated(3).await?;
    let large = LARGE.last().context("none is large")?;
    for round in 0..3 {
        for interruption in Interruption::ALL {
            let (gateway, table) = (round % 3 + 1, format!("t{round}_{interruption:?}"));
            let client = cluster.node(gateway)?.connect().await?;
            large.prepare(&client, &table).await?;
            let port = cluster.node(gateway)?.port;
            for (range, _) in ranges_of(port, &table).await? {
                let deadline = Instant::now() + PATIENCE;
                while let Err(error) = relocate(port, &range, gateway % 3 + 1).await {
                    ensure!(Instant::now() < deadline, "{error:#}");
                }
            }
            large.write(&client, &table).await?;
            let after = Duration::from_millis(random.random_range(0..300));
            tokio::time::sleep(after).await;
            let when = format!("after {interruption:?} {after:?} behind the COMMIT");
            interruption
                .strike(&mut cluster, gateway, &table)
                .await
                .with_context(|| when.clone())?;
            large.check(&cluster, &table, &when).await?;
            for node in &mut cluster.nodes {
                if node.pid().is_err() {
                    node.start()?;
                    node.connect().await?;
                }
            }
            large.check(&cluster, &table, &when).await?;
        }
    }
    Ok(())
}
