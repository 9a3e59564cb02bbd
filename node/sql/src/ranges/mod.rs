//! Ranges as operators of the database see them: where they start and end, who holds them.
//!
//! What it is: the list of ranges with what their leaseholders say of them, and its two faces, SHOW
//! RANGES and `crdb_internal.ranges`. What it is not: it changes no range (`session::ranges` asks
//! for splits and lease transfers) and it does not place replicas.
//!
//! ```text
//! meta entries (hints) -> RangeStatus at each start key -> gaps between answers asked for again
//! ```
//!
//! Invariants:
//! 1. What is listed covers the span asked for without gap; a range that does not answer is listed
//!    as its meta entry describes it, without leaseholder.
//! 2. The descriptor of a range that answered is its own word, never a hint.

pub(crate) mod columns;
mod keys;
pub(crate) mod list;
pub(crate) mod locks;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use crdb_keys::{Key, Span, layout};
use crdb_kv::SendError;
use crdb_proto::kv::{self, RangeDescriptor, RangeStatusResponse, request, response};
use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _};
use prost::Message as _;

pub(crate) use keys::pretty;

use crate::error::{Result, SqlError, SqlState};
use crate::kv::{Batch, sql, to_sql_error};
use crate::node::SqlNode;

/// A range and what its leaseholder says of it.
#[derive(Clone, Debug)]
pub(crate) struct RangeInfo {
    pub(crate) descriptor: RangeDescriptor,
    /// None when the range did not answer.
    pub(crate) status: Option<RangeStatusResponse>,
}

impl RangeInfo {
    pub(crate) fn start(&self) -> &Bytes {
        &self.descriptor.start_key
    }

    pub(crate) fn end(&self) -> &Bytes {
        &self.descriptor.end_key
    }

    /// The node that holds the lease.
    pub(crate) fn leaseholder(&self) -> Option<u32> {
        self.status.as_ref()?.leaseholder.as_ref().map(|replica| replica.node_id)
    }

    pub(crate) fn overlaps(&self, span: &Span) -> bool {
        *self.start() < span.end && span.start < *self.end()
    }
}

/// The ranges that hold keys of the span, in order.
pub(crate) async fn load(node: &SqlNode, span: &Span, with_stats: bool) -> Result<Vec<RangeInfo>> {
    let hints = read_meta(node, span).await?;
    let mut found: BTreeMap<Key, RangeInfo> = BTreeMap::new();
    let mut silent: BTreeSet<Key> = BTreeSet::new();
    let keys: Vec<Key> =
        hints.iter().map(|hint| hint.start_key.clone().max(span.start.clone())).collect();
    let ask = async |key: Key| (key.clone(), status(node, key, with_stats).await);
    let at_once = node.limits.ranges_asked;
    let mut asked = stream::iter(keys).map(|key| ask(key).boxed()).buffer_unordered(at_once);
    while let Some((key, answer)) = asked.next().await {
        match answer {
            Ok(info) => drop(found.insert(info.start().clone(), info)),
            Err(SendError::Unavailable { .. }) => drop(silent.insert(key)),
            Err(error) => return Err(to_sql_error(error)),
        }
    }
    drop(asked);
    let mut out: Vec<RangeInfo> = Vec::new();
    let mut at = span.start.clone();
    while at < span.end {
        let known = found.range(..=at.clone()).next_back().map(|(_, info)| info);
        let info = match known.filter(|info| at < *info.end()) {
            Some(info) => info.clone(),
            // It was asked a moment ago, for as long as a call may take.
            None if silent.contains(&at) => believe(&at, &hints)?,
            None => ask_or_believe(node, &at, &hints, with_stats).await?,
        };
        if *info.end() <= at {
            return Err(damaged("a range ends before it starts"));
        }
        at = info.end().clone();
        out.push(info);
    }
    Ok(out)
}

/// The range that holds a key, by its own word if it answers, else by its meta entry.
async fn ask_or_believe(
    node: &SqlNode,
    key: &Key,
    hints: &[RangeDescriptor],
    with_stats: bool,
) -> Result<RangeInfo> {
    match status(node, key.clone(), with_stats).await {
        Ok(info) => Ok(info),
        Err(error @ SendError::Unavailable { .. }) => {
            believe(key, hints).map_err(|_| to_sql_error(error))
        }
        Err(error) => Err(to_sql_error(error)),
    }
}

/// The range that holds a key, by its meta entry.
fn believe(key: &Key, hints: &[RangeDescriptor]) -> Result<RangeInfo> {
    let covers = |hint: &&RangeDescriptor| hint.start_key <= *key && *key < hint.end_key;
    match hints.iter().find(covers) {
        Some(hint) => Ok(RangeInfo { descriptor: hint.clone(), status: None }),
        None => Err(damaged("no meta entry covers a key")),
    }
}

/// What the leaseholder of the range that holds a key says of it.
pub(crate) async fn status(
    node: &SqlNode,
    key: Key,
    with_stats: bool,
) -> std::result::Result<RangeInfo, SendError> {
    let invalid = |message: &str| SendError::Invalid { message: message.to_owned() };
    let mut batch = Batch::new();
    batch.push(request::Kind::RangeStatus(kv::RangeStatusRequest { key, with_stats }));
    let reply = node.kv.send(batch, None, None).await?;
    match reply.responses.into_iter().next().and_then(|response| response.kind) {
        Some(response::Kind::RangeStatus(status)) => match status.descriptor.clone() {
            Some(descriptor) => Ok(RangeInfo { descriptor, status: Some(status) }),
            None => Err(invalid("a range did not describe itself")),
        },
        _ => Err(invalid("a range gave an answer of another kind")),
    }
}

/// The meta entries of the ranges that hold keys of the span, in order.
async fn read_meta(node: &SqlNode, span: &Span) -> Result<Vec<RangeDescriptor>> {
    let mut left =
        vec![Span::new(layout::meta_lookup_span(&span.start).start, layout::meta_span().end)];
    let mut hints = Vec::new();
    while let Some(rest) = left.pop() {
        let mut batch = Batch::new();
        batch.scan(&rest, node.limits.meta_rows, 0, false);
        let page = sql(node.kv.send(batch, None, None).await)?.page(0)?;
        for row in page.leaving(&mut left) {
            let hint = RangeDescriptor::decode(&*row.value)
                .map_err(|error| damaged(&format!("a meta entry does not decode: {error}")))?;
            if hint.start_key >= span.end {
                return Ok(hints);
            }
            hints.push(hint);
        }
    }
    Ok(hints)
}

fn damaged(why: &str) -> SqlError {
    SqlError::new(SqlState::DATA_CORRUPTED, why.to_owned())
}

/// The localities of the nodes, such as `region=us-east,az=b`.
pub(crate) async fn localities(node: &SqlNode) -> Result<BTreeMap<u32, String>> {
    let mut batch = Batch::new();
    batch.scan(&layout::node_descriptor_span(), 0, 0, false);
    let mut found = BTreeMap::new();
    for row in sql(node.kv.send(batch, None, None).await)?.page(0)?.whole()? {
        let node = kv::NodeDescriptor::decode(&*row.value)
            .map_err(|error| damaged(&format!("a node descriptor does not decode: {error}")))?;
        let tiers: Vec<String> =
            node.locality.iter().map(|tier| format!("{}={}", tier.key, tier.value)).collect();
        found.insert(node.node_id, tiers.join(","));
    }
    Ok(found)
}
