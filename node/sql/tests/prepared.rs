//! Prepared statements: inferred parameters, reuse across schema changes, cancelling, timeouts.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod harness;

use std::sync::Arc;
use std::time::Duration;

use crdb_sql::{CancelFlag, Datum, SqlState, SqlType};
use harness::{Cluster, block_on, run, run_params, show};

fn parsed(sql: &str) -> Arc<crdb_sqlfront::Parsed> {
    Arc::new(crdb_sqlfront::parse(sql).unwrap().remove(0))
}

#[test]
fn parameters_are_inferred() {
    let cluster = Cluster::new(1);
    let mut session = cluster.session(0);
    block_on(async {
        run(&mut session, "CREATE TABLE t (id INT PRIMARY KEY, s STRING, d DECIMAL)")
            .await
            .unwrap();
        for (sql, types) in [
            ("SELECT * FROM t WHERE id = $1", vec![SqlType::Int8]),
            (
                "INSERT INTO t VALUES ($1, $2, $3)",
                vec![SqlType::Int8, SqlType::Text, SqlType::Numeric],
            ),
            ("SELECT id FROM t WHERE s LIKE $1 LIMIT $2", vec![SqlType::Text, SqlType::Int8]),
            ("SELECT $1::INT4 + 1", vec![SqlType::Int4]),
            ("SELECT id FROM t WHERE id = ANY($1)", vec![SqlType::Array(&SqlType::Int8)]),
            ("SELECT id FROM t WHERE id IN ($1, $2)", vec![SqlType::Int8, SqlType::Int8]),
            ("UPDATE t SET s = $1 WHERE id = $2", vec![SqlType::Text, SqlType::Int8]),
            ("SELECT $1", vec![SqlType::Text]),
            ("SELECT upper($1)", vec![SqlType::Text]),
            ("SELECT coalesce($1, 5)", vec![SqlType::Int8]),
            ("SELECT CASE WHEN $1 THEN 1 END", vec![SqlType::Bool]),
        ] {
            let prepared = Arc::new(session.prepare(&parsed(sql), &[]).await.unwrap());
            assert_eq!(prepared.param_types, types, "{sql}");
        }
        // A column that shows a parameter has the type the parameter got elsewhere.
        for sql in ["SELECT $1, $1::INT8", "SELECT $1 AS a, $1::INT8 ORDER BY 2 LIMIT 1"] {
            let prepared = Arc::new(session.prepare(&parsed(sql), &[]).await.unwrap());
            assert_eq!(prepared.param_types, [SqlType::Int8], "{sql}");
            let columns = prepared.columns.as_ref().unwrap();
            let types: Vec<u32> = columns.iter().map(|column| column.ty.oid()).collect();
            assert_eq!(types, [SqlType::Int8.oid(); 2], "{sql}");
        }
        // What the client says wins.
        let prepared =
            Arc::new(session.prepare(&parsed("SELECT $1"), &[SqlType::Int4.oid()]).await.unwrap());
        assert_eq!(prepared.param_types, [SqlType::Int4]);
        let error =
            session.prepare(&parsed("SELECT $1 IS NULL, $2"), &[999_999]).await.unwrap_err();
        assert_eq!(error.code, SqlState::UNDEFINED_OBJECT);
    });
}

#[test]
fn parameters_select_keys() {
    let cluster = Cluster::new(1);
    let mut session = cluster.session(0);
    block_on(async {
        run(&mut session, "CREATE TABLE t (id INT PRIMARY KEY, s STRING)").await.unwrap();
        for id in ["1", "2", "3"] {
            run_params(&mut session, "INSERT INTO t VALUES ($1, $2)", &[Some(id), None])
                .await
                .unwrap();
        }
        let result = run_params(
            &mut session,
            "SELECT id FROM t WHERE id = ANY($1)",
            &[Some("{3,1,7,NULL}")],
        )
        .await;
        assert_eq!(show(&session, &result), "id:int8\n1\n3\nSELECT 2\n");
        let result = run_params(&mut session, "SELECT id FROM t WHERE id = $1", &[None]).await;
        assert_eq!(show(&session, &result), "id:int8\nSELECT 0\n");
        let result = run_params(
            &mut session,
            "SELECT id FROM t WHERE id >= $1 LIMIT $2",
            &[Some("2"), Some("1")],
        )
        .await;
        assert_eq!(show(&session, &result), "id:int8\n2\nSELECT 1\n");
    });
}

#[test]
fn plans_follow_the_catalog() {
    let cluster = Cluster::new(2);
    block_on(async {
        let (mut a, mut b) = (cluster.session(0), cluster.session(1));
        run(&mut a, "CREATE TABLE t (id INT PRIMARY KEY, s STRING)").await.unwrap();
        run(&mut a, "INSERT INTO t VALUES (1, 'x')").await.unwrap();
        let prepared =
            Arc::new(b.prepare(&parsed("SELECT * FROM t WHERE id = $1"), &[]).await.unwrap());
        let one = [Datum::Int(1)];
        let cancel = CancelFlag::new();
        assert_eq!(b.execute(&prepared, &one, &cancel, true).await.unwrap().rows.len(), 1);
        run(&mut a, "TRUNCATE t").await.unwrap();
        assert_eq!(b.execute(&prepared, &one, &cancel, true).await.unwrap().rows.len(), 0);
        run(&mut a, "DROP TABLE t").await.unwrap();
        let error = b.execute(&prepared, &one, &cancel, true).await.unwrap_err();
        assert_eq!(error.code, SqlState::UNDEFINED_TABLE);
        run(&mut a, "CREATE TABLE t (id INT PRIMARY KEY, s INT)").await.unwrap();
        let error = b.execute(&prepared, &one, &cancel, true).await.unwrap_err();
        assert_eq!(error.message, "cached plan must not change result type");
        // The wrong number of parameters is the client's mistake.
        let error = b.execute(&prepared, &[], &cancel, true).await.unwrap_err();
        assert_eq!(error.code, SqlState("08P01"));
    });
}

#[test]
fn texts_are_recalled_while_they_hold() {
    let cluster = Cluster::new(2);
    block_on(async {
        let (mut a, mut b) = (cluster.session(0), cluster.session(0));
        let mut elsewhere = cluster.session(1);
        run(&mut a, "CREATE TABLE t (id INT PRIMARY KEY, s STRING)").await.unwrap();
        run(&mut a, "INSERT INTO t VALUES (1, 'x')").await.unwrap();
        let sql = "SELECT s FROM t WHERE id = 1";
        assert!(a.recall(sql, &[]).is_none());
        let prepared = Arc::new(a.prepare(&parsed(sql), &[]).await.unwrap());
        a.keep(sql, &[], &prepared);
        // Any session of the node finds it, but not with other types or settings.
        let cancel = CancelFlag::new();
        let found = b.recall(sql, &[]).unwrap();
        assert_eq!(b.execute(&found, &[], &cancel, true).await.unwrap().rows.len(), 1);
        assert!(b.recall(sql, &[20]).is_none());
        assert!(elsewhere.recall(sql, &[]).is_none());
        for (set, reset) in [
            ("SET database = postgres", "SET database = defaultdb"),
            ("SET search_path = nosuch", "RESET search_path"),
            ("SET timezone = 'Europe/Berlin'", "RESET timezone"),
            ("SET timezone = 'Europe/Berlin'", "DISCARD ALL"),
            ("SET extra_float_digits = 0", "RESET ALL"),
        ] {
            run(&mut b, set).await.unwrap();
            assert!(b.recall(sql, &[]).is_none(), "{set}");
            run(&mut b, reset).await.unwrap();
            assert!(b.recall(sql, &[]).is_some(), "{reset}");
        }
        // A schema change outdates it; running it makes it new again.
        run(&mut elsewhere, "CREATE TABLE u (id INT PRIMARY KEY)").await.unwrap();
        assert!(a.recall(sql, &[]).is_none());
        assert_eq!(a.execute(&prepared, &[], &cancel, true).await.unwrap().rows.len(), 1);
        assert!(a.recall(sql, &[]).is_some());
        run(&mut elsewhere, "DROP TABLE t").await.unwrap();
        assert!(a.recall(sql, &[]).is_none());
        // Statements that run from the syntax tree are not kept.
        let show = Arc::new(a.prepare(&parsed("SHOW timezone"), &[]).await.unwrap());
        a.keep("SHOW timezone", &[], &show);
        assert!(a.recall("SHOW timezone", &[]).is_none());
    });
}

#[test]
fn constants_that_follow_the_time_are_not_kept() {
    let cluster = Cluster::new(1);
    block_on(async {
        let mut session = cluster.session(0);
        let cancel = CancelFlag::new();
        for sql in [
            "SELECT 'now'::TIMESTAMPTZ",
            "SELECT 'now'::TIMESTAMP",
            "SELECT '{now}'::TIMESTAMPTZ[]",
            "SELECT '{now}'::TEXT[]::TIMESTAMPTZ[]",
            "SELECT now()",
            "SELECT 'tomorrow'::DATE",
        ] {
            let prepared = Arc::new(session.prepare(&parsed(sql), &[]).await.unwrap());
            let first = session.execute(&prepared, &[], &cancel, true).await.unwrap();
            cluster.advance(Duration::from_secs(86_400));
            cluster.heartbeat().await;
            let second = session.execute(&prepared, &[], &cancel, true).await.unwrap();
            assert_ne!(first.rows, second.rows, "{sql}");
        }
    });
}

#[test]
fn statements_stop_when_asked() {
    let cluster = Cluster::new(1);
    let mut session = cluster.session(0);
    block_on(async {
        run(&mut session, "CREATE TABLE t (id INT PRIMARY KEY)").await.unwrap();
        let prepared =
            Arc::new(session.prepare(&parsed("SELECT count(*) FROM t"), &[]).await.unwrap());
        let cancel = CancelFlag::new();
        cancel.cancel();
        let error = session.execute(&prepared, &[], &cancel, true).await.unwrap_err();
        assert_eq!(error.code, SqlState::QUERY_CANCELED);
        cancel.reset();
        session.execute(&prepared, &[], &cancel, true).await.unwrap();
        assert!(!session.write_flag().in_flight());
    });
}

#[test]
fn a_join_yields_its_rows_piece_by_piece() {
    let cluster = Cluster::new(1);
    let mut session = cluster.session(0);
    block_on(async {
        // All pairs of the first rows of the left side would not fit the memory of the machine.
        let sql = "SELECT a, b FROM generate_series(1, 20000) AS x(a), \
                   generate_series(1, 20000) AS y(b) LIMIT 2";
        let result = run(&mut session, sql).await.unwrap();
        let rows: Vec<_> = result.rows.into_iter().flatten().collect();
        assert_eq!(rows, [1, 1, 1, 2].map(Datum::Int));
    });
}

#[test]
fn the_deepest_expressions_fit_the_stack() {
    let cluster = Cluster::new(1);
    let mut session = cluster.session(0);
    let nested = |open: &str, inner: &str, close: &str, depth: usize| {
        format!("SELECT {}{inner}{}", open.repeat(depth), close.repeat(depth))
    };
    block_on(async {
        for sql in [
            nested("abs(", "1", ")", 60),
            nested("(1 + ", "1", ")", 60),
            nested("CASE WHEN true THEN ", "1", " END", 60),
            nested("NOT (true AND ", "true", ")", 60),
            nested("coalesce(NULL, ", "1", ")", 180),
            nested("(SELECT ", "1", ")", 60),
        ] {
            // Refused as too deep or computed; never the end of the process.
            if let Err(error) = run(&mut session, &sql).await {
                assert_eq!(error.code, SqlState("54001"), "{sql}: {error:?}");
            }
        }
    });
}
