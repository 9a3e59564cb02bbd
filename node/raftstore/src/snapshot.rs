//! Snapshots of a range: reading one for another store, and writing a received one.
//!
//! A snapshot is read from a frozen state of the engine, so a worker can send it at its own pace.
//! Index, term, lease and descriptor are read from that same frozen state: what the consensus
//! library named when it asked for the snapshot is only a lower limit.
//!
//! A received snapshot replaces everything the replica held, in the one batch that is synced with
//! the log: after a crash either the old state is there or the new one.

use std::ops::ControlFlow;

use bytes::Bytes;
use crdb_keys::{RangeId, ReplicaId, Span, layout::RangeLocal};
use crdb_proto::{
    kv::RangeDescriptor,
    peer::{SnapshotEntry, SnapshotHeader},
};
use crdb_storage::{Engine, Family, Reader as _, WriteBatch, mvcc};
use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb;

use crate::record::{self, AppliedState, RecordError, ReplicaRecord, SnapshotState};

/// The families that hold replicated data.
const DATA_FAMILIES: [Family; 2] = [Family::State, Family::Lock];

/// The entries of a snapshot, read piece by piece.
pub struct SnapshotStream<E: Engine> {
    snapshot: E::Snapshot,
    /// Family, next key and end of what is still to read.
    rest: Vec<(Family, Bytes, Bytes)>,
    chunk_bytes: usize,
}

impl<E: Engine> std::fmt::Debug for SnapshotStream<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotStream").field("rest", &self.rest).finish_non_exhaustive()
    }
}

impl<E: Engine> SnapshotStream<E> {
    /// The next entries, at most about a chunk; `None` at the end.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<SnapshotEntry>>, crdb_storage::Error> {
        while let Some((family, start, end)) = self.rest.pop() {
            let mut entries = Vec::new();
            let mut bytes = 0;
            let mut resume = None;
            let limit = self.chunk_bytes;
            self.snapshot.scan(family, &start, &end, &mut |key, value| {
                if bytes >= limit {
                    resume = Some(Bytes::copy_from_slice(key));
                    return Ok(ControlFlow::Break(()));
                }
                bytes += key.len() + value.len();
                entries.push(SnapshotEntry {
                    family: u32::from(family.code()),
                    key: Bytes::copy_from_slice(key),
                    value: Bytes::copy_from_slice(value),
                });
                Ok(ControlFlow::Continue(()))
            })?;
            if let Some(resume) = resume {
                self.rest.push((family, resume, end));
            }
            if !entries.is_empty() {
                return Ok(Some(entries));
            }
        }
        Ok(None)
    }
}

/// Freezes the range and builds the header of a snapshot for the receiver of `message`.
pub(crate) fn begin<E: Engine>(
    engine: &E,
    range: RangeId,
    mut message: eraftpb::Message,
    chunk_bytes: usize,
) -> Result<(SnapshotHeader, SnapshotStream<E>), RecordError> {
    let snapshot = engine.snapshot();
    let missing = |what: &str| RecordError::corrupt(format!("{what} of {range}"), "it is missing");
    let applied: AppliedState = record::read(&snapshot, range, RangeLocal::AppliedState)?
        .ok_or_else(|| missing("the applied state"))?;
    let descriptor: RangeDescriptor = record::read(&snapshot, range, RangeLocal::Descriptor)?
        .ok_or_else(|| missing("the descriptor"))?;
    let metadata = message.mut_snapshot().mut_metadata();
    metadata.index = applied.index;
    metadata.term = applied.term;
    metadata.set_conf_state(applied.conf.to_raft());
    let (from_replica, to_replica) = (message.from, message.to);
    let encoded = message
        .write_to_bytes()
        .map_err(|error| RecordError::corrupt("a snapshot message", error.to_string()))?;
    let span = data_span(&descriptor);
    let rest = DATA_FAMILIES
        .iter()
        .rev()
        .map(|family| {
            let (start, end) = mvcc::engine_span(&span);
            (*family, start, end)
        })
        .collect();
    let header = SnapshotHeader {
        range_id: range.get(),
        from_replica,
        to_replica,
        descriptor: Some(descriptor),
        message: encoded.into(),
        range_state: SnapshotState { applied }.encode_to_vec().into(),
        sequence: 0,
        incarnation: 0,
        sent_at: None,
    };
    Ok((header, SnapshotStream { snapshot, rest, chunk_bytes }))
}

/// A received snapshot, understood.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) message: eraftpb::Message,
    pub(crate) descriptor: RangeDescriptor,
    pub(crate) applied: AppliedState,
    pub(crate) entries: Vec<SnapshotEntry>,
}

impl Incoming {
    /// Understands a header and its entries, or says what is wrong with them.
    pub(crate) fn decode(
        header: SnapshotHeader,
        entries: Vec<SnapshotEntry>,
    ) -> Result<Self, String> {
        let message = eraftpb::Message::parse_from_bytes(&header.message)
            .map_err(|error| format!("its message is damaged: {error}"))?;
        let state = SnapshotState::decode(header.range_state)
            .map_err(|error| format!("its state is damaged: {error}"))?;
        let descriptor = header.descriptor.ok_or("it has no descriptor")?;
        let metadata = message.get_snapshot().get_metadata();
        let same = message.get_msg_type() == eraftpb::MessageType::MsgSnapshot
            && metadata.index == state.applied.index
            && metadata.term == state.applied.term
            && raft_proto_eq(metadata.get_conf_state(), &state.applied)
            && message.to == header.to_replica
            && message.from == header.from_replica
            && descriptor.range_id == header.range_id;
        if !same {
            return Err("its header contradicts itself".into());
        }
        // Nothing of another range may be overwritten.
        let span = data_span(&descriptor);
        let (start, end) = mvcc::engine_span(&span);
        let inside = |entry: &SnapshotEntry| {
            data_family(entry.family).is_some() && start <= entry.key && entry.key < end
        };
        if !entries.iter().all(inside) {
            return Err("it has entries outside of the range's data".into());
        }
        Ok(Self { message, descriptor, applied: state.applied, entries })
    }

    /// Adds to `batch` the replacement of all that the replica holds.
    pub(crate) fn write(self, batch: &mut WriteBatch, replica_id: ReplicaId) {
        let range = RangeId(self.descriptor.range_id);
        clear_data(batch, &self.descriptor);
        for entry in self.entries {
            if let Some(family) = data_family(entry.family) {
                batch.put(family, entry.key, entry.value);
            }
        }
        record::write(batch, range, RangeLocal::AppliedState, &self.applied);
        record::write(batch, range, RangeLocal::Descriptor, &self.descriptor);
        let replica = ReplicaRecord { replica_id: replica_id.get() };
        record::write(batch, range, RangeLocal::Replica, &replica);
    }
}

fn raft_proto_eq(conf: &eraftpb::ConfState, applied: &AppliedState) -> bool {
    record::ConfState::from_raft(conf) == applied.conf
}

fn data_family(code: u32) -> Option<Family> {
    let family = Family::from_code(u8::try_from(code).ok()?)?;
    DATA_FAMILIES.contains(&family).then_some(family)
}

/// Adds to `batch` the removal of all data of a range.
pub(crate) fn clear_data(batch: &mut WriteBatch, descriptor: &RangeDescriptor) {
    let span = data_span(descriptor);
    let (start, end) = mvcc::engine_span(&span);
    for family in DATA_FAMILIES {
        batch.delete_range(family, start.clone(), end.clone());
    }
}

fn data_span(descriptor: &RangeDescriptor) -> Span {
    Span::new(descriptor.start_key.clone(), descriptor.end_key.clone())
}

#[cfg(test)]
mod tests {
    use crdb_keys::Timestamp;
    use crdb_storage::{MemoryEngine, Sync};

    use super::*;

    const RANGE: RangeId = RangeId(4);

    /// The snapshot of a range from `b` to `d`, with a key in it and one on either side.
    fn snapshot() -> (SnapshotHeader, Vec<SnapshotEntry>) {
        let descriptor = RangeDescriptor {
            range_id: RANGE.get(),
            start_key: "b".into(),
            end_key: "d".into(),
            ..RangeDescriptor::default()
        };
        let mut batch = WriteBatch::new();
        record::write(&mut batch, RANGE, RangeLocal::Descriptor, &descriptor);
        record::write(&mut batch, RANGE, RangeLocal::AppliedState, &AppliedState::default());
        for key in ["a", "c", "d"] {
            mvcc::put(&mut batch, key.as_bytes(), Timestamp::new(5, 0), Some(b"1"));
        }
        let engine = MemoryEngine::new();
        engine.write(&batch, Sync::Yes).unwrap();
        let mut message = eraftpb::Message { from: 1, to: 2, ..eraftpb::Message::default() };
        message.set_msg_type(eraftpb::MessageType::MsgSnapshot);
        let (header, mut stream) = begin(&engine, RANGE, message, 100).unwrap();
        let mut entries = Vec::new();
        while let Some(chunk) = stream.next_chunk().unwrap() {
            entries.extend(chunk);
        }
        (header, entries)
    }

    #[test]
    fn a_snapshot_holds_the_range_and_nothing_else() {
        let (header, entries) = snapshot();
        let keys: Vec<_> =
            entries.iter().map(|entry| mvcc::decode_version_key(&entry.key).unwrap().0).collect();
        assert_eq!(keys, ["c"]);
        Incoming::decode(header, entries).unwrap();
    }

    #[test]
    fn entries_outside_of_the_range_are_refused() {
        let own = |family: Family, key: Bytes| SnapshotEntry {
            family: family.code().into(),
            key,
            value: Bytes::new(),
        };
        let at = Timestamp::new(5, 0);
        for foreign in [
            own(Family::State, mvcc::version_key(b"a", at)),
            own(Family::State, mvcc::version_key(b"d", at)),
            own(Family::Lock, mvcc::engine_span(&Span::point("d")).0),
            own(Family::Local, "c".into()),
            own(Family::Raft, "c".into()),
        ] {
            let (header, mut entries) = snapshot();
            entries.push(foreign.clone());
            let error = Incoming::decode(header, entries).unwrap_err();
            assert_eq!(error, "it has entries outside of the range's data", "{foreign:?}");
        }
    }
}
