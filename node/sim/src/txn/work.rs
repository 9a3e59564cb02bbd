//! What one client does with transactions: programs drawn at random, run through the gateway, noted
//! in the log as they go.
//!
//! The client is a task of the gateway's process. It may die at any await, as a session does whose
//! node crashes; what it noted until then is all that is known of it.

use std::{collections::BTreeMap, pin::pin, sync::Arc};

use bytes::Bytes;
use crdb_keys::{Key, Timestamp, hlc::Clock};
use crdb_kv::{
    AsOf, CommitInfo, CommitOutcome, ReadOptions, SavepointId, SendError, Txn, TxnClient, TxnError,
    TxnOptions,
};
use crdb_proto::kv::{
    BatchRequest, Isolation, LockStrength, PutRequest, Request, TxnPriority, request,
};
use futures::future::{Either, select};
use parking_lot::Mutex;

use super::log::{Ending, KeyId, Kind, Log};
use crate::{
    event::Note,
    exec::{Hub, Want},
    plan::MS,
    rng::Rng,
};

/// What every account holds before anybody wrote to it.
pub(crate) const OPENING_BALANCE: i64 = 100;
/// Times a client runs a transaction again after a retry error.
const TRIES: usize = 3;

/// The keys that transactions work on: groups of neighbours, each within one span, and accounts.
#[derive(Debug)]
pub(crate) struct Keys {
    /// All of them; the accounts are the last.
    pub(crate) all: Vec<Key>,
    pub(crate) accounts: usize,
    /// Span that holds nothing but keys of one group.
    pub(crate) groups: Vec<(Key, Key)>,
    pub(super) by_key: BTreeMap<Key, KeyId>,
}

impl Keys {
    /// `count` keys spread over the groups of `prefixes`, and `accounts` accounts, if `across` too.
    pub(crate) fn new(prefixes: &[&str], count: usize, accounts: usize, across: bool) -> Self {
        let prefix = |at: usize| prefixes.get(at % prefixes.len()).copied().unwrap_or_default();
        let general = (0..count).map(|at| Key::from(format!("{}zzt{at}", prefix(at))));
        let home = |at| if across { at } else { 0 };
        let accounts_of = (0..accounts).map(|at| Key::from(format!("{}zzu{at}", prefix(home(at)))));
        let all: Vec<Key> = general.chain(accounts_of).collect();
        let by_key = all.iter().enumerate().map(|(id, key)| (key.clone(), id)).collect();
        let groups = prefixes
            .iter()
            .map(|prefix| (Key::from(format!("{prefix}zzt")), Key::from(format!("{prefix}zzu"))))
            .collect();
        Self { all, accounts, groups, by_key }
    }

    pub(super) fn general(&self) -> usize {
        self.all.len() - self.accounts
    }

    pub(super) fn key(&self, id: KeyId) -> Key {
        self.all.get(id).cloned().unwrap_or_default()
    }

    pub(super) fn account(&self, at: usize) -> KeyId {
        self.general() + at
    }

    pub(super) fn within(&self, start: &Key, end: &Key) -> Vec<KeyId> {
        self.by_key.range(start.clone()..end.clone()).map(|(_, id)| *id).collect()
    }
}

/// What clients do more or less often, of 100 each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    pub(crate) read_committed: u32,
    pub(crate) read_only: u32,
    pub(crate) as_of: u32,
    pub(crate) bank: u32,
    pub(crate) single: u32,
    pub(crate) locking: u32,
    pub(crate) flush: u32,
    pub(crate) savepoint: u32,
    pub(crate) rollback: u32,
    /// Pauses before a commit.
    pub(crate) dawdle: u32,
    /// Waits that are not waited to their end, as when a statement is cancelled.
    pub(crate) give_up: u32,
    /// Values of more than a few bytes.
    pub(crate) large: u32,
    pub(crate) steps: usize,
    /// Keys of all groups in one transaction.
    pub(crate) across: bool,
}

/// One client at work.
pub(crate) struct Job {
    pub(crate) hub: Arc<Hub>,
    pub(crate) log: Arc<Mutex<Log>>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) habits: Habits,
    pub(crate) txns: TxnClient,
    pub(crate) clock: Clock,
    pub(crate) client: usize,
    pub(crate) gateway: usize,
    /// Number of the job, for the client that waits for its end.
    pub(crate) op: u64,
}

/// Why an attempt does not go on.
#[derive(Debug)]
pub(super) enum Stop {
    Txn(TxnError),
    /// The database did something that it never may.
    Wrong(String),
}

impl From<TxnError> for Stop {
    fn from(error: TxnError) -> Self {
        Self::Txn(error)
    }
}

/// A transaction under way.
pub(super) struct Course {
    pub(super) txn: Txn,
    pub(super) attempt: usize,
    pub(super) kind: Kind,
    /// What it wrote and did not take back.
    pub(super) own: BTreeMap<KeyId, Option<u64>>,
    /// What it inserted over values of its own that were sent before.
    pub(super) over: Vec<(KeyId, u64)>,
    pub(super) saves: Vec<(SavepointId, BTreeMap<KeyId, Option<u64>>)>,
    /// When the statement began that is bound to see what was known before.
    pub(super) statement: u64,
}

impl Job {
    /// Runs one transaction, again if it is told to, and says when it is done.
    pub(crate) async fn run(self) {
        let mut committed = false;
        let mut outcome = Ok(());
        if self.draw(|rng, habits| rng.chance(habits.single)) {
            outcome = self.single().await;
            committed = outcome.is_ok();
        } else {
            for _ in 0..TRIES {
                match self.transaction().await {
                    Ok(()) => committed = true,
                    Err(Stop::Txn(TxnError::Retry { .. })) => continue,
                    Err(Stop::Txn(_)) => {}
                    Err(Stop::Wrong(why)) => outcome = Err(why),
                }
                break;
            }
        }
        let wrong = outcome.err();
        self.note(Note::TxnDone { client: self.client, op: self.op, committed, wrong });
    }

    /// Locks and writes every key, so that whatever was left behind is met and dealt with.
    pub(crate) async fn sweep(self) {
        let groups: Vec<Vec<KeyId>> = if self.habits.across {
            vec![(0..self.keys.all.len()).collect()]
        } else {
            (0..self.keys.all.len()).map(|key| vec![key]).collect()
        };
        for keys in groups {
            loop {
                match self.sweep_keys(&keys).await {
                    Ok(()) => break,
                    Err(Stop::Wrong(why)) => {
                        let wrong = Some(why);
                        self.note(Note::Swept { wrong });
                        return;
                    }
                    Err(Stop::Txn(error)) => self.note(Note::SweepFailed(error.to_string())),
                }
                self.hub.sleep(20 * MS).await;
            }
        }
        self.note(Note::Swept { wrong: None });
    }

    async fn sweep_keys(&self, keys: &[KeyId]) -> Result<(), Stop> {
        let mut course = self.begin_as(Kind::Serializable, TxnOptions::default());
        let worked = self.sweep_steps(&mut course, keys).await;
        if let Err(stop) = worked {
            course.txn.rollback().await;
            self.end(&course, Ending::Failed(format!("{stop:?}")));
            return Err(stop);
        }
        self.commit(course).await
    }

    async fn sweep_steps(&self, course: &mut Course, keys: &[KeyId]) -> Result<(), Stop> {
        for key in keys {
            let lock = match self.habits.locking {
                0 => LockStrength::LockNone,
                _ => LockStrength::LockExclusive,
            };
            let values = self.read(course, &[*key], lock, true, ReadOptions::default()).await?;
            if *key < self.keys.general() {
                self.put(course, *key).await?;
                continue;
            }
            let left = values.first().map_or(Ok(OPENING_BALANCE), balance)?;
            self.set_balance(course, *key, left).await?;
        }
        Ok(())
    }

    fn note(&self, note: Note) {
        self.hub.want(Want::Note(Box::new(note)));
    }

    pub(super) fn draw<T>(&self, draw: impl FnOnce(&mut Rng, &Habits) -> T) -> T {
        self.hub.draw(|rng| draw(rng, &self.habits))
    }

    /// A batch of writes outside of any transaction, in one group.
    async fn single(&self) -> Result<(), String> {
        let (group, count) = self.draw(|rng, _| (rng.bits(), 1 + rng.index(2)));
        let (start, end) = self.group(group);
        let keys = self.keys.within(&start, &end);
        let attempt =
            self.log.lock().begin(self.client, self.gateway, Kind::Single, self.hub.now());
        let mut requests = Vec::new();
        for _ in 0..count {
            let Some(key) = self.draw(|rng, _| rng.pick(&keys)) else { return Ok(()) };
            let value = self.fresh(attempt);
            self.log.lock().with(attempt, |attempt| attempt.writes.insert(key, Some(value)));
            let put = PutRequest { key: self.keys.key(key), value: self.value(value, None) };
            requests.push(Request { kind: Some(request::Kind::Put(put)) });
        }
        self.log.lock().with(attempt, |attempt| attempt.ending = Ending::Unknown);
        let result = self.txns.send_non_txn(BatchRequest { header: None, requests }).await;
        let ending = match result {
            Ok(response) => Ending::Committed(response.write_timestamp.map(Timestamp::from)),
            Err(SendError::Ambiguous { .. }) => Ending::Unknown,
            Err(error) => Ending::Failed(error.to_string()),
        };
        self.log.lock().end(attempt, ending, self.hub.now());
        Ok(())
    }

    pub(super) fn group(&self, bits: u64) -> (Key, Key) {
        let count = self.keys.groups.len().max(1) as u64;
        let at = usize::try_from(bits % count).unwrap_or_default();
        self.keys.groups.get(at).cloned().unwrap_or_default()
    }

    /// A number that nobody else writes.
    pub(super) fn fresh(&self, attempt: usize) -> u64 {
        let value = self.hub.fresh();
        self.log.lock().with(attempt, |attempt| attempt.tried.insert(value));
        value
    }

    /// One attempt from begin to end.
    async fn transaction(&self) -> Result<(), Stop> {
        let bank = self.draw(|rng, habits| rng.chance(habits.bank));
        let mut course = self.begin(bank);
        let worked =
            if bank { self.bank(&mut course).await } else { self.steps(&mut course).await };
        let gives_up = self.draw(|rng, habits| rng.chance(habits.rollback));
        match worked {
            Ok(()) if gives_up => {
                course.txn.rollback().await;
                self.end(&course, Ending::Failed("rolled back".into()));
                Ok(())
            }
            Ok(()) => self.commit(course).await,
            Err(stop) => {
                course.txn.rollback().await;
                self.end(&course, Ending::Failed(format!("{stop:?}")));
                Err(stop)
            }
        }
    }

    fn begin(&self, bank: bool) -> Course {
        let as_of = self.draw(|rng, habits| {
            (!bank && rng.chance(habits.as_of)).then(|| (rng.within(0..6_000 * MS), rng.chance(70)))
        });
        let options = self.draw(|rng, habits| TxnOptions {
            isolation: if !bank && rng.chance(habits.read_committed) {
                Isolation::ReadCommitted
            } else {
                Isolation::Serializable
            },
            priority: match rng.index(12) {
                0 => TxnPriority::PriorityLow,
                1 => TxnPriority::PriorityHigh,
                _ => TxnPriority::PriorityNormal,
            },
            read_only: !bank && rng.chance(habits.read_only),
            as_of: as_of.map(|(ago, nearest)| AsOf {
                timestamp: Timestamp::new(self.clock.wall_nanos().saturating_sub(ago), 0),
                nearest,
            }),
            implicit: false,
        });
        let kind = match (options.as_of, options.isolation) {
            (Some(_), _) => Kind::AsOf,
            (None, Isolation::Serializable) => Kind::Serializable,
            (None, Isolation::ReadCommitted) => Kind::ReadCommitted,
        };
        self.begin_as(kind, options)
    }

    fn begin_as(&self, kind: Kind, options: TxnOptions) -> Course {
        let now = self.hub.now();
        let attempt = self.log.lock().begin(self.client, self.gateway, kind, now);
        let txn = self.txns.begin(options);
        self.hub.trace(|| {
            let id: String = txn.meta().id.iter().map(|byte| format!("{byte:02x}")).collect();
            let (client, gateway) = (self.client, self.gateway + 1);
            format!("transaction {attempt}: c{client} at s{gateway} begins {id}: {options:?}")
        });
        Course {
            txn,
            attempt,
            kind,
            own: BTreeMap::new(),
            over: Vec::new(),
            saves: Vec::new(),
            statement: now,
        }
    }

    fn end(&self, course: &Course, ending: Ending) {
        self.hub.trace(|| format!("transaction {}: {ending:?}", course.attempt));
        self.log.lock().end(course.attempt, ending, self.hub.now());
    }

    async fn commit(&self, mut course: Course) -> Result<(), Stop> {
        // An insert over an own value, unless it was taken back, has to fail now.
        let stays = |(key, value): &&(KeyId, u64)| course.own.get(key) == Some(&Some(*value));
        if let Some((_, value)) = course.over.iter().find(stays) {
            let lost = format!("its insert of {value} over its own value succeeded");
            self.log.lock().with(course.attempt, |attempt| attempt.lost_own = Some(lost));
        }
        // What has only deletions left nothing to tell its outcome by.
        let writes = !course.own.is_empty();
        if writes && course.own.values().all(Option::is_none) {
            let key = self.draw(|rng, _| rng.index(self.keys.general()));
            let key =
                if self.habits.across { Some(key) } else { course.own.keys().next().copied() };
            self.put(&mut course, key.unwrap_or_default()).await?;
        }
        if let Some(key) = course.own.keys().next()
            && self.draw(|rng, habits| rng.chance(habits.dawdle))
        {
            self.note(Note::Dawdling { key: self.keys.key(*key) });
            let pause = self.draw(|rng, _| rng.within(0..400 * MS));
            self.hub.sleep(pause).await;
        }
        self.log.lock().with(course.attempt, |attempt| attempt.writes.clone_from(&course.own));
        self.note(Note::Committing { client: self.client, op: self.op, gateway: self.gateway });
        match self.commit_unless_stopped(&mut course).await {
            Ok(info) => {
                self.end(&course, Ending::Committed(info.timestamp));
                Ok(())
            }
            Err(error @ TxnError::Ambiguous { .. }) => {
                self.end(&course, Ending::Unknown);
                Err(error.into())
            }
            Err(error) => {
                course.txn.rollback().await;
                self.end(&course, Ending::Failed(error.to_string()));
                Err(error.into())
            }
        }
    }

    /// Commits. Lost while its commit is under way, nobody knows what became of the transaction; lost
    /// while it waits for locks first, it must not take effect.
    async fn commit_unless_stopped(&self, course: &mut Course) -> Result<CommitInfo, TxnError> {
        let log = |ending| self.log.lock().with(course.attempt, |attempt| attempt.ending = ending);
        loop {
            log(Ending::Unknown);
            if let CommitOutcome::Committed(info) = course.txn.try_commit().await? {
                return Ok(info);
            }
            log(Ending::Open);
            let locked = self.unless_given_up(course.txn.lock_writes()).await?;
            locked.ok_or(TxnError::GivenUp { what: "a wait for locks" })?;
        }
    }

    /// Waits for `work`, or gives it up: then its requests go on wherever they are.
    pub(super) async fn unless_given_up<T>(
        &self,
        work: impl Future<Output = Result<T, TxnError>>,
    ) -> Result<Option<T>, TxnError> {
        let patience = self.draw(|rng, habits| {
            (habits.give_up > 0 && rng.chance(habits.give_up)).then(|| rng.within(0..100 * MS))
        });
        let Some(patience) = patience else { return work.await.map(Some) };
        match select(pin!(work), self.hub.sleep(patience)).await {
            Either::Left((done, _)) => done.map(Some),
            Either::Right(_) => Ok(None),
        }
    }

    /// Moves money between two accounts, or counts all of it.
    async fn bank(&self, course: &mut Course) -> Result<(), Stop> {
        course.txn.begin_statement();
        let accounts = self.keys.accounts;
        let (audit, from, by, lock) = self.draw(|rng, habits| {
            (
                rng.chance(30),
                rng.index(accounts),
                1 + rng.index(accounts.max(2) - 1),
                rng.chance(habits.locking),
            )
        });
        let lock = if lock { LockStrength::LockExclusive } else { LockStrength::LockNone };
        if audit || course.txn.options().read_only {
            let all: Vec<KeyId> = (0..accounts).map(|at| self.keys.account(at)).collect();
            let values = self.get(course, &all, LockStrength::LockNone).await?;
            let total =
                values.iter().try_fold(0, |sum, value| Ok::<_, Stop>(sum + balance(value)?))?;
            let expected = OPENING_BALANCE * i64::try_from(accounts).unwrap_or(0);
            if total != expected {
                let attempt = course.attempt;
                return Err(Stop::Wrong(format!(
                    "transaction {attempt} counts {total} instead of {expected}: {values:?}"
                )));
            }
            return Ok(());
        }
        let pair = [self.keys.account(from), self.keys.account((from + by) % accounts)];
        let values = self.get(course, &pair, lock).await?;
        let amount = self.draw(|rng, _| 1 + i64::try_from(rng.index(20)).unwrap_or(0));
        for ((account, value), change) in pair.iter().zip(&values).zip([-amount, amount]) {
            self.set_balance(course, *account, balance(value)? + change).await?;
        }
        Ok(())
    }

    async fn set_balance(
        &self,
        course: &mut Course,
        account: KeyId,
        left: i64,
    ) -> Result<(), Stop> {
        let id = self.fresh(course.attempt);
        self.log.lock().balances.insert(id, left);
        self.write(course, account, id, Some(left)).await
    }

    /// A value that says its number, and a balance if it is that of an account; of any size.
    pub(super) fn value(&self, number: u64, balance: Option<i64>) -> Bytes {
        let balance = balance.map_or(String::new(), |balance| balance.to_string());
        let padding = self.draw(|rng, habits| match rng.chance(habits.large) {
            false => 0,
            true if rng.chance(20) => rng.index(5_000),
            true => rng.index(300),
        });
        format!("{number}:{balance}:{}", "x".repeat(padding)).into()
    }
}

/// The number that was written with a value.
pub(crate) fn number(value: &Bytes) -> Result<u64, String> {
    let text = std::str::from_utf8(value).map_err(|error| error.to_string())?;
    let text = text.split(':').next().unwrap_or_default();
    text.parse().map_err(|_| format!("nobody wrote the value {text:?}"))
}

fn balance(value: &Option<Bytes>) -> Result<i64, String> {
    let Some(value) = value else { return Ok(OPENING_BALANCE) };
    let text = std::str::from_utf8(value).map_err(|error| error.to_string())?;
    let text = text.split(':').nth(1).unwrap_or_default();
    text.parse().map_err(|_| format!("{text:?} is no balance"))
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::Wrong(why)
    }
}
