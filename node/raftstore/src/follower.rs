//! Reads of the settled past, at a replica without the lease.
//!
//! ```text
//! closed ≥ timestamp? ─ snapshot ─ evaluate ─ still closed? still here? ─▶ answer
//! ```
//!
//! The timestamp must be closed up to the end of the uncertainty interval too: what was written
//! there may not have come here. Everything at or below is applied here when it is published as
//! closed, so a snapshot taken afterwards has it; and what could take data away, a snapshot of the
//! range or the removal of the replica, withdraws that before it does. The leaseholder need not
//! know of the read: nobody writes there any more. An intent in the way sends the reader to the
//! leaseholder, which can ask how its transaction ended.
//!
//! The reader has written nothing that it must see: intents of its own may not have come here.

use crdb_keys::Timestamp;
use crdb_proto::kv::{self, BatchRequest, LockStrength, Response, Routing, request::Kind};
use crdb_storage::{
    Engine,
    evaluate::{self, At, EvalArgs, EvalError},
};

use crate::{
    config::PlantedBug,
    handle::{ReplicaHandle, StoreHandle},
};

/// What a read was answered, and as of when.
pub(crate) type Answer = (Timestamp, Result<Vec<Response>, Box<kv::Error>>);

/// Answers `request` from `replica` without a lease; `None` if only the leaseholder can.
pub(crate) fn read<E: Engine>(
    store: &StoreHandle<E>,
    replica: &ReplicaHandle,
    request: &BatchRequest,
) -> Option<Answer> {
    let config = store.config();
    let header = request.header.as_ref()?;
    let wanted = header.routing() == Routing::Nearest && config.settings.follower_reads();
    if !wanted || !request.requests.iter().all(|request| reads(request.kind.as_ref())) {
        return None;
    }
    let read = header.read_timestamp.map(Timestamp::from).filter(|read| !read.is_zero())?;
    let limit = header.uncertainty_limit.map_or(read, |limit| read.max(limit.into()));
    let is_closed =
        || limit <= replica.history.closed() || config.has(PlantedBug::FollowerReadAboveClosed);
    if !is_closed() {
        return None;
    }
    let snapshot = store.engine().snapshot();
    let args = EvalArgs {
        certain_above: Timestamp::MAX,
        gc_threshold: replica.history.threshold(),
        limits: config.storage,
        ..EvalArgs::alone(At { read, write: Timestamp::ZERO }, store.clock().now())
    };
    let answer = match evaluate::evaluate(&snapshot, request, &args) {
        Ok(evaluated) => Ok(evaluated.responses),
        Err(EvalError::Kv(error)) => Err(error),
        Err(EvalError::Intents(_) | EvalError::WriteTooOld { .. } | EvalError::Storage(_)) => {
            return None;
        }
    };
    // In this order: what narrows the replica shows its bounds before anything is closed again.
    let still = is_closed()
        && !replica.is_removed()
        && !store.is_stopped()
        && evaluate::out_of_bounds(request, &replica.descriptor()).is_none();
    still.then_some((read, answer))
}

fn reads(kind: Option<&Kind>) -> bool {
    match kind {
        Some(Kind::Get(get)) => get.lock() == LockStrength::LockNone,
        Some(Kind::Scan(scan)) => scan.lock() == LockStrength::LockNone,
        _ => false,
    }
}
