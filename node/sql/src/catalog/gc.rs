//! Work that a schema change left behind: unfinished steps and rows of dropped indexes.

use crdb_keys::{Span, layout};
use crdb_kv::SendError;

use super::desc::DroppedSpan;
use crate::error::Result;
use crate::kv::{Batch, Rest, sql, to_sql_error};
use crate::node::SqlNode;
use crate::ranges::status;

impl SqlNode {
    /// Finishes schema changes whose gateway seems gone, and deletes rows of dropped indexes. The
    /// server calls it every few seconds on every node; it does nothing when there is nothing.
    pub async fn maintain_catalog(&self) -> Result<()> {
        let now = self.clock.wall_nanos();
        let take_over = u64::try_from(self.limits.take_over.as_nanos()).unwrap_or(u64::MAX);
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
        for row in sql(self.kv.send(batch, None, None).await)?.page(0)?.whole()? {
            let entry = DroppedSpan::decode(&row.value)?;
            if !chosen(&entry) {
                continue;
            }
            self.delete_rows(entry.span()).await?;
            // The entry goes last: whoever dies before leaves it to the next.
            let mut batch = Batch::new();
            batch.delete(layout::dropped_span_key(entry.id));
            sql(self.kv.send(batch, None, None).await)?;
        }
        Ok(())
    }

    /// Deletes all rows of a span, range by range.
    async fn delete_rows(&self, span: Span) -> Result<()> {
        let mut at = span.start;
        while at < span.end {
            let range = status(self, at.clone(), false).await.map_err(to_sql_error)?;
            let end = range.end().clone().min(span.end.clone());
            let piece = Span::new(at, end.clone());
            let mut batch = Batch::new();
            batch.delete_range(&piece, self.limits.delete_keys);
            at = match self.kv.send(batch, None, None).await {
                Ok(mut reply) => match reply.deleted(0)? {
                    Rest::Nothing => end,
                    Rest::More(rest) => rest.start,
                },
                // The range was split meanwhile.
                Err(SendError::CrossRange { .. }) => piece.start,
                Err(error) => return Err(to_sql_error(error)),
            };
        }
        Ok(())
    }
}
