//! Writes the objects of a pass with server-side apply.
//!
//! Invariants:
//! 1. an object that exists and is not controlled by this cluster is never written: before the
//!    first use of a name it is looked up, and two controllers of one object are refused by the
//!    API server, should two first uses meet;
//! 2. only whole objects are applied, never a fetched and edited one;
//! 3. what the API server refuses is reported and keeps nothing else from being written;
//! 4. the sweep of what is not wanted any more touches Services, budgets and network policies only;
//!    StatefulSets, volume claims and Secrets never.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crdb_api::keys;
use crdb_api::names::SlotName;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::build::{Object, Objects};
use super::observed::{Kind, Observed, VolumeMark};
use super::status::Applied;

/// Kinds that the sweep may delete.
const SWEPT: [Kind; 3] = [Kind::Service, Kind::PodDisruptionBudget, Kind::NetworkPolicy];

/// Applies the objects of a pass, or nothing when one of their names belongs to somebody else.
pub(crate) async fn apply(
    client: &Client,
    namespace: &str,
    observed: &Observed,
    objects: &Objects,
) -> Result<Applied, kube::Error> {
    let mut applied = Applied {
        conflicts: find_conflicts(client, namespace, observed, objects).await?,
        ..Applied::default()
    };
    if !applied.conflicts.is_empty() {
        return Ok(applied);
    }
    for object in &objects.apply {
        let written = match object {
            Object::ServiceAccount(object) => write(client, namespace, object.as_ref()).await,
            Object::Service(object) => write(client, namespace, object.as_ref()).await,
            Object::NetworkPolicy(object) => write(client, namespace, object.as_ref()).await,
            Object::PodDisruptionBudget(object) => write(client, namespace, object.as_ref()).await,
            Object::StatefulSet(object) => write(client, namespace, object.as_ref()).await,
        };
        let (kind, name) = object.id();
        match written {
            Ok(()) if kind == Kind::StatefulSet => {
                applied.stateful_sets.insert(name);
            }
            Ok(()) => {}
            // Trying again at once changes nothing: the spec, a right or a quota must change first.
            Err(kube::Error::Api(status)) if is_refusal(&status) => {
                applied.rejected.push(format!("{kind} {name}: {}", status.message));
            }
            Err(error) => return Err(error),
        }
    }
    sweep(client, namespace, observed, objects).await?;
    Ok(applied)
}

/// Whether the API server understood a request and will not have it. A conflict is somebody else's
/// write, too many requests are a matter of time.
fn is_refusal(status: &kube::core::Status) -> bool {
    (400..500).contains(&status.code) && !matches!(status.code, 409 | 429)
}

async fn write<K>(client: &Client, namespace: &str, object: &K) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let params = PatchParams::apply(keys::MANAGER).force();
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    api.patch(&object.name_any(), &params, &Patch::Apply(object)).await?;
    Ok(())
}

/// Looks up every name that this pass uses for the first time.
async fn find_conflicts(
    client: &Client,
    namespace: &str,
    observed: &Observed,
    objects: &Objects,
) -> Result<Vec<String>, kube::Error> {
    let mut conflicts = Vec::new();
    for object in &objects.apply {
        let (kind, name) = object.id();
        if observed.owned.contains_key(&(kind, name.clone())) {
            continue;
        }
        let found = match object {
            Object::ServiceAccount(_) => meta::<ServiceAccount>(client, namespace, &name).await?,
            Object::Service(_) => meta::<Service>(client, namespace, &name).await?,
            Object::NetworkPolicy(_) => meta::<NetworkPolicy>(client, namespace, &name).await?,
            Object::PodDisruptionBudget(_) => {
                meta::<PodDisruptionBudget>(client, namespace, &name).await?
            }
            Object::StatefulSet(_) => meta::<StatefulSet>(client, namespace, &name).await?,
        };
        if let Some(metadata) = found {
            conflicts.push(describe(kind, &name, &metadata));
        }
    }
    for slot in &objects.claims {
        let name = slot.volume_claim();
        if observed.volumes.contains_key(slot) {
            continue;
        }
        if let Some(metadata) = meta::<PersistentVolumeClaim>(client, namespace, &name).await? {
            conflicts.push(describe(Kind::PersistentVolumeClaim, &name, &metadata));
        }
    }
    Ok(conflicts)
}

async fn meta<K>(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<ObjectMeta>, kube::Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    Ok(api.get_metadata_opt(name).await?.map(|object| object.metadata))
}

fn describe(kind: Kind, name: &str, metadata: &ObjectMeta) -> String {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let cluster = metadata.labels.as_ref().and_then(|labels| labels.get(keys::LABEL_CLUSTER));
    let whose = match (owners.iter().find(|owner| owner.controller == Some(true)), cluster) {
        (Some(owner), _) => format!("it is controlled by {} {}", owner.kind, owner.name),
        (None, Some(cluster)) => format!("it was made for cluster {cluster}"),
        (None, None) => "it was not made by this operator".to_owned(),
    };
    format!(
        "{kind} {name} exists and {whose}: nothing is changed. Choose another cluster or pool \
         name, or remove that object"
    )
}

/// Deletes what this pass does not want any more.
async fn sweep(
    client: &Client,
    namespace: &str,
    observed: &Observed,
    objects: &Objects,
) -> Result<(), kube::Error> {
    for ((kind, name), uid) in &observed.owned {
        if !SWEPT.contains(kind) || objects.keep.contains(&(*kind, name.clone())) {
            continue;
        }
        tracing::info!(%kind, name, "deleting an object that is not wanted any more");
        match kind {
            Kind::Service => delete::<Service>(client, namespace, name, uid).await?,
            Kind::PodDisruptionBudget => {
                delete::<PodDisruptionBudget>(client, namespace, name, uid).await?;
            }
            Kind::NetworkPolicy => delete::<NetworkPolicy>(client, namespace, name, uid).await?,
            Kind::ServiceAccount | Kind::StatefulSet | Kind::PersistentVolumeClaim => {}
        }
    }
    Ok(())
}

/// Deletes an object if it is still the one that was seen. Gone or replaced counts as done.
pub(crate) async fn delete<K>(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    match api.delete(name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes what is known of a store to the claim of its volume. The UID keeps the write from making
/// a claim that is gone.
pub(crate) async fn mark_volume(
    client: &Client,
    namespace: &str,
    slot: &SlotName,
    uid: &str,
    mark: &VolumeMark,
) -> Result<(), kube::Error> {
    let annotations = [
        (keys::ANNOTATION_CLUSTER_ID, mark.cluster_id.clone()),
        (keys::ANNOTATION_NODE_ID, mark.node_id.map(|id| id.to_string())),
        (keys::ANNOTATION_STORE_UUID, mark.store_uuid.clone()),
        (keys::ANNOTATION_MEMBERSHIP, mark.membership.clone()),
    ];
    let annotations: BTreeMap<String, String> =
        annotations.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    let labels = BTreeMap::from([(keys::LABEL_RELEASE.to_owned(), "true".to_owned())]);
    let claim = PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(slot.volume_claim()),
            namespace: Some(namespace.to_owned()),
            uid: Some(uid.to_owned()),
            annotations: Some(annotations),
            labels: mark.released.then_some(labels),
            ..ObjectMeta::default()
        },
        ..PersistentVolumeClaim::default()
    };
    write(client, namespace, &claim).await
}

#[cfg(test)]
mod tests {
    use super::is_refusal;

    #[test]
    fn what_is_told_in_the_status_and_what_is_tried_again() {
        let status = |code| kube::core::Status::failure("no", "x").with_code(code);
        for (code, refused) in
            [(400, true), (403, true), (422, true), (404, true), (409, false), (429, false)]
        {
            assert_eq!(is_refusal(&status(code)), refused, "{code}");
        }
        assert!(!is_refusal(&status(500)) && !is_refusal(&status(503)));
    }
}
