//! ALTER TABLE ... ADD PRIMARY KEY against statements of every gateway, interleaved by seeds, and
//! its gateway's end half way: no acknowledged row is lost, none comes twice.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod harness;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crdb_sql::{Datum, SqlError};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use harness::{Cluster, block_on, interleave, run, turn};

const GATEWAYS: usize = 3;
const SEEDS: u64 = 40;

fn ids(rows: &[Vec<Datum>]) -> Vec<i64> {
    let id = |row: &Vec<Datum>| match row.first() {
        Some(Datum::Int(id)) => *id,
        other => panic!("not a row: {other:?}"),
    };
    rows.iter().map(id).collect()
}

/// Inserts rows; every acknowledged one is noted.
async fn writer(cluster: &Cluster, gateway: usize, kept: &Mutex<Vec<i64>>, stop: &AtomicBool) {
    let mut session = cluster.session(gateway);
    let mut next = i64::try_from(gateway).unwrap() * 100_000;
    while !stop.load(Ordering::SeqCst) {
        next += 1;
        run(&mut session, &format!("INSERT INTO t (id) VALUES ({next})")).await.unwrap();
        kept.lock().unwrap().push(next);
        turn().await;
    }
}

async fn alter(cluster: &Cluster, stop: &AtomicBool) {
    let mut session = cluster.session(0);
    for _ in 0..60 {
        turn().await;
    }
    run(&mut session, "ALTER TABLE t ADD PRIMARY KEY (id)").await.unwrap();
    for _ in 0..60 {
        turn().await;
    }
    stop.store(true, Ordering::SeqCst);
}

async fn sorted(cluster: &Cluster, gateway: usize) -> Result<Vec<i64>, SqlError> {
    let mut session = cluster.session(gateway);
    Ok(ids(&run(&mut session, "SELECT id FROM t ORDER BY id").await?.rows))
}

#[test]
fn a_new_key_races_inserts_of_every_gateway() {
    let mut total = 0;
    for seed in 0..SEEDS {
        let cluster = Cluster::of_seed(u32::try_from(GATEWAYS).unwrap(), seed);
        let stop = AtomicBool::new(false);
        let kept = Mutex::new(Vec::new());
        block_on(async {
            let mut session = cluster.session(0);
            run(&mut session, "CREATE TABLE t (id INT)").await.unwrap();
        });
        let mut tasks: Vec<BoxFuture<'_, ()>> = vec![alter(&cluster, &stop).boxed()];
        for gateway in 0..GATEWAYS {
            tasks.push(writer(&cluster, gateway, &kept, &stop).boxed());
        }
        interleave(seed, tasks);
        let mut kept = kept.into_inner().unwrap();
        kept.sort_unstable();
        let found = block_on(sorted(&cluster, 1)).unwrap();
        assert_eq!(found, kept, "seed {seed}");
        total += kept.len();
        let again = block_on(async {
            let mut session = cluster.session(2);
            let again = kept.first().unwrap();
            run(&mut session, &format!("INSERT INTO t (id) VALUES ({again})")).await
        });
        assert_eq!(again.unwrap_err().code.as_str(), "23505", "seed {seed}");
    }
    assert!(total > 400, "only {total} rows were written");
}

/// Runs an ALTER of gateway 0 for some steps and drops it; true when it had ended by then.
fn abandon(cluster: &Cluster, steps: usize) -> bool {
    let mut session = cluster.session(0);
    let mut alter = Box::pin(run(&mut session, "ALTER TABLE t ADD PRIMARY KEY (id)"));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    (0..steps).any(|_| alter.as_mut().poll(&mut cx).is_ready())
}

#[test]
fn a_copy_that_was_abandoned_leaves_the_table_as_it_was() {
    let mut abandoned = 0;
    for steps in (2..400).step_by(3) {
        let cluster = Cluster::new(2);
        block_on(async {
            let mut session = cluster.session(1);
            run(&mut session, "CREATE TABLE t (id INT, v STRING)").await.unwrap();
            let rows = "INSERT INTO t SELECT i, 'v' FROM generate_series(1, 1300) AS g(i)";
            run(&mut session, rows).await.unwrap();
        });
        if abandon(&cluster, steps) {
            break;
        }
        abandoned += 1;
        cluster.down[0].store(true, Ordering::Relaxed);
        cluster.advance(Duration::from_secs(40));
        block_on(async {
            cluster.heartbeat().await;
            cluster.nodes[1].maintain_catalog().await.unwrap();
            let expected: Vec<i64> = (1..=1300).collect();
            assert_eq!(sorted(&cluster, 1).await.unwrap(), expected, "after {steps} steps");
            let mut session = cluster.session(1);
            // The next one finds nothing of the first one's rows.
            run(&mut session, "DELETE FROM t WHERE id > 1000").await.unwrap();
            let key = "ALTER TABLE t ADD PRIMARY KEY (id)";
            match run(&mut session, key).await {
                Ok(_) => {}
                // It had gone through before it was abandoned.
                Err(error) => assert_eq!(error.code.as_str(), "42P16", "after {steps} steps"),
            }
            let expected: Vec<i64> = (1..=1000).collect();
            assert_eq!(sorted(&cluster, 1).await.unwrap(), expected, "after {steps} steps");
            cluster.advance(Duration::from_secs(40));
            cluster.heartbeat().await;
            cluster.nodes[1].maintain_catalog().await.unwrap();
            assert_eq!(sorted(&cluster, 1).await.unwrap(), expected, "after {steps} steps");
        });
    }
    assert!(abandoned > 10, "only {abandoned} copies were abandoned");
}
