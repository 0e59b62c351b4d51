//! Plans of a subscription over HTTP: changes now or later, what they would do, and trials.

use std::collections::BTreeMap;
use std::sync::Arc;

use application::scope::Command;
use application::subscriptions::PlanPreview;
use axum::extract::State;
use chrono::{DateTime, Utc};
use domain::catalogue::{FeatureSlug, Kill, PlanKey};
use domain::ids::TenantId;
use domain::subscription::Effective;
use domain::subscription::preview::Changed;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::SubscriptionBody;
use super::{answer, effective};
use crate::Api;
use crate::answer::Commanded;
use crate::entitlements::{EntitlementBody, features};
use crate::extract::body::{Why, reason};
use crate::extract::{Ask, Fields, InPath};
use crate::problem::Problem;

/// Another plan.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanChange {
    /// The plan's key.
    #[schema(example = "pro")]
    plan: String,
    /// When: `now` (the default), `period_end`, or an RFC 3339 time at most two years ahead.
    #[schema(example = "now")]
    effective: Option<String>,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// A plan to try.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrialStart {
    /// The plan's key.
    #[schema(example = "enterprise")]
    plan: String,
    /// How many days of 24 hours; 14 if absent.
    #[schema(minimum = 1, maximum = 365, example = 14)]
    days: Option<u32>,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// What a plan change would do, at the moment when it takes effect.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlanPreview)]
pub struct PlanPreviewBody {
    /// Whose.
    #[schema(value_type = String, format = Uuid)]
    pub tenant: TenantId,
    /// The plan it would go over from.
    pub from: String,
    /// The plan it would go over to.
    pub to: String,
    /// The version of that plan's terms.
    pub to_version: u32,
    /// When.
    pub effective_at: DateTime<Utc>,
    /// The price level without the change.
    pub price_level_before: u32,
    /// The price level with it.
    pub price_level_after: u32,
    /// Rights that it would have and has not, by the feature's slug.
    pub gained: BTreeMap<String, EntitlementBody>,
    /// Rights that it has and would not have.
    pub lost: BTreeMap<String, EntitlementBody>,
    /// Rights that would be worth more or less, or come from elsewhere.
    pub changed: BTreeMap<String, ChangedBody>,
    /// Cards in circulation now.
    pub in_circulation: u64,
    /// The most cards in circulation without the change; null is without limit.
    pub limit_before: Option<u64>,
    /// The most cards in circulation with it; null is without limit.
    pub limit_after: Option<u64>,
    /// By how many the cards in circulation now exceed that. None would be deleted; none could be
    /// issued.
    pub over_limit_by: u64,
}

/// A right before and after.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChangedEntitlement)]
pub struct ChangedBody {
    /// Without the change.
    pub from: EntitlementBody,
    /// With it.
    pub to: EntitlementBody,
}

/// Puts a tenant on another plan: now or later. The newest change takes the place of one that was
/// to come. A change to the plan that is tried converts the trial.
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
    let (command, plan, effective) = ask.into_plan()?;
    let application = &api.application;
    answer(
        application
            .change_plan(&command, id, &plan, effective)
            .await,
    )
}

/// Shows what a plan change would do, and does nothing. Refused as the change would be.
#[utoipa::path(
    post, path = "/v1/landlord/tenants/{id}/subscription/plan/preview", tag = "Landlord",
    request_body = PlanChange, params(("id" = String, Path, description = "The tenant's id")),
    responses((status = 200, description = "What would happen", body = PlanPreviewBody))
)]
pub async fn preview_plan(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<TenantId>,
    ask: Ask<PlanChange>,
) -> Result<Commanded<PlanPreviewBody>, Problem> {
    let (command, plan, effective) = ask.into_plan()?;
    let application = &api.application;
    let preview = application
        .preview_plan(&command, id, &plan, effective)
        .await?;
    Ok(Commanded::ok(preview, PlanPreviewBody::from))
}

/// Takes off the plan change to come.
#[utoipa::path(
    delete, path = "/v1/landlord/tenants/{id}/subscription/plan/scheduled", tag = "Landlord",
    request_body = Why, params(("id" = String, Path, description = "The tenant's id")),
    responses((status = 200, description = "The subscription", body = SubscriptionBody))
)]
pub async fn unschedule(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<TenantId>,
    ask: Ask<Why>,
) -> Result<Commanded<SubscriptionBody>, Problem> {
    let command = ask.because()?;
    answer(api.application.unschedule_plan_change(&command, id).await)
}

/// Lets a tenant try a plan beside the one it has; the more generous of the two counts. One trial
/// a plan, ever, and one at a time.
#[utoipa::path(
    post, path = "/v1/landlord/tenants/{id}/subscription/trial", tag = "Landlord",
    request_body = TrialStart, params(("id" = String, Path, description = "The tenant's id")),
    responses((status = 201, description = "The subscription", body = SubscriptionBody))
)]
pub async fn start_trial(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<TenantId>,
    ask: Ask<TrialStart>,
) -> Result<Commanded<SubscriptionBody>, Problem> {
    let mut fields = Fields::default();
    let plan: Option<PlanKey> = fields.text("plan", ask.body.plan);
    let reason = reason(&mut fields, ask.body.reason);
    let (plan, reason) = fields.finish(plan.zip(reason))?;
    let command = Command {
        reason,
        ..ask.command
    };
    let days = ask.body.days.unwrap_or(14);
    let started = api
        .application
        .start_trial(&command, id, &plan, days)
        .await?;
    let location = format!("/v1/landlord/tenants/{id}/subscription");
    Ok(Commanded::created(
        started,
        SubscriptionBody::from,
        location,
    ))
}

/// Ends the trial before its end. The plan cannot be tried again.
#[utoipa::path(
    delete, path = "/v1/landlord/tenants/{id}/subscription/trial", tag = "Landlord",
    request_body = Why, params(("id" = String, Path, description = "The tenant's id")),
    responses((status = 200, description = "The subscription", body = SubscriptionBody))
)]
pub async fn cancel_trial(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<TenantId>,
    ask: Ask<Why>,
) -> Result<Commanded<SubscriptionBody>, Problem> {
    let command = ask.because()?;
    answer(api.application.cancel_trial(&command, id).await)
}

impl Ask<PlanChange> {
    fn into_plan(self) -> Result<(Command, PlanKey, Effective), Problem> {
        let mut fields = Fields::default();
        let plan = fields.text("plan", self.body.plan);
        let asked = self.body.effective.as_deref().unwrap_or("now");
        let effective = effective(&mut fields, asked);
        let reason = reason(&mut fields, self.body.reason);
        let whole = plan.zip(effective).zip(reason);
        let ((plan, effective), reason) = fields.finish(whole)?;
        let command = Command {
            reason,
            ..self.command
        };
        Ok((command, plan, effective))
    }
}

impl From<PlanPreview> for PlanPreviewBody {
    fn from(preview: PlanPreview) -> Self {
        let changed = preview.difference.changed.into_iter();
        Self {
            tenant: preview.tenant,
            from: preview.from.into(),
            to: preview.to.into(),
            to_version: preview.to_version,
            effective_at: preview.effective_at,
            price_level_before: preview.price_level_before,
            price_level_after: preview.price_level_after,
            gained: features(preview.difference.gained, &preview.killed),
            lost: features(preview.difference.lost, &preview.killed),
            changed: changed
                .map(|(slug, changed)| {
                    let body = ChangedBody::of(&slug, changed, &preview.killed);
                    (slug.into(), body)
                })
                .collect(),
            in_circulation: preview.in_circulation,
            limit_before: preview.limit_before,
            limit_after: preview.limit_after,
            over_limit_by: preview.over_limit_by,
        }
    }
}

impl ChangedBody {
    fn of(slug: &FeatureSlug, changed: Changed, killed: &BTreeMap<FeatureSlug, Kill>) -> Self {
        Self {
            from: EntitlementBody::of(slug, changed.from, killed),
            to: EntitlementBody::of(slug, changed.to, killed),
        }
    }
}
