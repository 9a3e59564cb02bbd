//! The TEXT format: fields behind a delimiter, escapes behind backslashes.

use super::options::Format;
use super::{Field, bad};
use crate::error::{Result, SqlError, SqlState};

/// The fields of a record.
pub(super) fn fields(record: &str, format: &Format) -> Result<Vec<Field>> {
    let mut out = Vec::new();
    let mut rest = record;
    loop {
        let end = field_end(rest, format.delimiter);
        let (field, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        out.push(if field == format.null { None } else { Some(unescape(field)?) });
        match after.get(1..) {
            Some(next) => rest = next,
            None => return Ok(out),
        }
    }
}

/// Where the delimiter stands that ends the field, which is not one behind a backslash.
fn field_end(text: &str, delimiter: u8) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        if escaped {
            escaped = false;
        } else if byte == b'\\' {
            escaped = true;
        } else if byte == delimiter {
            return at;
        }
    }
    text.len()
}

fn unescape(field: &str) -> Result<String> {
    if !field.contains('\\') {
        return Ok(field.to_owned());
    }
    let mut out: Vec<u8> = Vec::with_capacity(field.len());
    let mut bytes = field.bytes().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            None => out.push(b'\\'),
            Some(b'b') => out.push(0x08),
            Some(b'f') => out.push(0x0c),
            Some(b'n') => out.push(b'\n'),
            Some(b'r') => out.push(b'\r'),
            Some(b't') => out.push(b'\t'),
            Some(b'v') => out.push(0x0b),
            Some(b'x') if bytes.peek().is_some_and(u8::is_ascii_hexdigit) => {
                out.push(number(&mut bytes, 0, 16));
            }
            Some(digit @ b'0'..=b'7') => {
                out.push(number(&mut bytes, u32::from(digit - b'0'), 8));
            }
            Some(other) => out.push(other),
        }
    }
    if out.contains(&0) {
        return Err(bad("a field contains the byte 0x00"));
    }
    String::from_utf8(out).map_err(|_| {
        SqlError::new(
            SqlState::INVALID_BYTE_SEQUENCE,
            "invalid byte sequence for encoding \"UTF8\" behind escapes",
        )
    })
}

/// A byte of which some digits may follow, at most two.
fn number(bytes: &mut std::iter::Peekable<std::str::Bytes<'_>>, first: u32, radix: u32) -> u8 {
    let mut value = first;
    for _ in 0..2 {
        let digit = bytes.peek().and_then(|byte| char::from(*byte).to_digit(radix));
        let Some(digit) = digit else { break };
        value = value * radix + digit;
        bytes.next();
    }
    u8::try_from(value & 0xff).unwrap_or(0)
}

/// Appends a field.
pub(super) fn write(out: &mut Vec<u8>, field: &str, format: &Format) {
    for byte in field.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x0b => out.extend_from_slice(b"\\v"),
            byte if byte == format.delimiter => out.extend_from_slice(&[b'\\', byte]),
            byte => out.push(byte),
        }
    }
}
