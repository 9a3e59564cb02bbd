//! The statements of `pgbench -i`, of its start-up, and of its TPC-B-like script, of which the other
//! two are parts, as PostgreSQL 15's words them. The way of COPY differs: here it is prepared.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::SinkExt as _;
use tokio_postgres::Client;

use crate::cluster::{TestCluster, rows, within};

/// Accounts; 100,000 in pgbench.
const ACCOUNTS: u64 = 1000;

/// By which pgbench finds its tables, and whether they are partitioned.
const PROBE: &str = "select o.n, p.partstrat, pg_catalog.count(i.inhparent) from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on (n.oid = c.relnamespace) cross join lateral (select pg_catalog.array_position(pg_catalog.current_schemas(true), n.nspname)) as o(n) left join pg_catalog.pg_partitioned_table as p on (p.partrelid = c.oid) left join pg_catalog.pg_inherits as i on (c.oid = i.inhparent) where c.relname = 'pgbench_accounts' and o.n is not null group by 1, 2 order by 1 asc limit 1";

async fn initialize(client: &Client) -> Result<()> {
    for sql in [
        "drop table if exists pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers",
        "create table pgbench_history(tid int,bid int,aid    int,delta int,mtime timestamp,filler char(22))",
        "create table pgbench_tellers(tid int not null,bid int,tbalance int,filler char(84)) with (fillfactor=100)",
        "create table pgbench_accounts(aid    int not null,bid int,abalance int,filler char(84)) with (fillfactor=100)",
        "create table pgbench_branches(bid int not null,bbalance int,filler char(88)) with (fillfactor=100)",
        "begin",
        "truncate table pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers",
        "insert into pgbench_branches(bid,bbalance) values(1,0)",
    ] {
        within(client.batch_execute(sql)).await.context(sql)?;
    }
    for teller in 1..=10 {
        let sql = format!("insert into pgbench_tellers(tid,bid,tbalance) values ({teller},1,0)");
        within(client.batch_execute(&sql)).await?;
    }
    let mut copy =
        Box::pin(client.copy_in("copy pgbench_accounts from stdin with (freeze on)").await?);
    for aid in 1..=ACCOUNTS {
        copy.send(Bytes::from(format!("{aid}\t1\t0\t\n"))).await?;
    }
    ensure!(copy.as_mut().finish().await? == ACCOUNTS);
    for sql in [
        "commit",
        "vacuum analyze pgbench_branches",
        "vacuum analyze pgbench_tellers",
        "vacuum analyze pgbench_accounts",
        "vacuum analyze pgbench_history",
        "alter table pgbench_branches add primary key (bid)",
        "alter table pgbench_tellers add primary key (tid)",
        "alter table pgbench_accounts add primary key (aid)",
    ] {
        within(client.batch_execute(sql)).await.context(sql)?;
    }
    Ok(())
}

/// The TPC-B-like script, with the numbers in the text.
async fn tpc_b_simple(client: &Client, aid: i64, delta: i64) -> Result<()> {
    for sql in [
        "BEGIN;".to_owned(),
        format!("UPDATE pgbench_accounts SET abalance = abalance + {delta} WHERE aid = {aid};"),
        format!("SELECT abalance FROM pgbench_accounts WHERE aid = {aid};"),
        format!("UPDATE pgbench_tellers SET tbalance = tbalance + {delta} WHERE tid = 7;"),
        format!("UPDATE pgbench_branches SET bbalance = bbalance + {delta} WHERE bid = 1;"),
        format!(
            "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) \
             VALUES (7, 1, {aid}, {delta}, CURRENT_TIMESTAMP);"
        ),
        "END;".to_owned(),
    ] {
        within(client.batch_execute(&sql)).await.context(sql)?;
    }
    Ok(())
}

/// The same with parameters, whose types the server finds.
async fn tpc_b_prepared(client: &Client, aid: i64, delta: i64) -> Result<()> {
    let (tid, bid) = (7_i64, 1_i64);
    within(client.execute("BEGIN;", &[])).await?;
    let account = "UPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2;";
    within(client.execute(account, &[&delta, &aid])).await?;
    let balance = "SELECT abalance FROM pgbench_accounts WHERE aid = $1;";
    within(client.query_one(balance, &[&aid])).await?;
    let teller = "UPDATE pgbench_tellers SET tbalance = tbalance + $1 WHERE tid = $2;";
    within(client.execute(teller, &[&delta, &tid])).await?;
    let branch = "UPDATE pgbench_branches SET bbalance = bbalance + $1 WHERE bid = $2;";
    within(client.execute(branch, &[&delta, &bid])).await?;
    let history = "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) \
                   VALUES ($1, $2, $3, $4, CURRENT_TIMESTAMP);";
    within(client.execute(history, &[&tid, &bid, &aid, &delta])).await?;
    within(client.execute("END;", &[])).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_pgbench_sends_works() -> Result<()> {
    let mut cluster = TestCluster::start(3).await?;
    cluster.wait_replicated(3).await?;
    let client = cluster.node(2)?.connect().await?;
    // The second time there is something to drop.
    for _ in 0..2 {
        initialize(&client).await?;
    }
    ensure!(rows(&client, "select count(*) from pgbench_branches").await? == ["1"]);
    ensure!(rows(&client, PROBE).await?.len() == 1, "the probe finds no table");
    for sql in ["vacuum pgbench_branches", "vacuum pgbench_tellers", "truncate pgbench_history"] {
        within(client.batch_execute(sql)).await.context(sql)?;
    }
    tpc_b_simple(&client, 5, 40).await?;
    tpc_b_prepared(&client, 5, 2).await?;
    // From another node, the same is there.
    let other = cluster.node(3)?.connect().await?;
    for (sql, expected) in [
        ("SELECT abalance FROM pgbench_accounts WHERE aid = 5", "42"),
        ("SELECT sum(abalance) FROM pgbench_accounts", "42"),
        ("SELECT tbalance FROM pgbench_tellers WHERE tid = 7", "42"),
        ("SELECT bbalance FROM pgbench_branches", "42"),
        ("SELECT sum(delta) FROM pgbench_history WHERE mtime <= now()", "42"),
        ("SELECT count(*) FROM pgbench_accounts", "1000"),
    ] {
        let got = rows(&other, sql).await?;
        ensure!(got == [expected], "{sql}: {got:?}");
    }
    Ok(())
}
