//! Real `crdb` processes in a temporary directory, killed when the test lets go of them.

pub(crate) use crdb_workload::process::{Node, PATIENCE, TestCluster, binary, connect, within};
