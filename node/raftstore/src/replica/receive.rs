//! Messages from other replicas, and votes held back.

use crdb_keys::{StoreId, Timestamp};
use crdb_proto::peer::{LeaseAck, RangeHeartbeat};
use crdb_storage::Engine;
use raft::{
    CAMPAIGN_TRANSFER, StateRole,
    eraftpb::{Message, MessageType},
};

use super::{Ctx, OwedAck, Replica, lead::Leadership};
use crate::{
    config::PlantedBug,
    io::StoreError,
    lease::{Bound, SentAt},
    snapshot::Incoming,
};

/// What the envelope says about the messages in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchMeta {
    pub(crate) from: StoreId,
    pub(crate) incarnation: u64,
    pub(crate) sequence: u64,
    pub(crate) sent_at: Timestamp,
    /// Whether `sent_at` is near enough to the own wall clock to be acknowledged.
    pub(crate) creditable: bool,
}

/// Why a message was not taken in.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It is none that a replica sends; it was dropped.
    Malformed(String),
    /// It proves that this store lost what it had acknowledged.
    Fatal(StoreError),
}

/// Whether a message of this type may come from the network. Proposals, reads and transfers are
/// obeyed by raft whoever sends them, and would go around the lease.
fn is_expected(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgAppend
            | MessageType::MsgAppendResponse
            | MessageType::MsgHeartbeat
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestVote
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgTimeoutNow
    )
}

/// Whether a message asks for a vote, or for the promise of one.
pub(crate) fn is_vote_request(kind: MessageType) -> bool {
    matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote)
}

impl<E: Engine> Replica<E> {
    /// Takes in a raft message from another replica.
    pub(crate) fn receive(
        &mut self,
        ctx: &mut Ctx<'_, E>,
        meta: &BatchMeta,
        message: Message,
        vote_bound: Option<Bound>,
    ) -> Result<(), Refusal> {
        let kind = message.get_msg_type();
        // Raft takes a message of term 0 for one of its own.
        if !is_expected(kind) || message.term == 0 || message.from == 0 {
            let what = format!("{kind:?} of term {} does not come from a network", message.term);
            return Err(Refusal::Malformed(what));
        }
        self.check_message(&message)?;
        self.learn_address(message.from, meta.from);
        self.heard.insert(message.from, ctx.now);
        if is_vote_request(kind) && !self.may_vote_now(ctx, &message) {
            self.promise.hold(meta.from, message);
            return Ok(());
        }
        if kind == MessageType::MsgRequestVoteResponse && !message.reject {
            self.note_vote(&message, vote_bound);
        }
        self.step(ctx, Some(meta), message);
        Ok(())
    }

    /// Refuses entries and indexes that raft would panic on.
    fn check_message(&self, message: &Message) -> Result<(), Refusal> {
        let kind = message.get_msg_type();
        let last = self.raw.raft.raft_log.last_index();
        let malformed = |why: String| Err(Refusal::Malformed(why));
        // The terms behind it must be countable.
        if message.term > u64::MAX / 2 {
            return malformed(format!("{kind:?} of term {}", message.term));
        }
        // Raft takes term 0 for that of an index its log does not reach.
        if kind == MessageType::MsgAppend && message.index > 0 && message.log_term == 0 {
            return malformed(format!("an append behind entry {} of term 0", message.index));
        }
        let mut previous = (message.index, message.log_term);
        for entry in message.get_entries() {
            if Some(entry.index) != previous.0.checked_add(1)
                || entry.term < previous.1
                || entry.term > message.term
            {
                return malformed(format!(
                    "entry {} of term {} does not follow entry {} of term {}",
                    entry.index, entry.term, previous.0, previous.1
                ));
            }
            previous = (entry.index, entry.term);
        }
        // A follower holds nothing that its leader does not hold.
        if kind == MessageType::MsgAppendResponse
            && self.is_leader()
            && message.term == self.raw.raft.term
            && message.index.max(message.reject_hint) > last
        {
            return malformed(format!(
                "an acknowledgement of entry {}, rejected at {}, of a log that ends at {last}",
                message.index, message.reject_hint
            ));
        }
        if kind == MessageType::MsgHeartbeat
            && message.term >= self.raw.raft.term
            && message.commit > last
        {
            return Err(Refusal::Fatal(StoreError::Corrupt {
                store: self.store_id,
                what: format!("the raft log of {}", self.range_id),
                detail: format!(
                    "it ends at {last}, but this store had acknowledged {}",
                    message.commit
                ),
            }));
        }
        Ok(())
    }

    /// Whether a vote request may reach raft now: the promise allows it, and raft would not throw
    /// it away because it believes in a leader. Votes forced by a transfer pass: the leader gave
    /// its lease up first.
    fn may_vote_now(&self, ctx: &Ctx<'_, E>, request: &Message) -> bool {
        if request.context == CAMPAIGN_TRANSFER {
            return true;
        }
        let raft = &self.raw.raft;
        let in_raft_lease = raft.leader_id != 0 && raft.election_elapsed < raft.election_timeout();
        self.may_elect(ctx.now) && !(in_raft_lease && request.term > raft.term)
    }

    /// Steps the vote requests that were held, once they may be.
    pub(crate) fn release_held(&mut self, ctx: &mut Ctx<'_, E>) {
        if !self.promise.has_held() || !self.may_elect(ctx.now) {
            return;
        }
        for (from, request) in self.promise.take_held() {
            if self.may_vote_now(ctx, &request) {
                self.step(ctx, None, request);
            } else {
                self.promise.hold(from, request);
            }
        }
    }

    /// Whether a step must look at this replica although nothing arrived for it.
    pub(crate) fn is_watched(&self) -> bool {
        self.promise.has_held()
            || self.owed_ack.is_some()
            || self.leadership.as_ref().is_some_and(Leadership::is_transferring)
    }

    /// When held votes may be looked at again.
    pub(crate) fn held_until(&self) -> Option<crate::config::Mono> {
        self.promise.has_held().then(|| self.promise.deadline())
    }

    /// Keeps the bound that came with a granted vote. Only that of the term the replica campaigns
    /// in: a late vote of an earlier term must not displace those that already came, or the lease
    /// would begin below what its predecessor served.
    fn note_vote(&mut self, message: &Message, bound: Option<Bound>) {
        if message.term != self.raw.raft.term || self.raw.raft.state != StateRole::Candidate {
            return;
        }
        if self.votes_term != message.term {
            self.votes.clear();
            self.votes_term = message.term;
        }
        if let Some(bound) = bound {
            self.votes.insert(message.from, bound);
        }
    }

    fn step(&mut self, ctx: &mut Ctx<'_, E>, meta: Option<&BatchMeta>, message: Message) {
        let (from, term, kind) = (message.from, message.term, message.get_msg_type());
        let role = self.raw.raft.state;
        if let Err(error) = self.raw.step(message) {
            // A replica that left, or a role that does not take this message: raft says so too.
            tracing::trace!(range = %self.range_id, from, ?kind, %error, "raft ignored a message");
        }
        if matches!(kind, MessageType::MsgTimeoutNow) && role != self.raw.raft.state {
            self.note_campaign();
        }
        if let Some(meta) = meta
            && matches!(kind, MessageType::MsgAppend | MessageType::MsgHeartbeat)
            && self.raw.raft.term == term
            && self.raw.raft.leader_id == from
        {
            self.silent_ticks = 0;
            self.support(ctx, meta, from, term);
        }
        self.after_raft(ctx);
    }

    /// Promises the leader of `term` its support, and owes it an acknowledgement.
    fn support(&mut self, ctx: &Ctx<'_, E>, meta: &BatchMeta, leader: u64, term: u64) {
        if !meta.creditable {
            return;
        }
        self.promise.support(ctx.now, meta.sent_at, term, &ctx.config.timing);
        let owed = self.owed_ack.filter(|owed| {
            owed.term == term && owed.leader == leader && owed.incarnation == meta.incarnation
        });
        self.owed_ack = Some(OwedAck {
            store: meta.from,
            leader,
            term,
            incarnation: meta.incarnation,
            sequence: owed.map_or(0, |owed| owed.sequence).max(meta.sequence),
        });
    }

    /// The acknowledgement owed, once the step is durable; nothing if the leader is none any more.
    pub(crate) fn take_ack(&mut self) -> Option<(StoreId, LeaseAck)> {
        let owed = self.owed_ack.take()?;
        let raft = &self.raw.raft;
        if raft.term != owed.term || raft.leader_id != owed.leader {
            return None;
        }
        let ack = LeaseAck {
            range_id: self.range_id.get(),
            from_replica: self.replica_id.get(),
            to_replica: owed.leader,
            term: owed.term,
            incarnation: owed.incarnation,
            sequence: owed.sequence,
        };
        Some((owed.store, ack))
    }

    /// Counts an acknowledgement for what was sent at `sent`.
    pub(crate) fn credit(
        &mut self,
        ctx: &Ctx<'_, E>,
        ack: &LeaseAck,
        sent: SentAt,
        newest: Option<SentAt>,
    ) {
        if self.raw.raft.state != StateRole::Leader || self.raw.raft.term != ack.term {
            return;
        }
        let sent = newest.filter(|_| ctx.config.has(PlantedBug::AckCreditsNewest)).unwrap_or(sent);
        self.tracker.credit(ack.from_replica, sent);
    }

    /// Takes in a heartbeat of the coalesced batch.
    pub(crate) fn receive_heartbeat(
        &mut self,
        ctx: &mut Ctx<'_, E>,
        meta: &BatchMeta,
        heartbeat: &RangeHeartbeat,
        kind: MessageType,
    ) -> Result<(), Refusal> {
        let mut message = Message::default();
        message.set_msg_type(kind);
        message.from = heartbeat.from_replica;
        message.to = heartbeat.to_replica;
        message.term = heartbeat.term;
        message.commit = heartbeat.commit;
        self.receive(ctx, meta, message, None)
    }

    /// Takes in a whole snapshot.
    pub(crate) fn receive_snapshot(
        &mut self,
        ctx: &mut Ctx<'_, E>,
        from: StoreId,
        mut incoming: Incoming,
    ) {
        let message = std::mem::take(&mut incoming.message);
        let index = message.get_snapshot().get_metadata().index;
        self.learn_address(message.from, from);
        for replica in &incoming.descriptor.replicas {
            self.learn_address(replica.replica_id, StoreId(replica.store_id));
        }
        self.step(ctx, None, message);
        let accepted =
            self.raw.snap().is_some_and(|snapshot| snapshot.get_metadata().index == index);
        if accepted {
            self.incoming = Some(incoming);
        }
    }

    /// Notes that a store cannot be reached.
    pub(crate) fn report_unreachable(&mut self, ctx: &mut Ctx<'_, E>, store: StoreId) {
        if !self.is_leader() {
            return;
        }
        let there: Vec<u64> = self
            .addresses
            .iter()
            .filter(|(_, address)| **address == store)
            .map(|(replica, _)| *replica)
            .collect();
        for replica in there {
            self.raw.report_unreachable(replica);
        }
        self.after_raft(ctx);
    }
}
