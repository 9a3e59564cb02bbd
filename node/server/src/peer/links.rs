//! All links of this node to its peers, made when first used.

use std::collections::HashMap;
use std::sync::Arc;

use crdb_keys::NodeId;
use crdb_kv::TransportError;
use crdb_proto::kv::{BatchRequest, BatchResponse};
use crdb_proto::peer::{RaftBatch, SnapshotFrame};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Identity, PeerBook, PeerHandler, kv_link, raft_link, snapshot};
use crate::limits::Limits;

/// The outgoing side of the peer transport.
pub struct PeerLinks {
    own: Identity,
    limits: Limits,
    book: Arc<dyn PeerBook>,
    handler: Arc<dyn PeerHandler>,
    io: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    links: Mutex<HashMap<NodeId, Link>>,
}

struct Link {
    raft: raft_link::Queue,
    kv: mpsc::Sender<kv_link::Call>,
}

impl PeerLinks {
    /// Links that run on `io` until `stop`.
    pub fn new(
        own: Identity,
        limits: Limits,
        book: Arc<dyn PeerBook>,
        handler: Arc<dyn PeerHandler>,
        io: Handle,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { own, limits, book, handler, io, tasks, stop, links: Mutex::new(HashMap::new()) }
    }

    /// Queues a raft batch; drops it when the queue is full. Callable from any thread.
    pub fn send_raft(&self, to: NodeId, batch: RaftBatch) {
        self.with_link(to, |link| link.raft.push(batch));
    }

    /// Sends a batch and waits for its answer; `sign` is called each time the peer says that it
    /// works on it.
    pub async fn send_batch(
        &self,
        to: NodeId,
        batch: BatchRequest,
        sign: impl Fn() + Send + Sync + 'static,
    ) -> Result<BatchResponse, TransportError> {
        let (answer, answered) = oneshot::channel();
        let caller = kv_link::Caller { answer, sign: Box::new(sign) };
        let call = kv_link::Call { batch, caller };
        if !self.with_link(to, |link| link.kv.try_send(call).is_ok()) {
            let reason = format!("too many batches wait for the connection to {to}");
            return Err(TransportError::NotSent(reason));
        }
        // A dropped answer means that the link's task was stopped: what it had sent is unknown.
        let stopped = || TransportError::Lost("this node is stopping".to_owned());
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Streams a snapshot on a connection of its own; returns whether the peer took it.
    pub async fn send_snapshot(
        &self,
        to: NodeId,
        frames: mpsc::Receiver<SnapshotFrame>,
    ) -> Result<(), String> {
        snapshot::send(to, &self.own, self.book.as_ref(), frames, &self.limits).await
    }

    /// Hands the link to `to` to `send`, which must not block.
    fn with_link<T>(&self, to: NodeId, send: impl FnOnce(&Link) -> T) -> T {
        send(self.links.lock().entry(to).or_insert_with(|| self.open(to)))
    }

    fn open(&self, to: NodeId) -> Link {
        let (raft, raft_queue) = raft_link::queue(&self.limits);
        let (kv, kv_queue) = mpsc::channel(self.limits.kv_link_batches);
        let raft_link = raft_link::run(
            to,
            self.own.clone(),
            Arc::clone(&self.book),
            Arc::clone(&self.handler),
            raft_queue,
            self.limits,
            self.stop.clone(),
        );
        self.tasks.spawn_on(raft_link, &self.io);
        let kv_link = kv_link::run(
            to,
            self.own.clone(),
            Arc::clone(&self.book),
            kv_queue,
            self.limits,
            self.stop.clone(),
        );
        self.tasks.spawn_on(kv_link, &self.io);
        Link { raft, kv }
    }
}
