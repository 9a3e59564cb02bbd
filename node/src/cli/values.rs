//! Values of flags as users write them: sizes, durations, localities, store specifications.

use std::path::PathBuf;
use std::time::Duration;

/// A size in bytes, or a share of something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Size {
    /// So many bytes.
    Bytes(u64),
    /// This share, between 0 and 1.
    Share(f64),
}

impl Size {
    /// The size, when shares are of `whole` bytes.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of the memory of a machine needs no more than the precision of f64"
    )]
    pub(crate) fn of(self, whole: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Share(share) => (whole as f64 * share) as u64,
        }
    }
}

/// Reads `20GB`, `20GiB`, `1048576`, `20%`, `0.2` or `.2`.
pub(crate) fn parse_size(text: &str) -> Result<Size, String> {
    let bad = || format!("{text:?} is not a size: write bytes, 20GB, 20GiB, 20% or 0.2");
    let trimmed = text.trim();
    if let Some(percent) = trimmed.strip_suffix('%') {
        let percent: f64 = percent.trim().parse().map_err(|_| bad())?;
        let valid = (0.0..=100.0).contains(&percent);
        return if valid { Ok(Size::Share(percent / 100.0)) } else { Err(bad()) };
    }
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let value: f64 = number.parse().map_err(|_| bad())?;
    let power = |base: u64, exponent: u32| base.pow(exponent);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" if number.contains('.') => {
            return if (0.0..=1.0).contains(&value) { Ok(Size::Share(value)) } else { Err(bad()) };
        }
        "" | "b" => 1,
        "k" | "kb" => power(1000, 1),
        "m" | "mb" => power(1000, 2),
        "g" | "gb" => power(1000, 3),
        "t" | "tb" => power(1000, 4),
        "ki" | "kib" => power(1024, 1),
        "mi" | "mib" => power(1024, 2),
        "gi" | "gib" => power(1024, 3),
        "ti" | "tib" => power(1024, 4),
        _ => return Err(bad()),
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "float casts saturate, and sizes given by people need no more precision"
    )]
    Ok(Size::Bytes((value * factor as f64) as u64))
}

/// Reads a sequence of numbers with units, such as `500ms` or `1m30s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration: write 500ms, 10s or 1m30s");
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, after) = rest.split_at(end);
        let value: f64 = number.parse().map_err(|_| bad())?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        total += value
            * match unit {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(bad()),
            };
        rest = after;
    }
    Duration::try_from_secs_f64(total).map_err(|_| bad())
}

/// Reads `region=us-east,zone=a`.
pub(crate) fn parse_locality(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut tiers: Vec<(String, String)> = Vec::new();
    for tier in text.split(',').filter(|_| !text.trim().is_empty()) {
        let pair = tier.trim().split_once('=').filter(|(k, v)| !k.is_empty() && !v.is_empty());
        let (key, value) =
            pair.ok_or_else(|| format!("{tier:?} is not a tier: write key=value, as in zone=a"))?;
        if tiers.iter().any(|(known, _)| known == key) {
            return Err(format!("the tier {key:?} is given twice"));
        }
        tiers.push((key.to_owned(), value.to_owned()));
    }
    Ok(tiers)
}

/// Reads `PATH` or `path=PATH`.
pub(crate) fn parse_store(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the store has no path".to_owned());
    }
    if !text.contains('=') && !text.contains(',') {
        return Ok(PathBuf::from(text));
    }
    let mut path = None;
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("path", value)) if !value.is_empty() => path = Some(PathBuf::from(value)),
            Some(("type", "mem")) => {
                return Err("stores in memory are not supported yet; give a path".to_owned());
            }
            Some((key @ ("attrs" | "size" | "ballast-size" | "provisioned-rate"), _)) => {
                return Err(format!("the store field {key:?} is not supported yet"));
            }
            _ => return Err(format!("{field:?} is not a field of a store: write path=PATH")),
        }
    }
    path.ok_or_else(|| format!("{text:?} names no path: write path=PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("1048576"), Ok(Size::Bytes(1 << 20)));
        assert_eq!(parse_size("128MiB"), Ok(Size::Bytes(128 << 20)));
        assert_eq!(parse_size("1.5GB"), Ok(Size::Bytes(1_500_000_000)));
        assert_eq!(parse_size(".25").map(|s| s.of(400)), Ok(100));
        assert_eq!(parse_size("25%").map(|s| s.of(400)), Ok(100));
        for bad in ["", "x", "12q", "120%", "1.5", "-1"] {
            parse_size(bad).unwrap_err();
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for bad in ["", "5", "s", "1w", "-1s", "1e400s"] {
            parse_duration(bad).unwrap_err();
        }
    }

    #[test]
    fn localities_keep_their_order() {
        let tiers = parse_locality("region=us-east,zone=a").unwrap();
        assert_eq!(tiers, [("region".into(), "us-east".into()), ("zone".into(), "a".into())]);
        assert_eq!(parse_locality(""), Ok(Vec::new()));
        for bad in ["region", "=x", "a=", "a=1,a=2", ","] {
            parse_locality(bad).unwrap_err();
        }
    }

    #[test]
    fn stores() {
        assert_eq!(parse_store("node1"), Ok(PathBuf::from("node1")));
        assert_eq!(parse_store("path=a=b"), Ok(PathBuf::from("a=b")));
        for bad in ["", "type=mem,size=1GB", "size=1GB", "path=", "path=x,attrs=ssd"] {
            parse_store(bad).unwrap_err();
        }
    }
}
