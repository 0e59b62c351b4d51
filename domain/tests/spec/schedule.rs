//! Plan changes to come, paid periods, and cancellations that honour them.

use chrono::{DateTime, TimeDelta, Utc};
use domain::catalogue::{PlanTerms, feature};
use domain::entitlements::Standing;
use domain::subscription::schedule::Period;
use domain::subscription::{
    Attribution, Effective, SubscriptionCommand, SubscriptionEvent, SubscriptionRefusal,
    TenantSubscription,
};

use crate::examples::{day, just_before, plan, started, suspended, upgraded};
use crate::given::{after, given};

fn time(text: &str) -> DateTime<Utc> {
    text.parse().expect("RFC 3339")
}

fn change(key: &str, effective: Effective, n: i64) -> SubscriptionCommand {
    SubscriptionCommand::ChangePlan {
        to: plan(key),
        effective,
        at: day(n),
    }
}

fn scheduled(key: &str, effective_at: DateTime<Utc>, n: i64) -> SubscriptionEvent {
    SubscriptionEvent::PlanChangeScheduled {
        to: plan(key),
        effective_at,
        attribution: Attribution::default(),
        at: day(n),
    }
}

fn downgraded(from: &str, to: &str, n: i64) -> SubscriptionEvent {
    SubscriptionEvent::PlanDowngraded {
        from: plan(from).key,
        to: plan(to),
        attribution: Attribution::default(),
        at: day(n),
    }
}

fn cancelled(ends_at: DateTime<Utc>, n: i64) -> SubscriptionEvent {
    SubscriptionEvent::SubscriptionCancelled {
        ends_at,
        at: day(n),
    }
}

#[test]
fn periods_are_calendar_months_from_the_beginning_of_the_subscription() {
    let anchor = time("2026-01-31T09:30:00Z");
    for (now, start, end) in [
        (
            "2026-01-31T09:30:00Z",
            "2026-01-31T09:30:00Z",
            "2026-02-28T09:30:00Z",
        ),
        (
            "2026-02-28T09:29:59Z",
            "2026-01-31T09:30:00Z",
            "2026-02-28T09:30:00Z",
        ),
        (
            "2026-02-28T09:30:00Z",
            "2026-02-28T09:30:00Z",
            "2026-03-31T09:30:00Z",
        ),
        (
            "2026-03-30T23:00:00Z",
            "2026-02-28T09:30:00Z",
            "2026-03-31T09:30:00Z",
        ),
        (
            "2028-02-29T12:00:00Z",
            "2028-02-29T09:30:00Z",
            "2028-03-31T09:30:00Z",
        ),
        (
            "2026-12-31T10:00:00Z",
            "2026-12-31T09:30:00Z",
            "2027-01-31T09:30:00Z",
        ),
    ] {
        let period = Period::holding(time(now), anchor);
        assert_eq!(period.start, time(start), "{now}");
        assert_eq!(period.end, time(end), "{now}");
    }
}

#[test]
fn a_clock_that_was_set_back_is_in_the_first_period() {
    let anchor = time("2026-05-10T00:00:00Z");
    let period = Period::holding(time("2026-01-01T00:00:00Z"), anchor);
    assert_eq!(period.start, anchor);
}

/// The newest terms of the plan.
fn newer(key: &str) -> PlanTerms {
    PlanTerms {
        version: 2,
        ..plan(key)
    }
}

fn renewed(key: &str, n: i64) -> SubscriptionEvent {
    SubscriptionEvent::PlanUpgraded {
        from: plan(key).key,
        to: newer(key),
        attribution: Attribution::default(),
        at: day(n),
    }
}

#[test]
fn new_terms_of_the_same_plan_leave_the_change_to_come() {
    let history = [started("enterprise"), scheduled("free", day(31), 3)];
    given::<TenantSubscription>(history.clone())
        .when(SubscriptionCommand::MigratePlan {
            to: newer("enterprise"),
            at: day(5),
        })
        .then([renewed("enterprise", 5)]);
    let migrated: TenantSubscription = after(history.into_iter().chain([renewed("enterprise", 5)]));
    assert_eq!(migrated.next_due(), Some(day(31)));
    assert_eq!(migrated.card_limit(day(31)), Some(500));
}

#[test]
fn new_terms_of_the_same_plan_are_not_undone_by_older_ones_that_were_to_come() {
    let version = |version| PlanTerms {
        version,
        ..plan("pro")
    };
    let to_come = |version_to_come| SubscriptionEvent::PlanChangeScheduled {
        to: version(version_to_come),
        effective_at: day(31),
        attribution: Attribution::default(),
        at: day(3),
    };
    let migrate_to = |to| SubscriptionCommand::MigratePlan {
        to: version(to),
        at: day(5),
    };
    let taken_off = SubscriptionEvent::PlanChangeUnscheduled {
        to: plan("pro").key,
        at: day(5),
    };
    let migrated_to = |to| SubscriptionEvent::PlanUpgraded {
        from: plan("pro").key,
        to: version(to),
        attribution: Attribution::default(),
        at: day(5),
    };
    for outdated in [2, 3] {
        given::<TenantSubscription>([started("pro"), to_come(outdated)])
            .when(migrate_to(3))
            .then([taken_off.clone(), migrated_to(3)]);
    }
    let migrated = [started("pro"), migrated_to(3), to_come(2)];
    given::<TenantSubscription>(migrated.clone())
        .when(migrate_to(3))
        .then([taken_off]);
    // What is newer than both still comes.
    given::<TenantSubscription>([started("pro"), to_come(4)])
        .when(migrate_to(3))
        .then([migrated_to(3)]);
    // And nobody is brought back.
    given::<TenantSubscription>(migrated)
        .when(migrate_to(2))
        .then_nothing();
}

#[test]
fn to_choose_the_same_plan_anew_takes_the_place_of_the_change_to_come() {
    given::<TenantSubscription>([started("enterprise"), scheduled("free", day(31), 3)])
        .when(SubscriptionCommand::ChangePlan {
            to: newer("enterprise"),
            effective: Effective::Now,
            at: day(5),
        })
        .then([
            SubscriptionEvent::PlanChangeUnscheduled {
                to: plan("free").key,
                at: day(5),
            },
            renewed("enterprise", 5),
        ]);
}

#[test]
fn new_terms_of_the_same_plan_can_be_what_is_to_come() {
    let to_come = SubscriptionEvent::PlanChangeScheduled {
        to: newer("pro"),
        effective_at: day(31),
        attribution: Attribution::default(),
        at: day(3),
    };
    given::<TenantSubscription>([started("pro"), to_come])
        .when(SubscriptionCommand::RecordDue { at: day(40) })
        .then([renewed("pro", 31)]);
}

#[test]
fn new_terms_are_nothing_to_who_has_gone_over_to_another_plan() {
    given::<TenantSubscription>([started("pro")])
        .when(SubscriptionCommand::MigratePlan {
            to: newer("free"),
            at: day(5),
        })
        .then([]);
}

#[test]
fn a_change_at_the_periods_end_is_scheduled_and_nothing_changes_before() {
    // The first period is January's, 31 days from day 0.
    given::<TenantSubscription>([started("enterprise")])
        .when(change("free", Effective::PeriodEnd, 3))
        .then([scheduled("free", day(31), 3)]);
    let tenant: TenantSubscription = after([started("enterprise"), scheduled("free", day(31), 3)]);
    let before = just_before(day(31));
    assert_eq!(
        (tenant.price_level(before), tenant.card_limit(before)),
        (2, None)
    );
    assert_eq!(
        (tenant.price_level(day(31)), tenant.card_limit(day(31))),
        (1, Some(500))
    );
}

#[test]
fn rights_say_when_a_scheduled_change_takes_them_away_and_since_when_they_are_there() {
    let tenant: TenantSubscription = after([started("enterprise"), scheduled("free", day(31), 3)]);
    let right = |slug, now| tenant.entitlement(slug, now).expect("a right");
    assert_eq!(right(feature::CARDS_BULK, day(4)).expires_at, Some(day(31)));
    assert_eq!(right(feature::MAX_CARDS, day(4)).expires_at, Some(day(31)));
    assert_eq!(right(feature::CARDS_LIFECYCLE, day(4)).expires_at, None);
    let limit = right(feature::MAX_CARDS, day(31));
    assert_eq!((limit.since, limit.expires_at), (Some(day(31)), None));
}

#[test]
fn what_was_scheduled_is_recorded_with_its_moment_before_anything_else_happens() {
    given::<TenantSubscription>([started("pro"), scheduled("free", day(31), 3)])
        .when(SubscriptionCommand::Suspend { at: day(40) })
        .then([downgraded("pro", "free", 31), suspended(40)]);
}

#[test]
fn whether_it_is_an_upgrade_is_seen_from_the_plan_at_the_moment() {
    let tenant: TenantSubscription = after([started("free"), scheduled("enterprise", day(9), 3)]);
    let recorded = tenant.decide(SubscriptionCommand::RecordDue { at: day(9) });
    assert_eq!(recorded, Ok(vec![upgraded("free", "enterprise", 9)]));
}

#[test]
fn a_moment_must_lie_in_the_future_and_not_too_far() {
    let refusal = |moment| {
        let tenant: TenantSubscription = after([started("pro")]);
        tenant
            .decide(change("free", Effective::At(moment), 3))
            .err()
    };
    let past = Some(SubscriptionRefusal::EffectiveNotInFuture);
    assert_eq!(refusal(day(2)), past);
    assert_eq!(refusal(day(3)), past);
    assert_eq!(refusal(day(3 + 731)), None);
    let further = day(3 + 731) + TimeDelta::microseconds(1);
    assert_eq!(refusal(further), Some(SubscriptionRefusal::EffectiveTooFar));
}

#[test]
fn the_newest_change_takes_the_place_of_the_one_to_come() {
    let history = [started("enterprise"), scheduled("free", day(31), 3)];
    given::<TenantSubscription>(history.clone())
        .when(change("pro", Effective::At(day(20)), 4))
        .then([scheduled("pro", day(20), 4)]);
    let second: TenantSubscription = after(history.clone().into_iter().chain([scheduled(
        "pro",
        day(20),
        4,
    )]));
    let recorded = second.decide(SubscriptionCommand::RecordDue { at: day(50) });
    assert_eq!(recorded, Ok(vec![downgraded("enterprise", "pro", 20)]));

    // One for now does, too.
    let now: TenantSubscription = after(history.into_iter().chain([downgraded(
        "enterprise",
        "pro",
        4,
    )]));
    assert_eq!(now.next_due(), None);
    assert_eq!(now.price_level(day(50)), 1);
}

#[test]
fn the_same_change_again_is_the_same() {
    given::<TenantSubscription>([started("pro"), scheduled("free", day(31), 3)])
        .when(change("free", Effective::PeriodEnd, 4))
        .then_nothing();
}

#[test]
fn a_change_to_come_can_be_taken_off() {
    let off = SubscriptionEvent::PlanChangeUnscheduled {
        to: plan("free").key,
        at: day(4),
    };
    let history = [started("pro"), scheduled("free", day(31), 3)];
    given::<TenantSubscription>(history.clone())
        .when(SubscriptionCommand::UnschedulePlanChange { at: day(4) })
        .then([off.clone()]);
    given::<TenantSubscription>(history.clone())
        .when(change("pro", Effective::Now, 4))
        .then([off]);
    // Once its moment has come there is nothing left to take off.
    given::<TenantSubscription>(history)
        .when(SubscriptionCommand::UnschedulePlanChange { at: day(31) })
        .refused(SubscriptionRefusal::NothingScheduled);
}

#[test]
fn cancelling_honours_the_paid_period() {
    given::<TenantSubscription>([started("pro")])
        .when(SubscriptionCommand::Cancel {
            effective: Effective::PeriodEnd,
            at: day(5),
        })
        .then([cancelled(day(31), 5)]);
    given::<TenantSubscription>([started("pro"), cancelled(day(31), 5)])
        .when(SubscriptionCommand::RecordDue { at: day(33) })
        .then([SubscriptionEvent::SubscriptionEnded { at: day(31) }]);
}

#[test]
fn a_cancellation_does_not_reach_into_the_past() {
    given::<TenantSubscription>([started("pro")])
        .when(SubscriptionCommand::Cancel {
            effective: Effective::At(day(1)),
            at: day(5),
        })
        .refused(SubscriptionRefusal::EffectiveNotInFuture);
}

#[test]
fn cancelling_a_suspended_subscription_does_not_bring_service_back() {
    given::<TenantSubscription>([started("pro"), suspended(4)])
        .when(SubscriptionCommand::Cancel {
            effective: Effective::PeriodEnd,
            at: day(5),
        })
        .then([cancelled(day(5), 5)]);
    let ended: TenantSubscription = after([started("pro"), suspended(4), cancelled(day(5), 5)]);
    assert_eq!(ended.standing(day(5)), Standing::Ended);
}

#[test]
fn cancelling_in_grace_serves_no_longer_than_the_grace() {
    let failed = SubscriptionEvent::PaymentFailed {
        grace_ends_at: day(10),
        at: day(3),
    };
    given::<TenantSubscription>([started("pro"), failed])
        .when(SubscriptionCommand::Cancel {
            effective: Effective::PeriodEnd,
            at: day(5),
        })
        .then([cancelled(day(10), 5)]);
}

#[test]
fn a_cancelled_subscription_may_end_sooner_but_never_later() {
    let cancel = |effective| SubscriptionCommand::Cancel {
        effective,
        at: day(6),
    };
    let history = [started("pro"), cancelled(day(20), 5)];
    for later in [Effective::PeriodEnd, Effective::At(day(30))] {
        given::<TenantSubscription>(history.clone())
            .when(cancel(later))
            .then_nothing();
    }
    given::<TenantSubscription>(history.clone())
        .when(cancel(Effective::At(day(10))))
        .then([cancelled(day(10), 6)]);
    given::<TenantSubscription>(history)
        .when(cancel(Effective::Now))
        .then([cancelled(day(6), 6)]);
}

#[test]
fn a_cancellation_takes_off_the_change_to_come() {
    let tenant: TenantSubscription = after([
        started("free"),
        scheduled("enterprise", day(10), 3),
        cancelled(day(31), 5),
    ]);
    assert_eq!(tenant.price_level(day(12)), 1);
    assert_eq!(tenant.next_due(), Some(day(31)));
}

#[test]
fn every_right_of_a_cancelled_subscription_ends_with_it() {
    let tenant: TenantSubscription = after([started("pro"), cancelled(day(31), 5)]);
    for (slug, right) in tenant.entitlements(day(6)) {
        assert_eq!(right.expires_at, Some(day(31)), "{slug}");
    }
}
