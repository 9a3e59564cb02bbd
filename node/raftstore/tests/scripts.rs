//! Runs the golden scripts of the raft store.

mod cluster;

use std::{error::Error, fmt::Write as _, path::Path, time::Duration};

use cluster::{Cluster, get, increment, outcome, put};
use crdb_keys::{RangeId, StoreId, Timestamp};
use crdb_proto::kv::{BatchRequest, BatchResponse, response};
use crdb_raftstore::{Input, ReplicaChange};
use goldenscript::ArgumentConsumer as Args;
use test_each_file::test_each_path;

test_each_path! { in "node/raftstore/testscripts" as scripts => run_script }

fn run_script(path: &Path) {
    goldenscript::run(&mut World::default(), path).expect("script failed");
}

struct World {
    cluster: Cluster,
    began: u64,
    /// The range that commands are about.
    range: u64,
}

impl Default for World {
    fn default() -> Self {
        Self { cluster: Cluster::default(), began: 0, range: 4 }
    }
}

impl World {
    /// Runs for `by` and tells who holds the lease of the range whenever that changes.
    fn run_for(&mut self, by: Duration, out: &mut String) -> std::fmt::Result {
        let end = self.cluster.now.after(by);
        let mut before = self.holder();
        while self.cluster.now < end {
            self.cluster.run(Duration::from_millis(1));
            let after = self.holder();
            if after != before {
                let at = self.cluster.now.0 - self.began;
                let at = Duration::from_nanos(at).as_millis();
                match &after {
                    Some((node, sequence)) => {
                        writeln!(out, "{at}ms n{node} holds lease {sequence}")?;
                    }
                    None => writeln!(out, "{at}ms nobody holds the lease")?,
                }
                before = after;
            }
        }
        Ok(())
    }

    fn holder(&self) -> Option<(u32, u64)> {
        let cluster = &self.cluster;
        let node = cluster.leaseholder(self.range)?;
        let lease = cluster.handle(node).lease_of(RangeId(self.range), cluster.now)?;
        Some((node, lease.sequence))
    }
}

fn node(text: Option<&str>) -> Result<u32, Box<dyn Error>> {
    Ok(text.and_then(|text| text.strip_prefix('n')).ok_or("nodes are written n1")?.parse()?)
}

/// The name in a key of the tables' range, or where the span ends otherwise.
fn name_of(key: &[u8]) -> String {
    match key.strip_prefix(cluster::key("").as_ref()) {
        Some(name) => String::from_utf8_lossy(name).into_owned(),
        None if key < cluster::key("").as_ref() => "first".into(),
        None => "last".into(),
    }
}

fn duration(text: Option<&str>) -> Result<Duration, Box<dyn Error>> {
    let text = text.ok_or("how long?")?;
    if let Some(millis) = text.strip_suffix("ms") {
        return Ok(Duration::from_millis(millis.parse()?));
    }
    Ok(Duration::from_secs(text.strip_suffix('s').ok_or("write 5s or 50ms")?.parse()?))
}

impl World {
    /// A request as one about the range of the moment.
    fn about(&self, mut request: BatchRequest) -> BatchRequest {
        request.header.get_or_insert_default().range_id = self.range;
        request
    }

    fn ask(&mut self, id: u32, request: BatchRequest) -> BatchResponse {
        let request = self.about(request);
        self.cluster.request(id, request)
    }

    /// Commands that start, stop and change the cluster.
    fn run_cluster(
        &mut self,
        name: &str,
        args: &mut Args<'_>,
        out: &mut String,
    ) -> Result<bool, Box<dyn Error>> {
        match name {
            "bootstrap" => {
                self.cluster = Cluster::bootstrap();
                self.began = self.cluster.now.0;
            }
            "three" => {
                self.cluster = Cluster::of_three();
                self.began = self.cluster.now.0;
            }
            // join n2: a new store, known to all
            "join" => {
                while let Some(id) = args.next_pos() {
                    let id = node(Some(id))?;
                    self.cluster.add(id);
                    self.cluster.start(id);
                }
                self.cluster.tell_stores();
            }
            "start" => self.cluster.start(node(args.next_pos())?),
            "crash" => self.cluster.crash(node(args.next_pos())?, 0),
            "dead" => {
                self.cluster.dead.insert(node(args.next_pos())?);
                self.cluster.tell_stores();
            }
            "run" => {
                let by = duration(args.next_pos())?;
                self.run_for(by, out)?;
            }
            "transfer" => {
                let id = node(args.next_pos())?;
                let target = match args.next_pos() {
                    Some(to) => Some(StoreId(node(Some(to))?)),
                    None => None,
                };
                self.cluster
                    .input(id, Input::TransferLease { range_id: RangeId(self.range), target });
            }
            "drain" => self.cluster.input(node(args.next_pos())?, Input::Drain(true)),
            "remove" => {
                let id = node(args.next_pos())?;
                let store = StoreId(node(args.next_pos())?);
                let change = ReplicaChange::RemoveLearner(store);
                self.cluster
                    .input(id, Input::ChangeReplicas { range_id: RangeId(self.range), change });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Commands that disturb the network and the clocks.
    fn run_faults(&mut self, name: &str, args: &mut Args<'_>) -> Result<bool, Box<dyn Error>> {
        match name {
            // cut n1 n2: no message either way; n1 alone: cut from all
            "cut" => {
                let from = node(args.next_pos())?;
                let others: Vec<u32> = match args.next_pos() {
                    Some(to) => vec![node(Some(to))?],
                    None => self.cluster.members.iter().copied().collect(),
                };
                for to in others {
                    self.cluster.cut.extend([(from, to), (to, from)]);
                }
            }
            // mute n1 n2: no message from n1 to n2
            "mute" => {
                let pair = (node(args.next_pos())?, node(args.next_pos())?);
                self.cluster.cut.insert(pair);
            }
            "heal" => self.cluster.cut.clear(),
            "skew" => {
                let id = node(args.next_pos())?;
                let millis: i64 = args.next_pos().ok_or("how many ms?")?.parse()?;
                self.cluster.nodes.get_mut(&id).ok_or("no such node")?.skew = millis * 1_000_000;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Commands that send requests.
    fn run_requests(
        &mut self,
        name: &str,
        args: &mut Args<'_>,
        out: &mut String,
    ) -> Result<bool, Box<dyn Error>> {
        match name {
            "put" => {
                let id = node(args.next_pos())?;
                let (key, value) = args.next_key().ok_or("what?")?;
                let response = self.ask(id, put(key, value));
                writeln!(out, "{}", outcome(&response))?;
            }
            // fill n1 100 size=1000: that many puts of that size
            "fill" => {
                let id = node(args.next_pos())?;
                let count: u32 = args.next_pos().ok_or("how many?")?.parse()?;
                let size: usize = args.take_key("size").ok_or("how large?")?.parse()?;
                let value = "x".repeat(size);
                for i in 0..count {
                    let response = self.ask(id, put(&format!("fill{i}"), &value));
                    if response.error.is_some() {
                        writeln!(out, "{i}: {}", outcome(&response))?;
                    }
                }
            }
            "get" => {
                let id = node(args.next_pos())?;
                let response = self.ask(id, get(args.next_pos().ok_or("what?")?));
                writeln!(out, "{}", found(&response))?;
            }
            // past n2 a 4s: a read that far in the past, by any replica
            "past" => {
                let id = node(args.next_pos())?;
                let name = args.next_pos().ok_or("what?")?.to_owned();
                let ago = duration(args.next_pos())?;
                let wall_nanos = self.cluster.wall_nanos() - u64::try_from(ago.as_nanos())?;
                let read = Timestamp::new(wall_nanos, 0);
                let response = self.ask(id, cluster::get_nearest(&name, read));
                writeln!(out, "{}", found(&response))?;
            }
            // gc n1 4s: what only reads further in the past could see goes
            "gc" => {
                let id = node(args.next_pos())?;
                let ago = duration(args.next_pos())?;
                let wall_nanos = self.cluster.wall_nanos() - u64::try_from(ago.as_nanos())?;
                let status = self.cluster.status(id, self.range).ok_or("no such range")?;
                let threshold = Timestamp::new(wall_nanos, 0);
                let response = self.ask(id, cluster::gc(&status.descriptor, threshold));
                writeln!(out, "{}", ranges_outcome(&response))?;
            }
            "increment" => {
                let id = node(args.next_pos())?;
                let key = args.next_pos().ok_or("what?")?;
                let response = self.ask(id, increment(key, 1));
                writeln!(out, "{}", outcome(&response))?;
            }
            // begin n1 put a=1: a request whose response is looked at later
            "begin" => {
                let id = node(args.next_pos())?;
                let (key, value) = args.next_key().ok_or("what?")?;
                let call = self.cluster.call(id, self.about(put(key, value)));
                self.cluster.settle();
                writeln!(out, "call {call}")?;
            }
            "response" => {
                let call: u64 = args.next_pos().ok_or("which call?")?.parse()?;
                match self.cluster.responses.get(&call) {
                    Some(response) => writeln!(out, "{}", outcome(response))?,
                    None => writeln!(out, "none yet")?,
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Commands about ranges as a whole.
    fn run_ranges(
        &mut self,
        name: &str,
        args: &mut Args<'_>,
        out: &mut String,
    ) -> Result<bool, Box<dyn Error>> {
        let request = match name {
            // on r5: commands are about that range from here on; r0: whichever has the key
            "on" => {
                let range = args.next_pos().and_then(|id| id.strip_prefix('r'));
                self.range = range.ok_or("ranges are written r5")?.parse()?;
                return Ok(true);
            }
            "split" | "begin_split" | "unsplit" | "move_lease" | "range" => name,
            _ => return Ok(false),
        };
        let id = node(args.next_pos())?;
        let request = match request {
            // split n1 m=5 [sticky=10]: the new range r5 starts at m
            "split" | "begin_split" => {
                let sticky = args.take_key("sticky").map(str::parse).transpose()?;
                let (key, range) = args.next_key().ok_or("where?")?;
                cluster::split(key, range.parse()?, sticky)
            }
            "unsplit" => cluster::unsplit(args.next_pos().ok_or("where?")?),
            // move_lease n1 a n3: gives the lease of the range of a to n3
            "move_lease" => {
                let key = args.next_pos().ok_or("of which key?")?.to_owned();
                cluster::transfer(&key, node(args.next_pos())?)
            }
            _ => cluster::range_status(args.next_pos().ok_or("of which key?")?),
        };
        if name == "begin_split" {
            let call = self.cluster.call(id, self.about(request));
            self.cluster.settle();
            writeln!(out, "call {call}")?;
            return Ok(true);
        }
        let response = self.ask(id, request);
        writeln!(out, "{}", ranges_outcome(&response))?;
        Ok(true)
    }

    /// Commands that show the state.
    fn run_shows(&mut self, name: &str, out: &mut String) -> Result<bool, Box<dyn Error>> {
        match name {
            "status" => out.push_str(&self.cluster.describe()),
            // how far behind the present each node has the range closed
            "closed" => {
                let now = self.cluster.wall_nanos();
                for id in self.cluster.members.clone() {
                    if !self.cluster.is_up(id) {
                        continue;
                    }
                    let closed = self.cluster.handle(id).closed_of(RangeId(self.range));
                    let closed = closed.unwrap_or_default();
                    if closed.is_zero() {
                        writeln!(out, "n{id} nothing")?;
                    } else {
                        let behind = now.saturating_sub(closed.wall_nanos) / 1_000_000;
                        writeln!(out, "n{id} {behind}ms")?;
                    }
                }
            }
            // the ranges of tables as each node has them
            "ranges" => {
                for id in self.cluster.members.clone() {
                    if !self.cluster.is_up(id) {
                        continue;
                    }
                    write!(out, "n{id}:")?;
                    for status in self.cluster.handle(id).ranges() {
                        let range = status.descriptor;
                        if range.range_id < 4 {
                            continue;
                        }
                        let holds = self.cluster.leaseholder(range.range_id) == Some(id);
                        let mark = if holds { "*" } else { "" };
                        let (start, end) = (name_of(&range.start_key), name_of(&range.end_key));
                        let generation = range.generation;
                        write!(out, " r{}{mark} {start}..{end} g{generation}", range.range_id)?;
                    }
                    writeln!(out)?;
                }
            }
            "log" => {
                for id in self.cluster.members.clone() {
                    if !self.cluster.is_up(id) {
                        continue;
                    }
                    if let Some(status) = self.cluster.status(id, self.range) {
                        writeln!(
                            out,
                            "n{id} last {} bytes {}",
                            status.last_index, status.log_bytes
                        )?;
                    }
                }
            }
            "replicas" => {
                for id in self.cluster.members.clone() {
                    if !self.cluster.is_up(id) {
                        continue;
                    }
                    let Some(status) = self.cluster.status(id, self.range) else { continue };
                    write!(out, "n{id} generation {}:", status.descriptor.generation)?;
                    for replica in &status.descriptor.replicas {
                        let kind = replica.r#type().as_str_name().to_lowercase();
                        write!(out, " s{}/{}={kind}", replica.store_id, replica.replica_id)?;
                    }
                    writeln!(out)?;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// What a read found.
fn found(response: &BatchResponse) -> String {
    match response.error {
        None => cluster::value_of(response).unwrap_or_else(|| "none".into()),
        Some(_) => outcome(response),
    }
}

/// The answer to a request about a range as a whole.
fn ranges_outcome(response: &BatchResponse) -> String {
    let kind = response.responses.first().and_then(|response| response.kind.as_ref());
    match kind {
        Some(response::Kind::Split(split)) => {
            let right = split.right.clone().unwrap_or_default();
            let sticky = right.sticky_until.map_or(0, |until| until.wall_nanos / 1_000_000_000);
            let start = name_of(&right.start_key);
            format!(
                "r{} from {start} generation {} sticky {sticky}",
                right.range_id, right.generation
            )
        }
        Some(response::Kind::RangeStatus(status)) => {
            let range = status.descriptor.clone().unwrap_or_default();
            let holder = status.leaseholder.unwrap_or_default().store_id;
            let stats = status.stats.unwrap_or_default();
            format!(
                "r{} lease {} at s{holder} keys {} versions {} live {}",
                range.range_id,
                status.lease_sequence,
                stats.key_count,
                stats.val_count,
                stats.live_count
            )
        }
        Some(response::Kind::Gc(gc)) => format!("removed {}", gc.removed),
        _ => outcome(response),
    }
}

impl goldenscript::Runner for World {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        let mut args = command.consume_args();
        let name = command.name.as_str();
        let known = self.run_cluster(name, &mut args, &mut out)?
            || self.run_faults(name, &mut args)?
            || self.run_requests(name, &mut args, &mut out)?
            || self.run_ranges(name, &mut args, &mut out)?
            || self.run_shows(name, &mut out)?;
        if !known {
            return Err(format!("unknown command {name}").into());
        }
        args.reject_next()?;
        Ok(out)
    }
}
