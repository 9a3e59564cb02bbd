//! SQL through the Service of a cluster, from outside the Kubernetes.
//!
//! The Service is of type NodePort, so that connections take the way that those of any client take:
//! kube-proxy of some machine leads each to one of the ready nodes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::bench::{eventually, runtime};

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Time between two rows of a writer: the point is what happens to rows, not how many there are.
const BETWEEN_ROWS: Duration = Duration::from_millis(10);

/// Where SQL is served.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// A connection, which ends with this.
struct Session {
    client: Client,
    connection: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Address {
    async fn connect(&self) -> Result<Session> {
        let target = format!(
            "host={} port={} user=root dbname=defaultdb connect_timeout=5 application_name=e2e",
            self.host, self.port
        );
        let (client, connection) = within(tokio_postgres::connect(&target, NoTls)).await?;
        // What ends the connection is seen by the statement that waits for it.
        let connection = runtime()?.spawn(async move { drop(connection.await) });
        Ok(Session { client, connection })
    }

    /// Runs statements that may be repeated, again and again until they succeed: the first column
    /// of the rows of the last one.
    pub(crate) fn repeat(&self, sql: &str) -> Result<Vec<String>> {
        eventually(&format!("`{sql}` on {self:?}"), || self.once(sql))
    }

    /// Runs statements once.
    pub(crate) fn once(&self, sql: &str) -> Result<Vec<String>> {
        runtime()?.block_on(async {
            let session = self.connect().await?;
            let answer = within(session.client.simple_query(sql)).await?;
            let rows = answer.iter().filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
                _ => None,
            });
            Ok(rows.collect())
        })
    }
}

async fn within<T>(work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T> {
    match tokio::time::timeout(ANSWER, work).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => bail!("no answer in {ANSWER:?}"),
    }
}

/// Inserts rows with rising numbers until it is stopped.
pub(crate) struct Writer {
    stop: Stop,
    count: Arc<AtomicU64>,
    task: JoinHandle<Written>,
    address: Address,
    table: &'static str,
}

/// Ends the writer, also when the test fails before it does.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What a writer knows of its rows.
#[derive(Debug, Default)]
struct Written {
    acknowledged: BTreeSet<i64>,
    /// The answer did not come: they may be there or not.
    unknown: BTreeSet<i64>,
    /// The longest time between two acknowledged rows.
    gap: Duration,
    last_error: Option<String>,
}

impl Writer {
    /// Makes the table and begins to write. The table has no primary key of its own, so that a row
    /// that was written twice shows.
    pub(crate) fn start(address: &Address, table: &'static str) -> Result<Writer> {
        address.repeat(&format!("DROP TABLE IF EXISTS {table}"))?;
        address.repeat(&format!("CREATE TABLE {table} (id INT)"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let work = write(address.clone(), table, Arc::clone(&stop), Arc::clone(&count));
        let task = runtime()?.spawn(work);
        Ok(Writer { stop: Stop(stop), count, task, address: address.clone(), table })
    }

    /// Waits until that many more rows were acknowledged than at this moment.
    pub(crate) fn goes_on(&self, rows: u64) -> Result<()> {
        let goal = self.count.load(Ordering::Acquire) + rows;
        eventually("rows are acknowledged", || {
            let count = self.count.load(Ordering::Acquire);
            ensure!(count >= goal, "{count} of {goal} rows");
            ensure!(!self.task.is_finished(), "the writer ended by itself");
            Ok(())
        })
    }

    /// Stops writing and compares the table with what was acknowledged. The longest time between
    /// two acknowledged rows.
    pub(crate) fn stop_and_check(self) -> Result<Duration> {
        drop(self.stop);
        let written = runtime()?.block_on(self.task).context("the writer")?;
        let rows = self.address.repeat(&format!("SELECT id FROM {}", self.table))?;
        let mut seen = BTreeSet::new();
        for row in rows {
            let id: i64 = row.parse().with_context(|| format!("a row is {row:?}"))?;
            ensure!(seen.insert(id), "row {id} is there twice");
        }
        let missing: Vec<_> = written.acknowledged.difference(&seen).take(10).collect();
        ensure!(
            missing.is_empty(),
            "acknowledged and missing: {missing:?} of {} rows, last error {:?}",
            written.acknowledged.len(),
            written.last_error
        );
        let known = |id: &&i64| !written.acknowledged.contains(id) && !written.unknown.contains(id);
        let invented: Vec<_> = seen.iter().filter(known).take(10).collect();
        ensure!(invented.is_empty(), "nobody wrote {invented:?}");
        Ok(written.gap)
    }
}

async fn write(
    address: Address,
    table: &'static str,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
) -> Written {
    let mut written = Written::default();
    let mut id = 0;
    let mut last = tokio::time::Instant::now();
    while !stop.load(Ordering::Acquire) {
        let session = match address.connect().await {
            Ok(session) => session,
            Err(error) => {
                written.last_error = Some(format!("{error:#}"));
                tokio::time::sleep(BETWEEN_ROWS).await;
                continue;
            }
        };
        while !stop.load(Ordering::Acquire) {
            id += 1;
            let sql = format!("INSERT INTO {table} (id) VALUES ({id})");
            match within(session.client.batch_execute(&sql)).await {
                Ok(()) => {
                    written.acknowledged.insert(id);
                    written.gap = written.gap.max(last.elapsed());
                    last = tokio::time::Instant::now();
                    count.fetch_add(1, Ordering::Release);
                }
                Err(error) => {
                    // The number is not used again.
                    written.unknown.insert(id);
                    written.last_error = Some(format!("{error:#}"));
                    break;
                }
            }
            tokio::time::sleep(BETWEEN_ROWS).await;
        }
    }
    written
}
