//! Statements.

use super::{
    AddPrimaryKey, Cancel, Copy, Expr, Ident, ObjectName, Pos, Query, RelocateLease, SelectItem,
    Show, SplitAt, TableExpr, TableRef, TypeName, UnsplitAt,
};

/// One statement.
#[derive(Clone, Debug)]
pub enum Statement {
    /// SELECT, VALUES, TABLE, set operations.
    Query(Box<Query>),
    /// INSERT and UPSERT.
    Insert(Box<Insert>),
    /// UPDATE.
    Update(Box<Update>),
    /// DELETE.
    Delete(Box<Delete>),
    /// CREATE DATABASE.
    CreateDatabase(CreateDatabase),
    /// DROP DATABASE.
    DropDatabase(DropDatabase),
    /// CREATE TABLE.
    CreateTable(Box<CreateTable>),
    /// DROP TABLE.
    DropTable(DropTable),
    /// TRUNCATE.
    Truncate(Truncate),
    /// EXPLAIN.
    Explain(Explain),
    /// `ALTER TABLE ... ADD PRIMARY KEY`.
    AddPrimaryKey(AddPrimaryKey),
    /// `ALTER TABLE ... SPLIT AT`.
    SplitAt(SplitAt),
    /// `ALTER TABLE ... UNSPLIT`.
    UnsplitAt(UnsplitAt),
    /// `ALTER RANGE ... RELOCATE LEASE`.
    RelocateLease(RelocateLease),
    /// `CANCEL QUERY` and `CANCEL SESSION`.
    Cancel(Cancel),
    /// `COPY`.
    Copy(Box<Copy>),
    /// SHOW.
    Show(Show),
    /// `SET [SESSION|LOCAL] name = value`; also `SET TIME ZONE`, `SET NAMES`, `USE db`.
    SetVariable {
        /// For how long.
        scope: SetScope,
        /// The variable, lower case, dots kept.
        name: String,
        /// The new value.
        value: SetValue,
        /// Where the name stands.
        pos: Pos,
    },
    /// `RESET name`.
    ResetVariable {
        /// The variable, lower case.
        name: String,
        /// Where the name stands.
        pos: Pos,
    },
    /// `RESET ALL`.
    ResetAll,
    /// `SET CLUSTER SETTING name = value`.
    SetClusterSetting {
        /// The setting.
        name: String,
        /// The new value; `None` for DEFAULT (also RESET CLUSTER SETTING).
        value: Option<Expr>,
        /// Where the name stands.
        pos: Pos,
    },
    /// `SET TRANSACTION ...`.
    SetTransaction(TransactionModes),
    /// `SET SESSION CHARACTERISTICS AS TRANSACTION ...`.
    SetSessionCharacteristics(TransactionModes),
    /// `BEGIN`, `START TRANSACTION`.
    Begin(TransactionModes),
    /// `COMMIT`, `END`.
    Commit {
        /// `AND CHAIN`.
        chain: bool,
    },
    /// `ROLLBACK`, `ABORT`.
    Rollback {
        /// `AND CHAIN`.
        chain: bool,
    },
    /// `SAVEPOINT name`.
    Savepoint(Ident),
    /// `RELEASE [SAVEPOINT] name`.
    ReleaseSavepoint(Ident),
    /// `ROLLBACK TO [SAVEPOINT] name`.
    RollbackToSavepoint(Ident),
    /// `DISCARD ...`.
    Discard(DiscardTarget),
    /// `DEALLOCATE name` or, with `None`, `DEALLOCATE ALL`.
    Deallocate(Option<Ident>),
    /// VACUUM, ANALYZE, REINDEX, CLUSTER, CREATE EXTENSION: nothing to do here, a notice says so.
    Maintenance(Maintenance),
    /// Recognised, not available yet: answered with 0A000.
    Unsupported(Unsupported),
}

/// A recognised feature that is not available.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The feature's name: `ALTER TABLE`, `window functions`.
    pub feature: String,
    /// What to do instead, if there is something.
    pub hint: Option<String>,
    /// Where it stands.
    pub pos: Pos,
}

/// A maintenance command that needs no work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the command of its name")]
pub enum Maintenance {
    Vacuum,
    Analyze,
    Reindex,
    Cluster,
    Checkpoint,
    CreateExtension,
}

impl Maintenance {
    /// Returns the command tag.
    pub fn tag(self) -> &'static str {
        match self {
            Maintenance::Vacuum => "VACUUM",
            Maintenance::Analyze => "ANALYZE",
            Maintenance::Reindex => "REINDEX",
            Maintenance::Cluster => "CLUSTER",
            Maintenance::Checkpoint => "CHECKPOINT",
            Maintenance::CreateExtension => "CREATE EXTENSION",
        }
    }
}

/// INSERT or UPSERT.
#[derive(Clone, Debug)]
pub struct Insert {
    /// The table.
    pub table: ObjectName,
    /// `AS alias`.
    pub alias: Option<Ident>,
    /// The named columns; empty when none were named.
    pub columns: Vec<Ident>,
    /// Where the rows come from.
    pub source: InsertSource,
    /// Whether it was spelled UPSERT.
    pub upsert: bool,
    /// `ON CONFLICT`.
    pub on_conflict: Option<OnConflict>,
    /// `RETURNING`; empty when absent or `RETURNING NOTHING`.
    pub returning: Vec<SelectItem>,
    /// `WITH ...`.
    pub with: Option<super::With>,
}

/// Where the rows of an INSERT come from.
#[derive(Clone, Debug)]
pub enum InsertSource {
    /// `DEFAULT VALUES`.
    DefaultValues,
    /// `VALUES ...` or `SELECT ...`.
    Query(Box<Query>),
}

/// `ON CONFLICT [target] DO ...`.
#[derive(Clone, Debug)]
pub struct OnConflict {
    /// Which conflicts.
    pub target: Option<ConflictTarget>,
    /// The assignments of `DO UPDATE SET`; `None` for `DO NOTHING`.
    pub update: Option<Vec<Assignment>>,
    /// `WHERE` of the DO UPDATE.
    pub filter: Option<Expr>,
    /// Where `ON CONFLICT` applies: the table's position.
    pub pos: Pos,
}

/// The target of an ON CONFLICT.
#[derive(Clone, Debug)]
pub enum ConflictTarget {
    /// `(a, b)`.
    Columns(Vec<Ident>),
    /// `ON CONSTRAINT name`.
    Constraint(ObjectName),
}

/// UPDATE.
#[derive(Clone, Debug)]
pub struct Update {
    /// The table, with its alias.
    pub table: TableRef,
    /// `SET`.
    pub assignments: Vec<Assignment>,
    /// `FROM`.
    pub from: Vec<TableExpr>,
    /// `WHERE`.
    pub filter: Option<Expr>,
    /// `ORDER BY`.
    pub order_by: Vec<super::OrderBy>,
    /// `LIMIT`.
    pub limit: Option<Expr>,
    /// `RETURNING`; empty when absent.
    pub returning: Vec<SelectItem>,
    /// `WITH ...`.
    pub with: Option<super::With>,
}

/// One assignment of SET.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// What is assigned to.
    pub target: AssignmentTarget,
    /// The value.
    pub value: Expr,
}

/// The left side of an assignment.
#[derive(Clone, Debug)]
pub enum AssignmentTarget {
    /// `a = ...`.
    Column(Ident),
    /// `(a, b) = ...`.
    Columns(Vec<Ident>),
}

/// DELETE.
#[derive(Clone, Debug)]
pub struct Delete {
    /// The table, with its alias.
    pub table: TableRef,
    /// `USING`.
    pub using: Vec<TableExpr>,
    /// `WHERE`.
    pub filter: Option<Expr>,
    /// `ORDER BY`.
    pub order_by: Vec<super::OrderBy>,
    /// `LIMIT`.
    pub limit: Option<Expr>,
    /// `RETURNING`; empty when absent.
    pub returning: Vec<SelectItem>,
    /// `WITH ...`.
    pub with: Option<super::With>,
}

/// CREATE DATABASE.
#[derive(Clone, Debug)]
pub struct CreateDatabase {
    /// The name.
    pub name: Ident,
    /// `IF NOT EXISTS`.
    pub if_not_exists: bool,
}

/// DROP DATABASE.
#[derive(Clone, Debug)]
pub struct DropDatabase {
    /// The name.
    pub name: Ident,
    /// `IF EXISTS`.
    pub if_exists: bool,
    /// `CASCADE` or `RESTRICT`.
    pub behavior: DropBehavior,
}

/// What happens to dependent objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropBehavior {
    /// Not written.
    Default,
    /// `CASCADE`.
    Cascade,
    /// `RESTRICT`.
    Restrict,
}

/// CREATE TABLE.
#[derive(Clone, Debug)]
pub struct CreateTable {
    /// The name.
    pub name: ObjectName,
    /// `IF NOT EXISTS`.
    pub if_not_exists: bool,
    /// The columns.
    pub columns: Vec<ColumnDef>,
    /// Constraints written as table elements.
    pub constraints: Vec<TableConstraint>,
    /// `AS query`.
    pub as_query: Option<Box<Query>>,
    /// Clauses that are recognised and not available: `FAMILY`, `PARTITION BY`, `LOCALITY`.
    pub unsupported: Vec<Unsupported>,
}

/// One column of a CREATE TABLE.
#[derive(Clone, Debug)]
pub struct ColumnDef {
    /// The name.
    pub name: Ident,
    /// The type (`serial` and its kin stay by name).
    pub ty: TypeName,
    /// `Some(true)` for NULL, `Some(false)` for NOT NULL, `None` when neither was written.
    pub nullable: Option<bool>,
    /// `DEFAULT expr`.
    pub default: Option<Expr>,
    /// Whether `PRIMARY KEY` was written on the column, with its constraint's name.
    pub primary_key: Option<Option<Ident>>,
    /// `COLLATE name`.
    pub collation: Option<ObjectName>,
    /// Other constraints written on the column (UNIQUE, CHECK, REFERENCES).
    pub constraints: Vec<TableConstraint>,
    /// `NOT VISIBLE`.
    pub hidden: bool,
    /// Column clauses recognised and not available: computed columns, identity, ON UPDATE.
    pub unsupported: Vec<Unsupported>,
}

/// A table constraint.
#[derive(Clone, Debug)]
pub enum TableConstraint {
    /// `PRIMARY KEY (...)`.
    PrimaryKey {
        /// The constraint's name.
        name: Option<Ident>,
        /// The key columns.
        columns: Vec<IndexColumn>,
        /// Where it stands.
        pos: Pos,
    },
    /// `UNIQUE (...)` or `UNIQUE INDEX name (...)`.
    Unique {
        /// The constraint's name.
        name: Option<Ident>,
        /// The columns.
        columns: Vec<IndexColumn>,
        /// Where it stands.
        pos: Pos,
    },
    /// `CHECK (expr)`.
    Check {
        /// The constraint's name.
        name: Option<Ident>,
        /// The condition.
        expr: Expr,
        /// Where it stands.
        pos: Pos,
    },
    /// `FOREIGN KEY ... REFERENCES ...`.
    ForeignKey(ForeignKey),
    /// `INDEX name (...)`, also inverted.
    Index {
        /// The index's name.
        name: Option<Ident>,
        /// The columns.
        columns: Vec<IndexColumn>,
        /// Whether it is an inverted index.
        inverted: bool,
        /// Where it stands.
        pos: Pos,
    },
}

/// A foreign key.
#[derive(Clone, Debug)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: Option<Ident>,
    /// The referencing columns.
    pub columns: Vec<Ident>,
    /// The referenced table.
    pub table: ObjectName,
    /// The referenced columns; empty for its primary key.
    pub referenced: Vec<Ident>,
    /// Where it stands.
    pub pos: Pos,
}

/// One column of an index or key.
#[derive(Clone, Debug)]
pub struct IndexColumn {
    /// A column, or an expression.
    pub expr: Expr,
    /// `DESC`.
    pub descending: bool,
}

/// DROP TABLE.
#[derive(Clone, Debug)]
pub struct DropTable {
    /// The tables.
    pub names: Vec<ObjectName>,
    /// `IF EXISTS`.
    pub if_exists: bool,
    /// `CASCADE` or `RESTRICT`.
    pub behavior: DropBehavior,
}

/// TRUNCATE.
#[derive(Clone, Debug)]
pub struct Truncate {
    /// The tables.
    pub names: Vec<ObjectName>,
    /// `RESTART IDENTITY`.
    pub restart_identity: bool,
    /// `CASCADE` or `RESTRICT`.
    pub behavior: DropBehavior,
}

/// EXPLAIN.
#[derive(Clone, Debug)]
pub struct Explain {
    /// `ANALYZE`.
    pub analyze: bool,
    /// The other options, upper case.
    pub options: Vec<String>,
    /// The explained statement.
    pub statement: Box<Statement>,
}

/// For how long a SET lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetScope {
    /// For the session.
    Session,
    /// For the transaction.
    Local,
}

/// The value of a SET.
#[derive(Clone, Debug)]
pub enum SetValue {
    /// `DEFAULT`.
    Default,
    /// One or more values; bare words have become string literals.
    Values(Vec<Expr>),
}

/// What DISCARD drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscardTarget {
    /// `ALL`.
    All,
    /// `PLANS`.
    Plans,
    /// `SEQUENCES`.
    Sequences,
    /// `TEMP`.
    Temp,
}

/// The modes of a BEGIN or SET TRANSACTION.
#[derive(Clone, Debug, Default)]
pub struct TransactionModes {
    /// The modes, in the order written.
    pub modes: Vec<BeginMode>,
}

/// One transaction mode.
#[derive(Clone, Debug)]
pub enum BeginMode {
    /// `ISOLATION LEVEL ...`.
    Isolation(IsolationLevel),
    /// `READ ONLY` (true) or `READ WRITE` (false).
    ReadOnly(bool),
    /// `[NOT] DEFERRABLE`.
    Deferrable(bool),
    /// `PRIORITY LOW | NORMAL | HIGH`, lower case.
    Priority(String),
    /// `AS OF SYSTEM TIME expr`.
    AsOf(Expr),
}

/// An isolation level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the level of its name")]
pub enum IsolationLevel {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Snapshot,
    Serializable,
}
