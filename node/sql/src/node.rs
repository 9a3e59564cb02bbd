//! What the SQL layer of a node shares between its sessions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crdb_keys::hlc::Clock;
use crdb_keys::{NodeId, Timestamp};
use crdb_kv::TxnClient;
use crdb_proto::peer::SqlSession;
use crdb_settings::Settings;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::activity::{Registry, SessionPeers, Target};
use crate::catalog::Catalog;
use crate::kv::Kv;
use crate::limits::Limits;
use crate::session::cache::PlanCache;

/// Waits on behalf of the SQL layer, which has no timer of its own.
pub trait Timer: Send + Sync + 'static {
    /// A future that ends after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// What a node gives its SQL layer.
pub struct SqlNodeConfig {
    /// The node.
    pub node_id: NodeId,
    /// The cluster, as a UUID in text form.
    pub cluster_id: String,
    /// Begins transactions; knows the way to the ranges and the node's clock.
    pub txns: TxnClient,
    /// The node's timer.
    pub timer: Arc<dyn Timer>,
    /// Seed of what is random: uuids, `random()`, back-off.
    pub seed: u64,
    /// Version of the binary, for `version()`.
    pub build_tag: String,
    /// Bounds.
    pub limits: Limits,
    /// The cluster settings as this node knows them; [`SqlNode::refresh_settings`] fills them.
    pub settings: Arc<Settings>,
}

/// The SQL layer of a node.
pub struct SqlNode {
    pub(crate) node_id: NodeId,
    pub(crate) cluster_id: String,
    pub(crate) clock: Clock,
    pub(crate) timer: Arc<dyn Timer>,
    pub(crate) build_tag: String,
    pub(crate) limits: Limits,
    pub(crate) settings: Arc<Settings>,
    pub(crate) kv: Kv,
    pub(crate) txns: TxnClient,
    /// How often statements and transactions ran again, unseen by their clients.
    auto_retries: AtomicU64,
    pub(crate) plans: PlanCache,
    pub(crate) activity: Arc<Registry>,
    peers: OnceLock<Arc<dyn SessionPeers>>,
    catalog: Catalog,
    random: Mutex<RandomState>,
}

struct RandomState {
    rng: StdRng,
    /// The last time part of a row id, so that ids of one node rise and never repeat.
    last_row_id_time: u64,
}

impl SqlNode {
    /// The SQL layer of a node. Nothing is read until [`Catalog::adopt_latest`] is called.
    #[must_use]
    pub fn new(config: SqlNodeConfig) -> Arc<Self> {
        let clock = config.txns.clock().clone();
        let kv = Kv::new(config.txns.clone());
        Arc::new(Self {
            node_id: config.node_id,
            cluster_id: config.cluster_id,
            catalog: Catalog::new(
                kv.clone(),
                clock.clone(),
                Arc::clone(&config.timer),
                config.limits,
            ),
            clock,
            timer: config.timer,
            build_tag: config.build_tag,
            limits: config.limits,
            settings: config.settings,
            kv,
            txns: config.txns,
            auto_retries: AtomicU64::new(0),
            plans: PlanCache::new(&config.limits),
            activity: Registry::new(config.node_id, config.limits.shown_bytes),
            peers: OnceLock::new(),
            random: Mutex::new(RandomState {
                rng: StdRng::seed_from_u64(config.seed),
                last_row_id_time: 0,
            }),
        })
    }

    /// The catalog as this node knows it.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// How often statements and transactions of this node ran again unseen by their clients. Why is
    /// counted by the transactions of the key-value layer.
    #[must_use]
    pub fn auto_retries(&self) -> u64 {
        self.auto_retries.load(Ordering::Relaxed)
    }

    pub(crate) fn count_auto_retry(&self) {
        self.auto_retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Shows the way to the sessions of the other nodes. Before, the node believes that it is alone;
    /// after the first, further calls change nothing.
    pub fn connect_peers(&self, peers: Arc<dyn SessionPeers>) {
        drop(self.peers.set(peers));
    }

    pub(crate) fn peers(&self) -> Option<&dyn SessionPeers> {
        self.peers.get().map(|peers| &**peers)
    }

    /// The sessions of this node, oldest first.
    #[must_use]
    pub fn sessions(&self) -> Vec<SqlSession> {
        self.activity.list()
    }

    /// Cancels a statement or a session of this node; false when nothing of that id is here.
    #[must_use]
    pub fn cancel(&self, target: Target) -> bool {
        self.activity.cancel(target)
    }

    /// How many statements of this node run, and how many transactions are open.
    #[must_use]
    pub fn activity_counts(&self) -> (u64, u64) {
        self.activity.counts()
    }

    /// Tells the SQL layer until when this node's liveness record is valid, as soon as the record
    /// is written. Statements carry it as their deadline, so that a node that was cut off can
    /// neither read nor write by an outdated catalog.
    pub fn set_liveness_expiration(&self, expiration: Timestamp) {
        self.catalog.set_liveness_expiration(expiration);
    }

    /// A number that no other call of any node returns: bit 63 zero, 48 bits of time in units of
    /// ten microseconds, 15 bits of the node.
    pub(crate) fn unique_row_id(&self) -> i64 {
        let now = self.clock.wall_nanos() / 10_000;
        let mut random = self.random.lock();
        random.last_row_id_time = now.max(random.last_row_id_time + 1);
        let id = (random.last_row_id_time << 15 | u64::from(self.node_id.get() & 0x7fff))
            & (u64::MAX >> 1);
        id.cast_signed()
    }

    pub(crate) fn random_u64(&self) -> u64 {
        self.random.lock().rng.random()
    }

    pub(crate) fn random_f64(&self) -> f64 {
        self.random.lock().rng.random()
    }

    pub(crate) fn random_uuid(&self) -> [u8; 16] {
        let bytes: [u8; 16] = self.random.lock().rng.random();
        *uuid::Builder::from_random_bytes(bytes).as_uuid().as_bytes()
    }
}
