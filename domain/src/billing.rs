//! What a tenant owes for a period, in quantities; prices are the biller's own.
//!
//! The rules, in plain English:
//!
//! - A **day** is a calendar day in UTC. A period is whole days, its first day included and the day
//!   it ends on not.
//! - **Plan days** are counted by started day: a day with any moment of service is one day, of the
//!   plan with the highest price level in service on that day (of several at one level, the highest
//!   rank). A plan that was replaced in the moment it began was never in service.
//!   The grace after a failed payment is service. A trial is given beside the plan and adds nothing.
//! - **Suspended days** are days on which the tenant was suspended and not served for one moment.
//!   They are listed, and are no plan days. A cancelled subscription has neither after its end.
//! - **Add-on days** are counted by started day too, once a day and feature: a day with any moment
//!   in which the add-on was in force and the tenant was served. An add-on ends at its own end,
//!   whether or not anything has recorded that; an override is part of the plan and not an add-on.
//! - **Cards issued** are all that came into being in the period, replacements among them.
//! - **The peak in circulation** is the most cards that were in circulation at one moment of the
//!   period, its first moment included.
//! - **Time** never goes back in a subscription, nor among a tenant's cards: what is recorded after
//!   something else happens, for billing, not before it (nodes' clocks differ, and an expiry is
//!   recorded after it was due). The two are not measured against each other: a downgrade due at
//!   midnight is of midnight, though a card was issued before it was recorded.
//!
//! There are two ways to a [`Bill`]: [`accountant`] makes it from what consumers of messages know,
//! [`recount`] from the ledger itself. They share these rules and no code beyond this file, so each
//! proves the other.

pub mod accountant;
pub mod recount;

use std::collections::BTreeMap;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};

use crate::catalogue::{FeatureSlug, PlanKey};

/// Whole days in UTC: from the first, which is included, to another, which is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    from: NaiveDate,
    to: NaiveDate,
}

/// The dates do not make a [`Period`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPeriod {
    /// There is no day in it.
    #[error("the period must end after the day it begins on")]
    Empty,
    /// There are too many.
    #[error("the period must not be longer than {} days", Period::DAYS_MAX)]
    TooLong,
    /// They are in no century that is billed.
    #[error("the period must be within the years 2000 to 2999")]
    Remote,
}

impl Period {
    /// The longest period, in days: a leap year.
    pub const DAYS_MAX: i64 = 366;

    /// The days from `from`, included, to `to`, not included.
    ///
    /// # Errors
    ///
    /// [`InvalidPeriod`].
    pub fn try_new(from: NaiveDate, to: NaiveDate) -> Result<Self, InvalidPeriod> {
        use chrono::Datelike;

        let billed = 2000..3000;
        if !billed.contains(&from.year()) || !billed.contains(&to.year()) {
            return Err(InvalidPeriod::Remote);
        }
        match (to - from).num_days() {
            ..=0 => Err(InvalidPeriod::Empty),
            1..=Self::DAYS_MAX => Ok(Self { from, to }),
            _ => Err(InvalidPeriod::TooLong),
        }
    }

    /// The first day.
    pub const fn from(self) -> NaiveDate {
        self.from
    }

    /// The day after the last.
    pub const fn to(self) -> NaiveDate {
        self.to
    }

    /// The first moment.
    pub fn start(self) -> DateTime<Utc> {
        midnight(self.from)
    }

    /// The moment after the last.
    pub fn end(self) -> DateTime<Utc> {
        midnight(self.to)
    }
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

/// The days that a stretch of time touches; none if it is empty. Its end is not part of it.
fn days_touched(start: DateTime<Utc>, end: DateTime<Utc>) -> impl Iterator<Item = NaiveDate> {
    let last = (end - TimeDelta::microseconds(1)).date_naive();
    let first = (start < end).then(|| start.date_naive());
    std::iter::successors(first, |day| day.checked_add_days(Days::new(1)))
        .take_while(move |day| *day <= last)
}

/// A plan as a biller sees it. In the order of what it costs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BilledPlan {
    /// The price level.
    pub price_level: u32,
    /// Its place among the plans.
    pub rank: u32,
    /// Its key: `free`.
    pub key: PlanKey,
}

/// What a tenant owes for a period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    /// Days by plan.
    pub plan_days: BTreeMap<BilledPlan, u64>,
    /// Days without any service because of a suspension.
    pub suspended_days: u64,
    /// Days by add-on.
    pub add_on_days: BTreeMap<FeatureSlug, u64>,
    /// Cards issued.
    pub cards_issued: u64,
    /// The most cards in circulation.
    pub peak_in_circulation: u64,
}

/// One line of an invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What is charged: `plan_days`, `suspended_days`, `add_on_days`, `cards_issued` or
    /// `peak_in_circulation`.
    pub charge: &'static str,
    /// The plan's key or the feature's slug, where there is one.
    pub item: Option<String>,
    /// The plan's price level, where there is one.
    pub price_level: Option<u32>,
    /// How many.
    pub quantity: u64,
}

impl Bill {
    /// The bill as lines, always in the same order. A line of nothing is left out.
    pub fn lines(&self) -> Vec<Line> {
        let plain = |charge, quantity| Line {
            charge,
            item: None,
            price_level: None,
            quantity,
        };
        let plans = self.plan_days.iter().map(|(plan, days)| Line {
            item: Some(plan.key.to_string()),
            price_level: Some(plan.price_level),
            ..plain("plan_days", *days)
        });
        let add_ons = self.add_on_days.iter().map(|(feature, days)| Line {
            item: Some(feature.to_string()),
            ..plain("add_on_days", *days)
        });
        plans
            .chain([plain("suspended_days", self.suspended_days)])
            .chain(add_ons)
            .chain([
                plain("cards_issued", self.cards_issued),
                plain("peak_in_circulation", self.peak_in_circulation),
            ])
            .filter(|line| line.quantity > 0)
            .collect()
    }
}
