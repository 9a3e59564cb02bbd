//! What a seed decides before a run starts.

use std::fmt;

use crdb_kv::PlantedTxnBug;
use crdb_raftstore::{Limits, PlantedBug};

use crate::{rng::Rng, txn::work::Habits};

/// One millisecond, in the nanoseconds of the simulated time.
pub(crate) const MS: u64 = 1_000_000;

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// In the stores.
    Store(PlantedBug),
    /// In the gateways.
    Gateway(PlantedTxnBug),
}

impl Bug {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let stores = PlantedBug::ALL.into_iter().map(Self::Store);
        stores.chain(PlantedTxnBug::ALL.into_iter().map(Self::Gateway))
    }

    pub(crate) fn of_store(self) -> Option<PlantedBug> {
        match self {
            Self::Store(bug) => Some(bug),
            Self::Gateway(_) => None,
        }
    }

    pub(crate) fn of_gateway(self) -> Option<PlantedTxnBug> {
        match self {
            Self::Store(_) => None,
            Self::Gateway(bug) => Some(bug),
        }
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(bug) => bug.fmt(f),
            Self::Gateway(bug) => bug.fmt(f),
        }
    }
}

/// How to run a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A bug to plant in every node.
    pub bug: Option<Bug>,
    /// Whether to print what happens.
    pub trace: bool,
}

/// What goes wrong most of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// Anything.
    Mixed,
    /// Leases are handed over again and again under transactions that take their time.
    Handovers,
    /// A node hears late of what happens elsewhere, and its clock is behind.
    LateNews,
    /// Clients do not wait for the end of what takes long, and go back to a savepoint.
    GivingUp,
}

/// The shape of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) flavour: Flavour,
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
    /// Bounds of evaluations, and of gateways.
    pub(crate) storage: crdb_storage::Limits,
    pub(crate) kv: crdb_kv::Limits,
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
        let mixed = Self {
            flavour: Flavour::Mixed,
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
            txn_clients: if rng.chance(15) { 0 } else { 1 + rng.index(4) },
            txn_keys: 3 + rng.index(8),
            accounts: 3,
            habits: habits(rng),
            txn_patience: if rng.chance(20) { 1_500 * MS } else { 12_000 * MS },
            call_timeout: if rng.chance(20) { 10_000 * MS } else { 2_200 * MS },
            patience: if rng.chance(20) { 800 * MS } else { 3_000 * MS },
            limits: if rng.chance(60) { short_logs() } else { Limits::default() },
            storage: crdb_storage::Limits::default(),
            kv: crdb_kv::Limits::default(),
        };
        let mixed = if rng.chance(70) { mixed.bounded(rng) } else { mixed };
        let mixed = if rng.chance(20) { mixed.with_many_keys(rng) } else { mixed };
        match rng.index(100) {
            0..15 => mixed.with_handovers(rng),
            15..30 => mixed.with_late_news(rng),
            30..40 => mixed.with_giving_up(),
            _ => {
                let give_up = if rng.chance(50) { 25 } else { 0 };
                Self { habits: Habits { give_up, ..mixed.habits }, ..mixed }
            }
        }
    }

    /// With bounds drawn at random, often so small that a run of short values reaches them.
    fn bounded(self, rng: &mut Rng) -> Self {
        let mut below = |number: u64| rng.within(0..number);
        let storage = crdb_storage::Limits::draw(&mut below);
        Self { storage, kv: crdb_kv::Limits::draw(&mut below), ..self }
    }

    /// Transactions that write to many keys.
    fn with_many_keys(self, rng: &mut Rng) -> Self {
        let habits = Habits { steps: 20 + rng.index(40), ..self.habits };
        Self { habits, txn_keys: 20 + rng.index(40), think: 10 * MS, ..self }
    }

    /// Many transactions on few keys, without much else to disturb them.
    fn busy(self) -> Self {
        Self {
            clients: 1,
            txn_clients: 4,
            txn_keys: 3,
            think: 10 * MS,
            delay: (MS / 10, 3 * MS),
            drop: 0,
            sync: MS,
            linger: 20 * MS,
            steady: false,
            future_reads: false,
            txn_patience: 12_000 * MS,
            habits: Habits { across: true, rollback: 1, steps: 3, ..self.habits },
            ..self
        }
    }

    fn with_handovers(self, rng: &mut Rng) -> Self {
        let habits = Habits { dawdle: 70, locking: 0, single: 0, read_committed: 0, ..self.habits };
        let fault_gap = rng.within(100 * MS..300 * MS);
        let offset = self.offset.min(250 * MS);
        let plan = Self { flavour: Flavour::Handovers, offset, fault_gap, ..self };
        let plan = plan.busy();
        Self { habits: Habits { across: true, rollback: 1, steps: 3, ..habits }, ..plan }
    }

    fn with_late_news(self, rng: &mut Rng) -> Self {
        let fault_gap = rng.within(500 * MS..1_200 * MS);
        let offset = 500 * MS;
        let plan = Self { flavour: Flavour::LateNews, offset, fault_gap, ..self }.busy();
        // Writes that are over soon, and many reads that wait for nobody.
        let habits = Habits {
            read_only: 60,
            as_of: 0,
            bank: 10,
            single: 45,
            locking: 0,
            flush: 0,
            dawdle: 0,
            ..plan.habits
        };
        Self { habits, txn_keys: 6, ..plan }
    }

    fn with_giving_up(self) -> Self {
        let plan = Self { flavour: Flavour::GivingUp, ..self }.busy();
        // Writes that wait for locks, sent before the commit.
        let habits = Habits {
            read_committed: 0,
            read_only: 0,
            as_of: 0,
            bank: 0,
            single: 0,
            locking: 50,
            flush: 100,
            savepoint: 100,
            dawdle: 30,
            give_up: 50,
            steps: 8,
            ..plan.habits
        };
        Self { habits, ..plan }
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
        dawdle: often(25, 3),
        large: often(30, 0),
        steps: if rng.chance(50) { 3 } else { 8 },
        across: rng.chance(65),
        give_up: 0,
    }
}

/// So small that the few commands of a run fill them: who was away for a while finds the log cut and
/// needs a snapshot, and the entries sent come from the disk.
fn short_logs() -> Limits {
    Limits {
        log_bytes_stale: 200,
        log_bytes_max: 500,
        log_bytes_lag_max: 500,
        entry_cache_bytes: 300,
        snapshot_chunk_bytes: 200,
        ..Limits::default()
    }
}
