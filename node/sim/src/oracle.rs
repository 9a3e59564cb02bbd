//! What was served under which lease.

use std::collections::BTreeMap;

use crdb_keys::{RangeId, Timestamp};

/// Timestamps served under one lease.
#[derive(Clone, Copy, Debug)]
struct Served {
    node: usize,
    /// Of reads and writes at the leaseholder's present.
    min: Timestamp,
    /// Of all.
    max: Timestamp,
}

/// Watches leases from outside.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    leases: BTreeMap<RangeId, BTreeMap<u64, Served>>,
    /// Start and largest bound of each lease that was held.
    intervals: BTreeMap<RangeId, BTreeMap<u64, (Timestamp, Timestamp)>>,
}

impl Oracle {
    /// Records a request served on `node` under lease `sequence` at `timestamp`. `present` tells
    /// that the leaseholder chose it.
    pub(crate) fn served(
        &mut self,
        range: RangeId,
        sequence: u64,
        node: usize,
        timestamp: Timestamp,
        present: bool,
    ) -> Result<(), String> {
        let leases = self.leases.entry(range).or_default();
        let min = if present { timestamp } else { Timestamp::MAX };
        let entry = leases.entry(sequence).or_insert(Served { node, min, max: timestamp });
        if entry.node != node {
            return Err(format!(
                "lease {sequence} of {range} is used by s{} and s{}",
                entry.node + 1,
                node + 1
            ));
        }
        entry.min = entry.min.min(min);
        entry.max = entry.max.max(timestamp);
        let entry = *entry;
        for (other, served) in leases.iter() {
            let overlap = (*other < sequence && served.max >= entry.min)
                || (*other > sequence && served.min <= entry.max);
            if overlap {
                return Err(format!(
                    "{range} served up to {} under lease {} on s{} and from {} under lease {} on \
                     s{}",
                    if *other < sequence { served.max } else { entry.max },
                    sequence.min(*other),
                    if *other < sequence { served.node } else { node } + 1,
                    if *other < sequence { entry.min } else { served.min },
                    sequence.max(*other),
                    if *other < sequence { node } else { served.node } + 1,
                ));
            }
        }
        Ok(())
    }

    /// Records that a lease is held which may serve the timestamps between `start` and `bound`.
    /// Only where no lease is ever given up early: of those, what they could have served at most
    /// says nothing.
    pub(crate) fn held(
        &mut self,
        range: RangeId,
        sequence: u64,
        start: Timestamp,
        bound: Timestamp,
    ) -> Result<(), String> {
        let intervals = self.intervals.entry(range).or_default();
        let entry = intervals.entry(sequence).or_insert((start, bound));
        entry.1 = entry.1.max(bound);
        let own = *entry;
        for (other, interval) in intervals.iter() {
            let (first, second) = match other.cmp(&sequence) {
                std::cmp::Ordering::Less => (*interval, own),
                std::cmp::Ordering::Equal => continue,
                std::cmp::Ordering::Greater => (own, *interval),
            };
            // All that is served lies below the bound and above the start.
            if first.1 > second.0.next() {
                return Err(format!(
                    "{range} may be served up to {} under lease {} and from {} under lease {}",
                    first.1,
                    sequence.min(*other),
                    second.0,
                    sequence.max(*other)
                ));
            }
        }
        Ok(())
    }

    /// How many leases served something.
    pub(crate) fn leases(&self) -> usize {
        self.leases.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_timestamps_of_two_leases_are_found() {
        let at = |wall| Timestamp::new(wall, 0);
        let mut oracle = Oracle::default();
        oracle.served(RangeId(1), 1, 0, at(10), true).unwrap();
        oracle.served(RangeId(1), 2, 1, at(20), true).unwrap();
        // A read in the past may be served by a later lease.
        oracle.served(RangeId(1), 2, 1, at(5), false).unwrap();
        oracle.served(RangeId(2), 1, 0, at(30), true).unwrap();
        oracle.served(RangeId(1), 1, 0, at(20), false).unwrap_err();
        oracle.served(RangeId(2), 1, 1, at(31), true).unwrap_err();
    }

    #[test]
    fn overlapping_intervals_of_two_leases_are_found() {
        let at = |wall| Timestamp::new(wall, 0);
        let mut oracle = Oracle::default();
        oracle.held(RangeId(1), 1, at(10), at(20)).unwrap();
        oracle.held(RangeId(1), 1, at(10), at(30)).unwrap();
        oracle.held(RangeId(1), 2, at(30), at(40)).unwrap();
        oracle.held(RangeId(2), 2, at(5), at(15)).unwrap();
        oracle.held(RangeId(1), 1, at(10), at(32)).unwrap_err();
        oracle.held(RangeId(2), 3, at(10), at(20)).unwrap_err();
    }
}
