//! The statements of a stream, and what they are in SQL.
//!
//! What it is not: their meaning, which the model has, and their choice, which the generator has.

use std::fmt;

use crate::session::Value;

/// The most bytes of a value that a database of ours has to take.
pub(super) const VALUE_BYTES_TAKEN: usize = 15 << 20;
/// A value of so many bytes it has to refuse.
pub(super) const VALUE_BYTES_REFUSED: usize = 17 << 20;

/// Whose SQL is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Ours.
    Crdb,
    /// That of PostgreSQL, which has no UPSERT.
    Postgres,
}

/// How the rows of a table are keyed. The number of a row, `k`, is unique by itself in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// By their number.
    Short,
    /// By their number and a text that follows from it, of up to some kB.
    Long,
}

impl Keys {
    /// The columns and the primary key, as in CREATE TABLE.
    pub(super) fn columns(self) -> &'static str {
        match self {
            Keys::Short => "k INT8 PRIMARY KEY, n INT8 NOT NULL, v TEXT NOT NULL",
            Keys::Long => "k INT8, t TEXT, n INT8 NOT NULL, v TEXT NOT NULL, PRIMARY KEY (k, t)",
        }
    }

    /// The columns of the primary key.
    pub(super) fn names(self) -> &'static str {
        match self {
            Keys::Short => "k",
            Keys::Long => "k, t",
        }
    }

    /// The text in the key of a row; nothing if there is none.
    pub(super) fn text(self, k: i64) -> String {
        match self {
            Keys::Short => String::new(),
            Keys::Long => "t".repeat(usize::try_from((k % 97) * (k % 31)).unwrap_or_default()),
        }
    }

    /// The columns of the key of row `k`, as expressions.
    fn expression(self, k: impl fmt::Display) -> String {
        match self {
            Keys::Short => k.to_string(),
            Keys::Long => format!("{k}, repeat('t', (({k} % 97) * ({k} % 31))::INT)"),
        }
    }
}

/// The value of a row: a text, so many times; the number of the row leads the text if `numbered`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fill {
    /// The text.
    pub(super) unit: String,
    /// How often it is there.
    pub(super) times: usize,
    /// Whether each row has another value.
    pub(super) numbered: bool,
}

impl Fill {
    /// The value of row `k`.
    pub(super) fn text(&self, k: i64) -> String {
        self.unit_of(k).repeat(self.times)
    }

    /// The bytes of the value of row `k`.
    pub(super) fn bytes(&self, k: i64) -> usize {
        self.unit_of(k).len() * self.times
    }

    fn unit_of(&self, k: i64) -> String {
        if self.numbered { format!("{k}{}", self.unit) } else { self.unit.clone() }
    }

    fn expression(&self, k: impl fmt::Display) -> String {
        let Fill { unit, times, numbered } = self;
        if *numbered {
            format!("repeat(({k})::TEXT || '{unit}', {times})")
        } else {
            format!("repeat('{unit}', {times})")
        }
    }
}

/// What an INSERT does with a key that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    /// It fails.
    Fail,
    /// ON CONFLICT DO NOTHING.
    Nothing,
    /// ON CONFLICT DO UPDATE: adds the numbers, takes the new value.
    Update,
    /// UPSERT: takes the new row.
    Upsert,
}

impl Conflict {
    fn verb(self, dialect: Dialect) -> &'static str {
        if self == Conflict::Upsert && dialect == Dialect::Crdb { "UPSERT" } else { "INSERT" }
    }

    fn clause(self, table: &str, keys: Keys, dialect: Dialect) -> String {
        let keys = keys.names();
        match self {
            Conflict::Fail => String::new(),
            Conflict::Upsert if dialect == Dialect::Crdb => String::new(),
            Conflict::Nothing => " ON CONFLICT DO NOTHING".to_owned(),
            Conflict::Update => format!(
                " ON CONFLICT ({keys}) DO UPDATE SET n = {table}.n + excluded.n, v = excluded.v"
            ),
            Conflict::Upsert => {
                format!(" ON CONFLICT ({keys}) DO UPDATE SET n = excluded.n, v = excluded.v")
            }
        }
    }
}

/// Which rows a statement takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// All.
    All,
    /// One.
    One(i64),
    /// From one up to another, without that.
    Range(i64, i64),
    /// Those whose number leaves a remainder.
    Every(i64, i64),
}

impl Rows {
    /// Whether row `k` is one of them.
    pub(super) fn has(self, k: i64) -> bool {
        match self {
            Rows::All => true,
            Rows::One(one) => k == one,
            Rows::Range(from, to) => (from..to).contains(&k),
            Rows::Every(divisor, remainder) => k % divisor == remainder,
        }
    }

    fn condition(self) -> String {
        match self {
            Rows::All => String::new(),
            Rows::One(k) => format!(" WHERE k = {k}"),
            Rows::Range(from, to) => format!(" WHERE k >= {from} AND k < {to}"),
            Rows::Every(divisor, remainder) => format!(" WHERE k % {divisor} = {remainder}"),
        }
    }
}

/// What an UPDATE writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A number and a value.
    Fill(i64, Fill),
    /// Adds to the number, leaves the value.
    Add(i64),
    /// Adds to the end of the value.
    Append(String, usize),
    /// Keeps so many characters of the value.
    Cut(usize),
}

impl Change {
    fn clause(&self) -> String {
        match self {
            Change::Fill(n, fill) => format!("n = {n}, v = {}", fill.expression("k")),
            Change::Add(n) => format!("n = n + {n}"),
            Change::Append(unit, times) => format!("v = v || repeat('{unit}', {times})"),
            Change::Cut(length) => format!("v = left(v, {length})"),
        }
    }
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// INSERT or UPSERT of rows that are listed. `written_out`: the values themselves travel,
    /// otherwise what makes them.
    Insert { keys: Vec<i64>, n: i64, fill: Fill, conflict: Conflict, written_out: bool },
    /// INSERT or UPSERT of a series, each row at `step` from the one before.
    Series { from: i64, to: i64, step: i64, n: i64, fill: Fill, conflict: Conflict },
    /// COPY FROM STDIN.
    Copy { keys: Vec<i64>, n: i64, fill: Fill },
    /// UPDATE.
    Update(Rows, Change),
    /// DELETE.
    Delete(Rows),
    /// TRUNCATE.
    Truncate,
    /// SAVEPOINT.
    Savepoint(u32),
    /// ROLLBACK TO SAVEPOINT.
    RollbackTo(u32),
    /// RELEASE SAVEPOINT.
    Release(u32),
    /// Reads the summary of the table.
    Read,
}

/// A statement as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sql {
    /// A text of this moment.
    Text(String),
    /// One that comes again, with parameters.
    Parameters(String, Vec<Value>),
    /// COPY, and its data.
    Copy(String, Vec<u8>),
}

/// Reads count, sum of numbers, and sum of lengths.
pub(super) fn summary_of(table: &str) -> String {
    format!("SELECT count(*), coalesce(sum(n), 0), coalesce(sum(length(v)), 0) FROM {table}")
}

/// Reads all rows.
pub(super) fn contents_of(table: &str, keys: Keys) -> String {
    format!("SELECT {}, n, v FROM {table}", keys.names())
}

/// The kinds that a run has to show.
pub(super) const KINDS: [&str; 11] = [
    "insert",
    "insert-or-nothing",
    "insert-or-update",
    "upsert",
    "copy",
    "update",
    "delete",
    "truncate",
    "savepoint",
    "rollback-to",
    "read",
];

impl Statement {
    /// The kind, for a count of kinds.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Statement::Insert { conflict, .. } | Statement::Series { conflict, .. } => {
                match conflict {
                    Conflict::Fail => "insert",
                    Conflict::Nothing => "insert-or-nothing",
                    Conflict::Update => "insert-or-update",
                    Conflict::Upsert => "upsert",
                }
            }
            Statement::Copy { .. } => "copy",
            Statement::Update(..) => "update",
            Statement::Delete(_) => "delete",
            Statement::Truncate => "truncate",
            Statement::Savepoint(_) => "savepoint",
            Statement::RollbackTo(_) => "rollback-to",
            Statement::Release(_) => "release",
            Statement::Read => "read",
        }
    }

    /// The statement for a table.
    pub(super) fn sql(&self, table: &str, keys: Keys, dialect: Dialect) -> Sql {
        let columns = format!("{table} ({}, n, v)", keys.names());
        let insert = |conflict: Conflict, rows: &str| {
            let (verb, clause) = (conflict.verb(dialect), conflict.clause(table, keys, dialect));
            format!("{verb} INTO {columns} {rows}{clause}")
        };
        Sql::Text(match self {
            Statement::Insert { keys: ks, n, fill, conflict, written_out: false } => {
                let row =
                    |k: &i64| format!("({}, {n}, {})", keys.expression(k), fill.expression(k));
                let rows: Vec<String> = ks.iter().map(row).collect();
                insert(*conflict, &format!("VALUES {}", rows.join(", ")))
            }
            Statement::Insert { keys: ks, n, fill, conflict, written_out: true } => {
                let (mut rows, mut values) = (Vec::new(), Vec::new());
                for k in ks {
                    let from = values.len() + 1;
                    values.push(Value::Int(*k));
                    if keys == Keys::Long {
                        values.push(Value::Text(keys.text(*k)));
                    }
                    values.extend([Value::Int(*n), Value::Text(fill.text(*k))]);
                    let places: Vec<String> =
                        (from..=values.len()).map(|place| format!("${place}")).collect();
                    rows.push(format!("({})", places.join(", ")));
                }
                let sql = insert(*conflict, &format!("VALUES {}", rows.join(", ")));
                return Sql::Parameters(sql, values);
            }
            Statement::Series { from, to, step, n, fill, conflict } => {
                let row = format!("{}, {n}, {}", keys.expression("g"), fill.expression("g"));
                let series = format!("generate_series({from}, {to}, {step}) AS s(g)");
                insert(*conflict, &format!("SELECT {row} FROM {series}"))
            }
            Statement::Copy { keys: ks, n, fill } => {
                let mut data = Vec::new();
                for k in ks {
                    let key = match keys {
                        Keys::Short => k.to_string(),
                        Keys::Long => format!("{k}\t{}", keys.text(*k)),
                    };
                    data.extend_from_slice(format!("{key}\t{n}\t").as_bytes());
                    data.extend_from_slice(fill.text(*k).as_bytes());
                    data.push(b'\n');
                }
                return Sql::Copy(format!("COPY {columns} FROM STDIN"), data);
            }
            Statement::Update(rows, change) => {
                format!("UPDATE {table} SET {}{}", change.clause(), rows.condition())
            }
            Statement::Delete(rows) => format!("DELETE FROM {table}{}", rows.condition()),
            Statement::Truncate => format!("TRUNCATE {table}"),
            Statement::Savepoint(n) => format!("SAVEPOINT s{n}"),
            Statement::RollbackTo(n) => format!("ROLLBACK TO SAVEPOINT s{n}"),
            Statement::Release(n) => format!("RELEASE SAVEPOINT s{n}"),
            Statement::Read => summary_of(table),
        })
    }

    /// The statement for a person, with what travels as data in short.
    pub(super) fn shown(&self, table: &str, keys: Keys) -> String {
        match self {
            Statement::Insert { keys: ks, n, fill, conflict, written_out: true } => {
                let (keys_of, n, conflict) = (ks.clone(), *n, *conflict);
                let fill = fill.clone();
                let same =
                    Statement::Insert { keys: keys_of, n, fill, conflict, written_out: false };
                format!("{} -- values written out", same.shown(table, keys))
            }
            Statement::Copy { keys: ks, n, fill } => {
                let (first, last) = (ks.first(), ks.last());
                let value = fill.expression("k");
                format!("COPY {table} -- {} rows {first:?}..={last:?}: n {n}, v {value}", ks.len())
            }
            other => match other.sql(table, keys, Dialect::Crdb) {
                Sql::Text(sql) | Sql::Parameters(sql, _) | Sql::Copy(sql, _) => sql,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(statement: &Statement, keys: Keys, dialect: Dialect) -> String {
        match statement.sql("t", keys, dialect) {
            Sql::Text(sql) | Sql::Parameters(sql, _) | Sql::Copy(sql, _) => sql,
        }
    }

    fn fill() -> Fill {
        Fill { unit: "x".to_owned(), times: 3, numbered: true }
    }

    #[test]
    fn an_upsert_is_spelled_as_each_database_wants_it() {
        let conflict = Conflict::Upsert;
        let series = Statement::Series { from: 1, to: 9, step: 2, n: 5, fill: fill(), conflict };
        assert_eq!(
            text(&series, Keys::Short, Dialect::Crdb),
            "UPSERT INTO t (k, n, v) SELECT g, 5, repeat((g)::TEXT || 'x', 3) \
             FROM generate_series(1, 9, 2) AS s(g)"
        );
        assert_eq!(
            text(&series, Keys::Long, Dialect::Postgres),
            "INSERT INTO t (k, t, n, v) SELECT g, repeat('t', ((g % 97) * (g % 31))::INT), 5, \
             repeat((g)::TEXT || 'x', 3) FROM generate_series(1, 9, 2) AS s(g) \
             ON CONFLICT (k, t) DO UPDATE SET n = excluded.n, v = excluded.v"
        );
    }

    #[test]
    fn what_is_written_out_is_what_the_expressions_make() {
        let insert = |written_out| Statement::Insert {
            keys: vec![5, 6],
            n: 1,
            fill: fill(),
            conflict: Conflict::Nothing,
            written_out,
        };
        assert_eq!(
            text(&insert(false), Keys::Short, Dialect::Crdb),
            "INSERT INTO t (k, n, v) VALUES (5, 1, repeat((5)::TEXT || 'x', 3)), \
             (6, 1, repeat((6)::TEXT || 'x', 3)) ON CONFLICT DO NOTHING"
        );
        let Sql::Parameters(sql, values) = insert(true).sql("t", Keys::Long, Dialect::Crdb) else {
            panic!("no parameters");
        };
        assert!(sql.contains("VALUES ($1, $2, $3, $4), ($5, $6, $7, $8) ON"), "{sql}");
        let key = Value::Text("t".repeat(25));
        let first = [Value::Int(5), key, Value::Int(1), Value::Text("5x5x5x".to_owned())];
        assert_eq!(values[..4], first);
        let copy = Statement::Copy { keys: vec![1, 2], n: 7, fill: fill() };
        let Sql::Copy(_, data) = copy.sql("t", Keys::Long, Dialect::Crdb) else {
            panic!("no data")
        };
        assert_eq!(data, b"1\tt\t7\t1x1x1x\n2\ttttt\t7\t2x2x2x\n");
    }
}
