//! The timestamp cache by scripts.

use std::{error::Error, fmt::Write as _, path::Path};

use crdb_keys::{Span, Timestamp};
use goldenscript::Command;
use proptest::prelude::*;
use test_each_file::test_each_path;

use super::{ReaderId, TimestampCache, hash};
use crate::Limits;

test_each_path! { in "node/concurrency/src/testscripts/timestamp_cache" as scripts => run_script }

fn run_script(path: &Path) {
    goldenscript::run(&mut Script::default(), path).expect("script failed");
}

fn cache_of(read_points_max: usize, read_spans_max: usize) -> TimestampCache {
    TimestampCache::new(&Limits { read_points_max, read_spans_max, ..Limits::default() })
}

fn reader(name: &str) -> Option<ReaderId> {
    let mut id = [0; 16];
    id[..name.len()].copy_from_slice(name.as_bytes());
    ReaderId::new(&id)
}

fn span(text: &str) -> Span {
    match text.split_once('-') {
        Some((start, end)) => Span::new(start.to_owned(), end.to_owned()),
        None => Span::point(text.to_owned()),
    }
}

/// `bounds POINTS SPANS`, `read SPAN TS [by=TXN]`, `floor SPAN [by=TXN]`, `reset TS`, and
/// `move MAX [bytes=N]`, which hands a summary of at most that many reads and bytes to an empty
/// cache and goes on there.
#[derive(Default)]
struct Script {
    cache: TimestampCache,
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        let mut args = command.consume_args();
        let by = args.take_key("by").and_then(reader);
        let bytes = args.take_key("bytes").map_or(Ok(usize::MAX), str::parse)?;
        let mut next = || args.next_pos().ok_or("an argument is missing");
        match command.name.as_str() {
            "bounds" => {
                let (points, spans) = (next()?.parse()?, next()?.parse()?);
                self.cache = cache_of(points, spans);
            }
            "read" => {
                let span = span(next()?);
                self.cache.add(&span, Timestamp::new(next()?.parse()?, 0), by);
            }
            "floor" => {
                let floor = self.cache.floor(&span(next()?), by);
                let (at, above) = (floor.wall_nanos, floor.logical > 0);
                writeln!(out, "{} {at}", if above { "above" } else { "from" })?;
            }
            "reset" => self.cache.reset(Timestamp::new(next()?.parse()?, 0)),
            "move" => {
                let summary = self.cache.summary(next()?.parse()?, bytes);
                writeln!(
                    out,
                    "{} points, {} spans, low water {}",
                    summary.points.len(),
                    summary.spans.len(),
                    summary.low_water.map(Timestamp::from).unwrap_or_default().wall_nanos
                )?;
                self.cache.reset(Timestamp::ZERO);
                self.cache.import(&summary);
            }
            other => return Err(format!("no such command: {other}").into()),
        }
        args.reject_next()?;
        Ok(out)
    }
}

#[test]
fn the_hash_never_changes() {
    let hashes = [&b""[..], b"a", b"a key of more than eight bytes"].map(hash);
    assert_eq!(hashes, [0x545c_df5c_9878_d35d, 0x146a_501f_f99f_cf8e, 0xa193_9f2a_4131_2adf]);
}

#[derive(Clone, Debug)]
struct Read {
    span: Span,
    at: u64,
    by: Option<u8>,
}

fn any_span() -> impl Strategy<Value = Span> {
    (0..6_u8, 0..4_u8).prop_map(|(start, len)| match len {
        0 => Span::point(vec![start]),
        len => Span::new(vec![start], vec![start + len]),
    })
}

fn any_read() -> impl Strategy<Value = Read> {
    (any_span(), 1..12_u64, prop::option::of(0..3_u8)).prop_map(|(span, at, by)| Read {
        span,
        at,
        by,
    })
}

/// The lowest timestamp for a write of `own`, by definition.
fn model(reads: &[Read], span: &Span, own: Option<u8>) -> Timestamp {
    let relevant = reads.iter().filter(|read| read.span.overlaps(span));
    let floors = relevant.map(|read| {
        let at = Timestamp::new(read.at, 0);
        if own.is_some() && read.by == own { at } else { at.next() }
    });
    floors.max().unwrap_or_default()
}

fn id(number: u8) -> Option<ReaderId> {
    ReaderId::new(&[number; 16])
}

proptest! {
    /// Without bounds in the way, the answer for a key is the exact one; small generations and
    /// moves may only raise it.
    #[test]
    fn the_floor_is_above_all_reads_of_others(
        reads in prop::collection::vec(any_read(), 0..40),
        moved_after in 0..40_usize,
        keep in 0..6_usize,
        bytes in prop_oneof![Just(usize::MAX), 0..200_usize],
        seed in any::<u64>(),
    ) {
        let limits = Limits::of_seed(seed);
        let mut exact = TimestampCache::default();
        let mut small = TimestampCache::new(&limits);
        for (index, read) in reads.iter().enumerate() {
            let by = read.by.and_then(id);
            exact.add(&read.span, Timestamp::new(read.at, 0), by);
            small.add(&read.span, Timestamp::new(read.at, 0), by);
            if index == moved_after {
                let summary = small.summary(keep, bytes);
                prop_assert!(summary.points.len() + summary.spans.len() <= keep);
                small.reset(Timestamp::ZERO);
                small.import(&summary);
            }
            for own in [None, Some(0), Some(1)] {
                for start in 0..7_u8 {
                    let point = Span::point(vec![start]);
                    let wanted = model(&reads[..=index], &point, own).max(Timestamp::ZERO.next());
                    let floor = exact.floor(&point, own.and_then(id));
                    prop_assert_eq!(floor, wanted, "{:?} for {:?}", point, own);
                    prop_assert!(small.floor(&point, own.and_then(id)) >= wanted);
                    let range = Span::new(vec![start], vec![start + 2]);
                    let wanted = model(&reads[..=index], &range, own);
                    prop_assert!(exact.floor(&range, own.and_then(id)) >= wanted);
                    prop_assert!(small.floor(&range, own.and_then(id)) >= wanted);
                }
            }
        }
        let (points, spans) = (limits.read_points_max, limits.read_spans_max);
        prop_assert!(small.current.points.len() <= points && small.current.spans.len() <= spans);
        prop_assert!(small.old.points.len() <= points + 1 && small.old.spans.len() <= spans + 3);
    }
}
