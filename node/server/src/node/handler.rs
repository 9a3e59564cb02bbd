//! What the node does with calls of peers, clients of the admin API, and HTTP.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crdb_keys::{NodeId, RangeId, StoreId};
use crdb_kv::{SendError, Sender, contention};
use crdb_proto::admin::{ClusterStatusResponse, InitResponse};
use crdb_proto::kv::{BatchRequest, BatchResponse, Error, Unavailable, error::Kind};
use crdb_proto::peer::{
    GossipMessage, JoinRequest, JoinResponse, PromiseRequest, PromiseResponse, RaftBatch,
    SnapshotFrame, SnapshotResult, SqlSession,
};
use crdb_raftstore::{Input, ReceivedSnapshot};
use crdb_sql::Target;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tonic::{Code, Status};
use tracing::{info, warn};

use super::shared::Shared;
use super::{gossip, node_ids};
use crate::admin::AdminSource;
use crate::clock::{elapsed, mono};
use crate::formation::InitRefusal;
use crate::http::HttpSource;
use crate::metrics::Reading;
use crate::peer::{Identity, PeerHandler};
use crate::status_detail::{
    ALREADY_INITIALIZED, CALLER_IS_ADDRESSEE, INIT_IN_PROGRESS, INVALID_ARGUMENT, OTHER_CLUSTER,
    not_initialized, status,
};

/// How long a caller of `init` waits for the outcome.
const INIT_TIMEOUT: Duration = Duration::from_secs(20);

impl PeerHandler for Shared {
    fn identity(&self) -> Option<Identity> {
        self.identity.get().cloned()
    }

    fn known_store(&self, node: NodeId) -> Option<String> {
        use crate::peer::PeerBook as _;
        self.view.peer_address(node).map(|peer| peer.store_uuid)
    }

    fn raft(&self, from: StoreId, batch: RaftBatch) {
        if let Some(running) = self.running.get() {
            running.inbox.push(Input::Raft { from, batch });
        }
    }

    fn serves(&self, range: RangeId) -> bool {
        self.running.get().is_some_and(|running| running.store.holds_lease(range, mono()))
    }

    fn batch(self: Arc<Self>, batch: BatchRequest) -> BoxFuture<'static, BatchResponse> {
        Box::pin(async move {
            let Some(running) = self.running.get() else {
                let message = "this node is starting".to_owned();
                let kind = Some(Kind::Unavailable(Unavailable {}));
                let error = Some(Error { message, kind });
                return BatchResponse { error, ..BatchResponse::default() };
            };
            contention::serve(&running.store, batch, &*running.site).await
        })
    }

    fn snapshot(&self, from: StoreId, frames: Vec<SnapshotFrame>) -> SnapshotResult {
        let refuse =
            |message: &str| SnapshotResult { accepted: false, message: message.to_owned() };
        let Some(running) = self.running.get() else {
            return refuse("this node is starting");
        };
        let mut header = None;
        let mut entries = Vec::new();
        for frame in frames {
            header = header.or(frame.header);
            entries.extend(frame.entries);
        }
        let Some(header) = header else { return refuse("the snapshot has no header") };
        let snapshot = ReceivedSnapshot { from, header, entries };
        running.inbox.push(Input::Snapshot(Box::new(snapshot)));
        SnapshotResult { accepted: true, message: String::new() }
    }

    fn join(
        self: Arc<Self>,
        request: JoinRequest,
    ) -> BoxFuture<'static, Result<JoinResponse, Status>> {
        Box::pin(async move { self.admit(request).await })
    }

    fn promise(&self, request: &PromiseRequest) -> PromiseResponse {
        let response = self.formation.lock().on_request(request, elapsed());
        info!(from = request.from_address, promised = response.promised, "asked for a promise");
        response
    }

    fn gossip(&self, message: GossipMessage) -> Result<GossipMessage, Status> {
        if let Some(hello) = &message.hello {
            self.view.heard(NodeId(hello.from_node), elapsed());
        }
        gossip::take_in(self, message);
        Ok(gossip::outgoing(self))
    }

    fn sql_sessions(&self) -> Vec<SqlSession> {
        self.running.get().map(|running| running.sql.sessions()).unwrap_or_default()
    }

    fn cancel_sql(&self, target: Target) -> bool {
        self.running.get().is_some_and(|running| running.sql.cancel(target))
    }

    fn unreachable(&self, store: StoreId) {
        if let Some(running) = self.running.get() {
            running.inbox.push(Input::Unreachable(store));
        }
    }
}

impl Shared {
    async fn admit(&self, request: JoinRequest) -> Result<JoinResponse, Status> {
        let own = self.identity.get().ok_or_else(not_initialized)?;
        let mut descriptor = request
            .descriptor
            .ok_or_else(|| status(Code::InvalidArgument, INVALID_ARGUMENT, "no descriptor", ""))?;
        if descriptor.store_uuid.is_empty() || descriptor.address.is_empty() {
            let text = "the descriptor names no store or no address";
            return Err(status(Code::InvalidArgument, INVALID_ARGUMENT, text, ""));
        }
        if !request.cluster_id.is_empty() && request.cluster_id != own.cluster_id {
            let text = format!(
                "the store of the caller belongs to cluster {}, this node to {}",
                request.cluster_id, own.cluster_id
            );
            return Err(status(Code::FailedPrecondition, OTHER_CLUSTER, &text, &own.cluster_id));
        }
        if descriptor.store_uuid == self.store_uuid {
            let text = "the caller is this node";
            return Err(status(Code::InvalidArgument, CALLER_IS_ADDRESSEE, text, ""));
        }
        let Some(running) = self.running.get() else {
            return Err(Status::unavailable("this node is starting"));
        };
        if request.cluster_id.is_empty() {
            let id = node_ids::allocate(
                running.sender.as_ref() as &dyn Sender,
                &descriptor.store_uuid,
                &descriptor.address,
                self.limits().node_id_attempts,
            );
            let id = id.await.map_err(|error| match error {
                SendError::Invalid { .. } => Status::internal(error.to_string()),
                other => Status::unavailable(other.to_string()),
            })?;
            info!(node = %id, address = descriptor.address, "node admitted");
            descriptor.node_id = id.get();
        }
        let node_id = descriptor.node_id;
        if self.view.learn_node(descriptor) {
            gossip::keep(self);
        }
        let message = gossip::outgoing(self);
        let mut ranges = message.ranges;
        ranges.extend(self.cache.descriptors());
        Ok(JoinResponse {
            cluster_id: own.cluster_id.clone(),
            node_id,
            nodes: message.nodes,
            ranges,
            now: message.now,
        })
    }

    async fn init_cluster(&self, cluster_id: String) -> Result<InitResponse, Status> {
        let wanted = match cluster_id.as_str() {
            "" => None,
            id => match uuid::Uuid::parse_str(id) {
                Ok(id) => Some(id.to_string()),
                Err(_) => {
                    let text = format!("{id:?} is not a UUID");
                    return Err(status(Code::InvalidArgument, INVALID_ARGUMENT, &text, ""));
                }
            },
        };
        let (waiter, outcome) = oneshot::channel();
        let begun = self.formation.lock().init(wanted.clone(), elapsed());
        match begun {
            Ok(actions) => {
                *self.init_waiter.lock() = Some(waiter);
                if self.formation_actions.send(actions).await.is_err() {
                    return Err(Status::unavailable("the node is stopping"));
                }
            }
            Err(refusal) => return self.init_refused(refusal, wanted.as_deref()),
        }
        let own = match tokio::time::timeout(INIT_TIMEOUT, outcome).await {
            Ok(Ok(Ok(()))) => self.identity.get(),
            Ok(Ok(Err(refusal))) => return self.init_refused(refusal, wanted.as_deref()),
            Ok(Err(_)) | Err(_) => None,
        };
        let own = own.ok_or_else(|| {
            let text = "the outcome is not known yet; ask for the cluster's status";
            status(Code::Unavailable, INIT_IN_PROGRESS, text, "")
        })?;
        Ok(InitResponse { cluster_id: own.cluster_id.clone(), node_id: own.node_id.get() })
    }

    fn init_refused(
        &self,
        refusal: InitRefusal,
        wanted: Option<&str>,
    ) -> Result<InitResponse, Status> {
        let text = refusal.to_string();
        match refusal {
            InitRefusal::AlreadyInitialized { cluster_id } => {
                let own = self.identity.get().filter(|own| Some(own.cluster_id.as_str()) == wanted);
                match own {
                    Some(own) => Ok(InitResponse { cluster_id, node_id: own.node_id.get() }),
                    None => Err(status(
                        Code::FailedPrecondition,
                        ALREADY_INITIALIZED,
                        &text,
                        &cluster_id,
                    )),
                }
            }
            InitRefusal::InProgress(_) | InitRefusal::TooSlow | InitRefusal::RecentlyStarted(_) => {
                Err(status(Code::Unavailable, INIT_IN_PROGRESS, &text, ""))
            }
        }
    }
}

impl AdminSource for Shared {
    fn init(
        self: Arc<Self>,
        cluster_id: String,
    ) -> BoxFuture<'static, Result<InitResponse, Status>> {
        Box::pin(async move { self.init_cluster(cluster_id).await })
    }

    fn cluster_status(&self) -> ClusterStatusResponse {
        if let Some(stats) = self.own_stats() {
            self.view.learn_stats(stats);
        }
        let mut response = self.view.status(self.clock.now(), elapsed(), self.range_total());
        response.answered_by_store_uuid.clone_from(&self.store_uuid);
        response.answered_by_address = self.advertised.rpc.to_string();
        if let Some(own) = self.identity.get() {
            response.cluster_id.clone_from(&own.cluster_id);
            response.answered_by = own.node_id.get();
            response.initialized = true;
        }
        response
    }
}

impl HttpSource for Shared {
    fn is_ready(&self) -> bool {
        Self::is_ready(self)
    }

    fn metrics(&self) -> String {
        let stats = self.own_stats().unwrap_or_default();
        let live = self.view.live_nodes(self.clock.now(), elapsed());
        let available = rustix::fs::statvfs(self.dir.path())
            .map_or(0, |stat| stat.f_frsize.saturating_mul(stat.f_bavail));
        let up = self.clock.wall_nanos().saturating_sub(self.started_at.wall_nanos);
        let counts = self.running.get().map(|running| running.store.counts()).unwrap_or_default();
        let activity = self.running.get().map(|running| running.sql.activity_counts());
        let (sql_statements, sql_transactions) = activity.unwrap_or_default();
        self.metrics.encode(&Reading {
            live_nodes: u64::try_from(live).unwrap_or(0),
            ranges: self.range_total(),
            ranges_unavailable: stats.ranges_unavailable,
            ranges_underreplicated: stats.ranges_underreplicated,
            replicas: stats.replicas,
            leaders: stats.leaders,
            leases: stats.leases,
            proposals: counts.proposals,
            log_syncs: counts.log_syncs,
            sql_connections: self.running.get().map_or(0, |running| running.pg.connections()),
            sql_statements,
            sql_transactions,
            uptime_seconds: up / 1_000_000_000,
            capacity_bytes: stats.capacity_bytes,
            available_bytes: available,
            used_bytes: stats.used_bytes,
            clock_offsets: *self.clock_offsets.lock(),
            txns: self.running.get().map(|running| running.txns.counts()).unwrap_or_default(),
            contention: self.running.get().map(|r| r.site.contention()).unwrap_or_default(),
            auto_retries: self.running.get().map_or(0, |running| running.sql.auto_retries()),
        })
    }
}

/// Warns when the liveness record lapsed, for the log of a node that was cut off.
pub(crate) fn warn_if_lapsed(shared: &Shared) {
    let until = shared.alive_until.load(Ordering::Acquire);
    if until > 0 && shared.clock.wall_nanos() > until {
        warn!("the liveness record of this node lapsed: it is cut off from the cluster");
    }
}
