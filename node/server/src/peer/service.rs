//! The incoming side of the peer transport: the gRPC service `crdb.peer.v1.Peer`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crdb_keys::{NodeId, StoreId};
use crdb_proto::kv::{BatchResponse, Error, Unavailable, error::Kind};
use crdb_proto::peer::peer_server::{Peer, PeerServer};
use crdb_proto::peer::{
    CancelSqlRequest, CancelSqlResponse, GossipMessage, Hello, JoinRequest, JoinResponse, KvFrame,
    ListSqlSessionsRequest, ListSqlSessionsResponse, PromiseRequest, PromiseResponse, RaftFrame,
    RaftFrameAck, SnapshotFrame, SnapshotResult,
};
use crdb_sql::Target;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};

use super::dial::MESSAGE_BYTES_MAX;
use super::{PeerHandler, hello};

/// Batches of one stream evaluated at a time; beyond, they wait.
const BATCHES_AT_A_TIME: usize = 1024;
/// Batches of one stream that were not answered yet, those that wait included; beyond, they are
/// refused. The stream is read in any case: the caller may give some of them up.
const BATCHES_MAX: usize = 4 * BATCHES_AT_A_TIME;
/// Bytes of one snapshot; a larger range must be split before it can move.
const SNAPSHOT_BYTES_MAX: usize = 1 << 30;

/// A peer that is refused tries again and again: it is logged once in this time.
const REFUSAL_LOG_PAUSE: Duration = Duration::from_secs(5);

/// The batches of one stream that are not answered yet. One that is given up leaves the queues it
/// waits in; what it has proposed goes on.
#[derive(Default)]
struct Running {
    tasks: HashMap<u64, AbortHandle>,
    /// How many there may be before those that are done are taken out.
    sweep_at: usize,
}

impl Running {
    fn add(&mut self, id: u64, task: AbortHandle) {
        self.tasks.insert(id, task);
        if self.tasks.len() > self.sweep_at {
            self.sweep();
        }
    }

    /// Looks at each batch once for every so many that came: the cost of one does not grow.
    fn sweep(&mut self) {
        self.tasks.retain(|_, task| !task.is_finished());
        self.sweep_at = (2 * self.tasks.len()).max(64);
    }

    fn has_room(&mut self) -> bool {
        if self.tasks.len() >= BATCHES_MAX {
            self.sweep();
        }
        self.tasks.len() < BATCHES_MAX
    }

    fn give_up(&mut self, id: u64) {
        if let Some(task) = self.tasks.remove(&id) {
            task.abort();
        }
    }

    fn give_up_all(self) {
        self.tasks.into_values().for_each(|task| task.abort());
    }
}

/// The answer to a batch for which there is no room: it was not looked at.
fn refused() -> BatchResponse {
    let message = format!("{BATCHES_MAX} batches of the node are not answered yet");
    let kind = Some(Kind::Unavailable(Unavailable {}));
    BatchResponse { error: Some(Error { message, kind }), ..BatchResponse::default() }
}

/// Serves the streams and calls of peers.
pub struct PeerService {
    handler: Arc<dyn PeerHandler>,
    tasks: TaskTracker,
    stop: CancellationToken,
    refusal_logged: Mutex<Option<Instant>>,
}

impl PeerService {
    /// The service, to be added to a gRPC server; its streams end with `stop`.
    pub fn new(
        handler: Arc<dyn PeerHandler>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> PeerServer<Self> {
        PeerServer::new(Self { handler, tasks, stop, refusal_logged: Mutex::new(None) })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn check(&self, hello: Option<&Hello>) -> Result<NodeId, Status> {
        let own = self.handler.identity();
        let from = hello::check(hello, own.as_ref(), |node| self.handler.known_store(node));
        from.map_err(|refusal| {
            let mut last = self.refusal_logged.lock();
            if last.is_none_or(|at| at.elapsed() > REFUSAL_LOG_PAUSE) {
                *last = Some(Instant::now());
                warn!(%refusal, "stream of a peer refused");
            }
            refusal.into()
        })
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type RaftStream = ReceiverStream<Result<RaftFrameAck, Status>>;
    type KvStream = ReceiverStream<Result<KvFrame, Status>>;

    async fn raft(
        &self,
        request: Request<Streaming<RaftFrame>>,
    ) -> Result<Response<Self::RaftStream>, Status> {
        let mut frames = request.into_inner();
        let opening = frames.message().await?;
        let from = self.check(opening.as_ref().and_then(|frame| frame.hello.as_ref()))?;
        let store = StoreId(from.get());
        let (acks, stream) = mpsc::channel(1);
        let (handler, stop) = (Arc::clone(&self.handler), self.stop.clone());
        self.tasks.spawn(async move {
            loop {
                let frame = tokio::select! {
                    () = stop.cancelled() => break,
                    () = acks.closed() => break,
                    frame = frames.message() => frame,
                };
                match frame {
                    Ok(Some(RaftFrame { batch: Some(batch), .. })) => handler.raft(store, batch),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
            debug!(peer = %from, "raft stream from peer ended");
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotFrame>>,
    ) -> Result<Response<SnapshotResult>, Status> {
        let mut stream = request.into_inner();
        let opening = stream.message().await?;
        let from = self.check(opening.as_ref().and_then(|frame| frame.hello.as_ref()))?;
        let (mut frames, mut bytes, mut done) = (Vec::new(), 0_usize, false);
        while let Some(frame) = stream.message().await? {
            bytes += frame.entries.iter().map(|e| e.key.len() + e.value.len()).sum::<usize>();
            if bytes > SNAPSHOT_BYTES_MAX {
                return Err(Status::resource_exhausted("the snapshot is larger than 1 GiB"));
            }
            done = frame.done;
            frames.push(frame);
        }
        if !done {
            return Err(Status::aborted("the snapshot ended before its last frame"));
        }
        Ok(Response::new(self.handler.snapshot(StoreId(from.get()), frames)))
    }

    async fn kv(
        &self,
        request: Request<Streaming<KvFrame>>,
    ) -> Result<Response<Self::KvStream>, Status> {
        let mut frames = request.into_inner();
        let opening = frames.message().await?;
        let from = self.check(opening.as_ref().and_then(|frame| frame.hello.as_ref()))?;
        let (answers, stream) = mpsc::channel(BATCHES_AT_A_TIME);
        let (handler, stop) = (Arc::clone(&self.handler), self.stop.clone());
        let tasks = self.tasks.clone();
        self.tasks.spawn(async move {
            let room = Arc::new(Semaphore::new(BATCHES_AT_A_TIME));
            let mut running = Running::default();
            loop {
                let frame = tokio::select! {
                    () = stop.cancelled() => break,
                    () = answers.closed() => break,
                    frame = frames.message() => frame,
                };
                let Ok(Some(KvFrame { id, request, given_up, .. })) = frame else { break };
                if given_up {
                    running.give_up(id);
                }
                let Some(batch) = request else { continue };
                if !running.has_room() {
                    let frame = KvFrame { id, response: Some(refused()), ..KvFrame::default() };
                    if answers.send(Ok(frame)).await.is_err() {
                        break;
                    }
                    continue;
                }
                let (handler, answers) = (Arc::clone(&handler), answers.clone());
                let (stop, room) = (stop.clone(), Arc::clone(&room));
                let task = tasks.spawn(async move {
                    let Ok(permit) = room.acquire_owned().await else { return };
                    let response = tokio::select! {
                        // The stream ends without this answer: the caller knows it is lost.
                        () = stop.cancelled() => return,
                        response = handler.batch(batch) => Some(response),
                    };
                    let frame = KvFrame { id, response, ..KvFrame::default() };
                    // The caller may be gone: then it knows that its answer is lost.
                    drop(answers.send(Ok(frame)).await);
                    drop(permit);
                });
                running.add(id, task.abort_handle());
            }
            running.give_up_all();
            debug!(peer = %from, "key-value stream from peer ended");
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        Arc::clone(&self.handler).join(request.into_inner()).await.map(Response::new)
    }

    async fn promise(
        &self,
        request: Request<PromiseRequest>,
    ) -> Result<Response<PromiseResponse>, Status> {
        Ok(Response::new(self.handler.promise(request.get_ref())))
    }

    async fn gossip(
        &self,
        request: Request<GossipMessage>,
    ) -> Result<Response<GossipMessage>, Status> {
        let message = request.into_inner();
        self.check(message.hello.as_ref())?;
        self.handler.gossip(message).map(Response::new)
    }

    async fn list_sql_sessions(
        &self,
        request: Request<ListSqlSessionsRequest>,
    ) -> Result<Response<ListSqlSessionsResponse>, Status> {
        self.check(request.get_ref().hello.as_ref())?;
        let sessions = self.handler.sql_sessions();
        Ok(Response::new(ListSqlSessionsResponse { sessions }))
    }

    async fn cancel_sql(
        &self,
        request: Request<CancelSqlRequest>,
    ) -> Result<Response<CancelSqlResponse>, Status> {
        let request = request.get_ref();
        self.check(request.hello.as_ref())?;
        let id = <[u8; 16]>::try_from(&*request.id).map(u128::from_be_bytes);
        let id = id.map_err(|_| Status::invalid_argument("an id has 16 bytes"))?;
        let target = if request.session { Target::Session(id) } else { Target::Query(id) };
        Ok(Response::new(CancelSqlResponse { found: self.handler.cancel_sql(target) }))
    }
}
