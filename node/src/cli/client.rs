//! What the commands share that talk to a running node: the address, the call, its errors.

use std::error::Error as _;
use std::process::ExitCode;
use std::time::Duration;

use crdb_proto::admin::admin_client::AdminClient;
use crdb_proto::admin::{ClusterStatusRequest, ClusterStatusResponse};
use crdb_shell::render::Format;
use crdb_shell::{ConnectionArgs, Target, TargetError, process_environment};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::Failure;

/// How long a node that is not initialized yet is asked again.
const NOT_INITIALIZED_PATIENCE: Duration = Duration::from_secs(30);

/// How long a node that does not listen yet is waited for by a command that follows its start.
const NOT_LISTENING_PATIENCE: Duration = Duration::from_secs(10);

/// Pause between two such attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Longest time that connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time that one call may take when no flag says otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs a client command to its end on a runtime of its own.
pub(crate) fn block_on<T>(command: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(command);
    // A blocked read of the terminal must not hold up the exit.
    runtime.shutdown_background();
    Ok(outcome)
}

/// The server that the flags and the environment name.
pub(crate) fn target(args: &ConnectionArgs) -> Result<Target, Failure> {
    args.resolve(&process_environment).map_err(|error| match error {
        TargetError::SecureModeMissing => Failure::new(error.to_string()),
        TargetError::Address { .. } if args.host.is_some() => {
            Failure::bad_flag(format!("invalid value for --host: {error}"))
        }
        TargetError::Address { .. } | TargetError::Url(_) | TargetError::Environment { .. } => {
            Failure::bad_flag(error.to_string())
        }
    })
}

/// The admin service of one node.
pub(crate) struct Admin {
    /// Client of the service.
    pub(crate) client: AdminClient<Channel>,
    /// Address of the node, for messages.
    pub(crate) address: String,
}

impl Admin {
    /// Connects to the node that the flags name, and for a while waits for one that does not listen
    /// yet: `init` is typed right behind `start`.
    pub(crate) async fn connect_patiently(args: &ConnectionArgs) -> Result<Self, Failure> {
        let mut left = NOT_LISTENING_PATIENCE;
        loop {
            match Self::connect(args).await {
                Err(failure) if left.is_zero() => return Err(failure),
                // A flag that is wrong stays wrong.
                Err(failure) if failure.is_bad_flag() => return Err(failure),
                Err(_) => {}
                connected => return connected,
            }
            if left == NOT_LISTENING_PATIENCE {
                super::print_error("warning: the node does not listen yet, waiting for it\n");
            }
            tokio::time::sleep(RETRY_PAUSE).await;
            left = left.saturating_sub(RETRY_PAUSE);
        }
    }

    /// Connects to the node that the flags name.
    pub(crate) async fn connect(args: &ConnectionArgs) -> Result<Self, Failure> {
        let target = target(args)?;
        let address = target.address();
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Failure::new(format!("invalid address {address:?}: {error}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT);
        let channel = endpoint.connect().await.map_err(|error| {
            let text = format!("cannot connect to {address}: {}", innermost(&error));
            Failure::new(text).hint(
                "is a node running there? --host names its RPC address, localhost:26257 by default.",
            )
        })?;
        Ok(Self { client: AdminClient::new(channel), address })
    }

    /// Asks for the status of the cluster; waits for a node that is not initialized yet.
    pub(crate) async fn cluster_status(&mut self) -> Result<ClusterStatusResponse, Failure> {
        let mut left = NOT_INITIALIZED_PATIENCE;
        loop {
            let answer = self.client.cluster_status(ClusterStatusRequest {}).await;
            let status = answer.map_err(|status| self.failure(&status))?.into_inner();
            if status.initialized {
                return Ok(status);
            }
            if left.is_zero() {
                let text = format!("the node at {} is not initialized", self.address);
                return Err(Failure::new(text).hint(
                    "start the other nodes it joins, or run 'crdb init' against one of them.",
                ));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
            left = left.saturating_sub(RETRY_PAUSE);
        }
    }

    /// A failed call as the user is told.
    pub(crate) fn failure(&self, status: &Status) -> Failure {
        match status.code() {
            Code::Unimplemented => Failure::new(format!(
                "the node at {} does not serve this call: {}",
                self.address,
                status.message()
            ))
            .hint("is it of another version, or is this the address of something else?"),
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => {
                let cause = status.source().map(innermost);
                let cause = cause.unwrap_or_else(|| status.message().to_owned());
                Failure::new(format!("the node at {} did not answer: {cause}", self.address))
            }
            _ => Failure::new(status.message()),
        }
    }
}

/// The first cause of an error; the layers above it only say that something failed.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}

/// The format asked for, or the one that fits where the output goes.
pub(crate) fn format_or_default(format: Option<Format>) -> Format {
    use std::io::IsTerminal as _;
    let terminal = std::io::stdout().is_terminal();
    format.unwrap_or(if terminal { Format::Table } else { Format::Tsv })
}

/// Runs a command under a time limit.
pub(crate) async fn limited(
    limit: Option<Duration>,
    command: impl Future<Output = Result<ExitCode, Failure>>,
) -> Result<ExitCode, Failure> {
    let Some(limit) = limit else { return command.await };
    tokio::time::timeout(limit, command)
        .await
        .unwrap_or_else(|_| Err(Failure::new(format!("no answer within --timeout of {limit:?}"))))
}
