//! Addresses as users write them: `host:port`, `host`, `:port`, `[::1]:26257`.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// Port of RPC and SQL where none is given.
pub const DEFAULT_PORT: u16 = 26257;
/// Port of HTTP where none is given.
pub const DEFAULT_HTTP_PORT: u16 = 8080;

/// A host and a port, either of which the user may have left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartialAddress {
    /// Host name or IP address; empty: left out.
    pub host: String,
    /// Port, if given.
    pub port: Option<u16>,
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Host name or IP address, without brackets; empty: all interfaces.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid address {text:?}: {reason}")]
pub struct AddressError {
    /// What was given.
    pub text: String,
    /// Why it is no address.
    pub reason: &'static str,
}

impl FromStr for PartialAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |reason| AddressError { text: text.to_owned(), reason };
        let trimmed = text.trim();
        let (host, port) = if let Some(rest) = trimmed.strip_prefix('[') {
            let (host, after) = rest.split_once(']').ok_or_else(|| error("missing ]"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(error("what stands in brackets is not an IPv6 address"));
            }
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err(error("unexpected text after ]")),
            }
        } else {
            match trimmed.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return Err(error("too many colons; write an IPv6 address in brackets"));
                }
                Some((host, port)) => (host, Some(port)),
                None => (trimmed, None),
            }
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if host.len() > 255 || !host.chars().all(plain) {
            return Err(error("the host is neither a name nor an IP address"));
        }
        let port = match port {
            None | Some("") => None,
            Some(port) => {
                Some(port.parse().map_err(|_| error("the port is not a number up to 65535"))?)
            }
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl PartialAddress {
    /// Fills what was left out.
    #[must_use]
    pub fn or(self, host: &str, port: u16) -> Address {
        let host = if self.host.is_empty() { host.to_owned() } else { self.host };
        Address { host, port: self.port.unwrap_or(port) }
    }
}

impl Address {
    /// Whether it stands for all interfaces of the machine.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        matches!(self.host.as_str(), "" | "0.0.0.0" | "::")
    }

    /// The same address in the form in which two spellings of it are equal.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let host = self.host.to_ascii_lowercase();
        Self { host: host.strip_suffix('.').unwrap_or(&host).to_owned(), port: self.port }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Parses an address a node advertises, in which nothing is left out.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |reason| AddressError { text: text.to_owned(), reason };
        let PartialAddress { host, port } = text.parse()?;
        let port = port.ok_or_else(|| error("the port is missing"))?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The nodes a new node may join through, in the order the user gave them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JoinList(Vec<Address>);

impl JoinList {
    /// Reads the values of `--join`, each a comma-separated list; ports are filled in, doubles
    /// dropped.
    pub fn parse<S: AsRef<str>>(flags: &[S]) -> Result<Self, AddressError> {
        let mut list: Vec<Address> = Vec::new();
        for entry in flags.iter().flat_map(|flag| flag.as_ref().split(',')) {
            if entry.trim().is_empty() {
                continue;
            }
            let address = entry.parse::<PartialAddress>()?;
            if address.host.is_empty() {
                let reason = "the host of a node to join is missing";
                return Err(AddressError { text: entry.to_owned(), reason });
            }
            let address = address.or("", DEFAULT_PORT).normalized();
            if address.port == 0 {
                let reason = "port 0 cannot be joined";
                return Err(AddressError { text: entry.to_owned(), reason });
            }
            if !list.contains(&address) {
                list.push(address);
            }
        }
        Ok(Self(list))
    }

    /// The entries in order.
    #[must_use]
    pub fn entries(&self) -> &[Address] {
        &self.0
    }

    /// Where `address` stands in the list, from 0.
    #[must_use]
    pub fn position(&self, address: &Address) -> Option<usize> {
        let address = address.normalized();
        self.0.iter().position(|entry| *entry == address)
    }

    /// SHA-256 of the ordered list, lower-case hex.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for entry in &self.0 {
            hasher.update(entry.to_string().as_bytes());
            hasher.update(b"\n");
        }
        hex::encode(hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_in_what_is_left_out() {
        for (text, full) in [
            ("localhost:26258", "localhost:26258"),
            ("localhost", "localhost:26257"),
            (":9", "any:9"),
            ("", "any:26257"),
            ("[::1]:5", "[::1]:5"),
            ("[::1]", "[::1]:26257"),
            ("host:", "host:26257"),
        ] {
            let address = text.parse::<PartialAddress>().unwrap().or("any", DEFAULT_PORT);
            assert_eq!(address.to_string(), full, "{text:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_address() {
        for text in ["::1:26257", "a b:1", "host:http", "host:70000", "[::1:5", "[host]:1", "a:-1"]
        {
            let error = text.parse::<PartialAddress>().unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn join_lists_are_normalized_and_ordered() {
        let a = JoinList::parse(&["LocalHost:26257,localhost:26258", "localhost"]).unwrap();
        let b = JoinList::parse(&["localhost, localhost:26258"]).unwrap();
        assert_eq!(a, b);
        assert_eq!(a.hash(), b.hash());
        assert_eq!(a.position(&"localhost:26258".parse().unwrap()), Some(1));
        let c = JoinList::parse(&["localhost:26258,localhost:26257"]).unwrap();
        assert_ne!(a.hash(), c.hash());
        assert!(JoinList::parse(&["localhost:0"]).is_err());
        assert!(JoinList::parse(&[":26257"]).is_err());
    }
}
