//! Transactions that reach the bounds of gateway and range, most of them drawn so small that a few
//! short writes do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::{Limits, SendError, Sender};

/// Lets so many batches through, and then none; or has the range split then, and goes on.
struct Stops {
    inner: LocalSender,
    left: AtomicUsize,
    split: Mutex<Option<&'static str>>,
}

impl Sender for Stops {
    fn send(
        &self,
        batch: BatchRequest,
    ) -> BoxFuture<'_, Result<crdb_proto::kv::BatchResponse, SendError>> {
        Box::pin(async move {
            let left = self.left.load(Ordering::Relaxed);
            if left == 0
                && let Some(at) = self.split.lock().take()
            {
                split(&self.inner, at, 60);
                self.left.store(usize::MAX, Ordering::Relaxed);
            } else if left == 0 {
                // As if the process were gone: nothing of what follows happens.
                return Err(SendError::Unavailable { message: "stopped".to_owned() });
            }
            self.left.fetch_sub(1, Ordering::Relaxed);
            self.inner.send(batch).await
        })
    }
}

struct Bounded {
    wall: Arc<ManualClock>,
    local: LocalSender,
    gateway: Arc<Stops>,
    client: TxnClient,
    /// Another node's, with bounds of production.
    other: TxnClient,
}

/// Two ranges behind a gateway with these bounds.
fn bounded(storage: crdb_storage::Limits, limits: Limits) -> Bounded {
    let wall = Arc::new(ManualClock::new(1_000_000_000));
    let clock = Clock::new(Arc::clone(&wall) as _, Duration::from_millis(500));
    let local = LocalSender::with_limits(clock.clone(), storage, limits);
    split(&local, "k5", 50);
    let left = AtomicUsize::new(usize::MAX);
    let gateway = Arc::new(Stops { inner: local.clone(), left, split: Mutex::default() });
    let client = TxnClient::new(TxnClientConfig {
        sender: Arc::clone(&gateway) as _,
        clock: clock.clone(),
        node_id: NodeId(1),
        seed: 7,
        limits,
    });
    let other = TxnClient::new(TxnClientConfig {
        sender: Arc::new(local.clone()),
        clock,
        node_id: NodeId(1),
        seed: 8,
        limits: Limits::default(),
    });
    Bounded { wall, local, gateway, client, other }
}

type Rows = BTreeMap<String, String>;

/// All rows, as a client without bounds reads them.
async fn all(client: &TxnClient) -> Rows {
    let mut txn = client.begin(TxnOptions::default());
    contents(&mut txn).await.unwrap()
}

async fn contents(txn: &mut Txn) -> Result<Rows, TxnError> {
    let read = txn.read(vec![scan(ScanRequest::default())], ReadOptions::default()).await?;
    match read.into_iter().next().unwrap().kind.unwrap() {
        response::Kind::Scan(scan) => {
            assert_eq!(scan.resume, None);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            Ok(scan.rows.iter().map(|row| (text(&row.key[1..]), text(&row.value))).collect())
        }
        other => panic!("not a scan: {other:?}"),
    }
}

async fn put(txn: &mut Txn, name: &str, value: &str) -> Result<(), TxnError> {
    match txn.put(key(name), value.to_owned().into()) {
        Err(TxnError::BufferFull) => {
            txn.flush().await?;
            txn.put(key(name), value.to_owned().into())
        }
        outcome => outcome,
    }
}

/// As where rows were lost: a range resolves a part of what it is asked for.
fn parts() -> (crdb_storage::Limits, Limits) {
    let storage = crdb_storage::Limits { resolve_bytes: 300, ..crdb_storage::Limits::default() };
    let limits = Limits { buffer_bytes: 500, cleanup_requests: 7, ..Limits::default() };
    (storage, limits)
}

#[tokio::test]
async fn a_large_transaction_is_whole_wherever_its_clean_up_ends() {
    let (storage, limits) = parts();
    let expected: Rows = (0..40).map(|n| (format!("k{n:02}"), "x".repeat(n))).collect();
    let mut steps = 0;
    loop {
        let world = bounded(storage, limits);
        let mut txn = world.client.begin(TxnOptions::default());
        for (name, value) in &expected {
            put(&mut txn, name, value).await.unwrap();
        }
        txn.flush().await.unwrap();
        // The commit is one batch; nobody works in the background, so its clean-up follows it.
        world.gateway.left.store(1 + steps, Ordering::Relaxed);
        txn.commit().await.unwrap();
        let stopped = world.gateway.left.load(Ordering::Relaxed) == 0;
        world.wall.advance(Duration::from_secs(10));
        assert_eq!(all(&world.other).await, expected, "after {steps} steps");
        if !stopped {
            break;
        }
        steps += 1;
    }
    assert!(steps > 5, "the clean-up took {steps} batches: no bound was reached");
}

#[tokio::test]
async fn a_large_transaction_is_whole_whenever_its_range_splits() {
    let (storage, limits) = parts();
    let expected: Rows = (0..40).map(|n| (format!("k{n:02}"), "x".repeat(n))).collect();
    for steps in 0..30 {
        let world = bounded(storage, limits);
        // From the first write on: flushes, commit, clean-up.
        *world.gateway.split.lock() = Some("k17");
        world.gateway.left.store(steps, Ordering::Relaxed);
        let mut txn = world.client.begin(TxnOptions::default());
        for (name, value) in &expected {
            put(&mut txn, name, value).await.unwrap();
        }
        txn.commit().await.unwrap();
        assert_eq!(all(&world.other).await, expected, "split after {steps} steps");
    }
}

#[tokio::test]
async fn nothing_of_a_large_rollback_stays_wherever_it_ends() {
    let (storage, limits) = parts();
    let mut steps = 0;
    loop {
        let world = bounded(storage, limits);
        let mut txn = world.client.begin(TxnOptions::default());
        for n in 0..40 {
            put(&mut txn, &format!("k{n:02}"), "value").await.unwrap();
        }
        txn.flush().await.unwrap();
        world.gateway.left.store(steps, Ordering::Relaxed);
        txn.rollback().await;
        let stopped = world.gateway.left.load(Ordering::Relaxed) == 0;
        world.wall.advance(Duration::from_secs(10));
        assert_eq!(all(&world.other).await, Rows::new(), "after {steps} steps");
        if !stopped {
            break;
        }
        steps += 1;
    }
    assert!(steps > 5, "the clean-up took {steps} batches: no bound was reached");
}

#[tokio::test]
async fn a_large_part_is_taken_back_to_a_savepoint() {
    let (storage, limits) = parts();
    let world = bounded(storage, limits);
    let mut txn = world.client.begin(TxnOptions::default());
    let expected: Rows = (0..30).map(|n| (format!("k{n:02}"), "first".to_owned())).collect();
    for (name, value) in &expected {
        put(&mut txn, name, value).await.unwrap();
    }
    txn.flush().await.unwrap();
    let savepoint = txn.savepoint();
    for n in 10..60 {
        put(&mut txn, &format!("k{n:02}"), "second").await.unwrap();
    }
    txn.flush().await.unwrap();
    txn.rollback_to(savepoint).await.unwrap();
    assert_eq!(contents(&mut txn).await.unwrap(), expected);
    txn.commit().await.unwrap();
    assert_eq!(all(&world.other).await, expected);
}

#[tokio::test]
async fn a_read_over_a_large_footprint_finds_that_the_transaction_was_aborted() {
    let (storage, _) = parts();
    let limits = Limits { footprint_bytes: 1, buffer_bytes: 100, ..Limits::default() };
    let world = bounded(storage, limits);
    let mut txn = world.client.begin(TxnOptions::default());
    for n in 0..20 {
        put(&mut txn, &format!("k{n:02}"), "value").await.unwrap();
    }
    txn.flush().await.unwrap();
    assert_eq!(contents(&mut txn).await.unwrap().len(), 20);
    // Nothing is heard of it for long, and whoever is held up removes it.
    world.wall.advance(Duration::from_secs(10));
    assert_eq!(all(&world.other).await, Rows::new());
    let error = contents(&mut txn).await.unwrap_err();
    assert!(matches!(error, TxnError::Retry { cause: RetryCause::Aborted(_) }), "{error:?}");
    let error = value(&mut txn, "k07").await.unwrap_err();
    assert!(matches!(error, TxnError::Retry { cause: RetryCause::Aborted(_) }), "{error:?}");
}

#[tokio::test]
async fn a_commit_over_ranges_of_more_than_a_record_lists_lays_its_intents_before() {
    let limits = Limits { in_flight_keys: 5, one_phase_bytes: 1 << 20, ..Limits::default() };
    let world = bounded(crdb_storage::Limits::default(), limits);
    for (keys, info) in [(4, (CommitKind::Parallel, 1)), (40, (CommitKind::Parallel, 1))] {
        let mut txn = world.client.begin(TxnOptions::default());
        for n in 0..keys {
            put(&mut txn, &format!("k{}{n:02}", n % 10 * 3 % 10), "value").await.unwrap();
        }
        let flushes = world.client.counts().flushes;
        let done = txn.commit().await.unwrap();
        assert_eq!((done.kind, done.rounds), info);
        assert_eq!(world.client.counts().flushes > flushes, keys > 5);
    }
}

/// What a transaction does beside the store, for comparison.
struct Model {
    rows: Rows,
    savepoints: Vec<(SavepointId, Rows)>,
}

/// One transaction of random steps; whether it committed. What it reads is what the model holds.
async fn random_txn(rng: &mut StdRng, world: &Bounded, committed: &mut Rows) {
    let isolation = match rng.random_bool(0.5) {
        true => crdb_proto::kv::Isolation::Serializable,
        false => crdb_proto::kv::Isolation::ReadCommitted,
    };
    let mut txn = world.client.begin(TxnOptions { isolation, ..TxnOptions::default() });
    let mut model = Model { rows: committed.clone(), savepoints: Vec::new() };
    for _ in 0..rng.random_range(1..30) {
        let name = format!("k{:02}", rng.random_range(0..60));
        match rng.random_range(0..10) {
            0..5 => {
                let value = "v".repeat(rng.random_range(0..40)) + &name;
                put(&mut txn, &name, &value).await.unwrap();
                model.rows.insert(name, value);
            }
            5 => {
                if let Err(TxnError::BufferFull) = txn.delete(key(&name)) {
                    txn.flush().await.unwrap();
                    txn.delete(key(&name)).unwrap();
                }
                model.rows.remove(&name);
            }
            6 => {
                let savepoint = txn.savepoint();
                model.savepoints.push((savepoint, model.rows.clone()));
            }
            7 if !model.savepoints.is_empty() => {
                let at = rng.random_range(0..model.savepoints.len());
                model.savepoints.truncate(at + 1);
                let (savepoint, rows) = model.savepoints.last().unwrap();
                txn.rollback_to(*savepoint).await.unwrap();
                model.rows = rows.clone();
            }
            7 => txn.flush().await.unwrap(),
            8 => assert_eq!(value(&mut txn, &name).await.unwrap(), model.rows.get(&name).cloned()),
            _ => {
                txn.begin_statement();
                assert_eq!(paged(&mut txn, rng).await, model.rows);
            }
        }
    }
    if rng.random_bool(0.8) {
        txn.commit().await.unwrap();
        *committed = model.rows;
    } else {
        txn.rollback().await;
    }
}

/// All rows, by scans with bounds or without, in either direction.
async fn paged(txn: &mut Txn, rng: &mut StdRng) -> Rows {
    let mut rows = Rows::new();
    let (mut start, mut end) = (key("a"), key("z"));
    let reverse = rng.random_bool(0.3);
    loop {
        let page = ScanRequest {
            start: start.clone(),
            end: end.clone(),
            max_rows: rng.random_range(0..4),
            max_bytes: rng.random_range(0..3) * 50,
            reverse,
            ..ScanRequest::default()
        };
        let request = Request { kind: Some(request::Kind::Scan(page)) };
        let read = txn.read(vec![request], ReadOptions::default()).await.unwrap();
        let Some(response::Kind::Scan(page)) = read.into_iter().next().unwrap().kind else {
            panic!("not a scan")
        };
        for row in page.rows {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            rows.insert(text(&row.key[1..]), text(&row.value));
        }
        let Some(rest) = page.resume else { return rows };
        (start, end) = (rest.start, rest.end);
    }
}

#[tokio::test]
async fn whatever_the_bounds_a_transaction_is_whole_and_reads_what_it_wrote() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut below = |number: u64| rng.random_range(0..number);
        let storage = crdb_storage::Limits::draw(&mut below);
        let limits = Limits::draw(&mut below);
        println!("seed {seed}: storage {}; kv {}", storage.changed(), limits.changed());
        let world = bounded(storage, limits);
        let mut committed = Rows::new();
        for _ in 0..8 {
            random_txn(&mut rng, &world, &mut committed).await;
            assert_eq!(all(&world.other).await, committed);
        }
        drop(world.local);
    }
}

/// Validations take so long that others read what is written meanwhile, at the present.
struct SlowRefresh {
    inner: LocalSender,
    wall: Arc<ManualClock>,
    other: TxnClient,
}

impl Sender for SlowRefresh {
    fn send(
        &self,
        batch: BatchRequest,
    ) -> BoxFuture<'_, Result<crdb_proto::kv::BatchResponse, SendError>> {
        Box::pin(async move {
            let is_validation =
                |request: &Request| matches!(request.kind, Some(request::Kind::Validate(_)));
            let validates = batch.requests.iter().all(is_validation);
            let answer = self.inner.send(batch).await;
            if validates {
                self.wall.advance(Duration::from_millis(600));
                // Unless it is laid by now.
                drop(
                    self.other.begin(TxnOptions::default()).read(vec![get("k01")], nowait()).await,
                );
            }
            answer
        })
    }
}

#[tokio::test]
async fn a_commit_whose_refresh_takes_long_is_not_pushed_again_and_again() {
    let world = bounded(crdb_storage::Limits::default(), Limits::default());
    let (inner, wall) = (world.local.clone(), Arc::clone(&world.wall));
    let sender = SlowRefresh { inner, wall, other: world.other.clone() };
    let client = TxnClient::new(TxnClientConfig {
        sender: Arc::new(sender),
        clock: world.local.clock().clone(),
        node_id: NodeId(1),
        seed: 9,
        limits: Limits::default(),
    });
    let mut txn = client.begin(TxnOptions::default());
    assert_eq!(contents(&mut txn).await.unwrap(), Rows::new());
    put(&mut txn, "k00", "laid before").await.unwrap();
    txn.flush().await.unwrap();
    put(&mut txn, "k01", "with the commit").await.unwrap();
    put(&mut txn, "k99", "in another range").await.unwrap();
    world.wall.advance(Duration::from_secs(1));
    assert_eq!(value(&mut world.other.begin(TxnOptions::default()), "k01").await.unwrap(), None);
    let info = txn.commit().await.unwrap();
    assert_eq!(info.kind, CommitKind::Parallel);
    assert_eq!(all(&world.other).await.len(), 3);
}
