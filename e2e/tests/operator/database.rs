//! A scripted database: one admin server for each pod, and the little of membership that the
//! operator sees.
//!
//! A store belongs to a volume claim (or, without one, to a pod): a pod that is made anew finds
//! its store again, a claim that is made anew has an empty one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use crdb_proto::admin::admin_server::{Admin, AdminServer};
use crdb_proto::admin::{
    ClusterStatusRequest, ClusterStatusResponse, InitRequest, InitResponse, Liveness, Membership,
    NodeStatus, RangeCounts,
};
use crdb_proto::kv::NodeDescriptor;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A call of Init as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InitCall {
    pub(crate) pod: String,
    pub(crate) cluster_id: String,
}

#[derive(Debug, Default)]
struct State {
    cluster_id: Option<String>,
    /// By claim or pod UID.
    stores: BTreeMap<String, Store>,
    /// Processes that run, by pod name.
    running: BTreeMap<String, Running>,
    init_calls: Vec<InitCall>,
    last_node_id: u32,
    servers: JoinSet<Result<(), tonic::transport::Error>>,
}

#[derive(Debug)]
struct Store {
    uuid: String,
    node_id: Option<u32>,
    address: String,
}

#[derive(Debug)]
struct Running {
    pod_uid: String,
    store: String,
    ip: Ipv4Addr,
    stop: Option<oneshot::Sender<()>>,
}

/// The database of one test; clusters of one test must not share it.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    state: Arc<Mutex<State>>,
    /// Second byte of this database's loopback addresses.
    block: (u8, u8),
    port: u16,
}

impl Database {
    /// A database whose nodes listen on `127.block.0.x` at one port.
    pub(crate) fn new(block: (u8, u8), port: u16) -> Database {
        Database { state: Arc::default(), block, port }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every call of Init so far.
    pub(crate) fn init_calls(&self) -> Vec<InitCall> {
        self.state().init_calls.clone()
    }

    /// Id of the cluster, once initialized.
    pub(crate) fn cluster_id(&self) -> Option<String> {
        self.state().cluster_id.clone()
    }

    /// Starts the process of a pod, if it does not run; the address it listens at.
    pub(crate) fn start(
        &self,
        pod: &str,
        pod_uid: &str,
        store: &str,
        address: &str,
    ) -> Result<IpAddr> {
        let mut state = self.state();
        if let Some(running) = state.running.get(pod)
            && running.pod_uid == pod_uid
        {
            return Ok(running.ip.into());
        }
        let used: Vec<u8> = state.running.values().map(|r| r.ip.octets()[3]).collect();
        let (a, b) = self.block;
        let last = (1..=250).find(|n| !used.contains(n)).unwrap_or(251);
        let ip = Ipv4Addr::new(127, a, b, last);
        let number = state.stores.len() + 1;
        state.stores.entry(store.to_owned()).or_insert_with(|| Store {
            uuid: format!("00000000-0000-0000-{a:04x}-{number:012x}"),
            node_id: None,
            address: address.to_owned(),
        });
        let listener = std::net::TcpListener::bind(SocketAddr::from((ip, self.port)))?;
        listener.set_nonblocking(true)?;
        let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?);
        let node = Node { database: self.clone(), pod: pod.to_owned() };
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = Server::builder().add_service(AdminServer::new(node));
        let serving = serving.serve_with_incoming_shutdown(incoming, async {
            stopped.await.ok();
        });
        state.servers.spawn(serving);
        let running =
            Running { pod_uid: pod_uid.to_owned(), store: store.to_owned(), ip, stop: Some(stop) };
        state.running.insert(pod.to_owned(), running);
        Ok(ip.into())
    }

    /// Ends the process of a pod that is gone.
    pub(crate) fn stop(&self, pod: &str) {
        if let Some(mut running) = self.state().running.remove(pod)
            && let Some(stop) = running.stop.take()
        {
            stop.send(()).ok();
        }
    }

    /// Pods whose process runs.
    pub(crate) fn running(&self) -> Vec<(String, String)> {
        let state = self.state();
        state.running.iter().map(|(pod, r)| (pod.clone(), r.pod_uid.clone())).collect()
    }

    /// Lets the process of a pod join if the cluster is there; whether it serves SQL.
    pub(crate) fn join(&self, pod: &str) -> bool {
        let mut state = self.state();
        if state.cluster_id.is_none() {
            return false;
        }
        let Some(store) = state.running.get(pod).map(|running| running.store.clone()) else {
            return false;
        };
        let next = state.last_node_id + 1;
        let Some(store) = state.stores.get_mut(&store) else { return false };
        if store.node_id.is_none() {
            store.node_id = Some(next);
            state.last_node_id = next;
        }
        true
    }
}

struct Node {
    database: Database,
    pod: String,
}

#[tonic::async_trait]
impl Admin for Node {
    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitResponse>, Status> {
        let cluster_id = request.into_inner().cluster_id;
        let mut state = self.database.state();
        let call = InitCall { pod: self.pod.clone(), cluster_id: cluster_id.clone() };
        state.init_calls.push(call);
        let Some(running) = state.running.get(&self.pod) else {
            return Err(Status::unavailable("stopping"));
        };
        let key = running.store.clone();
        match &state.cluster_id {
            Some(known) if *known != cluster_id => {
                return Err(Status::failed_precondition("cluster has already been initialized"));
            }
            Some(_) => {}
            None => {
                state.cluster_id = Some(cluster_id.clone());
                state.last_node_id = 1;
                if let Some(store) = state.stores.get_mut(&key) {
                    store.node_id = Some(1);
                }
            }
        }
        let node_id = state.stores.get(&key).and_then(|store| store.node_id).unwrap_or(0);
        Ok(Response::new(InitResponse { cluster_id, node_id }))
    }

    async fn cluster_status(
        &self,
        _: Request<ClusterStatusRequest>,
    ) -> Result<Response<ClusterStatusResponse>, Status> {
        let state = self.database.state();
        let Some(running) = state.running.get(&self.pod) else {
            return Err(Status::unavailable("stopping"));
        };
        let Some(own) = state.stores.get(&running.store) else {
            return Err(Status::internal("no store"));
        };
        let mut response = ClusterStatusResponse {
            answered_by_store_uuid: own.uuid.clone(),
            answered_by_address: own.address.clone(),
            ..ClusterStatusResponse::default()
        };
        let (Some(node_id), Some(cluster_id)) = (own.node_id, state.cluster_id.clone()) else {
            return Ok(Response::new(response));
        };
        let mut nodes: Vec<NodeStatus> = state
            .stores
            .iter()
            .filter_map(|(key, store)| {
                let alive = state.running.values().any(|running| running.store == *key);
                let liveness = if alive { Liveness::Live } else { Liveness::Suspect };
                Some(NodeStatus {
                    descriptor: Some(NodeDescriptor {
                        node_id: store.node_id?,
                        address: store.address.clone(),
                        store_uuid: store.uuid.clone(),
                        build_tag: "v0.1.0".to_owned(),
                        ..NodeDescriptor::default()
                    }),
                    liveness: liveness.into(),
                    membership: Membership::Active.into(),
                    replicas: 6,
                    ..NodeStatus::default()
                })
            })
            .collect();
        nodes.sort_by_key(|node| node.descriptor.as_ref().map(|descriptor| descriptor.node_id));
        response.cluster_id = cluster_id;
        response.answered_by = node_id;
        response.initialized = true;
        response.nodes = nodes;
        response.active_version = "v0.1".to_owned();
        response.ranges = Some(RangeCounts { total: 6, ..RangeCounts::default() });
        Ok(Response::new(response))
    }
}
