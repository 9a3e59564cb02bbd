//! Does the one step that was planned and recorded. No choices are made here.

use k8s_openapi::api::core::v1::Pod;
use kube::Client;

use super::observed::Observed;
use super::plan::Step;
use crate::admin::{CallError, NodeAdmin};

/// A step that came to nothing; the next pass plans anew.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecuteError {
    /// The node refused or did not answer.
    #[error(transparent)]
    Node(#[from] CallError),
    /// The API server refused.
    #[error("Kubernetes API: {}", super::told(.0))]
    Kube(#[from] kube::Error),
}

/// Executes a step.
pub(crate) async fn execute(
    client: &Client,
    admin: &NodeAdmin,
    namespace: &str,
    observed: &Observed,
    step: &Step,
) -> Result<(), ExecuteError> {
    match step {
        Step::None => Ok(()),
        Step::Bootstrap { slot, cluster_id, store_uuid } => {
            let pod = observed.slots.get(slot).and_then(|view| view.pod.as_ref());
            let Some(ip) = pod.and_then(|pod| pod.ip.as_deref()) else { return Ok(()) };
            tracing::info!(%slot, cluster_id, "initializing the cluster");
            Ok(admin.init(&admin.target(namespace, slot, ip), store_uuid, cluster_id).await?)
        }
        Step::ReplacePod { slot, pod_uid } => {
            tracing::info!(%slot, pod_uid, "replacing a pod that is down");
            Ok(super::apply::delete::<Pod>(client, namespace, &slot.pod(), pod_uid).await?)
        }
    }
}
