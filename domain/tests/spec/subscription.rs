//! A subscription's life: every command in every stage, and the rules worth a sentence.

use domain::catalogue::{FeatureValue, PlanTerms, feature};
use domain::subscription::{
    Attribution, Effective, SubscriptionCommand, SubscriptionEvent, SubscriptionRefusal,
    TenantSubscription,
};

use crate::examples::{
    add_on, day, granted, just_before, override_with, plan, slug, started, suspended, upgraded,
};
use crate::given::{after, given};
use crate::table::{Cell, cells};

/// `same` is a success without events; a stage is what the subscription is in after an event;
/// the rest are refusals.
const EVERY_COMMAND_IN_EVERY_STAGE: &str = "
                   | not started | active    | in grace  | suspended | cancelled | ended
    start          | active      | already   | already   | already   | already   | already
    upgrade        | missing     | active    | unpaid    | unpaid    | over      | over
    downgrade      | missing     | active    | in grace  | suspended | over      | over
    schedule       | missing     | active    | in grace  | suspended | over      | over
    migrate        | missing     | active    | in grace  | suspended | over      | over
    unschedule     | missing     | none      | none      | none      | over      | over
    start trial    | missing     | active    | unpaid    | unpaid    | over      | over
    cancel trial   | missing     | none      | none      | none      | over      | over
    grant add-on   | missing     | active    | in grace  | suspended | over      | over
    revoke add-on  | missing     | active    | in grace  | suspended | over      | over
    set grace      | missing     | active    | in grace  | suspended | over      | over
    fail payment   | missing     | in grace  | same      | same      | over      | over
    suspend        | missing     | suspended | suspended | same      | over      | over
    reinstate      | missing     | same      | active    | active    | over      | over
    cancel         | missing     | cancelled | cancelled | ended     | same      | same
    cancel sooner  | missing     | ended     | ended     | ended     | ended     | same
    record due     | missing     | same      | same      | same      | same      | same
    republish      | missing     | active    | in grace  | suspended | cancelled | ended
";

/// The row of the table that a command is in; a new command needs one.
fn row(command: &SubscriptionCommand) -> &'static str {
    match command {
        SubscriptionCommand::Start { .. } => "start",
        SubscriptionCommand::ChangePlan { effective, to, .. } => match (effective, to.rank) {
            (Effective::Now, 2) => "upgrade",
            (Effective::Now, _) => "downgrade",
            (Effective::PeriodEnd | Effective::At(_), _) => "schedule",
        },
        SubscriptionCommand::MigratePlan { .. } => "migrate",
        SubscriptionCommand::UnschedulePlanChange { .. } => "unschedule",
        SubscriptionCommand::StartTrial { .. } => "start trial",
        SubscriptionCommand::CancelTrial { .. } => "cancel trial",
        SubscriptionCommand::GrantAddOn { .. } => "grant add-on",
        SubscriptionCommand::RevokeAddOn { .. } => "revoke add-on",
        SubscriptionCommand::SetGrace { .. } => "set grace",
        SubscriptionCommand::FailPayment { .. } => "fail payment",
        SubscriptionCommand::Suspend { .. } => "suspend",
        SubscriptionCommand::Reinstate { .. } => "reinstate",
        SubscriptionCommand::Cancel { effective, .. } => match effective {
            Effective::Now => "cancel sooner",
            Effective::PeriodEnd | Effective::At(_) => "cancel",
        },
        SubscriptionCommand::RecordDue { .. } => "record due",
        SubscriptionCommand::RequestRepublish { .. } => "republish",
    }
}

/// The column of the table that a subscription is in; a new stage needs one.
fn column(subscription: &TenantSubscription) -> &'static str {
    match subscription {
        TenantSubscription::NotStarted => "not started",
        TenantSubscription::Active(_) => "active",
        TenantSubscription::InGrace { .. } => "in grace",
        TenantSubscription::Suspended { .. } => "suspended",
        TenantSubscription::Cancelled { .. } => "cancelled",
        TenantSubscription::Ended { .. } => "ended",
    }
}

fn every_command() -> [SubscriptionCommand; 19] {
    let at = day(6);
    let change_plan = |key, effective| SubscriptionCommand::ChangePlan {
        to: plan(key),
        effective,
        at,
    };
    let cancel = |effective| SubscriptionCommand::Cancel { effective, at };
    [
        SubscriptionCommand::Start {
            plan: plan("free"),
            at,
        },
        change_plan("enterprise", Effective::Now),
        change_plan("free", Effective::Now),
        change_plan("free", Effective::PeriodEnd),
        SubscriptionCommand::MigratePlan {
            to: PlanTerms {
                version: 2,
                ..plan("pro")
            },
            at,
        },
        SubscriptionCommand::UnschedulePlanChange { at },
        SubscriptionCommand::StartTrial {
            plan: plan("enterprise"),
            days: 14,
            at,
        },
        SubscriptionCommand::CancelTrial { at },
        SubscriptionCommand::GrantAddOn {
            feature: slug(feature::CUSTOM_BRANDING),
            grant: add_on(FeatureValue::On, None),
            at,
        },
        SubscriptionCommand::RevokeAddOn {
            feature: slug(feature::EXPORT_CSV),
            at,
        },
        SubscriptionCommand::SetGrace { days: 30, at },
        SubscriptionCommand::FailPayment {
            grace_days: None,
            at,
        },
        SubscriptionCommand::Suspend { at },
        SubscriptionCommand::Reinstate { at },
        cancel(Effective::PeriodEnd),
        cancel(Effective::At(day(31))),
        cancel(Effective::Now),
        SubscriptionCommand::RecordDue { at },
        SubscriptionCommand::RequestRepublish { from: 1, at },
    ]
}

fn every_stage() -> [TenantSubscription; 6] {
    let begun = [
        started("pro"),
        granted(feature::EXPORT_CSV, add_on(FeatureValue::On, None)),
    ];
    let then = |event| after(begun.iter().cloned().chain([event]));
    let cancelled = |ends_at| SubscriptionEvent::SubscriptionCancelled {
        ends_at,
        at: day(5),
    };
    [
        TenantSubscription::NotStarted,
        after(begun.clone()),
        then(SubscriptionEvent::PaymentFailed {
            grace_ends_at: day(19),
            at: day(5),
        }),
        then(suspended(5)),
        then(cancelled(day(30))),
        then(cancelled(day(5))),
    ]
}

fn outcome(subscription: &TenantSubscription, command: SubscriptionCommand) -> &'static str {
    match subscription.decide(command) {
        Ok(events) if events.is_empty() => "same",
        Ok(events) => {
            let mut subscription = subscription.clone();
            for event in events {
                subscription.evolve(event);
            }
            column(&subscription)
        }
        Err(SubscriptionRefusal::NotStarted) => "missing",
        Err(SubscriptionRefusal::AlreadyStarted) => "already",
        Err(SubscriptionRefusal::Cancelled) => "over",
        Err(SubscriptionRefusal::PlanChangesBlocked(_)) => "unpaid",
        Err(SubscriptionRefusal::NothingScheduled | SubscriptionRefusal::NoTrial) => "none",
        Err(
            refusal @ (SubscriptionRefusal::AlreadyOnPlan(_)
            | SubscriptionRefusal::TrialUsed(_)
            | SubscriptionRefusal::TrialRunning(_)
            | SubscriptionRefusal::TrialDays
            | SubscriptionRefusal::GraceDays
            | SubscriptionRefusal::NotGranted(_)
            | SubscriptionRefusal::ExpiryNotInFuture
            | SubscriptionRefusal::EffectiveNotInFuture
            | SubscriptionRefusal::EffectiveTooFar),
        ) => panic!("not of the stage: {refusal}"),
    }
}

#[test]
fn every_command_in_every_stage_does_what_the_table_says() {
    let table = cells(EVERY_COMMAND_IN_EVERY_STAGE);
    let (commands, stages) = (every_command(), every_stage());
    // To cancel at the period's end and a day sooner is one row.
    assert_eq!(table.len(), (commands.len() - 1) * stages.len());
    for command in commands {
        for stage in &stages {
            let found = Cell {
                command: row(&command),
                status: column(stage),
                outcome: outcome(stage, command.clone()),
            };
            assert!(table.contains(&found), "the table differs: {found:?}");
        }
    }
}

#[test]
fn a_plan_of_a_higher_rank_is_an_upgrade() {
    given::<TenantSubscription>([started("free")])
        .when(SubscriptionCommand::ChangePlan {
            to: plan("pro"),
            effective: Effective::Now,
            at: day(3),
        })
        .then([SubscriptionEvent::PlanUpgraded {
            from: plan("free").key,
            to: plan("pro"),
            attribution: Attribution::default(),
            at: day(3),
        }]);
}

#[test]
fn a_plan_of_a_lower_rank_is_a_downgrade_even_at_the_same_price_level() {
    assert_eq!(plan("pro").price_level, plan("free").price_level);
    given::<TenantSubscription>([started("pro")])
        .when(SubscriptionCommand::ChangePlan {
            to: plan("free"),
            effective: Effective::Now,
            at: day(3),
        })
        .then([SubscriptionEvent::PlanDowngraded {
            from: plan("pro").key,
            to: plan("free"),
            attribution: Attribution::default(),
            at: day(3),
        }]);
}

#[test]
fn the_plan_it_has_already_changes_nothing() {
    given::<TenantSubscription>([started("pro")])
        .when(SubscriptionCommand::ChangePlan {
            to: plan("pro"),
            effective: Effective::Now,
            at: day(3),
        })
        .then_nothing();
}

#[test]
fn a_newer_version_of_the_plan_it_has_is_an_upgrade() {
    let mut newer = plan("pro");
    newer.version = 2;
    given::<TenantSubscription>([started("pro")])
        .when(SubscriptionCommand::ChangePlan {
            to: newer.clone(),
            effective: Effective::Now,
            at: day(3),
        })
        .then([SubscriptionEvent::PlanUpgraded {
            from: plan("pro").key,
            to: newer,
            attribution: Attribution::default(),
            at: day(3),
        }]);
}

#[test]
fn the_same_grant_again_changes_nothing() {
    let grant = add_on(FeatureValue::On, Some(day(30)));
    given::<TenantSubscription>([started("free"), granted(feature::EXPORT_CSV, grant.clone())])
        .when(SubscriptionCommand::GrantAddOn {
            feature: slug(feature::EXPORT_CSV),
            grant,
            at: day(2),
        })
        .then_nothing();
}

#[test]
fn a_second_grant_of_a_feature_replaces_the_first() {
    let second = override_with(FeatureValue::Limit(10), None);
    let subscription: TenantSubscription = after([
        started("free"),
        granted(feature::MAX_CARDS, add_on(FeatureValue::Limit(900), None)),
        granted(feature::MAX_CARDS, second.clone()),
    ]);
    let terms = subscription.terms().expect("a started subscription");
    assert_eq!(terms.grants[feature::MAX_CARDS].grant, second);
}

#[test]
fn a_grant_must_end_in_the_future() {
    for end in [day(2), just_before(day(2))] {
        given::<TenantSubscription>([started("free")])
            .when(SubscriptionCommand::GrantAddOn {
                feature: slug(feature::EXPORT_CSV),
                grant: add_on(FeatureValue::On, Some(end)),
                at: day(2),
            })
            .refused(SubscriptionRefusal::ExpiryNotInFuture);
    }
}

#[test]
fn what_was_not_granted_cannot_be_taken_back_even_if_the_plan_has_it() {
    given::<TenantSubscription>([started("enterprise")])
        .when(SubscriptionCommand::RevokeAddOn {
            feature: slug(feature::CARDS_BULK),
            at: day(2),
        })
        .refused(SubscriptionRefusal::NotGranted(slug(feature::CARDS_BULK)));
}

#[test]
fn grants_survive_plan_changes_suspension_and_reinstatement() {
    let grant = override_with(FeatureValue::Limit(10), None);
    let subscription: TenantSubscription = after([
        started("free"),
        granted(feature::MAX_CARDS, grant.clone()),
        upgraded("free", "enterprise", 3),
        suspended(3),
        SubscriptionEvent::SubscriptionReinstated { at: day(3) },
    ]);
    let terms = subscription.terms().expect("a started subscription");
    assert_eq!(terms.grants[feature::MAX_CARDS].grant, grant);
    assert_eq!(terms.plan, plan("enterprise"));
    assert_eq!(terms.started_at, day(0));
}

#[test]
fn a_subscription_that_never_started_stays_so_whatever_a_broken_history_says() {
    for event in [
        granted(feature::EXPORT_CSV, add_on(FeatureValue::On, None)),
        SubscriptionEvent::SubscriptionReinstated { at: day(1) },
        SubscriptionEvent::SubscriptionCancelled {
            ends_at: day(2),
            at: day(1),
        },
    ] {
        assert_eq!(
            after::<TenantSubscription>([event]),
            TenantSubscription::NotStarted
        );
    }
}

#[test]
fn publishing_again_is_recorded_and_changes_nothing() {
    given::<TenantSubscription>([started("pro")])
        .when(SubscriptionCommand::RequestRepublish {
            from: 7,
            at: day(5),
        })
        .then([SubscriptionEvent::RepublishRequested {
            from: 7,
            at: day(5),
        }]);
    let requested = SubscriptionEvent::RepublishRequested {
        from: 7,
        at: day(5),
    };
    assert_eq!(
        after::<TenantSubscription>([started("pro"), requested]),
        after([started("pro")])
    );
}
