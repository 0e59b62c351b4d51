//! Plan changes to come, and the paid periods that they and cancellations wait for.

use chrono::{DateTime, Datelike, Months, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{Attribution, SubscriptionEvent, SubscriptionRefusal, TenantSubscription, Terms};
use crate::catalogue::PlanTerms;

/// How far ahead a change may be scheduled, in days: about two years.
pub const AHEAD_DAYS_MAX: u32 = 731;

/// When a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effective {
    /// With the command.
    Now,
    /// When the period that is paid for ends.
    PeriodEnd,
    /// At this moment, which lies in the future.
    At(DateTime<Utc>),
}

/// A plan change to come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduledChange {
    /// The new plan's terms.
    pub to: PlanTerms,
    /// When the plan changes.
    pub effective_at: DateTime<Utc>,
    /// When it was scheduled.
    pub scheduled_at: DateTime<Utc>,
    /// By whom, and why.
    #[serde(flatten)]
    pub attribution: Attribution,
}

/// A month that is paid for, from its start up to, and without, its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    /// When it began.
    pub start: DateTime<Utc>,
    /// When it ends and the next one begins.
    pub end: DateTime<Utc>,
}

impl Period {
    /// The calendar month that holds `now`, counted from `anchor`. Where a month has no such day,
    /// it is the month's last: after 31 January come 28 February and 31 March.
    pub fn holding(now: DateTime<Utc>, anchor: DateTime<Utc>) -> Self {
        let after = |months| {
            anchor
                .checked_add_months(Months::new(months))
                .unwrap_or(DateTime::<Utc>::MAX_UTC)
        };
        let months = |time: DateTime<Utc>| i64::from(time.year()) * 12 + i64::from(time.month0());
        let apart = u32::try_from(months(now) - months(anchor)).unwrap_or(0);
        let begun = match after(apart) <= now {
            true => apart,
            false => apart.saturating_sub(1),
        };
        Self {
            start: after(begun),
            end: after(begun + 1),
        }
    }
}

impl Terms {
    /// The period that is paid for at `now`.
    pub fn period(&self, now: DateTime<Utc>) -> Period {
        Period::holding(now, self.started_at)
    }

    /// The scheduled change, if its moment has come by `now`.
    pub(crate) fn due_change(&self, now: DateTime<Utc>) -> Option<&ScheduledChange> {
        let change = self.scheduled.as_ref();
        change.filter(|change| change.effective_at <= now)
    }

    /// The moment that is meant, asked at `at`.
    pub(super) fn moment(
        &self,
        effective: Effective,
        at: DateTime<Utc>,
    ) -> Result<DateTime<Utc>, SubscriptionRefusal> {
        let latest = at + TimeDelta::days(AHEAD_DAYS_MAX.into());
        match effective {
            Effective::Now => Ok(at),
            Effective::PeriodEnd => Ok(self.period(at).end),
            Effective::At(moment) if moment <= at => Err(SubscriptionRefusal::EffectiveNotInFuture),
            Effective::At(moment) if moment > latest => Err(SubscriptionRefusal::EffectiveTooFar),
            Effective::At(moment) => Ok(moment),
        }
    }

    /// What happens when the tenant goes over to another plan at `at`.
    pub(super) fn go_over(
        &self,
        to: PlanTerms,
        attribution: Attribution,
        at: DateTime<Utc>,
    ) -> Vec<SubscriptionEvent> {
        let from = self.plan.key.clone();
        let converted = self.conversion_to(&to.key, at);
        let changed = match to.rank < self.plan.rank {
            true => SubscriptionEvent::PlanDowngraded {
                from,
                to,
                attribution,
                at,
            },
            false => SubscriptionEvent::PlanUpgraded {
                from,
                to,
                attribution,
                at,
            },
        };
        converted.into_iter().chain([changed]).collect()
    }

    /// What happens when the plan gets newer terms at `at`. Those of the same plan that were to come,
    /// if no newer, would undo it and are off.
    pub(super) fn migrate(&self, to: PlanTerms, at: DateTime<Utc>) -> Vec<SubscriptionEvent> {
        if to.key != self.plan.key || to.version < self.plan.version {
            return vec![];
        }
        let outdated =
            |change: &ScheduledChange| change.to.key == to.key && change.to.version <= to.version;
        let superseded = match self.scheduled.as_ref().is_some_and(outdated) {
            true => self.unschedule(at).unwrap_or_default(),
            false => vec![],
        };
        let migrated = match to == self.plan {
            true => vec![],
            false => self.go_over(to, Attribution::default(), at),
        };
        [superseded, migrated].concat()
    }

    pub(super) fn unschedule(
        &self,
        at: DateTime<Utc>,
    ) -> Result<Vec<SubscriptionEvent>, SubscriptionRefusal> {
        match &self.scheduled {
            None => Err(SubscriptionRefusal::NothingScheduled),
            Some(change) => {
                let to = change.to.key.clone();
                Ok(vec![SubscriptionEvent::PlanChangeUnscheduled { to, at }])
            }
        }
    }
}

impl TenantSubscription {
    pub(super) fn change_plan(
        &self,
        terms: &Terms,
        to: PlanTerms,
        effective: Effective,
        at: DateTime<Utc>,
    ) -> Result<Vec<SubscriptionEvent>, SubscriptionRefusal> {
        let effective_at = terms.moment(effective, at)?;
        if to == terms.plan {
            // To stay on the plan is all that is left of a change that was to come.
            return Ok(terms.unschedule(at).unwrap_or_default());
        }
        let other = to.key != terms.plan.key;
        if to.price_level > terms.plan.price_level || (other && to.rank >= terms.plan.rank) {
            self.may_rise(at)?;
        }
        if effective == Effective::Now {
            // New terms of the same plan would leave what was to come.
            let superseded = match to.key == terms.plan.key {
                true => terms.unschedule(at).unwrap_or_default(),
                false => vec![],
            };
            let changed = terms.go_over(to, Attribution::default(), at);
            return Ok([superseded, changed].concat());
        }
        let same =
            |change: &ScheduledChange| change.to == to && change.effective_at == effective_at;
        if terms.scheduled.as_ref().is_some_and(same) {
            return Ok(vec![]);
        }
        Ok(vec![SubscriptionEvent::PlanChangeScheduled {
            to,
            effective_at,
            attribution: Attribution::default(),
            at,
        }])
    }
}
