//! Completion: scripts for the program itself, and answers to kubectl's completion of plugins.
//!
//! kubectl completes `kubectl crdb ...` by running a program `kubectl_complete-crdb` with the words
//! typed so far; a link of that name to this program is all it takes.

use std::path::Path;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use crdb_api::CrdbCluster;
use kube::Api;
use kube::api::ListParams;

use crate::cli::{Cli, Common, without_separator};
use crate::cluster;

/// Name under which kubectl runs the helper.
const HELPER: &str = "kubectl_complete-crdb";

/// Directive that tells kubectl not to offer file names.
const NO_FILES: &str = ":4\n";

/// Longest time that a look for names may hold up a key press.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether the program runs as kubectl's helper.
pub(crate) fn is_helper(arguments: &[String]) -> bool {
    let program = arguments.first().map(Path::new);
    program.and_then(Path::file_stem).is_some_and(|name| name == HELPER)
}

/// The script that completes the program `kubectl-crdb`.
pub(crate) fn script(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kubectl-crdb", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// What may follow the words typed so far, in the form kubectl reads.
pub(crate) async fn candidates(arguments: &[String]) -> String {
    let words = arguments.get(1..).unwrap_or_default();
    let (typed, current) = match words.split_last() {
        Some((current, typed)) => (typed, current.as_str()),
        None => (words, ""),
    };
    let found = if wants_cluster(typed, current) {
        clusters(typed).await
    } else {
        static_candidates(typed, current)
    };
    let mut lines: Vec<String> =
        found.into_iter().filter(|candidate| candidate.starts_with(current)).collect();
    lines.sort();
    lines.dedup();
    lines.into_iter().map(|line| line + "\n").collect::<String>() + NO_FILES
}

/// Whether the word being typed names a cluster.
fn wants_cluster(typed: &[String], current: &str) -> bool {
    let previous = typed.last().map_or("", String::as_str);
    matches!(previous, "-c" | "--cluster") || (previous == "status" && !current.starts_with('-'))
}

/// Commands, flags and the values of flags that need no look at the API server.
fn static_candidates(typed: &[String], current: &str) -> Vec<String> {
    let mut root = Cli::command();
    root.build();
    let command = typed.iter().find_map(|word| root.find_subcommand(word));
    let here = command.unwrap_or(&root);
    let previous = typed.last().map_or("", String::as_str);
    let flag = here.get_arguments().find(|argument| {
        argument.get_long().is_some_and(|long| previous.strip_prefix("--") == Some(long))
            || argument
                .get_short()
                .is_some_and(|short| previous.strip_prefix('-') == Some(short.to_string().as_str()))
    });
    if let Some(flag) = flag.filter(|flag| flag.get_action().takes_values()) {
        let values = flag.get_possible_values();
        return values.iter().map(|value| value.get_name().to_owned()).collect();
    }
    if current.starts_with('-') {
        let long = here.get_arguments().filter_map(clap::Arg::get_long);
        return long.map(|name| format!("--{name}")).collect();
    }
    match command {
        Some(command) => command
            .get_positionals()
            .flat_map(clap::Arg::get_possible_values)
            .map(|value| value.get_name().to_owned())
            .collect(),
        None => root.get_subcommands().map(|command| command.get_name().to_owned()).collect(),
    }
}

/// Names of the clusters in the namespace asked for; none when they cannot be read in time.
async fn clusters(typed: &[String]) -> Vec<String> {
    let look_up = async {
        let (client, namespace) = cluster::connect(&common_flags(typed)).await.ok()?;
        let api: Api<CrdbCluster> = Api::namespaced(client, &namespace);
        let list = api.list(&ListParams::default()).await.ok()?;
        Some(list.items.iter().map(kube::ResourceExt::name_any).collect())
    };
    tokio::time::timeout(LOOKUP_TIMEOUT, look_up).await.ok().flatten().unwrap_or_default()
}

/// The common flags among the words typed so far.
fn common_flags(typed: &[String]) -> Common {
    // A flag that still waits for its value cannot be parsed, and says nothing yet.
    let complete = match typed.last().map(String::as_str) {
        Some("-c" | "--cluster") => typed.get(..typed.len() - 1).unwrap_or_default(),
        _ => typed,
    };
    let words = std::iter::once("kubectl-crdb".to_owned()).chain(complete.iter().cloned());
    let words = without_separator(words.collect());
    let parsed = Cli::try_parse_from(words.iter().cloned());
    // `kubectl crdb -n db -c` names no command yet.
    let with_command = || Cli::try_parse_from(words.iter().cloned().chain(["status".to_owned()]));
    parsed.or_else(|_| with_command()).map(|cli| cli.common).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(ToOwned::to_owned).collect()
    }

    fn complete(line: &str) -> Vec<String> {
        let words = words(line);
        let (current, typed) = words.split_last().unwrap();
        assert!(!wants_cluster(typed, current), "{line}");
        let found = static_candidates(typed, current);
        found.into_iter().filter(|candidate| candidate.starts_with(current)).collect()
    }

    #[test]
    fn commands_flags_and_values() {
        assert_eq!(complete("s"), ["status", "sql"]);
        assert_eq!(complete("-n db nod"), ["nodes"]);
        assert_eq!(complete("nodes --z"), ["--zone"]);
        assert_eq!(complete("nodes -o ya"), ["yaml"]);
        assert_eq!(complete("sql --format js"), ["json"]);
        assert_eq!(complete("completion ba"), ["bash"]);
        assert_eq!(complete("nodes x"), Vec::<String>::new());
    }

    #[test]
    fn names_of_clusters_are_looked_up_where_they_stand() {
        assert!(wants_cluster(&words("sql -c"), "pr"));
        assert!(wants_cluster(&words("-n db status"), ""));
        assert!(!wants_cluster(&words("-n db status"), "-"));
        assert_eq!(common_flags(&words("-n db sql -c")).namespace.as_deref(), Some("db"));
        assert_eq!(common_flags(&words("-n db -c")).namespace.as_deref(), Some("db"));
    }

    #[test]
    fn the_helper_is_known_by_its_name() {
        assert!(is_helper(&words("/usr/local/bin/kubectl_complete-crdb status")));
        assert!(!is_helper(&words("/usr/local/bin/kubectl-crdb status")));
    }

    #[test]
    fn scripts_name_the_program() {
        let script = script(clap_complete::Shell::Bash);
        let last = script.lines().rev().find(|line| line.contains("complete -F"));
        assert!(last.is_some_and(|line| line.trim_end().ends_with(" kubectl-crdb")), "{script}");
    }
}
