//! What SQL says about ranges and asks of them, over ranges that only keep their books.

mod harness;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use crdb_keys::{NodeId, layout};
use crdb_kv::local::LocalSender;
use crdb_kv::{SendError, Sender};
use crdb_proto::kv::{self, RangeDescriptor, ReplicaDescriptor, request, response};
use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use harness::{Cluster, block_on, run, show};
use parking_lot::Mutex;
use prost::Message as _;

/// Ranges by their first key: what they are, and who holds the lease.
struct Books {
    local: Arc<LocalSender>,
    ranges: Mutex<BTreeMap<Bytes, (RangeDescriptor, u32)>>,
    /// A range that does not answer, and how often it was asked.
    silent: Mutex<Option<(u64, u32)>>,
}

impl Books {
    fn new(local: Arc<LocalSender>) -> Self {
        let replica = |node| ReplicaDescriptor {
            node_id: node,
            store_id: node,
            replica_id: node.into(),
            ..ReplicaDescriptor::default()
        };
        let ranges = layout::bootstrap_ranges().map(|(id, span)| {
            let descriptor = RangeDescriptor {
                range_id: id.get(),
                start_key: span.start.clone(),
                end_key: span.end,
                replicas: [3, 1, 2].map(replica).into(),
                ..RangeDescriptor::default()
            };
            (span.start, (descriptor, 1))
        });
        Self { local, ranges: Mutex::new(ranges.into()), silent: Mutex::default() }
    }

    fn at<'r>(
        ranges: &'r mut BTreeMap<Bytes, (RangeDescriptor, u32)>,
        key: &Bytes,
    ) -> Result<&'r mut (RangeDescriptor, u32), SendError> {
        let found = ranges.range_mut(..=key.clone()).next_back().map(|(_, range)| range);
        found.ok_or_else(|| SendError::Invalid { message: "no range".to_owned() })
    }

    fn answer(&self, kind: &request::Kind) -> Result<Option<response::Kind>, SendError> {
        let mut ranges = self.ranges.lock();
        Ok(Some(match kind {
            request::Kind::Split(split) => {
                let left = Self::at(&mut ranges, &split.key)?;
                if left.0.start_key < split.key {
                    let mut right = left.clone();
                    left.0.end_key = split.key.clone();
                    right.0.start_key = split.key.clone();
                    right.0.range_id = split.new_range_id;
                    ranges.insert(split.key.clone(), right);
                }
                let (right, _) = Self::at(&mut ranges, &split.key)?;
                right.sticky_until = split.sticky_until;
                response::Kind::Split(kv::SplitResponse { right: Some(right.clone()) })
            }
            request::Kind::Unsplit(unsplit) => {
                Self::at(&mut ranges, &unsplit.key)?.0.sticky_until = None;
                response::Kind::Unsplit(kv::UnsplitResponse {})
            }
            request::Kind::TransferLease(transfer) => {
                if transfer.to_node > 3 {
                    let message = format!("n{} holds no replica", transfer.to_node);
                    return Err(SendError::Invalid { message });
                }
                Self::at(&mut ranges, &transfer.key)?.1 = transfer.to_node;
                response::Kind::TransferLease(kv::TransferLeaseResponse {})
            }
            request::Kind::RangeStatus(status) => {
                let (descriptor, lease) = Self::at(&mut ranges, &status.key)?.clone();
                if let Some((silent, asked)) = &mut *self.silent.lock()
                    && *silent == descriptor.range_id
                {
                    *asked += 1;
                    return Err(SendError::Unavailable { message: "no quorum".to_owned() });
                }
                let holder = descriptor.replicas.iter().find(|r| r.node_id == lease).copied();
                let stats = kv::RangeStats { key_bytes: 1_200_000, ..kv::RangeStats::default() };
                response::Kind::RangeStatus(kv::RangeStatusResponse {
                    descriptor: Some(descriptor),
                    leaseholder: holder,
                    approximate_bytes: 77,
                    stats: status.with_stats.then_some(stats),
                    ..kv::RangeStatusResponse::default()
                })
            }
            request::Kind::Scan(scan) if layout::meta_span().contains_key(&scan.start) => {
                let rows = ranges.values().map(|(descriptor, _)| kv::KeyValue {
                    key: layout::meta_key(&descriptor.end_key),
                    value: descriptor.encode_to_vec().into(),
                });
                let rows = rows.filter(|row| scan.start <= row.key && row.key < scan.end).collect();
                response::Kind::Scan(kv::ScanResponse { rows, ..kv::ScanResponse::default() })
            }
            _ => return Ok(None),
        }))
    }
}

impl Sender for Books {
    fn send(&self, batch: kv::BatchRequest) -> BoxFuture<'_, Result<kv::BatchResponse, SendError>> {
        let only = match batch.requests.as_slice() {
            [kv::Request { kind: Some(kind) }] => self.answer(kind),
            _ => Ok(None),
        };
        let response = match only {
            Ok(Some(kind)) => Ok(kv::BatchResponse {
                responses: vec![kv::Response { kind: Some(kind) }],
                ..kv::BatchResponse::default()
            }),
            Ok(None) => return self.local.send(batch),
            Err(error) => Err(error),
        };
        ready(response).boxed()
    }
}

fn describe_nodes(local: &LocalSender) {
    for node in 1..=3 {
        let tier = kv::Tier { key: "region".to_owned(), value: format!("r{node}") };
        let descriptor = kv::NodeDescriptor {
            node_id: node,
            locality: vec![tier],
            ..kv::NodeDescriptor::default()
        };
        let key = layout::node_descriptor_key(NodeId(node));
        let put = kv::PutRequest { key, value: descriptor.encode_to_vec().into() };
        let request = kv::Request { kind: Some(request::Kind::Put(put)) };
        let batch = kv::BatchRequest { header: None, requests: vec![request] };
        local.execute(&batch).expect("a put into memory");
    }
    let counter = kv::IncrementRequest { key: layout::range_id_counter(), delta: 4 };
    let request = kv::Request { kind: Some(request::Kind::Increment(counter)) };
    let batch = kv::BatchRequest { header: None, requests: vec![request] };
    local.execute(&batch).expect("an increment in memory");
}

#[test]
fn ranges_are_listed_split_and_moved() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts");
    let input = std::fs::read_to_string(dir.join("ranges.sql")).expect("the script");
    let books: Mutex<Option<Arc<Books>>> = Mutex::new(None);
    let cluster = Cluster::over(1, |local| {
        describe_nodes(&local);
        let kept = Arc::new(Books::new(local));
        *books.lock() = Some(Arc::clone(&kept));
        kept
    });
    let books = books.lock().clone().expect("one gateway");
    let mut session = cluster.session(0);
    let mut out = String::new();
    for statement in input.split("\n\n").map(str::trim).filter(|s| !s.is_empty()) {
        if let Some(range) = statement.strip_prefix("-- silent ") {
            *books.silent.lock() = range.parse().ok().map(|range| (range, 0));
            out.push_str(&format!("{statement}\n\n"));
            continue;
        }
        let result = block_on(run(&mut session, statement));
        out.push_str(&format!("{statement}\n----\n{}", show(&session, &result)));
        if let Some((silent, asked)) = &mut *books.silent.lock() {
            out.push_str(&format!("r{silent} was asked {asked} times\n"));
            *asked = 0;
        }
        out.push('\n');
    }
    expect_test::expect_file![dir.join("ranges.out")].assert_eq(&out);
}
