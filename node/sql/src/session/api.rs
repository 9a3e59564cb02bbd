//! What a session takes and gives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crdb_sqlfront::Parsed;
use parking_lot::Mutex;

use crate::datum::Row;
use crate::error::SqlState;
use crate::plan::CachedPlan;
use crate::types::SqlType;

/// What a client says when it connects.
#[derive(Clone, Debug, Default)]
pub struct SessionArgs {
    /// User name.
    pub user: String,
    /// Database; empty for `defaultdb`.
    pub database: String,
    /// Address of the client, host:port.
    pub client_address: String,
    /// Number of the session, unique on its node: what `pg_backend_pid()` is made of.
    pub session_id: u64,
    /// Settings of the startup packet, such as `application_name`.
    pub settings: Vec<(String, String)>,
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name.
    pub name: String,
    /// Type.
    pub ty: SqlType,
    /// Type modifier, -1 for none.
    pub typmod: i32,
    /// Object id of the table the column comes from, 0 for none.
    pub table_oid: u32,
    /// Number of the column in that table, 0 for none.
    pub attribute: i16,
}

impl Column {
    /// A column that comes from no table.
    pub fn new(name: impl Into<String>, ty: SqlType) -> Self {
        Self { name: name.into(), ty, typmod: -1, table_oid: 0, attribute: 0 }
    }
}

/// A statement that was analyzed: its parameters and columns are known.
#[derive(Debug)]
pub struct Prepared {
    /// The statement.
    pub parsed: Arc<Parsed>,
    /// Types of `$1`, `$2`, ...
    pub param_types: Vec<SqlType>,
    /// Columns of the result; none for a statement that returns no rows.
    pub columns: Option<Arc<[Column]>>,
    /// The newest plan; replaced when the catalog or the session's settings have changed.
    pub(super) plan: Mutex<Arc<CachedPlan>>,
}

impl Prepared {
    pub(crate) fn plan(&self) -> Arc<CachedPlan> {
        Arc::clone(&self.plan.lock())
    }

    pub(super) fn replace_plan(&self, plan: Arc<CachedPlan>) {
        let old = std::mem::replace(&mut *self.plan.lock(), plan);
        drop(old);
    }
}

/// How serious a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Worth knowing.
    Notice,
    /// Probably not what was meant.
    Warning,
}

/// A message beside the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How serious it is.
    pub severity: Severity,
    /// SQLSTATE, `00000` for none.
    pub code: SqlState,
    /// The message.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Notice {
    /// A notice without code and hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Notice,
            code: SqlState("00000"),
            message: message.into(),
            hint: None,
        }
    }
}

/// What the connection has to do beside answering.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    #[default]
    None,
    /// Forget a prepared statement.
    Deallocate(String),
    /// Forget all prepared statements.
    DeallocateAll,
    /// Forget all prepared statements and portals (DISCARD ALL).
    DiscardAll,
}

/// The outcome of a statement.
#[derive(Clone, Debug, Default)]
pub struct ExecResult {
    /// Columns of `rows`; none for a statement that returns no rows.
    pub columns: Option<Arc<[Column]>>,
    /// Rows of the result.
    pub rows: Vec<Row>,
    /// Command tag, such as `INSERT 0 1`.
    pub tag: String,
    /// Messages beside the result.
    pub notices: Vec<Notice>,
    /// Settings that clients are told of and that changed.
    pub parameters: Vec<(String, String)>,
    /// What the connection has to do.
    pub effect: Effect,
    /// Writes of it, or of what it was the last statement of, are committed: nothing may make it fail
    /// any more.
    pub committed: bool,
}

/// Whether a batch with writes of a session is on its way. While it is, dropping the statement's
/// future leaves it unknown whether the statement took effect. Clones share one flag.
#[derive(Clone, Debug, Default)]
pub struct WriteFlag(Arc<AtomicBool>);

/// Lowers the flag when the batch has returned, or its wait was given up.
pub(crate) struct WriteGuard<'a>(&'a AtomicBool);

impl WriteFlag {
    /// Whether a write is in flight.
    #[must_use]
    pub fn in_flight(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn raise(&self) -> WriteGuard<'_> {
        self.0.store(true, Ordering::Release);
        WriteGuard(&self.0)
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
