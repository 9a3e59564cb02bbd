//! An engine in memory, for tests and the simulator.
//!
//! It keeps two states: the current one and the one that would be found after a crash, with the
//! batches between them. [`MemoryEngine::crash`] drops those batches, or keeps a prefix, as a log
//! with checksummed records does.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::{Bound, ControlFlow},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{Engine, Error, Family, Reader, Sync, WriteBatch, batch::Op, engine::Visitor};

type Map = BTreeMap<Bytes, Bytes>;

/// One map a family; a snapshot shares it until the next write copies it.
#[derive(Clone, Debug, Default)]
struct Maps([Arc<Map>; Family::ALL.len()]);

/// A store in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryEngine {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    current: Maps,
    durable: Maps,
    /// Applied to `current`, not yet to `durable`.
    unsynced: VecDeque<WriteBatch>,
    poisoned: Option<String>,
    fail_next_write: Option<String>,
}

/// A frozen state of a [`MemoryEngine`].
#[derive(Clone, Debug)]
pub struct MemorySnapshot(Maps);

impl MemoryEngine {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many batches a crash may lose.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.state.lock().unsynced.len()
    }

    /// Loses the writes since the last sync, but for the first `keep` batches, as a crash of the
    /// machine does. A failed disk works again.
    pub fn crash(&self, keep: usize) {
        let state = &mut *self.state.lock();
        state.unsynced.truncate(keep);
        state.sync();
        state.current = state.durable.deep_clone();
        state.poisoned = None;
        state.fail_next_write = None;
    }

    /// Makes the next write fail with `message`, as a full or broken disk does.
    pub fn fail_next_write(&self, message: impl Into<String>) {
        self.state.lock().fail_next_write = Some(message.into());
    }
}

impl State {
    fn sync(&mut self) {
        for batch in self.unsynced.drain(..) {
            self.durable.apply(&batch);
        }
    }
}

impl Engine for MemoryEngine {
    type Snapshot = MemorySnapshot;

    fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(self.state.lock().current.clone())
    }

    fn write(&self, batch: &WriteBatch, sync: Sync) -> Result<(), Error> {
        let state = &mut *self.state.lock();
        if let Some(message) = state.fail_next_write.take() {
            state.poisoned.get_or_insert(message);
        }
        if let Some(message) = &state.poisoned {
            return Err(Error::Poisoned { message: message.clone() });
        }
        state.current.apply(batch);
        state.unsynced.push_back(batch.clone());
        if sync == Sync::Yes {
            state.sync();
        }
        Ok(())
    }

    fn approximate_size(&self, family: Family, start: &[u8], end: &[u8]) -> Result<u64, Error> {
        let snapshot = self.snapshot();
        Ok(snapshot.0.range(family, start, end).map(|(k, v)| (k.len() + v.len()) as u64).sum())
    }

    fn flush(&self) -> Result<(), Error> {
        self.write(&WriteBatch::new(), Sync::Yes)
    }
}

impl Reader for MemoryEngine {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.state.lock().current.map(family).get(key).cloned())
    }

    fn scan(
        &self,
        family: Family,
        start: &[u8],
        end: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), Error> {
        self.snapshot().scan(family, start, end, visit)
    }

    fn scan_reverse(
        &self,
        family: Family,
        start: &[u8],
        end: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), Error> {
        self.snapshot().scan_reverse(family, start, end, visit)
    }

    fn first_version(&self, start: &[u8], end: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        Ok(self.state.lock().current.first_version(start, end))
    }
}

impl Reader for MemorySnapshot {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.0.map(family).get(key).cloned())
    }

    fn scan(
        &self,
        family: Family,
        start: &[u8],
        end: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), Error> {
        visit_all(self.0.range(family, start, end), visit)
    }

    fn scan_reverse(
        &self,
        family: Family,
        start: &[u8],
        end: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), Error> {
        visit_all(self.0.range(family, start, end).rev(), visit)
    }

    fn first_version(&self, start: &[u8], end: &[u8]) -> Result<Option<(Bytes, Bytes)>, Error> {
        Ok(self.0.first_version(start, end))
    }
}

impl Maps {
    fn map(&self, family: Family) -> &Map {
        let [raft, state, lock, local] = &self.0;
        match family {
            Family::Raft => raft,
            Family::State => state,
            Family::Lock => lock,
            Family::Local => local,
        }
    }

    fn map_mut(&mut self, family: Family) -> &mut Map {
        let [raft, state, lock, local] = &mut self.0;
        Arc::make_mut(match family {
            Family::Raft => raft,
            Family::State => state,
            Family::Lock => lock,
            Family::Local => local,
        })
    }

    fn range(
        &self,
        family: Family,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&Bytes, &Bytes)> {
        // A reversed span is empty; the map would panic.
        let end = end.max(start);
        self.map(family).range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)))
    }

    fn first_version(&self, start: &[u8], end: &[u8]) -> Option<(Bytes, Bytes)> {
        let (key, value) = self.range(Family::State, start, end).next()?;
        Some((key.clone(), value.clone()))
    }

    fn apply(&mut self, batch: &WriteBatch) {
        for op in batch.ops() {
            match op {
                Op::Put { family, key, value } => {
                    self.map_mut(*family).insert(key.clone(), value.clone());
                }
                Op::Delete { family, key } => {
                    self.map_mut(*family).remove(key);
                }
                Op::DeleteRange { family, start, end } => {
                    let doomed: Vec<Bytes> =
                        self.range(*family, start, end).map(|(key, _)| key.clone()).collect();
                    let map = self.map_mut(*family);
                    for key in doomed {
                        map.remove(&key);
                    }
                }
            }
        }
    }

    /// A copy that shares no map, so that writes to either need not copy one.
    fn deep_clone(&self) -> Self {
        Self(self.0.each_ref().map(|map| Arc::new(Map::clone(map))))
    }
}

fn visit_all<'a>(
    entries: impl Iterator<Item = (&'a Bytes, &'a Bytes)>,
    visit: &mut Visitor<'_>,
) -> Result<(), Error> {
    for (key, value) in entries {
        if let ControlFlow::Break(()) = visit(key, value)? {
            break;
        }
    }
    Ok(())
}
