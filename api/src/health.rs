//! What operators and their machines ask: is the process there, can it take traffic, how is it.

use std::sync::Arc;
use std::time::Duration;

use application::subscribers::{FollowerState, LANDLORD, Progress};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
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

/// Says whether the process can take traffic: the landlord's database or a shard answers, and each
/// read model is alive and not behind for most of the tenants whose stores answer. `errors` names
/// whom it is behind for and what does not answer, also the broker, without which everything is
/// served.
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
    let too_old = |since: DateTime<Utc>| (now - since).to_std().is_ok_and(|age| age > behind_max);
    let subscribers = &api.application.subscribers;
    let progress = subscribers.progress();
    let (waited_for, others): (Vec<_>, Vec<_>) = progress
        .iter()
        .partition(|(name, ..)| subscribers.is_read_model(name));
    // Nothing that is served waits for these.
    let in_trouble: Vec<_> = subscribers.troubles().into_iter().map(|it| it.0).collect();
    errors.extend(in_trouble.iter().map(|name| {
        FieldError::new(
            field_of(name),
            "unreachable",
            "the other side takes nothing",
        )
    }));
    errors.extend(backlog(&others, |name, since| {
        in_trouble.contains(&name) || too_old(since)
    }));
    for (name, followed) in by_name(&waited_for) {
        let late = followed.iter().filter_map(|(_, tenant, progress)| {
            let trouble = trouble(name, *tenant, progress, too_old);
            trouble.filter(|_| !is_excused(name, *tenant))
        });
        let late: Vec<_> = late.collect();
        // A few tenants' trouble is theirs on every node; taking the node away helps nobody.
        let told = match late.len() * 2 < followed.len() {
            true => &mut errors,
            false => &mut troubles,
        };
        told.extend(late.into_iter().take(TROUBLES_MAX));
    }
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
    too_old: impl Fn(DateTime<Utc>) -> bool,
) -> Option<FieldError> {
    let field = field_of(name);
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

fn field_of(subscriber: &str) -> String {
    format!("subscribers.{subscriber}")
}

/// What subscribers that no request waits for have not done yet, over all tenants, where that is
/// worth a word.
fn backlog(others: &[&Followed], is_told: impl Fn(&str, DateTime<Utc>) -> bool) -> Vec<FieldError> {
    let of = |(name, its): (&'static str, &[&Followed])| {
        let behind: Vec<_> = its
            .iter()
            .filter(|it| it.2.behind_since.is_some())
            .collect();
        let since = behind.iter().filter_map(|it| it.2.behind_since).min()?;
        let events: u64 = behind.iter().map(|it| it.2.lag()).sum();
        let tenants = behind.len();
        let detail = format!("{events} events behind, of {tenants} tenants, since {since}");
        is_told(name, since).then(|| FieldError::new(field_of(name), "behind", detail))
    };
    by_name(others).filter_map(of).collect()
}

/// A subscriber's way along one tenant's ledger.
type Followed = (&'static str, TenantId, Progress);

/// What is sorted by name, a subscriber at a time.
fn by_name<'a>(
    all: &'a [&'a Followed],
) -> impl Iterator<Item = (&'static str, &'a [&'a Followed])> {
    all.chunk_by(|one, other| one.0 == other.0)
        .filter_map(|its| Some((its.first()?.0, its)))
}

/// Shows every metric.
#[utoipa::path(
    get, path = "/metrics", tag = "Process", security(()),
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain"))
)]
pub async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let application = &api.application;
    let now = application.clock.now();
    let text = api.meter.render(&api.crowd, &application.subscribers, now);
    let prometheus = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, prometheus)], text).into_response()
}
