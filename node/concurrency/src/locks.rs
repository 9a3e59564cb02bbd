//! The locks of one range, shared by those who evaluate and those who apply.
//!
//! A request asks with its latches held. If something is in its way it gets a guard, which is its
//! place in a queue, and gives its latches up; it asks the guard whether it may try again, leaves a
//! waker otherwise, and comes back with the guard. Who asks how long to wait, and whether the
//! holder is still alive, is not a matter of this module.
//!
//! Invariants:
//! 1. A guard that is dropped gives its place up and wakes those who may go because of it.
//! 2. Nobody is woken while the table is locked.
//! 3. Who was told to go finds either nothing in the way or a new place to wait.
//! 4. A transaction that is known to have ended gets no lock: it is asked under the same lock of the
//!    table as it is granted.

use std::{collections::BTreeMap, sync::Arc, task::Waker};

use bytes::Bytes;
use crdb_keys::{Key, Span};
use crdb_proto::kv::{LockInfo, LockStrength, TxnMeta};
use parking_lot::Mutex;

use crate::{Limits, LockRequest, LockTable, LockTicket, LockUse, LockWait};

/// The locks of one range.
#[derive(Debug, Default)]
pub struct Locks {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    table: LockTable,
    wakers: BTreeMap<LockTicket, Waker>,
}

impl State {
    fn woken(&mut self, free: Vec<LockTicket>) -> Vec<Waker> {
        free.into_iter().filter_map(|ticket| self.wakers.remove(&ticket)).collect()
    }
}

/// Whether a request may be evaluated.
#[derive(Debug)]
pub enum Sequenced {
    /// Nothing is in its way. If it waited before, its place: those behind it wait until it drops
    /// the guard.
    Free(Option<LockGuard>),
    /// It stands in a queue.
    Waits(LockGuard),
    /// It would have to wait, and too many do: see [`Limits::lock_waiters_max`].
    Crowded,
    /// Its transaction has ended meanwhile, so that nobody would give up what it locked.
    Ended,
}

impl Locks {
    /// Locks of which none is held.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let state = State { table: LockTable::new(limits), wakers: BTreeMap::new() };
        Self { state: Mutex::new(state) }
    }

    /// Whether nothing is held and nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.lock().table.is_empty()
    }

    /// Looks for what is in the way of `request`, whose latches are held, and queues it up if there
    /// is something. `guard` is its place if it waited before.
    #[must_use]
    pub fn sequence(
        self: &Arc<Self>,
        request: &LockRequest,
        guard: Option<LockGuard>,
        now_nanos: u64,
    ) -> Sequenced {
        self.update(|state| {
            if state.table.is_empty() {
                return (Sequenced::Free(guard), Vec::new());
            }
            let ticket = guard.as_ref().map(|guard| guard.ticket);
            match state.table.check(request, ticket) {
                None => (Sequenced::Free(guard), Vec::new()),
                Some((wait, wanted)) => {
                    let place = (wait.key, wanted);
                    self.enqueue(state, request.txn.as_ref(), guard, place, now_nanos)
                }
            }
        })
    }

    /// What is in the way of a request that does not wait.
    #[must_use]
    pub fn check(&self, request: &LockRequest) -> Option<LockWait> {
        let state = self.state.lock();
        if state.table.is_empty() {
            return None;
        }
        state.table.check(request, None).map(|(wait, _)| wait)
    }

    /// Notes the intents that `request` met while it held its latches, and queues it up for the
    /// first. There must be one.
    #[must_use]
    pub fn discover(
        self: &Arc<Self>,
        request: &LockRequest,
        guard: Option<LockGuard>,
        intents: &[(Key, TxnMeta)],
        now_nanos: u64,
    ) -> Sequenced {
        self.update(|state| {
            let mut free = Vec::new();
            for (key, txn) in intents {
                free.extend(state.table.add_intent(key, txn, now_nanos));
            }
            let Some((key, txn)) = intents.first() else {
                return (Sequenced::Free(guard), free);
            };
            let place = (key.clone(), request.wanted_of(key, txn));
            let (queued, more) = self.enqueue(state, request.txn.as_ref(), guard, place, now_nanos);
            free.extend(more);
            (queued, free)
        })
    }

    /// Locks what a request of `txn` has read, whose latches are still held. If somebody was faster
    /// it queues up for that key, and is to be evaluated again. Without a transaction, nothing is
    /// locked.
    pub fn acquire(
        self: &Arc<Self>,
        txn: Option<TxnMeta>,
        guard: Option<LockGuard>,
        locks: &[(Key, LockStrength)],
        now_nanos: u64,
    ) -> Sequenced {
        let Some(holder) = &txn else { return Sequenced::Free(guard) };
        let locked = self.update(|state| {
            let mut free = Vec::new();
            if state.table.has_ended(&holder.id, now_nanos) {
                return (Err(guard), free);
            }
            for (key, strength) in locks {
                match state.table.acquire(holder, key, *strength, now_nanos) {
                    Ok(others) => free.extend(others),
                    Err(wait) => {
                        let wanted = if *strength == LockStrength::LockShared {
                            LockUse::Shared
                        } else {
                            LockUse::Exclusive
                        };
                        let place = (wait.key, wanted);
                        let txn = Some(holder);
                        let (queued, more) = self.enqueue(state, txn, guard, place, now_nanos);
                        free.extend(more);
                        return (Ok(queued), free);
                    }
                }
            }
            (Ok(Sequenced::Free(guard)), free)
        });
        // Its place is given up here, where the table is not locked any more.
        locked.unwrap_or_else(|_place| Sequenced::Ended)
    }

    /// Removes what a transaction holds in `span`, or in the whole range.
    pub fn release(&self, txn_id: &Bytes, span: Option<&Span>) {
        self.update(|state| {
            let free = state.table.release(txn_id, span);
            ((), free)
        });
    }

    /// See [`LockTable::has_ended`].
    #[must_use]
    pub fn has_ended(&self, txn_id: &Bytes, now_nanos: u64) -> bool {
        self.state.lock().table.has_ended(txn_id, now_nanos)
    }

    /// See [`LockTable::end`].
    pub fn end(&self, txn_id: &Bytes, now_nanos: u64) {
        self.state.lock().table.end(txn_id, now_nanos);
    }

    /// Removes everything in `span`, or in the whole range, and wakes all who wait there: the lease
    /// begins or ended, or the keys went to another range.
    pub fn clear(&self, span: Option<&Span>) {
        self.update(|state| {
            let free = state.table.clear(span);
            ((), free)
        });
    }

    /// Wakes all who wait, wherever, to look at the range again: it lost its lease. What is held
    /// stays known, for the summary of a transfer.
    pub fn wake_all(&self) {
        let wakers = std::mem::take(&mut self.state.lock().wakers);
        wakers.into_values().for_each(Waker::wake);
    }

    /// See [`LockTable::is_locked`].
    #[must_use]
    pub fn is_locked(&self, key: &[u8], strength: LockStrength, txn: Option<&Bytes>) -> bool {
        self.state.lock().table.is_locked(key, strength, txn)
    }

    /// See [`LockTable::list`].
    #[must_use]
    pub fn list(&self, span: &Span, max: usize, now_nanos: u64) -> Vec<LockInfo> {
        self.state.lock().table.list(span, max, now_nanos)
    }

    /// See [`LockTable::export`].
    #[must_use]
    pub fn export(
        &self,
        span: Option<&Span>,
        max: usize,
        bytes_max: usize,
        now_nanos: u64,
    ) -> Vec<LockInfo> {
        self.state.lock().table.export(span, max, bytes_max, now_nanos)
    }

    /// See [`LockTable::import`].
    pub fn import(&self, locks: &[LockInfo], now_nanos: u64) {
        self.update(|state| {
            let free = state.table.import(locks, now_nanos);
            ((), free)
        });
    }

    fn enqueue(
        self: &Arc<Self>,
        state: &mut State,
        txn: Option<&TxnMeta>,
        guard: Option<LockGuard>,
        (key, wanted): (Key, LockUse),
        now_nanos: u64,
    ) -> (Sequenced, Vec<LockTicket>) {
        if guard.is_none() && state.table.is_crowded() {
            return (Sequenced::Crowded, Vec::new());
        }
        let ticket = guard.as_ref().map(|guard| guard.ticket);
        let (ticket, free) = state.table.wait(ticket, txn, &key, wanted, now_nanos);
        let guard = guard.unwrap_or_else(|| LockGuard { locks: Arc::clone(self), ticket });
        (Sequenced::Waits(guard), free)
    }

    fn update<T>(&self, change: impl FnOnce(&mut State) -> (T, Vec<LockTicket>)) -> T {
        let (result, woken) = {
            let state = &mut *self.state.lock();
            let (result, free) = change(state);
            (result, state.woken(free))
        };
        woken.into_iter().for_each(Waker::wake);
        result
    }
}

/// A request's place in a queue; given up when dropped.
#[derive(Debug)]
pub struct LockGuard {
    locks: Arc<Locks>,
    ticket: LockTicket,
}

impl LockGuard {
    /// Whom the request waits for; `waker` is woken when that changes to nobody. `None`: it may
    /// take its latches and ask again.
    #[must_use]
    pub fn blocker(&self, waker: &Waker) -> Option<LockWait> {
        let state = &mut *self.locks.state.lock();
        let blocker = state.table.blocker(self.ticket);
        if blocker.is_some() {
            state.wakers.insert(self.ticket, waker.clone());
        }
        blocker
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.locks.update(|state| {
            state.wakers.remove(&self.ticket);
            let free = state.table.leave(self.ticket);
            ((), free)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn request(name: &'static str) -> LockRequest {
        let id = Bytes::from_static(name.as_bytes());
        let txn = TxnMeta { id: id.clone(), anchor: id, ..TxnMeta::default() };
        let spans = vec![(Span::point("k"), LockUse::Exclusive)];
        LockRequest { txn: Some(txn), spans }
    }

    fn waits(sequenced: Sequenced) -> LockGuard {
        match sequenced {
            Sequenced::Waits(guard) => guard,
            Sequenced::Free(_) => panic!("nothing is in its way"),
            Sequenced::Crowded => panic!("too many wait"),
            Sequenced::Ended => panic!("it has ended"),
        }
    }

    #[test]
    fn too_many_do_not_wait_and_those_who_gave_up_make_room() {
        let limits = Limits { lock_waiters_max: 16, ..Limits::default() };
        let locks = Arc::new(Locks::new(&limits));
        let exclusive = [(Key::from("k"), LockStrength::LockExclusive)];
        let (a, b) = (request("a"), request("b"));
        assert!(matches!(locks.acquire(a.txn.clone(), None, &exclusive, 0), Sequenced::Free(None)));
        let mut places: Vec<LockGuard> =
            (0..limits.lock_waiters_max).map(|_| waits(locks.sequence(&b, None, 0))).collect();
        assert!(matches!(locks.sequence(&b, None, 0), Sequenced::Crowded));
        let intents = [(Key::from("other"), a.txn.clone().unwrap())];
        assert!(matches!(locks.discover(&b, None, &intents, 0), Sequenced::Crowded));
        // Who waits already stays, wherever.
        let place = waits(locks.sequence(&b, places.pop(), 0));
        assert!(matches!(locks.acquire(b.txn.clone(), None, &exclusive, 0), Sequenced::Crowded));
        drop(place);
        places.push(waits(locks.sequence(&b, None, 0)));
        locks.clear(None);
    }

    #[test]
    fn who_has_ended_gets_no_lock_and_holds_up_nobody() {
        let locks = Arc::new(Locks::default());
        let exclusive = [(Key::from("k"), LockStrength::LockExclusive)];
        let (a, b) = (request("a"), request("b"));
        assert!(matches!(locks.acquire(a.txn.clone(), None, &exclusive, 0), Sequenced::Free(None)));
        let place = waits(locks.sequence(&b, None, 0));
        let b_id = &b.txn.as_ref().unwrap().id;
        locks.release(b_id, None);
        locks.end(b_id, 0);
        locks.release(&a.txn.as_ref().unwrap().id, None);
        // Nobody told its request, which goes on where it waited.
        let Sequenced::Free(place) = locks.sequence(&b, Some(place), 1) else { panic!("free") };
        assert!(matches!(locks.acquire(b.txn.clone(), place, &exclusive, 1), Sequenced::Ended));
        assert!(matches!(locks.acquire(a.txn, None, &exclusive, 1), Sequenced::Free(None)));
        // By then no request of its own can be left.
        locks.clear(None);
        let later = locks.acquire(b.txn, None, &exclusive, 5_000_000_000);
        assert!(matches!(later, Sequenced::Free(None)));
    }

    #[test]
    fn the_next_in_the_queue_is_woken_once() {
        let locks = Arc::new(Locks::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let exclusive = [(Key::from("k"), LockStrength::LockExclusive)];
        let (a, b, c) = (request("a"), request("b"), request("c"));
        assert!(matches!(locks.sequence(&a, None, 0), Sequenced::Free(None)));
        assert!(matches!(locks.acquire(a.txn.clone(), None, &exclusive, 0), Sequenced::Free(None)));
        let second = waits(locks.sequence(&b, None, 0));
        // One that read at the same time as the holder, and was slower.
        let third = waits(locks.acquire(c.txn.clone(), None, &exclusive, 0));
        assert_eq!(second.blocker(&waker).map(|wait| wait.holder), a.txn);
        assert!(third.blocker(&waker).is_some());
        locks.release(&Bytes::from_static(b"a"), None);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(second.blocker(&waker).is_none());
        assert_eq!(third.blocker(&waker).map(|wait| wait.holder), b.txn);
        // It goes away without locking: the third is next.
        let Sequenced::Free(place) = locks.sequence(&b, Some(second), 0) else { panic!("free") };
        drop(place);
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        assert!(third.blocker(&waker).is_none());
    }

    #[test]
    fn a_lost_lease_wakes_all_and_a_new_one_lets_them_go() {
        let locks = Arc::new(Locks::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let (a, b) = (request("a"), request("b"));
        let intents = [(Key::from("k"), a.txn.clone().unwrap())];
        let guard = waits(locks.discover(&b, None, &intents, 0));
        assert!(guard.blocker(&waker).is_some_and(|wait| wait.replicated));
        locks.wake_all();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(guard.blocker(&waker).is_some());
        locks.clear(None);
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        assert!(guard.blocker(&waker).is_none());
    }
}
