//! Who holds which key of one range, and who waits for it: the pure part of the locks.
//!
//! What it is: per key, the transactions that hold it and a queue of the requests that want it.
//! What it is not: it guards nothing by itself. Unreplicated locks are advisory, they make
//! transactions that want the same row queue up instead of failing when they commit; intents are
//! kept by the storage, and known here once a request has met them.
//!
//! ```text
//! key k   held by   t1 exclusive (unreplicated) | t1, t2 shared | t1's intent, discovered
//!         queue     #3 t2 exclusive, #5 t3 shared, #6 outside of a transaction, #4 read up to 9
//! ```
//!
//! A request that finds a key in its way gets a ticket and stands in the queue of that key, by
//! ticket, until nothing is in its way there. Then it goes through all its keys again, its place
//! kept: those behind it wait for it until it is done, so a lock that is released goes to who
//! waited longest. A request stands in one queue at a time: where it does not wait, it claims
//! nothing, and requests for several keys do not block each other in a circle.
//!
//! Reads that do not lock wait for intents alone, those at or below the timestamp up to which
//! they would see them, and nobody waits for them.
//!
//! Invariants:
//! 1. (I4) No two transactions hold a key, unless both share it.
//! 2. (I5) A key has at most one intent; who holds the lock of a key that has an intent is the
//!    transaction of that intent.
//! 3. Of two requests that wait at a key and conflict, the one with the smaller ticket goes first,
//!    unless the transaction of the other holds the key already.
//! 4. A request waits only while there is somebody to wait for: who takes away the last thing in
//!    its way is told its ticket.
//! 5. No more than [`Limits::lock_waiters_max`] requests wait: who asks first looks at
//!    [`LockTable::is_crowded`].
//! 6. No more than [`Limits::locks_max`] locks are known. The oldest is forgotten for a new one: an unreplicated
//!    lock is advisory, an intent is met again.

mod key;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry};
use std::ops::Bound;

use bytes::Bytes;
use crdb_keys::{Key, Span, Timestamp};
use crdb_proto::kv::{LockInfo, LockStrength, TxnMeta};
use prost::Message as _;

use self::key::{KeyState, Lock, Waiter};
use crate::Limits;

/// A waiting request's place among all of the range; rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockTicket(pub u64);

/// What a request wants of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockUse {
    /// To read it. Only intents at or below `upto` are in the way.
    Read {
        /// The largest timestamp of a version that matters to the read.
        upto: Timestamp,
    },
    /// To keep others from changing it.
    Shared,
    /// To change it, or to lock it for a change.
    Exclusive,
}

impl LockUse {
    fn strength(self) -> LockStrength {
        match self {
            Self::Read { .. } => LockStrength::LockNone,
            Self::Shared => LockStrength::LockShared,
            Self::Exclusive => LockStrength::LockExclusive,
        }
    }

    fn locks(self) -> bool {
        !matches!(self, Self::Read { .. })
    }

    /// Whether two transactions cannot have a key for these uses at the same time. For uses that
    /// lock.
    fn conflicts(self, other: Self) -> bool {
        self == Self::Exclusive || other == Self::Exclusive
    }
}

/// What a request wants.
#[derive(Clone, Debug, Default)]
pub struct LockRequest {
    /// The transaction it belongs to, whose own locks are not in its way.
    pub txn: Option<TxnMeta>,
    /// Its spans.
    pub spans: Vec<(Span, LockUse)>,
}

impl LockRequest {
    /// What the request wants of `key`, where it met an intent of `holder`: certainly something
    /// that the intent is in the way of.
    pub(crate) fn wanted_of(&self, key: &Key, holder: &TxnMeta) -> LockUse {
        let uses = self.spans.iter().filter(|(span, _)| span.contains_key(key));
        let strongest = uses.map(|(_, wanted)| *wanted).max_by_key(|wanted| wanted.strength());
        let met = key::timestamp(holder);
        match strongest {
            Some(LockUse::Read { upto }) => LockUse::Read { upto: upto.max(met) },
            Some(wanted) => wanted,
            None => LockUse::Read { upto: met },
        }
    }
}

/// Whom a request waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct LockWait {
    /// The key in the way.
    pub key: Key,
    /// Who has it: holds it, or stands before the request in its queue. A holder without an
    /// anchor is a request outside of any transaction, which cannot be pushed and ends by itself.
    pub holder: TxnMeta,
    /// Whether it is an intent.
    pub replicated: bool,
    /// What the holder has, or wants if it stands in the queue.
    pub strength: LockStrength,
}

/// The locks of one range.
#[derive(Debug)]
pub struct LockTable {
    limits: Limits,
    next_ticket: u64,
    next_lock: u64,
    keys: BTreeMap<Key, KeyState>,
    /// All locks, oldest first: key and transaction.
    by_age: BTreeMap<u64, (Key, Bytes)>,
    /// Keys on which a transaction holds something.
    by_txn: BTreeMap<Bytes, BTreeSet<Key>>,
    /// Where each request waits.
    waiting: BTreeMap<LockTicket, Key>,
    /// Transactions that have ended, and until when they are remembered; the oldest first.
    ended: VecDeque<(Bytes, u64)>,
}

impl Default for LockTable {
    fn default() -> Self {
        Self::new(&Limits::default())
    }
}

impl LockTable {
    /// A table that knows of no lock.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            limits: *limits,
            next_ticket: 0,
            next_lock: 0,
            keys: BTreeMap::new(),
            by_age: BTreeMap::new(),
            by_txn: BTreeMap::new(),
            waiting: BTreeMap::new(),
            ended: VecDeque::new(),
        }
    }

    /// Whether nothing is held and nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether no other request may wait.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.waiting.len() >= self.limits.lock_waiters_max
    }

    /// How many locks are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    /// The first thing in the way of `request`; who has a `ticket` passes those that came later.
    #[must_use]
    pub fn check(
        &self,
        request: &LockRequest,
        ticket: Option<LockTicket>,
    ) -> Option<(LockWait, LockUse)> {
        let txn = request.txn.as_ref();
        request.spans.iter().find_map(|(span, wanted)| {
            let in_way = |(key, state): (&Key, &KeyState)| {
                state.blocker(key, txn, *wanted, ticket).map(|wait| (wait, *wanted))
            };
            if span.is_point() {
                self.keys.get_key_value(&span.start).and_then(in_way)
            } else {
                self.range(span).find_map(in_way)
            }
        })
    }

    /// Queues up at `key`, in the place of `ticket` if there is one already. Answers the ticket,
    /// and who may go because it left another queue.
    pub fn wait(
        &mut self,
        ticket: Option<LockTicket>,
        txn: Option<&TxnMeta>,
        key: &Key,
        wanted: LockUse,
        now_nanos: u64,
    ) -> (LockTicket, Vec<LockTicket>) {
        let ticket = ticket.unwrap_or_else(|| {
            self.next_ticket += 1;
            LockTicket(self.next_ticket)
        });
        let before = self.waiting.insert(ticket, key.clone());
        let left = before.as_ref().and_then(|before| {
            self.keys.get_mut(before).and_then(|state| state.queue.remove(&ticket))
        });
        let since_nanos = left.map_or(now_nanos, |waiter| waiter.since_nanos);
        let waiter = Waiter { txn: txn.cloned(), wanted, since_nanos };
        self.keys.entry(key.clone()).or_default().queue.insert(ticket, waiter);
        (ticket, before.map(|before| self.settle(&before)).unwrap_or_default())
    }

    /// What is in the way of `ticket` where it stands; `None` if it may go through its keys again.
    #[must_use]
    pub fn blocker(&self, ticket: LockTicket) -> Option<LockWait> {
        let key = self.waiting.get(&ticket)?;
        let state = self.keys.get(key)?;
        let waiter = state.queue.get(&ticket)?;
        state.blocker(key, waiter.txn.as_ref(), waiter.wanted, Some(ticket))
    }

    /// Leaves the queue, for good. Answers who may go because of that.
    pub fn leave(&mut self, ticket: LockTicket) -> Vec<LockTicket> {
        let Some(key) = self.waiting.remove(&ticket) else { return Vec::new() };
        if let Some(state) = self.keys.get_mut(&key) {
            state.queue.remove(&ticket);
        }
        self.settle(&key)
    }

    /// Notes that `txn` holds the unreplicated lock of `key`, which it may hold already, or says
    /// who else does. Answers who may go because an older lock was forgotten for it.
    pub fn acquire(
        &mut self,
        txn: &TxnMeta,
        key: &Key,
        strength: LockStrength,
        now_nanos: u64,
    ) -> Result<Vec<LockTicket>, Box<LockWait>> {
        let wanted = match strength {
            LockStrength::LockNone => return Ok(Vec::new()),
            LockStrength::LockShared => LockUse::Shared,
            LockStrength::LockExclusive => LockUse::Exclusive,
        };
        if let Some(state) = self.keys.get_mut(key) {
            if let Some(wait) = state.held_by_other(key, Some(&txn.id), wanted) {
                return Err(Box::new(wait));
            }
            if let Some(own) = state.locks.iter_mut().find(|lock| lock.txn.id == txn.id) {
                own.strength = own.strength.max(strength);
                return Ok(Vec::new());
            }
        }
        // Copied: a slice would keep the whole message alive that it came with.
        let (key, txn) = (Bytes::copy_from_slice(key), detached(txn));
        let lock = Lock { order: self.note(&key, &txn.id), txn, strength, since_nanos: now_nanos };
        self.keys.entry(key.clone()).or_default().locks.push(lock);
        let mut free = self.forget_oldest();
        // Requests of the same transaction have nobody before them any more.
        free.extend(self.settle(&key));
        Ok(free)
    }

    /// Notes that a transaction has ended, whose locks are released, while a request of its own may
    /// still wait for one: see [`LockTable::has_ended`].
    pub fn end(&mut self, txn_id: &Bytes, now_nanos: u64) {
        if self.has_ended(txn_id, now_nanos) {
            return;
        }
        if self.ended.len() >= self.limits.ended_txns_max {
            self.ended.pop_front();
        }
        let life = u64::try_from(self.limits.ended_txn_life.as_nanos()).unwrap_or(u64::MAX);
        let until = now_nanos.saturating_add(life);
        self.ended.push_back((Bytes::copy_from_slice(txn_id), until));
    }

    /// Whether a transaction is known to have ended: it must get no lock and write nothing, which
    /// nobody would clean up.
    pub fn has_ended(&mut self, txn_id: &Bytes, now_nanos: u64) -> bool {
        while self.ended.front().is_some_and(|(_, until)| *until <= now_nanos) {
            self.ended.pop_front();
        }
        self.ended.iter().any(|(ended, _)| ended == txn_id)
    }

    /// Notes an intent that a request met while it held the latch of `key`, so that nobody can have
    /// removed it meanwhile. Answers who may go: the lock of another transaction goes with it.
    pub fn add_intent(&mut self, key: &Key, txn: &TxnMeta, now_nanos: u64) -> Vec<LockTicket> {
        let mut gone = Vec::new();
        if let Some(state) = self.keys.get_mut(key) {
            if let Some(known) = state.intent.as_mut().filter(|known| known.txn.id == txn.id) {
                known.txn = detached(txn);
                return self.settle(key);
            }
            gone.extend(state.intent.take());
            // Who writes has passed the lock table, or a lock was forgotten: the intent counts.
            gone.extend(state.locks.extract_if(.., |lock| lock.txn.id != txn.id));
        }
        gone.iter().for_each(|lock| self.unnote(key, lock));
        let (key, txn) = (Bytes::copy_from_slice(key), detached(txn));
        let order = self.note(&key, &txn.id);
        let strength = LockStrength::LockExclusive;
        let lock = Lock { order, txn, strength, since_nanos: now_nanos };
        self.keys.entry(key.clone()).or_default().intent = Some(lock);
        let mut free = self.forget_oldest();
        free.extend(self.settle(&key));
        free
    }

    /// Removes what the transaction holds in `span`, or in the whole range: its intents there are
    /// resolved, its locks given up. Answers who may go.
    pub fn release(&mut self, txn_id: &Bytes, span: Option<&Span>) -> Vec<LockTicket> {
        let Some(held) = self.by_txn.get(txn_id) else { return Vec::new() };
        let inside = |key: &Key| span.is_none_or(|span| span.contains_key(key));
        let keys: Vec<Key> = held.iter().filter(|key| inside(key)).cloned().collect();
        let mut free = Vec::new();
        for key in keys {
            let Some(state) = self.keys.get_mut(&key) else { continue };
            let mut gone: Vec<Lock> =
                state.intent.take_if(|intent| intent.txn.id == *txn_id).into_iter().collect();
            gone.extend(state.locks.extract_if(.., |lock| lock.txn.id == *txn_id));
            for lock in gone {
                self.unnote(&key, &lock);
            }
            free.extend(self.settle(&key));
        }
        free
    }

    /// Removes everything in `span`, or in the whole range. Who waited there may go, and is
    /// answered.
    pub fn clear(&mut self, span: Option<&Span>) -> Vec<LockTicket> {
        let inside = |key: &Key| span.is_none_or(|span| span.contains_key(key));
        let keys: Vec<Key> = self.keys.keys().filter(|key| inside(key)).cloned().collect();
        let mut free = Vec::new();
        for key in keys {
            let Some(state) = self.keys.remove(&key) else { continue };
            for lock in state.intent.iter().chain(&state.locks) {
                self.unnote(&key, lock);
            }
            for ticket in state.queue.into_keys() {
                self.waiting.remove(&ticket);
                free.push(ticket);
            }
        }
        free
    }

    /// Whether somebody else than `txn` holds `key` so that it could not be locked with `strength`;
    /// for reads that leave such keys out.
    #[must_use]
    pub fn is_locked(&self, key: &[u8], strength: LockStrength, txn: Option<&Bytes>) -> bool {
        let wanted = match strength {
            LockStrength::LockNone => return false,
            LockStrength::LockShared => LockUse::Shared,
            LockStrength::LockExclusive => LockUse::Exclusive,
        };
        self.keys.get(key).is_some_and(|state| state.is_held_by_other(txn, wanted))
    }

    /// The locks in `span` and who waits for them, up to `max`.
    #[must_use]
    pub fn list(&self, span: &Span, max: usize, now_nanos: u64) -> Vec<LockInfo> {
        let keys: Box<dyn Iterator<Item = (&Key, &KeyState)>> = if span.is_point() {
            Box::new(self.keys.get_key_value(&span.start).into_iter())
        } else {
            Box::new(self.range(span))
        };
        keys.flat_map(|(key, state)| state.list(key, now_nanos)).take(max).collect()
    }

    /// The unreplicated locks, the newest `max` of them, of about `bytes_max` bytes: what a new
    /// leaseholder of the keys should know. `span` limits it to the keys of one side of a split.
    #[must_use]
    pub fn export(
        &self,
        span: Option<&Span>,
        max: usize,
        bytes_max: usize,
        now_nanos: u64,
    ) -> Vec<LockInfo> {
        let mut bytes = 0;
        let inside = |key: &Key| span.is_none_or(|span| span.contains_key(key));
        let newest = self.by_age.values().rev().filter(|(key, _)| inside(key));
        newest
            .filter_map(|(key, txn)| self.keys.get(key)?.unreplicated(key, txn, now_nanos))
            .take(max)
            .take_while(|lock| {
                bytes += lock.encoded_len();
                bytes <= bytes_max
            })
            .collect()
    }

    /// Takes over what [`Self::export`] gave. Locks that contradict those known are left out.
    pub fn import(&mut self, locks: &[LockInfo], now_nanos: u64) -> Vec<LockTicket> {
        let mut free = Vec::new();
        // The newest comes first in an export and last in the order of age.
        for lock in locks.iter().rev() {
            let Some(holder) = &lock.holder else { continue };
            let since = now_nanos.saturating_sub(lock.held_nanos);
            if let Ok(others) = self.acquire(holder, &lock.key, lock.strength(), since) {
                free.extend(others);
            }
        }
        free
    }

    fn range(&self, span: &Span) -> impl Iterator<Item = (&Key, &KeyState)> {
        // An empty range, which would panic, is one of no keys.
        let end = span.end.as_ref().max(span.start.as_ref());
        let bounds = (Bound::Included(span.start.as_ref()), Bound::Excluded(end));
        self.keys.range::<[u8], _>(bounds)
    }

    fn note(&mut self, key: &Key, txn_id: &Bytes) -> u64 {
        self.next_lock += 1;
        self.by_age.insert(self.next_lock, (key.clone(), txn_id.clone()));
        self.by_txn.entry(txn_id.clone()).or_default().insert(key.clone());
        self.next_lock
    }

    /// Takes a lock that was removed from `key` out of the indexes.
    fn unnote(&mut self, key: &Key, lock: &Lock) {
        self.by_age.remove(&lock.order);
        let holds = self.keys.get(key).is_some_and(|state| state.is_held_by(&lock.txn.id));
        if holds {
            return;
        }
        if let Entry::Occupied(mut held) = self.by_txn.entry(lock.txn.id.clone()) {
            held.get_mut().remove(key);
            if held.get().is_empty() {
                held.remove();
            }
        }
    }

    fn forget_oldest(&mut self) -> Vec<LockTicket> {
        if self.by_age.len() <= self.limits.locks_max {
            return Vec::new();
        }
        let Some((order, (key, _))) = self.by_age.pop_first() else { return Vec::new() };
        let Some(state) = self.keys.get_mut(&key) else { return Vec::new() };
        let mut gone: Vec<Lock> =
            state.intent.take_if(|intent| intent.order == order).into_iter().collect();
        gone.extend(state.locks.extract_if(.., |lock| lock.order == order));
        for lock in gone {
            self.unnote(&key, &lock);
        }
        self.settle(&key)
    }

    /// Follows each change of a key: answers who may go now, and drops the key if nobody holds it
    /// or waits.
    fn settle(&mut self, key: &Key) -> Vec<LockTicket> {
        let Some(state) = self.keys.get(key) else { return Vec::new() };
        if state.is_empty() {
            self.keys.remove(key);
            return Vec::new();
        }
        state.free()
    }
}

/// The part of a transaction's description that outlives a message, in memory of its own.
fn detached(txn: &TxnMeta) -> TxnMeta {
    TxnMeta {
        id: Bytes::copy_from_slice(&txn.id),
        anchor: Bytes::copy_from_slice(&txn.anchor),
        ..txn.clone()
    }
}
