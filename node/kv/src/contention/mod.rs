//! Brings a request at its leaseholder to an end.
//!
//! What it is: the driver of an [`Evaluation`], on the node of the leaseholder: it hands proposals
//! over, waits for what the evaluation waits for, and finds out about transactions whose locks are
//! in the way. What it is not: it decides nothing about latches, leases or the order of a queue,
//! and has no clock or network of its own; a [`Site`] lends them.
//!
//! ```text
//! drive ─▶ poll ─┬ Yield ─────────▶ poll again, after a pause if the site wants one
//!                ├ Propose ───────▶ handed to the store
//!                ├ WaitLock ──────▶ until woken; meanwhile, after 50 ms and then every 100 ms:
//!                │                    am I aborted? ──── yes ─▶ TxnAborted
//!                │                    push the holder ─┬ ended ────▶ resolve its intents, or
//!                │                                     │             release its locks
//!                │                                     ├ stale STAGING ─▶ recover, then so
//!                │                                     └ alive ────▶ wait on
//!                ├ other waits ───▶ until woken
//!                └ Done ──────────▶ the response, unless it is that of a read that does not wait
//!                                   (NOWAIT): the holder is pushed once, and if it has ended or
//!                                   its coordinator is dead the request begins again
//! ```
//!
//! Deadlocks. Each push says who waits for the pusher, directly or not, as the pusher's record
//! knows it. If the pushee is among them, both wait for each other, and the one with the higher
//! priority, or else the larger id, has the other aborted. In every cycle somebody is larger than
//! whom it waits for.
//!
//! Invariants:
//! 1. An evaluation is polled with a reading of the clock taken after its last return.
//! 2. Whoever waits for a lease, or with a deadline for a lock, looks again in time, woken or not.
//! 3. An intent is resolved only as the record of its transaction says once that has ended.
//! 4. A push is under way only while the evaluation waits for a lock, or has ended. It may hold or await latches
//!    itself: one that nobody polls would stand in the way of the very request it was made for.

mod metrics;
mod push;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use crdb_keys::RangeId;
use crdb_proto::kv::{self, BatchRequest, BatchResponse, TxnMeta, request};
use crdb_raftstore::{Evaluation, LockWait, Mono, Progress, Proposal, StoreHandle, YieldPoint};
use crdb_storage::Engine;
use crdb_storage::evaluate::is_read_only;
use futures::future::BoxFuture;

use self::metrics::Waiting;
pub use self::metrics::{ContentionCounts, ContentionMetrics, PushOutcome, WAIT_BUCKETS_MS};
use crate::{Limits, Sender};

/// A request that waits for a lease looks again after this long, woken or not.
const LEASE_RECHECK: Duration = Duration::from_millis(100);

/// Where an evaluation is driven: the store's node, as far as the driver needs it.
pub trait Site: Send + Sync {
    /// The monotonic clock.
    fn mono(&self) -> Mono;

    /// Hands a proposal to the store.
    fn propose(&self, proposal: Proposal);

    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// The way to the records of transactions. Without one, a wait for a lock ends only by itself.
    fn sender(&self) -> Option<Arc<dyn Sender>>;

    /// Called at each point where others may run; `range` is that of the request, once found. The
    /// driver waits for what is returned: the simulator lets others run there.
    fn at(&self, _point: YieldPoint, _range: Option<RangeId>) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// Its bounds.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// Where waits and pushes are counted, if anywhere.
    fn metrics(&self) -> Option<&ContentionMetrics> {
        None
    }

    /// Whether this site takes a STAGING transaction for an aborted one: a bug planted on purpose,
    /// to prove that the checks find it.
    #[cfg(feature = "planted-bugs")]
    fn staging_is_aborted(&self) -> bool {
        false
    }
}

/// Who waits, as far as the driver has to know it.
#[derive(Debug, Clone, Default)]
pub struct Waiter {
    txn: Option<TxnMeta>,
    /// End of the largest span of the batch: as far as intents of one transaction may be in its
    /// way. Empty if it has single keys alone.
    end: Bytes,
    /// It writes: while it is silent its sender cannot tell what becomes of it, so a refusal is not
    /// put off by a push, which may take long.
    writes: bool,
}

impl Waiter {
    /// Who sends `batch`.
    #[must_use]
    pub fn of(batch: &BatchRequest) -> Self {
        let end = |request: &kv::Request| match &request.kind {
            Some(request::Kind::Scan(scan)) => Some(scan.end.clone()),
            Some(request::Kind::DeleteRange(delete)) => Some(delete.end.clone()),
            _ => None,
        };
        Self {
            txn: batch.header.as_ref().and_then(|header| header.txn.clone()),
            end: batch.requests.iter().filter_map(end).max().unwrap_or_default(),
            writes: !is_read_only(batch),
        }
    }
}

/// What [`drive`] does after a poll.
enum Next {
    Done(Box<BatchResponse>),
    Pause(BoxFuture<'static, ()>),
    GiveUp(Box<kv::Error>),
}

/// What goes on beside an evaluation that waits.
struct Beside<'a> {
    waiter: &'a Waiter,
    site: &'a dyn Site,
    recheck: Option<BoxFuture<'static, ()>>,
    /// The latest wait for a lock, and how often its holder was in the way before.
    wait: Option<LockWait>,
    met: usize,
    /// What goes on to end that wait.
    push: Option<BoxFuture<'a, kv::Error>>,
    deadline: Option<BoxFuture<'static, ()>>,
    waiting: Option<Waiting<'a>>,
    /// Holders that had ended, of those that were not waited for.
    ended: usize,
}

/// Evaluates `batch` at `store` to its end. Dropping the future before leaves the fate of what was
/// proposed unknown.
pub async fn serve<E: Engine>(
    store: &StoreHandle<E>,
    batch: BatchRequest,
    site: &dyn Site,
) -> BatchResponse {
    let waiter = Waiter::of(&batch);
    let mut evaluation = store.evaluate(batch, site.mono());
    drive(&mut evaluation, &waiter, site).await
}

/// Drives `evaluation`, which is that of the batch that `waiter` was made of, to its end.
pub async fn drive<E: Engine>(
    evaluation: &mut Evaluation<E>,
    waiter: &Waiter,
    site: &dyn Site,
) -> BatchResponse {
    let mut beside = Beside::new(waiter, site);
    loop {
        let next = poll_fn(|cx| {
            loop {
                let progress = evaluation.poll(site.mono(), cx.waker());
                if !matches!(progress, Progress::WaitLock(_)) {
                    beside.push = None;
                    beside.waiting = None;
                }
                match progress {
                    Progress::Yield(point) => {
                        if let Some(pause) = site.at(point, evaluation.range_id()) {
                            return Poll::Ready(Next::Pause(pause));
                        }
                    }
                    Progress::Propose(proposal) => site.propose(proposal),
                    Progress::WaitLatch | Progress::WaitProposal => return Poll::Pending,
                    Progress::WaitLease => {
                        let timer = beside.recheck.insert(site.sleep(LEASE_RECHECK));
                        if timer.as_mut().poll(cx).is_pending() {
                            return Poll::Pending;
                        }
                    }
                    Progress::WaitLock(wait) => {
                        beside.waiting.get_or_insert_with(|| Waiting::begin(site));
                        let timer = beside.deadline(evaluation.lock_deadline());
                        if timer.is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
                            beside.deadline = None;
                            continue;
                        }
                        let push = beside.push(*wait);
                        return push.as_mut().poll(cx).map(|e| Next::GiveUp(Box::new(e)));
                    }
                    Progress::Done(response) => return Poll::Ready(Next::Done(response)),
                }
            }
        })
        .await;
        match next {
            Next::Done(response) if !beside.has_ended(&response).await => return *response,
            Next::Done(_) => evaluation.again(site.mono()),
            Next::Pause(pause) => pause.await,
            Next::GiveUp(error) => {
                return BatchResponse { error: Some(*error), ..BatchResponse::default() };
            }
        }
    }
}

impl<'a> Beside<'a> {
    fn new(waiter: &'a Waiter, site: &'a dyn Site) -> Self {
        Self {
            waiter,
            site,
            recheck: None,
            wait: None,
            met: 0,
            push: None,
            deadline: None,
            waiting: None,
            ended: 0,
        }
    }

    /// Whether `response` is to one who does not wait for a lock, and its holder is gone by now.
    async fn has_ended(&mut self, response: &BatchResponse) -> bool {
        let Some(error) = &response.error else { return false };
        let Some(kv::error::Kind::LockConflict(conflict)) = &error.kind else { return false };
        if conflict.timed_out
            || self.waiter.writes
            || self.ended >= self.site.limits().ended_holders
        {
            return false;
        }
        let ended = push::has_ended(self.site, self.waiter, conflict, self.ended).await;
        self.ended += usize::from(ended);
        ended
    }

    /// Fires when the evaluation wants to be polled because its wait has been long enough.
    fn deadline(&mut self, at: Option<Mono>) -> Option<&mut BoxFuture<'static, ()>> {
        let at = at?;
        let site = self.site;
        Some(self.deadline.get_or_insert_with(|| site.sleep(at.since(site.mono()))))
    }

    /// The attempt to end a wait; the one under way if it is for the same.
    fn push(&mut self, wait: LockWait) -> &mut BoxFuture<'a, kv::Error> {
        let same_holder = self.wait.as_ref().is_some_and(|w| w.holder.id == wait.holder.id);
        let same_key = self.wait.as_ref().is_some_and(|w| w.key == wait.key);
        if !(same_holder && same_key) {
            self.met = if same_holder { self.met + 1 } else { 0 };
            self.push = None;
            self.wait = Some(wait.clone());
        }
        let (waiter, site, met) = (self.waiter, self.site, self.met);
        self.push.get_or_insert_with(|| Box::pin(push::until_gone(site, waiter, wait, met)))
    }
}
