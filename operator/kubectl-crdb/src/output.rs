//! Machine-readable output, and printing again at every change.

use std::io::{IsTerminal as _, Write as _};
use std::pin::pin;
use std::process::ExitCode;

use crdb_api::CrdbCluster;
use futures::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher;
use kube::runtime::watcher::{Config, Event};
use serde::Serialize;

use crate::cluster::Found;
use crate::failure::{Failure, causes};

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Text for people.
    #[default]
    Table,
    /// The same with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Names of objects, one a line.
    Name,
}

/// The object without what only machines keep in it, as kubectl prints it.
pub(crate) fn shown(cluster: &CrdbCluster) -> CrdbCluster {
    let mut cluster = cluster.clone();
    cluster.metadata.managed_fields = None;
    cluster
}

/// JSON with two blanks of indentation, as kubectl prints it.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| Failure::new(format!("cannot print as JSON: {error}")))
}

/// YAML.
pub(crate) fn yaml(value: &impl Serialize) -> Result<String, Failure> {
    serde_yaml::to_string(value)
        .map_err(|error| Failure::new(format!("cannot print as YAML: {error}")))
}

/// Prints a cluster once, or again at every change until the user interrupts.
pub(crate) async fn print_cluster(
    found: &Found,
    watch: bool,
    render: impl Fn(&CrdbCluster) -> Result<String, Failure>,
) -> Result<ExitCode, Failure> {
    if !watch {
        return crate::print(&render(&found.cluster)?);
    }
    let name = found.cluster.metadata.name.clone().unwrap_or_default();
    let config = Config::default().fields(&format!("metadata.name={name}"));
    let mut changes = pin!(watcher(found.api.clone(), config).default_backoff());
    let terminal = std::io::stdout().is_terminal();
    let mut last = String::new();
    while let Some(change) = changes.next().await {
        let text = match change {
            Ok(Event::Apply(cluster) | Event::InitApply(cluster)) => render(&cluster)?,
            Ok(Event::Delete(_)) => {
                return Err(Failure::new(format!("CrdbCluster {name:?} was deleted")));
            }
            Ok(Event::Init | Event::InitDone) => continue,
            // The watch goes on by itself; the user learns why nothing moves.
            Err(error) => {
                let text = format!("warning: {}\n", causes(&error));
                drop(std::io::stderr().write_all(text.as_bytes()));
                continue;
            }
        };
        if text == last {
            continue;
        }
        let before = match (terminal, last.is_empty()) {
            // Clears the screen and goes to its first line.
            (true, _) => "\u{1b}[2J\u{1b}[H",
            (false, true) => "",
            (false, false) => "\n",
        };
        if std::io::stdout().write_all(format!("{before}{text}").as_bytes()).is_err() {
            return Ok(ExitCode::SUCCESS);
        }
        last = text;
    }
    Err(Failure::new("the watch ended"))
}
