//! The hybrid logical clock of a node.
//!
//! What it is: a source of timestamps that never go back, stay close to the wall clock and move
//! past every timestamp heard from another node. What it is not: a source of wall time; that comes
//! in as a [`WallClock`], so that tests and the simulator own it.
//!
//! Invariants:
//! 1. Each `now()` is larger than every timestamp this clock has returned or accepted before.
//! 2. A remote timestamp more than the maximum offset ahead of the own wall clock is refused and
//!    leaves the clock as it was: one broken peer must not drag the cluster into the future.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::Timestamp;

/// Reads wall time. The process edge implements it over the system clock.
pub trait WallClock: Send + Sync {
    /// Nanoseconds since the Unix epoch.
    fn wall_nanos(&self) -> u64;
}

/// A wall clock that moves only when told to, for tests and the simulator.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that stands at `wall_nanos`.
    #[must_use]
    pub fn new(wall_nanos: u64) -> Self {
        Self(AtomicU64::new(wall_nanos))
    }

    /// Moves the clock to `wall_nanos`, also backwards.
    pub fn set(&self, wall_nanos: u64) {
        self.0.store(wall_nanos, Ordering::SeqCst);
    }

    /// Moves the clock forward by `by`.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(nanos(by), Ordering::SeqCst);
    }
}

impl WallClock for ManualClock {
    fn wall_nanos(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A remote timestamp was too far in the future to be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "remote timestamp {remote} is {}ms ahead of this node's clock, more than the maximum offset \
     of {}ms; check that the clocks of both nodes are synchronised",
    .ahead.as_millis(), .max_offset.as_millis()
)]
pub struct OffsetTooLarge {
    /// The timestamp refused.
    pub remote: Timestamp,
    /// By how much it leads the own wall clock.
    pub ahead: Duration,
    /// The offset tolerated.
    pub max_offset: Duration,
}

/// The hybrid logical clock. Clones share one state.
#[derive(Clone)]
pub struct Clock {
    inner: Arc<Inner>,
}

struct Inner {
    wall: Arc<dyn WallClock>,
    max_offset: Duration,
    last: Mutex<Timestamp>,
}

impl Clock {
    /// A clock over `wall` that refuses remote timestamps more than `max_offset` ahead.
    pub fn new(wall: Arc<dyn WallClock>, max_offset: Duration) -> Self {
        Self { inner: Arc::new(Inner { wall, max_offset, last: Mutex::new(Timestamp::ZERO) }) }
    }

    /// The next timestamp: larger than any returned or accepted before.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let mut last = self.last();
        let wall = self.inner.wall.wall_nanos();
        *last = if wall > last.wall_nanos { Timestamp::new(wall, 0) } else { last.next() };
        *last
    }

    /// Moves the clock past `remote`, a timestamp heard from another node.
    pub fn update(&self, remote: Timestamp) -> Result<(), OffsetTooLarge> {
        let wall = self.inner.wall.wall_nanos();
        let ahead = Duration::from_nanos(remote.wall_nanos.saturating_sub(wall));
        if ahead > self.inner.max_offset {
            return Err(OffsetTooLarge { remote, ahead, max_offset: self.inner.max_offset });
        }
        self.forward(remote);
        Ok(())
    }

    /// Moves the clock past `timestamp` without the check of the offset. Only for timestamps that
    /// this node or its replicated state vouches for, such as the stamp read back at start.
    pub fn forward(&self, timestamp: Timestamp) {
        let mut last = self.last();
        *last = (*last).max(timestamp);
    }

    /// The wall clock's reading, not necessarily larger than the one before.
    #[must_use]
    pub fn wall_nanos(&self) -> u64 {
        self.inner.wall.wall_nanos()
    }

    /// The largest offset between two clocks of the cluster that the node tolerates.
    #[must_use]
    pub fn max_offset(&self) -> Duration {
        self.inner.max_offset
    }

    fn last(&self) -> MutexGuard<'_, Timestamp> {
        // A timestamp is valid whatever the thread that panicked did.
        self.inner.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock")
            .field("last", &*self.last())
            .field("max_offset", &self.inner.max_offset)
            .finish_non_exhaustive()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(wall_nanos: u64) -> (Arc<ManualClock>, Clock) {
        let wall = Arc::new(ManualClock::new(wall_nanos));
        (Arc::clone(&wall), Clock::new(wall, Duration::from_nanos(100)))
    }

    #[test]
    fn follows_the_wall_clock_and_never_goes_back() {
        let (wall, clock) = clock(10);
        assert_eq!(clock.now(), Timestamp::new(10, 0));
        assert_eq!(clock.now(), Timestamp::new(10, 1));
        wall.set(5);
        assert_eq!(clock.now(), Timestamp::new(10, 2));
        wall.advance(Duration::from_nanos(15));
        assert_eq!(clock.now(), Timestamp::new(20, 0));
    }

    #[test]
    fn moves_past_a_remote_timestamp_within_the_offset() {
        let (_, clock) = clock(10);
        clock.update(Timestamp::new(110, 7)).unwrap();
        assert_eq!(clock.now(), Timestamp::new(110, 8));
        clock.update(Timestamp::new(50, 0)).unwrap();
        assert_eq!(clock.now(), Timestamp::new(110, 9));
    }

    #[test]
    fn refuses_a_remote_timestamp_beyond_the_offset() {
        let (_, clock) = clock(10);
        let error = clock.update(Timestamp::new(111, 0)).unwrap_err();
        assert_eq!(error.ahead, Duration::from_nanos(101));
        assert_eq!(clock.now(), Timestamp::new(10, 0));
        // The check is against the wall clock, not against a clock already moved ahead.
        clock.update(Timestamp::new(110, 0)).unwrap();
        clock.update(Timestamp::new(120, 0)).unwrap_err();
    }

    #[test]
    fn logical_counter_carries_into_wall_time() {
        let (_, clock) = clock(10);
        clock.update(Timestamp::new(10, u32::MAX)).unwrap();
        assert_eq!(clock.now(), Timestamp::new(11, 0));
    }
}
