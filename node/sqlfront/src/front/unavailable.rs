//! Statements that are recognised by their head words and not available yet.

use super::cursor::Cursor;
use crate::ast::{Pos, Statement, Unsupported};
use crate::convert::Result;

/// Statement heads of PostgreSQL and CockroachDB that are not available, with what else would do.
const HEADS: [(&str, Option<&str>); 36] = [
    ("ALTER", None),
    ("BACKUP", None),
    ("CALL", None),
    ("CLOSE", None),
    ("COMMENT", None),
    ("DECLARE", None),
    ("DO", None),
    ("EXECUTE", Some("Use the extended protocol of your driver to prepare statements.")),
    ("EXPERIMENTAL", None),
    ("EXPORT", None),
    ("FETCH", None),
    ("GRANT", None),
    ("IMPORT", None),
    ("INSPECT", None),
    ("LISTEN", None),
    ("LOAD", None),
    ("LOCK", None),
    ("MERGE", Some("Use INSERT, UPDATE and DELETE.")),
    ("MOVE", None),
    ("NOTIFY", None),
    ("PAUSE", None),
    ("PREPARE", Some("Use the extended protocol of your driver to prepare statements.")),
    ("REASSIGN", None),
    ("REFRESH", None),
    ("RESTORE", None),
    ("RESUME", None),
    ("REVOKE", None),
    ("SCRUB", None),
    ("SECURITY", None),
    ("SPLIT", None),
    ("UNLISTEN", None),
    ("UNSPLIT", None),
    ("SCATTER", None),
    ("CONFIGURE", None),
    ("CHANGEFEED", None),
    ("TRACE", None),
];

/// Answers a statement whose head is known but not served, and a syntax error for any other.
pub(super) fn unavailable(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let pos = cursor.pos();
    let Some(head) = cursor.peek_word() else { return cursor.syntax_here() };
    let Some((_, hint)) = HEADS.iter().find(|(known, _)| *known == head) else {
        return cursor.syntax_here();
    };
    if head == "ALTER" {
        cursor.next();
        return object_command(cursor, "ALTER", pos);
    }
    cursor.skip_rest();
    let hint = hint.map(str::to_owned);
    Ok(Statement::Unsupported(Unsupported { feature: head, hint, pos }))
}

/// Kinds of object behind CREATE, ALTER and DROP, longest spelling first.
const OBJECTS: [&str; 44] = [
    "ACCESS METHOD",
    "AGGREGATE",
    "CAST",
    "CHANGEFEED",
    "COLLATION",
    "CONVERSION",
    "DATABASE",
    "DEFAULT PRIVILEGES",
    "DOMAIN",
    "EVENT TRIGGER",
    "EXTENSION",
    "EXTERNAL CONNECTION",
    "FOREIGN TABLE",
    "FUNCTION",
    "GROUP",
    "INDEX",
    "INVERTED INDEX",
    "LANGUAGE",
    "MATERIALIZED VIEW",
    "OPERATOR",
    "OWNED",
    "PARTITION",
    "POLICY",
    "PROCEDURE",
    "PUBLICATION",
    "RANGE",
    "ROLE",
    "ROUTINE",
    "RULE",
    "SCHEDULE",
    "SCHEMA",
    "SEQUENCE",
    "SERVER",
    "STATISTICS",
    "SUBSCRIPTION",
    "SYSTEM",
    "TABLE",
    "TABLESPACE",
    "TENANT",
    "TEXT SEARCH",
    "TRIGGER",
    "TYPE",
    "USER",
    "VIEW",
];

/// Words that may stand between the verb and the kind of object.
const QUALIFIERS: [&str; 10] = [
    "OR",
    "REPLACE",
    "UNIQUE",
    "TEMP",
    "TEMPORARY",
    "LOCAL",
    "GLOBAL",
    "RECURSIVE",
    "TRUSTED",
    "VIRTUAL",
];

/// The answer to an ALTER of an object that is not available.
pub(super) fn altered(object: &str, pos: Pos) -> Statement {
    let hint = match object {
        "TABLE" => Some("Create a table of the new shape and copy the rows.".to_owned()),
        _ => None,
    };
    Statement::Unsupported(Unsupported { feature: format!("ALTER {object}"), hint, pos })
}

/// Names the feature of a CREATE, ALTER or DROP of an object that is not available.
pub(super) fn object_command(cursor: &mut Cursor<'_>, verb: &str, pos: Pos) -> Result<Statement> {
    let mut qualifiers = 0;
    while cursor.peek_word().is_some_and(|word| QUALIFIERS.contains(&word.as_str())) {
        cursor.next();
        qualifiers += 1;
        if qualifiers > QUALIFIERS.len() {
            return cursor.syntax_here();
        }
    }
    for object in OBJECTS {
        let words: Vec<&str> = object.split(' ').collect();
        if cursor.eat_words(&words) {
            cursor.skip_rest();
            if verb == "ALTER" {
                return Ok(altered(object, pos));
            }
            let feature = format!("{verb} {object}");
            let hint = match (verb, object) {
                ("CREATE", "INDEX" | "INVERTED INDEX") => Some(
                    "Tables are read by their primary key; put the columns you search by first."
                        .to_owned(),
                ),
                _ => None,
            };
            return Ok(Statement::Unsupported(Unsupported { feature, hint, pos }));
        }
    }
    cursor.syntax_here()
}
