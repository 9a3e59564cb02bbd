//! What is done now and then: gossip, checks, and the step from one part of a run to the next.

use crdb_allocator::{StoreInfo, StoreStatus};
use crdb_keys::StoreId;
use crdb_raftstore::Input;

use crate::{
    client::Client,
    event::Event,
    node::Node,
    plan::MS,
    txn::drive::TxnClientState,
    world::{Phase, World},
};

/// Without operations for so long every store has published what it applied.
const QUIET: u64 = 500 * MS;

impl World {
    pub(crate) fn watch(&mut self) -> Result<(), String> {
        let stores = self.stores();
        for index in 0..self.nodes.len() {
            self.give(index, Input::Stores(stores.clone()));
        }
        self.gossip();
        self.check_replicas()?;
        self.check_records()?;
        let elapsed = self.now - self.phase_started;
        match self.phase {
            Phase::Forming if self.converged().is_ok() => {
                self.enter(Phase::Faulty);
                for client in 0..self.clients.len() {
                    self.after(0, Event::Invoke { client });
                }
                for client in 0..self.txn_clients.len() {
                    self.after(0, Event::InvokeTxn { client });
                }
                self.after(self.plan.fault_gap, Event::Fault);
            }
            Phase::Faulty if elapsed > self.plan.faulty => {
                self.heal();
                self.enter(Phase::Healing);
            }
            Phase::Healing if self.all_served() => {
                self.enter(Phase::Sweeping);
                self.start_sweep();
            }
            Phase::Forming if elapsed > 60_000 * MS => {
                return Err(format!("the cluster does not form: {}", self.why_not_converged()));
            }
            Phase::Healing | Phase::Sweeping | Phase::Settling if elapsed > 60_000 * MS => {
                return Err(format!(
                    "no recovery a minute after all faults ended ({:?}): {}",
                    self.phase,
                    self.why_not_converged()
                ));
            }
            _ => {}
        }
        self.after(150 * MS, Event::Watch);
        Ok(())
    }

    /// Gateways hear now and then what the stores of other nodes know of their ranges.
    fn gossip(&mut self) {
        for from in 0..self.nodes.len() {
            let Some(handle) = self.node(from).handle.clone() else { continue };
            let ranges: Vec<_> =
                handle.ranges().into_iter().map(|range| range.descriptor).collect();
            for to in 0..self.nodes.len() {
                let heard =
                    from == to || self.rng.chance(30) && !self.network.is_cut(from, to, self.now);
                let Some(gateway) = self.node(to).gateway.as_ref().filter(|_| heard) else {
                    continue;
                };
                for descriptor in &ranges {
                    gateway.cache().insert(descriptor.clone());
                }
            }
        }
    }

    pub(crate) fn enter(&mut self, phase: Phase) {
        self.trace(|| format!("--- {phase:?}"));
        self.phase = phase;
        self.phase_started = self.now;
    }

    pub(crate) fn stores(&self) -> Vec<StoreInfo> {
        let info = |node: &Node| {
            let down = self.now.saturating_sub(node.down_since);
            let status = match node.is_up() {
                true => StoreStatus::Live,
                false if down > 3_000 * MS => StoreStatus::Dead,
                false => StoreStatus::Suspect,
            };
            let replicas = node.handle.as_ref().map_or(0, |handle| handle.counts().replicas);
            StoreInfo {
                store_id: StoreId(node.store_id().get()),
                node_id: node.node_id(),
                locality: Vec::new(),
                status,
                draining: false,
                decommissioning: node.decommissioning,
                replicas,
            }
        };
        self.nodes.iter().map(info).collect()
    }

    pub(crate) fn is_settled(&self) -> bool {
        // Stores publish what they know at each tick: look at what they know after the last write.
        let quiet = self.now > self.active_at + QUIET;
        let idle = self.clients.iter().all(Client::is_idle)
            && self.txn_clients.iter().all(TxnClientState::is_idle);
        quiet && idle && self.converged().is_ok() && self.check_intents().is_ok()
    }

    /// Whether every client was served twice since the faults ended.
    fn all_served(&self) -> bool {
        self.clients.iter().all(|client| client.done_since_heal >= 2)
            && self.txn_clients.iter().all(|client| client.done_since_heal >= 2)
    }

    pub(crate) fn start_sweep(&mut self) {
        let Some(gateway) = self.pick_gateway(None) else { return };
        let mut job = self.txn_job(self.txn_clients.len(), gateway);
        // It has to come to its end, and may send each of its writes by itself.
        job.habits.give_up = 0;
        self.spawn(gateway, None, Box::pin(job.sweep()));
    }

    fn why_not_converged(&self) -> String {
        let checks = [self.converged(), self.check_intents(), self.swept.clone()];
        let why = checks.into_iter().find_map(Result::err);
        why.unwrap_or_else(|| "the clients get no answers".into())
    }
}
