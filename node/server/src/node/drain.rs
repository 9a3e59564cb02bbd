//! The graceful stop.
//!
//! unready → wait for balancers to notice → refuse new SQL → let statements finish → give the
//! leases away → end. Every wait is bounded, by a cluster setting, and there is none for a target that does not exist.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crdb_raftstore::Input;
use crdb_settings::{
    SHUTDOWN_CONNECTIONS_TIMEOUT, SHUTDOWN_INITIAL_WAIT, SHUTDOWN_LEASE_TRANSFER_TIMEOUT,
    SHUTDOWN_TRANSACTIONS_TIMEOUT,
};
use tracing::{info, warn};

use super::shared::Shared;
use crate::clock::elapsed;

/// How often progress is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Runs all phases; afterwards nothing but the stop is left.
pub(crate) async fn drain(shared: &Arc<Shared>) {
    shared.draining.store(true, Ordering::Release);
    shared.heartbeat_now.notify_one();
    let Some(running) = shared.running.get() else { return };
    let settings = &shared.settings;
    tokio::time::sleep(settings.get(SHUTDOWN_INITIAL_WAIT)).await;
    running.pg.refuse_new();
    wait(settings.get(SHUTDOWN_CONNECTIONS_TIMEOUT), || running.pg.connections() == 0).await;
    if !running.pg.drain(settings.get(SHUTDOWN_TRANSACTIONS_TIMEOUT)).await {
        warn!("statements were still running at the end of their time");
    }
    give_leases_away(shared).await;
}

async fn give_leases_away(shared: &Shared) {
    let Some(running) = shared.running.get() else { return };
    let own = shared.node_id();
    let targets = || shared.view.lease_targets(own, shared.clock.now(), elapsed());
    if targets() == 0 {
        info!("no live node stays that could take a lease");
        return;
    }
    running.inbox.push(Input::Drain(true));
    let patience = shared.settings.get(SHUTDOWN_LEASE_TRANSFER_TIMEOUT);
    let gone = wait(patience, || running.store.counts().leases == 0 || targets() == 0);
    gone.await;
    let left = running.store.counts().leases;
    if left > 0 {
        warn!(left, "leases were not given away in time");
    }
}

/// Waits until `done` or the end of `patience`.
async fn wait(patience: Duration, done: impl Fn() -> bool) {
    let until = elapsed() + patience;
    while !done() && elapsed() < until {
        tokio::time::sleep(POLL).await;
    }
}
