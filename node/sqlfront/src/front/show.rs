//! SHOW.

use super::cursor::Cursor;
use crate::ast::{Activity, Pos, RangesOf, Show, Statement, TableOrIndex};
use crate::convert::Result;
use crate::error::ParseError;

/// Parses a SHOW statement.
pub(super) fn show(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect_word("SHOW")?;
    Ok(Statement::Show(shown(cursor)?))
}

fn shown(cursor: &mut Cursor<'_>) -> Result<Show> {
    let pos = cursor.pos();
    let Some(head) = cursor.peek_word() else { return cursor.syntax_here() };
    match head.as_str() {
        "DATABASES" => {
            cursor.next();
            with_comment(cursor)?;
            Ok(Show::Databases)
        }
        "SCHEMAS" => {
            cursor.next();
            let database = if from(cursor) { Some(cursor.ident()?) } else { None };
            Ok(Show::Schemas { database })
        }
        "TABLES" => {
            cursor.next();
            let from = if from(cursor) { Some(cursor.object_name()?) } else { None };
            with_comment(cursor)?;
            Ok(Show::Tables { from })
        }
        "COLUMNS" => {
            cursor.next();
            let table = from_table(cursor)?;
            with_comment(cursor)?;
            Ok(Show::Columns { table })
        }
        "INDEX" | "INDEXES" | "KEYS" => {
            cursor.next();
            let table = from_table(cursor)?;
            with_comment(cursor)?;
            Ok(Show::Indexes { table })
        }
        "CONSTRAINT" | "CONSTRAINTS" => {
            cursor.next();
            Ok(Show::Constraints { table: from_table(cursor)? })
        }
        "CREATE" => create(cursor, pos),
        "ALL" => {
            cursor.next();
            if cursor.eat_words(&["CLUSTER", "SETTINGS"]) {
                return Ok(Show::ClusterSettings { all: true });
            }
            if cursor.at_end() {
                return Ok(Show::All);
            }
            activity(cursor, true)
        }
        "PUBLIC" => {
            cursor.next();
            cursor.expect_word("CLUSTER")?;
            cursor.expect_word("SETTINGS")?;
            Ok(Show::ClusterSettings { all: false })
        }
        "CLUSTER" => cluster(cursor, pos),
        "RANGES" => ranges(cursor, pos),
        "RANGE" => range_for_row(cursor),
        "LOCALITY" => {
            cursor.next();
            Ok(Show::Locality)
        }
        "USERS" | "ROLES" => {
            cursor.next();
            Ok(Show::Users)
        }
        "SESSIONS" | "QUERIES" | "STATEMENTS" | "TRANSACTIONS" | "LOCAL" => activity(cursor, false),
        "TYPES" => {
            cursor.next();
            Ok(Show::Types)
        }
        _ => variable(cursor, &head, pos),
    }
}

fn from(cursor: &mut Cursor<'_>) -> bool {
    cursor.eat_word("FROM") || cursor.eat_word("IN")
}

fn from_table(cursor: &mut Cursor<'_>) -> Result<crate::ast::ObjectName> {
    if !from(cursor) {
        return cursor.syntax_here();
    }
    cursor.object_name()
}

/// `WITH COMMENT` asks for one more column, which is not there.
fn with_comment(cursor: &mut Cursor<'_>) -> Result<()> {
    let pos = cursor.pos();
    if cursor.eat_words(&["WITH", "COMMENT"]) {
        return Err(ParseError::unsupported("SHOW ... WITH COMMENT", pos));
    }
    Ok(())
}

fn create(cursor: &mut Cursor<'_>, pos: Pos) -> Result<Show> {
    cursor.expect_word("CREATE")?;
    if cursor.eat_word("DATABASE") {
        return Ok(Show::CreateDatabase { database: cursor.ident()? });
    }
    // `SHOW CREATE ALL TABLES` and the other kinds of object.
    let kind = cursor.peek_word().unwrap_or_default();
    let named = cursor.ahead(1) != &sqlparser::tokenizer::Token::EOF;
    if named
        && matches!(
            kind.as_str(),
            "VIEW"
                | "SEQUENCE"
                | "FUNCTION"
                | "PROCEDURE"
                | "TRIGGER"
                | "TYPE"
                | "ALL"
                | "INDEXES"
                | "SECONDARY"
                | "SCHEDULE"
                | "EXTERNAL"
        )
    {
        return Err(ParseError::unsupported(format!("SHOW CREATE {kind}"), pos));
    }
    if kind == "TABLE" {
        cursor.next();
    }
    Ok(Show::CreateTable { table: cursor.object_name()? })
}

fn cluster(cursor: &mut Cursor<'_>, pos: Pos) -> Result<Show> {
    cursor.expect_word("CLUSTER")?;
    if cursor.eat_word("SETTINGS") {
        return Ok(Show::ClusterSettings { all: false });
    }
    if cursor.eat_word("SETTING") {
        let pos = cursor.pos();
        return Ok(Show::ClusterSetting { name: cursor.dotted_name()?, pos });
    }
    if cursor.eat_word("RANGES") {
        let options = range_options(cursor)?;
        return Ok(Show::Ranges { of: RangesOf::Cluster, options, pos });
    }
    listed(cursor, false, false)
}

/// `[CLUSTER | LOCAL] SESSIONS | QUERIES | TRANSACTIONS`.
fn activity(cursor: &mut Cursor<'_>, all: bool) -> Result<Show> {
    let local = cursor.eat_word("LOCAL");
    if !local {
        cursor.eat_word("CLUSTER");
    }
    listed(cursor, local, all)
}

fn listed(cursor: &mut Cursor<'_>, local: bool, all: bool) -> Result<Show> {
    let what = match cursor.peek_word().as_deref() {
        Some("SESSIONS") => Activity::Sessions,
        Some("QUERIES" | "STATEMENTS") => Activity::Queries,
        Some("TRANSACTIONS") => Activity::Transactions,
        _ => return cursor.syntax_here(),
    };
    cursor.next();
    Ok(Show::Activity { what, local, all })
}

/// `TABLE t`, `INDEX t@i` or `t`.
fn table_or_index(cursor: &mut Cursor<'_>) -> Result<TableOrIndex> {
    if !cursor.eat_word("TABLE") {
        cursor.eat_word("INDEX");
    }
    super::alter::named(cursor)
}

fn ranges(cursor: &mut Cursor<'_>, pos: Pos) -> Result<Show> {
    cursor.expect_word("RANGES")?;
    let of = if !from(cursor) || cursor.eat_word("CURRENT_CATALOG") {
        RangesOf::CurrentCatalog
    } else if cursor.eat_word("DATABASE") {
        RangesOf::Database(cursor.ident()?)
    } else {
        RangesOf::Table(table_or_index(cursor)?)
    };
    let options = range_options(cursor)?;
    Ok(Show::Ranges { of, options, pos })
}

fn range_options(cursor: &mut Cursor<'_>) -> Result<Vec<String>> {
    const OPTIONS: [&str; 6] = ["DETAILS", "TABLES", "INDEXES", "KEYS", "EXPLAIN", "ZONE"];
    let mut options = Vec::new();
    if cursor.eat_word("WITH") {
        loop {
            let Some(option) = cursor.peek_word().filter(|word| OPTIONS.contains(&word.as_str()))
            else {
                return cursor.syntax_here();
            };
            cursor.next();
            if !options.contains(&option) {
                options.push(option);
            }
            if !cursor.eat_comma() {
                break;
            }
        }
    }
    Ok(options)
}

/// `RANGE FROM TABLE t FOR ROW (...)`.
fn range_for_row(cursor: &mut Cursor<'_>) -> Result<Show> {
    cursor.expect_word("RANGE")?;
    if !from(cursor) {
        return cursor.syntax_here();
    }
    let of = table_or_index(cursor)?;
    cursor.expect_word("FOR")?;
    cursor.expect_word("ROW")?;
    let pos = cursor.pos();
    cursor.expect_open_paren()?;
    let mut values = vec![cursor.expr()?];
    while cursor.eat_comma() {
        values.push(cursor.expr()?);
    }
    cursor.expect_close_paren()?;
    Ok(Show::RangeForRow { of, values, pos })
}

/// The forms that CockroachDB has and that are not here yet, and otherwise a session variable.
fn variable(cursor: &mut Cursor<'_>, head: &str, pos: Pos) -> Result<Show> {
    const NOT_YET: [&str; 20] = [
        "ZONE",
        "REGIONS",
        "SURVIVAL",
        "JOB",
        "JOBS",
        "CHANGEFEED",
        "BACKUP",
        "BACKUPS",
        "SCHEDULE",
        "SCHEDULES",
        "STATISTICS",
        "HISTOGRAM",
        "GRANTS",
        "SEQUENCES",
        "ENUMS",
        "FUNCTIONS",
        "PARTITIONS",
        "TRACE",
        "SAVEPOINT",
        "FINGERPRINTS",
    ];
    if NOT_YET.contains(&head) {
        return Err(ParseError::unsupported(format!("SHOW {head}"), pos));
    }
    if matches!(head, "DEFAULT") && cursor.peek_nth_word(1).as_deref() == Some("PRIVILEGES") {
        return Err(ParseError::unsupported("SHOW DEFAULT PRIVILEGES", pos));
    }
    if matches!(head, "SUPER" | "VIRTUAL" | "SYSTEM" | "EXTERNAL")
        && cursor.peek_nth_word(1).is_some()
    {
        return Err(ParseError::unsupported(format!("SHOW {head}"), pos));
    }
    if head == "SESSION" {
        cursor.next();
        let pos = cursor.pos();
        return Ok(Show::Variable { name: cursor.dotted_name()?, pos });
    }
    if cursor.eat_words(&["TIME", "ZONE"]) {
        return Ok(Show::Variable { name: "timezone".to_owned(), pos });
    }
    if cursor.eat_words(&["TRANSACTION", "ISOLATION", "LEVEL"]) {
        return Ok(Show::Variable { name: "transaction_isolation".to_owned(), pos });
    }
    if cursor.eat_words(&["TRANSACTION", "STATUS"]) {
        return Ok(Show::Variable { name: "transaction_status".to_owned(), pos });
    }
    if cursor.eat_words(&["TRANSACTION", "PRIORITY"]) {
        return Ok(Show::Variable { name: "transaction_priority".to_owned(), pos });
    }
    if cursor.eat_words(&["SESSION", "AUTHORIZATION"]) {
        return Ok(Show::Variable { name: "session_authorization".to_owned(), pos });
    }
    Ok(Show::Variable { name: cursor.dotted_name()?, pos })
}
