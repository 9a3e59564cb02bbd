//! Version v1alpha1 of the API.
//!
//! The comments of this module are the text of `kubectl explain`. Rules that need only the object
//! itself are CEL in the schema; what depends on the state of the cluster is checked by the
//! operator, which reports it as a condition.

#![expect(unreachable_pub, reason = "the derive of KubeSchema makes hidden copies of the types")]

mod nodes;
mod service;
mod status;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use nodes::{
    DataVolume, ExtraArgs, HostAntiAffinity, NodeDefaults, PodTemplate, Pool, RESERVED_FLAGS,
    Storage, is_reserved_flag,
};
pub use service::{
    ExternalTrafficPolicy, LoadBalancer, LoadBalancerType, NetworkPolicySpec, ServiceType,
    SqlService,
};
pub use status::{
    CrdbClusterStatus, EndpointsStatus, Liveness, Membership, NodeCounts, NodeRow, Operation,
    OperationType, PoolStatus, RangeStatus, VersionStatus,
};

/// Longest name of a cluster; names of derived objects stay within 63 characters.
pub const CLUSTER_NAME_MAX: usize = 24;
/// Longest name of a pool.
pub const POOL_NAME_MAX: usize = 20;

/// Desired state of a database cluster.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "crdb.dev",
    version = "v1alpha1",
    kind = "CrdbCluster",
    plural = "crdbclusters",
    shortname = "crdb",
    category = "crdb",
    namespaced,
    status = "CrdbClusterStatus",
    derive = "PartialEq",
    doc = "A replicated SQL database cluster.",
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.nodes.desired"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.nodes.ready"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version.running"),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Available")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(
        name = "UnderRepl",
        type_ = "integer",
        json_path = ".status.ranges.underReplicated"
    ),
    printcolumn(name = "Op", type_ = "string", json_path = ".status.operation.type"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "ClusterID",
        type_ = "string",
        json_path = ".status.clusterID",
        priority = 1
    ),
    printcolumn(name = "SQL", type_ = "string", json_path = ".status.endpoints.sql", priority = 1),
    validation = (
        "size(self.metadata.name) <= 24",
        "metadata.name must be no longer than 24 characters: names of the nodes are made from it"
    ),
    validation = (
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must start with a letter and hold only lower case letters, digits and '-'"
    ),
    validation = (
        "self.spec.version == oldSelf.spec.version || !has(oldSelf.status) || \
         !has(oldSelf.status.conditions) || \
         !oldSelf.status.conditions.exists(c, c.type == 'Initialized' && c.status == 'True')",
        "spec.version of an initialized cluster cannot be changed: upgrades come with a later version of the operator"
    ),
    validation = (
        "self.spec.image == oldSelf.spec.image || !has(oldSelf.status) || \
         !has(oldSelf.status.conditions) || \
         !oldSelf.status.conditions.exists(c, c.type == 'Initialized' && c.status == 'True')",
        "spec.image of an initialized cluster cannot be changed: upgrades come with a later version of the operator"
    )
)]
#[serde(rename_all = "camelCase")]
// The rule of the profile stands here because a default must not break a rule of its own field.
#[x_kube(
    validation = Rule::new("self.profile == 'Dev'").field_path(".profile").message(
        "only profile Dev is accepted: Production needs secure mode, which comes with a later version"
    ),
    validation = (
        "!has(self.topology) ? self.pools.all(p, !has(p.region)) : \
         self.pools.all(p, !has(p.region) || \
         self.topology.regions.exists(r, r.name == p.region))",
        "every pool's region must be listed in topology.regions"
    ),
    validation = (
        "!has(self.topology) || self.pools.all(p, !has(p.region) || !has(p.zone) || \
         self.topology.regions.all(r, r.name != p.region || p.zone in r.zones))",
        "every pool's zone must be listed in the zones of its region in topology.regions"
    ),
    validation = (
        "oldSelf.pools.all(o, self.pools.exists(p, p.name == o.name))",
        "a pool cannot be removed: removing nodes comes with a later version of the operator"
    ),
    validation = (
        "oldSelf.pools.all(o, self.pools.all(p, p.name != o.name || p.nodes >= o.nodes))",
        "nodes of a pool cannot be lowered: removing nodes comes with a later version of the operator"
    ),
    validation = (
        "oldSelf.pools.all(o, self.pools.all(p, p.name != o.name || \
         (has(p.region) == has(o.region) && has(p.zone) == has(o.zone) && \
         (!has(o.region) || p.region == o.region) && (!has(o.zone) || p.zone == o.zone))))",
        "region and zone of a pool are immutable: make a new pool"
    ),
    validation = (
        "oldSelf.pools.all(o, self.pools.all(p, p.name != o.name || \
         (has(p.storage) == has(o.storage) && (!has(o.storage) || p.storage == o.storage))))",
        "storage of a pool cannot be changed: resizing comes with a later version of the operator"
    )
)]
pub struct CrdbClusterSpec {
    /// Version of the nodes, for example v0.1.0. It is the tag of the image.
    #[schemars(
        length(min = 2, max = 64),
        regex(pattern = r"^v[0-9]+\.[0-9]+\.[0-9]+([-.][0-9A-Za-z.-]+)?$")
    )]
    pub version: String,
    /// Where the image of the nodes comes from.
    #[serde(default)]
    pub image: Image,
    /// How strict the cluster is: Production, or Dev for clusters whose data may be lost.
    /// Only Dev is accepted until secure mode exists.
    #[serde(default)]
    pub profile: Profile,
    /// How connections are protected. Required, and without a default.
    pub tls: Tls,
    /// Regions and zones that pools may name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
    /// What every pool's nodes have in common.
    #[serde(default)]
    pub node_defaults: NodeDefaults,
    /// Groups of nodes in one zone each. A pool cannot be removed and its nodes cannot be lowered
    /// until removing nodes is supported.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub pools: Vec<Pool>,
    /// How clients reach the nodes.
    #[serde(default)]
    pub load_balancer: LoadBalancer,
    /// Enabled, or Paused: the operator only observes and writes status.
    #[serde(default)]
    pub reconcile: Reconcile,
    /// What happens to volumes. Only Retain is accepted for now.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Whether deleting this object is refused, by the admission policy of the operator's chart.
    #[serde(default = "yes")]
    pub deletion_protection: bool,
    /// Whether the network between pods is restricted.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,
}

impl CrdbClusterSpec {
    /// Full reference of the nodes' image; a digest wins over the version.
    pub fn image_reference(&self) -> String {
        match &self.image.digest {
            Some(digest) => format!("{}@{digest}", self.image.repository),
            None => format!("{}:{}", self.image.repository, self.version),
        }
    }

    /// Whether nodes of a cluster may share a machine when nothing else fits.
    pub fn host_anti_affinity(&self) -> HostAntiAffinity {
        self.node_defaults.host_anti_affinity.unwrap_or(match self.profile {
            Profile::Production => HostAntiAffinity::Required,
            Profile::Dev => HostAntiAffinity::Preferred,
        })
    }

    /// The storage of a pool: its own, or the common one.
    pub fn storage_of<'a>(&'a self, pool: &'a Pool) -> &'a Storage {
        pool.storage.as_ref().unwrap_or(&self.node_defaults.storage)
    }
}

fn yes() -> bool {
    true
}

/// How strict a cluster is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Data matters: nothing is relaxed.
    #[default]
    Production,
    /// Data may be lost: nodes may share a machine, storage may be ephemeral.
    Dev,
}

/// Where the image of the nodes comes from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Repository without tag; the tag is spec.version.
    #[serde(default = "Image::default_repository")]
    #[schemars(length(min = 1, max = 255))]
    pub repository: String,
    /// Digest that wins over the tag, for example sha256:6f0c...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 160), regex(pattern = r"^sha(256|512):[0-9a-f]{64,128}$"))]
    pub digest: Option<String>,
    /// When the image is pulled.
    #[serde(default)]
    pub pull_policy: PullPolicy,
    /// Names of Secrets of this namespace that hold credentials of the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub pull_secrets: Vec<String>,
}

impl Image {
    fn default_repository() -> String {
        "crdb-node".to_owned()
    }
}

impl Default for Image {
    fn default() -> Image {
        Image {
            repository: Image::default_repository(),
            digest: None,
            pull_policy: PullPolicy::default(),
            pull_secrets: Vec::new(),
        }
    }
}

/// When an image is pulled.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Unless the machine has it.
    #[default]
    IfNotPresent,
    /// At each start.
    Always,
    /// Never; the machine must have it.
    Never,
}

impl PullPolicy {
    /// The text of the Pod API.
    pub fn as_str(self) -> &'static str {
        match self {
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Always => "Always",
            PullPolicy::Never => "Never",
        }
    }
}

/// How connections are protected.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Source of the certificates. Only Disabled is accepted until secure mode exists: traffic is
    /// not encrypted and nobody is authenticated.
    #[x_kube(validation = (
        "self == 'Disabled'",
        "only tls.mode Disabled is accepted: secure mode comes with a later version"
    ))]
    pub mode: TlsMode,
}

/// Source of the certificates.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// The operator runs its own authority.
    OperatorCA,
    /// cert-manager issues them.
    CertManager,
    /// The user provides them in Secrets.
    UserProvided,
    /// No certificates: plain text, no authentication.
    Disabled,
}

/// Regions and zones that pools may name.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    /// Regions, the preferred one first.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub regions: Vec<Region>,
}

/// A region and its zones.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Region {
    /// Name of the region, the value of the locality tier `region`.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    )]
    pub name: String,
    /// Zones, named as the label topology.kubernetes.io/zone of the machines names them.
    #[serde(default)]
    #[schemars(
        length(max = 16),
        inner(
            length(min = 1, max = 63),
            regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub zones: Vec<String>,
}

/// Whether the operator acts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reconcile {
    /// The operator brings about what is declared.
    #[default]
    Enabled,
    /// The operator only observes and writes status.
    Paused,
}

/// What happens to volumes.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DeletionPolicy {
    /// When this object is deleted.
    #[serde(default)]
    #[x_kube(validation = (
        "self == 'Retain'",
        "only deletionPolicy Retain is accepted: deleting volumes comes with a later version of the operator"
    ))]
    pub when_deleted: VolumePolicy,
    /// When a node has left the cluster for good.
    #[serde(default)]
    #[x_kube(validation = (
        "self == 'Retain'",
        "only deletionPolicy Retain is accepted: deleting volumes comes with a later version of the operator"
    ))]
    pub when_decommissioned: VolumePolicy,
}

/// What happens to a volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VolumePolicy {
    /// It stays.
    #[default]
    Retain,
    /// It is deleted.
    Delete,
}

#[cfg(test)]
mod tests;
