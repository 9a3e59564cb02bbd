//! Sockets: who may listen where, and which protocol a connection speaks.

pub mod accept;
pub mod bind;
pub(crate) mod reject;
