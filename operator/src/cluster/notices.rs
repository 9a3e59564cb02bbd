//! Events of a change of status: transitions only, never per-pass chatter.

use crdb_api::conditions;
use crdb_api::v1alpha1::{CrdbClusterStatus, OperationType};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// Something that people should hear about: a condition that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) warning: bool,
    pub(crate) reason: String,
    pub(crate) action: &'static str,
    pub(crate) note: String,
}

/// What to tell about a change of status.
pub(crate) fn notices(old: &CrdbClusterStatus, new: &CrdbClusterStatus) -> Vec<Notice> {
    let mut notices = Vec::new();
    if let Some(operation) = &new.operation
        && old.operation.as_ref().is_none_or(|before| before.start_time != operation.start_time)
    {
        let (reason, note) = match operation.type_ {
            OperationType::Bootstrap => {
                ("BootstrapStarted", format!("initializing {}", operation.slot))
            }
            OperationType::ReplacePod => {
                ("PodReplaced", format!("replacing the broken pod of {}", operation.slot))
            }
        };
        let reason = reason.to_owned();
        notices.push(Notice { warning: false, reason, action: operation.type_.as_str(), note });
    }
    for condition in &new.conditions {
        let before = conditions::find(&old.conditions, &condition.type_);
        let flipped = before.is_none_or(|before| {
            (&before.status, &before.reason) != (&condition.status, &condition.reason)
        });
        if let Some(notice) = flipped.then(|| notice(condition, before.is_none())).flatten() {
            notices.push(notice);
        }
    }
    notices
}

fn notice(condition: &Condition, first: bool) -> Option<Notice> {
    let holds = condition.status == "True";
    let (warning, told) = match condition.type_.as_str() {
        conditions::READY => (condition.reason == "SpecInvalid", holds || !first),
        conditions::AVAILABLE => (!holds, holds || !first),
        conditions::DEGRADED => (holds, holds || !first),
        conditions::INITIALIZED => (false, holds),
        conditions::CERTIFICATES_VALID => (true, first),
        conditions::STORAGE_READY => {
            (matches!(condition.reason.as_str(), "Ephemeral" | "Terminating"), true)
        }
        _ => (false, false),
    };
    // A summary that repeats another condition's news would only be noise.
    let told = told && !(condition.type_ == conditions::READY && condition.reason == "Paused");
    let note = if condition.message.is_empty() {
        format!("{} is {}", condition.type_, condition.status)
    } else {
        condition.message.clone()
    };
    (told || condition.reason == "SpecInvalid" && condition.type_ == conditions::READY)
        .then(|| Notice { warning, reason: condition.reason.clone(), action: "Reconcile", note })
}
