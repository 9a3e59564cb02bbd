//! A batch over several ranges: looks the ranges up, sends the parts, combines the answers.
//!
//! ```text
//! spread ─┬ may not take effect in parts ─▶ CrossRange, nothing was sent
//!         └ rounds of: look up ─ cut ─ send in parallel ─ absorb   (see `split`)
//! ```
//!
//! All reads are served at one timestamp. If none is named, the range of the first part picks it
//! and the others get it, with the interval in which a version may have been acknowledged before
//! the batch was sent; outside of a transaction such a version moves the whole batch up to it.
//!
//! Invariants:
//! 1. A batch that has to be atomic is never sent in parts.
//! 2. The answer of a batch with writes waits for all its parts; if the fate of one is unknown, so
//!    is that of the batch.

use crdb_keys::Timestamp;
use crdb_proto::kv::{BatchHeader, BatchRequest, BatchResponse, Response, request};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};

use crate::dist_sender::{DistSender, Routed};
use crate::span::has_writes;
use crate::split::{Borders, ONE_RANGE, Piece, Split, Want};
use crate::{CachedRange, SendError, Sender as _};

/// Of the ranges found so far, how many are looked at for the next key: keys come in order mostly.
const LOOK_BACK: usize = 16;

/// What the answers to the parts add up to, beside the responses.
#[derive(Default)]
struct Sum {
    now: Timestamp,
    read: Timestamp,
    write: Timestamp,
}

impl Sum {
    fn add(&mut self, response: &BatchResponse) {
        let at = |t: Option<crdb_proto::kv::Timestamp>| t.map(Timestamp::from).unwrap_or_default();
        self.now = self.now.max(at(response.now));
        self.read = self.read.max(at(response.read_timestamp));
        self.write = self.write.max(at(response.write_timestamp));
    }

    fn into_response(self, responses: Vec<Response>) -> BatchResponse {
        let some = |t: Timestamp| (!t.is_zero()).then(|| t.into());
        BatchResponse {
            now: some(self.now),
            read_timestamp: some(self.read),
            write_timestamp: some(self.write),
            responses,
            error: None,
        }
    }
}

impl DistSender {
    /// Sends a batch that no single range holds.
    pub(crate) async fn spread(&self, batch: BatchRequest) -> Result<BatchResponse, SendError> {
        if !Split::is_allowed(&batch) {
            return Err(SendError::CrossRange { message: ONE_RANGE.to_owned() });
        }
        let mut header = batch.header.clone().unwrap_or_default();
        // The ranges must not pick timestamps of their own.
        header.can_forward_read_timestamp = false;
        let outside = header.txn.is_none() && header.read_timestamp.is_none();
        for _ in 0..self.config.limits.raises {
            match self.spread_at(batch.clone(), &mut header).await {
                Err(SendError::ReadUncertain { existing, .. }) if outside => {
                    header.read_timestamp = Some(existing.into());
                }
                outcome => return outcome,
            }
        }
        let message = "a read over several ranges met new values time and again".to_owned();
        Err(SendError::Unavailable { message })
    }

    async fn spread_at(
        &self,
        batch: BatchRequest,
        header: &mut BatchHeader,
    ) -> Result<BatchResponse, SendError> {
        let writes = has_writes(&batch);
        let reads = batch.requests.iter().any(|request| {
            matches!(request.kind, Some(request::Kind::Get(_) | request::Kind::Scan(_)))
        });
        let mut split = Split::new(batch);
        let mut sum = Sum::default();
        self.rounds(&mut split, header, (reads, writes), &mut sum).await?;
        self.whole(split, sum)
    }

    /// Goes on where a range stopped before the end of a batch that it holds alone: `response` is
    /// its answer.
    pub(crate) async fn go_on(
        &self,
        batch: BatchRequest,
        range: &CachedRange,
        response: BatchResponse,
    ) -> Result<BatchResponse, SendError> {
        let writes = has_writes(&batch);
        let mut split = Split::new(batch.clone());
        let pieces = split.cut(vec![borders_of(range.clone())]);
        let [piece] = pieces.as_slice() else { return Err(partial(writes)) };
        if !Split::is_allowed(&batch) || response.responses.is_empty() {
            return Err(partial(writes));
        }
        let mut header = batch.header.clone().unwrap_or_default();
        header.can_forward_read_timestamp = false;
        let mut sum = Sum::default();
        sum.add(&response);
        // Where the leaseholder picked the timestamp, nothing above it is uncertain: what the range
        // acknowledged before the batch came to it is below, whoever leads the range next.
        header.read_timestamp = response.read_timestamp.or(header.read_timestamp);
        split.absorb(piece, response.responses);
        self.rounds(&mut split, &mut header, (false, writes), &mut sum).await?;
        self.whole(split, sum)
    }

    /// Sends what is left of a batch until that is nothing. `reads`: the first part picks the
    /// timestamp of all, unless there is one.
    async fn rounds(
        &self,
        split: &mut Split,
        header: &mut BatchHeader,
        (reads, writes): (bool, bool),
        sum: &mut Sum,
    ) -> Result<(), SendError> {
        loop {
            let wants = split.wants();
            if wants.is_empty() {
                return Ok(());
            }
            let pieces = split.cut(self.borders(wants).await?);
            if pieces.is_empty() {
                return Err(SendError::Invalid { message: "the batch names no key".to_owned() });
            }
            let before = split.progress();
            let mut answered = 0;
            if reads && header.read_timestamp.is_none() {
                self.send_first(&pieces, header, split, sum).await?;
                answered = 1;
            }
            let rest = pieces.get(answered..).unwrap_or_default();
            self.send_all(rest, header, writes, split, sum).await?;
            if split.progress() == before {
                return Err(partial(writes));
            }
        }
    }

    fn whole(&self, split: Split, sum: Sum) -> Result<BatchResponse, SendError> {
        let responses = split.finish(self.config.limits.answer_bytes);
        let responses =
            responses.map_err(|message| SendError::Invalid { message: message.to_owned() })?;
        Ok(sum.into_response(responses))
    }

    /// Sends the part that picks the timestamp of all.
    async fn send_first(
        &self,
        pieces: &[Piece],
        header: &mut BatchHeader,
        split: &mut Split,
        sum: &mut Sum,
    ) -> Result<(), SendError> {
        let Some(piece) = pieces.first() else { return Ok(()) };
        let response = self.send_piece(piece, header).await?;
        sum.add(&response);
        header.read_timestamp = response.read_timestamp;
        if header.uncertainty_limit.is_none() {
            // The leaseholder's clock was read after the batch was sent, and no clock is further
            // ahead of it than this.
            let offset = u64::try_from(self.config.max_offset.as_nanos()).unwrap_or(u64::MAX);
            let picked = sum.read;
            let wall = picked.wall_nanos.saturating_add(offset);
            header.uncertainty_limit = Some(Timestamp::new(wall, picked.logical).into());
        }
        split.absorb(piece, response.responses);
        Ok(())
    }

    async fn send_all(
        &self,
        pieces: &[Piece],
        header: &BatchHeader,
        writes: bool,
        split: &mut Split,
        sum: &mut Sum,
    ) -> Result<(), SendError> {
        let answer = |piece| async move { (piece, self.send_piece(piece, header).await) };
        let sends: Vec<BoxFuture<'_, (&Piece, Result<BatchResponse, SendError>)>> =
            pieces.iter().map(|piece| Box::pin(answer(piece)) as BoxFuture<'_, _>).collect();
        let mut answers = stream::iter(sends).buffer_unordered(self.config.limits.parts);
        let mut failed: Option<SendError> = None;
        while let Some((piece, answer)) = answers.next().await {
            match answer {
                Ok(response) => {
                    sum.add(&response);
                    split.absorb(piece, response.responses);
                }
                Err(error) if !writes => return Err(error),
                Err(error) => failed = Some(worse(failed, error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn send_piece(
        &self,
        piece: &Piece,
        header: &BatchHeader,
    ) -> Result<BatchResponse, SendError> {
        let mut batch =
            BatchRequest { header: Some(header.clone()), requests: piece.requests.clone() };
        let answer = match self.route_once(&mut batch).await {
            Ok(Routed::Answered(_, response)) => Ok(*response),
            Ok(Routed::Apart) => self.send(batch).await,
            Err(error) => Err(error),
        };
        answer.map_err(|error| match error {
            SendError::ConditionFailed { index, key, actual } => {
                let position = usize::try_from(index).ok().and_then(|i| piece.positions.get(i));
                let index = position.and_then(|p| u32::try_from(*p).ok()).unwrap_or(index);
                SendError::ConditionFailed { index, key, actual }
            }
            error => error,
        })
    }

    /// The ranges that the requests want to be cut at.
    async fn borders(&self, wants: Vec<Want>) -> Result<Vec<Borders>, SendError> {
        let mut borders: Vec<Borders> = Vec::with_capacity(wants.len());
        let of = borders_of;
        for want in wants {
            match want {
                Want::At(key) => {
                    let known = |b: &Borders| b.start <= key && key < b.end;
                    if !borders.iter().rev().take(LOOK_BACK).any(known) {
                        borders.push(of(self.range_of(&key).await?));
                    }
                }
                Want::Before(key) => borders.push(of(self.range_before(&key).await?)),
                Want::All(start, end) => {
                    let mut at = start;
                    while at < end {
                        let range = of(self.range_of(&at).await?);
                        at = range.end.clone();
                        borders.push(range);
                    }
                }
            }
        }
        Ok(without_overlap(borders))
    }
}

fn borders_of(range: CachedRange) -> Borders {
    Borders { start: range.descriptor.start_key, end: range.descriptor.end_key }
}

/// A range said less of a batch than it may.
fn partial(writes: bool) -> SendError {
    let message = "a range answered a part of a batch and does not go on".to_owned();
    match writes {
        true => SendError::Ambiguous { message },
        false => SendError::Unavailable { message },
    }
}

/// What is known of ranges may change between two look-ups: the later one is cut short, so that no
/// key is sent twice. A part that a range does not hold any more is cut again when it says so.
fn without_overlap(mut borders: Vec<Borders>) -> Vec<Borders> {
    borders.sort_by(|a, b| a.start.cmp(&b.start));
    let mut apart: Vec<Borders> = Vec::with_capacity(borders.len());
    for mut range in borders {
        if let Some(last) = apart.last()
            && range.start < last.end
        {
            range.start = last.end.clone();
        }
        if range.start < range.end {
            apart.push(range);
        }
    }
    apart
}

/// The error to report of two: an unknown fate before everything else.
fn worse(first: Option<SendError>, second: SendError) -> SendError {
    match first {
        Some(first) if !matches!(second, SendError::Ambiguous { .. }) => first,
        _ => second,
    }
}
