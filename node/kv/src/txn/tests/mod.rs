//! Transactions over one real store.

mod aborted;
mod bank;
mod bounds;
mod contention;
mod faults;
mod given_up;
#[cfg(feature = "planted-bugs")]
mod planted;
mod rewrites;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crdb_keys::hlc::{Clock, ManualClock};
use crdb_keys::{NodeId, Timestamp};
use crdb_proto::kv::{
    BatchRequest, GetRequest, LockStrength, Request, Response, ScanRequest, SplitRequest,
    WaitPolicy, request, response,
};

use super::*;
use crate::local::LocalSender;

fn client() -> TxnClient {
    cluster().2
}

/// The wall clock, the sender, and a client without anybody at work beside it: what a transaction
/// leaves is cleaned up before its commit returns.
fn cluster() -> (Arc<ManualClock>, LocalSender, TxnClient) {
    let wall = Arc::new(ManualClock::new(1_000_000_000));
    let clock = Clock::new(Arc::clone(&wall) as _, Duration::from_millis(500));
    let sender = LocalSender::new(clock.clone());
    let client = TxnClient::new(TxnClientConfig {
        sender: Arc::new(sender.clone()),
        clock,
        node_id: NodeId(1),
        seed: 7,
        limits: crate::Limits::default(),
    });
    (wall, sender, client)
}

/// Splits the range of the tables at a key.
fn split(sender: &LocalSender, at: &str, new_range_id: u64) {
    let split = SplitRequest { key: key(at), new_range_id, sticky_until: None };
    let request = Request { kind: Some(request::Kind::Split(split)) };
    sender.execute(&BatchRequest { header: None, requests: vec![request] }).unwrap();
}

fn lock(name: &str) -> Request {
    let lock = LockStrength::LockExclusive.into();
    let get = GetRequest { key: key(name), lock, lock_absent: true, ..GetRequest::default() };
    Request { kind: Some(request::Kind::Get(get)) }
}

fn nowait() -> ReadOptions {
    ReadOptions { wait_policy: WaitPolicy::WaitError, ..ReadOptions::default() }
}

async fn locked(txn: &mut Txn, name: &str) -> Result<Option<String>, TxnError> {
    let responses = txn.read(vec![lock(name)], ReadOptions::default()).await?;
    Ok(text(responses.into_iter().next().unwrap()))
}

/// A transaction that has the lock of a key.
async fn holding(client: &TxnClient, name: &str) -> Txn {
    let mut txn = client.begin(TxnOptions::default());
    locked(&mut txn, name).await.unwrap();
    txn
}

fn text(response: Response) -> Option<String> {
    match response.kind.unwrap() {
        response::Kind::Get(get) => {
            get.value.map(|value| String::from_utf8(value.to_vec()).unwrap())
        }
        other => panic!("not a get: {other:?}"),
    }
}

fn key(name: &str) -> Bytes {
    format!("\x05{name}").into()
}

fn get(name: &str) -> Request {
    let get = GetRequest { key: key(name), ..GetRequest::default() };
    Request { kind: Some(request::Kind::Get(get)) }
}

fn scan(scan: ScanRequest) -> Request {
    Request {
        kind: Some(request::Kind::Scan(ScanRequest { start: key("a"), end: key("z"), ..scan })),
    }
}

async fn value(txn: &mut Txn, name: &str) -> Result<Option<String>, TxnError> {
    let responses = txn.read(vec![get(name)], ReadOptions::default()).await?;
    Ok(text(responses.into_iter().next().unwrap()))
}

fn rows(response: &Response) -> Vec<String> {
    match response.kind.as_ref().unwrap() {
        response::Kind::Scan(scan) => {
            scan.rows.iter().map(|row| String::from_utf8(row.key[1..].to_vec()).unwrap()).collect()
        }
        other => panic!("not a scan: {other:?}"),
    }
}

async fn set(client: &TxnClient, name: &str, value: &'static str) -> CommitInfo {
    let mut txn = client.begin(TxnOptions::default());
    txn.put(key(name), value.into()).unwrap();
    txn.commit().await.unwrap()
}

#[tokio::test]
async fn reads_its_own_writes_and_others_read_them_after_the_commit() {
    let client = client();
    let mut txn = client.begin(TxnOptions::default());
    txn.put(key("k"), "1".into()).unwrap();
    txn.put(key("m"), "2".into()).unwrap();
    txn.delete(key("m")).unwrap();
    assert_eq!(value(&mut txn, "k").await.unwrap().as_deref(), Some("1"));
    let mut other = client.begin(TxnOptions::default());
    assert_eq!(value(&mut other, "k").await.unwrap(), None);
    let info = txn.commit().await.unwrap();
    assert_eq!((info.kind, info.rounds), (CommitKind::OnePhase, 1));
    // A snapshot does not move.
    assert_eq!(value(&mut other, "k").await.unwrap(), None);
    let mut later = client.begin(TxnOptions::default());
    let all = later.read(vec![scan(ScanRequest::default())], ReadOptions::default()).await;
    assert_eq!(rows(&all.unwrap()[0]), ["k"]);
    let info = later.commit().await.unwrap();
    assert_eq!((info.kind, info.rounds), (CommitKind::ReadOnly, 0));
}

#[tokio::test]
async fn write_skew_is_refused() {
    let client = client();
    set(&client, "a", "1").await;
    set(&client, "b", "1").await;
    let mut one = client.begin(TxnOptions::default());
    let mut two = client.begin(TxnOptions::default());
    for txn in [&mut one, &mut two] {
        txn.read(vec![scan(ScanRequest::default())], ReadOptions::default()).await.unwrap();
    }
    one.put(key("a"), "0".into()).unwrap();
    two.put(key("b"), "0".into()).unwrap();
    one.commit().await.unwrap();
    let error = two.commit().await.unwrap_err();
    assert_eq!(error, TxnError::Retry { cause: RetryCause::Serializable });
    assert_eq!(error.to_string(), "restart transaction: RETRY_SERIALIZABLE");
    assert_eq!(retries(&client), [0, 1, 0, 0]);
}

#[tokio::test]
async fn an_insert_of_a_key_that_exists_fails_at_the_commit() {
    let client = client();
    set(&client, "k", "old").await;
    let mut txn = client.begin(TxnOptions::default());
    txn.insert(key("k"), "new".into()).unwrap();
    let duplicate = TxnError::Duplicate { key: key("k"), actual: "old".into() };
    assert_eq!(txn.commit().await.unwrap_err(), duplicate);
    // Also if it was deleted again; but not after a deletion.
    let mut txn = client.begin(TxnOptions::default());
    txn.insert(key("k"), "new".into()).unwrap();
    txn.delete(key("k")).unwrap();
    assert_eq!(txn.commit().await.unwrap_err(), duplicate);
    let mut txn = client.begin(TxnOptions::default());
    txn.delete(key("k")).unwrap();
    txn.insert(key("k"), "new".into()).unwrap();
    let duplicate = TxnError::Duplicate { key: key("k"), actual: "new".into() };
    assert_eq!(txn.insert(key("k"), "newer".into()).unwrap_err(), duplicate);
    txn.commit().await.unwrap();
}

#[tokio::test]
async fn a_savepoint_takes_back_what_came_after_it() {
    let client = client();
    let mut txn = client.begin(TxnOptions::default());
    txn.put(key("a"), "1".into()).unwrap();
    let outer = txn.savepoint();
    txn.put(key("a"), "2".into()).unwrap();
    txn.put(key("b"), "2".into()).unwrap();
    let inner = txn.savepoint();
    txn.delete(key("a")).unwrap();
    txn.rollback_to(inner).await.unwrap();
    assert_eq!(value(&mut txn, "a").await.unwrap().as_deref(), Some("2"));
    txn.put(key("b"), "3".into()).unwrap();
    txn.rollback_to(outer).await.unwrap();
    assert_eq!(value(&mut txn, "a").await.unwrap().as_deref(), Some("1"));
    assert_eq!(value(&mut txn, "b").await.unwrap(), None);
    txn.commit().await.unwrap();
    let mut later = client.begin(TxnOptions::default());
    assert_eq!(value(&mut later, "a").await.unwrap().as_deref(), Some("1"));
}

#[tokio::test]
async fn read_committed_sees_each_statement_anew_and_validates_nothing_it_did_not_lock() {
    let client = client();
    set(&client, "a", "1").await;
    let isolation = crdb_proto::kv::Isolation::ReadCommitted;
    let mut txn = client.begin(TxnOptions { isolation, ..TxnOptions::default() });
    assert_eq!(value(&mut txn, "a").await.unwrap().as_deref(), Some("1"));
    set(&client, "a", "2").await;
    assert_eq!(value(&mut txn, "a").await.unwrap().as_deref(), Some("1"));
    txn.begin_statement();
    assert_eq!(value(&mut txn, "a").await.unwrap().as_deref(), Some("2"));
    txn.put(key("b"), "1".into()).unwrap();
    txn.begin_statement();
    set(&client, "a", "3").await;
    txn.commit().await.unwrap();
}

async fn increment(client: &TxnClient, name: &str) -> Result<CommitInfo, TxnError> {
    let mut txn = client.begin(TxnOptions::default());
    let before = locked(&mut txn, name).await?;
    let next = before.map_or(0, |text| text.parse::<u64>().unwrap()) + 1;
    txn.put(key(name), next.to_string().into())?;
    txn.commit().await
}

#[tokio::test]
async fn writers_of_one_key_queue_and_none_fails() {
    let client = client();
    let all = (0..20).map(|_| increment(&client, "n"));
    for outcome in futures::future::join_all(all).await {
        assert_eq!(outcome.unwrap().kind, CommitKind::OnePhase);
    }
    let mut txn = client.begin(TxnOptions::default());
    assert_eq!(value(&mut txn, "n").await.unwrap().as_deref(), Some("20"));
}

#[tokio::test]
async fn a_commit_over_several_ranges_takes_one_round() {
    let (_, sender, client) = cluster();
    split(&sender, "m", 50);
    for name in ["a", "z"] {
        set(&client, name, "0").await;
    }
    let mut txn = client.begin(TxnOptions::default());
    for name in ["a", "z"] {
        assert_eq!(locked(&mut txn, name).await.unwrap().as_deref(), Some("0"));
        txn.put(key(name), "1".into()).unwrap();
    }
    let info = txn.commit().await.unwrap();
    assert_eq!((info.kind, info.rounds), (CommitKind::Parallel, 1));
    let mut later = client.begin(TxnOptions::default());
    for name in ["a", "z"] {
        assert_eq!(value(&mut later, name).await.unwrap().as_deref(), Some("1"));
    }
    assert_eq!(left_behind(&sender), Vec::<String>::new());
}

/// Keys in the lock family: intents and records.
fn left_behind(sender: &LocalSender) -> Vec<String> {
    use crdb_storage::Reader as _;
    let mut left = Vec::new();
    sender
        .engine()
        .scan(crdb_storage::Family::Lock, &[], &[0xff; 32], &mut |key, _| {
            left.push(String::from_utf8_lossy(key).into_owned());
            Ok(std::ops::ControlFlow::Continue(()))
        })
        .unwrap();
    left
}

#[tokio::test]
async fn a_deadlock_is_broken() {
    let client = client();
    let mut one = client.begin(TxnOptions::default());
    let mut two = client.begin(TxnOptions::default());
    locked(&mut one, "a").await.unwrap();
    locked(&mut two, "b").await.unwrap();
    let (first, second) = tokio::join!(locked(&mut one, "b"), locked(&mut two, "a"));
    // The older one wins.
    first.unwrap();
    let aborted = RetryCause::Aborted("ABORT_REASON_PUSHER_ABORTED".to_owned());
    assert_eq!(second.unwrap_err(), TxnError::Retry { cause: aborted });
    assert_eq!(retries(&client), [0, 0, 0, 1]);
}

#[tokio::test]
async fn a_lock_of_what_was_written_since_what_was_read_is_refused() {
    let client = client();
    set(&client, "a", "1").await;
    set(&client, "b", "1").await;
    let mut txn = client.begin(TxnOptions::default());
    assert_eq!(value(&mut txn, "a").await.unwrap().as_deref(), Some("1"));
    set(&client, "a", "2").await;
    set(&client, "b", "2").await;
    let error = locked(&mut txn, "b").await.unwrap_err();
    assert_eq!(error, TxnError::Retry { cause: RetryCause::WriteTooOld });
    assert_eq!(retries(&client), [1, 0, 0, 0]);
}

/// Retries because of a newer version, a changed read, uncertainty, an abort.
fn retries(client: &TxnClient) -> [u64; 4] {
    let counts = client.counts();
    [
        counts.retries_write_too_old,
        counts.retries_serializable,
        counts.retries_uncertainty,
        counts.retries_aborted,
    ]
}

#[tokio::test]
async fn nowait_and_a_timeout_end_a_wait() {
    let client = client();
    let mut one = client.begin(TxnOptions::default());
    locked(&mut one, "a").await.unwrap();
    let mut two = client.begin(TxnOptions::default());
    let nowait = ReadOptions { wait_policy: WaitPolicy::WaitError, ..ReadOptions::default() };
    let error = two.read(vec![lock("a")], nowait).await.unwrap_err();
    assert_eq!(error, TxnError::LockConflict { key: key("a"), timed_out: false });
    let patience = Duration::from_millis(120);
    let short = ReadOptions { lock_timeout: patience, ..ReadOptions::default() };
    let error = two.read(vec![lock("a")], short).await.unwrap_err();
    assert_eq!(error, TxnError::LockConflict { key: key("a"), timed_out: true });
    one.rollback().await;
    locked(&mut two, "a").await.unwrap();
}

#[tokio::test]
async fn flushed_writes_are_read_taken_back_and_committed() {
    let (_, sender, client) = cluster();
    let mut txn = client.begin(TxnOptions::default());
    txn.put(key("a"), "1".into()).unwrap();
    let savepoint = txn.savepoint();
    txn.put(key("a"), "2".into()).unwrap();
    txn.insert(key("b"), "2".into()).unwrap();
    txn.flush().await.unwrap();
    assert_eq!(value(&mut txn, "a").await.unwrap().as_deref(), Some("2"));
    assert_eq!(value(&mut txn, "b").await.unwrap().as_deref(), Some("2"));
    txn.rollback_to(savepoint).await.unwrap();
    assert_eq!(value(&mut txn, "a").await.unwrap().as_deref(), Some("1"));
    assert_eq!(value(&mut txn, "b").await.unwrap(), None);
    txn.put(key("c"), "3".into()).unwrap();
    let info = txn.commit().await.unwrap();
    assert_eq!((info.kind, info.rounds), (CommitKind::Parallel, 1));
    let mut later = client.begin(TxnOptions::default());
    assert_eq!(value(&mut later, "a").await.unwrap().as_deref(), Some("1"));
    assert_eq!(value(&mut later, "b").await.unwrap(), None);
    assert_eq!(value(&mut later, "c").await.unwrap().as_deref(), Some("3"));
    assert_eq!(left_behind(&sender), Vec::<String>::new());
}

#[tokio::test]
async fn a_rollback_leaves_nothing() {
    let (_, sender, client) = cluster();
    let mut txn = client.begin(TxnOptions::default());
    locked(&mut txn, "l").await.unwrap();
    txn.put(key("a"), "1".into()).unwrap();
    txn.flush().await.unwrap();
    assert_eq!(left_behind(&sender).len(), 1);
    txn.rollback().await;
    assert_eq!(left_behind(&sender), Vec::<String>::new());
    let mut later = client.begin(TxnOptions::default());
    assert_eq!(locked(&mut later, "l").await.unwrap(), None);
    assert_eq!(value(&mut later, "a").await.unwrap(), None);
}

#[tokio::test]
async fn write_skew_passes_under_read_committed_unless_what_was_read_is_locked() {
    let isolation = crdb_proto::kv::Isolation::ReadCommitted;
    let options = TxnOptions { isolation, ..TxnOptions::default() };
    let client = client();
    for name in ["a", "b"] {
        set(&client, name, "1").await;
    }
    let mut one = client.begin(options);
    let mut two = client.begin(options);
    for txn in [&mut one, &mut two] {
        txn.read(vec![get("a"), get("b")], ReadOptions::default()).await.unwrap();
    }
    one.put(key("a"), "0".into()).unwrap();
    two.put(key("b"), "0".into()).unwrap();
    one.commit().await.unwrap();
    two.commit().await.unwrap();

    // A key that was locked may not have changed, even if the lock was lost.
    let mut txn = client.begin(options);
    locked(&mut txn, "a").await.unwrap();
    let mut thief = client.begin(TxnOptions::default());
    thief.put(key("a"), "9".into()).unwrap();
    thief.put(key("c"), "9".into()).unwrap();
    release(&client, &txn, "a").await;
    thief.commit().await.unwrap();
    txn.begin_statement();
    txn.put(key("b"), "2".into()).unwrap();
    let error = txn.commit().await.unwrap_err();
    assert_eq!(error, TxnError::Retry { cause: RetryCause::Serializable });
}

/// Has a leaseholder forget a lock, as a change of the lease may.
async fn release(client: &TxnClient, txn: &Txn, name: &str) {
    let release = crdb_proto::kv::ReleaseLocksRequest {
        start: key(name),
        end: Bytes::new(),
        txn_id: txn.meta().id.clone(),
        ended: false,
    };
    let request = Request { kind: Some(request::Kind::ReleaseLocks(release)) };
    let batch = BatchRequest { header: None, requests: vec![request] };
    client.send_non_txn(batch).await.unwrap();
}

#[tokio::test]
async fn a_value_that_may_be_from_before_the_begin_is_read_if_the_earlier_reads_hold() {
    let client = client();
    for name in ["a", "b"] {
        set(&client, name, "1").await;
    }
    let mut txn = client.begin(TxnOptions::default());
    assert_eq!(value(&mut txn, "a").await.unwrap().as_deref(), Some("1"));
    set(&client, "b", "2").await;
    assert_eq!(value(&mut txn, "b").await.unwrap().as_deref(), Some("2"));
    assert_eq!(client.counts().refreshes_ok, 1);

    let mut txn = client.begin(TxnOptions::default());
    assert_eq!(value(&mut txn, "a").await.unwrap().as_deref(), Some("1"));
    set(&client, "a", "3").await;
    set(&client, "b", "3").await;
    let error = value(&mut txn, "b").await.unwrap_err();
    assert_eq!(error, TxnError::Retry { cause: RetryCause::Uncertainty });
    assert_eq!(client.counts().retries_uncertainty, 1);
}

#[tokio::test]
async fn scans_cross_ranges_in_both_directions_at_one_timestamp() {
    let (_, sender, client) = cluster();
    for name in ["b", "d", "k", "n", "t", "x"] {
        set(&client, name, "1").await;
    }
    split(&sender, "h", 50);
    split(&sender, "p", 51);
    let mut txn = client.begin(TxnOptions::default());
    txn.put(key("o"), "own".into()).unwrap();
    txn.delete(key("t")).unwrap();
    let requests = vec![
        scan(ScanRequest::default()),
        scan(ScanRequest { reverse: true, max_rows: 4, ..ScanRequest::default() }),
        scan(ScanRequest { max_rows: 3, ..ScanRequest::default() }),
        get("x"),
    ];
    let responses = txn.read(requests, ReadOptions::default()).await.unwrap();
    assert_eq!(rows(&responses[0]), ["b", "d", "k", "n", "o", "x"]);
    assert_eq!(rows(&responses[1]), ["x", "o", "n", "k"]);
    assert_eq!(rows(&responses[2]), ["b", "d", "k"]);
    // What others write meanwhile to any of the ranges is not seen.
    set(&client, "y", "1").await;
    let again = txn.read(vec![scan(ScanRequest::default())], ReadOptions::default()).await.unwrap();
    assert_eq!(rows(&again[0]), ["b", "d", "k", "n", "o", "x"]);
    // Nor may it be there at the commit, which has to be above what somebody read since.
    let mut later = client.begin(TxnOptions::default());
    value(&mut later, "o").await.unwrap();
    let error = txn.commit().await.unwrap_err();
    assert_eq!(error, TxnError::Retry { cause: RetryCause::Serializable });
}

#[tokio::test]
async fn reads_in_other_ranges_than_the_writes_cost_no_second_round() {
    let (_, sender, client) = cluster();
    split(&sender, "m", 50);
    set(&client, "z", "1").await;
    let mut txn = client.begin(TxnOptions::default());
    assert_eq!(value(&mut txn, "z").await.unwrap().as_deref(), Some("1"));
    txn.put(key("a"), "1".into()).unwrap();
    let info = txn.commit().await.unwrap();
    assert_eq!((info.kind, info.rounds), (CommitKind::OnePhase, 1));
    assert_eq!(client.counts().refreshes_ok, 0);

    // Somebody read what is written now, later: the commit moves above, with its reads.
    let mut txn = client.begin(TxnOptions::default());
    value(&mut txn, "z").await.unwrap();
    let mut later = client.begin(TxnOptions::default());
    value(&mut later, "a").await.unwrap();
    txn.put(key("a"), "2".into()).unwrap();
    let info = txn.commit().await.unwrap();
    assert_eq!((info.kind, info.rounds), (CommitKind::OnePhase, 1));
    assert_eq!(client.counts().refreshes_ok, 1);
    assert!(info.timestamp.unwrap() > later.read_timestamp().unwrap());
}

#[tokio::test]
async fn a_full_buffer_refuses_writes_until_it_is_flushed() {
    let client = client();
    client.set_max_buffered_writes(1024);
    let mut txn = client.begin(TxnOptions::default());
    let value = Bytes::from(vec![b'v'; 400]);
    let mut flushes = 0;
    for i in 0..10 {
        while let Err(error) = txn.put(key(&format!("k{i}")), value.clone()) {
            assert_eq!(error, TxnError::BufferFull);
            txn.flush().await.unwrap();
            flushes += 1;
        }
    }
    assert_eq!(flushes, 3);
    txn.commit().await.unwrap();
    let mut reader = client.begin(TxnOptions::default());
    for i in 0..10 {
        let found = reader.read(vec![get(&format!("k{i}"))], ReadOptions::default()).await;
        assert_eq!(text(found.unwrap().remove(0)).map(|text| text.len()), Some(400));
    }
}

#[tokio::test]
async fn at_its_own_gateway_a_leaseholder_knows_what_is_of_later() {
    let (wall, sender, client) = cluster();
    for name in ["a", "b"] {
        set(&client, name, "1").await;
    }
    // What is older than the first look under the lease is in doubt for a while.
    let mut first = client.begin(TxnOptions::default());
    assert_eq!(value(&mut first, "a").await.unwrap().as_deref(), Some("1"));
    wall.advance(Duration::from_secs(1));
    let mut txn = client.begin(TxnOptions::default());
    assert_eq!(value(&mut txn, "a").await.unwrap().as_deref(), Some("1"));
    set(&client, "a", "2").await;
    set(&client, "b", "2").await;
    assert_eq!(value(&mut txn, "b").await.unwrap().as_deref(), Some("1"));
    let all = txn.read(vec![scan(ScanRequest::default())], ReadOptions::default()).await.unwrap();
    assert_eq!(rows(&all[0]).len(), 2);
    txn.commit().await.unwrap();
    let counts = client.counts();
    assert_eq!(
        (counts.refreshes_ok, counts.refreshes_failed, counts.retries_uncertainty),
        (0, 0, 0)
    );
    // Another gateway has another clock.
    let other = TxnClient::new(TxnClientConfig {
        sender: Arc::new(sender.clone()),
        clock: sender.clock().clone(),
        node_id: NodeId(2),
        seed: 9,
        limits: crate::Limits::default(),
    });
    let mut txn = other.begin(TxnOptions::default());
    assert_eq!(value(&mut txn, "a").await.unwrap().as_deref(), Some("2"));
    set(&client, "b", "3").await;
    assert_eq!(value(&mut txn, "b").await.unwrap().as_deref(), Some("3"));
    assert_eq!(other.counts().refreshes_ok, 1);
}
