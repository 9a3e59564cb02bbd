//! Decides what one pass does: which slots exist, who the cluster is, and at most one step.
//!
//! Pure and deterministic: `plan(desired, status, observed, fresh id)`; the pass executes what is
//! planned without choosing, and the next pass plans anew. Time does not matter to any decision.
//!
//! ```text
//! identity  -> every volume, node and the status must speak of one cluster id, else halt
//! slots     -> those that exist, those that volumes remember, then new numbers up to `nodes`
//! bootstrap -> all initial slots wait for Init: Init on the first slot of the first pool, once
//! repair    -> a pod that is down and whose template is outdated is replaced
//! ```
//!
//! Invariants:
//! 1. no id is ever chosen while a node or a volume of the cluster carries one;
//! 2. Init is called on one slot only: the slot and its store are recorded before, and neither a
//!    new store in that slot nor another slot is ever initialized in its place;
//! 3. slot numbers rise and are never given out twice, whatever was deleted in between; a number is
//!    given out when the slot's StatefulSet is written, so a refused write plans the same one again;
//! 4. a running pod is never taken down by anything in here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crdb_api::conditions;
use crdb_api::names::SlotName;
use crdb_api::v1alpha1::{CrdbClusterStatus, Liveness, Membership, Operation, OperationType};

use super::build;
use super::observed::{
    Answer, ClusterView, Observed, RangeCounts, TroubleKind, VolumeMark, VolumeView,
};
use super::validate::Desired;

/// What one pass does.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Every slot that is wanted, in order.
    pub(crate) slots: Vec<PlannedSlot>,
    /// Highest number given out so far in each pool; a slot that this pass makes counts once its
    /// StatefulSet is written, or each refused write would use up a number.
    pub(crate) last_slots: BTreeMap<String, u32>,
    /// Id of the cluster, if it has one.
    pub(crate) cluster_id: Option<String>,
    /// Whether the cluster was bootstrapped.
    pub(crate) initialized: bool,
    /// Nodes that may hold votes.
    pub(crate) members: usize,
    /// Why nothing may be changed.
    pub(crate) halt: Option<Halt>,
    /// The one step of this pass.
    pub(crate) step: Step,
    /// Annotations that volumes lack.
    pub(crate) marks: Vec<(SlotName, VolumeMark)>,
    /// What the cluster waits for before it is bootstrapped.
    pub(crate) waiting: Option<String>,
    /// When to look again.
    pub(crate) recheck_after: Duration,
}

/// A slot that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedSlot {
    pub(crate) slot: SlotName,
    /// Revision that the spec asks for.
    pub(crate) revision: String,
    /// Whether its StatefulSet may be written: a template that differs waits until the pod is down.
    pub(crate) released: bool,
}

/// Why a pass changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Halt {
    pub(crate) reason: HaltReason,
    pub(crate) message: String,
}

/// Kind of a halt; the text is the reason of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HaltReason {
    /// The spec asks for something that is not possible.
    SpecInvalid,
    /// Volumes, nodes and status speak of different clusters.
    StaleVolume,
    /// The store that was to be initialized first is gone.
    BootstrapVolumeLost,
}

impl HaltReason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            HaltReason::SpecInvalid => "SpecInvalid",
            HaltReason::StaleVolume => "StaleVolume",
            HaltReason::BootstrapVolumeLost => "BootstrapVolumeLost",
        }
    }
}

/// A disruptive act. It is recorded in status before it is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Step {
    #[default]
    None,
    /// Initializes the first node.
    Bootstrap { slot: SlotName, cluster_id: String, store_uuid: String },
    /// Deletes a pod that is down, so that it is made anew from the declared template.
    ReplacePod { slot: SlotName, pod_uid: String },
}

const SOON: Duration = Duration::from_secs(1);
const WHILE_STARTING: Duration = Duration::from_secs(5);
const WHEN_SETTLED: Duration = Duration::from_secs(60);

/// Plans one pass. `fresh_id` is a random UUID, used if the cluster has no id yet.
pub(crate) fn plan(
    desired: &Desired,
    status: &CrdbClusterStatus,
    observed: &Observed,
    fresh_id: &str,
) -> Plan {
    let mut plan = Plan { recheck_after: WHEN_SETTLED, ..Plan::default() };
    plan.initialized = is_initialized(status, observed);
    match identity(status, observed) {
        Ok(cluster_id) => plan.cluster_id = cluster_id,
        Err(message) => {
            plan.cluster_id = status.cluster_id.clone();
            return halted(plan, HaltReason::StaleVolume, message);
        }
    }
    if let Err(message) = plan_slots(desired, status, observed, &mut plan) {
        return halted(plan, HaltReason::SpecInvalid, message);
    }
    if let Some(message) = replaced_store(&plan, observed) {
        return halted(plan, HaltReason::StaleVolume, message);
    }
    let members = observed.view().map_or(0, ClusterView::members);
    plan.members = members.max(plan.slots.len());
    plan.marks = marks(desired, &plan, observed);
    if !plan.initialized {
        plan.recheck_after = if all_run(&plan, observed) { SOON } else { WHILE_STARTING };
        if let Err(message) = plan_bootstrap(desired, status, observed, fresh_id, &mut plan) {
            return halted(plan, HaltReason::BootstrapVolumeLost, message);
        }
    } else if !all_ready(&plan, observed) || !at_rest(observed) {
        plan.recheck_after = WHILE_STARTING;
    }
    if plan.step == Step::None {
        plan_repair(desired, status, observed, &mut plan);
    }
    if plan.step != Step::None {
        plan.recheck_after = SOON;
    }
    plan
}

fn halted(mut plan: Plan, reason: HaltReason, message: String) -> Plan {
    plan.halt = Some(Halt { reason, message });
    plan.step = Step::None;
    plan.marks.clear();
    plan.recheck_after = WHEN_SETTLED;
    plan
}

/// Whether the cluster was bootstrapped. Initialized never turns back; a node or a volume that belongs to a cluster proves it too.
pub(crate) fn is_initialized(status: &CrdbClusterStatus, observed: &Observed) -> bool {
    conditions::is_true(&status.conditions, conditions::INITIALIZED)
        || observed.answers.values().any(|answer| answer.view().is_some())
        || live_volumes(observed).any(|(_, volume)| volume.mark.cluster_id.is_some())
}

fn live_volumes(observed: &Observed) -> impl Iterator<Item = (&SlotName, &VolumeView)> {
    observed.volumes.iter().filter(|(_, volume)| volume.may_hold_member())
}

/// The one cluster id that everything speaks of.
fn identity(status: &CrdbClusterStatus, observed: &Observed) -> Result<Option<String>, String> {
    let mut claims: Vec<(String, String)> = Vec::new();
    if let Some(id) = &status.cluster_id {
        claims.push((id.clone(), "status.clusterID".to_owned()));
    }
    for (slot, volume) in live_volumes(observed) {
        if let Some(id) = &volume.mark.cluster_id {
            claims.push((id.clone(), format!("the volume of {slot}")));
        }
    }
    for (slot, answer) in &observed.answers {
        if let Some(view) = answer.view() {
            claims.push((view.cluster_id.clone(), format!("the node in {slot}")));
        }
    }
    let distinct: BTreeSet<&String> = claims.iter().map(|(id, _)| id).collect();
    if distinct.len() > 1 {
        let told: Vec<String> =
            claims.iter().map(|(id, source)| format!("{source} says {id}")).collect();
        return Err(format!(
            "different clusters meet here: {}; nothing is changed. Remove the volumes that do not \
             belong to this cluster, or delete this object and declare it under another name",
            told.join(", ")
        ));
    }
    Ok(distinct.into_iter().next().cloned())
}

/// A node whose store is not the one that its volume is marked with.
fn replaced_store(plan: &Plan, observed: &Observed) -> Option<String> {
    plan.slots.iter().find_map(|planned| {
        let marked = observed.volumes.get(&planned.slot)?.mark.store_uuid.as_ref()?;
        let found = match observed.answers.get(&planned.slot)? {
            Answer::Unreachable(_) => return None,
            Answer::Uninitialized { store_uuid } | Answer::Member { store_uuid, .. } => store_uuid,
        };
        (marked != found).then(|| {
            format!(
                "the volume of {} held store {marked}, the node reports store {found}: the data on \
                 it was replaced; nothing is changed",
                planned.slot
            )
        })
    })
}

/// Slots that exist or whose volume may hold a member, then new ones up to the declared number.
fn plan_slots(
    desired: &Desired,
    status: &CrdbClusterStatus,
    observed: &Observed,
    plan: &mut Plan,
) -> Result<(), String> {
    let remembered: BTreeSet<&SlotName> =
        observed.slots.keys().chain(live_volumes(observed).map(|(slot, _)| slot)).collect();
    if let Some(stray) = remembered.iter().find(|slot| desired.pool(&slot.pool).is_none()) {
        return Err(format!(
            "pool `{}` is not declared, but {stray} belongs to it: declare the pool again, \
             removing nodes comes with a later version",
            stray.pool
        ));
    }
    for pool in &desired.spec.pools {
        let revision = build::revision(desired, pool);
        let mut numbers: BTreeSet<u32> = BTreeSet::new();
        numbers.extend(remembered.iter().filter(|s| s.pool == pool.name).map(|s| s.number));
        let mut last = last_slot(desired, &pool.name, status, observed);
        plan.last_slots.insert(pool.name.clone(), last);
        let wanted = usize::try_from(pool.nodes).unwrap_or(usize::MAX);
        if numbers.len() > wanted {
            return Err(format!(
                "pool `{0}` declares {wanted} nodes, but {1} exist or have volumes: declare {1}, \
                 removing nodes comes with a later version",
                pool.name,
                numbers.len()
            ));
        }
        while numbers.len() < wanted {
            last += 1;
            numbers.insert(last);
        }
        for number in numbers {
            let slot = SlotName::new(&desired.name, &pool.name, number);
            let released = is_released(observed, &slot, &revision, plan.initialized);
            plan.slots.push(PlannedSlot { slot, revision: revision.clone(), released });
        }
    }
    Ok(())
}

/// Highest number ever given out in a pool, by everything that remembers.
fn last_slot(
    desired: &Desired,
    pool: &str,
    status: &CrdbClusterStatus,
    observed: &Observed,
) -> u32 {
    let recorded = status.pools.iter().filter(|row| row.name == pool).map(|row| row.last_slot);
    let slots = observed.slots.keys().chain(observed.volumes.keys());
    let slots = slots.filter(|slot| slot.pool == pool).map(|slot| slot.number);
    let nodes = observed.view().map_or(&[][..], |view| &view.nodes);
    let nodes = nodes.iter().filter_map(|node| {
        SlotName::from_address(&desired.name, &[pool], &node.address).map(|slot| slot.number)
    });
    recorded.chain(slots).chain(nodes).max().unwrap_or(0)
}

/// Whether a slot's StatefulSet may be written. An unchanged template always may: it restarts
/// nothing. A changed one waits until the pod is down anyway.
fn is_released(observed: &Observed, slot: &SlotName, revision: &str, initialized: bool) -> bool {
    let Some(view) = observed.slots.get(slot) else { return true };
    if view.revision == revision {
        return true;
    }
    match &view.pod {
        None => true,
        Some(pod) => !pod.ready && (!initialized || pod.trouble.is_some()),
    }
}

/// Chooses the bootstrap step when every initial slot waits for Init.
fn plan_bootstrap(
    desired: &Desired,
    status: &CrdbClusterStatus,
    observed: &Observed,
    fresh_id: &str,
    plan: &mut Plan,
) -> Result<(), String> {
    let recorded = status.operation.as_ref();
    let recorded = recorded.filter(|operation| operation.type_ == OperationType::Bootstrap);
    if let Some(operation) = recorded {
        let target = plan.slots.iter().find(|p| p.slot.stateful_set() == operation.slot);
        let (Some(target), Some(cluster_id)) = (target, plan.cluster_id.clone()) else {
            return Err(format!(
                "{} was to be initialized and is not declared any more: delete this object and \
                 declare the cluster again",
                operation.slot
            ));
        };
        match observed.answers.get(&target.slot) {
            Some(Answer::Uninitialized { store_uuid })
                if operation.store_uuid.as_ref() == Some(store_uuid) =>
            {
                plan.step = Step::Bootstrap {
                    slot: target.slot.clone(),
                    cluster_id,
                    store_uuid: store_uuid.clone(),
                };
            }
            Some(Answer::Uninitialized { store_uuid }) => {
                return Err(format!(
                    "the store of {} was replaced ({} by {store_uuid}) after it was chosen to be \
                     initialized; it may have been initialized before. Delete this object and \
                     declare the cluster again",
                    target.slot,
                    operation.store_uuid.as_deref().unwrap_or("unknown")
                ));
            }
            Some(Answer::Unreachable(_) | Answer::Member { .. }) | None => {
                plan.waiting = Some(format!("{} does not answer", target.slot));
            }
        }
        return Ok(());
    }
    let silent: Vec<String> = plan
        .slots
        .iter()
        .filter(|p| !matches!(observed.answers.get(&p.slot), Some(Answer::Uninitialized { .. })))
        .map(|p| p.slot.to_string())
        .collect();
    if !silent.is_empty() {
        plan.waiting = Some(format!("no answer yet from {}", silent.join(", ")));
        return Ok(());
    }
    let first_pool = desired.spec.pools.first().map(|pool| pool.name.as_str());
    let first = plan.slots.iter().find(|p| Some(p.slot.pool.as_str()) == first_pool);
    if let Some(first) = first
        && let Some(Answer::Uninitialized { store_uuid }) = observed.answers.get(&first.slot)
    {
        let cluster_id = plan.cluster_id.clone().unwrap_or_else(|| fresh_id.to_owned());
        plan.step = Step::Bootstrap {
            slot: first.slot.clone(),
            cluster_id,
            store_uuid: store_uuid.clone(),
        };
    }
    Ok(())
}

/// Whether every slot's process runs: then its answer comes by itself, and nothing else tells when.
fn all_run(plan: &Plan, observed: &Observed) -> bool {
    plan.slots.iter().all(|planned| {
        let pod = observed.slots.get(&planned.slot).and_then(|view| view.pod.as_ref());
        pod.is_some_and(|pod| pod.running)
    })
}

fn all_ready(plan: &Plan, observed: &Observed) -> bool {
    plan.slots.iter().all(|planned| {
        let pod = observed.slots.get(&planned.slot).and_then(|view| view.pod.as_ref());
        pod.is_some_and(|pod| pod.ready)
    })
}

/// Whether the database answers and has nothing to heal: when it has healed, no object of
/// Kubernetes changes that would make a pass, and the status would speak of the past.
fn at_rest(observed: &Observed) -> bool {
    observed.view().is_some_and(|view| {
        let whole = |ranges: RangeCounts| ranges.unavailable + ranges.under_replicated == 0;
        let mut members =
            view.nodes.iter().filter(|node| node.membership != Membership::Decommissioned);
        view.ranges.is_none_or(whole) && members.all(|node| node.liveness == Liveness::Live)
    })
}

/// Replaces a pod that is down and was made from another template than the declared one. Its
/// StatefulSet already has the declared template, so the new pod will.
fn plan_repair(
    desired: &Desired,
    status: &CrdbClusterStatus,
    observed: &Observed,
    plan: &mut Plan,
) {
    // The record of the bootstrap names the one store that may be initialized: until that has come
    // about, no other step may take its place in the status.
    let bootstraps = |operation: &Operation| operation.type_ == OperationType::Bootstrap;
    if !plan.initialized && status.operation.as_ref().is_some_and(bootstraps) {
        return;
    }
    for planned in &plan.slots {
        let Some(view) = observed.slots.get(&planned.slot) else { continue };
        let Some(pod) = &view.pod else { continue };
        let outdated = pod.revision != planned.revision && view.revision == planned.revision;
        let down = !pod.ready && !pod.terminating && (!plan.initialized || pod.trouble.is_some());
        if !outdated || !down {
            continue;
        }
        let pool = desired.pool(&planned.slot.pool);
        let ephemeral = pool.is_some_and(|pool| desired.spec.storage_of(pool).ephemeral);
        if ephemeral && plan.initialized && pod.ran {
            continue;
        }
        plan.step = Step::ReplacePod { slot: planned.slot.clone(), pod_uid: pod.uid.clone() };
        return;
    }
}

/// What volumes should say of the stores on them.
fn marks(desired: &Desired, plan: &Plan, observed: &Observed) -> Vec<(SlotName, VolumeMark)> {
    let view = observed.view();
    let mut marks = Vec::new();
    for planned in &plan.slots {
        let Some(volume) = observed.volumes.get(&planned.slot) else { continue };
        if volume.terminating {
            continue;
        }
        let mut mark = volume.mark.clone();
        mark.released = !desired.spec.deletion_protection;
        if let Some(Answer::Member { node_id, store_uuid, view: own }) =
            observed.answers.get(&planned.slot)
        {
            mark.cluster_id = Some(own.cluster_id.clone());
            mark.node_id = Some(*node_id);
            mark.store_uuid = Some(store_uuid.clone());
            if let Some(node) = view.and_then(|view| view.by_store(store_uuid)) {
                mark.membership = Some(node.membership.as_str().to_owned());
            }
        }
        if mark != volume.mark {
            marks.push((planned.slot.clone(), mark));
        }
    }
    marks
}

/// Reason words of a pod's trouble, as conditions use them.
pub(crate) fn trouble_reason(kind: TroubleKind) -> &'static str {
    match kind {
        TroubleKind::Unschedulable => "PodUnschedulable",
        TroubleKind::ImagePull => "ImagePullFailed",
        TroubleKind::ContainerConfig | TroubleKind::CrashLoop => "NodeDown",
    }
}
