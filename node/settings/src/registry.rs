//! The settings there are.

use std::marker::PhantomData;
use std::time::Duration;

use crate::value::{ByteSize, Kind};
use crate::{Definition, Key};

/// Declares settings in the order of their names: a key for the code, a line for the registry.
macro_rules! settings {
    ($($(#[$doc:meta])* $key:ident: $ty:ty = $definition:expr;)*) => {
        #[expect(non_camel_case_types, reason = "each variant is called as its constant")]
        enum Index { $($key),* }
        $($(#[$doc])*
        pub const $key: Key<$ty> = Key { index: Index::$key as usize, value: PhantomData };)*
        pub(crate) static ALL: &[Definition] = &[$($definition),*];
    };
}

const fn public(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    description: &'static str,
) -> Definition {
    Definition { name, alias: None, kind, default, public: true, description }
}

const fn also(mut definition: Definition, alias: &'static str) -> Definition {
    definition.alias = Some(alias);
    definition
}

const fn internal(mut definition: Definition) -> Definition {
    definition.public = false;
    definition
}

const ANY: Kind = Kind::Duration { min: Duration::ZERO };

settings! {
    /// Whether replicas other than the leaseholder serve reads of the past.
    FOLLOWER_READS_ENABLED: bool = public(
        "kv.closed_timestamp.follower_reads.enabled",
        Kind::Bool,
        "true",
        "allow (all) replicas to serve consistent historical reads based on closed timestamps",
    );
    /// How often the closed timestamps of idle ranges are sent.
    CLOSED_TIMESTAMP_SIDE_TRANSPORT_INTERVAL: Duration = internal(public(
        "kv.closed_timestamp.side_transport_interval",
        Kind::Duration { min: Duration::from_millis(10) },
        "200ms",
        "the interval at which closed timestamps of ranges without writes are sent to followers",
    ));
    /// How far behind the present timestamps are closed.
    CLOSED_TIMESTAMP_TARGET: Duration = public(
        "kv.closed_timestamp.target_duration",
        Kind::Duration { min: Duration::from_millis(10) },
        "3s",
        "how far behind the present ranges close timestamps, below which followers serve reads",
    );
    /// How long overwritten versions are kept.
    GC_TTL: Duration = internal(public(
        "kv.gc.ttl",
        Kind::Duration { min: Duration::from_secs(1) },
        "4h0m0s",
        "how long overwritten versions of rows are kept, until zone configurations say it",
    ));
    /// Bytes of writes that a transaction keeps at its gateway.
    MAX_BUFFERED_WRITES: ByteSize = internal(public(
        "kv.transaction.max_buffered_writes",
        // A buffer and the write that reaches its bound must fit into one command.
        Kind::ByteSize { min: 1, max: 8 << 20 },
        "4.0 MiB",
        "bytes of writes that a transaction buffers at its gateway before it sends them as intents",
    ));
    /// How long a draining node waits for clients to close their connections.
    SHUTDOWN_CONNECTIONS_TIMEOUT: Duration = also(
        public(
            "server.shutdown.connections.timeout",
            ANY,
            "0s",
            "the time a draining node waits for clients to close their connections",
        ),
        "server.shutdown.connection_wait",
    );
    /// How long a draining node is unready and still serves.
    SHUTDOWN_INITIAL_WAIT: Duration = also(
        public(
            "server.shutdown.initial_wait",
            ANY,
            "0s",
            "the time a draining node fails its readiness check and still takes new connections",
        ),
        "server.shutdown.drain_wait",
    );
    /// How long a draining node tries to give its leases away.
    SHUTDOWN_LEASE_TRANSFER_TIMEOUT: Duration = also(
        public(
            "server.shutdown.lease_transfer_iteration.timeout",
            ANY,
            "5s",
            "the time a draining node waits for its leases to find other holders",
        ),
        "server.shutdown.lease_transfer_wait",
    );
    /// How long a draining node waits for statements and transactions to end.
    SHUTDOWN_TRANSACTIONS_TIMEOUT: Duration = also(
        public(
            "server.shutdown.transactions.timeout",
            ANY,
            "10s",
            "the time a draining node waits for statements and transactions to finish",
        ),
        "server.shutdown.query_wait",
    );
    /// When a node that is silent counts as dead.
    TIME_UNTIL_STORE_DEAD: Duration = public(
        "server.time_until_store_dead",
        Kind::Duration { min: Duration::from_secs(75) },
        "5m0s",
        "the time after which a node that is not heard of counts as dead, and its replicas as lost",
    );
    /// Bytes of results that a transaction keeps, so that it can run again unseen.
    RESULTS_BUFFER_SIZE: ByteSize = public(
        "sql.defaults.results_buffer.size",
        Kind::ByteSize { min: 0, max: u64::MAX },
        "512 KiB",
        "bytes of results that a transaction keeps to compare with when it met a concurrent change \
         and runs again unseen by its client; one that answered more fails with 40001 instead",
    );
    /// Whether READ COMMITTED may be chosen.
    READ_COMMITTED_ENABLED: bool = public(
        "sql.txn.read_committed_isolation.enabled",
        Kind::Bool,
        "true",
        "allow transactions to run under READ COMMITTED; otherwise they run as SERIALIZABLE",
    );
}
