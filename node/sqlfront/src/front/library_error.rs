//! Words the parsing library's errors as PostgreSQL does.

use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use crate::ast::Pos;
use crate::convert::too_deep;
use crate::error::{ParseError, ParseErrorKind};
use crate::source::Source;

/// The syntax error at a token.
pub(crate) fn syntax_at(source: &Source<'_>, token: &TokenWithSpan) -> ParseError {
    if token.token == Token::EOF || token.span.start.line == 0 {
        return at_end(source);
    }
    let text = source.span_text(token.span);
    let message = format!("syntax error at or near \"{text}\"");
    ParseError::new(ParseErrorKind::Syntax, message, source.span_pos(token.span))
}

fn at_end(source: &Source<'_>) -> ParseError {
    ParseError::new(ParseErrorKind::Syntax, "syntax error at end of input", source.end_pos())
}

/// Turns the library's error into ours. It names the offending token's place in its message; where
/// it does not, the next token is the best guess, and its own words become the detail.
pub(crate) fn reworded(
    source: &Source<'_>,
    error: &ParserError,
    parser: &Parser<'_>,
) -> ParseError {
    let message = match error {
        ParserError::RecursionLimitExceeded => {
            return too_deep(source.span_pos(parser.peek_token_ref().span));
        }
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message,
    };
    if let Some(location) = location(message) {
        for index in 0.. {
            let token = parser.token_at(index);
            if token.token == Token::EOF {
                break;
            }
            if token.span.start == location {
                return syntax_at(source, token);
            }
        }
    }
    if message.contains("found: EOF") {
        return at_end(source);
    }
    let mut error = syntax_at(source, parser.peek_token_ref());
    if error.pos == Pos::UNKNOWN {
        error.pos = source.end_pos();
    }
    error.detail = Some(strip_location(message).to_owned());
    error
}

/// Reads ` at Line: 1, Column: 8` from the end of a message.
fn location(message: &str) -> Option<Location> {
    let (_, place) = message.rsplit_once(" at Line: ")?;
    let (line, column) = place.split_once(", Column: ")?;
    Some(Location { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? })
}

fn strip_location(message: &str) -> &str {
    message.rsplit_once(" at Line: ").map_or(message, |(text, _)| text)
}
