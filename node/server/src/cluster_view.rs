//! What this node knows about all nodes, from gossip and from the liveness range.
//!
//! Answers `ClusterStatus` and placement without asking anybody, so both work without a quorum.
//!
//! Invariants:
//! * a node's descriptor is replaced only by one of a later revision and of the same store: numbers
//!   are never given to another store;
//! * a liveness record is replaced only by one of a later epoch or expiration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crdb_allocator::{StoreInfo, StoreStatus};
use crdb_keys::{NodeId, StoreId, Timestamp};
use crdb_liveness::{Health, LivenessRecord, Membership, health};
use crdb_proto::admin::{self, ClusterStatusResponse, NodeStatus, RangeCounts};
use crdb_proto::kv::NodeDescriptor;
use crdb_proto::peer::StoreStats;
use crdb_settings::{Settings, TIME_UNTIL_STORE_DEAD};
use parking_lot::RwLock;
use tracing::warn;

use crate::peer::{PeerAddress, PeerBook};

/// A node heard of this lately counts as alive although its record could not be read again.
const HEARD_LATELY: Duration = Duration::from_secs(3);

/// Everything known about the nodes of the cluster.
#[derive(Debug, Default)]
pub struct ClusterView {
    nodes: RwLock<BTreeMap<NodeId, KnownNode>>,
    settings: Arc<Settings>,
}

#[derive(Debug, Clone, Default)]
struct KnownNode {
    descriptor: Option<NodeDescriptor>,
    stats: Option<StoreStats>,
    record: Option<LivenessRecord>,
    /// When the node itself was last heard, on this process's lease clock.
    heard: Option<Duration>,
}

impl ClusterView {
    /// A view without nodes, which follows the cluster settings.
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        Self { nodes: RwLock::default(), settings }
    }

    /// Learns a descriptor; returns whether it was news.
    pub fn learn_node(&self, descriptor: NodeDescriptor) -> bool {
        if descriptor.node_id == 0 {
            return false;
        }
        let mut nodes = self.nodes.write();
        let node = nodes.entry(NodeId(descriptor.node_id)).or_default();
        if let Some(known) = &node.descriptor {
            if known.store_uuid != descriptor.store_uuid {
                warn!(
                    node = descriptor.node_id,
                    known = known.store_uuid,
                    claimed = descriptor.store_uuid,
                    "another store claims the number of a known node; ignored"
                );
                return false;
            }
            if known.revision >= descriptor.revision {
                return false;
            }
        }
        node.descriptor = Some(descriptor);
        true
    }

    /// Learns the load of a store.
    pub fn learn_stats(&self, stats: StoreStats) {
        let mut nodes = self.nodes.write();
        let node = nodes.entry(NodeId(stats.node_id)).or_default();
        if node.stats.is_none_or(|known| known.reported_at_nanos < stats.reported_at_nanos) {
            node.stats = Some(stats);
        }
    }

    /// Learns a liveness record.
    pub fn learn_record(&self, record: LivenessRecord) {
        let mut nodes = self.nodes.write();
        let node = nodes.entry(record.node).or_default();
        let newer = |known: &LivenessRecord| {
            (record.epoch, record.expiration) > (known.epoch, known.expiration)
                || record.membership != known.membership
        };
        if node.record.as_ref().is_none_or(newer) {
            node.record = Some(record);
        }
    }

    /// Notes that a node was heard at `now`.
    pub fn heard(&self, node: NodeId, now: Duration) {
        self.nodes.write().entry(node).or_default().heard = Some(now);
    }

    /// All descriptors known.
    pub fn descriptors(&self) -> Vec<NodeDescriptor> {
        self.nodes.read().values().filter_map(|node| node.descriptor.clone()).collect()
    }

    /// The load of all stores known.
    pub fn stats(&self) -> Vec<StoreStats> {
        self.nodes.read().values().filter_map(|node| node.stats).collect()
    }

    /// The reports of the nodes that are alive.
    pub fn live_stats(&self, now: Timestamp, mono: Duration) -> Vec<StoreStats> {
        let nodes = self.nodes.read();
        let live = nodes.values().filter(|node| node.is_live(now, mono));
        live.map(|node| node.stats.unwrap_or_default()).collect()
    }

    /// The liveness record of a node, as last read.
    pub fn record(&self, node: NodeId) -> Option<LivenessRecord> {
        self.nodes.read().get(&node)?.record.clone()
    }

    /// How many tiers of their localities two nodes share, from the widest on; none that are not
    /// known.
    pub fn shared_tiers(&self, one: NodeId, other: NodeId) -> usize {
        let nodes = self.nodes.read();
        let locality = |id: &NodeId| {
            let descriptor = nodes.get(id).and_then(|node| node.descriptor.as_ref());
            descriptor.map(|descriptor| descriptor.locality.as_slice()).unwrap_or_default()
        };
        let (one, other) = (locality(&one), locality(&other));
        one.iter().zip(other).take_while(|(a, b)| a == b).count()
    }

    /// Every other node with an address.
    pub fn peers(&self, own: NodeId) -> Vec<NodeId> {
        let nodes = self.nodes.read();
        let known = nodes.iter().filter(|(id, node)| **id != own && node.descriptor.is_some());
        known.map(|(id, _)| *id).collect()
    }

    /// Nodes other than `own` that are alive and stay: those that leases can be given to.
    pub fn lease_targets(&self, own: NodeId, now: Timestamp, mono: Duration) -> usize {
        let nodes = self.nodes.read();
        let stays = |node: &KnownNode| {
            let draining = node.record.as_ref().is_some_and(|record| record.draining);
            node.is_live(now, mono) && !draining
        };
        nodes.iter().filter(|(id, node)| **id != own && stays(node)).count()
    }

    /// How many nodes are alive.
    pub fn live_nodes(&self, now: Timestamp, mono: Duration) -> usize {
        let nodes = self.nodes.read();
        nodes.values().filter(|node| node.is_live(now, mono)).count()
    }

    /// The stores, for placement.
    pub fn stores(&self, now: Timestamp, mono: Duration) -> Vec<StoreInfo> {
        let dead_after = self.settings.get(TIME_UNTIL_STORE_DEAD);
        let nodes = self.nodes.read();
        let info = |(id, node): (&NodeId, &KnownNode)| {
            let descriptor = node.descriptor.as_ref()?;
            let tier = |tier: &crdb_proto::kv::Tier| (tier.key.clone(), tier.value.clone());
            let record = node.record.as_ref();
            Some(StoreInfo {
                store_id: StoreId(id.get()),
                node_id: *id,
                locality: descriptor.locality.iter().map(tier).collect(),
                status: match node.health(now, mono, dead_after) {
                    Health::Live => StoreStatus::Live,
                    Health::Suspect => StoreStatus::Suspect,
                    Health::Dead => StoreStatus::Dead,
                },
                draining: record.is_some_and(|r| r.draining),
                decommissioning: record.is_some_and(|r| r.membership != Membership::Active),
                replicas: node.stats.map_or(0, |stats| stats.replicas),
            })
        };
        nodes.iter().filter_map(info).collect()
    }

    /// The answer to `ClusterStatus`, but for what the caller alone knows, in a cluster of `total`
    /// ranges.
    pub fn status(&self, now: Timestamp, mono: Duration, total: u64) -> ClusterStatusResponse {
        let dead_after = self.settings.get(TIME_UNTIL_STORE_DEAD);
        let nodes = self.nodes.read();
        let rows: Vec<NodeStatus> =
            nodes.values().filter_map(|node| node.status(now, mono, dead_after)).collect();
        let sum = |count: fn(&NodeStatus) -> u64| rows.iter().map(count).sum::<u64>();
        let ranges = RangeCounts {
            total,
            unavailable: rows.iter().map(|row| row.ranges_unavailable).max().unwrap_or(0),
            // A leader that has not heard of a new node yet misses nothing; the sum does.
            under_replicated: sum(|row| row.ranges_underreplicated).max(lacking(&rows, total)),
            over_replicated: 0,
            constraint_violations: 0,
        };
        let version = rows.iter().filter_map(|row| row.descriptor.as_ref());
        let active_version = version.map(|d| d.build_tag.clone()).min().unwrap_or_default();
        ClusterStatusResponse {
            nodes: rows,
            ranges: Some(ranges),
            active_version,
            ..ClusterStatusResponse::default()
        }
    }
}

/// How many of `total` ranges must lack replicas at the least, by what the nodes hold in all.
fn lacking(rows: &[NodeStatus], total: u64) -> u64 {
    let active = rows.iter().filter(|row| row.membership() == admin::Membership::Active).count();
    let voters = u64::try_from(crdb_allocator::voter_target(active)).unwrap_or(1);
    let held: u64 = rows.iter().map(|row| row.replicas).sum();
    // Each range lacks as many as it can: all but one.
    total.saturating_mul(voters).saturating_sub(held).div_ceil((voters - 1).max(1)).min(total)
}

impl KnownNode {
    /// Whether it lives; when it would count as dead makes no difference to that.
    fn is_live(&self, now: Timestamp, mono: Duration) -> bool {
        self.health(now, mono, crdb_liveness::DEAD_AFTER) == Health::Live
    }

    /// Health by the record, or by gossip where the record may only be old here.
    fn health(&self, now: Timestamp, mono: Duration, dead_after: Duration) -> Health {
        let by_record = self.record.as_ref().map(|record| health(record, now, dead_after));
        let heard_lately = self.heard.is_some_and(|at| mono.saturating_sub(at) < HEARD_LATELY);
        match by_record {
            Some(Health::Dead) | None if heard_lately => Health::Live,
            Some(Health::Suspect) if heard_lately => Health::Live,
            Some(health) => health,
            // Never heard since this process started, and no record read yet.
            None => Health::Suspect,
        }
    }

    fn status(&self, now: Timestamp, mono: Duration, dead_after: Duration) -> Option<NodeStatus> {
        let descriptor = self.descriptor.clone()?;
        let record = self.record.as_ref();
        let stats = self.stats.unwrap_or_default();
        let validity = u64::try_from(crdb_liveness::RECORD_VALIDITY.as_nanos()).unwrap_or(0);
        let expires = record.map_or(0, |r| r.expiration.wall_nanos);
        Some(NodeStatus {
            descriptor: Some(descriptor),
            liveness: match self.health(now, mono, dead_after) {
                Health::Live => admin::Liveness::Live,
                Health::Suspect => admin::Liveness::Suspect,
                Health::Dead => admin::Liveness::Dead,
            }
            .into(),
            membership: match record.map(|r| r.membership).unwrap_or_default() {
                Membership::Active => admin::Membership::Active,
                Membership::Decommissioning => admin::Membership::Decommissioning,
                Membership::Decommissioned => admin::Membership::Decommissioned,
            }
            .into(),
            draining: record.is_some_and(|r| r.draining),
            replicas: stats.replicas,
            leases: stats.leases,
            used_bytes: stats.used_bytes,
            capacity_bytes: stats.capacity_bytes,
            updated_at_nanos: expires.saturating_sub(validity),
            expires_at_nanos: expires,
            ranges_unavailable: stats.ranges_unavailable,
            ranges_underreplicated: stats.ranges_underreplicated,
            leaders: stats.leaders,
            oldest_read: stats.oldest_read,
        })
    }
}

impl PeerBook for ClusterView {
    fn peer_address(&self, node: NodeId) -> Option<PeerAddress> {
        let nodes = self.nodes.read();
        let descriptor = nodes.get(&node)?.descriptor.as_ref()?;
        Some(PeerAddress {
            address: descriptor.address.clone(),
            store_uuid: descriptor.store_uuid.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use crdb_proto::kv;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn descriptor(store: &str, revision: u64, address: &str) -> NodeDescriptor {
        NodeDescriptor {
            node_id: 2,
            store_uuid: store.into(),
            revision,
            address: address.into(),
            ..NodeDescriptor::default()
        }
    }

    #[test]
    fn a_later_revision_moves_a_node_but_another_store_never_does() {
        let view = ClusterView::default();
        assert!(view.learn_node(descriptor("s", 1, "old:1")));
        assert!(!view.learn_node(descriptor("s", 1, "same:1")));
        assert!(view.learn_node(descriptor("s", 2, "new:1")));
        assert!(!view.learn_node(descriptor("other", 9, "thief:1")));
        assert_eq!(view.peer_address(NodeId(2)).unwrap().address, "new:1");
    }

    #[test]
    fn what_two_nodes_share_counts_from_the_widest_tier_on() {
        let view = ClusterView::default();
        let places = [(1, "eu", "a"), (2, "eu", "b"), (3, "us", "a"), (4, "eu", "a")];
        for (id, region, zone) in places {
            let tier = |key: &str, value: &str| kv::Tier { key: key.into(), value: value.into() };
            let locality = vec![tier("region", region), tier("zone", zone)];
            let one = descriptor(&format!("s{id}"), 1, "a:1");
            assert!(view.learn_node(NodeDescriptor { node_id: id, locality, ..one }));
        }
        let shared = [2, 3, 4, 5].map(|other| view.shared_tiers(NodeId(1), NodeId(other)));
        assert_eq!(shared, [1, 0, 2, 0]);
    }

    #[test]
    fn leases_go_to_the_living_who_stay() {
        let view = ClusterView::default();
        let expiration = Timestamp::new(100 * SECOND, 0);
        let record = |node: u32, draining: bool| LivenessRecord {
            node: NodeId(node),
            epoch: 1,
            expiration: expiration.add_nanos(u64::from(draining)),
            draining,
            ..Default::default()
        };
        let targets = |wall: u64| {
            view.lease_targets(NodeId(1), Timestamp::new(wall * SECOND, 0), Duration::ZERO)
        };
        for node in 1..=3 {
            view.learn_record(record(node, false));
        }
        assert_eq!(targets(99), 2);
        view.learn_record(record(3, true));
        assert_eq!(targets(99), 1);
        assert_eq!(targets(101), 0);
    }

    #[test]
    fn a_lapsed_record_makes_a_node_suspect_unless_it_was_just_heard() {
        let view = ClusterView::default();
        view.learn_node(descriptor("s", 1, "a:1"));
        let expiration = Timestamp::new(100 * SECOND, 0);
        view.learn_record(LivenessRecord { node: NodeId(2), expiration, ..Default::default() });
        let liveness = |wall: u64, mono: u64| {
            let now = Timestamp::new(wall * SECOND, 0);
            view.status(now, Duration::from_secs(mono), 0).nodes[0].liveness()
        };
        assert_eq!(liveness(99, 50), admin::Liveness::Live);
        assert_eq!(liveness(101, 50), admin::Liveness::Suspect);
        view.heard(NodeId(2), Duration::from_secs(49));
        assert_eq!(liveness(101, 50), admin::Liveness::Live);
        assert_eq!(liveness(500, 53), admin::Liveness::Dead);
        view.settings.load([("server.time_until_store_dead", "10m")]);
        assert_eq!(liveness(500, 53), admin::Liveness::Suspect);
        assert_eq!(liveness(800, 53), admin::Liveness::Dead);
    }

    #[test]
    fn replicas_that_no_leader_misses_yet_are_missed() {
        let row = |membership: admin::Membership, replicas: u64| NodeStatus {
            membership: membership.into(),
            replicas,
            ..NodeStatus::default()
        };
        use admin::Membership::{Active, Decommissioned};
        // Two nodes joined and hold nothing yet.
        assert_eq!(lacking(&[row(Active, 4), row(Active, 0), row(Active, 0)], 4), 4);
        assert_eq!(lacking(&[row(Active, 4), row(Active, 4), row(Active, 1)], 4), 2);
        assert_eq!(lacking(&[row(Active, 4), row(Active, 4), row(Active, 4)], 4), 0);
        // One replica is all that two nodes are given.
        assert_eq!(lacking(&[row(Active, 4), row(Active, 0), row(Decommissioned, 0)], 4), 0);
    }
}
