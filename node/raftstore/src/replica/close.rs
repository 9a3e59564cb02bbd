//! Closing timestamps at the leaseholder, and counting what it closed at the others.

use crdb_keys::Timestamp;
use crdb_proto::peer::ClosedTimestamp;
use crdb_storage::Engine;

use super::{Ctx, Replica};
use crate::{closed::SideClosed, config::nanos};

impl<E: Engine> Replica<E> {
    /// Closes what can be closed, at a leaseholder whose lease is valid.
    pub(super) fn close(&self, ctx: &Ctx<'_, E>) -> Option<Timestamp> {
        let serving = self.handle.lease.get().filter(|serving| ctx.now < serving.expires)?;
        let behind = nanos(ctx.config.settings.closed_target());
        let wall_nanos = ctx.sent.timestamp.wall_nanos.checked_sub(behind)?;
        let target = Timestamp { wall_nanos, logical: 0 };
        // What the lease does not cover a later one may write.
        (target < serving.bound).then(|| self.handle.writes.close(target))
    }

    /// Tells the other replicas what is closed although nothing is written.
    pub(crate) fn close_aside(&mut self, ctx: &mut Ctx<'_, E>) {
        let Some(led) = self.leadership.as_ref().filter(|led| !led.is_transferring()) else {
            return;
        };
        let lease = &self.applied.lease;
        if lease.term != led.term {
            return;
        }
        let lease_index = led.lease_index.max(self.applied.lease_index);
        let Some(closed) = self.close(ctx) else { return };
        let promise = SideClosed { lease_sequence: lease.sequence, lease_index, closed };
        let wire = promise.to_wire(self.range_id.get());
        for replica in self.descriptor.iter().flat_map(|descriptor| &descriptor.replicas) {
            if replica.store_id != self.store_id.get() {
                ctx.outbox.closed(crdb_keys::StoreId(replica.store_id), wire);
            }
        }
        self.note_closed(promise);
    }

    /// Takes in what the leaseholder says it closed.
    pub(crate) fn receive_closed(&mut self, closed: &ClosedTimestamp) {
        self.note_closed(SideClosed::from_wire(closed));
    }

    fn note_closed(&mut self, promise: SideClosed) {
        let older = self.side_closed.is_some_and(|known| {
            (known.lease_sequence, known.closed) > (promise.lease_sequence, promise.closed)
        });
        if !older && self.is_initialized() {
            self.side_closed = Some(promise);
            self.publish_closed();
        }
    }

    /// Publishes what is closed and applied.
    pub(super) fn publish_closed(&self) {
        let (sequence, index) = (self.applied.lease.sequence, self.applied.lease_index);
        let aside = self.side_closed.filter(|promise| promise.counts(sequence, index));
        let aside = aside.map_or(Timestamp::ZERO, |promise| promise.closed);
        self.handle.history.close(self.applied.closed().max(aside));
    }
}
