//! Whether the wall clock of this node agrees with those of the others.
//!
//! Reads and leases are right only while clocks are at most the maximum offset apart. A node whose
//! clock left the majority must not serve; one that merely sees another node's clock astray must.
//!
//! Each exchange gives a bound that no delay can falsify: the other node read its clock after this
//! one sent and before it received. Only what lies outside that span counts as an offset.

use std::collections::BTreeMap;
use std::time::Duration;

use crdb_keys::NodeId;

/// A measurement this old says nothing any more.
const FRESH: Duration = Duration::from_secs(10);

/// This node's clock is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the clock of this node is more than {}ms off those of {astray} of the {known} other nodes it \
     hears; synchronize the clocks, then start it again",
    .tolerated.as_millis()
)]
pub struct ClockAstray {
    /// Nodes whose clocks differ from this one's by more.
    pub astray: usize,
    /// Nodes heard lately.
    pub known: usize,
    /// The difference tolerated.
    pub tolerated: Duration,
}

/// The latest offsets to the other nodes.
#[derive(Debug)]
pub(crate) struct ClockGuard {
    tolerated: Duration,
    offsets: BTreeMap<NodeId, (Duration, Duration)>,
}

impl ClockGuard {
    /// A guard for a cluster with this maximum offset, four fifths of which are tolerated.
    pub(crate) fn new(max_offset: Duration) -> Self {
        Self { tolerated: max_offset * 4 / 5, offsets: BTreeMap::new() }
    }

    /// Notes an exchange that ended at `now`: the own wall clock read `sent` before it and
    /// `received` after it, the other node's read `remote` in between; in nanoseconds.
    pub(crate) fn measured(
        &mut self,
        peer: NodeId,
        now: Duration,
        sent: u64,
        remote: u64,
        received: u64,
    ) {
        let offset = remote.saturating_sub(received).max(sent.saturating_sub(remote));
        self.offsets.insert(peer, (now, Duration::from_nanos(offset)));
    }

    /// Fails when most of the clocks, this one among them, say that this one is off.
    pub(crate) fn check(&mut self, now: Duration) -> Result<(), ClockAstray> {
        self.offsets.retain(|_, (at, _)| now.saturating_sub(*at) < FRESH);
        let known = self.offsets.len();
        let astray = self.offsets.values().filter(|(_, offset)| *offset > self.tolerated).count();
        if astray * 2 > known + 1 {
            return Err(ClockAstray { astray, known, tolerated: self.tolerated });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn guard() -> ClockGuard {
        ClockGuard::new(Duration::from_millis(500))
    }

    /// An exchange of 10 ms with a peer whose clock is `offset` milliseconds ahead.
    fn hear(guard: &mut ClockGuard, peer: u32, at: u64, offset: i64) {
        let remote = (1005_i64 + offset).cast_unsigned() * MS;
        guard.measured(NodeId(peer), Duration::from_secs(at), 1000 * MS, remote, 1010 * MS);
    }

    #[test]
    fn a_majority_decides_who_is_off() {
        let mut guard = guard();
        let now = Duration::from_secs(1);
        assert_eq!(guard.check(now), Ok(()));
        // Of two clocks, nobody knows which is off.
        hear(&mut guard, 2, 1, 900);
        assert_eq!(guard.check(now), Ok(()));
        hear(&mut guard, 3, 1, 0);
        assert_eq!(guard.check(now), Ok(()));
        hear(&mut guard, 3, 1, -900);
        let tolerated = Duration::from_millis(400);
        assert_eq!(guard.check(now), Err(ClockAstray { astray: 2, known: 2, tolerated }));
        hear(&mut guard, 2, 1, 390);
        assert_eq!(guard.check(now), Ok(()));
    }

    #[test]
    fn old_measurements_and_slow_exchanges_prove_nothing() {
        let mut guard = guard();
        hear(&mut guard, 2, 1, 900);
        hear(&mut guard, 3, 1, 900);
        assert!(guard.check(Duration::from_secs(2)).is_err());
        assert_eq!(guard.check(Duration::from_secs(12)), Ok(()));
        let at = Duration::from_secs(12);
        for peer in [2, 3] {
            guard.measured(NodeId(peer), at, 1000 * MS, 2000 * MS, 4000 * MS);
        }
        assert_eq!(guard.check(at), Ok(()));
    }
}
