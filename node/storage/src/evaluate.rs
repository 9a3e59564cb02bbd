//! Turns a batch of requests into responses and writes.
//!
//! What it is: a pure function of a state, a request and two timestamps. What it is not: it picks
//! no timestamp, takes no latch, checks no lease and replicates nothing; the replica does, around
//! it.
//!
//! Reads of a batch see the state at the read timestamp, under the writes that stand before them
//! in the same batch. Conditions, increments, deletions and validations look at the newest
//! version of a key, whatever the read timestamp: they decide what a write does.
//!
//! Invariants:
//! 1. A version is written only above every version of its key; otherwise the caller hears
//!    [`EvalError::WriteTooOld`] and picks a higher timestamp.
//! 2. An error means that the batch has no effect.
//! 3. Neither the command nor the responses grow past their bounds.

use std::{collections::BTreeMap, fmt, iter::Peekable, ops::ControlFlow};

use bytes::Bytes;
pub use crdb_keys::Access;
use crdb_keys::{Key, Span, Timestamp, encoding, pretty::Pretty};
use crdb_proto::kv::{self, BatchRequest, error, request, response};

use crate::{
    Error, Reader, WriteBatch,
    mvcc::{self, Direction},
};

/// Most bytes of one command: what one raft entry may carry.
pub const MAX_COMMAND_BYTES: usize = 16 << 20;

/// Most bytes of the rows of one response.
pub const MAX_RESPONSE_BYTES: u64 = 64 << 20;

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
    /// Whether somebody else has an unreplicated lock on a key that conflicts with one of this
    /// strength. Asked for the rows of locking reads that leave out locked rows.
    pub skip: &'a dyn Fn(&[u8], kv::LockStrength) -> bool,
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
            skip: &|_, _| false,
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
    /// One response a request.
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

/// Whether no request of the batch can write.
#[must_use]
pub fn is_read_only(batch: &BatchRequest) -> bool {
    batch.requests.iter().filter_map(|request| request.kind.as_ref()).all(|kind| {
        use request::Kind;
        matches!(
            kind,
            Kind::Get(_)
                | Kind::Scan(_)
                | Kind::Validate(_)
                | Kind::QueryTxn(_)
                | Kind::QueryIntent(_)
                | Kind::ReleaseLocks(_)
                | Kind::RangeStatus(_)
                | Kind::QueryLocks(_)
        )
    })
}

/// The spans a batch touches and how, in the order of its requests.
#[must_use]
pub fn latch_spans(batch: &BatchRequest) -> Vec<(Span, Access)> {
    let mut spans = Vec::with_capacity(batch.requests.len());
    for kind in batch.requests.iter().filter_map(|request| request.kind.as_ref()) {
        use request::Kind;
        match kind {
            Kind::Get(get) => spans.push((Span::point(get.key.clone()), Access::Read)),
            Kind::Scan(scan) => {
                spans.push((Span::new(scan.start.clone(), scan.end.clone()), Access::Read));
            }
            Kind::Put(put) => spans.push((Span::point(put.key.clone()), Access::Write)),
            Kind::ConditionalPut(put) => {
                spans.push((Span::point(put.key.clone()), Access::Write));
            }
            Kind::Delete(delete) => spans.push((Span::point(delete.key.clone()), Access::Write)),
            Kind::DeleteRange(delete) => {
                spans.push((Span::new(delete.start.clone(), delete.end.clone()), Access::Write));
            }
            Kind::Increment(increment) => {
                spans.push((Span::point(increment.key.clone()), Access::Write));
            }
            Kind::Validate(validate) => {
                spans.extend(validate.spans.iter().map(|span| (span.clone().into(), Access::Read)));
            }
            Kind::EndTxn(_) | Kind::HeartbeatTxn(_) => {
                let txn = batch.header.as_ref().and_then(|header| header.txn.as_ref());
                spans.push((Span::point(anchor(txn)), Access::Write));
            }
            Kind::PushTxn(push) => {
                spans.push((Span::point(anchor(push.pushee.as_ref())), Access::Write));
            }
            Kind::RecoverTxn(recover) => {
                spans.push((Span::point(anchor(recover.txn.as_ref())), Access::Write));
            }
            Kind::RemoveTxnRecord(remove) => {
                spans.push((Span::point(remove.anchor.clone()), Access::Write));
            }
            Kind::QueryTxn(query) => {
                spans.push((Span::point(anchor(query.txn.as_ref())), Access::Read));
            }
            Kind::QueryIntent(query) => spans.push((Span::point(query.key.clone()), Access::Read)),
            Kind::ResolveIntent(resolve) => {
                spans.push((span_or_point(&resolve.start, &resolve.end), Access::Write));
            }
            Kind::RevertIntent(revert) => {
                spans.push((span_or_point(&revert.start, &revert.end), Access::Write));
            }
            Kind::ReleaseLocks(release) => {
                spans.push((span_or_point(&release.start, &release.end), Access::Read));
            }
            Kind::QueryLocks(query) => {
                spans.push((Span::new(query.start.clone(), query.end.clone()), Access::Read));
            }
            // Removes nothing that a read which is allowed may see, and nothing that is newest.
            Kind::Gc(gc) => spans.push((Span::point(gc.start.clone()), Access::Read)),
            Kind::Split(split) => spans.push((Span::point(split.key.clone()), Access::Write)),
            Kind::Unsplit(unsplit) => spans.push((Span::point(unsplit.key.clone()), Access::Write)),
            Kind::TransferLease(transfer) => {
                spans.push((Span::point(transfer.key.clone()), Access::Read));
            }
            Kind::RangeStatus(status) => {
                spans.push((Span::point(status.key.clone()), Access::Read));
            }
        }
    }
    spans
}

/// Where the record of a transaction is; empty, and so outside of every range, if it has none.
fn anchor(txn: Option<&kv::TxnMeta>) -> Key {
    txn.map(|txn| txn.anchor.clone()).unwrap_or_default()
}

fn span_or_point(start: &Key, end: &Key) -> Span {
    if end.is_empty() { Span::point(start.clone()) } else { Span::new(start.clone(), end.clone()) }
}

/// The error for a batch that touches keys outside of the range `descriptor`.
#[must_use]
pub fn out_of_bounds(batch: &BatchRequest, descriptor: &kv::RangeDescriptor) -> Option<kv::Error> {
    let outside = |span: &Span| {
        span.start < descriptor.start_key
            || if span.is_point() {
                span.start >= descriptor.end_key
            } else {
                span.end > descriptor.end_key
            }
    };
    let (span, _) = latch_spans(batch).into_iter().find(|(span, _)| outside(span))?;
    let message = format!(
        "{} is not within range {}: [{}, {})",
        crdb_keys::pretty::PrettySpan(&span),
        descriptor.range_id,
        Pretty(&descriptor.start_key),
        Pretty(&descriptor.end_key),
    );
    let mismatch = kv::RangeMismatch { descriptors: vec![descriptor.clone()] };
    Some(kv_error(error::Kind::RangeMismatch(mismatch), message))
}

/// Evaluates `batch` on the state of `reader`.
pub fn evaluate(
    reader: &impl Reader,
    batch: &BatchRequest,
    args: &EvalArgs<'_>,
) -> Result<Evaluated, EvalError> {
    let at = args.at;
    check_deadline(batch, at)?;
    let mut evaluation = Evaluation { reader, at, written: BTreeMap::new(), bytes: 0 };
    let mut responses = Vec::with_capacity(batch.requests.len());
    for (index, request) in batch.requests.iter().enumerate() {
        let kind = request.kind.as_ref().ok_or_else(|| {
            invalid(format!("request {index} is of a kind this node does not know"))
        })?;
        responses.push(kv::Response { kind: Some(evaluation.request(index, kind)?) });
    }
    let batch = evaluation.into_batch();
    let write_timestamp = (!batch.is_empty()).then_some(at.write);
    Ok(Evaluated {
        responses,
        batch,
        read_timestamp: at.read,
        write_timestamp,
        ..Evaluated::default()
    })
}

fn check_deadline(batch: &BatchRequest, at: At) -> Result<(), EvalError> {
    let Some(deadline) = batch.header.as_ref().and_then(|header| header.deadline) else {
        return Ok(());
    };
    let would_be = if is_read_only(batch) { at.read } else { at.read.max(at.write) };
    if would_be <= deadline.into() {
        return Ok(());
    }
    let kind = kv::DeadlineExceeded { deadline: Some(deadline), would_be: Some(would_be.into()) };
    let message = format!(
        "the batch would be served at {would_be}, after its deadline {}",
        Timestamp::from(deadline)
    );
    Err(failed(error::Kind::DeadlineExceeded(kind), message))
}

struct Evaluation<'a, R> {
    reader: &'a R,
    at: At,
    /// What this batch has written so far; `None` is a deletion.
    written: BTreeMap<Key, Option<Bytes>>,
    /// Bytes of `written`.
    bytes: usize,
}

impl<R: Reader> Evaluation<'_, R> {
    fn request(&mut self, index: usize, kind: &request::Kind) -> Result<response::Kind, EvalError> {
        use request::Kind as Request;
        use response::Kind as Response;
        Ok(match kind {
            Request::Get(get) => Response::Get(kv::GetResponse { value: self.get(&get.key)? }),
            Request::Scan(scan) => Response::Scan(self.scan(scan)?),
            Request::Put(put) => {
                self.newest(&put.key)?;
                self.write(&put.key, Some(put.value.clone()))?;
                Response::Put(kv::PutResponse {})
            }
            Request::ConditionalPut(put) => {
                self.conditional_put(index, put)?;
                Response::Put(kv::PutResponse {})
            }
            Request::Delete(delete) => {
                let existed = self.newest(&delete.key)?.is_some();
                if existed {
                    self.write(&delete.key, None)?;
                }
                Response::Delete(kv::DeleteResponse { existed })
            }
            Request::DeleteRange(delete) => Response::DeleteRange(self.delete_range(delete)?),
            Request::Increment(increment) => Response::Increment(self.increment(increment)?),
            Request::Validate(validate) => {
                self.validate(validate)?;
                Response::Validate(kv::ValidateResponse {})
            }
            Request::EndTxn(_)
            | Request::HeartbeatTxn(_)
            | Request::PushTxn(_)
            | Request::QueryTxn(_)
            | Request::QueryIntent(_)
            | Request::RecoverTxn(_)
            | Request::ResolveIntent(_)
            | Request::RevertIntent(_)
            | Request::ReleaseLocks(_)
            | Request::RemoveTxnRecord(_)
            | Request::Gc(_)
            | Request::Split(_)
            | Request::Unsplit(_)
            | Request::TransferLease(_)
            | Request::RangeStatus(_)
            | Request::QueryLocks(_) => {
                return Err(invalid(format!("request {index} is of a kind not served here")));
            }
        })
    }

    fn get(&self, key: &Key) -> Result<Option<Bytes>, EvalError> {
        check_key(key)?;
        match self.written.get(key) {
            Some(value) => Ok(value.clone()),
            None => Ok(mvcc::get(self.reader, key, self.at.read)?),
        }
    }

    /// The newest value of a key that is about to be written.
    fn newest(&self, key: &Key) -> Result<Option<Bytes>, EvalError> {
        check_key(key)?;
        if let Some(value) = self.written.get(key) {
            return Ok(value.clone());
        }
        let Some(version) = mvcc::newest(self.reader, key)? else { return Ok(None) };
        self.check_newest(key, version.timestamp)?;
        Ok(version.value)
    }

    fn check_newest(&self, key: &[u8], newest: Timestamp) -> Result<(), EvalError> {
        if newest < self.at.write {
            return Ok(());
        }
        Err(EvalError::WriteTooOld { key: Bytes::copy_from_slice(key), newest })
    }

    fn write(&mut self, key: &Key, value: Option<Bytes>) -> Result<(), EvalError> {
        // As many bytes as the entry of the batch will have, about.
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len) + mvcc::VERSION_LEN + 8;
        if self.bytes > MAX_COMMAND_BYTES {
            return Err(invalid(format!(
                "the batch writes more than {MAX_COMMAND_BYTES} bytes; split the statement into \
                 smaller ones"
            )));
        }
        self.written.insert(key.clone(), value);
        Ok(())
    }

    fn conditional_put(
        &mut self,
        index: usize,
        put: &kv::ConditionalPutRequest,
    ) -> Result<(), EvalError> {
        let actual = self.newest(&put.key)?;
        if actual == put.expected {
            return self.write(&put.key, Some(put.value.clone()));
        }
        let message = format!("the key {} does not have the expected value", Pretty(&put.key));
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let kind = kv::ConditionFailed { index, key: put.key.clone(), actual };
        Err(failed(error::Kind::ConditionFailed(kind), message))
    }

    fn increment(
        &mut self,
        increment: &kv::IncrementRequest,
    ) -> Result<kv::IncrementResponse, EvalError> {
        let key = &increment.key;
        let old = match self.newest(key)? {
            None => 0_i64,
            Some(text) => std::str::from_utf8(&text)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| invalid(format!("the key {} is not a counter", Pretty(key))))?,
        };
        let value = old.checked_add(increment.delta).ok_or_else(|| {
            invalid(format!("the counter {} would overflow: {old} is its value", Pretty(key)))
        })?;
        self.write(key, Some(value.to_string().into()))?;
        Ok(kv::IncrementResponse { value })
    }

    fn delete_range(
        &mut self,
        delete: &kv::DeleteRangeRequest,
    ) -> Result<kv::DeleteRangeResponse, EvalError> {
        let span = check_span(&delete.start, &delete.end)?;
        let mut doomed: Vec<Key> = Vec::new();
        let mut resume = None;
        let mut too_old = None;
        let mut bytes = 0;
        let limit = if delete.max_keys == 0 { u64::MAX } else { delete.max_keys };
        let mut visit = |key: &[u8], newest: Option<Timestamp>, value: Option<&[u8]>| {
            if value.is_none() {
                return ControlFlow::Continue(());
            }
            if doomed.len() as u64 >= limit {
                resume =
                    Some(kv::Span { start: Bytes::copy_from_slice(key), end: delete.end.clone() });
                return ControlFlow::Break(());
            }
            if let Some(newest) = newest.filter(|newest| *newest >= self.at.write) {
                too_old = Some(EvalError::WriteTooOld { key: Bytes::copy_from_slice(key), newest });
                return ControlFlow::Break(());
            }
            bytes += key.len();
            doomed.push(Bytes::copy_from_slice(key));
            // More than fits is found out by the writes below.
            if bytes > MAX_COMMAND_BYTES {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        self.merged(&span, Timestamp::MAX, Direction::Forward, &mut visit)?;
        if let Some(error) = too_old {
            return Err(error);
        }
        for key in &doomed {
            self.write(key, None)?;
        }
        Ok(kv::DeleteRangeResponse { deleted: doomed.len() as u64, resume })
    }

    fn validate(&self, validate: &kv::ValidateRequest) -> Result<(), EvalError> {
        let since = validate
            .since
            .map(Timestamp::from)
            .ok_or_else(|| invalid("a validation needs the timestamp of the reads"))?;
        for span in &validate.spans {
            let mut conflict = None;
            if span.end.is_empty() {
                check_key(&span.start)?;
                conflict = mvcc::newest(self.reader, &span.start)?
                    .filter(|version| version.timestamp > since)
                    .map(|version| (span.start.clone(), version.timestamp));
            } else {
                let span = check_span(&span.start, &span.end)?;
                let forward = Direction::Forward;
                mvcc::scan(self.reader, &span, Timestamp::MAX, forward, &mut |key, newest, _| {
                    if newest <= since {
                        return Ok(ControlFlow::Continue(()));
                    }
                    conflict = Some((Bytes::copy_from_slice(key), newest));
                    Ok(ControlFlow::Break(()))
                })?;
            }
            if let Some((key, newer)) = conflict {
                let message =
                    format!("the key {} was written at {newer}, after it was read", Pretty(&key));
                let kind = kv::ReadConflict { key, newer: Some(newer.into()) };
                return Err(failed(error::Kind::ReadConflict(kind), message));
            }
        }
        Ok(())
    }

    fn scan(&self, scan: &kv::ScanRequest) -> Result<kv::ScanResponse, EvalError> {
        let span = check_span(&scan.start, &scan.end)?;
        let direction = if scan.reverse { Direction::Reverse } else { Direction::Forward };
        let unless_zero = |limit: u64, none: u64| if limit == 0 { none } else { limit };
        let max_rows = unless_zero(scan.max_rows, u64::MAX);
        let max_bytes = unless_zero(scan.max_bytes, u64::MAX).min(MAX_RESPONSE_BYTES);
        let mut response = kv::ScanResponse::default();
        let mut bytes = 0;
        self.merged(&span, self.at.read, direction, &mut |key, _, value| {
            let Some(value) = value else { return ControlFlow::Continue(()) };
            if response.count >= max_rows || bytes >= max_bytes {
                response.resume = Some(match direction {
                    Direction::Forward => {
                        kv::Span { start: Bytes::copy_from_slice(key), end: scan.end.clone() }
                    }
                    Direction::Reverse => {
                        kv::Span { start: scan.start.clone(), end: encoding::next_key(key).into() }
                    }
                });
                return ControlFlow::Break(());
            }
            response.count += 1;
            if !scan.count_only {
                bytes += (key.len() + value.len()) as u64;
                response.rows.push(kv::KeyValue {
                    key: Bytes::copy_from_slice(key),
                    value: Bytes::copy_from_slice(value),
                });
            }
            ControlFlow::Continue(())
        })?;
        if response.resume.is_some() && scan.max_bytes == 0 && bytes >= MAX_RESPONSE_BYTES {
            return Err(invalid(format!(
                "the scan returns more than {MAX_RESPONSE_BYTES} bytes; give it a bound"
            )));
        }
        Ok(response)
    }

    /// Visits the keys of `span`: the state's at `timestamp`, under the writes of this batch, which
    /// have no timestamp yet.
    fn merged(
        &self,
        span: &Span,
        timestamp: Timestamp,
        direction: Direction,
        visit: &mut MergedVisitor<'_>,
    ) -> Result<(), EvalError> {
        let range = self.written.range(span.start.clone()..span.end.clone());
        match direction {
            Direction::Forward => {
                let written = range.peekable();
                merge(self.reader, span, timestamp, direction, written, visit)
            }
            Direction::Reverse => {
                let written = range.rev().peekable();
                merge(self.reader, span, timestamp, direction, written, visit)
            }
        }
    }

    fn into_batch(self) -> WriteBatch {
        let mut batch = WriteBatch::new();
        for (key, value) in &self.written {
            mvcc::put(&mut batch, key, self.at.write, value.as_deref());
        }
        batch
    }
}

type MergedVisitor<'a> = dyn FnMut(&[u8], Option<Timestamp>, Option<&[u8]>) -> ControlFlow<()> + 'a;

fn merge<'a>(
    reader: &impl Reader,
    span: &Span,
    timestamp: Timestamp,
    direction: Direction,
    mut written: Peekable<impl Iterator<Item = (&'a Key, &'a Option<Bytes>)>>,
    visit: &mut MergedVisitor<'_>,
) -> Result<(), EvalError> {
    let comes_first = |a: &[u8], b: &[u8]| match direction {
        Direction::Forward => a < b,
        Direction::Reverse => a > b,
    };
    let mut stopped = false;
    mvcc::scan(reader, span, timestamp, direction, &mut |key, version, value| {
        while let Some((own, value)) = written.next_if(|(own, _)| comes_first(own, key)) {
            if visit(own, None, value.as_deref()).is_break() {
                stopped = true;
                return Ok(ControlFlow::Break(()));
            }
        }
        let flow = match written.next_if(|(own, _)| **own == *key) {
            Some((own, value)) => visit(own, None, value.as_deref()),
            None => visit(key, Some(version), value),
        };
        stopped = flow.is_break();
        Ok(flow)
    })?;
    if !stopped {
        for (own, value) in written {
            if visit(own, None, value.as_deref()).is_break() {
                break;
            }
        }
    }
    Ok(())
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
