//! `cargo xtask up` and `down`: from nothing to a three-zone database on a local Kubernetes that
//! psql reaches at 127.0.0.1.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use crdb_kind::progress::now;
use crdb_kind::{Cluster, ClusterConfig, Cmd, Host, HostPort};

use crate::images::{self, Images};
use crate::workspace::{Profile, Workspace};

/// The cluster that stays until `down`.
const CLUSTER: &str = "crdb";
/// 26257 on this machine belongs to nodes that are started by hand.
const SQL_PORT: HostPort = HostPort { container_port: 30257, host_port: 36257 };
/// The namespace of the operator.
const OPERATOR_NAMESPACE: &str = "crdb-operator";
/// The database, as in the sample.
const SAMPLE: &str = "deploy/samples/cluster.yaml";
const NAMESPACE: &str = "default";
/// From the request for a database to its availability, images being on the nodes.
const AVAILABLE_S: u64 = 300;

/// Brings everything up; what is there already is brought up to date.
pub(crate) fn up(workspace: &Workspace, workers_per_zone: u8) -> Result<()> {
    let progress = workspace.progress();
    let host = Host::find(workspace.cache(), progress)?;
    // Compiling for Kubernetes and compiling ours side by side: neither keeps both processors busy.
    let images = std::thread::scope(|scope| -> Result<Images> {
        let parts = scope.spawn(|| host.prepare());
        let images = images::build(workspace, Profile::Release);
        match parts.join() {
            Ok(made) => made?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        images
    })?;
    let cluster = cluster_on(&host, workers_per_zone)?;
    cluster.load_images(&images.all())?;
    progress.step("install the operator", || install(workspace, &cluster, &images))?;
    let sample = Sample::read(workspace)?;
    progress.step("make the database", || sample.apply(workspace, &cluster))?;
    for condition in ["Available", "FullyReplicated"] {
        let what = format!("wait until the database is {condition}");
        progress.step(&what, || sample.wait(&cluster, condition))?;
    }
    progress.step("open the port", || {
        cluster.kubectl().words("apply --filename=-").stdin(sample.port_service()).run()
    })?;
    show(workspace, &cluster, &host, &sample)
}

/// Brings only the Kubernetes cluster up.
pub(crate) fn kubernetes(workspace: &Workspace, workers_per_zone: u8) -> Result<()> {
    let host = Host::find(workspace.cache(), workspace.progress())?;
    let cluster = cluster_on(&host, workers_per_zone)?;
    how_to_use(workspace, &cluster, &host);
    Ok(())
}

fn cluster_on(host: &Host, workers_per_zone: u8) -> Result<Cluster> {
    let mut config = ClusterConfig::three_zones(CLUSTER);
    config.workers_per_zone = workers_per_zone;
    config.host_ports.push(SQL_PORT);
    host.up(&config)
}

/// Removes the cluster and, with the last one, the docker daemon that we started.
pub(crate) fn down(workspace: &Workspace) -> Result<()> {
    match Host::find_running(workspace.cache(), workspace.progress())? {
        Some(host) => host.down(CLUSTER),
        None => {
            workspace.progress().note("no docker daemon runs, so there is nothing to remove");
            Ok(())
        }
    }
}

/// Installs both charts, or upgrades them to what is in this checkout.
fn install(workspace: &Workspace, cluster: &Cluster, images: &Images) -> Result<()> {
    let chart = |name: &str| {
        let helm = cluster.helm().args_of(&["upgrade", "--install", name]);
        let helm = helm.path(&workspace.root().join("charts").join(name));
        helm.args_of(&["--namespace", OPERATOR_NAMESPACE, "--create-namespace"])
            .words("--wait --timeout 180s")
            .seconds(240)
    };
    chart("crdb-operator-crds").run()?;
    let (repository, tag) =
        images.operator.split_once(':').context("the operator's image has a tag")?;
    chart("crdb-operator")
        .arg("--set")
        .arg(format_args!("image.repository={repository}"))
        .arg("--set-string")
        .arg(format_args!("image.tag={tag}"))
        .words("--set image.pullPolicy=IfNotPresent")
        .run()?;
    // A new image under the same tag changes no pod by itself.
    let rollout = |what: &str| {
        cluster
            .kubectl()
            .arg(format_args!("--namespace={OPERATOR_NAMESPACE}"))
            .words(&format!("rollout {what} deployment"))
            .words("--selector=app.kubernetes.io/name=crdb-operator")
    };
    rollout("restart").run()?;
    rollout("status").words("--timeout=120s").seconds(130).run()
}

/// The sample database.
struct Sample {
    name: String,
}

impl Sample {
    fn read(workspace: &Workspace) -> Result<Sample> {
        let path = workspace.root().join(SAMPLE);
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {SAMPLE}"))?;
        let manifest: serde_yaml::Value =
            serde_yaml::from_str(&text).with_context(|| format!("parse {SAMPLE}"))?;
        let name = manifest.get("metadata").and_then(|metadata| metadata.get("name"));
        let name = name.and_then(|name| name.as_str());
        let name = name.with_context(|| format!("{SAMPLE} has no metadata.name"))?.to_owned();
        Ok(Sample { name })
    }

    /// Applies the sample with the node image that was loaded.
    fn apply(&self, workspace: &Workspace, cluster: &Cluster) -> Result<()> {
        let path = workspace.root().join(SAMPLE);
        let apply = cluster.kubectl().arg(format_args!("--namespace={NAMESPACE}"));
        apply.args_of(&["apply", "--filename"]).path(&path).run()
    }

    fn wait(&self, cluster: &Cluster, condition: &str) -> Result<()> {
        let wait = cluster
            .kubectl()
            .arg(format_args!("--namespace={NAMESPACE}"))
            .words("wait")
            .arg(format_args!("--for=condition={condition}"))
            .arg(format_args!("crdbcluster/{}", self.name))
            .arg(format_args!("--timeout={AVAILABLE_S}s"))
            .seconds(AVAILABLE_S + 10);
        let Err(error) = wait.run() else { return Ok(()) };
        // What a person would ask for next.
        let kubectl = || cluster.kubectl().arg(format_args!("--namespace={NAMESPACE}"));
        let mut report = String::new();
        for question in ["describe crdbclusters", "get pods --output=wide", "get events"] {
            report.push_str(&format!("\n$ kubectl {question}\n"));
            report.push_str(&kubectl().words(question).output().unwrap_or_else(|e| e.to_string()));
        }
        Err(error.context(format!("the database {} is not {condition}{report}", self.name)))
    }

    /// Leads the open port to the nodes. Only `up` makes it: a real cluster has a load balancer.
    fn port_service(&self) -> String {
        format!(
            "apiVersion: v1\n\
             kind: Service\n\
             metadata:\n  \
               name: {name}-local-port\n  \
               namespace: {NAMESPACE}\n\
             spec:\n  \
               type: NodePort\n  \
               selector:\n    \
                 app.kubernetes.io/name: crdb\n    \
                 app.kubernetes.io/component: node\n    \
                 crdb.dev/cluster: {name}\n  \
               ports:\n    \
                 - name: sql\n      \
                   port: 26257\n      \
                   targetPort: 26257\n      \
                   nodePort: {port}\n",
            name = self.name,
            port = SQL_PORT.container_port
        )
    }
}

/// Prints the status, the nodes by zone, and how to connect.
fn show(workspace: &Workspace, cluster: &Cluster, host: &Host, sample: &Sample) -> Result<()> {
    let progress = workspace.progress();
    let plugin = Cmd::new(workspace.programs(Profile::Release).join("kubectl-crdb"))
        .env("KUBECONFIG", cluster.kubeconfig().display())
        .args_of(&["--namespace", NAMESPACE]);
    progress.note(plugin.clone().args_of(&["status", &sample.name]).output()?);
    let live = live_nodes_by_zone(cluster, sample)?;
    progress.note("ZONE         LIVE NODES");
    for (zone, nodes) in &live {
        progress.note(format_args!("{zone:<12} {}", nodes.join(", ")));
    }
    ensure!(!live.is_empty(), "the database {} lists no live node", sample.name);
    progress.step("ask for SQL on the open port", || port_answers(SQL_PORT.host_port))?;
    how_to_use(workspace, cluster, host);
    progress.note(format_args!("psql -h 127.0.0.1 -p {} -U root defaultdb", SQL_PORT.host_port));
    Ok(())
}

/// Prints what a shell needs to reach the cluster and its nodes.
fn how_to_use(workspace: &Workspace, cluster: &Cluster, host: &Host) {
    let progress = workspace.progress();
    progress.note(format_args!("export KUBECONFIG={}", cluster.kubeconfig().display()));
    for (name, value) in host.docker().env() {
        progress.note(format_args!("export {name}={value}"));
    }
}

/// The rows of the status that the operator wrote.
fn live_nodes_by_zone(cluster: &Cluster, sample: &Sample) -> Result<BTreeMap<String, Vec<String>>> {
    let get = cluster.kubectl().arg(format_args!("--namespace={NAMESPACE}"));
    let get = get.arg("get").arg(format_args!("crdbcluster/{}", sample.name)).arg("--output=json");
    let object: serde_json::Value = serde_json::from_str(&get.output()?)?;
    let nodes = object.pointer("/status/nodeRows").and_then(|nodes| nodes.as_array());
    let mut zones = BTreeMap::<String, Vec<String>>::new();
    for node in nodes.into_iter().flatten() {
        let text = |field: &str| node.get(field).and_then(|value| value.as_str());
        if text("liveness") == Some("Live") {
            let zone = text("zone").unwrap_or("-").to_owned();
            zones.entry(zone).or_default().push(text("name").unwrap_or("-").to_owned());
        }
    }
    Ok(zones)
}

/// Waits until a connection to the port is accepted and stays: kube-proxy needs a moment.
fn port_answers(port: u16) -> Result<()> {
    let end = now() + Duration::from_secs(30);
    loop {
        let attempt = ask_for_sql(port);
        if attempt.is_ok() || now() > end {
            return attempt.with_context(|| format!("no answer on 127.0.0.1:{port}"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Sends PostgreSQL's request for encryption, which every server answers with one byte.
fn ask_for_sql(port: u16) -> Result<()> {
    use std::io::{Read as _, Write as _};
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    ensure!(matches!(&answer, b"N" | b"S"), "it is not a PostgreSQL server");
    Ok(())
}
