//! Waits for locks: whom they end for, and what is counted.

use super::*;
use crate::contention::PushOutcome;

fn nowait() -> ReadOptions {
    ReadOptions { wait_policy: WaitPolicy::WaitError, ..ReadOptions::default() }
}

#[tokio::test]
async fn nowait_waits_for_nobody_alive_and_passes_the_dead() {
    let (wall, sender, client) = cluster();
    let mut dead = client.begin(TxnOptions::default());
    locked(&mut dead, "a").await.unwrap();
    for name in ["b", "c", "d"] {
        dead.put(key(name), "dead".into()).unwrap();
    }
    dead.flush().await.unwrap();
    let mut txn = client.begin(TxnOptions {
        priority: crdb_proto::kv::TxnPriority::PriorityHigh,
        ..TxnOptions::default()
    });
    for name in ["a", "b"] {
        let error = txn.read(vec![lock(name)], nowait()).await.unwrap_err();
        assert_eq!(error, TxnError::LockConflict { key: key(name), timed_out: false });
    }
    assert_eq!(sender.contention().pushes(PushOutcome::Alive), 2);

    // Nothing is heard of it for longer than a coordinator may be silent.
    wall.advance(Duration::from_secs(6));
    assert_eq!(text(txn.read(vec![lock("a")], nowait()).await.unwrap().remove(0)), None);
    let all =
        scan(ScanRequest { lock: LockStrength::LockExclusive.into(), ..ScanRequest::default() });
    assert_eq!(rows(&txn.read(vec![all], nowait()).await.unwrap()[0]), Vec::<String>::new());
    let counts = sender.contention();
    assert!(counts.pushes(PushOutcome::Aborted) >= 2, "{counts:?}");
    assert_eq!((counts.waiting, counts.waits_ended(), counts.deadlocks), (0, 0, 0));
    let error = dead.commit().await.unwrap_err();
    assert!(matches!(error, TxnError::Retry { cause: RetryCause::Aborted(_) }), "{error:?}");
}

#[tokio::test]
async fn waits_and_deadlocks_are_counted() {
    let (_, sender, client) = cluster();
    let mut one = client.begin(TxnOptions::default());
    let mut two = client.begin(TxnOptions::default());
    locked(&mut one, "a").await.unwrap();
    locked(&mut two, "b").await.unwrap();
    {
        let mut wait = Box::pin(locked(&mut one, "b"));
        assert!(futures::poll!(wait.as_mut()).is_pending());
        assert_eq!(sender.contention().waiting, 1);
        // Whoever gives up waits no more.
    }
    assert_eq!((sender.contention().waiting, sender.contention().waits_ended()), (0, 1));
    let (first, second) = tokio::join!(locked(&mut one, "b"), locked(&mut two, "a"));
    first.unwrap();
    second.unwrap_err();
    let counts = sender.contention();
    assert_eq!((counts.waiting, counts.deadlocks), (0, 1), "{counts:?}");
    assert!(counts.waits_ended() >= 3 && counts.wait_nanos > 0, "{counts:?}");
}
