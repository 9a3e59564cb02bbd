//! Signs of life of the transactions that hold locks or intents.
//!
//! Every second each of them that began more than a second ago tells its record that it is alive.
//! Short transactions never do, and have no record for it.
//!
//! Invariants:
//! 1. A transaction has one heartbeat under way at most, and so there are no more than transactions.
//! 2. No heartbeat waits for another one: a record out of reach takes as long as a call may take,
//!    which is longer than a transaction may be silent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crdb_keys::Timestamp;
use crdb_proto::kv::{
    BatchHeader, BatchRequest, HeartbeatTxnRequest, Request, TxnStatus, request, response,
};
use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::background::Alive;
use super::client::{Sleep, TxnClient};
use crate::SendError;

/// Time between two looks at who is due.
const ROUND: Duration = Duration::from_millis(250);
/// Silence after which a transaction is due.
const INTERVAL_NANOS: u64 = 1_000_000_000;

/// Sends the heartbeats of all transactions until the work is closed.
pub(super) async fn beat(client: &TxnClient, sleep: Sleep) {
    let mut beats = FuturesUnordered::new();
    while !client.background().is_closed() {
        let mut round = sleep(ROUND);
        loop {
            if beats.is_empty() {
                round.await;
                break;
            }
            match select(round, beats.next()).await {
                Either::Left(_) => break,
                Either::Right((_, rest)) => round = rest,
            }
        }
        let now = Timestamp::new(client.clock().wall_nanos(), 0);
        let before = Timestamp::new(now.wall_nanos.saturating_sub(INTERVAL_NANOS), 0);
        let due = client.background().silent_since(before).into_iter();
        let idle = due.filter(|alive| !alive.beating.swap(true, Ordering::AcqRel));
        beats.extend(idle.map(|alive| beat_once(client, alive)));
    }
}

/// One heartbeat of one transaction. One that does not get through is sent again in time.
async fn beat_once(client: &TxnClient, alive: Arc<Alive>) {
    let now = client.clock().now();
    alive.beaten.store(true, Ordering::Release);
    let beat = HeartbeatTxnRequest { now: Some(now.into()) };
    let header = BatchHeader { txn: Some(alive.meta.clone()), ..BatchHeader::default() };
    let request = Request { kind: Some(request::Kind::HeartbeatTxn(beat)) };
    let batch = BatchRequest { header: Some(header), requests: vec![request] };
    let answer = client.sender().send(batch).await;
    alive.beating.store(false, Ordering::Release);
    match answer {
        Ok(response) => {
            *alive.last.lock() = now;
            let answer = response.responses.into_iter().next().and_then(|answer| answer.kind);
            if let Some(response::Kind::HeartbeatTxn(answer)) = answer
                && let Some(record) = answer.record
                && record.status() == TxnStatus::Aborted
            {
                *alive.aborted.lock() = Some("ABORT_REASON_ABORTED_RECORD_FOUND".to_owned());
            }
        }
        Err(SendError::TxnAborted { reason }) => *alive.aborted.lock() = Some(reason),
        Err(error) => tracing::debug!(%error, "a transaction could not say that it is alive"),
    }
}
