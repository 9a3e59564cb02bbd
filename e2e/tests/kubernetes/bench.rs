//! What every test works with: commands, a client, waiting, namespaces, and explanations.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use crdb_api::conditions;
use crdb_api::v1alpha1::{CrdbCluster, CrdbClusterStatus};
use crdb_kind::progress::now;
use crdb_kind::{Cmd, Progress, TestEnvironment};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace as NamespaceObject;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::installation;

/// Longest wait for anything that should come about, on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// Time between two looks.
pub(crate) const POLL: Duration = Duration::from_millis(200);
/// Marks the namespaces of these tests, so that a later run finds what an interrupted one left.
pub(crate) const OURS: &str = "e2e.crdb.dev/test";

/// The name of the definition.
pub(crate) const DEFINITION: &str = "crdbclusters.crdb.dev";

/// Where everything is.
pub(crate) fn environment() -> Result<TestEnvironment> {
    TestEnvironment::from_env()
}

/// A kubectl command.
pub(crate) fn kubectl(line: &str) -> Result<Cmd> {
    Ok(environment()?.kubectl().words(line))
}

/// A command of the plugin, as kubectl runs it.
pub(crate) fn plugin(namespace: &str) -> Result<Cmd> {
    let environment = environment()?;
    // kubectl finds plugins on the PATH, by name.
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", environment.bin_dir.display());
    Ok(environment.kubectl().env("PATH", path).args_of(&["crdb", "--namespace", namespace]))
}

/// What has no quoting in [`Cmd::words`].
pub(crate) trait In {
    /// The command, for a namespace.
    fn within(self, namespace: &str) -> Cmd;
}

impl In for Cmd {
    fn within(self, namespace: &str) -> Cmd {
        self.args_of(&["--namespace", namespace])
    }
}

fn progress() -> &'static Progress {
    static PROGRESS: OnceLock<Progress> = OnceLock::new();
    PROGRESS.get_or_init(Progress::new)
}

/// Reports a step of a test, with times.
pub(crate) fn step<T>(title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    progress().step(title, work).with_context(|| title.to_owned())
}

/// Reports something of interest.
pub(crate) fn note(line: &str) {
    progress().note(line);
}

struct Connection {
    runtime: Runtime,
    client: Client,
}

/// One runtime for all tests: a client works only on the runtime it was made on.
fn connection() -> Result<&'static Connection> {
    static CONNECTION: OnceLock<Result<Connection, String>> = OnceLock::new();
    let made = CONNECTION.get_or_init(|| {
        let make = || -> Result<Connection> {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            let kubeconfig = environment()?.kubeconfig;
            let client = runtime.block_on(client(&kubeconfig))?;
            Ok(Connection { runtime, client })
        };
        make().map_err(|error| format!("{error:#}"))
    });
    made.as_ref().map_err(|text| anyhow::anyhow!("{text}"))
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// The runtime of everything that is not a command.
pub(crate) fn runtime() -> Result<&'static Runtime> {
    Ok(&connection()?.runtime)
}

/// The objects of a kind in a namespace that carry the labels.
pub(crate) fn list<K>(namespace: &str, selector: &str) -> Result<Vec<K>>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let connection = connection()?;
    let api: Api<K> = Api::namespaced(connection.client.clone(), namespace);
    let params = ListParams::default().labels(selector);
    let found = connection.runtime.block_on(async { api.list(&params).await });
    let found = found.with_context(|| format!("list {} in {namespace}", K::plural(&())))?;
    Ok(found.items)
}

/// An object, if it is there.
pub(crate) fn get<K>(namespace: &str, name: &str) -> Result<Option<K>>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let connection = connection()?;
    let api: Api<K> = Api::namespaced(connection.client.clone(), namespace);
    let found = connection.runtime.block_on(async { api.get_opt(name).await });
    found.with_context(|| format!("get {} {name} in {namespace}", K::plural(&())))
}

/// Looks again and again until the look succeeds; the last reason why not is the error.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let end = now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if now() > end => {
                return Err(error.context(format!("{what}: not within {PATIENCE:?}")));
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// What a failing command said; success is an error.
pub(crate) fn refusal(command: &Cmd) -> Result<String> {
    match command.output() {
        Ok(output) => bail!("`{command}` was not refused: {output}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// A cluster's object.
pub(crate) fn cluster(namespace: &str, name: &str) -> Result<CrdbCluster> {
    get(namespace, name)?.with_context(|| format!("there is no cluster {namespace}/{name}"))
}

/// Waits until a cluster's status speaks of its present spec and satisfies a question.
pub(crate) fn until(
    namespace: &str,
    name: &str,
    what: &str,
    holds: impl Fn(&CrdbClusterStatus) -> bool,
) -> Result<CrdbClusterStatus> {
    eventually(&format!("{namespace}/{name} {what}"), || {
        let cluster = cluster(namespace, name)?;
        let status = cluster.status.unwrap_or_default();
        let current = status.observed_generation == cluster.metadata.generation;
        if current && holds(&status) {
            return Ok(status);
        }
        let told = status.conditions.iter();
        let told = told.map(|c| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message));
        bail!("{}", told.collect::<Vec<_>>().join("; "))
    })
}

/// Waits until a cluster is Available, all its nodes are ready, and nothing is under way.
pub(crate) fn settled(namespace: &str, name: &str) -> Result<CrdbClusterStatus> {
    let all = [conditions::AVAILABLE, conditions::READY, conditions::STORAGE_READY];
    until(namespace, name, "settled", |status| {
        all.iter().all(|type_| conditions::is_true(&status.conditions, type_))
            && status.operation.is_none()
            && conditions::find(&status.conditions, conditions::PROGRESSING)
                .is_some_and(|condition| condition.reason == "Idle")
    })
}

/// A manifest in the given namespace, applied as users do it.
pub(crate) fn apply(namespace: &str, manifest: &Value) -> Result<Cmd> {
    let apply = kubectl("apply --filename=-")?.within(namespace);
    Ok(apply.stdin(manifest.to_string()))
}

/// Makes a namespace that a later run recognises.
pub(crate) fn make_namespace(name: &str) -> Result<()> {
    let connection = connection()?;
    let labels = [(OURS.to_owned(), "true".to_owned())].into();
    let metadata =
        ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
    let object = NamespaceObject { metadata, ..NamespaceObject::default() };
    let api: Api<NamespaceObject> = Api::all(connection.client.clone());
    let made =
        connection.runtime.block_on(async { api.create(&PostParams::default(), &object).await });
    made.with_context(|| format!("make the namespace {name}"))?;
    Ok(())
}

/// The custom resource definition, if it is there.
pub(crate) fn definition() -> Result<Option<CustomResourceDefinition>> {
    let connection = connection()?;
    let api: Api<CustomResourceDefinition> = Api::all(connection.client.clone());
    let found = connection.runtime.block_on(async { api.get_opt(DEFINITION).await });
    found.context("get the definition")
}

/// Every cluster of every namespace.
pub(crate) fn all_clusters() -> Result<Vec<CrdbCluster>> {
    let connection = connection()?;
    let api: Api<CrdbCluster> = Api::all(connection.client.clone());
    let found = connection.runtime.block_on(async { api.list(&ListParams::default()).await });
    Ok(found.context("list all clusters")?.items)
}

/// The namespaces of these tests that are there.
pub(crate) fn our_namespaces() -> Result<Vec<String>> {
    let connection = connection()?;
    let api: Api<NamespaceObject> = Api::all(connection.client.clone());
    let params = ListParams::default().labels(OURS);
    let found = connection.runtime.block_on(async { api.list(&params).await })?;
    Ok(found.items.into_iter().filter_map(|namespace| namespace.metadata.name).collect())
}

/// Removes a namespace with the clusters and volumes in it, protected as they are.
pub(crate) fn remove_namespace(name: &str, wait: bool) -> Result<()> {
    let release = |kind: &str| -> Result<()> {
        let label = kubectl(&format!("label {kind} --all --overwrite crdb.dev/release=true"))?;
        label.within(name).run()
    };
    if definition()?.is_some() {
        release("crdbclusters")?;
    }
    release("persistentvolumeclaims")?;
    let delete = kubectl(&format!("delete namespace {name} --wait={wait}"))?;
    delete.seconds(PATIENCE.as_secs()).run()
}

/// A namespace of one test.
pub(crate) struct Namespace(&'static str);

impl Namespace {
    /// Makes it.
    pub(crate) fn new(name: &'static str) -> Result<Namespace> {
        make_namespace(name)?;
        Ok(Namespace(name))
    }

    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        self.0
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The next run removes what could not be removed.
        remove_namespace(self.0, false).ok();
    }
}

/// Runs a test; when it fails, shows what a person would look at next.
pub(crate) fn explained(namespace: &str, test: impl FnOnce() -> Result<()>) -> Result<()> {
    let result = test();
    if result.is_err() {
        eprintln!("{}", explanation(namespace));
    }
    result
}

fn explanation(namespace: &str) -> String {
    let mut text = format!("--- namespace {namespace}, when the test failed");
    let questions = [
        "describe crdbclusters",
        "get pods,statefulsets,persistentvolumeclaims,services --output=wide",
        "get events --sort-by=.metadata.creationTimestamp",
        "logs --selector=app.kubernetes.io/component=node --prefix --tail=40",
        "logs --selector=app.kubernetes.io/component=node --prefix --tail=40 --previous",
    ];
    let of_operator = [
        "get pods,events --output=wide",
        "logs --selector=app.kubernetes.io/name=crdb-operator --prefix --tail=100",
    ];
    let questions = questions.map(|question| (namespace, question));
    let of_operator = of_operator.map(|question| (installation::NAMESPACE, question));
    for (namespace, question) in questions.into_iter().chain(of_operator) {
        text.push_str(&format!("\n$ kubectl --namespace {namespace} {question}\n"));
        let answer = kubectl(question).and_then(|command| command.within(namespace).output());
        text.push_str(&answer.unwrap_or_else(|error| format!("{error:#}")));
    }
    text
}
