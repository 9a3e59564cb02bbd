//! A set of writes that takes effect as a whole.
//!
//! What it is: the engine's own form of a write batch, independent of the engine, so that a raft
//! command can carry one to every replica. What it is not: it is not ordered against other
//! batches; that is the raft log's work.
//!
//! Encoded form, version 1: the version byte, then for each operation one byte (operation in the
//! high, family in the low nibble) and its one or two byte strings, each behind its length as a
//! LEB128 number. The encoding ends with the bytes; a raft entry carries a checksum of its own.
//!
//! Invariants:
//! 1. `decode(encode(batch)) == batch`.
//! 2. `decode` of any bytes answers a batch or [`Error::Corrupt`], and allocates no more than the
//!    bytes can hold.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Error, Family};

const VERSION: u8 = 1;
const WHAT: &str = "a write batch";

/// One write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets the value of a key.
    Put {
        /// Family of the key.
        family: Family,
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Removes a key, if it is there.
    Delete {
        /// Family of the key.
        family: Family,
        /// The key.
        key: Bytes,
    },
    /// Removes the keys from `start` up to, not including, `end`.
    DeleteRange {
        /// Family of the keys.
        family: Family,
        /// First key removed.
        start: Bytes,
        /// First key kept.
        end: Bytes,
    },
}

/// Writes that take effect in order and as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    ops: Vec<Op>,
    bytes: usize,
}

impl WriteBatch {
    /// A batch without writes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value of a key.
    pub fn put(&mut self, family: Family, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(Op::Put { family, key: key.into(), value: value.into() });
    }

    /// Removes a key.
    pub fn delete(&mut self, family: Family, key: impl Into<Bytes>) {
        self.push(Op::Delete { family, key: key.into() });
    }

    /// Removes the keys from `start` up to, not including, `end`; nothing when they are reversed.
    pub fn delete_range(&mut self, family: Family, start: impl Into<Bytes>, end: impl Into<Bytes>) {
        self.push(Op::DeleteRange { family, start: start.into(), end: end.into() });
    }

    /// Adds the writes of `other` behind those of this batch.
    pub fn append(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.ops.extend(other.ops);
    }

    /// The writes, in order.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// How many writes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there is no write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of all keys and values, and a little for each write: the size of the encoded form,
    /// give or take a few bytes.
    #[must_use]
    pub fn byte_size(&self) -> usize {
        self.bytes
    }

    /// Removes all writes and keeps the memory.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.bytes = 0;
    }

    /// The batch as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.bytes + self.ops.len() * 8 + 1);
        self.encode_into(&mut out);
        out.freeze()
    }

    /// Appends the batch as bytes to `out`.
    pub fn encode_into(&self, out: &mut BytesMut) {
        out.put_u8(VERSION);
        for op in &self.ops {
            let (code, family, first, second) = parts(op);
            out.put_u8(code << 4 | family.code());
            for part in [Some(first), second].into_iter().flatten() {
                put_len(out, part.len());
                out.put_slice(part);
            }
        }
    }

    /// Reads back what [`Self::encode`] wrote. Keys and values share the memory of `input`.
    pub fn decode(mut input: Bytes) -> Result<Self, Error> {
        if input.is_empty() || input.split_to(1) != [VERSION].as_slice() {
            return Err(Error::corrupt(WHAT, format!("version is not {VERSION}")));
        }
        let mut batch = Self::new();
        while !input.is_empty() {
            let tag = input.split_to(1).first().copied().unwrap_or_default();
            let family = Family::from_code(tag & 0x0f)
                .ok_or_else(|| Error::corrupt(WHAT, format!("no family in tag {tag:#04x}")))?;
            let first = take(&mut input)?;
            batch.push(match tag >> 4 {
                0 => Op::Put { family, key: first, value: take(&mut input)? },
                1 => Op::Delete { family, key: first },
                2 => Op::DeleteRange { family, start: first, end: take(&mut input)? },
                _ => return Err(Error::corrupt(WHAT, format!("no write in tag {tag:#04x}"))),
            });
        }
        Ok(batch)
    }

    fn push(&mut self, op: Op) {
        let (_, _, first, second) = parts(&op);
        self.bytes += first.len() + second.map_or(0, <[u8]>::len) + 4;
        self.ops.push(op);
    }
}

fn parts(op: &Op) -> (u8, Family, &[u8], Option<&[u8]>) {
    match op {
        Op::Put { family, key, value } => (0, *family, key, Some(value)),
        Op::Delete { family, key } => (1, *family, key, None),
        Op::DeleteRange { family, start, end } => (2, *family, start, Some(end)),
    }
}

fn put_len(out: &mut BytesMut, len: usize) {
    let mut rest = len;
    loop {
        let low = u8::try_from(rest & 0x7f).expect("seven bits");
        rest >>= 7;
        if rest == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

fn take(input: &mut Bytes) -> Result<Bytes, Error> {
    let mut len = 0_usize;
    for shift in (0..35).step_by(7) {
        if input.is_empty() {
            break;
        }
        let byte = input.split_to(1).first().copied().unwrap_or_default();
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            if len > input.len() {
                let detail = format!("a part of {len} bytes where {} are left", input.len());
                return Err(Error::corrupt(WHAT, detail));
            }
            return Ok(input.split_to(len));
        }
    }
    Err(Error::corrupt(WHAT, "a length that does not end"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let family = prop::sample::select(Family::ALL.to_vec());
        (0..3, family, any_bytes(), any_bytes()).prop_map(|(kind, family, a, b)| match kind {
            0 => Op::Put { family, key: a, value: b },
            1 => Op::Delete { family, key: a },
            _ => Op::DeleteRange { family, start: a, end: b },
        })
    }

    proptest! {
        #[test]
        fn round_trip(ops in prop::collection::vec(any_op(), 0..8)) {
            let mut batch = WriteBatch::new();
            ops.into_iter().for_each(|op| batch.push(op));
            let encoded = batch.encode();
            prop_assert_eq!(WriteBatch::decode(encoded.clone()).unwrap(), batch.clone());
            prop_assert!(encoded.len() <= batch.byte_size() + 8 * batch.len() + 1);
            // Each cut is either an error or a batch that lost its last writes.
            for cut in 0..encoded.len() {
                if let Ok(shorter) = WriteBatch::decode(encoded.slice(..cut)) {
                    prop_assert!(batch.ops().starts_with(shorter.ops()));
                }
            }
        }

        #[test]
        fn garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(batch) = WriteBatch::decode(garbage.clone().into()) {
                prop_assert!(batch.byte_size() <= garbage.len() * 6);
            }
        }
    }

    #[test]
    fn a_huge_length_is_refused_before_it_is_allocated() {
        let bytes = Bytes::from_static(&[VERSION, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]);
        let error = WriteBatch::decode(bytes).unwrap_err();
        assert!(error.to_string().contains("where 0 are left"), "{error}");
        assert!(WriteBatch::decode(Bytes::new()).is_err());
        assert!(WriteBatch::decode(Bytes::from_static(&[9])).is_err());
    }
}
