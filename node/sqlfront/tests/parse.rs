//! Golden scripts of the front parser, the ratchet of client statements, and hostile input.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use crdb_sqlfront::ast::Statement;
use crdb_sqlfront::{ParseErrorKind, parse, parse_expression};
use test_each_file::test_each_path;

test_each_path! { in "node/sqlfront/testscripts" as scripts => run_script }

fn run_script(path: &Path) {
    goldenscript::run(&mut Front, path).expect("script failed");
}

/// Each literal line (`> text`) is a submitted string.
struct Front;

impl goldenscript::Runner for Front {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &Self::Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        match parse(&command.name) {
            Ok(statements) => {
                for parsed in statements {
                    // What is printed must parse to the same tree.
                    let text = parsed.statement.to_string();
                    if reparses(&parsed.statement) {
                        let again = parse(&text).map_err(|e| format!("{text}: {e}"))?;
                        let again: Vec<String> =
                            again.iter().map(|parsed| parsed.statement.to_string()).collect();
                        assert_eq!(again, [text.as_str()]);
                    }
                    writeln!(out, "{text}")?;
                }
            }
            Err(error) => {
                write!(out, "{} {}", error.kind.sqlstate(), error.message)?;
                if let Some(pos) = error.pos.known() {
                    write!(out, " [{pos}]")?;
                }
                writeln!(out)?;
            }
        }
        Ok(out)
    }
}

fn reparses(statement: &Statement) -> bool {
    match statement {
        Statement::Query(_)
        | Statement::Insert(_)
        | Statement::Update(_)
        | Statement::Delete(_)
        | Statement::DropTable(_)
        | Statement::SetVariable { .. }
        | Statement::ResetVariable { .. }
        | Statement::SetClusterSetting { .. }
        | Statement::AddPrimaryKey(_)
        | Statement::SplitAt(_)
        | Statement::UnsplitAt(_)
        | Statement::RelocateLease(_)
        | Statement::Cancel(_)
        | Statement::Copy(_)
        | Statement::Show(_)
        | Statement::SetTransaction(_)
        | Statement::SetSessionCharacteristics(_)
        | Statement::Begin(_)
        | Statement::Commit { .. }
        | Statement::Rollback { .. }
        | Statement::Savepoint(_)
        | Statement::ReleaseSavepoint(_)
        | Statement::RollbackToSavepoint(_) => true,
        Statement::CreateTable(create) => {
            create.unsupported.is_empty()
                && create
                    .columns
                    .iter()
                    .all(|column| column.unsupported.is_empty() && column.constraints.is_empty())
        }
        _ => false,
    }
}

/// Statements that real clients send, in our own words; the counts may only get better.
#[test]
fn client_statements_parse() {
    let text = include_str!("client_statements.sql");
    let (mut parsed, mut unsupported, mut failed) = (0, Vec::new(), Vec::new());
    for statement in text.split("\n\n").map(str::trim).filter(|part| !part.is_empty()) {
        match parse(statement) {
            Err(error) => failed.push(format!("{error} in {statement}")),
            Ok(statements) => {
                for one in statements {
                    match one.statement {
                        Statement::Unsupported(what) => unsupported.push(what.feature),
                        _ => parsed += 1,
                    }
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    unsupported.sort();
    expect_test::expect_file!["client_statements.expected"]
        .assert_eq(&format!("parsed {parsed}\nunsupported {unsupported:#?}\n"));
}

fn error_kind(sql: &str) -> Option<ParseErrorKind> {
    parse(sql).err().map(|error| error.kind)
}

/// Every way to nest deeply answers 54001, on a stack as small as a server thread's.
#[test]
fn deep_nesting_is_an_error_not_a_crash() {
    let deep = 10_000;
    let around = |open: &str, middle: &str, close: &str| {
        format!("SELECT {}{middle}{}", open.repeat(deep), close.repeat(deep))
    };
    let statements = [
        around("(", "1", ")"),
        around("ARRAY[", "1", "]"),
        around("f(", "1", ")"),
        around("(SELECT ", "1", ")"),
        around("CASE WHEN ", "true", " THEN 1 END"),
        around("NOT ", "true", ""),
        around("- ", "1", ""),
        around("1 + ", "1", ""),
        around("1 || ", "'a'", ""),
        around("", "1", "::int8"),
        around("", "a", "[1]"),
        around("", "1", " IS NULL"),
        around("", "1", " UNION ALL SELECT 1"),
        around("", "1", " UNION (SELECT 1 "),
        format!("SELECT * FROM {}t{}", "(".repeat(deep), ")".repeat(deep)),
        format!("SELECT * FROM t{}", " JOIN t ON true".repeat(deep)),
        format!("SELECT * FROM {}t{}", "t JOIN ".repeat(deep), " ON true".repeat(deep)),
        around("EXISTS (SELECT ", "1", ")"),
        around("CAST(", "1", " AS int)"),
        "EXPLAIN ".repeat(deep),
        format!("CREATE TABLE t (a int DEFAULT {}1{})", "(".repeat(deep), ")".repeat(deep)),
    ];
    for sql in statements {
        let head: String = sql.chars().take(40).collect();
        let handle = std::thread::Builder::new()
            .stack_size(2 << 20)
            .spawn(move || error_kind(&sql))
            .expect("threads start");
        let kind = handle.join().expect("the parser does not panic");
        assert!(
            matches!(kind, Some(ParseErrorKind::TooComplex | ParseErrorKind::Syntax)),
            "{head}: {kind:?}"
        );
    }
}

/// What machines generate is wide or long, not deep, and must pass.
#[test]
fn long_statements_pass() {
    let rows: Vec<String> = (0..5_000).map(|n| format!("({n}, -{n}, 'v{n}')")).collect();
    let insert = format!("INSERT INTO t VALUES {}", rows.join(", "));
    assert_eq!(error_kind(&insert), None);
    let terms: Vec<String> = (0..2_000).map(|n| format!("(a = {n} AND b = {n})")).collect();
    let select = format!("SELECT * FROM t WHERE {}", terms.join(" OR "));
    assert_eq!(error_kind(&select), None);
    let items: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    assert_eq!(error_kind(&format!("SELECT * FROM t WHERE a IN ({})", items.join(","))), None);
    let sum = vec!["a"; 150].join(" + ");
    assert_eq!(error_kind(&format!("SELECT {sum} FROM t")), None);
}

#[test]
fn statements_keep_their_text_and_count_parameters() {
    let statements = parse(" SELECT $2, 'é;' -- c\n ;;\nUPDATE t SET a = $1; ").expect("parses");
    let seen: Vec<_> = statements.iter().map(|one| (one.text.as_str(), one.placeholders)).collect();
    assert_eq!(seen, [("SELECT $2, 'é;'", 2), ("UPDATE t SET a = $1", 1)]);
}

#[test]
fn stored_expressions_parse_alone() {
    let expr = parse_expression("unique_rowid() + 1").expect("parses");
    assert_eq!(expr.to_string(), "unique_rowid() + 1");
    assert!(parse_expression("1; 2").is_err());
    assert!(parse_expression("").is_err());
    assert!(parse_expression("1 2").is_err());
}

proptest::proptest! {
    /// Any mixture of SQL-like pieces is parsed or refused, never a panic.
    #[test]
    fn soup_never_panics(pieces in proptest::collection::vec(0..PIECES.len(), 0..40)) {
        let sql: Vec<&str> = pieces.into_iter().map(|at| PIECES[at]).collect();
        drop(parse(&sql.join(" ")));
        drop(parse(&sql.concat()));
        drop(parse_expression(&sql.join(" ")));
    }

    /// Any text at all is parsed or refused, never a panic.
    #[test]
    fn text_never_panics(text in ".{0,80}") {
        drop(parse(&text));
        drop(parse(&format!("SELECT {text}")));
        drop(parse(&format!("CREATE TABLE t ({text}")));
        drop(parse(&format!("SHOW {text}")));
        drop(parse(&format!("SET {text}")));
    }
}

const PIECES: [&str; 84] = [
    "SELECT",
    "FROM",
    "WHERE",
    "(",
    ")",
    ",",
    ";",
    "*",
    "t",
    "a",
    "1",
    "'x'",
    "\"q\"",
    "$1",
    "=",
    "<",
    "::",
    ":::",
    "int",
    "[",
    "]",
    "AS",
    "OF",
    "SYSTEM",
    "TIME",
    "@",
    "{",
    "}",
    "FORCE_INDEX",
    "INSERT",
    "INTO",
    "VALUES",
    "UPSERT",
    "DEFAULT",
    "RETURNING",
    "ON",
    "CONFLICT",
    "DO",
    "NOTHING",
    "UPDATE",
    "SET",
    "DELETE",
    "JOIN",
    "LEFT",
    "USING",
    "NATURAL",
    "CROSS",
    "LATERAL",
    "UNION",
    "ALL",
    "ORDER",
    "BY",
    "LIMIT",
    "OFFSET",
    "GROUP",
    "HAVING",
    "CASE",
    "WHEN",
    "THEN",
    "END",
    "CREATE",
    "TABLE",
    "PRIMARY",
    "KEY",
    "NOT",
    "NULL",
    "INDEX",
    "FAMILY",
    "SHOW",
    "CLUSTER",
    "SETTING",
    "EXPLAIN",
    "INTERVAL",
    "DATE",
    "EXTRACT",
    "ARRAY",
    "ROW",
    "-",
    "//",
    "é",
    "BETWEEN",
    "SYMMETRIC",
    "E'\\",
    "/*",
];

#[test]
fn a_text_of_too_many_tokens_is_refused_and_a_long_literal_is_not() {
    let rows = vec!["(1)"; crdb_sqlfront::MAX_TOKENS / 4 + 1].join(",");
    let error = crdb_sqlfront::parse(&format!("INSERT INTO t VALUES {rows}")).unwrap_err();
    assert_eq!(error.kind.sqlstate(), "54000", "{error:?}");
    let literal = "(,)".repeat(crdb_sqlfront::MAX_TOKENS);
    assert!(crdb_sqlfront::parse(&format!("INSERT INTO t VALUES ('{literal}')")).is_ok());
}
