//! Bounds that users meet: what is too large is refused with the bound and the row, and what is only
//! large in all needs no memory for all of it.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod harness;

use std::sync::Arc;

use crdb_sql::{CancelFlag, Datum, Limits, Session, SqlError, SqlState};
use crdb_sqlfront::ast::Statement;
use harness::{Cluster, block_on, run};

/// A session with a table, under bounds of the test's own.
fn session(limits: Limits) -> (Arc<Cluster>, Session) {
    let bounds = (limits, crdb_kv::Limits::default());
    let cluster = Cluster::with(1, bounds, |local| local);
    let mut session = cluster.session(0);
    block_on(run(&mut session, "CREATE TABLE m (k INT PRIMARY KEY, v STRING)")).unwrap();
    block_on(run(&mut session, "CREATE TABLE s (k STRING PRIMARY KEY, v INT)")).unwrap();
    (cluster, session)
}

fn rows(session: &mut Session, sql: &str) -> Vec<Vec<Datum>> {
    block_on(run(session, sql)).unwrap_or_else(|error| panic!("{sql}: {error:?}")).rows
}

fn number(session: &mut Session, sql: &str) -> i64 {
    match rows(session, sql).first().and_then(|row| row.first()) {
        Some(Datum::Int(number)) => *number,
        other => panic!("{sql}: {other:?}"),
    }
}

/// Copies lines into a table.
async fn copy(session: &mut Session, sql: &str, data: &[u8]) -> Result<String, SqlError> {
    let parsed = crdb_sqlfront::parse(sql).unwrap().remove(0);
    let Statement::Copy(copy) = &parsed.statement else { panic!("not a COPY: {sql}") };
    let flag = CancelFlag::new();
    let mut rows = session.copy_in(copy).await?;
    for piece in data.chunks(1 << 16) {
        if let Err(error) = session.copy_data(&mut rows, piece, &flag).await {
            session.fail().await;
            return Err(error);
        }
    }
    let tag = session.copy_done(rows, &flag).await?.tag;
    session.finish(&flag).await?;
    Ok(tag)
}

fn is_too_large(error: &SqlError, message: &str, detail: &str) {
    assert_eq!(error.code, SqlState::PROGRAM_LIMIT, "{error:?}");
    assert_eq!(error.message, message, "{error:?}");
    assert_eq!(error.fields().detail.as_deref(), Some(detail), "{error:?}");
}

#[test]
fn a_row_beyond_the_bound_is_named_however_it_is_written() {
    let (_cluster, mut session) = session(Limits { row_bytes: 1000, ..Limits::default() });
    rows(&mut session, "INSERT INTO m VALUES (1, 'a'), (2, 'b')");
    for sql in [
        "INSERT INTO m VALUES (7, repeat('x', 1000))",
        "INSERT INTO m SELECT g, repeat('x', 143 * g) FROM generate_series(3, 9) AS g",
        "UPSERT INTO m VALUES (7, repeat('x', 1000))",
        "UPSERT INTO m SELECT 7, repeat('x', 1000)",
        "INSERT INTO m VALUES (7, repeat('x', 1000)) ON CONFLICT DO NOTHING",
        "INSERT INTO m VALUES (1, 'x') ON CONFLICT (k) DO UPDATE SET k = 7, v = repeat('x', 1000)",
        "UPDATE m SET k = 7, v = repeat('x', 1000) WHERE k = 1",
        "UPDATE m SET k = 7, v = repeat('x', 1000) FROM (SELECT 1 AS j) q WHERE k = j",
    ] {
        let error = block_on(run(&mut session, sql)).unwrap_err();
        let limit = "row of table \"m\" is 1010 bytes, more than the limit of 1000";
        if sql.contains("143") {
            assert!(error.message.ends_with("more than the limit of 1000"), "{error:?}");
        } else {
            assert_eq!(error.message, limit, "{sql}");
        }
        is_too_large(&error, &error.message, "Key (k)=(7)");
    }
    for sql in [
        "UPDATE m SET v = repeat('x', 1000) WHERE k = 1",
        "UPDATE m SET v = repeat('x', 1000)",
        "UPDATE m SET v = repeat('x', 1000) FROM (SELECT 1 AS j) q WHERE k = j",
        "INSERT INTO m VALUES (1, 'x') ON CONFLICT (k) DO UPDATE SET v = repeat('x', 1000)",
    ] {
        let error = block_on(run(&mut session, sql)).unwrap_err();
        let limit = "row of table \"m\" is 1010 bytes, more than the limit of 1000";
        is_too_large(&error, limit, "Key (k)=(1)");
    }
    let line = format!("3\tok\n7\t{}\n", "x".repeat(1000));
    let error = block_on(copy(&mut session, "COPY m FROM STDIN", line.as_bytes())).unwrap_err();
    is_too_large(&error, &error.message, "Key (k)=(7)");
    assert!(error.fields().context.is_some(), "{error:?}");
    let all = rows(&mut session, "SELECT k, v FROM m ORDER BY k");
    assert_eq!(all.len(), 2, "{all:?}");
}

#[test]
fn a_key_beyond_the_bound_is_named_however_it_is_written() {
    let (_cluster, mut session) = session(Limits::default());
    rows(&mut session, "INSERT INTO s VALUES ('a', 1)");
    rows(&mut session, "INSERT INTO s VALUES (repeat('y', 4000), 2)");
    rows(&mut session, "CREATE TABLE h (v STRING NOT NULL)");
    rows(&mut session, "INSERT INTO h VALUES (repeat('x', 5000))");
    let limit = |bytes, table| {
        format!("primary key of table \"{table}\" is {bytes} bytes, more than the limit of 4096")
    };
    let detail = |column| format!("Key ({column})=({}…)", "x".repeat(100));
    for sql in [
        "INSERT INTO s VALUES (repeat('x', 5000), 1)",
        "INSERT INTO s SELECT repeat('x', 5000), g FROM generate_series(1, 1) AS g",
        "UPSERT INTO s VALUES (repeat('x', 5000), 1)",
        "UPDATE s SET k = repeat('x', 5000) WHERE k = 'a'",
        "INSERT INTO s VALUES ('a', 1) ON CONFLICT (k) DO UPDATE SET k = repeat('x', 5000)",
    ] {
        let error = block_on(run(&mut session, sql)).unwrap_err();
        is_too_large(&error, &limit(5007, "s"), &detail("k"));
    }
    let sql = "ALTER TABLE h ADD PRIMARY KEY (v)";
    let error = block_on(run(&mut session, sql)).unwrap_err();
    assert_eq!(error.code, SqlState::PROGRAM_LIMIT, "{error:?}");
    assert_eq!(error.fields().detail, Some(detail("v")), "{error:?}");
    assert_eq!(number(&mut session, "SELECT count(*) FROM h"), 1, "the table is as it was");
    // What no row can have, nobody need look for.
    assert_eq!(number(&mut session, "SELECT count(*) FROM s WHERE k = repeat('x', 5000)"), 0);
    assert_eq!(number(&mut session, "SELECT count(*) FROM s"), 2);
}

#[test]
fn rows_of_many_times_the_memory_are_written_changed_and_deleted() {
    let limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
    let (_cluster, mut session) = session(limits);
    let steps = [
        ("INSERT INTO m SELECT g, repeat('x', 20000) FROM generate_series(1, 1000) AS g", 1000),
        ("UPDATE m SET v = repeat('y', 20000)", 1000),
        ("UPDATE m SET v = v || 'z' WHERE v LIKE 'y%'", 1000),
        ("UPDATE m SET v = v || (SELECT 'w') WHERE k > (SELECT 500)", 500),
        ("UPSERT INTO m SELECT g, repeat('u', 20000) FROM generate_series(501, 1500) AS g", 1000),
        (
            "INSERT INTO m SELECT g, 'c' FROM generate_series(1001, 2000) AS g \
             ON CONFLICT (k) DO UPDATE SET v = repeat('d', 20000)",
            1000,
        ),
        (
            "INSERT INTO m SELECT g, repeat('e', 20000) FROM generate_series(1801, 2100) AS g \
             ON CONFLICT DO NOTHING",
            100,
        ),
        ("INSERT INTO m (k) SELECT g FROM generate_series(1, 2100) AS g ON CONFLICT DO NOTHING", 0),
    ];
    for (sql, count) in steps {
        let tag = block_on(run(&mut session, sql)).unwrap_or_else(|e| panic!("{sql}: {e:?}")).tag;
        assert!(tag.ends_with(&format!(" {count}")), "{sql}: {tag}");
    }
    let sum = "SELECT sum(length(v))::INT FROM m WHERE v LIKE ";
    for (like, rows) in [("'y%z'", 500), ("'u%'", 500), ("'d%'", 500), ("'c'", 500), ("'e%'", 100)]
    {
        let bytes = match like {
            "'y%z'" => 20_001,
            "'c'" => 1,
            _ => 20_000,
        };
        assert_eq!(number(&mut session, &format!("{sum}{like}")), rows * bytes, "{like}");
    }
    let error = block_on(run(&mut session, "UPDATE m SET v = 'n' RETURNING k, repeat('r', 20000)"));
    assert_eq!(error.unwrap_err().code, SqlState::OUT_OF_MEMORY);
    let returned = rows(&mut session, "UPDATE m SET v = 'n' WHERE k > 2000 RETURNING k, length(v)");
    assert_eq!(returned.len(), 100);
    let returned = rows(&mut session, "DELETE FROM m WHERE k > 2000 RETURNING k");
    assert_eq!(returned.len(), 100);
    rows(&mut session, "DELETE FROM m WHERE k > 10");
    assert_eq!(number(&mut session, "SELECT count(*) FROM m"), 10);
}

#[test]
fn a_copy_of_many_times_the_memory_is_whole_or_not_at_all() {
    let limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
    let (_cluster, mut session) = session(limits);
    let mut data = Vec::new();
    for k in 0..1000 {
        data.extend_from_slice(format!("{k}\t{}\n", "x".repeat(20_000)).as_bytes());
    }
    let mut broken = data.clone();
    broken.extend_from_slice(b"7\tx\n");
    let error = block_on(copy(&mut session, "COPY m FROM STDIN", &broken)).unwrap_err();
    assert_eq!(error.code, SqlState::UNIQUE_VIOLATION, "{error:?}");
    assert_eq!(number(&mut session, "SELECT count(*) FROM m"), 0);
    let tag = block_on(copy(&mut session, "COPY m FROM STDIN", &data)).unwrap();
    assert_eq!(tag, "COPY 1000");
    assert_eq!(number(&mut session, "SELECT sum(length(v))::INT FROM m"), 20_000_000);
}

#[test]
fn descriptors_beyond_one_command_are_refused() {
    let limits = Limits { schema_change_bytes: 2000, ..Limits::default() };
    let (_cluster, mut session) = session(limits);
    let sql = format!("CREATE TABLE d (v STRING DEFAULT '{}')", "x".repeat(3000));
    let error = block_on(run(&mut session, &sql)).unwrap_err();
    assert_eq!(error.code, SqlState::PROGRAM_LIMIT, "{error:?}");
    assert!(error.message.ends_with("more than the limit of 2000"), "{error:?}");
    rows(&mut session, "CREATE TABLE d (v STRING DEFAULT 'x')");
}

#[test]
fn a_range_is_split_at_any_key_that_a_row_may_have() {
    let (_cluster, mut session) = session(Limits::default());
    rows(&mut session, "ALTER TABLE s SPLIT AT VALUES (repeat('y', 4000))");
    assert_eq!(rows(&mut session, "SELECT * FROM [SHOW RANGES FROM TABLE s]").len(), 2);
    let sql = "ALTER TABLE s SPLIT AT VALUES (repeat('y', 5000))";
    let error = block_on(run(&mut session, sql)).unwrap_err();
    assert_eq!(error.code, SqlState::PROGRAM_LIMIT, "{error:?}");
    let limit = "SPLIT AT: a key of table \"s\" is 5006 bytes, more than the limit of 4096";
    assert_eq!(error.message, limit);
}

#[test]
fn all_locks_are_listed_however_few_one_request_asks_for() {
    for locks_asked in [1, 2, 3, 1000] {
        let (cluster, mut session) = session(Limits { locks_asked, ..Limits::default() });
        rows(&mut session, "INSERT INTO m VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')");
        let mut holders: Vec<Session> = (0..3).map(|_| cluster.session(0)).collect();
        for holder in &mut holders {
            rows(holder, "BEGIN");
            rows(holder, "SELECT * FROM m WHERE k IN (2, 3) FOR SHARE");
        }
        rows(&mut session, "BEGIN");
        rows(&mut session, "SELECT * FROM m WHERE k = 4 FOR UPDATE");
        let mut other = cluster.session(0);
        let listed = number(&mut other, "SELECT count(*) FROM crdb_internal.cluster_locks");
        assert_eq!(listed, 7, "{locks_asked} asked for at a time");
    }
}

#[test]
fn a_transaction_runs_again_by_itself_while_its_statements_are_kept() {
    let production = Limits::default();
    for (limits, again) in [
        (production, true),
        (Limits { log_steps: 1, ..production }, false),
        (Limits { log_bytes: 100, ..production }, false),
        (Limits { retries: 0, ..production }, false),
    ] {
        let (cluster, mut session) = session(limits);
        rows(&mut session, "INSERT INTO m VALUES (1, 'a'), (2, 'b')");
        rows(&mut session, "BEGIN");
        assert_eq!(number(&mut session, "SELECT count(*) FROM m"), 2);
        // What it has read changes, what it was told does not.
        rows(&mut cluster.session(0), "UPDATE m SET v = 'c' WHERE k = 1");
        rows(&mut session, "UPDATE m SET v = 'd' WHERE k = 2");
        let ended = block_on(run(&mut session, "COMMIT"));
        match ended.map(|result| result.tag) {
            Ok(tag) => assert!(again && tag == "COMMIT", "{limits:?}: {tag}"),
            Err(error) => {
                assert!(!again, "{limits:?}: {error:?}");
                assert_eq!(error.code, SqlState::SERIALIZATION_FAILURE, "{error:?}");
            }
        }
        let changed = number(&mut session, "SELECT count(*) FROM m WHERE v = 'd'");
        assert_eq!(changed, i64::from(again), "{limits:?}");
    }
}
