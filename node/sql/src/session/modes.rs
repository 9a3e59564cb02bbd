//! The modes of transactions: where they come from, and what shows them.

use crdb_proto::kv::{Isolation, TxnPriority};
use crdb_settings::READ_COMMITTED_ENABLED;
use crdb_sqlfront::ast::{BeginMode, IsolationLevel, TransactionModes};

use super::txn::{Modes, TransactionStatus};
use super::{Session, Shown, Vars};
use crate::error::{Result, SqlError, SqlState};

/// The level that is served for a level that is asked for, by the names of variables.
fn level_name(level: IsolationLevel) -> &'static str {
    match level {
        IsolationLevel::ReadUncommitted | IsolationLevel::ReadCommitted => "read committed",
        IsolationLevel::RepeatableRead
        | IsolationLevel::Snapshot
        | IsolationLevel::Serializable => "serializable",
    }
}

fn isolation(name: &str) -> Isolation {
    match name {
        "read committed" => Isolation::ReadCommitted,
        _ => Isolation::Serializable,
    }
}

fn priority(name: &str) -> TxnPriority {
    match name {
        "low" => TxnPriority::PriorityLow,
        "high" => TxnPriority::PriorityHigh,
        _ => TxnPriority::PriorityNormal,
    }
}

fn too_late(what: &str) -> SqlError {
    SqlError::new(
        SqlState::ACTIVE_TRANSACTION,
        format!("{what} must be set before any query of the transaction"),
    )
}

impl Modes {
    /// The modes of transactions that say nothing of them.
    pub(super) fn defaults(vars: &Vars) -> Result<Self> {
        Ok(Self {
            isolation: isolation(vars.get("default_transaction_isolation")?),
            priority: priority(vars.get("default_transaction_priority")?),
            read_only: vars.get("default_transaction_read_only")? == "on",
            as_of: None,
        })
    }
}

impl Shown {
    /// What variables show outside of transactions, before the session's defaults are known.
    pub(crate) fn none() -> Self {
        Self {
            isolation: "serializable",
            priority: "normal",
            read_only: false,
            status: "NoTxn",
            read_timestamp: None,
        }
    }
}

impl Session {
    /// Makes the variables show the transaction as it is now.
    pub(super) fn show_transaction(&mut self) {
        let modes =
            self.txn.as_ref().map_or_else(|| self.allowed(self.defaults), |open| open.modes);
        let status = match &self.txn {
            Some(open) if open.released => "CommitWait",
            _ => match self.status() {
                TransactionStatus::Idle => "NoTxn",
                TransactionStatus::Open => "Open",
                TransactionStatus::Failed => "Aborted",
            },
        };
        self.info.shown = Shown {
            isolation: modes.isolation_name(),
            priority: modes.priority_name(),
            read_only: modes.read_only,
            status,
            // One that reads the past knows when before it reads anything.
            read_timestamp: modes.as_of.map(|as_of| as_of.timestamp).or_else(|| {
                let kv = self.txn.as_ref().and_then(|open| open.kv.as_ref());
                kv.and_then(crdb_kv::Txn::read_timestamp)
            }),
        };
        self.seat.open(self.txn.as_ref().map(super::txn::Open::info));
    }

    /// Changes modes as a BEGIN or SET TRANSACTION asks for. `used` says that the transaction read
    /// or wrote already.
    pub(super) async fn with_modes(
        &mut self,
        mut modes: Modes,
        asked: &TransactionModes,
        used: bool,
    ) -> Result<Modes> {
        for mode in &asked.modes {
            match mode {
                BeginMode::Isolation(level) => {
                    let wanted = isolation(level_name(*level));
                    if used && wanted != modes.isolation {
                        return Err(too_late("the isolation level"));
                    }
                    modes.isolation = wanted;
                }
                BeginMode::Priority(level) => {
                    let wanted = priority(level);
                    if used && wanted != modes.priority {
                        return Err(too_late("the priority"));
                    }
                    modes.priority = wanted;
                }
                BeginMode::ReadOnly(wanted) => {
                    if used && modes.read_only && !wanted {
                        return Err(too_late("read-write mode"));
                    }
                    modes.read_only = *wanted;
                }
                BeginMode::AsOf(e) => {
                    let as_of = self.as_of(e).await?;
                    if used {
                        return Err(too_late("AS OF SYSTEM TIME"));
                    }
                    modes.as_of = Some(as_of);
                }
                // All transactions may be deferred: none fails for it.
                BeginMode::Deferrable(_) => {}
            }
        }
        if modes.as_of.is_some() {
            if asked.modes.iter().any(|m| matches!(m, BeginMode::ReadOnly(false))) {
                return Err(SqlError::syntax("AS OF SYSTEM TIME specified with READ WRITE mode"));
            }
            modes.read_only = true;
        }
        Ok(self.allowed(modes))
    }

    /// The modes that are served where these are asked for: a cluster may do without READ COMMITTED.
    pub(super) fn allowed(&self, mut modes: Modes) -> Modes {
        if modes.isolation == Isolation::ReadCommitted
            && !self.info.node.settings.get(READ_COMMITTED_ENABLED)
        {
            modes.isolation = Isolation::Serializable;
        }
        modes
    }

    /// SET SESSION CHARACTERISTICS: modes become defaults.
    pub(super) fn set_characteristics(&mut self, asked: &TransactionModes) -> Result<()> {
        for mode in &asked.modes {
            let (name, value) = match mode {
                BeginMode::Isolation(level) => {
                    ("default_transaction_isolation", level_name(*level))
                }
                BeginMode::Priority(level) => ("default_transaction_priority", level.as_str()),
                BeginMode::ReadOnly(on) => {
                    ("default_transaction_read_only", if *on { "on" } else { "off" })
                }
                BeginMode::Deferrable(_) => continue,
                BeginMode::AsOf(e) => {
                    return Err(SqlError::unsupported(
                        "AS OF SYSTEM TIME in SET SESSION CHARACTERISTICS",
                    )
                    .with_position(e.pos().0));
                }
            };
            self.set_variable(name, value)?;
        }
        Ok(())
    }

    /// SET of a variable that shows a mode of the open transaction; false for any other variable.
    pub(super) fn set_mode(&mut self, name: &str, value: &str) -> Result<bool> {
        let wanted = value.trim().to_ascii_lowercase();
        let Some(open) = self.txn.as_mut().filter(|_| name.starts_with("transaction_")) else {
            return Ok(false);
        };
        let used = open.used;
        match name {
            "transaction_isolation" => {
                let name = match wanted.as_str() {
                    "read uncommitted" | "read committed" => "read committed",
                    "repeatable read" | "snapshot" | "serializable" => "serializable",
                    _ => return Err(invalid(name, value)),
                };
                if used && isolation(name) != open.modes.isolation {
                    return Err(too_late("the isolation level"));
                }
                open.modes.isolation = isolation(name);
                let modes = open.modes;
                let modes = self.allowed(modes);
                self.open_transaction()?.modes = modes;
            }
            "transaction_priority" => {
                if !matches!(wanted.as_str(), "low" | "normal" | "high") {
                    return Err(invalid(name, value));
                }
                if used && priority(&wanted) != open.modes.priority {
                    return Err(too_late("the priority"));
                }
                open.modes.priority = priority(&wanted);
            }
            "transaction_read_only" => {
                let on = crate::datum::parse_bool(&wanted).ok_or_else(|| invalid(name, value))?;
                if open.modes.read_only && !on && (used || open.modes.as_of.is_some()) {
                    return Err(too_late("read-write mode"));
                }
                open.modes.read_only = on;
            }
            _ => return Ok(false),
        }
        self.show_transaction();
        Ok(true)
    }
}

fn invalid(name: &str, value: &str) -> SqlError {
    SqlError::new(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("invalid value for parameter \"{name}\": \"{value}\""),
    )
}
