//! The proleptic Gregorian calendar on integers: dates as days and times as microseconds.

/// Microseconds of a second.
pub(crate) const SECOND: i64 = 1_000_000;
/// Microseconds of a minute.
pub(crate) const MINUTE: i64 = 60 * SECOND;
/// Microseconds of an hour.
pub(crate) const HOUR: i64 = 60 * MINUTE;
/// Microseconds of a day.
pub(crate) const DAY: i64 = 24 * HOUR;
/// Days from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
pub(crate) const PG_EPOCH_DAYS: i32 = 10_957;
/// 4714-11-24 BC, the first date.
pub(crate) const MIN_DATE: i32 = -2_440_588;
/// 5874897-12-31, the last date.
pub(crate) const MAX_DATE: i32 = 2_145_042_541;
/// 4714-11-24 BC 00:00.
pub(crate) const MIN_TIMESTAMP: i64 = MIN_DATE as i64 * DAY;
/// Where timestamps end: the last whole day in microseconds since 1970, in the year 294247.
pub(crate) const MAX_TIMESTAMP: i64 = 106_751_991 * DAY;

/// Days since 1970-01-01 of a date; year 0 is 1 BC.
pub(crate) fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let m = i64::from(month);
    let doy = (153 * (if m > 2 { m - 3 } else { m + 9 }) + 2) / 5 + i64::from(day) - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

/// The date of a day number.
pub(crate) fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = u32::try_from(doy - (153 * mp + 2) / 5 + 1).unwrap_or(1);
    let month = u32::try_from(if mp < 10 { mp + 3 } else { mp - 9 }).unwrap_or(1);
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

/// Days of a month.
pub(crate) fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 30,
    }
}

/// A point in time taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Civil {
    /// Year; 0 is 1 BC.
    pub(crate) year: i64,
    /// 1 to 12.
    pub(crate) month: u32,
    /// 1 to 31.
    pub(crate) day: u32,
    /// Microseconds since midnight.
    pub(crate) micros: i64,
}

impl Civil {
    /// Takes microseconds since 1970-01-01 apart.
    pub(crate) fn from_micros(micros: i64) -> Self {
        let (year, month, day) = civil_from_days(micros.div_euclid(DAY));
        Self { year, month, day, micros: micros.rem_euclid(DAY) }
    }

    /// Microseconds since 1970-01-01.
    pub(crate) fn to_micros(self) -> Option<i64> {
        days_from_civil(self.year, self.month, self.day).checked_mul(DAY)?.checked_add(self.micros)
    }

    /// Moves by months, cutting the day to the length of the month reached.
    pub(crate) fn add_months(self, months: i64) -> Option<Self> {
        let total = self.year.checked_mul(12)?.checked_add(i64::from(self.month) - 1)?;
        let total = total.checked_add(months)?;
        let year = total.div_euclid(12);
        let month = u32::try_from(total.rem_euclid(12)).ok()? + 1;
        let day = self.day.min(days_in_month(year, month));
        Some(Self { year, month, day, ..self })
    }

    /// ISO week-numbering year and week.
    pub(crate) fn iso_week(self) -> (i64, i64) {
        let days = days_from_civil(self.year, self.month, self.day);
        let weekday = (days + 3).rem_euclid(7);
        let thursday = days - weekday + 3;
        let (year, _, _) = civil_from_days(thursday);
        (year, (thursday - days_from_civil(year, 1, 1)) / 7 + 1)
    }

    /// Day of the week, Sunday is 0.
    pub(crate) fn weekday(self) -> i64 {
        (days_from_civil(self.year, self.month, self.day) + 4).rem_euclid(7)
    }

    /// Day of the year, from 1.
    pub(crate) fn day_of_year(self) -> i64 {
        days_from_civil(self.year, self.month, self.day) - days_from_civil(self.year, 1, 1) + 1
    }
}
