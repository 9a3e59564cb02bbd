//! Real `crdb` processes in a temporary directory, killed when the test lets go of them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use crdb_proto::admin::admin_client::AdminClient;
use crdb_proto::admin::{ClusterStatusRequest, ClusterStatusResponse};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

use crate::ports::reserve_port;

/// How long a cluster may take for anything the tests wait for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test: `CRDB_BIN`, or the one built beside the tests.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CRDB_BIN") {
        return Ok(path.into());
    }
    // Programs lie in the target folder, tests one folder below.
    let own = std::env::current_exe()?;
    let path =
        own.ancestors().skip(1).take(2).map(|dir| dir.join("crdb")).find(|path| path.exists());
    path.with_context(|| {
        format!("no crdb beside {}: run `cargo build -p crdb` first", own.display())
    })
}

/// One node: its command line and, while it runs, its process.
#[derive(Debug)]
pub struct Node {
    /// The port for SQL and peers.
    pub port: u16,
    /// The port for HTTP.
    pub http_port: u16,
    /// The store's directory.
    pub store: PathBuf,
    log: PathBuf,
    program: PathBuf,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    child: Option<Child>,
}

impl Node {
    /// A node that is not started yet; `args` beside the store and its addresses.
    pub fn new(dir: &Path, name: &str, command: &str, args: &[&str]) -> Result<Self> {
        let (port, http_port) = (reserve_port()?, reserve_port()?);
        let store = dir.join(name);
        let mut all = vec![
            command.to_owned(),
            "--insecure".to_owned(),
            format!("--store={}", store.display()),
            format!("--listen-addr=127.0.0.1:{port}"),
            format!("--http-addr=127.0.0.1:{http_port}"),
            "--cache=32MiB".to_owned(),
        ];
        all.extend(args.iter().map(ToString::to_string));
        let (log, program) = (dir.join(format!("{name}.out")), binary()?);
        Ok(Self { port, http_port, store, log, program, args: all, envs: Vec::new(), child: None })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Another program than [`binary`], for the next start.
    pub fn set_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Adds an argument for the next start.
    pub fn push_arg(&mut self, arg: String) {
        self.args.push(arg);
    }

    /// Adds an environment variable for the next start.
    pub fn push_env(&mut self, name: &str, value: String) {
        self.envs.push((name.to_owned(), value));
    }

    /// Starts the process.
    ///
    /// # Errors
    ///
    /// There is no such program.
    pub fn start(&mut self) -> Result<()> {
        let out = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.args)
            .envs(self.envs.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// Runs the node's command to its end, which must come by itself.
    pub async fn run_to_end(&mut self) -> Result<(ExitStatus, String)> {
        let from = fs::read_to_string(&self.log).unwrap_or_default().len();
        self.start()?;
        let status = self.exit(PATIENCE).await?;
        let text = fs::read_to_string(&self.log)?;
        Ok((status, text.get(from..).unwrap_or_default().to_owned()))
    }

    /// Whether the process has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The process.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("the node is not running")?.id())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()?)?;
        let pid = Pid::from_raw(pid).context("no such pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits for the process to end.
    pub async fn exit(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            let child = self.child.as_mut().context("the node is not running")?;
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "the node did not end in {patience:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One SQL connection, or an error at once.
    pub async fn try_connect(&self) -> Result<Client> {
        connect(self.port).await
    }

    /// A SQL connection as soon as the node serves.
    pub async fn connect(&self) -> Result<Client> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_connect().await {
                Ok(client) => return Ok(client),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("{}: {}", self.address(), self.output())));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Runs a statement, again and again while it fails with something that may pass.
    pub async fn execute_retrying(&self, sql: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let attempt = async {
                let client = self.try_connect().await?;
                within(client.batch_execute(sql)).await
            };
            match attempt.await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// What the node says about the cluster.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub async fn status(&self) -> Result<ClusterStatusResponse> {
        let mut client = AdminClient::connect(format!("http://{}", self.address())).await?;
        Ok(client.cluster_status(ClusterStatusRequest {}).await?.into_inner())
    }

    /// `GET path` on the HTTP port: status line and body.
    pub async fn http_get(&self, path: &str) -> Result<(u16, String)> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.http_port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let code = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((code, body.to_owned()))
    }

    /// The first line of what the process wrote that contains a word.
    #[must_use]
    pub fn log_line_with(&self, word: &str) -> Option<String> {
        let own = fs::read_to_string(&self.log).unwrap_or_default();
        let log = fs::read_to_string(self.store.join("logs/crdb.log")).unwrap_or_default();
        let mut lines = own.lines().chain(log.lines());
        lines.find(|line| line.contains(word)).map(str::to_owned)
    }

    /// The last of what the process wrote, for a failure's message.
    pub fn output(&self) -> String {
        let own = fs::read_to_string(&self.log).unwrap_or_default();
        let log = fs::read_to_string(self.store.join("logs/crdb.log")).unwrap_or_default();
        let tail = |text: &str| {
            let lines: Vec<&str> = text.lines().collect();
            lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
        };
        format!("--- output\n{}\n--- log\n{}", tail(&own), tail(&log))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Opens a SQL connection to a local port.
pub async fn connect(port: u16) -> Result<Client> {
    let target = format!(
        "host=127.0.0.1 port={port} user=root dbname=defaultdb connect_timeout=5 \
         application_name=process-test"
    );
    let (client, connection) = within_as(tokio_postgres::connect(&target, NoTls)).await?;
    #[expect(clippy::disallowed_methods, reason = "ends with the client, which the test owns")]
    tokio::spawn(connection);
    Ok(client)
}

/// Bounds a statement.
pub async fn within<T>(
    statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    within_as(statement).await
}

async fn within_as<T, E: std::error::Error + Send + Sync + 'static>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T> {
    match tokio::time::timeout(Duration::from_secs(20), work).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => bail!("no answer in 20 s"),
    }
}

/// Several nodes with one join list.
#[derive(Debug)]
pub struct TestCluster {
    /// The nodes, in their order.
    pub nodes: Vec<Node>,
    /// Held for its drop, which removes the stores after the nodes.
    _dir: TempDir,
}

impl TestCluster {
    /// Starts `size` nodes and waits until all of them serve.
    pub async fn start(size: usize) -> Result<Self> {
        Self::start_with(size, None).await
    }

    /// The same, with bounds that are not those of production, as `crate.name=number,...`.
    pub async fn start_with(size: usize, limits: Option<&str>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut nodes = Vec::new();
        for n in 1..=size {
            nodes.push(Node::new(dir.path(), &format!("node{n}"), "start", &[])?);
        }
        let join: Vec<String> = nodes.iter().map(Node::address).collect();
        let join = format!("--join={}", join.join(","));
        for node in &mut nodes {
            node.push_arg(join.clone());
            if let Some(limits) = limits {
                node.push_env("CRDB_LIMITS", limits.to_owned());
            }
            node.start()?;
        }
        let cluster = Self { nodes, _dir: dir };
        for node in &cluster.nodes {
            node.connect().await?;
        }
        Ok(cluster)
    }

    /// Node `n`, from 1.
    pub fn node(&mut self, n: usize) -> Result<&mut Node> {
        self.nodes.get_mut(n - 1).with_context(|| format!("there is no node {n}"))
    }

    /// Waits until every range has `replicas` replicas, by the store counts of the status.
    pub async fn wait_replicated(&self, replicas: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = match self.nodes.first().context("no nodes")?.status().await {
                Ok(status) => status,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => continue,
            };
            let ranges = status.ranges.unwrap_or_default().total;
            let have: u64 = status.nodes.iter().map(|node| node.replicas).sum();
            let under: u64 = status.nodes.iter().map(|node| node.ranges_underreplicated).sum();
            if ranges > 0 && have >= ranges * replicas && under == 0 {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{have} replicas of {ranges} ranges, {under} under-replicated, {}",
                self.nodes.iter().map(Node::output).collect::<String>()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
