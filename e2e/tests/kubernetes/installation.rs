//! The operator's charts: installed from nothing once for all tests, and taken away by those that
//! are about it.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Context as _, Result, bail, ensure};
use crdb_kind::Cmd;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use crate::bench::{
    In as _, OURS, PATIENCE, all_clusters, definition, environment, eventually, explained, get,
    kubectl, list, our_namespaces, remove_namespace, step,
};

/// The operator's namespace.
pub(crate) const NAMESPACE: &str = "crdb-operator";
/// The chart and release of the definitions.
pub(crate) const CRDS: &str = "crdb-operator-crds";
/// The chart and release of the operator.
pub(crate) const OPERATOR: &str = "crdb-operator";

const SELECTOR: &str = "app.kubernetes.io/name=crdb-operator";

/// Taken shared by tests that need the operator, alone by those that take it away.
static PRESENCE: RwLock<()> = RwLock::new(());

/// Lets a test use the operator beside others.
pub(crate) fn shared() -> Result<RwLockReadGuard<'static, ()>> {
    made()?;
    let guard = PRESENCE.read().unwrap_or_else(PoisonError::into_inner);
    mended()?;
    Ok(guard)
}

/// Lets a test take the operator away.
pub(crate) fn alone() -> Result<RwLockWriteGuard<'static, ()>> {
    made()?;
    let guard = PRESENCE.write().unwrap_or_else(PoisonError::into_inner);
    mended()?;
    Ok(guard)
}

/// The installation that all tests share, made by the first that asks.
pub(crate) fn made() -> Result<()> {
    static MADE: OnceLock<Result<(), String>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let result = explained(NAMESPACE, || {
            step("clean up what an earlier run left", from_nothing)?;
            step("install the operator before the definitions", operator_first)?;
            step("uninstall both charts", || {
                uninstall()?;
                kubectl("delete crd")?.arg(crate::bench::DEFINITION).run()
            })?;
            step("install the definitions before the operator", definitions_first)
        });
        result.map_err(|error| format!("{error:#}"))
    });
    made.as_ref().copied().map_err(|text| anyhow::anyhow!("the installation: {text}"))
}

/// Installs again what a test that failed half-way took away.
fn mended() -> Result<()> {
    static MENDING: Mutex<()> = Mutex::new(());
    let _turn = MENDING.lock().unwrap_or_else(PoisonError::into_inner);
    if pods()?.iter().any(is_ready) {
        return Ok(());
    }
    step("install the charts again", || {
        uninstall()?;
        install(CRDS, true)?;
        install(OPERATOR, true)
    })
}

/// Removes what an earlier run of these tests left, and nothing else.
fn from_nothing() -> Result<()> {
    for namespace in our_namespaces()? {
        remove_namespace(&namespace, true)?;
    }
    if definition()?.is_some() {
        // What an interrupted `helm test` left.
        for line in ["delete pod crdb-operator-smoke-test", "delete crdbcluster crdb-smoke-test"] {
            kubectl(line)?.arg("--ignore-not-found").within(NAMESPACE).run()?;
        }
        let clusters = all_clusters()?;
        let names: Vec<_> = clusters
            .iter()
            .map(|cluster| {
                format!("{}/{}", cluster.namespace().unwrap_or_default(), cluster.name_any())
            })
            .collect();
        ensure!(
            names.is_empty(),
            "these tests need a Kubernetes of their own, this one has clusters in namespaces \
             without the label {OURS}: {}",
            names.join(", ")
        );
    }
    uninstall()?;
    kubectl("delete crd --ignore-not-found")?.arg(crate::bench::DEFINITION).run()
}

/// The operator waits for the definitions: it neither ends nor says that it is ready.
fn operator_first() -> Result<()> {
    ensure!(definition()?.is_none(), "the definitions are there already");
    install(OPERATOR, false)?;
    let waiting = eventually("the operator waits", || {
        let pod = the_pod()?;
        let log = kubectl("logs")?.arg(pod.name_any()).within(NAMESPACE).output()?;
        ensure!(log.contains("waiting for the custom resource definitions"), "its log: {log}");
        ensure!(!log.contains("does not answer"), "nothing is wrong with the API server: {log}");
        Ok(pod)
    })?;
    let path = proxy_path(&waiting, "readyz");
    let told = crate::bench::refusal(&kubectl("get --raw")?.arg(path))?;
    ensure!(told.contains("ServiceUnavailable"), "readyz: {told}");
    ensure!(!is_ready(&waiting), "ready without definitions");
    install(CRDS, true)?;
    let ready = eventually("the operator is ready", || {
        let pod = the_pod()?;
        ensure!(is_ready(&pod), "not ready");
        Ok(pod)
    })?;
    ensure!(ready.uid() == waiting.uid(), "another pod was made");
    ensure!(restarts(&ready) == 0, "the operator restarted {} times", restarts(&ready));
    leading(&ready).map(drop)
}

fn definitions_first() -> Result<()> {
    ensure!(definition()?.is_none(), "the definitions are there still");
    install(CRDS, true)?;
    install(OPERATOR, true)?;
    let pod = the_pod()?;
    ensure!(restarts(&pod) == 0, "the operator restarted {} times", restarts(&pod));
    leading(&pod).map(drop)
}

/// Installs a chart, with `--wait` or without.
pub(crate) fn install(chart: &str, wait: bool) -> Result<()> {
    let environment = environment()?;
    let charts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts");
    let mut helm = helm(&format!("upgrade --install {chart}"))?
        .path(&charts.join(chart))
        .arg("--create-namespace");
    if chart == OPERATOR {
        let (operator, tag) = image(&environment.operator_image)?;
        let (node, version) = image(&environment.node_image)?;
        for (key, value) in [
            ("image.repository", operator),
            ("image.tag", tag),
            ("test.node.repository", node),
            ("test.node.version", version),
        ] {
            helm = helm.arg("--set-string").arg(format_args!("{key}={value}"));
        }
    }
    if wait {
        helm = helm.arg("--wait");
    }
    helm.run()
}

/// Uninstalls both charts.
pub(crate) fn uninstall() -> Result<()> {
    for release in [OPERATOR, CRDS] {
        helm("uninstall --ignore-not-found --wait")?.arg(release).run()?;
    }
    eventually("the operator's pods are gone", || {
        let left = pods()?.len();
        ensure!(left == 0, "{left} pods");
        Ok(())
    })
}

/// A helm command for the operator's namespace.
pub(crate) fn helm(line: &str) -> Result<Cmd> {
    let helm = environment()?.helm().words(line).within(NAMESPACE);
    Ok(helm.args_of(&["--timeout", "240s"]).seconds(PATIENCE.as_secs() + 120))
}

/// Repository and tag of an image.
pub(crate) fn image(name: &str) -> Result<(&str, &str)> {
    name.rsplit_once(':').with_context(|| format!("the image {name} has no tag"))
}

/// The operator's pods.
pub(crate) fn pods() -> Result<Vec<Pod>> {
    list(NAMESPACE, SELECTOR)
}

/// The operator's only pod.
pub(crate) fn the_pod() -> Result<Pod> {
    let mut pods = pods()?;
    match (pods.pop(), pods.len()) {
        (Some(pod), 0) => Ok(pod),
        (None, _) => bail!("the operator has no pod"),
        (_, more) => bail!("the operator has {} pods", more + 1),
    }
}

/// Waits until the operator in a pod leads, and until it has looked at a cluster; its metrics.
pub(crate) fn looked_at(pod: &Pod, namespace: &str, name: &str) -> Result<String> {
    let condition = format!("{{namespace=\"{namespace}\",name=\"{name}\",type=\"Ready\"}} 1");
    eventually(&format!("the operator in {} looks at {name}", pod.name_any()), || {
        let metrics = metrics(pod)?;
        ensure!(metrics.contains(&condition), "no `{condition}` in:\n{metrics}");
        Ok(metrics)
    })
}

fn leading(pod: &Pod) -> Result<String> {
    eventually(&format!("the operator in {} leads", pod.name_any()), || {
        let metrics = metrics(pod)?;
        ensure!(metrics.contains("crdb_operator_leader 1"), "its metrics:\n{metrics}");
        Ok(metrics)
    })
}

fn metrics(pod: &Pod) -> Result<String> {
    kubectl("get --raw")?.arg(proxy_path(pod, "metrics")).output()
}

fn proxy_path(pod: &Pod, page: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods/{}:8080/proxy/{page}", pod.name_any())
}

/// Whether a pod is ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// How often the containers of a pod were restarted.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).sum()
}

/// The operator's deployment has this many pods, and they are there or gone.
pub(crate) fn scale(replicas: usize) -> Result<()> {
    let scale = kubectl(&format!("scale deployment/{OPERATOR} --replicas={replicas}"))?;
    scale.within(NAMESPACE).run()?;
    eventually(&format!("the operator has {replicas} pods"), || {
        let pods = pods()?;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        ensure!((pods.len(), ready) == (replicas, replicas), "{} pods, {ready} ready", pods.len());
        Ok(())
    })
}

/// Whether the deployment is there: `helm uninstall` took it or not.
pub(crate) fn is_installed() -> Result<bool> {
    Ok(get::<k8s_openapi::api::apps::v1::Deployment>(NAMESPACE, OPERATOR)?.is_some())
}
