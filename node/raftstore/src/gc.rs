//! Garbage collection of versions, as a command of the range.
//!
//! What goes is decided by the evaluation of the request, from the leaseholder's state, and
//! replicated as a write; with it goes the threshold, which is published before the versions are
//! removed. A threshold lies below what is closed: no version may appear at or below it any more,
//! or one could come back to light once the deletion above it is gone.

use bytes::Bytes;
use crdb_proto::kv::{self, BatchRequest, GcRequest, error::Kind as ErrorKind, request::Kind};
use crdb_storage::evaluate::kv_error;

use crate::{
    command::{Gc, Kind as CommandKind},
    handle::ReplicaHandle,
};

/// The request to collect garbage that `batch` is.
fn of(batch: &BatchRequest) -> Option<&GcRequest> {
    let [request] = batch.requests.as_slice() else { return None };
    match &request.kind {
        Some(Kind::Gc(gc)) => Some(gc),
        _ => None,
    }
}

/// What is wrong with `batch` if it collects garbage.
pub(crate) fn check(replica: &ReplicaHandle, batch: &BatchRequest) -> Option<Box<kv::Error>> {
    let invalid =
        |message: &str| Some(Box::new(kv_error(ErrorKind::Invalid(kv::Invalid {}), message)));
    let Some(gc) = of(batch) else {
        let among = batch.requests.iter().any(|r| matches!(r.kind, Some(Kind::Gc(_))));
        return if among { invalid("garbage is collected alone") } else { None };
    };
    let descriptor = replica.descriptor();
    if gc.start < descriptor.start_key || gc.end > descriptor.end_key {
        return invalid("garbage is collected in one range");
    }
    let Some(threshold) = gc.threshold.map(crdb_keys::Timestamp::from) else {
        return invalid("garbage collection needs a threshold");
    };
    let closed = replica.writes.closed().max(replica.history.closed());
    if threshold > closed {
        let message = format!("{threshold} is not closed yet, {closed} is");
        let kind = ErrorKind::Unavailable(kv::Unavailable {});
        return Some(Box::new(kv_error(kind, message)));
    }
    None
}

/// The command with the effect `effect` of `batch`.
pub(crate) fn command(batch: &BatchRequest, effect: Bytes) -> CommandKind {
    match of(batch).and_then(|gc| gc.threshold) {
        Some(threshold) => CommandKind::Gc(Gc { threshold, batch: effect }),
        None => CommandKind::Write(effect),
    }
}
