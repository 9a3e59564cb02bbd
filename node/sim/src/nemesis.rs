//! What goes wrong during a run, and when.
//!
//! Besides single faults there are short plays: sequences that bring a cluster to the edge where a
//! lease must not be given although a candidate is ready to take it. Random faults alone get there
//! too seldom.

use crdb_keys::{Key, RangeId, Timestamp};
use crdb_proto::kv::{
    BatchRequest, Request, SplitRequest, TransferLeaseRequest, UnsplitRequest, request,
};

use crate::{
    event::Event,
    plan::{Flavour, MS},
    world::{Phase, World},
};

impl World {
    pub(crate) fn fault(&mut self) {
        if self.phase != Phase::Faulty {
            return;
        }
        self.stats.faults += 1;
        let nodes = self.nodes.len();
        let victim = self.rng.index(nodes);
        let other = (victim + 1 + self.rng.index(nodes - 1)) % nodes;
        let short = self.rng.within(0..400 * MS);
        let long = self.rng.within(200 * MS..2_500 * MS);
        let until = self.now + long;
        let usual = self.rng.chance(15);
        match self.plan.flavour {
            Flavour::Handovers if !usual => {
                return self.next_fault(|world| world.request_transfer(other));
            }
            Flavour::LateNews if !usual => {
                return self.next_fault(|world| world.late_news(other));
            }
            _ => {}
        }
        match self.rng.index(26) {
            0 => self.crash(victim, long),
            1 => self.crash(victim, short / 20),
            2 | 3 => self.crash_all(),
            4 => self.crash_leader(long),
            5 => self.isolate(victim, until),
            6 => self.network.cut(victim, other, until),
            7 => self.split(until),
            8 => self.pause(victim, long),
            9 | 10 if !self.plan.steady => self.transfer(other),
            11 => self.jump(victim),
            12 => self.node(victim).slow_disk_until = until,
            13 if !self.plan.steady => self.move_replicas(victim),
            14 if !self.plan.steady => self.drain(victim, short),
            17..20 => self.split_range(),
            20 => self.unsplit_range(),
            21..23 if !self.plan.steady => self.request_transfer(other),
            23 => self.flake(until),
            24 | 25 => self.play_late(until),
            _ => self.play(),
        }
        self.next_fault(|_| {});
    }

    /// Does the harm, and sees to the next.
    fn next_fault(&mut self, harm: impl FnOnce(&mut Self)) {
        harm(self);
        let gap = self.rng.within(0..self.plan.fault_gap * 2);
        self.after(gap, Event::Fault);
    }

    /// One node gets the leases of most ranges; then it hears late of what happens elsewhere.
    fn late_news(&mut self, first: usize) {
        if let Some(listener) = self.listener.take() {
            let until = self.now + self.rng.within(600 * MS..1_500 * MS);
            return self.hear_late(listener, until);
        }
        self.listener = Some(first);
        let keys: Vec<Key> = self.txn_keys.groups.iter().map(|(start, _)| start.clone()).collect();
        let elsewhere = self.rng.index(keys.len());
        for (at, key) in keys.into_iter().enumerate() {
            let to = if at == elsewhere { (first + 1) % self.nodes.len() } else { first };
            let to_node = crate::node::node_id(to).get();
            self.administer(request::Kind::TransferLease(TransferLeaseRequest { key, to_node }));
        }
    }

    /// Ends all faults.
    pub(crate) fn heal(&mut self) {
        self.network.heal();
        self.hub.calm_down();
        for index in 0..self.nodes.len() {
            let now = self.now;
            // Beyond what the nodes tolerate nothing needs to work.
            let node = self.node(index);
            node.offset = node.offset.min(400 * MS);
            node.paused_until = now;
            node.slow_disk_until = now;
            node.decommissioning = false;
            let up = node.is_up();
            let input = Box::new(crdb_raftstore::Input::Drain(false));
            self.after(0, Event::Tell { to: index, input });
            if !up {
                self.after(0, Event::Restart { node: index });
            }
        }
    }

    fn crash_all(&mut self) {
        for index in 0..self.nodes.len() {
            let apart = self.rng.within(0..3 * MS);
            let restart_after = self.rng.within(0..800 * MS);
            self.after(apart, Event::CrashNow { node: index, restart_after });
        }
    }

    fn crash_leader(&mut self, restart_after: u64) {
        if let Some((leader, _)) = self.some_leader() {
            self.crash(leader, restart_after);
        }
    }

    fn some_range(&mut self) -> Option<RangeId> {
        let ranges: Vec<RangeId> = self.ranges.iter().copied().collect();
        self.rng.pick(&ranges)
    }

    /// The store that leads a range picked at random, and the range's other stores.
    fn some_leader(&mut self) -> Option<(usize, Vec<usize>)> {
        let range = self.some_range()?;
        for node in &self.nodes {
            let Some(handle) = &node.handle else { continue };
            let Some(status) = handle
                .ranges()
                .into_iter()
                .find(|status| status.descriptor.range_id == range.get())
            else {
                continue;
            };
            if status.is_leader {
                let replicas = status.descriptor.replicas.iter();
                let others = replicas
                    .map(|replica| crate::node::index_of(crdb_keys::StoreId(replica.store_id)))
                    .filter(|index| *index != node.index)
                    .collect();
                return Some((node.index, others));
            }
        }
        None
    }

    fn isolate(&mut self, victim: usize, until: u64) {
        let (to, from) = match self.rng.index(3) {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        self.trace(|| format!("s{} is cut off, in {to}, out {from}", victim + 1));
        for index in 0..self.nodes.len() {
            if to {
                self.network.cut(index, victim, until);
            }
            if from {
                self.network.cut(victim, index, until);
            }
        }
    }

    fn split(&mut self, until: u64) {
        let sides: Vec<bool> = self.nodes.iter().map(|node| node.index % 2 == 0).collect();
        let flip = self.rng.chance(50);
        let single = self.rng.index(sides.len());
        for (a, left) in sides.iter().enumerate() {
            for (b, right) in sides.iter().enumerate() {
                let apart = if flip { (a == single) != (b == single) } else { left != right };
                if apart {
                    self.network.cut(a, b, until);
                }
            }
        }
    }

    fn pause(&mut self, victim: usize, length: u64) {
        let now = self.now;
        self.trace(|| format!("s{} pauses for {} ms", victim + 1, length / MS));
        self.node(victim).paused_until = now + length;
    }

    fn transfer(&mut self, target: usize) {
        let Some(range_id) = self.some_range() else { return };
        let target = Some(crate::node::store_id(target)).filter(|_| self.rng.chance(80));
        for index in 0..self.nodes.len() {
            let input = crdb_raftstore::Input::TransferLease { range_id, target };
            self.after(0, Event::Tell { to: index, input: Box::new(input) });
        }
    }

    /// Has a gateway send a request of an operator.
    fn administer(&mut self, kind: request::Kind) {
        let Some(gateway) = self.pick_gateway(None) else { return };
        self.trace(|| format!("s{} asks for {kind:?}", gateway + 1));
        let of = self.node(gateway).gateway.as_ref().expect("the node is up");
        let requests = vec![Request { kind: Some(kind) }];
        // Whatever comes of it: it may be asked for in vain.
        let work = of.send(BatchRequest { header: None, requests }, drop);
        self.spawn(gateway, None, work);
    }

    /// A key that clients work on, or one right behind it.
    fn some_key(&mut self) -> Option<Key> {
        let keys: Vec<Key> = self.keys.iter().chain(&self.txn_keys.all).cloned().collect();
        let key = self.rng.pick(&keys)?;
        Some(if self.rng.chance(30) { crdb_keys::encoding::next_key(&key).into() } else { key })
    }

    fn split_range(&mut self) {
        let Some(key) = self.some_key() else { return };
        let new_range_id = 100 + self.hub.fresh();
        let sticky_until = Some(Timestamp::MAX.into()).filter(|_| self.rng.chance(50));
        self.administer(request::Kind::Split(SplitRequest { key, new_range_id, sticky_until }));
    }

    fn unsplit_range(&mut self) {
        let Some(key) = self.some_key() else { return };
        self.administer(request::Kind::Unsplit(UnsplitRequest { key }));
    }

    /// The lease of a key that is about to be written goes elsewhere.
    pub(crate) fn transfer_under(&mut self, key: Key) {
        let target = self.rng.index(self.nodes.len());
        let to_node = crate::node::node_id(target).get();
        self.administer(request::Kind::TransferLease(TransferLeaseRequest { key, to_node }));
    }

    fn request_transfer(&mut self, target: usize) {
        let Some(key) = self.some_key() else { return };
        let to_node = crate::node::node_id(target).get();
        self.administer(request::Kind::TransferLease(TransferLeaseRequest { key, to_node }));
    }

    /// A graceful stop: the leases are given away, then the process ends, or it stays after all.
    fn drain(&mut self, victim: usize, after: u64) {
        self.trace(|| format!("s{} drains for {} ms", victim + 1, after / MS));
        let tell = |draining| {
            let input = Box::new(crdb_raftstore::Input::Drain(draining));
            Event::Tell { to: victim, input }
        };
        self.after(0, tell(true));
        if self.rng.chance(70) {
            let restart_after = self.rng.within(0..400 * MS);
            self.after(after, Event::CrashNow { node: victim, restart_after });
        } else {
            self.after(after, tell(false));
        }
    }

    fn jump(&mut self, victim: usize) {
        let offset = self.rng_offset();
        self.trace(|| format!("the clock of s{} now leads by {} ms", victim + 1, offset / MS));
        self.node(victim).offset = offset;
    }

    /// Has the replicas of a store moved away, when there is somewhere to move them.
    fn move_replicas(&mut self, victim: usize) {
        if self.nodes.len() > 3 {
            for index in 0..self.nodes.len() {
                let leaves = index == victim && !self.node(index).decommissioning;
                self.node(index).decommissioning = leaves;
            }
        }
    }

    /// A leader L, a follower A that supports it and a follower B that would replace it.
    fn play(&mut self) {
        let Some((leader, mut others)) = self.some_leader() else { return };
        if self.rng.chance(50) {
            others.reverse();
        }
        let (Some(a), Some(b)) = (others.first().copied(), others.get(1).copied()) else {
            return;
        };
        let until = self.now + self.rng.within(1_500 * MS..3_500 * MS);
        let ripe = self.rng.within(900 * MS..1_700 * MS);
        // Clocks that differ by more than they tolerate are a matter of the whole run.
        let play = match self.rng.index(6) {
            3 if !self.skewed => 5,
            play => play,
        };
        self.trace(|| format!("play {play}: L s{}, A s{}, B s{}", leader + 1, a + 1, b + 1));
        match play {
            // B hears nothing from L and wants to lead; A restarts just after it supported L.
            0 => {
                self.cut_both(leader, b, until);
                self.after(ripe, Event::CrashNow { node: a, restart_after: MS });
                self.after(ripe, Event::CutNow { from: leader, to: a, until });
                self.after(ripe, Event::CutNow { from: a, to: leader, until });
            }
            // L sleeps until both want to lead, then A supports it again while B's campaign of a
            // higher term goes on.
            1 => {
                self.cut_both(leader, b, until);
                self.pause(leader, ripe);
                self.network.lose(b, a, 60, self.now + ripe + 100 * MS);
                let cut = ripe + self.rng.within(50 * MS..400 * MS);
                self.after(cut, Event::CutNow { from: leader, to: a, until });
            }
            // Answers to L are late, and L cannot reach anybody any more.
            2 => {
                let late = self.rng.within(300 * MS..900 * MS);
                for follower in [a, b] {
                    self.network.slow(follower, leader, late, until);
                    let cut = self.rng.within(300 * MS..900 * MS);
                    self.after(cut, Event::CutNow { from: leader, to: follower, until });
                }
            }
            // L is supported by A alone, whose clock lies between those of L and B. Then A dies, the
            // clock of L falls back, and L helps B to lead.
            3 => {
                for (node, offset) in [(leader, 900 * MS), (a, 450 * MS), (b, 0)] {
                    self.node(node).offset = offset;
                }
                self.cut_both(leader, b, self.now + ripe + 1_300 * MS);
                self.after(ripe, Event::CrashNow { node: a, restart_after: 2_500 * MS });
                self.after(ripe, Event::SetOffset { node: leader, offset: 0 });
            }
            // The disk of A stalls while B misses what L writes. Then L and A lose power, and A and B
            // go on without L: whatever A said before its sync is found out.
            4 => {
                let power = self.rng.within(40 * MS..200 * MS);
                self.cut_both(leader, b, self.now + power);
                self.node(a).slow_disk_until = self.now + power;
                self.after(power, Event::CrashNow { node: a, restart_after: MS });
                self.after(power, Event::CrashNow { node: leader, restart_after: 2_500 * MS });
            }
            // L serves alone for as long as its lease lasts.
            _ => {
                let cut = self.rng.within(0..300 * MS);
                for follower in [a, b] {
                    self.after(cut, Event::CutNow { from: leader, to: follower, until });
                    self.after(cut, Event::CutNow { from: follower, to: leader, until });
                }
            }
        }
    }

    /// All that goes to L, which serves something, is late, and its clock is behind all others: it
    /// does not know what happened elsewhere until it asks.
    fn play_late(&mut self, until: u64) {
        if let Some((leader, _)) = self.some_leader() {
            self.hear_late(leader, until);
        }
    }

    fn hear_late(&mut self, listener: usize, until: u64) {
        self.trace(|| format!("s{} hears everything late", listener + 1));
        let offset = self.plan.offset;
        for node in 0..self.nodes.len() {
            if node != listener {
                let late = self.rng.within(80 * MS..250 * MS);
                self.network.slow(node, listener, late, until);
                self.node(node).offset = offset;
            }
        }
        self.node(listener).offset = 0;
        self.favourite = Some((listener, until));
    }

    /// Connections break now and then.
    fn flake(&mut self, until: u64) {
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                self.network.lose(from, to, 15, until);
            }
        }
    }

    fn cut_both(&mut self, a: usize, b: usize, until: u64) {
        self.network.cut(a, b, until);
        self.network.cut(b, a, until);
    }
}
