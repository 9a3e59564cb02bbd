//! Statements about the session and its transaction: SET, RESET, USE, BEGIN and their kin.

use sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use crate::ast::{
    BeginMode, DiscardTarget, Expr, IsolationLevel, Literal, Pos, SetScope, SetValue, Statement,
    TransactionModes,
};
use crate::convert::Result;
use crate::error::ParseError;

/// Parses one of these statements.
pub(super) fn session(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let head = cursor.peek_word().unwrap_or_default();
    cursor.next();
    match head.as_str() {
        "SET" => set(cursor),
        "RESET" => reset(cursor),
        "USE" => {
            let pos = cursor.pos();
            let value = set_value(cursor)?;
            let (scope, name) = (SetScope::Session, "database".to_owned());
            Ok(Statement::SetVariable { scope, name, value, pos })
        }
        "BEGIN" => {
            transaction_word(cursor);
            Ok(Statement::Begin(modes(cursor)?))
        }
        "START" => {
            cursor.expect_word("TRANSACTION")?;
            Ok(Statement::Begin(modes(cursor)?))
        }
        "COMMIT" | "END" => {
            if head == "COMMIT" && cursor.peek_word().as_deref() == Some("PREPARED") {
                return Err(ParseError::unsupported("two-phase commit", cursor.pos()));
            }
            transaction_word(cursor);
            Ok(Statement::Commit { chain: chain(cursor)? })
        }
        "ABORT" => {
            transaction_word(cursor);
            Ok(Statement::Rollback { chain: chain(cursor)? })
        }
        "ROLLBACK" => {
            if cursor.peek_word().as_deref() == Some("PREPARED") {
                return Err(ParseError::unsupported("two-phase commit", cursor.pos()));
            }
            transaction_word(cursor);
            if cursor.eat_word("TO") {
                cursor.eat_word("SAVEPOINT");
                return Ok(Statement::RollbackToSavepoint(cursor.any_ident()?));
            }
            Ok(Statement::Rollback { chain: chain(cursor)? })
        }
        "SAVEPOINT" => Ok(Statement::Savepoint(cursor.any_ident()?)),
        "RELEASE" => {
            cursor.eat_word("SAVEPOINT");
            Ok(Statement::ReleaseSavepoint(cursor.any_ident()?))
        }
        "DISCARD" => discard(cursor),
        _ => {
            cursor.eat_word("PREPARE");
            if cursor.eat_word("ALL") {
                return Ok(Statement::Deallocate(None));
            }
            Ok(Statement::Deallocate(Some(cursor.any_ident()?)))
        }
    }
}

fn discard(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let target = match cursor.peek_word().as_deref() {
        Some("ALL") => DiscardTarget::All,
        Some("PLANS") => DiscardTarget::Plans,
        Some("SEQUENCES") => DiscardTarget::Sequences,
        Some("TEMP" | "TEMPORARY") => DiscardTarget::Temp,
        _ => return cursor.syntax_here(),
    };
    cursor.next();
    Ok(Statement::Discard(target))
}

fn transaction_word(cursor: &mut Cursor<'_>) {
    if !cursor.eat_word("TRANSACTION") {
        cursor.eat_word("WORK");
    }
}

fn chain(cursor: &mut Cursor<'_>) -> Result<bool> {
    if !cursor.eat_word("AND") {
        return Ok(false);
    }
    let negated = cursor.eat_word("NO");
    cursor.expect_word("CHAIN")?;
    Ok(!negated)
}

fn modes(cursor: &mut Cursor<'_>) -> Result<TransactionModes> {
    let mut modes = Vec::new();
    while !cursor.at_end() {
        if !modes.is_empty() {
            cursor.eat_comma();
        }
        modes.push(mode(cursor)?);
    }
    Ok(TransactionModes { modes })
}

fn mode(cursor: &mut Cursor<'_>) -> Result<BeginMode> {
    if cursor.eat_words(&["ISOLATION", "LEVEL"]) {
        let level = if cursor.eat_words(&["READ", "UNCOMMITTED"]) {
            IsolationLevel::ReadUncommitted
        } else if cursor.eat_words(&["READ", "COMMITTED"]) {
            IsolationLevel::ReadCommitted
        } else if cursor.eat_words(&["REPEATABLE", "READ"]) {
            IsolationLevel::RepeatableRead
        } else if cursor.eat_word("SNAPSHOT") {
            IsolationLevel::Snapshot
        } else if cursor.eat_word("SERIALIZABLE") {
            IsolationLevel::Serializable
        } else {
            return cursor.syntax_here();
        };
        return Ok(BeginMode::Isolation(level));
    }
    if cursor.eat_words(&["READ", "ONLY"]) {
        return Ok(BeginMode::ReadOnly(true));
    }
    if cursor.eat_words(&["READ", "WRITE"]) {
        return Ok(BeginMode::ReadOnly(false));
    }
    if cursor.eat_word("DEFERRABLE") {
        return Ok(BeginMode::Deferrable(true));
    }
    if cursor.eat_words(&["NOT", "DEFERRABLE"]) {
        return Ok(BeginMode::Deferrable(false));
    }
    if cursor.eat_word("PRIORITY") {
        return match cursor.peek_word().as_deref() {
            Some(level @ ("LOW" | "NORMAL" | "HIGH")) => {
                cursor.next();
                Ok(BeginMode::Priority(level.to_ascii_lowercase()))
            }
            _ => cursor.syntax_here(),
        };
    }
    if cursor.eat_words(&["AS", "OF", "SYSTEM", "TIME"]) {
        return Ok(BeginMode::AsOf(cursor.expr()?));
    }
    cursor.syntax_here()
}

fn set(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if cursor.eat_words(&["CLUSTER", "SETTING"]) {
        let pos = cursor.pos();
        let name = cursor.dotted_name()?;
        if !cursor.eat_equals() {
            cursor.expect_word("TO")?;
        }
        let value = if cursor.eat_word("DEFAULT") { None } else { Some(set_member(cursor)?) };
        return Ok(Statement::SetClusterSetting { name, value, pos });
    }
    if cursor.eat_words(&["SESSION", "CHARACTERISTICS", "AS", "TRANSACTION"]) {
        return Ok(Statement::SetSessionCharacteristics(modes(cursor)?));
    }
    let mut scope = SetScope::Session;
    let after_scope = cursor.ahead(1);
    if !matches!(after_scope, Token::Eq) && cursor.peek_nth_word(1).as_deref() != Some("TO") {
        if cursor.eat_word("LOCAL") {
            scope = SetScope::Local;
        } else {
            cursor.eat_word("SESSION");
        }
    }
    if cursor.eat_word("TRANSACTION") {
        if cursor.eat_word("SNAPSHOT") {
            return Err(ParseError::unsupported("SET TRANSACTION SNAPSHOT", cursor.pos()));
        }
        if cursor.at_end() {
            return cursor.syntax_here();
        }
        return Ok(Statement::SetTransaction(modes(cursor)?));
    }
    if cursor.eat_words(&["CONSTRAINTS"]) {
        return Err(ParseError::unsupported("SET CONSTRAINTS", cursor.pos()));
    }
    let pos = cursor.pos();
    let (name, value) = if cursor.eat_words(&["TIME", "ZONE"]) {
        let value = if cursor.eat_word("LOCAL") { SetValue::Default } else { set_value(cursor)? };
        ("timezone".to_owned(), value)
    } else if cursor.peek_word().as_deref() == Some("NAMES") && !assignment_at(cursor, 1) {
        cursor.next();
        let value = if cursor.at_end() { SetValue::Default } else { set_value(cursor)? };
        ("client_encoding".to_owned(), value)
    } else if cursor.peek_word().as_deref() == Some("ROLE") && !assignment_at(cursor, 1) {
        cursor.next();
        ("role".to_owned(), set_value(cursor)?)
    } else if cursor.eat_words(&["SESSION", "AUTHORIZATION"]) {
        ("session_authorization".to_owned(), set_value(cursor)?)
    } else if cursor.peek_word().as_deref() == Some("SCHEMA") && !assignment_at(cursor, 1) {
        cursor.next();
        ("search_path".to_owned(), set_value(cursor)?)
    } else {
        let name = cursor.dotted_name()?;
        if !cursor.eat_equals() {
            cursor.expect_word("TO")?;
        }
        (name, set_value(cursor)?)
    };
    Ok(Statement::SetVariable { scope, name, value, pos })
}

fn assignment_at(cursor: &Cursor<'_>, offset: usize) -> bool {
    matches!(cursor.ahead(offset), Token::Eq)
        || cursor.peek_nth_word(offset).as_deref() == Some("TO")
}

fn set_value(cursor: &mut Cursor<'_>) -> Result<SetValue> {
    if cursor.eat_word("DEFAULT") {
        return Ok(SetValue::Default);
    }
    let mut values = vec![set_member(cursor)?];
    while cursor.eat_comma() {
        values.push(set_member(cursor)?);
    }
    Ok(SetValue::Values(values))
}

/// One value: a bare word stands for a string; anything else is an expression.
fn set_member(cursor: &mut Cursor<'_>) -> Result<Expr> {
    let pos = cursor.pos();
    let word_alone = match cursor.ahead(0) {
        Token::Word(_) => matches!(cursor.ahead(1), Token::Comma | Token::EOF),
        _ => false,
    };
    if word_alone {
        let upper = cursor.peek_word();
        if matches!(upper.as_deref(), Some("TRUE" | "FALSE" | "NULL")) {
            return cursor.expr();
        }
        let ident = cursor.any_ident()?;
        return Ok(Expr::Literal(Literal::String(ident.value), pos));
    }
    cursor.expr()
}

fn reset(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if cursor.eat_word("ALL") {
        return Ok(Statement::ResetAll);
    }
    if cursor.eat_words(&["CLUSTER", "SETTING"]) {
        let pos = cursor.pos();
        let name = cursor.dotted_name()?;
        return Ok(Statement::SetClusterSetting { name, value: None, pos });
    }
    cursor.eat_word("SESSION");
    let pos: Pos = cursor.pos();
    let name = if cursor.eat_words(&["TIME", "ZONE"]) {
        "timezone".to_owned()
    } else if cursor.eat_words(&["TRANSACTION", "ISOLATION", "LEVEL"]) {
        "transaction_isolation".to_owned()
    } else if cursor.eat_words(&["AUTHORIZATION"]) {
        "session_authorization".to_owned()
    } else {
        cursor.dotted_name()?
    };
    Ok(Statement::ResetVariable { name, pos })
}
