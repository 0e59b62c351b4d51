//! What a subscription allows at a given moment, and where each right comes from.
//!
//! Rights are evaluated against a time, never stored evaluated: a right that expires ends on the
//! second, whether or not anything has recorded that yet.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::catalogue::{FeatureSlug, FeatureValue, feature};
use crate::subscription::{Attribution, Grant, GrantKind, TenantSubscription, Terms};

/// How a tenant stands with its landlord.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Everything bought is served.
    Good,
    /// A payment failed; everything bought is served for some days.
    Grace,
    /// Nothing new is served until reinstated.
    Suspended,
    /// Everything bought is served until the subscription ends.
    Cancelled,
    /// The subscription is over.
    Ended,
    /// The subscription has not begun.
    NotStarted,
}

/// What a standing keeps from a tenant that has bought it. Reading, ending, verifying and
/// exporting one's own cards is never blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Going over to a higher plan, or trying one. Going over to a lower one is not blocked while
    /// the subscription may be reinstated.
    pub plan_changes: bool,
    /// Bringing cards into circulation, or back into use.
    pub issuing: bool,
    /// The features of price level 2 and above.
    pub level_2: bool,
}

impl Standing {
    /// What this standing blocks.
    pub const fn blocked(self) -> Blocked {
        let (plan_changes, issuing, level_2) = match self {
            Self::Good => (false, false, false),
            Self::Grace | Self::Cancelled => (true, false, false),
            Self::Suspended | Self::Ended | Self::NotStarted => (true, true, true),
        };
        Blocked {
            plan_changes,
            issuing,
            level_2,
        }
    }

    /// Whether this standing blocks a feature of this price level.
    pub fn blocks(self, feature: &str, price_level: u32) -> bool {
        match feature {
            // One's own cards can always be taken along.
            feature::CARDS_EXPORT | feature::EXPORT_CSV => self == Self::NotStarted,
            _ => self.blocks_level(price_level),
        }
    }

    /// Whether this standing blocks what is sold at this price level.
    pub const fn blocks_level(self, price_level: u32) -> bool {
        let blocked = self.blocked();
        match price_level {
            0 | 1 => blocked.issuing,
            2.. => blocked.level_2,
        }
    }
}

/// Where a right comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The plan.
    Plan,
    /// A trial of a plan.
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
    /// Since when that is where it comes from; not known of what was answered before this was
    /// kept.
    #[serde(default)]
    pub since: Option<DateTime<Utc>>,
    /// When it ends by itself, or becomes another: with the trial, the grant, the subscription, or
    /// at a scheduled plan change.
    pub expires_at: Option<DateTime<Utc>>,
    /// By whom it was given, and why.
    #[serde(flatten)]
    pub attribution: Attribution,
}

/// One right, as found: nothing in it is copied.
struct Right<'a> {
    value: FeatureValue,
    source: Source,
    since: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    attribution: &'a Attribution,
}

impl TenantSubscription {
    /// How the tenant stands at `now`.
    pub fn standing(&self, now: DateTime<Utc>) -> Standing {
        match self {
            Self::NotStarted => Standing::NotStarted,
            Self::Active(_) => Standing::Good,
            Self::InGrace { ends_at, .. } if now < *ends_at => Standing::Grace,
            Self::InGrace { .. } | Self::Suspended { .. } => Standing::Suspended,
            Self::Cancelled { ends_at, .. } if now < *ends_at => Standing::Cancelled,
            Self::Cancelled { .. } | Self::Ended { .. } => Standing::Ended,
        }
    }

    /// The right to one feature at `now`, regardless of the standing.
    pub fn entitlement(&self, feature: &str, now: DateTime<Utc>) -> Option<Entitlement> {
        let right = self.right(feature, now)?;
        Some(Entitlement {
            value: right.value,
            source: right.source,
            since: Some(right.since),
            expires_at: earliest(right.expires_at, self.end()),
            attribution: right.attribution.clone(),
        })
    }

    /// How much of one feature there is at `now`, regardless of the standing. Allocates nothing:
    /// this is the check on the request path.
    pub fn value(&self, feature: &str, now: DateTime<Utc>) -> Option<FeatureValue> {
        Some(self.right(feature, now)?.value)
    }

    /// Every right at `now`, regardless of the standing.
    pub fn entitlements(&self, now: DateTime<Utc>) -> BTreeMap<FeatureSlug, Entitlement> {
        let Some(terms) = self.terms() else {
            return BTreeMap::new();
        };
        let tried = self.trial(now).map(|trial| trial.plan.features.keys());
        let features = terms.plan_at(now).features.keys();
        features
            .chain(terms.grants.keys())
            .chain(tried.into_iter().flatten())
            .filter_map(|slug| Some((slug.clone(), self.entitlement(slug.as_str(), now)?)))
            .collect()
    }

    /// The most cards in circulation at `now`; `None` is without limit. Whoever has no right to
    /// any card has a limit of 0.
    pub fn card_limit(&self, now: DateTime<Utc>) -> Option<u64> {
        match self.value(feature::MAX_CARDS, now) {
            Some(FeatureValue::Unlimited | FeatureValue::On) => None,
            Some(FeatureValue::Limit(limit)) => Some(limit),
            None => Some(0),
        }
    }

    /// The price level at `now`: the plan's, or that of a trial if it is higher; 0 before the
    /// subscription started.
    pub fn price_level(&self, now: DateTime<Utc>) -> u32 {
        let plan = self.terms().map(|terms| terms.plan_at(now).price_level);
        let trial = self.trial(now).map(|trial| trial.plan.price_level);
        plan.max(trial).unwrap_or(0)
    }

    /// When the subscription ends, if it was cancelled.
    pub const fn end(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Cancelled { ends_at, .. } => Some(*ends_at),
            Self::Ended { ended_at, .. } => Some(*ended_at),
            Self::NotStarted | Self::Active(_) | Self::InGrace { .. } | Self::Suspended { .. } => {
                None
            }
        }
    }

    /// An override counts in any case, else the most generous; of equals that which is paid for.
    fn right(&self, feature: &str, now: DateTime<Utc>) -> Option<Right<'_>> {
        let terms = self.terms()?;
        let grant = terms.right_of_grant(feature, now);
        if grant
            .as_ref()
            .is_some_and(|right| right.source == Source::Override)
        {
            return grant;
        }
        let plan = terms.right_of_plan(feature, now);
        let trial = self.right_of_trial(feature, now);
        [plan, grant, trial]
            .into_iter()
            .flatten()
            .reduce(|best, other| match best.value.most_generous(other.value) {
                most if most == best.value => best,
                _ => other,
            })
    }

    fn right_of_trial(&self, feature: &str, now: DateTime<Utc>) -> Option<Right<'_>> {
        let trial = self.trial(now)?;
        Some(Right {
            value: *trial.plan.features.get(feature)?,
            source: Source::Trial,
            since: trial.provenance.since,
            expires_at: Some(trial.ends_at),
            attribution: &trial.provenance.attribution,
        })
    }
}

impl Terms {
    fn right_of_plan(&self, feature: &str, now: DateTime<Utc>) -> Option<Right<'_>> {
        let value = *self.plan_at(now).features.get(feature)?;
        let (since, attribution) = match self.due_change(now) {
            Some(change) => (change.effective_at, &change.attribution),
            None => (
                self.plan_provenance.since,
                &self.plan_provenance.attribution,
            ),
        };
        let coming = self.scheduled.as_ref();
        let coming = coming.filter(|change| {
            now < change.effective_at && change.to.features.get(feature) != Some(&value)
        });
        Some(Right {
            value,
            source: Source::Plan,
            since,
            expires_at: coming.map(|change| change.effective_at),
            attribution,
        })
    }

    fn right_of_grant(&self, feature: &str, now: DateTime<Utc>) -> Option<Right<'_>> {
        let granted = self.grants.get(feature)?;
        let Grant {
            value,
            kind,
            expires_at,
        } = granted.grant;
        expires_at.is_none_or(|end| now < end).then_some(Right {
            value,
            source: match kind {
                GrantKind::AddOn => Source::AddOn,
                GrantKind::Override => Source::Override,
            },
            since: granted.provenance.since,
            expires_at,
            attribution: &granted.provenance.attribution,
        })
    }
}

fn earliest(one: Option<DateTime<Utc>>, other: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    one.into_iter().chain(other).min()
}
