//! Turns a batch of requests into responses and writes.
//!
//! What it is: a pure function of a state, a request and what the leaseholder knows beside the
//! state. What it is not: it picks no timestamp, takes no latch, holds no lock, waits for nobody,
//! checks no lease and replicates nothing; the replica does, around it.
//!
//! ```text
//!              state        EvalArgs: timestamps, clock, floor of writes, locks to skip
//!                │             │
//!   batch ───▶ request by request ───▶ Evaluated: responses, write batch, timestamps reached,
//!                │                       spans read, locks taken, intents that are gone
//!                └──────────────────▶ EvalError: an answer, intents to wait for, a timestamp
//!                                        to move the clock past
//! ```
//!
//! Reads of a batch see the state at the read timestamp, under the intents of their own
//! transaction, under the writes that stand before them in the same batch. Conditions,
//! increments and deletions look at the newest version of a key, whatever the read timestamp:
//! they decide what a write does.
//!
//! Writes become intents if the batch belongs to a transaction and is not its one phase; versions
//! otherwise. Either conflicts with intents of others: all that a batch meets, up to a bound, are
//! reported at once, and nothing else is said of the batch until they are gone.
//!
//! Invariants:
//! 1. A version is written only above every version of its key and above its floor; otherwise
//!    the caller hears [`EvalError::WriteTooOld`] or, where the timestamp is fixed, the client
//!    hears `TxnRetry`. An intent is raised instead.
//! 2. A key has at most one intent; who meets one of another transaction writes nothing.
//! 3. An error means that the batch has no effect.
//! 4. Neither the command nor the responses grow past their bounds. What a bound stops says what
//!    is left, and a batch that reads answers at least one request, or one key of it.
//! 5. The state of a record only goes on: to STAGING, to COMMITTED or ABORTED, and then stays.
//! 6. Intents whose batch comes again, with its sequence number, are not changed by it.

mod covered;
mod gc;
mod read;
mod record;
mod resolve;
mod spans;
mod write;

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
pub use crdb_keys::Access;
use crdb_keys::{Key, Span, Timestamp, pretty::Pretty};
use crdb_proto::kv::{self, BatchRequest, error, request, response};

use self::write::Written;
pub use self::{
    gc::{ABANDONED_AFTER, range_stats},
    record::{EXPIRES_AFTER, RECORD_WINDOW},
    spans::{is_read_only, latch_spans, out_of_bounds},
};
use crate::{Error, Limits, Reader, WriteBatch};

const TXN_ID_LEN: usize = 16;

/// When a batch reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Timestamp of the reads.
    pub read: Timestamp,
    /// Timestamp of the versions written.
    pub write: Timestamp,
}

/// What the evaluation of a batch must know beside the state.
#[derive(Clone, Copy)]
pub struct EvalArgs<'a> {
    /// When the batch reads and writes. `write` is for batches that write versions: those outside
    /// of a transaction and those with `one_phase`. One with `exact_timestamp` takes
    /// `txn.write_timestamp` instead, and so do intents, which are raised as `floor` says.
    pub at: At,
    /// The leaseholder's clock, by which records expire.
    pub now: Timestamp,
    /// Reads below see an error: what they would read may be gone.
    pub gc_threshold: Timestamp,
    /// What a write to a key must be above, versions aside: reads by others, the closed
    /// timestamp, the start of the lease. Asked once for each key written.
    pub floor: &'a dyn Fn(&[u8]) -> Timestamp,
    /// No version above can be of before the reader's begin, whatever its uncertainty limit. The
    /// intents up to the limit are in the way nevertheless.
    pub certain_above: Timestamp,
    /// Whether somebody else has an unreplicated lock on a key that conflicts with one of this
    /// strength. Asked for the rows of locking reads that leave out locked rows.
    pub skip: &'a dyn Fn(&[u8], kv::LockStrength) -> bool,
    /// Where it stops.
    pub limits: Limits,
}

impl EvalArgs<'_> {
    /// Arguments for one who has the state alone: no reads by others, no locks.
    #[must_use]
    pub fn alone(at: At, now: Timestamp) -> Self {
        Self {
            at,
            now,
            gc_threshold: Timestamp::ZERO,
            floor: &|_| Timestamp::ZERO,
            certain_above: Timestamp::MAX,
            skip: &|_, _| false,
            limits: Limits::default(),
        }
    }
}

impl fmt::Debug for EvalArgs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvalArgs")
            .field("at", &self.at)
            .field("now", &self.now)
            .field("gc_threshold", &self.gc_threshold)
            .finish_non_exhaustive()
    }
}

/// A span that was read, for the timestamp cache: nothing may be written to it at or below
/// `timestamp` any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedRead {
    /// What was read, cut where a bound stopped the read.
    pub span: Span,
    /// As of when. Not always the read timestamp: what a one-phase batch validates is read at
    /// its write timestamp.
    pub timestamp: Timestamp,
    /// The transaction of the batch read it, so that its own writes are not held up. Otherwise
    /// nobody may write below, the transaction of the batch included.
    pub by_txn: bool,
}

/// What a batch does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluated {
    /// One response a request; fewer if a batch that only reads was stopped by its bound of bytes:
    /// nothing is said of the other requests.
    pub responses: Vec<kv::Response>,
    /// The writes; empty for a batch that changes nothing.
    pub batch: WriteBatch,
    /// Timestamp the reads were served at. Above that of the arguments if the batch allows it and
    /// met newer versions; the caller moves its clock past it and looks again whether its lease
    /// covers it.
    pub read_timestamp: Timestamp,
    /// The highest timestamp of what was written: versions, intents, the end of a transaction.
    /// `None` if nothing was. May be above that of the arguments, so that the caller looks again
    /// whether its lease covers it.
    pub write_timestamp: Option<Timestamp>,
    /// What was read. To be entered in the timestamp cache before the latches go.
    pub reads: Vec<ServedRead>,
    /// Unreplicated locks that the transaction of the batch now has, to be entered in the lock
    /// table before the latches go.
    pub locks: Vec<(Key, kv::LockStrength)>,
    /// The highest timestamp of a version that was an intent below it.
    pub moved: Option<Timestamp>,
    /// Transactions and spans where they have no intents any more once the batch is applied.
    pub resolved: Vec<(Bytes, Span)>,
    /// The transaction that has committed in this range once the batch is applied, and needs its
    /// locks in it no longer.
    pub released: Option<Bytes>,
}

/// Why a batch was not evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// The answer to the client is this error.
    #[error("{}", .0.message)]
    Kv(Box<kv::Error>),
    /// A key has a version, or was read, at or above the timestamp of a version to be written.
    /// Move the clock past `newest` and evaluate again.
    #[error("the key {} was written or read at {newest}, not below the write", Pretty(.key))]
    WriteTooOld {
        /// The key.
        key: Key,
        /// Its newest version or read.
        newest: Timestamp,
    },
    /// Intents of others are in the way, in the order of their keys: wait for these transactions,
    /// or end them, and evaluate again. Not always all there are.
    #[error("intents of {} other transactions are in the way", .0.len())]
    Intents(Vec<(Key, kv::TxnMeta)>),
    /// The state could not be read.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// A kv error of `kind` that reads `message`.
#[must_use]
pub fn kv_error(kind: error::Kind, message: impl Into<String>) -> kv::Error {
    kv::Error { message: message.into(), kind: Some(kind) }
}

fn invalid(message: impl Into<String>) -> EvalError {
    failed(error::Kind::Invalid(kv::Invalid {}), message)
}

fn failed(kind: error::Kind, message: impl Into<String>) -> EvalError {
    EvalError::Kv(Box::new(kv_error(kind, message)))
}

/// Evaluates `batch` on the state of `reader`.
pub fn evaluate(
    reader: &impl Reader,
    batch: &BatchRequest,
    args: &EvalArgs<'_>,
) -> Result<Evaluated, EvalError> {
    let none = kv::BatchHeader::default();
    let header = batch.header.as_ref().unwrap_or(&none);
    let mut read = args.at.read;
    loop {
        let outcome = Evaluation::new(reader, header, args, read, batch)?.run(batch);
        match (outcome, header.can_forward_read_timestamp) {
            // Nothing was read before this batch: all of it is read again, above what it met.
            (Err(EvalError::Kv(error)), true) => match newer_version(&error) {
                Some(existing) if existing > read => read = existing,
                _ => return Err(EvalError::Kv(error)),
            },
            (outcome, _) => return outcome,
        }
    }
}

/// The version that a read at a higher timestamp would see.
fn newer_version(error: &kv::Error) -> Option<Timestamp> {
    match &error.kind {
        Some(error::Kind::ReadUncertain(met)) => met.existing.map(Into::into),
        Some(error::Kind::WriteTooOld(met)) => met.existing.map(Into::into),
        _ => None,
    }
}

/// What the writes of a batch become.
#[derive(Clone, Copy)]
enum Writes<'a> {
    /// Versions, at once.
    Versions {
        at: Timestamp,
        /// The caller chose the timestamp and nobody may move it.
        exact: bool,
    },
    /// Intents of the transaction.
    Intents(&'a kv::TxnMeta),
}

/// A version above the read timestamp that forbids a read.
struct Newer {
    key: Key,
    existing: Timestamp,
    locking: bool,
}

struct Evaluation<'a, R> {
    reader: &'a R,
    header: &'a kv::BatchHeader,
    args: &'a EvalArgs<'a>,
    txn: Option<&'a kv::TxnMeta>,
    writes: Writes<'a>,
    read: Timestamp,
    /// Whether a request of the batch may write.
    writing: bool,
    /// What this batch has written to keys so far.
    written: BTreeMap<Key, Written>,
    /// Bytes of `written`.
    bytes: usize,
    /// Bytes of keys and values in the responses.
    answered: u64,
    /// The records this batch has written, by anchor and transaction; `None` is removed.
    records: BTreeMap<(Key, Bytes), Option<kv::TxnRecord>>,
    /// Intents of others that were met.
    blocking: BTreeMap<Key, kv::TxnMeta>,
    /// The highest version met that forbids a read.
    newer: Option<Newer>,
    /// The key whose newest version or read is highest, of those not below the write.
    too_old: Option<(Key, Timestamp)>,
    /// Highest timestamp of an intent or record of the batch.
    highest: Option<Timestamp>,
    out: Evaluated,
}

impl<'a, R: Reader> Evaluation<'a, R> {
    fn new(
        reader: &'a R,
        header: &'a kv::BatchHeader,
        args: &'a EvalArgs<'a>,
        read: Timestamp,
        batch: &BatchRequest,
    ) -> Result<Self, EvalError> {
        let txn = header.txn.as_ref();
        if txn.is_some_and(|txn| txn.id.len() != TXN_ID_LEN) {
            return Err(invalid(format!("the id of a transaction is not of {TXN_ID_LEN} bytes")));
        }
        let writes = match txn {
            Some(txn) if !header.one_phase => Writes::Intents(txn),
            Some(txn) if header.exact_timestamp => {
                Writes::Versions { at: write_timestamp(txn)?, exact: true }
            }
            None if header.exact_timestamp => {
                return Err(invalid("an exact timestamp is for transactions"));
            }
            _ => Writes::Versions { at: args.at.write, exact: false },
        };
        check_mixture(batch, header)?;
        Ok(Self {
            reader,
            header,
            args,
            txn,
            writes,
            read,
            writing: !is_read_only(batch),
            written: BTreeMap::new(),
            bytes: 0,
            answered: 0,
            records: BTreeMap::new(),
            blocking: BTreeMap::new(),
            newer: None,
            too_old: None,
            highest: None,
            out: Evaluated::default(),
        })
    }

    fn run(mut self, batch: &BatchRequest) -> Result<Evaluated, EvalError> {
        self.out.responses.reserve(batch.requests.len());
        for (index, request) in batch.requests.iter().enumerate() {
            let kind = request.kind.as_ref().ok_or_else(|| {
                invalid(format!("request {index} is of a kind this node does not know"))
            })?;
            let response = self.request(index, kind)?;
            self.out.responses.push(kv::Response { kind: Some(response) });
            if self.blocking.len() >= self.args.limits.intents_met {
                break;
            }
            // Who has to wait anyway hears of newer versions afterwards, when there may be more.
            if self.blocking.is_empty() {
                self.check_newer()?;
            }
            if !self.writing && self.answered >= self.args.limits.response_bytes {
                break;
            }
        }
        self.finish(batch)
    }

    fn request(&mut self, index: usize, kind: &request::Kind) -> Result<response::Kind, EvalError> {
        use request::Kind as Request;
        use response::Kind as Response;
        Ok(match kind {
            Request::Get(get) => Response::Get(self.get(get)?),
            Request::Scan(scan) => Response::Scan(self.scan(scan)?),
            Request::Validate(validate) => Response::Validate(self.validate(validate)?),
            Request::Put(put) => Response::Put(self.put(put)?),
            Request::ConditionalPut(put) => Response::Put(self.conditional_put(index, put)?),
            Request::Delete(delete) => Response::Delete(self.delete(delete)?),
            Request::DeleteRange(delete) => Response::DeleteRange(self.delete_range(delete)?),
            Request::Increment(increment) => Response::Increment(self.increment(increment)?),
            Request::EndTxn(end) => Response::EndTxn(self.end_txn(end)?),
            Request::HeartbeatTxn(beat) => Response::HeartbeatTxn(self.heartbeat_txn(beat)?),
            Request::PushTxn(push) => Response::PushTxn(self.push_txn(push)?),
            Request::QueryTxn(query) => Response::QueryTxn(self.query_txn(query)?),
            Request::RecoverTxn(recover) => Response::RecoverTxn(self.recover_txn(recover)?),
            Request::RemoveTxnRecord(remove) => {
                Response::RemoveTxnRecord(self.remove_txn_record(remove)?)
            }
            Request::QueryIntent(query) => Response::QueryIntent(self.query_intent(query)?),
            Request::ResolveIntent(resolve) => {
                Response::ResolveIntent(self.resolve_intent(resolve)?)
            }
            Request::RevertIntent(revert) => Response::RevertIntent(self.revert_intent(revert)?),
            Request::Gc(gc) => Response::Gc(self.gc(gc)?),
            // About the range or what its leaseholder has in memory, not about its state.
            Request::ReleaseLocks(_)
            | Request::Split(_)
            | Request::Unsplit(_)
            | Request::TransferLease(_)
            | Request::RangeStatus(_)
            | Request::QueryLocks(_) => {
                return Err(invalid(format!("request {index} is of a kind not served here")));
            }
        })
    }

    fn finish(mut self, batch: &BatchRequest) -> Result<Evaluated, EvalError> {
        if !self.blocking.is_empty() {
            return Err(EvalError::Intents(self.blocking.into_iter().collect()));
        }
        self.check_newer()?;
        if let Some((key, newest)) = self.too_old.take() {
            return Err(match self.writes {
                Writes::Versions { exact: true, .. } => retry(newest.next()),
                _ => EvalError::WriteTooOld { key, newest },
            });
        }
        self.flush_written()?;
        self.flush_records();
        self.out.read_timestamp = self.read;
        self.out.write_timestamp = self.highest;
        self.check_deadline(batch)?;
        if self.header.one_phase && self.writing {
            self.out.released = self.txn.map(|txn| txn.id.clone());
        }
        Ok(self.out)
    }

    fn check_newer(&mut self) -> Result<(), EvalError> {
        let Some(Newer { key, existing, locking }) = self.newer.take() else { return Ok(()) };
        let message = format!(
            "the key {} was written at {existing}, above the read at {}",
            Pretty(&key),
            self.read
        );
        let existing = Some(existing.into());
        let kind = if locking {
            error::Kind::WriteTooOld(kv::WriteTooOld { key, existing })
        } else {
            error::Kind::ReadUncertain(kv::ReadUncertain { key, existing })
        };
        Err(failed(kind, message))
    }

    /// A deadline is for reads, writes and commits; what tidies up behind a transaction has none.
    fn check_deadline(&self, batch: &BatchRequest) -> Result<(), EvalError> {
        let Some(deadline) = self.header.deadline else { return Ok(()) };
        let mut kinds = batch.requests.iter().filter_map(|request| request.kind.as_ref());
        if !kinds.any(has_deadline) {
            return Ok(());
        }
        let would_be = self.out.write_timestamp.map_or(self.read, |write| write.max(self.read));
        if would_be <= deadline.into() {
            return Ok(());
        }
        let message = format!(
            "the batch would be served at {would_be}, after its deadline {}",
            Timestamp::from(deadline)
        );
        let would_be = Some(would_be.into());
        let kind = kv::DeadlineExceeded { deadline: Some(deadline), would_be };
        Err(failed(error::Kind::DeadlineExceeded(kind), message))
    }

    /// Whether the intent is one of the batch's transaction.
    fn is_own(&self, intent: &kv::Intent) -> bool {
        match (self.txn, &intent.txn) {
            (Some(own), Some(holder)) => own.id == holder.id,
            _ => false,
        }
    }

    /// Remembers that an intent of another transaction is in the way.
    fn block(&mut self, key: &Key, holder: kv::TxnMeta) {
        self.blocking.insert(key.clone(), holder);
    }

    fn served(&mut self, span: Span, timestamp: Timestamp) {
        let by_txn = self.txn.is_some();
        self.out.reads.push(ServedRead { span, timestamp, by_txn });
    }

    /// Remembers the timestamp of an intent or record.
    fn reaches(&mut self, timestamp: Timestamp) {
        self.highest = self.highest.max(Some(timestamp));
    }

    fn check_threshold(&self, read: Timestamp) -> Result<(), EvalError> {
        let threshold = self.args.gc_threshold;
        if read >= threshold {
            return Ok(());
        }
        let message = format!(
            "a read at {read} is below {threshold}, before which versions are no longer kept"
        );
        let kind = kv::ReadBelowThreshold { threshold: Some(threshold.into()) };
        Err(failed(error::Kind::ReadBelowThreshold(kind), message))
    }
}

fn has_deadline(kind: &request::Kind) -> bool {
    use request::Kind;
    match kind {
        Kind::Get(_)
        | Kind::Scan(_)
        | Kind::Validate(_)
        | Kind::Put(_)
        | Kind::ConditionalPut(_)
        | Kind::Delete(_)
        | Kind::DeleteRange(_)
        | Kind::Increment(_) => true,
        Kind::EndTxn(end) => end.action != kv::EndTxnAction::EndAbort as i32,
        _ => false,
    }
}

/// Refuses what would not see its own effects: intents are resolved or taken back in the batch
/// itself, which reads and writes look for in the state.
fn check_mixture(batch: &BatchRequest, header: &kv::BatchHeader) -> Result<(), EvalError> {
    use request::Kind;
    let has = |is: fn(&Kind) -> bool| {
        batch.requests.iter().filter_map(|request| request.kind.as_ref()).any(is)
    };
    let tidies =
        |kind: &Kind| matches!(kind, Kind::ResolveIntent(_) | Kind::RevertIntent(_) | Kind::Gc(_));
    if has(tidies) && has(|kind| has_deadline(kind) && !matches!(kind, Kind::EndTxn(_))) {
        return Err(invalid("a batch reads or writes keys and also resolves intents or collects"));
    }
    if header.one_phase && has(|kind| matches!(kind, Kind::EndTxn(_))) {
        return Err(invalid("a one-phase batch commits without an end of its transaction"));
    }
    Ok(())
}

fn write_timestamp(txn: &kv::TxnMeta) -> Result<Timestamp, EvalError> {
    txn.write_timestamp
        .map(Timestamp::from)
        .filter(|timestamp| !timestamp.is_zero())
        .ok_or_else(|| invalid("a transaction that writes has no write timestamp"))
}

fn retry(needed: Timestamp) -> EvalError {
    let kind = kv::TxnRetry { needed: Some(needed.into()) };
    failed(
        error::Kind::TxnRetry(kind),
        format!("the transaction can commit at {needed}, not before"),
    )
}

fn check_key(key: &Key) -> Result<(), EvalError> {
    if key.is_empty() { Err(invalid("a request has an empty key")) } else { Ok(()) }
}

fn check_span(start: &Key, end: &Key) -> Result<Span, EvalError> {
    if start.is_empty() || start >= end {
        let (start, end) = (Pretty(start), Pretty(end));
        return Err(invalid(format!("a request has the empty span [{start}, {end})")));
    }
    Ok(Span::new(start.clone(), end.clone()))
}

/// The span of a request whose empty end stands for the single key `start`.
fn check_span_or_point(start: &Key, end: &Key) -> Result<Span, EvalError> {
    if !end.is_empty() {
        return check_span(start, end);
    }
    check_key(start)?;
    Ok(Span::point(start.clone()))
}

#[cfg(test)]
mod tests;
