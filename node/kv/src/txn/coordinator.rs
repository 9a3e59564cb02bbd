//! One transaction, as its session drives it.

use bytes::Bytes;
use crdb_keys::Timestamp;
use crdb_proto::kv::{
    BatchHeader, BatchRequest, BatchResponse, GetResponse, Isolation, LockStrength, Request,
    Response, Routing, TxnMeta, request, response,
};

use super::buffer::WriteBuffer;
use super::client::TxnClient;
use super::refresh::Refresher;
use super::types::{
    CommitInfo, CommitKind, ReadOptions, RetryCause, SavepointId, TxnError, TxnOptions,
};
use crate::SendError;

/// Bytes of a buffer at which it should be flushed; it holds twice as many at most.
const BUFFER_BYTES: usize = 4 << 20;
/// Keys of a buffer at which it should be flushed; it holds twice as many at most.
const BUFFER_KEYS: usize = 50_000;
/// A read is tried again at a later timestamp this many times before its caller hears.
const MAX_REFRESHES: usize = 8;

/// Where a transaction stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Active,
    Committed,
    RolledBack,
    /// Nothing but a rollback makes sense any more.
    Failed(TxnError),
}

/// A transaction. Dropping it without [`Txn::commit`] or [`Txn::rollback`] leaves its locks to be
/// broken by others after some seconds.
#[derive(Debug)]
pub struct Txn {
    client: TxnClient,
    options: TxnOptions,
    meta: TxnMeta,
    /// What the reads are served at, once the first was.
    read_timestamp: Option<Timestamp>,
    uncertainty_limit: Option<Timestamp>,
    deadline: Option<Timestamp>,
    sequence: u32,
    buffer: WriteBuffer,
    refresher: Refresher,
    state: State,
}

impl Txn {
    pub(super) fn new(client: TxnClient, mut options: TxnOptions) -> Self {
        options.read_only |= options.as_of.is_some();
        let now = client.clock().now();
        let meta = TxnMeta {
            id: client.next_id(),
            anchor: Bytes::new(),
            min_timestamp: Some(now.into()),
            write_timestamp: Some(now.into()),
            priority: options.priority.into(),
            sequence: 0,
            isolation: options.isolation.into(),
            gateway_node_id: client.node_id().get(),
        };
        let uncertainty_limit = match options.as_of {
            Some(_) => None,
            None => Some(after(now, client.max_offset())),
        };
        Self {
            read_timestamp: options.as_of.map(|as_of| as_of.timestamp),
            refresher: Refresher::new(options.isolation),
            meta,
            uncertainty_limit,
            deadline: None,
            sequence: 0,
            buffer: WriteBuffer::default(),
            state: State::Active,
            options,
            client,
        }
    }

    /// How it was begun.
    #[must_use]
    pub fn options(&self) -> &TxnOptions {
        &self.options
    }

    /// What it says of itself with each request.
    #[must_use]
    pub fn meta(&self) -> &TxnMeta {
        &self.meta
    }

    /// Timestamp of its snapshot (under READ COMMITTED: of the statement's), once it read.
    #[must_use]
    pub fn read_timestamp(&self) -> Option<Timestamp> {
        self.read_timestamp
    }

    /// Whether it wrote anything that was not taken back.
    #[must_use]
    pub fn has_writes(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Nothing is read or committed later than `deadline` from now on.
    pub fn set_deadline(&mut self, deadline: Timestamp) {
        self.deadline = Some(deadline);
    }

    /// A statement begins. Under READ COMMITTED it reads what is committed by now, and what the
    /// statements before it read, without locking it, is let go.
    pub fn begin_statement(&mut self) {
        if self.options.isolation == Isolation::ReadCommitted && self.options.as_of.is_none() {
            self.read_timestamp = None;
            let now = self.client.clock().now();
            self.uncertainty_limit = Some(after(now, self.client.max_offset()));
            self.refresher.begin_statement();
        }
    }

    fn check_active(&self) -> Result<(), TxnError> {
        match &self.state {
            State::Active => Ok(()),
            State::Failed(error) => Err(error.clone()),
            State::Committed | State::RolledBack => {
                Err(TxnError::invalid("the transaction has ended"))
            }
        }
    }

    fn check_writable(&self) -> Result<(), TxnError> {
        self.check_active()?;
        if self.options.read_only {
            return Err(TxnError::invalid("the transaction is read-only"));
        }
        Ok(())
    }

    /// Gets and scans, under the transaction's own writes. All are served at one timestamp.
    ///
    /// A scan with a bound may return fewer rows than the bound and a resume span all the same.
    pub async fn read(
        &mut self,
        requests: Vec<Request>,
        options: ReadOptions,
    ) -> Result<Vec<Response>, TxnError> {
        self.check_active()?;
        let (sent, plan) = self.plan_read(&requests)?;
        let mut answers = if sent.is_empty() {
            Vec::new().into_iter()
        } else {
            self.send_read(sent, options).await?.responses.into_iter()
        };
        let at = self.read_timestamp.unwrap_or_default();
        let mut responses = Vec::with_capacity(requests.len());
        for (request, from_buffer) in requests.into_iter().zip(plan) {
            let response = match from_buffer {
                Some(value) => response::Kind::Get(GetResponse { value }),
                None => self.overlay(request, answers.next(), at)?,
            };
            responses.push(Response { kind: Some(response) });
        }
        Ok(responses)
    }

    /// What of `requests` is sent, and for each the answer if the buffer has it.
    #[expect(clippy::type_complexity, reason = "two lists that exist between two lines")]
    fn plan_read(
        &mut self,
        requests: &[Request],
    ) -> Result<(Vec<Request>, Vec<Option<Option<Bytes>>>), TxnError> {
        let mut sent = Vec::with_capacity(requests.len());
        let mut plan = Vec::with_capacity(requests.len());
        for request in requests {
            let (key, lock) = match &request.kind {
                Some(request::Kind::Get(get)) => {
                    if let Some(value) = self.buffer.get(&get.key) {
                        plan.push(Some(value.cloned()));
                        continue;
                    }
                    sent.push(request.clone());
                    (&get.key, get.lock())
                }
                Some(request::Kind::Scan(scan)) => {
                    let mut scan_sent = scan.clone();
                    // To count under own writes, the keys are needed.
                    scan_sent.count_only &= !self.buffer.touches(&scan.start, &scan.end);
                    sent.push(Request { kind: Some(request::Kind::Scan(scan_sent)) });
                    (&scan.start, scan.lock())
                }
                _ => return Err(TxnError::invalid("a transaction reads by get and scan alone")),
            };
            plan.push(None);
            if lock != LockStrength::LockNone {
                self.check_writable()?;
                if self.meta.anchor.is_empty() {
                    self.meta.anchor = key.clone();
                }
            }
        }
        Ok((sent, plan))
    }

    /// Lays the own writes over an answer and notes what was read.
    fn overlay(
        &mut self,
        request: Request,
        answer: Option<Response>,
        at: Timestamp,
    ) -> Result<response::Kind, TxnError> {
        match (request.kind, answer.and_then(|answer| answer.kind)) {
            (Some(request::Kind::Get(get)), Some(response::Kind::Get(value))) => {
                let locked = get.lock() != LockStrength::LockNone;
                self.note(get.key, Bytes::new(), at, locked);
                Ok(response::Kind::Get(value))
            }
            (Some(request::Kind::Scan(scan)), Some(response::Kind::Scan(read))) => {
                let read = if self.buffer.touches(&scan.start, &scan.end) {
                    self.buffer.overlay(&scan, read)
                } else {
                    read
                };
                let locked = scan.lock() != LockStrength::LockNone;
                let (start, end) = match &read.resume {
                    None => (scan.start, scan.end),
                    Some(resume) if scan.reverse => (resume.end.clone(), scan.end),
                    Some(resume) => (scan.start, resume.start.clone()),
                };
                if start < end {
                    self.note(start, end, at, locked);
                }
                Ok(response::Kind::Scan(read))
            }
            _ => Err(TxnError::invalid("a range gave an answer of another kind")),
        }
    }

    fn note(&mut self, start: Bytes, end: Bytes, at: Timestamp, locked: bool) {
        if !self.options.read_only || self.options.as_of.is_none() {
            self.refresher.add(start, end, at, locked);
        }
    }

    /// Sends reads; moves to a later timestamp where that helps.
    async fn send_read(
        &mut self,
        requests: Vec<Request>,
        options: ReadOptions,
    ) -> Result<BatchResponse, TxnError> {
        let mut batch = BatchRequest { header: None, requests };
        for _ in 0..MAX_REFRESHES {
            batch.header = Some(self.read_header(&batch.requests, options));
            let error = match self.client.sender().send(batch.clone()).await {
                Ok(response) => {
                    self.served_at(&response)?;
                    return Ok(response);
                }
                Err(error) => error,
            };
            let needed = match &error {
                SendError::ReadUncertain { existing, .. }
                | SendError::WriteTooOld { existing, .. } => *existing,
                _ => return Err(error.into()),
            };
            let cause = TxnError::from(error);
            if self.options.as_of.is_some() || !self.refresh(needed).await? {
                return Err(cause);
            }
        }
        Err(TxnError::Retry { cause: RetryCause::WriteTooOld })
    }

    /// Whether all that is read was read before: what others have written since then is not of
    /// before this transaction, and so not uncertain.
    fn reads_again(&self, requests: &[Request]) -> bool {
        requests.iter().all(|request| match &request.kind {
            Some(request::Kind::Get(get)) => self.refresher.has_read(&get.key, &Bytes::new()),
            Some(request::Kind::Scan(scan)) => self.refresher.has_read(&scan.start, &scan.end),
            _ => false,
        })
    }

    fn read_header(&self, requests: &[Request], options: ReadOptions) -> BatchHeader {
        let uncertainty_limit = self.uncertainty_limit.filter(|_| !self.reads_again(requests));
        let historical = self.options.as_of;
        let nearest = historical.is_some_and(|as_of| as_of.nearest);
        BatchHeader {
            read_timestamp: self.read_timestamp.map(Into::into),
            deadline: self.deadline.map(Into::into),
            txn: historical.is_none().then(|| self.meta.clone()),
            uncertainty_limit: uncertainty_limit.map(Into::into),
            can_forward_read_timestamp: historical.is_none() && self.refresher.is_empty(),
            wait_policy: options.wait_policy.into(),
            routing: if nearest { Routing::Nearest } else { Routing::Leaseholder }.into(),
            lock_timeout_ms: u64::try_from(options.lock_timeout.as_millis()).unwrap_or(u64::MAX),
            ..BatchHeader::default()
        }
    }

    fn served_at(&mut self, response: &BatchResponse) -> Result<(), TxnError> {
        let at = response.read_timestamp.map(Timestamp::from).unwrap_or_default();
        if at.is_zero() {
            return Err(TxnError::invalid("a range did not say when its reads were served"));
        }
        self.read_timestamp = Some(at);
        self.raise_write_timestamp(at);
        Ok(())
    }

    fn raise_write_timestamp(&mut self, at: Timestamp) {
        if self.write_timestamp() < at {
            self.meta.write_timestamp = Some(at.into());
        }
    }

    fn write_timestamp(&self) -> Timestamp {
        self.meta.write_timestamp.map(Timestamp::from).unwrap_or_default()
    }

    /// Moves what was read to `timestamp`; returns whether it is the same there.
    async fn refresh(&mut self, timestamp: Timestamp) -> Result<bool, TxnError> {
        let validations = self.refresher.validations(timestamp);
        if !validations.is_empty() {
            let header = BatchHeader {
                read_timestamp: Some(timestamp.into()),
                deadline: self.deadline.map(Into::into),
                txn: Some(self.meta.clone()),
                ..BatchHeader::default()
            };
            let requests = validations
                .into_iter()
                .map(|validate| Request { kind: Some(request::Kind::Validate(validate)) })
                .collect();
            let batch = BatchRequest { header: Some(header), requests };
            match self.client.sender().send(batch).await {
                Ok(_) => {}
                Err(SendError::ReadConflict { .. }) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            self.refresher.refreshed(timestamp);
        }
        self.read_timestamp = self.read_timestamp.max(Some(timestamp));
        self.raise_write_timestamp(timestamp);
        Ok(true)
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    fn make_room(&self) -> Result<(), TxnError> {
        self.check_writable()?;
        let full = self.buffer.bytes() >= 2 * BUFFER_BYTES || self.buffer.len() >= 2 * BUFFER_KEYS;
        if full { Err(TxnError::BufferFull) } else { Ok(()) }
    }

    /// Whether it is time for [`Txn::flush`]. Writes are refused only when twice as much is
    /// buffered.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        self.buffer.bytes() >= BUFFER_BYTES || self.buffer.len() >= BUFFER_KEYS
    }

    /// Writes a value.
    pub fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), TxnError> {
        self.make_room()?;
        let sequence = self.next_sequence();
        self.buffer.write(key, Some(value), sequence);
        Ok(())
    }

    /// Writes a value to a key that must not exist. A key that the transaction itself wrote is
    /// found out at once, one of others by [`Txn::flush`] or [`Txn::commit`].
    pub fn insert(&mut self, key: Bytes, value: Bytes) -> Result<(), TxnError> {
        self.make_room()?;
        let sequence = self.next_sequence();
        self.buffer
            .insert(key.clone(), value, sequence)
            .map_err(|actual| TxnError::Duplicate { key, actual })
    }

    /// Deletes a key, whether it exists or not.
    pub fn delete(&mut self, key: Bytes) -> Result<(), TxnError> {
        self.make_room()?;
        let sequence = self.next_sequence();
        self.buffer.write(key, None, sequence);
        Ok(())
    }

    /// Sends what is buffered, so that conditions are checked and others see that the keys are
    /// taken.
    #[expect(clippy::unused_async, reason = "intents are not served by the ranges yet")]
    pub async fn flush(&mut self) -> Result<(), TxnError> {
        self.check_writable()?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        Err(TxnError::invalid("a transaction of more writes than the buffer holds"))
    }

    /// A point to go back to.
    pub fn savepoint(&mut self) -> SavepointId {
        self.buffer.keep(self.sequence);
        SavepointId(self.sequence)
    }

    /// Takes back every write since `savepoint`, which stays. Locks are kept, and what was read
    /// counts as read.
    #[expect(clippy::unused_async, reason = "intents are not served by the ranges yet")]
    pub async fn rollback_to(&mut self, savepoint: SavepointId) -> Result<(), TxnError> {
        self.check_active()?;
        self.buffer.rollback_to(savepoint.0);
        self.buffer.keep(savepoint.0);
        Ok(())
    }

    /// Commits. After an error the transaction has ended, too, but for [`TxnError::Duplicate`] and
    /// what [`Txn::rollback`] cleans up.
    pub async fn commit(&mut self) -> Result<CommitInfo, TxnError> {
        self.check_active()?;
        if self.buffer.is_empty() {
            self.state = State::Committed;
            let timestamp = self.read_timestamp;
            return Ok(CommitInfo { timestamp, kind: CommitKind::ReadOnly, rounds: 0 });
        }
        match self.commit_one_phase().await {
            Ok(info) => {
                self.state = State::Committed;
                self.buffer.clear();
                Ok(info)
            }
            Err(error) => {
                self.state = State::Failed(error.clone());
                Err(error)
            }
        }
    }

    /// Everything in one batch, which commits or has no effect.
    async fn commit_one_phase(&mut self) -> Result<CommitInfo, TxnError> {
        if self.meta.anchor.is_empty() {
            self.meta.anchor = self.buffer.first_key().cloned().unwrap_or_default();
        }
        self.meta.sequence = self.sequence;
        let mut requests: Vec<Request> = self
            .refresher
            .validations(Timestamp::MAX)
            .into_iter()
            .map(|validate| Request { kind: Some(request::Kind::Validate(validate)) })
            .collect();
        requests.extend(self.buffer.requests());
        let header = BatchHeader {
            deadline: self.deadline.map(Into::into),
            txn: Some(self.meta.clone()),
            one_phase: true,
            ..BatchHeader::default()
        };
        let response =
            self.client.sender().send(BatchRequest { header: Some(header), requests }).await?;
        let timestamp = response.write_timestamp.map(Timestamp::from);
        Ok(CommitInfo { timestamp, kind: CommitKind::OnePhase, rounds: 1 })
    }

    /// Ends the transaction without effect.
    #[expect(clippy::unused_async, reason = "intents are not served by the ranges yet")]
    pub async fn rollback(&mut self) {
        if self.state != State::Committed {
            self.state = State::RolledBack;
            self.buffer.clear();
        }
    }
}

fn after(timestamp: Timestamp, duration: std::time::Duration) -> Timestamp {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Timestamp::new(timestamp.wall_nanos.saturating_add(nanos), timestamp.logical)
}
