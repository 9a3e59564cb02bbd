//! `kubectl crdb`: looks at database clusters and opens SQL shells on them.
//!
//! It reads custom resources and forwards ports with the rights of whoever calls it; it runs no
//! command in any pod and changes nothing.
//!
//! Flow: flags ([`cli`]) → one cluster ([`cluster`]) → text ([`status`], [`nodes`]) or a shell
//! over a forwarded port ([`sql`]). Rendering is pure.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage; 3 and 4 are kept for refusals and time limits of
//! commands that change something.

mod cli;
mod cluster;
mod completion;
mod failure;
mod nodes;
mod output;
mod sql;
mod status;
mod style;
mod version;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::new(format!("cannot start the runtime: {error}")).report(),
    };
    let outcome = runtime.block_on(run(arguments));
    // A blocked read of the terminal must not hold up the exit.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|failure| failure.report())
}

async fn run(arguments: Vec<String>) -> Result<ExitCode, Failure> {
    if completion::is_helper(&arguments) {
        return print(&completion::candidates(&arguments).await);
    }
    let cli = match Cli::try_parse_from(cli::without_separator(arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            let help = !error.use_stderr();
            error.print().map_err(|error| Failure::new(error.to_string()))?;
            return Ok(if help { ExitCode::SUCCESS } else { ExitCode::from(failure::USAGE) });
        }
    };
    match &cli.command {
        Command::Status(args) => Box::pin(status::run(&cli.common, args)).await,
        Command::Nodes(args) => Box::pin(nodes::run(&cli.common, args)).await,
        Command::Sql(args) => Box::pin(sql::run(&cli.common, args)).await,
        Command::Version(args) => print(&version::text(&cli.common, args).await?),
        Command::Completion { shell } => print(&completion::script(*shell)),
    }
}

/// Prints text on standard output; a reader that left is no failure.
fn print(text: &str) -> Result<ExitCode, Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot print: {error}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
