//! What a cluster of stores promises, on engines in memory.

mod cluster;

use std::time::Duration;

use cluster::{Cluster, increment, outcome, put};

#[test]
fn one_store_serves_reads_and_writes() {
    let mut cluster = Cluster::bootstrap();
    assert_eq!(outcome(&cluster.put(1, "a", "1")), "ok");
    assert_eq!(cluster.get(1, "a").unwrap().as_deref(), Some("1"));
    assert_eq!(cluster.get(1, "b").unwrap(), None);
    assert_eq!(outcome(&cluster.request(1, increment("n", 5))), "5");
    assert_eq!(outcome(&cluster.request(1, increment("n", -2))), "3");
}

#[test]
fn one_store_keeps_what_it_acknowledged_through_a_crash() {
    let mut cluster = Cluster::bootstrap();
    for i in 0..20 {
        assert_eq!(outcome(&cluster.put(1, "a", &i.to_string())), "ok");
    }
    cluster.crash(1, 0);
    cluster.start(1);
    cluster.wait("a leaseholder", |cluster| cluster.leaseholder(4).is_some());
    assert_eq!(cluster.get(1, "a").unwrap().as_deref(), Some("19"));
    assert_eq!(outcome(&cluster.put(1, "a", "20")), "ok");
    assert_eq!(cluster.get(1, "a").unwrap().as_deref(), Some("20"));
}

#[test]
fn a_sole_voter_serves_again_half_a_second_after_a_crash() {
    let mut cluster = Cluster::bootstrap();
    cluster.run(Duration::from_secs(2));
    let read = cluster.request(1, cluster::get("a")).read_timestamp.unwrap();
    cluster.crash(1, 0);
    let crashed = cluster.now;
    cluster.start(1);
    cluster.wait("a leaseholder", |cluster| cluster.leaseholder(4).is_some());
    assert_eq!(outcome(&cluster.put(1, "a", "1")), "ok");
    let gap = cluster.now.since(crashed);
    assert!(gap < Duration::from_millis(700), "{gap:?}");
    // What is written now is above what was read before.
    let written = cluster.put(1, "a", "2").write_timestamp.unwrap();
    assert!(crdb_keys::Timestamp::from(written) > crdb_keys::Timestamp::from(read));
}

#[test]
fn replicas_spread_to_three_stores() {
    let mut cluster = Cluster::of_three();
    assert_eq!(outcome(&cluster.put(1, "a", "1")), "ok");
    assert_eq!(outcome(&cluster.put(2, "a", "2")), "not leaseholder, try s1");
}

#[test]
fn another_store_takes_over_when_the_leaseholder_dies() {
    let mut cluster = Cluster::of_three();
    assert_eq!(outcome(&cluster.put(1, "a", "1")), "ok");
    cluster.crash(1, 0);
    let died = cluster.now;
    cluster.wait("a new leaseholder", |cluster| cluster.leaseholder(4).is_some());
    let gap = cluster.now.since(died);
    assert!(gap < Duration::from_millis(1500), "{gap:?}");
    let holder = cluster.leaseholder(4).unwrap();
    assert_eq!(cluster.get(holder, "a").unwrap().as_deref(), Some("1"));
    assert_eq!(outcome(&cluster.put(holder, "a", "2")), "ok");
    cluster.start(1);
    cluster.run(Duration::from_secs(3));
    let applied: Vec<_> = [1, 2, 3].map(|id| cluster.status(id, 4).unwrap().applied_index).into();
    assert_eq!(applied[0], applied[1]);
    assert_eq!(applied[1], applied[2]);
}

#[test]
fn a_write_without_a_quorum_waits_and_is_not_acknowledged() {
    let mut cluster = Cluster::of_three();
    cluster.crash(2, 0);
    cluster.crash(3, 0);
    let id = cluster.call(1, put("a", "1"));
    cluster.run(Duration::from_secs(5));
    assert!(!cluster.responses.contains_key(&id));
    cluster.start(2);
    cluster.run(Duration::from_secs(5));
    let response = &cluster.responses[&id];
    assert!(["ok", "not leaseholder"].contains(&outcome(response).as_str()), "{response:?}");
}
