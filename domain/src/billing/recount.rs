//! A tenant's bill, counted again from its ledger.
//!
//! Goes day by day and asks the subscription as it was, where the accountant goes from message to
//! message: the same rules by another way.

use std::collections::BTreeSet;

use chrono::{DateTime, Days, Utc};

use super::{Bill, BilledPlan, Period, midnight};
use crate::card::CardEvent;
use crate::catalogue::FeatureSlug;
use crate::event::Event;
use crate::subscription::{GrantKind, SubscriptionEvent, TenantSubscription};
use crate::usage::Usage;

/// Counts one tenant's events, all of them and in ledger order.
#[derive(Clone, Debug)]
pub struct Recount {
    period: Period,
    /// How far time has come in the subscription.
    now: DateTime<Utc>,
    /// How far time has come among the cards.
    cards_now: DateTime<Utc>,
    usage: Usage,
    /// The subscription from each moment on: as it was when the period began, and every change.
    subscriptions: Vec<(DateTime<Utc>, TenantSubscription)>,
    /// The most cards in circulation so far.
    peak: u64,
    /// The cards issued so far.
    issued: u64,
}

impl Recount {
    /// Begins before the first event.
    pub fn new(period: Period) -> Self {
        Self {
            period,
            now: DateTime::UNIX_EPOCH,
            cards_now: DateTime::UNIX_EPOCH,
            usage: Usage::default(),
            subscriptions: vec![(DateTime::UNIX_EPOCH, TenantSubscription::NotStarted)],
            peak: 0,
            issued: 0,
        }
    }

    /// Whether what comes later no longer matters, because it is after the period.
    pub fn is_over(&self) -> bool {
        self.now.min(self.cards_now) >= self.period.end()
    }

    /// Counts the next event.
    pub fn count(&mut self, event: &Event) {
        match event {
            Event::Card(card) => {
                if is_billed(event) {
                    self.pass_time_of_cards(card.at());
                }
                if self.cards_now < self.period.end() {
                    self.count_card(card);
                }
            }
            Event::Subscription(change) => {
                if is_billed(event) {
                    self.now = change.at().max(self.now);
                }
                if self.now < self.period.end() {
                    self.note(change);
                }
            }
            Event::Usage(_) | Event::Catalogue(_) => {}
        }
    }

    fn count_card(&mut self, event: &CardEvent) {
        let issued = self.usage.issued_total();
        self.usage.apply(event);
        if self.period.start() <= self.cards_now {
            self.issued += self.usage.issued_total() - issued;
        }
    }

    fn note(&mut self, event: &SubscriptionEvent) {
        let mut subscription = self.subscription().clone();
        subscription.evolve(event.clone());
        // Of what was before the period only the last is asked for.
        if self.now <= self.period.start() {
            self.subscriptions.clear();
        }
        self.subscriptions.push((self.now, subscription));
    }

    /// The bill.
    pub fn close(mut self) -> Bill {
        self.pass_time_of_cards(self.period.end());
        let mut bill = Bill {
            cards_issued: self.issued,
            peak_in_circulation: self.peak,
            ..Bill::default()
        };
        let days = std::iter::successors(Some(self.period.from()), |day| {
            day.checked_add_days(Days::new(1))
        });
        for day in days.take_while(|day| *day < self.period.to()) {
            let (start, end) = (midnight(day), midnight(day + Days::new(1)));
            self.on(start, end).charge(&mut bill);
        }
        bill
    }

    fn subscription(&self) -> &TenantSubscription {
        const NEVER: &TenantSubscription = &TenantSubscription::NotStarted;
        self.subscriptions.last().map_or(NEVER, |(_, last)| last)
    }

    /// No card moves until `at`: if that is a moment of the period, what is in circulation counts.
    fn pass_time_of_cards(&mut self, at: DateTime<Utc>) {
        let (from, period) = (self.cards_now, self.period);
        if from < at && at > period.start() && from < period.end() {
            self.peak = self.peak.max(self.usage.in_circulation());
        }
        self.cards_now = at.max(from);
    }

    /// What there was between two moments of one day.
    fn on(&self, start: DateTime<Utc>, end: DateTime<Utc>) -> Day {
        let mut day = Day::default();
        let ends = self.subscriptions.iter().skip(1).map(|(at, _)| *at);
        let ends = ends.chain([self.period.end().max(self.now)]);
        for ((from, subscription), to) in self.subscriptions.iter().zip(ends) {
            let from = start.max(*from);
            if from < end.min(to) {
                day.see(subscription, from);
            }
        }
        day
    }
}

/// Whether billing hears of it: an event that goes unheard must not move billing's time either.
const fn is_billed(event: &Event) -> bool {
    match event {
        Event::Subscription(event) => match event {
            SubscriptionEvent::SubscriptionStarted { .. }
            | SubscriptionEvent::PlanUpgraded { .. }
            | SubscriptionEvent::PlanDowngraded { .. }
            | SubscriptionEvent::AddOnGranted { .. }
            | SubscriptionEvent::AddOnRevoked { .. }
            | SubscriptionEvent::AddOnExpired { .. }
            | SubscriptionEvent::SubscriptionSuspended { .. }
            | SubscriptionEvent::SubscriptionReinstated { .. }
            | SubscriptionEvent::SubscriptionCancelled { .. } => true,
            SubscriptionEvent::PlanChangeScheduled { .. }
            | SubscriptionEvent::PlanChangeUnscheduled { .. }
            | SubscriptionEvent::TrialStarted { .. }
            | SubscriptionEvent::TrialExpired { .. }
            | SubscriptionEvent::TrialConverted { .. }
            | SubscriptionEvent::TrialCancelled { .. }
            | SubscriptionEvent::GraceSet { .. }
            | SubscriptionEvent::PaymentFailed { .. }
            | SubscriptionEvent::SubscriptionEnded { .. }
            | SubscriptionEvent::RepublishRequested { .. } => false,
        },
        Event::Usage(_) | Event::Catalogue(_) => false,
        Event::Card(event) => match event {
            CardEvent::CardIssued { .. }
            | CardEvent::CardRevoked { .. }
            | CardEvent::CardExpired { .. }
            | CardEvent::CardRenewed { .. }
            | CardEvent::CardReplaced { .. } => true,
            CardEvent::CardActivated { .. }
            | CardEvent::CardSuspended { .. }
            | CardEvent::CardReinstated { .. }
            | CardEvent::CardHolderUpdated { .. } => false,
        },
    }
}

/// What there was on one day.
#[derive(Default)]
struct Day {
    plans: BTreeSet<BilledPlan>,
    suspended: bool,
    add_ons: BTreeSet<FeatureSlug>,
}

impl Day {
    /// A subscription that is unchanged for some time from `from` on. Rights only end within it,
    /// so whatever is in force during it is in force at its first moment.
    fn see(&mut self, subscription: &TenantSubscription, from: DateTime<Utc>) {
        let terms = match subscription {
            TenantSubscription::NotStarted => return,
            TenantSubscription::Suspended { .. } => {
                self.suspended = true;
                return;
            }
            TenantSubscription::Active(terms) | TenantSubscription::InGrace { terms, .. } => terms,
            TenantSubscription::Cancelled { terms, ends_at }
            | TenantSubscription::Ended {
                terms,
                ended_at: ends_at,
            } => match from < *ends_at {
                true => terms,
                false => return,
            },
        };
        self.plans.insert(BilledPlan {
            price_level: terms.plan.price_level,
            rank: terms.plan.rank,
            key: terms.plan.key.clone(),
        });
        for (feature, granted) in &terms.grants {
            let grant = &granted.grant;
            let in_force = grant.expires_at.is_none_or(|end| from < end);
            if grant.kind == GrantKind::AddOn && in_force {
                self.add_ons.insert(feature.clone());
            }
        }
    }

    fn charge(self, bill: &mut Bill) {
        match self.plans.into_iter().next_back() {
            Some(dearest) => *bill.plan_days.entry(dearest).or_default() += 1,
            None => bill.suspended_days += u64::from(self.suspended),
        }
        for feature in self.add_ons {
            *bill.add_on_days.entry(feature).or_default() += 1;
        }
    }
}
