//! What the transactions of one node share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crdb_keys::{NodeId, hlc::Clock};
use crdb_proto::kv::{BatchRequest, BatchResponse};

use super::coordinator::Txn;
use super::types::TxnOptions;
use crate::{SendError, Sender};

/// What a [`TxnClient`] is made of.
pub struct TxnClientConfig {
    /// Where batches go.
    pub sender: Arc<dyn Sender>,
    /// The node's clock.
    pub clock: Clock,
    /// The node.
    pub node_id: NodeId,
    /// Random bits of this start of the node; the ids of its transactions come from them.
    pub seed: u128,
}

impl std::fmt::Debug for TxnClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TxnClientConfig").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

/// Begins the transactions of one node. Clones share everything.
#[derive(Clone)]
pub struct TxnClient {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) config: TxnClientConfig,
    begun: AtomicU64,
}

impl std::fmt::Debug for TxnClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "transactions of {}", self.shared.config.node_id)
    }
}

impl TxnClient {
    /// A client over `config`.
    #[must_use]
    pub fn new(config: TxnClientConfig) -> Self {
        Self { shared: Arc::new(Shared { config, begun: AtomicU64::new(0) }) }
    }

    /// Begins a transaction. Nothing is sent.
    #[must_use]
    pub fn begin(&self, options: TxnOptions) -> Txn {
        Txn::new(self.clone(), options)
    }

    /// Sends a batch outside of any transaction: a batch that writes commits by itself, in one
    /// range.
    pub async fn send_non_txn(&self, batch: BatchRequest) -> Result<BatchResponse, SendError> {
        self.shared.config.sender.send(batch).await
    }

    /// Where batches go.
    #[must_use]
    pub fn sender(&self) -> &Arc<dyn Sender> {
        &self.shared.config.sender
    }

    /// The node's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.shared.config.clock
    }

    /// The node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.shared.config.node_id
    }

    /// The largest difference between two clocks of the cluster.
    pub(super) fn max_offset(&self) -> Duration {
        self.shared.config.clock.max_offset()
    }

    /// 16 bytes that no other transaction has: 10 that are random to this start of the node, and
    /// how many began before, counted down. So of two transactions of a node the older has the
    /// larger id, which wins when a deadlock is broken.
    pub(super) fn next_id(&self) -> Bytes {
        let begun = self.shared.begun.fetch_add(1, Ordering::Relaxed);
        let count = u64::MAX - begun;
        let mut id = [0; 16];
        let (random, counter) = id.split_at_mut(10);
        random.copy_from_slice(&self.shared.config.seed.to_be_bytes()[6..]);
        counter.copy_from_slice(&count.to_be_bytes()[2..]);
        Bytes::copy_from_slice(&id)
    }
}
