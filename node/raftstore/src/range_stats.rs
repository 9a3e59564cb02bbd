//! What a leaseholder tells about its range, and the count of what is in it.

use std::ops::ControlFlow;

use crdb_keys::{Span, encoding};
use crdb_proto::kv::{self, RangeDescriptor};
use crdb_storage::{Engine, Family, Reader, mvcc};

use crate::{admin, handle::StoreHandle};

/// The answer to a status request.
pub(crate) fn status<E: Engine>(
    store: &StoreHandle<E>,
    descriptor: &RangeDescriptor,
    snapshot: &E::Snapshot,
    request: &kv::RangeStatusRequest,
    lease_sequence: u64,
) -> Result<kv::RangeStatusResponse, crdb_storage::Error> {
    let own = store.config().store_id.get();
    let stats = request.with_stats.then(|| count(snapshot, descriptor)).transpose()?;
    Ok(kv::RangeStatusResponse {
        descriptor: Some(descriptor.clone()),
        leaseholder: descriptor.replicas.iter().find(|replica| replica.store_id == own).copied(),
        approximate_bytes: admin::approximate_bytes(store.engine(), descriptor)?,
        stats,
        closed_timestamp: None,
        gc_threshold: None,
        lease_sequence,
    })
}

/// Bytes of a version's timestamp, counted with its value.
const TIMESTAMP_BYTES: u64 = mvcc::VERSION_LEN as u64;
/// Kind byte behind the escaped key of an intent.
const INTENT: u8 = 0x01;

/// Counts keys, versions and intents by reading all of them.
fn count(
    reader: &impl Reader,
    descriptor: &RangeDescriptor,
) -> Result<kv::RangeStats, crdb_storage::Error> {
    let span = Span::new(descriptor.start_key.clone(), descriptor.end_key.clone());
    let (start, end) = mvcc::engine_span(&span);
    let mut stats = kv::RangeStats::default();
    let mut last = None;
    reader.scan(Family::State, &start, &end, &mut |encoded, value| {
        let (key, _) = mvcc::decode_version_key(encoded)?;
        // One byte tells a value from a deletion.
        let bytes = (value.len() as u64).saturating_sub(1);
        stats.val_count += 1;
        stats.val_bytes += bytes + TIMESTAMP_BYTES;
        if last.as_ref() != Some(&key) {
            stats.key_count += 1;
            stats.key_bytes += key.len() as u64;
            if value.first() == Some(&1) {
                stats.live_count += 1;
                stats.live_bytes += key.len() as u64 + bytes;
            }
            last = Some(key);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    reader.scan(Family::Lock, &start, &end, &mut |encoded, value| {
        let mut rest = encoded;
        let key = encoding::unescape(&mut rest)
            .map_err(|error| crdb_storage::Error::corrupt("a lock's key", error.to_string()))?;
        if rest.first() == Some(&INTENT) {
            stats.intent_count += 1;
            stats.intent_bytes += (key.len() + value.len()) as u64;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(stats)
}
