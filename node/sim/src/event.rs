//! What can happen, and in which order.

use std::{cmp::Ordering, sync::Weak};

use crdb_keys::Key;
use crdb_kv::SendError;
use crdb_proto::{
    kv::{BatchRequest, BatchResponse},
    peer::RaftBatch,
};
use crdb_raftstore::{Input, ReceivedSnapshot};

use crate::exec::{Answer, Caller, Slot};

/// Something that happens at a moment of the simulated time.
pub(crate) enum Event {
    Step {
        node: usize,
    },
    Finish {
        node: usize,
        process: u64,
    },
    /// Polls a task.
    Poll {
        task: u64,
    },
    /// Fills the slot of a timer.
    Timer {
        slot: Weak<Slot<()>>,
    },
    /// A call reaches the node it is meant for.
    Call {
        to: usize,
        batch: Box<BatchRequest>,
        caller: Caller,
    },
    /// The answer to a call comes back, or the news that there will be none.
    Answer {
        answer: Box<Answer>,
        caller: Caller,
    },
    Batch {
        from: usize,
        to: usize,
        batch: Box<RaftBatch>,
    },
    Snapshot {
        from: usize,
        to: usize,
        received: Box<ReceivedSnapshot>,
    },
    Tell {
        to: usize,
        input: Box<Input>,
    },
    Invoke {
        client: usize,
    },
    GiveUp {
        client: usize,
        op: u64,
    },
    InvokeTxn {
        client: usize,
    },
    CancelTxn {
        client: usize,
        op: u64,
    },
    Fault,
    Restart {
        node: usize,
    },
    /// Time for what is done now and then.
    Watch,
    CrashNow {
        node: usize,
        restart_after: u64,
    },
    CutNow {
        from: usize,
        to: usize,
        until: u64,
    },
    SetOffset {
        node: usize,
        offset: u64,
    },
}

/// What a task has to tell.
pub(crate) enum Note {
    /// The gateway is done with an operation of a client of single keys.
    OpDone { client: usize, op: u64, result: Box<Result<BatchResponse, SendError>> },
    /// A transaction is about to commit.
    Committing { client: usize, op: u64, gateway: usize },
    /// A transaction takes its time before it commits its write of a key.
    Dawdling { key: Key },
    /// A transaction ended; `wrong` tells that the database broke a promise.
    TxnDone { client: usize, op: u64, committed: bool, wrong: Option<String> },
    /// A sweep of all keys is tried again.
    SweepFailed(String),
    /// The sweep of all keys is over.
    Swept { wrong: Option<String> },
}

/// An event and its place in the order of all.
pub(crate) struct Scheduled {
    pub(crate) at: u64,
    pub(crate) tie: u64,
    pub(crate) sequence: u64,
    pub(crate) event: Event,
}

impl Scheduled {
    fn order(&self) -> (u64, u64, u64) {
        (self.at, self.tie, self.sequence)
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}
