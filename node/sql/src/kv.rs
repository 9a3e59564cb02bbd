//! Requests to the key-value layer, and what its errors mean to a statement.

use std::sync::Arc;

use bytes::Bytes;
use crdb_keys::hlc::Clock;
use crdb_keys::{NodeId, Span, Timestamp};
use crdb_kv::{SendError, Sender};
use crdb_proto::kv;

use crate::error::{Result, SqlError, SqlState};

/// The way to the ranges, with this node's name on every batch.
#[derive(Clone)]
pub(crate) struct Kv {
    sender: Arc<dyn Sender>,
    clock: Clock,
    node_id: NodeId,
}

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
        self.push(kv::request::Kind::Get(kv::GetRequest {
            key: key.into(),
            ..kv::GetRequest::default()
        }));
    }

    pub(crate) fn scan(&mut self, span: &Span, max_rows: u64, max_bytes: u64, reverse: bool) {
        self.push(kv::request::Kind::Scan(kv::ScanRequest {
            start: span.start.clone(),
            end: span.end.clone(),
            max_rows,
            max_bytes,
            reverse,
            ..kv::ScanRequest::default()
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

    /// Fails the batch when a key of the spans was written after `since`.
    pub(crate) fn validate(&mut self, spans: &[Span], since: Timestamp) {
        self.push(kv::request::Kind::Validate(kv::ValidateRequest {
            spans: spans.iter().cloned().map(Into::into).collect(),
            since: Some(since.into()),
        }));
    }

    /// Adds the requests of another batch behind those of this one.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.requests.append(&mut other.requests);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

/// What came back for a batch.
pub(crate) struct Reply {
    /// Timestamp of the reads.
    pub(crate) read_timestamp: Timestamp,
    /// One answer per request.
    pub(crate) responses: Vec<kv::Response>,
}

impl Reply {
    /// The value a get at `index` found.
    pub(crate) fn value(&mut self, index: usize) -> Option<Bytes> {
        match self.responses.get_mut(index)?.kind.as_mut()? {
            kv::response::Kind::Get(get) => get.value.take(),
            _ => None,
        }
    }

    /// The rows a scan at `index` found and where to go on.
    pub(crate) fn rows(&mut self, index: usize) -> (Vec<kv::KeyValue>, Option<Span>) {
        match self.responses.get_mut(index).and_then(|r| r.kind.as_mut()) {
            Some(kv::response::Kind::Scan(scan)) => {
                (std::mem::take(&mut scan.rows), scan.resume.take().map(Into::into))
            }
            _ => (Vec::new(), None),
        }
    }

    /// Where a bounded deletion at `index` stopped.
    pub(crate) fn delete_resume(&mut self, index: usize) -> Option<Span> {
        match self.responses.get_mut(index)?.kind.as_mut()? {
            kv::response::Kind::DeleteRange(deleted) => deleted.resume.take().map(Into::into),
            _ => None,
        }
    }
}

impl Kv {
    pub(crate) fn new(sender: Arc<dyn Sender>, clock: Clock, node_id: NodeId) -> Self {
        Self { sender, clock, node_id }
    }

    /// Sends a batch. Reads are served at `read_at`, or at a time the leaseholder picks.
    pub(crate) async fn send(
        &self,
        batch: Batch,
        read_at: Option<Timestamp>,
        deadline: Option<Timestamp>,
    ) -> std::result::Result<Reply, SendError> {
        let expected = batch.requests.len();
        let request = kv::BatchRequest {
            header: Some(kv::BatchHeader {
                now: Some(self.clock.now().into()),
                range_id: 0,
                range_generation: 0,
                read_timestamp: read_at.map(Into::into),
                deadline: deadline.map(Into::into),
                gateway_node_id: self.node_id.get(),
                ..kv::BatchHeader::default()
            }),
            requests: batch.requests,
        };
        let response = self.sender.send(request).await?;
        if response.responses.len() != expected {
            return Err(SendError::Invalid {
                message: format!(
                    "a batch of {expected} requests got {} answers",
                    response.responses.len()
                ),
            });
        }
        Ok(Reply {
            read_timestamp: response.read_timestamp.map(Into::into).unwrap_or_default(),
            responses: response.responses,
        })
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
        SendError::Invalid { message } => SqlError::internal(message),
    }
}

/// The error of a statement that lost too many races.
pub(crate) fn retry_error(cause: &str) -> SqlError {
    SqlError::new(
        SqlState::SERIALIZATION_FAILURE,
        format!("restart transaction: TransactionRetryWithProtoRefreshError: {cause}"),
    )
    .with_hint("Repeat the statement.")
}

/// The result of a batch as a statement's result.
pub(crate) fn sql<T>(result: std::result::Result<T, SendError>) -> Result<T> {
    result.map_err(to_sql_error)
}
