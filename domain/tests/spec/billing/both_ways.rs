//! A bill made by both ways, from what a biller hears and from the ledger, for any history.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use domain::billing::accountant::{Account, Accountant, Entry, Fact};
use domain::billing::recount::Recount;
use domain::billing::{Bill, BilledPlan, Period};
use domain::card::CardEvent;
use domain::catalogue::PlanTerms;
use domain::event::Event;
use domain::subscription::SubscriptionEvent;
use domain::usage::movement;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::period;
use crate::world::{World, asks};

fn billed(plan: &PlanTerms) -> BilledPlan {
    BilledPlan {
        price_level: plan.price_level,
        rank: plan.rank,
        key: plan.key.clone(),
    }
}

/// What a published event says to a biller; `None` where it hears nothing.
fn fact(event: &Event) -> Option<Fact> {
    use SubscriptionEvent as Of;

    Some(match event {
        Event::Card(event) => match event {
            CardEvent::CardActivated { .. }
            | CardEvent::CardSuspended { .. }
            | CardEvent::CardReinstated { .. }
            | CardEvent::CardHolderUpdated { .. } => return None,
            event => match movement(event) {
                (from, Some(to)) => Fact::CardMoved { from, to },
                (_, None) => return None,
            },
        },
        Event::Subscription(event) => match event {
            Of::SubscriptionStarted { plan, .. } => Fact::Started(billed(plan)),
            Of::PlanUpgraded { to, .. } | Of::PlanDowngraded { to, .. } => {
                Fact::PlanChanged(billed(to))
            }
            Of::AddOnGranted { feature, grant, .. } => Fact::Granted {
                feature: feature.clone(),
                kind: grant.kind,
                expires_at: grant.expires_at,
            },
            Of::AddOnRevoked { feature, .. } | Of::AddOnExpired { feature, .. } => {
                Fact::GrantRevoked(feature.clone())
            }
            Of::SubscriptionSuspended { .. } => Fact::Suspended,
            Of::SubscriptionReinstated { .. } => Fact::Reinstated,
            Of::SubscriptionCancelled { ends_at, .. } => Fact::Cancelled { ends_at: *ends_at },
            Of::PlanChangeScheduled { .. }
            | Of::PlanChangeUnscheduled { .. }
            | Of::TrialStarted { .. }
            | Of::TrialExpired { .. }
            | Of::TrialConverted { .. }
            | Of::TrialCancelled { .. }
            | Of::GraceSet { .. }
            | Of::PaymentFailed { .. }
            | Of::SubscriptionEnded { .. }
            | Of::RepublishRequested { .. } => return None,
        },
        Event::Usage(_) | Event::Catalogue(_) => return None,
    })
}

/// What a biller hears of a ledger.
pub fn heard<'a>(ledger: impl IntoIterator<Item = &'a Event>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (sequence, event) in (1..).zip(ledger) {
        if let Some(fact) = fact(event) {
            entries.push(Entry {
                sequence,
                at: event.at(),
                fact,
            });
        }
    }
    entries
}

pub fn account(period: Period, entries: &[Entry]) -> Account {
    let mut accountant = Accountant::new(period);
    for entry in entries {
        accountant.enter(entry);
    }
    accountant.close()
}

pub fn recounted<'a>(period: Period, ledger: impl IntoIterator<Item = &'a Event>) -> Bill {
    let mut recount = Recount::new(period);
    for event in ledger {
        recount.count(event);
    }
    recount.close()
}

/// Gives every plan a price level of its own, and the clocks some difference.
fn disturbed(mut ledger: Vec<Event>, hours: &[i64]) -> Vec<Event> {
    use SubscriptionEvent as Of;

    for (event, hours) in ledger.iter_mut().zip(hours.iter().cycle()) {
        let back = TimeDelta::hours(*hours);
        match event {
            Event::Subscription(
                Of::SubscriptionStarted { plan: to, at, .. }
                | Of::PlanUpgraded { to, at, .. }
                | Of::PlanDowngraded { to, at, .. },
            ) => {
                to.price_level = to.rank / 2 + 1;
                *at -= back;
            }
            Event::Subscription(
                Of::SubscriptionSuspended { at, .. } | Of::SubscriptionReinstated { at },
            )
            | Event::Card(
                CardEvent::CardIssued { at, .. }
                | CardEvent::CardActivated { at }
                | CardEvent::CardRevoked { at, .. },
            ) => *at -= back,
            _ => {}
        }
    }
    ledger
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_bill_from_messages_is_the_bill_from_the_ledger(
        asks in asks(),
        from in 1..40_u32,
        days in 1..40_u32,
        hours in prop::collection::vec(-2..3_i64, 1..8),
    ) {
        let mut world = World::new();
        for ask in &asks {
            world.step(ask);
        }
        let ledger = world.ledger.into_iter().map(|(_, event)| event).collect();
        let ledger = disturbed(ledger, &hours);
        let period = period(from, from + days);
        let account = account(period, &heard(&ledger));
        prop_assert_eq!(&account.doubts, &[]);
        prop_assert_eq!(&account.bill, &recounted(period, &ledger));
        let counted: u64 = account.bill.plan_days.values().sum();
        prop_assert!(counted + account.bill.suspended_days <= u64::from(days));
    }
}

#[test]
fn the_histories_above_meet_every_kind_of_charge() {
    let mut runner = TestRunner::deterministic();
    let mut met = BTreeSet::new();
    for _ in 0..64 {
        let mut world = World::new();
        for ask in &asks().new_tree(&mut runner).expect("a sequence").current() {
            world.step(ask);
        }
        let ledger: Vec<Event> = world.ledger.into_iter().map(|(_, event)| event).collect();
        let lines = recounted(period(10, 40), &ledger).lines();
        met.extend(lines.into_iter().map(|line| line.charge));
    }
    assert_eq!(met.len(), 5, "{met:?}");
}
