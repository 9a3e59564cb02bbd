//! Removal of what no read can see any more, and the count of what there is.
//!
//! Of each key the newest version at or below the threshold stays, since reads at the threshold
//! see it, and all above it. What is older goes. If the version that would stay is a tombstone it
//! hides nothing once the older ones are gone, and goes with the last of them, never before.
//!
//! Intents are not touched. Records go only where their absence says the same: those of
//! transactions that were aborted, or given up, and are too old to make a record again. A COMMITTED
//! record says what its absence does not, and a STAGING one may: those that nobody seems to care
//! for any more are told to the caller, who resolves the intents first and removes the record then.

use std::{ops::ControlFlow, time::Duration};

use bytes::Bytes;
use crdb_keys::{Key, Span, Timestamp};
use crdb_proto::kv::{self, TxnStatus};

use super::{
    EvalError, Evaluation, check_span, invalid,
    record::{EXPIRES_AFTER, RECORD_WINDOW, after},
};
use crate::{
    Error, Family, Limits, Reader,
    lock::{self, Lock},
    mvcc::{self, Direction},
};

/// Silence after which nobody will clean up after a transaction. A record is made within
/// [`RECORD_WINDOW`] after the begin, and says when its coordinator was heard of last, with the
/// commit at the latest; so another window has passed since then, in which a coordinator that got
/// no answer asked the record, or gave up asking.
pub const ABANDONED_AFTER: Duration = Duration::from_secs(2 * RECORD_WINDOW.as_secs());

/// The versions that go.
struct Sweep {
    threshold: Timestamp,
    limits: Limits,
    max_versions: u64,
    /// The key being looked at.
    key: Vec<u8>,
    /// Whether the version of it that reads at the threshold see was found.
    covered: bool,
    /// That version, if it is a tombstone.
    tombstone: Option<Timestamp>,
    doomed: Vec<Bytes>,
    bytes: usize,
    looked_at: u64,
    /// Where the next command goes on.
    resume: Option<Key>,
}

impl Sweep {
    fn visit(&mut self, key: &[u8], at: Timestamp, is_tombstone: bool) -> ControlFlow<()> {
        if key != self.key {
            self.end_of_key();
            if self.is_full() || self.looked_at >= self.limits.gc_looked_at {
                self.resume = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            }
            self.key.clear();
            self.key.extend_from_slice(key);
            self.covered = false;
        }
        self.looked_at += 1;
        if at > self.threshold {
            return ControlFlow::Continue(());
        }
        if !self.covered {
            self.covered = true;
            self.tombstone = is_tombstone.then_some(at);
            return ControlFlow::Continue(());
        }
        if self.is_full() {
            // The key has more; a tombstone hides them until they are gone.
            self.resume = Some(Bytes::copy_from_slice(key));
            return ControlFlow::Break(());
        }
        self.doom(at);
        ControlFlow::Continue(())
    }

    /// No version of the key is left but its tombstone.
    fn end_of_key(&mut self) {
        if let Some(at) = self.tombstone.take() {
            self.doom(at);
        }
    }

    fn doom(&mut self, at: Timestamp) {
        let version = mvcc::version_key(&self.key, at);
        self.bytes += version.len();
        self.doomed.push(version);
    }

    fn is_full(&self) -> bool {
        self.doomed.len() as u64 >= self.max_versions || self.bytes >= self.limits.gc_bytes
    }
}

impl<R: Reader> Evaluation<'_, R> {
    pub(super) fn gc(&mut self, gc: &kv::GcRequest) -> Result<kv::GcResponse, EvalError> {
        let span = check_span(&gc.start, &gc.end)?;
        let threshold = gc.threshold.map_or(Timestamp::ZERO, Timestamp::from);
        if threshold.is_zero() || threshold >= self.args.now {
            return Err(invalid("a collection needs a threshold in the past"));
        }
        let limits = self.args.limits;
        let max_versions = if gc.max_versions == 0 { limits.gc_versions } else { gc.max_versions };
        let mut sweep = Sweep {
            threshold,
            limits,
            max_versions,
            key: Vec::new(),
            covered: false,
            tombstone: None,
            doomed: Vec::new(),
            bytes: 0,
            looked_at: 0,
            resume: None,
        };
        mvcc::scan_versions(self.reader, &span, &mut |key, at, value| {
            sweep.visit(key, at, value.is_none())
        })?;
        if sweep.resume.is_none() {
            sweep.end_of_key();
        }
        let removed = sweep.doomed.len() as u64;
        for version in sweep.doomed {
            self.out.batch.delete(Family::State, version);
        }
        let end = sweep.resume.clone().unwrap_or_else(|| span.end.clone());
        let (mut abandoned, mut records_left) = (Vec::new(), false);
        if span.start < end {
            let span = Span::new(span.start, end);
            (abandoned, records_left) = self.gc_records(&span, threshold, max_versions)?;
        }
        let resume = sweep.resume.map(|start| kv::Span { start, end: span.end });
        Ok(kv::GcResponse { removed, resume, abandoned, records_left })
    }

    /// Removes records that are forgotten; answers those that are abandoned, and whether any stays.
    fn gc_records(
        &mut self,
        span: &Span,
        threshold: Timestamp,
        max_records: u64,
    ) -> Result<(Vec<kv::TxnRecord>, bool), EvalError> {
        let (now, limits) = (self.args.now, self.args.limits);
        let mut doomed = Vec::new();
        let (mut abandoned, mut left) = (Vec::new(), false);
        lock::scan(self.reader, span, Direction::Forward, &mut |lock| {
            let Lock::Record { anchor, txn_id, record } = lock else {
                return ControlFlow::Continue(());
            };
            if is_forgotten(&record, threshold, now) {
                doomed.push((anchor, txn_id));
            } else {
                left = true;
                if is_abandoned(&record, now) && abandoned.len() < limits.gc_abandoned {
                    abandoned.push(record);
                }
            }
            if (doomed.len() as u64) < max_records {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        // The scan stopped there, for all that is known.
        left |= doomed.len() as u64 >= max_records;
        for (anchor, txn_id) in doomed {
            lock::delete_record(&mut self.out.batch, &anchor, &txn_id);
        }
        Ok((abandoned, left))
    }
}

/// When a transaction began, and when it was heard of last.
fn life(record: &kv::TxnRecord) -> (Timestamp, Timestamp) {
    let began = record.meta.as_ref().and_then(|meta| meta.min_timestamp);
    let began = began.map_or(Timestamp::ZERO, Timestamp::from);
    (began, record.last_heartbeat.map_or(began, |heard| began.max(heard.into())))
}

/// Whether nobody will clean up after a transaction that has committed, or may have.
fn is_abandoned(record: &kv::TxnRecord, now: Timestamp) -> bool {
    let ends = matches!(record.status(), TxnStatus::Committed | TxnStatus::Staging);
    let written = record.meta.as_ref().and_then(|meta| meta.write_timestamp);
    let heard = life(record).1.max(written.map_or(Timestamp::ZERO, Timestamp::from));
    ends && after(heard, ABANDONED_AFTER) < now
}

/// Whether a transaction would be aborted without its record, too.
fn is_forgotten(record: &kv::TxnRecord, threshold: Timestamp, now: Timestamp) -> bool {
    let (began, heard) = life(record);
    let too_old = began < threshold && after(began, RECORD_WINDOW) < now;
    match record.status() {
        TxnStatus::Aborted => too_old,
        TxnStatus::Pending => too_old && heard < threshold && after(heard, EXPIRES_AFTER) < now,
        TxnStatus::Staging | TxnStatus::Committed => false,
    }
}

/// Counts the keys, versions and intents of a span by reading all of it. The bytes of a value are
/// those of its version's timestamp, too; what is live counts without them.
pub fn range_stats(reader: &impl Reader, span: &Span) -> Result<kv::RangeStats, Error> {
    let mut stats = kv::RangeStats::default();
    let mut last: Vec<u8> = Vec::new();
    mvcc::scan_versions(reader, span, &mut |key, _, value| {
        let (key_len, value_len) = (key.len() as u64, value.map_or(0, <[u8]>::len) as u64);
        if stats.key_count == 0 || key != last {
            stats.key_count += 1;
            stats.key_bytes += key_len;
            last.clear();
            last.extend_from_slice(key);
            if value.is_some() {
                stats.live_count += 1;
                stats.live_bytes += key_len + value_len;
            }
        }
        stats.val_count += 1;
        stats.val_bytes += mvcc::VERSION_LEN as u64 + value_len;
        ControlFlow::Continue(())
    })?;
    lock::scan_intents(reader, span, Direction::Forward, &mut |key, intent| {
        stats.intent_count += 1;
        stats.intent_bytes += (key.len() + intent.value.map_or(0, |value| value.len())) as u64;
        ControlFlow::Continue(())
    })?;
    Ok(stats)
}
