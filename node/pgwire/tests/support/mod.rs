//! A node's SQL over one state in memory, and a server for its clients.

#![allow(clippy::print_stdout, reason = "what is drawn is to be known")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crdb_keys::hlc::{Clock, ManualClock};
use crdb_keys::{NodeId, layout};
use crdb_kv::local::LocalSender;
use crdb_kv::{SendError, Sender, TxnClient, TxnClientConfig};
use crdb_liveness::LivenessRecord;
use crdb_pgwire::{Config, PgServer};
use crdb_proto::kv;
use crdb_sql::{Limits, SqlNode, SqlNodeConfig, Timer};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// 2024-01-01 00:00:00 UTC.
const START_NANOS: u64 = 1_704_067_200_000_000_000;
const VALIDITY: Duration = Duration::from_secs(6);

/// A node in memory.
pub struct Node {
    pub sql: Arc<SqlNode>,
    pub server: Arc<PgServer>,
    pub gate: Arc<Gate>,
    clock: Clock,
}

/// A sender whose batches can be held up.
pub struct Gate {
    local: LocalSender,
    open: Semaphore,
    pub waiting: std::sync::atomic::AtomicUsize,
    /// Batches that passed.
    pub sent: std::sync::atomic::AtomicUsize,
}

impl Gate {
    /// Lets no batch pass until [`Gate::open`].
    pub async fn close(&self) {
        let all = u32::try_from(Semaphore::MAX_PERMITS >> 3).unwrap_or(u32::MAX);
        self.open.acquire_many(all).await.expect("never closed").forget();
    }

    pub fn open(&self) {
        self.open.add_permits(usize::try_from(u32::MAX).expect("64 bits"));
    }

    /// Waits until a batch is held up.
    pub async fn held(&self) {
        while self.waiting.load(std::sync::atomic::Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    }
}

impl Sender for Gate {
    fn send(&self, batch: kv::BatchRequest) -> BoxFuture<'_, Result<kv::BatchResponse, SendError>> {
        async move {
            self.waiting.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let waiting = Waiting(self);
            let permit = self.open.acquire().await.expect("never closed");
            drop(waiting);
            self.sent.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let response = self.local.send(batch).await;
            drop(permit);
            response
        }
        .boxed()
    }
}

struct Waiting<'a>(&'a Gate);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
    }
}

/// Sleeping heartbeats, so that schema changes see their version adopted.
struct TestTimer(OnceLock<(Weak<SqlNode>, Weak<Gate>, Clock)>);

impl Timer for TestTimer {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let parts =
            self.0.get().map(|(sql, gate, clock)| (sql.upgrade(), gate.upgrade(), clock.clone()));
        async move {
            tokio::time::sleep(duration).await;
            if let Some((Some(sql), Some(gate), clock)) = parts {
                heartbeat(&sql, &gate, &clock).await;
            }
        }
        .boxed()
    }
}

async fn heartbeat(sql: &SqlNode, gate: &Gate, clock: &Clock) {
    sql.catalog().adopt_latest().await.expect("the catalog can be read");
    let record = LivenessRecord {
        node: NodeId(1),
        epoch: 1,
        expiration: clock.now().add_nanos(u64::try_from(VALIDITY.as_nanos()).expect("short")),
        min_catalog_version_in_use: sql.catalog().min_version_in_use(),
        ..LivenessRecord::default()
    };
    put(&gate.local, layout::liveness_key(record.node), record.encode());
    sql.set_liveness_expiration(record.expiration);
}

fn put(local: &LocalSender, key: bytes::Bytes, value: bytes::Bytes) {
    let put = kv::PutRequest { key, value };
    let request = kv::Request { kind: Some(kv::request::Kind::Put(put)) };
    let batch = kv::BatchRequest { header: None, requests: vec![request] };
    local.execute(&batch).expect("a put into memory");
}

/// Bounds of a connection drawn at random, which is printed; `CRDB_SEED` repeats a draw.
pub fn drawn() -> Config {
    let seed = std::env::var("CRDB_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    let mut rng = StdRng::seed_from_u64(seed);
    let config = Config::draw(&mut |below| rng.random_range(0..below));
    println!("seed {seed}: pgwire {}", config.changed());
    config
}

/// Starts a node in memory.
pub async fn node(config: Config) -> Node {
    let wall = Arc::new(ManualClock::new(START_NANOS));
    let clock = Clock::new(wall as _, Duration::from_millis(500));
    let gate = Arc::new(Gate {
        local: LocalSender::new(clock.clone()),
        open: Semaphore::new(usize::try_from(u32::MAX).expect("64 bits")),
        waiting: std::sync::atomic::AtomicUsize::new(0),
        sent: std::sync::atomic::AtomicUsize::new(0),
    });
    for (key, value) in crdb_sql::catalog::bootstrap() {
        put(&gate.local, key, value);
    }
    let timer = Arc::new(TestTimer(OnceLock::new()));
    let sql = SqlNode::new(SqlNodeConfig {
        node_id: NodeId(1),
        cluster_id: "00000000-0000-4000-8000-000000000001".to_owned(),
        txns: TxnClient::new(TxnClientConfig {
            sender: Arc::clone(&gate) as _,
            clock: clock.clone(),
            node_id: NodeId(1),
            seed: 1,
            limits: crdb_kv::Limits::default(),
        }),
        timer: Arc::clone(&timer) as _,
        seed: 1,
        build_tag: "v0.1.0".to_owned(),
        limits: Limits::default(),
        settings: Arc::default(),
    });
    let parts = (Arc::downgrade(&sql), Arc::downgrade(&gate), clock.clone());
    assert!(timer.0.set(parts).is_ok(), "the timer is set once");
    heartbeat(&sql, &gate, &clock).await;
    let server = PgServer::new(Arc::clone(&sql), 1, 7, config);
    Node { sql, server, gate, clock }
}

impl Node {
    /// Serves on a free port of the loopback address; returns the port.
    pub async fn listen(&self) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let server = Arc::clone(&self.server);
        let tasks = tokio_util::task::TaskTracker::new();
        tasks.clone().spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let server = Arc::clone(&server);
                tasks.spawn(async move { server.serve(stream, &peer.to_string()).await });
            }
        });
        port
    }
}

/// Connects to a port of this machine.
pub async fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens")
}

/// A startup packet.
pub fn startup(version: u32, params: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in params {
        for text in [name, value] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    let mut packet = u32::try_from(body.len() + 4).expect("short").to_be_bytes().to_vec();
    packet.extend_from_slice(&body);
    packet
}

/// A message with a type.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend_from_slice(&u32::try_from(body.len() + 4).expect("short").to_be_bytes());
    message.extend_from_slice(body);
    message
}

/// Protocol 3.0.
pub const V3: u32 = 3 << 16;
