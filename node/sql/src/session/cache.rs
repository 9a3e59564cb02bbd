//! Statements by their text, for all sessions of a node.
//!
//! What it is: what saves parsing and analyzing a text that is sent again and again, by the simple
//! protocol or by clients that prepare anew for each execution. What it is not: it does not judge
//! whether a plan still holds; whoever takes one compares the catalog's version.
//!
//! Two generations: a text that is used moves into the young one; when that is full it becomes the
//! old one, and the old one goes. So what is used stays, and texts that differ each time pass through.
//!
//! Invariants:
//! 1. A statement is found only under the same text, the same types given for its parameters and
//!    the same settings of the session that analysis reads.
//! 2. What is kept is bounded, whatever clients send.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Prepared;
use crate::limits::Limits;
use crate::plan::PlanSettings;

/// What a statement counts beside its text.
const ENTRY_BYTES: usize = 128;

struct Entry<T> {
    text: Box<str>,
    param_oids: Box<[u32]>,
    settings: Arc<PlanSettings>,
    prepared: Arc<T>,
}

type Generation<T> = HashMap<u64, Entry<T>>;

struct Generations<T> {
    young: Generation<T>,
    old: Generation<T>,
    /// Bytes of the young one.
    bytes: usize,
    /// Bytes of text that one holds.
    most: usize,
}

/// The statements of a node by their text.
pub(crate) struct PlanCache<T = Prepared> {
    hasher: RandomState,
    /// Bytes of a text that is kept.
    text_bytes: usize,
    generations: Mutex<Generations<T>>,
}

impl<T> Entry<T> {
    fn is(&self, text: &str, param_oids: &[u32], settings: &Arc<PlanSettings>) -> bool {
        *self.text == *text
            && *self.param_oids == *param_oids
            && (Arc::ptr_eq(&self.settings, settings) || self.settings == *settings)
    }
}

impl<T> Generations<T> {
    /// Adds to the young generation; returns what is to be dropped outside of the lock.
    fn add(&mut self, hash: u64, entry: Entry<T>) -> (Option<Entry<T>>, Generation<T>) {
        let mut gone = Generation::new();
        if self.bytes > self.most {
            gone = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            self.bytes = 0;
        }
        self.bytes += entry.text.len() + ENTRY_BYTES;
        (self.young.insert(hash, entry), gone)
    }
}

impl<T> PlanCache<T> {
    pub(crate) fn new(limits: &Limits) -> Self {
        let most = limits.plan_cache_bytes;
        let generations =
            Generations { young: HashMap::new(), old: HashMap::new(), bytes: 0, most };
        Self {
            hasher: RandomState::new(),
            text_bytes: limits.plan_text_bytes,
            generations: Mutex::new(generations),
        }
    }

    fn hash(&self, text: &str, param_oids: &[u32], settings: &PlanSettings) -> u64 {
        self.hasher.hash_one((text, param_oids, settings))
    }

    /// What was kept for a text.
    pub(super) fn get(
        &self,
        text: &str,
        param_oids: &[u32],
        settings: &Arc<PlanSettings>,
    ) -> Option<Arc<T>> {
        if text.len() > self.text_bytes {
            return None;
        }
        let hash = self.hash(text, param_oids, settings);
        let mut generations = self.generations.lock();
        if let Some(entry) = generations.young.get(&hash) {
            let found = entry.is(text, param_oids, settings);
            return found.then(|| Arc::clone(&entry.prepared));
        }
        let entry = generations.old.remove(&hash)?;
        if !entry.is(text, param_oids, settings) {
            return None;
        }
        let prepared = Arc::clone(&entry.prepared);
        let gone = generations.add(hash, entry);
        drop(generations);
        drop(gone);
        Some(prepared)
    }

    /// Keeps a statement for its text.
    pub(super) fn insert(
        &self,
        text: &str,
        param_oids: &[u32],
        settings: &Arc<PlanSettings>,
        prepared: &Arc<T>,
    ) {
        if text.len() > self.text_bytes {
            return;
        }
        let entry = Entry {
            text: text.into(),
            param_oids: param_oids.into(),
            settings: Arc::clone(settings),
            prepared: Arc::clone(prepared),
        };
        let hash = self.hash(text, param_oids, settings);
        let mut generations = self.generations.lock();
        let stale = generations.old.remove(&hash);
        let gone = generations.add(hash, entry);
        drop(generations);
        drop((stale, gone));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(database: &str) -> Arc<PlanSettings> {
        Arc::new(PlanSettings { database: database.to_owned(), ..PlanSettings::default() })
    }

    fn get(cache: &PlanCache<u32>, text: &str, oids: &[u32], database: &str) -> Option<u32> {
        cache.get(text, oids, &settings(database)).map(|found| *found)
    }

    #[test]
    fn only_the_same_question_finds_the_answer() {
        let cache = PlanCache::new(&Limits::default());
        cache.insert("SELECT $1", &[20], &settings("a"), &Arc::new(1));
        cache.insert("SELECT $1", &[25], &settings("a"), &Arc::new(2));
        cache.insert("SELECT $1", &[20], &settings("b"), &Arc::new(3));
        assert_eq!(get(&cache, "SELECT $1", &[20], "a"), Some(1));
        assert_eq!(get(&cache, "SELECT $1", &[25], "a"), Some(2));
        assert_eq!(get(&cache, "SELECT $1", &[20], "b"), Some(3));
        assert_eq!(get(&cache, "SELECT $1", &[], "a"), None);
        assert_eq!(get(&cache, "SELECT $1 ", &[20], "a"), None);
        assert_eq!(get(&cache, "SELECT $1", &[20], "c"), None);
        cache.insert("SELECT $1", &[20], &settings("a"), &Arc::new(4));
        assert_eq!(get(&cache, "SELECT $1", &[20], "a"), Some(4));
    }

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let cache = PlanCache::new(&Limits::default());
        cache.insert("used", &[], &settings("a"), &Arc::new(0));
        let limits = Limits::default();
        let most = 2 * (limits.plan_cache_bytes / ENTRY_BYTES + 2);
        for i in 0..50_000u32 {
            cache.insert(&format!("SELECT {i}"), &[], &settings("a"), &Arc::new(i));
            if i % 100 == 0 {
                assert_eq!(get(&cache, "used", &[], "a"), Some(0), "after {i}");
            }
            let generations = cache.generations.lock();
            assert!(generations.young.len() + generations.old.len() <= most, "after {i}");
        }
        assert_eq!(get(&cache, "SELECT 0", &[], "a"), None);
        assert_eq!(get(&cache, "SELECT 49999", &[], "a"), Some(49_999));
        let long = "x".repeat(limits.plan_text_bytes + 1);
        cache.insert(&long, &[], &settings("a"), &Arc::new(1));
        assert_eq!(get(&cache, &long, &[], "a"), None);
    }
}
