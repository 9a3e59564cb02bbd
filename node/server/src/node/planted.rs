//! The bug that the environment names, in builds for tests: the checking workloads have to find it.

use std::sync::OnceLock;

use crdb_kv::PlantedTxnBug;
use crdb_raftstore::PlantedBug;

use super::NodeError;

/// Names the bug.
const VARIABLE: &str = "CRDB_PLANTED_BUG";

/// The bug of the store or of the gateway, if one is named; a name that is not known is an error.
pub(super) fn from_env() -> Result<(Option<PlantedBug>, Option<PlantedTxnBug>), NodeError> {
    static NAME: OnceLock<Option<String>> = OnceLock::new();
    let name = NAME.get_or_init(|| {
        let name = std::env::var_os(VARIABLE)?.to_string_lossy().into_owned();
        tracing::warn!(bug = name, "a bug is planted: this node errs on purpose");
        Some(name)
    });
    let Some(name) = name else { return Ok((None, None)) };
    let of_store = PlantedBug::ALL.into_iter().find(|bug| bug.to_string() == *name);
    let of_gateway = PlantedTxnBug::ALL.into_iter().find(|bug| bug.to_string() == *name);
    if of_store.is_none() && of_gateway.is_none() {
        return Err(NodeError::NoSuchBug(name.clone()));
    }
    Ok((of_store, of_gateway))
}
