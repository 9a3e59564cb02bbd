//! Which nodes are alive, which are leaving, and what each still depends on.
//!
//! What it is: the record each node keeps in the liveness range, its encoding, and the pure rules
//! that derive a node's health and what a heartbeat writes. What it is not: it reads no clock and
//! sends nothing; the server writes the record every [`HEARTBEAT_INTERVAL`] by a conditional put
//! on the bytes it read, so that two processes with one node id cannot both keep it alive.
//!
//! Leases do not depend on these records (the raft store carries leases on raft's own heartbeats);
//! placement, catalog changes and the status commands do.
//!
//! Invariants:
//! 1. The epoch rises with each process of a node; a process never writes over a record of a later
//!    epoch.
//! 2. Membership leaves `Decommissioned` never.
//! 3. Health is a function of record and time alone; a node that never wrote a record is unknown,
//!    not dead.

mod record;
mod rules;

pub use record::{DecodeError, LivenessRecord, Membership};
pub use rules::{
    DEAD_AFTER, HEARTBEAT_INTERVAL, Health, HeartbeatError, RECORD_VALIDITY, catalog_version_floor,
    health, heartbeat, set_membership,
};
