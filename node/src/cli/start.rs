//! `crdb start` and `crdb start-single-node`: flags, notices, life of the process.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use crdb_server::address::{Address, DEFAULT_HTTP_PORT, DEFAULT_PORT, JoinList, PartialAddress};
use crdb_server::{
    AllLimits, HttpAddress, Node, NodeConfig, Serving, StartError, StartMode, StoreDir,
};

use super::signals::{Signals, exit_code};
use super::values::{Size, parse_duration, parse_locality, parse_size, parse_store};
use super::{Failure, background, limits, notice};
use crate::logging;

/// After this long without serving, the user is told what may be missing.
const SLOW_START: Duration = Duration::from_secs(10);

/// Flags shared by `start` and `start-single-node`.
#[derive(Debug, Clone, Args)]
pub(crate) struct NodeArgs {
    /// Run without TLS and without passwords: anybody who reaches the node can do anything
    #[arg(long)]
    insecure: bool,
    /// Directory with the certificates of secure mode
    #[arg(long, value_name = "DIR")]
    certs_dir: Option<PathBuf>,
    /// Data directory: PATH or path=PATH
    #[arg(short, long, value_name = "STORE", default_value = "crdb-data", value_parser = parse_store)]
    store: PathBuf,
    /// Address to listen on for RPC, and for SQL unless --sql-addr is given
    #[arg(long, value_name = "HOST:PORT", default_value = "", alias = "host")]
    listen_addr: PartialAddress,
    /// Address that other nodes and clients are told; what is missing is taken from --listen-addr
    #[arg(long, value_name = "HOST:PORT", alias = "advertise-host")]
    advertise_addr: Option<PartialAddress>,
    /// Address to listen on for SQL alone
    #[arg(long, value_name = "HOST:PORT")]
    sql_addr: Option<PartialAddress>,
    /// Address that SQL clients are told
    #[arg(long, value_name = "HOST:PORT")]
    advertise_sql_addr: Option<PartialAddress>,
    /// Address to listen on for HTTP: health, metrics
    #[arg(long, value_name = "HOST:PORT", alias = "http-host")]
    http_addr: Option<PartialAddress>,
    /// Address that HTTP clients are told
    #[arg(long, value_name = "HOST:PORT")]
    advertise_http_addr: Option<PartialAddress>,
    /// Where the node is: ordered tiers from broad to narrow, as in region=us-east,zone=a
    #[arg(long, value_name = "TIERS", default_value = "", value_parser = LocalityParser)]
    locality: Locality,
    /// File that holds what --locality takes
    #[arg(long, value_name = "FILE", conflicts_with = "locality")]
    locality_file: Option<PathBuf>,
    /// Return when the node serves, or waits for others or for init, and let it run on in the
    /// background
    #[arg(long)]
    background: bool,
    /// File to write the process id to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// File to write the SQL URL to once SQL is served
    #[arg(long, value_name = "FILE")]
    listening_url_file: Option<PathBuf>,
    /// Memory for cached data: bytes, 256MiB or 25%
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_size)]
    cache: Size,
    /// Memory for SQL: accepted for compatibility, not enforced yet
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_sql_memory: Option<Size>,
    /// Largest difference between the clocks of two nodes
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = parse_max_offset)]
    max_offset: Duration,
    /// Send log lines of this level and above to stderr too: ERROR, WARN, INFO or DEBUG
    #[arg(long, value_name = "LEVEL", num_args = 0..=1, default_missing_value = "INFO",
          require_equals = true, value_parser = parse_level)]
    logtostderr: Option<tracing::Level>,
    /// Port to listen on (deprecated: use --listen-addr)
    #[arg(short, long, value_name = "PORT", hide = true)]
    port: Option<u16>,
    /// Port other nodes are told (deprecated: use --advertise-addr)
    #[arg(long, value_name = "PORT", hide = true)]
    advertise_port: Option<u16>,
    /// HTTP port (deprecated: use --http-addr)
    #[arg(long, value_name = "PORT", hide = true)]
    http_port: Option<u16>,
}

/// Flags of `start` alone.
#[derive(Debug, Clone, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Nodes of the cluster, three to five of them, comma-separated or repeated
    #[arg(short, long, value_name = "HOST:PORT,...")]
    join: Vec<String>,
    /// Wait for `crdb init` instead of letting the first --join entry make the cluster
    #[arg(long)]
    no_auto_init: bool,
}

#[derive(Debug, Clone)]
struct Locality(Vec<(String, String)>);

#[derive(Clone)]
struct LocalityParser;

impl clap::builder::TypedValueParser for LocalityParser {
    type Value = Locality;

    fn parse_ref(
        &self,
        cmd: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Locality, clap::Error> {
        clap::builder::TypedValueParser::parse_ref(&parse_locality, cmd, arg, value).map(Locality)
    }
}

fn parse_max_offset(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("clocks are never quite the same: give a time above zero".to_owned()),
        offset => Ok(offset),
    }
}

fn parse_level(text: &str) -> Result<tracing::Level, String> {
    match text.to_ascii_uppercase().as_str() {
        "ERROR" | "FATAL" => Ok(tracing::Level::ERROR),
        "WARN" | "WARNING" => Ok(tracing::Level::WARN),
        "INFO" | "TRUE" => Ok(tracing::Level::INFO),
        "DEBUG" => Ok(tracing::Level::DEBUG),
        _ => Err("write ERROR, WARN, INFO or DEBUG".to_owned()),
    }
}

/// Runs `crdb start`.
pub(crate) fn run_start(args: StartArgs) -> Result<ExitCode, Failure> {
    if args.join.iter().all(|entry| entry.trim().is_empty()) {
        let hint = "Consider using 'crdb init' or 'crdb start-single-node' instead";
        return Err(Failure::new("no --join flags provided to 'crdb start'").hint(hint));
    }
    let list = JoinList::parse(&args.join)
        .map_err(|error| Failure::bad_flag(format!("invalid value for --join: {error}")))?;
    run(args.node, StartMode::Join { list, auto_init: !args.no_auto_init })
}

/// Runs `crdb start-single-node`.
pub(crate) fn run_single(args: NodeArgs) -> Result<ExitCode, Failure> {
    run(args, StartMode::SingleNode)
}

/// How long a new node in the background is waited for while nothing but its own work is missing.
const BACKGROUND_PATIENCE: Duration = Duration::from_secs(10);

fn run(args: NodeArgs, mode: StartMode) -> Result<ExitCode, Failure> {
    if !args.insecure {
        let hint = "start with --insecure on a network that only trusted clients can reach";
        let text = "secure mode is not supported yet: certificates and passwords come with a later \
                    version";
        return Err(Failure::new(text).hint(hint));
    }
    if args.certs_dir.is_some() {
        notice("WARNING: --certs-dir has no effect with --insecure.");
    }
    let config = config(&args, mode, locality(&args)?, limits::from_env()?);
    if let Some(code) = already_running(&config)? {
        return Ok(code);
    }
    if args.background && !background::is_child() {
        return background::start(&config.store.join("logs"));
    }
    serve(&args, config)
}

fn locality(args: &NodeArgs) -> Result<Vec<(String, String)>, Failure> {
    let Some(path) = &args.locality_file else { return Ok(args.locality.0.clone()) };
    let bad = |reason: String| {
        Failure::bad_flag(format!("invalid --locality-file {}: {reason}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    parse_locality(text.trim()).map_err(bad)
}

fn config(
    args: &NodeArgs,
    mode: StartMode,
    locality: Vec<(String, String)>,
    limits: AllLimits,
) -> NodeConfig {
    let with_port = |mut address: PartialAddress, port: Option<u16>| {
        address.port = port.or(address.port);
        address
    };
    let listen = with_port(args.listen_addr.clone(), args.port).or("", DEFAULT_PORT);
    let host = listen.host.clone();
    let explicit_http = args.http_addr.is_some() || args.http_port.is_some();
    let http = with_port(args.http_addr.clone().unwrap_or_default(), args.http_port);
    let http = http.or(&host, DEFAULT_HTTP_PORT);
    let advertise = match (args.advertise_addr.clone(), args.advertise_port) {
        (None, None) => None,
        (address, port) => Some(with_port(address.unwrap_or_default(), port)),
    };
    NodeConfig {
        store: args.store.clone(),
        sql: args.sql_addr.clone().map(|address| address.or(&host, DEFAULT_PORT)),
        listen,
        advertise,
        advertise_sql: args.advertise_sql_addr.clone(),
        http: if explicit_http { HttpAddress::Exact(http) } else { HttpAddress::Default(http) },
        advertise_http: args.advertise_http_addr.clone(),
        mode,
        locality,
        cache_bytes: args.cache.of(memory_bytes()),
        max_offset: args.max_offset,
        build_tag: super::version::build_tag(),
        limits,
    }
}

/// Physical memory; where it cannot be told, shares are of 4 GiB.
fn memory_bytes() -> u64 {
    const UNKNOWN: u64 = 4 << 30;
    let Ok(text) = std::fs::read_to_string("/proc/meminfo") else { return UNKNOWN };
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|t| t.trim().strip_suffix("kB")).and_then(|t| t.trim().parse().ok());
    kib.map_or(UNKNOWN, |kib: u64| kib << 10)
}

/// The same command again, while its node runs, is no error.
fn already_running(config: &NodeConfig) -> Result<Option<ExitCode>, Failure> {
    let Some(owner) = StoreDir::owner(&config.store) else { return Ok(None) };
    if background::is_child() && owner.pid == std::process::id() {
        return Ok(None);
    }
    if owner.listen_address == config.listen.to_string() && background::is_alive(owner.pid) {
        notice(&format!("node already running (pid {})", owner.pid));
        return Ok(Some(ExitCode::SUCCESS));
    }
    let store = config.store.display();
    Err(Failure::new(format!(
        "store {store} is in use by another process (pid {}, listening on {})",
        owner.pid, owner.listen_address
    ))
    .hint("give each node a --store of its own"))
}

fn serve(args: &NodeArgs, config: NodeConfig) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start the runtime: {error}")))?;
    let code = runtime.block_on(life(args, config));
    // Threads that still wait on a resolver or a disk do not hold the exit up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn life(args: &NodeArgs, config: NodeConfig) -> Result<ExitCode, Failure> {
    let began = super::wall_clock();
    let listen = config.listen.clone();
    let mode = config.mode.clone();
    let locality = config.locality.clone();
    let store = StoreDir::open(&config.store).map_err(|error| Failure::new(error.to_string()))?;
    logging::start(&store.logs(), args.logtostderr)
        .map_err(|error| Failure::new(format!("cannot write logs: {error}")).exit_code(6))?;
    tracing::info!(version = super::version::build_tag(), pid = std::process::id(), "starting");
    let mut signals = Signals::to_stop()?;
    let node = Node::start(config, store).map_err(failure)?;
    print_insecure_warning(&listen);
    if args.max_sql_memory.is_some() {
        notice("WARNING: --max-sql-memory is not enforced yet.");
    }
    if let Some(moved) = node.http_moved() {
        notice(&format!("WARNING: {moved}"));
    }
    if let Some(path) = &args.pid_file {
        write_file(path, &format!("{}\n", std::process::id()))?;
    }
    if matches!(mode, StartMode::Join { .. }) && !node.is_member() {
        notice(
            "INFO: initial startup completed.\nNode will now attempt to join a running cluster, \
             or wait for `crdb init`.\nClient connections will be accepted after this completes \
             successfully.\nCheck the log file(s) for progress.",
        );
    }
    if background::is_child() && !node.is_member() {
        // What is typed next then finds the cluster, if this was the last node it took.
        tokio::select! {
            settled = tokio::time::timeout(BACKGROUND_PATIENCE, node.settled()) => drop(settled),
            signal = signals.next() => return Ok(stop(args, &node, signal, &mut signals).await),
        }
    }
    background::detach().map_err(|error| Failure::new(format!("cannot detach: {error}")))?;
    let serving = match until_serving(&node, &mode, &mut signals).await? {
        Came::Serving(serving) => serving,
        Came::Signal(signal) => return Ok(stop(args, &node, signal, &mut signals).await),
    };
    let url = node.sql_url();
    if let Some(path) = &args.listening_url_file {
        write_file(path, &format!("{url}\n"))?;
    }
    print_started(&node, &serving, &locality, began);
    let signal = tokio::select! {
        error = node.failed() => return Err(fatal(error)),
        signal = signals.next() => signal,
    };
    Ok(stop(args, &node, signal, &mut signals).await)
}

/// What came first.
enum Came {
    Serving(Serving),
    Signal(u8),
}

/// Waits until the node serves; says what may be missing when that takes long.
async fn until_serving(
    node: &Node,
    mode: &StartMode,
    signals: &mut Signals,
) -> Result<Came, Failure> {
    let mut serving = std::pin::pin!(node.serving());
    let mut patience = std::pin::pin!(tokio::time::sleep(SLOW_START));
    let mut told = false;
    loop {
        tokio::select! {
            serving = &mut serving => return serving.map(Came::Serving).map_err(fatal),
            signal = signals.next() => return Ok(Came::Signal(signal)),
            () = &mut patience, if !told => {
                told = true;
                notice(&slow_start(node.is_member(), node.rpc_address(), mode));
            }
        }
    }
}

/// What to look at when a node does not come to serve.
fn slow_start(member: bool, own: &Address, mode: &StartMode) -> String {
    let list = match mode {
        StartMode::Join { list, .. } if !member => list,
        _ => {
            return "WARNING: the node cannot reach enough nodes of its cluster to serve yet.\n\
                    Please try:\n- starting the other nodes, if they do not run;\n\
                    - checking that they can be reached from here."
                .to_owned();
        }
    };
    let mut text = "WARNING: the node has found no cluster to join yet.\nPlease try:\n\
                    - starting the other nodes of --join, if they do not run;\n\
                    - checking that --join, --listen-addr and --advertise-addr are right"
        .to_owned();
    if list.position(own).is_none() {
        text.push_str(&format!(
            " (this node is\n  known as {own}, which is not in its --join list)"
        ));
    }
    text.push_str(";\n- running `crdb init`, if this is a new cluster.");
    text
}

/// Stops gracefully; at once upon a second signal.
async fn stop(args: &NodeArgs, node: &Node, signal: u8, signals: &mut Signals) -> ExitCode {
    tracing::info!(signal, "initiating graceful shutdown of server");
    notice_line("initiating graceful shutdown of server");
    tokio::select! {
        () = node.drain() => {}
        signal = signals.next() => {
            tracing::warn!(signal, "second signal: stopping at once");
            return exit_code(signal);
        }
    }
    if let Some(path) = &args.pid_file {
        drop(std::fs::remove_file(path));
    }
    tracing::info!("server drained and shutdown completed");
    notice_line("server drained and shutdown completed");
    ExitCode::SUCCESS
}

fn failure(error: StartError) -> Failure {
    Failure::new(error.to_string())
}

fn fatal(error: impl std::fmt::Display) -> Failure {
    tracing::error!(%error, "the node cannot go on");
    Failure::new(error.to_string()).exit_code(7)
}

fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}

fn print_insecure_warning(listen: &Address) {
    let reach = if listen.is_wildcard() {
        "any of your IP addresses".to_owned()
    } else {
        listen.host.clone()
    };
    notice(&format!(
        "WARNING: ALL SECURITY CONTROLS HAVE BEEN DISABLED!\n\n\
         This mode is intended for non-production testing only.\n\n\
         In this mode:\n\
         - Your cluster is open to any client that can access {reach}.\n\
         - Intruders with access to your machine or network can observe client-server traffic.\n\
         - Intruders can log in without password and read or write any data in the cluster.\n\
         - Intruders can consume all your server's resources and cause unavailability."
    ));
}

/// Prints the block that says where everything is, on stdout and in the log.
fn print_started(
    node: &Node,
    serving: &Serving,
    locality: &[(String, String)],
    began: std::time::SystemTime,
) {
    let took = super::wall_clock().duration_since(began).unwrap_or_default();
    let sql = node.sql_address();
    let store = node.store_path().display();
    let mut lines = vec![
        ("build:", super::version::build_line()),
        ("webui:", format!("http://{}", node.http_address())),
        ("sql:", node.sql_url()),
        ("sql (JDBC):", format!("jdbc:postgresql://{sql}/defaultdb?sslmode=disable&user=root")),
        (
            "RPC client flags:",
            format!("crdb <client cmd> --host={} --insecure", node.rpc_address()),
        ),
        ("logs:", format!("{store}/logs")),
        ("store[0]:", format!("path={store}")),
        ("clusterID:", serving.cluster_id.clone()),
        ("status:", serving.status.to_string()),
        ("nodeID:", serving.node_id.get().to_string()),
    ];
    if !locality.is_empty() {
        let tiers: Vec<String> = locality.iter().map(|(k, v)| format!("{k}={v}")).collect();
        lines.insert(7, ("locality:", tiers.join(",")));
    }
    let since = super::format_time(began);
    let mut text = format!("crdb node starting at {since} (took {:.1}s)\n", took.as_secs_f64());
    for (key, value) in lines {
        text.push_str(&format!("{key:<21}{value}\n"));
    }
    // Nobody may be reading any more: the log has it too.
    drop(std::io::stdout().write_all(text.as_bytes()));
    tracing::info!("{text}");
}

fn notice_line(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_slow_start_says_what_may_be_missing() {
        let list = JoinList::parse(&["a:1,b:2"]).unwrap();
        let mode = StartMode::Join { list, auto_init: true };
        let mut text = slow_start(false, &"b:2".parse().unwrap(), &mode);
        text += "\n\n";
        text += &slow_start(false, &"c:3".parse().unwrap(), &mode);
        text += "\n\n";
        text += &slow_start(true, &"b:2".parse().unwrap(), &mode);
        text += "\n";
        expect![[r#"
            WARNING: the node has found no cluster to join yet.
            Please try:
            - starting the other nodes of --join, if they do not run;
            - checking that --join, --listen-addr and --advertise-addr are right;
            - running `crdb init`, if this is a new cluster.

            WARNING: the node has found no cluster to join yet.
            Please try:
            - starting the other nodes of --join, if they do not run;
            - checking that --join, --listen-addr and --advertise-addr are right (this node is
              known as c:3, which is not in its --join list);
            - running `crdb init`, if this is a new cluster.

            WARNING: the node cannot reach enough nodes of its cluster to serve yet.
            Please try:
            - starting the other nodes, if they do not run;
            - checking that they can be reached from here.
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn offsets_of_zero_are_refused() {
        assert_eq!(parse_max_offset("250ms"), Ok(Duration::from_millis(250)));
        assert!(parse_max_offset("0").unwrap_err().contains("above zero"));
    }
}
