//! Up to which timestamp the past of a range is settled, and from which on it is kept.
//!
//! A *closed* timestamp is the leaseholder's promise that no version appears at or below it any
//! more. A replica that has applied what went before the promise can serve reads there without a
//! lease. The *threshold* of garbage collection is the other end: below it versions may be gone.
//!
//! ```text
//! leaseholder   closed = min(now - 3 s, just below the oldest write under way)
//!               ├─ in each command ─▶ log ─▶ applied with it
//!               └─ every 200 ms, idle ranges too: (lease, lease index, closed) ─▶ each follower
//! follower      counts once that lease index is applied under that lease
//! ```
//!
//! A leaseholder closes only what its lease covers, and a new lease starts above the bounds of all
//! leases before: so it starts above all they closed. With a handover it takes over what they
//! closed, since then it may write below its start.
//!
//! Invariants:
//! 1. What is published as closed is applied here, all of it.
//! 2. The threshold is published before the versions below it go. Who looks at it after taking a
//!    snapshot of the engine misses nothing that the snapshot lacks.
//! 3. While a snapshot replaces the replica's data, nothing counts as closed.

use crdb_keys::{RangeId, Timestamp};
use crdb_proto::{kv, peer};
use crdb_storage::Engine;
use parking_lot::Mutex;

use crate::handle::StoreHandle;

/// What of a range's past a replica can serve.
#[derive(Debug, Default)]
pub(crate) struct History {
    bounds: Mutex<Bounds>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    closed: Timestamp,
    threshold: Timestamp,
}

impl History {
    /// Up to where reads need no lease.
    pub(crate) fn closed(&self) -> Timestamp {
        self.bounds.lock().closed
    }

    /// Publishes that everything up to `closed` is applied here.
    pub(crate) fn close(&self, closed: Timestamp) {
        let bounds = &mut *self.bounds.lock();
        bounds.closed = bounds.closed.max(closed);
    }

    /// Nothing counts as closed until [`Self::close`] says so again.
    pub(crate) fn suspend(&self) {
        self.bounds.lock().closed = Timestamp::ZERO;
    }

    /// Reads below may miss versions.
    pub(crate) fn threshold(&self) -> Timestamp {
        self.bounds.lock().threshold
    }

    /// Publishes a threshold, before versions below it go.
    pub(crate) fn raise_threshold(&self, threshold: Timestamp) {
        let bounds = &mut *self.bounds.lock();
        bounds.threshold = bounds.threshold.max(threshold);
    }
}

impl<E: Engine> StoreHandle<E> {
    /// Up to where the replica of `range` here serves reads without a lease.
    #[must_use]
    pub fn closed_of(&self, range: RangeId) -> Option<Timestamp> {
        Some(self.find(range)?.history.closed())
    }
}

/// A promise that came without a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SideClosed {
    pub(crate) lease_sequence: u64,
    pub(crate) lease_index: u64,
    pub(crate) closed: Timestamp,
}

impl SideClosed {
    pub(crate) fn from_wire(closed: &peer::ClosedTimestamp) -> Self {
        Self {
            lease_sequence: closed.lease_sequence,
            lease_index: closed.lease_index,
            closed: closed.closed.map(Timestamp::from).unwrap_or_default(),
        }
    }

    pub(crate) fn to_wire(self, range_id: u64) -> peer::ClosedTimestamp {
        peer::ClosedTimestamp {
            range_id,
            lease_sequence: self.lease_sequence,
            lease_index: self.lease_index,
            closed: Some(kv::Timestamp::from(self.closed)),
        }
    }

    /// Whether a replica that applied this much under this lease has all that the promise covers.
    pub(crate) fn counts(&self, lease_sequence: u64, lease_index: u64) -> bool {
        self.lease_sequence == lease_sequence && self.lease_index <= lease_index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_counts_under_its_lease_once_its_index_is_applied() {
        let promise =
            SideClosed { lease_sequence: 3, lease_index: 10, closed: Timestamp::new(5, 0) };
        assert!(!promise.counts(3, 9));
        assert!(promise.counts(3, 10) && promise.counts(3, 11));
        assert!(!promise.counts(2, 10) && !promise.counts(4, 10));
    }

    #[test]
    fn what_is_closed_rises_until_it_is_suspended() {
        let history = History::default();
        history.close(Timestamp::new(5, 0));
        history.close(Timestamp::new(4, 0));
        assert_eq!(history.closed(), Timestamp::new(5, 0));
        history.suspend();
        assert_eq!(history.closed(), Timestamp::ZERO);
        history.close(Timestamp::new(4, 0));
        assert_eq!(history.closed(), Timestamp::new(4, 0));
    }
}
