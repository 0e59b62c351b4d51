//! How many cards a tenant has, and whether another may come into circulation.
//!
//! The ledger's head row keeps [`Usage`]; whoever holds the head's lock calls [`admit`] and
//! stores the result in the same transaction. That is the whole quota: there is no second place
//! that counts.

mod event;
pub mod thresholds;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::event::UsageEvent;
use crate::card::{CardEvent, Status};
use crate::entitlements::Standing;
use crate::subscription::TenantSubscription;

/// A tenant's cards by status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Issued, not yet in use.
    pub issued: u64,
    /// In use.
    pub active: u64,
    /// Out of use for a while.
    pub suspended: u64,
    /// Ended for good.
    pub revoked: u64,
    /// Their time is over.
    pub expired: u64,
    /// Another card took their place.
    pub replaced: u64,
}

impl Usage {
    /// The cards that take a place of the quota.
    pub const fn in_circulation(&self) -> u64 {
        self.issued + self.active + self.suspended
    }

    /// Every card ever issued.
    pub const fn issued_total(&self) -> u64 {
        self.in_circulation() + self.revoked + self.expired + self.replaced
    }

    /// The cards of one status.
    pub const fn of(&self, status: Status) -> u64 {
        match status {
            Status::Issued => self.issued,
            Status::Active => self.active,
            Status::Suspended => self.suspended,
            Status::Revoked => self.revoked,
            Status::Expired => self.expired,
            Status::Replaced => self.replaced,
        }
    }

    /// Counts one event.
    pub fn apply(&mut self, event: &CardEvent) {
        let (from, to) = movement(event);
        if let Some(from) = from {
            let count = self.of_mut(from);
            // Below zero only in a history that no accepted command has made.
            *count = count.saturating_sub(1);
        }
        if let Some(to) = to {
            *self.of_mut(to) += 1;
        }
    }

    fn of_mut(&mut self, status: Status) -> &mut u64 {
        match status {
            Status::Issued => &mut self.issued,
            Status::Active => &mut self.active,
            Status::Suspended => &mut self.suspended,
            Status::Revoked => &mut self.revoked,
            Status::Expired => &mut self.expired,
            Status::Replaced => &mut self.replaced,
        }
    }
}

/// From which status to which a card's event moves it; `None` where it was or is not counted,
/// both `None` where nothing moves.
pub const fn movement(event: &CardEvent) -> (Option<Status>, Option<Status>) {
    match event {
        CardEvent::CardIssued { .. } => (None, Some(Status::Issued)),
        CardEvent::CardActivated { .. } => (Some(Status::Issued), Some(Status::Active)),
        CardEvent::CardSuspended { .. } => (Some(Status::Active), Some(Status::Suspended)),
        CardEvent::CardReinstated { .. } => (Some(Status::Suspended), Some(Status::Active)),
        CardEvent::CardRevoked { from, .. } => (Some(*from), Some(Status::Revoked)),
        CardEvent::CardExpired { from, .. } => (Some(*from), Some(Status::Expired)),
        CardEvent::CardRenewed { from, to, .. } => (Some(*from), Some(*to)),
        CardEvent::CardReplaced { from, .. } => (Some(*from), Some(Status::Replaced)),
        CardEvent::CardHolderUpdated { .. } => (None, None),
    }
}

/// Why an append was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionRefusal {
    /// More cards would be in circulation than the tenant may have.
    #[error("{used} of {limit} cards are in circulation; {requested} more were requested")]
    QuotaExceeded {
        /// The most cards in circulation.
        limit: u64,
        /// The cards in circulation now; above `limit` after a downgrade.
        used: u64,
        /// How many more the append would bring into circulation.
        requested: u64,
    },
    /// The tenant's standing blocks what was asked for: no card may come into circulation.
    #[error("the subscription is not in good standing")]
    NotServed(Standing),
}

/// Decides whether the card events of one append may happen, at `now`, under `subscription`,
/// and what the counts are then.
///
/// What counts is the growth of the append as a whole: replacing a card is net zero, renewing an
/// expired card takes a place again. An append that does not grow circulation is always
/// admitted, also above the limit.
///
/// # Errors
///
/// An [`AdmissionRefusal`] if circulation would grow although the limit is reached or the tenant's
/// standing blocks it.
pub fn admit<'a>(
    usage: Usage,
    subscription: &TenantSubscription,
    events: impl IntoIterator<Item = &'a CardEvent>,
    now: DateTime<Utc>,
) -> Result<Usage, AdmissionRefusal> {
    let mut after = usage;
    for event in events {
        after.apply(event);
    }
    let used = usage.in_circulation();
    let requested = after.in_circulation().saturating_sub(used);
    if requested == 0 {
        return Ok(after);
    }
    let standing = subscription.standing(now);
    if standing.blocked().issuing {
        return Err(AdmissionRefusal::NotServed(standing));
    }
    match subscription.card_limit(now) {
        Some(limit) if after.in_circulation() > limit => Err(AdmissionRefusal::QuotaExceeded {
            limit,
            used,
            requested,
        }),
        Some(_) | None => Ok(after),
    }
}
