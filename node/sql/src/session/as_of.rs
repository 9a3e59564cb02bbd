//! AS OF SYSTEM TIME: which time an expression means.
//!
//! A statement of the past is analyzed by the catalog of that time (`catalog::past`): a table that
//! was dropped since can be read, one that was created since is not there.

use std::time::Duration;

use crdb_keys::Timestamp;
use crdb_kv::AsOf;
use crdb_sqlfront::ast::{Expr, FunctionArgs, Literal, Statement};

use super::Session;
use crate::analyze::free_constant;
use crate::datum::datetime::parse_timestamp;
use crate::datum::{Datum, Interval};
use crate::error::{Result, SqlError, SqlState};

/// How far back `follower_read_timestamp()` reads: any replica has everything up to then.
pub(crate) const FOLLOWER_READ_LAG: Duration = Duration::from_millis(4200);

fn invalid(message: impl Into<String>) -> SqlError {
    SqlError::new(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("AS OF SYSTEM TIME: {}", message.into()),
    )
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Session {
    /// The time that a statement asks to read at.
    pub(super) async fn statement_as_of(&mut self, statement: &Statement) -> Result<Option<AsOf>> {
        let Statement::Query(query) = statement else { return Ok(None) };
        match &query.as_of {
            None => Ok(None),
            Some(e) => self.as_of(e).await.map(Some),
        }
    }

    /// The time in the past that a statement is going to read at if it runs as things are now; which
    /// catalog it is prepared by.
    pub(super) async fn prepared_as_of(&mut self, statement: &Statement) -> Result<Option<AsOf>> {
        if let Some(as_of) = self.txn_as_of() {
            return Ok(Some(as_of));
        }
        let as_of = self.statement_as_of(statement).await?;
        let plain = matches!(statement, Statement::Query(query) if query.locking.is_empty());
        let follower = || self.follower_read().filter(|_| plain && self.txn.is_none());
        Ok(as_of.or_else(follower))
    }

    /// The time in the past that the open transaction reads at.
    pub(super) fn txn_as_of(&self) -> Option<AsOf> {
        self.txn.as_ref().and_then(|open| open.modes.as_of)
    }

    /// Where reads go that say nothing of their time, if the session asked to have them served by
    /// any replica.
    pub(super) fn follower_read(&self) -> Option<AsOf> {
        let now = self.info.node.clock.now().wall_nanos;
        let timestamp = Timestamp::new(now.saturating_sub(nanos(FOLLOWER_READ_LAG)), 0);
        self.follower_reads.then_some(AsOf { timestamp, nearest: true })
    }

    /// Makes the open transaction read at a time in the past, if it can still be told to.
    pub(super) fn set_as_of(&mut self, as_of: Option<AsOf>) -> Result<()> {
        let (Some(as_of), Some(open)) = (as_of, &mut self.txn) else { return Ok(()) };
        if open.modes.as_of == Some(as_of) {
            return Ok(());
        }
        if open.explicit || open.used {
            return Err(SqlError::unsupported(
                "AS OF SYSTEM TIME in one of several statements of a transaction",
            )
            .with_hint("Use BEGIN AS OF SYSTEM TIME, or send the statement alone."));
        }
        open.modes.as_of = Some(as_of);
        open.modes.read_only = true;
        self.info.shown.read_timestamp = Some(as_of.timestamp);
        Ok(())
    }

    /// The time that an expression means.
    pub(super) async fn as_of(&mut self, e: &Expr) -> Result<AsOf> {
        let now = self.info.node.clock.now();
        let follower = Timestamp::new(now.wall_nanos.saturating_sub(nanos(FOLLOWER_READ_LAG)), 0);
        let (timestamp, nearest) = match function(e) {
            Some(("follower_read_timestamp", [])) => (follower, true),
            // The latest that any replica has, unless that is too old. A replica that lags behind
            // is not asked how far it is: the leaseholder serves then.
            Some((name @ ("with_max_staleness" | "with_min_timestamp"), [bound, rest @ ..])) => {
                if !matches!(rest, [] | [Expr::Literal(Literal::Bool(false), _)]) {
                    return Err(SqlError::unsupported(format!("{name} with nearest_only"))
                        .with_hint("The leaseholder serves where no nearer replica can.")
                        .with_position(e.pos().0));
                }
                let bound = self.moment(bound, now, true).await?;
                (follower.max(bound), true)
            }
            _ => (self.moment(e, now, false).await?, false),
        };
        if timestamp > now {
            return Err(invalid("cannot specify timestamp in the future"));
        }
        // As old as that, any replica will do.
        let nearest = nearest || timestamp <= follower;
        Ok(AsOf { timestamp, nearest })
    }

    /// A timestamp, or an interval to the present. `ago` says that the interval counts backwards.
    async fn moment(&mut self, e: &Expr, now: Timestamp, ago: bool) -> Result<Timestamp> {
        let value = match e {
            Expr::Literal(Literal::Number(digits), _) => return hlc(digits),
            Expr::Literal(Literal::String(text), _) => Datum::text(text.as_str()),
            _ => {
                let snapshot = self.begin_statement().await?;
                free_constant(&self.info, &snapshot, e, "AS OF SYSTEM TIME")?
            }
        };
        match value {
            Datum::Text(text) => self.text(&text, now, ago),
            Datum::Interval(interval) => back(now, interval, ago),
            Datum::Timestamp(micros) | Datum::TimestampTz(micros) => micros_at(micros),
            Datum::Int(nanos) => u64::try_from(nanos)
                .map(|nanos| Timestamp::new(nanos, 0))
                .map_err(|_| invalid("the timestamp is before 1970")),
            Datum::Decimal(decimal) => hlc(&decimal.to_string()),
            _ => Err(invalid("expected timestamp, decimal, or interval")),
        }
    }

    fn text(&self, text: &str, now: Timestamp, ago: bool) -> Result<Timestamp> {
        let format = &self.info.format;
        if let Ok(micros) = parse_timestamp(
            text,
            Some(&format.zone),
            self.info.statement_micros,
            format.local_now(),
        ) {
            return micros_at(micros);
        }
        if text.trim().parse::<u64>().is_ok() || text.contains('.') && hlc(text).is_ok() {
            return hlc(text);
        }
        match Interval::parse(text) {
            Ok(interval) => back(now, interval, ago),
            Err(_) => Err(invalid(format!(
                "value \"{text}\" is neither timestamp, decimal, nor interval"
            ))),
        }
    }
}

fn function(e: &Expr) -> Option<(&str, &[Expr])> {
    let Expr::Function(call) = e else { return None };
    let FunctionArgs::List(args) = &call.args else { return None };
    Some((call.name.last().value.as_str(), args))
}

fn micros_at(micros: i64) -> Result<Timestamp> {
    let nanos = u64::try_from(micros).ok().and_then(|micros| micros.checked_mul(1000));
    nanos
        .map(|nanos| Timestamp::new(nanos, 0))
        .ok_or_else(|| invalid("the timestamp is out of range"))
}

/// An interval before the present; months count 30 days.
fn back(now: Timestamp, interval: Interval, ago: bool) -> Result<Timestamp> {
    let micros = interval.comparable();
    let micros = if ago { micros } else { -micros };
    if micros < 0 {
        return Err(invalid("cannot specify timestamp in the future"));
    }
    let wall = u64::try_from(micros)
        .ok()
        .and_then(|micros| micros.checked_mul(1000))
        .and_then(|nanos| now.wall_nanos.checked_sub(nanos));
    wall.map(|wall| Timestamp::new(wall, 0)).ok_or_else(|| invalid("the timestamp is before 1970"))
}

/// A timestamp as `cluster_logical_timestamp()` gives it: nanoseconds, then ten decimals of the
/// logical part.
fn hlc(text: &str) -> Result<Timestamp> {
    let bad = || invalid(format!("\"{text}\" is not a timestamp"));
    let (wall, logical) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    if logical.len() > 10 || !logical.chars().all(|c| c.is_ascii_digit()) {
        return Err(bad());
    }
    let logical = format!("{logical:0<10}");
    Ok(Timestamp::new(wall.parse().map_err(|_| bad())?, logical.parse().map_err(|_| bad())?))
}

/// The form that [`hlc`] reads.
pub(crate) fn logical_text(timestamp: Timestamp) -> String {
    format!("{}.{:010}", timestamp.wall_nanos, timestamp.logical)
}
