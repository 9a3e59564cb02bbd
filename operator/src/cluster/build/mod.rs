//! Builds every object of a cluster, whole, from the spec and the plan.
//!
//! Pure: the same input gives the same object byte for byte, so that an operator that restarts
//! changes nothing. Objects are applied with server-side apply, which deletes what is left out:
//! never build a part.
//!
//! Invariants:
//! 1. the selector labels of an object never change;
//! 2. a slot's revision is a hash of user-visible inputs only: a new operator restarts no node;
//! 3. scaling changes no existing pod template.

mod network;
mod slot;

use crdb_api::keys;
use crdb_api::names::SlotName;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::observed::Kind;
use super::plan::Plan;
use super::validate::Desired;

pub(crate) use slot::revision;

/// Name of the node's container in its pod.
pub(crate) const CONTAINER: &str = "crdb";

/// How long a node waits for open transactions when it drains.
const DRAIN_TRANSACTIONS_SECONDS: i64 = 10;
/// How long a node tries to hand over its leases when it drains.
const DRAIN_LEASES_SECONDS: i64 = 20;
/// Added to the waits of a drain before a pod is killed.
const GRACE_MARGIN_SECONDS: i64 = 30;
/// How long a pod may take to stop.
pub(crate) const GRACE_PERIOD_SECONDS: i64 =
    DRAIN_TRANSACTIONS_SECONDS + DRAIN_LEASES_SECONDS + GRACE_MARGIN_SECONDS;

/// What the objects need to know of the operator itself.
#[derive(Clone, Debug)]
pub(crate) struct OperatorIdentity {
    /// Namespace of the operator's pods, which may reach the nodes' RPC port.
    pub(crate) namespace: String,
}

/// An object to apply.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Object {
    ServiceAccount(Box<ServiceAccount>),
    Service(Box<Service>),
    NetworkPolicy(Box<NetworkPolicy>),
    PodDisruptionBudget(Box<PodDisruptionBudget>),
    StatefulSet(Box<StatefulSet>),
}

impl Object {
    /// Kind and name.
    pub(crate) fn id(&self) -> (Kind, String) {
        let (kind, metadata) = match self {
            Object::ServiceAccount(object) => (Kind::ServiceAccount, &object.metadata),
            Object::Service(object) => (Kind::Service, &object.metadata),
            Object::NetworkPolicy(object) => (Kind::NetworkPolicy, &object.metadata),
            Object::PodDisruptionBudget(object) => (Kind::PodDisruptionBudget, &object.metadata),
            Object::StatefulSet(object) => (Kind::StatefulSet, &object.metadata),
        };
        (kind, metadata.name.clone().unwrap_or_default())
    }
}

/// What one pass applies.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Objects {
    /// Objects in the order in which they are applied: the disruption budget before the slots that
    /// it counts.
    pub(crate) apply: Vec<Object>,
    /// Every object that this pass wants to exist, also those that it leaves as they are.
    pub(crate) keep: Vec<(Kind, String)>,
    /// Volume claims that the slots will make; they must not belong to somebody else.
    pub(crate) claims: Vec<SlotName>,
}

/// Builds the objects of a cluster.
pub(crate) fn build(desired: &Desired, plan: &Plan, operator: &OperatorIdentity) -> Objects {
    let mut apply = vec![
        Object::ServiceAccount(Box::new(service_account(desired))),
        Object::Service(Box::new(network::peers_service(desired))),
        Object::Service(Box::new(network::sql_service(desired))),
        Object::Service(Box::new(network::http_service(desired))),
    ];
    if desired.spec.network_policy.enabled {
        apply.push(Object::NetworkPolicy(Box::new(network::policy(desired, operator))));
    }
    if plan.initialized && plan.members > 1 {
        apply.push(Object::PodDisruptionBudget(Box::new(budget(desired, plan.members))));
    }
    let mut keep: Vec<(Kind, String)> = apply.iter().map(Object::id).collect();
    let mut claims = Vec::new();
    for planned in &plan.slots {
        keep.push((Kind::StatefulSet, planned.slot.stateful_set()));
        let Some(pool) = desired.pool(&planned.slot.pool) else { continue };
        if planned.released {
            let set = slot::stateful_set(desired, pool, &planned.slot);
            apply.push(Object::StatefulSet(Box::new(set)));
        }
        if !desired.spec.storage_of(pool).ephemeral {
            claims.push(planned.slot.clone());
        }
    }
    Objects { apply, keep, claims }
}

/// Metadata of an object of the whole cluster.
fn cluster_metadata(desired: &Desired, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(desired.namespace.clone()),
        labels: Some(keys::cluster_labels(&desired.name)),
        owner_references: Some(vec![desired.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// The nodes' account: it has no rights, and its token is not mounted.
fn service_account(desired: &Desired) -> ServiceAccount {
    let name = crdb_api::names::cluster_object(&desired.name);
    ServiceAccount {
        metadata: cluster_metadata(desired, name),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// Lets one node be evicted at a time. A node on its way out is not Ready by design but still
/// votes, so it counts.
fn budget(desired: &Desired, members: usize) -> PodDisruptionBudget {
    let name = crdb_api::names::cluster_object(&desired.name);
    let available = i32::try_from(members - 1).unwrap_or(i32::MAX);
    PodDisruptionBudget {
        metadata: cluster_metadata(desired, name),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(available)),
            selector: Some(LabelSelector {
                match_labels: Some(keys::node_selector(&desired.name)),
                ..LabelSelector::default()
            }),
            unhealthy_pod_eviction_policy: Some("IfHealthyBudget".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
