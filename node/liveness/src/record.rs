//! The liveness record and its encoding.

use std::fmt;

use bytes::Bytes;
use crdb_keys::{NodeId, Timestamp};
use prost::Message;

/// Whether a node belongs to the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Membership {
    /// A full member.
    #[default]
    Active,
    /// Its replicas are being moved away; it may become active again.
    Decommissioning,
    /// It left for good and may not come back.
    Decommissioned,
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Decommissioning => "decommissioning",
            Self::Decommissioned => "decommissioned",
        })
    }
}

/// What a node says about itself, replicated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LivenessRecord {
    /// The node.
    pub node: NodeId,
    /// Counts the processes of the node.
    pub epoch: u64,
    /// The node is alive until then, unless it writes again.
    pub expiration: Timestamp,
    /// Whether the node is giving its leases away and takes no new clients.
    pub draining: bool,
    /// The oldest catalog version that a statement of the node still uses.
    pub min_catalog_version_in_use: u64,
    /// Whether the node belongs to the cluster.
    pub membership: Membership,
}

/// A stored record could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A later version of the software wrote it.
    #[error(
        "liveness record has format {0}, this version reads format {FORMAT}; upgrade this node"
    )]
    Format(u8),
    /// The bytes make no record.
    #[error("liveness record is damaged: {0}")]
    Damaged(String),
}

/// First byte of an encoded record.
const FORMAT: u8 = 1;

#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(uint32, tag = "1")]
    node: u32,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    expiration_wall_nanos: u64,
    #[prost(uint32, tag = "4")]
    expiration_logical: u32,
    #[prost(bool, tag = "5")]
    draining: bool,
    #[prost(uint64, tag = "6")]
    min_catalog_version_in_use: u64,
    #[prost(uint32, tag = "7")]
    membership: u32,
}

impl LivenessRecord {
    /// The record as stored.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let wire = Wire {
            node: self.node.get(),
            epoch: self.epoch,
            expiration_wall_nanos: self.expiration.wall_nanos,
            expiration_logical: self.expiration.logical,
            draining: self.draining,
            min_catalog_version_in_use: self.min_catalog_version_in_use,
            membership: match self.membership {
                Membership::Active => 0,
                Membership::Decommissioning => 1,
                Membership::Decommissioned => 2,
            },
        };
        let mut bytes = Vec::with_capacity(1 + wire.encoded_len());
        bytes.push(FORMAT);
        bytes.extend(wire.encode_to_vec());
        bytes.into()
    }

    /// The record stored as `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (&format, rest) =
            bytes.split_first().ok_or_else(|| DecodeError::Damaged("it is empty".into()))?;
        if format != FORMAT {
            return Err(DecodeError::Format(format));
        }
        let wire = Wire::decode(rest).map_err(|error| DecodeError::Damaged(error.to_string()))?;
        let membership = match wire.membership {
            0 => Membership::Active,
            1 => Membership::Decommissioning,
            2 => Membership::Decommissioned,
            other => return Err(DecodeError::Damaged(format!("unknown membership {other}"))),
        };
        Ok(Self {
            node: NodeId(wire.node),
            epoch: wire.epoch,
            expiration: Timestamp::new(wire.expiration_wall_nanos, wire.expiration_logical),
            draining: wire.draining,
            min_catalog_version_in_use: wire.min_catalog_version_in_use,
            membership,
        })
    }
}

impl fmt::Display for LivenessRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} epoch {} until {} {} catalog {}{}",
            self.node,
            self.epoch,
            self.expiration,
            self.membership,
            self.min_catalog_version_in_use,
            if self.draining { " draining" } else { "" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_as_written() {
        for membership in
            [Membership::Active, Membership::Decommissioning, Membership::Decommissioned]
        {
            let record = LivenessRecord {
                node: NodeId(3),
                epoch: 7,
                expiration: Timestamp::new(12, 5),
                draining: true,
                min_catalog_version_in_use: 99,
                membership,
            };
            assert_eq!(LivenessRecord::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn foreign_and_damaged_bytes_are_refused() {
        assert_eq!(LivenessRecord::decode(&[2, 0]), Err(DecodeError::Format(2)));
        assert!(matches!(LivenessRecord::decode(&[]), Err(DecodeError::Damaged(_))));
        assert!(matches!(LivenessRecord::decode(&[1, 0xff]), Err(DecodeError::Damaged(_))));
        // Membership 3 does not exist.
        assert!(matches!(LivenessRecord::decode(&[1, 0x38, 3]), Err(DecodeError::Damaged(_))));
    }
}
