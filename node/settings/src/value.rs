//! Values of settings: their types, texts and bounds.

use std::time::Duration;

use crate::Value;

/// What may stand in a setting. All of it fits 64 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// On or off.
    Bool,
    /// An integer within bounds.
    Int {
        /// The smallest.
        min: i64,
        /// The largest.
        max: i64,
    },
    /// A number that is not negative.
    Float,
    /// A duration.
    Duration {
        /// The shortest.
        min: Duration,
    },
    /// A number of bytes.
    ByteSize {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// One of some words.
    Enum(&'static [&'static str]),
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Why a text cannot stand in a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError(String);

impl std::fmt::Display for ParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseError {}

impl Value for bool {
    fn from_bits(bits: u64) -> Self {
        bits != 0
    }
}

impl Value for i64 {
    fn from_bits(bits: u64) -> Self {
        bits.cast_signed()
    }
}

impl Value for f64 {
    fn from_bits(bits: u64) -> Self {
        Self::from_bits(bits)
    }
}

impl Value for Duration {
    fn from_bits(bits: u64) -> Self {
        Self::from_nanos(bits)
    }
}

impl Value for ByteSize {
    fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl Kind {
    /// The letter by which SHOW CLUSTER SETTINGS names the type.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::Bool => "b",
            Self::Int { .. } => "i",
            Self::Float => "f",
            Self::Duration { .. } => "d",
            Self::ByteSize { .. } => "z",
            Self::Enum(_) => "e",
        }
    }

    /// The bits of a text, which must be within the setting's bounds.
    pub fn parse(self, text: &str) -> Result<u64, ParseError> {
        let text = text.trim();
        let not = |ty: &str| ParseError(format!("could not parse \"{text}\" as type {ty}"));
        match self {
            Self::Bool => match text.to_ascii_lowercase().as_str() {
                "true" | "t" | "on" | "yes" | "1" => Ok(1),
                "false" | "f" | "off" | "no" | "0" => Ok(0),
                _ => Err(not("bool")),
            },
            Self::Int { min, max } => {
                let value: i64 = text.parse().map_err(|_| not("int"))?;
                if value < min || value > max {
                    return Err(ParseError(format!("{value} is not within {min} and {max}")));
                }
                Ok(value.cast_unsigned())
            }
            Self::Float => {
                let value: f64 = text.parse().map_err(|_| not("float"))?;
                if value.is_nan() || value < 0.0 {
                    return Err(ParseError(format!("cannot be set to a negative value: {value}")));
                }
                Ok(value.to_bits())
            }
            Self::Duration { min } => {
                if text.starts_with('-') && parse_duration(&text[1..]).is_some() {
                    return Err(ParseError(format!(
                        "cannot be set to a negative duration: {text}"
                    )));
                }
                let value = parse_duration(text).ok_or_else(|| not("duration"))?;
                if value < min {
                    let (value, min) = (format_duration(value), format_duration(min));
                    return Err(ParseError(format!(
                        "{value} is shorter than the minimum of {min}"
                    )));
                }
                u64::try_from(value.as_nanos()).map_err(|_| not("duration"))
            }
            Self::ByteSize { min, max } => {
                let value = parse_bytes(text).ok_or_else(|| not("byte size"))?;
                if value < min {
                    let (value, min) = (format_bytes(value), format_bytes(min));
                    return Err(ParseError(format!("{value} is less than the minimum of {min}")));
                }
                if value > max {
                    let (value, max) = (format_bytes(value), format_bytes(max));
                    return Err(ParseError(format!("{value} is more than the maximum of {max}")));
                }
                Ok(value)
            }
            Self::Enum(words) => {
                let at = words.iter().position(|word| word.eq_ignore_ascii_case(text));
                at.and_then(|at| u64::try_from(at).ok()).ok_or_else(|| {
                    let words = words.join(", ");
                    ParseError(format!(
                        "invalid string value '{text}' for enum setting; it takes one of: {words}"
                    ))
                })
            }
        }
    }

    /// The text of bits that [`Self::parse`] returned.
    #[must_use]
    pub fn format(self, bits: u64) -> String {
        match self {
            Self::Bool => (bits != 0).to_string(),
            Self::Int { .. } => bits.cast_signed().to_string(),
            Self::Float => f64::from_bits(bits).to_string(),
            Self::Duration { .. } => format_duration(Duration::from_nanos(bits)),
            Self::ByteSize { .. } => format_bytes(bits),
            Self::Enum(words) => {
                let word = usize::try_from(bits).ok().and_then(|at| words.get(at));
                word.copied().unwrap_or_default().to_owned()
            }
        }
    }
}

/// Units of durations, in nanoseconds.
const UNITS: [(&str, u64); 13] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("h", 3_600_000_000_000),
    ("hour", 3_600_000_000_000),
    ("hours", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("minute", 60_000_000_000),
    ("minutes", 60_000_000_000),
    ("s", 1_000_000_000),
    ("second", 1_000_000_000),
    ("seconds", 1_000_000_000),
];

/// Reads `1m30s`, `1.5s`, `200ms`, `5 minutes`, `00:05:00` or `0`. None when it is no duration, or
/// one longer than 64 bits of nanoseconds.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text == "0" {
        return Some(Duration::ZERO);
    }
    if text.contains(':') {
        return parse_clock(text);
    }
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let end = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let (unit, left) = after.split_at(end);
        let nanos = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        total = total.checked_add(scaled(number, nanos)?)?;
        rest = left.trim_start();
    }
    (!text.is_empty()).then(|| Duration::from_nanos(total))
}

/// A decimal number of units; none when it does not fit.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let (mut part, mut scale) = (0_u128, 1_u128);
    // Digits beyond these are below a unit of anything.
    for digit in fraction.chars().take(18) {
        part = part * 10 + u128::from(digit.to_digit(10)?);
        scale *= 10;
    }
    let part = u64::try_from(part * u128::from(unit) / scale).ok()?;
    whole.checked_mul(unit)?.checked_add(part)
}

/// `hh:mm:ss[.fraction]`.
fn parse_clock(text: &str) -> Option<Duration> {
    let mut parts = text.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let hours: u64 = hours.parse().ok()?;
    let minutes: u64 = minutes.parse().ok().filter(|minutes| *minutes < 60)?;
    let whole = hours.checked_mul(3600)?.checked_add(minutes * 60)?.checked_mul(1_000_000_000)?;
    Some(Duration::from_nanos(whole.checked_add(scaled(seconds, 1_000_000_000)?)?))
}

/// The shortest spelling of a duration in the form `1h2m3.5s`; below a second `200ms`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let unit = |unit: u128, name: &str| {
        let fraction = format!("{:0width$}", nanos % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let whole = nanos / unit;
        if fraction.is_empty() {
            format!("{whole}{name}")
        } else {
            format!("{whole}.{fraction}{name}")
        }
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => unit(1_000, "µs"),
        1_000_000..1_000_000_000 => unit(1_000_000, "ms"),
        _ => {
            let (hours, minutes) = (duration.as_secs() / 3600, duration.as_secs() / 60 % 60);
            let under = duration - Duration::from_secs(duration.as_secs() / 60 * 60);
            let mut text = String::new();
            if hours > 0 {
                text.push_str(&format!("{hours}h"));
            }
            if hours > 0 || minutes > 0 {
                text.push_str(&format!("{minutes}m"));
            }
            let fraction = format!("{:09}", under.subsec_nanos());
            let fraction = fraction.trim_end_matches('0');
            text.push_str(&under.as_secs().to_string());
            if !fraction.is_empty() {
                text.push_str(&format!(".{fraction}"));
            }
            text.push('s');
            text
        }
    }
}

const BYTE_UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("k", 1_000),
    ("kb", 1_000),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

/// Reads `64`, `64KiB`, `1.5 MiB` or `10MB`.
fn parse_bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let unit = BYTE_UNITS.iter().find(|(name, _)| *name == unit)?.1;
    scaled(number, unit)
}

/// The number of bytes in the largest unit that is not larger, such as `512 KiB` or `4.0 MiB`; exact
/// when that form is, otherwise in bytes.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    for (unit, name) in [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
    {
        if bytes < unit {
            continue;
        }
        let (whole, rest) = (bytes / unit, bytes % unit);
        if whole >= 10 && rest == 0 {
            return format!("{whole} {name}");
        }
        // One digit behind the point, if that is all there is.
        let tenths = u128::from(rest) * 10;
        if whole < 10 && tenths.is_multiple_of(u128::from(unit)) {
            return format!("{whole}.{} {name}", tenths / u128::from(unit));
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::*;

    fn table(kind: Kind, texts: &[&str]) -> String {
        let line = |text: &&str| match kind.parse(text) {
            Ok(bits) => {
                let shown = kind.format(bits);
                assert_eq!(kind.parse(&shown), Ok(bits), "{text} -> {shown}");
                format!("{text:?} -> {shown}\n")
            }
            Err(error) => format!("{text:?}: {error}\n"),
        };
        texts.iter().map(line).collect()
    }

    #[test]
    fn texts_become_values_within_bounds() {
        let duration = Kind::Duration { min: Duration::from_millis(10) };
        let durations = [
            "3s",
            "1m30s",
            "1.5s",
            "200ms",
            "10 ms",
            "1500us",
            "90 seconds",
            "5 minutes",
            "48h",
            "00:05:00",
            "1:02:03.5",
            "1h0.25s",
            "0",
            "9ms",
            "-1s",
            "3",
            "s",
            "1x",
            "",
            ".s",
            "99999999999h",
            "1:99:00",
            "1:2:3:4",
        ];
        let bytes = [
            "0",
            "1023",
            "1024",
            "1536",
            "64KiB",
            "1.5 MiB",
            "10MB",
            "2gib",
            "4.0 MiB",
            "1e9",
            "-1",
            "x",
            "99999999999999 TiB",
        ];
        let out = [
            table(Kind::Bool, &["true", "OFF", "1", "maybe", ""]),
            table(Kind::Int { min: 1, max: 10 }, &["1", "10", "0", "11", "1.5", "x"]),
            table(Kind::Float, &["0.05", "1e3", "-1", "NaN", "x"]),
            table(duration, &durations),
            table(Kind::ByteSize { min: 0, max: u64::MAX }, &bytes),
            table(Kind::ByteSize { min: 1024, max: 2048 }, &["1023", "2048", "2049"]),
            table(Kind::Enum(&["auto", "on", "off"]), &["On", "auto", "never"]),
        ];
        expect_file!["values.expected"].assert_eq(&out.concat());
    }
}
