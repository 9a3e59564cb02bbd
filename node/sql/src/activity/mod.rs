//! What the sessions of a node are doing, for those who look on, and for those who stop them.
//!
//! What it is: the registry of a node's sessions, what each says of its statement and its
//! transaction, the lists made of it (SHOW SESSIONS, QUERIES, TRANSACTIONS and the tables of
//! `crdb_internal`), and the way of a CANCEL to the node that an id belongs to. What it is not: it
//! stops nothing by itself (whoever runs the statement watches the session's [`CancelFlag`]), and it
//! knows no socket ([`SessionPeers`] does).
//!
//! ```text
//! Session ── Seat ──▶ Entry { who, State } ◀── Registry ◀── list, cancel ◀── SHOW, CANCEL here
//!   statement: Busy     one short lock            ▲
//!                                                 └── SessionPeers ◀── SHOW, CANCEL elsewhere
//! ```
//!
//! Invariants:
//! 1. A session is listed from its start to its drop, however it ends; a statement from its start
//!    until its future has ended or is dropped.
//! 2. A CANCEL of a statement's id stops that statement or none: it is checked and raised under the
//!    lock that the statement's end takes.
//! 3. The lower 32 bits of an id are the node that gave it; no node gives an id twice.
//! 4. What a statement costs here is three short locks that nobody else wants, and no memory: its
//!    text is the one it was parsed from. Of a long one that is over only the shown part is kept.

mod flag;
mod list;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use crdb_keys::NodeId;
use crdb_proto::peer::{SqlSession, SqlStatement, SqlTransaction};
use crdb_sqlfront::Parsed;
use futures::future::BoxFuture;
use parking_lot::Mutex;

pub use flag::CancelFlag;
pub(crate) use list::{
    QUERIES, SESSIONS, TRANSACTIONS, columns as show_columns, rows as show_rows, table_rows,
};

/// The way to the sessions of the other nodes.
pub trait SessionPeers: Send + Sync + 'static {
    /// The other nodes of the cluster.
    fn nodes(&self) -> Vec<NodeId>;

    /// The sessions of a node; fails with the reason why it cannot be asked, at the latest after a
    /// few seconds.
    fn sessions(&self, node: NodeId) -> BoxFuture<'_, Result<Vec<SqlSession>, String>>;

    /// Cancels what an id of a node means; false when nothing of that id is there. Fails as
    /// [`Self::sessions`] does, and then it is unknown.
    fn cancel(&self, node: NodeId, target: Target) -> BoxFuture<'_, Result<bool, String>>;
}

/// What is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The statement of an id.
    Query(u128),
    /// The session of an id.
    Session(u128),
}

/// The sessions of a node.
pub(crate) struct Registry {
    node: NodeId,
    ids: AtomicU32,
    /// Bytes of a statement's text that others are shown.
    shown_bytes: usize,
    sessions: Mutex<BTreeMap<u128, Arc<Entry>>>,
}

/// Who a session is.
pub(crate) struct Who {
    pub(crate) user: String,
    pub(crate) client_address: String,
    pub(crate) backend_pid: u32,
}

/// A session as others see it.
struct Entry {
    id: u128,
    who: Who,
    started_micros: i64,
    cancel: CancelFlag,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    application: String,
    database: String,
    statement: Option<Running>,
    last: Option<Text>,
    txn: Option<TxnState>,
    txns_executed: u64,
}

struct Running {
    id: u128,
    text: Text,
    started_micros: i64,
    preparing: bool,
    /// It counts as one of its transaction.
    counted: bool,
    /// It ended the transaction that was open before.
    ended_txn: bool,
}

/// The text of a statement.
#[derive(Clone)]
pub(crate) enum Text {
    /// As it was sent.
    Parsed(Arc<Parsed>),
    /// Of a statement that was put together.
    Made(Arc<str>),
    /// Of a statement that nobody sent.
    Fixed(&'static str),
}

impl Text {
    fn whole(&self) -> &str {
        match self {
            Self::Parsed(parsed) => &parsed.text,
            Self::Made(text) => text,
            Self::Fixed(text) => text,
        }
    }

    fn is_long(&self, most: usize) -> bool {
        self.whole().len() > most
    }

    /// The text, or its beginning: `most` bytes, at least those that say that it is one.
    fn shown(&self, most: usize) -> String {
        let text = self.whole();
        if text.len() <= most {
            return text.to_owned();
        }
        let most = most.saturating_sub('…'.len_utf8());
        let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        format!("{}…", text.get(..end).unwrap_or_default())
    }
}

/// What a transaction is known by.
#[derive(Clone, Copy)]
pub(crate) struct TxnInfo {
    /// In the key-value layer, once it has begun there.
    pub(crate) id: Option<[u8; 16]>,
    pub(crate) started_micros: i64,
    pub(crate) isolation: &'static str,
    pub(crate) priority: &'static str,
}

struct TxnState {
    info: TxnInfo,
    /// It is that of one statement, and ends with it.
    alone: bool,
    statements: u64,
    restarts: u64,
    auto_retries: u64,
    reason: String,
}

impl TxnState {
    fn new(info: TxnInfo, alone: bool) -> Self {
        Self { info, alone, statements: 0, restarts: 0, auto_retries: 0, reason: String::new() }
    }
}

impl Registry {
    pub(crate) fn new(node: NodeId, shown_bytes: usize) -> Arc<Self> {
        Arc::new(Self { node, ids: AtomicU32::new(0), shown_bytes, sessions: Mutex::default() })
    }

    /// An id; `nanos` is the wall clock's time, which tells processes of a node apart.
    fn id(&self, nanos: u64) -> u128 {
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        u128::from(nanos) << 64 | u128::from(number) << 32 | u128::from(self.node.get())
    }

    /// Adds a session, which is listed until its seat is dropped.
    pub(crate) fn register(self: &Arc<Self>, who: Who, nanos: u64) -> Seat {
        let entry = Arc::new(Entry {
            id: self.id(nanos),
            who,
            started_micros: micros(nanos),
            cancel: CancelFlag::new(),
            state: Mutex::default(),
        });
        self.sessions.lock().insert(entry.id, Arc::clone(&entry));
        Seat { registry: Arc::clone(self), entry, in_txn: false }
    }

    /// The sessions, oldest first.
    pub(crate) fn list(&self) -> Vec<SqlSession> {
        self.entries().iter().map(|entry| entry.describe(self.shown_bytes)).collect()
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.sessions.lock().values().cloned().collect()
    }

    /// How many statements run and how many transactions are open.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let (mut statements, mut txns) = (0, 0);
        for entry in self.entries() {
            let state = entry.state.lock();
            statements += u64::from(state.statement.is_some());
            txns += u64::from(state.txn.is_some());
        }
        (statements, txns)
    }

    /// Cancels what an id means; false when nothing of that id is here.
    pub(crate) fn cancel(&self, target: Target) -> bool {
        match target {
            Target::Session(id) => match self.sessions.lock().get(&id) {
                Some(entry) => entry.cancel.close_session(),
                None => return false,
            },
            Target::Query(id) => {
                let is_it = |running: &Running| running.id == id;
                return self.entries().iter().any(|entry| {
                    let state = entry.state.lock();
                    let found = state.statement.as_ref().is_some_and(is_it);
                    if found {
                        entry.cancel.cancel_query();
                    }
                    found
                });
            }
        }
        true
    }
}

fn micros(nanos: u64) -> i64 {
    i64::try_from(nanos / 1000).unwrap_or(i64::MAX)
}

fn id_bytes(id: u128) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

/// An id as users see it.
pub(crate) fn shown_id(id: u128) -> String {
    format!("{id:032x}")
}

/// The node that gave an id.
pub(crate) fn node_of(id: u128) -> NodeId {
    NodeId(u32::try_from(id & u128::from(u32::MAX)).unwrap_or(0))
}

/// A session's place in the registry.
pub(crate) struct Seat {
    registry: Arc<Registry>,
    entry: Arc<Entry>,
    /// A transaction of several statements is listed.
    in_txn: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.registry.sessions.lock().remove(&self.entry.id);
    }
}

impl Seat {
    pub(crate) fn id(&self) -> u128 {
        self.entry.id
    }

    /// Whether a target is this session, or its statement.
    pub(crate) fn is(&self, target: Target) -> bool {
        match target {
            Target::Session(id) => id == self.entry.id,
            Target::Query(id) => {
                self.entry.state.lock().statement.as_ref().is_some_and(|running| running.id == id)
            }
        }
    }

    /// What stops the session's statements.
    pub(crate) fn cancel_flag(&self) -> CancelFlag {
        self.entry.cancel.clone()
    }

    /// Says what the session is called and where it is.
    pub(crate) fn name(&self, application: &str, database: &str) {
        let mut state = self.entry.state.lock();
        if state.application != application {
            application.clone_into(&mut state.application);
        }
        if state.database != database {
            database.clone_into(&mut state.database);
        }
    }

    /// Lists a statement until what is returned is dropped. Statements within it are not listed.
    pub(crate) fn begin(&self, text: Text, nanos: u64, preparing: bool) -> Busy {
        let mut state = self.entry.state.lock();
        if state.statement.is_some() {
            return Busy(None, 0);
        }
        let id = self.registry.id(nanos);
        let started_micros = micros(nanos);
        state.statement =
            Some(Running { id, text, started_micros, preparing, counted: false, ended_txn: false });
        drop(state);
        Busy(Some(Arc::clone(&self.entry)), self.registry.shown_bytes)
    }

    /// Says that the statement runs in a transaction of its own.
    pub(crate) fn alone(&self, info: TxnInfo) {
        let mut state = self.entry.state.lock();
        // A query within a statement of an open transaction is of no interest.
        if state.txn.as_ref().is_some_and(|txn| !txn.alone) {
            return;
        }
        let txn = state.txn.get_or_insert_with(|| TxnState::new(info, true));
        txn.info = info;
        txn.statements = 1;
    }

    /// Says that the statement runs in the open transaction.
    pub(crate) fn in_open(&mut self, info: TxnInfo) {
        self.in_txn = true;
        let mut state = self.entry.state.lock();
        let state = &mut *state;
        let txn = state.txn.get_or_insert_with(|| TxnState::new(info, false));
        txn.info = info;
        if let Some(running) = state.statement.as_mut().filter(|running| !running.counted) {
            running.counted = true;
            txn.statements += 1;
        }
    }

    /// Says which transaction of several statements is open, if any is.
    pub(crate) fn open(&mut self, open: Option<TxnInfo>) {
        if open.is_none() && !self.in_txn {
            return;
        }
        self.in_txn = open.is_some();
        let mut state = self.entry.state.lock();
        match open {
            Some(info) => {
                let txn = state.txn.get_or_insert_with(|| TxnState::new(info, false));
                txn.info = info;
            }
            None => {
                state.txn = None;
                state.txns_executed += 1;
                if let Some(running) = &mut state.statement {
                    running.ended_txn = true;
                }
            }
        }
    }

    /// Counts that the gateway runs the transaction, or its statement, again.
    pub(crate) fn retried(&self, reason: &str) {
        if let Some(txn) = &mut self.entry.state.lock().txn {
            txn.auto_retries += 1;
            reason.clone_into(&mut txn.reason);
        }
    }

    /// Counts that the client runs the transaction again.
    pub(crate) fn restarted(&self) {
        if let Some(txn) = &mut self.entry.state.lock().txn {
            txn.restarts += 1;
        }
    }
}

/// A statement that is listed; its drop is its end.
///
/// With the bytes of its text that are shown.
pub(crate) struct Busy(Option<Arc<Entry>>, usize);

impl std::fmt::Debug for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Busy").field(&self.0.is_some()).finish()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Some(entry) = &self.0 else { return };
        let mut state = entry.state.lock();
        let Some(running) = state.statement.take() else { return };
        if running.preparing {
            return;
        }
        if state.txn.as_ref().is_none_or(|txn| txn.alone) {
            state.txn = None;
            state.txns_executed += u64::from(!running.ended_txn);
        }
        // An idle session does not hold the rows of the INSERT it loaded.
        let (last, long) = if running.text.is_long(self.1) {
            (Text::Made(running.text.shown(self.1).into()), Some(running.text))
        } else {
            (running.text, None)
        };
        let last = state.last.replace(last);
        drop(state);
        drop((last, long));
    }
}

impl Entry {
    fn describe(&self, shown_bytes: usize) -> SqlSession {
        let state = self.state.lock();
        let statement = state.statement.as_ref().map(|running| SqlStatement {
            id: id_bytes(running.id),
            text: running.text.shown(shown_bytes),
            started_micros: running.started_micros,
            preparing: running.preparing,
        });
        let transaction = state.txn.as_ref().map(|txn| SqlTransaction {
            id: txn.info.id.map(|id| Bytes::copy_from_slice(&id)).unwrap_or_default(),
            started_micros: txn.info.started_micros,
            statements: txn.statements,
            retries: txn.restarts + txn.auto_retries,
            auto_retries: txn.auto_retries,
            last_retry_reason: txn.reason.clone(),
            isolation: txn.info.isolation.to_owned(),
            priority: txn.info.priority.to_owned(),
        });
        SqlSession {
            id: id_bytes(self.id),
            user: self.who.user.clone(),
            client_address: self.who.client_address.clone(),
            application_name: state.application.clone(),
            database: state.database.clone(),
            started_micros: self.started_micros,
            backend_pid: self.who.backend_pid,
            last_statement: state
                .last
                .as_ref()
                .map(|text| text.shown(shown_bytes))
                .unwrap_or_default(),
            txns_executed: state.txns_executed,
            statement,
            transaction,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT_BYTES: usize = 1000;

    #[test]
    fn a_long_statement_that_is_over_is_not_held() {
        let who = Who { user: "root".into(), client_address: String::new(), backend_pid: 1 };
        let seat = Registry::new(NodeId(1), TEXT_BYTES).register(who, 1);
        let last = || seat.registry.list().remove(0).last_statement;
        for (len, held) in [(10, true), (TEXT_BYTES, true), (TEXT_BYTES + 1, false)] {
            let mut text = "SELECT ".to_owned();
            text.extend(std::iter::repeat_n('1', len - text.len()));
            let parsed = Arc::new(crdb_sqlfront::parse(&text).unwrap().remove(0));
            let watched = Arc::downgrade(&parsed);
            drop(seat.begin(Text::Parsed(parsed), 2, false));
            assert_eq!(watched.upgrade().is_some(), held, "{len} bytes");
            let shown = last();
            assert!(shown.len() <= TEXT_BYTES && text.starts_with(shown.trim_end_matches('…')));
            assert_eq!(shown.ends_with('…'), !held);
        }
    }
}
