//! LIKE, ILIKE, SIMILAR TO and POSIX regular expressions, compiled to `regex` and cached.

use std::cell::RefCell;
use std::collections::HashMap;

use regex::{Regex, RegexBuilder};

use crate::error::{Result, SqlError, SqlState};

/// Compiled patterns kept per thread.
const CACHE: usize = 64;

thread_local! {
    static COMPILED: RefCell<HashMap<(u8, String), Regex>> = RefCell::new(HashMap::new());
}

fn cached(kind: u8, pattern: &str, build: impl FnOnce() -> Result<Regex>) -> Result<Regex> {
    let key = (kind, pattern.to_owned());
    if let Some(found) = COMPILED.with_borrow(|map| map.get(&key).cloned()) {
        return Ok(found);
    }
    let regex = build()?;
    COMPILED.with_borrow_mut(|map| {
        if map.len() >= CACHE {
            map.clear();
        }
        map.insert(key, regex.clone());
    });
    Ok(regex)
}

fn compile(source: &str, insensitive: bool) -> Result<Regex> {
    RegexBuilder::new(source)
        .case_insensitive(insensitive)
        .dot_matches_new_line(true)
        .size_limit(1 << 20)
        .build()
        .map_err(|error| {
            SqlError::new(SqlState::INVALID_REGEX, format!("invalid regular expression: {error}"))
        })
}

/// Whether `text ~ pattern`.
pub(crate) fn regex(pattern: &str, insensitive: bool) -> Result<Regex> {
    cached(u8::from(insensitive), pattern, || compile(pattern, insensitive))
}

/// Whether `text LIKE pattern`.
pub(crate) fn like(
    text: &str,
    pattern: &str,
    escape: Option<char>,
    insensitive: bool,
) -> Result<bool> {
    let kind = 2 + u8::from(insensitive);
    // The escape character belongs to what the pattern means.
    let key = format!("{}{pattern}", escape.map_or_else(String::new, |c| c.to_string() + "\0"));
    let regex = cached(kind, &key, || {
        let mut source = String::from("^");
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            match c {
                c if Some(c) == escape => {
                    let literal = chars.next().ok_or_else(|| {
                        SqlError::new(
                            SqlState::INVALID_ESCAPE,
                            "LIKE pattern must not end with escape character",
                        )
                    })?;
                    source.push_str(&regex::escape(literal.encode_utf8(&mut [0; 4])));
                }
                '%' => source.push_str(".*"),
                '_' => source.push('.'),
                c => source.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            }
        }
        source.push('$');
        compile(&source, insensitive)
    })?;
    Ok(regex.is_match(text))
}

/// Whether `text SIMILAR TO pattern`.
pub(crate) fn similar(text: &str, pattern: &str, escape: Option<char>) -> Result<bool> {
    let regex = cached(4, pattern, || {
        let mut source = String::from("^(?:");
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            match c {
                c if Some(c) == escape => {
                    if let Some(literal) = chars.next() {
                        source.push_str(&regex::escape(literal.encode_utf8(&mut [0; 4])));
                    }
                }
                '%' => source.push_str(".*"),
                '_' => source.push('.'),
                '|' | '*' | '+' | '?' | '{' | '}' | '(' | ')' | '[' | ']' | '-' => source.push(c),
                c => source.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            }
        }
        source.push_str(")$");
        compile(&source, false)
    })?;
    Ok(regex.is_match(text))
}
