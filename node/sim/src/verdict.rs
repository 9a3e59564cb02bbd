//! What must hold when all faults are over.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::ControlFlow,
};

use bytes::Bytes;
use crdb_keys::{
    RangeId, Span, StoreId, Timestamp,
    layout::{self, RangeLocal},
    pretty::{Escaped, Pretty, PrettySpan},
};
use crdb_proto::kv::{RangeDescriptor, ReplicaType};
use crdb_raftstore::RangeStatus;
use crdb_storage::{Engine as _, Family, MemoryEngine, MemorySnapshot, Reader as _, mvcc};
use prost::Message as _;

use crate::{
    client::parse,
    history,
    node::{Node, index_of},
    world::{Fate, Phase, World},
};

/// What one replica has and the other has not.
fn difference(a: &[(Bytes, Bytes)], b: &[(Bytes, Bytes)]) -> String {
    let show = |only: &[(Bytes, Bytes)], other: &[(Bytes, Bytes)]| {
        let extra = only.iter().filter(|entry| !other.contains(entry));
        let extra: Vec<String> = extra
            .map(|(key, value)| match mvcc::decode_version_key(key) {
                Ok((key, at)) => format!("{} @{at} = {}", Pretty(&key), Escaped(value)),
                Err(error) => error.to_string(),
            })
            .collect();
        extra.join(", ")
    };
    format!("only the first has [{}], only the second [{}]", show(a, b), show(b, a))
}

/// What one store holds of a range.
#[derive(Debug)]
pub(crate) struct Replica {
    store: usize,
    span: Span,
    /// The last command applied.
    index: u64,
    /// Its whole record: index, term, lease, configuration.
    applied: Bytes,
    data: Vec<(Bytes, Bytes)>,
}

/// What replicas held when they were looked at.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// By range and index, of whichever store was looked at first.
    states: BTreeMap<(RangeId, u64), Replica>,
    /// The state of each replica that was compared last.
    last: BTreeMap<(usize, RangeId), Bytes>,
}

impl Replica {
    /// The replica of `range` on `node`, if there is one that holds anything and `last` is not what
    /// it held already.
    fn read(node: &Node, range: RangeId, last: Option<&Bytes>) -> Result<Option<Self>, String> {
        let snapshot = node.engine.snapshot();
        let local = |what| {
            let key = layout::range_local_key(range, what);
            snapshot.get(Family::Local, &key).map_err(|error| error.to_string())
        };
        let Some(applied) = local(RangeLocal::AppliedState)? else { return Ok(None) };
        if last == Some(&applied) {
            return Ok(None);
        }
        let Some(descriptor) = local(RangeLocal::Descriptor)? else { return Ok(None) };
        let descriptor = RangeDescriptor::decode(descriptor).map_err(|error| error.to_string())?;
        let index = index_in(&applied).ok_or("an applied state without index")?;
        let span = Span::new(descriptor.start_key, descriptor.end_key);
        let data = dump(&snapshot, &span)?;
        Ok(Some(Self { store: node.index + 1, span, index, applied, data }))
    }

    fn compare(&self, other: &Self, range: RangeId) -> Result<(), String> {
        let (a, b, index) = (self.store, other.store, self.index);
        if self.span != other.span {
            return Err(format!(
                "s{a} and s{b} have different borders of {range} at {index}: {} and {}",
                PrettySpan(&self.span),
                PrettySpan(&other.span)
            ));
        }
        if self.data != other.data {
            return Err(format!(
                "s{a} and s{b} hold different data of {range} at {index}: {}",
                difference(&self.data, &other.data)
            ));
        }
        if self.applied != other.applied {
            return Err(format!(
                "s{a} and s{b} differ in the state of {range} at {index}: {} and {}",
                Escaped(&self.applied),
                Escaped(&other.applied)
            ));
        }
        Ok(())
    }
}

/// The index in an encoded applied state: field 1, a number in groups of seven bits.
fn index_in(applied: &[u8]) -> Option<u64> {
    let digits = applied.strip_prefix(&[0x08])?;
    let last = digits.iter().position(|digit| digit & 0x80 == 0)?;
    let digits = digits.get(..=last)?;
    Some(digits.iter().rev().fold(0, |index, digit| index << 7 | u64::from(digit & 0x7f)))
}

fn dump(snapshot: &MemorySnapshot, span: &Span) -> Result<Vec<(Bytes, Bytes)>, String> {
    let (start, end) = mvcc::engine_span(span);
    let mut all = Vec::new();
    for family in [Family::State, Family::Lock] {
        snapshot
            .scan(family, &start, &end, &mut |key, value| {
                all.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                Ok(ControlFlow::Continue(()))
            })
            .map_err(|error| error.to_string())?;
    }
    Ok(all)
}

/// What the stores say of a range: by store.
type Statuses = Vec<(usize, RangeStatus)>;

impl World {
    /// Whether every range has its replicas, all of them caught up, and a leaseholder, and the
    /// ranges cover all keys once; an error says what is missing.
    pub(crate) fn converged(&self) -> Result<(), String> {
        let mut all: BTreeMap<u64, Statuses> =
            self.ranges.iter().map(|range| (range.get(), Vec::new())).collect();
        for node in &self.nodes {
            let Some(handle) = &node.handle else {
                return Err(format!("s{} is down", node.index + 1));
            };
            for status in handle.ranges() {
                all.entry(status.descriptor.range_id).or_default().push((node.index, status));
            }
        }
        let mut descriptors = Vec::new();
        for (range, statuses) in &all {
            descriptors.push(range_converged(*range, statuses)?);
        }
        descriptors.sort_by(|a, b| a.start_key.cmp(&b.start_key));
        let mut end = layout::meta_span().start;
        for descriptor in &descriptors {
            if descriptor.start_key != end {
                let key = Pretty(&end);
                return Err(format!("the ranges do not meet at {key}: {descriptors:?}"));
            }
            end = descriptor.end_key.clone();
        }
        // While clocks differ by more than they tolerate, gateways need not get through.
        if self.phase == Phase::Forming { Ok(()) } else { self.check_meta(&descriptors) }
    }

    /// The meta entries are those of the ranges there are.
    fn check_meta(&self, ranges: &[RangeDescriptor]) -> Result<(), String> {
        let span = layout::meta_span();
        let engine = self.serving_engine(&span.start)?;
        let mut entries = Vec::new();
        mvcc::scan(engine, &span, Timestamp::MAX, mvcc::Direction::Forward, &mut |_, _, value| {
            entries.extend(value.map(Bytes::copy_from_slice));
            Ok(ControlFlow::Continue(()))
        })
        .map_err(|error| error.to_string())?;
        let entries: Result<Vec<_>, _> = entries.into_iter().map(RangeDescriptor::decode).collect();
        let mut entries = entries.map_err(|error| error.to_string())?;
        entries.sort_by(|a, b| a.start_key.cmp(&b.start_key));
        match entries == ranges {
            true => Ok(()),
            false => Err(format!("the meta entries are {entries:?}, the ranges {ranges:?}")),
        }
    }

    /// Replicas that have applied the same commands hold the same: data, lease, configuration. Also
    /// on the disk of a store that is down, and not only at the same time.
    pub(crate) fn check_replicas(&mut self) -> Result<(), String> {
        for range in &self.ranges {
            let mut lowest = u64::MAX;
            for node in &self.nodes {
                let place = (node.index, *range);
                let seen = &mut self.seen_replicas;
                if let Some(replica) = Replica::read(node, *range, seen.last.get(&place))? {
                    seen.last.insert(place, replica.applied.clone());
                    match seen.states.entry((*range, replica.index)) {
                        Entry::Vacant(first) => drop(first.insert(replica)),
                        Entry::Occupied(first) => first.get().compare(&replica, *range)?,
                    }
                }
                let index = seen.last.get(&place).and_then(|applied| index_in(applied));
                lowest = index.map_or(lowest, |index| lowest.min(index));
            }
            // A crash takes a store back a little.
            let old = (*range, 0)..(*range, lowest.saturating_sub(50));
            let states = &mut self.seen_replicas.states;
            let old: Vec<_> = states.range(old).map(|(at, _)| *at).collect();
            for at in old {
                states.remove(&at);
            }
        }
        Ok(())
    }

    /// Looks at the end of a run.
    pub(crate) fn verdict(&mut self) -> Result<(), String> {
        self.check_replicas()?;
        for (at, ops) in self.histories.iter().enumerate() {
            history::check(ops).map_err(|why| format!("key k{at} is {why}"))?;
        }
        self.check_values()?;
        self.check_reads()?;
        self.check_txns()
    }

    /// Whether a node holds the lease of the range of a key, as far as its store has published.
    pub(crate) fn serves(&self, index: usize, key: &[u8]) -> bool {
        let handle = self.nodes.get(index).and_then(|node| node.handle.as_ref());
        handle.is_some_and(|handle| {
            handle.ranges().iter().any(|range| {
                let descriptor = &range.descriptor;
                let inside = *descriptor.start_key <= *key && *key < *descriptor.end_key;
                range.is_leaseholder && inside
            })
        })
    }

    /// The disk of the leaseholder of a key.
    pub(crate) fn serving_engine(&self, key: &[u8]) -> Result<&MemoryEngine, String> {
        let node = self.nodes.iter().find(|node| self.serves(node.index, key));
        node.map(|node| &node.engine)
            .ok_or_else(|| format!("{} has no leaseholder in the end", Pretty(key)))
    }

    /// Each acknowledged write is there, once and at its timestamp; each refused one is not.
    fn check_values(&self) -> Result<(), String> {
        let mut found: BTreeMap<u64, (usize, Timestamp)> = BTreeMap::new();
        for (at, key) in self.keys.iter().enumerate() {
            let engine = self.serving_engine(key)?;
            for (engine_key, value) in dump(&engine.snapshot(), &Span::point(key.clone()))? {
                let (_, timestamp) =
                    mvcc::decode_version_key(&engine_key).map_err(|error| error.to_string())?;
                let value = parse(value.get(1..).unwrap_or_default())?;
                if let Some((other, before)) = found.insert(value, (at, timestamp)) {
                    return Err(format!(
                        "value {value} was written twice: k{other} at {before}, k{at} at {timestamp}"
                    ));
                }
            }
        }
        for (value, (key, fate)) in &self.fates {
            match (fate, found.get(value)) {
                (Fate::Written(timestamp), Some((at, written)))
                    if at == key && written == timestamp => {}
                (Fate::Written(timestamp), other) => {
                    return Err(format!(
                        "the write of {value} to k{key} at {timestamp} was acknowledged, found is \
                         {other:?}"
                    ));
                }
                (Fate::Refused, Some((_, written))) => {
                    return Err(format!(
                        "the write of {value} to k{key} was refused, yet it is there at {written}"
                    ));
                }
                (Fate::Refused | Fate::Unknown, _) => {}
            }
        }
        Ok(())
    }

    /// Each read still holds: nothing was written below it afterwards.
    fn check_reads(&self) -> Result<(), String> {
        for seen in &self.seen {
            let Some(key) = self.keys.get(seen.key) else { continue };
            let engine = self.serving_engine(key)?;
            let now = mvcc::get(engine, key, seen.timestamp).map_err(|error| error.to_string())?;
            let now = now.as_deref().map(parse).transpose()?;
            if now != seen.value {
                return Err(format!(
                    "s{} read {:?} from k{} at {}, where {now:?} is in the end",
                    seen.node + 1,
                    seen.value,
                    seen.key,
                    seen.timestamp
                ));
            }
        }
        Ok(())
    }
}

/// The descriptor of a range that has its replicas, all of them caught up, and a leaseholder.
fn range_converged(range: u64, statuses: &Statuses) -> Result<RangeDescriptor, String> {
    let describe = || {
        let lines: Vec<String> =
            statuses.iter().map(|(index, status)| format!("s{}: {status:?}", index + 1)).collect();
        lines.join("\n  ")
    };
    let leader = statuses.iter().find(|(_, status)| status.is_leaseholder);
    let Some((_, leader)) = leader else {
        return Err(format!("r{range} has no leaseholder\n  {}", describe()));
    };
    let replicas = &leader.descriptor.replicas;
    let voters = replicas.iter().all(|replica| replica.r#type() == ReplicaType::Voter);
    let level = statuses.iter().all(|(index, status)| {
        replicas.iter().any(|replica| index_of(StoreId(replica.store_id)) == *index)
            && status.applied_index == leader.last_index
            && status.descriptor == leader.descriptor
    });
    if replicas.len() != 3 || statuses.len() != 3 || !voters || !level {
        return Err(format!("r{range} has not its replicas\n  {}", describe()));
    }
    Ok(leader.descriptor.clone())
}
