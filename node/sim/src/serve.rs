//! Requests at a store: driven from one yield point to the next, and watched when they are served.

use std::{sync::Arc, time::Duration};

use crdb_keys::{RangeId, Timestamp};
use crdb_kv::{
    PlantedTxnBug, Sender,
    contention::{self, Site, Waiter},
};
use crdb_proto::kv::{self, BatchRequest, Routing, request};
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
    /// The timestamp it was served at, and whether it lies above the start of the lease: that of
    /// every write, and of reads whose sender named none.
    timestamp: Timestamp,
    present: bool,
    /// Whether any replica may have served it that has all of the past it asked for.
    nearest: bool,
}

/// Where a process serves requests.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) hub: Arc<Hub>,
    pub(crate) node: usize,
    pub(crate) store: StoreHandle<MemoryEngine>,
    /// The way to the records of transactions.
    pub(crate) sender: Arc<dyn Sender>,
    pub(crate) mono_origin: u64,
    /// Longest stay at a yield point, when it is not quick.
    pub(crate) linger: u64,
    pub(crate) bug: Option<PlantedTxnBug>,
}

impl Desk {
    /// Serves one batch and hands the response over.
    async fn serve(self, batch: BatchRequest, caller: Caller) {
        let kind = ServedAs::of(&batch);
        let nearest = batch.header.as_ref().is_some_and(|h| h.routing() == Routing::Nearest);
        let asked = if self.hub.traces { show(&batch) } else { String::new() };
        let (me, from) = (self.node + 1, caller.node + 1);
        self.hub.trace(|| format!("s{me} for s{from} begins {asked}"));
        let place = Place { lease: Mutex::new(None), desk: self };
        let waiter = Waiter::of(&batch);
        let mut evaluation = place.desk.store.evaluate(batch, place.mono());
        let response = contention::drive(&mut evaluation, &waiter, &place).await;
        let Place { desk, lease } = place;
        desk.hub.trace(|| format!("s{me} for s{from} ends {asked} ─▶ {}", show_answer(&response)));
        let at = |at: Option<kv::Timestamp>| at.map(Timestamp::from).unwrap_or_default();
        let served = match kind {
            _ if response.error.is_some() => None,
            ServedAs::Write { present } => Some((at(response.write_timestamp), present)),
            ServedAs::Read { timed } => Some((at(response.read_timestamp), !timed)),
            ServedAs::Other => None,
        };
        // A write without effect says nothing.
        let served = served.filter(|(timestamp, _)| !timestamp.is_zero());
        if let Some((timestamp, present)) = served {
            desk.hub.want(Want::Served(Box::new(Served {
                node: desk.node,
                range: evaluation.range_id().unwrap_or_default(),
                lease: lease.into_inner(),
                timestamp,
                present,
                nearest,
            })));
        }
        let (from, to) = (desk.node, caller.node);
        let response = Box::new(response);
        desk.hub.want(Want::Answer { from, to, response, reply: caller.reply });
    }
}

fn show(batch: &BatchRequest) -> String {
    let header = batch.header.clone().unwrap_or_default();
    let at = |at: Option<kv::Timestamp>| at.map_or("-".to_owned(), |at| show_at(at.into()));
    let txn = header.txn.as_ref().map_or_else(String::new, |txn| {
        let (id, write) = (show_id(&txn.id), at(txn.write_timestamp));
        format!("txn {id} at {write}, ")
    });
    let mut flags = String::new();
    for (flag, name) in [
        (header.one_phase, "one phase, "),
        (header.exact_timestamp, "exact, "),
        (header.can_forward_read_timestamp, "can forward, "),
    ] {
        flags.push_str(if flag { name } else { "" });
    }
    let read = at(header.read_timestamp);
    let requests: Vec<String> = batch
        .requests
        .iter()
        .filter_map(|request| request.kind.as_ref())
        .map(|kind| format!("{kind:?}"))
        .collect();
    let range = header.range_id;
    format!("r{range} {txn}{flags}read {read}: {}", requests.join(", "))
}

fn show_answer(response: &kv::BatchResponse) -> String {
    let at = |at: Option<kv::Timestamp>| at.map_or("-".to_owned(), |at| show_at(at.into()));
    if let Some(error) = &response.error {
        return format!("{}: {:?}", error.message, error.kind);
    }
    let kinds: Vec<String> = response
        .responses
        .iter()
        .filter_map(|response| response.kind.as_ref())
        .map(|kind| format!("{kind:?}"))
        .collect();
    let (read, write) = (at(response.read_timestamp), at(response.write_timestamp));
    format!("read {read}, write {write}: {}", kinds.join(", "))
}

/// The last digits of an id, which tell the transactions of a process apart.
fn show_id(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A timestamp as milliseconds since the start of the run.
fn show_at(at: Timestamp) -> String {
    let nanos = at.wall_nanos.saturating_sub(crate::node::EPOCH);
    format!("{}.{:06},{}", nanos / MS, nanos % MS, at.logical)
}

/// What a batch is to the lease it is served under.
#[derive(Clone, Copy, Debug)]
enum ServedAs {
    Write {
        /// It lies above the start of the lease. An intent may have been there before, and after a
        /// handover the timestamp of a transaction may be lower.
        present: bool,
    },
    Read {
        /// The sender named the timestamp.
        timed: bool,
    },
    /// It is about records, locks or the range as a whole.
    Other,
}

impl ServedAs {
    fn of(batch: &BatchRequest) -> Self {
        use request::Kind;
        let any = |wanted: fn(&Kind) -> bool| {
            batch.requests.iter().filter_map(|request| request.kind.as_ref()).any(wanted)
        };
        let writes = any(|kind| {
            matches!(
                kind,
                Kind::Put(_)
                    | Kind::ConditionalPut(_)
                    | Kind::Delete(_)
                    | Kind::DeleteRange(_)
                    | Kind::Increment(_)
            )
        });
        let reads = any(|kind| matches!(kind, Kind::Get(_) | Kind::Scan(_) | Kind::Validate(_)));
        let header = batch.header.as_ref();
        let timed = header.is_some_and(|header| header.read_timestamp.is_some());
        let present = header.is_none_or(|header| {
            header.txn.is_none() || header.one_phase && !header.exact_timestamp
        });
        match (writes, reads) {
            (true, _) => Self::Write { present },
            (false, true) => Self::Read { timed },
            (false, false) => Self::Other,
        }
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

    fn sender(&self) -> Option<Arc<dyn Sender>> {
        Some(Arc::clone(&self.desk.sender))
    }

    fn staging_is_aborted(&self) -> bool {
        self.desk.bug == Some(PlantedTxnBug::StagingIsAborted)
    }

    /// Lets others run, most often for a moment.
    fn at(&self, point: YieldPoint, range: Option<RangeId>) -> Option<BoxFuture<'static, ()>> {
        if point == YieldPoint::AfterLeaseCheck {
            let view = self.desk.store.lease_of(range.unwrap_or_default(), self.mono());
            *self.lease.lock() = view.map(|view| view.sequence);
        }
        // A queue behind who lingers may never empty: not when all is to come to an end.
        let linger = if self.desk.hub.is_calm() { 0 } else { self.desk.linger };
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
        let Served { node, range, lease, timestamp, present, nearest } = *served;
        let Some(sequence) = lease else {
            if nearest && !present {
                // A read of what is closed needs no lease; what it found the history tells.
                self.stats.follower_reads += 1;
                return Ok(());
            }
            return Err(format!("s{} served {range} without its lease", node + 1));
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
