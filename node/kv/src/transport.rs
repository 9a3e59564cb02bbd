//! What a [`crate::DistSender`] needs from the outside: a way to a node, and time.

use std::time::Duration;

use crdb_keys::NodeId;
use crdb_proto::kv::{BatchRequest, BatchResponse};
use futures::future::BoxFuture;

/// Why a batch did not come back from a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The batch certainly never reached a store.
    #[error("{0}")]
    NotSent(String),
    /// The batch may have been received, and its answer never came.
    #[error("{0}")]
    Lost(String),
}

/// Carries batches to the stores of the cluster, the own one included.
pub trait Transport: Send + Sync + 'static {
    /// The node this transport belongs to.
    fn local_node(&self) -> NodeId;

    /// How many tiers of its locality, from the widest on, a node shares with this one.
    fn shared_tiers(&self, node: NodeId) -> usize;

    /// Sends `batch` to the store of `node` and waits for its answer, which may carry an error of
    /// the range. Has no time limit of its own; dropping the future gives up waiting.
    fn send(
        &self,
        node: NodeId,
        batch: BatchRequest,
    ) -> BoxFuture<'_, Result<BatchResponse, TransportError>>;

    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Monotonic time since some fixed moment.
    fn elapsed(&self) -> Duration;
}
