//! What goes into one step of a store and what comes out of it.

use std::fmt;

use crdb_allocator::StoreInfo;
use crdb_keys::{RangeId, ReplicaId, StoreId};
use crdb_proto::{
    kv::RangeDescriptor,
    peer::{RaftBatch, SnapshotEntry, SnapshotHeader},
};
use crdb_storage::Engine;

use crate::{
    command::Kind, config::Mono, evaluate::Held, handle::Completion, snapshot::SnapshotStream,
};

/// One thing for [`Store::begin`](crate::Store::begin) to take in.
#[derive(Debug)]
pub enum Input {
    /// A batch that another store sent.
    Raft {
        /// Store the batch came from, as the transport authenticated it.
        from: StoreId,
        /// The batch.
        batch: RaftBatch,
    },
    /// A write that was evaluated and is to be replicated.
    Propose(Proposal),
    /// A whole snapshot was received.
    Snapshot(Box<ReceivedSnapshot>),
    /// A snapshot sent earlier arrived and was taken over, or not.
    SnapshotReport {
        /// Range of the snapshot.
        range_id: RangeId,
        /// Replica it was meant for.
        to_replica: ReplicaId,
        /// Whether the receiver has it.
        accepted: bool,
    },
    /// Messages to a store were lost, or its connection broke.
    Unreachable(StoreId),
    /// The stores there are, for placement. Replaces the list given before.
    Stores(Vec<StoreInfo>),
    /// Give the lease of a range to another store. Ignored unless this store leads the range.
    TransferLease {
        /// Range whose lease moves.
        range_id: RangeId,
        /// Where to; `None` lets the leader pick its most caught-up voter.
        target: Option<StoreId>,
    },
    /// Change the replicas of a range that this store leads.
    ChangeReplicas {
        /// Range to change.
        range_id: RangeId,
        /// What to change.
        change: ReplicaChange,
    },
    /// While draining, the store gives every lease away as soon as there is somebody to take it.
    Drain(bool),
}

/// One change of the replicas of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaChange {
    /// Add a learner on a store.
    AddLearner(StoreId),
    /// Make the learners on `promote` voters and the voters on `demote` learners, in one step.
    Promote {
        /// Stores whose learner becomes a voter.
        promote: Vec<StoreId>,
        /// Stores whose voter becomes a learner.
        demote: Vec<StoreId>,
    },
    /// Leave the joint configuration that [`ReplicaChange::Promote`] entered.
    LeaveJoint,
    /// Remove the learner on a store.
    RemoveLearner(StoreId),
}

impl fmt::Display for ReplicaChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |stores: &[StoreId]| {
            stores.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        match self {
            Self::AddLearner(store) => write!(f, "add learner {store}"),
            Self::Promote { promote, demote } if demote.is_empty() => {
                write!(f, "promote {}", list(promote))
            }
            Self::Promote { promote, demote } => {
                write!(f, "promote {} demote {}", list(promote), list(demote))
            }
            Self::LeaveJoint => f.write_str("leave joint"),
            Self::RemoveLearner(store) => write!(f, "remove learner {store}"),
        }
    }
}

/// An evaluated write on its way into the log.
#[derive(Debug)]
pub struct Proposal {
    pub(crate) range_id: RangeId,
    pub(crate) lease_sequence: u64,
    pub(crate) effect: Effect,
    /// Held until the command is applied or can no longer be.
    pub(crate) held: Option<Box<Held>>,
    pub(crate) slot: Completion,
}

impl Proposal {
    /// Range that will hold the command.
    #[must_use]
    pub fn range_id(&self) -> RangeId {
        self.range_id
    }

    /// Size of the encoded effects.
    #[must_use]
    pub fn size(&self) -> usize {
        match &self.effect {
            Effect::Command(Kind::Write(batch)) => batch.len(),
            Effect::Command(Kind::Gc(gc)) => gc.batch.len(),
            Effect::Command(_) | Effect::TransferLease(_) => 0,
        }
    }
}

/// What a proposal asks the store to bring about.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Replicate this.
    Command(Kind),
    /// Give the lease to this store.
    TransferLease(StoreId),
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalResult {
    /// It was applied.
    Applied,
    /// It was never applied and never will be: the lease is elsewhere.
    NotLeaseholder,
    /// It was never applied and never will be: the range takes no more at the moment.
    Refused,
    /// It was never applied and never will be, for this reason.
    Failed(&'static str),
    /// It may or may not have been applied.
    Ambiguous,
}

/// A snapshot as it came off the wire, complete.
#[derive(Clone, Debug)]
pub struct ReceivedSnapshot {
    /// Store it came from.
    pub from: StoreId,
    /// Its header.
    pub header: SnapshotHeader,
    /// All its entries.
    pub entries: Vec<SnapshotEntry>,
}

/// A snapshot to send. Reading it does not disturb the store, so a worker can take its time; the
/// store must be told the end by [`Input::SnapshotReport`], also if the worker dies.
pub struct SnapshotSend<E: Engine> {
    /// Store to send it to.
    pub to: StoreId,
    /// Range it is of.
    pub range_id: RangeId,
    /// Replica it is meant for.
    pub to_replica: ReplicaId,
    /// First frame.
    pub header: SnapshotHeader,
    /// The frames that follow.
    pub stream: SnapshotStream<E>,
}

impl<E: Engine> fmt::Debug for SnapshotSend<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot of {}/{} to {}", self.range_id, self.to_replica, self.to)
    }
}

/// The descriptor of a range changed on this store.
#[derive(Clone, Debug)]
pub struct DescriptorChange {
    /// The new descriptor.
    pub descriptor: RangeDescriptor,
    /// Whether this store leads the range and so is the one to update the meta entry.
    pub leader: bool,
}

/// What [`Store::begin`](crate::Store::begin) or [`Store::finish`](crate::Store::finish) asks of
/// its driver.
#[derive(Debug)]
pub struct Outputs<E: Engine> {
    /// Batches to send; those to one store in this order, if it can be.
    pub messages: Vec<(StoreId, RaftBatch)>,
    /// Snapshots to send.
    pub snapshots: Vec<SnapshotSend<E>>,
    /// Descriptors that changed.
    pub descriptors: Vec<DescriptorChange>,
    /// When the store wants to be stepped again, at the latest.
    pub next_deadline: Mono,
}

impl<E: Engine> Default for Outputs<E> {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            snapshots: Vec::new(),
            descriptors: Vec::new(),
            next_deadline: Mono::NEVER,
        }
    }
}

/// The store cannot go on; the process must stop.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Writing or reading the data directory failed. After a failed sync nothing is known about
    /// what is durable, so there is no retry.
    #[error("the data directory of {store} failed: {source}; the node stops, check the disk")]
    Storage {
        /// Store concerned.
        store: StoreId,
        /// What failed.
        source: crdb_storage::Error,
    },
    /// What was read back is not what was written.
    #[error(
        "{what} in the data directory of {store} is damaged: {detail}; restore this node from \
             its peers: remove it from the cluster and start it with an empty directory"
    )]
    Corrupt {
        /// Store concerned.
        store: StoreId,
        /// Which record.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The consensus library refused something it never should.
    #[error("{range_id} on {store} stopped: {detail}; this is a bug, please report it")]
    Raft {
        /// Store concerned.
        store: StoreId,
        /// Range concerned.
        range_id: RangeId,
        /// What happened.
        detail: String,
    },
    /// A check within the store or the consensus library failed.
    #[error("{store} stopped at a check that failed: {detail}; this is a bug, please report it")]
    Panicked {
        /// Store concerned.
        store: StoreId,
        /// What the check says.
        detail: String,
    },
    /// The store stopped earlier because of one of the other errors.
    #[error("{store} stopped earlier and takes no more work")]
    Stopped {
        /// Store concerned.
        store: StoreId,
    },
}
