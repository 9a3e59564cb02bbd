//! `kubectl crdb sql`: the SQL shell over a forwarded port.
//!
//! The API server carries the connections to a ready pod behind the cluster's SQL Service; no
//! command runs in any pod. The local port is chosen by the system and listens on loopback alone.
//!
//! All connections of a shell go to the same pod as long as it takes them: the key that cancels a
//! statement is of use only there.

use std::process::ExitCode;
use std::sync::Arc;

use crdb_api::names;
use crdb_shell::{ShellArgs, ShellExit, Target};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::cli::{Common, SqlArgs};
use crate::cluster;
use crate::failure::{Failure, told};

/// Where connections are forwarded to.
struct Backend {
    pods: Api<Pod>,
    /// Ready pods, in the order in which they are tried.
    names: Vec<String>,
    port: u16,
}

/// Runs `sql`.
pub(crate) async fn run(common: &Common, args: &SqlArgs) -> Result<ExitCode, Failure> {
    let found = cluster::find(common, None).await?;
    let name = found.cluster.name_any();
    let services: Api<Service> = Api::namespaced(found.client.clone(), &found.namespace);
    let service_name = names::sql_service(&name);
    let service = services
        .get_opt(&service_name)
        .await
        .map_err(|error| Failure::request(&format!("read Service {service_name}"), &error))?
        .ok_or_else(|| {
            Failure::new(format!("cluster {name} has no Service {service_name} yet"))
                .hint(format!("kubectl crdb status -n {} {name}", found.namespace))
        })?;
    let pods: Api<Pod> = Api::namespaced(found.client.clone(), &found.namespace);
    let list = pods
        .list(&ListParams::default().labels(&selector(&service)))
        .await
        .map_err(|error| Failure::request("list the pods of the cluster", &error))?;
    let mut ready: Vec<&Pod> = list.items.iter().filter(|pod| is_ready(pod)).collect();
    ready.sort_by_key(|pod| pod.name_any());
    let Some(first) = ready.first() else {
        let text = format!("none of the {} pods of cluster {name} is ready", list.items.len());
        return Err(
            Failure::new(text).hint(format!("kubectl crdb status -n {} {name}", found.namespace))
        );
    };
    let port = pod_port(&service, first);
    let names = ready.iter().map(|pod| pod.name_any()).collect();
    shell(Backend { pods, names, port }, &name, args).await
}

async fn shell(backend: Backend, cluster: &str, args: &SqlArgs) -> Result<ExitCode, Failure> {
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .map_err(|error| Failure::new(format!("cannot listen on loopback: {error}")))?;
    let address = listener
        .local_addr()
        .map_err(|error| Failure::new(format!("cannot listen on loopback: {error}")))?;
    let target = Target {
        host: address.ip().to_string(),
        port: address.port(),
        user: args.user.clone(),
        database: args.database.clone(),
        application_name: "$ kubectl crdb sql".to_owned(),
        options: None,
    };
    let mut shell = args.shell.clone();
    name_cluster_in_prompt(&mut shell, cluster);
    // Ends with the shell: dropping the losing future ends the tasks it owns.
    tokio::select! {
        exit = crdb_shell::run(&shell, target) => Ok(exit_code(exit)),
        error = forward(listener, Arc::new(backend)) => Err(error),
    }
}

/// The shell's own code for an interrupt means a refusal in this program.
fn exit_code(exit: ShellExit) -> ExitCode {
    match exit {
        ShellExit::Success => ExitCode::SUCCESS,
        ShellExit::Failure | ShellExit::Interrupted => ExitCode::FAILURE,
    }
}

/// The forwarded address says nothing to the user; the name of the cluster does.
fn name_cluster_in_prompt(shell: &mut ShellArgs, cluster: &str) {
    shell.set.insert(0, format!("prompt1='%n@{}/%/%x> '", cluster.replace('%', "%%")));
}

/// Accepts connections and carries each to a pod, until the listener breaks.
async fn forward(listener: TcpListener, backend: Arc<Backend>) -> Failure {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let backend = Arc::clone(&backend);
                    connections.spawn(async move { carry(stream, &backend).await });
                }
                Err(error) => return Failure::new(format!("cannot accept connections: {error}")),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection to the first pod that takes it.
async fn carry(mut local: TcpStream, backend: &Backend) {
    for pod in &backend.names {
        let mut forwarder = match backend.pods.portforward(pod, &[backend.port]).await {
            Ok(forwarder) => forwarder,
            Err(error) => {
                warn(pod, &told(&error));
                continue;
            }
        };
        let Some(mut remote) = forwarder.take_stream(backend.port) else { continue };
        let failed = forwarder.take_error(backend.port);
        // Either side ending ends the connection; the shell tells its user what that means.
        drop(tokio::io::copy_bidirectional(&mut local, &mut remote).await);
        drop(remote);
        if let Some(message) = failed.and_then(|failed| failed.now_or_never()).flatten() {
            warn(pod, &message);
        }
        forwarder.abort();
        return;
    }
}

fn warn(pod: &str, cause: &str) {
    use std::io::Write as _;
    let text = format!("warning: cannot forward to pod {pod}: {}\n", cause.trim());
    // Without a stderr there is nobody to tell.
    drop(std::io::stderr().write_all(text.as_bytes()));
}

fn selector(service: &Service) -> String {
    let labels = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let pairs = labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The port of the pod that the Service sends SQL to.
fn pod_port(service: &Service, pod: &Pod) -> u16 {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let first = ports.and_then(|ports| ports.first());
    let number = match first.and_then(|port| port.target_port.clone()) {
        Some(IntOrString::Int(number)) => Some(number),
        Some(IntOrString::String(name)) => pod
            .spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .flat_map(|container| container.ports.iter().flatten())
            .find(|port| port.name.as_deref() == Some(name.as_str()))
            .map(|port| port.container_port),
        // Without a target port, that of the Service is meant.
        None => first.map(|port| port.port),
    };
    number.and_then(|number| u16::try_from(number).ok()).unwrap_or(names::SQL_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(yaml: &str) -> Pod {
        serde_yaml::from_str(yaml).unwrap()
    }

    fn service(target: &str) -> Service {
        let yaml =
            format!("spec: {{selector: {{b: '2', a: '1'}}, ports: [{{port: 5432{target}}}]}}");
        serde_yaml::from_str(&yaml).unwrap()
    }

    const PORTS: &str = "spec: {containers: [{name: db, ports: [{name: http, containerPort: 80}, {name: sql, containerPort: 26000}]}]}";

    #[test]
    fn the_port_is_that_of_the_pod() {
        let pod = pod(PORTS);
        assert_eq!(pod_port(&service(", targetPort: sql"), &pod), 26000);
        assert_eq!(pod_port(&service(", targetPort: 7"), &pod), 7);
        assert_eq!(pod_port(&service(""), &pod), 5432);
        assert_eq!(pod_port(&service(", targetPort: nope"), &pod), names::SQL_PORT);
        assert_eq!(pod_port(&Service::default(), &pod), names::SQL_PORT);
    }

    #[test]
    fn pods_are_found_by_the_selector_of_the_service() {
        assert_eq!(selector(&service("")), "a=1,b=2");
    }

    #[test]
    fn only_ready_pods_that_stay_are_used() {
        let ready = "status: {conditions: [{type: Ready, status: 'True'}]}";
        assert!(is_ready(&pod(ready)));
        assert!(!is_ready(&pod("status: {conditions: [{type: Ready, status: 'False'}]}")));
        assert!(!is_ready(&Pod::default()));
        let leaving = format!("metadata: {{deletionTimestamp: '2026-01-01T00:00:00Z'}}\n{ready}");
        assert!(!is_ready(&pod(&leaving)));
    }

    #[test]
    fn the_user_may_choose_another_prompt() {
        let mut shell = ShellArgs { set: vec!["prompt1=> ".to_owned()], ..ShellArgs::default() };
        name_cluster_in_prompt(&mut shell, "prod");
        assert_eq!(shell.set, ["prompt1='%n@prod/%/%x> '", "prompt1=> "]);
    }
}
