//! When to tell that a tenant comes near its limit: a process manager, events in, events out.
//!
//! A threshold is reached when the cards in circulation come to it from below, because there are
//! more of them or because the limit fell. It is told once; it can be reached again after they
//! were below it, because there were fewer of them or because the limit rose.
//!
//! What is appended together counts together: a card that is replaced makes room for nobody but the
//! one that takes its place. Only the order of events tells what belongs together, so an event that
//! is never the last of its append reaches nothing and leaves nothing.
//!
//! Everything follows from the events and the times at which they were recorded, so whoever follows
//! a ledger again comes to the same. Those times are of several nodes' clocks and may go back a
//! little from one event to the next; what has ended by the latest of them stays ended.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Usage, UsageEvent};
use crate::card::{CardEvent, Status};
use crate::event::Event;
use crate::subscription::{SubscriptionEvent, TenantSubscription};

/// The parts of the limit that are told, in percent.
pub const THRESHOLDS: [u32; 3] = [80, 90, 100];

/// What has to be known of a ledger to tell when a threshold is reached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    usage: Usage,
    subscription: TenantSubscription,
    /// The highest threshold that the usage is at or above; 0 if it is below all of them.
    level: u32,
    /// The same, before the last event.
    level_before: u32,
    /// The latest time at which an event was recorded.
    #[serde(default)]
    latest: DateTime<Utc>,
    /// When the last event was recorded, if it was the end of a card's time: a renewal may follow
    /// in the same append.
    #[serde(default)]
    just_expired: Option<DateTime<Utc>>,
}

impl Thresholds {
    /// Follows one event, recorded at `at`.
    pub fn evolve(&mut self, event: &Event, at: DateTime<Utc>) {
        match event {
            Event::Card(event) => self.usage.apply(event),
            Event::Subscription(event) => self.subscription.evolve(event.clone()),
            Event::Catalogue(_) | Event::Usage(_) => {}
        }
        self.latest = self.latest.max(at);
        let renewed_at_once = matches!(
            event,
            Event::Card(CardEvent::CardRenewed {
                from: Status::Expired,
                ..
            })
        ) && self.just_expired == Some(at);
        let expired = matches!(event, Event::Card(CardEvent::CardExpired { .. }));
        self.just_expired = expired.then_some(at);
        // Of what is appended together, the level before the first counts.
        if !renewed_at_once {
            self.level_before = self.level;
        }
        if is_followed_by_another(event) {
            return;
        }
        self.level = level(
            self.usage.in_circulation(),
            self.subscription.card_limit(self.latest),
        );
    }

    /// What the last event has reached: the lowest threshold first.
    pub fn decide(&self) -> Vec<UsageEvent> {
        let at = self.latest;
        let Some(limit) = self.subscription.card_limit(at) else {
            return vec![];
        };
        THRESHOLDS
            .into_iter()
            .filter(|percent| (self.level_before + 1..=self.level).contains(percent))
            .map(|percent| UsageEvent::UsageThresholdReached {
                percent,
                used: self.usage.in_circulation(),
                limit,
                at,
            })
            .collect()
    }

    /// The highest threshold that the usage is at or above, in percent; 0 if it is below all.
    pub const fn level(&self) -> u32 {
        self.level
    }
}

/// Whether more is always appended together with it: the card that takes the place of a replaced one,
/// the plan that a trial was converted to.
const fn is_followed_by_another(event: &Event) -> bool {
    matches!(
        event,
        Event::Card(CardEvent::CardReplaced { .. })
            | Event::Subscription(SubscriptionEvent::TrialConverted { .. })
    )
}

/// Without a limit there is no part of it; and where nothing is used, none is reached.
fn level(used: u64, limit: Option<u64>) -> u32 {
    let Some(limit) = limit.filter(|_| used > 0) else {
        return 0;
    };
    let is_reached =
        |percent: &u32| u128::from(used) * 100 >= u128::from(limit) * u128::from(*percent);
    THRESHOLDS.into_iter().rfind(is_reached).unwrap_or(0)
}
