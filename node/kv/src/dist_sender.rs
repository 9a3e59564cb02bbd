//! Routes a batch to the leaseholder of its range.
//!
//! Flow: look the range up (cache, else the meta range) → believed leaseholder, else the own node,
//! else the other replicas in turn → follow `NotLeaseholder` and `RangeMismatch` → answer.
//!
//! Invariants:
//! 1. At most one copy of a batch with writes is under way, and it is sent again only after an
//!    answer or a transport error that proves it was not proposed.
//! 2. A read may be under way at several replicas; the first that serves it wins.
//! 3. A call ends once nothing was heard of it for the timeout, or earlier when the fate of a write
//!    cannot be learned any more. It goes on as long as its node says that it works on it, or other
//!    replicas take the range over.
//!
//! A batch over several ranges goes to each in parts, see the modules `spread` and `split`.

use std::cmp::Reverse;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crdb_keys::NodeId;
use crdb_proto::kv::{
    self, BatchHeader, BatchRequest, BatchResponse, GetRequest, RangeDescriptor, Request,
    error::Kind, request,
};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream};

#[cfg(feature = "planted-bugs")]
use crate::PlantedTxnBug;
use crate::range_cache::{CachedRange, RangeCache, holds_replica};
use crate::span::{BatchSpan, has_writes};
use crate::split::{forget_rest, is_whole};
use crate::{Life, Limits, SendError, Sender, Transport, TransportError};

/// Time limits of a [`DistSender`].
#[derive(Debug, Clone, Copy)]
pub struct DistSenderConfig {
    /// A call gives up after so long without a sign of it.
    pub timeout: Duration,
    /// A call of which there was a sign is not silent for this long.
    pub sign_lasts: Duration,
    /// Silence after which other replicas are asked.
    pub probe_after: Duration,
    /// First pause after all replicas refused; doubles up to `backoff_max`.
    pub backoff_min: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
    /// Largest difference between the clocks of two nodes.
    pub max_offset: Duration,
    /// Bounds.
    pub limits: Limits,
    /// A bug planted on purpose, to prove that checks find it.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<PlantedTxnBug>,
}

impl Default for DistSenderConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            sign_lasts: Duration::from_secs(3),
            probe_after: Duration::from_millis(300),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(50),
            max_offset: Duration::from_millis(500),
            limits: Limits::default(),
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }
}

/// Sends each batch to the range that holds its keys.
pub struct DistSender {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) cache: Arc<RangeCache>,
    pub(crate) config: DistSenderConfig,
}

/// How often a call is given more time because another node is said to serve its range.
const CHANGES_MAX: u32 = 10;

type Answer = Result<BatchResponse, TransportError>;
type InFlight<'a> = FuturesUnordered<BoxFuture<'a, (NodeId, Answer)>>;

/// What to do after an answer.
enum Verdict {
    Done(Box<BatchResponse>),
    Fail(SendError),
    /// Not proposed there: try elsewhere.
    Next {
        reason: String,
        hint: Option<NodeId>,
        rerouted: bool,
    },
}

/// What became of a batch that was sent to one range.
pub(crate) enum Routed {
    /// The range answered, perhaps a part.
    Answered(Box<CachedRange>, Box<BatchResponse>),
    /// No range holds all of it; no part of it was proposed.
    Apart,
}

/// How long a batch waits for locks of others. That may be for ever, while a call that is silent
/// for long must be given up: so the range is asked to wait for a part of it, time and again.
struct LockPatience {
    /// Milliseconds the caller allows for the lock of each key; 0: for ever.
    allowed: u64,
    /// Milliseconds waited for the lock of `key`.
    waited: u64,
    key: Vec<u8>,
    /// Milliseconds of one call, at most, and of the last one.
    part: u64,
    asked: u64,
}

impl LockPatience {
    fn new(batch: &BatchRequest, part: Duration) -> Self {
        let allowed = batch.header.as_ref().map_or(0, |header| header.lock_timeout_ms);
        let part = u64::try_from(part.as_millis()).unwrap_or(u64::MAX).max(1);
        Self { allowed, waited: 0, key: Vec::new(), part, asked: part }
    }

    /// Tells the range how long to wait.
    fn apply(&mut self, batch: &mut BatchRequest) {
        self.asked = match self.allowed {
            0 => self.part,
            allowed => self.part.min(allowed - self.waited),
        };
        batch.header.get_or_insert_default().lock_timeout_ms = self.asked;
    }

    /// Tells what the caller said: the batch goes on in pieces, each of which waits by itself.
    fn give_back(&self, batch: &mut BatchRequest) {
        if let Some(header) = &mut batch.header {
            header.lock_timeout_ms = self.allowed;
        }
    }

    /// Whether the caller allows another part, after one for the lock of `key`.
    fn wait_on(&mut self, key: &[u8]) -> bool {
        if *self.key != *key {
            self.key = key.to_vec();
            self.waited = 0;
        }
        self.waited += self.asked;
        self.allowed == 0 || self.waited < self.allowed
    }
}

/// What a write under way waits for.
enum Event {
    Answer(NodeId, Answer),
    Probe(NodeId, Answer),
    Silence,
}

/// Which replicas a call has asked since its last pause.
#[derive(Default)]
struct Round {
    tried: Vec<NodeId>,
    hint: Option<NodeId>,
    /// A node said that the range is not there, and nobody where it is.
    moved: bool,
    /// Any replica may serve the batch.
    nearest: bool,
    backoff: Duration,
    /// When the call is given up, unless there is a sign of it.
    give_up: Duration,
    /// The latest node that was said to serve the range, and how often that was another one.
    serves: Option<NodeId>,
    changes: u32,
}

impl DistSender {
    /// A sender over `transport` that starts from what `cache` knows.
    pub fn new(
        transport: Arc<dyn Transport>,
        cache: Arc<RangeCache>,
        config: DistSenderConfig,
    ) -> Self {
        Self { transport, cache, config }
    }

    /// The range cache, for feeding it hints.
    pub fn cache(&self) -> &Arc<RangeCache> {
        &self.cache
    }

    /// Sends a batch until all of it is answered.
    pub(crate) async fn route(&self, mut batch: BatchRequest) -> Result<BatchResponse, SendError> {
        let (range, mut response) = match self.route_once(&mut batch).await? {
            Routed::Answered(range, response) => (range, response),
            Routed::Apart => return Box::pin(self.spread(batch)).await,
        };
        let forgets = self.forgets_rest(&batch) && forget_rest(&batch, &mut response.responses);
        if forgets || is_whole(&batch, &response.responses) {
            return Ok(*response);
        }
        Box::pin(self.go_on(batch, &range, *response)).await
    }

    /// Whether it is planted that what is left of `batch` is forgotten.
    #[cfg(feature = "planted-bugs")]
    fn forgets_rest(&self, batch: &BatchRequest) -> bool {
        batch.requests.iter().any(|request| match &request.kind {
            Some(request::Kind::Scan(_)) => self.has(PlantedTxnBug::ForgetRows),
            Some(request::Kind::ResolveIntent(_)) => self.has(PlantedTxnBug::ForgetIntents),
            Some(request::Kind::RevertIntent(_)) => self.has(PlantedTxnBug::ForgetReverts),
            _ => false,
        })
    }

    #[cfg(feature = "planted-bugs")]
    fn has(&self, bug: PlantedTxnBug) -> bool {
        self.config.planted == Some(bug)
    }

    /// Never, unless built for tests.
    #[cfg(not(feature = "planted-bugs"))]
    #[expect(clippy::unused_self, reason = "same signature as with planted bugs")]
    fn forgets_rest(&self, _: &BatchRequest) -> bool {
        false
    }

    /// Sends a batch to the range that holds it, which may answer a part.
    pub(crate) async fn route_once(&self, batch: &mut BatchRequest) -> Result<Routed, SendError> {
        let writes = has_writes(batch);
        let mut locks = LockPatience::new(batch, self.config.timeout / 2);
        let nearest = !writes && batch.header.as_ref().is_some_and(is_nearest);
        let give_up = self.transport.elapsed() + self.config.timeout;
        let backoff = self.config.backoff_min;
        let mut round = Round { backoff, nearest, give_up, ..Round::default() };
        let mut reason = String::from("no replica of the range is known");
        loop {
            let Some(range) = self.find_range(batch).await? else {
                // Also after a split was heard of: no part of it was proposed so far.
                locks.give_back(batch);
                return Ok(Routed::Apart);
            };
            address(batch, &range.descriptor, self.transport.local_node());
            locks.apply(batch);
            let outcome = if writes {
                self.attempt_write(batch, &range, &mut round).await
            } else {
                self.attempt_read(batch, &range, &mut round).await
            };
            match outcome {
                Some(Verdict::Done(response)) => {
                    locks.give_back(batch);
                    return Ok(Routed::Answered(Box::new(range), response));
                }
                // The range serves; it is somebody's lock that takes its time.
                Some(Verdict::Fail(SendError::LockConflict { timed_out: true, key }))
                    if locks.wait_on(&key) =>
                {
                    round.give_up = self.transport.elapsed() + self.config.timeout;
                    round.tried.clear();
                }
                Some(Verdict::Fail(error)) => return Err(error),
                Some(Verdict::Next { reason: why, hint, rerouted }) => {
                    reason = why;
                    self.note_change(&mut round, hint);
                    round.hint = hint.filter(|node| !round.tried.contains(node));
                    if rerouted {
                        round.tried.clear();
                    }
                }
                None => {
                    // Every replica refused or is out of reach: an election, most likely. If one
                    // has no replica any more, the others may not have one either.
                    if std::mem::take(&mut round.moved) {
                        self.forget(&range.descriptor);
                    }
                    round.tried.clear();
                    round.hint = None;
                    self.transport.sleep(round.backoff).await;
                    round.backoff = (round.backoff * 2).min(self.config.backoff_max);
                }
            }
            if self.transport.elapsed() >= round.give_up {
                let id = range.descriptor.range_id;
                return Err(SendError::Unavailable {
                    message: format!("range r{id} is unavailable: {reason}"),
                });
            }
        }
    }

    /// Another node is said to serve the range now: the range moves on, and a busy machine may take
    /// some attempts. Not for ever, in case two of them name each other.
    fn note_change(&self, round: &mut Round, serves: Option<NodeId>) {
        if serves.is_some() && serves != round.serves {
            round.serves = serves;
            round.changes += 1;
            if round.changes <= CHANGES_MAX {
                round.give_up = self.transport.elapsed() + self.config.timeout;
            }
        }
    }

    /// Whether a call is not silent: its node said lately that it works on it. Then it is not given
    /// up for a while.
    fn is_alive(&self, life: &Life, round: &mut Round) -> bool {
        let Some(last) = life.last() else { return false };
        round.give_up = round.give_up.max(last + self.config.timeout);
        self.transport.elapsed() < last + self.config.sign_lasts
    }

    /// Next replica to ask: the hint, the believed leaseholder, the own node, then the others. If
    /// any replica may serve: the nearest one, of several any but the leaseholder, which comes next.
    fn candidate(&self, range: &CachedRange, round: &Round, pending: &[NodeId]) -> Option<NodeId> {
        let free = |node: &NodeId| {
            !round.tried.contains(node)
                && !pending.contains(node)
                && holds_replica(&range.descriptor, *node)
        };
        let local = self.transport.local_node();
        let others = range.descriptor.replicas.iter().map(|r| NodeId(r.node_id));
        if round.nearest && round.tried.is_empty() {
            let nearness = |node: &NodeId| {
                let tiers = self.transport.shared_tiers(*node);
                (*node != local, Reverse(tiers), Some(*node) == range.leaseholder)
            };
            return others.filter(free).min_by_key(nearness);
        }
        round.hint.into_iter().chain(range.leaseholder).chain([local]).chain(others).find(free)
    }

    /// One copy to one replica. While it is silent, others are asked who serves the range.
    async fn attempt_write(
        &self,
        batch: &BatchRequest,
        range: &CachedRange,
        round: &mut Round,
    ) -> Option<Verdict> {
        let node = self.candidate(range, round, &[])?;
        let life = Life::default();
        let mut flight: InFlight<'_> = FuturesUnordered::new();
        flight.push(self.send_to(node, batch.clone(), life.clone()));
        let mut probes: InFlight<'_> = FuturesUnordered::new();
        let mut timer = None;
        let mut moved_to = None;
        loop {
            match self.next_event(&mut flight, &mut probes, &mut timer).await {
                Event::Answer(node, answer) => {
                    return Some(self.judge(node, answer, range, round, true));
                }
                Event::Probe(other, answer) => {
                    if matches!(&answer, Ok(response) if response.error.is_none()) {
                        let start = &range.descriptor.start_key;
                        self.cache.set_leaseholder(range.descriptor.range_id, start, Some(other));
                        moved_to = Some(other);
                        // One more span of patience for an answer that is on its way.
                        timer = None;
                    }
                }
                Event::Silence if moved_to.is_none() && self.is_alive(&life, round) => timer = None,
                Event::Silence
                    if moved_to.is_some() || self.transport.elapsed() >= round.give_up =>
                {
                    let message = match moved_to {
                        Some(other) => format!("{node} did not answer and {other} serves now"),
                        None => format!("{node} did not answer in time"),
                    };
                    return Some(Verdict::Fail(SendError::Ambiguous { message }));
                }
                Event::Silence => {
                    timer = None;
                    probes = FuturesUnordered::new();
                    for other in range.descriptor.replicas.iter().map(|r| NodeId(r.node_id)) {
                        if other != node {
                            probes.push(self.send_to(other, probe(batch, range), Life::default()));
                        }
                    }
                }
            }
        }
    }

    /// What happens first: the answer to a write, the answer to a probe, or silence.
    async fn next_event(
        &self,
        flight: &mut InFlight<'_>,
        probes: &mut InFlight<'_>,
        timer: &mut Option<BoxFuture<'static, ()>>,
    ) -> Event {
        poll_fn(|cx| {
            if let Poll::Ready(Some((node, answer))) = Pin::new(&mut *flight).poll_next(cx) {
                return Poll::Ready(Event::Answer(node, answer));
            }
            if let Poll::Ready(Some((node, answer))) = Pin::new(&mut *probes).poll_next(cx) {
                return Poll::Ready(Event::Probe(node, answer));
            }
            // The timer is made only once the answer was not there at once.
            let patience = self.config.probe_after;
            let timer = timer.get_or_insert_with(|| self.transport.sleep(patience));
            timer.as_mut().poll(cx).map(|()| Event::Silence)
        })
        .await
    }

    /// Asks one replica after another, each `probe_after` apart while they are silent.
    async fn attempt_read(
        &self,
        batch: &BatchRequest,
        range: &CachedRange,
        round: &mut Round,
    ) -> Option<Verdict> {
        let mut flight: InFlight<'_> = FuturesUnordered::new();
        let mut pending: Vec<NodeId> = Vec::new();
        // Of whichever copy it is: they are the same.
        let life = Life::default();
        loop {
            match self.candidate(range, round, &pending) {
                Some(node) if flight.is_empty() || !self.is_alive(&life, round) => {
                    pending.push(node);
                    flight.push(self.send_to(node, batch.clone(), life.clone()));
                }
                None if flight.is_empty() => return None,
                _ => {}
            }
            match self.next_answer(&mut flight, self.config.probe_after).await {
                Some((node, answer)) => {
                    pending.retain(|n| *n != node);
                    match self.judge(node, answer, range, round, false) {
                        // While another copy is under way, the refusal of one replica decides
                        // nothing.
                        Verdict::Next { hint, rerouted: false, .. } if !flight.is_empty() => {
                            round.hint = hint;
                        }
                        verdict => return Some(verdict),
                    }
                }
                None if self.is_alive(&life, round) => {}
                None if self.transport.elapsed() >= round.give_up => {
                    let reason = "no replica answered in time".to_owned();
                    return Some(Verdict::Next { reason, hint: None, rerouted: false });
                }
                None if self.candidate(range, round, &pending).is_none() => {
                    // Those that refused may serve by now; the silent ones stay pending.
                    round.tried.clear();
                }
                None => {}
            }
        }
    }

    fn judge(
        &self,
        node: NodeId,
        answer: Answer,
        range: &CachedRange,
        round: &mut Round,
        writes: bool,
    ) -> Verdict {
        round.tried.push(node);
        let next = |reason: String, hint, rerouted| Verdict::Next { reason, hint, rerouted };
        let response = match answer {
            Ok(response) => response,
            Err(TransportError::NotSent(why)) => {
                return next(format!("{node}: {why}"), None, false);
            }
            Err(TransportError::Lost(why)) if writes => {
                let message = format!("connection to {node} lost before it answered: {why}");
                return Verdict::Fail(SendError::Ambiguous { message });
            }
            Err(TransportError::Lost(why)) => return next(format!("{node}: {why}"), None, false),
        };
        let id = range.descriptor.range_id;
        let start = &range.descriptor.start_key;
        let Some(error) = response.error else {
            if !round.nearest {
                self.cache.set_leaseholder(id, start, Some(node));
            }
            return Verdict::Done(Box::new(response));
        };
        match error.kind {
            Some(Kind::NotLeaseholder(e)) => {
                if let Some(descriptor) = e.descriptor {
                    self.cache.insert(descriptor);
                }
                let hint = e.leaseholder.map(|r| NodeId(r.node_id)).filter(|n| *n != node);
                if range.leaseholder == Some(node) || hint.is_some() {
                    self.cache.set_leaseholder(id, start, hint);
                }
                next(format!("{node}: {}", error.message), hint, false)
            }
            Some(Kind::RangeMismatch(e)) => {
                let mut rerouted = false;
                for descriptor in e.descriptors {
                    rerouted |= self.cache.insert(descriptor);
                }
                round.moved |= !rerouted;
                next(format!("{node}: {}", error.message), None, rerouted)
            }
            // Of a kind that a later version invented: it does not say that nothing was written.
            None if writes => Verdict::Fail(SendError::Ambiguous { message: error.message }),
            Some(Kind::Unavailable(_)) | None => {
                next(format!("{node}: {}", error.message), None, false)
            }
            Some(
                Kind::ReadUncertain(_)
                | Kind::WriteTooOld(_)
                | Kind::LockConflict(_)
                | Kind::TxnRetry(_)
                | Kind::TxnAborted(_)
                | Kind::TooLarge(_)
                | Kind::ReadBelowThreshold(_)
                | Kind::ReadConflict(_)
                | Kind::ConditionFailed(_)
                | Kind::DeadlineExceeded(_)
                | Kind::Ambiguous(_)
                | Kind::Invalid(_),
            ) => {
                if !round.nearest {
                    self.cache.set_leaseholder(id, start, Some(node));
                }
                Verdict::Fail(SendError::from_range(error))
            }
        }
    }

    fn send_to(
        &self,
        node: NodeId,
        batch: BatchRequest,
        life: Life,
    ) -> BoxFuture<'_, (NodeId, Answer)> {
        let answer = self.transport.send(node, batch, life);
        Box::pin(async move { (node, answer.await) })
    }

    /// The next answer of `flight`, or `None` after `patience` or when nothing is under way.
    async fn next_answer(
        &self,
        flight: &mut InFlight<'_>,
        patience: Duration,
    ) -> Option<(NodeId, Answer)> {
        let mut timer: Option<BoxFuture<'static, ()>> = None;
        poll_fn(|cx| {
            if let Poll::Ready(Some(answer)) = Pin::new(&mut *flight).poll_next(cx) {
                return Poll::Ready(Some(answer));
            }
            if flight.is_empty() {
                return Poll::Ready(None);
            }
            let timer = timer.get_or_insert_with(|| self.transport.sleep(patience));
            timer.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}

impl Sender for DistSender {
    fn send(&self, batch: BatchRequest) -> BoxFuture<'_, Result<BatchResponse, SendError>> {
        Box::pin(self.route(batch))
    }
}

fn is_nearest(header: &BatchHeader) -> bool {
    header.routing() == kv::Routing::Nearest
}

fn address(batch: &mut BatchRequest, range: &RangeDescriptor, gateway: NodeId) {
    let header = batch.header.get_or_insert_with(BatchHeader::default);
    header.range_id = range.range_id;
    header.range_generation = range.generation;
    header.gateway_node_id = gateway.get();
}

/// A harmless read of the first key of `batch`.
fn probe(batch: &BatchRequest, range: &CachedRange) -> BatchRequest {
    let key = BatchSpan::of(batch).map_or_else(
        |_| range.descriptor.start_key.clone(),
        |span| bytes::Bytes::copy_from_slice(span.start),
    );
    let get =
        Request { kind: Some(request::Kind::Get(GetRequest { key, ..GetRequest::default() })) };
    let mut probe = BatchRequest { header: None, requests: vec![get] };
    address(&mut probe, &range.descriptor, NodeId(0));
    probe
}
