//! The stream of key-value batches to one peer.
//!
//! Invariant: a batch is reported as not sent only if it was never handed to the connection. Once
//! it was, and the stream ends without its answer, it is lost: it may have been received.
//!
//! While the peer works on a batch it says so now and then, and the caller hears it.
//!
//! A caller that gives up drops its end of the answer. Now and then those are looked for among the
//! batches under way, and the peer hears that nobody waits for them any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crdb_keys::NodeId;
use crdb_kv::TransportError;
use crdb_proto::kv::{BatchRequest, BatchResponse, Error, Invalid, error::Kind};
use crdb_proto::peer::KvFrame;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::dial::{dial, resolve};
use super::{Identity, PeerBook, hello};
use crate::limits::Limits;

/// One batch and where its answer goes.
pub(super) struct Call {
    pub(super) batch: BatchRequest,
    pub(super) caller: Caller,
}

/// Who waits for the answer to a batch.
pub(super) struct Caller {
    pub(super) answer: oneshot::Sender<Result<BatchResponse, TransportError>>,
    /// Called each time the peer says that it works on the batch.
    pub(super) sign: Sign,
}

/// What hears that a batch is worked on.
pub(super) type Sign = Box<dyn Fn() + Send + Sync>;

impl Caller {
    fn is_gone(&self) -> bool {
        self.answer.is_closed()
    }

    fn tell(self, answer: Result<BatchResponse, TransportError>) {
        // The caller may have given up waiting: then nobody needs the answer.
        drop(self.answer.send(answer));
    }
}

type Pending = Mutex<HashMap<u64, Caller>>;

/// Sends what `queue` brings to `node`, connecting when there is something to send, until `stop`.
pub(super) async fn run(
    node: NodeId,
    own: Identity,
    book: Arc<dyn PeerBook>,
    mut queue: mpsc::Receiver<Call>,
    limits: Limits,
    stop: CancellationToken,
) {
    let mut failed: Option<(Instant, String)> = None;
    loop {
        let first = tokio::select! {
            () = stop.cancelled() => return,
            first = queue.recv() => first,
        };
        let Some(first) = first else { return };
        if first.caller.is_gone() {
            continue;
        }
        if let Some((at, reason)) = &failed
            && at.elapsed() < limits.kv_refuse_for
        {
            refuse(first, reason);
            continue;
        }
        let session = async {
            match open(node, &own, book.as_ref(), &limits).await {
                Ok(open) => {
                    info!(peer = %node, "key-value stream open");
                    pump(first, &mut queue, open, &limits).await;
                    None
                }
                Err(reason) => {
                    refuse(first, &reason);
                    while let Ok(call) = queue.try_recv() {
                        refuse(call, &reason);
                    }
                    Some((Instant::now(), reason))
                }
            }
        };
        failed = tokio::select! {
            () = stop.cancelled() => return,
            failed = session => failed,
        };
    }
}

fn refuse(call: Call, reason: &str) {
    call.caller.tell(Err(TransportError::NotSent(reason.to_owned())));
}

struct Open {
    frames: mpsc::Sender<KvFrame>,
    answers: tonic::Streaming<KvFrame>,
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
        let (frames, outbound) = mpsc::channel(limits.kv_frames_in_flight);
        let greeting = hello::hello(own, node, &peer.store_uuid);
        let opening = KvFrame { hello: Some(greeting), ..KvFrame::default() };
        // The channel is empty: there is room for one frame.
        if frames.try_send(opening).is_err() {
            continue;
        }
        let call = client.kv(ReceiverStream::new(outbound));
        match tokio::time::timeout(limits.call_timeout, call).await {
            Ok(Ok(response)) => return Ok(Open { frames, answers: response.into_inner() }),
            Ok(Err(status)) => problem = format!("{target} refused: {}", status.message()),
            Err(_) => problem = format!("{target} did not answer"),
        }
    }
    Err(problem)
}

/// Sends batches and hands out answers until the stream ends.
async fn pump(first: Call, queue: &mut mpsc::Receiver<Call>, open: Open, limits: &Limits) {
    let pending: Pending = Mutex::new(HashMap::new());
    // Number of the latest batch handed to the connection.
    let sent = AtomicU64::new(0);
    let Open { frames, mut answers } = open;
    let send = async {
        let mut next = Some(first);
        let mut id = 0_u64;
        while let Some(call) = next {
            if call.caller.is_gone() {
                next = queue.recv().await;
                continue;
            }
            id += 1;
            let frame = KvFrame { id, request: Some(call.batch), ..KvFrame::default() };
            if frame.encoded_len() > limits.message_bytes_max {
                // The connection would end at it, and all others with it.
                call.caller.tell(Ok(too_large(&frame, limits.message_bytes_max)));
                next = queue.recv().await;
                continue;
            }
            pending.lock().insert(id, call.caller);
            if let Err(unsent) = frames.send(frame).await {
                let caller = pending.lock().remove(&unsent.0.id);
                if let Some(caller) = caller {
                    let reason = "the connection takes no more".to_owned();
                    caller.tell(Err(TransportError::NotSent(reason)));
                }
                return "the connection takes no more".to_owned();
            }
            sent.store(id, Ordering::Relaxed);
            next = queue.recv().await;
        }
        "the node is stopping".to_owned()
    };
    let receive = async {
        loop {
            match answers.message().await {
                Ok(Some(frame)) => {
                    let mut pending = pending.lock();
                    for caller in frame.working.iter().filter_map(|id| pending.get(id)) {
                        (caller.sign)();
                    }
                    let caller = pending.remove(&frame.id);
                    drop(pending);
                    if let (Some(caller), Some(response)) = (caller, frame.response) {
                        caller.tell(Ok(response));
                    }
                }
                Ok(None) => return "the peer ended the stream".to_owned(),
                Err(status) => return status.message().to_owned(),
            }
        }
    };
    let reason = tokio::select! {
        reason = send => reason,
        reason = receive => reason,
        () = tell_given_up(&pending, &sent, &frames, limits.kv_sweep) => "unreachable".to_owned(),
    };
    debug!(%reason, "key-value stream closed");
    for (_, caller) in pending.lock().drain() {
        caller.tell(Err(TransportError::Lost(reason.clone())));
    }
}

/// The answer to a batch that no message can hold: it was not sent.
fn too_large(frame: &KvFrame, max: usize) -> BatchResponse {
    let bytes = frame.encoded_len();
    let message = format!("a batch of {bytes} bytes is too large to send, the most is {max}");
    let kind = Some(Kind::Invalid(Invalid {}));
    BatchResponse { error: Some(Error { message, kind }), ..BatchResponse::default() }
}

/// Tells the peer which of the batches that it was sent nobody waits for any more.
async fn tell_given_up(
    pending: &Pending,
    sent: &AtomicU64,
    frames: &mpsc::Sender<KvFrame>,
    every: Duration,
) {
    let mut given_up: Vec<u64> = Vec::new();
    loop {
        tokio::time::sleep(every).await;
        let sent = sent.load(Ordering::Relaxed);
        let closed =
            |(id, caller): (&u64, &Caller)| (*id <= sent && caller.is_gone()).then_some(*id);
        given_up.extend(pending.lock().iter().filter_map(closed));
        for id in given_up.drain(..) {
            // A connection that takes no more now is asked again in the next round.
            if frames.try_send(KvFrame { id, given_up: true, ..KvFrame::default() }).is_ok() {
                pending.lock().remove(&id);
            }
        }
    }
}
