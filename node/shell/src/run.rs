//! Flags of the shell, and the shell from its first connection to its exit.

use std::io::{self, BufRead, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::interactive::interact;
use crate::meta;
use crate::render::Format;
use crate::session::{Interrupt, Session, Stop, Streams, connect_failure, now};
use crate::settings::Settings;
use crate::shell::{Flow, Shell};
use crate::target::{Target, process_environment};
use crate::wire::{ConnectError, Connection};

/// How long a node that does not serve SQL yet is asked again.
const NOT_READY_PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two such attempts.
const NOT_READY_PAUSE: Duration = Duration::from_millis(500);

/// Lines read ahead from standard input; a full channel stops the reading.
const INPUT_LINES_MAX: usize = 64;

/// Flags that say what the shell runs and how it prints.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ShellArgs {
    /// Run these statements or commands and exit; repeatable.
    #[arg(long, short = 'e', value_name = "SQL")]
    pub execute: Vec<String>,
    /// Run the statements of this file and exit.
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with = "execute")]
    pub file: Option<PathBuf>,
    /// How to print results [default: table on a terminal, tsv elsewhere].
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Set an option of the shell before anything runs, as \set does; repeatable.
    #[arg(long, value_name = "OPTION=VALUE", value_parser = check_setting)]
    pub set: Vec<String>,
    /// Repeat the statements of --execute at this interval, such as 5s, until one fails.
    #[arg(long, value_name = "INTERVAL", requires = "execute", value_parser = parse_interval)]
    pub watch: Option<Duration>,
    /// Print each statement to standard error before it runs.
    #[arg(long)]
    pub echo_sql: bool,
}

/// How the shell ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShellExit {
    /// Everything worked, or the user left the interactive shell.
    Success,
    /// Something failed and has been printed.
    Failure,
    /// The user interrupted it.
    Interrupted,
}

impl ShellExit {
    /// The exit code of the process.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Interrupted => 3,
        }
    }
}

/// Runs the shell on the standard streams of the process until its input ends.
///
/// Prints its own errors; the caller adds what it prints for any failed command.
pub async fn run(args: &ShellArgs, target: Target) -> ShellExit {
    let terminal_output = io::stdout().is_terminal();
    let interactive = args.execute.is_empty() && args.file.is_none() && io::stdin().is_terminal();
    let streams =
        Streams { out: Box::new(BufWriter::new(io::stdout())), err: Box::new(io::stderr()) };
    let settings = Settings::new(interactive, terminal_output);
    let input = if interactive {
        Input::Person
    } else {
        Input::Reader(Box::new(io::BufReader::new(io::stdin())))
    };
    match run_with(args, target, settings, streams, Interrupt::Signal, input).await {
        Ok(exit) => exit,
        Err(Stop::Interrupted) => ShellExit::Interrupted,
        // Whoever read the output has left: there is nobody to tell.
        Err(Stop::Output(_)) => ShellExit::Failure,
    }
}

/// What the shell reads when neither `-e` nor `-f` is given.
pub(crate) enum Input {
    /// A person at the terminal of the process.
    Person,
    /// Lines of a stream.
    Reader(Box<dyn BufRead + Send>),
}

/// Runs the shell on streams of the caller's choice.
pub(crate) async fn run_with(
    args: &ShellArgs,
    target: Target,
    mut settings: Settings,
    mut streams: Streams,
    interrupt: Interrupt,
    input: Input,
) -> Result<ShellExit, Stop> {
    if let Err(error) = apply(args, &mut settings) {
        writeln!(streams.err, "ERROR: {error}")?;
        return Ok(ShellExit::Failure);
    }
    let connection = match connect_patiently(&target, &interrupt, &mut streams.err).await? {
        Ok(connection) => connection,
        Err(error) => {
            writeln!(streams.err, "{}", connect_failure(&error))?;
            return Ok(ShellExit::Failure);
        }
    };
    let mut shell = Shell::new(Session::new(target, connection, settings, streams, interrupt));
    let result = read_input(&mut shell, args, input).await;
    // What was printed before an interruption is not to be lost with it.
    let flushed = shell.session.streams.out.flush();
    if !shell.session.connection.is_broken() {
        shell.session.connection.close().await;
    }
    result?;
    flushed?;
    Ok(if shell.failed { ShellExit::Failure } else { ShellExit::Success })
}

async fn read_input(shell: &mut Shell, args: &ShellArgs, input: Input) -> Result<(), Stop> {
    if !args.execute.is_empty() {
        return execute(shell, args).await;
    }
    if let Some(path) = &args.file {
        shell.file(path).await?;
        return Ok(());
    }
    match input {
        Input::Person => {
            interact(shell, history_path()).await?;
            // A person has seen the errors; they are no result of the session.
            shell.failed &= shell.session.settings.errexit;
            Ok(())
        }
        Input::Reader(reader) => read_lines(shell, reader).await,
    }
}

fn apply(args: &ShellArgs, settings: &mut Settings) -> Result<(), String> {
    if let Some(format) = args.format {
        settings.display_format = format;
    }
    settings.echo |= args.echo_sql;
    for text in &args.set {
        if let Some((name, value)) = meta::assignment(text) {
            settings.set(&name, value.as_deref())?;
        }
    }
    Ok(())
}

/// Connects; waits for a node that runs but serves no SQL yet, as before its initialisation.
async fn connect_patiently(
    target: &Target,
    interrupt: &Interrupt,
    err: &mut Box<dyn Write + Send>,
) -> Result<Result<Connection, ConnectError>, Stop> {
    let start = now();
    let mut told = false;
    loop {
        let error = match Connection::open(target).await {
            Ok((connection, notices)) => {
                for notice in notices {
                    writeln!(err, "{notice}")?;
                }
                return Ok(Ok(connection));
            }
            Err(error) => error,
        };
        if !error.is_not_ready() || now().saturating_duration_since(start) > NOT_READY_PATIENCE {
            return Ok(Err(error));
        }
        if !told {
            told = true;
            let seconds = NOT_READY_PATIENCE.as_secs();
            writeln!(err, "{error}\ntrying again for {seconds} s")?;
        }
        tokio::select! {
            () = tokio::time::sleep(NOT_READY_PAUSE) => {}
            () = interrupt.wait() => return Err(Stop::Interrupted),
        }
    }
}

async fn execute(shell: &mut Shell, args: &ShellArgs) -> Result<(), Stop> {
    let interrupt = shell.session.interrupt();
    loop {
        for text in &args.execute {
            if shell.text(text).await? != Flow::Continue {
                return Ok(());
            }
        }
        let Some(interval) = args.watch else { return Ok(()) };
        if shell.failed {
            return Ok(());
        }
        shell.session.streams.out.flush()?;
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = interrupt.wait() => return Err(Stop::Interrupted),
        }
    }
}

/// Runs the statements of a stream as they arrive.
async fn read_lines(shell: &mut Shell, mut reader: Box<dyn BufRead + Send>) -> Result<(), Stop> {
    let interrupt = shell.session.interrupt();
    let (sender, mut receiver) = mpsc::channel::<io::Result<String>>(INPUT_LINES_MAX);
    // A thread of its own, not joined: it may sit in a read that never ends, which must not keep
    // an interrupted process alive. It ends with its input or with the receiver.
    let thread = std::thread::Builder::new().name("shell-input".to_owned()).spawn(move || {
        loop {
            let mut line = String::new();
            let item = match reader.read_line(&mut line) {
                Ok(0) => return,
                Ok(_) => Ok(line),
                Err(error) => Err(error),
            };
            let failed = item.is_err();
            if sender.blocking_send(item).is_err() || failed {
                return;
            }
        }
    });
    thread?;
    loop {
        let line = tokio::select! {
            line = receiver.recv() => line,
            () = interrupt.wait() => return Err(Stop::Interrupted),
        };
        let flow = match line {
            None => {
                shell.end_of_input().await?;
                return Ok(());
            }
            Some(Ok(line)) => shell.line(line.trim_end_matches(['\n', '\r'])).await?,
            Some(Err(error)) => {
                shell.session.complain(&format!("ERROR: cannot read the input: {error}"))?;
                shell.failed = true;
                return Ok(());
            }
        };
        if flow != Flow::Continue {
            return Ok(());
        }
    }
}

/// The file of statements entered before, if there is a place for it.
fn history_path() -> Option<PathBuf> {
    let named = ["CRDB_SQL_CLI_HISTORY", "COCKROACH_SQL_CLI_HISTORY"]
        .iter()
        .find_map(|name| process_environment(name));
    match named {
        Some(path) if path.is_empty() => None,
        Some(path) => Some(PathBuf::from(path)),
        None => std::env::home_dir().map(|home| home.join(".crdb_sql_history")),
    }
}

/// Checks an option of the command line, so that a wrong one is a wrong flag.
fn check_setting(text: &str) -> Result<String, String> {
    let (name, value) = meta::assignment(text).ok_or_else(|| "expected OPTION=VALUE".to_owned())?;
    Settings::new(false, false).set(&name, value.as_deref())?;
    Ok(text.to_owned())
}

/// Reads `5s`, `500ms`, `1m`, `2h` or a plain number of seconds.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit {unit:?}; known are ms, s, m, h")),
    };
    let seconds = number.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds * factor).ok())
        .ok_or_else(|| "expected a time span above zero, such as 5s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals() {
        assert_eq!(parse_interval("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_interval("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_interval("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "0s", "5d", "s", "-1s", "1e400"] {
            assert!(parse_interval(bad).is_err(), "{bad}");
        }
    }
}
