//! The thread that steps the store, and the queue that feeds it.
//!
//! While a step waits for the disk, the queue fills; the next step takes all of it, so one sync
//! covers what arrived during the one before.
//!
//! Bound: raft batches beyond [`RAFT_QUEUE`] are dropped, as the network may drop them. Proposals
//! are bounded by the requests under evaluation, which the listeners bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crdb_raftstore::{Input, Mono};
use parking_lot::{Condvar, Mutex};

/// Raft batches that may wait.
const RAFT_QUEUE: usize = 16_384;

/// What waits for the store, shared between its thread and everybody who feeds it.
#[derive(Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    inputs: Vec<Input>,
    raft_batches: usize,
}

impl Inbox {
    /// Queues an input for the next step.
    pub(crate) fn push(&self, input: Input) {
        let mut waiting = self.waiting.lock();
        if matches!(input, Input::Raft { .. }) {
            if waiting.raft_batches >= RAFT_QUEUE {
                return;
            }
            waiting.raft_batches += 1;
        }
        let was_empty = waiting.inputs.is_empty();
        waiting.inputs.push(input);
        drop(waiting);
        if was_empty {
            self.arrived.notify_one();
        }
    }

    /// Takes everything that waits; sleeps until `deadline` when nothing does.
    pub(crate) fn take(&self, deadline: Mono, now: Mono) -> Vec<Input> {
        let mut waiting = self.waiting.lock();
        if waiting.inputs.is_empty() && !self.is_stopped() {
            let patience = deadline.since(now).min(Duration::from_secs(1));
            if !patience.is_zero() {
                self.arrived.wait_for(&mut waiting, patience);
            }
        }
        waiting.raft_batches = 0;
        std::mem::take(&mut waiting.inputs)
    }

    /// Asks the thread to end.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        let _waiting = self.waiting.lock();
        self.arrived.notify_one();
    }

    /// Whether the thread was asked to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// A running store thread.
pub(crate) struct StoreThread {
    pub(crate) inbox: Arc<Inbox>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl StoreThread {
    /// Runs `body` on a thread of its own until the inbox is stopped.
    pub(crate) fn spawn(
        inbox: Arc<Inbox>,
        body: impl FnOnce(&Inbox) + Send + 'static,
    ) -> std::io::Result<Self> {
        let for_thread = Arc::clone(&inbox);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || body(&for_thread))?;
        Ok(Self { inbox, thread: Some(thread) })
    }

    /// Stops the thread and waits for its end.
    pub(crate) fn join(&mut self) {
        self.inbox.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by the panic hook.
            drop(thread.join());
        }
    }
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        self.join();
    }
}
