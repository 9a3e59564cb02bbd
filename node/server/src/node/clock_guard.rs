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
    offsets: BTreeMap<NodeId, Measured>,
}

/// One exchange with another node.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// When it ended.
    at: Duration,
    /// How far the other clock is off for certain.
    proven: Duration,
    /// How far ahead the other clock seems to be if both ways took equally long, in nanoseconds.
    estimate: i64,
}

/// What the clocks of the other nodes seem to read, against the own one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClockOffsets {
    /// Mean of the offsets, nanoseconds; positive when the others are ahead.
    pub mean_nanos: i64,
    /// Their standard deviation, nanoseconds.
    pub stddev_nanos: i64,
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
        // The middle without the sum, which may not fit.
        let middle = sent / 2 + received / 2;
        let estimate = i64::try_from(i128::from(remote) - i128::from(middle)).unwrap_or(i64::MAX);
        let proven = Duration::from_nanos(offset);
        self.offsets.insert(peer, Measured { at: now, proven, estimate });
    }

    /// What was measured lately, as it is shown.
    pub(crate) fn offsets(&self) -> ClockOffsets {
        let count = i128::try_from(self.offsets.len()).unwrap_or(i128::MAX).max(1);
        let estimates = || self.offsets.values().map(|measured| i128::from(measured.estimate));
        let mean = estimates().sum::<i128>() / count;
        let variance = estimates().map(|estimate| (estimate - mean).pow(2)).sum::<i128>() / count;
        ClockOffsets {
            mean_nanos: i64::try_from(mean).unwrap_or(i64::MAX),
            stddev_nanos: i64::try_from(variance.isqrt()).unwrap_or(i64::MAX),
        }
    }

    /// Fails when most of the clocks, this one among them, say that this one is off.
    pub(crate) fn check(&mut self, now: Duration) -> Result<(), ClockAstray> {
        self.offsets.retain(|_, measured| now.saturating_sub(measured.at) < FRESH);
        let known = self.offsets.len();
        let off = |measured: &&Measured| measured.proven > self.tolerated;
        let astray = self.offsets.values().filter(off).count();
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
    fn offsets_are_shown_as_mean_and_deviation() {
        let mut guard = guard();
        assert_eq!(guard.offsets(), ClockOffsets::default());
        hear(&mut guard, 2, 1, 40);
        hear(&mut guard, 3, 1, -20);
        let shown = guard.offsets();
        let millis = |nanos: i64| nanos / 1_000_000;
        assert_eq!((millis(shown.mean_nanos), millis(shown.stddev_nanos)), (10, 30));
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
