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
//! Where more wait for one than an answer may tell, each answer begins with others, at places that
//! do not follow from the number of answers: whoever asks again and again hears of every one in the
//! end, and so a deadlock is found however many wait beside it.
//!
//! Invariants:
//! 1. Nothing is believed longer than [`Limits::txn_wait_life`] after it was last told.
//! 2. There are at most [`Limits::txn_waits_max`] waits, each with at most
//!    [`Limits::txn_dependents_max`] dependents; the one told longest ago makes room.
//! 3. No wait is left out of all answers while it is believed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::Limits;

#[derive(Debug)]
struct Wait {
    told_nanos: u64,
    /// Who waits for the pusher, by its own account.
    dependents: Vec<Bytes>,
}

/// Who waits for one transaction.
#[derive(Debug, Default)]
struct Pushers {
    waits: BTreeMap<Bytes, Wait>,
    /// The one to begin the next answer with, or near it.
    next: Bytes,
}

impl Pushers {
    /// All of them once, beginning `skip` behind the one at which the turn is.
    fn in_turn(&self, skip: usize) -> impl Iterator<Item = (&Bytes, &Wait)> {
        let behind = self.waits.range::<Bytes, _>(&self.next..);
        let before = self.waits.range::<Bytes, _>(..&self.next);
        let skip = skip % self.waits.len().max(1);
        let turn = || behind.clone().chain(before.clone());
        turn().skip(skip).chain(turn().take(skip))
    }
}

/// The waits that a store heard of.
#[derive(Debug)]
pub struct TxnWaits {
    limits: Limits,
    /// By pushee, then by pusher.
    waits: BTreeMap<Bytes, Pushers>,
    /// When told, pushee, pusher.
    by_age: BTreeSet<(u64, Bytes, Bytes)>,
    /// State of a generator of numbers that decide where answers begin.
    turns: u64,
}

impl Default for TxnWaits {
    fn default() -> Self {
        Self::new(&Limits::default())
    }
}

impl TxnWaits {
    /// Remembers none yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self { limits: *limits, waits: BTreeMap::new(), by_age: BTreeSet::new(), turns: 0 }
    }

    fn life_nanos(&self) -> u64 {
        u64::try_from(self.limits.txn_wait_life.as_nanos()).unwrap_or(u64::MAX)
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
            let expired = told.saturating_add(self.life_nanos()) <= now_nanos;
            if !expired && self.by_age.len() < self.limits.txn_waits_max {
                break;
            }
            if let Some((_, pushee, pusher)) = self.by_age.pop_first() {
                self.remove(&pusher, &pushee);
            }
        }
        // Copied: a slice would keep the whole message alive that it came with.
        let copy = |id: &Bytes| Bytes::copy_from_slice(id);
        let dependents = dependents.iter().take(self.limits.txn_dependents_max).map(copy).collect();
        let (pusher, pushee) = (copy(pusher), copy(pushee));
        self.by_age.insert((now_nanos, pushee.clone(), pusher.clone()));
        let wait = Wait { told_nanos: now_nanos, dependents };
        self.waits.entry(pushee).or_default().waits.insert(pusher, wait);
    }

    /// Who waits for `txn`, directly or not, as far as known and believed at `now_nanos`; if they
    /// are more than may be told, others each time. May name `txn` itself.
    #[must_use]
    pub fn dependents_of(&mut self, txn: &Bytes, now_nanos: u64) -> Vec<Bytes> {
        let (life, max) = (self.life_nanos(), self.limits.txn_dependents_max);
        let mut found: BTreeSet<Bytes> = BTreeSet::new();
        let mut open: VecDeque<Bytes> = VecDeque::from([txn.clone()]);
        while let Some(pushee) = open.pop_front() {
            if found.len() >= max {
                break;
            }
            let turn = self.turn();
            let Some(pushers) = self.waits.get_mut(&pushee) else { continue };
            let mut next = None;
            for (pusher, wait) in pushers.in_turn(turn % max) {
                if found.len() >= max {
                    next = Some(pusher.clone());
                    break;
                }
                if wait.told_nanos.saturating_add(life) <= now_nanos {
                    continue;
                }
                let skip = turn % wait.dependents.len().max(1);
                let (before, behind) = wait.dependents.split_at(skip);
                for waiting in std::iter::once(pusher).chain(behind).chain(before) {
                    if found.len() < max && found.insert(waiting.clone()) {
                        open.push_back(waiting.clone());
                    }
                }
            }
            pushers.next = next.unwrap_or_default();
        }
        found.into_iter().collect()
    }

    fn turn(&mut self) -> usize {
        self.turns =
            self.turns.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        usize::try_from(self.turns >> 33).unwrap_or(0)
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
        let wait = pushers.waits.remove(pusher);
        if pushers.waits.is_empty() {
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
                "limit" => {
                    let txn_waits_max = next().ok_or("how many?")?.parse()?;
                    self.waits = TxnWaits::new(&Limits { txn_waits_max, ..Limits::default() });
                }
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

    fn id(number: u32) -> Bytes {
        Bytes::copy_from_slice(&number.to_be_bytes())
    }

    /// The one that matters among `waiting` is heard of, wherever it stands, by who asks often
    /// enough, also if each answer tells few and something else is asked in between.
    #[test]
    fn however_many_wait_each_is_told_of_in_the_end() {
        for (waiting, max, others) in [(1000, 256, 0), (600, 256, 1), (40, 2, 3), (3, 2, 1)] {
            let limits = Limits { txn_dependents_max: max, ..Limits::default() };
            let mut waits = TxnWaits::new(&limits);
            let held = Bytes::from_static(b"held");
            for number in 0..waiting {
                // Each has somebody behind it, who is found beside it.
                waits.register(&id(number), &held, &[id(10_000 + number)], 0);
            }
            let wanted = BTreeSet::from_iter((0..waiting).chain(10_000..10_000 + waiting).map(id));
            let mut told = BTreeSet::new();
            let mut asked = 0;
            while told.len() < wanted.len() {
                let answer = waits.dependents_of(&held, 0);
                assert!(answer.len() <= max);
                told.extend(answer);
                for _ in 0..others {
                    let _another = waits.dependents_of(&held, 0);
                }
                asked += 1;
                assert!(asked < 2_000, "{} of {} are told", told.len(), wanted.len());
            }
            assert!(told.is_subset(&wanted));
        }
    }
}
