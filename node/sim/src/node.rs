//! One store with its disk and its clocks.

use std::{sync::Arc, time::Duration};

use crdb_keys::{
    NodeId, StoreId,
    hlc::{Clock, ManualClock},
};
use crdb_kv::DistSender;
use crdb_proto::kv::RangeDescriptor;
use crdb_raftstore::{Input, Mono, Store, StoreConfig, StoreError, StoreHandle};
use crdb_storage::MemoryEngine;

use crate::{
    exec::Hub,
    gateway::{Gateway, Port},
    plan::{Bug, MS, Options, Plan},
    serve::Desk,
};

/// The offset between clocks that the stores tolerate.
pub(crate) const MAX_OFFSET: Duration = Duration::from_millis(500);

/// Wall time when a run starts.
pub(crate) const EPOCH: u64 = 1_700_000_000_000_000_000;

/// One store and its surroundings. Numbered from 0; its store id is one more.
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) engine: MemoryEngine,
    pub(crate) wall: Arc<ManualClock>,
    /// By how much the wall clock leads the true time.
    pub(crate) offset: u64,
    /// Reading of the monotonic clock at time zero; another one in each process.
    mono_origin: u64,
    pub(crate) store: Option<Store<MemoryEngine>>,
    pub(crate) handle: Option<StoreHandle<MemoryEngine>>,
    pub(crate) inputs: Vec<Input>,
    /// Process number: events of an earlier one are void.
    pub(crate) process: u64,
    /// Between the two halves of a step.
    pub(crate) busy: bool,
    /// When the next step is due.
    pub(crate) wake_at: u64,
    pub(crate) paused_until: u64,
    pub(crate) slow_disk_until: u64,
    pub(crate) down_since: u64,
    pub(crate) decommissioning: bool,
    /// Where ranges were, as the last process heard.
    heard: Vec<RangeDescriptor>,
    pub(crate) desk: Option<Desk>,
    pub(crate) gateway: Option<Gateway>,
}

impl Node {
    pub(crate) fn new(index: usize) -> Self {
        Self {
            index,
            engine: MemoryEngine::new(),
            wall: Arc::new(ManualClock::new(EPOCH)),
            offset: 0,
            mono_origin: 0,
            store: None,
            handle: None,
            inputs: Vec::new(),
            process: 0,
            busy: false,
            wake_at: u64::MAX,
            paused_until: 0,
            slow_disk_until: 0,
            down_since: 0,
            decommissioning: false,
            heard: Vec::new(),
            desk: None,
            gateway: None,
        }
    }

    pub(crate) fn store_id(&self) -> StoreId {
        store_id(self.index)
    }

    pub(crate) fn node_id(&self) -> NodeId {
        node_id(self.index)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.store.is_some()
    }

    /// Sets the wall clock for what happens at `now`, and reads the monotonic one.
    pub(crate) fn tell_time(&self, now: u64) -> Mono {
        self.wall.set(EPOCH + now + self.offset);
        self.mono(now)
    }

    /// The reading of the monotonic clock.
    pub(crate) fn mono(&self, now: u64) -> Mono {
        Mono(self.mono_origin + now)
    }

    /// A new clock over the node's wall clock, as a new process has.
    pub(crate) fn clock(&self) -> Clock {
        Clock::new(Arc::clone(&self.wall) as _, MAX_OFFSET)
    }

    /// Starts a process on the disk as it is.
    pub(crate) fn start(
        &mut self,
        now: u64,
        bits: u64,
        hub: &Arc<Hub>,
        options: Options,
        plan: &Plan,
    ) -> Result<(), StoreError> {
        self.process += 1;
        self.mono_origin = 1_000 * MS + bits % (1 << 40);
        let mono = self.tell_time(now);
        let mut config = StoreConfig::new(self.node_id(), self.store_id(), bits | 1);
        config.planted = options.bug.and_then(Bug::of_store);
        config.limits = plan.limits;
        config.storage = plan.storage;
        // A gateway gives up later than the store does.
        config.limits.lease_wait = Duration::from_millis(700);
        let clock = self.clock();
        let store = Store::open(self.engine.clone(), clock.clone(), config, mono)?;
        let handle = store.handle();
        let (hub, mono_origin) = (Arc::clone(hub), self.mono_origin);
        let bug = options.bug.and_then(Bug::of_gateway);
        let port = Port { hub: Arc::clone(&hub), node: self.index, clock, mono_origin };
        let heard = std::mem::take(&mut self.heard);
        let gateway = Gateway::new(port, &handle, heard, (plan.call_timeout, plan.kv), (bits, bug));
        gateway.work();
        self.desk = Some(Desk {
            hub,
            node: self.index,
            store: handle.clone(),
            sender: Arc::<DistSender>::clone(&gateway.sender),
            mono_origin,
            linger: plan.linger,
            bug,
        });
        self.gateway = Some(gateway);
        self.handle = Some(handle);
        self.store = Some(store);
        self.busy = false;
        Ok(())
    }

    /// Ends the process; the disk keeps what was synced and `keep` batches more.
    pub(crate) fn crash(&mut self, now: u64, keep: usize) {
        self.inputs.clear();
        if let Some(gateway) = self.gateway.take() {
            self.heard = gateway.cache().descriptors();
        }
        self.desk = None;
        self.handle = None;
        self.store = None;
        self.wake_at = u64::MAX;
        self.down_since = now;
        self.engine.crash(keep);
    }
}

/// The store id of node `index`.
pub(crate) fn store_id(index: usize) -> StoreId {
    StoreId(u32::try_from(index + 1).expect("a handful of nodes"))
}

/// The node id of node `index`, which is the number of its store.
pub(crate) fn node_id(index: usize) -> NodeId {
    NodeId(store_id(index).get())
}

/// The index of a node.
pub(crate) fn index_of_node(node: NodeId) -> usize {
    index_of(StoreId(node.get()))
}

/// The node of a store.
pub(crate) fn index_of(store: StoreId) -> usize {
    (store.get() as usize).saturating_sub(1)
}
