//! Random histories against a model: committed versions and intents in plain lists.
//!
//! The model knows what each request must answer, who must wait for whom and at which timestamp
//! an intent stands; after each step the whole state is compared.

use std::{collections::BTreeMap, ops::ControlFlow};

use proptest::prelude::*;

use super::*;
use crate::{
    lock::Lock,
    mvcc::{self, Direction},
};

const KEYS: usize = 4;
const TXNS: u8 = 3;

type Value = Option<Bytes>;

#[derive(Clone, Debug)]
enum Write {
    Put(usize, u8),
    /// Expects the present value as the model knows it, or another one.
    ConditionalPut(usize, u8, bool),
    Delete(usize),
    Increment(usize),
}

impl Write {
    fn index(&self) -> usize {
        match *self {
            Self::Put(index, _)
            | Self::ConditionalPut(index, ..)
            | Self::Delete(index)
            | Self::Increment(index) => index,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A scan, or gets of all keys, at a time before the present, up to an uncertainty limit.
    Read {
        txn: Option<u8>,
        back: u64,
        uncertain: u64,
        reverse: bool,
        lock: bool,
    },
    Intents {
        txn: u8,
        back: u64,
        writes: Vec<Write>,
    },
    /// The last batch of the transaction once more.
    Repeat {
        txn: u8,
    },
    Versions {
        writes: Vec<Write>,
        since: Option<u64>,
    },
    Revert {
        txn: u8,
        to: u32,
    },
    End {
        txn: u8,
        commit: bool,
    },
}

fn any_write() -> impl Strategy<Value = Write> {
    prop_oneof![
        (0..KEYS, any::<u8>()).prop_map(|(key, value)| Write::Put(key, value)),
        (0..KEYS, any::<u8>(), any::<bool>())
            .prop_map(|(key, value, right)| Write::ConditionalPut(key, value, right)),
        (0..KEYS).prop_map(Write::Delete),
        (0..KEYS).prop_map(Write::Increment),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let txn = 1..=TXNS;
    let writes = prop::collection::vec(any_write(), 1..4).boxed();
    prop_oneof![
        3 => (prop::option::of(txn.clone()), 0..30_u64, 0..20_u64, any::<bool>(), any::<bool>())
            .prop_map(|(txn, back, uncertain, reverse, lock)| {
                Step::Read { txn, back, uncertain, reverse, lock: lock && txn.is_some() }
            }),
        4 => (txn.clone(), 0..40_u64, writes.clone())
            .prop_map(|(txn, back, writes)| Step::Intents { txn, back, writes }),
        1 => txn.clone().prop_map(|txn| Step::Repeat { txn }),
        2 => (writes, prop::option::of(0..30_u64))
            .prop_map(|(writes, since)| Step::Versions { writes, since }),
        1 => (txn.clone(), 0..6_u32).prop_map(|(txn, to)| Step::Revert { txn, to }),
        2 => (txn, any::<bool>()).prop_map(|(txn, commit)| Step::End { txn, commit }),
    ]
}

#[derive(Clone, Debug, PartialEq)]
struct ModelIntent {
    txn: u8,
    at: Timestamp,
    /// All writes, oldest first.
    writes: Vec<(u32, Value)>,
}

#[derive(Clone, Debug, Default)]
struct KeyState {
    /// Oldest first.
    versions: Vec<(Timestamp, Value)>,
    intent: Option<ModelIntent>,
    /// Reads, by whom.
    reads: Vec<(Timestamp, Option<u8>)>,
}

impl KeyState {
    fn newest(&self) -> Timestamp {
        self.versions.last().map_or(Timestamp::ZERO, |(at, _)| *at)
    }

    fn floor(&self, writer: Option<u8>) -> Timestamp {
        let others = self.reads.iter().filter(|(_, by)| by.is_none() || *by != writer);
        others.map(|(at, _)| *at).max().unwrap_or_default()
    }

    /// What the writer's condition looks at.
    fn present(&self, writer: Option<u8>) -> Value {
        match &self.intent {
            Some(intent) if Some(intent.txn) == writer => intent.writes.last().unwrap().1.clone(),
            _ => self.versions.last().and_then(|(_, value)| value.clone()),
        }
    }

    fn is_foreign(&self, to: Option<u8>) -> bool {
        self.intent.as_ref().is_some_and(|intent| Some(intent.txn) != to)
    }
}

/// The last batch of a transaction: what it said of itself, its requests, and what came of them.
type Last = (kv::TxnMeta, Vec<kv::Request>, Evaluated);

#[derive(Default)]
struct Model {
    engine: MemoryEngine,
    now: u64,
    keys: Vec<KeyState>,
    sequences: BTreeMap<u8, u32>,
    last: BTreeMap<u8, Last>,
}

impl Model {
    fn new() -> Self {
        Self { now: 100, keys: vec![KeyState::default(); KEYS], ..Self::default() }
    }

    fn step(&mut self, step: Step) {
        self.now += 10;
        match step {
            Step::Read { txn, back, uncertain, reverse, lock } => {
                self.read(txn, self.now - back, uncertain, reverse, lock);
            }
            Step::Intents { txn, back, writes } => self.intents(txn, self.now - back, &writes),
            Step::Repeat { txn } => self.repeat(txn),
            Step::Versions { writes, since } => self.versions(&writes, since),
            Step::Revert { txn, to } => self.revert(txn, to),
            Step::End { txn, commit } => self.end(txn, commit),
        }
        self.compare();
    }

    fn meta(&self, index: u8, at: u64) -> kv::TxnMeta {
        txn(index, at, *self.sequences.get(&index).unwrap_or(&1))
    }

    fn run(
        &self,
        header: kv::BatchHeader,
        requests: Vec<kv::Request>,
        args: &EvalArgs<'_>,
    ) -> Result<Evaluated, EvalError> {
        let writer = header.txn.as_ref().map(|txn| txn.id[0]);
        let floor = |key: &[u8]| {
            let index: usize = std::str::from_utf8(&key[1..]).unwrap().parse().unwrap();
            self.keys[index].floor(writer)
        };
        let args = EvalArgs { floor: &floor, ..*args };
        run(&self.engine, header, requests, &args)
    }

    fn note_reads(&mut self, evaluated: &Evaluated, by: Option<u8>) {
        for read in &evaluated.reads {
            for (index, state) in self.keys.iter_mut().enumerate() {
                if read.span.contains_key(&key(index)) {
                    state.reads.push((read.timestamp, by.filter(|_| read.by_txn)));
                }
            }
        }
    }

    fn read(&mut self, by: Option<u8>, read: u64, uncertain: u64, reverse: bool, lock: bool) {
        let limit = read + uncertain;
        let (start, end) = all_keys();
        let strength = if lock { kv::LockStrength::LockShared } else { kv::LockStrength::LockNone };
        let scan = kv::ScanRequest {
            start,
            end,
            reverse,
            lock: strength.into(),
            ..kv::ScanRequest::default()
        };
        let header = kv::BatchHeader {
            txn: by.map(|by| self.meta(by, read)),
            uncertainty_limit: Some(ts(limit).into()),
            ..kv::BatchHeader::default()
        };
        let scan = vec![request(request::Kind::Scan(scan))];
        let outcome = self.run(header, scan, &at(read, 0));

        let mut waits = BTreeSet::new();
        let mut newer = Timestamp::ZERO;
        let mut rows = Vec::new();
        for (index, state) in self.keys.iter().enumerate() {
            let intent = state.intent.as_ref();
            if let Some(own) = intent.filter(|intent| Some(intent.txn) == by) {
                rows.extend(own.writes.last().unwrap().1.clone().map(|value| (key(index), value)));
                continue;
            }
            if intent.is_some_and(|intent| lock || intent.at <= ts(limit)) {
                waits.insert(key(index));
                continue;
            }
            let ceiling = if lock { Timestamp::MAX } else { ts(limit) };
            let versions = state.versions.iter().rev();
            let Some((at, value)) = versions.clone().find(|(at, _)| *at <= ceiling) else {
                continue;
            };
            if *at > ts(read) {
                newer = newer.max(*at);
            } else {
                rows.extend(value.clone().map(|value| (key(index), value)));
            }
        }
        if reverse {
            rows.reverse();
        }
        match outcome {
            Err(EvalError::Intents(intents)) => {
                assert_eq!(intents.into_iter().map(|(key, _)| key).collect::<BTreeSet<_>>(), waits);
            }
            Err(EvalError::Kv(error)) => {
                assert!(waits.is_empty(), "{error:?} before {waits:?}");
                assert_eq!(newer_version(&error), Some(newer), "{error:?}");
            }
            Ok(evaluated) => {
                assert!(waits.is_empty() && newer.is_zero(), "{waits:?} {newer}");
                let Some(response::Kind::Scan(scan)) = &evaluated.responses[0].kind else {
                    panic!("not a scan");
                };
                let found: Vec<_> =
                    scan.rows.iter().map(|row| (row.key.clone(), row.value.clone())).collect();
                assert_eq!(found, rows);
                let locked = if lock { rows.len() } else { 0 };
                assert_eq!(evaluated.locks.len(), locked);
                self.note_reads(&evaluated, by);
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    /// The requests, and what the model says of them: answers and values, or a failure.
    fn plan(
        &self,
        writes: &[Write],
        by: Option<u8>,
    ) -> (Vec<kv::Request>, Result<BTreeMap<usize, Value>, ()>) {
        let mut values: BTreeMap<usize, Value> = BTreeMap::new();
        let mut failed = false;
        let mut requests = Vec::new();
        for write in writes {
            let index = write.index();
            let state = &self.keys[index];
            let present = values.get(&index).cloned().unwrap_or_else(|| state.present(by));
            let key = key(index);
            let blocked = state.is_foreign(by);
            let (kind, value) = match write {
                Write::Put(_, value) => {
                    let value = Bytes::from(value.to_string());
                    (request::Kind::Put(kv::PutRequest { key, value: value.clone() }), Some(value))
                }
                Write::ConditionalPut(_, value, right) => {
                    let value = Bytes::from(value.to_string());
                    let expected =
                        if *right { present } else { Some(Bytes::from_static(b"never")) };
                    failed |= !right && !blocked;
                    let put = kv::ConditionalPutRequest { key, value: value.clone(), expected };
                    (request::Kind::ConditionalPut(put), Some(value))
                }
                Write::Delete(_) => (request::Kind::Delete(kv::DeleteRequest { key }), None),
                Write::Increment(_) => {
                    let old: i64 = present
                        .map_or(0, |text| std::str::from_utf8(&text).unwrap().parse().unwrap());
                    let value = Bytes::from((old + 1).to_string());
                    let increment = kv::IncrementRequest { key, delta: 1 };
                    (request::Kind::Increment(increment), Some(value))
                }
            };
            requests.push(request(kind));
            values.insert(index, value);
        }
        (requests, if failed { Err(()) } else { Ok(values) })
    }

    /// Checks who has to wait; `true` if nobody.
    fn nobody_waits(
        &self,
        writes: &[Write],
        by: Option<u8>,
        outcome: &Result<Evaluated, EvalError>,
    ) -> bool {
        let waits: BTreeSet<Key> = writes
            .iter()
            .map(Write::index)
            .filter(|index| self.keys[*index].is_foreign(by))
            .map(key)
            .collect();
        if waits.is_empty() {
            return true;
        }
        match outcome {
            Err(EvalError::Intents(intents)) => {
                let found: BTreeSet<Key> = intents.iter().map(|(key, _)| key.clone()).collect();
                // A validation waits for others, too.
                assert!(found.is_superset(&waits), "{found:?} without {waits:?}");
                assert!(by.is_none() || found == waits, "{found:?} instead of {waits:?}");
            }
            // A condition may fail, or a validation, before all is seen.
            Err(EvalError::Kv(_)) => {}
            other => panic!("{other:?} although {waits:?} are in the way"),
        }
        false
    }

    fn intents(&mut self, by: u8, asked: u64, writes: &[Write]) {
        let sequence = self.sequences.get(&by).copied().unwrap_or(0) + 1;
        self.sequences.insert(by, sequence);
        let meta = txn(by, asked, sequence);
        let header = kv::BatchHeader { txn: Some(meta.clone()), ..kv::BatchHeader::default() };
        let (requests, plan) = self.plan(writes, Some(by));
        let outcome = self.run(header, requests.clone(), &at(self.now, 0));
        if !self.nobody_waits(writes, Some(by), &outcome) {
            return;
        }
        let (values, evaluated) = match (plan, outcome) {
            (Ok(values), Ok(evaluated)) => (values, evaluated),
            (Err(()), Err(EvalError::Kv(error))) => {
                assert!(matches!(error.kind, Some(error::Kind::ConditionFailed(_))), "{error:?}");
                return;
            }
            (plan, outcome) => panic!("{outcome:?} instead of {plan:?}"),
        };
        let mut highest = Timestamp::ZERO;
        for (index, value) in values {
            let state = &mut self.keys[index];
            let above = state.newest().max(state.floor(Some(by))).next();
            let there = state.intent.get_or_insert(ModelIntent {
                txn: by,
                at: Timestamp::ZERO,
                writes: Vec::new(),
            });
            // A version cannot have come above an intent that is there.
            there.at = there.at.max(ts(asked)).max(above);
            there.writes.push((sequence, value));
            highest = highest.max(there.at);
        }
        assert_eq!(evaluated.write_timestamp, Some(highest));
        self.last.insert(by, (meta, requests, evaluated));
    }

    fn repeat(&mut self, by: u8) {
        let Some((meta, requests, first)) = self.last.get(&by).cloned() else { return };
        let header = kv::BatchHeader { txn: Some(meta), ..kv::BatchHeader::default() };
        let evaluated = self.run(header, requests, &at(self.now, 0)).unwrap();
        assert_eq!(evaluated.responses, first.responses);
        assert_eq!(evaluated.write_timestamp, first.write_timestamp);
        assert!(evaluated.batch.is_empty());
    }

    fn versions(&mut self, writes: &[Write], since: Option<u64>) {
        let (mut requests, plan) = self.plan(writes, None);
        let since = since.map(|back| ts(self.now - back));
        if let Some(since) = since {
            let (start, end) = all_keys();
            let spans = vec![kv::Span { start, end }];
            let validate = kv::ValidateRequest { spans, since: Some(since.into()) };
            requests.insert(0, request(request::Kind::Validate(validate)));
        }
        let present = ts(self.now);
        let outcome = self.run(kv::BatchHeader::default(), requests, &at(self.now, self.now));
        if !self.nobody_waits(writes, None, &outcome) {
            return;
        }
        let touched = writes.iter().map(Write::index);
        let highest = touched
            .map(|index| self.keys[index].newest().max(self.keys[index].floor(None)))
            .max()
            .unwrap_or_default();
        let changed = since.is_some_and(|since| {
            let mut versions = self.keys.iter().flat_map(|state| &state.versions);
            versions.any(|(at, _)| *at > since && *at <= present)
        });
        let foreign = since.is_some()
            && self
                .keys
                .iter()
                .any(|state| state.intent.as_ref().is_some_and(|intent| intent.at <= present));
        match (outcome, plan) {
            (Err(EvalError::Kv(error)), plan) => match error.kind {
                Some(error::Kind::ReadConflict(_)) => assert!(changed),
                Some(error::Kind::ConditionFailed(_)) => assert!(!changed && plan.is_err()),
                other => panic!("{other:?}"),
            },
            (Err(EvalError::Intents(_)), _) => assert!(foreign && !changed),
            (Err(EvalError::WriteTooOld { .. }), plan) => {
                assert!(highest >= present && !changed && !foreign && plan.is_ok());
            }
            (Ok(evaluated), Ok(values)) => {
                assert!(!changed && !foreign);
                for (index, value) in values {
                    let existed = self.keys[index].present(None).is_some();
                    // The first deletion of what does not exist leaves nothing; one behind a
                    // write of the same batch does.
                    let first = writes.iter().find(|write| write.index() == index);
                    let only_deleted = writes
                        .iter()
                        .filter(|write| write.index() == index)
                        .all(|write| matches!(write, Write::Delete(_)));
                    if !existed && only_deleted && first.is_some() {
                        continue;
                    }
                    assert!(self.keys[index].newest() < present);
                    self.keys[index].versions.push((present, value));
                }
                self.note_reads(&evaluated, None);
            }
            (outcome, plan) => panic!("{outcome:?} instead of {plan:?}"),
        }
    }

    fn revert(&mut self, by: u8, to: u32) {
        // Older batches must not come again.
        self.last.remove(&by);
        let (start, end) = all_keys();
        let revert = kv::RevertIntentRequest { start, end, to_sequence: to };
        let header =
            kv::BatchHeader { txn: Some(self.meta(by, self.now)), ..kv::BatchHeader::default() };
        let revert = vec![request(request::Kind::RevertIntent(revert))];
        self.run(header, revert, &at(self.now, 0)).unwrap();
        for state in &mut self.keys {
            if let Some(intent) = state.intent.as_mut().filter(|intent| intent.txn == by) {
                intent.writes.retain(|(sequence, _)| *sequence <= to);
                if intent.writes.is_empty() {
                    state.intent = None;
                }
            }
        }
    }

    fn end(&mut self, by: u8, commit: bool) {
        self.last.remove(&by);
        let own = |state: &KeyState| state.intent.clone().filter(|intent| intent.txn == by);
        let highest = self.keys.iter().filter_map(own).map(|intent| intent.at).max();
        let at_end = highest.unwrap_or_default().max(ts(1));
        let status = if commit { kv::TxnStatus::Committed } else { kv::TxnStatus::Aborted };
        let (mut start, end) = all_keys();
        loop {
            let resolve = kv::ResolveIntentRequest {
                start,
                end: end.clone(),
                txn_id: vec![by; TXN_ID_LEN].into(),
                status: status.into(),
                commit_timestamp: Some(at_end.into()),
                max_keys: 2,
            };
            let resolve = vec![request(request::Kind::ResolveIntent(resolve))];
            let done = self.run(kv::BatchHeader::default(), resolve, &at(self.now, 0)).unwrap();
            let Some(response::Kind::ResolveIntent(done)) = &done.responses[0].kind else {
                panic!("not a resolution");
            };
            let Some(resume) = &done.resume else { break };
            start = resume.start.clone();
        }
        for state in &mut self.keys {
            if let Some(intent) = own(state) {
                state.intent = None;
                if commit {
                    assert!(state.newest() < at_end);
                    state.versions.push((at_end, intent.writes.last().unwrap().1.clone()));
                }
            }
        }
    }

    fn compare(&self) {
        let (start, end) = all_keys();
        let span = Span::new(start, end);
        let mut versions: Vec<Vec<(Timestamp, Value)>> = vec![Vec::new(); KEYS];
        let index = |key: &[u8]| {
            let text = std::str::from_utf8(&key[1..]).unwrap();
            text.parse::<usize>().unwrap()
        };
        mvcc::scan_versions(&self.engine, &span, &mut |key, at, value| {
            versions[index(key)].insert(0, (at, value.map(Bytes::copy_from_slice)));
            ControlFlow::Continue(())
        })
        .unwrap();
        let mut intents: Vec<Option<ModelIntent>> = vec![None; KEYS];
        lock::scan(&self.engine, &span, Direction::Forward, &mut |lock| {
            let Lock::Intent(key, intent) = lock else { panic!("a record: {lock:?}") };
            let at = lock::timestamp(&intent);
            let holder = intent.txn.unwrap();
            let mut writes: Vec<(u32, Value)> =
                intent.history.into_iter().map(|write| (write.sequence, write.value)).collect();
            writes.push((holder.sequence, intent.value));
            intents[index(&key)] = Some(ModelIntent { txn: holder.id[0], at, writes });
            ControlFlow::Continue(())
        })
        .unwrap();
        for (index, state) in self.keys.iter().enumerate() {
            assert_eq!(versions[index], state.versions, "versions of {index}");
            assert_eq!(intents[index], state.intent, "intent of {index}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn histories_agree_with_the_model(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
        }
    }
}
