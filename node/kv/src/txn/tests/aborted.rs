//! What a transaction sees that was aborted and does not know.

use crdb_proto::kv::TxnPriority;

use super::*;

async fn steal(client: &TxnClient, name: &str) {
    let priority = TxnPriority::PriorityHigh;
    let mut thief = client.begin(TxnOptions { priority, ..TxnOptions::default() });
    value(&mut thief, name).await.unwrap();
    thief.commit().await.unwrap();
}

fn is_aborted<T: std::fmt::Debug>(outcome: Result<T, TxnError>) {
    let cause = RetryCause::Aborted("ABORT_REASON_ABORTED_RECORD_FOUND".to_owned());
    assert_eq!(outcome.unwrap_err(), TxnError::Retry { cause });
}

/// A transaction over two ranges that wrote, deleted and inserted, and lost one of its intents.
async fn victim(stolen: &str) -> (TxnClient, Txn) {
    let (_, sender, client) = cluster();
    split(&sender, "m", 50);
    for name in ["a", "b", "x"] {
        set(&client, name, "old").await;
    }
    let mut txn = client.begin(TxnOptions::default());
    txn.put(key("a"), "new".into()).unwrap();
    txn.delete(key("b")).unwrap();
    txn.insert(key("c"), "new".into()).unwrap();
    txn.put(key("x"), "new".into()).unwrap();
    txn.flush().await.unwrap();
    let all = txn.read(vec![scan(ScanRequest::default())], ReadOptions::default()).await.unwrap();
    assert_eq!(rows(&all[0]), ["a", "c", "x"]);
    if !stolen.is_empty() {
        steal(&client, stolen).await;
    }
    (client, txn)
}

#[tokio::test]
async fn it_does_not_read_past_the_writes_it_lost() {
    for name in ["a", "b", "c", "x"] {
        let (_, mut txn) = victim(name).await;
        is_aborted(value(&mut txn, name).await);
        // Nor does it write or commit from then on.
        is_aborted(txn.put(key("z"), "1".into()));
        is_aborted(txn.commit().await);
    }
    for reverse in [false, true] {
        for stolen in ["a", "b", "x"] {
            for (max_rows, count_only) in [(0, false), (0, true)] {
                let (_, mut txn) = victim(stolen).await;
                let request =
                    scan(ScanRequest { reverse, max_rows, count_only, ..ScanRequest::default() });
                is_aborted(txn.read(vec![request], ReadOptions::default()).await);
            }
        }
    }
}

#[tokio::test]
async fn a_bounded_scan_finds_those_of_its_writes_that_it_came_to() {
    let (_, mut txn) = victim("").await;
    for (reverse, expected) in [(false, "a"), (true, "x")] {
        for max_rows in 1..4 {
            let request = scan(ScanRequest { reverse, max_rows, ..ScanRequest::default() });
            let found = txn.read(vec![request], ReadOptions::default()).await.unwrap();
            assert_eq!(rows(&found[0])[0], expected);
            assert_eq!(rows(&found[0]).len() as u64, max_rows);
        }
    }
    // What was lost lies behind the bound.
    let (_, mut txn) = victim("x").await;
    let request = scan(ScanRequest { max_rows: 1, ..ScanRequest::default() });
    let found = txn.read(vec![request], ReadOptions::default()).await.unwrap();
    assert_eq!(rows(&found[0]), ["a"]);
    let request = scan(ScanRequest { max_rows: 3, ..ScanRequest::default() });
    is_aborted(txn.read(vec![request], ReadOptions::default()).await);
}

#[tokio::test]
async fn an_insert_over_a_deletion_that_is_gone_is_no_duplicate() {
    let (_, mut txn) = victim("b").await;
    txn.insert(key("b"), "again".into()).unwrap();
    is_aborted(txn.flush().await);
    let (_, mut txn) = victim("b").await;
    txn.insert(key("b"), "again".into()).unwrap();
    is_aborted(txn.commit().await);
    // One that is there is.
    let (_, mut txn) = victim("").await;
    txn.insert(key("a"), "again".into()).unwrap();
    let duplicate = TxnError::Duplicate { key: key("a"), actual: "new".into() };
    assert_eq!(txn.flush().await.unwrap_err(), duplicate);
}

#[tokio::test]
async fn what_was_taken_back_is_not_missed() {
    let (client, mut txn) = victim("").await;
    let savepoint = txn.savepoint();
    txn.put(key("a"), "newer".into()).unwrap();
    txn.put(key("d"), "new".into()).unwrap();
    txn.flush().await.unwrap();
    txn.rollback_to(savepoint).await.unwrap();
    assert_eq!(value(&mut txn, "a").await.unwrap().as_deref(), Some("new"));
    assert_eq!(value(&mut txn, "d").await.unwrap(), None);
    let all = txn.read(vec![scan(ScanRequest::default())], ReadOptions::default()).await.unwrap();
    assert_eq!(rows(&all[0]), ["a", "c", "x"]);
    txn.put(key("d"), "new".into()).unwrap();
    txn.flush().await.unwrap();
    steal(&client, "d").await;
    is_aborted(value(&mut txn, "d").await);
}
