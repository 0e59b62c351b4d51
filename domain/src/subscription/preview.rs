//! What a plan change would do, found by doing it to a copy.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Effective, SubscriptionCommand, SubscriptionRefusal, TenantSubscription};
use crate::catalogue::{FeatureSlug, PlanTerms};
use crate::entitlements::Entitlement;

/// A plan change that did not happen.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// When the plan would change: the moment to compare at.
    pub effective_at: DateTime<Utc>,
    /// The tenant without the change, and without the scheduled one whose place it would take.
    pub before: TenantSubscription,
    /// The tenant with it.
    pub after: TenantSubscription,
}

/// How rights differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Rights that come in.
    pub gained: BTreeMap<FeatureSlug, Entitlement>,
    /// Rights that go.
    pub lost: BTreeMap<FeatureSlug, Entitlement>,
    /// Rights that are worth more or less afterwards, or come from elsewhere.
    pub changed: BTreeMap<FeatureSlug, Changed>,
}

/// A right before and after a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// Before.
    pub from: Entitlement,
    /// After.
    pub to: Entitlement,
}

impl TenantSubscription {
    /// What a plan change that is asked for at `at` would do. Decided and applied by the very code
    /// that would do it.
    ///
    /// # Errors
    ///
    /// The [`SubscriptionRefusal`] of the change itself.
    pub fn preview(
        &self,
        to: PlanTerms,
        effective: Effective,
        at: DateTime<Utc>,
    ) -> Result<Preview, SubscriptionRefusal> {
        let (mut before, mut after) = (self.clone(), self.clone());
        for event in self.decide(SubscriptionCommand::ChangePlan { to, effective, at })? {
            after.evolve(event);
        }
        before.catch_up(at);
        before.amend(|terms| terms.scheduled = None);
        let terms = after.terms().ok_or(SubscriptionRefusal::NotStarted)?;
        Ok(Preview {
            effective_at: terms.moment(effective, at)?,
            before,
            after,
        })
    }
}

impl Preview {
    /// What would be gained, lost and changed.
    pub fn difference(&self) -> Difference {
        Difference::between(
            self.before.entitlements(self.effective_at),
            self.after.entitlements(self.effective_at),
        )
    }
}

impl Difference {
    /// How rights differ from what they were before.
    pub fn between(
        before: BTreeMap<FeatureSlug, Entitlement>,
        mut after: BTreeMap<FeatureSlug, Entitlement>,
    ) -> Self {
        let mut difference = Self::default();
        for (slug, from) in before {
            match after.remove(&slug) {
                None => {
                    difference.lost.insert(slug, from);
                }
                Some(to) if (to.value, to.source) != (from.value, from.source) => {
                    difference.changed.insert(slug, Changed { from, to });
                }
                Some(_) => {}
            }
        }
        difference.gained = after;
        difference
    }

    /// Every feature in it.
    pub fn features(&self) -> impl Iterator<Item = &FeatureSlug> {
        let Self {
            gained,
            lost,
            changed,
        } = self;
        gained.keys().chain(lost.keys()).chain(changed.keys())
    }
}
