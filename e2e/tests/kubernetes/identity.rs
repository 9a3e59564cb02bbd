//! The operator changes what was asked for and nothing else.

use anyhow::{Context as _, Result, ensure};
use crdb_api::conditions;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::bench::{Namespace, apply, environment, explained, get, list, settled, step, until};
use crate::installation::{self, image, looked_at, scale, the_pod};
use crate::zones::{self, NAME, NAMESPACE};

/// The database does not need the operator, and a new operator finds everything as it wants it.
#[test]
fn an_operator_that_is_gone_and_comes_back_changes_no_pod() -> Result<()> {
    zones::alone(|| {
        let address = zones::sql()?;
        address.repeat("DROP TABLE IF EXISTS alone")?;
        address.repeat("CREATE TABLE alone (id INT PRIMARY KEY)")?;
        let before = zones::objects()?;
        let old = the_pod()?;
        step("take the operator away", || scale(0))?;
        address.repeat("UPSERT INTO alone (id) VALUES (1)")?;
        // What users declare is taken up later; that it is checked does not depend on the operator.
        zones::declare()?;
        step("bring the operator back", || scale(1))?;
        let new = the_pod()?;
        ensure!(new.uid() != old.uid(), "the operator's pod is the old one");
        step("it looks at the database", || looked_at(&new, NAMESPACE, NAME))?;
        zones::status()?;
        zones::ensure_same(&before, &zones::objects()?)?;
        let rows = address.repeat("SELECT id FROM alone")?;
        ensure!(rows == ["1"], "{rows:?}");
        Ok(())
    })
}

fn one_node(name: &str, pool: &str) -> Result<Value> {
    let environment = environment()?;
    let (repository, version) = image(&environment.node_image)?;
    Ok(json!({
        "apiVersion": "crdb.dev/v1alpha1",
        "kind": "CrdbCluster",
        "metadata": {"name": name},
        "spec": {
            "version": version,
            "image": {"repository": repository},
            "profile": "Dev",
            "tls": {"mode": "Disabled"},
            "pools": [{"name": pool, "nodes": 1}],
        },
    }))
}

/// `prod` with pool `east-a` and `prod-east` with pool `a` ask for the same names: the second says
/// so and touches nothing, and the first goes on.
#[test]
fn two_clusters_whose_names_collide_do_not_touch_each_other() -> Result<()> {
    let _operator = installation::shared()?;
    let namespace = Namespace::new("e2e-collision")?;
    let namespace = namespace.name();
    explained(namespace, || {
        apply(namespace, &one_node("prod", "east-a")?)?.run()?;
        step("the first of two colliding clusters is available", || settled(namespace, "prod"))?;
        let state = || -> Result<_> {
            let set: StatefulSet = get(namespace, "prod-east-a-1")?.context("the slot")?;
            let pods: Vec<Pod> = list(namespace, "")?;
            let pods: Vec<_> = pods.iter().map(|pod| (pod.name_any(), pod.uid())).collect();
            Ok((set.uid(), set.metadata.generation, set.spec, set.metadata.labels, pods))
        };
        let before = state()?;
        apply(namespace, &one_node("prod-east", "a")?)?.run()?;
        let status = step("the second one says that the names collide", || {
            until(namespace, "prod-east", "Degraded/NameConflict", |status| {
                conditions::find(&status.conditions, conditions::DEGRADED)
                    .is_some_and(|c| c.status == "True" && c.reason == "NameConflict")
            })
        })?;
        let degraded = conditions::find(&status.conditions, conditions::DEGRADED).context("set")?;
        for words in ["StatefulSet prod-east-a-1", "CrdbCluster prod"] {
            ensure!(degraded.message.contains(words), "{words} is not in {}", degraded.message);
        }
        ensure!(!conditions::is_true(&status.conditions, conditions::AVAILABLE), "{status:?}");
        let services: Vec<Service> = list(namespace, "crdb.dev/cluster=prod-east")?;
        ensure!(services.is_empty(), "the second cluster made {services:?}");
        ensure!(state()? == before, "was {before:?}, is {:?}", state()?);
        settled(namespace, "prod").map(drop)
    })
}
