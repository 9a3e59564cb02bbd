//! The links between nodes of one machine, each of which can be cut, one way or both.
//!
//! ```text
//! node 1 ──connects──> front of node 2 ──> node 2
//!                       │ who calls? the process that owns the caller's socket
//!                       └ bytes 1→2 and 2→1 pass while their link is whole
//! ```
//!
//! A node advertises its front instead of its own address. A cut link loses nothing and refuses
//! nothing: bytes, and the end of a connection, are held back until it is healed, as by a network that
//! drops packets of connections that then send them again. A slow link holds each of them back for a
//! time, as a long way does: what follows it is not held back for longer.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// So many bytes a slow link holds; more wait where they come from.
const MOST_HELD: usize = 1024 * 1024;

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    cut: bool,
    delay: Duration,
}

/// What is wrong with each link: `[from][to]`.
type State = Vec<Vec<Link>>;

/// The fronts of all nodes.
#[derive(Debug)]
pub struct Links {
    state: watch::Sender<State>,
    pids: Arc<Mutex<Vec<Option<u32>>>>,
    ports: Vec<u16>,
    /// Ends with this.
    _fronts: JoinSet<()>,
}

impl Links {
    /// Opens a front for each of the ports that nodes listen on.
    ///
    /// # Errors
    ///
    /// There is no free port.
    pub async fn open(nodes: &[u16]) -> Result<Links> {
        let whole = vec![vec![Link::default(); nodes.len()]; nodes.len()];
        let (state, seen) = watch::channel(whole);
        let pids = Arc::new(Mutex::new(vec![None; nodes.len()]));
        let (mut fronts, mut ports) = (JoinSet::new(), Vec::new());
        for (to, port) in nodes.iter().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            ports.push(listener.local_addr()?.port());
            let front = Front { to, target: *port, pids: Arc::clone(&pids), state: seen.clone() };
            fronts.spawn(front.serve(listener));
        }
        Ok(Links { state, pids, ports, _fronts: fronts })
    }

    /// The port of the front of a node.
    #[must_use]
    pub fn port(&self, node: usize) -> u16 {
        self.ports.get(node).copied().unwrap_or_default()
    }

    /// Says which process a node is.
    pub fn set_pid(&self, node: usize, pid: u32) {
        if let Some(slot) = self.pids.lock().get_mut(node) {
            *slot = Some(pid);
        }
    }

    /// Cuts the link from one node to another, in that direction.
    pub fn cut(&self, from: usize, to: usize) {
        self.change(from, to, |link| link.cut = true);
    }

    /// Makes the way from one node to another take longer, in that direction.
    pub fn delay(&self, from: usize, to: usize, delay: Duration) {
        self.change(from, to, |link| link.delay = delay);
    }

    fn change(&self, from: usize, to: usize, change: impl FnOnce(&mut Link)) {
        self.state.send_modify(|state| {
            if let Some(link) = state.get_mut(from).and_then(|row| row.get_mut(to)) {
                change(link);
            }
        });
    }

    /// Heals all links.
    pub fn heal(&self) {
        let whole = |link: &mut Link| *link = Link::default();
        self.state.send_modify(|state| state.iter_mut().flatten().for_each(whole));
    }
}

/// The front of one node.
struct Front {
    to: usize,
    target: u16,
    pids: Arc<Mutex<Vec<Option<u32>>>>,
    state: watch::Receiver<State>,
}

impl Front {
    async fn serve(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((stream, peer)) = accepted else { continue };
                    let from = self.caller(peer.port());
                    let state = self.state.clone();
                    connections.spawn(carry(stream, self.target, from, self.to, state));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// The node whose process owns the socket with this port; none for a client.
    fn caller(&self, port: u16) -> Option<usize> {
        let socket = socket_of(port).ok()?;
        let pids = self.pids.lock().clone();
        pids.iter().position(|pid| pid.is_some_and(|pid| owns(pid, &socket)))
    }
}

/// The name, in `/proc`, of the local socket with this port.
fn socket_of(port: u16) -> Result<String> {
    let table = std::fs::read_to_string("/proc/self/net/tcp")?;
    let suffix = format!(":{port:04X}");
    for line in table.lines().skip(1) {
        let mut fields = line.split_whitespace().skip(1);
        let (local, inode) = (fields.next().unwrap_or_default(), fields.nth(7));
        // The connecting end, not the accepted one, has the port as its own.
        if let Some(inode) = inode.filter(|_| local.ends_with(&suffix)) {
            return Ok(format!("socket:[{inode}]"));
        }
    }
    anyhow::bail!("no socket has port {port}")
}

fn owns(pid: u32, socket: &str) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files
        .flatten()
        .any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target == Path::new(socket)))
}

async fn carry(
    caller: TcpStream,
    target: u16,
    from: Option<usize>,
    to: usize,
    state: watch::Receiver<State>,
) -> Result<()> {
    let mut whole = state.clone();
    // A connection is not even made over a link that is cut.
    passes(&mut whole, from.map(|from| (from, to))).await?;
    passes(&mut whole, from.map(|from| (to, from))).await?;
    let node = TcpStream::connect(("127.0.0.1", target)).await.context("the node is down")?;
    caller.set_nodelay(true)?;
    node.set_nodelay(true)?;
    let (caller_in, caller_out) = caller.into_split();
    let (node_in, node_out) = node.into_split();
    let there = pump(caller_in, node_out, from.map(|from| (from, to)), state.clone());
    let back = pump(node_in, caller_out, from.map(|from| (to, from)), state);
    // An error on one way, a reset, ends the other.
    tokio::try_join!(there, back)?;
    Ok(())
}

async fn pump(
    mut input: tokio::net::tcp::OwnedReadHalf,
    mut output: tokio::net::tcp::OwnedWriteHalf,
    link: Option<(usize, usize)>,
    mut state: watch::Receiver<State>,
) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    // What is on its way, and when it is there; nothing at all is the end of the connection.
    let mut held: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let (mut bytes, mut ended) = (0, false);
    loop {
        let due = held.front().map(|(due, _)| *due);
        tokio::select! {
            outcome = input.read(&mut buffer), if !ended && bytes < MOST_HELD => {
                passes(&mut state, link).await?;
                let read = buffer.get(..outcome?).unwrap_or_default();
                ended = read.is_empty();
                let delay = link_of(&state.borrow(), link).delay;
                if delay.is_zero() && held.is_empty() && !ended {
                    output.write_all(read).await?;
                    continue;
                }
                let due = Instant::now() + delay;
                // Nothing overtakes what was sent before it.
                let due = held.back().map_or(due, |(last, _)| due.max(*last));
                bytes += read.len();
                held.push_back((due, read.to_vec()));
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                passes(&mut state, link).await?;
                let Some((_, there)) = held.pop_front() else { continue };
                if there.is_empty() {
                    output.shutdown().await?;
                    return Ok(());
                }
                bytes -= there.len();
                output.write_all(&there).await?;
            }
        }
    }
}

fn link_of(state: &State, link: Option<(usize, usize)>) -> Link {
    let found = link.and_then(|(from, to)| state.get(from)?.get(to));
    found.copied().unwrap_or_default()
}

/// Waits until a link is whole.
async fn passes(state: &mut watch::Receiver<State>, link: Option<(usize, usize)>) -> Result<()> {
    if link.is_some() {
        state.wait_for(|state| !link_of(state, link).cut).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn echo(listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 16];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                stream.write_all(&buffer[..count]).await.unwrap();
            }
        }
    }

    async fn answers(stream: &mut TcpStream) -> bool {
        let mut answer = [0; 2];
        let read = stream.read_exact(&mut answer);
        timeout(Duration::from_millis(300), read).await.is_ok_and(|read| read.is_ok())
    }

    #[tokio::test]
    async fn a_cut_or_slow_link_holds_back_one_way() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(echo(listener));
        // This process is node 2, and calls node 1.
        let links = Links::open(&[port, 1]).await.unwrap();
        links.set_pid(1, std::process::id());
        let mut stream = TcpStream::connect(("127.0.0.1", links.port(0))).await.unwrap();
        stream.write_all(b"ab").await.unwrap();
        assert!(answers(&mut stream).await);
        for (from, to) in [(1, 0), (0, 1)] {
            links.cut(from, to);
            stream.write_all(b"cd").await.unwrap();
            assert!(!answers(&mut stream).await, "{from} to {to} is cut");
            links.heal();
            assert!(answers(&mut stream).await, "{from} to {to} is healed");
        }
        // A slow link brings everything in its order, only later.
        let delay = Duration::from_millis(400);
        links.delay(1, 0, delay);
        let sent = Instant::now();
        stream.write_all(b"12").await.unwrap();
        assert!(!answers(&mut stream).await);
        links.heal();
        stream.write_all(b"34").await.unwrap();
        assert!(answers(&mut stream).await && answers(&mut stream).await);
        assert!(sent.elapsed() >= delay, "{:?}", sent.elapsed());
        // Another's cut does not matter.
        links.cut(0, 0);
        stream.write_all(b"ef").await.unwrap();
        assert!(answers(&mut stream).await);
    }
}
