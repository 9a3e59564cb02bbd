//! The bounds of a store: sizes at which it refuses, cuts or splits its work, and how long it waits.
//!
//! What is not here is what the safety of leases rests on: the timing of elections, see
//! [`Timing`](crate::Timing), and the validity of the wall stamp, which a later process must know.

use std::time::Duration;

crdb_settings::limits! {
    /// Bounds of a store and its ranges.
    pub struct Limits {
        /// Bytes of proposed and not yet committed commands of one range; more wait for their turn.
        /// One command is taken whatever its size.
        pub uncommitted_bytes_max: u64 = 32 << 20, min 1;
        /// Bytes of the commands of one range that wait for their turn; more are refused. One waits
        /// whatever its size.
        pub waiting_bytes_max: usize = 256 << 20, min 1;
        /// Bytes of the largest command; what writes more is refused. Above the largest row by
        /// far, and below what a message may be.
        pub command_bytes_max: usize = 40 << 20, min 40 << 20;
        /// Log bytes applied by every replica beyond which the log is truncated.
        pub log_bytes_stale: u64 = 64 << 10, min 1;
        /// Log bytes beyond which the log is truncated although a replica that is away lacks some of
        /// it, which then needs a snapshot.
        pub log_bytes_max: u64 = 16 << 20, min 500;
        /// Log bytes beyond which the log is truncated although a replica that answers lags.
        pub log_bytes_lag_max: u64 = 256 << 20, min 500;
        /// Entries cut off the log by one command: each replica removes them in one step.
        pub truncated_entries_max: u64 = 10_000, min 100;
        /// Bytes of recent log entries kept in memory for each range.
        pub entry_cache_bytes: usize = 4 << 20, min 1;
        /// Key and value bytes of one snapshot chunk; one entry is taken whatever its size.
        pub snapshot_chunk_bytes: usize = 256 << 10, min 1;
        /// Bytes of entries sent to a replica in one go; one entry is taken whatever its size.
        pub append_bytes_max: u64 = 64 << 10, min 1;
        /// Appends sent to a replica and not yet acknowledged.
        pub appends_in_flight_max: usize = 128, min 1;
        /// Bytes of a batch of messages to another store, beyond which the next begins; one message
        /// is taken whatever its size.
        pub batch_bytes_max: usize = 1 << 20, min 1;
        /// Bytes of committed entries of one range applied in one step; one is taken whatever its
        /// size.
        pub applied_bytes_max: u64 = 4 << 20, min 1;
        /// Entries that a learner may be behind to count as caught up.
        pub caught_up_entries: u64 = 64, min 1;
        /// Ticks between two looks of a leader at the replicas and the log.
        pub queue_ticks: u64 = 5, min 1;
        /// Ticks without a leader after which a replica asks whether it was removed, and between
        /// asking.
        pub probe_ticks: u32 = 50, min 10;
        /// Reads handed over to the next leaseholder one by one; those before are covered by a
        /// low-water mark.
        pub handover_reads_max: usize = 1_000, min 1;
        /// Locks handed over to the next leaseholder, the newest; the others are forgotten.
        pub handover_locks_max: usize = 1_000, min 1;
        /// Bytes of reads handed over, and as many again of locks.
        pub handover_bytes_max: usize = 1 << 20, min 1;
        /// Locks shown by one request. Who shows them asks for so many at a time, and takes fewer for
        /// the end.
        pub locks_shown_max: usize = 1_000, min 1_000;
        /// Bytes of the longest key at which a range may start: meta keys hold it.
        pub split_key_bytes_max: usize = 4 << 10, min 1 << 10;
        /// Ranges that are not here yet for which votes are held at a time; a vote that is lost
        /// costs an election timeout.
        pub early_vote_ranges_max: usize = 1_024, min 1;
        /// Candidates of such a range whose votes are held.
        pub early_vote_candidates_max: usize = 16, min 1;
        /// How long a message may be acknowledged to count for a lease.
        pub acknowledge_within: Duration = Duration::from_secs(2), min Duration::from_secs(1);
        /// How long a request waits for a leader to gain its lease.
        pub lease_wait: Duration = Duration::from_secs(2), min Duration::from_millis(100);
        /// How long a transfer of the lease waits for the writes under way before it is given up.
        pub transfer_latch_wait: Duration = Duration::from_secs(1), min Duration::from_millis(100);
        /// How long raft gets to hand leadership over once the lease has ended.
        pub transfer_wait: Duration = Duration::from_millis(300), min Duration::from_millis(100);
        /// How long who asked for a transfer waits to hear that the lease is elsewhere.
        pub transfer_answer: Duration = Duration::from_secs(5), min Duration::from_secs(1);
        /// After this long without a report, a snapshot counts as lost.
        pub snapshot_wait: Duration = Duration::from_secs(600), min Duration::from_secs(60);
    }
}
