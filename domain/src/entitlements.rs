//! What a subscription allows at a given moment, and where each right comes from.
//!
//! Rights are evaluated against a time, never stored evaluated: a right that expires ends on the
//! second, whether or not anything has recorded that yet.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::catalogue::{FeatureSlug, FeatureValue, feature};
use crate::subscription::{Grant, GrantKind, TenantSubscription, Terms};

/// Whether a tenant is served at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Everything bought is served.
    Good,
    /// Nothing new is served until reinstated; reading and ending cards stays possible.
    Suspended,
    /// The subscription is over; reading and ending cards stays possible.
    Cancelled,
    /// The subscription has not begun.
    NotStarted,
}

/// Where a right comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The plan.
    Plan,
    /// A trial of a higher plan.
    Trial,
    /// Sold or gifted on top of the plan.
    AddOn,
    /// Put in the plan's place by the landlord.
    Override,
}

/// One right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entitlement {
    /// How much.
    pub value: FeatureValue,
    /// Where it comes from.
    pub source: Source,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

impl TenantSubscription {
    /// Whether the tenant is served at `now`.
    pub fn standing(&self, now: DateTime<Utc>) -> Standing {
        match self {
            Self::NotStarted => Standing::NotStarted,
            Self::Active(_) => Standing::Good,
            Self::Suspended(_) => Standing::Suspended,
            Self::Cancelled { ends_at, .. } if now < *ends_at => Standing::Good,
            Self::Cancelled { .. } => Standing::Cancelled,
        }
    }

    /// The right to one feature at `now`, regardless of the standing. Allocates nothing: this
    /// is the check on the request path.
    pub fn entitlement(&self, feature: &str, now: DateTime<Utc>) -> Option<Entitlement> {
        let terms = self.terms()?;
        combine(
            terms.plan.features.get(feature).copied(),
            terms
                .grants
                .get(feature)
                .filter(|grant| in_force(grant, now)),
        )
    }

    /// Every right at `now`, regardless of the standing.
    pub fn entitlements(&self, now: DateTime<Utc>) -> BTreeMap<FeatureSlug, Entitlement> {
        let Some(Terms { plan, grants, .. }) = self.terms() else {
            return BTreeMap::new();
        };
        plan.features
            .keys()
            .chain(grants.keys())
            .filter_map(|slug| Some((slug.clone(), self.entitlement(slug.as_str(), now)?)))
            .collect()
    }

    /// The most cards in circulation at `now`; `None` is without limit. Whoever has no right to
    /// any card has a limit of 0.
    pub fn card_limit(&self, now: DateTime<Utc>) -> Option<u64> {
        match self
            .entitlement(feature::MAX_CARDS, now)
            .map(|right| right.value)
        {
            Some(FeatureValue::Unlimited | FeatureValue::On) => None,
            Some(FeatureValue::Limit(limit)) => Some(limit),
            None => Some(0),
        }
    }

    /// The price level of the plan; 0 before the subscription started.
    pub fn price_level(&self) -> u32 {
        self.terms().map_or(0, |terms| terms.plan.price_level)
    }
}

fn in_force(grant: &Grant, now: DateTime<Utc>) -> bool {
    grant.expires_at.is_none_or(|end| now < end)
}

fn combine(plan: Option<FeatureValue>, grant: Option<&Grant>) -> Option<Entitlement> {
    let of_plan = |value| Entitlement {
        value,
        source: Source::Plan,
        expires_at: None,
    };
    let of_grant = |grant: &Grant, source| Entitlement {
        value: grant.value,
        source,
        expires_at: grant.expires_at,
    };
    match (plan, grant) {
        (None, None) => None,
        (Some(value), None) => Some(of_plan(value)),
        (_, Some(grant)) if grant.kind == GrantKind::Override => {
            Some(of_grant(grant, Source::Override))
        }
        (Some(value), Some(grant)) if value.most_generous(grant.value) == value => {
            Some(of_plan(value))
        }
        (_, Some(grant)) => Some(of_grant(grant, Source::AddOn)),
    }
}
