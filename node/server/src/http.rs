//! The HTTP side: health, readiness, metrics.
//!
//! `/health` says that the process lives; `/health?ready=1` whether a balancer should send SQL
//! here; `/metrics` and `/_status/vars` are the same Prometheus text.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the HTTP side asks the node.
pub(crate) trait HttpSource: Send + Sync + 'static {
    /// Whether SQL is served here and a balancer should send it.
    fn is_ready(&self) -> bool;

    /// All metrics in the Prometheus text format.
    fn metrics(&self) -> String;
}

/// Serves HTTP on `listener` until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    source: Arc<dyn HttpSource>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/_status/vars", get(metrics))
        .with_state(source);
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn health(
    State(source): State<Arc<dyn HttpSource>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    // Set with any value but an explicit no, as a flag is.
    let off = |value: &String| matches!(value.as_str(), "0" | "false" | "f" | "no");
    let ready = query.get("ready").is_some_and(|value| !off(value));
    if !ready || source.is_ready() {
        return json_response(StatusCode::OK, "{}".to_owned());
    }
    let text = "node is not healthy";
    let body = json!({ "error": text, "code": 14, "message": text, "details": [] });
    json_response(StatusCode::SERVICE_UNAVAILABLE, body.to_string())
}

async fn metrics(State(source): State<Arc<dyn HttpSource>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], source.metrics()).into_response()
}

fn json_response(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
