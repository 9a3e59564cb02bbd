//! A node: from its data directory and its flags to a process that serves.
//!
//! ```text
//! start: lock store, bind listeners, serve RPC and HTTP   ── "listening"
//!   ├─ STORE names a cluster ─────────────────────────┐
//!   └─ formation: join, bootstrap, or wait for init ──┴▶ open store, transport, SQL
//!        ── first liveness record and catalog ──▶ "serving" ── drain ──▶ stopped
//! ```
//!
//! Invariants:
//! 1. The STORE file names the cluster before the node acts as its member.
//! 2. SQL is served only under a valid liveness record, and after each node of `--join` was asked
//!    for its cluster's id, or could not be reached.
//! 3. Every task runs on one tracker, ends with one token, and is waited for at the end.

mod clock_guard;
mod config;
mod drain;
mod formation_driver;
mod gc_loop;
mod gossip;
mod handler;
mod io_runtime;
mod kv_client;
mod listeners;
mod liveness_loop;
mod node_ids;
mod pg;
#[cfg(feature = "planted-bugs")]
mod planted;
mod running;
mod sessions;
mod shared;
mod store_thread;
mod transport;
mod vital;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use crdb_keys::NodeId;
use crdb_settings::Settings;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use uuid::Uuid;

pub use clock_guard::{ClockAstray, ClockOffsets};
pub use config::{HttpAddress, NodeConfig, StartMode};
pub use listeners::Advertised;

use crate::address::Address;
use crate::admin::AdminService;
use crate::clock::{elapsed, hybrid};
use crate::cluster_view::ClusterView;
use crate::formation::Formation;
use crate::http;
use crate::metrics::Metrics;
use crate::net::accept::{Accepts, Bounds, Destinations, accept_loop};
use crate::net::bind::{AddressLock, BindError};
use crate::peer::PeerService;
use crate::store_file::{LockOwner, Member, StoreDir, StoreDirError, StoreIdent};
use io_runtime::IoRuntime;
use listeners::Listeners;
use shared::{Phase, Shared};
use store_thread::StoreThread;

/// How often a start that is being waited for is looked at.
const SETTLE_TICK: Duration = Duration::from_millis(50);
/// How long the end of the node waits for its tasks.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Why a node did not start to listen.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener could not be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The data directory cannot be used.
    #[error(transparent)]
    StoreDir(#[from] StoreDirError),
    /// The gRPC or HTTP server could not be set up.
    #[error("cannot serve: {0}")]
    Serve(io::Error),
}

/// Why a node that listened cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory cannot be used.
    #[error(transparent)]
    StoreDir(StoreDirError),
    /// The engine could not be opened.
    #[error("the store cannot be opened: {0}")]
    Engine(crdb_storage::Error),
    /// The store stopped.
    #[error(transparent)]
    Store(crdb_raftstore::StoreError),
    /// The liveness record says that this process may not go on.
    #[error(transparent)]
    Liveness(crdb_liveness::HeartbeatError),
    /// The wall clock is off.
    #[error(transparent)]
    Clock(ClockAstray),
    /// The member joined through gave no cluster or no node id.
    #[error("{peer} answered the request to join without a cluster id or node id")]
    BadJoin {
        /// The member.
        peer: Address,
    },
    /// The store's cluster is not that of the nodes of `--join`.
    #[error(
        "store {store} belongs to cluster {own}, but {peer} of --join belongs to cluster {theirs}; \
         start it with the --join list of its own cluster, or with an empty --store",
        store = .store.display()
    )]
    OtherCluster {
        /// The data directory.
        store: PathBuf,
        /// Its cluster.
        own: String,
        /// The node of the join list.
        peer: String,
        /// That node's cluster.
        theirs: String,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A bug is to be planted that there is not.
    #[cfg(feature = "planted-bugs")]
    #[error("CRDB_PLANTED_BUG: there is no bug {0} to plant")]
    NoSuchBug(String),
    /// A part of the node panicked.
    #[error("a part of the node ended unexpectedly: {0}")]
    Panicked(String),
    /// The parts of a running node were set up twice; a bug.
    #[error("the node was started twice; please report this")]
    StartedTwice,
}

/// How a node came to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartStatus {
    /// It made the cluster.
    NewCluster,
    /// It joined as a new node.
    NewNode,
    /// It was a member before.
    Restarted,
}

impl fmt::Display for StartStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NewCluster => "initialized new cluster",
            Self::NewNode => "initialized new node, joined pre-existing cluster",
            Self::Restarted => "restarted pre-existing node",
        })
    }
}

/// What a node is once it serves SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// UUID of the cluster.
    pub cluster_id: String,
    /// Number of the node.
    pub node_id: NodeId,
    /// How it came there.
    pub status: StartStatus,
}

/// A node of this process.
pub struct Node {
    shared: Arc<Shared>,
    phase: watch::Receiver<Phase>,
    http_moved: Option<String>,
    thread: Arc<Mutex<Option<StoreThread>>>,
    _io: IoRuntime,
    /// Released when the node is gone.
    _locks: Vec<Option<AddressLock>>,
}

impl Node {
    /// Starts to listen, and goes on in the background. Returns when the listeners are up. To be
    /// called within a runtime, which runs the node from then on.
    pub fn start(config: NodeConfig, mut dir: StoreDir) -> Result<Self, StartError> {
        let ident = dir.load()?;
        let io = IoRuntime::start(config.limits.server.io_threads).map_err(StartError::Serve)?;
        let listeners = {
            let _carried = io.handle().enter();
            listeners::open(&config)?
        };
        let advertised = listeners::advertised(&config, &listeners);
        let listen_address = config.listen.to_string();
        dir.announce(&LockOwner { pid: std::process::id(), listen_address })?;
        let restarted = ident.is_some();
        let ident = match ident {
            Some(ident) => ident,
            None => {
                let ident = StoreIdent { store_uuid: Uuid::new_v4().to_string(), member: None };
                dir.save(&ident, || true)?;
                ident
            }
        };
        let (actions, init_actions) = mpsc::channel(16);
        let (phase, phases) = watch::channel(Phase::Starting);
        let clock = hybrid(config.max_offset);
        let incarnation = rand::random::<u64>();
        let auto = matches!(config.mode, StartMode::Join { auto_init: true, .. });
        let list = config.mode.join_list();
        let own = advertised.rpc.clone();
        let formation = Formation::new(own, list, auto, restarted, incarnation, elapsed());
        let settings = Arc::<Settings>::default();
        let shared = Arc::new(Shared {
            config,
            advertised,
            started_at: clock.now(),
            clock,
            dir,
            store_uuid: ident.store_uuid.clone(),
            incarnation,
            identity: OnceLock::new(),
            formation: Mutex::new(formation),
            formation_actions: actions,
            init_waiter: Mutex::new(None),
            view: Arc::new(ClusterView::new(Arc::clone(&settings))),
            settings,
            cache: Arc::default(),
            running: OnceLock::new(),
            phase,
            draining: AtomicBool::new(false),
            heartbeat_now: Notify::new(),
            join_checked: Notify::new(),
            alive_until: AtomicU64::new(0),
            clock_offsets: Mutex::default(),
            metrics: Metrics::default(),
            tasks: TaskTracker::new(),
            io: io.handle().clone(),
            main: Handle::current(),
            stop: CancellationToken::new(),
        });
        let changed = shared.config.limits.changed();
        if !changed.is_empty() {
            warn!(limits = changed, "runs with limits that are not those of production");
        }
        gossip::recall(&shared);
        if let Some(member) = &ident.member {
            shared.formation.lock().set_member(member.cluster_id.clone());
        }
        let http_moved = listeners.http_moved.clone();
        let locks = serve(&shared, listeners);
        let thread = Arc::new(Mutex::new(None));
        let (life, slot) = (Arc::clone(&shared), Arc::clone(&thread));
        shared.spawn_vital("the start", async move {
            let run = come_up(&life, ident.member, init_actions, &slot);
            tokio::select! {
                () = life.stop.cancelled() => {}
                outcome = run => if let Err(error) = outcome {
                    life.fail(error);
                },
            }
        });
        Ok(Self { shared, phase: phases, http_moved, thread, _io: io, _locks: locks })
    }

    /// Waits until SQL is served.
    pub async fn serving(&self) -> Result<Serving, Arc<NodeError>> {
        let mut phase = self.phase.clone();
        loop {
            match &*phase.borrow_and_update() {
                Phase::Serving(serving) => return Ok(serving.clone()),
                Phase::Failed(error) => return Err(Arc::clone(error)),
                Phase::Starting => {}
            }
            if phase.changed().await.is_err() {
                return Err(Arc::new(NodeError::Panicked("the node is gone".to_owned())));
            }
        }
    }

    /// Waits until the node and the others of its `--join` serve and every range has its replicas, so
    /// that any one of them may fail, or until that cannot be before something else
    /// happens: another node has to start, or somebody has to call `init`. Also returns when the
    /// node cannot go on.
    pub async fn settled(&self) {
        let listed = self.shared.config.mode.join_list().entries().len();
        let mut ticks = tokio::time::interval(SETTLE_TICK);
        loop {
            ticks.tick().await;
            let serving = match &*self.phase.borrow() {
                Phase::Serving(_) => true,
                Phase::Failed(_) => return,
                Phase::Starting => false,
            };
            let (waits, hears_all) = {
                let formation = self.shared.formation.lock();
                (formation.waits_for_others(), formation.hears_all())
            };
            if waits || (serving && (!hears_all || self.shared.is_whole(listed))) {
                return;
            }
        }
    }

    /// Waits until the node cannot go on.
    pub async fn failed(&self) -> Arc<NodeError> {
        let mut phase = self.phase.clone();
        loop {
            if let Phase::Failed(error) = &*phase.borrow_and_update() {
                return Arc::clone(error);
            }
            if phase.changed().await.is_err() {
                return Arc::new(NodeError::Panicked("the node is gone".to_owned()));
            }
        }
    }

    /// Whether the node belongs to a cluster.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.shared.formation.lock().is_member()
    }

    /// What to tell the user about the HTTP port, if it is not the one expected.
    #[must_use]
    pub fn http_moved(&self) -> Option<&str> {
        self.http_moved.as_deref()
    }

    /// The advertised RPC address.
    #[must_use]
    pub fn rpc_address(&self) -> &Address {
        &self.shared.advertised.rpc
    }

    /// The advertised SQL address.
    #[must_use]
    pub fn sql_address(&self) -> &Address {
        &self.shared.advertised.sql
    }

    /// The advertised HTTP address.
    #[must_use]
    pub fn http_address(&self) -> &Address {
        &self.shared.advertised.http
    }

    /// The URL by which a SQL client reaches the node.
    #[must_use]
    pub fn sql_url(&self) -> String {
        format!("postgresql://root@{}/defaultdb?sslmode=disable", self.sql_address())
    }

    /// The data directory.
    #[must_use]
    pub fn store_path(&self) -> &Path {
        self.shared.dir.path()
    }

    /// Stops gracefully: clients finish, leases move, then everything ends.
    pub async fn drain(&self) {
        drain::drain(&self.shared).await;
        self.stop_now().await;
    }

    /// Stops at once, without giving anything away.
    pub async fn stop_now(&self) {
        self.shared.stop.cancel();
        let thread = self.thread.lock().take();
        if let Some(mut thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join());
            if tokio::time::timeout(STOP_PATIENCE, joined).await.is_err() {
                warn!("the store did not stop in time");
            }
        }
        self.shared.tasks.close();
        if tokio::time::timeout(STOP_PATIENCE, self.shared.tasks.wait()).await.is_err() {
            warn!("some tasks did not end in time");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// Brings a node from listening to serving.
async fn come_up(
    shared: &Arc<Shared>,
    member: Option<Member>,
    mut init_actions: mpsc::Receiver<Vec<crate::formation::Action>>,
    slot: &Mutex<Option<StoreThread>>,
) -> Result<(), NodeError> {
    let (member, status) = match (member, &shared.config.mode) {
        (Some(member), _) => (member, StartStatus::Restarted),
        (None, StartMode::SingleNode) => {
            let member = formation_driver::first_member(shared, Uuid::new_v4().to_string());
            formation_driver::save(shared, &member, || true)?;
            shared.formation.lock().set_member(member.cluster_id.clone());
            (member, StartStatus::NewCluster)
        }
        (None, StartMode::Join { .. }) => {
            formation_driver::become_member(shared, &mut init_actions).await?
        }
    };
    let (cluster_id, node_id) = (member.cluster_id.clone(), NodeId(member.node_id));
    let thread = running::start(shared, member).await?;
    *slot.lock() = Some(thread);
    if let Some(waiter) = shared.init_waiter.lock().take() {
        // Who called init may have left meanwhile.
        drop(waiter.send(Ok(())));
    }
    wait_until_usable(shared).await;
    // A store that strayed into another cluster's `--join` list does not serve at all.
    shared.join_checked.notified().await;
    let serving = Serving { cluster_id, node_id, status };
    shared.phase.send_if_modified(|phase| {
        let starting = matches!(phase, Phase::Starting);
        if starting {
            *phase = Phase::Serving(serving);
        }
        starting
    });
    info!(node = %node_id, %status, "serving SQL");
    Ok(())
}

/// Waits for the first liveness record and the catalog, without which SQL has nothing to say.
async fn wait_until_usable(shared: &Shared) {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        let alive = shared.alive_until.load(std::sync::atomic::Ordering::Acquire);
        let catalog = shared.running.get().map_or(0, |running| running.sql.catalog().version());
        if catalog > 0 && shared.clock.wall_nanos() < alive {
            return;
        }
    }
}

/// Starts the RPC, SQL and HTTP servers on the listeners.
fn serve(shared: &Arc<Shared>, listeners: Listeners) -> Vec<Option<AddressLock>> {
    // What is spawned here runs there.
    let _carried = shared.io.enter();
    let (rpc, incoming) = mpsc::channel::<io::Result<TcpStream>>(64);
    let sql: Arc<pg::SqlGate> = Arc::new(pg::SqlGate::new(Arc::clone(shared)));
    let destinations = Destinations { rpc, sql };
    let (tasks, stop, limits) = (&shared.tasks, &shared.stop, shared.limits());
    let rpc_accepts = if listeners.sql.is_some() { Accepts::Rpc } else { Accepts::Both };
    let mut locks = vec![listeners.rpc.lock];
    tasks.spawn(accept_loop(
        listeners.rpc.listener,
        rpc_accepts,
        Bounds::from(limits),
        destinations.clone(),
        tasks.clone(),
        stop.clone(),
    ));
    if let Some(sql) = listeners.sql {
        locks.push(sql.lock);
        tasks.spawn(accept_loop(
            sql.listener,
            Accepts::Sql,
            Bounds::from(limits),
            destinations,
            tasks.clone(),
            stop.clone(),
        ));
    }
    let handler: Arc<dyn crate::peer::PeerHandler> = Arc::<Shared>::clone(shared);
    let peer = PeerService::new(handler, *limits, shared.main.clone(), tasks.clone(), stop.clone());
    let admin = AdminService::server(Arc::clone(shared));
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .initial_stream_window_size(limits.window_bytes)
        .initial_connection_window_size(limits.window_bytes)
        .add_service(peer)
        .add_service(admin);
    let stopped = stop.clone();
    tasks.spawn(async move {
        let streams = ReceiverStream::new(incoming);
        let served = server.serve_with_incoming_shutdown(streams, stopped.cancelled_owned()).await;
        if let Err(error) = served {
            warn!(%error, "the RPC server ended");
        }
    });
    let source: Arc<dyn http::HttpSource> = Arc::<Shared>::clone(shared);
    let served = http::serve(listeners.http.listener, source, stop.clone());
    tasks.spawn(async move {
        if let Err(error) = served.await {
            warn!(%error, "the HTTP server ended");
        }
    });
    locks
}
