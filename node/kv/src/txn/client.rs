//! What the transactions of one node share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crdb_keys::{NodeId, Timestamp, hlc::Clock};
use crdb_proto::kv::{BatchRequest, BatchResponse};
use futures::future::BoxFuture;

use super::background::Background;
use super::coordinator::Txn;
use super::metrics::{TxnCounts, TxnMetrics, add};
use super::open_reads::{OpenRead, OpenReads};
use super::types::TxnOptions;
use crate::{Limits, SendError, Sender};

/// Completes after a duration.
pub type Sleep = Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>;

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
    /// Bounds.
    pub limits: Limits,
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
    background: Background,
    metrics: TxnMetrics,
    open_reads: OpenReads,
    /// Bytes of a buffer at which it has to be flushed.
    buffer_bytes: AtomicUsize,
    #[cfg(feature = "planted-bugs")]
    planted: Option<crate::PlantedTxnBug>,
}

impl Shared {
    fn new(config: TxnClientConfig) -> Self {
        Self {
            buffer_bytes: AtomicUsize::new(config.limits.buffer_bytes),
            background: Background::new(&config.limits),
            config,
            begun: AtomicU64::new(0),
            metrics: TxnMetrics::default(),
            open_reads: OpenReads::default(),
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }
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
        Self { shared: Arc::new(Shared::new(config)) }
    }

    /// A client that errs on purpose.
    #[cfg(feature = "planted-bugs")]
    #[must_use]
    pub fn with_bug(config: TxnClientConfig, bug: Option<crate::PlantedTxnBug>) -> Self {
        Self { shared: Arc::new(Shared { planted: bug, ..Shared::new(config) }) }
    }

    /// Whether `bug` is planted; never, unless built for tests.
    #[cfg(feature = "planted-bugs")]
    pub(super) fn has(&self, bug: crate::PlantedTxnBug) -> bool {
        self.shared.planted == Some(bug)
    }

    /// Whether `bug` is planted; never, unless built for tests.
    #[cfg(not(feature = "planted-bugs"))]
    #[expect(clippy::unused_self, reason = "same signature as with planted bugs")]
    pub(super) fn has(&self, _bug: crate::PlantedTxnBug) -> bool {
        false
    }

    /// From now on transactions refuse writes with [`TxnError::BufferFull`](super::TxnError) once
    /// they buffer this many bytes; the write that reaches the bound is taken. A bound below that of
    /// production stays.
    pub fn set_max_buffered_writes(&self, bytes: usize) {
        let limit = self.limits().buffer_bytes;
        let lowered = limit < Limits::default().buffer_bytes;
        let bytes = if lowered { bytes.min(limit) } else { bytes };
        self.shared.buffer_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Its bounds.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.shared.config.limits
    }

    pub(super) fn buffer_bytes(&self) -> usize {
        self.shared.buffer_bytes.load(Ordering::Relaxed)
    }

    /// Begins a transaction. Nothing is sent.
    #[must_use]
    pub fn begin(&self, options: TxnOptions) -> Txn {
        add(&self.metrics().begun, 1);
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

    /// Below this no open transaction reads. `now` is the clock's present, read before.
    #[must_use]
    pub fn oldest_read(&self, now: Timestamp) -> Timestamp {
        self.shared.open_reads.oldest().map_or(now, |oldest| oldest.min(now))
    }

    /// Counts a transaction that may read from `from` on.
    pub(super) fn open_read(&self, from: Timestamp) -> OpenRead {
        self.shared.open_reads.open(from)
    }

    /// What its transactions did so far.
    #[must_use]
    pub fn counts(&self) -> TxnCounts {
        self.metrics().snapshot()
    }

    /// Cleans up after transactions that have ended and says that the others are alive, until
    /// [`TxnClient::close`]. The owner of the client runs it on a task of its own and joins it.
    ///
    /// While nobody does, transactions clean up before they answer, and give no sign of life.
    pub async fn work(&self, sleep: Sleep) {
        let beats = Box::pin(super::heartbeat::beat(self, sleep));
        self.background().work(beats).await;
    }

    /// Has [`TxnClient::work`] return once what waits is done.
    pub fn close(&self) {
        self.background().close();
    }

    pub(super) fn background(&self) -> &Background {
        &self.shared.background
    }

    pub(super) fn metrics(&self) -> &TxnMetrics {
        &self.shared.metrics
    }

    /// How many transactions began before, and 16 bytes that no other transaction has: 10 that are
    /// random to this start of the node, and that number, counted down. So of two transactions of a
    /// node the older has the larger id, which wins when a deadlock is broken.
    pub(super) fn next_id(&self) -> (u64, Bytes) {
        let begun = self.shared.begun.fetch_add(1, Ordering::Relaxed);
        let random = self.shared.config.seed << 48;
        let counter = u128::from(!begun & 0xffff_ffff_ffff);
        (begun, Bytes::copy_from_slice(&(random | counter).to_be_bytes()))
    }
}
