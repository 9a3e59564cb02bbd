//! The way through the lock table: what is in the way of a request, and the wait for it.

use std::{task::Waker, time::Duration};

use crdb_concurrency::{LockGuard, LockRequest, Sequenced};
use crdb_keys::Key;
use crdb_proto::kv::{BatchHeader, TxnMeta, WaitPolicy};
use crdb_storage::Engine;

use super::{
    Evaluation, Progress, Stage, YieldPoint, done,
    held::{Hold, LockChanges},
    wants,
};
use crate::{
    config::Mono,
    handle::{LatchGuard, ReplicaHandle},
};

impl<E: Engine> Evaluation<E> {
    /// Asks the lock table, under the latches.
    pub(super) fn lock(&mut self, latch: LatchGuard, now: Mono, waker: &Waker) -> Progress {
        let Some(replica) = self.replica.clone() else {
            return self.start(now, waker);
        };
        // The range may have split while this request waited for its latches.
        if let Err(response) = self.check_bounds(&replica) {
            return Progress::Done(response);
        }
        if self.writes_late(&replica, now) {
            return done(self.ended());
        }
        let policy = self.wait_policy();
        if policy != WaitPolicy::WaitSkip && !replica.locks.is_empty() {
            let wants = self.wants();
            if policy == WaitPolicy::WaitError
                && let Some(wait) = replica.locks.check(&wants)
            {
                return done(self.lock_conflict(wait.key, wait.holder, false));
            }
            match replica.locks.sequence(&wants, self.place.take(), now.0) {
                Sequenced::Free(place) => self.place = place,
                Sequenced::Waits(place) => {
                    drop(latch);
                    return self.queue(place, now, waker);
                }
                Sequenced::Crowded => return done(self.crowded_locks()),
                Sequenced::Ended => return done(self.ended()),
            }
        }
        self.stage = Stage::Unlocked(latch);
        Progress::Yield(YieldPoint::AfterLocks)
    }

    /// Whether it writes for a transaction that has ended meanwhile. Reads do not ask the table.
    fn writes_late(&self, replica: &ReplicaHandle, now: Mono) -> bool {
        wants::Writes::of(&self.request) != wants::Writes::Nothing
            && self.txn().is_some_and(|txn| replica.locks.has_ended(&txn.id, now.0))
    }

    fn wait_policy(&self) -> WaitPolicy {
        self.header().map(BatchHeader::wait_policy).unwrap_or_default()
    }

    /// What the request wants of the lock table. Not kept: most requests find it empty.
    fn wants(&self) -> LockRequest {
        let read = self.read_timestamp().unwrap_or_else(|| self.store.shared.clock.now());
        wants::locks(&self.request, read)
    }

    /// Waits at `place` for a lock, without latches; or goes on.
    pub(super) fn queue(&mut self, place: LockGuard, now: Mono, waker: &Waker) -> Progress {
        let lease_wait = self.store.shared.config.limits.lease_wait;
        self.give_up = now.after(lease_wait);
        // The waker is left before the lease is looked at: who ends the lease wakes.
        let blocker = place.blocker(waker);
        let served = self
            .replica
            .as_ref()
            .is_some_and(|replica| !replica.is_removed() && self.serving(replica).is_some());
        match blocker {
            Some(wait) if served => {
                if self.patience(&wait.key, now).is_some_and(|deadline| deadline <= now) {
                    return done(self.lock_conflict(wait.key, wait.holder, true));
                }
                self.stage = Stage::Queued(place);
                Progress::WaitLock(Box::new(wait))
            }
            Some(_) => self.start(now, waker),
            None => {
                self.place = Some(place);
                self.start(now, waker)
            }
        }
    }

    /// When the wait for `key` ends without its lock: the time allowed is for each key anew.
    fn patience(&mut self, key: &Key, now: Mono) -> Option<Mono> {
        let timeout = self.header().map_or(0, |header| header.lock_timeout_ms);
        if timeout == 0 {
            return None;
        }
        match &self.lock_deadline {
            Some((waited_for, deadline)) if waited_for == key => Some(*deadline),
            _ => {
                let deadline = now.after(Duration::from_millis(timeout));
                self.lock_deadline = Some((key.clone(), deadline));
                Some(deadline)
            }
        }
    }

    /// Intents of others were met, under the latch: they are made known, and waited for.
    pub(super) fn meet(
        &mut self,
        replica: &ReplicaHandle,
        hold: Hold,
        intents: Vec<(Key, TxnMeta)>,
        now: Mono,
        waker: &Waker,
    ) -> Progress {
        if self.wait_policy() == WaitPolicy::WaitError {
            let (key, holder) = intents.into_iter().next().unwrap_or_default();
            return done(self.lock_conflict(key, holder, false));
        }
        let place = self.place.take();
        match replica.locks.discover(&self.wants(), place, &intents, now.0) {
            Sequenced::Waits(place) => {
                drop(hold);
                self.queue(place, now, waker)
            }
            // An error that names no intent: there is nothing to wait for.
            Sequenced::Free(_) => done(self.invalid("nothing is in the way of the request")),
            Sequenced::Crowded => done(self.crowded_locks()),
            Sequenced::Ended => done(self.ended()),
        }
    }

    /// Locks what was read. If somebody else was faster, the request waits, or looks again if it
    /// leaves locked rows out.
    pub(super) fn acquire(
        &mut self,
        replica: &ReplicaHandle,
        hold: Hold,
        changes: &LockChanges,
        now: Mono,
        waker: &Waker,
    ) -> Result<Hold, Box<Progress>> {
        if changes.locks.is_empty() {
            return Ok(hold);
        }
        let txn = self.txn().cloned();
        let place = match replica.locks.acquire(txn, self.place.take(), &changes.locks, now.0) {
            Sequenced::Free(place) => {
                self.place = place;
                return Ok(hold);
            }
            Sequenced::Waits(place) => place,
            Sequenced::Crowded => return Err(Box::new(done(self.crowded_locks()))),
            Sequenced::Ended => return Err(Box::new(done(self.ended()))),
        };
        Err(Box::new(match (self.wait_policy(), place.blocker(waker)) {
            (WaitPolicy::WaitError, Some(wait)) => {
                done(self.lock_conflict(wait.key, wait.holder, false))
            }
            (WaitPolicy::WaitError | WaitPolicy::WaitSkip, _) => {
                drop(place);
                self.stage = Stage::Latched(hold.latch);
                Progress::Yield(YieldPoint::AfterLatch)
            }
            (WaitPolicy::WaitBlock, _) => {
                drop(hold);
                self.queue(place, now, waker)
            }
        }))
    }
}
