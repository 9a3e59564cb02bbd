//! A few seeds in every test run; `cargo xtask sim` runs many.

use crdb_kv::PlantedTxnBug;
use crdb_raftstore::PlantedBug;
use crdb_sim::{Bug, Options, run};

#[test]
fn seeds_pass() {
    let (mut snapshots, mut committed) = (0, 0);
    for seed in 1..=20 {
        let outcome = run(seed, Options::default());
        assert_eq!(outcome.failure, None, "seed {seed}");
        let stats = outcome.stats;
        assert!(stats.reads + stats.writes > 0 && stats.leases > 0, "seed {seed}: {stats:?}");
        snapshots += stats.snapshots;
        committed += stats.txns_committed;
    }
    assert!(snapshots > 0, "logs are cut under who is away");
    assert!(committed > 100, "{committed} transactions committed");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 4] {
        let (first, second) = (run(seed, Options::default()), run(seed, Options::default()));
        assert_eq!((first.digest, first.stats), (second.digest, second.stats), "seed {seed}");
    }
    assert_ne!(run(3, Options::default()).digest, run(4, Options::default()).digest);
}

/// The bugs that few seeds find; `crdb-sim --planted --seeds 500` looks for all of them.
#[test]
fn planted_bugs_are_found() {
    for bug in [
        Bug::Store(PlantedBug::AckBeforeSync),
        Bug::Store(PlantedBug::SkipLeaseCheck),
        Bug::Store(PlantedBug::SkipSync),
        Bug::Store(PlantedBug::LeaseForgetsReads),
        Bug::Gateway(PlantedTxnBug::SkipRefresh),
        Bug::Gateway(PlantedTxnBug::StagingIsAborted),
    ] {
        let options = Options { bug: Some(bug), trace: false };
        let found = (1..=60).any(|seed| run(seed, options).failure.is_some());
        assert!(found, "no seed of 1 to 60 finds {bug}");
    }
}
