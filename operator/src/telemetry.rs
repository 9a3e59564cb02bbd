//! Logs and metrics.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use crdb_api::conditions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

/// Conditions that are exported, one series each for a cluster.
const EXPORTED: [&str; 5] = [
    conditions::READY,
    conditions::AVAILABLE,
    conditions::DEGRADED,
    conditions::INITIALIZED,
    conditions::FULLY_REPLICATED,
];

/// Starts logging to standard error: text for people, or one JSON object a line.
pub(crate) fn start_logs(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = if json { logs.json().try_init() } else { logs.try_init() };
    started.map_err(|error| anyhow::anyhow!("logging could not be started: {error}"))
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ConditionLabels {
    namespace: String,
    name: String,
    r#type: &'static str,
}

/// The operator's metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    passes: Counter<u64, AtomicU64>,
    duration: Histogram,
    failures: Family<ReasonLabels, Counter<u64, AtomicU64>>,
    leader: Gauge<i64, AtomicI64>,
    conditions: Family<ConditionLabels, Gauge<i64, AtomicI64>>,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let passes = Counter::default();
        let duration = Histogram::new(exponential_buckets(0.005, 2.0, 14));
        let failures = Family::default();
        let leader = Gauge::default();
        let conditions = Family::default();
        let mut registry = Registry::with_prefix("crdb_operator");
        registry.register("reconcile", "Passes over clusters", passes.clone());
        let help = "Time that a pass took";
        registry.register("reconcile_duration_seconds", help, duration.clone());
        registry.register("reconcile_failures", "Passes that failed", failures.clone());
        registry.register("leader", "Whether this process is the leader", leader.clone());
        let help = "Conditions of clusters: 1 True, 0 False, -1 Unknown";
        registry.register("cluster_condition", help, conditions.clone());
        Metrics { registry: Arc::new(registry), passes, duration, failures, leader, conditions }
    }

    /// Notes a pass and, if it failed, why.
    pub(crate) fn observe_pass(&self, took: Duration, failure: Option<&'static str>) {
        self.passes.inc();
        self.duration.observe(took.as_secs_f64());
        if let Some(reason) = failure {
            self.failures.get_or_create(&ReasonLabels { reason }).inc();
        }
    }

    /// Notes whether this process is the leader.
    pub(crate) fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Notes the conditions of a cluster.
    pub(crate) fn observe_conditions(&self, namespace: &str, name: &str, list: &[Condition]) {
        for type_ in EXPORTED {
            let Some(condition) = conditions::find(list, type_) else { continue };
            let value = match condition.status.as_str() {
                "True" => 1,
                "False" => 0,
                _ => -1,
            };
            self.conditions.get_or_create(&condition_labels(namespace, name, type_)).set(value);
        }
    }

    /// Drops the series of a cluster that is gone.
    pub(crate) fn forget(&self, namespace: &str, name: &str) {
        for type_ in EXPORTED {
            self.conditions.remove(&condition_labels(namespace, name, type_));
        }
    }

    /// The metrics in the OpenMetrics text format.
    pub(crate) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn condition_labels(namespace: &str, name: &str, type_: &'static str) -> ConditionLabels {
    ConditionLabels { namespace: namespace.to_owned(), name: name.to_owned(), r#type: type_ }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_have_stable_names() {
        let metrics = Metrics::new();
        metrics.observe_pass(Duration::from_millis(7), Some("StepFailed"));
        metrics.set_leader(true);
        let text = metrics.encode().unwrap();
        for line in [
            "crdb_operator_reconcile_total 1",
            "crdb_operator_reconcile_failures_total{reason=\"StepFailed\"} 1",
            "crdb_operator_leader 1",
            "crdb_operator_reconcile_duration_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
