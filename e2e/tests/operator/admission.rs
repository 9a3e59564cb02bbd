//! What the real API server refuses: the rules of the definition and of the admission policies.

use anyhow::Result;
use crdb_api::conditions;
use crdb_api::v1alpha1::CrdbCluster;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::bench::{Bench, spec};

fn refused<T: std::fmt::Debug>(result: Result<T, kube::Error>, text: &str) {
    match result {
        Err(kube::Error::Api(status)) => {
            assert!(status.message.contains(text), "refused otherwise: {}", status.message);
        }
        other => panic!("not refused with `{text}`: {other:?}"),
    }
}

fn with(pointer: &str, value: Value) -> Value {
    let mut spec = spec(&[("a", 1)]);
    spec[pointer] = value;
    spec
}

/// Each rule that can be broken at creation, with the words that the user reads.
#[tokio::test]
async fn a_spec_that_breaks_a_rule_is_refused_with_the_reason() -> Result<()> {
    let bench = Bench::new("refused-at-creation").await?;
    let cases = [
        (with("profile", json!("Production")), "only profile Dev is accepted"),
        (with("tls", json!({"mode": "CertManager"})), "only tls.mode Disabled is accepted"),
        (with("tls", json!({})), "spec.tls.mode: Required value"),
        (
            with("deletionPolicy", json!({"whenDeleted": "Delete"})),
            "only deletionPolicy Retain is accepted",
        ),
        (with("loadBalancer", json!({"service": {"perZone": true}})), "perZone is not served yet"),
        (
            with("loadBalancer", json!({"service": {"type": "LoadBalancer"}})),
            "needs loadBalancerSourceRanges",
        ),
        (with("loadBalancer", json!({"type": "Envoy"})), "Unsupported value"),
        (
            with("pools", json!([{"name": "a", "nodes": 1, "region": "r1"}])),
            "every pool's region must be listed",
        ),
        (
            with("pools", json!([{"name": "a", "nodes": 1}, {"name": "a", "nodes": 1}])),
            "Duplicate value",
        ),
        (with("pools", json!([{"name": "a", "nodes": 0}])), "greater than or equal to 1"),
        (with("version", json!("latest")), "spec.version"),
    ];
    for (spec, text) in cases {
        refused(bench.create("c", spec).await, text);
    }
    refused(bench.create(&"n".repeat(25), spec(&[("a", 1)])).await, "no longer than 24");
    // Without the profile the strict one is meant, and refused by name.
    let mut silent = spec(&[("a", 1)]);
    silent.as_object_mut().expect("an object").remove("profile");
    refused(bench.create("c", silent).await, "only profile Dev is accepted");
    bench.create("c", spec(&[("a", 1)])).await?;
    Ok(())
}

/// Changes that come with later versions are refused and change nothing.
#[tokio::test]
async fn a_change_that_is_not_possible_yet_is_refused() -> Result<()> {
    let bench = Bench::new("refused-changes").await?;
    bench.create("c", spec(&[("a", 2), ("b", 1)])).await?;
    let pools = |pools: Value| json!({"spec": {"pools": pools}});
    let fewer = pools(json!([{"name": "a", "nodes": 1}, {"name": "b", "nodes": 1}]));
    refused(bench.change("c", fewer).await, "nodes of a pool cannot be lowered");
    let without = pools(json!([{"name": "a", "nodes": 2}]));
    refused(bench.change("c", without).await, "a pool cannot be removed");
    let storage = json!({"spec": {"nodeDefaults": {"storage": {"data": {"size": "11Gi"}}}}});
    refused(bench.change("c", storage).await, "storage cannot be changed");
    let version = json!({"spec": {"version": "v9.9.9"}});
    bench.change("c", version.clone()).await?;
    bench.change("c", json!({"spec": {"version": "v0.1.0"}})).await?;
    let status = json!({
        "apiVersion": "crdb.dev/v1alpha1", "kind": "CrdbCluster",
        "status": {"conditions": [{
            "type": conditions::INITIALIZED, "status": "True", "reason": "Bootstrapped",
            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]},
    });
    let api = bench.api::<CrdbCluster>();
    api.patch_status("c", &PatchParams::default(), &Patch::Merge(&status)).await?;
    refused(bench.change("c", version).await, "spec.version of an initialized cluster");
    let image = json!({"spec": {"image": {"repository": "other"}}});
    refused(bench.change("c", image).await, "spec.image of an initialized cluster");
    let more = pools(json!([{"name": "a", "nodes": 3}, {"name": "b", "nodes": 1}]));
    bench.change("c", more).await?;
    Ok(())
}

/// A protected cluster and the volumes of clusters cannot be deleted by accident.
#[tokio::test]
async fn deletion_is_protected() -> Result<()> {
    let mut bench = Bench::new("protected").await?;
    bench.run(&[])?;
    bench.create("c", spec(&[("a", 1)])).await?;
    bench.settled("c").await?;
    let clusters = bench.api::<CrdbCluster>();
    refused(clusters.delete("c", &DeleteParams::default()).await, "cluster c is protected");
    let claims = bench.api::<PersistentVolumeClaim>();
    let claim = "data-c-a-1-0";
    refused(claims.delete(claim, &DeleteParams::default()).await, "may hold data of cluster c");
    bench.change("c", json!({"spec": {"deletionProtection": false}})).await?;
    clusters.delete("c", &DeleteParams::default()).await?;
    Ok(())
}
