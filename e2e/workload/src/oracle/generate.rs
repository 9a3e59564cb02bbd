//! Draws the transactions of a stream: what is done depends on the seed and on what the table holds.
//!
//! Sizes are drawn by scale, so that each run crosses the bounds of the database from both sides:
//! few short rows, thousands of them, megabytes of middling values, single rows of several MiB, many
//! statements of one row each.
//!
//! Invariants:
//! 1. After a statement that has to fail comes ROLLBACK or ROLLBACK TO SAVEPOINT.
//! 2. No table grows beyond [`TABLE_BYTES`] by much: a run has to stay fast.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::model::{Expected, Table, Transaction};
use super::statement::{
    Change, Conflict, Fill, Keys, Rows, Statement, VALUE_BYTES_REFUSED, VALUE_BYTES_TAKEN,
};
use crate::session::Isolation;

/// Numbers of rows are below this.
pub(super) const NUMBERS: i64 = 8000;
/// A table of more bytes is made smaller before anything else.
pub(super) const TABLE_BYTES: usize = 24 << 20;
/// Rows of one statement.
const MOST_ROWS: usize = 5000;

/// A statement, and what it has to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The statement.
    pub(super) statement: Statement,
    /// What it has to answer.
    pub(super) expected: Expected,
}

/// A transaction as it is to go.
#[derive(Clone, Debug)]
pub(super) struct Script {
    /// The level of an explicit transaction; a statement on its own has none.
    pub(super) isolation: Option<Isolation>,
    /// The statements.
    pub(super) steps: Vec<Step>,
    /// Whether it is committed; otherwise it is rolled back, or its only statement fails.
    pub(super) commits: bool,
    /// What the table holds then.
    pub(super) after: Table,
    /// Bytes of the values that its statements write.
    pub(super) bytes: usize,
}

impl Script {
    fn new(
        isolation: Option<Isolation>,
        steps: Vec<Step>,
        commits: bool,
        before: &Table,
        open: Transaction,
    ) -> Script {
        let bytes = open.written();
        let after = if commits { open.commit() } else { before.clone() };
        Script { isolation, steps, commits, after, bytes }
    }
}

/// How much a statement writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    /// Few rows.
    Few,
    /// Many short rows.
    Many,
    /// Some MiB in middling rows.
    Wide,
    /// A row or two of some MiB.
    Huge,
}

/// Draws transactions.
#[derive(Debug)]
pub(super) struct Generator {
    rng: StdRng,
    keys: Keys,
    /// Whether values that are too large have to be refused.
    refuses: bool,
    /// What rows and bytes of large statements are divided by.
    part: usize,
    savepoints: u32,
}

impl Generator {
    /// For a table with such keys; `refuses`: the database refuses values beyond its bound.
    pub(super) fn new(seed: u64, keys: Keys, refuses: bool) -> Generator {
        Generator { rng: StdRng::seed_from_u64(seed), keys, refuses, part: 1, savepoints: 0 }
    }

    /// Writes a part of that: enough where the bounds are small, and slow beyond them.
    pub(super) fn divided_by(self, part: usize) -> Generator {
        Generator { part, ..self }
    }

    /// How the rows are keyed.
    pub(super) fn keys(&self) -> Keys {
        self.keys
    }

    /// The next transaction on a table.
    pub(super) fn next(&mut self, table: &Table) -> Script {
        if self.rng.random_bool(0.45) {
            return self.alone(table);
        }
        let isolation = *[Isolation::Serializable, Isolation::ReadCommitted]
            .choose(&mut self.rng)
            .unwrap_or(&Isolation::Serializable);
        let mut open = Transaction::begin(table);
        let mut steps = Vec::new();
        if self.rng.random_bool(0.06) {
            self.row_by_row(&mut open, &mut steps);
        } else {
            for _ in 0..self.rng.random_range(1..=10) {
                let statement = self.statement(&open);
                let expected = open.perform(&statement);
                steps.push(Step { statement, expected });
                if open.has_failed() && !self.recover(&mut open, &mut steps) {
                    break;
                }
            }
        }
        let commits = !open.has_failed() && self.rng.random_bool(0.85);
        Script::new(Some(isolation), steps, commits, table, open)
    }

    /// A statement on its own.
    fn alone(&mut self, table: &Table) -> Script {
        let mut open = Transaction::begin(table);
        let statement = self.change(&open);
        let expected = open.perform(&statement);
        let commits = !open.has_failed();
        Script::new(None, vec![Step { statement, expected }], commits, table, open)
    }

    /// Goes back to a savepoint after a failure, if there is one.
    fn recover(&mut self, open: &mut Transaction, steps: &mut Vec<Step>) -> bool {
        let savepoints: Vec<u32> = open.savepoints().collect();
        let Some(name) = savepoints.choose(&mut self.rng) else { return false };
        let statement = Statement::RollbackTo(*name);
        let expected = open.perform(&statement);
        steps.push(Step { statement, expected });
        true
    }

    /// Many INSERTs of one row each, together beyond the bounds of a batch.
    fn row_by_row(&mut self, open: &mut Transaction, steps: &mut Vec<Step>) {
        let (count, bytes) = *[(300, 20_000), (600, 8_000), (1500, 30)]
            .choose(&mut self.rng)
            .unwrap_or(&(300, 20_000));
        let first = self.rng.random_range(0..NUMBERS);
        let fill = self.fill(bytes);
        for k in (first..).take(count / self.part) {
            let (keys, n, conflict) = (vec![k % NUMBERS], self.number(), Conflict::Upsert);
            let written_out = self.rng.random_bool(0.5);
            let fill = fill.clone();
            let statement = Statement::Insert { keys, n, fill, conflict, written_out };
            let expected = open.perform(&statement);
            steps.push(Step { statement, expected });
        }
    }

    /// A statement of a transaction.
    fn statement(&mut self, open: &Transaction) -> Statement {
        let savepoints: Vec<u32> = open.savepoints().collect();
        match self.rng.random_range(0..100) {
            0..12 => {
                self.savepoints += 1;
                return Statement::Savepoint(self.savepoints);
            }
            12..18 => {
                if let Some(name) = savepoints.choose(&mut self.rng) {
                    return Statement::RollbackTo(*name);
                }
            }
            18..22 => {
                if let Some(name) = savepoints.choose(&mut self.rng) {
                    return Statement::Release(*name);
                }
            }
            22..34 => return Statement::Read,
            _ => {}
        }
        self.change(open)
    }

    /// A statement that changes rows.
    fn change(&mut self, open: &Transaction) -> Statement {
        let bytes = open.table().bytes();
        if bytes > TABLE_BYTES {
            return self.shrink(open);
        }
        match self.rng.random_range(0..100) {
            0..25 => self.insert(),
            25..40 => self.series(),
            40..50 => self.copy(open),
            50..75 => self.update(open),
            75..94 => self.delete(open),
            94..98 if self.refuses => self.beyond(open),
            _ => Statement::Truncate,
        }
    }

    fn shrink(&mut self, open: &Transaction) -> Statement {
        match self.rng.random_range(0..6) {
            0 => Statement::Truncate,
            1 => Statement::Delete(Rows::All),
            2 => Statement::Delete(Rows::Range(0, NUMBERS - self.rng.random_range(1..NUMBERS / 4))),
            3 => Statement::Update(Rows::All, Change::Cut(self.rng.random_range(1..100))),
            4 => {
                let fill = self.fill_of_rows(open, Rows::All, TABLE_BYTES / 8);
                Statement::Update(Rows::All, Change::Fill(self.number(), fill))
            }
            _ => Statement::Delete(Rows::Every(self.rng.random_range(1..3), 0)),
        }
    }

    fn scale(&mut self) -> Scale {
        match self.rng.random_range(0..100) {
            0..58 => Scale::Few,
            58..78 => Scale::Many,
            78..96 => Scale::Wide,
            _ => Scale::Huge,
        }
    }

    /// Rows and bytes of each.
    fn size(&mut self) -> (usize, usize) {
        match self.scale() {
            Scale::Few => (self.rng.random_range(1..=10), self.spread(1, 4000)),
            Scale::Many => (self.spread(50, MOST_ROWS / self.part), self.spread(1, 120)),
            Scale::Wide => {
                let (bytes, total) = (self.spread(1000, 250_000), self.spread(1 << 20, 12 << 20));
                ((total / self.part / bytes).max(1), bytes)
            }
            Scale::Huge => {
                let bytes = self.spread(1 << 20, VALUE_BYTES_TAKEN) / self.part;
                (self.rng.random_range(1..=2), bytes)
            }
        }
    }

    /// A number between two, each order of magnitude as often.
    fn spread(&mut self, from: usize, to: usize) -> usize {
        let (low, high) = ((from as f64).ln(), (to as f64).ln());
        let drawn = self.rng.random_range(low..=high).exp();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it lies between two numbers of the type"
        )]
        let drawn = drawn as usize;
        drawn.clamp(from, to)
    }

    /// A fill of about so many bytes, no more.
    fn fill(&mut self, bytes: usize) -> Fill {
        // Most values are not the same in each row; the number takes up to four characters.
        let numbered = bytes >= 64 && self.rng.random_bool(0.8);
        let most = (bytes / 8).clamp(1, 12);
        let unit: String = (0..self.rng.random_range(1..=most))
            .map(|_| char::from(self.rng.random_range(b'a'..=b'z')))
            .collect();
        let width = unit.len() + if numbered { 4 } else { 0 };
        Fill { times: (bytes / width).max(1), unit, numbered }
    }

    /// A fill for rows that are there, so that they get about so many bytes together at most.
    fn fill_of_rows(&mut self, open: &Transaction, rows: Rows, most: usize) -> Fill {
        let count = open.table().rows().keys().filter(|k| rows.has(**k)).count().max(1);
        let (_, bytes) = self.size();
        self.fill(bytes.min(most / count).max(1))
    }

    fn number(&mut self) -> i64 {
        self.rng.random_range(0..1_000_000)
    }

    fn conflict(&mut self) -> Conflict {
        let all = [Conflict::Fail, Conflict::Nothing, Conflict::Update, Conflict::Upsert];
        *all.choose(&mut self.rng).unwrap_or(&Conflict::Upsert)
    }

    /// Different numbers, near each other or far apart.
    fn some_keys(&mut self, count: usize) -> Vec<i64> {
        let first = self.rng.random_range(0..NUMBERS);
        let step = *[1, 1, 3, 7, 501].choose(&mut self.rng).unwrap_or(&1);
        // The steps are prime to the number of numbers: none comes twice.
        (0_i64..).take(count).map(|n| (first + n * step) % NUMBERS).collect()
    }

    fn insert(&mut self) -> Statement {
        let (count, bytes) = self.size();
        // The text of a statement is bounded, too.
        let count = count.min(300);
        let (n, fill, conflict) = (self.number(), self.fill(bytes), self.conflict());
        // Written out, what travels is bounded as a value is.
        let written_out = count * bytes < VALUE_BYTES_TAKEN / 2 && self.rng.random_bool(0.5);
        Statement::Insert { keys: self.some_keys(count), n, fill, conflict, written_out }
    }

    fn series(&mut self) -> Statement {
        let (count, bytes) = self.size();
        let step = self.rng.random_range(1..4);
        let from = self.rng.random_range(0..NUMBERS - 1);
        let count = i64::try_from(count).unwrap_or(1);
        let to = (from + (count - 1) * step).min(NUMBERS - 1);
        let (n, fill, conflict) = (self.number(), self.fill(bytes), self.conflict());
        Statement::Series { from, to, step, n, fill, conflict }
    }

    /// COPY mostly of rows that are not there: with one that is, all of it fails.
    fn copy(&mut self, open: &Transaction) -> Statement {
        let (count, bytes) = self.size();
        let mut keys = self.some_keys(count);
        if self.rng.random_bool(0.9) {
            keys.retain(|k| !open.table().rows().contains_key(k));
        }
        Statement::Copy { keys, n: self.number(), fill: self.fill(bytes) }
    }

    fn rows(&mut self, open: &Transaction) -> Rows {
        let from = self.rng.random_range(0..NUMBERS);
        match self.rng.random_range(0..10) {
            0..4 => {
                let keys: Vec<i64> =
                    open.table().rows().range(from..).map(|(k, _)| *k).take(1).collect();
                Rows::One(keys.first().copied().unwrap_or(from))
            }
            4..7 => {
                let width = self.spread(1, NUMBERS.unsigned_abs().try_into().unwrap_or(1));
                Rows::Range(from, from.saturating_add(i64::try_from(width).unwrap_or(1)))
            }
            7 => {
                let divisor = self.rng.random_range(2..20);
                Rows::Every(divisor, self.rng.random_range(0..divisor))
            }
            _ => Rows::All,
        }
    }

    fn update(&mut self, open: &Transaction) -> Statement {
        let rows = self.rows(open);
        let matched = open.table().rows().keys().filter(|k| rows.has(**k)).count().max(1);
        let change = match self.rng.random_range(0..10) {
            0..5 => {
                let fill = self.fill_of_rows(open, rows, TABLE_BYTES / 2);
                Change::Fill(self.number(), fill)
            }
            5..7 => Change::Add(self.number()),
            7..9 => {
                let longest = open.table().rows().values().map(|row| row.v.len()).max();
                let left = VALUE_BYTES_TAKEN.saturating_sub(longest.unwrap_or_default());
                let (_, bytes) = self.size();
                let times = bytes.min(TABLE_BYTES / 4 / matched).min(left) / 3;
                Change::Append("+=.".to_owned(), times)
            }
            _ => Change::Cut(self.spread(1, 20_000)),
        };
        Statement::Update(rows, change)
    }

    fn delete(&mut self, open: &Transaction) -> Statement {
        let rows = self.rows(open);
        // All at once is for tables that are full, or nothing would be.
        if rows == Rows::All && self.rng.random_bool(0.6) {
            return Statement::Delete(Rows::Every(2, self.rng.random_range(0..2)));
        }
        Statement::Delete(rows)
    }

    /// A value beyond what a row may hold.
    fn beyond(&mut self, open: &Transaction) -> Statement {
        let fill = Fill {
            unit: "0123456789".to_owned(),
            times: VALUE_BYTES_REFUSED / 10,
            numbered: false,
        };
        let free = (0..NUMBERS).find(|k| !open.table().rows().contains_key(k)).unwrap_or(NUMBERS);
        let n = self.number();
        Statement::Insert {
            keys: vec![free],
            n,
            fill,
            conflict: Conflict::Fail,
            written_out: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{PROGRAM_LIMIT, UNIQUE_VIOLATION};
    use super::super::statement::KINDS;
    use super::*;

    /// Runs so many transactions on the model alone.
    fn scripts(seed: u64, count: usize) -> Vec<Script> {
        let mut generator = Generator::new(seed, Keys::Long, true);
        let (mut table, mut scripts) = (Table::default(), Vec::new());
        for _ in 0..count {
            let script = generator.next(&table);
            table = script.after.clone();
            assert!(table.bytes() < 4 * TABLE_BYTES, "{} bytes in a table", table.bytes());
            scripts.push(script);
        }
        scripts
    }

    #[test]
    fn the_seed_decides() {
        let steps = |seed| scripts(seed, 20).into_iter().map(|s| s.steps).collect::<Vec<_>>();
        assert_eq!(steps(3), steps(3));
        assert_ne!(steps(3), steps(4));
    }

    #[test]
    fn a_run_has_all_kinds_and_sizes_on_both_sides_of_the_bounds() {
        let scripts = scripts(1, 300);
        for kind in KINDS {
            let has = |script: &&Script| script.steps.iter().any(|s| s.statement.kind() == kind);
            let committed = scripts.iter().filter(|script| script.commits).filter(has).count();
            assert!(committed > 1, "{committed} transactions with {kind} commit");
        }
        let with = |bytes: std::ops::Range<usize>| {
            scripts.iter().filter(|s| s.commits && bytes.contains(&s.bytes)).count()
        };
        assert!(with(1..1000) > 10 && with(4 << 20..8 << 20) > 5 && with(8 << 20..1 << 30) > 5);
        let longest = scripts.iter().map(|script| script.steps.len()).max();
        assert!(longest > Some(200), "at most {longest:?} statements");
        let refused = |state| {
            let expected = Expected::Refused(state);
            scripts.iter().flat_map(|s| &s.steps).filter(|s| s.expected == expected).count()
        };
        assert!(refused(UNIQUE_VIOLATION) > 3 && refused(PROGRAM_LIMIT) > 1);
    }

    #[test]
    fn nothing_follows_a_refusal_but_a_rollback() {
        for script in scripts(2, 300) {
            let mut steps = script.steps.iter().peekable();
            while let Some(step) = steps.next() {
                let refused = matches!(step.expected, Expected::Refused(_));
                match steps.peek() {
                    Some(next) if refused => {
                        assert!(matches!(next.statement, Statement::RollbackTo(_)), "{next:?}");
                    }
                    None if refused => assert!(!script.commits),
                    _ => {}
                }
            }
        }
    }
}
