//! How nodes talk to each other.
//!
//! Three kinds of connection a pair of nodes, so that bulk never delays heartbeats: one stream of
//! raft batches, one stream of key-value batches, and one connection for each snapshot. All are
//! gRPC; a stream opens with a [`Hello`](crdb_proto::peer::Hello), and whoever is not its
//! addressee refuses, because a balancer may have answered in the addressee's place.
//!
//! Bounds: every queue has a length. A full raft queue drops batches (raft repeats itself), a full
//! key-value queue answers that the batch was not sent.

mod dial;
pub mod hello;
mod kv_link;
pub mod links;
mod raft_link;
pub mod service;
mod snapshot;
#[cfg(test)]
mod tests;

pub use dial::{dial_any, one_shot, one_shot_any, one_shot_each};
pub use links::PeerLinks;
pub use service::PeerService;

use std::sync::Arc;

use crdb_keys::{NodeId, RangeId, StoreId};
use crdb_proto::kv::{BatchRequest, BatchResponse};
use crdb_proto::peer::{
    GossipMessage, JoinRequest, JoinResponse, PromiseRequest, PromiseResponse, RaftBatch,
    SnapshotFrame, SnapshotResult, SqlSession,
};
use crdb_sql::Target;
use futures::future::BoxFuture;
use tonic::Status;

/// Who this process is within its cluster; known once it belongs to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// UUID of the cluster.
    pub cluster_id: String,
    /// Number of the node.
    pub node_id: NodeId,
    /// UUID of its store.
    pub store_uuid: String,
    /// Random number of this process.
    pub incarnation: u64,
}

/// How to reach a node, and how to recognise it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// Advertised RPC address.
    pub address: String,
    /// UUID of its store; empty while unknown.
    pub store_uuid: String,
}

/// Knows where nodes are.
pub trait PeerBook: Send + Sync + 'static {
    /// The latest known address of a node.
    fn peer_address(&self, node: NodeId) -> Option<PeerAddress>;
}

/// What the node does with what its peers send.
pub trait PeerHandler: Send + Sync + 'static {
    /// Who this process is; `None` before it belongs to a cluster.
    fn identity(&self) -> Option<Identity>;

    /// UUID of the store a node is known by.
    fn known_store(&self, node: NodeId) -> Option<String>;

    /// Takes in a batch of raft messages; never blocks.
    fn raft(&self, from: StoreId, batch: RaftBatch);

    /// Whether this node holds the lease of a range: what waits there is not stuck.
    fn serves(&self, range: RangeId) -> bool;

    /// Evaluates a batch.
    fn batch(self: Arc<Self>, batch: BatchRequest) -> BoxFuture<'static, BatchResponse>;

    /// Takes in a snapshot whose frames were all received.
    fn snapshot(&self, from: StoreId, frames: Vec<SnapshotFrame>) -> SnapshotResult;

    /// Makes a node a member, or tells a member where the others are.
    fn join(
        self: Arc<Self>,
        request: JoinRequest,
    ) -> BoxFuture<'static, Result<JoinResponse, Status>>;

    /// Answers a request for a promise.
    fn promise(&self, request: &PromiseRequest) -> PromiseResponse;

    /// Takes in what another node knows and answers with what this one does.
    fn gossip(&self, message: GossipMessage) -> Result<GossipMessage, Status>;

    /// The SQL sessions of this node; none before it can serve any.
    fn sql_sessions(&self) -> Vec<SqlSession>;

    /// Cancels a statement or a session of this node; false when nothing of that id is here.
    fn cancel_sql(&self, target: Target) -> bool;

    /// Hears that messages to a store were lost.
    fn unreachable(&self, store: StoreId);
}
