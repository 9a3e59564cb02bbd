//! The run of one seed: what happens when, and what every event does.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crdb_keys::{Key, RangeId, Timestamp, layout};
use crdb_raftstore::{DescriptorChange, Input, Outputs, ReceivedSnapshot, SnapshotSend, Store};
use crdb_storage::MemoryEngine;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::{
    client::Client,
    event::{Event, Note, Scheduled},
    exec::{Caller, Hub, Tasks, Want},
    history::Op,
    network::Network,
    node::{Node, index_of, store_id},
    oracle::Oracle,
    plan::{MS, Options, Plan},
    rng::Rng,
    txn::{drive::TxnClientState, log::Log, work::Keys},
    verdict,
};

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// A number made of everything that happened: equal for equal runs.
    pub digest: u64,
    /// What happened, in numbers.
    pub stats: Stats,
    /// Which promise was broken, if one was.
    pub failure: Option<String>,
}

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events.
    pub events: u64,
    /// Reads that returned a value or its absence.
    pub reads: u64,
    /// Writes acknowledged.
    pub writes: u64,
    /// Writes of unknown outcome.
    pub ambiguous: u64,
    /// Operations certain to have had no effect.
    pub refused: u64,
    /// Faults of all kinds.
    pub faults: u64,
    /// Processes that crashed.
    pub crashes: u64,
    /// Leases that served something.
    pub leases: u64,
    /// Snapshots sent after the cluster had formed.
    pub snapshots: u64,
    /// Reads served without a lease.
    pub follower_reads: u64,
    /// Transactions that committed.
    pub txns_committed: u64,
    /// Transactions certain to have had no effect.
    pub txns_failed: u64,
    /// Transactions of unknown outcome.
    pub txns_unknown: u64,
}

/// Runs a seed.
#[must_use]
pub fn run(seed: u64, options: Options) -> Outcome {
    let mut world = World::new(seed, options);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let failure = match result {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Some(format!("panic: {}", text.unwrap_or("of unknown kind")))
        }
    };
    world.stats.leases = world.oracle.leases() as u64;
    let failure = failure.map(|why| format!("at {:>6} ms: {why}", world.now / MS));
    Outcome { seed, digest: world.digest, stats: world.stats, failure }
}

/// Part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Forming,
    Faulty,
    Healing,
    /// Whatever transactions left behind is met and dealt with.
    Sweeping,
    Settling,
}

/// A read that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) key: usize,
    pub(crate) timestamp: Timestamp,
    pub(crate) value: Option<u64>,
    pub(crate) node: usize,
}

/// What became of a value that a client tried to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Written(Timestamp),
    Refused,
    Unknown,
}

pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    events: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    pub(crate) digest: u64,
    pub(crate) phase: Phase,
    pub(crate) phase_started: u64,
    pub(crate) nodes: Vec<Node>,
    /// Every range that ever was.
    pub(crate) ranges: BTreeSet<RangeId>,
    pub(crate) network: Network,
    pub(crate) clients: Vec<Client>,
    pub(crate) keys: Vec<Key>,
    pub(crate) histories: Vec<Vec<Op>>,
    pub(crate) fates: BTreeMap<u64, (usize, Fate)>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) oracle: Oracle,
    pub(crate) seen_replicas: verdict::Seen,
    pub(crate) next_id: u64,
    /// When a client finished an operation last.
    pub(crate) active_at: u64,
    pub(crate) txn_clients: Vec<TxnClientState>,
    pub(crate) txn_log: Arc<Mutex<Log>>,
    pub(crate) txn_keys: Arc<Keys>,
    /// How transactions ended, as their records said: by id, with the timestamp of a commit.
    pub(crate) txn_ends: BTreeMap<bytes::Bytes, Option<Timestamp>>,
    /// Clocks differ, or differed, by more than the nodes tolerate.
    pub(crate) skewed: bool,
    /// The gateway that clients like best for now.
    pub(crate) favourite: Option<(usize, u64)>,
    /// The node that is to hear everything late.
    pub(crate) listener: Option<usize>,
    /// Why the sweep failed last.
    pub(crate) swept: Result<(), String>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) tasks: Tasks,
    pub(crate) stats: Stats,
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::new(&mut rng);
        let mut keys = Vec::new();
        for at in 0..plan.keys_per_range {
            for prefix in ["\x03zz", "\x04zz", "\x05zz"] {
                keys.push(Key::from(format!("{prefix}{at}")));
            }
        }
        Self {
            options,
            now: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            digest: seed,
            phase: Phase::Forming,
            phase_started: 0,
            nodes: (0..plan.stores).map(Node::new).collect(),
            ranges: layout::bootstrap_ranges().map(|(range, _)| range).into(),
            network: Network::default(),
            clients: (0..plan.clients).map(|_| Client::new()).collect(),
            histories: vec![Vec::new(); keys.len()],
            keys,
            fates: BTreeMap::new(),
            seen: Vec::new(),
            oracle: Oracle::default(),
            seen_replicas: verdict::Seen::default(),
            next_id: 0,
            active_at: 0,
            txn_clients: (0..plan.txn_clients).map(|_| TxnClientState::default()).collect(),
            txn_log: Arc::default(),
            txn_keys: Arc::new(Keys::new(
                &["\x05", "\x04", "\x03"],
                plan.txn_keys,
                plan.accounts,
                plan.habits.across,
            )),
            txn_ends: BTreeMap::new(),
            skewed: plan.offset > 500 * MS || plan.future_reads,
            favourite: None,
            listener: None,
            swept: Ok(()),
            hub: Hub::new(seed, options.trace),
            tasks: Tasks::default(),
            stats: Stats::default(),
            plan,
            rng,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        self.begin()?;
        while let Some(Reverse(next)) = self.events.pop() {
            self.now = next.at;
            self.stats.events += 1;
            // A multiply-and-rotate step over what decides the order of events.
            self.digest = (self.digest ^ next.at ^ next.tie.rotate_left(17))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29);
            self.hub.set_now(self.now);
            self.handle(next.event)?;
            self.serve_tasks()?;
            if self.phase == Phase::Settling && self.is_settled() {
                return self.verdict();
            }
        }
        Err("nothing is left to happen".into())
    }

    fn begin(&mut self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            self.node(node).offset = self.rng_offset();
            if node == 0 {
                let first = self.node(0);
                first.tell_time(0);
                let clock = first.clock();
                Store::bootstrap(&first.engine, &clock, first.node_id(), first.store_id(), &[])
                    .map_err(|error| error.to_string())?;
            }
            self.start(node)?;
        }
        self.after(0, Event::Watch);
        Ok(())
    }

    pub(crate) fn rng_offset(&mut self) -> u64 {
        // At the ends more often than between them.
        match self.rng.index(3) {
            0 => 0,
            1 => self.plan.offset,
            _ => self.rng.within(0..self.plan.offset),
        }
    }

    pub(crate) fn node(&mut self, index: usize) -> &mut Node {
        self.nodes.get_mut(index).expect("nodes are numbered from zero")
    }

    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        let tie = self.rng.bits();
        self.sequence += 1;
        let scheduled = Scheduled { at: self.now + delay, tie, sequence: self.sequence, event };
        self.events.push(Reverse(scheduled));
    }

    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        if self.options.trace {
            crate::client::print_trace(self.now, &line());
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Step { node } => self.step(node)?,
            Event::Finish { node, process } => self.finish(node, process)?,
            Event::Poll { task } => self.poll(task),
            Event::Timer { slot } => {
                if let Some(slot) = slot.upgrade() {
                    slot.fill(());
                }
            }
            Event::Call { to, batch, caller } => self.call_arrives(to, *batch, caller),
            Event::Answer { answer, caller } => self.answer_arrives(&caller, *answer),
            Event::Batch { from, to, batch } => {
                let input = Input::Raft { from: store_id(from), batch: *batch };
                self.deliver(from, to, input);
            }
            Event::Snapshot { from, to, received } => {
                let report = |accepted| Input::SnapshotReport {
                    range_id: RangeId(received.header.range_id),
                    to_replica: crdb_keys::ReplicaId(received.header.to_replica),
                    accepted,
                };
                let arrived = Box::new(report(self.node(to).is_up()));
                // Whoever does not hear of the end takes it for a failure.
                let failed = Box::new(report(false));
                self.deliver(from, to, Input::Snapshot(received));
                if !self.send(to, from, 0, Event::Tell { to: from, input: arrived }) {
                    self.after(300 * MS, Event::Tell { to: from, input: failed });
                }
            }
            Event::Tell { to, input } => self.give(to, *input),
            Event::Invoke { client } => self.invoke(client),
            Event::GiveUp { client, op } => self.give_up(client, op),
            Event::InvokeTxn { client } => self.invoke_txn(client),
            Event::CancelTxn { client, op } => self.cancel_txn(client, op),
            Event::Fault => self.fault(),
            Event::Restart { node } => {
                if !self.node(node).is_up() {
                    self.start(node)?;
                }
            }
            // What was planned to go wrong later does so only while faults happen.
            Event::CrashNow { .. } | Event::CutNow { .. } | Event::SetOffset { .. }
                if self.phase != Phase::Faulty => {}
            Event::CrashNow { node, restart_after } => self.crash(node, restart_after),
            Event::CutNow { from, to, until } => self.network.cut(from, to, until),
            Event::SetOffset { node, offset } => self.node(node).offset = offset,
            Event::Watch => self.watch()?,
        }
        Ok(())
    }

    // Tasks.

    /// Starts a task of a node; it runs after the event that started it.
    pub(crate) fn spawn(
        &mut self,
        node: usize,
        caller: Option<Caller>,
        future: BoxFuture<'static, ()>,
    ) -> u64 {
        let task = self.tasks.add(&self.hub, node, caller, future);
        self.after(0, Event::Poll { task });
        task
    }

    fn poll(&mut self, task: u64) {
        let now = self.now;
        let Some(index) = self.tasks.node_of(task) else { return };
        let node = self.node(index);
        if node.paused_until > now {
            let delay = node.paused_until - now;
            self.after(delay, Event::Poll { task });
            return;
        }
        node.tell_time(now);
        self.tasks.poll(task);
    }

    /// Does what the tasks want, and sees to it that those that were woken are polled.
    fn serve_tasks(&mut self) -> Result<(), String> {
        for want in self.hub.take_wants() {
            match want {
                Want::Timer { at, slot } => {
                    self.after(at.saturating_sub(self.now), Event::Timer { slot });
                }
                Want::Call { from, to, batch, reply } => {
                    let caller = Caller { node: from, reply };
                    let call = Event::Call { to, batch, caller: caller.clone() };
                    self.send_call(from, to, call, caller);
                }
                Want::Answer { from, to, response, reply } => {
                    let caller = Caller { node: to, reply };
                    let answer = Box::new(Ok(*response));
                    let answer = Event::Answer { answer, caller: caller.clone() };
                    self.send_call(from, to, answer, caller);
                }
                Want::Give { node, input } => self.give(node, *input),
                Want::Spawn { node, future } => drop(self.spawn(node, None, future)),
                Want::Trace(line) => self.trace(|| line),
                Want::Served(served) => self.served(&served)?,
                Want::Note(note) => self.hear(*note)?,
            }
        }
        for task in self.hub.take_woken() {
            if self.tasks.is_due(task) {
                let delay = self.rng.within(0..MS / 20);
                self.after(delay, Event::Poll { task });
            }
        }
        Ok(())
    }

    fn hear(&mut self, note: Note) -> Result<(), String> {
        match note {
            Note::OpDone { client, op, result } => self.op_done(client, op, *result)?,
            Note::Committing { client, op, gateway } => self.committing(client, op, gateway),
            Note::Dawdling { key } => self.dawdling(key),
            Note::TxnDone { client, op, committed, wrong } => {
                self.txn_done(client, op, committed, wrong)?;
            }
            Note::SweepFailed(why) => {
                self.trace(|| format!("the sweep failed: {why}"));
                self.swept = Err(why);
            }
            Note::Swept { wrong: None } => {
                self.active_at = self.now;
                self.enter(Phase::Settling);
            }
            Note::Swept { wrong: Some(why) } => return Err(why),
        }
        Ok(())
    }

    /// Sends a call or its answer: once, or never if the connection breaks.
    fn send_call(&mut self, from: usize, to: usize, event: Event, caller: Caller) {
        if from == to {
            self.after(0, event);
        } else if !self.send(from, to, 0, event) {
            self.break_call(caller, 1_000 * MS, "connection timed out");
        }
    }

    // Stores.

    fn start(&mut self, index: usize) -> Result<(), String> {
        let (now, bits, options) = (self.now, self.rng.bits(), self.options);
        let node = self.nodes.get_mut(index).expect("nodes are numbered from zero");
        node.start(now, bits, &self.hub, options, &self.plan)
            .map_err(|error| format!("cannot start: {error}"))?;
        let process = node.process;
        self.trace(|| format!("s{} starts as process {process}", index + 1));
        let stores = self.stores();
        self.give(index, Input::Stores(stores));
        Ok(())
    }

    pub(crate) fn crash(&mut self, index: usize, restart_after: u64) {
        let now = self.now;
        if !self.node(index).is_up() {
            return;
        }
        let unsynced = self.node(index).engine.unsynced();
        let keep = if self.rng.chance(50) { 0 } else { self.rng.index(unsynced + 1) };
        self.trace(|| format!("s{} crashes, {unsynced} unsynced, keeps {keep}", index + 1));
        // Connections break; sometimes the callers hear of it.
        for caller in self.tasks.kill(index) {
            self.break_call(caller, 5 * MS, "connection reset");
        }
        self.disconnect(index);
        self.disconnect_txns(index);
        self.node(index).crash(now, keep);
        self.stats.crashes += 1;
        self.after(restart_after, Event::Restart { node: index });
    }

    /// Hands an input to a store and sees to it that it is stepped.
    pub(crate) fn give(&mut self, index: usize, input: Input) {
        let delay = self.rng.within(0..MS / 20);
        let now = self.now;
        let node = self.node(index);
        if !node.is_up() {
            return;
        }
        node.inputs.push(input);
        if !node.busy && node.wake_at > now + delay {
            node.wake_at = now + delay;
            self.after(delay, Event::Step { node: index });
        }
    }

    fn deliver(&mut self, from: usize, to: usize, input: Input) {
        if self.node(to).is_up() {
            self.give(to, input);
        } else if self.rng.chance(50) {
            let lost = Input::Unreachable(store_id(to));
            self.send(to, from, 0, Event::Tell { to: from, input: Box::new(lost) });
        }
    }

    /// Sends something over the link; true unless it was lost.
    fn send(&mut self, from: usize, to: usize, extra: u64, event: Event) -> bool {
        let healthy = self.phase != Phase::Faulty;
        let arrivals =
            self.network.arrivals(&mut self.rng, &self.plan, healthy, (from, to), self.now);
        let Some((first, more)) = arrivals.split_first() else { return false };
        if let (Event::Batch { batch, .. }, Some(second)) = (&event, more.first()) {
            let batch = batch.clone();
            self.after(second - self.now + extra, Event::Batch { from, to, batch });
        }
        self.after(first - self.now + extra, event);
        true
    }

    fn step(&mut self, index: usize) -> Result<(), String> {
        let now = self.now;
        let slow = self.node(index).slow_disk_until > now;
        let sync = self.plan.sync;
        let disk = if slow { self.rng.within(50 * MS..900 * MS) } else { self.rng.within(0..sync) };
        let node = self.node(index);
        // Only the latest appointment counts.
        if node.busy || node.wake_at != now {
            return Ok(());
        }
        if node.paused_until > now {
            let delay = node.paused_until - now;
            node.wake_at = node.paused_until;
            self.after(delay, Event::Step { node: index });
            return Ok(());
        }
        let mono = node.tell_time(now);
        let Some(store) = &mut node.store else { return Ok(()) };
        let outputs =
            store.begin(mono, &mut node.inputs).map_err(|error| format!("step: {error}"))?;
        node.busy = true;
        node.wake_at = u64::MAX;
        let process = node.process;
        self.put_out(index, outputs);
        self.after(disk, Event::Finish { node: index, process });
        Ok(())
    }

    fn finish(&mut self, index: usize, process: u64) -> Result<(), String> {
        let now = self.now;
        let node = self.node(index);
        if node.process != process || !node.busy {
            return Ok(());
        }
        if node.paused_until > now {
            let delay = node.paused_until - now;
            self.after(delay, Event::Finish { node: index, process });
            return Ok(());
        }
        let mono = node.tell_time(now);
        let Some(store) = &mut node.store else { return Ok(()) };
        let outputs = store.finish(mono).map_err(|error| format!("finish: {error}"))?;
        node.busy = false;
        let pause = outputs.next_deadline.since(mono);
        let pause = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX).min(1_000 * MS);
        let pause = if node.inputs.is_empty() { pause } else { 0 };
        let delay = pause + self.rng.within(0..MS / 20);
        self.node(index).wake_at = now + delay;
        self.after(delay, Event::Step { node: index });
        self.put_out(index, outputs);
        self.check_leases()
    }

    fn put_out(&mut self, from: usize, outputs: Outputs<MemoryEngine>) {
        for (to, batch) in outputs.messages {
            let to = index_of(to);
            self.send(from, to, 0, Event::Batch { from, to, batch: Box::new(batch) });
        }
        for send in outputs.snapshots {
            self.send_snapshot(from, send);
        }
        for DescriptorChange { descriptor, leader } in outputs.descriptors {
            self.ranges.insert(RangeId(descriptor.range_id));
            if let Some(gateway) = &self.node(from).gateway {
                gateway.descriptor_changed(descriptor, leader);
            }
        }
    }

    fn send_snapshot(&mut self, from: usize, mut send: SnapshotSend<MemoryEngine>) {
        let mut entries = Vec::new();
        while let Ok(Some(chunk)) = send.stream.next_chunk() {
            entries.extend(chunk);
        }
        self.trace(|| format!("s{} sends {send:?}, {} entries", from + 1, entries.len()));
        self.stats.snapshots += u64::from(self.phase != Phase::Forming);
        let report = Input::SnapshotReport {
            range_id: send.range_id,
            to_replica: send.to_replica,
            accepted: false,
        };
        let to = index_of(send.to);
        let received =
            Box::new(ReceivedSnapshot { from: store_id(from), header: send.header, entries });
        let takes = self.rng.within(MS..20 * MS);
        if !self.send(from, to, takes, Event::Snapshot { from, to, received }) {
            self.after(300 * MS, Event::Tell { to: from, input: Box::new(report) });
        }
    }
}
