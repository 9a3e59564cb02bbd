//! Services and the NetworkPolicy of a cluster.

use std::collections::BTreeMap;

use crdb_api::keys;
use crdb_api::names::{self, HTTP_PORT, RPC_PORT, SQL_PORT};
use crdb_api::v1alpha1::{ExternalTrafficPolicy, ServiceType};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{OperatorIdentity, cluster_metadata};
use crate::cluster::validate::Desired;

fn port(name: &str, port: u16, target: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::Int(i32::from(target))),
        ..ServicePort::default()
    }
}

/// The headless Service that gives every pod its DNS name, before it is ready too: nodes find each
/// other through it while none is.
pub(super) fn peers_service(desired: &Desired) -> Service {
    Service {
        metadata: cluster_metadata(desired, names::peers_service(&desired.name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(keys::node_selector(&desired.name)),
            ports: Some(vec![port("rpc", RPC_PORT, RPC_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The Service for SQL clients: ready nodes only.
pub(super) fn sql_service(desired: &Desired) -> Service {
    let wanted = &desired.spec.load_balancer.service;
    let mut metadata = cluster_metadata(desired, names::sql_service(&desired.name));
    if !wanted.annotations.is_empty() {
        metadata.annotations = Some(wanted.annotations.clone());
    }
    let mut sql = port("sql", wanted.port, SQL_PORT);
    sql.node_port = wanted.node_port.map(i32::from);
    let external = wanted.type_ != ServiceType::ClusterIP;
    let ranges = &wanted.load_balancer_source_ranges;
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(wanted.type_.as_str().to_owned()),
            selector: Some(keys::node_selector(&desired.name)),
            ports: Some(vec![sql]),
            external_traffic_policy: external.then(|| {
                match wanted.external_traffic_policy {
                    ExternalTrafficPolicy::Cluster => "Cluster",
                    ExternalTrafficPolicy::Local => "Local",
                }
                .to_owned()
            }),
            load_balancer_source_ranges: (!ranges.is_empty()).then(|| ranges.clone()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The Service for health, metrics and console.
pub(super) fn http_service(desired: &Desired) -> Service {
    Service {
        metadata: cluster_metadata(desired, names::http_service(&desired.name)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(keys::node_selector(&desired.name)),
            ports: Some(vec![port("http", HTTP_PORT, HTTP_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Opens SQL and HTTP to everybody, RPC and the admin API to the nodes and the operator only.
pub(super) fn policy(desired: &Desired, operator: &OperatorIdentity) -> NetworkPolicy {
    let open = |number: u16| NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(number))),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    };
    let labels = |labels: BTreeMap<String, String>| LabelSelector {
        match_labels: Some(labels),
        ..LabelSelector::default()
    };
    let members = NetworkPolicyPeer {
        pod_selector: Some(labels(keys::node_selector(&desired.name))),
        ..NetworkPolicyPeer::default()
    };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(labels(BTreeMap::from([(
            "kubernetes.io/metadata.name".to_owned(),
            operator.namespace.clone(),
        )]))),
        pod_selector: Some(labels(BTreeMap::from([(
            keys::LABEL_NAME.to_owned(),
            keys::MANAGER.to_owned(),
        )]))),
        ..NetworkPolicyPeer::default()
    };
    NetworkPolicy {
        metadata: cluster_metadata(desired, names::cluster_object(&desired.name)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(labels(keys::node_selector(&desired.name))),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule {
                    from: None,
                    ports: Some(vec![open(SQL_PORT), open(HTTP_PORT)]),
                },
                NetworkPolicyIngressRule {
                    from: Some(vec![members, operator]),
                    ports: Some(vec![open(RPC_PORT)]),
                },
            ]),
            egress: None,
        }),
    }
}
