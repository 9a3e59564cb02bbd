//! Brings a request at its leaseholder to an end.
//!
//! What it is: the driver of an [`Evaluation`], on the node of the leaseholder: it hands proposals
//! over and waits for what the evaluation waits for. What it is not: it decides nothing about
//! latches, leases or locks, and has no clock or network of its own; a [`Site`] lends them.
//!
//! ```text
//! drive ─▶ poll ─┬ Yield ─────────▶ poll again, after a pause if the site wants one
//!                ├ Propose ───────▶ handed to the store
//!                ├ Wait ──────────▶ until woken
//!                └ Done ──────────▶ the response
//! ```
//!
//! Invariants:
//! 1. An evaluation is polled with a reading of the clock taken after its last return.
//! 2. Whoever waits for a lease or a lock looks again from time to time, woken or not.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use crdb_keys::RangeId;
use crdb_proto::kv::BatchResponse;
use crdb_raftstore::{Evaluation, Mono, Progress, Proposal, YieldPoint};
use crdb_storage::Engine;
use futures::future::BoxFuture;

/// A request that waits for a lease or a lock looks again after this long, woken or not.
const RECHECK: Duration = Duration::from_millis(100);

/// Where an evaluation is driven: the store's node, as far as the driver needs it.
pub trait Site: Send + Sync {
    /// The monotonic clock.
    fn mono(&self) -> Mono;

    /// Hands a proposal to the store.
    fn propose(&self, proposal: Proposal);

    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Called at each point where others may run; `range` is that of the request, once found. The
    /// driver waits for what is returned: the simulator lets others run there.
    fn at(&self, _point: YieldPoint, _range: Option<RangeId>) -> Option<BoxFuture<'static, ()>> {
        None
    }
}

/// What [`drive`] waits for outside of the evaluation.
enum Next {
    Done(Box<BatchResponse>),
    Pause(BoxFuture<'static, ()>),
}

/// Drives `evaluation` to its end. Dropping the future before leaves the fate of what was
/// proposed unknown.
pub async fn drive<E: Engine>(evaluation: &mut Evaluation<E>, site: &dyn Site) -> BatchResponse {
    let mut recheck: Option<BoxFuture<'static, ()>> = None;
    loop {
        let next = poll_fn(|cx| {
            loop {
                match evaluation.poll(site.mono(), cx.waker()) {
                    Progress::Yield(point) => {
                        if let Some(pause) = site.at(point, evaluation.range_id()) {
                            return Poll::Ready(Next::Pause(pause));
                        }
                    }
                    Progress::Propose(proposal) => site.propose(proposal),
                    Progress::WaitLatch | Progress::WaitProposal => return Poll::Pending,
                    Progress::WaitLease | Progress::WaitLock(_) => {
                        let timer = recheck.insert(site.sleep(RECHECK));
                        if timer.as_mut().poll(cx).is_pending() {
                            return Poll::Pending;
                        }
                    }
                    Progress::Done(response) => return Poll::Ready(Next::Done(response)),
                }
            }
        })
        .await;
        match next {
            Next::Done(response) => return *response,
            Next::Pause(pause) => pause.await,
        }
    }
}
