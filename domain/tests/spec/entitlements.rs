//! What a subscription allows at a given moment, and where each right comes from.

use chrono::{DateTime, Utc};
use domain::catalogue::{FeatureValue, feature};
use domain::entitlements::{Entitlement, Source, Standing};
use domain::subscription::{Attribution, Grant, SubscriptionEvent, TenantSubscription};

use crate::examples::{
    add_on, day, granted, just_before, override_with, started, suspended, upgraded,
};
use crate::given::after;

fn with(key: &str, slug: &str, grant: Grant) -> TenantSubscription {
    after([started(key), granted(slug, grant)])
}

/// A right since the subscription began, or since the grant of the day after.
fn right(value: FeatureValue, source: Source, end: Option<DateTime<Utc>>) -> Option<Entitlement> {
    Some(Entitlement {
        value,
        source,
        since: Some(match source {
            Source::Plan => day(0),
            Source::Trial | Source::AddOn | Source::Override => day(1),
        }),
        expires_at: end,
        attribution: Attribution::default(),
    })
}

#[test]
fn the_plan_grants_what_it_names_and_nothing_else() {
    let free: TenantSubscription = after([started("free")]);
    assert_eq!(
        free.entitlement(feature::MAX_CARDS, day(1)),
        right(FeatureValue::Limit(500), Source::Plan, None)
    );
    assert_eq!(free.entitlement(feature::CARDS_BULK, day(1)), None);
}

#[test]
fn nothing_is_allowed_before_the_subscription_started() {
    let none = TenantSubscription::NotStarted;
    assert_eq!(none.standing(day(1)), Standing::NotStarted);
    assert_eq!(none.entitlement(feature::CARDS_LIFECYCLE, day(1)), None);
    assert!(none.entitlements(day(1)).is_empty());
    assert_eq!(none.card_limit(day(1)), Some(0));
    assert_eq!(none.price_level(day(1)), 0);
}

#[test]
fn an_add_on_unlocks_what_the_plan_does_not_have() {
    let gifted = with("free", feature::EXPORT_CSV, add_on(FeatureValue::On, None));
    assert_eq!(
        gifted.entitlement(feature::EXPORT_CSV, day(2)),
        right(FeatureValue::On, Source::AddOn, None)
    );
    assert_eq!(gifted.price_level(day(2)), 1);
}

#[test]
fn an_add_on_ends_at_its_end_on_the_second() {
    let end = day(10);
    let gifted = with(
        "free",
        feature::EXPORT_CSV,
        add_on(FeatureValue::On, Some(end)),
    );
    assert_eq!(
        gifted.entitlement(feature::EXPORT_CSV, just_before(end)),
        right(FeatureValue::On, Source::AddOn, Some(end))
    );
    assert_eq!(gifted.entitlement(feature::EXPORT_CSV, end), None);
}

#[test]
fn the_more_generous_of_plan_and_add_on_counts() {
    let limit = |cards, key| {
        with(
            key,
            feature::MAX_CARDS,
            add_on(FeatureValue::Limit(cards), Some(day(10))),
        )
        .entitlement(feature::MAX_CARDS, day(2))
    };
    assert_eq!(
        limit(800, "free"),
        right(FeatureValue::Limit(800), Source::AddOn, Some(day(10)))
    );
    assert_eq!(
        limit(100, "free"),
        right(FeatureValue::Limit(500), Source::Plan, None)
    );
    assert_eq!(
        limit(100, "pro"),
        right(FeatureValue::Unlimited, Source::Plan, None)
    );
}

#[test]
fn an_add_on_no_better_than_the_plan_does_not_make_the_right_expire() {
    let same = with(
        "free",
        feature::MAX_CARDS,
        add_on(FeatureValue::Limit(500), Some(day(10))),
    );
    assert_eq!(
        same.entitlement(feature::MAX_CARDS, day(2)),
        right(FeatureValue::Limit(500), Source::Plan, None)
    );
}

#[test]
fn an_override_counts_even_where_the_plan_is_more_generous() {
    let overridden = with(
        "pro",
        feature::MAX_CARDS,
        override_with(FeatureValue::Limit(10), None),
    );
    assert_eq!(
        overridden.entitlement(feature::MAX_CARDS, day(2)),
        right(FeatureValue::Limit(10), Source::Override, None)
    );
}

#[test]
fn an_override_gives_way_to_the_plan_when_it_ends() {
    let end = day(10);
    let overridden = with(
        "pro",
        feature::MAX_CARDS,
        override_with(FeatureValue::Limit(10), Some(end)),
    );
    assert_eq!(overridden.card_limit(just_before(end)), Some(10));
    assert_eq!(overridden.card_limit(end), None);
}

#[test]
fn an_override_survives_plan_changes() {
    let mut overridden = with(
        "pro",
        feature::MAX_CARDS,
        override_with(FeatureValue::Limit(10), None),
    );
    for (from, to) in [("pro", "enterprise"), ("enterprise", "free")] {
        overridden.evolve(upgraded(from, to, 3));
        assert_eq!(overridden.card_limit(day(4)), Some(10), "on {to}");
    }
}

#[test]
fn the_card_limit_is_the_plans_unless_a_grant_says_otherwise() {
    for (key, limit) in [("free", Some(500)), ("pro", None), ("enterprise", None)] {
        let subscription: TenantSubscription = after([started(key)]);
        assert_eq!(subscription.card_limit(day(1)), limit, "{key}");
    }
}

#[test]
fn the_list_of_rights_agrees_with_each_right_asked_alone() {
    let subscription: TenantSubscription = after([
        started("enterprise"),
        granted(feature::EXPORT_CSV, add_on(FeatureValue::On, Some(day(10)))),
        granted(
            feature::MAX_CARDS,
            override_with(FeatureValue::Limit(7), Some(day(20))),
        ),
    ]);
    for (now, count) in [(day(2), 7), (day(10), 6), (day(20), 6)] {
        let rights = subscription.entitlements(now);
        assert_eq!(rights.len(), count, "{now}");
        for (slug, right) in rights {
            assert_eq!(subscription.entitlement(slug.as_str(), now), Some(right));
        }
    }
}

#[test]
fn a_suspended_tenant_is_not_served_until_reinstated() {
    let mut tenant: TenantSubscription = after([started("pro"), suspended(3)]);
    assert_eq!(tenant.standing(day(4)), Standing::Suspended);
    tenant.evolve(SubscriptionEvent::SubscriptionReinstated { at: day(5) });
    assert_eq!(tenant.standing(day(5)), Standing::Good);
}

#[test]
fn suspension_takes_service_away_but_not_what_was_bought() {
    let mut tenant: TenantSubscription = after([started("enterprise")]);
    let bought = tenant.entitlements(day(4));
    tenant.evolve(suspended(3));
    assert_eq!(tenant.entitlements(day(4)), bought);
}

#[test]
fn a_cancelled_tenant_is_served_until_the_end_of_its_time_on_the_second() {
    let tenant: TenantSubscription = after([
        started("pro"),
        SubscriptionEvent::SubscriptionCancelled {
            ends_at: day(30),
            at: day(3),
        },
    ]);
    let standing = tenant.standing(just_before(day(30)));
    assert_eq!(standing, Standing::Cancelled);
    assert!(!standing.blocked().issuing && !standing.blocked().level_2);
    assert_eq!(tenant.standing(day(30)), Standing::Ended);
    assert!(Standing::Ended.blocked().issuing && Standing::Ended.blocked().level_2);
}
