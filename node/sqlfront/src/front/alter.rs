//! ALTER TABLE, ALTER INDEX and ALTER RANGE as far as they are available, and CANCEL.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::cursor::Cursor;
use super::{create, prepass, unavailable};
use crate::ast::{
    AddPrimaryKey, Cancel, CancelIds, CancelWhat, Expr, Pos, Query, RangeNumbers, RelocateLease,
    SplitAt, Statement, TableConstraint, TableOrIndex, UnsplitAt,
};
use crate::convert::Result;
use crate::error::ParseError;
use crate::source::is_word;

/// Parses an ALTER statement.
pub(super) fn alter(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let start = cursor.pos();
    match cursor.peek_nth_word(1).as_deref() {
        Some("TABLE" | "INDEX") => {
            cursor.next();
            table_or_index(cursor, start)
        }
        Some("RANGE") => {
            cursor.next();
            range(cursor, start)
        }
        _ => unavailable::unavailable(cursor),
    }
}

/// `TABLE t` or `INDEX t@i`, also `TABLE t@i`.
pub(super) fn named(cursor: &mut Cursor<'_>) -> Result<TableOrIndex> {
    let table = cursor.object_name()?;
    let index = if cursor.eat(&Token::AtSign) { Some(cursor.ident()?) } else { None };
    Ok(TableOrIndex { table, index })
}

fn table_or_index(cursor: &mut Cursor<'_>, start: Pos) -> Result<Statement> {
    let is_table = cursor.eat_word("TABLE");
    if !is_table {
        cursor.expect_word("INDEX")?;
    }
    let if_exists = cursor.eat_words(&["IF", "EXISTS"]);
    if is_table {
        cursor.eat_word("ONLY");
    }
    let of = named(cursor)?;
    if cursor.eat_words(&["SPLIT", "AT"]) {
        let (rows, expiration) = rows_with_expiration(cursor)?;
        return Ok(Statement::SplitAt(SplitAt { of, rows, expiration, pos: start }));
    }
    if cursor.eat_words(&["UNSPLIT", "ALL"]) {
        return Ok(Statement::UnsplitAt(UnsplitAt { of, rows: None, pos: start }));
    }
    if cursor.eat_words(&["UNSPLIT", "AT"]) {
        let rows = Some(rows(cursor)?);
        return Ok(Statement::UnsplitAt(UnsplitAt { of, rows, pos: start }));
    }
    if is_table && of.index.is_none() && adds_primary_key(cursor) {
        return add_primary_key(cursor, of, if_exists);
    }
    cursor.skip_rest();
    Ok(unavailable::altered(if is_table { "TABLE" } else { "INDEX" }, start))
}

/// Whether `ADD [CONSTRAINT name] PRIMARY KEY` follows.
fn adds_primary_key(cursor: &Cursor<'_>) -> bool {
    let key_at = |at: usize| {
        cursor.peek_nth_word(at).as_deref() == Some("PRIMARY")
            && cursor.peek_nth_word(at + 1).as_deref() == Some("KEY")
    };
    let constraint = cursor.peek_nth_word(1).as_deref() == Some("CONSTRAINT");
    cursor.peek_word().as_deref() == Some("ADD") && key_at(if constraint { 3 } else { 1 })
}

fn add_primary_key(
    cursor: &mut Cursor<'_>,
    of: TableOrIndex,
    if_exists: bool,
) -> Result<Statement> {
    cursor.expect_word("ADD")?;
    let name = if cursor.eat_word("CONSTRAINT") { Some(cursor.ident()?) } else { None };
    let TableConstraint::PrimaryKey { name, columns, pos } = create::constraint(cursor, name)?
    else {
        return cursor.syntax_here();
    };
    if cursor.peek_word().is_some() || cursor.eat_comma() {
        return Err(ParseError::unsupported("ALTER TABLE with several changes", cursor.pos()));
    }
    let add = AddPrimaryKey { table: of.table, if_exists, name, columns, pos };
    Ok(Statement::AddPrimaryKey(add))
}

fn range(cursor: &mut Cursor<'_>, start: Pos) -> Result<Statement> {
    cursor.expect_word("RANGE")?;
    let one = match cursor.peek_word().as_deref() {
        Some("RELOCATE") => None,
        // A named range, as zone configurations have them.
        Some(_) => {
            cursor.skip_rest();
            return Ok(unavailable::altered("RANGE", start));
        }
        None => Some(cursor.expr()?),
    };
    if !cursor.eat_words(&["RELOCATE", "LEASE"]) {
        cursor.skip_rest();
        return Ok(unavailable::altered("RANGE", start));
    }
    cursor.expect_word("TO")?;
    let to = cursor.expr()?;
    let ranges = match one {
        Some(one) => RangeNumbers::One(one),
        None => {
            cursor.expect_word("FOR")?;
            RangeNumbers::Query(rows(cursor)?)
        }
    };
    Ok(Statement::RelocateLease(RelocateLease { to, ranges, pos: start }))
}

/// CANCEL of queries and sessions.
pub(super) fn cancel(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let start = cursor.pos();
    let (what, many) = match cursor.peek_nth_word(1).as_deref() {
        Some("QUERY") => (CancelWhat::Query, false),
        Some("QUERIES") => (CancelWhat::Query, true),
        Some("SESSION") => (CancelWhat::Session, false),
        Some("SESSIONS") => (CancelWhat::Session, true),
        _ => {
            cursor.skip_rest();
            return Err(ParseError::unsupported("CANCEL", start));
        }
    };
    cursor.next();
    cursor.next();
    let if_exists = cursor.eat_words(&["IF", "EXISTS"]);
    let pos = cursor.pos();
    let ids = if many { CancelIds::Query(rows(cursor)?) } else { CancelIds::One(cursor.expr()?) };
    Ok(Statement::Cancel(Cancel { what, if_exists, ids, pos }))
}

/// A query that is all that is left.
pub(super) fn rows(cursor: &mut Cursor<'_>) -> Result<Box<Query>> {
    let starts =
        matches!(cursor.peek_word().as_deref(), Some("SELECT" | "VALUES" | "WITH" | "TABLE"));
    if !starts && !cursor.at_open_paren() {
        return cursor.syntax_here();
    }
    match prepass::delegate(cursor)? {
        Statement::Query(query) => Ok(query),
        _ => cursor.syntax_here(),
    }
}

fn rows_with_expiration(cursor: &mut Cursor<'_>) -> Result<(Box<Query>, Option<Expr>)> {
    let tokens = cursor.take_rest();
    let Some(at) = expiration(&tokens) else {
        cursor.replace(tokens);
        return Ok((rows(cursor)?, None));
    };
    let (query, expiration) = tokens.split_at(at);
    cursor.replace(query.to_vec());
    let query = rows(cursor)?;
    cursor.replace(expiration.get(2..).unwrap_or_default().to_vec());
    Ok((query, Some(cursor.expr()?)))
}

/// Where `WITH EXPIRATION` stands.
fn expiration(tokens: &[TokenWithSpan]) -> Option<usize> {
    tokens.windows(2).rposition(|pair| match pair {
        [with, word] => is_word(&with.token, "WITH") && is_word(&word.token, "EXPIRATION"),
        _ => false,
    })
}
