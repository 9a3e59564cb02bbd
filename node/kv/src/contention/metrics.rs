//! What waits for locks cost, and what came of the pushes that were to end them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crdb_raftstore::Mono;

use super::Site;

/// Upper bounds of the buckets of wait times in milliseconds; the last bucket has none.
pub const WAIT_BUCKETS_MS: [u64; 10] = [1, 5, 10, 50, 100, 500, 1_000, 5_000, 10_000, 60_000];
const BUCKETS: usize = WAIT_BUCKETS_MS.len() + 1;

/// Counters of one node, as leaseholder; see [`ContentionCounts`].
#[derive(Debug, Default)]
pub struct ContentionMetrics {
    waiting: AtomicU64,
    wait_nanos: AtomicU64,
    waits: [AtomicU64; BUCKETS],
    deadlocks: AtomicU64,
    pushes: [AtomicU64; PushOutcome::COUNT],
}

/// What came of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushOutcome {
    /// The holder goes on.
    Alive,
    /// The holder has committed.
    Committed,
    /// The holder was aborted, by this push or before.
    Aborted,
    /// The holder's coordinator died while it committed; what became of it was found out.
    Recovered,
    /// The record could not be asked.
    Failed,
}

impl PushOutcome {
    const COUNT: usize = 5;

    const fn index(self) -> usize {
        match self {
            Self::Alive => 0,
            Self::Committed => 1,
            Self::Aborted => 2,
            Self::Recovered => 3,
            Self::Failed => 4,
        }
    }
}

/// Waits for locks at the ranges whose lease a node has, and pushes for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContentionCounts {
    /// Requests that wait now.
    pub waiting: u64,
    /// Time of all waits that ended, in nanoseconds.
    pub wait_nanos: u64,
    /// Waits that ended, by how long they took: see [`WAIT_BUCKETS_MS`].
    pub waits: [u64; BUCKETS],
    /// Transactions aborted because they and others waited for each other.
    pub deadlocks: u64,
    /// Pushes, by what came of them: see [`Self::pushes`].
    pub pushes: [u64; PushOutcome::COUNT],
}

impl ContentionCounts {
    /// Waits that ended.
    #[must_use]
    pub fn waits_ended(&self) -> u64 {
        self.waits.iter().sum()
    }

    /// Pushes with an outcome.
    #[must_use]
    pub fn pushes(&self, outcome: PushOutcome) -> u64 {
        self.pushes.get(outcome.index()).copied().unwrap_or_default()
    }
}

impl ContentionMetrics {
    /// The counts now, each by itself.
    #[must_use]
    pub fn snapshot(&self) -> ContentionCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ContentionCounts {
            waiting: load(&self.waiting),
            wait_nanos: load(&self.wait_nanos),
            waits: self.waits.each_ref().map(load),
            deadlocks: load(&self.deadlocks),
            pushes: self.pushes.each_ref().map(load),
        }
    }

    pub(super) fn pushed(&self, outcome: PushOutcome) {
        if let Some(counter) = self.pushes.get(outcome.index()) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn broke_deadlock(&self) {
        self.deadlocks.fetch_add(1, Ordering::Relaxed);
    }

    fn waited(&self, duration: Duration) {
        let (millis, nanos) = (duration.as_millis(), duration.as_nanos());
        let bucket = WAIT_BUCKETS_MS.partition_point(|bound| u128::from(*bound) < millis);
        if let Some(counter) = self.waits.get(bucket) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        self.wait_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// A request that waits for a lock, until this is dropped.
pub(super) struct Waiting<'a> {
    site: &'a dyn Site,
    since: Mono,
}

impl<'a> Waiting<'a> {
    pub(super) fn begin(site: &'a dyn Site) -> Self {
        if let Some(metrics) = site.metrics() {
            metrics.waiting.fetch_add(1, Ordering::Relaxed);
        }
        Self { site, since: site.mono() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(metrics) = self.site.metrics() {
            metrics.waiting.fetch_sub(1, Ordering::Relaxed);
            metrics.waited(self.site.mono().since(self.since));
        }
    }
}
