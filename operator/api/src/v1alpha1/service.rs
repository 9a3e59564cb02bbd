//! How clients reach the nodes.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How clients reach the nodes.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    /// What balances: Service. Proxies come with a later version.
    #[serde(default, rename = "type")]
    pub type_: LoadBalancerType,
    /// The Service for SQL clients.
    #[serde(default)]
    pub service: SqlService,
}

/// What balances connections.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadBalancerType {
    /// A Kubernetes Service in front of all ready nodes.
    #[default]
    Service,
}

/// The Service for SQL clients.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "self.type != 'LoadBalancer' || size(self.loadBalancerSourceRanges) > 0",
        "a Service of type LoadBalancer needs loadBalancerSourceRanges: without TLS anybody who reaches it has all rights"
    ),
    validation = (
        "self.type == 'LoadBalancer' || size(self.loadBalancerSourceRanges) == 0",
        "loadBalancerSourceRanges belongs to a Service of type LoadBalancer"
    ),
    validation = (
        "self.type != 'ClusterIP' || !has(self.nodePort)",
        "nodePort belongs to a Service of type NodePort or LoadBalancer"
    ),
    validation = (
        "self.type != 'ClusterIP' || self.externalTrafficPolicy == 'Cluster'",
        "externalTrafficPolicy Local belongs to a Service of type NodePort or LoadBalancer"
    ),
    validation = (
        "!self.perZone",
        "perZone is not served yet: Services per zone come with the balancers in a later version"
    )
)]
pub struct SqlService {
    /// ClusterIP, NodePort or LoadBalancer.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// Port for SQL clients.
    #[serde(default = "SqlService::default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Port on every machine; left out, Kubernetes chooses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<u16>,
    /// Annotations of the Service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
    /// Addresses that may connect through a Service of type LoadBalancer.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(max = 64)))]
    pub load_balancer_source_ranges: Vec<String>,
    /// One more Service for each zone. Not served yet.
    #[serde(default)]
    pub per_zone: bool,
    /// Cluster, or Local: only nodes on the machine that took the connection.
    #[serde(default)]
    pub external_traffic_policy: ExternalTrafficPolicy,
}

impl SqlService {
    fn default_port() -> u16 {
        26257
    }
}

impl Default for SqlService {
    fn default() -> SqlService {
        SqlService {
            type_: ServiceType::default(),
            port: SqlService::default_port(),
            node_port: None,
            annotations: BTreeMap::new(),
            load_balancer_source_ranges: Vec::new(),
            per_zone: false,
            external_traffic_policy: ExternalTrafficPolicy::default(),
        }
    }
}

/// Type of the Service for SQL clients.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// Reachable within the Kubernetes cluster.
    #[default]
    ClusterIP,
    /// Reachable at a port of every machine.
    NodePort,
    /// Reachable at an address of the cloud's load balancer.
    LoadBalancer,
}

impl ServiceType {
    /// The text of the Service API.
    pub fn as_str(self) -> &'static str {
        match self {
            ServiceType::ClusterIP => "ClusterIP",
            ServiceType::NodePort => "NodePort",
            ServiceType::LoadBalancer => "LoadBalancer",
        }
    }
}

/// Where a connection from outside may go.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExternalTrafficPolicy {
    /// To any node.
    #[default]
    Cluster,
    /// To a node on the machine that took the connection.
    Local,
}

/// Whether the network between pods is restricted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Makes a NetworkPolicy that opens the RPC port to the cluster's nodes and the operator only.
    #[serde(default = "super::yes")]
    pub enabled: bool,
}

impl Default for NetworkPolicySpec {
    fn default() -> NetworkPolicySpec {
        NetworkPolicySpec { enabled: true }
    }
}
