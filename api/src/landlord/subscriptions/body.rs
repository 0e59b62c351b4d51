//! A subscription as the landlord sees it, and what it blocks.

use std::collections::BTreeMap;

use application::subscriptions::{ScheduledPlan, SubscriptionState, TrialState};
use chrono::{DateTime, Utc};
use domain::ids::TenantId;
use domain::subscription::SuspensionCause;
use domain::subscription::schedule::Period;
use serde::Serialize;
use utoipa::ToSchema;

use crate::entitlements::{BlockedBody, EntitlementBody, StandingBody, features};

/// A subscription.
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
    /// The plan's price level, or that of the trial if it is higher.
    pub price_level: u32,
    /// How the tenant stands.
    pub state: StandingBody,
    /// What that keeps from the tenant.
    pub blocked: BlockedBody,
    /// What stopped service; null unless it is suspended.
    pub suspended_by: Option<SuspensionCauseBody>,
    /// How many days service goes on after a failed payment.
    pub grace_days: Option<u32>,
    /// When service stops after a failed payment; null unless in grace.
    pub grace_ends_at: Option<DateTime<Utc>>,
    /// When a cancelled subscription ends.
    pub ends_at: Option<DateTime<Utc>>,
    /// The month that is paid for.
    pub period: Option<PeriodBody>,
    /// The plan change to come; there is one at most.
    pub scheduled: Option<ScheduledPlanBody>,
    /// The trial that runs.
    pub trial: Option<TrialBody>,
    /// The plans that were ever tried: one trial each, for ever.
    pub plans_tried: Vec<String>,
    /// Every right, by the feature's slug.
    pub features: BTreeMap<String, EntitlementBody>,
    /// Cards in circulation.
    pub in_circulation: u64,
    /// The most cards in circulation; null is without limit.
    pub limit: Option<u64>,
    /// How many cards are in circulation beyond the limit. None is deleted.
    pub over_limit_by: u64,
}

/// What stopped service.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = SuspensionCause)]
#[serde(rename_all = "snake_case")]
pub enum SuspensionCauseBody {
    /// The landlord asked for it.
    Landlord,
    /// The grace after a failed payment was over.
    Payment,
}

/// A month that is paid for: calendar months from the beginning of the subscription.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = Period)]
pub struct PeriodBody {
    /// When it began.
    pub start: DateTime<Utc>,
    /// When it ends and the next one begins.
    pub end: DateTime<Utc>,
}

/// A plan change to come.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScheduledPlan)]
pub struct ScheduledPlanBody {
    /// The new plan.
    pub plan: String,
    /// The version of its terms.
    pub plan_version: u32,
    /// When the plan changes.
    pub effective_at: DateTime<Utc>,
    /// When it was scheduled.
    pub scheduled_at: DateTime<Utc>,
    /// The API key that asked.
    pub by: Option<String>,
    /// Why, as the asker said.
    pub why: Option<String>,
}

/// A trial that runs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Trial)]
pub struct TrialBody {
    /// The plan that is tried.
    pub plan: String,
    /// The version of its terms.
    pub plan_version: u32,
    /// Since when.
    pub started_at: DateTime<Utc>,
    /// When it ends by itself.
    pub ends_at: DateTime<Utc>,
    /// The API key that asked.
    pub by: Option<String>,
    /// Why, as the asker said.
    pub why: Option<String>,
}

impl From<SubscriptionState> for SubscriptionBody {
    fn from(state: SubscriptionState) -> Self {
        Self {
            tenant: state.tenant,
            plan: state.plan.into(),
            plan_version: state.plan_version,
            price_level: state.price_level,
            state: state.standing.into(),
            blocked: state.standing.blocked().into(),
            suspended_by: state.suspended_by.map(Into::into),
            grace_days: state.grace_days,
            grace_ends_at: state.grace_ends_at,
            ends_at: state.ends_at,
            period: state.period.map(Into::into),
            scheduled: state.scheduled.map(Into::into),
            trial: state.trial.map(Into::into),
            plans_tried: state.tried.into_iter().map(Into::into).collect(),
            features: features(state.features, &state.killed),
            in_circulation: state.in_circulation,
            limit: state.limit,
            over_limit_by: state.over_limit_by,
        }
    }
}

impl From<SuspensionCause> for SuspensionCauseBody {
    fn from(cause: SuspensionCause) -> Self {
        match cause {
            SuspensionCause::Landlord => Self::Landlord,
            SuspensionCause::Payment => Self::Payment,
        }
    }
}

impl From<Period> for PeriodBody {
    fn from(period: Period) -> Self {
        Self {
            start: period.start,
            end: period.end,
        }
    }
}

impl From<ScheduledPlan> for ScheduledPlanBody {
    fn from(scheduled: ScheduledPlan) -> Self {
        Self {
            plan: scheduled.plan.into(),
            plan_version: scheduled.plan_version,
            effective_at: scheduled.effective_at,
            scheduled_at: scheduled.scheduled_at,
            by: scheduled.attribution.by,
            why: scheduled.attribution.why.map(Into::into),
        }
    }
}

impl From<TrialState> for TrialBody {
    fn from(trial: TrialState) -> Self {
        Self {
            plan: trial.plan.into(),
            plan_version: trial.plan_version,
            started_at: trial.started_at,
            ends_at: trial.ends_at,
            by: trial.attribution.by,
            why: trial.attribution.why.map(Into::into),
        }
    }
}
