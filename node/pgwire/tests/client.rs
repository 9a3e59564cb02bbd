//! The server as tokio-postgres and rude strangers see it, over loopback.

mod support;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crdb_pgwire::Config;
use futures::{Stream, StreamExt as _};
use proptest::strategy::{Strategy as _, ValueTree as _};
use support::{Node, V3, connect, message, node, startup};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use tokio_util::task::TaskTracker;

/// Connects and drives the connection in the background.
async fn client(port: u16) -> Client {
    let url = format!("host=127.0.0.1 port={port} user=root dbname=defaultdb");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("it connects");
    TaskTracker::new().spawn(async move { drop(connection.await) });
    client
}

async fn started() -> (Node, u16) {
    let node = node(Config { startup_deadline: Duration::from_secs(60), ..support::drawn() }).await;
    let port = node.listen().await;
    (node, port)
}

/// Reads until the server closes, then returns all of it.
async fn until_closed(stream: &mut tokio::net::TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut all)).await;
    // A reset after the answer is a close as well.
    drop(read.expect("the server closes the connection"));
    all
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    String::from_utf8_lossy(haystack).contains(needle)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simple_and_prepared_statements_in_both_formats() {
    let (_node, port) = started().await;
    let client = client(port).await;
    client
        .batch_execute("CREATE TABLE t (a INT PRIMARY KEY, b TEXT, c FLOAT, d BOOL, e BYTES)")
        .await
        .unwrap();
    let insert = client.prepare("INSERT INTO t VALUES ($1, $2, $3, $4, $5)").await.unwrap();
    assert_eq!(insert.params(), [Type::INT8, Type::TEXT, Type::FLOAT8, Type::BOOL, Type::BYTEA]);
    for n in 0..200_i64 {
        let text = format!("row {n}");
        let half = 0.5 * f64::from(i32::try_from(n).unwrap());
        let rows = client
            .execute(&insert, &[&n, &text, &half, &(n % 2 == 0), &&b"\x00\xff"[..]])
            .await
            .unwrap();
        assert_eq!(rows, 1);
    }
    let rows = client.query("SELECT a, b, c, d, e FROM t WHERE a < $1 ORDER BY a", &[&3_i64]).await;
    let rows = rows.unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[2].get::<_, i64>(0), 2);
    assert_eq!(rows[2].get::<_, &str>(1), "row 2");
    assert!((rows[2].get::<_, f64>(2) - 1.0).abs() < f64::EPSILON);
    assert!(rows[2].get::<_, bool>(3));
    assert_eq!(rows[2].get::<_, &[u8]>(4), b"\x00\xff");
    let simple = client.simple_query("SELECT count(*) FROM t; SELECT 1").await.unwrap();
    let values: Vec<_> = simple
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    assert_eq!(values, ["200", "1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_learns_how_long_its_last_statement_took() {
    let (_node, port) = started().await;
    let client = client(port).await;
    client.simple_query("SELECT count(*) FROM generate_series(1, 1000)").await.unwrap();
    let ask = "SHOW LAST QUERY STATISTICS RETURNING exec_latency, service_latency";
    let mut answers = Vec::new();
    for _ in 0..2 {
        let messages = client.simple_query(ask).await.unwrap();
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((row.get(0)?.to_owned(), row.get(1)?.to_owned())),
            _ => None,
        });
        answers.push(row.unwrap());
    }
    let (exec, service) = &answers[0];
    assert!(exec.starts_with("00:00:0") && exec <= service, "{exec} {service}");
    assert!(exec > &"00:00:00.000000".to_owned(), "{exec}");
    // Asking is not the last statement.
    assert_eq!(answers[0], answers[1]);
    let error = client.simple_query("SHOW LAST QUERY STATISTICS RETURNING x").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNDEFINED_COLUMN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_sent_again_follows_the_schema() {
    let (_node, port) = started().await;
    let client = client(port).await;
    let values = async |text: &str| {
        let messages = client.simple_query(text).await?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let cells = rows.flat_map(|row| (0..row.len()).map(|at| row.get(at).map(str::to_owned)));
        Ok::<_, tokio_postgres::Error>(cells.flatten().collect::<Vec<_>>())
    };
    client.batch_execute("CREATE TABLE t (a INT PRIMARY KEY)").await.unwrap();
    for n in 1..4 {
        client.simple_query(&format!("INSERT INTO t VALUES ({n})")).await.unwrap();
        assert_eq!(values("SELECT count(*) FROM t").await.unwrap(), [n.to_string()]);
        assert_eq!(values("SELECT * FROM t WHERE a = 1").await.unwrap(), ["1"]);
        assert_eq!(client.query("SELECT * FROM t WHERE a = $1", &[&1_i64]).await.unwrap().len(), 1);
    }
    client.batch_execute("TRUNCATE t").await.unwrap();
    assert_eq!(values("SELECT count(*) FROM t").await.unwrap(), ["0"]);
    client.batch_execute("DROP TABLE t; CREATE TABLE t (b TEXT PRIMARY KEY, a INT)").await.unwrap();
    client.simple_query("INSERT INTO t VALUES ('x', 1)").await.unwrap();
    for _ in 0..2 {
        assert_eq!(values("SELECT * FROM t WHERE a = 1").await.unwrap(), ["x", "1"]);
        let row = client.query_one("SELECT * FROM t WHERE a = $1", &[&1_i64]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "x");
    }
    client.batch_execute("DROP TABLE t").await.unwrap();
    let error = values("SELECT * FROM t WHERE a = 1").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNDEFINED_TABLE));
    // What the extended protocol has prepared is no answer to the same text without parameters.
    client.prepare("SELECT $1::INT8").await.unwrap();
    for _ in 0..2 {
        let error = values("SELECT $1::INT8").await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::UNDEFINED_PARAMETER));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn portals_suspend_and_the_session_survives_errors() {
    let (_node, port) = started().await;
    let client = client(port).await;
    let error = client.query("SELECT * FROM missing", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNDEFINED_TABLE));
    let error = client.query("SELECT 1 +", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::SYNTAX_ERROR));
    let error = client.batch_execute("SELECT 1; SELECT 1/0; SELECT 2").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO));
    let row = client.query_one("SELECT 40 + $1::int8", &[&2_i64]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 42);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_results_arrive_whole() {
    let (_node, port) = started().await;
    let client = client(port).await;
    let rows =
        client.query("SELECT i, repeat('x', 100) FROM generate_series(1, 20000) AS g (i)", &[]);
    let rows = rows.await.unwrap();
    assert_eq!(rows.len(), 20_000);
    assert_eq!(rows[19_999].get::<_, &str>(1).len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_stops_a_statement_and_not_the_session() {
    let (node, port) = started().await;
    let client = Arc::new(client(port).await);
    client.batch_execute("CREATE TABLE t (a INT PRIMARY KEY)").await.unwrap();
    let token = client.cancel_token();
    node.gate.close().await;
    let running = Arc::clone(&client);
    let statement =
        TaskTracker::new().spawn(async move { running.query("SELECT * FROM t", &[]).await });
    node.gate.held().await;
    token.cancel_query(NoTls).await.unwrap();
    let error = statement.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    node.gate.open();
    client.query("SELECT * FROM t", &[]).await.unwrap();
}

/// Cancels a statement of 30 MB of rows when the first of them is here, and reads on. Returns how
/// many came, and how it ended.
async fn cancelled_midway<T>(
    client: &Client,
    answer: impl Stream<Item = Result<T, tokio_postgres::Error>>,
    is_row: impl Fn(&T) -> bool,
) -> (usize, Option<SqlState>) {
    let mut answer = pin!(answer);
    let mut count = 0;
    while let Some(message) = answer.next().await {
        match message {
            Ok(message) if is_row(&message) => count += 1,
            Ok(_) => continue,
            Err(error) => return (count, error.code().cloned()),
        }
        if count == 1 {
            client.cancel_token().cancel_query(NoTls).await.expect("it is sent");
        }
    }
    (count, None)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_cuts_off_rows_but_not_those_of_what_is_committed() {
    let (_node, port) = started().await;
    let client = client(port).await;
    client.batch_execute("CREATE TABLE t (a INT PRIMARY KEY)").await.unwrap();
    let cut = Some(SqlState::QUERY_CANCELED);
    let prepared = async |query: &str| {
        let rows = client.query_raw(query, std::iter::empty::<i32>()).await.unwrap();
        cancelled_midway(&client, rows, |_| true).await
    };
    let simple = async |query: &str| {
        let messages = client.simple_query_raw(query).await.unwrap();
        let is_row = |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(_));
        cancelled_midway(&client, messages, is_row).await
    };
    let read = "SELECT repeat('x', 100000) FROM generate_series(1, 300)";
    assert_eq!((prepared(read).await.1, simple(read).await.1), (cut.clone(), cut.clone()));
    assert_eq!(simple(&format!("SELECT 1; {read}")).await.1, cut);
    // Whatever is committed when its rows are sent is not said to have failed.
    let write = "INSERT INTO t SELECT * FROM generate_series(1, 300) RETURNING repeat('x', 100000)";
    assert_eq!(prepared(write).await, (300, None));
    client.batch_execute("DELETE FROM t").await.unwrap();
    assert_eq!(simple(write).await, (300, None));
    assert_eq!(simple(&format!("DELETE FROM t; {write}")).await, (300, None));
    assert_eq!(simple(&format!("DELETE FROM t WHERE a = 1; {read}")).await, (300, None));
    let count = "SELECT count(*) FROM t";
    assert_eq!(column(&client, count).await, ["299"]);
    // What is not yet committed is taken back.
    client.batch_execute("BEGIN; DELETE FROM t").await.unwrap();
    assert_eq!(prepared(write).await.1, cut);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(simple(&format!("DELETE FROM t; {write}; SELECT 1")).await.1, cut);
    assert_eq!(column(&client, count).await, ["299"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_client_does_not_read_is_closed() {
    let (_node, port) = started().await;
    let operator = client(port).await;
    let mut stream = connect(port).await;
    let settings = [("user", "root"), ("application_name", "deaf")];
    stream.write_all(&startup(V3, &settings)).await.unwrap();
    // One row that no socket takes as a whole.
    let long = b"SELECT repeat('x', 16000000), repeat('y', 16000000)\0";
    stream.write_all(&message(b'Q', long)).await.unwrap();
    let deaf = "FROM [SHOW SESSIONS] WHERE application_name = 'deaf'";
    until(&operator, &format!("SELECT last_active_query <> '' {deaf}"), &["t"]).await;
    operator.simple_query(&format!("CANCEL SESSIONS SELECT session_id {deaf}")).await.unwrap();
    until(&operator, &format!("SELECT session_id {deaf}"), &[]).await;
    let answer = until_closed(&mut stream).await;
    assert!(answer.len() > 1 << 20, "{}", String::from_utf8_lossy(&answer));
    assert!(!contains(&answer, "SELECT 1"), "the row was cut off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_on_its_way_is_waited_for_when_the_client_hangs_up() {
    let (node, port) = started().await;
    let first = client(port).await;
    first.batch_execute("CREATE TABLE t (a INT PRIMARY KEY)").await.unwrap();
    let mut stream = connect(port).await;
    stream.write_all(&startup(V3, &[("user", "root")])).await.unwrap();
    let mut greeting = [0; 1];
    stream.read_exact(&mut greeting).await.unwrap();
    node.gate.close().await;
    stream.write_all(&message(b'Q', b"INSERT INTO t VALUES (7)\0")).await.unwrap();
    node.gate.held().await;
    drop(stream);
    node.gate.open();
    let left = async {
        while node.server.connections() > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), left).await.expect("the session ends");
    // The row is there whole or not at all; a session that ended has decided.
    let rows = first.query("SELECT a FROM t", &[]).await.unwrap();
    assert!(rows.len() <= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_ends_idle_sessions_and_lets_statements_finish() {
    let (node, port) = started().await;
    let idle = client(port).await;
    let busy = Arc::new(client(port).await);
    busy.batch_execute("CREATE TABLE t (a INT PRIMARY KEY)").await.unwrap();
    node.gate.close().await;
    let running = Arc::clone(&busy);
    let tasks = TaskTracker::new();
    let statement =
        tasks.spawn(async move { running.simple_query("SELECT count(*) FROM t").await });
    node.gate.held().await;
    let server = Arc::clone(&node.server);
    let drained = tasks.spawn(async move { server.drain().await });
    while !idle.is_closed() {
        tokio::task::yield_now().await;
    }
    assert!(!drained.is_finished(), "a statement is still running");
    node.gate.open();
    tokio::time::timeout(Duration::from_secs(20), drained).await.expect("all leave").unwrap();
    statement.await.unwrap().unwrap();
    let mut late = connect(port).await;
    late.write_all(&startup(V3, &[("user", "root")])).await.unwrap();
    assert!(contains(&until_closed(&mut late).await, "57P01"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_ends_a_wait_for_a_lock() {
    let (_node, port) = started().await;
    let holder = client(port).await;
    let waiter = Arc::new(client(port).await);
    holder.batch_execute("CREATE TABLE t (a INT PRIMARY KEY, b INT)").await.unwrap();
    holder.batch_execute("INSERT INTO t VALUES (1, 1)").await.unwrap();
    holder.batch_execute("BEGIN; UPDATE t SET b = 2").await.unwrap();
    waiter.batch_execute("BEGIN").await.unwrap();
    let running = Arc::clone(&waiter);
    let statement = TaskTracker::new()
        .spawn(async move { running.execute("UPDATE t SET b = 3 WHERE a = 1", &[]).await });
    let token = waiter.cancel_token();
    let canceled = async {
        // It may take a while until the statement waits; before, there is nothing to cancel.
        while !statement.is_finished() {
            token.cancel_query(NoTls).await.unwrap();
            tokio::task::yield_now().await;
        }
        statement.await.unwrap().unwrap_err()
    };
    let error = tokio::time::timeout(Duration::from_secs(20), canceled).await.expect("it ends");
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    let error = waiter.simple_query("SELECT 1").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    waiter.batch_execute("ROLLBACK").await.unwrap();
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(waiter.execute("UPDATE t SET b = 3 WHERE b = 2", &[]).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_ends_a_commit_that_waits_for_a_lock() {
    let (_node, port) = started().await;
    let (owner, waiter) = (client(port).await, Arc::new(client(port).await));
    owner.batch_execute("CREATE TABLE t (a INT PRIMARY KEY, b INT)").await.unwrap();
    owner.batch_execute("BEGIN; SELECT * FROM t WHERE a = 1 FOR UPDATE").await.unwrap();
    owner.batch_execute("INSERT INTO t VALUES (1, 1)").await.unwrap();
    let token = waiter.cancel_token();
    let canceled = async |statement: &'static str| {
        let waiter = Arc::clone(&waiter);
        let tracker = TaskTracker::new();
        let running = tracker.spawn(async move { waiter.batch_execute(statement).await });
        let end = async {
            while !running.is_finished() {
                token.cancel_query(NoTls).await.unwrap();
                tokio::task::yield_now().await;
            }
            running.await.unwrap().unwrap_err()
        };
        tokio::time::timeout(Duration::from_secs(20), end).await.expect("it ends")
    };
    let error = canceled("INSERT INTO t VALUES (1, 2)").await;
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    // A cancel that was meant for the statement before may still be under way.
    let passes = async |statement: &str| {
        let passed = async { while waiter.batch_execute(statement).await.is_err() {} };
        tokio::time::timeout(Duration::from_secs(20), passed).await.expect("it passes");
    };
    passes("ROLLBACK; BEGIN; UPSERT INTO t VALUES (1, 3)").await;
    let error = canceled("COMMIT").await;
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    // It leaves no lock. If it was cancelled before it was looked at, the transaction has to be ended.
    owner.batch_execute("COMMIT").await.unwrap();
    assert_eq!(column(&owner, "SELECT b FROM t FOR UPDATE").await, ["1"]);
    passes("ROLLBACK; UPSERT INTO t VALUES (1, 4)").await;
    assert_eq!(column(&owner, "SELECT b FROM t FOR UPDATE").await, ["4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_before_a_sync_commits_with_it() {
    let (node, port) = started().await;
    let client = client(port).await;
    client.batch_execute("CREATE TABLE t (a INT PRIMARY KEY, b INT)").await.unwrap();
    let insert = client.prepare("INSERT INTO t VALUES ($1, 1)").await.unwrap();
    let update = client.prepare("UPDATE t SET b = b + 1 WHERE a = $1").await.unwrap();
    let sent = || node.gate.sent.load(std::sync::atomic::Ordering::SeqCst);
    let before = sent();
    client.execute(&insert, &[&1_i64]).await.unwrap();
    assert_eq!(sent() - before, 1, "the key is looked up by the commit itself");
    client.execute(&update, &[&1_i64]).await.unwrap();
    assert_eq!(sent() - before, 3, "a read that locks, and a commit");
    client.batch_execute("UPDATE t SET b = b + 1 WHERE a = 1").await.unwrap();
    assert_eq!(sent() - before, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_leaves_no_locks_and_no_rows() {
    let (node, port) = started().await;
    let first = client(port).await;
    first.batch_execute("CREATE TABLE t (a INT PRIMARY KEY, b INT)").await.unwrap();
    first.batch_execute("INSERT INTO t VALUES (1, 1)").await.unwrap();
    let second = client(port).await;
    second.batch_execute("BEGIN; UPDATE t SET b = 2; INSERT INTO t VALUES (2, 2)").await.unwrap();
    drop(second);
    let left = async {
        while node.server.connections() > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), left).await.expect("the session ends");
    let rows = first.query("SELECT b FROM t FOR UPDATE NOWAIT", &[]).await.unwrap();
    let values: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(values, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_waits_for_open_transactions() {
    let (node, port) = started().await;
    let client = client(port).await;
    client.batch_execute("CREATE TABLE t (a INT PRIMARY KEY)").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let server = Arc::clone(&node.server);
    let drained = TaskTracker::new().spawn(async move { server.drain().await });
    while !node.server.is_draining() {
        tokio::task::yield_now().await;
    }
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    assert!(!drained.is_finished(), "a transaction is open");
    client.batch_execute("COMMIT").await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), drained).await.expect("all leave").unwrap();
    let closed = async {
        while !client.is_closed() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("it is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_runs_again_when_its_commit_lost_a_race() {
    let (node, port) = started().await;
    let mut first = client(port).await;
    let second = client(port).await;
    first.batch_execute("CREATE TABLE t (a INT PRIMARY KEY, b INT)").await.unwrap();
    first.batch_execute("INSERT INTO t VALUES (1, 1), (2, 2)").await.unwrap();
    // The row that was read changes in a column that nobody asked for.
    let open = first.transaction().await.unwrap();
    open.query_one("SELECT a FROM t WHERE a = 1", &[]).await.unwrap();
    open.execute("UPDATE t SET b = 20 WHERE a = 2", &[]).await.unwrap();
    second.execute("UPDATE t SET b = 10 WHERE a = 1", &[]).await.unwrap();
    open.commit().await.unwrap();
    // The client was told what is not so any more.
    let open = first.transaction().await.unwrap();
    open.query_one("SELECT b FROM t WHERE a = 1", &[]).await.unwrap();
    open.execute("UPDATE t SET b = 21 WHERE a = 2", &[]).await.unwrap();
    second.execute("UPDATE t SET b = 11 WHERE a = 1", &[]).await.unwrap();
    let error = open.commit().await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
    let message = error.as_db_error().unwrap().message().to_owned();
    assert!(
        message.starts_with("restart transaction: TransactionRetryWithProtoRefreshError: RETRY_"),
        "{message}"
    );
    let rows = second.query("SELECT b FROM t ORDER BY a", &[]).await.unwrap();
    let values: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(values, [11, 20]);
    assert!(node.sql.auto_retries() >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rude_strangers_are_told_and_the_node_stays_up() {
    let (_node, port) = started().await;
    let greeting = startup(V3, &[("user", "root")]);
    let mut huge = greeting.clone();
    huge.extend_from_slice(b"Q\x40\x00\x00\x00SELECT");
    let mut garbage = greeting.clone();
    garbage.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
    for (bytes, expected) in [
        (b"\x00\x00\x00\x05\x00\x03\x00\x00".to_vec(), "08P01"),
        (b"\x40\x00\x00\x00\x00\x03\x00\x00".to_vec(), "08P01"),
        (huge, "54000"),
        (garbage, "08P01"),
    ] {
        let mut stream = connect(port).await;
        stream.write_all(&bytes).await.unwrap();
        let answer = until_closed(&mut stream).await;
        assert!(contains(&answer, expected), "{expected}: {}", String::from_utf8_lossy(&answer));
    }
    let mut truncated = connect(port).await;
    truncated.write_all(&greeting[..9]).await.unwrap();
    truncated.shutdown().await.unwrap();
    assert!(contains(&until_closed(&mut truncated).await, "incomplete startup packet"));
    client(port).await.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_stranger_is_let_go() {
    let config = Config { startup_deadline: Duration::from_millis(50), ..Config::default() };
    let node = node(config).await;
    let mut stream = connect(node.listen().await).await;
    assert!(contains(&until_closed(&mut stream).await, "no startup packet arrived in time"));
}

/// Random frames after a good start: whatever the answers, the node goes on serving.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_do_no_harm() {
    let (_node, port) = started().await;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let kinds = proptest::sample::select(b"QPBDECSHXpdcfF".to_vec());
    let body = proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60);
    let frames = proptest::collection::vec((kinds, body), 1..12);
    for _ in 0..200 {
        let frames = frames.new_tree(&mut runner).unwrap().current();
        let mut stream = connect(port).await;
        let mut bytes = startup(V3, &[("user", "root")]);
        for (kind, body) in &frames {
            bytes.extend_from_slice(&message(*kind, body));
        }
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        until_closed(&mut stream).await;
    }
    client(port).await.simple_query("SELECT 1").await.unwrap();
}

/// The first column of the rows of a query.
async fn column(client: &Client, query: &str) -> Vec<String> {
    let messages = client.simple_query(query).await.expect("an answer");
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    rows.collect()
}

/// Asks until the answer is as wished.
async fn until(client: &Client, query: &str, wished: &[&str]) {
    let mut last = Vec::new();
    let asking = async {
        loop {
            last = column(client, query).await;
            if last == wished {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), asking).await;
    in_time.unwrap_or_else(|_| panic!("{query}: {last:?} is not {wished:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_query_of_another_session_is_seen_and_cancelled() {
    let (_node, port) = started().await;
    let (owner, waiter, operator) = (client(port).await, client(port).await, client(port).await);
    owner.batch_execute("CREATE TABLE t (a INT PRIMARY KEY, b INT)").await.unwrap();
    owner.batch_execute("INSERT INTO t VALUES (1, 1); BEGIN; UPDATE t SET b = 2").await.unwrap();
    waiter.batch_execute("SET application_name = 'waiter'").await.unwrap();
    let theirs = "FROM [SHOW CLUSTER QUERIES] WHERE application_name = 'waiter'";
    let cancelled = async {
        until(&operator, &format!("SELECT query {theirs}"), &["UPDATE t SET b = $1"]).await;
        let id = column(&operator, &format!("SELECT query_id {theirs}")).await.remove(0);
        operator.simple_query(&format!("CANCEL QUERY '{id}'")).await.unwrap();
        id
    };
    let waiting = waiter.execute("UPDATE t SET b = $1", &[&3_i64]);
    let (error, id) = tokio::join!(waiting, cancelled);
    let error = error.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    assert!(error.as_db_error().unwrap().message() == "query execution canceled", "{error:?}");
    // It is over: the next statement of the session has another id.
    let error = operator.simple_query(&format!("CANCEL QUERY '{id}'")).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNDEFINED_OBJECT));
    assert_eq!(column(&waiter, "SELECT 7").await, ["7"]);
    owner.batch_execute("COMMIT").await.unwrap();
    assert_eq!(waiter.execute("UPDATE t SET b = $1", &[&3_i64]).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_closed_whether_busy_or_idle() {
    let (_node, port) = started().await;
    let (idle, busy, operator) = (client(port).await, client(port).await, client(port).await);
    operator.batch_execute("CREATE TABLE t (a INT PRIMARY KEY, b INT)").await.unwrap();
    operator.batch_execute("INSERT INTO t VALUES (1, 1)").await.unwrap();
    idle.batch_execute("SET application_name = 'idle'; BEGIN; UPDATE t SET b = 2").await.unwrap();
    busy.batch_execute("SET application_name = 'busy'").await.unwrap();
    let own = column(&operator, "SHOW session_id").await.remove(0);
    let sessions = format!("FROM [SHOW SESSIONS] WHERE session_id <> '{own}'");
    let close =
        |name: &str| format!("SELECT session_id {sessions} AND application_name = '{name}'");
    let closed = async {
        let running = format!("SELECT active_queries {sessions} AND application_name = 'busy'");
        until(&operator, &running, &["UPDATE t SET b = 3"]).await;
        operator.simple_query(&format!("CANCEL SESSIONS {}", close("busy"))).await.unwrap();
    };
    let (error, ()) = tokio::join!(busy.simple_query("UPDATE t SET b = 3"), closed);
    assert_eq!(error.unwrap_err().code(), Some(&SqlState::ADMIN_SHUTDOWN));
    until(&operator, &format!("SELECT application_name {sessions}"), &["idle"]).await;
    operator.simple_query(&format!("CANCEL SESSIONS {}", close("idle"))).await.unwrap();
    // Its transaction goes with it.
    until(&operator, &format!("SELECT application_name {sessions}"), &[]).await;
    assert!(idle.simple_query("COMMIT").await.is_err());
    operator.simple_query("UPDATE t SET b = b + 10").await.unwrap();
    assert_eq!(column(&operator, "SELECT b FROM t").await, ["11"]);
    // Whoever closes itself is answered before.
    operator.simple_query(&format!("CANCEL SESSION '{own}'")).await.unwrap();
    assert!(operator.simple_query("SELECT 1").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_one_statement_until_it_is_cancelled() {
    let (node, port) = started().await;
    let (copier, operator) = (client(port).await, client(port).await);
    operator.batch_execute("CREATE TABLE t (a INT PRIMARY KEY)").await.unwrap();
    let sink = copier.copy_in::<_, bytes::Bytes>("COPY t FROM STDIN").await.unwrap();
    let copies = "FROM crdb_internal.node_queries WHERE query LIKE 'COPY%'";
    until(&operator, &format!("SELECT query {copies}"), &["COPY t FROM STDIN"]).await;
    assert_eq!(node.sql.activity_counts().0, 1);
    operator.simple_query(&format!("CANCEL QUERIES SELECT query_id {copies}")).await.unwrap();
    let mut sink = Box::pin(sink);
    let error = sink.as_mut().finish().await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    drop((copier, sink));
    until(&operator, "SELECT count(*) FROM crdb_internal.node_sessions", &["1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_portals_are_bounded() {
    let node = node(Config { portals_max: 2, ..Config::default() }).await;
    let port = node.listen().await;
    let mut client = client(port).await;
    let statement = client.prepare("SELECT g FROM generate_series(1, 3) AS g").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let first = transaction.bind(&statement, &[]).await.unwrap();
    let second = transaction.bind(&statement, &[]).await.unwrap();
    for portal in [&first, &second] {
        assert_eq!(transaction.query_portal(portal, 2).await.unwrap().len(), 2);
    }
    let error = transaction.bind(&statement, &[]).await.err().unwrap();
    assert_eq!(error.code().map(SqlState::code), Some("54000"), "{error:?}");
}
