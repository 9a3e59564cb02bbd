//! `crdb demo`: a cluster in one process, on stores that last as long as it does, and a shell.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use crdb_server::address::{Address, JoinList};
use crdb_server::{HttpAddress, Node, NodeConfig, StartMode, StoreDir};
use crdb_shell::{ShellArgs, Target};
use tempfile::TempDir;

use super::signals::{Signals, exit_code};
use super::{Failure, limits, notice, version};

/// Ports tried for SQL of the first node before any free one is taken.
const SQL_PORT: u16 = 26257;

/// Flags of `demo`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// Nodes to run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=9))]
    nodes: u32,
    /// SQL port of the first node; others take the next free ones [default: 26257 or a free one]
    #[arg(long, value_name = "PORT")]
    sql_port: Option<u16>,
    /// Kept for compatibility: a demo cluster is always insecure
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    shell: ShellArgs,
}

/// Runs `crdb demo`.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(demo(args));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn demo(args: &DemoArgs) -> Result<ExitCode, Failure> {
    let stores = tempfile::Builder::new().prefix("crdb-demo").tempdir().map_err(|error| {
        Failure::new(format!("cannot make a directory for the stores: {error}"))
    })?;
    let mut nodes = Vec::new();
    let outcome = start_and_use(args, &stores, &mut nodes).await;
    // All at once, so that none looks for somebody to take its leases.
    futures_join(nodes.iter().map(Node::stop_now)).await;
    drop(nodes);
    if let Err(error) = stores.close() {
        notice(&format!("WARNING: the stores of the demo could not be removed: {error}"));
    }
    outcome
}

async fn start_and_use(
    args: &DemoArgs,
    stores: &TempDir,
    nodes: &mut Vec<Node>,
) -> Result<ExitCode, Failure> {
    // Whatever ends the demo, its stores are removed.
    let mut interrupts = Signals::to_stop()?;
    let mut leave = Signals::to_leave()?;
    for n in 1..=args.nodes {
        let node = start(args, stores, nodes.first(), n)?;
        nodes.push(node);
        let Some(node) = nodes.last() else { continue };
        tokio::select! {
            serving = node.serving() => {
                serving.map_err(|error| Failure::new(error.to_string()))?;
            }
            signal = interrupts.next() => return Ok(exit_code(signal)),
            signal = leave.next() => return Ok(exit_code(signal)),
        }
    }
    let first = nodes.first().ok_or_else(|| Failure::new("a demo needs a node"))?;
    let mut text = format!(
        "#\n# Welcome to the crdb demo: {} node(s), data in {}, gone when you leave.\n",
        nodes.len(),
        stores.path().display()
    );
    for (n, node) in nodes.iter().enumerate() {
        text.push_str(&format!(
            "#   n{}: {}   http://{}\n",
            n + 1,
            node.sql_url(),
            node.http_address()
        ));
    }
    text.push_str("#\n");
    super::print_error(&text);
    let address = first.sql_address();
    let target = Target {
        host: address.host.clone(),
        port: address.port,
        user: "root".to_owned(),
        database: "defaultdb".to_owned(),
        application_name: "$ crdb demo".to_owned(),
        options: None,
    };
    // Ctrl-C belongs to the shell from here on.
    tokio::select! {
        exit = Box::pin(crdb_shell::run(&args.shell, target)) => Ok(ExitCode::from(exit.code())),
        signal = leave.next() => Ok(exit_code(signal)),
    }
}

fn start(args: &DemoArgs, stores: &TempDir, first: Option<&Node>, n: u32) -> Result<Node, Failure> {
    let local = |port: u16| Address { host: "127.0.0.1".to_owned(), port };
    let store = stores.path().join(format!("node{n}"));
    let mode = match first {
        None => StartMode::SingleNode,
        Some(first) => {
            let list = JoinList::parse(&[first.rpc_address().to_string()])
                .map_err(|error| Failure::new(error.to_string()))?;
            StartMode::Join { list, auto_init: false }
        }
    };
    let offset = u16::try_from(n - 1).unwrap_or(0);
    let wanted = args.sql_port.unwrap_or(SQL_PORT).saturating_add(offset);
    let mut config = NodeConfig {
        store: store.clone(),
        listen: local(wanted),
        advertise: None,
        sql: None,
        advertise_sql: None,
        http: HttpAddress::Exact(local(0)),
        advertise_http: None,
        mode,
        locality: vec![
            ("region".to_owned(), "demo".to_owned()),
            ("zone".to_owned(), format!("z{n}")),
        ],
        cache_bytes: 64 << 20,
        max_offset: Duration::from_millis(500),
        build_tag: version::build_tag(),
        limits: limits::from_env()?,
    };
    let open = |store: &std::path::Path| {
        StoreDir::open(store).map_err(|error| Failure::new(error.to_string()))
    };
    match Node::start(config.clone(), open(&store)?) {
        Ok(node) => Ok(node),
        // Nobody asked for that port: any other does.
        Err(crdb_server::StartError::Bind(error)) if error.in_use() && args.sql_port.is_none() => {
            config.listen = local(0);
            let node = Node::start(config, open(&store)?);
            node.map_err(|error| Failure::new(error.to_string()))
        }
        Err(error) => Err(Failure::new(error.to_string())),
    }
}

/// Waits for several futures at once.
async fn futures_join(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut left: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        left.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if left.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
