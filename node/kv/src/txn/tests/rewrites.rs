//! A row that one transaction writes again and again.

use super::*;

/// Bytes of the intent at a key.
fn intent_bytes(sender: &LocalSender, name: &str) -> usize {
    use crdb_storage::{Engine as _, lock};
    use prost::Message as _;
    let intent = lock::get_intent(&sender.engine().snapshot(), &key(name)).unwrap().unwrap();
    intent.encoded_len()
}

#[tokio::test]
async fn costs_as_much_each_time_and_goes_back_to_every_savepoint() {
    let (_, sender, client) = cluster();
    let mut txn = client.begin(TxnOptions::default());
    let mut first = 0;
    for n in 0..100 {
        // As a statement under READ COMMITTED does.
        let mark = txn.savepoint();
        txn.put(key("k"), vec![n; 1000].into()).unwrap();
        txn.flush().await.unwrap();
        txn.release(mark);
        if n == 2 {
            first = intent_bytes(&sender, "k");
        }
    }
    assert!(intent_bytes(&sender, "k") < first + 16, "{} {first}", intent_bytes(&sender, "k"));
    let mut points = Vec::new();
    for n in 0..20 {
        txn.put(key("k"), format!("{n}").into()).unwrap();
        txn.flush().await.unwrap();
        points.push(txn.savepoint());
        for _ in 0..3 {
            txn.put(key("k"), "gone".into()).unwrap();
            txn.flush().await.unwrap();
        }
    }
    for (n, point) in points.into_iter().enumerate().rev().step_by(3) {
        txn.rollback_to(point).await.unwrap();
        assert_eq!(value(&mut txn, "k").await.unwrap(), Some(n.to_string()));
    }
    let found = value(&mut txn, "k").await.unwrap();
    txn.commit().await.unwrap();
    let mut later = client.begin(TxnOptions::default());
    assert_eq!(value(&mut later, "k").await.unwrap(), found);
}
