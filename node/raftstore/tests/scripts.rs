//! Runs the golden scripts of the raft store.

mod cluster;

use std::{error::Error, fmt::Write as _, path::Path, time::Duration};

use cluster::{Cluster, get, increment, outcome, put};
use crdb_keys::{RangeId, StoreId};
use crdb_raftstore::{Input, ReplicaChange};
use goldenscript::ArgumentConsumer as Args;
use test_each_file::test_each_path;

test_each_path! { in "node/raftstore/testscripts" as scripts => run_script }

fn run_script(path: &Path) {
    goldenscript::run(&mut World::default(), path).expect("script failed");
}

#[derive(Default)]
struct World {
    cluster: Cluster,
    began: u64,
}

impl World {
    /// Runs for `by` and tells who holds the lease of the tables' range whenever that changes.
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
        let node = cluster.leaseholder(4)?;
        let lease = cluster.handle(node).lease_of(RangeId(4), cluster.now)?;
        Some((node, lease.sequence))
    }
}

fn node(text: Option<&str>) -> Result<u32, Box<dyn Error>> {
    Ok(text.and_then(|text| text.strip_prefix('n')).ok_or("nodes are written n1")?.parse()?)
}

fn duration(text: Option<&str>) -> Result<Duration, Box<dyn Error>> {
    let text = text.ok_or("how long?")?;
    if let Some(millis) = text.strip_suffix("ms") {
        return Ok(Duration::from_millis(millis.parse()?));
    }
    Ok(Duration::from_secs(text.strip_suffix('s').ok_or("write 5s or 50ms")?.parse()?))
}

impl World {
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
                self.cluster.input(id, Input::TransferLease { range_id: RangeId(4), target });
            }
            "drain" => self.cluster.input(node(args.next_pos())?, Input::Drain(true)),
            "remove" => {
                let id = node(args.next_pos())?;
                let store = StoreId(node(args.next_pos())?);
                let change = ReplicaChange::RemoveLearner(store);
                self.cluster.input(id, Input::ChangeReplicas { range_id: RangeId(4), change });
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
                let response = self.cluster.request(id, put(key, value));
                writeln!(out, "{}", outcome(&response))?;
            }
            // fill n1 100 size=1000: that many puts of that size
            "fill" => {
                let id = node(args.next_pos())?;
                let count: u32 = args.next_pos().ok_or("how many?")?.parse()?;
                let size: usize = args.take_key("size").ok_or("how large?")?.parse()?;
                let value = "x".repeat(size);
                for i in 0..count {
                    let response = self.cluster.request(id, put(&format!("fill{i}"), &value));
                    if response.error.is_some() {
                        writeln!(out, "{i}: {}", outcome(&response))?;
                    }
                }
            }
            "get" => {
                let id = node(args.next_pos())?;
                let response = self.cluster.request(id, get(args.next_pos().ok_or("what?")?));
                match response.error {
                    None => writeln!(
                        out,
                        "{}",
                        cluster::value_of(&response).unwrap_or_else(|| "none".into())
                    )?,
                    Some(_) => writeln!(out, "{}", outcome(&response))?,
                }
            }
            "increment" => {
                let id = node(args.next_pos())?;
                let key = args.next_pos().ok_or("what?")?;
                let response = self.cluster.request(id, increment(key, 1));
                writeln!(out, "{}", outcome(&response))?;
            }
            // begin n1 put a=1: a request whose response is looked at later
            "begin" => {
                let id = node(args.next_pos())?;
                let (key, value) = args.next_key().ok_or("what?")?;
                let call = self.cluster.call(id, put(key, value));
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

    /// Commands that show the state.
    fn run_shows(&mut self, name: &str, out: &mut String) -> Result<bool, Box<dyn Error>> {
        match name {
            "status" => out.push_str(&self.cluster.describe()),
            "log" => {
                for id in self.cluster.members.clone() {
                    if !self.cluster.is_up(id) {
                        continue;
                    }
                    if let Some(status) = self.cluster.status(id, 4) {
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
                    let Some(status) = self.cluster.status(id, 4) else { continue };
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
            || self.run_shows(name, &mut out)?;
        if !known {
            return Err(format!("unknown command {name}").into());
        }
        args.reject_next()?;
        Ok(out)
    }
}
