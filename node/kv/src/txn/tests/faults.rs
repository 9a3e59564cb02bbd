//! Coordinators that vanish and answers that are lost.

use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::*;
use crate::{SendError, Sender};

/// What becomes of a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Arrives,
    /// It never arrives, and the sender does not know.
    LostBefore,
    /// It takes effect, and the answer never comes.
    LostAfter,
    /// It takes effect, and the sender is gone.
    Vanishes,
    /// As `Vanishes`, but its first write never arrived.
    VanishesHalf,
    /// The range of its last write is out of reach: that is refused, the others take effect.
    LastRefused,
}

/// A sender over another one that loses some batches.
pub(super) struct Faulty {
    inner: LocalSender,
    /// For the next batch that commits, in one phase or not.
    pub(super) next: Mutex<(bool, Fate)>,
    /// The batches that were lost before they arrived.
    lost: Mutex<Vec<BatchRequest>>,
    pub(super) commits: Mutex<usize>,
}

fn commits(batch: &BatchRequest, one_phase: bool) -> bool {
    if one_phase {
        return batch.header.as_ref().is_some_and(|header| header.one_phase);
    }
    batch.requests.iter().any(|request| matches!(request.kind, Some(request::Kind::EndTxn(_))))
}

impl Sender for Faulty {
    fn send(
        &self,
        mut batch: BatchRequest,
    ) -> BoxFuture<'_, Result<crdb_proto::kv::BatchResponse, SendError>> {
        Box::pin(async move {
            let (one_phase, fate) = *self.next.lock();
            if !commits(&batch, one_phase) {
                return self.inner.send(batch).await;
            }
            *self.commits.lock() += 1;
            *self.next.lock() = (one_phase, Fate::Arrives);
            let ambiguous = || SendError::Ambiguous { message: "scripted".to_owned() };
            match fate {
                Fate::Arrives => self.inner.send(batch).await,
                Fate::LastRefused => {
                    let last = batch.requests.len() - 2;
                    batch.requests.remove(last);
                    self.inner.send(batch).await?;
                    Err(SendError::Unavailable { message: "scripted".to_owned() })
                }
                Fate::LostBefore => {
                    self.lost.lock().push(batch);
                    Err(ambiguous())
                }
                Fate::LostAfter => {
                    self.inner.send(batch).await?;
                    Err(ambiguous())
                }
                Fate::Vanishes | Fate::VanishesHalf => {
                    if fate == Fate::VanishesHalf {
                        batch.requests.remove(0);
                    }
                    self.inner.send(batch).await?;
                    std::future::pending().await
                }
            }
        })
    }
}

pub(super) struct World {
    wall: Arc<ManualClock>,
    pub(super) local: LocalSender,
    pub(super) faulty: Arc<Faulty>,
    /// Its commits meet what is scripted.
    client: TxnClient,
    /// Another node's.
    other: TxnClient,
}

/// Two ranges, with `a` in the first and `z` in the second.
pub(super) fn world() -> World {
    let (wall, local, other) = cluster();
    split(&local, "m", 50);
    let faulty = Arc::new(Faulty {
        inner: local.clone(),
        next: Mutex::new((true, Fate::Arrives)),
        lost: Mutex::default(),
        commits: Mutex::new(0),
    });
    let client = TxnClient::new(TxnClientConfig {
        sender: Arc::clone(&faulty) as _,
        clock: local.clock().clone(),
        node_id: NodeId(1),
        seed: 8,
        limits: crate::Limits::default(),
    });
    World { wall, local, faulty, client, other }
}

impl World {
    /// A transaction that wrote to `keys`, about to commit.
    fn txn(&self, keys: &[&str], fate: Fate) -> Txn {
        let mut txn = self.client.begin(TxnOptions::default());
        for name in keys {
            txn.put(key(name), "new".into()).unwrap();
        }
        *self.faulty.next.lock() = (keys.len() == 1, fate);
        txn
    }

    /// Has the coordinator of `txn` die in the middle of its commit.
    async fn vanish(&self, mut txn: Txn) {
        let mut commit = Box::pin(txn.commit());
        assert!(futures::poll!(commit.as_mut()).is_pending());
        drop(commit);
        drop(txn);
    }

    async fn read(&self, name: &str) -> Option<String> {
        let mut txn = self.other.begin(TxnOptions::default());
        value(&mut txn, name).await.unwrap()
    }
}

#[tokio::test]
async fn a_one_phase_commit_whose_answer_is_lost_is_ambiguous_and_not_sent_again() {
    for (fate, there) in [(Fate::LostAfter, Some("new")), (Fate::LostBefore, None)] {
        let world = world();
        let mut txn = world.txn(&["a"], fate);
        let error = txn.commit().await.unwrap_err();
        assert!(matches!(error, TxnError::Ambiguous { .. }), "{error}");
        assert!(!error.may_continue());
        txn.rollback().await;
        assert_eq!(*world.faulty.commits.lock(), 1);
        assert_eq!(world.read("a").await.as_deref(), there);
        assert_eq!(world.client.counts().ambiguous, 1);
    }
}

#[tokio::test]
async fn a_parallel_commit_whose_answer_is_lost_learns_that_it_happened() {
    let world = world();
    let mut txn = world.txn(&["a", "z"], Fate::LostAfter);
    txn.commit().await.unwrap();
    for name in ["a", "z"] {
        assert_eq!(world.read(name).await.as_deref(), Some("new"));
    }
    assert_eq!(left_behind(&world.local), Vec::<String>::new());
}

#[tokio::test]
async fn a_parallel_commit_that_is_lost_is_prevented_and_stays_so() {
    let world = world();
    let mut txn = world.txn(&["a", "z"], Fate::LostBefore);
    let error = txn.commit().await.unwrap_err();
    assert!(matches!(error, TxnError::Retry { cause: RetryCause::Aborted(_) }), "{error}");
    txn.rollback().await;
    // The batch was only late. Its record may not come to life again.
    let late = world.faulty.lost.lock().pop().unwrap();
    let error = world.local.send(late).await.unwrap_err();
    assert!(matches!(error, SendError::TxnAborted { .. }), "{error}");
    world.wall.advance(Duration::from_secs(6));
    for name in ["a", "z"] {
        assert_eq!(world.read(name).await, None);
    }
}

#[tokio::test]
async fn a_reader_finishes_the_commit_of_a_coordinator_that_vanished() {
    let world = world();
    world.vanish(world.txn(&["a", "z"], Fate::Vanishes)).await;
    assert_eq!(left_behind(&world.local).len(), 3);
    world.wall.advance(Duration::from_secs(6));
    for name in ["a", "z"] {
        assert_eq!(world.read(name).await.as_deref(), Some("new"));
    }
}

#[tokio::test]
async fn a_reader_undoes_the_commit_of_which_a_write_is_missing() {
    let world = world();
    world.vanish(world.txn(&["a", "z"], Fate::VanishesHalf)).await;
    world.wall.advance(Duration::from_secs(6));
    for name in ["a", "z"] {
        assert_eq!(world.read(name).await, None);
    }
}

#[tokio::test]
async fn a_transaction_that_gives_signs_of_life_keeps_its_locks() {
    let world = world();
    let (client, stop) = (world.client.clone(), world.client.clone());
    let quick: Sleep = Arc::new(|_| Box::pin(tokio::time::sleep(Duration::from_millis(1))));
    let work = tokio::task::LocalSet::new();
    let work = work.run_until(async move {
        let working = async { client.work(quick).await };
        let main = async {
            let mut txn = world.client.begin(TxnOptions::default());
            locked(&mut txn, "a").await.unwrap();
            for _ in 0..4 {
                world.wall.advance(Duration::from_secs(2));
                let due = Timestamp::new(world.local.clock().wall_nanos() - 1_000_000_000, 0);
                while !world.client.background().silent_since(due).is_empty() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            let mut other = world.other.begin(TxnOptions::default());
            let patience = Duration::from_millis(300);
            let short = ReadOptions { lock_timeout: patience, ..ReadOptions::default() };
            let error = other.read(vec![lock("a")], short).await.unwrap_err();
            assert_eq!(error, TxnError::LockConflict { key: key("a"), timed_out: true });
            txn.put(key("a"), "1".into()).unwrap();
            txn.commit().await.unwrap();
            assert_eq!(world.read("a").await.as_deref(), Some("1"));
            while !left_behind(&world.local).is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            stop.close();
        };
        tokio::join!(working, main);
    });
    tokio::time::timeout(Duration::from_secs(20), work).await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_says_nothing_loses_its_locks_and_intents() {
    let world = world();
    let mut txn = world.client.begin(TxnOptions::default());
    txn.put(key("a"), "1".into()).unwrap();
    txn.flush().await.unwrap();
    world.wall.advance(Duration::from_secs(6));
    assert_eq!(world.read("a").await, None);
    txn.put(key("z"), "1".into()).unwrap();
    let error = txn.commit().await.unwrap_err();
    assert!(matches!(error, TxnError::Retry { cause: RetryCause::Aborted(_) }), "{error}");
    txn.rollback().await;
    assert_eq!(world.read("z").await, None);
}

/// The records that are left.
fn records(world: &World) -> Vec<crdb_proto::kv::TxnRecord> {
    use crdb_storage::{Engine as _, lock, mvcc::Direction};
    let mut records = Vec::new();
    let all = crdb_keys::Span::new(Bytes::new(), Bytes::from_static(&[0xfe; 8]));
    let snapshot = world.local.engine().snapshot();
    lock::scan(&snapshot, &all, Direction::Forward, &mut |lock| {
        if let lock::Lock::Record { record, .. } = lock {
            records.push(record);
        }
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    records
}

#[tokio::test]
async fn what_a_dead_coordinator_left_is_cleaned_up_and_the_commit_stays() {
    for (fate, there) in [(Fate::Vanishes, Some("new")), (Fate::VanishesHalf, None)] {
        let world = world();
        world.vanish(world.txn(&["a", "b", "z"], fate)).await;
        world.wall.advance(Duration::from_secs(2 * 3600 + 10));
        let [record] = records(&world).try_into().unwrap();
        assert!(
            crate::clean_up_after(&world.local, &record, crate::Limits::default()).await.unwrap()
        );
        assert_eq!(left_behind(&world.local), Vec::<String>::new());
        for name in ["a", "b", "z"] {
            assert_eq!(world.read(name).await.as_deref(), there, "{name}");
        }
        // A second collector finds nothing left to do.
        assert!(
            crate::clean_up_after(&world.local, &record, crate::Limits::default()).await.unwrap()
        );
        assert_eq!(world.read("z").await.as_deref(), there);
    }
}

#[tokio::test]
async fn a_record_stays_while_an_intent_cannot_be_resolved() {
    let world = world();
    world.vanish(world.txn(&["a", "z"], Fate::Vanishes)).await;
    world.wall.advance(Duration::from_secs(2 * 3600 + 10));
    let [record] = records(&world).try_into().unwrap();
    let unreachable = Unreachable(world.local.clone());
    crate::clean_up_after(&unreachable, &record, crate::Limits::default()).await.unwrap_err();
    let [record] = records(&world).try_into().unwrap();
    assert_eq!(record.status(), crdb_proto::kv::TxnStatus::Committed);
    assert_eq!(world.read("z").await.as_deref(), Some("new"));
    assert!(crate::clean_up_after(&world.local, &record, crate::Limits::default()).await.unwrap());
    assert_eq!(left_behind(&world.local), Vec::<String>::new());
}

/// A sender that cannot resolve intents in the second range.
struct Unreachable(LocalSender);

impl Sender for Unreachable {
    fn send(
        &self,
        batch: BatchRequest,
    ) -> BoxFuture<'_, Result<crdb_proto::kv::BatchResponse, SendError>> {
        let lost = batch.requests.iter().any(|request| {
            matches!(&request.kind, Some(request::Kind::ResolveIntent(r)) if r.start >= key("m"))
        });
        Box::pin(async move {
            if lost {
                return Err(SendError::Unavailable { message: "scripted".to_owned() });
            }
            self.0.send(batch).await
        })
    }
}

#[tokio::test]
async fn a_coordinator_that_slept_too_long_does_not_take_a_missing_record_for_an_abort() {
    let world = world();
    let mut txn = world.txn(&["a", "z"], Fate::Vanishes);
    let mut commit = Box::pin(txn.commit());
    assert!(futures::poll!(commit.as_mut()).is_pending());
    drop(commit);
    let started = world.local.clock().now();
    world.wall.advance(Duration::from_secs(2 * 3600 + 10));
    let [record] = records(&world).try_into().unwrap();
    assert!(crate::clean_up_after(&world.local, &record, crate::Limits::default()).await.unwrap());
    assert_eq!(txn.learn(started).await, None);
    // As it would be if its commit had begun just now and were not there.
    assert_eq!(txn.learn(world.local.clock().now()).await, Some(None));
}

/// Fails the second of the batches that stage a transaction.
struct SecondStage(Arc<Faulty>);

impl Sender for SecondStage {
    fn send(
        &self,
        batch: BatchRequest,
    ) -> BoxFuture<'_, Result<crdb_proto::kv::BatchResponse, SendError>> {
        Box::pin(async move {
            let stages = commits(&batch, false);
            let outcome = self.0.send(batch).await;
            if stages && matches!(outcome, Err(SendError::TxnRetry { .. })) {
                *self.0.next.lock() = (false, Fate::LastRefused);
            }
            outcome
        })
    }
}

#[tokio::test]
async fn a_commit_that_fails_as_it_is_staged_anew_is_not_reported_lost_and_finished_later() {
    let world = world();
    let client = TxnClient::new(TxnClientConfig {
        sender: Arc::new(SecondStage(Arc::clone(&world.faulty))),
        clock: world.local.clock().clone(),
        node_id: NodeId(1),
        seed: 9,
        limits: crate::Limits::default(),
    });
    let mut txn = client.begin(TxnOptions::default());
    assert_eq!(value(&mut txn, "b").await.unwrap(), None);
    // Whoever reads this later moves the record up, and so what was read has to be read again.
    assert_eq!(world.read("a").await, None);
    txn.put(key("a"), "new".into()).unwrap();
    txn.put(key("z"), "new".into()).unwrap();
    *world.faulty.next.lock() = (false, Fate::Arrives);
    let outcome = txn.commit().await;
    assert!(*world.faulty.commits.lock() >= 2, "it was staged once");
    // Its coordinator dies before it can undo anything.
    drop(txn);
    world.wall.advance(Duration::from_secs(10));
    assert_eq!(world.read("z").await.as_deref(), Some("new"), "{outcome:?}");
    assert_eq!(world.read("a").await.as_deref(), Some("new"), "{outcome:?}");
    assert_eq!(outcome.unwrap().kind, CommitKind::Explicit);
}

#[tokio::test]
async fn a_commit_that_waited_too_long_in_one_of_its_ranges_is_not_finished_by_others() {
    let world = world();
    let mut holder = world.other.begin(TxnOptions::default());
    assert_eq!(locked(&mut holder, "z").await.unwrap(), None);
    let mut txn = world.txn(&["a", "b", "z"], Fate::Arrives);
    txn.set_lock_timeout(Duration::from_millis(20));
    let error = txn.commit().await.unwrap_err();
    assert_eq!(error, TxnError::LockConflict { key: key("z"), timed_out: true });
    // What was in nobody's way is there, and the record that stages it; then its coordinator dies.
    drop(txn);
    let [record] = records(&world).try_into().unwrap();
    assert_eq!(record.status(), crdb_proto::kv::TxnStatus::Staging);
    assert_eq!(record.in_flight.len(), 3);
    holder.rollback().await;
    world.wall.advance(Duration::from_secs(10));
    for name in ["a", "b", "z"] {
        assert_eq!(world.read(name).await, None, "{name}");
    }
    assert_eq!(records(&world)[0].status(), crdb_proto::kv::TxnStatus::Aborted);
}
