//! Whole rows: keys and values of a table's primary index.

use bytes::Bytes;
use crdb_keys::{Key, encoding as prim, layout};

use super::key::{corrupt, decode_key_datum, encode_key_datum, is_composite};
use super::value::{put_datum, put_varint, skip_datum, take_datum, take_varint};
use crate::catalog::TableDesc;
use crate::datum::{Datum, Row};
use crate::error::Result;

/// First byte of a row's value.
const VERSION: u8 = 1;
/// The column family, of which there is one.
const FAMILY: u64 = 0;

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
