//! Intents and transaction records: what a transaction leaves behind until it has ended.
//!
//! What it is: the layout of [`Family::Lock`] and its reads and writes. What it is not: it does
//! not know what a transaction may do; [`crate::evaluate`] does. Locks that are not replicated
//! never come here.
//!
//! An engine key is the escaped user key, one byte for what is kept there, and what belongs to it:
//!
//! ```text
//! escape(key)    01            the intent at key             kv::Intent
//! escape(anchor) 02 <txn id>   a record anchored at the key  kv::TxnRecord
//! ```
//!
//! So the locks of a range lie within [`mvcc::engine_span`] of its keys,
//! as the versions do, and split with it.
//!
//! Invariants:
//! 1. A key has at most one intent.
//! 2. Corrupt bytes are an error that names the key; they are never skipped.

use std::ops::ControlFlow;

use bytes::Bytes;
use crdb_keys::{Key, Span, Timestamp, encoding, pretty::Pretty};
use crdb_proto::kv::{Intent, TxnRecord};
use prost::Message as _;

use crate::{
    Error, Family, Reader, WriteBatch,
    mvcc::{self, Direction},
};

const INTENT: u8 = 0x01;
const RECORD: u8 = 0x02;
const WHAT: &str = "a lock of a transaction";

/// What an engine key of [`Family::Lock`] stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockKey {
    /// The intent at a user key.
    Intent(Key),
    /// The record of a transaction.
    Record {
        /// The transaction's anchor.
        anchor: Key,
        /// Its id.
        txn_id: Bytes,
    },
}

/// The engine key of the intent at `key`.
#[must_use]
pub fn intent_key(key: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(key.len() + 4);
    encoding::escape(&mut out, key);
    out.push(INTENT);
    out.into()
}

/// The engine key of the record of the transaction `txn_id`.
#[must_use]
pub fn record_key(anchor: &[u8], txn_id: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(anchor.len() + 4 + txn_id.len());
    encoding::escape(&mut out, anchor);
    out.push(RECORD);
    out.extend_from_slice(txn_id);
    out.into()
}

/// Takes an engine key apart.
pub fn decode_key(engine_key: &[u8]) -> Result<LockKey, Error> {
    let mut rest = engine_key;
    let key =
        encoding::unescape(&mut rest).map_err(|error| Error::corrupt(WHAT, error.to_string()))?;
    match rest {
        [INTENT] => Ok(LockKey::Intent(key.into())),
        [RECORD, txn_id @ ..] => {
            Ok(LockKey::Record { anchor: key.into(), txn_id: Bytes::copy_from_slice(txn_id) })
        }
        _ => Err(Error::corrupt(WHAT, format!("the key {} has no known kind", Pretty(&key)))),
    }
}

/// The timestamp of an intent: that of the version it becomes unless it is committed later.
#[must_use]
pub fn timestamp(intent: &Intent) -> Timestamp {
    let txn = intent.txn.as_ref();
    txn.and_then(|txn| txn.write_timestamp).map_or(Timestamp::ZERO, Into::into)
}

/// The intent at `key`.
pub fn get_intent(reader: &impl Reader, key: &[u8]) -> Result<Option<Intent>, Error> {
    let Some(bytes) = reader.get(Family::Lock, &intent_key(key))? else { return Ok(None) };
    decode_intent(key, bytes).map(Some)
}

/// The record of the transaction `txn_id`.
pub fn get_record(
    reader: &impl Reader,
    anchor: &[u8],
    txn_id: &[u8],
) -> Result<Option<TxnRecord>, Error> {
    let Some(bytes) = reader.get(Family::Lock, &record_key(anchor, txn_id))? else {
        return Ok(None);
    };
    decode_record(anchor, bytes).map(Some)
}

fn decode_intent(key: &[u8], bytes: impl bytes::Buf) -> Result<Intent, Error> {
    let detail = |error: &dyn std::fmt::Display| {
        Error::corrupt(WHAT, format!("the intent at {}: {error}", Pretty(key)))
    };
    let intent = Intent::decode(bytes).map_err(|error| detail(&error))?;
    if intent.txn.is_none() {
        return Err(detail(&"it has no transaction"));
    }
    Ok(intent)
}

fn decode_record(anchor: &[u8], bytes: impl bytes::Buf) -> Result<TxnRecord, Error> {
    TxnRecord::decode(bytes).map_err(|error| {
        Error::corrupt(WHAT, format!("a record anchored at {}: {error}", Pretty(anchor)))
    })
}

/// One entry of the family.
#[derive(Clone, Debug, PartialEq)]
pub enum Lock {
    /// An intent.
    Intent(Key, Intent),
    /// A record.
    Record {
        /// The transaction's anchor.
        anchor: Key,
        /// Its id.
        txn_id: Bytes,
        /// The record.
        record: TxnRecord,
    },
}

/// Called with each entry of a scan; `Break` ends it.
pub type LockVisitor<'a> = dyn FnMut(Lock) -> ControlFlow<()> + 'a;

/// Visits the intents and records at the keys of `span`, in order.
pub fn scan(
    reader: &impl Reader,
    span: &Span,
    direction: Direction,
    visit: &mut LockVisitor<'_>,
) -> Result<(), Error> {
    let (start, end) = mvcc::engine_span(span);
    let mut entry = |engine_key: &[u8], value: &[u8]| {
        Ok(visit(match decode_key(engine_key)? {
            LockKey::Intent(key) => {
                let intent = decode_intent(&key, value)?;
                Lock::Intent(key, intent)
            }
            LockKey::Record { anchor, txn_id } => {
                let record = decode_record(&anchor, value)?;
                Lock::Record { anchor, txn_id, record }
            }
        }))
    };
    match direction {
        Direction::Forward => reader.scan(Family::Lock, &start, &end, &mut entry),
        Direction::Reverse => reader.scan_reverse(Family::Lock, &start, &end, &mut entry),
    }
}

/// Visits the intents at the keys of `span`, in order. A single key is looked up.
pub fn scan_intents(
    reader: &impl Reader,
    span: &Span,
    direction: Direction,
    visit: &mut dyn FnMut(Key, Intent) -> ControlFlow<()>,
) -> Result<(), Error> {
    if span.is_point() {
        return match get_intent(reader, &span.start)?.map(|it| visit(span.start.clone(), it)) {
            None | Some(ControlFlow::Continue(()) | ControlFlow::Break(())) => Ok(()),
        };
    }
    scan(reader, span, direction, &mut |lock| match lock {
        Lock::Intent(key, intent) => visit(key, intent),
        Lock::Record { .. } => ControlFlow::Continue(()),
    })
}

/// Sets the intent at `key`.
pub fn put_intent(batch: &mut WriteBatch, key: &[u8], intent: &Intent) {
    batch.put(Family::Lock, intent_key(key), intent.encode_to_vec());
}

/// Removes the intent at `key`.
pub fn delete_intent(batch: &mut WriteBatch, key: &[u8]) {
    batch.delete(Family::Lock, intent_key(key));
}

/// Sets the record of the transaction `txn_id`.
pub fn put_record(batch: &mut WriteBatch, anchor: &[u8], txn_id: &[u8], record: &TxnRecord) {
    batch.put(Family::Lock, record_key(anchor, txn_id), record.encode_to_vec());
}

/// Removes the record of the transaction `txn_id`.
pub fn delete_record(batch: &mut WriteBatch, anchor: &[u8], txn_id: &[u8]) {
    batch.delete(Family::Lock, record_key(anchor, txn_id));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_round_trip_and_lie_within_their_span(
            key in prop::collection::vec(any::<u8>(), 0..20),
            id in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let intent = intent_key(&key);
            let record = record_key(&key, &id);
            prop_assert_eq!(decode_key(&intent).unwrap(), LockKey::Intent(key.clone().into()));
            let expected = LockKey::Record { anchor: key.clone().into(), txn_id: id.into() };
            prop_assert_eq!(decode_key(&record).unwrap(), expected);
            let (start, end) = mvcc::engine_span(&Span::point(key));
            for engine_key in [intent, record] {
                prop_assert!(start <= engine_key && engine_key < end);
            }
        }

        #[test]
        fn garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..40)) {
            drop(decode_key(&garbage));
            drop(decode_intent(b"k", garbage.as_slice()));
            drop(decode_record(b"k", garbage.as_slice()));
        }
    }

    #[test]
    fn corrupt_locks_are_named() {
        let engine = crate::MemoryEngine::new();
        let mut batch = WriteBatch::new();
        batch.put(Family::Lock, intent_key(b"a"), "\u{7f}");
        batch.put(Family::Lock, intent_key(b"b"), "");
        crate::Engine::write(&engine, &batch, crate::Sync::Yes).unwrap();
        let error = get_intent(&engine, b"a").unwrap_err().to_string();
        assert!(error.contains("the intent at /a: "), "{error}");
        let error = get_intent(&engine, b"b").unwrap_err().to_string();
        assert!(error.ends_with("the intent at /b: it has no transaction"), "{error}");
        assert!(decode_key(&record_key(b"a", b"")[..3]).is_err());
    }
}
