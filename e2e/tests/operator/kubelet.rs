//! Plays scheduler, kubelet and volume provisioner for one namespace.

use std::time::Duration;

use anyhow::Result;
use crdb_api::names::RPC_PORT;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use crate::database::Database;

/// An image with this in its name cannot be pulled.
pub(crate) const BAD_IMAGE: &str = "no-such-image";

const PERIOD: Duration = Duration::from_millis(150);

/// Plays until it is dropped.
pub(crate) async fn play(client: Client, namespace: String, database: Database) {
    loop {
        if let Err(error) = round(&client, &namespace, &database).await {
            // Objects come and go between a look and a write.
            eprintln!("kubelet of {namespace}: {error:#}");
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn round(client: &Client, namespace: &str, database: &Database) -> Result<()> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    for claim in claims.list(&ListParams::default()).await? {
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase != Some("Bound") {
            let bound = json!({"status": {"phase": "Bound"}});
            let params = PatchParams::default();
            claims.patch_status(&claim.name_any(), &params, &Patch::Merge(&bound)).await?;
        }
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = pods.list(&ListParams::default()).await?.items;
    for (name, uid) in database.running() {
        if !list.iter().any(|pod| pod.name_any() == name && pod.uid() == Some(uid.clone())) {
            database.stop(&name);
        }
    }
    for pod in list {
        let status = match image(&pod).contains(BAD_IMAGE) {
            true => bad_status(),
            false => start(&claims, &pod, namespace, database).await?,
        };
        if !holds(&pod, &status) {
            let params = PatchParams::default();
            let patch = json!({"status": status});
            pods.patch_status(&pod.name_any(), &params, &Patch::Merge(&patch)).await?;
        }
    }
    Ok(())
}

fn image(pod: &Pod) -> String {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.filter_map(|container| container.image.clone()).collect()
}

/// Starts the pod's process; the status that the kubelet would write.
async fn start(
    claims: &Api<PersistentVolumeClaim>,
    pod: &Pod,
    namespace: &str,
    database: &Database,
) -> Result<serde_json::Value> {
    let name = pod.name_any();
    let uid = pod.uid().unwrap_or_default();
    let claim = claims.get_opt(&format!("data-{name}")).await?.and_then(|claim| claim.uid());
    let subdomain = pod.spec.as_ref().and_then(|spec| spec.subdomain.clone()).unwrap_or_default();
    let address = format!("{name}.{subdomain}.{namespace}.svc:{RPC_PORT}");
    let store = claim.unwrap_or_else(|| uid.clone());
    let ip = database.start(&name, &uid, &store, &address)?;
    let ready = if database.join(&name) { "True" } else { "False" };
    Ok(json!({
        "phase": "Running",
        "podIP": ip.to_string(),
        "podIPs": [{"ip": ip.to_string()}],
        "conditions": [{"type": "Ready", "status": ready}],
        "containerStatuses": [{
            "name": "crdb", "image": "crdb-node", "imageID": "", "ready": ready == "True",
            "restartCount": 0, "started": true,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }],
    }))
}

fn bad_status() -> serde_json::Value {
    json!({
        "phase": "Pending",
        "containerStatuses": [{
            "name": "crdb", "image": BAD_IMAGE, "imageID": "", "ready": false,
            "restartCount": 0, "started": false,
            "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}},
        }],
    })
}

/// Whether the pod's status already says so.
fn holds(pod: &Pod, status: &serde_json::Value) -> bool {
    let found = serde_json::to_value(&pod.status).unwrap_or_default();
    let ready = |value: &serde_json::Value| {
        let list = value["conditions"].as_array().cloned().unwrap_or_default();
        list.iter().find(|c| c["type"] == "Ready").map(|c| c["status"].clone())
    };
    found["phase"] == status["phase"]
        && found["podIP"] == status["podIP"]
        && ready(&found) == ready(status)
        && found["containerStatuses"][0]["state"] == status["containerStatuses"][0]["state"]
}
