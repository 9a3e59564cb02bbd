//! The incoming side of the peer transport: the gRPC service `crdb.peer.v1.Peer`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crdb_keys::{NodeId, RangeId, StoreId};
use crdb_proto::kv::{
    Ambiguous, BatchRequest, BatchResponse, Error, Invalid, Unavailable, error::Kind,
    request::Kind as Request,
};
use crdb_proto::peer::peer_server::{Peer, PeerServer};
use crdb_proto::peer::{
    CancelSqlRequest, CancelSqlResponse, GossipMessage, Hello, JoinRequest, JoinResponse, KvFrame,
    ListSqlSessionsRequest, ListSqlSessionsResponse, PromiseRequest, PromiseResponse, RaftFrame,
    RaftFrameAck, SnapshotFrame, SnapshotResult,
};
use crdb_sql::Target;
use crdb_storage::evaluate::is_read_only;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request as Call, Response, Status, Streaming};
use tracing::{debug, warn};

use super::{PeerHandler, hello};
use crate::limits::Limits;

/// A peer that is refused tries again and again: it is logged once in this time.
const REFUSAL_LOG_PAUSE: Duration = Duration::from_secs(5);

/// The evaluation of a batch.
struct Task {
    handle: AbortHandle,
    range: RangeId,
}

/// The batches of one stream that are not answered yet. One that is given up leaves the queues it
/// waits in; what it has proposed goes on.
#[derive(Default)]
struct Running {
    tasks: HashMap<u64, Task>,
    /// How many there may be before those that are done are taken out.
    sweep_at: usize,
}

impl Running {
    fn add(&mut self, id: u64, task: Task) {
        self.tasks.insert(id, task);
        if self.tasks.len() > self.sweep_at {
            self.sweep();
        }
    }

    /// Looks at each batch once for every so many that came: the cost of one does not grow.
    fn sweep(&mut self) {
        self.tasks.retain(|_, task| !task.handle.is_finished());
        self.sweep_at = (2 * self.tasks.len()).max(64);
    }

    /// Whether there are fewer than `max`.
    fn has_room(&mut self, max: usize) -> bool {
        if self.tasks.len() >= max {
            self.sweep();
        }
        self.tasks.len() < max
    }

    fn give_up(&mut self, id: u64) {
        if let Some(task) = self.tasks.remove(&id) {
            task.handle.abort();
        }
    }

    /// Those that are worked on in ranges that are served here: a leaseholder that was cut off may
    /// never come to an end, and says so by its silence.
    fn working(&mut self, serves: impl Fn(RangeId) -> bool) -> Vec<u64> {
        self.sweep();
        let mut served: HashMap<RangeId, bool> = HashMap::new();
        let mut is_served = |range| *served.entry(range).or_insert_with(|| serves(range));
        let tasks = self.tasks.iter();
        tasks.filter(|(_, task)| is_served(task.range)).map(|(id, _)| *id).collect()
    }

    fn give_up_all(self) {
        self.tasks.into_values().for_each(|task| task.handle.abort());
    }
}

/// Whether a batch ends what others wait for, and waits for no lock itself. Those that wait must not
/// keep it out.
fn ends_waits(batch: &BatchRequest) -> bool {
    batch.requests.iter().all(|request| {
        matches!(
            request.kind,
            Some(
                Request::EndTxn(_)
                    | Request::HeartbeatTxn(_)
                    | Request::PushTxn(_)
                    | Request::QueryTxn(_)
                    | Request::QueryIntent(_)
                    | Request::RecoverTxn(_)
                    | Request::ResolveIntent(_)
                    | Request::RevertIntent(_)
                    | Request::ReleaseLocks(_)
                    | Request::RemoveTxnRecord(_)
            )
        )
    })
}

fn failed(message: String, kind: Kind) -> BatchResponse {
    let error = Some(Error { message, kind: Some(kind) });
    BatchResponse { error, ..BatchResponse::default() }
}

/// The answer to a batch for which there is no room: it was not looked at.
fn refused(max: usize) -> BatchResponse {
    let message = format!("{max} batches of the node are not answered yet");
    failed(message, Kind::Unavailable(Unavailable {}))
}

/// `frame`, or one that says that the answer is too large for a message, at which the stream would
/// end with all batches on it. What a batch that `writes` wrote is written.
fn sendable(frame: KvFrame, writes: bool, max: usize) -> KvFrame {
    let bytes = frame.encoded_len();
    if bytes <= max {
        return frame;
    }
    let message = format!("the answer of {bytes} bytes is too large to send, the most is {max}");
    let kind = if writes { Kind::Ambiguous(Ambiguous {}) } else { Kind::Invalid(Invalid {}) };
    KvFrame { response: Some(failed(message, kind)), ..frame }
}

/// Serves the streams and calls of peers.
pub struct PeerService {
    handler: Arc<dyn PeerHandler>,
    limits: Limits,
    /// One for each snapshot that is being received: each is held in memory.
    snapshots: Semaphore,
    /// Where batches are evaluated: not where bytes are carried.
    evaluators: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    refusal_logged: Mutex<Option<Instant>>,
}

impl PeerService {
    /// The service, to be added to a gRPC server; its streams end with `stop`, its batches are
    /// evaluated on `evaluators`.
    pub fn new(
        handler: Arc<dyn PeerHandler>,
        limits: Limits,
        evaluators: Handle,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> PeerServer<Self> {
        let (max, snapshots) =
            (limits.message_bytes_max, Semaphore::new(limits.snapshots_received));
        let refusal_logged = Mutex::new(None);
        PeerServer::new(Self {
            handler,
            limits,
            snapshots,
            evaluators,
            tasks,
            stop,
            refusal_logged,
        })
        .max_decoding_message_size(max)
        .max_encoding_message_size(max)
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
        request: Call<Streaming<RaftFrame>>,
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
        request: Call<Streaming<SnapshotFrame>>,
    ) -> Result<Response<SnapshotResult>, Status> {
        let mut stream = request.into_inner();
        let opening = stream.message().await?;
        let from = self.check(opening.as_ref().and_then(|frame| frame.hello.as_ref()))?;
        // The semaphore is never closed.
        let _turn = self.snapshots.acquire().await;
        let (mut frames, mut bytes, mut done) = (Vec::new(), 0_usize, false);
        while let Some(frame) = stream.message().await? {
            bytes += frame.entries.iter().map(|e| e.key.len() + e.value.len()).sum::<usize>();
            let max = self.limits.snapshot_bytes_max;
            if bytes > max {
                let text = format!("the snapshot is larger than {max} bytes");
                return Err(Status::resource_exhausted(text));
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
        request: Call<Streaming<KvFrame>>,
    ) -> Result<Response<Self::KvStream>, Status> {
        let mut frames = request.into_inner();
        let opening = frames.message().await?;
        let from = self.check(opening.as_ref().and_then(|frame| frame.hello.as_ref()))?;
        let limits = self.limits;
        let (answers, stream) = mpsc::channel(limits.answers_in_flight);
        let (handler, stop) = (Arc::clone(&self.handler), self.stop.clone());
        let (tasks, evaluators) = (self.tasks.clone(), self.evaluators.clone());
        self.tasks.spawn(async move {
            let mut running = Running::default();
            let mut signs = tokio::time::interval(limits.sign_of_life);
            signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let frame = tokio::select! {
                    () = stop.cancelled() => break,
                    () = answers.closed() => break,
                    frame = frames.message() => frame,
                    _ = signs.tick() => {
                        let working = running.working(|range| handler.serves(range));
                        if !working.is_empty() {
                            // A connection that takes no more has answers, which say as much.
                            drop(answers.try_send(Ok(KvFrame { working, ..KvFrame::default() })));
                        }
                        continue;
                    }
                };
                let Ok(Some(KvFrame { id, request, given_up, .. })) = frame else { break };
                if given_up {
                    running.give_up(id);
                }
                let Some(batch) = request else { continue };
                let writes = !is_read_only(&batch);
                let max = limits.batches_max * if ends_waits(&batch) { 2 } else { 1 };
                if !running.has_room(max) {
                    let response = Some(refused(max));
                    let frame = KvFrame { id, response, ..KvFrame::default() };
                    if answers.send(Ok(frame)).await.is_err() {
                        break;
                    }
                    continue;
                }
                let range = RangeId(batch.header.as_ref().map_or(0, |header| header.range_id));
                let (handler, answers) = (Arc::clone(&handler), answers.clone());
                let stop = stop.clone();
                let work = async move {
                    let response = tokio::select! {
                        // The stream ends without this answer: the caller knows it is lost.
                        () = stop.cancelled() => return,
                        response = handler.batch(batch) => Some(response),
                    };
                    let frame = KvFrame { id, response, ..KvFrame::default() };
                    let frame = sendable(frame, writes, limits.message_bytes_max);
                    // The caller may be gone: then it knows that its answer is lost.
                    drop(answers.send(Ok(frame)).await);
                };
                let task = tasks.spawn_on(work, &evaluators);
                running.add(id, Task { handle: task.abort_handle(), range });
            }
            running.give_up_all();
            debug!(peer = %from, "key-value stream from peer ended");
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn join(&self, request: Call<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        Arc::clone(&self.handler).join(request.into_inner()).await.map(Response::new)
    }

    async fn promise(
        &self,
        request: Call<PromiseRequest>,
    ) -> Result<Response<PromiseResponse>, Status> {
        Ok(Response::new(self.handler.promise(request.get_ref())))
    }

    async fn gossip(
        &self,
        request: Call<GossipMessage>,
    ) -> Result<Response<GossipMessage>, Status> {
        let message = request.into_inner();
        self.check(message.hello.as_ref())?;
        self.handler.gossip(message).map(Response::new)
    }

    async fn list_sql_sessions(
        &self,
        request: Call<ListSqlSessionsRequest>,
    ) -> Result<Response<ListSqlSessionsResponse>, Status> {
        self.check(request.get_ref().hello.as_ref())?;
        let sessions = self.handler.sql_sessions();
        Ok(Response::new(ListSqlSessionsResponse { sessions }))
    }

    async fn cancel_sql(
        &self,
        request: Call<CancelSqlRequest>,
    ) -> Result<Response<CancelSqlResponse>, Status> {
        let request = request.get_ref();
        self.check(request.hello.as_ref())?;
        let id = <[u8; 16]>::try_from(&*request.id).map(u128::from_be_bytes);
        let id = id.map_err(|_| Status::invalid_argument("an id has 16 bytes"))?;
        let target = if request.session { Target::Session(id) } else { Target::Query(id) };
        Ok(Response::new(CancelSqlResponse { found: self.handler.cancel_sql(target) }))
    }
}

#[cfg(test)]
mod tests {
    use crdb_proto::kv::{EndTxnRequest, GetRequest, GetResponse, response};

    use super::*;

    fn answer(bytes: usize) -> KvFrame {
        let get = GetResponse { value: Some(vec![0; bytes].into()), ..GetResponse::default() };
        let answer = crdb_proto::kv::Response { kind: Some(response::Kind::Get(get)) };
        let response = BatchResponse { responses: vec![answer], ..BatchResponse::default() };
        KvFrame { id: 3, response: Some(response), ..KvFrame::default() }
    }

    #[test]
    fn an_answer_that_is_too_large_says_so_and_never_that_nothing_was_written() {
        assert_eq!(sendable(answer(500), false, 1_000), answer(500));
        let kind = |writes| {
            let frame = sendable(answer(1_000), writes, 1_000);
            assert_eq!(frame.id, 3);
            frame.response.unwrap().error.unwrap().kind.unwrap()
        };
        assert!(matches!(kind(false), Kind::Invalid(_)));
        assert!(matches!(kind(true), Kind::Ambiguous(_)));
    }

    #[test]
    fn only_what_waits_for_nobody_is_taken_beyond_the_bound() {
        let batch = |kinds: Vec<Request>| BatchRequest {
            header: None,
            requests: kinds
                .into_iter()
                .map(|kind| crdb_proto::kv::Request { kind: Some(kind) })
                .collect(),
        };
        let end = Request::EndTxn(EndTxnRequest::default());
        let get = Request::Get(GetRequest::default());
        assert!(ends_waits(&batch(vec![end.clone()])));
        assert!(!ends_waits(&batch(vec![end, get])));
    }
}
