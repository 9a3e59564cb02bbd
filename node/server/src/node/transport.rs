//! The way of batches: to the own store directly, to others over their streams.

use std::cell::Cell;
use std::pin::pin;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crdb_keys::hlc::Clock;
use crdb_keys::{NodeId, RangeId};
use crdb_kv::contention::{self, ContentionCounts, ContentionMetrics, Site};
use crdb_kv::{DistSender, Life, Sender, Transport, TransportError};
use crdb_proto::kv::{BatchRequest, BatchResponse};
use crdb_raftstore::{Input, Mono, Proposal, YieldPoint};
use futures::future::{BoxFuture, FutureExt as _};
use tracing::warn;

use super::shared::DiskStore;
use super::store_thread::Inbox;
use crate::clock::{elapsed, mono};
use crate::cluster_view::ClusterView;
use crate::limits::Limits;
use crate::peer::PeerLinks;

/// Where the requests to the own store are driven.
pub(crate) struct NodeSite {
    inbox: Arc<Inbox>,
    /// The way of requests about transactions; set once it exists.
    sender: OnceLock<Weak<DistSender>>,
    contention: ContentionMetrics,
    /// How long a thread evaluates before it lets others run.
    run_for: Duration,
}

impl NodeSite {
    pub(crate) fn new(inbox: Arc<Inbox>, limits: &Limits) -> Self {
        let run_for = limits.run_for;
        Self { inbox, sender: OnceLock::new(), contention: ContentionMetrics::default(), run_for }
    }

    /// What waits for locks cost here so far.
    pub(crate) fn contention(&self) -> ContentionCounts {
        self.contention.snapshot()
    }

    /// Gives the site its way to the records of transactions.
    pub(crate) fn connect(&self, sender: &Arc<DistSender>) {
        // Set once: a node has one sender in its life.
        drop(self.sender.set(Arc::downgrade(sender)));
    }
}

impl Site for NodeSite {
    fn mono(&self) -> Mono {
        mono()
    }

    fn propose(&self, proposal: Proposal) {
        self.inbox.push(Input::Propose(proposal));
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn sender(&self) -> Option<Arc<dyn Sender>> {
        let sender: Arc<dyn Sender> = self.sender.get()?.upgrade()?;
        Some(sender)
    }

    /// A statement that finds all it asks for here never waits for anything: it lets others run now
    /// and then, among them the timers of the runtime.
    fn at(&self, _: YieldPoint, _: Option<RangeId>) -> Option<BoxFuture<'static, ()>> {
        thread_local! {
            static YIELDED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
        }
        let now = elapsed();
        if now.saturating_sub(YIELDED.get()) < self.run_for {
            return None;
        }
        YIELDED.set(now);
        Some(Box::pin(tokio::task::yield_now()))
    }

    fn metrics(&self) -> Option<&ContentionMetrics> {
        Some(&self.contention)
    }

    #[cfg(feature = "planted-bugs")]
    fn staging_is_aborted(&self) -> bool {
        let planted = super::planted::from_env().ok().and_then(|(_, bug)| bug);
        planted == Some(crdb_kv::PlantedTxnBug::StagingIsAborted)
    }
}

/// The [`Transport`] of a node.
pub(crate) struct NodeTransport {
    pub(crate) node: NodeId,
    pub(crate) store: DiskStore,
    pub(crate) site: Arc<NodeSite>,
    pub(crate) links: Arc<PeerLinks>,
    pub(crate) clock: Clock,
    pub(crate) view: Arc<ClusterView>,
    /// How often a batch of the own store gives a sign of life.
    pub(crate) sign_of_life: Duration,
}

impl NodeTransport {
    /// Evaluates a batch here, with signs of life as another node would give them.
    async fn serve(&self, batch: BatchRequest, life: &Life) -> BatchResponse {
        let range = RangeId(batch.header.as_ref().map_or(0, |header| header.range_id));
        let served = contention::serve(&self.store, batch, &*self.site);
        let mut served = pin!(served);
        // Most are done at once.
        if let Some(response) = served.as_mut().now_or_never() {
            return response;
        }
        let mut signs = tokio::time::interval(self.sign_of_life);
        loop {
            tokio::select! {
                response = &mut served => return response,
                _ = signs.tick() => {
                    if self.store.holds_lease(range, mono()) {
                        life.seen(elapsed());
                    }
                }
            }
        }
    }
}

impl Transport for NodeTransport {
    fn local_node(&self) -> NodeId {
        self.node
    }

    fn shared_tiers(&self, node: NodeId) -> usize {
        self.view.shared_tiers(self.node, node)
    }

    fn send(
        &self,
        node: NodeId,
        mut batch: BatchRequest,
        life: Life,
    ) -> BoxFuture<'_, Result<BatchResponse, TransportError>> {
        Box::pin(async move {
            if node == self.node {
                return Ok(self.serve(batch, &life).await);
            }
            if let Some(header) = &mut batch.header {
                header.now = Some(self.clock.now().into());
            }
            let sign = move || life.seen(elapsed());
            let response = self.links.send_batch(node, batch, sign).await?;
            if let Some(now) = response.now
                && let Err(error) = self.clock.update(now.into())
            {
                warn!(peer = %node, %error, "the clock of a peer is too far ahead");
            }
            Ok(response)
        })
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn elapsed(&self) -> Duration {
        elapsed()
    }
}
