//! Whole rows: keys and values of a table's primary index.

use bytes::Bytes;
use crdb_keys::{Key, encoding as prim, layout};

use super::key::{corrupt, decode_key_datum, encode_key_datum, is_composite};
use super::value::{put_datum, put_varint, skip_datum, take_datum, take_varint};
use crate::catalog::TableDesc;
use crate::datum::{Datum, FormatSettings, Row};
use crate::error::{Result, SqlError, SqlState};
use crate::limits::Limits;

/// First byte of a row's value.
const VERSION: u8 = 1;
/// The column family, of which there is one.
const FAMILY: u64 = 0;
/// Characters that an error shows of each value of a key that is too long, or whose row is.
const SHOWN_CHARS: usize = 100;

/// The key of a row; `row` has a value for every column.
pub(crate) fn encode_row_key(table: &TableDesc, row: &[Datum]) -> Key {
    let mut key = layout::index_prefix(table.id, table.index_id);
    key.reserve(24);
    for part in &table.key {
        let value = row.get(part.column).unwrap_or(&Datum::Null);
        encode_key_datum(&mut key, value, part.descending);
    }
    prim::encode_uvarint(&mut key, FAMILY);
    key.into()
}

/// The value of a row; `row` has a value for every column.
pub(crate) fn encode_row_value(table: &TableDesc, row: &[Datum]) -> Bytes {
    let mut out = Vec::with_capacity(16 + row.len() * 8);
    out.push(VERSION);
    let mut before = 0;
    // Column ids rise with the position, so the differences are never negative.
    for (at, (column, value)) in table.columns.iter().zip(row).enumerate() {
        if value.is_null() || (table.is_key_column(at) && !is_composite(column.spec.ty)) {
            continue;
        }
        put_varint(&mut out, u64::from(column.id - before));
        before = column.id;
        put_datum(&mut out, value);
    }
    out.into()
}

/// Shows the key of a row, as `(a, b)=(1, 2)`; of long values the beginning, if `most` says so.
fn key_text(table: &TableDesc, row: &[Datum], format: &FormatSettings, most: usize) -> String {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for part in &table.key {
        let Some(column) = table.columns.get(part.column) else { continue };
        names.push(column.name.as_str());
        let text = match row.get(part.column) {
            None | Some(Datum::Null) => "null".to_owned(),
            Some(value) => value.to_text(column.spec.ty, format),
        };
        values.push(match text.char_indices().nth(most) {
            None => text,
            Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        });
    }
    format!("({})=({})", names.join(", "), values.join(", "))
}

/// Shows the key of a row, as `(a, b)=(1, 2)`.
pub(crate) fn shown_key(table: &TableDesc, row: &[Datum], format: &FormatSettings) -> String {
    key_text(table, row, format, usize::MAX)
}

/// The key of a row to be written; 54000 if it is too long.
pub(crate) fn checked_row_key(
    limits: &Limits,
    table: &TableDesc,
    row: &[Datum],
    format: &FormatSettings,
) -> Result<Key> {
    let key = encode_row_key(table, row);
    if key.len() <= limits.key_bytes {
        return Ok(key);
    }
    let bytes = (key.len(), limits.key_bytes);
    Err(too_large("primary key of table", bytes, table, row, format))
}

/// The value of a row to be written under its key; 54000 if they are too large together.
pub(crate) fn checked_row_value(
    limits: &Limits,
    table: &TableDesc,
    key: &Key,
    row: &[Datum],
    format: &FormatSettings,
) -> Result<Bytes> {
    let value = encode_row_value(table, row);
    let bytes = key.len() + value.len();
    if bytes <= limits.row_bytes {
        return Ok(value);
    }
    Err(too_large("row of table", (bytes, limits.row_bytes), table, row, format))
}

fn too_large(
    what: &str,
    (bytes, most): (usize, usize),
    table: &TableDesc,
    row: &[Datum],
    format: &FormatSettings,
) -> SqlError {
    SqlError::new(
        SqlState::PROGRAM_LIMIT,
        format!("{what} \"{}\" is {bytes} bytes, more than the limit of {most}", table.name),
    )
    .with_detail(format!("Key {}", key_text(table, row, format, SHOWN_CHARS)))
    .with_table(&table.name)
}

/// Reads the values of the key columns of a stored key, in key order; composite ones are NULL.
pub(super) fn decode_key_values(
    table: &TableDesc,
    key: &[u8],
    mut take: impl FnMut(usize, Datum),
) -> Result<()> {
    let (id, index, mut rest) =
        layout::parse_table_key(key).ok_or_else(|| corrupt("its key is not a table's"))?;
    if id != table.id || index != table.index_id {
        return Err(corrupt("its key belongs to another table"));
    }
    for part in &table.key {
        let ty =
            table.columns.get(part.column).map_or(crate::types::SqlType::Unknown, |c| c.spec.ty);
        take(part.column, decode_key_datum(&mut rest, ty, part.descending)?);
    }
    if prim::decode_uvarint(&mut rest).map_err(corrupt)? != FAMILY || !rest.is_empty() {
        return Err(corrupt("its key has bytes behind the columns"));
    }
    Ok(())
}

/// Reads rows of one table, only the columns that are asked for.
#[derive(Debug)]
pub(crate) struct RowDecoder<'a> {
    table: &'a TableDesc,
    /// By position in the table: whether the column is wanted.
    wanted: &'a [bool],
    key_wanted: bool,
}

impl<'a> RowDecoder<'a> {
    /// A reader of the columns for which `wanted` is true; the others come back as NULL.
    pub(crate) fn new(table: &'a TableDesc, wanted: &'a [bool]) -> Self {
        let key_wanted = table.key.iter().any(|k| wanted.get(k.column).copied().unwrap_or(false));
        Self { table, wanted, key_wanted }
    }

    /// Reads one row.
    pub(crate) fn decode(&self, key: &[u8], value: &[u8]) -> Result<Row> {
        let table = self.table;
        let mut row = vec![Datum::Null; table.columns.len()];
        if self.key_wanted {
            decode_key_values(table, key, |column, datum| {
                if let Some(slot) = row.get_mut(column) {
                    *slot = datum;
                }
            })?;
        }
        let Some((&VERSION, mut rest)) = value.split_first() else {
            return Err(corrupt("its value has an unknown format"));
        };
        let mut id = 0u64;
        let mut position = 0;
        while !rest.is_empty() {
            id += take_varint(&mut rest)?;
            while table.columns.get(position).is_some_and(|c| u64::from(c.id) < id) {
                position += 1;
            }
            let known = table.columns.get(position).is_some_and(|c| u64::from(c.id) == id);
            match row.get_mut(position) {
                Some(slot) if known && self.wanted.get(position).copied().unwrap_or(false) => {
                    *slot = take_datum(&mut rest)?;
                }
                _ => skip_datum(&mut rest)?,
            }
        }
        Ok(row)
    }
}
