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
        let real = nanos(clock_gettime(ClockId::Realtime));
        #[cfg(feature = "test-clock")]
        let real = real.saturating_add_signed(test_clock::offset());
        real
    }
}

/// A wall clock that tests can set off, by a file, in builds for tests.
#[cfg(feature = "test-clock")]
mod test_clock {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;
    use std::sync::OnceLock;

    /// Names the file: eight bytes, the nanoseconds to add, little-endian.
    const VARIABLE: &str = "CRDB_TEST_CLOCK";

    /// What the file says at this moment; 0 without a file.
    pub(super) fn offset() -> i64 {
        static FILE: OnceLock<Option<File>> = OnceLock::new();
        let open = || {
            let path = std::env::var_os(VARIABLE)?;
            Some(File::open(&path).unwrap_or_else(|error| panic!("{VARIABLE}, {path:?}: {error}")))
        };
        let Some(file) = FILE.get_or_init(open) else { return 0 };
        let mut bytes = [0; 8];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => i64::from_le_bytes(bytes),
            Err(error) => panic!("{VARIABLE}: {error}"),
        }
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
