//! What a store is told when it starts: who it is, its timing, its limits.

use std::{fmt, sync::Arc, time::Duration};

use crdb_keys::{NodeId, StoreId};

use crate::{limits::Limits, settings::StoreSettings};

/// A reading of a monotonic clock that also runs while the machine sleeps, in nanoseconds from an
/// arbitrary origin that is the same for the life of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// A deadline that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// This reading moved by `by`; saturates.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos(by)))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Mono {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1_000_000)
    }
}

/// The length of `duration` in nanoseconds; saturates.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Timing of elections and leases. E, the election timeout, is `tick * election_ticks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Length of one tick.
    pub tick: Duration,
    /// Ticks between two heartbeats of a leader.
    pub heartbeat_ticks: usize,
    /// Ticks of silence after which a follower of the first rank campaigns.
    pub election_ticks: usize,
}

impl Default for Timing {
    fn default() -> Self {
        Self { tick: Duration::from_millis(100), heartbeat_ticks: 2, election_ticks: 10 }
    }
}

impl Timing {
    /// E, the election timeout.
    #[must_use]
    pub fn election_timeout(&self) -> Duration {
        self.tick.saturating_mul(u32::try_from(self.election_ticks).unwrap_or(u32::MAX))
    }

    /// How long a lease lasts after the heartbeat that a quorum echoed: 0.8 E.
    #[must_use]
    pub fn lease_duration(&self) -> Duration {
        self.election_timeout() / 10 * 8
    }

    /// How long a replica keeps its promise not to vote after an acknowledgement: 0.9 E.
    #[must_use]
    pub fn promise_duration(&self) -> Duration {
        self.election_timeout() / 10 * 9
    }
}

/// Everything that configures a [`Store`](crate::Store).
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Node the store belongs to.
    pub node_id: NodeId,
    /// The store itself.
    pub store_id: StoreId,
    /// Random number of this process; acknowledgements of an earlier one do not count.
    pub incarnation: u64,
    /// Timing of elections and leases.
    pub timing: Timing,
    /// Sizes, and how long it waits.
    pub limits: Limits,
    /// Bounds of the evaluation of one batch.
    pub storage: crdb_storage::Limits,
    /// What its ranges remember of requests and transactions.
    pub concurrency: crdb_concurrency::Limits,
    /// Seed of the random part of election timeouts.
    pub seed: u64,
    /// Whether the store changes the replicas of the ranges it leads on its own.
    pub replicate_queue: bool,
    /// What can be changed while the store runs; the server keeps a clone.
    pub settings: Arc<StoreSettings>,
    /// A bug planted on purpose, to prove that the simulator finds it.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<PlantedBug>,
}

impl StoreConfig {
    /// The defaults for store `store_id` of node `node_id`, started as process `incarnation`.
    #[must_use]
    pub fn new(node_id: NodeId, store_id: StoreId, incarnation: u64) -> Self {
        Self {
            node_id,
            store_id,
            incarnation,
            timing: Timing::default(),
            limits: Limits::default(),
            storage: crdb_storage::Limits::default(),
            concurrency: crdb_concurrency::Limits::default(),
            seed: incarnation,
            replicate_queue: true,
            settings: Arc::default(),
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }

    /// Whether `bug` is planted; never, unless built for the simulator.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn has(&self, bug: PlantedBug) -> bool {
        self.planted == Some(bug)
    }

    /// Whether `bug` is planted; never, unless built for the simulator.
    #[cfg(not(feature = "planted-bugs"))]
    #[expect(clippy::unused_self, reason = "same signature as with planted bugs")]
    pub(crate) fn has(&self, _bug: PlantedBug) -> bool {
        false
    }
}

/// Bugs that can be planted to prove that the simulator finds their like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlantedBug {
    /// Votes and append acknowledgements leave before what they acknowledge is durable.
    AckBeforeSync,
    /// A former leaseholder serves on without looking at its lease.
    SkipLeaseCheck,
    /// The log is written without a sync.
    SkipSync,
    /// A restarted replica votes at once, although it may have promised not to.
    VoteAfterRestart,
    /// A lease acknowledgement counts for the newest heartbeat sent, not for the one echoed.
    AckCreditsNewest,
    /// A promise ends when a higher term is seen.
    PromiseClearedByTerm,
    /// A new lease ignores the bound of the promises its holder gave itself as the leader before.
    LeaseForgetsOwnBound,
    /// A new leaseholder lets transactions write below what was read under the leases before.
    LeaseForgetsReads,
    /// A leaseholder that was handed the lease takes nothing for read.
    SkipTscacheOnTransfer,
    /// A replica without the lease serves reads above what is closed.
    FollowerReadAboveClosed,
}

impl PlantedBug {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::AckBeforeSync,
        Self::SkipLeaseCheck,
        Self::SkipSync,
        Self::VoteAfterRestart,
        Self::AckCreditsNewest,
        Self::PromiseClearedByTerm,
        Self::LeaseForgetsOwnBound,
        Self::LeaseForgetsReads,
        Self::SkipTscacheOnTransfer,
        Self::FollowerReadAboveClosed,
    ];
}

impl fmt::Display for PlantedBug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::SkipLeaseCheck => "skip-lease-check",
            Self::SkipSync => "skip-sync",
            Self::VoteAfterRestart => "vote-after-restart",
            Self::AckCreditsNewest => "ack-credits-newest",
            Self::PromiseClearedByTerm => "promise-cleared-by-term",
            Self::LeaseForgetsOwnBound => "lease-forgets-own-bound",
            Self::LeaseForgetsReads => "lease-forgets-reads",
            Self::SkipTscacheOnTransfer => "skip-tscache-on-transfer",
            Self::FollowerReadAboveClosed => "follower-read-above-closed",
        })
    }
}
