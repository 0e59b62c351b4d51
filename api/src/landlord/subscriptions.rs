//! What the landlord does to a tenant's subscription.
//!
//! A change is in force for the tenant's next request; what is scheduled, at its moment.

pub mod body;
pub mod plans;

use std::sync::Arc;

use application::commands::Done;
use application::error::Error;
use application::scope::Command;
use application::subscriptions::SubscriptionState;
use axum::extract::State;
use axum::http::header::ETAG;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::catalogue::{FeatureSlug, FeatureValue};
use domain::ids::TenantId;
use domain::subscription::{Effective, GrantKind};
use serde::Deserialize;
use utoipa::ToSchema;

use self::body::SubscriptionBody;
use crate::Api;
use crate::answer::{Commanded, Json, LEDGER_POSITION, etag};
use crate::cards::Fresh;
use crate::entitlements::FeatureValueBody;
use crate::extract::body::{Why, reason};
use crate::extract::{Ask, Fields, InPath, InQuery};
use crate::problem::{FieldError, Problem};
use crate::scope::Caller;

/// A feature beside the plan.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureGrant {
    /// How much of it: `true`, a whole number, or `"unlimited"`, as the feature counts.
    #[schema(value_type = FeatureValueBody)]
    value: FeatureValue,
    /// How it and the plan's own value go together; if absent, `add_on` where the catalogue sells
    /// the feature as one, else `override`.
    kind: Option<GrantKindBody>,
    /// When it ends by itself: RFC 3339, in the future; never, if absent.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// How a grant and the plan's own value go together.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[schema(as = GrantKind)]
#[serde(rename_all = "snake_case")]
pub enum GrantKindBody {
    /// The more generous of the two counts.
    AddOn,
    /// The grant counts, even where the plan is more generous, and through every change of plan.
    Override,
}

/// A payment that failed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FailedPayment {
    /// How many days service goes on this time, unless the subscription is reinstated before: the
    /// tenant's own if absent, 0 to suspend at once.
    #[schema(maximum = 90, example = 14)]
    grace_days: Option<u32>,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// How much grace a tenant has.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Grace {
    /// How many days service goes on after a failed payment; a tenant begins with 14.
    #[schema(maximum = 90, example = 14)]
    grace_days: u32,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// The end of a subscription.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cancellation {
    /// When: `period_end` (the default: what was paid for is served), `now`, or an RFC 3339 time
    /// at most two years ahead.
    #[schema(example = "period_end")]
    effective: Option<String>,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// Shows a tenant's subscription as it is now. Its `ETag` is what `If-Match` of a change names.
#[utoipa::path(
    get, path = "/v1/landlord/tenants/{id}/subscription", tag = "Landlord",
    params(("id" = String, Path, description = "The tenant's id"), Fresh),
    responses((status = 200, description = "The subscription", body = SubscriptionBody,
        headers(("ETag" = String, description = "The subscription's version"))))
)]
pub async fn get_subscription(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(id): InPath<TenantId>,
    InQuery(fresh): InQuery<Fresh>,
) -> Result<Response, Problem> {
    let at_least = fresh.at_least.unwrap_or_default();
    let seen = api.application.subscription(&scope, id, at_least).await?;
    let tag = [(ETAG, etag(seen.version))];
    let position = [(LEDGER_POSITION, seen.as_of.to_string())];
    Ok((tag, position, Json(SubscriptionBody::from(seen.state))).into_response())
}

/// Grants a feature beside the plan: an add-on, or an override. It stays through changes of plan
/// until it is taken back or ends; granted again, the same feature has what was said last.
#[utoipa::path(
    put, path = "/v1/landlord/tenants/{id}/subscription/features/{slug}", tag = "Landlord",
    request_body = FeatureGrant,
    params(("id" = String, Path, description = "The tenant's id"),
           ("slug" = String, Path, description = "The feature's slug")),
    responses((status = 200, description = "The subscription", body = SubscriptionBody))
)]
pub async fn grant_feature(
    State(api): State<Arc<Api>>,
    InPath((id, slug)): InPath<(TenantId, String)>,
    ask: Ask<FeatureGrant>,
) -> Result<Commanded<SubscriptionBody>, Problem> {
    let slug = feature(slug)?;
    let (value, kind) = (ask.body.value, ask.body.kind.map(GrantKind::from));
    let (command, expires_at) = ask.into_grant()?;
    let granted = api
        .application
        .grant_feature(&command, id, &slug, value, kind, expires_at)
        .await;
    answer(granted)
}

/// Takes back a feature that was granted beside the plan.
#[utoipa::path(
    delete, path = "/v1/landlord/tenants/{id}/subscription/features/{slug}", tag = "Landlord",
    request_body = Why,
    params(("id" = String, Path, description = "The tenant's id"),
           ("slug" = String, Path, description = "The feature's slug")),
    responses((status = 200, description = "The subscription", body = SubscriptionBody))
)]
pub async fn revoke_feature(
    State(api): State<Arc<Api>>,
    InPath((id, slug)): InPath<(TenantId, String)>,
    ask: Ask<Why>,
) -> Result<Commanded<SubscriptionBody>, Problem> {
    let slug = feature(slug)?;
    let command = ask.because()?;
    answer(api.application.revoke_feature(&command, id, &slug).await)
}

/// Gives a tenant more or less grace after each payment that fails from now on.
#[utoipa::path(
    put, path = "/v1/landlord/tenants/{id}/subscription/grace", tag = "Landlord",
    request_body = Grace, params(("id" = String, Path, description = "The tenant's id")),
    responses((status = 200, description = "The subscription", body = SubscriptionBody))
)]
pub async fn set_grace(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<TenantId>,
    ask: Ask<Grace>,
) -> Result<Commanded<SubscriptionBody>, Problem> {
    let command = because(ask.command, ask.body.reason)?;
    let days = ask.body.grace_days;
    answer(api.application.set_grace(&command, id, days).await)
}

/// Begins the days of grace after a failed payment; at their end the subscription is suspended.
/// A failure that is reported again does not prolong them.
#[utoipa::path(
    put, path = "/v1/landlord/tenants/{id}/subscription/payment-failed", tag = "Landlord",
    request_body = FailedPayment, params(("id" = String, Path, description = "The tenant's id")),
    responses((status = 200, description = "The subscription", body = SubscriptionBody))
)]
pub async fn fail_payment(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<TenantId>,
    ask: Ask<FailedPayment>,
) -> Result<Commanded<SubscriptionBody>, Problem> {
    let command = because(ask.command, ask.body.reason)?;
    let days = ask.body.grace_days;
    answer(api.application.fail_payment(&command, id, days).await)
}

/// Stops service until reinstated. Cards stay readable; nothing is deleted.
#[utoipa::path(
    put, path = "/v1/landlord/tenants/{id}/subscription/suspend", tag = "Landlord",
    request_body = Why, params(("id" = String, Path, description = "The tenant's id")),
    responses((status = 200, description = "The subscription", body = SubscriptionBody))
)]
pub async fn suspend(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<TenantId>,
    ask: Ask<Why>,
) -> Result<Commanded<SubscriptionBody>, Problem> {
    let command = ask.because()?;
    answer(api.application.suspend_subscription(&command, id).await)
}

/// Resumes service exactly as it was, or ends the grace because the payment came. What was suspended
/// by the landlord in grace is in grace again, or stays suspended for the payment if that is over.
#[utoipa::path(
    put, path = "/v1/landlord/tenants/{id}/subscription/reinstate", tag = "Landlord",
    request_body = Why, params(("id" = String, Path, description = "The tenant's id")),
    responses((status = 200, description = "The subscription", body = SubscriptionBody))
)]
pub async fn reinstate(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<TenantId>,
    ask: Ask<Why>,
) -> Result<Commanded<SubscriptionBody>, Problem> {
    let command = ask.because()?;
    answer(api.application.reinstate_subscription(&command, id).await)
}

/// Ends the subscription for good: at the end of the period that is paid for, if nothing else is
/// said. Cards stay readable; nothing is deleted. One that is suspended ends at once.
#[utoipa::path(
    put, path = "/v1/landlord/tenants/{id}/subscription/cancel", tag = "Landlord",
    request_body = Cancellation, params(("id" = String, Path, description = "The tenant's id")),
    responses((status = 200, description = "The subscription", body = SubscriptionBody))
)]
pub async fn cancel(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<TenantId>,
    ask: Ask<Cancellation>,
) -> Result<Commanded<SubscriptionBody>, Problem> {
    let mut fields = Fields::default();
    let asked = ask.body.effective.as_deref().unwrap_or("period_end");
    let effective = effective(&mut fields, asked);
    let reason = reason(&mut fields, ask.body.reason);
    let (effective, reason) = fields.finish(effective.zip(reason))?;
    let command = Command {
        reason,
        ..ask.command
    };
    let application = &api.application;
    answer(
        application
            .cancel_subscription(&command, id, effective)
            .await,
    )
}

/// The command, with its reason.
fn because(command: Command, text: Option<String>) -> Result<Command, Problem> {
    let mut fields = Fields::default();
    let reason = reason(&mut fields, text);
    Ok(Command {
        reason: fields.finish(reason)?,
        ..command
    })
}

/// Parses when something takes effect.
fn effective(fields: &mut Fields, text: &str) -> Option<Effective> {
    match text {
        "now" => Some(Effective::Now),
        "period_end" => Some(Effective::PeriodEnd),
        time => {
            let parsed = DateTime::parse_from_rfc3339(time).is_ok();
            if !parsed {
                let detail = "must be now, period_end, or an RFC 3339 time";
                fields.note("effective", "invalid_time", detail);
                return None;
            }
            fields.time("effective", time).map(Effective::At)
        }
    }
}

fn answer(
    done: Result<Done<SubscriptionState>, Error>,
) -> Result<Commanded<SubscriptionBody>, Problem> {
    Ok(Commanded::ok(done?, SubscriptionBody::from))
}

/// A slug that cannot be one is as unknown as one that is not in the catalogue.
fn feature(slug: String) -> Result<FeatureSlug, Problem> {
    FeatureSlug::try_from(slug).map_err(|refusal| {
        let error = FieldError::new("slug", "unknown_feature", refusal.to_string());
        Problem::validation(vec![error])
    })
}

impl Ask<FeatureGrant> {
    fn into_grant(self) -> Result<(Command, Option<DateTime<Utc>>), Problem> {
        let mut fields = Fields::default();
        let expires_at = fields.optional_time("expires_at", self.body.expires_at.as_deref());
        let reason = reason(&mut fields, self.body.reason);
        let (expires_at, reason) = fields.finish(expires_at.zip(reason))?;
        let command = Command {
            reason,
            ..self.command
        };
        Ok((command, expires_at))
    }
}

impl From<GrantKindBody> for GrantKind {
    fn from(kind: GrantKindBody) -> Self {
        match kind {
            GrantKindBody::AddOn => Self::AddOn,
            GrantKindBody::Override => Self::Override,
        }
    }
}
