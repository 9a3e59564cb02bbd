//! Keys as byte strings and half-open spans of them.

use bytes::Bytes;

/// A key of the ordered key space. Cheap to clone.
pub type Key = Bytes;

/// The keys from `start` (inclusive) to `end` (exclusive); an empty `end` means the single key
/// `start`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// First key.
    pub start: Key,
    /// First key no longer contained, or empty for a point.
    pub end: Key,
}

impl Span {
    /// The span from `start` up to, not including, `end`.
    pub fn new(start: impl Into<Key>, end: impl Into<Key>) -> Self {
        Self { start: start.into(), end: end.into() }
    }

    /// The span that holds `key` alone.
    pub fn point(key: impl Into<Key>) -> Self {
        Self { start: key.into(), end: Key::new() }
    }

    /// Whether this span is a single key.
    #[must_use]
    pub fn is_point(&self) -> bool {
        self.end.is_empty()
    }

    /// Whether `key` lies in the span.
    #[must_use]
    pub fn contains_key(&self, key: &[u8]) -> bool {
        if self.is_point() { *self.start == *key } else { *self.start <= *key && *key < *self.end }
    }

    /// Whether the two spans share a key.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self.is_point(), other.is_point()) {
            (true, _) => other.contains_key(&self.start),
            (_, true) => self.contains_key(&other.start),
            _ => self.start < other.end && other.start < self.end,
        }
    }
}

/// How a request uses a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Reads it.
    Read,
    /// Reads and writes it.
    Write,
}

impl Access {
    /// Whether two uses of one key must not happen at the same time.
    #[must_use]
    pub fn conflicts(self, other: Self) -> bool {
        self == Self::Write || other == Self::Write
    }
}
