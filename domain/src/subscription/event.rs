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

/// What happened to a subscription.
// The doc comments of this enum and of `Grant` become the subscription part of EVENTS.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SubscriptionEvent {
    /// The subscription began.
    SubscriptionStarted {
        /// The plan's terms, copied from the catalogue.
        plan: PlanTerms,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// The tenant went over to a plan of a higher rank, or to a newer version of its own.
    PlanUpgraded {
        /// The plan it had.
        from: PlanKey,
        /// The new plan's terms, copied from the catalogue.
        to: PlanTerms,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// The tenant went over to a plan of a lower rank.
    PlanDowngraded {
        /// The plan it had.
        from: PlanKey,
        /// The new plan's terms, copied from the catalogue.
        to: PlanTerms,
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
    /// Service stopped until reinstated; nothing was deleted.
    SubscriptionSuspended {
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// Service resumed exactly as it was.
    SubscriptionReinstated {
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// The subscription was ended.
    SubscriptionCancelled {
        /// When service ends.
        ends_at: DateTime<Utc>,
        /// When it happened.
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
            Self::AddOnGranted { .. } => "AddOnGranted",
            Self::AddOnRevoked { .. } => "AddOnRevoked",
            Self::SubscriptionSuspended { .. } => "SubscriptionSuspended",
            Self::SubscriptionReinstated { .. } => "SubscriptionReinstated",
            Self::SubscriptionCancelled { .. } => "SubscriptionCancelled",
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
            | Self::AddOnRevoked { .. }
            | Self::SubscriptionSuspended { .. }
            | Self::SubscriptionReinstated { .. }
            | Self::SubscriptionCancelled { .. }
            | Self::RepublishRequested { .. } => "1.0.0",
        }
    }

    /// When it happened.
    pub const fn at(&self) -> DateTime<Utc> {
        match self {
            Self::SubscriptionStarted { at, .. }
            | Self::PlanUpgraded { at, .. }
            | Self::PlanDowngraded { at, .. }
            | Self::AddOnGranted { at, .. }
            | Self::AddOnRevoked { at, .. }
            | Self::SubscriptionSuspended { at }
            | Self::SubscriptionReinstated { at }
            | Self::SubscriptionCancelled { at, .. }
            | Self::RepublishRequested { at, .. } => *at,
        }
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
