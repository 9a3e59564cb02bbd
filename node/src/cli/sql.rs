//! `crdb sql`: the SQL shell against a node.

use std::process::ExitCode;

use clap::Args;
use crdb_shell::{ConnectionArgs, ShellArgs, ShellExit};

use super::{Failure, client};

/// Flags of `sql`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SqlArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    shell: ShellArgs,
}

/// Runs `crdb sql`.
pub(crate) fn run(args: &SqlArgs) -> Result<ExitCode, Failure> {
    let target = client::target(&args.connection)?;
    let exit = client::block_on(Box::pin(crdb_shell::run(&args.shell, target)))?;
    if exit == ShellExit::Failure {
        // The shell has printed the error itself.
        super::print_error("Failed running \"sql\"\n");
    }
    Ok(ExitCode::from(exit.code()))
}
