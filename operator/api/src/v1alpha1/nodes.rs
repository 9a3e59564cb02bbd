//! What a node is made of: pools, storage, pod template.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Sizes and numbers as Kubernetes writes them, none below zero.
const QUANTITY_PATTERN: &str =
    r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$";

// The generated schema takes any text, so that a typing error shows only when a node is made; and it
// lets an explicit null stand, which is no quantity.
fn quantity_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "pattern": QUANTITY_PATTERN,
        "nullable": false,
    })
}

// The generated schema repeats the manual of quantities at every place and offers claims, which need
// a pod that makes them.
fn resources_schema(generator: &mut SchemaGenerator) -> Schema {
    let quantity = quantity_schema(generator);
    let map = |description: &str| {
        json_schema!({
            "type": "object",
            "description": description,
            "maxProperties": 16,
            "additionalProperties": quantity,
        })
    };
    json_schema!({
        "type": "object",
        "nullable": true,
        "properties": {
            "requests": map("What is set aside for the node, for example cpu: \"2\", memory: 8Gi."),
            "limits": map("The most that the node may use, for example memory: 8Gi."),
        },
    })
}

/// What every pool's nodes have in common.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeDefaults {
    /// Requests and limits of a node's container. The cache is a quarter of the memory limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources_schema")]
    pub resources: Option<ResourceRequirements>,
    /// Where a node keeps its data.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message(
        "storage cannot be changed: resizing comes with a later version of the operator"
    ))]
    pub storage: Storage,
    /// Flags of `crdb start` added to or taken from those that the operator passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_args: Option<ExtraArgs>,
    /// Labels, annotations and pod spec merged over what the operator makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
    /// See [`HostAntiAffinity`], whose comment is the one that the schema shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_anti_affinity: Option<HostAntiAffinity>,
    /// How long a node may take to stop. Default: the sum of the node's drain waits plus 30 s; a
    /// smaller value is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub termination_grace_period_seconds: Option<i64>,
}

/// Where a node keeps its data.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// The volume of the node's store.
    #[serde(default)]
    pub data: DataVolume,
    /// Keeps the data in the pod instead of on a volume: it is lost with the pod. Profile Dev
    /// only.
    #[serde(default)]
    pub ephemeral: bool,
}

/// The volume of a node's store.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DataVolume {
    /// Size asked for, for example 100Gi.
    #[serde(default = "DataVolume::default_size")]
    #[schemars(schema_with = "quantity_schema")]
    pub size: Quantity,
    /// Storage class; left out, the default class of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

impl DataVolume {
    fn default_size() -> Quantity {
        Quantity("10Gi".to_owned())
    }
}

impl Default for DataVolume {
    fn default() -> DataVolume {
        DataVolume { size: DataVolume::default_size(), storage_class_name: None }
    }
}

/// Flags of `crdb start` that belong to the operator, without the dashes; those that begin with
/// `advertise-` too. The rules of [`ExtraArgs`] name the same ones.
pub const RESERVED_FLAGS: [&str; 15] = [
    "insecure",
    "host",
    "port",
    "listen-addr",
    "sql-addr",
    "http-addr",
    "http-host",
    "http-port",
    "join",
    "locality",
    "store",
    "no-auto-init",
    "certs-dir",
    "background",
    "pid-file",
];

/// Whether a flag of `crdb start`, with or without a value, belongs to the operator.
pub fn is_reserved_flag(flag: &str) -> bool {
    let name = flag.trim_start_matches('-').split('=').next().unwrap_or_default();
    RESERVED_FLAGS.contains(&name) || name.starts_with("advertise-")
}

/// Changes of the flags of `crdb start`.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ExtraArgs {
    /// Flags added or replaced, for example --cache=1GiB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 512)))]
    #[x_kube(validation = (
        "self.all(a, a.startsWith('--') && !a.matches('^--(insecure|host|port|listen-addr|sql-addr|http-(addr|host|port)|advertise-.*|join|locality|store|no-auto-init|certs-dir|background|pid-file)(=.*)?$'))",
        "extraArgs.set holds flags such as --cache=1GiB; addresses, join, locality, store, security and process flags belong to the operator"
    ))]
    pub set: Vec<String>,
    /// Names of flags taken away, for example --cache.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 512)))]
    #[x_kube(validation = (
        "self.all(a, a.matches('^--[a-z0-9-]+$') && !a.matches('^--(insecure|host|port|listen-addr|sql-addr|http-(addr|host|port)|advertise-.*|join|locality|store|no-auto-init|certs-dir|background|pid-file)$'))",
        "extraArgs.unset holds names of flags such as --cache; addresses, join, locality, store and security flags belong to the operator"
    ))]
    pub unset: Vec<String>,
}

/// Labels, annotations and pod spec, in the form of a pod template. Lists of named things, such
/// as containers and volumes, are merged by name; the node's container is named `crdb`.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(transparent)]
pub struct PodTemplate(
    /// The template as written; the operator checks it.
    pub serde_json::Map<String, serde_json::Value>,
);

impl JsonSchema for PodTemplate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PodTemplate".into()
    }

    // The schema of a whole pod template would take most of the space a definition may have.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
        })
    }
}

/// Whether two nodes may run on one machine: Required, never; Preferred, only when there is no
/// other. Default: Required in profile Production, Preferred in Dev.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAntiAffinity {
    /// Never; a node without a machine of its own stays Pending.
    Required,
    /// Only when there is no other.
    Preferred,
}

/// A group of nodes in one zone.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.zone) || has(self.region)",
    "a pool with a zone needs a region"
))]
pub struct Pool {
    /// Name of the pool, part of the names of its nodes.
    #[schemars(length(min = 1, max = 20), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Region of the pool, one of topology.regions; the locality tier `region` of its nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,
    /// Zone of the pool, one of its region's zones; the locality tier `zone` of its nodes. They
    /// run only on machines with this value of the label topology.kubernetes.io/zone. Left out,
    /// any machine will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub zone: Option<String>,
    /// Number of nodes. It can be raised; lowering it comes with a later version.
    #[schemars(range(min = 1, max = 99))]
    pub nodes: u32,
    /// Labels that machines must have besides.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub node_selector: BTreeMap<String, String>,
    /// Requests and limits in place of the common ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources_schema")]
    pub resources: Option<ResourceRequirements>,
    /// Storage in place of the common one; fixed at creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
}

impl Pool {
    /// The value of `--locality`; empty when the pool names neither region nor zone.
    pub fn locality(&self) -> String {
        let tiers = [("region", &self.region), ("zone", &self.zone)];
        let tiers = tiers
            .iter()
            .filter_map(|(key, value)| value.as_ref().map(|value| format!("{key}={value}")));
        tiers.collect::<Vec<_>>().join(",")
    }
}
