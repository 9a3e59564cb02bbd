//! One measurement: `pgbench` for a while, and what the servers used meanwhile.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use tempfile::NamedTempFile;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::server::{Place, Servers};

/// A script of `pgbench`, with the statements of the built-in one of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Script {
    Tpcb,
    SimpleUpdate,
    SelectOnly,
}

impl Script {
    fn name(self) -> &'static str {
        match self {
            Script::Tpcb => "TPC-B",
            Script::SimpleUpdate => "simple-update",
            Script::SelectOnly => "select-only",
        }
    }

    /// As files, since `pgbench` looks at its tables before a script of its own.
    fn text(self) -> String {
        let aid = "\\set aid random(1, 100000 * :scale)\n";
        let others = "\\set bid random(1, 1 * :scale)\n\
                      \\set tid random(1, 10 * :scale)\n\
                      \\set delta random(-5000, 5000)\n";
        let account =
            "UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n";
        let select = "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n";
        let balances = "UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;\n\
             UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;\n";
        let history = "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) \
                       VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);\n";
        match self {
            Script::Tpcb => {
                format!("{aid}{others}BEGIN;\n{account}{select}{balances}{history}END;\n")
            }
            Script::SimpleUpdate => {
                format!("{aid}{others}BEGIN;\n{account}{select}{history}END;\n")
            }
            Script::SelectOnly => format!("{aid}{select}"),
        }
    }
}

/// A protocol of `pgbench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Simple,
    Extended,
    Prepared,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Simple => "simple",
            Mode::Extended => "extended",
            Mode::Prepared => "prepared",
        }
    }
}

/// What is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) script: Script,
    pub(crate) mode: Mode,
    pub(crate) clients: u32,
    pub(crate) seconds: u32,
    pub(crate) scale: u32,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) system: &'static str,
    place: &'static str,
    script: &'static str,
    mode: &'static str,
    clients: u32,
    transactions: u64,
    tps: f64,
    latency_ms: f64,
    failed: u64,
    retries: u64,
    /// Of the servers, for each transaction.
    pub(crate) cpu_us: f64,
}

pub(crate) fn heading() -> String {
    format!(
        "{:<14} {:<9} {:>7} {:<11} {:<7} {:>9} {:>9} {:>8} {:>7} {:>10} {:>6}",
        "script",
        "protocol",
        "clients",
        "system",
        "to",
        "per s",
        "avg ms",
        "retries",
        "failed",
        "CPU-us/txn",
        "ratio"
    )
}

impl Measured {
    /// The line of a table; `peer` is the processor time of PostgreSQL for the same.
    pub(crate) fn line(&self, peer: Option<f64>) -> String {
        let ratio = peer.map_or("-".to_owned(), |peer| format!("{:.2}", self.cpu_us / peer));
        format!(
            "{:<14} {:<9} {:>7} {:<11} {:<7} {:>9.0} {:>9.2} {:>8} {:>7} {:>10.0} {:>6}",
            self.script,
            self.mode,
            self.clients,
            self.system,
            self.place,
            self.tps,
            self.latency_ms,
            self.retries,
            self.failed,
            self.cpu_us,
            ratio
        )
    }
}

/// Runs one measurement.
pub(crate) async fn measure(servers: &Servers, place: Place, run: &Run) -> Result<Measured> {
    let mut file = NamedTempFile::new()?;
    file.write_all(run.script.text().as_bytes())?;
    let ports = servers.ports(place);
    let before = servers.cpu()?;
    let mut running = JoinSet::new();
    let nodes = u32::try_from(ports.len())?;
    for (n, port) in (0..).zip(ports) {
        // The first nodes get what is left over.
        let clients = run.clients / nodes + u32::from(n < run.clients % nodes);
        if clients > 0 {
            let command = command(servers, port, clients, run, &file.path().display().to_string());
            running.spawn(pgbench(command));
        }
    }
    let mut sum = Printed::default();
    while let Some(printed) = running.join_next().await {
        sum.add(&printed??);
    }
    // PostgreSQL sums up a connection's process when it has ended.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let used = servers.cpu()?.saturating_sub(before);
    ensure!(sum.transactions > 0, "no transaction of {run:?} ended");
    Ok(Measured {
        system: servers.name(),
        place: if place == Place::First { "first" } else { "spread" },
        script: run.script.name(),
        mode: run.mode.name(),
        clients: run.clients,
        transactions: sum.transactions,
        tps: sum.tps,
        latency_ms: f64::from(run.clients) / sum.tps * 1000.0,
        failed: sum.failed,
        retries: sum.retries,
        cpu_us: used.as_secs_f64() * 1e6 / sum.transactions as f64,
    })
}

fn command(servers: &Servers, port: u16, clients: u32, run: &Run, file: &str) -> Command {
    let (user, database) = servers.login();
    let mut command = Command::new("pgbench");
    command
        .args(["--no-vacuum", "--max-tries=1000", "--host=127.0.0.1"])
        .args([format!("--port={port}"), format!("--username={user}")])
        .args([format!("--client={clients}"), format!("--jobs={}", clients.min(2))])
        .args([format!("--time={}", run.seconds), format!("--protocol={}", run.mode.name())])
        .args([format!("--define=scale={}", run.scale), format!("--file={file}")])
        .arg(database)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn pgbench(mut command: Command) -> Result<Printed> {
    let output =
        command.output().await.context("run pgbench: apt-get install postgresql-contrib")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = errors.lines().rev().take(5).collect();
    ensure!(output.status.success(), "pgbench failed: {}", last.join("; "));
    Printed::parse(&text).with_context(|| format!("pgbench printed {text}"))
}

/// What `pgbench` prints in the end.
#[derive(Debug, Default)]
struct Printed {
    transactions: u64,
    tps: f64,
    failed: u64,
    retries: u64,
}

impl Printed {
    fn parse(text: &str) -> Option<Printed> {
        let number = |prefix: &str| -> Option<&str> {
            let line = text.lines().find_map(|line| line.strip_prefix(prefix))?;
            line.trim().split([' ', '/']).next()
        };
        Some(Printed {
            transactions: number("number of transactions actually processed:")?.parse().ok()?,
            tps: number("tps =")?.parse().ok()?,
            failed: number("number of failed transactions:").map_or(Some(0), |n| n.parse().ok())?,
            retries: number("total number of retries:").map_or(Some(0), |n| n.parse().ok())?,
        })
    }

    fn add(&mut self, other: &Printed) {
        self.transactions += other.transactions;
        self.tps += other.tps;
        self.failed += other.failed;
        self.retries += other.retries;
    }
}
