//! Each planted bug shows: what the tests without it find in order is not.

use super::*;
use crate::PlantedTxnBug;

fn errs(sender: Arc<dyn crate::Sender>, clock: &Clock, bug: PlantedTxnBug) -> TxnClient {
    let config = TxnClientConfig {
        sender,
        clock: clock.clone(),
        node_id: NodeId(1),
        seed: 9,
        limits: crate::Limits::default(),
    };
    TxnClient::with_bug(config, Some(bug))
}

fn local(bug: PlantedTxnBug) -> TxnClient {
    let (_, sender, _) = cluster();
    errs(Arc::new(sender.clone()), sender.clock(), bug)
}

#[tokio::test]
async fn without_uncertainty_an_acknowledged_value_is_overlooked() {
    let client = local(PlantedTxnBug::SkipUncertaintyRestart);
    for name in ["a", "b"] {
        set(&client, name, "1").await;
    }
    let mut txn = client.begin(TxnOptions::default());
    assert_eq!(value(&mut txn, "a").await.unwrap().as_deref(), Some("1"));
    set(&client, "b", "2").await;
    assert_eq!(value(&mut txn, "b").await.unwrap().as_deref(), Some("1"));
}

#[tokio::test]
async fn without_refresh_write_skew_passes() {
    let client = local(PlantedTxnBug::SkipRefresh);
    let mut one = client.begin(TxnOptions::default());
    let mut two = client.begin(TxnOptions::default());
    for txn in [&mut one, &mut two] {
        txn.read(vec![scan(ScanRequest::default())], ReadOptions::default()).await.unwrap();
    }
    one.put(key("a"), "0".into()).unwrap();
    two.put(key("b"), "0".into()).unwrap();
    one.commit().await.unwrap();
    two.commit().await.unwrap();
}

#[tokio::test]
async fn a_commit_that_may_have_happened_is_sent_again() {
    let world = faults::world();
    let clock = world.local.clock();
    let client = errs(Arc::clone(&world.faulty) as _, clock, PlantedTxnBug::RetryAmbiguous);
    let mut txn = client.begin(TxnOptions::default());
    txn.put(key("a"), "new".into()).unwrap();
    *world.faulty.next.lock() = (true, faults::Fate::LostAfter);
    txn.commit().await.unwrap();
    assert_eq!(*world.faulty.commits.lock(), 2);
}
