//! What is refused, with the reason that users read, and without an effect.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::bench::{In as _, Namespace, all_clusters, apply, explained, kubectl, refusal};
use crate::installation;
use crate::zones::{self, NAME, NAMESPACE};

fn ensure_refused(command: &crdb_kind::Cmd, reason: &str) -> Result<()> {
    let told = refusal(command)?;
    ensure!(told.contains(reason), "refused, but not with `{reason}`:\n{told}");
    Ok(())
}

/// The sample with one change.
fn changed(pointer: &str, value: Value) -> Result<Value> {
    let mut manifest = zones::manifest()?;
    zones::set(&mut manifest, pointer, value)?;
    Ok(manifest)
}

/// Each rule says what is wrong, and nothing is made.
#[test]
fn a_spec_that_breaks_a_rule_is_refused_with_the_reason() -> Result<()> {
    let _operator = installation::shared()?;
    let namespace = Namespace::new("e2e-refusals")?;
    let namespace = namespace.name();
    explained(namespace, || {
        let cases = [
            ("/spec/profile", json!("Production"), "only profile Dev is accepted"),
            ("/spec/tls", json!({"mode": "OperatorCA"}), "only tls.mode Disabled is accepted"),
            ("/spec/tls", json!({}), "spec.tls.mode: Required value"),
            (
                "/spec/deletionPolicy",
                json!({"whenDeleted": "Delete"}),
                "only deletionPolicy Retain is accepted",
            ),
            (
                "/spec/loadBalancer/service",
                json!({"type": "LoadBalancer"}),
                "needs loadBalancerSourceRanges",
            ),
            ("/spec/loadBalancer/service", json!({"perZone": true}), "perZone is not served yet"),
            (
                "/spec/pools",
                json!([{"name": "a", "nodes": 1, "region": "elsewhere"}]),
                "every pool's region must be listed",
            ),
            ("/metadata/name", json!("a-name-that-is-much-too-long"), "no longer than 24"),
        ];
        for (pointer, value, reason) in cases {
            ensure_refused(&apply(namespace, &changed(pointer, value)?)?, reason)?;
        }
        let clusters = all_clusters()?;
        let made = clusters.iter().find(|c| c.metadata.namespace.as_deref() == Some(namespace));
        ensure!(made.is_none(), "a refused cluster is there: {made:?}");
        Ok(())
    })
}

/// A running cluster refuses what cannot be done yet, and goes on as it is.
#[test]
fn a_change_that_is_not_possible_is_refused_and_changes_nothing() -> Result<()> {
    zones::beside_others(|| {
        let before = zones::objects()?;
        let mut two = zones::manifest()?;
        if let Some(pools) = two.pointer_mut("/spec/pools").and_then(Value::as_array_mut) {
            pools.pop();
        }
        ensure_refused(&apply(NAMESPACE, &two)?, "a pool cannot be removed")?;
        let version = changed("/spec/version", json!("v9.9.9"))?;
        ensure_refused(&apply(NAMESPACE, &version)?, "spec.version of an initialized cluster")?;
        let delete = kubectl("delete crdbcluster")?.arg(NAME).within(NAMESPACE);
        ensure_refused(&delete, "is protected")?;
        let claim = kubectl("delete persistentvolumeclaim")?.arg("data-zones-a-1-0");
        ensure_refused(&claim.within(NAMESPACE), "may hold data of cluster zones")?;
        zones::status()?;
        zones::ensure_same(&before, &zones::objects()?)
    })
}
