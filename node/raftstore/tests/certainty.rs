//! What a leaseholder takes for later than the begin of a transaction of its own gateway, while
//! the clock of another node is ahead.

mod cluster;

use std::time::Duration;

use cluster::{Cluster, get, key, outcome, put, transfer, value_of};
use crdb_keys::Timestamp;
use crdb_proto::kv::{
    BatchHeader, BatchResponse, ResolveIntentRequest, TxnMeta, TxnStatus, error::Kind as ErrorKind,
    request::Kind,
};

/// The offset between clocks that the stores tolerate.
const MAX_OFFSET_NANOS: u64 = 500_000_000;

/// A transaction of `node` that began at `began`.
fn txn(node: u32, began: Timestamp) -> TxnMeta {
    TxnMeta {
        id: vec![7; 16].into(),
        anchor: key("anchor"),
        min_timestamp: Some(began.into()),
        write_timestamp: Some(began.into()),
        sequence: 1,
        gateway_node_id: node,
        ..TxnMeta::default()
    }
}

/// Reads `a` at `node` for a transaction of its own that saw `observed` as it began.
fn read(cluster: &mut Cluster, node: u32, observed: Timestamp) -> BatchResponse {
    let limit = observed.add_nanos(MAX_OFFSET_NANOS);
    let mut batch = get("a");
    let header = batch.header.get_or_insert_default();
    *header = BatchHeader {
        read_timestamp: Some(observed.into()),
        uncertainty_limit: Some(limit.into()),
        observed: Some(observed.into()),
        gateway_node_id: node,
        txn: Some(TxnMeta { id: vec![8; 16].into(), ..txn(node, observed) }),
        ..header.clone()
    };
    cluster.request(node, batch)
}

fn is_uncertain(response: &BatchResponse) -> bool {
    let error = response.error.as_ref().and_then(|error| error.kind.as_ref());
    matches!(error, Some(ErrorKind::ReadUncertain(_)))
}

/// Three nodes; the first to have the lease is 400 ms ahead. Answers it and another one.
fn one_ahead() -> (Cluster, u32, u32) {
    let mut cluster = Cluster::of_three();
    cluster.wait("a leaseholder", |cluster| cluster.leaseholder(4).is_some());
    let ahead = cluster.leaseholder(4).expect("just waited for it");
    let right = if ahead == 1 { 2 } else { 1 };
    cluster.nodes.get_mut(&ahead).expect("it has the lease").skew = 400_000_000;
    cluster.run(Duration::from_millis(10));
    (cluster, ahead, right)
}

fn give_lease(cluster: &mut Cluster, from: u32, to: u32) {
    assert_eq!(cluster.request(from, transfer("a", to)).error, None);
    cluster.wait("the lease to move", |cluster| cluster.leaseholder(4) == Some(to));
}

#[test]
fn a_value_from_under_another_lease_is_in_doubt() {
    let (mut cluster, ahead, right) = one_ahead();
    let written = cluster.request(ahead, put("a", "1"));
    assert_eq!(outcome(&written), "ok");
    // It begins after that was acknowledged, by the third node, and before it heard of it: its clock
    // is still behind.
    let observed = Timestamp::new(cluster.wall_nanos(), 0);
    assert!(observed < written.write_timestamp.unwrap().into(), "the clocks are not apart");
    give_lease(&mut cluster, ahead, right);
    let response = read(&mut cluster, right, observed);
    assert!(is_uncertain(&response), "{response:?}");

    // A while later, only what was written since the begin lies above it.
    cluster.run(Duration::from_secs(2));
    let observed = cluster.handle(right).clock().now();
    assert_eq!(outcome(&cluster.request(right, put("a", "2"))), "ok");
    assert_eq!(value_of(&read(&mut cluster, right, observed)).as_deref(), Some("1"));
}

#[test]
fn a_commit_above_its_intent_is_in_doubt() {
    let (mut cluster, ahead, right) = one_ahead();
    give_lease(&mut cluster, ahead, right);
    // The first look under the lease.
    let now = cluster.handle(right).clock().now();
    assert_eq!(read(&mut cluster, right, now).error, None);
    cluster.run(Duration::from_secs(2));
    // An intent here, whose transaction commits higher, as the node that is ahead has it.
    let mut intent = put("a", "1");
    let laid = cluster.handle(right).clock().now();
    intent.header.get_or_insert_default().txn = Some(txn(ahead, laid));
    assert_eq!(outcome(&cluster.request(right, intent)), "ok");
    let observed = cluster.handle(right).clock().now();
    let committed = cluster.handle(ahead).clock().now();
    assert!(observed < committed, "the clocks are not apart");
    let resolve = ResolveIntentRequest {
        start: key("a"),
        txn_id: vec![7; 16].into(),
        status: TxnStatus::Committed.into(),
        commit_timestamp: Some(committed.into()),
        ..ResolveIntentRequest::default()
    };
    let resolve = cluster::batch(vec![Kind::ResolveIntent(resolve)]);
    assert_eq!(cluster.request(right, resolve).error, None);
    let response = read(&mut cluster, right, observed);
    assert!(is_uncertain(&response), "{response:?}");
}
