//! One transaction, as its session drives it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crdb_keys::Timestamp;
use crdb_proto::kv::{
    BatchHeader, BatchRequest, BatchResponse, GetResponse, Isolation, LockStrength, Request,
    Response, Routing, ScanRequest, ScanResponse, TxnMeta, TxnStatus, request, response,
};
use crdb_storage::evaluate::RECORD_WINDOW;
use parking_lot::Mutex;

use super::background::Alive;
use super::buffer::WriteBuffer;
use super::client::TxnClient;
use super::footprint::Footprint;
use super::metrics::add;
use super::open_reads::OpenRead;
use super::refresh::Refresher;
use super::types::{ReadOptions, RetryCause, SavepointId, TxnError, TxnOptions};
use crate::{PlantedTxnBug, SendError, recovery};

/// Why a transaction has to end whose writes are gone.
const ABORTED: &str = "ABORT_REASON_ABORTED_RECORD_FOUND";

/// Where a transaction stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Active,
    Committed,
    RolledBack,
    /// Nothing but a rollback makes sense any more.
    Failed(TxnError),
}

/// A transaction. Dropped without [`Txn::commit`] or [`Txn::rollback`] it is rolled back in the
/// background.
#[derive(Debug)]
pub struct Txn {
    pub(super) client: TxnClient,
    pub(super) options: TxnOptions,
    pub(super) meta: TxnMeta,
    /// Its number among those of the node.
    pub(super) number: u64,
    /// What the reads are served at, once the first was.
    pub(super) read_timestamp: Option<Timestamp>,
    pub(super) uncertainty_limit: Option<Timestamp>,
    /// The clock when the limit was set.
    observed: Timestamp,
    deadline: Option<Timestamp>,
    /// How long writes wait for a lock; zero: as long as it takes.
    lock_timeout: Duration,
    /// Deadlines in nanoseconds that whoever gave them moves on while the transaction runs.
    leases: Vec<Arc<AtomicU64>>,
    /// Number of the latest write.
    pub(super) sequence: u32,
    /// Nothing was read at `read_timestamp` yet.
    pub(super) unread: bool,
    pub(super) buffer: WriteBuffer,
    pub(super) refresher: Refresher,
    pub(super) footprint: Footprint,
    /// There may be locks on what is neither written nor validated.
    pub(super) stray_locks: bool,
    /// A request that locks or writes was sent, and was not answered in full; if it was given up, it
    /// may come to its locks, or lay its intents, all the same.
    pub(super) unanswered: bool,
    /// Set once it has left something at a leaseholder.
    pub(super) alive: Option<Arc<Alive>>,
    /// There may be a record.
    pub(super) recorded: bool,
    /// A request that may make a record is on its way for all we know.
    pub(super) lost: bool,
    /// A commit has begun.
    pub(super) committing: bool,
    /// It committed in one range, and locks may be in others.
    pub(super) exact: bool,
    pub(super) state: State,
    /// Keeps what it may read from being collected.
    _open: OpenRead,
}

impl Txn {
    pub(super) fn new(client: TxnClient, mut options: TxnOptions) -> Self {
        options.read_only |= options.as_of.is_some();
        let now = client.clock().now();
        let (number, id) = client.next_id();
        let meta = TxnMeta {
            id,
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
            refresher: Refresher::new(options.isolation, client.limits().refresh_spans),
            meta,
            number,
            uncertainty_limit,
            observed: now,
            deadline: None,
            lock_timeout: Duration::ZERO,
            leases: Vec::new(),
            sequence: 0,
            unread: true,
            buffer: WriteBuffer::default(),
            footprint: Footprint::default(),
            stray_locks: false,
            unanswered: false,
            alive: None,
            recorded: false,
            lost: false,
            committing: false,
            exact: false,
            state: State::Active,
            _open: client.open_read(options.as_of.map_or(now, |as_of| now.min(as_of.timestamp))),
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
        !self.buffer.is_empty() || self.footprint.has_intents()
    }

    /// Nothing is read or committed later than `deadline` from now on.
    pub fn set_deadline(&mut self, deadline: Timestamp) {
        self.deadline = Some(deadline);
    }

    /// How long writes wait for a lock of somebody else once they are sent, which is when they are
    /// flushed or committed; zero: as long as it takes. Then that fails with
    /// [`TxnError::LockConflict`], and the transaction with it.
    pub fn set_lock_timeout(&mut self, patience: Duration) {
        self.lock_timeout = patience;
    }

    pub(super) fn lock_timeout_ms(&self) -> u64 {
        millis(self.lock_timeout)
    }

    /// Nothing is read or committed later than the wall time in `lease`, which is looked at anew
    /// for each batch: a transaction may outlast it as long as it is renewed.
    pub fn bind_to_lease(&mut self, lease: &Arc<AtomicU64>) {
        if !self.leases.iter().any(|known| Arc::ptr_eq(known, lease)) {
            self.leases.push(Arc::clone(lease));
        }
    }

    /// After which nothing may be read or committed, as of now.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let leases = self.leases.iter();
        let leases = leases.map(|lease| Timestamp::new(lease.load(Ordering::Acquire), 0));
        leases.chain(self.deadline).min()
    }

    /// A statement begins. Under READ COMMITTED it reads what is committed by now, and what the
    /// statements before it read, without locking it, is let go.
    pub fn begin_statement(&mut self) {
        if self.options.isolation == Isolation::ReadCommitted && self.options.as_of.is_none() {
            self.read_timestamp = None;
            self.unread = true;
            let now = self.client.clock().now();
            self.uncertainty_limit = Some(after(now, self.client.max_offset()));
            self.observed = now;
            self.refresher.begin_statement();
        }
    }

    pub(super) fn check_active(&self) -> Result<(), TxnError> {
        match &self.state {
            // Without intents an abort took nothing but locks: the validation decides.
            State::Active if self.footprint.has_intents() => {
                let aborted = self.alive.as_ref().and_then(|alive| alive.aborted.lock().clone());
                aborted.map_or(Ok(()), |reason| {
                    Err(TxnError::Retry { cause: RetryCause::Aborted(reason) })
                })
            }
            State::Active => Ok(()),
            State::Failed(error) => Err(error.clone()),
            State::Committed | State::RolledBack => {
                Err(TxnError::invalid("the transaction has ended"))
            }
        }
    }

    pub(super) fn check_writable(&self) -> Result<(), TxnError> {
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
        let outcome = self.read_inner(requests, options).await;
        if let Err(error) = &outcome {
            self.heard(error);
        }
        outcome
    }

    /// Takes in an error that goes to the caller.
    pub(super) fn heard(&mut self, error: &TxnError) {
        self.client.metrics().failed(error);
        // Whoever aborted it left a record that says so.
        self.recorded |= matches!(error, TxnError::Retry { cause: RetryCause::Aborted(_) });
    }

    async fn read_inner(
        &mut self,
        requests: Vec<Request>,
        options: ReadOptions,
    ) -> Result<Vec<Response>, TxnError> {
        self.check_active()?;
        let stray_locks = self.stray_locks;
        let given_up = self.unanswered;
        let (sent, plan) = self.plan_read(&requests)?;
        let mut answers = if sent.is_empty() {
            Vec::new().into_iter()
        } else {
            // After an error, too, a range may go on that was not heard.
            let answer = self.send_read(sent, options).await?;
            self.unanswered = given_up;
            answer.responses.into_iter()
        };
        let at = self.read_timestamp.unwrap_or_default();
        let mut vague = false;
        let mut responses = Vec::with_capacity(requests.len());
        for (request, from_buffer) in requests.into_iter().zip(plan) {
            let response = match from_buffer {
                Some(value) => response::Kind::Get(GetResponse { value, own_intent: true }),
                None => {
                    vague |= self.is_vague(&request);
                    self.overlay(request, answers.next(), at)?
                }
            };
            responses.push(Response { kind: Some(response) });
        }
        if vague {
            self.check_intents_stay().await?;
        }
        self.stray_locks = stray_locks;
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
            let (start, end, lock) = match &request.kind {
                Some(request::Kind::Get(get)) => {
                    if let Some(value) = self.buffer.get(&get.key) {
                        plan.push(Some(value.cloned()));
                        continue;
                    }
                    sent.push(request.clone());
                    (&get.key, Bytes::new(), get.lock())
                }
                Some(request::Kind::Scan(scan)) => {
                    let mut scan_sent = scan.clone();
                    // To count under own writes, the keys are needed.
                    scan_sent.count_only &= !self.buffer.touches(&scan.start, &scan.end);
                    sent.push(Request { kind: Some(request::Kind::Scan(scan_sent)) });
                    (&scan.start, scan.end.clone(), scan.lock())
                }
                _ => return Err(TxnError::invalid("a transaction reads by get and scan alone")),
            };
            plan.push(None);
            if lock != LockStrength::LockNone {
                self.check_writable()?;
                self.be_known_at(start.clone());
                self.footprint.lock(start.clone(), end, self.client.limits());
                // Until the answer is here and will be validated.
                self.stray_locks = true;
                self.unanswered = true;
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
                if self.footprint.is_laid(&get.key) && !value.own_intent {
                    return Err(self.found_aborted());
                }
                let locked = get.lock() != LockStrength::LockNone;
                self.note(get.key, Bytes::new(), at, locked);
                Ok(response::Kind::Get(value))
            }
            (Some(request::Kind::Scan(scan)), Some(response::Kind::Scan(read))) => {
                let (start, end) = served(&scan, &read);
                if read.own_intents < self.footprint.count_laid(start, end) {
                    return Err(self.found_aborted());
                }
                let read = if self.buffer.touches(&scan.start, &scan.end) {
                    self.buffer.overlay(&scan, read)
                } else {
                    read
                };
                let locked = scan.lock() != LockStrength::LockNone;
                let (start, end) = served(&scan, &read);
                if start < end {
                    self.note(start.clone(), end.clone(), at, locked);
                }
                Ok(response::Kind::Scan(read))
            }
            _ => Err(TxnError::invalid("a range gave an answer of another kind")),
        }
    }

    /// Whether it does not know how many of its own intents a read should find.
    fn is_vague(&self, request: &Request) -> bool {
        match &request.kind {
            Some(request::Kind::Get(get)) => self.footprint.is_vague(&get.key, &Bytes::new()),
            Some(request::Kind::Scan(scan)) => self.footprint.is_vague(&scan.start, &scan.end),
            _ => false,
        }
    }

    /// Fails if the transaction was aborted, so that what was read just now may lack own writes.
    /// Whoever aborts it leaves a record that says so for as long as it could make one itself, and
    /// removes its intents afterwards.
    async fn check_intents_stay(&self) -> Result<(), TxnError> {
        let answer = recovery::query(&**self.client.sender(), &self.meta).await?;
        match answer.record.map(|record| record.status()) {
            Some(TxnStatus::Aborted) => Err(self.found_aborted()),
            Some(TxnStatus::Pending | TxnStatus::Staging | TxnStatus::Committed) => Ok(()),
            None => {
                let began = self.meta.min_timestamp.map(Timestamp::from).unwrap_or_default();
                let now = after(self.client.clock().now(), self.client.max_offset());
                if now < after(began, RECORD_WINDOW) { Ok(()) } else { Err(self.found_aborted()) }
            }
        }
    }

    /// A write of its own that was there is not any more: only an abort removes it, and what was
    /// read may lack others, too.
    fn found_aborted(&self) -> TxnError {
        if let Some(alive) = &self.alive {
            alive.aborted.lock().get_or_insert_with(|| ABORTED.to_owned());
        }
        aborted()
    }

    fn note(&mut self, start: Bytes, end: Bytes, at: Timestamp, locked: bool) {
        self.unread = false;
        // The past does not change.
        if self.options.as_of.is_none() {
            self.refresher.add(start, end, at, locked);
        }
    }

    /// Gives the transaction its anchor, before it leaves something at a leaseholder, and has it
    /// say that it is alive from now on.
    pub(super) fn be_known_at(&mut self, key: Bytes) {
        if self.alive.is_some() {
            return;
        }
        self.meta.anchor = key;
        let alive = Arc::new(Alive {
            meta: self.meta.clone(),
            beaten: AtomicBool::new(false),
            beating: AtomicBool::new(false),
            last: Mutex::new(self.meta.min_timestamp.map(Into::into).unwrap_or_default()),
            aborted: Mutex::default(),
        });
        self.client.background().register(self.number, Arc::clone(&alive));
        self.alive = Some(alive);
    }

    /// Sends reads; moves to a later timestamp where that helps.
    async fn send_read(
        &mut self,
        requests: Vec<Request>,
        options: ReadOptions,
    ) -> Result<BatchResponse, TxnError> {
        let mut batch = BatchRequest { header: None, requests };
        for _ in 0..self.client.limits().read_moves {
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
        let uncertainty_limit = if self.client.has(PlantedTxnBug::SkipUncertaintyRestart) {
            // Not left out: then a read over several ranges would get one on its way.
            Some(Timestamp::ZERO)
        } else {
            self.uncertainty_limit.filter(|_| self.unread || !self.reads_again(requests))
        };
        let historical = self.options.as_of;
        let nearest = historical.is_some_and(|as_of| as_of.nearest);
        BatchHeader {
            read_timestamp: self.read_timestamp.map(Into::into),
            deadline: self.deadline().map(Into::into),
            txn: historical.is_none().then(|| self.meta.clone()),
            uncertainty_limit: uncertainty_limit.map(Into::into),
            observed: historical.is_none().then(|| self.observed.into()),
            can_forward_read_timestamp: historical.is_none() && self.unread,
            wait_policy: options.wait_policy.into(),
            routing: if nearest { Routing::Nearest } else { Routing::Leaseholder }.into(),
            lock_timeout_ms: millis(options.lock_timeout),
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

    pub(super) fn raise_write_timestamp(&mut self, at: Timestamp) {
        if self.write_timestamp() < at {
            self.meta.write_timestamp = Some(at.into());
        }
    }

    pub(super) fn write_timestamp(&self) -> Timestamp {
        self.meta.write_timestamp.map(Timestamp::from).unwrap_or_default()
    }

    /// Moves what was read to `timestamp`; returns whether it is the same there.
    pub(super) async fn refresh(&mut self, timestamp: Timestamp) -> Result<bool, TxnError> {
        let metrics = self.client.metrics();
        let validations = self.refresher.validations(timestamp);
        if !validations.is_empty() && !self.client.has(PlantedTxnBug::SkipRefresh) {
            let header = BatchHeader {
                read_timestamp: Some(timestamp.into()),
                deadline: self.deadline().map(Into::into),
                txn: Some(self.meta.clone()),
                ..BatchHeader::default()
            };
            let requests = validations
                .into_iter()
                .map(|validate| Request { kind: Some(request::Kind::Validate(validate)) })
                .collect();
            let batch = BatchRequest { header: Some(header), requests };
            match self.client.sender().send(batch).await {
                Ok(_) => add(&metrics.refreshes_ok, 1),
                Err(SendError::ReadConflict { .. }) => {
                    add(&metrics.refreshes_failed, 1);
                    return Ok(false);
                }
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

    /// Refuses a write while the buffer is as full as it may be: then [`Txn::flush`] makes room.
    fn make_room(&self) -> Result<(), TxnError> {
        self.check_writable()?;
        let full = self.buffer.bytes() >= self.client.buffer_bytes()
            || self.buffer.len() >= self.client.limits().buffer_keys;
        if full { Err(TxnError::BufferFull) } else { Ok(()) }
    }

    /// Writes a value.
    pub fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), TxnError> {
        self.make_room()?;
        let sequence = self.next_sequence();
        self.buffer.write(key, Some(value), sequence);
        Ok(())
    }

    /// Writes a value to a key that must not exist. A value that the transaction itself wrote there
    /// and that is still buffered is found out at once; one that was flushed before, or that others
    /// wrote, by [`Txn::flush`] or [`Txn::commit`].
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

    /// A point to go back to.
    pub fn savepoint(&mut self) -> SavepointId {
        self.buffer.keep(self.sequence);
        SavepointId(self.sequence)
    }

    /// Gives a savepoint up, once for each time that [`Txn::savepoint`] returned it: nothing more
    /// is kept for it. The transaction must not go back to it any more.
    pub fn release(&mut self, savepoint: SavepointId) {
        self.buffer.release(savepoint.0);
    }
}

/// What of a scan was served: up to where it goes on.
fn served<'a>(scan: &'a ScanRequest, read: &'a ScanResponse) -> (&'a Bytes, &'a Bytes) {
    match &read.resume {
        None => (&scan.start, &scan.end),
        Some(resume) if scan.reverse => (&resume.end, &scan.end),
        Some(resume) => (&scan.start, &resume.start),
    }
}

/// The transaction was aborted by another one.
pub(super) fn aborted() -> TxnError {
    TxnError::Retry { cause: RetryCause::Aborted(ABORTED.to_owned()) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn after(timestamp: Timestamp, duration: Duration) -> Timestamp {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Timestamp::new(timestamp.wall_nanos.saturating_add(nanos), timestamp.logical)
}
