//! Accepts connections and tells by their first byte what they speak.
//!
//! A gRPC client opens with `PRI * HTTP/2`; a PostgreSQL client opens with the length of its first
//! packet, whose high byte is zero because that packet is at most 10,000 bytes long; a TLS client
//! opens with 0x16. The bytes are only peeked at: whoever takes the connection sees all of it.
//!
//! Bounds: [`FIRST_BYTE_DEADLINE`] to say something, [`UNIDENTIFIED_MAX`] connections that have
//! not done so yet; more wait in the kernel's queue.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::reject::reject;

/// How long a client may take for its first byte.
pub(crate) const FIRST_BYTE_DEADLINE: Duration = Duration::from_secs(5);
/// How many connections may be waiting for their first byte.
pub(crate) const UNIDENTIFIED_MAX: usize = 512;
/// Pause after the kernel refused a connection, for want of file descriptors most likely.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepts {
    /// RPC and SQL.
    Both,
    /// RPC alone; SQL has a listener of its own.
    Rpc,
    /// SQL alone.
    Sql,
}

/// Where connections go.
#[derive(Clone)]
pub(crate) struct Destinations {
    /// Connections that speak HTTP/2; full when the RPC server is overloaded, which delays accept.
    pub rpc: mpsc::Sender<io::Result<TcpStream>>,
    /// Takes a connection of a PostgreSQL client; runs it to its end.
    pub sql: Arc<dyn SqlHandler>,
}

/// Runs connections of PostgreSQL clients.
pub(crate) trait SqlHandler: Send + Sync {
    /// Serves one connection until it ends.
    fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> futures::future::BoxFuture<'static, ()>;
}

/// Accepts on `listener` until `stop`.
pub(crate) async fn accept_loop(
    listener: TcpListener,
    accepts: Accepts,
    destinations: Destinations,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let unidentified = Arc::new(Semaphore::new(UNIDENTIFIED_MAX));
    loop {
        let next = async {
            let permit = Arc::clone(&unidentified).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            next = next => next,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let destinations = destinations.clone();
        let stop = stop.clone();
        tasks.spawn(async move {
            let identified = tokio::select! {
                () = stop.cancelled() => return,
                identified = identify(&stream) => identified,
            };
            drop(permit);
            match identified {
                Ok(protocol) => dispatch(stream, peer, protocol, accepts, destinations).await,
                Err(error) => debug!(%peer, %error, "connection closed before it said anything"),
            }
        });
    }
}

/// What a connection's first byte says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    Http2,
    Postgres,
    Tls,
    Unknown(u8),
}

async fn identify(stream: &TcpStream) -> io::Result<Opening> {
    stream.set_nodelay(true)?;
    let mut first = [0_u8; 1];
    let peeked = tokio::time::timeout(FIRST_BYTE_DEADLINE, stream.peek(&mut first)).await;
    match peeked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(match first {
            [b'P'] => Opening::Http2,
            [0] => Opening::Postgres,
            [0x16] => Opening::Tls,
            [other] => Opening::Unknown(other),
        }),
    }
}

async fn dispatch(
    stream: TcpStream,
    peer: SocketAddr,
    opening: Opening,
    accepts: Accepts,
    destinations: Destinations,
) {
    match (opening, accepts) {
        (Opening::Http2, Accepts::Both | Accepts::Rpc) => {
            if destinations.rpc.send(Ok(stream)).await.is_err() {
                debug!(%peer, "RPC connection refused: the node is stopping");
            }
        }
        (Opening::Postgres, Accepts::Both | Accepts::Sql) => {
            destinations.sql.serve(stream, peer).await;
        }
        (Opening::Postgres, Accepts::Rpc) => {
            let text = "this address serves RPC between nodes, not SQL; use the SQL address";
            if let Err(error) = reject(stream, "08004", text).await {
                debug!(%peer, %error, "SQL client on the RPC address left");
            }
        }
        (Opening::Http2, Accepts::Sql) => {
            warn!(%peer, "RPC connection refused: this address serves SQL alone");
        }
        (Opening::Tls, _) => {
            warn!(%peer, "TLS connection refused: this node runs with --insecure");
        }
        (Opening::Unknown(byte), Accepts::Both | Accepts::Sql) => {
            warn!(%peer, "first byte {byte:#04x} belongs to no known protocol");
            // Most likely a startup packet with an impossible length: the SQL side says so.
            destinations.sql.serve(stream, peer).await;
        }
        (Opening::Unknown(byte), Accepts::Rpc) => {
            warn!(%peer, "connection refused: first byte {byte:#04x} belongs to no known protocol");
        }
    }
}
