//! Histories that the checker must accept and refuse.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn at(wall: u64) -> Timestamp {
    Timestamp::new(wall, 0)
}

/// A state of one key for each list of versions; 0 is a deletion.
fn state(keys: &[&[(u64, u64)]]) -> State {
    let versions = |list: &&[(u64, u64)]| {
        list.iter().map(|(wall, value)| (at(*wall), Some(*value).filter(|v| *v > 0))).collect()
    };
    State {
        names: (0..keys.len()).map(|key| format!("k{key}")).collect(),
        keys: keys.iter().map(versions).collect(),
    }
}

fn attempt(began: u64, ended: u64, ending: Ending) -> Attempt {
    Attempt {
        client: 0,
        gateway: 0,
        kind: Kind::Serializable,
        began,
        ended,
        ending,
        reads: Vec::new(),
        writes: BTreeMap::new(),
        tried: BTreeSet::new(),
        inserted: BTreeSet::new(),
        lost_own: None,
    }
}

fn committed(began: u64, ended: u64, wall: u64) -> Attempt {
    attempt(began, ended, Ending::Committed(Some(at(wall))))
}

impl Attempt {
    fn put(mut self, key: KeyId, value: u64) -> Self {
        self.writes.insert(key, Some(value));
        self.tried.insert(value);
        self
    }

    fn delete(mut self, key: KeyId) -> Self {
        self.writes.insert(key, None);
        self
    }

    fn read(mut self, key: KeyId, value: Option<u64>, wall: u64) -> Self {
        let (since, done) = (self.began, self.ended);
        self.reads.push(Read { key, value, at: at(wall), since, done, locked: false });
        self
    }
}

fn verdict(attempts: Vec<Attempt>, state: &State) -> Result<(), String> {
    check(&Log { attempts, ..Log::default() }, state, true)
}

#[track_caller]
fn fails(attempts: Vec<Attempt>, state: &State, with: &str) {
    let why = verdict(attempts, state).expect_err("the history is wrong");
    assert!(why.contains(with), "{why}");
}

#[test]
fn acknowledged_writes_are_there_and_failed_ones_are_not() {
    let there = state(&[&[(10, 1)], &[(10, 2)]]);
    let write = |ending| attempt(0, 5, ending).put(0, 1).put(1, 2);
    verdict(vec![write(Ending::Committed(Some(at(10))))], &there).unwrap();
    verdict(vec![write(Ending::Unknown)], &there).unwrap();
    fails(vec![write(Ending::Committed(Some(at(11))))], &there, "is not there");
    fails(vec![write(Ending::Failed(String::new()))], &there, "no effect");
    fails(vec![write(Ending::Open)], &there, "no effect");
    let gone = state(&[&[], &[]]);
    verdict(vec![write(Ending::Unknown)], &gone).unwrap();
    verdict(vec![write(Ending::Open)], &gone).unwrap();
    fails(vec![write(Ending::Committed(Some(at(10))))], &gone, "is not there");
}

#[test]
fn an_unknown_outcome_is_all_or_nothing() {
    let write = || attempt(0, u64::MAX, Ending::Unknown).put(0, 1).put(1, 2);
    fails(vec![write()], &state(&[&[(10, 1)], &[]]), "is not there");
    fails(vec![write()], &state(&[&[(10, 1)], &[(11, 2)]]), "is not there");
    // A deletion goes with the values.
    let write = || attempt(2, u64::MAX, Ending::Unknown).put(0, 1).delete(1);
    let before = || committed(0, 1, 5).put(1, 3);
    verdict(vec![before(), write()], &state(&[&[(10, 1)], &[(5, 3), (10, 0)]])).unwrap();
    fails(vec![before(), write()], &state(&[&[(10, 1)], &[(5, 3)]]), "is not there");
    // Of a key that was not there it may leave nothing.
    verdict(vec![write()], &state(&[&[(10, 1)], &[]])).unwrap();
}

#[test]
fn what_was_taken_back_or_never_written_is_found() {
    let mut back = committed(0, 5, 10).put(0, 2);
    back.tried.insert(1);
    fails(vec![back], &state(&[&[(9, 1), (10, 2)]]), "took back");
    fails(vec![], &state(&[&[(9, 1)]]), "nobody wrote");
    let twice = state(&[&[(10, 1)], &[(10, 1)]]);
    fails(vec![committed(0, 5, 10).put(0, 1)], &twice, "twice");
}

#[test]
fn write_skew_and_lost_updates_are_found() {
    // Both read both keys at 5, each wrote one.
    let skew = state(&[&[(10, 1)], &[(11, 2)]]);
    let first = || committed(0, 5, 10).read(1, None, 5).put(0, 1);
    let second = |seen| committed(0, 5, 11).read(0, seen, 10).put(1, 2);
    verdict(vec![first(), second(Some(1))], &skew).unwrap();
    let stale = committed(0, 5, 11).read(0, None, 5).put(1, 2);
    fails(vec![first(), stale], &skew, "the time of its commit");
    let lost = state(&[&[(10, 1), (11, 2)]]);
    let one = committed(0, 5, 10).read(0, None, 5).put(0, 1);
    let other = committed(0, 5, 11).read(0, None, 5).put(0, 2);
    fails(vec![one, other], &lost, "the time of its commit");
}

#[test]
fn under_read_committed_the_snapshot_of_the_statement_counts() {
    let state = state(&[&[(10, 1)], &[(20, 2)]]);
    let other = || committed(0, 5, 10).put(0, 1);
    let mut read = committed(0, 5, 20).read(0, None, 9).put(1, 2);
    read.kind = Kind::ReadCommitted;
    verdict(vec![other(), read.clone()], &state).unwrap();
    read.reads.iter_mut().for_each(|read| read.locked = true);
    fails(vec![other(), read.clone()], &state, "the time of its commit");
    read.reads.iter_mut().for_each(|read| read.at = at(10));
    fails(vec![other(), read], &state, "its snapshot");
}

#[test]
fn reads_of_who_did_not_commit_count_too() {
    let state = state(&[&[(10, 1)]]);
    let write = || committed(0, 5, 10).put(0, 1);
    let read = |seen| attempt(6, 7, Ending::Failed(String::new())).read(0, seen, 12);
    verdict(vec![write(), read(Some(1))], &state).unwrap();
    fails(vec![write(), read(None)], &state, "its snapshot");
}

#[test]
fn who_lost_an_own_write_does_not_commit() {
    let written = state(&[&[(10, 1)]]);
    let lost = |mut attempt: Attempt| {
        attempt.lost_own = Some("lost".into());
        attempt.put(0, 1)
    };
    fails(vec![lost(committed(0, 5, 10))], &written, "lost");
    fails(vec![lost(attempt(0, 5, Ending::Unknown))], &written, "lost");
    verdict(vec![lost(attempt(0, 5, Ending::Unknown))], &state(&[&[]])).unwrap();
}

#[test]
fn an_insert_finds_nothing() {
    let both = state(&[&[(10, 1), (20, 2)]]);
    let mut insert = committed(6, 8, 20).put(0, 2);
    insert.inserted.insert(2);
    fails(vec![committed(0, 5, 10).put(0, 1), insert.clone()], &both, "insert");
    let between = state(&[&[(10, 1), (15, 0), (20, 2)]]);
    let delete = committed(5, 6, 15).delete(0);
    verdict(vec![committed(0, 5, 10).put(0, 1), delete, insert], &between).unwrap();
}

#[test]
fn nobody_misses_what_was_known_before() {
    let state = state(&[&[(10, 1)], &[(20, 2)]]);
    let write = || committed(0, 5, 10).put(0, 1);
    // It began later and read below what was acknowledged.
    let stale = || committed(6, 8, 9).read(0, None, 9);
    fails(vec![write(), stale()], &state_of_one(&[(10, 1)]), "had told");
    // Before the acknowledgement that is allowed, unless somebody saw the value already.
    let early = || committed(4, 8, 9).read(0, None, 9);
    verdict(vec![write(), early()], &state_of_one(&[(10, 1)])).unwrap();
    let witness = committed(1, 3, 12).read(0, Some(1), 12);
    fails(vec![write(), early(), witness], &state_of_one(&[(10, 1)]), "had told");
    // And no write lies below.
    let below = committed(6, 8, 9).put(0, 3);
    fails(vec![write(), below], &state_of_one(&[(9, 3), (10, 1)]), "had told");
    verdict(vec![write(), committed(6, 8, 20).put(1, 2)], &state).unwrap();
}

fn state_of_one(versions: &[(u64, u64)]) -> State {
    state(&[versions])
}
