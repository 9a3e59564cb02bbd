//! What statements send to the ranges, batch by batch, and what becomes of a commit whose outcome
//! nobody knows.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crdb_keys::layout;
use crdb_kv::local::LocalSender;
use crdb_kv::{SendError, Sender};
use crdb_proto::kv::{self, request::Kind};
use crdb_sql::{Datum, Session, SqlState, TransactionStatus};
use expect_test::expect;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use harness::{Cluster, block_on, run, turn};
use parking_lot::Mutex;

/// Notes the batches about tables of users.
struct Watch {
    local: Arc<LocalSender>,
    log: Arc<Mutex<Vec<String>>>,
    /// Commits are carried out, and their answer is lost.
    loses_commits: Arc<AtomicBool>,
    /// Commits take until the time of a statement is over.
    delays_commits: Arc<AtomicBool>,
}

fn name(request: &kv::Request) -> Option<(&'static str, &[u8])> {
    Some(match request.kind.as_ref()? {
        Kind::Get(get) if get.lock() == kv::LockStrength::LockNone => ("Get", &get.key),
        Kind::Get(get) => ("LockingGet", &get.key),
        Kind::Scan(scan) if scan.lock() == kv::LockStrength::LockNone => ("Scan", &scan.start),
        Kind::Scan(scan) => ("LockingScan", &scan.start),
        Kind::Put(put) => ("Put", &put.key),
        Kind::ConditionalPut(put) => ("ConditionalPut", &put.key),
        Kind::Delete(delete) => ("Delete", &delete.key),
        Kind::Validate(validate) => ("Validate", &validate.spans.first()?.start),
        Kind::ReleaseLocks(release) => ("ReleaseLocks", &release.start),
        _ => ("other", &[]),
    })
}

impl Sender for Watch {
    fn send(&self, batch: kv::BatchRequest) -> BoxFuture<'_, Result<kv::BatchResponse, SendError>> {
        async move {
            let one_phase = batch.header.as_ref().is_some_and(|header| header.one_phase);
            let named: Vec<_> = batch.requests.iter().filter_map(name).collect();
            let first_table = layout::index_prefix(100, 0);
            if named.iter().all(|(_, key)| **key >= *first_table) {
                let kinds: Vec<_> = named.iter().map(|(kind, _)| *kind).collect();
                let commit = if one_phase { "commit: " } else { "" };
                self.log.lock().push(format!("{commit}{}", kinds.join(" ")));
            }
            if one_phase && self.delays_commits.load(Ordering::SeqCst) {
                for _ in 0..20 {
                    turn().await;
                }
            }
            let answer = self.local.send(batch).await;
            if one_phase && self.loses_commits.load(Ordering::SeqCst) {
                return Err(SendError::Ambiguous { message: "the connection broke".to_owned() });
            }
            answer
        }
        .boxed()
    }
}

struct Watched {
    session: Session,
    other: Session,
    log: Arc<Mutex<Vec<String>>>,
    loses_commits: Arc<AtomicBool>,
    delays_commits: Arc<AtomicBool>,
    /// Has the clock that statements time out by.
    _cluster: Arc<Cluster>,
}

fn watched() -> Watched {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let loses_commits: Arc<AtomicBool> = Arc::default();
    let delays_commits: Arc<AtomicBool> = Arc::default();
    let (notes, loses, delays) =
        (Arc::clone(&log), Arc::clone(&loses_commits), Arc::clone(&delays_commits));
    let cluster = Cluster::over(1, move |local| {
        let (log, loses_commits) = (Arc::clone(&notes), Arc::clone(&loses));
        let delays_commits = Arc::clone(&delays);
        Arc::new(Watch { local, log, loses_commits, delays_commits })
    });
    let (mut session, other) = (cluster.session(0), cluster.session(0));
    block_on(run(&mut session, "CREATE TABLE t (k INT PRIMARY KEY, v INT)")).unwrap();
    block_on(run(&mut session, "CREATE TABLE r (v INT)")).unwrap();
    block_on(run(&mut session, "INSERT INTO t VALUES (1, 10), (2, 20)")).unwrap();
    log.lock().clear();
    Watched { session, other, log, loses_commits, delays_commits, _cluster: cluster }
}

const STATEMENTS: &[&str] = &[
    "SELECT v FROM t WHERE k = 1",
    "SELECT v FROM t WHERE k = 1 FOR UPDATE",
    "INSERT INTO t VALUES (3, 30)",
    "INSERT INTO r VALUES (1)",
    "UPSERT INTO t VALUES (3, 31)",
    "INSERT INTO t VALUES (3, 32) ON CONFLICT (k) DO UPDATE SET v = excluded.v",
    "UPDATE t SET v = v + 1 WHERE k = 1",
    "UPDATE t SET v = v + 1 WHERE v > 20",
    "UPDATE t SET v = v + 1",
    "DELETE FROM t WHERE k = 3",
    "BEGIN",
    "SELECT v FROM t WHERE k = 1",
    "UPDATE t SET v = v + 1 WHERE k = 1",
    "SELECT v FROM t WHERE k = 1",
    "INSERT INTO t VALUES (4, 40)",
    "INSERT INTO r VALUES (2)",
    "COMMIT",
    "BEGIN",
    "SELECT v FROM t WHERE k = 1",
    "COMMIT",
    "BEGIN",
    "UPDATE t SET v = v + 1 WHERE k = 1",
    "ROLLBACK",
];

#[test]
fn a_statement_sends_no_more_than_it_must() {
    let Watched { mut session, log, .. } = watched();
    let mut out = String::new();
    for sql in STATEMENTS {
        block_on(run(&mut session, sql)).unwrap();
        out.push_str(&format!("{sql}\n"));
        for batch in log.lock().drain(..) {
            out.push_str(&format!("    {batch}\n"));
        }
    }
    expect![[r#"
        SELECT v FROM t WHERE k = 1
            Get
        SELECT v FROM t WHERE k = 1 FOR UPDATE
            LockingGet
            ReleaseLocks
        INSERT INTO t VALUES (3, 30)
            commit: ConditionalPut
        INSERT INTO r VALUES (1)
            commit: ConditionalPut
        UPSERT INTO t VALUES (3, 31)
            commit: Put
        INSERT INTO t VALUES (3, 32) ON CONFLICT (k) DO UPDATE SET v = excluded.v
            LockingGet
            commit: Validate Put
        UPDATE t SET v = v + 1 WHERE k = 1
            LockingGet
            commit: Validate Put
        UPDATE t SET v = v + 1 WHERE v > 20
            Scan
            LockingGet
            commit: Validate Put
        UPDATE t SET v = v + 1
            LockingScan
            commit: Validate Put Put Put
        DELETE FROM t WHERE k = 3
            LockingGet
            commit: Validate Delete
        BEGIN
        SELECT v FROM t WHERE k = 1
            Get
        UPDATE t SET v = v + 1 WHERE k = 1
            LockingGet
        SELECT v FROM t WHERE k = 1
        INSERT INTO t VALUES (4, 40)
            LockingGet
        INSERT INTO r VALUES (2)
        COMMIT
            commit: Validate Put ConditionalPut ConditionalPut
        BEGIN
        SELECT v FROM t WHERE k = 1
            Get
        COMMIT
        BEGIN
        UPDATE t SET v = v + 1 WHERE k = 1
            LockingGet
        ROLLBACK
            ReleaseLocks
    "#]]
    .assert_eq(&out);
}

#[test]
fn a_commit_of_unknown_outcome_is_reported_and_not_sent_again() {
    for statements in [
        &["UPDATE t SET v = v + 1 WHERE k = 1"][..],
        &["BEGIN", "UPDATE t SET v = v + 1 WHERE k = 1", "COMMIT"][..],
        &[
            "BEGIN",
            "SAVEPOINT cockroach_restart",
            "UPDATE t SET v = v + 1 WHERE k = 1",
            "RELEASE cockroach_restart",
        ][..],
    ] {
        let Watched { mut session, log, loses_commits, .. } = watched();
        loses_commits.store(true, Ordering::SeqCst);
        let (last, before) = statements.split_last().unwrap();
        for sql in before {
            block_on(run(&mut session, sql)).unwrap();
        }
        let error = block_on(run(&mut session, last)).unwrap_err();
        assert_eq!(error.code, SqlState::COMPLETION_UNKNOWN, "{statements:?}: {error:?}");
        assert_eq!(error.message, "result is ambiguous");
        let commits = log.lock().iter().filter(|batch| batch.starts_with("commit")).count();
        assert_eq!(commits, 1, "{statements:?}: {:?}", log.lock());
        loses_commits.store(false, Ordering::SeqCst);
        assert_eq!(session.status(), TransactionStatus::Idle, "{statements:?}");
        let rows = block_on(run(&mut session, "SELECT v FROM t WHERE k = 1")).unwrap().rows;
        assert_eq!(rows, [vec![crdb_sql::Datum::Int(11)]], "{statements:?}");
    }
}

#[test]
fn a_statement_whose_time_is_over_as_its_commit_is_refused_waits_no_more() {
    let Watched { mut session, mut other, log, delays_commits, _cluster, .. } = watched();
    block_on(async {
        run(&mut other, "BEGIN").await.unwrap();
        run(&mut other, "SELECT v FROM t WHERE k = 1 FOR UPDATE").await.unwrap();
        run(&mut session, "SET statement_timeout = '50ms'").await.unwrap();
        log.lock().clear();
        delays_commits.store(true, Ordering::SeqCst);
        let error = run(&mut session, "UPSERT INTO t VALUES (1, 11)").await.unwrap_err();
        assert_eq!(error.code, SqlState::QUERY_CANCELED);
        assert_eq!(error.message, "canceling statement due to statement timeout");
        assert_eq!(*log.lock(), ["commit: Put"]);
        // The next statement has its own time, and what commits in spite of it has committed.
        run(&mut other, "ROLLBACK").await.unwrap();
        run(&mut session, "UPSERT INTO t VALUES (1, 12)").await.unwrap();
    });
}

#[test]
fn a_commit_at_the_end_of_a_batch_takes_no_longer_than_a_statement() {
    let Watched { mut session, mut other, _cluster, .. } = watched();
    block_on(async {
        run(&mut other, "BEGIN").await.unwrap();
        run(&mut other, "SELECT v FROM t WHERE k = 1 FOR UPDATE").await.unwrap();
        run(&mut session, "SET statement_timeout = '50ms'").await.unwrap();
        let cancel = session.cancel_flag();
        let upsert = crdb_sqlfront::parse("UPSERT INTO t VALUES (1, 11)").unwrap().remove(0);
        let prepared = Arc::new(session.prepare(&Arc::new(upsert), &[]).await.unwrap());
        session.execute(&prepared, &[], &cancel, false).await.unwrap();
        let error = session.finish(&cancel).await.unwrap_err();
        assert_eq!(error.code, SqlState::QUERY_CANCELED);
        assert_eq!(error.message, "canceling statement due to statement timeout");
        assert_eq!(session.status(), TransactionStatus::Idle);
        // It had no effect, and left no lock.
        run(&mut other, "COMMIT").await.unwrap();
        run(&mut other, "BEGIN").await.unwrap();
        run(&mut other, "UPDATE t SET v = v + 1 WHERE k = 1").await.unwrap();
        run(&mut other, "COMMIT").await.unwrap();
        let rows = run(&mut session, "SELECT v FROM t WHERE k = 1").await.unwrap().rows;
        assert_eq!(rows, [[Datum::Int(11)]]);
    });
}
