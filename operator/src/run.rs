//! Wires the operator's parts together and ends them in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::future::join_all;
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin::NodeAdmin;
use crate::args::RunOptions;
use crate::cluster::{self, OperatorIdentity, Table};
use crate::fault::FaultPoints;
use crate::http::{self, Pages};
use crate::leader::Election;
use crate::telemetry::Metrics;

/// Time between two looks for the custom resource definitions.
const CRD_POLL: Duration = Duration::from_secs(2);

/// How long one such look may take.
const CRD_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until a signal comes or an essential part ends.
pub(crate) async fn run(options: RunOptions) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let client = Client::try_default().await.context("no access to the Kubernetes API")?;
    let metrics = Metrics::new();
    let ready = Arc::new(AtomicBool::new(false));
    let pages = Pages { ready: ready.clone(), metrics: metrics.clone() };
    let served = async {
        let result = http::serve(options.http_addr, pages, stop.clone()).await;
        // Without health the kubelet would end the process soon: end it in order.
        stop.cancel();
        result
    };
    let lead = async {
        let result = lead(&options, client, metrics, ready, stop.clone()).await;
        stop.cancel();
        result
    };
    let signals = async {
        let result = wait_for_signal(&stop).await;
        stop.cancel();
        result
    };
    let (served, led, signalled) = tokio::join!(served, lead, signals);
    served.and(led).and(signalled)
}

async fn wait_for_signal(stop: &CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: finishing the passes under way"),
        _ = interrupt.recv() => tracing::info!("SIGINT: finishing the passes under way"),
        () = stop.cancelled() => {}
    }
    Ok(())
}

/// Waits for the definitions and for the Lease, then works until `stop`.
async fn lead(
    options: &RunOptions,
    client: Client,
    metrics: Metrics,
    ready: Arc<AtomicBool>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    if !wait_for_definitions(&client, &stop).await {
        return Ok(());
    }
    ready.store(true, Ordering::Relaxed);
    let me = options.identity.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let lease = &options.lease;
    let mut election = Election::new(client.clone(), &options.namespace, lease, me.clone());
    tracing::info!(lease, identity = me, "waiting to lead");
    if !election.acquire(&stop).await {
        return Ok(());
    }
    tracing::info!("leading");
    metrics.set_leader(true);
    let reporter = Reporter { controller: "crdb-operator".to_owned(), instance: Some(me) };
    let ctx = Arc::new(cluster::Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        admin: NodeAdmin::new(options.node_address.clone()),
        claim: election.claim(),
        operator: OperatorIdentity { namespace: options.namespace.clone() },
        metrics: metrics.clone(),
        fault: FaultPoints::new(options.exit_at),
        failures: Table::new(),
        writes: Table::new(),
    });
    let mut scopes: Vec<Option<String>> =
        options.watch_namespaces.iter().cloned().map(Some).collect();
    if scopes.is_empty() {
        scopes.push(None);
    }
    let passes =
        join_all(scopes.into_iter().map(|scope| cluster::run(ctx.clone(), scope, stop.clone())));
    // Boxed: the futures of the controllers are large.
    let mut passes = Box::pin(passes);
    let held = tokio::select! {
        held = election.hold(&stop) => held,
        _ = &mut passes => {
            metrics.set_leader(false);
            election.release().await?;
            anyhow::ensure!(stop.is_cancelled(), "the controllers ended by themselves");
            return Ok(());
        }
    };
    // Without the Lease nothing more may be done; the process ends with this error.
    held?;
    passes.await;
    metrics.set_leader(false);
    election.release().await
}

/// Waits until the API server serves our resources. False: `stop` came first.
async fn wait_for_definitions(client: &Client, stop: &CancellationToken) -> bool {
    let group = format!("{}/{}", crdb_api::GROUP, crdb_api::VERSION);
    let mut told = false;
    loop {
        let asked = client.list_api_group_resources(&group);
        match tokio::time::timeout(CRD_TIMEOUT, asked).await {
            Ok(Ok(list)) if list.resources.iter().any(|found| found.kind == "CrdbCluster") => {
                return true;
            }
            Ok(Ok(_)) => {}
            // The answer to a path that nothing serves is no typed status: only its code tells.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
            Ok(Err(error)) => tracing::warn!(%error, "the API server does not answer"),
            Err(error) => tracing::warn!(%error, "the API server does not answer"),
        }
        if !told {
            tracing::info!(group, "waiting for the custom resource definitions");
            told = true;
        }
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(CRD_POLL) => {}
        }
    }
}
