//! A cursor over one statement's tokens, shared by our own parsers and the library's.

use sqlparser::ast as sp;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::library_error;
use crate::ast::{Expr, Ident, ObjectName, Pos};
use crate::convert::{Converter, Result, is_reserved};
use crate::error::{ParseError, ParseErrorKind};
use crate::source::{DIALECT, Source, bare_word, is_word};

/// How many nested calls the library's parser may make: above what our own depth limit lets pass.
const LIBRARY_RECURSION_MAX: usize = 2_000;

/// A cursor over one statement's tokens.
pub(crate) struct Cursor<'a> {
    source: &'a Source<'a>,
    parser: Parser<'static>,
    /// Converts what the library parses.
    pub(crate) converter: Converter<'a>,
}

impl<'a> Cursor<'a> {
    /// Starts at the first token.
    pub(crate) fn new(source: &'a Source<'a>, tokens: Vec<TokenWithSpan>) -> Cursor<'a> {
        Cursor { source, parser: library(tokens), converter: Converter::new(source) }
    }

    /// Returns the source.
    pub(crate) fn source(&self) -> &'a Source<'a> {
        self.source
    }

    /// Returns the highest placeholder met.
    pub(crate) fn placeholders(&self) -> u16 {
        self.converter.placeholders
    }

    /// Takes the tokens that are left, leaving none.
    pub(crate) fn take_rest(&mut self) -> Vec<TokenWithSpan> {
        let mut tokens = Vec::new();
        loop {
            let token = self.parser.next_token();
            if token.token == Token::EOF {
                return tokens;
            }
            tokens.push(token);
        }
    }

    /// Continues with other tokens.
    pub(crate) fn replace(&mut self, tokens: Vec<TokenWithSpan>) {
        self.parser = library(tokens);
    }

    fn token(&self) -> &TokenWithSpan {
        self.parser.peek_token_ref()
    }

    /// Returns the token `offset` tokens ahead, 0 for the next one.
    pub(crate) fn ahead(&self, offset: usize) -> &Token {
        &self.parser.peek_nth_token_ref(offset).token
    }

    /// Returns where the next token starts.
    pub(crate) fn pos(&self) -> Pos {
        match self.token() {
            token if token.token == Token::EOF => self.source.end_pos(),
            token => self.source.span_pos(token.span),
        }
    }

    /// Returns the next token as an upper-case word, if it is an unquoted word.
    pub(crate) fn peek_word(&self) -> Option<String> {
        bare_word(&self.token().token).map(str::to_ascii_uppercase)
    }

    /// Returns the word `offset` tokens ahead, upper case.
    pub(crate) fn peek_nth_word(&self, offset: usize) -> Option<String> {
        bare_word(self.ahead(offset)).map(str::to_ascii_uppercase)
    }

    /// Steps over the next token.
    pub(crate) fn next(&mut self) -> TokenWithSpan {
        self.parser.next_token()
    }

    /// Steps to the end.
    pub(crate) fn skip_rest(&mut self) {
        while self.parser.next_token().token != Token::EOF {}
    }

    /// Whether nothing is left.
    pub(crate) fn at_end(&self) -> bool {
        self.token().token == Token::EOF
    }

    /// Steps over a word if it is next.
    pub(crate) fn eat_word(&mut self, word: &str) -> bool {
        let found = is_word(&self.token().token, word);
        if found {
            self.next();
        }
        found
    }

    /// Steps over a series of words if all of it is next.
    pub(crate) fn eat_words(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(at, word)| is_word(self.ahead(at), word));
        if found {
            for _ in words {
                self.next();
            }
        }
        found
    }

    /// Requires a word.
    pub(crate) fn expect_word(&mut self, word: &str) -> Result<()> {
        if self.eat_word(word) { Ok(()) } else { self.syntax_here() }
    }

    /// Steps over a word or number and returns it in upper case.
    pub(crate) fn eat_any_word_or_number(&mut self) -> Option<String> {
        let word = match &self.token().token {
            Token::Word(word) => word.value.to_ascii_uppercase(),
            Token::Number(number, _) => number.clone(),
            _ => return None,
        };
        self.next();
        Some(word)
    }

    /// Steps over a token if it is next.
    pub(crate) fn eat(&mut self, token: &Token) -> bool {
        let found = self.token().token == *token;
        if found {
            self.next();
        }
        found
    }

    /// Steps over a comma if it is next.
    pub(crate) fn eat_comma(&mut self) -> bool {
        self.eat(&Token::Comma)
    }

    /// Steps over `=` if it is next.
    pub(crate) fn eat_equals(&mut self) -> bool {
        self.eat(&Token::Eq)
    }

    /// Whether `(` is next.
    pub(crate) fn at_open_paren(&self) -> bool {
        self.token().token == Token::LParen
    }

    /// Whether a parenthesised query is next.
    pub(crate) fn subquery_follows(&self) -> bool {
        let inner = (0..).map(|at| self.ahead(at)).find(|token| **token != Token::LParen);
        inner.is_some_and(|token| {
            ["SELECT", "VALUES", "WITH", "TABLE"].iter().any(|word| is_word(token, word))
        })
    }

    /// Requires `(`.
    pub(crate) fn expect_open_paren(&mut self) -> Result<()> {
        if self.eat(&Token::LParen) { Ok(()) } else { self.syntax_here() }
    }

    /// Requires `)`.
    pub(crate) fn expect_close_paren(&mut self) -> Result<()> {
        if self.eat(&Token::RParen) { Ok(()) } else { self.syntax_here() }
    }

    /// Requires the end.
    pub(crate) fn expect_end(&mut self) -> Result<()> {
        if self.at_end() { Ok(()) } else { self.syntax_here() }
    }

    /// The syntax error at the next token.
    pub(crate) fn syntax_here<T>(&self) -> Result<T> {
        Err(library_error::syntax_at(self.source, self.token()))
    }

    /// Requires that a name which is not a reserved word is next.
    pub(crate) fn check_name(&self) -> Result<()> {
        match &self.token().token {
            Token::Word(word) if word.quote_style.is_some() || !is_reserved(&word.value) => Ok(()),
            _ => self.syntax_here(),
        }
    }

    /// Parses one name that may not be a reserved word.
    pub(crate) fn ident(&mut self) -> Result<Ident> {
        match &self.token().token {
            Token::Word(word) if word.quote_style.is_some() || !is_reserved(&word.value) => {
                let token = self.next();
                match token.token {
                    Token::Word(word) => self.converter.ident(word.into_ident(token.span)),
                    _ => self.syntax_here(),
                }
            }
            _ => self.syntax_here(),
        }
    }

    /// Parses a name of one to three parts.
    pub(crate) fn object_name(&mut self) -> Result<ObjectName> {
        let mut parts = vec![self.ident()?];
        while self.eat(&Token::Period) {
            let token = self.next();
            match token.token {
                Token::Word(word) => {
                    parts.push(self.converter.ident(word.into_ident(token.span))?);
                }
                _ => return Err(library_error::syntax_at(self.source, &token)),
            }
        }
        if parts.len() > 3 {
            return Err(ParseError::new(
                ParseErrorKind::Syntax,
                "improper qualified name (too many dotted names)",
                parts.first().map_or(Pos::UNKNOWN, |part| part.pos),
            ));
        }
        Ok(ObjectName { parts })
    }

    /// Parses names separated by commas.
    pub(crate) fn object_names(&mut self) -> Result<Vec<ObjectName>> {
        let mut names = vec![self.object_name()?];
        while self.eat_comma() {
            names.push(self.object_name()?);
        }
        Ok(names)
    }

    /// Parses `(a, b, ...)`.
    pub(crate) fn paren_idents(&mut self) -> Result<Vec<Ident>> {
        self.expect_open_paren()?;
        let mut idents = vec![self.ident()?];
        while self.eat_comma() {
            idents.push(self.ident()?);
        }
        self.expect_close_paren()?;
        Ok(idents)
    }

    /// Parses one expression.
    pub(crate) fn expr(&mut self) -> Result<Expr> {
        let expr = self.library(Parser::parse_expr)?;
        self.converter.expr(expr)
    }

    /// Runs one of the library's parsers at this place.
    pub(crate) fn library<T>(
        &mut self,
        parse: impl FnOnce(&mut Parser<'static>) -> std::result::Result<T, ParserError>,
    ) -> Result<T> {
        parse(&mut self.parser)
            .map_err(|error| library_error::reworded(self.source, &error, &self.parser))
    }

    /// Parses a dotted variable or setting name, lower case.
    pub(crate) fn dotted_name(&mut self) -> Result<String> {
        let mut name = self.any_ident()?.value;
        while self.eat(&Token::Period) {
            name.push('.');
            name.push_str(&self.any_ident()?.value);
        }
        Ok(name)
    }

    /// Parses any word, reserved or not.
    pub(crate) fn any_ident(&mut self) -> Result<Ident> {
        if !matches!(self.token().token, Token::Word(_)) {
            return self.syntax_here();
        }
        let ident: sp::Ident = self.library(Parser::parse_identifier)?;
        self.converter.ident(ident)
    }

    /// Parses a word, string or number as the text of an option; an unquoted word keeps its case
    /// only if it is a string.
    pub(crate) fn setting_text(&mut self) -> Result<String> {
        let negative = self.eat(&Token::Minus);
        let text = match &self.token().token {
            Token::Number(number, _) if negative => format!("-{number}"),
            Token::Number(number, _) => number.clone(),
            Token::SingleQuotedString(text) if !negative => text.clone(),
            Token::Word(word) if !negative && word.quote_style.is_some() => word.value.clone(),
            Token::Word(word) if !negative => word.value.to_lowercase(),
            _ => return self.syntax_here(),
        };
        self.next();
        Ok(text)
    }
}

fn library(tokens: Vec<TokenWithSpan>) -> Parser<'static> {
    Parser::new(&DIALECT)
        .with_recursion_limit(LIBRARY_RECURSION_MAX)
        .with_tokens_with_locations(tokens)
}
