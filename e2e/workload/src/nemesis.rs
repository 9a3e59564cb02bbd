//! What is done to a cluster while clients call: faults, and changes that look like faults.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::cluster::{Cluster, LOGIN};
use crate::history::{Fault, Order};
use crate::run::Course;
use crate::workload::Table;

/// The furthest a clock is set off: two clocks stay below 80 % of the default maximum of 500 ms.
const MOST_SKEW_NS: i64 = 170_000_000;
/// By how much a slow link delays, in milliseconds: by less than the time that a lease lasts.
const SLOW_MS: std::ops::Range<u64> = 100..400;
/// Between attempts to do anything at all, once the time of the run is over.
const AGAIN: Duration = Duration::from_millis(50);
/// How long a statement of the nemesis may take.
const STATEMENT: Duration = Duration::from_secs(5);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// `kill -9` of one node, or of all, and a start.
    Kill,
    /// SIGSTOP of one node, and SIGCONT.
    Pause,
    /// Links are cut: of one node, one way, or a single one.
    Partition,
    /// The ways to one node take longer, or the ways from it too.
    Slow,
    /// Clocks are set apart, within the bound.
    Skew,
    /// One clock jumps to and fro.
    Strobe,
    /// Ranges are split at random keys, and some splits taken back.
    Splits,
    /// Leases are moved to random nodes.
    Leases,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [FaultKind; 8] = [
        FaultKind::Kill,
        FaultKind::Pause,
        FaultKind::Partition,
        FaultKind::Slow,
        FaultKind::Skew,
        FaultKind::Strobe,
        FaultKind::Splits,
        FaultKind::Leases,
    ];

    fn needs_clocks(self) -> bool {
        matches!(self, FaultKind::Skew | FaultKind::Strobe)
    }

    fn name(self) -> &'static str {
        match self {
            FaultKind::Kill => "kill",
            FaultKind::Pause => "pause",
            FaultKind::Partition => "partition",
            FaultKind::Slow => "slow",
            FaultKind::Skew => "skew",
            FaultKind::Strobe => "strobe",
            FaultKind::Splits => "splits",
            FaultKind::Leases => "leases",
        }
    }
}

/// The kinds of faults that a run mixes: `none`, one, some as `leases+skew`, or `mix`, which is all
/// that the cluster allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    name: String,
    kinds: Vec<FaultKind>,
}

impl Faults {
    /// The kinds as they are run one after the other.
    #[must_use]
    pub fn names() -> Vec<String> {
        let single = FaultKind::ALL.map(FaultKind::name);
        ["none"].into_iter().chain(single).chain(["mix"]).map(str::to_owned).collect()
    }

    /// Whether nothing is done.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Whether none of them lasts: there may be many.
    #[must_use]
    pub fn are_brief(&self) -> bool {
        let brief = |kind: &FaultKind| matches!(kind, FaultKind::Splits | FaultKind::Leases);
        self.kinds.iter().all(brief)
    }

    /// Whether the nodes need clocks that can be set.
    #[must_use]
    pub fn needs_clocks(&self) -> bool {
        self.name != "mix" && self.kinds.iter().any(|kind| kind.needs_clocks())
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

impl FromStr for Faults {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let kinds = match name {
            "none" => Vec::new(),
            "mix" => FaultKind::ALL.to_vec(),
            names => {
                let kind = |name: &str| FaultKind::ALL.into_iter().find(|k| k.name() == name);
                let kinds: Option<Vec<FaultKind>> = names.split('+').map(kind).collect();
                kinds.with_context(|| {
                    format!("there is no nemesis {name}: there are {}", Faults::names().join(", "))
                })?
            }
        };
        Ok(Faults { name: name.to_owned(), kinds })
    }
}

/// How long faults last, and the quiet between them, in milliseconds.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Quiet.
    pub rest: std::ops::Range<u64>,
    /// Fault.
    pub hold: std::ops::Range<u64>,
}

impl Pace {
    /// For runs of seconds.
    #[must_use]
    pub fn short() -> Pace {
        Pace { rest: 200..600, hold: 300..1500 }
    }

    /// For runs of minutes: some faults outlast a lease.
    #[must_use]
    pub fn long() -> Pace {
        Pace { rest: 1000..4000, hold: 1000..9000 }
    }
}

/// What a nemesis did.
#[derive(Debug, Default)]
pub struct Deeds {
    /// Each deed, for the history.
    pub log: Vec<Fault>,
    /// From which number to which a fault lasted.
    pub spans: Vec<(u64, u64)>,
    /// How many of each kind took effect.
    pub done: BTreeMap<String, u64>,
    /// What did not, with the first reason.
    pub refused: BTreeMap<String, String>,
}

/// Does things to a cluster.
#[derive(Debug)]
pub struct Nemesis<'a> {
    cluster: &'a mut Cluster,
    order: &'a Order,
    tables: Vec<Table>,
    rng: StdRng,
    pace: Pace,
    deeds: Deeds,
    /// Splits that were made: table and key.
    splits: Vec<(String, i64)>,
}

impl<'a> Nemesis<'a> {
    /// A nemesis that has done nothing yet.
    pub fn new(
        cluster: &'a mut Cluster,
        order: &'a Order,
        tables: Vec<Table>,
        rng: StdRng,
        pace: Pace,
    ) -> Self {
        let (deeds, splits) = (Deeds::default(), Vec::new());
        Nemesis { cluster, order, tables, rng, pace, deeds, splits }
    }

    /// Goes on until the time is over and anything was done, or until the clients ended, then heals
    /// everything.
    ///
    /// # Errors
    ///
    /// A process cannot be started, stopped or signalled.
    pub async fn run(mut self, faults: &Faults, course: &Course) -> Result<Deeds> {
        let mut kinds = faults.kinds.clone();
        ensure!(
            !faults.needs_clocks() || self.cluster.has_clocks(),
            "the nodes have no test clocks"
        );
        kinds.retain(|kind| !kind.needs_clocks() || self.cluster.has_clocks());
        let deadline = course.deadline;
        while !kinds.is_empty() && !course.is_over_for_faults() {
            self.wait(self.pace.rest.clone(), deadline).await;
            let place = self.rng.random_range(0..kinds.len());
            let Some(kind) = kinds.get(place).copied() else { break };
            let from = self.order.stamp().0;
            match self.strike(kind, deadline).await {
                Ok(()) => {
                    *self.deeds.done.entry(kind.name().to_owned()).or_default() += 1;
                    course.struck.store(true, Ordering::Release);
                }
                Err(error) => {
                    let reason = format!("{error:#}");
                    self.deeds.refused.entry(kind.name().to_owned()).or_insert(reason);
                }
            }
            self.deeds.spans.push((from, self.order.stamp().0));
        }
        self.heal_all()?;
        Ok(self.deeds)
    }

    async fn strike(&mut self, kind: FaultKind, deadline: Instant) -> Result<()> {
        match kind {
            FaultKind::Kill => self.kill(deadline).await,
            FaultKind::Pause => self.pause(deadline).await,
            FaultKind::Partition => self.partition(deadline).await,
            FaultKind::Slow => self.slow(deadline).await,
            FaultKind::Skew => self.skew(deadline).await,
            FaultKind::Strobe => self.strobe(deadline).await,
            FaultKind::Splits => self.split().await,
            FaultKind::Leases => self.move_lease().await,
        }
    }

    fn note(&mut self, text: String) {
        let (number, time) = self.order.stamp();
        self.deeds.log.push(Fault { number, time, text });
    }

    fn any_node(&mut self) -> usize {
        self.rng.random_range(0..self.cluster.size())
    }

    async fn wait(&mut self, span: std::ops::Range<u64>, deadline: Instant) {
        let time = Duration::from_millis(self.rng.random_range(span));
        let latest = deadline.max(Instant::now() + AGAIN);
        tokio::time::sleep_until((Instant::now() + time).min(latest)).await;
    }

    async fn hold(&mut self, deadline: Instant) {
        self.wait(self.pace.hold.clone(), deadline).await;
    }

    async fn kill(&mut self, deadline: Instant) -> Result<()> {
        let one = self.any_node();
        let victims: Vec<usize> =
            if self.rng.random_bool(0.2) { (0..self.cluster.size()).collect() } else { vec![one] };
        self.note(format!("kill {victims:?}"));
        for victim in &victims {
            self.cluster.kill(*victim)?;
        }
        self.hold(deadline).await;
        for victim in &victims {
            self.cluster.start_node(*victim)?;
        }
        self.note(format!("start {victims:?}"));
        Ok(())
    }

    async fn pause(&mut self, deadline: Instant) -> Result<()> {
        let victim = self.any_node();
        self.note(format!("pause {victim}"));
        self.cluster.pause(victim)?;
        self.hold(deadline).await;
        self.cluster.resume(victim)?;
        self.note(format!("resume {victim}"));
        Ok(())
    }

    async fn partition(&mut self, deadline: Instant) -> Result<()> {
        let (size, one) = (self.cluster.size(), self.any_node());
        let other = (one + self.rng.random_range(1..size)) % size;
        let others: Vec<usize> = (0..size).filter(|n| *n != one).collect();
        let (what, cuts): (&str, Vec<(usize, usize)>) = match self.rng.random_range(0..4) {
            0 => {
                let both = others.iter().flat_map(|n| [(one, *n), (*n, one)]);
                ("isolate", both.collect())
            }
            1 => ("mute", others.iter().map(|n| (one, *n)).collect()),
            2 => ("deafen", others.iter().map(|n| (*n, one)).collect()),
            _ => ("cut", vec![(one, other), (other, one)]),
        };
        self.note(format!("{what} {one}: {cuts:?}"));
        for (from, to) in cuts {
            self.cluster.cut(from, to);
        }
        self.hold(deadline).await;
        self.cluster.heal_links();
        self.note("heal".to_owned());
        Ok(())
    }

    async fn slow(&mut self, deadline: Instant) -> Result<()> {
        let (victim, size) = (self.any_node(), self.cluster.size());
        let (delay, both) = (self.rng.random_range(SLOW_MS), self.rng.random_bool(0.3));
        let ways = if both { "to and from" } else { "to" };
        self.note(format!("slow {ways} {victim}: {delay} ms"));
        let delay = Duration::from_millis(delay);
        for other in (0..size).filter(|n| *n != victim) {
            self.cluster.delay(other, victim, delay);
            if both {
                self.cluster.delay(victim, other, delay);
            }
        }
        self.hold(deadline).await;
        self.cluster.heal_links();
        self.note("heal".to_owned());
        Ok(())
    }

    async fn skew(&mut self, deadline: Instant) -> Result<()> {
        for n in 0..self.cluster.size() {
            // As far as they may be, often: that is where the bound matters.
            let offset = match self.rng.random_range(0..4) {
                0 => -MOST_SKEW_NS,
                1 => MOST_SKEW_NS,
                _ => self.rng.random_range(-MOST_SKEW_NS..=MOST_SKEW_NS),
            };
            self.cluster.set_clock(n, offset)?;
            self.note(format!("clock of {n} off by {} us", offset / 1000));
        }
        // The clocks stay apart when the next fault comes, too.
        self.hold(deadline).await;
        Ok(())
    }

    async fn strobe(&mut self, deadline: Instant) -> Result<()> {
        let (victim, offset) = (self.any_node(), self.rng.random_range(0..=MOST_SKEW_NS));
        let (offset, step) = (offset * 2 - MOST_SKEW_NS, self.rng.random_range(2..60));
        self.note(format!("strobe {victim} by {} us every {step} ms", offset / 1000));
        let hold = Duration::from_millis(self.rng.random_range(self.pace.hold.clone()));
        let end = (Instant::now() + hold).min(deadline);
        while Instant::now() < end {
            for offset in [offset, 0] {
                self.cluster.set_clock(victim, offset)?;
                tokio::time::sleep(Duration::from_millis(step)).await;
            }
        }
        self.note("strobe ends".to_owned());
        Ok(())
    }

    async fn split(&mut self) -> Result<()> {
        let undo = self.rng.random_bool(0.25) && !self.splits.is_empty();
        let (verb, table, key) = if undo {
            let place = self.rng.random_range(0..self.splits.len());
            let (table, key) = self.splits.swap_remove(place);
            ("UNSPLIT", table, key)
        } else {
            let place = self.rng.random_range(0..self.tables.len());
            let table = self.tables.get(place).context("no tables")?.clone();
            ("SPLIT", table.name, self.rng.random_range(table.keys))
        };
        let sql = format!("ALTER TABLE {table} {verb} AT VALUES ({key})");
        self.note(sql.clone());
        self.statement(&sql).await?;
        if !undo {
            self.splits.push((table, key));
        }
        Ok(())
    }

    async fn move_lease(&mut self) -> Result<()> {
        let place = self.rng.random_range(0..self.tables.len());
        let table = self.tables.get(place).context("no tables")?.name.clone();
        let ranges = timeout(STATEMENT, ranges_of(self.any_port(), &table)).await??;
        let place = self.rng.random_range(0..ranges.len());
        let (range, holder) = ranges.get(place).cloned().context("no ranges")?;
        // To itself it would be no move.
        let size = self.cluster.size();
        let from = holder.unwrap_or_else(|| self.any_node() + 1);
        let target = (from - 1 + self.rng.random_range(1..size.max(2))) % size + 1;
        self.note(format!("lease of r{range} from n{from} to n{target}"));
        timeout(STATEMENT, relocate(self.any_port(), &range, target)).await?
    }

    /// Runs a statement at any node.
    async fn statement(&mut self, sql: &str) -> Result<Vec<BTreeMap<String, String>>> {
        let ask = ask(self.any_port(), sql);
        timeout(STATEMENT, ask).await.map_err(|_| anyhow!("no answer in {STATEMENT:?}"))?
    }

    fn any_port(&mut self) -> u16 {
        let node = self.any_node();
        self.cluster.nodes().get(node).map(|node| node.port).unwrap_or_default()
    }

    fn heal_all(&mut self) -> Result<()> {
        self.cluster.heal_links();
        for n in 0..self.cluster.size() {
            self.cluster.set_clock(n, 0)?;
            if self.cluster.nodes().get(n).is_some_and(|node| node.pid().is_ok()) {
                self.cluster.resume(n)?;
            } else {
                self.cluster.start_node(n)?;
            }
        }
        self.note("all healed".to_owned());
        Ok(())
    }
}

/// The ranges of a table, in the order of their keys, and the node with the lease of each, if it
/// answered.
pub async fn ranges_of(port: u16, table: &str) -> Result<Vec<(String, Option<usize>)>> {
    let ranges = ask(port, &format!("SHOW RANGES FROM TABLE {table} WITH DETAILS")).await?;
    let range = |row: &BTreeMap<String, String>| {
        let holder = row.get("lease_holder").and_then(|node| node.parse().ok());
        Some((row.get("range_id")?.clone(), holder))
    };
    let ranges: Vec<_> = ranges.iter().filter_map(range).collect();
    ensure!(!ranges.is_empty(), "SHOW RANGES shows no range_id");
    Ok(ranges)
}

/// Moves the lease of a range to a node.
///
/// # Errors
///
/// It stays where it is.
pub async fn relocate(port: u16, range: &str, node: usize) -> Result<()> {
    let moved = ask(port, &format!("ALTER RANGE {range} RELOCATE LEASE TO {node}")).await?;
    let result = moved.first().and_then(|row| row.get("result")).map(String::as_str);
    ensure!(result == Some("ok"), "the lease of r{range}: {}", result.unwrap_or("no result"));
    Ok(())
}

/// Asks one node, by the simple protocol; rows by column names.
async fn ask(port: u16, sql: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let target = format!("host=127.0.0.1 port={port} {LOGIN} application_name=nemesis");
    let (client, connection) = tokio_postgres::connect(&target, NoTls).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let mut rows = Vec::new();
    let answer = client.simple_query(sql).await.map_err(|error| match error.as_db_error() {
        Some(error) => anyhow!("{}: {}", error.code().code(), error.message()),
        None => anyhow!(error),
    })?;
    for message in answer {
        if let SimpleQueryMessage::Row(row) = message {
            let columns = row.columns().iter().enumerate();
            let cell = |(n, column): (usize, &tokio_postgres::SimpleColumn)| {
                Some((column.name().to_owned(), row.get(n)?.to_owned()))
            };
            rows.push(columns.filter_map(cell).collect());
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in Faults::names() {
            assert_eq!(name.parse::<Faults>().unwrap().to_string(), name);
        }
        let two: Faults = "leases+skew".parse().unwrap();
        assert_eq!(two.kinds, [FaultKind::Leases, FaultKind::Skew]);
        assert!(two.needs_clocks() && !two.are_brief());
        assert!("splits+leases".parse::<Faults>().unwrap().are_brief());
        assert!("leases+flood".parse::<Faults>().is_err());
    }
}
