//! The way of SQL clients into the node: turned away while it cannot serve, counted while it does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::net::TcpStream;
use tracing::debug;

use super::shared::{Phase, Shared};
use crate::net::accept::SqlHandler;
use crate::net::reject::reject;

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
    fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let serving = matches!(*self.shared.phase.borrow(), Phase::Serving(_));
            let front = self.shared.running.get().map(|running| Arc::clone(&running.pg));
            let outcome = match front.filter(|_| serving) {
                Some(front) if front.refusing() => {
                    let text = "server is not accepting clients, try another node";
                    reject(stream, "57P01", text).await
                }
                Some(front) => {
                    front.serve(stream, peer).await;
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
        })
    }
}

/// The sessions of the node.
pub(crate) struct PgFront {
    refusing: AtomicBool,
    connections: AtomicU64,
}

/// The sessions of a node that starts to serve.
pub(crate) fn server() -> Arc<PgFront> {
    Arc::new(PgFront { refusing: AtomicBool::new(false), connections: AtomicU64::new(0) })
}

impl PgFront {
    /// Open connections.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Acquire)
    }

    /// Whether new clients are turned away.
    fn refusing(&self) -> bool {
        self.refusing.load(Ordering::Acquire)
    }

    /// Turns new clients away from now on.
    pub(crate) fn refuse_new(&self) {
        self.refusing.store(true, Ordering::Release);
    }

    /// Lets running statements finish, then closes all sessions; false when time ran out first.
    pub(crate) async fn drain(&self, patience: Duration) -> bool {
        self.refuse_new();
        let idle = async {
            while self.connections() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(patience, idle).await.is_ok()
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        self.connections.fetch_add(1, Ordering::AcqRel);
        let text = "this build has no SQL sessions yet";
        if let Err(error) = reject(stream, "0A000", text).await {
            debug!(%peer, %error, "SQL client left");
        }
        self.connections.fetch_sub(1, Ordering::AcqRel);
    }
}
