//! Sends what a transaction wrote: before its commit, as intents, and with it.

use bytes::Bytes;
use crdb_keys::Timestamp;
use crdb_proto::kv::{
    BatchHeader, BatchRequest, EndTxnAction, EndTxnRequest, EndTxnResponse, GetRequest, Isolation,
    LockStrength, Request, Savepoints, TxnStatus, WaitPolicy, request, response,
};

use crdb_storage::evaluate::RECORD_WINDOW;
use prost::Message as _;

use super::buffer::Batch;
use super::committer::{Committer, Event, Step};
use super::coordinator::{State, Txn, aborted, after};
use super::footprint::in_flight;
use super::metrics::add;
use super::types::{CommitInfo, CommitKind, CommitOutcome, SavepointId, TxnError};
use crate::resolution::pieces;
use crate::{PlantedTxnBug, SendError, recovery};

impl Txn {
    /// Sends what is buffered as intents, so that conditions are checked and the buffer is empty.
    /// Others wait for the keys from now on. Given up halfway, nothing but a rollback is possible:
    /// intents may come to be there later.
    pub async fn flush(&mut self) -> Result<(), TxnError> {
        self.check_writable()?;
        let batches = self.buffer.batches(self.client.limits());
        self.lay(batches).await
    }

    /// The same of a transaction that commits and goes back to no savepoint any more: what it has
    /// written in the end, with the number that the commit gives it, so that what an attempt to
    /// commit has laid already is the same write.
    async fn lay_all(&mut self) -> Result<(), TxnError> {
        let batches = self.buffer.final_batches(self.sequence, self.client.limits());
        self.lay(batches).await
    }

    async fn lay(&mut self, batches: Vec<Batch>) -> Result<(), TxnError> {
        let limits = *self.client.limits();
        for Batch { sequence, last, requests } in batches {
            self.prepare_intents(sequence);
            let mut header = self.write_header(sequence);
            header.savepoints = Some(Savepoints { sequences: self.buffer.savepoints() });
            let keys: Vec<Bytes> = requests.iter().filter_map(written_key).collect();
            let batch = BatchRequest { header: Some(header), requests };
            add(&self.client.metrics().flushes, 1);
            if !self.client.has(PlantedTxnBug::ForgetGivenUp) {
                self.state =
                    State::Failed(TxnError::GivenUp { what: "a write of the transaction" });
            }
            let given_up = std::mem::replace(&mut self.unanswered, true);
            let answer = self.client.sender().send(batch).await;
            self.unanswered = given_up;
            self.state = State::Active;
            match answer {
                Ok(response) => {
                    keys.iter().for_each(|key| self.footprint.laid(key, sequence));
                    if last {
                        self.buffer.sent(sequence);
                    }
                    let at = response.write_timestamp.map(Timestamp::from).unwrap_or_default();
                    self.raise_write_timestamp(at);
                }
                Err(SendError::Ambiguous { message }) => {
                    // Whether an intent is there cannot be known, so nothing can be committed.
                    let message = format!("a write of the transaction was lost: {message}");
                    return Err(self.fail(TxnError::Unavailable { message }));
                }
                Err(error) => {
                    let error = self.unless_aborted(error.into()).await;
                    self.heard(&error);
                    return Err(error);
                }
            }
        }
        self.footprint.condense(&limits);
        Ok(())
    }

    /// The error, unless it may come of own writes that are gone: those of a transaction that was
    /// aborted, which is the error then.
    async fn unless_aborted(&self, error: TxnError) -> TxnError {
        if !matches!(error, TxnError::Duplicate { .. }) || !self.footprint.has_intents() {
            return error;
        }
        match recovery::query(&**self.client.sender(), &self.meta).await {
            Ok(answer) => match answer.record.map(|record| record.status()) {
                Some(TxnStatus::Aborted) => aborted(),
                _ => error,
            },
            Err(unknown) => unknown.into(),
        }
    }

    /// Notes where intents are about to be laid.
    fn prepare_intents(&mut self, sequence: u32) {
        if let Some(first) = self.buffer.first_key().cloned() {
            self.be_known_at(first);
        }
        for key in self.buffer.keys() {
            self.footprint.intent(key.clone(), sequence);
        }
    }

    fn write_header(&self, sequence: u32) -> BatchHeader {
        let mut txn = self.meta.clone();
        txn.sequence = sequence;
        BatchHeader {
            deadline: self.deadline().map(Into::into),
            txn: Some(txn),
            lock_timeout_ms: self.lock_timeout_ms(),
            ..BatchHeader::default()
        }
    }

    /// Nothing but a rollback is possible any more.
    pub(super) fn fail(&mut self, error: TxnError) -> TxnError {
        self.heard(&error);
        self.state = State::Failed(error.clone());
        error
    }

    /// Takes back every write since `savepoint`, which stays. Locks are kept, and what was read
    /// counts as read.
    pub async fn rollback_to(&mut self, savepoint: SavepointId) -> Result<(), TxnError> {
        self.check_active()?;
        self.buffer.rollback_to(savepoint.0);
        let reverts = self.footprint.revert_to(savepoint.0);
        if reverts.is_empty() {
            return Ok(());
        }
        // Given up halfway, the transaction must not go on with what it was to take back.
        self.state = State::Failed(TxnError::GivenUp { what: "a rollback to a savepoint" });
        let limits = *self.client.limits();
        let size = |request: &Request| request.encoded_len();
        for requests in pieces(&reverts, limits.cleanup_requests, limits.cleanup_bytes, size) {
            let header = self.write_header(self.sequence);
            let batch = BatchRequest { header: Some(header), requests: requests.to_vec() };
            if let Err(error) = self.client.sender().send(batch).await {
                let message = format!("a rollback to a savepoint was lost: {error}");
                return Err(self.fail(TxnError::Unavailable { message }));
            }
        }
        self.state = State::Active;
        Ok(())
    }

    /// Commits, whatever it has to wait for. After an error the transaction has ended, too;
    /// [`Txn::rollback`] gives up its locks at once.
    pub async fn commit(&mut self) -> Result<CommitInfo, TxnError> {
        loop {
            match self.try_commit().await? {
                CommitOutcome::Committed(info) => return Ok(info),
                CommitOutcome::Blocked => self.lock_writes().await?,
            }
        }
    }

    /// Commits as [`Txn::commit`] does, unless somebody has a lock on what is written: then it has
    /// no effect, and the caller is to call [`Txn::lock_writes`], which may be given up at any
    /// time, and then this again. What is written to several ranges, or to very many keys, is
    /// waited for here.
    pub async fn try_commit(&mut self) -> Result<CommitOutcome, TxnError> {
        self.check_active()?;
        self.committing = true;
        // Under READ COMMITTED the last statement has ended, too.
        if self.options.isolation == Isolation::ReadCommitted {
            self.refresher.begin_statement();
        }
        let outcome = if self.has_writes() {
            Box::pin(self.commit_writes()).await
        } else {
            let timestamp = self.read_timestamp;
            let info = CommitInfo { timestamp, kind: CommitKind::ReadOnly, rounds: 0 };
            Ok(CommitOutcome::Committed(info))
        };
        match outcome {
            Ok(CommitOutcome::Committed(info)) => {
                self.client.metrics().committed(&info);
                self.state = State::Committed;
                self.after_commit(&info).await;
                Ok(CommitOutcome::Committed(info))
            }
            Ok(CommitOutcome::Blocked) => {
                self.committing = false;
                Ok(CommitOutcome::Blocked)
            }
            Err(error) => {
                let error = self.unless_aborted(error).await;
                Err(self.fail(error))
            }
        }
    }

    async fn commit_writes(&mut self) -> Result<CommitOutcome, TxnError> {
        let limits = *self.client.limits();
        if self.buffer.bytes() > limits.one_phase_bytes && self.buffer.len() > 1 {
            self.lay_all().await?;
        }
        let held_at = self.refresher.held_at();
        if held_at.is_none() {
            // Nothing holds it back: the present needs no raising by the leaseholders.
            self.raise_write_timestamp(self.client.clock().now());
        }
        let (mut committer, mut step) = Committer::start(
            self.footprint.has_intents(),
            held_at,
            self.write_timestamp(),
            self.client.clock().now(),
            self.deadline(),
            limits.commit_moves,
        );
        let (mut rounds, mut pushed) = (0, 0);
        let started = self.client.clock().now();
        let mut policy = match self.buffer.len() <= limits.locked_writes {
            true => WaitPolicy::WaitError,
            false => WaitPolicy::WaitBlock,
        };
        loop {
            self.raise_write_timestamp(committer.write_timestamp());
            let event = match &step {
                Step::OnePhase { exact } => match self.send_one_phase(*exact, policy).await {
                    // It had no effect, so it may be sent again.
                    Event::Failed(SendError::LockConflict { key, timed_out: false })
                        if policy == WaitPolicy::WaitError =>
                    {
                        if self.buffer.get(&key).is_some() {
                            return Ok(CommitOutcome::Blocked);
                        }
                        // In the way of what was read, which is no reason to lock it.
                        policy = WaitPolicy::WaitBlock;
                        continue;
                    }
                    Event::Failed(SendError::Ambiguous { .. })
                        if self.client.has(PlantedTxnBug::RetryAmbiguous) =>
                    {
                        self.send_one_phase(*exact, policy).await
                    }
                    event => event,
                },
                Step::Refresh(to) => match self.refresh(*to).await {
                    Ok(same) => Event::Refreshed(same),
                    Err(error) => Event::NotRefreshed(error),
                },
                // What was pushed twice would be pushed again: behind a refresh that takes longer than
                // ranges wait before they close a timestamp. What is laid stays where it is.
                Step::Stage
                    if !self.buffer.is_empty() && (pushed >= 2 || self.lists_too_much()) =>
                {
                    self.lay_all().await?;
                    Event::Flushed(self.write_timestamp())
                }
                Step::Stage => self.send_stage().await,
                Step::Commit => self.send_commit().await,
                Step::Learn => Event::Learned(self.learn(started).await),
                Step::Done(kind, at) => {
                    let info = CommitInfo { timestamp: Some(*at), kind: *kind, rounds };
                    return Ok(CommitOutcome::Committed(info));
                }
                Step::Fail(error) => return Err(error.clone()),
            };
            if matches!(event, Event::Committed(_) | Event::Staged { .. }) {
                rounds += 1;
            }
            pushed += u32::from(step == Step::Stage && matches!(event, Event::Failed(_)));
            committer.tell(self.client.clock().now(), self.deadline());
            step = committer.next(event);
        }
    }

    /// Whether a STAGING record would have to list more than it may.
    fn lists_too_much(&self) -> bool {
        let limits = self.client.limits();
        self.buffer.len() > limits.in_flight_keys
            || self.buffer.keys().map(Bytes::len).sum::<usize>() > limits.in_flight_bytes
    }

    /// Waits until nobody else has a lock on what is written, and locks it: all at once, so that
    /// who waits here holds up nobody. Giving it up has no effect but that the locks may be there,
    /// until the transaction ends.
    pub async fn lock_writes(&mut self) -> Result<(), TxnError> {
        self.check_writable()?;
        let keys: Vec<Bytes> = self.buffer.keys().cloned().collect();
        let limits = *self.client.limits();
        let Some(first) = keys.first() else { return Ok(()) };
        let anchor = if self.meta.anchor.is_empty() { first } else { &self.meta.anchor };
        self.be_known_at(anchor.clone());
        self.stray_locks = true;
        let lock = LockStrength::LockExclusive.into();
        let mut requests = Vec::with_capacity(keys.len());
        for key in keys {
            self.footprint.lock(key.clone(), Bytes::new(), &limits);
            let get = GetRequest { key, lock, lock_absent: true, lock_only: true };
            requests.push(Request { kind: Some(request::Kind::Get(get)) });
        }
        let batch = BatchRequest { header: Some(self.write_header(self.sequence)), requests };
        let given_up = std::mem::replace(&mut self.unanswered, true);
        match self.client.sender().send(batch).await {
            // Too old for a version that came meanwhile, it has that lock; the commit sees to the rest.
            Ok(_) | Err(SendError::WriteTooOld { .. }) => {
                self.unanswered = given_up;
                Ok(())
            }
            Err(error) => Err(self.fail(error.into())),
        }
    }

    /// Everything in one batch, which commits or has no effect.
    async fn send_one_phase(&mut self, exact: bool, policy: WaitPolicy) -> Event {
        if self.meta.anchor.is_empty() {
            self.meta.anchor = self.buffer.first_key().cloned().unwrap_or_default();
        }
        let mut requests = Vec::new();
        if !exact && !self.client.has(PlantedTxnBug::SkipRefresh) {
            let validations = self.refresher.validations(Timestamp::MAX).into_iter();
            requests
                .extend(validations.map(|v| Request { kind: Some(request::Kind::Validate(v)) }));
        }
        requests.extend(self.buffer.requests());
        let mut header = self.write_header(self.sequence);
        header.one_phase = true;
        header.exact_timestamp = exact;
        header.wait_policy = policy.into();
        let batch = BatchRequest { header: Some(header), requests };
        match self.client.sender().send(batch).await {
            Ok(response) => {
                self.exact = exact;
                // What deletes keys that are not there writes nothing.
                let at =
                    response.write_timestamp.map_or_else(|| self.write_timestamp(), Into::into);
                Event::Committed(at)
            }
            Err(error) => Event::Failed(error),
        }
    }

    /// The writes as intents and the STAGING record at once.
    async fn send_stage(&mut self) -> Event {
        // Of the intents that are there already, none is in flight.
        let proven = self.footprint.intent_spans(self.client.limits());
        self.prepare_intents(self.sequence);
        let mut requests = self.buffer.requests();
        let stage = EndTxnRequest {
            action: EndTxnAction::EndStage.into(),
            in_flight: in_flight(self.buffer.keys().cloned(), self.sequence),
            intents: proven,
            can_raise_timestamp: self.refresher.is_empty() && self.deadline().is_none(),
        };
        requests.push(Request { kind: Some(request::Kind::EndTxn(stage)) });
        match self.send_end(requests).await {
            Ok((end, highest)) => {
                let staged = end.write_timestamp.map(Timestamp::from).unwrap_or_default();
                Event::Staged { staged, highest: highest.max(self.write_timestamp()) }
            }
            Err(error) => Event::Failed(error),
        }
    }

    /// The COMMITTED record, after the intents.
    async fn send_commit(&mut self) -> Event {
        let commit = EndTxnRequest {
            action: EndTxnAction::EndCommit.into(),
            in_flight: Vec::new(),
            intents: self.footprint.intent_spans(self.client.limits()),
            can_raise_timestamp: false,
        };
        let requests = vec![Request { kind: Some(request::Kind::EndTxn(commit)) }];
        match self.send_end(requests).await {
            Ok((end, _)) => {
                let at = end.write_timestamp.map(Timestamp::from).unwrap_or_default();
                Event::Committed(at)
            }
            Err(error) => Event::Failed(error),
        }
    }

    /// Sends a batch whose last request ends the transaction; returns the answer to it and the
    /// highest timestamp written.
    async fn send_end(
        &mut self,
        requests: Vec<Request>,
    ) -> Result<(EndTxnResponse, Timestamp), SendError> {
        self.recorded = true;
        let header = self.write_header(self.sequence);
        let batch = BatchRequest { header: Some(header), requests };
        let response = match self.client.sender().send(batch).await {
            Ok(response) => response,
            Err(error) => {
                self.lost |= matches!(error, SendError::Ambiguous { .. });
                return Err(error);
            }
        };
        let highest = response.write_timestamp.map(Timestamp::from).unwrap_or_default();
        match response.responses.into_iter().next_back().and_then(|answer| answer.kind) {
            Some(response::Kind::EndTxn(end)) => Ok((end, highest)),
            _ => Err(SendError::Ambiguous {
                message: "the end of a transaction got an answer of another kind".to_owned(),
            }),
        }
    }

    /// Asks the record what became of the commit that began at `started`; `None` if it cannot be
    /// asked. Later than [`RECORD_WINDOW`] after that, as when this process was stopped meanwhile,
    /// that there is no record does not say any more that the transaction was aborted: somebody else
    /// may have cleaned up after its commit.
    pub(super) async fn learn(&self, started: Timestamp) -> Option<Option<Timestamp>> {
        for _ in 0..self.client.limits().questions {
            match recovery::outcome(&**self.client.sender(), &self.meta, self.client.limits()).await
            {
                Ok(None) if after(started, RECORD_WINDOW) < self.client.clock().now() => {
                    return None;
                }
                Ok(outcome) => return Some(outcome),
                Err(error) => tracing::debug!(%error, "the fate of a commit is not known yet"),
            }
        }
        None
    }
}

/// The key that a request writes to.
fn written_key(request: &Request) -> Option<Bytes> {
    match &request.kind {
        Some(request::Kind::Put(put)) => Some(put.key.clone()),
        Some(request::Kind::ConditionalPut(put)) => Some(put.key.clone()),
        Some(request::Kind::Delete(delete)) => Some(delete.key.clone()),
        _ => None,
    }
}
