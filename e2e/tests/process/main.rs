//! The database as processes: three real nodes on one host, real clients, real kills.
//!
//! Each test starts its own cluster on free ports in a temporary directory and leaves nothing.
//! `CRDB_SOAK_ROUNDS=20` makes the rounds of kills as many; seeds are printed.

mod bad_input;
mod cli;
mod cluster;
mod durability;
mod large;
mod pgbench;
mod schema;
mod service;
mod transactions;
mod workload;
