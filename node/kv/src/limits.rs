//! Bounds of a gateway: what its transactions hold, send at once, and try again.

crdb_settings::limits! {
    /// Where a gateway flushes, cuts, merges, waits or gives up.
    ///
    /// The bytes that a transaction buffers are a cluster setting
    /// (`kv.transaction.max_buffered_writes`), and `buffer_bytes` what that begins with.
    pub struct Limits {
        /// Bytes of writes in a buffer at which it has to be flushed.
        pub buffer_bytes: usize = 4 << 20, min 1;
        /// Keys in a buffer at which it has to be flushed.
        pub buffer_keys: usize = 100_000, min 1;
        /// Bytes of writes in one batch of intents, give or take one row. More than a buffer has when
        /// it is full: else each flush would end in a batch of one row.
        pub flush_bytes: usize = 8 << 20, min 1;
        /// Writes in one batch of intents.
        pub flush_keys: usize = 20_000, min 1;
        /// Bytes of writes that are committed in one phase; more are laid as intents before. Beyond
        /// what a full buffer and the largest row come to it is the range that refuses.
        pub one_phase_bytes: usize = 21 << 20, min 1;
        /// Keys that a STAGING record lists; of a commit with more, intents are laid before.
        pub in_flight_keys: usize = 1024, min 1;
        /// Bytes of the keys that a STAGING record lists.
        pub in_flight_bytes: usize = 256 << 10, min 1;
        /// Spans in which a record says where intents are; neighbours are merged beyond.
        pub recorded_spans: usize = 1000, min 1;
        /// Bytes of those spans.
        pub recorded_bytes: usize = 256 << 10, min 1;
        /// Bytes of the keys that a transaction has laid intents at and knows one by one; beyond,
        /// neighbours are merged into spans.
        pub footprint_bytes: usize = 8 << 20, min 1;
        /// Spans of locks beyond which neighbours are merged.
        pub locked_spans: usize = 512, min 1;
        /// Spans of reads beyond which neighbours are merged.
        pub refresh_spans: usize = 1024, min 1;
        /// How often one read moves to a later timestamp before its caller hears.
        pub read_moves: usize = 8, min 1;
        /// How often a commit moves to a later timestamp before its caller is to start over.
        pub commit_moves: usize = 8, min 1;
        /// Keys up to which a commit that is in somebody's way gives its caller the wait.
        pub locked_writes: usize = 512, min 1;
        /// Times the record is asked what became of a commit.
        pub questions: usize = 3, min 3;
        /// Requests of one batch that cleans up, or takes back.
        pub cleanup_requests: usize = 500, min 1;
        /// Bytes of the keys of one such batch, give or take one request.
        pub cleanup_bytes: usize = 1 << 20, min 1;
        /// Writes in flight that a recovery asks for in one batch.
        pub recovery_writes: usize = 200, min 1;
        /// Intents in the way of one request that are resolved at a time.
        pub resolved_in_the_way: u64 = 1000, min 1;
        /// Holders that have ended which a request that does not wait clears away.
        pub ended_holders: usize = 100, min 1;
        /// Clean-ups that wait; who finds no room does its own.
        pub jobs_waiting: usize = 4096, min 1;
        /// Clean-ups under way. Most take a millisecond; those that wait for a range out of reach
        /// take seconds, and must not keep the others from being begun.
        pub jobs_running: usize = 1024, min 1;
        /// Parts of one batch under way at a time.
        pub parts: usize = 16, min 1;
        /// How often a read outside of a transaction moves up.
        pub raises: usize = 16, min 16;
        /// Bytes of the rows of one scan without a bound; one with more fails.
        pub answer_bytes: u64 = 128 << 20, min 128 << 20;
    }
}
