//! Which transactions wait for which, as far as the pushes that reached a store tell.
//!
//! A transaction that waits for a lock pushes the holder at the holder's record, again and again,
//! and says with each push who waits for itself. The store of the record remembers that for a
//! second, so that the holder, when it waits and pushes itself, hears who waits for it. A
//! transaction that finds the one it wants to push among those has found a deadlock.
//!
//! ```text
//! a waits for b:  push b (by a)            at b's record ─▶ here: a ─▶ b
//! b waits for a:  query b  ─▶ dependents {a};  push a (by b, dependents {a}): a deadlock
//! ```
//!
//! What it is not: a proof. What it remembers may be over already; who breaks a deadlock that is
//! none any more aborts a transaction that could have gone on, no worse.
//!
//! Invariants:
//! 1. Nothing is remembered longer than [`WAIT_LIFE_NANOS`] after it was last told.
//! 2. There are at most [`WAITS_MAX`] waits, each with at most [`DEPENDENTS_MAX`] dependents; the
//!    one told longest ago makes room.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

/// How long a wait is believed after it was told: longer than between two pushes.
pub const WAIT_LIFE_NANOS: u64 = 1_000_000_000;
/// Waits remembered per store, at most.
pub const WAITS_MAX: usize = 10_000;
/// Dependents remembered of each, at most; also the most that are answered.
pub const DEPENDENTS_MAX: usize = 256;

#[derive(Debug)]
struct Wait {
    told_nanos: u64,
    /// Who waits for the pusher, by its own account.
    dependents: Vec<Bytes>,
}

/// The waits that a store heard of.
#[derive(Debug)]
pub struct TxnWaits {
    limit: usize,
    /// By pushee, then by pusher.
    waits: BTreeMap<Bytes, BTreeMap<Bytes, Wait>>,
    /// When told, pushee, pusher.
    by_age: BTreeSet<(u64, Bytes, Bytes)>,
}

impl Default for TxnWaits {
    fn default() -> Self {
        Self::with_limit(WAITS_MAX)
    }
}

impl TxnWaits {
    /// Remembers `limit` waits at most.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self { limit: limit.max(1), waits: BTreeMap::new(), by_age: BTreeSet::new() }
    }

    /// `pusher` waits for `pushee`, and `dependents` wait for `pusher`.
    pub fn register(
        &mut self,
        pusher: &Bytes,
        pushee: &Bytes,
        dependents: &[Bytes],
        now_nanos: u64,
    ) {
        self.forget(pusher, pushee);
        while let Some((told, ..)) = self.by_age.first() {
            let expired = told.saturating_add(WAIT_LIFE_NANOS) <= now_nanos;
            if !expired && self.by_age.len() < self.limit {
                break;
            }
            if let Some((_, pushee, pusher)) = self.by_age.pop_first() {
                self.remove(&pusher, &pushee);
            }
        }
        // Copied: a slice would keep the whole message alive that it came with.
        let copy = |id: &Bytes| Bytes::copy_from_slice(id);
        let dependents = dependents.iter().take(DEPENDENTS_MAX).map(copy).collect();
        let (pusher, pushee) = (copy(pusher), copy(pushee));
        self.by_age.insert((now_nanos, pushee.clone(), pusher.clone()));
        let wait = Wait { told_nanos: now_nanos, dependents };
        self.waits.entry(pushee).or_default().insert(pusher, wait);
    }

    /// Who waits for `txn`, directly or not, as far as known and believed at `now_nanos`. May
    /// name `txn` itself.
    #[must_use]
    pub fn dependents_of(&self, txn: &Bytes, now_nanos: u64) -> Vec<Bytes> {
        let mut found: BTreeSet<Bytes> = BTreeSet::new();
        let mut open: VecDeque<&Bytes> = VecDeque::from([txn]);
        while let Some(pushee) = open.pop_front() {
            for (pusher, wait) in self.waits.get(pushee).into_iter().flatten() {
                if wait.told_nanos.saturating_add(WAIT_LIFE_NANOS) <= now_nanos {
                    continue;
                }
                for waiting in std::iter::once(pusher).chain(&wait.dependents) {
                    if found.len() < DEPENDENTS_MAX && found.insert(waiting.clone()) {
                        open.push_back(waiting);
                    }
                }
            }
        }
        found.into_iter().collect()
    }

    /// How many waits are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Whether no wait is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }

    fn forget(&mut self, pusher: &Bytes, pushee: &Bytes) {
        if let Some(wait) = self.remove(pusher, pushee) {
            self.by_age.remove(&(wait.told_nanos, pushee.clone(), pusher.clone()));
        }
    }

    fn remove(&mut self, pusher: &Bytes, pushee: &Bytes) -> Option<Wait> {
        let pushers = self.waits.get_mut(pushee)?;
        let wait = pushers.remove(pusher);
        if pushers.is_empty() {
            self.waits.remove(pushee);
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use std::{error::Error, fmt::Write as _, path::Path};

    use goldenscript::Command;
    use test_each_file::test_each_path;

    use super::*;

    test_each_path! { in "node/concurrency/src/testscripts/txn_waits" as scripts => run_script }

    fn run_script(path: &Path) {
        goldenscript::run(&mut Script::default(), path).expect("script failed");
    }

    /// `wait PUSHER PUSHEE [DEPENDENT...]`, `dependents TXN`, `after MS`, `limit N`.
    #[derive(Default)]
    struct Script {
        waits: TxnWaits,
        now_nanos: u64,
    }

    impl goldenscript::Runner for Script {
        type Command = Command;

        fn run(
            &mut self,
            command: &Command,
            _context: &goldenscript::Context,
        ) -> Result<String, Box<dyn Error>> {
            let mut out = String::new();
            let mut args = command.consume_args();
            let mut next = || args.next_pos().map(str::to_owned);
            match command.name.as_str() {
                "limit" => self.waits = TxnWaits::with_limit(next().ok_or("how many?")?.parse()?),
                "after" => {
                    let millis: u64 = next().ok_or("how long?")?.parse()?;
                    self.now_nanos += millis * 1_000_000;
                }
                "wait" => {
                    let pusher = Bytes::from(next().ok_or("who?")?);
                    let pushee = Bytes::from(next().ok_or("for whom?")?);
                    let dependents: Vec<Bytes> =
                        std::iter::from_fn(next).map(Bytes::from).collect();
                    self.waits.register(&pusher, &pushee, &dependents, self.now_nanos);
                }
                "dependents" => {
                    let txn = Bytes::from(next().ok_or("of whom?")?);
                    let found = self.waits.dependents_of(&txn, self.now_nanos);
                    let names: Vec<_> =
                        found.iter().map(|id| String::from_utf8_lossy(id).into_owned()).collect();
                    writeln!(out, "{}", names.join(" "))?;
                }
                "count" => writeln!(out, "{}", self.waits.len())?,
                other => return Err(format!("no such command: {other}").into()),
            }
            args.reject_next()?;
            Ok(out)
        }
    }
}
