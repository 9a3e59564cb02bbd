//! `crdb node ls` and `crdb node status`: what a cluster looks like to the node asked.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use crdb_proto::admin::{ClusterStatusResponse, Liveness, Membership, NodeStatus};
use crdb_shell::ConnectionArgs;
use crdb_shell::render::{Cell, Column, Format, render};

use super::{Failure, client, values};

/// Commands of `node`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the ids of the nodes
    Ls(LsArgs),
    /// Show the nodes, or one of them
    Status(StatusArgs),
}

impl NodeCommand {
    /// Name of the command in messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ls(_) => "node ls",
            Self::Status(_) => "node status",
        }
    }
}

/// Flags that `ls` and `status` share.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutputArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// How to print the rows [default: table on a terminal, tsv elsewhere]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Longest time the command may take, such as 10s
    #[arg(long, value_name = "DURATION", value_parser = values::parse_duration)]
    timeout: Option<Duration>,
}

/// Flags of `node ls`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// Flags of `node status`.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct StatusArgs {
    /// Node to show; all nodes when absent
    #[arg(value_name = "NODE_ID")]
    node: Option<String>,
    /// Add columns on ranges
    #[arg(long)]
    ranges: bool,
    /// Add columns on bytes stored
    #[arg(long)]
    stats: bool,
    /// Add columns on membership, and show nodes that left
    #[arg(long)]
    decommission: bool,
    /// Add all columns
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs a command of `node`.
pub(crate) fn run(command: &NodeCommand) -> Result<ExitCode, Failure> {
    client::block_on(async {
        match command {
            NodeCommand::Ls(args) => client::limited(args.output.timeout, ls(args)).await,
            NodeCommand::Status(args) => client::limited(args.output.timeout, status(args)).await,
        }
    })?
}

async fn ls(args: &LsArgs) -> Result<ExitCode, Failure> {
    let mut admin = client::Admin::connect(&args.output.connection).await?;
    let cluster = admin.cluster_status().await?;
    let format = client::format_or_default(args.output.format);
    super::print(&list(format, &cluster))
}

async fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let shown = Shown::of(args)?;
    let mut admin = client::Admin::connect(&args.output.connection).await?;
    let cluster = admin.cluster_status().await?;
    let format = client::format_or_default(args.output.format);
    super::print(&table(format, &cluster, &shown, super::wall_clock())?)
}

/// Rows and columns that the flags ask for.
#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    node: Option<u32>,
    ranges: bool,
    decommission: bool,
}

impl Shown {
    fn of(args: &StatusArgs) -> Result<Self, Failure> {
        if args.stats || args.all {
            let flag = if args.stats { "--stats" } else { "--all" };
            return Err(Failure::new(format!(
                "{flag} is not supported yet: nodes do not report live_bytes, key_bytes, value_bytes, intent_bytes and system_bytes"
            ))
            .hint("--ranges --decommission shows the other columns."));
        }
        let parse = |text: &String| {
            text.parse::<u32>()
                .ok()
                .filter(|id| *id > 0)
                .ok_or_else(|| Failure::new(format!("could not parse node_id {text}")))
        };
        let node = args.node.as_ref().map(parse).transpose()?;
        Ok(Self { node, ranges: args.ranges, decommission: args.decommission })
    }
}

/// Text of `node ls`.
fn list(format: Format, cluster: &ClusterStatusResponse) -> String {
    let listed = cluster.nodes.iter().filter(|node| is_member(node) || is_live(node));
    let mut ids: Vec<u32> = listed.map(id).collect();
    ids.sort_unstable();
    let rows = ids.into_iter().map(|id| vec![Some(id.to_string())]).collect();
    render(format, vec![Column::number("id")], rows)
}

/// Text of `node status`.
fn table(
    format: Format,
    cluster: &ClusterStatusResponse,
    shown: &Shown,
    now: SystemTime,
) -> Result<String, Failure> {
    let mut nodes: Vec<&NodeStatus> = cluster
        .nodes
        .iter()
        .filter(|node| match shown.node {
            Some(wanted) => id(node) == wanted,
            None => shown.decommission || !is_gone(node),
        })
        .collect();
    nodes.sort_by_key(|node| id(node));
    if let (Some(wanted), true) = (shown.node, nodes.is_empty()) {
        return Err(Failure::new(format!("node {wanted} doesn't exist")));
    }
    let mut columns = vec![Column::number("id")];
    columns.extend(
        ["address", "sql_address", "build", "started_at", "updated_at", "locality"]
            .map(Column::text),
    );
    columns.extend(["is_available", "is_live"].map(Column::text));
    if shown.ranges {
        columns.extend(
            [
                "replicas_leaders",
                "replicas_leaseholders",
                "ranges",
                "ranges_unavailable",
                "ranges_underreplicated",
            ]
            .map(Column::number),
        );
    }
    if shown.decommission {
        columns.push(Column::number("gossiped_replicas"));
        columns.extend(["is_decommissioning", "membership", "is_draining"].map(Column::text));
    }
    let rows = nodes.into_iter().map(|node| row(node, shown, now)).collect();
    Ok(render(format, columns, rows))
}

fn row(node: &NodeStatus, shown: &Shown, now: SystemTime) -> Vec<Cell> {
    let descriptor = node.descriptor.clone().unwrap_or_default();
    let tiers: Vec<String> =
        descriptor.locality.iter().map(|tier| format!("{}={}", tier.key, tier.value)).collect();
    let mut cells = vec![
        Some(descriptor.node_id.to_string()),
        Some(descriptor.address),
        Some(descriptor.sql_address),
        Some(descriptor.build_tag),
        time(descriptor.started_at_nanos),
        time(node.updated_at_nanos),
        Some(tiers.join(",")),
        Some(is_available(node, now).to_string()),
        Some(is_live(node).to_string()),
    ];
    let mut number = |value: u64| cells.push(Some(value.to_string()));
    if shown.ranges {
        number(node.leaders);
        number(node.leases);
        number(node.replicas);
        number(node.ranges_unavailable);
        number(node.ranges_underreplicated);
    }
    if shown.decommission {
        number(node.replicas);
        cells.push(Some((node.membership() == Membership::Decommissioning).to_string()));
        let membership = match node.membership() {
            Membership::Active => "active",
            Membership::Decommissioning => "decommissioning",
            Membership::Decommissioned => "decommissioned",
        };
        cells.push(Some(membership.to_owned()));
        cells.push(Some(node.draining.to_string()));
    }
    cells
}

fn id(node: &NodeStatus) -> u32 {
    node.descriptor.as_ref().map_or(0, |descriptor| descriptor.node_id)
}

fn is_live(node: &NodeStatus) -> bool {
    node.liveness() == Liveness::Live
}

/// Whether the liveness record has not expired. A node may be live without: its peers hear it,
/// but the record cannot be renewed while the range that holds it lacks a quorum.
fn is_available(node: &NodeStatus, now: SystemTime) -> bool {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(node.expires_at_nanos) > now
}

fn is_member(node: &NodeStatus) -> bool {
    node.membership() == Membership::Active
}

/// Whether the node left for good and is down: of interest only to those who ask.
fn is_gone(node: &NodeStatus) -> bool {
    node.membership() == Membership::Decommissioned && !is_live(node)
}

fn time(nanos: u64) -> Cell {
    (nanos > 0).then(|| super::format_time(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)))
}

#[cfg(test)]
mod tests {
    use crdb_proto::kv::{NodeDescriptor, Tier};
    use expect_test::expect;

    use super::*;

    fn node(id: u32, liveness: Liveness, membership: Membership) -> NodeStatus {
        let tier = |key: &str, value: &str| Tier { key: key.to_owned(), value: value.to_owned() };
        NodeStatus {
            descriptor: Some(NodeDescriptor {
                node_id: id,
                address: format!("localhost:{}", 26256 + id),
                sql_address: format!("localhost:{}", 26256 + id),
                locality: vec![tier("region", "us-east"), tier("az", "1")],
                build_tag: "v0.1.0".to_owned(),
                started_at_nanos: 1_767_225_600_000_000_000,
                ..NodeDescriptor::default()
            }),
            liveness: liveness.into(),
            membership: membership.into(),
            replicas: 12,
            leases: 4,
            leaders: 5,
            expires_at_nanos: if liveness == Liveness::Live { NOW + 1 } else { NOW },
            updated_at_nanos: if id == 4 { 0 } else { 1_767_225_601_500_000_000 },
            ..NodeStatus::default()
        }
    }

    const NOW: u64 = 1_767_225_605_000_000_000;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(NOW)
    }

    fn cluster() -> ClusterStatusResponse {
        ClusterStatusResponse {
            initialized: true,
            nodes: vec![
                node(2, Liveness::Suspect, Membership::Decommissioning),
                node(1, Liveness::Live, Membership::Active),
                node(3, Liveness::Dead, Membership::Decommissioned),
                node(4, Liveness::Dead, Membership::Active),
            ],
            ..ClusterStatusResponse::default()
        }
    }

    fn text(shown: &Shown) -> String {
        table(Format::Table, &cluster(), shown, now()).unwrap()
    }

    #[test]
    fn status_shows_the_nodes_in_order_and_hides_those_that_left() {
        expect![[r#"
              id |     address     |   sql_address   | build  |              started_at              |              updated_at              |      locality       | is_available | is_live
            -----+-----------------+-----------------+--------+--------------------------------------+--------------------------------------+---------------------+--------------+----------
               1 | localhost:26257 | localhost:26257 | v0.1.0 | 2026-01-01 00:00:00.000000 +0000 UTC | 2026-01-01 00:00:01.500000 +0000 UTC | region=us-east,az=1 | true         | true
               2 | localhost:26258 | localhost:26258 | v0.1.0 | 2026-01-01 00:00:00.000000 +0000 UTC | 2026-01-01 00:00:01.500000 +0000 UTC | region=us-east,az=1 | false        | false
               4 | localhost:26260 | localhost:26260 | v0.1.0 | 2026-01-01 00:00:00.000000 +0000 UTC | NULL                                 | region=us-east,az=1 | false        | false
            (3 rows)
        "#]].assert_eq(&text(&Shown::default()));
    }

    #[test]
    fn status_with_ranges_and_membership() {
        let shown = Shown { ranges: true, decommission: true, node: None };
        expect![[r#"
            -[ RECORD 1 ]
            id                     | 1
            address                | localhost:26257
            sql_address            | localhost:26257
            build                  | v0.1.0
            started_at             | 2026-01-01 00:00:00.000000 +0000 UTC
            updated_at             | 2026-01-01 00:00:01.500000 +0000 UTC
            locality               | region=us-east,az=1
            is_available           | true
            is_live                | true
            replicas_leaders       | 5
            replicas_leaseholders  | 4
            ranges                 | 12
            ranges_unavailable     | 0
            ranges_underreplicated | 0
            gossiped_replicas      | 12
            is_decommissioning     | false
            membership             | active
            is_draining            | false
            -[ RECORD 2 ]
            id                     | 2
            address                | localhost:26258
            sql_address            | localhost:26258
            build                  | v0.1.0
            started_at             | 2026-01-01 00:00:00.000000 +0000 UTC
            updated_at             | 2026-01-01 00:00:01.500000 +0000 UTC
            locality               | region=us-east,az=1
            is_available           | false
            is_live                | false
            replicas_leaders       | 5
            replicas_leaseholders  | 4
            ranges                 | 12
            ranges_unavailable     | 0
            ranges_underreplicated | 0
            gossiped_replicas      | 12
            is_decommissioning     | true
            membership             | decommissioning
            is_draining            | false
            -[ RECORD 3 ]
            id                     | 3
            address                | localhost:26259
            sql_address            | localhost:26259
            build                  | v0.1.0
            started_at             | 2026-01-01 00:00:00.000000 +0000 UTC
            updated_at             | 2026-01-01 00:00:01.500000 +0000 UTC
            locality               | region=us-east,az=1
            is_available           | false
            is_live                | false
            replicas_leaders       | 5
            replicas_leaseholders  | 4
            ranges                 | 12
            ranges_unavailable     | 0
            ranges_underreplicated | 0
            gossiped_replicas      | 12
            is_decommissioning     | false
            membership             | decommissioned
            is_draining            | false
            -[ RECORD 4 ]
            id                     | 4
            address                | localhost:26260
            sql_address            | localhost:26260
            build                  | v0.1.0
            started_at             | 2026-01-01 00:00:00.000000 +0000 UTC
            updated_at             | NULL
            locality               | region=us-east,az=1
            is_available           | false
            is_live                | false
            replicas_leaders       | 5
            replicas_leaseholders  | 4
            ranges                 | 12
            ranges_unavailable     | 0
            ranges_underreplicated | 0
            gossiped_replicas      | 12
            is_decommissioning     | false
            membership             | active
            is_draining            | false
        "#]]
        .assert_eq(&table(Format::Records, &cluster(), &shown, now()).unwrap());
    }

    #[test]
    fn one_node_is_found_even_when_it_left() {
        let shown = Shown { node: Some(3), ..Shown::default() };
        assert!(text(&shown).ends_with("(1 row)\n"));
        let error = table(Format::Table, &cluster(), &Shown { node: Some(9), ..shown }, now());
        assert!(format!("{:?}", error.unwrap_err()).contains("node 9 doesn't exist"));
    }

    #[test]
    fn ls_lists_members_and_the_living() {
        assert_eq!(list(Format::Tsv, &cluster()), "id\n1\n4\n");
    }
}
