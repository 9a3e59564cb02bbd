//! What a batch wants of the lock table and how its writes get their timestamps.

use crdb_concurrency::{LockRequest, LockUse};
use crdb_keys::{Key, Span, Timestamp};
use crdb_proto::kv::{BatchRequest, LockStrength, request::Kind};
use crdb_storage::evaluate;

/// How the versions and intents that a batch writes get their timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    /// It writes none.
    Nothing,
    /// The leaseholder's present: it is outside of a transaction, or commits one at once.
    Present,
    /// At or above this, the write timestamp of its transaction.
    AtLeast(Timestamp),
}

impl Writes {
    pub(super) fn of(batch: &BatchRequest) -> Self {
        let writes =
            batch.requests.iter().filter_map(|request| request.kind.as_ref()).any(|kind| {
                matches!(
                    kind,
                    Kind::Put(_)
                        | Kind::ConditionalPut(_)
                        | Kind::Delete(_)
                        | Kind::DeleteRange(_)
                        | Kind::Increment(_)
                )
            });
        let header = batch.header.as_ref();
        let txn = header.and_then(|header| header.txn.as_ref());
        let one_phase = header.is_some_and(|header| header.one_phase);
        let exact = header.is_some_and(|header| header.exact_timestamp);
        match txn {
            // What it validates is read at the timestamp at which it would write.
            _ if !writes && !one_phase => Self::Nothing,
            Some(txn) if !one_phase || exact => {
                Self::AtLeast(txn.write_timestamp.map(Timestamp::from).unwrap_or_default())
            }
            _ => Self::Present,
        }
    }
}

/// The spans of `batch` in which locks and intents of others are in its way, with reads at `read`.
///
/// Requests about records, intents and locks meet nobody: they are how waits end. Nor does a
/// validation outside of a one-phase commit, which fails instead; a batch without a transaction
/// that writes is such a commit.
pub(super) fn locks(batch: &BatchRequest, read: Timestamp) -> LockRequest {
    let header = batch.header.as_ref();
    let uncertain = header.and_then(|header| header.uncertainty_limit).map(Timestamp::from);
    let upto = read.max(uncertain.unwrap_or_default());
    let commits = header.is_some_and(|header| header.one_phase)
        || header.is_none_or(|header| header.txn.is_none()) && !evaluate::is_read_only(batch);
    let mut spans = Vec::with_capacity(batch.requests.len());
    for kind in batch.requests.iter().filter_map(|request| request.kind.as_ref()) {
        match kind {
            Kind::Get(get) => {
                spans.push((Span::point(get.key.clone()), wanted(get.lock(), upto)));
            }
            Kind::Scan(scan) => {
                let span = Span::new(scan.start.clone(), scan.end.clone());
                spans.push((span, wanted(scan.lock(), upto)));
            }
            Kind::Put(put) => spans.push(exclusive(&put.key)),
            Kind::ConditionalPut(put) => spans.push(exclusive(&put.key)),
            Kind::Delete(delete) => spans.push(exclusive(&delete.key)),
            Kind::Increment(increment) => spans.push(exclusive(&increment.key)),
            Kind::DeleteRange(delete) => {
                let span = Span::new(delete.start.clone(), delete.end.clone());
                spans.push((span, LockUse::Exclusive));
            }
            Kind::Validate(validate) if commits => {
                let read = LockUse::Read { upto: Timestamp::MAX };
                spans.extend(validate.spans.iter().map(|span| (span.clone().into(), read)));
            }
            Kind::Validate(_)
            | Kind::EndTxn(_)
            | Kind::HeartbeatTxn(_)
            | Kind::PushTxn(_)
            | Kind::QueryTxn(_)
            | Kind::QueryIntent(_)
            | Kind::RecoverTxn(_)
            | Kind::ResolveIntent(_)
            | Kind::RevertIntent(_)
            | Kind::ReleaseLocks(_)
            | Kind::RemoveTxnRecord(_)
            | Kind::Gc(_)
            | Kind::Split(_)
            | Kind::Unsplit(_)
            | Kind::TransferLease(_)
            | Kind::RangeStatus(_)
            | Kind::QueryLocks(_) => {}
        }
    }
    LockRequest { txn: header.and_then(|header| header.txn.clone()), spans }
}

/// Whether a request of `batch` locks what it reads.
pub(super) fn locks_rows(batch: &BatchRequest) -> bool {
    batch.requests.iter().any(|request| match &request.kind {
        Some(Kind::Get(get)) => get.lock() != LockStrength::LockNone,
        Some(Kind::Scan(scan)) => scan.lock() != LockStrength::LockNone,
        _ => false,
    })
}

/// The lock that a read of `batch` wants of `key`.
pub(super) fn lock_of(batch: &BatchRequest, key: &Key) -> Option<LockStrength> {
    let strengths = batch.requests.iter().map(|request| match &request.kind {
        Some(Kind::Get(get)) if get.key == *key => get.lock(),
        Some(Kind::Scan(scan)) if scan.start <= *key && *key < scan.end => scan.lock(),
        _ => LockStrength::LockNone,
    });
    strengths.max().filter(|strength| *strength != LockStrength::LockNone)
}

fn wanted(lock: LockStrength, upto: Timestamp) -> LockUse {
    match lock {
        LockStrength::LockNone => LockUse::Read { upto },
        LockStrength::LockShared => LockUse::Shared,
        LockStrength::LockExclusive => LockUse::Exclusive,
    }
}

fn exclusive(key: &Key) -> (Span, LockUse) {
    (Span::point(key.clone()), LockUse::Exclusive)
}

/// The largest timestamp that the batch speaks of: the clock goes past it, so that whoever reads
/// the present later reads above it.
pub(super) fn latest_timestamp(batch: &BatchRequest) -> Timestamp {
    let header = batch.header.as_ref();
    let of_header = header.into_iter().flat_map(|header| {
        let txn = header.txn.as_ref().and_then(|txn| txn.write_timestamp);
        [header.now, header.read_timestamp, txn]
    });
    let of_requests = batch.requests.iter().map(|request| match &request.kind {
        Some(Kind::ResolveIntent(resolve)) => resolve.commit_timestamp,
        Some(Kind::QueryIntent(query)) => query.txn.as_ref()?.write_timestamp,
        Some(Kind::RecoverTxn(recover)) => recover.txn.as_ref()?.write_timestamp,
        _ => None,
    });
    let all = of_header.chain(of_requests).flatten();
    all.map(Timestamp::from).max().unwrap_or_default()
}

/// The largest timestamp up to which the batch keeps others from writing, but for its reads: that
/// of the intents which it prevents.
pub(super) fn prevented(batch: &BatchRequest) -> Timestamp {
    let prevented = batch.requests.iter().filter_map(|request| match &request.kind {
        Some(Kind::QueryIntent(query)) if query.prevent => query.txn.as_ref()?.write_timestamp,
        _ => None,
    });
    prevented.map(Timestamp::from).max().unwrap_or_default()
}
