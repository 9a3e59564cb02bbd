//! What a [`crate::DistSender`] needs from the outside: a way to a node, and time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// When a call was last known to be worked on: its node has the batch and serves the range.
///
/// A batch may take long on a busy machine, behind latches, or in a queue. Its node says every second
/// or so that it is still there, so that who waits need not take silence for a failure, nor bother
/// other replicas. It does not say so without the lease of the range: cut off from its quorum it
/// would never come to an end.
#[derive(Clone, Debug, Default)]
pub struct Life(Arc<AtomicU64>);

impl Life {
    /// The call was worked on at `elapsed` of [`Transport::elapsed`].
    pub fn seen(&self, elapsed: Duration) {
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_max(nanos.max(1), Ordering::Relaxed);
    }

    /// When it last was; `None` if that was never heard.
    pub(crate) fn last(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }
}

/// Carries batches to the stores of the cluster, the own one included.
pub trait Transport: Send + Sync + 'static {
    /// The node this transport belongs to.
    fn local_node(&self) -> NodeId;

    /// How many tiers of its locality, from the widest on, a node shares with this one.
    fn shared_tiers(&self, node: NodeId) -> usize;

    /// Sends `batch` to the store of `node` and waits for its answer, which may carry an error of
    /// the range; tells `life` meanwhile when it is known to be worked on. Has no time limit of its
    /// own; dropping the future gives up waiting.
    fn send(
        &self,
        node: NodeId,
        batch: BatchRequest,
        life: Life,
    ) -> BoxFuture<'_, Result<BatchResponse, TransportError>>;

    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Monotonic time since some fixed moment.
    fn elapsed(&self) -> Duration;
}
