//! What each message says, and which event it says it of.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::card::{CardEvent, Status};
use domain::catalogue::{FeatureValue, PlanTerms};
use domain::subscription::{GrantKind, SubscriptionEvent};
use schemars::JsonSchema;
use serde::Serialize;

/// The `data` of a message.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// A card came into circulation, not yet in use.
    CardIssued(CardIssued),
    /// An issued card was put to use.
    CardActivated(OfCard),
    /// An active card was taken out of use for a while; it stays in circulation.
    CardSuspended(OfCard),
    /// A suspended card was put back to use.
    CardReinstated(OfCard),
    /// A card was ended for good and left circulation, unless it had expired before.
    CardRevoked(CardEnded),
    /// A card's time was over and it left circulation.
    CardExpired(CardEnded),
    /// A card got a new end; an expired one is active and in circulation again.
    CardRenewed(CardRenewed),
    /// A card left circulation in favour of another.
    CardReplaced(CardReplaced),
    /// The holder was corrected or changed. Who it is, is not told.
    CardHolderUpdated(OfCard),
    /// A subscription began.
    SubscriptionStarted(SubscriptionStarted),
    /// The tenant went over to a plan of a higher rank, or to a newer version of its own.
    PlanUpgraded(PlanChanged),
    /// The tenant went over to a plan of a lower rank.
    PlanDowngraded(PlanChanged),
    /// A feature was granted beside the plan; it replaces an earlier grant of the same feature.
    AddOnGranted(AddOnGranted),
    /// A granted feature was taken back.
    AddOnRevoked(AddOnRevoked),
    /// Service stopped until reinstated; nothing was deleted.
    SubscriptionSuspended(Nothing),
    /// Service resumed exactly as it was.
    SubscriptionReinstated(Nothing),
    /// The subscription was ended.
    SubscriptionCancelled(SubscriptionCancelled),
}

/// A card's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum CardStatus {
    /// In circulation, not yet in use.
    Issued,
    /// In circulation and in use.
    Active,
    /// In circulation, out of use for a while.
    Suspended,
    /// Ended for good.
    Revoked,
    /// Its time is over.
    Expired,
    /// Another card took its place.
    Replaced,
}

/// `card.issued.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct CardIssued {
    /// The card.
    #[schemars(extend("format" = "uuid"))]
    pub card_id: String,
    /// The tenant's name for this kind of card.
    pub tier: String,
    /// When it ends by itself; never, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// The card whose place it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "uuid"))]
    pub replaces: Option<String>,
}

/// What says no more than which card.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct OfCard {
    /// The card.
    #[schemars(extend("format" = "uuid"))]
    pub card_id: String,
}

/// `card.revoked.v1` and `card.expired.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct CardEnded {
    /// The card.
    #[schemars(extend("format" = "uuid"))]
    pub card_id: String,
    /// The status it had.
    pub from: CardStatus,
}

/// `card.renewed.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct CardRenewed {
    /// The card.
    #[schemars(extend("format" = "uuid"))]
    pub card_id: String,
    /// The status it had.
    pub from: CardStatus,
    /// The status it has now: `active` if it had expired, else unchanged.
    pub to: CardStatus,
    /// The new end.
    pub expires_at: DateTime<Utc>,
}

/// `card.replaced.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct CardReplaced {
    /// The card that left circulation.
    #[schemars(extend("format" = "uuid"))]
    pub card_id: String,
    /// The status it had.
    pub from: CardStatus,
    /// The card that took its place.
    #[schemars(extend("format" = "uuid"))]
    pub by: String,
}

/// A plan's terms.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct Plan {
    /// Its key: `free`.
    pub key: String,
    /// 1 for the first version.
    pub version: u32,
    /// The price level.
    pub price_level: u32,
    /// Its place among the plans: changing to a higher rank is an upgrade.
    pub rank: u32,
    /// What it grants, by the feature's slug.
    pub features: BTreeMap<String, Amount>,
}

/// How much of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum Amount {
    /// `true`: it may be used.
    On(#[schemars(extend("const" = true))] bool),
    /// It may be used up to this amount.
    Limit(u64),
    /// It may be used without a limit.
    Unlimited(Unlimited),
}

/// `"unlimited"`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Unlimited {
    /// Without a limit.
    Unlimited,
}

/// `subscription.started.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SubscriptionStarted {
    /// The plan it began on.
    pub plan: Plan,
}

/// `subscription.plan_upgraded.v1` and `subscription.plan_downgraded.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PlanChanged {
    /// The key of the plan it had.
    pub from: String,
    /// The plan it has now.
    pub to: Plan,
}

/// `subscription.add_on_granted.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct AddOnGranted {
    /// The feature's slug.
    pub feature: String,
    /// How much of it.
    pub value: Amount,
    /// Sold or gifted on top of the plan, or put in the plan's place.
    pub kind: Beside,
    /// When it ends by itself; never, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// How a grant and the plan's own value go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Beside {
    /// The more generous of the two counts.
    AddOn,
    /// The grant counts, even where the plan is more generous.
    Override,
}

/// `subscription.add_on_revoked.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct AddOnRevoked {
    /// The feature's slug.
    pub feature: String,
}

/// What says no more than that it happened.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Nothing {}

/// `subscription.cancelled.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SubscriptionCancelled {
    /// When service ends.
    pub ends_at: DateTime<Utc>,
}

impl Content {
    /// The type of the message, with its version.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::CardIssued(_) => "card.issued.v1",
            Self::CardActivated(_) => "card.activated.v1",
            Self::CardSuspended(_) => "card.suspended.v1",
            Self::CardReinstated(_) => "card.reinstated.v1",
            Self::CardRevoked(_) => "card.revoked.v1",
            Self::CardExpired(_) => "card.expired.v1",
            Self::CardRenewed(_) => "card.renewed.v1",
            Self::CardReplaced(_) => "card.replaced.v1",
            Self::CardHolderUpdated(_) => "card.holder_updated.v1",
            Self::SubscriptionStarted(_) => "subscription.started.v1",
            Self::PlanUpgraded(_) => "subscription.plan_upgraded.v1",
            Self::PlanDowngraded(_) => "subscription.plan_downgraded.v1",
            Self::AddOnGranted(_) => "subscription.add_on_granted.v1",
            Self::AddOnRevoked(_) => "subscription.add_on_revoked.v1",
            Self::SubscriptionSuspended(_) => "subscription.suspended.v1",
            Self::SubscriptionReinstated(_) => "subscription.reinstated.v1",
            Self::SubscriptionCancelled(_) => "subscription.cancelled.v1",
        }
    }

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
            Event::SubscriptionStarted { plan, at: _ } => {
                Self::SubscriptionStarted(SubscriptionStarted { plan: plan.into() })
            }
            Event::PlanUpgraded { from, to, at: _ } => Self::PlanUpgraded(PlanChanged {
                from: from.to_string(),
                to: to.into(),
            }),
            Event::PlanDowngraded { from, to, at: _ } => Self::PlanDowngraded(PlanChanged {
                from: from.to_string(),
                to: to.into(),
            }),
            Event::AddOnGranted {
                feature,
                grant,
                at: _,
            } => Self::AddOnGranted(AddOnGranted {
                feature: feature.to_string(),
                value: grant.value.into(),
                kind: match grant.kind {
                    GrantKind::AddOn => Beside::AddOn,
                    GrantKind::Override => Beside::Override,
                },
                expires_at: grant.expires_at,
            }),
            Event::AddOnRevoked { feature, at: _ } => Self::AddOnRevoked(AddOnRevoked {
                feature: feature.to_string(),
            }),
            Event::SubscriptionSuspended { at: _ } => Self::SubscriptionSuspended(Nothing {}),
            Event::SubscriptionReinstated { at: _ } => Self::SubscriptionReinstated(Nothing {}),
            Event::SubscriptionCancelled { ends_at, at: _ } => {
                Self::SubscriptionCancelled(SubscriptionCancelled { ends_at: *ends_at })
            }
            // It is about publishing; nobody outside has asked for it.
            Event::RepublishRequested { .. } => return None,
        })
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
