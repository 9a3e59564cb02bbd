//! A client's session: prepares and executes statements one after the other.

mod api;
pub(crate) mod cache;
mod ranges;
pub(crate) mod settings;
mod show;
mod utility;
mod vars;

use std::sync::Arc;
use std::time::Duration;

use crdb_sqlfront::Parsed;
use crdb_sqlfront::ast::{self, Statement};
use futures::future::{Either, select};
use parking_lot::Mutex;

pub use api::{
    CancelFlag, Column, Effect, ExecResult, Notice, Prepared, SessionArgs, Severity, WriteFlag,
};
pub(crate) use show::{key_list, show_columns, show_rows};
pub(crate) use vars::Vars;

use crate::analyze::{self, Analyzed, OFFLINE};
use crate::catalog::{DEFAULT_DATABASE, Snapshot};
use crate::datum::datetime::parse_zone;
use crate::datum::{Datum, FormatSettings};
use crate::error::{Result, SqlError, SqlState};
use crate::exec::{CONFLICT, EXPIRED, ExecCtx, Txn, run_delete, run_insert, run_update};
use crate::kv::retry_error;
use crate::node::SqlNode;
use crate::plan::{CachedPlan, PlanSettings, StatementPlan};
use crate::types::SqlType;

/// Pause before a statement looks again at a table that is being truncated.
const OFFLINE_PAUSE: Duration = Duration::from_millis(20);

/// What analysis and evaluation know of a session.
pub(crate) struct SessionInfo {
    pub(crate) node: Arc<SqlNode>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) session_id: u64,
    pub(crate) vars: Vars,
    pub(crate) format: FormatSettings,
}

impl SessionInfo {
    /// The schemas that unqualified names are looked up in.
    pub(crate) fn search_path(&self) -> impl Iterator<Item = &str> {
        let path = self.vars.get("search_path").unwrap_or("public");
        path.split(',').map(|part| part.trim().trim_matches('"'))
    }
}

/// A client's session.
pub struct Session {
    info: SessionInfo,
    write_flag: WriteFlag,
    /// What of the session its plans depend on.
    plan_settings: Arc<PlanSettings>,
    /// `statement_timeout` and `idle_session_timeout` in milliseconds, 0 for none.
    statement_timeout: u64,
    idle_timeout: u64,
}

/// How one attempt at a statement ended.
enum Attempt {
    Done(ExecResult),
    /// Something read has changed, or the catalog snapshot is too old.
    Again(&'static str),
    /// A table is being truncated.
    Offline,
}

impl Session {
    /// A session for a client. The database need not exist until it is used.
    pub fn new(node: Arc<SqlNode>, args: SessionArgs) -> Result<Self> {
        let mut vars = Vars::default();
        vars.set_fixed("session_authorization", args.user.clone());
        vars.set_fixed("session_user", args.user.clone());
        vars.set_fixed("crdb_version", format!("CockroachDB crdb {}", node.build_tag));
        vars.set_fixed("session_id", format!("{:016x}", args.session_id));
        let database =
            if args.database.is_empty() { DEFAULT_DATABASE.to_owned() } else { args.database };
        let mut session = Self {
            info: SessionInfo {
                node,
                user: args.user,
                database,
                session_id: args.session_id,
                vars,
                format: FormatSettings::default(),
            },
            write_flag: WriteFlag::default(),
            plan_settings: Arc::default(),
            statement_timeout: 0,
            idle_timeout: 0,
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

    fn set_variable(&mut self, name: &str, value: &str) -> Result<Option<(String, String)>> {
        let told = self.info.vars.set(name, value)?;
        self.apply_variables()?;
        Ok(told)
    }

    /// Makes what statements read follow the variables and the database.
    fn apply_variables(&mut self) -> Result<()> {
        let vars = &self.info.vars;
        let zone = vars.get("timezone")?;
        if let Some(zone) = parse_zone(zone) {
            self.info.format.zone = zone;
        }
        let digits = vars.get("extra_float_digits")?;
        self.info.format.extra_float_digits = digits.parse().unwrap_or(1);
        self.statement_timeout = vars.milliseconds("statement_timeout")?;
        self.idle_timeout = vars.milliseconds("idle_session_timeout")?;
        let settings = PlanSettings {
            database: self.info.database.clone(),
            search_path: vars.get("search_path")?.to_owned(),
            zone: zone.to_owned(),
            extra_float_digits: self.info.format.extra_float_digits,
        };
        if *self.plan_settings != settings {
            self.plan_settings = Arc::new(settings);
        }
        Ok(())
    }

    /// Analyzes a statement. `param_oids` are the types the client gave for `$1`, `$2`, ...; 0 asks
    /// to infer.
    pub async fn prepare(&mut self, parsed: &Arc<Parsed>, param_oids: &[u32]) -> Result<Prepared> {
        let mut given = Vec::with_capacity(param_oids.len());
        for oid in param_oids {
            given.push(match oid {
                0 | 705 => None,
                oid => Some(SqlType::from_oid(*oid).ok_or_else(|| {
                    SqlError::new(SqlState::UNDEFINED_OBJECT, format!("unknown oid type: {oid}"))
                        .with_hint("Send the parameter as text with type 0.")
                })?),
            });
        }
        loop {
            let snapshot = self.begin_statement().await?;
            match self.analyze(&snapshot, parsed, &given) {
                Ok(prepared) => return Ok(prepared),
                Err(error) if error.code == OFFLINE => {
                    drop(snapshot);
                    self.wait_offline().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Pins the catalog and sets the statement's time.
    async fn begin_statement(&mut self) -> Result<Arc<Snapshot>> {
        let snapshot = self.info.node.catalog().pin().await?;
        self.info.format.catalog = Some(snapshot.data());
        let nanos = self.info.node.clock.wall_nanos();
        self.info.format.now_micros = i64::try_from(nanos / 1000).unwrap_or(i64::MAX);
        Ok(snapshot)
    }

    async fn wait_offline(&self) -> Result<()> {
        self.info.node.timer.sleep(OFFLINE_PAUSE).await;
        self.info.node.catalog().adopt_latest().await?;
        Ok(())
    }

    fn analyze(
        &self,
        snapshot: &Snapshot,
        parsed: &Arc<Parsed>,
        given: &[Option<SqlType>],
    ) -> Result<Prepared> {
        let placeholders = usize::from(parsed.placeholders);
        let Analyzed { plan, columns, params } =
            analyze::analyze(&self.info, snapshot, &parsed.statement, placeholders, given)?;
        let columns = match (&parsed.statement, columns) {
            (Statement::Show(show), _) => Some(show_columns(show)?),
            (other, None) => ranges::columns(other),
            (_, columns) => columns,
        };
        let plan = CachedPlan {
            version: snapshot.version(),
            settings: Arc::clone(&self.plan_settings),
            statement: plan,
        };
        Ok(Prepared {
            parsed: Arc::clone(parsed),
            param_types: params,
            columns: columns.map(Arc::from),
            plan: Mutex::new(Arc::new(plan)),
        })
    }

    /// Whether a plan still holds at a version of the catalog.
    fn is_current(&self, version: u64, plan: &CachedPlan) -> bool {
        plan.version == version
            && (Arc::ptr_eq(&plan.settings, &self.plan_settings)
                || plan.settings == self.plan_settings)
    }

    /// The statement that a text was prepared as before, by whichever session of this node, if
    /// nothing it depends on has changed since. Saves parsing and analyzing it again.
    #[must_use]
    pub fn recall(&self, text: &str, param_oids: &[u32]) -> Option<Arc<Prepared>> {
        let node = &self.info.node;
        let found = node.plans.get(text, param_oids, &self.plan_settings)?;
        self.is_current(node.catalog().version(), &found.plan()).then_some(found)
    }

    /// Keeps a statement for whoever sends the same text: one that is prepared now and is all there
    /// is in the text.
    pub fn keep(&self, text: &str, param_oids: &[u32], prepared: &Arc<Prepared>) {
        let plan = prepared.plan();
        // What runs from the syntax tree is rare or quick to parse.
        if !matches!(plan.statement, StatementPlan::Utility) {
            self.info.node.plans.insert(text, param_oids, &plan.settings, prepared);
        }
    }

    /// Runs a statement. Dropping the future stops it; see [`Self::write_flag`] before doing so.
    pub async fn execute(
        &mut self,
        prepared: &Prepared,
        params: &[Datum],
        cancel: &CancelFlag,
    ) -> Result<ExecResult> {
        let timeout = self.statement_timeout;
        if timeout == 0 {
            return self.run(prepared, params, cancel).await;
        }
        let sleep = self.info.node.timer.sleep(Duration::from_millis(timeout));
        let flag = self.write_flag.clone();
        let run = Box::pin(self.run(prepared, params, cancel));
        match select(run, sleep).await {
            Either::Left((result, _)) => result,
            // A write on its way decides by itself how the statement ends.
            Either::Right(((), run)) if flag.in_flight() => run.await,
            Either::Right(((), _)) => Err(SqlError::new(
                SqlState::QUERY_CANCELED,
                "canceling statement due to statement timeout",
            )),
        }
    }

    async fn run(
        &mut self,
        prepared: &Prepared,
        params: &[Datum],
        cancel: &CancelFlag,
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
        if matches!(prepared.plan().statement, StatementPlan::Utility) {
            return Box::pin(self.utility(&prepared.parsed.statement, cancel)).await;
        }
        let mut tries = 0;
        let mut cause = "a concurrent statement changed what was read";
        while tries <= self.info.node.limits.retries {
            cancel.check()?;
            match Box::pin(self.attempt(prepared, params, cancel)).await? {
                Attempt::Done(result) => return Ok(result),
                Attempt::Offline => self.wait_offline().await?,
                Attempt::Again(why) => {
                    tries += 1;
                    cause = why;
                    self.back_off(tries).await;
                }
            }
        }
        Err(retry_error(cause))
    }

    /// Waits a little, longer and less predictably with each try.
    async fn back_off(&self, tries: u32) {
        if tries < 2 {
            return;
        }
        let limit = 1u64 << tries.min(6);
        let millis = self.info.node.random_u64() % limit;
        self.info.node.timer.sleep(Duration::from_millis(millis)).await;
    }

    async fn attempt(
        &mut self,
        prepared: &Prepared,
        params: &[Datum],
        cancel: &CancelFlag,
    ) -> Result<Attempt> {
        let snapshot = self.begin_statement().await?;
        let mut plan = prepared.plan();
        if !self.is_current(snapshot.version(), &plan) {
            let given: Vec<Option<SqlType>> =
                prepared.param_types.iter().copied().map(Some).collect();
            let again = match self.analyze(&snapshot, &prepared.parsed, &given) {
                Ok(again) => again,
                Err(error) if error.code == OFFLINE => return Ok(Attempt::Offline),
                Err(error) => return Err(error),
            };
            if !same_shape(again.columns.as_deref(), prepared.columns.as_deref()) {
                return Err(SqlError::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "cached plan must not change result type",
                ));
            }
            plan = again.plan.into_inner();
            // The next execution starts from here.
            prepared.replace_plan(Arc::clone(&plan));
        }
        let result = self.run_plan(&snapshot, &plan.statement, params, cancel).await;
        drop(snapshot);
        match result {
            Ok(mut result) => {
                result.columns.clone_from(&prepared.columns);
                Ok(Attempt::Done(result))
            }
            Err(error) if error.code == CONFLICT => {
                Ok(Attempt::Again("a concurrent statement changed what was read"))
            }
            Err(error) if error.code == EXPIRED => {
                Ok(Attempt::Again("the node renewed its liveness record too late"))
            }
            Err(error) => Err(error),
        }
    }

    async fn run_plan(
        &self,
        snapshot: &Snapshot,
        plan: &StatementPlan,
        params: &[Datum],
        cancel: &CancelFlag,
    ) -> Result<ExecResult> {
        let writes = !matches!(plan, StatementPlan::Query(_));
        let txn = Txn::new(self.info.node.kv.clone(), snapshot.deadline(), writes);
        let mut ctx = ExecCtx::new(&self.info, params, cancel, &self.write_flag, txn);
        let (tag, outcome) = match plan {
            StatementPlan::Query(query) => {
                let rows = ctx.run_query(query).await?;
                let tag = format!("SELECT {}", rows.len());
                return Ok(ExecResult { rows, tag, ..ExecResult::default() });
            }
            StatementPlan::Explain(lines) => {
                let rows = lines.iter().map(|l| vec![Datum::text(l.as_str())]).collect();
                return Ok(ExecResult { rows, tag: "EXPLAIN".to_owned(), ..ExecResult::default() });
            }
            StatementPlan::Insert(insert) => ("INSERT 0", run_insert(&mut ctx, insert).await?),
            StatementPlan::Update(update) => ("UPDATE", run_update(&mut ctx, update).await?),
            StatementPlan::Delete(delete) => ("DELETE", run_delete(&mut ctx, delete).await?),
            StatementPlan::Utility => return Err(SqlError::internal("a utility has no plan")),
        };
        let tag = format!("{tag} {}", outcome.count);
        Ok(ExecResult { rows: outcome.rows, tag, ..ExecResult::default() })
    }
}

/// Whether two results look the same to a client.
fn same_shape(a: Option<&[Column]>, b: Option<&[Column]>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.ty == b.ty && a.name == b.name)
        }
        _ => false,
    }
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
