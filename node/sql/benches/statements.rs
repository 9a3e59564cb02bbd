//! Microseconds per statement of the SQL layer alone: one session over a state in memory.
//!
//! What the state in memory itself takes is printed first, to be subtracted. Run with
//! `cargo bench -p crdb-sql`; a number after `--` sets how often each statement runs.

#![expect(clippy::print_stdout, reason = "the figures are the purpose")]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crdb_kv::Sender as _;
use crdb_proto::kv;
use crdb_sql::{CancelFlag, Datum, Session};
use harness::{Cluster, block_on, run};

const ROWS: i64 = 10_000;

struct Report {
    times: u32,
}

impl Report {
    fn print(&self, what: &str, taken: Duration) {
        let micros = taken.as_secs_f64() * 1e6 / f64::from(self.times);
        println!("{what:<46} {micros:>8.2} us");
    }
}

fn parsed(sql: &str) -> Arc<crdb_sqlfront::Parsed> {
    let mut statements = crdb_sqlfront::parse(sql).expect("it parses");
    Arc::new(statements.pop().expect("one statement"))
}

/// The requests that the statements make, without SQL.
async fn bare(report: &Report, cluster: &Cluster) {
    let key = |i: u32| {
        let mut key = crdb_keys::layout::index_prefix(999, 1);
        crdb_keys::encoding::encode_int_asc(&mut key, i64::from(i));
        bytes::Bytes::from(key)
    };
    let send = async |kind| {
        let request = kv::Request { kind: Some(kind) };
        let batch = kv::BatchRequest { header: None, requests: vec![request] };
        cluster.local.send(batch).await.expect("the state answers")
    };
    let started = Instant::now();
    for i in 0..report.times {
        let value = bytes::Bytes::from_static(b"0123456789");
        let put = kv::ConditionalPutRequest { key: key(i), value, expected: None };
        send(kv::request::Kind::ConditionalPut(put)).await;
    }
    report.print("(state alone: conditional put)", started.elapsed());
    let started = Instant::now();
    for i in 0..report.times {
        send(kv::request::Kind::Get(kv::GetRequest { key: key(i), ..Default::default() })).await;
    }
    report.print("(state alone: get)", started.elapsed());
}

async fn prepared(
    report: &Report,
    session: &mut Session,
    sql: &str,
    params: impl Fn(u32) -> Vec<Datum>,
) {
    let prepared = Arc::new(session.prepare(&parsed(sql), &[]).await.expect("it is valid"));
    let cancel = CancelFlag::new();
    let started = Instant::now();
    for i in 0..report.times {
        session.execute(&prepared, &params(i), &cancel, true).await.expect("it runs");
    }
    report.print(&format!("prepared: {sql}"), started.elapsed());
}

async fn texts(report: &Report, session: &mut Session) {
    let sql = "SELECT v FROM t WHERE id = 5";
    let cancel = CancelFlag::new();
    let started = Instant::now();
    for _ in 0..report.times {
        let prepared = Arc::new(session.prepare(&parsed(sql), &[]).await.expect("it is valid"));
        session.execute(&prepared, &[], &cancel, true).await.expect("it runs");
    }
    report.print("text, parsed each time: point read", started.elapsed());
    let first = Arc::new(session.prepare(&parsed(sql), &[]).await.expect("it is valid"));
    session.keep(sql, &[], &first);
    let started = Instant::now();
    for _ in 0..report.times {
        let prepared = session.recall(sql, &[]).expect("it is kept");
        session.execute(&prepared, &[], &cancel, true).await.expect("it runs");
    }
    report.print("text, recalled: point read", started.elapsed());
    let started = Instant::now();
    for i in 0..report.times {
        let sql = format!("INSERT INTO t (id, v, n) VALUES ({}, 'value', 7)", 20_000_000 + i);
        let prepared = Arc::new(session.prepare(&parsed(&sql), &[]).await.expect("it is valid"));
        session.execute(&prepared, &[], &cancel, true).await.expect("it runs");
    }
    report.print("text, each another: insert", started.elapsed());
}

fn main() {
    let times = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(20_000);
    let report = Report { times };
    let cluster = Cluster::new(1);
    let mut session = cluster.session(0);
    block_on(async {
        let create = "CREATE TABLE t (id INT PRIMARY KEY, v STRING, n INT NOT NULL)";
        run(&mut session, create).await.expect("the table");
        for first in (0..ROWS).step_by(1000) {
            let fill = format!(
                "INSERT INTO t SELECT i, 'value ' || i, i % 7 FROM generate_series({first}, {}) AS g(i)",
                first + 999
            );
            run(&mut session, &fill).await.expect("the rows");
        }
        bare(&report, &cluster).await;
        let id = |i: u32| Datum::Int(i64::from(i) * 7919 % ROWS);
        let session = &mut session;
        prepared(&report, session, "SELECT v FROM t WHERE id = $1", |i| vec![id(i)]).await;
        prepared(&report, session, "SELECT * FROM t WHERE id = $1 LIMIT 1", |i| vec![id(i)]).await;
        prepared(&report, session, "INSERT INTO t VALUES ($1, $2, $3)", |i| {
            let new = Datum::Int(1_000_000 + i64::from(i));
            vec![new, Datum::text("value"), Datum::Int(7)]
        })
        .await;
        prepared(&report, session, "UPSERT INTO t VALUES ($1, $2, $3)", |i| {
            vec![id(i), Datum::text("value"), Datum::Int(7)]
        })
        .await;
        prepared(&report, session, "UPDATE t SET n = n + $2 WHERE id = $1", |i| {
            vec![id(i), Datum::Int(1)]
        })
        .await;
        let low = |i: u32| vec![id(i)];
        prepared(&report, session, "SELECT v FROM t WHERE id >= $1 LIMIT 10", low).await;
        texts(&report, session).await;
        prepared(&report, session, "DELETE FROM t WHERE id = $1", |i| vec![id(i)]).await;
    });
}
