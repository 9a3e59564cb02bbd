//! The bounds of a connection.
//!
//! What a client meets as a refusal is a promise of the product: its least value is that of
//! production, so that no draw of a test moves it.

use std::time::Duration;

crdb_settings::limits! {
    /// Bounds of a connection.
    pub struct Config {
        /// How long a client may take for its startup packets; then it is told 08006.
        pub startup_deadline: Duration = Duration::from_secs(5), min Duration::from_secs(5);
        /// Bytes of a startup packet; more is 08P01, and the connection ends.
        pub startup_bytes_max: usize = 10_000, min 10_000;
        /// Bytes of any later message, such as one with a statement's text or its parameters; more is
        /// 54000.
        pub message_bytes_max: usize = 64 << 20, min 64 << 20;
        /// Bytes of a message that is skipped because it is too long; a longer one ends the session:
        /// what claims to be of that size is not what it seems.
        pub skipped_bytes_max: usize = 0x3fff_ffff, min 0x3fff_ffff;
        /// Prepared statements of one session; one more is 54000.
        pub statements_max: usize = 10_000, min 10_000;
        /// Open portals of one session; one more is 54000.
        pub portals_max: usize = 1000, min 1000;
        /// How long the last answer may take to reach a client that has hung up or must go.
        pub farewell: Duration = Duration::from_secs(2), min Duration::from_secs(1);
        /// How many reads of a refused client's bytes are made before it is cut off.
        pub linger_reads: usize = 4096, min 256;
        /// Bytes of answers that are gathered before they are written.
        pub output_bytes: usize = 64 << 10, min 1;
        /// An output buffer larger than this is given back once it is written.
        pub output_keep_bytes: usize = 1 << 20, min 0;
        /// Messages that may wait while a statement runs; a client that pipelines more waits itself.
        pub queue_messages: usize = 64, min 1;
        /// Bytes that are read at once, at least.
        pub read_bytes: usize = 8 << 10, min 16;
    }
}
