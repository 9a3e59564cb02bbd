//! The text form of arrays: `{1,NULL,"a b"}`.

use crate::error::{Result, SqlError, SqlState};

fn needs_quotes(text: &str) -> bool {
    text.is_empty()
        || text.eq_ignore_ascii_case("null")
        || text.chars().any(|c| matches!(c, '{' | '}' | ',' | '"' | '\\') || c.is_whitespace())
}

/// Appends one element in the form that `split` reads.
pub(super) fn push_element(out: &mut String, text: Option<&str>) {
    match text {
        None => out.push_str("NULL"),
        Some(text) if needs_quotes(text) => {
            out.push('"');
            for c in text.chars() {
                if matches!(c, '"' | '\\') {
                    out.push('\\');
                }
                out.push(c);
            }
            out.push('"');
        }
        Some(text) => out.push_str(text),
    }
}

fn malformed(text: &str, detail: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_TEXT, format!("malformed array literal: \"{text}\""))
        .with_detail(detail)
}

/// Splits an array literal into its elements; none is NULL.
pub(super) fn split(text: &str) -> Result<Vec<Option<String>>> {
    let body = text
        .trim()
        .strip_prefix('{')
        .ok_or_else(|| malformed(text, "Array value must start with \"{\"."))?
        .strip_suffix('}')
        .ok_or_else(|| malformed(text, "Unexpected end of input."))?;
    let mut items = Vec::new();
    if body.trim().is_empty() {
        return Ok(items);
    }
    let mut chars = body.chars().peekable();
    loop {
        while chars.peek().is_some_and(|c| c.is_whitespace()) {
            chars.next();
        }
        let mut item = String::new();
        let mut quoted = false;
        if chars.peek() == Some(&'"') {
            quoted = true;
            chars.next();
            loop {
                match chars.next() {
                    Some('"') => break,
                    Some('\\') => item.extend(chars.next()),
                    Some(c) => item.push(c),
                    None => return Err(malformed(text, "Unexpected end of input.")),
                }
            }
        } else {
            while let Some(c) = chars.peek().copied() {
                match c {
                    ',' => break,
                    '{' | '}' => {
                        return Err(SqlError::unsupported("multi-dimensional arrays")
                            .with_hint("Only one-dimensional arrays are supported."));
                    }
                    '"' => return Err(malformed(text, "Unexpected array element.")),
                    '\\' => {
                        chars.next();
                        item.extend(chars.next());
                        quoted = true;
                    }
                    c => {
                        chars.next();
                        item.push(c);
                    }
                }
            }
            item.truncate(item.trim_end().len());
            if item.is_empty() && !quoted {
                return Err(malformed(text, "Unexpected \",\" character."));
            }
        }
        while chars.peek().is_some_and(|c| c.is_whitespace()) {
            chars.next();
        }
        items.push(if !quoted && item.eq_ignore_ascii_case("null") { None } else { Some(item) });
        match chars.next() {
            None => return Ok(items),
            Some(',') => {}
            Some(_) => return Err(malformed(text, "Unexpected array element.")),
        }
    }
}
