//! Identifiers, timestamps, spans and the order-preserving encoding of keys.
//!
//! What it is: the vocabulary every other crate shares. What it is not: it holds no clock source,
//! no I/O and no knowledge of SQL values beyond how a datum's bytes sort.
//!
//! Invariants:
//! 1. Encoded keys sort like the values they hold, and no encoding is a prefix of another.
//! 2. `Timestamp` orders by wall time first, then by the logical counter.

pub mod encoding;
pub mod hlc;
mod id;
pub mod layout;
pub mod pretty;
mod span;
mod timestamp;

pub use id::{NodeId, RangeId, ReplicaId, StoreId};
pub use span::{Access, Key, Span};
pub use timestamp::Timestamp;
