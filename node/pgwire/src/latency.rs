//! How long the last statement of a session took, for shells that tell the server's share of a
//! statement's time from the network's: `SHOW LAST QUERY STATISTICS`.
//!
//! The connection answers it itself: it is about the protocol's work, and asking must not count as
//! the last statement.

use std::time::Duration;

use crdb_sql::{Column, Datum, SqlError, SqlState, SqlType};
use tokio::io::AsyncWrite;

use crate::connection::{Step, Worker};
use crate::output::Formats;

const STATEMENT: [&str; 4] = ["SHOW", "LAST", "QUERY", "STATISTICS"];

/// What can be asked for, in the order of an answer to all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Latency {
    Parse,
    Plan,
    Exec,
    Service,
    Jobs,
}

const ALL: [Latency; 5] =
    [Latency::Parse, Latency::Plan, Latency::Exec, Latency::Service, Latency::Jobs];

impl Latency {
    fn name(self) -> &'static str {
        match self {
            Latency::Parse => "parse_latency",
            Latency::Plan => "plan_latency",
            Latency::Exec => "exec_latency",
            Latency::Service => "service_latency",
            Latency::Jobs => "post_commit_jobs_latency",
        }
    }
}

/// Times of the last statement.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Latencies {
    pub(crate) parse: Duration,
    pub(crate) plan: Duration,
    pub(crate) exec: Duration,
}

impl Latencies {
    fn of(self, latency: Latency) -> Duration {
        match latency {
            Latency::Parse => self.parse,
            Latency::Plan => self.plan,
            Latency::Exec => self.exec,
            Latency::Service => self.parse + self.plan + self.exec,
            // A schema change ends before its statement is answered.
            Latency::Jobs => Duration::ZERO,
        }
    }
}

/// What `text` asks for if it is this statement; none if it is another.
pub(crate) fn asked(text: &str) -> Option<Result<Vec<Latency>, SqlError>> {
    let mut words = text.trim_end().trim_end_matches(';').split_whitespace();
    let next_is = |word: Option<&str>, expected: &str| {
        word.is_some_and(|word| word.eq_ignore_ascii_case(expected))
    };
    if !STATEMENT.iter().all(|expected| next_is(words.next(), expected)) {
        return None;
    }
    match words.next() {
        None => return Some(Ok(ALL.to_vec())),
        returning if next_is(returning, "RETURNING") => {}
        // The parser says what is wrong.
        Some(_) => return None,
    }
    let names = words.collect::<Vec<_>>().join(" ");
    let find = |name: &str| {
        let name = name.trim();
        let found = ALL.into_iter().find(|latency| latency.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            let message = format!("column \"{name}\" does not exist");
            SqlError::new(SqlState::UNDEFINED_COLUMN, message)
        })
    };
    Some(names.split(',').map(find).collect())
}

impl<W: AsyncWrite + Unpin> Worker<'_, W> {
    /// Answers with the times of the last statement.
    pub(crate) async fn tell_latencies(&mut self, wanted: Vec<Latency>) -> Step {
        let columns: Vec<Column> =
            wanted.iter().map(|latency| Column::new(latency.name(), SqlType::Text)).collect();
        let times = wanted.iter().map(|latency| clock_text(self.latencies.of(*latency)));
        let row: Vec<Datum> = times.map(|text| Datum::Text(text.into())).collect();
        self.output.row_description(&columns, &Formats::Text);
        self.rows(&columns, std::iter::once(row), &Formats::Text, false).await?;
        self.output.complete("SHOW LAST QUERY STATISTICS");
        Ok(())
    }
}

/// A time span as `00:00:00.001234`.
fn clock_text(span: Duration) -> String {
    let seconds = span.as_secs();
    format!(
        "{:02}:{:02}:{:02}.{:06}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        span.subsec_micros()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_is_known_by_its_words() {
        assert_eq!(asked("show last  query statistics ; ").unwrap().unwrap(), ALL);
        let some = asked("SHOW LAST QUERY STATISTICS RETURNING exec_latency,Service_Latency");
        assert_eq!(some.unwrap().unwrap(), [Latency::Exec, Latency::Service]);
        let wrong = asked("SHOW LAST QUERY STATISTICS RETURNING a").unwrap().unwrap_err();
        assert_eq!(wrong.message, "column \"a\" does not exist");
        for other in ["", "SHOW LAST", "SELECT 1", "SHOW LAST QUERY STATISTICS FOR x"] {
            assert!(asked(other).is_none(), "{other}");
        }
    }

    #[test]
    fn times_read_as_a_clock() {
        assert_eq!(clock_text(Duration::from_micros(3_723_000_042)), "01:02:03.000042");
    }
}
