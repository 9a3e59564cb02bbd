//! The way of SQL clients into the node: turned away while it cannot serve, counted while it does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crdb_keys::NodeId;
use crdb_pgwire::{Config, PgServer};
use crdb_sql::SqlNode;
use futures::future::BoxFuture;
use tokio::net::TcpStream;
use tracing::debug;

use super::shared::{Phase, Shared};
use crate::net::accept::{Admission, SqlHandler};
use crate::net::reject::reject;

/// For sessions to end once their statements were abandoned.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Takes the connections of SQL clients from the listener.
pub(crate) struct SqlGate {
    shared: Arc<Shared>,
}

impl SqlGate {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl SqlHandler for SqlGate {
    fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        admission: Admission,
    ) -> BoxFuture<'static, ()> {
        let (tasks, main) = (self.shared.tasks.clone(), self.shared.main.clone());
        let session = async move {
            let serving = matches!(*self.shared.phase.borrow(), Phase::Serving(_));
            let front = self.shared.running.get().map(|running| Arc::clone(&running.pg));
            let outcome = match front.filter(|_| serving) {
                Some(front) if front.refusing() => {
                    let text = "server is not accepting clients, try another node";
                    reject(stream, "57P01", text).await
                }
                Some(front) => {
                    front.serve(stream, peer, admission).await;
                    return;
                }
                None if self.shared.identity.get().is_some() => {
                    reject(stream, "57P03", "node is starting up").await
                }
                None => {
                    let text = "node is not initialized; run `crdb init` or wait for the cluster";
                    reject(stream, "57P03", text).await
                }
            };
            if let Err(error) = outcome {
                debug!(%peer, %error, "SQL client left before it was turned away");
            }
        };
        // Statements are not for those who carry bytes.
        Box::pin(async move { drop(tasks.spawn_on(session, &main).await) })
    }
}

/// The sessions of the node.
pub(crate) struct PgFront {
    server: Arc<PgServer>,
    refusing: AtomicBool,
}

/// The sessions of a node that starts to serve.
pub(crate) fn server(sql: Arc<SqlNode>, node: NodeId, seed: u64, config: Config) -> Arc<PgFront> {
    let server = PgServer::new(sql, node.get(), seed, config);
    Arc::new(PgFront { server, refusing: AtomicBool::new(false) })
}

impl PgFront {
    /// Open connections.
    pub(crate) fn connections(&self) -> u64 {
        self.server.connections()
    }

    /// Whether new clients are turned away.
    fn refusing(&self) -> bool {
        self.refusing.load(Ordering::Acquire)
    }

    /// Turns new clients away from now on.
    pub(crate) fn refuse_new(&self) {
        self.refusing.store(true, Ordering::Release);
    }

    /// Lets running statements finish, then closes all sessions; false when time ran out first, and
    /// the statements still running were abandoned, but for writes on their way.
    pub(crate) async fn drain(&self, patience: Duration) -> bool {
        self.refuse_new();
        if tokio::time::timeout(patience, self.server.drain()).await.is_ok() {
            return true;
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.server.stop()).await.is_err() {
            debug!(left = self.connections(), "sessions wait for writes on their way");
        }
        false
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr, admission: Admission) {
        self.server.serve_admitted(stream, &peer.to_string(), admission).await;
    }
}
