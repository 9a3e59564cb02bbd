//! A client's session: prepares and executes statements one after the other.
//!
//! ```text
//! execute ─┬─ BEGIN, COMMIT, savepoints ──────────▶ control ─▶ txn::Open
//!          ├─ SET, SHOW, schema changes ──────────▶ utility
//!          ├─ a plan, alone in its transaction ───▶ run_alone ─▶ begin, run, commit
//!          └─ a plan in an open transaction ──────▶ run_in_transaction ─▶ log, replay
//! ```

mod api;
mod as_of;
pub(crate) mod cache;
mod cancel;
mod control;
mod copy;
mod modes;
mod prepare;
mod ranges;
mod run;
pub(crate) mod settings;
mod show;
mod txn;
mod utility;
mod vars;

use std::sync::Arc;
use std::time::Duration;

use crdb_kv::AsOf;
use crdb_sqlfront::ast::{self, Statement};
use futures::future::{BoxFuture, Either, select};

pub use api::{Column, Effect, ExecResult, Notice, Prepared, SessionArgs, Severity, WriteFlag};
pub(crate) use as_of::{FOLLOWER_READ_LAG, logical_text};
pub use copy::{CopyIn, CopyOut};
pub(crate) use show::{key_list, show_columns, show_rows};
pub use txn::TransactionStatus;
pub(crate) use vars::Vars;

use crate::activity::{Busy, CancelFlag, Seat, Text, Who, shown_id};
use crate::catalog::{DEFAULT_DATABASE, Snapshot};
use crate::datum::datetime::parse_zone;
use crate::datum::{Datum, FormatSettings};
use crate::error::{Result, SqlError, SqlState};
use crate::node::SqlNode;
use crate::plan::{PlanSettings, StatementPlan};
use txn::{Modes, Open};

/// What analysis and evaluation know of a session.
pub(crate) struct SessionInfo {
    pub(crate) node: Arc<SqlNode>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) session_id: u64,
    pub(crate) vars: Vars,
    pub(crate) format: FormatSettings,
    /// When the statement began, in microseconds since 1970; `format` has when its transaction did.
    pub(crate) statement_micros: i64,
    /// The transaction, for the variables that show it.
    pub(crate) shown: Shown,
}

/// What variables show of the transaction.
#[derive(Clone, Copy)]
pub(crate) struct Shown {
    isolation: &'static str,
    priority: &'static str,
    read_only: bool,
    status: &'static str,
    /// The timestamp of its reads, for `cluster_logical_timestamp()`; none until they have one.
    pub(crate) read_timestamp: Option<crdb_keys::Timestamp>,
}

impl SessionInfo {
    /// The value of a variable.
    pub(crate) fn variable(&self, name: &str) -> Result<&str> {
        let on = |on| if on { "on" } else { "off" };
        Ok(match name {
            "database" => &self.database,
            "transaction_isolation" => self.shown.isolation,
            "transaction_priority" => self.shown.priority,
            "transaction_read_only" => on(self.shown.read_only),
            "transaction_status" => self.shown.status,
            name => return self.vars.get(name),
        })
    }

    /// The schemas that unqualified names are looked up in.
    pub(crate) fn search_path(&self) -> impl Iterator<Item = &str> {
        let path = self.vars.get("search_path").unwrap_or("public");
        path.split(',').map(|part| part.trim().trim_matches('"'))
    }
}

/// A client's session.
pub struct Session {
    info: SessionInfo,
    /// Where others see what it does.
    seat: Seat,
    write_flag: WriteFlag,
    /// The variables that all below follows.
    applied: Vars,
    /// What of the session its plans depend on.
    plan_settings: Arc<PlanSettings>,
    /// `statement_timeout` and `idle_session_timeout` in milliseconds, 0 for none.
    statement_timeout: u64,
    idle_timeout: u64,
    idle_in_transaction_timeout: u64,
    transaction_timeout: u64,
    lock_timeout: Duration,
    /// `default_transaction_use_follower_reads`.
    follower_reads: bool,
    /// How transactions behave that say nothing of it.
    defaults: Modes,
    /// The transaction of several statements that is open.
    txn: Option<Open>,
    /// What the client is to be told with the next answer.
    untold: Vec<(String, String)>,
    untold_notices: Vec<Notice>,
}

impl Session {
    /// A session for a client. The database need not exist until it is used.
    pub fn new(node: Arc<SqlNode>, args: SessionArgs) -> Result<Self> {
        let mut vars = Vars::default();
        vars.set_fixed("session_authorization", args.user.clone());
        vars.set_fixed("session_user", args.user.clone());
        vars.set_fixed("crdb_version", format!("CockroachDB crdb {}", node.build_tag));
        let who = Who {
            user: args.user.clone(),
            client_address: args.client_address,
            backend_pid: backend_pid(args.session_id),
        };
        let seat = node.activity.register(who, node.clock.wall_nanos());
        vars.set_fixed("session_id", shown_id(seat.id()));
        let database =
            if args.database.is_empty() { DEFAULT_DATABASE.to_owned() } else { args.database };
        vars.set("database", &database)?;
        let mut session = Self {
            info: SessionInfo {
                node,
                user: args.user,
                database,
                session_id: args.session_id,
                vars,
                format: FormatSettings::default(),
                statement_micros: 0,
                shown: Shown::none(),
            },
            seat,
            write_flag: WriteFlag::default(),
            applied: Vars::default(),
            plan_settings: Arc::default(),
            statement_timeout: 0,
            idle_timeout: 0,
            idle_in_transaction_timeout: 0,
            transaction_timeout: 0,
            lock_timeout: Duration::ZERO,
            follower_reads: false,
            defaults: Modes::default(),
            txn: None,
            untold: Vec::new(),
            untold_notices: Vec::new(),
        };
        session.apply_variables()?;
        for (name, value) in &args.settings {
            session.set_variable(&name.to_ascii_lowercase(), value)?;
        }
        session.info.vars.keep_as_initial();
        Ok(session)
    }

    /// Fails with 3D000 when the session's database does not exist. Worth asking once, before the
    /// client is told that it is connected.
    pub async fn check_database(&self) -> Result<()> {
        let snapshot = self.info.node.catalog().pin().await?;
        match snapshot.database(&self.info.database) {
            Some(_) => Ok(()),
            None => Err(SqlError::new(
                SqlState::INVALID_CATALOG_NAME,
                format!("database \"{}\" does not exist", self.info.database),
            )),
        }
    }

    /// The settings a client is told when it connects, as ParameterStatus messages.
    #[must_use]
    pub fn parameters(&self) -> Vec<(String, String)> {
        self.info.vars.reported()
    }

    /// What text forms of values depend on.
    #[must_use]
    pub fn format_settings(&self) -> &FormatSettings {
        &self.info.format
    }

    /// Whether a write of this session is on its way: then a statement should not be dropped, or it
    /// is unknown whether it took effect.
    #[must_use]
    pub fn write_flag(&self) -> WriteFlag {
        self.write_flag.clone()
    }

    /// What stops the session's statements, or the session. Whoever runs it watches the flag.
    #[must_use]
    pub fn cancel_flag(&self) -> CancelFlag {
        self.seat.cancel_flag()
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.info.database
    }

    /// `idle_session_timeout`; none when it is off.
    #[must_use]
    pub fn idle_timeout(&self) -> Option<Duration> {
        (self.idle_timeout > 0).then(|| Duration::from_millis(self.idle_timeout))
    }

    /// `idle_in_transaction_session_timeout`; none when it is off or no transaction is open.
    #[must_use]
    pub fn idle_in_transaction_timeout(&self) -> Option<Duration> {
        let timeout = self.idle_in_transaction_timeout;
        let counts = timeout > 0 && self.status() != TransactionStatus::Idle;
        counts.then(|| Duration::from_millis(timeout))
    }

    fn set_variable(&mut self, name: &str, value: &str) -> Result<Option<(String, String)>> {
        let told = self.info.vars.set(name, value)?;
        self.apply_variables()?;
        Ok(told)
    }

    /// The same after variables went back to values that were valid before.
    fn follow_variables(&mut self) {
        if self.apply_variables().is_err() {
            self.plan_settings = Arc::default();
        }
    }

    /// Makes what statements read follow the variables and the database.
    fn apply_variables(&mut self) -> Result<()> {
        let vars = &self.info.vars;
        vars.get("database")?.clone_into(&mut self.info.database);
        let zone = vars.get("timezone")?;
        if let Some(zone) = parse_zone(zone) {
            self.info.format.zone = zone;
        }
        let digits = vars.get("extra_float_digits")?;
        self.info.format.extra_float_digits = digits.parse().unwrap_or(1);
        self.statement_timeout = vars.milliseconds("statement_timeout")?;
        self.idle_timeout = vars.milliseconds("idle_session_timeout")?;
        self.idle_in_transaction_timeout =
            vars.milliseconds("idle_in_transaction_session_timeout")?;
        self.transaction_timeout = vars.milliseconds("transaction_timeout")?;
        self.lock_timeout = Duration::from_millis(vars.milliseconds("lock_timeout")?);
        self.defaults = Modes::defaults(vars)?;
        self.seat.name(vars.get("application_name")?, &self.info.database);
        self.follower_reads = vars.get("default_transaction_use_follower_reads")? == "on";
        let settings = PlanSettings {
            database: self.info.database.clone(),
            search_path: vars.get("search_path")?.to_owned(),
            zone: zone.to_owned(),
            extra_float_digits: self.info.format.extra_float_digits,
        };
        if *self.plan_settings != settings {
            self.plan_settings = Arc::new(settings);
        }
        if self.applied != self.info.vars {
            self.applied.clone_from(&self.info.vars);
            // What ran before might say something else if it ran again.
            if let Some(open) = &mut self.txn {
                open.seal();
            }
        }
        self.show_transaction();
        Ok(())
    }

    /// Pins the catalog, as it is or as it was when the open transaction reads.
    async fn begin_statement(&mut self) -> Result<Arc<Snapshot>> {
        self.begin_statement_at(self.txn_as_of()).await
    }

    async fn begin_statement_at(&mut self, as_of: Option<AsOf>) -> Result<Arc<Snapshot>> {
        let catalog = self.info.node.catalog();
        let snapshot = match as_of {
            None => catalog.pin().await?,
            Some(as_of) => catalog.at(as_of).await?,
        };
        self.info.format.catalog = Some(snapshot.data());
        Ok(snapshot)
    }

    /// Sets the time of the statement, and that of its transaction unless it began before.
    fn set_transaction_time(&mut self, began: Option<i64>) {
        let now = self.now_micros();
        self.info.statement_micros = now;
        self.info.format.now_micros = began.unwrap_or(now);
    }

    fn now_micros(&self) -> i64 {
        i64::try_from(self.info.node.clock.wall_nanos() / 1000).unwrap_or(i64::MAX)
    }

    async fn wait_offline(&self) -> Result<()> {
        let node = &self.info.node;
        node.timer.sleep(node.limits.offline_pause).await;
        self.info.node.catalog().adopt_latest().await?;
        Ok(())
    }

    /// Runs a statement. `last` says that the implicit transaction, of which it is the only or the
    /// last statement, commits with it; otherwise [`Self::finish`] commits later. It means nothing
    /// after BEGIN.
    ///
    /// Dropping the future stops it; see [`Self::write_flag`] before doing so, and call
    /// [`Self::fail`] after.
    pub async fn execute(
        &mut self,
        prepared: &Arc<Prepared>,
        params: &[Datum],
        cancel: &CancelFlag,
        last: bool,
    ) -> Result<ExecResult> {
        let _listed = self.listed(Text::Parsed(Arc::clone(&prepared.parsed)), false);
        // Whatever has timed out can be rolled back.
        let limit = match &prepared.parsed.statement {
            Statement::Rollback { .. } => None,
            _ => self.time_limit(),
        };
        let result = match limit.map(|limit| self.start(limit)) {
            None => self.run(prepared, params, cancel, last).await,
            Some(limit) => {
                let run = Box::pin(self.run(prepared, params, cancel, last));
                limit.bound(cancel, run).await
            }
        };
        self.show_transaction();
        match result {
            Ok(mut result) => {
                // What went before comes first.
                result.parameters.splice(0..0, self.untold.drain(..));
                result.notices.splice(0..0, self.untold_notices.drain(..));
                Ok(result)
            }
            Err(error) => {
                self.fail().await;
                Err(error)
            }
        }
    }

    /// Lets others see a statement until what is returned is dropped.
    fn listed(&self, text: Text, preparing: bool) -> Busy {
        self.seat.begin(text, self.info.node.clock.wall_nanos(), preparing)
    }

    fn start(&self, (limit, why): (Duration, &'static str)) -> Limit {
        let over = (!limit.is_zero()).then(|| self.info.node.timer.sleep(limit));
        Limit { over, why, flag: self.write_flag.clone() }
    }

    /// How long the statement may take, and what is said when it takes longer.
    fn time_limit(&self) -> Option<(Duration, &'static str)> {
        let statement = (self.statement_timeout > 0).then(|| {
            let limit = Duration::from_millis(self.statement_timeout);
            (limit, "canceling statement due to statement timeout")
        });
        let explicit = self.txn.as_ref().filter(|open| open.explicit && !open.failed);
        let transaction = explicit.filter(|_| self.transaction_timeout > 0).map(|open| {
            let passed = u64::try_from((self.now_micros() - open.micros) / 1000).unwrap_or(0);
            let left = self.transaction_timeout.saturating_sub(passed);
            (Duration::from_millis(left), "canceling statement due to transaction timeout")
        });
        [statement, transaction].into_iter().flatten().min_by_key(|(limit, _)| *limit)
    }

    /// How long a write may wait for a lock once it is on its way, when nobody stops it any more: no
    /// longer than the statement may take. Zero: as long as it takes.
    fn write_patience(&self) -> Duration {
        let limit = self.time_limit().map(|(limit, _)| limit.max(Duration::from_millis(1)));
        let lock = Some(self.lock_timeout).filter(|timeout| !timeout.is_zero());
        [limit, lock].into_iter().flatten().min().unwrap_or_default()
    }

    async fn run(
        &mut self,
        prepared: &Arc<Prepared>,
        params: &[Datum],
        cancel: &CancelFlag,
        last: bool,
    ) -> Result<ExecResult> {
        if params.len() != prepared.param_types.len() {
            return Err(SqlError::new(
                SqlState("08P01"),
                format!(
                    "bind message supplies {} parameters, but the statement requires {}",
                    params.len(),
                    prepared.param_types.len()
                ),
            ));
        }
        if self.txn.is_some() {
            self.check_usable(&prepared.parsed.statement)?;
        }
        if matches!(prepared.plan().statement, StatementPlan::Utility) {
            return Box::pin(self.utility(&prepared.parsed.statement, cancel)).await;
        }
        self.run_planned(prepared, params, cancel, last).await
    }

    async fn run_planned(
        &mut self,
        prepared: &Arc<Prepared>,
        params: &[Datum],
        cancel: &CancelFlag,
        last: bool,
    ) -> Result<ExecResult> {
        let mut as_of = self.statement_as_of(&prepared.parsed.statement).await?;
        if as_of.is_none()
            && self.txn.is_none()
            && matches!(&prepared.plan().statement, StatementPlan::Query(query) if !query.locks)
        {
            as_of = self.follower_read().filter(|_| last);
        }
        if self.txn.is_none() {
            if last {
                return Box::pin(self.run_alone(prepared, params, cancel, as_of)).await;
            }
            self.open(self.defaults, false);
        }
        self.set_as_of(as_of)?;
        let mut result = Box::pin(self.run_in_transaction(prepared, params, cancel)).await?;
        if last && self.is_unfinished() {
            let kv = self.txn.as_ref().and_then(|open| open.kv.as_ref());
            result.committed = kv.is_some_and(crdb_kv::Txn::has_writes);
            self.commit(cancel).await?;
        }
        Ok(result)
    }

    /// Whether [`Self::finish`] has something to commit.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.txn.as_ref().is_some_and(|open| !open.explicit)
    }

    /// Commits what the statements of an implicit transaction did. To be called where it ends: at
    /// the end of a string of statements, or at a Sync.
    pub async fn finish(&mut self, cancel: &CancelFlag) -> Result<()> {
        if !self.is_unfinished() {
            return Ok(());
        }
        let _listed = self.listed(Text::Fixed("COMMIT"), false);
        let committed = match self.time_limit().map(|limit| self.start(limit)) {
            None => self.commit(cancel).await,
            Some(limit) => limit.bound(cancel, Box::pin(self.commit(cancel))).await,
        };
        match committed {
            Ok(mut told) => {
                self.untold.append(&mut told);
                Ok(())
            }
            Err(error) => {
                self.fail().await;
                Err(error)
            }
        }
    }

    /// Tells the session that a statement failed, wherever: a transaction that was begun with BEGIN
    /// has failed with it, and an implicit one is rolled back.
    pub async fn fail(&mut self) {
        let Some(open) = &mut self.txn else { return };
        if open.released {
            // It is committed, whatever is asked of it now.
            return;
        }
        if open.explicit && !open.ends {
            open.failed = true;
            // Nothing can make it go on: its locks need not wait for ROLLBACK.
            if open.savepoints.is_empty() {
                open.restart().await;
            }
        } else {
            let mut told = self.abandon().await;
            self.untold.append(&mut told);
        }
        self.show_transaction();
    }

    /// Takes what the client is to be told beside an error: what happened before the statement
    /// failed, such as that a transaction was committed.
    #[must_use]
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.untold_notices)
    }

    /// Rolls back what is open. To be called when the client has left.
    pub async fn close(&mut self) {
        drop(self.abandon().await);
    }

    /// Whether the session is in a transaction.
    #[must_use]
    pub fn status(&self) -> TransactionStatus {
        self.txn.as_ref().map_or(TransactionStatus::Idle, Open::status)
    }
}

/// A limit on the time of a statement that has begun to run.
struct Limit {
    /// None if no time is left.
    over: Option<BoxFuture<'static, ()>>,
    /// What is said then.
    why: &'static str,
    flag: WriteFlag,
}

impl Limit {
    /// Runs work for no longer than this, after which it is dropped. A write on its way decides by
    /// itself how it ends; nothing is begun after it.
    async fn bound<T>(self, cancel: &CancelFlag, work: BoxFuture<'_, Result<T>>) -> Result<T> {
        let Limit { over, why, flag } = self;
        let timed_out = || SqlError::new(SqlState::QUERY_CANCELED, why);
        let Some(over) = over else { return Err(timed_out()) };
        match select(work, over).await {
            Either::Left((result, _)) => result,
            Either::Right(((), work)) if flag.in_flight() => {
                cancel.set_overdue(true);
                let result = work.await;
                cancel.set_overdue(false);
                result.map_err(|error| {
                    // It waited for a lock, or was about to begin something.
                    let waited = error.code == SqlState::LOCK_NOT_AVAILABLE;
                    let stopped = error.code == SqlState::QUERY_CANCELED;
                    if waited || stopped && !cancel.is_cancelled() { timed_out() } else { error }
                })
            }
            Either::Right(((), _)) => Err(timed_out()),
        }
    }
}

/// What `pg_backend_pid()` says in the session of a number.
pub(crate) fn backend_pid(session: u64) -> u32 {
    u32::try_from(session & 0x7fff_ffff).unwrap_or(0)
}

/// Takes a literal out of the value of a SET.
fn literal_text(e: &ast::Expr) -> Result<String> {
    Ok(match e {
        ast::Expr::Literal(ast::Literal::String(s) | ast::Literal::Number(s), _) => s.clone(),
        ast::Expr::Literal(ast::Literal::Bool(b), _) => if *b { "on" } else { "off" }.to_owned(),
        ast::Expr::Column(reference) => reference.column().value.clone(),
        ast::Expr::Unary { op: ast::UnaryOp::Minus, expr, .. } => {
            format!("-{}", literal_text(expr)?)
        }
        ast::Expr::Cast { expr, .. } => literal_text(expr)?,
        other => {
            return Err(SqlError::syntax("SET takes constants").with_position(other.pos().0));
        }
    })
}
