//! What one test works with: a namespace, its kubelet, its databases, its operator.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use crdb_api::conditions;
use crdb_api::v1alpha1::{CrdbCluster, CrdbClusterStatus};
use crdb_workload::ports::reserve_port;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::control_plane::{self, Running};
use crate::database::Database;
use crate::kubelet;
use crate::process::Process;

/// Longest wait for anything that should come about.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static BLOCKS: AtomicU8 = AtomicU8::new(64);

/// One test's surroundings.
pub(crate) struct Bench {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) database: Database,
    plane: &'static Running,
    node_port: u16,
    operator: Option<Process>,
    operator_http: u16,
    _tasks: JoinSet<()>,
}

impl Bench {
    /// Makes the namespace and starts its kubelet; the operator is started by [`Bench::run`].
    pub(crate) async fn new(name: &str) -> Result<Bench> {
        let plane = control_plane::running().await?;
        let client = plane.admin().await?;
        let block = BLOCKS.fetch_add(1, Ordering::Relaxed);
        // A port that is free on this block; the kernel gives another test another one.
        let probe = TcpListener::bind((Ipv4Addr::new(127, block, 0, 1), 0))?;
        let node_port = probe.local_addr()?.port();
        drop(probe);
        let namespace = name.to_owned();
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await?;
        lease_rights(&client, &namespace).await?;
        let database = Database::new((block, 0), node_port);
        let mut tasks = JoinSet::new();
        tasks.spawn(kubelet::play(client.clone(), namespace.clone(), database.clone()));
        Ok(Bench {
            client,
            namespace,
            database,
            plane,
            node_port,
            operator: None,
            operator_http: 0,
            _tasks: tasks,
        })
    }

    /// Starts the operator with more arguments, in place of the one that runs.
    pub(crate) fn run(&mut self, more: &[&str]) -> Result<()> {
        self.operator = None;
        self.operator_http = reserve_port()?;
        let mut args = vec![
            "run".to_owned(),
            format!("--watch-namespace={}", self.namespace),
            format!("--namespace={}", self.namespace),
            "--lease=operator".to_owned(),
            // The same name again takes its own lease over at once after a kill.
            "--identity=e2e".to_owned(),
            format!("--http-addr=127.0.0.1:{}", self.operator_http),
            format!("--node-address={{podIP}}:{}", self.node_port),
            "--log=info,crdb_operator=debug".to_owned(),
        ];
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        let kubeconfig = self.plane.kubeconfig("operator").display().to_string();
        let env = [("KUBECONFIG", kubeconfig)];
        self.operator = Some(Process::start(&operator_program()?, &args, &env, &self.log())?);
        Ok(())
    }

    /// Kills the operator, as a lost machine would.
    pub(crate) fn kill_operator(&mut self) {
        self.operator = None;
    }

    /// Waits until the operator ends by itself; its exit status.
    pub(crate) async fn operator_exit(&mut self) -> Result<Option<i32>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let operator = self.operator.as_mut().context("the operator was started")?;
            if let Some(status) = operator.exited()? {
                return Ok(status.code());
            }
            if Instant::now() > deadline {
                bail!("the operator did not end:\n{}", self.report());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn log(&self) -> PathBuf {
        self.plane.log(&format!("operator-{}", self.namespace))
    }

    fn report(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        crdb_kind::command::tail(&log)
    }

    /// Passes that the running operator has done.
    pub(crate) async fn passes(&self) -> Result<u64> {
        let text = http_get(self.operator_http, "/metrics").await?;
        let line = text.lines().find(|line| line.starts_with("crdb_operator_reconcile_total "));
        let number = line.and_then(|line| line.split(' ').nth(1));
        Ok(number.context("the counter is exported")?.parse()?)
    }

    /// An API of this namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates a cluster from its spec.
    pub(crate) async fn create(&self, name: &str, spec: Value) -> Result<CrdbCluster, kube::Error> {
        let api = self.api::<CrdbCluster>();
        let object = json!({
            "apiVersion": "crdb.dev/v1alpha1",
            "kind": "CrdbCluster",
            "metadata": {"name": name},
            "spec": spec,
        });
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        let resource = kube::api::ApiResource::erase::<CrdbCluster>(&());
        let dynamic: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        dynamic.create(&PostParams::default(), &object).await?;
        api.get(name).await
    }

    /// Changes a cluster by a merge patch.
    pub(crate) async fn change(
        &self,
        name: &str,
        patch: Value,
    ) -> Result<CrdbCluster, kube::Error> {
        let params = PatchParams::default();
        self.api::<CrdbCluster>().patch(name, &params, &Patch::Merge(&patch)).await
    }

    /// Waits until a cluster's status satisfies a question.
    pub(crate) async fn wait(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&CrdbClusterStatus) -> bool,
    ) -> Result<CrdbClusterStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.api::<CrdbCluster>().get_opt(name).await?;
            let status = found.and_then(|cluster| cluster.status).unwrap_or_default();
            if holds(&status) {
                return Ok(status);
            }
            if Instant::now() > deadline {
                let status = serde_yaml::to_string(&status)?;
                bail!("{name}: not {what} in time:\n{status}\n{}", self.report());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until a cluster is Available, all its nodes are ready and nothing is under way.
    pub(crate) async fn settled(&self, name: &str) -> Result<CrdbClusterStatus> {
        self.wait(name, "settled", |status| {
            conditions::is_true(&status.conditions, conditions::AVAILABLE)
                && conditions::is_true(&status.conditions, conditions::READY)
                && conditions::is_true(&status.conditions, conditions::STORAGE_READY)
                && status.operation.is_none()
                && conditions::find(&status.conditions, conditions::PROGRESSING)
                    .is_some_and(|condition| condition.reason == "Idle")
        })
        .await
    }

    /// Waits until a condition has a reason.
    pub(crate) async fn reason(
        &self,
        name: &str,
        type_: &str,
        reason: &str,
    ) -> Result<CrdbClusterStatus> {
        self.wait(name, &format!("{type_}/{reason}"), |status| {
            conditions::find(&status.conditions, type_).is_some_and(|c| c.reason == reason)
        })
        .await
    }

    /// Name and resourceVersion of every object of the namespace that belongs to clusters.
    pub(crate) async fn versions(&self) -> Result<Vec<(String, String)>> {
        let mut all = self.versions_of::<CrdbCluster>().await?;
        all.extend(self.versions_of::<StatefulSet>().await?);
        all.extend(self.versions_of::<Service>().await?);
        all.extend(self.versions_of::<ServiceAccount>().await?);
        all.extend(self.versions_of::<NetworkPolicy>().await?);
        all.extend(self.versions_of::<PodDisruptionBudget>().await?);
        all.extend(self.versions_of::<PersistentVolumeClaim>().await?);
        all.extend(self.versions_of::<Pod>().await?);
        Ok(all)
    }

    /// The same of one kind.
    pub(crate) async fn versions_of<K>(&self) -> Result<Vec<(String, String)>>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let list = self.api::<K>().list(&ListParams::default()).await?;
        let kind = K::kind(&());
        let named = list.items.iter().map(|object| {
            let version = object.resource_version().unwrap_or_default();
            (format!("{kind} {}", object.name_any()), version)
        });
        Ok(named.collect())
    }
}

/// A spec of profile Dev with the given pools, as `name:nodes`.
pub(crate) fn spec(pools: &[(&str, u32)]) -> Value {
    let pools: Vec<Value> =
        pools.iter().map(|(name, nodes)| json!({"name": name, "nodes": nodes})).collect();
    json!({"version": "v0.1.0", "profile": "Dev", "tls": {"mode": "Disabled"}, "pools": pools})
}

/// The operator's own rights are on its Lease in its namespace; here that is the test's.
async fn lease_rights(client: &Client, namespace: &str) -> Result<()> {
    let metadata = json!({"name": "lease", "namespace": namespace});
    let objects = [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata,
            "rules": [{
                "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                "verbs": ["get", "create", "update"],
            }],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "lease",
            },
            "subjects": [{
                "kind": "ServiceAccount", "name": "crdb-operator", "namespace": "crdb-operator",
            }],
        }),
    ];
    for object in objects {
        control_plane::apply(client, &serde_json::from_value(object)?).await?;
    }
    Ok(())
}

/// The operator that was built with this test.
fn operator_program() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let dir = test.parent().and_then(|deps| deps.parent()).context("a target directory")?;
    let program = dir.join("crdb-operator");
    ensure!(program.exists(), "{} is missing: run cargo build --bins first", program.display());
    Ok(program)
}

async fn http_get(port: u16, path: &str) -> Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
