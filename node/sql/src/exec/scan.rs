//! Scans of a table's primary index.
//!
//! A scan that locks takes its locks as it reads where every row it reads comes out: single keys,
//! and spans without a filter. Otherwise it reads first and then locks, by their keys, the rows
//! that pass the filter, so that rows that nobody asked for stay free.

use std::sync::Arc;

use bytes::Bytes;
use crdb_keys::Span;

use super::op::{keep, row_count};
use super::txn::strength;
use super::{ExecCtx, Lookups};
use crate::datum::Row;
use crate::encoding::RowDecoder;
use crate::error::{Result, SqlState};
use crate::kv::Batch;
use crate::plan::{LockWait, Point, Scan};

/// A scan that runs.
pub(crate) struct ScanOp<'p> {
    scan: &'p Scan,
    decoder: RowDecoder<'p>,
    state: State,
    lookups: Lookups,
}

enum State {
    Start,
    /// Spans still to read, the next one last; rows still wanted.
    Spans(Vec<Span>, Option<u64>),
    /// Rows read before, for the same spans.
    Cached(Arc<Vec<Row>>, usize),
    Done,
}

impl<'p> ScanOp<'p> {
    pub(super) fn new(scan: &'p Scan) -> Self {
        let decoder = RowDecoder::new(&scan.table, &scan.needed);
        Self { scan, decoder, state: State::Start, lookups: Lookups::default() }
    }

    /// Where this scan stands in its plan, which tells it from others.
    fn identity(&self) -> usize {
        std::ptr::from_ref(self.scan).addr()
    }

    pub(super) async fn next(&mut self, ctx: &mut ExecCtx<'_>) -> Result<Option<Vec<Row>>> {
        ctx.cancel.check()?;
        if matches!(self.state, State::Start) {
            self.start(ctx).await?;
        }
        let mut rows = match &mut self.state {
            State::Spans(spans, left) => {
                let mut spans = std::mem::take(spans);
                let mut left = *left;
                let rows = self.read(ctx, &mut spans, &mut left).await?;
                self.state = if rows.is_none() { State::Done } else { State::Spans(spans, left) };
                match rows {
                    None => return Ok(None),
                    Some(rows) => rows,
                }
            }
            State::Cached(rows, at) => {
                let batch: Vec<Row> =
                    rows.iter().skip(*at).take(ctx.limits.batch_rows).cloned().collect();
                *at += batch.len();
                if batch.is_empty() {
                    return Ok(None);
                }
                batch
            }
            State::Start | State::Done => return Ok(None),
        };
        if let Some(filter) = &self.scan.filter {
            keep(&ctx.eval(), &mut rows, filter)?;
        }
        Ok(Some(rows))
    }

    /// Whether rows are locked by their keys once they passed the filter.
    fn locks_late(&self) -> bool {
        self.scan.lock.is_some() && self.scan.filter.is_some()
    }

    async fn start(&mut self, ctx: &mut ExecCtx<'_>) -> Result<()> {
        let mut spans =
            self.scan.constraint.spans(&self.scan.table, &ctx.eval(), self.scan.reverse)?;
        // A look-up of one key is the common case, and too small to count.
        if spans.len() > 1 {
            let bytes = spans.iter().map(|s| 2 * s.start.len() + size_of::<Span>()).sum();
            ctx.hold(bytes)?;
        }
        let limit = row_count(ctx, self.scan.limit.as_ref(), SqlState::INVALID_LIMIT, "LIMIT")?;
        spans.reverse();
        if ctx.outer.is_empty() {
            self.state = State::Spans(spans, limit);
            return Ok(());
        }
        // Inside a correlated subquery the same rows are asked for again and again.
        let key = (self.identity(), spans.clone());
        if let Some(rows) = ctx.scans.get(&key) {
            self.state = State::Cached(Arc::clone(rows), 0);
            return Ok(());
        }
        let mut all = Vec::new();
        let mut left = limit;
        let mut bytes = key.1.iter().map(|s| 2 * s.start.len() + size_of::<Span>()).sum::<usize>();
        while let Some(rows) = self.read(ctx, &mut spans, &mut left).await? {
            for row in &rows {
                ctx.hold_row(row)?;
                bytes += super::row_memory(row);
            }
            all.extend(rows);
        }
        let rows = Arc::new(all);
        ctx.keep_scan(key, bytes, &rows);
        self.state = State::Cached(rows, 0);
        Ok(())
    }

    /// Reads the next rows of the spans; none at their end.
    async fn read(
        &mut self,
        ctx: &mut ExecCtx<'_>,
        spans: &mut Vec<Span>,
        left: &mut Option<u64>,
    ) -> Result<Option<Vec<Row>>> {
        if spans.is_empty() || *left == Some(0) {
            return Ok(None);
        }
        let rows = if spans.last().is_some_and(Span::is_point) {
            let mut rows = self.read_points(ctx, spans).await?;
            if let Some(filter) = self.scan.filter.as_ref().filter(|_| left.is_some()) {
                keep(&ctx.eval(), &mut rows, filter)?;
            }
            rows
        } else if self.locks_late() {
            self.read_then_lock(ctx, spans, *left).await?
        } else {
            self.read_span(ctx, spans, *left).await?
        };
        if let Some(left) = left {
            *left = left.saturating_sub(u64::try_from(rows.len()).unwrap_or(u64::MAX));
        }
        Ok(Some(rows))
    }

    async fn read_points(
        &mut self,
        ctx: &mut ExecCtx<'_>,
        spans: &mut Vec<Span>,
    ) -> Result<Vec<Row>> {
        let most = self.lookups.next(&ctx.limits);
        let mut keys: Vec<Bytes> = Vec::with_capacity(spans.len().min(most));
        while keys.len() < most && spans.last().is_some_and(Span::is_point) {
            keys.extend(spans.pop().map(|span| span.start));
        }
        self.look_up(ctx, &keys).await
    }

    /// The rows of keys that are there, locked as the scan says.
    async fn look_up(&mut self, ctx: &mut ExecCtx<'_>, keys: &[Bytes]) -> Result<Vec<Row>> {
        let mut batch = Batch::new();
        for key in keys {
            batch.get_locked(key.clone(), strength(self.scan.lock), false);
        }
        let mut reply = ctx.txn.read_locking(batch, self.scan.lock, &self.scan.table).await?;
        let mut rows = Vec::with_capacity(keys.len());
        for (i, key) in keys.iter().enumerate() {
            // Absent, or locked by somebody else and to be skipped.
            let Some(value) = reply.value(i)? else { continue };
            self.lookups.found(value.len());
            rows.push(self.decoder.decode(key, &value)?);
        }
        Ok(rows)
    }

    /// Rows that one request asks for.
    fn page_rows(&self, ctx: &ExecCtx<'_>) -> u64 {
        let most = ctx.limits.scan_rows;
        if self.scan.lock.is_some() { ctx.limits.lock_rows.min(most) } else { most }
    }

    async fn read_span(
        &self,
        ctx: &mut ExecCtx<'_>,
        spans: &mut Vec<Span>,
        left: Option<u64>,
    ) -> Result<Vec<Row>> {
        let Some(span) = spans.pop() else { return Ok(Vec::new()) };
        let most = self.page_rows(ctx);
        let wanted = left.map_or(most, |left| left.min(most));
        let mut batch = Batch::new();
        let lock = strength(self.scan.lock);
        batch.scan_locked(&span, wanted, ctx.limits.scan_bytes, self.scan.reverse, lock);
        let mut reply = ctx.txn.read_locking(batch, self.scan.lock, &self.scan.table).await?;
        let pairs = reply.page(0)?.leaving(spans);
        pairs.iter().map(|pair| self.decoder.decode(&pair.key, &pair.value)).collect()
    }

    /// Reads the next part of the spans, and locks the rows that pass the filter, at most as many
    /// as are wanted.
    async fn read_then_lock(
        &mut self,
        ctx: &mut ExecCtx<'_>,
        spans: &mut Vec<Span>,
        left: Option<u64>,
    ) -> Result<Vec<Row>> {
        let Some(span) = spans.pop() else { return Ok(Vec::new()) };
        let mut batch = Batch::new();
        batch.scan(&span, self.page_rows(ctx), ctx.limits.scan_bytes, self.scan.reverse);
        // NOWAIT waits for nobody's intents either; SKIP LOCKED cannot tell them from rows.
        let no_wait = self.scan.lock.filter(|lock| lock.wait == LockWait::Fail);
        let mut reply = ctx.txn.read_locking(batch, no_wait, &self.scan.table).await?;
        let pairs = reply.page(0)?.leaving(spans);
        let wanted = left.and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX);
        let mut passing = Vec::new();
        for pair in pairs {
            self.lookups.found(pair.value.len());
            let row = self.decoder.decode(&pair.key, &pair.value)?;
            if self.passes(ctx, &row)? {
                passing.push(pair.key);
            }
        }
        let mut rows = Vec::new();
        let mut passing = passing.into_iter();
        while rows.len() < wanted {
            let most = self.lookups.next(&ctx.limits).min(wanted - rows.len());
            let chunk: Vec<Bytes> = passing.by_ref().take(most).collect();
            if chunk.is_empty() {
                break;
            }
            for row in self.look_up(ctx, &chunk).await? {
                if self.passes(ctx, &row)? {
                    rows.push(row);
                }
            }
        }
        Ok(rows)
    }

    fn passes(&self, ctx: &ExecCtx<'_>, row: &Row) -> Result<bool> {
        match &self.scan.filter {
            Some(filter) => filter.eval_bool(&ctx.eval(), row),
            None => Ok(true),
        }
    }
}

/// The row of a scan whose key is known, without the operators: what most statements are.
pub(super) async fn read_point(
    ctx: &mut ExecCtx<'_>,
    scan: &Scan,
    point: Point,
) -> Result<Option<Row>> {
    ctx.cancel.check()?;
    let Point::Key(key) = point else { return Ok(None) };
    let mut batch = Batch::new();
    batch.get_locked(key.clone(), strength(scan.lock), false);
    let mut reply = ctx.txn.read_locking(batch, scan.lock, &scan.table).await?;
    let Some(value) = reply.value(0)? else { return Ok(None) };
    let row = RowDecoder::new(&scan.table, &scan.needed).decode(&key, &value)?;
    match &scan.filter {
        Some(filter) if !filter.eval_bool(&ctx.eval(), &row)? => Ok(None),
        _ => Ok(Some(row)),
    }
}
