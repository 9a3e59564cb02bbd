//! Finds out what became of a transaction whose coordinator is silent or does not know.
//!
//! ```text
//! STAGING ─▶ is each write in flight there? ─┬ all ──▶ RecoverTxn(committed) ─▶ COMMITTED
//!            (and can it come any more: no)   └ one is missing, for ever ─────▶ ABORTED
//! ```
//!
//! An abandoned record, which says COMMITTED or STAGING and which nobody cares for, is cleaned away
//! in the same order as by a coordinator: its end is found out, then all its intents are resolved,
//! then it goes.
//!
//! Invariants:
//! 1. A query that finds a write missing prevents it for good, so that two recoveries and a
//!    coordinator that is late cannot come to different ends.
//! 2. The record decides: if it moved meanwhile, that is the answer.
//! 3. A record is removed only once none of the intents that it lists is left, wherever they are:
//!    without it, they would be those of an aborted transaction.

use crdb_keys::Timestamp;
use crdb_proto::kv::{
    PushTxnRequest, PushTxnResponse, QueryIntentRequest, QueryTxnRequest, QueryTxnResponse,
    RecoverTxnRequest, SequencedWrite, TxnMeta, TxnRecord, TxnStatus, request, response,
};

use crate::resolution::{Ended, Resolved, pieces, send};
use crate::{Limits, SendError, Sender};

/// Ends the transaction of a STAGING record by what of it is there. The record that comes back has
/// ended, or was staged anew meanwhile; `None` if all of it is gone.
pub(crate) async fn recover(
    sender: &dyn Sender,
    record: &TxnRecord,
    limits: &Limits,
) -> Result<Option<TxnRecord>, SendError> {
    let meta = record.meta.clone().unwrap_or_default();
    let mut committed = true;
    let size = |write: &SequencedWrite| write.key.len();
    let (keys, bytes) = (limits.recovery_writes, limits.cleanup_bytes);
    for writes in pieces(&record.in_flight, keys, bytes, size) {
        let queries = writes.iter().map(|write| {
            request::Kind::QueryIntent(QueryIntentRequest {
                key: write.key.clone(),
                txn: Some(TxnMeta { sequence: write.sequence, ..meta.clone() }),
                prevent: true,
            })
        });
        for answer in send(sender, queries).await? {
            match answer {
                Some(response::Kind::QueryIntent(intent)) => committed &= intent.found,
                _ => return Err(strange()),
            }
        }
        if !committed {
            break;
        }
    }
    let recover = RecoverTxnRequest { txn: Some(meta), implicitly_committed: committed };
    match send(sender, [request::Kind::RecoverTxn(recover)]).await?.pop().flatten() {
        Some(response::Kind::RecoverTxn(answer)) => Ok(answer.record),
        _ => Err(strange()),
    }
}

/// Asks the record of a transaction to give way.
pub(crate) async fn push(
    sender: &dyn Sender,
    push: PushTxnRequest,
) -> Result<PushTxnResponse, SendError> {
    match send(sender, [request::Kind::PushTxn(push)]).await?.pop().flatten() {
        Some(response::Kind::PushTxn(answer)) => Ok(answer),
        _ => Err(strange()),
    }
}

/// Asks for the record of a transaction, if it has one, and for who waits for it.
pub(crate) async fn query(
    sender: &dyn Sender,
    txn: &TxnMeta,
) -> Result<QueryTxnResponse, SendError> {
    let query = QueryTxnRequest { txn: Some(txn.clone()) };
    match send(sender, [request::Kind::QueryTxn(query)]).await?.pop().flatten() {
        Some(response::Kind::QueryTxn(answer)) => Ok(answer),
        _ => Err(strange()),
    }
}

/// What became of a transaction that its coordinator will do nothing more for: the timestamp of
/// its commit, or `None` once it can never commit.
pub(crate) async fn outcome(
    sender: &dyn Sender,
    txn: &TxnMeta,
    limits: &Limits,
) -> Result<Option<Timestamp>, SendError> {
    let pushed = PushTxnRequest {
        pushee: Some(txn.clone()),
        pusher: None,
        force: true,
        dependents: Vec::new(),
    };
    let pushed = push(sender, pushed).await?;
    let mut record = pushed.record;
    if let Some(staging) = record.as_ref().filter(|record| record.status() == TxnStatus::Staging) {
        record = recover(sender, staging, limits).await?;
    }
    let ended = record.as_ref().map(|record| (record.status(), commit_timestamp(record)));
    match ended {
        Some((TxnStatus::Committed, Some(at))) => Ok(Some(at)),
        Some((TxnStatus::Aborted, _)) => Ok(None),
        _ => Err(strange()),
    }
}

/// Cleans up after the transaction of a record that nobody cares for any more, see
/// [`crdb_storage::evaluate::ABANDONED_AFTER`]. Returns whether the record is gone; it stays if the
/// transaction moved on.
pub async fn clean_up_after(
    sender: &dyn Sender,
    record: &TxnRecord,
    limits: Limits,
) -> Result<bool, SendError> {
    let recovered = match record.status() {
        TxnStatus::Staging => recover(sender, record, &limits).await?,
        _ => Some(record.clone()),
    };
    let Some(record) = recovered else { return Ok(true) };
    let commit = match (record.status(), commit_timestamp(&record)) {
        (TxnStatus::Committed, Some(at)) => Some(at),
        (TxnStatus::Aborted, _) => None,
        _ => return Ok(false),
    };
    let meta = record.meta.clone().unwrap_or_default();
    let ended = Ended { id: &meta.id, anchor: &meta.anchor, commit, limits, planted: false };
    let resolved: Resolved = ended.resolve(sender, &record.intents).await?;
    ended.remove_record(sender, resolved).await?;
    Ok(true)
}

/// Timestamp of the versions of a transaction that has committed.
pub(crate) fn commit_timestamp(record: &TxnRecord) -> Option<Timestamp> {
    record.meta.as_ref()?.write_timestamp.map(Into::into)
}

fn strange() -> SendError {
    SendError::Unavailable { message: "the record of a transaction cannot be made out".to_owned() }
}
