//! Transactions over one real store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crdb_keys::NodeId;
use crdb_keys::hlc::{Clock, ManualClock};
use crdb_proto::kv::{GetRequest, Request, Response, ScanRequest, request, response};

use super::*;
use crate::local::LocalSender;

fn client() -> TxnClient {
    let wall = Arc::new(ManualClock::new(1_000_000_000));
    let clock = Clock::new(wall, Duration::from_millis(500));
    let sender = Arc::new(LocalSender::new(clock.clone()));
    TxnClient::new(TxnClientConfig { sender, clock, node_id: NodeId(1), seed: 7 })
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
    match responses.into_iter().next().unwrap().kind.unwrap() {
        response::Kind::Get(get) => {
            Ok(get.value.map(|value| String::from_utf8(value.to_vec()).unwrap()))
        }
        other => panic!("not a get: {other:?}"),
    }
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
