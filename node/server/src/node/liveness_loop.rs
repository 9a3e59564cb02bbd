//! Keeps the node's liveness record, reads those of the others, and tells the store who is there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use crdb_keys::layout;
use crdb_kv::SendError;
use crdb_liveness::{HEARTBEAT_INTERVAL, HeartbeatError, LivenessRecord, heartbeat};
use crdb_raftstore::Input;
use crdb_settings::{
    CLOSED_TIMESTAMP_SIDE_TRANSPORT_INTERVAL, CLOSED_TIMESTAMP_TARGET, FOLLOWER_READS_ENABLED,
    MAX_BUFFERED_WRITES,
};
use tracing::{debug, info, warn};

use super::NodeError;
use super::handler::warn_if_lapsed;
use super::kv_client::OwnBatch;
use super::shared::{Running, Shared};
use crate::clock::elapsed;

struct Heart<'a> {
    shared: &'a Shared,
    running: &'a Running,
    /// Epoch of this process, once it wrote a record.
    epoch: Option<u64>,
    /// The record as it is stored, as far as known: what the next write is conditional on.
    stored: Option<Bytes>,
    known: bool,
}

/// Writes the record every [`HEARTBEAT_INTERVAL`] and when asked to, until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let Some(running) = shared.running.get() else { return };
    let limits = shared.limits();
    let mut heart = Heart { shared: &shared, running, epoch: None, stored: None, known: false };
    loop {
        let beat = tokio::select! {
            () = shared.stop.cancelled() => return,
            beat = tokio::time::timeout(limits.liveness_attempt, heart.beat()) => beat,
        };
        let pause = match beat {
            Ok(Ok(())) => HEARTBEAT_INTERVAL,
            Ok(Err(Beat::Again(reason))) => {
                debug!(%reason, "liveness record not written");
                heart.known = false;
                limits.liveness_retry
            }
            Ok(Err(Beat::Over(error))) => {
                shared.fail(NodeError::Liveness(error));
                return;
            }
            Err(_) => {
                debug!("liveness record not written in time");
                heart.known = false;
                limits.liveness_retry
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.heartbeat_now.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

enum Beat {
    Again(String),
    Over(HeartbeatError),
}

impl From<SendError> for Beat {
    fn from(error: SendError) -> Self {
        Self::Again(error.to_string())
    }
}

impl Heart<'_> {
    async fn beat(&mut self) -> Result<(), Beat> {
        let own = self.shared.node_id();
        let key = layout::liveness_key(own);
        let sender = self.running.sender.as_ref();
        if !self.known {
            let mut found = OwnBatch::default().get(key.clone()).send(sender).await?;
            self.stored = found.value(0);
            self.known = true;
        }
        let current = self.stored.as_deref().map(LivenessRecord::decode).transpose();
        let current = current.map_err(|error| Beat::Again(error.to_string()))?;
        let now = self.shared.clock.now();
        let version = self.running.sql.catalog().min_version_in_use();
        let draining = self.shared.is_draining();
        let record = heartbeat(current.as_ref(), own, self.epoch, now, draining, version)
            .map_err(Beat::Over)?;
        let bytes = record.encode();
        // Until the outcome is known, what is stored is not.
        self.known = false;
        let batch = OwnBatch::default()
            .put_if(key, bytes.clone(), self.stored.clone())
            .scan(layout::liveness_span());
        let mut answers = batch.send(sender).await?;
        self.known = true;
        self.stored = Some(bytes);
        self.epoch = Some(record.epoch);
        self.shared.alive_until.store(record.expiration.wall_nanos, Ordering::Release);
        self.running.sql.set_liveness_expiration(record.expiration);
        self.shared.view.learn_record(record);
        for row in answers.rows(1) {
            match LivenessRecord::decode(&row.value) {
                Ok(record) => self.shared.view.learn_record(record),
                Err(error) => warn!(%error, "a liveness record cannot be read"),
            }
        }
        Ok(())
    }
}

/// Tells the store, once a second, which stores there are.
pub(crate) async fn feed_stores(shared: Arc<Shared>) {
    let Some(running) = shared.running.get() else { return };
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Some(stats) = shared.own_stats() {
            shared.view.learn_stats(stats);
        }
        for range in running.store.ranges() {
            shared.cache.insert(range.descriptor);
        }
        warn_if_lapsed(&shared);
        let now = shared.clock.now();
        running.inbox.push(Input::Stores(shared.view.stores(now, elapsed())));
    }
}

/// Looks at the catalog version and at the cluster settings, and has the record written when the
/// node adopted a new version.
pub(crate) async fn watch_catalog(shared: Arc<Shared>) {
    let Some(running) = shared.running.get() else { return };
    let mut ticks = tokio::time::interval(shared.limits().catalog_poll);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reported = 0;
    let mut unusable = Vec::new();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match running.sql.catalog().adopt_latest().await {
            Ok(true) => info!(version = running.sql.catalog().version(), "new catalog version"),
            Ok(false) => {}
            Err(error) => debug!(%error, "the catalog cannot be read at the moment"),
        }
        match running.sql.refresh_settings().await {
            Ok(now_unusable) => {
                if now_unusable != unusable {
                    warn!(settings = ?now_unusable, "cluster settings of another version");
                    unusable = now_unusable;
                }
            }
            Err(error) => debug!(%error, "the settings cannot be read at the moment"),
        }
        tell_settings(&shared, running);
        // Also when the last statement on an old version ends.
        let in_use = running.sql.catalog().min_version_in_use();
        if in_use != reported {
            reported = in_use;
            shared.heartbeat_now.notify_one();
        }
    }
}

/// Hands the settings of the layers below to them.
fn tell_settings(shared: &Shared, running: &Running) {
    let (from, to) = (&shared.settings, &running.store.config().settings);
    to.set_closed_target(from.get(CLOSED_TIMESTAMP_TARGET));
    to.set_side_transport_interval(from.get(CLOSED_TIMESTAMP_SIDE_TRANSPORT_INTERVAL));
    to.set_follower_reads(from.get(FOLLOWER_READS_ENABLED));
    let bytes = usize::try_from(from.get(MAX_BUFFERED_WRITES).0).unwrap_or(usize::MAX);
    running.txns.set_max_buffered_writes(bytes);
}

/// Finishes what the gateway of a schema change left behind: without it a table whose TRUNCATE lost
/// its gateway half-way would stay offline.
pub(crate) async fn keep_catalog(shared: Arc<Shared>) {
    let Some(running) = shared.running.get() else { return };
    let mut ticks = tokio::time::interval(shared.limits().catalog_upkeep);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let upkeep = tokio::select! {
            () = shared.stop.cancelled() => return,
            upkeep = running.sql.maintain_catalog() => upkeep,
        };
        if let Err(error) = upkeep {
            debug!(%error, "the upkeep of the catalog is tried again");
        }
    }
}
