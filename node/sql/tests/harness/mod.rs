//! Gateways over one state in memory, with a clock that moves only when someone sleeps, and an
//! executor that interleaves tasks by a seed.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::print_stdout, reason = "what is drawn is to be known")]
#![expect(clippy::indexing_slicing, reason = "a test that is out of bounds should fail")]

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use crdb_keys::hlc::{Clock, ManualClock};
use crdb_keys::{NodeId, layout};
use crdb_kv::local::LocalSender;
use crdb_kv::{SendError, Sender, TxnClient, TxnClientConfig};
use crdb_liveness::LivenessRecord;
use crdb_proto::kv;
use crdb_proto::peer::SqlSession;
use crdb_sql::{
    CancelFlag, Datum, ExecResult, Limits, Session, SessionArgs, SessionPeers, Severity, SqlError,
    SqlNode, SqlNodeConfig, Target, Timer,
};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Either, select};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// 2024-01-01 00:00:00 UTC.
pub const START_NANOS: u64 = 1_704_067_200_000_000_000;
const VALIDITY: Duration = Duration::from_secs(6);
/// What a statement may hold, whatever else is drawn: scripts show what happens beyond.
const MEMORY_BYTES: usize = 8 << 20;

/// Several gateways over one state.
pub struct Cluster {
    pub nodes: Vec<Arc<SqlNode>>,
    /// A gateway that is down neither heartbeats nor adopts versions.
    pub down: Vec<AtomicBool>,
    pub local: Arc<LocalSender>,
    wall: Arc<ManualClock>,
    clock: Clock,
}

/// Ends once polled a second time, so that others get a turn.
pub struct Turn(bool);

pub fn turn() -> Turn {
    Turn(false)
}

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A sender that gives others a turn before and after each batch.
struct TurningSender(Arc<LocalSender>);

impl Sender for TurningSender {
    fn send(&self, batch: kv::BatchRequest) -> BoxFuture<'_, Result<kv::BatchResponse, SendError>> {
        async move {
            turn().await;
            let response = self.0.send(batch).await;
            turn().await;
            response
        }
        .boxed()
    }
}

/// Sleeping moves the clock and lets all gateways heartbeat.
struct TestTimer(OnceLock<Weak<Cluster>>);

impl Timer for TestTimer {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let cluster = self.0.get().and_then(Weak::upgrade);
        async move {
            turn().await;
            if let Some(cluster) = cluster {
                cluster.wall.advance(duration);
                cluster.heartbeat().await;
            }
            turn().await;
        }
        .boxed()
    }
}

/// The way of a gateway to the sessions of the others.
struct Peers {
    own: NodeId,
    cluster: Weak<Cluster>,
}

fn at(node: NodeId) -> usize {
    usize::try_from(node.get()).expect("few nodes") - 1
}

impl Peers {
    async fn ask<T>(&self, node: NodeId, what: impl Fn(&SqlNode) -> T) -> Result<T, String> {
        turn().await;
        let cluster = self.cluster.upgrade().ok_or("the test is over")?;
        if cluster.down[at(node)].load(Ordering::Relaxed) {
            return Err(format!("{node} is down"));
        }
        Ok(what(&cluster.nodes[at(node)]))
    }
}

impl SessionPeers for Peers {
    fn nodes(&self) -> Vec<NodeId> {
        let nodes = self.cluster.upgrade().map_or(0, |cluster| cluster.nodes.len());
        let all = (1..).map(NodeId).take(nodes);
        all.filter(|node| *node != self.own).collect()
    }

    fn sessions(&self, node: NodeId) -> BoxFuture<'_, Result<Vec<SqlSession>, String>> {
        self.ask(node, SqlNode::sessions).boxed()
    }

    fn cancel(&self, node: NodeId, target: Target) -> BoxFuture<'_, Result<bool, String>> {
        self.ask(node, move |sql| sql.cancel(target)).boxed()
    }
}

impl Cluster {
    pub fn new(gateways: u32) -> Arc<Self> {
        Self::over(gateways, |local| Arc::new(TurningSender(local)))
    }

    /// Gateways with bounds as in other tests for most seeds, and for some with such as they draw:
    /// but the node runs statements again as often as it does elsewhere.
    pub fn of_seed(gateways: u32, seed: u64) -> Arc<Self> {
        if seed % 4 != 1 {
            return Self::new(gateways);
        }
        let Limits { retries, log_steps, log_bytes, .. } = Limits::default();
        let drawn = |limits| Limits { retries, log_steps, log_bytes, ..limits };
        Self::changed(gateways, seed, drawn)
    }

    /// Gateways whose bounds are drawn by a seed.
    pub fn drawn(gateways: u32, seed: u64) -> Arc<Self> {
        Self::changed(gateways, seed, |limits| limits)
    }

    fn changed(gateways: u32, seed: u64, change: impl Fn(Limits) -> Limits) -> Arc<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut below = |below: u64| rng.random_range(0..below);
        let drawn = change(Limits::draw(&mut below));
        let limits = Limits { memory_bytes: MEMORY_BYTES, ..drawn };
        let kv_limits = crdb_kv::Limits::draw(&mut below);
        println!("seed {seed}: sql {}, kv {}", limits.changed(), kv_limits.changed());
        Self::with(gateways, (limits, kv_limits), |local| Arc::new(TurningSender(local)))
    }

    /// Gateways that reach the state by a sender of the test's own.
    pub fn over(gateways: u32, sender: impl Fn(Arc<LocalSender>) -> Arc<dyn Sender>) -> Arc<Self> {
        let limits = Limits { memory_bytes: MEMORY_BYTES, scan_rows: 500, ..Limits::default() };
        Self::with(gateways, (limits, crdb_kv::Limits::default()), sender)
    }

    /// Gateways with bounds of the test's own.
    pub fn with(
        gateways: u32,
        (limits, kv_limits): (Limits, crdb_kv::Limits),
        sender: impl Fn(Arc<LocalSender>) -> Arc<dyn Sender>,
    ) -> Arc<Self> {
        let wall = Arc::new(ManualClock::new(START_NANOS));
        let clock = Clock::new(Arc::clone(&wall) as _, Duration::from_millis(500));
        let local = Arc::new(LocalSender::new(clock.clone()));
        let timer = Arc::new(TestTimer(OnceLock::new()));
        for (key, value) in crdb_sql::catalog::bootstrap() {
            put(&local, key, value);
        }
        put(&local, layout::range_id_counter(), Bytes::from_static(b"4"));
        let client = |id: u32| {
            TxnClient::new(TxnClientConfig {
                sender: sender(Arc::clone(&local)),
                clock: clock.clone(),
                node_id: NodeId(id),
                seed: u128::from(id),
                limits: kv_limits,
            })
        };
        let nodes = (1..=gateways)
            .map(|id| {
                SqlNode::new(SqlNodeConfig {
                    node_id: NodeId(id),
                    cluster_id: "00000000-0000-4000-8000-000000000001".to_owned(),
                    txns: client(id),
                    timer: Arc::clone(&timer) as _,
                    seed: u64::from(id),
                    build_tag: "v0.1.0".to_owned(),
                    limits,
                    settings: Arc::default(),
                })
            })
            .collect();
        let down = (0..gateways).map(|_| AtomicBool::new(false)).collect();
        let cluster = Arc::new(Self { nodes, down, local, wall, clock });
        timer.0.set(Arc::downgrade(&cluster)).expect("the timer is set once");
        for node in 1..=gateways {
            let peers = Peers { own: NodeId(node), cluster: Arc::downgrade(&cluster) };
            cluster.nodes[at(NodeId(node))].connect_peers(Arc::new(peers));
        }
        block_on(cluster.heartbeat());
        cluster
    }

    /// Every gateway that is up adopts the catalog and renews its liveness record.
    pub async fn heartbeat(&self) {
        for at in 0..self.nodes.len() {
            self.heartbeat_of(at).await;
        }
    }

    async fn heartbeat_of(&self, at: usize) {
        if self.down[at].load(Ordering::Relaxed) {
            return;
        }
        let node = &self.nodes[at];
        node.catalog().adopt_latest().await.expect("the catalog can be read");
        let validity = u64::try_from(VALIDITY.as_nanos()).expect("it is short");
        let record = LivenessRecord {
            node: NodeId(u32::try_from(at + 1).expect("few nodes")),
            epoch: 1,
            expiration: self.clock.now().add_nanos(validity),
            min_catalog_version_in_use: node.catalog().min_version_in_use(),
            ..LivenessRecord::default()
        };
        put(&self.local, layout::liveness_key(record.node), record.encode());
        node.set_liveness_expiration(record.expiration);
    }

    pub fn advance(&self, by: Duration) {
        self.wall.advance(by);
    }

    pub fn session(&self, gateway: usize) -> Session {
        let args = SessionArgs { user: "root".to_owned(), ..SessionArgs::default() };
        Session::new(Arc::clone(&self.nodes[gateway]), args).expect("a session starts")
    }
}

fn put(local: &LocalSender, key: Bytes, value: Bytes) {
    let put = kv::PutRequest { key, value };
    let request = kv::Request { kind: Some(kv::request::Kind::Put(put)) };
    local
        .execute(&kv::BatchRequest { header: None, requests: vec![request] })
        .expect("a put into memory");
}

/// Runs one future.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
    }
}

/// Runs tasks to their end, each step of a task chosen by the seed.
pub fn interleave(seed: u64, mut tasks: Vec<BoxFuture<'_, ()>>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cx = Context::from_waker(Waker::noop());
    while !tasks.is_empty() {
        let at = rng.random_range(0..tasks.len());
        if tasks[at].as_mut().poll(&mut cx).is_ready() {
            drop(tasks.swap_remove(at));
        }
    }
}

/// Runs one statement.
pub async fn run(session: &mut Session, sql: &str) -> Result<ExecResult, SqlError> {
    let mut parsed = match crdb_sqlfront::parse(sql) {
        Ok(parsed) => parsed,
        Err(error) => {
            session.fail().await;
            return Err(SqlError::new(crdb_sql::SqlState(error.kind.sqlstate()), error.message));
        }
    };
    assert_eq!(parsed.len(), 1, "one statement at a time: {sql}");
    let (flag, write) = (session.cancel_flag(), session.write_flag());
    flag.reset();
    let ended = {
        let statement = async {
            let prepared = session.prepare(&Arc::new(parsed.remove(0)), &[]).await?;
            session.execute(&Arc::new(prepared), &[], &flag, true).await
        };
        let cancelled = std::pin::pin!(flag.cancelled());
        match select(std::pin::pin!(statement), cancelled).await {
            Either::Left((result, _)) => Some(result),
            // A write on its way decides by itself how the statement ends.
            Either::Right(((), statement)) if write.in_flight() => Some(statement.await),
            Either::Right(((), _)) => None,
        }
    };
    match ended {
        Some(result) => result,
        None => {
            session.fail().await;
            Err(flag.error())
        }
    }
}

/// Runs one statement with parameters given as text.
pub async fn run_params(
    session: &mut Session,
    sql: &str,
    params: &[Option<&str>],
) -> Result<ExecResult, SqlError> {
    let mut parsed = crdb_sqlfront::parse(sql)
        .map_err(|error| SqlError::new(crdb_sql::SqlState(error.kind.sqlstate()), error.message))?;
    let prepared = session.prepare(&Arc::new(parsed.remove(0)), &[]).await?;
    let format = session.format_settings().clone();
    let mut values = Vec::new();
    for (param, ty) in params.iter().zip(&prepared.param_types) {
        values.push(match param {
            None => Datum::Null,
            Some(text) => Datum::decode_text(*ty, text, &format)?,
        });
    }
    session.execute(&Arc::new(prepared), &values, &CancelFlag::new(), true).await
}

/// A result as text.
pub fn show(session: &Session, result: &Result<ExecResult, SqlError>) -> String {
    let mut out = String::new();
    match result {
        Err(error) => {
            out.push_str(&format!("ERROR {}: {}\n", error.code, error.message));
            let fields = error.fields();
            for (name, value) in [
                ("DETAIL", fields.detail),
                ("HINT", fields.hint),
                ("CONSTRAINT", fields.constraint),
            ] {
                if let Some(value) = value {
                    out.push_str(&format!("{name}: {value}\n"));
                }
            }
        }
        Ok(result) => {
            for notice in &result.notices {
                let severity = match notice.severity {
                    Severity::Notice => "NOTICE",
                    Severity::Warning => "WARNING",
                };
                out.push_str(&format!("{severity}: {}\n", notice.message));
            }
            if let Some(columns) = &result.columns {
                let header: Vec<String> =
                    columns.iter().map(|c| format!("{}:{}", c.name, c.ty.pg_name())).collect();
                out.push_str(&format!("{}\n", header.join(" | ")));
                for row in &result.rows {
                    let values: Vec<String> = row
                        .iter()
                        .zip(columns.iter())
                        .map(|(v, c)| {
                            if v.is_null() {
                                "NULL".to_owned()
                            } else {
                                v.to_text(c.ty, session.format_settings())
                            }
                        })
                        .collect();
                    out.push_str(&format!("{}\n", values.join(" | ")));
                }
            }
            for (name, value) in &result.parameters {
                out.push_str(&format!("PARAMETER {name} = {value}\n"));
            }
            out.push_str(&format!("{}\n", result.tag));
        }
    }
    out
}
