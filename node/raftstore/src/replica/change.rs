//! Changes of the replicas, and the queue that decides on them.
//!
//! The queue runs at the leaseholder alone. It asks the allocator for the next step, proposes it,
//! and asks again when the step is applied; nothing is remembered between two steps but what is
//! in the replicated state. A change names the generation it builds on and is void if another came
//! first.

use crdb_allocator::{Action, Progress};
use crdb_keys::StoreId;
use crdb_proto::kv::{RangeDescriptor, ReplicaDescriptor, ReplicaType};
use crdb_storage::Engine;
use prost::Message as _;
use raft::{
    ProgressState,
    eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2},
};

use super::{Ctx, Replica};
use crate::{command::Kind, io::ReplicaChange};

impl<E: Engine> Replica<E> {
    /// Takes the next step towards the replicas the range should have.
    pub(super) fn run_replicate_queue(&mut self, ctx: &mut Ctx<'_, E>) {
        let pauses = ctx.stores.is_empty() || ctx.draining;
        if !ctx.config.replicate_queue || (pauses && !self.applied.conf.is_joint()) {
            return;
        }
        let Some(descriptor) = &self.descriptor else { return };
        if self.handle.lease.get().is_none() || self.raw.raft.has_pending_conf() {
            return;
        }
        let progress =
            Progress { leaseholder: self.store_id, caught_up: self.caught_up_stores(ctx) };
        let change = match crdb_allocator::next_action(descriptor, &progress, ctx.stores) {
            Action::None => return,
            Action::TransferLease(target) => {
                return self.transfer_lease(ctx, Some(target));
            }
            Action::AddLearner(store) => ReplicaChange::AddLearner(store),
            Action::Promote { promote, demote } => ReplicaChange::Promote { promote, demote },
            Action::LeaveJoint => ReplicaChange::LeaveJoint,
            Action::RemoveLearner(store) => ReplicaChange::RemoveLearner(store),
        };
        self.change_replicas(ctx, &change);
    }

    fn caught_up_stores(&self, ctx: &Ctx<'_, E>) -> std::collections::BTreeSet<StoreId> {
        let committed = self.raw.raft.raft_log.committed;
        let caught_up = |replica: &&ReplicaDescriptor| {
            self.raw.raft.prs().get(replica.replica_id).is_some_and(|progress| {
                // Behind a snapshot an idle range is not probed again until its next entry, so the
                // state alone does not tell; what the replica has acknowledged does.
                progress.state != ProgressState::Snapshot
                    && progress.matched > 0
                    && self.is_responsive(ctx, replica.replica_id)
                    && progress.matched + ctx.config.limits.caught_up_entries >= committed
            })
        };
        let replicas = self.descriptor.iter().flat_map(|descriptor| &descriptor.replicas);
        replicas.filter(caught_up).map(|replica| StoreId(replica.store_id)).collect()
    }

    /// Proposes a change of the replicas, if this replica leads and the change fits.
    pub(crate) fn change_replicas(&mut self, ctx: &mut Ctx<'_, E>, change: &ReplicaChange) {
        let Some(descriptor) = &self.descriptor else { return };
        let lease = &self.applied.lease;
        let fits = self
            .leadership
            .as_ref()
            .is_some_and(|led| !led.is_transferring() && lease.term == led.term)
            && lease.end().is_none()
            && !self.raw.raft.has_pending_conf();
        if !fits {
            return;
        }
        let node_of = |store: StoreId| {
            let known = ctx.stores.iter().find(|info| info.store_id == store);
            known.map_or(store.get(), |info| info.node_id.get())
        };
        let (next, conf) = match plan(descriptor, change, self.store_id, node_of) {
            Ok(planned) => planned,
            Err(why) => {
                tracing::warn!(range = %self.range_id, %change, why, "refuses to change replicas");
                return;
            }
        };
        let sequence = lease.sequence;
        let Some(command) = self.number(ctx, sequence, Kind::ChangeReplicas(next)) else { return };
        tracing::info!(range = %self.range_id, %change, "changes replicas");
        if let Err(error) = self.raw.propose_conf_change(command.encode_to_vec(), conf) {
            tracing::info!(range = %self.range_id, %change, %error, "raft refused the change");
        }
        self.after_raft(ctx);
    }
}

/// The descriptor after `change` and the raft configuration change that goes with it.
fn plan(
    descriptor: &RangeDescriptor,
    change: &ReplicaChange,
    own: StoreId,
    node_of: impl Fn(StoreId) -> u32,
) -> Result<(RangeDescriptor, ConfChangeV2), &'static str> {
    let joint = descriptor.replicas.iter().any(|replica| {
        matches!(replica.r#type(), ReplicaType::VoterIncoming | ReplicaType::VoterOutgoing)
    });
    if joint != (*change == ReplicaChange::LeaveJoint) {
        return Err("a joint configuration must be left, and only that");
    }
    let mut next = RangeDescriptor { generation: descriptor.generation + 1, ..descriptor.clone() };
    let mut conf = ConfChangeV2::default();
    match change {
        ReplicaChange::AddLearner(store) => {
            if descriptor.replicas.iter().any(|replica| replica.store_id == store.get()) {
                return Err("the store has a replica already");
            }
            let replica_id = next.next_replica_id;
            next.next_replica_id += 1;
            next.replicas.push(ReplicaDescriptor {
                node_id: node_of(*store),
                store_id: store.get(),
                replica_id,
                r#type: ReplicaType::Learner.into(),
            });
            conf.set_changes(vec![single(ConfChangeType::AddLearnerNode, replica_id)].into());
        }
        ReplicaChange::RemoveLearner(store) => {
            let id = find(&next, *store, ReplicaType::Learner).ok_or("no learner there")?;
            next.replicas.retain(|replica| replica.replica_id != id);
            conf.set_changes(vec![single(ConfChangeType::RemoveNode, id)].into());
        }
        ReplicaChange::Promote { promote, demote } => {
            if demote.contains(&own) {
                return Err("a leaseholder does not demote itself");
            }
            let mut changes = Vec::new();
            for store in promote {
                let id = find(&next, *store, ReplicaType::Learner).ok_or("no learner there")?;
                set_type(&mut next, id, ReplicaType::VoterIncoming);
                changes.push(single(ConfChangeType::AddNode, id));
            }
            for store in demote {
                let id = find(&next, *store, ReplicaType::Voter).ok_or("no voter there")?;
                set_type(&mut next, id, ReplicaType::VoterOutgoing);
                changes.push(single(ConfChangeType::AddLearnerNode, id));
            }
            if changes.is_empty() {
                return Err("nothing to change");
            }
            conf.set_transition(ConfChangeTransition::Explicit);
            conf.set_changes(changes.into());
        }
        ReplicaChange::LeaveJoint => {
            for replica in &mut next.replicas {
                match replica.r#type() {
                    ReplicaType::VoterIncoming => replica.set_type(ReplicaType::Voter),
                    ReplicaType::VoterOutgoing => replica.set_type(ReplicaType::Learner),
                    ReplicaType::Voter | ReplicaType::Learner => {}
                }
            }
        }
    }
    Ok((next, conf))
}

fn single(kind: ConfChangeType, replica: u64) -> ConfChangeSingle {
    let mut single = ConfChangeSingle::default();
    single.set_change_type(kind);
    single.node_id = replica;
    single
}

fn find(descriptor: &RangeDescriptor, store: StoreId, kind: ReplicaType) -> Option<u64> {
    descriptor
        .replicas
        .iter()
        .find(|replica| replica.store_id == store.get() && replica.r#type() == kind)
        .map(|replica| replica.replica_id)
}

fn set_type(descriptor: &mut RangeDescriptor, id: u64, kind: ReplicaType) {
    for replica in &mut descriptor.replicas {
        if replica.replica_id == id {
            replica.set_type(kind);
        }
    }
}
