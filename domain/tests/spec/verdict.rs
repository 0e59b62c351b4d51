//! Whether a feature may be used, and why not.

use domain::catalogue::{Catalogue, CatalogueEvent, FeatureValue, feature};
use domain::entitlements::Standing;
use domain::subscription::{SubscriptionEvent, SuspensionCause, TenantSubscription};
use domain::verdict::{Verdict, verdict};

use crate::examples::{add_on, day, granted, just_before, slug, started};
use crate::given::after;

fn killed(text: &str) -> CatalogueEvent {
    CatalogueEvent::FeatureKilled {
        slug: slug(text),
        by: "key".to_owned(),
        reason: None,
        at: day(1),
    }
}

fn reason(
    catalogue: &Catalogue,
    history: impl IntoIterator<Item = SubscriptionEvent>,
    feature: &str,
    day_of_check: i64,
) -> &'static str {
    let subscription: TenantSubscription = after(history);
    verdict(catalogue, &subscription, feature, day(day_of_check)).reason()
}

#[test]
fn each_answer_has_its_reason() {
    let catalogue = Catalogue::standard();
    let reason = |history: Vec<_>, feature| reason(&catalogue, history, feature, 10);
    let suspended = SubscriptionEvent::SubscriptionSuspended {
        cause: SuspensionCause::Landlord,
        at: day(2),
    };
    let cancelled = SubscriptionEvent::SubscriptionCancelled {
        ends_at: day(3),
        at: day(2),
    };
    let (free, stats) = (|| started("free"), feature::CARDS_STATS);
    assert_eq!(reason(vec![started("enterprise")], stats), "granted");
    assert_eq!(reason(vec![free()], stats), "not_in_plan");
    assert_eq!(reason(vec![free(), suspended], stats), "suspended");
    assert_eq!(reason(vec![free(), cancelled], stats), "cancelled");
    assert_eq!(reason(vec![], stats), "not_started");
    assert_eq!(reason(vec![free()], "nope"), "unknown_feature");
}

#[test]
fn an_add_on_is_granted_until_its_end_and_has_expired_from_then_on() {
    let catalogue = Catalogue::standard();
    let branding = feature::CUSTOM_BRANDING;
    let grant = granted(branding, add_on(FeatureValue::On, Some(day(14))));
    let history = [started("free"), grant];
    let subscription: TenantSubscription = after(history.clone());
    let at = |moment| verdict(&catalogue, &subscription, branding, moment).reason();
    assert_eq!(at(just_before(day(14))), "granted");
    assert_eq!(at(day(14)), "expired");
    let recorded = SubscriptionEvent::AddOnExpired {
        feature: slug(branding),
        at: day(14),
    };
    let subscription: TenantSubscription = after(history.into_iter().chain([recorded]));
    let verdict = verdict(&catalogue, &subscription, branding, day(15));
    assert_eq!(verdict.reason(), "expired", "also when that is recorded");
}

#[test]
fn what_was_switched_off_is_off_whatever_was_bought_and_comes_back_as_it_was() {
    let mut catalogue = Catalogue::standard();
    let (branding, stats) = (feature::CUSTOM_BRANDING, feature::CARDS_STATS);
    let bought = || {
        let grant = granted(branding, add_on(FeatureValue::On, None));
        [started("enterprise"), grant]
    };
    let subscription: TenantSubscription = after(bought());
    for text in [branding, stats] {
        let before = format!("{:?}", verdict(&catalogue, &subscription, text, day(5)));
        catalogue.evolve(killed(text));
        assert_eq!(reason(&catalogue, bought(), text, 5), "killed");
        // Paying for it would not help, so nobody is told that it would.
        assert_eq!(reason(&catalogue, [started("free")], text, 5), "killed");
        catalogue.evolve(CatalogueEvent::FeatureRevived {
            slug: slug(text),
            at: day(6),
        });
        let again = format!("{:?}", verdict(&catalogue, &subscription, text, day(5)));
        assert_eq!(again, before);
    }
}

#[test]
fn a_verdict_says_how_much() {
    let catalogue = Catalogue::standard();
    let subscription: TenantSubscription = after([started("free")]);
    let verdict = verdict(&catalogue, &subscription, feature::MAX_CARDS, day(1));
    assert_eq!(verdict, Verdict::Granted(FeatureValue::Limit(500)));
}

#[test]
fn a_tenant_that_is_not_served_is_told_so_for_what_it_has_as_well() {
    let catalogue = Catalogue::standard();
    let suspended = SubscriptionEvent::SubscriptionSuspended {
        cause: SuspensionCause::Landlord,
        at: day(2),
    };
    let subscription: TenantSubscription = after([started("enterprise"), suspended]);
    assert_eq!(
        verdict(&catalogue, &subscription, feature::CARDS_STATS, day(3)),
        Verdict::NotServed(Standing::Suspended)
    );
}
