//! A session with a server: runs statements and prints what comes back.
//!
//! Flow of one statement: send, print rows and notices as they arrive, print the tag or the
//! table, print the time. Ctrl-C asks the server to cancel; the answer is then an error like any
//! other. A second Ctrl-C gives the connection up.
//!
//! Invariants:
//! 1. A statement is sent once. When the connection breaks before its answer, its effect is
//!    unknown, the shell says so and never repeats it.
//! 2. Results go to `out`; errors, notices and remarks of the shell go to `err`.

use std::io::{self, Write};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::render::{self, Cell, ResultText};
use crate::settings::Settings;
use crate::target::Target;
use crate::wire::{ConnectError, Connection, Event, ServerMessage};

/// Longest time the delivery of a cancel request may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the server how long the last statement took it.
const SERVER_TIME: &str = "SHOW LAST QUERY STATISTICS RETURNING service_latency";

/// Why the shell ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// What the shell prints to is gone.
    #[error("cannot print: {0}")]
    Output(#[from] io::Error),
    /// The user pressed Ctrl-C while nobody sits at a prompt.
    #[error("interrupted")]
    Interrupted,
}

/// Whether a statement or command did what it should; a failure has been printed already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It worked.
    Ok,
    /// It failed.
    Failed,
}

/// Where Ctrl-C comes from.
#[derive(Debug, Clone)]
pub enum Interrupt {
    /// The signal of the process.
    Signal,
    /// Whoever notifies; for programs that own the signal.
    Notify(Arc<Notify>),
}

impl Interrupt {
    pub(crate) async fn wait(&self) {
        match self {
            // Without a handler the signal ends the process by itself: nothing to wait for.
            Self::Signal => {
                if tokio::signal::ctrl_c().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Self::Notify(notify) => notify.notified().await,
        }
    }
}

/// Where a shell prints.
pub struct Streams {
    /// Results.
    pub out: Box<dyn Write + Send>,
    /// Errors, notices, remarks.
    pub err: Box<dyn Write + Send>,
}

/// A connection, the options, and where to print.
pub(crate) struct Session {
    pub(crate) target: Target,
    /// Database the server last said the session is in.
    pub(crate) database: String,
    pub(crate) settings: Settings,
    pub(crate) streams: Streams,
    pub(crate) connection: Connection,
    /// Whether a statement since the last look may have changed the database.
    pub(crate) database_may_have_changed: bool,
    interrupt: Interrupt,
    /// Whether the server can say how long a statement took it, as far as known.
    server_times: bool,
}

impl Session {
    pub(crate) fn new(
        target: Target,
        connection: Connection,
        settings: Settings,
        streams: Streams,
        interrupt: Interrupt,
    ) -> Self {
        let database = target.database.clone();
        let database_may_have_changed = false;
        Self {
            target,
            database,
            settings,
            streams,
            connection,
            database_may_have_changed,
            interrupt,
            server_times: true,
        }
    }

    /// Prints a remark or an error of the shell itself.
    pub(crate) fn complain(&mut self, text: &str) -> Result<(), Stop> {
        self.streams.out.flush()?;
        writeln!(self.streams.err, "{text}")?;
        Ok(())
    }

    /// Prints text that is a result.
    pub(crate) fn print(&mut self, text: &str) -> Result<(), Stop> {
        self.streams.out.write_all(text.as_bytes())?;
        Ok(())
    }

    /// Runs one statement and prints its results.
    pub(crate) async fn execute(&mut self, statement: &str) -> Result<Outcome, Stop> {
        if self.settings.echo {
            self.complain(&format!("> {statement}"))?;
        }
        if self.connection.is_broken() && self.reopen().await? == Outcome::Failed {
            return Ok(Outcome::Failed);
        }
        let start = now();
        let outcome = match self.connection.send(statement).await {
            Ok(()) => self.print_answers().await?,
            Err(error) => {
                self.report_lost(&error)?;
                Outcome::Failed
            }
        };
        if self.settings.show_times && outcome == Outcome::Ok {
            let elapsed = now().saturating_duration_since(start);
            let line = time_line(elapsed, self.server_time().await);
            self.print(&format!("\n{line}\n\n"))?;
        }
        self.streams.out.flush()?;
        Ok(outcome)
    }

    async fn print_answers(&mut self) -> Result<Outcome, Stop> {
        let interrupt = self.interrupt.clone();
        let mut interrupted = pin!(interrupt.wait());
        let mut interrupts = 0;
        let mut outcome = Outcome::Ok;
        let mut result: Option<ResultText> = None;
        loop {
            let event = tokio::select! {
                biased;
                event = self.connection.next() => event,
                () = &mut interrupted => {
                    interrupts += 1;
                    if interrupts > 1 {
                        self.complain("gave up waiting for the statement; whether it took effect is unknown")?;
                        self.connection.abandon();
                        return Err(Stop::Interrupted);
                    }
                    interrupted.set(interrupt.wait());
                    self.cancel().await?;
                    continue;
                }
            };
            match event {
                Ok(Event::Columns(columns)) => {
                    let (text, head) = ResultText::begin(
                        self.settings.display_format,
                        self.settings.border,
                        columns,
                    );
                    self.print(&head)?;
                    result = Some(text);
                }
                Ok(Event::Row(cells)) => {
                    if let Some(text) = result.as_mut().map(|result| result.row(cells)) {
                        self.print(&text)?;
                    }
                }
                Ok(Event::Complete(tag)) => match result.take() {
                    Some(result) => self.print(&result.end())?,
                    None => self.print_tag(&tag)?,
                },
                Ok(Event::CopyData(bytes)) => self.streams.out.write_all(&bytes)?,
                Ok(Event::Notice(notice)) => self.complain(&notice.to_string())?,
                Ok(Event::Error(error)) => {
                    if let Some(result) = result.take() {
                        self.print(&result.end_early())?;
                    }
                    self.complain(&error.to_string())?;
                    outcome = Outcome::Failed;
                }
                Ok(Event::Empty) => {}
                Ok(Event::Ready) if interrupts > 0 && outcome == Outcome::Failed => {
                    return if self.settings.errexit {
                        Err(Stop::Interrupted)
                    } else {
                        Ok(outcome)
                    };
                }
                Ok(Event::Ready) => return Ok(outcome),
                Err(error) => {
                    self.report_lost(&error)?;
                    return Ok(Outcome::Failed);
                }
            }
        }
    }

    fn print_tag(&mut self, tag: &str) -> Result<(), Stop> {
        let word = tag.split_whitespace().next().unwrap_or_default();
        self.database_may_have_changed |= matches!(word, "SET" | "RESET" | "DISCARD" | "USE");
        self.print(&render::command_tag(self.settings.display_format, tag))
    }

    async fn cancel(&mut self) -> Result<(), Stop> {
        let Some(key) = self.connection.cancel_key() else {
            return self.complain("the server gave no key to cancel with; Ctrl-C again gives up");
        };
        self.complain("attempting to cancel the statement; Ctrl-C again gives up waiting")?;
        match tokio::time::timeout(CANCEL_TIMEOUT, key.cancel()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                self.complain(&format!("warning: cannot deliver the cancel request: {error}"))
            }
            Err(_) => self.complain("warning: the cancel request is not answered"),
        }
    }

    /// Says that the connection broke under a statement.
    fn report_lost(&mut self, error: &io::Error) -> Result<(), Stop> {
        if error.kind() == io::ErrorKind::InvalidInput && !self.connection.is_broken() {
            // Nothing was sent: the text itself cannot be put into a message.
            return self.complain(&format!("ERROR: {error}"));
        }
        self.complain(&format!(
            "ERROR: connection to {} lost: {error}\nHINT: whether the statement took effect is unknown; check before repeating it.",
            self.target.address()
        ))
    }

    async fn reopen(&mut self) -> Result<Outcome, Stop> {
        self.complain(
            "warning: connection lost; opening a new one, without the session's settings and transaction",
        )?;
        let target = Target { database: self.database.clone(), ..self.target.clone() };
        self.connect(target).await
    }

    /// Replaces the connection; keeps the old one when the new one cannot be made.
    pub(crate) async fn connect(&mut self, target: Target) -> Result<Outcome, Stop> {
        match Connection::open(&target).await {
            Ok((connection, notices)) => {
                let old = std::mem::replace(&mut self.connection, connection);
                if !old.is_broken() {
                    old.close().await;
                }
                for notice in notices {
                    self.complain(&notice.to_string())?;
                }
                target.database.clone_into(&mut self.database);
                self.server_times = true;
                self.target = target;
                Ok(Outcome::Ok)
            }
            Err(error) => {
                self.complain(&connect_failure(&error))?;
                Ok(Outcome::Failed)
            }
        }
    }

    /// Runs a statement of the shell's own and gives its first cell; failures give nothing.
    pub(crate) async fn ask(&mut self, statement: &str) -> Option<String> {
        self.connection.send(statement).await.ok()?;
        let mut first: Option<Vec<Cell>> = None;
        loop {
            match self.connection.next().await.ok()? {
                Event::Row(cells) => {
                    first.get_or_insert(cells);
                }
                Event::Ready => return first?.into_iter().next()?,
                Event::Columns(_)
                | Event::Complete(_)
                | Event::Empty
                | Event::Error(_)
                | Event::Notice(_)
                | Event::CopyData(_) => {}
            }
        }
    }

    /// How long the last statement took the server; a server that cannot tell is not asked again.
    async fn server_time(&mut self) -> Option<Duration> {
        if !self.server_times || self.connection.is_broken() {
            return None;
        }
        let answer = self.ask(SERVER_TIME).await;
        let time = answer.as_deref().and_then(clock_span);
        self.server_times = time.is_some();
        time
    }

    pub(crate) fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }
}

/// Text of a failed attempt to connect, with what to do about it.
pub(crate) fn connect_failure(error: &ConnectError) -> String {
    match error {
        ConnectError::Refused(message) => {
            let severity = if message.severity.is_empty() { "FATAL" } else { &message.severity };
            ServerMessage { severity: severity.to_owned(), ..message.clone() }.to_string()
        }
        ConnectError::Unreachable { .. } => format!(
            "ERROR: {error}\nHINT: is a node running there? --host and --port (or --url) say where to connect."
        ),
        ConnectError::Authentication { .. } => format!("ERROR: {error}"),
        ConnectError::Protocol { .. } => format!(
            "ERROR: {error}\nHINT: check that --host and --port (or --url) name the SQL address of a node."
        ),
    }
}

#[expect(clippy::disallowed_methods, reason = "the shell measures what its user waits for")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A time span as the shell prints it.
pub(crate) fn duration(elapsed: Duration) -> String {
    let micros = elapsed.as_micros();
    match micros {
        0..1_000 => format!("{micros}µs"),
        1_000..1_000_000 => format!("{}ms", elapsed.as_millis()),
        1_000_000..60_000_000 => format!("{:.3}s", elapsed.as_secs_f64()),
        _ => {
            let minutes = elapsed.as_secs() / 60;
            let rest = elapsed.saturating_sub(Duration::from_secs(minutes * 60));
            format!("{minutes}m{:.3}s", rest.as_secs_f64())
        }
    }
}

/// The line on a statement's time: in all, and the server's share if it is known.
fn time_line(total: Duration, server: Option<Duration>) -> String {
    let Some(server) = server else { return format!("Time: {}", duration(total)) };
    // Two clocks may disagree by a little.
    let server = server.min(total);
    format!(
        "Time: {} total (execution {} / network {})",
        duration(total),
        duration(server),
        duration(total - server)
    )
}

/// Reads a time span written as `00:00:00.001234`.
fn clock_span(text: &str) -> Option<Duration> {
    let mut parts = text.split(':');
    let (hours, minutes) = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse::<u64>().ok()?);
    let seconds = Duration::try_from_secs_f64(parts.next()?.parse().ok()?).ok()?;
    let whole = hours.checked_mul(60)?.checked_add(minutes)?.checked_mul(60)?;
    if parts.next().is_some() { None } else { Duration::from_secs(whole).checked_add(seconds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_line_splits_the_time_when_the_server_knows_its_share() {
        let ms = Duration::from_millis;
        assert_eq!(time_line(ms(10), None), "Time: 10ms");
        let line = time_line(ms(10), clock_span("00:00:00.009000"));
        assert_eq!(line, "Time: 10ms total (execution 9ms / network 1ms)");
        assert_eq!(time_line(ms(1), Some(ms(2))), "Time: 1ms total (execution 1ms / network 0µs)");
        assert_eq!(clock_span("01:02:03.5"), Some(ms(3_723_500)));
        for bad in ["", "1", "1:2", "1:2:x", "1:2:3:4", "1:2:-3", "99999999999999999999:0:0"] {
            assert_eq!(clock_span(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (micros, expected) in
            [(430, "430µs"), (10_900, "10ms"), (1_234_500, "1.234s"), (62_500_000, "1m2.500s")]
        {
            assert_eq!(duration(Duration::from_micros(micros)), expected);
        }
    }
}
