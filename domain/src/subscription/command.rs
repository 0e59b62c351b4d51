//! What may be asked of a subscription, and why it may say no.

use chrono::{DateTime, Utc};

use super::Grant;
use super::schedule::Effective;
use crate::catalogue::{FeatureSlug, PlanKey, PlanTerms};
use crate::entitlements::Standing;
use crate::ids::Position;

/// What may be asked of a subscription.
#[derive(Clone, Debug, PartialEq)]
pub enum SubscriptionCommand {
    /// Begin, on a plan.
    Start {
        /// The plan's terms.
        plan: PlanTerms,
        /// When.
        at: DateTime<Utc>,
    },
    /// Go over to another plan, or to another version of the same. There is one change to come at
    /// most: the newest takes the place of the one before, also if it is for now.
    ChangePlan {
        /// The new plan's terms.
        to: PlanTerms,
        /// When the plan changes.
        effective: Effective,
        /// When.
        at: DateTime<Utc>,
    },
    /// Bring the plan to a newer version of its terms. A change to another plan, or to a version
    /// that is newer still, comes all the same. Nothing, for a tenant that has gone over to another
    /// plan or has a newer version.
    MigratePlan {
        /// The same plan's newer terms.
        to: PlanTerms,
        /// When.
        at: DateTime<Utc>,
    },
    /// Stay on the plan, although a change was scheduled.
    UnschedulePlanChange {
        /// When.
        at: DateTime<Utc>,
    },
    /// Try a plan beside the one that is paid for; the more generous of the two counts. One
    /// trial a plan, ever, and one at a time. Changing to the plan meanwhile converts the trial.
    StartTrial {
        /// The tried plan's terms.
        plan: PlanTerms,
        /// How long, in days of 24 hours: 1 to [`super::trial::DAYS_MAX`].
        days: u32,
        /// When.
        at: DateTime<Utc>,
    },
    /// End the trial before its end.
    CancelTrial {
        /// When.
        at: DateTime<Utc>,
    },
    /// Grant a feature beside the plan; a second grant of the same feature replaces the first.
    GrantAddOn {
        /// Which.
        feature: FeatureSlug,
        /// How much of it, and how.
        grant: Grant,
        /// When.
        at: DateTime<Utc>,
    },
    /// Take a granted feature back.
    RevokeAddOn {
        /// Which.
        feature: FeatureSlug,
        /// When.
        at: DateTime<Utc>,
    },
    /// Give the tenant so much grace after each payment that fails from now on.
    SetGrace {
        /// How many days of 24 hours: 0 (suspended at once) to [`super::payment::GRACE_DAYS_MAX`].
        days: u32,
        /// When.
        at: DateTime<Utc>,
    },
    /// Begin the days of grace, after which the subscription is suspended. A failure while they
    /// run does not prolong them, and one while it is suspended changes nothing.
    FailPayment {
        /// How many days this time, as in [`Self::SetGrace`]; the tenant's own if nothing is said.
        grace_days: Option<u32>,
        /// When.
        at: DateTime<Utc>,
    },
    /// Stop service until reinstated.
    Suspend {
        /// When.
        at: DateTime<Utc>,
    },
    /// Resume service exactly as it was, or be in good standing again before the grace is over. A
    /// grace that the landlord's suspension had interrupted goes on; if it is over meanwhile, the
    /// subscription stays suspended, for the payment.
    Reinstate {
        /// When.
        at: DateTime<Utc>,
    },
    /// End the subscription, for good. One that is suspended ends at once: there is no service
    /// left to run out; one in grace ends with the grace at the latest. One that was cancelled
    /// may still be ended sooner, never later.
    Cancel {
        /// When service ends.
        effective: Effective,
        /// When.
        at: DateTime<Utc>,
    },
    /// Publish again what was published, whatever became of the subscription. That `from` is in
    /// the ledger is for the asker to see to.
    RequestRepublish {
        /// The position of the first event.
        from: Position,
        /// When.
        at: DateTime<Utc>,
    },
    /// Record what has happened by itself. Every other command does so too, before its own.
    RecordDue {
        /// When.
        at: DateTime<Utc>,
    },
}

impl SubscriptionCommand {
    /// When the command is given.
    pub const fn at(&self) -> DateTime<Utc> {
        match self {
            Self::Start { at, .. }
            | Self::ChangePlan { at, .. }
            | Self::MigratePlan { at, .. }
            | Self::UnschedulePlanChange { at }
            | Self::StartTrial { at, .. }
            | Self::CancelTrial { at }
            | Self::GrantAddOn { at, .. }
            | Self::RevokeAddOn { at, .. }
            | Self::SetGrace { at, .. }
            | Self::FailPayment { at, .. }
            | Self::Suspend { at }
            | Self::Reinstate { at }
            | Self::Cancel { at, .. }
            | Self::RequestRepublish { at, .. }
            | Self::RecordDue { at } => *at,
        }
    }
}

/// Why a subscription did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionRefusal {
    /// It has not begun.
    #[error("the subscription has not started")]
    NotStarted,
    /// It began before.
    #[error("the subscription has started already")]
    AlreadyStarted,
    /// It was ended, for good.
    #[error("the subscription was cancelled")]
    Cancelled,
    /// Who has not paid may change to less, not to more.
    #[error("who has not paid cannot have a higher plan: reinstate the subscription first")]
    PlanChangesBlocked(Standing),
    /// No plan change was scheduled.
    #[error("no plan change is scheduled")]
    NothingScheduled,
    /// The tenant has the plan already.
    #[error("the tenant is on the plan {0} already")]
    AlreadyOnPlan(PlanKey),
    /// The tenant has tried the plan before.
    #[error("the plan {0} was tried before, and there is one trial a plan")]
    TrialUsed(PlanKey),
    /// Another trial runs.
    #[error("a trial of the plan {0} is running")]
    TrialRunning(PlanKey),
    /// No trial runs.
    #[error("no trial is running")]
    NoTrial,
    /// The trial is too short or too long.
    #[error("a trial takes 1 to {} days", super::trial::DAYS_MAX)]
    TrialDays,
    /// The grace is too long.
    #[error("grace takes 0 to {} days", super::payment::GRACE_DAYS_MAX)]
    GraceDays,
    /// The feature was not granted beside the plan.
    #[error("the feature {0} was not granted beside the plan")]
    NotGranted(FeatureSlug),
    /// The asked end lies in the past.
    #[error("expires_at must lie in the future")]
    ExpiryNotInFuture,
    /// The asked moment lies in the past.
    #[error("effective must lie in the future")]
    EffectiveNotInFuture,
    /// The asked moment is too far off.
    #[error(
        "effective may lie {} days ahead at most",
        super::schedule::AHEAD_DAYS_MAX
    )]
    EffectiveTooFar,
}
