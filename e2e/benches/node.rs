//! Figures of three real nodes on this machine: what a statement costs the servers and how long the
//! cluster is silent after a kill. `cargo xtask bench` builds optimised programs and runs this.
//!
//! It asserts nothing about time: it prints a table for people. Load comes from this process, whose
//! own processor time is not counted; servers and clients share the machine's processors, so the
//! rates say less than the CPU-µs per statement.
#![expect(clippy::print_stdout, reason = "the report is the purpose of this program")]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::{Client, Statement};

use crdb_workload::process::{Node, TestCluster, connect};

/// How long each load runs, after a quarter of it to warm up.
const LOAD_S: u64 = 12;
/// Clients at once.
const CLIENTS: [usize; 3] = [1, 64, 256];
/// How many rows point reads choose from.
const ROWS: i64 = 10_000;
/// Bytes of a row's value, as in etcd's benchmark.
const VALUE_BYTES: usize = 256;
/// Clock ticks of `/proc` in a second on Linux.
const TICKS_PER_S: u64 = 100;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let mut cluster = TestCluster::start(3).await?;
    cluster.wait_replicated(3).await?;
    idle(&cluster).await?;
    let one = cluster.node(1)?.connect().await?;
    one.batch_execute("CREATE TABLE kv (k INT PRIMARY KEY, v BYTES)").await?;
    let preload = format!(
        "INSERT INTO kv SELECT g, repeat('x', {VALUE_BYTES})::BYTES FROM generate_series(0, {}) g",
        ROWS - 1
    );
    one.batch_execute(&preload).await.context("preload")?;
    println!(
        "{:<24} {:>7} {:>9} {:>8} {:>8} {:>12}",
        "load", "clients", "per s", "p50 ms", "p99 ms", "CPU-us per op"
    );
    let next = Arc::new(AtomicI64::new(ROWS));
    for clients in CLIENTS {
        load(&cluster, Kind::Insert, clients, &next).await?;
    }
    for clients in CLIENTS {
        load(&cluster, Kind::PointRead, clients, &next).await?;
    }
    restart(&mut cluster).await?;
    for round in 1..=5 {
        gap(&mut cluster, round).await?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Insert,
    PointRead,
}

/// Processor time and resident memory of the nodes while nobody asks anything.
async fn idle(cluster: &TestCluster) -> Result<()> {
    let before = cpu(&cluster.nodes)?;
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let used = cpu(&cluster.nodes)? - before;
    let per_node = used.as_secs_f64() / began.elapsed().as_secs_f64() / 3.0;
    println!("idle: {:.2} % of a processor for each node", per_node * 100.0);
    for node in &cluster.nodes {
        println!("idle: node at {} holds {} MiB", node.address(), resident_mib(node)?);
    }
    Ok(())
}

/// Runs one load and prints its line.
async fn load(
    cluster: &TestCluster,
    kind: Kind,
    clients: usize,
    next: &Arc<AtomicI64>,
) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let counting = Arc::new(AtomicBool::new(false));
    let mut workers = JoinSet::new();
    for n in 0..clients {
        let node = cluster.nodes.get(n % cluster.nodes.len()).context("a node")?;
        let client = connect(node.port).await?;
        let (stop, counting, next) = (Arc::clone(&stop), Arc::clone(&counting), Arc::clone(next));
        workers.spawn(work(client, kind, stop, counting, next));
    }
    tokio::time::sleep(Duration::from_secs(LOAD_S / 4)).await;
    let before = cpu(&cluster.nodes)?;
    let began = Instant::now();
    counting.store(true, Ordering::Release);
    tokio::time::sleep(Duration::from_secs(LOAD_S)).await;
    counting.store(false, Ordering::Release);
    let (took, used) = (began.elapsed(), cpu(&cluster.nodes)? - before);
    stop.store(true, Ordering::Release);
    let mut latencies: Vec<Duration> = Vec::new();
    while let Some(done) = workers.join_next().await {
        latencies.extend(done??);
    }
    ensure!(!latencies.is_empty(), "no statement ended");
    latencies.sort_unstable();
    let count = latencies.len();
    let at = |percent: usize| {
        let latency = latencies.get((count - 1) * percent / 100).copied().unwrap_or_default();
        latency.as_secs_f64() * 1000.0
    };
    println!(
        "{:<24} {clients:>7} {:>9.0} {:>8.2} {:>8.2} {:>12.0}",
        format!("{kind:?}, prepared"),
        count as f64 / took.as_secs_f64(),
        at(50),
        at(99),
        used.as_secs_f64() * 1e6 / count as f64
    );
    Ok(())
}

/// One client; returns how long each statement took that ended while it counted.
async fn work(
    client: Client,
    kind: Kind,
    stop: Arc<AtomicBool>,
    counting: Arc<AtomicBool>,
    next: Arc<AtomicI64>,
) -> Result<Vec<Duration>> {
    let statement = client
        .prepare(match kind {
            Kind::Insert => "INSERT INTO kv VALUES ($1, $2)",
            Kind::PointRead => "SELECT v FROM kv WHERE k = $1",
        })
        .await?;
    let mut latencies = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let began = Instant::now();
        one(&client, &statement, kind, &next).await?;
        if counting.load(Ordering::Acquire) {
            latencies.push(began.elapsed());
        }
    }
    Ok(latencies)
}

async fn one(client: &Client, statement: &Statement, kind: Kind, next: &AtomicI64) -> Result<()> {
    let n = next.fetch_add(1, Ordering::Relaxed);
    match kind {
        Kind::Insert => {
            let value = vec![b'x'; VALUE_BYTES];
            client.execute(statement, &[&n, &value]).await?;
        }
        Kind::PointRead => {
            // A stride that is prime to the number of rows visits all of them.
            let key = n.wrapping_mul(7919).rem_euclid(ROWS);
            client.query_one(statement, &[&key]).await?;
        }
    }
    Ok(())
}

/// From the start of the process to the first answered statement, for a node that was stopped.
async fn restart(cluster: &mut TestCluster) -> Result<()> {
    let node = cluster.node(2)?;
    node.kill();
    let began = Instant::now();
    node.start()?;
    node.connect().await?.simple_query("SELECT count(*) FROM kv WHERE k = 1").await?;
    println!("restart of a node: {:.2} s until it answers", began.elapsed().as_secs_f64());
    cluster.wait_replicated(3).await
}

/// From `kill -9` of the node with the most leases to the next acknowledged write elsewhere.
async fn gap(cluster: &mut TestCluster, round: u32) -> Result<()> {
    let status = cluster.node(1)?.status().await?;
    let most = status.nodes.iter().max_by_key(|node| node.leases).context("no nodes")?;
    let victim = most.descriptor.as_ref().context("a row has no descriptor")?.node_id;
    let victim = usize::try_from(victim)?;
    let other = cluster.node(victim % 3 + 1)?.connect().await?;
    cluster.node(victim)?.kill();
    let killed = Instant::now();
    let mut attempts = 0;
    while let Err(error) = other.batch_execute("UPSERT INTO kv VALUES (0, 'y')").await {
        attempts += 1;
        ensure!(killed.elapsed() < Duration::from_secs(60), "no write for a minute: {error}");
    }
    let gap = killed.elapsed().as_secs_f64();
    println!("kill -9 {round}: next write after {gap:.2} s, {attempts} failed before");
    cluster.node(victim)?.start()?;
    cluster.node(victim)?.connect().await?;
    cluster.wait_replicated(3).await
}

/// Processor time that the nodes used so far, user and system.
fn cpu(nodes: &[Node]) -> Result<Duration> {
    let mut ticks = 0;
    for node in nodes {
        let stat = fs::read_to_string(format!("/proc/{}/stat", node.pid()?))?;
        // Fields 14 and 15; the second is a name in parentheses that may hold spaces.
        let (_, rest) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
        for field in rest.split_whitespace().skip(11).take(2) {
            ticks += field.parse::<u64>()?;
        }
    }
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_S))
}

fn resident_mib(node: &Node) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}
