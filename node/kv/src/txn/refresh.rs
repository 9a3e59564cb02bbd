//! What a transaction has to find unchanged when it moves to a later timestamp.
//!
//! What it is: the spans it read, each with the timestamp from which on it must be free of other
//! transactions' versions. What it is not: it sends nothing; [`Refresher::validations`] says what
//! to send.
//!
//! ```text
//! read at T ─▶ span (since T) ─ refresh to T2: Validate{spans, since} at T2 ─▶ span (since T2)
//! ```
//!
//! Under SERIALIZABLE all spans read are kept to the end. Under READ COMMITTED those of a statement
//! are kept while it runs, since its reads are one snapshot, and those locked to the end, since
//! what is computed from them is written.
//!
//! Invariants:
//! 1. No span read (or, under READ COMMITTED, locked) is missing; one that is too wide only costs
//!    a retry.
//! 2. The `since` of a span is never above the timestamp at which all of it was last seen.

use bytes::Bytes;
use crdb_keys::{Timestamp, encoding};
use crdb_proto::kv::{Isolation, Span, ValidateRequest};

/// The spans of one transaction; see the page of the module.
#[derive(Debug, Clone)]
pub(crate) struct Refresher {
    isolation: Isolation,
    /// Spans beyond which neighbours are merged.
    max_spans: usize,
    spans: Vec<ReadSpan>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ReadSpan {
    start: Bytes,
    /// Exclusive; empty for the single key `start`.
    end: Bytes,
    since: Timestamp,
    /// Kept to the end of the transaction whatever its isolation.
    locked: bool,
    /// All of it was read, under the uncertainty limit that holds now.
    certain: bool,
}

impl ReadSpan {
    fn covers(&self, other: &Self) -> bool {
        if self.end.is_empty() {
            return other.end.is_empty() && self.start == other.start;
        }
        let within =
            if other.end.is_empty() { other.start < self.end } else { other.end <= self.end };
        self.start <= other.start && within
    }

    /// The end as a key, also of a single key.
    fn exclusive_end(&self) -> Bytes {
        if self.end.is_empty() { encoding::next_key(&self.start).into() } else { self.end.clone() }
    }
}

impl Refresher {
    pub(crate) fn new(isolation: Isolation, max_spans: usize) -> Self {
        Self { isolation, max_spans, spans: Vec::new() }
    }

    /// Notes that a span was read at `since`; an empty end is the single key `start`.
    pub(crate) fn add(&mut self, start: Bytes, end: Bytes, since: Timestamp, locked: bool) {
        let locked = locked || self.isolation == Isolation::Serializable;
        let span = ReadSpan { start, end, since, locked, certain: true };
        // The usual repetition: a loop over one key or one page.
        if let Some(last) = self.spans.last_mut()
            && last.covers(&span)
            && last.since <= since
            && last.certain
        {
            last.locked |= locked;
            return;
        }
        self.spans.push(span);
        if self.spans.len() > self.max_spans {
            self.condense();
        }
    }

    /// Merges neighbours until few spans are left.
    fn condense(&mut self) {
        self.spans.sort_by(|a, b| a.start.cmp(&b.start));
        let mut halved: Vec<ReadSpan> = Vec::with_capacity(self.spans.len() / 2 + 1);
        let mut spans = std::mem::take(&mut self.spans).into_iter();
        while let Some(left) = spans.next() {
            let Some(right) = spans.next() else {
                halved.push(left);
                break;
            };
            halved.push(ReadSpan {
                end: left.exclusive_end().max(right.exclusive_end()),
                since: left.since.min(right.since),
                locked: left.locked || right.locked,
                // What is between them was not read.
                certain: false,
                start: left.start,
            });
        }
        self.spans = halved;
    }

    /// Whether the transaction may move to any timestamp.
    pub(crate) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The latest timestamp at which all is known to hold; `None` if there is nothing.
    pub(crate) fn held_at(&self) -> Option<Timestamp> {
        self.spans.iter().map(|span| span.since).min()
    }

    /// A statement begins: what the one before it read, without locking it, may change.
    pub(crate) fn begin_statement(&mut self) {
        self.spans.retain(|span| span.locked);
        for span in &mut self.spans {
            span.certain = false;
        }
    }

    /// Whether all of a span was read before, so that a version above the read timestamp is of a
    /// transaction that ended after this one had begun; an empty end is the single key `start`.
    pub(crate) fn has_read(&self, start: &Bytes, end: &Bytes) -> bool {
        let span = ReadSpan {
            start: start.clone(),
            end: end.clone(),
            since: Timestamp::ZERO,
            locked: false,
            certain: true,
        };
        self.spans.iter().rev().any(|read| read.certain && read.covers(&span))
    }

    /// The validations that prove what was read up to `timestamp`; one for each `since` below it.
    pub(crate) fn validations(&self, timestamp: Timestamp) -> Vec<ValidateRequest> {
        let mut validations: Vec<ValidateRequest> = Vec::new();
        for span in self.spans.iter().filter(|span| span.since < timestamp) {
            let since = Some(span.since.into());
            let wire = Span { start: span.start.clone(), end: span.end.clone() };
            match validations.iter_mut().find(|validate| validate.since == since) {
                Some(validate) => validate.spans.push(wire),
                None => validations.push(ValidateRequest { spans: vec![wire], since }),
            }
        }
        validations
    }

    /// The validations of [`Refresher::validations`] up to `timestamp` succeeded.
    pub(crate) fn refreshed(&mut self, timestamp: Timestamp) {
        for span in &mut self.spans {
            span.since = span.since.max(timestamp);
        }
    }
}
