//! What the landlord may do to the catalogue.

use std::collections::BTreeMap;

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use domain::catalogue::{
    Catalogue, CatalogueCommand as Command, CatalogueEvent as Event, CatalogueRefusal as Refusal,
    FEATURES_MAX, Feature, FeatureKind, FeatureValue, Kill, Module, ModuleKey, PlanContent,
    PlanKey, PlanTerms, feature,
};

use crate::examples::{day, plan, slug};
use crate::given::{after, given};

/// Everything that is sold out of the box was defined.
pub fn standard() -> Vec<Event> {
    Catalogue::default().lacks_of_standard(day(0))
}

/// The standard catalogue, and what happened to it since.
pub fn with(events: impl IntoIterator<Item = Event>) -> Vec<Event> {
    standard().into_iter().chain(events).collect()
}

fn premium() -> ModuleKey {
    ModuleKey::try_from("digital_card.premium".to_owned()).expect("a key")
}

fn module() -> Module {
    Module {
        key: premium(),
        name: "Premium".to_owned(),
        price_level: 3,
    }
}

fn wallet() -> Feature {
    Feature {
        slug: slug("cards.wallet"),
        name: "Wallet passes".to_owned(),
        kind: FeatureKind::Flag,
        price_level: 3,
        module: Some(premium()),
        add_on: false,
    }
}

fn define(feature: Feature) -> Command {
    Command::DefineFeature {
        feature,
        archived: false,
        at: day(2),
    }
}

pub fn key(text: &str) -> PlanKey {
    PlanKey::try_from(text.to_owned()).expect("a key")
}

fn content(of: PlanTerms) -> PlanContent {
    PlanContent {
        key: of.key,
        price_level: of.price_level,
        rank: of.rank,
        features: of.features,
    }
}

fn define_plan(plan: PlanContent) -> Command {
    Command::DefinePlan {
        plan,
        archived: false,
        at: day(2),
    }
}

/// `free` with more cards.
fn freer() -> PlanContent {
    let mut plan = content(plan("free"));
    plan.features
        .insert(slug(feature::MAX_CARDS), FeatureValue::Limit(600));
    plan
}

fn stats() -> Feature {
    let standard = Catalogue::standard();
    standard
        .feature(feature::CARDS_STATS)
        .expect("a feature")
        .clone()
}

fn killed() -> Event {
    Event::FeatureKilled {
        slug: slug(feature::CARDS_STATS),
        by: "key".to_owned(),
        reason: None,
        at: day(1),
    }
}

fn archived_enterprise() -> Event {
    Event::PlanArchived {
        key: key("enterprise"),
        at: day(1),
    }
}

#[test]
fn nothing_is_lacking_after_the_standard_was_defined_and_what_became_of_it_stays() {
    let changed = Event::PlanRevised {
        plan: PlanTerms {
            version: 2,
            rank: 9,
            ..plan("free")
        },
        at: day(1),
    };
    let catalogue: Catalogue = after(with([changed, archived_enterprise(), killed()]));
    assert_eq!(catalogue.lacks_of_standard(day(3)), []);
    assert_eq!(catalogue.plan("free").expect("a plan").rank, 9);
}

#[test]
fn what_a_newer_standard_has_more_is_added_to_an_older_catalogue() {
    let older = standard().into_iter().filter(
        |event| !matches!(event, Event::FeatureDefined { feature, .. } if *feature == stats()),
    );
    let catalogue: Catalogue = after(older);
    let lacking = catalogue.lacks_of_standard(day(3));
    let (feature, at) = (stats(), day(3));
    assert_eq!(lacking, [Event::FeatureDefined { feature, at }]);
}

#[test]
fn a_module_its_features_and_a_plan_with_them_are_data() {
    let at = day(2);
    given::<Catalogue>(standard())
        .when(define(wallet()))
        .refused(Refusal::UnknownModule(premium()));
    let module_defined = Event::ModuleDefined {
        module: module(),
        at,
    };
    given::<Catalogue>(standard())
        .when(Command::DefineModule {
            module: module(),
            at,
        })
        .then([module_defined.clone()]);
    let feature_defined = Event::FeatureDefined {
        feature: wallet(),
        at,
    };
    given::<Catalogue>(with([module_defined.clone()]))
        .when(define(wallet()))
        .then([feature_defined.clone()]);
    let premier = PlanContent {
        key: key("premier"),
        price_level: 3,
        rank: 3,
        features: BTreeMap::from([(slug("cards.wallet"), FeatureValue::On)]),
    };
    let terms = PlanTerms {
        key: key("premier"),
        version: 1,
        price_level: 3,
        rank: 3,
        features: premier.features.clone(),
    };
    given::<Catalogue>(with([module_defined, feature_defined]))
        .when(define_plan(premier))
        .then([Event::PlanDefined { plan: terms, at }]);
}

#[test]
fn the_same_definition_again_is_no_event() {
    given::<Catalogue>(standard())
        .when(define(stats()))
        .then_nothing();
    given::<Catalogue>(standard())
        .when(define_plan(content(plan("free"))))
        .then_nothing();
    let basic = Catalogue::standard().modules.remove(0);
    given::<Catalogue>(standard())
        .when(Command::DefineModule {
            module: basic,
            at: day(2),
        })
        .then_nothing();
}

#[test]
fn another_content_is_a_plans_next_version() {
    let next = PlanTerms {
        version: 2,
        features: freer().features,
        ..plan("free")
    };
    given::<Catalogue>(standard())
        .when(define_plan(freer()))
        .then([Event::PlanRevised {
            plan: next,
            at: day(2),
        }]);
}

#[test]
fn a_features_kind_cannot_change() {
    let counted = Feature {
        kind: FeatureKind::Limit,
        ..stats()
    };
    given::<Catalogue>(standard())
        .when(define(counted))
        .refused(Refusal::KindIsFixed(slug(feature::CARDS_STATS)));
}

#[test]
fn a_plan_takes_only_known_features_in_sale_of_the_right_kind_and_level() {
    let ask = |text: &str, value| {
        let features = BTreeMap::from([(slug(text), value)]);
        let plan = PlanContent {
            features,
            ..content(plan("free"))
        };
        given::<Catalogue>(with([Event::FeatureArchived {
            slug: slug(feature::CUSTOM_BRANDING),
            at: day(1),
        }]))
        .when(define_plan(plan))
    };
    ask("cards.wallet", FeatureValue::On).refused(Refusal::UnknownFeature(slug("cards.wallet")));
    ask(feature::CUSTOM_BRANDING, FeatureValue::On)
        .refused(Refusal::FeatureIsArchived(slug(feature::CUSTOM_BRANDING)));
    ask(feature::MAX_CARDS, FeatureValue::On)
        .refused(Refusal::WrongValue(slug(feature::MAX_CARDS)));
    ask(feature::CARDS_STATS, FeatureValue::On).refused(Refusal::PriceLevelTooLow {
        feature: slug(feature::CARDS_STATS),
        price_level: 2,
    });
}

#[test]
fn a_feature_leaves_sale_only_when_no_plan_in_sale_has_it() {
    let at = day(2);
    let archive = |slug: &str| Command::DefineFeature {
        feature: Catalogue::standard()
            .feature(slug)
            .expect("a feature")
            .clone(),
        archived: true,
        at,
    };
    given::<Catalogue>(standard())
        .when(archive(feature::CARDS_STATS))
        .refused(Refusal::FeatureInUse {
            feature: slug(feature::CARDS_STATS),
            plan: key("enterprise"),
        });
    let gone = Event::FeatureArchived {
        slug: slug(feature::CARDS_STATS),
        at,
    };
    given::<Catalogue>(with([archived_enterprise()]))
        .when(archive(feature::CARDS_STATS))
        .then([gone.clone()]);
    // The plan cannot come back as it is then.
    given::<Catalogue>(with([archived_enterprise(), gone.clone()]))
        .when(define_plan(content(plan("enterprise"))))
        .refused(Refusal::FeatureIsArchived(slug(feature::CARDS_STATS)));
    given::<Catalogue>(with([archived_enterprise(), gone]))
        .when(define(stats()))
        .then([Event::FeatureRestored {
            slug: slug(feature::CARDS_STATS),
            at,
        }]);
}

#[test]
fn a_plan_that_left_sale_is_known_but_not_for_sale_and_can_come_back() {
    let catalogue: Catalogue = after(with([archived_enterprise()]));
    assert!(catalogue.plan("enterprise").is_some());
    let keys: Vec<_> = catalogue
        .plans_for_sale()
        .map(|plan| plan.key.as_str())
        .collect();
    assert_eq!(keys, ["free", "pro"]);
    let enterprise = || content(plan("enterprise"));
    given::<Catalogue>(standard())
        .when(Command::DefinePlan {
            plan: enterprise(),
            archived: true,
            at: day(1),
        })
        .then([archived_enterprise()]);
    given::<Catalogue>(with([archived_enterprise()]))
        .when(define_plan(enterprise()))
        .then([Event::PlanRestored {
            key: key("enterprise"),
            at: day(2),
        }]);
}

#[test]
fn a_switch_says_since_when_by_whom_and_why_and_is_undone_whole() {
    let slug = slug(feature::CARDS_STATS);
    let kill = Command::KillFeature {
        slug: slug.clone(),
        by: "key".to_owned(),
        reason: Some("slow".to_owned()),
        at: day(1),
    };
    let killed = Event::FeatureKilled {
        slug: slug.clone(),
        by: "key".to_owned(),
        reason: Some("slow".to_owned()),
        at: day(1),
    };
    given::<Catalogue>(standard())
        .when(kill.clone())
        .then([killed.clone()]);
    let catalogue: Catalogue = after(with([killed.clone()]));
    let expected = Kill {
        since: day(1),
        by: "key".to_owned(),
        reason: Some("slow".to_owned()),
    };
    assert_eq!(catalogue.killed(feature::CARDS_STATS), Some(&expected));
    given::<Catalogue>(with([killed.clone()]))
        .when(kill)
        .then_nothing();
    let revive = Command::ReviveFeature {
        slug: slug.clone(),
        at: day(2),
    };
    let revived = Event::FeatureRevived { slug, at: day(2) };
    given::<Catalogue>(with([killed.clone()]))
        .when(revive.clone())
        .then([revived.clone()]);
    assert_eq!(
        after::<Catalogue>(with([killed, revived])),
        after(standard())
    );
    given::<Catalogue>(standard()).when(revive).then_nothing();
}

#[test]
fn a_limit_has_no_switch_and_what_is_unknown_neither() {
    let kill = |text: &str| {
        given::<Catalogue>(standard()).when(Command::KillFeature {
            slug: slug(text),
            by: "key".to_owned(),
            reason: None,
            at: day(1),
        })
    };
    kill(feature::MAX_CARDS).refused(Refusal::LimitHasNoSwitch(slug(feature::MAX_CARDS)));
    kill("nope").refused(Refusal::UnknownFeature(slug("nope")));
}

#[test]
fn a_catalogue_has_room_for_so_many_features_and_no_more() {
    let numbered = |n: usize| Event::FeatureDefined {
        feature: Feature {
            slug: slug(&format!("feature_{n}")),
            ..stats()
        },
        at: day(1),
    };
    let there = standard()
        .iter()
        .filter(|event| matches!(event, Event::FeatureDefined { .. }))
        .count();
    let full = with((there..FEATURES_MAX).map(numbered));
    given::<Catalogue>(full.clone())
        .when(define(Feature {
            module: None,
            ..wallet()
        }))
        .refused(Refusal::TooMany {
            what: "features",
            max: FEATURES_MAX,
        });
    let renamed = Feature {
        name: "Numbers".to_owned(),
        ..stats()
    };
    given::<Catalogue>(full)
        .when(define(renamed.clone()))
        .then([Event::FeatureRevised {
            feature: renamed,
            at: day(2),
        }]);
}

#[test]
fn the_framework_decides_the_same_and_leaves_the_aggregate_alone() {
    let mut catalogue: Catalogue = after(standard());
    let before = catalogue.clone();
    let sink = EventSink::default();
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
        .block_on(async {
            let kill = Command::KillFeature {
                slug: slug(feature::CARDS_STATS),
                by: "key".to_owned(),
                reason: None,
                at: day(1),
            };
            let handled = catalogue.handle(kill, &(), &sink).await;
            handled.expect("decided");
            assert_eq!(catalogue, before);
            assert_eq!(sink.collect().await, [killed()]);
        });
}
