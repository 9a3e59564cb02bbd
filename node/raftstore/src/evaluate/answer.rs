//! The responses of an evaluation: what the leaseholder's memory adds to them, and errors.

use std::ops::ControlFlow;

use crdb_keys::{Key, Span};
use crdb_proto::kv::{
    self, BatchRequest, BatchResponse, LockStrength, Response, TxnStatus, error::Kind as ErrorKind,
    request::Kind as Request, response::Kind as Answer,
};
use crdb_storage::{Engine, Reader, lock, mvcc::Direction};

use super::{Chosen, Evaluation};
use crate::{
    admin,
    config::Mono,
    handle::{ReplicaHandle, StoreHandle},
    io::ProposalResult,
};

/// Whether all requests of `batch` are about the lock table. Such batches are not evaluated.
pub(super) fn is_about_locks(batch: &BatchRequest) -> bool {
    let about_locks = |request: &kv::Request| {
        matches!(request.kind, Some(Request::ReleaseLocks(_) | Request::QueryLocks(_)))
    };
    !batch.requests.is_empty() && batch.requests.iter().all(about_locks)
}

/// First half of the answers to a batch about locks: the intents that are asked for.
pub(super) fn about_locks(
    batch: &BatchRequest,
    reader: &impl Reader,
    most: usize,
) -> Result<Vec<Response>, crdb_storage::Error> {
    let answer = |request: &kv::Request| {
        let Some(Request::QueryLocks(query)) = &request.kind else {
            return Ok(Response::default());
        };
        let span = span_or_point(&query.start, &query.end);
        let (max, mut locks) = (shown_max(query, most), Vec::new());
        lock::scan_intents(reader, &span, Direction::Forward, &mut |key, intent| {
            locks.push(kv::LockInfo {
                key,
                strength: LockStrength::LockExclusive.into(),
                replicated: true,
                holder: intent.txn,
                ..kv::LockInfo::default()
            });
            if locks.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(Response { kind: Some(Answer::QueryLocks(kv::QueryLocksResponse { locks })) })
    };
    batch.requests.iter().map(answer).collect()
}

/// Completes `responses` from the memory of the leaseholder, and notes there what they say: waits
/// of transactions, locks given up. To be called with the latches held, under a valid lease.
pub(super) fn complete<E: Engine>(
    store: &StoreHandle<E>,
    replica: &ReplicaHandle,
    batch: &BatchRequest,
    responses: &mut [Response],
    now: Mono,
) {
    for (request, response) in batch.requests.iter().zip(responses) {
        match (&request.kind, &mut response.kind) {
            (Some(Request::PushTxn(push)), Some(Answer::PushTxn(answer))) => {
                note_wait(store, push, answer, now);
            }
            (Some(Request::QueryTxn(query)), Some(Answer::QueryTxn(answer))) => {
                if let Some(txn) = &query.txn {
                    let mut waits = store.shared.txn_waits.lock();
                    answer.dependents = waits.dependents_of(&txn.id, now.0);
                }
            }
            (Some(Request::ReleaseLocks(release)), answer) => {
                let span = span_or_point(&release.start, &release.end);
                if release.ended {
                    // First: what asks in between must not get what was just released.
                    replica.locks.end(&release.txn_id, now.0);
                }
                replica.locks.release(&release.txn_id, Some(&span));
                *answer = Some(Answer::ReleaseLocks(kv::ReleaseLocksResponse {}));
            }
            (Some(Request::QueryLocks(query)), Some(Answer::QueryLocks(answer))) => {
                let max = shown_max(query, store.shared.config.limits.locks_shown_max);
                add_known_locks(replica, query, &mut answer.locks, max, now);
            }
            _ => {}
        }
    }
}

/// A push that failed says that the pusher goes on waiting.
fn note_wait<E: Engine>(
    store: &StoreHandle<E>,
    push: &kv::PushTxnRequest,
    answer: &kv::PushTxnResponse,
    now: Mono,
) {
    let alive = answer
        .record
        .as_ref()
        .is_none_or(|record| matches!(record.status(), TxnStatus::Pending | TxnStatus::Staging));
    let (Some(pusher), Some(pushee)) = (&push.pusher, &push.pushee) else { return };
    if alive && !answer.recover && !pusher.id.is_empty() {
        let mut waits = store.shared.txn_waits.lock();
        waits.register(&pusher.id, &pushee.id, &push.dependents, now.0);
    }
}

/// Adds the unreplicated locks, and to the intents who waits for them.
fn add_known_locks(
    replica: &ReplicaHandle,
    query: &kv::QueryLocksRequest,
    locks: &mut Vec<kv::LockInfo>,
    max: usize,
    now: Mono,
) {
    let span = span_or_point(&query.start, &query.end);
    let known = replica.locks.list(&span, max, now.0);
    locks.retain(|intent| !known.iter().any(|lock| lock.replicated && lock.key == intent.key));
    locks.extend(known);
    locks.sort_by(|a, b| a.key.cmp(&b.key));
    locks.truncate(max);
    for lock in locks {
        lock.range_id = replica.range_id.get();
    }
}

fn shown_max(query: &kv::QueryLocksRequest, most: usize) -> usize {
    let wanted = usize::try_from(query.max_locks).unwrap_or(usize::MAX);
    if wanted == 0 { most } else { wanted.min(most) }
}

fn span_or_point(start: &Key, end: &Key) -> Span {
    if end.is_empty() { Span::point(start.clone()) } else { Span::new(start.clone(), end.clone()) }
}

impl<E: Engine> Evaluation<E> {
    pub(super) fn conclude(
        &self,
        result: ProposalResult,
        chosen: &Chosen,
        responses: Vec<Response>,
    ) -> BatchResponse {
        match (result, &self.replica) {
            (ProposalResult::Applied, _) => self.success(chosen, responses),
            (ProposalResult::NotLeaseholder, Some(replica)) => self.not_leaseholder(replica),
            (ProposalResult::Refused | ProposalResult::NotLeaseholder, _) => self.failure(
                "the range takes no more writes at the moment".into(),
                ErrorKind::Unavailable(kv::Unavailable {}),
            ),
            (ProposalResult::Failed(why), _) => {
                self.failure(why.into(), ErrorKind::Unavailable(kv::Unavailable {}))
            }
            (ProposalResult::Ambiguous, _) => self.failure(
                "the command was proposed and its fate is unknown".into(),
                ErrorKind::Ambiguous(kv::Ambiguous {}),
            ),
        }
    }

    /// Sends the caller elsewhere, with all that is known here about its keys.
    pub(super) fn misrouted(&self, mut error: kv::Error) -> BatchResponse {
        let keys = self.spans.iter().map(|(span, _)| span.start.clone());
        admin::add_known(&self.store, keys, &mut error);
        BatchResponse { error: Some(error), ..self.empty_response() }
    }

    pub(super) fn not_leaseholder(&self, replica: &ReplicaHandle) -> BatchResponse {
        let leaseholder = replica.leader_hint().filter(|_| !replica.role().is_leader);
        self.failure(
            format!(
                "{} does not hold the lease of {}",
                self.store.shared.config.store_id, replica.range_id
            ),
            ErrorKind::NotLeaseholder(kv::NotLeaseholder {
                leaseholder,
                descriptor: Some((*replica.descriptor()).clone()),
            }),
        )
    }

    /// A lock of `holder` is not waited for, or not any longer.
    pub(super) fn lock_conflict(
        &self,
        key: Key,
        holder: kv::TxnMeta,
        timed_out: bool,
    ) -> BatchResponse {
        let pretty = crdb_keys::pretty::Pretty(&key);
        let message = if timed_out {
            format!("the lock of {pretty} was not given up in time by another transaction")
        } else {
            format!("{pretty} is locked by another transaction")
        };
        let conflict = kv::LockConflict { key, holder: Some(holder), timed_out };
        self.failure(message, ErrorKind::LockConflict(conflict))
    }

    /// More requests wait for the same than may: trying again in a while is safe.
    pub(super) fn crowded(&self, max: usize) -> BatchResponse {
        let range = self.range_id().unwrap_or_default();
        let message = format!("{max} requests wait for the same keys or locks of {range} already");
        self.failure(message, ErrorKind::Unavailable(kv::Unavailable {}))
    }

    /// See [`Self::crowded`].
    pub(super) fn crowded_locks(&self) -> BatchResponse {
        self.crowded(self.store.shared.config.concurrency.lock_waiters_max)
    }

    /// The transaction ended while its request waited, so nobody hears this.
    pub(super) fn ended(&self) -> BatchResponse {
        let reason = "ABORT_REASON_CLIENT_REJECT".to_owned();
        let message = format!("the transaction has ended: {reason}");
        self.failure(message, ErrorKind::TxnAborted(kv::TxnAborted { reason }))
    }

    pub(super) fn invalid(&self, message: &str) -> BatchResponse {
        self.failure(message.into(), ErrorKind::Invalid(kv::Invalid {}))
    }

    pub(super) fn empty_response(&self) -> BatchResponse {
        BatchResponse {
            now: Some(self.store.shared.clock.now().into()),
            ..BatchResponse::default()
        }
    }

    pub(super) fn success(&self, chosen: &Chosen, responses: Vec<Response>) -> BatchResponse {
        BatchResponse {
            read_timestamp: Some(chosen.read.into()),
            write_timestamp: chosen.wrote.map(Into::into),
            responses,
            ..self.empty_response()
        }
    }

    pub(super) fn failure(&self, message: String, kind: ErrorKind) -> BatchResponse {
        BatchResponse {
            error: Some(kv::Error { message, kind: Some(kind) }),
            ..self.empty_response()
        }
    }
}
