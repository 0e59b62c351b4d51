//! What operators and their machines ask: is the process there, can it take traffic, how is it.

use std::sync::Arc;
use std::time::Duration;

use application::subscribers::{FollowerState, LANDLORD, Progress};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use domain::ids::{Slug, TenantId};
use serde::Serialize;
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
    /// What does not answer, though the process can take traffic.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// Says that the process runs.
#[utoipa::path(
    get, path = "/healthz", tag = "Process", security(()),
    responses((status = 200, description = "It runs", body = Health))
)]
pub async fn healthz() -> Json<Health> {
    Json(Health {
        status: "ok",
        errors: vec![],
    })
}

/// Says whether the process can take traffic: the landlord's database or a shard answers, and every
/// subscriber whose stores answer is alive and not behind. `errors` names what does not answer.
#[utoipa::path(
    get, path = "/readyz", tag = "Process", security(()),
    responses((status = 200, description = "It can", body = Health),
              (status = 503, description = "It cannot; `errors` says why"))
)]
pub async fn readyz(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let silent = (api.stores_answer)(STORES_WAIT_MAX).await;
    // One shard's tenants cannot be served here nor on any other node; all others can.
    let mut errors: Vec<_> = silent.shards.iter().map(of_shard).collect();
    let unreachable = |detail| FieldError::new("stores", "unreachable", detail);
    if silent.landlord {
        errors.push(unreachable("the landlord's database does not answer"));
    }
    let is_excused = |name: &str, tenant: TenantId| {
        let record = api.application.directory.get(tenant);
        let shard = record.and_then(|record| record.shard.clone());
        (silent.landlord && name == LANDLORD)
            || shard.is_some_and(|shard| silent.shards.contains(&shard))
    };
    let mut troubles = Vec::new();
    // Files are in one place: without the tenants' directory nothing is served.
    if silent.all_tenants && (silent.landlord || silent.shards.is_empty()) {
        troubles.push(unreachable("the stores do not answer"));
    }
    let now = api.application.clock.now();
    let behind_max = api.limits.ready_lag_max;
    let subscribers = api.application.subscribers.progress();
    let late = subscribers.iter().filter_map(|(name, tenant, progress)| {
        let trouble = trouble(name, *tenant, progress, |since| {
            (now - since).to_std().is_ok_and(|age| age > behind_max)
        });
        trouble.filter(|_| !is_excused(name, *tenant))
    });
    troubles.extend(late.take(TROUBLES_MAX));
    if !troubles.is_empty() {
        troubles.append(&mut errors);
        let detail = "this process cannot take traffic now";
        return Err(Problem::new(Code::NotReady, detail).with_errors(troubles));
    }
    let health = Health {
        status: "ok",
        errors,
    };
    Ok(([(CACHE_CONTROL, "no-store")], Json(health)).into_response())
}

fn of_shard(name: &Slug) -> FieldError {
    let field = format!("shards.{}", name.as_str());
    FieldError::new(field, "unreachable", "the shard does not answer")
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
