//! Since when the transactions of a node that are open may read.
//!
//! Garbage collection keeps what they can see. A transaction counts from its begin, or from the
//! time in the past it reads at; its later snapshots are not below.

use std::{collections::BTreeMap, sync::Arc};

use crdb_keys::Timestamp;
use parking_lot::Mutex;

/// The transactions that are open, by the lowest timestamp they may read at.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenReads {
    from: Arc<Mutex<BTreeMap<Timestamp, u32>>>,
}

impl OpenReads {
    /// Counts a transaction until the guard is dropped.
    pub(super) fn open(&self, from: Timestamp) -> OpenRead {
        *self.from.lock().entry(from).or_default() += 1;
        OpenRead { all: self.clone(), from }
    }

    /// The lowest timestamp that an open transaction may read at.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.from.lock().first_key_value().map(|(from, _)| *from)
    }
}

/// An open transaction.
#[derive(Debug)]
pub(super) struct OpenRead {
    all: OpenReads,
    from: Timestamp,
}

impl Drop for OpenRead {
    fn drop(&mut self) {
        let from = &mut *self.all.from.lock();
        if let Some(count) = from.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                from.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_counts_until_the_last_of_it_is_gone() {
        let open = OpenReads::default();
        assert_eq!(open.oldest(), None);
        let at = |seconds| Timestamp::new(seconds, 0);
        let (a, b, c) = (open.open(at(5)), open.open(at(3)), open.open(at(3)));
        assert_eq!(open.oldest(), Some(at(3)));
        drop(b);
        assert_eq!(open.oldest(), Some(at(3)));
        drop(c);
        assert_eq!(open.oldest(), Some(at(5)));
        drop(a);
        assert_eq!(open.oldest(), None);
    }
}
