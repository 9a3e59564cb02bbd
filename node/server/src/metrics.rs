//! What the node measures about itself, under the names that tools for CockroachDB expect.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use crdb_kv::TxnCounts;
use crdb_kv::contention::{ContentionCounts, PushOutcome, WAIT_BUCKETS_MS};
use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::node::ClockOffsets;

type Level = Gauge<u64, AtomicU64>;
type Read = fn(&Reading) -> u64;
type SignedLevel = Gauge<i64, AtomicI64>;

/// Values read when somebody asks for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Nodes whose liveness record is valid.
    pub live_nodes: u64,
    /// Ranges known.
    pub ranges: u64,
    /// Ranges of this store without a leaseholder.
    pub ranges_unavailable: u64,
    /// Ranges led from here that miss a voter.
    pub ranges_underreplicated: u64,
    /// Replicas of this store.
    pub replicas: u64,
    /// Raft leaderships of this store.
    pub leaders: u64,
    /// Leases of this store.
    pub leases: u64,
    /// Commands proposed by the leaders of this store.
    pub proposals: u64,
    /// Writes of the raft log that waited for the disk.
    pub log_syncs: u64,
    /// Open SQL connections.
    pub sql_connections: u64,
    /// SQL statements that run.
    pub sql_statements: u64,
    /// SQL transactions that are open.
    pub sql_transactions: u64,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Bytes the store's file system could hold.
    pub capacity_bytes: u64,
    /// Bytes of it that are free.
    pub available_bytes: u64,
    /// Bytes the store uses.
    pub used_bytes: u64,
    /// Clocks of the other nodes against the own one.
    pub clock_offsets: ClockOffsets,
    /// What the node's transactions did.
    pub txns: TxnCounts,
    /// What waits for locks cost at the leases of this store.
    pub contention: ContentionCounts,
    /// Statements and transactions that ran again unseen by their clients.
    pub auto_retries: u64,
}

/// The registry and its gauges.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    gauges: Vec<(Level, Read)>,
    clock_mean: SignedLevel,
    clock_deviation: SignedLevel,
    lock_waits: LockWaits,
}

/// How long waits for locks took, as read last.
#[derive(Debug, Clone, Default)]
struct LockWaits(Arc<Mutex<ContentionCounts>>);

impl EncodeMetric for LockWaits {
    #[expect(clippy::cast_precision_loss, reason = "seconds, to be looked at")]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = *self.0.lock();
        let bounds =
            WAIT_BUCKETS_MS.iter().map(|millis| *millis as f64 / 1e3).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts.waits).collect();
        let seconds = counts.wait_nanos as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(seconds, counts.waits_ended(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            gauges: Vec::new(),
            clock_mean: SignedLevel::default(),
            clock_deviation: SignedLevel::default(),
            lock_waits: LockWaits::default(),
        };
        metrics.registry.register(
            "clock_offset_meannanos",
            "Mean offset of the clocks of the other nodes in nanoseconds",
            metrics.clock_mean.clone(),
        );
        metrics.registry.register(
            "clock_offset_stddevnanos",
            "Standard deviation of the offsets in nanoseconds",
            metrics.clock_deviation.clone(),
        );
        metrics.add("liveness_livenodes", "Number of live nodes", |r| r.live_nodes);
        metrics.add("ranges", "Number of ranges known", |r| r.ranges);
        metrics.add(
            "ranges_unavailable",
            "Number of ranges with a replica here that nobody serves",
            |r| r.ranges_unavailable,
        );
        metrics.add(
            "ranges_underreplicated",
            "Number of ranges led from here with fewer live voters than wanted",
            |r| r.ranges_underreplicated,
        );
        metrics.add("replicas", "Number of replicas", |r| r.replicas);
        metrics.add("replicas_leaders", "Number of raft leaders", |r| r.leaders);
        metrics.add("replicas_leaseholders", "Number of lease holders", |r| r.leases);
        metrics.add("raft_commandsproposed", "Number of commands proposed", |r| r.proposals);
        metrics.add("raft_log_syncs", "Number of synced writes of the log", |r| r.log_syncs);
        metrics.add("sql_conns", "Number of open SQL connections", |r| r.sql_connections);
        metrics.add("sql_statements_active", "Number of SQL statements that run", |r| {
            r.sql_statements
        });
        metrics.add("sql_txns_open", "Number of open SQL transactions", |r| r.sql_transactions);
        metrics.add("sys_uptime", "Process uptime in seconds", |r| r.uptime_seconds);
        metrics.add("capacity", "Total storage capacity in bytes", |r| r.capacity_bytes);
        metrics.add("capacity_available", "Available storage in bytes", |r| r.available_bytes);
        metrics.add("capacity_used", "Used storage in bytes", |r| r.used_bytes);
        metrics.add_transactions();
        metrics.add_contention();
        metrics
    }
}

impl Metrics {
    fn add_transactions(&mut self) {
        self.add("txn_commits", "Transactions committed", |r| {
            let t = &r.txns;
            t.commits_read_only + t.commits_one_phase + t.commits_parallel + t.commits_explicit
        });
        self.add("txn_commits_read_only", "Commits without a write", |r| r.txns.commits_read_only);
        self.add("txn_commits1PC", "Commits in one phase", |r| r.txns.commits_one_phase);
        self.add("txn_parallelcommits", "Parallel commits", |r| r.txns.commits_parallel);
        self.add("txn_commits_explicit", "Commits that waited for their record", |r| {
            r.txns.commits_explicit
        });
        self.add("txn_rollbacks", "Transactions rolled back", |r| r.txns.rollbacks);
        self.add("txn_commit_rounds", "Rounds of consensus that commits waited for", |r| {
            r.txns.commit_rounds
        });
        self.add("txn_flushes", "Batches of intents sent before a commit", |r| r.txns.flushes);
        self.add("txn_refresh_success", "Refreshes that succeeded", |r| r.txns.refreshes_ok);
        self.add("txn_refresh_fail", "Refreshes that found a change", |r| r.txns.refreshes_failed);
        self.add(
            "sql_transactions_auto_retry_count",
            "Statements and transactions that the gateway ran again by itself",
            |r| r.auto_retries,
        );
        self.add("txn_restarts_writetooold", "Restarts because of a newer version", |r| {
            r.txns.retries_write_too_old
        });
        self.add("txn_restarts_serializable", "Restarts because of a changed read", |r| {
            r.txns.retries_serializable
        });
        self.add("txn_restarts_readwithinuncertainty", "Restarts because of uncertainty", |r| {
            r.txns.retries_uncertainty
        });
        self.add("txn_restarts_txnaborted", "Restarts because another one aborted it", |r| {
            r.txns.retries_aborted
        });
        self.add("txn_ambiguous", "Commits whose outcome is unknown", |r| r.txns.ambiguous);
    }

    fn add_contention(&mut self) {
        self.registry.register(
            "kv_concurrency_lock_wait_seconds",
            "How long requests waited for locks",
            self.lock_waits.clone(),
        );
        self.add(
            "kv_concurrency_lock_wait_queue_waiters",
            "Number of requests waiting for locks",
            |r| r.contention.waiting,
        );
        self.add("txnwaitqueue_deadlocks_total", "Deadlocks broken", |r| r.contention.deadlocks);
        self.add("txnwaitqueue_pushes_alive", "Pushes of a transaction that goes on", |r| {
            r.contention.pushes(PushOutcome::Alive)
        });
        self.add("txnwaitqueue_pushes_committed", "Pushes that found a commit", |r| {
            r.contention.pushes(PushOutcome::Committed)
        });
        self.add("txnwaitqueue_pushes_aborted", "Pushes that aborted or found an abort", |r| {
            r.contention.pushes(PushOutcome::Aborted)
        });
        self.add("txnwaitqueue_pushes_recovered", "Pushes that recovered a commit", |r| {
            r.contention.pushes(PushOutcome::Recovered)
        });
        self.add("txnwaitqueue_pushes_failed", "Pushes that did not reach the record", |r| {
            r.contention.pushes(PushOutcome::Failed)
        });
    }

    fn add(&mut self, name: &str, help: &str, read: Read) {
        let gauge = Level::default();
        self.registry.register(name, help, gauge.clone());
        self.gauges.push((gauge, read));
    }

    /// The metrics in the Prometheus text format, with the values of `reading`.
    #[must_use]
    pub fn encode(&self, reading: &Reading) -> String {
        for (gauge, read) in &self.gauges {
            gauge.set(read(reading));
        }
        self.clock_mean.set(reading.clock_offsets.mean_nanos);
        self.clock_deviation.set(reading.clock_offsets.stddev_nanos);
        *self.lock_waits.0.lock() = reading.contention;
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::warn!(%error, "the metrics are incomplete");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_tools_expect() {
        let text = Metrics::default().encode(&Reading { live_nodes: 3, ..Reading::default() });
        assert!(text.contains("\nliveness_livenodes 3\n"), "{text}");
        assert!(text.contains("\nreplicas_leaseholders 0\n"), "{text}");
        assert!(text.contains("\nraft_commandsproposed 0\n"), "{text}");
    }

    #[test]
    fn each_cause_of_a_retry_has_its_own_count() {
        let txns = TxnCounts {
            retries_write_too_old: 1,
            retries_serializable: 2,
            retries_uncertainty: 3,
            retries_aborted: 4,
            ambiguous: 5,
            ..TxnCounts::default()
        };
        let text = Metrics::default().encode(&Reading { txns, ..Reading::default() });
        for line in [
            "txn_restarts_writetooold 1",
            "txn_restarts_serializable 2",
            "txn_restarts_readwithinuncertainty 3",
            "txn_restarts_txnaborted 4",
            "txn_ambiguous 5",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
        }
    }

    #[test]
    fn waits_for_locks_are_a_histogram() {
        let mut contention =
            ContentionCounts { waiting: 2, wait_nanos: 2_500_000_000, ..Default::default() };
        contention.waits[4] = 3;
        contention.waits[10] = 1;
        let text = Metrics::default().encode(&Reading { contention, ..Reading::default() });
        let name = "\nkv_concurrency_lock_wait_seconds";
        for line in ["_sum 2.5", "_count 4", "_bucket{le=\"0.05\"} 0", "_bucket{le=\"0.1\"} 3"] {
            assert!(text.contains(&format!("{name}{line}\n")), "{line}: {text}");
        }
        assert!(text.contains(&format!("{name}_bucket{{le=\"+Inf\"}} 4\n")), "{text}");
        assert!(text.contains("\nkv_concurrency_lock_wait_queue_waiters 2\n"), "{text}");
    }
}
