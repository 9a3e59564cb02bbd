//! Clients of several gateways move money between accounts in transactions of several statements,
//! computing on their side, while others add it all up. Whatever runs again by itself, what a client
//! was told in a transaction that committed was so.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]
#![expect(clippy::print_stdout, reason = "a failed seed is to be known")]

mod harness;

use std::sync::atomic::{AtomicU64, Ordering};

use crdb_sql::{Datum, Session, SqlError, SqlState};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use harness::{Cluster, block_on, interleave, run};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ACCOUNTS: i64 = 4;
const START: i64 = 100;
const TRANSFERS: u32 = 6;
const CLIENTS: u64 = 4;
const SEEDS: u64 = 12;

fn number(rows: &[Vec<Datum>]) -> i64 {
    match rows.first().and_then(|row| row.first()) {
        Some(Datum::Int(n)) => *n,
        Some(Datum::Decimal(n)) => n.to_i64().expect("a whole number"),
        other => panic!("not a number: {other:?}"),
    }
}

async fn transfer(
    session: &mut Session,
    rng: &mut StdRng,
    isolation: &str,
) -> Result<(), SqlError> {
    let from = rng.random_range(0..ACCOUNTS);
    let to = (from + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
    let amount = rng.random_range(1..20);
    run(session, &format!("BEGIN ISOLATION LEVEL {isolation}")).await?;
    // Under READ COMMITTED only what is locked stays as it was read.
    let lock = if isolation == "SERIALIZABLE" { "" } else { " FOR UPDATE" };
    let read = |account| format!("SELECT balance FROM accounts WHERE id = {account}{lock}");
    let from_balance = number(&run(session, &read(from)).await?.rows);
    let to_balance = number(&run(session, &read(to)).await?.rows);
    if rng.random_range(0..3) == 0 {
        run(session, "SAVEPOINT s").await?;
        run(session, &format!("UPDATE accounts SET balance = 0 WHERE id = {from}")).await?;
        run(session, "ROLLBACK TO s").await?;
    }
    for (account, balance) in [(from, from_balance - amount), (to, to_balance + amount)] {
        let sql = format!("UPDATE accounts SET balance = {balance} WHERE id = {account}");
        assert_eq!(run(session, &sql).await?.tag, "UPDATE 1");
    }
    run(session, "COMMIT").await.map(drop)
}

async fn client(cluster: &Cluster, seed: u64, isolation: &str, done: &AtomicU64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let gateway = usize::try_from(seed).unwrap() % cluster.nodes.len();
    let mut session = cluster.session(gateway);
    let mut left = TRANSFERS;
    while left > 0 {
        match transfer(&mut session, &mut rng, isolation).await {
            Ok(()) => {
                done.fetch_add(1, Ordering::SeqCst);
                left -= 1;
            }
            Err(error) => {
                assert_eq!(error.code, SqlState::SERIALIZATION_FAILURE, "{error:?}");
                run(&mut session, "ROLLBACK").await.unwrap();
            }
        }
    }
}

async fn auditor(cluster: &Cluster, done: &AtomicU64) {
    let mut session = cluster.session(0);
    let target = u64::from(TRANSFERS) * CLIENTS;
    let mut audits = 0;
    while done.load(Ordering::SeqCst) < target {
        let sum = if audits % 2 == 0 {
            run(&mut session, "SELECT sum(balance) FROM accounts").await
        } else {
            // Added up by the client, row by row.
            run(&mut session, "BEGIN").await.unwrap();
            let mut sum = 0;
            for account in 0..ACCOUNTS {
                let sql = format!("SELECT balance FROM accounts WHERE id = {account}");
                match run(&mut session, &sql).await {
                    Ok(result) => sum += number(&result.rows),
                    Err(error) => {
                        assert_eq!(error.code, SqlState::SERIALIZATION_FAILURE, "{error:?}");
                        sum = ACCOUNTS * START;
                        break;
                    }
                }
            }
            run(&mut session, "COMMIT").await.unwrap();
            assert_eq!(sum, ACCOUNTS * START);
            audits += 1;
            continue;
        };
        assert_eq!(number(&sum.unwrap().rows), ACCOUNTS * START);
        audits += 1;
    }
}

fn bank(isolation: &str) {
    for seed in 0..SEEDS {
        println!("seed {seed}, {isolation}");
        let cluster = Cluster::of_seed(3, seed);
        let mut session = cluster.session(0);
        block_on(async {
            let create = "CREATE TABLE accounts (id INT PRIMARY KEY, balance INT)";
            run(&mut session, create).await.unwrap();
            for account in 0..ACCOUNTS {
                let sql = format!("INSERT INTO accounts VALUES ({account}, {START})");
                run(&mut session, &sql).await.unwrap();
            }
        });
        let done = AtomicU64::new(0);
        let mut tasks: Vec<BoxFuture<'_, ()>> = Vec::new();
        for one in 0..CLIENTS {
            tasks.push(client(&cluster, seed * CLIENTS + one, isolation, &done).boxed());
        }
        tasks.push(auditor(&cluster, &done).boxed());
        interleave(seed, tasks);
        let total = block_on(run(&mut session, "SELECT sum(balance) FROM accounts")).unwrap();
        assert_eq!(number(&total.rows), ACCOUNTS * START, "seed {seed}");
    }
}

#[test]
fn serializable_transactions_lose_no_money() {
    bank("SERIALIZABLE");
}

#[test]
fn read_committed_transactions_that_lock_lose_no_money() {
    bank("READ COMMITTED");
}
