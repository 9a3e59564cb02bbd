//! Turns SQL text into our own syntax tree.
//!
//! What it is: the front of the SQL pipeline. It tokenises the whole string once, splits it at `;`,
//! looks at the head words of each statement, and then either parses it itself (SHOW, SET, BEGIN,
//! CREATE TABLE, ... : the heads whose CockroachDB form the library does not know) or lifts the
//! CockroachDB spellings out of the token list and delegates to sqlparser, whose tree it converts.
//!
//! What it is not: nothing is resolved or typed here; there is no catalog.
//!
//! ```text
//! text -> tokens with positions -> statements -> own head parser ----------------> ast
//!                                            \-> pre-pass -> sqlparser -> convert -/
//! ```
//!
//! Invariants:
//! 1. No input panics or exhausts the stack: nesting is bounded before anything recursive runs.
//! 2. A construct that is understood and not available becomes [`ast::Statement::Unsupported`],
//!    never a syntax error; a construct that is not understood is a syntax error, never dropped.
//! 3. One syntax error fails the whole string, as in PostgreSQL: nothing of it has run.

pub mod ast;
mod convert;
mod error;
mod front;
mod source;

pub use convert::is_reserved;
pub use error::{ParseError, ParseErrorKind};

use ast::{Expr, Statement};

/// How deep expressions and queries may nest.
pub const MAX_DEPTH: usize = 200;

/// How many words, numbers and signs a text may have; each string counts as one. What is made of them
/// takes some hundred times their bytes.
pub const MAX_TOKENS: usize = 1_000_000;

/// One statement with its source.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The statement.
    pub statement: Statement,
    /// Its source text, without the semicolon and surrounding blanks.
    pub text: String,
    /// The highest `$n` it uses, 0 for none.
    pub placeholders: u16,
}

/// Parses a whole submitted string into its statements.
pub fn parse(sql: &str) -> Result<Vec<Parsed>, ParseError> {
    front::parse(sql)
}

/// Parses one scalar expression, such as a stored default.
pub fn parse_expression(sql: &str) -> Result<Expr, ParseError> {
    front::parse_expression(sql)
}
