//! Clients: each does one operation after the other on few keys, through whichever store it
//! believes to serve them.
//!
//! A client follows the rules of a gateway: it goes on to another store only if the answer says
//! that the write had no effect, and what it cannot know it reports as unknown.

use std::collections::BTreeMap;

use crdb_keys::{RangeId, Timestamp};
use crdb_proto::kv::{
    BatchHeader, BatchRequest, BatchResponse, ConditionalPutRequest, GetRequest, PutRequest,
    Request, error, request, response,
};

use crate::{
    history::{Action, MAX_OPS, Op, Value},
    node::{EPOCH, index_of},
    plan::MS,
    world::{Event, Fate, Phase, Seen, World},
};

/// How long a client works on one operation.
const PATIENCE: u64 = 2_500 * MS;

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    current: Option<Current>,
    /// Which store served a range last.
    guess: BTreeMap<RangeId, usize>,
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
    /// The request under way.
    outstanding: Option<u64>,
    target: usize,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self { current: None, guess: BTreeMap::new(), known: BTreeMap::new(), done_since_heal: 0 }
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

    pub(crate) fn invoke(&mut self, index: usize) {
        if self.phase == Phase::Settling {
            return;
        }
        let key = self.rng.index(self.keys.len());
        // Keep some room of each history for the end.
        let room = if self.phase == Phase::Faulty { MAX_OPS - 30 } else { MAX_OPS };
        if self.histories.get(key).is_none_or(|ops| ops.len() >= room) {
            self.after(50 * MS, Event::Invoke { client: index });
            return;
        }
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
            // From the past to as far in the future as clocks may differ.
            let lead = self.rng.within(0..1_500 * MS);
            let wall = (EPOCH + self.now + lead).saturating_sub(1_000 * MS);
            Timestamp::new(wall, 0)
        });
        if let Some(value) = action_value(action) {
            self.fates.insert(value, (key, Fate::Unknown));
        }
        let invoked = self.now;
        let target = self.rng.index(self.nodes.len());
        self.client(index).current =
            Some(Current { id, key, action, timed, invoked, outstanding: None, target });
        self.after(PATIENCE, Event::GiveUp { client: index, op: id });
        self.retry(index, id);
    }

    /// Sends the current operation to the store believed to serve it, or to any.
    pub(crate) fn retry(&mut self, index: usize, op: u64) {
        self.next_id += 1;
        let attempt = self.next_id;
        let stray = self.rng.chance(self.plan.stray);
        let any = self.rng.index(self.nodes.len());
        let delay = self.rng.within(MS / 10..3 * MS);
        let Some(client) = self.clients.get_mut(index) else { return };
        let Some(current) = client.current.as_mut().filter(|current| current.id == op) else {
            return;
        };
        let Some((key, range)) = self.keys.get(current.key).cloned() else { return };
        let guess = client.guess.get(&range).copied();
        let node = guess.filter(|_| !stray).unwrap_or(any);
        (current.outstanding, current.target) = (Some(attempt), node);
        let bytes = |value: u64| bytes::Bytes::from(value.to_string());
        let kind = match current.action {
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
        let header = BatchHeader {
            range_id: range.get(),
            read_timestamp: current.timed.map(Into::into),
            ..BatchHeader::default()
        };
        let batch = Box::new(BatchRequest {
            header: Some(header),
            requests: vec![Request { kind: Some(kind) }],
        });
        let timed = current.timed.is_some();
        self.after(delay, Event::Request { client: index, attempt, node, timed, batch });
    }

    pub(crate) fn respond(
        &mut self,
        index: usize,
        attempt: u64,
        response: Option<BatchResponse>,
    ) -> Result<(), String> {
        let Some(client) = self.clients.get_mut(index) else { return Ok(()) };
        let Some(current) = client.current.as_mut() else { return Ok(()) };
        if current.outstanding != Some(attempt) {
            return Ok(());
        }
        current.outstanding = None;
        let (op, key, target) = (current.id, current.key, current.target);
        let writes = action_value(current.action).is_some();
        let range = self.keys.get(key).map_or(RangeId(0), |(_, range)| *range);
        let Some(response) = response else {
            client.guess.remove(&range);
            if writes {
                self.end(index, Ending::Unknown);
            } else {
                self.again(index, op, 30 * MS);
            }
            return Ok(());
        };
        match response.error.map(|error| (error.kind, error.message)) {
            None => {
                client.guess.insert(range, target);
                let read = response.read_timestamp.map(Timestamp::from).unwrap_or_default();
                let ending = match (current.action, response.responses.first()) {
                    (Action::Get(_), Some(answer)) => {
                        let value = value_of(answer)?;
                        self.seen.push(Seen { key, timestamp: read, value, node: target });
                        Ending::Done(Action::Get(value), None)
                    }
                    (action, Some(_)) => {
                        let at = response.write_timestamp.ok_or("a write without timestamp")?;
                        Ending::Done(action, Some(at.into()))
                    }
                    (_, None) => return Err("a success without a response".into()),
                };
                self.end(index, ending);
            }
            Some((Some(error::Kind::ConditionFailed(failed)), _)) => {
                client.guess.insert(range, target);
                let actual = failed.actual.map(|bytes| parse(&bytes)).transpose()?;
                self.end(index, Ending::Done(Action::CasFailed(actual), None));
            }
            Some((Some(error::Kind::Ambiguous(_)), _)) => self.end(index, Ending::Unknown),
            Some((Some(error::Kind::NotLeaseholder(hint)), _)) => {
                match hint.leaseholder {
                    Some(replica) => {
                        let node = index_of(crdb_keys::StoreId(replica.store_id));
                        client.guess.insert(range, node);
                    }
                    None => drop(client.guess.remove(&range)),
                }
                self.again(index, op, 20 * MS);
            }
            Some((Some(error::Kind::Invalid(_)), _)) if current.timed.is_some() => {
                // Its clock and ours differ by more than it takes.
                self.end(index, Ending::Refused);
            }
            Some((Some(error::Kind::Unavailable(_) | error::Kind::RangeMismatch(_)), _)) => {
                client.guess.remove(&range);
                self.again(index, op, 60 * MS);
            }
            Some((kind, message)) => {
                return Err(format!("s{} answered {message}: {kind:?}", target + 1));
            }
        }
        Ok(())
    }

    fn again(&mut self, index: usize, op: u64, within: u64) {
        let delay = self.rng.within(MS..within);
        self.after(delay, Event::Retry { client: index, op });
    }

    pub(crate) fn give_up(&mut self, index: usize, op: u64) {
        let Some(current) = &self.client(index).current else { return };
        if current.id != op {
            return;
        }
        let unknown = current.outstanding.is_some() && action_value(current.action).is_some();
        self.end(index, if unknown { Ending::Unknown } else { Ending::Refused });
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
