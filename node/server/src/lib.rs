//! A node as a process: sockets, clocks, cluster formation, peers, liveness, drain.
//!
//! What it is: the edge. It owns every listener, connection, timer and thread of a node and feeds
//! the crates below, which know none of these. What it is not: it decides nothing about data; the
//! one hard decision it holds, who makes the cluster, is the pure state machine [`formation`].
//!
//! | module | concern |
//! |---|---|
//! | [`node`] | the life of a node: listening → member → serving → drained |
//! | [`formation`] | who bootstraps, and when |
//! | [`peer`] | streams between nodes |
//! | `net` | listeners, who owns an address, which protocol a connection speaks |
//! | [`cluster_view`] | what is known of all nodes without asking |
//! | [`store_file`] | the data directory: lock and identity |
//! | `limits` | the bounds of all of it |
//! | `http`, `admin`, `metrics` | what people and the operator look at |

pub mod address;
mod admin;
mod clock;
pub mod cluster_view;
pub mod formation;
mod http;
mod limits;
pub mod metrics;
mod net;
pub mod node;
pub mod peer;
pub mod status_detail;
pub mod store_file;

pub use limits::{AllLimits, BadLimits, Limits};
pub use net::bind::BindError;
pub use node::{
    Advertised, ClockAstray, ClockOffsets, HttpAddress, Node, NodeConfig, NodeError, Serving,
    StartError, StartMode, StartStatus,
};
pub use store_file::{StoreDir, StoreDirError};
