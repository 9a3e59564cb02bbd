//! What is done for transactions after their client was answered, and beside them.
//!
//! ```text
//! commit, rollback ─▶ jobs (bounded) ─▶ TxnClient::work, on a task of its owner
//!                                         └─ heartbeats of the transactions that are registered
//! ```
//!
//! Invariants:
//! 1. Jobs wait in a bounded queue; a transaction that finds it full, or nobody at work, does its
//!    job itself.
//! 2. `work` returns after [`Background::close`], once every job is done.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use crdb_keys::Timestamp;
use crdb_proto::kv::TxnMeta;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream as _};
use futures::task::AtomicWaker;
use parking_lot::Mutex;

use crate::Limits;

pub(crate) type Job = BoxFuture<'static, ()>;

/// The jobs of one node's transactions, and the transactions that are alive.
pub(crate) struct Background {
    max_waiting: usize,
    max_running: usize,
    jobs: Mutex<VecDeque<Job>>,
    arrived: AtomicWaker,
    workers: AtomicUsize,
    closed: AtomicBool,
    alive: Mutex<BTreeMap<u64, Arc<Alive>>>,
}

/// A transaction that has to say that it is alive.
#[derive(Debug)]
pub(crate) struct Alive {
    pub(crate) meta: TxnMeta,
    /// A heartbeat was sent: there may be a record.
    pub(crate) beaten: AtomicBool,
    /// A heartbeat is under way.
    pub(crate) beating: AtomicBool,
    /// Wall time of the last sign of life.
    pub(crate) last: Mutex<Timestamp>,
    /// Why it was aborted, as its record says.
    pub(crate) aborted: Mutex<Option<String>>,
}

impl Background {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            max_waiting: limits.jobs_waiting,
            max_running: limits.jobs_running,
            jobs: Mutex::default(),
            arrived: AtomicWaker::new(),
            workers: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            alive: Mutex::default(),
        }
    }

    /// Queues a job; gives it back if there is no room or nobody who would do it.
    pub(crate) fn push(&self, job: Job) -> Result<(), Job> {
        if self.workers.load(Ordering::Acquire) == 0 || self.closed.load(Ordering::Acquire) {
            return Err(job);
        }
        let mut jobs = self.jobs.lock();
        if jobs.len() >= self.max_waiting {
            return Err(job);
        }
        jobs.push_back(job);
        drop(jobs);
        self.arrived.wake();
        Ok(())
    }

    /// Has the work end once all is done.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.arrived.wake();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn register(&self, number: u64, alive: Arc<Alive>) {
        self.alive.lock().insert(number, alive);
    }

    pub(crate) fn unregister(&self, number: u64) {
        self.alive.lock().remove(&number);
    }

    /// The transactions whose last sign of life was before `before`.
    pub(crate) fn silent_since(&self, before: Timestamp) -> Vec<Arc<Alive>> {
        let alive = self.alive.lock();
        alive.values().filter(|txn| *txn.last.lock() < before).map(Arc::clone).collect()
    }

    /// Does the jobs, with `beats` beside them, until closed. One caller at a time.
    pub(crate) async fn work(&self, mut beats: BoxFuture<'_, ()>) {
        if self.workers.fetch_add(1, Ordering::AcqRel) > 0 {
            // A second one would take the wakeups of the first.
            self.workers.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let mut running: FuturesUnordered<Job> = FuturesUnordered::new();
        let mut beating = true;
        poll_fn(|cx| {
            self.arrived.register(cx.waker());
            if beating && beats.as_mut().poll(cx).is_ready() {
                beating = false;
            }
            loop {
                while running.len() < self.max_running {
                    let Some(job) = self.jobs.lock().pop_front() else { break };
                    running.push(job);
                }
                if !matches!(Pin::new(&mut running).poll_next(cx), Poll::Ready(Some(()))) {
                    break;
                }
            }
            if self.is_closed() && running.is_empty() && self.jobs.lock().is_empty() {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        self.workers.fetch_sub(1, Ordering::AcqRel);
    }
}
