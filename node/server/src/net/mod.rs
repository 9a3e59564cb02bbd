//! Sockets: who may listen where, and which protocol a connection speaks.

pub(crate) mod accept;
pub(crate) mod bind;
pub(crate) mod reject;
