//! `crdb limits`, and the environment variable `CRDB_LIMITS`: bounds of a node, changed by tests.

use std::process::ExitCode;

use clap::Args;
use crdb_server::AllLimits;

use super::{Failure, print};

/// Bounds of a node that starts, as `crate.name=number,...`.
const VARIABLE: &str = "CRDB_LIMITS";

/// Flags of `limits`.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct LimitsArgs {
    /// Print all limits: name, value of production, least that works; times are in milliseconds
    #[arg(long)]
    list: bool,
    /// Print what CRDB_LIMITS takes, drawn at random by this seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Runs `crdb limits`.
pub(crate) fn run(args: &LimitsArgs) -> Result<ExitCode, Failure> {
    match args.seed {
        Some(seed) => print(&format!("{}\n", AllLimits::of_seed(seed).changed())),
        None => print(&table()),
    }
}

fn table() -> String {
    let list = AllLimits::list();
    let width = list.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    let mut text = format!("{:width$} {:>12} {:>12}\n", "name", "production", "least");
    for (name, production, least) in list {
        text.push_str(&format!("{name:width$} {production:>12} {least:>12}\n"));
    }
    text
}

/// The bounds that the environment asks for.
pub(crate) fn from_env() -> Result<AllLimits, Failure> {
    let Some(text) = std::env::var_os(VARIABLE) else { return Ok(AllLimits::default()) };
    let bad = |why: String| {
        Failure::bad_flag(format!("invalid {VARIABLE}: {why}"))
            .hint("see 'crdb limits --list' for those there are")
    };
    let text = text.into_string().map_err(|_| bad("it is not UTF-8".to_owned()))?;
    AllLimits::parse(&text).map_err(|error| bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_a_line_for_each() {
        let text = table();
        assert_eq!(text.lines().count(), AllLimits::list().len() + 1, "{text}");
        let line = text.lines().find(|line| line.contains("server.batches_max")).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["server.batches_max", "4096", "16"]
        );
    }
}
