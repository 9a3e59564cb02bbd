//! Real `crdb` processes in a temporary directory, killed when the test lets go of them.

use anyhow::{Context as _, Result};
use tokio_postgres::{Client, SimpleQueryMessage};

pub(crate) use crdb_workload::process::{Node, PATIENCE, TestCluster, binary, connect, within};

/// The rows of an answer, columns joined by spaces.
pub(crate) async fn rows(client: &Client, sql: &str) -> Result<Vec<String>> {
    let answer = within(client.simple_query(sql)).await.with_context(|| sql.to_owned())?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            let columns = (0..row.len()).map(|n| row.get(n).unwrap_or("NULL"));
            Some(columns.collect::<Vec<_>>().join(" "))
        }
        _ => None,
    };
    Ok(answer.into_iter().filter_map(row).collect())
}
