//! Versions of keys at timestamps.
//!
//! What it is: reading and writing [`Family::State`], where each key has one entry for each time
//! it was written. What it is not: it knows no locks (they live in [`Family::Lock`]) and no
//! transactions, and it never changes or removes a version (collection, in
//! [`evaluate`](crate::evaluate), does).
//!
//! A version's key is the escaped user key, then the inverted wall time (8 bytes) and the inverted
//! logical counter (4 bytes): versions of a key lie together, the newest first, and one seek finds
//! the newest at or below a timestamp. The escape keeps user keys in order whatever follows them.
//! A version's value is one byte, 1 for a value and 0 for a tombstone, and the value.
//!
//! Invariants:
//! 1. A read at `ts` sees, of each key, the newest version at or below `ts`, and nothing of a key
//!    whose such version is a tombstone.
//! 2. Corrupt bytes are an error that names the key; they are never skipped.

use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};
use crdb_keys::{Key, Span, Timestamp, encoding, pretty::Pretty};

use crate::{Error, Family, Reader, WriteBatch};

/// Bytes of a version behind the escaped user key.
pub const VERSION_LEN: usize = 12;

/// Versions of one key that a scan steps over before it seeks past them instead.
const STEPS_BEFORE_SEEK: usize = 16;

const TOMBSTONE: u8 = 0;
const VALUE: u8 = 1;
const WHAT: &str = "a version of a key";

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// When it was written.
    pub timestamp: Timestamp,
    /// The value; `None` for a tombstone.
    pub value: Option<Bytes>,
}

/// The engine key of the version of `key` at `timestamp`.
#[must_use]
pub fn version_key(key: &[u8], timestamp: Timestamp) -> Bytes {
    let mut out = Vec::with_capacity(key.len() + 4 + VERSION_LEN);
    encoding::escape(&mut out, key);
    push_version(&mut out, timestamp);
    out.into()
}

/// User key and timestamp of an engine key.
pub fn decode_version_key(engine_key: &[u8]) -> Result<(Key, Timestamp), Error> {
    let (mut escaped, timestamp) = split_version(engine_key)?;
    let key = encoding::unescape(&mut escaped)
        .map_err(|error| Error::corrupt(WHAT, error.to_string()))?;
    if !escaped.is_empty() {
        return Err(Error::corrupt(WHAT, format!("bytes behind the key {}", Pretty(&key))));
    }
    Ok((key.into(), timestamp))
}

/// The engine keys, in [`Family::State`] and [`Family::Lock`], of all keys from `start` up to, not including, `end`, with an
/// empty `end` for the one key `start`.
#[must_use]
pub fn engine_span(span: &Span) -> (Bytes, Bytes) {
    let bound = |key: &[u8]| {
        let mut out = Vec::with_capacity(key.len() + 4);
        encoding::escape(&mut out, key);
        Bytes::from(out)
    };
    if span.is_point() {
        let start = bound(&span.start);
        let end = encoding::prefix_end(&start).expect("an escaped key ends in 01");
        (start, end.into())
    } else {
        (bound(&span.start), bound(&span.end))
    }
}

/// Adds a version to `batch`; `None` is a tombstone.
pub fn put(batch: &mut WriteBatch, key: &[u8], timestamp: Timestamp, value: Option<&[u8]>) {
    let encoded = match value {
        None => Bytes::from_static(&[TOMBSTONE]),
        Some(value) => {
            let mut out = BytesMut::with_capacity(value.len() + 1);
            out.extend_from_slice(&[VALUE]);
            out.extend_from_slice(value);
            out.freeze()
        }
    };
    batch.put(Family::State, version_key(key, timestamp), encoded);
}

/// The version of `key` that a read at `timestamp` sees, tombstones included.
pub fn get_version(
    reader: &impl Reader,
    key: &[u8],
    timestamp: Timestamp,
) -> Result<Option<Version>, Error> {
    let mut start = Vec::with_capacity(key.len() + 4 + VERSION_LEN);
    encoding::escape(&mut start, key);
    let mut end = start.clone();
    push_version(&mut start, timestamp);
    // No version has timestamp zero, so its key ends the key's versions.
    push_version(&mut end, Timestamp::ZERO);
    let Some((engine_key, value)) = reader.first_version(&start, &end)? else { return Ok(None) };
    let (_, timestamp) = split_version(&engine_key)?;
    let value = if is_value(key, &value)? { Some(value.slice(1..)) } else { None };
    Ok(Some(Version { timestamp, value }))
}

/// The value of `key` that a read at `timestamp` sees.
pub fn get(reader: &impl Reader, key: &[u8], timestamp: Timestamp) -> Result<Option<Bytes>, Error> {
    Ok(get_version(reader, key, timestamp)?.and_then(|version| version.value))
}

/// The newest version of `key`, tombstones included.
pub fn newest(reader: &impl Reader, key: &[u8]) -> Result<Option<Version>, Error> {
    get_version(reader, key, Timestamp::MAX)
}

/// The order of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Forward,
    /// Largest key first.
    Reverse,
}

/// Called with each key and the version a scan sees of it, tombstones included.
pub type VersionVisitor<'a> =
    dyn FnMut(&[u8], Timestamp, Option<&[u8]>) -> Result<ControlFlow<()>, Error> + 'a;

/// Visits, in order, the version of each key of `span` that a read at `timestamp` sees, tombstones
/// included.
pub fn scan(
    reader: &impl Reader,
    span: &Span,
    timestamp: Timestamp,
    direction: Direction,
    visit: &mut VersionVisitor<'_>,
) -> Result<(), Error> {
    let (start, end) = engine_span(span);
    match direction {
        Direction::Forward => scan_forward(reader, start, &end, timestamp, visit),
        Direction::Reverse => scan_reverse(reader, &start, end, timestamp, visit),
    }
}

/// Called with each version of each key: the key, when it was written, and its value.
pub type AllVersionsVisitor<'a> =
    dyn FnMut(&[u8], Timestamp, Option<&[u8]>) -> ControlFlow<()> + 'a;

/// Visits all versions of the keys of `span`, key by key, the newest of each first.
pub fn scan_versions(
    reader: &impl Reader,
    span: &Span,
    visit: &mut AllVersionsVisitor<'_>,
) -> Result<(), Error> {
    let (start, end) = engine_span(span);
    // The escaped key of the last version, and what it stands for.
    let mut current: Option<(Vec<u8>, Vec<u8>)> = None;
    reader.scan(Family::State, &start, &end, &mut |engine_key, value| {
        let (escaped, version) = split_version(engine_key)?;
        let known = current.take().filter(|(last, _)| last == escaped);
        let (_, key) = current.insert(match known {
            Some(known) => known,
            None => (escaped.to_vec(), unescape(escaped)?),
        });
        let value = if is_value(key, value)? { value.get(1..) } else { None };
        Ok(visit(key, version, value))
    })
}

/// Where a scan goes on after the engine's iterator was given up.
enum Next {
    Done,
    SeekTo(Vec<u8>),
}

fn scan_forward(
    reader: &impl Reader,
    mut start: Bytes,
    end: &[u8],
    timestamp: Timestamp,
    visit: &mut VersionVisitor<'_>,
) -> Result<(), Error> {
    loop {
        let mut next = Next::Done;
        // The escaped key whose version was visited, and how many of its versions were seen.
        let mut current: Vec<u8> = Vec::new();
        let mut visited = false;
        let mut steps = 0;
        reader.scan(Family::State, &start, end, &mut |engine_key, value| {
            let (escaped, version) = split_version(engine_key)?;
            if escaped != current {
                current.clear();
                current.extend_from_slice(escaped);
                visited = false;
                steps = 0;
            }
            if !visited && version <= timestamp {
                visited = true;
                return visit_one(escaped, version, value, visit);
            }
            steps += 1;
            if steps < STEPS_BEFORE_SEEK {
                return Ok(ControlFlow::Continue(()));
            }
            // Past the key's last version, or to the first that may be seen.
            let to = if visited { Timestamp::ZERO } else { timestamp };
            let mut seek = escaped.to_vec();
            push_version(&mut seek, to);
            next = Next::SeekTo(seek);
            Ok(ControlFlow::Break(()))
        })?;
        match next {
            Next::Done => return Ok(()),
            Next::SeekTo(seek) => start = seek.into(),
        }
    }
}

fn scan_reverse(
    reader: &impl Reader,
    start: &[u8],
    mut end: Bytes,
    timestamp: Timestamp,
    visit: &mut VersionVisitor<'_>,
) -> Result<(), Error> {
    loop {
        let mut next = Next::Done;
        // Versions come oldest first: the newest visible one so far waits until its key ends.
        let mut current: Vec<u8> = Vec::new();
        let mut seen: Option<(Timestamp, Vec<u8>)> = None;
        let mut steps = 0;
        reader.scan_reverse(Family::State, start, &end, &mut |engine_key, value| {
            let (escaped, version) = split_version(engine_key)?;
            if escaped != current {
                if let Some((version, value)) = seen.take()
                    && visit_one(&current, version, &value, visit)?.is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
                current.clear();
                current.extend_from_slice(escaped);
                steps = 0;
            }
            if version <= timestamp {
                let (newest, bytes) = seen.get_or_insert_default();
                *newest = version;
                bytes.clear();
                bytes.extend_from_slice(value);
            }
            steps += 1;
            if steps < STEPS_BEFORE_SEEK {
                return Ok(ControlFlow::Continue(()));
            }
            // The key has many versions: find the visible one from the front.
            seen = None;
            next = Next::SeekTo(escaped.to_vec());
            Ok(ControlFlow::Break(()))
        })?;
        match next {
            Next::Done => {
                if let Some((version, value)) = seen {
                    // The last key: whether the visitor wants another one is all the same.
                    visit_one(&current, version, &value, visit).map(drop)?;
                }
                return Ok(());
            }
            Next::SeekTo(escaped) => {
                let mut first = escaped.clone();
                push_version(&mut first, timestamp);
                let mut last = escaped.clone();
                push_version(&mut last, Timestamp::ZERO);
                if let Some((engine_key, value)) = reader.first_version(&first, &last)? {
                    let (escaped, version) = split_version(&engine_key)?;
                    if visit_one(escaped, version, &value, visit)?.is_break() {
                        return Ok(());
                    }
                }
                end = escaped.into();
            }
        }
    }
}

fn visit_one(
    escaped: &[u8],
    version: Timestamp,
    value: &[u8],
    visit: &mut VersionVisitor<'_>,
) -> Result<ControlFlow<()>, Error> {
    let key = unescape(escaped)?;
    let value = if is_value(&key, value)? { value.get(1..) } else { None };
    visit(&key, version, value)
}

fn unescape(escaped: &[u8]) -> Result<Vec<u8>, Error> {
    let mut rest = escaped;
    encoding::unescape(&mut rest).map_err(|error| Error::corrupt(WHAT, error.to_string()))
}

fn push_version(out: &mut Vec<u8>, timestamp: Timestamp) {
    out.extend_from_slice(&(!timestamp.wall_nanos).to_be_bytes());
    out.extend_from_slice(&(!timestamp.logical).to_be_bytes());
}

fn split_version(engine_key: &[u8]) -> Result<(&[u8], Timestamp), Error> {
    let short = || Error::corrupt(WHAT, format!("a key of {} bytes", engine_key.len()));
    let (rest, logical) = engine_key.split_last_chunk::<4>().ok_or_else(short)?;
    let (escaped, wall) = rest.split_last_chunk::<8>().ok_or_else(short)?;
    let timestamp = Timestamp::new(!u64::from_be_bytes(*wall), !u32::from_be_bytes(*logical));
    Ok((escaped, timestamp))
}

fn is_value(key: &[u8], value: &[u8]) -> Result<bool, Error> {
    match value.split_first() {
        Some((&VALUE, _)) => Ok(true),
        Some((&TOMBSTONE, [])) => Ok(false),
        _ => Err(Error::corrupt(WHAT, format!("the value of {} has no known form", Pretty(key)))),
    }
}
