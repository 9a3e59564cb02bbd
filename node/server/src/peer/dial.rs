//! Connections to peers.
//!
//! A name is resolved anew for every connection, because a restarted node may have another
//! address; every address it resolves to is tried.

use std::net::SocketAddr;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crdb_proto::peer::peer_client::PeerClient;

use crate::limits::Limits;

/// The addresses `address` stands for at this moment.
pub(crate) async fn resolve(address: &str, limits: &Limits) -> Result<Vec<SocketAddr>, String> {
    let lookup = tokio::net::lookup_host(address);
    match tokio::time::timeout(limits.connect_timeout, lookup).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(error)) => Err(format!("cannot resolve {address}: {error}")),
        Err(_) => Err(format!("cannot resolve {address}: timed out")),
    }
}

/// Connects to one address.
pub(crate) async fn dial(
    target: SocketAddr,
    limits: &Limits,
) -> Result<PeerClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{target}"))
        .map_err(|error| format!("{target}: {error}"))?
        .connect_timeout(limits.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(limits.keepalive)
        .keep_alive_timeout(limits.keepalive)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(limits.window_bytes)
        .initial_connection_window_size(limits.window_bytes);
    let connect = tokio::time::timeout(limits.connect_timeout, endpoint.connect()).await;
    let channel = connect
        .map_err(|_| format!("{target}: connection timed out"))?
        .map_err(|error| format!("{target}: {}", root_cause(&error)))?;
    Ok(PeerClient::new(channel)
        .max_decoding_message_size(limits.message_bytes_max)
        .max_encoding_message_size(limits.message_bytes_max))
}

/// Connects to the first address of `address` that answers.
pub async fn dial_any(address: &str, limits: &Limits) -> Result<PeerClient<Channel>, String> {
    let mut problem = format!("{address} resolves to no address");
    for target in resolve(address, limits).await? {
        match dial(target, limits).await {
            Ok(client) => return Ok(client),
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

/// Makes one call on a connection of its own.
pub async fn one_shot<T, F>(
    address: &str,
    limits: &Limits,
    call: impl FnOnce(PeerClient<Channel>) -> F + Send,
) -> Result<T, Status>
where
    F: Future<Output = Result<tonic::Response<T>, Status>> + Send,
{
    let client = dial_any(address, limits).await.map_err(Status::unavailable)?;
    match tokio::time::timeout(limits.call_timeout, call(client)).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::new(Code::DeadlineExceeded, format!("{address} did not answer"))),
    }
}

/// Makes the same call on each address that `address` stands for, all at once, on connections of
/// their own; each has `patience` to connect and to answer.
pub async fn one_shot_each<T, F>(
    address: &str,
    limits: &Limits,
    patience: Duration,
    call: impl Fn(PeerClient<Channel>) -> F,
) -> Result<Vec<Result<T, Status>>, Status>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let call = &call;
    let targets = resolve(address, limits).await.map_err(Status::unavailable)?;
    let calls = targets.into_iter().map(|target| async move {
        let answer = async move {
            let client = dial(target, limits).await.map_err(Status::unavailable)?;
            call(client).await.map(tonic::Response::into_inner)
        };
        let answer = tokio::time::timeout(patience, answer).await;
        answer.unwrap_or_else(|_| Err(no_answer(target)))
    });
    Ok(futures::future::join_all(calls).await)
}

/// Makes a call on the addresses that `address` stands for, one after another until one succeeds.
/// Fails with the last refusal, else with the reason why none could be reached.
pub async fn one_shot_any<T, F>(
    address: &str,
    limits: &Limits,
    call: impl Fn(PeerClient<Channel>) -> F,
) -> Result<T, Status>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let mut problem = Status::unavailable(format!("{address} resolves to no address"));
    for target in resolve(address, limits).await.map_err(Status::unavailable)? {
        let answer = match dial(target, limits).await {
            Ok(client) => tokio::time::timeout(limits.call_timeout, call(client)).await,
            // Who refuses says more than who is away.
            Err(error) if problem.code() == Code::Unavailable => {
                problem = Status::unavailable(error);
                continue;
            }
            Err(_) => continue,
        };
        match answer {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => problem = status,
            Err(_) => problem = no_answer(target),
        }
    }
    Err(problem)
}

fn no_answer(target: SocketAddr) -> Status {
    Status::new(Code::DeadlineExceeded, format!("{target} did not answer"))
}

/// The innermost reason of an error, which the outer ones only wrap.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
