//! COPY: the rows of a stream as INSERTs of the session's transaction, and the rows of a query as
//! lines.
//!
//! All of a COPY is one statement of its transaction: outside of BEGIN it takes effect whole or not
//! at all. A transaction with a COPY in it does not run again by itself after a conflict, since the
//! lines are not kept.

use std::sync::Arc;

use crdb_sqlfront::Parsed;
use crdb_sqlfront::ast::{self, CopyWhat, Statement};

use super::{CancelFlag, Column, ExecResult, Prepared, Session};
use crate::activity::{Busy, Text};
use crate::analyze::user_table;
use crate::copy::{Format, Reader, write_header, write_row};
use crate::datum::Datum;
use crate::error::{Result, SqlError, SqlState};
use crate::limits::Limits;
use crate::types::SqlType;

/// A COPY ... FROM STDIN that is going on.
#[derive(Debug)]
pub struct CopyIn {
    reader: Reader,
    /// `INSERT INTO t (a, b) VALUES `.
    insert: String,
    /// Values of rows that were not written yet.
    values: Vec<Datum>,
    /// Their bytes.
    bytes: usize,
    /// The INSERT of some number of rows.
    prepared: Option<(usize, Arc<Prepared>)>,
    count: u64,
    /// Others see it as one statement.
    _listed: Busy,
}

impl CopyIn {
    /// How many columns each row has.
    #[must_use]
    pub fn width(&self) -> usize {
        self.reader.width()
    }

    /// Whether the rows that were not written yet are enough for an INSERT.
    fn is_full(&self, limits: &Limits) -> bool {
        let rows = (limits.copy_params / self.width().max(1)).clamp(1, limits.copy_rows);
        self.pending() >= rows || self.bytes >= limits.copy_bytes.min(limits.memory_bytes / 4)
    }

    fn pending(&self) -> usize {
        self.values.len() / self.width().max(1)
    }
}

/// What COPY ... TO STDOUT sends.
#[derive(Debug)]
pub struct CopyOut {
    /// How many columns each row has.
    pub width: usize,
    /// The lines, one per row, and before them one for the header.
    pub lines: Vec<Vec<u8>>,
    /// The command tag.
    pub tag: String,
    /// As [`ExecResult::committed`].
    pub committed: bool,
}

impl Session {
    /// Begins a COPY ... FROM STDIN.
    pub async fn copy_in(&mut self, copy: &ast::Copy) -> Result<CopyIn> {
        let listed = self.listed_copy(copy);
        let format = Format::new(&copy.options)?;
        let CopyWhat::Table(name, named) = &copy.what else {
            return Err(SqlError::syntax("COPY FROM STDIN takes a table"));
        };
        let statement = Statement::Copy(Box::new(copy.clone()));
        self.check_usable(&statement)?;
        let snapshot = self.begin_statement().await?;
        let table = user_table(&self.info, &snapshot, name)?;
        let mut columns: Vec<(String, SqlType)> = Vec::new();
        for ident in named {
            let column = table.columns.iter().find(|column| column.name == ident.value);
            let column = column.ok_or_else(|| {
                SqlError::new(
                    SqlState::UNDEFINED_COLUMN,
                    format!(
                        "column \"{}\" of relation \"{}\" does not exist",
                        ident.value, table.name
                    ),
                )
                .with_position(ident.pos.0)
            })?;
            if columns.iter().any(|(known, _)| *known == column.name) {
                return Err(SqlError::new(
                    SqlState::DUPLICATE_COLUMN,
                    format!("column \"{}\" specified more than once", column.name),
                )
                .with_position(ident.pos.0));
            }
            columns.push((column.name.clone(), column.spec.ty));
        }
        if named.is_empty() {
            let visible = table.columns.iter().filter(|column| !column.hidden);
            columns.extend(visible.map(|column| (column.name.clone(), column.spec.ty)));
        }
        if columns.is_empty() {
            return Err(SqlError::unsupported("COPY into a table without columns"));
        }
        let names: Vec<String> =
            columns.iter().map(|(name, _)| crate::names::quote_ident(name)).collect();
        let insert = format!("INSERT INTO {name} ({}) VALUES ", names.join(", "));
        let line_bytes = self.info.node.limits.copy_line_bytes;
        let reader = Reader::new(format, &table.name, columns, line_bytes);
        Ok(CopyIn {
            reader,
            insert,
            values: Vec::new(),
            bytes: 0,
            prepared: None,
            count: 0,
            _listed: listed,
        })
    }

    /// Lets others see a COPY as a whole, not what it is made of.
    fn listed_copy(&self, copy: &ast::Copy) -> Busy {
        self.listed(Text::Made(copy.to_string().into()), false)
    }

    /// Takes a piece of the stream; writes rows when there are enough.
    pub async fn copy_data(
        &mut self,
        copy: &mut CopyIn,
        piece: &[u8],
        cancel: &CancelFlag,
    ) -> Result<()> {
        copy.reader.push(piece)?;
        self.take_rows(copy, cancel).await
    }

    /// Ends a COPY ... FROM STDIN; the rows are then as written as those of an INSERT.
    pub async fn copy_done(&mut self, mut copy: CopyIn, cancel: &CancelFlag) -> Result<ExecResult> {
        copy.reader.end();
        self.take_rows(&mut copy, cancel).await?;
        self.write_rows(&mut copy, cancel).await?;
        Ok(ExecResult { tag: format!("COPY {}", copy.count), ..ExecResult::default() })
    }

    async fn take_rows(&mut self, copy: &mut CopyIn, cancel: &CancelFlag) -> Result<()> {
        let limits = self.info.node.limits;
        loop {
            let before = copy.values.len();
            if !copy.reader.next(&mut copy.values, &self.info.format)? {
                return Ok(());
            }
            let row = copy.values.get(before..).unwrap_or_default();
            copy.bytes += row.iter().map(Datum::memory).sum::<usize>();
            if copy.is_full(&limits) {
                self.write_rows(copy, cancel).await?;
            }
        }
    }

    async fn write_rows(&mut self, copy: &mut CopyIn, cancel: &CancelFlag) -> Result<()> {
        let rows = copy.pending();
        if rows == 0 {
            return Ok(());
        }
        let prepared = match &copy.prepared {
            Some((same, prepared)) if *same == rows => Arc::clone(prepared),
            _ => {
                let parsed = insert_of(&copy.insert, rows, copy.width())?;
                let prepared = Arc::new(self.prepare(&Arc::new(parsed), &[]).await?);
                copy.prepared = Some((rows, Arc::clone(&prepared)));
                prepared
            }
        };
        let written = self.execute(&prepared, &copy.values, cancel, false).await;
        if let Some(open) = &mut self.txn {
            open.log = None;
        }
        let last = copy.reader.line();
        written.map_err(|error| {
            let first = last.saturating_sub(u64::try_from(rows).unwrap_or(0)) + 1;
            error.with_context(format!("COPY, lines {first} to {last}"))
        })?;
        copy.values.clear();
        copy.bytes = 0;
        copy.count += u64::try_from(rows).unwrap_or(0);
        Ok(())
    }

    /// Runs a COPY ... TO STDOUT; `last` as in [`Self::execute`].
    pub async fn copy_out(
        &mut self,
        copy: &ast::Copy,
        cancel: &CancelFlag,
        last: bool,
    ) -> Result<CopyOut> {
        let _listed = self.listed_copy(copy);
        let format = Format::new(&copy.options)?;
        let text = match &copy.what {
            CopyWhat::Query(query) => query.to_string(),
            CopyWhat::Table(name, columns) if columns.is_empty() => format!("SELECT * FROM {name}"),
            CopyWhat::Table(name, columns) => {
                let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
                format!("SELECT {} FROM {name}", columns.join(", "))
            }
        };
        let parsed = parse_one(&text)?;
        let prepared = Arc::new(self.prepare(&Arc::new(parsed), &[]).await?);
        let columns = prepared.columns.clone().unwrap_or_default();
        let result = self.execute(&prepared, &[], cancel, last).await?;
        let types: Vec<SqlType> = columns.iter().map(|column: &Column| column.ty).collect();
        let mut lines = Vec::with_capacity(result.rows.len() + 1);
        if format.header {
            let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            let mut line = Vec::new();
            write_header(&mut line, &format, &names);
            lines.push(line);
        }
        for row in &result.rows {
            let mut line = Vec::new();
            write_row(&mut line, &format, row, &types, &self.info.format);
            lines.push(line);
        }
        let tag = format!("COPY {}", result.rows.len());
        Ok(CopyOut { width: columns.len(), lines, tag, committed: result.committed })
    }
}

/// The INSERT of some rows, whose values are parameters.
fn insert_of(head: &str, rows: usize, width: usize) -> Result<Parsed> {
    let mut text = String::with_capacity(head.len() + rows * width * 8);
    text.push_str(head);
    for row in 0..rows {
        text.push_str(if row > 0 { ", (" } else { "(" });
        for column in 0..width {
            let gap = if column > 0 { ", " } else { "" };
            text.push_str(gap);
            text.push('$');
            text.push_str(&(row * width + column + 1).to_string());
        }
        text.push(')');
    }
    parse_one(&text)
}

fn parse_one(text: &str) -> Result<Parsed> {
    let parsed = crdb_sqlfront::parse(text).map_err(|error| SqlError::internal(error.message))?;
    let mut parsed = parsed.into_iter();
    parsed.next().ok_or_else(|| SqlError::internal("a statement became none"))
}
