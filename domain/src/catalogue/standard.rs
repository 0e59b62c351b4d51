//! What Digital Card sells out of the box: two modules, nine features, three plans.

use chrono::{DateTime, Utc};

use super::{
    Catalogue, CatalogueEvent, Feature, FeatureKind, FeatureSlug, FeatureValue, Module, ModuleKey,
    PlanKey, PlanTerms, feature,
};

const BASIC: &str = "digital_card.basic";
const ADVANCED: &str = "digital_card.advanced";

impl Catalogue {
    /// What Digital Card sells out of the box.
    pub fn standard() -> Self {
        let mut catalogue = Self::default();
        for event in catalogue.lacks_of_standard(DateTime::UNIX_EPOCH) {
            catalogue.evolve(event);
        }
        catalogue
    }

    /// What is to happen, at `at`, so that everything that Digital Card sells out of the box is
    /// defined here. What is here already stays as it is, whatever became of it.
    pub fn lacks_of_standard(&self, at: DateTime<Utc>) -> Vec<CatalogueEvent> {
        let modules = modules()
            .into_iter()
            .filter(|module| self.module(module.key.as_str()).is_none())
            .map(|module| CatalogueEvent::ModuleDefined { module, at });
        let features = features()
            .into_iter()
            .filter(|feature| self.feature(feature.slug.as_str()).is_none())
            .map(|feature| CatalogueEvent::FeatureDefined { feature, at });
        let plans = plans()
            .into_iter()
            .filter(|plan| self.plan(plan.key.as_str()).is_none())
            .map(|plan| CatalogueEvent::PlanDefined { plan, at });
        modules.chain(features).chain(plans).collect()
    }
}

fn modules() -> [Module; 2] {
    [
        module(BASIC, "Card lifecycle", 1),
        module(ADVANCED, "Bulk, exports, live updates, statistics", 2),
    ]
}

fn features() -> [Feature; 9] {
    [
        in_module(BASIC, 1, feature::CARDS_LIFECYCLE, "Card lifecycle"),
        in_module(ADVANCED, 2, feature::CARDS_BULK, "Bulk operations"),
        in_module(ADVANCED, 2, feature::CARDS_EXPORT, "Exports"),
        in_module(ADVANCED, 2, feature::CARDS_LIVE, "Live updates"),
        in_module(ADVANCED, 2, feature::CARDS_STATS, "Statistics"),
        Feature {
            kind: FeatureKind::Limit,
            price_level: 1,
            ..add_on(feature::MAX_CARDS, "Cards in circulation")
        },
        add_on(feature::EXPORT_CSV, "Export as CSV"),
        add_on(feature::API_ACCESS, "More than one API key"),
        add_on(feature::CUSTOM_BRANDING, "Custom branding"),
    ]
}

fn plans() -> [PlanTerms; 3] {
    [
        plan("free", 1, 0, FeatureValue::Limit(500)),
        plan("pro", 1, 1, FeatureValue::Unlimited),
        plan("enterprise", 2, 2, FeatureValue::Unlimited),
    ]
}

fn slug(text: &str) -> FeatureSlug {
    FeatureSlug(text.to_owned())
}

/// A feature that is installed and locked with its module.
fn in_module(module: &str, price_level: u32, text: &str, name: &str) -> Feature {
    Feature {
        slug: slug(text),
        name: name.to_owned(),
        kind: FeatureKind::Flag,
        price_level,
        module: Some(ModuleKey(module.to_owned())),
        add_on: false,
    }
}

/// A feature of price level 2 that is also sold or gifted on its own.
fn add_on(text: &str, name: &str) -> Feature {
    Feature {
        slug: slug(text),
        name: name.to_owned(),
        kind: FeatureKind::Flag,
        price_level: 2,
        module: None,
        add_on: true,
    }
}

fn module(key: &str, name: &str, price_level: u32) -> Module {
    Module {
        key: ModuleKey(key.to_owned()),
        name: name.to_owned(),
        price_level,
    }
}

/// The first version of a plan: so many cards, and the modules up to its price level.
fn plan(key: &str, price_level: u32, rank: u32, max_cards: FeatureValue) -> PlanTerms {
    let basic = [feature::CARDS_LIFECYCLE].as_slice();
    let advanced = [
        feature::CARDS_BULK,
        feature::CARDS_EXPORT,
        feature::CARDS_LIVE,
        feature::CARDS_STATS,
    ];
    let installed = match price_level {
        2.. => [basic, &advanced].concat(),
        0 | 1 => basic.to_vec(),
    };
    PlanTerms {
        key: PlanKey(key.to_owned()),
        version: 1,
        price_level,
        rank,
        features: installed
            .into_iter()
            .map(|text| (slug(text), FeatureValue::On))
            .chain([(slug(feature::MAX_CARDS), max_cards)])
            .collect(),
    }
}
