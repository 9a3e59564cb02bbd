//! Texts of `\?` and `\h`.

/// What `\?` prints.
pub(crate) const COMMANDS: &str = r"You are using the crdb SQL shell.

General
  \q, quit, exit    leave the shell (Ctrl-D as well)
  \! [COMMAND]      run a command of the operating system, or a shell
  \| COMMAND        run the SQL that a command prints
  \echo TEXT        print a text

Help
  \?, help          this text
  \h [STATEMENT]    syntax of SQL statements

Statement being entered
  \p                print it
  \r                forget it (Ctrl-C as well; Ctrl-C cancels a statement that runs)
  \i FILE           run a file
  \ir FILE          run a file, its path relative to the file that includes it

Informational
  \l                list the databases
  \dt               list the tables
  \d                list the tables
  \d TABLE          list the columns of a table
  \d+ TABLE         show the CREATE statement of a table

Connection
  \c                show the connection
  \c DB [USER [HOST [PORT]]]
                    connect anew; - keeps what is there; a postgresql:// URL works as well

Options
  \x [on|off]       print rows as records
  \set              list the options
  \set NAME [VALUE] set an option
  \unset NAME       return an option to its default
";

/// Statements and their syntax, sorted.
const STATEMENTS: &[(&str, &str)] = &[
    ("CREATE DATABASE", "CREATE DATABASE [IF NOT EXISTS] name"),
    (
        "CREATE TABLE",
        "CREATE TABLE [IF NOT EXISTS] name (\n    column type [NOT NULL] [DEFAULT expression] [PRIMARY KEY], ...\n    [, PRIMARY KEY (column, ...)]\n)",
    ),
    ("DELETE", "DELETE FROM table [WHERE condition] [RETURNING expression, ...]"),
    ("DROP DATABASE", "DROP DATABASE [IF EXISTS] name [CASCADE | RESTRICT]"),
    ("DROP TABLE", "DROP TABLE [IF EXISTS] name, ..."),
    (
        "INSERT",
        "INSERT INTO table [(column, ...)] {VALUES (expression, ...), ... | select}\n    [RETURNING expression, ...]",
    ),
    (
        "SELECT",
        "SELECT [DISTINCT] expression [AS name], ...\n    [FROM table [[LEFT | RIGHT | FULL | CROSS] JOIN table [ON condition]] ...]\n    [WHERE condition] [GROUP BY expression, ... [HAVING condition]]\n    [ORDER BY expression [ASC | DESC], ...] [LIMIT count] [OFFSET count]",
    ),
    ("SET", "SET [SESSION] variable {= | TO} value"),
    ("SHOW", "SHOW variable"),
    ("SHOW COLUMNS", "SHOW COLUMNS FROM table"),
    ("SHOW CREATE TABLE", "SHOW CREATE TABLE table"),
    ("SHOW DATABASES", "SHOW DATABASES"),
    ("SHOW TABLES", "SHOW TABLES [FROM database]"),
    ("TRUNCATE", "TRUNCATE [TABLE] table, ..."),
    (
        "UPDATE",
        "UPDATE table SET column = expression, ... [WHERE condition]\n    [RETURNING expression, ...]",
    ),
    ("UPSERT", "UPSERT INTO table [(column, ...)] {VALUES (expression, ...), ... | select}"),
];

/// What `\h` prints for the words of a statement.
pub(crate) fn statement_help(words: &str) -> String {
    let wanted = words.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_uppercase();
    if wanted.is_empty() {
        let names: Vec<&str> = STATEMENTS.iter().map(|(name, _)| *name).collect();
        return format!("Help is available on:\n  {}\n", names.join("\n  "));
    }
    let found: Vec<String> = STATEMENTS
        .iter()
        .filter(|(name, _)| name.starts_with(&wanted))
        .map(|(name, syntax)| format!("Command: {name}\nSyntax:\n{syntax}\n"))
        .collect();
    if found.is_empty() {
        return format!("no help on {wanted:?}; \\h alone lists the statements\n");
    }
    found.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_found_by_their_first_words() {
        assert!(statement_help("").contains("\n  UPSERT\n"));
        assert!(statement_help(" create  Table").starts_with("Command: CREATE TABLE\n"));
        assert_eq!(statement_help("show").matches("Command: SHOW").count(), 5);
        assert!(statement_help("vacuum").starts_with("no help on \"VACUUM\""));
    }
}
