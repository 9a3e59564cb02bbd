//! Opens the listeners of a node and works out what it advertises.

use std::net::SocketAddr;

use super::config::{HttpAddress, NodeConfig};
use crate::address::{Address, DEFAULT_HTTP_PORT, DEFAULT_PORT, PartialAddress};
use crate::net::bind::{BindError, Bound, Sharing, bind};

/// How many ports are tried for HTTP when the default one is taken.
const HTTP_PORTS_TRIED: u16 = 100;

/// The open listeners of a node.
pub(crate) struct Listeners {
    /// RPC, and SQL if `sql` is not set.
    pub(crate) rpc: Bound,
    /// SQL alone.
    pub(crate) sql: Option<Bound>,
    /// HTTP.
    pub(crate) http: Bound,
    /// What to tell the user about the HTTP port, if it is not the one expected.
    pub(crate) http_moved: Option<String>,
}

/// The addresses a node tells others, ports filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertised {
    /// For peers and the admin API.
    pub rpc: Address,
    /// For SQL clients.
    pub sql: Address,
    /// For HTTP clients.
    pub http: Address,
}

pub(crate) fn open(config: &NodeConfig) -> Result<Listeners, BindError> {
    let shared = |address: &Address| bind(address, Sharing::ReusePort);
    let (rpc, sql) = match &config.sql {
        None => (shared(&config.listen)?, None),
        Some(sql) => (bind(&config.listen, Sharing::Exclusive)?, Some(shared(sql)?)),
    };
    let (http, http_moved) = open_http(config, rpc.local)?;
    Ok(Listeners { rpc, sql, http, http_moved })
}

fn open_http(config: &NodeConfig, rpc: SocketAddr) -> Result<(Bound, Option<String>), BindError> {
    let wanted = match &config.http {
        HttpAddress::Exact(address) => return Ok((bind(address, Sharing::Exclusive)?, None)),
        HttpAddress::Default(address) => address,
    };
    let taken = match bind(wanted, Sharing::Exclusive) {
        Err(error) if error.in_use() => error,
        other => return other.map(|bound| (bound, None)),
    };
    // As far from the default as the RPC port is from its default, then upwards.
    let distance = rpc.port().checked_sub(DEFAULT_PORT).filter(|d| *d > 0).unwrap_or(1);
    let first = DEFAULT_HTTP_PORT.saturating_add(distance);
    let mut last = taken;
    for port in (first..=u16::MAX).take(HTTP_PORTS_TRIED.into()) {
        let address = Address { host: wanted.host.clone(), port };
        match bind(&address, Sharing::Exclusive) {
            Ok(bound) => {
                let text = format!(
                    "HTTP port {} is in use; listening for HTTP on {address} instead (set \
                     --http-addr to choose)",
                    wanted.port
                );
                return Ok((bound, Some(text)));
            }
            Err(error) if error.in_use() => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// What the node advertises, given where it listens.
pub(crate) fn advertised(config: &NodeConfig, listeners: &Listeners) -> Advertised {
    let fallback = hostname();
    let listen_host = |address: &Address| {
        if address.is_wildcard() { fallback.clone() } else { address.host.clone() }
    };
    let fill = |given: Option<&PartialAddress>, host: String, port: u16| {
        given.cloned().unwrap_or_default().or(&host, port)
    };
    let rpc_port = listeners.rpc.local.port();
    let rpc = fill(config.advertise.as_ref(), listen_host(&config.listen), rpc_port);
    let given_sql = config.advertise_sql.as_ref();
    let sql = match (&config.sql, &listeners.sql) {
        // The RPC host is what others know to reach, unless SQL has a host of its own.
        (Some(own), Some(bound)) if own.host != config.listen.host => {
            fill(given_sql, listen_host(own), bound.local.port())
        }
        (_, Some(bound)) => fill(given_sql, rpc.host.clone(), bound.local.port()),
        (_, None) => fill(given_sql, rpc.host.clone(), rpc.port),
    };
    let own_http = match &config.http {
        HttpAddress::Exact(address) | HttpAddress::Default(address) => address,
    };
    let http_host =
        if own_http.host == config.listen.host { rpc.host.clone() } else { listen_host(own_http) };
    let http = fill(config.advertise_http.as_ref(), http_host, listeners.http.local.port());
    Advertised { rpc, sql, http }
}

fn hostname() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}
