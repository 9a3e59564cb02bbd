//! Statements that are not plans: schema changes, SET and SHOW, and what is refused.

use std::sync::Arc;

use crdb_sqlfront::Parsed;
use crdb_sqlfront::ast::{self, DropBehavior, SetScope, SetValue, Statement};

use super::run::read_only_error;
use super::show::show_rows;
use super::{CancelFlag, Effect, ExecResult, Notice, Session, Severity, literal_text};
use crate::analyze::{OFFLINE, new_table, table_name, with_primary_key};
use crate::error::{Result, SqlError, SqlState};

fn tagged(tag: &str) -> ExecResult {
    ExecResult { tag: tag.to_owned(), ..ExecResult::default() }
}

impl Session {
    pub(super) async fn utility(
        &mut self,
        statement: &Statement,
        cancel: &CancelFlag,
    ) -> Result<ExecResult> {
        cancel.check()?;
        self.set_transaction_time(self.txn.as_ref().map(|open| open.micros));
        if let Some(result) = Box::pin(self.control(statement, cancel)).await? {
            return Ok(result);
        }
        if let Some(what) = schema_change(statement)
            && let Some(done) = self.before_schema_change(what, statement, cancel).await?
        {
            return Ok(done);
        }
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
            Statement::SetVariable { scope, name, value, pos } => {
                self.set(*scope, name, value).await.map_err(|e| e.with_position(pos.0))
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
            Statement::SetClusterSetting { name, value, pos } => {
                let node = std::sync::Arc::clone(&self.info.node);
                let set = super::settings::set(&node, name, value.as_ref()).await;
                set.map_err(|error| error.with_position(pos.0))
            }
            Statement::Cancel(ids) => self.cancel(ids, cancel).await,
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

    async fn set(&mut self, scope: SetScope, name: &str, value: &SetValue) -> Result<ExecResult> {
        let mut notices = Vec::new();
        if scope == SetScope::Local && !self.remember_local(name)? {
            notices.push(Notice {
                severity: Severity::Warning,
                code: SqlState::NO_ACTIVE_TRANSACTION,
                message: "SET LOCAL can only be used in transaction blocks".to_owned(),
                hint: None,
            });
            return Ok(ExecResult { notices, ..tagged("SET") });
        }
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
        if self.set_mode(name, &values)? {
            return Ok(tagged("SET"));
        }
        if name == "database" {
            let snapshot = self.info.node.catalog().pin().await?;
            if snapshot.database(&values).is_none() {
                return Err(SqlError::new(
                    SqlState::INVALID_CATALOG_NAME,
                    format!("database \"{values}\" does not exist"),
                ));
            }
        }
        let told = self.set_variable(name, &values)?;
        Ok(ExecResult { parameters: told.into_iter().collect(), ..tagged("SET") })
    }

    /// Notes what a variable was before SET LOCAL. False outside of BEGIN.
    fn remember_local(&mut self, name: &str) -> Result<bool> {
        let Some(open) = self.txn.as_mut().filter(|open| open.explicit) else { return Ok(false) };
        if !name.starts_with("transaction_") {
            let before = self.info.vars.get(name)?.to_owned();
            open.locals.push((name.to_owned(), before));
        }
        Ok(true)
    }

    /// Commits the open transaction before a schema change; under `autocommit_before_ddl = off` one
    /// after BEGIN is refused. TRUNCATE after BEGIN deletes all rows instead, as one of the
    /// statements of the transaction; its answer comes back.
    async fn before_schema_change(
        &mut self,
        what: &'static str,
        statement: &Statement,
        cancel: &CancelFlag,
    ) -> Result<Option<ExecResult>> {
        let Some(open) = &self.txn else {
            return if self.defaults.read_only { Err(read_only_error(what)) } else { Ok(None) };
        };
        if open.modes.read_only {
            return Err(read_only_error(what));
        }
        if !open.explicit {
            drop(self.commit(cancel).await?);
            return Ok(None);
        }
        if let Statement::Truncate(truncate) = statement {
            return self.truncate_rows(truncate, cancel).await.map(Some);
        }
        if matches!(statement, Statement::SetClusterSetting { .. }) {
            return Err(SqlError::new(
                SqlState::ACTIVE_TRANSACTION,
                "SET CLUSTER SETTING cannot be used inside a multi-statement transaction",
            ));
        }
        if self.info.vars.get("autocommit_before_ddl")? != "on" {
            return Err(SqlError::unsupported(format!("{what} inside a transaction")).with_hint(
                "Run it outside of BEGIN and COMMIT, or SET autocommit_before_ddl = on to have \
                 the transaction committed before it.",
            ));
        }
        match self.commit(cancel).await {
            Ok(told) => self.untold.extend(told),
            Err(error) => {
                // The client does not know that it was to end, so it fails like by any statement.
                // What did not lose a race is not to be run again from a savepoint.
                if error.code != SqlState::SERIALIZATION_FAILURE {
                    self.open_transaction()?.end().await;
                }
                return Err(error);
            }
        }
        self.untold_notices.push(Notice::new(format!(
            "auto-committing transaction before processing {what} due to autocommit_before_ddl \
             setting"
        )));
        Ok(None)
    }

    /// TRUNCATE as one of the statements of a transaction.
    async fn truncate_rows(
        &mut self,
        truncate: &ast::Truncate,
        cancel: &CancelFlag,
    ) -> Result<ExecResult> {
        for name in &truncate.names {
            let delete = ast::Delete {
                table: ast::TableRef {
                    name: name.clone(),
                    alias: None,
                    index_hint: None,
                    ordinality: false,
                },
                using: Vec::new(),
                filter: None,
                order_by: Vec::new(),
                limit: None,
                returning: Vec::new(),
                with: None,
            };
            let statement = Statement::Delete(Box::new(delete));
            let text = "TRUNCATE".to_owned();
            let parsed = Arc::new(Parsed { statement, text, placeholders: 0 });
            let prepared = Arc::new(self.try_prepare(&parsed, &[]).await?);
            self.run_in_transaction(&prepared, &[], cancel).await?;
        }
        Ok(tagged("TRUNCATE"))
    }

    fn discard(&mut self, target: ast::DiscardTarget) -> Result<ExecResult> {
        Ok(match target {
            ast::DiscardTarget::All => {
                if self.txn.as_ref().is_some_and(|open| open.explicit) {
                    return Err(SqlError::new(
                        SqlState::ACTIVE_TRANSACTION,
                        "DISCARD ALL cannot run inside a transaction block",
                    ));
                }
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

/// The name of a statement that changes the schema, or runs outside of transactions like one.
fn schema_change(statement: &Statement) -> Option<&'static str> {
    Some(match statement {
        Statement::CreateDatabase(_) => "CREATE DATABASE",
        Statement::CreateTable(_) => "CREATE TABLE",
        Statement::DropDatabase(_) => "DROP DATABASE",
        Statement::DropTable(_) => "DROP TABLE",
        Statement::Truncate(_) => "TRUNCATE",
        Statement::SetClusterSetting { .. } => "SET CLUSTER SETTING",
        Statement::AddPrimaryKey(_) => "ALTER TABLE ... ADD PRIMARY KEY",
        Statement::SplitAt(_) => "ALTER TABLE ... SPLIT AT",
        Statement::UnsplitAt(_) => "ALTER TABLE ... UNSPLIT AT",
        Statement::RelocateLease(_) => "ALTER RANGE ... RELOCATE LEASE",
        _ => return None,
    })
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
        Statement::Copy(_) => SqlError::unsupported("COPY inside another statement"),
        _ => SqlError::unsupported("this statement"),
    }
}
