//! Statements on their way to a plan: analyzed against a version of the catalog, and kept for
//! whoever sends the same text while that version holds.

use std::sync::Arc;

use crdb_sqlfront::Parsed;
use crdb_sqlfront::ast::Statement;
use parking_lot::Mutex;

use super::show::show_columns;
use super::{Column, Prepared, Session, control, ranges};
use crate::activity::Text;
use crate::analyze::{self, Analyzed, OFFLINE};
use crate::catalog::Snapshot;
use crate::error::{Result, SqlError, SqlState};
use crate::plan::{CachedPlan, StatementPlan};
use crate::types::SqlType;

/// Version of a plan that the catalog has nothing to do with.
const ANY_VERSION: u64 = 0;

impl Session {
    /// Analyzes a statement. `param_oids` are the types the client gave for `$1`, `$2`, ...; 0 asks
    /// to infer.
    pub async fn prepare(&mut self, parsed: &Arc<Parsed>, param_oids: &[u32]) -> Result<Prepared> {
        let _listed = self.listed(Text::Parsed(Arc::clone(parsed)), true);
        let prepared = self.try_prepare(parsed, param_oids).await;
        if prepared.is_err() {
            self.fail().await;
        }
        prepared
    }

    pub(super) async fn try_prepare(
        &mut self,
        parsed: &Arc<Parsed>,
        param_oids: &[u32],
    ) -> Result<Prepared> {
        self.check_usable(&parsed.statement)?;
        // A transaction can be ended also when the catalog cannot be read.
        if control::is_control(&parsed.statement) {
            let plan = CachedPlan {
                version: ANY_VERSION,
                settings: Arc::clone(&self.plan_settings),
                statement: StatementPlan::Utility,
            };
            return Ok(Prepared {
                parsed: Arc::clone(parsed),
                param_types: Vec::new(),
                columns: None,
                plan: Mutex::new(Arc::new(plan)),
            });
        }
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
        self.set_transaction_time(self.txn.as_ref().map(|open| open.micros));
        let as_of = self.prepared_as_of(&parsed.statement).await?;
        loop {
            let snapshot = self.begin_statement_at(as_of).await?;
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

    pub(super) fn analyze(
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
        let most = self.info.node.limits.result_columns;
        if columns.as_ref().is_some_and(|columns| columns.len() > most) {
            let message = format!("results can have at most {most} columns");
            return Err(SqlError::new(SqlState::TOO_MANY_COLUMNS, message));
        }
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
    pub(super) fn is_current(&self, version: u64, plan: &CachedPlan) -> bool {
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
        let plan = found.plan();
        if plan.version == ANY_VERSION {
            return Some(found);
        }
        let version = match self.txn_as_of().or_else(|| self.follower_read()) {
            None => node.catalog().version(),
            Some(as_of) => node.catalog().version_at(as_of.timestamp)?,
        };
        self.is_current(version, &plan).then_some(found)
    }

    /// Keeps a statement for whoever sends the same text: one that is prepared now and is all there
    /// is in the text.
    pub fn keep(&self, text: &str, param_oids: &[u32], prepared: &Arc<Prepared>) {
        // The time that it reads at is another one at each execution, and so may be the catalog.
        if matches!(&prepared.parsed.statement, Statement::Query(query) if query.as_of.is_some()) {
            return;
        }
        let plan = prepared.plan();
        // What else runs from the syntax tree is rare or quick to parse.
        if !matches!(plan.statement, StatementPlan::Utility) || plan.version == ANY_VERSION {
            self.info.node.plans.insert(text, param_oids, &plan.settings, prepared);
        }
    }
}

/// Whether two results look the same to a client.
pub(super) fn same_shape(a: Option<&[Column]>, b: Option<&[Column]>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.ty == b.ty && a.name == b.name)
        }
        _ => false,
    }
}
