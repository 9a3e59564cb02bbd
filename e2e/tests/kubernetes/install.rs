//! The charts: installed in either order, tested, taken away and installed again.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::bench::{In as _, cluster, definition, eventually, explained, kubectl, step};
use crate::installation::{
    self, CRDS, NAMESPACE, OPERATOR, helm, install, is_installed, looked_at, the_pod, uninstall,
};
use crate::zones;

/// Operator before definitions, and definitions before operator; the steps are those of
/// [`installation::made`], which the other tests stand on.
#[test]
fn the_charts_are_installed_in_either_order() -> Result<()> {
    installation::made()
}

/// The chart's own test runs SQL on a cluster of its own and leaves nothing.
#[test]
fn the_test_of_the_chart_passes_and_leaves_nothing() -> Result<()> {
    let _operator = installation::shared()?;
    explained(NAMESPACE, || {
        let before = everything()?;
        ensure!(before.iter().any(|name| name.starts_with("deployment")), "{before:?}");
        let said = step("helm test", || helm("test --logs")?.arg(OPERATOR).output())?;
        ensure!(said.contains("wrote and read a row"), "helm test says:\n{said}");
        eventually("nothing is left", || {
            let after = everything()?;
            let left: Vec<_> = after.difference(&before).collect();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
    })
}

/// Names of what can be left in the operator's namespace.
fn everything() -> Result<BTreeSet<String>> {
    let kinds = "get --output=name crdbclusters,deployments,statefulsets,services,serviceaccounts,\
                 roles,rolebindings,configmaps,secrets,persistentvolumeclaims,networkpolicies,\
                 poddisruptionbudgets,jobs";
    let mut names = BTreeSet::new();
    let list = kubectl(kinds)?.within(NAMESPACE).output()?;
    // Pods of the deployment may be replaced meanwhile by others.
    let pods = kubectl("get pods --output=name --selector=app.kubernetes.io/name!=crdb-operator")?;
    for line in list.lines().chain(pods.within(NAMESPACE).output()?.lines()) {
        names.insert(line.to_owned());
    }
    Ok(names)
}

/// Without its charts the database goes on; installed again, they take it over as it is.
#[test]
fn uninstalling_keeps_the_data_and_installing_again_adopts_it() -> Result<()> {
    zones::alone(|| {
        let address = zones::sql()?;
        address.repeat("DROP TABLE IF EXISTS adopted")?;
        address.repeat("CREATE TABLE adopted (id INT PRIMARY KEY)")?;
        address.repeat("UPSERT INTO adopted (id) VALUES (1)")?;
        let before = zones::objects()?;
        let id = zones::status()?.cluster_id;
        let uid = cluster(zones::NAMESPACE, zones::NAME)?.metadata.uid;

        step("uninstall both charts", uninstall)?;
        ensure!(!is_installed()?, "the deployment is there still");
        ensure!(definition()?.is_some(), "the definition is gone, and every cluster with it");
        address.repeat("UPSERT INTO adopted (id) VALUES (2)")?;
        zones::ensure_same(&before, &zones::objects()?)?;

        step("install both charts again", || {
            install(CRDS, true)?;
            install(OPERATOR, true)
        })?;
        let pod = the_pod()?;
        step("the operator looks at the database", || {
            looked_at(&pod, zones::NAMESPACE, zones::NAME)
        })?;
        let status = zones::status()?;
        ensure!(status.cluster_id == id, "{:?} was {id:?}", status.cluster_id);
        let after = cluster(zones::NAMESPACE, zones::NAME)?.metadata.uid;
        ensure!(after == uid, "the cluster's object is another one");
        zones::ensure_same(&before, &zones::objects()?)?;
        let rows = address.repeat("SELECT id FROM adopted ORDER BY id")?;
        ensure!(rows == ["1", "2"], "{rows:?}");
        Ok(())
    })
}
