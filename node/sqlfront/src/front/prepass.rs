//! Lifts CockroachDB's spellings out of a statement's tokens, then lets the library parse the rest.
//!
//! | written | becomes | recorded as |
//! |---|---|---|
//! | `UPSERT INTO` | `INSERT INTO` | `Insert::upsert` |
//! | `TABLE t` | `SELECT * FROM t` | |
//! | `x:::T` | `x::T` | |
//! | `t@i`, `t@{FORCE_INDEX=i}` | `t` | `TableRef::index_hint` |
//! | `[SHOW ...]` in FROM | `"show"` | `TableExpr::Show` |
//! | `AS OF SYSTEM TIME e` | nothing | `Query::as_of` |
//! | `FOR NO KEY UPDATE OF t NOWAIT` and its relatives | `FOR UPDATE OF "n"` | `Query::locking`, n-th lifted |

use std::collections::HashMap;

use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan};

use super::cursor::Cursor;
use crate::ast::{Expr, Ident, LockStrength, LockWait, Locking, Show, Statement};
use crate::convert::{Result, too_deep};
use crate::error::{ParseError, ParseErrorKind};
use crate::source::{Source, is_word};

/// How many brackets may be open at once, and how many operators may stand in a chain.
const NESTING_MAX: usize = 250;
const CHAIN_MAX: usize = 10_000;

/// Refuses token lists that would make a recursive pass too deep, and returns the depth that a
/// tree built from them can reach.
pub(crate) fn check_depth(source: &Source<'_>, tokens: &[TokenWithSpan]) -> Result<usize> {
    let mut open = vec![0_usize];
    let (mut cases, mut total, mut deepest) = (0_usize, 0_usize, 0_usize);
    for token in tokens {
        let level = open.last_mut();
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => open.push(0),
            Token::RParen | Token::RBracket | Token::RBrace => {
                if open.len() > 1 {
                    total -= open.pop().unwrap_or(0);
                }
            }
            Token::Comma => {
                if let Some(level) = level {
                    total -= std::mem::take(level);
                }
            }
            Token::Number(..) | Token::SingleQuotedString(_) | Token::Placeholder(_) => {}
            Token::Word(word) if word.quote_style.is_some() => {}
            Token::Word(_) => {
                if is_word(&token.token, "CASE") {
                    cases += 1;
                } else if is_word(&token.token, "END") {
                    cases = cases.saturating_sub(1);
                }
                // Only words between expressions can deepen a tree, but counting every one costs
                // nothing and misses none.
                if let Some(level) = level {
                    *level += 1;
                    total += 1;
                }
            }
            _ => {
                if let Some(level) = level {
                    *level += 1;
                    total += 1;
                }
            }
        }
        deepest = deepest.max(total + 2 * open.len() + cases);
        if open.len() > NESTING_MAX || cases > NESTING_MAX || total > CHAIN_MAX {
            return Err(too_deep(source.span_pos(token.span)));
        }
    }
    Ok(deepest)
}

/// Rewrites and parses the statement at the cursor.
pub(crate) fn delegate(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let rewrite = Rewrite::run(cursor.source(), cursor.take_rest())?;
    let head = rewrite.tokens.first().map(|token| token.token.clone());
    let as_of = match rewrite.as_of {
        None => None,
        Some(tokens) => {
            cursor.replace(tokens);
            let expr = cursor.expr()?;
            cursor.expect_end()?;
            Some(expr)
        }
    };
    cursor.replace(rewrite.tokens);
    cursor.converter.index_hints = rewrite.index_hints;
    cursor.converter.locking = rewrite.locking;
    cursor.converter.shows = rewrite.shows;
    let is = |word| head.as_ref().is_some_and(|head| is_word(head, word));
    let statement = if is("INSERT") || is("UPDATE") || is("DELETE") {
        cursor.library(Parser::parse_statement)?
    } else {
        sqlparser::ast::Statement::Query(cursor.library(Parser::parse_query)?)
    };
    cursor.expect_end()?;
    let mut statement = cursor.converter.statement(statement)?;
    if let Some(hint) = cursor.converter.index_hints.values().next() {
        return Err(ParseError::new(
            ParseErrorKind::Syntax,
            "syntax error at or near \"@\"",
            hint.pos,
        ));
    }
    if !cursor.converter.shows.is_empty() {
        return Err(ParseError::unsupported(
            "statements as data sources",
            crate::ast::Pos::UNKNOWN,
        ));
    }
    finish(&mut statement, rewrite.upsert, as_of)?;
    Ok(statement)
}

/// Puts what was lifted out back into our tree.
fn finish(statement: &mut Statement, upsert: bool, as_of: Option<Expr>) -> Result<()> {
    if let Statement::Insert(insert) = statement {
        insert.upsert = upsert;
        if let (true, Some(conflict)) = (upsert, &insert.on_conflict) {
            return Err(ParseError::new(
                ParseErrorKind::Syntax,
                "syntax error at or near \"ON\"",
                conflict.pos,
            ));
        }
    }
    match (statement, as_of) {
        (_, None) => Ok(()),
        (Statement::Query(query), Some(as_of)) => {
            query.as_of = Some(as_of);
            Ok(())
        }
        (_, Some(as_of)) => Err(ParseError::unsupported(
            "AS OF SYSTEM TIME in a statement that writes",
            as_of.pos(),
        )),
    }
}

/// The tokens after the rewrite, and what was taken from them.
struct Rewrite {
    tokens: Vec<TokenWithSpan>,
    upsert: bool,
    index_hints: HashMap<Location, Ident>,
    locking: Vec<Locking>,
    shows: HashMap<Location, Show>,
    as_of: Option<Vec<TokenWithSpan>>,
}

impl Rewrite {
    fn run(source: &Source<'_>, tokens: Vec<TokenWithSpan>) -> Result<Rewrite> {
        let mut rewrite = Rewrite {
            tokens: Vec::with_capacity(tokens.len()),
            upsert: false,
            index_hints: HashMap::new(),
            locking: Vec::new(),
            shows: HashMap::new(),
            as_of: None,
        };
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let rest = tokens.get(at..).unwrap_or_default();
            at += rewrite.step(source, token, rest)?;
        }
        Ok(rewrite)
    }

    /// Handles the token at the front of `rest`; returns how many tokens that used up.
    fn step(
        &mut self,
        source: &Source<'_>,
        token: &TokenWithSpan,
        rest: &[TokenWithSpan],
    ) -> Result<usize> {
        let words = |expected: &[&str]| {
            expected.iter().enumerate().all(|(offset, word)| {
                rest.get(offset).is_some_and(|token| is_word(&token.token, word))
            })
        };
        let pos = source.span_pos(token.span);
        if self.tokens.is_empty() && words(&["UPSERT"]) {
            self.upsert = true;
            self.push_word("INSERT", token.span);
            return Ok(1);
        }
        if words(&["TABLE"]) && self.query_may_start() && !followed_by_paren(rest) {
            self.push_word("SELECT", token.span);
            self.tokens.push(TokenWithSpan { token: Token::Mul, span: token.span });
            self.push_word("FROM", token.span);
            return Ok(1);
        }
        if words(&["AS", "OF", "SYSTEM", "TIME"]) {
            return self.as_of(source, rest);
        }
        if words(&["FOR"])
            && let Some((strength, used)) = lock_strength(&words)
        {
            return self.locking(source, rest, strength, used);
        }
        if words(&["BETWEEN", "SYMMETRIC"]) {
            return Err(ParseError::unsupported("BETWEEN SYMMETRIC", pos));
        }
        if words(&["BETWEEN", "ASYMMETRIC"]) {
            self.tokens.push(token.clone());
            return Ok(2);
        }
        match (&token.token, rest.get(1).map(|next| &next.token)) {
            (Token::DoubleColon, Some(Token::Colon)) if adjacent(rest) => {
                self.tokens.push(token.clone());
                Ok(2)
            }
            (Token::Div, Some(Token::Div)) if adjacent(rest) => {
                Err(ParseError::unsupported("operator //", pos))
            }
            (Token::LBracket, _) if self.table_expected() => self.bracketed(source, rest),
            (Token::RParen, Some(Token::Period))
                if rest.get(2).is_some_and(|token| token.token == Token::Mul) =>
            {
                Err(ParseError::unsupported("expansion of composite values", pos))
            }
            (Token::AtSign, Some(_)) if self.touches_word(token) => self.hint(source, rest),
            _ => {
                self.tokens.push(token.clone());
                Ok(1)
            }
        }
    }

    fn push_word(&mut self, word: &str, span: Span) {
        self.tokens.push(TokenWithSpan { token: Token::make_keyword(word), span });
    }

    /// Whether a query can start after what has been read.
    fn query_may_start(&self) -> bool {
        self.tokens.last().is_none_or(|last| {
            last.token == Token::LParen
                || ["UNION", "EXCEPT", "INTERSECT", "ALL"]
                    .iter()
                    .any(|word| is_word(&last.token, word))
        })
    }

    /// Whether a member of FROM is expected after what has been read.
    fn table_expected(&self) -> bool {
        self.tokens
            .last()
            .is_some_and(|last| is_word(&last.token, "FROM") || is_word(&last.token, "JOIN"))
    }

    /// Whether the token stands directly behind a word, as the `@` of `t@i` does.
    fn touches_word(&self, token: &TokenWithSpan) -> bool {
        self.tokens.last().is_some_and(|last| {
            matches!(last.token, Token::Word(_)) && last.span.end == token.span.start
        })
    }

    /// `@i` or `@{FORCE_INDEX=i}`.
    fn hint(&mut self, source: &Source<'_>, rest: &[TokenWithSpan]) -> Result<usize> {
        let at =
            self.tokens.last().map_or(Location { line: 0, column: 0 }, |token| token.span.start);
        let syntax = |offset: usize| {
            Err(match rest.get(offset) {
                Some(token) => super::library_error::syntax_at(source, token),
                None => ParseError::new(
                    ParseErrorKind::Syntax,
                    "syntax error at end of input",
                    source.end_pos(),
                ),
            })
        };
        let (name, used) = match rest.get(1).map(|token| &token.token) {
            Some(Token::Word(word)) => (word.clone(), 2),
            Some(Token::LBrace) => {
                let forced = rest.get(2).is_some_and(|token| is_word(&token.token, "FORCE_INDEX"))
                    && rest.get(3).is_some_and(|token| token.token == Token::Eq);
                match (forced, rest.get(4).map(|token| &token.token), rest.get(5)) {
                    (true, Some(Token::Word(word)), Some(close))
                        if close.token == Token::RBrace =>
                    {
                        (word.clone(), 6)
                    }
                    _ => {
                        let pos = rest
                            .first()
                            .map_or_else(Default::default, |token| source.span_pos(token.span));
                        return Err(ParseError::unsupported("this index hint", pos));
                    }
                }
            }
            _ => return syntax(1),
        };
        let pos = rest.first().map_or_else(Default::default, |token| source.span_pos(token.span));
        let quoted = name.quote_style.is_some();
        let value = if quoted { name.value } else { crate::convert::fold(name.value) };
        self.index_hints.insert(at, Ident { value, quoted, pos });
        Ok(used)
    }

    /// Takes the SHOW of `[SHOW ...]` out and leaves a name.
    fn bracketed(&mut self, source: &Source<'_>, rest: &[TokenWithSpan]) -> Result<usize> {
        let pos = rest.first().map_or_else(Default::default, |token| source.span_pos(token.span));
        let mut open = 0_usize;
        let end = rest.iter().position(|token| {
            match token.token {
                Token::LBracket => open += 1,
                Token::RBracket => open = open.saturating_sub(1),
                _ => {}
            }
            open == 0
        });
        let (Some(first), Some(end)) = (rest.first(), end) else {
            return Err(ParseError::new(
                ParseErrorKind::Syntax,
                "syntax error at end of input",
                source.end_pos(),
            ));
        };
        let inner = rest.get(1..end).unwrap_or_default();
        if !inner.first().is_some_and(|token| is_word(&token.token, "SHOW")) {
            return Err(ParseError::unsupported("statements as data sources", pos));
        }
        let mut cursor = Cursor::new(source, inner.to_vec());
        let statement = super::show::show(&mut cursor)?;
        cursor.expect_end()?;
        if cursor.placeholders() > 0 {
            return Err(ParseError::unsupported("parameters in statements as data sources", pos));
        }
        if let Statement::Show(show) = statement {
            self.shows.insert(first.span.start, show);
        }
        let name = Token::make_word("show", Some('"'));
        self.tokens.push(TokenWithSpan { token: name, span: first.span });
        Ok(end + 1)
    }

    /// Takes a locking clause out, of which the first `used` tokens are known, and leaves its
    /// number where the library takes the name of a table.
    fn locking(
        &mut self,
        source: &Source<'_>,
        rest: &[TokenWithSpan],
        strength: LockStrength,
        used: usize,
    ) -> Result<usize> {
        let Some(first) = rest.first() else { return Ok(used) };
        let mut cursor = Cursor::new(source, rest.get(used..).unwrap_or_default().to_vec());
        let of = if cursor.eat_word("OF") { cursor.object_names()? } else { Vec::new() };
        let wait = if cursor.eat_word("NOWAIT") {
            LockWait::NoWait
        } else if cursor.eat_words(&["SKIP", "LOCKED"]) {
            LockWait::SkipLocked
        } else {
            LockWait::Block
        };
        let used = rest.len() - cursor.take_rest().len();
        for word in ["FOR", "UPDATE", "OF"] {
            self.push_word(word, first.span);
        }
        let number = Token::make_word(&self.locking.len().to_string(), Some('"'));
        self.tokens.push(TokenWithSpan { token: number, span: first.span });
        self.locking.push(Locking { strength, of, wait, pos: source.span_pos(first.span) });
        Ok(used)
    }

    /// Takes `AS OF SYSTEM TIME expr` out; where the expression ends only the library knows.
    fn as_of(&mut self, source: &Source<'_>, rest: &[TokenWithSpan]) -> Result<usize> {
        let pos = rest.first().map_or_else(Default::default, |token| source.span_pos(token.span));
        if self.as_of.is_some() {
            return Err(ParseError::unsupported("more than one AS OF SYSTEM TIME", pos));
        }
        let tokens = rest.get(4..).unwrap_or_default();
        let mut probe = Cursor::new(source, tokens.to_vec());
        probe.expr()?;
        let left = probe.take_rest().len();
        let used = tokens.len() - left;
        self.as_of = Some(tokens.get(..used).unwrap_or_default().to_vec());
        Ok(4 + used)
    }
}

/// The strength that a locking clause starts with, and how many tokens say so.
fn lock_strength(words: &dyn Fn(&[&str]) -> bool) -> Option<(LockStrength, usize)> {
    let spellings: [(LockStrength, &[&str]); 4] = [
        (LockStrength::Update, &["FOR", "UPDATE"]),
        (LockStrength::NoKeyUpdate, &["FOR", "NO", "KEY", "UPDATE"]),
        (LockStrength::Share, &["FOR", "SHARE"]),
        (LockStrength::KeyShare, &["FOR", "KEY", "SHARE"]),
    ];
    let (strength, spelling) = spellings.into_iter().find(|(_, spelling)| words(spelling))?;
    Some((strength, spelling.len()))
}

fn followed_by_paren(rest: &[TokenWithSpan]) -> bool {
    rest.get(1).is_none_or(|next| next.token == Token::LParen)
}

/// Whether the first two tokens touch.
fn adjacent(rest: &[TokenWithSpan]) -> bool {
    match rest {
        [first, second, ..] => first.span.end == second.span.start,
        _ => false,
    }
}
