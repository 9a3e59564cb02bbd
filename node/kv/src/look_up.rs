//! Finds the range of a key: in the cache, or else in the meta range.
//!
//! What is found is a hint: the range itself says so if it does not hold the key any more.

use crdb_keys::{Span, layout, pretty::Pretty};
use crdb_proto::kv::{self, BatchRequest, RangeDescriptor, Request, ScanRequest, request};
use prost::Message as _;

use crate::dist_sender::DistSender;
use crate::range_cache::{CachedRange, RangeCache};
use crate::rest::Rest;
use crate::span::BatchSpan;
use crate::{SendError, Sender as _};

impl DistSender {
    /// The range that holds all keys of the batch, if one does.
    pub(crate) async fn find_range(
        &self,
        batch: &BatchRequest,
    ) -> Result<Option<CachedRange>, SendError> {
        let span = BatchSpan::of(batch)?;
        let range = self.range_of(span.start).await?;
        Ok(span.is_within(&range.descriptor).then_some(range))
    }

    /// The range that holds `key`.
    pub(crate) async fn range_of(&self, key: &[u8]) -> Result<CachedRange, SendError> {
        match self.cache.lookup(key) {
            Some(range) => Ok(range),
            None => self.look_up(key).await,
        }
    }

    /// Has the next look-up ask the meta range where a range is. The location of the meta range
    /// itself is all there is to find the others by, so it stays until somebody tells a later one.
    pub(crate) fn forget(&self, range: &RangeDescriptor) {
        if !layout::meta_span().contains_key(&range.start_key) {
            self.cache.evict(&range.start_key);
        }
    }

    /// Reads the meta range for the range that holds `key`.
    async fn look_up(&self, key: &[u8]) -> Result<CachedRange, SendError> {
        if layout::meta_span().contains_key(key) {
            return Err(unknown("the location of the meta range is not known yet"));
        }
        if *key < *layout::KEY_MIN || *key >= *layout::KEY_MAX {
            let message = format!("no range ever holds the key {}", Pretty(key));
            return Err(SendError::Invalid { message });
        }
        self.find_in_meta(layout::meta_lookup_span(key), |cache| cache.lookup(key)).await
    }

    /// The range that holds the keys right before `end`.
    pub(crate) async fn range_before(&self, end: &[u8]) -> Result<CachedRange, SendError> {
        if let Some(range) = self.cache.lookup_before(end) {
            return Ok(range);
        }
        let meta = layout::meta_span();
        if *meta.start < *end && *end <= *meta.end {
            return Err(unknown("the location of the meta range is not known yet"));
        }
        let span = Span::new(layout::meta_key(end), meta.end);
        self.find_in_meta(span, |cache| cache.lookup_before(end)).await
    }

    /// Reads the first entry of a span of the meta range until the cache answers. Right behind a
    /// split the entry of one side may be written and that of the other not yet.
    async fn find_in_meta(
        &self,
        span: Span,
        cached: impl Fn(&RangeCache) -> Option<CachedRange>,
    ) -> Result<CachedRange, SendError> {
        let give_up = self.transport.elapsed() + self.config.timeout;
        let mut pause = self.config.backoff_min;
        loop {
            self.learn(span.clone()).await?;
            match cached(&self.cache) {
                Some(range) => return Ok(range),
                None if self.transport.elapsed() >= give_up => {
                    return Err(unknown("its meta entry does not cover it"));
                }
                None => self.transport.sleep(pause).await,
            }
            pause = (pause * 2).min(self.config.backoff_max);
        }
    }

    /// Caches the first descriptor of a span of the meta range.
    async fn learn(&self, span: Span) -> Result<(), SendError> {
        let mut rest = Rest::Of(span.into());
        let row = loop {
            let Rest::Of(span) = rest else { return Err(unknown("no meta entry covers it")) };
            let (start, end) = (span.start, span.end);
            let scan = ScanRequest { start, end, max_rows: 1, ..ScanRequest::default() };
            let request = Request { kind: Some(request::Kind::Scan(scan)) };
            let batch = BatchRequest { header: None, requests: vec![request] };
            let response = self.send(batch).await?;
            let found = response.responses.into_iter().next().and_then(|r| r.kind);
            let Some(kv::response::Kind::Scan(mut found)) = found else {
                return Err(unknown("the meta range gave an answer of another kind"));
            };
            rest = Rest::take(&mut found.resume);
            if let Some(row) = found.rows.into_iter().next() {
                break row;
            }
        };
        let descriptor =
            RangeDescriptor::decode(row.value).map_err(|e| unknown(&format!("bad entry: {e}")))?;
        self.cache.insert(descriptor);
        Ok(())
    }
}

fn unknown(why: &str) -> SendError {
    SendError::Unavailable { message: format!("cannot find the range of the key: {why}") }
}
