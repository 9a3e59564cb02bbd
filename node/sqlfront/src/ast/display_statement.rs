//! Text of statements: SQL where they are SQL, a short description of the rest.

use std::fmt::{self, Display, Formatter, Write as _};

use super::display::list;
use super::{
    Assignment, AssignmentTarget, BeginMode, ColumnDef, ConflictTarget, CreateTable, Delete,
    DropBehavior, Explain, IndexColumn, Insert, InsertSource, IsolationLevel, OnConflict,
    SelectItem, SetScope, SetValue, Statement, TableConstraint, TransactionModes, Update, With,
};

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Statement::Query(query) => query.fmt(f),
            Statement::Insert(insert) => insert.fmt(f),
            Statement::Update(update) => update.fmt(f),
            Statement::Delete(delete) => delete.fmt(f),
            Statement::CreateDatabase(create) => {
                let exists = if create.if_not_exists { "IF NOT EXISTS " } else { "" };
                write!(f, "CREATE DATABASE {exists}{}", create.name)
            }
            Statement::DropDatabase(drop) => {
                let exists = if drop.if_exists { "IF EXISTS " } else { "" };
                write!(f, "DROP DATABASE {exists}{}{}", drop.name, drop.behavior)
            }
            Statement::CreateTable(create) => create.fmt(f),
            Statement::DropTable(drop) => {
                write!(f, "DROP TABLE {}", if drop.if_exists { "IF EXISTS " } else { "" })?;
                list(f, &drop.names)?;
                drop.behavior.fmt(f)
            }
            Statement::Truncate(truncate) => {
                f.write_str("TRUNCATE ")?;
                list(f, &truncate.names)?;
                if truncate.restart_identity {
                    f.write_str(" RESTART IDENTITY")?;
                }
                truncate.behavior.fmt(f)
            }
            Statement::Explain(explain) => explain.fmt(f),
            other => other.fmt_session(f),
        }
    }
}

impl Statement {
    fn fmt_session(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Statement::AddPrimaryKey(add) => add.fmt(f),
            Statement::SplitAt(split) => split.fmt(f),
            Statement::UnsplitAt(unsplit) => unsplit.fmt(f),
            Statement::RelocateLease(relocate) => relocate.fmt(f),
            Statement::Cancel(cancel) => cancel.fmt(f),
            Statement::Copy(copy) => copy.fmt(f),
            Statement::Show(show) => show.fmt(f),
            Statement::SetVariable { scope, name, value, .. } => {
                f.write_str(if *scope == SetScope::Local { "SET LOCAL " } else { "SET " })?;
                match value {
                    SetValue::Default => write!(f, "{name} = DEFAULT"),
                    SetValue::Values(values) => {
                        write!(f, "{name} = ")?;
                        list(f, values)
                    }
                }
            }
            Statement::ResetVariable { name, .. } => write!(f, "RESET {name}"),
            Statement::ResetAll => f.write_str("RESET ALL"),
            Statement::SetClusterSetting { name, value: Some(value), .. } => {
                write!(f, "SET CLUSTER SETTING {name} = {value}")
            }
            Statement::SetClusterSetting { name, value: None, .. } => {
                write!(f, "RESET CLUSTER SETTING {name}")
            }
            Statement::SetTransaction(modes) => write!(f, "SET TRANSACTION{modes}"),
            Statement::SetSessionCharacteristics(modes) => {
                write!(f, "SET SESSION CHARACTERISTICS AS TRANSACTION{modes}")
            }
            Statement::Begin(modes) => write!(f, "BEGIN{modes}"),
            Statement::Commit { chain } => {
                f.write_str(if *chain { "COMMIT AND CHAIN" } else { "COMMIT" })
            }
            Statement::Rollback { chain } => {
                f.write_str(if *chain { "ROLLBACK AND CHAIN" } else { "ROLLBACK" })
            }
            Statement::Savepoint(name) => write!(f, "SAVEPOINT {name}"),
            Statement::ReleaseSavepoint(name) => write!(f, "RELEASE SAVEPOINT {name}"),
            Statement::RollbackToSavepoint(name) => write!(f, "ROLLBACK TO SAVEPOINT {name}"),
            Statement::Discard(target) => write!(f, "DISCARD {target:?}"),
            Statement::Deallocate(None) => f.write_str("DEALLOCATE ALL"),
            Statement::Deallocate(Some(name)) => write!(f, "DEALLOCATE {name}"),
            Statement::Maintenance(command) => f.write_str(command.tag()),
            Statement::Unsupported(unsupported) => {
                write!(f, "unsupported: {}", unsupported.feature)
            }
            _ => Ok(()),
        }
    }
}

impl Display for DropBehavior {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DropBehavior::Default => "",
            DropBehavior::Cascade => " CASCADE",
            DropBehavior::Restrict => " RESTRICT",
        })
    }
}

impl Display for With {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.recursive { "WITH RECURSIVE " } else { "WITH " })?;
        for (at, cte) in self.ctes.iter().enumerate() {
            let gap = if at > 0 { ", " } else { "" };
            let materialized = match cte.materialized {
                None => "",
                Some(true) => "MATERIALIZED ",
                Some(false) => "NOT MATERIALIZED ",
            };
            write!(f, "{gap}{} AS {materialized}({})", cte.alias, cte.statement)?;
        }
        Ok(())
    }
}

fn with(f: &mut Formatter<'_>, with: Option<&With>) -> fmt::Result {
    match with {
        None => Ok(()),
        Some(with) => write!(f, "{with} "),
    }
}

fn returning(f: &mut Formatter<'_>, items: &[SelectItem]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    f.write_str(" RETURNING ")?;
    list(f, items)
}

impl Display for Insert {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        with(f, self.with.as_ref())?;
        let verb = if self.upsert { "UPSERT" } else { "INSERT" };
        write!(f, "{verb} INTO {}", self.table)?;
        if let Some(alias) = &self.alias {
            write!(f, " AS {alias}")?;
        }
        if !self.columns.is_empty() {
            f.write_str(" (")?;
            list(f, &self.columns)?;
            f.write_char(')')?;
        }
        match &self.source {
            InsertSource::DefaultValues => f.write_str(" DEFAULT VALUES")?,
            InsertSource::Query(query) => write!(f, " {query}")?,
        }
        if let Some(conflict) = &self.on_conflict {
            conflict.fmt(f)?;
        }
        returning(f, &self.returning)
    }
}

impl Display for OnConflict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(" ON CONFLICT")?;
        match &self.target {
            None => {}
            Some(ConflictTarget::Columns(columns)) => {
                f.write_str(" (")?;
                list(f, columns)?;
                f.write_char(')')?;
            }
            Some(ConflictTarget::Constraint(name)) => write!(f, " ON CONSTRAINT {name}")?,
        }
        match &self.update {
            None => f.write_str(" DO NOTHING")?,
            Some(assignments) => {
                f.write_str(" DO UPDATE SET ")?;
                list(f, assignments)?;
            }
        }
        match &self.filter {
            None => Ok(()),
            Some(filter) => write!(f, " WHERE {filter}"),
        }
    }
}

impl Display for Assignment {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.target {
            AssignmentTarget::Column(column) => write!(f, "{column} = {}", self.value),
            AssignmentTarget::Columns(columns) => {
                f.write_char('(')?;
                list(f, columns)?;
                write!(f, ") = {}", self.value)
            }
        }
    }
}

impl Display for Update {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        with(f, self.with.as_ref())?;
        write!(f, "UPDATE {} SET ", self.table)?;
        list(f, &self.assignments)?;
        if !self.from.is_empty() {
            f.write_str(" FROM ")?;
            list(f, &self.from)?;
        }
        if let Some(filter) = &self.filter {
            write!(f, " WHERE {filter}")?;
        }
        tail(f, &self.order_by, self.limit.as_ref())?;
        returning(f, &self.returning)
    }
}

fn tail(
    f: &mut Formatter<'_>,
    order_by: &[super::OrderBy],
    limit: Option<&super::Expr>,
) -> fmt::Result {
    if !order_by.is_empty() {
        f.write_str(" ORDER BY ")?;
        list(f, order_by)?;
    }
    match limit {
        None => Ok(()),
        Some(limit) => write!(f, " LIMIT {limit}"),
    }
}

impl Display for Delete {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        with(f, self.with.as_ref())?;
        write!(f, "DELETE FROM {}", self.table)?;
        if !self.using.is_empty() {
            f.write_str(" USING ")?;
            list(f, &self.using)?;
        }
        if let Some(filter) = &self.filter {
            write!(f, " WHERE {filter}")?;
        }
        tail(f, &self.order_by, self.limit.as_ref())?;
        returning(f, &self.returning)
    }
}

impl Display for CreateTable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let exists = if self.if_not_exists { "IF NOT EXISTS " } else { "" };
        write!(f, "CREATE TABLE {exists}{} (", self.name)?;
        list(f, &self.columns)?;
        for (at, constraint) in self.constraints.iter().enumerate() {
            let gap = if at > 0 || !self.columns.is_empty() { ", " } else { "" };
            write!(f, "{gap}{constraint}")?;
        }
        f.write_char(')')?;
        for clause in &self.unsupported {
            write!(f, " /* unsupported: {} */", clause.feature)?;
        }
        Ok(())
    }
}

impl Display for ColumnDef {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.ty)?;
        if let Some(collation) = &self.collation {
            write!(f, " COLLATE {collation}")?;
        }
        f.write_str(match self.nullable {
            None => "",
            Some(true) => " NULL",
            Some(false) => " NOT NULL",
        })?;
        if let Some(default) = &self.default {
            write!(f, " DEFAULT {default}")?;
        }
        match &self.primary_key {
            None => {}
            Some(None) => f.write_str(" PRIMARY KEY")?,
            Some(Some(name)) => write!(f, " CONSTRAINT {name} PRIMARY KEY")?,
        }
        if self.hidden {
            f.write_str(" NOT VISIBLE")?;
        }
        for constraint in &self.constraints {
            write!(f, " {constraint}")?;
        }
        for clause in &self.unsupported {
            write!(f, " /* unsupported: {} */", clause.feature)?;
        }
        Ok(())
    }
}

impl Display for TableConstraint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let named = |f: &mut Formatter<'_>, name: &Option<super::Ident>| match name {
            None => Ok(()),
            Some(name) => write!(f, "CONSTRAINT {name} "),
        };
        match self {
            TableConstraint::PrimaryKey { name, columns, .. } => {
                named(f, name)?;
                f.write_str("PRIMARY KEY (")?;
                list(f, columns)?;
                f.write_char(')')
            }
            TableConstraint::Unique { name, columns, .. } => {
                named(f, name)?;
                f.write_str("UNIQUE (")?;
                list(f, columns)?;
                f.write_char(')')
            }
            TableConstraint::Check { name, expr, .. } => {
                named(f, name)?;
                write!(f, "CHECK ({expr})")
            }
            TableConstraint::ForeignKey(key) => {
                named(f, &key.name)?;
                f.write_str("FOREIGN KEY (")?;
                list(f, &key.columns)?;
                write!(f, ") REFERENCES {}", key.table)?;
                if key.referenced.is_empty() {
                    return Ok(());
                }
                f.write_str(" (")?;
                list(f, &key.referenced)?;
                f.write_char(')')
            }
            TableConstraint::Index { name, columns, inverted, .. } => {
                f.write_str(if *inverted { "INVERTED INDEX " } else { "INDEX " })?;
                if let Some(name) = name {
                    write!(f, "{name} ")?;
                }
                f.write_char('(')?;
                list(f, columns)?;
                f.write_char(')')
            }
        }
    }
}

impl Display for IndexColumn {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.expr, if self.descending { " DESC" } else { "" })
    }
}

impl Display for Explain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.analyze { "EXPLAIN ANALYZE " } else { "EXPLAIN " })?;
        if !self.options.is_empty() {
            f.write_char('(')?;
            list(f, &self.options)?;
            f.write_str(") ")?;
        }
        self.statement.fmt(f)
    }
}

impl Display for TransactionModes {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (at, mode) in self.modes.iter().enumerate() {
            f.write_str(if at > 0 { ", " } else { " " })?;
            match mode {
                BeginMode::Isolation(level) => {
                    f.write_str("ISOLATION LEVEL ")?;
                    f.write_str(match level {
                        IsolationLevel::ReadUncommitted => "READ UNCOMMITTED",
                        IsolationLevel::ReadCommitted => "READ COMMITTED",
                        IsolationLevel::RepeatableRead => "REPEATABLE READ",
                        IsolationLevel::Snapshot => "SNAPSHOT",
                        IsolationLevel::Serializable => "SERIALIZABLE",
                    })?;
                }
                BeginMode::ReadOnly(true) => f.write_str("READ ONLY")?,
                BeginMode::ReadOnly(false) => f.write_str("READ WRITE")?,
                BeginMode::Deferrable(true) => f.write_str("DEFERRABLE")?,
                BeginMode::Deferrable(false) => f.write_str("NOT DEFERRABLE")?,
                BeginMode::Priority(level) => write!(f, "PRIORITY {}", level.to_uppercase())?,
                BeginMode::AsOf(expr) => write!(f, "AS OF SYSTEM TIME {expr}")?,
            }
        }
        Ok(())
    }
}
