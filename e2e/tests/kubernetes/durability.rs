//! Rows outlive pods, and objects.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use crdb_kind::progress::now;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use crate::bench::{In as _, eventually, kubectl, list, plugin, refusal, step};
use crate::installation::is_ready;
use crate::sql::Writer;
use crate::zones::{self, NAME, NAMESPACE, PODS};

/// How long pods may take to stop when all are deleted at once: without a peer to hand its leases
/// to, a node gives up at once. They would be killed after 60 seconds.
const ALL_STOPPED: Duration = Duration::from_secs(40);

type Pods = BTreeMap<String, Pod>;

fn uid(pods: &Pods, name: &str) -> Option<String> {
    pods.get(name).and_then(ResourceExt::uid)
}

/// Waits until pods of the same names, but others, are ready.
fn replaced(before: &Pods, names: &[&str]) -> Result<()> {
    eventually(&format!("{names:?} are made again"), || {
        let pods = zones::pods()?;
        for name in names {
            let new = uid(&pods, name).is_some() && uid(&pods, name) != uid(before, name);
            let ready = pods.get(*name).is_some_and(is_ready);
            ensure!(new && ready, "{name}: new {new}, ready {ready}");
        }
        Ok(())
    })
}

/// A client that writes through the Service loses no acknowledged row, whatever happens to pods.
#[test]
fn rows_survive_the_deletion_of_one_pod_and_of_all_at_once() -> Result<()> {
    zones::beside_others(|| {
        let address = zones::sql()?;
        let writer = Writer::start(&address, "survivors")?;
        writer.goes_on(30)?;

        let before = zones::pods()?;
        let (_, victim) = PODS[1];
        step("delete one pod", || {
            kubectl("delete pod --wait=false")?.arg(victim).within(NAMESPACE).run()?;
            // While it is away, two of three nodes serve.
            writer.goes_on(30)?;
            replaced(&before, &[victim])?;
            writer.goes_on(30)
        })?;
        let pods = zones::pods()?;
        for (_, other) in PODS.iter().filter(|(_, pod)| *pod != victim) {
            ensure!(uid(&pods, other) == uid(&before, other), "{other} was replaced too");
        }
        step("every range has three replicas again", zones::replicated)?;

        step("delete all pods at once", || {
            let begun = now();
            let delete = kubectl("delete pods --wait=false --selector")?.arg(zones::selector());
            delete.within(NAMESPACE).run()?;
            eventually("all pods stop", || {
                let left = zones::pods()?;
                let old = PODS.iter().filter(|(_, pod)| uid(&left, pod) == uid(&pods, pod)).count();
                ensure!(old == 0, "{old} are left");
                Ok(())
            })?;
            let took = now().duration_since(begun);
            ensure!(took < ALL_STOPPED, "the pods took {took:?} to stop");
            replaced(&pods, &PODS.map(|(_, pod)| pod))?;
            writer.goes_on(30)
        })?;
        zones::status()?;
        let gap = writer.stop_and_check()?;
        crate::bench::note(&format!("longest time between two acknowledged rows: {gap:?}"));

        // And the plugin reads them too.
        let sql = plugin(NAMESPACE)?.args_of(&["sql", "--cluster", NAME, "--format", "tsv"]);
        let count =
            sql.args_of(&["-e", "SELECT count(*) > 90 AS enough FROM survivors"]).output()?;
        ensure!(
            count.lines().eq(["enough", "t"]) || count.lines().eq(["enough", "true"]),
            "{count}"
        );
        Ok(())
    })
}

/// Deleting the object of a cluster takes a decision, keeps the volumes, and declaring it again
/// finds the rows.
#[test]
fn a_cluster_that_is_declared_again_finds_its_rows() -> Result<()> {
    zones::beside_others(|| {
        let address = zones::sql()?;
        address.repeat("DROP TABLE IF EXISTS kept")?;
        address.repeat("CREATE TABLE kept (id INT PRIMARY KEY)")?;
        address.repeat("UPSERT INTO kept (id) VALUES (1), (2), (3)")?;
        let id = zones::status()?.cluster_id.context("a cluster id")?;
        let claims = volumes()?;
        ensure!(claims.len() == 3, "{claims:?}");

        let delete =
            || Ok::<_, anyhow::Error>(kubectl("delete crdbcluster")?.arg(NAME).within(NAMESPACE));
        let told = refusal(&delete()?)?;
        ensure!(told.contains("is protected"), "{told}");
        let label = kubectl("label crdbcluster")?.args_of(&[NAME, "crdb.dev/release=true"]);
        label.within(NAMESPACE).run()?;
        step("delete the cluster", || {
            delete()?.run()?;
            eventually("its pods are gone", || {
                let left: Vec<String> = zones::pods()?.into_keys().collect();
                ensure!(left.is_empty(), "{left:?}");
                Ok(())
            })
        })?;
        ensure!(volumes()? == claims, "volumes: {:?}, they were {claims:?}", volumes()?);

        step("declare it again", || {
            zones::declare()?;
            let status = zones::status()?;
            ensure!(status.cluster_id == Some(id), "another cluster: {:?}", status.cluster_id);
            Ok(())
        })?;
        ensure!(volumes()? == claims, "volumes: {:?}, they were {claims:?}", volumes()?);
        let rows = zones::sql()?.repeat("SELECT id FROM kept ORDER BY id")?;
        ensure!(rows == ["1", "2", "3"], "{rows:?}");
        Ok(())
    })
}

/// The volume claims, by name and uid.
fn volumes() -> Result<Vec<(String, Option<String>)>> {
    let claims: Vec<PersistentVolumeClaim> = list(NAMESPACE, &zones::selector())?;
    Ok(claims.iter().map(|claim| (claim.name_any(), claim.uid())).collect())
}
