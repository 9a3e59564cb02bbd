//! The locks of one key and their queue.

use std::collections::BTreeMap;

use bytes::Bytes;
use crdb_keys::{Key, Timestamp};
use crdb_proto::kv::{LockInfo, LockStrength, LockWaiter, TxnMeta};

use super::{LockTicket, LockUse, LockWait};

/// A transaction's hold on a key.
#[derive(Debug)]
pub(super) struct Lock {
    pub(super) txn: TxnMeta,
    pub(super) strength: LockStrength,
    /// Its place among all locks, by age.
    pub(super) order: u64,
    pub(super) since_nanos: u64,
}

/// A request that stands in the queue of a key.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) txn: Option<TxnMeta>,
    pub(super) wanted: LockUse,
    pub(super) since_nanos: u64,
}

impl Waiter {
    fn is_of(&self, txn: Option<&Bytes>) -> bool {
        txn.is_some() && self.txn.as_ref().map(|txn| &txn.id) == txn
    }
}

/// What is known of one key.
#[derive(Debug, Default)]
pub(super) struct KeyState {
    /// The intent, if one was met.
    pub(super) intent: Option<Lock>,
    /// Unreplicated: one exclusive, or any number that share.
    pub(super) locks: Vec<Lock>,
    pub(super) queue: BTreeMap<LockTicket, Waiter>,
}

impl KeyState {
    pub(super) fn is_empty(&self) -> bool {
        self.intent.is_none() && self.locks.is_empty() && self.queue.is_empty()
    }

    fn held(&self) -> impl Iterator<Item = (&Lock, bool)> {
        let intents = self.intent.iter().map(|lock| (lock, true));
        intents.chain(self.locks.iter().map(|lock| (lock, false)))
    }

    pub(super) fn is_held_by(&self, txn: &Bytes) -> bool {
        self.held().any(|(lock, _)| lock.txn.id == *txn)
    }

    fn holder_in_way(&self, txn: Option<&Bytes>, wanted: LockUse) -> Option<(&Lock, bool)> {
        self.held().find(|(lock, replicated)| {
            txn != Some(&lock.txn.id)
                && match wanted {
                    LockUse::Read { upto } => *replicated && timestamp(&lock.txn) <= upto,
                    LockUse::Shared => lock.strength == LockStrength::LockExclusive,
                    LockUse::Exclusive => true,
                }
        })
    }

    pub(super) fn is_held_by_other(&self, txn: Option<&Bytes>, wanted: LockUse) -> bool {
        self.holder_in_way(txn, wanted).is_some()
    }

    /// The holder in the way of who wants the key, if there is one.
    pub(super) fn held_by_other(
        &self,
        key: &Key,
        txn: Option<&Bytes>,
        wanted: LockUse,
    ) -> Option<LockWait> {
        self.holder_in_way(txn, wanted).map(|(lock, replicated)| LockWait {
            key: key.clone(),
            holder: lock.txn.clone(),
            replicated,
            strength: lock.strength,
        })
    }

    /// Who is in the way of a request: a holder, or one that stands before `ticket`.
    pub(super) fn blocker(
        &self,
        key: &Key,
        txn: Option<&TxnMeta>,
        wanted: LockUse,
        ticket: Option<LockTicket>,
    ) -> Option<LockWait> {
        let txn = txn.map(|txn| &txn.id);
        self.held_by_other(key, txn, wanted).or_else(|| {
            let before = self.waiter_in_way(txn, wanted, ticket)?;
            Some(LockWait {
                key: key.clone(),
                holder: before.txn.clone().unwrap_or_default(),
                replicated: false,
                strength: before.wanted.strength(),
            })
        })
    }

    fn waiter_in_way(
        &self,
        txn: Option<&Bytes>,
        wanted: LockUse,
        ticket: Option<LockTicket>,
    ) -> Option<&Waiter> {
        // Those who wait, wait for what the transaction holds: it cannot wait for them.
        if !wanted.locks() || txn.is_some_and(|txn| self.is_held_by(txn)) {
            return None;
        }
        let before = self.queue.range(..ticket.unwrap_or(LockTicket(u64::MAX)));
        before.map(|(_, waiter)| waiter).find(|waiter| {
            waiter.wanted.locks() && waiter.wanted.conflicts(wanted) && !waiter.is_of(txn)
        })
    }

    /// Those in the queue that have nothing in their way.
    pub(super) fn free(&self) -> Vec<LockTicket> {
        let waiters = self.queue.iter().filter(|(ticket, waiter)| {
            let txn = waiter.txn.as_ref().map(|txn| &txn.id);
            !self.is_held_by_other(txn, waiter.wanted)
                && self.waiter_in_way(txn, waiter.wanted, Some(**ticket)).is_none()
        });
        waiters.map(|(ticket, _)| *ticket).collect()
    }

    /// One entry for each lock. Who waits stands with the first.
    pub(super) fn list(&self, key: &Key, now_nanos: u64) -> Vec<LockInfo> {
        let mut infos: Vec<LockInfo> =
            self.held().map(|(lock, replicated)| lock.info(key, replicated, now_nanos)).collect();
        let waiters = self.queue.values().map(|waiter| LockWaiter {
            txn: waiter.txn.clone(),
            strength: waiter.wanted.strength().into(),
            waiting_nanos: now_nanos.saturating_sub(waiter.since_nanos),
        });
        if let Some(first) = infos.first_mut() {
            first.waiters = waiters.collect();
        }
        infos
    }

    /// The unreplicated lock that `txn` holds.
    pub(super) fn unreplicated(&self, key: &Key, txn: &Bytes, now_nanos: u64) -> Option<LockInfo> {
        let lock = self.locks.iter().find(|lock| lock.txn.id == *txn)?;
        Some(lock.info(key, false, now_nanos))
    }
}

impl Lock {
    fn info(&self, key: &Key, replicated: bool, now_nanos: u64) -> LockInfo {
        LockInfo {
            range_id: 0,
            key: key.clone(),
            strength: self.strength.into(),
            replicated,
            holder: Some(self.txn.clone()),
            held_nanos: now_nanos.saturating_sub(self.since_nanos),
            waiters: Vec::new(),
        }
    }
}

/// The timestamp of a transaction's intent.
pub(super) fn timestamp(txn: &TxnMeta) -> Timestamp {
    txn.write_timestamp.map(Timestamp::from).unwrap_or_default()
}
