//! How rows become keys and values.
//!
//! Key: `/Table/<id>/<index>/<key columns>/0`. Value: a version byte, then for each column that is
//! not NULL its id as the difference to the one before, a type tag and a payload. A key column is in
//! the value too when its key does not hold it exactly (`1.0` and `1.00` are one key).
//!
//! Invariants:
//! 1. Keys sort like the values of their columns, NULL first (last where descending), and no key of
//!    a table is a prefix of another.
//! 2. What is written reads back the same; a damaged value is an error, never a panic.

mod decimal;
mod key;
mod row;
mod value;

pub(crate) use key::{encode_key_datum, is_key_type};
pub(crate) use row::{RowDecoder, checked_row_key, checked_row_value, encode_row_key, shown_key};

#[cfg(test)]
mod tests;
