//! Requests to the key-value layer, and what its errors mean to a statement.

use bytes::Bytes;
use crdb_keys::pretty::Pretty;
use crdb_keys::{Span, Timestamp};
use crdb_kv::{AsOf, ReadOptions, RetryCause, SendError, TxnClient, TxnError, TxnOptions};
use crdb_proto::kv;

use crate::error::{Result, SqlError, SqlState};

/// The transaction has to run again from its start, or under READ COMMITTED from the start of the
/// statement; the message is the cause. Never leaves the session.
pub(crate) const CONFLICT: SqlState = SqlState("CRDBR");
/// The transaction was aborted by another one; the message is the cause. Never leaves the session.
pub(crate) const ABORTED: SqlState = SqlState("CRDBA");
/// The catalog snapshot may no longer be used: take a newer one. Never leaves the session.
pub(crate) const EXPIRED: SqlState = SqlState("CRDBX");

/// The way to the ranges, with this node's name on every batch.
#[derive(Clone)]
pub(crate) struct Kv(TxnClient);

/// A batch under construction.
#[derive(Default)]
pub(crate) struct Batch {
    requests: Vec<kv::Request>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a request of any kind.
    pub(crate) fn push(&mut self, kind: kv::request::Kind) {
        self.requests.push(kv::Request { kind: Some(kind) });
    }

    pub(crate) fn get(&mut self, key: impl Into<Bytes>) {
        self.get_locked(key, kv::LockStrength::LockNone, false);
    }

    /// A get that locks its key, with `absent` also if nothing is there.
    pub(crate) fn get_locked(
        &mut self,
        key: impl Into<Bytes>,
        lock: kv::LockStrength,
        absent: bool,
    ) {
        self.push(kv::request::Kind::Get(kv::GetRequest {
            key: key.into(),
            lock: lock.into(),
            lock_absent: absent,
            lock_only: false,
        }));
    }

    pub(crate) fn scan(&mut self, span: &Span, max_rows: u64, max_bytes: u64, reverse: bool) {
        self.scan_locked(span, max_rows, max_bytes, reverse, kv::LockStrength::LockNone);
    }

    /// A scan that locks the keys it returns.
    pub(crate) fn scan_locked(
        &mut self,
        span: &Span,
        max_rows: u64,
        max_bytes: u64,
        reverse: bool,
        lock: kv::LockStrength,
    ) {
        self.push(kv::request::Kind::Scan(kv::ScanRequest {
            start: span.start.clone(),
            end: span.end.clone(),
            max_rows,
            max_bytes,
            reverse,
            lock: lock.into(),
            count_only: false,
        }));
    }

    pub(crate) fn put(&mut self, key: Bytes, value: impl Into<Bytes>) {
        self.push(kv::request::Kind::Put(kv::PutRequest { key, value: value.into() }));
    }

    /// A put that fails unless the key holds `expected`; none means absent.
    pub(crate) fn conditional_put(&mut self, key: Bytes, value: Bytes, expected: Option<Bytes>) {
        self.push(kv::request::Kind::ConditionalPut(kv::ConditionalPutRequest {
            key,
            value,
            expected,
        }));
    }

    pub(crate) fn delete(&mut self, key: Bytes) {
        self.push(kv::request::Kind::Delete(kv::DeleteRequest { key }));
    }

    pub(crate) fn delete_range(&mut self, span: &Span, max_keys: u64) {
        self.push(kv::request::Kind::DeleteRange(kv::DeleteRangeRequest {
            start: span.start.clone(),
            end: span.end.clone(),
            max_keys,
        }));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(crate) fn into_requests(self) -> Vec<kv::Request> {
        self.requests
    }
}

/// What came back for a batch.
pub(crate) struct Reply {
    /// One answer per request.
    pub(crate) responses: Vec<kv::Response>,
}

/// What of a span an answer left out. It says so by this alone: a range may stop before any bound
/// of the request is reached.
#[derive(Debug)]
#[must_use = "what is left of the span is to be asked for, or to be an error"]
pub(crate) enum Rest {
    /// The answer covers the span.
    Nothing,
    /// The answer covers the span up to here.
    More(Span),
}

/// The answer to a scan. Its rows come with where the rest goes, or with the claim that there is
/// none.
#[derive(Debug)]
#[must_use]
pub(crate) struct Page {
    rows: Vec<kv::KeyValue>,
    rest: Rest,
}

impl Page {
    /// The rows; what is left of the span becomes the next one of `spans`, which end with it.
    pub(crate) fn leaving(self, spans: &mut Vec<Span>) -> Vec<kv::KeyValue> {
        match self.rest {
            Rest::Nothing => {}
            Rest::More(span) => spans.push(span),
        }
        self.rows
    }

    /// The rows of a request without a bound, which are answered whole.
    pub(crate) fn whole(self) -> Result<Vec<kv::KeyValue>> {
        match self.rest {
            Rest::Nothing => Ok(self.rows),
            Rest::More(_) => Err(SqlError::internal("a scan without a bound was answered in part")),
        }
    }
}

impl Reply {
    fn take(&mut self, index: usize) -> Option<kv::response::Kind> {
        self.responses.get_mut(index)?.kind.take()
    }

    /// The value a get at `index` found. Can be asked once.
    pub(crate) fn value(&mut self, index: usize) -> Result<Option<Bytes>> {
        match self.take(index) {
            Some(kv::response::Kind::Get(get)) => Ok(get.value),
            _ => Err(other_kind()),
        }
    }

    /// What a scan at `index` found. Can be asked once.
    pub(crate) fn page(&mut self, index: usize) -> Result<Page> {
        match self.take(index) {
            Some(kv::response::Kind::Scan(scan)) => {
                Ok(Page { rows: scan.rows, rest: scan.resume.into() })
            }
            _ => Err(other_kind()),
        }
    }

    /// What a bounded deletion at `index` left. Can be asked once.
    pub(crate) fn deleted(&mut self, index: usize) -> Result<Rest> {
        match self.take(index) {
            Some(kv::response::Kind::DeleteRange(deleted)) => Ok(deleted.resume.into()),
            _ => Err(other_kind()),
        }
    }
}

impl From<Option<kv::Span>> for Rest {
    fn from(resume: Option<kv::Span>) -> Self {
        resume.map_or(Self::Nothing, |span| Self::More(span.into()))
    }
}

fn other_kind() -> SqlError {
    SqlError::internal("a range gave an answer of another kind")
}

impl Kv {
    pub(crate) fn new(client: TxnClient) -> Self {
        Self(client)
    }

    /// Sends a batch. Reads are served at `read_at`, or at a time the leaseholder picks.
    pub(crate) async fn send(
        &self,
        batch: Batch,
        read_at: Option<Timestamp>,
        deadline: Option<Timestamp>,
    ) -> std::result::Result<Reply, SendError> {
        self.send_timed(batch, read_at, deadline).await.map(|(reply, _)| reply)
    }

    /// The same; says also at which time reads were served, if any were. It holds for all of them if
    /// they are of one range.
    pub(crate) async fn send_timed(
        &self,
        batch: Batch,
        read_at: Option<Timestamp>,
        deadline: Option<Timestamp>,
    ) -> std::result::Result<(Reply, Option<Timestamp>), SendError> {
        let expected = batch.requests.len();
        let request = kv::BatchRequest {
            header: Some(kv::BatchHeader {
                now: Some(self.0.clock().now().into()),
                range_id: 0,
                range_generation: 0,
                read_timestamp: read_at.map(Into::into),
                deadline: deadline.map(Into::into),
                gateway_node_id: self.0.node_id().get(),
                ..kv::BatchHeader::default()
            }),
            requests: batch.requests,
        };
        let response = self.0.send_non_txn(request).await?;
        if response.responses.len() != expected {
            return Err(SendError::Invalid {
                message: format!(
                    "a batch of {expected} requests got {} answers",
                    response.responses.len()
                ),
            });
        }
        let at = response.read_timestamp.map(Timestamp::from).filter(|at| !at.is_zero());
        Ok((Reply { responses: response.responses }, at))
    }

    /// Reads at a time in the past.
    pub(crate) async fn read_past(&self, batch: Batch, as_of: AsOf) -> Result<Reply> {
        let options = TxnOptions {
            read_only: true,
            as_of: Some(as_of),
            implicit: true,
            ..TxnOptions::default()
        };
        let mut txn = self.0.begin(options);
        let read = txn.read(batch.into_requests(), ReadOptions::default()).await;
        txn.rollback().await;
        Ok(Reply { responses: read.map_err(txn_error)? })
    }
}

/// The error a client gets for a failed batch that is not handled otherwise.
pub(crate) fn to_sql_error(error: SendError) -> SqlError {
    match error {
        SendError::ReadConflict { .. } => {
            retry_error("a concurrent statement changed what was read")
        }
        SendError::ConditionFailed { .. } => {
            retry_error("a concurrent statement changed what was to be written")
        }
        SendError::DeadlineExceeded { .. } => SqlError::new(
            SqlState::CANNOT_CONNECT_NOW,
            "this node could not renew its liveness record in time",
        )
        .with_hint("Repeat the statement, on another node if this one stays cut off."),
        SendError::Ambiguous { message } => {
            SqlError::new(SqlState::COMPLETION_UNKNOWN, "result is ambiguous").with_detail(message)
        }
        SendError::Unavailable { message } => {
            SqlError::new(SqlState::CANNOT_CONNECT_NOW, format!("range unavailable: {message}"))
                .with_hint("Nothing was written; repeat the statement later.")
        }
        SendError::CrossRange { message } => {
            SqlError::unsupported("a statement that writes to more than one range")
                .with_detail(message)
        }
        SendError::ReadUncertain { .. } => retry_error("ReadWithinUncertaintyIntervalError"),
        SendError::WriteTooOld { .. } => retry_error("RETRY_WRITE_TOO_OLD"),
        SendError::TxnRetry { .. } => retry_error("RETRY_SERIALIZABLE"),
        SendError::TxnAborted { reason } => retry_error(&reason),
        SendError::LockConflict { timed_out, .. } => {
            let why = if timed_out {
                "canceling statement due to lock timeout"
            } else {
                "could not obtain lock on row"
            };
            SqlError::new(SqlState("55P03"), why)
        }
        error @ SendError::ReadBelowThreshold { .. } => {
            SqlError::new(SqlState("XXUUU"), error.to_string())
        }
        SendError::TooLarge { key, bytes, limit } => SqlError::new(
            SqlState::PROGRAM_LIMIT,
            format!(
                "a row with what savepoints can go back to is {bytes} bytes, more than the limit of \
                 {limit}"
            ),
        )
        .with_detail(format!("Key {:.200}", Pretty(&key).to_string()))
        .with_hint("Write less to one row, or release savepoints before."),
        SendError::Invalid { message } => SqlError::internal(message),
    }
}

/// What a failed call of a transaction means to its statement. A key that exists is for the caller
/// to name, if it is the caller's; here it is one that was locked as absent and is there now.
pub(crate) fn txn_error(error: TxnError) -> SqlError {
    match error {
        TxnError::Retry { cause: RetryCause::Aborted(reason) } => SqlError::new(ABORTED, reason),
        TxnError::Retry { cause } => SqlError::new(CONFLICT, cause.to_string()),
        TxnError::Duplicate { .. } => SqlError::new(CONFLICT, RetryCause::Serializable.to_string()),
        TxnError::Deadline { .. } => SqlError::new(EXPIRED, "RETRY_COMMIT_DEADLINE_EXCEEDED"),
        TxnError::LockConflict { key, timed_out } => {
            to_sql_error(SendError::LockConflict { key: key.into(), timed_out })
        }
        TxnError::GivenUp { .. } => retry_error(&error.to_string()),
        TxnError::Ambiguous { message } => to_sql_error(SendError::Ambiguous { message }),
        TxnError::Unavailable { message } => to_sql_error(SendError::Unavailable { message }),
        TxnError::ReadBelowThreshold { threshold } => {
            to_sql_error(SendError::ReadBelowThreshold { threshold })
        }
        TxnError::TooLarge { key, bytes, limit } => {
            to_sql_error(SendError::TooLarge { key: key.into(), bytes, limit })
        }
        TxnError::BufferFull => SqlError::internal("a full write buffer was not flushed"),
        TxnError::Invalid { message } => SqlError::internal(message),
    }
}

/// The error of a transaction that lost too many races, or one in sight of the client.
pub(crate) fn retry_error(cause: &str) -> SqlError {
    SqlError::new(
        SqlState::SERIALIZATION_FAILURE,
        format!("restart transaction: TransactionRetryWithProtoRefreshError: {cause}"),
    )
    .with_hint("Run the transaction again from its BEGIN, or from SAVEPOINT cockroach_restart.")
}

/// The result of a batch as a statement's result.
pub(crate) fn sql<T>(result: std::result::Result<T, SendError>) -> Result<T> {
    result.map_err(to_sql_error)
}
