//! COPY.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::alter::rows;
use super::cursor::Cursor;
use crate::ast::{Copy, CopyFormat, CopyOptions, CopyWhat, Statement};
use crate::convert::Result;
use crate::error::ParseError;

/// Parses a COPY statement.
pub(super) fn copy(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let pos = cursor.pos();
    cursor.expect_word("COPY")?;
    let binary = cursor.peek_word().as_deref() == Some("BINARY")
        && !matches!(cursor.peek_nth_word(1).as_deref(), None | Some("FROM" | "TO"))
        && cursor.eat_word("BINARY");
    let what = if cursor.at_open_paren() {
        CopyWhat::Query(query(cursor)?)
    } else {
        let table = cursor.object_name()?;
        let columns = if cursor.at_open_paren() { cursor.paren_idents()? } else { Vec::new() };
        CopyWhat::Table(table, columns)
    };
    let from = cursor.eat_word("FROM");
    if from && matches!(what, CopyWhat::Query(_)) {
        return cursor.syntax_here();
    }
    if !from {
        cursor.expect_word("TO")?;
    }
    let end = if from { "STDIN" } else { "STDOUT" };
    if !cursor.eat_word(end) {
        return match cursor.ahead(0) {
            Token::SingleQuotedString(_) => Err(ParseError::unsupported(
                "COPY from or to files and programs of the server",
                cursor.pos(),
            )),
            _ if cursor.peek_word().as_deref() == Some("PROGRAM") => Err(ParseError::unsupported(
                "COPY from or to files and programs of the server",
                cursor.pos(),
            )),
            _ => cursor.syntax_here(),
        };
    }
    let mut options = CopyOptions::default();
    if binary {
        options.format = CopyFormat::Binary;
    }
    let with = cursor.eat_word("WITH");
    if cursor.at_open_paren() {
        parenthesised(cursor, &mut options)?;
    } else {
        let before = cursor.at_end();
        plain(cursor, &mut options)?;
        if with && before {
            return cursor.syntax_here();
        }
    }
    if cursor.peek_word().as_deref() == Some("WHERE") {
        return Err(ParseError::unsupported("COPY ... WHERE", cursor.pos()));
    }
    Ok(Statement::Copy(Box::new(Copy { what, from, options, pos })))
}

/// The query between the parentheses.
fn query(cursor: &mut Cursor<'_>) -> Result<Box<crate::ast::Query>> {
    let tokens = cursor.take_rest();
    let Some(end) = closing(&tokens) else {
        cursor.replace(tokens);
        cursor.expect_open_paren()?;
        cursor.skip_rest();
        return cursor.syntax_here();
    };
    cursor.replace(tokens.get(1..end).unwrap_or_default().to_vec());
    let query = rows(cursor)?;
    cursor.replace(tokens.get(end + 1..).unwrap_or_default().to_vec());
    Ok(query)
}

/// Where the parenthesis that opens the tokens is closed.
fn closing(tokens: &[TokenWithSpan]) -> Option<usize> {
    let mut open = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.token {
            Token::LParen => open += 1,
            Token::RParen if open == 1 => return Some(at),
            Token::RParen => open = open.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// `(FORMAT csv, HEADER true, ...)`.
fn parenthesised(cursor: &mut Cursor<'_>, options: &mut CopyOptions) -> Result<()> {
    cursor.expect_open_paren()?;
    loop {
        let pos = cursor.pos();
        let Some(name) = cursor.peek_word() else { return cursor.syntax_here() };
        cursor.next();
        match name.as_str() {
            "FORMAT" => {
                let format = cursor.setting_text()?;
                options.format = match format.to_ascii_lowercase().as_str() {
                    "text" => CopyFormat::Text,
                    "csv" => CopyFormat::Csv,
                    "binary" => CopyFormat::Binary,
                    _ => {
                        return Err(ParseError::unsupported(format!("COPY format {format}"), pos));
                    }
                };
            }
            "DELIMITER" => options.delimiter = Some(cursor.setting_text()?),
            "NULL" => options.null = Some(cursor.setting_text()?),
            "QUOTE" => options.quote = Some(cursor.setting_text()?),
            "ESCAPE" => options.escape = Some(cursor.setting_text()?),
            "HEADER" => options.header = switch(cursor)?,
            // Rows are visible to everybody only with their transaction, whatever is asked.
            "FREEZE" => drop(switch(cursor)?),
            "ENCODING" => encoding(cursor)?,
            _ => return Err(ParseError::unsupported(format!("COPY option {name}"), pos)),
        }
        if !cursor.eat_comma() {
            break;
        }
    }
    cursor.expect_close_paren()
}

/// A switch; on when nothing is said.
fn switch(cursor: &mut Cursor<'_>) -> Result<bool> {
    if matches!(cursor.ahead(0), Token::Comma | Token::RParen) {
        return Ok(true);
    }
    let pos = cursor.pos();
    let text = cursor.setting_text()?;
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "1" => Ok(true),
        "false" | "off" | "0" => Ok(false),
        _ => Err(ParseError::unsupported(format!("{text} as a switch of COPY"), pos)),
    }
}

fn encoding(cursor: &mut Cursor<'_>) -> Result<()> {
    let pos = cursor.pos();
    let name = cursor.setting_text()?;
    if matches!(name.to_ascii_uppercase().as_str(), "UTF8" | "UTF-8" | "UNICODE") {
        return Ok(());
    }
    Err(ParseError::unsupported(format!("COPY in encoding {name}"), pos))
}

/// `CSV HEADER DELIMITER AS ';'`, the older spelling.
fn plain(cursor: &mut Cursor<'_>, options: &mut CopyOptions) -> Result<()> {
    loop {
        let pos = cursor.pos();
        let Some(name) = cursor.peek_word() else { return Ok(()) };
        if name == "WHERE" {
            return Ok(());
        }
        cursor.next();
        let mut text = || {
            cursor.eat_word("AS");
            cursor.setting_text()
        };
        match name.as_str() {
            "CSV" => options.format = CopyFormat::Csv,
            "BINARY" => options.format = CopyFormat::Binary,
            "HEADER" => options.header = true,
            "FREEZE" => {}
            "DELIMITER" | "DELIMITERS" => options.delimiter = Some(text()?),
            "NULL" => options.null = Some(text()?),
            "QUOTE" => options.quote = Some(text()?),
            "ESCAPE" => options.escape = Some(text()?),
            "ENCODING" => encoding(cursor)?,
            _ => return Err(ParseError::unsupported(format!("COPY option {name}"), pos)),
        }
    }
}
