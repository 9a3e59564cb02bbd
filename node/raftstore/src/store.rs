//! The store: all replicas of one data directory, driven in steps.
//!
//! ```text
//! begin(now, inputs):  messages ─▶ held votes ─▶ ticks ─▶ Readys of all ranges that have one
//!                      └▶ what leaders may send before their own disk has it
//! finish(now):         ONE log batch, ONE sync ─▶ votes, acknowledgements ─▶ ONE apply batch
//!                      └▶ answers, lease renewals, the rest of the messages
//! ```
//!
//! Between the two halves the driver sends what `begin` returned, so that the followers write
//! while the leader does. A driver without such concerns calls [`Store::step`].
//!
//! The store has no clock of its own: the monotonic reading is an argument, the hybrid clock was
//! given to it. `now` must have been read after the inputs were received: a promise that starts
//! too early ends too early.
//!
//! A driver is a loop on a thread of its own:
//!
//! ```text
//! loop {
//!     wait for inputs, but not beyond `next_deadline`;      // a bounded channel
//!     let early = store.begin(mono(), &mut inputs)?;        // an error stops the process
//!     send(early.messages);
//!     let late = store.finish(mono())?;
//!     send(late.messages); start(late.snapshots); publish(late.descriptors);
//! }
//! ```
//!
//! Invariants:
//! 1. No vote, acknowledgement of entries, or lease acknowledgement leaves before what it promises
//!    is durable.
//! 2. No lease acknowledgement leaves on a wall stamp older than half a second, and a leader's
//!    heartbeats count for itself only under such a stamp as well.
//! 3. After the first error nothing is taken in, written or served.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering,
};

use crdb_allocator::StoreInfo;
use crdb_keys::{RangeId, Timestamp, hlc::Clock};
use crdb_proto::peer::RaftBatch;
use crdb_storage::{Engine, Sync, WriteBatch};

use crate::{
    config::{Mono, PlantedBug, StoreConfig, nanos},
    early_votes::EarlyVotes,
    handle::StoreHandle,
    io::{Input, Outputs, StoreError},
    lease::SentAt,
    outbox::Outbox,
    promise::{STAMP_INTERVAL, STAMP_VALIDITY},
    record,
    replica::{Ctx, Replica},
};

/// All replicas of one data directory.
pub struct Store<E: Engine> {
    pub(crate) handle: StoreHandle<E>,
    pub(crate) replicas: BTreeMap<RangeId, Replica<E>>,
    pub(crate) outbox: Outbox,
    /// Replicas that may have something ready.
    pub(crate) dirty: BTreeSet<RangeId>,
    /// Replicas that each step looks at although nothing arrived for them: a step must not cost
    /// more for every range that the store has.
    watched: BTreeSet<RangeId>,
    pub(crate) stores: Vec<StoreInfo>,
    pub(crate) draining: bool,
    pub(crate) log_batch: WriteBatch,
    /// Replicas whose removal is in the log batch: the smallest id that may come back.
    pub(crate) buried: BTreeMap<RangeId, u64>,
    /// Votes for ranges that are not here yet.
    pub(crate) early_votes: EarlyVotes,
    pub(crate) sync_needed: bool,
    /// A sync put off to the next write: only by the planted bug.
    sync_owed: bool,
    pub(crate) outputs: Outputs<E>,
    /// The wall stamp on disk, and the one in the log batch.
    pub(crate) stamp: Option<Timestamp>,
    stamp_pending: Option<Timestamp>,
    pub(crate) sent: SentAt,
    next_tick: Mono,
    ticks: u64,
    /// When the other stores were last told what is closed.
    closed_aside_at: Mono,
    started: bool,
    failed: bool,
    /// The start of the process, for replicas created later.
    pub(crate) opened_at: Mono,
    pub(crate) restart_bound: Timestamp,
}

impl<E: Engine> std::fmt::Debug for Store<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "store {}", self.handle.shared.config.store_id)
    }
}

impl<E: Engine> Store<E> {
    pub(crate) fn assemble(
        handle: StoreHandle<E>,
        replicas: BTreeMap<RangeId, Replica<E>>,
        stamp: Option<Timestamp>,
        restart_bound: Timestamp,
        now: Mono,
    ) -> Self {
        let config = &handle.shared.config;
        let incarnation = config.incarnation;
        let next_tick = now.after(config.timing.tick);
        Self {
            outbox: Outbox::new(incarnation, &config.limits),
            early_votes: EarlyVotes::new(&config.limits),
            dirty: replicas.keys().copied().collect(),
            watched: BTreeSet::new(),
            handle,
            replicas,
            stores: Vec::new(),
            draining: false,
            log_batch: WriteBatch::new(),
            buried: BTreeMap::new(),
            sync_needed: false,
            sync_owed: false,
            outputs: Outputs::default(),
            stamp,
            stamp_pending: None,
            sent: SentAt::default(),
            next_tick,
            ticks: 0,
            closed_aside_at: Mono::default(),
            started: false,
            failed: false,
            opened_at: now,
            restart_bound,
        }
    }

    /// A handle for the threads that evaluate requests.
    #[must_use]
    pub fn handle(&self) -> StoreHandle<E> {
        self.handle.clone()
    }

    /// Both halves of a step in one.
    pub fn step(&mut self, now: Mono, inputs: &mut Vec<Input>) -> Result<Outputs<E>, StoreError> {
        let mut early = self.begin(now, inputs)?;
        let late = self.finish(now)?;
        early.messages.extend(late.messages);
        early.snapshots.extend(late.snapshots);
        early.descriptors.extend(late.descriptors);
        early.next_deadline = late.next_deadline;
        Ok(early)
    }

    /// The first half of a step: takes `inputs` in. What it returns can be sent at once.
    pub fn begin(&mut self, now: Mono, inputs: &mut Vec<Input>) -> Result<Outputs<E>, StoreError> {
        self.guarded(|store| store.begin_inner(now, inputs))
    }

    /// The second half: makes durable what the first half took in, and goes on from there.
    pub fn finish(&mut self, now: Mono) -> Result<Outputs<E>, StoreError> {
        self.guarded(|store| store.finish_inner(now))
    }

    /// Does half a step, unless the store has failed. The first failure is the last: also a panic,
    /// which the consensus library answers to what contradicts its invariants, stops the store and
    /// tells everybody who waits, instead of leaving a process behind that only seems to live.
    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let store = self.config().store_id;
        if self.failed {
            return Err(StoreError::Stopped { store });
        }
        // Nothing of the state that a panic may leave half changed is looked at again.
        let result = catch_unwind(AssertUnwindSafe(|| work(self)))
            .unwrap_or_else(|panic| Err(StoreError::Panicked { store, detail: text_of(&*panic) }));
        if let Err(error) = &result {
            tracing::error!(%error, "the store stops");
            self.stop();
        }
        result
    }

    /// Stops serving, for good. Proposals under way are answered as ambiguous.
    pub fn stop(&mut self) {
        self.failed = true;
        self.handle.stop();
        for replica in self.replicas.values_mut() {
            replica.shut_down();
        }
    }

    fn begin_inner(
        &mut self,
        now: Mono,
        inputs: &mut Vec<Input>,
    ) -> Result<Outputs<E>, StoreError> {
        self.sent = SentAt { mono: now, timestamp: self.clock().now() };
        self.restamp();
        if !self.started {
            self.started = true;
            self.for_each(now, |replica, ctx| replica.campaign_if_sole(ctx));
        }
        for input in inputs.drain(..) {
            self.take_in(now, input)?;
        }
        self.for_watched(now, Replica::release_held);
        if now >= self.next_tick {
            let tick = self.config().timing.tick;
            // Missed ticks are dropped: a store that was stopped for long must not campaign before
            // it has read what it was sent meanwhile.
            self.next_tick = self.next_tick.after(tick).max(Mono(now.0 + 1));
            self.ticks += 1;
            self.early_votes.expire(now);
            let count = self.ticks;
            self.for_each(now, |replica, ctx| replica.tick(ctx, count));
            let interval = self.config().settings.side_transport_interval();
            // A tick that comes a little early is one.
            let since = now.after(self.config().timing.tick / 2).since(self.closed_aside_at);
            if !interval.is_zero() && since >= interval {
                self.closed_aside_at = now;
                self.for_each(now, Replica::close_aside);
            }
            self.dirty.extend(self.replicas.keys().copied());
        }
        self.for_watched(now, Replica::advance_transfer);
        self.collect(now)?;
        let mut early = self.take_outputs();
        // Otherwise they wait for the new stamp, which the second half makes durable.
        if self.stamp_covers() {
            early.messages = self.outbox.flush(self.sent);
        }
        Ok(early)
    }

    /// Adds a new wall stamp to the log batch when the one on disk gets old.
    fn restamp(&mut self) {
        let old = self.stamp.is_none_or(|stamp| {
            self.sent.timestamp.wall_nanos.saturating_sub(stamp.wall_nanos) > nanos(STAMP_INTERVAL)
        });
        if old && self.stamp_pending.is_none() {
            record::write_stamp(&mut self.log_batch, self.sent.timestamp);
            self.stamp_pending = Some(self.sent.timestamp);
            self.sync_needed = true;
        }
    }

    /// Whether the stamp on disk covers what is sent now.
    fn stamp_covers(&self) -> bool {
        self.stamp.is_some_and(|stamp| {
            self.sent.timestamp.wall_nanos.saturating_sub(stamp.wall_nanos) <= nanos(STAMP_VALIDITY)
        })
    }

    fn collect(&mut self, now: Mono) -> Result<(), StoreError> {
        self.destroy_removed();
        let dirty = std::mem::take(&mut self.dirty);
        let mut batch = std::mem::take(&mut self.log_batch);
        let mut sync = false;
        let mut result = Ok(());
        for range in &dirty {
            let collected = self.with(now, *range, |replica, ctx| replica.collect(ctx, &mut batch));
            match collected {
                Some(Ok(needs_sync)) => sync |= needs_sync,
                Some(Err(error)) => result = Err(error),
                None => {}
            }
        }
        self.log_batch = batch;
        self.sync_needed |= sync;
        self.dirty = dirty;
        result
    }

    fn finish_inner(&mut self, now: Mono) -> Result<Outputs<E>, StoreError> {
        self.write_log()?;
        // The clock is read again: what leaves now may claim no more than that it left now.
        self.sent = SentAt { mono: now, timestamp: self.clock().now() };
        let mut batch = WriteBatch::new();
        let mut applied = Vec::new();
        let dirty = std::mem::take(&mut self.dirty);
        for range in &dirty {
            let advanced = self.with(now, *range, |replica, ctx| {
                let committed = replica.advance(ctx)?;
                replica.apply(committed, &mut batch)
            });
            if let Some(effects) = advanced.transpose()?.flatten() {
                applied.push((*range, effects));
            }
        }
        if !batch.is_empty() {
            // Who may vote must not be forgotten: a sole voter that forgot that it no longer is
            // one would elect itself at once.
            let voters = applied.iter().any(|(_, effects)| effects.changes_descriptor());
            self.write(&batch, if voters { Sync::Yes } else { Sync::No })?;
        }
        for (range, mut effects) in applied {
            for right in std::mem::take(&mut effects.created) {
                self.create_right(now, range, &right)?;
            }
            self.with(now, range, |replica, ctx| replica.applied(ctx, effects));
        }
        for range in dirty {
            let more = self.with(now, range, |replica, ctx| {
                replica.advance_transfer(ctx);
                replica.renew(ctx);
                replica.has_ready() || replica.removed().is_some()
            });
            if more == Some(true) {
                self.dirty.insert(range);
            }
        }
        self.send_lease_acks();
        let mut outputs = self.take_outputs();
        outputs.messages = self.outbox.flush(self.sent);
        outputs.next_deadline = self.next_deadline(now);
        Ok(outputs)
    }

    /// The one write and sync of a step.
    fn write_log(&mut self) -> Result<(), StoreError> {
        if self.log_batch.is_empty() {
            self.sync_needed = false;
            return Ok(());
        }
        let mut wanted = self.sync_needed;
        if self.config().has(PlantedBug::AckBeforeSync) {
            std::mem::swap(&mut wanted, &mut self.sync_owed);
        }
        let skip = self.config().has(PlantedBug::SkipSync);
        let sync = if wanted && !skip { Sync::Yes } else { Sync::No };
        let batch = std::mem::take(&mut self.log_batch);
        self.write(&batch, sync)?;
        if matches!(sync, Sync::Yes) {
            self.handle.shared.done.log_syncs.fetch_add(1, Ordering::Relaxed);
        }
        self.sync_needed = false;
        self.buried.clear();
        if let Some(stamp) = self.stamp_pending.take() {
            self.stamp = Some(stamp);
        }
        Ok(())
    }

    fn write(&self, batch: &WriteBatch, sync: Sync) -> Result<(), StoreError> {
        let shared = &self.handle.shared;
        shared
            .engine
            .write(batch, sync)
            .map_err(|source| StoreError::Storage { store: shared.config.store_id, source })
    }

    fn send_lease_acks(&mut self) {
        if !self.stamp_covers() {
            return;
        }
        for range in &self.watched {
            let ack = self.replicas.get_mut(range).and_then(Replica::take_ack);
            if let Some((store, ack)) = ack {
                self.outbox.lease_ack(store, ack);
            }
        }
    }

    fn next_deadline(&self, now: Mono) -> Mono {
        if !self.dirty.is_empty() {
            return now;
        }
        let limits = &self.config().limits;
        let waits = self
            .watched
            .iter()
            .filter_map(|range| self.replicas.get(range))
            .flat_map(|replica| [replica.held_until(), replica.transfer_deadline(limits)])
            .flatten()
            .filter(|deadline| *deadline > now);
        waits.min().unwrap_or(Mono::NEVER).min(self.next_tick)
    }

    fn take_outputs(&mut self) -> Outputs<E> {
        let mut outputs = std::mem::take(&mut self.outputs);
        outputs.next_deadline = self.next_tick;
        outputs
    }

    pub(crate) fn config(&self) -> &StoreConfig {
        &self.handle.shared.config
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.handle.shared.clock
    }

    /// Runs `work` on one replica, with what it may use of the store.
    pub(crate) fn with<T>(
        &mut self,
        now: Mono,
        range: RangeId,
        work: impl FnOnce(&mut Replica<E>, &mut Ctx<'_, E>) -> T,
    ) -> Option<T> {
        let stamp_covers = self.stamp_covers();
        let replica = self.replicas.get_mut(&range)?;
        let shared = &self.handle.shared;
        let mut ctx = Ctx {
            now,
            sent: self.sent,
            stamp: self.stamp.filter(|_| stamp_covers),
            clock: &shared.clock,
            config: &shared.config,
            handle: &self.handle,
            stores: &self.stores,
            outbox: &mut self.outbox,
            outputs: &mut self.outputs,
            draining: self.draining,
        };
        let result = work(replica, &mut ctx);
        if replica.is_watched() {
            self.watched.insert(range);
        } else {
            self.watched.remove(&range);
        }
        Some(result)
    }

    fn for_each(&mut self, now: Mono, work: impl Fn(&mut Replica<E>, &mut Ctx<'_, E>)) {
        let ranges = self.replicas.keys().copied().collect();
        self.for_ranges(now, ranges, work);
    }

    fn for_watched(&mut self, now: Mono, work: impl Fn(&mut Replica<E>, &mut Ctx<'_, E>)) {
        self.watched.retain(|range| self.replicas.contains_key(range));
        let ranges = self.watched.iter().copied().collect();
        self.for_ranges(now, ranges, work);
    }

    fn for_ranges(
        &mut self,
        now: Mono,
        ranges: Vec<RangeId>,
        work: impl Fn(&mut Replica<E>, &mut Ctx<'_, E>),
    ) {
        for range in ranges {
            let ready = self.with(now, range, |replica, ctx| {
                work(replica, ctx);
                replica.has_ready()
            });
            if ready == Some(true) {
                self.dirty.insert(range);
            }
        }
    }

    /// Whether `batch` may be credited with a lease acknowledgement: its clock is near ours.
    pub(crate) fn creditable(&self, batch: &RaftBatch) -> bool {
        let sent_at = batch.sent_at.map(Timestamp::from).unwrap_or_default();
        let clock = self.clock();
        let limit = clock.wall_nanos().saturating_add(nanos(clock.max_offset()));
        !sent_at.is_zero() && sent_at.wall_nanos <= limit
    }
}

/// What a panic said.
fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic of unknown kind").to_owned()
}
