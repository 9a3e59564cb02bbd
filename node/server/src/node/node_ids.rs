//! Gives out node ids.
//!
//! Keys, all in the system range: a counter; for each address of the bootstrapper's join list the
//! id reserved for it, and the store that took it; for each store the id it has. A store that asks
//! again gets the id it has, so a lost answer costs nothing.

use bytes::Bytes;
use crdb_keys::{Key, NodeId, layout};
use crdb_kv::{SendError, Sender};

use super::kv_client::OwnBatch;
use crate::address::Address;
use crate::store_file::Member;

fn reserved_key(address: &str) -> Bytes {
    layout::cluster_key(&format!("reserved/{address}"))
}

fn store_key(store_uuid: &str) -> Bytes {
    layout::cluster_key(&format!("store/{store_uuid}"))
}

/// What the first node writes: the reservations, its own id, and the counter behind them.
pub(crate) fn first_data(member: &Member, store_uuid: &str) -> Vec<(Key, Bytes)> {
    let reserved = member.bootstrap.iter().flat_map(|b| &b.reserved);
    let mut data = Vec::new();
    let mut highest = member.node_id;
    for (id, address) in (1_u32..).zip(reserved) {
        highest = highest.max(id);
        let taken = id == member.node_id;
        let value = if taken { format!("{id} {store_uuid}") } else { id.to_string() };
        data.push((reserved_key(address), value.into()));
    }
    data.push((store_key(store_uuid), member.node_id.to_string().into()));
    data.push((layout::node_id_counter(), highest.to_string().into()));
    data
}

/// The id of the node with store `store_uuid` that advertises `address`; a new one if it has none.
/// A race that is lost is run again, `attempts` in all.
pub(crate) async fn allocate(
    sender: &dyn Sender,
    store_uuid: &str,
    address: &str,
    attempts: usize,
) -> Result<NodeId, SendError> {
    let address = address
        .parse::<Address>()
        .map_or_else(|_| address.to_owned(), |address| address.normalized().to_string());
    let (own, reserved) = (store_key(store_uuid), reserved_key(&address));
    for _ in 0..attempts {
        let batch = OwnBatch::default().get(own.clone()).get(reserved.clone());
        let mut found = batch.send(sender).await?;
        if let Some(id) = found.value(0) {
            return parse(&id);
        }
        let claim = match found.value(1) {
            Some(value) if !value.contains(&b' ') => {
                let id = parse(&value)?;
                let claimed = format!("{} {store_uuid}", id.get());
                let batch = OwnBatch::default()
                    .put_if(reserved.clone(), claimed, Some(value))
                    .put_if(own.clone(), id.get().to_string(), None);
                (id, batch)
            }
            _ => {
                let counter = OwnBatch::default().increment(layout::node_id_counter(), 1);
                let id = match counter.send(sender).await {
                    Ok(mut answers) => answers.counter(0).unwrap_or(0),
                    // Perhaps a number was lost, nothing else.
                    Err(SendError::Ambiguous { .. }) => continue,
                    Err(error) => return Err(error),
                };
                let id = u32::try_from(id).ok().filter(|id| *id > 0).ok_or_else(bad_counter)?;
                (NodeId(id), OwnBatch::default().put_if(own.clone(), id.to_string(), None))
            }
        };
        match claim.1.send(sender).await {
            Ok(_) => return Ok(claim.0),
            // Read again: somebody else was faster, or this very claim went through.
            Err(SendError::ConditionFailed { .. } | SendError::Ambiguous { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(SendError::Unavailable { message: "no node id could be claimed; try again".to_owned() })
}

fn parse(value: &[u8]) -> Result<NodeId, SendError> {
    let text = std::str::from_utf8(value).ok();
    let id = text.and_then(|text| text.split(' ').next()).and_then(|id| id.parse().ok());
    id.filter(|id| *id > 0).map(NodeId).ok_or_else(bad_counter)
}

fn bad_counter() -> SendError {
    SendError::Invalid { message: "a stored node id is damaged".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::hybrid;
    use crate::store_file::Bootstrap;
    use crdb_kv::local::LocalSender;

    async fn cluster(node_id: u32, reserved: &[&str]) -> LocalSender {
        let sender = LocalSender::new(hybrid(std::time::Duration::from_millis(500)));
        let bootstrap = Bootstrap { reserved: reserved.iter().map(ToString::to_string).collect() };
        let member = Member { cluster_id: "c".into(), node_id, bootstrap: Some(bootstrap) };
        let mut batch = OwnBatch::default();
        for (key, value) in first_data(&member, "own") {
            batch = batch.put(key, value);
        }
        batch.send(&sender).await.unwrap();
        sender
    }

    #[tokio::test]
    async fn ids_follow_the_join_list_whoever_comes_first() {
        let sender = cluster(1, &["a:1", "b:1", "c:1"]).await;
        let id = async |store: &str, address: &str| {
            allocate(&sender, store, address, 2).await.unwrap().get()
        };
        assert_eq!(id("sc", "C:1").await, 3);
        assert_eq!(id("sb", "b:1").await, 2);
        // The same store again gets the same id, wherever it is now.
        assert_eq!(id("sc", "c:1").await, 3);
        assert_eq!(id("sc", "elsewhere:1").await, 3);
        // A reservation is good for one store; a stranger gets the next number.
        assert_eq!(id("sx", "b:1").await, 4);
        assert_eq!(id("sy", "y:1").await, 5);
        assert_eq!(id("sz", "a:1").await, 6);
    }

    #[tokio::test]
    async fn without_a_reservation_ids_are_counted() {
        let sender = cluster(1, &[]).await;
        let ids = ["x", "y", "z"].map(|store| allocate(&sender, store, "h:1", 2));
        for (expected, id) in (2..).zip(ids) {
            assert_eq!(id.await.unwrap(), NodeId(expected));
        }
    }
}
