//! What a store does at its bounds: it cuts, waits or refuses, and loses nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on stops")]

mod cluster;

use std::{cell::RefCell, rc::Rc, time::Duration};

use cluster::{Cluster, batch, get, increment, key, outcome, put, split, transfer, value_of};
use crdb_keys::{RangeId, Timestamp};
use crdb_proto::kv::{self, BatchRequest, TxnMeta, request::Kind};
use crdb_raftstore::StoreConfig;
use prost::Message as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// Three stores that were started again with other bounds.
fn three(configure: fn(&mut StoreConfig)) -> Cluster {
    let mut cluster = Cluster::of_three();
    for id in 1..=3 {
        cluster.crash(id, usize::MAX);
    }
    cluster.configure = configure;
    for id in 1..=3 {
        cluster.start(id);
    }
    cluster.tell_stores();
    cluster.wait("a leaseholder", |cluster| cluster.leaseholder(4).is_some());
    cluster
}

/// Notes the sizes of the batches that leave from now on.
fn sizes(cluster: &mut Cluster) -> Rc<RefCell<Vec<usize>>> {
    let sizes = Rc::<RefCell<Vec<usize>>>::default();
    let noted = Rc::clone(&sizes);
    cluster.filter = Some(Box::new(move |_, _, batch| {
        noted.borrow_mut().push(batch.encoded_len());
    }));
    sizes
}

#[test]
fn who_comes_back_gets_what_it_missed_in_batches_of_a_bounded_size() {
    let mut cluster = three(|config| config.limits.batch_bytes_max = 10_000);
    cluster.crash(3, usize::MAX);
    for n in 0..60 {
        assert_eq!(outcome(&cluster.routed("a", &put("a", &"y".repeat(2_000)))), "ok", "{n}");
    }
    let sizes = sizes(&mut cluster);
    cluster.start(3);
    cluster.tell_stores();
    cluster.wait("n3 has it all", |cluster| {
        let applied = |id| cluster.status(id, 4).map(|status| status.applied_index);
        applied(3) == cluster.leaseholder(4).and_then(applied)
    });
    let (largest, all) =
        (*sizes.borrow().iter().max().unwrap(), sizes.borrow().iter().sum::<usize>());
    assert!(all > 120_000, "n3 got a snapshot instead: {all} bytes were sent");
    assert!(largest < 11_000, "a batch of {largest} bytes");
}

fn puts(cluster: &mut Cluster, holder: u32, count: usize) -> Vec<(String, u64)> {
    (0..count)
        .map(|n| {
            let name = format!("k{n}");
            let call = cluster.call(holder, put(&name, &"z".repeat(500)));
            (name, call)
        })
        .collect()
}

#[test]
fn writes_wait_for_their_turn_where_the_log_takes_no_more() {
    let mut cluster = three(|config| config.limits.uncommitted_bytes_max = 1_200);
    let holder = cluster.leaseholder(4).unwrap();
    let calls = puts(&mut cluster, holder, 30);
    for (name, call) in &calls {
        cluster.wait(name, |cluster| cluster.responses.contains_key(call));
        assert_eq!(outcome(&cluster.responses[call]), "ok", "{name}");
    }
    for (name, _) in &calls {
        assert_eq!(cluster.get(holder, name).unwrap().map(|value| value.len()), Some(500));
    }
}

#[test]
fn what_waits_for_its_turn_is_refused_for_certain_when_the_lease_goes() {
    for lost in [true, false] {
        let mut cluster = three(|config| config.limits.uncommitted_bytes_max = 1);
        let holder = cluster.leaseholder(4).unwrap();
        let other = holder % 3 + 1;
        for peer in (1..=3).filter(|peer| *peer != holder) {
            cluster.cut.insert((holder, peer));
        }
        let calls = puts(&mut cluster, holder, 10);
        cluster.run(Duration::from_millis(50));
        if !lost {
            let request = transfer("a", other);
            cluster.call(holder, request);
            cluster.run(Duration::from_millis(50));
        }
        cluster.run(Duration::from_secs(if lost { 4 } else { 0 }));
        cluster.cut.clear();
        cluster.run(Duration::from_secs(4));
        // The one in the log may have been applied or not; no log ever had the others.
        let end = |call: &u64| outcome(&cluster.responses[call]);
        let refused: Vec<bool> =
            calls.iter().map(|(_, call)| end(call).starts_with("not leaseholder")).collect();
        assert!(refused[1..].iter().all(|refused| *refused), "{lost}: {refused:?}");
        for (name, _) in &calls[1..] {
            assert_eq!(value_of(&cluster.routed(name, &get(name))), None, "{lost}: {name}");
        }
    }
}

#[test]
fn more_than_may_wait_is_refused() {
    let mut cluster = three(|config| {
        config.limits.uncommitted_bytes_max = 1;
        config.limits.waiting_bytes_max = 2_000;
    });
    let holder = cluster.leaseholder(4).unwrap();
    let calls = puts(&mut cluster, holder, 30);
    cluster.run(Duration::from_secs(5));
    let ends: Vec<String> =
        calls.iter().map(|(_, call)| outcome(&cluster.responses[call])).collect();
    let done = ends.iter().filter(|end| *end == "ok").count();
    let refused = ends.iter().filter(|end| end.contains("the range takes no more writes")).count();
    assert!((2..10).contains(&done) && done + refused == 30, "{ends:?}");
}

#[test]
fn what_is_too_large_for_a_command_is_refused_and_the_range_goes_on() {
    let mut cluster = three(|config| config.limits.command_bytes_max = 1_000);
    let response = cluster.routed("a", &put("a", &"y".repeat(2_000)));
    let error = response.error.unwrap();
    assert!(matches!(error.kind, Some(kv::error::Kind::Invalid(_))), "{error:?}");
    assert!(error.message.contains("the most is 1000"), "{}", error.message);
    assert_eq!(outcome(&cluster.routed("a", &put("a", "small"))), "ok");
}

fn scan(from: &str, to: &str) -> BatchRequest {
    let scan = kv::ScanRequest { start: key(from), end: key(to), ..kv::ScanRequest::default() };
    batch(vec![Kind::Scan(scan)])
}

#[test]
fn a_lease_is_handed_over_with_as_many_reads_as_fit() {
    let mut cluster = three(|config| config.limits.handover_bytes_max = 5_000);
    let holder = cluster.leaseholder(4).unwrap();
    for n in 0..40 {
        let from = format!("{n:02}{}", "x".repeat(1_000));
        let to = format!("{n:02}{}", "y".repeat(1_000));
        assert_eq!(cluster.request(holder, scan(&from, &to)).error, None);
    }
    let sizes = sizes(&mut cluster);
    let target = holder % 3 + 1;
    assert_eq!(outcome(&cluster.request(holder, transfer("a", target))), "ok");
    let largest = *sizes.borrow().iter().max().unwrap();
    assert!(largest < 12_000, "a batch of {largest} bytes");
    assert_eq!(cluster.leaseholder(4), Some(target));
}

/// A batch that writes an intent as low as at `at`.
fn intent(name: &str, range: u64, at: Timestamp) -> BatchRequest {
    let txn = TxnMeta {
        id: b"a txn, 16 bytes.".to_vec().into(),
        anchor: key(name),
        min_timestamp: Some(at.into()),
        write_timestamp: Some(at.into()),
        sequence: 1,
        ..TxnMeta::default()
    };
    let mut request = put(name, "late");
    let header = request.header.get_or_insert_default();
    (header.txn, header.range_id) = (Some(txn), range);
    request
}

#[test]
fn nothing_is_written_on_the_right_of_a_split_below_what_its_own_command_closes() {
    let mut cluster = three(|config| {
        config.settings.set_closed_target(Duration::from_millis(50));
        config.settings.set_side_transport_interval(Duration::ZERO);
    });
    assert_eq!(outcome(&cluster.routed("x", &put("x", "1"))), "ok");
    // Nothing closes anything for a while.
    cluster.run(Duration::from_secs(1));
    assert_eq!(outcome(&cluster.routed("m", &split("m", 5, None))), "ok");
    cluster.wait("a leaseholder", |cluster| cluster.leaseholder(5).is_some());
    let closed: Vec<Timestamp> =
        (1..=3).filter_map(|id| cluster.handle(id).closed_of(RangeId(5))).collect();
    let highest = closed.into_iter().max().unwrap();
    let at = Timestamp::new(highest.wall_nanos - 100_000_000, 0);
    let holder = cluster.leaseholder(5).unwrap();
    let response = cluster.request(holder, intent("x", 5, at));
    assert_eq!(response.error, None);
    let wrote = response.write_timestamp.map(Timestamp::from).unwrap();
    assert!(wrote > highest, "{wrote} is not above {highest}, which is closed");
}

/// Writes while n3 gets no appends and answers heartbeats; the bytes of the leaseholder's log then.
fn log_of_who_lags(lag_max: fn(&mut StoreConfig)) -> u64 {
    let mut cluster = three(lag_max);
    let holder = cluster.leaseholder(4).unwrap();
    let lagging = holder % 3 + 1;
    cluster.filter = Some(Box::new(move |_, to, batch| {
        if to == lagging {
            batch.messages.retain(|message| message.range_id != 4);
        }
    }));
    for n in 0..50 {
        let response = cluster.routed("a", &put("a", &"y".repeat(500)));
        assert_eq!(outcome(&response), "ok", "{n}");
        cluster.run(Duration::from_millis(30));
    }
    cluster.run(Duration::from_secs(1));
    let bytes = cluster.status(cluster.leaseholder(4).unwrap(), 4).unwrap().log_bytes;
    cluster.filter = None;
    cluster.wait("all have it all", |cluster| {
        let applied = |id| cluster.status(id, 4).map(|status| status.applied_index);
        applied(1) == applied(2) && applied(2) == applied(3)
    });
    bytes
}

#[test]
fn who_answers_and_lags_is_not_cut_off_unless_it_lags_by_far() {
    let kept = log_of_who_lags(|config| {
        config.limits.log_bytes_stale = 1_000;
        config.limits.log_bytes_max = 5_000;
    });
    assert!(kept > 20_000, "{kept} bytes are left");
    let cut = log_of_who_lags(|config| {
        config.limits.log_bytes_stale = 1_000;
        config.limits.log_bytes_max = 5_000;
        config.limits.log_bytes_lag_max = 10_000;
    });
    assert!(cut < 12_000, "{cut} bytes are left");
}

#[test]
fn a_long_log_is_cut_piece_by_piece() {
    let mut cluster = three(|config| {
        config.limits.log_bytes_stale = 1_000;
        config.limits.log_bytes_max = 2_000;
        config.limits.truncated_entries_max = 10;
        config.limits.queue_ticks = 1_000;
    });
    let holder = cluster.leaseholder(4).unwrap();
    let calls = puts(&mut cluster, holder, 80);
    cluster.wait("the writes", |cluster| {
        calls.iter().all(|(_, call)| cluster.responses.contains_key(call))
    });
    let bytes = |cluster: &Cluster| cluster.status(holder, 4).unwrap().log_bytes;
    cluster.wait("the log is shown", |cluster| bytes(cluster) > 30_000);
    let mut before = bytes(&cluster);
    while before > 2_000 {
        cluster.run(Duration::from_millis(100));
        let now = bytes(&cluster);
        assert!(now < before && before - now < 7_000, "from {before} to {now} bytes in a tick");
        before = now;
    }
}

/// What a run counts: increments that were acknowledged, and those of which nobody knows.
#[derive(Default)]
struct Counts {
    done: i64,
    unknown: i64,
}

/// Increments rows while leases move, ranges split and nodes crash, with bounds drawn by the seed;
/// returns how often that was acknowledged.
fn increments(seed: u64) -> i64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::of_three();
    cluster.limits_seed = Some(seed);
    for id in 1..=3 {
        cluster.crash(id, usize::MAX);
        cluster.start(id);
    }
    cluster.tell_stores();
    let names = ["a", "h", "p", "x"];
    let mut counts = names.map(|_| Counts::default());
    let mut calls: Vec<(usize, u64)> = Vec::new();
    let mut next_range = 5;
    for _ in 0..150 {
        let row = rng.random_range(0..names.len());
        let name = names[row];
        let owner = cluster.owner(name);
        let routed = |mut request: BatchRequest, range: &kv::RangeDescriptor| {
            request.header.get_or_insert_default().range_id = range.range_id;
            request
        };
        match (rng.random_range(0..100), owner) {
            (0..85, Some((range, holder))) => {
                for _ in 0..rng.random_range(1..8) {
                    let request = routed(increment(name, 1), &range);
                    calls.push((row, cluster.call(holder, request)));
                }
            }
            (85..88, Some((range, holder))) if next_range < 8 => {
                cluster.call(holder, routed(split(name, next_range, None), &range));
                next_range += 1;
            }
            (88..93, Some((range, holder))) => {
                cluster.call(holder, routed(transfer(name, rng.random_range(1..=3)), &range));
            }
            (93..97, _) => {
                let id = rng.random_range(1..=3);
                cluster.crash(id, 0);
                cluster.run(Duration::from_millis(rng.random_range(1..3_000)));
                cluster.start(id);
                cluster.tell_stores();
            }
            _ => cluster.run(Duration::from_millis(rng.random_range(0..600))),
        }
        cluster.run(Duration::from_millis(rng.random_range(0..10)));
    }
    cluster.run(Duration::from_secs(10));
    for (row, call) in calls {
        match cluster.responses.get(&call).map(|response| response.error.as_ref()) {
            Some(None) => counts[row].done += 1,
            Some(Some(error)) => {
                let unknown = matches!(error.kind, Some(kv::error::Kind::Ambiguous(_)));
                counts[row].unknown += i64::from(unknown);
            }
            None => counts[row].unknown += 1,
        }
    }
    for (name, counts) in names.iter().zip(&counts) {
        let found = value_of(&cluster.routed(name, &increment(name, 0)));
        let found: i64 = found.unwrap().parse().unwrap();
        let Counts { done, unknown } = *counts;
        assert!(
            (done..=done + unknown).contains(&found),
            "seed {seed}: {name} is {found}, {done} were acknowledged and {unknown} are unknown"
        );
    }
    counts.iter().map(|counts| counts.done).sum()
}

#[test]
fn nothing_acknowledged_is_lost_whatever_the_bounds() {
    let done: i64 = (1..=30).map(increments).sum();
    assert!(done > 3_000, "{done} increments");
}
