//! The way of batches: to the own store directly, to others over their streams.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crdb_keys::NodeId;
use crdb_keys::hlc::Clock;
use crdb_kv::{Transport, TransportError};
use crdb_proto::kv::{BatchRequest, BatchResponse};
use crdb_raftstore::{Input, Progress};
use futures::future::BoxFuture;
use tracing::warn;

use super::shared::DiskStore;
use super::store_thread::Inbox;
use crate::clock::{elapsed, mono};
use crate::peer::PeerLinks;

/// A request that waits for a lease or a lock looks again after this long, woken or not.
const RECHECK: Duration = Duration::from_millis(100);

/// Evaluates `batch` on the own store, on the caller's task.
pub(crate) async fn evaluate(
    store: &DiskStore,
    inbox: &Inbox,
    batch: BatchRequest,
) -> BatchResponse {
    let mut evaluation = store.evaluate(batch, mono());
    let mut recheck: Option<std::pin::Pin<Box<tokio::time::Sleep>>> = None;
    poll_fn(|cx| {
        loop {
            match evaluation.poll(mono(), cx.waker()) {
                Progress::Yield(_) => {}
                Progress::Propose(proposal) => inbox.push(Input::Propose(proposal)),
                Progress::WaitLatch | Progress::WaitProposal => return Poll::Pending,
                Progress::WaitLease | Progress::WaitLock(_) => {
                    let timer = recheck.insert(Box::pin(tokio::time::sleep(RECHECK)));
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Progress::Done(response) => return Poll::Ready(*response),
            }
        }
    })
    .await
}

/// The [`Transport`] of a node.
pub(crate) struct NodeTransport {
    pub(crate) node: NodeId,
    pub(crate) store: DiskStore,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) links: Arc<PeerLinks>,
    pub(crate) clock: Clock,
}

impl Transport for NodeTransport {
    fn local_node(&self) -> NodeId {
        self.node
    }

    fn send(
        &self,
        node: NodeId,
        mut batch: BatchRequest,
    ) -> BoxFuture<'_, Result<BatchResponse, TransportError>> {
        Box::pin(async move {
            if node == self.node {
                return Ok(evaluate(&self.store, &self.inbox, batch).await);
            }
            if let Some(header) = &mut batch.header {
                header.now = Some(self.clock.now().into());
            }
            let response = self.links.send_batch(node, batch).await?;
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
