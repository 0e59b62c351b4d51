//! What happens to cards: the events, their stored names and the versions of their shapes.
//!
//! These are private to the ledger. What other systems see is mapped from them elsewhere, so a
//! shape here may change, with a new version, an upcaster in [`crate::event`] and a new sample.

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};

use super::{Holder, Status};
use crate::ids::{CardId, CardNumber};
use crate::text::{ExternalRef, Tier};

/// What happened to a card.
// The doc comments of this enum become the card part of EVENTS.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CardEvent {
    /// A card came into circulation, not yet in use.
    CardIssued {
        /// 16 digits, unique within the tenant.
        number: CardNumber,
        /// Who holds it: personal data.
        holder: Holder,
        /// The tenant's own reference.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        external_ref: Option<ExternalRef>,
        /// The tenant's name for this kind of card.
        tier: Tier,
        /// When it ends by itself; never, if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<DateTime<Utc>>,
        /// The card whose place it takes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaces: Option<CardId>,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// An issued card was put to use.
    CardActivated {
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// An active card was taken out of use for a while; it stays in circulation.
    CardSuspended {
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A suspended card was put back to use.
    CardReinstated {
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A card was ended for good and left circulation, unless it had expired before.
    CardRevoked {
        /// The status it had.
        from: Status,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A card's time was over and it left circulation.
    CardExpired {
        /// The status it had.
        from: Status,
        /// The moment it was due, which may be before it was recorded.
        at: DateTime<Utc>,
    },
    /// A card got a new end; an expired one is active and in circulation again.
    CardRenewed {
        /// The status it had.
        from: Status,
        /// The status it has now: `active` if it had expired, else unchanged.
        to: Status,
        /// The new end.
        expires_at: DateTime<Utc>,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A card left circulation in favour of another.
    CardReplaced {
        /// The status it had.
        from: Status,
        /// The card that took its place.
        by: CardId,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// The holder was corrected or changed.
    CardHolderUpdated {
        /// Who holds it now, whole: personal data.
        holder: Holder,
        /// When it happened.
        at: DateTime<Utc>,
    },
}

impl CardEvent {
    /// The event's name, as stored.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::CardIssued { .. } => "CardIssued",
            Self::CardActivated { .. } => "CardActivated",
            Self::CardSuspended { .. } => "CardSuspended",
            Self::CardReinstated { .. } => "CardReinstated",
            Self::CardRevoked { .. } => "CardRevoked",
            Self::CardExpired { .. } => "CardExpired",
            Self::CardRenewed { .. } => "CardRenewed",
            Self::CardReplaced { .. } => "CardReplaced",
            Self::CardHolderUpdated { .. } => "CardHolderUpdated",
        }
    }

    /// The version of the event's shape: the newest, the only one this code writes.
    pub const fn version(&self) -> &'static str {
        match self {
            Self::CardIssued { .. } => "2.0.0",
            Self::CardActivated { .. }
            | Self::CardSuspended { .. }
            | Self::CardReinstated { .. }
            | Self::CardRevoked { .. }
            | Self::CardExpired { .. }
            | Self::CardRenewed { .. }
            | Self::CardReplaced { .. }
            | Self::CardHolderUpdated { .. } => "1.0.0",
        }
    }

    /// When it happened.
    pub const fn at(&self) -> DateTime<Utc> {
        match self {
            Self::CardIssued { at, .. }
            | Self::CardActivated { at }
            | Self::CardSuspended { at }
            | Self::CardReinstated { at }
            | Self::CardRevoked { at, .. }
            | Self::CardExpired { at, .. }
            | Self::CardRenewed { at, .. }
            | Self::CardReplaced { at, .. }
            | Self::CardHolderUpdated { at, .. } => *at,
        }
    }
}

impl DomainEvent for CardEvent {
    fn event_type(&self) -> String {
        self.name().to_owned()
    }

    fn event_version(&self) -> String {
        self.version().to_owned()
    }
}
