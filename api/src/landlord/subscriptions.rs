//! What the landlord does to a tenant's subscription.
//!
//! A change is in force for the tenant's next request. Plan changes take effect now; scheduled
//! ones, trials and grace periods are not part of this version.

use std::collections::BTreeMap;
use std::sync::Arc;

use application::commands::Done;
use application::error::Error;
use application::scope::Command;
use application::subscriptions::SubscriptionState;
use axum::extract::State;
use chrono::{DateTime, Utc};
use domain::catalogue::{FeatureSlug, FeatureValue, PlanKey};
use domain::ids::TenantId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Api;
use crate::answer::Commanded;
use crate::entitlements::{EntitlementBody, FeatureValueBody, StandingBody, features};
use crate::extract::body::{Why, reason};
use crate::extract::{Ask, Fields, InPath};
use crate::problem::{Code, FieldError, Problem};

/// A subscription after a change.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Subscription)]
pub struct SubscriptionBody {
    /// Whose.
    #[schema(value_type = String, format = Uuid)]
    pub tenant: TenantId,
    /// The plan.
    pub plan: String,
    /// The version of the plan's terms.
    pub plan_version: u32,
    /// The plan's price level.
    pub price_level: u32,
    /// Whether the tenant is served.
    pub state: StandingBody,
    /// When a cancelled subscription ends.
    pub ends_at: Option<DateTime<Utc>>,
    /// Every right, by the feature's slug.
    pub features: BTreeMap<String, EntitlementBody>,
    /// Cards in circulation.
    pub in_circulation: u64,
    /// The most cards in circulation; null is without limit.
    pub limit: Option<u64>,
    /// How many cards are in circulation beyond the limit. None is deleted.
    pub over_limit_by: u64,
}

/// Another plan.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanChange {
    /// The plan's key.
    #[schema(example = "pro")]
    plan: String,
    /// When: `now`, the only choice in this version and the default.
    #[schema(example = "now")]
    effective: Option<String>,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// A feature beside the plan.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureGrant {
    /// How much of it: `true`, a whole number, or `"unlimited"`, as the feature counts.
    #[schema(value_type = FeatureValueBody)]
    value: FeatureValue,
    /// When it ends by itself: RFC 3339, in the future; never, if absent.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// Puts a tenant on another plan, now.
#[utoipa::path(
    put, path = "/v1/landlord/tenants/{id}/subscription/plan", tag = "Landlord",
    request_body = PlanChange, params(("id" = String, Path, description = "The tenant's id")),
    responses((status = 200, description = "The subscription", body = SubscriptionBody))
)]
pub async fn change_plan(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<TenantId>,
    ask: Ask<PlanChange>,
) -> Result<Commanded<SubscriptionBody>, Problem> {
    let (command, plan) = ask.into_plan()?;
    answer(api.application.change_plan(&command, id, &plan).await)
}

/// Grants a feature beside the plan: an add-on, or an override.
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
    let (command, value, expires_at) = ask.into_grant()?;
    let granted = api
        .application
        .grant_feature(&command, id, &slug, value, expires_at)
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

/// Resumes service exactly as it was.
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

/// Ends the subscription, now and for good. Cards stay readable; nothing is deleted.
#[utoipa::path(
    put, path = "/v1/landlord/tenants/{id}/subscription/cancel", tag = "Landlord",
    request_body = Why, params(("id" = String, Path, description = "The tenant's id")),
    responses((status = 200, description = "The subscription", body = SubscriptionBody))
)]
pub async fn cancel(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<TenantId>,
    ask: Ask<Why>,
) -> Result<Commanded<SubscriptionBody>, Problem> {
    let command = ask.because()?;
    answer(api.application.cancel_subscription(&command, id).await)
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

impl Ask<PlanChange> {
    fn into_plan(self) -> Result<(Command, PlanKey), Problem> {
        let mut fields = Fields::default();
        let plan = fields.text("plan", self.body.plan);
        let reason = reason(&mut fields, self.body.reason);
        let (plan, reason) = fields.finish(plan.zip(reason))?;
        if self.body.effective.is_some_and(|when| when != "now") {
            return Err(schedule_not_available());
        }
        let command = Command {
            reason,
            ..self.command
        };
        Ok((command, plan))
    }
}

fn schedule_not_available() -> Problem {
    let detail = "plan changes take effect now; this version cannot schedule them";
    Problem::new(Code::ScheduleNotAvailable, detail).with_errors(vec![FieldError::new(
        "effective",
        "schedule_not_available",
        "must be \"now\"",
    )])
}

impl Ask<FeatureGrant> {
    fn into_grant(self) -> Result<(Command, FeatureValue, Option<DateTime<Utc>>), Problem> {
        let mut fields = Fields::default();
        let expires_at = fields.optional_time("expires_at", self.body.expires_at.as_deref());
        let reason = reason(&mut fields, self.body.reason);
        let (expires_at, reason) = fields.finish(expires_at.zip(reason))?;
        let command = Command {
            reason,
            ..self.command
        };
        Ok((command, self.body.value, expires_at))
    }
}

impl From<SubscriptionState> for SubscriptionBody {
    fn from(state: SubscriptionState) -> Self {
        Self {
            tenant: state.tenant,
            plan: state.plan.into(),
            plan_version: state.plan_version,
            price_level: state.price_level,
            state: state.standing.into(),
            ends_at: state.ends_at,
            features: features(state.features),
            in_circulation: state.in_circulation,
            limit: state.limit,
            over_limit_by: state.over_limit_by,
        }
    }
}
