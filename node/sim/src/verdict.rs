//! What must hold when all faults are over.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::ControlFlow,
};

use bytes::Bytes;
use crdb_keys::{
    RangeId, Span, StoreId, Timestamp,
    layout::{self, RangeLocal},
    pretty::{Escaped, Pretty},
};
use crdb_proto::kv::{RangeDescriptor, ReplicaType};
use crdb_storage::{Engine as _, Family, MemoryEngine, MemorySnapshot, Reader as _, mvcc};

use crate::{
    client::parse,
    history,
    node::{Node, index_of},
    world::{Fate, RANGES, World},
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
struct Replica {
    store: usize,
    /// The last command applied.
    index: u64,
    /// Its whole record: index, term, lease, configuration.
    applied: Bytes,
    data: Vec<(Bytes, Bytes)>,
}

impl Replica {
    /// The replica of `range` on `node`, if there is one that holds anything.
    fn read(node: &Node, range: RangeId, span: &Span) -> Result<Option<Self>, String> {
        let snapshot = node.engine.snapshot();
        let key = layout::range_local_key(range, RangeLocal::AppliedState);
        let found = snapshot.get(Family::Local, &key).map_err(|error| error.to_string())?;
        let Some(applied) = found else { return Ok(None) };
        let index = index_in(&applied).ok_or("an applied state without index")?;
        let data = dump(&snapshot, span)?;
        Ok(Some(Self { store: node.index + 1, index, applied, data }))
    }

    fn compare(&self, other: &Self, range: RangeId) -> Result<(), String> {
        let (a, b, index) = (self.store, other.store, self.index);
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
    snapshot
        .scan(Family::State, &start, &end, &mut |key, value| {
            all.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            Ok(ControlFlow::Continue(()))
        })
        .map_err(|error| error.to_string())?;
    Ok(all)
}

impl World {
    /// Whether every range has its replicas, all of them caught up, and a leaseholder; an error
    /// says what is missing.
    pub(crate) fn converged(&self) -> Result<(), String> {
        for range in RANGES {
            let mut statuses = Vec::new();
            for node in &self.nodes {
                let Some(handle) = &node.handle else {
                    return Err(format!("s{} is down", node.index + 1));
                };
                let found = handle.ranges().into_iter();
                statuses.extend(
                    found
                        .filter(|status| status.descriptor.range_id == range.get())
                        .map(|status| (node.index, status)),
                );
            }
            let describe = || {
                let lines: Vec<String> = statuses
                    .iter()
                    .map(|(index, status)| format!("s{}: {status:?}", index + 1))
                    .collect();
                lines.join("\n  ")
            };
            let leader = statuses.iter().find(|(_, status)| status.is_leaseholder);
            let Some((_, leader)) = leader else {
                return Err(format!("{range} has no leaseholder\n  {}", describe()));
            };
            let replicas = &leader.descriptor.replicas;
            let voters = replicas.iter().all(|replica| replica.r#type() == ReplicaType::Voter);
            let level = statuses.iter().all(|(index, status)| {
                replicas.iter().any(|replica| index_of(StoreId(replica.store_id)) == *index)
                    && status.applied_index == leader.last_index
                    && status.descriptor == leader.descriptor
            });
            if replicas.len() != 3 || statuses.len() != 3 || !voters || !level {
                return Err(format!("{range} has not its replicas\n  {}", describe()));
            }
        }
        Ok(())
    }

    /// Replicas that have applied the same commands hold the same: data, lease, configuration. Also
    /// on the disk of a store that is down.
    pub(crate) fn check_replicas(&self) -> Result<(), String> {
        for (range, span) in layout::bootstrap_ranges() {
            let mut seen: BTreeMap<u64, Replica> = BTreeMap::new();
            for node in &self.nodes {
                let Some(replica) = Replica::read(node, range, &span)? else { continue };
                match seen.entry(replica.index) {
                    Entry::Vacant(first) => {
                        first.insert(replica);
                    }
                    Entry::Occupied(first) => first.get().compare(&replica, range)?,
                }
            }
        }
        Ok(())
    }

    /// Looks at the end of a run.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        self.check_replicas()?;
        for range in RANGES {
            let (descriptor, stores) = self.replicas_of(range.get())?;
            let span = Span::new(descriptor.start_key.clone(), descriptor.end_key.clone());
            let mut first: Option<(usize, Vec<(Bytes, Bytes)>)> = None;
            for index in stores {
                let data = self.dump(index, &span)?;
                match &first {
                    None => first = Some((index, data)),
                    Some((other, expected)) if *expected != data => {
                        let (a, b) = (other + 1, index + 1);
                        return Err(format!(
                            "s{a} and s{b} hold different data of {range}: {}",
                            difference(expected, &data)
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
        for (at, ops) in self.histories.iter().enumerate() {
            history::check(ops).map_err(|why| format!("key k{at} is {why}"))?;
        }
        self.check_values()?;
        self.check_reads()
    }

    fn replicas_of(&self, range: u64) -> Result<(RangeDescriptor, Vec<usize>), String> {
        for node in &self.nodes {
            let Some(handle) = &node.handle else { continue };
            let found = handle.ranges().into_iter();
            let mut found = found.filter(|status| status.descriptor.range_id == range);
            if let Some(status) = found.find(|status| status.is_leaseholder) {
                let stores = status.descriptor.replicas.iter();
                let stores = stores.map(|replica| index_of(StoreId(replica.store_id))).collect();
                return Ok((status.descriptor, stores));
            }
        }
        Err(format!("r{range} has no leaseholder in the end"))
    }

    fn engine(&self, index: usize) -> Result<&MemoryEngine, String> {
        self.nodes.get(index).map(|node| &node.engine).ok_or_else(|| "no such store".to_owned())
    }

    fn dump(&self, index: usize, span: &Span) -> Result<Vec<(Bytes, Bytes)>, String> {
        dump(&self.engine(index)?.snapshot(), span)
    }

    /// Each acknowledged write is there, once and at its timestamp; each refused one is not.
    fn check_values(&self) -> Result<(), String> {
        let mut found: BTreeMap<u64, (usize, Timestamp)> = BTreeMap::new();
        for (at, (key, range)) in self.keys.iter().enumerate() {
            let (_, stores) = self.replicas_of(range.get())?;
            let store = stores.first().copied().unwrap_or_default();
            for (engine_key, value) in self.dump(store, &Span::point(key.clone()))? {
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
            let Some((key, range)) = self.keys.get(seen.key) else { continue };
            let (_, stores) = self.replicas_of(range.get())?;
            let engine = self.engine(stores.first().copied().unwrap_or_default())?;
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
