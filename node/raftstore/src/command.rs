//! What the entries of a range's log say.

use bytes::Bytes;
use crdb_keys::Timestamp;
use crdb_proto::kv;
use prost::Message;

use crate::{handover::Handover, lease::Bound};

/// One command of the log.
///
/// But for a lease, a command takes effect only if its lease sequence is that of the lease in
/// force, its entry is of the lease's term, the lease has not ended, and its lease index is above
/// all applied before. Thus a command evaluated under one lease never takes effect under another,
/// and none takes effect twice.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Command {
    #[prost(uint64, tag = "1")]
    pub(crate) lease_sequence: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) lease_index: u64,
    #[prost(oneof = "Kind", tags = "3, 4, 5, 6, 7, 8, 9, 11")]
    pub(crate) kind: Option<Kind>,
    /// No command behind this one writes at or below.
    #[prost(message, optional, tag = "10")]
    pub(crate) closed: Option<kv::Timestamp>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Kind {
    /// An encoded write batch, the effect of a request.
    #[prost(bytes = "bytes", tag = "3")]
    Write(Bytes),
    /// The leader of the entry's term takes the lease.
    #[prost(message, tag = "4")]
    AcquireLease(AcquireLease),
    /// The leaseholder served nothing at or above this timestamp and gives the lease up.
    #[prost(message, tag = "5")]
    EndLease(EndLease),
    /// The log up to and with this index may go.
    #[prost(uint64, tag = "6")]
    Truncate(u64),
    /// The replicas change; goes with a change of the raft configuration.
    #[prost(message, tag = "7")]
    ChangeReplicas(kv::RangeDescriptor),
    /// The range gives its upper keys to a new one.
    #[prost(message, boxed, tag = "8")]
    Split(Box<Split>),
    /// The descriptor changes in what is neither its span nor its replicas.
    #[prost(message, tag = "9")]
    Describe(kv::RangeDescriptor),
    /// Versions go that no read at or above a threshold sees.
    #[prost(message, tag = "11")]
    Gc(Gc),
}

/// How a lease ends that its holder gives up.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EndLease {
    /// No timestamp at or above it was served.
    #[prost(message, required, tag = "1")]
    pub(crate) end: kv::Timestamp,
    /// For the next leaseholder.
    #[prost(message, required, tag = "2")]
    pub(crate) handover: Handover,
}

/// A piece of garbage collection.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Gc {
    /// Reads below fail from here on.
    #[prost(message, required, tag = "1")]
    pub(crate) threshold: kv::Timestamp,
    /// An encoded write batch that removes versions.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) batch: Bytes,
}

/// How a range splits in two. The latch on the whole range is held until it is applied.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Split {
    /// What the range is from then on.
    #[prost(message, required, tag = "1")]
    pub(crate) left: kv::RangeDescriptor,
    /// The new range, with the same replicas.
    #[prost(message, required, tag = "2")]
    pub(crate) right: kv::RangeDescriptor,
    /// No timestamp at or above it was served of the keys that go to the new range.
    #[prost(message, required, tag = "3")]
    pub(crate) at: kv::Timestamp,
    /// For the first leaseholder of the new range.
    #[prost(message, required, tag = "4")]
    pub(crate) handover: Handover,
}

/// What a new leader says about its lease.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AcquireLease {
    #[prost(uint64, tag = "1")]
    pub(crate) replica_id: u64,
    #[prost(message, required, tag = "2")]
    pub(crate) now: kv::Timestamp,
    /// The bounds of those who voted for it, and its own.
    #[prost(message, repeated, tag = "3")]
    pub(crate) bounds: Vec<Bound>,
}

impl AcquireLease {
    pub(crate) fn now(&self) -> Timestamp {
        self.now.into()
    }
}
