//! Completion and line editing of the interactive shell.

use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

/// Words of the SQL dialect that users type, sorted.
const KEYWORDS: &[&str] = &[
    "ALL",
    "AND",
    "AS",
    "ASC",
    "AVG",
    "BETWEEN",
    "BIGINT",
    "BOOL",
    "BY",
    "BYTES",
    "CASCADE",
    "CASE",
    "CAST",
    "COALESCE",
    "COLUMNS",
    "COUNT",
    "CREATE",
    "CROSS",
    "DATABASE",
    "DATABASES",
    "DATE",
    "DECIMAL",
    "DEFAULT",
    "DELETE",
    "DESC",
    "DISTINCT",
    "DROP",
    "ELSE",
    "END",
    "EXISTS",
    "FALSE",
    "FLOAT",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "ILIKE",
    "IN",
    "INNER",
    "INSERT",
    "INT",
    "INTEGER",
    "INTERVAL",
    "INTO",
    "IS",
    "JOIN",
    "JSONB",
    "KEY",
    "LEFT",
    "LIKE",
    "LIMIT",
    "MAX",
    "MIN",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OUTER",
    "PRIMARY",
    "RESTRICT",
    "RETURNING",
    "RIGHT",
    "SELECT",
    "SERIAL",
    "SESSION",
    "SET",
    "SHOW",
    "SMALLINT",
    "STRING",
    "SUM",
    "TABLE",
    "TABLES",
    "TEXT",
    "THEN",
    "TIMESTAMP",
    "TIMESTAMPTZ",
    "TO",
    "TRUE",
    "TRUNCATE",
    "UNION",
    "UPDATE",
    "UPSERT",
    "USE",
    "USING",
    "UUID",
    "VALUES",
    "VARCHAR",
    "WHEN",
    "WHERE",
    "WITH",
];

/// Commands to the shell, sorted.
const COMMANDS: &[&str] = &[
    "\\c", "\\d", "\\d+", "\\dt", "\\echo", "\\h", "\\i", "\\ir", "\\l", "\\p", "\\q", "\\r",
    "\\set", "\\unset", "\\x",
];

/// Start of the word that ends at `position`, and what may complete it.
///
/// Keywords follow the letters' case: `sel` completes to `select`, `SEL` to `SELECT`.
pub(crate) fn candidates(line: &str, position: usize) -> (usize, Vec<String>) {
    let Some(before) = line.get(..position) else { return (position, Vec::new()) };
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '\\' | '+');
    let start = before
        .char_indices()
        .rev()
        .take_while(|(_, c)| is_word(*c))
        .last()
        .map_or(position, |(at, _)| at);
    let word = before.get(start..).unwrap_or_default();
    if word.is_empty() {
        return (start, Vec::new());
    }
    if word.starts_with('\\') {
        let found = COMMANDS.iter().filter(|command| command.starts_with(word));
        return (start, found.map(|command| (*command).to_owned()).collect());
    }
    let lower = word.chars().all(|c| !c.is_uppercase());
    let upper_word = word.to_uppercase();
    let found = KEYWORDS.iter().filter(|keyword| keyword.starts_with(&upper_word));
    let cased = |keyword: &&str| if lower { keyword.to_lowercase() } else { (*keyword).to_owned() };
    (start, found.map(cased).collect())
}

/// What the line editor asks about a line.
pub(crate) struct SqlHelper;

impl Completer for SqlHelper {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _ctx: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(candidates(line, pos))
    }
}

impl Hinter for SqlHelper {
    type Hint = String;
}

impl Highlighter for SqlHelper {}

impl Validator for SqlHelper {}

impl Helper for SqlHelper {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completes_keywords_in_the_case_they_are_typed_in() {
        assert_eq!(candidates("sel", 3), (0, vec!["select".to_owned()]));
        assert_eq!(candidates("SELECT * FR", 11), (9, vec!["FROM".to_owned()]));
        assert_eq!(candidates("show DAT", 8).1, ["DATABASE", "DATABASES", "DATE"]);
        assert_eq!(candidates("sel x", 3), (0, vec!["select".to_owned()]));
    }

    #[test]
    fn completes_commands() {
        assert_eq!(candidates("\\d", 2), (0, ["\\d", "\\d+", "\\dt"].map(str::to_owned).to_vec()));
    }

    #[test]
    fn completes_nothing_out_of_nothing() {
        assert_eq!(candidates("select ", 7), (7, vec![]));
        assert_eq!(candidates("xyzzy", 5), (0, vec![]));
        assert_eq!(candidates("é", 1), (1, vec![]));
        assert_eq!(candidates("é", 2).1, Vec::<String>::new());
    }

    #[test]
    fn word_lists_are_sorted() {
        assert!(KEYWORDS.is_sorted());
        assert!(COMMANDS.is_sorted());
    }
}
