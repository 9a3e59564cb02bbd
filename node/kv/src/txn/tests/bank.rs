//! Transfers between accounts in three ranges, from several threads, while somebody adds up.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const ACCOUNTS: usize = 9;
const START: i64 = 100;
const THREADS: u64 = 6;
const TRANSFERS: usize = 60;

/// A small generator, seeded so that a failure can be had again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

fn account(n: usize) -> String {
    format!("{}", char::from(b'a' + u8::try_from(n * 2).unwrap()))
}

fn balance(response: Response) -> i64 {
    text(response).unwrap().parse().unwrap()
}

/// Moves money from one account to two others; returns whether it was done.
async fn transfer(client: &TxnClient, dice: &mut Dice) -> Result<bool, TxnError> {
    let mut txn = client.begin(TxnOptions::default());
    let outcome = moves(&mut txn, dice).await;
    if outcome != Ok(true) {
        txn.rollback().await;
    }
    outcome
}

async fn moves(txn: &mut Txn, dice: &mut Dice) -> Result<bool, TxnError> {
    let from = dice.below(ACCOUNTS);
    let to = (from + 1 + dice.below(ACCOUNTS - 1)) % ACCOUNTS;
    let locking = dice.below(3) > 0;
    let read = |n: usize| if locking { lock(&account(n)) } else { get(&account(n)) };
    let answers = txn.read(vec![read(from), read(to)], ReadOptions::default()).await?;
    let [have, has] = answers.try_into().map(|both: [Response; 2]| both.map(balance)).unwrap();
    let savepoint = txn.savepoint();
    txn.put(key(&account(from)), "-1000".into())?;
    if dice.below(4) == 0 {
        txn.flush().await?;
    }
    txn.rollback_to(savepoint).await?;
    txn.put(key(&account(from)), (have - 1).to_string().into())?;
    if dice.below(4) == 0 {
        txn.flush().await?;
    }
    txn.put(key(&account(to)), (has + 1).to_string().into())?;
    if dice.below(8) == 0 {
        return Ok(false);
    }
    txn.commit().await?;
    Ok(true)
}

async fn sum(client: &TxnClient) -> Result<i64, TxnError> {
    let mut txn = client.begin(TxnOptions::default());
    let reads = (0..ACCOUNTS).map(|n| get(&account(n))).collect();
    let answers = txn.read(reads, ReadOptions::default()).await?;
    Ok(answers.into_iter().map(balance).sum())
}

fn run<T>(future: impl std::future::Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn the_sum_of_all_accounts_never_changes() {
    let (_, sender, client) = cluster();
    run(async {
        for n in 0..ACCOUNTS {
            let mut txn = client.begin(TxnOptions::default());
            txn.put(key(&account(n)), START.to_string().into()).unwrap();
            txn.commit().await.unwrap();
        }
    });
    split(&sender, "f", 50);
    split(&sender, "l", 51);
    let expected = START * i64::try_from(ACCOUNTS).unwrap();
    let busy = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|seed| {
                let client = client.clone();
                scope.spawn(move || {
                    let mut dice = Dice(seed);
                    let mut done = 0;
                    run(async {
                        for _ in 0..TRANSFERS {
                            match transfer(&client, &mut dice).await {
                                Ok(moved) => done += usize::from(moved),
                                Err(TxnError::Retry { .. }) => {}
                                Err(error) => panic!("seed {seed}: {error}"),
                            }
                        }
                    });
                    done
                })
            })
            .collect();
        let (busy, reader) = (&busy, client.clone());
        let auditor = scope.spawn(move || {
            run(async {
                let mut audits = 0;
                while busy.load(Ordering::Relaxed) {
                    match sum(&reader).await {
                        Ok(sum) => assert_eq!(sum, expected),
                        Err(TxnError::Retry { .. }) => continue,
                        Err(error) => panic!("the auditor: {error}"),
                    }
                    audits += 1;
                }
                audits
            })
        });
        let done: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        busy.store(false, Ordering::Relaxed);
        assert!(done > 0 && auditor.join().unwrap() > 0, "{done} transfers: {:?}", client.counts());
        println!("{done} transfers, {:?}", client.counts());
    });
    assert_eq!(run(sum(&client)).unwrap(), expected);
    // The record of a transaction that was aborted and did not notice may stay, an intent may not.
    let intent = |left: &String| left.ends_with('\u{1}');
    assert!(!left_behind(&sender).iter().any(intent));
}
