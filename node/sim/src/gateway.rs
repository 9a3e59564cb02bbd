//! The gateway of a node: what its clients speak to, over the simulated network.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crdb_keys::hlc::Clock;
use crdb_keys::{NodeId, layout};
use crdb_kv::{
    DistSender, DistSenderConfig, Life, Limits, PlantedTxnBug, RangeCache, Sender as _, Sleep,
    Transport, TransportError, TxnClient, TxnClientConfig, update_meta,
};
use crdb_proto::kv::{BatchRequest, BatchResponse, RangeDescriptor};
use crdb_raftstore::StoreHandle;
use crdb_storage::MemoryEngine;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::{
    exec::{Hub, Want, nanos},
    node::{index_of_node, node_id},
    plan::MS,
};

/// The way from one node to all stores.
pub(crate) struct Port {
    pub(crate) hub: Arc<Hub>,
    pub(crate) node: usize,
    pub(crate) clock: Clock,
    /// The monotonic clock's reading at time zero.
    pub(crate) mono_origin: u64,
}

impl Transport for Port {
    fn local_node(&self) -> NodeId {
        node_id(self.node)
    }

    fn shared_tiers(&self, _node: NodeId) -> usize {
        0
    }

    fn send(
        &self,
        node: NodeId,
        mut batch: BatchRequest,
        _life: Life,
    ) -> BoxFuture<'_, Result<BatchResponse, TransportError>> {
        let to = index_of_node(node);
        Box::pin(async move {
            if to == self.node {
                return self.hub.call(self.node, to, batch).await;
            }
            if let Some(header) = &mut batch.header {
                header.now = Some(self.clock.now().into());
            }
            let response = self.hub.call(self.node, to, batch).await?;
            if let Some(now) = response.now {
                // A clock that is too far ahead is not followed, as by a node.
                self.clock.update(now.into()).ok();
            }
            Ok(response)
        })
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(self.hub.sleep(nanos(duration)))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.mono_origin + self.hub.now())
    }
}

/// The gateway of one process.
pub(crate) struct Gateway {
    pub(crate) sender: Arc<DistSender>,
    pub(crate) txns: TxnClient,
    pub(crate) clock: Clock,
    hub: Arc<Hub>,
    node: usize,
    /// Newest generation of each range whose meta entry is, or was, to be written.
    newest: Arc<Mutex<BTreeMap<u64, u64>>>,
}

impl Gateway {
    /// A gateway that knows what its store knows, and what the process before it heard.
    pub(crate) fn new(
        port: Port,
        store: &StoreHandle<MemoryEngine>,
        heard: Vec<RangeDescriptor>,
        (timeout, limits): (u64, Limits),
        (seed, bug): (u64, Option<PlantedTxnBug>),
    ) -> Self {
        let cache = Arc::new(RangeCache::default());
        for descriptor in heard {
            cache.insert(descriptor);
        }
        for (_, span) in layout::bootstrap_ranges() {
            if let Some(descriptor) = store.descriptor_of(&span.start) {
                cache.insert((*descriptor).clone());
            }
        }
        let config = DistSenderConfig {
            timeout: Duration::from_nanos(timeout),
            limits,
            planted: bug,
            ..DistSenderConfig::default()
        };
        let (hub, node, clock) = (Arc::clone(&port.hub), port.node, port.clock.clone());
        let sender = Arc::new(DistSender::new(Arc::new(port), cache, config));
        let config = TxnClientConfig {
            sender: Arc::<DistSender>::clone(&sender),
            clock: clock.clone(),
            node_id: node_id(node),
            seed: seed.into(),
            limits,
        };
        let txns = TxnClient::with_bug(config, bug);
        Self { sender, txns, clock, hub, node, newest: Arc::default() }
    }

    /// Has the process clean up after transactions and say that the others are alive.
    pub(crate) fn work(&self) {
        let (txns, hub) = (self.txns.clone(), Arc::clone(&self.hub));
        let sleep: Sleep = Arc::new(move |duration| Box::pin(hub.sleep(nanos(duration))));
        let work = Box::pin(async move { txns.work(sleep).await });
        self.hub.want(Want::Spawn { node: self.node, future: work });
    }

    pub(crate) fn cache(&self) -> &RangeCache {
        self.sender.cache()
    }

    /// Learns of a changed descriptor; whoever leads the range writes its meta entry, and tries
    /// until it is written or there is a newer one.
    pub(crate) fn descriptor_changed(&self, descriptor: RangeDescriptor, leader: bool) {
        self.cache().insert(descriptor.clone());
        if !leader {
            return;
        }
        let (range, generation) = (descriptor.range_id, descriptor.generation);
        self.newest.lock().insert(range, generation);
        let (sender, hub) = (Arc::clone(&self.sender), Arc::clone(&self.hub));
        let newest = Arc::clone(&self.newest);
        let update = async move {
            while newest.lock().get(&range) == Some(&generation) {
                if update_meta(&*sender, &descriptor).await.is_ok() {
                    return;
                }
                hub.sleep(100 * MS).await;
            }
        };
        self.hub.want(Want::Spawn { node: self.node, future: Box::pin(update) });
    }

    /// Sends a batch and hands its outcome to `then`.
    pub(crate) fn send(
        &self,
        batch: BatchRequest,
        then: impl FnOnce(Result<BatchResponse, crdb_kv::SendError>) + Send + 'static,
    ) -> BoxFuture<'static, ()> {
        let sender = Arc::clone(&self.sender);
        Box::pin(async move { then(sender.send(batch).await) })
    }
}
