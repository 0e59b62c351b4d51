//! What a plan change would do is what it then does.

use domain::catalogue::{FeatureValue, feature};
use domain::entitlements::Source;
use domain::subscription::preview::Difference;
use domain::subscription::{
    Effective, SubscriptionCommand, SubscriptionRefusal, TenantSubscription,
};
use proptest::prelude::*;

use crate::examples::{add_on, day, granted, plan, slug, started, suspended};
use crate::given::after;
use crate::world::{World, asks, plan_change};

#[test]
fn a_downgrade_says_what_is_lost_and_which_limits_shrink() {
    let tenant: TenantSubscription = after([
        started("enterprise"),
        granted(feature::CARDS_STATS, add_on(FeatureValue::On, None)),
    ]);
    let preview = tenant.preview(plan("free"), Effective::PeriodEnd, day(3));
    let preview = preview.expect("allowed");
    assert_eq!(preview.effective_at, day(31));
    let difference = preview.difference();
    let lost: Vec<_> = difference.lost.keys().map(|slug| slug.as_str()).collect();
    assert_eq!(lost, ["cards.bulk", "cards.export", "cards.live"]);
    assert!(difference.gained.is_empty());
    // The add-on keeps the right, which from then on comes from it.
    let stats = &difference.changed[&slug(feature::CARDS_STATS)];
    assert_eq!(
        (stats.from.source, stats.to.source),
        (Source::Plan, Source::AddOn)
    );
    let limit = &difference.changed[&slug(feature::MAX_CARDS)];
    assert_eq!(limit.from.value, FeatureValue::Unlimited);
    assert_eq!(limit.to.value, FeatureValue::Limit(500));
    assert_eq!(difference.changed.len(), 2);
}

#[test]
fn an_upgrade_says_what_is_gained() {
    let tenant: TenantSubscription = after([started("pro")]);
    let preview = tenant.preview(plan("enterprise"), Effective::Now, day(3));
    let difference = preview.expect("allowed").difference();
    assert_eq!(difference.gained.len(), 4);
    assert!(difference.lost.is_empty() && difference.changed.is_empty());
}

#[test]
fn a_preview_is_refused_as_the_change_would_be() {
    let tenant: TenantSubscription = after([started("pro"), suspended(2)]);
    let refused = tenant.preview(plan("enterprise"), Effective::Now, day(3));
    assert!(matches!(
        refused,
        Err(SubscriptionRefusal::PlanChangesBlocked(_))
    ));
    let nobody = TenantSubscription::NotStarted.preview(plan("pro"), Effective::Now, day(3));
    assert_eq!(nobody, Err(SubscriptionRefusal::NotStarted));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Whatever the tenant has been through: the change is done, the clock goes on to the moment
    /// when it takes effect, and the rights just then differ from those without it as foretold.
    #[test]
    fn a_preview_equals_what_the_change_then_does(asks in asks(), change in plan_change()) {
        let mut world = World::new();
        asks.iter().for_each(|ask| world.step(ask));
        let command = change.at(world.now);
        let SubscriptionCommand::ChangePlan { to, effective, at } = command.clone() else {
            return Ok(());
        };
        let preview = world.subscription.preview(to, effective, at);
        let decided = world.subscription.decide(command);
        prop_assert_eq!(preview.as_ref().err(), decided.as_ref().err());
        let (Ok(preview), Ok(events)) = (preview, decided) else {
            return Ok(());
        };

        let moment = preview.effective_at;
        let mut without = world.clone();
        without.tell(SubscriptionCommand::UnschedulePlanChange { at });
        let mut with = world;
        events.into_iter().for_each(|event| with.subscription.evolve(event));
        with.tell(SubscriptionCommand::RecordDue { at: moment });

        for (foretold, then) in [(&preview.before, &without), (&preview.after, &with)] {
            let then = &then.subscription;
            prop_assert_eq!(foretold.price_level(moment), then.price_level(moment));
            prop_assert_eq!(foretold.card_limit(moment), then.card_limit(moment));
        }
        let rights = |world: World| world.subscription.entitlements(moment);
        let difference = Difference::between(rights(without), rights(with));
        prop_assert_eq!(preview.difference(), difference);
    }
}
