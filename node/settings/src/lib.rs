//! Cluster settings: which there are, what may stand in them, and what does on this node; and how
//! a crate names its bounds, see [`limits!`].
//!
//! What it is: the registry with names, types, defaults and texts, and [`Settings`], the values as a
//! node knows them, cheap to read. What it is not: it neither reads nor writes the replicated store
//! (the SQL layer does, under the system range's setting keys, and every node polls it).
//!
//! ```text
//! SET CLUSTER SETTING -> parse, validate -> replicated key -> poll of every node -> Settings::load
//!                                                                                       |
//!                                                             Settings::get, one atomic load
//! ```
//!
//! Invariants:
//! 1. [`Settings::get`] never waits: a value is one atomic.
//! 2. A stored text that this version cannot read leaves the setting at its default; the caller is
//!    told, nothing fails.
//! 3. Only settings that some code reads are registered.

mod limits;
mod registry;
mod value;

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use limits::{Bound, LimitError, draw as draw_limit, pairs as limit_pairs};
pub use registry::{
    CLOSED_TIMESTAMP_SIDE_TRANSPORT_INTERVAL, CLOSED_TIMESTAMP_TARGET, FOLLOWER_READS_ENABLED,
    GC_TTL, MAX_BUFFERED_WRITES, READ_COMMITTED_ENABLED, RESULTS_BUFFER_SIZE,
    SHUTDOWN_CONNECTIONS_TIMEOUT, SHUTDOWN_INITIAL_WAIT, SHUTDOWN_LEASE_TRANSFER_TIMEOUT,
    SHUTDOWN_TRANSACTIONS_TIMEOUT, TIME_UNTIL_STORE_DEAD,
};
pub use value::{ByteSize, Kind, ParseError, format_bytes, format_duration, parse_duration};

/// One cluster setting.
#[derive(Debug)]
pub struct Definition {
    /// Its name.
    pub name: &'static str,
    /// An older name that still works.
    pub alias: Option<&'static str>,
    /// What may stand in it.
    pub kind: Kind,
    /// Its default, as text.
    pub default: &'static str,
    /// Whether users are meant to change it.
    pub public: bool,
    /// What it does.
    pub description: &'static str,
}

/// All settings, ordered by name.
#[must_use]
pub fn all() -> &'static [Definition] {
    registry::ALL
}

/// The setting of a name or alias.
#[must_use]
pub fn find(name: &str) -> Option<&'static Definition> {
    registry::ALL.iter().find(|setting| setting.name == name || setting.alias == Some(name))
}

/// What a setting's atomic holds.
pub trait Value: Copy {
    /// The value of the bits.
    fn from_bits(bits: u64) -> Self;
}

/// A setting with the type of its values.
#[derive(Debug)]
pub struct Key<T> {
    index: usize,
    value: PhantomData<T>,
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

/// The values of all settings on a node.
#[derive(Debug)]
pub struct Settings {
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    bits: AtomicU64,
    overridden: AtomicBool,
}

impl Default for Settings {
    fn default() -> Self {
        let slot = |setting: &Definition| Slot {
            bits: AtomicU64::new(setting.default_bits()),
            overridden: AtomicBool::new(false),
        };
        Self { slots: registry::ALL.iter().map(slot).collect() }
    }
}

impl Definition {
    /// The bits of the default.
    fn default_bits(&self) -> u64 {
        // The registry's test proves that every default parses.
        self.kind.parse(self.default).unwrap_or(0)
    }
}

impl Settings {
    /// The value of a setting.
    #[must_use]
    pub fn get<T: Value>(&self, key: Key<T>) -> T {
        T::from_bits(self.slots.get(key.index).map_or(0, |slot| slot.bits.load(Ordering::Relaxed)))
    }

    /// The value of a setting as text, and whether it differs from the default by an order.
    #[must_use]
    pub fn shown(&self, setting: &Definition) -> (String, bool) {
        let index = registry::ALL.iter().position(|known| known.name == setting.name);
        match index.and_then(|index| self.slots.get(index)) {
            Some(slot) => {
                let bits = slot.bits.load(Ordering::Relaxed);
                (setting.kind.format(bits), slot.overridden.load(Ordering::Relaxed))
            }
            None => (setting.default.to_owned(), false),
        }
    }

    /// Sets every setting to the text stored for its name, or to its default. Returns the stored
    /// texts that cannot be used.
    pub fn load<'t>(&self, stored: impl IntoIterator<Item = (&'t str, &'t str)>) -> Vec<String> {
        let mut stored: HashMap<&str, &str> = stored.into_iter().collect();
        let mut unusable = Vec::new();
        for (setting, slot) in registry::ALL.iter().zip(&self.slots) {
            let given = stored.remove(setting.name);
            let bits = match given.map(|text| setting.kind.parse(text)) {
                Some(Ok(bits)) => Some(bits),
                Some(Err(error)) => {
                    unusable.push(format!("{}: {error}", setting.name));
                    None
                }
                None => None,
            };
            slot.bits.store(bits.unwrap_or_else(|| setting.default_bits()), Ordering::Relaxed);
            slot.overridden.store(bits.is_some(), Ordering::Relaxed);
        }
        unusable
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn values_follow_what_is_stored() {
        let settings = Settings::default();
        assert_eq!(settings.get(CLOSED_TIMESTAMP_TARGET), Duration::from_secs(3));
        assert!(settings.get(FOLLOWER_READS_ENABLED));
        let stored = [
            ("kv.closed_timestamp.target_duration", "250ms"),
            ("kv.closed_timestamp.follower_reads.enabled", "false"),
            ("kv.transaction.max_buffered_writes", "lots"),
            ("kv.of_a_later_version", "7"),
        ];
        let unusable = settings.load(stored);
        assert_eq!(unusable.len(), 1, "{unusable:?}");
        assert_eq!(settings.get(CLOSED_TIMESTAMP_TARGET), Duration::from_millis(250));
        assert!(!settings.get(FOLLOWER_READS_ENABLED));
        assert_eq!(settings.get(MAX_BUFFERED_WRITES), ByteSize(4 << 20));
        let target = find("kv.closed_timestamp.target_duration").unwrap();
        assert_eq!(settings.shown(target), ("250ms".to_owned(), true));
        assert!(settings.load([]).is_empty());
        assert_eq!(settings.get(CLOSED_TIMESTAMP_TARGET), Duration::from_secs(3));
        assert_eq!(settings.shown(target), ("3s".to_owned(), false));
    }

    #[test]
    fn the_registry_is_ordered_and_its_defaults_are_valid() {
        assert!(all().windows(2).all(|pair| pair[0].name < pair[1].name), "ordered by name");
        for setting in all() {
            let bits = setting.kind.parse(setting.default);
            let text = bits.map(|bits| setting.kind.format(bits));
            assert_eq!(text.as_deref(), Ok(setting.default), "{}", setting.name);
            assert!(setting.description.len() > 20, "{}", setting.name);
            if let Some(alias) = setting.alias {
                assert_eq!(find(alias).map(|found| found.name), Some(setting.name));
            }
        }
        assert!(find("nonsense").is_none());
    }
}
