//! Closed timestamps: reads of the past by replicas without the lease.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on stops")]

mod cluster;

use std::time::Duration;

use cluster::{Cluster, get, get_nearest, put, split, transfer, value_of};
use crdb_keys::Timestamp;
use crdb_raftstore::StoreConfig;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

fn closes_early(config: &mut StoreConfig) {
    config.settings.set_closed_target(Duration::from_millis(5));
    config.settings.set_side_transport_interval(Duration::from_millis(100));
}

/// A read of a follower: row, timestamp, what it found.
type Answered = (&'static str, Timestamp, Option<String>);

const NAMES: [&str; 4] = ["a", "h", "p", "x"];

/// Writes, splits, moves leases and lets nodes die at random, and reads at followers meanwhile, at
/// what they have closed plus `beyond`.
fn run(seed: u64, configure: fn(&mut StoreConfig), beyond: u64) -> (Cluster, Vec<Answered>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::of_three();
    for id in 1..=3 {
        cluster.crash(id, usize::MAX);
    }
    cluster.configure = configure;
    // Every other run with bounds that it draws.
    cluster.limits_seed = Some(seed).filter(|seed| seed.is_multiple_of(2));
    for id in 1..=3 {
        cluster.start(id);
    }
    cluster.tell_stores();
    for name in NAMES {
        cluster.routed(name, &put(name, "first"));
    }
    let mut answered = Vec::new();
    let mut next_range = 5;
    for round in 0..400_u32 {
        let name = NAMES[rng.random_range(0..NAMES.len())];
        let node = rng.random_range(1..=3);
        match rng.random_range(0..100) {
            0..60 => {
                if let Some((range, holder)) = cluster.owner(name) {
                    let mut request = put(name, &round.to_string());
                    request.header.get_or_insert_default().range_id = range.range_id;
                    cluster.call(holder, request);
                }
            }
            60..63 if next_range < 8 => {
                if let Some((range, holder)) = cluster.owner(name) {
                    let mut request = split(name, next_range, None);
                    request.header.get_or_insert_default().range_id = range.range_id;
                    cluster.call(holder, request);
                    next_range += 1;
                }
            }
            63..66 => {
                if let Some((range, holder)) = cluster.owner(name) {
                    let mut request = transfer(name, node);
                    request.header.get_or_insert_default().range_id = range.range_id;
                    cluster.call(holder, request);
                }
            }
            66 => {
                cluster.crash(node, 0);
                cluster.run(Duration::from_millis(rng.random_range(1..2000)));
                cluster.start(node);
                cluster.tell_stores();
            }
            _ => {
                let Some(range) = cluster.handle(node).descriptor_of(&cluster::key(name)) else {
                    continue;
                };
                let range = crdb_keys::RangeId(range.range_id);
                let closed = cluster.handle(node).closed_of(range).unwrap();
                if closed.is_zero() || cluster.leaseholder(range.get()) == Some(node) {
                    continue;
                }
                let read = closed.add_nanos(beyond);
                let mut request = get_nearest(name, read);
                request.header.get_or_insert_default().range_id = range.get();
                let call = cluster.call(node, request);
                cluster.settle();
                let Some(response) = cluster.responses.remove(&call) else { continue };
                if response.error.is_none() {
                    answered.push((name, read, value_of(&response)));
                }
            }
        }
        cluster.run(Duration::from_millis(rng.random_range(0..8)));
    }
    (cluster, answered)
}

/// How many of the answers the leaseholder contradicts.
fn contradicted(cluster: &mut Cluster, answered: &[Answered]) -> usize {
    let differs = |(name, read, value): &&Answered| {
        let mut request = get(name);
        request.header.get_or_insert_default().read_timestamp = Some((*read).into());
        let response = cluster.routed(name, &request);
        assert!(response.error.is_none(), "{response:?}");
        value_of(&response) != *value
    };
    answered.iter().filter(differs).count()
}

#[test]
fn a_follower_reads_what_the_leaseholder_reads() {
    for seed in 1..=12 {
        let (mut cluster, answered) = run(seed, closes_early, 0);
        assert!(answered.len() > 20, "seed {seed}: {} answers", answered.len());
        let found = answered.iter().filter(|(_, _, value)| value.is_some()).count();
        assert!(found > 5, "seed {seed}: {found} values");
        assert_eq!(contradicted(&mut cluster, &answered), 0, "seed {seed}");
    }
}

#[test]
fn a_follower_reads_nothing_above_what_is_closed() {
    let (_, answered) = run(1, closes_early, 1);
    assert!(answered.is_empty(), "{answered:?}");
}

#[cfg(feature = "planted-bugs")]
#[test]
fn a_follower_that_reads_above_what_is_closed_is_found() {
    fn planted(config: &mut StoreConfig) {
        closes_early(config);
        config.planted = Some(crdb_raftstore::PlantedBug::FollowerReadAboveClosed);
    }
    let found = (1..=12).any(|seed| {
        let (mut cluster, answered) = run(seed, planted, 20_000_000);
        contradicted(&mut cluster, &answered) > 0
    });
    assert!(found);
}
