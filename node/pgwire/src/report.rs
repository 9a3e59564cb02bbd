//! Errors and notices as the fields of the protocol.

use crdb_sql::{Notice, Severity, SqlError, SqlState};
use crdb_sqlfront::ParseError;

/// An error that ends the connection.
#[derive(Debug)]
pub(crate) struct Fatal(pub(crate) SqlError);

impl Fatal {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Fatal {
        Fatal(SqlError::new(SqlState(code), message))
    }
}

/// The protocol was violated.
pub(crate) fn violation(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState("08P01"), message)
}

/// The front parser's error as the session's.
pub(crate) fn from_parse(error: ParseError) -> SqlError {
    let mut sql = SqlError::new(SqlState(error.kind.sqlstate()), error.message)
        .with_position(error.pos.known().unwrap_or(0));
    if let Some(detail) = error.detail {
        sql = sql.with_detail(detail);
    }
    if let Some(hint) = error.hint {
        sql = sql.with_hint(hint);
    }
    sql
}

/// Text without the byte that ends strings on the wire.
fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The fields of an error.
pub(crate) fn error_fields(error: &SqlError, severity: &str) -> Vec<(u8, String)> {
    let more = error.fields();
    let mut fields = vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', error.code.as_str().to_owned()),
        (b'M', clean(&error.message)),
    ];
    let optional = [
        (b'D', more.detail),
        (b'H', more.hint),
        (b'P', more.position.map(|position| position.to_string())),
        (b'W', more.context),
        (b't', more.table),
        (b'c', more.column),
        (b'n', more.constraint),
    ];
    for (code, value) in optional {
        if let Some(value) = value {
            fields.push((code, clean(&value)));
        }
    }
    fields
}

/// The fields of a notice.
pub(crate) fn notice_fields(notice: &Notice) -> Vec<(u8, String)> {
    let severity = match notice.severity {
        Severity::Notice => "NOTICE",
        Severity::Warning => "WARNING",
    };
    let mut fields = vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', notice.code.as_str().to_owned()),
        (b'M', clean(&notice.message)),
    ];
    if let Some(hint) = &notice.hint {
        fields.push((b'H', clean(hint)));
    }
    fields
}
