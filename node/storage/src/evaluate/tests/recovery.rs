//! I6 and I7: a parallel commit and those who come across it, in every order of their steps.
//!
//! A coordinator sends two writes and the staging of its record side by side, and goes on by what
//! comes back; it may stop for good at any step. A pusher meets the transaction, finds out whether
//! it is committed, and ends it. A reader reads each key once, which raises writes that come
//! later. Every state that can come about is gone on from in every way; each end
//! is looked at.

use std::{
    collections::BTreeMap,
    ops::{ControlFlow, Deref, DerefMut},
};

use super::*;
use crate::{Family, mvcc};

/// Timestamp of the transaction, and of the reads above it.
const BEGAN: u64 = 10;
const READ: u64 = 15;
const NOW: u64 = 20;

type Answers = Result<Vec<response::Kind>, Box<kv::Error>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Committed(Timestamp),
    Aborted,
}

/// What an actor may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Write(usize),
    Stage,
    /// The next step after all three are answered.
    GoOn,
    Crash,
    Push,
    Read(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pusher {
    Push,
    Query { key: usize, staged: Timestamp, all: bool },
    Recover { staged: Timestamp, all: bool },
    Resolve { key: usize, outcome: Outcome },
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Coordinator {
    Sending,
    Committing(Timestamp),
    Resolving { key: usize, outcome: Outcome },
    Removing,
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Actors {
    /// Reads of others, by key.
    floors: [Timestamp; 2],
    absent_at_read: [bool; 2],
    read: [bool; 2],
    writes: [Option<Result<Timestamp, ()>>; 2],
    staged: Option<Result<Timestamp, ()>>,
    coordinator: Coordinator,
    /// What the coordinator told its client.
    told: Option<Outcome>,
    pusher: Pusher,
}

struct World {
    engine: MemoryEngine,
    actors: Actors,
}

impl Deref for World {
    type Target = Actors;

    fn deref(&self) -> &Actors {
        &self.actors
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Actors {
        &mut self.actors
    }
}

impl World {
    fn new() -> Self {
        let actors = Actors {
            floors: [Timestamp::ZERO; 2],
            absent_at_read: [false; 2],
            read: [false; 2],
            writes: [None; 2],
            staged: None,
            coordinator: Coordinator::Sending,
            told: None,
            pusher: Pusher::Push,
        };
        Self { engine: MemoryEngine::new(), actors }
    }

    /// All that the engine holds.
    fn entries(&self) -> WriteBatch {
        let mut entries = WriteBatch::new();
        for family in [Family::State, Family::Lock] {
            let mut add = |key: &[u8], value: &[u8]| {
                entries.put(family, key.to_vec(), value.to_vec());
                Ok(ControlFlow::Continue(()))
            };
            self.engine.scan(family, &[], &[0xff], &mut add).unwrap();
        }
        entries
    }

    fn copy(&self) -> Self {
        let engine = MemoryEngine::new();
        engine.write(&self.entries(), Sync::Yes).unwrap();
        Self { engine, actors: self.actors.clone() }
    }

    fn fingerprint(&self) -> (Actors, Bytes) {
        (self.actors.clone(), self.entries().encode())
    }

    /// Runs one request and enters what it read in the floors.
    fn run(&mut self, txn: Option<kv::TxnMeta>, kind: request::Kind) -> Answers {
        let floors = self.floors;
        let floor = |at: &[u8]| if *at == *key(0) { floors[0] } else { floors[1] };
        let args = EvalArgs { floor: &floor, ..at(READ, NOW) };
        let header = kv::BatchHeader { txn, ..kv::BatchHeader::default() };
        let evaluated = match run(&self.engine, header, vec![request(kind)], &args) {
            Ok(evaluated) => evaluated,
            Err(EvalError::Kv(error)) => return Err(error),
            Err(EvalError::Intents(_)) => {
                let kind = error::Kind::LockConflict(kv::LockConflict::default());
                return Err(Box::new(kv_error(kind, "an intent is in the way")));
            }
            Err(other) => panic!("{other:?}"),
        };
        for read in evaluated.reads {
            let index = usize::from(read.span.start != key(0));
            self.floors[index] = self.floors[index].max(read.timestamp);
        }
        Ok(evaluated.responses.into_iter().map(|response| response.kind.unwrap()).collect())
    }

    fn meta(at: Timestamp) -> kv::TxnMeta {
        kv::TxnMeta { write_timestamp: Some(at.into()), ..txn(1, BEGAN, 1) }
    }

    fn enabled(&self) -> Vec<Act> {
        let mut acts = Vec::new();
        if self.coordinator == Coordinator::Sending {
            for index in 0..2 {
                if self.writes[index].is_none() {
                    acts.push(Act::Write(index));
                }
            }
            if self.staged.is_none() {
                acts.push(Act::Stage);
            }
        }
        let sent = self.staged.is_some() && self.writes.iter().all(Option::is_some);
        if self.coordinator != Coordinator::Done {
            if sent {
                acts.push(Act::GoOn);
            }
            acts.push(Act::Crash);
        }
        if self.pusher != Pusher::Done {
            acts.push(Act::Push);
        }
        acts.extend((0..2).filter(|index| !self.read[*index]).map(Act::Read));
        acts
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Write(index) => {
                let put = kv::PutRequest { key: key(index), value: "new".into() };
                let answer = self.run(Some(Self::meta(ts(BEGAN))), request::Kind::Put(put));
                assert!(answer.is_ok(), "{answer:?}");
                let intent = lock::get_intent(&self.engine, &key(index)).unwrap().unwrap();
                self.writes[index] = Some(Ok(lock::timestamp(&intent)));
            }
            Act::Stage => self.staged = Some(self.end(kv::EndTxnAction::EndStage, ts(BEGAN))),
            Act::GoOn => self.go_on(),
            Act::Crash => self.coordinator = Coordinator::Done,
            Act::Push => self.push(),
            Act::Read(index) => {
                let get = kv::GetRequest { key: key(index), ..kv::GetRequest::default() };
                self.read[index] = true;
                if let Ok(answers) = self.run(None, request::Kind::Get(get)) {
                    let response::Kind::Get(get) = &answers[0] else { panic!("{answers:?}") };
                    self.absent_at_read[index] = get.value.is_none();
                }
            }
        }
    }

    fn end(&mut self, action: kv::EndTxnAction, at: Timestamp) -> Result<Timestamp, ()> {
        let end = kv::EndTxnRequest {
            action: action.into(),
            in_flight: (0..2)
                .map(|index| kv::SequencedWrite { key: key(index), sequence: 1 })
                .collect(),
            intents: (0..2).map(|index| Span::point(key(index)).into()).collect(),
            can_raise_timestamp: false,
        };
        match self.run(Some(Self::meta(at)), request::Kind::EndTxn(end)) {
            Ok(answers) => {
                let response::Kind::EndTxn(end) = &answers[0] else { panic!("{answers:?}") };
                Ok(end.write_timestamp.unwrap().into())
            }
            Err(error) if matches!(error.kind, Some(error::Kind::TxnAborted(_))) => Err(()),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn tell(&mut self, outcome: Outcome) {
        assert!(self.told.is_none_or(|told| told == outcome), "{:?}, {outcome:?}", self.told);
        self.told = Some(outcome);
    }

    fn go_on(&mut self) {
        self.coordinator = match self.coordinator {
            Coordinator::Sending => {
                let highest = self.writes.iter().flatten().map(|write| write.unwrap()).max();
                match (self.staged.unwrap(), highest.unwrap()) {
                    (Err(()), _) => {
                        self.tell(Outcome::Aborted);
                        Coordinator::Resolving { key: 0, outcome: Outcome::Aborted }
                    }
                    (Ok(staged), highest) if highest <= staged => {
                        // Committed as it is, whatever becomes of the record.
                        self.tell(Outcome::Committed(staged));
                        Coordinator::Committing(staged)
                    }
                    (Ok(_), highest) => Coordinator::Committing(highest),
                }
            }
            Coordinator::Committing(at) => {
                let outcome = match self.end(kv::EndTxnAction::EndCommit, at) {
                    Ok(at) => Outcome::Committed(at),
                    Err(()) => Outcome::Aborted,
                };
                self.tell(outcome);
                Coordinator::Resolving { key: 0, outcome }
            }
            Coordinator::Resolving { key, outcome } => {
                self.resolve(key, outcome);
                if key == 0 {
                    Coordinator::Resolving { key: 1, outcome }
                } else {
                    Coordinator::Removing
                }
            }
            Coordinator::Removing => {
                let txn_id = Self::meta(ts(BEGAN)).id;
                let resolved = [0, 1].map(|at| kv::Span { start: key(at), end: Key::new() });
                let resolved = resolved.to_vec();
                let remove = kv::RemoveTxnRecordRequest { anchor: key(0), txn_id, resolved };
                let answers = self.run(None, request::Kind::RemoveTxnRecord(remove)).unwrap();
                let gone = response::Kind::RemoveTxnRecord(Default::default());
                assert_eq!(answers, [gone]);
                Coordinator::Done
            }
            Coordinator::Done => Coordinator::Done,
        }
    }

    fn resolve(&mut self, index: usize, outcome: Outcome) {
        let (status, at) = match outcome {
            Outcome::Committed(at) => (kv::TxnStatus::Committed, Some(at.into())),
            Outcome::Aborted => (kv::TxnStatus::Aborted, None),
        };
        let resolve = kv::ResolveIntentRequest {
            start: key(index),
            txn_id: Self::meta(ts(BEGAN)).id,
            status: status.into(),
            commit_timestamp: at,
            ..kv::ResolveIntentRequest::default()
        };
        self.run(None, request::Kind::ResolveIntent(resolve)).unwrap();
    }

    fn push(&mut self) {
        self.pusher = match self.pusher {
            Pusher::Push => {
                let pushee = Some(Self::meta(ts(BEGAN)));
                let push = kv::PushTxnRequest { pushee, force: true, ..Default::default() };
                let answers = self.run(None, request::Kind::PushTxn(push)).unwrap();
                let response::Kind::PushTxn(push) = &answers[0] else { panic!("{answers:?}") };
                Self::by_record(push.record.as_ref().unwrap())
            }
            Pusher::Query { key: index, staged, all } => {
                let txn = Some(Self::meta(staged));
                let query = kv::QueryIntentRequest { key: key(index), txn, prevent: true };
                let answers = self.run(None, request::Kind::QueryIntent(query)).unwrap();
                let response::Kind::QueryIntent(query) = &answers[0] else { panic!("{answers:?}") };
                let all = all && query.found;
                if index == 0 {
                    Pusher::Query { key: 1, staged, all }
                } else {
                    Pusher::Recover { staged, all }
                }
            }
            Pusher::Recover { staged, all } => {
                let txn = Some(Self::meta(staged));
                let recover = kv::RecoverTxnRequest { txn, implicitly_committed: all };
                let answers = self.run(None, request::Kind::RecoverTxn(recover)).unwrap();
                let response::Kind::RecoverTxn(recover) = &answers[0] else {
                    panic!("{answers:?}")
                };
                recover.record.as_ref().map_or(Pusher::Done, Self::by_record)
            }
            Pusher::Resolve { key, outcome } => {
                self.resolve(key, outcome);
                if key == 0 { Pusher::Resolve { key: 1, outcome } } else { Pusher::Done }
            }
            Pusher::Done => Pusher::Done,
        }
    }

    fn by_record(record: &kv::TxnRecord) -> Pusher {
        let at = record.meta.as_ref().unwrap().write_timestamp.unwrap().into();
        match record.status() {
            kv::TxnStatus::Committed => Pusher::Resolve { key: 0, outcome: Outcome::Committed(at) },
            kv::TxnStatus::Aborted => Pusher::Resolve { key: 0, outcome: Outcome::Aborted },
            kv::TxnStatus::Staging => Pusher::Query { key: 0, staged: at, all: true },
            kv::TxnStatus::Pending => panic!("a forced push of {record:?} failed"),
        }
    }

    /// Ends what is left and looks at what came of it.
    fn check(mut self, log: &[Act]) {
        if self.coordinator != Coordinator::Done {
            self.coordinator = Coordinator::Done;
        }
        let left = |world: &Self| {
            (0..2).any(|index| lock::get_intent(&world.engine, &key(index)).unwrap().is_some())
        };
        for _ in 0..20 {
            if self.pusher == Pusher::Done && !left(&self) {
                break;
            }
            if self.pusher == Pusher::Done {
                self.pusher = Pusher::Push;
            }
            self.push();
        }
        assert!(!left(&self), "intents are left: {log:?}");
        let versions: Vec<Option<Timestamp>> = (0..2)
            .map(|index| mvcc::newest(&self.engine, &key(index)).unwrap())
            .map(|version| version.map(|version| version.timestamp))
            .collect();
        assert_eq!(versions[0], versions[1], "half of it: {log:?}");
        match self.told {
            Some(Outcome::Committed(at)) => assert_eq!(versions[0], Some(at), "{log:?}"),
            Some(Outcome::Aborted) => assert_eq!(versions[0], None, "{log:?}"),
            None => {}
        }
        for (index, version) in versions.iter().enumerate() {
            let overlooked = version.is_some_and(|at| at <= ts(READ));
            assert!(!(self.absent_at_read[index] && overlooked), "a stale read: {log:?}");
        }
    }
}

#[test]
fn a_parallel_commit_has_one_outcome_in_every_order() {
    let mut seen = BTreeSet::new();
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    let mut left = vec![(World::new(), Vec::new())];
    while let Some((world, log)) = left.pop() {
        // What comes of a state does not depend on the way there.
        if !seen.insert(world.fingerprint()) {
            continue;
        }
        let enabled = world.enabled();
        for act in &enabled {
            let mut next = world.copy();
            next.act(*act);
            let log: Vec<Act> = log.iter().copied().chain([*act]).collect();
            left.push((next, log));
        }
        if enabled.is_empty() {
            let told = match world.told {
                Some(Outcome::Committed(at)) if at == ts(BEGAN) => "committed at once",
                Some(Outcome::Committed(_)) => "committed later",
                Some(Outcome::Aborted) => "aborted",
                None => "nothing",
            };
            *ends.entry(told).or_default() += 1;
            world.check(&log);
        }
    }
    // All of it was reached, or the test tests less than it says.
    for told in ["committed at once", "committed later", "aborted", "nothing"] {
        assert!(ends.contains_key(told), "{told} never happened: {ends:?}");
    }
}
