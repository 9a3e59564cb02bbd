//! What all parts of a running node share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crdb_keys::hlc::Clock;
use crdb_keys::{NodeId, Timestamp};
use crdb_kv::{DistSender, RangeCache, TxnClient};
use crdb_proto::kv::{NodeDescriptor, Tier};
use crdb_proto::peer::StoreStats;
use crdb_raftstore::StoreHandle;
use crdb_settings::Settings;
use crdb_sql::SqlNode;
use crdb_storage::RocksEngine;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use super::NodeError;
use super::clock_guard::ClockOffsets;
use super::config::NodeConfig;
use super::listeners::Advertised;
use super::pg::PgFront;
use super::store_thread::Inbox;
use super::transport::NodeSite;
use crate::clock::elapsed;
use crate::cluster_view::ClusterView;
use crate::formation::{Action, Formation, InitRefusal};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::peer::Identity;
use crate::store_file::StoreDir;

/// The store as this binary runs it.
pub(crate) type DiskStore = StoreHandle<RocksEngine>;

/// The state of a node, from its start to its end.
pub(crate) struct Shared {
    pub(crate) config: NodeConfig,
    pub(crate) advertised: Advertised,
    pub(crate) clock: Clock,
    pub(crate) dir: StoreDir,
    pub(crate) store_uuid: String,
    pub(crate) incarnation: u64,
    pub(crate) started_at: Timestamp,
    pub(crate) identity: OnceLock<Identity>,
    pub(crate) formation: Mutex<Formation>,
    /// Actions that an `init` call set off, for the task that carries them out.
    pub(crate) formation_actions: mpsc::Sender<Vec<Action>>,
    pub(crate) init_waiter: Mutex<Option<oneshot::Sender<Result<(), InitRefusal>>>>,
    pub(crate) view: Arc<ClusterView>,
    /// The cluster settings, as last read.
    pub(crate) settings: Arc<Settings>,
    pub(crate) cache: Arc<RangeCache>,
    pub(crate) running: OnceLock<Running>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) draining: AtomicBool,
    /// Asks for a liveness record at once.
    pub(crate) heartbeat_now: Notify,
    /// Told once each node of `--join` was asked, or tried, for the id of its cluster.
    pub(crate) join_checked: Notify,
    /// Until when the liveness record written last is valid, nanoseconds.
    pub(crate) alive_until: std::sync::atomic::AtomicU64,
    /// The clocks of the other nodes against the own one, as of the last exchange.
    pub(crate) clock_offsets: Mutex<ClockOffsets>,
    pub(crate) metrics: Metrics,
    pub(crate) tasks: TaskTracker,
    /// Where bytes are carried, see [`super::io_runtime`].
    pub(crate) io: Handle,
    /// Where everything else runs.
    pub(crate) main: Handle,
    pub(crate) stop: CancellationToken,
}

/// How far a node has come.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Listening, not serving SQL.
    Starting,
    /// Serving SQL.
    Serving(super::Serving),
    /// It cannot go on.
    Failed(Arc<NodeError>),
}

/// What exists once the node is a member.
pub(crate) struct Running {
    pub(crate) store: DiskStore,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) site: Arc<NodeSite>,
    pub(crate) sender: Arc<DistSender>,
    pub(crate) txns: TxnClient,
    pub(crate) sql: Arc<SqlNode>,
    pub(crate) pg: Arc<PgFront>,
}

impl Shared {
    /// The bounds of the server itself.
    pub(crate) fn limits(&self) -> &Limits {
        &self.config.limits.server
    }

    /// Whether at least `nodes` nodes are alive and no range is known to lack replicas.
    pub(crate) fn is_whole(&self, nodes: usize) -> bool {
        let (now, mono) = (self.clock.now(), elapsed());
        let ranges = self.view.status(now, mono, self.range_total()).ranges.unwrap_or_default();
        self.view.live_nodes(now, mono) >= nodes && ranges.total > 0 && ranges.under_replicated == 0
    }

    /// This node's descriptor; `node_id` 0 before it has one.
    pub(crate) fn descriptor(&self) -> NodeDescriptor {
        let tier =
            |(key, value): &(String, String)| Tier { key: key.clone(), value: value.clone() };
        NodeDescriptor {
            node_id: self.identity.get().map_or(0, |own| own.node_id.get()),
            address: self.advertised.rpc.to_string(),
            sql_address: self.advertised.sql.to_string(),
            http_address: self.advertised.http.to_string(),
            locality: self.config.locality.iter().map(tier).collect(),
            store_uuid: self.store_uuid.clone(),
            incarnation: self.incarnation,
            build_tag: self.config.build_tag.clone(),
            started_at_nanos: self.started_at.wall_nanos,
            revision: self.started_at.wall_nanos,
        }
    }

    /// The node's number; 0 before it has one.
    pub(crate) fn node_id(&self) -> NodeId {
        self.identity.get().map_or(NodeId(0), |own| own.node_id)
    }

    /// The load of the own store, at this moment.
    pub(crate) fn own_stats(&self) -> Option<StoreStats> {
        let running = self.running.get()?;
        let counts = running.store.counts();
        let used = running.store.engine().disk_bytes().unwrap_or(0);
        Some(StoreStats {
            node_id: self.node_id().get(),
            replicas: counts.replicas,
            leases: counts.leases,
            used_bytes: used,
            capacity_bytes: capacity(&self.dir),
            ranges_unavailable: counts.unavailable,
            ranges_underreplicated: counts.under_replicated,
            leaders: counts.leaders,
            reported_at_nanos: self.clock.wall_nanos(),
            // Asked for before the transactions are looked at: what begins later is above.
            oldest_read: Some(running.txns.oldest_read(self.clock.now()).into()),
        })
    }

    /// Whether SQL is served and a balancer should send it here.
    pub(crate) fn is_ready(&self) -> bool {
        let serving = matches!(*self.phase.borrow(), Phase::Serving(_));
        let alive = self.clock.wall_nanos() < self.alive_until.load(Ordering::Acquire);
        serving && alive && !self.is_draining()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Notes that the node cannot go on; the first reason counts.
    pub(crate) fn fail(&self, reason: NodeError) {
        error!(%reason, "the node stops");
        self.phase.send_if_modified(|phase| {
            if matches!(phase, Phase::Failed(_)) {
                return false;
            }
            *phase = Phase::Failed(Arc::new(reason));
            true
        });
    }

    /// Counts of the cluster's ranges that the own store can vouch for.
    pub(crate) fn range_total(&self) -> u64 {
        let mut ids: BTreeMap<u64, ()> = BTreeMap::new();
        ids.extend(self.cache.descriptors().iter().map(|d| (d.range_id, ())));
        u64::try_from(ids.len()).unwrap_or(u64::MAX)
    }
}

/// Bytes the store's file system could hold for it.
fn capacity(dir: &StoreDir) -> u64 {
    rustix::fs::statvfs(dir.path()).map_or(0, |stat| stat.f_frsize.saturating_mul(stat.f_blocks))
}
