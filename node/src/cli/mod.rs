//! The command line: parses, dispatches, reports failures the same way for every command.

mod background;
mod client;
mod demo;
mod init;
mod limits;
mod node;
mod signals;
mod sql;
mod start;
mod values;
mod version;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{CommandFactory as _, Parser, Subcommand};

/// Exit code for a flag or value that cannot be understood.
const EXIT_BAD_FLAGS: u8 = 4;

/// A distributed SQL database.
#[derive(Debug, Parser)]
#[command(name = "crdb", disable_version_flag = true, subcommand_required = true)]
#[command(arg_required_else_help = true, infer_subcommands = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a node of a cluster
    Start(Box<start::StartArgs>),
    /// Start a cluster of a single node
    StartSingleNode(Box<start::NodeArgs>),
    /// Make a cluster out of nodes that wait for it
    Init(init::InitArgs),
    /// Show the nodes of a cluster
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Open a SQL shell, or run statements
    Sql(Box<sql::SqlArgs>),
    /// Run a cluster in this process, with a SQL shell; its data is gone afterwards
    Demo(Box<demo::DemoArgs>),
    /// Print the version
    Version {
        /// Print the build tag alone
        #[arg(long)]
        build_tag: bool,
    },
    /// Show the bounds of a node, or draw some for a test
    #[command(hide = true)]
    Limits(limits::LimitsArgs),
    /// Print a completion script for a shell
    Completion {
        /// Shell to complete in
        shell: clap_complete::Shell,
    },
}

/// Why a command failed, as it is told to the user.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: 1 }
    }

    /// A flag whose value cannot be understood.
    pub(crate) fn bad_flag(message: impl Into<String>) -> Self {
        Self::new(message).exit_code(EXIT_BAD_FLAGS)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn exit_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Whether a flag is to blame, so that trying again does not help.
    pub(crate) fn is_bad_flag(&self) -> bool {
        self.code == EXIT_BAD_FLAGS
    }

    fn report(&self, command: &str) -> ExitCode {
        let mut text = format!("ERROR: {}\n", self.message);
        if let Some(hint) = &self.hint {
            text.push_str(&format!("HINT: {hint}\n"));
        }
        text.push_str(&format!("Failed running \"{command}\"\n"));
        // Without a stderr there is nobody to tell.
        drop(std::io::stderr().write_all(text.as_bytes()));
        ExitCode::from(self.code)
    }
}

/// Parses the arguments and runs the command.
pub(crate) fn main() -> ExitCode {
    background::leave_session();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return bad_arguments(&error),
    };
    let (name, outcome) = match cli.command {
        Command::Start(args) => ("start", start::run_start(*args)),
        Command::StartSingleNode(args) => ("start-single-node", start::run_single(*args)),
        Command::Init(args) => ("init", init::run(&args)),
        Command::Node(command) => (command.name(), node::run(&command)),
        Command::Sql(args) => ("sql", sql::run(&args)),
        Command::Demo(args) => ("demo", demo::run(&args)),
        Command::Version { build_tag } => ("version", print_version(build_tag)),
        Command::Limits(args) => ("limits", limits::run(&args)),
        Command::Completion { shell } => ("completion", print_completion(shell)),
    };
    outcome.unwrap_or_else(|failure| failure.report(name))
}

/// Prints help as asked, or what is wrong with the arguments.
fn bad_arguments(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    drop(error.print());
    if help {
        return ExitCode::SUCCESS;
    }
    let mut words = std::env::args().skip(1).take_while(|word| !word.starts_with('-'));
    let command = match words.next() {
        // The only command with commands of its own.
        Some(group) if group == "node" => {
            words.next().map_or_else(|| group.clone(), |word| format!("{group} {word}"))
        }
        Some(command) => command,
        None => "crdb".to_owned(),
    };
    let line = format!("Failed running \"{command}\"\n");
    drop(std::io::stderr().write_all(line.as_bytes()));
    ExitCode::from(EXIT_BAD_FLAGS)
}

fn print_version(build_tag: bool) -> Result<ExitCode, Failure> {
    let text = if build_tag { format!("{}\n", version::build_tag()) } else { version::text() };
    print(&text)
}

fn print_completion(shell: clap_complete::Shell) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "crdb", &mut script);
    print(&String::from_utf8_lossy(&script))
}

fn print(text: &str) -> Result<ExitCode, Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints text on stderr.
pub(crate) fn print_error(text: &str) {
    // Without a stderr there is nobody to tell.
    drop(std::io::stderr().write_all(text.as_bytes()));
}

/// Prints a boxed notice on stderr and logs it.
pub(crate) fn notice(text: &str) {
    let mut boxed = String::from("*\n");
    for line in text.lines() {
        boxed.push_str(format!("* {line}").trim_end());
        boxed.push('\n');
    }
    boxed.push_str("*\n");
    drop(std::io::stderr().write_all(boxed.as_bytes()));
    tracing::info!("{text}");
}

/// The wall clock, for people.
#[expect(clippy::disallowed_methods, reason = "the binary is the edge of the process")]
pub(crate) fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// A point in time as `2026-01-02 03:04:05.678901 +0000 UTC`.
pub(crate) fn format_time(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_date(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:06} +0000 UTC",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_micros()
    )
}

/// Date of a day counted from 1970-01-01, in the Gregorian calendar.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that the leap day is the last of a year.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn dates() {
        for (days, date) in [(0, (1970, 1, 1)), (11_016, (2000, 2, 29)), (20_779, (2026, 11, 22))] {
            assert_eq!(civil_date(days), date);
        }
    }
}
