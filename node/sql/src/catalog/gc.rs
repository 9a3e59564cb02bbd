//! Work that a schema change left behind: unfinished steps and rows of dropped indexes.

use std::time::Duration;

use crdb_keys::layout;

use super::desc::DroppedSpan;
use crate::error::Result;
use crate::kv::{Batch, sql};
use crate::node::SqlNode;

/// Keys deleted by one batch.
const CHUNK_KEYS: u64 = 1000;
/// After this long another node takes a schema change over from the gateway that began it.
const TAKE_OVER: Duration = Duration::from_secs(20);

impl SqlNode {
    /// Finishes schema changes whose gateway seems gone, and deletes rows of dropped indexes. The
    /// server calls it every few seconds on every node; it does nothing when there is nothing.
    pub async fn maintain_catalog(&self) -> Result<()> {
        let now = self.clock.wall_nanos();
        let take_over = u64::try_from(TAKE_OVER.as_nanos()).unwrap_or(u64::MAX);
        let stale = |since: u64| since.saturating_add(take_over) < now;
        let (tables, databases, rewriting) = {
            let snapshot = self.catalog().pin().await?;
            let rewriting: Vec<(u64, Option<u64>)> = snapshot
                .unfinished()
                .filter(|t| t.rewriting.is_some() && stale(t.modified_nanos))
                .map(|t| (t.id, t.rewriting))
                .collect();
            let tables: Vec<u64> =
                snapshot.unfinished().filter(|t| stale(t.modified_nanos)).map(|t| t.id).collect();
            let databases: Vec<u64> = snapshot
                .unfinished_databases()
                .filter(|d| stale(d.modified_nanos))
                .map(|d| d.id)
                .collect();
            (tables, databases, rewriting)
        };
        for (table, index) in rewriting {
            self.give_up_rewriting(table, index, |t| stale(t.modified_nanos)).await?;
        }
        if !tables.is_empty() {
            self.finish_tables(&tables).await?;
        }
        for database in databases {
            self.finish_database(database).await?;
        }
        self.delete_dropped_rows(|entry| stale(entry.dropped_nanos)).await
    }

    /// Deletes the rows of dropped tables and indexes that `chosen` picks.
    pub(crate) async fn delete_dropped_rows(
        &self,
        chosen: impl Fn(&DroppedSpan) -> bool,
    ) -> Result<()> {
        let mut batch = Batch::new();
        batch.scan(&layout::dropped_span_span(), 0, 0, false);
        for row in sql(self.kv.send(batch, None, None).await)?.rows(0).0 {
            let entry = DroppedSpan::decode(&row.value)?;
            if !chosen(&entry) {
                continue;
            }
            let mut left = Some(entry.span());
            while let Some(span) = left.take() {
                let mut batch = Batch::new();
                batch.delete_range(&span, CHUNK_KEYS);
                left = sql(self.kv.send(batch, None, None).await)?.delete_resume(0);
            }
            // The entry goes last: whoever dies before leaves it to the next.
            let mut batch = Batch::new();
            batch.delete(layout::dropped_span_key(entry.id));
            sql(self.kv.send(batch, None, None).await)?;
        }
        Ok(())
    }
}
