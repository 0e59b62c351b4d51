//! The subscribers, as staff sees them: how far each is with each tenant, and what to do when one
//! stands still.

use std::sync::Arc;

use application::error::Error;
use application::scope::{Role, Scope};
use application::subscribers::{FollowerState, Progress};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::ids::{Position, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::Api;
use crate::answer::{Json, Page};
use crate::extract::{Ask, InPath, InQuery, cursor, page_items};
use crate::problem::Problem;
use crate::scope::Caller;

/// How far a subscriber is with a tenant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Subscriber)]
pub struct SubscriberBody {
    /// The subscriber.
    #[schema(example = "cards")]
    pub name: String,
    /// The tenant.
    #[schema(value_type = String, format = Uuid)]
    pub tenant: TenantId,
    /// What it is doing.
    pub state: SubscriberState,
    /// Up to where it has handled events; null until it first looked.
    pub checkpoint: Option<Position>,
    /// The newest position it has heard of.
    pub head: Position,
    /// How many events it is behind.
    pub lag: u64,
    /// When the oldest event that it has not handled was recorded.
    pub behind_since: Option<DateTime<Utc>>,
    /// Why it last failed, until it succeeds.
    pub last_error: Option<String>,
}

/// What a subscriber is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubscriberState {
    /// It has handled everything.
    Idle,
    /// It is at work.
    Running,
    /// It failed and will try again.
    Retrying,
    /// It failed too often and waits to be resumed.
    Stopped,
}

/// Which of them are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct SubscriberQuery {
    /// Only this subscriber.
    name: Option<String>,
    /// Only with this tenant.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantId>,
    /// Only in this state.
    #[param(inline)]
    state: Option<SubscriberState>,
    /// At most so many, 1 to 500. Default: 50.
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// With which tenant; with all, if absent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OfTenant {
    /// The tenant.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub tenant: Option<TenantId>,
}

/// What was built anew.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rebuilt {
    /// The subscriber.
    name: String,
    /// With which tenant; null with all, in the background.
    #[schema(value_type = Option<String>, format = Uuid)]
    tenant: Option<TenantId>,
    /// Up to which ledger position; null while it is going on.
    position: Option<Position>,
}

/// Lists how far every subscriber is with every tenant.
#[utoipa::path(
    get, path = "/v1/landlord/subscribers", tag = "Landlord", params(SubscriberQuery),
    responses((status = 200, description = "A page of them", body = Page<SubscriberBody>))
)]
pub async fn list_subscribers(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InQuery(query): InQuery<SubscriberQuery>,
) -> Result<Json<Page<SubscriberBody>>, Problem> {
    require_landlord(&scope)?;
    let limit = page_items(query.limit)?;
    let list = ("subscribers", &query.name, query.tenant, query.state);
    let after: Option<(String, TenantId)> = match &query.cursor {
        Some(cursor) => Some(cursor::read(&list, cursor)?),
        None => None,
    };
    let mut items: Vec<_> = api
        .application
        .subscribers
        .progress()
        .into_iter()
        .map(SubscriberBody::of)
        .filter(|one| query.name.as_ref().is_none_or(|name| *name == one.name))
        .filter(|one| query.tenant.is_none_or(|tenant| tenant == one.tenant))
        .filter(|one| query.state.is_none_or(|state| state == one.state))
        .filter(|one| {
            let after = after.as_ref();
            after.is_none_or(|(name, tenant)| (&one.name, &one.tenant) > (name, tenant))
        })
        .take(limit + 1)
        .collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = match items.last().filter(|_| more) {
        Some(last) => Some(cursor::write(&list, &(&last.name, last.tenant))?),
        None => None,
    };
    Ok(Json(Page { items, next_cursor }))
}

/// Lets a stopped subscriber try again.
#[utoipa::path(
    put, path = "/v1/landlord/subscribers/{name}/resume", tag = "Landlord",
    request_body = OfTenant, params(("name" = String, Path, description = "The subscriber")),
    responses((status = 204, description = "It tries again"))
)]
pub async fn resume_subscriber(
    State(api): State<Arc<Api>>,
    InPath(name): InPath<String>,
    ask: Ask<OfTenant>,
) -> Result<StatusCode, Problem> {
    require_landlord(ask.scope())?;
    require_tenant(&api, ask.body.tenant)?;
    api.application.subscribers.resume(&name, ask.body.tenant)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Builds what a subscriber keeps anew, beside the one in use, and swaps them.
///
/// With a tenant it answers when that is done; with all tenants at once, in the background, unless
/// that is under way already.
#[utoipa::path(
    put, path = "/v1/landlord/subscribers/{name}/rebuild", tag = "Landlord",
    request_body = OfTenant, params(("name" = String, Path, description = "The subscriber")),
    responses((status = 200, description = "It is built anew", body = Rebuilt),
              (status = 202, description = "It is being built anew for every tenant", body = Rebuilt))
)]
pub async fn rebuild_subscriber(
    State(api): State<Arc<Api>>,
    InPath(name): InPath<String>,
    ask: Ask<OfTenant>,
) -> Result<Response, Problem> {
    require_landlord(ask.scope())?;
    require_tenant(&api, ask.body.tenant)?;
    if !api.application.subscribers.is_read_model(&name) {
        return Err(Problem::not_found("subscriber"));
    }
    match ask.body.tenant {
        Some(tenant) => rebuild_one(&api, name, tenant).await,
        None => rebuild_all(&api, name),
    }
}

async fn rebuild_one(api: &Api, name: String, tenant: TenantId) -> Result<Response, Problem> {
    let view = name.clone();
    let rebuilt = api
        .to_its_end(|application| async move {
            let subscribers = &application.subscribers;
            subscribers.rebuild(&view, tenant, &|_| {}).await
        })
        .await?;
    let body = Rebuilt {
        name,
        tenant: Some(tenant),
        position: Some(rebuilt),
    };
    Ok(Json(body).into_response())
}

fn rebuild_all(api: &Api, name: String) -> Result<Response, Problem> {
    let tenants = api.application.directory.all();
    let tenants = tenants.iter().map(|tenant| tenant.id).collect();
    api.application.subscribers.rebuild_all(&name, tenants)?;
    let body = Rebuilt {
        name,
        tenant: None,
        position: None,
    };
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

fn require_landlord(scope: &Scope) -> Result<(), Problem> {
    Ok(scope.require(&[Role::Landlord])?)
}

fn require_tenant(api: &Api, tenant: Option<TenantId>) -> Result<(), Problem> {
    match tenant.is_none_or(|id| api.application.directory.get(id).is_some()) {
        true => Ok(()),
        false => Err(Error::NotFound("tenant").into()),
    }
}

impl SubscriberBody {
    fn of((name, tenant, progress): (&'static str, TenantId, Progress)) -> Self {
        Self {
            name: name.to_owned(),
            tenant,
            state: match progress.state {
                FollowerState::Idle => SubscriberState::Idle,
                FollowerState::Running => SubscriberState::Running,
                FollowerState::Retrying => SubscriberState::Retrying,
                FollowerState::Stopped => SubscriberState::Stopped,
            },
            checkpoint: progress.checkpoint,
            head: progress.head,
            lag: progress.lag(),
            behind_since: progress.behind_since,
            last_error: progress.last_error,
        }
    }
}
