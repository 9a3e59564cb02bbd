//! Small key-value calls that the server makes on its own behalf.

use bytes::Bytes;
use crdb_keys::Span;
use crdb_kv::{SendError, Sender};
use crdb_proto::kv::{
    BatchRequest, ConditionalPutRequest, GetRequest, IncrementRequest, KeyValue, PutRequest,
    Request, ScanRequest, request, response,
};

/// A batch of the server's own.
#[derive(Default)]
pub(crate) struct OwnBatch(Vec<Request>);

impl OwnBatch {
    fn with(mut self, kind: request::Kind) -> Self {
        self.0.push(Request { kind: Some(kind) });
        self
    }

    pub(crate) fn get(self, key: Bytes) -> Self {
        self.with(request::Kind::Get(GetRequest { key, ..Default::default() }))
    }

    pub(crate) fn put(self, key: Bytes, value: impl Into<Bytes>) -> Self {
        self.with(request::Kind::Put(PutRequest { key, value: value.into() }))
    }

    pub(crate) fn put_if(
        self,
        key: Bytes,
        value: impl Into<Bytes>,
        expected: Option<Bytes>,
    ) -> Self {
        let value = value.into();
        self.with(request::Kind::ConditionalPut(ConditionalPutRequest { key, value, expected }))
    }

    pub(crate) fn increment(self, key: Bytes, delta: i64) -> Self {
        self.with(request::Kind::Increment(IncrementRequest { key, delta }))
    }

    pub(crate) fn scan(self, span: Span) -> Self {
        let (start, end) = (span.start, span.end);
        self.with(request::Kind::Scan(ScanRequest { start, end, ..ScanRequest::default() }))
    }

    pub(crate) async fn send(self, sender: &dyn Sender) -> Result<Answers, SendError> {
        let response = sender.send(BatchRequest { header: None, requests: self.0 }).await?;
        Ok(Answers(response.responses.into_iter().map(|r| r.kind).collect()))
    }
}

/// The answers to an [`OwnBatch`], by position.
pub(crate) struct Answers(Vec<Option<response::Kind>>);

impl Answers {
    fn take(&mut self, index: usize) -> Option<response::Kind> {
        self.0.get_mut(index)?.take()
    }

    /// The value a get found.
    pub(crate) fn value(&mut self, index: usize) -> Option<Bytes> {
        match self.take(index)? {
            response::Kind::Get(get) => get.value,
            _ => None,
        }
    }

    /// The rows a scan found.
    pub(crate) fn rows(&mut self, index: usize) -> Vec<KeyValue> {
        match self.take(index) {
            Some(response::Kind::Scan(scan)) => scan.rows,
            _ => Vec::new(),
        }
    }

    /// The counter after an increment.
    pub(crate) fn counter(&mut self, index: usize) -> Option<i64> {
        match self.take(index)? {
            response::Kind::Increment(increment) => Some(increment.value),
            _ => None,
        }
    }
}
