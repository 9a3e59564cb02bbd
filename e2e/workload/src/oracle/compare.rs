//! Compares what a database shows with what the model holds.
//!
//! Pure: a bad answer given by hand is rejected in the tests.

use std::collections::BTreeMap;
use std::fmt;

use parking_lot::Mutex;

use super::model::{Row, Summary, Table};
use super::statement::Keys;

/// So many rows that differ are shown.
const MOST_SHOWN: usize = 5;

/// A row as a database shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its number.
    pub(super) k: i64,
    /// The text in its key, if keys have one.
    pub(super) t: String,
    /// Its number to sum.
    pub(super) n: i64,
    /// Its value.
    pub(super) v: String,
}

/// A row, short enough for a person.
struct Shown<'a>(i64, &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown(n, v) = self;
        let (head, more) = match v.get(..16) {
            Some(head) if v.len() > 16 => (head, "…"),
            _ => (*v, ""),
        };
        write!(f, "n {n}, {} bytes {head}{more}", v.len())
    }
}

/// The rows that differ, the first few, and how many there are; nothing if all are as they should be.
pub(super) fn differences(expected: &Table, keys: Keys, seen: &[Seen]) -> Option<String> {
    let mut differences = Vec::new();
    let mut found: BTreeMap<i64, &Seen> = BTreeMap::new();
    for row in seen {
        if found.insert(row.k, row).is_some() {
            differences.push(format!("row {} is there twice", row.k));
        }
    }
    for (k, Row { n, v }) in expected.rows() {
        let Some(row) = found.remove(k) else {
            differences.push(format!("row {k} is missing: {}", Shown(*n, v)));
            continue;
        };
        if row.n != *n || row.v.as_str() != &**v {
            let (seen, expected) = (Shown(row.n, &row.v), Shown(*n, v));
            differences.push(format!("row {k} has {seen}, not {expected}"));
        }
        if row.t != keys.text(*k) {
            differences.push(format!("row {k} has a key text of {} bytes", row.t.len()));
        }
    }
    for (k, row) in found {
        differences.push(format!("row {k} should not be there: {}", Shown(row.n, &row.v)));
    }
    if differences.is_empty() {
        return None;
    }
    let total = differences.len();
    differences.truncate(MOST_SHOWN);
    Some(format!("{total} of {} rows differ: {}", expected.rows().len(), differences.join("; ")))
}

/// The states that a table was in, so that somebody who reads beside the stream can be judged: he sees
/// a state whole, and none older than what was acknowledged before he began.
#[derive(Debug, Default)]
pub(super) struct States(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The table.
    table: String,
    /// In the order of their transactions; none where a transaction failed.
    states: Vec<Option<Summary>>,
    /// The last that was acknowledged.
    acknowledged: usize,
}

/// The moment at which a read began.
#[derive(Clone, Debug)]
pub(super) struct Since {
    /// The table that is to be read.
    pub(super) table: String,
    state: usize,
}

impl States {
    /// A new, empty table.
    pub(super) fn restart(&self, table: &str) {
        let (table, states) = (table.to_owned(), vec![Some(Summary::default())]);
        *self.0.lock() = Inner { table, states, acknowledged: 0 };
    }

    /// A transaction begins that will leave such a state.
    pub(super) fn propose(&self, after: Summary) {
        self.0.lock().states.push(Some(after));
    }

    /// It is committed.
    pub(super) fn acknowledge(&self) {
        let mut inner = self.0.lock();
        inner.acknowledged = inner.states.len() - 1;
    }

    /// It has failed for certain.
    pub(super) fn withdraw(&self) {
        if let Some(last) = self.0.lock().states.last_mut() {
            *last = None;
        }
    }

    /// What is to be seen at least by a read that begins now.
    pub(super) fn now(&self) -> Since {
        let inner = self.0.lock();
        Since { table: inner.table.clone(), state: inner.acknowledged }
    }

    /// Judges what a read saw, as soon as it has ended.
    pub(super) fn judge(&self, since: &Since, seen: Summary) -> Option<String> {
        let inner = self.0.lock();
        if inner.table != since.table {
            return None;
        }
        let allowed = inner.states.get(since.state..).unwrap_or_default();
        if allowed.iter().flatten().any(|state| *state == seen) {
            return None;
        }
        let earlier = inner.states.iter().take(since.state).flatten().any(|state| *state == seen);
        let kind = if earlier { "an old state" } else { "a state that never was" };
        let allowed: Vec<&Summary> = allowed.iter().flatten().take(4).collect();
        Some(format!("a reader saw {kind}: {seen:?}, allowed were {allowed:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::model::Transaction;
    use crate::oracle::statement::{Conflict, Fill, Statement};

    fn table(rows: i64) -> Table {
        let fill = Fill { unit: ".".to_owned(), times: 100, numbered: true };
        let (n, conflict) = (7, Conflict::Fail);
        let series = Statement::Series { from: 0, to: rows - 1, step: 1, n, fill, conflict };
        let mut open = Transaction::begin(&Table::default());
        open.perform(&series);
        open.commit()
    }

    fn seen(table: &Table, keys: Keys) -> Vec<Seen> {
        let row = |(k, row): (&i64, &Row)| Seen {
            k: *k,
            t: keys.text(*k),
            n: row.n,
            v: row.v.to_string(),
        };
        table.rows().iter().map(row).collect()
    }

    #[test]
    fn what_is_as_it_should_be_is_accepted() {
        let table = table(50);
        assert_eq!(differences(&table, Keys::Short, &seen(&table, Keys::Short)), None);
        assert_eq!(differences(&table, Keys::Long, &seen(&table, Keys::Long)), None);
    }

    #[test]
    fn each_kind_of_difference_is_found() {
        let table = table(50);
        type Damage = fn(&mut Vec<Seen>);
        let damages: [(Damage, &str); 6] = [
            (|rows| drop(rows.remove(7)), "row 7 is missing"),
            (|rows| rows.push(Seen { k: 90, ..rows[0].clone() }), "row 90 should not be there"),
            (|rows| rows.push(rows[3].clone()), "row 3 is there twice"),
            (|rows| rows[4].n += 1, "row 4 has n 8"),
            (|rows| rows[5].v.push('x'), "row 5 has n 7, 201 bytes"),
            (|rows| rows[40].t.clear(), "row 40 has a key text of 0 bytes"),
        ];
        for (damage, message) in damages {
            let mut rows = seen(&table, Keys::Long);
            damage(&mut rows);
            let found = differences(&table, Keys::Long, &rows).expect(message);
            assert!(found.contains(message), "{found}");
            assert!(found.starts_with("1 of 50 rows"), "{found}");
        }
    }

    #[test]
    fn a_reader_may_see_what_is_under_way_and_nothing_old() {
        let (states, of) = (States::default(), |count| Summary { count, ..Summary::default() });
        states.restart("a");
        let since = states.now();
        states.propose(of(5));
        assert_eq!(states.judge(&since, of(0)), None);
        assert_eq!(states.judge(&since, of(5)), None);
        assert!(states.judge(&since, of(3)).expect("half").contains("never was"));
        states.acknowledge();
        assert_eq!(states.judge(&since, of(0)), None, "it began before");
        let since = states.now();
        assert!(states.judge(&since, of(0)).expect("stale").contains("an old state"));
        states.propose(of(9));
        states.withdraw();
        assert!(states.judge(&since, of(9)).is_some(), "it failed");
        states.restart("b");
        assert_eq!(states.judge(&since, of(1)), None, "another table");
    }
}
