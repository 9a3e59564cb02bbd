//! COPY: rows as lines of text, read and written.
//!
//! What it is: the two forms of lines, TEXT and CSV, cut out of a stream that comes in pieces of any
//! size, and made of rows. What it is not: it writes nothing (`session::copy` turns rows into INSERTs
//! of the transaction) and speaks no protocol.
//!
//! ```text
//! pieces -> Lines (where a record ends) -> fields (text or csv, unescaped) -> values by column type
//! ```
//!
//! Invariants:
//! 1. The rows do not depend on how the stream was cut into pieces.
//! 2. What is held is bounded: a record by a number of bytes, rows by whoever takes them.

mod csv;
mod lines;
mod options;
#[cfg(test)]
mod tests;
mod text;

use lines::Lines;
pub(crate) use options::Format;

use crate::datum::{Datum, FormatSettings};
use crate::error::{Result, SqlError, SqlState};
use crate::types::SqlType;

/// A field of a record; none for NULL.
type Field = Option<String>;

/// The error of data that is not as the format says.
fn bad(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState("22P04"), message)
}

/// Reads rows from a stream.
#[derive(Debug)]
pub(crate) struct Reader {
    format: Format,
    table: String,
    columns: Vec<(String, SqlType)>,
    lines: Lines,
    /// Number of the record read last, from 1; a header counts.
    line: u64,
    /// `\.` was read: the rest is ignored.
    ended: bool,
}

impl Reader {
    /// A reader of rows for some columns of a table; a record has `record_bytes` at most, about.
    pub(crate) fn new(
        format: Format,
        table: &str,
        columns: Vec<(String, SqlType)>,
        record_bytes: usize,
    ) -> Self {
        let lines = Lines::new(&format, record_bytes);
        Self { format, table: table.to_owned(), columns, lines, line: 0, ended: false }
    }

    pub(crate) fn width(&self) -> usize {
        self.columns.len()
    }

    /// Number of the record read last.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// Takes the next piece of the stream.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        self.lines.push(piece).map_err(|error| error.with_context(self.here()))
    }

    /// Says that the stream has ended.
    pub(crate) fn end(&mut self) {
        self.lines.end();
    }

    /// Appends the values of the next row; false when there is none yet.
    pub(crate) fn next(&mut self, out: &mut Vec<Datum>, settings: &FormatSettings) -> Result<bool> {
        let Self { format, table, columns, lines, line, ended } = self;
        while !*ended {
            let Some(record) = lines.next() else { return Ok(false) };
            *line += 1;
            let here = || format!("COPY {table}, line {line}");
            let record = std::str::from_utf8(record).map_err(|_| {
                SqlError::new(
                    SqlState::INVALID_BYTE_SEQUENCE,
                    "invalid byte sequence for encoding \"UTF8\"",
                )
                .with_context(here())
            })?;
            if record == "\\." {
                *ended = true;
                return Ok(false);
            }
            if *line == 1 && format.header {
                continue;
            }
            let fields = match format.csv {
                None => text::fields(record, format),
                Some(quoting) => csv::fields(record, format, quoting),
            };
            let fields = fields.map_err(|error| error.with_context(here()))?;
            values(fields, columns, &here, out, settings)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn here(&self) -> String {
        format!("COPY {}, line {}", self.table, self.line)
    }
}

/// Converts fields to the types of their columns. `here` names the record.
fn values(
    fields: Vec<Field>,
    columns: &[(String, SqlType)],
    here: &dyn Fn() -> String,
    out: &mut Vec<Datum>,
    settings: &FormatSettings,
) -> Result<()> {
    if fields.len() > columns.len() {
        return Err(bad("extra data after last expected column").with_context(here()));
    }
    if let Some((missing, _)) = columns.get(fields.len()) {
        let error = bad(format!("missing data for column \"{missing}\""));
        return Err(error.with_context(here()));
    }
    for (field, (name, ty)) in fields.into_iter().zip(columns) {
        out.push(match field {
            None => Datum::Null,
            Some(text) => Datum::decode_text(*ty, &text, settings).map_err(|error| {
                let shown: String = text.chars().take(100).collect();
                error.with_context(format!("{}, column {name}: \"{shown}\"", here()))
            })?,
        });
    }
    Ok(())
}

/// Appends the line of a row.
pub(crate) fn write_row(
    out: &mut Vec<u8>,
    format: &Format,
    row: &[Datum],
    types: &[SqlType],
    settings: &FormatSettings,
) {
    for (at, (value, ty)) in row.iter().zip(types).enumerate() {
        if at > 0 {
            out.push(format.delimiter);
        }
        let text = (!value.is_null()).then(|| value.to_text(*ty, settings));
        write_field(out, format, text.as_deref(), types.len() == 1);
    }
    out.push(b'\n');
}

/// Appends the header line.
pub(crate) fn write_header(out: &mut Vec<u8>, format: &Format, names: &[&str]) {
    for (at, name) in names.iter().enumerate() {
        if at > 0 {
            out.push(format.delimiter);
        }
        write_field(out, format, Some(name), names.len() == 1);
    }
    out.push(b'\n');
}

fn write_field(out: &mut Vec<u8>, format: &Format, field: Option<&str>, alone: bool) {
    match (field, format.csv) {
        (None, _) => out.extend_from_slice(format.null.as_bytes()),
        (Some(field), None) => text::write(out, field, format),
        (Some(field), Some(quoting)) => csv::write(out, field, format, quoting, alone),
    }
}
