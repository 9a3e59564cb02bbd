//! The `DistSender` against scripted replicas.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crdb_keys::NodeId;
use crdb_proto::kv::{
    BatchHeader, BatchRequest, BatchResponse, Error, GetRequest, KeyValue, LockConflict,
    NotLeaseholder, PutRequest, PutResponse, RangeDescriptor, RangeMismatch, ReplicaDescriptor,
    Request, Response, Routing, ScanResponse, TxnMeta, Unavailable, error, request, response,
};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::time::Instant;

use crate::{
    DistSender, DistSenderConfig, Life, RangeCache, SendError, Sender, Transport, TransportError,
};

/// How a scripted node answers.
#[derive(Clone)]
enum Behaviour {
    Serves,
    NotLeaseholder(Option<u32>),
    Mismatch(Vec<RangeDescriptor>),
    /// Serves who knows of the split, tells others of it.
    Split(Vec<RangeDescriptor>),
    /// Has the meta range, and not the range it is asked for, which is described so there.
    Moved(RangeDescriptor),
    /// Has the meta range, whose first entry this is, and serves all else.
    Meta(RangeDescriptor),
    Unavailable,
    /// An error of a later version.
    Unknown,
    Refuses,
    Dies,
    Silent,
    /// Says every second that it works on it, so many times; then it serves, or is silent.
    Works(u32, bool),
    /// Waits for a lock, as long as it is told to.
    Locked(&'static [u8]),
}

struct Script {
    nodes: Mutex<HashMap<u32, Behaviour>>,
    sent: Mutex<Vec<(u32, bool)>>,
    /// Those in the same region.
    near: Mutex<Vec<u32>>,
    start: Instant,
}

impl Script {
    fn set(&self, node: u32, behaviour: Behaviour) {
        self.nodes.lock().insert(node, behaviour);
    }

    /// Nodes that got the batch itself, not a probe.
    fn writes_sent_to(&self) -> Vec<u32> {
        self.sent.lock().iter().filter(|(_, write)| *write).map(|(node, _)| *node).collect()
    }
}

impl Transport for Script {
    fn local_node(&self) -> NodeId {
        NodeId(1)
    }

    fn shared_tiers(&self, node: NodeId) -> usize {
        usize::from(self.near.lock().contains(&node.get()))
    }

    fn send(
        &self,
        node: NodeId,
        batch: BatchRequest,
        life: Life,
    ) -> BoxFuture<'_, Result<BatchResponse, TransportError>> {
        let write = crate::span::has_writes(&batch);
        self.sent.lock().push((node.get(), write));
        let behaviour = self.nodes.lock().get(&node.get()).cloned().unwrap_or(Behaviour::Refuses);
        Box::pin(async move {
            let kind = match behaviour {
                Behaviour::Moved(descriptor) if scans(&batch) => return Ok(found(&descriptor)),
                Behaviour::Meta(descriptor) if scans(&batch) => return Ok(found(&descriptor)),
                Behaviour::Meta(_) => return Ok(served()),
                Behaviour::Moved(_) => error::Kind::RangeMismatch(RangeMismatch::default()),
                Behaviour::Unknown => return Ok(failed(None)),
                Behaviour::Serves => return Ok(served()),
                Behaviour::NotLeaseholder(hint) => error::Kind::NotLeaseholder(NotLeaseholder {
                    leaseholder: hint.map(replica),
                    descriptor: None,
                }),
                Behaviour::Split(_)
                    if batch.header.as_ref().is_some_and(|h| h.range_generation > 1) =>
                {
                    return Ok(served());
                }
                Behaviour::Split(descriptors) | Behaviour::Mismatch(descriptors) => {
                    error::Kind::RangeMismatch(RangeMismatch { descriptors })
                }
                Behaviour::Unavailable => error::Kind::Unavailable(Unavailable {}),
                Behaviour::Refuses => {
                    return Err(TransportError::NotSent("connection refused".into()));
                }
                Behaviour::Locked(key) => {
                    let patience = batch.header.map_or(0, |header| header.lock_timeout_ms);
                    tokio::time::sleep(Duration::from_millis(patience)).await;
                    let (key, timed_out) = (key.into(), true);
                    error::Kind::LockConflict(LockConflict { key, timed_out, holder: None })
                }
                Behaviour::Works(seconds, serves) => {
                    for _ in 0..seconds {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        life.seen(self.start.elapsed());
                    }
                    if serves {
                        return Ok(served());
                    }
                    std::future::pending().await
                }
                Behaviour::Dies => return Err(TransportError::Lost("reset".into())),
                Behaviour::Silent => std::future::pending().await,
            };
            Ok(failed(Some(kind)))
        })
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

fn failed(kind: Option<error::Kind>) -> BatchResponse {
    let error = Error { message: "scripted".into(), kind };
    BatchResponse { error: Some(error), ..BatchResponse::default() }
}

fn scans(batch: &BatchRequest) -> bool {
    batch.requests.iter().any(|request| matches!(request.kind, Some(request::Kind::Scan(_))))
}

fn found(descriptor: &RangeDescriptor) -> BatchResponse {
    let row = KeyValue { key: Bytes::new(), value: descriptor.encode_to_vec().into() };
    let scan = ScanResponse { rows: vec![row], ..ScanResponse::default() };
    let scan = Response { kind: Some(response::Kind::Scan(scan)) };
    BatchResponse { responses: vec![scan], ..BatchResponse::default() }
}

fn served() -> BatchResponse {
    let put = Response { kind: Some(response::Kind::Put(PutResponse {})) };
    BatchResponse { responses: vec![put], ..BatchResponse::default() }
}

fn replica(node: u32) -> ReplicaDescriptor {
    ReplicaDescriptor { node_id: node, store_id: node, replica_id: node.into(), r#type: 0 }
}

fn range(id: u64, start: &'static str, end: &'static str, generation: u64) -> RangeDescriptor {
    RangeDescriptor {
        range_id: id,
        start_key: Bytes::from_static(start.as_bytes()),
        end_key: Bytes::from_static(end.as_bytes()),
        replicas: [1, 2, 3].map(replica).to_vec(),
        generation,
        next_replica_id: 4,
        ..Default::default()
    }
}

fn put(key: &'static str) -> BatchRequest {
    let put = PutRequest { key: Bytes::from_static(key.as_bytes()), value: Bytes::new() };
    batch(request::Kind::Put(put))
}

fn get(key: &'static str) -> BatchRequest {
    batch(request::Kind::Get(GetRequest {
        key: Bytes::from_static(key.as_bytes()),
        ..Default::default()
    }))
}

fn batch(kind: request::Kind) -> BatchRequest {
    BatchRequest { header: None, requests: vec![Request { kind: Some(kind) }] }
}

fn cluster(behaviours: [Behaviour; 3]) -> (Arc<Script>, DistSender) {
    let nodes = (1..).zip(behaviours).collect();
    let script = Arc::new(Script {
        nodes: Mutex::new(nodes),
        sent: Mutex::new(Vec::new()),
        near: Mutex::default(),
        start: Instant::now(),
    });
    let cache = Arc::new(RangeCache::default());
    cache.insert(range(4, "a", "z", 1));
    let sender = DistSender::new(script.clone(), cache, DistSenderConfig::default());
    (script, sender)
}

#[tokio::test(start_paused = true)]
async fn who_is_at_work_is_neither_given_up_nor_copied() {
    let none = Behaviour::NotLeaseholder(None);
    let (script, sender) = cluster([none.clone(), Behaviour::Works(60, true), none]);
    sender.cache().set_leaseholder(4, b"a", Some(NodeId(2)));
    sender.send(put("b")).await.unwrap();
    assert_eq!(script.start.elapsed().as_secs(), 60);
    assert_eq!(script.writes_sent_to(), [2]);
    script.sent.lock().clear();
    sender.send(get("b")).await.unwrap();
    assert_eq!(script.start.elapsed().as_secs(), 120);
    // The others are asked in the second before the first sign alone.
    assert!(script.sent.lock().len() <= 10, "{:?}", script.sent.lock());
}

#[tokio::test(start_paused = true)]
async fn whose_signs_stop_is_given_up_as_if_it_never_gave_one() {
    let none = Behaviour::NotLeaseholder(None);
    let (script, sender) = cluster([none.clone(), Behaviour::Works(20, false), none]);
    sender.cache().set_leaseholder(4, b"a", Some(NodeId(2)));
    let error = sender.send(put("b")).await.unwrap_err();
    assert!(matches!(error, SendError::Ambiguous { .. }), "{error:?}");
    assert_eq!(script.start.elapsed().as_secs(), 30);
    assert_eq!(script.writes_sent_to(), [2]);
    let error = sender.send(get("b")).await.unwrap_err();
    assert!(matches!(error, SendError::Unavailable { .. }), "{error:?}");
    assert_eq!(script.start.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn follows_the_hint_and_remembers_it() {
    let none = Behaviour::NotLeaseholder(Some(3));
    let (script, sender) = cluster([none.clone(), none, Behaviour::Serves]);
    sender.send(put("b")).await.unwrap();
    sender.send(put("c")).await.unwrap();
    assert_eq!(script.writes_sent_to(), [1, 3, 3]);
}

#[tokio::test(start_paused = true)]
async fn tries_another_replica_within_50_ms_of_a_refusal() {
    let (script, sender) = cluster([
        Behaviour::NotLeaseholder(Some(2)),
        Behaviour::Refuses,
        Behaviour::NotLeaseholder(None),
    ]);
    let call = async { sender.send(put("b")).await };
    let elect = async {
        tokio::time::sleep(Duration::from_millis(900)).await;
        script.set(3, Behaviour::Serves);
        Instant::now()
    };
    let (outcome, elected) = tokio::join!(call, elect);
    outcome.unwrap();
    assert!(elected.elapsed() <= Duration::from_millis(51), "{:?}", elected.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lost_write_is_ambiguous_and_never_sent_again() {
    let (script, sender) = cluster([Behaviour::Dies, Behaviour::Serves, Behaviour::Serves]);
    let error = sender.send(put("b")).await.unwrap_err();
    assert!(matches!(error, SendError::Ambiguous { .. }), "{error}");
    assert_eq!(script.writes_sent_to(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_read_is_tried_elsewhere() {
    let (_, sender) = cluster([Behaviour::Dies, Behaviour::Refuses, Behaviour::Serves]);
    sender.send(get("b")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_replica_costs_a_read_300_ms() {
    let (script, sender) = cluster([Behaviour::Silent, Behaviour::Serves, Behaviour::Refuses]);
    sender.send(get("b")).await.unwrap();
    assert_eq!(script.elapsed().as_millis(), 300);
    // And the next read nothing.
    sender.send(get("b")).await.unwrap();
    assert_eq!(script.elapsed().as_millis(), 300);
}

#[tokio::test(start_paused = true)]
async fn a_silent_write_is_ambiguous_once_another_node_serves_the_range() {
    let (script, sender) = cluster([Behaviour::Silent, Behaviour::Serves, Behaviour::Refuses]);
    let error = sender.send(put("b")).await.unwrap_err();
    assert!(matches!(error, SendError::Ambiguous { .. }), "{error}");
    assert!(script.elapsed() <= Duration::from_millis(700), "{:?}", script.elapsed());
    assert_eq!(script.writes_sent_to(), [1]);
    sender.send(put("b")).await.unwrap();
    assert_eq!(script.writes_sent_to(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_write_waits_while_nobody_else_serves() {
    let none = Behaviour::NotLeaseholder(Some(1));
    let (script, sender) = cluster([Behaviour::Silent, none.clone(), none]);
    let error = sender.send(put("b")).await.unwrap_err();
    assert!(matches!(error, SendError::Ambiguous { .. }), "{error}");
    assert!(script.elapsed() >= Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_range_without_quorum_is_unavailable_after_the_timeout() {
    let (script, sender) =
        cluster([Behaviour::Unavailable, Behaviour::Refuses, Behaviour::Unavailable]);
    for batch in [put("b"), get("b")] {
        let error = sender.send(batch).await.unwrap_err();
        assert!(matches!(&error, SendError::Unavailable { .. }), "{error}");
        assert!(error.to_string().starts_with("range r4 is unavailable"), "{error}");
    }
    assert!(script.elapsed() >= Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn a_mismatch_corrects_the_cache() {
    let halves = vec![range(4, "a", "m", 2), range(9, "m", "z", 2)];
    let (script, sender) =
        cluster([Behaviour::Mismatch(halves), Behaviour::Serves, Behaviour::Serves]);
    script.set(2, Behaviour::Serves);
    let call = sender.send(put("n"));
    script.set(3, Behaviour::Serves);
    let fix = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        script.set(1, Behaviour::Serves);
    };
    let (outcome, ()) = tokio::join!(call, fix);
    outcome.unwrap();
    assert_eq!(sender.cache().lookup(b"n").unwrap().descriptor.range_id, 9);
    assert_eq!(sender.cache().lookup(b"b").unwrap().descriptor.range_id, 4);
}

#[tokio::test(start_paused = true)]
async fn a_range_that_moved_away_is_looked_up_again() {
    let there = RangeDescriptor { replicas: vec![replica(4)], ..range(4, "a", "z", 7) };
    let (script, sender) = cluster([1, 2, 3].map(|_| Behaviour::Moved(there.clone())));
    script.set(4, Behaviour::Serves);
    sender.cache().insert(range(1, "\x02", "\x03", 1));
    sender.send(put("b")).await.unwrap();
    assert_eq!(script.writes_sent_to(), [1, 2, 3, 4]);
    assert!(script.elapsed() < Duration::from_secs(1), "{:?}", script.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_meta_entry_that_a_split_left_behind_is_read_again() {
    // The right side has its entry already, where the entry of the whole range was.
    let (script, sender) = cluster([1, 2, 3].map(|_| Behaviour::Meta(range(5, "m", "z", 2))));
    sender.cache().evict(b"b");
    sender.cache().insert(range(1, "\x02", "\x03", 1));
    let written = async {
        tokio::time::sleep(Duration::from_millis(40)).await;
        for node in [1, 2, 3] {
            script.set(node, Behaviour::Meta(range(4, "a", "m", 2)));
        }
    };
    let (sent, ()) = tokio::join!(sender.send(put("b")), written);
    sent.unwrap();
    assert!(script.elapsed() < Duration::from_millis(200), "{:?}", script.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_key_without_a_meta_entry_is_given_up_in_time() {
    let (script, sender) = cluster([1, 2, 3].map(|_| Behaviour::Meta(range(5, "m", "z", 2))));
    sender.cache().evict(b"b");
    sender.cache().insert(range(1, "\x02", "\x03", 1));
    let error = sender.send(put("b")).await.unwrap_err();
    assert!(matches!(error, SendError::Unavailable { .. }), "{error:?}");
    assert!(script.elapsed() < Duration::from_secs(11), "{:?}", script.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_error_does_not_say_that_nothing_was_written() {
    let (script, sender) = cluster([Behaviour::Unknown, Behaviour::Serves, Behaviour::Serves]);
    let error = sender.send(put("b")).await.unwrap_err();
    assert!(matches!(error, SendError::Ambiguous { .. }), "{error}");
    assert_eq!(script.writes_sent_to(), [1]);
    sender.send(get("b")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_over_two_ranges_is_refused() {
    let (_, sender) = cluster([Behaviour::Serves, Behaviour::Serves, Behaviour::Serves]);
    let mut batch = put("b");
    batch.requests.extend(put("zz").requests);
    let error = sender.send(batch).await.unwrap_err();
    assert!(matches!(error, SendError::CrossRange { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_without_keys_is_invalid() {
    let (_, sender) = cluster([Behaviour::Serves, Behaviour::Serves, Behaviour::Serves]);
    let error = sender.send(BatchRequest::default()).await.unwrap_err();
    assert!(matches!(error, SendError::Invalid { .. }), "{error}");
}

#[test]
fn an_older_generation_never_replaces_a_newer() {
    let cache = RangeCache::default();
    assert!(cache.insert(range(4, "a", "m", 2)));
    assert!(!cache.insert(range(4, "a", "z", 1)));
    assert_eq!(*cache.lookup(b"b").unwrap().descriptor.end_key, *b"m");
    assert!(cache.lookup(b"n").is_none());
    assert!(cache.insert(range(4, "a", "z", 3)));
    assert!(cache.lookup(b"n").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_split_that_is_heard_of_on_the_way_cuts_the_batch() {
    let halves = vec![range(4, "a", "m", 2), range(9, "m", "z", 2)];
    let split = || [1, 2, 3].map(|_| Behaviour::Split(halves.clone()));
    let (script, sender) = cluster(split());
    // A transaction's intents go on, one part to each half.
    let txn = TxnMeta { id: Bytes::from_static(&[7; 16]), ..TxnMeta::default() };
    let header = BatchHeader { txn: Some(txn), ..BatchHeader::default() };
    let mut intents = put("b");
    intents.requests.extend(put("n").requests);
    intents.header = Some(header.clone());
    assert_eq!(sender.send(intents.clone()).await.unwrap().responses.len(), 2);
    assert_eq!(script.writes_sent_to().len(), 3);
    // What has to be atomic was refused before, and is refused now, in one place.
    let (script, sender) = cluster(split());
    let one_phase = BatchHeader { one_phase: true, ..header };
    let error = sender.send(BatchRequest { header: Some(one_phase), ..intents }).await.unwrap_err();
    assert!(matches!(error, SendError::CrossRange { .. }), "{error}");
    assert_eq!(script.writes_sent_to().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn pieces_wait_for_locks_as_long_as_the_whole_may() {
    let right = RangeDescriptor { replicas: vec![replica(2)], ..range(9, "m", "z", 2) };
    let split = Behaviour::Split(vec![range(4, "a", "m", 2), right]);
    let (script, sender) = cluster([split, Behaviour::Locked(b"n"), Behaviour::Refuses]);
    let txn = TxnMeta { id: Bytes::from_static(&[7; 16]), ..TxnMeta::default() };
    let mut intents = put("b");
    intents.requests.extend(put("n").requests);
    intents.header = Some(BatchHeader { txn: Some(txn), ..BatchHeader::default() });
    let release = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        script.set(2, Behaviour::Serves);
    };
    let (outcome, ()) = tokio::join!(sender.send(intents), release);
    outcome.unwrap();
    assert!(script.elapsed() >= Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn one_lost_part_makes_the_whole_batch_ambiguous() {
    let (script, sender) = cluster([Behaviour::Serves, Behaviour::Dies, Behaviour::Refuses]);
    let right = RangeDescriptor { replicas: vec![replica(2)], ..range(9, "m", "z", 2) };
    for descriptor in [range(4, "a", "m", 2), right] {
        sender.cache().insert(descriptor);
    }
    let txn = TxnMeta { id: Bytes::from_static(&[7; 16]), ..TxnMeta::default() };
    let mut intents = put("b");
    intents.requests.extend(put("n").requests);
    intents.header = Some(BatchHeader { txn: Some(txn), ..BatchHeader::default() });
    let error = sender.send(intents).await.unwrap_err();
    assert!(matches!(error, SendError::Ambiguous { .. }), "{error}");
    assert_eq!(script.writes_sent_to(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_lock_is_not_silence() {
    let (script, sender) =
        cluster([Behaviour::Locked(b"b"), Behaviour::Refuses, Behaviour::Refuses]);
    let release = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        script.set(1, Behaviour::Serves);
    };
    let (outcome, ()) = tokio::join!(sender.send(put("b")), release);
    outcome.unwrap();
    // Unless the caller has had enough.
    script.set(1, Behaviour::Locked(b"b"));
    let mut short = put("b");
    short.header = Some(BatchHeader { lock_timeout_ms: 7_000, ..BatchHeader::default() });
    let before = script.elapsed();
    let error = sender.send(short).await.unwrap_err();
    assert!(matches!(error, SendError::LockConflict { timed_out: true, .. }), "{error}");
    assert_eq!((script.elapsed() - before).as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn the_lock_of_another_key_is_waited_for_as_long_as_the_first() {
    let (script, sender) =
        cluster([Behaviour::Locked(b"b"), Behaviour::Refuses, Behaviour::Refuses]);
    let mut short = put("b");
    short.header = Some(BatchHeader { lock_timeout_ms: 7_000, ..BatchHeader::default() });
    let other = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        script.set(1, Behaviour::Locked(b"c"));
    };
    let (outcome, ()) = tokio::join!(sender.send(short), other);
    assert!(matches!(outcome, Err(SendError::LockConflict { key, .. }) if *key == *b"c"));
    // Of the second call, what was left of the first key's time was waited for the other.
    assert_eq!(script.elapsed().as_secs(), 5 + 7);
}

#[tokio::test(start_paused = true)]
async fn the_nearest_replica_is_asked_first_and_the_leaseholder_next() {
    let follower = Behaviour::NotLeaseholder(Some(3));
    let (script, sender) = cluster([follower, Behaviour::Serves, Behaviour::Serves]);
    sender.cache().set_leaseholder(4, b"a", Some(NodeId(3)));
    let mut read = get("b");
    let nearest = Routing::Nearest.into();
    read.header = Some(BatchHeader { routing: nearest, ..BatchHeader::default() });
    sender.send(read.clone()).await.unwrap();
    let sent = || script.sent.lock().iter().map(|(node, _)| *node).collect::<Vec<u32>>();
    assert_eq!(sent(), [1, 3]);
    script.set(1, Behaviour::Serves);
    sender.send(read).await.unwrap();
    assert_eq!(sent(), [1, 3, 1]);
    // Who may serve reads is not taken for the leaseholder.
    sender.send(put("b")).await.unwrap();
    assert_eq!(script.writes_sent_to(), [3]);
}

#[tokio::test(start_paused = true)]
async fn of_the_replicas_elsewhere_one_in_the_own_region_is_nearest() {
    let (script, sender) = cluster([Behaviour::Serves, Behaviour::Serves, Behaviour::Serves]);
    let replicas = [2, 3, 4].map(replica).into();
    let elsewhere = RangeDescriptor { replicas, ..range(4, "a", "z", 2) };
    assert!(sender.cache().insert(elsewhere));
    script.set(4, Behaviour::Serves);
    sender.cache().set_leaseholder(4, b"a", Some(NodeId(3)));
    let mut read = get("b");
    let nearest = Routing::Nearest.into();
    read.header = Some(BatchHeader { routing: nearest, ..BatchHeader::default() });
    let mut asked = Vec::new();
    // Nobody near: the leaseholder has enough to do. Two near; then the leaseholder alone.
    for near in [&[][..], &[3, 4], &[3]] {
        *script.near.lock() = near.to_vec();
        sender.send(read.clone()).await.unwrap();
        asked.extend(script.sent.lock().drain(..).map(|(node, _)| node));
    }
    assert_eq!(asked, [2, 4, 3]);
}
