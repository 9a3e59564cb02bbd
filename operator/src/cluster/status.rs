//! Computes what is reported about a cluster.
//!
//! Pure: `status(...)` from what was seen and done, `worth_writing` decides whether it differs
//! enough from what is stored. Everything is computed from this pass's observation, apart from
//! the transition times and Initialized, which never turns back.

use std::collections::BTreeSet;
use std::time::Duration;

use crdb_api::conditions::{self, State, condition, set_condition};
use crdb_api::names::{self, HTTP_PORT, SlotName};
use crdb_api::v1alpha1::{
    CrdbCluster, CrdbClusterStatus, EndpointsStatus, Liveness, NodeCounts, NodeRow, Operation,
    OperationType, PoolStatus, RangeStatus, Reconcile, ServiceType, VersionStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::observed::{Answer, ClusterView, MemberView, Observed, PodView};
use super::plan::{self, HaltReason, Plan, PlannedSlot, Step, trouble_reason};
use super::validate::Desired;

/// Rows that are kept; more would make the object too large.
const NODE_ROWS_MAX: usize = 100;
/// Used bytes are reported in these steps.
const USED_BYTES_STEP: u64 = 64 << 20;
/// How often volatile numbers alone are worth a write.
const VOLATILE_REFRESH: Duration = Duration::from_secs(300);
/// How often they are while an operation runs.
const VOLATILE_REFRESH_BUSY: Duration = Duration::from_secs(10);

/// What applying the objects came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Objects of the wanted names that belong to somebody else; if there are any, nothing was
    /// written.
    pub(crate) conflicts: Vec<String>,
    /// Objects that the API server refused.
    pub(crate) rejected: Vec<String>,
    /// StatefulSets that were written.
    pub(crate) stateful_sets: BTreeSet<String>,
    /// Why the step failed, once it did so again and again.
    pub(crate) failed: Option<String>,
}

/// Status of a cluster whose spec does not hold together: whether it serves is still reported,
/// everything else stays as it was.
pub(crate) fn invalid(
    cluster: &CrdbCluster,
    observed: &Observed,
    faults: &[String],
    now: &Time,
) -> CrdbClusterStatus {
    let mut status = cluster.status.clone().unwrap_or_default();
    let generation = cluster.metadata.generation;
    status.observed_generation = generation;
    let initialized = plan::is_initialized(&status, observed);
    let message = faults.join("; ");
    let mut verdicts = vec![
        (conditions::READY, State::False, "SpecInvalid", message.clone()),
        available(initialized, observed),
        (conditions::PROGRESSING, State::False, "SpecInvalid", message),
    ];
    if initialized && !conditions::is_true(&status.conditions, conditions::INITIALIZED) {
        let text = "a node or a volume belongs to a cluster".to_owned();
        verdicts.push((conditions::INITIALIZED, State::True, "Bootstrapped", text));
    }
    for (type_, state, reason, message) in verdicts {
        let new = condition(type_, state, reason, message, generation, now);
        set_condition(&mut status.conditions, new);
    }
    for type_ in conditions::ALL {
        if conditions::find(&status.conditions, type_).is_none() {
            let text = "not looked at: the spec is invalid";
            let new = condition(type_, State::Unknown, "SpecInvalid", text, generation, now);
            status.conditions.push(new);
        }
    }
    status
}

/// Status of a cluster that the operator cannot work on: the one thing it can say.
pub(crate) fn failed(cluster: &CrdbCluster, why: String, now: &Time) -> CrdbClusterStatus {
    let mut status = cluster.status.clone().unwrap_or_default();
    let generation = cluster.metadata.generation;
    let new = condition(conditions::DEGRADED, State::True, "ReconcileError", why, generation, now);
    set_condition(&mut status.conditions, new);
    status
}

/// The record of a step, as it is written before the step is done.
pub(crate) fn record(
    status: &CrdbClusterStatus,
    step: &Step,
    now: &Time,
) -> Option<CrdbClusterStatus> {
    let (type_, slot, store_uuid, pod_uid) = match step {
        Step::None => return None,
        Step::Bootstrap { slot, store_uuid, .. } => {
            (OperationType::Bootstrap, slot, Some(store_uuid.clone()), None)
        }
        Step::ReplacePod { slot, pod_uid } => {
            (OperationType::ReplacePod, slot, None, Some(pod_uid.clone()))
        }
    };
    let slot = slot.stateful_set();
    let same = status.operation.as_ref().filter(|old| {
        old.type_ == type_
            && old.slot == slot
            && old.store_uuid == store_uuid
            && old.pod_uid == pod_uid
    });
    let mut recorded = status.clone();
    let start_time = same.map_or_else(|| now.clone(), |old| old.start_time.clone());
    recorded.operation = Some(Operation { type_, slot, store_uuid, pod_uid, start_time });
    if let Step::Bootstrap { cluster_id, .. } = step {
        recorded.cluster_id = Some(cluster_id.clone());
    }
    (recorded != *status).then_some(recorded)
}

/// Computes the status after a pass. `before` is what is stored now, with the record of the step.
pub(crate) fn status(
    desired: &Desired,
    before: &CrdbClusterStatus,
    observed: &Observed,
    plan: &Plan,
    applied: &Applied,
    now: &Time,
) -> CrdbClusterStatus {
    let pass = Pass { desired, before, observed, plan, applied };
    let rows: Vec<NodeRow> = plan.slots.iter().map(|planned| pass.row(planned)).collect();
    let mut status = CrdbClusterStatus {
        observed_generation: desired.generation,
        cluster_id: before.cluster_id.clone().or_else(|| plan.cluster_id.clone()),
        version: Some(pass.version()),
        nodes: Some(pass.counts()),
        ranges: pass.ranges(),
        endpoints: Some(pass.endpoints()),
        operation: pass.operation(),
        pools: pass.pools(&rows),
        conditions: before.conditions.clone(),
        node_rows: rows,
    };
    // A halted pass plans no slots: what was known of them still holds.
    if plan.slots.is_empty() {
        status.pools.clone_from(&before.pools);
        status.node_rows.clone_from(&before.node_rows);
    }
    for (type_, state, reason, message) in pass.conditions(&status) {
        let new = condition(type_, state, reason, message, desired.generation, now);
        set_condition(&mut status.conditions, new);
    }
    status.node_rows.truncate(NODE_ROWS_MAX);
    status
}

/// Whether a computed status is worth a write: at once when anything but the volatile numbers
/// differs, otherwise at intervals.
pub(crate) fn worth_writing(
    old: &CrdbClusterStatus,
    new: &CrdbClusterStatus,
    since_last_write: Duration,
) -> bool {
    if old == new {
        return false;
    }
    if steady(old) != steady(new) {
        return true;
    }
    let interval = if new.operation.is_some() { VOLATILE_REFRESH_BUSY } else { VOLATILE_REFRESH };
    since_last_write >= interval
}

/// A status without its volatile numbers.
fn steady(status: &CrdbClusterStatus) -> CrdbClusterStatus {
    let mut status = status.clone();
    for row in &mut status.node_rows {
        row.ranges = 0;
        row.leases = 0;
        row.used_bytes = 0;
    }
    if let Some(ranges) = &mut status.ranges {
        ranges.total = 0;
        ranges.under_replicated = u64::from(ranges.under_replicated > 0);
        ranges.constraint_violations = u64::from(ranges.constraint_violations > 0);
    }
    for condition in &mut status.conditions {
        if condition.type_ == conditions::FULLY_REPLICATED {
            condition.message.clear();
        }
    }
    status
}

type Verdict = (&'static str, State, &'static str, String);

/// Everything a status is computed from.
struct Pass<'a> {
    desired: &'a Desired,
    before: &'a CrdbClusterStatus,
    observed: &'a Observed,
    plan: &'a Plan,
    applied: &'a Applied,
}

impl Pass<'_> {
    fn pod(&self, slot: &SlotName) -> Option<&PodView> {
        self.observed.slots.get(slot).and_then(|view| view.pod.as_ref())
    }

    fn member(&self, slot: &SlotName) -> Option<&MemberView> {
        let view = self.observed.view()?;
        if let Some(Answer::Member { store_uuid, .. }) = self.observed.answers.get(slot) {
            return view.by_store(store_uuid);
        }
        let volume = self.observed.volumes.get(slot).and_then(|v| v.mark.store_uuid.as_ref());
        if let Some(store) = volume {
            return view.by_store(store);
        }
        // A node with a new store has the address of the one before it, and a higher id.
        let cluster = &self.desired.name;
        let here = view.nodes.iter().filter(|node| {
            SlotName::from_address(cluster, &[&slot.pool], &node.address).as_ref() == Some(slot)
        });
        here.max_by_key(|node| node.node_id)
    }

    fn row(&self, planned: &PlannedSlot) -> NodeRow {
        let slot = &planned.slot;
        let pool = self.desired.pool(&slot.pool);
        let pod = self.pod(slot);
        let member = self.member(slot);
        NodeRow {
            name: slot.stateful_set(),
            node_id: member.map(|node| node.node_id),
            pod: slot.pod(),
            pool: slot.pool.clone(),
            region: pool.and_then(|pool| pool.region.clone()),
            zone: pool.and_then(|pool| pool.zone.clone()),
            k8s_node: pod.and_then(|pod| pod.machine.clone()),
            version: member.map(|node| node.version.clone()).filter(|text| !text.is_empty()),
            ready: pod.is_some_and(|pod| pod.ready),
            liveness: member.map(|node| node.liveness).unwrap_or_default(),
            membership: member.map(|node| node.membership),
            draining: member.is_some_and(|node| node.draining),
            store_uuid: member.map(|node| node.store_uuid.clone()),
            ranges: member.map_or(0, |node| node.replicas),
            leases: member.map_or(0, |node| node.leases),
            used_bytes: member.map_or(0, |node| {
                node.used_bytes.div_ceil(USED_BYTES_STEP).saturating_mul(USED_BYTES_STEP)
            }),
        }
    }

    /// Counted from what was seen, since a halted pass plans no slots and has no rows.
    fn counts(&self) -> NodeCounts {
        let known = self.observed.view().map_or(&[][..], |view| &view.nodes);
        NodeCounts {
            desired: self.desired.spec.pools.iter().map(|pool| pool.nodes).sum(),
            ready: ready_pods(self.observed),
            live: count(known.iter().filter(|node| node.liveness == Liveness::Live)),
        }
    }

    fn pools(&self, rows: &[NodeRow]) -> Vec<PoolStatus> {
        let pools = self.desired.spec.pools.iter();
        let pools = pools.map(|pool| PoolStatus {
            name: pool.name.clone(),
            desired: pool.nodes,
            ready: count(rows.iter().filter(|row| row.pool == pool.name && row.ready)),
            last_slot: self.last_slot(&pool.name),
            zone: pool.zone.clone(),
        });
        pools.collect()
    }

    /// Highest number ever given out in a pool, those of the slots made in this pass included.
    fn last_slot(&self, pool: &str) -> u32 {
        let before = self.plan.last_slots.get(pool).copied().unwrap_or(0);
        let slots = self.plan.slots.iter().map(|planned| &planned.slot);
        let made = slots
            .filter(|slot| slot.pool == pool)
            .filter(|slot| self.applied.stateful_sets.contains(&slot.stateful_set()));
        made.map(|slot| slot.number).max().unwrap_or(0).max(before)
    }

    fn version(&self) -> VersionStatus {
        let view = self.observed.view();
        let live = view.map_or(&[][..], |view| &view.nodes).iter();
        let live = live.filter(|node| node.liveness == Liveness::Live && !node.version.is_empty());
        let known = self.before.version.clone().unwrap_or_default();
        VersionStatus {
            running: live
                .map(|node| node.version.clone())
                .min_by_key(|version| numbers(version))
                .or(known.running),
            active: view
                .map(|view| view.active_version.clone())
                .filter(|text| !text.is_empty())
                .or(known.active),
            target: self.desired.spec.version.clone(),
        }
    }

    fn ranges(&self) -> Option<RangeStatus> {
        let ranges = self.observed.view()?.ranges?;
        Some(RangeStatus {
            total: ranges.total,
            under_replicated: ranges.under_replicated,
            unavailable: ranges.unavailable,
            constraint_violations: ranges.constraint_violations,
        })
    }

    fn endpoints(&self) -> EndpointsStatus {
        let (name, namespace) = (&self.desired.name, &self.desired.namespace);
        let port = self.desired.spec.load_balancer.service.port;
        EndpointsStatus {
            sql: format!("{}.{namespace}.svc:{port}", names::sql_service(name)),
            http: format!("{}.{namespace}.svc:{HTTP_PORT}", names::http_service(name)),
            external: self.observed.external_address.as_ref().map(|host| format!("{host}:{port}")),
        }
    }

    /// A recorded operation stays until what it is for has come about.
    fn operation(&self) -> Option<Operation> {
        let operation = self.before.operation.clone()?;
        let over = match operation.type_ {
            OperationType::Bootstrap => self.plan.initialized,
            OperationType::ReplacePod => {
                let slots = self.observed.slots.iter();
                let view = slots
                    .filter(|(slot, _)| slot.stateful_set() == operation.slot)
                    .find_map(|(_, view)| view.pod.as_ref());
                view.is_none_or(|pod| Some(&pod.uid) != operation.pod_uid.as_ref() || pod.ready)
            }
        };
        (!over).then_some(operation)
    }

    fn conditions(&self, status: &CrdbClusterStatus) -> Vec<Verdict> {
        let ready = status.nodes.as_ref().map_or(0, |nodes| nodes.ready);
        let wanted = status.nodes.as_ref().map_or(0, |nodes| nodes.desired);
        vec![
            self.ready(ready, wanted),
            available(self.plan.initialized, self.observed),
            self.progressing(ready, wanted),
            self.degraded(),
            self.initialized(),
            self.fully_replicated(),
            self.constraints_satisfied(),
            self.storage_ready(),
            self.certificates(),
            self.load_balancer(ready),
        ]
    }

    fn ready(&self, ready: u32, wanted: u32) -> Verdict {
        let text = format!("{ready} of {wanted} nodes are ready");
        let all = State::from(ready == wanted && wanted > 0);
        let (state, reason, text) = match &self.plan.halt {
            Some(halt) if halt.reason == HaltReason::SpecInvalid => {
                (State::False, halt.reason.as_str(), halt.message.clone())
            }
            _ if self.desired.spec.reconcile == Reconcile::Paused => {
                (all, "Paused", format!("{text}; spec.reconcile is Paused, nothing is changed"))
            }
            _ if !self.plan.initialized => (State::False, "Initializing", text),
            _ if all == State::True => (all, "AllNodesReady", text),
            _ => (all, "NotAllNodesReady", text),
        };
        (conditions::READY, state, reason, text)
    }

    fn progressing(&self, ready: u32, wanted: u32) -> Verdict {
        let verdict = |state, reason, text: String| (conditions::PROGRESSING, state, reason, text);
        if let Some(halt) = &self.plan.halt {
            return verdict(State::False, halt.reason.as_str(), halt.message.clone());
        }
        if !self.applied.conflicts.is_empty() {
            return verdict(State::False, "NameConflict", self.applied.conflicts.join("; "));
        }
        if self.desired.spec.reconcile == Reconcile::Paused {
            return verdict(State::False, "Idle", "spec.reconcile is Paused".to_owned());
        }
        if let Step::ReplacePod { slot, .. } = &self.plan.step {
            return verdict(State::True, "Repairing", format!("replacing the pod of {slot}"));
        }
        if !self.plan.initialized {
            let waiting = self.plan.waiting.clone();
            let text = waiting.unwrap_or_else(|| "initializing the first node".to_owned());
            return verdict(State::True, "Initializing", text);
        }
        if let Some(text) = self.lost() {
            return verdict(State::False, "NodeLost", text);
        }
        let joined = self.plan.slots.iter().filter(|p| self.member(&p.slot).is_some()).count();
        if joined < self.plan.slots.len() {
            let text = format!("{joined} of {} nodes have joined", self.plan.slots.len());
            return verdict(State::True, "ScalingUp", text);
        }
        let outdated: Vec<String> = self.outdated();
        if !outdated.is_empty() {
            return verdict(
                State::False,
                "Idle",
                format!(
                    "{} run with an older pod template and take the declared one when their pods \
                     are replaced; rolling changes come with a later version",
                    outdated.join(", ")
                ),
            );
        }
        if ready < wanted {
            let text = format!("{ready} of {wanted} nodes are ready");
            return verdict(State::True, "Restarting", text);
        }
        verdict(State::False, "Idle", "everything is as declared".to_owned())
    }

    fn outdated(&self) -> Vec<String> {
        let slots = self.plan.slots.iter().filter(|planned| {
            self.pod(&planned.slot).is_some_and(|pod| pod.revision != planned.revision)
        });
        slots.map(|planned| planned.slot.to_string()).collect()
    }

    fn degraded(&self) -> Verdict {
        let verdict = |reason, text: String| (conditions::DEGRADED, State::True, reason, text);
        if let Some(halt) = &self.plan.halt
            && halt.reason != HaltReason::SpecInvalid
        {
            return verdict(halt.reason.as_str(), halt.message.clone());
        }
        if !self.applied.conflicts.is_empty() {
            return verdict("NameConflict", self.applied.conflicts.join("; "));
        }
        if let Some(text) = self.lost() {
            return verdict("NodeLost", text);
        }
        if !self.applied.rejected.is_empty() {
            return verdict("ReconcileError", self.applied.rejected.join("; "));
        }
        for planned in &self.plan.slots {
            let pod = self.pod(&planned.slot);
            if let Some(trouble) = pod.and_then(|pod| pod.trouble.as_ref()) {
                let text = format!("{}: {}", planned.slot.pod(), trouble.message);
                return verdict(trouble_reason(trouble.kind), text);
            }
        }
        if self.plan.initialized && self.observed.view().is_some() {
            let down: Vec<String> = self
                .plan
                .slots
                .iter()
                .filter(|planned| {
                    let member = self.member(&planned.slot);
                    member.is_some_and(|node| node.liveness != Liveness::Live)
                })
                .map(|planned| planned.slot.to_string())
                .collect();
            if !down.is_empty() {
                return verdict("NodeDown", format!("not alive: {}", down.join(", ")));
            }
        }
        if let Some(text) = &self.applied.failed {
            return verdict("ReconcileError", text.clone());
        }
        (conditions::DEGRADED, State::False, "AsExpected", String::new())
    }

    /// The nodes of a cluster that was initialized all wait for Init: no store of it is there.
    fn lost(&self) -> Option<String> {
        let empty = self.plan.slots.iter().all(|planned| {
            let answer = self.observed.answers.get(&planned.slot);
            matches!(answer, Some(Answer::Uninitialized { .. }))
        });
        let id = self.plan.cluster_id.as_deref().unwrap_or("unknown");
        (self.plan.initialized && empty && !self.plan.slots.is_empty()).then(|| {
            format!(
                "no node has a store of cluster {id}, which was initialized: the data is not here, \
                 and no other cluster is made in its place. Bring the volumes back, or delete this \
                 object and its volumes and declare the cluster again"
            )
        })
    }

    fn initialized(&self) -> Verdict {
        if self.plan.initialized {
            let id = self.plan.cluster_id.as_deref().unwrap_or("unknown");
            return (conditions::INITIALIZED, State::True, "Bootstrapped", format!("cluster {id}"));
        }
        let text = self.plan.waiting.clone().unwrap_or_default();
        (conditions::INITIALIZED, State::False, "WaitingForFirstNode", text)
    }

    fn fully_replicated(&self) -> Verdict {
        let (state, reason, text) = match self.ranges() {
            None => (State::Unknown, "Unknown", "no node reported counts of ranges".to_owned()),
            Some(ranges) if ranges.under_replicated + ranges.unavailable > 0 => (
                State::False,
                "UnderReplicated",
                format!("{} of {} ranges lack replicas", ranges.under_replicated, ranges.total),
            ),
            Some(ranges) => (
                State::True,
                "AllReplicated",
                format!("{} ranges have all their replicas", ranges.total),
            ),
        };
        (conditions::FULLY_REPLICATED, state, reason, text)
    }

    fn constraints_satisfied(&self) -> Verdict {
        let (state, reason, text) = match self.ranges() {
            None => (State::Unknown, "Unknown", "no node reported counts of ranges".to_owned()),
            Some(ranges) if ranges.constraint_violations > 0 => (
                State::False,
                "Violating",
                "replicas are in places that zone configurations do not allow".to_owned(),
            ),
            Some(_) => (State::True, "Satisfied", String::new()),
        };
        (conditions::CONSTRAINTS_SATISFIED, state, reason, text)
    }

    fn storage_ready(&self) -> Verdict {
        let mut pending = Vec::new();
        let mut ephemeral = Vec::new();
        let mut leaving = Vec::new();
        for planned in &self.plan.slots {
            let Some(pool) = self.desired.pool(&planned.slot.pool) else { continue };
            if self.desired.spec.storage_of(pool).ephemeral {
                ephemeral.push(planned.slot.to_string());
                continue;
            }
            match self.observed.volumes.get(&planned.slot) {
                Some(volume) if volume.terminating => leaving.push(planned.slot.volume_claim()),
                Some(volume) if volume.bound => {}
                _ => pending.push(planned.slot.volume_claim()),
            }
        }
        let (state, reason, text) = if !leaving.is_empty() {
            let text = format!("deleted, and gone when their pods stop: {}", leaving.join(", "));
            (State::False, "Terminating", text)
        } else if !pending.is_empty() {
            (State::False, "Pending", format!("not bound yet: {}", pending.join(", ")))
        } else if !ephemeral.is_empty() {
            let text = format!("data is lost with the pod: {}", ephemeral.join(", "));
            (State::True, "Ephemeral", text)
        } else {
            (State::True, "Bound", String::new())
        };
        (conditions::STORAGE_READY, state, reason, text)
    }

    fn certificates(&self) -> Verdict {
        let text = "tls.mode is Disabled: traffic is not encrypted, nobody is authenticated";
        (conditions::CERTIFICATES_VALID, State::False, "Disabled", text.to_owned())
    }

    fn load_balancer(&self, ready: u32) -> Verdict {
        let cloud = self.desired.spec.load_balancer.service.type_ == ServiceType::LoadBalancer;
        let (state, reason, text) = if cloud && self.observed.external_address.is_none() {
            (State::False, "Pending", "the cloud has given no address yet")
        } else if ready == 0 {
            (State::False, "NoReadyEndpoints", "no node is ready for SQL")
        } else {
            (State::True, "Ready", "")
        };
        (conditions::LOAD_BALANCER_READY, state, reason, text.to_owned())
    }
}

/// Whether SQL can be served.
fn available(initialized: bool, observed: &Observed) -> Verdict {
    let ready = ready_pods(observed);
    let verdict = |state, reason, text: String| (conditions::AVAILABLE, state, reason, text);
    if !initialized {
        return verdict(State::False, "NoSQLEndpoint", "not initialized yet".to_owned());
    }
    if ready == 0 {
        return verdict(State::False, "NoSQLEndpoint", "no node is ready for SQL".to_owned());
    }
    match observed.view() {
        None => verdict(
            State::Unknown,
            "Unknown",
            "no node answers the operator; the database may serve all the same".to_owned(),
        ),
        Some(ClusterView { ranges: Some(ranges), .. }) if ranges.unavailable > 0 => verdict(
            State::False,
            "RangesUnavailable",
            format!("{} of {} ranges have no quorum", ranges.unavailable, ranges.total),
        ),
        Some(ClusterView { ranges: Some(_), .. }) => verdict(
            State::True,
            "QuorumHealthy",
            format!("{ready} nodes serve SQL, every range has a quorum"),
        ),
        // A ready node holds a valid liveness record, which takes a quorum.
        Some(ClusterView { ranges: None, .. }) => verdict(
            State::True,
            "QuorumHealthy",
            format!("{ready} nodes serve SQL; the counts of ranges are not known"),
        ),
    }
}

/// Slots whose pod is Ready.
fn ready_pods(observed: &Observed) -> u32 {
    let pods = observed.slots.values().filter_map(|view| view.pod.as_ref());
    count(pods.filter(|pod| pod.ready))
}

/// The numbers in a version, by which versions are in order: v0.9.1 is older than v0.10.0.
fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split(|c: char| !c.is_ascii_digit());
    parts.filter(|part| !part.is_empty()).map(|part| part.parse().unwrap_or(u64::MAX)).collect()
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
