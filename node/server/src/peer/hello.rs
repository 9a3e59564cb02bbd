//! Checks who opens a stream and for whom it is meant.

use crdb_keys::NodeId;
use crdb_proto::peer::Hello;
use tonic::Status;

use super::Identity;

/// Why a stream is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelloRefusal {
    /// The stream did not open with a hello.
    #[error("the stream does not open with a hello")]
    Missing,
    /// This node belongs to no cluster yet.
    #[error("this node is not initialized")]
    Uninitialized,
    /// The caller belongs to another cluster.
    #[error("this node belongs to cluster {own}, the caller to {theirs}")]
    OtherCluster {
        /// Cluster of this node.
        own: String,
        /// Cluster of the caller.
        theirs: String,
    },
    /// The stream was meant for somebody else.
    #[error(
        "this is {own}, the stream is meant for {meant}: check the advertised address of {meant}, and that no balancer listens there"
    )]
    OtherAddressee {
        /// This node.
        own: NodeId,
        /// Whom it was meant for.
        meant: NodeId,
    },
    /// The addressee's number was given to another store.
    #[error("the store of {own} is {uuid}, the stream is meant for store {meant}")]
    OtherStore {
        /// This node.
        own: NodeId,
        /// Its store.
        uuid: String,
        /// Store it was meant for.
        meant: String,
    },
    /// The caller says it is this node, or no node.
    #[error("the caller says it is n{0}")]
    ImpossibleCaller(u32),
    /// Another store is known under the caller's number.
    #[error("{from} is known by store {known}, the caller has store {theirs}")]
    Impostor {
        /// The number claimed.
        from: NodeId,
        /// The store known.
        known: String,
        /// The store claimed.
        theirs: String,
    },
}

impl From<HelloRefusal> for Status {
    fn from(refusal: HelloRefusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            HelloRefusal::Missing | HelloRefusal::ImpossibleCaller(_) => {
                Status::invalid_argument(text)
            }
            HelloRefusal::Uninitialized => Status::unavailable(text),
            HelloRefusal::OtherCluster { .. }
            | HelloRefusal::OtherAddressee { .. }
            | HelloRefusal::OtherStore { .. }
            | HelloRefusal::Impostor { .. } => Status::failed_precondition(text),
        }
    }
}

/// The hello that opens a stream from `own` to `to`.
#[must_use]
pub fn hello(own: &Identity, to: NodeId, to_store_uuid: &str) -> Hello {
    Hello {
        cluster_id: own.cluster_id.clone(),
        from_node: own.node_id.get(),
        to_node: to.get(),
        from_store_uuid: own.store_uuid.clone(),
        to_store_uuid: to_store_uuid.to_owned(),
        epoch: 0,
        from_incarnation: own.incarnation,
    }
}

/// Accepts or refuses a caller; `known_store` tells which store a node is known by.
pub fn check(
    hello: Option<&Hello>,
    own: Option<&Identity>,
    known_store: impl FnOnce(NodeId) -> Option<String>,
) -> Result<NodeId, HelloRefusal> {
    let hello = hello.ok_or(HelloRefusal::Missing)?;
    let own = own.ok_or(HelloRefusal::Uninitialized)?;
    if hello.cluster_id != own.cluster_id {
        let theirs = hello.cluster_id.clone();
        return Err(HelloRefusal::OtherCluster { own: own.cluster_id.clone(), theirs });
    }
    let (from, meant) = (NodeId(hello.from_node), NodeId(hello.to_node));
    if meant != own.node_id {
        return Err(HelloRefusal::OtherAddressee { own: own.node_id, meant });
    }
    if !hello.to_store_uuid.is_empty() && hello.to_store_uuid != own.store_uuid {
        return Err(HelloRefusal::OtherStore {
            own: own.node_id,
            uuid: own.store_uuid.clone(),
            meant: hello.to_store_uuid.clone(),
        });
    }
    if from.get() == 0 || from == own.node_id {
        return Err(HelloRefusal::ImpossibleCaller(from.get()));
    }
    match known_store(from) {
        Some(known) if !known.is_empty() && known != hello.from_store_uuid => {
            Err(HelloRefusal::Impostor { from, known, theirs: hello.from_store_uuid.clone() })
        }
        _ => Ok(from),
    }
}
