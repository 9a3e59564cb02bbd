//! Requests whose sender gave them up, and which go on at their leaseholders for a while.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::*;
use crate::{SendError, Sender};

type Call = BoxFuture<'static, Result<crdb_proto::kv::BatchResponse, SendError>>;

/// A sender as to another node: who drops the answer has not stopped the request.
#[derive(Default)]
struct Remote {
    /// Requests that nobody waits for any more.
    ghosts: Mutex<Vec<Call>>,
}

struct RemoteSender {
    inner: LocalSender,
    remote: Arc<Remote>,
}

/// The answer to a request; dropped before it came, the request becomes a ghost.
struct Answer {
    call: Option<Call>,
    remote: Arc<Remote>,
}

impl Future for Answer {
    type Output = Result<crdb_proto::kv::BatchResponse, SendError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        let answer = self.call.as_mut().unwrap().as_mut().poll(cx);
        if answer.is_ready() {
            self.call = None;
        }
        answer
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.remote.ghosts.lock().extend(self.call.take());
    }
}

impl Sender for RemoteSender {
    fn send(
        &self,
        batch: BatchRequest,
    ) -> BoxFuture<'_, Result<crdb_proto::kv::BatchResponse, SendError>> {
        let inner = self.inner.clone();
        let call: Call = Box::pin(async move { inner.send(batch).await });
        Box::pin(Answer { call: Some(call), remote: Arc::clone(&self.remote) })
    }
}

impl Remote {
    /// Lets the ghosts come to their end.
    async fn haunt(&self) {
        let ghosts = std::mem::take(&mut *self.ghosts.lock());
        assert!(!ghosts.is_empty(), "nothing was given up");
        for ghost in ghosts {
            drop(ghost.await);
        }
    }
}

/// The clients of two nodes, of which the first reaches the leaseholder over the network.
fn far_and_near() -> (Arc<Remote>, LocalSender, TxnClient, TxnClient) {
    let (_, local, near) = cluster();
    let remote = Arc::new(Remote::default());
    let far = TxnClient::new(TxnClientConfig {
        sender: Arc::new(RemoteSender { inner: local.clone(), remote: Arc::clone(&remote) }),
        clock: local.clock().clone(),
        node_id: NodeId(2),
        seed: 9,
        limits: crate::Limits::default(),
    });
    (remote, local, far, near)
}

#[tokio::test]
async fn a_wait_for_a_lock_that_was_given_up_leaves_no_lock_at_another_node() {
    for by_commit in [true, false] {
        let (remote, local, far, near) = far_and_near();
        let mut holder = holding(&near, "a").await;
        let mut txn = far.begin(TxnOptions::default());
        if by_commit {
            txn.put(key("a"), "new".into()).unwrap();
            assert_eq!(txn.try_commit().await.unwrap(), CommitOutcome::Blocked);
            assert!(futures::poll!(Box::pin(txn.lock_writes())).is_pending());
        } else {
            assert!(futures::poll!(Box::pin(locked(&mut txn, "a"))).is_pending());
        }
        txn.rollback().await;
        holder.rollback().await;
        remote.haunt().await;
        let mut other = near.begin(TxnOptions::default());
        other.read(vec![lock("a")], nowait()).await.unwrap();
        other.rollback().await;
        assert_eq!(left_behind(&local), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_flush_that_was_given_up_cannot_be_taken_back_by_a_savepoint() {
    let (remote, local, far, near) = far_and_near();
    let mut holder = holding(&near, "a").await;
    let mut txn = far.begin(TxnOptions::default());
    let savepoint = txn.savepoint();
    txn.put(key("a"), "taken back".into()).unwrap();
    assert!(futures::poll!(Box::pin(txn.flush())).is_pending());
    let error = txn.rollback_to(savepoint).await.unwrap_err();
    assert_eq!(error, TxnError::GivenUp { what: "a write of the transaction" });
    assert!(!error.may_continue());
    txn.put(key("b"), "new".into()).unwrap_err();
    txn.commit().await.unwrap_err();
    // The write comes to its end after the clean-up.
    txn.rollback().await;
    holder.rollback().await;
    remote.haunt().await;
    let mut reader = near.begin(TxnOptions::default());
    for name in ["a", "b"] {
        assert_eq!(value(&mut reader, name).await.unwrap(), None);
    }
    assert_eq!(left_behind(&local), Vec::<String>::new());
}

/// A sender to which one range is out of reach until it is told.
struct Silent {
    inner: LocalSender,
    silent: AtomicBool,
}

impl Sender for Silent {
    fn send(
        &self,
        batch: BatchRequest,
    ) -> BoxFuture<'_, Result<crdb_proto::kv::BatchResponse, SendError>> {
        let txn = batch.header.as_ref().and_then(|header| header.txn.as_ref());
        let there = txn.is_some_and(|txn| txn.anchor == key("z"));
        if there && self.silent.load(Ordering::Relaxed) {
            return Box::pin(std::future::pending());
        }
        self.inner.send(batch)
    }
}

#[tokio::test]
async fn a_record_out_of_reach_keeps_no_other_transaction_from_saying_that_it_is_alive() {
    let (wall, local, near) = cluster();
    let sender = Arc::new(Silent { inner: local.clone(), silent: AtomicBool::new(false) });
    let client = TxnClient::new(TxnClientConfig {
        sender: Arc::clone(&sender) as _,
        clock: local.clock().clone(),
        node_id: NodeId(1),
        seed: 10,
        limits: crate::Limits::default(),
    });
    let cut_off = holding(&client, "z").await;
    let mut txn = holding(&client, "a").await;
    sender.silent.store(true, Ordering::Relaxed);
    let advancing = Arc::clone(&wall);
    // Each look is a second later than the last.
    let sleep: Sleep = Arc::new(move |_| {
        advancing.advance(Duration::from_secs(1));
        Box::pin(tokio::task::yield_now())
    });
    let mut beats = Box::pin(client.work(sleep));
    for _ in 0..50 {
        assert!(futures::poll!(&mut beats).is_pending());
    }
    // Much longer than a coordinator may be silent has passed.
    let mut other = near.begin(TxnOptions::default());
    let error = other.read(vec![lock("a")], nowait()).await.unwrap_err();
    assert_eq!(error, TxnError::LockConflict { key: key("a"), timed_out: false });
    txn.put(key("a"), "new".into()).unwrap();
    txn.commit().await.unwrap();
    drop(cut_off);
}
