//! Ports for the servers that tests start, which must know them before they listen.
//!
//! A port asked of the kernel and let go of again can be given to somebody else before the server
//! listens: to a connection, or to a server of a test that runs at the same time. These ports lie
//! below those that the kernel gives away, and each is reserved for one process until its end by an
//! abstract socket, which leaves no file and cannot outlive the process.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Result, bail};
use parking_lot::Mutex;

/// Above the ports of well-known services, below those that Kubernetes gives to services (30000)
/// and the kernel to connections (32768, `net.ipv4.ip_local_port_range`).
const PORTS: Range<u16> = 10_000..30_000;

/// How far apart processes with following ids begin to look.
const STRIDE: u32 = 128;

/// The reservations of this process.
static RESERVED: Mutex<Vec<(u16, UnixListener)>> = Mutex::new(Vec::new());

/// A port of 127.0.0.1 where nobody listens, which no other caller gets while this process lives.
///
/// # Errors
///
/// All ports are taken.
pub fn reserve_port() -> Result<u16> {
    let mut reserved = RESERVED.lock();
    let count = u32::from(PORTS.end - PORTS.start);
    let first = match reserved.last() {
        Some((port, _)) => u32::from(port - PORTS.start) + 1,
        None => std::process::id() % count * STRIDE,
    };
    for offset in 0..count {
        let port = PORTS.start + u16::try_from((first + offset) % count)?;
        let Some(reservation) = reserve(port)? else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            reserved.push((port, reservation));
            return Ok(port);
        }
    }
    bail!("no free port from {} to {}: stop some of the servers there", PORTS.start, PORTS.end)
}

/// Reserves one port, unless somebody has it.
fn reserve(port: u16) -> Result<Option<UnixListener>> {
    let name = SocketAddr::from_abstract_name(format!("crdb-test-port-{port}"))?;
    match UnixListener::bind_addr(&name) {
        Ok(reservation) => Ok(Some(reservation)),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_to_one_caller_and_can_be_listened_on() {
        let ports = [reserve_port().unwrap(), reserve_port().unwrap(), reserve_port().unwrap()];
        for (index, port) in ports.into_iter().enumerate() {
            assert!(PORTS.contains(&port), "{port}");
            assert!(!ports[..index].contains(&port), "{ports:?}");
            assert!(reserve(port).unwrap().is_none(), "{port} can be reserved again");
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[test]
    fn a_port_where_somebody_listens_is_passed_over() {
        let before = reserve_port().unwrap();
        let strangers: Vec<_> = (before + 1..PORTS.end)
            .take(3)
            .filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
            .collect();
        let port = reserve_port().unwrap();
        let taken = strangers.iter().any(|other| other.local_addr().unwrap().port() == port);
        assert!(!taken, "{port} is in use");
    }
}
