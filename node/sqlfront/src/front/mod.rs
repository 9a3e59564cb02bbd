//! Reads the head words of each statement and chooses who parses it.

mod alter;
mod copy;
mod count;
mod create;
mod cursor;
mod library_error;
mod prepass;
mod session;
mod show;
mod unavailable;

use crate::Parsed;
use crate::ast::{
    CreateDatabase, DropBehavior, DropDatabase, DropTable, Explain, Expr, Maintenance, Statement,
    Truncate, Unsupported,
};
use crate::convert::Result;
use crate::error::{ParseError, ParseErrorKind};
use crate::source::{Source, StatementTokens};
use cursor::Cursor;

/// A stack segment for statements whose tree could be deep before its depth is known.
const DEEP_STACK_BYTES: usize = 64 << 20;

/// Parses a whole submitted string.
pub(crate) fn parse(sql: &str) -> Result<Vec<Parsed>> {
    if let Some(at) = sql.find('\0') {
        let pos = crate::ast::Pos(u32::try_from(at).unwrap_or(0) + 1);
        return Err(ParseError::new(
            ParseErrorKind::InvalidText,
            "invalid byte sequence for encoding \"UTF8\": 0x00",
            pos,
        ));
    }
    if count::tokens(sql, crate::MAX_TOKENS + 1) > crate::MAX_TOKENS {
        let message =
            format!("the text has more than {} words, numbers and signs", crate::MAX_TOKENS);
        let mut error =
            ParseError::new(ParseErrorKind::TooLarge, message, crate::ast::Pos::UNKNOWN);
        error.hint = Some("Send rows in several statements, or by COPY.".to_owned());
        return Err(error);
    }
    let source = Source::new(sql);
    source.statements()?.into_iter().map(|statement| parse_one(&source, statement)).collect()
}

/// Parses one scalar expression.
pub(crate) fn parse_expression(sql: &str) -> Result<Expr> {
    let source = Source::new(sql);
    let mut statements = source.statements()?;
    match (statements.pop(), statements.is_empty()) {
        (Some(statement), true) => {
            let depth = prepass::check_depth(&source, &statement.tokens)?;
            on_stack(depth, || {
                let mut cursor = Cursor::new(&source, statement.tokens);
                let expr = cursor.expr()?;
                cursor.expect_end()?;
                Ok(expr)
            })
        }
        (None, _) => Err(ParseError::new(
            ParseErrorKind::Syntax,
            "syntax error at end of input",
            source.end_pos(),
        )),
        (Some(_), false) => Err(ParseError::new(
            ParseErrorKind::Syntax,
            "syntax error at or near \";\"",
            source.end_pos(),
        )),
    }
}

fn parse_one(source: &Source<'_>, statement: StatementTokens) -> Result<Parsed> {
    let text = source.statement_text(&statement).to_owned();
    let depth = prepass::check_depth(source, &statement.tokens)?;
    on_stack(depth, || {
        let mut cursor = Cursor::new(source, statement.tokens);
        let statement = match head(&mut cursor) {
            Err(error) if error.kind == ParseErrorKind::FeatureNotSupported => {
                Statement::Unsupported(Unsupported {
                    feature: error.message,
                    hint: error.hint,
                    pos: error.pos,
                })
            }
            result => result?,
        };
        Ok(Parsed { statement, text, placeholders: cursor.placeholders() })
    })
}

/// Runs the parse on a stack that is large enough for the depth that the tokens allow.
fn on_stack<T>(depth: usize, body: impl FnOnce() -> T) -> T {
    const SHALLOW: usize = 100;
    if depth <= SHALLOW { body() } else { stacker::grow(DEEP_STACK_BYTES, body) }
}

/// Parses the statement at the cursor, which must be all that is left.
fn head(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let statement = match cursor.peek_word().as_deref() {
        Some(
            "SELECT" | "VALUES" | "WITH" | "TABLE" | "INSERT" | "UPSERT" | "UPDATE" | "DELETE",
        ) => {
            return prepass::delegate(cursor);
        }
        None if cursor.at_open_paren() => return prepass::delegate(cursor),
        Some("ALTER") => alter::alter(cursor)?,
        Some("CANCEL") => alter::cancel(cursor)?,
        Some("COPY") => copy::copy(cursor)?,
        Some("CREATE") => create::create(cursor)?,
        Some("DROP") => drop_object(cursor)?,
        Some("TRUNCATE") => truncate(cursor)?,
        Some("EXPLAIN") => return explain(cursor),
        Some("SHOW") => show::show(cursor)?,
        Some(
            "SET" | "RESET" | "USE" | "BEGIN" | "START" | "COMMIT" | "END" | "ROLLBACK" | "ABORT"
            | "SAVEPOINT" | "RELEASE" | "DISCARD" | "DEALLOCATE",
        ) => session::session(cursor)?,
        Some("VACUUM" | "ANALYZE" | "ANALYSE" | "REINDEX" | "CLUSTER" | "CHECKPOINT") => {
            return Ok(maintenance(cursor));
        }
        _ => return unavailable::unavailable(cursor),
    };
    cursor.expect_end()?;
    Ok(statement)
}

/// VACUUM and its kin take many options, none of which means anything here.
fn maintenance(cursor: &mut Cursor<'_>) -> Statement {
    let command = match cursor.peek_word().as_deref() {
        Some("VACUUM") => Maintenance::Vacuum,
        Some("REINDEX") => Maintenance::Reindex,
        Some("CLUSTER") => Maintenance::Cluster,
        Some("CHECKPOINT") => Maintenance::Checkpoint,
        _ => Maintenance::Analyze,
    };
    cursor.skip_rest();
    Statement::Maintenance(command)
}

fn drop_object(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let start = cursor.pos();
    cursor.expect_word("DROP")?;
    if cursor.eat_word("DATABASE") {
        let if_exists = cursor.eat_words(&["IF", "EXISTS"]);
        let name = cursor.ident()?;
        let behavior = drop_behavior(cursor);
        return Ok(Statement::DropDatabase(DropDatabase { name, if_exists, behavior }));
    }
    if cursor.eat_word("TABLE") {
        let if_exists = cursor.eat_words(&["IF", "EXISTS"]);
        let names = cursor.object_names()?;
        let behavior = drop_behavior(cursor);
        return Ok(Statement::DropTable(DropTable { names, if_exists, behavior }));
    }
    unavailable::object_command(cursor, "DROP", start)
}

fn drop_behavior(cursor: &mut Cursor<'_>) -> DropBehavior {
    if cursor.eat_word("CASCADE") {
        DropBehavior::Cascade
    } else if cursor.eat_word("RESTRICT") {
        DropBehavior::Restrict
    } else {
        DropBehavior::Default
    }
}

fn truncate(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect_word("TRUNCATE")?;
    cursor.eat_word("TABLE");
    cursor.eat_word("ONLY");
    let names = cursor.object_names()?;
    let restart_identity = cursor.eat_words(&["RESTART", "IDENTITY"]);
    if !restart_identity {
        cursor.eat_words(&["CONTINUE", "IDENTITY"]);
    }
    let behavior = drop_behavior(cursor);
    Ok(Statement::Truncate(Truncate { names, restart_identity, behavior }))
}

fn explain(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect_word("EXPLAIN")?;
    let mut analyze = cursor.eat_word("ANALYZE") || cursor.eat_word("ANALYSE");
    let mut options = Vec::new();
    if cursor.eat_word("VERBOSE") {
        options.push("VERBOSE".to_owned());
    }
    if cursor.at_open_paren() && !cursor.subquery_follows() {
        cursor.next();
        loop {
            let mut words = Vec::new();
            while let Some(word) = cursor.eat_any_word_or_number() {
                words.push(word);
            }
            match words.split_first() {
                Some((first, rest)) if first == "ANALYZE" || first == "ANALYSE" => {
                    analyze =
                        !matches!(rest.first().map(String::as_str), Some("FALSE" | "OFF" | "0"));
                }
                Some(_) => options.push(words.join(" ")),
                None => return cursor.syntax_here(),
            }
            if !cursor.eat_comma() {
                break;
            }
        }
        cursor.expect_close_paren()?;
    }
    let statement = Box::new(match cursor.peek_word().as_deref() {
        Some("EXPLAIN") | None if !cursor.at_open_paren() => return cursor.syntax_here(),
        _ => head(cursor)?,
    });
    Ok(Statement::Explain(Explain { analyze, options, statement }))
}

/// `CREATE DATABASE`, after its two words.
fn create_database(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = cursor.eat_words(&["IF", "NOT", "EXISTS"]);
    let name = cursor.ident()?;
    let with = cursor.eat_word("WITH");
    let mut options = 0;
    loop {
        let pos = cursor.pos();
        let Some(option) = cursor.peek_word() else { break };
        let multi_region =
            matches!(option.as_str(), "PRIMARY" | "REGIONS" | "SURVIVE" | "PLACEMENT");
        if multi_region || option == "SECONDARY" {
            return Err(ParseError::unsupported("multi-region databases", pos));
        }
        if !matches!(
            option.as_str(),
            "OWNER" | "TEMPLATE" | "ENCODING" | "LC_COLLATE" | "LC_CTYPE" | "CONNECTION" | "LOCALE"
        ) {
            return cursor.syntax_here();
        }
        cursor.next();
        if option == "CONNECTION" {
            cursor.expect_word("LIMIT")?;
        }
        cursor.eat_equals();
        let value = cursor.setting_text()?;
        options += 1;
        let acceptable = match option.as_str() {
            "OWNER" => true,
            "TEMPLATE" => matches!(value.as_str(), "template0" | "template1" | "default"),
            "ENCODING" => matches!(
                value.to_ascii_uppercase().as_str(),
                "UTF8" | "UTF-8" | "UNICODE" | "DEFAULT"
            ),
            "CONNECTION" => matches!(value.as_str(), "-1" | "default"),
            _ => matches!(value.as_str(), "C" | "C.UTF-8" | "POSIX" | "default"),
        };
        if !acceptable {
            let feature = format!("CREATE DATABASE with {option} {value}");
            return Err(ParseError::unsupported(feature, pos));
        }
    }
    if with && options == 0 {
        return cursor.syntax_here();
    }
    Ok(Statement::CreateDatabase(CreateDatabase { name, if_not_exists }))
}
