//! BEGIN, COMMIT, ROLLBACK, savepoints and SET TRANSACTION.

use crdb_settings::RESULTS_BUFFER_SIZE;
use crdb_sqlfront::ast::{self, Statement, TransactionModes};

use super::run::{Tries, no_transaction, retryable};
use super::txn::{LogLimits, Modes, Open, RESTART_SAVEPOINT, Step};
use super::{CancelFlag, ExecResult, Notice, Session, Severity, Vars};
use crate::error::{Result, SqlError, SqlState};
use crate::exec;
use crate::kv::{retry_error, txn_error};

fn tagged(tag: &str) -> ExecResult {
    ExecResult { tag: tag.to_owned(), ..ExecResult::default() }
}

fn warning(code: SqlState, message: &str) -> Notice {
    Notice { severity: Severity::Warning, code, message: message.to_owned(), hint: None }
}

fn only_in_transaction(what: &str) -> SqlError {
    SqlError::new(
        SqlState::NO_ACTIVE_TRANSACTION,
        format!("{what} can only be used in transaction blocks"),
    )
}

/// Whether a statement is one of this page.
pub(super) fn is_control(statement: &Statement) -> bool {
    ends(statement)
        || matches!(
            statement,
            Statement::Begin(_)
                | Statement::Savepoint(_)
                | Statement::ReleaseSavepoint(_)
                | Statement::SetTransaction(_)
                | Statement::SetSessionCharacteristics(_)
        )
}

/// Whether a statement ends a transaction, or takes it back to where it may go on.
fn ends(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::Commit { .. } | Statement::Rollback { .. } | Statement::RollbackToSavepoint(_)
    )
}

impl Session {
    /// Fails for a statement that the transaction, as it is, has no use for.
    pub(super) fn check_usable(&self, statement: &Statement) -> Result<()> {
        let Some(open) = &self.txn else { return Ok(()) };
        if ends(statement) {
            return Ok(());
        }
        // Clients ask for it to find out.
        let asks = matches!(
            statement,
            Statement::Show(ast::Show::Variable { name, .. })
                if name.replace(' ', "_") == "transaction_status"
        );
        if open.failed && !asks {
            return Err(SqlError::new(
                SqlState::FAILED_TRANSACTION,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        if open.released && !asks {
            return Err(SqlError::new(
                SqlState::INVALID_TRANSACTION_STATE,
                "current transaction is committed, commands ignored until end of transaction block",
            ));
        }
        Ok(())
    }

    pub(super) fn open_transaction(&mut self) -> Result<&mut Open> {
        self.txn.as_mut().ok_or_else(no_transaction)
    }

    /// Opens a transaction of several statements.
    pub(super) fn open(&mut self, modes: Modes, explicit: bool) {
        let modes = self.allowed(modes);
        let vars = self.info.vars.clone();
        let settings = &self.info.node.settings;
        let answers = usize::try_from(settings.get(RESULTS_BUFFER_SIZE).0).unwrap_or(usize::MAX);
        let limits = &self.info.node.limits;
        let log = LogLimits { steps: limits.log_steps, asked: limits.log_bytes, answers };
        self.txn = Some(Open::new(modes, explicit, self.now_micros(), vars, log));
        self.show_transaction();
    }

    /// Runs a statement of this page; none for any other.
    pub(super) async fn control(
        &mut self,
        statement: &Statement,
        cancel: &CancelFlag,
    ) -> Result<Option<ExecResult>> {
        Ok(Some(match statement {
            Statement::Begin(modes) => self.begin(modes).await?,
            Statement::Commit { chain } => self.commit_statement(*chain, cancel).await?,
            Statement::Rollback { chain } => self.rollback(*chain).await?,
            Statement::Savepoint(name) => self.savepoint(&name.value)?,
            Statement::ReleaseSavepoint(name) => {
                self.release_savepoint(&name.value, cancel).await?
            }
            Statement::RollbackToSavepoint(name) => self.rollback_to(&name.value).await?,
            Statement::SetTransaction(modes) => self.set_transaction(modes).await?,
            Statement::SetSessionCharacteristics(modes) => {
                self.set_characteristics(modes)?;
                tagged("SET")
            }
            _ => return Ok(None),
        }))
    }

    async fn begin(&mut self, asked: &TransactionModes) -> Result<ExecResult> {
        let mut result = tagged("BEGIN");
        match &mut self.txn {
            Some(open) if open.explicit => {
                let message = "there is already a transaction in progress";
                result.notices.push(warning(SqlState::ACTIVE_TRANSACTION, message));
            }
            Some(open) => {
                let (modes, used) = (open.modes, open.used);
                let modes = self.with_modes(modes, asked, used).await?;
                let open = self.open_transaction()?;
                open.modes = modes;
                open.explicit = true;
            }
            None => {
                let mut modes = self.with_modes(self.defaults, asked, false).await?;
                if modes.read_only && modes.as_of.is_none() {
                    modes.as_of = self.follower_read();
                }
                self.open(modes, true);
            }
        }
        Ok(result)
    }

    async fn set_transaction(&mut self, asked: &TransactionModes) -> Result<ExecResult> {
        let mut result = tagged("SET");
        let Some(open) = self.txn.as_ref().filter(|open| open.explicit) else {
            let message = "SET TRANSACTION can only be used in transaction blocks";
            result.notices.push(warning(SqlState::NO_ACTIVE_TRANSACTION, message));
            return Ok(result);
        };
        let (modes, used) = (open.modes, open.used);
        let modes = self.with_modes(modes, asked, used).await?;
        self.open_transaction()?.modes = modes;
        Ok(result)
    }

    async fn commit_statement(&mut self, chain: bool, cancel: &CancelFlag) -> Result<ExecResult> {
        let Some(open) = &mut self.txn else { return no_block("COMMIT", chain) };
        let (modes, explicit, failed) = (open.modes, open.explicit, open.failed);
        if !explicit && chain {
            return no_block("COMMIT", chain);
        }
        open.ends = true;
        let mut result = if failed {
            let parameters = self.abandon().await;
            ExecResult { parameters, ..tagged("ROLLBACK") }
        } else {
            match self.commit(cancel).await {
                Ok(parameters) => ExecResult { parameters, ..tagged("COMMIT") },
                Err(error) => {
                    self.untold = self.abandon().await;
                    return Err(error);
                }
            }
        };
        if !explicit {
            let message = "there is no transaction in progress";
            result.notices.push(warning(SqlState::NO_ACTIVE_TRANSACTION, message));
        }
        if chain {
            self.open(modes, true);
        }
        Ok(result)
    }

    async fn rollback(&mut self, chain: bool) -> Result<ExecResult> {
        let Some(open) = &self.txn else { return no_block("ROLLBACK", chain) };
        let (modes, explicit) = (open.modes, open.explicit);
        if !explicit && chain {
            return no_block("ROLLBACK", chain);
        }
        let parameters = self.abandon().await;
        let mut result = ExecResult { parameters, ..tagged("ROLLBACK") };
        if !explicit {
            let message = "there is no transaction in progress";
            result.notices.push(warning(SqlState::NO_ACTIVE_TRANSACTION, message));
        }
        if chain {
            self.open(modes, true);
        }
        Ok(result)
    }

    /// Commits the open transaction. Returns settings to tell the client of. After an error the
    /// transaction is still there, but cannot commit.
    pub(super) async fn commit(&mut self, cancel: &CancelFlag) -> Result<Vec<(String, String)>> {
        self.commit_open(cancel).await?;
        let open = self.txn.take();
        let told = self.reset_locals(open.map(|open| open.locals).unwrap_or_default());
        self.show_transaction();
        Ok(told)
    }

    /// Makes what the open transaction did durable, again after it lost a race where it may.
    async fn commit_open(&mut self, cancel: &CancelFlag) -> Result<()> {
        let mut tries = Tries::default();
        loop {
            match self.try_commit(cancel).await {
                Err(error) if retryable(&error) => {
                    // A conflict at the end concerns all of it, whatever its level.
                    self.again(&mut tries, &error, true, cancel).await?;
                }
                result => return result,
            }
        }
    }

    async fn try_commit(&mut self, cancel: &CancelFlag) -> Result<()> {
        let patience = self.write_patience();
        let open = self.txn.as_mut().ok_or_else(no_transaction)?;
        if open.released {
            return Ok(());
        }
        let Some(kv) = open.begun() else { return Ok(()) };
        kv.set_lock_timeout(patience);
        exec::commit(kv, &self.write_flag, cancel).await?.map_err(txn_error)
    }

    /// Rolls the open transaction back. Returns settings to tell the client of.
    pub(super) async fn abandon(&mut self) -> Vec<(String, String)> {
        let Some(mut open) = self.txn.take() else { return Vec::new() };
        open.restart().await;
        let told =
            if open.released { self.reset_locals(open.locals) } else { self.restore(open.vars) };
        self.show_transaction();
        told
    }

    fn savepoint(&mut self, name: &str) -> Result<ExecResult> {
        let Some(open) = self.txn.as_mut().filter(|open| open.explicit) else {
            return Err(only_in_transaction("SAVEPOINT"));
        };
        let vars = self.info.vars.clone();
        if name == RESTART_SAVEPOINT {
            if !open.savepoints.is_empty() {
                return Err(SqlError::syntax(format!("SAVEPOINT \"{name}\" cannot be nested")));
            }
            if open.used {
                return Err(SqlError::syntax(format!(
                    "SAVEPOINT \"{name}\" needs to be the first statement in a transaction"
                )));
            }
            open.restart_savepoint(vars);
        } else {
            open.savepoint(&self.info.node.txns, name, vars);
            open.note(Step::Savepoint(name.to_owned()));
        }
        Ok(tagged("SAVEPOINT"))
    }

    async fn release_savepoint(&mut self, name: &str, cancel: &CancelFlag) -> Result<ExecResult> {
        let Some(open) = self.txn.as_mut().filter(|open| open.explicit) else {
            return Err(only_in_transaction("RELEASE SAVEPOINT"));
        };
        let at = open.find(name)?;
        if open.savepoints.get(at).is_some_and(|s| s.id.is_none()) {
            if let Err(error) = self.commit_open(cancel).await {
                if error.code == SqlState::COMPLETION_UNKNOWN {
                    // It must not be run again, and what it did cannot be taken back.
                    self.untold = self.abandon().await;
                }
                return Err(error);
            }
            let open = self.open_transaction()?;
            open.released = true;
            open.kv = None;
        } else {
            open.release(name)?;
            open.note(Step::Release(name.to_owned()));
        }
        Ok(tagged("RELEASE"))
    }

    async fn rollback_to(&mut self, name: &str) -> Result<ExecResult> {
        let Some(open) = self.txn.as_mut().filter(|open| open.explicit) else {
            return Err(only_in_transaction("ROLLBACK TO SAVEPOINT"));
        };
        if open.released {
            return Err(SqlError::new(
                SqlState::INVALID_TRANSACTION_STATE,
                "current transaction is committed, commands ignored until end of transaction block",
            ));
        }
        if let Some(cause) = open.doomed.as_ref().filter(|_| name != RESTART_SAVEPOINT) {
            return Err(retry_error(cause));
        }
        let at = open.find(name)?;
        let vars = if open.savepoints.get(at).is_some_and(|s| s.id.is_none()) {
            open.restart().await;
            self.seat.restarted();
            open.start_over()
        } else {
            if open.failed {
                // The client was told an error, which running again would not verify.
                open.log = None;
            }
            let vars = open.rollback_to(name).await?;
            open.note(Step::RollbackTo(name.to_owned()));
            vars
        };
        self.open_transaction()?.failed = false;
        let parameters = self.restore(vars);
        Ok(ExecResult { parameters, ..tagged("ROLLBACK") })
    }

    /// Sets all variables to what they were. Returns those to tell the client of.
    pub(super) fn restore(&mut self, vars: Vars) -> Vec<(String, String)> {
        let before = std::mem::replace(&mut self.info.vars, vars);
        let told = self.info.vars.told_since(&before);
        self.follow_variables();
        told
    }

    /// Ends what SET LOCAL has set.
    fn reset_locals(&mut self, locals: Vec<(String, String)>) -> Vec<(String, String)> {
        if locals.is_empty() {
            return Vec::new();
        }
        let mut vars = self.info.vars.clone();
        // The oldest value of a variable is the one it had before the transaction.
        for (name, value) in locals.into_iter().rev() {
            drop(vars.set(&name, &value));
        }
        self.restore(vars)
    }
}

/// COMMIT and ROLLBACK outside of a transaction.
fn no_block(what: &str, chain: bool) -> Result<ExecResult> {
    if chain {
        return Err(only_in_transaction(&format!("{what} AND CHAIN")));
    }
    let mut result = tagged(what);
    let message = "there is no transaction in progress";
    result.notices.push(warning(SqlState::NO_ACTIVE_TRANSACTION, message));
    Ok(result)
}
