//! The latches of one range, shared by those who evaluate and those who apply.
//!
//! A guard is a place in the queue; who holds it asks whether it is granted and leaves a waker
//! otherwise. Threads, tasks and the simulator wait each in their own way.
//!
//! Invariants:
//! 1. A guard that is dropped gives its place up, granted or not, and wakes those who follow.
//! 2. Nobody is woken while the table is locked.

use std::{collections::BTreeMap, sync::Arc, task::Waker};

use crdb_keys::{Access, Key, Span};
use parking_lot::Mutex;

use crate::{LatchTable, Limits, Ticket};

/// The latches of one range.
#[derive(Debug)]
pub struct Latches {
    /// See [`Limits::latch_waits_max`].
    waits_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    table: LatchTable,
    wakers: BTreeMap<Ticket, Waker>,
}

impl Default for Latches {
    fn default() -> Self {
        Self::new(&Limits::default())
    }
}

impl Latches {
    /// Latches of which none is held.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self { waits_max: limits.latch_waits_max, state: Mutex::default() }
    }

    /// How many others may stand before a request of [`Self::try_acquire`].
    #[must_use]
    pub fn waits_max(&self) -> usize {
        self.waits_max
    }

    /// Queues up for `spans`. The guard tells when they are granted.
    #[must_use]
    pub fn acquire(self: &Arc<Self>, spans: &[(Span, Access)]) -> LatchGuard {
        let ticket = self.state.lock().table.acquire(spans.to_vec());
        LatchGuard { latches: Arc::clone(self), ticket }
    }

    /// Like [`Self::acquire`]; `None` if more than [`Self::waits_max`] others stand before it.
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>, spans: &[(Span, Access)]) -> Option<LatchGuard> {
        let ticket = self.state.lock().table.acquire_within(spans.to_vec(), self.waits_max)?;
        Some(LatchGuard { latches: Arc::clone(self), ticket })
    }

    /// Queues up for every key, alone: nobody who comes later passes, whatever they ask for.
    #[must_use]
    pub fn acquire_all(self: &Arc<Self>) -> LatchGuard {
        // Beyond every key: keys end below ff.
        let everything = Span::new(Key::new(), Key::from_static(&[0xff; 8]));
        self.acquire(&[(everything, Access::Write)])
    }
}

/// A hold on, or a place in the queue for, some spans; given back when dropped.
#[derive(Debug)]
pub struct LatchGuard {
    latches: Arc<Latches>,
    ticket: Ticket,
}

impl LatchGuard {
    /// Whether the spans are held; if not, `waker` is woken when they are.
    #[must_use]
    pub fn is_granted(&self, waker: &Waker) -> bool {
        let state = &mut *self.latches.state.lock();
        let granted = state.table.is_granted(self.ticket);
        if !granted {
            state.wakers.insert(self.ticket, waker.clone());
        }
        granted
    }
}

impl Drop for LatchGuard {
    fn drop(&mut self) {
        let mut woken = Vec::new();
        {
            let state = &mut *self.latches.state.lock();
            state.wakers.remove(&self.ticket);
            for granted in state.table.release(self.ticket) {
                woken.extend(state.wakers.remove(&granted));
            }
        }
        woken.into_iter().for_each(Waker::wake);
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

    fn write(key: &'static [u8]) -> [(Span, Access); 1] {
        [(Span::point(key), Access::Write)]
    }

    #[test]
    fn a_release_wakes_the_next_once() {
        let latches = Arc::new(Latches::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let first = latches.acquire(&write(b"a"));
        let second = latches.acquire(&write(b"a"));
        let third = latches.acquire(&write(b"a"));
        assert!(first.is_granted(&waker));
        assert!(!second.is_granted(&waker) && !third.is_granted(&waker));
        drop(first);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(second.is_granted(&waker) && !third.is_granted(&waker));
        // One that gives up while it waits does not hold up the others.
        let fourth = latches.acquire(&write(b"a"));
        drop(third);
        assert!(!fourth.is_granted(&waker));
        drop(second);
        assert!(fourth.is_granted(&waker));
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn the_whole_range_waits_for_all_and_holds_up_all() {
        let latches = Arc::new(Latches::default());
        let waker = Waker::from(Arc::new(Count::default()));
        let reader = latches.acquire(&[(Span::new(&b"a"[..], &b"z"[..]), Access::Read)]);
        let all = latches.acquire_all();
        let later = latches.acquire(&[(Span::point(&b"\x05\xff\xff"[..]), Access::Read)]);
        assert!(reader.is_granted(&waker));
        assert!(!all.is_granted(&waker) && !later.is_granted(&waker));
        drop(reader);
        assert!(all.is_granted(&waker) && !later.is_granted(&waker));
        drop(all);
        assert!(later.is_granted(&waker));
    }

    #[test]
    fn threads_exclude_each_other() {
        let latches = Arc::new(Latches::default());
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let thread = std::thread::current();
                    struct Unpark(std::thread::Thread);
                    impl Wake for Unpark {
                        fn wake(self: Arc<Self>) {
                            self.0.unpark();
                        }
                    }
                    let waker = Waker::from(Arc::new(Unpark(thread)));
                    for _ in 0..200 {
                        let guard = latches.acquire(&write(b"k"));
                        while !guard.is_granted(&waker) {
                            std::thread::park();
                        }
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
