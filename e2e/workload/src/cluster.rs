//! Three nodes to do things to: their processes, the links between them, their clocks.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::links::Links;
use crate::process::{Node, PATIENCE, binary};

/// The login of the workloads.
pub const LOGIN: &str = "user=root dbname=defaultdb";

/// What a cluster is started with.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// The program, if another than [`binary`].
    pub program: Option<PathBuf>,
    /// Whether the nodes' clocks can be set; the binary has to be built with `test-clock`.
    pub test_clock: bool,
    /// A bug to plant; the binary has to be built with `planted-bugs`.
    pub planted_bug: Option<String>,
    /// Bounds of the nodes that are not those of production, as `crate.name=number,...`.
    pub limits: Option<String>,
}

/// A cluster.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    links: Links,
    clocks: Vec<File>,
    limits: Option<String>,
    /// Held for its drop, which removes the stores after the nodes.
    _dir: TempDir,
}

impl Cluster {
    /// Starts three nodes and waits until every range has three replicas.
    ///
    /// # Errors
    ///
    /// They do not serve, or the binary lacks a feature that is asked for.
    pub async fn start(options: &ClusterOptions) -> Result<Cluster> {
        let program = options.program.clone().map_or_else(binary, Ok)?;
        check_features(options, &program)?;
        let dir = tempfile::tempdir()?;
        let mut nodes = Vec::new();
        for n in 1..=3 {
            nodes.push(Node::new(dir.path(), &format!("node{n}"), "start", &[])?);
        }
        let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
        let links = Links::open(&ports).await?;
        let front = |n| format!("127.0.0.1:{}", links.port(n));
        let join: Vec<String> = (0..nodes.len()).map(front).collect();
        let mut clocks = Vec::new();
        for (n, node) in nodes.iter_mut().enumerate() {
            node.set_program(&program);
            node.push_arg(format!("--join={}", join.join(",")));
            node.push_arg(format!("--advertise-addr={}", front(n)));
            node.push_arg(format!("--advertise-sql-addr=127.0.0.1:{}", node.port));
            if options.test_clock {
                let path = dir.path().join(format!("clock{}", n + 1));
                clocks.push(File::create(&path)?);
                node.push_env("CRDB_TEST_CLOCK", path.display().to_string());
            }
            if let Some(bug) = &options.planted_bug {
                node.push_env("CRDB_PLANTED_BUG", bug.clone());
            }
            if let Some(limits) = &options.limits {
                node.push_env("CRDB_LIMITS", limits.clone());
            }
        }
        let limits = options.limits.clone();
        let mut cluster = Cluster { nodes, links, clocks, limits, _dir: dir };
        for n in 0..cluster.nodes.len() {
            cluster.set_clock(n, 0)?;
            cluster.start_node(n)?;
        }
        for node in &cluster.nodes {
            node.connect().await?;
        }
        cluster.wait_replicated().await?;
        Ok(cluster)
    }

    /// The SQL ports.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// How many nodes there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Bounds that are not those of production.
    #[must_use]
    pub fn limits(&self) -> &str {
        self.limits.as_deref().unwrap_or_default()
    }

    /// Whether clocks can be set.
    #[must_use]
    pub fn has_clocks(&self) -> bool {
        !self.clocks.is_empty()
    }

    fn node(&mut self, n: usize) -> Result<&mut Node> {
        self.nodes.get_mut(n).with_context(|| format!("there is no node {}", n + 1))
    }

    /// Starts a node's process.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start_node(&mut self, n: usize) -> Result<()> {
        let node = self.node(n)?;
        node.start()?;
        let pid = node.pid()?;
        self.links.set_pid(n, pid);
        Ok(())
    }

    /// Kills a node's process.
    ///
    /// # Errors
    ///
    /// There is no such node.
    pub fn kill(&mut self, n: usize) -> Result<()> {
        self.node(n)?.kill();
        Ok(())
    }

    /// Stops a node's process where it is.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn pause(&mut self, n: usize) -> Result<()> {
        self.node(n)?.signal(Signal::STOP)
    }

    /// Lets a paused process go on.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn resume(&mut self, n: usize) -> Result<()> {
        self.node(n)?.signal(Signal::CONT)
    }

    /// Cuts the link from one node to another, in that direction.
    pub fn cut(&self, from: usize, to: usize) {
        self.links.cut(from, to);
    }

    /// Makes the way from one node to another take longer, in that direction.
    pub fn delay(&mut self, from: usize, to: usize, delay: Duration) {
        self.links.delay(from, to, delay);
    }

    /// Heals all links.
    pub fn heal_links(&self) {
        self.links.heal();
    }

    /// Sets a node's wall clock off by so many nanoseconds; nothing happens without a test clock.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn set_clock(&self, n: usize, offset: i64) -> Result<()> {
        match self.clocks.get(n) {
            Some(file) => Ok(file.write_all_at(&offset.to_le_bytes(), 0)?),
            None => Ok(()),
        }
    }

    /// Waits for the process of a node to end by itself; how it did, and what it wrote.
    ///
    /// # Errors
    ///
    /// It does not.
    pub async fn ended(&mut self, n: usize) -> Result<(ExitStatus, String)> {
        let node = self.node(n)?;
        let status = node.exit(PATIENCE).await?;
        Ok((status, node.output()))
    }

    /// Nodes whose process ended without being killed, and panics, with what they wrote.
    pub fn complaints(&mut self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (n, node) in self.nodes.iter_mut().enumerate() {
            if node.pid().is_ok() && !node.is_running() {
                complaints.push(format!("node {} ended by itself: {}", n + 1, node.output()));
            } else if let Some(line) = node.log_line_with("panicked at") {
                complaints.push(format!("node {} panicked: {line}", n + 1));
            }
        }
        complaints
    }

    /// Waits until every range has three replicas.
    async fn wait_replicated(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut why = "no node answers".to_owned();
            if let Some(node) = self.nodes.first()
                && let Ok(status) = node.status().await
            {
                let ranges = status.ranges.unwrap_or_default().total;
                let have: u64 = status.nodes.iter().map(|node| node.replicas).sum();
                if ranges > 0 && have >= ranges * self.nodes.len() as u64 {
                    return Ok(());
                }
                why = format!("{have} replicas of {ranges} ranges");
            }
            ensure!(Instant::now() < deadline, "{why}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Bounds for the nodes of a run, drawn at random, often tiny; in half of the runs none, so that the
/// nodes have those of production.
///
/// # Errors
///
/// The program draws none.
pub fn drawn_limits(program: &Path, seed: u64) -> Result<Option<String>> {
    if (seed / 4).is_multiple_of(2) {
        return Ok(None);
    }
    let output = Command::new(program).args(["limits", &format!("--seed={seed}")]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} limits: {said}", program.display());
    let drawn = String::from_utf8(output.stdout)?;
    // A row of several MiB is read by statements that hold it.
    let is_kept = |bound: &&str| !bound.starts_with("sql.memory_bytes=");
    let kept: Vec<&str> = drawn.trim().split(',').filter(is_kept).collect();
    Ok(Some(kept.join(",")))
}

/// The features for tests that a program was built with, as it lists them.
///
/// # Errors
///
/// There is no such program.
pub fn test_features(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("Test features:"));
    Ok(line.unwrap_or_default().to_owned())
}

/// Fails early, and with the remedy, when the binary was built without what is needed.
fn check_features(options: &ClusterOptions, program: &Path) -> Result<()> {
    let line = test_features(program)?;
    let wanted =
        [("test-clock", options.test_clock), ("planted-bugs", options.planted_bug.is_some())];
    for (feature, _) in wanted.iter().filter(|(_, wanted)| *wanted) {
        ensure!(line.contains(feature), "crdb has to be built with --features {feature}");
    }
    Ok(())
}
