//! Properties: collection against a map of all versions, and random histories of transactions
//! against a model that keeps everything in plain lists; parallel commits in every order.

mod gc;
mod model;
mod recovery;

use std::collections::BTreeSet;

use super::*;
use crate::{Engine, MemoryEngine, Sync, lock};

fn ts(wall: u64) -> Timestamp {
    Timestamp::new(wall, 0)
}

fn key(index: usize) -> Key {
    Bytes::from(format!("k{index:03}"))
}

fn all_keys() -> (Key, Key) {
    (Bytes::from_static(b"k"), Bytes::from_static(b"l"))
}

fn request(kind: request::Kind) -> kv::Request {
    kv::Request { kind: Some(kind) }
}

fn txn(index: u8, at: u64, sequence: u32) -> kv::TxnMeta {
    kv::TxnMeta {
        id: vec![index; TXN_ID_LEN].into(),
        anchor: key(0),
        min_timestamp: Some(ts(1).into()),
        write_timestamp: Some(ts(at).into()),
        sequence,
        ..kv::TxnMeta::default()
    }
}

fn put(index: usize, value: impl Into<Bytes>) -> kv::Request {
    request(request::Kind::Put(kv::PutRequest { key: key(index), value: value.into() }))
}

fn run(
    engine: &MemoryEngine,
    header: kv::BatchHeader,
    requests: Vec<kv::Request>,
    args: &EvalArgs<'_>,
) -> Result<Evaluated, EvalError> {
    let batch = BatchRequest { header: Some(header), requests };
    let evaluated = evaluate(&engine.snapshot(), &batch, args)?;
    engine.write(&evaluated.batch, Sync::Yes).unwrap();
    Ok(evaluated)
}

fn at(read: u64, write: u64) -> EvalArgs<'static> {
    EvalArgs::alone(At { read: ts(read), write: ts(write) }, ts(read.max(write)))
}

/// Intents of transaction 1 on `many` keys.
fn many_intents(many: usize) -> MemoryEngine {
    let engine = MemoryEngine::new();
    let header = kv::BatchHeader { txn: Some(txn(1, 10, 1)), ..kv::BatchHeader::default() };
    let puts = (0..many).map(|index| put(index, "x")).collect();
    run(&engine, header, puts, &at(10, 0)).unwrap();
    engine
}

fn scan(max_rows: u64, reverse: bool) -> Vec<kv::Request> {
    let (start, end) = all_keys();
    let scan = kv::ScanRequest { start, end, max_rows, reverse, ..kv::ScanRequest::default() };
    vec![request(request::Kind::Scan(scan))]
}

#[test]
fn a_scan_over_pages_of_own_intents_sees_all_in_order() {
    let engine = many_intents(1_000);
    for reverse in [false, true] {
        let header = kv::BatchHeader { txn: Some(txn(1, 10, 1)), ..kv::BatchHeader::default() };
        let mut seen = run(&engine, header, scan(0, reverse), &at(10, 0)).unwrap();
        let Some(response::Kind::Scan(scan)) = seen.responses.remove(0).kind else {
            panic!("not a scan");
        };
        let mut keys: Vec<Key> = scan.rows.into_iter().map(|row| row.key).collect();
        if reverse {
            keys.reverse();
        }
        assert_eq!(keys, (0..1_000).map(key).collect::<Vec<_>>(), "reverse: {reverse}");
    }
}

#[test]
fn the_report_of_intents_is_bounded() {
    let engine = many_intents(1_000);
    let other = || kv::BatchHeader { txn: Some(txn(2, 20, 1)), ..kv::BatchHeader::default() };
    let count = |requests| match run(&engine, other(), requests, &at(20, 0)) {
        Err(EvalError::Intents(intents)) => {
            let keys: BTreeSet<_> = intents.iter().map(|(key, _)| key.clone()).collect();
            assert_eq!(keys.len(), intents.len());
            intents.len()
        }
        other => panic!("no intents: {other:?}"),
    };
    assert_eq!(count(scan(0, false)), Limits::default().intents_met);
    assert_eq!(count(scan(3, true)), 3);
    assert_eq!(
        count((0..500).map(|index| put(index, "y")).collect()),
        Limits::default().intents_met
    );
}

#[test]
fn a_collection_over_the_end_of_the_range_is_out_of_bounds() {
    let descriptor = kv::RangeDescriptor {
        range_id: 7,
        start_key: "k".into(),
        end_key: "l".into(),
        ..kv::RangeDescriptor::default()
    };
    let gc = |end: &'static str| BatchRequest {
        header: None,
        requests: vec![request(request::Kind::Gc(kv::GcRequest {
            start: "k".into(),
            end: end.into(),
            ..kv::GcRequest::default()
        }))],
    };
    assert_eq!(out_of_bounds(&gc("l"), &descriptor), None);
    let error = out_of_bounds(&gc("m"), &descriptor).unwrap();
    assert!(error.message.ends_with("is not within range 7: [/k, /l)"), "{}", error.message);
}

#[test]
fn a_command_is_bounded() {
    let engine = MemoryEngine::new();
    let half = vec![0_u8; Limits::default().command_bytes / 2 + 1];
    let header = || kv::BatchHeader { txn: Some(txn(1, 10, 1)), ..kv::BatchHeader::default() };
    let both = vec![put(1, half.clone()), put(2, half.clone())];
    let error = run(&engine, header(), both, &at(10, 0)).unwrap_err();
    assert!(error.to_string().starts_with("what is written together up to the key"), "{error}");
    // What a transaction wrote before goes along with what it writes to the key now.
    run(&engine, header(), vec![put(1, half.clone())], &at(10, 0)).unwrap();
    let again = kv::BatchHeader { txn: Some(txn(1, 10, 2)), ..kv::BatchHeader::default() };
    let error = run(&engine, again, vec![put(1, half)], &at(10, 0)).unwrap_err();
    assert!(error.to_string().starts_with("what is written together up to the key"), "{error}");
}

#[test]
fn corrupt_intents_and_records_are_reported() {
    let engine = MemoryEngine::new();
    let mut batch = WriteBatch::new();
    batch.put(crate::Family::Lock, lock::intent_key(&key(1)), "\u{7f}");
    batch.put(crate::Family::Lock, lock::record_key(&key(2), &[1; TXN_ID_LEN]), "\u{7f}");
    engine.write(&batch, Sync::Yes).unwrap();
    let (start, end) = all_keys();
    let resolve = kv::ResolveIntentRequest {
        start,
        end,
        txn_id: vec![1; TXN_ID_LEN].into(),
        status: kv::TxnStatus::Aborted.into(),
        ..kv::ResolveIntentRequest::default()
    };
    let anchored = kv::TxnMeta { anchor: key(2), ..txn(1, 1, 1) };
    let requests = [
        put(1, "x"),
        scan(0, false).remove(0),
        request(request::Kind::ResolveIntent(resolve)),
        request(request::Kind::QueryTxn(kv::QueryTxnRequest { txn: Some(anchored) })),
    ];
    for request in requests {
        let error = run(&engine, kv::BatchHeader::default(), vec![request], &at(9, 9)).unwrap_err();
        assert!(matches!(error, EvalError::Storage(Error::Corrupt { .. })), "{error:?}");
    }
}
