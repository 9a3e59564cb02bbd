//! INTERVAL values: months, days and microseconds, kept apart.

use std::cmp::Ordering;
use std::fmt;

use super::civil::{DAY, HOUR, MINUTE, SECOND};
use crate::error::{Result, SqlError, SqlState};

/// A span of time. Months and days have no fixed length until added to a date.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interval {
    /// Months, of any length.
    pub months: i32,
    /// Days, of any length.
    pub days: i32,
    /// Microseconds.
    pub micros: i64,
}

fn overflow() -> SqlError {
    SqlError::new(SqlState::DATETIME_OVERFLOW, "interval out of range")
}

impl Interval {
    /// The length with 30-day months and 24-hour days: what comparison uses.
    #[must_use]
    pub fn comparable(self) -> i128 {
        (i128::from(self.months) * 30 + i128::from(self.days)) * i128::from(DAY)
            + i128::from(self.micros)
    }

    /// Sum, part by part.
    pub fn checked_add(self, other: Self) -> Result<Self> {
        (|| {
            Some(Self {
                months: self.months.checked_add(other.months)?,
                days: self.days.checked_add(other.days)?,
                micros: self.micros.checked_add(other.micros)?,
            })
        })()
        .ok_or_else(overflow)
    }

    /// The interval turned around.
    pub fn checked_neg(self) -> Result<Self> {
        (|| {
            Some(Self {
                months: self.months.checked_neg()?,
                days: self.days.checked_neg()?,
                micros: self.micros.checked_neg()?,
            })
        })()
        .ok_or_else(overflow)
    }

    /// Multiplied by a factor; fractions of months go to days, of days to microseconds.
    pub fn scaled(self, factor: f64) -> Result<Self> {
        Self::from_parts(
            f64::from(self.months) * factor,
            f64::from(self.days) * factor,
            int_to_f64(self.micros) * factor,
        )
    }

    /// Whole parts of each, the fractions moved to the next smaller part.
    fn from_parts(months: f64, days: f64, micros: f64) -> Result<Self> {
        let whole_months = months.trunc();
        let extra_days = (months - whole_months) * 30.0;
        // Rounding away what binary fractions add, as PostgreSQL does.
        let extra_days = (extra_days * 1e6).round() / 1e6;
        let days = days + extra_days;
        let whole_days = days.trunc();
        let rest = ((days - whole_days) * 1e6).round() / 1e6;
        let micros = micros + rest * int_to_f64(DAY);
        let limit = f64::from(i32::MAX);
        if !(whole_months.is_finite() && whole_days.is_finite() && micros.is_finite()) {
            return Err(overflow());
        }
        if whole_months.abs() > limit || whole_days.abs() > limit || micros.abs() > 9.2e18 {
            return Err(overflow());
        }
        #[expect(clippy::cast_possible_truncation, reason = "bounds checked above")]
        Ok(Self {
            months: whole_months as i32,
            days: whole_days as i32,
            micros: micros.round() as i64,
        })
    }

    /// Reads PostgreSQL's verbose form, `1-2` year-month form, clock form and ISO 8601.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = || {
            SqlError::new(
                SqlState::INVALID_DATETIME,
                format!("invalid input syntax for type interval: \"{text}\""),
            )
        };
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(invalid());
        }
        if let Some(iso) = trimmed.strip_prefix(['P', 'p']) {
            return parse_iso(iso).ok_or_else(invalid)?;
        }
        parse_verbose(trimmed).ok_or_else(invalid)?
    }
}

#[expect(clippy::cast_precision_loss, reason = "interval arithmetic on fractions is inexact")]
fn int_to_f64(value: i64) -> f64 {
    value as f64
}

/// Adds `value` of a unit; None for an unknown unit.
fn add_unit(total: &mut (f64, f64, f64), value: f64, unit: &str) -> Option<()> {
    let (months, days, micros) = match unit {
        "us" | "usec" | "usecs" | "microsecond" | "microseconds" => (0.0, 0.0, 1.0),
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => (0.0, 0.0, 1e3),
        "s" | "sec" | "secs" | "second" | "seconds" => (0.0, 0.0, 1e6),
        "m" | "min" | "mins" | "minute" | "minutes" => (0.0, 0.0, 6e7),
        "h" | "hr" | "hrs" | "hour" | "hours" => (0.0, 0.0, 3.6e9),
        "d" | "day" | "days" => (0.0, 1.0, 0.0),
        "w" | "week" | "weeks" => (0.0, 7.0, 0.0),
        "mon" | "mons" | "month" | "months" => (1.0, 0.0, 0.0),
        "y" | "yr" | "yrs" | "year" | "years" => (12.0, 0.0, 0.0),
        "decade" | "decades" => (120.0, 0.0, 0.0),
        "century" | "centuries" => (1200.0, 0.0, 0.0),
        _ => return None,
    };
    total.0 += value * months;
    total.1 += value * days;
    total.2 += value * micros;
    Some(())
}

/// `04:05:06.789` or `04:05`, with a sign.
fn parse_clock(text: &str) -> Option<f64> {
    let (negative, body) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut parts = body.split(':');
    let hours: f64 = parts.next()?.parse::<u32>().ok()?.into();
    let minutes: f64 = parts.next()?.parse::<u32>().ok()?.into();
    let seconds: f64 = parts.next().map_or(Some(0.0), |s| s.parse().ok())?;
    if parts.next().is_some() || minutes >= 60.0 || !(0.0..61.0).contains(&seconds) {
        return None;
    }
    let micros = hours * 3.6e9 + minutes * 6e7 + (seconds * 1e6).round();
    Some(if negative { -micros } else { micros })
}

fn parse_verbose(text: &str) -> Option<Result<Interval>> {
    let lower = text.to_ascii_lowercase();
    let (body, ago) = match lower.strip_suffix("ago") {
        Some(rest) => (rest.trim_end(), true),
        None => (lower.as_str(), false),
    };
    let mut total = (0.0, 0.0, 0.0);
    let mut tokens = body.strip_prefix('@').unwrap_or(body).split_whitespace().peekable();
    let mut seen = false;
    while let Some(token) = tokens.next() {
        seen = true;
        if token.contains(':') {
            total.2 += parse_clock(token)?;
            continue;
        }
        let split = token
            .char_indices()
            .find(|(i, c)| {
                !(c.is_ascii_digit() || *c == '.' || (*i == 0 && (*c == '-' || *c == '+')))
            })
            .map_or(token.len(), |(i, _)| i);
        let (number, unit) = token.split_at(split);
        if let Some(months) = unit.strip_prefix('-').and_then(|m| m.parse::<i32>().ok()) {
            // Year-month form; the sign of the years holds for both.
            let years: f64 = number.parse().ok()?;
            let sign = if number.starts_with('-') { -1.0 } else { 1.0 };
            total.0 += years * 12.0 + sign * f64::from(months);
            continue;
        }
        let value: f64 = number.parse().ok()?;
        if unit.is_empty() {
            match tokens.peek() {
                Some(next)
                    if !next.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') =>
                {
                    let unit = tokens.next()?;
                    add_unit(&mut total, value, unit)?;
                }
                Some(next) if next.contains(':') => total.1 += value,
                // A bare number means seconds.
                None => total.2 += value * 1e6,
                Some(_) => return None,
            }
        } else {
            add_unit(&mut total, value, unit)?;
        }
    }
    if !seen {
        return None;
    }
    let sign = if ago { -1.0 } else { 1.0 };
    Some(Interval::from_parts(total.0 * sign, total.1 * sign, total.2 * sign))
}

fn parse_iso(text: &str) -> Option<Result<Interval>> {
    let mut total = (0.0, 0.0, 0.0);
    let mut in_time = false;
    let mut number = String::new();
    if text.is_empty() {
        return None;
    }
    for c in text.chars() {
        match c {
            '0'..='9' | '.' | '-' | '+' => number.push(c),
            'T' | 't' if number.is_empty() && !in_time => in_time = true,
            _ => {
                let value: f64 = number.parse().ok()?;
                number.clear();
                let unit = match (c.to_ascii_uppercase(), in_time) {
                    ('Y', false) => "year",
                    ('M', false) => "month",
                    ('W', false) => "week",
                    ('D', false) => "day",
                    ('H', true) => "hour",
                    ('M', true) => "minute",
                    ('S', true) => "second",
                    _ => return None,
                };
                add_unit(&mut total, value, unit)?;
            }
        }
    }
    number.is_empty().then(|| Interval::from_parts(total.0, total.1, total.2))
}

impl PartialEq for Interval {
    fn eq(&self, other: &Self) -> bool {
        self.comparable() == other.comparable()
    }
}

impl Eq for Interval {}

impl PartialOrd for Interval {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Interval {
    fn cmp(&self, other: &Self) -> Ordering {
        self.comparable().cmp(&other.comparable())
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        // A positive part after a negative one shows its sign.
        let mut negative_before = false;
        let mut part = |f: &mut fmt::Formatter<'_>, value: i32, unit: &str| -> fmt::Result {
            if value == 0 {
                return Ok(());
            }
            let plus = if negative_before && value > 0 { "+" } else { "" };
            let plural = if value == 1 { "" } else { "s" };
            write!(f, "{space}{plus}{value} {unit}{plural}")?;
            negative_before = value < 0;
            space = " ";
            Ok(())
        };
        part(f, self.months / 12, "year")?;
        part(f, self.months % 12, "mon")?;
        part(f, self.days, "day")?;
        if self.micros != 0 || (self.months == 0 && self.days == 0) {
            let sign = if self.micros < 0 {
                "-"
            } else if negative_before {
                "+"
            } else {
                ""
            };
            let micros = i128::from(self.micros).unsigned_abs();
            let (hour, minute, second) =
                (HOUR.unsigned_abs(), MINUTE.unsigned_abs(), SECOND.unsigned_abs());
            let hours = micros / u128::from(hour);
            let minutes = micros / u128::from(minute) % 60;
            let seconds = micros / u128::from(second) % 60;
            write!(f, "{space}{sign}{hours:02}:{minutes:02}:{seconds:02}")?;
            write_fraction(f, micros % u128::from(second))?;
        }
        Ok(())
    }
}

/// Writes `.123` for microseconds of a second, without trailing zeros.
pub(crate) fn write_fraction(f: &mut impl fmt::Write, micros: u128) -> fmt::Result {
    if micros == 0 {
        return Ok(());
    }
    let digits = format!("{micros:06}");
    write!(f, ".{}", digits.trim_end_matches('0'))
}
