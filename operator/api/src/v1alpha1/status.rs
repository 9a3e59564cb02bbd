//! What the operator reports about a cluster.
//!
//! Every field can be rebuilt by observing the cluster, with two exceptions that are written
//! before the act they describe: `clusterID` before the first Init, and `operation` before a
//! disruptive step.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Observed state of a database cluster.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CrdbClusterStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Id of the cluster, chosen once before the first node is initialized.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Versions that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionStatus>,
    /// Numbers of nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,
    /// Numbers of ranges; absent while no node answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<RangeStatus>,
    /// Where clients connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<EndpointsStatus>,
    /// The one disruptive step under way, written before it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// State of each pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub pools: Vec<PoolStatus>,
    /// State of each node, at most 100 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub node_rows: Vec<NodeRow>,
    /// What holds and what does not, with reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Versions that run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VersionStatus {
    /// Version of the running nodes, the lowest when they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<String>,
    /// Version of the cluster, that every node supports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
    /// Version that the spec asks for.
    pub target: String,
}

/// Numbers of nodes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes that the pools ask for.
    pub desired: u32,
    /// Nodes whose pods are Ready.
    pub ready: u32,
    /// Nodes that the database sees alive.
    pub live: u32,
}

/// Numbers of ranges.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RangeStatus {
    /// All ranges.
    pub total: u64,
    /// Ranges with fewer live replicas than wanted.
    pub under_replicated: u64,
    /// Ranges without a quorum.
    pub unavailable: u64,
    /// Ranges with a replica in a place that the zone configs do not allow.
    pub constraint_violations: u64,
}

/// Where clients connect.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EndpointsStatus {
    /// Host and port for SQL within the Kubernetes cluster.
    pub sql: String,
    /// Host and port for HTTP within the Kubernetes cluster.
    pub http: String,
    /// Address of the cloud's load balancer, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<String>,
}

/// A disruptive step, written before it is done so that a restarted operator carries it on.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// What is done.
    #[serde(rename = "type")]
    pub type_: OperationType,
    /// Name of the slot it is done to.
    pub slot: String,
    /// Store of the slot when the step was chosen.
    #[serde(default, rename = "storeUUID", skip_serializing_if = "Option::is_none")]
    pub store_uuid: Option<String>,
    /// Pod of the slot when the step was chosen.
    #[serde(default, rename = "podUID", skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// When the step was chosen.
    pub start_time: Time,
}

/// Kind of a disruptive step.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationType {
    /// The first node is initialized.
    Bootstrap,
    /// A broken pod is replaced by one with the declared template.
    ReplacePod,
}

impl OperationType {
    /// The text that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            OperationType::Bootstrap => "Bootstrap",
            OperationType::ReplacePod => "ReplacePod",
        }
    }
}

/// State of a pool.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PoolStatus {
    /// Name of the pool.
    pub name: String,
    /// Nodes that the pool asks for.
    pub desired: u32,
    /// Nodes whose pods are Ready.
    pub ready: u32,
    /// Highest slot number ever given out.
    pub last_slot: u32,
    /// Zone of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// State of a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    /// Name of the slot.
    pub name: String,
    /// Id that the database gave the node; absent before it joined.
    #[serde(default, rename = "nodeID", skip_serializing_if = "Option::is_none")]
    pub node_id: Option<u32>,
    /// Name of the pod.
    pub pod: String,
    /// Pool of the slot.
    pub pool: String,
    /// Region of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Zone of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Machine that the pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k8s_node: Option<String>,
    /// Version that the node runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether the pod is Ready.
    pub ready: bool,
    /// Whether the database sees the node alive.
    pub liveness: Liveness,
    /// Membership in the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<Membership>,
    /// Whether the node is draining.
    #[serde(default)]
    pub draining: bool,
    /// UUID of the node's store.
    #[serde(default, rename = "storeUUID", skip_serializing_if = "Option::is_none")]
    pub store_uuid: Option<String>,
    /// Replicas on the node; refreshed at intervals.
    #[serde(default)]
    pub ranges: u64,
    /// Leases held by the node; refreshed at intervals.
    #[serde(default)]
    pub leases: u64,
    /// Bytes used on the node's disk, in steps of 64 MiB; refreshed at intervals.
    #[serde(default)]
    pub used_bytes: u64,
}

/// Whether the database sees a node alive.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Liveness {
    /// It renews its record.
    Live,
    /// Its record lapsed a short time ago.
    Suspect,
    /// Its record lapsed a long time ago.
    Dead,
    /// Nobody could be asked, or the node never joined.
    #[default]
    Unknown,
}

/// Membership of a node in the database.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// A member.
    Active,
    /// On its way out.
    Decommissioning,
    /// Out for good.
    Decommissioned,
}

impl Membership {
    /// The text that annotations use.
    pub fn as_str(self) -> &'static str {
        match self {
            Membership::Active => "Active",
            Membership::Decommissioning => "Decommissioning",
            Membership::Decommissioned => "Decommissioned",
        }
    }
}
