//! Where to connect: flags, environment and URL resolved into one [`Target`].
//!
//! Precedence, highest first: `--url`, discrete flags, `CRDB_*` variables, `COCKROACH_*`
//! variables, defaults. The environment is an argument so that resolving stays pure.

use std::path::PathBuf;

use tokio_postgres::config::{Config, Host};

/// Port of RPC and SQL when none is given.
pub const DEFAULT_PORT: u16 = 26257;

/// Flags that say which cluster to talk to and as whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct ConnectionArgs {
    /// Node to connect to [env: CRDB_HOST, COCKROACH_HOST] [default: localhost:26257].
    #[arg(long, value_name = "HOST[:PORT]")]
    pub host: Option<String>,
    /// Port to connect to, when --host names none [env: CRDB_PORT, COCKROACH_PORT].
    #[arg(long, short = 'p')]
    pub port: Option<u16>,
    /// User to log in as [env: CRDB_USER, COCKROACH_USER] [default: root].
    #[arg(long, short = 'u')]
    pub user: Option<String>,
    /// Database to use [env: CRDB_DATABASE, COCKROACH_DATABASE] [default: defaultdb].
    #[arg(long, short = 'd')]
    pub database: Option<String>,
    /// Connection URL; overrides the other connection flags [env: CRDB_URL, COCKROACH_URL].
    #[arg(long, value_name = "postgresql://...")]
    pub url: Option<String>,
    /// Connect without TLS and without a password [env: CRDB_INSECURE, COCKROACH_INSECURE].
    #[arg(long)]
    pub insecure: bool,
    /// Directory of the certificates [env: CRDB_CERTS_DIR, COCKROACH_CERTS_DIR].
    #[arg(long, value_name = "DIR")]
    pub certs_dir: Option<PathBuf>,
}

/// A resolved server address and login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User to log in as.
    pub user: String,
    /// Database to start in.
    pub database: String,
    /// Sent as `application_name`.
    pub application_name: String,
    /// Command-line options for the server (`options` of the URL).
    pub options: Option<String>,
}

/// Why flags do not name a usable target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The address cannot be read.
    #[error("invalid address {text:?}: {reason}")]
    Address {
        /// Address as given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The URL cannot be read.
    #[error("invalid --url: {0}")]
    Url(String),
    /// An environment variable cannot be read.
    #[error("invalid value {value:?} of environment variable {name}: {reason}")]
    Environment {
        /// Name of the variable.
        name: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS was asked for, explicitly or by default.
    #[error(
        "this version connects only to clusters without TLS; add --insecure, or sslmode=disable to the URL"
    )]
    SecureModeMissing,
}

/// Looks up environment variables.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process.
#[must_use]
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn variable(environment: Environment<'_>, suffix: &str) -> Option<(String, String)> {
    ["CRDB", "COCKROACH"].iter().find_map(|prefix| {
        let name = format!("{prefix}_{suffix}");
        environment(&name).filter(|value| !value.is_empty()).map(|value| (name, value))
    })
}

impl ConnectionArgs {
    /// Resolves flags and environment.
    ///
    /// # Errors
    ///
    /// When an address, port or URL cannot be read, or when TLS would be needed.
    pub fn resolve(&self, environment: Environment<'_>) -> Result<Target, TargetError> {
        let value = |flag: &Option<String>, suffix| {
            flag.clone().or_else(|| variable(environment, suffix).map(|(_, value)| value))
        };
        // A flag beats a variable: COCKROACH_URL does not override an explicit --host.
        let url = self.url.clone().or_else(|| {
            let explicit = self.host.is_some() || self.port.is_some();
            (!explicit).then(|| variable(environment, "URL").map(|(_, url)| url)).flatten()
        });
        let mut insecure = self.insecure || self.insecure_by_environment(environment)?;
        let port = match self.port {
            Some(port) => port,
            None => match variable(environment, "PORT") {
                Some((name, value)) => value.parse().map_err(|_| TargetError::Environment {
                    name,
                    value,
                    reason: "not a port number".to_owned(),
                })?,
                None => DEFAULT_PORT,
            },
        };
        let (host, port) = match value(&self.host, "HOST") {
            Some(text) => parse_address(&text, port)?,
            None => ("localhost".to_owned(), port),
        };
        let mut target = Target {
            host,
            port,
            user: value(&self.user, "USER").unwrap_or_else(|| "root".to_owned()),
            database: value(&self.database, "DATABASE").unwrap_or_else(|| "defaultdb".to_owned()),
            application_name: "$ crdb sql".to_owned(),
            options: None,
        };
        if let Some(url) = url {
            insecure = target.apply_url(&url)? || insecure;
        }
        if insecure { Ok(target) } else { Err(TargetError::SecureModeMissing) }
    }

    fn insecure_by_environment(&self, environment: Environment<'_>) -> Result<bool, TargetError> {
        // Naming certificates asks for TLS, whatever the environment says.
        if self.certs_dir.is_some() {
            return Ok(false);
        }
        let Some((name, value)) = variable(environment, "INSECURE") else { return Ok(false) };
        match value.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" | "yes" | "on" => Ok(true),
            "0" | "f" | "false" | "no" | "off" => Ok(false),
            _ => Err(TargetError::Environment { name, value, reason: "not a boolean".to_owned() }),
        }
    }
}

impl Target {
    /// `host:port`, with brackets around an IPv6 address.
    #[must_use]
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The URL another client can connect with.
    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "postgresql://{}@{}/{}?sslmode=disable",
            percent_encode(&self.user),
            self.address(),
            percent_encode(&self.database)
        )
    }

    /// Takes over what the URL says; gives whether it forgoes TLS.
    fn apply_url(&mut self, url: &str) -> Result<bool, TargetError> {
        let (insecure, url) = take_sslmode(url)?;
        let config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            TargetError::Url(cause.unwrap_or_else(|| error.to_string()))
        })?;
        if config.get_password().is_some() {
            return Err(TargetError::Url(
                "it holds a password, but clusters without TLS take none".to_owned(),
            ));
        }
        match config.get_hosts() {
            [] => {}
            [Host::Tcp(host)] => self.host = host.trim_matches(['[', ']']).to_owned(),
            [Host::Unix(path)] => {
                let reason = format!("Unix socket {} is not supported", path.display());
                return Err(TargetError::Url(reason));
            }
            [_, ..] => return Err(TargetError::Url("it names more than one host".to_owned())),
        }
        if !config.get_hosts().is_empty() {
            // A URL without a port means ours; the parser would fill in that of PostgreSQL.
            let port = config.get_ports().first().copied().filter(|_| names_port(&url));
            self.port = port.unwrap_or(DEFAULT_PORT);
        }
        if let Some(user) = config.get_user() {
            user.clone_into(&mut self.user);
        }
        if let Some(database) = config.get_dbname() {
            database.clone_into(&mut self.database);
        }
        if let Some(name) = config.get_application_name() {
            name.clone_into(&mut self.application_name);
        }
        self.options = config.get_options().map(ToOwned::to_owned);
        Ok(insecure)
    }
}

/// Removes `sslmode` from the query of a URL; gives whether it allows a connection without TLS.
fn take_sslmode(url: &str) -> Result<(bool, String), TargetError> {
    let known = ["postgresql://", "postgres://"].iter().any(|scheme| url.starts_with(scheme));
    if !known {
        return Err(TargetError::Url(format!("{url:?} does not start with postgresql://")));
    }
    let Some((base, query)) = url.split_once('?') else { return Ok((false, url.to_owned())) };
    let mut insecure = false;
    let mut kept = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", "disable" | "allow" | "prefer")) => insecure = true,
            Some(("sslmode", "require" | "verify-ca" | "verify-full")) => {
                return Err(TargetError::SecureModeMissing);
            }
            Some(("sslmode", mode)) => {
                return Err(TargetError::Url(format!("unknown sslmode {mode:?}")));
            }
            _ => kept.push(parameter),
        }
    }
    if kept.is_empty() {
        Ok((insecure, base.to_owned()))
    } else {
        Ok((insecure, format!("{base}?{}", kept.join("&"))))
    }
}

/// Whether a URL says which port it means, in the authority or as a parameter.
fn names_port(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = before_query.split('/').next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let after_brackets = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    after_brackets.contains(':') || query.split('&').any(|field| field.starts_with("port="))
}

/// Reads `host`, `host:port`, `:port`, `[v6]` or `[v6]:port`.
///
/// # Errors
///
/// When the port is no number or brackets do not match.
pub fn parse_address(text: &str, default_port: u16) -> Result<(String, u16), TargetError> {
    let error =
        |reason: &str| TargetError::Address { text: text.to_owned(), reason: reason.to_owned() };
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']').ok_or_else(|| error("']' is missing"))?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(error("only ':PORT' may follow ']'")),
        }
    } else if text.matches(':').count() > 1 {
        (text, None)
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        None | Some("") => default_port,
        Some(port) => port.parse().map_err(|_| error("the port is not a number below 65536"))?,
    };
    let host = if host.is_empty() { "localhost" } else { host };
    if host.contains(char::is_whitespace) || host.contains('/') {
        return Err(error("a host name holds neither blanks nor slashes"));
    }
    Ok((host.to_owned(), port))
}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(args: &ConnectionArgs, environment: &[(&str, &str)]) -> Result<String, String> {
        let lookup = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned())
        };
        args.resolve(&lookup)
            .map(|target| format!("{} {} {}", target.address(), target.user, target.database))
            .map_err(|error| error.to_string())
    }

    fn insecure() -> ConnectionArgs {
        ConnectionArgs { insecure: true, ..ConnectionArgs::default() }
    }

    fn with_url(url: &str) -> ConnectionArgs {
        ConnectionArgs { url: Some(url.to_owned()), ..ConnectionArgs::default() }
    }

    #[test]
    fn defaults_flags_and_environment() {
        assert_eq!(resolve(&insecure(), &[]).unwrap(), "localhost:26257 root defaultdb");
        let args = ConnectionArgs {
            host: Some("db".to_owned()),
            port: Some(5),
            user: Some("ann".to_owned()),
            database: Some("shop".to_owned()),
            ..insecure()
        };
        assert_eq!(resolve(&args, &[("COCKROACH_HOST", "other")]).unwrap(), "db:5 ann shop");
        let environment = [
            ("COCKROACH_HOST", "a:1"),
            ("CRDB_HOST", "b:2"),
            ("COCKROACH_USER", "eve"),
            ("COCKROACH_DATABASE", "x"),
            ("COCKROACH_INSECURE", "true"),
        ];
        assert_eq!(resolve(&ConnectionArgs::default(), &environment).unwrap(), "b:2 eve x");
    }

    #[test]
    fn a_url_overrides_flags_but_a_flag_overrides_a_url_of_the_environment() {
        let args = ConnectionArgs {
            host: Some("ignored".to_owned()),
            ..with_url("postgresql://ann@db:7/shop?sslmode=disable&application_name=x")
        };
        assert_eq!(resolve(&args, &[]).unwrap(), "db:7 ann shop");
        assert_eq!(
            resolve(&with_url("postgres://[::1]?sslmode=disable"), &[]).unwrap(),
            "[::1]:26257 root defaultdb"
        );
        let environment = [("CRDB_URL", "postgresql://db:7?sslmode=disable")];
        assert_eq!(
            resolve(&ConnectionArgs::default(), &environment).unwrap(),
            "db:7 root defaultdb"
        );
        let args = ConnectionArgs { host: Some("h".to_owned()), ..insecure() };
        assert_eq!(resolve(&args, &environment).unwrap(), "h:26257 root defaultdb");
    }

    #[test]
    fn tls_is_refused_clearly() {
        for args in [
            ConnectionArgs::default(),
            with_url("postgresql://root@db"),
            with_url("postgresql://root@db?sslmode=verify-full"),
            ConnectionArgs { certs_dir: Some("certs".into()), ..ConnectionArgs::default() },
        ] {
            let error = resolve(&args, &[]).unwrap_err();
            assert!(error.contains("add --insecure"), "{error}");
        }
        let args = ConnectionArgs { certs_dir: Some("certs".into()), ..ConnectionArgs::default() };
        assert!(resolve(&args, &[("COCKROACH_INSECURE", "1")]).is_err());
    }

    #[test]
    fn bad_input_is_named() {
        for (args, environment, expected) in [
            (with_url("mysql://db"), vec![], "does not start with postgresql://"),
            (with_url("postgresql://db?sslmode=maybe"), vec![], "unknown sslmode \"maybe\""),
            (with_url("postgresql://db:x?sslmode=disable"), vec![], "invalid --url"),
            (with_url("postgresql://u:pw@db?sslmode=disable"), vec![], "holds a password"),
            (with_url("postgresql://a,b/?sslmode=disable"), vec![], "more than one host"),
            (insecure(), vec![("CRDB_PORT", "many")], "\"many\" of environment variable CRDB_PORT"),
            (insecure(), vec![("COCKROACH_HOST", "a:b")], "invalid address \"a:b\""),
            (ConnectionArgs::default(), vec![("CRDB_INSECURE", "maybe")], "not a boolean"),
        ] {
            let error = resolve(&args, &environment).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn addresses() {
        let parse = |text| parse_address(text, 9).map_err(|error| error.to_string());
        assert_eq!(parse("a"), Ok(("a".to_owned(), 9)));
        assert_eq!(parse("a:1"), Ok(("a".to_owned(), 1)));
        assert_eq!(parse(":1"), Ok(("localhost".to_owned(), 1)));
        assert_eq!(parse("::1"), Ok(("::1".to_owned(), 9)));
        assert_eq!(parse("[::1]:2"), Ok(("::1".to_owned(), 2)));
        for bad in ["a:65536", "a:x", "[::1", "[::1]2", "a b", "http://a"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn urls_are_encoded() {
        let target = Target {
            host: "::1".to_owned(),
            port: 1,
            user: "a b".to_owned(),
            database: "ü".to_owned(),
            application_name: String::new(),
            options: None,
        };
        assert_eq!(target.url(), "postgresql://a%20b@[::1]:1/%C3%BC?sslmode=disable");
    }
}
