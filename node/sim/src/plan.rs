//! What a seed decides before a run starts.

use crdb_raftstore::{Limits, PlantedBug};

use crate::{rng::Rng, txn::work::Habits};

/// One millisecond, in the nanoseconds of the simulated time.
pub(crate) const MS: u64 = 1_000_000;

/// How to run a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A bug to plant in every store.
    pub bug: Option<PlantedBug>,
    /// Whether to print what happens.
    pub trace: bool,
}

/// The shape of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) stores: usize,
    pub(crate) clients: usize,
    pub(crate) keys_per_range: usize,
    /// Longest pause of a client between two operations.
    pub(crate) think: u64,
    /// Shortest and longest way of a message.
    pub(crate) delay: (u64, u64),
    /// Messages lost and doubled, of 100.
    pub(crate) drop: u32,
    pub(crate) duplicate: u32,
    /// Longest sync of a disk.
    pub(crate) sync: u64,
    /// Largest lead of one wall clock over another.
    pub(crate) offset: u64,
    /// Longest pause between two faults.
    pub(crate) fault_gap: u64,
    /// How long faults happen.
    pub(crate) faulty: u64,
    /// Longest stay of an evaluation at a yield point, when it is not quick.
    pub(crate) linger: u64,
    /// Reads at a timestamp of their own, of 100.
    pub(crate) timed_reads: u32,
    /// Leases are never handed over on purpose, so what each may serve can be told from outside.
    pub(crate) steady: bool,
    /// Requests whose gateway believes the lease to be at any store, of 100.
    pub(crate) stray: u32,
    /// Timestamps that clients name may lie ahead of every clock, which moves the clocks.
    pub(crate) future_reads: bool,
    /// Clients of transactions, and what they work on.
    pub(crate) txn_clients: usize,
    pub(crate) txn_keys: usize,
    pub(crate) accounts: usize,
    pub(crate) habits: Habits,
    /// Longest time a client waits for a transaction before it walks away.
    pub(crate) txn_patience: u64,
    /// How long a gateway tries to get an answer from a range.
    pub(crate) call_timeout: u64,
    /// Longest time a client waits for an operation before it walks away.
    pub(crate) patience: u64,
    /// Sizes at which the stores cut their logs.
    pub(crate) limits: Limits,
}

impl Plan {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let rough = rng.chance(30);
        // As far as the nodes tolerate, closer, or further than they do.
        let offset = match rng.index(4) {
            0 => 0,
            1 => 250 * MS,
            2 => 500 * MS,
            _ => 900 * MS,
        };
        Self {
            stores: 3 + rng.index(3) * usize::from(rng.chance(50)),
            clients: 2 + rng.index(3),
            keys_per_range: 1 + rng.index(3),
            think: [10, 40, 120].get(rng.index(3)).copied().unwrap_or(40) * MS,
            delay: (MS / 10, if rough { 40 * MS } else { 3 * MS }),
            drop: if rough { 5 } else { 0 },
            duplicate: if rough { 5 } else { 1 },
            sync: if rng.chance(20) { 30 * MS } else { MS },
            offset,
            fault_gap: rng.within(200 * MS..900 * MS),
            faulty: rng.within(4_000 * MS..8_000 * MS),
            linger: if rng.chance(30) { 1_500 * MS } else { 20 * MS },
            timed_reads: if rng.chance(50) { 30 } else { 5 },
            steady: rng.chance(50),
            stray: 25,
            future_reads: rng.chance(30),
            txn_clients: rng.index(4),
            txn_keys: 3 + rng.index(8),
            accounts: 3,
            habits: habits(rng),
            txn_patience: if rng.chance(20) { 1_500 * MS } else { 12_000 * MS },
            call_timeout: if rng.chance(20) { 10_000 * MS } else { 2_200 * MS },
            patience: if rng.chance(20) { 800 * MS } else { 3_000 * MS },
            limits: if rng.chance(60) { short_logs() } else { Limits::default() },
        }
    }
}

fn habits(rng: &mut Rng) -> Habits {
    let mut often = |usual: u32, seldom: u32| if rng.chance(50) { usual } else { seldom };
    Habits {
        read_committed: often(40, 0),
        read_only: often(15, 2),
        as_of: often(10, 0),
        bank: often(20, 60),
        single: often(10, 0),
        locking: often(40, 5),
        flush: often(60, 0),
        savepoint: often(80, 0),
        rollback: often(8, 1),
        steps: if rng.chance(50) { 3 } else { 8 },
        across: true,
    }
}

/// So small that the few commands of a run fill them: who was away for a while finds the log cut and
/// needs a snapshot, and the entries sent come from the disk.
fn short_logs() -> Limits {
    Limits {
        log_bytes_stale: 200,
        log_bytes_max: 500,
        entry_cache_bytes: 300,
        snapshot_chunk_bytes: 200,
        ..Limits::default()
    }
}
