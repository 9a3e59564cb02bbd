//! SQL: from a syntax tree to rows and batches of keys.
//!
//! What it is: the types, the catalog, the analyzer, the planner and the executor of SQL, and the
//! session that ties them together. What it is not: it parses no text (`crdb-sqlfront`), speaks no
//! wire protocol (`crdb-pgwire`), owns no socket, clock or timer, and knows ranges only through the
//! transactions of `crdb_kv`.
//!
//! ```text
//! Parsed -> analyze (names, types, operators) -> plan (spans, joins, order) -> exec -> rows
//!               ^ catalog snapshot, pinned          reads and writes: crdb_kv::Txn <-/
//! ```
//!
//! Invariants:
//! 1. A statement uses one catalog version from its first look-up to its last batch, and its
//!    transaction neither reads nor commits after the deadline of the liveness record under which
//!    that version was adopted.
//! 2. A statement belongs to a transaction of the key-value layer, which is serializable unless it
//!    was asked to be READ COMMITTED; the session alone begins, commits and rolls back.
//! 3. A commit whose fate is unknown is reported as such (40003) and never sent again.
//! 4. What is not served answers 0A000 and names the feature.

mod activity;
mod analyze;
mod cast;
pub mod catalog;
mod copy;
mod datum;
mod encoding;
mod error;
mod exec;
mod expr;
mod func;
mod kv;
mod limits;
mod names;
mod node;
mod plan;
mod ranges;
mod session;
mod stack;
mod types;
mod vtable;

pub use activity::{CancelFlag, SessionPeers, Target};
pub use datum::{ArrayValue, Datum, Decimal, FormatSettings, Interval, Row};
pub use error::{ErrorFields, Result, SqlError, SqlState};
pub use limits::Limits;
pub use node::{SqlNode, SqlNodeConfig, Timer};
pub use session::{
    Column, CopyIn, CopyOut, Effect, ExecResult, Notice, Prepared, Session, SessionArgs, Severity,
    TransactionStatus, WriteFlag,
};
pub use types::{Category, SqlType, TypeSpec};
