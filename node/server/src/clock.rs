//! The clocks of the process. Everything below this crate takes time as an argument.

use std::sync::Arc;
use std::time::Duration;

use crdb_keys::hlc::{Clock, WallClock};
use crdb_raftstore::Mono;
use rustix::time::{ClockId, clock_gettime};

/// The system's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SystemWallClock;

impl WallClock for SystemWallClock {
    fn wall_nanos(&self) -> u64 {
        nanos(clock_gettime(ClockId::Realtime))
    }
}

/// The clock leases are measured by: it runs on while the machine sleeps.
#[cfg(target_os = "linux")]
const LEASE_CLOCK: ClockId = ClockId::Boottime;
/// The clock leases are measured by: on this system the monotonic clock runs on in sleep.
#[cfg(not(target_os = "linux"))]
const LEASE_CLOCK: ClockId = ClockId::Monotonic;

/// A reading of the lease clock.
#[must_use]
pub(crate) fn mono() -> Mono {
    Mono(nanos(clock_gettime(LEASE_CLOCK)))
}

/// The lease clock as a duration since its origin.
#[must_use]
pub(crate) fn elapsed() -> Duration {
    Duration::from_nanos(mono().0)
}

/// The node's hybrid logical clock.
#[must_use]
pub(crate) fn hybrid(max_offset: Duration) -> Clock {
    Clock::new(Arc::new(SystemWallClock), max_offset)
}

fn nanos(time: rustix::time::Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}
