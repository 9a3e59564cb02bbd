//! The keys a batch touches.

use crdb_proto::kv::{self, BatchRequest, RangeDescriptor, request::Kind};

use crate::SendError;

/// Bounds of the keys of one batch, borrowed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchSpan<'a> {
    /// Smallest key.
    pub(crate) start: &'a [u8],
    /// Largest single key.
    last: &'a [u8],
    /// Largest exclusive end of a span; empty when there is none.
    end: &'a [u8],
}

impl<'a> BatchSpan<'a> {
    /// The bounds of `batch`, which must name at least one key.
    pub(crate) fn of(batch: &'a BatchRequest) -> Result<Self, SendError> {
        let mut span: Option<Self> = None;
        for request in &batch.requests {
            let Some(kind) = &request.kind else {
                return Err(invalid("a request of the batch has no kind"));
            };
            match kind {
                Kind::Get(r) => Self::point(&mut span, &r.key),
                Kind::Put(r) => Self::point(&mut span, &r.key),
                Kind::ConditionalPut(r) => Self::point(&mut span, &r.key),
                Kind::Delete(r) => Self::point(&mut span, &r.key),
                Kind::Increment(r) => Self::point(&mut span, &r.key),
                Kind::Scan(r) => Self::range(&mut span, &r.start, &r.end)?,
                Kind::DeleteRange(r) => Self::range(&mut span, &r.start, &r.end)?,
                Kind::Validate(r) => {
                    for s in &r.spans {
                        Self::any(&mut span, &s.start, &s.end)?;
                    }
                }
                Kind::EndTxn(_) | Kind::HeartbeatTxn(_) => {
                    let txn = batch.header.as_ref().and_then(|header| header.txn.as_ref());
                    Self::point(&mut span, anchor(txn)?);
                }
                Kind::PushTxn(r) => Self::point(&mut span, anchor(r.pushee.as_ref())?),
                Kind::QueryTxn(r) => Self::point(&mut span, anchor(r.txn.as_ref())?),
                Kind::RecoverTxn(r) => Self::point(&mut span, anchor(r.txn.as_ref())?),
                Kind::QueryIntent(r) => Self::point(&mut span, &r.key),
                Kind::RemoveTxnRecord(r) => Self::point(&mut span, &r.anchor),
                Kind::ResolveIntent(r) => Self::any(&mut span, &r.start, &r.end)?,
                Kind::RevertIntent(r) => Self::any(&mut span, &r.start, &r.end)?,
                Kind::ReleaseLocks(r) => Self::any(&mut span, &r.start, &r.end)?,
                Kind::Gc(r) => Self::range(&mut span, &r.start, &r.end)?,
                Kind::QueryLocks(r) => Self::range(&mut span, &r.start, &r.end)?,
                Kind::Split(r) => Self::point(&mut span, &r.key),
                Kind::Unsplit(r) => Self::point(&mut span, &r.key),
                Kind::TransferLease(r) => Self::point(&mut span, &r.key),
                Kind::RangeStatus(r) => Self::point(&mut span, &r.key),
            }
        }
        span.ok_or_else(|| invalid("the batch names no key"))
    }

    fn any(span: &mut Option<Self>, start: &'a [u8], end: &'a [u8]) -> Result<(), SendError> {
        if end.is_empty() {
            Self::point(span, start);
            Ok(())
        } else {
            Self::range(span, start, end)
        }
    }

    fn point(span: &mut Option<Self>, key: &'a [u8]) {
        let s = span.get_or_insert(Self { start: key, last: key, end: &[] });
        s.start = s.start.min(key);
        s.last = s.last.max(key);
    }

    fn range(span: &mut Option<Self>, start: &'a [u8], end: &'a [u8]) -> Result<(), SendError> {
        if start >= end {
            return Err(invalid("a span of the batch ends before it starts"));
        }
        let s = span.get_or_insert(Self { start, last: start, end });
        s.start = s.start.min(start);
        s.last = s.last.max(start);
        s.end = s.end.max(end);
        Ok(())
    }

    /// Whether the range holds every key of the batch.
    pub(crate) fn is_within(&self, range: &RangeDescriptor) -> bool {
        *range.start_key <= *self.start && self.ends_within(range)
    }

    /// Whether no key of the batch lies at or after the end of the range.
    pub(crate) fn ends_within(&self, range: &RangeDescriptor) -> bool {
        *self.last < *range.end_key && *self.end <= *range.end_key
    }
}

/// Whether the batch writes, so that a lost answer leaves its fate unknown.
pub(crate) fn has_writes(batch: &BatchRequest) -> bool {
    batch.requests.iter().any(|request| match &request.kind {
        Some(
            Kind::Get(_)
            | Kind::Scan(_)
            | Kind::Validate(_)
            | Kind::QueryTxn(_)
            | Kind::QueryIntent(_)
            | Kind::ReleaseLocks(_)
            | Kind::RangeStatus(_)
            | Kind::QueryLocks(_),
        )
        | None => false,
        Some(
            Kind::Put(_)
            | Kind::ConditionalPut(_)
            | Kind::Delete(_)
            | Kind::DeleteRange(_)
            | Kind::Increment(_)
            | Kind::EndTxn(_)
            | Kind::HeartbeatTxn(_)
            | Kind::PushTxn(_)
            | Kind::RecoverTxn(_)
            | Kind::ResolveIntent(_)
            | Kind::RevertIntent(_)
            | Kind::RemoveTxnRecord(_)
            | Kind::Gc(_)
            | Kind::Split(_)
            | Kind::Unsplit(_)
            | Kind::TransferLease(_),
        ) => true,
    })
}

/// Where the record of a transaction is.
fn anchor(txn: Option<&kv::TxnMeta>) -> Result<&[u8], SendError> {
    let anchor = txn.map(|txn| txn.anchor.as_ref()).unwrap_or_default();
    if anchor.is_empty() {
        return Err(invalid("a request about a transaction says not where its record is"));
    }
    Ok(anchor)
}

fn invalid(message: &str) -> SendError {
    SendError::Invalid { message: message.to_owned() }
}
