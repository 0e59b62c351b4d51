//! When a payment fails: some days of grace, then suspension, until the tenant is reinstated.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    Effective, SubscriptionEvent, SubscriptionRefusal, SuspensionCause, TenantSubscription, Terms,
};

/// The days of grace where nothing else is said.
pub const GRACE_DAYS: u32 = 14;
/// The longest grace, in days.
pub const GRACE_DAYS_MAX: u32 = 90;

impl TenantSubscription {
    /// Refuses more than there is to a tenant that has not paid for it.
    pub(super) fn may_rise(&self, at: DateTime<Utc>) -> Result<(), SubscriptionRefusal> {
        let standing = self.standing(at);
        match standing.blocked().plan_changes {
            true => Err(SubscriptionRefusal::PlanChangesBlocked(standing)),
            false => Ok(()),
        }
    }

    pub(super) fn fail_payment(
        &self,
        terms: &Terms,
        grace_days: Option<u32>,
        at: DateTime<Utc>,
    ) -> Result<Vec<SubscriptionEvent>, SubscriptionRefusal> {
        let grace_days = allowed(grace_days.unwrap_or(terms.grace_days))?;
        Ok(match self {
            Self::Active(_) => vec![SubscriptionEvent::PaymentFailed {
                grace_ends_at: at + TimeDelta::days(grace_days.into()),
                at,
            }],
            // A biller that reports the same failure again must not prolong the grace.
            Self::InGrace { .. } | Self::Suspended { .. } => vec![],
            Self::NotStarted | Self::Cancelled { .. } | Self::Ended { .. } => vec![],
        })
    }

    pub(super) fn suspend(&self, at: DateTime<Utc>) -> Vec<SubscriptionEvent> {
        match self {
            Self::Suspended { .. } => vec![],
            _ => vec![SubscriptionEvent::SubscriptionSuspended {
                cause: SuspensionCause::Landlord,
                at,
            }],
        }
    }

    /// Back to exactly what was: who had not paid when the landlord suspended it still has not, and
    /// stays suspended for that if the grace is over by now.
    pub(super) fn reinstate(&self, at: DateTime<Utc>) -> Vec<SubscriptionEvent> {
        match self {
            Self::Suspended { .. } if self.remembered_grace().is_some_and(|end| end <= at) => {
                vec![SubscriptionEvent::SubscriptionSuspended {
                    cause: SuspensionCause::Payment,
                    at,
                }]
            }
            Self::InGrace { .. } | Self::Suspended { .. } => {
                vec![SubscriptionEvent::SubscriptionReinstated { at }]
            }
            _ => vec![],
        }
    }

    /// The end of the grace that a suspension interrupts, if it is not for the payment itself.
    pub(super) const fn interrupted_grace(&self, cause: SuspensionCause) -> Option<DateTime<Utc>> {
        match (self, cause) {
            (Self::InGrace { ends_at, .. }, SuspensionCause::Landlord) => Some(*ends_at),
            _ => None,
        }
    }

    /// The end of the grace that the suspension has interrupted.
    pub(super) const fn remembered_grace(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Suspended { grace_ends_at, .. } => *grace_ends_at,
            _ => None,
        }
    }

    /// When service ends that was cancelled at `at`, for one that runs.
    pub(super) fn cancel(
        &self,
        terms: &Terms,
        effective: Effective,
        at: DateTime<Utc>,
    ) -> Result<Vec<SubscriptionEvent>, SubscriptionRefusal> {
        let asked = terms.moment(effective, at)?;
        let ends_at = match self {
            // A later end would put a tenant that did not pay back into service until then.
            Self::Suspended { .. } => at,
            Self::InGrace { ends_at, .. } => asked.min(*ends_at),
            // Nothing comes back: an end that is set only comes nearer.
            Self::Cancelled { ends_at, .. } if asked >= *ends_at => return Ok(vec![]),
            _ => asked,
        };
        Ok(vec![SubscriptionEvent::SubscriptionCancelled {
            ends_at,
            at,
        }])
    }
}

impl Terms {
    pub(super) fn set_grace(
        &self,
        days: u32,
        at: DateTime<Utc>,
    ) -> Result<Vec<SubscriptionEvent>, SubscriptionRefusal> {
        let days = allowed(days)?;
        Ok(match days == self.grace_days {
            true => vec![],
            false => vec![SubscriptionEvent::GraceSet { days, at }],
        })
    }
}

const fn allowed(grace_days: u32) -> Result<u32, SubscriptionRefusal> {
    match grace_days {
        0..=GRACE_DAYS_MAX => Ok(grace_days),
        _ => Err(SubscriptionRefusal::GraceDays),
    }
}
