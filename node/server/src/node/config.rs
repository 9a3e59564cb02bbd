//! What a node is told when it starts.

use std::path::PathBuf;
use std::time::Duration;

use crate::address::{Address, JoinList, PartialAddress};
use crate::limits::AllLimits;

/// Everything `crdb start` decides for a node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Data directory.
    pub store: PathBuf,
    /// Where RPC is listened for, and SQL too unless `sql` is set.
    pub listen: Address,
    /// Address peers are told; what is missing is taken from `listen`.
    pub advertise: Option<PartialAddress>,
    /// Where SQL alone is listened for.
    pub sql: Option<Address>,
    /// Address SQL clients are told.
    pub advertise_sql: Option<PartialAddress>,
    /// Where HTTP is listened for.
    pub http: HttpAddress,
    /// Address HTTP clients are told.
    pub advertise_http: Option<PartialAddress>,
    /// How the node comes to its cluster.
    pub mode: StartMode,
    /// Ordered tiers, broad to narrow.
    pub locality: Vec<(String, String)>,
    /// Memory for cached data.
    pub cache_bytes: u64,
    /// Largest difference between the clocks of two nodes.
    pub max_offset: Duration,
    /// Version of the binary.
    pub build_tag: String,
    /// Bounds.
    pub limits: AllLimits,
}

/// Where HTTP is listened for.
#[derive(Debug, Clone)]
pub enum HttpAddress {
    /// There, or not at all.
    Exact(Address),
    /// There, or on another port if that one is taken, since nobody asked for it.
    Default(Address),
}

/// How a node comes to its cluster.
#[derive(Debug, Clone)]
pub enum StartMode {
    /// Joins through one of the list; the first of the list may make the cluster.
    Join {
        /// The nodes to join through.
        list: JoinList,
        /// Whether the first of the list makes the cluster without being told.
        auto_init: bool,
    },
    /// Makes a cluster of its own.
    SingleNode,
}

impl StartMode {
    pub(crate) fn join_list(&self) -> JoinList {
        match self {
            Self::Join { list, .. } => list.clone(),
            Self::SingleNode => JoinList::default(),
        }
    }
}
