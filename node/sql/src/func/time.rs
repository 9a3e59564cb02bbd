//! Dates and times.

use super::t::{DATE, FLOAT, INT, INTERVAL, TEXT, TIME, TS, TSTZ};
use super::{Builtin, float_at, int_at, str_at};
use crate::cast::{from_local, to_local};
use crate::datum::civil::{self, Civil, DAY, HOUR, MINUTE, SECOND};
use crate::datum::datetime::{self, TS_INFINITY, TS_NEG_INFINITY};
use crate::datum::{Datum, Decimal, Interval};
use crate::error::{Result, SqlError, SqlState};
use crate::expr::EvalCtx;
use crate::types::SqlType as S;

fn micros_at(args: &[Datum], i: usize) -> i64 {
    match args.get(i) {
        Some(Datum::Timestamp(v) | Datum::TimestampTz(v) | Datum::Time(v)) => *v,
        Some(Datum::Date(d)) => i64::from(*d).saturating_mul(DAY),
        _ => 0,
    }
}

fn interval_at(args: &[Datum], i: usize) -> Interval {
    match args.get(i) {
        Some(Datum::Interval(v)) => *v,
        _ => Interval::default(),
    }
}

pub(super) fn out_of_range() -> SqlError {
    SqlError::new(SqlState::DATETIME_OVERFLOW, "timestamp out of range")
}

fn infinite(micros: i64) -> bool {
    matches!(micros, TS_INFINITY | TS_NEG_INFINITY)
}

/// Local microseconds moved by an interval: months, then days, then time.
pub(super) fn add_interval(local: i64, interval: Interval) -> Result<i64> {
    if infinite(local) {
        return Ok(local);
    }
    (|| {
        let mut moved = local;
        if interval.months != 0 {
            moved = Civil::from_micros(moved).add_months(interval.months.into())?.to_micros()?;
        }
        moved = moved.checked_add(i64::from(interval.days).checked_mul(DAY)?)?;
        datetime::check_timestamp(moved.checked_add(interval.micros)?)
    })()
    .ok_or_else(out_of_range)
}

/// The same for an instant: months and days in the session's zone.
pub(super) fn add_interval_tz(ctx: &EvalCtx<'_>, utc: i64, interval: Interval) -> Result<i64> {
    if infinite(utc) {
        return Ok(utc);
    }
    let by_days = Interval { micros: 0, ..interval };
    let moved = if interval.months == 0 && interval.days == 0 {
        utc
    } else {
        from_local(add_interval(to_local(utc, &ctx.info.format), by_days)?, &ctx.info.format)
    };
    moved.checked_add(interval.micros).and_then(datetime::check_timestamp).ok_or_else(out_of_range)
}

/// Difference of two instants: days and time.
pub(super) fn difference(a: i64, b: i64) -> Result<Interval> {
    let diff = a.checked_sub(b).ok_or_else(out_of_range)?;
    let days = i32::try_from(diff / DAY).map_err(|_| out_of_range())?;
    Ok(Interval { months: 0, days, micros: diff % DAY })
}

fn age(a: i64, b: i64) -> Result<Interval> {
    let (later, earlier, sign) = if a >= b { (a, b, 1) } else { (b, a, -1) };
    let (l, e) = (Civil::from_micros(later), Civil::from_micros(earlier));
    let mut months = (l.year - e.year) * 12 + i64::from(l.month) - i64::from(e.month);
    let mut days = i64::from(l.day) - i64::from(e.day);
    let mut micros = l.micros - e.micros;
    if micros < 0 {
        micros += DAY;
        days -= 1;
    }
    if days < 0 {
        months -= 1;
        days += i64::from(civil::days_in_month(e.year, e.month));
    }
    let parts = (i32::try_from(months), i32::try_from(days));
    let (Ok(months), Ok(days)) = parts else { return Err(out_of_range()) };
    Ok(Interval { months: months * sign, days: days * sign, micros: micros * i64::from(sign) })
}

fn bad_unit(unit: &str, ty: S) -> SqlError {
    SqlError::new(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("unit \"{unit}\" not recognized for type {ty}"),
    )
}

fn trunc(unit: &str, micros: i64, ty: S) -> Result<i64> {
    if infinite(micros) {
        return Ok(micros);
    }
    let c = Civil::from_micros(micros);
    let date = |year: i64, month: u32, day: u32| civil::days_from_civil(year, month, day) * DAY;
    let start = micros - c.micros;
    Ok(match unit {
        "microsecond" | "microseconds" => micros,
        "millisecond" | "milliseconds" => micros.div_euclid(1000) * 1000,
        "second" | "seconds" => micros.div_euclid(SECOND) * SECOND,
        "minute" | "minutes" => micros.div_euclid(MINUTE) * MINUTE,
        "hour" | "hours" => micros.div_euclid(HOUR) * HOUR,
        "day" | "days" => start,
        "week" | "weeks" => start - (c.weekday() + 6).rem_euclid(7) * DAY,
        "month" | "months" => date(c.year, c.month, 1),
        "quarter" => date(c.year, (c.month - 1) / 3 * 3 + 1, 1),
        "year" | "years" => date(c.year, 1, 1),
        "decade" | "decades" => date(c.year.div_euclid(10) * 10, 1, 1),
        "century" | "centuries" => date((c.year - 1).div_euclid(100) * 100 + 1, 1, 1),
        "millennium" | "millenniums" => date((c.year - 1).div_euclid(1000) * 1000 + 1, 1, 1),
        _ => return Err(bad_unit(unit, ty)),
    })
}

fn seconds(micros: i64, scale: i64) -> Decimal {
    // Microseconds shown in a unit of 10^(6 - scale) microseconds.
    Decimal::Finite(bigdecimal::BigDecimal::new(micros.into(), scale))
}

/// A part of a local time; `utc` is the instant for `epoch`.
fn part(unit: &str, local: i64, utc: i64, offset: Option<i64>, ty: S) -> Result<Decimal> {
    let c = Civil::from_micros(local);
    let whole = |v: i64| Ok(Decimal::from(v));
    match unit {
        "microsecond" | "microseconds" => whole(c.micros % MINUTE),
        "millisecond" | "milliseconds" => Ok(seconds(c.micros % MINUTE, 3)),
        "second" | "seconds" => Ok(seconds(c.micros % MINUTE, 6)),
        "minute" | "minutes" => whole(c.micros / MINUTE % 60),
        "hour" | "hours" => whole(c.micros / HOUR),
        "day" | "days" => whole(c.day.into()),
        "dow" => whole(c.weekday()),
        "isodow" => whole((c.weekday() + 6).rem_euclid(7) + 1),
        "doy" => whole(c.day_of_year()),
        "week" => whole(c.iso_week().1),
        "isoyear" => whole(c.iso_week().0),
        "month" | "months" => whole(c.month.into()),
        "quarter" => whole(i64::from((c.month - 1) / 3 + 1)),
        "year" | "years" => whole(if c.year <= 0 { c.year - 1 } else { c.year }),
        "decade" => whole(c.year.div_euclid(10)),
        "century" => whole((c.year + 99).div_euclid(100)),
        "millennium" => whole((c.year + 999).div_euclid(1000)),
        "epoch" => Ok(seconds(utc, 6)),
        "julian" => whole(local.div_euclid(DAY) + 2_440_588),
        "timezone" if offset.is_some() => whole(offset.unwrap_or(0)),
        "timezone_hour" if offset.is_some() => whole(offset.unwrap_or(0) / 3600),
        "timezone_minute" if offset.is_some() => whole(offset.unwrap_or(0) / 60 % 60),
        _ => Err(bad_unit(unit, ty)),
    }
}

fn interval_part(unit: &str, i: Interval) -> Result<Decimal> {
    let whole = |v: i64| Ok(Decimal::from(v));
    match unit {
        "microsecond" | "microseconds" => whole(i.micros % MINUTE),
        "millisecond" | "milliseconds" => Ok(seconds(i.micros % MINUTE, 3)),
        "second" | "seconds" => Ok(seconds(i.micros % MINUTE, 6)),
        "minute" | "minutes" => whole(i.micros / MINUTE % 60),
        "hour" | "hours" => whole(i.micros / HOUR),
        "day" | "days" => whole(i.days.into()),
        "month" | "months" => whole((i.months % 12).into()),
        "quarter" => whole((i.months % 12 / 3 + 1).into()),
        "year" | "years" => whole((i.months / 12).into()),
        "epoch" => {
            // Years of 365.25 days, months of 30, as PostgreSQL.
            let years = i64::from(i.months / 12) * 31_557_600;
            let months = i64::from(i.months % 12) * 30 * 86_400;
            let whole = (years + months + i64::from(i.days) * 86_400).saturating_mul(SECOND);
            Ok(seconds(whole.saturating_add(i.micros), 6))
        }
        _ => Err(bad_unit(unit, S::Interval)),
    }
}

/// EXTRACT of any of the time types.
fn extract(ctx: &EvalCtx<'_>, args: &[Datum]) -> Result<Decimal> {
    let unit = str_at(args, 0).to_ascii_lowercase();
    match args.get(1) {
        Some(Datum::Interval(i)) => interval_part(&unit, *i),
        Some(Datum::Time(t)) => match unit.as_str() {
            "epoch" => Ok(seconds(*t, 6)),
            "hour" | "hours" | "minute" | "minutes" | "second" | "seconds" | "millisecond"
            | "milliseconds" | "microsecond" | "microseconds" => part(&unit, *t, *t, None, S::Time),
            _ => Err(bad_unit(&unit, S::Time)),
        },
        Some(Datum::TimestampTz(t)) => {
            let local = to_local(*t, &ctx.info.format);
            part(&unit, local, *t, Some((local - *t) / SECOND), S::TimestampTz)
        }
        Some(Datum::Date(_)) => {
            let micros = datetime::check_timestamp(micros_at(args, 1)).ok_or_else(out_of_range)?;
            part(&unit, micros, micros, None, S::Date)
        }
        _ => {
            let micros = micros_at(args, 1);
            part(&unit, micros, micros, None, S::Timestamp)
        }
    }
}

fn extract_numeric(ctx: &EvalCtx<'_>, args: &[Datum]) -> Result<Datum> {
    Ok(Datum::decimal(extract(ctx, args)?))
}

fn extract_float(ctx: &EvalCtx<'_>, args: &[Datum]) -> Result<Datum> {
    Ok(Datum::Float(extract(ctx, args)?.to_f64()))
}

fn transaction_now(ctx: &EvalCtx<'_>) -> i64 {
    ctx.info.format.now_micros
}

/// The timestamp that the transaction reads at, or would if it began to now.
fn logical_now(ctx: &EvalCtx<'_>) -> Result<Datum> {
    let at = ctx.info.shown.read_timestamp.unwrap_or_else(|| ctx.info.node.clock.now());
    Ok(Datum::decimal(Decimal::parse(&crate::session::logical_text(at))?))
}

fn follower_read_timestamp(ctx: &EvalCtx<'_>) -> i64 {
    let lag = i64::try_from(crate::session::FOLLOWER_READ_LAG.as_micros()).unwrap_or(0);
    ctx.info.statement_micros - lag
}

fn wall_now(ctx: &EvalCtx<'_>) -> i64 {
    i64::try_from(ctx.info.node.clock.wall_nanos() / 1000).unwrap_or(i64::MAX)
}

fn make_date(args: &[Datum]) -> Result<Datum> {
    let text = format!("{:04}-{:02}-{:02}", int_at(args, 0), int_at(args, 1), int_at(args, 2));
    Ok(Datum::Date(datetime::parse_date(&text, 0)?))
}

#[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
fn float_micros(seconds: f64) -> Result<i64> {
    let micros = (seconds * 1e6).round();
    if !micros.is_finite() || micros.abs() > 9.2e18 {
        return Err(out_of_range());
    }
    datetime::check_timestamp(micros as i64).ok_or_else(out_of_range)
}

fn zone_of(args: &[Datum]) -> Result<jiff::tz::TimeZone> {
    let name = str_at(args, 0);
    datetime::parse_zone(name).ok_or_else(|| {
        SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("time zone \"{name}\" not recognized"),
        )
    })
}

pub(super) const TABLE: &[Builtin] = &[
    Builtin::new("now", &[], S::TimestampTz, |c, _| Ok(Datum::TimestampTz(transaction_now(c))))
        .stable(),
    Builtin::new("current_timestamp", &[], S::TimestampTz, |c, _| {
        Ok(Datum::TimestampTz(transaction_now(c)))
    })
    .stable(),
    Builtin::new("transaction_timestamp", &[], S::TimestampTz, |c, _| {
        Ok(Datum::TimestampTz(transaction_now(c)))
    })
    .stable(),
    Builtin::new("statement_timestamp", &[], S::TimestampTz, |c, _| {
        Ok(Datum::TimestampTz(c.info.statement_micros))
    })
    .stable(),
    Builtin::new("follower_read_timestamp", &[], S::TimestampTz, |c, _| {
        Ok(Datum::TimestampTz(follower_read_timestamp(c)))
    })
    .stable(),
    Builtin::new("cluster_logical_timestamp", &[], S::Numeric, |c, _| logical_now(c)).volatile(),
    Builtin::new("clock_timestamp", &[], S::TimestampTz, |c, _| {
        Ok(Datum::TimestampTz(wall_now(c)))
    })
    .volatile(),
    Builtin::new("current_date", &[], S::Date, |c, _| {
        let days = c.info.format.local_now().div_euclid(DAY);
        Ok(Datum::Date(i32::try_from(days).map_err(|_| out_of_range())?))
    })
    .stable(),
    Builtin::new("current_time", &[], S::Time, |c, _| {
        Ok(Datum::Time(c.info.format.local_now().rem_euclid(DAY)))
    })
    .stable(),
    Builtin::new("localtime", &[], S::Time, |c, _| {
        Ok(Datum::Time(c.info.format.local_now().rem_euclid(DAY)))
    })
    .stable(),
    Builtin::new("localtimestamp", &[], S::Timestamp, |c, _| {
        Ok(Datum::Timestamp(c.info.format.local_now()))
    })
    .stable(),
    Builtin::new("date_trunc", &[TEXT, TS], S::Timestamp, |_, a| {
        let unit = str_at(a, 0).to_ascii_lowercase();
        Ok(Datum::Timestamp(trunc(&unit, micros_at(a, 1), S::Timestamp)?))
    }),
    Builtin::new("date_trunc", &[TEXT, TSTZ], S::TimestampTz, |c, a| {
        let unit = str_at(a, 0).to_ascii_lowercase();
        let local = trunc(&unit, to_local(micros_at(a, 1), &c.info.format), S::TimestampTz)?;
        Ok(Datum::TimestampTz(from_local(local, &c.info.format)))
    })
    .stable(),
    Builtin::new("extract", &[TEXT, TS], S::Numeric, extract_numeric),
    Builtin::new("extract", &[TEXT, TSTZ], S::Numeric, extract_numeric).stable(),
    Builtin::new("extract", &[TEXT, DATE], S::Numeric, extract_numeric),
    Builtin::new("extract", &[TEXT, TIME], S::Numeric, extract_numeric),
    Builtin::new("extract", &[TEXT, INTERVAL], S::Numeric, extract_numeric),
    Builtin::new("date_part", &[TEXT, TS], S::Float8, extract_float),
    Builtin::new("date_part", &[TEXT, TSTZ], S::Float8, extract_float).stable(),
    Builtin::new("date_part", &[TEXT, DATE], S::Float8, extract_float),
    Builtin::new("date_part", &[TEXT, TIME], S::Float8, extract_float),
    Builtin::new("date_part", &[TEXT, INTERVAL], S::Float8, extract_float),
    Builtin::new("age", &[TSTZ, TSTZ], S::Interval, |c, a| {
        let local = |i| to_local(micros_at(a, i), &c.info.format);
        Ok(Datum::Interval(age(local(0), local(1))?))
    })
    .stable(),
    Builtin::new("age", &[TS, TS], S::Interval, |_, a| {
        Ok(Datum::Interval(age(micros_at(a, 0), micros_at(a, 1))?))
    }),
    Builtin::new("age", &[TSTZ], S::Interval, |c, a| {
        let midnight = c.info.format.local_now().div_euclid(DAY) * DAY;
        Ok(Datum::Interval(age(midnight, to_local(micros_at(a, 0), &c.info.format))?))
    })
    .stable(),
    Builtin::new("make_date", &[INT, INT, INT], S::Date, |_, a| make_date(a)),
    Builtin::new("make_timestamp", &[INT, INT, INT, INT, INT, FLOAT], S::Timestamp, |_, a| {
        let Datum::Date(days) = make_date(a)? else { return Ok(Datum::Null) };
        let (hour, minute, second) = (int_at(a, 3), int_at(a, 4), float_micros(float_at(a, 5))?);
        let known =
            (0..=24).contains(&hour) && (0..60).contains(&minute) && (0..=MINUTE).contains(&second);
        let clock = if known { hour * HOUR + minute * MINUTE + second } else { i64::MAX };
        if clock > DAY {
            return Err(out_of_range());
        }
        let micros = i64::from(days).checked_mul(DAY).and_then(|day| day.checked_add(clock));
        let micros = micros.and_then(datetime::check_timestamp).ok_or_else(out_of_range)?;
        Ok(Datum::Timestamp(micros))
    }),
    Builtin::new("to_timestamp", &[FLOAT], S::TimestampTz, |_, a| {
        Ok(Datum::TimestampTz(float_micros(float_at(a, 0))?))
    }),
    Builtin::new("timezone", &[TEXT, TSTZ], S::Timestamp, |_, a| {
        let (zone, utc) = (zone_of(a)?, micros_at(a, 1));
        Ok(Datum::Timestamp(if infinite(utc) {
            utc
        } else {
            let offset = i64::from(datetime::offset_seconds(&zone, utc)) * SECOND;
            utc.checked_add(offset).and_then(datetime::check_timestamp).ok_or_else(out_of_range)?
        }))
    }),
    Builtin::new("timezone", &[TEXT, TS], S::TimestampTz, |_, a| {
        let (zone, local) = (zone_of(a)?, micros_at(a, 1));
        Ok(Datum::TimestampTz(if infinite(local) {
            local
        } else {
            let utc = datetime::local_to_utc(&zone, local);
            datetime::check_timestamp(utc).ok_or_else(out_of_range)?
        }))
    }),
    Builtin::new("to_char", &[TS, TEXT], S::Text, |_, a| {
        Ok(Datum::text(super::to_char::timestamp(micros_at(a, 0), None, str_at(a, 1))?))
    }),
    Builtin::new("to_char", &[TSTZ, TEXT], S::Text, |c, a| {
        let utc = micros_at(a, 0);
        let offset = datetime::offset_seconds(&c.info.format.zone, utc);
        let local = to_local(utc, &c.info.format);
        Ok(Datum::text(super::to_char::timestamp(local, Some(offset), str_at(a, 1))?))
    })
    .stable(),
    Builtin::new("isfinite", &[TSTZ], S::Bool, |_, a| Ok(Datum::Bool(!infinite(micros_at(a, 0))))),
    Builtin::new("justify_days", &[INTERVAL], S::Interval, |_, a| {
        let i = interval_at(a, 0);
        let months = i.months.checked_add(i.days / 30).ok_or_else(out_of_range)?;
        Ok(Datum::Interval(Interval { months, days: i.days % 30, ..i }))
    }),
    Builtin::new("justify_hours", &[INTERVAL], S::Interval, |_, a| {
        let i = interval_at(a, 0);
        let days = i32::try_from(i.micros / DAY).map_err(|_| out_of_range())?;
        let days = i.days.checked_add(days).ok_or_else(out_of_range)?;
        Ok(Datum::Interval(Interval { days, micros: i.micros % DAY, ..i }))
    }),
];
