//! Requests at a store: driven from one yield point to the next, and watched when they are served.

use std::{sync::Arc, time::Duration};

use crdb_keys::{RangeId, Timestamp};
use crdb_kv::contention::{self, Site};
use crdb_proto::kv::{BatchRequest, Routing};
use crdb_raftstore::{Input, Mono, Proposal, StoreHandle, YieldPoint};
use crdb_storage::MemoryEngine;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::{
    event::Event,
    exec::{Answer, Caller, Hub, Want, nanos},
    plan::MS,
    world::World,
};

/// A request that a store served.
#[derive(Debug)]
pub(crate) struct Served {
    node: usize,
    range: RangeId,
    /// Lease that the request was checked under last.
    lease: Option<u64>,
    /// Whether the sender named the timestamp of its read.
    timed: bool,
    /// Whether it lets any replica serve it that has all of that past.
    nearest: bool,
    read: Option<Timestamp>,
    write: Option<Timestamp>,
}

/// Where a process serves requests.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) hub: Arc<Hub>,
    pub(crate) node: usize,
    pub(crate) store: StoreHandle<MemoryEngine>,
    pub(crate) mono_origin: u64,
    /// Longest stay at a yield point, when it is not quick.
    pub(crate) linger: u64,
}

impl Desk {
    /// Serves one batch and hands the response over.
    async fn serve(self, batch: BatchRequest, caller: Caller) {
        let timed = batch.header.as_ref().is_some_and(|header| header.read_timestamp.is_some());
        let nearest = batch.header.as_ref().is_some_and(|h| h.routing() == Routing::Nearest);
        let place = Place { lease: Mutex::new(None), desk: self };
        let mut evaluation = place.desk.store.evaluate(batch, place.mono());
        let response = contention::drive(&mut evaluation, &place).await;
        let Place { desk, lease } = place;
        if response.error.is_none() {
            desk.hub.want(Want::Served(Box::new(Served {
                node: desk.node,
                range: evaluation.range_id().unwrap_or_default(),
                lease: lease.into_inner(),
                timed,
                nearest,
                read: response.read_timestamp.map(Into::into),
                write: response.write_timestamp.map(Into::into),
            })));
        }
        let (from, to) = (desk.node, caller.node);
        let response = Box::new(response);
        desk.hub.want(Want::Answer { from, to, response, reply: caller.reply });
    }
}

/// Where one request is driven.
struct Place {
    desk: Desk,
    /// Lease that the request was checked under last.
    lease: Mutex<Option<u64>>,
}

impl Site for Place {
    fn mono(&self) -> Mono {
        Mono(self.desk.mono_origin + self.desk.hub.now())
    }

    fn propose(&self, proposal: Proposal) {
        let input = Box::new(Input::Propose(proposal));
        self.desk.hub.want(Want::Give { node: self.desk.node, input });
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(self.desk.hub.sleep(nanos(duration)))
    }

    /// Lets others run, most often for a moment.
    fn at(&self, point: YieldPoint, range: Option<RangeId>) -> Option<BoxFuture<'static, ()>> {
        if point == YieldPoint::AfterLeaseCheck {
            let view = self.desk.store.lease_of(range.unwrap_or_default(), self.mono());
            *self.lease.lock() = view.map(|view| view.sequence);
        }
        let linger = self.desk.linger;
        let pause = self.desk.hub.draw(|rng| {
            let long = rng.chance(5);
            rng.within(0..MS / 10) + if long { rng.within(0..linger) } else { 0 }
        });
        Some(Box::pin(self.desk.hub.sleep(pause)))
    }
}

impl World {
    /// A call reaches a node.
    pub(crate) fn call_arrives(&mut self, to: usize, batch: BatchRequest, caller: Caller) {
        let Some(desk) = self.node(to).desk.clone() else {
            self.break_call(caller, 5 * MS, "connection refused");
            return;
        };
        let answer_to = caller.clone();
        self.spawn(to, Some(answer_to), Box::pin(desk.serve(batch, caller)));
    }

    /// The connection of a call breaks; often enough its caller hears of it.
    pub(crate) fn break_call(&mut self, caller: Caller, within: u64, why: &str) {
        if self.rng.chance(70) {
            let delay = self.rng.within(0..within);
            let answer: Answer = Err(crdb_kv::TransportError::Lost(why.to_owned()));
            self.after(delay, Event::Answer { answer: Box::new(answer), caller });
        }
    }

    /// A response reaches the node that waits for it, if it still does.
    pub(crate) fn answer_arrives(&mut self, caller: &Caller, answer: Answer) {
        if let Some(slot) = caller.reply.upgrade() {
            slot.fill(answer);
        }
    }

    /// A served request is told to the oracle.
    pub(crate) fn served(&mut self, served: &Served) -> Result<(), String> {
        let Served { node, range, lease, timed, nearest, read, write } = *served;
        let Some(sequence) = lease else {
            if timed && nearest && write.is_none() {
                // A read of what is closed needs no lease; what it found the history tells.
                return Ok(());
            }
            return Err(format!("s{} served {range} without its lease", node + 1));
        };
        let (timestamp, present) = match (write, read) {
            (Some(write), _) => (write, true),
            (None, Some(read)) => (read, !timed),
            (None, None) => return Err("a response without a timestamp".into()),
        };
        self.oracle.served(range, sequence, node, timestamp, present)
    }

    /// No two stores hold the lease of one range at this moment.
    pub(crate) fn check_leases(&mut self) -> Result<(), String> {
        for range in self.ranges.iter().copied() {
            let mut holder: Option<usize> = None;
            for node in &self.nodes {
                let Some(handle) = &node.handle else { continue };
                let Some(lease) = handle.lease_of(range, node.mono(self.now)) else { continue };
                if self.plan.steady {
                    self.oracle.held(range, lease.sequence, lease.start, lease.bound)?;
                }
                if let Some(other) = holder {
                    let index = node.index;
                    return Err(format!(
                        "s{} and s{} both hold the lease of {range}",
                        other + 1,
                        index + 1
                    ));
                }
                holder = Some(node.index);
            }
        }
        Ok(())
    }
}
