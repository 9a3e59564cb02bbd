//! TRUNCATE and DROP against statements of every gateway, interleaved by seeds: no acknowledged row
//! of a truncated table comes back or is lost, none of a dropped table is seen.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod harness;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crdb_keys::layout;
use crdb_proto::kv;
use crdb_sql::{Datum, SqlState};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use harness::{Cluster, block_on, interleave, run, turn};

const GATEWAYS: usize = 3;
const SEEDS: u64 = 60;

/// What happened, stamped by a counter that rises with each event.
#[derive(Default)]
struct History {
    clock: AtomicU64,
    /// Row, when its insert began, when it was acknowledged.
    inserts: Mutex<Vec<(i64, u64, u64)>>,
    /// When a TRUNCATE began and when it was acknowledged.
    truncates: Mutex<Vec<(u64, u64)>>,
    /// What a SELECT saw, when it began and when it ended.
    reads: Mutex<Vec<(Vec<i64>, u64, u64)>>,
}

impl History {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

fn ids(rows: &[Vec<Datum>]) -> Vec<i64> {
    rows.iter()
        .map(|row| match row.first() {
            Some(Datum::Int(id)) => *id,
            other => panic!("not a row: {other:?}"),
        })
        .collect()
}

async fn writer(cluster: &Cluster, history: &History, gateway: usize, stop: &AtomicBool) {
    let mut session = cluster.session(gateway);
    let mut next = i64::try_from(gateway).expect("few gateways") * 100_000;
    while !stop.load(Ordering::SeqCst) {
        next += 1;
        let began = history.now();
        match run(&mut session, &format!("INSERT INTO t VALUES ({next})")).await {
            Ok(_) => {
                let ended = history.now();
                history.inserts.lock().unwrap().push((next, began, ended));
            }
            Err(error) => panic!("insert on gateway {gateway}: {error:?}"),
        }
        turn().await;
    }
}

async fn reader(cluster: &Cluster, history: &History, gateway: usize, stop: &AtomicBool) {
    let mut session = cluster.session(gateway);
    while !stop.load(Ordering::SeqCst) {
        let began = history.now();
        let result = run(&mut session, "SELECT id FROM t").await.expect("a read");
        let ended = history.now();
        history.reads.lock().unwrap().push((ids(&result.rows), began, ended));
        turn().await;
    }
}

async fn truncater(cluster: &Cluster, history: &History, stop: &AtomicBool) {
    let mut session = cluster.session(0);
    for _ in 0..4 {
        for _ in 0..50 {
            turn().await;
        }
        let began = history.now();
        run(&mut session, "TRUNCATE t").await.expect("a truncate");
        let ended = history.now();
        history.truncates.lock().unwrap().push((began, ended));
    }
    for _ in 0..50 {
        turn().await;
    }
    stop.store(true, Ordering::SeqCst);
}

fn check(history: &History, seed: u64) {
    let inserts = history.inserts.lock().unwrap();
    let truncates = history.truncates.lock().unwrap();
    for (seen, read_began, read_ended) in history.reads.lock().unwrap().iter() {
        for (id, began, ended) in inserts.iter() {
            let is_seen = seen.contains(id);
            // Acknowledged before a truncate began that was acknowledged before the read began.
            let surely_gone = truncates.iter().any(|(t0, t1)| ended < t0 && t1 < read_began);
            assert!(!(is_seen && surely_gone), "seed {seed}: row {id} came back");
            // Begun after every truncate that could have removed it before the read ended.
            let maybe_gone = truncates.iter().any(|(t0, t1)| began < t1 && t0 < read_ended);
            let surely_there = ended < read_began && !maybe_gone;
            assert!(is_seen || !surely_there, "seed {seed}: row {id} was lost");
        }
    }
}

#[test]
fn truncate_races_inserts_and_reads_of_every_gateway() {
    let mut totals = (0, 0, 0);
    for seed in 0..SEEDS {
        let cluster = Cluster::new(u32::try_from(GATEWAYS).unwrap());
        let history = History::default();
        let stop = AtomicBool::new(false);
        block_on(async {
            let mut session = cluster.session(0);
            run(&mut session, "CREATE TABLE t (id INT PRIMARY KEY)").await.unwrap();
        });
        let mut tasks: Vec<BoxFuture<'_, ()>> = Vec::new();
        for gateway in 0..GATEWAYS {
            tasks.push(writer(&cluster, &history, gateway, &stop).boxed());
            tasks.push(reader(&cluster, &history, gateway, &stop).boxed());
        }
        tasks.push(truncater(&cluster, &history, &stop).boxed());
        interleave(seed, tasks);
        block_on(async {
            let mut session = cluster.session(1);
            let began = history.now();
            let rows = run(&mut session, "SELECT id FROM t").await.unwrap().rows;
            history.reads.lock().unwrap().push((ids(&rows), began, history.now()));
        });
        check(&history, seed);
        totals.0 += history.inserts.lock().unwrap().len();
        totals.1 += history.truncates.lock().unwrap().len();
        totals.2 += history.reads.lock().unwrap().len();
    }
    // The race is one: enough of everything happened.
    assert!(totals.0 > 1000 && totals.1 >= 200 && totals.2 > 1000, "{totals:?}");
}

#[test]
fn drop_and_create_race_inserts_of_every_gateway() {
    for seed in 0..SEEDS {
        let cluster = Cluster::new(u32::try_from(GATEWAYS).unwrap());
        let stop = AtomicBool::new(false);
        // Rows acknowledged, and the generation of the table that could have taken them at most.
        let acknowledged: Mutex<Vec<(i64, u64)>> = Mutex::new(Vec::new());
        let generation = AtomicU64::new(0);
        block_on(async {
            let mut session = cluster.session(0);
            run(&mut session, "CREATE TABLE t (id INT PRIMARY KEY)").await.unwrap();
        });
        let (cluster_ref, stop_ref, acks, generation_ref) =
            (&cluster, &stop, &acknowledged, &generation);
        let mut tasks: Vec<BoxFuture<'_, ()>> = Vec::new();
        for gateway in 0..GATEWAYS {
            tasks.push(
                async move {
                    let mut session = cluster_ref.session(gateway);
                    let mut next = i64::try_from(gateway).unwrap() * 100_000;
                    while !stop_ref.load(Ordering::SeqCst) {
                        next += 1;
                        match run(&mut session, &format!("INSERT INTO t VALUES ({next})")).await {
                            Ok(_) => {
                                let at = generation_ref.load(Ordering::SeqCst);
                                acks.lock().unwrap().push((next, at));
                            }
                            Err(error) => {
                                assert_eq!(error.code, SqlState::UNDEFINED_TABLE, "{error:?}")
                            }
                        }
                        turn().await;
                    }
                }
                .boxed(),
            );
        }
        tasks.push(
            async move {
                let mut session = cluster_ref.session(0);
                for _ in 0..3 {
                    for _ in 0..40 {
                        turn().await;
                    }
                    run(&mut session, "DROP TABLE t").await.unwrap();
                    // Everywhere at once: the name means nothing.
                    for gateway in 0..GATEWAYS {
                        let mut other = cluster_ref.session(gateway);
                        let error = run(&mut other, "SELECT id FROM t").await.unwrap_err();
                        assert_eq!(error.code, SqlState::UNDEFINED_TABLE, "seed {seed}");
                    }
                    generation_ref.fetch_add(1, Ordering::SeqCst);
                    run(&mut session, "CREATE TABLE t (id INT PRIMARY KEY)").await.unwrap();
                    for gateway in 0..GATEWAYS {
                        let mut other = cluster_ref.session(gateway);
                        run(&mut other, "SELECT id FROM t").await.expect("visible everywhere");
                    }
                }
                stop_ref.store(true, Ordering::SeqCst);
            }
            .boxed(),
        );
        interleave(seed, tasks);
        let seen = block_on(async {
            let mut session = cluster.session(2);
            ids(&run(&mut session, "SELECT id FROM t").await.unwrap().rows)
        });
        for (id, at) in acknowledged.lock().unwrap().iter() {
            // Acknowledged before the last DROP was: gone with that table.
            if *at < 3 {
                assert!(!seen.contains(id), "seed {seed}: row {id} outlived its table");
            }
        }
        assert_eq!(stored_tables(&cluster), 1, "seed {seed}: rows of dropped tables are left");
    }
}

/// How many tables have rows in the table range; the live one counts even when empty.
fn stored_tables(cluster: &Cluster) -> usize {
    let span = layout::tables_span();
    let scan = kv::ScanRequest { start: span.start, end: span.end, ..kv::ScanRequest::default() };
    let request = kv::Request { kind: Some(kv::request::Kind::Scan(scan)) };
    let mut response = cluster
        .local
        .execute(&kv::BatchRequest { header: None, requests: vec![request] })
        .expect("a scan of memory");
    let Some(kv::response::Kind::Scan(scan)) = response.responses.remove(0).kind else {
        panic!("not a scan");
    };
    let mut tables: Vec<u64> =
        scan.rows.iter().filter_map(|r| Some(layout::parse_table_key(&r.key)?.0)).collect();
    tables.dedup();
    tables.len().max(1)
}

#[test]
fn a_gateway_that_died_half_way_is_replaced() {
    let cluster = Cluster::new(2);
    block_on(async {
        let mut session = cluster.session(1);
        run(&mut session, "CREATE TABLE t (id INT PRIMARY KEY)").await.unwrap();
        run(&mut session, "INSERT INTO t VALUES (1)").await.unwrap();
    });
    // Stop the TRUNCATE of gateway 0 after its first step.
    let mut session = cluster.session(0);
    let mut truncate = Box::pin(run(&mut session, "TRUNCATE t"));
    let before = cluster.nodes[1].catalog().version();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    for _ in 0..1000 {
        assert!(truncate.as_mut().poll(&mut cx).is_pending(), "the truncate ended too soon");
        block_on(cluster.nodes[1].catalog().adopt_latest()).unwrap();
        if cluster.nodes[1].catalog().version() > before {
            break;
        }
    }
    assert!(cluster.nodes[1].catalog().version() > before);
    drop(truncate);
    drop(session);
    cluster.down[0].store(true, Ordering::Relaxed);
    // Its record lapses; after a while another node takes over.
    cluster.advance(Duration::from_secs(40));
    block_on(async {
        cluster.heartbeat().await;
        cluster.nodes[1].maintain_catalog().await.unwrap();
        let mut other = cluster.session(1);
        assert!(run(&mut other, "SELECT id FROM t").await.unwrap().rows.is_empty());
        run(&mut other, "INSERT INTO t VALUES (2)").await.unwrap();
        cluster.advance(Duration::from_secs(40));
        cluster.heartbeat().await;
        cluster.nodes[1].maintain_catalog().await.unwrap();
        assert_eq!(ids(&run(&mut other, "SELECT id FROM t").await.unwrap().rows), [2]);
    });
}

#[test]
fn a_gateway_that_was_cut_off_cannot_use_its_old_catalog() {
    let cluster = Cluster::new(2);
    block_on(async {
        let mut session = cluster.session(1);
        run(&mut session, "CREATE TABLE t (id INT PRIMARY KEY)").await.unwrap();
        run(&mut session, "SELECT id FROM t").await.unwrap();
        cluster.down[1].store(true, Ordering::Relaxed);
        cluster.advance(Duration::from_secs(20));
        cluster.heartbeat().await;
        // Without gateway 1 the change goes through.
        let mut other = cluster.session(0);
        run(&mut other, "TRUNCATE t").await.unwrap();
        let error = run(&mut session, "INSERT INTO t VALUES (1)").await.unwrap_err();
        assert_eq!(error.code, SqlState::CANNOT_CONNECT_NOW, "{error:?}");
        // Back again it reads the catalog before it serves.
        cluster.down[1].store(false, Ordering::Relaxed);
        cluster.heartbeat().await;
        run(&mut session, "INSERT INTO t VALUES (2)").await.unwrap();
        assert_eq!(ids(&run(&mut other, "SELECT id FROM t").await.unwrap().rows), [2]);
    });
}

#[test]
fn a_slow_node_is_named() {
    let cluster = Cluster::new(2);
    block_on(async {
        let mut session = cluster.session(0);
        run(&mut session, "CREATE TABLE t (id INT PRIMARY KEY)").await.unwrap();
        // A statement of gateway 1 keeps the old version in use.
        let pinned = cluster.nodes[1].catalog().pin().await.unwrap();
        let error = run(&mut session, "DROP TABLE t").await.unwrap_err();
        assert_eq!(error.code, SqlState::LOCK_NOT_AVAILABLE);
        assert!(error.message.contains("n2"), "{}", error.message);
        drop(pinned);
        // The change goes on once the node has adopted the version.
        cluster.advance(Duration::from_secs(1));
        cluster.heartbeat().await;
        cluster.advance(Duration::from_secs(3));
        cluster.heartbeat().await;
        cluster.nodes[1].maintain_catalog().await.unwrap();
        run(&mut session, "CREATE TABLE t (id INT PRIMARY KEY)").await.unwrap();
    });
}

#[test]
fn statements_are_serializable_across_gateways() {
    for seed in 0..SEEDS {
        let cluster = Cluster::new(u32::try_from(GATEWAYS).unwrap());
        block_on(async {
            let mut session = cluster.session(0);
            run(&mut session, "CREATE TABLE a (id INT PRIMARY KEY, v INT)").await.unwrap();
            run(&mut session, "INSERT INTO a VALUES (1, 0), (2, 0)").await.unwrap();
        });
        let cluster_ref = &cluster;
        let done = &AtomicU64::new(0);
        let mut tasks: Vec<BoxFuture<'_, ()>> = Vec::new();
        for gateway in 0..GATEWAYS {
            tasks.push(
                async move {
                    let mut session = cluster_ref.session(gateway);
                    for _ in 0..5 {
                        let sql = "UPDATE a SET v = (SELECT sum(v) FROM a) + 1 WHERE id = 1";
                        match run(&mut session, sql).await {
                            Ok(_) => {
                                done.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(error) => {
                                assert_eq!(
                                    error.code,
                                    SqlState::SERIALIZATION_FAILURE,
                                    "{error:?}"
                                );
                                assert!(error.message.starts_with(
                                    "restart transaction: TransactionRetryWithProtoRefreshError: "
                                ));
                            }
                        }
                    }
                }
                .boxed(),
            );
        }
        interleave(seed, tasks);
        let value = block_on(async {
            let mut session = cluster.session(0);
            run(&mut session, "SELECT v FROM a WHERE id = 1").await.unwrap().rows[0][0].clone()
        });
        let done = i64::try_from(done.load(Ordering::SeqCst)).unwrap();
        assert_eq!(value, Datum::Int(done), "seed {seed}: an update was lost");
    }
}
