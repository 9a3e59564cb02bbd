//! The StatefulSet of one slot.

use std::collections::BTreeMap;

use crdb_api::keys;
use crdb_api::names::{self, HTTP_PORT, RPC_PORT, SQL_PORT, SlotName};
use crdb_api::v1alpha1::{HostAntiAffinity, Pool};
use k8s_openapi::DeepMerge as _;
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, HTTPGetAction,
    LocalObjectReference, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PodAffinityTerm, PodAntiAffinity,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
    SecurityContext, Volume, VolumeMount, VolumeResourceRequirements, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{CONTAINER, GRACE_PERIOD_SECONDS};
use crate::cluster::validate::Desired;
use crate::quantity;

/// Where the volume is mounted.
const MOUNT_PATH: &str = "/var/lib/crdb";
/// User and group of the node's process; no image needs to know them.
const USER_ID: i64 = 65532;
/// A node that recovers a large store may take days; only an answer ends its start.
const STARTUP_FAILURES_MAX: i32 = 86_400;
/// Cache of a node without a memory limit.
const CACHE_DEFAULT: &str = "128MiB";

/// Hash of everything of the spec that a pod of the pool shows. The name of the slot is not in it,
/// so all slots of a pool have the same revision.
pub(crate) fn revision(desired: &Desired, pool: &Pool) -> String {
    let spec = &desired.spec;
    let defaults = &spec.node_defaults;
    let inputs = serde_json::json!({
        "image": spec.image,
        "version": spec.version,
        "profile": spec.profile,
        "region": pool.region,
        "zone": pool.zone,
        "nodeSelector": pool.node_selector,
        "resources": pool.resources.as_ref().or(defaults.resources.as_ref()),
        "ephemeral": spec.storage_of(pool).ephemeral,
        "extraArgs": defaults.extra_args,
        "podTemplate": defaults.pod_template,
        "hostAntiAffinity": spec.host_anti_affinity(),
        "gracePeriod": defaults.termination_grace_period_seconds,
    });
    let digest = Sha256::digest(canonical(&inputs).as_bytes());
    hex::encode(digest.get(..8).unwrap_or_default())
}

/// JSON with the keys of every object in order: whether serde_json keeps them in order is a
/// feature that some other crate of the build may switch.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let fields = sorted.iter().map(|(key, value)| format!("{key:?}:{}", canonical(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(list) => {
            format!("[{}]", list.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// Builds the StatefulSet of one slot.
pub(super) fn stateful_set(desired: &Desired, pool: &Pool, slot: &SlotName) -> StatefulSet {
    let labels = keys::slot_labels(&desired.name, &pool.name, slot.number);
    let mut selector = keys::node_selector(&desired.name);
    for key in [keys::LABEL_POOL, keys::LABEL_SLOT] {
        selector.extend(labels.get(key).map(|value| (key.to_owned(), value.clone())));
    }
    let retain = Some("Retain".to_owned());
    StatefulSet {
        metadata: ObjectMeta {
            name: Some(slot.stateful_set()),
            namespace: Some(desired.namespace.clone()),
            labels: Some(labels.clone()),
            owner_references: Some(vec![desired.owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(names::peers_service(&desired.name)),
            // Parallel: a pod that is not Ready is replaced all the same.
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                rolling_update: None,
            }),
            persistent_volume_claim_retention_policy: Some(
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: retain.clone(),
                    when_scaled: retain,
                },
            ),
            selector: LabelSelector { match_labels: Some(selector), ..LabelSelector::default() },
            template: pod_template(desired, pool, slot, &labels),
            volume_claim_templates: volume_claims(desired, pool, &labels),
            ..StatefulSetSpec::default()
        },
        status: None,
    }
}

fn volume_claims(
    desired: &Desired,
    pool: &Pool,
    labels: &BTreeMap<String, String>,
) -> Option<Vec<PersistentVolumeClaim>> {
    let storage = desired.spec.storage_of(pool);
    if storage.ephemeral {
        return None;
    }
    let size = BTreeMap::from([("storage".to_owned(), storage.data.size.clone())]);
    Some(vec![PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some("data".to_owned()),
            labels: Some(labels.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: storage.data.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements { requests: Some(size), limits: None }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }])
}

fn pod_template(
    desired: &Desired,
    pool: &Pool,
    slot: &SlotName,
    labels: &BTreeMap<String, String>,
) -> PodTemplateSpec {
    let spec = &desired.spec;
    let defaults = &spec.node_defaults;
    let ephemeral = spec.storage_of(pool).ephemeral;
    let annotation = (keys::ANNOTATION_REVISION.to_owned(), revision(desired, pool));
    let secrets = &spec.image.pull_secrets;
    let secrets = secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
    let mut template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels.clone()),
            annotations: Some(BTreeMap::from([annotation])),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            affinity: Some(affinity(desired, pool)),
            automount_service_account_token: Some(false),
            containers: vec![container(desired, pool, slot)],
            enable_service_links: Some(false),
            image_pull_secrets: (secrets.len() > 0).then(|| secrets.collect()),
            node_selector: (!pool.node_selector.is_empty()).then(|| pool.node_selector.clone()),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER_ID),
                run_as_group: Some(USER_ID),
                fs_group: Some(USER_ID),
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                seccomp_profile: Some(seccomp()),
                ..PodSecurityContext::default()
            }),
            service_account_name: Some(names::cluster_object(&desired.name)),
            termination_grace_period_seconds: Some(
                defaults.termination_grace_period_seconds.unwrap_or(GRACE_PERIOD_SECONDS),
            ),
            volumes: ephemeral.then(|| {
                vec![Volume {
                    name: "data".to_owned(),
                    empty_dir: Some(EmptyDirVolumeSource::default()),
                    ..Volume::default()
                }]
            }),
            ..PodSpec::default()
        }),
    };
    template.merge_from(desired.pod_overlay.clone());
    template
}

fn seccomp() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }
}

fn container(desired: &Desired, pool: &Pool, slot: &SlotName) -> Container {
    let spec = &desired.spec;
    let resources = pool.resources.as_ref().or(spec.node_defaults.resources.as_ref());
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(spec.image_reference()),
        image_pull_policy: Some(spec.image.pull_policy.as_str().to_owned()),
        // The image's entry point is the node binary.
        args: Some(arguments(desired, pool, slot, resources)),
        // A panic must leave a trace in the log of the pod.
        env: Some(vec![EnvVar {
            name: "RUST_BACKTRACE".to_owned(),
            value: Some("1".to_owned()),
            value_from: None,
        }]),
        ports: Some(vec![port("rpc", RPC_PORT), port("sql", SQL_PORT), port("http", HTTP_PORT)]),
        resources: resources.cloned(),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            seccomp_profile: Some(seccomp()),
            ..SecurityContext::default()
        }),
        startup_probe: Some(probe("/health", 1, STARTUP_FAILURES_MAX)),
        liveness_probe: Some(probe("/health", 10, 6)),
        readiness_probe: Some(probe("/health?ready=1", 2, 2)),
        volume_mounts: Some(vec![VolumeMount {
            name: "data".to_owned(),
            mount_path: MOUNT_PATH.to_owned(),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(i32::from(HTTP_PORT)),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failure_threshold),
        success_threshold: Some(1),
        ..Probe::default()
    }
}

/// The command line of a node. It says nothing of the other slots, so that scaling changes no
/// template.
fn arguments(
    desired: &Desired,
    pool: &Pool,
    slot: &SlotName,
    resources: Option<&ResourceRequirements>,
) -> Vec<String> {
    let host = slot.host(&desired.namespace);
    let peers = names::peers_service(&desired.name);
    let mut args = vec![
        "start".to_owned(),
        "--insecure".to_owned(),
        format!("--listen-addr=:{RPC_PORT}"),
        format!("--sql-addr=:{SQL_PORT}"),
        format!("--http-addr=:{HTTP_PORT}"),
        format!("--advertise-addr={host}:{RPC_PORT}"),
        format!("--advertise-sql-addr={host}:{SQL_PORT}"),
        format!("--join={peers}.{}.svc:{RPC_PORT}", desired.namespace),
        format!("--store={MOUNT_PATH}/data"),
        "--no-auto-init".to_owned(),
        format!("--cache={}", cache(resources)),
    ];
    let locality = pool.locality();
    if !locality.is_empty() {
        args.push(format!("--locality={locality}"));
    }
    if let Some(extra) = &desired.spec.node_defaults.extra_args {
        let flag = |arg: &str| arg.split('=').next().unwrap_or_default().to_owned();
        for added in &extra.set {
            args.retain(|arg| flag(arg) != flag(added));
            args.push(added.clone());
        }
        args.retain(|arg| !extra.unset.contains(&flag(arg)));
    }
    args
}

/// A quarter of the memory limit.
fn cache(resources: Option<&ResourceRequirements>) -> String {
    let limit = resources.and_then(|resources| resources.limits.as_ref()?.get("memory"));
    match limit.and_then(|limit| quantity::bytes(&limit.0)) {
        Some(bytes) => format!("{}MiB", (bytes / 4 / (1024 * 1024)).max(1)),
        None => CACHE_DEFAULT.to_owned(),
    }
}

fn affinity(desired: &Desired, pool: &Pool) -> Affinity {
    let place = match (&pool.zone, &pool.region) {
        (Some(zone), _) => Some(("topology.kubernetes.io/zone", zone)),
        (None, Some(region)) => Some(("topology.kubernetes.io/region", region)),
        (None, None) => None,
    };
    let node_affinity = place.map(|(key, value)| NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm {
                match_expressions: Some(vec![NodeSelectorRequirement {
                    key: key.to_owned(),
                    operator: "In".to_owned(),
                    values: Some(vec![value.clone()]),
                }]),
                match_fields: None,
            }],
        }),
        ..NodeAffinity::default()
    });
    let apart = PodAffinityTerm {
        label_selector: Some(LabelSelector {
            match_labels: Some(keys::node_selector(&desired.name)),
            ..LabelSelector::default()
        }),
        topology_key: "kubernetes.io/hostname".to_owned(),
        ..PodAffinityTerm::default()
    };
    let pod_anti_affinity = match desired.spec.host_anti_affinity() {
        HostAntiAffinity::Required => PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: Some(vec![apart]),
            ..PodAntiAffinity::default()
        },
        HostAntiAffinity::Preferred => PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                WeightedPodAffinityTerm { weight: 100, pod_affinity_term: apart },
            ]),
            ..PodAntiAffinity::default()
        },
    };
    Affinity { node_affinity, pod_affinity: None, pod_anti_affinity: Some(pod_anti_affinity) }
}
