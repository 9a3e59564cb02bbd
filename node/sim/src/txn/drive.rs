//! The clients of transactions in the world: when they begin, how they are cut short, and what
//! must hold when all is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::Arc,
};

use bytes::Bytes;
use crdb_keys::{
    Key, Span, Timestamp, layout,
    pretty::{Escaped, Pretty},
};
use crdb_proto::kv::{Intent, TxnRecord, TxnStatus};
use crdb_storage::{
    Engine as _, Family, Reader as _,
    lock::{self, LockKey},
    mvcc,
};
use prost::Message as _;

use super::{
    check::{State, check},
    work::{Job, number},
};
use crate::{
    event::Event,
    node::Node,
    plan::MS,
    world::{Phase, World},
};

/// One client of transactions.
#[derive(Debug, Default)]
pub(crate) struct TxnClientState {
    current: Option<Running>,
    /// The node it is connected to.
    gateway: Option<usize>,
    /// Transactions that committed since the faults ended.
    pub(crate) done_since_heal: u64,
}

#[derive(Debug)]
struct Running {
    op: u64,
    task: u64,
    gateway: usize,
}

impl TxnClientState {
    pub(crate) fn is_idle(&self) -> bool {
        self.current.is_none()
    }
}

impl World {
    fn txn_client(&mut self, index: usize) -> &mut TxnClientState {
        self.txn_clients.get_mut(index).expect("clients are numbered from zero")
    }

    pub(crate) fn invoke_txn(&mut self, index: usize) {
        if !matches!(self.phase, Phase::Faulty | Phase::Healing) {
            return;
        }
        let before = self.txn_client(index).gateway;
        let done = self.txn_client(index).done_since_heal >= 2;
        let Some(gateway) = self.pick_gateway(before).filter(|_| !done) else {
            self.after(50 * MS, Event::InvokeTxn { client: index });
            return;
        };
        let job = self.txn_job(index, gateway);
        let op = job.op;
        let task = self.spawn(gateway, None, Box::pin(job.run()));
        let client = self.txn_client(index);
        client.gateway = Some(gateway);
        client.current = Some(Running { op, task, gateway });
        let patience = self.rng.within(self.plan.txn_patience / 4..self.plan.txn_patience);
        self.after(patience, Event::CancelTxn { client: index, op });
    }

    pub(crate) fn txn_job(&mut self, client: usize, gateway: usize) -> Job {
        let of = self.node(gateway).gateway.as_ref().expect("the node is up");
        let (txns, clock) = (of.txns.clone(), of.clock.clone());
        Job {
            hub: Arc::clone(&self.hub),
            log: Arc::clone(&self.txn_log),
            keys: Arc::clone(&self.txn_keys),
            habits: self.plan.habits,
            txns,
            clock,
            client,
            gateway,
            op: self.hub.fresh(),
        }
    }

    /// A transaction ended, one way or another.
    pub(crate) fn txn_done(
        &mut self,
        index: usize,
        op: u64,
        committed: bool,
        wrong: Option<String>,
    ) -> Result<(), String> {
        if let Some(why) = wrong {
            return Err(why);
        }
        let healed = self.phase == Phase::Healing;
        let client = self.txn_client(index);
        if client.current.as_ref().is_some_and(|current| current.op == op) {
            client.current = None;
            client.done_since_heal += u64::from(healed && committed);
            self.next_txn(index);
        }
        Ok(())
    }

    fn next_txn(&mut self, index: usize) {
        self.active_at = self.now;
        let think = self.rng.within(0..self.plan.think);
        self.after(think, Event::InvokeTxn { client: index });
    }

    /// A client asks for a commit: a good moment to lose it.
    pub(crate) fn committing(&mut self, index: usize, op: u64, gateway: usize) {
        if self.phase != Phase::Faulty {
            return;
        }
        let soon = self.rng.within(0..12 * MS);
        match self.rng.index(100) {
            0..4 => self.after(soon, Event::CancelTxn { client: index, op }),
            4 => {
                let restart_after = self.rng.within(0..800 * MS);
                self.after(soon, Event::CrashNow { node: gateway, restart_after });
            }
            _ => {}
        }
    }

    /// A client takes its time before a commit: much may change until then.
    pub(crate) fn dawdling(&mut self, key: Key) {
        if self.phase == Phase::Faulty && !self.plan.steady && self.rng.chance(60) {
            self.transfer_under(key);
        }
    }

    /// A client walks away from its transaction, which nobody coordinates any more.
    pub(crate) fn cancel_txn(&mut self, index: usize, op: u64) {
        let Some(current) = &self.txn_client(index).current else { return };
        if current.op == op {
            let task = current.task;
            self.tasks.cancel(task);
            self.txn_client(index).current = None;
            self.next_txn(index);
        }
    }

    /// The connections to a gateway break; its tasks are gone already.
    pub(crate) fn disconnect_txns(&mut self, gateway: usize) {
        for index in 0..self.txn_clients.len() {
            let client = self.txn_client(index);
            if client.current.as_ref().is_some_and(|current| current.gateway == gateway) {
                client.current = None;
                self.next_txn(index);
            }
        }
    }

    /// Looks at what the transactions left.
    pub(crate) fn check_txns(&mut self) -> Result<(), String> {
        let names = self.txn_keys.all.iter().map(|key| Pretty(key).to_string()).collect();
        let mut state = State { names, keys: Vec::new() };
        for key in &self.txn_keys.all {
            let engine = self.serving_engine(key)?;
            let mut versions = BTreeMap::new();
            let (start, end) = mvcc::engine_span(&Span::point(key.clone()));
            engine
                .snapshot()
                .scan(Family::State, &start, &end, &mut |key, value| {
                    let (_, at) = mvcc::decode_version_key(key)?;
                    versions.insert(at, Bytes::copy_from_slice(value));
                    Ok(ControlFlow::Continue(()))
                })
                .map_err(|error| error.to_string())?;
            let mut numbers = BTreeMap::new();
            for (at, value) in versions {
                let value = match value.split_first() {
                    Some((0, _)) => None,
                    Some((_, value)) => Some(number(&Bytes::copy_from_slice(value))?),
                    None => return Err("a version without a value".into()),
                };
                numbers.insert(at, value);
            }
            state.keys.push(numbers);
        }
        let log = self.txn_log.lock();
        let (committed, failed, unknown) = log.counts();
        self.stats.txns_committed = committed;
        self.stats.txns_failed = failed;
        self.stats.txns_unknown = unknown;
        check(&log, &state, !self.skewed)
    }

    /// No intent is left anywhere.
    pub(crate) fn check_intents(&self) -> Result<(), String> {
        for node in &self.nodes {
            for (key, _) in locks(node)? {
                if let LockKey::Intent(key) = key {
                    let (store, key) = (node.index + 1, Pretty(&key));
                    return Err(format!("s{store} still has an intent at {key}"));
                }
            }
        }
        Ok(())
    }

    /// The record of a transaction never says two different ends. But once a committed one has no
    /// intents left its record goes, and who asks for it then is told that it is aborted: there
    /// is nothing left that this could harm.
    pub(crate) fn check_records(&mut self) -> Result<(), String> {
        let mut intents = Vec::new();
        let mut late = BTreeSet::new();
        for node in &self.nodes {
            for (key, value) in locks(node)? {
                match key {
                    LockKey::Intent(key) => intents.push((node.index, key, value)),
                    LockKey::Record { txn_id, .. } => {
                        let Some(end) = end_in(value)? else { continue };
                        let known = *self.txn_ends.entry(txn_id.clone()).or_insert(end);
                        if known.is_some() && end.is_none() {
                            late.insert(txn_id);
                        } else if known != end {
                            let (store, id) = (node.index + 1, Escaped(&txn_id));
                            return Err(format!(
                                "s{store} says that transaction {id} ended as {end:?}, before it \
                                 was {known:?}"
                            ));
                        }
                    }
                }
            }
        }
        if late.is_empty() {
            return Ok(());
        }
        for (store, key, value) in intents {
            let intent = Intent::decode(value).map_err(|error| error.to_string())?;
            let id = intent.txn.unwrap_or_default().id;
            if late.contains(&id) && self.serves(store, &key) {
                let (id, key) = (Escaped(&id), Pretty(&key));
                return Err(format!(
                    "transaction {id} is committed, has an intent at {key}, and is called aborted"
                ));
            }
        }
        Ok(())
    }
}

/// How a record says that its transaction ended, if it does: at the timestamp of its commit, or
/// not at all.
fn end_in(record: Bytes) -> Result<Option<Option<Timestamp>>, String> {
    let record = TxnRecord::decode(record).map_err(|error| error.to_string())?;
    Ok(match record.status() {
        TxnStatus::Pending | TxnStatus::Staging => None,
        TxnStatus::Aborted => Some(None),
        TxnStatus::Committed => {
            let meta = record.meta.unwrap_or_default();
            Some(meta.write_timestamp.map(Timestamp::from))
        }
    })
}

/// All locks on the disk of a node.
fn locks(node: &Node) -> Result<Vec<(LockKey, Bytes)>, String> {
    let all = Span::new(layout::KEY_MIN, layout::tables_span().end);
    let (start, end) = mvcc::engine_span(&all);
    let mut found = Vec::new();
    node.engine
        .snapshot()
        .scan(Family::Lock, &start, &end, &mut |key, value| {
            found.push((lock::decode_key(key)?, Bytes::copy_from_slice(value)));
            Ok(ControlFlow::Continue(()))
        })
        .map_err(|error| error.to_string())?;
    Ok(found)
}
