//! The submitted text as tokens with positions, split into statements.

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use crate::ast::Pos;
use crate::error::{ParseError, ParseErrorKind};

/// The dialect everything is read in.
pub(crate) static DIALECT: PostgreSqlDialect = PostgreSqlDialect {};

/// The text with what is needed to turn a line and column into a character position.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    text: &'a str,
    /// Per line: the number of characters before it.
    line_starts: Vec<u32>,
    /// Whether every character is one byte.
    ascii: bool,
}

/// The tokens of one statement, without blanks, comments and the semicolon.
#[derive(Debug)]
pub(crate) struct StatementTokens {
    pub(crate) tokens: Vec<TokenWithSpan>,
    /// The character range of the text, both ends exclusive of blanks.
    start: u32,
    end: u32,
}

impl<'a> Source<'a> {
    /// Reads the text's line table.
    pub(crate) fn new(text: &'a str) -> Source<'a> {
        let mut line_starts = vec![0];
        let mut chars = 0;
        for character in text.chars() {
            chars += 1;
            if character == '\n' {
                line_starts.push(chars);
            }
        }
        Source { text, line_starts, ascii: text.is_ascii() }
    }

    /// Returns the character offset, from 0, of a location.
    fn offset(&self, location: Location) -> Option<u32> {
        let line = usize::try_from(location.line).ok()?.checked_sub(1)?;
        let column = u32::try_from(location.column).ok()?.checked_sub(1)?;
        Some(self.line_starts.get(line)? + column)
    }

    /// Returns the position of a location.
    pub(crate) fn pos(&self, location: Location) -> Pos {
        self.offset(location).map_or(Pos::UNKNOWN, |offset| Pos(offset + 1))
    }

    /// Returns the position where a span starts.
    pub(crate) fn span_pos(&self, span: Span) -> Pos {
        self.pos(span.start)
    }

    /// Returns the position just after the last character, where an unexpected end is reported.
    pub(crate) fn end_pos(&self) -> Pos {
        let chars = if self.ascii { self.text.len() } else { self.text.chars().count() };
        Pos(u32::try_from(chars).unwrap_or(u32::MAX - 1) + 1)
    }

    /// Returns the text between two character offsets.
    pub(crate) fn slice(&self, start: u32, end: u32) -> &'a str {
        let (start, end) = (start as usize, end as usize);
        if self.ascii {
            return self.text.get(start..end.min(self.text.len())).unwrap_or("");
        }
        let mut indices = self.text.char_indices().map(|(index, _)| index);
        let from = indices.nth(start).unwrap_or(self.text.len());
        let to = match end.checked_sub(start) {
            None | Some(0) => from,
            Some(length) => indices.nth(length - 1).unwrap_or(self.text.len()),
        };
        self.text.get(from..to).unwrap_or("")
    }

    /// Returns the text of a span.
    pub(crate) fn span_text(&self, span: Span) -> &'a str {
        match (self.offset(span.start), self.offset(span.end)) {
            (Some(start), Some(end)) => self.slice(start, end),
            _ => "",
        }
    }

    /// Returns the statement's text.
    pub(crate) fn statement_text(&self, statement: &StatementTokens) -> &'a str {
        self.slice(statement.start, statement.end)
    }

    /// Tokenises the text and splits it at semicolons; empty statements vanish.
    pub(crate) fn statements(&self) -> Result<Vec<StatementTokens>, ParseError> {
        let tokens = Tokenizer::new(&DIALECT, self.text)
            .tokenize_with_location()
            .map_err(|error| self.lexical_error(&error.message, error.location))?;
        let mut statements = Vec::new();
        let mut current = Vec::new();
        for token in tokens {
            match token.token {
                Token::SemiColon => self.finish(&mut current, &mut statements),
                Token::Whitespace(_) | Token::EOF => {}
                _ => current.push(token),
            }
        }
        self.finish(&mut current, &mut statements);
        Ok(statements)
    }

    fn finish(&self, current: &mut Vec<TokenWithSpan>, statements: &mut Vec<StatementTokens>) {
        let tokens = std::mem::take(current);
        if let (Some(first), Some(last)) = (tokens.first(), tokens.last()) {
            let start = self.offset(first.span.start).unwrap_or(0);
            let end = self.offset(last.span.end).unwrap_or(start);
            statements.push(StatementTokens { tokens, start, end });
        }
    }

    /// Words a lexical error as PostgreSQL does.
    fn lexical_error(&self, message: &str, location: Location) -> ParseError {
        let pos = self.pos(location);
        let rest = pos.known().map_or("", |pos| self.slice(pos - 1, u32::MAX));
        let what = if message.contains("multi-line comment") {
            "unterminated /* comment"
        } else if message.contains("string literal") || message.contains("Unterminated string") {
            "unterminated quoted string"
        } else if message.contains("dollar") {
            "unterminated dollar-quoted string"
        } else if message.contains("delimited identifier") || message.contains("quote") {
            "unterminated quoted identifier"
        } else {
            "syntax error"
        };
        let near: String = rest.chars().take(100).collect();
        let message = if near.is_empty() {
            format!("{what} at end of input")
        } else {
            format!("{what} at or near \"{near}\"")
        };
        ParseError::new(ParseErrorKind::Syntax, message, pos)
    }
}

/// Returns an unquoted word's text, or nothing for any other token.
pub(crate) fn bare_word(token: &Token) -> Option<&str> {
    match token {
        Token::Word(word) if word.quote_style.is_none() => Some(&word.value),
        _ => None,
    }
}

/// Whether the token is this word, unquoted, in any case.
pub(crate) fn is_word(token: &Token, expected: &str) -> bool {
    bare_word(token).is_some_and(|word| word.eq_ignore_ascii_case(expected))
}
