//! The peer transport over real sockets, with a handler that only takes notes.

use std::sync::Arc;
use std::time::Duration;

use crdb_keys::{NodeId, RangeId, StoreId};
use crdb_kv::TransportError;
use crdb_proto::kv::{BatchHeader, BatchRequest, BatchResponse, PutRequest, Request, request};
use crdb_proto::peer::{
    GossipMessage, JoinRequest, JoinResponse, PromiseRequest, PromiseResponse, RaftBatch,
    SnapshotFrame, SnapshotResult, SqlSession,
};
use crdb_sql::Target;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::{Identity, PeerAddress, PeerBook, PeerHandler, PeerLinks, PeerService};
use crate::limits::Limits;

struct Notes {
    identity: Identity,
    /// Batches are answered only when this is off.
    silent: bool,
    raft: Mutex<Vec<(StoreId, u64)>>,
    got_batch: Notify,
    /// Batches that were dropped without an answer.
    given_up: Notify,
}

struct GivenUp<'a>(&'a Notify);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl PeerHandler for Notes {
    fn identity(&self) -> Option<Identity> {
        Some(self.identity.clone())
    }

    fn known_store(&self, _: NodeId) -> Option<String> {
        None
    }

    fn raft(&self, from: StoreId, batch: RaftBatch) {
        self.raft.lock().push((from, batch.sequence));
    }

    fn serves(&self, range: RangeId) -> bool {
        range == RangeId(7)
    }

    fn batch(self: Arc<Self>, _: BatchRequest) -> BoxFuture<'static, BatchResponse> {
        Box::pin(async move {
            self.got_batch.notify_one();
            if self.silent {
                let _unanswered = GivenUp(&self.given_up);
                std::future::pending::<()>().await;
            }
            BatchResponse::default()
        })
    }

    fn snapshot(&self, _: StoreId, frames: Vec<SnapshotFrame>) -> SnapshotResult {
        SnapshotResult { accepted: true, message: frames.len().to_string() }
    }

    fn join(self: Arc<Self>, _: JoinRequest) -> BoxFuture<'static, Result<JoinResponse, Status>> {
        Box::pin(async { Err(Status::unavailable("not in this test")) })
    }

    fn promise(&self, _: &PromiseRequest) -> PromiseResponse {
        PromiseResponse::default()
    }

    fn gossip(&self, message: GossipMessage) -> Result<GossipMessage, Status> {
        Ok(message)
    }

    fn sql_sessions(&self) -> Vec<SqlSession> {
        Vec::new()
    }

    fn cancel_sql(&self, _: Target) -> bool {
        false
    }

    fn unreachable(&self, _: StoreId) {}
}

fn identity(node: u32) -> Identity {
    Identity {
        cluster_id: "c".into(),
        node_id: NodeId(node),
        store_uuid: format!("store-{node}"),
        incarnation: 1,
    }
}

fn notes(node: u32, silent: bool) -> Arc<Notes> {
    Arc::new(Notes {
        identity: identity(node),
        silent,
        raft: Mutex::default(),
        got_batch: Notify::new(),
        given_up: Notify::new(),
    })
}

struct Book(String);

impl PeerBook for Book {
    fn peer_address(&self, _: NodeId) -> Option<PeerAddress> {
        Some(PeerAddress { address: self.0.clone(), store_uuid: "store-2".into() })
    }
}

struct World {
    tasks: TaskTracker,
    stop: CancellationToken,
    server_stop: CancellationToken,
    links: PeerLinks,
}

/// Node 1's links to node 2, behind whose address `server` answers.
async fn world(server: &Arc<Notes>) -> World {
    let limits = Limits { sign_of_life: Duration::from_millis(50), ..Limits::default() };
    let (tasks, stop, server_stop) =
        (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
    let here = Handle::current();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service =
        PeerService::new(server.clone(), limits, here.clone(), tasks.clone(), server_stop.clone());
    let serving =
        tonic::transport::Server::builder().add_service(service).serve_with_incoming_shutdown(
            TcpListenerStream::new(listener),
            server_stop.clone().cancelled_owned(),
        );
    tasks.spawn(async move {
        serving.await.unwrap();
    });
    let book = Arc::new(Book(address));
    let own = notes(1, false);
    let links = PeerLinks::new(identity(1), limits, book, own, here, tasks.clone(), stop.clone());
    World { tasks, stop, server_stop, links }
}

impl World {
    async fn end(self) {
        self.stop.cancel();
        self.server_stop.cancel();
        self.tasks.close();
        tokio::time::timeout(Duration::from_secs(10), self.tasks.wait()).await.unwrap();
    }
}

#[tokio::test]
async fn batches_and_raft_reach_their_addressee() {
    let server = notes(2, false);
    let world = world(&server).await;
    for _ in 0..3 {
        world.links.send_batch(NodeId(2), BatchRequest::default(), || {}).await.unwrap();
    }
    for sequence in 1..=3 {
        world.links.send_raft(NodeId(2), RaftBatch { sequence, ..RaftBatch::default() });
    }
    tokio::time::timeout(Duration::from_secs(10), async {
        while server.raft.lock().len() < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(*server.raft.lock(), [1, 2, 3].map(|n| (StoreId(1), n)));
    world.end().await;
}

#[tokio::test]
async fn a_stranger_at_the_addressees_place_gets_nothing() {
    let stranger = notes(3, false);
    let world = world(&stranger).await;
    let error =
        world.links.send_batch(NodeId(2), BatchRequest::default(), || {}).await.unwrap_err();
    let TransportError::NotSent(reason) = error else { panic!("{error:?}") };
    assert!(reason.contains("this is n3, the stream is meant for n2"), "{reason}");
    world.links.send_raft(NodeId(2), RaftBatch::default());
    let error =
        world.links.send_batch(NodeId(2), BatchRequest::default(), || {}).await.unwrap_err();
    assert!(matches!(error, TransportError::NotSent(_)), "{error:?}");
    assert!(stranger.raft.lock().is_empty());
    world.end().await;
}

#[tokio::test]
async fn a_batch_under_way_is_lost_with_the_stream_and_a_later_one_is_not_sent() {
    let server = notes(2, true);
    let world = world(&server).await;
    let call = world.links.send_batch(NodeId(2), BatchRequest::default(), || {});
    let kill = async {
        server.got_batch.notified().await;
        world.server_stop.cancel();
    };
    let (answer, ()) = tokio::join!(call, kill);
    assert!(matches!(answer, Err(TransportError::Lost(_))), "{answer:?}");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let answer = world.links.send_batch(NodeId(2), BatchRequest::default(), || {}).await;
        if matches!(answer, Err(TransportError::NotSent(_))) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{answer:?}");
    }
    world.end().await;
}

#[tokio::test]
async fn the_peer_stops_what_its_caller_gave_up() {
    let server = notes(2, true);
    let world = world(&server).await;
    let (first, second) = (BatchRequest::default(), BatchRequest::default());
    let patient = world.links.send_batch(NodeId(2), first, || {});
    let hasty = async {
        let call = world.links.send_batch(NodeId(2), second, || {});
        tokio::select! {
            answer = call => panic!("{answer:?}"),
            () = async {
                server.got_batch.notified().await;
                server.got_batch.notified().await;
            } => {}
        }
        tokio::time::timeout(Duration::from_secs(10), server.given_up.notified()).await.unwrap();
        // The other one, which somebody waits for, goes on until the stream ends.
        let other = tokio::time::timeout(Duration::from_millis(300), server.given_up.notified());
        assert!(other.await.is_err(), "a batch was stopped that nobody gave up");
        world.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), server.given_up.notified()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(patient, hasty);
    assert!(matches!(answer, Err(TransportError::Lost(_))), "{answer:?}");
    world.end().await;
}

/// A batch to a range.
fn batch_to(range_id: u64) -> BatchRequest {
    let header = BatchHeader { range_id, ..BatchHeader::default() };
    BatchRequest { header: Some(header), requests: Vec::new() }
}

#[tokio::test]
async fn a_batch_that_is_worked_on_gives_signs_of_life_while_its_range_is_served() {
    let server = notes(2, true);
    let world = world(&server).await;
    let (sign, signs) = mpsc::channel(100);
    let (served, other) = (sign.clone(), sign);
    let served = world.links.send_batch(NodeId(2), batch_to(7), move || {
        let _room = served.try_send(7);
    });
    let other = world.links.send_batch(NodeId(2), batch_to(8), move || {
        let _room = other.try_send(8);
    });
    let mut signs = signs;
    let heard = async {
        for _ in 0..3 {
            assert_eq!(signs.recv().await, Some(7), "a range that is not served gave a sign");
        }
    };
    tokio::select! {
        answer = served => panic!("{answer:?}"),
        answer = other => panic!("{answer:?}"),
        heard = tokio::time::timeout(Duration::from_secs(10), heard) => heard.unwrap(),
    }
    world.end().await;
}

#[tokio::test]
async fn what_no_message_can_hold_is_answered_and_the_stream_goes_on() {
    let server = notes(2, false);
    let world = world(&server).await;
    let put = PutRequest { key: "k".into(), value: vec![0; 65 << 20].into() };
    let requests = vec![Request { kind: Some(request::Kind::Put(put)) }];
    let large = BatchRequest { header: None, requests };
    let answer = world.links.send_batch(NodeId(2), large, || {}).await.unwrap();
    let error = answer.error.unwrap();
    assert!(error.message.contains("too large to send"), "{error:?}");
    let answer = world.links.send_batch(NodeId(2), batch_to(7), || {}).await;
    assert_eq!(answer.unwrap().error, None);
    world.end().await;
}

#[test]
fn a_hello_is_checked_in_every_part() {
    use super::hello::{HelloRefusal as R, check, hello};
    let own = identity(2);
    let good = hello(&identity(1), NodeId(2), "store-2");
    let verdict = |change: &dyn Fn(&mut crdb_proto::peer::Hello), known: &str| {
        let mut hello = good.clone();
        change(&mut hello);
        check(Some(&hello), Some(&own), |_| Some(known.to_owned()))
    };
    assert_eq!(verdict(&|_| {}, ""), Ok(NodeId(1)));
    assert_eq!(verdict(&|h| h.to_store_uuid.clear(), "store-1"), Ok(NodeId(1)));
    assert!(matches!(verdict(&|h| h.cluster_id = "x".into(), ""), Err(R::OtherCluster { .. })));
    assert!(matches!(verdict(&|h| h.to_node = 3, ""), Err(R::OtherAddressee { .. })));
    assert!(matches!(verdict(&|h| h.to_store_uuid = "x".into(), ""), Err(R::OtherStore { .. })));
    assert!(matches!(verdict(&|h| h.from_node = 2, ""), Err(R::ImpossibleCaller(2))));
    assert!(matches!(verdict(&|h| h.from_node = 0, ""), Err(R::ImpossibleCaller(0))));
    assert!(matches!(verdict(&|_| {}, "other"), Err(R::Impostor { .. })));
    assert_eq!(check(None, Some(&own), |_| None), Err(R::Missing));
    assert_eq!(check(Some(&good), None, |_| None), Err(R::Uninitialized));
}
