//! The statements of a transaction, drawn at random, and what becomes of their answers.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use crdb_kv::{ReadOptions, RetryCause, TxnError};
use crdb_proto::kv::{
    GetRequest, LockStrength, Request, Response, ScanRequest, WaitPolicy, request, response,
};

use super::{
    log::{KeyId, Kind, Read},
    work::{Course, Job, Stop, number},
};
use crate::plan::MS;

/// Times a client runs a statement under READ COMMITTED again.
const STATEMENT_TRIES: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    Get,
    Scan,
    Write,
    Update,
    Flush,
    Save,
    Back,
    /// Writes that are sent, and taken back by a savepoint.
    TakeBack,
    Pause,
}

impl Job {
    pub(super) async fn steps(&self, course: &mut Course) -> Result<(), Stop> {
        let steps = self.draw(|rng, habits| 1 + rng.index(habits.steps));
        let read_only = course.txn.options().read_only;
        for _ in 0..steps {
            let step = self.draw(|rng, habits| match rng.index(100) {
                0..30 => Step::Get,
                30..45 => Step::Scan,
                45..50 if !read_only && (habits.give_up > 0 || rng.chance(30)) => Step::TakeBack,
                45..50 => Step::Pause,
                50..70 if !read_only => Step::Update,
                70..90 if !read_only => Step::Write,
                90..95 if !read_only && rng.chance(habits.flush) => Step::Flush,
                95..98 if !read_only && rng.chance(habits.savepoint) => Step::Save,
                98.. if !read_only => Step::Back,
                _ => Step::Get,
            });
            self.statement(course, step).await?;
        }
        Ok(())
    }

    /// One statement; under READ COMMITTED it is run again when it is told to.
    async fn statement(&self, course: &mut Course, step: Step) -> Result<(), Stop> {
        for _ in 0..STATEMENT_TRIES {
            course.txn.begin_statement();
            if course.kind == Kind::ReadCommitted {
                course.statement = self.hub.now();
            }
            let start = (course.kind == Kind::ReadCommitted)
                .then(|| (course.txn.savepoint(), course.own.clone()));
            let attempt = course.attempt;
            let outcome = self.step(course, step).await;
            self.hub.trace(|| {
                format!("transaction {attempt}: {step:?} {outcome:?}, own {:?}", course.own)
            });
            match (outcome, start) {
                (Err(Stop::Txn(error @ TxnError::Retry { .. })), Some((savepoint, own)))
                    if error.may_continue() =>
                {
                    course.txn.rollback_to(savepoint).await?;
                    course.own = own;
                }
                (outcome, _) => return outcome,
            }
        }
        Err(Stop::Txn(TxnError::Retry { cause: RetryCause::WriteTooOld }))
    }

    async fn step(&self, course: &mut Course, step: Step) -> Result<(), Stop> {
        match step {
            Step::Get => {
                let count = self.draw(|rng, _| 1 + rng.index(3));
                let keys: Vec<KeyId> = (0..count).map(|_| self.any_key(course)).collect();
                let lock = self.lock(course);
                self.get(course, &keys, lock).await.map(drop)
            }
            Step::Scan => self.scan(course).await,
            Step::Write => {
                let key = self.any_key(course);
                match self.draw(|rng, _| rng.index(10)) {
                    0..3 => {
                        if course.txn.delete(self.keys.key(key)) == Err(TxnError::BufferFull) {
                            self.flush(course).await?;
                            course.txn.delete(self.keys.key(key))?;
                        }
                        course.own.insert(key, None);
                        Ok(())
                    }
                    3..5 => self.insert(course, key).await,
                    _ => self.put(course, key).await,
                }
            }
            Step::Update => {
                let key = self.any_key(course);
                let lock = self.lock(course);
                self.get(course, &[key], lock).await?;
                self.put(course, key).await
            }
            Step::Flush => match self.unless_given_up(course.txn.flush()).await? {
                Some(()) => Ok(()),
                // The statement has failed.
                None if course.saves.is_empty() => {
                    Err(Stop::Txn(TxnError::GivenUp { what: "a statement" }))
                }
                None => self.back(course).await,
            },
            Step::Save => {
                course.saves.push((course.txn.savepoint(), course.own.clone()));
                Ok(())
            }
            Step::Back => self.back(course).await,
            Step::TakeBack => {
                course.saves.push((course.txn.savepoint(), course.own.clone()));
                for _ in 0..self.draw(|rng, _| 1 + rng.index(4)) {
                    let key = self.any_key(course);
                    self.put(course, key).await?;
                }
                self.unless_given_up(course.txn.flush()).await?;
                self.back(course).await
            }
            Step::Pause => {
                let pause = self.draw(|rng, _| rng.within(0..300 * MS));
                self.hub.sleep(pause).await;
                Ok(())
            }
        }
    }

    /// Goes back to the latest savepoint, if there is one.
    async fn back(&self, course: &mut Course) -> Result<(), Stop> {
        let Some((savepoint, own)) = course.saves.pop() else { return Ok(()) };
        course.txn.rollback_to(savepoint).await?;
        course.own = own;
        Ok(())
    }

    /// A key, of the group of the keys before if the transaction must stay there.
    fn any_key(&self, course: &Course) -> KeyId {
        let any = self.draw(|rng, _| rng.index(self.keys.general()));
        if self.habits.across {
            return any;
        }
        let (start, end) = self.group(course.attempt as u64);
        self.draw(|rng, _| rng.pick(&self.keys.within(&start, &end))).unwrap_or(any)
    }

    fn lock(&self, course: &Course) -> LockStrength {
        if course.txn.options().read_only {
            return LockStrength::LockNone;
        }
        self.draw(|rng, habits| match rng.chance(habits.locking) {
            false => LockStrength::LockNone,
            true if rng.chance(25) => LockStrength::LockShared,
            true => LockStrength::LockExclusive,
        })
    }

    pub(super) async fn put(&self, course: &mut Course, key: KeyId) -> Result<(), Stop> {
        let value = self.fresh(course.attempt);
        self.write(course, key, value, None).await
    }

    /// Writes a value to a key, and makes room for it if there is none.
    pub(super) async fn write(
        &self,
        course: &mut Course,
        key: KeyId,
        value: u64,
        balance: Option<i64>,
    ) -> Result<(), Stop> {
        let text = self.value(value, balance);
        if course.txn.put(self.keys.key(key), text.clone()) == Err(TxnError::BufferFull) {
            self.flush(course).await?;
            course.txn.put(self.keys.key(key), text)?;
        }
        course.own.insert(key, Some(value));
        Ok(())
    }

    /// Sends what is buffered; a statement that gives that up has failed.
    async fn flush(&self, course: &mut Course) -> Result<(), Stop> {
        let done = self.unless_given_up(course.txn.flush()).await?;
        done.ok_or(Stop::Txn(TxnError::GivenUp { what: "a statement" }))
    }

    async fn insert(&self, course: &mut Course, key: KeyId) -> Result<(), Stop> {
        let value = self.fresh(course.attempt);
        let own = course.own.get(&key).copied().flatten();
        let text = self.value(value, None);
        let mut outcome = course.txn.insert(self.keys.key(key), text.clone());
        if outcome == Err(TxnError::BufferFull) {
            self.flush(course).await?;
            outcome = course.txn.insert(self.keys.key(key), text);
        }
        match outcome {
            // What was sent already is found out by the commit at the latest.
            Ok(()) if own.is_some() => {
                course.over.push((key, value));
                course.own.insert(key, Some(value));
                Ok(())
            }
            Ok(()) => {
                // Over an own deletion the insert asks for nothing.
                if course.own.insert(key, Some(value)).is_none() {
                    self.log.lock().with(course.attempt, |of| of.inserted.insert(value));
                }
                Ok(())
            }
            Err(TxnError::Duplicate { actual, .. }) if own == Some(number(&actual)?) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn read_options(&self, lock: LockStrength, wait_skip: bool) -> ReadOptions {
        self.draw(|rng, _| ReadOptions {
            wait_policy: match rng.index(20) {
                0 => WaitPolicy::WaitError,
                1 if wait_skip && lock != LockStrength::LockNone => WaitPolicy::WaitSkip,
                _ => WaitPolicy::WaitBlock,
            },
            lock_timeout: Duration::from_millis(if rng.chance(10) { 200 } else { 0 }),
        })
    }

    /// Reads keys and notes what came back.
    pub(super) async fn get(
        &self,
        course: &mut Course,
        keys: &[KeyId],
        lock: LockStrength,
    ) -> Result<Vec<Option<Bytes>>, Stop> {
        let lock_absent = self.draw(|rng, _| rng.chance(50));
        let options = self.read_options(lock, false);
        self.read(course, keys, lock, lock_absent, options).await
    }

    pub(super) async fn read(
        &self,
        course: &mut Course,
        keys: &[KeyId],
        lock: LockStrength,
        lock_absent: bool,
        options: ReadOptions,
    ) -> Result<Vec<Option<Bytes>>, Stop> {
        let get = |key: &KeyId| {
            let key = self.keys.key(*key);
            let get = GetRequest { key, lock: lock.into(), lock_absent, ..Default::default() };
            Request { kind: Some(request::Kind::Get(get)) }
        };
        let requests = keys.iter().map(get).collect();
        let answer = self.unless_given_up(course.txn.read(requests, options)).await?;
        let responses = answer.ok_or(TxnError::GivenUp { what: "a read" })?;
        let mut values = Vec::new();
        for (key, response) in keys.iter().zip(responses) {
            let Some(response::Kind::Get(get)) = response.kind else {
                return Err(Stop::Wrong("a get has an answer of another kind".into()));
            };
            let value = get.value.as_ref().map(number).transpose()?;
            // A key that is not there is locked only on demand.
            let locked = lock != LockStrength::LockNone && (lock_absent || value.is_some());
            self.saw(course, *key, value, locked)?;
            values.push(get.value);
        }
        Ok(values)
    }

    /// Compares a value with what the transaction wrote itself, or notes it for the end.
    fn saw(
        &self,
        course: &Course,
        key: KeyId,
        value: Option<u64>,
        locked: bool,
    ) -> Result<(), Stop> {
        if let Some(own) = course.own.get(&key) {
            if *own == value {
                return Ok(());
            }
            let key = crdb_keys::pretty::Pretty(&self.keys.key(key)).to_string();
            // Whoever aborts a transaction takes its writes away before it hears of it.
            let lost = format!("it wrote {own:?} to {key} and read {value:?} there");
            self.log.lock().with(course.attempt, |attempt| attempt.lost_own = Some(lost));
            return Ok(());
        }
        let at = course.txn.read_timestamp().ok_or_else(|| Stop::Wrong("no timestamp".into()))?;
        let since = course.statement;
        let done = self.hub.now();
        let read = Read { key, value, at, since, done, locked };
        self.log.lock().with(course.attempt, |attempt| attempt.reads.push(read));
        Ok(())
    }

    async fn scan(&self, course: &mut Course) -> Result<(), Stop> {
        let bits = self.draw(|rng, _| rng.bits());
        let bits = if self.habits.across { bits } else { course.attempt as u64 };
        let (start, end) = self.group(bits);
        let lock = self.lock(course);
        let (reverse, max_rows) = self
            .draw(|rng, _| (rng.chance(30), if rng.chance(40) { 1 + rng.within(0..3) } else { 0 }));
        let options = self.read_options(lock, true);
        let skips = options.wait_policy == WaitPolicy::WaitSkip;
        let scan = ScanRequest {
            start: start.clone(),
            end: end.clone(),
            max_rows,
            reverse,
            lock: lock.into(),
            ..ScanRequest::default()
        };
        let request = Request { kind: Some(request::Kind::Scan(scan)) };
        let mut responses: Vec<Response> = course.txn.read(vec![request], options).await?;
        let Some(response::Kind::Scan(found)) = responses.pop().and_then(|found| found.kind) else {
            return Err(Stop::Wrong("a scan has an answer of another kind".into()));
        };
        let (start, end) = match found.resume {
            None => (start, end),
            Some(rest) if reverse => (rest.end, end),
            Some(rest) => (start, rest.start),
        };
        let mut rows = BTreeMap::new();
        for row in &found.rows {
            let Some(id) = self.keys.by_key.get(&row.key) else {
                return Err(Stop::Wrong(format!("a scan returned {:?}", row.key)));
            };
            if rows.insert(*id, number(&row.value)?).is_some() {
                return Err(Stop::Wrong(format!("a scan returned {:?} twice", row.key)));
            }
        }
        for key in self.keys.within(&start, &end) {
            let value = rows.remove(&key);
            let locked = lock != LockStrength::LockNone && value.is_some();
            if value.is_some() || !skips {
                self.saw(course, key, value, locked)?;
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        Err(Stop::Wrong(format!("a scan up to {end:?} returned keys beyond: {rows:?}")))
    }
}
