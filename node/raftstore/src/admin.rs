//! Requests about a range as a whole: split, unsplit, lease transfer, status.
//!
//! Each comes as the one request of its batch and is evaluated like any other, under the lease and
//! its latches. A split and an unsplit hold the latch on the whole range, so nothing is served
//! between the moment they fix, T, and the moment they are applied; what waits behind them looks
//! at its bounds again. The other two hold none.
//!
//! Invariants:
//! 1. What a request asks for and what is there already makes no command: repeating it is
//!    harmless.
//! 2. A command about the descriptor names the generation it builds on and is void on any other.

use crdb_concurrency::{LatchGuard, Latches};
use crdb_keys::{Key, RangeId, Span, StoreId, Timestamp, layout, pretty::Pretty};
use crdb_proto::kv::{
    self, BatchRequest, RangeDescriptor, ReplicaType, error::Kind as ErrorKind, request::Kind,
    response::Kind as Response,
};
use crdb_storage::{Engine, Family, evaluate::kv_error, mvcc};

use crate::{
    command::{Kind as CommandKind, Split},
    config::Mono,
    handle::{ReplicaHandle, StoreHandle},
    io::Effect,
    limits::Limits,
};

/// What comes of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// To be brought about; then this is the answer.
    Propose(Effect, Box<Response>),
    /// Nothing is to be done.
    Reply(Result<Box<Response>, Box<kv::Error>>),
}

/// The request of `batch`, if it is one about a range as a whole.
pub(crate) fn of(batch: &BatchRequest) -> Option<&Kind> {
    let [request] = batch.requests.as_slice() else { return None };
    request.kind.as_ref().filter(|kind| {
        matches!(
            kind,
            Kind::Split(_) | Kind::Unsplit(_) | Kind::TransferLease(_) | Kind::RangeStatus(_)
        )
    })
}

/// Queues up for what `request` must have to itself.
pub(crate) fn latch(request: &Kind, latches: &std::sync::Arc<Latches>) -> LatchGuard {
    match request {
        Kind::Split(_) | Kind::Unsplit(_) => latches.acquire_all(),
        _ => latches.acquire(&[]),
    }
}

/// Evaluates `request` at `replica`, which holds the lease with the number `lease_sequence`; `at`
/// is above all it served.
pub(crate) fn evaluate<E: Engine>(
    store: &StoreHandle<E>,
    replica: &ReplicaHandle,
    snapshot: &E::Snapshot,
    request: &Kind,
    (at, lease_sequence): (Timestamp, u64),
    now: Mono,
) -> Outcome {
    let descriptor = replica.descriptor();
    match request {
        Kind::Split(request) if store.find(RangeId(request.new_range_id)).is_some() => {
            // The range may be this one: then the answer is that it is there.
            if request.key == descriptor.start_key {
                return stick(&descriptor, request);
            }
            let message = format!("{} exists already", RangeId(request.new_range_id));
            Outcome::Reply(Err(invalid(message)))
        }
        Kind::Split(request) => {
            split(replica, &descriptor, request, &store.config().limits, (at, now))
        }
        Kind::Unsplit(request) => unsplit(&descriptor, request),
        Kind::TransferLease(request) => transfer(store, &descriptor, request),
        Kind::RangeStatus(request) => Outcome::Reply(
            crate::range_stats::status(store, replica, snapshot, request, lease_sequence)
                .map(|status| Box::new(Response::RangeStatus(status)))
                .map_err(|error| unavailable(error.to_string())),
        ),
        _ => Outcome::Reply(Err(invalid("the request is not about a range as a whole"))),
    }
}

fn split(
    replica: &ReplicaHandle,
    descriptor: &RangeDescriptor,
    request: &kv::SplitRequest,
    limits: &Limits,
    (at, now): (Timestamp, Mono),
) -> Outcome {
    if request.key == descriptor.start_key {
        return stick(descriptor, request);
    }
    if let Err(error) = check_split(descriptor, request, limits) {
        return Outcome::Reply(Err(error));
    }
    let generation = descriptor.generation + 1;
    let left = RangeDescriptor { generation, end_key: request.key.clone(), ..descriptor.clone() };
    let right = RangeDescriptor {
        range_id: request.new_range_id,
        generation,
        start_key: request.key.clone(),
        sticky_until: request.sticky_until,
        ..descriptor.clone()
    };
    let response = Box::new(Response::Split(kv::SplitResponse { right: Some(right.clone()) }));
    let span = Span::new(right.start_key.clone(), right.end_key.clone());
    let handover = replica.hand_over(Some(&span), limits, now);
    let split = Split { left, right, at: at.into(), handover };
    Outcome::Propose(Effect::Command(CommandKind::Split(Box::new(split))), response)
}

/// Prolongs the life of a split that is there.
fn stick(descriptor: &RangeDescriptor, request: &kv::SplitRequest) -> Outcome {
    let until = |timestamp: Option<kv::Timestamp>| timestamp.map(Timestamp::from);
    if until(request.sticky_until) <= until(descriptor.sticky_until) {
        let right = Some(descriptor.clone());
        return Outcome::Reply(Ok(Box::new(Response::Split(kv::SplitResponse { right }))));
    }
    let next = RangeDescriptor {
        generation: descriptor.generation + 1,
        sticky_until: request.sticky_until,
        ..descriptor.clone()
    };
    let response = Box::new(Response::Split(kv::SplitResponse { right: Some(next.clone()) }));
    Outcome::Propose(Effect::Command(CommandKind::Describe(next)), response)
}

fn check_split(
    descriptor: &RangeDescriptor,
    request: &kv::SplitRequest,
    limits: &Limits,
) -> Result<(), Box<kv::Error>> {
    let key: &Key = &request.key;
    // Who looks a range up reads the meta range, and finds that without looking it up.
    if *key < layout::meta_span().end {
        return Err(invalid("the meta range cannot be split"));
    }
    let max = limits.split_key_bytes_max;
    if key.len() > max {
        return Err(invalid(format!("a split key has at most {max} bytes")));
    }
    let reserved =
        layout::bootstrap_ranges().iter().any(|(id, _)| id.get() == request.new_range_id);
    if request.new_range_id == 0 || reserved || request.new_range_id == descriptor.range_id {
        return Err(invalid(format!("{} is no number for a new range", request.new_range_id)));
    }
    if descriptor.replicas.iter().any(|replica| replica.r#type() != ReplicaType::Voter) {
        let range = RangeId(descriptor.range_id);
        return Err(unavailable(format!("the replicas of {range} are being changed, try again")));
    }
    Ok(())
}

fn unsplit(descriptor: &RangeDescriptor, request: &kv::UnsplitRequest) -> Outcome {
    if request.key != descriptor.start_key {
        let message = format!("no range starts at {}", Pretty(&request.key));
        return Outcome::Reply(Err(invalid(message)));
    }
    let response = Box::new(Response::Unsplit(kv::UnsplitResponse {}));
    if descriptor.sticky_until.is_none() {
        return Outcome::Reply(Ok(response));
    }
    let next = RangeDescriptor {
        generation: descriptor.generation + 1,
        sticky_until: None,
        ..descriptor.clone()
    };
    Outcome::Propose(Effect::Command(CommandKind::Describe(next)), response)
}

fn transfer<E: Engine>(
    store: &StoreHandle<E>,
    descriptor: &RangeDescriptor,
    request: &kv::TransferLeaseRequest,
) -> Outcome {
    let response = Box::new(Response::TransferLease(kv::TransferLeaseResponse {}));
    let target = descriptor.replicas.iter().find(|replica| {
        replica.node_id == request.to_node
            && matches!(replica.r#type(), ReplicaType::Voter | ReplicaType::VoterIncoming)
    });
    match target {
        None => Outcome::Reply(Err(invalid(format!(
            "n{} has no voter of {}, the lease cannot go there",
            request.to_node,
            RangeId(descriptor.range_id)
        )))),
        Some(target) if target.store_id == store.config().store_id.get() => {
            Outcome::Reply(Ok(response))
        }
        Some(target) => Outcome::Propose(Effect::TransferLease(StoreId(target.store_id)), response),
    }
}

/// Adds to an error that sends its caller elsewhere what this store knows about the keys `spans`.
pub(crate) fn add_known<E: Engine>(
    store: &StoreHandle<E>,
    spans: impl Iterator<Item = Key>,
    error: &mut kv::Error,
) {
    let Some(ErrorKind::RangeMismatch(mismatch)) = &mut error.kind else { return };
    for key in spans {
        let Some(known) = store.descriptor_of(&key) else { continue };
        if !mismatch.descriptors.iter().any(|other| other.range_id == known.range_id) {
            mismatch.descriptors.push((*known).clone());
        }
    }
}

/// About how many bytes the range takes.
pub(crate) fn approximate_bytes(
    engine: &impl Engine,
    descriptor: &RangeDescriptor,
) -> Result<u64, crdb_storage::Error> {
    let span = Span::new(descriptor.start_key.clone(), descriptor.end_key.clone());
    let (start, end) = mvcc::engine_span(&span);
    let mut bytes = 0;
    for family in [Family::State, Family::Lock] {
        bytes += engine.approximate_size(family, &start, &end)?;
    }
    Ok(bytes)
}

fn invalid(message: impl Into<String>) -> Box<kv::Error> {
    Box::new(kv_error(ErrorKind::Invalid(kv::Invalid {}), message))
}

fn unavailable(message: impl Into<String>) -> Box<kv::Error> {
    Box::new(kv_error(ErrorKind::Unavailable(kv::Unavailable {}), message))
}
