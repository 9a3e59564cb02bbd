//! A Kubernetes control plane of plain processes, one for all tests of this program.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use crdb_kind::{Cmd, ControlPlane};
use crdb_workload::ports::reserve_port;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config};
use serde::Deserialize as _;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::process::Process;

/// The account that the chart gives to the operator.
const OPERATOR_ACCOUNT: &str = "system:serviceaccount:crdb-operator:crdb-operator";

/// The running control plane.
pub(crate) struct Running {
    dir: tempfile::TempDir,
    port: u16,
    _processes: Vec<Process>,
}

static RUNNING: OnceCell<Running> = OnceCell::const_new();

/// The control plane with the definitions and the operator's rights installed; started by the
/// first test that asks.
pub(crate) async fn running() -> Result<&'static Running> {
    RUNNING.get_or_try_init(start).await
}

impl Running {
    /// A client with all rights.
    pub(crate) async fn admin(&self) -> Result<Client> {
        client(&self.kubeconfig("admin")).await
    }

    /// The access of an account: `admin` or `operator`.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.path().join(format!("{user}.kubeconfig"))
    }

    /// A place for logs.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    fn write_kubeconfig(&self, user: &str) -> Result<()> {
        let text = format!(
            "apiVersion: v1\n\
             kind: Config\n\
             current-context: c\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{}', \
             insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: u, user: {{token: {user}}}}}]\n",
            self.port
        );
        Ok(std::fs::write(self.kubeconfig(user), text)?)
    }
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn start() -> Result<Running> {
    let programs = ControlPlane::from_env()?;
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (etcd, peer, port) = (reserve_port()?, reserve_port()?, reserve_port()?);
    let log = |name: &str| dir.path().join(name);
    Cmd::new("openssl")
        .words("genrsa -out")
        .path(Path::new(&path("sa.key")))
        .words("2048")
        .run()?;
    let tokens = format!(
        "admin,admin,1,\"system:masters\"\n\
         operator,{OPERATOR_ACCOUNT},2,\"system:serviceaccounts,system:serviceaccounts:crdb-operator,system:authenticated\"\n"
    );
    std::fs::write(path("tokens.csv"), tokens)?;
    let etcd_args = [
        format!("--data-dir={}", path("etcd")),
        "--unsafe-no-fsync".to_owned(),
        format!("--listen-client-urls=http://127.0.0.1:{etcd}"),
        format!("--advertise-client-urls=http://127.0.0.1:{etcd}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
    ];
    let mut processes = vec![Process::start(&programs.etcd, &etcd_args, &[], &log("etcd.log"))?];
    let apiserver_args = [
        format!("--etcd-servers=http://127.0.0.1:{etcd}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        format!("--cert-dir={}", path("certs")),
        format!("--token-auth-file={}", path("tokens.csv")),
        format!("--service-account-key-file={}", path("sa.key")),
        format!("--service-account-signing-key-file={}", path("sa.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
    ];
    let apiserver = &programs.kube_apiserver;
    processes.push(Process::start(apiserver, &apiserver_args, &[], &log("apiserver.log"))?);
    let mut running = Running { dir, port, _processes: processes };
    running.write_kubeconfig("admin")?;
    running.write_kubeconfig("operator")?;
    let client = running.admin().await?;
    let deadline = Instant::now() + Duration::from_secs(120);
    while client.apiserver_version().await.is_err() {
        if Instant::now() > deadline {
            let log = std::fs::read_to_string(running.log("apiserver"))?;
            bail!("the API server does not answer:\n{}", crdb_kind::command::tail(&log));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let manager_args = [
        format!("--kubeconfig={}", running.kubeconfig("admin").display()),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
        "--controllers=statefulset-controller,garbage-collector-controller,disruption-controller"
            .to_owned(),
    ];
    let manager = &programs.kube_controller_manager;
    let log = running.log("controller-manager");
    running._processes.push(Process::start(manager, &manager_args, &[], &log)?);
    install(&client).await?;
    Ok(running)
}

/// Applies the manifest that users apply: definitions, rights and admission policies.
async fn install(client: &Client) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/install.yaml");
    let text = std::fs::read_to_string(&path).context("read deploy/install.yaml")?;
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value = serde_json::Value::deserialize(document)?;
        if value.is_null() {
            continue;
        }
        let object: DynamicObject = serde_json::from_value(value)?;
        apply(client, &object).await?;
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let served = client.list_api_group_resources("crdb.dev/v1alpha1").await;
        if served.is_ok_and(|list| list.resources.iter().any(|r| r.kind == "CrdbCluster")) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the definitions are not served: CEL cost or types were refused");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Server-side apply of any object.
pub(crate) async fn apply(client: &Client, object: &DynamicObject) -> Result<()> {
    let types = object.types.clone().context("an object has a kind")?;
    let gvk = GroupVersionKind::try_from(&types)?;
    let (resource, capabilities) = kube::discovery::pinned_kind(client, &gvk).await?;
    let name = object.metadata.name.clone().context("an object has a name")?;
    let namespaced = capabilities.scope == kube::discovery::Scope::Namespaced;
    let api: Api<DynamicObject> = match (&object.metadata.namespace, namespaced) {
        (Some(namespace), true) => Api::namespaced_with(client.clone(), namespace, &resource),
        _ => Api::all_with(client.clone(), &resource),
    };
    let params = PatchParams::apply("e2e").force();
    api.patch(&name, &params, &Patch::Apply(object))
        .await
        .with_context(|| format!("apply {} {name}", types.kind))?;
    Ok(())
}
