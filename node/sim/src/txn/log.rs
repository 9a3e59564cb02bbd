//! What the clients of transactions saw and did, kept outside of every process.

use std::collections::{BTreeMap, BTreeSet};

use crdb_keys::Timestamp;

/// A key of the transactions, by number.
pub(crate) type KeyId = usize;

/// What a transaction promises of its reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// All of them hold at the commit's timestamp.
    Serializable,
    /// Those of one statement hold at one timestamp, the locked ones at the commit's, too.
    ReadCommitted,
    /// All hold at a timestamp in the past.
    AsOf,
    /// A batch outside of any transaction.
    Single,
}

/// How an attempt ended, as far as its client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was never asked to commit: it must not take effect.
    Open,
    /// It was asked to commit and the answer was not heard, or says that nobody knows.
    Unknown,
    /// Committed, at a timestamp if it did anything.
    Committed(Option<Timestamp>),
    /// It certainly has no effect.
    Failed(String),
}

/// One value read that the transaction had not written itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) key: KeyId,
    /// The number written with it; `None` where there is no value.
    pub(crate) value: Option<u64>,
    /// Timestamp of the snapshot.
    pub(crate) at: Timestamp,
    /// What was acknowledged before this time must be visible.
    pub(crate) since: u64,
    /// When the client had it.
    pub(crate) done: u64,
    pub(crate) locked: bool,
}

/// One transaction, from its begin to its end.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) client: usize,
    pub(crate) gateway: usize,
    pub(crate) kind: Kind,
    pub(crate) began: u64,
    /// When the client knew the end.
    pub(crate) ended: u64,
    pub(crate) ending: Ending,
    pub(crate) reads: Vec<Read>,
    /// What it leaves behind if it commits; `None` is a deletion.
    pub(crate) writes: BTreeMap<KeyId, Option<u64>>,
    /// Every number it tried to write, also where it took that back.
    pub(crate) tried: BTreeSet<u64>,
    /// Those of them that were inserted: the key did not exist.
    pub(crate) inserted: BTreeSet<u64>,
    /// It did not find what it had written itself, as happens to who was aborted: it must fail.
    pub(crate) lost_own: Option<String>,
}

/// All attempts of a run.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) attempts: Vec<Attempt>,
    /// Balances of the accounts, by the number of the value.
    pub(crate) balances: BTreeMap<u64, i64>,
}

impl Log {
    pub(crate) fn begin(&mut self, client: usize, gateway: usize, kind: Kind, now: u64) -> usize {
        self.attempts.push(Attempt {
            client,
            gateway,
            kind,
            began: now,
            ended: u64::MAX,
            ending: Ending::Open,
            reads: Vec::new(),
            writes: BTreeMap::new(),
            tried: BTreeSet::new(),
            inserted: BTreeSet::new(),
            lost_own: None,
        });
        self.attempts.len() - 1
    }

    pub(crate) fn with<T>(&mut self, attempt: usize, change: impl FnOnce(&mut Attempt) -> T) -> T {
        change(self.attempts.get_mut(attempt).expect("it was begun"))
    }

    pub(crate) fn end(&mut self, attempt: usize, ending: Ending, now: u64) {
        self.with(attempt, |attempt| (attempt.ending, attempt.ended) = (ending, now));
    }

    /// How many attempts committed, failed and are unknown.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let count = |matches: fn(&Ending) -> bool| {
            self.attempts.iter().filter(|attempt| matches(&attempt.ending)).count() as u64
        };
        (
            count(|ending| matches!(ending, Ending::Committed(_))),
            count(|ending| matches!(ending, Ending::Failed(_) | Ending::Open)),
            count(|ending| matches!(ending, Ending::Unknown)),
        )
    }
}
