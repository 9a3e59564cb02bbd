//! `to_char` of times: the patterns in common use; others are refused by name.

use std::fmt::Write as _;

use crate::datum::civil::{Civil, HOUR, MINUTE, SECOND};
use crate::error::{Result, SqlError};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Longest first, so that `HH24` is not read as `HH`.
const PATTERNS: &[&str] = &[
    "HH24", "HH12", "MONTH", "Month", "month", "YYYY", "IYYY", "DDD", "DAY", "Day", "day", "MON",
    "Mon", "mon", "HH", "MI", "SS", "MS", "US", "AM", "PM", "am", "pm", "YY", "MM", "DD", "DY",
    "Dy", "dy", "TZ", "OF", "IW", "WW", "ID", "D", "Q", "J",
];

fn cased(name: &str, pattern: &str) -> String {
    if pattern.chars().all(char::is_uppercase) {
        name.to_uppercase()
    } else if pattern.starts_with(char::is_lowercase) {
        name.to_lowercase()
    } else {
        name.to_owned()
    }
}

/// Writes a local time by a template.
pub(super) fn timestamp(local: i64, offset: Option<i32>, template: &str) -> Result<String> {
    let c = Civil::from_micros(local);
    let mut out = String::new();
    let mut rest = template;
    let mut trim = false;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (literal, after) = quoted.split_once('"').unwrap_or((quoted, ""));
            out.push_str(literal);
            rest = after;
            continue;
        }
        if let Some(after) = rest.strip_prefix("FM") {
            trim = true;
            rest = after;
            continue;
        }
        let Some(pattern) = PATTERNS.iter().find(|p| rest.starts_with(**p)) else {
            let mut chars = rest.chars();
            let Some(next) = chars.next() else { break };
            if next.is_ascii_alphabetic() && next != 'T' && next != 'Z' {
                return Err(SqlError::unsupported(format!("to_char pattern at \"{rest}\""))
                    .with_hint("Put literal text in double quotes."));
            }
            out.push(next);
            rest = chars.as_str();
            continue;
        };
        rest = rest.strip_prefix(pattern).unwrap_or("");
        write_pattern(&mut out, pattern, c, offset, trim);
        trim = false;
    }
    Ok(out)
}

fn write_pattern(out: &mut String, pattern: &str, c: Civil, offset: Option<i32>, trim: bool) {
    let hour = c.micros / HOUR;
    let number = |out: &mut String, value: i64, width: usize| {
        let width = if trim { 0 } else { width };
        write!(out, "{value:0width$}").expect("writing to a string cannot fail");
    };
    let name = |out: &mut String, names: &[&str], index: i64, width: usize| {
        let name = usize::try_from(index).ok().and_then(|i| names.get(i)).copied().unwrap_or("");
        let name = cased(name, pattern);
        let width = if trim { 0 } else { width };
        write!(out, "{name:width$}").expect("writing to a string cannot fail");
    };
    let short = |out: &mut String, names: &[&str], index: i64| {
        let name = usize::try_from(index).ok().and_then(|i| names.get(i)).copied().unwrap_or("");
        out.push_str(&cased(name.get(..3).unwrap_or(name), pattern));
    };
    match pattern {
        "YYYY" => number(out, c.year, 4),
        "IYYY" => number(out, c.iso_week().0, 4),
        "YY" => number(out, c.year.rem_euclid(100), 2),
        "MM" => number(out, c.month.into(), 2),
        "DD" => number(out, c.day.into(), 2),
        "DDD" => number(out, c.day_of_year(), 3),
        "HH24" => number(out, hour, 2),
        "HH" | "HH12" => number(out, (hour + 11) % 12 + 1, 2),
        "MI" => number(out, c.micros / MINUTE % 60, 2),
        "SS" => number(out, c.micros / SECOND % 60, 2),
        "MS" => number(out, c.micros % SECOND / 1000, 3),
        "US" => number(out, c.micros % SECOND, 6),
        "AM" | "PM" => out.push_str(if hour < 12 { "AM" } else { "PM" }),
        "am" | "pm" => out.push_str(if hour < 12 { "am" } else { "pm" }),
        "MONTH" | "Month" | "month" => name(out, &MONTHS, i64::from(c.month) - 1, 9),
        "MON" | "Mon" | "mon" => short(out, &MONTHS, i64::from(c.month) - 1),
        "DAY" | "Day" | "day" => name(out, &DAYS, c.weekday(), 9),
        "DY" | "Dy" | "dy" => short(out, &DAYS, c.weekday()),
        "D" => number(out, c.weekday() + 1, 1),
        "ID" => number(out, (c.weekday() + 6).rem_euclid(7) + 1, 1),
        "Q" => number(out, i64::from((c.month - 1) / 3 + 1), 1),
        "IW" => number(out, c.iso_week().1, 2),
        "WW" => number(out, (c.day_of_year() - 1) / 7 + 1, 2),
        "J" => number(out, c.to_micros().unwrap_or(0).div_euclid(24 * HOUR) + 2_440_588, 1),
        "TZ" | "OF" => {
            if let Some(offset) = offset {
                if pattern == "TZ" && offset == 0 {
                    out.push_str("UTC");
                } else {
                    let sign = if offset < 0 { '-' } else { '+' };
                    let minutes = offset.unsigned_abs() / 60;
                    write!(out, "{sign}{:02}", minutes / 60)
                        .expect("writing to a string cannot fail");
                    if minutes % 60 != 0 {
                        write!(out, ":{:02}", minutes % 60)
                            .expect("writing to a string cannot fail");
                    }
                }
            }
        }
        _ => {}
    }
}
