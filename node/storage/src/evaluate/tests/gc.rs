//! I13: a collection never removes a version that a read at or above its threshold sees; once it
//! is through, nothing is left that no such read sees.

use std::{collections::BTreeMap, ops::ControlFlow};

use proptest::prelude::*;

use super::*;
use crate::mvcc;

const KEYS: usize = 4;
const TIMES: u64 = 30;

type Versions = BTreeMap<(usize, u64), Option<String>>;

fn any_versions() -> impl Strategy<Value = Versions> {
    let version = (0..KEYS, 1..TIMES, prop::option::weighted(0.6, 0..1_000_u32));
    prop::collection::vec(version, 0..60).prop_map(|versions| {
        versions
            .into_iter()
            .map(|(key, at, value)| ((key, at), value.map(|value| value.to_string())))
            .collect()
    })
}

/// What a read sees of all versions there ever were.
fn visible(versions: &Versions, index: usize, read: u64) -> Option<String> {
    let (_, value) = versions.range((index, 0)..=(index, read)).next_back()?;
    value.clone()
}

fn check_reads(engine: &MemoryEngine, versions: &Versions, from: u64) -> Result<(), TestCaseError> {
    for read in from..=TIMES {
        for index in 0..KEYS {
            let found = mvcc::get(engine, &key(index), ts(read)).unwrap();
            let found = found.map(|value| String::from_utf8(value.to_vec()).unwrap());
            prop_assert_eq!(found, visible(versions, index, read), "{:?} at {}", key(index), read);
        }
    }
    Ok(())
}

/// Every version that is left is seen by some read at or above the threshold, or hidden by none
/// but is above it.
fn check_nothing_to_do(engine: &MemoryEngine, threshold: u64) -> Result<(), TestCaseError> {
    let (start, end) = all_keys();
    let mut below: BTreeMap<Vec<u8>, Vec<Option<Vec<u8>>>> = BTreeMap::new();
    mvcc::scan_versions(engine, &Span::new(start, end), &mut |key, at, value| {
        if at <= ts(threshold) {
            below.entry(key.to_vec()).or_default().push(value.map(<[u8]>::to_vec));
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    for (key, left) in below {
        prop_assert!(left.len() == 1 && left[0].is_some(), "{:?}: {:?}", key, left);
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_collection_is_not_seen_by_reads_at_its_threshold(
        versions in any_versions(),
        mut thresholds in prop::collection::vec(1..TIMES, 1..4),
        max_versions in 1..5_u64,
    ) {
        let engine = MemoryEngine::new();
        let mut batch = WriteBatch::new();
        for ((index, at), value) in &versions {
            mvcc::put(&mut batch, &key(*index), ts(*at), value.as_deref().map(str::as_bytes));
        }
        engine.write(&batch, Sync::Yes).unwrap();
        thresholds.sort_unstable();
        for threshold in thresholds {
            let (mut start, end) = all_keys();
            let mut commands = 0;
            loop {
                let gc = kv::GcRequest {
                    start,
                    end: end.clone(),
                    threshold: Some(ts(threshold).into()),
                    max_versions,
                };
                let gc = vec![request(request::Kind::Gc(gc))];
                let header = kv::BatchHeader::default();
                let mut done = run(&engine, header, gc, &at(TIMES, TIMES)).unwrap();
                check_reads(&engine, &versions, threshold)?;
                let Some(response::Kind::Gc(gc)) = done.responses.remove(0).kind else {
                    panic!("not a collection");
                };
                // A tombstone goes with the last version it hides, above the bound.
                prop_assert!(gc.removed <= max_versions + 1);
                prop_assert_eq!(gc.removed, done.batch.len() as u64);
                commands += 1;
                prop_assert!(commands <= 100, "the collection comes to no end");
                let Some(resume) = gc.resume else { break };
                start = resume.start;
            }
            check_nothing_to_do(&engine, threshold)?;
        }
    }
}
