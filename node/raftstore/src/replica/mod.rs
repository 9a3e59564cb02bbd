//! One replica of a range: its raft node, what it applied, its promise, and, at the leader, its
//! lease.
//!
//! | file | concern |
//! |---|---|
//! | `mod` | state, creation, what follows each call into raft |
//! | `receive` | messages from other replicas, votes held back |
//! | `propose` | commands on their way into the log |
//! | `ready` | what raft wants written and sent |
//! | `apply` | committed entries |
//! | `lead` | lease, its transfer, stepping down |
//! | `split` | a range becomes two |
//! | `close` | timestamps at or below which nothing is written any more |
//! | `change` | changes of the replicas, the replicate queue |
//! | `tick` | the passing of time |
//!
//! Between `ready` and `advance` (the store's `begin` and `finish`) nothing else touches the node.
//!
//! Invariants:
//! 1. `after_raft` follows every call into raft: it clears the lease cell when leadership ended,
//!    proposes the lease when it began, and sets the election timeout again.
//! 2. The applied state on disk and `applied` differ only between collecting an apply batch and
//!    writing it.

mod apply;
mod change;
mod close;
mod lead;
mod propose;
mod ready;
mod receive;
mod split;
mod tick;

use std::{collections::BTreeMap, collections::VecDeque, sync::Arc};

use crdb_keys::{RangeId, ReplicaId, StoreId, Timestamp, hlc::Clock, layout::RangeLocal};
use crdb_proto::kv::RangeDescriptor;
use crdb_storage::Engine;
use raft::{RawNode, Ready, StateRole};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

pub(crate) use self::{
    lead::Leadership,
    propose::Pending,
    receive::{BatchMeta, Refusal, is_vote_request},
};
use crate::{
    closed::SideClosed,
    config::{Mono, PlantedBug, StoreConfig},
    handle::{Completion, ReplicaHandle, RoleView, StoreHandle},
    io::{Outputs, Proposal, StoreError},
    lease::{Bound, LeaseTracker, SentAt},
    log::LogStore,
    logger,
    outbox::Outbox,
    promise::Promise,
    record::{self, AppliedState, RecordError},
    snapshot::Incoming,
};

/// What a replica may use of its store during a step.
pub(crate) struct Ctx<'a, E: Engine> {
    pub(crate) now: Mono,
    /// Both clocks at the start of this half of the step: what is sent now was sent then.
    pub(crate) sent: SentAt,
    /// The wall stamp on disk, if it covers what is sent now.
    pub(crate) stamp: Option<Timestamp>,
    pub(crate) clock: &'a Clock,
    pub(crate) config: &'a StoreConfig,
    pub(crate) handle: &'a StoreHandle<E>,
    pub(crate) stores: &'a [crdb_allocator::StoreInfo],
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) outputs: &'a mut Outputs<E>,
    pub(crate) draining: bool,
}

/// A lease acknowledgement to send once this step is durable.
#[derive(Clone, Copy, Debug)]
struct OwedAck {
    store: StoreId,
    leader: u64,
    term: u64,
    incarnation: u64,
    sequence: u64,
}

/// One replica.
pub(crate) struct Replica<E: Engine> {
    pub(crate) range_id: RangeId,
    pub(crate) replica_id: ReplicaId,
    store_id: StoreId,
    raw: RawNode<LogStore<E>>,
    pub(crate) handle: Arc<ReplicaHandle>,
    /// `None` until the first snapshot arrived.
    descriptor: Option<RangeDescriptor>,
    applied: AppliedState,
    promise: Promise,
    /// Who acknowledged what, at the leader.
    tracker: LeaseTracker,
    /// Bounds that came with the votes of `votes_term`.
    votes: BTreeMap<u64, Bound>,
    votes_term: u64,
    leadership: Option<Leadership>,
    pending: VecDeque<Pending>,
    /// Proposals that wait for room in the log, in the order in which they came.
    waiting: VecDeque<Proposal>,
    owed_ack: Option<OwedAck>,
    /// Where replicas live: from the descriptor, and learned from their messages.
    addresses: BTreeMap<u64, StoreId>,
    incoming: Option<Incoming>,
    ready: Option<Ready>,
    /// A snapshot at this index is being written by the current step.
    ingesting: Option<(u64, Incoming)>,
    rng: StdRng,
    failed_campaigns: u32,
    /// Ticks of the random part of the election timeout.
    jitter: usize,
    last_leader: u64,
    /// Term seen by the last `after_raft`.
    seen_term: u64,
    /// Ticks since a leader was heard.
    silent_ticks: u32,
    /// When each other replica was last heard.
    heard: BTreeMap<u64, Mono>,
    /// The newest promise that came without a command.
    side_closed: Option<SideClosed>,
    /// Who waits for the lease to be elsewhere, and until when.
    transfer_waiters: Vec<(Completion, Mono)>,
    /// Set once a configuration without this replica was applied, or a peer proved one.
    removed: Option<RangeDescriptor>,
}

impl<E: Engine> Replica<E> {
    /// Reads the replica of `range_id` from the engine, or makes an empty one.
    pub(crate) fn load(
        handle: &StoreHandle<E>,
        range_id: RangeId,
        replica_id: ReplicaId,
        promise: impl FnOnce(u64, bool) -> Promise,
    ) -> Result<Self, StoreError> {
        let shared = &handle.shared;
        let store_id = shared.config.store_id;
        let fail = |error| fatal(store_id, error);
        let engine = shared.engine.clone();
        let applied: AppliedState = record::read(&engine, range_id, RangeLocal::AppliedState)
            .map_err(fail)?
            .unwrap_or_default();
        let descriptor: Option<RangeDescriptor> =
            record::read(&engine, range_id, RangeLocal::Descriptor).map_err(fail)?;
        let log = LogStore::load(
            engine,
            range_id,
            applied.conf.clone(),
            (applied.index, applied.term),
            shared.config.limits.entry_cache_bytes,
        )
        .map_err(fail)?;
        let sole = applied.conf.is_sole_voter(replica_id.get());
        let promise = promise(log.hard_state().term, sole);
        let config = raft_config(&shared.config, replica_id, applied.index);
        let logger = logger::logger(format!("{range_id}/{replica_id}"));
        let raw = RawNode::new(&config, log, &logger).map_err(|error| StoreError::Raft {
            store: store_id,
            range_id,
            detail: error.to_string(),
        })?;
        let shown = descriptor.clone().unwrap_or_else(|| RangeDescriptor {
            range_id: range_id.get(),
            ..RangeDescriptor::default()
        });
        let seed = shared.config.seed ^ (range_id.get() << 32) ^ replica_id.get();
        let seen_term = raw.raft.term;
        let mut replica = Self {
            range_id,
            replica_id,
            store_id,
            raw,
            handle: Arc::new(ReplicaHandle::new(shown, &shared.config)),
            descriptor: None,
            applied,
            promise,
            tracker: LeaseTracker::default(),
            votes: BTreeMap::new(),
            votes_term: 0,
            leadership: None,
            pending: VecDeque::new(),
            waiting: VecDeque::new(),
            owed_ack: None,
            addresses: BTreeMap::new(),
            incoming: None,
            ready: None,
            ingesting: None,
            rng: StdRng::seed_from_u64(seed),
            failed_campaigns: 0,
            jitter: 0,
            last_leader: 0,
            seen_term,
            silent_ticks: 0,
            heard: BTreeMap::new(),
            side_closed: None,
            transfer_waiters: Vec::new(),
            removed: None,
        };
        if let Some(descriptor) = descriptor {
            replica.set_descriptor(descriptor);
            replica.handle.history.raise_threshold(replica.applied.gc_threshold());
            replica.publish_closed();
            handle.insert(Arc::clone(&replica.handle));
        }
        replica.retime();
        Ok(replica)
    }

    /// The descriptor, once there is one.
    pub(crate) fn descriptor(&self) -> Option<&RangeDescriptor> {
        self.descriptor.as_ref()
    }

    /// Whether the replica holds the range's state.
    pub(crate) fn is_initialized(&self) -> bool {
        self.descriptor.is_some()
    }

    /// Whether no other voter is needed for anything.
    pub(crate) fn is_sole_voter(&self) -> bool {
        self.applied.conf.is_sole_voter(self.replica_id.get())
    }

    /// The descriptor that proves that the replica is no more.
    pub(crate) fn removed(&self) -> Option<&RangeDescriptor> {
        self.removed.as_ref()
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub(crate) fn has_ready(&self) -> bool {
        self.raw.has_ready()
    }

    /// Replaces the descriptor, and shows it to the evaluations.
    fn set_descriptor(&mut self, descriptor: RangeDescriptor) {
        self.handle.set_descriptor(descriptor.clone());
        self.learn_descriptor(descriptor);
    }

    /// Replaces the descriptor, and with it the addresses of the other replicas.
    fn learn_descriptor(&mut self, descriptor: RangeDescriptor) {
        for replica in &descriptor.replicas {
            self.addresses.insert(replica.replica_id, StoreId(replica.store_id));
        }
        self.descriptor = Some(descriptor);
    }

    /// Whether the replica holds, or is about to hold, keys of `span`.
    pub(crate) fn overlaps(&self, span: &RangeDescriptor) -> bool {
        let arriving = self.ingesting.as_ref().map(|(_, incoming)| &incoming.descriptor);
        let accepted = self.incoming.as_ref().map(|incoming| &incoming.descriptor);
        [self.descriptor.as_ref(), arriving, accepted]
            .into_iter()
            .flatten()
            .any(|own| own.start_key < span.end_key && span.start_key < own.end_key)
    }

    /// Notes where a replica that wrote to us lives.
    fn learn_address(&mut self, replica: u64, store: StoreId) {
        self.addresses.entry(replica).or_insert(store);
    }

    /// Follows every call into raft.
    fn after_raft(&mut self, ctx: &mut Ctx<'_, E>) {
        let raft = &self.raw.raft;
        let (term, role, leader) = (raft.term, raft.state, raft.leader_id);
        if term > self.seen_term {
            self.seen_term = term;
            if ctx.config.has(PlantedBug::PromiseClearedByTerm) {
                self.promise.clear_for_planted_bug();
            }
        }
        let leading = role == StateRole::Leader;
        if self.leadership.as_ref().is_some_and(|led| !leading || led.term != term) {
            self.lose_leadership();
        }
        if leader != 0 {
            self.last_leader = leader;
            self.failed_campaigns = 0;
            self.jitter = 0;
        }
        self.show_role();
        if leading && self.leadership.is_none() {
            self.gain_leadership(ctx);
        }
        self.retime();
    }

    fn show_role(&mut self) {
        let raft = &self.raw.raft;
        let view = RoleView {
            is_leader: raft.state == StateRole::Leader,
            transferring: self.leadership.as_ref().is_some_and(Leadership::is_transferring),
            leader: raft.leader_id,
        };
        if self.handle.role() != view {
            self.handle.set_role(view);
            if !view.is_leader {
                self.handle.wake_lease_waiters();
            }
        }
    }

    /// Counts a campaign that this replica starts, and draws how much longer it waits the next
    /// time.
    fn note_campaign(&mut self) {
        self.failed_campaigns = self.failed_campaigns.saturating_add(1);
        let most = usize::try_from(self.failed_campaigns).unwrap_or(usize::MAX).min(5);
        self.jitter = self.rng.random_range(0..=most);
    }

    /// Sets the election timeout: E, plus the replica's rank among the voters but for the leader
    /// that fell silent, plus the jitter of failed campaigns. Ranks keep followers from
    /// campaigning at the same moment; raft's own random choice is not ours to seed.
    fn retime(&mut self) {
        let own = self.replica_id.get();
        let rank = self
            .applied
            .conf
            .all_voters()
            .filter(|voter| *voter != self.last_leader && *voter < own)
            .count();
        let base = self.raw.raft.election_timeout();
        let timeout = (base + rank.min(9) + self.jitter).min(2 * base - 1);
        self.raw.raft.set_randomized_election_timeout(timeout);
    }

    /// Whether `replica` was heard within twice the election timeout.
    fn is_responsive(&self, ctx: &Ctx<'_, E>, replica: u64) -> bool {
        let window = ctx.config.timing.election_timeout() * 2;
        replica == self.replica_id.get()
            || self.heard.get(&replica).is_some_and(|heard| ctx.now.since(*heard) < window)
    }

    /// Whether this replica may help to elect somebody at `now`.
    fn may_elect(&self, now: Mono) -> bool {
        self.is_sole_voter() || !self.promise.is_active(now)
    }

    /// Fails what waits, because the replica goes away.
    pub(crate) fn shut_down(&mut self) {
        self.lose_leadership();
        // What is pending says ambiguous when dropped.
        self.pending.clear();
        self.transfer_waiters.clear();
    }
}

fn raft_config(config: &StoreConfig, replica_id: ReplicaId, applied: u64) -> raft::Config {
    raft::Config {
        id: replica_id.get(),
        election_tick: config.timing.election_ticks,
        heartbeat_tick: config.timing.heartbeat_ticks,
        min_election_tick: config.timing.election_ticks,
        max_election_tick: config.timing.election_ticks * 2,
        applied,
        max_size_per_msg: config.limits.append_bytes_max,
        max_inflight_msgs: config.limits.appends_in_flight_max,
        check_quorum: true,
        pre_vote: true,
        read_only_option: raft::ReadOnlyOption::Safe,
        // A commit travels with the next entries or heartbeat: without a message of its own, a
        // follower wakes up, and answers, once for each command instead of twice.
        skip_bcast_commit: true,
        batch_append: true,
        priority: 0,
        // Counted by raft and bounded by `has_room`: raft would drop what can wait.
        max_uncommitted_size: u64::MAX / 2,
        max_committed_size_per_ready: config.limits.applied_bytes_max,
    }
}

/// The error that stops the store because a record of it could not be read or made.
pub(crate) fn fatal(store: StoreId, error: RecordError) -> StoreError {
    match error {
        RecordError::Storage(source) => StoreError::Storage { store, source },
        RecordError::Corrupt { what, detail } => StoreError::Corrupt { store, what, detail },
    }
}
