//! Trials: any plan, once, for some days; ended by the clock, by buying it, or by hand.

use domain::catalogue::{FeatureValue, feature};
use domain::entitlements::{Source, Standing};
use domain::subscription::{
    Attribution, Effective, SubscriptionCommand, SubscriptionEvent, SubscriptionRefusal,
    TenantSubscription,
};

use crate::examples::{
    add_on, day, granted, just_before, override_with, plan, started, suspended, upgraded,
};
use crate::given::{after, given};

/// A trial of the plan began on day 1, for fourteen days.
fn tried(key: &str) -> SubscriptionEvent {
    SubscriptionEvent::TrialStarted {
        plan: plan(key),
        ends_at: day(15),
        attribution: Attribution::default(),
        at: day(1),
    }
}

fn try_out(key: &str, n: i64) -> SubscriptionCommand {
    SubscriptionCommand::StartTrial {
        plan: plan(key),
        days: 14,
        at: day(n),
    }
}

fn expired() -> SubscriptionEvent {
    SubscriptionEvent::TrialExpired {
        plan: plan("enterprise").key,
        at: day(15),
    }
}

#[test]
fn a_trial_has_an_end_from_the_beginning() {
    given::<TenantSubscription>([started("free")])
        .when(try_out("enterprise", 1))
        .then([tried("enterprise")]);
}

#[test]
fn a_trial_lasts_one_to_365_days() {
    for (days, allowed) in [(0, false), (1, true), (365, true), (366, false)] {
        let decided = after::<TenantSubscription>([started("free")]).decide(
            SubscriptionCommand::StartTrial {
                plan: plan("pro"),
                days,
                at: day(1),
            },
        );
        let refusal = Err(SubscriptionRefusal::TrialDays);
        assert_eq!(decided != refusal, allowed, "{days}");
    }
}

#[test]
fn the_rights_of_the_trial_come_beside_those_of_the_plan_until_its_end_on_the_second() {
    let tenant: TenantSubscription = after([started("free"), tried("enterprise")]);
    let bulk = tenant.entitlement(feature::CARDS_BULK, day(2));
    let bulk = bulk.expect("of the trial");
    assert_eq!(bulk.source, Source::Trial);
    assert_eq!((bulk.since, bulk.expires_at), (Some(day(1)), Some(day(15))));
    assert_eq!(tenant.card_limit(just_before(day(15))), None);
    assert_eq!(tenant.price_level(just_before(day(15))), 2);
    assert_eq!(tenant.card_limit(day(15)), Some(500));
    assert_eq!(tenant.price_level(day(15)), 1);
    assert_eq!(tenant.entitlement(feature::CARDS_BULK, day(15)), None);
}

#[test]
fn a_trial_never_takes_away_from_the_plan_and_gives_way_to_an_override() {
    let tenant: TenantSubscription = after([started("pro"), tried("free")]);
    let limit = tenant.entitlement(feature::MAX_CARDS, day(2));
    let limit = limit.expect("a limit");
    assert_eq!(
        (limit.value, limit.source),
        (FeatureValue::Unlimited, Source::Plan)
    );
    assert_eq!(tenant.price_level(day(2)), 1);

    let grant = override_with(FeatureValue::Limit(3), None);
    let held: TenantSubscription = after([
        started("free"),
        granted(feature::MAX_CARDS, grant),
        tried("enterprise"),
    ]);
    assert_eq!(held.card_limit(day(2)), Some(3));
}

#[test]
fn a_right_that_is_paid_for_does_not_seem_to_end_with_the_trial() {
    let tenant: TenantSubscription = after([
        started("free"),
        granted(feature::CARDS_BULK, add_on(FeatureValue::On, None)),
        tried("enterprise"),
    ]);
    let bulk = tenant.entitlement(feature::CARDS_BULK, day(2));
    let bulk = bulk.expect("an add-on");
    assert_eq!((bulk.source, bulk.expires_at), (Source::AddOn, None));
}

#[test]
fn a_plan_is_tried_once_ever_however_the_trial_ended() {
    let plan_key = plan("enterprise").key;
    let used = SubscriptionRefusal::TrialUsed(plan_key.clone());
    let cancelled = SubscriptionEvent::TrialCancelled {
        plan: plan_key.clone(),
        at: day(3),
    };
    for end in [expired(), cancelled] {
        given::<TenantSubscription>([started("free"), tried("enterprise"), end])
            .when(try_out("enterprise", 400))
            .refused(used.clone());
    }
    let converted = SubscriptionEvent::TrialConverted {
        plan: plan_key,
        at: day(3),
    };
    let back = SubscriptionEvent::PlanDowngraded {
        from: plan("enterprise").key,
        to: plan("free"),
        attribution: Attribution::default(),
        at: day(40),
    };
    given::<TenantSubscription>([
        started("free"),
        tried("enterprise"),
        converted,
        upgraded("free", "enterprise", 3),
        back,
    ])
    .when(try_out("enterprise", 400))
    .refused(used);
}

#[test]
fn another_plan_may_be_tried_after_the_first() {
    given::<TenantSubscription>([started("free"), tried("enterprise"), expired()])
        .when(SubscriptionCommand::StartTrial {
            plan: plan("pro"),
            days: 1,
            at: day(20),
        })
        .then([SubscriptionEvent::TrialStarted {
            plan: plan("pro"),
            ends_at: day(21),
            attribution: Attribution::default(),
            at: day(20),
        }]);
}

#[test]
fn one_trial_runs_at_a_time_and_none_of_the_plan_one_has() {
    let running = SubscriptionRefusal::TrialRunning(plan("enterprise").key);
    for key in ["enterprise", "pro"] {
        given::<TenantSubscription>([started("free"), tried("enterprise")])
            .when(try_out(key, 2))
            .refused(running.clone());
    }
    given::<TenantSubscription>([started("pro")])
        .when(try_out("pro", 2))
        .refused(SubscriptionRefusal::AlreadyOnPlan(plan("pro").key));
}

#[test]
fn changing_to_the_tried_plan_converts_the_trial() {
    given::<TenantSubscription>([started("free"), tried("enterprise")])
        .when(SubscriptionCommand::ChangePlan {
            to: plan("enterprise"),
            effective: Effective::Now,
            at: day(3),
        })
        .then([
            SubscriptionEvent::TrialConverted {
                plan: plan("enterprise").key,
                at: day(3),
            },
            upgraded("free", "enterprise", 3),
        ]);
}

#[test]
fn changing_to_another_plan_leaves_the_trial_running() {
    let tenant: TenantSubscription = after([
        started("free"),
        tried("enterprise"),
        upgraded("free", "pro", 3),
    ]);
    assert!(tenant.trial(day(4)).is_some());
}

#[test]
fn a_change_scheduled_for_the_trials_end_converts_it_without_a_gap() {
    let mut tenant: TenantSubscription = after([started("free"), tried("enterprise")]);
    let scheduled = tenant.decide(SubscriptionCommand::ChangePlan {
        to: plan("enterprise"),
        effective: Effective::At(day(15)),
        at: day(3),
    });
    scheduled
        .expect("scheduled")
        .into_iter()
        .for_each(|event| tenant.evolve(event));
    assert_eq!(tenant.card_limit(day(15)), None);
    let recorded = tenant.decide(SubscriptionCommand::RecordDue { at: day(16) });
    let names: Vec<_> = recorded
        .iter()
        .flatten()
        .map(|event| (event.name(), event.at()))
        .collect();
    let expected = [("TrialConverted", day(15)), ("PlanUpgraded", day(15))];
    assert_eq!(names, expected);
}

#[test]
fn a_trial_can_be_ended_by_hand_as_long_as_it_runs() {
    let plan_key = plan("enterprise").key;
    let history = [started("free"), tried("enterprise")];
    given::<TenantSubscription>(history.clone())
        .when(SubscriptionCommand::CancelTrial { at: day(2) })
        .then([SubscriptionEvent::TrialCancelled {
            plan: plan_key,
            at: day(2),
        }]);
    given::<TenantSubscription>(history)
        .when(SubscriptionCommand::CancelTrial { at: day(15) })
        .refused(SubscriptionRefusal::NoTrial);
}

#[test]
fn a_trial_goes_on_in_time_while_the_subscription_is_suspended() {
    let tenant: TenantSubscription = after([started("free"), tried("enterprise"), suspended(2)]);
    assert_eq!(tenant.standing(day(3)), Standing::Suspended);
    given::<TenantSubscription>([started("free"), tried("enterprise"), suspended(2)])
        .when(SubscriptionCommand::Reinstate { at: day(20) })
        .then([
            expired(),
            SubscriptionEvent::SubscriptionReinstated { at: day(20) },
        ]);
}
