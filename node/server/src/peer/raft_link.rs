//! The stream of raft batches to one peer.

use std::sync::Arc;
use std::time::Duration;

use crdb_keys::{NodeId, StoreId};
use crdb_proto::peer::{RaftBatch, RaftFrame};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::dial::{dial, resolve};
use super::{Identity, PeerBook, PeerHandler, hello};

/// Batches that wait to be sent; beyond, they are dropped and raft sends them again.
pub(super) const QUEUE: usize = 1024;
/// Frames handed to the connection and not yet taken by it.
const IN_FLIGHT: usize = 64;
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Keeps a stream to `node` open and sends what `queue` brings, until `stop`.
pub(super) async fn run(
    node: NodeId,
    own: Identity,
    book: Arc<dyn PeerBook>,
    handler: Arc<dyn PeerHandler>,
    mut queue: mpsc::Receiver<RaftBatch>,
    stop: CancellationToken,
) {
    let store = StoreId(node.get());
    let mut backoff = BACKOFF_MIN;
    loop {
        let session = async {
            match open(node, &own, book.as_ref()).await {
                Ok(frames) => {
                    backoff = BACKOFF_MIN;
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
        while queue.try_recv().is_ok() {}
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

struct Open {
    frames: mpsc::Sender<RaftFrame>,
    acks: tonic::Streaming<crdb_proto::peer::RaftFrameAck>,
}

async fn open(node: NodeId, own: &Identity, book: &dyn PeerBook) -> Result<Open, String> {
    let peer = book.peer_address(node).ok_or_else(|| format!("no address of {node} is known"))?;
    let mut problem = format!("{} resolves to no address", peer.address);
    for target in resolve(&peer.address).await? {
        let mut client = match dial(target).await {
            Ok(client) => client,
            Err(error) => {
                problem = error;
                continue;
            }
        };
        let (frames, outbound) = mpsc::channel(IN_FLIGHT);
        let opening =
            RaftFrame { hello: Some(hello::hello(own, node, &peer.store_uuid)), batch: None };
        // The channel is empty: there is room for one frame.
        if frames.try_send(opening).is_err() {
            continue;
        }
        let call = client.raft(ReceiverStream::new(outbound));
        match tokio::time::timeout(Duration::from_secs(2), call).await {
            Ok(Ok(response)) => return Ok(Open { frames, acks: response.into_inner() }),
            Ok(Err(status)) => problem = format!("{target} refused: {}", status.message()),
            Err(_) => problem = format!("{target} did not answer"),
        }
    }
    Err(problem)
}

/// Sends until either side ends; returns why.
async fn pump(queue: &mut mpsc::Receiver<RaftBatch>, mut open: Open) -> String {
    let send = async {
        while let Some(batch) = queue.recv().await {
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
