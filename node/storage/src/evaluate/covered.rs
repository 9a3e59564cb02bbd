//! Keys that are covered by spans, in whatever pieces.

use bytes::Bytes;
use crdb_keys::encoding;
use crdb_proto::kv;

/// Spans as the fewest that hold the same keys, in order.
pub(super) struct Covered {
    /// Start and exclusive end; neither overlaps nor touches the next.
    spans: Vec<(Bytes, Bytes)>,
}

impl Covered {
    /// What `spans` cover together; an empty end is the single key.
    pub(super) fn new(spans: &[kv::Span]) -> Self {
        let mut sorted: Vec<(Bytes, Bytes)> = spans.iter().map(borders).collect();
        sorted.retain(|(start, end)| start < end);
        sorted.sort();
        let mut joined: Vec<(Bytes, Bytes)> = Vec::with_capacity(sorted.len());
        for (start, end) in sorted {
            match joined.last_mut() {
                Some((_, last)) if *last >= start => *last = end.max(last.clone()),
                _ => joined.push((start, end)),
            }
        }
        Self { spans: joined }
    }

    /// Whether every key of `span` is covered.
    pub(super) fn cover(&self, span: &kv::Span) -> bool {
        let (start, end) = borders(span);
        let at = self.spans.partition_point(|(from, _)| *from <= start);
        let last = at.checked_sub(1).and_then(|at| self.spans.get(at));
        last.is_some_and(|(_, to)| end <= *to)
    }
}

/// Start and exclusive end.
fn borders(span: &kv::Span) -> (Bytes, Bytes) {
    let end = match span.end.is_empty() {
        true => encoding::next_key(&span.start).into(),
        false => span.end.clone(),
    };
    (span.start.clone(), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: &'static str, end: &'static str) -> kv::Span {
        kv::Span { start: start.into(), end: end.into() }
    }

    #[test]
    fn pieces_that_touch_cover_what_lies_over_them() {
        let covered =
            Covered::new(&[span("m", "p"), span("a", ""), span("c", "f"), span("f", "m")]);
        for whole in [span("a", ""), span("c", "p"), span("d", "e"), span("o", "")] {
            assert!(covered.cover(&whole), "{whole:?}");
        }
        let gaps = [span("a", "b"), span("b", ""), span("b", "d"), span("c", "q"), span("p", "")];
        for part in gaps {
            assert!(!covered.cover(&part), "{part:?}");
        }
        assert!(!Covered::new(&[]).cover(&span("a", "")));
    }

    #[test]
    fn a_span_that_holds_nothing_covers_nothing() {
        assert!(!Covered::new(&[span("c", "c"), span("d", "a")]).cover(&span("c", "")));
    }
}
