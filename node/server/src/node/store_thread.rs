//! The thread that steps the store, and the queue that feeds it.
//!
//! While a step waits for the disk, the queue fills; the next step takes all of it, so one sync
//! covers what arrived during the one before.
//!
//! Bound: raft batches beyond a number, or a number of bytes, are dropped, as the network may drop
//! them. Proposals are bounded by the requests under evaluation, which the listeners bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crdb_raftstore::{Input, Mono};
use parking_lot::{Condvar, Mutex};
use prost::Message as _;

use crate::limits::Limits;

/// What waits for the store, shared between its thread and everybody who feeds it.
pub(crate) struct Inbox {
    /// Raft batches that may wait, and their bytes.
    batches_max: usize,
    bytes_max: usize,
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    inputs: Vec<Input>,
    raft_batches: usize,
    raft_bytes: usize,
}

impl Inbox {
    /// An inbox in which nothing waits.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            batches_max: limits.raft_inbox_batches,
            bytes_max: limits.raft_inbox_bytes,
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            stopped: AtomicBool::new(false),
        }
    }

    /// Queues an input for the next step.
    pub(crate) fn push(&self, input: Input) {
        let bytes = match &input {
            Input::Raft { batch, .. } => Some(batch.encoded_len()),
            _ => None,
        };
        let mut waiting = self.waiting.lock();
        if let Some(bytes) = bytes {
            let fits = waiting.raft_bytes == 0 || waiting.raft_bytes + bytes <= self.bytes_max;
            if waiting.raft_batches >= self.batches_max || !fits {
                return;
            }
            waiting.raft_batches += 1;
            waiting.raft_bytes += bytes;
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
        (waiting.raft_batches, waiting.raft_bytes) = (0, 0);
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

#[cfg(test)]
mod tests {
    use crdb_keys::StoreId;
    use crdb_proto::peer::{RaftBatch, RaftMessage};

    use super::*;

    fn batch(bytes: usize) -> Input {
        let message = RaftMessage { message: vec![0; bytes].into(), ..RaftMessage::default() };
        let batch = RaftBatch { messages: vec![message], ..RaftBatch::default() };
        Input::Raft { from: StoreId(2), batch }
    }

    #[test]
    fn raft_batches_are_dropped_beyond_their_bounds_and_nothing_else_is() {
        let limits = Limits { raft_inbox_batches: 3, raft_inbox_bytes: 1_000, ..Limits::default() };
        let inbox = Inbox::new(&limits);
        let took = |inputs: &[usize]| {
            for bytes in inputs {
                inbox.push(batch(*bytes));
            }
            inbox.push(Input::Drain(true));
            inbox.take(Mono(0), Mono(0)).len() - 1
        };
        assert_eq!(took(&[10; 5]), 3);
        assert_eq!(took(&[900, 900]), 1);
        // One is taken whatever its size.
        assert_eq!(took(&[5_000, 10]), 1);
        assert_eq!(took(&[10, 5_000, 10]), 2);
    }
}
