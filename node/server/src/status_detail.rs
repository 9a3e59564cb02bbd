//! Typed details of failed calls, so that nobody parses message texts.

use crdb_proto::admin::ErrorDetail;
use prost::Message as _;
use tonic::{Code, Status};

/// The called belongs to no cluster yet.
pub const NOT_INITIALIZED: &str = "NotInitialized";
/// `Init` on a cluster that exists.
pub const ALREADY_INITIALIZED: &str = "AlreadyInitialized";
/// The cluster is being made at this moment; the same call succeeds or fails for good later.
pub const INIT_IN_PROGRESS: &str = "InitInProgress";
/// The caller belongs to another cluster.
pub const OTHER_CLUSTER: &str = "OtherCluster";
/// The caller asked itself, under another name of its own.
pub const CALLER_IS_ADDRESSEE: &str = "CallerIsAddressee";
/// A value of the request is not valid.
pub const INVALID_ARGUMENT: &str = "InvalidArgument";

/// A failed call with its typed detail.
#[must_use]
pub fn status(code: Code, reason: &str, message: &str, cluster_id: &str) -> Status {
    let detail = ErrorDetail {
        reason: reason.to_owned(),
        message: message.to_owned(),
        blockers: Vec::new(),
        cluster_id: cluster_id.to_owned(),
    };
    Status::with_details(code, message, detail.encode_to_vec().into())
}

/// The typed detail of a failed call, if it has one.
#[must_use]
pub fn detail(status: &Status) -> Option<ErrorDetail> {
    if status.details().is_empty() {
        return None;
    }
    ErrorDetail::decode(status.details()).ok()
}

/// The answer of a node that belongs to no cluster yet.
#[must_use]
pub fn not_initialized() -> Status {
    status(Code::FailedPrecondition, NOT_INITIALIZED, "node is not initialized", "")
}
