//! Runs passes: watches, queue, error policy.
//!
//! Every kind that a cluster is made of triggers a pass. No predicates: a pass that changes nothing
//! costs a few reads, a missed change costs an outage.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crdb_api::keys;
use crdb_api::v1alpha1::CrdbCluster;
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::build::OperatorIdentity;
use super::{Error, pass};
use crate::admin::NodeAdmin;
use crate::fault::FaultPoints;
use crate::leader::Claim;
use crate::telemetry::Metrics;

type Guarded = DeserializeGuard<CrdbCluster>;

/// Changes within this time make one pass.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// Clusters that are worked on at the same time.
const CONCURRENCY: u16 = 8;
/// First wait after a failure.
const BACKOFF_MIN: Duration = Duration::from_secs(2);
/// Longest wait after failures.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Longest wait after a step that a node refused or did not answer: what it waits for, another
/// node's start for one, is over within seconds, and asking costs little.
const STEP_BACKOFF_MAX: Duration = Duration::from_secs(15);
/// Longest time for a pass: requests to an API server that vanished without a word have no end of
/// their own. Asking a hundred nodes that do not answer takes less than a minute.
const PASS_LIMIT: Duration = Duration::from_secs(180);
/// Failures in a row that may be over by themselves; the next one is told in the status.
const FAILURES_BEFORE_TOLD: u32 = 2;

/// What every pass shares.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) admin: NodeAdmin,
    /// Tells whether this process still leads.
    pub(crate) claim: Claim,
    pub(crate) operator: OperatorIdentity,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) fault: FaultPoints,
    /// Failures in a row of each cluster, by namespace and name.
    pub(crate) failures: Table<u32>,
    /// When each cluster's status was written last, or first seen; by namespace and name.
    pub(crate) writes: Table<Instant>,
}

impl Context {
    /// Drops what is remembered of a cluster that is gone.
    pub(super) fn forget(&self, namespace: &str, name: &str) {
        let key = format!("{namespace}/{name}");
        self.failures.remove(&key);
        self.writes.remove(&key);
        self.metrics.forget(namespace, name);
    }

    /// Whether passes over a cluster failed so often in a row that its status should tell.
    pub(super) fn fails_again(&self, namespace: &str, name: &str) -> bool {
        let key = format!("{namespace}/{name}");
        self.failures.get_or_insert(&key, 0) >= FAILURES_BEFORE_TOLD
    }

    /// Time since a cluster's status was written; counted from the first look at it.
    pub(super) fn since_last_write(&self, key: &str) -> Duration {
        self.writes.get_or_insert(key, Instant::now()).elapsed()
    }

    pub(super) fn note_write(&self, key: &str) {
        self.writes.insert(key, Instant::now());
    }
}

/// What is remembered of each cluster between passes; its lock is never held across an await.
pub(crate) struct Table<V>(Mutex<HashMap<String, V>>);

impl<V: Copy> Table<V> {
    pub(crate) fn new() -> Table<V> {
        Table(Mutex::new(HashMap::new()))
    }

    fn map(&self) -> MutexGuard<'_, HashMap<String, V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, key: &str, value: V) {
        self.map().insert(key.to_owned(), value);
    }

    fn get_or_insert(&self, key: &str, value: V) -> V {
        *self.map().entry(key.to_owned()).or_insert(value)
    }

    fn remove(&self, key: &str) {
        self.map().remove(key);
    }
}

/// Runs passes over the clusters of one namespace, or of all, until `stop`.
pub(crate) async fn run(ctx: Arc<Context>, namespace: Option<String>, stop: CancellationToken) {
    let shared = &ctx;
    let client = &ctx.client;
    let managed = watcher::Config::default().labels(&keys::managed_selector());
    let clusters = api::<Guarded>(client, namespace.as_deref());
    let config = controller::Config::default().debounce(DEBOUNCE).concurrency(CONCURRENCY);
    let scope = namespace.as_deref();
    Controller::new(clusters, watcher::Config::default())
        .with_config(config)
        .owns(api::<StatefulSet>(client, scope), managed.clone())
        .owns(api::<Service>(client, scope), managed.clone())
        .owns(api::<PodDisruptionBudget>(client, scope), managed.clone())
        .watches(api::<Pod>(client, scope), managed.clone(), cluster_of)
        .watches(api::<PersistentVolumeClaim>(client, scope), managed, cluster_of)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, error_policy, ctx.clone())
        .for_each(|result| async move {
            match result {
                Ok(_) => {}
                // The cluster was deleted: no pass comes any more, only changes of its children.
                Err(controller::Error::ObjectNotFound(object)) => {
                    tracing::debug!(%object, "gone");
                    shared.forget(object.namespace.as_deref().unwrap_or_default(), &object.name);
                }
                // Already counted and logged by the error policy.
                Err(controller::Error::ReconcilerFailed(..)) => {}
                Err(error) => tracing::warn!(%error, "watch"),
            }
        })
        .await;
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The cluster that an object's labels name.
fn cluster_of<K: Resource>(object: K) -> Option<ObjectRef<Guarded>> {
    let cluster = object.labels().get(keys::LABEL_CLUSTER)?;
    Some(ObjectRef::new(cluster).within(&object.namespace()?))
}

async fn reconcile(object: Arc<Guarded>, ctx: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let result = match &object.0 {
        Ok(cluster) => {
            let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
            // Boxed: the future of a pass is large.
            let result = Box::pin(pass(&ctx, &namespace, &name));
            let result = tokio::time::timeout(PASS_LIMIT, result).await;
            let result = result.unwrap_or(Err(Error::Late(PASS_LIMIT)));
            if result.is_ok() {
                ctx.failures.remove(&format!("{namespace}/{name}"));
            }
            result
        }
        Err(invalid) => Err(Error::Undecodable(invalid.error.to_string())),
    };
    ctx.metrics.observe_pass(started.elapsed(), result.as_ref().err().map(Error::reason));
    if let (Err(Error::Undecodable(text)), Err(invalid)) = (&result, &object.0) {
        let event = Event {
            type_: EventType::Warning,
            reason: "Undecodable".to_owned(),
            note: Some(text.clone()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let reference = ObjectReference {
            api_version: Some(CrdbCluster::api_version(&()).into_owned()),
            kind: Some(CrdbCluster::kind(&()).into_owned()),
            name: invalid.metadata.name.clone(),
            namespace: invalid.metadata.namespace.clone(),
            uid: invalid.metadata.uid.clone(),
            ..ObjectReference::default()
        };
        if let Err(error) = ctx.recorder.publish(&event, &reference).await {
            tracing::warn!(%error, "an event could not be published");
        }
    }
    result
}

/// Waits by class of failure: not at all for what changes only by a user's hand, a second when
/// somebody else wrote meanwhile, longer and longer for everything else.
#[expect(clippy::needless_pass_by_value, reason = "the signature that the controller asks for")]
fn error_policy(object: Arc<Guarded>, error: &Error, ctx: Arc<Context>) -> Action {
    let name = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    match error {
        Error::Undecodable(text) => {
            tracing::error!(cluster = name, text, "the object cannot be decoded");
            Action::await_change()
        }
        Error::Conflict | Error::NotLeading => {
            tracing::debug!(cluster = name, %error, "again soon");
            Action::requeue(Duration::from_secs(1))
        }
        Error::Kube(_) | Error::Step(_) | Error::Late(_) => {
            let failures = ctx.failures.get_or_insert(&name, 0);
            ctx.failures.insert(&name, failures.saturating_add(1));
            let longest =
                if matches!(error, Error::Step(_)) { STEP_BACKOFF_MAX } else { BACKOFF_MAX };
            let wait = backoff(failures, longest, &name);
            tracing::warn!(cluster = name, %error, ?wait, reason = error.reason(), "pass failed");
            Action::requeue(wait)
        }
    }
}

/// Doubles from 2 s to `longest`; the name spreads clusters that fail together.
fn backoff(failures: u32, longest: Duration, name: &str) -> Duration {
    let wait = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(longest);
    let spread = name.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31) + u32::from(byte)) % 20;
    wait.saturating_mul(100 + spread) / 100
}
