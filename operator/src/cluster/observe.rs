//! Reads what a pass needs to know: Kubernetes objects, uncached, and the nodes' answers.

use std::collections::BTreeMap;

use crdb_api::keys;
use crdb_api::names::{self, SlotName};
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ContainerStatus, PersistentVolumeClaim, Pod, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams};
use kube::{Client, Resource, ResourceExt as _};

use super::build::CONTAINER;
use super::observed::{
    Answer, Kind, Observed, PodView, SlotView, Trouble, TroubleKind, VolumeMark, VolumeView,
};
use crate::admin::NodeAdmin;

/// How many nodes are asked at a time.
const ASKED_AT_ONCE: usize = 16;

/// Whose objects are read.
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) uid: &'a str,
}

/// Reads everything one pass needs.
pub(crate) async fn observe(
    client: &Client,
    admin: &NodeAdmin,
    subject: &Subject<'_>,
) -> Result<Observed, kube::Error> {
    let mut observed = Observed::default();
    let owned = &mut observed.owned;
    note_owned(
        owned,
        subject,
        Kind::ServiceAccount,
        &list::<ServiceAccount>(client, subject).await?,
    );
    let services = list::<Service>(client, subject).await?;
    note_owned(owned, subject, Kind::Service, &services);
    note_owned(owned, subject, Kind::NetworkPolicy, &list::<NetworkPolicy>(client, subject).await?);
    let budgets = list::<PodDisruptionBudget>(client, subject).await?;
    note_owned(owned, subject, Kind::PodDisruptionBudget, &budgets);
    let sets = list::<StatefulSet>(client, subject).await?;
    note_owned(owned, subject, Kind::StatefulSet, &sets);

    observed.external_address = external_address(&services, subject);
    let pods = list::<Pod>(client, subject).await?;
    let mut pods: BTreeMap<SlotName, Pod> = pods
        .into_iter()
        .filter_map(|pod| Some((slot_of(&pod.metadata, subject)?, pod)))
        .filter(|(slot, pod)| pod.name_any() == slot.pod())
        .collect();
    for set in sets.iter().filter(|set| is_owned(&set.metadata, subject)) {
        let Some(slot) = slot_of(&set.metadata, subject) else { continue };
        let template = set.spec.template.metadata.as_ref();
        let revision = template.map(revision_of).unwrap_or_default();
        let pod = pods.remove(&slot).map(|pod| pod_view(&pod));
        observed.slots.insert(slot, SlotView { revision, pod });
    }
    for claim in list::<PersistentVolumeClaim>(client, subject).await? {
        if let Some(slot) = slot_of(&claim.metadata, subject)
            && claim.name_any() == slot.volume_claim()
        {
            observed.volumes.insert(slot, volume_view(&claim));
        }
    }
    observed.answers = ask_nodes(admin, subject, &observed.slots).await;
    Ok(observed)
}

async fn list<K>(client: &Client, subject: &Subject<'_>) -> Result<Vec<K>, kube::Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let selector = keys::cluster_selector(subject.name);
    let selector: Vec<String> =
        selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let params = ListParams::default().labels(&selector.join(","));
    let api: Api<K> = Api::namespaced(client.clone(), subject.namespace);
    Ok(api.list(&params).await?.items)
}

fn is_owned(metadata: &ObjectMeta, subject: &Subject<'_>) -> bool {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().any(|owner| owner.controller == Some(true) && owner.uid == subject.uid)
}

fn note_owned<K: Resource>(
    owned: &mut BTreeMap<(Kind, String), String>,
    subject: &Subject<'_>,
    kind: Kind,
    objects: &[K],
) {
    for object in objects.iter().filter(|object| is_owned(object.meta(), subject)) {
        owned.insert((kind, object.name_any()), object.uid().unwrap_or_default());
    }
}

fn slot_of(metadata: &ObjectMeta, subject: &Subject<'_>) -> Option<SlotName> {
    let labels = metadata.labels.as_ref()?;
    let number = labels.get(keys::LABEL_SLOT)?.parse().ok()?;
    Some(SlotName::new(subject.name, labels.get(keys::LABEL_POOL)?, number))
}

fn revision_of(metadata: &ObjectMeta) -> String {
    let annotations = metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(keys::ANNOTATION_REVISION)).cloned().unwrap_or_default()
}

fn external_address(services: &[Service], subject: &Subject<'_>) -> Option<String> {
    let name = names::sql_service(subject.name);
    let service = services
        .iter()
        .find(|service| service.name_any() == name && is_owned(&service.metadata, subject))?;
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?;
    ingress.hostname.clone().or_else(|| ingress.ip.clone())
}

fn pod_view(pod: &Pod) -> PodView {
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let container = containers.iter().find(|container| container.name == CONTAINER);
    let state = container.and_then(|container| container.state.as_ref());
    let unschedulable = conditions.iter().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    let trouble = match unschedulable {
        Some(condition) => Some(Trouble {
            kind: TroubleKind::Unschedulable,
            message: condition.message.clone().unwrap_or_default(),
        }),
        None => container.and_then(container_trouble),
    };
    PodView {
        uid: pod.uid().unwrap_or_default(),
        revision: revision_of(&pod.metadata),
        machine: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        ip: status.pod_ip,
        running: state.is_some_and(|state| state.running.is_some()),
        ran: container.is_some_and(|container| {
            container.restart_count > 0
                || container.state.as_ref().is_some_and(|state| state.waiting.is_none())
        }),
        ready: conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        trouble,
    }
}

fn container_trouble(container: &ContainerStatus) -> Option<Trouble> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    let kind = match reason {
        "ImagePullBackOff"
        | "ErrImagePull"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable" => TroubleKind::ImagePull,
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            TroubleKind::ContainerConfig
        }
        "CrashLoopBackOff" => TroubleKind::CrashLoop,
        _ => return None,
    };
    let mut message = format!("{reason}: {}", waiting.message.clone().unwrap_or_default());
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    if let Some(last) = last {
        message = format!("{message} (last exit status {})", last.exit_code);
    }
    Some(Trouble { kind, message })
}

fn volume_view(claim: &PersistentVolumeClaim) -> VolumeView {
    let annotations = claim.annotations();
    let text = |key: &str| annotations.get(key).filter(|value| !value.is_empty()).cloned();
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    VolumeView {
        uid: claim.uid().unwrap_or_default(),
        bound: phase == Some("Bound"),
        terminating: claim.metadata.deletion_timestamp.is_some(),
        mark: VolumeMark {
            cluster_id: text(keys::ANNOTATION_CLUSTER_ID),
            node_id: text(keys::ANNOTATION_NODE_ID).and_then(|id| id.parse().ok()),
            store_uuid: text(keys::ANNOTATION_STORE_UUID),
            membership: text(keys::ANNOTATION_MEMBERSHIP),
            released: claim.labels().get(keys::LABEL_RELEASE).is_some_and(|value| value == "true"),
        },
    }
}

/// Asks every node whose process runs.
async fn ask_nodes(
    admin: &NodeAdmin,
    subject: &Subject<'_>,
    slots: &BTreeMap<SlotName, SlotView>,
) -> BTreeMap<SlotName, Answer> {
    let asked = slots.iter().filter_map(|(slot, view)| {
        let pod = view.pod.as_ref().filter(|pod| pod.running)?;
        let target = admin.target(subject.namespace, slot, pod.ip.as_deref()?);
        Some(async move { (slot.clone(), admin.ask(&target).await) })
    });
    futures::stream::iter(asked.collect::<Vec<_>>()).buffer_unordered(ASKED_AT_ONCE).collect().await
}
