//! Turns a PostgreSQL client away, in its own protocol, before a session exists.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Time for the whole exchange.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest startup packet that is read.
const STARTUP_BYTES_MAX: u32 = 10_000;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
/// A client asks for encryption at most so often before it says who it is.
const REQUESTS_MAX: usize = 4;

/// Answers the client's startup with a fatal error and closes the connection.
pub(crate) async fn reject(
    mut stream: TcpStream,
    sqlstate: &str,
    message: &str,
) -> std::io::Result<()> {
    let exchange = async {
        for _ in 0..REQUESTS_MAX {
            let length = stream.read_u32().await?;
            if !(8..=STARTUP_BYTES_MAX).contains(&length) {
                return Ok(());
            }
            let mut rest = vec![0; usize::try_from(length - 4).unwrap_or(0)];
            stream.read_exact(&mut rest).await?;
            let code = rest.first_chunk::<4>().map_or(0, |code| u32::from_be_bytes(*code));
            if !matches!(code, SSL_REQUEST | GSS_REQUEST) {
                break;
            }
            stream.write_all(b"N").await?;
        }
        stream.write_all(&error_response(sqlstate, message)).await?;
        stream.shutdown().await
    };
    tokio::time::timeout(DEADLINE, exchange).await?
}

/// An ErrorResponse of severity FATAL.
pub(crate) fn error_response(sqlstate: &str, message: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    for (field, text) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', sqlstate), (b'M', message)] {
        fields.push(field);
        fields.extend_from_slice(text.as_bytes());
        fields.push(0);
    }
    fields.push(0);
    let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
    let mut frame = vec![b'E'];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&fields);
    frame
}
