//! The view of a store that threads other than its scheduler share.
//!
//! What it is: which ranges are here, what may be served (the lease cell), latches and
//! locks, what was read up to when, and what status commands show. The scheduler writes it, callers that evaluate requests read it. What it
//! is not: it never touches raft.
//!
//! Invariants:
//! 1. A latch is released when its guard is dropped: by the evaluation for reads, by the scheduler
//!    for proposals, once they are applied or can no longer be.
//! 2. Locks and reads known here are those of the lease in force or of the one before; what a lease
//!    serves is never judged by those of an earlier one.
//! 3. A completion slot is filled exactly once; one that is dropped unfilled says ambiguous.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
};

use crdb_concurrency::{Latches, Locks, TimestampCache, TxnWaits, WriteTracker};
use crdb_keys::{RangeId, ReplicaId, Span, StoreId, Timestamp, hlc::Clock};
use crdb_proto::kv::{BatchRequest, RangeDescriptor, ReplicaDescriptor};
use crdb_storage::Engine;
use parking_lot::{Mutex, RwLock};

use crate::{
    certainty::Certainty,
    closed::History,
    config::{Mono, PlantedBug, StoreConfig},
    evaluate::Evaluation,
    handover::Handed,
    io::ProposalResult,
    lease::{LeaseCell, Serving},
};

pub(crate) use crdb_concurrency::LatchGuard;

/// Where a proposal's outcome arrives.
#[derive(Debug, Default)]
pub(crate) struct CompletionSlot {
    state: Mutex<(Option<ProposalResult>, Option<Waker>)>,
}

impl CompletionSlot {
    fn complete(&self, result: ProposalResult) {
        let waker = {
            let mut state = self.state.lock();
            if state.0.is_some() {
                return;
            }
            state.0 = Some(result);
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The result, or else `waker` is woken when it is there.
    pub(crate) fn poll(&self, waker: &Waker) -> Option<ProposalResult> {
        let mut state = self.state.lock();
        if state.0.is_none() {
            state.1 = Some(waker.clone());
        }
        state.0
    }
}

/// The end of a [`CompletionSlot`] that fills it. Whoever drops it without an outcome does not know
/// one: the slot then says ambiguous.
#[derive(Debug)]
pub(crate) struct Completion(Arc<CompletionSlot>);

impl Completion {
    pub(crate) fn new(slot: &Arc<CompletionSlot>) -> Self {
        Self(Arc::clone(slot))
    }

    /// Fills the slot and wakes who waits for it.
    pub(crate) fn complete(self, result: ProposalResult) {
        self.0.complete(result);
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        // Only the first result counts.
        self.0.complete(ProposalResult::Ambiguous);
    }
}

/// Who leads a range, as far as this replica knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoleView {
    /// Whether this replica is the raft leader.
    pub(crate) is_leader: bool,
    /// Whether the lease is on its way to another replica.
    pub(crate) transferring: bool,
    /// Replica id of the leader; 0 when unknown.
    pub(crate) leader: u64,
}

/// The shared part of one replica.
#[derive(Debug)]
pub(crate) struct ReplicaHandle {
    pub(crate) range_id: RangeId,
    descriptor: RwLock<Arc<RangeDescriptor>>,
    pub(crate) lease: LeaseCell,
    /// What was served last, kept for the planted bug that goes on serving it.
    #[cfg(feature = "planted-bugs")]
    pub(crate) served_last: Mutex<Option<Serving>>,
    role: Mutex<RoleView>,
    pub(crate) latches: Arc<Latches>,
    /// Who holds which key, as far as known. Outlives the lease, until the next one begins, so that
    /// a transfer can hand it over.
    pub(crate) locks: Arc<Locks>,
    /// Up to when each key was read.
    pub(crate) reads: Mutex<TimestampCache>,
    /// Writes that have a timestamp and are not applied yet.
    pub(crate) writes: Arc<WriteTracker>,
    /// Which versions cannot be of before a reader's begin.
    pub(crate) certainty: Certainty,
    /// What is closed, and what was collected.
    pub(crate) history: History,
    /// Sequence of the lease that `locks` and `reads` are about.
    lease_begun: AtomicU64,
    /// A bug planted on purpose: a new lease counts nothing as read before.
    forgets_reads: bool,
    lease_waiters: Mutex<Vec<Waker>>,
    removed: AtomicBool,
    status: Mutex<RangeStatus>,
}

impl ReplicaHandle {
    pub(crate) fn new(descriptor: RangeDescriptor, config: &StoreConfig) -> Self {
        let range_id = RangeId(descriptor.range_id);
        let limits = &config.concurrency;
        Self {
            range_id,
            descriptor: RwLock::new(Arc::new(descriptor)),
            lease: LeaseCell::default(),
            #[cfg(feature = "planted-bugs")]
            served_last: Mutex::default(),
            role: Mutex::default(),
            latches: Arc::new(Latches::new(limits)),
            locks: Arc::new(Locks::new(limits)),
            reads: Mutex::new(TimestampCache::new(limits)),
            writes: Arc::default(),
            certainty: Certainty::default(),
            history: History::default(),
            lease_begun: AtomicU64::new(0),
            forgets_reads: config.has(PlantedBug::LeaseForgetsReads),
            lease_waiters: Mutex::default(),
            removed: AtomicBool::new(false),
            status: Mutex::default(),
        }
    }

    pub(crate) fn descriptor(&self) -> Arc<RangeDescriptor> {
        Arc::clone(&self.descriptor.read())
    }

    pub(crate) fn set_descriptor(&self, descriptor: RangeDescriptor) {
        let new_end = descriptor.end_key.clone();
        let before = std::mem::replace(&mut *self.descriptor.write(), Arc::new(descriptor));
        if new_end < before.end_key {
            // Who waits there is sent to the range that has the keys now.
            self.locks.clear(Some(&Span::new(new_end, before.end_key.clone())));
        }
    }

    pub(crate) fn role(&self) -> RoleView {
        *self.role.lock()
    }

    pub(crate) fn set_role(&self, role: RoleView) {
        *self.role.lock() = role;
    }

    /// Replaces what may be served and wakes those who wait for a lease.
    pub(crate) fn set_serving(&self, serving: Option<Serving>) {
        #[cfg(feature = "planted-bugs")]
        if serving.is_some() {
            *self.served_last.lock() = serving;
        }
        if let Some(serving) = &serving {
            self.begin_lease(serving.sequence, serving.start, None);
        }
        let had_lease = self.lease.get().is_some();
        self.lease.set(serving);
        if serving.is_some() {
            self.wake_lease_waiters();
        } else if had_lease {
            self.locks.wake_all();
        }
    }

    /// Forgets what was known under the lease before, when the one with the number `sequence`
    /// begins, and takes over what its holder handed on. Without a handover everything counts as
    /// read up to the `start`. Called before anything is served; once more does nothing.
    pub(crate) fn begin_lease(&self, sequence: u64, start: Timestamp, handed: Option<Handed<'_>>) {
        if self.lease_begun.swap(sequence, Ordering::AcqRel) == sequence {
            return;
        }
        self.locks.clear(None);
        match handed {
            None if self.forgets_reads => self.reads.lock().reset(Timestamp::ZERO),
            None => self.reads.lock().reset(start),
            Some(handed) => handed.take_over(self),
        }
    }

    pub(crate) fn wait_for_lease(&self, waker: &Waker) {
        self.lease_waiters.lock().push(waker.clone());
    }

    pub(crate) fn wake_lease_waiters(&self) {
        let waiters = std::mem::take(&mut *self.lease_waiters.lock());
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Ends the replica: nothing is served, those who wait find out.
    pub(crate) fn remove(&self) {
        self.removed.store(true, Ordering::Release);
        self.set_serving(None);
        self.set_role(RoleView::default());
        self.wake_lease_waiters();
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    pub(crate) fn set_status(&self, status: RangeStatus) {
        *self.status.lock() = status;
    }

    /// The replica believed to hold the lease.
    pub(crate) fn leader_hint(&self) -> Option<ReplicaDescriptor> {
        let leader = self.role().leader;
        self.descriptor().replicas.iter().find(|replica| replica.replica_id == leader).copied()
    }
}

/// What a store knows about one of its ranges, for status commands and placement.
#[derive(Clone, Debug, Default)]
pub struct RangeStatus {
    /// The range's descriptor as applied here.
    pub descriptor: RangeDescriptor,
    /// Replica of this store.
    pub replica_id: ReplicaId,
    /// Raft term.
    pub term: u64,
    /// Whether this replica is the raft leader.
    pub is_leader: bool,
    /// Whether this replica may serve.
    pub is_leaseholder: bool,
    /// Whether this replica is giving its lease to another: it serves no more, but nobody else can
    /// before it is done.
    pub transferring: bool,
    /// Store of the leader, if known.
    pub leader: Option<StoreId>,
    /// Last index applied.
    pub applied_index: u64,
    /// Last index of the log.
    pub last_index: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// At the leader: fewer voters respond than the range should have, or a change of them is half
    /// done.
    pub under_replicated: bool,
    /// Nobody is known to serve the range.
    pub unavailable: bool,
    /// Voters that responded lately, at the leader.
    pub live_voters: usize,
}

/// What a leaseholder may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// Counts the leases of the range.
    pub sequence: u64,
    /// Raft term of the leader.
    pub term: u64,
    /// Timestamps chosen under the lease are above.
    pub start: Timestamp,
    /// Nothing is served from then on.
    pub expires: Mono,
    /// Timestamps served are below.
    pub bound: Timestamp,
}

/// Sums over the ranges of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// Replicas here.
    pub replicas: u64,
    /// Ranges whose raft leader is here.
    pub leaders: u64,
    /// Ranges whose lease is here, or on its way from here to another store.
    pub leases: u64,
    /// Ranges led from here that miss a voter.
    pub under_replicated: u64,
    /// Ranges with a replica here that nobody serves.
    pub unavailable: u64,
    /// Commands that leaders here appended to their logs since the store was opened.
    pub proposals: u64,
    /// Writes of the log that waited for the disk since the store was opened.
    pub log_syncs: u64,
}

/// What the store did since it was opened, for people who count.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) proposals: AtomicU64,
    pub(crate) log_syncs: AtomicU64,
}

#[derive(Default)]
struct Ranges {
    by_id: BTreeMap<RangeId, Arc<ReplicaHandle>>,
    by_start: BTreeMap<bytes::Bytes, Arc<ReplicaHandle>>,
}

pub(crate) struct Shared<E: Engine> {
    pub(crate) engine: E,
    pub(crate) clock: Clock,
    pub(crate) config: StoreConfig,
    /// Which transactions wait for which, by the pushes that came here.
    pub(crate) txn_waits: Mutex<TxnWaits>,
    pub(crate) done: Done,
    ranges: RwLock<Ranges>,
    stopped: AtomicBool,
}

/// A shared handle on a store: looks ranges up and evaluates requests on the caller's thread.
/// Cheap to clone.
pub struct StoreHandle<E: Engine> {
    pub(crate) shared: Arc<Shared<E>>,
}

impl<E: Engine> Clone for StoreHandle<E> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<E: Engine> std::fmt::Debug for StoreHandle<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "handle of {}", self.shared.config.store_id)
    }
}

impl<E: Engine> StoreHandle<E> {
    pub(crate) fn new(engine: E, clock: Clock, config: StoreConfig) -> Self {
        let shared = Shared {
            engine,
            clock,
            txn_waits: Mutex::new(TxnWaits::new(&config.concurrency)),
            config,
            done: Done::default(),
            ranges: RwLock::default(),
            stopped: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Starts the evaluation of `request`; see [`Evaluation`].
    #[must_use]
    pub fn evaluate(&self, request: BatchRequest, now: Mono) -> Evaluation<E> {
        Evaluation::new(self.clone(), request, now)
    }

    /// The store's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// The store's engine.
    #[must_use]
    pub fn engine(&self) -> &E {
        &self.shared.engine
    }

    /// The store's configuration.
    #[must_use]
    pub fn config(&self) -> &StoreConfig {
        &self.shared.config
    }

    /// What the store knows about each of its ranges, as of the last tick.
    #[must_use]
    pub fn ranges(&self) -> Vec<RangeStatus> {
        let ranges = self.shared.ranges.read();
        ranges.by_id.values().map(|replica| replica.status.lock().clone()).collect()
    }

    /// Sums over the store's ranges, as of the last tick.
    #[must_use]
    pub fn counts(&self) -> StoreCounts {
        let done = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut counts = StoreCounts {
            proposals: done(&self.shared.done.proposals),
            log_syncs: done(&self.shared.done.log_syncs),
            ..StoreCounts::default()
        };
        for replica in self.shared.ranges.read().by_id.values() {
            let status = replica.status.lock();
            counts.replicas += 1;
            counts.leaders += u64::from(status.is_leader);
            counts.leases += u64::from(status.is_leaseholder || status.transferring);
            counts.under_replicated += u64::from(status.under_replicated);
            counts.unavailable += u64::from(status.unavailable);
        }
        counts
    }

    /// The descriptor of the range here that holds `key`.
    #[must_use]
    pub fn descriptor_of(&self, key: &[u8]) -> Option<Arc<RangeDescriptor>> {
        self.find_by_key(key).map(|replica| replica.descriptor())
    }

    /// Whether this store holds a valid lease of `range` at `now`.
    #[must_use]
    pub fn holds_lease(&self, range: RangeId, now: Mono) -> bool {
        self.find(range)
            .and_then(|replica| replica.lease.get())
            .is_some_and(|serving| now < serving.expires)
    }

    /// What this store may serve of `range` at `now`, for the checks of tests.
    #[must_use]
    pub fn lease_of(&self, range: RangeId, now: Mono) -> Option<LeaseView> {
        let serving = self.find(range)?.lease.get()?;
        (now < serving.expires).then_some(LeaseView {
            sequence: serving.sequence,
            term: serving.term,
            start: serving.start,
            expires: serving.expires,
            bound: serving.bound,
        })
    }

    pub(crate) fn find(&self, range: RangeId) -> Option<Arc<ReplicaHandle>> {
        self.shared.ranges.read().by_id.get(&range).cloned()
    }

    pub(crate) fn find_by_key(&self, key: &[u8]) -> Option<Arc<ReplicaHandle>> {
        let ranges = self.shared.ranges.read();
        let (_, replica) = ranges
            .by_start
            .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)))
            .next_back()?;
        let inside = key < replica.descriptor.read().end_key.as_ref();
        inside.then(|| Arc::clone(replica))
    }

    pub(crate) fn insert(&self, replica: Arc<ReplicaHandle>) {
        let start = replica.descriptor().start_key.clone();
        let mut ranges = self.shared.ranges.write();
        ranges.by_start.insert(start, Arc::clone(&replica));
        ranges.by_id.insert(replica.range_id, replica);
    }

    pub(crate) fn remove(&self, range: RangeId) {
        let mut ranges = self.shared.ranges.write();
        if let Some(replica) = ranges.by_id.remove(&range) {
            ranges.by_start.retain(|_, other| other.range_id != range);
            drop(ranges);
            replica.remove();
        }
    }

    /// Whether the store stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }

    /// Stops serving on every range, for good.
    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        let ranges = self.shared.ranges.read();
        ranges.by_id.values().for_each(|replica| replica.remove());
    }
}
