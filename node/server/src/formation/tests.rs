//! Formation as golden scripts: several nodes, a network that can be cut, time by command.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use goldenscript::Command;
use test_each_file::test_each_path;

use super::{Action, Formation, PeerAnswer};
use crate::address::{Address, JoinList};

/// The name that stands for all nodes.
const EVERYBODY: &str = "everybody";

test_each_path! { in "node/server/src/formation/testscripts" as scripts => run_script }

fn run_script(path: &Path) {
    goldenscript::run(&mut World::default(), path).expect("the script runs");
}

#[derive(Default)]
struct World {
    now: Duration,
    nodes: BTreeMap<String, Formation>,
    /// Nodes that do not answer.
    down: Vec<String>,
    /// Nodes whose STORE file is not written in time.
    slow: Vec<String>,
    /// Nodes whose answers are still on their way: requests to them, with who asked.
    hung: Vec<String>,
    late: Vec<(String, Address, crdb_proto::peer::PromiseRequest)>,
    /// Seeds given out: no two processes have the same.
    seeds: u64,
    out: String,
}

impl World {
    fn perform(&mut self, name: &str, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Ask { peer, request } => self.ask(name, &peer, &request),
                Action::Bootstrap { attempt, cluster_id, silent } => {
                    let slow = self.slow.iter().any(|n| n == name);
                    let node = self.nodes.get_mut(name).expect("the node exists");
                    if slow || !node.may_write(&attempt, self.now) {
                        writeln!(self.out, "{name} could not write").unwrap();
                        let actions = node.write_failed(&attempt, self.now);
                        self.perform(name, actions);
                    } else {
                        for peer in silent {
                            writeln!(self.out, "{name} did not hear {}", peer.host).unwrap();
                        }
                        let id = cluster_id.unwrap_or_else(|| format!("cluster-of-{name}"));
                        writeln!(self.out, "{name} bootstraps {id}").unwrap();
                        node.set_member(id);
                    }
                }
                Action::InitFailed(refusal) => {
                    writeln!(self.out, "{name} init failed: {refusal}").unwrap();
                }
            }
        }
    }

    fn ask(&mut self, name: &str, peer: &Address, request: &crdb_proto::peer::PromiseRequest) {
        if self.hung.contains(&peer.host) {
            writeln!(self.out, "{name} asks {}, which hangs", peer.host).unwrap();
            self.late.push((name.to_owned(), peer.clone(), request.clone()));
            return;
        }
        if peer.host == EVERYBODY {
            return self.ask_everybody(name, peer, request);
        }
        let reached = !self.down.contains(&peer.host) && !self.down.iter().any(|n| n == name);
        let answer = match self.nodes.get_mut(&peer.host).filter(|_| reached) {
            Some(node) => {
                let response = node.on_request(request, self.now);
                let verdict = if response.promised { "promised" } else { &response.reason };
                writeln!(self.out, "{name} asks {}: {verdict}", peer.host).unwrap();
                PeerAnswer::Response(response)
            }
            None => {
                writeln!(self.out, "{name} asks {}: no answer", peer.host).unwrap();
                PeerAnswer::Unreachable
            }
        };
        let node = self.nodes.get_mut(name).expect("the node exists");
        let actions = node.on_answer(&request.attempt, peer, &answer, self.now);
        self.perform(name, actions);
    }

    fn ask_everybody(
        &mut self,
        name: &str,
        peer: &Address,
        request: &crdb_proto::peer::PromiseRequest,
    ) {
        let mut answers = Vec::new();
        for (host, node) in &mut self.nodes {
            let up = !self.down.contains(host);
            let answer = up.then(|| node.on_request(request, self.now));
            let verdict = match &answer {
                None => "no answer",
                Some(response) if response.promised => "promised",
                Some(response) => &response.reason,
            };
            writeln!(self.out, "{name} asks {host}: {verdict}").unwrap();
            answers.push(answer);
        }
        let node = self.nodes.get_mut(name).expect("the node exists");
        let answer = PeerAnswer::of_all(answers);
        let actions = node.on_answer(&request.attempt, peer, &answer, self.now);
        self.perform(name, actions);
    }

    /// Lets `span` pass in steps of 100 ms; every node sees those that are up.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now += Duration::from_millis(100);
            let names: Vec<String> = self.nodes.keys().cloned().collect();
            for name in names {
                if self.down.contains(&name) {
                    continue;
                }
                let up: Vec<String> =
                    self.nodes.keys().filter(|n| !self.down.contains(n)).cloned().collect();
                let now = self.now;
                let node = self.nodes.get_mut(&name).expect("the node exists");
                for peer in up.iter().filter(|n| **n != name) {
                    node.peer_seen(&format!("{peer}:26257").parse().unwrap(), now);
                }
                let before = self.out.len();
                let actions = node.tick(now);
                self.perform(&name, actions);
                if self.out.len() > before {
                    let stamp = format!("at {:.1}s\n", self.now.as_secs_f64());
                    self.out.insert_str(before, &stamp);
                }
            }
        }
    }
}

impl goldenscript::Runner for World {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn std::error::Error>> {
        self.out.clear();
        let mut args = command.consume_args();
        match command.name.as_str() {
            "start" => {
                let join = args.take_key("join").unwrap_or_default().replace('/', ",");
                let auto = args.take_key("auto") != Some("false");
                let restarted = args.take_key("restarted") == Some("true");
                while let Some(name) = args.next_pos() {
                    self.seeds += 1;
                    let own = format!("{name}:26257").parse()?;
                    let join = JoinList::parse(&[&join])?;
                    let node = Formation::new(own, join, auto, restarted, self.seeds, self.now);
                    self.down.retain(|n| *n != name);
                    self.nodes.insert(name.to_owned(), node);
                }
            }
            "down" => self.down.push(args.next_pos().ok_or("which node?")?.to_owned()),
            // Requests to this node wait until it is woken.
            "hang" => self.hung.push(args.next_pos().ok_or("which node?")?.to_owned()),
            "wake" => {
                let woken = args.next_pos().ok_or("which node?")?.to_owned();
                self.hung.retain(|n| *n != woken);
                let late = std::mem::take(&mut self.late);
                for (name, peer, request) in late {
                    self.ask(&name, &peer, &request);
                }
            }
            "slow" => self.slow.push(args.next_pos().ok_or("which node?")?.to_owned()),
            "pass" => {
                let seconds: f64 = args.next_pos().ok_or("how long?")?.parse()?;
                self.pass(Duration::from_secs_f64(seconds));
            }
            "init" => {
                let name = args.next_pos().ok_or("which node?")?;
                let id = args.take_key("id").map(str::to_owned);
                let now = self.now;
                match self.nodes.get_mut(name).ok_or("no such node")?.init(id, now) {
                    Ok(actions) => self.perform(name, actions),
                    Err(refusal) => writeln!(self.out, "{name} refuses: {refusal}")?,
                }
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        args.reject_next()?;
        Ok(std::mem::take(&mut self.out))
    }
}

#[test]
fn a_node_waits_for_silent_peers_and_for_init() {
    let peer: Address = "b:26257".parse().unwrap();
    let node = |auto: bool| {
        let join = JoinList::parse(&["a,b"]).unwrap();
        Formation::new("a:26257".parse().unwrap(), join, auto, false, 1, Duration::ZERO)
    };
    let mut alone = node(true);
    assert!(!alone.waits_for_others(), "nobody was asked yet");
    alone.peer_silent(&peer);
    assert!(alone.waits_for_others() && !alone.hears_all());
    alone.peer_seen(&peer, Duration::ZERO);
    assert!(!alone.waits_for_others(), "what is missing now is this node's own work");
    let mut by_hand = node(false);
    assert!(!by_hand.waits_for_others());
    by_hand.peer_seen(&peer, Duration::ZERO);
    assert!(by_hand.waits_for_others(), "init has to be called");
    by_hand.set_member("x".to_owned());
    assert!(!by_hand.waits_for_others());
}
