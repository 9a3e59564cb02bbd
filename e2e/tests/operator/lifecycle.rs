//! From a declared cluster to an Available one, and what stays when it goes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use crdb_api::v1alpha1::{CrdbCluster, Liveness};
use crdb_api::{conditions, keys};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

use crate::bench::{Bench, PATIENCE, spec};
use crate::kubelet::BAD_IMAGE;

/// The promise of the product in one test.
#[tokio::test]
async fn a_declared_cluster_becomes_available() -> Result<()> {
    let mut bench = Bench::new("available").await?;
    bench.run(&[])?;
    bench.create("prod", spec(&[("a", 1), ("b", 1), ("c", 1)])).await?;
    let status = bench.settled("prod").await?;
    let nodes = status.nodes.context("counts")?;
    assert_eq!((nodes.desired, nodes.ready, nodes.live), (3, 3, 3));
    let rows: Vec<&str> = status.node_rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(rows, ["prod-a-1", "prod-b-1", "prod-c-1"]);
    assert!(status.node_rows.iter().all(|row| row.liveness == Liveness::Live));
    assert_eq!(status.endpoints.context("endpoints")?.sql, "prod-sql.available.svc:26257");
    assert_eq!(status.cluster_id, bench.database.cluster_id());
    let calls = bench.database.init_calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(calls[0].pod, "prod-a-1-0");

    let budget = bench.api::<PodDisruptionBudget>().get("prod-crdb").await?;
    let available = budget.spec.and_then(|spec| spec.min_available);
    assert_eq!(available, Some(IntOrString::Int(2)));
    let claims = bench.api::<PersistentVolumeClaim>().list(&ListParams::default()).await?;
    assert_eq!(claims.items.len(), 3);
    let pods = bench.api::<Pod>().list(&ListParams::default()).await?;
    assert_eq!(pods.items.len(), 3);
    for pod in pods {
        let spec = pod.spec.context("a pod")?;
        assert_eq!(spec.automount_service_account_token, Some(false));
    }
    marked(&bench, "data-prod-a-1-0", &status.cluster_id.clone().unwrap_or_default()).await?;

    let events = bench.api::<Event>().list(&ListParams::default()).await?;
    let reasons: Vec<String> = events.items.into_iter().filter_map(|event| event.reason).collect();
    for wanted in ["BootstrapStarted", "Bootstrapped", "QuorumHealthy"] {
        assert!(reasons.iter().any(|reason| reason == wanted), "{wanted} in {reasons:?}");
    }

    // More nodes: a new slot, the others untouched.
    let before: BTreeMap<String, String> = bench.versions_of::<Pod>().await?.into_iter().collect();
    let pools = json!([
        {"name": "a", "nodes": 2}, {"name": "b", "nodes": 1}, {"name": "c", "nodes": 1},
    ]);
    bench.change("prod", json!({"spec": {"pools": pools}})).await?;
    bench
        .wait("prod", "grown", |status| status.nodes.as_ref().is_some_and(|n| n.ready == 4))
        .await?;
    let after: BTreeMap<String, String> = bench.versions_of::<Pod>().await?.into_iter().collect();
    for (pod, version) in before {
        assert_eq!(after.get(&pod), Some(&version), "{pod}");
    }
    assert!(after.contains_key("Pod prod-a-2-0"), "{after:?}");
    Ok(())
}

async fn marked(bench: &Bench, claim: &str, cluster_id: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let claim = bench.api::<PersistentVolumeClaim>().get(claim).await?;
        let annotations = claim.annotations();
        if annotations.get(keys::ANNOTATION_CLUSTER_ID).map(String::as_str) == Some(cluster_id)
            && annotations.contains_key(keys::ANNOTATION_STORE_UUID)
        {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not marked: {annotations:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Two clusters that ask for one name: the second says so and touches nothing.
#[tokio::test]
async fn colliding_names_are_reported_and_nothing_is_forced() -> Result<()> {
    let mut bench = Bench::new("collide").await?;
    bench.run(&[])?;
    bench.create("prod", spec(&[("east-a", 1)])).await?;
    bench.settled("prod").await?;
    let before = bench.versions_of::<StatefulSet>().await?;
    bench.create("prod-east", spec(&[("a", 1)])).await?;
    let status = bench.reason("prod-east", conditions::DEGRADED, "NameConflict").await?;
    let degraded = conditions::find(&status.conditions, conditions::DEGRADED).context("set")?;
    for word in ["StatefulSet prod-east-a-1", "CrdbCluster prod", "nothing is changed"] {
        assert!(degraded.message.contains(word), "{word} in {}", degraded.message);
    }
    // It stays so however often it is looked at: no other number is tried in its place.
    let looked = bench.passes().await?;
    bench.change("prod-east", json!({"metadata": {"labels": {"looked": "again"}}})).await?;
    let deadline = Instant::now() + PATIENCE;
    while bench.passes().await? < looked + 2 {
        ensure!(Instant::now() < deadline, "the operator did no further passes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let status = bench.reason("prod-east", conditions::DEGRADED, "NameConflict").await?;
    assert_eq!(status.pools[0].last_slot, 0);
    assert_eq!(bench.versions_of::<StatefulSet>().await?, before);
    let all = bench.versions().await?;
    let made: Vec<_> = all.iter().filter(|(name, _)| name.contains("prod-east-sql")).collect();
    assert!(made.is_empty(), "{made:?}");
    assert_eq!(bench.database.init_calls().len(), 1);
    Ok(())
}

/// A new operator process finds everything as it wants it.
#[tokio::test]
async fn a_restarted_operator_changes_no_object() -> Result<()> {
    let mut bench = Bench::new("restarted").await?;
    bench.run(&[])?;
    bench.create("prod", spec(&[("a", 3)])).await?;
    bench.settled("prod").await?;
    let before = quiet(&bench).await?;
    bench.kill_operator();
    bench.run(&[])?;
    let deadline = Instant::now() + PATIENCE;
    while !bench.passes().await.is_ok_and(|passes| passes >= 2) {
        ensure!(Instant::now() < deadline, "the new operator did no pass");
        // One more reason for a pass, which is no change of the spec.
        let touch = json!({"metadata": {"labels": {"touched": "yes"}}});
        let pod = bench.api::<Pod>();
        let params = kube::api::PatchParams::default();
        pod.patch("prod-a-1-0", &params, &kube::api::Patch::Merge(&touch)).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        if bench.passes().await.is_ok_and(|passes| passes >= 1) {
            break;
        }
    }
    let touched = |all: Vec<(String, String)>| -> Vec<(String, String)> {
        all.into_iter().filter(|(name, _)| name != "Pod prod-a-1-0").collect()
    };
    assert_eq!(touched(bench.versions().await?), touched(before));
    Ok(())
}

/// The versions of all objects, once two looks a moment apart agree.
async fn quiet(bench: &Bench) -> Result<Vec<(String, String)>> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = bench.versions().await?;
    loop {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = bench.versions().await?;
        if now == last {
            return Ok(now);
        }
        ensure!(Instant::now() < deadline, "objects keep changing: {last:?} {now:?}");
        last = now;
    }
}

/// Deleting the object keeps the volumes, and declaring it again adopts the cluster on them.
#[tokio::test]
async fn a_cluster_that_is_declared_again_adopts_its_volumes() -> Result<()> {
    let mut bench = Bench::new("adopted").await?;
    bench.run(&[])?;
    let mut open = spec(&[("a", 2)]);
    open["deletionProtection"] = json!(false);
    bench.create("prod", open.clone()).await?;
    let first = bench.settled("prod").await?;
    let id = first.cluster_id.context("an id")?;
    marked(&bench, "data-prod-a-1-0", &id).await?;
    marked(&bench, "data-prod-a-2-0", &id).await?;
    bench.api::<CrdbCluster>().delete("prod", &DeleteParams::default()).await?;
    let deadline = Instant::now() + PATIENCE;
    while !bench.versions_of::<StatefulSet>().await?.is_empty()
        || !bench.versions_of::<Pod>().await?.is_empty()
    {
        ensure!(Instant::now() < deadline, "objects are left: {:?}", bench.versions().await?);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(bench.versions_of::<PersistentVolumeClaim>().await?.len(), 2);
    bench.create("prod", open).await?;
    let second = bench.settled("prod").await?;
    assert_eq!(second.cluster_id, Some(id));
    assert_eq!(bench.database.init_calls().len(), 1);
    Ok(())
}

/// A typing error in the image is mended by mending the image.
#[tokio::test]
async fn a_mended_image_needs_no_deleted_pod() -> Result<()> {
    let mut bench = Bench::new("mended").await?;
    bench.run(&[])?;
    let mut wrong = spec(&[("a", 1)]);
    wrong["image"] = json!({"repository": BAD_IMAGE});
    bench.create("prod", wrong).await?;
    bench.reason("prod", conditions::DEGRADED, "ImagePullFailed").await?;
    bench.change("prod", json!({"spec": {"image": {"repository": "crdb-node"}}})).await?;
    bench.settled("prod").await?;
    Ok(())
}

/// A cluster that is declared in a pause is reported, not made, and not looked at without end.
#[tokio::test]
async fn a_paused_cluster_is_left_alone() -> Result<()> {
    let mut bench = Bench::new("paused").await?;
    bench.run(&[])?;
    let mut paused = spec(&[("a", 1)]);
    paused["reconcile"] = json!("Paused");
    bench.create("prod", paused).await?;
    bench.reason("prod", conditions::READY, "Paused").await?;
    quiet(&bench).await?;
    let looked = bench.passes().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(bench.passes().await? <= looked + 1, "every pass causes the next");
    assert!(bench.versions_of::<StatefulSet>().await?.is_empty());
    bench.change("prod", json!({"spec": {"reconcile": "Enabled"}})).await?;
    let status = bench.settled("prod").await?;
    assert_eq!(status.node_rows[0].name, "prod-a-1");
    Ok(())
}

/// What the API server refuses is told in the status, and uses up no number.
#[tokio::test]
async fn a_refused_write_is_told_and_tried_again() -> Result<()> {
    let mut bench = Bench::new("quota").await?;
    let quotas = bench.api::<ResourceQuota>();
    let quota = json!({
        "metadata": {"name": "none"}, "spec": {"hard": {"count/statefulsets.apps": "0"}},
    });
    quotas.create(&PostParams::default(), &serde_json::from_value(quota)?).await?;
    // No controller of quotas runs here; what holds is what it would write.
    let holds = json!({"status": {
        "hard": {"count/statefulsets.apps": "0"}, "used": {"count/statefulsets.apps": "0"},
    }});
    quotas.patch_status("none", &PatchParams::default(), &Patch::Merge(&holds)).await?;
    bench.run(&[])?;
    bench.create("prod", spec(&[("a", 1)])).await?;
    let status = bench.reason("prod", conditions::DEGRADED, "ReconcileError").await?;
    let degraded = conditions::find(&status.conditions, conditions::DEGRADED).context("set")?;
    for word in ["StatefulSet prod-a-1", "quota"] {
        assert!(degraded.message.contains(word), "{word} in {}", degraded.message);
    }
    quotas.delete("none", &DeleteParams::default()).await?;
    let status = bench.settled("prod").await?;
    assert_eq!(status.node_rows[0].name, "prod-a-1");
    Ok(())
}
