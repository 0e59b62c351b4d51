//! A subscription's life: every command in every stage, and the rules worth a sentence.

use domain::catalogue::{FeatureValue, feature};
use domain::subscription::{
    SubscriptionCommand, SubscriptionEvent, SubscriptionRefusal, TenantSubscription,
};

use crate::examples::{add_on, day, granted, just_before, override_with, plan, slug, started};
use crate::given::{after, given};
use crate::table::{Cell, cells};

/// `same` is a success without events; a stage is what the subscription is in after an event;
/// the rest are refusals.
const EVERY_COMMAND_IN_EVERY_STAGE: &str = "
                  | not started | active    | suspended | cancelled
    start         | active      | already   | already   | already
    change plan   | missing     | active    | suspended | over
    grant add-on  | missing     | active    | suspended | over
    revoke add-on | missing     | active    | suspended | over
    suspend       | missing     | suspended | same      | over
    reinstate     | missing     | same      | active    | over
    cancel        | missing     | cancelled | cancelled | same
    republish     | missing     | active    | suspended | cancelled
";

/// The row of the table that a command is in; a new command needs one.
fn row(command: &SubscriptionCommand) -> &'static str {
    match command {
        SubscriptionCommand::Start { .. } => "start",
        SubscriptionCommand::ChangePlan { .. } => "change plan",
        SubscriptionCommand::GrantAddOn { .. } => "grant add-on",
        SubscriptionCommand::RevokeAddOn { .. } => "revoke add-on",
        SubscriptionCommand::Suspend { .. } => "suspend",
        SubscriptionCommand::Reinstate { .. } => "reinstate",
        SubscriptionCommand::Cancel { .. } => "cancel",
        SubscriptionCommand::RequestRepublish { .. } => "republish",
    }
}

/// The column of the table that a subscription is in; a new stage needs one.
fn column(subscription: &TenantSubscription) -> &'static str {
    match subscription {
        TenantSubscription::NotStarted => "not started",
        TenantSubscription::Active(_) => "active",
        TenantSubscription::Suspended(_) => "suspended",
        TenantSubscription::Cancelled { .. } => "cancelled",
    }
}

fn every_command() -> [SubscriptionCommand; 8] {
    let at = day(20);
    [
        SubscriptionCommand::Start {
            plan: plan("free"),
            at,
        },
        SubscriptionCommand::ChangePlan {
            to: plan("enterprise"),
            at,
        },
        SubscriptionCommand::GrantAddOn {
            feature: slug(feature::CUSTOM_BRANDING),
            grant: add_on(FeatureValue::On, None),
            at,
        },
        SubscriptionCommand::RevokeAddOn {
            feature: slug(feature::EXPORT_CSV),
            at,
        },
        SubscriptionCommand::Suspend { at },
        SubscriptionCommand::Reinstate { at },
        SubscriptionCommand::Cancel {
            ends_at: day(30),
            at,
        },
        SubscriptionCommand::RequestRepublish { from: 1, at },
    ]
}

fn every_stage() -> [TenantSubscription; 5] {
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
        then(SubscriptionEvent::SubscriptionSuspended { at: day(5) }),
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
        Err(SubscriptionRefusal::NotGranted(_)) => "not granted",
        Err(SubscriptionRefusal::ExpiryNotInFuture) => "past",
    }
}

#[test]
fn every_command_in_every_stage_does_what_the_table_says() {
    let table = cells(EVERY_COMMAND_IN_EVERY_STAGE);
    let (commands, stages) = (every_command(), every_stage());
    // Cancelled is there twice, before and after its end, and in one column.
    assert_eq!(table.len(), commands.len() * (stages.len() - 1));
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
            at: day(3),
        })
        .then([SubscriptionEvent::PlanUpgraded {
            from: plan("free").key,
            to: plan("pro"),
            at: day(3),
        }]);
}

#[test]
fn a_plan_of_a_lower_rank_is_a_downgrade_even_at_the_same_price_level() {
    assert_eq!(plan("pro").price_level, plan("free").price_level);
    given::<TenantSubscription>([started("pro")])
        .when(SubscriptionCommand::ChangePlan {
            to: plan("free"),
            at: day(3),
        })
        .then([SubscriptionEvent::PlanDowngraded {
            from: plan("pro").key,
            to: plan("free"),
            at: day(3),
        }]);
}

#[test]
fn the_plan_it_has_already_changes_nothing() {
    given::<TenantSubscription>([started("pro")])
        .when(SubscriptionCommand::ChangePlan {
            to: plan("pro"),
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
            at: day(3),
        })
        .then([SubscriptionEvent::PlanUpgraded {
            from: plan("pro").key,
            to: newer,
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
    assert_eq!(terms.grants.get(feature::MAX_CARDS), Some(&second));
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
    let at = day(3);
    let subscription: TenantSubscription = after([
        started("free"),
        granted(feature::MAX_CARDS, grant.clone()),
        SubscriptionEvent::PlanUpgraded {
            from: plan("free").key,
            to: plan("enterprise"),
            at,
        },
        SubscriptionEvent::SubscriptionSuspended { at },
        SubscriptionEvent::SubscriptionReinstated { at },
    ]);
    let terms = subscription.terms().expect("a started subscription");
    assert_eq!(terms.grants.get(feature::MAX_CARDS), Some(&grant));
    assert_eq!(terms.plan, plan("enterprise"));
    assert_eq!(terms.started_at, day(0));
}

#[test]
fn cancelling_honours_the_paid_period() {
    given::<TenantSubscription>([started("pro")])
        .when(SubscriptionCommand::Cancel {
            ends_at: day(30),
            at: day(5),
        })
        .then([SubscriptionEvent::SubscriptionCancelled {
            ends_at: day(30),
            at: day(5),
        }]);
}

#[test]
fn a_cancellation_does_not_reach_into_the_past() {
    given::<TenantSubscription>([started("pro")])
        .when(SubscriptionCommand::Cancel {
            ends_at: day(1),
            at: day(5),
        })
        .then([SubscriptionEvent::SubscriptionCancelled {
            ends_at: day(5),
            at: day(5),
        }]);
}

#[test]
fn cancelling_a_suspended_subscription_does_not_bring_service_back() {
    given::<TenantSubscription>([
        started("pro"),
        SubscriptionEvent::SubscriptionSuspended { at: day(4) },
    ])
    .when(SubscriptionCommand::Cancel {
        ends_at: day(30),
        at: day(5),
    })
    .then([SubscriptionEvent::SubscriptionCancelled {
        ends_at: day(5),
        at: day(5),
    }]);
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
