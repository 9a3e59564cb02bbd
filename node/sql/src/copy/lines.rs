//! Where records end in a stream that comes in pieces.

use super::bad;
use super::options::{Format, Quoting};
use crate::error::{Result, SqlError, SqlState};

/// The part of a stream that was not read yet.
#[derive(Debug)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    /// Where the next record starts.
    start: usize,
    /// Up to where its end was looked for.
    seen: usize,
    state: State,
    csv: Option<Quoting>,
    /// Bytes that one record may have.
    record_bytes: usize,
    ended: bool,
}

/// What the bytes seen of a record say about the next one.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Behind a backslash (TEXT), or an escape within quotes (CSV).
    escaped: bool,
    quoted: bool,
}

impl Lines {
    pub(super) fn new(format: &Format, record_bytes: usize) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            seen: 0,
            state: State::default(),
            csv: format.csv,
            record_bytes,
            ended: false,
        }
    }

    /// Adds a piece. All records that are there should have been taken before.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<()> {
        self.buffer.drain(..self.start);
        self.seen -= self.start;
        self.start = 0;
        let most = self.record_bytes;
        if self.buffer.len() > most {
            return Err(SqlError::new(
                SqlState::PROGRAM_LIMIT,
                format!("a line of COPY data is longer than {most} bytes"),
            ));
        }
        self.buffer.extend_from_slice(piece);
        Ok(())
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// The next whole record, without its line end. The last one needs no line end.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        let unseen = self.buffer.get(self.seen..)?;
        let mut found = None;
        for (at, &byte) in unseen.iter().enumerate() {
            if self.state.ends(byte, self.csv) {
                found = Some(self.seen + at);
                break;
            }
        }
        let (end, next) = match found {
            Some(end) => (end, end + 1),
            None => {
                self.seen = self.buffer.len();
                if !self.ended || self.start == self.buffer.len() {
                    return None;
                }
                (self.buffer.len(), self.buffer.len())
            }
        };
        let start = std::mem::replace(&mut self.start, next);
        self.seen = next;
        self.state = State::default();
        let record = self.buffer.get(start..end)?;
        Some(record.strip_suffix(b"\r").unwrap_or(record))
    }
}

impl State {
    /// Takes in a byte; true when it ends the record.
    fn ends(&mut self, byte: u8, csv: Option<Quoting>) -> bool {
        let Some(Quoting { quote, escape }) = csv else {
            if self.escaped {
                self.escaped = false;
                return false;
            }
            self.escaped = byte == b'\\';
            return byte == b'\n';
        };
        if self.escaped {
            self.escaped = false;
        } else if self.quoted && byte == escape && escape != quote {
            self.escaped = true;
        } else if byte == quote {
            // A doubled quote leaves and enters again.
            self.quoted = !self.quoted;
        } else if byte == b'\n' && !self.quoted {
            return true;
        }
        false
    }
}

/// The error of a quote that is not closed.
pub(super) fn unterminated() -> SqlError {
    bad("unterminated CSV quoted field")
}
