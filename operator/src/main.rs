//! The operator: brings clusters about as CrdbCluster objects declare them.
//!
//! `run` is the operator itself: health and metrics on every process, passes on the leader only.
//! `smoke-test` proves on a live cluster that the operator works; the Helm test runs it.

mod admin;
mod args;
mod cluster;
mod fault;
mod http;
mod leader;
mod quantity;
mod run;
mod smoke_test;
mod telemetry;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::from(error)),
    };
    let result = telemetry::start_logs(&args.log, args.log_json).and_then(|()| {
        runtime.block_on(async {
            match args.command {
                Command::Run(options) => run::run(options).await,
                Command::SmokeTest(options) => smoke_test::run(options).await,
            }
        })
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    tracing::error!("{error:#}");
    ExitCode::FAILURE
}
