//! Order-preserving bytes of decimals and intervals: what the key primitives do not cover.
//!
//! A decimal is a class byte (minus infinity, negative, zero, positive, infinity; NaN first), the
//! exponent of its first digit, and its digits in pairs, each as 1 to 100 so that a byte 0 can end
//! them. Negative ones are complemented.

use bigdecimal::num_bigint::Sign;

use crate::datum::{Decimal, Interval};

const NAN: u8 = 0x01;
const NEG_INFINITY: u8 = 0x02;
const NEGATIVE: u8 = 0x03;
const ZERO: u8 = 0x04;
const POSITIVE: u8 = 0x05;
const POS_INFINITY: u8 = 0x06;

/// Appends a decimal.
pub(super) fn encode(out: &mut Vec<u8>, value: &Decimal) {
    let value = match value {
        Decimal::NaN => return out.push(NAN),
        Decimal::NegInfinity => return out.push(NEG_INFINITY),
        Decimal::PosInfinity => return out.push(POS_INFINITY),
        Decimal::Finite(value) => value,
    };
    let (int, scale) = value.as_bigint_and_exponent();
    let (sign, magnitude) = int.into_parts();
    if sign == Sign::NoSign {
        return out.push(ZERO);
    }
    let digits = magnitude.to_string();
    // value = 0.d1d2d3... x 10^exponent
    let exponent = i64::try_from(digits.len()).unwrap_or(i64::MAX).saturating_sub(scale);
    let digits = digits.trim_end_matches('0');
    out.push(if sign == Sign::Minus { NEGATIVE } else { POSITIVE });
    let start = out.len();
    let biased = exponent.clamp(i32::MIN.into(), i32::MAX.into()) - i64::from(i32::MIN);
    out.extend(u32::try_from(biased).unwrap_or(u32::MAX).to_be_bytes());
    for pair in digits.as_bytes().chunks(2) {
        let tens = pair.first().map_or(0, |b| b - b'0');
        let ones = pair.get(1).map_or(0, |b| b - b'0');
        // From 1 to 100: never 0, the end mark.
        out.push(tens * 10 + ones + 1);
    }
    out.push(0);
    if sign == Sign::Minus {
        for byte in out.iter_mut().skip(start) {
            *byte = !*byte;
        }
    }
}

/// How many bytes the decimal at the start of `input` has; `flip` for complemented bytes.
pub(super) fn length(input: &[u8], flip: bool) -> Option<usize> {
    let mask = if flip { 0xff } else { 0 };
    let class = input.first()? ^ mask;
    match class {
        NAN | NEG_INFINITY | ZERO | POS_INFINITY => Some(1),
        POSITIVE | NEGATIVE => {
            let end = mask ^ if class == NEGATIVE { 0xff } else { 0 };
            let digits = input.get(5..)?.iter().position(|b| *b == end)?;
            Some(5 + digits + 1)
        }
        _ => None,
    }
}

/// Appends an interval by its length.
pub(super) fn encode_interval(out: &mut Vec<u8>, value: Interval) {
    let ordered = value.comparable().cast_unsigned() ^ (1 << 127);
    out.extend(ordered.to_be_bytes());
}
