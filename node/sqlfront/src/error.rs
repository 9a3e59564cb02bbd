//! What can be wrong with a SQL text.

use crate::ast::Pos;

/// An error of the front parser.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// What kind, which decides the SQLSTATE.
    pub kind: ParseErrorKind,
    /// The message, in PostgreSQL's wording where it has one.
    pub message: String,
    /// A longer explanation.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// Where.
    pub pos: Pos,
}

/// The kinds of parse error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseErrorKind {
    /// 42601.
    Syntax,
    /// 54001: nested too deeply.
    TooComplex,
    /// 54000: too many tokens.
    TooLarge,
    /// 0A000: understood, not available.
    FeatureNotSupported,
    /// 42602, 22P02 and the like: a malformed name or literal.
    InvalidText,
    /// 42P02: a parameter number out of range.
    UndefinedParameter,
}

impl ParseErrorKind {
    /// Returns the SQLSTATE.
    pub fn sqlstate(self) -> &'static str {
        match self {
            ParseErrorKind::Syntax => "42601",
            ParseErrorKind::TooComplex => "54001",
            ParseErrorKind::TooLarge => "54000",
            ParseErrorKind::FeatureNotSupported => "0A000",
            ParseErrorKind::InvalidText => "22P02",
            ParseErrorKind::UndefinedParameter => "42P02",
        }
    }
}

impl ParseError {
    /// Makes an error of one kind.
    pub(crate) fn new(kind: ParseErrorKind, message: impl Into<String>, pos: Pos) -> ParseError {
        ParseError { kind, message: message.into(), detail: None, hint: None, pos }
    }

    /// A feature that is understood and not available.
    pub(crate) fn unsupported(feature: impl Into<String>, pos: Pos) -> ParseError {
        ParseError::new(ParseErrorKind::FeatureNotSupported, feature, pos)
    }
}
