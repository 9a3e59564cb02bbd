//! The next step for a range.

use std::{cmp::Reverse, collections::BTreeSet, fmt};

use crdb_keys::{NodeId, StoreId};
use crdb_proto::kv::{RangeDescriptor, ReplicaDescriptor, ReplicaType};

use crate::{StoreInfo, diversity};

/// How many voters a range has when there are enough nodes.
const VOTERS: usize = 3;

/// What the leaseholder knows about the replicas of its range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Store of the leaseholder.
    pub leaseholder: StoreId,
    /// Stores whose replica holds nearly the whole log.
    pub caught_up: BTreeSet<StoreId>,
}

/// One step towards the replicas a range should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The range is as it should be, or nothing can be done now.
    None,
    /// Add a learner on a store.
    AddLearner(StoreId),
    /// Make learners voters and voters learners through a joint configuration.
    Promote {
        /// Stores whose learner becomes a voter.
        promote: Vec<StoreId>,
        /// Stores whose voter becomes a learner.
        demote: Vec<StoreId>,
    },
    /// Leave the joint configuration.
    LeaveJoint,
    /// Remove the learner on a store.
    RemoveLearner(StoreId),
    /// Give the lease to a store, so that the leaseholder's own replica can be replaced.
    TransferLease(StoreId),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |stores: &[StoreId]| {
            stores.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        match self {
            Self::None => f.write_str("nothing"),
            Self::AddLearner(store) => write!(f, "add learner {store}"),
            Self::Promote { promote, demote } => {
                let mut parts = Vec::new();
                if !promote.is_empty() {
                    parts.push(format!("promote {}", list(promote)));
                }
                if !demote.is_empty() {
                    parts.push(format!("demote {}", list(demote)));
                }
                f.write_str(&parts.join(", "))
            }
            Self::LeaveJoint => f.write_str("leave joint configuration"),
            Self::RemoveLearner(store) => write!(f, "remove learner {store}"),
            Self::TransferLease(store) => write!(f, "transfer lease to {store}"),
        }
    }
}

/// How many voters `range` should have among `stores`: three, or one while there are fewer than
/// three nodes to stay. A dead node counts until it is decommissioned, so that a range waits for
/// it, or for its replacement, with the voters it has. So does the node of a replica that `stores`
/// does not list: who just started has not heard of all nodes yet, and must not take those it has
/// not heard of for gone.
#[must_use]
pub fn replica_target(range: &RangeDescriptor, stores: &[StoreInfo]) -> usize {
    let mut nodes: BTreeSet<_> =
        stores.iter().filter(|store| !store.decommissioning).map(|store| store.node_id).collect();
    let known = |id: u32| stores.iter().any(|store| store.store_id.get() == id);
    let unheard_of = range.replicas.iter().filter(|replica| !known(replica.store_id));
    nodes.extend(unheard_of.map(|replica| NodeId(replica.node_id)));
    voter_target(nodes.len())
}

/// How many voters a range should have where `nodes` nodes are to stay: three, or one while there
/// are fewer than three.
#[must_use]
pub fn voter_target(nodes: usize) -> usize {
    let target = nodes.clamp(1, VOTERS);
    if target.is_multiple_of(2) { target - 1 } else { target }
}

/// The next step for `range`.
#[must_use]
pub fn next_action(range: &RangeDescriptor, progress: &Progress, stores: &[StoreInfo]) -> Action {
    let of_type = |wanted: ReplicaType| {
        range
            .replicas
            .iter()
            .filter(move |replica| replica.r#type() == wanted)
            .map(|replica| StoreId(replica.store_id))
    };
    if range.replicas.iter().any(is_joint) {
        return leave_joint(range, progress);
    }
    let find = |id: StoreId| stores.iter().find(|store| store.store_id == id);
    let is_bad = |id: &StoreId| find(*id).is_some_and(StoreInfo::is_bad);

    if let Some(store) = of_type(ReplicaType::Learner).filter(is_bad).min() {
        return Action::RemoveLearner(store);
    }
    let learners: BTreeSet<_> = of_type(ReplicaType::Learner).collect();
    let voters: BTreeSet<_> = of_type(ReplicaType::Voter).collect();
    let (bad, good): (Vec<_>, Vec<_>) = voters.iter().copied().partition(is_bad);
    let target = replica_target(range, stores);

    if good.len() >= target {
        return shrink(progress, &good, &bad, &learners, target, find);
    }
    let missing = target - good.len();
    if learners.len() < missing {
        let held: Vec<_> = good.iter().chain(&learners).filter_map(|store| find(*store)).collect();
        return candidate(range, stores, &held).map_or(Action::None, Action::AddLearner);
    }
    let promote: Vec<_> = learners
        .iter()
        .copied()
        .filter(|store| progress.caught_up.contains(store))
        .take(missing)
        .collect();
    if promote.len() < missing {
        return Action::None;
    }
    if bad.contains(&progress.leaseholder) && voters.len() + missing > target {
        // The new voters come first, then the lease moves, then the old voter goes.
        return transfer(&good).unwrap_or(Action::Promote { promote, demote: Vec::new() });
    }
    let excess = (voters.len() + missing).saturating_sub(target);
    Action::Promote { promote, demote: bad.into_iter().take(excess).collect() }
}

/// The step out of a joint configuration. Who became leader in it may be the very replica that it
/// demotes: then the lease goes first to a voter that stays and is caught up.
fn leave_joint(range: &RangeDescriptor, progress: &Progress) -> Action {
    let leaves = range.replicas.iter().any(|replica| {
        replica.store_id == progress.leaseholder.get()
            && replica.r#type() == ReplicaType::VoterOutgoing
    });
    let stays = |replica: &&ReplicaDescriptor| {
        matches!(replica.r#type(), ReplicaType::Voter | ReplicaType::VoterIncoming)
    };
    let staying = range.replicas.iter().filter(stays).map(|replica| StoreId(replica.store_id));
    staying
        .filter(|store| leaves && progress.caught_up.contains(store))
        .min()
        .map_or(Action::LeaveJoint, Action::TransferLease)
}

/// The step that rids a range with enough good voters of what it has too much of.
fn shrink<'a>(
    progress: &Progress,
    good: &[StoreId],
    bad: &[StoreId],
    learners: &BTreeSet<StoreId>,
    target: usize,
    find: impl Fn(StoreId) -> Option<&'a StoreInfo>,
) -> Action {
    if bad.contains(&progress.leaseholder) {
        return transfer(good).unwrap_or(Action::None);
    }
    let mut demote = bad.to_vec();
    let mut keep = good.to_vec();
    while keep.len() > target {
        // The voter that adds the least diversity goes, the highest store id among equals.
        let worst = keep.iter().copied().filter(|store| *store != progress.leaseholder).min_by_key(
            |&store| {
                let others =
                    keep.iter().filter(|other| **other != store).filter_map(|other| find(*other));
                (find(store).map_or(0, |info| diversity::score(info, others)), Reverse(store))
            },
        );
        let Some(worst) = worst else { break };
        keep.retain(|store| *store != worst);
        demote.push(worst);
    }
    if !demote.is_empty() {
        return Action::Promote { promote: Vec::new(), demote };
    }
    learners.first().copied().map_or(Action::None, Action::RemoveLearner)
}

fn transfer(good: &[StoreId]) -> Option<Action> {
    good.first().copied().map(Action::TransferLease)
}

fn is_joint(replica: &ReplicaDescriptor) -> bool {
    matches!(replica.r#type(), ReplicaType::VoterIncoming | ReplicaType::VoterOutgoing)
}

/// The best store for a new replica of `range`, which counts on those in `held`.
fn candidate(
    range: &RangeDescriptor,
    stores: &[StoreInfo],
    held: &[&StoreInfo],
) -> Option<StoreId> {
    let taken: BTreeSet<_> = range.replicas.iter().map(|replica| replica.node_id).collect();
    stores
        .iter()
        .filter(|store| store.is_candidate() && !taken.contains(&store.node_id.get()))
        .max_by_key(|store| {
            let score = diversity::score(store, held.iter().copied());
            (score, Reverse(store.replicas), Reverse(store.store_id))
        })
        .map(|store| store.store_id)
}

#[cfg(test)]
mod tests;
