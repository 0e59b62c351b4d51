//! What operators and their machines ask: is the process there, can it take traffic, how is it.

use std::sync::Arc;
use std::time::Duration;

use application::subscribers::{FollowerState, Progress};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use domain::ids::TenantId;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::Api;
use crate::answer::Json;
use crate::problem::{Code, FieldError, Problem};

/// How long the stores have to answer.
const STORES_WAIT_MAX: Duration = Duration::from_secs(2);
/// How many troubles are listed at most.
const TROUBLES_MAX: usize = 20;

/// How the process is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`.
    status: &'static str,
}

/// Says that the process runs.
#[utoipa::path(
    get, path = "/healthz", tag = "Process", security(()),
    responses((status = 200, description = "It runs", body = Health))
)]
pub async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Says whether the process can take traffic: its stores answer, and every subscriber is alive
/// and not behind.
#[utoipa::path(
    get, path = "/readyz", tag = "Process", security(()),
    responses((status = 200, description = "It can", body = Health),
              (status = 503, description = "It cannot; `errors` says why"))
)]
pub async fn readyz(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let mut troubles = Vec::new();
    let answered = timeout(STORES_WAIT_MAX, (api.stores_answer)()).await;
    if !matches!(answered, Ok(Ok(()))) {
        troubles.push(FieldError::new(
            "stores",
            "unreachable",
            "the stores do not answer",
        ));
    }
    let now = api.application.clock.now();
    let behind_max = api.limits.ready_lag_max;
    let subscribers = api.application.subscribers.progress();
    let late = subscribers.iter().filter_map(|(name, tenant, progress)| {
        trouble(name, *tenant, progress, |since| {
            (now - since).to_std().is_ok_and(|age| age > behind_max)
        })
    });
    troubles.extend(late.take(TROUBLES_MAX));
    match troubles.is_empty() {
        true => Ok(([(CACHE_CONTROL, "no-store")], Json(Health { status: "ok" })).into_response()),
        false => {
            let detail = "this process cannot take traffic now";
            Err(Problem::new(Code::NotReady, detail).with_errors(troubles))
        }
    }
}

fn trouble(
    name: &str,
    tenant: TenantId,
    progress: &Progress,
    too_old: impl Fn(chrono::DateTime<chrono::Utc>) -> bool,
) -> Option<FieldError> {
    let field = format!("subscribers.{name}");
    match (progress.state, progress.behind_since) {
        (FollowerState::Stopped, _) => {
            let detail = format!("stopped for tenant {tenant}; resume it by command");
            Some(FieldError::new(field, "stopped", detail))
        }
        (_, Some(since)) if too_old(since) => {
            let lag = progress.lag();
            let detail = format!("{lag} events behind for tenant {tenant}, since {since}");
            Some(FieldError::new(field, "behind", detail))
        }
        (FollowerState::Idle | FollowerState::Running | FollowerState::Retrying, _) => None,
    }
}

/// Shows every metric.
#[utoipa::path(
    get, path = "/metrics", tag = "Process", security(()),
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain"))
)]
pub async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let text = api.meter.render(&api.application.subscribers);
    let prometheus = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, prometheus)], text).into_response()
}
