//! What one pass saw of a cluster: Kubernetes objects and the nodes' own answers.
//!
//! Plain data, so that plan, build and status can be tested without a cluster. Filled by
//! [`super::observe`], read only.

use std::collections::BTreeMap;
use std::fmt;

use crdb_api::names::SlotName;
use crdb_api::v1alpha1::{Liveness, Membership};

/// Kinds of the objects that the operator makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    ServiceAccount,
    Service,
    NetworkPolicy,
    PodDisruptionBudget,
    StatefulSet,
    PersistentVolumeClaim,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Everything one pass saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Observed {
    /// Objects whose controller is this cluster, with their UID.
    pub(crate) owned: BTreeMap<(Kind, String), String>,
    /// Slots that have a StatefulSet of this cluster.
    pub(crate) slots: BTreeMap<SlotName, SlotView>,
    /// Volume claims that carry this cluster's labels.
    pub(crate) volumes: BTreeMap<SlotName, VolumeView>,
    /// What each asked node answered.
    pub(crate) answers: BTreeMap<SlotName, Answer>,
    /// Address that the cloud gave the SQL Service.
    pub(crate) external_address: Option<String>,
}

impl Observed {
    /// The answer that shows the most living nodes; ties go to the first slot.
    pub(crate) fn view(&self) -> Option<&ClusterView> {
        let mut best: Option<&ClusterView> = None;
        for view in self.answers.values().filter_map(Answer::view) {
            if best.is_none_or(|best| view.live() > best.live()) {
                best = Some(view);
            }
        }
        best
    }
}

/// A slot's StatefulSet and pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SlotView {
    /// Revision of the StatefulSet's template.
    pub(crate) revision: String,
    /// The slot's pod.
    pub(crate) pod: Option<PodView>,
}

/// A slot's pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodView {
    /// UID, the precondition of deleting it.
    pub(crate) uid: String,
    /// Revision of the template it was made from.
    pub(crate) revision: String,
    /// Machine it runs on.
    pub(crate) machine: Option<String>,
    /// Address of the pod.
    pub(crate) ip: Option<String>,
    /// Whether the node's container runs.
    pub(crate) running: bool,
    /// Whether the node's container ever ran, so that ephemeral storage may hold data.
    pub(crate) ran: bool,
    /// Whether the pod is Ready.
    pub(crate) ready: bool,
    /// Whether the pod is being deleted.
    pub(crate) terminating: bool,
    /// What keeps it from running.
    pub(crate) trouble: Option<Trouble>,
}

/// What keeps a pod from running, that waiting alone does not cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Kind of the trouble.
    pub(crate) kind: TroubleKind,
    /// Kubernetes' words.
    pub(crate) message: String,
}

/// Kind of a pod's trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TroubleKind {
    /// No machine fits.
    Unschedulable,
    /// The image cannot be had.
    ImagePull,
    /// The container cannot be made.
    ContainerConfig,
    /// The node's process ends again and again.
    CrashLoop,
}

/// A slot's volume claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VolumeView {
    /// UID, the precondition of writing to it.
    pub(crate) uid: String,
    /// Whether a volume is bound to the claim.
    pub(crate) bound: bool,
    /// Whether the claim is being deleted.
    pub(crate) terminating: bool,
    /// What is known of the store on it.
    pub(crate) mark: VolumeMark,
}

impl VolumeView {
    /// Whether the volume may hold the store of a member.
    pub(crate) fn may_hold_member(&self) -> bool {
        self.mark.membership.as_deref() != Some(Membership::Decommissioned.as_str())
    }
}

/// What a volume claim's annotations say about the store on the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VolumeMark {
    pub(crate) cluster_id: Option<String>,
    pub(crate) node_id: Option<u32>,
    pub(crate) store_uuid: Option<String>,
    pub(crate) membership: Option<String>,
    /// Whether deletion of the claim is allowed.
    pub(crate) released: bool,
}

/// What a node said, or that it said nothing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// It could not be asked.
    Unreachable(String),
    /// It waits for Init.
    Uninitialized { store_uuid: String },
    /// It belongs to a cluster.
    Member { node_id: u32, store_uuid: String, view: Box<ClusterView> },
}

impl Answer {
    /// The cluster as the node sees it.
    pub(crate) fn view(&self) -> Option<&ClusterView> {
        match self {
            Answer::Member { view, .. } => Some(view),
            Answer::Unreachable(_) | Answer::Uninitialized { .. } => None,
        }
    }
}

/// The cluster as one node sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ClusterView {
    pub(crate) cluster_id: String,
    pub(crate) active_version: String,
    pub(crate) nodes: Vec<MemberView>,
    pub(crate) ranges: Option<RangeCounts>,
}

impl ClusterView {
    fn live(&self) -> usize {
        self.nodes.iter().filter(|node| node.liveness == Liveness::Live).count()
    }

    /// Nodes that hold votes or may hold votes.
    pub(crate) fn members(&self) -> usize {
        let left = Membership::Decommissioned;
        self.nodes.iter().filter(|node| node.membership != left).count()
    }

    /// The member whose store is the given one.
    pub(crate) fn by_store(&self, store_uuid: &str) -> Option<&MemberView> {
        self.nodes.iter().find(|node| node.store_uuid == store_uuid)
    }
}

/// A node as the database knows it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MemberView {
    pub(crate) node_id: u32,
    pub(crate) address: String,
    pub(crate) store_uuid: String,
    pub(crate) version: String,
    pub(crate) liveness: Liveness,
    pub(crate) membership: Membership,
    pub(crate) draining: bool,
    pub(crate) replicas: u64,
    pub(crate) leases: u64,
    pub(crate) used_bytes: u64,
}

/// Numbers of ranges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeCounts {
    pub(crate) total: u64,
    pub(crate) unavailable: u64,
    pub(crate) under_replicated: u64,
    pub(crate) constraint_violations: u64,
}
