//! Statements that are not plans: schema changes, SET and SHOW, and what is refused.

use crdb_sqlfront::ast::{self, DropBehavior, SetValue, Statement};

use super::show::show_rows;
use super::{CancelFlag, Effect, ExecResult, Notice, Session, literal_text};
use crate::analyze::{OFFLINE, new_table, table_name, with_primary_key};
use crate::error::{Result, SqlError, SqlState};

fn tagged(tag: &str) -> ExecResult {
    ExecResult { tag: tag.to_owned(), ..ExecResult::default() }
}

/// Statements of explicit transactions, which come with a later version.
fn no_transactions(what: &str) -> SqlError {
    SqlError::unsupported(format!("explicit transactions ({what})")).with_hint(
        "Each statement is a serializable transaction of its own; send statements without BEGIN.",
    )
}

impl Session {
    pub(super) async fn utility(
        &mut self,
        statement: &Statement,
        cancel: &CancelFlag,
    ) -> Result<ExecResult> {
        cancel.check()?;
        match statement {
            Statement::CreateDatabase(create) => {
                let node = &self.info.node;
                let created =
                    node.create_database(&create.name.value, create.if_not_exists).await?;
                let mut result = tagged("CREATE DATABASE");
                if !created {
                    let name = &create.name.value;
                    result
                        .notices
                        .push(Notice::new(format!("database \"{name}\" already exists, skipping")));
                }
                Ok(result)
            }
            Statement::CreateTable(create) => self.create_table(create).await,
            Statement::AddPrimaryKey(add) => self.add_primary_key(add, cancel).await,
            Statement::DropDatabase(_) | Statement::DropTable(_) | Statement::Truncate(_) => {
                self.drop_something(statement).await
            }
            Statement::Show(show) => self.show(show, cancel).await,
            Statement::SplitAt(_) | Statement::UnsplitAt(_) | Statement::RelocateLease(_) => {
                self.change_ranges(statement, cancel).await
            }
            Statement::SetVariable { name, value, pos, .. } => {
                self.set(name, value).await.map_err(|e| e.with_position(pos.0))
            }
            Statement::ResetVariable { name, pos } => {
                let told = self.info.vars.reset(name).map_err(|e| e.with_position(pos.0))?;
                self.apply_variables()?;
                Ok(ExecResult { parameters: told.into_iter().collect(), ..tagged("RESET") })
            }
            Statement::ResetAll => {
                let parameters = self.info.vars.reset_all();
                self.apply_variables()?;
                Ok(ExecResult { parameters, ..tagged("RESET") })
            }
            Statement::Discard(target) => self.discard(*target),
            Statement::Deallocate(name) => {
                let effect = match name {
                    Some(name) => Effect::Deallocate(name.value.clone()),
                    None => Effect::DeallocateAll,
                };
                Ok(ExecResult { effect, ..tagged("DEALLOCATE") })
            }
            Statement::Maintenance(what) => {
                let mut result = tagged(what.tag());
                let message = format!("{} has nothing to do here", what.tag());
                result.notices.push(Notice::new(message));
                Ok(result)
            }
            Statement::SetTransaction(modes) | Statement::SetSessionCharacteristics(modes) => {
                let notices = check_modes(modes)?;
                Ok(ExecResult { notices, ..tagged("SET") })
            }
            Statement::SetClusterSetting { name, value, pos } => {
                let node = std::sync::Arc::clone(&self.info.node);
                let set = super::settings::set(&node, name, value.as_ref()).await;
                set.map_err(|error| error.with_position(pos.0))
            }
            other => Err(refused(other)),
        }
    }

    async fn create_table(&mut self, create: &ast::CreateTable) -> Result<ExecResult> {
        let new = {
            let snapshot = self.begin_statement().await?;
            new_table(&self.info, &snapshot, create)?
        };
        let created = self.info.node.create_table(&new).await?;
        let mut result = tagged("CREATE TABLE");
        if created.is_none() {
            let message = format!("relation \"{}\" already exists, skipping", new.desc.name);
            result.notices.push(Notice::new(message));
        }
        Ok(result)
    }

    async fn add_primary_key(
        &mut self,
        add: &ast::AddPrimaryKey,
        cancel: &CancelFlag,
    ) -> Result<ExecResult> {
        let name = {
            let snapshot = self.begin_statement().await?;
            table_name(&self.info, &snapshot, &add.table)?
        };
        let node = std::sync::Arc::clone(&self.info.node);
        let started = node.clock.wall_nanos();
        let new_key = |table: &crate::catalog::TableDesc| with_primary_key(table, add);
        let mut result = tagged("ALTER TABLE");
        match node.add_primary_key(&name, &new_key, cancel).await {
            Ok(()) => {}
            Err(error) if add.if_exists && error.code == SqlState::UNDEFINED_TABLE => {
                let message = format!("relation \"{}\" does not exist, skipping", name.shown);
                result.notices.push(Notice::new(message));
            }
            Err(error) => return Err(error),
        }
        // The statement has taken effect; rows that are left are deleted by whoever comes next.
        drop(node.delete_dropped_rows(|entry| entry.dropped_nanos >= started).await);
        Ok(result)
    }

    async fn drop_something(&mut self, statement: &Statement) -> Result<ExecResult> {
        let node = std::sync::Arc::clone(&self.info.node);
        let started = node.clock.wall_nanos();
        let result = match statement {
            Statement::DropDatabase(drop) => {
                let name = &drop.name.value;
                if name == "system" {
                    return Err(SqlError::new(
                        SqlState::INSUFFICIENT_PRIVILEGE,
                        "the database \"system\" cannot be dropped",
                    ));
                }
                let restrict = drop.behavior == DropBehavior::Restrict;
                let dropped = node.drop_database(name, drop.if_exists, restrict).await?;
                let mut result = tagged("DROP DATABASE");
                if !dropped {
                    let message = format!("database \"{name}\" does not exist, skipping");
                    result.notices.push(Notice::new(message));
                }
                result
            }
            Statement::DropTable(drop) => {
                let names = self.table_names(&drop.names, drop.if_exists).await?;
                let missing = node.drop_tables(&names, drop.if_exists).await?;
                let mut result = tagged("DROP TABLE");
                for name in missing {
                    let message = format!("relation \"{name}\" does not exist, skipping");
                    result.notices.push(Notice::new(message));
                }
                result
            }
            Statement::Truncate(truncate) => {
                let names = self.table_names(&truncate.names, false).await?;
                node.truncate_tables(&names).await?;
                tagged("TRUNCATE")
            }
            other => return Err(refused(other)),
        };
        // The statement has taken effect; rows that are left are deleted by whoever comes next.
        if node.delete_dropped_rows(|entry| entry.dropped_nanos >= started).await.is_err() {
            return Ok(result);
        }
        Ok(result)
    }

    async fn table_names(
        &mut self,
        names: &[ast::ObjectName],
        if_exists: bool,
    ) -> Result<Vec<crate::catalog::ddl::TableName>> {
        let snapshot = self.begin_statement().await?;
        let mut found = Vec::new();
        for name in names {
            match table_name(&self.info, &snapshot, name) {
                Ok(name) => found.push(name),
                Err(error) if if_exists && error.code == SqlState::INVALID_CATALOG_NAME => {}
                Err(error) if error.code == SqlState::INVALID_CATALOG_NAME => {
                    return Err(crate::catalog::ddl::undefined_table(&crate::analyze::shown(name)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn show(&mut self, show: &ast::Show, cancel: &CancelFlag) -> Result<ExecResult> {
        loop {
            cancel.check()?;
            let snapshot = self.begin_statement().await?;
            match show_rows(&self.info, show).await {
                Ok(rows) => {
                    let columns = super::show::show_columns(show)?;
                    let tag = format!("SHOW {}", rows.len());
                    return Ok(ExecResult {
                        columns: Some(columns.into()),
                        rows,
                        tag,
                        ..ExecResult::default()
                    });
                }
                Err(error) if error.code == OFFLINE => {
                    drop(snapshot);
                    self.wait_offline().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn set(&mut self, name: &str, value: &SetValue) -> Result<ExecResult> {
        let values = match value {
            SetValue::Default => {
                let told = self.info.vars.reset(name)?;
                self.apply_variables()?;
                return Ok(ExecResult { parameters: told.into_iter().collect(), ..tagged("SET") });
            }
            SetValue::Values(values) => {
                values.iter().map(literal_text).collect::<Result<Vec<_>>>()?.join(", ")
            }
        };
        if name == "database" {
            let snapshot = self.info.node.catalog().pin().await?;
            if snapshot.database(&values).is_none() {
                return Err(SqlError::new(
                    SqlState::INVALID_CATALOG_NAME,
                    format!("database \"{values}\" does not exist"),
                ));
            }
            self.info.database.clone_from(&values);
        }
        let told = self.set_variable(name, &values)?;
        Ok(ExecResult { parameters: told.into_iter().collect(), ..tagged("SET") })
    }

    fn discard(&mut self, target: ast::DiscardTarget) -> Result<ExecResult> {
        Ok(match target {
            ast::DiscardTarget::All => {
                let parameters = self.info.vars.reset_all();
                self.apply_variables()?;
                let result = tagged("DISCARD ALL");
                ExecResult { parameters, effect: Effect::DiscardAll, ..result }
            }
            ast::DiscardTarget::Plans => tagged("DISCARD PLANS"),
            ast::DiscardTarget::Sequences => tagged("DISCARD SEQUENCES"),
            ast::DiscardTarget::Temp => tagged("DISCARD TEMP"),
        })
    }
}

/// Only what every statement does anyway can be asked for, or less.
fn check_modes(modes: &ast::TransactionModes) -> Result<Vec<Notice>> {
    let mut notices = Vec::new();
    for mode in &modes.modes {
        match mode {
            ast::BeginMode::ReadOnly(true) => {
                return Err(SqlError::unsupported("READ ONLY transactions"));
            }
            ast::BeginMode::AsOf(_) => return Err(SqlError::unsupported("AS OF SYSTEM TIME")),
            ast::BeginMode::Isolation(level) if *level != ast::IsolationLevel::Serializable => {
                notices.push(Notice::new("statements stay SERIALIZABLE, which is stricter"));
            }
            ast::BeginMode::Isolation(_)
            | ast::BeginMode::ReadOnly(false)
            | ast::BeginMode::Deferrable(_)
            | ast::BeginMode::Priority(_) => {}
        }
    }
    Ok(notices)
}

fn refused(statement: &Statement) -> SqlError {
    match statement {
        Statement::Unsupported(what) => {
            let error = SqlError::unsupported(&what.feature).with_position(what.pos.0);
            match &what.hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        }
        Statement::Begin(_) => no_transactions("BEGIN"),
        Statement::Commit { .. } => no_transactions("COMMIT"),
        Statement::Rollback { .. } => no_transactions("ROLLBACK"),
        Statement::Savepoint(_) => no_transactions("SAVEPOINT"),
        Statement::ReleaseSavepoint(_) => no_transactions("RELEASE SAVEPOINT"),
        Statement::RollbackToSavepoint(_) => no_transactions("ROLLBACK TO SAVEPOINT"),
        Statement::Cancel(_) => SqlError::unsupported("CANCEL"),
        Statement::Copy(_) => SqlError::unsupported("COPY"),
        _ => SqlError::unsupported("this statement"),
    }
}
