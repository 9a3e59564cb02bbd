//! The latches of one replica, shared by the threads that evaluate and by the scheduler.

use std::{collections::BTreeMap, sync::Arc, task::Waker};

use crdb_keys::Span;
use crdb_storage::evaluate::Access;
use parking_lot::Mutex;

#[derive(Debug, Default)]
struct State {
    next: u64,
    held: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    spans: Vec<(Span, Access)>,
    granted: bool,
    waker: Option<Waker>,
}

/// The latches of one replica.
#[derive(Debug, Default)]
pub(crate) struct Latches {
    state: Mutex<State>,
}

impl Latches {
    /// Queues up for `spans`. The guard tells when they are granted.
    pub(crate) fn acquire(self: &Arc<Self>, spans: &[(Span, Access)]) -> LatchGuard {
        let mut state = self.state.lock();
        let ticket = state.next;
        state.next += 1;
        let granted = !state.held.values().any(|held| conflicts(&held.spans, spans));
        state.held.insert(ticket, Entry { spans: spans.to_vec(), granted, waker: None });
        LatchGuard { latches: Arc::clone(self), ticket }
    }

    fn is_granted(&self, ticket: u64, waker: &Waker) -> bool {
        let mut state = self.state.lock();
        state.held.get_mut(&ticket).is_none_or(|entry| {
            if !entry.granted {
                entry.waker = Some(waker.clone());
            }
            entry.granted
        })
    }

    fn release(&self, ticket: u64) {
        let mut wake = Vec::new();
        {
            let mut state = self.state.lock();
            state.held.remove(&ticket);
            let waiting: Vec<u64> =
                state.held.iter().filter(|(_, e)| !e.granted).map(|(ticket, _)| *ticket).collect();
            for ticket in waiting {
                let Some(spans) = state.held.get(&ticket).map(|entry| entry.spans.clone()) else {
                    continue;
                };
                let free =
                    !state.held.range(..ticket).any(|(_, older)| conflicts(&older.spans, &spans));
                if free && let Some(entry) = state.held.get_mut(&ticket) {
                    entry.granted = true;
                    wake.extend(entry.waker.take());
                }
            }
        }
        wake.into_iter().for_each(Waker::wake);
    }
}

fn conflicts(a: &[(Span, Access)], b: &[(Span, Access)]) -> bool {
    a.iter().any(|(span, access)| {
        b.iter().any(|(other, with)| {
            (*access == Access::Write || *with == Access::Write) && span.overlaps(other)
        })
    })
}

/// A hold on, or a place in the queue for, some spans; given back when dropped.
#[derive(Debug)]
pub(crate) struct LatchGuard {
    latches: Arc<Latches>,
    ticket: u64,
}

impl LatchGuard {
    /// Whether the spans are held; if not, `waker` is woken when they are.
    pub(crate) fn is_granted(&self, waker: &Waker) -> bool {
        self.latches.is_granted(self.ticket, waker)
    }
}

impl Drop for LatchGuard {
    fn drop(&mut self) {
        self.latches.release(self.ticket);
    }
}
