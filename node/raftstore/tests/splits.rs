//! A range splits while nodes and messages get lost.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on stops")]

mod cluster;

use std::{ops::ControlFlow, time::Duration};

use cluster::{Cluster, batch, get, key, outcome, put, split};
use crdb_keys::{
    RangeId, Span, StoreId,
    layout::{self, RangeLocal, range_local_key},
};
use crdb_proto::kv::{RangeDescriptor, request};
use crdb_raftstore::{Input, ReplicaChange, StoreConfig};
use crdb_storage::{Family, Reader as _, mvcc};

/// What a node's engine holds of the keys of `range`.
fn data(cluster: &Cluster, id: u32, range: &RangeDescriptor) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (start, end) =
        mvcc::engine_span(&Span::new(range.start_key.clone(), range.end_key.clone()));
    let mut found = Vec::new();
    for family in [Family::State, Family::Lock] {
        let mut visit = |key: &[u8], value: &[u8]| {
            found.push((key.to_vec(), value.to_vec()));
            Ok(ControlFlow::Continue(()))
        };
        cluster.nodes[&id].engine.scan(family, &start, &end, &mut visit).unwrap();
    }
    found
}

/// The ranges of tables on a node, by their start.
fn ranges(cluster: &Cluster, id: u32) -> Vec<RangeDescriptor> {
    let all = cluster.handle(id).ranges().into_iter().map(|status| status.descriptor);
    let mut ranges: Vec<_> = all.filter(|range| range.range_id >= 4).collect();
    ranges.sort_by(|a, b| a.start_key.cmp(&b.start_key));
    ranges
}

/// Waits until the replicas on all three nodes agree, and checks that their spans partition the
/// tables and their data is equal.
fn check(cluster: &mut Cluster, context: &str) {
    cluster.wait(&format!("replicas that agree: {context}"), |cluster| {
        let first = ranges(cluster, 1);
        [2, 3].iter().all(|id| ranges(cluster, *id) == first)
            && first.iter().all(|range| {
                let applied = |id| cluster.status(id, range.range_id).unwrap().applied_index;
                cluster.leaseholder(range.range_id).is_some()
                    && applied(1) == applied(2)
                    && applied(1) == applied(3)
            })
    });
    let ranges = ranges(cluster, 1);
    let tables = layout::tables_span();
    assert_eq!(ranges.first().unwrap().start_key, tables.start, "{context}");
    assert_eq!(ranges.last().unwrap().end_key, tables.end, "{context}");
    for pair in ranges.windows(2) {
        let [left, right] = pair else { continue };
        assert_eq!(left.end_key, right.start_key, "{context}");
    }
    for range in &ranges {
        let first = data(cluster, 1, range);
        assert_eq!(first, data(cluster, 2, range), "{context}: r{}", range.range_id);
        assert_eq!(first, data(cluster, 3, range), "{context}: r{}", range.range_id);
    }
}

#[test]
fn a_split_survives_the_crash_of_any_node_at_any_point() {
    for victim in 1..=3 {
        for point in 0..20 {
            for keep in [0, 1, usize::MAX] {
                let context = format!("n{victim} crashes after {point} events, keeps {keep}");
                let mut cluster = Cluster::of_three();
                assert_eq!(outcome(&cluster.put(1, "a", "1")), "ok");
                assert_eq!(outcome(&cluster.put(1, "x", "1")), "ok");
                let call = cluster.call(1, split("m", 5, None));
                let end = cluster.now.after(Duration::from_secs(1));
                for _ in 0..point {
                    cluster.advance(end);
                }
                let acknowledged = cluster.responses.get(&call).map(|answer| {
                    assert_eq!(outcome(answer), "ok", "{context}");
                });
                cluster.crash(victim, keep);
                cluster.run(Duration::from_millis(30));
                let both = cluster.routed("x", &put("x", "2"));
                assert!(["ok", "ambiguous"].contains(&outcome(&both).as_str()), "{context}");
                cluster.start(victim);
                cluster.tell_stores();
                for name in ["a", "x"] {
                    assert_eq!(outcome(&cluster.routed(name, &put(name, "3"))), "ok", "{context}");
                    assert_eq!(outcome(&cluster.routed(name, &get(name))), "3", "{context}");
                }
                check(&mut cluster, &context);
                if acknowledged.is_some() {
                    assert_eq!(ranges(&cluster, 1).len(), 2, "{context}");
                }
            }
        }
    }
}

/// Whether a node has a replica of a range, be it an empty one.
fn has_replica(cluster: &Cluster, id: u32, range: u64) -> bool {
    let record = range_local_key(RangeId(range), RangeLocal::Replica);
    cluster.nodes[&id].engine.get(Family::Local, &record).unwrap().is_some()
}

fn short_log(config: &mut StoreConfig) {
    config.limits.log_bytes_stale = 1000;
    config.limits.log_bytes_max = 2000;
    config.limits.log_bytes_lag_max = 2000;
}

#[test]
fn a_follower_that_missed_a_split_and_its_log_gets_a_snapshot_of_each_side() {
    let mut cluster = Cluster::of_three();
    for name in ["a", "n", "x"] {
        assert_eq!(outcome(&cluster.put(1, name, "1")), "ok");
    }
    cluster.crash(1, usize::MAX);
    cluster.crash(2, usize::MAX);
    cluster.crash(3, usize::MAX);
    cluster.configure = short_log;
    cluster.start(1);
    cluster.start(2);
    assert_eq!(outcome(&cluster.routed("m", &split("m", 5, None))), "ok");
    for i in 0..50 {
        assert_eq!(outcome(&cluster.routed("a", &put("a", &"y".repeat(100)))), "ok", "{i}");
        assert_eq!(outcome(&cluster.routed("x", &put("x", &"z".repeat(100)))), "ok", "{i}");
    }
    cluster.run(Duration::from_secs(2));
    cluster.start(3);
    cluster.tell_stores();
    check(&mut cluster, "after the return");
    assert_eq!(ranges(&cluster, 3).len(), 2);
}

/// Keeps all messages about r4 from reaching n3: it does not learn of the split.
fn starve_left(cluster: &mut Cluster) {
    cluster.filter = Some(Box::new(|_, to, batch| {
        if to == 3 {
            batch.messages.retain(|message| message.range_id != 4);
            batch.heartbeats.retain(|heartbeat| heartbeat.range_id != 4);
            batch.gone.retain(|gone| gone.range_id != 4);
        }
    }));
}

#[test]
fn a_store_makes_no_replica_of_the_right_side_before_it_applied_the_split() {
    let mut cluster = Cluster::of_three();
    assert_eq!(outcome(&cluster.put(1, "x", "1")), "ok");
    starve_left(&mut cluster);
    assert_eq!(outcome(&cluster.request(1, split("m", 5, None))), "ok");
    for i in 0..10 {
        assert_eq!(outcome(&cluster.routed("x", &put("x", &i.to_string()))), "ok");
        cluster.run(Duration::from_millis(300));
    }
    assert!(!has_replica(&cluster, 3, 5));
    assert_eq!(ranges(&cluster, 3).len(), 1);
    cluster.filter = None;
    check(&mut cluster, "after the filter went");
    assert_eq!(ranges(&cluster, 3).len(), 2);
}

fn no_queue(config: &mut StoreConfig) {
    config.replicate_queue = false;
    short_log(config);
}

fn change(cluster: &mut Cluster, range: u64, change: ReplicaChange) {
    let holder = cluster.leaseholder(range).unwrap();
    let before = cluster.status(holder, range).unwrap().descriptor.generation;
    cluster.input(holder, Input::ChangeReplicas { range_id: RangeId(range), change });
    cluster.wait("the change", |cluster| {
        cluster.status(holder, range).unwrap().descriptor.generation > before
    });
    cluster.run(Duration::from_millis(300));
}

/// n3 does not learn of the split, and meanwhile the right side replaces its replica by one on n4.
fn replace_right_on_third() -> Cluster {
    let mut cluster = Cluster::of_three();
    for id in 1..=3 {
        cluster.crash(id, usize::MAX);
    }
    cluster.configure = no_queue;
    for id in 1..=3 {
        cluster.start(id);
    }
    cluster.add(4);
    cluster.start(4);
    cluster.tell_stores();
    assert_eq!(outcome(&cluster.routed("x", &put("x", "1"))), "ok");
    // Until a heartbeat told the followers that it is committed.
    cluster.run(Duration::from_millis(300));
    starve_left(&mut cluster);
    assert_eq!(outcome(&cluster.routed("m", &split("m", 5, None))), "ok");
    cluster.wait("a leaseholder", |cluster| cluster.leaseholder(5).is_some());
    let (third, fourth) = (StoreId(3), StoreId(4));
    change(&mut cluster, 5, ReplicaChange::AddLearner(fourth));
    let promote = ReplicaChange::Promote { promote: vec![fourth], demote: vec![third] };
    change(&mut cluster, 5, promote);
    change(&mut cluster, 5, ReplicaChange::LeaveJoint);
    change(&mut cluster, 5, ReplicaChange::RemoveLearner(third));
    assert!(!has_replica(&cluster, 3, 5));
    cluster
}

#[test]
fn a_right_side_that_moved_on_without_this_store_is_given_up() {
    let mut cluster = replace_right_on_third();
    cluster.filter = None;
    cluster.wait("the split applied on n3", |cluster| {
        ranges(cluster, 3).first().is_some_and(|left| left.end_key == key("m"))
    });
    // It made the replica that the split made, and was told that it is gone.
    cluster.wait("the replica to go", |cluster| !has_replica(cluster, 3, 5));
    let right = cluster.status(4, 5).unwrap().descriptor;
    assert!(data(&cluster, 3, &right).is_empty());
    assert_eq!(outcome(&cluster.routed("x", &get("x"))), "1");
}

#[test]
fn a_snapshot_of_the_left_side_takes_the_keys_of_the_right_side_away() {
    let mut cluster = replace_right_on_third();
    for i in 0..50 {
        assert_eq!(outcome(&cluster.routed("a", &put("a", &"y".repeat(100)))), "ok", "{i}");
    }
    cluster.run(Duration::from_secs(2));
    let right = cluster.status(4, 5).unwrap().descriptor;
    assert!(!data(&cluster, 3, &right).is_empty());
    cluster.filter = None;
    cluster.wait("the snapshot on n3", |cluster| {
        ranges(cluster, 3).first().is_some_and(|left| left.end_key == key("m"))
    });
    assert!(!has_replica(&cluster, 3, 5));
    assert!(data(&cluster, 3, &right).is_empty());
}

#[test]
fn a_right_side_that_came_back_under_another_id_gets_a_snapshot() {
    let mut cluster = replace_right_on_third();
    change(&mut cluster, 5, ReplicaChange::AddLearner(StoreId(3)));
    assert!(!has_replica(&cluster, 3, 5));
    cluster.filter = None;
    cluster.wait("the new replica", |cluster| {
        cluster.status(3, 5).is_some_and(|status| {
            let listed = status.descriptor.replicas.iter();
            let own = listed.filter(|replica| replica.store_id == 3).map(|r| r.replica_id);
            own.eq([status.replica_id.get()])
        })
    });
    cluster.run(Duration::from_secs(2));
    let right = cluster.status(4, 5).unwrap().descriptor;
    assert_eq!(data(&cluster, 3, &right), data(&cluster, 4, &right));
    // While a replica is a learner the range does not split.
    let refused = cluster.leaseholder(5).unwrap();
    let mut request = split("t", 6, None);
    request.header.get_or_insert_default().range_id = 5;
    let refused = outcome(&cluster.request(refused, request));
    assert_eq!(refused, "unavailable: the replicas of r5 are being changed, try again");
}

#[test]
fn requests_that_wait_behind_a_split_are_sent_to_the_right_side() {
    let mut cluster = Cluster::of_three();
    let split = cluster.call(1, split("m", 5, None));
    let left = cluster.call(1, put("a", "1"));
    let right = cluster.call(1, put("x", "1"));
    let both = batch(vec![request::Kind::Scan(crdb_proto::kv::ScanRequest {
        start: key("a"),
        end: key("z"),
        ..Default::default()
    })]);
    let both = cluster.call(1, both);
    cluster.run(Duration::from_millis(100));
    assert_eq!(outcome(&cluster.responses[&split]), "ok");
    assert_eq!(outcome(&cluster.responses[&left]), "ok");
    for call in [right, both] {
        let error = cluster.responses[&call].error.clone().unwrap();
        let Some(crdb_proto::kv::error::Kind::RangeMismatch(mismatch)) = error.kind else {
            panic!("{error:?}")
        };
        let ids: Vec<_> = mismatch.descriptors.iter().map(|range| range.range_id).collect();
        assert!(ids.contains(&4), "{ids:?}");
        assert!(call == both || ids.contains(&5), "{ids:?}");
    }
}
