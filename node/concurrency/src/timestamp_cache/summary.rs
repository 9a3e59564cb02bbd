//! What a leaseholder tells the next one of the reads it served.

use bytes::Bytes;
use crdb_keys::{Span, Timestamp};
use crdb_proto::kv;
use prost::Message as _;

use super::{Mark, ReaderId, TimestampCache};

/// The reads of a range, as one leaseholder hands them to the next.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadSummary {
    /// Everything may have been read up to here.
    #[prost(message, optional, tag = "1")]
    pub low_water: Option<kv::Timestamp>,
    /// Single keys.
    #[prost(message, repeated, tag = "2")]
    pub points: Vec<PointRead>,
    /// Spans.
    #[prost(message, repeated, tag = "3")]
    pub spans: Vec<SpanRead>,
}

/// The latest read of a key.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PointRead {
    /// Hash of the key.
    #[prost(fixed64, tag = "1")]
    pub hash: u64,
    /// When it was read.
    #[prost(message, optional, tag = "2")]
    pub timestamp: Option<kv::Timestamp>,
    /// By which transaction; empty if by several, or by none.
    #[prost(bytes = "bytes", tag = "3")]
    pub reader: Bytes,
}

/// The latest read of a span.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SpanRead {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub start: Bytes,
    /// First key no longer in the span.
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
    /// When it was read.
    #[prost(message, optional, tag = "3")]
    pub timestamp: Option<kv::Timestamp>,
    /// By which transaction; empty if by several, or by none.
    #[prost(bytes = "bytes", tag = "4")]
    pub reader: Bytes,
}

enum Read {
    Point(PointRead),
    Span(SpanRead),
}

impl Read {
    /// About how many it takes in a message.
    fn bytes(&self) -> usize {
        match self {
            Self::Point(point) => point.encoded_len(),
            Self::Span(span) => span.encoded_len(),
        }
    }
}

impl TimestampCache {
    /// The latest reads, at most `max` of about `bytes_max` bytes, and a low-water mark that covers
    /// the others. Points are not told apart by range: both sides of a split get all.
    #[must_use]
    pub fn summary(&self, max: usize, bytes_max: usize) -> ReadSummary {
        let mut reads: Vec<(Timestamp, Read)> = Vec::new();
        for generation in [&self.current, &self.old] {
            for (hash, mark) in &generation.points {
                let (timestamp, reader) = mark.wire();
                let point = PointRead { hash: *hash, timestamp, reader };
                reads.push((mark.timestamp, Read::Point(point)));
            }
            let ends = generation.spans.keys().skip(1);
            // Behind the last bound nothing was read.
            for ((start, mark), end) in generation.spans.iter().zip(ends) {
                let (timestamp, reader) = mark.wire();
                let (start, end) = (start.clone(), end.clone());
                let span = SpanRead { start, end, timestamp, reader };
                reads.push((mark.timestamp, Read::Span(span)));
            }
        }
        reads.retain(|(timestamp, _)| *timestamp > self.low_water());
        let mut low_water = self.low_water();
        if reads.len() > max {
            reads.select_nth_unstable_by(max, |(a, _), (b, _)| b.cmp(a));
            let dropped = reads.drain(max..).map(|(timestamp, _)| timestamp);
            low_water = dropped.fold(low_water, Timestamp::max);
        }
        reads.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        let mut bytes = 0;
        let kept = reads.iter().take_while(|(_, read)| {
            bytes += read.bytes();
            bytes <= bytes_max
        });
        let kept = kept.count();
        if let Some((newest_left_out, _)) = reads.get(kept) {
            low_water = low_water.max(*newest_left_out);
        }
        reads.truncate(kept);
        let mut summary =
            ReadSummary { low_water: Some(low_water.into()), ..ReadSummary::default() };
        for (_, read) in reads {
            match read {
                Read::Point(point) => summary.points.push(point),
                Read::Span(span) => summary.spans.push(span),
            }
        }
        summary
    }

    /// Takes over what [`Self::summary`] gave; the low-water mark does not sink by it.
    pub fn import(&mut self, summary: &ReadSummary) {
        let low_water = summary.low_water.map(Timestamp::from).unwrap_or_default();
        self.low_water.raise(Mark { timestamp: low_water, reader: None });
        for point in &summary.points {
            let read = mark(point.timestamp, &point.reader);
            if read.timestamp > self.low_water() {
                self.current.add_point(point.hash, read);
                self.rotate_if_full();
            } else {
                self.low_water.raise(read);
            }
        }
        for span in &summary.spans {
            let read = mark(span.timestamp, &span.reader);
            let read_span = Span::new(span.start.clone(), span.end.clone());
            self.add(&read_span, read.timestamp, read.reader);
        }
    }
}

fn mark(timestamp: Option<kv::Timestamp>, reader: &[u8]) -> Mark {
    let timestamp = timestamp.map(Timestamp::from).unwrap_or_default();
    Mark { timestamp, reader: ReaderId::new(reader) }
}

impl Mark {
    fn wire(&self) -> (Option<kv::Timestamp>, Bytes) {
        let reader = self.reader.map(|reader| Bytes::copy_from_slice(&reader.0));
        (Some(self.timestamp.into()), reader.unwrap_or_default())
    }
}
