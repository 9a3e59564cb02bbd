//! `crdb init`: makes a cluster out of nodes that wait for it.

use std::process::ExitCode;

use clap::Args;
use crdb_proto::admin::InitRequest;
use crdb_shell::ConnectionArgs;

use super::{Failure, client};

/// Flags of `init`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// UUID the cluster gets; with it, repeating the command is no error [default: a random one]
    #[arg(long, value_name = "UUID")]
    cluster_id: Option<uuid::Uuid>,
}

/// Runs `crdb init`.
pub(crate) fn run(args: &InitArgs) -> Result<ExitCode, Failure> {
    client::block_on(init(args))?
}

async fn init(args: &InitArgs) -> Result<ExitCode, Failure> {
    let mut admin = client::Admin::connect_patiently(&args.connection).await?;
    let cluster_id = args.cluster_id.map(|id| id.to_string()).unwrap_or_default();
    // Sent once: an attempt whose answer is lost may have made the cluster.
    match admin.client.init(InitRequest { cluster_id }).await {
        Ok(_) => super::print("Cluster successfully initialized\n"),
        Err(status) => Err(admin.failure(&status)),
    }
}
