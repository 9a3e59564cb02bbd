//! The transaction a session has open: its modes, its savepoints, and what was done in it.
//!
//! ```text
//!            BEGIN                         error
//!   idle ───────────▶ open ───────────────────────────▶ failed
//!    ▲  ◀──────────── │  ◀──── ROLLBACK TO SAVEPOINT ── │
//!    │     COMMIT     │                                 │ COMMIT, ROLLBACK
//!    └────────────────┴─────────────────────────────────┘
//! ```
//!
//! Outside of BEGIN the statements of one string of the simple protocol, or those up to a Sync of
//! the extended one, make an *implicit* transaction. It ends with the string, and any error rolls
//! it back, so it is never seen failed. A statement that is alone in its transaction has none of
//! this: it begins, runs and commits in one go.
//!
//! A transaction that lost a race runs again without its client noticing, as long as its *log*
//! allows it: all statements so far run again in a new transaction, and each has to give exactly
//! what it gave before, since the client may have acted on it. So it does not matter whether a
//! result was sent already. A log that became too large, a change of settings, on which what the
//! statements before say may depend, or a statement that answers differently now, ends in 40001. So
//! does one that was stopped while it ran again: half of it is there.
//!
//! Invariants:
//! 1. A transaction holds every catalog version that it used until it ends, and no read or commit
//!    of it is later than the deadline of any of them: it cannot commit by an outdated catalog.
//! 2. What a client was told in a transaction that commits is what the transaction that committed
//!    read, whichever try that was.

use std::sync::Arc;

use crdb_kv::{AsOf, SavepointId, TxnClient, TxnOptions};
use crdb_proto::kv::{Isolation, TxnPriority};

use super::run::no_transaction;
use super::{Prepared, Vars};
use crate::activity::TxnInfo;
use crate::catalog::Snapshot;
use crate::datum::{Datum, Row};
use crate::error::{SqlError, SqlState};

/// The savepoint that clients of CockroachDB retry transactions with.
pub(super) const RESTART_SAVEPOINT: &str = "cockroach_restart";

/// Bytes that the tree of a statement takes for each byte of its text, about.
const TREE_FACTOR: usize = 16;

/// Whether a session is in a transaction, as clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// In none that was begun with BEGIN.
    Idle,
    /// In one.
    Open,
    /// In one that failed and can only be rolled back.
    Failed,
}

/// How a transaction behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Modes {
    pub(super) isolation: Isolation,
    pub(super) priority: TxnPriority,
    pub(super) read_only: bool,
    pub(super) as_of: Option<AsOf>,
}

impl Modes {
    pub(super) fn isolation_name(self) -> &'static str {
        match self.isolation {
            Isolation::Serializable => "serializable",
            Isolation::ReadCommitted => "read committed",
        }
    }

    pub(super) fn priority_name(self) -> &'static str {
        match self.priority {
            TxnPriority::PriorityNormal => "normal",
            TxnPriority::PriorityLow => "low",
            TxnPriority::PriorityHigh => "high",
        }
    }

    /// What others see of a transaction of these modes.
    pub(super) fn info(self, kv: Option<&crdb_kv::Txn>, started_micros: i64) -> TxnInfo {
        TxnInfo {
            id: kv.and_then(|kv| <[u8; 16]>::try_from(&*kv.meta().id).ok()),
            started_micros,
            isolation: self.isolation_name(),
            priority: self.priority_name(),
        }
    }

    /// What the key-value layer is told.
    pub(super) fn options(self, implicit: bool) -> TxnOptions {
        TxnOptions {
            isolation: self.isolation,
            priority: self.priority,
            // Statements that write are refused before; locks of FOR SHARE are no writes.
            read_only: self.read_only,
            as_of: self.as_of,
            implicit,
        }
    }
}

/// A named point of a transaction.
pub(super) struct Savepoint {
    pub(super) name: String,
    /// None for the restart savepoint, which is the start of the transaction.
    pub(super) id: Option<SavepointId>,
    /// Settings to go back to.
    vars: Vars,
}

/// Something that was done in a transaction and can be done again.
#[derive(Clone)]
pub(super) enum Step {
    Statement {
        prepared: Arc<Prepared>,
        params: Box<[Datum]>,
        /// When it ran, for `statement_timestamp()`.
        micros: i64,
        /// What it answered.
        rows: Vec<Row>,
        tag: String,
    },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
}

/// What was done in a transaction so far.
#[derive(Clone, Default)]
pub(super) struct Log {
    pub(super) steps: Vec<Step>,
    /// Of answers.
    bytes: usize,
    /// Of statements and parameters.
    asked: usize,
}

/// How large a log may become.
#[derive(Clone, Copy)]
pub(super) struct LogLimits {
    pub(super) steps: usize,
    /// Bytes of statements and their parameters.
    pub(super) asked: usize,
    /// Bytes of answers.
    pub(super) answers: usize,
}

/// A transaction of several statements.
pub(super) struct Open {
    /// Begun when a statement needs it.
    pub(super) kv: Option<crdb_kv::Txn>,
    pub(super) modes: Modes,
    /// Begun with BEGIN.
    pub(super) explicit: bool,
    pub(super) failed: bool,
    /// COMMIT has begun: it is over, whatever comes of that.
    pub(super) ends: bool,
    /// It has to run again from its start, and why; no savepoint but the first helps.
    pub(super) doomed: Option<String>,
    /// RELEASE SAVEPOINT cockroach_restart has committed it.
    pub(super) released: bool,
    /// A statement ran: its modes are fixed.
    pub(super) used: bool,
    /// When it began.
    pub(super) micros: i64,
    /// Catalog versions it used.
    pins: Vec<Arc<Snapshot>>,
    pub(super) savepoints: Vec<Savepoint>,
    /// None once it cannot run again by itself.
    pub(super) log: Option<Log>,
    log_limits: LogLimits,
    /// Settings before it, which ROLLBACK goes back to.
    pub(super) vars: Vars,
    /// Settings of SET LOCAL with the values they had.
    pub(super) locals: Vec<(String, String)>,
}

impl Open {
    pub(super) fn new(
        modes: Modes,
        explicit: bool,
        micros: i64,
        vars: Vars,
        log_limits: LogLimits,
    ) -> Self {
        Self {
            kv: None,
            modes,
            explicit,
            failed: false,
            ends: false,
            doomed: None,
            released: false,
            used: false,
            micros,
            pins: Vec::new(),
            savepoints: Vec::new(),
            log: Some(Log::default()),
            log_limits,
            vars,
            locals: Vec::new(),
        }
    }

    pub(super) fn status(&self) -> TransactionStatus {
        match (self.explicit, self.failed) {
            (false, _) => TransactionStatus::Idle,
            (true, false) => TransactionStatus::Open,
            (true, true) => TransactionStatus::Failed,
        }
    }

    /// What others see of it.
    pub(super) fn info(&self) -> TxnInfo {
        self.modes.info(self.kv.as_ref(), self.micros)
    }

    /// Makes the transaction use a catalog version until it ends.
    pub(super) fn pin(&mut self, snapshot: &Arc<Snapshot>) {
        if !self.pins.last().is_some_and(|last| Arc::ptr_eq(last, snapshot)) {
            self.pins.push(Arc::clone(snapshot));
        }
    }

    /// The transaction of the key-value layer, which ends before any catalog version it used does.
    pub(super) fn txn(&mut self, client: &TxnClient) -> &mut crdb_kv::Txn {
        let options = self.modes.options(!self.explicit);
        let kv = self.kv.get_or_insert_with(|| client.begin(options));
        self.pins.iter().for_each(|pin| kv.bind_to_lease(pin.lease()));
        kv
    }

    /// The same if it has begun.
    pub(super) fn begun(&mut self) -> Option<&mut crdb_kv::Txn> {
        let kv = self.kv.as_mut()?;
        self.pins.iter().for_each(|pin| kv.bind_to_lease(pin.lease()));
        Some(kv)
    }

    /// Takes back everything, for another try.
    pub(super) async fn restart(&mut self) {
        // First, since nothing may lead back to them if this is dropped.
        let first = self.savepoints.first().is_some_and(|s| s.id.is_none());
        self.savepoints.truncate(usize::from(first));
        if let Some(mut kv) = self.kv.take() {
            kv.rollback().await;
        }
        self.pins.clear();
    }

    /// Takes back everything; only ROLLBACK helps.
    pub(super) async fn end(&mut self) {
        self.restart().await;
        self.savepoints.clear();
    }

    /// Forgets all but that it was begun with the restart savepoint. Returns the settings to go back
    /// to.
    pub(super) fn start_over(&mut self) -> Vars {
        self.log = Some(Log::default());
        self.doomed = None;
        self.used = false;
        self.savepoints.first().map(|s| s.vars.clone()).unwrap_or_default()
    }

    /// Whether the log has room for a statement with these parameters and rows; gives it up if not.
    pub(super) fn has_room(
        &mut self,
        statement: &Prepared,
        params: &[Datum],
        rows: &[Row],
    ) -> bool {
        let limits = self.log_limits;
        let bytes_max = limits.answers;
        let Some(log) = &mut self.log else { return false };
        log.asked += statement.parsed.text.len() * TREE_FACTOR;
        log.asked += params.iter().map(Datum::memory).sum::<usize>();
        log.bytes += 128;
        for row in rows {
            log.bytes += 24 + row.iter().map(Datum::memory).sum::<usize>();
            if log.bytes > bytes_max {
                break;
            }
        }
        let full = log.bytes > bytes_max || log.asked > limits.asked;
        if full || log.steps.len() >= limits.steps {
            self.log = None;
        }
        self.log.is_some()
    }

    /// Gives up to run again by itself, if anything has run.
    pub(super) fn seal(&mut self) {
        if self.log.as_ref().is_some_and(|log| !log.steps.is_empty()) {
            self.log = None;
        }
    }

    /// Notes a step if there is room for it; gives the log up if not.
    pub(super) fn note(&mut self, step: Step) {
        let most = self.log_limits.steps;
        if let Some(log) = self.log.take().filter(|log| log.steps.len() < most) {
            let log = self.log.insert(log);
            log.steps.push(step);
        }
    }

    /// Where the newest savepoint of a name is.
    pub(super) fn find(&self, name: &str) -> Result<usize, SqlError> {
        self.savepoints.iter().rposition(|s| s.name == name).ok_or_else(|| {
            SqlError::new(
                SqlState::INVALID_SAVEPOINT,
                format!("savepoint \"{name}\" does not exist"),
            )
        })
    }

    /// Adds a savepoint.
    pub(super) fn savepoint(&mut self, client: &TxnClient, name: &str, vars: Vars) {
        let id = Some(self.txn(client).savepoint());
        self.savepoints.push(Savepoint { name: name.to_owned(), id, vars });
    }

    /// Adds the restart savepoint, which needs nothing of the key-value layer.
    pub(super) fn restart_savepoint(&mut self, vars: Vars) {
        let name = RESTART_SAVEPOINT.to_owned();
        self.savepoints.push(Savepoint { name, id: None, vars });
    }

    /// Forgets a savepoint and those after it.
    pub(super) fn release(&mut self, name: &str) -> Result<(), SqlError> {
        let at = self.find(name)?;
        let released = self.savepoints.split_off(at);
        if let Some(kv) = self.begun() {
            released.iter().filter_map(|s| s.id).for_each(|id| kv.release(id));
        }
        Ok(())
    }

    /// Takes back what was written after a savepoint, which stays. Returns the settings to go back
    /// to.
    pub(super) async fn rollback_to(&mut self, name: &str) -> Result<Vars, SqlError> {
        let at = self.find(name)?;
        let savepoint = self.savepoints.get(at);
        let id = savepoint.and_then(|s| s.id);
        let vars = savepoint.map(|s| s.vars.clone()).unwrap_or_default();
        if let Some(id) = id {
            let kv = self.begun().ok_or_else(no_transaction)?;
            kv.rollback_to(id).await.map_err(crate::kv::txn_error)?;
        }
        self.savepoints.truncate(at + 1);
        Ok(vars)
    }
}
