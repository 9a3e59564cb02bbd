//! Transactions in the simulator: what clients do with them, and what must hold afterwards.

pub(crate) mod check;
pub(crate) mod drive;
pub(crate) mod log;
pub(crate) mod steps;
pub(crate) mod work;
