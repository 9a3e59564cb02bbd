//! Making a store and opening it again.

use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};

use crdb_keys::{
    Key, NodeId, RangeId, ReplicaId, Span, StoreId, Timestamp,
    hlc::Clock,
    layout::{self, RangeLocal},
};
use crdb_proto::kv::{RangeDescriptor, ReplicaDescriptor, ReplicaType};
use crdb_storage::{Engine, Family, Sync, WriteBatch, mvcc};
use prost::Message as _;

use crate::{
    config::{Mono, PlantedBug, StoreConfig, nanos},
    handle::StoreHandle,
    io::StoreError,
    lease::Lease,
    promise::{self, Promise},
    record::{
        self, AppliedState, ConfState, INITIAL_INDEX, INITIAL_TERM, RecordError, ReplicaRecord,
    },
    replica::{Replica, fatal},
    store::Store,
};

impl<E: Engine> Store<E> {
    /// Writes the ranges of a new cluster into an empty store, each with its one replica here, the
    /// meta entries that describe them, and `initial` values, all at the clock's present.
    pub fn bootstrap(
        engine: &E,
        clock: &Clock,
        node_id: NodeId,
        store_id: StoreId,
        initial: &[(Key, bytes::Bytes)],
    ) -> Result<(), StoreError> {
        let existing = replicas_on(engine).map_err(|error| fatal(store_id, error))?;
        if let Some((range, _)) = existing.first() {
            return Err(fatal(
                store_id,
                RecordError::corrupt(
                    "the data directory",
                    format!("it already holds {range}, a new cluster needs an empty one"),
                ),
            ));
        }
        let now = clock.now();
        let mut batch = WriteBatch::new();
        for (range, span) in layout::bootstrap_ranges() {
            let descriptor = first_descriptor(range, &span, node_id, store_id);
            write_first_replica(&mut batch, &descriptor);
            let meta = layout::meta_key(&descriptor.end_key);
            mvcc::put(&mut batch, &meta, now, Some(&descriptor.encode_to_vec()));
        }
        for (key, value) in initial {
            mvcc::put(&mut batch, key, now, Some(value));
        }
        engine
            .write(&batch, Sync::Yes)
            .map_err(|source| StoreError::Storage { store: store_id, source })
    }

    /// Opens the store on `engine`. `now` is when the process started, or later.
    pub fn open(
        engine: E,
        clock: Clock,
        config: StoreConfig,
        now: Mono,
    ) -> Result<Self, StoreError> {
        let store_id = config.store_id;
        let fail = |error| fatal(store_id, error);
        let stamp = record::read_stamp(&engine).map_err(fail)?.map(Timestamp::from);
        let restart_bound = match stamp {
            // Without a stamp the store never acknowledged anything.
            None => Timestamp::ZERO,
            Some(stamp) => {
                warn_of_clock(store_id, clock.wall_nanos(), stamp);
                clock.forward(stamp);
                let offset = nanos(clock.max_offset());
                promise::bound_after_restart(clock.now(), stamp, offset, &config)
            }
        };
        let found = replicas_on(&engine).map_err(fail)?;
        let timeout = config.timing.election_timeout();
        let vote_at_once = config.has(PlantedBug::VoteAfterRestart);
        let handle = StoreHandle::new(engine, clock, config);
        let mut replicas = BTreeMap::new();
        for (range, replica_id) in found {
            let replica = Replica::load(&handle, range, replica_id, |term, sole| match stamp {
                Some(stamp) if sole => {
                    Promise::after_start(Mono::default(), promise::sole_voter_bound(stamp), term)
                }
                Some(_) if !vote_at_once => {
                    Promise::after_start(now.after(timeout), restart_bound, term)
                }
                Some(_) | None => Promise::default(),
            })?;
            replicas.insert(range, replica);
        }
        tracing::info!(store = %store_id, replicas = replicas.len(), "opened the store");
        // The stamp found covers what the process before acknowledged; this one writes its own
        // before it acknowledges anything.
        Ok(Self::assemble(handle, replicas, None, restart_bound, now))
    }
}

/// Says so when the wall clock stands behind what this store has seen: leases begin above that, so
/// nothing is served before the clock has caught up.
fn warn_of_clock(store: StoreId, wall_nanos: u64, stamp: Timestamp) {
    let behind = Duration::from_nanos(stamp.wall_nanos.saturating_sub(wall_nanos));
    if behind > Duration::from_secs(1) {
        tracing::warn!(
            %store, ?behind,
            "the wall clock was set back since this store ran; it serves again when the clock has \
             caught up"
        );
    }
}

/// The replicas a store holds.
fn replicas_on(engine: &impl Engine) -> Result<Vec<(RangeId, ReplicaId)>, RecordError> {
    let span = layout::all_range_local_span();
    let mut found = Vec::new();
    engine.scan(Family::Local, &span.start, &span.end, &mut |key, value| {
        if let Some((range, RangeLocal::Replica)) = layout::parse_range_local_key(key) {
            let record = ReplicaRecord::decode(value).map_err(|error| {
                crdb_storage::Error::corrupt("a replica record", error.to_string())
            })?;
            found.push((range, ReplicaId(record.replica_id)));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

fn first_descriptor(
    range: RangeId,
    span: &Span,
    node_id: NodeId,
    store_id: StoreId,
) -> RangeDescriptor {
    RangeDescriptor {
        range_id: range.get(),
        start_key: span.start.clone(),
        end_key: span.end.clone(),
        replicas: vec![ReplicaDescriptor {
            node_id: node_id.get(),
            store_id: store_id.get(),
            replica_id: 1,
            r#type: ReplicaType::Voter.into(),
        }],
        generation: 1,
        sticky_until: None,
        next_replica_id: 2,
    }
}

fn write_first_replica(batch: &mut WriteBatch, descriptor: &RangeDescriptor) {
    let conf = ConfState { voters: vec![1], ..ConfState::default() };
    let applied = AppliedState {
        index: INITIAL_INDEX,
        term: INITIAL_TERM,
        lease_index: 0,
        lease: Lease::default(),
        conf,
        ..AppliedState::default()
    };
    record::write_initial(batch, descriptor, 1, &applied, None);
}
