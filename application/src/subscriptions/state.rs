//! A subscription as the landlord sees it, at a moment.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use domain::catalogue::{Catalogue, FeatureSlug, Kill, PlanKey};
use domain::entitlements::{Entitlement, Standing};
use domain::ids::TenantId;
use domain::subscription::schedule::{Period, ScheduledChange};
use domain::subscription::trial::Trial;
use domain::subscription::{Attribution, SuspensionCause, TenantSubscription};
use domain::usage::Usage;
use serde::{Deserialize, Serialize};

/// A subscription as the landlord sees it at a moment, and as it was answered after a change.
// What was answered before a field was there must still be read: hence the defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionState {
    /// Whose.
    pub tenant: TenantId,
    /// The plan.
    pub plan: PlanKey,
    /// The version of the plan's terms.
    pub plan_version: u32,
    /// The price level, a trial's included.
    pub price_level: u32,
    /// How the tenant stands.
    pub standing: Standing,
    /// What stopped service, if it is suspended.
    #[serde(default)]
    pub suspended_by: Option<SuspensionCause>,
    /// How many days of grace the tenant has after a failed payment; not in old answers.
    #[serde(default)]
    pub grace_days: Option<u32>,
    /// When service stops after a failed payment.
    #[serde(default)]
    pub grace_ends_at: Option<DateTime<Utc>>,
    /// When a cancelled subscription ends.
    pub ends_at: Option<DateTime<Utc>>,
    /// The period that is paid for.
    #[serde(default)]
    pub period: Option<Period>,
    /// The plan change to come.
    #[serde(default)]
    pub scheduled: Option<ScheduledPlan>,
    /// The trial that runs.
    #[serde(default)]
    pub trial: Option<TrialState>,
    /// The plans that were ever tried.
    #[serde(default)]
    pub tried: BTreeSet<PlanKey>,
    /// Every right.
    pub features: BTreeMap<FeatureSlug, Entitlement>,
    /// Those of them that are off for everybody.
    #[serde(default)]
    pub killed: BTreeMap<FeatureSlug, Kill>,
    /// Cards in circulation.
    pub in_circulation: u64,
    /// The most cards in circulation; none is without limit.
    pub limit: Option<u64>,
    /// How many cards are in circulation beyond the limit. Nothing is deleted; none can be
    /// issued until it is 0 and a place is free.
    pub over_limit_by: u64,
}

/// A plan change to come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduledPlan {
    /// The new plan.
    pub plan: PlanKey,
    /// The version of its terms.
    pub plan_version: u32,
    /// When the plan changes.
    pub effective_at: DateTime<Utc>,
    /// When it was scheduled.
    pub scheduled_at: DateTime<Utc>,
    /// By whom, and why.
    #[serde(flatten)]
    pub attribution: Attribution,
}

/// A trial that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialState {
    /// The plan that is tried.
    pub plan: PlanKey,
    /// The version of its terms.
    pub plan_version: u32,
    /// Since when.
    pub started_at: DateTime<Utc>,
    /// When it ends by itself.
    pub ends_at: DateTime<Utc>,
    /// By whom, and why.
    #[serde(flatten)]
    pub attribution: Attribution,
}

impl SubscriptionState {
    /// The state at `now`; `None` before the subscription started.
    pub fn of(
        tenant: TenantId,
        subscription: &TenantSubscription,
        usage: &Usage,
        catalogue: &Catalogue,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let terms = subscription.terms()?;
        let plan = terms.plan_at(now);
        let standing = subscription.standing(now);
        let limit = subscription.card_limit(now);
        let in_circulation = usage.in_circulation();
        let to_come = terms.scheduled.as_ref();
        let features = subscription.entitlements(now);
        Some(Self {
            tenant,
            plan: plan.key.clone(),
            plan_version: plan.version,
            price_level: subscription.price_level(now),
            standing,
            suspended_by: match subscription {
                TenantSubscription::Suspended { cause, .. } => Some(*cause),
                _ if standing == Standing::Suspended => Some(SuspensionCause::Payment),
                _ => None,
            },
            grace_days: Some(terms.grace_days),
            grace_ends_at: match subscription {
                TenantSubscription::InGrace { ends_at, .. } if standing == Standing::Grace => {
                    Some(*ends_at)
                }
                _ => None,
            },
            ends_at: subscription.end(),
            period: Some(terms.period(now)),
            scheduled: to_come
                .filter(|change| now < change.effective_at)
                .map(ScheduledPlan::from),
            trial: subscription.trial(now).map(TrialState::from),
            tried: terms.tried.clone(),
            killed: catalogue.killed_of(features.keys()),
            features,
            in_circulation,
            limit,
            over_limit_by: over(limit, in_circulation),
        })
    }
}

/// By how much the cards in circulation exceed the limit.
pub(super) fn over(limit: Option<u64>, in_circulation: u64) -> u64 {
    limit.map_or(0, |limit| in_circulation.saturating_sub(limit))
}

impl From<&ScheduledChange> for ScheduledPlan {
    fn from(change: &ScheduledChange) -> Self {
        Self {
            plan: change.to.key.clone(),
            plan_version: change.to.version,
            effective_at: change.effective_at,
            scheduled_at: change.scheduled_at,
            attribution: change.attribution.clone(),
        }
    }
}

impl From<&Trial> for TrialState {
    fn from(trial: &Trial) -> Self {
        Self {
            plan: trial.plan.key.clone(),
            plan_version: trial.plan.version,
            started_at: trial.provenance.since,
            ends_at: trial.ends_at,
            attribution: trial.provenance.attribution.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As version 0.1.0 has recorded it under an idempotency key.
    const OLD: &str = r#"{
        "tenant": "0199aaaa-0000-7000-8000-000000000001", "plan": "free", "plan_version": 1,
        "price_level": 1, "standing": "suspended", "ends_at": null,
        "features": { "max_cards": { "value": 500, "source": "plan", "expires_at": null } },
        "in_circulation": 501, "limit": 500, "over_limit_by": 1
    }"#;

    #[test]
    fn what_was_answered_before_there_were_trials_and_the_like_is_still_read() {
        let state: SubscriptionState = serde_json::from_str(OLD).expect("an answer");
        assert_eq!(state.standing, Standing::Suspended);
        assert_eq!(
            (state.trial, state.scheduled, state.period),
            (None, None, None)
        );
        assert_eq!(
            state.features["max_cards"].attribution,
            Attribution::default()
        );
    }
}
