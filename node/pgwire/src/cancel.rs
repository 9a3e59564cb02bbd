//! Cancel keys: which running statement a CancelRequest means.
//!
//! The process id of a key holds the node's id in its upper bits, so that a node behind a balancer
//! can tell whose session a request is about.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use crdb_sql::CancelFlag;
use parking_lot::Mutex;
use pgwire::messages::startup::SecretKey;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// Bits of the process id that number the sessions of a node; the node's id is above them.
const SESSION_BITS: u32 = 20;

/// The sessions of a node that can be cancelled.
pub(crate) struct Registry {
    node: u32,
    next: AtomicU32,
    state: Mutex<State>,
}

struct State {
    sessions: HashMap<i32, (Bytes, CancelFlag)>,
    rng: StdRng,
}

/// A session's entry; leaving it out of the registry is its drop.
pub(crate) struct Registered<'a> {
    registry: &'a Registry,
    pub(crate) pid: i32,
    pub(crate) key: SecretKey,
}

impl Registry {
    pub(crate) fn new(node: u32, seed: u64) -> Registry {
        let state = State { sessions: HashMap::new(), rng: StdRng::seed_from_u64(seed) };
        Registry { node, next: AtomicU32::new(1), state: Mutex::new(state) }
    }

    /// Adds a session; protocol 3.2 has room for a key that cannot be guessed.
    pub(crate) fn register(&self, flag: CancelFlag, long_key: bool) -> Registered<'_> {
        let mut state = self.state.lock();
        let mut bytes = vec![0_u8; if long_key { 32 } else { 4 }];
        state.rng.fill_bytes(&mut bytes);
        let pid = loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed) & ((1 << SESSION_BITS) - 1);
            let pid = ((self.node << SESSION_BITS | number) & (u32::MAX >> 1)).cast_signed();
            if pid != 0 && !state.sessions.contains_key(&pid) {
                break pid;
            }
        };
        let key = match <[u8; 4]>::try_from(bytes.as_slice()) {
            Ok(short) => SecretKey::I32(i32::from_be_bytes(short)),
            Err(_) => SecretKey::Bytes(Bytes::copy_from_slice(&bytes)),
        };
        state.sessions.insert(pid, (Bytes::from(bytes), flag));
        Registered { registry: self, pid, key }
    }

    /// Interrupts a session's statement if the key is right; says nothing if not, as anyone may ask.
    pub(crate) fn cancel(&self, pid: i32, key: &[u8]) -> bool {
        match self.state.lock().sessions.get(&pid) {
            Some((known, flag)) if equal(known, key) => flag.cancel(),
            _ => return false,
        }
        true
    }
}

/// Compares keys in a time that does not tell where they differ.
fn equal(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).fold(0, |differs, (left, right)| differs | (left ^ right)) == 0
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.registry.state.lock().sessions.remove(&self.pid);
    }
}
