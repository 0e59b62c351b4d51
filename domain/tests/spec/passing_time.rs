//! What holds for any subscription as time passes, whoever asks what of it and in which order.

use chrono::{DateTime, TimeDelta, Utc};
use domain::catalogue::{FeatureValue, feature};
use domain::entitlements::{Source, Standing};
use domain::subscription::{Grant, GrantKind, SubscriptionCommand};
use proptest::prelude::*;

use crate::examples::{day, slug};
use crate::world::{Ask, SubscriptionAsk, World, asks, subscription_ask};

/// What a biller sends: after some hours or at the same instant, with the version that it has
/// seen or without, perhaps again.
type Sent = (i64, SubscriptionAsk, Option<usize>);

fn sent() -> impl Strategy<Value = Vec<Sent>> {
    let hours = prop_oneof![2 => Just(0_i64), 1 => 1..200_i64];
    let seen = prop::option::of(0..40_usize);
    prop::collection::vec((hours, subscription_ask(), seen), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn rights_by_the_clock_are_those_that_the_record_then_shows(
        asks in asks(),
        hours in 0..2_000_i64,
    ) {
        let mut world = World::new();
        asks.iter().for_each(|ask| world.step(ask));
        let by_the_clock = world.subscription.clone();
        let later = world.now + TimeDelta::hours(hours);
        world.tell(SubscriptionCommand::RecordDue { at: later });
        let recorded = &world.subscription;
        prop_assert_eq!(by_the_clock.standing(later), recorded.standing(later));
        prop_assert_eq!(by_the_clock.price_level(later), recorded.price_level(later));
        prop_assert_eq!(by_the_clock.card_limit(later), recorded.card_limit(later));
        prop_assert_eq!(by_the_clock.trial(later), recorded.trial(later));
        // After the end nothing is recorded any more.
        if recorded.standing(later) != Standing::Ended {
            prop_assert_eq!(by_the_clock.entitlements(later), recorded.entitlements(later));
        }
        prop_assert!(recorded.next_due().is_none_or(|due| later < due));
    }

    #[test]
    fn what_is_due_is_recorded_once_in_order_and_with_its_moment(asks in asks()) {
        let mut world = World::new();
        for (wait, ask) in &asks {
            let before = world.subscription.clone();
            world.step(&(*wait, ask.clone()));
            if let Ask::Subscription(SubscriptionAsk::RecordDue) = ask {
                let at = world.now;
                let again = world.subscription.decide(SubscriptionCommand::RecordDue { at });
                prop_assert_eq!(again, Ok(vec![]));
            }
            let recorded = before.decide(SubscriptionCommand::RecordDue { at: world.now });
            let moments: Vec<_> = recorded.iter().flatten().map(|event| event.at()).collect();
            prop_assert!(moments.is_sorted(), "{moments:?}");
            prop_assert!(moments.iter().all(|moment| *moment <= world.now));
            prop_assert_eq!(moments.first().copied(), before.next_due().filter(|due| *due <= world.now));
        }
    }

    #[test]
    fn a_cancelled_subscription_is_never_resurrected(sent in sent()) {
        let mut world = World::new();
        let mut end: Option<DateTime<Utc>> = None;
        for (hours, ask, seen) in sent {
            world.now += TimeDelta::hours(hours);
            let versions = world.ledger.len();
            let plan = world.subscription.terms().map(|terms| terms.plan_at(world.now).clone());
            // `If-Match`: whoever has not seen the newest version is refused.
            if seen.is_none_or(|seen| seen == versions) {
                world.tell(ask.at(world.now));
            }
            if let Some(end) = end {
                let now = world.subscription.end();
                prop_assert!(now.is_some_and(|now| now <= end), "{now:?} after {end}");
                for later in [end, end + TimeDelta::days(400)] {
                    prop_assert_eq!(world.subscription.standing(later), Standing::Ended);
                }
                let after = world.subscription.terms().map(|terms| &terms.plan);
                prop_assert_eq!(after, plan.as_ref());
            }
            end = world.subscription.end();
        }
    }

    #[test]
    fn overlays_compose(
        rank in 0..3_u32,
        of_plan in 0..9_u64,
        grant in prop::option::of((0..9_u64, any::<bool>(), prop::option::of(1..20_i64))),
        trial in prop::option::of(1..20_u32),
        at in 0..30_i64,
    ) {
        let mut world = World::new();
        world.now = day(0);
        let tell = |world: &mut World, ask: SubscriptionAsk| world.tell(ask.at(day(0)));
        let now_on = crate::world::When::Now;
        tell(&mut world, SubscriptionAsk::ChangePlan(rank, FeatureValue::Limit(of_plan), now_on));
        if let Some(days) = trial {
            tell(&mut world, SubscriptionAsk::StartTrial((rank + 1) % 3, days));
        }
        if let Some((value, overrides, days)) = grant {
            world.tell(SubscriptionCommand::GrantAddOn {
                feature: slug(feature::MAX_CARDS),
                grant: Grant {
                    value: FeatureValue::Limit(value),
                    kind: if overrides { GrantKind::Override } else { GrantKind::AddOn },
                    expires_at: days.map(day),
                },
                at: day(0),
            });
        }
        let now = day(at);
        let granted = grant.filter(|(_, _, days)| days.is_none_or(|days| at < days));
        // The limit of every trial here is 5.
        let tried = trial.filter(|days| at < i64::from(*days)).map(|_| 5);
        let add_on = granted.filter(|(_, overrides, _)| !overrides).map(|(value, ..)| value);
        let (value, source) = match granted {
            Some((value, true, _)) => (value, Source::Override),
            _ => {
                let most = of_plan.max(tried.unwrap_or(0)).max(add_on.unwrap_or(0));
                let source = match most {
                    most if most == of_plan => Source::Plan,
                    most if Some(most) == add_on => Source::AddOn,
                    _ => Source::Trial,
                };
                (most, source)
            }
        };
        let right = world.subscription.entitlement(feature::MAX_CARDS, now).expect("a right");
        prop_assert_eq!((right.value, right.source), (FeatureValue::Limit(value), source));
        prop_assert_eq!(world.subscription.value(feature::MAX_CARDS, now), Some(right.value));
        prop_assert!(right.expires_at.is_none_or(|end| now < end));
        prop_assert!(right.since.is_some_and(|since| since <= now));
    }
}
