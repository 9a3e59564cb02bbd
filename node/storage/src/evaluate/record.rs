//! The record of a transaction: from its first heartbeat to its end.
//!
//! ```text
//!                  heartbeat            stage                 commit
//!        (none) ──────────────▶ PENDING ──────▶ STAGING ───────────────▶ COMMITTED ──▶ (removed)
//!           │  stage, commit       │              │  recovered: all there     ▲
//!           ├──────────────────────┼──────────────┴───────────────────────────┘
//!           │  push, abort         │ push, abort  │ recovered: one missing, abort
//!           └──────────────────────┴──────────────┴────────────────────▶ ABORTED ────▶ (removed)
//! ```
//!
//! A record that is missing is made only within [`RECORD_WINDOW`] after its transaction began.
//! Until then whoever finds none and wants the transaction out of the way writes an ABORTED one,
//! and nobody removes that; afterwards the transaction cannot end well any more, record or not.
//! So an abort is never forgotten while it matters.
//!
//! Nor is a commit. Who meets an intent and no record takes the transaction for one that has not
//! committed, and in the end removes the intent; there is nothing else to go by. So a COMMITTED
//! record lists where intents may be, and stays until whoever wants it removed shows that none is
//! left in any of those spans: what the ranges said is done, not what was asked of them. A request
//! to remove it that does not cover the list hears what is left, and removes nothing.

use std::time::Duration;

use bytes::Bytes;
use crdb_keys::{Key, Timestamp};
use crdb_proto::kv::{self, EndTxnAction, TxnMeta, TxnRecord, TxnStatus, error};

use super::{
    EvalError, Evaluation, TXN_ID_LEN, covered::Covered, failed, invalid, retry, write_timestamp,
};
use crate::{Reader, lock};

/// A transaction not heard of for this long may be aborted by whom it holds up.
pub const EXPIRES_AFTER: Duration = Duration::from_secs(5);

/// How long after its begin a transaction may make its record.
pub const RECORD_WINDOW: Duration = Duration::from_secs(3600);

const PUSHER_ABORTED: &str = "ABORT_REASON_PUSHER_ABORTED";
const TOO_OLD: &str = "ABORT_REASON_TOO_OLD";

impl<R: Reader> Evaluation<'_, R> {
    pub(super) fn end_txn(
        &mut self,
        end: &kv::EndTxnRequest,
    ) -> Result<kv::EndTxnResponse, EvalError> {
        let action = EndTxnAction::try_from(end.action)
            .map_err(|_| invalid("a transaction is to end in a way this node does not know"))?;
        let txn = check_txn(self.txn)?;
        let record = self.record(txn)?;
        let there = record.as_ref().map(TxnRecord::status);
        let record = match (action, there) {
            (_, None) => {
                self.check_may_create(txn)?;
                None
            }
            (EndTxnAction::EndAbort, Some(TxnStatus::Committed)) => {
                return Err(invalid("the transaction has committed, it cannot be aborted"));
            }
            (_, Some(TxnStatus::Committed)) if self.writes_anew() => {
                return Err(invalid("the transaction has committed, it cannot write any more"));
            }
            // Repeated, or somebody else found out first.
            (_, Some(TxnStatus::Committed))
            | (EndTxnAction::EndAbort, Some(TxnStatus::Aborted)) => {
                return Ok(kv::EndTxnResponse {
                    write_timestamp: record.and_then(|record| record.meta?.write_timestamp),
                });
            }
            (_, Some(TxnStatus::Aborted)) => return Err(aborted(PUSHER_ABORTED)),
            (_, Some(TxnStatus::Pending | TxnStatus::Staging)) => record,
        };
        if action == EndTxnAction::EndAbort {
            let meta = txn.clone();
            let write_timestamp = meta.write_timestamp;
            self.put_record(txn, ended(meta, TxnStatus::Aborted, end.intents.clone(), record));
            return Ok(kv::EndTxnResponse { write_timestamp });
        }
        let asked = write_timestamp(txn)?;
        let needed = self.highest.map_or(asked, |highest| highest.max(asked));
        if needed > asked && !end.can_raise_timestamp {
            return Err(retry(needed));
        }
        let meta = TxnMeta { write_timestamp: Some(needed.into()), ..txn.clone() };
        if let Some(staged) = record.as_ref().filter(|record| is_staging(record))
            && record_timestamp(staged) > needed
        {
            let staged = record_timestamp(staged);
            return Err(invalid(format!(
                "the transaction is staged at {staged} and cannot commit at {needed}"
            )));
        }
        let record = if action == EndTxnAction::EndCommit {
            // Who commits is alive: its record is not taken for an abandoned one right away.
            let last_heartbeat = heard_of(record.as_ref(), self.args.now);
            let committed = ended(meta, TxnStatus::Committed, end.intents.clone(), record);
            TxnRecord { last_heartbeat, ..committed }
        } else {
            TxnRecord {
                meta: Some(meta),
                status: TxnStatus::Staging.into(),
                last_heartbeat: heard_of(record.as_ref(), self.args.now),
                in_flight: end.in_flight.clone(),
                intents: end.intents.clone(),
            }
        };
        self.put_record(txn, record);
        self.reaches(needed);
        Ok(kv::EndTxnResponse { write_timestamp: Some(needed.into()) })
    }

    pub(super) fn heartbeat_txn(
        &mut self,
        beat: &kv::HeartbeatTxnRequest,
    ) -> Result<kv::HeartbeatTxnResponse, EvalError> {
        let txn = check_txn(self.txn)?;
        let now = beat.now.map_or(Timestamp::ZERO, Timestamp::from);
        let mut record = match self.record(txn)? {
            Some(record) => record,
            None => {
                self.check_may_create(txn)?;
                TxnRecord { meta: Some(txn.clone()), ..TxnRecord::default() }
            }
        };
        if matches!(record.status(), TxnStatus::Pending | TxnStatus::Staging) {
            record.last_heartbeat = heard_of(Some(&record), now);
            self.put_record(txn, record.clone());
        }
        Ok(kv::HeartbeatTxnResponse { record: Some(record) })
    }

    pub(super) fn push_txn(
        &mut self,
        push: &kv::PushTxnRequest,
    ) -> Result<kv::PushTxnResponse, EvalError> {
        let pushee = check_txn(push.pushee.as_ref())?;
        let there = self.record(pushee)?;
        let pending = TxnRecord { meta: Some(pushee.clone()), ..TxnRecord::default() };
        let record = there.clone().unwrap_or(pending);
        let yields = push.force || self.is_expired(pushee, &record);
        let answer = |record| Ok(kv::PushTxnResponse { record: Some(record), recover: false });
        match record.status() {
            TxnStatus::Committed | TxnStatus::Aborted => answer(record),
            TxnStatus::Staging => Ok(kv::PushTxnResponse { record: Some(record), recover: yields }),
            TxnStatus::Pending => {
                let priority = record.meta.as_ref().unwrap_or(pushee).priority;
                let pusher = push.pusher.as_ref().map_or(0, |pusher| pusher.priority);
                if !yields && rank(pusher) <= rank(priority) {
                    return answer(record);
                }
                let meta = record.meta.clone().unwrap_or_else(|| pushee.clone());
                let aborted = ended(meta, TxnStatus::Aborted, Vec::new(), Some(record));
                // Without a record and too old to make one it is aborted as it is.
                if there.is_some() || self.may_create(pushee) {
                    self.put_record(pushee, aborted.clone());
                }
                answer(aborted)
            }
        }
    }

    pub(super) fn query_txn(
        &mut self,
        query: &kv::QueryTxnRequest,
    ) -> Result<kv::QueryTxnResponse, EvalError> {
        let record = self.record(check_txn(query.txn.as_ref())?)?;
        Ok(kv::QueryTxnResponse { record, dependents: Vec::new() })
    }

    pub(super) fn recover_txn(
        &mut self,
        recover: &kv::RecoverTxnRequest,
    ) -> Result<kv::RecoverTxnResponse, EvalError> {
        let txn = check_txn(recover.txn.as_ref())?;
        let queried = write_timestamp(txn)?;
        let Some(record) = self.record(txn)? else {
            // It has ended and nothing is left of it.
            return Ok(kv::RecoverTxnResponse { record: None });
        };
        // What was found out is true of one staging only; any other state wins.
        if !is_staging(&record) || record_timestamp(&record) != queried {
            return Ok(kv::RecoverTxnResponse { record: Some(record) });
        }
        let status =
            if recover.implicitly_committed { TxnStatus::Committed } else { TxnStatus::Aborted };
        let meta = record.meta.clone().unwrap_or_else(|| txn.clone());
        let record = ended(meta, status, Vec::new(), Some(record));
        self.put_record(txn, record.clone());
        Ok(kv::RecoverTxnResponse { record: Some(record) })
    }

    pub(super) fn remove_txn_record(
        &mut self,
        remove: &kv::RemoveTxnRecordRequest,
    ) -> Result<kv::RemoveTxnRecordResponse, EvalError> {
        let txn = TxnMeta {
            id: remove.txn_id.clone(),
            anchor: remove.anchor.clone(),
            ..TxnMeta::default()
        };
        let txn = check_txn(Some(&txn))?;
        let Some(record) = self.record(txn)? else { return Ok(Default::default()) };
        match record.status() {
            TxnStatus::Committed => {
                let resolved = Covered::new(&remove.resolved);
                let left = record.intents.into_iter().filter(|span| !resolved.cover(span));
                let left: Vec<kv::Span> = left.collect();
                if !left.is_empty() {
                    return Ok(kv::RemoveTxnRecordResponse { left });
                }
            }
            // Without it they are aborted as well.
            TxnStatus::Aborted => {}
            TxnStatus::Pending | TxnStatus::Staging => {
                return Err(invalid("the record of a transaction that has not ended stays"));
            }
        }
        self.records.insert(name(txn), None);
        Ok(kv::RemoveTxnRecordResponse::default())
    }

    /// Moves the records of the batch into its write batch.
    pub(super) fn flush_records(&mut self) {
        for ((anchor, txn_id), record) in std::mem::take(&mut self.records) {
            match record {
                Some(record) => {
                    lock::put_record(&mut self.out.batch, &anchor, &txn_id, &record);
                }
                None => lock::delete_record(&mut self.out.batch, &anchor, &txn_id),
            }
        }
    }

    fn record(&self, txn: &TxnMeta) -> Result<Option<TxnRecord>, EvalError> {
        // The common batch has no record yet, and nothing to look up.
        if !self.records.is_empty()
            && let Some(record) = self.records.get(&name(txn))
        {
            return Ok(record.clone());
        }
        Ok(lock::get_record(self.reader, &txn.anchor, &txn.id)?)
    }

    fn put_record(&mut self, txn: &TxnMeta, record: TxnRecord) {
        self.records.insert(name(txn), Some(record));
    }

    fn may_create(&self, txn: &TxnMeta) -> bool {
        after(began(txn), RECORD_WINDOW) > self.args.now
    }

    fn check_may_create(&self, txn: &TxnMeta) -> Result<(), EvalError> {
        if self.may_create(txn) { Ok(()) } else { Err(aborted(TOO_OLD)) }
    }

    /// Whether nothing was heard of the transaction for too long.
    fn is_expired(&self, txn: &TxnMeta, record: &TxnRecord) -> bool {
        let began = began(txn).max(record.meta.as_ref().map_or(Timestamp::ZERO, began));
        let heard = record.last_heartbeat.map_or(began, |heard| began.max(heard.into()));
        after(heard, EXPIRES_AFTER) < self.args.now
    }
}

fn name(txn: &TxnMeta) -> (Key, Bytes) {
    (txn.anchor.clone(), txn.id.clone())
}

fn check_txn(txn: Option<&TxnMeta>) -> Result<&TxnMeta, EvalError> {
    let txn = txn.ok_or_else(|| invalid("a request about a transaction does not name it"))?;
    if txn.id.len() != TXN_ID_LEN || txn.anchor.is_empty() {
        return Err(invalid("a request about a transaction has no proper id or no anchor"));
    }
    Ok(txn)
}

fn began(txn: &TxnMeta) -> Timestamp {
    txn.min_timestamp.map_or(Timestamp::ZERO, Into::into)
}

pub(super) fn after(timestamp: Timestamp, duration: Duration) -> Timestamp {
    timestamp.add_nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

fn is_staging(record: &TxnRecord) -> bool {
    record.status() == TxnStatus::Staging
}

fn record_timestamp(record: &TxnRecord) -> Timestamp {
    let meta = record.meta.as_ref();
    meta.and_then(|meta| meta.write_timestamp).map_or(Timestamp::ZERO, Into::into)
}

/// The newest sign of life of a transaction that gives one at `now`.
fn heard_of(record: Option<&TxnRecord>, now: Timestamp) -> Option<kv::Timestamp> {
    let before = record.and_then(|record| record.last_heartbeat);
    Some(before.map_or(now, |before| now.max(before.into())).into())
}

/// The record of a transaction that has ended, with the intents its record knew before.
fn ended(
    meta: TxnMeta,
    status: TxnStatus,
    mut intents: Vec<kv::Span>,
    before: Option<TxnRecord>,
) -> TxnRecord {
    let (last_heartbeat, known, in_flight) = before
        .map_or((None, Vec::new(), Vec::new()), |record| {
            (record.last_heartbeat, record.intents, record.in_flight)
        });
    // The caller's list is complete; that of a recovery or a push is empty.
    if intents.is_empty() {
        intents = known;
        intents.extend(
            in_flight.into_iter().map(|write| kv::Span { start: write.key, end: Bytes::new() }),
        );
    }
    TxnRecord {
        meta: Some(meta),
        status: status.into(),
        last_heartbeat,
        in_flight: Vec::new(),
        intents,
    }
}

fn rank(priority: i32) -> u8 {
    match kv::TxnPriority::try_from(priority) {
        Ok(kv::TxnPriority::PriorityLow) => 0,
        Ok(kv::TxnPriority::PriorityHigh) => 2,
        Ok(kv::TxnPriority::PriorityNormal) | Err(_) => 1,
    }
}

fn aborted(reason: &str) -> EvalError {
    let kind = kv::TxnAborted { reason: reason.to_owned() };
    failed(error::Kind::TxnAborted(kind), format!("the transaction was aborted: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_are_ordered() {
        use kv::TxnPriority::{PriorityHigh, PriorityLow, PriorityNormal};
        assert!(rank(PriorityLow.into()) < rank(PriorityNormal.into()));
        assert!(rank(PriorityNormal.into()) < rank(PriorityHigh.into()));
        assert_eq!(rank(99), rank(PriorityNormal.into()));
    }
}
