//! A payment fails: grace, suspension, and back to exactly what was.

use domain::catalogue::{FeatureValue, PlanTerms, feature};
use domain::entitlements::{Blocked, Standing};
use domain::subscription::{
    Effective, SubscriptionCommand, SubscriptionEvent, SubscriptionRefusal, SuspensionCause,
    TenantSubscription,
};

use crate::examples::{add_on, day, granted, just_before, plan, started, suspended};
use crate::given::{after, given};

fn failed() -> SubscriptionEvent {
    SubscriptionEvent::PaymentFailed {
        grace_ends_at: day(17),
        at: day(3),
    }
}

fn fail(grace_days: u32, n: i64) -> SubscriptionCommand {
    SubscriptionCommand::FailPayment {
        grace_days: Some(grace_days),
        at: day(n),
    }
}

/// The grace was over.
fn unpaid() -> SubscriptionEvent {
    SubscriptionEvent::SubscriptionSuspended {
        cause: SuspensionCause::Payment,
        at: day(17),
    }
}

#[test]
fn each_standing_says_what_it_blocks() {
    let table = [
        (Standing::Good, [false, false, false]),
        (Standing::Grace, [true, false, false]),
        (Standing::Suspended, [true, true, true]),
        (Standing::Cancelled, [true, false, false]),
        (Standing::Ended, [true, true, true]),
        (Standing::NotStarted, [true, true, true]),
    ];
    for (standing, [plan_changes, issuing, level_2]) in table {
        let blocked = Blocked {
            plan_changes,
            issuing,
            level_2,
        };
        assert_eq!(standing.blocked(), blocked, "{standing:?}");
    }
}

#[test]
fn ones_own_cards_can_be_exported_whatever_was_not_paid() {
    for standing in [
        Standing::Grace,
        Standing::Suspended,
        Standing::Cancelled,
        Standing::Ended,
    ] {
        assert!(!standing.blocks(feature::CARDS_EXPORT, 2), "{standing:?}");
        assert!(!standing.blocks(feature::EXPORT_CSV, 2), "{standing:?}");
    }
    assert!(Standing::Suspended.blocks(feature::CARDS_BULK, 2));
    assert!(Standing::Suspended.blocks(feature::CARDS_LIFECYCLE, 1));
    assert!(!Standing::Grace.blocks(feature::CARDS_BULK, 2));
}

#[test]
fn a_failed_payment_leaves_service_on_until_the_grace_is_over_on_the_second() {
    given::<TenantSubscription>([started("pro")])
        .when(fail(14, 3))
        .then([failed()]);
    let tenant: TenantSubscription = after([started("pro"), failed()]);
    assert_eq!(tenant.standing(just_before(day(17))), Standing::Grace);
    assert_eq!(tenant.standing(day(17)), Standing::Suspended);
    given::<TenantSubscription>([started("pro"), failed()])
        .when(SubscriptionCommand::RecordDue { at: day(90) })
        .then([unpaid()]);
}

#[test]
fn grace_takes_0_to_90_days_and_none_suspends_at_once() {
    given::<TenantSubscription>([started("pro")])
        .when(fail(0, 17))
        .then([
            SubscriptionEvent::PaymentFailed {
                grace_ends_at: day(17),
                at: day(17),
            },
            unpaid(),
        ]);
    let decided = after::<TenantSubscription>([started("pro")]).decide(fail(90, 3));
    assert!(decided.is_ok());
    given::<TenantSubscription>([started("pro")])
        .when(fail(91, 3))
        .refused(SubscriptionRefusal::GraceDays);
}

#[test]
fn a_failure_that_is_reported_again_does_not_prolong_the_grace() {
    for n in [3, 10] {
        given::<TenantSubscription>([started("pro"), failed()])
            .when(fail(14, n))
            .then_nothing();
    }
    given::<TenantSubscription>([started("pro"), suspended(4)])
        .when(fail(14, 5))
        .then_nothing();
}

#[test]
fn who_has_not_paid_may_change_to_less_but_not_to_more() {
    let change = |key| SubscriptionCommand::ChangePlan {
        to: plan(key),
        effective: Effective::Now,
        at: day(5),
    };
    for (history, standing) in [
        ([started("pro"), failed()], Standing::Grace),
        ([started("pro"), suspended(4)], Standing::Suspended),
    ] {
        given::<TenantSubscription>(history.clone())
            .when(change("enterprise"))
            .refused(SubscriptionRefusal::PlanChangesBlocked(standing));
        let less = after::<TenantSubscription>(history).decide(change("free"));
        assert_eq!(less.map(|events| events.len()), Ok(1));
    }
}

#[test]
fn another_plan_of_the_same_rank_or_of_a_higher_price_level_is_more() {
    let change = |to| SubscriptionCommand::ChangePlan {
        to,
        effective: Effective::PeriodEnd,
        at: day(5),
    };
    let (pro, enterprise) = (plan("pro"), plan("enterprise"));
    let sideways = PlanTerms {
        rank: pro.rank,
        ..enterprise.clone()
    };
    let dearer = PlanTerms {
        rank: 0,
        ..enterprise
    };
    let dearer_version = PlanTerms {
        version: 2,
        price_level: 2,
        ..pro
    };
    for more in [sideways, dearer, dearer_version] {
        given::<TenantSubscription>([started("pro"), failed()])
            .when(change(more.clone()))
            .refused(SubscriptionRefusal::PlanChangesBlocked(Standing::Grace));
        let paid = after::<TenantSubscription>([started("pro")]).decide(change(more));
        assert!(paid.is_ok());
    }
}

#[test]
fn a_newer_version_of_the_same_plan_is_not_more() {
    let mut newer = plan("pro");
    newer.version = 2;
    let tenant: TenantSubscription = after([started("pro"), suspended(4)]);
    let decided = tenant.decide(SubscriptionCommand::ChangePlan {
        to: newer,
        effective: Effective::Now,
        at: day(5),
    });
    assert!(decided.is_ok());
}

#[test]
fn reinstating_restores_exactly_what_was() {
    let history = [
        started("pro"),
        granted(feature::CARDS_STATS, add_on(FeatureValue::On, None)),
        SubscriptionEvent::PlanChangeScheduled {
            to: plan("enterprise"),
            effective_at: day(31),
            attribution: Default::default(),
            at: day(2),
        },
    ];
    let before: TenantSubscription = after(history.clone());
    let reinstated = SubscriptionEvent::SubscriptionReinstated { at: day(20) };
    for between in [vec![failed()], vec![failed(), unpaid()], vec![suspended(4)]] {
        let tenant: TenantSubscription = after(
            history
                .iter()
                .cloned()
                .chain(between)
                .chain([reinstated.clone()]),
        );
        assert_eq!(tenant, before);
    }
}

#[test]
fn what_the_landlord_has_suspended_in_grace_is_in_grace_again_when_it_is_reinstated() {
    let in_grace: TenantSubscription = after([started("pro"), failed()]);
    let history = [started("pro"), failed(), suspended(5)];
    let reinstated = |n| SubscriptionEvent::SubscriptionReinstated { at: day(n) };
    let reinstate = |n| SubscriptionCommand::Reinstate { at: day(n) };
    given::<TenantSubscription>(history.clone())
        .when(reinstate(10))
        .then([reinstated(10)]);
    let back: TenantSubscription = after(history.into_iter().chain([reinstated(10)]));
    assert_eq!(back, in_grace);
    assert_eq!(back.standing(day(17)), Standing::Suspended);
    // The payment itself is what the next one is for.
    let paid: TenantSubscription = after([
        started("pro"),
        failed(),
        suspended(5),
        reinstated(10),
        reinstated(11),
    ]);
    assert_eq!(paid, after([started("pro")]));
}

#[test]
fn what_the_landlord_has_suspended_in_grace_stays_suspended_when_the_grace_is_over() {
    let history = [started("pro"), failed(), suspended(5)];
    let reinstate = |n| SubscriptionCommand::Reinstate { at: day(n) };
    // Nothing happens by itself meanwhile.
    given::<TenantSubscription>(history.clone())
        .when(SubscriptionCommand::RecordDue { at: day(40) })
        .then_nothing();
    for n in [17, 40] {
        let unpaid = SubscriptionEvent::SubscriptionSuspended {
            cause: SuspensionCause::Payment,
            at: day(n),
        };
        given::<TenantSubscription>(history.clone())
            .when(reinstate(n))
            .then([unpaid.clone()]);
        given::<TenantSubscription>(history.clone().into_iter().chain([unpaid]))
            .when(reinstate(n + 1))
            .then([SubscriptionEvent::SubscriptionReinstated { at: day(n + 1) }]);
    }
    let paid = [started("pro"), failed(), unpaid()].into_iter();
    let paid: TenantSubscription =
        after(paid.chain([SubscriptionEvent::SubscriptionReinstated { at: day(18) }]));
    assert_eq!(paid, after([started("pro")]));
}

#[test]
fn a_payment_in_time_ends_the_grace() {
    given::<TenantSubscription>([started("pro"), failed()])
        .when(SubscriptionCommand::Reinstate { at: day(10) })
        .then([SubscriptionEvent::SubscriptionReinstated { at: day(10) }]);
    // A day late it was suspended in between, and the history says so.
    given::<TenantSubscription>([started("pro"), failed()])
        .when(SubscriptionCommand::Reinstate { at: day(18) })
        .then([
            unpaid(),
            SubscriptionEvent::SubscriptionReinstated { at: day(18) },
        ]);
}

#[test]
fn a_tenant_may_have_another_grace_than_the_14_days_of_all() {
    let fail = |n| SubscriptionCommand::FailPayment {
        grace_days: None,
        at: day(n),
    };
    given::<TenantSubscription>([started("pro")])
        .when(fail(3))
        .then([failed()]);
    let set = SubscriptionEvent::GraceSet {
        days: 30,
        at: day(1),
    };
    given::<TenantSubscription>([started("pro"), set.clone()])
        .when(fail(3))
        .then([SubscriptionEvent::PaymentFailed {
            grace_ends_at: day(33),
            at: day(3),
        }]);
    let asked = |days| SubscriptionCommand::SetGrace { days, at: day(1) };
    let fresh = || given::<TenantSubscription>([started("pro")]);
    fresh().when(asked(30)).then([set.clone()]);
    fresh().when(asked(14)).then_nothing();
    fresh()
        .when(asked(91))
        .refused(SubscriptionRefusal::GraceDays);

    // A grace that runs stays as it is.
    let running: TenantSubscription = after([started("pro"), failed(), set]);
    assert_eq!(running.next_due(), Some(day(17)));
}
