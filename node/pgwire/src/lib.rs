//! Speaks the PostgreSQL wire protocol with SQL clients.
//!
//! What it is: the connection loop between a byte stream and a `crdb_sql::Session`: startup and its
//! limits, the simple and the extended query protocol, cancel, drain, error fields. What it is not:
//! it accepts no connections (the node's listener does, and tells SQL from RPC), analyzes nothing,
//! and knows no storage.
//!
//! ```text
//! bytes -> Frames (limits, checked decoding) -> bounded queue -> Worker -> Session
//!                                                                  \-> Output -> bytes
//! ```
//!
//! Both halves of a connection run in one task: the read half goes on while a statement runs, so a
//! client that hangs up, or pipelines, is noticed.
//!
//! Invariants:
//! 1. A length is checked before anything is allocated for it, and no frame panics: frames are cut
//!    to their length first, and each field is checked against what is left of the frame. (The
//!    library's own decoders of client messages read on into the next frame, hence ours.)
//! 2. Answers go into one buffer that is written at Sync, Flush, the end of a simple query, and
//!    when it passes [`Config::output_bytes`].
//! 3. After an error of the extended protocol nothing is executed before the next Sync.
//! 4. A commit that is on its way is never dropped: cancel, hang-up and drain wait for it.
//! 5. Before ReadyForQuery an implicit transaction is over, and whoever leaves has none open.

mod cancel;
mod config;
mod connection;
mod copy;
mod extended;
mod frame;
mod inbox;
mod latency;
mod output;
mod report;
mod server;
mod simple;
mod startup;

pub use config::Config;
pub use server::PgServer;
