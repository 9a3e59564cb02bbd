//! The SQL clients of a node.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crdb_sql::SqlNode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cancel::Registry;
use crate::config::Config;
use crate::connection;

/// Serves the SQL clients of a node. The node's listener hands over each connection; the task that
/// calls [`PgServer::serve`] is the connection's only task.
pub struct PgServer {
    pub(crate) node: Arc<SqlNode>,
    pub(crate) config: Config,
    pub(crate) registry: Registry,
    /// Sessions end when they are between statements.
    pub(crate) draining: CancellationToken,
    /// Sessions end now.
    pub(crate) stopping: CancellationToken,
    connections: AtomicU64,
    sessions: AtomicU64,
    left: Notify,
}

impl fmt::Debug for PgServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgServer").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

/// Counts a connection while it lives.
struct Counted<'a>(&'a PgServer);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
        self.0.left.notify_waiters();
    }
}

impl PgServer {
    /// A server for the clients of a node. `node_id` becomes a part of cancel keys, `seed` of their
    /// secrets.
    #[must_use]
    pub fn new(node: Arc<SqlNode>, node_id: u32, seed: u64, config: Config) -> Arc<PgServer> {
        Arc::new(PgServer {
            node,
            config,
            registry: Registry::new(node_id, seed),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
            connections: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            left: Notify::new(),
        })
    }

    /// Serves one connection to its end. `peer` is the client's address, for its session.
    pub async fn serve<S>(&self, stream: S, peer: &str)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        self.serve_admitted(stream, peer, ()).await;
    }

    /// The same for a listener that bounds the clients that have not said who they are: `admission`
    /// is dropped once this one has.
    pub async fn serve_admitted<S, A>(&self, stream: S, peer: &str, admission: A)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        A: Send,
    {
        self.connections.fetch_add(1, Ordering::AcqRel);
        let _counted = Counted(self);
        Box::pin(connection::serve(self, stream, peer, admission)).await;
    }

    /// Open connections.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Acquire)
    }

    /// Numbers the next session.
    pub(crate) fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Turns new clients away and ends each session with 57P01 as soon as it is between statements
    /// and in no transaction.
    /// Ends when all have left; whoever has no more patience calls [`PgServer::stop`].
    pub async fn drain(&self) {
        self.draining.cancel();
        self.all_left().await;
    }

    /// Whether new clients are turned away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Ends all sessions now: statements are abandoned, except for writes that are on their way.
    pub async fn stop(&self) {
        self.draining.cancel();
        self.stopping.cancel();
        self.all_left().await;
    }

    async fn all_left(&self) {
        loop {
            let left = self.left.notified();
            if self.connections() == 0 {
                return;
            }
            left.await;
        }
    }
}
