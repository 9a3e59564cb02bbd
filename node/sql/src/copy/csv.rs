//! The CSV format: fields behind a delimiter, in quotes where they hold one.

use super::Field;
use super::lines::unterminated;
use super::options::{Format, Quoting};
use crate::error::Result;

/// The fields of a record.
pub(super) fn fields(record: &str, format: &Format, quoting: Quoting) -> Result<Vec<Field>> {
    let Quoting { quote, escape } = quoting;
    let mut out = Vec::new();
    let mut field: Vec<u8> = Vec::new();
    let (mut quoted, mut within) = (false, false);
    let mut bytes = record.bytes().peekable();
    let mut finish = |field: &mut Vec<u8>, quoted: bool| {
        let text = String::from_utf8(std::mem::take(field)).unwrap_or_default();
        out.push(if !quoted && text == format.null { None } else { Some(text) });
    };
    while let Some(byte) = bytes.next() {
        if within && byte == escape && bytes.peek().is_some_and(|b| *b == quote || *b == escape) {
            field.extend(bytes.next());
        } else if byte == quote {
            within = !within;
            quoted = true;
        } else if byte == format.delimiter && !within {
            finish(&mut field, std::mem::take(&mut quoted));
        } else {
            field.push(byte);
        }
    }
    if within {
        return Err(unterminated());
    }
    finish(&mut field, quoted);
    Ok(out)
}

/// Appends a field; one that is alone in its line is quoted when it would end the data.
pub(super) fn write(
    out: &mut Vec<u8>,
    field: &str,
    format: &Format,
    quoting: Quoting,
    alone: bool,
) {
    let Quoting { quote, escape } = quoting;
    let special =
        |byte: u8| byte == format.delimiter || byte == quote || byte == b'\n' || byte == b'\r';
    if field != format.null && !field.bytes().any(special) && !(alone && field == "\\.") {
        out.extend_from_slice(field.as_bytes());
        return;
    }
    out.push(quote);
    for byte in field.bytes() {
        if byte == quote || byte == escape {
            out.push(escape);
        }
        out.push(byte);
    }
    out.push(quote);
}
