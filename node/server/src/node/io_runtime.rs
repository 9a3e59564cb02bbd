//! The runtime that carries bytes: listeners, connections, the streams of peers.
//!
//! Statements and batches are evaluated on the runtime that the node was started in, and a long one
//! keeps a worker of it for as long as it takes. Raft's messages must not wait for that: a leader
//! whose heartbeats do loses its leases, and a machine that is merely busy looks like one that is
//! gone. So they have workers of their own, which nothing keeps.
//!
//! The heartbeats of the node and of its transactions run here as well.
//!
//! Invariant: what runs here evaluates small batches at most, and never waits for a disk.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// The runtime; it ends with what runs on it when this is dropped.
#[derive(Debug)]
pub(crate) struct IoRuntime {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl IoRuntime {
    /// Starts it with `threads` workers.
    pub(crate) fn start(threads: usize) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.enable_all().worker_threads(threads).thread_name("peer-io");
        let runtime = builder.build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Where to spawn on it.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for IoRuntime {
    fn drop(&mut self) {
        // A runtime must not be waited for within another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
