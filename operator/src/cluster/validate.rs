//! Checks a cluster's spec once more and prepares it for planning.
//!
//! The API server has checked the same rules, but admission can be switched off, an object can be
//! older than a rule, and some rules need a whole pod template. Pure.

use crdb_api::keys::RESERVED_PREFIX;
use crdb_api::v1alpha1::{
    CLUSTER_NAME_MAX, CrdbCluster, CrdbClusterSpec, ExternalTrafficPolicy, POOL_NAME_MAX, Pool,
    Profile, ServiceType, SqlService, TlsMode, VolumePolicy, is_reserved_flag,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource as _;

use super::build::GRACE_PERIOD_SECONDS;

/// A cluster whose spec holds together.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) generation: Option<i64>,
    pub(crate) spec: CrdbClusterSpec,
    /// What users merge over every node's pod.
    pub(crate) pod_overlay: PodTemplateSpec,
    /// Reference to the cluster, for everything that goes away with it.
    pub(crate) owner: OwnerReference,
}

impl Desired {
    /// The declared pool of a name.
    pub(crate) fn pool(&self, name: &str) -> Option<&Pool> {
        self.spec.pools.iter().find(|pool| pool.name == name)
    }
}

/// Checks the spec; the error lists everything that is wrong, each with its field.
pub(crate) fn validate(cluster: &CrdbCluster) -> Result<Desired, Vec<String>> {
    let mut faults = Vec::new();
    let spec = &cluster.spec;
    let name = cluster.metadata.name.clone().unwrap_or_default();
    if !is_dns_label(&name) || name.len() > CLUSTER_NAME_MAX {
        faults.push(format!(
            "metadata.name: `{name}` must be a DNS label of at most {CLUSTER_NAME_MAX} characters"
        ));
    }
    if spec.profile != Profile::Dev {
        faults.push("spec.profile: only Dev is accepted until secure mode exists".to_owned());
    }
    if spec.tls.mode != TlsMode::Disabled {
        faults.push("spec.tls.mode: only Disabled is accepted until secure mode exists".to_owned());
    }
    let deletion = &spec.deletion_policy;
    if [deletion.when_deleted, deletion.when_decommissioned] != [VolumePolicy::Retain; 2] {
        faults.push("spec.deletionPolicy: only Retain is accepted".to_owned());
    }
    check_service(&spec.load_balancer.service, &mut faults);
    check_flags(spec, &mut faults);
    check_pools(spec, &mut faults);
    if let Some(seconds) = spec.node_defaults.termination_grace_period_seconds
        && seconds < GRACE_PERIOD_SECONDS
    {
        faults.push(format!(
            "spec.nodeDefaults.terminationGracePeriodSeconds: {seconds} is less than a node needs \
             to drain, {GRACE_PERIOD_SECONDS}"
        ));
    }
    let pod_overlay = pod_overlay(spec, &mut faults);
    let Some(owner) = cluster.controller_owner_ref(&()) else {
        faults.push("metadata: the object has no name or UID".to_owned());
        return Err(faults);
    };
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Desired {
        name,
        namespace: cluster.metadata.namespace.clone().unwrap_or_default(),
        generation: cluster.metadata.generation,
        spec: spec.clone(),
        pod_overlay,
        owner,
    })
}

fn check_service(service: &SqlService, faults: &mut Vec<String>) {
    let field = "spec.loadBalancer.service";
    if service.per_zone {
        faults.push(format!("{field}.perZone: not served yet"));
    }
    let balancer = service.type_ == ServiceType::LoadBalancer;
    if balancer && service.load_balancer_source_ranges.is_empty() {
        faults.push(format!("{field}.loadBalancerSourceRanges: required without TLS"));
    }
    if !balancer && !service.load_balancer_source_ranges.is_empty() {
        faults.push(format!("{field}.loadBalancerSourceRanges: only for type LoadBalancer"));
    }
    if service.type_ == ServiceType::ClusterIP {
        if service.node_port.is_some() {
            faults.push(format!("{field}.nodePort: only for types NodePort and LoadBalancer"));
        }
        if service.external_traffic_policy == ExternalTrafficPolicy::Local {
            faults.push(format!(
                "{field}.externalTrafficPolicy: Local only for types NodePort and LoadBalancer"
            ));
        }
    }
}

fn check_flags(spec: &CrdbClusterSpec, faults: &mut Vec<String>) {
    let field = "spec.nodeDefaults.extraArgs";
    let Some(extra) = &spec.node_defaults.extra_args else { return };
    for flag in extra.set.iter().chain(&extra.unset) {
        if !flag.starts_with("--") {
            faults.push(format!("{field}: `{flag}` is no flag such as --cache=1GiB"));
        } else if is_reserved_flag(flag) {
            faults.push(format!("{field}: `{flag}` belongs to the operator"));
        }
    }
}

fn check_pools(spec: &CrdbClusterSpec, faults: &mut Vec<String>) {
    if spec.pools.is_empty() {
        faults.push("spec.pools: at least one pool is needed".to_owned());
    }
    for (index, pool) in spec.pools.iter().enumerate() {
        let name = &pool.name;
        if !is_dns_label(name) || name.len() > POOL_NAME_MAX {
            faults.push(format!(
                "spec.pools[{index}].name: `{name}` must be a DNS label of at most \
                 {POOL_NAME_MAX} characters"
            ));
        }
        if spec.pools.iter().take(index).any(|other| other.name == *name) {
            faults.push(format!("spec.pools[{index}].name: `{name}` is there twice"));
        }
        if pool.nodes == 0 {
            faults.push(format!("spec.pools[{index}].nodes: must be at least 1"));
        }
        let Some(region) = &pool.region else {
            if pool.zone.is_some() {
                faults.push(format!("spec.pools[{index}].region: required with a zone"));
            }
            continue;
        };
        let regions = spec.topology.as_ref().map(|topology| topology.regions.as_slice());
        match regions.unwrap_or_default().iter().find(|known| known.name == *region) {
            None => faults.push(format!(
                "spec.pools[{index}].region: `{region}` is not in spec.topology.regions"
            )),
            Some(known) => {
                if let Some(zone) = &pool.zone
                    && !known.zones.contains(zone)
                {
                    faults.push(format!(
                        "spec.pools[{index}].zone: `{zone}` is not a zone of region `{region}`"
                    ));
                }
            }
        }
    }
}

fn pod_overlay(spec: &CrdbClusterSpec, faults: &mut Vec<String>) -> PodTemplateSpec {
    let Some(template) = &spec.node_defaults.pod_template else {
        return PodTemplateSpec::default();
    };
    let field = "spec.nodeDefaults.podTemplate";
    let value = serde_json::Value::Object(template.0.clone());
    let overlay: PodTemplateSpec = match serde_json::from_value(value) {
        Ok(overlay) => overlay,
        Err(error) => {
            faults.push(format!("{field}: not a pod template: {error}"));
            return PodTemplateSpec::default();
        }
    };
    let known = serde_json::to_value(&overlay).unwrap_or_default();
    let mut strays = Vec::new();
    find_strays(&serde_json::Value::Object(template.0.clone()), &known, field, &mut strays);
    faults.extend(strays.into_iter().map(|path| format!("{path}: no field of a pod template")));
    let metadata = overlay.metadata.clone().unwrap_or_default();
    let labels = metadata.labels.unwrap_or_default();
    let annotations = metadata.annotations.unwrap_or_default();
    for key in labels.keys().chain(annotations.keys()) {
        if key.starts_with(RESERVED_PREFIX) || key.starts_with("app.kubernetes.io/") {
            faults.push(format!("{field}.metadata: the key `{key}` belongs to the operator"));
        }
    }
    let pod = overlay.spec.clone().unwrap_or_default();
    let node = pod.containers.iter().find(|container| container.name == super::build::CONTAINER);
    if let Some(container) = node {
        if container.command.is_some() || container.args.is_some() {
            faults.push(format!(
                "{field}.spec.containers: command and args of `{}` belong to the operator, flags \
                 go to spec.nodeDefaults.extraArgs",
                container.name
            ));
        }
        if container.image.is_some() || container.image_pull_policy.is_some() {
            faults.push(format!(
                "{field}.spec.containers: the image of `{}` is that of spec.image and spec.version",
                container.name
            ));
        }
    }
    if pod.termination_grace_period_seconds.is_some() {
        faults.push(format!(
            "{field}.spec.terminationGracePeriodSeconds: set \
             spec.nodeDefaults.terminationGracePeriodSeconds instead"
        ));
    }
    overlay
}

/// Finds what was written and is no field: decoding drops it without a word. Values are not
/// compared, for a quantity may be written in several ways.
fn find_strays(
    written: &serde_json::Value,
    known: &serde_json::Value,
    path: &str,
    strays: &mut Vec<String>,
) {
    use serde_json::Value::{Array, Object};
    match (written, known) {
        (Object(written), Object(known)) => {
            for (key, value) in written.iter().filter(|(_, value)| !value.is_null()) {
                let path = format!("{path}.{key}");
                match known.get(key) {
                    Some(known) => find_strays(value, known, &path, strays),
                    None => strays.push(path),
                }
            }
        }
        (Array(written), Array(known)) => {
            for (index, (written, known)) in written.iter().zip(known).enumerate() {
                find_strays(written, known, &format!("{path}[{index}]"), strays);
            }
        }
        _ => {}
    }
}

fn is_dns_label(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(allowed)
        && !name.ends_with('-')
}
