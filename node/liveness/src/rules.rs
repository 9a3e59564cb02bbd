//! What follows from liveness records.

use std::{fmt, time::Duration};

use crdb_keys::{NodeId, Timestamp};

use crate::{LivenessRecord, Membership};

/// Time between two writes of a node's record.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// How long a record is valid after its write.
pub const RECORD_VALIDITY: Duration = Duration::from_secs(6);
/// How long after its record lapsed a node counts as dead, unless a setting says otherwise.
pub const DEAD_AFTER: Duration = Duration::from_secs(300);

/// Whether a node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// Its record is valid.
    Live,
    /// Its record lapsed, but not for long.
    Suspect,
    /// Its record lapsed so long ago that its replicas are to be replaced.
    Dead,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
        })
    }
}

/// The health that `record` shows at `now`, when a node counts as dead `dead_after` its record
/// lapsed. A decommissioned node that fell silent is dead at once: it does not come back.
#[must_use]
pub fn health(record: &LivenessRecord, now: Timestamp, dead_after: Duration) -> Health {
    if now < record.expiration {
        return Health::Live;
    }
    let dead_after = u64::try_from(dead_after.as_nanos()).unwrap_or(u64::MAX);
    if record.membership == Membership::Decommissioned
        || now >= record.expiration.add_nanos(dead_after)
    {
        Health::Dead
    } else {
        Health::Suspect
    }
}

/// A node may not write its record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatError {
    /// A later process of the same node wrote it.
    #[error(
        "another process runs as {node} (epoch {theirs}, ours {ours}); stop one of the two, and \
         never start two processes on copies of one data directory"
    )]
    Superseded {
        /// The node.
        node: NodeId,
        /// Epoch of this process.
        ours: u64,
        /// Epoch found.
        theirs: u64,
    },
    /// The node was decommissioned.
    #[error("{node} was decommissioned and may not rejoin; start it with an empty data directory")]
    Decommissioned {
        /// The node.
        node: NodeId,
    },
}

/// The record that process `epoch` of `node` writes at `now` over `current`. With `epoch` `None`
/// the process writes its first record and takes the epoch after the one found.
pub fn heartbeat(
    current: Option<&LivenessRecord>,
    node: NodeId,
    epoch: Option<u64>,
    now: Timestamp,
    draining: bool,
    min_catalog_version_in_use: u64,
) -> Result<LivenessRecord, HeartbeatError> {
    let found = current.map_or(0, |record| record.epoch);
    let epoch = epoch.unwrap_or(found + 1);
    if found > epoch {
        return Err(HeartbeatError::Superseded { node, ours: epoch, theirs: found });
    }
    let membership = current.map_or(Membership::Active, |record| record.membership);
    if membership == Membership::Decommissioned {
        return Err(HeartbeatError::Decommissioned { node });
    }
    let validity = u64::try_from(RECORD_VALIDITY.as_nanos()).unwrap_or(u64::MAX);
    // A record never gets shorter, or a slow clock could take back what was promised.
    let floor = current.map_or(Timestamp::ZERO, |record| record.expiration);
    Ok(LivenessRecord {
        node,
        epoch,
        expiration: now.add_nanos(validity).max(floor),
        draining,
        min_catalog_version_in_use,
        membership,
    })
}

/// `record` with its membership changed to `to`; `None` if that change does not exist.
#[must_use]
pub fn set_membership(record: &LivenessRecord, to: Membership) -> Option<LivenessRecord> {
    let allowed = match (record.membership, to) {
        (Membership::Active, Membership::Decommissioned) => false,
        (Membership::Decommissioned, to) => to == Membership::Decommissioned,
        (Membership::Active | Membership::Decommissioning, _) => true,
    };
    allowed.then(|| LivenessRecord { membership: to, ..record.clone() })
}

/// The oldest catalog version in use by a node that may still act on it: every node whose record
/// has not lapsed at `now`. `None` without such a node.
#[must_use]
pub fn catalog_version_floor<'a>(
    records: impl IntoIterator<Item = &'a LivenessRecord>,
    now: Timestamp,
) -> Option<u64> {
    records
        .into_iter()
        .filter(|record| now < record.expiration)
        .map(|record| record.min_catalog_version_in_use)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::new(seconds * SECOND, 0)
    }

    fn record(epoch: u64, now: u64) -> LivenessRecord {
        heartbeat(None, NodeId(1), Some(epoch), at(now), false, 5).unwrap()
    }

    #[test]
    fn health_goes_from_live_to_suspect_to_dead() {
        let record = record(1, 100);
        let dead_after = Duration::from_secs(300);
        assert_eq!(health(&record, at(105), dead_after), Health::Live);
        assert_eq!(health(&record, at(106), dead_after), Health::Suspect);
        assert_eq!(health(&record, at(405), dead_after), Health::Suspect);
        assert_eq!(health(&record, at(406), dead_after), Health::Dead);
        let gone = LivenessRecord { membership: Membership::Decommissioned, ..record };
        assert_eq!(health(&gone, at(106), dead_after), Health::Dead);
    }

    #[test]
    fn a_new_process_takes_the_next_epoch_and_the_old_one_stops() {
        let first = record(1, 100);
        let second = heartbeat(Some(&first), NodeId(1), None, at(101), false, 6).unwrap();
        assert_eq!(second.epoch, 2);
        let error = heartbeat(Some(&second), NodeId(1), Some(1), at(102), false, 6).unwrap_err();
        assert_eq!(error, HeartbeatError::Superseded { node: NodeId(1), ours: 1, theirs: 2 });
    }

    #[test]
    fn a_slow_clock_does_not_shorten_the_record() {
        let first = record(1, 100);
        let again = heartbeat(Some(&first), NodeId(1), Some(1), at(50), true, 6).unwrap();
        assert_eq!(again.expiration, first.expiration);
        assert!(again.draining);
    }

    #[test]
    fn decommissioned_is_final() {
        let active = record(1, 100);
        assert_eq!(set_membership(&active, Membership::Decommissioned), None);
        let leaving = set_membership(&active, Membership::Decommissioning).unwrap();
        assert!(set_membership(&leaving, Membership::Active).is_some());
        let gone = set_membership(&leaving, Membership::Decommissioned).unwrap();
        assert_eq!(set_membership(&gone, Membership::Active), None);
        let error = heartbeat(Some(&gone), NodeId(1), None, at(200), false, 1).unwrap_err();
        assert_eq!(error, HeartbeatError::Decommissioned { node: NodeId(1) });
    }

    #[test]
    fn lapsed_records_do_not_hold_the_catalog_back() {
        let old = LivenessRecord { min_catalog_version_in_use: 3, ..record(1, 100) };
        let fresh = LivenessRecord { min_catalog_version_in_use: 7, ..record(1, 104) };
        assert_eq!(catalog_version_floor([&old, &fresh], at(105)), Some(3));
        assert_eq!(catalog_version_floor([&old, &fresh], at(107)), Some(7));
        assert_eq!(catalog_version_floor([&old, &fresh], at(120)), None);
    }
}
