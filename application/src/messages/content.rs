//! What each message says.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
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
    /// A change to another plan was scheduled; it takes the place of one that was scheduled before.
    PlanChangeScheduled(PlanChangeScheduled),
    /// The plan change that was scheduled will not happen.
    PlanChangeUnscheduled(PlanChangeUnscheduled),
    /// The tenant tries a plan beside its own.
    TrialStarted(TrialStarted),
    /// A trial was over.
    TrialExpired(OfTrial),
    /// The tenant went over to the plan that it tried; a change of the plan follows.
    TrialConverted(OfTrial),
    /// A trial was ended before its end.
    TrialCancelled(OfTrial),
    /// A feature was granted beside the plan; it replaces an earlier grant of the same feature.
    AddOnGranted(AddOnGranted),
    /// A granted feature was taken back.
    AddOnRevoked(OfAddOn),
    /// The time of a granted feature was over.
    AddOnExpired(OfAddOn),
    /// A payment failed; service goes on until the grace is over.
    PaymentFailed(PaymentFailed),
    /// Service stopped until reinstated; nothing was deleted.
    SubscriptionSuspended(SubscriptionSuspended),
    /// Service resumed exactly as it was.
    SubscriptionReinstated(Nothing),
    /// The subscription was ended, now or at a time to come.
    SubscriptionCancelled(SubscriptionCancelled),
    /// The time that was left to a cancelled subscription was over.
    SubscriptionEnded(Nothing),
    /// The cards in circulation came to a part of the limit from below.
    ThresholdReached(ThresholdReached),
    /// The counters of the cards were put right after a recount.
    UsageReconciled(UsageReconciled),
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

/// `subscription.plan_change_scheduled.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PlanChangeScheduled {
    /// The plan it will have.
    pub to: Plan,
    /// When.
    pub effective_at: DateTime<Utc>,
}

/// `subscription.plan_change_unscheduled.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PlanChangeUnscheduled {
    /// The key of the plan it would have had.
    pub to: String,
}

/// `subscription.trial_started.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct TrialStarted {
    /// The plan it tries; its own goes on beside it.
    pub plan: Plan,
    /// When the trial ends by itself.
    pub ends_at: DateTime<Utc>,
}

/// `subscription.trial_expired.v1`, `.trial_converted.v1` and `.trial_cancelled.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct OfTrial {
    /// The key of the plan that was tried.
    pub plan: String,
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

/// `subscription.add_on_revoked.v1` and `subscription.add_on_expired.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct OfAddOn {
    /// The feature's slug.
    pub feature: String,
}

/// `subscription.payment_failed.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PaymentFailed {
    /// When service stops, unless the tenant is reinstated before.
    pub grace_ends_at: DateTime<Utc>,
}

/// `subscription.suspended.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SubscriptionSuspended {
    /// What stopped service.
    pub cause: Cause,
}

/// What stopped service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Cause {
    /// The landlord asked for it.
    Landlord,
    /// The grace after a failed payment was over.
    Payment,
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

/// `usage.threshold_reached.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ThresholdReached {
    /// Which part of the limit, in percent: 80, 90 or 100.
    pub percent: u32,
    /// The cards in circulation then.
    pub used: u64,
    /// The most cards in circulation then.
    pub limit: u64,
}

/// `usage.reconciled.v1`
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct UsageReconciled {
    /// What the counters said.
    pub before: CardCounts,
    /// What the recount says.
    pub after: CardCounts,
}

/// Cards by status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct CardCounts {
    /// In circulation, not yet in use.
    pub issued: u64,
    /// In circulation and in use.
    pub active: u64,
    /// In circulation, out of use for a while.
    pub suspended: u64,
    /// Ended for good.
    pub revoked: u64,
    /// Their time is over.
    pub expired: u64,
    /// Another card took their place.
    pub replaced: u64,
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
            Self::PlanChangeScheduled(_) => "subscription.plan_change_scheduled.v1",
            Self::PlanChangeUnscheduled(_) => "subscription.plan_change_unscheduled.v1",
            Self::TrialStarted(_) => "subscription.trial_started.v1",
            Self::TrialExpired(_) => "subscription.trial_expired.v1",
            Self::TrialConverted(_) => "subscription.trial_converted.v1",
            Self::TrialCancelled(_) => "subscription.trial_cancelled.v1",
            Self::AddOnGranted(_) => "subscription.add_on_granted.v1",
            Self::AddOnRevoked(_) => "subscription.add_on_revoked.v1",
            Self::AddOnExpired(_) => "subscription.add_on_expired.v1",
            Self::PaymentFailed(_) => "subscription.payment_failed.v1",
            Self::SubscriptionSuspended(_) => "subscription.suspended.v1",
            Self::SubscriptionReinstated(_) => "subscription.reinstated.v1",
            Self::SubscriptionCancelled(_) => "subscription.cancelled.v1",
            Self::SubscriptionEnded(_) => "subscription.ended.v1",
            Self::ThresholdReached(_) => "usage.threshold_reached.v1",
            Self::UsageReconciled(_) => "usage.reconciled.v1",
        }
    }
}
