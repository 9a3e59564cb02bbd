//! A [`Sender`] over one store in memory, for the tests of the layers above.
//!
//! What it is: the code that a node of a cluster runs, from the routing of a batch over its
//! evaluation to the log and back, on one store with one replica of each range that is stepped by
//! whoever needs it. What it is not: it is never part of a node; nothing survives it.
//!
//! ```text
//! send ─▶ DistSender ─▶ drive: Evaluation ─ Propose ─▶ Store::step, in the same call
//! ```
//!
//! Time: timestamps come from the clock it is given. The store's monotonic time passes only while
//! somebody sleeps and when a lease is to be renewed, so that none lapses because a test is slow.
//!
//! Invariants:
//! 1. A request that waits for another holds nothing that the other needs.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crdb_keys::{NodeId, RangeId, StoreId, hlc::Clock, layout};
use crdb_proto::kv::{BatchRequest, BatchResponse, RangeDescriptor};
use crdb_raftstore::{Input, Mono, Proposal, Store, StoreConfig, StoreError, StoreHandle};
use crdb_storage::MemoryEngine;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::contention::{self, ContentionCounts, ContentionMetrics, Site};
use crate::{
    DistSender, DistSenderConfig, Life, Limits, RangeCache, SendError, Sender, Transport,
    TransportError, update_meta,
};

/// The only node there is.
const NODE: NodeId = NodeId(1);
/// Steps in which a lease must come about.
const LEASE_STEPS: usize = 100;
/// Time in which a lease is renewed.
const TICK: Duration = Duration::from_millis(100);

/// Serves batches from memory. Test double of a node's [`DistSender`].
#[derive(Clone)]
pub struct LocalSender {
    local: Arc<Local>,
    dist: Arc<DistSender>,
}

impl std::fmt::Debug for LocalSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalSender").finish_non_exhaustive()
    }
}

/// The store and its time.
struct Local {
    me: Weak<Self>,
    /// The way of requests about transactions.
    dist: Mutex<Weak<DistSender>>,
    cache: Arc<RangeCache>,
    /// Ranges whose meta entry is to be written.
    changed: Mutex<Vec<RangeDescriptor>>,
    engine: MemoryEngine,
    clock: Clock,
    handle: StoreHandle<MemoryEngine>,
    /// Held while the store takes one step.
    store: Mutex<Store<MemoryEngine>>,
    /// Nanoseconds of the store's monotonic time.
    mono: AtomicU64,
    contention: ContentionMetrics,
}

impl LocalSender {
    /// A sender over an empty cluster that takes its timestamps from `clock`.
    ///
    /// # Panics
    ///
    /// If the store in memory cannot be made, which is a bug.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self::with_limits(clock, crdb_storage::Limits::default(), Limits::default())
    }

    /// The same with bounds of its own.
    ///
    /// # Panics
    ///
    /// As [`LocalSender::new`].
    #[must_use]
    pub fn with_limits(clock: Clock, storage: crdb_storage::Limits, limits: Limits) -> Self {
        let opened = Local::open(clock, storage);
        let local = opened.unwrap_or_else(|error| panic!("a store in memory: {error}"));
        for (_, span) in layout::bootstrap_ranges() {
            if let Some(descriptor) = local.handle.descriptor_of(&span.start) {
                local.cache.insert((*descriptor).clone());
            }
        }
        let config = DistSenderConfig {
            max_offset: local.clock.max_offset(),
            limits,
            ..DistSenderConfig::default()
        };
        let cache = Arc::clone(&local.cache);
        let transport: Arc<dyn Transport> = Arc::<Local>::clone(&local);
        let dist = Arc::new(DistSender::new(transport, cache, config));
        *local.dist.lock() = Arc::downgrade(&dist);
        Self { dist, local }
    }

    /// The state, for tests that look below the sender.
    #[must_use]
    pub fn engine(&self) -> &MemoryEngine {
        &self.local.engine
    }

    /// What waits for locks cost.
    #[must_use]
    pub fn contention(&self) -> ContentionCounts {
        self.local.contention.snapshot()
    }

    /// The clock that gives the timestamps.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.local.clock
    }

    /// The store's handle.
    #[must_use]
    pub fn store(&self) -> &StoreHandle<MemoryEngine> {
        &self.local.handle
    }

    /// Serves one batch, as [`Sender::send`] does, on this thread.
    pub fn execute(&self, batch: &BatchRequest) -> Result<BatchResponse, SendError> {
        block_on(self.send(batch.clone()))
    }
}

impl Sender for LocalSender {
    fn send(&self, batch: BatchRequest) -> BoxFuture<'_, Result<BatchResponse, SendError>> {
        Box::pin(async move {
            let outcome = self.dist.send(batch).await;
            let changed = std::mem::take(&mut *self.local.changed.lock());
            for descriptor in changed {
                update_meta(&*self.dist, &descriptor).await?;
            }
            outcome
        })
    }
}

impl Local {
    fn open(clock: Clock, storage: crdb_storage::Limits) -> Result<Arc<Self>, StoreError> {
        let engine = MemoryEngine::new();
        let store_id = StoreId(NODE.get());
        Store::bootstrap(&engine, &clock, NODE, store_id, &[])?;
        let config = StoreConfig { storage, ..StoreConfig::new(NODE, store_id, 1) };
        let store = Store::open(engine.clone(), clock.clone(), config, Mono(0))?;
        Ok(Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            dist: Mutex::default(),
            cache: Arc::default(),
            changed: Mutex::default(),
            engine,
            clock,
            handle: store.handle(),
            store: Mutex::new(store),
            mono: AtomicU64::new(0),
            contention: ContentionMetrics::default(),
        }))
    }

    /// Steps the store until it has nothing to do. A failed store serves no more, which the
    /// requests say.
    fn step(&self, mut inputs: Vec<Input>) {
        let mut store = self.store.lock();
        let now = Site::mono(self);
        while let Ok(outputs) = store.step(now, &mut inputs) {
            for change in outputs.descriptors {
                if self.cache.insert(change.descriptor.clone()) {
                    self.changed.lock().push(change.descriptor);
                }
            }
            if outputs.next_deadline > now {
                return;
            }
        }
    }

    /// Lets the store's time pass up to a moment, and takes in what that brings.
    fn pass(&self, until: Mono) {
        self.mono.fetch_max(until.0, Ordering::Relaxed);
        self.step(Vec::new());
    }

    /// Renews the lease of a range if it does not cover the present.
    fn renew(&self, range: RangeId) {
        for _ in 0..LEASE_STEPS {
            let now = Site::mono(self);
            let until = self.clock.now().add_nanos(200_000_000);
            if self.handle.lease_of(range, now).is_some_and(|lease| lease.bound > until) {
                return;
            }
            self.pass(now.after(TICK));
        }
    }
}

impl Site for Local {
    fn mono(&self) -> Mono {
        Mono(self.mono.load(Ordering::Relaxed))
    }

    fn propose(&self, proposal: Proposal) {
        self.step(vec![Input::Propose(proposal)]);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let me = Weak::clone(&self.me);
        let until = Site::mono(self).after(duration);
        Box::pin(async move {
            sleep(duration).await;
            if let Some(local) = me.upgrade() {
                local.pass(until);
            }
        })
    }

    fn sender(&self) -> Option<Arc<dyn Sender>> {
        let dist = self.dist.lock().upgrade()?;
        Some(dist)
    }

    fn metrics(&self) -> Option<&ContentionMetrics> {
        Some(&self.contention)
    }
}

impl Transport for Local {
    fn local_node(&self) -> NodeId {
        NODE
    }

    fn shared_tiers(&self, _node: NodeId) -> usize {
        0
    }

    fn send(
        &self,
        node: NodeId,
        batch: BatchRequest,
        _life: Life,
    ) -> BoxFuture<'_, Result<BatchResponse, TransportError>> {
        Box::pin(async move {
            if node != NODE {
                return Err(TransportError::NotSent(format!("there is no {node}")));
            }
            self.renew(RangeId(batch.header.as_ref().map_or(0, |header| header.range_id)));
            Ok(contention::serve(&self.handle, batch, self).await)
        })
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Site::sleep(self, duration)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.mono.load(Ordering::Relaxed))
    }
}

/// A thread that sleeps, for who has no runtime. It ends with the time it was given.
fn sleep(duration: Duration) -> BoxFuture<'static, ()> {
    let alarm: Arc<Mutex<Option<Waker>>> = Arc::default();
    let mut thread: Option<std::thread::JoinHandle<()>> = None;
    Box::pin(poll_fn(move |cx| {
        *alarm.lock() = Some(cx.waker().clone());
        let thread = thread.get_or_insert_with(|| {
            let alarm = Arc::clone(&alarm);
            std::thread::spawn(move || {
                std::thread::sleep(duration);
                if let Some(waker) = alarm.lock().take() {
                    waker.wake();
                }
            })
        });
        if thread.is_finished() || alarm.lock().is_none() { Poll::Ready(()) } else { Poll::Pending }
    }))
}

/// Wakes a thread.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls `future` on this thread until it is ready.
fn block_on<T>(mut future: BoxFuture<'_, T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use crdb_keys::hlc::ManualClock;
    use crdb_proto::kv::{
        BatchHeader, GetRequest, IncrementRequest, PutRequest, Request, request::Kind,
        response::Kind as Answer,
    };

    use super::*;

    fn sender() -> LocalSender {
        LocalSender::new(Clock::new(Arc::new(ManualClock::new(1_000)), Duration::from_nanos(500)))
    }

    fn batch(kinds: impl IntoIterator<Item = Kind>) -> BatchRequest {
        let requests = kinds.into_iter().map(|kind| Request { kind: Some(kind) }).collect();
        BatchRequest { header: None, requests }
    }

    fn get(key: &'static [u8]) -> Kind {
        Kind::Get(GetRequest { key: key.into(), ..Default::default() })
    }

    fn put(key: &'static [u8], value: &'static [u8]) -> Kind {
        Kind::Put(PutRequest { key: key.into(), value: value.into() })
    }

    fn value(response: &BatchResponse) -> Option<&[u8]> {
        match response.responses.last().unwrap().kind.as_ref().unwrap() {
            Answer::Get(get) => get.value.as_deref(),
            other => panic!("not a get: {other:?}"),
        }
    }

    #[test]
    fn reads_at_a_named_timestamp_see_the_past() {
        let sender = sender();
        let first = sender.execute(&batch([put(b"\x05a", b"1")])).unwrap();
        sender.execute(&batch([put(b"\x05a", b"2")])).unwrap();
        assert_eq!(value(&sender.execute(&batch([get(b"\x05a")])).unwrap()), Some(&b"2"[..]));
        let header = BatchHeader { read_timestamp: first.write_timestamp, ..Default::default() };
        let past = BatchRequest { header: Some(header), ..batch([get(b"\x05a")]) };
        let past = sender.execute(&past).unwrap();
        assert_eq!(value(&past), Some(&b"1"[..]));
        assert_eq!(past.read_timestamp, first.write_timestamp);
        assert_eq!(past.write_timestamp, None);
    }

    #[test]
    fn a_batch_over_two_ranges_or_none_is_refused() {
        let sender = sender();
        let error = sender.execute(&batch([put(b"\x05a", b""), get(b"\x04a")])).unwrap_err();
        assert!(matches!(error, SendError::CrossRange { .. }), "{error:?}");
        let error = sender.execute(&batch([get(b"\x01a")])).unwrap_err();
        assert!(matches!(error, SendError::Invalid { .. }), "{error:?}");
        let error = sender.execute(&batch([])).unwrap_err();
        assert!(matches!(error, SendError::Invalid { .. }), "{error:?}");
    }

    #[test]
    fn increments_from_many_threads_are_all_there() {
        let sender = sender();
        let one =
            || batch([Kind::Increment(IncrementRequest { key: b"\x04n"[..].into(), delta: 1 })]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| drop(sender.execute(&one()).unwrap())));
            }
        });
        assert_eq!(value(&sender.execute(&batch([get(b"\x04n")])).unwrap()), Some(&b"200"[..]));
    }
}
