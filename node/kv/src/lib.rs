//! The client side of the key-value layer: how a gateway reaches the leaseholder of a range.
//!
//! [`Txn`] is what the SQL layer programs against: a transaction over a [`Sender`]. [`DistSender`]
//! implements that over a range cache and a [`Transport`]; `local` implements it over one store
//! for tests.
//!
//! It is not: a socket (the server supplies the transport) or a clock.
//!
//! Invariants:
//! * a batch that may have been proposed is never sent again: its fate is [`SendError::Ambiguous`];
//! * what a range cache says is a hint, corrected by the range itself (`RangeMismatch`);
//! * a returned response carries no error: every error of a range is a [`SendError`];
//! * a request is answered whole, unless its caller set a bound: then the answer says what is left.

pub mod contention;
mod dist_sender;
mod error;
mod limits;
pub mod local;
mod look_up;
mod meta;
mod planted;
mod range_cache;
mod recovery;
mod resolution;
mod rest;
#[cfg(test)]
mod scripts;
mod span;
mod split;
mod spread;
#[cfg(test)]
mod tests;
mod transport;
mod txn;

pub use dist_sender::{DistSender, DistSenderConfig};
pub use error::SendError;
pub use limits::Limits;
pub use meta::update_meta;
pub use planted::PlantedTxnBug;
pub use range_cache::{CachedRange, RangeCache};
pub use recovery::clean_up_after;
pub use rest::Rest;
pub use transport::{Life, Transport, TransportError};
pub use txn::{
    AsOf, CommitInfo, CommitKind, CommitOutcome, ReadOptions, RetryCause, SavepointId, Sleep, Txn,
    TxnClient, TxnClientConfig, TxnCounts, TxnError, TxnOptions,
};

use crdb_proto::kv::{BatchRequest, BatchResponse};
use futures::future::BoxFuture;

/// Executes batches on whichever range holds their keys.
pub trait Sender: Send + Sync + 'static {
    /// Sends one batch and waits for its outcome. A batch that has to be atomic (it writes outside
    /// of a transaction, or commits one in one phase) must lie in one range; any other may take
    /// effect in parts.
    ///
    /// The response has one entry per request, `error` unset, and each says something of all of its
    /// request; but what has a bound of its caller (rows, bytes, keys) may end anywhere behind its
    /// first key, below the bound too, and says in `resume` what is left. Dropping the future leaves
    /// the fate of a batch with writes unknown.
    fn send(&self, batch: BatchRequest) -> BoxFuture<'_, Result<BatchResponse, SendError>>;
}
