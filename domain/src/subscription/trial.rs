//! Trials: a plan's rights for some days, beside those of the plan that is paid for.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{Provenance, SubscriptionEvent, SubscriptionRefusal, TenantSubscription, Terms};
use crate::catalogue::{PlanKey, PlanTerms};

/// The longest trial, in days.
pub const DAYS_MAX: u32 = 365;

/// A trial that was started and neither ended nor converted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The tried plan's terms.
    pub plan: PlanTerms,
    /// When it ends by itself.
    pub ends_at: DateTime<Utc>,
    /// Since when, by whom and why.
    pub provenance: Provenance,
}

impl TenantSubscription {
    /// The trial that runs at `now`.
    pub fn trial(&self, now: DateTime<Utc>) -> Option<&Trial> {
        let terms = self.terms()?;
        let trial = terms.trial.as_ref().filter(|trial| now < trial.ends_at)?;
        let converted = terms
            .due_change(now)
            .is_some_and(|change| change.to.key == trial.plan.key);
        (!converted).then_some(trial)
    }

    pub(super) fn start_trial(
        &self,
        terms: &Terms,
        plan: PlanTerms,
        days: u32,
        at: DateTime<Utc>,
    ) -> Result<Vec<SubscriptionEvent>, SubscriptionRefusal> {
        if !(1..=DAYS_MAX).contains(&days) {
            return Err(SubscriptionRefusal::TrialDays);
        }
        if let Some(running) = &terms.trial {
            return Err(SubscriptionRefusal::TrialRunning(running.plan.key.clone()));
        }
        if terms.tried.contains(&plan.key) {
            return Err(SubscriptionRefusal::TrialUsed(plan.key));
        }
        if terms.plan.key == plan.key {
            return Err(SubscriptionRefusal::AlreadyOnPlan(plan.key));
        }
        self.may_rise(at)?;
        Ok(vec![SubscriptionEvent::TrialStarted {
            plan,
            ends_at: at + TimeDelta::days(days.into()),
            attribution: Default::default(),
            at,
        }])
    }
}

impl Terms {
    pub(super) fn cancel_trial(
        &self,
        at: DateTime<Utc>,
    ) -> Result<Vec<SubscriptionEvent>, SubscriptionRefusal> {
        let trial = self.trial.as_ref().ok_or(SubscriptionRefusal::NoTrial)?;
        let plan = trial.plan.key.clone();
        Ok(vec![SubscriptionEvent::TrialCancelled { plan, at }])
    }

    /// What becomes of the trial when the tenant goes over to this plan.
    pub(super) fn conversion_to(
        &self,
        plan: &PlanKey,
        at: DateTime<Utc>,
    ) -> Option<SubscriptionEvent> {
        let trial = self.trial.as_ref()?;
        (trial.plan.key == *plan).then(|| SubscriptionEvent::TrialConverted {
            plan: plan.clone(),
            at,
        })
    }
}
