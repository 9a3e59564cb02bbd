//! Reads: single keys, scans, and the proof that earlier reads still hold.
//!
//! A scan merges three sources: the versions, the intents of its span, and what the batch itself
//! has written. Most spans hold no intents: so the versions are read first, up to where a bound stops
//! the scan, and then only so far is looked for intents, which costs as much as was removed there in
//! the last while. Where there are some that matter, that part is read again, merged with them, page
//! by page of intents.
//!
//! What a read does about a version or intent at `t` that it did not write:
//!
//! | | `t` ≤ read | read < `t` ≤ uncertainty limit | above |
//! |---|---|---|---|
//! | version, plain read | visible | `ReadUncertain` | passed over |
//! | version, locking read | visible | `WriteTooOld` | `WriteTooOld` |
//! | intent, plain read | in the way | in the way | passed over |
//! | intent, locking read | in the way | in the way | in the way |
//!
//! A plain read passes over versions of which the caller knows that they are of after the reader's
//! begin, as if they were above the limit.
//!
//! A locking read that leaves out locked rows leaves out those with such an intent, and does not
//! look at their versions.

use std::{collections::BTreeMap, iter::Peekable, ops::ControlFlow};

use bytes::Bytes;
use crdb_keys::{Key, Span, Timestamp, encoding, pretty::Pretty};
use crdb_proto::kv::{self, LockStrength, error};

use super::{
    EvalError, Evaluation, Newer, Writes, check_key, check_span, failed, invalid, write::Written,
};
use crate::{
    Reader, lock,
    mvcc::{self, Direction},
};

/// What a merged scan finds at a key.
pub(super) enum Seen<'a> {
    /// A version of the state, or a tombstone.
    Version(Timestamp, Option<&'a [u8]>),
    /// What the transaction, or this batch, has written there.
    Own(Option<&'a [u8]>),
    /// An intent of another transaction.
    Foreign(&'a kv::TxnMeta),
}

/// What lies above the versions at a key.
enum Above {
    Own(Option<Bytes>),
    Foreign(kv::TxnMeta),
}

/// The first part of a span.
struct Part {
    span: Span,
    /// What lies above the versions in it.
    above: BTreeMap<Key, Above>,
    /// What is left of the span.
    left: Option<Span>,
}

impl<R: Reader> Evaluation<'_, R> {
    pub(super) fn get(&mut self, get: &kv::GetRequest) -> Result<kv::GetResponse, EvalError> {
        check_key(&get.key)?;
        self.check_threshold(self.read)?;
        let lock = self.lock_strength(get.lock)?;
        if lock.is_some_and(|strength| self.skips_locked(&get.key, strength)) {
            return Ok(kv::GetResponse::default());
        }
        let Some((value, own_intent)) = self.visible(&get.key, lock)? else {
            return Ok(kv::GetResponse::default());
        };
        self.served(Span::point(get.key.clone()), self.read);
        let bytes = value.as_ref().filter(|_| !get.lock_only).map_or(0, Bytes::len);
        self.answered += (get.key.len() + bytes) as u64;
        if let Some(strength) = lock
            && (value.is_some() || get.lock_absent)
        {
            self.out.locks.push((get.key.clone(), strength));
        }
        Ok(kv::GetResponse { value: value.filter(|_| !get.lock_only), own_intent })
    }

    /// The value of a key as the batch sees it, and whether it is that of an own intent; the outer
    /// `None` if it may not see it.
    fn visible(
        &mut self,
        key: &Key,
        lock: Option<LockStrength>,
    ) -> Result<Option<(Option<Bytes>, bool)>, EvalError> {
        if let Some(written) = self.written.get(key) {
            return Ok(Some((written.value.clone(), written.has_intent())));
        }
        if let Some(intent) = lock::get_intent(self.reader, key)? {
            if self.is_own(&intent) {
                return Ok(Some((intent.value, true)));
            }
            if self.is_in_the_way(&intent, lock) {
                if lock.is_none() || !self.leaves_out_locked() {
                    self.block(key, intent.txn.unwrap_or_default());
                }
                return Ok(None);
            }
        }
        let version = mvcc::get_version(self.reader, key, self.version_ceiling(lock))?;
        match version {
            Some(version) if version.timestamp > self.read => {
                self.met_newer(key, version.timestamp, lock);
                Ok(None)
            }
            Some(version) => Ok(Some((version.value, false))),
            None => Ok(Some((None, false))),
        }
    }

    pub(super) fn scan(&mut self, scan: &kv::ScanRequest) -> Result<kv::ScanResponse, EvalError> {
        let span = check_span(&scan.start, &scan.end)?;
        self.check_threshold(self.read)?;
        let lock = self.lock_strength(scan.lock)?;
        let direction = if scan.reverse { Direction::Reverse } else { Direction::Forward };
        let rows = self.rows(scan, &span, direction, lock)?;
        let read = rows.served(&span, direction);
        let Rows { response, locked, newer, foreign, bytes, .. } = rows;
        self.answered += bytes;
        self.blocking.extend(foreign);
        if let Some((key, existing)) = newer {
            self.met_newer(&key, existing, lock);
        }
        self.served(read, self.read);
        if let Some(strength) = lock {
            self.out.locks.extend(locked.into_iter().map(|key| (key, strength)));
        }
        Ok(response)
    }

    /// What a scan finds, up to where it stops.
    fn rows<'s>(
        &self,
        scan: &'s kv::ScanRequest,
        span: &Span,
        direction: Direction,
        lock: Option<LockStrength>,
    ) -> Result<Rows<'s>, EvalError> {
        let ceiling = self.version_ceiling(lock);
        let in_the_way = |intent: &kv::Intent| self.is_in_the_way(intent, lock);
        let mut page = span.clone();
        if self.written.is_empty() {
            let mut rows = Rows::new(self, scan, lock);
            mvcc::scan(self.reader, span, ceiling, direction, &mut |key, version, value| {
                Ok(rows.visit(self, key, &Seen::Version(version, value)))
            })?;
            page = rows.served(span, direction);
            let mut found = false;
            lock::scan_intents(self.reader, &page, direction, &mut |_, intent| {
                found = self.is_own(&intent) || in_the_way(&intent);
                if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if !found {
                return Ok(rows);
            }
        }
        let mut rows = Rows::new(self, scan, lock);
        let mut visit = |key: &[u8], seen: Seen<'_>| rows.visit(self, key, &seen);
        self.merged(&page, ceiling, direction, &in_the_way, &mut visit)?;
        if rows.response.resume.is_none() && page != *span {
            rows.response.resume = Some(match direction {
                Direction::Forward => kv::Span { start: page.end, end: span.end.clone() },
                Direction::Reverse => kv::Span { start: span.start.clone(), end: page.start },
            });
        }
        Ok(rows)
    }

    /// Proves that nobody wrote to spans between an earlier read and the present one, or, in a
    /// batch that commits at once, the commit.
    pub(super) fn validate(
        &mut self,
        validate: &kv::ValidateRequest,
    ) -> Result<kv::ValidateResponse, EvalError> {
        let since = validate
            .since
            .map(Timestamp::from)
            .ok_or_else(|| invalid("a validation needs the timestamp of the reads"))?;
        // A deletion since then may be gone without a trace.
        self.check_threshold(since)?;
        let (until, waits) = match self.writes {
            Writes::Versions { at, .. } if self.writing => (at, true),
            _ => (self.read, false),
        };
        for span in &validate.spans {
            let span = if span.end.is_empty() {
                check_key(&span.start)?;
                Span::point(span.start.clone())
            } else {
                check_span(&span.start, &span.end)?
            };
            if let Some((key, newer)) = self.newest_between(&span, since, until)? {
                return Err(conflict(key, newer));
            }
            self.validate_intents(&span, until, waits)?;
            self.served(span, until);
        }
        Ok(kv::ValidateResponse {})
    }

    /// A key of the span that has a version above `since`, at or below `until`.
    fn newest_between(
        &self,
        span: &Span,
        since: Timestamp,
        until: Timestamp,
    ) -> Result<Option<(Key, Timestamp)>, EvalError> {
        if span.is_point() {
            let version = mvcc::get_version(self.reader, &span.start, until)?;
            let newer = version.filter(|version| version.timestamp > since);
            return Ok(newer.map(|version| (span.start.clone(), version.timestamp)));
        }
        let mut found = None;
        mvcc::scan(self.reader, span, until, Direction::Forward, &mut |key, newest, _| {
            if newest <= since {
                return Ok(ControlFlow::Continue(()));
            }
            found = Some((Bytes::copy_from_slice(key), newest));
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }

    /// Looks for intents of others that may become versions at or below `until`.
    fn validate_intents(
        &mut self,
        span: &Span,
        until: Timestamp,
        waits: bool,
    ) -> Result<(), EvalError> {
        let most = self.args.limits.intents_met;
        let mut found = BTreeMap::new();
        let mut earliest = None;
        let mut visit = |key: Key, intent: kv::Intent| {
            let at = lock::timestamp(&intent);
            if at <= until && !self.is_own(&intent) {
                earliest.get_or_insert((key.clone(), at));
                found.insert(key, intent.txn.unwrap_or_default());
            }
            if found.len() < most && (waits || found.is_empty()) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        lock::scan_intents(self.reader, span, Direction::Forward, &mut visit)?;
        match earliest {
            Some((key, at)) if !waits => Err(conflict(key, at)),
            _ => {
                self.blocking.extend(found);
                Ok(())
            }
        }
    }

    /// Visits the keys of `span`: the versions at `timestamp`, under the intents of the batch's
    /// transaction and of those of others that are `in_the_way`, under the writes of this batch.
    pub(super) fn merged(
        &self,
        span: &Span,
        timestamp: Timestamp,
        direction: Direction,
        in_the_way: &impl Fn(&kv::Intent) -> bool,
        visit: &mut impl FnMut(&[u8], Seen<'_>) -> ControlFlow<()>,
    ) -> Result<(), EvalError> {
        let mut rest = Some(span.clone());
        while let Some(span) = rest.take() {
            let Part { span, above, left } = self.above(span, direction, in_the_way)?;
            let flow = match direction {
                Direction::Forward => {
                    let above = above.iter().peekable();
                    merge(self.reader, &span, timestamp, direction, above, visit)?
                }
                Direction::Reverse => {
                    let above = above.iter().rev().peekable();
                    merge(self.reader, &span, timestamp, direction, above, visit)?
                }
            };
            if flow.is_continue() {
                rest = left;
            }
        }
        Ok(())
    }

    /// The first part of `span`, with a page of intents.
    fn above(
        &self,
        span: Span,
        direction: Direction,
        in_the_way: &impl Fn(&kv::Intent) -> bool,
    ) -> Result<Part, EvalError> {
        let page = self.args.limits.intent_page;
        let mut above = BTreeMap::new();
        let mut last = None;
        let mut seen = 0;
        lock::scan_intents(self.reader, &span, direction, &mut |key, intent| {
            seen += 1;
            if seen == page {
                last = Some(key.clone());
            }
            if self.is_own(&intent) {
                above.insert(key, Above::Own(intent.value));
            } else if in_the_way(&intent) {
                above.insert(key, Above::Foreign(intent.txn.unwrap_or_default()));
            }
            if seen < page { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let (part, left) = match (last, direction) {
            (None, _) => (span, None),
            (Some(last), Direction::Forward) => {
                let next = Key::from(encoding::next_key(&last));
                let left = Span::new(next.clone(), span.end);
                (Span::new(span.start, next), Some(left).filter(|left| left.start < left.end))
            }
            (Some(last), Direction::Reverse) => {
                let left = Span::new(span.start, last.clone());
                (Span::new(last, span.end), Some(left).filter(|left| left.start < left.end))
            }
        };
        let written = self.written.range(part.start.clone()..part.end.clone());
        above
            .extend(written.map(|(key, written)| (key.clone(), Above::Own(written.value.clone()))));
        Ok(Part { span: part, above, left })
    }

    /// The strength of the lock a read asks for, if any.
    fn lock_strength(&self, strength: i32) -> Result<Option<LockStrength>, EvalError> {
        let strength = LockStrength::try_from(strength)
            .map_err(|_| invalid("a read asks for a lock of a strength this node does not know"))?;
        if strength == LockStrength::LockNone {
            return Ok(None);
        }
        if self.txn.is_none() {
            return Err(invalid("a read outside of a transaction asks for a lock"));
        }
        Ok(Some(strength))
    }

    /// Whether what a scan sees at a key as its own is, or is above, an intent in the state.
    fn has_own_intent(&self, key: &[u8]) -> bool {
        self.written.get(key).is_none_or(Written::has_intent)
    }

    fn leaves_out_locked(&self) -> bool {
        self.header.wait_policy == kv::WaitPolicy::WaitSkip as i32
    }

    /// Whether a row is left out because somebody else has an unreplicated lock on it.
    fn skips_locked(&self, key: &[u8], strength: LockStrength) -> bool {
        self.leaves_out_locked() && (self.args.skip)(key, strength)
    }

    /// Up to which timestamp a read has to look.
    fn ceiling(&self, lock: Option<LockStrength>) -> Timestamp {
        match lock {
            Some(_) => Timestamp::MAX,
            None => {
                let limit = self.header.uncertainty_limit;
                limit.map_or(self.read, |limit| self.read.max(limit.into()))
            }
        }
    }

    /// Up to which timestamp a read has to look at versions.
    fn version_ceiling(&self, lock: Option<LockStrength>) -> Timestamp {
        match lock {
            Some(_) => Timestamp::MAX,
            None => self.read.max(self.ceiling(lock).min(self.args.certain_above)),
        }
    }

    /// Whether a read has to wait for an intent of another transaction.
    fn is_in_the_way(&self, intent: &kv::Intent, lock: Option<LockStrength>) -> bool {
        lock.is_some() || lock::timestamp(intent) <= self.ceiling(lock)
    }

    fn met_newer(&mut self, key: &Key, existing: Timestamp, lock: Option<LockStrength>) {
        if self.newer.as_ref().is_none_or(|newer| newer.existing < existing) {
            self.newer = Some(Newer { key: key.clone(), existing, locking: lock.is_some() });
        }
    }
}

fn conflict(key: Key, newer: Timestamp) -> EvalError {
    let message = format!("the key {} was written at {newer}, after it was read", Pretty(&key));
    let kind = kv::ReadConflict { key, newer: Some(newer.into()) };
    failed(error::Kind::ReadConflict(kind), message)
}

/// The rows of a scan so far.
struct Rows<'a> {
    scan: &'a kv::ScanRequest,
    lock: Option<LockStrength>,
    read: Timestamp,
    leaves_out_locked: bool,
    max_rows: u64,
    max_bytes: u64,
    /// Keys it may still look at.
    looks: u64,
    intents_met: usize,
    response: kv::ScanResponse,
    bytes: u64,
    /// Keys of the rows, if they are to be locked.
    locked: Vec<Key>,
    /// The key with the highest version that forbids the read.
    newer: Option<(Key, Timestamp)>,
    foreign: BTreeMap<Key, kv::TxnMeta>,
}

impl<'a> Rows<'a> {
    fn new<R: Reader>(
        evaluation: &Evaluation<'_, R>,
        scan: &'a kv::ScanRequest,
        lock: Option<LockStrength>,
    ) -> Self {
        let unless_zero = |limit: u64| if limit == 0 { u64::MAX } else { limit };
        let limits = evaluation.args.limits;
        // What is left of a batch that writes could not be read by another one.
        let (room, looks) = match evaluation.writing {
            true => (u64::MAX, u64::MAX),
            false => {
                let room = limits.response_bytes.saturating_sub(evaluation.answered).max(1);
                (room, limits.scan_keys)
            }
        };
        Self {
            scan,
            lock,
            read: evaluation.read,
            leaves_out_locked: evaluation.leaves_out_locked(),
            max_rows: unless_zero(scan.max_rows),
            max_bytes: unless_zero(scan.max_bytes).min(room),
            looks,
            intents_met: limits.intents_met,
            response: kv::ScanResponse::default(),
            bytes: 0,
            locked: Vec::new(),
            newer: None,
            foreign: BTreeMap::new(),
        }
    }

    fn visit<R: Reader>(
        &mut self,
        evaluation: &Evaluation<'_, R>,
        key: &[u8],
        seen: &Seen<'_>,
    ) -> ControlFlow<()> {
        let nothing = match seen {
            Seen::Own(value) => value.is_none(),
            Seen::Version(at, value) => *at <= self.read && value.is_none(),
            Seen::Foreign(_) => self.lock.is_some() && self.leaves_out_locked,
        };
        let own = u64::from(matches!(seen, Seen::Own(_)) && evaluation.has_own_intent(key));
        if self.looks == 0 {
            self.response.resume = Some(self.rest(key));
            return ControlFlow::Break(());
        }
        self.looks -= 1;
        if nothing || self.lock.is_some_and(|strength| evaluation.skips_locked(key, strength)) {
            self.response.own_intents += own;
            return ControlFlow::Continue(());
        }
        if self.response.count >= self.max_rows || self.bytes >= self.max_bytes {
            self.response.resume = Some(self.rest(key));
            return ControlFlow::Break(());
        }
        // Also what forbids the read: with a bound there is no need to wait for what is behind it.
        self.response.count += 1;
        self.response.own_intents += own;
        let value = match seen {
            Seen::Foreign(holder) => {
                self.foreign.insert(Bytes::copy_from_slice(key), (*holder).clone());
                return if self.foreign.len() < self.intents_met {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                };
            }
            Seen::Version(at, _) if *at > self.read => {
                if self.newer.as_ref().is_none_or(|(_, newer)| newer < at) {
                    self.newer = Some((Bytes::copy_from_slice(key), *at));
                }
                return ControlFlow::Continue(());
            }
            Seen::Own(value) | Seen::Version(_, value) => value.unwrap_or_default(),
        };
        if self.scan.count_only && self.lock.is_none() {
            return ControlFlow::Continue(());
        }
        let key = Bytes::copy_from_slice(key);
        if self.lock.is_some() {
            self.locked.push(key.clone());
        }
        if !self.scan.count_only {
            self.bytes += (key.len() + value.len()) as u64;
            let value = Bytes::copy_from_slice(value);
            self.response.rows.push(kv::KeyValue { key, value });
        }
        ControlFlow::Continue(())
    }

    /// What of the span of the scan is in its answer.
    fn served(&self, span: &Span, direction: Direction) -> Span {
        match (&self.response.resume, direction) {
            (None, _) => span.clone(),
            (Some(rest), Direction::Forward) => Span::new(span.start.clone(), rest.start.clone()),
            (Some(rest), Direction::Reverse) => Span::new(rest.end.clone(), span.end.clone()),
        }
    }

    /// What is left of the scan when it stops before `key`.
    fn rest(&self, key: &[u8]) -> kv::Span {
        if self.scan.reverse {
            kv::Span { start: self.scan.start.clone(), end: encoding::next_key(key).into() }
        } else {
            kv::Span { start: Bytes::copy_from_slice(key), end: self.scan.end.clone() }
        }
    }
}

fn merge<'a>(
    reader: &impl Reader,
    span: &Span,
    timestamp: Timestamp,
    direction: Direction,
    mut above: Peekable<impl Iterator<Item = (&'a Key, &'a Above)>>,
    visit: &mut impl FnMut(&[u8], Seen<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, EvalError> {
    let comes_first = |a: &[u8], b: &[u8]| match direction {
        Direction::Forward => a < b,
        Direction::Reverse => a > b,
    };
    let mut flow = ControlFlow::Continue(());
    mvcc::scan(reader, span, timestamp, direction, &mut |key, version, value| {
        while let Some((own, above)) = above.next_if(|(own, _)| comes_first(own, key)) {
            flow = visit(own, above.seen());
            if flow.is_break() {
                return Ok(flow);
            }
        }
        flow = match above.next_if(|(own, _)| **own == *key) {
            Some((own, above)) => visit(own, above.seen()),
            None => visit(key, Seen::Version(version, value)),
        };
        Ok(flow)
    })?;
    for (own, above) in above {
        if flow.is_break() {
            break;
        }
        flow = visit(own, above.seen());
    }
    Ok(flow)
}

impl Above {
    fn seen(&self) -> Seen<'_> {
        match self {
            Self::Own(value) => Seen::Own(value.as_deref()),
            Self::Foreign(holder) => Seen::Foreign(holder),
        }
    }
}
