//! Messages and services that cross process borders.
//!
//! The `.proto` files are the documentation of each field; this crate holds the generated types
//! and the conversions to the types of `crdb-keys`. Fields are only added, never renumbered.

/// Requests to and answers of the leaseholder of a range.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod kv {
    tonic::include_proto!("crdb.kv.v1");
}

/// What nodes say to each other.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod peer {
    tonic::include_proto!("crdb.peer.v1");
}

/// The contract between node, CLI, plugin and operator.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod admin {
    tonic::include_proto!("crdb.admin.v1");
}

mod convert;
