//! When a request reads and writes.

use std::task::Waker;

use crdb_concurrency::ReaderId;
use crdb_keys::Timestamp;
use crdb_proto::kv::{self, LockStrength, error::Kind as ErrorKind};
use crdb_storage::{
    Engine,
    evaluate::{self, At, EvalArgs, EvalError, Evaluated, ServedRead},
};

use super::{
    Chosen, Evaluation, Progress, Stage, YieldPoint,
    held::Hold,
    wants::{self, Writes},
};
use crate::{
    config::Mono,
    handle::{LatchGuard, ReplicaHandle},
};

impl<E: Engine> Evaluation<E> {
    /// The timestamp of the reads, if the sender names one.
    pub(super) fn read_timestamp(&self) -> Option<Timestamp> {
        let header = self.request.header.as_ref()?;
        header.read_timestamp.map(Timestamp::from).filter(|timestamp| !timestamp.is_zero())
    }

    /// Checks what the sender says of itself, and moves the clock past what it knows.
    pub(super) fn accept(&self) -> Result<(), Box<kv::BatchResponse>> {
        if let Err(message) = self.check_txn() {
            return Err(Box::new(self.invalid(message)));
        }
        let latest = wants::latest_timestamp(&self.request);
        if latest.is_zero() {
            return Ok(());
        }
        self.store.shared.clock.update(latest).map_err(|error| {
            let invalid = ErrorKind::Invalid(kv::Invalid {});
            Box::new(self.failure(error.to_string(), invalid))
        })
    }

    fn check_txn(&self) -> Result<(), &'static str> {
        let Some(txn) = self.txn() else {
            // It would wait for locks that it cannot have.
            let locks = wants::locks_rows(&self.request);
            return if locks { Err("rows are locked by transactions only") } else { Ok(()) };
        };
        if ReaderId::new(&txn.id).is_none() {
            return Err("the id of a transaction has 16 bytes");
        }
        let one_phase = self.header().is_some_and(|header| header.one_phase);
        let intents = self.versions != Writes::Nothing && !one_phase;
        if txn.anchor.is_empty() && (intents || wants::locks_rows(&self.request)) {
            return Err("a transaction that locks or writes says where its record is");
        }
        Ok(())
    }

    /// Chooses the timestamps, under the latches and with nothing known to be in the way, and looks
    /// whether the lease covers them.
    pub(super) fn choose(&mut self, latch: LatchGuard, now: Mono, waker: &Waker) -> Progress {
        let Some(replica) = self.replica.clone() else {
            return self.start(now, waker);
        };
        let Some(serving) = self.serving(&replica) else {
            drop(latch);
            return self.no_lease(&replica, now, waker);
        };
        let clock = &self.store.shared.clock;
        let read = self.read_timestamp().unwrap_or_else(|| clock.now());
        let read = read.max(wants::prevented(&self.request));
        let lowest = match self.versions {
            Writes::Nothing => None,
            Writes::Present => Some(clock.now()),
            Writes::AtLeast(timestamp) => Some(timestamp),
        };
        let write = lowest.map(|lowest| replica.writes.begin(lowest));
        let write_at = match &write {
            Some(write) => write.timestamp(),
            None if self.writes => clock.now(),
            None => Timestamp::ZERO,
        };
        if write.is_some() {
            clock.forward(write_at);
        }
        let lease_sequence = serving.sequence;
        let chosen = Chosen { read, write: write_at, wrote: None, lease_sequence };
        let hold = Hold { write, latch };
        if !self.covers(&serving, now, &chosen) {
            drop(hold);
            return self.no_lease(&replica, now, waker);
        }
        self.stage = Stage::Checked(hold, chosen);
        Progress::Yield(YieldPoint::AfterLeaseCheck)
    }

    /// Evaluates the request on `snapshot`.
    pub(super) fn evaluate(
        &self,
        replica: &ReplicaHandle,
        hold: &Hold,
        chosen: &Chosen,
        snapshot: &E::Snapshot,
    ) -> Result<Evaluated, EvalError> {
        let own = self.txn().and_then(|txn| ReaderId::new(&txn.id));
        // The lowest timestamp allowed by the lease and by what is closed.
        let lowest = hold.write.as_ref().map(|write| write.timestamp()).unwrap_or_default();
        let floor = |key: &[u8]| {
            let unread = replica.reads.lock().floor_of_key(key, own);
            lowest.max(unread).prev()
        };
        let own_id = self.txn().map(|txn| &txn.id);
        let skip =
            |key: &[u8], strength: LockStrength| replica.locks.is_locked(key, strength, own_id);
        let args = EvalArgs {
            at: At { read: chosen.read, write: chosen.write },
            now: self.store.shared.clock.now(),
            // Behind the snapshot, which may lack what was collected up to there.
            gc_threshold: replica.history.threshold(),
            floor: &floor,
            certain_above: self.certain_above(replica, chosen),
            skip: &skip,
            limits: self.store.shared.config.storage,
        };
        evaluate::evaluate(snapshot, &self.request, &args)
    }

    /// Above what no version can be of before the reader's begin, as far as this node can tell: if
    /// it is the gateway of the transaction, too.
    fn certain_above(&self, replica: &ReplicaHandle, chosen: &Chosen) -> Timestamp {
        let here = self.store.shared.config.node_id.get();
        let own = self.header().filter(|header| {
            header.gateway_node_id == here
                && header.uncertainty_limit.is_some()
                && header.txn.as_ref().is_some_and(|txn| txn.gateway_node_id == here)
        });
        let observed = own.and_then(|header| header.observed).map(Timestamp::from);
        observed.map_or(Timestamp::MAX, |observed| {
            let clock = &self.store.shared.clock;
            replica.certainty.above(observed, chosen.lease_sequence, clock)
        })
    }

    /// The timestamps after the evaluation, which may have raised them. The clock goes past them.
    pub(super) fn raise(&self, chosen: Chosen, evaluated: &Evaluated) -> Chosen {
        let read = chosen.read.max(evaluated.read_timestamp);
        let wrote = evaluated.write_timestamp;
        let write = chosen.write.max(wrote.unwrap_or_default());
        self.store.shared.clock.forward(read.max(write));
        Chosen { read, write, wrote, ..chosen }
    }

    /// Notes what was read, before anybody can write there.
    pub(super) fn record_reads(&self, replica: &ReplicaHandle, reads: &[ServedRead]) {
        if reads.is_empty() {
            return;
        }
        let own = self.txn().and_then(|txn| ReaderId::new(&txn.id));
        let mut cache = replica.reads.lock();
        for read in reads {
            cache.add(&read.span, read.timestamp, own.filter(|_| read.by_txn));
        }
    }
}
