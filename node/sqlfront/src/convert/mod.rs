//! Turns the parsing library's tree into ours.
//!
//! Each function takes its part by value and looks at every field: a field that PostgreSQL has no
//! meaning for must be empty, or the statement is refused, so nothing written is dropped silently.
//!
//! Invariants:
//! 1. `depth` counts tree levels; a tree deeper than [`crate::MAX_DEPTH`] is refused.
//! 2. Chains of one associative operator are walked in a loop, never by recursion.

mod dml;
mod expr;
mod function;
mod literal;
mod query;
mod reserved;
mod table;
mod types;

pub use reserved::is_reserved;
pub(crate) use table::feature;

use std::collections::HashMap;

use sqlparser::ast as sp;
use sqlparser::tokenizer::Location;

use crate::MAX_DEPTH;
use crate::ast::{ColumnRef, Ident, Locking, ObjectName, Pos, Show};
use crate::error::{ParseError, ParseErrorKind};
use crate::source::Source;

/// Shorthand of this module.
pub(crate) type Result<T> = std::result::Result<T, ParseError>;

/// The state of one statement's conversion.
#[derive(Debug)]
pub(crate) struct Converter<'a> {
    pub(crate) source: &'a Source<'a>,
    /// Index hints lifted out by the pre-pass, by where the table's last name part starts.
    pub(crate) index_hints: HashMap<Location, Ident>,
    /// Locking clauses lifted out by the pre-pass.
    pub(crate) locking: Vec<Locking>,
    /// Statements that stand for tables, by where the table's name would start.
    pub(crate) shows: HashMap<Location, Show>,
    /// The highest placeholder met.
    pub(crate) placeholders: u16,
    /// Levels of the tree above the node in hand.
    depth: usize,
    /// The position of the last token that had one: the best guess for nodes without.
    last_pos: Pos,
}

impl<'a> Converter<'a> {
    /// Starts a conversion.
    pub(crate) fn new(source: &'a Source<'a>) -> Converter<'a> {
        Converter {
            source,
            index_hints: HashMap::new(),
            locking: Vec::new(),
            shows: HashMap::new(),
            placeholders: 0,
            depth: 0,
            last_pos: Pos::UNKNOWN,
        }
    }

    /// Runs `body` one level deeper.
    fn deeper<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(too_deep(self.last_pos));
        }
        self.depth += 1;
        let result = body(self);
        self.depth -= 1;
        result
    }

    /// Refuses a construct that is not available.
    fn unsupported<T>(&self, feature: &str) -> Result<T> {
        Err(ParseError::unsupported(feature, self.last_pos))
    }

    /// Refuses a construct that PostgreSQL does not have.
    fn syntax<T>(&self, what: &str, pos: Pos) -> Result<T> {
        Err(ParseError::new(
            ParseErrorKind::Syntax,
            format!("syntax error at or near \"{what}\""),
            pos,
        ))
    }

    /// Refuses a construct with an explanation in place of the offending token.
    fn malformed<T>(&self, why: &str) -> Result<T> {
        let message = format!("syntax error: {why}");
        Err(ParseError::new(ParseErrorKind::Syntax, message, self.last_pos))
    }

    /// Refuses a clause of another dialect unless it is absent.
    fn absent(&self, present: bool, clause: &str) -> Result<()> {
        if present { self.syntax(clause, Pos::UNKNOWN) } else { Ok(()) }
    }

    /// Converts an identifier, folding it.
    pub(crate) fn ident(&mut self, ident: sp::Ident) -> Result<Ident> {
        let pos = self.source.span_pos(ident.span);
        if pos != Pos::UNKNOWN {
            self.last_pos = pos;
        }
        match ident.quote_style {
            None => Ok(Ident { value: fold(ident.value), quoted: false, pos }),
            Some('"') if ident.value.is_empty() => Err(ParseError::new(
                ParseErrorKind::Syntax,
                "zero-length delimited identifier at or near \"\"\"\"",
                pos,
            )),
            Some('"') => Ok(Ident { value: truncate(ident.value), quoted: true, pos }),
            Some(_) => self.syntax(&format!("'{}'", ident.value), pos),
        }
    }

    /// Converts an identifier that may not be a reserved word.
    pub(crate) fn name(&mut self, ident: sp::Ident) -> Result<Ident> {
        if ident.quote_style.is_none() && is_reserved(&ident.value) {
            let pos = self.source.span_pos(ident.span);
            return self.syntax(&ident.value, pos);
        }
        self.ident(ident)
    }

    /// Converts a list of identifiers.
    fn idents(&mut self, idents: Vec<sp::Ident>) -> Result<Vec<Ident>> {
        idents.into_iter().map(|ident| self.name(ident)).collect()
    }

    /// Converts a table's name: its first part may not be a reserved word.
    pub(crate) fn table_name(&mut self, name: sp::ObjectName) -> Result<ObjectName> {
        let name = self.object_name(name)?;
        match name.parts.first() {
            Some(first) if !first.quoted && is_reserved(&first.value) => {
                self.syntax(&first.value, first.pos)
            }
            _ => Ok(name),
        }
    }

    /// Converts a name of up to three parts.
    pub(crate) fn object_name(&mut self, name: sp::ObjectName) -> Result<ObjectName> {
        let mut parts = Vec::with_capacity(name.0.len());
        for part in name.0 {
            match part {
                sp::ObjectNamePart::Identifier(ident) => parts.push(self.ident(ident)?),
                sp::ObjectNamePart::Function(_) => return self.syntax("(", Pos::UNKNOWN),
            }
        }
        let name = ObjectName { parts };
        match name.parts.len() {
            1..=3 => Ok(name),
            0 => self.syntax("", Pos::UNKNOWN),
            _ => Err(ParseError::new(
                ParseErrorKind::Syntax,
                "improper qualified name (too many dotted names)",
                name.pos(),
            )),
        }
    }

    /// Converts a name that must have one part.
    fn column_name(&mut self, name: sp::ObjectName) -> Result<Ident> {
        let mut name = self.table_name(name)?;
        match (name.parts.pop(), name.parts.is_empty()) {
            (Some(ident), true) => Ok(ident),
            (Some(ident), false) => self.syntax(".", ident.pos),
            (None, _) => self.syntax("", Pos::UNKNOWN),
        }
    }

    /// Converts a column reference of up to four parts.
    fn column_ref(&mut self, parts: Vec<sp::Ident>) -> Result<ColumnRef> {
        let mut idents = Vec::with_capacity(parts.len());
        for part in parts {
            // Behind a dot any word may stand.
            let ident = if idents.is_empty() { self.name(part)? } else { self.ident(part)? };
            idents.push(ident);
        }
        let column = ColumnRef { parts: idents };
        if column.parts.len() > 4 {
            return Err(ParseError::new(
                ParseErrorKind::Syntax,
                "improper qualified name (too many dotted names)",
                column.pos(),
            ));
        }
        Ok(column)
    }
}

/// The error of a tree that is too deep.
pub(crate) fn too_deep(pos: Pos) -> ParseError {
    let mut error =
        ParseError::new(ParseErrorKind::TooComplex, "the statement is nested too deeply", pos);
    error.hint = Some(format!("Expressions and queries may nest {MAX_DEPTH} levels deep."));
    error
}

/// Folds an unquoted identifier to lower case and cuts it to PostgreSQL's 63 bytes.
pub(crate) fn fold(mut value: String) -> String {
    if value.is_ascii() {
        value.make_ascii_lowercase();
        truncate(value)
    } else {
        truncate(value.to_lowercase())
    }
}

/// Cuts an identifier to PostgreSQL's 63 bytes.
fn truncate(mut value: String) -> String {
    const IDENTIFIER_BYTES_MAX: usize = 63;
    if value.len() > IDENTIFIER_BYTES_MAX {
        let mut end = IDENTIFIER_BYTES_MAX;
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        value.truncate(end);
    }
    value
}
