//! What is for sale hangs together, and the values of features have the JSON that clients send.

use domain::catalogue::{Catalogue, FeatureKind, FeatureSlug, FeatureValue, InvalidKey, feature};
use serde_json::json;

#[test]
fn every_plan_sells_only_known_features_of_the_right_kind_at_its_price_level_or_below() {
    let catalogue = Catalogue::standard();
    for plan in catalogue.plans.values() {
        for (slug, value) in &plan.features {
            let feature = catalogue.feature(slug.as_str()).expect("a known feature");
            assert!(feature.accepts(*value), "{} of {}", slug, plan.key);
            assert!(feature.price_level <= plan.price_level, "{slug}");
        }
    }
}

#[test]
fn a_plan_has_every_feature_of_every_module_at_its_price_level_or_below() {
    let catalogue = Catalogue::standard();
    for plan in catalogue.plans.values() {
        for module in &catalogue.modules {
            for feature in catalogue.features.values() {
                if feature.module.as_ref() == Some(&module.key) {
                    assert_eq!(
                        plan.features.contains_key(&feature.slug),
                        module.price_level <= plan.price_level,
                        "{} in {}",
                        feature.slug,
                        plan.key
                    );
                }
            }
        }
    }
}

#[test]
fn three_plans_are_for_sale_in_the_order_of_their_rank() {
    let catalogue = Catalogue::standard();
    let of = |key| {
        let plan = catalogue.plan(key).expect("a plan that is for sale");
        let max_cards = plan.features.get(feature::MAX_CARDS).copied();
        (plan.rank, plan.price_level, max_cards)
    };
    assert_eq!(catalogue.plans.len(), 3);
    assert_eq!(of("free"), (0, 1, Some(FeatureValue::Limit(500))));
    assert_eq!(of("pro"), (1, 1, Some(FeatureValue::Unlimited)));
    assert_eq!(of("enterprise"), (2, 2, Some(FeatureValue::Unlimited)));
}

#[test]
fn four_features_are_sold_on_their_own() {
    let catalogue = Catalogue::standard();
    let add_ons: Vec<_> = catalogue
        .features
        .values()
        .filter(|feature| feature.add_on)
        .map(|feature| feature.slug.as_str())
        .collect();
    assert_eq!(
        add_ons,
        [
            feature::API_ACCESS,
            feature::CUSTOM_BRANDING,
            feature::EXPORT_CSV,
            feature::MAX_CARDS
        ]
    );
}

#[test]
fn a_value_is_accepted_only_by_a_feature_of_its_kind() {
    let mut feature = Catalogue::standard()
        .feature(feature::MAX_CARDS)
        .expect("a known feature")
        .clone();
    let accepts = |feature: &domain::catalogue::Feature| {
        [
            FeatureValue::On,
            FeatureValue::Limit(1),
            FeatureValue::Unlimited,
        ]
        .map(|value| feature.accepts(value))
    };
    assert_eq!(accepts(&feature), [false, true, true]);
    feature.kind = FeatureKind::Flag;
    assert_eq!(accepts(&feature), [true, false, false]);
}

#[test]
fn a_features_value_is_true_a_number_or_unlimited_in_json() {
    for (value, json) in [
        (FeatureValue::On, json!(true)),
        (FeatureValue::Limit(500), json!(500)),
        (FeatureValue::Unlimited, json!("unlimited")),
    ] {
        assert_eq!(serde_json::to_value(value).expect("JSON"), json);
        let read: FeatureValue = serde_json::from_value(json).expect("a value");
        assert_eq!(read, value);
    }
}

#[test]
fn other_json_is_no_features_value_and_the_refusal_says_what_would_be() {
    for bad in [
        json!(false),
        json!(-1),
        json!(1.5),
        json!("lots"),
        json!(null),
    ] {
        let refusal = serde_json::from_value::<FeatureValue>(bad).expect_err("not a value");
        assert_eq!(
            refusal.to_string(),
            "must be true, a whole number, or \"unlimited\""
        );
    }
}

#[test]
fn the_more_generous_value_does_not_depend_on_the_order() {
    let values = [
        FeatureValue::Limit(1),
        FeatureValue::Limit(2),
        FeatureValue::Unlimited,
    ];
    for (i, less) in values.iter().enumerate() {
        for more in &values[i..] {
            assert_eq!(less.most_generous(*more), *more);
            assert_eq!(more.most_generous(*less), *more);
        }
    }
}

#[test]
fn slugs_are_refused_outside_their_alphabet_and_length() {
    for bad in ["", "1st", "_a", "Max", "a b", "a-b", &"a".repeat(61)] {
        assert_eq!(FeatureSlug::try_from(bad.to_owned()), Err(InvalidKey));
    }
    for good in ["a", "cards.bulk", "max_cards_2", &"a".repeat(60)] {
        assert!(FeatureSlug::try_from(good.to_owned()).is_ok(), "{good}");
    }
}
