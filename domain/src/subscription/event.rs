//! What happens to a subscription: the events, their stored names and the versions of their
//! shapes.
//!
//! Private to the ledger, as a card's events are. Plans are copied into them whole, so that
//! history replays without the catalogue.

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};

use crate::catalogue::{FeatureSlug, FeatureValue, PlanKey, PlanTerms};
use crate::ids::Position;
use crate::text::Reason;

/// What happened to a subscription.
// The doc comments of this enum and of `Grant` become the subscription part of EVENTS.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SubscriptionEvent {
    /// The subscription began.
    SubscriptionStarted {
        /// The plan's terms, copied from the catalogue.
        plan: PlanTerms,
        /// By whom, and why.
        #[serde(flatten)]
        attribution: Attribution,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// The tenant went over to a plan of a higher rank, or to a newer version of its own.
    /// A change that was to come is off.
    PlanUpgraded {
        /// The plan it had.
        from: PlanKey,
        /// The new plan's terms, copied from the catalogue.
        to: PlanTerms,
        /// By whom, and why.
        #[serde(flatten)]
        attribution: Attribution,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// The tenant went over to a plan of a lower rank. A change that was to come is off.
    PlanDowngraded {
        /// The plan it had.
        from: PlanKey,
        /// The new plan's terms, copied from the catalogue.
        to: PlanTerms,
        /// By whom, and why.
        #[serde(flatten)]
        attribution: Attribution,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A plan change was scheduled, in place of the one that was to come before.
    PlanChangeScheduled {
        /// The new plan's terms, copied from the catalogue.
        to: PlanTerms,
        /// When the plan changes; the change itself is recorded then.
        effective_at: DateTime<Utc>,
        /// By whom, and why.
        #[serde(flatten)]
        attribution: Attribution,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// The plan change that was to come is off.
    PlanChangeUnscheduled {
        /// The plan it would have gone over to.
        to: PlanKey,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A trial began: the tried plan's rights, beside those that are paid for. The only one of
    /// this plan, ever.
    TrialStarted {
        /// The tried plan's terms, copied from the catalogue.
        plan: PlanTerms,
        /// When it ends by itself.
        ends_at: DateTime<Utc>,
        /// By whom, and why.
        #[serde(flatten)]
        attribution: Attribution,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A trial's time was over.
    TrialExpired {
        /// The plan that was tried.
        plan: PlanKey,
        /// The moment it was due, which may be before it was recorded.
        at: DateTime<Utc>,
    },
    /// A trial ended because the tenant goes over to the plan that it tried.
    TrialConverted {
        /// The plan that was tried.
        plan: PlanKey,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A trial was ended before its end.
    TrialCancelled {
        /// The plan that was tried.
        plan: PlanKey,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A feature was granted beside the plan.
    AddOnGranted {
        /// Which.
        feature: FeatureSlug,
        /// How much of it, and how.
        #[serde(flatten)]
        grant: Grant,
        /// By whom, and why.
        #[serde(flatten)]
        attribution: Attribution,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A granted feature was taken back.
    AddOnRevoked {
        /// Which.
        feature: FeatureSlug,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// The end of a granted feature had come.
    AddOnExpired {
        /// Which.
        feature: FeatureSlug,
        /// The moment it was due, which may be before it was recorded.
        at: DateTime<Utc>,
    },
    /// From now on the tenant has so much grace after a payment that failed.
    GraceSet {
        /// How many days of 24 hours.
        days: u32,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A payment failed; service goes on for some days of grace.
    PaymentFailed {
        /// When service stops, unless the subscription is reinstated before.
        grace_ends_at: DateTime<Utc>,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// Service stopped until reinstated; nothing was deleted. One that was stopped by the landlord
    /// may go on to be stopped for a payment that had failed before.
    SubscriptionSuspended {
        /// What stopped it.
        cause: SuspensionCause,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// Service resumed exactly as it was, also with the grace that had begun before the landlord
    /// suspended it; or the grace ended well.
    SubscriptionReinstated {
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// The subscription was ended for good. A plan change that was to come is off.
    SubscriptionCancelled {
        /// When service ends: with this event, or later with one of its own.
        ends_at: DateTime<Utc>,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// The time that was left to a cancelled subscription was over.
    SubscriptionEnded {
        /// The moment it was due, which may be before it was recorded.
        at: DateTime<Utc>,
    },
    /// The landlord asked for what was published of this ledger to be published again. Changes
    /// nothing of the subscription.
    RepublishRequested {
        /// The position of the first event to publish again; the last is the one before this.
        from: Position,
        /// When it happened.
        at: DateTime<Utc>,
    },
}

/// Who changed a subscription, and why. It travels with the event too; here it is for the rights
/// that come of the event, which say where they come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribution {
    /// The API key that asked, or the name of the process that did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, as the asker said: may hold personal data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Reason>,
}

/// What stopped service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuspensionCause {
    /// The landlord asked for it.
    Landlord,
    /// The grace after a failed payment was over.
    Payment,
}

/// A feature granted beside the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// How much of it.
    pub value: FeatureValue,
    /// Sold or gifted on top of the plan, or put in the plan's place.
    pub kind: GrantKind,
    /// When it ends by itself; never, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// How a grant and the plan's own value go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantKind {
    /// The more generous of the two counts.
    AddOn,
    /// The grant counts, even where the plan is more generous.
    Override,
}

impl SubscriptionEvent {
    /// The event's name, as stored.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SubscriptionStarted { .. } => "SubscriptionStarted",
            Self::PlanUpgraded { .. } => "PlanUpgraded",
            Self::PlanDowngraded { .. } => "PlanDowngraded",
            Self::PlanChangeScheduled { .. } => "PlanChangeScheduled",
            Self::PlanChangeUnscheduled { .. } => "PlanChangeUnscheduled",
            Self::TrialStarted { .. } => "TrialStarted",
            Self::TrialExpired { .. } => "TrialExpired",
            Self::TrialConverted { .. } => "TrialConverted",
            Self::TrialCancelled { .. } => "TrialCancelled",
            Self::AddOnGranted { .. } => "AddOnGranted",
            Self::AddOnRevoked { .. } => "AddOnRevoked",
            Self::AddOnExpired { .. } => "AddOnExpired",
            Self::GraceSet { .. } => "GraceSet",
            Self::PaymentFailed { .. } => "PaymentFailed",
            Self::SubscriptionSuspended { .. } => "SubscriptionSuspended",
            Self::SubscriptionReinstated { .. } => "SubscriptionReinstated",
            Self::SubscriptionCancelled { .. } => "SubscriptionCancelled",
            Self::SubscriptionEnded { .. } => "SubscriptionEnded",
            Self::RepublishRequested { .. } => "RepublishRequested",
        }
    }

    /// The version of the event's shape: the newest, the only one this code writes.
    pub const fn version(&self) -> &'static str {
        match self {
            Self::SubscriptionStarted { .. }
            | Self::PlanUpgraded { .. }
            | Self::PlanDowngraded { .. }
            | Self::AddOnGranted { .. }
            | Self::SubscriptionSuspended { .. } => "2.0.0",
            Self::PlanChangeScheduled { .. }
            | Self::PlanChangeUnscheduled { .. }
            | Self::TrialStarted { .. }
            | Self::TrialExpired { .. }
            | Self::TrialConverted { .. }
            | Self::TrialCancelled { .. }
            | Self::AddOnRevoked { .. }
            | Self::AddOnExpired { .. }
            | Self::GraceSet { .. }
            | Self::PaymentFailed { .. }
            | Self::SubscriptionReinstated { .. }
            | Self::SubscriptionCancelled { .. }
            | Self::SubscriptionEnded { .. }
            | Self::RepublishRequested { .. } => "1.0.0",
        }
    }

    /// When it happened.
    pub const fn at(&self) -> DateTime<Utc> {
        match self {
            Self::SubscriptionStarted { at, .. }
            | Self::PlanUpgraded { at, .. }
            | Self::PlanDowngraded { at, .. }
            | Self::PlanChangeScheduled { at, .. }
            | Self::PlanChangeUnscheduled { at, .. }
            | Self::TrialStarted { at, .. }
            | Self::TrialExpired { at, .. }
            | Self::TrialConverted { at, .. }
            | Self::TrialCancelled { at, .. }
            | Self::AddOnGranted { at, .. }
            | Self::AddOnRevoked { at, .. }
            | Self::AddOnExpired { at, .. }
            | Self::GraceSet { at, .. }
            | Self::PaymentFailed { at, .. }
            | Self::SubscriptionSuspended { at, .. }
            | Self::SubscriptionReinstated { at }
            | Self::SubscriptionCancelled { at, .. }
            | Self::SubscriptionEnded { at }
            | Self::RepublishRequested { at, .. } => *at,
        }
    }

    /// The event as asked for by somebody. What was scheduled stays with whoever scheduled it.
    pub fn attributed_to(mut self, asker: &Attribution) -> Self {
        match &mut self {
            Self::SubscriptionStarted { attribution, .. }
            | Self::PlanUpgraded { attribution, .. }
            | Self::PlanDowngraded { attribution, .. }
            | Self::PlanChangeScheduled { attribution, .. }
            | Self::TrialStarted { attribution, .. }
            | Self::AddOnGranted { attribution, .. } => {
                if *attribution == Attribution::default() {
                    *attribution = asker.clone();
                }
            }
            Self::PlanChangeUnscheduled { .. }
            | Self::TrialExpired { .. }
            | Self::TrialConverted { .. }
            | Self::TrialCancelled { .. }
            | Self::AddOnRevoked { .. }
            | Self::AddOnExpired { .. }
            | Self::GraceSet { .. }
            | Self::PaymentFailed { .. }
            | Self::SubscriptionSuspended { .. }
            | Self::SubscriptionReinstated { .. }
            | Self::SubscriptionCancelled { .. }
            | Self::SubscriptionEnded { .. }
            | Self::RepublishRequested { .. } => {}
        }
        self
    }
}

impl DomainEvent for SubscriptionEvent {
    fn event_type(&self) -> String {
        self.name().to_owned()
    }

    fn event_version(&self) -> String {
        self.version().to_owned()
    }
}
