//! What a store keeps about its replicas, and how it is encoded.
//!
//! | key | family | written | holds |
//! |---|---|---|---|
//! | log entry | raft | with the log, synced | one encoded entry |
//! | hard state | raft | with the log, synced if term or vote changed | term, vote, commit |
//! | truncated state | raft | with the applied truncation | last index and term cut off |
//! | applied state | local | with what was applied | index, term, lease index, lease, voters |
//! | descriptor | local | with the change applied | span and replicas |
//! | replica | local | when the replica is created | its id |
//! | tombstone | local | when the replica is destroyed | smallest id that may come back |
//! | wall stamp | local | every 0.3 s with the log | the clock |

use bytes::Bytes;
use crdb_keys::{
    Key, RangeId, Timestamp,
    layout::{RangeLocal, range_local_key, store_wall_stamp_key},
};
use crdb_proto::kv;
use crdb_storage::{Family, Reader, WriteBatch};
use prost::Message;
use raft::eraftpb;

use crate::{handover::Handover, lease::Lease};

/// Raft term and index at which a range begins. Above zero, so that a new replica always gets a
/// snapshot and never the log from its first entry.
pub(crate) const INITIAL_INDEX: u64 = 10;
/// See [`INITIAL_INDEX`].
pub(crate) const INITIAL_TERM: u64 = 5;

/// A record could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error(transparent)]
    Storage(#[from] crdb_storage::Error),
    #[error("{what}: {detail}")]
    Corrupt { what: String, detail: String },
}

impl RecordError {
    pub(crate) fn corrupt(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), detail: detail.into() }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HardState {
    #[prost(uint64, tag = "1")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) vote: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) commit: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct TruncatedState {
    #[prost(uint64, tag = "1")]
    pub(crate) index: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ConfState {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) voters: Vec<u64>,
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) learners: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    pub(crate) voters_outgoing: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    pub(crate) learners_next: Vec<u64>,
    #[prost(bool, tag = "5")]
    pub(crate) auto_leave: bool,
}

/// The replicated state of a range but for its data and its descriptor.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AppliedState {
    #[prost(uint64, tag = "1")]
    pub(crate) index: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    /// The largest lease index applied; a command at or below it was applied before.
    #[prost(uint64, tag = "3")]
    pub(crate) lease_index: u64,
    #[prost(message, required, tag = "4")]
    pub(crate) lease: Lease,
    #[prost(message, required, tag = "5")]
    pub(crate) conf: ConfState,
    /// No version appears at or below it any more.
    #[prost(message, optional, tag = "6")]
    pub(crate) closed: Option<kv::Timestamp>,
    /// Versions below it may have been collected.
    #[prost(message, optional, tag = "7")]
    pub(crate) gc_threshold: Option<kv::Timestamp>,
    /// What the holder of the lease that ended left to the next.
    #[prost(message, optional, tag = "8")]
    pub(crate) handover: Option<Handover>,
}

impl AppliedState {
    pub(crate) fn closed(&self) -> Timestamp {
        self.closed.map(Timestamp::from).unwrap_or_default()
    }

    pub(crate) fn gc_threshold(&self) -> Timestamp {
        self.gc_threshold.map(Timestamp::from).unwrap_or_default()
    }
}

/// The replicated state that travels with a snapshot.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotState {
    #[prost(message, required, tag = "1")]
    pub(crate) applied: AppliedState,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct ReplicaRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) replica_id: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Tombstone {
    #[prost(uint64, tag = "1")]
    pub(crate) next_replica_id: u64,
}

impl HardState {
    pub(crate) fn from_raft(state: &eraftpb::HardState) -> Self {
        Self { term: state.term, vote: state.vote, commit: state.commit }
    }

    pub(crate) fn to_raft(&self) -> eraftpb::HardState {
        eraftpb::HardState {
            term: self.term,
            vote: self.vote,
            commit: self.commit,
            ..eraftpb::HardState::default()
        }
    }
}

/// Adds to `batch` the state of a range's replica at its beginning: an empty log, and `applied`.
/// A term and a vote that the replica gave before it had a state are kept.
pub(crate) fn write_initial(
    batch: &mut WriteBatch,
    descriptor: &kv::RangeDescriptor,
    replica_id: u64,
    applied: &AppliedState,
    voted: Option<HardState>,
) {
    let range = RangeId(descriptor.range_id);
    let voted = voted.filter(|voted| voted.term >= INITIAL_TERM).unwrap_or(HardState {
        term: INITIAL_TERM,
        vote: 0,
        commit: 0,
    });
    let hard_state = HardState { commit: INITIAL_INDEX, ..voted };
    let truncated = TruncatedState { index: INITIAL_INDEX, term: INITIAL_TERM };
    write(batch, range, RangeLocal::Replica, &ReplicaRecord { replica_id });
    write(batch, range, RangeLocal::Descriptor, descriptor);
    write(batch, range, RangeLocal::AppliedState, applied);
    write(batch, range, RangeLocal::HardState, &hard_state);
    write(batch, range, RangeLocal::TruncatedState, &truncated);
}

impl ConfState {
    /// Ascending, whatever order the library's sets are in: the records of replicas are equal.
    pub(crate) fn from_raft(state: &eraftpb::ConfState) -> Self {
        let sorted = |replicas: &[u64]| {
            let mut replicas = replicas.to_vec();
            replicas.sort_unstable();
            replicas
        };
        Self {
            voters: sorted(&state.voters),
            learners: sorted(&state.learners),
            voters_outgoing: sorted(&state.voters_outgoing),
            learners_next: sorted(&state.learners_next),
            auto_leave: state.auto_leave,
        }
    }

    pub(crate) fn to_raft(&self) -> eraftpb::ConfState {
        eraftpb::ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            voters_outgoing: self.voters_outgoing.clone(),
            learners_next: self.learners_next.clone(),
            auto_leave: self.auto_leave,
            ..eraftpb::ConfState::default()
        }
    }

    /// Whether a change of the voters is half done: majorities of the old and of the new are needed.
    pub(crate) fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Voters of either configuration, each once.
    pub(crate) fn all_voters(&self) -> impl Iterator<Item = u64> {
        let old = self.voters_outgoing.iter().filter(|voter| !self.voters.contains(voter));
        self.voters.iter().chain(old).copied()
    }

    /// Whether `replica` is the only voter.
    pub(crate) fn is_sole_voter(&self, replica: u64) -> bool {
        let mut all = self.all_voters();
        all.next() == Some(replica) && all.next().is_none()
    }
}

/// The family a range-local record is kept in.
fn family(what: RangeLocal) -> Family {
    match what {
        RangeLocal::RaftLog(_) | RangeLocal::HardState | RangeLocal::TruncatedState => Family::Raft,
        RangeLocal::AppliedState
        | RangeLocal::Descriptor
        | RangeLocal::Replica
        | RangeLocal::Tombstone
        | RangeLocal::Applying => Family::Local,
    }
}

/// Reads the record `what` of `range`.
pub(crate) fn read<M: Message + Default>(
    reader: &impl Reader,
    range: RangeId,
    what: RangeLocal,
) -> Result<Option<M>, RecordError> {
    let Some(bytes) = reader.get(family(what), &range_local_key(range, what))? else {
        return Ok(None);
    };
    let record = M::decode(bytes)
        .map_err(|error| RecordError::corrupt(format!("{what:?} of {range}"), error.to_string()))?;
    Ok(Some(record))
}

/// Writes the record `what` of `range`.
pub(crate) fn write(
    batch: &mut WriteBatch,
    range: RangeId,
    what: RangeLocal,
    record: &impl Message,
) {
    batch.put(family(what), range_local_key(range, what), record.encode_to_vec());
}

/// Family and key of a log entry.
pub(crate) fn log_key(range: RangeId, index: u64) -> (Family, Key) {
    (Family::Raft, range_local_key(range, RangeLocal::RaftLog(index)))
}

/// Reads the wall stamp of a store.
pub(crate) fn read_stamp(reader: &impl Reader) -> Result<Option<kv::Timestamp>, RecordError> {
    let Some(bytes) = reader.get(Family::Local, &store_wall_stamp_key())? else {
        return Ok(None);
    };
    let stamp = kv::Timestamp::decode(bytes)
        .map_err(|error| RecordError::corrupt("the wall stamp", error.to_string()))?;
    Ok(Some(stamp))
}

/// Writes the wall stamp of a store.
pub(crate) fn write_stamp(batch: &mut WriteBatch, stamp: Timestamp) {
    let stamp = kv::Timestamp::from(stamp);
    batch.put(Family::Local, store_wall_stamp_key(), Bytes::from(stamp.encode_to_vec()));
}
