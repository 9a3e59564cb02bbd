//! Bounds of the evaluation of one batch.

crdb_settings::limits! {
    /// Where the evaluation of a batch stops, and says what is left.
    ///
    /// A bound that is reached never fails a batch, but for `command_bytes`: the answer is a part,
    /// with the rest of the span. At least one key is done before.
    pub struct Limits {
        /// Bytes of the writes of one batch; a batch with more is refused. A row may take 16 MiB of
        /// them, what a gateway sends along with it the rest.
        pub command_bytes: usize = 24 << 20, min 24 << 20;
        /// Bytes of keys and values in the answers to one batch.
        pub response_bytes: u64 = 4 << 20, min 1;
        /// Keys that one scan looks at.
        pub scan_keys: u64 = 20_000, min 1;
        /// Intents of others that are reported as being in the way of one batch.
        pub intents_met: usize = 128, min 1;
        /// Intents that a scan has in memory at a time.
        pub intent_page: usize = 256, min 1;
        /// Bytes of intents that the resolutions of one batch, or its reverts, take up.
        pub resolve_bytes: usize = 4 << 20, min 1;
        /// Intents that one request resolves or reverts.
        pub resolve_keys: u64 = 10_000, min 1;
        /// Bytes of keys that one request deletes, if it sets a bound itself.
        pub delete_range_bytes: usize = 1 << 20, min 1;
        /// Versions, and records, that one collection removes unless it says otherwise.
        pub gc_versions: u64 = 1_000, min 1;
        /// Bytes of the keys of the versions that one collection removes.
        pub gc_bytes: usize = 4 << 20, min 1;
        /// Versions that one collection looks at, give or take those of one key.
        pub gc_looked_at: u64 = 50_000, min 1;
        /// Abandoned records that one collection tells: each may list many intents.
        pub gc_abandoned: usize = 16, min 1;
    }
}
