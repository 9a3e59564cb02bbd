//! Gets the holder of a lock out of the way of who waits for it, if it is to be.

use std::cmp::Ordering;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use crdb_proto::kv::{
    self, BatchRequest, PushTxnRequest, ReleaseLocksRequest, Request, ResolveIntentRequest,
    TxnMeta, TxnPriority, TxnRecord, TxnStatus, error, request, response,
};
use crdb_raftstore::LockWait;

use super::{ContentionMetrics, PushOutcome, Site, Waiter};
use crate::{SendError, Sender, recovery};

/// Most holders are gone before.
const FIRST_AFTER: Duration = Duration::from_millis(50);
/// Time between two looks at the holder.
const EVERY: Duration = Duration::from_millis(100);

/// Pushes the holder until the wait is over, which the caller hears from the lock table. Returns
/// only if the waiter must not wait any longer: its own transaction was aborted.
pub(super) async fn until_gone(
    site: &dyn Site,
    waiter: &Waiter,
    wait: LockWait,
    met: usize,
) -> kv::Error {
    let Some(sender) = site.sender().filter(|_| !wait.holder.anchor.is_empty()) else {
        // It ends by itself.
        return pending().await;
    };
    let own = waiter.txn.as_ref();
    let urgent = own.map_or(1, rank) > rank(&wait.holder);
    // One that was found dead a moment ago has left more than one intent.
    if !urgent && met == 0 {
        site.sleep(FIRST_AFTER).await;
    }
    loop {
        match attempt(site, &*sender, waiter, &wait, met).await {
            Ok(None) => {}
            Ok(Some(aborted)) => return aborted,
            Err(error) => tracing::debug!(%error, "the holder of a lock could not be pushed"),
        }
        site.sleep(EVERY).await;
    }
}

/// One look at both transactions; the error if the own one was aborted.
async fn attempt(
    site: &dyn Site,
    sender: &dyn Sender,
    waiter: &Waiter,
    wait: &LockWait,
    met: usize,
) -> Result<Option<kv::Error>, SendError> {
    let own = waiter.txn.as_ref().filter(|txn| !txn.anchor.is_empty());
    let mut dependents = Vec::new();
    if let Some(own) = own {
        let query = recovery::query(sender, own).await?;
        if query.record.is_some_and(|record| record.status() == TxnStatus::Aborted) {
            return Ok(Some(aborted()));
        }
        dependents = query.dependents;
    }
    let holder = &wait.holder;
    let deadlock = dependents.contains(&holder.id);
    let push = PushTxnRequest {
        pushee: Some(holder.clone()),
        pusher: waiter.txn.clone(),
        force: deadlock && own.is_some_and(|own| wins(own, holder)),
        dependents,
    };
    push_once(site, sender, waiter, wait, push, met).await?;
    Ok(None)
}

/// Whether the holder in a conflict that is not waited for has ended, if need be because nothing
/// was heard of its coordinator for too long; then its lock is cleared away. Nobody who is alive is
/// aborted for it, whatever the priorities.
pub(super) async fn has_ended(
    site: &dyn Site,
    waiter: &Waiter,
    conflict: &kv::LockConflict,
    met: usize,
) -> bool {
    let Some(holder) = conflict.holder.clone().filter(|holder| !holder.anchor.is_empty()) else {
        return false;
    };
    let Some(sender) = site.sender() else { return false };
    let pusher = TxnMeta { priority: TxnPriority::PriorityLow.into(), ..TxnMeta::default() };
    let push = PushTxnRequest {
        pushee: Some(holder.clone()),
        pusher: Some(pusher),
        force: false,
        dependents: Vec::new(),
    };
    // Resolving an intent gives up an unreplicated lock, too.
    let strength = kv::LockStrength::LockExclusive;
    let wait = LockWait { key: conflict.key.clone(), holder, replicated: true, strength };
    match push_once(site, &*sender, waiter, &wait, push, met).await {
        Ok(ended) => ended,
        Err(error) => {
            tracing::debug!(%error, "the holder of a lock could not be pushed");
            false
        }
    }
}

/// Pushes a holder and clears its lock away if it has ended, which is returned.
async fn push_once(
    site: &dyn Site,
    sender: &dyn Sender,
    waiter: &Waiter,
    wait: &LockWait,
    push: PushTxnRequest,
    met: usize,
) -> Result<bool, SendError> {
    let force = push.force;
    let pushed = recovery::push(sender, push).await;
    let count = |outcome| site.metrics().into_iter().for_each(|metrics| metrics.pushed(outcome));
    let pushed = pushed.inspect_err(|_| count(PushOutcome::Failed))?;
    let mut record = pushed.record;
    #[cfg(feature = "planted-bugs")]
    if site.staging_is_aborted()
        && let Some(staging) = record.as_mut().filter(|r| r.status() == TxnStatus::Staging)
    {
        staging.set_status(TxnStatus::Aborted);
    }
    if pushed.recover
        && let Some(staging) = record.as_ref().filter(|r| r.status() == TxnStatus::Staging)
    {
        record = recovery::recover(sender, staging, &site.limits()).await?;
        count(PushOutcome::Recovered);
    } else {
        count(match record.as_ref().map(TxnRecord::status) {
            Some(TxnStatus::Committed) => PushOutcome::Committed,
            Some(TxnStatus::Aborted) => PushOutcome::Aborted,
            Some(TxnStatus::Pending | TxnStatus::Staging) | None => PushOutcome::Alive,
        });
    }
    let Some(record) = record else { return Ok(false) };
    if force && record.status() == TxnStatus::Aborted {
        site.metrics().into_iter().for_each(ContentionMetrics::broke_deadlock);
    }
    let most = site.limits().resolved_in_the_way;
    clear(sender, waiter, wait, &record, (met > 0).then_some(most)).await
}

/// Clears away what a transaction left in the way, if it has ended; returns whether it has. With
/// `many`, up to so many intents that the waiter would meet next, too.
async fn clear(
    sender: &dyn Sender,
    waiter: &Waiter,
    wait: &LockWait,
    record: &TxnRecord,
    many: Option<u64>,
) -> Result<bool, SendError> {
    let commit = match record.status() {
        TxnStatus::Committed => recovery::commit_timestamp(record),
        TxnStatus::Aborted => None,
        TxnStatus::Pending | TxnStatus::Staging => return Ok(false),
    };
    let txn_id = wait.holder.id.clone();
    if !wait.replicated {
        let start = wait.key.clone();
        let release = ReleaseLocksRequest { start, end: Bytes::new(), txn_id, ended: false };
        return send(sender, request::Kind::ReleaseLocks(release)).await.map(|_| true);
    }
    // One key after the other would cost a scan a round of consensus each. What the bound leaves
    // is met again by whoever comes to it.
    let many = many.filter(|_| waiter.end > wait.key);
    let resolve = ResolveIntentRequest {
        start: wait.key.clone(),
        end: if many.is_some() { waiter.end.clone() } else { Bytes::new() },
        txn_id,
        status: record.status,
        commit_timestamp: commit.map(Into::into),
        max_keys: many.unwrap_or(0),
    };
    send(sender, request::Kind::ResolveIntent(resolve)).await.map(|_| true)
}

async fn send(
    sender: &dyn Sender,
    kind: request::Kind,
) -> Result<Option<response::Kind>, SendError> {
    let batch = BatchRequest { header: None, requests: vec![Request { kind: Some(kind) }] };
    let response = sender.send(batch).await?;
    Ok(response.responses.into_iter().next().and_then(|answer| answer.kind))
}

/// Whether `a` has `b` aborted when both wait for each other.
fn wins(a: &TxnMeta, b: &TxnMeta) -> bool {
    (rank(a), &a.id).cmp(&(rank(b), &b.id)) == Ordering::Greater
}

fn rank(txn: &TxnMeta) -> u8 {
    match txn.priority() {
        TxnPriority::PriorityLow => 0,
        TxnPriority::PriorityNormal => 1,
        TxnPriority::PriorityHigh => 2,
    }
}

fn aborted() -> kv::Error {
    let reason = "ABORT_REASON_PUSHER_ABORTED".to_owned();
    kv::Error {
        message: format!("the transaction was aborted while it waited: {reason}"),
        kind: Some(error::Kind::TxnAborted(kv::TxnAborted { reason })),
    }
}
