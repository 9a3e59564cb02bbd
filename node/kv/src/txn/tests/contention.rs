//! Waits for locks: whom they end for, and what is counted.

use super::*;
use crate::contention::PushOutcome;

#[tokio::test]
async fn nowait_waits_for_nobody_alive_and_passes_the_dead() {
    let (wall, sender, client) = cluster();
    let mut dead = holding(&client, "a").await;
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

#[tokio::test]
async fn who_waits_to_commit_in_one_range_holds_up_nobody_and_may_give_up() {
    let (_, sender, client) = cluster();
    let mut holder = holding(&client, "b").await;
    let mut txn = client.begin(TxnOptions::default());
    for name in ["a", "b", "c"] {
        txn.put(key(name), "new".into()).unwrap();
    }
    let mut other = client.begin(TxnOptions::default());
    for _ in 0..2 {
        assert_eq!(txn.try_commit().await.unwrap(), CommitOutcome::Blocked);
        let mut wait = Box::pin(txn.lock_writes());
        assert!(futures::poll!(wait.as_mut()).is_pending());
        // Given up, the wait leaves the transaction as it was.
        other.read(vec![lock("a")], nowait()).await.unwrap();
        other.rollback().await;
        other = client.begin(TxnOptions::default());
    }
    holder.rollback().await;
    txn.lock_writes().await.unwrap();
    let error = other.read(vec![lock("c")], nowait()).await.unwrap_err();
    assert_eq!(error, TxnError::LockConflict { key: key("c"), timed_out: false });
    let outcome = txn.try_commit().await.unwrap();
    let CommitOutcome::Committed(info) = outcome else { panic!("{outcome:?}") };
    assert_eq!((info.kind, info.rounds), (CommitKind::OnePhase, 1));
    assert_eq!(left_behind(&sender), Vec::<String>::new());
    assert_eq!(
        text(other.read(vec![lock("c")], nowait()).await.unwrap().remove(0)).as_deref(),
        Some("new")
    );
}

#[tokio::test]
async fn blocked_commits_in_one_range_never_wait_for_each_other_in_a_circle() {
    let (_, sender, client) = cluster();
    let mut holder = holding(&client, "b").await;
    let names = ["a", "b", "c"];
    let mut writers: Vec<Txn> = (0..8).map(|_| client.begin(TxnOptions::default())).collect();
    for (i, txn) in writers.iter_mut().enumerate() {
        for at in 0..2 {
            txn.put(key(names[(i + at) % 3]), "new".into()).unwrap();
        }
    }
    let mut commits = futures::future::join_all(writers.iter_mut().map(Txn::commit));
    assert!(futures::poll!(&mut commits).is_pending());
    holder.rollback().await;
    for outcome in commits.await {
        assert_eq!(outcome.unwrap().kind, CommitKind::OnePhase);
    }
    assert_eq!(sender.contention().deadlocks, 0);
    assert_eq!(left_behind(&sender), Vec::<String>::new());
}

#[tokio::test]
async fn a_blocked_commit_that_may_not_wait_fails() {
    let (_, sender, client) = cluster();
    let mut holder = holding(&client, "a").await;
    let mut txn = client.begin(TxnOptions::default());
    txn.put(key("a"), "new".into()).unwrap();
    txn.set_lock_timeout(Duration::from_millis(20));
    let error = txn.commit().await.unwrap_err();
    assert_eq!(error, TxnError::LockConflict { key: key("a"), timed_out: true });
    txn.rollback().await;
    holder.rollback().await;
    assert_eq!(left_behind(&sender), Vec::<String>::new());
    set(&client, "a", "other").await;
}

#[tokio::test]
async fn what_is_in_the_way_of_reads_is_waited_for_without_a_lock() {
    let (_, _, client) = cluster();
    let mut txn = client.begin(TxnOptions::default());
    assert_eq!(value(&mut txn, "r").await.unwrap(), None);
    let mut holder = client.begin(TxnOptions::default());
    holder.put(key("r"), "taken back".into()).unwrap();
    holder.flush().await.unwrap();
    txn.put(key("w"), "new".into()).unwrap();
    let mut commit = Box::pin(txn.try_commit());
    assert!(futures::poll!(commit.as_mut()).is_pending());
    holder.rollback().await;
    let outcome = commit.await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Committed(_)), "{outcome:?}");
}

#[tokio::test]
async fn a_lock_that_a_wait_left_elsewhere_goes_with_the_commit() {
    let (_, sender, client) = cluster();
    split(&sender, "m", 9);
    let mut holder = holding(&client, "a").await;
    let mut txn = client.begin(TxnOptions::default());
    let savepoint = txn.savepoint();
    txn.put(key("a"), "new".into()).unwrap();
    assert_eq!(txn.try_commit().await.unwrap(), CommitOutcome::Blocked);
    holder.rollback().await;
    // Stopped just when it has the lock, it goes on in another range.
    txn.lock_writes().await.unwrap();
    txn.rollback_to(savepoint).await.unwrap();
    txn.put(key("z"), "new".into()).unwrap();
    assert_eq!(txn.commit().await.unwrap().kind, CommitKind::OnePhase);
    let mut other = client.begin(TxnOptions::default());
    other.read(vec![lock("a")], nowait()).await.unwrap();
}

#[tokio::test]
async fn a_blocked_commit_is_refused_without_a_push_and_passes_the_dead_later() {
    let (wall, sender, client) = cluster();
    let _dead = holding(&client, "a").await;
    wall.advance(Duration::from_secs(6));
    let mut txn = client.begin(TxnOptions::default());
    txn.put(key("a"), "new".into()).unwrap();
    assert_eq!(txn.try_commit().await.unwrap(), CommitOutcome::Blocked);
    assert_eq!(sender.contention().pushes(PushOutcome::Aborted), 0);
    assert_eq!(txn.commit().await.unwrap().kind, CommitKind::OnePhase);
    assert_eq!(sender.contention().pushes(PushOutcome::Aborted), 1);
}
