//! What is left to do when a transaction has ended.
//!
//! ```text
//! committed by intents ─▶ EndTxn(COMMIT) ─▶ ResolveIntent ─▶ RemoveTxnRecord
//! rolled back ──────────▶ EndTxn(ABORT) ──▶ ResolveIntent ─▶ RemoveTxnRecord
//! locks alone ──────────▶ ReleaseLocks
//! ```
//!
//! Invariants:
//! 1. No intent is resolved as committed before the COMMITTED record is durable: as long as the
//!    record says STAGING, an intent that is missing says that the transaction is not committed.
//! 2. The record of an aborted transaction stays if a request that could make it anew may still be
//!    on its way.
//! 3. Where a request was given up, its leaseholders are told that the transaction has ended: it
//!    goes on there for a moment, and what it locks or writes nobody would clean up.
//! 4. Nothing is cleaned up after an ambiguous commit: whoever meets its intents finds out.
//!
//! A step that fails ends the work: whoever meets what is left asks the record and goes on, and the
//! record itself, with what nobody meets, is collected hours later.

use std::sync::atomic::Ordering;

use crdb_keys::Timestamp;
use crdb_proto::kv::{
    BatchHeader, BatchRequest, EndTxnAction, EndTxnRequest, Request, TxnMeta, request,
};

use prost::Message as _;

use super::client::TxnClient;
use super::coordinator::{State, Txn};
use super::footprint::Footprint;
use super::metrics::add;
use super::types::{CommitInfo, CommitKind, TxnError};
use crate::resolution::{Ended, pieces};
use crate::{PlantedTxnBug, SendError};

/// The work of one transaction that has ended.
struct Ending {
    client: TxnClient,
    meta: TxnMeta,
    footprint: Footprint,
    /// Timestamp of the commit; `None` if it was rolled back.
    commit: Option<Timestamp>,
    /// There may be a record, which has to say how it ended.
    recorded: bool,
    /// The record must stay.
    keep_record: bool,
    /// A request that locks or writes may still be on its way.
    unanswered: bool,
}

impl Txn {
    /// Takes what was left at the leaseholders; `None` if that is nothing.
    fn take_ending(&mut self, commit: Option<Timestamp>) -> Option<Ending> {
        let beaten = self.alive.take().is_some_and(|alive| {
            self.client.background().unregister(self.number);
            alive.beaten.load(Ordering::Acquire)
        });
        let recorded = self.recorded || beaten;
        let footprint = std::mem::take(&mut self.footprint);
        if footprint.is_empty() && !recorded {
            return None;
        }
        Some(Ending {
            client: self.client.clone(),
            meta: self.meta.clone(),
            footprint,
            commit,
            recorded,
            keep_record: self.lost && commit.is_none(),
            unanswered: self.unanswered,
        })
    }

    pub(super) async fn after_commit(&mut self, info: &CommitInfo) {
        self.buffer.clear();
        let by_intents = matches!(info.kind, CommitKind::Parallel | CommitKind::Explicit);
        let Some(mut ending) = self.take_ending(info.timestamp.filter(|_| by_intents)) else {
            return;
        };
        if info.kind == CommitKind::OnePhase && !self.exact && !self.stray_locks {
            // All it had locked was validated in the one range, which gave the locks up.
            ending.footprint = Footprint::default();
            if !ending.recorded {
                return;
            }
        }
        self.client.run(ending).await;
    }

    /// Ends the transaction without effect. What it left behind is cleaned up in the background.
    pub async fn rollback(&mut self) {
        let known = match &self.state {
            State::Committed | State::RolledBack => return,
            State::Failed(TxnError::Ambiguous { .. }) => false,
            State::Failed(_) => true,
            // The commit was given up halfway: nobody knows how far it came.
            State::Active => !self.committing,
        };
        self.state = State::RolledBack;
        self.buffer.clear();
        add(&self.client.metrics().rollbacks, 1);
        if let Some(ending) = self.take_ending(None)
            && known
        {
            self.client.run(ending).await;
        }
    }
}

impl Drop for Txn {
    fn drop(&mut self) {
        let known = match &self.state {
            State::Committed | State::RolledBack => return,
            State::Failed(TxnError::Ambiguous { .. }) => false,
            State::Failed(_) => true,
            State::Active => !self.committing,
        };
        if let Some(ending) = self.take_ending(None)
            && known
        {
            // Without anybody at work the locks are broken by whom they hold up.
            drop(self.client.background().push(Box::pin(ending.run())));
        }
    }
}

impl TxnClient {
    /// Has the work done in the background, or does it here if nobody else does.
    async fn run(&self, ending: Ending) {
        if let Err(job) = self.background().push(Box::pin(ending.run())) {
            job.await;
        }
    }
}

impl Ending {
    async fn run(self) {
        if let Err(error) = self.steps().await {
            tracing::debug!(%error, "others will clean up after a transaction");
        }
    }

    async fn steps(&self) -> Result<(), SendError> {
        let id = &self.meta.id;
        if self.commit.is_none() {
            // First what others may wait for.
            self.send_all(self.footprint.releases(id, self.unanswered, self.client.limits()))
                .await?;
        }
        if self.recorded {
            self.end().await?;
        }
        let limits = *self.client.limits();
        let planted = self.client.has(PlantedTxnBug::ForgetIntents);
        let anchor = &self.meta.anchor;
        let ended = Ended { id, anchor, commit: self.commit, limits, planted };
        let sender = &**self.client.sender();
        let resolved = ended.resolve(sender, &self.footprint.intent_spans(&limits)).await?;
        if self.commit.is_some() {
            self.send_all(self.footprint.releases(id, self.unanswered, &limits)).await?;
        }
        if self.recorded && !self.keep_record {
            ended.remove_record(sender, resolved).await?;
        }
        Ok(())
    }

    /// Has the record say how it ended.
    async fn end(&self) -> Result<(), SendError> {
        let action = match self.commit {
            Some(_) => EndTxnAction::EndCommit,
            None => EndTxnAction::EndAbort,
        };
        let mut txn = self.meta.clone();
        if let Some(at) = self.commit {
            txn.write_timestamp = Some(at.into());
        }
        let end = EndTxnRequest {
            action: action.into(),
            in_flight: Vec::new(),
            intents: self.footprint.intent_spans(self.client.limits()),
            can_raise_timestamp: false,
        };
        let header = BatchHeader { txn: Some(txn), ..BatchHeader::default() };
        let requests = vec![Request { kind: Some(request::Kind::EndTxn(end)) }];
        let batch = BatchRequest { header: Some(header), requests };
        self.client.sender().send(batch).await.map(|_| ())
    }

    async fn send_all(&self, requests: Vec<Request>) -> Result<(), SendError> {
        let limits = self.client.limits();
        let size = |request: &Request| request.encoded_len();
        for requests in pieces(&requests, limits.cleanup_requests, limits.cleanup_bytes, size) {
            let batch = BatchRequest { header: None, requests: requests.to_vec() };
            self.client.sender().send(batch).await?;
        }
        Ok(())
    }
}
