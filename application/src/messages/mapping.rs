//! Which message tells of which event.

use domain::card::{CardEvent, Status};
use domain::catalogue::{FeatureSlug, FeatureValue, PlanKey, PlanTerms};
use domain::subscription::{GrantKind, SubscriptionEvent, SuspensionCause};
use domain::usage::{Usage, UsageEvent};

use super::content::{
    AddOnGranted, Amount, Beside, CardCounts, CardEnded, CardIssued, CardRenewed, CardReplaced,
    CardStatus, Cause, Content, Nothing, OfAddOn, OfCard, OfTrial, PaymentFailed, Plan,
    PlanChangeScheduled, PlanChangeUnscheduled, PlanChanged, SubscriptionCancelled,
    SubscriptionStarted, SubscriptionSuspended, ThresholdReached, TrialStarted, Unlimited,
    UsageReconciled,
};

impl Content {
    /// What is told of an event of the card with this id.
    pub(super) fn of_card(id: &str, event: &CardEvent) -> Self {
        let card_id = id.to_owned();
        match event {
            CardEvent::CardIssued {
                tier,
                expires_at,
                replaces,
                number: _,
                holder: _,
                external_ref: _,
                at: _,
            } => Self::CardIssued(CardIssued {
                card_id,
                tier: tier.as_str().to_owned(),
                expires_at: *expires_at,
                replaces: replaces.map(|card| card.to_string()),
            }),
            CardEvent::CardActivated { .. } => Self::CardActivated(OfCard { card_id }),
            CardEvent::CardSuspended { .. } => Self::CardSuspended(OfCard { card_id }),
            CardEvent::CardReinstated { .. } => Self::CardReinstated(OfCard { card_id }),
            CardEvent::CardRevoked { from, at: _ } => Self::CardRevoked(CardEnded {
                card_id,
                from: (*from).into(),
            }),
            CardEvent::CardExpired { from, at: _ } => Self::CardExpired(CardEnded {
                card_id,
                from: (*from).into(),
            }),
            CardEvent::CardRenewed {
                from,
                to,
                expires_at,
                at: _,
            } => Self::CardRenewed(CardRenewed {
                card_id,
                from: (*from).into(),
                to: (*to).into(),
                expires_at: *expires_at,
            }),
            CardEvent::CardReplaced { from, by, at: _ } => Self::CardReplaced(CardReplaced {
                card_id,
                from: (*from).into(),
                by: by.to_string(),
            }),
            CardEvent::CardHolderUpdated { .. } => Self::CardHolderUpdated(OfCard { card_id }),
        }
    }

    /// What is told of an event of the subscription; `None` if it is private.
    pub(super) fn of_subscription(event: &SubscriptionEvent) -> Option<Self> {
        use SubscriptionEvent as Event;

        Some(match event {
            Event::SubscriptionStarted { plan, .. } => {
                Self::SubscriptionStarted(SubscriptionStarted { plan: plan.into() })
            }
            Event::PlanUpgraded { from, to, .. } => {
                Self::PlanUpgraded(PlanChanged::between(from, to))
            }
            Event::PlanDowngraded { from, to, .. } => {
                Self::PlanDowngraded(PlanChanged::between(from, to))
            }
            Event::PlanChangeScheduled {
                to, effective_at, ..
            } => Self::PlanChangeScheduled(PlanChangeScheduled {
                to: to.into(),
                effective_at: *effective_at,
            }),
            Event::PlanChangeUnscheduled { to, .. } => {
                Self::PlanChangeUnscheduled(PlanChangeUnscheduled { to: to.to_string() })
            }
            Event::TrialStarted { plan, ends_at, .. } => Self::TrialStarted(TrialStarted {
                plan: plan.into(),
                ends_at: *ends_at,
            }),
            Event::TrialExpired { plan, .. } => Self::TrialExpired(OfTrial::of(plan)),
            Event::TrialConverted { plan, .. } => Self::TrialConverted(OfTrial::of(plan)),
            Event::TrialCancelled { plan, .. } => Self::TrialCancelled(OfTrial::of(plan)),
            Event::AddOnGranted { feature, grant, .. } => Self::AddOnGranted(AddOnGranted {
                feature: feature.to_string(),
                value: grant.value.into(),
                kind: match grant.kind {
                    GrantKind::AddOn => Beside::AddOn,
                    GrantKind::Override => Beside::Override,
                },
                expires_at: grant.expires_at,
            }),
            Event::AddOnRevoked { feature, .. } => Self::AddOnRevoked(OfAddOn::of(feature)),
            Event::AddOnExpired { feature, .. } => Self::AddOnExpired(OfAddOn::of(feature)),
            Event::PaymentFailed { grace_ends_at, .. } => Self::PaymentFailed(PaymentFailed {
                grace_ends_at: *grace_ends_at,
            }),
            Event::SubscriptionSuspended { cause, .. } => {
                Self::SubscriptionSuspended(SubscriptionSuspended {
                    cause: match cause {
                        SuspensionCause::Landlord => Cause::Landlord,
                        SuspensionCause::Payment => Cause::Payment,
                    },
                })
            }
            Event::SubscriptionReinstated { .. } => Self::SubscriptionReinstated(Nothing {}),
            Event::SubscriptionCancelled { ends_at, .. } => {
                Self::SubscriptionCancelled(SubscriptionCancelled { ends_at: *ends_at })
            }
            Event::SubscriptionEnded { .. } => Self::SubscriptionEnded(Nothing {}),
            // Terms of a payment to come, and of publishing: nobody outside acts on them.
            Event::GraceSet { .. } | Event::RepublishRequested { .. } => return None,
        })
    }

    /// What is told of an event of the usage as a whole.
    pub(super) const fn of_usage(event: &UsageEvent) -> Self {
        match event {
            UsageEvent::UsageThresholdReached {
                percent,
                used,
                limit,
                at: _,
            } => Self::ThresholdReached(ThresholdReached {
                percent: *percent,
                used: *used,
                limit: *limit,
            }),
            UsageEvent::UsageReconciled {
                before,
                after,
                at: _,
            } => Self::UsageReconciled(UsageReconciled {
                before: CardCounts::of(before),
                after: CardCounts::of(after),
            }),
        }
    }
}

impl PlanChanged {
    fn between(from: &PlanKey, to: &PlanTerms) -> Self {
        Self {
            from: from.to_string(),
            to: to.into(),
        }
    }
}

impl OfTrial {
    fn of(plan: &PlanKey) -> Self {
        Self {
            plan: plan.to_string(),
        }
    }
}

impl OfAddOn {
    fn of(feature: &FeatureSlug) -> Self {
        Self {
            feature: feature.to_string(),
        }
    }
}

impl CardCounts {
    const fn of(usage: &Usage) -> Self {
        Self {
            issued: usage.issued,
            active: usage.active,
            suspended: usage.suspended,
            revoked: usage.revoked,
            expired: usage.expired,
            replaced: usage.replaced,
        }
    }
}

impl From<Status> for CardStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Issued => Self::Issued,
            Status::Active => Self::Active,
            Status::Suspended => Self::Suspended,
            Status::Revoked => Self::Revoked,
            Status::Expired => Self::Expired,
            Status::Replaced => Self::Replaced,
        }
    }
}

impl From<&PlanTerms> for Plan {
    fn from(terms: &PlanTerms) -> Self {
        let features = terms.features.iter();
        Self {
            key: terms.key.to_string(),
            version: terms.version,
            price_level: terms.price_level,
            rank: terms.rank,
            features: features
                .map(|(slug, value)| (slug.to_string(), (*value).into()))
                .collect(),
        }
    }
}

impl From<FeatureValue> for Amount {
    fn from(value: FeatureValue) -> Self {
        match value {
            FeatureValue::On => Self::On(true),
            FeatureValue::Limit(limit) => Self::Limit(limit),
            FeatureValue::Unlimited => Self::Unlimited(Unlimited::Unlimited),
        }
    }
}
