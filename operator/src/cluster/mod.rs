//! Reconciles one CrdbCluster: observe, validate, plan, build, apply, record and execute one
//! step, status.
//!
//! What it is not: a place for decisions. `validate`, `plan`, `build` and `status` are pure and
//! tested by the scripts in `testscripts/`; this module reads, calls them, and writes.
//!
//! ```text
//! observe (I/O) -> validate -> plan -> build -> apply (I/O) -> record, execute one step (I/O)
//!     -> status (one write, only when it changed)
//! ```
//!
//! Invariants:
//! 1. a pass assumes nothing about why it runs and nothing about the pass before;
//! 2. a disruptive step is in `status.operation` before it is done; the record carries the
//!    resourceVersion that was read, so a stale pass stops there;
//! 3. before a step is done, the Lease is read once more: only the leader does steps;
//! 4. a pass that must wait returns: nothing sleeps in here;
//! 5. whatever keeps a cluster from being worked on is told in its status, not in logs alone.

mod apply;
mod build;
mod controller;
mod execute;
mod notices;
mod observe;
pub(crate) mod observed;
mod plan;
mod status;
mod validate;

#[cfg(test)]
mod script;

use std::time::Duration;

use crdb_api::v1alpha1::{CrdbCluster, CrdbClusterStatus, Reconcile};
use crdb_api::{conditions, keys};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;

pub(crate) use build::OperatorIdentity;
pub(crate) use controller::{Context, Table, run};

use crate::fault::FaultPoint;
use observe::Subject;
use observed::Observed;
use plan::{Plan, Step};
use status::Applied;
use validate::Desired;

/// Wait after a name conflict: the other object may be on its way out.
const CONFLICT_RECHECK: Duration = Duration::from_secs(5);
/// How often a cluster with an invalid spec is looked at: whether it serves is still reported.
const INVALID_RECHECK: Duration = Duration::from_secs(60);

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The stored object is not a CrdbCluster.
    #[error("the object cannot be decoded: {0}")]
    Undecodable(String),
    /// Something was changed in between: look again.
    #[error("the object changed while it was worked on")]
    Conflict,
    /// Another process leads now: this one may do nothing that cannot be taken back.
    #[error("another process holds the lease")]
    NotLeading,
    /// The API server failed or refused.
    #[error("Kubernetes API: {}", told(.0))]
    Kube(#[source] Box<kube::Error>),
    /// The pass did not end in time; it was dropped where it stood, as if the process had ended.
    #[error("the pass took longer than {0:?}")]
    Late(Duration),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] execute::ExecuteError),
}

impl Error {
    /// One stable word for metrics, events and logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Error::Undecodable(_) => "Undecodable",
            Error::Conflict => "Conflict",
            Error::NotLeading => "NotLeading",
            Error::Kube(_) => "KubernetesApi",
            Error::Late(_) => "Late",
            Error::Step(_) => "StepFailed",
        }
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Error {
        match error {
            kube::Error::Api(status) if status.is_conflict() => Error::Conflict,
            error => Error::Kube(Box::new(error)),
        }
    }
}

/// What the API server said, without the client's wrapping.
fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

/// The present, in the whole seconds that the API stores.
fn now() -> Time {
    let now = jiff::Timestamp::now();
    Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// One pass over one cluster.
async fn pass(ctx: &Context, namespace: &str, name: &str) -> Result<Action, Error> {
    let api: Api<CrdbCluster> = Api::namespaced(ctx.client.clone(), namespace);
    // Read anew: the record of a step must be based on what is stored now.
    let Some(mut cluster) = api.get_opt(name).await? else {
        ctx.forget(namespace, name);
        return Ok(Action::await_change());
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        // Everything of the cluster is garbage collected; volumes stay.
        ctx.forget(namespace, name);
        return Ok(Action::await_change());
    }
    let result = Box::pin(work(ctx, &api, namespace, &mut cluster)).await;
    if let Err(error @ Error::Kube(_)) = &result
        && ctx.fails_again(namespace, name)
    {
        let new = status::failed(&cluster, error.to_string(), &now());
        if let Err(error) = write_status(ctx, &api, &mut cluster, new).await {
            tracing::debug!(%error, "the failure could not be reported");
        }
    }
    result
}

/// What a pass does to a cluster that is there to stay.
async fn work(
    ctx: &Context,
    api: &Api<CrdbCluster>,
    namespace: &str,
    cluster: &mut CrdbCluster,
) -> Result<Action, Error> {
    let (name, uid) = (cluster.name_any(), cluster.uid().unwrap_or_default());
    let subject = Subject { name: &name, namespace, uid: &uid };
    let observed = observe::observe(&ctx.client, &ctx.admin, &subject).await?;
    ctx.fault.hit(FaultPoint::Observed);
    let desired = match validate::validate(cluster) {
        Ok(desired) => desired,
        Err(faults) => {
            let new = status::invalid(cluster, &observed, &faults, &now());
            write_status(ctx, api, cluster, new).await?;
            return Ok(Action::requeue(INVALID_RECHECK));
        }
    };
    let stored = cluster.status.clone().unwrap_or_default();
    let fresh_id = uuid::Uuid::new_v4().to_string();
    let mut plan = plan::plan(&desired, &stored, &observed, &fresh_id);
    let mut failed = None;
    let mut applied = Applied::default();
    if plan.halt.is_none() && desired.spec.reconcile == Reconcile::Enabled {
        let objects = build::build(&desired, &plan, &ctx.operator);
        applied = apply::apply(&ctx.client, namespace, &observed, &objects).await?;
        ctx.fault.hit(FaultPoint::Applied);
        if applied.conflicts.is_empty() {
            failed = act(ctx, api, cluster, &desired, &observed, &plan).await?;
        } else {
            plan.step = Step::None;
            plan.recheck_after = CONFLICT_RECHECK;
        }
    } else {
        plan.step = Step::None;
    }
    if let Some(error) = &failed
        && ctx.fails_again(namespace, &name)
    {
        applied.failed = Some(error.to_string());
    }
    let before = cluster.status.clone().unwrap_or_default();
    let new = status::status(&desired, &before, &observed, &plan, &applied, &now());
    write_status(ctx, api, cluster, new).await?;
    ctx.fault.hit(FaultPoint::StatusWritten);
    match failed {
        Some(error) => Err(error),
        None => Ok(Action::requeue(plan.recheck_after)),
    }
}

/// Marks volumes, records the step and does it. A step that fails is returned beside: the status
/// is written all the same.
async fn act(
    ctx: &Context,
    api: &Api<CrdbCluster>,
    cluster: &mut CrdbCluster,
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
) -> Result<Option<Error>, Error> {
    for (slot, mark) in &plan.marks {
        if let Some(volume) = observed.volumes.get(slot) {
            let (client, namespace) = (&ctx.client, &desired.namespace);
            apply::mark_volume(client, namespace, slot, &volume.uid, mark).await?;
        }
    }
    if plan.step == Step::None {
        return Ok(None);
    }
    let before = cluster.status.clone().unwrap_or_default();
    if let Some(recorded) = status::record(&before, &plan.step, &now()) {
        patch_status(api, cluster, &recorded).await?;
        publish(ctx, cluster, &before, &recorded).await;
    }
    ctx.fault.hit(FaultPoint::Recorded);
    // The record alone does not stop a process that resumes a step after a long pause.
    if !ctx.claim.holds().await? {
        return Err(Error::NotLeading);
    }
    let (client, admin) = (&ctx.client, &ctx.admin);
    let done = execute::execute(client, admin, &desired.namespace, observed, &plan.step).await;
    ctx.fault.hit(FaultPoint::Executed);
    Ok(done.err().map(Error::Step))
}

/// Writes a status if it is worth it, and tells what changed.
async fn write_status(
    ctx: &Context,
    api: &Api<CrdbCluster>,
    cluster: &mut CrdbCluster,
    new: CrdbClusterStatus,
) -> Result<(), Error> {
    let old = cluster.status.clone().unwrap_or_default();
    ctx.metrics.observe_conditions(
        &cluster.namespace().unwrap_or_default(),
        &cluster.name_any(),
        &new.conditions,
    );
    let key = format!("{}/{}", cluster.namespace().unwrap_or_default(), cluster.name_any());
    if status::worth_writing(&old, &new, ctx.since_last_write(&key)) {
        patch_status(api, cluster, &new).await?;
        ctx.note_write(&key);
        publish(ctx, cluster, &old, &new).await;
    }
    Ok(())
}

/// Writes the whole status, on condition that the object is still the one that was read.
async fn patch_status(
    api: &Api<CrdbCluster>,
    cluster: &mut CrdbCluster,
    status: &CrdbClusterStatus,
) -> Result<(), Error> {
    let name = cluster.name_any();
    let object = json!({
        "apiVersion": CrdbCluster::api_version(&()),
        "kind": CrdbCluster::kind(&()),
        "metadata": {"name": name, "resourceVersion": cluster.resource_version()},
        "status": status,
    });
    let params = PatchParams::apply(keys::STATUS_MANAGER).force();
    *cluster = api.patch_status(&name, &params, &Patch::Apply(&object)).await?;
    Ok(())
}

async fn publish(
    ctx: &Context,
    cluster: &CrdbCluster,
    old: &CrdbClusterStatus,
    new: &CrdbClusterStatus,
) {
    for notice in notices::notices(old, new) {
        let type_ = if notice.warning { EventType::Warning } else { EventType::Normal };
        let event = Event {
            type_,
            reason: notice.reason,
            note: Some(notice.note.chars().take(1000).collect()),
            action: notice.action.to_owned(),
            secondary: None,
        };
        if let Err(error) = ctx.recorder.publish(&event, &cluster.object_ref(&())).await {
            tracing::warn!(%error, reason = event.reason, "an event could not be published");
        }
    }
    if conditions::is_true(&new.conditions, conditions::DEGRADED)
        && !conditions::is_true(&old.conditions, conditions::DEGRADED)
    {
        let condition = conditions::find(&new.conditions, conditions::DEGRADED);
        let reason = condition.map_or("", |condition| condition.reason.as_str());
        tracing::warn!(cluster = cluster.name_any(), reason, "the cluster is degraded");
    }
}
