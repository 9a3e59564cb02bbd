//! What a leaseholder tells about its range.

use crdb_keys::Span;
use crdb_proto::kv;
use crdb_storage::{Engine, evaluate};

use crate::{
    admin,
    handle::{ReplicaHandle, StoreHandle},
};

/// The answer to a status request.
pub(crate) fn status<E: Engine>(
    store: &StoreHandle<E>,
    replica: &ReplicaHandle,
    snapshot: &E::Snapshot,
    request: &kv::RangeStatusRequest,
    lease_sequence: u64,
) -> Result<kv::RangeStatusResponse, crdb_storage::Error> {
    let descriptor = &*replica.descriptor();
    let span = Span::new(descriptor.start_key.clone(), descriptor.end_key.clone());
    let own = store.config().store_id.get();
    let stats = request.with_stats.then(|| evaluate::range_stats(snapshot, &span)).transpose()?;
    Ok(kv::RangeStatusResponse {
        descriptor: Some(descriptor.clone()),
        leaseholder: descriptor.replicas.iter().find(|replica| replica.store_id == own).copied(),
        approximate_bytes: admin::approximate_bytes(store.engine(), descriptor)?,
        stats,
        closed_timestamp: Some(replica.writes.closed().max(replica.history.closed()).into()),
        gc_threshold: Some(replica.history.threshold().into()),
        lease_sequence,
    })
}
