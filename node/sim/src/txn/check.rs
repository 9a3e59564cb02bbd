//! Whether a history of transactions keeps what serializability promises.
//!
//! Timestamps say more than a graph of dependencies: the database claims that its transactions are
//! equivalent to running one after the other in the order of their commit timestamps. So each read
//! has one right answer, which the versions left in the end tell, and a wrong one names the reader,
//! the key and the version missed.
//!
//! What must hold:
//! 1. A committed transaction left each of its writes at its timestamp, a failed one none, one of
//!    unknown outcome all or none. Nothing else was written.
//! 2. An insert that took effect found nothing, and who took effect always found its own writes.
//! 3. Each read saw the newest version of others at or below the timestamp of its snapshot; if the
//!    transaction took effect, under SERIALIZABLE (else for what it locked, if it wrote), also at
//!    or below the timestamp of its commit.
//! 4. While no two clocks differ by more than the bound: a read sees, and a write lies above, what
//!    anybody knew of the key before the transaction (under READ COMMITTED: its statement) began.

use std::collections::BTreeMap;

use crdb_keys::Timestamp;

use super::log::{Attempt, Ending, KeyId, Kind, Log, Read};

/// Versions of one key, oldest first; `None` is a deletion.
pub(crate) type Versions = BTreeMap<Timestamp, Option<u64>>;

/// The state in the end.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) names: Vec<String>,
    pub(crate) keys: Vec<Versions>,
}

impl State {
    fn name(&self, key: KeyId) -> &str {
        self.names.get(key).map_or("an unknown key", String::as_str)
    }

    fn versions(&self, key: KeyId) -> &Versions {
        static NONE: Versions = Versions::new();
        self.keys.get(key).unwrap_or(&NONE)
    }

    /// The newest version at or below `at` that the transaction of `own`, which took effect at
    /// `commit`, did not write itself.
    fn visible(
        &self,
        key: KeyId,
        at: Timestamp,
        own: &Attempt,
        commit: Option<Timestamp>,
    ) -> (Timestamp, Option<u64>) {
        let written = commit.filter(|_| own.writes.contains_key(&key));
        let mut versions = self.versions(key).range(..=at).rev();
        versions
            .find(|(at, _)| Some(**at) != written)
            .map_or((Timestamp::ZERO, None), |(at, value)| (*at, *value))
    }
}

/// Checks a history against the state it left behind. `bounded` tells that no two clocks ever
/// differed by more than the bound.
pub(crate) fn check(log: &Log, state: &State, bounded: bool) -> Result<(), String> {
    let writers = writers(log, state)?;
    let mut commits = Vec::with_capacity(log.attempts.len());
    for (id, attempt) in log.attempts.iter().enumerate() {
        let commit = effect(attempt, state, &writers)
            .map_err(|why| format!("{}: {why}", describe(id, attempt)))?;
        commits.push(commit);
    }
    for (id, (attempt, commit)) in log.attempts.iter().zip(&commits).enumerate() {
        for read in &attempt.reads {
            check_read(read, attempt, *commit, state)
                .map_err(|why| format!("{}: {why}", describe(id, attempt)))?;
        }
    }
    if bounded { check_real_time(log, &commits, state) } else { Ok(()) }
}

fn describe(id: usize, attempt: &Attempt) -> String {
    format!(
        "transaction {id} (c{} at s{}, {:?}, {} to {} ms, {:?})",
        attempt.client,
        attempt.gateway + 1,
        attempt.kind,
        attempt.began / 1_000_000,
        attempt.ended / 1_000_000,
        attempt.ending
    )
}

/// Where each number is in the end.
type Writers = BTreeMap<u64, (KeyId, Timestamp)>;

fn writers(log: &Log, state: &State) -> Result<Writers, String> {
    let mut tried = BTreeMap::new();
    for (id, attempt) in log.attempts.iter().enumerate() {
        tried.extend(attempt.tried.iter().map(|value| (*value, id)));
    }
    let mut found = Writers::new();
    for (key, versions) in state.keys.iter().enumerate() {
        for (at, value) in versions {
            let Some(value) = value else { continue };
            let name = state.name(key);
            if let Some((other, before)) = found.insert(*value, (key, *at)) {
                return Err(format!(
                    "value {value} was written twice: {} at {before}, {name} at {at}",
                    state.name(other)
                ));
            }
            let Some(id) = tried.get(value) else {
                return Err(format!("nobody wrote the value {value} that {name} has at {at}"));
            };
            let kept = log.attempts.get(*id).and_then(|attempt| attempt.writes.get(&key));
            if kept != Some(&Some(*value)) {
                return Err(format!(
                    "transaction {id} took back the value {value} that {name} has at {at}"
                ));
            }
        }
    }
    Ok(found)
}

/// Whether an attempt took effect, and at which timestamp. Its writes must agree.
fn effect(
    attempt: &Attempt,
    state: &State,
    writers: &Writers,
) -> Result<Option<Timestamp>, String> {
    let mut present = attempt.tried.iter().filter_map(|value| writers.get(value));
    let found = present.next().copied();
    let commit = match (&attempt.ending, found) {
        (Ending::Failed(_) | Ending::Open, Some((key, at))) => {
            let name = state.name(key);
            return Err(format!("it has no effect, yet {name} has its write at {at}"));
        }
        (Ending::Failed(_) | Ending::Open, None) | (Ending::Unknown, None) => None,
        (Ending::Unknown, Some((_, at))) => Some(at),
        (Ending::Committed(at), _) => {
            if at.is_none() && !attempt.writes.is_empty() {
                return Err("it wrote and committed without a timestamp".into());
            }
            *at
        }
    };
    let Some(at) = commit else { return Ok(None) };
    if let Some(lost) = &attempt.lost_own {
        return Err(lost.clone());
    }
    for (key, value) in &attempt.writes {
        let version = state.versions(*key).get(&at);
        let agrees = match (version, value) {
            (Some(version), _) => version == value,
            // A key that is not there need not be deleted.
            (None, None) => state.visible(*key, at, attempt, commit).1.is_none(),
            (None, Some(_)) => false,
        };
        if !agrees {
            return Err(format!(
                "its write of {value:?} to {} at {at} is not there, but {version:?}; versions of \
                 the key are {:?}",
                state.name(*key),
                state.versions(*key)
            ));
        }
    }
    for (key, value) in &attempt.writes {
        let before = state.visible(*key, at, attempt, commit);
        if value.is_some_and(|value| attempt.inserted.contains(&value)) && before.1.is_some() {
            let name = state.name(*key);
            return Err(format!("its insert of {value:?} into {name} at {at} found {before:?}"));
        }
    }
    Ok(Some(at))
}

fn check_read(
    read: &Read,
    attempt: &Attempt,
    commit: Option<Timestamp>,
    state: &State,
) -> Result<(), String> {
    // Under READ COMMITTED locks are validated by commits that write.
    let writes = !attempt.writes.is_empty();
    let binding = attempt.kind == Kind::Serializable || read.locked && writes;
    let at_commit = commit.filter(|_| binding).map(|at| (at, "of its commit"));
    for (at, what) in [Some((read.at, "of its snapshot")), at_commit].into_iter().flatten() {
        let (version, value) = state.visible(read.key, at, attempt, commit);
        if value != read.value {
            return Err(format!(
                "it read {:?} from {} (snapshot {}, locked: {}, at {} ms), where at {at}, the time \
                 {what}, was {value:?} since {version}; versions of the key are {:?}",
                read.value,
                state.name(read.key),
                read.at,
                read.locked,
                read.done / 1_000_000,
                state.versions(read.key)
            ));
        }
    }
    Ok(())
}

/// What somebody knew of a key: when, the timestamp of the version, and who.
type Known = (u64, Timestamp, usize);

/// Nobody misses, or writes below, what was known of a key before they began.
fn check_real_time(log: &Log, commits: &[Option<Timestamp>], state: &State) -> Result<(), String> {
    let mut known: Vec<Vec<Known>> = vec![Vec::new(); state.keys.len()];
    let attempts = || log.attempts.iter().zip(commits).enumerate();
    for (id, (attempt, commit)) in attempts() {
        if let (Ending::Committed(_), Some(at)) = (&attempt.ending, commit) {
            for key in attempt.writes.keys() {
                if let Some(known) = known.get_mut(*key) {
                    known.push((attempt.ended, *at, id));
                }
            }
        }
        for read in &attempt.reads {
            let (version, _) = state.visible(read.key, read.at, attempt, *commit);
            if let Some(known) = known.get_mut(read.key) {
                known.push((read.done, version, id));
            }
        }
    }
    for known in &mut known {
        known.sort_unstable();
        let mut highest = (Timestamp::ZERO, 0);
        for (_, at, id) in known {
            highest = highest.max((*at, *id));
            (*at, *id) = highest;
        }
    }
    let floor = |key: KeyId, before: u64| {
        let known = known.get(key).map_or(&[][..], Vec::as_slice);
        let end = known.partition_point(|(time, _, _)| *time < before);
        known.get(..end).and_then(<[Known]>::last).copied()
    };
    for (id, (attempt, commit)) in attempts() {
        if attempt.kind == Kind::AsOf {
            continue;
        }
        let serializable = attempt.kind == Kind::Serializable;
        let reads = attempt.reads.iter().map(|read| {
            let at = commit.filter(|_| serializable).unwrap_or(read.at);
            (read.key, read.since, at, "reads", true)
        });
        let writes = commit.iter().flat_map(|at| {
            attempt.writes.keys().map(|key| (*key, attempt.began, *at, "writes", false))
        });
        for (key, since, at, does, equal) in reads.chain(writes) {
            let Some((time, other, who)) = floor(key, since) else { continue };
            // A delete of what is not there leaves nothing that could lie too low.
            let absent = !equal && !state.versions(key).contains_key(&at);
            if other > at || (!equal && !absent && other == at && who != id) {
                return Err(format!(
                    "{} {does} {} at {at}, although transaction {who} had told by {} ms of its \
                     version at {other}, and the reader began at {} ms",
                    describe(id, attempt),
                    state.name(key),
                    time / 1_000_000,
                    since / 1_000_000
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
