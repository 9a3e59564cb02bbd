//! Cuts a batch at the borders of ranges and puts the answers together again.
//!
//! What it is: the pure part of a batch over several ranges. What it is not: it knows no range but
//! those it is told, and sends nothing.
//!
//! ```text
//! requests ─▶ Split ─ wants: spans ─▶ (look up borders) ─ cut ─▶ one batch a range ─┐
//!               ▲                                                                   │
//!               └──────────────── absorb: answers ◀───────── sent, in parallel ◀────┘
//! ```
//!
//! A request without a bound is cut at every border at once, and is answered whole: what a range
//! leaves, since a bound of its own stopped it, is sent again. One whose caller set a bound (rows,
//! bytes, keys) is sent to one range at a time, in its direction, with what is left of the bound,
//! until that is used up, a range stops, or the span ends; what is left of it is in the answer.
//!
//! Invariants:
//! 1. Every key of a request is answered by exactly one range, or is in the resume span answered.
//! 2. Only who set a bound gets a resume span.
//! 3. Rows are in the order asked for, and no more than asked for.
//! 4. A round that gets nothing done is the last one: [`Split::progress`] says so.

use bytes::Bytes;
use crdb_proto::kv::{
    self, BatchRequest, Request, Response, ScanResponse, Span, request::Kind, response,
    response::Kind as Answer,
};

/// First key and end of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Borders {
    pub(crate) start: Bytes,
    pub(crate) end: Bytes,
}

/// Which ranges a request wants to be cut at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Want {
    /// The range that holds the key.
    At(Bytes),
    /// The range that holds the keys right before the key.
    Before(Bytes),
    /// Every range of the span.
    All(Bytes, Bytes),
}

/// The part of a batch that goes to one range.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) borders: Borders,
    /// Position in the whole batch of each request.
    pub(crate) positions: Vec<usize>,
    pub(crate) requests: Vec<Request>,
}

/// A batch under way to several ranges; see the page of the module.
#[derive(Debug)]
pub(crate) struct Split {
    works: Vec<Work>,
    /// Answers that got something done.
    progress: usize,
}

#[derive(Debug)]
struct Work {
    kind: Kind,
    shape: Shape,
    /// Answers so far, by the end of what was asked for at which the answer begins.
    answers: Vec<(Bytes, Answer)>,
}

/// What is left to be sent.
#[derive(Debug)]
enum Shape {
    /// One key.
    Point(Bytes),
    /// Spans, all at once.
    Spans(Vec<Span>),
    /// One range after the other.
    Stepwise {
        left: Span,
        reverse: bool,
    },
    Done,
}

/// Why a batch cannot go to several ranges.
pub(crate) const ONE_RANGE: &str = "the batch has to be atomic and touches keys beyond one range";

impl Split {
    /// Whether `batch` may take effect in parts.
    pub(crate) fn is_allowed(batch: &BatchRequest) -> bool {
        let header = batch.header.as_ref();
        let atomic = header.is_none_or(|header| header.one_phase || header.txn.is_none());
        batch.requests.iter().all(|request| match &request.kind {
            Some(
                Kind::Put(_)
                | Kind::ConditionalPut(_)
                | Kind::Delete(_)
                | Kind::Increment(_)
                | Kind::EndTxn(_)
                | Kind::HeartbeatTxn(_),
            ) => !atomic,
            Some(
                Kind::Get(_)
                | Kind::Scan(_)
                | Kind::Validate(_)
                | Kind::QueryIntent(_)
                | Kind::QueryTxn(_)
                | Kind::PushTxn(_)
                | Kind::RecoverTxn(_)
                | Kind::ResolveIntent(_)
                | Kind::RevertIntent(_)
                | Kind::ReleaseLocks(_)
                | Kind::RemoveTxnRecord(_)
                | Kind::Gc(_)
                | Kind::QueryLocks(_),
            ) => !header.is_some_and(|header| header.one_phase),
            Some(
                Kind::DeleteRange(_)
                | Kind::Split(_)
                | Kind::Unsplit(_)
                | Kind::TransferLease(_)
                | Kind::RangeStatus(_),
            )
            | None => false,
        })
    }

    /// Takes the requests of a batch that [`Split::is_allowed`] allows.
    pub(crate) fn new(batch: BatchRequest) -> Self {
        let anchor = batch.header.and_then(|header| header.txn).map(|txn| txn.anchor);
        let anchor = anchor.unwrap_or_default();
        let kinds = batch.requests.into_iter().filter_map(|request| request.kind);
        let works = kinds.map(|kind| {
            let shape = shape(&kind, &anchor);
            Work { kind, shape, answers: Vec::new() }
        });
        Self { works: works.collect(), progress: 0 }
    }

    /// The ranges to look up for the next round; empty when all is answered.
    pub(crate) fn wants(&self) -> Vec<Want> {
        let mut wants = Vec::new();
        for work in &self.works {
            match &work.shape {
                Shape::Done => {}
                Shape::Point(key) => wants.push(Want::At(key.clone())),
                Shape::Stepwise { left, reverse: true } => {
                    wants.push(Want::Before(left.end.clone()));
                }
                Shape::Stepwise { left, reverse: false } => {
                    wants.push(Want::At(left.start.clone()));
                }
                Shape::Spans(spans) => wants.extend(spans.iter().map(|span| {
                    if span.end.is_empty() {
                        Want::At(span.start.clone())
                    } else {
                        Want::All(span.start.clone(), span.end.clone())
                    }
                })),
            }
        }
        wants
    }

    /// The parts of the next round, at the borders of `ranges`, in key order.
    pub(crate) fn cut(&self, mut ranges: Vec<Borders>) -> Vec<Piece> {
        ranges.sort_by(|a, b| a.start.cmp(&b.start));
        ranges.dedup_by(|a, b| a.start == b.start);
        let mut pieces = Vec::with_capacity(ranges.len());
        for borders in ranges {
            let mut positions = Vec::new();
            let mut requests = Vec::new();
            for (position, work) in self.works.iter().enumerate() {
                if let Some(kind) = work.part(&borders) {
                    positions.push(position);
                    requests.push(Request { kind: Some(kind) });
                }
            }
            if !positions.is_empty() {
                pieces.push(Piece { borders, positions, requests });
            }
        }
        pieces
    }

    /// Takes in the answers to a part; there may be fewer than requests, if a bound of the range
    /// stopped it.
    pub(crate) fn absorb(&mut self, piece: &Piece, responses: Vec<Response>) {
        let sent = piece.positions.iter().zip(&piece.requests);
        for ((position, request), response) in sent.zip(responses) {
            if let (Some(work), Some(sent), Some(answer)) =
                (self.works.get_mut(*position), &request.kind, response.kind)
                && work.absorb(sent, &piece.borders, answer)
            {
                self.progress += 1;
            }
        }
    }

    /// How many answers got something done so far.
    pub(crate) fn progress(&self) -> usize {
        self.progress
    }

    /// The answers to the whole batch, once [`Split::wants`] is empty. With more than `bytes` of
    /// rows a scan that has no bound fails.
    pub(crate) fn finish(self, bytes: u64) -> Result<Vec<Response>, &'static str> {
        let answers = self.works.into_iter().map(|work| work.merge(bytes));
        answers.map(|answer| Ok(Response { kind: Some(answer?) })).collect()
    }
}

/// Whether the answer to a batch says something of all of each request, but for those whose caller
/// set a bound.
pub(crate) fn is_whole(batch: &BatchRequest, responses: &[Response]) -> bool {
    let left_over = |(request, response): (&Request, &Response)| {
        let (Some(kind), Some(answer)) = (&request.kind, &response.kind) else { return false };
        !is_bounded(kind) && resume(answer).is_some()
    };
    responses.len() == batch.requests.len() && !batch.requests.iter().zip(responses).any(left_over)
}

/// Takes what is left out of an answer, as if it were whole; returns whether it looks so then. For a
/// bug that is planted on purpose.
pub(crate) fn forget_rest(batch: &BatchRequest, responses: &mut [Response]) -> bool {
    for answer in responses.iter_mut().filter_map(|response| response.kind.as_mut()) {
        drop(take_resume(answer));
    }
    responses.len() == batch.requests.len()
}

/// Whether the caller of a request set a bound, and goes on by itself.
fn is_bounded(kind: &Kind) -> bool {
    match kind {
        Kind::Scan(r) => r.max_rows != 0 || r.max_bytes != 0,
        Kind::DeleteRange(r) => r.max_keys != 0,
        Kind::ResolveIntent(r) => r.max_keys != 0,
        Kind::QueryLocks(r) => r.max_locks != 0,
        // It has bounds of the range always.
        Kind::Gc(_) => true,
        _ => false,
    }
}

fn shape(kind: &Kind, anchor: &Bytes) -> Shape {
    let anchor_of =
        |txn: &Option<kv::TxnMeta>| txn.as_ref().map(|t| t.anchor.clone()).unwrap_or_default();
    let span = |start: &Bytes, end: &Bytes| Span { start: start.clone(), end: end.clone() };
    let ranged = |start: &Bytes, end: &Bytes, reverse: bool| {
        if end.is_empty() {
            Shape::Point(start.clone())
        } else if is_bounded(kind) {
            Shape::Stepwise { left: span(start, end), reverse }
        } else {
            Shape::Spans(vec![span(start, end)])
        }
    };
    match kind {
        Kind::Get(r) => Shape::Point(r.key.clone()),
        Kind::Put(r) => Shape::Point(r.key.clone()),
        Kind::ConditionalPut(r) => Shape::Point(r.key.clone()),
        Kind::Delete(r) => Shape::Point(r.key.clone()),
        Kind::Increment(r) => Shape::Point(r.key.clone()),
        Kind::QueryIntent(r) => Shape::Point(r.key.clone()),
        Kind::RemoveTxnRecord(r) => Shape::Point(r.anchor.clone()),
        Kind::EndTxn(_) | Kind::HeartbeatTxn(_) => Shape::Point(anchor.clone()),
        Kind::PushTxn(r) => Shape::Point(anchor_of(&r.pushee)),
        Kind::QueryTxn(r) => Shape::Point(anchor_of(&r.txn)),
        Kind::RecoverTxn(r) => Shape::Point(anchor_of(&r.txn)),
        Kind::Split(r) => Shape::Point(r.key.clone()),
        Kind::Unsplit(r) => Shape::Point(r.key.clone()),
        Kind::TransferLease(r) => Shape::Point(r.key.clone()),
        Kind::RangeStatus(r) => Shape::Point(r.key.clone()),
        Kind::Validate(r) => Shape::Spans(r.spans.clone()),
        Kind::Scan(r) => ranged(&r.start, &r.end, r.reverse),
        Kind::DeleteRange(r) => ranged(&r.start, &r.end, false),
        Kind::ResolveIntent(r) => ranged(&r.start, &r.end, false),
        Kind::RevertIntent(r) => ranged(&r.start, &r.end, false),
        Kind::ReleaseLocks(r) => ranged(&r.start, &r.end, false),
        Kind::Gc(r) => ranged(&r.start, &r.end, false),
        Kind::QueryLocks(r) => ranged(&r.start, &r.end, false),
    }
}

/// What of the span, or single key, lies in the range.
fn clip(span: &Span, borders: &Borders) -> Option<Span> {
    if span.end.is_empty() {
        let inside = borders.start <= span.start && span.start < borders.end;
        return inside.then(|| span.clone());
    }
    let start = (&span.start).max(&borders.start).clone();
    let end = (&span.end).min(&borders.end).clone();
    (start < end).then_some(Span { start, end })
}

/// What of the span, or single key, lies outside of the range.
fn beyond(span: &Span, borders: &Borders) -> Vec<Span> {
    if span.end.is_empty() {
        return Vec::from_iter(clip(span, borders).is_none().then(|| span.clone()));
    }
    let before =
        Span { start: span.start.clone(), end: span.end.clone().min(borders.start.clone()) };
    let behind = Span { start: span.start.clone().max(borders.end.clone()), end: span.end.clone() };
    [before, behind].into_iter().filter(|part| part.start < part.end).collect()
}

/// The span of a request that has one.
fn span_of(kind: &Kind) -> Option<(&Bytes, &Bytes)> {
    match kind {
        Kind::Scan(r) => Some((&r.start, &r.end)),
        Kind::DeleteRange(r) => Some((&r.start, &r.end)),
        Kind::ResolveIntent(r) => Some((&r.start, &r.end)),
        Kind::RevertIntent(r) => Some((&r.start, &r.end)),
        Kind::ReleaseLocks(r) => Some((&r.start, &r.end)),
        Kind::Gc(r) => Some((&r.start, &r.end)),
        Kind::QueryLocks(r) => Some((&r.start, &r.end)),
        _ => None,
    }
}

impl Work {
    /// Whether the largest key comes first.
    fn reverse(&self) -> bool {
        matches!(&self.kind, Kind::Scan(scan) if scan.reverse)
    }

    /// Takes in the answer of a range to `sent`, the part of the request that went to it; returns
    /// whether that got anything done.
    fn absorb(&mut self, sent: &Kind, borders: &Borders, mut answer: Answer) -> bool {
        let at = match (span_of(sent), self.reverse()) {
            (Some((_, end)), true) => end.clone(),
            (Some((start, _)), false) => start.clone(),
            (None, _) => borders.start.clone(),
        };
        if is_bounded(&self.kind) {
            self.answers.push((at, answer));
            self.step(borders);
            return true;
        }
        let rest = take_resume(&mut answer);
        self.answers.push((at, answer));
        let done = match (&rest, span_of(sent)) {
            (Some(rest), Some((start, end))) => (&rest.start, &rest.end) != (start, end),
            _ => true,
        };
        match &mut self.shape {
            Shape::Spans(left) if matches!(sent, Kind::Validate(_)) => {
                *left = left.iter().flat_map(|span| beyond(span, borders)).collect();
            }
            Shape::Spans(left) => {
                if let Some(i) = left.iter().position(|span| clip(span, borders).is_some()) {
                    let whole = left.swap_remove(i);
                    left.extend(beyond(&whole, borders));
                    left.extend(rest);
                }
            }
            // The point itself is what is left of it.
            Shape::Point(_) if rest.is_some() => {}
            shape => *shape = Shape::Done,
        }
        if matches!(&self.shape, Shape::Spans(left) if left.is_empty()) {
            self.shape = Shape::Done;
        }
        done
    }

    /// The part of the request that goes to a range in this round.
    fn part(&self, borders: &Borders) -> Option<Kind> {
        match &self.shape {
            Shape::Done => None,
            Shape::Point(key) => {
                let point = Span { start: key.clone(), end: Bytes::new() };
                clip(&point, borders).map(|_| self.kind.clone())
            }
            Shape::Spans(spans) => {
                // What a range left of one of its spans is sent by itself.
                let clipped: Vec<Span> =
                    spans.iter().filter_map(|span| clip(span, borders)).collect();
                if let Kind::Validate(validate) = &self.kind {
                    let since = validate.since;
                    return (!clipped.is_empty())
                        .then_some(Kind::Validate(kv::ValidateRequest { spans: clipped, since }));
                }
                clipped.into_iter().next().map(|span| self.with_span(span))
            }
            Shape::Stepwise { left, reverse } => {
                // Only the range at the end where the work goes on, although others may be cut
                // for the sake of other requests.
                let here = if *reverse {
                    borders.start < left.end && left.end <= borders.end
                } else {
                    borders.start <= left.start && left.start < borders.end
                };
                if here { clip(left, borders).map(|span| self.with_span(span)) } else { None }
            }
        }
    }

    /// The request for a part of its span, with what is left of its bounds.
    fn with_span(&self, span: Span) -> Kind {
        let mut kind = self.kind.clone();
        let (start, end) = (span.start, span.end);
        let (units, bytes) = self.used();
        let left = |bound: u64, used: u64| if bound == 0 { 0 } else { (bound - used).max(1) };
        match &mut kind {
            Kind::Scan(r) => {
                (r.start, r.end) = (start, end);
                r.max_rows = left(r.max_rows, units.min(r.max_rows));
                r.max_bytes = left(r.max_bytes, bytes.min(r.max_bytes));
            }
            Kind::DeleteRange(r) => {
                (r.start, r.end) = (start, end);
                r.max_keys = left(r.max_keys, units.min(r.max_keys));
            }
            Kind::ResolveIntent(r) => {
                (r.start, r.end) = (start, end);
                r.max_keys = left(r.max_keys, units.min(r.max_keys));
            }
            Kind::Gc(r) => {
                (r.start, r.end) = (start, end);
                r.max_versions = left(r.max_versions, units.min(r.max_versions));
            }
            Kind::QueryLocks(r) => {
                (r.start, r.end) = (start, end);
                r.max_locks = left(r.max_locks, units.min(r.max_locks));
            }
            Kind::RevertIntent(r) => (r.start, r.end) = (start, end),
            Kind::ReleaseLocks(r) => (r.start, r.end) = (start, end),
            _ => {}
        }
        kind
    }

    /// Rows, keys, versions or locks, and bytes, that the answers have so far.
    fn used(&self) -> (u64, u64) {
        let mut units = 0;
        let mut bytes = 0;
        for (_, answer) in &self.answers {
            match answer {
                Answer::Scan(r) => {
                    units += r.count;
                    bytes += row_bytes(r);
                }
                Answer::DeleteRange(r) => units += r.deleted,
                Answer::ResolveIntent(r) => units += r.resolved,
                Answer::Gc(r) => units += r.removed,
                Answer::QueryLocks(r) => units += r.locks.len() as u64,
                _ => {}
            }
        }
        (units, bytes)
    }

    /// Whether a bound of the request is used up.
    fn is_full(&self) -> bool {
        let (units, bytes) = self.used();
        let full = |bound: u64, used: u64| bound != 0 && used >= bound;
        match &self.kind {
            Kind::Scan(r) => full(r.max_rows, units) || full(r.max_bytes, bytes),
            Kind::DeleteRange(r) => full(r.max_keys, units),
            Kind::ResolveIntent(r) => full(r.max_keys, units),
            Kind::Gc(r) => full(r.max_versions, units),
            Kind::QueryLocks(r) => full(r.max_locks, units),
            _ => false,
        }
    }

    /// Goes on with what has a bound behind the range that answered last.
    fn step(&mut self, sent_to: &Borders) {
        let Shape::Stepwise { left, reverse } = &self.shape else {
            self.shape = Shape::Done;
            return;
        };
        let (mut left, reverse) = (left.clone(), *reverse);
        if reverse {
            left.end = sent_to.start.clone();
        } else {
            left.start = sent_to.end.clone();
        }
        let ended = left.start >= left.end;
        let stopped = self.answers.last().is_some_and(|(_, answer)| resume(answer).is_some());
        if !stopped && !ended && self.is_full() {
            // The bound ended with the range: the answer says so itself.
            if let Some((_, answer)) = self.answers.last_mut() {
                set_resume(answer, left);
            }
            self.shape = Shape::Done;
        } else if stopped || ended {
            self.shape = Shape::Done;
        } else {
            self.shape = Shape::Stepwise { left, reverse };
        }
    }

    /// One answer out of those of the ranges.
    fn merge(self, max_bytes: u64) -> Result<Answer, &'static str> {
        let reverse = self.reverse();
        let Self { kind, mut answers, .. } = self;
        answers.sort_by(|(a, _), (b, _)| if reverse { b.cmp(a) } else { a.cmp(b) });
        // What is left, in terms of the whole: a range knows its part only.
        let whole = |left: Span| match &kind {
            Kind::Scan(r) if r.reverse => Span { start: r.start.clone(), end: left.end },
            Kind::Scan(r) => Span { start: left.start, end: r.end.clone() },
            Kind::DeleteRange(r) => Span { start: left.start, end: r.end.clone() },
            Kind::ResolveIntent(r) => Span { start: left.start, end: r.end.clone() },
            Kind::Gc(r) => Span { start: left.start, end: r.end.clone() },
            _ => left,
        };
        let mut answers = answers.into_iter().map(|(_, answer)| answer);
        let Some(mut merged) = answers.next() else {
            // A validation of nothing.
            return match kind {
                Kind::Validate(_) => Ok(Answer::Validate(kv::ValidateResponse {})),
                _ => Err("a part of the batch was not answered"),
            };
        };
        let mut bytes = if let Answer::Scan(scan) = &merged { row_bytes(scan) } else { 0 };
        for answer in answers {
            match (&mut merged, answer) {
                // What lies beyond a stop is read when the scan goes on.
                (Answer::Scan(all), Answer::Scan(_)) if all.resume.is_some() => break,
                (Answer::Scan(all), Answer::Scan(more)) => {
                    bytes += row_bytes(&more);
                    if bytes > max_bytes {
                        return Err("the scan returns too much at once; give it a bound");
                    }
                    all.count += more.count;
                    all.own_intents += more.own_intents;
                    all.rows.extend(more.rows);
                    all.resume = more.resume;
                }
                (Answer::DeleteRange(all), Answer::DeleteRange(more)) => {
                    all.deleted += more.deleted;
                    all.resume = all.resume.take().or(more.resume);
                }
                (Answer::ResolveIntent(all), Answer::ResolveIntent(more)) => {
                    all.resolved += more.resolved;
                    all.done.extend(more.done);
                    all.resume = all.resume.take().or(more.resume);
                }
                (Answer::Gc(all), Answer::Gc(more)) => {
                    all.removed += more.removed;
                    all.abandoned.extend(more.abandoned);
                    all.records_left |= more.records_left;
                    all.resume = all.resume.take().or(more.resume);
                }
                (Answer::QueryLocks(all), Answer::QueryLocks(more)) => {
                    all.locks.extend(more.locks);
                }
                (all, more) if std::mem::discriminant(all) == std::mem::discriminant(&more) => {}
                _ => return Err("ranges gave answers of different kinds"),
            }
        }
        if let Some(left) = resume(&merged) {
            let left = whole(left.clone());
            set_resume(&mut merged, left);
        }
        Ok(merged)
    }
}

fn row_bytes(scan: &ScanResponse) -> u64 {
    scan.rows.iter().map(|row| (row.key.len() + row.value.len()) as u64).sum()
}

fn resume(answer: &response::Kind) -> Option<&Span> {
    match answer {
        Answer::Scan(r) => r.resume.as_ref(),
        Answer::DeleteRange(r) => r.resume.as_ref(),
        Answer::ResolveIntent(r) => r.resume.as_ref(),
        Answer::RevertIntent(r) => r.resume.as_ref(),
        Answer::Gc(r) => r.resume.as_ref(),
        _ => None,
    }
}

fn take_resume(answer: &mut response::Kind) -> Option<Span> {
    match answer {
        Answer::Scan(r) => r.resume.take(),
        Answer::ResolveIntent(r) => r.resume.take(),
        Answer::RevertIntent(r) => r.resume.take(),
        _ => None,
    }
}

fn set_resume(answer: &mut response::Kind, left: Span) {
    match answer {
        Answer::Scan(r) => r.resume = Some(left),
        Answer::DeleteRange(r) => r.resume = Some(left),
        Answer::ResolveIntent(r) => r.resume = Some(left),
        Answer::Gc(r) => r.resume = Some(left),
        _ => {}
    }
}
