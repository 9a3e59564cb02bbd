//! The stream of raft batches to one peer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crdb_keys::{NodeId, StoreId};
use crdb_proto::peer::{RaftBatch, RaftFrame};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::dial::{dial, resolve};
use super::{Identity, PeerBook, PeerHandler, hello};
use crate::limits::Limits;

/// Batches that wait for a connection, bounded by their number and their bytes.
#[derive(Debug)]
pub(super) struct Queue {
    batches: mpsc::Sender<RaftBatch>,
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// The end of a [`Queue`] from which batches are sent.
#[derive(Debug)]
pub(super) struct Queued {
    batches: mpsc::Receiver<RaftBatch>,
    bytes: Arc<AtomicUsize>,
}

/// Both ends of a queue.
pub(super) fn queue(limits: &Limits) -> (Queue, Queued) {
    let (sender, receiver) = mpsc::channel(limits.raft_link_batches);
    let bytes = Arc::<AtomicUsize>::default();
    let queue =
        Queue { batches: sender, bytes: Arc::clone(&bytes), bytes_max: limits.raft_link_bytes };
    (queue, Queued { batches: receiver, bytes })
}

impl Queue {
    /// Queues a batch, or drops it if too many wait, as the network may: raft repeats itself.
    pub(super) fn push(&self, batch: RaftBatch) {
        let bytes = batch.encoded_len();
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before + bytes <= self.bytes_max;
        if !fits || self.batches.try_send(batch).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Queued {
    async fn next(&mut self) -> Option<RaftBatch> {
        let batch = self.batches.recv().await?;
        self.bytes.fetch_sub(batch.encoded_len(), Ordering::Relaxed);
        Some(batch)
    }

    fn clear(&mut self) {
        while let Ok(batch) = self.batches.try_recv() {
            self.bytes.fetch_sub(batch.encoded_len(), Ordering::Relaxed);
        }
    }
}

/// Keeps a stream to `node` open and sends what `queue` brings, until `stop`.
pub(super) async fn run(
    node: NodeId,
    own: Identity,
    book: Arc<dyn PeerBook>,
    handler: Arc<dyn PeerHandler>,
    mut queue: Queued,
    limits: Limits,
    stop: CancellationToken,
) {
    let store = StoreId(node.get());
    let mut backoff = limits.raft_backoff_min;
    loop {
        let session = async {
            match open(node, &own, book.as_ref(), &limits).await {
                Ok(frames) => {
                    backoff = limits.raft_backoff_min;
                    info!(peer = %node, "raft stream open");
                    pump(&mut queue, frames).await
                }
                Err(reason) => reason,
            }
        };
        let reason = tokio::select! {
            () = stop.cancelled() => return,
            reason = session => reason,
        };
        debug!(peer = %node, %reason, "raft stream closed");
        handler.unreachable(store);
        // What waited is old by the time the stream is open again.
        queue.clear();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(limits.raft_backoff_max);
    }
}

struct Open {
    frames: mpsc::Sender<RaftFrame>,
    acks: tonic::Streaming<crdb_proto::peer::RaftFrameAck>,
}

async fn open(
    node: NodeId,
    own: &Identity,
    book: &dyn PeerBook,
    limits: &Limits,
) -> Result<Open, String> {
    let peer = book.peer_address(node).ok_or_else(|| format!("no address of {node} is known"))?;
    let mut problem = format!("{} resolves to no address", peer.address);
    for target in resolve(&peer.address, limits).await? {
        let mut client = match dial(target, limits).await {
            Ok(client) => client,
            Err(error) => {
                problem = error;
                continue;
            }
        };
        let (frames, outbound) = mpsc::channel(limits.raft_frames_in_flight);
        let opening =
            RaftFrame { hello: Some(hello::hello(own, node, &peer.store_uuid)), batch: None };
        // The channel is empty: there is room for one frame.
        if frames.try_send(opening).is_err() {
            continue;
        }
        let call = client.raft(ReceiverStream::new(outbound));
        match tokio::time::timeout(limits.call_timeout, call).await {
            Ok(Ok(response)) => return Ok(Open { frames, acks: response.into_inner() }),
            Ok(Err(status)) => problem = format!("{target} refused: {}", status.message()),
            Err(_) => problem = format!("{target} did not answer"),
        }
    }
    Err(problem)
}

/// Sends until either side ends; returns why.
async fn pump(queue: &mut Queued, mut open: Open) -> String {
    let send = async {
        while let Some(batch) = queue.next().await {
            let frame = RaftFrame { hello: None, batch: Some(batch) };
            if open.frames.send(frame).await.is_err() {
                break;
            }
        }
        "the connection takes no more".to_owned()
    };
    let watch = async {
        loop {
            match open.acks.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return "the peer ended the stream".to_owned(),
                Err(status) => return status.message().to_owned(),
            }
        }
    };
    tokio::select! {
        reason = send => reason,
        reason = watch => reason,
    }
}
