//! Runs the asynchronous code of a node in simulated time: one thread, in an order that the seed
//! decides.
//!
//! A task belongs to a process and dies with it, wherever it stands. What a task wants from the
//! world (time, the network, the store) goes into the [`Hub`], which the world empties after each
//! poll; what the world has for a task arrives in a slot the task waits for.
//!
//! ```text
//! world: pop event ─ poll task ─▶ future: sleep, send, give ─▶ hub ─▶ world: events to come
//!                       ▲                                                     │
//!                       └────────────── wake ◀── slot: timer, answer ◀────────┘
//! ```
//!
//! Invariants:
//! 1. A task that was woken is polled once, a seeded moment later, and not while its node pauses.
//! 2. Nothing here reads real time or draws a number that the seed did not give.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use crdb_kv::TransportError;
use crdb_proto::kv::{BatchRequest, BatchResponse};
use crdb_raftstore::Input;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::{event::Note, rng::Rng, serve::Served};

/// What a call comes back with.
pub(crate) type Answer = Result<BatchResponse, TransportError>;

/// A value that arrives once, and who waits for it.
#[derive(Debug)]
pub(crate) struct Slot<T>(Mutex<(Option<T>, Option<Waker>)>);

impl<T> Slot<T> {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new((None, None))))
    }

    /// Fills the slot; the first value counts.
    pub(crate) fn fill(&self, value: T) {
        let waker = {
            let mut state = self.0.lock();
            if state.0.is_none() {
                state.0 = Some(value);
            }
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, waker: &Waker) -> Poll<T> {
        let mut state = self.0.lock();
        match state.0.take() {
            Some(value) => Poll::Ready(value),
            None => {
                state.1 = Some(waker.clone());
                Poll::Pending
            }
        }
    }
}

/// Waits for a slot.
pub(crate) struct Arrival<T>(Arc<Slot<T>>);

impl<T> Future for Arrival<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.0.poll(cx.waker())
    }
}

/// Something a task wants from the world.
pub(crate) enum Want {
    /// Fill `slot` at `at`.
    Timer { at: u64, slot: Weak<Slot<()>> },
    /// Carry a batch to the store of `to`.
    Call { from: usize, to: usize, batch: Box<BatchRequest>, reply: Weak<Slot<Answer>> },
    /// Carry the response to a call back.
    Answer { from: usize, to: usize, response: Box<BatchResponse>, reply: Weak<Slot<Answer>> },
    /// Hand an input to the store of a node.
    Give { node: usize, input: Box<Input> },
    /// Run another task on a node.
    Spawn { node: usize, future: BoxFuture<'static, ()> },
    /// Print a line, if that is asked for.
    Trace(String),
    /// Look at what a store served.
    Served(Box<Served>),
    /// Tell the world.
    Note(Box<Note>),
}

/// What tasks and world share.
pub(crate) struct Hub {
    now: AtomicU64,
    numbers: AtomicU64,
    /// No faults happen any more: nobody lingers.
    calm: AtomicBool,
    /// Whether lines are wanted.
    pub(crate) traces: bool,
    rng: Mutex<Rng>,
    wants: Mutex<Vec<Want>>,
    woken: Mutex<Vec<u64>>,
}

impl Hub {
    pub(crate) fn new(seed: u64, traces: bool) -> Arc<Self> {
        Arc::new(Self {
            calm: AtomicBool::new(false),
            traces,
            now: AtomicU64::new(0),
            numbers: AtomicU64::new(0),
            rng: Mutex::new(Rng::new(seed ^ 0x5eed_0f7a_5c5c_0001)),
            wants: Mutex::default(),
            woken: Mutex::default(),
        })
    }

    pub(crate) fn set_now(&self, now: u64) {
        self.now.store(now, Ordering::Relaxed);
    }

    /// From now on nobody lingers.
    pub(crate) fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Simulated time.
    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// A number that was not given before.
    pub(crate) fn fresh(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Draws from the randomness of the tasks.
    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.rng.lock())
    }

    pub(crate) fn want(&self, want: Want) {
        self.wants.lock().push(want);
    }

    /// Says something for the trace.
    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        if self.traces {
            self.want(Want::Trace(line()));
        }
    }

    pub(crate) fn take_wants(&self) -> Vec<Want> {
        std::mem::take(&mut *self.wants.lock())
    }

    pub(crate) fn take_woken(&self) -> Vec<u64> {
        std::mem::take(&mut *self.woken.lock())
    }

    /// Completes `nanos` from now, counted from the call.
    pub(crate) fn sleep(&self, nanos: u64) -> Arrival<()> {
        let slot = Slot::new();
        let at = self.now().saturating_add(nanos);
        self.want(Want::Timer { at, slot: Arc::downgrade(&slot) });
        Arrival(slot)
    }

    /// Sends a batch from one node to another.
    pub(crate) fn call(&self, from: usize, to: usize, batch: BatchRequest) -> Arrival<Answer> {
        let slot = Slot::new();
        let reply = Arc::downgrade(&slot);
        self.want(Want::Call { from, to, batch: Box::new(batch), reply });
        Arrival(slot)
    }
}

/// Nanoseconds of a duration.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

struct TaskWaker {
    hub: Arc<Hub>,
    task: u64,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.hub.woken.lock().push(self.task);
    }
}

/// Who waits for the answer of a task, and where.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) node: usize,
    pub(crate) reply: Weak<Slot<Answer>>,
}

struct Task {
    node: usize,
    future: BoxFuture<'static, ()>,
    waker: Waker,
    caller: Option<Caller>,
    /// A poll is on its way.
    scheduled: bool,
}

/// All tasks of all processes.
#[derive(Default)]
pub(crate) struct Tasks {
    next: u64,
    tasks: BTreeMap<u64, Task>,
}

impl Tasks {
    /// Takes in a task of `node`; it must be polled once to start.
    pub(crate) fn add(
        &mut self,
        hub: &Arc<Hub>,
        node: usize,
        caller: Option<Caller>,
        future: BoxFuture<'static, ()>,
    ) -> u64 {
        self.next += 1;
        let task = self.next;
        let waker = Waker::from(Arc::new(TaskWaker { hub: Arc::clone(hub), task }));
        self.tasks.insert(task, Task { node, future, waker, caller, scheduled: true });
        task
    }

    /// Whether a poll of a task that was woken has to be scheduled; not if one is on its way.
    pub(crate) fn is_due(&mut self, task: u64) -> bool {
        self.tasks.get_mut(&task).is_some_and(|task| !std::mem::replace(&mut task.scheduled, true))
    }

    /// The node of a task, while it runs.
    pub(crate) fn node_of(&self, task: u64) -> Option<usize> {
        self.tasks.get(&task).map(|task| task.node)
    }

    /// Polls a task; one that ends is gone.
    pub(crate) fn poll(&mut self, id: u64) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.scheduled = false;
        let waker = task.waker.clone();
        let done = task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if done {
            self.tasks.remove(&id);
        }
    }

    /// Drops a task wherever it stands.
    pub(crate) fn cancel(&mut self, id: u64) {
        self.tasks.remove(&id);
    }

    /// Drops all tasks of a process that ended; returns who waits for answers of them.
    pub(crate) fn kill(&mut self, node: usize) -> Vec<Caller> {
        let dead: Vec<u64> =
            self.tasks.iter().filter(|(_, task)| task.node == node).map(|(id, _)| *id).collect();
        let mut callers = Vec::new();
        for id in dead {
            callers.extend(self.tasks.remove(&id).and_then(|task| task.caller));
        }
        callers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_sleeps_until_its_timer_fires_and_dies_with_its_node() {
        let hub = Hub::new(1, false);
        let mut tasks = Tasks::default();
        let (done, of) = (Slot::new(), Arc::clone(&hub));
        let filled = Arc::clone(&done);
        let task = tasks.add(
            &hub,
            0,
            None,
            Box::pin(async move {
                of.sleep(5).await;
                filled.fill(of.now());
            }),
        );
        tasks.poll(task);
        let wants = hub.take_wants();
        let [Want::Timer { at: 5, slot }] = wants.as_slice() else { panic!("no timer") };
        assert_eq!(done.poll(Waker::noop()), Poll::Pending);
        hub.set_now(7);
        slot.upgrade().unwrap().fill(());
        assert_eq!(hub.take_woken(), [task]);
        assert!(tasks.is_due(task) && !tasks.is_due(task));
        tasks.poll(task);
        assert_eq!(done.poll(Waker::noop()), Poll::Ready(7));
        assert_eq!(tasks.node_of(task), None);

        let asleep = Arc::clone(&hub);
        let second = tasks.add(&hub, 1, None, Box::pin(async move { asleep.sleep(1).await }));
        tasks.poll(second);
        assert!(tasks.kill(1).is_empty());
        let wants = hub.take_wants();
        let [Want::Timer { slot, .. }] = wants.as_slice() else { panic!("no timer") };
        assert!(slot.upgrade().is_none(), "nobody waits any more");
    }
}
