//! The first packets of a connection: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::report::Fatal;

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// Newest minor version of protocol 3 that is spoken.
const MINOR_MAX: u16 = 2;
/// A client asks for each kind of encryption once; more is no client.
const ENCRYPTION_REQUESTS_MAX: u32 = 2;

/// How a connection began.
#[derive(Debug)]
pub(crate) enum Opening {
    /// A session is wanted.
    Session(Startup),
    /// Another session's statement shall stop.
    Cancel { pid: i32, key: Bytes },
    /// The client left before it said anything.
    Gone,
}

/// What a StartupMessage says.
#[derive(Debug, Default)]
pub(crate) struct Startup {
    pub(crate) user: String,
    pub(crate) database: String,
    /// Session settings.
    pub(crate) settings: Vec<(String, String)>,
    /// The minor version that is spoken.
    pub(crate) minor: u16,
    /// Whether the client asked for something newer; the options it asked for in vain.
    pub(crate) negotiate: Option<Vec<String>>,
}

/// Why a connection did not get as far as a session.
#[derive(Debug)]
pub(crate) enum StartupError {
    Refused(Fatal),
    Io(std::io::Error),
}

impl From<std::io::Error> for StartupError {
    fn from(error: std::io::Error) -> StartupError {
        StartupError::Io(error)
    }
}

fn refused<T>(code: &'static str, message: impl Into<String>) -> Result<T, StartupError> {
    Err(StartupError::Refused(Fatal::new(code, message)))
}

/// Reads until the client has said what it wants. Bytes after that stay in `buffer`.
pub(crate) async fn open<S>(
    stream: &mut S,
    buffer: &mut BytesMut,
    packet_bytes_max: usize,
) -> Result<Opening, StartupError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut encryption_requests = 0;
    loop {
        let Some((code, body)) = packet(stream, buffer, packet_bytes_max).await? else {
            return Ok(Opening::Gone);
        };
        match code {
            SSL_REQUEST | GSS_REQUEST => {
                encryption_requests += 1;
                if encryption_requests > ENCRYPTION_REQUESTS_MAX {
                    return refused("08P01", "too many requests for encryption");
                }
                stream.write_all(b"N").await?;
                stream.flush().await?;
            }
            CANCEL_REQUEST => return cancel(body),
            version => {
                let major = version >> 16;
                if major != 3 {
                    let minor = version & 0xffff;
                    return refused(
                        "0A000",
                        format!(
                            "unsupported frontend protocol {major}.{minor}: \
                             server supports 3.0 to 3.{MINOR_MAX}"
                        ),
                    );
                }
                let minor = u16::try_from(version & 0xffff).unwrap_or(u16::MAX);
                return Ok(Opening::Session(startup(minor, &body)?));
            }
        }
    }
}

/// Reads one length-prefixed packet; none when the client left without one.
async fn packet<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
    packet_bytes_max: usize,
) -> Result<Option<(u32, Bytes)>, StartupError> {
    loop {
        if let Some(length) = buffer.first_chunk::<4>() {
            let length = u32::from_be_bytes(*length);
            let total = usize::try_from(length).unwrap_or(usize::MAX);
            if total < 8 || total > packet_bytes_max {
                return refused(
                    "08P01",
                    format!(
                        "invalid length of startup packet: {length} bytes, \
                         8 to {packet_bytes_max} are allowed"
                    ),
                );
            }
            if buffer.len() >= total {
                let mut packet = buffer.split_to(total).freeze();
                packet.advance(4);
                let code = packet.get_u32();
                return Ok(Some((code, packet)));
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            if buffer.is_empty() {
                return Ok(None);
            }
            return refused("08P01", "incomplete startup packet");
        }
    }
}

fn cancel(mut body: Bytes) -> Result<Opening, StartupError> {
    if !(8..=260).contains(&body.len()) {
        return refused("08P01", "invalid length of cancel request packet");
    }
    let pid = body.get_i32();
    Ok(Opening::Cancel { pid, key: body })
}

fn startup(minor: u16, body: &[u8]) -> Result<Startup, StartupError> {
    const LAYOUT: &str = "invalid startup packet layout: expected terminator as last byte";
    let Some((0, pairs)) = body.split_last().map(|(last, rest)| (*last, rest)) else {
        return refused("08P01", LAYOUT);
    };
    let Ok(text) = std::str::from_utf8(pairs) else {
        return refused("22021", "the startup packet is not valid UTF-8");
    };
    let mut startup = Startup { minor: spoken(minor), ..Startup::default() };
    let mut unknown = Vec::new();
    let Some(text) = (if text.is_empty() { Some("") } else { text.strip_suffix('\0') }) else {
        return refused("08P01", LAYOUT);
    };
    let mut parts = text.split('\0');
    while let Some(name) = parts.next().filter(|name| !name.is_empty()) {
        let Some(value) = parts.next() else { return refused("08P01", LAYOUT) };
        match name {
            "user" => value.clone_into(&mut startup.user),
            "database" => value.clone_into(&mut startup.database),
            "options" => options(value, &mut startup.settings)?,
            "replication" => {
                if !matches!(value, "false" | "off" | "no" | "0") {
                    return refused("0A000", "replication connections are not supported");
                }
            }
            _ if name.starts_with("_pq_.") => unknown.push(name.to_owned()),
            _ => startup.settings.push((name.to_owned(), value.to_owned())),
        }
    }
    if startup.user.is_empty() {
        return refused("28000", "no user name specified in startup packet");
    }
    if startup.minor != minor || !unknown.is_empty() {
        startup.negotiate = Some(unknown);
    }
    Ok(startup)
}

/// The version spoken with a client that asks for 3.`minor`; 3.1 never was.
fn spoken(minor: u16) -> u16 {
    match minor {
        0 | 1 => 0,
        newer => newer.min(MINOR_MAX),
    }
}

/// `-c name=value`, `-cname=value` and `--name=value`, blanks escaped by a backslash.
fn options(text: &str, settings: &mut Vec<(String, String)>) -> Result<(), StartupError> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars();
    while let Some(character) = chars.next() {
        match character {
            '\\' => word.extend(chars.next()),
            blank if blank.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            other => word.push(other),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let setting = match word.as_str() {
            "-c" => words.next(),
            other => other.strip_prefix("--").or(other.strip_prefix("-c")).map(str::to_owned),
        };
        match setting.as_deref().and_then(|setting| setting.split_once('=')) {
            Some((name, value)) => {
                settings.push((name.replace('-', "_"), value.to_owned()));
            }
            None => {
                return refused(
                    "42601",
                    format!("option \"{word}\" is invalid: use -c name=value"),
                );
            }
        }
    }
    Ok(())
}
