//! The pure parts of this crate by scripts that print what they do.

mod buffer;
mod commit;
mod refresh;
mod split;

use std::error::Error;

use bytes::Bytes;

type Outcome = Result<String, Box<dyn Error>>;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// `START-END`, or the single key `START` with an empty end.
fn span(text: &str) -> (Bytes, Bytes) {
    match text.split_once('-') {
        Some((start, end)) => (bytes(start), bytes(end)),
        None => (bytes(text), Bytes::new()),
    }
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).replace('\0', "+")
}

fn span_text(start: &[u8], end: &[u8]) -> String {
    if end.is_empty() { text(start) } else { format!("{}-{}", text(start), text(end)) }
}
