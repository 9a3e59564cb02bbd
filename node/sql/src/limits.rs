//! The bounds of the SQL layer: at how many rows, bytes or tries a statement stops, waits, goes on in
//! another request, or is refused.
//!
//! What users meet as a refusal (the size of a row, of a key, of a list) is a promise of the
//! product: its least value is that of production, so that no draw of a test moves it. All others
//! only change in how many steps the same result comes about, or whether the client has to repeat
//! what the node would have repeated itself.

use std::time::Duration;

crdb_settings::limits! {
    /// Bounds of the SQL layer of a node.
    pub struct Limits {
        /// Bytes of rows that the operators of one statement may hold; more is 53200.
        pub memory_bytes: usize = 64 << 20, min 1 << 20;
        /// Bytes of a row, its key and its value as they are stored; more is 54000.
        pub row_bytes: usize = 16 << 20, min 16 << 20;
        /// Bytes of a row's key as it is stored; more is 54000. Any key can be split at.
        pub key_bytes: usize = 4 << 10, min 4 << 10;
        /// Columns of a table; more is 54011.
        pub columns: usize = 1600, min 1600;
        /// Columns of a result, as many as the wire protocol can count; more is 54011.
        pub result_columns: usize = 32_767, min 32_767;
        /// Bytes of a string that a function builds; more is 54000.
        pub string_bytes: usize = 16 << 20, min 16 << 20;
        /// Bytes of the operands of one function or operator; more is 54000. What they build is a
        /// few times that, so that values cannot be doubled again and again until the memory of the
        /// node is gone.
        pub operand_bytes: usize = 32 << 20, min 32 << 20;
        /// Keys that the lists of a condition name together. A further list is tested on the rows;
        /// a list that alone is longer, and whose length is known only when the statement runs, is
        /// 54000.
        pub points: usize = 200_000, min 200_000;
        /// Bytes of one line of a COPY; more is 54000. Bytes are twice as long in text.
        pub copy_line_bytes: usize = 48 << 20, min 48 << 20;
        /// Bytes of the descriptors that one step of a schema change writes; more is 54000.
        pub schema_change_bytes: usize = 8 << 20, min 8 << 20;

        /// Rows that an operator hands on at once.
        pub batch_rows: usize = 1024, min 1;
        /// Bytes of the rows that an operator makes before it hands them on.
        pub batch_bytes: usize = 1 << 20, min 1;
        /// Rows that one scan request asks for.
        pub scan_rows: u64 = 10_000, min 1;
        /// Bytes that one scan request asks for; its answer has at most one row more.
        pub scan_bytes: u64 = 1 << 20, min 1;
        /// Rows that one scan request of a statement that locks asks for. Fewer: each costs the
        /// leaseholder a lock, and maybe the clean-up of an intent.
        pub lock_rows: u64 = 1000, min 1;
        /// Keys that one request looks up.
        pub lookup_keys: usize = 512, min 1;
        /// Keys that the first request looks up, when nothing is known of the size of the rows.
        pub lookup_first: usize = 16, min 1;
        /// Bytes of rows that one request should find, going by the rows before.
        pub lookup_bytes: usize = 4 << 20, min 1;

        /// How often a statement is run again after a conflict before it fails with 40001.
        pub retries: u32 = 10, min 0;
        /// Steps of a transaction that may run again by itself; beyond, a conflict is 40001.
        pub log_steps: usize = 1000, min 0;
        /// Bytes of the trees and parameters of these steps, about; beyond, a conflict is 40001. (What
        /// of their answers is kept is a setting of the cluster.)
        pub log_bytes: usize = 16 << 20, min 0;

        /// Rows of one INSERT of a COPY.
        pub copy_rows: usize = 500, min 1;
        /// Bytes of the rows of one INSERT of a COPY, but for the last row.
        pub copy_bytes: usize = 1 << 20, min 1;
        /// Parameters of one INSERT of a COPY, if it has more rows than one.
        pub copy_params: usize = 65_000, min 1;

        /// Rows that are moved to a new primary key by one batch.
        pub rekey_rows: u64 = 4000, min 1;
        /// Bytes read and written by one such batch; a row that is larger goes alone.
        pub rekey_bytes: u64 = 1 << 20, min 1;
        /// How often the descriptor says that the move goes on.
        pub rekey_renew: Duration = Duration::from_secs(5), min Duration::from_millis(1);
        /// After this long another node takes a schema change over from the gateway that began it.
        pub take_over: Duration = Duration::from_secs(20), min Duration::from_secs(10);
        /// Keys of dropped tables that are deleted by one batch.
        pub delete_keys: u64 = 1000, min 1;
        /// How long a schema change waits for the nodes to adopt a catalog version, or for another
        /// one of the same object, before it fails with 55P03.
        pub schema_change_wait: Duration = Duration::from_secs(60), min Duration::from_secs(15);
        /// How often a schema change is computed anew after another came first; then 40001.
        pub schema_change_tries: u32 = 100, min 10;
        /// How often a batch of a schema change is sent while its outcome is unknown; then 40003.
        pub schema_change_sends: u32 = 5, min 1;
        /// Pause between two looks at what a schema change waits for.
        pub schema_change_pause: Duration = Duration::from_millis(20), min Duration::from_millis(1);
        /// Pause before a statement looks again at a table that is offline.
        pub offline_pause: Duration = Duration::from_millis(20), min Duration::from_millis(1);
        /// Versions of the past's catalog that are kept.
        pub past_versions: usize = 8, min 1;

        /// Ranges asked at once. Those that do not answer take as long as a call may take.
        pub ranges_asked: usize = 64, min 1;
        /// Meta entries read by one request.
        pub meta_rows: u64 = 1000, min 1;
        /// Locks asked of one range at a time.
        pub locks_asked: u64 = 1000, min 1;

        /// Bytes of a statement's text that others are shown; of a longer one its beginning.
        pub shown_bytes: usize = 1000, min 3;
        /// Bytes of a text whose plan is kept: longer ones are rarely sent twice, and their trees
        /// are large.
        pub plan_text_bytes: usize = 4 << 10, min 0;
        /// Bytes of the texts whose plans are kept, in each of two generations; trees and plans take
        /// up to some hundred times that.
        pub plan_cache_bytes: usize = 256 << 10, min 0;
    }
}
