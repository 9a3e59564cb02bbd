//! Clients of single keys: each does one operation after the other on few keys, through the gateway
//! it is connected to.
//!
//! The gateway is a node's: it dies with the node, and what it cannot know it reports as unknown.
//! So does a client that loses its connection or its patience.

use std::{collections::BTreeMap, sync::Arc};

use crdb_keys::Timestamp;
use crdb_kv::SendError;
use crdb_proto::kv::{
    BatchHeader, BatchRequest, BatchResponse, ConditionalPutRequest, GetRequest, PutRequest,
    Request, request, response,
};

use crate::{
    event::{Event, Note},
    exec::Want,
    history::{Action, MAX_OPS, Op, Value},
    node::{EPOCH, node_id},
    plan::MS,
    world::{Fate, Phase, Seen, World},
};

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    current: Option<Current>,
    /// The node it is connected to.
    gateway: Option<usize>,
    /// The value of a key it saw last.
    known: BTreeMap<usize, Value>,
    /// Operations that succeeded since the faults ended.
    pub(crate) done_since_heal: u64,
}

#[derive(Debug)]
struct Current {
    id: u64,
    key: usize,
    action: Action,
    /// Timestamp of a read that names one.
    timed: Option<Timestamp>,
    invoked: u64,
    /// What works on it at the gateway.
    task: u64,
    gateway: usize,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self { current: None, gateway: None, known: BTreeMap::new(), done_since_heal: 0 }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.current.is_none()
    }
}

enum Ending {
    Done(Action, Option<Timestamp>),
    Refused,
    Unknown,
}

impl World {
    fn client(&mut self, index: usize) -> &mut Client {
        self.clients.get_mut(index).expect("clients are numbered from zero")
    }

    /// A node that a client may connect to; most often the one it is connected to.
    pub(crate) fn pick_gateway(&mut self, before: Option<usize>) -> Option<usize> {
        // Half of the clients are where the favourite is, the others are not.
        let liked = self.favourite.filter(|(_, until)| self.now < *until).map(|(liked, _)| liked);
        if let Some(liked) = liked
            && self.node(liked).is_up()
            && self.rng.chance(50)
        {
            return Some(liked);
        }
        let before = before.filter(|index| Some(*index) != liked);
        let before = before.filter(|index| self.node(*index).is_up());
        if before.is_some() && self.rng.chance(80) {
            return before;
        }
        let up: Vec<usize> =
            self.nodes.iter().filter(|node| node.is_up()).map(|node| node.index).collect();
        let others: Vec<usize> = up.iter().copied().filter(|index| Some(*index) != liked).collect();
        if others.is_empty() { self.rng.pick(&up) } else { self.rng.pick(&others) }
    }

    pub(crate) fn invoke(&mut self, index: usize) {
        if self.phase == Phase::Settling {
            return;
        }
        let key = self.rng.index(self.keys.len());
        // Keep some room of each history for the end, and for those who wait longest then.
        let room = if self.phase == Phase::Faulty { MAX_OPS - 30 } else { MAX_OPS };
        let done = self.client(index).done_since_heal >= 2;
        let full = done || self.histories.get(key).is_none_or(|ops| ops.len() >= room);
        let before = self.client(index).gateway;
        let Some(gateway) = self.pick_gateway(before).filter(|_| !full) else {
            self.after(50 * MS, Event::Invoke { client: index });
            return;
        };
        self.next_id += 1;
        let id = self.next_id;
        let known = self.client(index).known.get(&key).copied().flatten();
        let action = match self.rng.index(10) {
            0..4 => Action::Put(id),
            4..6 => Action::Cas(known, id),
            _ => Action::Get(None),
        };
        let timed = matches!(action, Action::Get(_)) && self.rng.chance(self.plan.timed_reads);
        let timed = timed.then(|| {
            // From the past to the present, or as far in the future as clocks may differ.
            let longest = if self.plan.future_reads { 1_500 * MS } else { 1_000 * MS };
            let lead = self.rng.within(0..longest);
            let wall = (EPOCH + self.now + lead).saturating_sub(1_000 * MS);
            Timestamp::new(wall, 0)
        });
        if let Some(value) = action_value(action) {
            self.fates.insert(value, (key, Fate::Unknown));
        }
        let invoked = self.now;
        let task = self.start_op(index, id, gateway, key, action, timed);
        let current = Current { id, key, action, timed, invoked, task, gateway };
        let client = self.client(index);
        client.gateway = Some(gateway);
        client.current = Some(current);
        let patience = self.rng.within(self.plan.patience / 2..self.plan.patience);
        self.after(patience, Event::GiveUp { client: index, op: id });
    }

    fn start_op(
        &mut self,
        client: usize,
        op: u64,
        gateway: usize,
        key: usize,
        action: Action,
        timed: Option<Timestamp>,
    ) -> u64 {
        let key = self.keys.get(key).cloned().expect("it was drawn from the keys");
        let bytes = |value: u64| bytes::Bytes::from(value.to_string());
        let start = key.clone();
        let kind = match action {
            Action::Put(value) => request::Kind::Put(PutRequest { key, value: bytes(value) }),
            Action::Cas(expected, value) => request::Kind::ConditionalPut(ConditionalPutRequest {
                key,
                value: bytes(value),
                expected: expected.map(bytes),
            }),
            Action::Get(_) | Action::CasFailed(_) => {
                request::Kind::Get(GetRequest { key, ..Default::default() })
            }
        };
        let header =
            BatchHeader { read_timestamp: timed.map(Into::into), ..BatchHeader::default() };
        let batch =
            BatchRequest { header: Some(header), requests: vec![Request { kind: Some(kind) }] };
        // A gateway that believes something wrong must still do right.
        let stray = self.rng.chance(self.plan.stray).then(|| self.rng.index(self.nodes.len()));
        let hub = Arc::clone(&self.hub);
        let gateway_of = self.node(gateway).gateway.as_ref().expect("the node is up");
        if let Some(stray) = stray {
            let cache = gateway_of.cache();
            if let Some(known) = cache.lookup(&start) {
                let (range, start) = (known.descriptor.range_id, &known.descriptor.start_key);
                cache.set_leaseholder(range, start, Some(node_id(stray)));
            }
        }
        let work = gateway_of.send(batch, move |result| {
            hub.want(Want::Note(Box::new(Note::OpDone { client, op, result: Box::new(result) })));
        });
        self.spawn(gateway, None, work)
    }

    /// The gateway is done with an operation.
    pub(crate) fn op_done(
        &mut self,
        index: usize,
        op: u64,
        result: Result<BatchResponse, SendError>,
    ) -> Result<(), String> {
        let Some(client) = self.clients.get_mut(index) else { return Ok(()) };
        let Some(current) = client.current.as_ref().filter(|current| current.id == op) else {
            return Ok(());
        };
        let (key, gateway) = (current.key, current.gateway);
        let ending = match result {
            Ok(response) => {
                let read = response.read_timestamp.map(Timestamp::from).unwrap_or_default();
                match (current.action, response.responses.first()) {
                    (Action::Get(_), Some(answer)) => {
                        let value = value_of(answer)?;
                        self.seen.push(Seen { key, timestamp: read, value, node: gateway });
                        Ending::Done(Action::Get(value), None)
                    }
                    (action, Some(_)) => {
                        let at = response.write_timestamp.ok_or("a write without timestamp")?;
                        Ending::Done(action, Some(at.into()))
                    }
                    (_, None) => return Err("a success without a response".into()),
                }
            }
            Err(SendError::ConditionFailed { actual, .. }) => {
                let actual = actual.map(|bytes| parse(&bytes)).transpose()?;
                Ending::Done(Action::CasFailed(actual), None)
            }
            Err(SendError::Ambiguous { .. }) => Ending::Unknown,
            Err(SendError::Unavailable { message }) => {
                self.trace(|| format!("s{} does not serve: {message}", gateway + 1));
                Ending::Refused
            }
            // Its clock and the store's differ by more than that one takes.
            Err(SendError::Invalid { message }) if message.contains("maximum offset") => {
                Ending::Refused
            }
            Err(other) => return Err(format!("s{} answered {other}: {other:?}", gateway + 1)),
        };
        self.end(index, ending);
        Ok(())
    }

    /// A client walks away from its operation.
    pub(crate) fn give_up(&mut self, index: usize, op: u64) {
        let Some(current) = &self.client(index).current else { return };
        if current.id != op {
            return;
        }
        let task = current.task;
        self.tasks.cancel(task);
        self.lose_op(index);
    }

    /// The connections to a gateway break.
    pub(crate) fn disconnect(&mut self, gateway: usize) {
        for index in 0..self.clients.len() {
            if self.client(index).current.as_ref().is_some_and(|op| op.gateway == gateway) {
                self.lose_op(index);
            }
        }
    }

    fn lose_op(&mut self, index: usize) {
        let current = self.client(index).current.as_ref();
        let writes = current.is_some_and(|op| action_value(op.action).is_some());
        self.end(index, if writes { Ending::Unknown } else { Ending::Refused });
    }

    fn end(&mut self, index: usize, ending: Ending) {
        let healed = matches!(self.phase, Phase::Healing | Phase::Settling);
        let now = self.now;
        self.active_at = now;
        let client = self.client(index);
        let Some(current) = client.current.take() else { return };
        let key = current.key;
        let op = |action, ambiguous| Op {
            client: index,
            invoked: current.invoked,
            returned: if ambiguous { u64::MAX } else { now },
            action,
            ambiguous,
        };
        let value = action_value(current.action);
        let (record, fate) = match ending {
            Ending::Done(action, written) => {
                let seen = match action {
                    Action::Put(value) | Action::Cas(_, value) => Some(value),
                    Action::Get(value) | Action::CasFailed(value) => value,
                };
                if current.timed.is_none() {
                    client.known.insert(key, seen);
                }
                client.done_since_heal += u64::from(healed);
                let fate = written.map_or(Fate::Refused, Fate::Written);
                // A read at a timestamp of its own says nothing about the present.
                (current.timed.is_none().then(|| op(action, false)), fate)
            }
            Ending::Refused => (None, Fate::Refused),
            Ending::Unknown => (Some(op(current.action, true)), Fate::Unknown),
        };
        self.count(&fate, value.is_some(), record.is_some() || current.timed.is_some());
        if let Some(value) = value {
            self.fates.insert(value, (key, fate));
        }
        if let (Some(op), Some(ops)) = (record, self.histories.get_mut(key)) {
            ops.push(op);
        }
        self.trace(|| format!("c{index} k{key} {:?}: {fate:?} {record:?}", current.action));
        let think = self.rng.within(0..self.plan.think);
        self.after(think, Event::Invoke { client: index });
    }

    fn count(&mut self, fate: &Fate, writes: bool, took_place: bool) {
        let counter = match (fate, writes) {
            (Fate::Written(_), _) => &mut self.stats.writes,
            (Fate::Unknown, _) => &mut self.stats.ambiguous,
            (Fate::Refused, false) if took_place => &mut self.stats.reads,
            (Fate::Refused, _) => &mut self.stats.refused,
        };
        *counter += 1;
    }
}

fn action_value(action: Action) -> Option<u64> {
    match action {
        Action::Put(value) | Action::Cas(_, value) => Some(value),
        Action::Get(_) | Action::CasFailed(_) => None,
    }
}

fn value_of(answer: &crdb_proto::kv::Response) -> Result<Value, String> {
    match &answer.kind {
        Some(response::Kind::Get(get)) => get.value.as_deref().map(parse).transpose(),
        other => Err(format!("a get was answered by {other:?}")),
    }
}

/// The number that a client wrote.
pub(crate) fn parse(bytes: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    text.parse().map_err(|_| format!("nobody wrote the value {text:?}"))
}

/// Prints a line of the trace.
#[expect(clippy::print_stdout, reason = "the trace is what the user asked for")]
pub(crate) fn print_trace(now: u64, line: &str) {
    println!("{:>9}.{:03} ms  {line}", now / MS, now % MS / 1_000);
}
