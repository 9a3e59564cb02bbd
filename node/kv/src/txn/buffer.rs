//! The writes of a transaction that have not been sent yet.
//!
//! What it is: an ordered map from key to what the transaction wrote there, laid over what it
//! reads. What it is not: it sends nothing, and knows nothing of other transactions.
//!
//! ```text
//! put, insert, delete ─▶ key: [(sequence, value), ...] ─▶ take: requests in key order
//!                               │         ▲
//!                     get, scan: newest   └ rollback_to drops what is above a sequence
//! ```
//!
//! Rules of a key with several writes:
//!
//! | before | then | sent |
//! |---|---|---|
//! | nothing | insert | put if absent |
//! | insert | put | put if absent, of the later value |
//! | insert | delete | put if absent, delete: the key must have been absent all the same |
//! | put | insert | refused: the key exists |
//! | delete | insert | put |
//!
//! Invariants:
//! 1. A read of the transaction sees its own newest write to each key.
//! 2. Going back to a savepoint leaves exactly the writes made before it.
//! 3. Whether a key must be absent is decided by the first write to it and by nothing later.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use crdb_proto::kv::{
    ConditionalPutRequest, DeleteRequest, KeyValue, PutRequest, Request, ScanRequest, ScanResponse,
    Span, request,
};

use crate::Limits;

/// Bytes each write counts beside its key and value.
const OVERHEAD: usize = 32;

/// Writes by key; see the page of the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteBuffer {
    entries: BTreeMap<Bytes, Entry>,
    /// Bytes of keys and values held.
    bytes: usize,
    /// Sequences of the savepoints, ascending, and how many are there: what is not above one is
    /// kept for it.
    kept: Vec<(u32, u32)>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// The first write to the key was an insert.
    absent: bool,
    /// Oldest first, never empty; `None` is a deletion.
    writes: Vec<(u32, Option<Bytes>)>,
}

impl Entry {
    fn newest(&self) -> Option<&Bytes> {
        self.writes.last().and_then(|(_, value)| value.as_ref())
    }
}

fn size(key: &Bytes, value: Option<&Bytes>) -> usize {
    key.len() + value.map_or(0, Bytes::len) + OVERHEAD
}

impl WriteBuffer {
    /// Whether nothing is buffered.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes held, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of keys written.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The first key written.
    pub(crate) fn first_key(&self) -> Option<&Bytes> {
        self.entries.keys().next()
    }

    /// Writes a value, or deletes the key.
    pub(crate) fn write(&mut self, key: Bytes, value: Option<Bytes>, sequence: u32) {
        self.push(key, value, sequence, false);
    }

    /// Writes a value to a key that must not exist; returns the value that the transaction itself
    /// wrote there, if so.
    pub(crate) fn insert(&mut self, key: Bytes, value: Bytes, sequence: u32) -> Result<(), Bytes> {
        if let Some(exists) = self.entries.get(&key).and_then(Entry::newest) {
            return Err(exists.clone());
        }
        self.push(key, Some(value), sequence, true);
        Ok(())
    }

    fn push(&mut self, key: Bytes, value: Option<Bytes>, sequence: u32, insert: bool) {
        self.bytes += size(&key, value.as_ref());
        let Some(entry) = self.entries.get_mut(&key) else {
            let entry = Entry { absent: insert, writes: vec![(sequence, value)] };
            self.entries.insert(key, entry);
            return;
        };
        // No savepoint goes back to what was written since the latest one.
        let kept = self.kept.last().map_or(0, |(latest, _)| *latest);
        while let Some((_, old)) = entry.writes.pop_if(|(at, _)| *at > kept) {
            self.bytes -= size(&key, old.as_ref());
        }
        entry.writes.push((sequence, value));
    }

    /// Keeps what was written so far for one more savepoint at `sequence`, the latest so far.
    pub(crate) fn keep(&mut self, sequence: u32) {
        match self.kept.last_mut() {
            Some((latest, count)) if *latest >= sequence => *count += 1,
            _ => self.kept.push((sequence, 1)),
        }
    }

    /// One savepoint at `sequence` less: what is kept for none is let go as its key is written.
    pub(crate) fn release(&mut self, sequence: u32) {
        let Ok(at) = self.kept.binary_search_by_key(&sequence, |(kept, _)| *kept) else { return };
        if let Some((_, count)) = self.kept.get_mut(at) {
            *count -= 1;
            if *count == 0 {
                self.kept.remove(at);
            }
        }
    }

    /// The sequences of the savepoints, ascending.
    pub(crate) fn savepoints(&self) -> Vec<u32> {
        self.kept.iter().map(|(kept, _)| *kept).collect()
    }

    /// Takes back what was written above `sequence`, where a savepoint is and stays.
    pub(crate) fn rollback_to(&mut self, sequence: u32) {
        let mut bytes = 0;
        self.entries.retain(|key, entry| {
            entry.writes.retain(|(at, _)| *at <= sequence);
            bytes += entry.writes.iter().map(|(_, v)| size(key, v.as_ref())).sum::<usize>();
            !entry.writes.is_empty()
        });
        self.bytes = bytes;
        self.kept.retain(|(kept, _)| *kept <= sequence);
        if self.kept.last().is_none_or(|(latest, _)| *latest < sequence) {
            self.kept.push((sequence, 1));
        }
    }

    /// What the transaction wrote to `key`: `None` if nothing, `Some(None)` if it deleted it.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        self.entries.get(key).map(Entry::newest)
    }

    /// Whether a key of the span was written.
    pub(crate) fn touches(&self, start: &[u8], end: &[u8]) -> bool {
        start < end && self.range(start, end).next().is_some()
    }

    fn range<'a>(
        &'a self,
        start: &'a [u8],
        end: &'a [u8],
    ) -> impl DoubleEndedIterator<Item = (&'a Bytes, &'a Entry)> {
        self.entries.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)))
    }

    /// Lays the buffer over the answer to `scan`, which was sent with `count_only` unset. The
    /// result respects the bounds of `scan`; it may have fewer rows than `max_rows` and a resume
    /// span all the same.
    pub(crate) fn overlay(&self, scan: &ScanRequest, read: ScanResponse) -> ScanResponse {
        // What the answer covers: up to where the read goes on.
        let (mut start, mut end) = (scan.start.clone(), scan.end.clone());
        match &read.resume {
            Some(resume) if scan.reverse => start = resume.end.clone(),
            Some(resume) => end = resume.start.clone(),
            None => {}
        }
        let mut merged = Merged { scan, out: ScanResponse::default(), bytes: 0, cut: None };
        if start < end {
            let own = self.range(&start, &end);
            if scan.reverse {
                merged.merge(read.rows, own.rev(), |a, b| a > b);
            } else {
                merged.merge(read.rows, own, |a, b| a < b);
            }
        } else {
            merged.merge(read.rows, std::iter::empty(), |a, b| a < b);
        }
        let Merged { mut out, cut, .. } = merged;
        out.resume = match cut {
            None => read.resume,
            Some(key) if scan.reverse => Some(Span {
                start: scan.start.clone(),
                end: crdb_keys::encoding::next_key(&key).into(),
            }),
            Some(key) => Some(Span { start: key, end: scan.end.clone() }),
        };
        out
    }

    /// The keys written, in order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.entries.keys()
    }

    /// What is written in the end, in key order.
    pub(crate) fn requests(&self) -> Vec<Request> {
        let mut requests = Vec::with_capacity(self.entries.len());
        for (key, entry) in &self.entries {
            add_write(&mut requests, key, entry.newest(), entry.absent);
        }
        requests
    }

    /// What is written in the end, all with one number, in batches of bounded size.
    pub(crate) fn final_batches(&self, sequence: u32, limits: &Limits) -> Vec<Batch> {
        let mut pieces = Pieces::default();
        for (key, entry) in &self.entries {
            let newest = entry.newest();
            let requests = pieces.room(size(key, newest), limits);
            add_write(requests, key, newest, entry.absent);
        }
        pieces.into_batches(sequence).collect()
    }

    /// All that a savepoint can go back to, oldest first, in batches of bounded size: what was
    /// written between two savepoints has one sequence, that of its latest write.
    pub(crate) fn batches(&self, limits: &Limits) -> Vec<Batch> {
        let mut levels: BTreeMap<usize, (u32, Pieces)> = BTreeMap::new();
        for (key, entry) in &self.entries {
            let mut absent = entry.absent;
            let level_of = |sequence| self.kept.partition_point(|(kept, _)| *kept < sequence);
            for writes in entry.writes.chunk_by(|(a, _), (b, _)| level_of(*a) == level_of(*b)) {
                let Some((newest, _)) = writes.last() else { continue };
                let (latest, pieces) = levels.entry(level_of(*newest)).or_default();
                *latest = (*latest).max(*newest);
                let bytes = writes.iter().map(|(_, value)| size(key, value.as_ref())).sum();
                let requests = pieces.room(bytes, limits);
                for (_, value) in writes {
                    add_write(requests, key, value.as_ref(), std::mem::take(&mut absent));
                }
            }
        }
        levels.into_values().flat_map(|(sequence, pieces)| pieces.into_batches(sequence)).collect()
    }

    /// Forgets what was written up to `sequence`: it is sent, and needs no second time.
    pub(crate) fn sent(&mut self, sequence: u32) {
        let mut bytes = 0;
        self.entries.retain(|key, entry| {
            entry.absent &= entry.writes.first().is_none_or(|(first, _)| *first > sequence);
            entry.writes.retain(|(at, _)| *at > sequence);
            bytes += entry.writes.iter().map(|(_, v)| size(key, v.as_ref())).sum::<usize>();
            !entry.writes.is_empty()
        });
        self.bytes = bytes;
    }

    /// Forgets all writes, not the savepoints.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

/// Writes that are sent together.
#[derive(Debug, PartialEq)]
pub(crate) struct Batch {
    /// Their number.
    pub(crate) sequence: u32,
    /// No other batch has the same number.
    pub(crate) last: bool,
    /// In key order.
    pub(crate) requests: Vec<Request>,
}

/// Batches of one level under construction.
#[derive(Default)]
struct Pieces {
    full: Vec<Vec<Request>>,
    last: Vec<Request>,
    /// Bytes and keys of the last one.
    bytes: usize,
    keys: usize,
}

impl Pieces {
    fn into_batches(self, sequence: u32) -> impl Iterator<Item = Batch> {
        let full = self.full.into_iter();
        let full = full.map(move |requests| Batch { sequence, last: false, requests });
        full.chain([Batch { sequence, last: true, requests: self.last }])
    }

    /// The batch that takes the next key, with writes of `bytes`. What is written to a key is never
    /// cut: the same number twice would be the same write.
    fn room(&mut self, bytes: usize, limits: &Limits) -> &mut Vec<Request> {
        let full = self.bytes + bytes > limits.flush_bytes || self.keys >= limits.flush_keys;
        if full && !self.last.is_empty() {
            self.full.push(std::mem::take(&mut self.last));
            (self.bytes, self.keys) = (0, 0);
        }
        self.bytes += bytes;
        self.keys += 1;
        &mut self.last
    }
}

/// The request or two that write to a key.
fn add_write(requests: &mut Vec<Request>, key: &Bytes, value: Option<&Bytes>, absent: bool) {
    let key = key.clone();
    let mut add = |kind| requests.push(Request { kind: Some(kind) });
    match (value.cloned(), absent) {
        (Some(value), true) => {
            add(request::Kind::ConditionalPut(ConditionalPutRequest { key, value, expected: None }))
        }
        (Some(value), false) => add(request::Kind::Put(PutRequest { key, value })),
        (None, absent) => {
            if absent {
                // Inserted and deleted again: it must have been absent all the same.
                add(request::Kind::ConditionalPut(ConditionalPutRequest {
                    key: key.clone(),
                    value: Bytes::new(),
                    expected: None,
                }));
            }
            add(request::Kind::Delete(DeleteRequest { key }));
        }
    }
}

/// A scan's rows under construction.
struct Merged<'a> {
    scan: &'a ScanRequest,
    out: ScanResponse,
    bytes: u64,
    /// First key beyond the bounds.
    cut: Option<Bytes>,
}

impl Merged<'_> {
    fn merge<'a>(
        &mut self,
        read: Vec<KeyValue>,
        own: impl Iterator<Item = (&'a Bytes, &'a Entry)>,
        comes_first: fn(&[u8], &[u8]) -> bool,
    ) {
        let mut own = own.peekable();
        for row in read {
            while let Some((key, entry)) = own.next_if(|(key, _)| comes_first(key, &row.key)) {
                if !self.own(key, entry) {
                    return;
                }
            }
            let more = match own.next_if(|(key, _)| **key == row.key) {
                Some((key, entry)) => self.own(key, entry),
                None => self.add(row.key, row.value),
            };
            if !more {
                return;
            }
        }
        for (key, entry) in own {
            if !self.own(key, entry) {
                return;
            }
        }
    }

    fn own(&mut self, key: &Bytes, entry: &Entry) -> bool {
        match entry.newest() {
            Some(value) => self.add(key.clone(), value.clone()),
            None => true,
        }
    }

    /// Adds a row; returns false when there is no room for it.
    fn add(&mut self, key: Bytes, value: Bytes) -> bool {
        let full = |limit: u64, have: u64| limit != 0 && have >= limit;
        if full(self.scan.max_rows, self.out.count) || full(self.scan.max_bytes, self.bytes) {
            self.cut = Some(key);
            return false;
        }
        self.out.count += 1;
        if !self.scan.count_only {
            self.bytes += (key.len() + value.len()) as u64;
            self.out.rows.push(KeyValue { key, value });
        }
        true
    }
}
