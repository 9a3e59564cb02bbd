//! Writes of keys: as versions at once, or as intents of a transaction.
//!
//! An intent keeps earlier writes of its transaction to the key, each with its sequence number, for
//! savepoints and for batches that come twice: one with a number that is there is answered as the
//! first time and changes nothing. What no savepoint goes back to is let go, but for the write
//! before the latest: the batch of the latest, if it comes again, has to find what it found.
//! A batch that is older than that and comes again is refused.

use std::ops::ControlFlow;

use bytes::Bytes;
use crdb_keys::{Key, Timestamp, pretty::Pretty};
use crdb_proto::kv::{self, error};
use prost::Message as _;

use super::{
    EvalError, Evaluation, Writes, check_key, check_span, failed, invalid, read::Seen,
    write_timestamp,
};
use crate::{
    Reader, lock,
    mvcc::{self, Direction},
};

/// What a batch has written to a key.
pub(super) struct Written {
    /// `None` is a deletion.
    pub(super) value: Option<Bytes>,
    /// If it becomes an intent: the one that is there, and the timestamp.
    intent: Option<Box<Provisional>>,
}

impl Written {
    /// Whether it goes above an intent that is there.
    pub(super) fn has_intent(&self) -> bool {
        self.intent.as_ref().is_some_and(|intent| intent.own.is_some())
    }
}

struct Provisional {
    own: Option<kv::Intent>,
    timestamp: Timestamp,
}

/// What stands at a key that is about to be written.
struct Base {
    /// The value that conditions look at.
    value: Option<Bytes>,
    /// Timestamp of the newest version; zero if it was looked at before, or need not be.
    newest: Timestamp,
    /// The intent of the batch's own transaction.
    own: Option<kv::Intent>,
}

impl<R: Reader> Evaluation<'_, R> {
    pub(super) fn put(&mut self, put: &kv::PutRequest) -> Result<kv::PutResponse, EvalError> {
        if let Some(base) = self.base(&put.key)? {
            self.write(&put.key, Some(put.value.clone()), base)?;
        }
        Ok(kv::PutResponse {})
    }

    pub(super) fn conditional_put(
        &mut self,
        index: usize,
        put: &kv::ConditionalPutRequest,
    ) -> Result<kv::PutResponse, EvalError> {
        let Some(base) = self.base(&put.key)? else { return Ok(kv::PutResponse {}) };
        if base.value == put.expected {
            self.write(&put.key, Some(put.value.clone()), base)?;
            return Ok(kv::PutResponse {});
        }
        let message = format!("the key {} does not have the expected value", Pretty(&put.key));
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let kind = kv::ConditionFailed { index, key: put.key.clone(), actual: base.value };
        Err(failed(error::Kind::ConditionFailed(kind), message))
    }

    pub(super) fn delete(
        &mut self,
        delete: &kv::DeleteRequest,
    ) -> Result<kv::DeleteResponse, EvalError> {
        let Some(base) = self.base(&delete.key)? else {
            return Ok(kv::DeleteResponse::default());
        };
        let existed = base.value.is_some();
        match self.writes {
            // Nothing to delete: it is enough that nothing is written below from now on.
            Writes::Versions { at, .. } if !existed => {
                self.check_above(&delete.key, base.newest, at);
                self.served(crdb_keys::Span::point(delete.key.clone()), at);
            }
            _ => self.write(&delete.key, None, base)?,
        }
        Ok(kv::DeleteResponse { existed })
    }

    pub(super) fn increment(
        &mut self,
        increment: &kv::IncrementRequest,
    ) -> Result<kv::IncrementResponse, EvalError> {
        let key = &increment.key;
        let Some(base) = self.base(key)? else { return Ok(kv::IncrementResponse::default()) };
        let old = match &base.value {
            None => 0_i64,
            Some(text) => std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| invalid(format!("the key {} is not a counter", Pretty(key))))?,
        };
        let value = old.checked_add(increment.delta).ok_or_else(|| {
            invalid(format!("the counter {} would overflow: {old} is its value", Pretty(key)))
        })?;
        self.write(key, Some(value.to_string().into()), base)?;
        Ok(kv::IncrementResponse { value })
    }

    pub(super) fn delete_range(
        &mut self,
        delete: &kv::DeleteRangeRequest,
    ) -> Result<kv::DeleteRangeResponse, EvalError> {
        let span = check_span(&delete.start, &delete.end)?;
        let Writes::Versions { at, .. } = self.writes else {
            return Err(invalid(
                "a transaction deletes a span only in one phase, not with intents",
            ));
        };
        let mut doomed: Vec<(Key, Timestamp)> = Vec::new();
        let mut foreign = Vec::new();
        let mut own_intent = false;
        let mut resume = None;
        let mut bytes = 0;
        let limits = self.args.limits;
        // Who sets no bound wants all of it at once, or nothing.
        let (limit, limit_bytes) = match delete.max_keys {
            0 => (u64::MAX, usize::MAX),
            keys => (keys, limits.delete_range_bytes),
        };
        let mut visit = |key: &[u8], seen: Seen<'_>| {
            let newest = match seen {
                Seen::Version(_, None) | Seen::Own(None) => return ControlFlow::Continue(()),
                Seen::Version(newest, Some(_)) => newest,
                Seen::Own(Some(_)) | Seen::Foreign(_) => Timestamp::ZERO,
            };
            if doomed.len() as u64 >= limit || bytes >= limit_bytes {
                let start = Bytes::copy_from_slice(key);
                resume = Some(kv::Span { start, end: delete.end.clone() });
                return ControlFlow::Break(());
            }
            let key = Bytes::copy_from_slice(key);
            if let Seen::Foreign(holder) = seen {
                foreign.push((key, holder.clone()));
            } else {
                own_intent |= matches!(seen, Seen::Own(_)) && !self.written.contains_key(&key);
                bytes += key.len();
                doomed.push((key, newest));
            }
            // More than fits is found out by the writes below.
            if bytes > limits.command_bytes || foreign.len() >= limits.intents_met {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        self.merged(&span, Timestamp::MAX, Direction::Forward, &|_| true, &mut visit)?;
        if own_intent {
            return Err(one_phase_with_intents());
        }
        if !foreign.is_empty() {
            self.blocking.extend(foreign);
            return Ok(kv::DeleteRangeResponse::default());
        }
        let deleted = doomed.len() as u64;
        for (key, newest) in doomed {
            self.write(&key, None, Base { value: None, newest, own: None })?;
        }
        let end = resume.as_ref().map_or(span.end, |resume| resume.start.clone());
        self.served(crdb_keys::Span::new(span.start, end), at);
        Ok(kv::DeleteRangeResponse { deleted, resume })
    }

    /// What stands at a key that is about to be written; `None` if another transaction's intent
    /// does, which is remembered.
    fn base(&mut self, key: &Key) -> Result<Option<Base>, EvalError> {
        check_key(key)?;
        if let Some(written) = self.written.get(key) {
            let value = written.value.clone();
            return Ok(Some(Base { value, newest: Timestamp::ZERO, own: None }));
        }
        if let Some(intent) = lock::get_intent(self.reader, key)? {
            if !self.is_own(&intent) {
                self.block(key, intent.txn.unwrap_or_default());
                return Ok(None);
            }
            let Writes::Intents(txn) = self.writes else { return Err(one_phase_with_intents()) };
            if let Some(value) = value_below(&intent, txn.sequence) {
                let value = value.clone();
                return Ok(Some(Base { value, newest: Timestamp::ZERO, own: Some(intent) }));
            }
            let version = mvcc::newest(self.reader, key)?;
            let value = version.and_then(|version| version.value);
            return Ok(Some(Base { value, newest: Timestamp::ZERO, own: Some(intent) }));
        }
        Ok(Some(match mvcc::newest(self.reader, key)? {
            Some(version) => Base { value: version.value, newest: version.timestamp, own: None },
            None => Base { value: None, newest: Timestamp::ZERO, own: None },
        }))
    }

    fn write(&mut self, key: &Key, value: Option<Bytes>, base: Base) -> Result<(), EvalError> {
        // As many bytes as the entry of the batch will have, about.
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len) + mvcc::VERSION_LEN + 8;
        self.bytes += base.own.as_ref().map_or(0, kv::Intent::encoded_len);
        if self.bytes > self.args.limits.command_bytes {
            return Err(too_large(key, self.bytes, self.args.limits.command_bytes));
        }
        if let Some(written) = self.written.get_mut(key) {
            written.value = value;
            return Ok(());
        }
        let intent = match self.writes {
            Writes::Versions { at, .. } => {
                let floor = (self.args.floor)(key);
                self.check_above(key, base.newest.max(floor), at);
                None
            }
            Writes::Intents(txn) => Some(Box::new(self.provisional(key, txn, base)?)),
        };
        self.written.insert(key.clone(), Written { value, intent });
        Ok(())
    }

    /// The timestamp of an intent: that of the transaction, raised as far as it must be.
    fn provisional(
        &mut self,
        key: &Key,
        txn: &kv::TxnMeta,
        base: Base,
    ) -> Result<Provisional, EvalError> {
        if txn.sequence == 0 || txn.anchor.is_empty() {
            return Err(invalid("a transaction that writes has no anchor or no sequence number"));
        }
        let asked = write_timestamp(txn)?;
        let timestamp = match &base.own {
            // A batch that came before: it stays where it is. Had it been raised, a commit that
            // counts on it where it is would lose it.
            Some(own) if sequence(own) >= txn.sequence => lock::timestamp(own),
            own => {
                let floor = (self.args.floor)(key).max(self.args.gc_threshold);
                let own = own.as_ref().map_or(Timestamp::ZERO, lock::timestamp);
                asked.max(own).max(base.newest.max(floor).next())
            }
        };
        self.reaches(timestamp);
        Ok(Provisional { own: base.own, timestamp })
    }

    /// Remembers a version or read at `highest` if a version at `at` is not above it.
    fn check_above(&mut self, key: &Key, highest: Timestamp, at: Timestamp) {
        if highest >= at && self.too_old.as_ref().is_none_or(|(_, newest)| *newest < highest) {
            self.too_old = Some((key.clone(), highest));
        }
    }

    /// Moves what the batch has written to keys into its write batch.
    pub(super) fn flush_written(&mut self) -> Result<(), EvalError> {
        let written = std::mem::take(&mut self.written);
        if let (false, Writes::Versions { at, .. }) = (written.is_empty(), self.writes) {
            self.reaches(at);
        }
        for (key, Written { value, intent }) in written {
            match (self.writes, intent) {
                (Writes::Intents(txn), Some(provisional)) => {
                    if let Some(intent) =
                        next_intent(&key, txn, self.savepoints(), *provisional, value)?
                    {
                        lock::put_intent(&mut self.out.batch, &key, &intent);
                    }
                }
                (Writes::Versions { at, .. }, _) => {
                    mvcc::put(&mut self.out.batch, &key, at, value.as_deref());
                }
                (Writes::Intents(_), None) => {
                    return Err(invalid("a write of a transaction has no timestamp"));
                }
            }
        }
        Ok(())
    }

    /// The sequences that the transaction may go back to, if it says so.
    fn savepoints(&self) -> Option<&[u32]> {
        self.header.savepoints.as_ref().map(|savepoints| savepoints.sequences.as_slice())
    }

    /// Whether this batch changes a key, other than by a write that was there before.
    pub(super) fn writes_anew(&self) -> bool {
        self.written.values().any(|written| match (&written.intent, self.writes) {
            (Some(provisional), Writes::Intents(txn)) => {
                provisional.own.as_ref().is_none_or(|own| sequence(own) < txn.sequence)
            }
            _ => true,
        })
    }
}

/// The batch writes more than one command carries; `key` is the one that is too much.
pub(super) fn too_large(key: &Key, bytes: usize, limit: usize) -> EvalError {
    let kind = kv::TooLarge { key: key.clone(), bytes: bytes as u64, limit: limit as u64 };
    failed(
        error::Kind::TooLarge(kind),
        format!(
            "what is written together up to the key {} takes {bytes} bytes, more than the {limit} \
             of one command",
            Pretty(key)
        ),
    )
}

/// Number of the latest write of an intent.
pub(super) fn sequence(intent: &kv::Intent) -> u32 {
    intent.txn.as_ref().map_or(0, |txn| txn.sequence)
}

/// The value an intent had before its transaction's write `below`; the outer `None` if that was
/// the first one.
fn value_below(intent: &kv::Intent, below: u32) -> Option<&Option<Bytes>> {
    if sequence(intent) < below {
        return Some(&intent.value);
    }
    let earlier = intent.history.iter().rev().find(|write| write.sequence < below)?;
    Some(&earlier.value)
}

/// The intent after a write; `None` if the write was there before.
fn next_intent(
    key: &Key,
    txn: &kv::TxnMeta,
    savepoints: Option<&[u32]>,
    Provisional { own, timestamp }: Provisional,
    value: Option<Bytes>,
) -> Result<Option<kv::Intent>, EvalError> {
    let mut history = Vec::new();
    if let Some(own) = own {
        let latest = sequence(&own);
        if latest >= txn.sequence {
            let there = if latest == txn.sequence {
                Some(&own.value)
            } else {
                let same = own.history.iter().find(|write| write.sequence == txn.sequence);
                same.map(|write| &write.value)
            };
            if there == Some(&value) {
                return Ok(None);
            }
            return Err(invalid(format!(
                "a write with number {} to {} comes after another one with number {latest}",
                txn.sequence,
                Pretty(key)
            )));
        }
        history = own.history;
        if let Some(savepoints) = savepoints {
            let_go(&mut history, latest, savepoints);
        }
        history.push(kv::SequencedValue { sequence: latest, value: own.value });
    }
    let txn = kv::TxnMeta { write_timestamp: Some(timestamp.into()), ..txn.clone() };
    Ok(Some(kv::Intent { txn: Some(txn), value, history }))
}

/// Removes the writes, of those before `latest`, that are the newest for no savepoint.
fn let_go(history: &mut Vec<kv::SequencedValue>, latest: u32, savepoints: &[u32]) {
    let ends: Vec<u32> = history.iter().skip(1).map(|w| w.sequence).chain([latest]).collect();
    let mut ends = ends.into_iter();
    history.retain(|write| {
        let above = ends.next().unwrap_or(latest);
        let first = savepoints.partition_point(|savepoint| *savepoint < write.sequence);
        savepoints.get(first).is_some_and(|savepoint| *savepoint < above)
    });
}

fn one_phase_with_intents() -> EvalError {
    invalid("a transaction that has intents cannot commit in one phase")
}
