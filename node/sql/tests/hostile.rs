//! Statements that mean harm: too long, too deep, too large. Each is answered, none ends the process.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod harness;

use crdb_sql::{Datum, SqlState};
use harness::{Cluster, block_on, run};

/// What a statement fails with; none when it succeeds.
fn code(sql: &str) -> Option<SqlState> {
    let cluster = Cluster::new(1);
    let mut session = cluster.session(0);
    block_on(async {
        run(&mut session, "CREATE TABLE t (id INT PRIMARY KEY, s STRING)").await.unwrap();
        run(&mut session, "INSERT INTO t VALUES (1, 'a'), (2, 'b')").await.unwrap();
        run(&mut session, sql).await.err().map(|error| error.code)
    })
}

/// Whether a statement is refused because of what it would build.
fn refused(sql: &str) -> bool {
    matches!(code(sql), Some(SqlState::PROGRAM_LIMIT | SqlState::OUT_OF_MEMORY))
}

#[test]
fn values_do_not_grow_without_bound() {
    let doubled = |step: &str, times: usize| {
        let mut query = "SELECT repeat('x', 1000) AS s".to_owned();
        for _ in 0..times {
            query = format!("SELECT {step} AS s FROM ({query}) AS q");
        }
        format!("SELECT length(s::STRING) FROM ({query}) AS q")
    };
    for step in [
        "s || s",
        "concat(s, s)",
        "format('%s%s', s, s)",
        "replace(s, 'x', 'xx')",
        "regexp_replace(s, '^.*$', '\\&\\&', 'g')",
        "array_to_string(ARRAY[s, s], s)",
    ] {
        assert!(refused(&doubled(step, 60)), "{step}");
    }
    let mut query = "SELECT to_jsonb(repeat('x', 1000)) AS s".to_owned();
    for _ in 0..60 {
        query = format!("SELECT jsonb_build_array(s, s) AS s FROM ({query}) AS q");
    }
    assert!(refused(&query), "jsonb_build_array");
}

#[test]
fn many_large_values_are_out_of_memory() {
    for sql in [
        "SELECT repeat('x' || g, 100000) FROM generate_series(1, 1000) AS g",
        "SELECT string_agg('a', repeat('x', 100000)) FROM generate_series(1, 1000)",
        "SELECT array_agg(repeat('x' || g, 100000)) FROM generate_series(1, 1000) AS g",
        "UPDATE t SET s = 'n' RETURNING repeat('x' || id, 3000000)",
    ] {
        let code = code(sql);
        assert_eq!(code, Some(SqlState::OUT_OF_MEMORY), "{sql}");
    }
}

#[test]
fn many_large_values_that_nobody_holds_take_no_memory() {
    for sql in [
        "SELECT count(*) FROM (SELECT repeat('x' || g, 100000) FROM generate_series(1, 1000) AS g) q",
        "SELECT count(s) FROM (SELECT (SELECT repeat('x' || g, 100000)) AS s FROM generate_series(1, 300) AS g) q",
        "SELECT count(u.s || g) FROM generate_series(1, 300) AS g JOIN (SELECT repeat('x', 100000) AS s) u ON true",
        "SELECT sum(length(s)) FROM generate_series(1, 300) AS g, LATERAL (SELECT repeat('x' || g, 100000) AS s) u",
        "SELECT max(length(s)) FROM (SELECT unnest(ARRAY[repeat('x' || g, 100000), 'y']) AS s FROM generate_series(1, 300) AS g) q",
        "INSERT INTO t SELECT g, repeat('x' || g, 100000) FROM generate_series(11, 210) AS g",
    ] {
        assert_eq!(code(sql), None, "{sql}");
    }
}

#[test]
fn long_lists_are_served() {
    let cluster = Cluster::new(1);
    let mut session = cluster.session(0);
    block_on(async {
        run(&mut session, "CREATE TABLE t (id INT PRIMARY KEY, s STRING)").await.unwrap();
        run(&mut session, "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')").await.unwrap();
        // As points of the key, and beyond their number as a test on the rows.
        for length in [10_000i64, 30_000] {
            let list: Vec<String> = (2..length).map(|i| i.to_string()).collect();
            let sql = format!("SELECT id FROM t WHERE id IN ({})", list.join(", "));
            let rows = run(&mut session, &sql).await.unwrap().rows;
            assert_eq!(rows, [[Datum::Int(2)], [Datum::Int(3)]], "{length}");
            let sql = format!("SELECT id FROM t WHERE id = ANY('{{{}}}')", list.join(","));
            let rows = run(&mut session, &sql).await.unwrap().rows;
            assert_eq!(rows, [[Datum::Int(2)], [Datum::Int(3)]], "{length}");
        }
        let terms = vec!["1"; 5_000].join(" + ");
        match run(&mut session, &format!("SELECT {terms}")).await {
            Ok(result) => assert_eq!(result.rows, [[Datum::Int(5_000)]]),
            Err(error) => assert_eq!(error.code, SqlState("54001"), "{error:?}"),
        }
        let terms = vec!["id = 1"; 5_000].join(" OR ");
        match run(&mut session, &format!("SELECT count(*) FROM t WHERE {terms}")).await {
            Ok(result) => assert_eq!(result.rows, [[Datum::Int(1)]]),
            Err(error) => assert_eq!(error.code, SqlState("54001"), "{error:?}"),
        }
    });
}

#[test]
fn depth_is_refused() {
    for (open, inner, close) in [
        ("(", "1", ")"),
        ("abs(", "1", ")"),
        ("- ", "1", ""),
        ("NOT ", "true", ""),
        ("ARRAY[", "1", "]"),
        ("CASE WHEN true THEN ", "1", " END"),
        ("(SELECT ", "1", ")"),
        ("CAST(", "1", " AS INT)"),
        ("1 + (", "1", ")"),
    ] {
        for depth in [1_000, 100_000] {
            let sql = format!("SELECT {}{inner}{}", open.repeat(depth), close.repeat(depth));
            let error = crdb_sqlfront::parse(&sql).map(|_| ()).unwrap_err();
            let state = error.kind.sqlstate();
            assert!(matches!(state, "54001" | "42601"), "{open}: {error:?}");
        }
    }
    let from = format!("SELECT * FROM {}t{}", "(".repeat(50_000), ")".repeat(50_000));
    assert!(crdb_sqlfront::parse(&from).is_err());
    let casts = format!("SELECT 1{}", "::INT".repeat(50_000));
    assert!(crdb_sqlfront::parse(&casts).is_err());
    let joins = format!("SELECT * FROM t{}", " JOIN t ON true".repeat(50_000));
    assert!(crdb_sqlfront::parse(&joins).is_err());
    let unions = vec!["SELECT 1"; 20_000].join(" UNION ALL ");
    assert!(crdb_sqlfront::parse(&unions).is_err());
}
