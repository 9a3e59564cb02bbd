//! Statements with a plan: alone in their transaction, or as one of several; and how either runs
//! again after it lost a race.

use std::sync::Arc;
use std::time::Duration;

use crdb_kv::AsOf;
use crdb_proto::kv::Isolation;

use super::txn::{Open, Step};
use super::{CancelFlag, ExecResult, Prepared, Session, SessionInfo, WriteFlag};
use crate::analyze::OFFLINE;
use crate::catalog::Snapshot;
use crate::datum::Datum;
use crate::error::{Result, SqlError, SqlState};
use crate::exec::{
    ExecCtx, StatementTxn, WriteOutcome, commit_alone, run_delete, run_insert, run_update,
};
use crate::kv::{ABORTED, CONFLICT, EXPIRED, retry_error};
use crate::plan::{CachedPlan, StatementPlan};
use crate::types::SqlType;

/// What was tried, and why it is tried again.
#[derive(Default)]
pub(super) struct Tries {
    count: u32,
    cause: String,
}

/// Whether an error says that a race was lost, or a lease expired, and nothing worse.
pub(super) fn retryable(error: &SqlError) -> bool {
    matches!(error.code, CONFLICT | ABORTED | EXPIRED)
}

/// What makes a statement run, beside its plan.
struct Run<'a> {
    info: &'a SessionInfo,
    write_flag: &'a WriteFlag,
    params: &'a [Datum],
    cancel: &'a CancelFlag,
    lock_timeout: Duration,
}

impl Tries {
    /// Takes note of another try that failed. Fails with what the client is told once there were
    /// too many.
    pub(super) fn failed(&mut self, session: &Session, error: &SqlError) -> Result<()> {
        self.count += 1;
        // The first race lost is what the client can make something of.
        if self.cause.is_empty() {
            self.cause.clone_from(&error.message);
        }
        session.info.node.count_auto_retry();
        session.seat.retried(&error.message);
        if self.count > session.info.node.limits.retries { Err(self.give_up()) } else { Ok(()) }
    }

    /// What the client is told.
    pub(super) fn give_up(&self) -> SqlError {
        retry_error(&self.cause)
    }

    /// Waits a little, longer and less predictably with each try.
    pub(super) async fn back_off(&self, session: &Session) {
        if self.count < 2 {
            return;
        }
        let limit = 1u64 << self.count.min(6);
        let millis = session.info.node.random_u64() % limit;
        session.info.node.timer.sleep(Duration::from_millis(millis)).await;
    }
}

impl Session {
    /// Runs a statement that is a transaction of its own and commits with it.
    pub(super) async fn run_alone(
        &mut self,
        prepared: &Prepared,
        params: &[Datum],
        cancel: &CancelFlag,
        as_of: Option<AsOf>,
    ) -> Result<ExecResult> {
        let mut tries = Tries::default();
        self.set_transaction_time(None);
        let mut modes = self.allowed(self.defaults);
        modes.as_of = as_of;
        modes.read_only |= as_of.is_some();
        self.info.shown.read_timestamp = as_of.map(|as_of| as_of.timestamp);
        loop {
            cancel.check()?;
            let (snapshot, plan) = self.plan_of(prepared, cancel, as_of).await?;
            self.check_read_only(&plan.statement, modes.read_only)?;
            let mut kv = self.info.node.txns.begin(modes.options(true));
            kv.bind_to_lease(snapshot.lease());
            kv.set_lock_timeout(self.write_patience());
            self.seat.alone(modes.info(Some(&kv), self.info.statement_micros));
            let run = self.run_with(params, cancel);
            let txn = StatementTxn::new(&mut kv, true, run.lock_timeout);
            let error = match run.plan(&plan.statement, txn).await {
                Ok(mut result) => {
                    result.columns.clone_from(&prepared.columns);
                    return Ok(result);
                }
                Err(error) => error,
            };
            kv.rollback().await;
            drop(snapshot);
            if !retryable(&error) {
                return Err(error);
            }
            tries.failed(self, &error)?;
            tries.back_off(self).await;
        }
    }

    /// Runs a statement as one of the open transaction.
    pub(super) async fn run_in_transaction(
        &mut self,
        prepared: &Arc<Prepared>,
        params: &[Datum],
        cancel: &CancelFlag,
    ) -> Result<ExecResult> {
        let mut tries = Tries::default();
        let began = self.open_transaction()?.micros;
        loop {
            self.set_transaction_time(Some(began));
            let error = match self.step(prepared, params, cancel).await {
                Ok(result) => {
                    self.note_statement(prepared, params, &result);
                    return Ok(result);
                }
                Err(error) if retryable(&error) => error,
                Err(error) => return Err(error),
            };
            self.again(&mut tries, &error, false, cancel).await?;
        }
    }

    /// Makes the open transaction ready for another try of what failed, its last statement or the
    /// whole of it.
    pub(super) async fn again(
        &mut self,
        tries: &mut Tries,
        error: &SqlError,
        whole: bool,
        cancel: &CancelFlag,
    ) -> Result<()> {
        let mut error = error.clone();
        loop {
            if let Err(end) = tries.failed(self, &error) {
                return Err(self.doom(tries, end));
            }
            cancel.check()?;
            tries.back_off(self).await;
            // Under READ COMMITTED a statement alone can run again: it was taken back already.
            let open = self.open_transaction()?;
            if !whole && open.modes.isolation == Isolation::ReadCommitted && error.code == CONFLICT
            {
                return Ok(());
            }
            match self.replay(&tries.cause, cancel).await {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    let end = tries.give_up();
                    return Err(self.doom(tries, end));
                }
                Err(again) if retryable(&again) => error = again,
                Err(other) => return Err(other),
            }
        }
    }

    /// Marks the open transaction as one that no savepoint helps.
    fn doom(&mut self, tries: &Tries, error: SqlError) -> SqlError {
        if let Some(open) = &mut self.txn {
            open.doomed = Some(tries.cause.clone());
        }
        error
    }

    /// Runs the open transaction so far in a new one. False when it may not, or when a statement
    /// answers differently than before.
    ///
    /// However it ends but well, and where it is dropped, what the client was told is no longer
    /// what the transaction did: no savepoint helps then, of whatever name.
    async fn replay(&mut self, cause: &str, cancel: &CancelFlag) -> Result<bool> {
        let open = self.open_transaction()?;
        let Some(log) = open.log.clone() else { return Ok(false) };
        let began = open.micros;
        open.doomed = Some(cause.to_owned());
        open.restart().await;
        let client = self.info.node.txns.clone();
        for step in &log.steps {
            match step {
                Step::Statement { prepared, params, micros, rows, tag } => {
                    self.set_transaction_time(Some(began));
                    self.info.statement_micros = *micros;
                    match self.step(prepared, params, cancel).await {
                        Ok(result) if result.rows == *rows && result.tag == *tag => {}
                        Ok(_) => return Ok(false),
                        Err(error) if retryable(&error) || cancel.check().is_err() => {
                            return Err(error);
                        }
                        Err(_) => return Ok(false),
                    }
                }
                Step::Savepoint(name) => {
                    let vars = self.info.vars.clone();
                    self.open_transaction()?.savepoint(&client, name, vars);
                }
                Step::Release(name) => self.open_transaction()?.release(name)?,
                Step::RollbackTo(name) => {
                    self.open_transaction()?.rollback_to(name).await?;
                }
            }
        }
        self.open_transaction()?.doomed = None;
        Ok(true)
    }

    /// One try at a statement in the open transaction. After a conflict the statement has been
    /// taken back.
    async fn step(
        &mut self,
        prepared: &Prepared,
        params: &[Datum],
        cancel: &CancelFlag,
    ) -> Result<ExecResult> {
        let as_of = self.txn_as_of();
        let (snapshot, plan) = self.plan_of(prepared, cancel, as_of).await?;
        let client = self.info.node.txns.clone();
        let patience = self.write_patience();
        let open = self.txn.as_mut().ok_or_else(no_transaction)?;
        open.used = true;
        open.pin(&snapshot);
        let (read_only, committed) =
            (open.modes.read_only, open.modes.isolation == Isolation::ReadCommitted);
        let kv = open.txn(&client);
        kv.begin_statement();
        kv.set_lock_timeout(patience);
        let mark = committed.then(|| kv.savepoint());
        self.seat.in_open(open.info());
        self.check_read_only(&plan.statement, read_only)?;
        let run = Run {
            info: &self.info,
            write_flag: &self.write_flag,
            params,
            cancel,
            lock_timeout: self.lock_timeout,
        };
        let Some(kv) = self.txn.as_mut().and_then(Open::begun) else {
            return Err(no_transaction());
        };
        let txn = StatementTxn::new(&mut *kv, false, run.lock_timeout);
        let result = run.plan(&plan.statement, txn).await;
        match (result, mark) {
            (Ok(mut result), mark) => {
                mark.into_iter().for_each(|mark| kv.release(mark));
                result.columns.clone_from(&prepared.columns);
                Ok(result)
            }
            (Err(error), Some(mark)) if error.code == CONFLICT => {
                kv.rollback_to(mark).await.map_err(crate::kv::txn_error)?;
                kv.release(mark);
                Err(error)
            }
            (Err(error), _) => Err(error),
        }
    }

    fn note_statement(&mut self, prepared: &Arc<Prepared>, params: &[Datum], result: &ExecResult) {
        let micros = self.info.statement_micros;
        let Some(open) = &mut self.txn else { return };
        if !open.has_room(prepared, params, &result.rows) {
            return;
        }
        let step = Step::Statement {
            prepared: Arc::clone(prepared),
            params: params.into(),
            micros,
            rows: result.rows.clone(),
            tag: result.tag.clone(),
        };
        open.note(step);
    }

    /// Pins the catalog, that of a time in the past if it is read, and makes a plan for it if the one
    /// at hand is of another version.
    async fn plan_of(
        &mut self,
        prepared: &Prepared,
        cancel: &CancelFlag,
        as_of: Option<AsOf>,
    ) -> Result<(Arc<Snapshot>, Arc<CachedPlan>)> {
        loop {
            cancel.check()?;
            let snapshot = self.begin_statement_at(as_of).await?;
            let plan = prepared.plan();
            if self.is_current(snapshot.version(), &plan) {
                return Ok((snapshot, plan));
            }
            let given: Vec<Option<SqlType>> =
                prepared.param_types.iter().copied().map(Some).collect();
            let again = match self.analyze(&snapshot, &prepared.parsed, &given) {
                Ok(again) => again,
                Err(error) if error.code == OFFLINE => {
                    drop(snapshot);
                    self.wait_offline().await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if !super::prepare::same_shape(again.columns.as_deref(), prepared.columns.as_deref()) {
                return Err(SqlError::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "cached plan must not change result type",
                ));
            }
            let plan = again.plan.into_inner();
            // The next execution starts from here.
            prepared.replace_plan(Arc::clone(&plan));
            return Ok((snapshot, plan));
        }
    }

    fn run_with<'a>(&'a self, params: &'a [Datum], cancel: &'a CancelFlag) -> Run<'a> {
        Run {
            info: &self.info,
            write_flag: &self.write_flag,
            params,
            cancel,
            lock_timeout: self.lock_timeout,
        }
    }

    fn check_read_only(&self, plan: &StatementPlan, read_only: bool) -> Result<()> {
        let what = match plan {
            StatementPlan::Insert(_) => "INSERT",
            StatementPlan::Update(_) => "UPDATE",
            StatementPlan::Delete(_) => "DELETE",
            StatementPlan::Query(query) if query.locks => "SELECT FOR UPDATE",
            _ => return Ok(()),
        };
        if read_only { Err(read_only_error(what)) } else { Ok(()) }
    }
}

/// The error of a statement that writes where nothing may be written.
pub(super) fn read_only_error(what: &str) -> SqlError {
    SqlError::new(
        SqlState::READ_ONLY_TRANSACTION,
        format!("cannot execute {what} in a read-only transaction"),
    )
}

/// A defect: a transaction was expected to be open.
pub(super) fn no_transaction() -> SqlError {
    SqlError::internal("no transaction is open")
}

impl Run<'_> {
    /// Runs a plan, and commits if it is alone in its transaction.
    async fn plan(&self, plan: &StatementPlan, txn: StatementTxn<'_>) -> Result<ExecResult> {
        let alone = txn.alone;
        let mut ctx = ExecCtx::new(self.info, self.params, self.cancel, self.write_flag, txn);
        let (tag, table, outcome) = match plan {
            StatementPlan::Query(query) => {
                let rows = ctx.run_query(query).await?;
                if alone && query.locks {
                    commit_alone(&mut ctx, None, &[]).await?;
                }
                let tag = format!("SELECT {}", rows.len());
                return Ok(ExecResult { rows, tag, ..ExecResult::default() });
            }
            StatementPlan::Explain(lines) => {
                let rows = lines.iter().map(|l| vec![Datum::text(l.as_str())]).collect();
                return Ok(ExecResult { rows, tag: "EXPLAIN".to_owned(), ..ExecResult::default() });
            }
            StatementPlan::Insert(insert) => {
                ("INSERT 0", &insert.table, run_insert(&mut ctx, insert).await?)
            }
            StatementPlan::Update(update) => {
                ("UPDATE", &update.table, run_update(&mut ctx, update).await?)
            }
            StatementPlan::Delete(delete) => {
                ("DELETE", &delete.table, run_delete(&mut ctx, delete).await?)
            }
            StatementPlan::Utility => return Err(SqlError::internal("a utility has no plan")),
        };
        let WriteOutcome { count, rows, unproven } = outcome;
        if alone {
            commit_alone(&mut ctx, Some(table), &unproven).await?;
        }
        let tag = format!("{tag} {count}");
        Ok(ExecResult { rows, tag, committed: alone, ..ExecResult::default() })
    }
}
