//! Binding listeners, and who owns an address.
//!
//! The SQL listener sets `SO_REUSEPORT`, so that a balancer on the same machine may listen on the
//! wildcard address beside it. The kernel then no longer keeps two nodes from sharing an address;
//! an exclusive lock on the exact address does: a unix socket in the abstract name space, which
//! the kernel releases with the process and which is as wide as the network name space.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::address::Address;

/// Length of the queue of connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The host has no address.
    #[error("cannot listen on {address}: the host does not resolve: {source}")]
    Resolve {
        /// What was to be listened on.
        address: Address,
        /// What the resolver said.
        source: io::Error,
    },
    /// Another node owns the address.
    #[error("cannot listen on {address}: address already in use by another node")]
    Owned {
        /// What was to be listened on.
        address: Address,
    },
    /// The kernel refused.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// What was to be listened on.
        address: Address,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BindError {
    /// Whether somebody else listens there.
    #[must_use]
    pub fn in_use(&self) -> bool {
        match self {
            Self::Owned { .. } => true,
            Self::Bind { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
            Self::Resolve { .. } => false,
        }
    }
}

/// A listening socket and, if it shares its port, the lock that says whose it is.
#[derive(Debug)]
pub(crate) struct Bound {
    /// The socket.
    pub listener: TcpListener,
    /// Where it listens, port filled in.
    pub local: SocketAddr,
    /// Held as long as the listener.
    pub lock: Option<AddressLock>,
}

/// Whether a listener lets a foreign wildcard listener share its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// The port is ours alone.
    Exclusive,
    /// `SO_REUSEPORT`, guarded by an [`AddressLock`].
    ReusePort,
}

/// Opens a listener on `address`.
pub(crate) fn bind(address: &Address, sharing: Sharing) -> Result<Bound, BindError> {
    let target = resolve(address)
        .map_err(|source| BindError::Resolve { address: address.clone(), source })?;
    let error = |source| BindError::Bind { address: address.clone(), source };
    let mut lock = None;
    if sharing == Sharing::ReusePort && target.port() != 0 {
        lock = Some(AddressLock::take(target, address)?);
    }
    let listener = listen(target, sharing).map_err(error)?;
    let local = listener.local_addr().map_err(error)?;
    if sharing == Sharing::ReusePort && lock.is_none() {
        lock = Some(AddressLock::take(local, address)?);
    }
    Ok(Bound { listener, local, lock })
}

fn listen(target: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if target.is_ipv6() {
        // `[::]` and an empty host mean both families.
        socket.set_only_v6(false)?;
    }
    if sharing == Sharing::ReusePort {
        // With port 0 the kernel might hand out a port that somebody else shares already.
        socket.set_reuse_port(target.port() != 0)?;
    }
    socket.bind(&target.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The address to listen on: IPv4 before IPv6, so that `localhost` means the same for all.
fn resolve(address: &Address) -> io::Result<SocketAddr> {
    if address.host.is_empty() {
        let v6 = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, address.port));
        let v4 = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, address.port));
        // A machine without IPv6 cannot even make such a socket.
        let has_v6 = Socket::new(Domain::IPV6, Type::STREAM, None).is_ok();
        return Ok(if has_v6 { v6 } else { v4 });
    }
    let found: Vec<SocketAddr> = (address.host.as_str(), address.port).to_socket_addrs()?.collect();
    let first = found.iter().find(|a| a.is_ipv4()).or_else(|| found.first());
    first.copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address found"))
}

/// The exclusive right of this process to an exact listen address.
#[derive(Debug)]
pub(crate) struct AddressLock {
    #[cfg(target_os = "linux")]
    _socket: std::os::unix::net::UnixListener,
}

impl AddressLock {
    #[cfg(target_os = "linux")]
    fn take(target: SocketAddr, address: &Address) -> Result<Self, BindError> {
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

        let error = |source: io::Error| {
            if source.kind() == io::ErrorKind::AddrInUse {
                BindError::Owned { address: address.clone() }
            } else {
                BindError::Bind { address: address.clone(), source }
            }
        };
        let name = UnixAddr::from_abstract_name(format!("crdb-listen/{target}")).map_err(error)?;
        UnixListener::bind_addr(&name).map(|socket| Self { _socket: socket }).map_err(error)
    }

    /// Without an abstract name space the probe is a connection: a foreign wildcard listener is
    /// then taken for an owner, which errs on the safe side.
    #[cfg(not(target_os = "linux"))]
    fn take(target: SocketAddr, address: &Address) -> Result<Self, BindError> {
        let patience = std::time::Duration::from_millis(200);
        match std::net::TcpStream::connect_timeout(&target, patience) {
            Ok(_) => Err(BindError::Owned { address: address.clone() }),
            Err(_) => Ok(Self {}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(port: u16) -> Address {
        Address { host: "127.0.0.1".into(), port }
    }

    #[tokio::test]
    async fn two_nodes_cannot_share_an_address() {
        let first = bind(&local(0), Sharing::ReusePort).unwrap();
        // Bind again with the real port, as a restarted node would.
        let address = local(first.local.port());
        drop(first);
        let first = bind(&address, Sharing::ReusePort).unwrap();
        let error = bind(&address, Sharing::ReusePort).unwrap_err();
        assert!(error.in_use(), "{error}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        drop(first);
        bind(&address, Sharing::ReusePort).unwrap();
    }

    #[tokio::test]
    async fn a_foreign_wildcard_listener_does_not_block_a_restart() {
        let probe = bind(&local(0), Sharing::Exclusive).unwrap();
        let port = probe.local.port();
        drop(probe);
        let first = bind(&local(port), Sharing::ReusePort).unwrap();
        let balancer = listen(SocketAddr::from(([0, 0, 0, 0], port)), Sharing::ReusePort).unwrap();
        drop(first);
        bind(&local(port), Sharing::ReusePort).unwrap();
        drop(balancer);
    }

    #[tokio::test]
    async fn an_exclusive_listener_is_in_use() {
        let first = bind(&local(0), Sharing::Exclusive).unwrap();
        let error = bind(&local(first.local.port()), Sharing::Exclusive).unwrap_err();
        assert!(error.in_use(), "{error}");
    }
}
