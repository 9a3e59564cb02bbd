//! Intents after their write: looked for, taken back, turned into versions or removed.
//!
//! A resolution says of which part of its span it is true that no intent of the transaction is left
//! once its command is applied. That is what the record of a committed transaction goes by: it is
//! removed only for who shows that all it lists is done, see [`super::record`].

use std::ops::ControlFlow;

use crdb_keys::{Key, Span, Timestamp, encoding, pretty::Pretty};
use crdb_proto::kv::{self, TxnStatus};
use prost::Message as _;

use super::{
    EvalError, Evaluation, ServedRead, TXN_ID_LEN, Writes, check_key, check_span_or_point, invalid,
    write::sequence, write_timestamp,
};
use crate::{
    Reader, lock,
    mvcc::{self, Direction},
};

type Intents = Vec<(Key, kv::Intent)>;

/// What becomes of the intents of a transaction.
#[derive(Clone, Copy)]
enum Fate {
    Version(Timestamp),
    Removed,
}

impl<R: Reader> Evaluation<'_, R> {
    pub(super) fn query_intent(
        &mut self,
        query: &kv::QueryIntentRequest,
    ) -> Result<kv::QueryIntentResponse, EvalError> {
        check_key(&query.key)?;
        let txn = query
            .txn
            .as_ref()
            .filter(|txn| txn.id.len() == TXN_ID_LEN)
            .ok_or_else(|| invalid("a query of an intent does not name its transaction"))?;
        let by = write_timestamp(txn)?;
        let found = lock::get_intent(self.reader, &query.key)?.is_some_and(|intent| {
            is_of(&intent, &txn.id)
                && sequence(&intent) >= txn.sequence
                && lock::timestamp(&intent) <= by
        });
        if !found && query.prevent {
            // A write that comes later is raised above, whoever makes it.
            let span = Span::point(query.key.clone());
            self.out.reads.push(ServedRead { span, timestamp: by, by_txn: false });
        }
        Ok(kv::QueryIntentResponse { found })
    }

    pub(super) fn resolve_intent(
        &mut self,
        resolve: &kv::ResolveIntentRequest,
    ) -> Result<kv::ResolveIntentResponse, EvalError> {
        let span = check_span_or_point(&resolve.start, &resolve.end)?;
        if resolve.txn_id.len() != TXN_ID_LEN {
            return Err(invalid("a resolution does not name its transaction"));
        }
        let fate = match (resolve.status(), resolve.commit_timestamp.map(Timestamp::from)) {
            (TxnStatus::Committed, Some(at)) if !at.is_zero() => Fate::Version(at),
            (TxnStatus::Committed, _) => {
                return Err(invalid("a resolution of committed intents has no timestamp"));
            }
            (TxnStatus::Aborted, _) => Fate::Removed,
            (TxnStatus::Pending | TxnStatus::Staging, _) => {
                return Err(invalid("intents of a transaction that has not ended stay"));
            }
        };
        let limit = if resolve.max_keys == 0 { u64::MAX } else { resolve.max_keys };
        let (intents, resume) = self.intents_of(&span, &resolve.txn_id, limit, |_| true)?;
        let resolved = intents.len() as u64;
        for (key, intent) in intents {
            if let Fate::Version(at) = fate {
                let written = lock::timestamp(&intent);
                if written > at {
                    return Err(invalid(format!(
                        "the intent at {} is at {written} and cannot be committed at {at}",
                        Pretty(&key)
                    )));
                }
                if written < at {
                    self.out.moved = self.out.moved.max(Some(at));
                }
                mvcc::put(&mut self.out.batch, &key, at, intent.value.as_deref());
            }
            lock::delete_intent(&mut self.out.batch, &key);
        }
        let done = done(span, resume.as_ref());
        self.out.resolved.extend(done.clone().map(|done| (resolve.txn_id.clone(), done)));
        let done = done.map(|done| kv::Span { start: done.start, end: done.end });
        Ok(kv::ResolveIntentResponse { resolved, resume, done: done.into_iter().collect() })
    }

    pub(super) fn revert_intent(
        &mut self,
        revert: &kv::RevertIntentRequest,
    ) -> Result<kv::RevertIntentResponse, EvalError> {
        let span = check_span_or_point(&revert.start, &revert.end)?;
        let (Some(txn), Writes::Intents(_)) = (self.txn, self.writes) else {
            return Err(invalid("only a transaction takes back its intents"));
        };
        let to = revert.to_sequence;
        let (intents, resume) =
            self.intents_of(&span, &txn.id, u64::MAX, |intent| sequence(intent) > to)?;
        for (key, mut intent) in intents {
            // Oldest first: what is behind the last write to keep goes.
            while intent.history.last().is_some_and(|write| write.sequence > to) {
                intent.history.pop();
            }
            match (intent.history.pop(), &mut intent.txn) {
                (Some(write), Some(txn)) => {
                    txn.sequence = write.sequence;
                    intent.value = write.value;
                    lock::put_intent(&mut self.out.batch, &key, &intent);
                }
                _ => {
                    lock::delete_intent(&mut self.out.batch, &key);
                    self.out.resolved.push((txn.id.clone(), Span::point(key)));
                }
            }
        }
        Ok(kv::RevertIntentResponse { resume })
    }

    /// The intents of a transaction in a span that are `wanted`, up to a bound, and what is left of
    /// the span. The first one of a batch is always taken, however large it is.
    fn intents_of(
        &self,
        span: &Span,
        txn_id: &[u8],
        limit: u64,
        wanted: impl Fn(&kv::Intent) -> bool,
    ) -> Result<(Intents, Option<kv::Span>), EvalError> {
        let limits = self.args.limits;
        let limit = limit.min(limits.resolve_keys);
        let mut intents = Intents::new();
        let mut resume = None;
        let mut bytes = self.out.batch.byte_size();
        lock::scan_intents(self.reader, span, Direction::Forward, &mut |key, intent| {
            if !is_of(&intent, txn_id) || !wanted(&intent) {
                return ControlFlow::Continue(());
            }
            if intents.len() as u64 >= limit || bytes >= limits.resolve_bytes {
                // All before it are done, also those of others.
                let start = intents.last().map_or(key, |(last, _)| encoding::next_key(last).into());
                resume = Some(kv::Span { start, end: span.end.clone() });
                return ControlFlow::Break(());
            }
            bytes += key.len() * 2 + intent.encoded_len() + 32;
            intents.push((key, intent));
            ControlFlow::Continue(())
        })?;
        Ok((intents, resume))
    }
}

/// What of a span is done when `rest` is left of it; `None` if nothing is.
fn done(span: Span, rest: Option<&kv::Span>) -> Option<Span> {
    match rest {
        None => Some(span),
        Some(rest) => Some(Span::new(span.start, rest.start.clone())).filter(|s| s.start < s.end),
    }
}

fn is_of(intent: &kv::Intent, txn_id: &[u8]) -> bool {
    intent.txn.as_ref().is_some_and(|txn| txn.id == txn_id)
}
