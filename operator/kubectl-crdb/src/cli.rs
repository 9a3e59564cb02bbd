//! Flags and arguments.

use clap::{Args, Parser, Subcommand};
use crdb_shell::ShellArgs;

use crate::output::Output;
use crate::style::Color;

/// Look at database clusters on Kubernetes and open SQL shells on them.
#[derive(Debug, Clone, Parser)]
#[command(name = "kubectl-crdb", bin_name = "kubectl crdb", disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Common {
    /// Namespace to look in; that of the context when absent
    #[arg(short = 'n', long, global = true)]
    pub(crate) namespace: Option<String>,
    /// Context of the kubeconfig to use
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// Cluster to look at; may be absent when the namespace holds only one
    #[arg(short = 'c', long, global = true)]
    pub(crate) cluster: Option<String>,
    /// Whether to colour what is printed
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) color: Color,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Show how a cluster is, what is wrong first, and what to do next
    #[command(after_help = "Examples:\n  \
        kubectl crdb status                     the only cluster of the namespace\n  \
        kubectl crdb status prod -n db --watch  again at every change\n  \
        kubectl crdb status prod -o yaml        the whole object")]
    Status(StatusArgs),
    /// List the nodes of a cluster
    #[command(after_help = "Examples:\n  \
        kubectl crdb nodes -c prod -o wide\n  \
        kubectl crdb nodes --zone us-east-1a -o name   the pods of a zone")]
    Nodes(NodesArgs),
    /// Open a SQL shell on a cluster, or run statements, over a forwarded port
    #[command(after_help = "Examples:\n  \
        kubectl crdb sql -c prod\n  \
        kubectl crdb sql -c prod -e 'SHOW TABLES' --format csv\n  \
        kubectl crdb sql -c prod -d shop < schema.sql")]
    Sql(SqlArgs),
    /// Print the versions of plugin, operator and clusters
    #[command(after_help = "Examples:\n  \
        kubectl crdb version\n  \
        kubectl crdb version --client   without asking the API server")]
    Version(VersionArgs),
    /// Print a completion script
    #[command(
        long_about = "Print a completion script.\n\n\
        For 'kubectl crdb <TAB>', put a link named kubectl_complete-crdb to this program next to it\n\
        on the PATH; kubectl asks it. The scripts printed here complete the program kubectl-crdb\n\
        itself.",
        after_help = "Examples:\n  \
        source <(kubectl crdb completion bash)\n  \
        ln -s \"$(command -v kubectl-crdb)\" ~/.local/bin/kubectl_complete-crdb"
    )]
    Completion {
        /// Shell to complete in
        shell: clap_complete::Shell,
    },
}

/// Flags of commands that print rows.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Printing {
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// Print again at every change, until interrupted
    #[arg(short = 'w', long)]
    pub(crate) watch: bool,
    /// Leave out the headers of tables
    #[arg(long)]
    pub(crate) no_headers: bool,
}

/// Flags of `status`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    /// Cluster to show, as --cluster
    #[arg(value_name = "CLUSTER")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

/// Flags of `nodes`.
#[derive(Debug, Clone, Args)]
pub(crate) struct NodesArgs {
    /// Show only nodes in this zone
    #[arg(long)]
    pub(crate) zone: Option<String>,
    /// Show only nodes in this region
    #[arg(long)]
    pub(crate) region: Option<String>,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

/// Flags of `sql`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SqlArgs {
    /// User to log in as
    #[arg(short = 'u', long, default_value = "root")]
    pub(crate) user: String,
    /// Database to use
    #[arg(short = 'd', long, default_value = "defaultdb")]
    pub(crate) database: String,
    #[command(flatten)]
    pub(crate) shell: ShellArgs,
}

/// Flags of `version`.
#[derive(Debug, Clone, Args)]
pub(crate) struct VersionArgs {
    /// Print the version of the plugin alone, without asking the API server
    #[arg(long)]
    pub(crate) client: bool,
}

/// Removes the first `--`, so that flags of the shell may stand behind one, as kubectl's users
/// write it: `kubectl crdb sql -- -e 'SELECT 1'`.
pub(crate) fn without_separator(mut arguments: Vec<String>) -> Vec<String> {
    if let Some(at) = arguments.iter().position(|argument| argument == "--") {
        arguments.remove(at);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let arguments = line.split(' ').map(ToOwned::to_owned).collect();
        Cli::try_parse_from(without_separator(arguments))
    }

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_how_it_is_used() {
        for command in Cli::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            let examples = help.split("Examples:").nth(1);
            let name = command.get_name();
            assert!(examples.is_some_and(|text| text.contains("kubectl")), "{name}: {help}");
        }
    }

    #[test]
    fn flags_of_the_shell_may_stand_behind_a_separator() {
        for line in [
            "kubectl-crdb sql -c prod -- -e SELECT --format csv -u ann",
            "kubectl-crdb -c prod sql -e SELECT --format csv -u ann",
        ] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.common.cluster.as_deref(), Some("prod"));
            let Command::Sql(args) = cli.command else { panic!("{line}") };
            assert_eq!(
                (args.user.as_str(), args.shell.execute),
                ("ann", vec!["SELECT".to_owned()])
            );
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in ["kubectl-crdb", "kubectl-crdb fly", "kubectl-crdb nodes -o xml"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), i32::from(crate::failure::USAGE));
        }
    }
}
