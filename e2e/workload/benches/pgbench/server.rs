//! The two systems, alike: ports, processes, tables.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use crdb_workload::postgres::{self, Postgres};
use crdb_workload::process::TestCluster;
use crdb_workload::session::Isolation;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Clock ticks of `/proc` in a second on Linux.
const TICKS_PER_S: u64 = 100;
/// Rows that are inserted by one statement.
const BATCH: u32 = 1_000;

/// Where clients go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// All to the first node, which has the leases, or the primary.
    First,
    /// Evenly to all nodes.
    Spread,
}

/// A running system.
pub(crate) enum Servers {
    Crdb(TestCluster),
    Postgres(Postgres),
}

impl Servers {
    pub(crate) async fn crdb() -> Result<Servers> {
        let cluster = TestCluster::start(3).await?;
        cluster.wait_replicated(3).await?;
        Ok(Servers::Crdb(cluster))
    }

    pub(crate) async fn postgres() -> Result<Servers> {
        Ok(Servers::Postgres(Postgres::start(2).await?))
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Servers::Crdb(_) => "crdb",
            Servers::Postgres(_) => "PostgreSQL",
        }
    }

    pub(crate) fn ports(&self, place: Place) -> Vec<u16> {
        match self {
            Servers::Crdb(cluster) => {
                let nodes = if place == Place::First { 1 } else { cluster.nodes.len() };
                cluster.nodes.iter().take(nodes).map(|node| node.port).collect()
            }
            Servers::Postgres(postgres) => vec![postgres.port()],
        }
    }

    /// User and database.
    pub(crate) fn login(&self) -> (&'static str, &'static str) {
        match self {
            Servers::Crdb(_) => ("root", "defaultdb"),
            Servers::Postgres(_) => ("postgres", "postgres"),
        }
    }

    pub(crate) fn cluster(&self) -> Option<&TestCluster> {
        match self {
            Servers::Crdb(cluster) => Some(cluster),
            Servers::Postgres(_) => None,
        }
    }

    pub(crate) async fn connect(&self, port: u16) -> Result<(Client, JoinSet<()>)> {
        let login = match self {
            Servers::Crdb(_) => crdb_workload::cluster::LOGIN.to_owned(),
            Servers::Postgres(_) => postgres::login(Isolation::ReadCommitted),
        };
        let target = format!("host=127.0.0.1 port={port} {login}");
        let (client, connection) = tokio_postgres::connect(&target, NoTls).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        Ok((client, tasks))
    }

    async fn first(&self) -> Result<(Client, JoinSet<()>)> {
        self.connect(self.ports(Place::First).first().copied().context("no port")?).await
    }

    /// Makes the tables of `pgbench -i`, by statements that both systems take.
    pub(crate) async fn fill(&self, scale: u32) -> Result<()> {
        let (client, _tasks) = self.first().await?;
        for sql in [
            "CREATE TABLE pgbench_branches (bid INT4 PRIMARY KEY, bbalance INT4, filler CHAR(88))",
            "CREATE TABLE pgbench_tellers \
             (tid INT4 PRIMARY KEY, bid INT4, tbalance INT4, filler CHAR(84))",
            "CREATE TABLE pgbench_accounts \
             (aid INT4 PRIMARY KEY, bid INT4, abalance INT4, filler CHAR(84))",
            "CREATE TABLE pgbench_history \
             (tid INT4, bid INT4, aid INT4, delta INT4, mtime TIMESTAMP, filler CHAR(22))",
        ] {
            client.batch_execute(sql).await.context(sql)?;
        }
        let series = |table: &str, columns: &str, values: &str, from: u32, to: u32| {
            format!(
                "INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series({from}, {to}) AS s(g)"
            )
        };
        let branches = series("pgbench_branches", "bid, bbalance", "g, 0", 1, scale);
        client.batch_execute(&branches).await.context("branches")?;
        for bid in 1..=scale {
            let (values, columns) = (format!("g, {bid}, 0"), "tid, bid, tbalance");
            let sql = series("pgbench_tellers", columns, &values, bid * 10 - 9, bid * 10);
            client.batch_execute(&sql).await.context("tellers")?;
        }
        for first in (1..=scale * 100_000).step_by(BATCH as usize) {
            let bid = (first - 1) / 100_000 + 1;
            let values = format!("g, {bid}, 0, ''");
            let columns = "aid, bid, abalance, filler";
            let accounts = series("pgbench_accounts", columns, &values, first, first + BATCH - 1);
            client
                .batch_execute(&accounts)
                .await
                .with_context(|| format!("accounts from {first}"))?;
        }
        if let Servers::Postgres(_) = self {
            client.batch_execute("VACUUM ANALYZE").await?;
            client.batch_execute("CHECKPOINT").await?;
        }
        Ok(())
    }

    /// Moves the leases of all tables to the first node.
    pub(crate) async fn gather_leases(&self) -> Result<()> {
        let Some(cluster) = self.cluster() else { return Ok(()) };
        let node = cluster.nodes.first().context("no nodes")?;
        let status = node.status().await?;
        let own = format!(":{}", node.port);
        let ids = status.nodes.iter().filter_map(|row| row.descriptor.as_ref());
        let id = ids.filter(|d| d.address.ends_with(&own)).map(|d| d.node_id).next();
        let id = id.context("the first node is not in the status")?;
        let (client, _tasks) = self.first().await?;
        for table in ["branches", "tellers", "accounts", "history"] {
            let sql = format!("SHOW RANGES FROM TABLE pgbench_{table}");
            let mut ranges = Vec::new();
            for message in client.simple_query(&sql).await.context("SHOW RANGES")? {
                if let SimpleQueryMessage::Row(row) = message {
                    ranges.push(row.get("range_id").context("no range_id")?.to_owned());
                }
            }
            ensure!(!ranges.is_empty(), "{table} has no range");
            for range in ranges {
                let sql = format!("ALTER RANGE {range} RELOCATE LEASE TO {id}");
                client.batch_execute(&sql).await.context(sql)?;
            }
        }
        Ok(())
    }

    /// Processor time that the servers used so far, user and system, ended children included.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let roots = match self {
            Servers::Crdb(cluster) => {
                cluster.nodes.iter().map(|node| node.pid()).collect::<Result<Vec<u32>>>()?
            }
            Servers::Postgres(postgres) => postgres.pids(),
        };
        let mut ticks = 0;
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            // The second field is a name in parentheses that may hold spaces.
            let (_, rest) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
            let fields: Vec<&str> = rest.split_whitespace().collect();
            let field = |n: usize| fields.get(n).and_then(|field| field.parse::<u64>().ok());
            let parent = field(1).unwrap_or(0);
            let own = field(11).unwrap_or(0) + field(12).unwrap_or(0);
            if roots.contains(&pid) {
                // Children that have ended are in the parent's sum.
                ticks += own + field(13).unwrap_or(0) + field(14).unwrap_or(0);
            } else if roots.iter().any(|root| u64::from(*root) == parent) {
                ticks += own;
            }
        }
        Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_S))
    }
}
