//! The three-zone database of `deploy/samples/cluster.yaml`, shared by the tests that need one.
//!
//! One test at a time has it, and gets it settled; what a test changes it leaves as it found it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use crdb_api::v1alpha1::CrdbClusterStatus;
use crdb_api::{keys, names};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::bench::{
    In as _, apply, environment, eventually, explained, get, kubectl, list, make_namespace,
    settled, step,
};
use crate::installation::{self, image};
use crate::sql::Address;

/// The name of the database.
pub(crate) const NAME: &str = "zones";
/// Its namespace.
pub(crate) const NAMESPACE: &str = "e2e-zones";
/// The pods, by zone.
pub(crate) const PODS: [(&str, &str); 3] =
    [("r1-a", "zones-a-1-0"), ("r1-b", "zones-b-1-0"), ("r1-c", "zones-c-1-0")];

const SAMPLE: &str = include_str!("../../../deploy/samples/cluster.yaml");

/// Whose turn it is; true once the database was declared.
static TURN: Mutex<bool> = Mutex::new(false);

/// Runs a test on the database, beside tests of other things.
pub(crate) fn beside_others(test: impl FnOnce() -> Result<()>) -> Result<()> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let _operator = installation::shared()?;
    run(turn, test)
}

/// Runs a test that takes the operator away.
pub(crate) fn alone(test: impl FnOnce() -> Result<()>) -> Result<()> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let _operator = installation::alone()?;
    run(turn, test)
}

fn run(mut declared: MutexGuard<'_, bool>, test: impl FnOnce() -> Result<()>) -> Result<()> {
    explained(NAMESPACE, || {
        if !*declared {
            make_namespace(NAMESPACE)?;
            *declared = true;
            declare()?;
        }
        step("the three-zone database is available", || settled(NAMESPACE, NAME))?;
        step("every range has three replicas", replicated)?;
        test()
    })
}

/// The sample under another name, with the images of these tests and reachable from outside.
pub(crate) fn manifest() -> Result<Value> {
    let environment = environment()?;
    let (repository, version) = image(&environment.node_image)?;
    let mut manifest: Value = serde_yaml::from_str(SAMPLE).context("read the sample")?;
    set(&mut manifest, "/metadata/name", json!(NAME))?;
    set(&mut manifest, "/spec/version", json!(version))?;
    set(&mut manifest, "/spec/image", json!({"repository": repository}))?;
    set(&mut manifest, "/spec/loadBalancer", json!({"service": {"type": "NodePort"}}))?;
    Ok(manifest)
}

/// Sets a field of an object in a manifest, there already or not.
pub(crate) fn set(manifest: &mut Value, pointer: &str, value: Value) -> Result<()> {
    let (parent, field) = pointer.rsplit_once('/').unwrap_or_default();
    let parent = manifest.pointer_mut(parent).and_then(Value::as_object_mut);
    let parent = parent.with_context(|| format!("the manifest has no parent of {pointer}"))?;
    parent.insert(field.to_owned(), value);
    Ok(())
}

/// Applies the manifest.
pub(crate) fn declare() -> Result<()> {
    apply(NAMESPACE, &manifest()?)?.run()
}

/// The address of the SQL Service outside the Kubernetes.
pub(crate) fn sql() -> Result<Address> {
    let service: Service = get(NAMESPACE, &names::sql_service(NAME))?.context("no SQL Service")?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let port = ports.first().and_then(|port| port.node_port).context("no node port")?;
    let question = "get nodes --selector=node-role.kubernetes.io/control-plane \
                    --output=jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
    let host = kubectl(question)?.output()?.trim().to_owned();
    Ok(Address { host, port: u16::try_from(port)? })
}

/// What `crdb node status` says, by column, run in a pod.
pub(crate) fn node_status(flags: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let (_, pod) = PODS[0];
    let exec = kubectl("exec --container=crdb")?.arg(pod).within(NAMESPACE);
    let exec = exec.words("-- /usr/local/bin/crdb node status --insecure --host=localhost:26258");
    let text = exec.words("--format=tsv").words(flags).output()?;
    let mut lines = text.lines().map(|line| line.split('\t').map(str::to_owned));
    let header: Vec<String> = lines.next().context("node status prints nothing")?.collect();
    Ok(lines.map(|cells| header.iter().cloned().zip(cells).collect()).collect())
}

/// Waits until no range lacks a replica and every node has as many ranges.
pub(crate) fn replicated() -> Result<()> {
    eventually("every range has three replicas", || {
        let nodes = node_status("--ranges")?;
        let number = |column: &str| -> Result<Vec<u64>> {
            let cells = nodes.iter().filter_map(|node| node.get(column));
            cells.map(|cell| cell.parse().with_context(|| format!("{column} is {cell}"))).collect()
        };
        let (ranges, lacking) = (number("ranges")?, number("ranges_underreplicated")?);
        let first = ranges.first().copied().unwrap_or_default();
        let same = ranges.len() == PODS.len() && first > 0 && ranges.iter().all(|n| *n == first);
        ensure!(same && lacking.iter().sum::<u64>() == 0, "{ranges:?}, {lacking:?} lack replicas");
        Ok(())
    })
}

/// The pods of the database that are there, by name.
pub(crate) fn pods() -> Result<BTreeMap<String, Pod>> {
    let found: Vec<Pod> = list(NAMESPACE, &selector())?;
    Ok(found.into_iter().map(|pod| (pod.name_any(), pod)).collect())
}

/// The labels of everything of the database.
pub(crate) fn selector() -> String {
    format!("{}={NAME}", keys::LABEL_CLUSTER)
}

/// Every object of the database but its own, without what other programs than the operator report
/// about it: the same before and after means that nothing was changed and no pod restarted.
pub(crate) fn objects() -> Result<BTreeMap<String, Value>> {
    let mut all = BTreeMap::new();
    add::<StatefulSet>(&mut all)?;
    add::<Service>(&mut all)?;
    add::<ServiceAccount>(&mut all)?;
    add::<NetworkPolicy>(&mut all)?;
    add::<PodDisruptionBudget>(&mut all)?;
    add::<PersistentVolumeClaim>(&mut all)?;
    add::<Pod>(&mut all)?;
    for (name, pod) in pods()? {
        let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
        let runs: Vec<_> = statuses
            .into_iter()
            .map(|status| json!([status.name, status.container_id, status.restart_count]))
            .collect();
        all.insert(format!("containers of {name}"), Value::Array(runs));
    }
    Ok(all)
}

fn add<K>(all: &mut BTreeMap<String, Value>) -> Result<()>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + serde::Serialize,
{
    for object in list::<K>(NAMESPACE, &selector())? {
        let name = format!("{} {}", K::kind(&()), object.name_any());
        let mut value = serde_json::to_value(object)?;
        let fields = value.as_object_mut().context("an object")?;
        fields.remove("status");
        let metadata = fields.get_mut("metadata").and_then(Value::as_object_mut);
        let metadata = metadata.context("metadata")?;
        metadata.remove("resourceVersion");
        if let Some(managers) = metadata.get_mut("managedFields").and_then(Value::as_array_mut) {
            managers.retain(|entry| entry.get("subresource").is_none());
        }
        all.insert(name, value);
    }
    Ok(())
}

/// Compares two results of [`objects`].
pub(crate) fn ensure_same(
    before: &BTreeMap<String, Value>,
    after: &BTreeMap<String, Value>,
) -> Result<()> {
    let names = before.keys().chain(after.keys());
    let changed: Vec<String> = names
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| format!("{name}\n  was {:?}\n  is  {:?}", before.get(name), after.get(name)))
        .collect();
    ensure!(!before.is_empty(), "there is nothing to compare");
    ensure!(changed.is_empty(), "changed:\n{}", changed.join("\n"));
    Ok(())
}

/// The status of the database, once it is settled.
pub(crate) fn status() -> Result<CrdbClusterStatus> {
    settled(NAMESPACE, NAME)
}
