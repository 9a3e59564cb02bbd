//! Removes what no read can see any more from the ranges whose lease is here.
//!
//! What a read at the threshold or above sees is kept. The threshold of a range is the lowest of
//!
//! * the present minus `kv.gc.ttl`,
//! * what the range has closed: nothing may appear below it any more,
//! * what the transactions that are open on any live node may read, see below.
//!
//! *Protected reads.* Each node gossips the lowest timestamp its open transactions may read at, or
//! its clock if there are none, with its load, once a second. Clocks and the begin of transactions
//! only move on, so a transaction that begins after a report reads above it, less the largest
//! difference of two clocks. One that asks for a time in the past, between two reports, below the
//! threshold, is refused with an error, like any read of what was collected; it never reads a
//! wrong answer. A node that is not alive protects nothing: its transactions cannot commit.
//!
//! *Records of transactions.* Records that say COMMITTED or STAGING, whose coordinator died before
//! it cleaned up, are found by the same commands, some at a time. Their intents are resolved, in
//! whatever range, and then they are removed; one at a time, in the order found. Where some went,
//! more is looked for at once; what fails is found again by the next sweep.
//!
//! A run does a bounded piece of work. A range that was swept is left alone until the threshold
//! has moved on by a tenth of the time versions are kept, and for good while nothing is written to
//! it and no record is left in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crdb_keys::{RangeId, Timestamp};
use crdb_kv::{Sender, clean_up_after, contention};
use crdb_proto::kv::{self, BatchHeader, BatchRequest, request, response};
use crdb_raftstore::RangeStatus;
use crdb_settings::GC_TTL;
use tracing::debug;

use super::shared::{Running, Shared};
use crate::clock::elapsed;
use crate::limits::Limits;

/// What is known of a range that was swept.
#[derive(Clone, Debug, Default)]
struct Sweep {
    /// Threshold of the sweep under way, or the last one.
    threshold: Timestamp,
    /// Where the sweep goes on; empty when it is done.
    resume: bytes::Bytes,
    /// The last index applied when the range was looked at, and since when it is that.
    index: u64,
    unchanged_since: Timestamp,
    /// The sweep left records of transactions that were not old enough to go.
    records_left: bool,
    /// The newest write was below the threshold of the last sweep, and it is done.
    clean: bool,
}

impl Sweep {
    /// Where to sweep from, and to which threshold, if there is something to do at a range that
    /// applied `index`.
    fn due(
        &mut self,
        range: &RangeStatus,
        threshold: Timestamp,
        now: Timestamp,
        ttl: Duration,
    ) -> Option<(bytes::Bytes, Timestamp)> {
        if range.applied_index != self.index {
            self.index = range.applied_index;
            self.unchanged_since = now;
            self.clean = false;
        }
        let (start, end) = (&range.descriptor.start_key, &range.descriptor.end_key);
        if *start <= self.resume && self.resume < *end {
            return Some((self.resume.clone(), self.threshold));
        }
        let step = u64::try_from(ttl.as_nanos() / 10).unwrap_or(u64::MAX);
        if self.clean || self.threshold.add_nanos(step) > threshold {
            return None;
        }
        Some((start.clone(), threshold))
    }

    /// Notes how far a sweep came.
    fn swept(
        &mut self,
        threshold: Timestamp,
        resume: Option<bytes::Bytes>,
        index: u64,
        records_left: bool,
    ) {
        // A sweep that goes on remembers what its earlier parts left.
        self.records_left = records_left || !self.resume.is_empty() && self.records_left;
        self.threshold = threshold;
        let done = resume.is_none();
        self.resume = resume.unwrap_or_default();
        self.clean =
            done && !self.records_left && index == self.index && self.unchanged_since < threshold;
    }
}

/// Collects garbage until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let Some(running) = shared.running.get() else { return };
    let limits = shared.limits();
    let mut sweeps: BTreeMap<RangeId, Sweep> = BTreeMap::new();
    loop {
        let began = elapsed();
        // The setting may become shorter while this waits.
        while elapsed().saturating_sub(began) < pause(limits, shared.settings.get(GC_TTL)) {
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = tokio::time::sleep(limits.gc_pause_min) => {}
            }
        }
        let ttl = shared.settings.get(GC_TTL);
        let ranges = running.store.ranges();
        sweeps.retain(|id, _| ranges.iter().any(|r| r.descriptor.range_id == id.get()));
        let protected = protected(&shared);
        for range in ranges.into_iter().filter(|range| range.is_leaseholder) {
            let swept = tokio::select! {
                () = shared.stop.cancelled() => return,
                swept = sweep(&shared, running, &mut sweeps, &range, protected, ttl) => swept,
            };
            if let Err(error) = swept {
                debug!(range = range.descriptor.range_id, error, "collects garbage later");
            }
        }
    }
}

/// The time between two runs while versions are kept for `ttl`.
fn pause(limits: &Limits, ttl: Duration) -> Duration {
    (ttl / 10).min(limits.gc_pause_max).max(limits.gc_pause_min)
}

/// Below this no open transaction of a live node reads.
fn protected(shared: &Shared) -> Timestamp {
    let now = shared.clock.now();
    let offset = u64::try_from(shared.clock.max_offset().as_nanos()).unwrap_or(u64::MAX);
    let own = shared.own_stats();
    let others = shared.view.live_stats(now, elapsed());
    let reported = own.into_iter().chain(others).map(|stats| {
        let reads = stats.oldest_read.map_or(Timestamp::ZERO, Timestamp::from);
        Timestamp { wall_nanos: reads.wall_nanos.saturating_sub(offset), logical: 0 }
    });
    reported.min().unwrap_or(Timestamp::ZERO)
}

async fn sweep(
    shared: &Shared,
    running: &Running,
    sweeps: &mut BTreeMap<RangeId, Sweep>,
    range: &RangeStatus,
    protected: Timestamp,
    ttl: Duration,
) -> Result<(), String> {
    let id = RangeId(range.descriptor.range_id);
    let now = shared.clock.now();
    let age = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
    let kept = Timestamp { wall_nanos: now.wall_nanos.saturating_sub(age), logical: 0 };
    let closed = running.store.closed_of(id).unwrap_or_default();
    let known = sweeps.entry(id).or_default();
    let Some((mut start, threshold)) = known.due(range, kept.min(closed).min(protected), now, ttl)
    else {
        return Ok(());
    };
    let (mut removed, mut records_left) = (0, false);
    for _ in 0..shared.limits().gc_commands {
        let collected = collect(running, range, start.clone(), threshold).await?;
        removed += collected.removed;
        let gone = clean_up(running, &collected.abandoned).await;
        // Where the command begins again, the next one says what is left.
        records_left |= collected.records_left && gone == 0;
        match next(start, &collected, gone) {
            Some(next) => start = next,
            None => {
                known.swept(threshold, None, range.applied_index, records_left);
                debug!(range = %id, removed, %threshold, "collected garbage");
                return Ok(());
            }
        }
    }
    known.swept(threshold, Some(start), range.applied_index, records_left);
    Ok(())
}

/// Where to go on after a command from `start`, after which `gone` of the records that it told are
/// gone; `None` at the end of the range.
fn next(start: bytes::Bytes, collected: &kv::GcResponse, gone: usize) -> Option<bytes::Bytes> {
    if gone > 0 {
        // It told no more than so many.
        return Some(start);
    }
    collected.resume.as_ref().map(|resume| resume.start.clone())
}

/// Cleans up after transactions whose coordinators died; returns after how many. Those that cannot
/// be reached stay.
async fn clean_up(running: &Running, abandoned: &[kv::TxnRecord]) -> usize {
    let mut gone = 0;
    for record in abandoned {
        let sender = running.sender.as_ref() as &dyn Sender;
        match clean_up_after(sender, record, *running.txns.limits()).await {
            Ok(true) => {
                gone += 1;
                debug!("cleaned up after a transaction whose coordinator is gone");
            }
            Ok(false) => debug!("a transaction that seemed abandoned goes on"),
            Err(error) => debug!(%error, "cleans up after a transaction later"),
        }
    }
    gone
}

async fn collect(
    running: &Running,
    range: &RangeStatus,
    start: bytes::Bytes,
    threshold: Timestamp,
) -> Result<kv::GcResponse, String> {
    let gc = kv::GcRequest {
        start,
        end: range.descriptor.end_key.clone(),
        threshold: Some(threshold.into()),
        max_versions: 0,
    };
    let header = BatchHeader { range_id: range.descriptor.range_id, ..BatchHeader::default() };
    let batch = BatchRequest {
        header: Some(header),
        requests: vec![kv::Request { kind: Some(request::Kind::Gc(gc)) }],
    };
    let response = contention::serve(&running.store, batch, &*running.site).await;
    if let Some(error) = response.error {
        return Err(error.message);
    }
    match response.responses.into_iter().next().and_then(|response| response.kind) {
        Some(response::Kind::Gc(collected)) => Ok(collected),
        _ => Err("the answer is of another kind".into()),
    }
}

#[cfg(test)]
mod tests {
    use crdb_proto::kv::RangeDescriptor;

    use super::*;

    fn range(applied_index: u64) -> RangeStatus {
        let descriptor = RangeDescriptor {
            range_id: 5,
            start_key: "b".into(),
            end_key: "d".into(),
            ..RangeDescriptor::default()
        };
        RangeStatus { descriptor, applied_index, ..RangeStatus::default() }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::new(seconds * 1_000_000_000, 0)
    }

    #[test]
    fn a_range_is_swept_piece_by_piece_and_left_alone_when_clean() {
        let ttl = Duration::from_secs(100);
        let mut sweep = Sweep::default();
        let start = |due: Option<(bytes::Bytes, Timestamp)>| due.map(|(start, _)| start);
        assert_eq!(start(sweep.due(&range(7), at(50), at(150), ttl)), Some("b".into()));
        sweep.swept(at(50), Some("c".into()), 7, false);
        // The rest, with the threshold of the sweep.
        assert_eq!(sweep.due(&range(9), at(60), at(160), ttl), Some(("c".into(), at(50))));
        sweep.swept(at(50), None, 9, false);
        assert_eq!(sweep.due(&range(9), at(59), at(159), ttl), None);
        assert_eq!(sweep.due(&range(9), at(61), at(161), ttl), Some(("b".into(), at(61))));
        sweep.swept(at(61), None, 9, false);
        // What was written since 160 is above the threshold.
        assert_eq!(start(sweep.due(&range(9), at(170), at(270), ttl)), Some("b".into()));
        sweep.swept(at(170), None, 9, false);
        assert_eq!(sweep.due(&range(9), at(900), at(1000), ttl), None);
        assert_eq!(start(sweep.due(&range(10), at(901), at(1001), ttl)), Some("b".into()));
    }

    #[test]
    fn more_abandoned_records_are_looked_for_where_some_were_cleaned_away() {
        let span = kv::Span { start: "c".into(), end: "d".into() };
        let piece = kv::GcResponse { resume: Some(span), ..kv::GcResponse::default() };
        let last = kv::GcResponse::default();
        assert_eq!(next("b".into(), &piece, 16), Some("b".into()));
        assert_eq!(next("b".into(), &piece, 0), Some("c".into()));
        assert_eq!(next("c".into(), &last, 1), Some("c".into()));
        // Those that nobody can clean away do not hold up the rest.
        assert_eq!(next("c".into(), &last, 0), None);
    }

    #[test]
    fn a_range_with_records_left_is_looked_at_again() {
        let ttl = Duration::from_secs(100);
        let mut sweep = Sweep::default();
        assert!(sweep.due(&range(7), at(50), at(150), ttl).is_some());
        // Its first half has some, its second half none.
        sweep.swept(at(50), Some("c".into()), 7, true);
        assert!(sweep.due(&range(7), at(160), at(260), ttl).is_some());
        sweep.swept(at(160), None, 7, false);
        assert!(sweep.due(&range(7), at(165), at(265), ttl).is_none());
        assert!(sweep.due(&range(7), at(171), at(271), ttl).is_some());
        sweep.swept(at(171), None, 7, false);
        assert!(sweep.due(&range(7), at(900), at(1000), ttl).is_none());
    }
}
