//! A [`Sender`] over one state in memory, for the tests of the layers above.
//!
//! What it is: the evaluation that a leaseholder does, on one copy without replication. What it is
//! not: it is never part of a node; nothing survives it, and it fails only as a request deserves.
//! It has the ranges a cluster starts with, so a batch over two of them is refused as by the real
//! sender.
//!
//! Invariants:
//! 1. Batches take effect one after the other, in an order that agrees with their timestamps.

use crdb_keys::{Timestamp, hlc::Clock, layout};
use crdb_proto::kv::{
    BatchRequest, BatchResponse, LockConflict, RangeDescriptor, error::Kind as ErrorKind,
};
use crdb_storage::{
    Engine as _, MemoryEngine, Sync,
    evaluate::{self, At, EvalArgs, EvalError},
};
use futures::future::{BoxFuture, FutureExt as _, ready};
use parking_lot::Mutex;

use crate::{SendError, Sender};

/// Serves batches from memory. Test double of [`crate::DistSender`].
#[derive(Debug)]
pub struct LocalSender {
    engine: MemoryEngine,
    clock: Clock,
    /// Held while a batch gets its timestamps, is evaluated and takes effect.
    serial: Mutex<()>,
}

impl LocalSender {
    /// A sender over an empty state that takes its timestamps from `clock`.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { engine: MemoryEngine::new(), clock, serial: Mutex::new(()) }
    }

    /// The state, for tests that look below the sender.
    #[must_use]
    pub fn engine(&self) -> &MemoryEngine {
        &self.engine
    }

    /// The clock that gives the timestamps.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Serves one batch, as [`Sender::send`] does.
    pub fn execute(&self, batch: &BatchRequest) -> Result<BatchResponse, SendError> {
        let invalid = |message: String| SendError::Invalid { message };
        check_range(batch)?;
        let header = batch.header.clone().unwrap_or_default();
        let named = header.read_timestamp.map(Timestamp::from);
        for heard in [header.now.map(Timestamp::from), named].into_iter().flatten() {
            self.clock.update(heard).map_err(|error| invalid(error.to_string()))?;
        }
        let _serial = self.serial.lock();
        loop {
            let now = self.clock.now();
            let at = At { read: named.unwrap_or(now), write: now };
            let args = EvalArgs::alone(at, now);
            let evaluated = match evaluate::evaluate(&self.engine, batch, &args) {
                Ok(evaluated) => evaluated,
                Err(EvalError::Intents(intents)) => {
                    let (key, holder) = intents.into_iter().next().unwrap_or_default();
                    return Err(SendError::from_range(evaluate::kv_error(
                        ErrorKind::LockConflict(LockConflict {
                            key,
                            holder: Some(holder),
                            timed_out: false,
                        }),
                        "a key is locked by another transaction",
                    )));
                }
                Err(EvalError::WriteTooOld { newest, .. }) => {
                    self.clock.forward(newest);
                    continue;
                }
                Err(EvalError::Kv(error)) => return Err(SendError::from_range(*error)),
                Err(EvalError::Storage(error)) => {
                    return Err(SendError::Unavailable { message: error.to_string() });
                }
            };
            let wrote = !evaluated.batch.is_empty();
            if wrote {
                self.engine
                    .write(&evaluated.batch, Sync::Yes)
                    .map_err(|error| SendError::Ambiguous { message: error.to_string() })?;
            }
            return Ok(BatchResponse {
                now: Some(self.clock.now().into()),
                read_timestamp: Some(evaluated.read_timestamp.into()),
                write_timestamp: evaluated.write_timestamp.map(Into::into),
                responses: evaluated.responses,
                error: None,
            });
        }
    }
}

impl Sender for LocalSender {
    fn send(&self, batch: BatchRequest) -> BoxFuture<'_, Result<BatchResponse, SendError>> {
        ready(self.execute(&batch)).boxed()
    }
}

fn check_range(batch: &BatchRequest) -> Result<(), SendError> {
    let spans = evaluate::latch_spans(batch);
    let Some((first, _)) = spans.first() else {
        return Err(SendError::Invalid { message: "the batch names no key".to_owned() });
    };
    let home =
        layout::bootstrap_ranges().into_iter().find(|(_, span)| span.contains_key(&first.start));
    let Some((id, span)) = home else {
        let message = format!("no range holds {}", crdb_keys::pretty::Pretty(&first.start));
        return Err(SendError::Invalid { message });
    };
    let descriptor = RangeDescriptor {
        range_id: id.get(),
        start_key: span.start,
        end_key: span.end,
        ..RangeDescriptor::default()
    };
    match evaluate::out_of_bounds(batch, &descriptor) {
        Some(error) => Err(SendError::CrossRange { message: error.message }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use crdb_keys::hlc::ManualClock;
    use crdb_proto::kv::{
        BatchHeader, GetRequest, IncrementRequest, PutRequest, Request, request::Kind,
        response::Kind as Answer,
    };

    use super::*;

    fn sender() -> LocalSender {
        LocalSender::new(Clock::new(Arc::new(ManualClock::new(1_000)), Duration::from_nanos(500)))
    }

    fn batch(kinds: impl IntoIterator<Item = Kind>) -> BatchRequest {
        let requests = kinds.into_iter().map(|kind| Request { kind: Some(kind) }).collect();
        BatchRequest { header: None, requests }
    }

    fn get(key: &'static [u8]) -> Kind {
        Kind::Get(GetRequest { key: key.into(), ..Default::default() })
    }

    fn put(key: &'static [u8], value: &'static [u8]) -> Kind {
        Kind::Put(PutRequest { key: key.into(), value: value.into() })
    }

    fn value(response: &BatchResponse) -> Option<&[u8]> {
        match response.responses.last().unwrap().kind.as_ref().unwrap() {
            Answer::Get(get) => get.value.as_deref(),
            other => panic!("not a get: {other:?}"),
        }
    }

    #[test]
    fn reads_at_a_named_timestamp_see_the_past() {
        let sender = sender();
        let first = sender.execute(&batch([put(b"\x05a", b"1")])).unwrap();
        sender.execute(&batch([put(b"\x05a", b"2")])).unwrap();
        assert_eq!(value(&sender.execute(&batch([get(b"\x05a")])).unwrap()), Some(&b"2"[..]));
        let header = BatchHeader { read_timestamp: first.write_timestamp, ..Default::default() };
        let past = BatchRequest { header: Some(header), ..batch([get(b"\x05a")]) };
        let past = sender.execute(&past).unwrap();
        assert_eq!(value(&past), Some(&b"1"[..]));
        assert_eq!(past.read_timestamp, first.write_timestamp);
        assert_eq!(past.write_timestamp, None);
    }

    #[test]
    fn a_batch_over_two_ranges_or_none_is_refused() {
        let sender = sender();
        let error = sender.execute(&batch([put(b"\x05a", b""), get(b"\x04a")])).unwrap_err();
        assert!(matches!(error, SendError::CrossRange { .. }), "{error:?}");
        let error = sender.execute(&batch([get(b"\x01a")])).unwrap_err();
        assert!(matches!(error, SendError::Invalid { .. }), "{error:?}");
        let error = sender.execute(&batch([])).unwrap_err();
        assert!(matches!(error, SendError::Invalid { .. }), "{error:?}");
    }

    #[test]
    fn increments_from_many_threads_are_all_there() {
        let sender = sender();
        let one =
            || batch([Kind::Increment(IncrementRequest { key: b"\x04n"[..].into(), delta: 1 })]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| drop(sender.execute(&one()).unwrap())));
            }
        });
        assert_eq!(value(&sender.execute(&batch([get(b"\x04n")])).unwrap()), Some(&b"200"[..]));
    }
}
