//! What a store keeps, and how requests read and change it.
//!
//! What it is: the contract of an engine ([`Engine`], [`Reader`], [`WriteBatch`]) with RocksDB and
//! in-memory implementations; versions of keys at timestamps ([`mvcc`]); intents and records of
//! transactions ([`lock`]); and the evaluation of a batch of requests against a state
//! ([`evaluate`]). What it is not: it knows no replication, no
//! lease and no clock; which timestamps a batch gets is the caller's business.
//!
//! A write, bottom up: [`evaluate`] turns a request into a [`WriteBatch`], the raft log carries
//! its bytes to every replica, and each applies it to its [`Engine`] together with the replica's
//! own state.
//!
//! Invariants:
//! 1. A batch takes effect as a whole or not at all, and a synced one survives a crash.
//! 2. After a failed write or sync nothing more is written by this process.
//! 3. Evaluation has no effect but its result: the same request on the same state at the same
//!    timestamps gives the same batch.

mod batch;
mod engine;
mod error;
pub mod evaluate;
mod limits;
pub mod lock;
mod memory;
pub mod mvcc;
mod rocks;
#[cfg(test)]
mod scripts;

pub use batch::{Op, WriteBatch};
pub use engine::{Engine, Family, Reader, Sync, Visitor};
pub use error::Error;
pub use limits::Limits;
pub use memory::{MemoryEngine, MemorySnapshot};
pub use rocks::{RocksEngine, RocksOptions, RocksSnapshot};
