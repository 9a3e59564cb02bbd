//! Statements that operators of the database type: ranges, leases, running queries, bulk copies.

use std::fmt::{self, Display, Formatter, Write as _};

use super::display::list;
use super::{Expr, Ident, ObjectName, Pos, Query};

/// A table, or one index of it.
#[derive(Clone, Debug)]
pub struct TableOrIndex {
    /// The table.
    pub table: ObjectName,
    /// The index, when one was named.
    pub index: Option<Ident>,
}

/// `ALTER TABLE | INDEX t[@i] SPLIT AT rows [WITH EXPIRATION at]`.
#[derive(Clone, Debug)]
pub struct SplitAt {
    /// What is split.
    pub of: TableOrIndex,
    /// One row per split: the leading columns of the key.
    pub rows: Box<Query>,
    /// Until when the splits hold; for ever when absent.
    pub expiration: Option<Expr>,
    /// Where the statement starts.
    pub pos: Pos,
}

/// `ALTER TABLE | INDEX t[@i] UNSPLIT AT rows | ALL`.
#[derive(Clone, Debug)]
pub struct UnsplitAt {
    /// What is merged again.
    pub of: TableOrIndex,
    /// The rows whose splits end; `None` for all.
    pub rows: Option<Box<Query>>,
    /// Where the statement starts.
    pub pos: Pos,
}

/// `ALTER RANGE r RELOCATE LEASE TO n`, `ALTER RANGE RELOCATE LEASE TO n FOR query`.
#[derive(Clone, Debug)]
pub struct RelocateLease {
    /// The store, which is called as its node.
    pub to: Expr,
    /// The ranges' numbers.
    pub ranges: RangeNumbers,
    /// Where the statement starts.
    pub pos: Pos,
}

/// Ranges by number.
#[derive(Clone, Debug)]
pub enum RangeNumbers {
    /// One.
    One(Expr),
    /// Those in the first column of a query.
    Query(Box<Query>),
}

/// `ALTER TABLE t ADD [CONSTRAINT c] PRIMARY KEY (...)`.
#[derive(Clone, Debug)]
pub struct AddPrimaryKey {
    /// The table.
    pub table: ObjectName,
    /// `IF EXISTS`.
    pub if_exists: bool,
    /// The constraint's name.
    pub name: Option<Ident>,
    /// The key columns.
    pub columns: Vec<super::IndexColumn>,
    /// Where the constraint stands.
    pub pos: Pos,
}

/// `CANCEL QUERY | QUERIES | SESSION | SESSIONS`.
#[derive(Clone, Debug)]
pub struct Cancel {
    /// What is cancelled.
    pub what: CancelWhat,
    /// `IF EXISTS`.
    pub if_exists: bool,
    /// The ids.
    pub ids: CancelIds,
    /// Where the ids stand.
    pub pos: Pos,
}

/// What a CANCEL cancels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the object of its name")]
pub enum CancelWhat {
    Query,
    Session,
}

/// Ids of queries or sessions.
#[derive(Clone, Debug)]
pub enum CancelIds {
    /// One.
    One(Expr),
    /// Those in the first column of a query.
    Query(Box<Query>),
}

/// `COPY`.
#[derive(Clone, Debug)]
pub struct Copy {
    /// What is copied.
    pub what: CopyWhat,
    /// `FROM STDIN` (true) or `TO STDOUT`.
    pub from: bool,
    /// The options.
    pub options: CopyOptions,
    /// Where the statement starts.
    pub pos: Pos,
}

/// What a COPY copies.
#[derive(Clone, Debug)]
pub enum CopyWhat {
    /// A table, or some columns of it; no columns for all.
    Table(ObjectName, Vec<Ident>),
    /// The rows of a query.
    Query(Box<Query>),
}

/// The form of a COPY's lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyFormat {
    /// Columns behind tabs, escapes behind backslashes.
    #[default]
    Text,
    /// Comma-separated values.
    Csv,
    /// PostgreSQL's binary form.
    Binary,
}

/// The options of a COPY, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// `FORMAT`.
    pub format: CopyFormat,
    /// `DELIMITER`.
    pub delimiter: Option<String>,
    /// `NULL`.
    pub null: Option<String>,
    /// `HEADER`.
    pub header: bool,
    /// `QUOTE`.
    pub quote: Option<String>,
    /// `ESCAPE`.
    pub escape: Option<String>,
}

impl Display for TableOrIndex {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.index {
            None => write!(f, "TABLE {}", self.table),
            Some(index) => write!(f, "INDEX {}@{index}", self.table),
        }
    }
}

impl Display for SplitAt {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "ALTER {} SPLIT AT {}", self.of, self.rows)?;
        match &self.expiration {
            None => Ok(()),
            Some(at) => write!(f, " WITH EXPIRATION {at}"),
        }
    }
}

impl Display for UnsplitAt {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "ALTER {} UNSPLIT ", self.of)?;
        match &self.rows {
            None => f.write_str("ALL"),
            Some(rows) => write!(f, "AT {rows}"),
        }
    }
}

impl Display for RelocateLease {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.ranges {
            RangeNumbers::One(range) => {
                write!(f, "ALTER RANGE {range} RELOCATE LEASE TO {}", self.to)
            }
            RangeNumbers::Query(query) => {
                write!(f, "ALTER RANGE RELOCATE LEASE TO {} FOR {query}", self.to)
            }
        }
    }
}

impl Display for AddPrimaryKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let exists = if self.if_exists { "IF EXISTS " } else { "" };
        write!(f, "ALTER TABLE {exists}{} ADD ", self.table)?;
        if let Some(name) = &self.name {
            write!(f, "CONSTRAINT {name} ")?;
        }
        f.write_str("PRIMARY KEY (")?;
        list(f, &self.columns)?;
        f.write_char(')')
    }
}

impl Display for Cancel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let exists = if self.if_exists { "IF EXISTS " } else { "" };
        match (self.what, &self.ids) {
            (CancelWhat::Query, CancelIds::One(id)) => write!(f, "CANCEL QUERY {exists}{id}"),
            (CancelWhat::Session, CancelIds::One(id)) => write!(f, "CANCEL SESSION {exists}{id}"),
            (CancelWhat::Query, CancelIds::Query(ids)) => write!(f, "CANCEL QUERIES {exists}{ids}"),
            (CancelWhat::Session, CancelIds::Query(ids)) => {
                write!(f, "CANCEL SESSIONS {exists}{ids}")
            }
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Display for Copy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("COPY ")?;
        match &self.what {
            CopyWhat::Table(table, columns) => {
                table.fmt(f)?;
                if !columns.is_empty() {
                    f.write_str(" (")?;
                    list(f, columns)?;
                    f.write_char(')')?;
                }
            }
            CopyWhat::Query(query) => write!(f, "({query})")?,
        }
        f.write_str(if self.from { " FROM STDIN" } else { " TO STDOUT" })?;
        let options = &self.options;
        let mut words = Vec::new();
        match options.format {
            CopyFormat::Text => {}
            CopyFormat::Csv => words.push("FORMAT csv".to_owned()),
            CopyFormat::Binary => words.push("FORMAT binary".to_owned()),
        }
        for (name, value) in [
            ("DELIMITER", &options.delimiter),
            ("NULL", &options.null),
            ("QUOTE", &options.quote),
            ("ESCAPE", &options.escape),
        ] {
            words.extend(value.as_ref().map(|value| format!("{name} {}", quoted(value))));
        }
        if options.header {
            words.push("HEADER true".to_owned());
        }
        if words.is_empty() { Ok(()) } else { write!(f, " WITH ({})", words.join(", ")) }
    }
}
