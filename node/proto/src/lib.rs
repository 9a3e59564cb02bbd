//! Messages and services that cross process borders.
//!
//! The `.proto` files are the documentation of each field; this crate holds the generated types
//! and the conversions to the types of `crdb-keys`. Fields are only added, never renumbered.

// The generated code refers to other packages by their path from the common root.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod crdb {
    pub mod kv {
        pub mod v1 {
            tonic::include_proto!("crdb.kv.v1");
        }
    }
    pub mod peer {
        pub mod v1 {
            tonic::include_proto!("crdb.peer.v1");
        }
    }
    pub mod admin {
        pub mod v1 {
            tonic::include_proto!("crdb.admin.v1");
        }
    }
}

/// The contract between node, CLI, plugin and operator.
#[doc(inline)]
pub use crdb::admin::v1 as admin;
/// Requests to and answers of the leaseholder of a range.
#[doc(inline)]
pub use crdb::kv::v1 as kv;
/// What nodes say to each other.
#[doc(inline)]
pub use crdb::peer::v1 as peer;

mod convert;
