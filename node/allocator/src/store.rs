//! What the allocator knows about a store.

use std::fmt;

use crdb_keys::{NodeId, StoreId};

/// Whether a store can keep and take replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoreStatus {
    /// Alive: keeps its replicas and may get more.
    Live,
    /// Silent, but not for long: keeps its replicas, gets none.
    Suspect,
    /// Silent for long: its replicas are replaced.
    Dead,
}

impl fmt::Display for StoreStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
        })
    }
}

/// One store of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    /// The store.
    pub store_id: StoreId,
    /// Its node.
    pub node_id: NodeId,
    /// Tiers of the node's locality, broad to narrow, such as `region=eu`.
    pub locality: Vec<(String, String)>,
    /// Whether it can be reached.
    pub status: StoreStatus,
    /// It is about to stop: it keeps its replicas and gets none.
    pub draining: bool,
    /// Its node leaves the cluster: its replicas are moved away.
    pub decommissioning: bool,
    /// Replicas it holds.
    pub replicas: u64,
}

impl StoreInfo {
    /// Whether a new replica may be placed here.
    #[must_use]
    pub fn is_candidate(&self) -> bool {
        self.status == StoreStatus::Live && !self.draining && !self.decommissioning
    }

    /// Whether replicas here are to be replaced.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.status == StoreStatus::Dead || self.decommissioning
    }
}
