//! Text forms of DATE, TIME, TIMESTAMP and TIMESTAMPTZ.

use std::fmt::Write as _;

use jiff::Timestamp as JiffTimestamp;
use jiff::tz::{Offset, TimeZone};

use super::civil::{self, Civil, DAY, HOUR, MINUTE, SECOND};
use super::interval::write_fraction;
use crate::error::{Result, SqlError, SqlState};

/// Days that mean infinity.
pub(crate) const DATE_INFINITY: i32 = i32::MAX;
/// Days that mean minus infinity.
pub(crate) const DATE_NEG_INFINITY: i32 = i32::MIN;
/// Microseconds that mean infinity.
pub(crate) const TS_INFINITY: i64 = i64::MAX;
/// Microseconds that mean minus infinity.
pub(crate) const TS_NEG_INFINITY: i64 = i64::MIN;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// Offset of a zone from UTC at an instant, in seconds.
pub(crate) fn offset_seconds(zone: &TimeZone, utc_micros: i64) -> i32 {
    JiffTimestamp::from_microsecond(utc_micros)
        .or_else(|_| {
            JiffTimestamp::from_second(if utc_micros < 0 {
                -377_000_000_000
            } else {
                253_000_000_000
            })
        })
        .map_or(0, |ts| zone.to_offset(ts).seconds())
}

/// UTC microseconds of a local time in a zone. A local time that a change of the clocks skips or
/// repeats takes the offset before the change.
pub(crate) fn local_to_utc(zone: &TimeZone, local_micros: i64) -> i64 {
    let offset = i64::from(offset_seconds(zone, local_micros)) * SECOND;
    let guess = local_micros.saturating_sub(offset);
    let before = i64::from(offset_seconds(zone, guess.saturating_sub(DAY))) * SECOND;
    let at = local_micros.saturating_sub(before);
    if i64::from(offset_seconds(zone, at)) * SECOND == before {
        return at;
    }
    let after = i64::from(offset_seconds(zone, guess.saturating_add(DAY))) * SECOND;
    let later = local_micros.saturating_sub(after);
    if i64::from(offset_seconds(zone, later)) * SECOND == after { later } else { at }
}

/// The zone a name or an offset means.
pub(crate) fn parse_zone(text: &str) -> Option<TimeZone> {
    let text = text.trim();
    match text.to_ascii_lowercase().as_str() {
        "utc" | "z" | "zulu" | "gmt" | "default" | "local" => return Some(TimeZone::UTC),
        _ => {}
    }
    if let Some(seconds) = parse_offset(text) {
        return Offset::from_seconds(seconds).ok().map(TimeZone::fixed);
    }
    TimeZone::get(text).ok()
}

/// `+02`, `-05:30`, `+0530`, `+05:30:15`: seconds east of UTC.
fn parse_offset(text: &str) -> Option<i32> {
    let (sign, body) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+')?),
    };
    let (hours, minutes, seconds) = if body.contains(':') {
        let mut parts = body.split(':');
        let hours = parts.next()?.parse::<i32>().ok()?;
        let minutes = parts.next()?.parse::<i32>().ok()?;
        let seconds = parts.next().map_or(Some(0), |s| s.parse::<i32>().ok())?;
        (hours, minutes, seconds)
    } else if body.len() > 2 {
        let (h, m) = body.split_at_checked(body.len() - 2)?;
        (h.parse().ok()?, m.parse().ok()?, 0)
    } else {
        (body.parse().ok()?, 0, 0)
    };
    if !(0..=15).contains(&hours) || !(0..60).contains(&minutes) || !(0..60).contains(&seconds) {
        return None;
    }
    Some(sign * (hours * 3600 + minutes * 60 + seconds))
}

fn invalid(ty: &str, text: &str) -> SqlError {
    SqlError::new(
        SqlState::INVALID_DATETIME,
        format!("invalid input syntax for type {ty}: \"{text}\""),
    )
}

fn out_of_range(text: &str) -> SqlError {
    SqlError::new(
        SqlState::DATETIME_OVERFLOW,
        format!("date/time field value out of range: \"{text}\""),
    )
}

/// What the words of a date and time say.
#[derive(Default)]
struct Parsed {
    date: Option<(i64, u32, u32)>,
    micros: Option<i64>,
    zone: Option<TimeZone>,
}

/// `hh:mm[:ss[.ffffff]]`, microseconds since midnight.
fn parse_clock(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let hour: i64 = parts.next()?.parse::<u32>().ok()?.into();
    let minute: i64 = parts.next()?.parse::<u32>().ok()?.into();
    let (second, fraction) = match parts.next() {
        None => (0, 0),
        Some(s) => {
            let (whole, frac) = s.split_once('.').unwrap_or((s, ""));
            (i64::from(whole.parse::<u32>().ok()?), parse_fraction(frac)?)
        }
    };
    if parts.next().is_some() || hour > 24 || minute > 59 || second > 60 {
        return None;
    }
    let micros = hour * HOUR + minute * MINUTE + second * SECOND + fraction;
    (micros <= DAY).then_some(micros)
}

/// Digits after the point as microseconds, rounded.
fn parse_fraction(digits: &str) -> Option<i64> {
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut micros = 0i64;
    for b in digits.bytes().chain(std::iter::repeat(b'0')).take(6) {
        micros = micros * 10 + i64::from(b - b'0');
    }
    let round_up = digits.as_bytes().get(6).is_some_and(|b| *b >= b'5');
    Some(micros + i64::from(round_up))
}

/// `2024-01-02`, `20240102`, `1/2/2024`, `2024/1/2`.
fn parse_numeric_date(text: &str) -> Option<(i64, u32, u32)> {
    let separator = if text.contains('-') { '-' } else { '/' };
    let parts: Vec<&str> = text.split(separator).collect();
    match parts.as_slice() {
        [y, m, d] if y.len() >= 3 => Some((y.parse().ok()?, month(m)?, d.parse().ok()?)),
        [m, d, y] if separator == '/' => Some((full_year(y)?, m.parse().ok()?, d.parse().ok()?)),
        [a, b, y] if y.len() >= 3 => match month_name(b) {
            Some(m) => Some((y.parse().ok()?, m, a.parse().ok()?)),
            None => Some((y.parse().ok()?, a.parse().ok()?, b.parse().ok()?)),
        },
        [all] if all.len() == 8 && all.bytes().all(|b| b.is_ascii_digit()) => {
            let (y, rest) = all.split_at_checked(4)?;
            let (m, d) = rest.split_at_checked(2)?;
            Some((y.parse().ok()?, m.parse().ok()?, d.parse().ok()?))
        }
        _ => None,
    }
}

fn full_year(text: &str) -> Option<i64> {
    let year: i64 = text.parse().ok()?;
    Some(match (text.len(), year) {
        (2, 0..70) => 2000 + year,
        (2, _) => 1900 + year,
        _ => year,
    })
}

fn month_name(text: &str) -> Option<u32> {
    let lower = text.to_ascii_lowercase();
    let key = lower.get(..3)?;
    let index = MONTHS.iter().position(|m| *m == key)?;
    u32::try_from(index + 1).ok()
}

fn month(text: &str) -> Option<u32> {
    text.parse().ok().or_else(|| month_name(text))
}

/// Splits `04:05:06+02`, `04:05:06Z`, `04:05:06-05:30` into clock and zone.
fn split_clock_zone(text: &str) -> (&str, &str) {
    let at =
        text.find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.')).unwrap_or(text.len());
    text.split_at_checked(at).unwrap_or((text, ""))
}

fn parse_words(text: &str) -> Option<Parsed> {
    let mut parsed = Parsed::default();
    let mut words: Vec<String> = Vec::new();
    for word in text.split([' ', '\t', ',']).filter(|w| !w.is_empty()) {
        // `2024-01-02T03:04:05Z` is two words.
        match word.split_once(['T', 't']) {
            Some((date, clock))
                if date.starts_with(|c: char| c.is_ascii_digit())
                    && clock.starts_with(|c: char| c.is_ascii_digit()) =>
            {
                words.push(date.to_owned());
                words.push(clock.to_owned());
            }
            _ => words.push(word.to_owned()),
        }
    }
    let mut bc = false;
    let mut loose: Vec<String> = Vec::new();
    for word in &words {
        let lower = word.to_ascii_lowercase();
        if lower == "bc" {
            bc = true;
        } else if lower == "ad" {
        } else if word.contains(':') && word.starts_with(|c: char| c.is_ascii_digit()) {
            let (clock, zone) = split_clock_zone(word);
            parsed.micros = Some(parse_clock(clock)?);
            if !zone.is_empty() {
                parsed.zone = Some(parse_zone(zone)?);
            }
        } else if lower == "am" || lower == "pm" {
            let micros = parsed.micros?;
            let noon = 12 * HOUR;
            parsed.micros = Some(match (lower.as_str(), micros >= noon) {
                ("am", true) => micros - noon,
                ("pm", false) => micros + noon,
                _ => micros,
            });
        } else if parsed.date.is_none() && parse_numeric_date(word).is_some() {
            parsed.date = parse_numeric_date(word);
        } else if parsed.date.is_none()
            && (month_name(word).is_some() && !word.contains('/')
                || word.bytes().all(|b| b.is_ascii_digit()))
        {
            loose.push(word.clone());
        } else {
            parsed.zone = Some(parse_zone(word)?);
        }
    }
    if parsed.date.is_none() && !loose.is_empty() {
        let [a, b, y] = loose.as_slice() else { return None };
        let year = full_year(y)?;
        parsed.date = Some(match month_name(a) {
            Some(m) => (year, m, b.parse().ok()?),
            None => (year, month_name(b)?, a.parse().ok()?),
        });
    }
    if let (true, Some((year, _, _))) = (bc, parsed.date.as_mut()) {
        *year = 1i64.saturating_sub(*year);
    }
    Some(parsed)
}

fn checked_days(text: &str, (year, month, day): (i64, u32, u32)) -> Result<i64> {
    if !(1..=12).contains(&month)
        || !(-6_000_000..=6_000_000).contains(&year)
        || !(1..=civil::days_in_month(year, month)).contains(&day)
    {
        return Err(out_of_range(text));
    }
    Ok(civil::days_from_civil(year, month, day))
}

/// Reads a DATE as days since 1970-01-01. `now` is the statement's local time.
pub(crate) fn parse_date(text: &str, local_now: i64) -> Result<i32> {
    let today = i32::try_from(local_now.div_euclid(DAY)).unwrap_or(0);
    match text.trim().to_ascii_lowercase().as_str() {
        "infinity" => return Ok(DATE_INFINITY),
        "-infinity" => return Ok(DATE_NEG_INFINITY),
        "epoch" => return Ok(0),
        "today" | "now" => return Ok(today),
        "tomorrow" => return Ok(today + 1),
        "yesterday" => return Ok(today - 1),
        _ => {}
    }
    let parsed = parse_words(text.trim()).ok_or_else(|| invalid("date", text))?;
    let date = parsed.date.ok_or_else(|| invalid("date", text))?;
    let days = checked_days(text, date)?;
    i32::try_from(days)
        .ok()
        .filter(|d| (civil::MIN_DATE..=civil::MAX_DATE).contains(d))
        .ok_or_else(|| out_of_range(text))
}

/// Reads a TIME as microseconds since midnight.
pub(crate) fn parse_time(text: &str, local_now: i64) -> Result<i64> {
    match text.trim().to_ascii_lowercase().as_str() {
        "now" => return Ok(local_now.rem_euclid(DAY)),
        "allballs" => return Ok(0),
        _ => {}
    }
    parse_words(text.trim()).and_then(|p| p.micros).ok_or_else(|| invalid("time", text))
}

/// Reads a TIMESTAMP (zone ignored) or TIMESTAMPTZ (zone applied, the session's if none is given)
/// as microseconds since 1970-01-01.
pub(crate) fn parse_timestamp(
    text: &str,
    zone: Option<&TimeZone>,
    utc_now: i64,
    local_now: i64,
) -> Result<i64> {
    let ty = if zone.is_some() { "timestamp with time zone" } else { "timestamp" };
    let midnight = local_now.div_euclid(DAY) * DAY;
    let local = match text.trim().to_ascii_lowercase().as_str() {
        "infinity" => return Ok(TS_INFINITY),
        "-infinity" => return Ok(TS_NEG_INFINITY),
        "epoch" => return Ok(0),
        "now" => return Ok(if zone.is_some() { utc_now } else { local_now }),
        "today" => Some(midnight),
        "tomorrow" => Some(midnight + DAY),
        "yesterday" => Some(midnight - DAY),
        _ => None,
    };
    if let Some(local) = local {
        return Ok(zone.map_or(local, |z| local_to_utc(z, local)));
    }
    let parsed = parse_words(text.trim()).ok_or_else(|| invalid(ty, text))?;
    let date = parsed.date.ok_or_else(|| invalid(ty, text))?;
    let days = checked_days(text, date)?;
    let local = days
        .checked_mul(DAY)
        .and_then(|m| m.checked_add(parsed.micros.unwrap_or(0)))
        .ok_or_else(|| out_of_range(text))?;
    let value = match zone {
        None => local,
        Some(session) => local_to_utc(parsed.zone.as_ref().unwrap_or(session), local),
    };
    check_timestamp(value).ok_or_else(|| out_of_range(text))
}

/// The timestamp if it lies in PostgreSQL's range.
pub(crate) fn check_timestamp(micros: i64) -> Option<i64> {
    (civil::MIN_TIMESTAMP..civil::MAX_TIMESTAMP).contains(&micros).then_some(micros)
}

fn write_date(out: &mut String, year: i64, month: u32, day: u32) -> bool {
    let (shown, bc) = if year <= 0 { (1 - year, true) } else { (year, false) };
    write!(out, "{shown:04}-{month:02}-{day:02}").expect("writing to a string cannot fail");
    bc
}

fn write_clock(out: &mut String, micros: i64) {
    let (h, m, s) = (micros / HOUR, micros / MINUTE % 60, micros / SECOND % 60);
    write!(out, "{h:02}:{m:02}:{s:02}").expect("writing to a string cannot fail");
    write_fraction(out, i128::from(micros % SECOND).unsigned_abs())
        .expect("writing to a string cannot fail");
}

/// Writes a DATE.
pub(crate) fn format_date(out: &mut String, days: i32) {
    match days {
        DATE_INFINITY => out.push_str("infinity"),
        DATE_NEG_INFINITY => out.push_str("-infinity"),
        _ => {
            let (y, m, d) = civil::civil_from_days(days.into());
            if write_date(out, y, m, d) {
                out.push_str(" BC");
            }
        }
    }
}

/// Writes a TIME.
pub(crate) fn format_time(out: &mut String, micros: i64) {
    write_clock(out, micros);
}

/// Writes a TIMESTAMP, or with a zone a TIMESTAMPTZ.
pub(crate) fn format_timestamp(out: &mut String, micros: i64, zone: Option<&TimeZone>) {
    match micros {
        TS_INFINITY => return out.push_str("infinity"),
        TS_NEG_INFINITY => return out.push_str("-infinity"),
        _ => {}
    }
    let offset = zone.map(|z| offset_seconds(z, micros));
    let local = micros.saturating_add(i64::from(offset.unwrap_or(0)) * SECOND);
    let civil = Civil::from_micros(local);
    let bc = write_date(out, civil.year, civil.month, civil.day);
    out.push(' ');
    write_clock(out, civil.micros);
    if let Some(offset) = offset {
        let sign = if offset < 0 { '-' } else { '+' };
        let abs = offset.unsigned_abs();
        write!(out, "{sign}{:02}", abs / 3600).expect("writing to a string cannot fail");
        if abs % 3600 != 0 {
            write!(out, ":{:02}", abs / 60 % 60).expect("writing to a string cannot fail");
        }
        if abs % 60 != 0 {
            write!(out, ":{:02}", abs % 60).expect("writing to a string cannot fail");
        }
    }
    if bc {
        out.push_str(" BC");
    }
}
