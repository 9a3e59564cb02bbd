//! Keeps the meta entry of a range behind the range's own state.

use bytes::Bytes;
use crdb_keys::layout;
use crdb_proto::kv::{
    BatchRequest, ConditionalPutRequest, GetRequest, RangeDescriptor, Request, request, response,
};
use prost::Message as _;

use crate::{SendError, Sender};

/// Writes the meta entry of a range, unless one of the same or a later generation is there.
///
/// The caller tries again after an error: a meta entry is a hint, and writing it twice does no
/// harm. Both sides of a split have a generation above that of the range before, so the order in
/// which they are written is all the same.
pub async fn update_meta(
    sender: &dyn Sender,
    descriptor: &RangeDescriptor,
) -> Result<(), SendError> {
    let key = layout::meta_key(&descriptor.end_key);
    let get = GetRequest { key: key.clone(), ..GetRequest::default() };
    let mut found = sender.send(batch(request::Kind::Get(get))).await?;
    let expected = match found.responses.pop().and_then(|response| response.kind) {
        Some(response::Kind::Get(get)) => get.value,
        _ => None,
    };
    // An entry that cannot be read is replaced.
    let known = expected.clone().and_then(|bytes| RangeDescriptor::decode(bytes).ok());
    if known.is_some_and(|known| known.generation >= descriptor.generation) {
        return Ok(());
    }
    let value = Bytes::from(descriptor.encode_to_vec());
    let put = ConditionalPutRequest { key, value, expected };
    sender.send(batch(request::Kind::ConditionalPut(put))).await.map(|_| ())
}

fn batch(kind: request::Kind) -> BatchRequest {
    BatchRequest { header: None, requests: vec![Request { kind: Some(kind) }] }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use crdb_keys::hlc::{Clock, ManualClock};

    use super::*;
    use crate::local::LocalSender;

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_replaced_by_later_generations_only() {
        let wall = Arc::new(ManualClock::new(1_000));
        let sender = LocalSender::new(Clock::new(wall, Duration::from_nanos(500)));
        let descriptor = |generation, range_id| RangeDescriptor {
            range_id,
            start_key: Bytes::from_static(b"a"),
            end_key: Bytes::from_static(b"b"),
            generation,
            ..RangeDescriptor::default()
        };
        for (generation, range_id, expected) in [(3, 1, 1), (3, 2, 1), (2, 3, 1), (4, 4, 4)] {
            update_meta(&sender, &descriptor(generation, range_id)).await.unwrap();
            let get = GetRequest { key: layout::meta_key(b"b"), ..GetRequest::default() };
            let mut found = sender.send(batch(request::Kind::Get(get))).await.unwrap();
            let stored = match found.responses.remove(0).kind {
                Some(response::Kind::Get(get)) => get.value.unwrap(),
                other => panic!("not a get: {other:?}"),
            };
            assert_eq!(RangeDescriptor::decode(stored).unwrap().range_id, expected);
        }
    }
}
