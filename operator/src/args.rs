//! The command line; every option can be given by an environment variable too.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::fault::FaultPoint;

/// Runs database clusters on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "crdb-operator", version = concat!("v", env!("CARGO_PKG_VERSION")))]
pub(crate) struct Args {
    /// What is logged, such as `info` or `crdb_operator=debug,kube=warn`.
    #[arg(long, env = "CRDB_OPERATOR_LOG", default_value = "info", global = true)]
    pub(crate) log: String,
    /// Logs one JSON object a line.
    #[arg(long, env = "CRDB_OPERATOR_LOG_JSON", global = true)]
    pub(crate) log_json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the operator.
    Run(RunOptions),
    /// Makes a one-node cluster, runs SQL on it, removes it and checks that nothing is left.
    SmokeTest(SmokeTestOptions),
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct RunOptions {
    /// Namespace to work in; can be repeated. Without it, all namespaces.
    #[arg(long = "watch-namespace", env = "CRDB_OPERATOR_WATCH_NAMESPACES", value_delimiter = ',')]
    pub(crate) watch_namespaces: Vec<String>,
    /// Where health and metrics are served.
    #[arg(long, env = "CRDB_OPERATOR_HTTP_ADDR", default_value = "0.0.0.0:8080")]
    pub(crate) http_addr: SocketAddr,
    /// Namespace of this process: of its Lease, and of the pods that may reach nodes.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
    /// Name of this process in the leader election; left out, a random one.
    #[arg(long, env = "POD_NAME")]
    pub(crate) identity: Option<String>,
    /// Name of the Lease of the leader election.
    #[arg(long, env = "CRDB_OPERATOR_LEASE", default_value = "crdb-operator")]
    pub(crate) lease: String,
    /// Where a node's admin API is reached: `{pod}`, `{cluster}`, `{namespace}` and `{podIP}` are
    /// replaced. Needed only where pods are not reached at their addresses, as outside Kubernetes.
    #[arg(
        long,
        env = "CRDB_OPERATOR_NODE_ADDRESS",
        default_value_t = crate::admin::default_address_template()
    )]
    pub(crate) node_address: String,
    /// Ends the process at a point of a pass, for tests.
    #[arg(long, env = "CRDB_OPERATOR_EXIT_AT", value_enum, hide = true)]
    pub(crate) exit_at: Option<FaultPoint>,
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct SmokeTestOptions {
    /// Namespace in which the cluster is made.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
    /// Name of the cluster.
    #[arg(long, default_value = "crdb-smoke-test")]
    pub(crate) name: String,
    /// Version of the node.
    #[arg(long, env = "CRDB_NODE_VERSION")]
    pub(crate) node_version: String,
    /// Repository of the node's image.
    #[arg(long, env = "CRDB_NODE_REPOSITORY", default_value = "crdb-node")]
    pub(crate) node_repository: String,
    /// Pull policy of the node's image.
    #[arg(long, env = "CRDB_NODE_PULL_POLICY", default_value = "IfNotPresent")]
    pub(crate) node_pull_policy: String,
    /// Secret with credentials for the node's image; can be repeated.
    #[arg(long = "node-pull-secret")]
    pub(crate) node_pull_secrets: Vec<String>,
    /// Longest time for each part, in seconds.
    #[arg(long, default_value = "180", value_parser = seconds)]
    pub(crate) timeout: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .map(Duration::from_secs)
        .map_err(|_| format!("`{text}` is not a number of seconds"))
}
