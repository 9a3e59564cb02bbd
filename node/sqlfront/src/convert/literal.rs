//! Constants and placeholders.

use sqlparser::ast as sp;

use super::{Converter, Result};
use crate::ast::{Expr, Literal, Pos};
use crate::error::{ParseError, ParseErrorKind};

impl Converter<'_> {
    /// Converts a constant or placeholder.
    pub(crate) fn value(&mut self, value: sp::ValueWithSpan) -> Result<Expr> {
        let span = value.span;
        let pos = self.source.span_pos(span);
        if pos != Pos::UNKNOWN {
            self.last_pos = pos;
        }
        let literal = match value.value {
            sp::Value::Null => Literal::Null,
            sp::Value::Boolean(value) => Literal::Bool(value),
            sp::Value::Number(text, false) => Literal::Number(text.replace('_', "")),
            sp::Value::SingleQuotedString(text)
            | sp::Value::EscapedStringLiteral(text)
            | sp::Value::UnicodeStringLiteral(text)
            | sp::Value::NationalStringLiteral(text) => Literal::String(text),
            sp::Value::DollarQuotedString(text) => Literal::String(text.value),
            sp::Value::HexStringLiteral(digits) => {
                if self.source.span_text(span).starts_with('0') {
                    Literal::Number(hex_number(&digits, pos)?)
                } else {
                    Literal::Bytes(hex_bytes(&digits, pos)?)
                }
            }
            sp::Value::SingleQuotedByteStringLiteral(text) => {
                if self.source.span_text(span).starts_with('B') {
                    bit_string(text, pos)?
                } else {
                    Literal::Bytes(text.into_bytes())
                }
            }
            sp::Value::Placeholder(text) => return self.placeholder(&text, pos),
            other => return self.syntax(&other.to_string(), pos),
        };
        Ok(Expr::Literal(literal, pos))
    }

    fn placeholder(&mut self, text: &str, pos: Pos) -> Result<Expr> {
        let number = text.strip_prefix('$').and_then(|digits| digits.parse::<u16>().ok());
        match number {
            Some(number) if number > 0 => {
                self.placeholders = self.placeholders.max(number);
                Ok(Expr::Placeholder(number, pos))
            }
            _ if text.starts_with('$') && text.len() > 1 => Err(ParseError::new(
                ParseErrorKind::UndefinedParameter,
                format!("there is no parameter {text}"),
                pos,
            )),
            _ => self.syntax(text, pos),
        }
    }
}

fn hex_number(digits: &str, pos: Pos) -> Result<String> {
    u128::from_str_radix(digits, 16).map(|value| value.to_string()).map_err(|_| {
        ParseError::new(
            ParseErrorKind::Syntax,
            format!("invalid hexadecimal integer at or near \"0x{digits}\""),
            pos,
        )
    })
}

fn hex_bytes(digits: &str, pos: Pos) -> Result<Vec<u8>> {
    let invalid = || {
        ParseError::new(
            ParseErrorKind::Syntax,
            "invalid hexadecimal bytes literal: an even number of hexadecimal digits is expected",
            pos,
        )
    };
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        return Err(invalid());
    }
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| {
            let text = std::str::from_utf8(pair).map_err(|_| invalid())?;
            u8::from_str_radix(text, 16).map_err(|_| invalid())
        })
        .collect()
}

fn bit_string(text: String, pos: Pos) -> Result<Literal> {
    match text.chars().find(|digit| !matches!(digit, '0' | '1')) {
        None => Ok(Literal::BitString(text)),
        Some(digit) => Err(ParseError::new(
            ParseErrorKind::InvalidText,
            format!("\"{digit}\" is not a valid binary digit"),
            pos,
        )),
    }
}
