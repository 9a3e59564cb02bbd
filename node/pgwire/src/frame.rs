//! Client messages: cut from the stream by their length, then decoded with every field checked.

use bytes::{Buf, Bytes, BytesMut};

/// What a client sends after startup.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Query(String),
    Parse {
        name: String,
        query: String,
        types: Vec<u32>,
    },
    Bind(Bind),
    Describe {
        target: Target,
        name: String,
    },
    Execute {
        portal: String,
        max_rows: usize,
    },
    Close {
        target: Target,
        name: String,
    },
    Flush,
    Sync,
    Terminate,
    /// A password although none was asked for.
    Password,
    /// Data of a COPY; of one that is not going on it is dropped, as the protocol wants.
    CopyData(Bytes),
    /// The end of the data of a COPY.
    CopyDone,
    /// The client gives a COPY up, and why.
    CopyFail(String),
    /// The obsolete function call.
    FunctionCall,
}

/// Binds parameters to a prepared statement.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) portal: String,
    pub(crate) statement: String,
    pub(crate) param_formats: Vec<i16>,
    pub(crate) params: Vec<Option<Bytes>>,
    pub(crate) result_formats: Vec<i16>,
}

/// What Describe and Close are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Statement,
    Portal,
}

/// Why a frame was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The length counts itself, so it is at least 4.
    #[error("invalid message length {0} in a message of type {1}")]
    TooShort(i32, char),
    /// Above the configured bound.
    #[error("message of {0} bytes is longer than the {1} bytes that are allowed")]
    TooLong(usize, usize),
    /// The same, of a message that was read and dropped. The session survives it.
    #[error("message of {0} bytes is longer than the {1} bytes that are allowed")]
    Skipped(usize, usize),
    /// No such message.
    #[error("invalid frontend message type {0}")]
    UnknownType(u8),
    /// A field ends after its message, or text is no UTF-8. The session survives this one.
    #[error("invalid message format: {0}")]
    Malformed(&'static str),
}

impl FrameError {
    /// Whether the stream is still in step: the next frame's start is known.
    pub(crate) fn in_step(&self) -> bool {
        matches!(self, FrameError::Malformed(_) | FrameError::Skipped(..))
    }
}

/// A frame: the message's type and its body, cut to its length.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) body: Bytes,
}

/// Cuts the next frame off the buffer; none when it is not complete yet.
pub(crate) fn next_frame(
    buffer: &mut BytesMut,
    message_bytes_max: usize,
) -> Result<Option<Frame>, FrameError> {
    let Some((&kind, rest)) = buffer.split_first() else { return Ok(None) };
    if !b"QPBDECSHXpdcfF".contains(&kind) {
        return Err(FrameError::UnknownType(kind));
    }
    let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
    let length = i32::from_be_bytes(*length);
    let total = match usize::try_from(length) {
        Ok(total) if total >= 4 => total,
        _ => return Err(FrameError::TooShort(length, char::from(kind))),
    };
    if total > message_bytes_max {
        return Err(FrameError::TooLong(total, message_bytes_max));
    }
    if rest.len() < total {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(Frame { kind, body: buffer.split_to(total - 4).freeze() }))
}

impl Frame {
    /// Decodes the frame.
    pub(crate) fn decode(self) -> Result<Message, FrameError> {
        let mut body = Body(self.body);
        let message = match self.kind {
            b'Q' => Message::Query(body.text()?),
            b'P' => {
                let (name, query) = (body.text()?, body.text()?);
                let count = body.count()?;
                let types = (0..count).map(|_| body.u32()).collect::<Result<_, _>>()?;
                Message::Parse { name, query, types }
            }
            b'B' => Message::Bind(body.bind()?),
            b'D' => {
                let target = body.target()?;
                Message::Describe { target, name: body.text()? }
            }
            b'E' => {
                let portal = body.text()?;
                let max_rows = usize::try_from(body.u32()?.cast_signed()).unwrap_or(0);
                Message::Execute { portal, max_rows }
            }
            b'C' => {
                let target = body.target()?;
                Message::Close { target, name: body.text()? }
            }
            b'H' => Message::Flush,
            b'S' => Message::Sync,
            b'X' => Message::Terminate,
            // The contents of these do not matter.
            b'p' => return Ok(Message::Password),
            b'd' => return Ok(Message::CopyData(body.0)),
            b'c' => return Ok(Message::CopyDone),
            b'f' => return Ok(Message::CopyFail(body.text().unwrap_or_default())),
            b'F' => return Ok(Message::FunctionCall),
            other => return Err(FrameError::UnknownType(other)),
        };
        if body.0.is_empty() { Ok(message) } else { Err(FrameError::Malformed("extra data")) }
    }
}

/// What is left of a frame.
struct Body(Bytes);

const SHORT: FrameError = FrameError::Malformed("insufficient data left in message");

impl Body {
    fn take(&mut self, length: usize) -> Result<Bytes, FrameError> {
        if self.0.len() < length { Err(SHORT) } else { Ok(self.0.split_to(length)) }
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        self.take(2).map(|mut bytes| bytes.get_u16())
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.take(4).map(|mut bytes| bytes.get_u32())
    }

    /// A number of things to follow, each of two bytes at least.
    fn count(&mut self) -> Result<usize, FrameError> {
        let count = usize::from(self.u16()?);
        if count * 2 > self.0.len() { Err(SHORT) } else { Ok(count) }
    }

    fn text(&mut self) -> Result<String, FrameError> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let end = end.ok_or(FrameError::Malformed("string is not terminated"))?;
        let bytes = self.0.split_to(end);
        self.0.advance(1);
        let text = std::str::from_utf8(&bytes);
        Ok(text.map_err(|_| FrameError::Malformed("text is not valid UTF-8"))?.to_owned())
    }

    fn target(&mut self) -> Result<Target, FrameError> {
        match self.take(1)?.first() {
            Some(b'S') => Ok(Target::Statement),
            Some(b'P') => Ok(Target::Portal),
            _ => Err(FrameError::Malformed("neither a statement nor a portal")),
        }
    }

    fn formats(&mut self) -> Result<Vec<i16>, FrameError> {
        let count = self.count()?;
        (0..count).map(|_| self.u16().map(u16::cast_signed)).collect()
    }

    fn bind(&mut self) -> Result<Bind, FrameError> {
        let (portal, statement) = (self.text()?, self.text()?);
        let param_formats = self.formats()?;
        let count = self.count()?;
        let mut params = Vec::with_capacity(count);
        for _ in 0..count {
            params.push(match self.u32()?.cast_signed() {
                -1 => None,
                length => Some(self.take(usize::try_from(length).map_err(|_| SHORT)?)?),
            });
        }
        let result_formats = self.formats()?;
        Ok(Bind { portal, statement, param_formats, params, result_formats })
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use proptest::prelude::{ProptestConfig, any};

    use super::{FrameError, Message, next_frame};

    fn frame(kind: u8, body: &[u8]) -> BytesMut {
        let mut buffer = BytesMut::new();
        buffer.put_u8(kind);
        buffer.put_u32(u32::try_from(body.len() + 4).unwrap());
        buffer.put_slice(body);
        buffer
    }

    fn decode(kind: u8, body: &[u8]) -> Result<Message, FrameError> {
        next_frame(&mut frame(kind, body), 1000).unwrap().unwrap().decode()
    }

    #[test]
    fn a_frame_is_complete_or_waited_for() {
        let whole = frame(b'Q', b"SELECT 1\0");
        for cut in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..cut]);
            assert!(next_frame(&mut part, 1000).unwrap().is_none(), "cut at {cut}");
        }
        assert_eq!(decode(b'Q', b"SELECT 1\0"), Ok(Message::Query("SELECT 1".to_owned())));
    }

    #[test]
    fn lengths_are_checked_before_the_body_arrives() {
        let mut huge = BytesMut::from(&b"Q\x40\x00\x00\x00"[..]);
        assert_eq!(next_frame(&mut huge, 1000).unwrap_err(), FrameError::TooLong(1 << 30, 1000));
        let mut negative = BytesMut::from(&b"Q\xff\xff\xff\xff"[..]);
        assert_eq!(next_frame(&mut negative, 1000).unwrap_err(), FrameError::TooShort(-1, 'Q'));
        let mut garbage = BytesMut::from(&b"GET / HTTP/1.1"[..]);
        assert_eq!(next_frame(&mut garbage, 1000).unwrap_err(), FrameError::UnknownType(b'G'));
    }

    #[test]
    fn fields_stay_inside_their_frame() {
        assert!(decode(b'Q', b"no end").is_err());
        assert!(decode(b'Q', b"a\0b").is_err());
        assert!(decode(b'Q', b"\xff\0").is_err());
        assert!(decode(b'P', b"a\0b\0\xff\xff").is_err());
        assert!(decode(b'B', b"a\0b\0\0\0\0\x01\x7f\xff\xff\xff\0\0").is_err());
        assert!(decode(b'B', b"a\0b\0\0\0\0\x01\xff\xff\xff\xfe\0\0").is_err());
        assert!(decode(b'D', b"Zx\0").is_err());
        assert!(decode(b'S', b"x").is_err());
    }

    proptest::proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..14usize) {
            let mut buffer = frame(b"QPBDECSHXpdcfF"[kind], &bytes);
            buffer.extend_from_slice(&bytes);
            while let Ok(Some(frame)) = next_frame(&mut buffer, 150) {
                drop(frame.decode());
            }
        }
    }
}
