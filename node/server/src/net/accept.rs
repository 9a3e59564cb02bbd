//! Accepts connections and tells by their first bytes what they speak.
//!
//! A gRPC client opens with [`HTTP2_PREFACE`]; a PostgreSQL client opens with the length of its
//! first packet, whose high byte is zero because that packet is at most 10,000 bytes long; a TLS
//! client opens with 0x16. The bytes are only peeked at: whoever takes the connection sees all of
//! it.
//!
//! Bounds: [`Bounds::deadline`] to say what it speaks, [`Bounds::room`] connections that have not
//! done so, or not said yet who they are; more wait in the kernel's queue. A connection's place is
//! its [`Admission`]: an HTTP/2 connection gives it back when its preface is complete (from then on
//! the server's pings bound it), a SQL connection when its startup packet is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::reject::reject;
use crate::limits::Limits;

/// What every HTTP/2 client sends first.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Pause before a preface that has come in part is looked at again.
const PREFACE_RECHECK: Duration = Duration::from_millis(10);
/// A connection is probed after this much silence, so that clients that vanished are noticed.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Pause between two probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Pause after the kernel refused a connection, for want of file descriptors most likely.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What strangers may take of a listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How long a client may take to say what it speaks.
    pub deadline: Duration,
    /// How many connections may be there that have not said who they are.
    pub room: usize,
}

impl From<&Limits> for Bounds {
    fn from(limits: &Limits) -> Self {
        Self { deadline: limits.stranger_timeout, room: limits.strangers_max }
    }
}

/// The place of a connection among those that have not said who they are.
pub(crate) type Admission = OwnedSemaphorePermit;

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
    /// Serves one connection until it ends; drops `admission` once it has said who it is.
    fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        admission: Admission,
    ) -> futures::future::BoxFuture<'static, ()>;
}

/// Accepts on `listener` until `stop`.
pub(crate) async fn accept_loop(
    listener: TcpListener,
    accepts: Accepts,
    bounds: Bounds,
    destinations: Destinations,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let strangers = Arc::new(Semaphore::new(bounds.room));
    loop {
        let next = async {
            let admission = Arc::clone(&strangers).acquire_owned().await;
            (admission, listener.accept().await)
        };
        let (admission, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            next = next => next,
        };
        // The semaphore is never closed.
        let Ok(admission) = admission else { return };
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
                identified = identify(&stream, bounds.deadline) => identified,
            };
            match identified {
                Ok(opening) => {
                    let connection = Connection { stream, peer, admission };
                    dispatch(connection, opening, accepts, destinations).await;
                }
                Err(error) => debug!(%peer, %error, "connection closed before it said anything"),
            }
        });
    }
}

/// What a connection's first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    Http2,
    Postgres,
    Tls,
    Unknown(u8),
}

/// An accepted connection.
struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    admission: Admission,
}

async fn identify(stream: &TcpStream, deadline: Duration) -> io::Result<Opening> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
    let opening = tokio::time::timeout(deadline, first_bytes(stream)).await;
    opening.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn first_bytes(stream: &TcpStream) -> io::Result<Opening> {
    let mut seen = [0_u8; HTTP2_PREFACE.len()];
    loop {
        let count = stream.peek(&mut seen).await?;
        // Peeking does not say that the client has closed its side after some bytes: the deadline
        // ends the wait for the rest.
        let seen = seen.get(..count).unwrap_or_default();
        match seen {
            [] => return Err(io::ErrorKind::UnexpectedEof.into()),
            [0, ..] => return Ok(Opening::Postgres),
            [0x16, ..] => return Ok(Opening::Tls),
            _ if seen == HTTP2_PREFACE => return Ok(Opening::Http2),
            [first, ..] if !HTTP2_PREFACE.starts_with(seen) => {
                return Ok(Opening::Unknown(*first));
            }
            _ => {}
        }
        tokio::time::sleep(PREFACE_RECHECK).await;
    }
}

async fn dispatch(
    connection: Connection,
    opening: Opening,
    accepts: Accepts,
    destinations: Destinations,
) {
    let Connection { stream, peer, admission } = connection;
    match (opening, accepts) {
        (Opening::Http2, Accepts::Both | Accepts::Rpc) => {
            if destinations.rpc.send(Ok(stream)).await.is_err() {
                debug!(%peer, "RPC connection refused: the node is stopping");
            }
        }
        (Opening::Postgres, Accepts::Both | Accepts::Sql) => {
            destinations.sql.serve(stream, peer, admission).await;
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
            destinations.sql.serve(stream, peer, admission).await;
        }
        (Opening::Unknown(byte), Accepts::Rpc) => {
            warn!(%peer, "connection refused: first byte {byte:#04x} belongs to no known protocol");
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;

    use super::*;

    /// Keeps each connection's place until told to let it go.
    #[derive(Default)]
    struct Keeper {
        came: Mutex<Vec<SocketAddr>>,
        news: Notify,
        let_go: Notify,
    }

    impl SqlHandler for Keeper {
        fn serve(
            self: Arc<Self>,
            _stream: TcpStream,
            peer: SocketAddr,
            admission: Admission,
        ) -> futures::future::BoxFuture<'static, ()> {
            Box::pin(async move {
                self.came.lock().push(peer);
                self.news.notify_one();
                self.let_go.notified().await;
                drop(admission);
            })
        }
    }

    struct World {
        address: SocketAddr,
        keeper: Arc<Keeper>,
        rpc: mpsc::Receiver<io::Result<TcpStream>>,
        tasks: TaskTracker,
        stop: CancellationToken,
    }

    async fn world(bounds: Bounds) -> World {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (rpc, incoming) = mpsc::channel(4);
        let keeper = Arc::new(Keeper::default());
        let destinations = Destinations { rpc, sql: Arc::<Keeper>::clone(&keeper) };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(accept_loop(
            listener,
            Accepts::Both,
            bounds,
            destinations,
            tasks.clone(),
            stop.clone(),
        ));
        World { address, keeper, rpc: incoming, tasks, stop }
    }

    impl World {
        async fn say(&self, bytes: &[u8]) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream
        }

        async fn end(self) {
            self.stop.cancel();
            self.keeper.let_go.notify_waiters();
            self.tasks.close();
            tokio::time::timeout(Duration::from_secs(10), self.tasks.wait()).await.unwrap();
        }
    }

    async fn in_time<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(10), what).await.unwrap()
    }

    fn bounds() -> Bounds {
        Bounds::from(&Limits::default())
    }

    #[tokio::test]
    async fn protocols_are_told_apart_however_the_bytes_arrive() {
        let mut world = world(bounds()).await;
        let mut slow = world.say(b"PRI * HT").await;
        tokio::time::sleep(PREFACE_RECHECK * 3).await;
        slow.write_all(b"TP/2.0\r\n\r\nSM\r\n\r\n and more").await.unwrap();
        let taken = in_time(world.rpc.recv()).await.unwrap().unwrap();
        assert_eq!(taken.peer_addr().unwrap(), slow.local_addr().unwrap());
        // Whoever takes the connection sees all of it.
        let mut preface = [0; 24];
        let mut taken = taken;
        taken.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, HTTP2_PREFACE);
        for opening in [&[0, 0, 0, 8][..], b"POST / HTTP/1.1\r\n", b"x"] {
            let client = world.say(opening).await;
            in_time(world.keeper.news.notified()).await;
            let last = world.keeper.came.lock().last().copied();
            assert_eq!(last, Some(client.local_addr().unwrap()), "{opening:?}");
            world.keeper.let_go.notify_one();
        }
        world.end().await;
    }

    #[tokio::test]
    async fn who_does_not_say_what_it_speaks_is_let_go() {
        let bounds = Bounds { deadline: Duration::from_millis(50), ..bounds() };
        let world = world(bounds).await;
        for opening in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n"] {
            let mut client = world.say(opening).await;
            let mut answer = Vec::new();
            // A reset counts as closed.
            drop(in_time(client.read_to_end(&mut answer)).await);
            assert!(answer.is_empty(), "{opening:?}: {answer:?}");
        }
        assert!(world.keeper.came.lock().is_empty());
        world.end().await;
    }

    #[tokio::test]
    async fn strangers_beyond_the_room_wait_until_another_has_said_who_it_is() {
        let world = world(Bounds { room: 1, ..bounds() }).await;
        let first = world.say(&[0]).await;
        in_time(world.keeper.news.notified()).await;
        let second = world.say(&[0]).await;
        let early = tokio::time::timeout(Duration::from_millis(100), world.keeper.news.notified());
        assert!(early.await.is_err(), "there was room for one only");
        world.keeper.let_go.notify_one();
        in_time(world.keeper.news.notified()).await;
        let expected = [&first, &second].map(|client| client.local_addr().unwrap());
        assert_eq!(*world.keeper.came.lock(), expected);
        world.end().await;
    }
}
