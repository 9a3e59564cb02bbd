//! What a table holds after statements: the database that the real one is compared with.
//!
//! Pure and simple on purpose: a map, a copy of it for each savepoint, no sharing between
//! transactions. One stream owns a table, so its transactions come one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::statement::{Change, Conflict, Fill, Rows, Statement, VALUE_BYTES_TAKEN};

/// SQLSTATE: a key exists already.
pub(super) const UNIQUE_VIOLATION: &str = "23505";
/// SQLSTATE: a bound of the program was reached.
pub(super) const PROGRAM_LIMIT: &str = "54000";

/// A row but its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Its number.
    pub(super) n: i64,
    /// Its value.
    pub(super) v: Arc<str>,
}

/// What is compared after each commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// Rows.
    pub(super) count: u64,
    /// The sum of their numbers.
    pub(super) numbers: i64,
    /// The sum of the lengths of their values.
    pub(super) lengths: u64,
}

/// How much a statement changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Changed {
    rows: u64,
    /// Of the values that were written.
    bytes: usize,
}

/// The rows of a table by their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    rows: BTreeMap<i64, Row>,
}

impl Table {
    /// The rows by their number.
    pub(super) fn rows(&self) -> &BTreeMap<i64, Row> {
        &self.rows
    }

    /// The bytes of all values.
    pub(super) fn bytes(&self) -> usize {
        self.rows.values().map(|row| row.v.len()).sum()
    }

    /// What is compared after each commit.
    pub(super) fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for row in self.rows.values() {
            summary.count += 1;
            summary.numbers += row.n;
            // All values are ASCII.
            summary.lengths += row.v.len() as u64;
        }
        summary
    }

    /// Changes the table as a statement does. One that fails changes nothing.
    ///
    /// # Errors
    ///
    /// The SQLSTATE with which it fails.
    fn change(&mut self, statement: &Statement) -> Result<Changed, &'static str> {
        match statement {
            Statement::Insert { keys, n, fill, conflict, .. } => {
                self.insert(keys.iter().copied(), *n, fill, *conflict)
            }
            Statement::Series { from, to, step, n, fill, conflict } => {
                let step = usize::try_from(*step).unwrap_or(1);
                self.insert((*from..=*to).step_by(step), *n, fill, *conflict)
            }
            Statement::Copy { keys, n, fill } => {
                self.insert(keys.iter().copied(), *n, fill, Conflict::Fail)
            }
            Statement::Update(rows, change) => self.update(*rows, change),
            Statement::Delete(rows) => {
                let before = self.rows.len();
                self.rows.retain(|k, _| !rows.has(*k));
                Ok(Changed { rows: (before - self.rows.len()) as u64, bytes: 0 })
            }
            Statement::Truncate => {
                self.rows.clear();
                Ok(Changed::default())
            }
            Statement::Savepoint(_)
            | Statement::RollbackTo(_)
            | Statement::Release(_)
            | Statement::Read => Ok(Changed::default()),
        }
    }

    /// No key comes twice.
    fn insert(
        &mut self,
        keys: impl Iterator<Item = i64>,
        n: i64,
        fill: &Fill,
        conflict: Conflict,
    ) -> Result<Changed, &'static str> {
        let mut new = Vec::new();
        for k in keys {
            if fill.bytes(k) > VALUE_BYTES_TAKEN {
                return Err(PROGRAM_LIMIT);
            }
            let n = match (self.rows.get(&k), conflict) {
                (Some(_), Conflict::Fail) => return Err(UNIQUE_VIOLATION),
                (Some(_), Conflict::Nothing) => continue,
                (Some(old), Conflict::Update) => old.n + n,
                (Some(_), Conflict::Upsert) | (None, _) => n,
            };
            new.push((k, Row { n, v: fill.text(k).into() }));
        }
        Ok(self.write(new))
    }

    fn update(&mut self, which: Rows, change: &Change) -> Result<Changed, &'static str> {
        let mut new = Vec::new();
        for (k, Row { n, v }) in self.rows.iter().filter(|(k, _)| which.has(**k)) {
            let row = match change {
                Change::Fill(n, fill) => Row { n: *n, v: fill.text(*k).into() },
                Change::Add(more) => Row { n: n + more, v: Arc::clone(v) },
                Change::Append(unit, times) => {
                    Row { n: *n, v: format!("{v}{}", unit.repeat(*times)).into() }
                }
                Change::Cut(length) => Row { n: *n, v: v.get(..*length).unwrap_or(v).into() },
            };
            if row.v.len() > VALUE_BYTES_TAKEN {
                return Err(PROGRAM_LIMIT);
            }
            new.push((*k, row));
        }
        Ok(self.write(new))
    }

    fn write(&mut self, rows: Vec<(i64, Row)>) -> Changed {
        let bytes = rows.iter().map(|(_, row)| row.v.len()).sum();
        let changed = Changed { rows: rows.len() as u64, bytes };
        self.rows.extend(rows);
        changed
    }
}

/// What a statement has to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// So many rows changed.
    Changed(u64),
    /// It fails with a SQLSTATE.
    Refused(&'static str),
    /// What a summary shows.
    Summary(Summary),
    /// Success.
    Done,
}

/// A transaction that is open.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    table: Table,
    savepoints: Vec<(u32, Table)>,
    failed: bool,
    written: usize,
}

impl Transaction {
    /// One that has done nothing yet.
    pub(super) fn begin(table: &Table) -> Transaction {
        Transaction { table: table.clone(), savepoints: Vec::new(), failed: false, written: 0 }
    }

    /// What it sees.
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// Whether a statement failed, so that nothing but a rollback may follow.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Bytes of the values that were written, also of those that were written over since.
    pub(super) fn written(&self) -> usize {
        self.written
    }

    /// The savepoints that are there, the oldest first.
    pub(super) fn savepoints(&self) -> impl Iterator<Item = u32> {
        self.savepoints.iter().map(|(name, _)| *name)
    }

    /// Runs a statement.
    pub(super) fn perform(&mut self, statement: &Statement) -> Expected {
        match statement {
            Statement::Savepoint(name) => self.savepoints.push((*name, self.table.clone())),
            Statement::RollbackTo(name) => {
                if let Some(place) = self.place_of(*name) {
                    // The savepoint itself stays.
                    self.savepoints.truncate(place + 1);
                    let saved = self.savepoints.last().map(|(_, table)| table.clone());
                    self.table = saved.unwrap_or_default();
                    self.failed = false;
                }
            }
            Statement::Release(name) => {
                if let Some(place) = self.place_of(*name) {
                    self.savepoints.truncate(place);
                }
            }
            Statement::Read => return Expected::Summary(self.table.summary()),
            Statement::Truncate => self.table = Table::default(),
            change => {
                return match self.table.change(change) {
                    Ok(changed) => {
                        self.written += changed.bytes;
                        Expected::Changed(changed.rows)
                    }
                    Err(state) => {
                        self.failed = true;
                        Expected::Refused(state)
                    }
                };
            }
        }
        Expected::Done
    }

    /// The table once it is committed.
    pub(super) fn commit(self) -> Table {
        self.table
    }

    fn place_of(&self, name: u32) -> Option<usize> {
        self.savepoints.iter().rposition(|(saved, _)| *saved == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(unit: &str, times: usize) -> Fill {
        Fill { unit: unit.to_owned(), times, numbered: false }
    }

    fn insert(keys: &[i64], n: i64, conflict: Conflict) -> Statement {
        let (keys, fill) = (keys.to_vec(), fill("ab", 2));
        Statement::Insert { keys, n, fill, conflict, written_out: false }
    }

    fn rows(open: &Transaction) -> Vec<(i64, i64, &str)> {
        open.table().rows().iter().map(|(k, row)| (*k, row.n, &*row.v)).collect()
    }

    #[test]
    fn an_insert_does_with_a_key_that_exists_what_it_says() {
        let mut open = Transaction::begin(&Table::default());
        assert_eq!(open.perform(&insert(&[1, 2], 10, Conflict::Fail)), Expected::Changed(2));
        assert_eq!(open.perform(&insert(&[2, 3], 5, Conflict::Nothing)), Expected::Changed(1));
        assert_eq!(open.perform(&insert(&[2, 4], 5, Conflict::Update)), Expected::Changed(2));
        assert_eq!(open.perform(&insert(&[1], 7, Conflict::Upsert)), Expected::Changed(1));
        let numbers: Vec<_> = rows(&open).iter().map(|(k, n, _)| (*k, *n)).collect();
        assert_eq!(numbers, [(1, 7), (2, 15), (3, 5), (4, 5)]);
        assert_eq!(open.written(), 6 * 4);
    }

    #[test]
    fn a_statement_that_fails_changes_nothing_and_ends_the_transaction() {
        let mut open = Transaction::begin(&Table::default());
        open.perform(&insert(&[5], 1, Conflict::Fail));
        open.perform(&Statement::Savepoint(1));
        let refused = open.perform(&insert(&[4, 5, 6], 1, Conflict::Fail));
        assert_eq!(refused, Expected::Refused(UNIQUE_VIOLATION));
        assert!(open.has_failed());
        assert_eq!(open.table().rows().len(), 1);
        open.perform(&Statement::RollbackTo(1));
        assert!(!open.has_failed());
        let (keys, fill) = (vec![9], fill("0123456789", VALUE_BYTES_TAKEN));
        assert_eq!(
            open.perform(&Statement::Copy { keys, n: 0, fill }),
            Expected::Refused(PROGRAM_LIMIT)
        );
    }

    #[test]
    fn updates_change_what_they_name() {
        let mut open = Transaction::begin(&Table::default());
        open.perform(&insert(&[1, 2, 3, 4], 0, Conflict::Fail));
        let update = |rows, change| Statement::Update(rows, change);
        open.perform(&update(Rows::One(1), Change::Add(3)));
        open.perform(&update(Rows::Range(2, 4), Change::Append("+".to_owned(), 2)));
        open.perform(&update(Rows::Every(3, 0), Change::Cut(5)));
        open.perform(&update(Rows::Range(4, 99), Change::Fill(8, fill("c", 1))));
        assert_eq!(rows(&open), [(1, 3, "abab"), (2, 0, "abab++"), (3, 0, "abab+"), (4, 8, "c")]);
        assert_eq!(open.perform(&Statement::Delete(Rows::Every(2, 0))), Expected::Changed(2));
        let expected = Summary { count: 2, numbers: 3, lengths: 9 };
        assert_eq!(open.perform(&Statement::Read), Expected::Summary(expected));
    }

    #[test]
    fn savepoints_take_back_what_came_after_them() {
        let mut open = Transaction::begin(&Table::default());
        let count = |open: &Transaction| open.table().rows().len();
        open.perform(&Statement::Savepoint(1));
        open.perform(&insert(&[1], 0, Conflict::Fail));
        open.perform(&Statement::Savepoint(2));
        open.perform(&insert(&[2], 0, Conflict::Fail));
        open.perform(&Statement::RollbackTo(2));
        assert_eq!(count(&open), 1);
        // It is there still, and what it kept is that of then.
        open.perform(&Statement::Truncate);
        open.perform(&Statement::RollbackTo(2));
        assert_eq!(count(&open), 1);
        open.perform(&Statement::Release(2));
        assert_eq!(open.savepoints().collect::<Vec<_>>(), [1]);
        open.perform(&Statement::RollbackTo(1));
        assert_eq!(count(&open), 0);
    }
}
