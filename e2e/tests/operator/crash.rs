//! The operator ends at every point of a pass, again and again, and the cluster comes about all
//! the same.

use anyhow::Result;
use serde_json::json;

use crate::bench::{Bench, spec};
use crate::kubelet::BAD_IMAGE;

/// The exit status of an operator that ended at a fault point.
const AT_FAULT_POINT: Option<i32> = Some(86);

async fn converges_after_ends_at(point: &str) -> Result<()> {
    let mut bench = Bench::new(&format!("ends-at-{point}")).await?;
    // A pod to replace and a first node to initialize: both recorded steps.
    let mut wrong = spec(&[("a", 2)]);
    wrong["image"] = json!({"repository": BAD_IMAGE});
    let exit_at = format!("--exit-at={point}");
    bench.create("prod", wrong).await?;
    if matches!(point, "observed" | "applied" | "status-written") {
        bench.run(&[&exit_at])?;
        assert_eq!(bench.operator_exit().await?, AT_FAULT_POINT);
    }
    bench.run(&[])?;
    bench.reason("prod", crdb_api::conditions::DEGRADED, "ImagePullFailed").await?;
    bench.kill_operator();
    bench.change("prod", json!({"spec": {"image": {"repository": "crdb-node"}}})).await?;
    // Each run ends at the point once: at the replacement of a pod, then at the bootstrap.
    for _ in 0..3 {
        bench.run(&[&exit_at])?;
        assert_eq!(bench.operator_exit().await?, AT_FAULT_POINT);
    }
    bench.run(&[])?;
    let status = bench.settled("prod").await?;
    let calls = bench.database.init_calls();
    assert!(!calls.is_empty());
    for call in &calls {
        assert_eq!(call.pod, "prod-a-1-0", "{calls:?}");
        assert_eq!(Some(&call.cluster_id), status.cluster_id.as_ref(), "{calls:?}");
    }
    assert_eq!(status.nodes.map(|nodes| (nodes.desired, nodes.ready)), Some((2, 2)));
    Ok(())
}

#[tokio::test]
async fn observed() -> Result<()> {
    converges_after_ends_at("observed").await
}

#[tokio::test]
async fn applied() -> Result<()> {
    converges_after_ends_at("applied").await
}

#[tokio::test]
async fn recorded() -> Result<()> {
    converges_after_ends_at("recorded").await
}

#[tokio::test]
async fn executed() -> Result<()> {
    converges_after_ends_at("executed").await
}

#[tokio::test]
async fn status_written() -> Result<()> {
    converges_after_ends_at("status-written").await
}
