//! SHOW.

use std::fmt::{self, Display, Formatter};

use super::display::list;
use super::{Expr, Ident, ObjectName, Pos, TableOrIndex};

/// SHOW.
#[derive(Clone, Debug)]
pub enum Show {
    /// `SHOW DATABASES`.
    Databases,
    /// `SHOW SCHEMAS [FROM db]`.
    Schemas {
        /// The database, or the current one.
        database: Option<Ident>,
    },
    /// `SHOW TABLES [FROM db[.schema]]`.
    Tables {
        /// The database or schema, or the current one.
        from: Option<ObjectName>,
    },
    /// `SHOW COLUMNS FROM t`.
    Columns {
        /// The table.
        table: ObjectName,
    },
    /// `SHOW INDEXES FROM t`, also INDEX, KEYS, CONSTRAINTS by their own variant.
    Indexes {
        /// The table.
        table: ObjectName,
    },
    /// `SHOW CONSTRAINTS FROM t`.
    Constraints {
        /// The table.
        table: ObjectName,
    },
    /// `SHOW CREATE [TABLE] t`.
    CreateTable {
        /// The table.
        table: ObjectName,
    },
    /// `SHOW CREATE DATABASE d`.
    CreateDatabase {
        /// The database.
        database: Ident,
    },
    /// `SHOW ALL`: every session variable.
    All,
    /// `SHOW name`: one session variable, lower case.
    Variable {
        /// The variable.
        name: String,
        /// Where the name stands.
        pos: Pos,
    },
    /// `SHOW CLUSTER SETTING name`.
    ClusterSetting {
        /// The setting.
        name: String,
        /// Where the name stands.
        pos: Pos,
    },
    /// `SHOW [ALL | PUBLIC] CLUSTER SETTINGS`.
    ClusterSettings {
        /// `ALL`: also those that are not public.
        all: bool,
    },
    /// `SHOW RANGES ...` and `SHOW CLUSTER RANGES ...`.
    Ranges {
        /// Whose ranges.
        of: RangesOf,
        /// The words after WITH: `DETAILS`, `TABLES`, `KEYS`, ...
        options: Vec<String>,
        /// Where the statement starts.
        pos: Pos,
    },
    /// `SHOW RANGE FROM TABLE | INDEX t[@i] FOR ROW (...)`.
    RangeForRow {
        /// The table or index.
        of: TableOrIndex,
        /// The row's key.
        values: Vec<Expr>,
        /// Where the row stands.
        pos: Pos,
    },
    /// `SHOW LOCALITY`.
    Locality,
    /// `SHOW USERS` and `SHOW ROLES`.
    Users,
    /// `SHOW [ALL] [CLUSTER | LOCAL] SESSIONS | QUERIES | TRANSACTIONS`.
    Activity {
        /// What is listed.
        what: Activity,
        /// `LOCAL`: of this node alone.
        local: bool,
        /// `ALL`: also what the database does for itself.
        all: bool,
    },
    /// `SHOW TYPES`.
    Types,
}

/// Whose ranges a SHOW RANGES lists.
#[derive(Clone, Debug)]
pub enum RangesOf {
    /// The cluster's.
    Cluster,
    /// The current database's.
    CurrentCatalog,
    /// A database's.
    Database(Ident),
    /// A table's or an index's.
    Table(TableOrIndex),
}

/// What goes on in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the list of its name")]
pub enum Activity {
    Sessions,
    Queries,
    Transactions,
}

impl Display for Show {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("SHOW ")?;
        match self {
            Self::Databases => f.write_str("DATABASES"),
            Self::Schemas { database: None } => f.write_str("SCHEMAS"),
            Self::Schemas { database: Some(name) } => write!(f, "SCHEMAS FROM {name}"),
            Self::Tables { from: None } => f.write_str("TABLES"),
            Self::Tables { from: Some(name) } => write!(f, "TABLES FROM {name}"),
            Self::Columns { table } => write!(f, "COLUMNS FROM {table}"),
            Self::Indexes { table } => write!(f, "INDEXES FROM {table}"),
            Self::Constraints { table } => write!(f, "CONSTRAINTS FROM {table}"),
            Self::CreateTable { table } => write!(f, "CREATE TABLE {table}"),
            Self::CreateDatabase { database } => write!(f, "CREATE DATABASE {database}"),
            Self::All => f.write_str("ALL"),
            Self::Variable { name, .. } => f.write_str(name),
            Self::ClusterSetting { name, .. } => write!(f, "CLUSTER SETTING {name}"),
            Self::ClusterSettings { all: true } => f.write_str("ALL CLUSTER SETTINGS"),
            Self::ClusterSettings { all: false } => f.write_str("CLUSTER SETTINGS"),
            Self::Ranges { of, options, .. } => {
                match of {
                    RangesOf::Cluster => f.write_str("CLUSTER RANGES")?,
                    RangesOf::CurrentCatalog => f.write_str("RANGES")?,
                    RangesOf::Database(name) => write!(f, "RANGES FROM DATABASE {name}")?,
                    RangesOf::Table(of) => write!(f, "RANGES FROM {of}")?,
                }
                if options.is_empty() { Ok(()) } else { write!(f, " WITH {}", options.join(", ")) }
            }
            Self::RangeForRow { of, values, .. } => {
                write!(f, "RANGE FROM {of} FOR ROW (")?;
                list(f, values)?;
                f.write_str(")")
            }
            Self::Locality => f.write_str("LOCALITY"),
            Self::Users => f.write_str("USERS"),
            Self::Activity { what, local, all } => {
                f.write_str(if *all { "ALL " } else { "" })?;
                f.write_str(if *local { "LOCAL " } else { "CLUSTER " })?;
                f.write_str(match what {
                    Activity::Sessions => "SESSIONS",
                    Activity::Queries => "QUERIES",
                    Activity::Transactions => "TRANSACTIONS",
                })
            }
            Self::Types => f.write_str("TYPES"),
        }
    }
}
