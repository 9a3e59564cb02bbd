//! Starts what a member runs: store, transport, SQL, and the loops that keep them going.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crdb_keys::{Key, NodeId, StoreId, layout};
use crdb_kv::{DistSender, DistSenderConfig, Sender, Transport, TxnClient, TxnClientConfig};
use crdb_proto::kv::RangeDescriptor;
use crdb_proto::peer::SnapshotFrame;
use crdb_raftstore::{DescriptorChange, Input, Mono, Outputs, SnapshotSend, Store, StoreConfig};
use crdb_sql::{SqlNode, SqlNodeConfig, Timer};
use crdb_storage::{RocksEngine, RocksOptions};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{Notify, Semaphore, mpsc};
use tracing::{debug, error, info, warn};

use super::kv_client::OwnBatch;
use super::sessions::PeerSessions;
use super::shared::{Running, Shared};
use super::store_thread::{Inbox, StoreThread};
use super::transport::{NodeSite, NodeTransport};
use super::{NodeError, formation_driver, gc_loop, gossip, liveness_loop, node_ids};
use crate::clock::mono;
use crate::peer::{Identity, PeerHandler, PeerLinks};
use crate::store_file::Member;

/// The node's timer, for the SQL layer.
struct TokioTimer;

impl Timer for TokioTimer {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Opens the store of a member and starts everything on it. Returns once SQL can be served.
pub(crate) async fn start(shared: &Arc<Shared>, member: Member) -> Result<StoreThread, NodeError> {
    let node_id = NodeId(member.node_id);
    let identity = Identity {
        cluster_id: member.cluster_id.clone(),
        node_id,
        store_uuid: shared.store_uuid.clone(),
        incarnation: shared.incarnation,
    };
    // Set once: a node becomes a member once in its life.
    drop(shared.identity.set(identity.clone()));
    shared.view.learn_node(shared.descriptor());
    let store = open_store(shared, &member).await?;
    let handle = store.handle();
    for (_, span) in layout::bootstrap_ranges() {
        if let Some(descriptor) = handle.descriptor_of(&span.start) {
            shared.cache.insert((*descriptor).clone());
        }
    }
    let inbox = Arc::new(Inbox::new(shared.limits()));
    let site = Arc::new(NodeSite::new(Arc::clone(&inbox), shared.limits()));
    let peers = PeerSessions::new(identity.clone(), Arc::clone(&shared.view), *shared.limits());
    let links = links(shared, identity);
    let transport: Arc<dyn Transport> = Arc::new(NodeTransport {
        node: node_id,
        store: handle.clone(),
        site: Arc::clone(&site),
        links: Arc::clone(&links),
        clock: shared.clock.clone(),
        view: Arc::clone(&shared.view),
        sign_of_life: shared.limits().sign_of_life,
    });
    let cache = Arc::clone(&shared.cache);
    let limits = shared.config.limits.kv;
    let config = DistSenderConfig {
        max_offset: shared.clock.max_offset(),
        limits,
        #[cfg(feature = "planted-bugs")]
        planted: super::planted::from_env()?.1,
        ..DistSenderConfig::default()
    };
    let sender = Arc::new(DistSender::new(transport, cache, config));
    site.connect(&sender);
    let config = TxnClientConfig {
        sender: Arc::<DistSender>::clone(&sender),
        clock: shared.clock.clone(),
        node_id,
        seed: rand::random(),
        limits,
    };
    #[cfg(not(feature = "planted-bugs"))]
    let txns = TxnClient::new(config);
    #[cfg(feature = "planted-bugs")]
    let txns = TxnClient::with_bug(config, super::planted::from_env()?.1);
    let serve = serve_transactions(Arc::clone(shared), txns.clone());
    shared.spawn_prompt("the work of the transactions", serve);
    let sql = SqlNode::new(SqlNodeConfig {
        node_id,
        cluster_id: member.cluster_id.clone(),
        txns: txns.clone(),
        timer: Arc::new(TokioTimer),
        seed: shared.incarnation,
        build_tag: shared.config.build_tag.clone(),
        limits: shared.config.limits.sql,
        settings: Arc::clone(&shared.settings),
    });
    sql.connect_peers(Arc::new(peers));
    let pg =
        super::pg::server(Arc::clone(&sql), node_id, rand::random(), shared.config.limits.pgwire);
    let thread = start_thread(shared, store, &inbox, &links)?;
    let running = Running { store: handle, inbox, site, sender, txns, sql, pg };
    if shared.running.set(running).is_err() {
        return Err(NodeError::StartedTwice);
    }
    start_loops(shared);
    Ok(thread)
}

/// The node's links to its peers.
fn links(shared: &Arc<Shared>, own: Identity) -> Arc<PeerLinks> {
    let handler: Arc<dyn PeerHandler> = Arc::<Shared>::clone(shared);
    Arc::new(PeerLinks::new(
        own,
        *shared.limits(),
        Arc::<crate::cluster_view::ClusterView>::clone(&shared.view),
        handler,
        shared.io.clone(),
        shared.tasks.clone(),
        shared.stop.clone(),
    ))
}

/// Opens the engine. A store that its node was about to bootstrap gets its first ranges, unless an
/// earlier process came that far.
async fn open_store(
    shared: &Arc<Shared>,
    member: &Member,
) -> Result<Store<RocksEngine>, NodeError> {
    let path = shared.dir.db();
    let cache_bytes = usize::try_from(shared.config.cache_bytes).unwrap_or(usize::MAX);
    let options = RocksOptions { cache_bytes, ..RocksOptions::default() };
    let (node, store) = (NodeId(member.node_id), StoreId(member.node_id));
    let all = &shared.config.limits;
    let config = StoreConfig {
        limits: all.raftstore,
        concurrency: all.concurrency,
        storage: all.storage,
        ..StoreConfig::new(node, store, shared.incarnation)
    };
    #[cfg(feature = "planted-bugs")]
    let config = StoreConfig { planted: super::planted::from_env()?.0, ..config };
    let clock = shared.clock.clone();
    let first = member.bootstrap.as_ref().map(|_| first_data(member, &shared.store_uuid));
    let open = move || -> Result<Store<RocksEngine>, NodeError> {
        let engine = RocksEngine::open(&path, &options).map_err(NodeError::Engine)?;
        let reopen = || Store::open(engine.clone(), clock.clone(), config.clone(), mono());
        let opened = reopen().map_err(NodeError::Store)?;
        match first {
            Some(first) if opened.handle().counts().replicas == 0 => {
                drop(opened);
                Store::bootstrap(&engine, &clock, node, store, &first).map_err(NodeError::Store)?;
                reopen().map_err(NodeError::Store)
            }
            _ => Ok(opened),
        }
    };
    let opened = match tokio::task::spawn_blocking(open).await {
        Ok(store) => store?,
        Err(error) => return Err(NodeError::Panicked(error.to_string())),
    };
    if member.bootstrap.is_some() {
        let done = Member { bootstrap: None, ..member.clone() };
        formation_driver::save(shared, &done, || true)?;
    }
    Ok(opened)
}

fn start_thread(
    shared: &Arc<Shared>,
    mut store: Store<RocksEngine>,
    inbox: &Arc<Inbox>,
    links: &Arc<PeerLinks>,
) -> Result<StoreThread, NodeError> {
    let meta = Arc::<MetaQueue>::default();
    shared.spawn_vital("the meta entries", keep_meta(Arc::clone(shared), Arc::clone(&meta)));
    let delivery = Delivery {
        shared: Arc::clone(shared),
        links: Arc::clone(links),
        inbox: Arc::clone(inbox),
        meta,
        snapshots: Arc::new(Semaphore::new(shared.limits().snapshots_sent)),
        snapshots_waiting: Arc::new(Semaphore::new(shared.limits().snapshots_waiting)),
    };
    let runtime = shared.main.clone();
    let alarm = shared.alarm("the store");
    let body = move |inbox: &Inbox| {
        let _alarm = alarm;
        // What is delivered may spawn tasks.
        let _runtime = runtime.enter();
        let mut deadline = Mono(0);
        while !inbox.is_stopped() {
            let mut inputs = inbox.take(deadline, mono());
            let stepped = store.begin(mono(), &mut inputs).and_then(|early| {
                delivery.deliver(early);
                store.finish(mono())
            });
            match stepped {
                Ok(late) => {
                    deadline = late.next_deadline;
                    delivery.deliver(late);
                }
                Err(error) => {
                    delivery.shared.fail(NodeError::Store(error));
                    break;
                }
            }
        }
        store.stop();
        debug!("the store thread ended");
    };
    StoreThread::spawn(Arc::clone(inbox), body).map_err(NodeError::Thread)
}

/// Takes the store's outputs where they belong, from the store's thread.
struct Delivery {
    shared: Arc<Shared>,
    links: Arc<PeerLinks>,
    inbox: Arc<Inbox>,
    meta: Arc<MetaQueue>,
    /// One for each snapshot that is being sent, and for each that waits for that.
    snapshots: Arc<Semaphore>,
    snapshots_waiting: Arc<Semaphore>,
}

impl Delivery {
    fn deliver(&self, outputs: Outputs<RocksEngine>) {
        for (store, batch) in outputs.messages {
            self.links.send_raft(NodeId(store.get()), batch);
        }
        for snapshot in outputs.snapshots {
            self.send_snapshot(snapshot);
        }
        for DescriptorChange { descriptor, leader } in outputs.descriptors {
            debug!(
                range = descriptor.range_id,
                generation = descriptor.generation,
                "new descriptor"
            );
            self.shared.cache.insert(descriptor.clone());
            if leader {
                self.meta.push(descriptor);
            }
        }
    }

    fn send_snapshot(&self, mut snapshot: SnapshotSend<RocksEngine>) {
        let (links, inbox) = (Arc::clone(&self.links), Arc::clone(&self.inbox));
        let room = Arc::clone(&self.snapshots);
        let (range_id, to_replica) = (snapshot.range_id, snapshot.to_replica);
        // Each that waits keeps the engine from forgetting what it has frozen.
        let Ok(place) = Arc::clone(&self.snapshots_waiting).try_acquire_owned() else {
            debug!(range = %range_id, "too many snapshots wait");
            inbox.push(Input::SnapshotReport { range_id, to_replica, accepted: false });
            return;
        };
        let ahead = self.shared.limits().snapshot_frames;
        let tasks = self.shared.tasks.clone();
        self.shared.tasks.spawn(async move {
            let to = NodeId(snapshot.to.get());
            let permit = room.acquire_owned().await;
            drop(place);
            let (frames, queue) = mpsc::channel(ahead);
            let header = Some(std::mem::take(&mut snapshot.header));
            // Reading is disk work: not on the threads that serve requests.
            tasks.spawn_blocking(move || {
                let opening = SnapshotFrame { header, ..SnapshotFrame::default() };
                if frames.blocking_send(opening).is_err() {
                    return;
                }
                loop {
                    let frame = match snapshot.stream.next_chunk() {
                        Ok(Some(entries)) => SnapshotFrame { entries, ..SnapshotFrame::default() },
                        Ok(None) => SnapshotFrame { done: true, ..SnapshotFrame::default() },
                        Err(error) => {
                            error!(%error, "a snapshot cannot be read");
                            return;
                        }
                    };
                    let done = frame.done;
                    if frames.blocking_send(frame).is_err() || done {
                        return;
                    }
                }
            });
            let sent = links.send_snapshot(to, queue).await;
            drop(permit);
            match &sent {
                Ok(()) => info!(range = %range_id, %to, "snapshot delivered"),
                Err(reason) => warn!(range = %range_id, %to, reason, "snapshot not delivered"),
            }
            inbox.push(Input::SnapshotReport { range_id, to_replica, accepted: sent.is_ok() });
        });
    }
}

fn start_loops(shared: &Arc<Shared>) {
    let own = || Arc::clone(shared);
    shared.spawn_prompt("gossip", gossip::run(own()));
    shared.spawn_vital("the announcement", gossip::announce(own()));
    shared.spawn_prompt("the heartbeat", liveness_loop::run(own()));
    shared.spawn_prompt("the view of the stores", liveness_loop::feed_stores(own()));
    shared.spawn_vital("the watch over the catalog", liveness_loop::watch_catalog(own()));
    shared.spawn_vital("the upkeep of the catalog", liveness_loop::keep_catalog(own()));
    shared.spawn_vital("the collection of garbage", gc_loop::run(own()));
    shared.spawn_vital("the descriptor", publish_descriptor(own()));
}

/// Cleans up after the node's transactions and says that they are alive, until the node stops.
async fn serve_transactions(shared: Arc<Shared>, txns: TxnClient) {
    let work = txns.work(Arc::new(|duration| Box::pin(tokio::time::sleep(duration))));
    tokio::pin!(work);
    tokio::select! {
        () = &mut work => {}
        () = shared.stop.cancelled() => {
            // What waits cannot be done without the store: others will find out.
            txns.close();
        }
    }
}

/// The keys and values a new cluster starts with, beside the meta entries.
fn first_data(member: &Member, store_uuid: &str) -> Vec<(Key, Bytes)> {
    let highest = layout::bootstrap_ranges().iter().map(|(id, _)| id.get()).max().unwrap_or(0);
    let mut data = crdb_sql::catalog::bootstrap();
    data.push((layout::range_id_counter(), highest.to_string().into()));
    data.extend(node_ids::first_data(member, store_uuid));
    data
}

/// Descriptors whose meta entries are to be written: of each range the newest, so that there are
/// never more than ranges.
#[derive(Default)]
struct MetaQueue {
    waiting: Mutex<BTreeMap<u64, RangeDescriptor>>,
    arrived: Notify,
}

impl MetaQueue {
    fn push(&self, descriptor: RangeDescriptor) {
        let mut waiting = self.waiting.lock();
        let known = waiting.get(&descriptor.range_id).map_or(0, |known| known.generation);
        if descriptor.generation >= known {
            waiting.insert(descriptor.range_id, descriptor);
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// All that wait, once there is one.
    async fn take(&self) -> BTreeMap<u64, RangeDescriptor> {
        loop {
            let waiting = std::mem::take(&mut *self.waiting.lock());
            if !waiting.is_empty() {
                return waiting;
            }
            self.arrived.notified().await;
        }
    }
}

/// Keeps the meta entries of the ranges led from here up to date. What cannot be written yet is
/// tried again, for each range the newest only.
async fn keep_meta(shared: Arc<Shared>, queue: Arc<MetaQueue>) {
    loop {
        let waiting = tokio::select! {
            () = shared.stop.cancelled() => return,
            waiting = queue.take() => waiting,
        };
        let Some(running) = shared.running.get() else { return };
        let mut failed = false;
        for descriptor in waiting.into_values() {
            let written = tokio::select! {
                () = shared.stop.cancelled() => return,
                written = crdb_kv::update_meta(running.sender.as_ref(), &descriptor) => written,
            };
            if let Err(error) = written {
                debug!(%error, range = descriptor.range_id, "meta entry not written yet");
                failed = true;
                queue.push(descriptor);
            }
        }
        if failed {
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = tokio::time::sleep(shared.limits().own_write_retry) => {}
            }
        }
    }
}

/// Writes this node's descriptor into the system range, where it outlives gossip.
async fn publish_descriptor(shared: Arc<Shared>) {
    let Some(running) = shared.running.get() else { return };
    let key = layout::node_descriptor_key(shared.node_id());
    let sender = running.sender.as_ref() as &dyn Sender;
    let mut read = false;
    let mut written = false;
    while !(read && written) {
        let put = OwnBatch::default().put(key.clone(), shared.descriptor().encode_to_vec());
        written = written || put.send(sender).await.is_ok();
        match OwnBatch::default().scan(layout::node_descriptor_span()).send(sender).await {
            Ok(mut found) => {
                read = true;
                for row in found.rows(0) {
                    if let Ok(node) = crdb_proto::kv::NodeDescriptor::decode(row.value) {
                        shared.view.learn_node(node);
                    }
                }
            }
            Err(error) => debug!(%error, "node descriptors not read yet"),
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(shared.limits().own_write_retry) => {}
        }
    }
}
