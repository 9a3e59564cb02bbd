//! Exchanges descriptors, range hints and load with every known node, once a second.
//!
//! What was learned of nodes is kept in the file `PEERS`, so that a restarted node finds the
//! others although its `--join` list has grown old.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crdb_keys::NodeId;
use crdb_proto::peer::peer_client::PeerClient;
use crdb_proto::peer::{GossipMessage, JoinRequest};
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;
use tracing::{debug, warn};

use super::NodeError;
use super::clock_guard::ClockGuard;
use super::formation_driver::learn;
use super::shared::Shared;
use crate::address::Address;
use crate::clock::elapsed;
use crate::peer::{PeerBook as _, dial_any, hello::hello, one_shot};
use crate::status_detail::{CALLER_IS_ADDRESSEE, OTHER_CLUSTER, detail};

/// Pause between two announcements through the same `--join` entry.
const ANNOUNCE_RETRY: Duration = Duration::from_millis(500);
/// Name of the file with the nodes learned.
const PEERS: &str = "PEERS";

struct Answer {
    peer: NodeId,
    client: PeerClient<Channel>,
    /// What it said, and what the own wall clock read before and after.
    said: Result<(GossipMessage, u64, u64), Status>,
}

/// Gossips until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut clients: HashMap<NodeId, PeerClient<Channel>> = HashMap::new();
    let mut calls: JoinSet<Result<Answer, NodeId>> = JoinSet::new();
    let mut busy: Vec<NodeId> = Vec::new();
    let mut clocks = ClockGuard::new(shared.clock.max_offset());
    let mut ticks = tokio::time::interval(shared.limits().gossip_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {
                for peer in shared.view.peers(shared.node_id()) {
                    if busy.contains(&peer) {
                        continue;
                    }
                    busy.push(peer);
                    let (shared, client) = (Arc::clone(&shared), clients.remove(&peer));
                    calls.spawn(async move { exchange(&shared, peer, client).await });
                }
            }
            Some(done) = calls.join_next() => match done {
                Ok(Ok(Answer { peer, client, said })) => {
                    busy.retain(|node| *node != peer);
                    match said {
                        Ok((message, sent, received)) => {
                            clients.insert(peer, client);
                            shared.view.heard(peer, elapsed());
                            if let Some(remote) = wall_clock_of(peer, &message) {
                                clocks.measured(peer, elapsed(), sent, remote, received);
                            }
                            let checked = clocks.check(elapsed());
                            *shared.clock_offsets.lock() = clocks.offsets();
                            if let Err(astray) = checked {
                                shared.fail(NodeError::Clock(astray));
                                return;
                            }
                            take_in(&shared, message);
                        }
                        Err(status) => debug!(%peer, reason = status.message(), "gossip failed"),
                    }
                }
                Ok(Err(peer)) => busy.retain(|node| *node != peer),
                Err(error) => warn!(%error, "a gossip exchange ended early"),
            }
        }
    }
}

async fn exchange(
    shared: &Shared,
    peer: NodeId,
    client: Option<PeerClient<Channel>>,
) -> Result<Answer, NodeId> {
    let address = shared.view.peer_address(peer).ok_or(peer)?;
    let own = shared.identity.get().ok_or(peer)?;
    let mut client = match client {
        Some(client) => client,
        None => dial_any(&address.address, shared.limits()).await.map_err(|_| peer)?,
    };
    let greeting = hello(own, peer, &address.store_uuid);
    let message = GossipMessage { hello: Some(greeting), ..outgoing(shared) };
    let patience = shared.limits().gossip_timeout;
    let sent = shared.clock.wall_nanos();
    let said = match tokio::time::timeout(patience, client.gossip(message)).await {
        Ok(answer) => answer.map(|message| (message.into_inner(), sent, shared.clock.wall_nanos())),
        Err(_) => Err(Status::deadline_exceeded("no answer")),
    };
    Ok(Answer { peer, client, said })
}

/// What the wall clock of `peer` read when it answered: the time of its report on its own store.
/// The time of the message itself is that of the hybrid clock, which others push forward.
fn wall_clock_of(peer: NodeId, message: &GossipMessage) -> Option<u64> {
    let own = message.stores.iter().find(|store| store.node_id == peer.get())?;
    (own.reported_at_nanos > 0).then_some(own.reported_at_nanos)
}

/// What this node has to say.
pub(crate) fn outgoing(shared: &Shared) -> GossipMessage {
    let own = shared.descriptor();
    let mut nodes = shared.view.descriptors();
    nodes.retain(|node| node.node_id != own.node_id);
    nodes.push(own);
    let ranges = match shared.running.get() {
        Some(running) => running.store.ranges().into_iter().map(|range| range.descriptor).collect(),
        None => Vec::new(),
    };
    GossipMessage {
        hello: None,
        nodes,
        ranges,
        now: Some(shared.clock.now().into()),
        stores: shared.own_stats().into_iter().collect(),
    }
}

/// Learns from what another node said.
pub(crate) fn take_in(shared: &Shared, message: GossipMessage) {
    if let Some(now) = message.now
        && let Err(error) = shared.clock.update(now.into())
    {
        warn!(%error, "gossip from a node whose clock is too far ahead");
    }
    let mut news = false;
    for node in message.nodes {
        news |= shared.view.learn_node(node);
    }
    if news {
        keep(shared);
    }
    for range in message.ranges {
        shared.cache.insert(range);
    }
    for stats in message.stores {
        shared.view.learn_stats(stats);
    }
}

/// Announces a member to the nodes of its `--join` list, until each answered once. A node of
/// another cluster among them ends this one; so that it does before it serves, the end of the first
/// round is told to [`Shared::join_checked`].
pub(crate) async fn announce(shared: Arc<Shared>) {
    let list = shared.config.mode.join_list();
    let own_address = shared.advertised.rpc.normalized();
    let others = list.entries().iter().filter(|entry| **entry != own_address);
    let mut left: Vec<Address> = others.cloned().collect();
    loop {
        let round = tokio::select! {
            () = shared.stop.cancelled() => return,
            round = announce_round(&shared, left) => round,
        };
        left = match round {
            Ok(left) => left,
            Err(error) => {
                shared.fail(error);
                return;
            }
        };
        shared.join_checked.notify_one();
        if left.is_empty() {
            return;
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(ANNOUNCE_RETRY) => {}
        }
    }
}

/// Asks all of `entries` at once; returns those that have to be asked again.
async fn announce_round(
    shared: &Arc<Shared>,
    entries: Vec<Address>,
) -> Result<Vec<Address>, NodeError> {
    let Some(own) = shared.identity.get() else { return Ok(entries) };
    let mut calls = JoinSet::new();
    for entry in entries {
        let request = JoinRequest {
            descriptor: Some(shared.descriptor()),
            cluster_id: own.cluster_id.clone(),
        };
        let limits = *shared.limits();
        calls.spawn(async move {
            let address = entry.to_string();
            let call =
                one_shot(&address, &limits, |mut client| async move { client.join(request).await });
            let answer = call.await;
            (entry, answer)
        });
    }
    let mut again = Vec::new();
    while let Some(answered) = calls.join_next().await {
        let Ok((entry, answer)) = answered else { continue };
        let status = match answer {
            Ok(response) => {
                learn(shared, response);
                continue;
            }
            Err(status) => status,
        };
        let detail = detail(&status).unwrap_or_default();
        match detail.reason.as_str() {
            OTHER_CLUSTER => {
                return Err(NodeError::OtherCluster {
                    store: shared.dir.path().to_owned(),
                    own: own.cluster_id.clone(),
                    peer: entry.to_string(),
                    theirs: detail.cluster_id,
                });
            }
            // Another spelling of the own address.
            CALLER_IS_ADDRESSEE => {}
            _ => {
                debug!(%entry, reason = status.message(), "not announced there yet");
                again.push(entry);
            }
        }
    }
    Ok(again)
}

/// Writes the nodes known to the file. It is a hint: what cannot be written is not missed.
pub(crate) fn keep(shared: &Shared) {
    let message = GossipMessage { nodes: shared.view.descriptors(), ..GossipMessage::default() };
    let (path, next) = (shared.dir.path().join(PEERS), shared.dir.path().join("PEERS.next"));
    let written =
        std::fs::write(&next, message.encode_to_vec()).and_then(|()| std::fs::rename(&next, &path));
    if let Err(error) = written {
        warn!(%error, "the list of known nodes could not be kept");
    }
}

/// Reads the nodes known from the file, if there is one.
pub(crate) fn recall(shared: &Shared) {
    let Ok(bytes) = std::fs::read(shared.dir.path().join(PEERS)) else { return };
    match GossipMessage::decode(bytes.as_slice()) {
        Ok(message) => {
            for node in message.nodes {
                shared.view.learn_node(node);
            }
        }
        Err(error) => warn!(%error, "the list of known nodes is damaged and not used"),
    }
}
