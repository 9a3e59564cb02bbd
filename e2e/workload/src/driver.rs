//! Runs a workload: clients that call in turn, faults beside them, reads at every node in the end.
//!
//! ```text
//! clients   ──call──call──call──┐
//! nemesis   ────fault────heal───┴─> all healed ─> last reads at every node ─> checker
//! ```
//!
//! Invariants:
//! 1. Nothing is tried again, but the last reads, each attempt of which is a call of its own.
//! 2. After a call of unknown outcome the client goes on as a new process, on a new connection.
//! 3. A run in which too few calls succeeded, of any kind that the workload has, or no fault took
//!    effect, is no evidence: it is reported as unknown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::history::{Call, Order, Outcome};
use crate::report::kind;
use crate::session::{Failure, Isolation, Session, Style};
use crate::workload::Workload;

/// How long the last reads are tried for, at each node.
const PATIENCE: Duration = Duration::from_secs(90);
/// A client that cannot connect waits so long.
const RECONNECT: Duration = Duration::from_millis(100);
/// So many attempts of a setup statement.
const SETUP_ATTEMPTS: u32 = 60;

/// Where the nodes answer SQL, and how clients behave.
#[derive(Clone, Debug)]
pub struct Clients {
    /// The SQL port of each node.
    pub ports: Vec<u16>,
    /// User and database, as of a connection string.
    pub login: String,
    /// How many clients call at once; each stays with its node.
    pub count: usize,
    /// After so long a call is given up.
    pub call_timeout: Duration,
    /// The level that transactions ask for.
    pub isolation: Isolation,
    /// Where all randomness comes from.
    pub seed: u64,
}

impl Clients {
    async fn connect(&self, node: usize, style: Style) -> Result<Session, Failure> {
        let port = self.ports.get(node).copied().unwrap_or_default();
        Session::connect(&self.login, port, style, self.isolation).await
    }

    /// Runs statements at the first node, each until it succeeds: a new cluster may need a moment.
    ///
    /// # Errors
    ///
    /// One does not succeed in the end.
    pub async fn set_up(&self, statements: &[String]) -> Result<()> {
        for sql in statements {
            let mut attempts = 0;
            while let Err(failure) = self.once(sql).await {
                attempts += 1;
                if attempts == SETUP_ATTEMPTS {
                    return Err(failure).with_context(|| sql.clone());
                }
                tokio::time::sleep(RECONNECT * 5).await;
            }
        }
        Ok(())
    }

    async fn once(&self, sql: &str) -> Result<(), Failure> {
        let mut session = self.connect(0, Style::Simple).await?;
        // One that was made although its answer was lost is no failure.
        match timeout(Duration::from_secs(30), session.execute(sql, &[])).await {
            Ok(Err(Failure::Fail(why))) if why.starts_with("42P07") || why.starts_with("23505") => {
                Ok(())
            }
            Ok(outcome) => outcome.map(drop),
            Err(_) => Err(session.interrupted("no answer in 30 s")),
        }
    }
}

/// What all clients of a run share.
#[derive(Debug)]
pub struct Shared<W> {
    /// The workload.
    pub workload: W,
    /// The clients' ways.
    pub clients: Clients,
    /// Numbers and times.
    pub order: Order,
    stop: AtomicBool,
    processes: AtomicU64,
    succeeded: AtomicU64,
    /// The kinds of calls that were made, and whether any of a kind succeeded.
    kinds: Mutex<BTreeMap<String, bool>>,
}

impl<W: Workload> Shared<W> {
    /// For one run.
    #[must_use]
    pub fn new(workload: W, clients: Clients) -> Arc<Self> {
        Arc::new(Shared {
            workload,
            clients,
            order: Order::default(),
            stop: AtomicBool::new(false),
            processes: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            kinds: Mutex::default(),
        })
    }

    /// Makes the tables and what has to be in them.
    ///
    /// # Errors
    ///
    /// The database refuses.
    pub async fn set_up(&self) -> Result<()> {
        let tables = self.workload.tables();
        let create = |table: &crate::workload::Table| {
            format!("CREATE TABLE {} ({})", table.name, table.columns)
        };
        let mut statements: Vec<String> = tables.iter().map(create).collect();
        statements.extend(self.workload.preload());
        self.clients.set_up(&statements).await
    }

    /// How many calls succeeded so far.
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed)
    }

    /// Whether so many calls succeeded, and of each kind that was made at least one.
    pub fn shows_enough(&self, least: u64) -> bool {
        self.succeeded() >= least && self.kinds.lock().values().all(|ok| *ok)
    }

    /// Starts the clients. They call until [`Self::stop`], or until so many calls were made.
    pub fn start(self: &Arc<Self>, most: u64) -> JoinSet<Vec<Call<W::Op>>> {
        let mut clients = JoinSet::new();
        for n in 0..self.clients.count {
            let shared = Arc::clone(self);
            clients.spawn(async move { shared.client(n, most).await });
        }
        clients
    }

    /// Lets the clients end after the calls they are in.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    fn process(&self) -> u64 {
        self.processes.fetch_add(1, Ordering::Relaxed)
    }

    async fn client(&self, n: usize, most: u64) -> Vec<Call<W::Op>> {
        let mut rng = StdRng::seed_from_u64(self.clients.seed.wrapping_add(n as u64 + 1));
        let node = n % self.clients.ports.len().max(1);
        let style = if rng.random_bool(0.5) { Style::Simple } else { Style::Prepared };
        let mut calls: Vec<Call<W::Op>> = Vec::new();
        let mut process = self.process();
        let mut session: Option<Session> = None;
        while !self.stop.load(Ordering::Acquire) && self.succeeded() < most {
            let open = match session.take() {
                Some(open) => open,
                // Nothing was asked yet, so there is nothing to record.
                None => match self.clients.connect(node, style).await {
                    Ok(open) => open,
                    Err(_) => {
                        tokio::time::sleep(RECONNECT).await;
                        continue;
                    }
                },
            };
            let op = self.workload.next(&mut rng);
            let (call, kept) = self.call(process, node, open, op).await;
            session = kept;
            if call.outcome == Outcome::Info {
                process = self.process();
            }
            calls.push(call);
        }
        calls
    }

    /// Makes one call; the session comes back if it can be used again.
    async fn call(
        &self,
        process: u64,
        node: usize,
        mut session: Session,
        asked: W::Op,
    ) -> (Call<W::Op>, Option<Session>) {
        let (invoked, invoked_at) = self.order.stamp();
        let perform = self.workload.perform(&mut session, asked.clone());
        let outcome = match timeout(self.clients.call_timeout, perform).await {
            Ok(outcome) => outcome,
            Err(_) => Err(session.interrupted("no answer in time")),
        };
        let (completed, completed_at) = self.order.stamp();
        let (outcome, op, error) = match outcome {
            Ok(op) => (Outcome::Ok, op, None),
            Err(Failure::Info(why)) if !W::is_read(&asked) => {
                (Outcome::Info, asked.clone(), Some(why))
            }
            Err(failure) => (Outcome::Fail, asked.clone(), Some(failure.to_string())),
        };
        *self.kinds.lock().entry(kind(&asked)).or_default() |= outcome == Outcome::Ok;
        if outcome == Outcome::Ok {
            self.succeeded.fetch_add(1, Ordering::Relaxed);
        }
        let times = (invoked_at, completed_at);
        let kept = if outcome == Outcome::Info { None } else { self.clean(session).await };
        let call = Call { process, node, invoked, completed, times, outcome, asked, op, error };
        (call, kept)
    }

    async fn clean(&self, mut session: Session) -> Option<Session> {
        if !session.is_clean() {
            timeout(self.clients.call_timeout, session.rollback()).await.ok()?.ok()?;
        }
        session.is_clean().then_some(session)
    }

    /// Reads everything through every node, each read until it succeeds.
    ///
    /// # Errors
    ///
    /// A node does not answer, long after all faults were healed.
    pub async fn last_reads(&self) -> Result<Vec<Call<W::Op>>> {
        let mut calls = Vec::new();
        for node in 0..self.clients.ports.len() {
            let process = self.process();
            let style = if node % 2 == 0 { Style::Simple } else { Style::Prepared };
            let mut session: Option<Session> = None;
            let deadline = Instant::now() + PATIENCE;
            for op in self.workload.last() {
                loop {
                    let open = match session.take() {
                        Some(open) => Ok(open),
                        None => self.clients.connect(node, style).await,
                    };
                    let why = match open {
                        Ok(open) => {
                            let (call, kept) = self.call(process, node, open, op.clone()).await;
                            session = kept;
                            let why = call.error.clone();
                            calls.push(call);
                            why
                        }
                        Err(failure) => Some(failure.to_string()),
                    };
                    let Some(why) = why else { break };
                    anyhow::ensure!(
                        Instant::now() < deadline,
                        "the last read at node {} fails for {PATIENCE:?}: {op:?}: {why}",
                        node + 1
                    );
                    tokio::time::sleep(RECONNECT).await;
                }
            }
        }
        Ok(calls)
    }
}
