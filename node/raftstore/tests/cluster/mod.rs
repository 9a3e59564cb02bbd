//! A cluster of stores in one thread, on engines in memory and a clock that the test moves.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test that cannot go on stops"
)]
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(unreachable_pub, reason = "shared by the test binaries of this folder")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    task::Waker,
    time::Duration,
};

use bytes::Bytes;
use crdb_allocator::{StoreInfo, StoreStatus};
use crdb_keys::{
    NodeId, RangeId, StoreId, Timestamp,
    hlc::{Clock, ManualClock},
    layout,
};
use crdb_proto::{
    kv::{self, BatchHeader, BatchRequest, BatchResponse, RangeDescriptor, Request, request},
    peer::RaftBatch,
};
use crdb_raftstore::{
    DescriptorChange, Evaluation, Input, LockWait, Mono, Outputs, Progress, RangeStatus,
    ReceivedSnapshot, SnapshotSend, Store, StoreConfig, StoreHandle,
};
use crdb_storage::MemoryEngine;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// Wall time at which every test begins.
const EPOCH_NANOS: u64 = 1_700_000_000_000_000_000;
/// Time a message takes.
const LATENCY: Duration = Duration::from_millis(1);

pub const MAX_OFFSET: Duration = Duration::from_millis(500);

/// One store and its surroundings.
pub struct Node {
    pub engine: MemoryEngine,
    pub wall: Arc<ManualClock>,
    /// Nanoseconds that this node's wall clock leads.
    pub skew: i64,
    pub clock: Clock,
    pub store: Option<Store<MemoryEngine>>,
    pub inputs: Vec<Input>,
    pub deadline: Mono,
    pub descriptors: Vec<DescriptorChange>,
    incarnation: u64,
}

/// An event on its way.
enum Flight {
    Batch { from: u32, to: u32, batch: RaftBatch },
    Snapshot { from: u32, to: u32, received: Box<ReceivedSnapshot> },
    Report { to: u32, input: Input },
}

/// A request under way.
pub struct Call {
    pub node: u32,
    pub evaluation: Evaluation<MemoryEngine>,
}

/// Looks at a batch from one node to another, and may change it.
pub type Filter = Box<dyn FnMut(u32, u32, &mut RaftBatch)>;

/// The cluster.
pub struct Cluster {
    pub now: Mono,
    pub nodes: BTreeMap<u32, Node>,
    flights: VecDeque<(Mono, Flight)>,
    /// Pairs that cannot talk, in the direction given.
    pub cut: BTreeSet<(u32, u32)>,
    pub calls: BTreeMap<u64, Call>,
    /// Whom the calls that wait for locks waited for last.
    pub lock_waits: BTreeMap<u64, LockWait>,
    pub responses: BTreeMap<u64, BatchResponse>,
    next_call: u64,
    pub configure: fn(&mut StoreConfig),
    /// Draws the bounds of the stores started from now on.
    pub limits_seed: Option<u64>,
    pub members: BTreeSet<u32>,
    pub dead: BTreeSet<u32>,
    /// Drops of the batches for which it answers true.
    pub filter: Option<Filter>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            // Not zero: a clock reads zero only where nobody set it.
            now: Mono(1_000_000_000),
            nodes: BTreeMap::new(),
            flights: VecDeque::new(),
            cut: BTreeSet::new(),
            calls: BTreeMap::new(),
            lock_waits: BTreeMap::new(),
            responses: BTreeMap::new(),
            next_call: 0,
            configure: |_| {},
            limits_seed: None,
            members: BTreeSet::new(),
            dead: BTreeSet::new(),
            filter: None,
        }
    }
}

impl Cluster {
    /// A cluster without stores; those it gets are configured by `configure`.
    pub fn configured(configure: fn(&mut StoreConfig)) -> Self {
        Self { configure, ..Self::default() }
    }

    /// A cluster of one store that holds all ranges.
    pub fn bootstrap() -> Self {
        let mut cluster = Self::default();
        cluster.add(1);
        let node = &cluster.nodes[&1];
        Store::bootstrap(&node.engine, &node.clock, NodeId(1), StoreId(1), &[]).unwrap();
        cluster.start(1);
        cluster.wait("a leaseholder", |cluster| cluster.leaseholder(4).is_some());
        cluster
    }

    /// A cluster of three stores, with three replicas of each range.
    pub fn of_three() -> Self {
        let mut cluster = Self::bootstrap();
        cluster.add(2);
        cluster.add(3);
        cluster.start(2);
        cluster.start(3);
        cluster.tell_stores();
        cluster.wait("three voters of every range", |cluster| {
            let ranges = cluster.handle(1).ranges();
            ranges.iter().all(|range| range.descriptor.replicas.len() == 3 && !joint(range))
                && [2, 3].iter().all(|n| cluster.handle(*n).counts().replicas == 4)
        });
        cluster
    }

    pub fn add(&mut self, id: u32) {
        let wall = Arc::new(ManualClock::new(EPOCH_NANOS + self.now.0));
        let clock = Clock::new(Arc::clone(&wall) as _, MAX_OFFSET);
        let node = Node {
            engine: MemoryEngine::new(),
            wall,
            skew: 0,
            clock,
            store: None,
            inputs: Vec::new(),
            deadline: Mono(0),
            descriptors: Vec::new(),
            incarnation: 0,
        };
        self.nodes.insert(id, node);
        self.members.insert(id);
    }

    pub fn start(&mut self, id: u32) {
        let (now, configure) = (self.now, self.configure);
        self.set_clock(id);
        let node = self.nodes.get_mut(&id).unwrap();
        node.incarnation += 1;
        node.clock = Clock::new(Arc::clone(&node.wall) as _, MAX_OFFSET);
        let incarnation = u64::from(id) * 1000 + node.incarnation;
        let mut config = StoreConfig::new(NodeId(id), StoreId(id), incarnation);
        config.seed = u64::from(id);
        if let Some(seed) = self.limits_seed {
            draw_limits(&mut config, seed);
        }
        configure(&mut config);
        let store = Store::open(node.engine.clone(), node.clock.clone(), config, now).unwrap();
        node.store = Some(store);
        node.deadline = now;
        node.inputs.clear();
    }

    /// Kills a node as a crash of its machine does, keeping `keep` of the writes not synced.
    pub fn crash(&mut self, id: u32, keep: usize) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.store = None;
        node.inputs.clear();
        node.engine.crash(keep);
        self.calls.retain(|_, call| call.node != id);
    }

    /// Tells every store which stores there are.
    pub fn tell_stores(&mut self) {
        let stores: Vec<StoreInfo> = self
            .members
            .iter()
            .map(|id| StoreInfo {
                store_id: StoreId(*id),
                node_id: NodeId(*id),
                locality: Vec::new(),
                status: if self.dead.contains(id) { StoreStatus::Dead } else { StoreStatus::Live },
                draining: false,
                decommissioning: false,
                replicas: 0,
            })
            .collect();
        for node in self.nodes.values_mut().filter(|node| node.store.is_some()) {
            node.inputs.push(Input::Stores(stores.clone()));
        }
    }

    pub fn handle(&self, id: u32) -> StoreHandle<MemoryEngine> {
        self.nodes[&id].store.as_ref().expect("the node runs").handle()
    }

    pub fn is_up(&self, id: u32) -> bool {
        self.nodes[&id].store.is_some()
    }

    pub fn input(&mut self, id: u32, input: Input) {
        self.nodes.get_mut(&id).unwrap().inputs.push(input);
    }

    fn set_clock(&mut self, id: u32) {
        let now = self.now.0;
        let node = self.nodes.get_mut(&id).unwrap();
        node.wall.set((EPOCH_NANOS + now).saturating_add_signed(node.skew));
    }

    /// The wall time of a clock that is right.
    pub fn wall_nanos(&self) -> u64 {
        EPOCH_NANOS + self.now.0
    }

    /// Lets time go on by `by`.
    pub fn run(&mut self, by: Duration) {
        let end = self.now.after(by);
        while self.advance(end) {}
    }

    /// Runs until `done`, for at most 30 s of cluster time.
    pub fn wait(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let end = self.now.after(Duration::from_secs(30));
        while !done(self) {
            assert!(self.advance(end), "not within 30 s: {what}\n{}", self.describe());
        }
    }

    /// Goes to the next event before `end`; false once there is none.
    pub fn advance(&mut self, end: Mono) -> bool {
        self.settle();
        let flight = self.flights.front().map_or(Mono::NEVER, |(at, _)| *at);
        let due = self.nodes.values().filter(|node| node.store.is_some());
        let next = due.map(|node| node.deadline).min().unwrap_or(Mono::NEVER).min(flight);
        if next > end {
            self.now = end;
            let ids: Vec<u32> = self.nodes.keys().copied().collect();
            ids.into_iter().for_each(|id| self.set_clock(id));
            return false;
        }
        self.now = self.now.max(next);
        let ids: Vec<u32> = self.nodes.keys().copied().collect();
        ids.iter().for_each(|id| self.set_clock(*id));
        while self.flights.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, flight) = self.flights.pop_front().unwrap();
            self.land(flight);
        }
        for id in ids {
            let node = &self.nodes[&id];
            if node.store.is_some() && (node.deadline <= self.now || !node.inputs.is_empty()) {
                self.step(id);
            }
        }
        // Who waits for an answer sees it now, not at the event after this one.
        self.settle();
        true
    }

    /// Steps nodes and polls requests until only time can change anything.
    pub fn settle(&mut self) {
        loop {
            self.poll_calls();
            let busy: Vec<u32> = self
                .nodes
                .iter()
                .filter(|(_, node)| node.store.is_some() && !node.inputs.is_empty())
                .map(|(id, _)| *id)
                .collect();
            if busy.is_empty() {
                return;
            }
            busy.into_iter().for_each(|id| self.step(id));
        }
    }

    fn land(&mut self, flight: Flight) {
        let (to, input) = match flight {
            Flight::Batch { from, to, batch } => (to, Input::Raft { from: StoreId(from), batch }),
            Flight::Snapshot { from, to, received } => {
                let report = Input::SnapshotReport {
                    range_id: RangeId(received.header.range_id),
                    to_replica: crdb_keys::ReplicaId(received.header.to_replica),
                    accepted: self.nodes[&to].store.is_some(),
                };
                self.flights.push_back((
                    self.now.after(LATENCY),
                    Flight::Report { to: from, input: report },
                ));
                (to, Input::Snapshot(received))
            }
            Flight::Report { to, input } => (to, input),
        };
        let node = self.nodes.get_mut(&to).unwrap();
        if node.store.is_some() {
            node.inputs.push(input);
        }
    }

    fn step(&mut self, id: u32) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(store) = &mut node.store else { return };
        let mut inputs = std::mem::take(&mut node.inputs);
        let outputs = match store.step(now, &mut inputs) {
            Ok(outputs) => outputs,
            Err(error) => panic!("n{id} stopped: {error}"),
        };
        node.deadline = outputs.next_deadline;
        self.send(id, outputs);
    }

    fn send(&mut self, from: u32, outputs: Outputs<MemoryEngine>) {
        let at = self.now.after(LATENCY);
        for (to, mut batch) in outputs.messages {
            let to = to.get();
            if let Some(filter) = &mut self.filter {
                filter(from, to, &mut batch);
            }
            let encoded = prost::Message::encode_to_vec(&batch);
            let batch = prost::Message::decode(Bytes::from(encoded)).unwrap();
            if !self.cut.contains(&(from, to)) && self.nodes.contains_key(&to) {
                self.flights.push_back((at, Flight::Batch { from, to, batch }));
            }
        }
        for send in outputs.snapshots {
            self.send_snapshot(from, send);
        }
        self.nodes.get_mut(&from).unwrap().descriptors.extend(outputs.descriptors);
    }

    fn send_snapshot(&mut self, from: u32, mut send: SnapshotSend<MemoryEngine>) {
        let mut entries = Vec::new();
        while let Some(chunk) = send.stream.next_chunk().unwrap() {
            entries.extend(chunk);
        }
        let to = send.to.get();
        let at = self.now.after(LATENCY);
        if self.cut.contains(&(from, to)) {
            let input = Input::SnapshotReport {
                range_id: send.range_id,
                to_replica: send.to_replica,
                accepted: false,
            };
            self.flights.push_back((at, Flight::Report { to: from, input }));
            return;
        }
        let received = ReceivedSnapshot { from: StoreId(from), header: send.header, entries };
        let received = Box::new(received);
        self.flights.push_back((at, Flight::Snapshot { from, to, received }));
    }

    /// Starts a request at a node.
    pub fn call(&mut self, node: u32, request: BatchRequest) -> u64 {
        let evaluation = self.handle(node).evaluate(request, self.now);
        self.next_call += 1;
        self.calls.insert(self.next_call, Call { node, evaluation });
        self.next_call
    }

    fn poll_calls(&mut self) {
        let ids: Vec<u64> = self.calls.keys().copied().collect();
        for id in ids {
            self.poll_call(id);
        }
    }

    fn poll_call(&mut self, id: u64) {
        let now = self.now;
        self.lock_waits.remove(&id);
        while let Some(call) = self.calls.get_mut(&id) {
            let node = call.node;
            match call.evaluation.poll(now, Waker::noop()) {
                Progress::Yield(_) => {}
                Progress::Propose(proposal) => {
                    let node = self.nodes.get_mut(&node).unwrap();
                    node.inputs.push(Input::Propose(proposal));
                    return;
                }
                Progress::Done(response) => {
                    self.calls.remove(&id);
                    self.responses.insert(id, *response);
                }
                Progress::WaitLock(wait) => {
                    self.lock_waits.insert(id, *wait);
                    return;
                }
                Progress::WaitLatch | Progress::WaitLease | Progress::WaitProposal => return,
            }
        }
    }

    /// Runs a request at a node to its end.
    pub fn request(&mut self, node: u32, request: BatchRequest) -> BatchResponse {
        let id = self.call(node, request);
        self.wait("the response", |cluster| cluster.responses.contains_key(&id));
        self.responses.remove(&id).unwrap()
    }

    pub fn put(&mut self, node: u32, key: &str, value: &str) -> BatchResponse {
        self.request(node, put(key, value))
    }

    /// The value at a node, or the error.
    pub fn get(&mut self, node: u32, key: &str) -> Result<Option<String>, Box<kv::Error>> {
        let response = self.request(node, get(key));
        match response.error {
            Some(error) => Err(Box::new(error)),
            None => Ok(value_of(&response)),
        }
    }

    /// The node that leads `range` and may serve it.
    pub fn leaseholder(&self, range: u64) -> Option<u32> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.store.is_some())
            .map(|(id, _)| *id)
            .find(|id| self.handle(*id).holds_lease(RangeId(range), self.now))
    }

    /// The range that holds the row `name` by the newest descriptor, and the node that may serve it.
    pub fn owner(&self, name: &str) -> Option<(RangeDescriptor, u32)> {
        let up = self.nodes.iter().filter(|(_, node)| node.store.is_some());
        let known = up.filter_map(|(id, _)| self.handle(*id).descriptor_of(&key(name)));
        let newest = known.max_by_key(|descriptor| descriptor.generation)?;
        let holder = self.leaseholder(newest.range_id)?;
        Some(((*newest).clone(), holder))
    }

    /// Runs a request about the row `name` where it is served, until it is neither misrouted nor
    /// refused for the moment.
    pub fn routed(&mut self, name: &str, request: &BatchRequest) -> BatchResponse {
        use kv::error::Kind;
        let end = self.now.after(Duration::from_secs(30));
        loop {
            self.wait("a leaseholder", |cluster| cluster.owner(name).is_some());
            let (descriptor, holder) = self.owner(name).unwrap();
            let mut request = request.clone();
            request.header.get_or_insert_default().range_id = descriptor.range_id;
            let response = self.request(holder, request);
            let retry = response.error.as_ref().is_some_and(|error| {
                matches!(
                    error.kind,
                    Some(Kind::RangeMismatch(_) | Kind::NotLeaseholder(_) | Kind::Unavailable(_))
                )
            });
            if !retry || self.now > end {
                return response;
            }
            self.run(Duration::from_millis(10));
        }
    }

    pub fn status(&self, id: u32, range: u64) -> Option<RangeStatus> {
        self.handle(id).ranges().into_iter().find(|status| status.descriptor.range_id == range)
    }

    /// One line a node: what it knows about the range of tables.
    pub fn describe(&self) -> String {
        let mut out = String::new();
        for (id, node) in &self.nodes {
            let line = match &node.store {
                None => "down".into(),
                Some(_) => self.status(*id, 4).map_or("no replica".into(), |status| {
                    let holds = self.handle(*id).holds_lease(RangeId(4), self.now);
                    let role = if status.is_leader { "leader" } else { "follower" };
                    let lease = if holds { " lease" } else { "" };
                    format!(
                        "r4/{} term {} {role}{lease} applied {} last {}",
                        status.replica_id, status.term, status.applied_index, status.last_index
                    )
                }),
            };
            out.push_str(&format!("n{id} {line}\n"));
        }
        out
    }
}

/// Bounds drawn by a seed. How long is waited stays: cluster time is short.
fn draw_limits(config: &mut StoreConfig, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut below = |below| rng.random_range(0..below);
    let (drawn, usual) = (crdb_raftstore::Limits::draw(&mut below), config.limits);
    config.limits = crdb_raftstore::Limits {
        lease_wait: usual.lease_wait,
        transfer_latch_wait: usual.transfer_latch_wait,
        transfer_wait: usual.transfer_wait,
        transfer_answer: usual.transfer_answer,
        ..drawn
    };
    config.concurrency = crdb_concurrency::Limits::draw(&mut below);
}

fn joint(range: &RangeStatus) -> bool {
    range
        .descriptor
        .replicas
        .iter()
        .any(|replica| !matches!(replica.r#type(), kv::ReplicaType::Voter))
}

/// The key of a table row called `name`.
pub fn key(name: &str) -> Bytes {
    let mut key = layout::table_prefix(100);
    key.extend_from_slice(name.as_bytes());
    key.into()
}

pub fn batch(kinds: Vec<request::Kind>) -> BatchRequest {
    BatchRequest {
        header: Some(BatchHeader { range_id: 4, ..BatchHeader::default() }),
        requests: kinds.into_iter().map(|kind| Request { kind: Some(kind) }).collect(),
    }
}

pub fn put(name: &str, value: &str) -> BatchRequest {
    let put = kv::PutRequest { key: key(name), value: Bytes::copy_from_slice(value.as_bytes()) };
    batch(vec![request::Kind::Put(put)])
}

/// Splits at the row `name`.
pub fn split(name: &str, range: u64, sticky_until: Option<u64>) -> BatchRequest {
    batch(vec![request::Kind::Split(kv::SplitRequest {
        key: key(name),
        new_range_id: range,
        sticky_until: sticky_until
            .map(|secs| kv::Timestamp { wall_nanos: secs * 1_000_000_000, logical: 0 }),
    })])
}

pub fn unsplit(name: &str) -> BatchRequest {
    batch(vec![request::Kind::Unsplit(kv::UnsplitRequest { key: key(name) })])
}

/// Gives the lease of the range of the row `name` to a node.
pub fn transfer(name: &str, to_node: u32) -> BatchRequest {
    let key = key(name);
    batch(vec![request::Kind::TransferLease(kv::TransferLeaseRequest { key, to_node })])
}

pub fn range_status(name: &str) -> BatchRequest {
    let key = key(name);
    batch(vec![request::Kind::RangeStatus(kv::RangeStatusRequest { key, with_stats: true })])
}

/// Collects the garbage of a whole range.
pub fn gc(range: &RangeDescriptor, threshold: Timestamp) -> BatchRequest {
    batch(vec![request::Kind::Gc(kv::GcRequest {
        start: range.start_key.clone(),
        end: range.end_key.clone(),
        threshold: Some(threshold.into()),
        max_versions: 0,
    })])
}

/// A read in the past that any replica may serve.
pub fn get_nearest(name: &str, read: Timestamp) -> BatchRequest {
    let mut request = get(name);
    let header = request.header.get_or_insert_default();
    header.read_timestamp = Some(read.into());
    header.set_routing(kv::Routing::Nearest);
    request
}

pub fn get(name: &str) -> BatchRequest {
    batch(vec![request::Kind::Get(kv::GetRequest { key: key(name), ..Default::default() })])
}

pub fn increment(name: &str, delta: i64) -> BatchRequest {
    batch(vec![request::Kind::Increment(kv::IncrementRequest { key: key(name), delta })])
}

pub fn value_of(response: &BatchResponse) -> Option<String> {
    match response.responses.first()?.kind.as_ref()? {
        kv::response::Kind::Get(get) => {
            get.value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned())
        }
        kv::response::Kind::Increment(increment) => Some(increment.value.to_string()),
        _ => None,
    }
}

/// A response in one word or line.
pub fn outcome(response: &BatchResponse) -> String {
    use kv::error::Kind;
    match &response.error {
        None => value_of(response).unwrap_or_else(|| "ok".into()),
        Some(error) => match &error.kind {
            Some(Kind::NotLeaseholder(not)) => match &not.leaseholder {
                Some(replica) => format!("not leaseholder, try s{}", replica.store_id),
                None => "not leaseholder".into(),
            },
            Some(Kind::Ambiguous(_)) => "ambiguous".into(),
            Some(Kind::Unavailable(_)) => format!("unavailable: {}", error.message),
            _ => error.message.clone(),
        },
    }
}
