//! ALTER TABLE ... ADD PRIMARY KEY: the rows move to a new primary index.
//!
//! ```text
//! v+1 offline, rewriting = new index; wait
//! copy: rows of the old index, as the new key has them, by conditional puts
//! v+n public under the new index, the old rows on the garbage list
//! ```
//!
//! While it copies, the gateway renews the descriptor's time. When it stops doing so, or a row does
//! not fit the key, the table goes back to its old index as if nothing had been asked, and the rows
//! copied become garbage. The number of an index that was written to once is never given again, so
//! a gateway that wakes late writes where nobody reads.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use crdb_keys::{Key, Span, layout};
use crdb_kv::SendError;
use crdb_proto::kv::KeyValue;

use super::ddl::{Change, Decision, TableName, mark_table, undefined_table};
use super::desc::{DescState, TableDesc};
use crate::activity::CancelFlag;
use crate::datum::{Datum, FormatSettings, Row};
use crate::encoding::{RowDecoder, checked_row_key, checked_row_value, shown_key};
use crate::error::{Result, SqlError, SqlState};
use crate::kv::{Batch, sql, to_sql_error};
use crate::node::SqlNode;

/// What the new key is computed from: the table as it is.
pub(crate) type NewKey<'a> = &'a (dyn Fn(&TableDesc) -> Result<TableDesc> + Sync);

impl SqlNode {
    /// Gives a table without primary key one. `new_key` yields the table as it is to be.
    pub(crate) async fn add_primary_key(
        &self,
        name: &TableName,
        new_key: NewKey<'_>,
        cancel: &CancelFlag,
    ) -> Result<()> {
        let (old, version) = self
            .catalog()
            .change(self.random_u64(), |snapshot, now| {
                let table = match snapshot.table(name.database, &name.name) {
                    Some(table) if table.state == DescState::Offline => return Ok(Decision::Wait),
                    Some(table) if table.state == DescState::Public => table,
                    _ => return Err(undefined_table(&name.shown)),
                };
                new_key(table)?;
                let mut change = Change::new(snapshot);
                let mut offline = mark_table(table, DescState::Offline, snapshot, now);
                offline.rewriting = Some(offline.take_index_id());
                change.put_table(&offline);
                Ok(Decision::Publish(change, Arc::new(offline)))
            })
            .await?;
        let mut outcome = self.copy_rows(&old, version, new_key, cancel).await;
        if outcome.is_ok() {
            outcome = self.switch_index(&old, new_key).await;
        }
        if outcome.is_err() {
            // What this cannot do, the upkeep of some node does.
            drop(self.give_up_rewriting(old.id, old.rewriting, |_| true).await);
        }
        outcome
    }

    async fn copy_rows(
        &self,
        old: &TableDesc,
        version: u64,
        new_key: NewKey<'_>,
        cancel: &CancelFlag,
    ) -> Result<()> {
        self.wait(version).await?;
        let new = rewritten(old, new_key)?;
        let wanted = vec![true; old.columns.len()];
        let decoder = RowDecoder::new(old, &wanted);
        let mut renewed = self.clock.wall_nanos();
        let renew = u64::try_from(self.limits.rekey_renew.as_nanos()).unwrap_or(u64::MAX);
        let mut left = vec![layout::index_span(old.id, old.index_id)];
        let mut found = self.read_chunk(&mut left).await?;
        while let Some(pairs) = found {
            cancel.check()?;
            let mut rows = Vec::with_capacity(pairs.len());
            for pair in pairs {
                rows.push(moved(old, &new, decoder.decode(&pair.key, &pair.value)?)?);
            }
            // The table is offline: what comes next is the same whenever it is read.
            let (written, next) =
                futures::join!(self.write_rows(&new, rows), self.read_chunk(&mut left));
            written?;
            found = next?;
            if self.clock.wall_nanos().saturating_sub(renewed) > renew {
                self.renew_rewriting(old).await?;
                renewed = self.clock.wall_nanos();
            }
        }
        Ok(())
    }

    /// Rows at the start of what is left, which they are taken off; none if nothing is.
    async fn read_chunk(&self, left: &mut Vec<Span>) -> Result<Option<Vec<KeyValue>>> {
        let Some(span) = left.pop() else { return Ok(None) };
        let mut batch = Batch::new();
        batch.scan(&span, self.limits.rekey_rows, self.limits.rekey_bytes, false);
        let page = sql(self.kv.send(batch, None, None).await)?.page(0)?;
        Ok(Some(page.leaving(left)))
    }

    /// Writes rows under the new index, in as many batches as they need.
    async fn write_rows(&self, new: &TableDesc, rows: Vec<Row>) -> Result<()> {
        let mut seen: HashSet<Key> = HashSet::with_capacity(rows.len());
        let mut pairs: Vec<(Key, Bytes)> = Vec::with_capacity(rows.len());
        let format = FormatSettings::default();
        for row in &rows {
            let key = checked_row_key(&self.limits, new, row, &format)?;
            if !seen.insert(key.clone()) {
                return Err(duplicate(new, row));
            }
            let value = checked_row_value(&self.limits, new, &key, row, &format)?;
            pairs.push((key, value));
        }
        let mut parts = cut_by_bytes(&pairs, self.limits.rekey_bytes);
        parts.reverse();
        while let Some(part) = parts.pop() {
            let mut batch = Batch::new();
            for (key, value) in part {
                batch.conditional_put(key.clone(), value.clone(), None);
            }
            if batch.is_empty() {
                continue;
            }
            match self.kv.send(batch, None, None).await {
                Ok(_) => {}
                Err(SendError::CrossRange { .. }) if part.len() > 1 => {
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.extend([right, left]);
                }
                Err(SendError::ConditionFailed { key, .. }) => {
                    let at = pairs.iter().position(|(written, _)| **written == *key);
                    return Err(match at.and_then(|at| rows.get(at)) {
                        Some(row) => duplicate(new, row),
                        None => duplicate(new, &[]),
                    });
                }
                // Whether the rows were written does not matter: nobody will read them.
                Err(SendError::Ambiguous { message }) => {
                    return Err(SqlError::new(
                        SqlState::CANNOT_CONNECT_NOW,
                        format!("the rows could not be moved to the new key: {message}"),
                    )
                    .with_hint("The table is as it was; repeat the statement."));
                }
                Err(error) => return Err(to_sql_error(error)),
            }
        }
        Ok(())
    }

    /// Says that the copy goes on; fails when it was given up meanwhile.
    async fn renew_rewriting(&self, old: &TableDesc) -> Result<()> {
        self.catalog()
            .change(self.random_u64(), |snapshot, now| {
                let table = under_rewriting(snapshot.table_by_id(old.id), old.rewriting)?;
                let mut change = Change::new(snapshot);
                change.put_table(&mark_table(table, DescState::Offline, snapshot, now));
                Ok(Decision::Publish(change, ()))
            })
            .await?;
        Ok(())
    }

    /// Makes the new index the table's.
    async fn switch_index(&self, old: &TableDesc, new_key: NewKey<'_>) -> Result<()> {
        self.catalog()
            .change(self.random_u64(), |snapshot, now| {
                let table = under_rewriting(snapshot.table_by_id(old.id), old.rewriting)?;
                let mut change = Change::new(snapshot);
                change.drop_rows(table.id, Some(table.index_id), now);
                let new = rewritten(table, new_key)?;
                change.put_table(&mark_table(&new, DescState::Public, snapshot, now));
                Ok(Decision::Publish(change, ()))
            })
            .await?;
        Ok(())
    }

    /// Takes a table whose rows are being copied back to its old index, if it still is in that state
    /// and `chosen` agrees.
    pub(crate) async fn give_up_rewriting(
        &self,
        table: u64,
        rewriting: Option<u64>,
        chosen: impl Fn(&TableDesc) -> bool,
    ) -> Result<()> {
        self.catalog()
            .change(self.random_u64(), |snapshot, now| {
                let found = under_rewriting(snapshot.table_by_id(table), rewriting);
                let Some(found) = found.ok().filter(|found| chosen(found)) else {
                    return Ok(Decision::Done(()));
                };
                let mut change = Change::new(snapshot);
                change.drop_rows(found.id, rewriting, now);
                let mut back = mark_table(found, DescState::Public, snapshot, now);
                back.rewriting = None;
                change.put_table(&back);
                Ok(Decision::Publish(change, ()))
            })
            .await?;
        Ok(())
    }
}

/// Parts of so many bytes at most, or of one row.
fn cut_by_bytes(mut pairs: &[(Key, Bytes)], most: u64) -> Vec<&[(Key, Bytes)]> {
    let mut parts = Vec::new();
    while !pairs.is_empty() {
        let mut bytes = 0;
        let fit = pairs.iter().take_while(|(key, value)| {
            bytes += (key.len() + value.len()) as u64;
            bytes <= most
        });
        let (part, rest) = pairs.split_at(fit.count().max(1));
        parts.push(part);
        pairs = rest;
    }
    parts
}

/// The table if its rows are still being copied to that index.
fn under_rewriting(
    table: Option<&Arc<TableDesc>>,
    rewriting: Option<u64>,
) -> Result<&Arc<TableDesc>> {
    let found = table.filter(|table| {
        table.state == DescState::Offline && table.rewriting == rewriting && rewriting.is_some()
    });
    found.ok_or_else(|| {
        SqlError::new(
            SqlState::OBJECT_NOT_IN_STATE,
            "the new primary key was given up by another node, which did not hear of this one",
        )
        .with_hint("The table is as it was; repeat the statement.")
    })
}

/// The table with its new key, under the index that the rows are copied to.
fn rewritten(old: &TableDesc, new_key: NewKey<'_>) -> Result<TableDesc> {
    let mut new = new_key(old)?;
    new.index_id = old.rewriting.unwrap_or(new.index_id);
    new.rewriting = None;
    Ok(new)
}

/// A row of the old table as the new one has it.
fn moved(old: &TableDesc, new: &TableDesc, row: Row) -> Result<Row> {
    let mut kept = Vec::with_capacity(new.columns.len());
    for (column, value) in old.columns.iter().zip(row) {
        if new.columns.iter().any(|stays| stays.id == column.id) {
            kept.push(value);
        }
    }
    for part in &new.key {
        let null = kept.get(part.column).is_none_or(Datum::is_null);
        if let (true, Some(column)) = (null, new.columns.get(part.column)) {
            return Err(SqlError::new(
                SqlState::NOT_NULL_VIOLATION,
                format!(
                    "column \"{}\" of relation \"{}\" contains null values",
                    column.name, new.name
                ),
            ));
        }
    }
    Ok(kept)
}

fn duplicate(new: &TableDesc, row: &[Datum]) -> SqlError {
    SqlError::new(
        SqlState::UNIQUE_VIOLATION,
        format!("could not create unique index \"{}\"", new.key_name),
    )
    .with_detail(format!("Key {} is duplicated.", shown_key(new, row, &FormatSettings::default())))
    .with_constraint(new.key_name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_large_as_they_may_be() {
        let pairs: Vec<(Key, Bytes)> = [1, 1, 9, 2, 3]
            .map(|bytes| (Key::from(vec![0; 1]), Bytes::from(vec![0; bytes])))
            .into();
        let lengths = |most| -> Vec<usize> {
            cut_by_bytes(&pairs, most).into_iter().map(<[_]>::len).collect()
        };
        assert_eq!(lengths(0), [1, 1, 1, 1, 1]);
        assert_eq!(lengths(4), [2, 1, 1, 1]);
        assert_eq!(lengths(7), [2, 1, 2]);
        assert_eq!(lengths(1000), [5]);
    }
}
