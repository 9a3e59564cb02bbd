//! Resolves the intents of a transaction that has ended, and then removes its record.
//!
//! What it is: the one place from which intents are resolved as a whole and from which records are
//! removed. What it is not: it does not find out how a transaction ended, see `recovery`; and one
//! who is held up by a few intents resolves these, see `contention`.
//!
//! ```text
//! spans ─▶ ResolveIntent ... ─▶ Resolved: what the ranges say is done ─▶ RemoveTxnRecord
//!   ▲                                                                        │
//!   └───────────────── what of the record's list is not shown to be done ◀───┘
//! ```
//!
//! Invariants:
//! 1. The record of a transaction that has committed goes only for what ranges said is done of the
//!    spans that the record itself lists. What was asked of them counts for nothing: without the
//!    record, an intent that is left is one of an aborted transaction to whoever meets it.
//! 2. The range of the record compares the two. A mistake here leaves the record.

use bytes::Bytes;
use crdb_keys::Timestamp;
use crdb_proto::kv::{
    BatchRequest, RemoveTxnRecordRequest, Request, ResolveIntentRequest, Span, TxnStatus, request,
    response,
};

use crate::{Limits, SendError, Sender};

/// How often a record is asked what it still lists. Its list grows no more.
const PASSES: usize = 3;

/// A transaction that has ended, and how.
pub(crate) struct Ended<'a> {
    pub(crate) id: &'a Bytes,
    /// Where its record is.
    pub(crate) anchor: &'a Bytes,
    /// Timestamp of the commit; `None` if it was rolled back.
    pub(crate) commit: Option<Timestamp>,
    pub(crate) limits: Limits,
    /// It is planted that what was asked for counts as done.
    pub(crate) planted: bool,
}

/// Where no intent of a transaction is left, as the ranges said.
#[must_use = "a record is removed by what it says"]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    spans: Vec<Span>,
}

impl Resolved {
    fn add(&mut self, done: Vec<Span>) {
        for span in done {
            match self.spans.last_mut() {
                // A range goes on where it stopped.
                Some(last) if !last.end.is_empty() && last.end == span.start => {
                    last.end = match span.end.is_empty() {
                        true => crdb_keys::encoding::next_key(&span.start).into(),
                        false => span.end,
                    };
                }
                _ => self.spans.push(span),
            }
        }
    }
}

impl Ended<'_> {
    /// Resolves all intents in `spans`.
    pub(crate) async fn resolve(
        &self,
        sender: &dyn Sender,
        spans: &[Span],
    ) -> Result<Resolved, SendError> {
        let status = match self.commit {
            Some(_) => TxnStatus::Committed,
            None => TxnStatus::Aborted,
        };
        let resolve = |span: &Span| {
            request::Kind::ResolveIntent(ResolveIntentRequest {
                start: span.start.clone(),
                end: span.end.clone(),
                txn_id: self.id.clone(),
                status: status.into(),
                commit_timestamp: self.commit.map(Into::into),
                max_keys: 0,
            })
        };
        let mut resolved = Resolved::default();
        let size = |span: &Span| span.start.len() + span.end.len();
        for spans in pieces(spans, self.limits.cleanup_requests, self.limits.cleanup_bytes, size) {
            for answer in send(sender, spans.iter().map(resolve)).await? {
                match answer {
                    Some(response::Kind::ResolveIntent(answer)) => resolved.add(answer.done),
                    _ => return Err(strange("resolution")),
                }
            }
            if self.planted {
                resolved.spans.extend(spans.to_vec());
            }
        }
        Ok(resolved)
    }

    /// Removes the record; what it lists and `resolved` does not show to be done is resolved first.
    pub(crate) async fn remove_record(
        &self,
        sender: &dyn Sender,
        mut resolved: Resolved,
    ) -> Result<(), SendError> {
        for _ in 0..PASSES {
            let remove = RemoveTxnRecordRequest {
                anchor: self.anchor.clone(),
                txn_id: self.id.clone(),
                resolved: resolved.spans.clone(),
            };
            let left = match send(sender, [request::Kind::RemoveTxnRecord(remove)]).await?.pop() {
                Some(Some(response::Kind::RemoveTxnRecord(answer))) => answer.left,
                _ => return Err(strange("removal of a record")),
            };
            if left.is_empty() {
                return Ok(());
            }
            resolved.spans.extend(self.resolve(sender, &left).await?.spans);
        }
        let message = "ranges do not say that no intent of a transaction is left".to_owned();
        Err(SendError::Unavailable { message })
    }
}

/// Cuts a list into pieces of at most so many items and, of more than one, so many bytes.
pub(crate) fn pieces<'a, T>(
    mut list: &'a [T],
    items: usize,
    bytes: usize,
    size: impl Fn(&T) -> usize + 'a,
) -> impl Iterator<Item = &'a [T]> {
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = list.iter().take(items).take_while(|item| {
            sum += size(item);
            sum <= bytes
        });
        let count = fits.count().max(1);
        let (piece, rest) = list.split_at_checked(count)?;
        list = rest;
        Some(piece)
    })
}

/// Sends requests of no transaction; returns an answer for each.
pub(crate) async fn send(
    sender: &dyn Sender,
    kinds: impl IntoIterator<Item = request::Kind>,
) -> Result<Vec<Option<response::Kind>>, SendError> {
    let requests: Vec<Request> =
        kinds.into_iter().map(|kind| Request { kind: Some(kind) }).collect();
    let sent = requests.len();
    let response = sender.send(BatchRequest { header: None, requests }).await?;
    if response.responses.len() != sent {
        return Err(strange("batch"));
    }
    Ok(response.responses.into_iter().map(|response| response.kind).collect())
}

/// A range gave an answer that does not belong to what it was asked.
pub(crate) fn strange(what: &str) -> SendError {
    SendError::Unavailable { message: format!("the answer to a {what} cannot be made out") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_of_few_items_and_few_bytes_and_leave_nothing_out() {
        let cut = |list: &[usize], items, bytes| -> Vec<Vec<usize>> {
            pieces(list, items, bytes, |item| *item).map(<[usize]>::to_vec).collect()
        };
        assert_eq!(cut(&[1, 1, 1], 2, 10), [vec![1, 1], vec![1]]);
        assert_eq!(cut(&[4, 6, 1, 30, 2], 9, 10), [vec![4, 6], vec![1], vec![30], vec![2]]);
        assert_eq!(cut(&[5, 5], 1, 1), [vec![5], vec![5]]);
        assert!(cut(&[], 1, 1).is_empty());
    }

    #[test]
    fn what_goes_on_where_it_stopped_is_one_span() {
        let span =
            |start: &'static str, end: &'static str| Span { start: start.into(), end: end.into() };
        let mut resolved = Resolved::default();
        resolved.add(vec![span("a", ""), span("b", "c"), span("c", "f")]);
        resolved.add(vec![span("f", "g"), span("k", "l")]);
        assert_eq!(resolved.spans, [span("a", ""), span("b", "g"), span("k", "l")]);
    }
}
