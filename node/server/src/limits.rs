//! The bounds of a node: those of the server itself, and of all crates below together.
//!
//! Users do not change them. Tests do, at random, so that what happens at a bound happens in tests:
//! `CRDB_LIMITS` of `crdb start` takes what [`AllLimits::changed`] prints, `crdb limits --seed N`
//! draws one such text.

use std::fmt;
use std::time::Duration;

use crdb_settings::{LimitError, limit_pairs};

crdb_settings::limits! {
    /// Bounds of what a node does with its peers, its store and strangers.
    pub struct Limits {
        /// Threads that carry bytes between nodes and clients; evaluation has others.
        pub io_threads: usize = 2, min 1;
        /// How long a thread evaluates before it lets others run.
        pub run_for: Duration = Duration::from_millis(5), min Duration::ZERO;
        /// Raft batches that wait for the store; further ones are dropped, as the network may drop
        /// them.
        pub raft_inbox_batches: usize = 16_384, min 64;
        /// Bytes of such batches; one is taken whatever its size.
        pub raft_inbox_bytes: usize = 256 << 20, min 1 << 20;
        /// Raft batches that wait for the connection to a peer; further ones are dropped.
        pub raft_link_batches: usize = 1_024, min 16;
        /// Bytes of such batches; one is taken whatever its size.
        pub raft_link_bytes: usize = 64 << 20, min 1 << 20;
        /// Raft frames handed to a connection and not yet taken by it.
        pub raft_frames_in_flight: usize = 64, min 1;
        /// Shortest pause before a raft stream that ended is opened again; it doubles.
        pub raft_backoff_min: Duration = Duration::from_millis(50), min Duration::from_millis(10);
        /// Longest such pause.
        pub raft_backoff_max: Duration = Duration::from_secs(1), min Duration::from_millis(100);
        /// Key-value batches that wait for the connection to a peer; further ones are refused.
        pub kv_link_batches: usize = 4_096, min 16;
        /// Key-value frames handed to a connection and not yet taken by it; further ones wait.
        pub kv_frames_in_flight: usize = 1_024, min 1;
        /// Time between two looks for callers that gave up.
        pub kv_sweep: Duration = Duration::from_millis(100), min Duration::from_millis(10);
        /// After a connection failed, batches are refused at once for this long.
        pub kv_refuse_for: Duration = Duration::from_millis(100), min Duration::from_millis(10);
        /// Batches of one peer that were not answered yet; further ones are refused, those that end
        /// what others wait for beyond twice as many.
        pub batches_max: usize = 4_096, min 16;
        /// How often a peer is told which of its batches are still worked on.
        pub sign_of_life: Duration = Duration::from_secs(1), min Duration::from_millis(50);
        /// Answers handed to a connection and not yet taken by it; further ones wait.
        pub answers_in_flight: usize = 1_024, min 1;
        /// Bytes a receiver takes before it has consumed them, for each connection and stream.
        pub window_bytes: u32 = 4 << 20, min 64 << 10;
        /// Bytes of one message between peers. What is larger is not sent: a command, an answer and
        /// a snapshot chunk stay below.
        pub message_bytes_max: usize = 64 << 20, min 64 << 20;
        /// Time for a name to be resolved, and for each connection to be made.
        pub connect_timeout: Duration = Duration::from_secs(1), min Duration::from_millis(500);
        /// Time for a single call and its answer, and for a stream to be opened.
        pub call_timeout: Duration = Duration::from_secs(2), min Duration::from_secs(1);
        /// A connection is checked after this much silence, and closed when the check takes as long.
        pub keepalive: Duration = Duration::from_secs(2), min Duration::from_secs(1);
        /// Bytes of one snapshot; a larger range must be split before it can move.
        pub snapshot_bytes_max: usize = 1 << 30, min 1 << 30;
        /// Snapshots sent at a time.
        pub snapshots_sent: usize = 2, min 1;
        /// Snapshots that wait to be sent; further ones are reported as lost and asked for again.
        pub snapshots_waiting: usize = 16, min 1;
        /// Snapshots received at a time; further ones wait.
        pub snapshots_received: usize = 2, min 1;
        /// Frames of a snapshot read ahead of the connection.
        pub snapshot_frames: usize = 4, min 1;
        /// Longest time for a snapshot to be sent and taken.
        pub snapshot_timeout: Duration = Duration::from_secs(600), min Duration::from_secs(60);
        /// Pause before a write of the server's own is tried again.
        pub own_write_retry: Duration = Duration::from_millis(100), min Duration::from_millis(10);
        /// Attempts to claim a node id before who asks has to ask again.
        pub node_id_attempts: usize = 10, min 2;
        /// Commands of one run of garbage collection on one range, each of which looks at a bounded
        /// number of versions; the next run goes on there.
        pub gc_commands: usize = 20, min 1;
        /// Longest pause between two runs of garbage collection.
        pub gc_pause_max: Duration = Duration::from_secs(60), min Duration::from_secs(1);
        /// Shortest such pause.
        pub gc_pause_min: Duration = Duration::from_millis(500), min Duration::from_millis(100);
        /// Pause before a liveness record that could not be written is tried again.
        pub liveness_retry: Duration = Duration::from_millis(200), min Duration::from_millis(20);
        /// Time for one write of the liveness record; beyond, it starts anew.
        pub liveness_attempt: Duration = Duration::from_secs(4), min Duration::from_secs(1);
        /// How often the catalog version is looked at.
        pub catalog_poll: Duration = Duration::from_millis(250), min Duration::from_millis(25);
        /// How often a node looks for schema changes whose gateway is gone.
        pub catalog_upkeep: Duration = Duration::from_secs(5), min Duration::from_millis(250);
        /// Pause between two exchanges of gossip.
        pub gossip_interval: Duration = Duration::from_secs(1), min Duration::from_millis(100);
        /// Time for one exchange of gossip.
        pub gossip_timeout: Duration = Duration::from_secs(1), min Duration::from_millis(500);
        /// Time for another node to tell its SQL sessions.
        pub sessions_timeout: Duration = Duration::from_secs(3), min Duration::from_secs(1);
        /// How long a client may take to say what it speaks.
        pub stranger_timeout: Duration = Duration::from_secs(5), min Duration::from_secs(1);
        /// Connections that have not said who they are; further ones wait in the kernel's queue.
        pub strangers_max: usize = 512, min 8;
    }
}

/// Makes the struct of all crates' bounds.
macro_rules! all_limits {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// The bounds of a node, by crate.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct AllLimits {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl AllLimits {
            /// Sets one by its name, as in `raftstore.log_bytes_max`; a time is in milliseconds.
            fn set(&mut self, name: &str, number: u64) -> Result<(), LimitError> {
                let unknown = || LimitError::Unknown(name.to_owned());
                let (part, field) = name.split_once('.').ok_or_else(unknown)?;
                match part {
                    $(stringify!($name) => self.$name.set(field, number),)*
                    _ => Err(unknown()),
                }
            }

            /// Draws each by itself, as the seed says.
            #[must_use]
            pub fn of_seed(seed: u64) -> Self {
                let mut numbers = Numbers(seed);
                let mut below = |below| numbers.below(below);
                Self { $($name: <$type>::draw(&mut below),)* }
            }

            /// Those that are not production's, as `crate.name=number,...`.
            #[must_use]
            pub fn changed(&self) -> String {
                let parts = [$((stringify!($name), self.$name.changed()),)*];
                let named = parts.iter().flat_map(|(part, changed)| {
                    let pairs = changed.split(',').filter(|pair| !pair.is_empty());
                    pairs.map(move |pair| format!("{part}.{pair}"))
                });
                named.collect::<Vec<_>>().join(",")
            }

            /// All: name, value of production, least.
            #[must_use]
            pub fn list() -> Vec<(String, u64, u64)> {
                let mut list = Vec::new();
                $(for (name, production, least) in <$type>::list() {
                    list.push((format!("{}.{name}", stringify!($name)), production, least));
                })*
                list
            }
        }
    };
}

all_limits! {
    /// The evaluation of one batch.
    storage: crdb_storage::Limits,
    /// What ranges and stores remember of requests and transactions.
    concurrency: crdb_concurrency::Limits,
    /// The replicated store.
    raftstore: crdb_raftstore::Limits,
    /// Senders and transactions.
    kv: crdb_kv::Limits,
    /// Statements.
    sql: crdb_sql::Limits,
    /// SQL clients.
    pgwire: crdb_pgwire::Config,
    /// The server.
    server: Limits,
}

/// What is wrong with a text of limits: all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLimits(Vec<String>);

impl fmt::Display for BadLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for BadLimits {}

impl AllLimits {
    /// Reads `crate.name=number,...`; what is not named is that of production.
    ///
    /// # Errors
    /// Names that there are not, numbers below the least that works, and what is not of this form.
    pub fn parse(text: &str) -> Result<Self, BadLimits> {
        let (mut limits, mut bad) = (Self::default(), Vec::new());
        for pair in limit_pairs(text) {
            let set = pair.map_err(|error| error.to_string()).and_then(|(name, number)| {
                limits.set(name, number).map_err(|error| match error {
                    LimitError::TooLow { least, .. } => {
                        format!("the limit {name} is at least {least}")
                    }
                    _ => LimitError::Unknown(name.to_owned()).to_string(),
                })
            });
            bad.extend(set.err());
        }
        if bad.is_empty() { Ok(limits) } else { Err(BadLimits(bad)) }
    }
}

/// Numbers that follow from a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_seed_draws_is_read_back_from_its_text() {
        for seed in 0..200 {
            let drawn = AllLimits::of_seed(seed);
            assert_eq!(AllLimits::of_seed(seed), drawn);
            assert_eq!(AllLimits::parse(&drawn.changed()), Ok(drawn), "seed {seed}");
        }
        assert_ne!(AllLimits::of_seed(1), AllLimits::of_seed(2));
        assert_eq!(AllLimits::parse(""), Ok(AllLimits::default()));
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        let text = "server.batches_max=20,server.gossip=1,raft.x=2,raftstore.log_bytes_max=3,x,y=4";
        let error = AllLimits::parse(text).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no limit \"server.gossip\"; there is no limit \"raft.x\"; the limit \
             raftstore.log_bytes_max is at least 500; \"x\" is not NAME=NUMBER; there is no limit \"y\""
        );
    }

    #[test]
    fn the_list_names_each_with_what_it_may_be() {
        for (name, production, least) in AllLimits::list() {
            assert!(least <= production, "{name}");
            for number in [production, least] {
                AllLimits::parse(&format!("{name}={number}")).unwrap();
            }
            if least > 0 {
                AllLimits::parse(&format!("{name}={}", least - 1)).unwrap_err();
            }
        }
    }
}
