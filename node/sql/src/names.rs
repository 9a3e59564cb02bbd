//! Quoting of identifiers and literals for text that is SQL again.

use crdb_sqlfront::is_reserved;

/// Reserved by CockroachDB beside PostgreSQL's words.
const ALSO_RESERVED: [&str; 2] = ["index", "nothing"];

/// An identifier, quoted where it has to be.
pub(crate) fn quote_ident(name: &str) -> String {
    let mut chars = name.chars();
    let plain_start = chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_');
    let plain = plain_start
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '$')
        && !is_reserved(name)
        && !ALSO_RESERVED.contains(&name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// A string literal.
pub(crate) fn quote_literal(text: &str) -> String {
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}
