//! What a batch touches, as far as its requests tell.

use crdb_keys::{Access, Key, Span, pretty::Pretty};
use crdb_proto::kv::{self, BatchRequest, error, request};

use super::kv_error;

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
            Kind::Get(get) => {
                spans.push((Span::point(get.key.clone()), locking(get.lock)));
            }
            Kind::Scan(scan) => {
                let span = Span::new(scan.start.clone(), scan.end.clone());
                spans.push((span, locking(scan.lock)));
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
            // Removes nothing that a read which is allowed may see: it need not wait for anybody.
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

/// How a read uses its keys: one that takes exclusive locks shuts out others that would take them,
/// too, from the look at the lock table until it has them.
fn locking(strength: i32) -> Access {
    if strength == kv::LockStrength::LockExclusive as i32 { Access::Write } else { Access::Read }
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
    // The latch of a collection is but its first key; what it removes must be of this range, too.
    let collected = batch.requests.iter().filter_map(|request| match &request.kind {
        Some(request::Kind::Gc(gc)) => Some(span_or_point(&gc.start, &gc.end)),
        _ => None,
    });
    let latched = latch_spans(batch).into_iter().map(|(span, _)| span);
    let span = latched.chain(collected).find(outside)?;
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
