//! The options of a COPY, checked.

use crdb_sqlfront::ast::{CopyFormat, CopyOptions};

use crate::error::{Result, SqlError, SqlState};

/// How lines are written.
#[derive(Clone, Debug)]
pub(crate) struct Format {
    pub(crate) delimiter: u8,
    pub(crate) null: String,
    pub(crate) header: bool,
    /// None for TEXT.
    pub(crate) csv: Option<Quoting>,
}

/// How CSV quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quoting {
    pub(super) quote: u8,
    pub(super) escape: u8,
}

fn one_byte(option: &str, text: &str) -> Result<u8> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() => Ok(*byte),
        _ => Err(SqlError::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("COPY {option} must be a single one-byte character"),
        )),
    }
}

fn invalid(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

impl Format {
    /// The format that options ask for.
    pub(crate) fn new(options: &CopyOptions) -> Result<Self> {
        let csv = match options.format {
            CopyFormat::Text => false,
            CopyFormat::Csv => true,
            CopyFormat::Binary => {
                return Err(SqlError::unsupported("COPY in binary format")
                    .with_hint("Use the text or the csv format."));
            }
        };
        let delimiter = match &options.delimiter {
            Some(text) => one_byte("delimiter", text)?,
            None if csv => b',',
            None => b'\t',
        };
        if matches!(delimiter, b'\n' | b'\r') {
            return Err(invalid("COPY delimiter cannot be newline or carriage return"));
        }
        let of_text = |byte: u8| byte == b'\\' || byte == b'.' || byte.is_ascii_alphanumeric();
        if !csv && of_text(delimiter) {
            let shown = char::from(delimiter);
            return Err(invalid(format!("COPY delimiter cannot be \"{shown}\"")));
        }
        let null = options.null.clone().unwrap_or_else(|| if csv { "" } else { "\\N" }.to_owned());
        if null.contains(['\n', '\r']) {
            return Err(invalid("COPY null representation cannot use newline or carriage return"));
        }
        if null.bytes().any(|byte| byte == delimiter) {
            return Err(invalid("COPY delimiter must not appear in the NULL specification"));
        }
        let csv = if csv { Some(Quoting::new(options, delimiter, &null)?) } else { None };
        if csv.is_none() && (options.quote.is_some() || options.escape.is_some()) {
            let option = if options.quote.is_some() { "quote" } else { "escape" };
            let message = format!("COPY {option} available only in CSV mode");
            return Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message));
        }
        Ok(Self { delimiter, null, header: options.header, csv })
    }
}

impl Quoting {
    fn new(options: &CopyOptions, delimiter: u8, null: &str) -> Result<Self> {
        let quote = options.quote.as_deref().map_or(Ok(b'"'), |text| one_byte("quote", text))?;
        let escape =
            options.escape.as_deref().map_or(Ok(quote), |text| one_byte("escape", text))?;
        if quote == delimiter {
            return Err(invalid("COPY delimiter and quote must be different"));
        }
        if null.bytes().any(|byte| byte == quote) {
            return Err(invalid("CSV quote character must not appear in the NULL specification"));
        }
        Ok(Self { quote, escape })
    }
}
