//! Encodings whose bytes sort like the values they hold.
//!
//! What it is: the primitives that keys are built from. What it is not: it does not know SQL
//! types; the catalog decides which primitive, and which direction, a column takes.
//!
//! Each value of a key starts with a tag byte, so a key can be printed without its schema, values
//! of one column never compare with a neighbour's, and NULL sorts first (last when descending).
//!
//! | tag | holds |
//! |---|---|
//! | `00` | NULL, ascending |
//! | `0e` | NaN |
//! | `0f` | float: 8 bytes |
//! | `10` | NaN, descending (after every float) |
//! | `12` | bytes or text, escaped |
//! | `13` | the same, descending |
//! | `18`..`1f` | free for upper layers |
//! | `20`..`27` | negative integer of 8..1 bytes |
//! | `28`..`87` | the integers 0..95 |
//! | `88`..`8f` | positive integer of 1..8 bytes |
//! | `ff` | NULL, descending |
//!
//! Invariants:
//! 1. `encode(a) < encode(b)` exactly when `a < b` (the reverse for the `_desc` forms).
//! 2. No encoding is a proper prefix of another of the same primitive.
//! 3. Decoding never panics, and what it accepts encodes to the bytes it read.

const NULL_ASC: u8 = 0x00;
const NAN_ASC: u8 = 0x0e;
const FLOAT: u8 = 0x0f;
const NAN_DESC: u8 = 0x10;
const BYTES_ASC: u8 = 0x12;
const BYTES_DESC: u8 = 0x13;
const INT_ZERO: u8 = 0x28;
const INT_SMALL_MAX: u8 = 0x5f;
const NULL_DESC: u8 = 0xff;

const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const TERMINATOR: u8 = 0x01;

/// First byte of a multi-byte ordered uvarint, less one: `f0` is followed by one byte.
const UVARINT_LONG: u8 = 0xf0;

/// Bytes that are not what the encoder writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key bytes are corrupt: expected {expected}, found {found}")]
pub struct DecodeError {
    expected: &'static str,
    found: String,
}

impl DecodeError {
    fn new(expected: &'static str, found: &[u8]) -> Self {
        let shown = found.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
        let found = if found.is_empty() { "the end of the key".to_owned() } else { shown };
        Self { expected, found }
    }
}

/// A value decoded without knowledge of its column's type, see [`decode_any`].
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// NULL of either direction.
    Null,
    /// An integer; a descending one shows as its complement.
    Int(i64),
    /// A float; a descending one shows negated.
    Float(f64),
    /// Bytes or text of either direction.
    Bytes(Vec<u8>),
}

/// Appends an unsigned integer in 1 to 9 bytes, small ones in one byte.
pub fn encode_uvarint(out: &mut Vec<u8>, value: u64) {
    if let Ok(small @ 0..UVARINT_LONG) = u8::try_from(value) {
        out.push(small);
        return;
    }
    let (len, bytes) = significant(value);
    out.push(UVARINT_LONG + len - 1);
    out.extend(bytes);
}

/// Reads what [`encode_uvarint`] wrote and moves `input` past it.
pub fn decode_uvarint(input: &mut &[u8]) -> Result<u64, DecodeError> {
    const EXPECTED: &str = "an ordered unsigned integer";
    let (&first, rest) = input.split_first().ok_or_else(|| DecodeError::new(EXPECTED, input))?;
    if first < UVARINT_LONG {
        *input = rest;
        return Ok(first.into());
    }
    let len = first - UVARINT_LONG + 1;
    let value = be_bytes(rest, len).ok_or_else(|| DecodeError::new(EXPECTED, input))?;
    let minimal = value >= UVARINT_LONG.into() && significant(value).0 == len;
    if !minimal {
        return Err(DecodeError::new(EXPECTED, input));
    }
    *input = rest.get(len.into()..).unwrap_or_default();
    Ok(value)
}

/// Appends NULL so that it sorts before every ascending value.
pub fn encode_null_asc(out: &mut Vec<u8>) {
    out.push(NULL_ASC);
}

/// Appends NULL so that it sorts after every descending value.
pub fn encode_null_desc(out: &mut Vec<u8>) {
    out.push(NULL_DESC);
}

/// If the next value is NULL of either direction, moves `input` past it and answers true.
pub fn decode_null(input: &mut &[u8]) -> bool {
    match input.split_first() {
        Some((&(NULL_ASC | NULL_DESC), rest)) => {
            *input = rest;
            true
        }
        _ => false,
    }
}

/// Appends a signed integer, smallest first.
pub fn encode_int_asc(out: &mut Vec<u8>, value: i64) {
    match u64::try_from(value) {
        Ok(value) => match u8::try_from(value) {
            Ok(small @ 0..=INT_SMALL_MAX) => out.push(INT_ZERO + small),
            _ => {
                let (len, bytes) = significant(value);
                out.push(INT_ZERO + INT_SMALL_MAX + len);
                out.extend(bytes);
            }
        },
        Err(_) => {
            // The complement of a negative number grows as the number falls; so its bytes are
            // complemented back, and a longer one gets a smaller tag.
            let (len, bytes) = significant(!value.cast_unsigned());
            out.push(INT_ZERO - len);
            out.extend(bytes.map(|byte| !byte));
        }
    }
}

/// Appends a signed integer, largest first.
pub fn encode_int_desc(out: &mut Vec<u8>, value: i64) {
    encode_int_asc(out, !value);
}

/// Reads what [`encode_int_asc`] wrote and moves `input` past it.
pub fn decode_int_asc(input: &mut &[u8]) -> Result<i64, DecodeError> {
    const EXPECTED: &str = "an integer";
    let corrupt = |input: &[u8]| DecodeError::new(EXPECTED, input);
    let (&tag, rest) = input.split_first().ok_or_else(|| corrupt(input))?;
    let long = INT_ZERO + INT_SMALL_MAX + 1;
    let (value, len) = match tag {
        0x20..INT_ZERO => {
            let len = INT_ZERO - tag;
            let raw = be_bytes(rest, len).ok_or_else(|| corrupt(input))?;
            let mask = u64::MAX >> (64 - 8 * u32::from(len));
            ((!(!raw & mask)).cast_signed(), len)
        }
        INT_ZERO..0x88 => (i64::from(tag - INT_ZERO), 0),
        0x88..=0x8f => {
            let len = tag - long + 1;
            let raw = be_bytes(rest, len).ok_or_else(|| corrupt(input))?;
            (i64::try_from(raw).map_err(|_| corrupt(input))?, len)
        }
        _ => return Err(corrupt(input)),
    };
    let consumed = 1 + usize::from(len);
    let mut again = Vec::with_capacity(9);
    encode_int_asc(&mut again, value);
    if input.get(..consumed) != Some(again.as_slice()) {
        return Err(corrupt(input));
    }
    *input = input.get(consumed..).unwrap_or_default();
    Ok(value)
}

/// Reads what [`encode_int_desc`] wrote and moves `input` past it.
pub fn decode_int_desc(input: &mut &[u8]) -> Result<i64, DecodeError> {
    decode_int_asc(input).map(|value| !value)
}

/// Appends a float, NaN first, then from negative to positive infinity. Both zeros are one key.
pub fn encode_float_asc(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.push(NAN_ASC);
        return;
    }
    // `+ 0.0` turns a negative zero into a positive one.
    let bits = (value + 0.0).to_bits();
    let sign = 1 << 63;
    let ordered = if bits & sign == 0 { bits | sign } else { !bits };
    out.push(FLOAT);
    out.extend(ordered.to_be_bytes());
}

/// Appends a float, positive infinity first, NaN last.
pub fn encode_float_desc(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.push(NAN_DESC);
    } else {
        encode_float_asc(out, -value);
    }
}

/// Reads what [`encode_float_asc`] wrote and moves `input` past it.
pub fn decode_float_asc(input: &mut &[u8]) -> Result<f64, DecodeError> {
    const EXPECTED: &str = "a float";
    let corrupt = |input: &[u8]| DecodeError::new(EXPECTED, input);
    let (&tag, rest) = input.split_first().ok_or_else(|| corrupt(input))?;
    if matches!(tag, NAN_ASC | NAN_DESC) {
        *input = rest;
        return Ok(f64::NAN);
    }
    let ordered = (tag == FLOAT).then(|| be_bytes(rest, 8)).flatten();
    let ordered = ordered.ok_or_else(|| corrupt(input))?;
    let sign = 1 << 63;
    let value = f64::from_bits(if ordered & sign == 0 { !ordered } else { ordered & !sign });
    if value.is_nan() || (value == 0.0 && value.is_sign_negative()) {
        return Err(corrupt(input));
    }
    *input = rest.get(8..).unwrap_or_default();
    Ok(value)
}

/// Reads what [`encode_float_desc`] wrote and moves `input` past it.
pub fn decode_float_desc(input: &mut &[u8]) -> Result<f64, DecodeError> {
    // `0.0 - x` and not `-x`: a zero comes back positive.
    decode_float_asc(input).map(|value| 0.0 - value)
}

/// Appends bytes or text with tag, escapes and terminator.
pub fn encode_bytes_asc(out: &mut Vec<u8>, value: &[u8]) {
    out.push(BYTES_ASC);
    escape(out, value);
}

/// Appends bytes or text, largest first.
pub fn encode_bytes_desc(out: &mut Vec<u8>, value: &[u8]) {
    out.push(BYTES_DESC);
    let start = out.len();
    escape(out, value);
    for byte in out.iter_mut().skip(start) {
        *byte = !*byte;
    }
}

/// Reads what [`encode_bytes_asc`] wrote and moves `input` past it.
pub fn decode_bytes_asc(input: &mut &[u8]) -> Result<Vec<u8>, DecodeError> {
    decode_tagged_bytes(input, BYTES_ASC, 0)
}

/// Reads what [`encode_bytes_desc`] wrote and moves `input` past it.
pub fn decode_bytes_desc(input: &mut &[u8]) -> Result<Vec<u8>, DecodeError> {
    decode_tagged_bytes(input, BYTES_DESC, 0xff)
}

/// Appends `value` escaped and terminated, without a tag: a zero byte becomes `00 ff`, the end
/// `00 01`. Sorts like `value`, and no result is a prefix of another.
pub fn escape(out: &mut Vec<u8>, value: &[u8]) {
    out.reserve(value.len() + 2);
    let mut rest = value;
    while let Some(zero) = rest.iter().position(|&byte| byte == ESCAPE) {
        let (head, tail) = rest.split_at(zero + 1);
        out.extend_from_slice(head);
        out.push(ESCAPED_ZERO);
        rest = tail;
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[ESCAPE, TERMINATOR]);
}

/// Reads what [`escape`] wrote and moves `input` past it.
pub fn unescape(input: &mut &[u8]) -> Result<Vec<u8>, DecodeError> {
    unescape_masked(input, 0)
}

/// Reads the next value by its tag alone, for printing.
pub fn decode_any(input: &mut &[u8]) -> Result<Value, DecodeError> {
    match input.first() {
        Some(&(NULL_ASC | NULL_DESC)) => {
            decode_null(input);
            Ok(Value::Null)
        }
        Some(&(NAN_ASC | FLOAT | NAN_DESC)) => decode_float_asc(input).map(Value::Float),
        Some(&BYTES_ASC) => decode_bytes_asc(input).map(Value::Bytes),
        Some(&BYTES_DESC) => decode_bytes_desc(input).map(Value::Bytes),
        Some(&(0x20..=0x8f)) => decode_int_asc(input).map(Value::Int),
        _ => Err(DecodeError::new("a tagged value", input)),
    }
}

/// The first key after every key that starts with `prefix`; `None` when there is none.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix.get(..=last)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

/// The smallest key larger than `key`.
#[must_use]
pub fn next_key(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// The bytes of `value` without leading zeros, at least one, and their number.
fn significant(value: u64) -> (u8, impl Iterator<Item = u8>) {
    let skip = (value.leading_zeros() / 8).min(7);
    let len = u8::try_from(8 - skip).expect("8 less at most 7");
    (len, value.to_be_bytes().into_iter().skip(8 - usize::from(len)))
}

fn be_bytes(input: &[u8], len: u8) -> Option<u64> {
    if len > 8 {
        return None;
    }
    let bytes = input.get(..len.into())?;
    Some(bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

fn decode_tagged_bytes(input: &mut &[u8], tag: u8, mask: u8) -> Result<Vec<u8>, DecodeError> {
    match input.split_first() {
        Some((&first, rest)) if first == tag => {
            let mut rest = rest;
            let value = unescape_masked(&mut rest, mask)?;
            *input = rest;
            Ok(value)
        }
        _ => Err(DecodeError::new("escaped bytes", input)),
    }
}

fn unescape_masked(input: &mut &[u8], mask: u8) -> Result<Vec<u8>, DecodeError> {
    let corrupt = || DecodeError::new("escaped bytes with a terminator", input);
    let mut out = Vec::new();
    let mut rest = *input;
    loop {
        let at = rest.iter().position(|&byte| byte ^ mask == ESCAPE).ok_or_else(corrupt)?;
        let (head, tail) = rest.split_at(at);
        out.extend(head.iter().map(|&byte| byte ^ mask));
        let (&code, after) = tail.get(1..).and_then(<[u8]>::split_first).ok_or_else(corrupt)?;
        match code ^ mask {
            ESCAPED_ZERO => out.push(0),
            TERMINATOR => {
                *input = after;
                return Ok(out);
            }
            _ => return Err(corrupt()),
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;

    fn bytes_of<T>(encode: fn(&mut Vec<u8>, T), value: T) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, value);
        out
    }

    /// Checks order, prefix freedom and round trip of one pair of values.
    fn check<T: Copy, U: PartialEq + std::fmt::Debug>(
        encode: fn(&mut Vec<u8>, T),
        decode: fn(&mut &[u8]) -> Result<U, DecodeError>,
        (a, decoded): (T, U),
        b: T,
        order: Ordering,
    ) {
        let (left, right) = (bytes_of(encode, a), bytes_of(encode, b));
        assert_eq!(left.cmp(&right), order, "{left:02x?} against {right:02x?}");
        if order != Ordering::Equal {
            assert!(!left.starts_with(&right) && !right.starts_with(&left));
        }
        let mut input = left.clone();
        input.extend(&right);
        let mut input = input.as_slice();
        assert_eq!(decode(&mut input).unwrap(), decoded);
        assert_eq!(input, right, "moved past the value, not further");
        for cut in 0..left.len() {
            assert!(decode(&mut &left[..cut]).is_err(), "truncated at {cut}: {left:02x?}");
        }
    }

    fn any_int() -> impl Strategy<Value = i64> {
        prop_oneof![
            any::<i64>(),
            (0..63_u32, any::<bool>(), -2..2_i64).prop_map(|(shift, negative, delta)| {
                let value = (1_i64 << shift).wrapping_add(delta);
                if negative { value.wrapping_neg() } else { value }
            }),
            -300..300_i64,
        ]
    }

    proptest! {
        #[test]
        fn uvarints_sort(a in any_int(), b in any_int()) {
            let (a, b) = (a.cast_unsigned(), b.cast_unsigned());
            check(encode_uvarint, decode_uvarint, (a, a), b, a.cmp(&b));
        }

        #[test]
        fn ints_sort(a in any_int(), b in any_int()) {
            check(encode_int_asc, decode_int_asc, (a, a), b, a.cmp(&b));
            check(encode_int_desc, decode_int_desc, (a, a), b, b.cmp(&a));
        }

        #[test]
        fn floats_sort(a in any::<f64>(), b in any::<f64>()) {
            let (a, b) = (a + 0.0, b + 0.0);
            prop_assume!(!a.is_nan() && !b.is_nan());
            let order = a.partial_cmp(&b).unwrap();
            check(encode_float_asc, decode_float_asc, (a, a), b, order);
            check(encode_float_desc, decode_float_desc, (a, a), b, order.reverse());
            let nan = bytes_of(encode_float_asc, f64::NAN);
            prop_assert!(nan < bytes_of(encode_float_asc, a));
            let nan = bytes_of(encode_float_desc, f64::NAN);
            prop_assert!(nan > bytes_of(encode_float_desc, a));
        }

        #[test]
        fn bytes_sort(
            a in prop::collection::vec(prop_oneof![Just(0), Just(0xff), Just(1), any::<u8>()], 0..6),
            b in prop::collection::vec(prop_oneof![Just(0), Just(0xff), Just(1), any::<u8>()], 0..6),
        ) {
            let order = a.cmp(&b);
            check(encode_bytes_asc, decode_bytes_asc, (&a, a.clone()), &b, order);
            check(encode_bytes_desc, decode_bytes_desc, (&a, a.clone()), &b, order.reverse());
        }

        #[test]
        fn garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..12)) {
            for decode in [decode_any] {
                let mut input = garbage.as_slice();
                while !input.is_empty() && decode(&mut input).is_ok() {}
            }
            let mut input = garbage.as_slice();
            if let Ok(value) = decode_uvarint(&mut input) {
                prop_assert_eq!(bytes_of(encode_uvarint, value), &garbage[..garbage.len() - input.len()]);
            }
            let mut input = garbage.as_slice();
            if let Ok(value) = decode_int_asc(&mut input) {
                prop_assert_eq!(bytes_of(encode_int_asc, value), &garbage[..garbage.len() - input.len()]);
            }
        }

        #[test]
        fn prefix_end_bounds_the_prefix(
            prefix in prop::collection::vec(prop_oneof![Just(0xff), any::<u8>()], 1..4),
            suffix in prop::collection::vec(any::<u8>(), 0..4),
        ) {
            let key = [prefix.as_slice(), &suffix].concat();
            if let Some(end) = prefix_end(&prefix) {
                prop_assert!(key < end);
                prop_assert!(!end.starts_with(&prefix));
            } else {
                prop_assert!(prefix.iter().all(|&byte| byte == 0xff));
            }
        }
    }

    #[test]
    fn null_sorts_first_ascending_and_last_descending() {
        let null = |encode: fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            encode(&mut out);
            out
        };
        for value in [i64::MIN, 0, i64::MAX] {
            assert!(null(encode_null_asc) < bytes_of(encode_int_asc, value));
            assert!(null(encode_null_desc) > bytes_of(encode_int_desc, value));
        }
        assert!(null(encode_null_asc) < bytes_of(encode_float_asc, f64::NAN));
        assert!(null(encode_null_desc) > bytes_of(encode_float_desc, f64::NAN));
        assert!(null(encode_null_asc) < bytes_of(encode_bytes_asc, b"".as_slice()));
        assert!(null(encode_null_desc) > bytes_of(encode_bytes_desc, b"".as_slice()));
        assert!(decode_null(&mut [0].as_slice()) && decode_null(&mut [0xff].as_slice()));
        assert!(!decode_null(&mut [0x28].as_slice()) && !decode_null(&mut [].as_slice()));
    }

    #[test]
    fn small_values_are_small() {
        assert_eq!(bytes_of(encode_int_asc, 0), [0x28]);
        assert_eq!(bytes_of(encode_int_asc, 95), [0x87]);
        assert_eq!(bytes_of(encode_int_asc, 96), [0x88, 96]);
        assert_eq!(bytes_of(encode_int_asc, -1), [0x27, 0xff]);
        assert_eq!(bytes_of(encode_int_asc, i64::MIN), [0x20, 0x80, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes_of(encode_uvarint, 104), [104]);
        assert_eq!(bytes_of(encode_uvarint, 240), [0xf0, 240]);
    }
}
