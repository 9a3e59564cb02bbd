//! What of a store's behaviour can be changed while it runs.
//!
//! The server keeps the cell and sets it from the cluster settings; the store reads it where it
//! acts, so a change takes effect with the next thing it does.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::config::nanos;

/// Settings that change while a store runs.
#[derive(Debug)]
pub struct StoreSettings {
    closed_target: AtomicU64,
    side_transport_interval: AtomicU64,
    follower_reads: AtomicBool,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            closed_target: AtomicU64::new(nanos(Duration::from_secs(3))),
            side_transport_interval: AtomicU64::new(nanos(Duration::from_millis(200))),
            follower_reads: AtomicBool::new(true),
        }
    }
}

impl StoreSettings {
    /// How far behind the present a range closes timestamps.
    #[must_use]
    pub fn closed_target(&self) -> Duration {
        Duration::from_nanos(self.closed_target.load(Relaxed))
    }

    /// See [`Self::closed_target`].
    pub fn set_closed_target(&self, target: Duration) {
        self.closed_target.store(nanos(target), Relaxed);
    }

    /// How often a leaseholder tells its followers what it has closed; zero: only with commands.
    #[must_use]
    pub fn side_transport_interval(&self) -> Duration {
        Duration::from_nanos(self.side_transport_interval.load(Relaxed))
    }

    /// See [`Self::side_transport_interval`].
    pub fn set_side_transport_interval(&self, interval: Duration) {
        self.side_transport_interval.store(nanos(interval), Relaxed);
    }

    /// Whether a replica without the lease serves reads below what is closed.
    #[must_use]
    pub fn follower_reads(&self) -> bool {
        self.follower_reads.load(Relaxed)
    }

    /// See [`Self::follower_reads`].
    pub fn set_follower_reads(&self, enabled: bool) {
        self.follower_reads.store(enabled, Relaxed);
    }
}
